"""The public verbs: reading images, inverting, masking, decoding and saving, once for all methods."""
