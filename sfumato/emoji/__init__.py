"""The embedded model `emoji`: a small latent diffusion model in Stable Diffusion's layout, and the world it draws.

Importing this package loads nothing heavy. `WEIGHTS` is a folder that `sfumato.load_model` and diffusers can load.
"""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the shipped model."""

EXAMPLES = Path(__file__).parent / "examples"
"""Folder of the example images; `examples.json` says what each shows."""
