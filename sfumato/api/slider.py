"""The public driver `slider`: an edit as a morph, from the source to the full edit, or along an option's range."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from sfumato import checks
from sfumato.api.arguments import boundary, check_arguments
from sfumato.api.cost import measured
from sfumato.api.edit import edit
from sfumato.api.morph import distance_notes
from sfumato.api.results import EditResult, MorphResult
from sfumato.conditions.align import chunk_length, token_ids
from sfumato.errors import UsageError
from sfumato.images import ImageSource, to_images, to_pixels
from sfumato.judges.distances import load_distance
from sfumato.metrics.distance import Distance
from sfumato.models.base import Condition, Model, Tokenizer
from sfumato.models.prompt_syntax import plain_text
from sfumato.morphs.drawing import drawing
from sfumato.morphs.path import MorphPath
from sfumato.morphs.spacings.base import SPACINGS
from sfumato.registry import METHODS, Method, recorded
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch, progress_bar

Range = tuple[float, float]
Vary = Mapping[str, Range | Mapping[str, Range]]
GUIDANCE = "guidance_scale"


@boundary(target_prompt=checks.optional(checks.text))
def slider(
    model: Model,
    image: ImageSource | None = None,
    *,
    source_prompt: str,
    target_prompt: str | None = None,
    method: str = "prompt-to-prompt",
    vary: Vary | None = None,
    num_frames: int = 8,
    spacing: str = "uniform",
    spacing_options: Mapping[str, Any] | None = None,
    distance: str | Distance | None = None,
    watch: Watch | None = None,
    **arguments: Any,
) -> MorphResult:
    """Turns an edit into a sequence of ever stronger ones at one pace; the picture is inverted once.

    Without `vary` the sequence leads from the source as the method gives it back to the full edit: in between, the
    target branch is told a text between the two prompts and guided by a scale between that of the source and its own.
    A method that goes along an edit direction is varied by `direction_scale` instead, from 0.

    Args:
        model: From `load_model`.
        image: As for `edit`.
        source_prompt: What the picture shows.
        target_prompt: What it shall show; None: the source prompt, where an option alone makes the edit.
        method: A name in `METHODS`; "auto" is none that a slider can use.
        vary: From where to where options of the method go: `{"direction_scale": (0, 1.5)}`, per word
            `{"weights": {"red": (0, 3)}}`, `{"guidance_scale": (1, 6)}`. Several go together.
        num_frames: The ends among them, at least 3.
        spacing, spacing_options, distance, watch: As for `morph`.
        arguments: As for `edit`: the method's options, inversion, guidance, seed, size, mask ...

    Returns:
        Frames; weight 0 is the source (or the low end of `vary`), 1 the full edit. `sources` is the one source picture,
        and `endpoint_psnr` how well it comes back.

    Raises:
        UsageError: An argument is wrong, or the method cannot be varied so.
        SfumatoError: What `edit` raises.
    """
    arguments = check_arguments("edit", **arguments)
    entry = METHODS[method]
    if method == "auto":
        raise UsageError("auto chooses anew for every frame: take one method, such as the one that it chose")
    target = source_prompt if target_prompt is None else target_prompt
    if vary is None and "direction_scale" in entry.parameters:
        vary = {"direction_scale": (0.0, arguments.get("direction_scale", entry.parameters["direction_scale"].default))}
    ranges = None if vary is None else _checked(vary, entry)
    if ranges is None and target == source_prompt:
        raise UsageError("a slider needs a target prompt that differs from the source prompt, or options to vary")
    spacing_options = SPACINGS[spacing].check_options(spacing_options or {})
    measure = load_distance(distance, model)
    fixed = {"source_prompt": source_prompt, "target_prompt": target, "method": method, **arguments}

    with progress_bar(watch=watch) as watching, taking_turns(model, watch=watching), measured(model) as cost:
        full = edit(model, image, watch=watching, **(fixed | _options(ranges, 1.0, arguments)))
        if full.inversion.method in (*entry.inversions, "drawn"):
            fixed["inverted"] = full.inversion
            fixed.pop("encode_steps", None)  # the inversion has it
        fixed["source_guidance_scale"] = full.recipe["source_guidance_scale"]
        quiet = Watch(cancelled=watching.cancelled)
        between = _Between(model, source_prompt, target)

        def edited(weight: float) -> EditResult:
            if ranges is not None:
                return edit(model, image, watch=quiet, **(fixed | _options(ranges, weight, arguments)))
            source_guidance, guidance = full.recipe["source_guidance_scale"], full.recipe["guidance_scale"]
            scale = source_guidance + weight * (guidance - source_guidance)
            return edit(between.at(weight), image, watch=quiet, **(fixed | {GUIDANCE: scale}))

        def frame(weight: float) -> Tensor:
            if weight == 1.0:
                return to_pixels(full.image)
            if weight == 0.0 and ranges is None and full.recipe["mask"] is None:  # under one the image itself stays
                return to_pixels(full.reconstruction)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # said by the full edit
                return to_pixels(edited(weight).image)

        def draw(weights: Sequence[float]) -> Tensor:
            return torch.cat([frame(weight) for weight in weights])

        path = MorphPath(draw, in_pixels=True)
        frames = drawing(model, path, spacing, spacing_options, num_frames, watch=watching)
        found = SPACINGS[spacing](frames, measure, num_frames, watch=watching, **spacing_options)
    return MorphResult(
        images=tuple(to_images(frames.at(found.weights).float().cpu())),
        weights=found.weights,
        distances=found.distances,
        even_distances=found.even_distances,
        sources=(full.source,),
        endpoint_psnr=(full.reconstruction_psnr,),
        ceiling_psnr=(full.ceiling_psnr,),
        recipe={
            **full.recipe,
            "command": "slider",
            "vary": recorded(ranges),
            "num_frames": num_frames,
            "spacing": spacing,
            "spacing_options": recorded(spacing_options),
            "distance": measure.name,
            "weights": [round(weight, 6) for weight in found.weights],
            "found": [recorded(found.record)],
        },
        cost=cost,
        notes=(*full.notes, *distance_notes(distance, measure), *found.notes),
    )


def _checked(vary: Vary, entry: Method) -> Vary:
    """The ranges, each end of which the option allows.

    Raises:
        UsageError: An option is unknown or takes no such numbers, or a range is not two numbers.
    """
    if not checks.table("vary", vary):
        raise UsageError("vary names no option")
    for name, given in vary.items():
        for ends in given.values() if isinstance(given, Mapping) else [given]:
            try:
                checks.listed(name, ends, checks.number, fewest=2, most=2)
            except UsageError:
                raise UsageError(f"vary takes (low, high) of {name}, got {checks.shown(ends)}") from None
    for weight in (0.0, 1.0):
        values = _options(vary, weight, {})
        if GUIDANCE in values:
            checks.guidance(GUIDANCE, values.pop(GUIDANCE))
        entry.check_options(values)
    return vary


def _options(ranges: Vary | None, weight: float, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The varied options at a weight, per-word ones together with the words that stay."""

    def at(ends: Range) -> float:
        return float(ends[1] if weight == 1.0 else ends[0] + weight * (ends[1] - ends[0]))

    found: dict[str, Any] = {}
    for name, given in (ranges or {}).items():
        if isinstance(given, Mapping):
            found[name] = {**(arguments.get(name) or {}), **{word: at(ends) for word, ends in given.items()}}
        else:
            found[name] = at(given)
    return found


class _Between:
    """Models to which the target prompt means a text on the way from the source prompt to it.

    Tokens of the target are paired with those of the source; one that the source has not starts as padding.
    """

    def __init__(self, model: Model, source_prompt: str, target_prompt: str) -> None:
        self._model, self._target = model, plain_text(target_prompt)
        both = model.encode_prompt([source_prompt, target_prompt])
        places = paired_tokens(model.tokenizer, source_prompt, target_prompt, both.prompt_embeds.shape[1])
        self._start = both[[0]].with_embeds(both.prompt_embeds[:1, places])

    def at(self, weight: float) -> Model:
        """The model at a weight of the way."""
        return cast(Model, _Told(self._model, lambda prompts: self._encode(prompts, weight)))

    def _encode(self, prompts: str | Sequence[str], weight: float) -> Condition:
        given = [prompts] if isinstance(prompts, str) else list(prompts)
        encoded, empty = self._model.encode_prompt(given), self._model.encode_prompt("")
        tokens = max(condition.prompt_embeds.shape[1] for condition in (encoded, self._start))
        encoded, start = encoded.padded(tokens, empty), self._start.padded(tokens, empty)
        rows = [encoded[[k]] for k in range(len(given))]  # the target's words, with whatever weights they are told
        return Condition.cat(
            [
                _mixed(start, row, weight) if plain_text(prompt) == self._target else row
                for prompt, row in zip(given, rows, strict=True)
            ]
        )


def _mixed(first: Condition, second: Condition, weight: float) -> Condition:
    """A condition on the way from the first to the second."""
    pooled = None
    if first.pooled_embeds is not None and second.pooled_embeds is not None:
        pooled = torch.lerp(first.pooled_embeds, second.pooled_embeds, weight)
    return Condition(torch.lerp(first.prompt_embeds, second.prompt_embeds, weight), pooled)


@Model.register
class _Told:
    """A model with another way to read prompts, and everything else as it is."""

    def __init__(self, model: Model, encode: Callable[[str | Sequence[str]], Condition]) -> None:
        self._model, self.encode_prompt = model, encode

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def paired_tokens(tokenizer: Tokenizer, source: str, target: str, length: int) -> list[int]:
    """For each token position of the target prompt that of the source which it comes from.

    Args:
        tokenizer: The model's.
        source, target: Prompts.
        length: Positions of both; prompts of several chunks are paired position by position.
    """
    a, b = ([-1, *token_ids(tokenizer, prompt), -2] for prompt in (source, target))
    if max(len(a), len(b)) > chunk_length(tokenizer):
        return list(range(length))
    places: list[int] = []
    for kind, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        new, old = j2 - j1, i2 - i1
        places += [length - 1] * new if kind == "insert" else [i1 + k * old // new for k in range(new)]
    return places + [min(len(a) + k, length - 1) for k in range(length - len(b))]
