"""Measures of images, one file each; they depend on nothing else in the package."""

from sfumato.metrics.clip_accuracy import clip_accuracy
from sfumato.metrics.density_coverage import DensityCoverage, density_coverage
from sfumato.metrics.distance import Distance, PixelDistance
from sfumato.metrics.dists import Dists
from sfumato.metrics.features import clean_resize, features_of
from sfumato.metrics.frechet import frechet_distance, frechet_distance_of_moments
from sfumato.metrics.kernel import KernelDistance, kernel_distance
from sfumato.metrics.lpips import Lpips, lpips_from_features
from sfumato.metrics.masked import background_distance, background_mse, background_psnr, background_ssim
from sfumato.metrics.morph import (
    Directness,
    EndpointFidelity,
    PathLength,
    PathMeasures,
    Smoothness,
    consecutive_distances,
    diffmorpher_measures,
    directness,
    endpoint_fidelity,
    lora_rank,
    perceptual_path_length,
    relative_perceptual_path_diversity,
    smoothness,
)
from sfumato.metrics.psnr import mse, psnr
from sfumato.metrics.ssim import ssim
from sfumato.metrics.structure import structure_distance
from sfumato.metrics.text_agreement import clip_score, directional_agreement, text_agreement
from sfumato.metrics.weights import MissingNetworkError

__all__ = [
    "DensityCoverage",
    "Directness",
    "Distance",
    "Dists",
    "EndpointFidelity",
    "KernelDistance",
    "Lpips",
    "MissingNetworkError",
    "PathLength",
    "PathMeasures",
    "PixelDistance",
    "Smoothness",
    "background_distance",
    "background_mse",
    "background_psnr",
    "background_ssim",
    "clean_resize",
    "clip_accuracy",
    "clip_score",
    "consecutive_distances",
    "density_coverage",
    "diffmorpher_measures",
    "directional_agreement",
    "directness",
    "endpoint_fidelity",
    "features_of",
    "frechet_distance",
    "frechet_distance_of_moments",
    "kernel_distance",
    "lora_rank",
    "lpips_from_features",
    "mse",
    "perceptual_path_length",
    "psnr",
    "relative_perceptual_path_diversity",
    "smoothness",
    "ssim",
    "structure_distance",
    "text_agreement",
]
