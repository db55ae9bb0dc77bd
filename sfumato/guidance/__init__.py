"""Guidance beside classifier-free guidance: energies, attention maps, Langevin steps."""
