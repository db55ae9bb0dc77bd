"""Measures of pictures, one file each; they depend on nothing else in the package."""

from sfumato.metrics.psnr import mse, psnr

__all__ = ["mse", "psnr"]
