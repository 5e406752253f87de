"""Planning: what a program needs of chips that need not be there."""
