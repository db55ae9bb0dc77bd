"""DISTS: compares structure and texture separately, so that another patch of the same texture is no difference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.metrics.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, load_backbone, vgg16
from sfumato.metrics.distance import paired
from sfumato.metrics.lpips import OTHERWISE
from sfumato.metrics.values import checked_finite
from sfumato.metrics.weights import find_weights, read_weights

CHANNELS = (3, 64, 128, 256, 512, 512)
STABILITY = 1e-6


class L2Pool(nn.Module):
    """Halves the resolution without aliasing: the root of the squares' mean under a Hann window of 3 x 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])  # Hann window of five without its two zeros, summing to one
        window = torch.outer(line, line).expand(channels, 1, 3, 3).clone()
        self.register_buffer("window", window, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, channels, height, width) to half the height and width, rounded up."""
        window: Tensor = self.get_buffer("window")
        squares = F.conv2d(inputs.square(), window, stride=2, padding=1, groups=len(window))
        return (squares + 1e-12).sqrt()


class Dists:
    r"""Deep image structure and texture similarity; a `Distance`.

    .. math:: d(a, b) = 1 - \sum_{l, c} \alpha_{lc} \frac{2 \mu_a \mu_b + \varepsilon}{\mu_a^2 + \mu_b^2 + \varepsilon}
              + \beta_{lc} \frac{2 \sigma_{ab} + \varepsilon}{\sigma_a^2 + \sigma_b^2 + \varepsilon}

    over the channels of the image itself and of five stages of VGG16 (max pooling replaced by L2 pooling), with means
    and (population) covariances over all positions; the weights sum to 1. Range [0, 2], in practice [0, 1]; 0 for equal
    images; lower is closer. Differentiable in the pixels. No resizing: the authors fit the short side to 256 pixels.

    Needs VGG16's ImageNet weights from torchvision (`vgg16-397923af.pth`) and the trained weights alpha and beta:
    `dists_weights.pt`, which is `weights.pt` of the authors' release, renamed.

    Reference: Ding et al., 2020, https://arxiv.org/abs/2004.07728, Eq. 6 to 11.

    Raises:
        MissingNetworkError: A file is missing; the message says which goes where.
        ValueError: A file is damaged.
    """

    name = "dists"

    def __init__(self) -> None:
        self.alpha, self.beta = load_dists_weights()
        self.network = load_backbone("vgg", dists_backbone, otherwise=OTHERWISE)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """See `Distance`; images of 16 pixels a side at least."""
        first, second = paired(first, second)
        self.network.to(first.device)
        seen = [dists_features(self.network, pixels.float()) for pixels in (first, second)]
        return dists_from_features(seen[0], seen[1], self.alpha.to(first.device), self.beta.to(first.device))


def dists_backbone() -> Backbone:
    """VGG16 with L2 pooling, with random weights."""
    return vgg16(pool=L2Pool)


def dists_features(network: Backbone, pixels: Tensor) -> list[Tensor]:
    """The image in [0, 1] and the five stages' activations, from pixels in [-1, 1]."""
    values = pixels / 2 + 0.5
    mean, std = (values.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    return [values, *network((values - mean) / std)]


def dists_from_features(first: list[Tensor], second: list[Tensor], alpha: Tensor, beta: Tensor) -> Tensor:
    """The arithmetic of DISTS on features that are given.

    Args:
        first, second: (batch, channels, height, width) for each layer, the image itself first.
        alpha, beta: Weights of texture and of structure, (all channels,), at least 0; scaled here to sum to 1.

    Returns:
        (batch,).

    Raises:
        ValueError: The weights do not fit the channels, or a value is not finite.
    """
    count = sum(layer.shape[1] for layer in first)
    if alpha.shape != (count,) or beta.shape != (count,):
        raise ValueError(f"{count} channels need as many weights, got {tuple(alpha.shape)} and {tuple(beta.shape)}")
    texture, structure = [], []
    for one, other in zip(first, second, strict=True):
        mean_a, mean_b = one.mean(dim=(2, 3)), other.mean(dim=(2, 3))  # (batch, channels)
        centred_a, centred_b = one - mean_a[..., None, None], other - mean_b[..., None, None]
        variance_a, variance_b = centred_a.square().mean(dim=(2, 3)), centred_b.square().mean(dim=(2, 3))
        covariance = (centred_a * centred_b).mean(dim=(2, 3))
        texture.append((2 * mean_a * mean_b + STABILITY) / (mean_a.square() + mean_b.square() + STABILITY))
        structure.append((2 * covariance + STABILITY) / (variance_a + variance_b + STABILITY))
    total = alpha.sum() + beta.sum()
    similarity = torch.cat(texture, dim=1) @ alpha + torch.cat(structure, dim=1) @ beta
    apart = checked_finite(1 - similarity / total, "features")
    return apart.clamp(min=0)  # rounding may leave -1e-7 for equal images


def load_dists_weights() -> tuple[Tensor, Tensor]:
    """Reads alpha and beta, (1475,) each.

    Raises:
        MissingNetworkError: The file is not there.
        ValueError: It holds something else.
    """
    path = find_weights(
        ("dists_weights.pt", "dists_weights.safetensors"),
        "DISTS (alpha and beta: weights.pt of the authors' release)",
        otherwise=OTHERWISE,
    )
    state = read_weights(path)
    if not {"alpha", "beta"} <= set(state) or any(state[key].numel() != sum(CHANNELS) for key in ("alpha", "beta")):
        raise ValueError(f"{path} holds no weights of DISTS: alpha and beta of {sum(CHANNELS)} entries")
    return state["alpha"].flatten().float(), state["beta"].flatten().float()
