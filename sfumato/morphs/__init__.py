"""Morphs: one file a method, which `MORPHS` finds, and the parts that they share (`task`, `path`, `spacings`)."""
