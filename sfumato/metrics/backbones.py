"""The convolutional parts of AlexNet, VGG16 and SqueezeNet 1.1, with torchvision's names of weights.

torchvision's weight files load unchanged; torchvision itself is not needed. Each network gives the activations that
LPIPS compares.

References: Krizhevsky, 2014, https://arxiv.org/abs/1404.5997; Simonyan and Zisserman, 2014,
https://arxiv.org/abs/1409.1556; Iandola et al., 2016, https://arxiv.org/abs/1602.07360.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from sfumato.metrics.weights import find_weights, load_into, read_weights

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's colours, of values in [0, 1]."""


class Backbone(nn.Module):
    """A stack of layers that gives the outputs of some of them.

    Args:
        layers: In order; named `features.0`, `features.1`, ... in a weight file.
        taps: Indices of the layers whose outputs are given.
        channels: Channels of each of these outputs.
        min_side: Smallest height and width, in pixels, that reach the last tap.
    """

    def __init__(self, layers: list[nn.Module], taps: tuple[int, ...], channels: tuple[int, ...], min_side: int):
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.taps, self.channels, self.min_side = taps, channels, min_side

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Normalised images (batch, 3, height, width) to one (batch, channels, height, width) a tap."""
        if min(inputs.shape[-2:]) < self.min_side:
            height, width = inputs.shape[-2:]
            raise ValueError(f"images must be {self.min_side} pixels a side at least, got {height} x {width}")
        outputs = []
        for index, layer in enumerate(self.features):
            inputs = layer(inputs)
            if index in self.taps:
                outputs.append(inputs)
        return outputs


class Fire(nn.Module):
    """SqueezeNet's module: 1x1 down to few channels, then 1x1 and 3x3 side by side."""

    def __init__(self, inner: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inner, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, inner, height, width) to (batch, 2 expanded, height, width)."""
        squeezed = self.squeeze(inputs).relu()
        return torch.cat([self.expand1x1(squeezed).relu(), self.expand3x3(squeezed).relu()], dim=1)


def alexnet() -> Backbone:
    """AlexNet's convolutions, with random weights; the five activations."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for inner, outer in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU()]
    return Backbone(layers, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), 31)


def vgg16(pool: Callable[[int], nn.Module] = lambda channels: nn.MaxPool2d(2, 2)) -> Backbone:
    """VGG16's convolutions, with random weights; the last activation of each of the five stages.

    Args:
        pool: Gives the layer that halves the resolution, from the number of channels.
    """
    layers: list[nn.Module] = []
    taps, inner = [], 3
    for stage, (outer, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        if stage:
            layers.append(pool(inner))
        for _ in range(depth):
            layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU()]
            inner = outer
        taps.append(len(layers) - 1)
    return Backbone(layers, tuple(taps), (64, 128, 256, 512, 512), 16)


def squeezenet() -> Backbone:
    """SqueezeNet 1.1's modules, with random weights; the seven outputs that LPIPS reads."""

    def halve() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), halve(), Fire(64, 16, 64), Fire(128, 16, 64)]
    layers += [halve(), Fire(128, 32, 128), Fire(256, 32, 128), halve()]
    layers += [Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
    return Backbone(layers, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512), 17)


NETWORKS: Final[dict[str, tuple[str, Callable[[], Backbone], tuple[str, ...]]]] = {
    "alex": ("AlexNet", alexnet, ("alexnet-owt-7be5be79.pth", "alexnet.safetensors")),
    "vgg": ("VGG16", vgg16, ("vgg16-397923af.pth", "vgg16.safetensors")),
    "squeeze": ("SqueezeNet 1.1", squeezenet, ("squeezenet1_1-b8a52dc0.pth", "squeezenet1_1.safetensors")),
}
"""Short name -> (name in words, its constructor, torchvision's weight file and the same weights as safetensors)."""


def load_backbone(net: str, build: Callable[[], Backbone] | None = None, *, otherwise: str = "") -> Backbone:
    """Builds a network and fills it with torchvision's ImageNet weights, from this computer.

    Args:
        net: A key of `NETWORKS`.
        build: Another constructor of the same layers.
        otherwise: What to use instead where the weights are missing, for the message.

    Returns:
        The network, frozen, in evaluation mode, on the CPU.

    Raises:
        MissingNetworkError: The weights are not there.
        ValueError: The file holds something else.
    """
    words, constructor, names = NETWORKS[net]
    path = find_weights(names, f"{words} (torchvision's, trained on ImageNet)", otherwise=otherwise)
    with torch.random.fork_rng(devices=[]):  # its weights are drawn before they are read
        network = (build or constructor)()
    load_into(network, read_weights(path), path)
    return network
