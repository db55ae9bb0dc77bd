"""Judges: networks that score images, and the distances made of them, by name."""
