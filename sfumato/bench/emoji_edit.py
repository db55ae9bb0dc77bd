"""EmojiEdit: edits of scenes of emoji, most with an exact answer, beside drawing the target caption anew.

A caption names the things of a scene, their tints and the background; never their rotation, nor where and how large
exactly they are. An edit must keep what its caption leaves open, and drawing anew cannot know it: a method that does
not beat `drawn-anew` is no use.

200 edits, fixed by a seed. 15 of each of 12 kinds: swap one of two things (near, far) or both, recolour one, style,
background colour, pattern, amount of snow, remove, size, two edits at once, none. And 10 each of adding a thing and of
changing a relation, where places are free, so that no distance to an answer is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch

import sfumato
from sfumato.bench.benchmark import Case, Configuration, Measure, Outcome, Seed, Steps
from sfumato.bench.editing import HIGHEST_PSNR, QUIET, changed_region, edit_configurations, edited, kept_psnr, price
from sfumato.bench.scenes import TEST_SEED, emoji_edits
from sfumato.emoji import WEIGHTS
from sfumato.emoji.render import ATLAS, Atlas, atlas_of, render
from sfumato.emoji.scene_edits import SceneEdit
from sfumato.emoji.scene_judge import Seen, relation_holds
from sfumato.errors import UsageError
from sfumato.images import to_images, to_pixels
from sfumato.metrics.psnr import psnr
from sfumato.options import Option

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from sfumato.models.base import Model

ABOUT = (__doc__ or "").partition("\n\n")[2]
SAME_PLACE = 0.12
"""A thing is where it should be when its centre is this near, as a share of the canvas; the judge's grid has 1/16."""
REFERENCES = ("unedited", "autoencoder", "drawn-anew")
REDRAWN = ("swap-near", "swap-far", "recolour", "background")
"""Kinds that drawing anew is held against."""


@dataclass
class EmojiEdit:
    """The benchmark; see the module.

    Attributes:
        steps: Denoising steps of every edit; None: the model's own choice.
        seed: Of every edit.
        judges: Folder of `judge.safetensors` and `emoji-clip.safetensors`.
        atlas: The drawings.
    """

    steps: Steps = None
    seed: Seed = 0
    judges: Annotated[str, Option("folder of judge.safetensors and emoji-clip.safetensors")] = str(WEIGHTS)
    atlas: Annotated[str, Option("PNG of the drawings, as sfumato.emoji.training.atlas writes it")] = str(ATLAS)
    name: str = field(default="emoji-edit", init=False)
    title: str = field(default="EmojiEdit: edits with an exact answer, beside drawing anew", init=False)
    about: str = field(default=ABOUT, init=False)
    measures: tuple[Measure, ...] = field(init=False)
    notes: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self.measures = MEASURES

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"split": TEST_SEED, "steps": self.steps, "seed": self.seed}

    def cases(self) -> Sequence[Case]:
        return [
            Case(f"{number:03d}-{edit.kind}", edit.kind, edit, f"{edit.source_prompt} → {edit.target_prompt}")
            for number, edit in enumerate(emoji_edits(self._atlas.world))
        ]

    def configurations(self, methods: Sequence[str], inversions: Sequence[str]) -> Sequence[Configuration]:
        return edit_configurations(methods, inversions, REFERENCES)

    def prepare(self, model: Model) -> None:
        _ = self._judge

    @cached_property
    def _atlas(self) -> Atlas:
        if not Path(self.atlas).is_file():
            raise UsageError(f"there are no drawings of scenes at {self.atlas}: name their PNG as atlas")
        return atlas_of(Path(self.atlas))

    @cached_property
    def _judge(self) -> Judge:
        return Judge(Path(self.judges))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_judge", "_atlas")}

    def attempt(self, model: Model, case: Case, configuration: Configuration) -> Outcome:
        edit: SceneEdit = case.data
        pixels, masks = render([edit.source, edit.target], self._atlas)
        source, truth = to_images(pixels)
        costs: dict[str, float | int] = {}
        notes: tuple[str, ...] = ()
        reconstruction = None
        match configuration.method:
            case "unedited":
                result = source
            case "autoencoder":
                with torch.no_grad():
                    result = to_images(model.decode_latents(model.encode_image(to_pixels(truth))))[0]
            case "drawn-anew":
                drawn = sfumato.generate(
                    model, edit.target_prompt, num_inference_steps=self.steps, seed=self.seed, watch=QUIET
                )
                result = drawn.images[0]
            case _:
                done = edited(
                    model, source, edit.source_prompt, edit.target_prompt, configuration,
                    steps=self.steps, seed=self.seed,
                )  # fmt: skip
                result, costs, notes = done.image, price(done), done.notes
                reconstruction = done.reconstruction_psnr
        figures = self._judge.figures(edit, source, truth, result, masks[0])
        return Outcome(
            {**figures, "reconstruction_psnr": reconstruction, **costs},
            {"source": source, "truth": truth, "result": result},
            notes,
        )

    def summarise(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Mapping[str, float | None]:
        return {}


MEASURES = (
    Measure(
        "target_distance", "distance to the truth", "lower",
        "Perceptual distance between result and exact target, by the features of the scenes' dual encoder.", "edit", 3,
    ),
    Measure(
        "inside_distance", "distance inside", "lower",
        "The same where the exact edit changes the image; the target is put in elsewhere.", "edit", 3,
    ),
    Measure("target_psnr", "PSNR to the truth, dB", "higher", "Between result and exact target, at most 50.", "", 1),
    Measure(
        "kept_psnr", "PSNR kept, dB", "higher",
        "Between result and source where the edit changes nothing, at most 50; where a thing is added, on the thing"
        " that was there.",
        "keep", 1,
    ),
    Measure("things_right", "things", "higher", "Share where the judge finds the target's things and no other.", "", 2),
    Measure("tints_right", "tints", "higher", "Share of the target's things that it finds in their tint.", "", 2),
    Measure(
        "places_right", "places", "higher",
        "Share of things that it finds where they should be; of a relation, whether it holds.", "", 2,
    ),
    Measure("style_right", "style", "higher", "Share whose drawing style it confirms.", "", 2),
    Measure("colour_right", "background", "higher", "Share whose background colour it confirms.", "", 2),
    Measure("pattern_right", "pattern", "higher", "Share whose background pattern it confirms.", "", 2),
    Measure("reconstruction_psnr", "reconstruction PSNR, dB", "higher", "The run's source branch against the source."),
    Measure("evaluations", "evaluations", "lower", "Network evaluations, the inversion's included.", "", 0),
    Measure("seconds", "seconds", "lower", "Wall-clock time of one edit in one process; see the settings.", "", 1),
    Measure("memory_gb", "memory, GB", "lower", "Peak memory of the process (of the device on a GPU)."),
)  # fmt: skip


class Judge:
    """The networks that look at a result: the independent judge of scenes, and the perceptual distance.

    Args:
        folder: Of `judge.safetensors` and `emoji-clip.safetensors`.
    """

    def __init__(self, folder: Path) -> None:
        from sfumato.emoji.dual_encoder import load_dual_encoder
        from sfumato.emoji.perceptual import EmojiDistance
        from sfumato.emoji.scene_judge import load_scene_judge
        from sfumato.emoji.scenes import SIZE

        for name in ("judge.safetensors", "emoji-clip.safetensors"):
            if not (folder / name).is_file():
                raise UsageError(f"no {name} in {folder}: name the folder of a model of scenes as judges")
        self.judge = load_scene_judge(folder / "judge.safetensors")
        encoder = load_dual_encoder(folder / "emoji-clip.safetensors").requires_grad_(False)
        self.distance = EmojiDistance(encoder, SIZE)

    @torch.no_grad()
    def figures(
        self, edit: SceneEdit, source: Image.Image, truth: Image.Image, result: Image.Image, masks: Tensor
    ) -> dict[str, float | None]:
        """Everything that is measured on one result.

        Args:
            edit: What was asked for.
            source, truth, result: Images of one size.
            masks: How much of each pixel of the source its things cover, (things, height, width).
        """
        before, exact, after = (np.asarray(image.convert("RGB")) for image in (source, truth, result))
        changed = changed_region(before, exact)
        kept = ~changed if edit.exact else (masks[0] > 0.5).numpy() if edit.kind == "add" else np.zeros_like(changed)
        figures: dict[str, float | None] = {"kept_psnr": kept_psnr(after, before, kept)}
        figures |= dict.fromkeys(("target_distance", "inside_distance", "target_psnr"))
        if edit.exact:
            pixels, wanted = to_pixels(result), to_pixels(truth)
            inside = torch.where(torch.from_numpy(changed), pixels, wanted)
            figures["target_distance"] = float(self.distance(pixels, wanted))
            figures["inside_distance"] = float(self.distance(inside, wanted))
            figures["target_psnr"] = min(psnr(after, exact, data_range=255), HIGHEST_PSNR)
        (seen,) = self.judge.look(to_pixels(result))
        return figures | verdicts(seen, edit)


def verdicts(seen: Seen, edit: SceneEdit) -> dict[str, float | None]:
    """What the judge says of a result, as shares in [0, 1]; None where nothing is asked."""
    target, found = edit.target, [(thing, seen.thing(thing.concept)) for thing in edit.target.things]
    if edit.kind == "relation":
        places: list[bool] = [relation_holds(seen, target)]
    else:
        staying = [pair for pair in found if edit.exact or pair[0] in edit.source.things]
        places = [
            there is not None and max(abs(there.x - thing.x), abs(there.y - thing.y)) <= SAME_PLACE
            for thing, there in staying
        ]
    return {
        "things_right": float(sorted(t.concept for t in seen.things) == sorted(t.concept for t in target.things)),
        "tints_right": share(there is not None and there.tint == thing.tint for thing, there in found),
        "places_right": share(places),
        "style_right": float(seen.style == target.style),
        "colour_right": float(seen.colour == target.background.colour),
        "pattern_right": float(seen.pattern == target.background.pattern),
    }


def share(rights: Any) -> float | None:
    """Share of the true ones, None of none."""
    listed = list(rights)
    return sum(listed) / len(listed) if listed else None


def redraw_ratio(rows: Sequence[Mapping[str, Any]]) -> tuple[str, float]:
    """The best configuration on the kinds of `REDRAWN`, and its distance to the truth over that of drawing anew.

    Args:
        rows: Of a run in which drawing anew and some methods tried all of these cases.

    Raises:
        ValueError: No method, or drawing anew, is among the rows.
    """
    distances: dict[str, list[float]] = {}
    for row in rows:
        if row["status"] == "done" and row["kind"] in REDRAWN:
            distances.setdefault(row["configuration"], []).append(row["figures"]["target_distance"])
    means = {name: sum(values) / len(values) for name, values in distances.items()}
    anew = means.pop("drawn-anew", None)
    edits = {name: mean for name, mean in means.items() if name not in REFERENCES}
    if anew is None or not edits:
        raise ValueError("needs rows of drawn-anew and of a method")
    best = min(edits, key=lambda name: edits[name])
    return best, edits[best] / anew
