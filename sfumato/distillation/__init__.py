"""Distilling an edit: small networks that learn from pairs what a diffusion model does in a hundred calls."""
