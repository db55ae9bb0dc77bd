"""Spacings: how the weights of a morph's frames are chosen, one spacing a file. `SPACINGS` finds them."""
