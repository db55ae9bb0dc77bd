"""Morphs: one file a method, and the parts that they share (`path`, `slerp`, `lora`, `spacing`)."""
