"""Pictures and clips in and out, and the range of their values."""
