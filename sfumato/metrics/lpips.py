"""LPIPS: how different two images look, by the features of an image classifier's layers.

Zhang et al., 2018, "The unreasonable effectiveness of deep features as a perceptual metric",
https://arxiv.org/abs/1801.03924; version 0.1 of the authors' weights. The backbone is ours, with torchvision's weights;
the arithmetic is that of the authors' `lpips` package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from sfumato.metrics.backbones import load_backbone
from sfumato.metrics.distance import paired
from sfumato.metrics.values import checked_finite
from sfumato.metrics.weights import find_weights, package_folder, read_weights

Net = Literal["alex", "vgg", "squeeze"]

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""ImageNet's mean and standard deviation for pixels in [-1, 1], rounded as the heads were trained with."""

OTHERWISE = "or use a distance that needs no such file: sfumato.emoji.perceptual.EmojiDistance, or PixelDistance"


class Lpips:
    r"""Learned perceptual image patch similarity; a `Distance`.

    .. math:: d(a, b) = \sum_l \frac{1}{H_l W_l} \sum_{h, w} \sum_c w_{lc}\,(\hat a_{lchw} - \hat b_{lchw})^2

    with the activations of layer l at unit length along the channels. Range [0, inf), in practice below about 1; 0 for
    equal images; lower is closer. Differentiable in the pixels.

    Needs the backbone's ImageNet weights from torchvision and the trained heads w: those of the `lpips` package where
    it is installed, else `lpips_alex.pth` (`weights/v0.1/alex.pth` of that package, renamed) in a folder of weights.

    Papers differ in the backbone: alex is the package's default and that of IMPUS and DiffMorpher, squeeze that of
    PIE-Bench's published tables.

    Args:
        net: The backbone.

    Raises:
        MissingNetworkError: A file is missing; the message says which goes where.
        ValueError: An unknown backbone, or a damaged file.
    """

    def __init__(self, net: Net = "alex") -> None:
        if net not in get_args(Net):
            raise ValueError(f"net must be one of {', '.join(get_args(Net))}, got {net!r}")
        self.name = f"lpips-{net}"
        self.heads = load_heads(net)
        self.network = load_backbone(net, otherwise=OTHERWISE)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """See `Distance`; alex needs images of 31 pixels a side, squeeze 17, vgg 16."""
        first, second = paired(first, second)
        self.network.to(first.device)
        heads = [head.to(first.device) for head in self.heads]
        seen = [self.network(normalised(pixels.float())) for pixels in (first, second)]
        return lpips_from_features(seen[0], seen[1], heads)


def lpips_from_features(first: Sequence[Tensor], second: Sequence[Tensor], heads: Sequence[Tensor]) -> Tensor:
    """The arithmetic of LPIPS on activations that are given.

    Args:
        first, second: Activations, (batch, channels, height, width) for each layer, the layers in order.
        heads: The weight of each channel, (channels,), at least 0, for each layer.

    Returns:
        (batch,), the sum over the layers.

    Raises:
        ValueError: The numbers of layers differ, shapes do not fit, or a value is not finite.
    """
    if not len(first) == len(second) == len(heads) > 0:
        raise ValueError(
            f"each layer needs two activations and a head, got {len(first)}, {len(second)}, {len(heads)} of them"
        )
    total = torch.zeros(first[0].shape[0], dtype=first[0].dtype, device=first[0].device)
    for one, other, head in zip(first, second, heads, strict=True):
        if one.shape != other.shape or one.ndim != 4 or head.shape != (one.shape[1],):
            shapes = tuple(one.shape), tuple(other.shape), tuple(head.shape)
            raise ValueError(f"activations must be (batch, channels, height, width), heads (channels,), got {shapes}")
        difference = (unit_length(one) - unit_length(other)).square()  # (batch, channels, height, width)
        total = total + torch.einsum("bchw,c->bhw", difference, head.to(one)).mean(dim=(1, 2))
    return checked_finite(total, "activations")


def unit_length(activations: Tensor) -> Tensor:
    """Scales the channels at each position to unit length; a position without activation stays zero."""
    length: Tensor = torch.linalg.vector_norm(activations, dim=1, keepdim=True)
    return activations / (length + 1e-10)


def normalised(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] to the backbone's input, (batch, 3, height, width)."""
    shift, scale = pixels.new_tensor(SHIFT).view(1, 3, 1, 1), pixels.new_tensor(SCALE).view(1, 3, 1, 1)
    return (pixels - shift) / scale


def load_heads(net: Net) -> list[Tensor]:
    """Reads the trained weight of each channel, (channels,) a layer.

    Raises:
        MissingNetworkError: Neither the `lpips` package nor a file of weights is there.
        ValueError: The file holds something else.
    """
    package = package_folder("lpips")
    beside = package / "weights" / "v0.1" / f"{net}.pth" if package is not None else None
    if beside is None or not beside.is_file():
        beside = find_weights(
            (f"lpips_{net}.pth", f"lpips_{net}.safetensors"),
            f"LPIPS's heads for {net}",
            otherwise=f"`pip install --no-deps lpips` has them too; {OTHERWISE}",
        )
    state = read_weights(beside)
    layers = 7 if net == "squeeze" else 5
    try:
        return [state[f"lin{layer}.model.1.weight"].flatten().float() for layer in range(layers)]
    except KeyError as error:
        raise ValueError(f"{beside} holds no LPIPS heads: {error.args[0]} is missing") from error
