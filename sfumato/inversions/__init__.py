"""Inversions: from an image to noise, and what else a replay needs, one a file. `INVERSIONS` finds them."""
