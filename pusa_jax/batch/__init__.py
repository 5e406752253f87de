"""Many videos from one list: read, shared out, made, and written down as they land."""
