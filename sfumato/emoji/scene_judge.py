"""The independent judge of scenes: which things stand where, in which tint, style and on which background.

A residual network of its own that knows nothing of the generator. It names every cell of a 16x16 grid together with the
cells around it; a thing is found where enough cells agree.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.emoji.scenes import COLOURS, PATTERNS, TINTS, Concept, Scene, World
from sfumato.emoji.trunk import ResidualBlock

CELLS = 16
LEAST_CELLS = 2.5
"""A thing is there when this much of the grid is named after it; the smallest drawings cover about five cells."""
AROUND = 7
"""Side of the square of cells whose evidence names the cell in its middle, about that of a drawing. A cell alone often
cannot tell a red apple from a red heart: the whole drawing can."""
LEAST_SHARE = 1e-4
"""A cell's doubt of any concept; bounds how much one cell can say."""
CLEARLY = 0.1
"""Share of the canvas by which a relation must hold."""


@dataclass(frozen=True)
class SeenThing:
    """A thing that the judge finds.

    Attributes:
        concept: Its name.
        tint: A key of `TINTS`, or None for its own colours.
        x, y: Centre of what is named after it, as a share of the canvas.
        area: Share of the canvas that is named after it.
    """

    concept: str
    tint: str | None
    x: float
    y: float
    area: float


@dataclass(frozen=True)
class Seen:
    """What the judge says of an image.

    Attributes:
        things: The largest first.
        style: Of the world's styles.
        colour: A key of `COLOURS`.
        pattern: A key of `PATTERNS`.
        amount: Share of the most snowflakes, about in [0, 1].
    """

    things: tuple[SeenThing, ...]
    style: str
    colour: str
    pattern: str
    amount: float

    def thing(self, concept: str) -> SeenThing | None:
        """The thing of a concept, None where it was not found."""
        return next((thing for thing in self.things if thing.concept == concept), None)


class SceneJudge(nn.Module):
    """See the module.

    Args:
        world: What it can name.
        widths: Channels of the trunk's levels; the last two work at 16x16.
    """

    def __init__(self, world: World, widths: Sequence[int] = (24, 48, 96, 128)) -> None:
        super().__init__()
        self.world, self.names = world, [concept.name for concept in world.concepts]
        self.widths = tuple(widths)
        first, second, third, last = widths
        self.trunk = nn.Sequential(
            nn.Conv2d(3, first, 5, 2, 2),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            ResidualBlock(first, second, 2),
            ResidualBlock(second, third, 2),
            ResidualBlock(third, last, 1),
            ResidualBlock(last, last, 1),
        )
        self.cells = nn.Conv2d(last, len(self.names) + 1, 1)  # the last: no thing
        self.tints = nn.Conv2d(last, len(TINTS) + 1, 1)  # the last: own colours
        self.whole = nn.Linear(2 * last, len(world.styles) + len(COLOURS) + len(PATTERNS) + 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Judges pixels in [-1, 1], (batch, 3, 128, 128).

        Returns:
            Logits of concepts (batch, concepts + 1, 16, 16) and of tints (batch, 7, 16, 16); of style, colour and
            pattern (batch, classes); the amount of snow (batch,).
        """
        features = self.trunk(pixels)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        sizes = [len(self.world.styles), len(COLOURS), len(PATTERNS), 1]
        style, colour, pattern, amount = self.whole(pooled).split(sizes, dim=1)
        return self.cells(features), self.tints(features), style, colour, pattern, amount[:, 0]

    @torch.no_grad()
    def look(self, pixels: Tensor) -> list[Seen]:
        """Says what images show; pixels as in `forward`, any batch."""
        seen = []
        for batch in pixels.split(32):
            cells, tints, style, colour, pattern, amount = self(batch.to(self.whole.weight.device))
            share = named_together(cells.float()).flatten(2).cpu()
            tint = tints.float().log_softmax(1).flatten(2).cpu()
            seen += [
                Seen(
                    self._things(share[row], tint[row]),
                    self.world.styles[int(style[row].argmax())],
                    list(COLOURS)[int(colour[row].argmax())],
                    list(PATTERNS)[int(pattern[row].argmax())],
                    float(amount[row]),
                )
                for row in range(len(batch))
            ]
        return seen

    def _things(self, share: Tensor, tint: Tensor) -> tuple[SeenThing, ...]:
        places = (torch.arange(CELLS) + 0.5) / CELLS
        found, mass = [], share.sum(1)
        for index in mass.argsort(descending=True).tolist():
            if mass[index] < LEAST_CELLS:
                break
            weight = share[index] / mass[index]
            grid = weight.view(CELLS, CELLS)
            colour = int((tint @ weight).argmax())
            found.append(
                SeenThing(
                    self.names[index],
                    [*TINTS, None][colour],
                    float(grid.sum(0) @ places),
                    float(grid.sum(1) @ places),
                    float(mass[index]) / CELLS**2,
                )
            )
        return tuple(found)


def named_together(cells: Tensor) -> Tensor:
    """Shares of the concepts in each cell, by the evidence of all cells around it in which a thing is.

    Args:
        cells: Logits (batch, concepts + 1, 16, 16), the last of no thing.

    Returns:
        (batch, concepts, 16, 16); over the concepts they sum to the share of a thing in the cell.
    """
    share = cells.softmax(1)
    concepts, there = share[:, :-1], 1 - share[:, -1:]
    evidence = (concepts / concepts.sum(1, keepdim=True).clamp(min=1e-12) + LEAST_SHARE).log() * there
    around = F.avg_pool2d(evidence, AROUND, 1, AROUND // 2) * AROUND**2
    return around.softmax(1) * there


def relation_holds(seen: Seen, scene: Scene) -> bool:
    """Whether the two things of a scene are seen in its relation, their centres at least `CLEARLY` apart.

    A thing that is not found is wrong, and so is a scene without a clear relation.
    """
    one, other = (seen.thing(thing.concept) for thing in scene.things)
    if one is None or other is None:
        return False
    across, down = one.x - other.x, one.y - other.y
    beyond = {"left of": -across, "right of": across, "above": -down, "below": down}
    return beyond.get(scene.relation, 0.0) > CLEARLY


def judge_metadata(world: World) -> dict[str, str]:
    """What a judge's file says of itself."""
    concepts = [{**vars(concept), "other_names": list(concept.other_names)} for concept in world.concepts]
    return {"styles": json.dumps(list(world.styles)), "concepts": json.dumps(concepts)}


def load_scene_judge(path: Path) -> SceneJudge:
    """Reads a judge, in float32 and evaluation mode."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    concepts = [
        Concept(**{**one, "other_names": tuple(one["other_names"])}) for one in json.loads(metadata["concepts"])
    ]
    with torch.random.fork_rng(devices=[]):  # its weights are drawn before they are read
        judge = SceneJudge(World(tuple(concepts), tuple(json.loads(metadata["styles"]))))
    state = load_file(path)
    judge.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
    return judge.eval()
