"""Rows of a long run on disk, whatever is run."""
