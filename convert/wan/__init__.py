"""Names and layouts of Wan's published networks."""
