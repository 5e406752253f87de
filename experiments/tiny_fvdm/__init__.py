"""A tiny FVDM with classes, trained from nothing in minutes."""
