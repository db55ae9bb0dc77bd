"""What pushes a run beside classifier-free guidance."""
