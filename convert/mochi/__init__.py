"""Published files of Mochi-1 and Pusa V0.5: names, tables, settings."""
