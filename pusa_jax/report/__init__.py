"""What videos look like beside each other: pictures, numbers and settings, told from the files."""
