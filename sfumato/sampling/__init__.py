"""Stepping rules, and the one loop that every method runs through."""
