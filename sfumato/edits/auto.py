"""`auto` runs several methods and strengths on one shared inversion and returns the best trade-off.

An edit trades agreement with the target prompt against change of the image. The model itself measures both. Agreement
is the denoising error under the source prompt minus that under the target prompt, as in the diffusion classifier (Li et
al., 2023, https://arxiv.org/abs/2303.16203, Eq. 5). Change is the distance of the latents from the source's. The result
is the knee of the curve: the candidate farthest above the straight line from "nothing changed" to "most changed"
(Satopaa et al., 2011, "Finding a kneedle in a haystack").

Not from a paper.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from sfumato.edits.method import METHODS, edit_method
from sfumato.edits.result import LatentCandidate, LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import InversionError, ModelError, SfumatoError, UsageError
from sfumato.guidance.prompt_gain import PromptGain
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.models.traits import traits_of, unmet
from sfumato.options import Option


@dataclass(frozen=True)
class Try:
    """One candidate to run: a method with options."""

    method: str
    options: Mapping[str, Any]


# From the strictest to the freest, methods alternating, so that a small budget already spans the range. What cannot
# start from the inversion at hand is passed over.
TRIES = (
    Try("prompt-to-prompt", {"cross_replace_steps": 0.8, "self_replace_steps": 0.4}),
    Try("edit-friendly", {}),
    Try("prompt-to-prompt", {"cross_replace_steps": 0.3, "self_replace_steps": 0.1}),
    Try("ledits", {}),
    Try("cycle-diffusion", {}),
    Try("plug-and-play", {}),
    Try("masactrl", {}),
    Try("prompt-to-prompt", {"cross_replace_steps": 0.6, "self_replace_steps": 0.7}),
    Try("prompt-to-prompt", {"cross_replace_steps": 0.5, "self_replace_steps": 0.2}),
    Try("diffedit", {}),
    Try("prompt-to-prompt", {"cross_replace_steps": 0.1, "self_replace_steps": 0.0}),
    Try("stable-flow", {}),
    Try("flowalign", {}),
    Try("flowedit", {}),
    Try("flowedit", {"strength": 0.5}),
)
OF_FLOWS = ("stable-flow", "flowalign", "flowedit")
"""Methods that are tried first on a flow."""


@edit_method(
    "auto",
    title="Automatic choice",
    paper="none: a search over the methods here, scored by the model (diffusion classifier, Li et al., 2023)",
    summary="Tries several methods and strengths on one inversion; returns the best trade-off.",
    when="You do not know which method to choose, or want to compare several on one image.",
    cost="The inversion once; then 3 or 4 evaluations a step and 16 for scoring, for each try.",
    inversions=(
        "edit-friendly",
        "direct",
        "ddim",
        "fixed-point",
        "bdia",
        "regularised-ddim",
        "null-text",
        "negative-prompt",
        "dpm-encoder",
    ),
    takes_mask=True,
    guidance_interval=False,
    cache_interval=False,
)
def auto(
    task: EditTask,
    *,
    tries: Annotated[
        int, Option("largest number of candidates; more find better edits and take longer", low=2, high=len(TRIES))
    ] = 5,
    seconds: Annotated[
        float | None,
        Option("start no further candidate after this many seconds; two are always tried; none: no limit", low=0),
    ] = None,
    draws: Annotated[int, Option("noise draws that the score of a candidate is averaged over", low=1)] = 8,
) -> LatentEdit:
    """Runs several methods on the same task, and returns the edit at the knee.

    Args:
        task: From any inversion, or drawn noise, shared by all tries; with one target prompt.
        tries, seconds, draws: See their `Option`.

    Returns:
        The chosen edit; `candidates` holds all, in the order tried.

    Raises:
        UsageError: More than one target prompt, or no method can serve.
        ModelError: The model can honour none of them.
    """
    if len(task.target_prompts) != 1:
        raise UsageError(f"auto takes one target prompt, got {len(task.target_prompts)}: run it once for each")
    begun = time.monotonic()
    tried: list[_Tried] = []
    refused: SfumatoError | None = None
    energy = PromptGain(task.model, task.source_prompt, task.target_prompts[0], draws=draws, generator=task.generator)
    served = [attempt for attempt in TRIES if _serves(attempt, task.source, task.model)]
    if "flow" in traits_of(task.model):
        served.sort(key=lambda attempt: attempt.method not in OF_FLOWS)
    planned = served[:tries]
    for number, attempt in enumerate(planned, start=1):
        if seconds is not None and len(tried) >= 2 and time.monotonic() - begun > seconds:
            break
        stage = task.watch.during(f"try {number} of {len(planned)}: {attempt.method}")
        options = {**task.model.method_options.get(attempt.method, {}), **attempt.options}
        try:
            edited = METHODS[attempt.method].function(replace(task, watch=stage), **options)
        except (UsageError, ModelError, InversionError) as error:
            refused = error  # these images, this model or number of steps is not for that method
            continue
        tried.append(_Tried(attempt, edited, energy(edited.latents[0]) - energy(edited.latents[1])))

    if not tried:
        raise refused or UsageError(f"no method can start from inversion {task.source.method!r}")
    changes, gains = torch.stack([t.change for t in tried]), torch.stack([t.gain for t in tried])  # (try, image)
    chosen = [tried[knee(changes[:, k].tolist(), gains[:, k].tolist())].edited for k in range(changes.shape[1])]
    return replace(_joined(chosen), candidates=tuple(attempt.candidate for attempt in tried))


@dataclass(frozen=True)
class _Tried:
    """An edit, and how much better it fits the target prompt than the source does, (image,)."""

    attempt: Try
    edited: LatentEdit
    gain: Tensor

    @property
    def change(self) -> Tensor:
        """Relative distance of the latents from the source's, (image,)."""
        source, target = self.edited.latents[:2].flatten(2)
        change: Tensor = (target - source).norm(dim=1) / source.norm(dim=1)
        return change

    @property
    def candidate(self) -> LatentCandidate:
        agreement, change = float(self.gain.mean()), float(self.change.mean())
        return LatentCandidate(self.attempt.method, self.attempt.options, agreement, change, self.edited.latents[1])


def _joined(chosen: Sequence[LatentEdit]) -> LatentEdit:
    """One result of the edits that were chosen for each image; maps and masks where all have them alike."""

    def each(values: Sequence[Tensor | None]) -> Tensor | None:
        there = [value[:, [k]] for k, value in enumerate(values) if value is not None]
        alike = len(there) == len(values) and len({value.shape for value in there}) == 1
        return torch.cat(there, dim=1) if alike else None

    latents = torch.cat([edited.latents[:, [k]] for k, edited in enumerate(chosen)], dim=1)
    notes = tuple(dict.fromkeys(note for edited in chosen for note in edited.notes))
    maps, masks = each([edited.maps for edited in chosen]), each([edited.mask for edited in chosen])
    return LatentEdit(latents, chosen[0].branches, maps, masks, notes=notes)


def knee(change: Sequence[float], agreement: Sequence[float]) -> int:
    """Index of the candidate with the largest gain over the diagonal, both axes scaled so that the largest is 1.

    The unedited image is the origin: change 0, agreement 0. When no candidate took (all agreements <= 0), the one
    with the highest agreement.
    """
    most_change, most_agreement = max(change), max(agreement)
    if most_agreement <= 0 or most_change <= 0:
        return max(range(len(agreement)), key=lambda k: agreement[k])
    return max(range(len(change)), key=lambda k: agreement[k] / most_agreement - change[k] / most_change)


def _serves(attempt: Try, source: Inversion, model: Model) -> bool:
    """Whether the method exists, the model serves it, and it can start from this inversion.

    From drawn noise, by the steps of the others.
    """
    if attempt.method not in METHODS or unmet(METHODS[attempt.method].needs, model):
        return False
    start = "ddim" if source.method == "drawn" else source.method
    return start in METHODS[attempt.method].inversions
