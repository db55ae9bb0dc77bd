"""Distances by name: what a morph's frames may be spaced by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sfumato.errors import UsageError
from sfumato.metrics.distance import Distance, PixelDistance
from sfumato.metrics.weights import MissingNetworkError
from sfumato.models.base import Model
from sfumato.registry import unknown

DEFAULT: Final = "lpips-alex"

PIXEL_NOTE: Final = (
    "frames are compared by pixels, as no perceptual distance is installed: to use LPIPS, `pip install --no-deps lpips`"
    " and put torchvision's alexnet-owt-7be5be79.pth into a folder that SFUMATO_WEIGHTS names"
)
"""The note where no distance was named and that of the pixels is used."""


def load_distance(name: str | Distance | None, model: Model) -> Distance:
    """Makes a distance.

    Args:
        name: A key of `DISTANCES`, or a distance itself, which is returned. None: for the embedded emoji model the
            distance of its own world, for others LPIPS (alex) where its weights are on this computer, else that of the
            pixels; tell the user `PIXEL_NOTE` then.
        model: What draws the frames.

    Raises:
        UsageError: An unknown name (with the closest one), something else than a name or a distance, or a distance
            whose weights are not on this computer (with what goes where).
    """
    if name is None:
        if model.distance is not None:
            return DISTANCES[model.distance]()
        try:
            return DISTANCES[DEFAULT]()
        except MissingNetworkError:
            return PixelDistance()
    if not isinstance(name, str):
        if not (isinstance(name, Distance) and callable(name)):
            raise UsageError(f"distance must be a name or a Distance (a callable with a name), got {name!r}")
        return name
    if name not in DISTANCES:
        raise UsageError(unknown("distance", name, DISTANCES))
    try:
        return DISTANCES[name]()
    except MissingNetworkError as error:
        suits = f"distance={model.distance!r} suits {model.name}" if model.distance else "distance='pixel' needs none"
        raise UsageError(f"distance {name!r} needs weights that are missing: {error}; {suits}") from error


def _emoji() -> Distance:
    from sfumato.emoji.perceptual import EmojiDistance

    return EmojiDistance()


def _lpips_alex() -> Distance:
    from sfumato.metrics.lpips import Lpips

    return Lpips("alex")


def _lpips_vgg() -> Distance:
    from sfumato.metrics.lpips import Lpips

    return Lpips("vgg")


def _lpips_squeeze() -> Distance:
    from sfumato.metrics.lpips import Lpips

    return Lpips("squeeze")


def _dists() -> Distance:
    from sfumato.metrics.dists import Dists

    return Dists()


def _efficientnet() -> Distance:
    from sfumato.emoji.perceptual import EfficientNetDistance

    return EfficientNetDistance()


DISTANCES: Final[dict[str, Callable[[], Distance]]] = {
    "emoji": _emoji,
    "lpips-alex": _lpips_alex,
    "lpips-vgg": _lpips_vgg,
    "lpips-squeeze": _lpips_squeeze,
    "dists": _dists,
    "efficientnet": _efficientnet,
    "pixel": PixelDistance,
}
"""Name -> what makes it; networks are read when it is called."""
