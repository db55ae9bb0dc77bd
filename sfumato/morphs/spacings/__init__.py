"""Where the frames of a morph are taken along its path, one spacing a file. `SPACINGS` finds them."""
