"""Editing methods, one recipe a file. `METHODS` finds them."""
