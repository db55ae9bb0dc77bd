"""How to get back from an image to noise, and what else a replay needs, one inversion a file. `INVERSIONS` finds
them."""
