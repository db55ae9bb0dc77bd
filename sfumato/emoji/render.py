"""Renders scenes exactly, many at once and on any device, from an atlas of drawings that the package ships."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sfumato.emoji.scenes import MOST_FLAKES, SIZE, TINTS, Background, Concept, Scene, World

SIDE = 96
"""Side of a drawing in the atlas, pixels."""
COLUMNS = 12
HUE_WITHIN = 50.0
"""Hues this near to a drawing's main hue move with it when it is recoloured, degrees."""

ATLAS = Path(__file__).with_name("sprites.png")


class Atlas:
    """The drawings of a world, recoloured ones included.

    Args:
        path: The atlas's PNG file, with a JSON file of its world beside it.

    Attributes:
        world: Its concepts and styles.
    """

    def __init__(self, path: Path = ATLAS) -> None:
        entry = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        concepts = tuple(Concept(**{**one, "other_names": tuple(one["other_names"])}) for one in entry["concepts"])
        self.world = World(concepts, tuple(entry["styles"]))
        with Image.open(path) as opened:
            sheet = np.asarray(opened.convert("RGBA"))
        self._places: dict[tuple[str, str, str | None], int] = {}
        drawings: list[np.ndarray] = []
        for number, (concept, style) in enumerate((c, s) for c in concepts for s in self.world.styles):
            top, left = number // COLUMNS * SIDE, number % COLUMNS * SIDE
            own = sheet[top : top + SIDE, left : left + SIDE]
            for tint in (None, *(TINTS if concept.tint else ())):
                self._places[concept.name, style, tint] = len(drawings)
                drawings.append(own if tint is None else recoloured(own, TINTS[tint]))
        straight = torch.from_numpy(np.stack(drawings)).permute(0, 3, 1, 2)
        alpha = straight[:, 3:].float() / 255
        premultiplied = torch.cat([straight[:, :3].float() / 255 * alpha, alpha], dim=1)
        # two sizes, so that small things are not sampled too coarsely
        self._levels = [premultiplied, F.interpolate(premultiplied, scale_factor=0.5, mode="area")]

    def to(self, device: str | torch.device) -> Atlas:
        """Moves the drawings to a device."""
        self._levels = [level.to(device) for level in self._levels]
        return self

    @property
    def device(self) -> torch.device:
        """Where the drawings are."""
        return self._levels[0].device

    def place(self, concept: str, style: str, tint: str | None) -> int:
        """Where a drawing stands. Raises KeyError where there is none."""
        return self._places[concept, style, tint]

    def sampled(self, places: Tensor, affine: Tensor, small: Tensor, size: int) -> Tensor:
        """Warps drawings: places (n,), affine (n, 2, 3), small (n,) bool to premultiplied RGBA (n, 4, size, size)."""
        grid = F.affine_grid(affine, [len(places), 4, size, size], align_corners=False)
        warped = torch.empty(len(places), 4, size, size, device=self.device)
        for level, chosen in zip(self._levels, (~small, small), strict=True):
            if chosen.any():
                warped[chosen] = F.grid_sample(level[places[chosen]], grid[chosen], align_corners=False)
        return warped


@cache
def shipped_atlas() -> Atlas:
    """The shipped drawings, on the CPU."""
    return Atlas()


def atlas_of(path: Path) -> Atlas:
    """The drawings of a PNG file; those that are shipped are read once, and on the CPU."""
    return shipped_atlas() if path == ATLAS else Atlas(path)


def recoloured(drawing: np.ndarray, hue: float) -> np.ndarray:
    """Moves a drawing's main hue, and hues near to it, to `hue`; lightness and saturation (HLS) stay.

    Args:
        drawing: Straight-alpha RGBA, uint8, (height, width, 4).
        hue: Degrees.
    """
    rgb = drawing[..., :3].astype(np.float64) / 255
    high, low = rgb.max(-1), rgb.min(-1)
    light, chroma = (high + low) / 2, high - low
    safe = np.where(chroma > 0, chroma, 1)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    sector = np.select(
        [high == red, high == green], [((green - blue) / safe) % 6, (blue - red) / safe + 2], (red - green) / safe + 4
    )
    own = sector * 60
    weight = (chroma * (drawing[..., 3] / 255) * (chroma > 0.15)).ravel()
    counts = np.bincount((own.ravel() % 360).astype(int) % 360, weight, minlength=360)
    kernel = np.exp(-0.5 * ((np.arange(360) + 180) % 360 - 180) ** 2 / 15**2)
    main = int(np.argmax(np.real(np.fft.ifft(np.fft.fft(counts) * np.fft.fft(kernel)))))
    away = (own - main + 180) % 360 - 180
    moved = np.where(np.abs(away) < HUE_WITHIN, hue + 0.4 * away, own) % 360
    # back from hue, lightness and chroma
    part = chroma * (1 - np.abs((moved / 60) % 2 - 1))
    zero = np.zeros_like(chroma)
    which = (moved // 60).astype(int) % 6
    channels = [
        np.choose(which, (chroma, part, zero, zero, part, chroma)),
        np.choose(which, (part, chroma, chroma, part, zero, zero)),
        np.choose(which, (zero, zero, part, chroma, chroma, part)),
    ]
    result = drawing.copy()
    result[..., :3] = np.rint(np.clip(np.stack(channels, -1) + (light - chroma / 2)[..., None], 0, 1) * 255)
    return result


def render(scenes: Sequence[Scene], atlas: Atlas, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Renders scenes, anti-aliased.

    Args:
        scenes: What to render.
        atlas: The drawings; its device does the work.
        size: Side in pixels.

    Returns:
        Pixels in [-1, 1], (scenes, 3, size, size); and how much of each pixel each thing covers, in [0, 1],
        (scenes, things, size, size), where `things` is the largest number of things and missing ones are 0.

    Raises:
        KeyError: The atlas lacks a drawing.
    """
    device, most = atlas.device, max(len(scene.things) for scene in scenes)
    canvas = render_backgrounds([scene.background for scene in scenes], size, device)
    masks = torch.zeros(len(scenes), most, size, size, device=device)
    for layer in range(most):
        rows = [row for row, scene in enumerate(scenes) if len(scene.things) > layer]
        things = [(scenes[row].things[layer], scenes[row].style) for row in rows]
        places = torch.tensor([atlas.place(thing.concept, style, thing.tint) for thing, style in things])
        affine = torch.tensor([_affine(thing.x, thing.y, thing.size, thing.angle, thing.mirror) for thing, _ in things])
        small = torch.tensor([thing.size * size < 0.55 * SIDE for thing, _ in things])
        warped = atlas.sampled(places.to(device), affine.to(device), small.to(device), size)
        alpha = warped[:, 3:]
        canvas[rows] = warped[:, :3] + canvas[rows] * (1 - alpha)
        masks[rows] *= 1 - alpha
        masks[rows, layer] = alpha[:, 0]
    return canvas.clamp(0, 1) * 2 - 1, masks


def _affine(x: float, y: float, size: float, angle: float, mirror: bool) -> list[list[float]]:
    """From canvas coordinates in [-1, 1] to those of the drawing."""
    cos, sin, flip = math.cos(math.radians(angle)) / size, math.sin(math.radians(angle)) / size, -1 if mirror else 1
    left, top = 2 * x - 1, 2 * y - 1
    across, down = [cos, sin, -cos * left - sin * top], [-sin, cos, sin * left - cos * top]
    return [[flip * value for value in across], down]


def render_backgrounds(backgrounds: Sequence[Background], size: int, device: torch.device | str = "cpu") -> Tensor:
    """Renders backgrounds: sRGB in [0, 1], (backgrounds, 3, size, size)."""
    base = torch.tensor([b.exact for b in backgrounds], dtype=torch.float32, device=device) / 255
    # the pattern's colour: half way to white, or to gray where the base is bright
    toward = torch.where((base.mean(1, keepdim=True) > 0.8), torch.full_like(base, 0.62), torch.ones_like(base))
    second = torch.lerp(base, toward, 0.5)
    amount = torch.zeros(len(backgrounds), size, size, device=device)
    for pattern, draw in (("stripes", _stripes), ("dots", _dots), ("checks", _checks), ("gradient", _gradient)):
        rows = [row for row, one in enumerate(backgrounds) if one.pattern == pattern]
        if rows:
            amount[rows] = draw(*_axes([backgrounds[row] for row in rows], size, device))
    canvas = torch.lerp(base[..., None, None], second[..., None, None], amount[:, None])
    for row, one in enumerate(backgrounds):
        if one.pattern == "snow" and (flakes := flake_places(one)):
            canvas[row] = torch.lerp(canvas[row], torch.ones_like(canvas[row]), _snow(flakes, size, device))
    return canvas


def _axes(backgrounds: Sequence[Background], size: int, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates along and across each pattern, in periods; and the width of a pixel, in periods."""
    steps = (torch.arange(size, device=device) + 0.5) / size * SIZE - SIZE / 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    values = [
        (math.cos(math.radians(b.angle)), math.sin(math.radians(b.angle)), *b.phase, b.spacing) for b in backgrounds
    ]
    cos, sin, first, second, spacing = torch.tensor(values, device=device).T[..., None, None]
    return (x * cos + y * sin) / spacing + first, (y * cos - x * sin) / spacing + second, SIZE / size / spacing


def _edge(distance: Tensor, pixel: Tensor) -> Tensor:
    """How much of a pixel is inside, by its signed distance to the edge (inside positive), both in periods."""
    return (distance / pixel + 0.5).clamp(0, 1)


def _stripes(along: Tensor, across: Tensor, pixel: Tensor) -> Tensor:
    return _edge(0.25 - ((along % 1) - 0.5).abs(), pixel)


def _dots(along: Tensor, across: Tensor, pixel: Tensor) -> Tensor:
    return _edge(0.27 - torch.hypot((along % 1) - 0.5, (across % 1) - 0.5), pixel)


def _checks(along: Tensor, across: Tensor, pixel: Tensor) -> Tensor:
    one, other = (_edge(0.25 - ((axis / 2 % 1) - 0.5).abs(), pixel / 2) for axis in (along, across))
    return one * other + (1 - one) * (1 - other)


def _gradient(along: Tensor, across: Tensor, pixel: Tensor) -> Tensor:
    reach = along.abs().amax((1, 2), keepdim=True)
    return (along - along.mean((1, 2), keepdim=True)) / reach * 0.5 + 0.5


def flake_places(background: Background) -> list[tuple[float, float, float]]:
    """Centre (x, y) and radius of each snowflake, as shares of the canvas; more of them keep the first ones."""
    generator = random.Random(background.seed)
    side = math.isqrt(MOST_FLAKES)
    cells = [(column, row) for column in range(side) for row in range(side)]
    generator.shuffle(cells)
    flakes = [
        (
            (column + generator.uniform(0.2, 0.8)) / side,
            (row + generator.uniform(0.2, 0.8)) / side,
            generator.uniform(0.017, 0.026),
        )
        for column, row in cells
    ]
    return flakes[: round(background.amount * MOST_FLAKES)]


def _snow(flakes: Sequence[tuple[float, float, float]], size: int, device: torch.device | str) -> Tensor:
    steps = (torch.arange(size, device=device) + 0.5) / size
    x, y, radius = torch.tensor(flakes, device=device).T[..., None, None]
    distance = torch.hypot(steps[None, None, :] - x, steps[None, :, None] - y)
    inside: Tensor = ((radius - distance) * size + 0.5).clamp(0, 1).amax(0)
    return inside
