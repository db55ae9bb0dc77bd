"""Measures of pictures, one file each; they depend on nothing else in the package."""

from sfumato.metrics.psnr import mse, psnr
from sfumato.metrics.ssim import ssim
from sfumato.metrics.text_agreement import directional_agreement, text_agreement

__all__ = ["directional_agreement", "mse", "psnr", "ssim", "text_agreement"]
