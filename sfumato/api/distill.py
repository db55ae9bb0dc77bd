"""The public verb `distill`: teaches a small network an edit that a diffusion model makes in a hundred calls."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from sfumato import checks
from sfumato.adaptation.store import Store
from sfumato.api.arguments import ARGUMENTS, boundary, check_model
from sfumato.api.batch_inputs import Inputs, read_inputs
from sfumato.api.distill_pairs import Made, draw_sources, make_pairs, write_verdicts
from sfumato.checks import optional
from sfumato.distillation.distilled import Card, Distilled, domain_of, rounded
from sfumato.distillation.one_step import BATCH, ONE_STEP, RATE, OneStepArch, OneStepStudent
from sfumato.distillation.pairs import Pairs, check_count, check_enough
from sfumato.distillation.selection import Limits, Verdict, judged
from sfumato.distillation.settling import settled
from sfumato.distillation.student import Arch, Student, fresh
from sfumato.distillation.templates import check_alternatives, has_alternatives
from sfumato.distillation.timing import milliseconds
from sfumato.distillation.training import Plan, Standing, Trained, train
from sfumato.edits.default_method import default_method
from sfumato.edits.method import METHODS
from sfumato.errors import UsageError
from sfumato.files import at_home
from sfumato.images import Fit, to_images
from sfumato.judges.distances import load_distance
from sfumato.judges.encoders import EMOJI_CLIP, DualEncoder, dual_encoder
from sfumato.metrics.distance import Distance, PixelDistance
from sfumato.metrics.psnr import psnr
from sfumato.models.base import Model
from sfumato.watch import Watch, progress_bar

StudentKind = Literal["small", "one-step"]

KEEP_EMOJI, AGREEMENT_CLIP = 0.85, 0.2
"""Where nothing is said: share kept by agreement under emoji-clip, whose scale has no known bound; bound under CLIP."""
TRAINING = "training"
"""Key of the checkpoint in the folder."""
SHOWN = 8
"""Held-out pairs in a result."""

_share = partial(checks.number, above=0.0, high=1.0)
_CHECKS: Mapping[str, checks.Check] = {
    **{name: ARGUMENTS[name] for name in ("watch", "inversion", "inversion_options", "num_inference_steps")},
    "method": optional(ARGUMENTS["method"]),
    **{name: ARGUMENTS[name] for name in ("guidance_scale", "negative_prompt", "seed", "size", "fit", "distance")},
    "source_prompt": optional(ARGUMENTS["source_prompt"]),
    "target_prompt": optional(partial(checks.text, empty="say what the result should show, such as 'a dog'")),
    "draw": partial(checks.whole, low=1, high=100_000),
    "keep": optional(_share),
    "agreement": optional(partial(checks.number, low=-1.0, high=1.0)),
    "least_change": _share,
    "least_psnr": partial(checks.number, low=0.0, high=100.0),
    "unchanged": partial(checks.number, low=0.0, high=2.0),
    "encoder": optional(partial(checks.text, most=500)),
    "minutes": optional(partial(checks.number, above=0.0, high=100_000.0)),
    "training_steps": optional(partial(checks.whole, low=1, high=10_000_000)),
    "student": partial(checks.choice, allowed=("small", ONE_STEP)),
    "width": partial(checks.whole, low=8, high=256),
    "rank": partial(checks.whole, low=1, high=256),
    **dict.fromkeys(("features", "adversarial"), partial(checks.number, low=0.0, high=100.0)),
    "mirror": checks.flag,
    "hue": partial(checks.number, low=0.0, high=180.0),
    "workers": partial(checks.whole, low=1, high=1_000),
}


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A pair that the student was not trained on.

    Attributes:
        source, teacher, student: Images.
        gate: What the student copies, white, and what it draws, black; of one without a gate, what it changed.
    """

    source: Image.Image
    teacher: Image.Image
    student: Image.Image
    gate: Image.Image


@dataclass(frozen=True, eq=False)
class DistillResult:
    """What a distillation gave.

    Attributes:
        distilled: The student, ready to be applied and saved.
        verdicts: Of each pair, in the order of their names.
        trained: How training ended.
        held_out: Some pairs that it was not trained on.
        notes: What the user should know.
    """

    distilled: Distilled
    verdicts: tuple[Verdict, ...]
    trained: Trained
    held_out: tuple[HeldOut, ...]
    notes: tuple[str, ...] = ()


@boundary
def distill(
    model: Model,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    *,
    source_prompt: str | None = None,
    target_prompt: str | None = None,
    draw: int = 400,
    method: str | None = None,
    inversion: str | None = None,
    inversion_options: Mapping[str, Any] | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str = "",
    seed: int = 0,
    size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    keep: float | None = None,
    agreement: float | None = None,
    least_change: float = 0.02,
    least_psnr: float = 20.0,
    unchanged: float = 0.25,
    encoder: str | None = None,
    distance: str | Distance | None = None,
    minutes: float | None = 10.0,
    training_steps: int | None = None,
    student: StudentKind = "small",
    width: int = 32,
    rank: int = 8,
    features: float = 0.5,
    adversarial: float = 0.02,
    mirror: bool = True,
    hue: float = 0.0,
    folder: str | os.PathLike[str] | None = None,
    loading: Mapping[str, Any] | None = None,
    workers: int = 1,
    watch: Watch | None = None,
    tell: Callable[[Standing], None] | None = None,
    **options: Any,
) -> DistillResult:
    """Makes pairs with an edit, and trains a small network to make the edit in one pass.

    Run again with the same folder and arguments, it goes on where it was stopped or killed, and comes to the same.

    Args:
        model: The teacher, from `load_model`.
        images: A folder, images, or a manifest with the columns `image`, `source_prompt`, `target_prompt`, as
            `sfumato batch` takes them; None: the model draws images of the source prompt itself.
        source_prompt, target_prompt: Of images that have none of their own. Where the model draws the images, both may
            have alternatives, such as "a cat on a {red|blue} background", of which each run of 8 images gets one.
        draw: Images to draw where none are given.
        method, inversion, inversion_options, num_inference_steps, guidance_scale, negative_prompt: As of
            `sfumato.edit`; method None: the one that suits the model.
        seed, size, fit, options: Likewise. All images are edited with one seed: a student blurs what it cannot foresee.
        keep: Share of the pairs kept, the worst by agreement left out, in (0, 1]; None: 0.85 under emoji-clip, else 1.
        agreement: Least cosine of the changes of image and text, in [-1, 1]; None: 0.2 under CLIP, else no bound.
        least_change: Least root mean squared change of a pair, as share of the pixels' range.
        least_psnr: Of the source's reconstruction by the teacher, dB.
        unchanged: Largest difference from the autoencoder's reconstruction that is no change, in the mean of 5x5 pixels
            in [-1, 1]: there, a pair has the source's own pixels. 0: pairs stay as the teacher made them.
        encoder: Dual encoder that looks at agreement, as energies take it; None: the model's own, or none.
        distance: Perceptual distance whose features the student is trained by; None: the model's own, or LPIPS.
        minutes: Time for training; the steps that fit into it are found before the first one.
        training_steps: Steps of training, in place of the minutes.
        student: "small": a network of its own, for small images. "one-step": adapters on the model itself, which must
            be one for a few steps, such as SD-Turbo; for photographs.
        width: Channels of a small student's first level, a multiple of 8.
        rank: Of the adapters of a one-step student.
        features: Weight of the perceptual distance in training; 0: none.
        adversarial: Weight of the critic; 0: none.
        mirror: Whether the edit stays right when left and right change places.
        hue: Degrees up to which the hues of both sides of a pair are turned alike in training, in [0, 180]; 0: not.
        folder: Where pairs and checkpoints are kept; None: a temporary one.
        loading: What the model was loaded with, by the names of `load_model`; needed by several workers.
        workers: Processes that make pairs; 1: this one.
        watch: Progress and cancellation; None: a progress bar when stderr is a terminal.
        tell: Called after each step of training.

    Raises:
        UsageError: An argument is out of range, or prompts are the same; fewer than 32 pairs are left, or the teacher
            changed nothing; images have several sizes; the minutes are too few.
        ImageError: An image cannot be read.
        SamplingError: The losses broke down.
        Cancelled: The watch asked to stop.
    """
    given, start = {name: value for name, value in locals().items() if name in _CHECKS}, time.perf_counter()
    check_model("model", model, negative_prompt)
    a = {name: _CHECKS[name](name, value) for name, value in given.items()}
    a["method"] = a["method"] or default_method(model)
    entry = METHODS[a["method"]]
    checked = entry.check_options(options)
    _pupil(model, a, "")  # raises
    if workers > 1 and loading is None:
        raise UsageError("several workers load the model themselves: give loading, the arguments of load_model")
    limits, looking, more = _looking(model, a)
    if images is None:
        check_enough(a["draw"], limits.keep)
    perceptual, noted = _perceptual(model, a["distance"])
    with progress_bar(watch=a["watch"]) as watching, _folder(folder) as place:
        inputs = _inputs(model, images, a, place, watching)
        defaults = {name: a[name] for name in _DEFAULTS if a[name] not in (None, "")}
        defaults |= {"options": checked} if checked else {}
        made = make_pairs(
            model, inputs, defaults, place, keep=limits.keep, loading=loading, workers=workers, watch=watching
        )
        made = replace(made, pairs=settled(made.pairs, model, a["unchanged"], watching))
        verdicts = judged(made.pairs, made.prompts, made.psnrs, limits, looking)
        write_verdicts(made, verdicts, place)
        kept = made.pairs.some([row for row, one in enumerate(verdicts) if not one.reason])
        check_count(len(kept), [one.reason for one in verdicts])
        first = made.prompts[0]
        told = a["source_prompt"] or first[0], a["target_prompt"] or first[1]
        pupil, plan = _pupil(model, a, told[1])  # by the prompt that its file names
        slot = Store(place).slot(TRAINING)
        trained = train(pupil, *kept.split(), plan, distance=perceptual, slot=slot, watch=watching, tell=tell)
    # a run that was stopped has done a part in another process, of which this one knows what it kept
    took = max(time.perf_counter() - start, made.seconds / workers + trained.seconds)
    figures = {"minutes": took / 60.0, "cores": _cores(model, workers)}
    notes = [*more, *noted, *trained.notes, *_left_out(made, verdicts)]
    card = Card(
        *told, model.name, model.revision, entry.name,
        kept.size, len(verdicts), len(kept), len(kept.split()[1]), kept.digest(), trained.steps, a["inversion"],
        _plain(checked), a["num_inference_steps"], a["guidance_scale"], a["seed"], notes=tuple(notes),
        inversion_options=_plain(a["inversion_options"] or {}), negative_prompt=a["negative_prompt"],
    )  # fmt: skip
    distilled = finished(pupil, kept, card, trained, figures)
    return DistillResult(distilled, tuple(verdicts), trained, tuple(_shown(distilled, kept)), tuple(notes))


_DEFAULTS = (
    "source_prompt", "target_prompt", "method", "inversion", "inversion_options", "num_inference_steps",
    "guidance_scale", "negative_prompt", "seed", "size", "fit",
)  # fmt: skip


def _pupil(model: Model, a: Mapping[str, Any], prompt: str) -> tuple[Any, Plan]:
    """The student that was asked for, and how it is trained."""
    if a["minutes"] is None and a["training_steps"] is None:
        raise UsageError("give minutes or training_steps")
    plan = Plan(a["training_steps"], a["minutes"], seed=a["seed"], mirror=a["mirror"], hue=a["hue"])
    plan = replace(plan, weights=replace(plan.weights, features=a["features"], adversarial=a["adversarial"]))
    if a["student"] != ONE_STEP:
        return fresh(Arch(width=a["width"]), a["seed"]).to(model.device), plan
    student = OneStepStudent(model, prompt, OneStepArch(a["rank"]), a["seed"])
    return student, replace(plan, batch=BATCH, rate=RATE)


def _cores(model: Model, workers: int) -> int:
    """How many cores a distillation takes; 0: it computes on something else."""
    return max(workers, torch.get_num_threads()) if model.device.type == "cpu" else 0


def finished(
    student: Any, kept: Pairs, card: Card, trained: Trained, figures: Mapping[str, float] | None = None
) -> Distilled:
    """The student as it is saved, its card with what was measured on the held-out pairs; a small one on the CPU."""
    student = student.to("cpu") if isinstance(student, Student) else student
    rounded(student)
    distilled = Distilled(student, card, domain_of(student, kept))
    _, held_out = kept.split()
    pairs = [held_out.pixels([row]) for row in range(len(held_out))]
    values = [psnr(distilled(source), target, data_range=2.0) for source, target in pairs]
    image = to_images(pairs[0][0])[0]
    measured = {
        "held_out_score": trained.score,
        "held_out_psnr": min(99.0, sum(values) / len(values)),
        "milliseconds": round(milliseconds(distilled, image, tries=10), 2),
    }
    distilled.card = replace(card, figures={**measured, **(figures or {})})
    return distilled


@contextmanager
def _folder(folder: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The folder of the distillation, made where it is missing."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="sfumato-") as temporary:
            yield Path(temporary)
        return
    place = at_home(checks.path("folder", folder))
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {place}: {error.strerror or error}") from error
    yield place


def _inputs(model: Model, images: Any, a: Mapping[str, Any], place: Path, watch: Watch) -> Inputs:
    """The images that were given, or those that the model draws."""
    before, after = a["source_prompt"], a["target_prompt"]
    if before is not None and after is not None and before.strip() == after.strip():
        raise UsageError(f"source_prompt and target_prompt are the same, {before!r}: say what the edit should change")
    if images is None:
        if before is None or after is None:
            raise UsageError("give source_prompt and target_prompt, or a manifest that has them")
        steps = {name: a[name] for name in ("negative_prompt", "num_inference_steps", "guidance_scale", "size", "seed")}
        check_alternatives(before, after)
        return draw_sources(model, (before, after), a["draw"], place, watch, **steps)
    for prompt in (before, after):
        if prompt is not None and has_alternatives(prompt):
            raise UsageError(f"{prompt!r} has alternatives, which are for images that the model draws: give no images")
    given = [images] if isinstance(images, str | os.PathLike) else checks.listed("images", images, checks.path)
    return read_inputs([os.fspath(checks.path("images", one)) for one in given], place)


def _looking(model: Model, a: Mapping[str, Any]) -> tuple[Limits, DualEncoder | None, list[str]]:
    """What a pair must be to be kept, who looks at agreement, and what to say of it."""
    limits, name = Limits(least_change=a["least_change"], least_psnr=a["least_psnr"]), a["encoder"] or model.encoder
    if name is None:
        if a["agreement"] is not None or a["keep"] is not None:
            raise UsageError("keep and agreement need an encoder: give encoder=FOLDER, a CLIP model")
        return limits, None, ["agreement of image and text was not looked at: no encoder was named"]
    ours = name == EMOJI_CLIP
    keep = a["keep"] or (KEEP_EMOJI if ours else 1.0)
    agreement = a["agreement"] if a["agreement"] is not None or ours else AGREEMENT_CLIP
    return replace(limits, keep=keep, agreement=agreement), dual_encoder(model, name), []


def _perceptual(model: Model, name: str | Distance | None) -> tuple[Distance | None, list[str]]:
    found = load_distance(name, model)
    if isinstance(found, PixelDistance):
        return None, ["no perceptual distance is installed: the student was trained by pixels and edges alone"]
    return found, []


def _left_out(made: Made, verdicts: Sequence[Verdict]) -> list[str]:
    reasons = [one.reason for one in verdicts if one.reason]
    notes = [f"{len(reasons)} of {len(verdicts)} pairs were left out, such as: {reasons[0]}"] if reasons else []
    if made.own:
        notes.append(f"rows of the manifest have their own {', '.join(made.own)}: the card names those of all others")
    return notes + ([f"{made.failed} edits could not be made"] if made.failed else [])


def _shown(distilled: Distilled, kept: Pairs) -> Iterator[HeldOut]:
    _, held_out = kept.split()
    for row in range(min(SHOWN, len(held_out))):
        source, target = held_out.pixels([row])
        with torch.no_grad():
            edited = distilled.student(source.to(distilled.device))
            drawn = edited.pixels.cpu().clamp(-1, 1)
        if edited.gate is None:  # what it changed, in the same colours
            gate = 1.0 - (drawn - source).abs().amax(dim=1, keepdim=True)
        else:
            gate = edited.gate.sigmoid() * 2.0 - 1.0
        yield HeldOut(*to_images(torch.cat([source, target, drawn, gate.expand_as(source)])))


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a card can hold them."""
    plain = checks.plain(dict(options))
    return {name: value if _sayable(value) else str(value) for name, value in plain.items()}


def _sayable(value: Any) -> bool:
    return all(
        part is None or isinstance(part, str | bool | int) or (isinstance(part, float) and math.isfinite(part))
        for part in checks.leaves(value)
    )
