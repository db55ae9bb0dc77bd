"""What Prompt-to-Prompt's control of a run is made of, as cases may list it beside the results, whatever the control.

Names and shapes are the cases' own: a tensor is brought to the stored shape where that holds as many entries.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sfumato.attention.blend import LocalBlend
from sfumato.conditions import align
from sfumato.models.base import TextSide
from tests.conformance.golden import Case

BY_STEP = ("latents_per_step", "edit_latents_per_step")


def pairs(value: Any) -> Any:
    """JSON lists of numbers as the pairs that they are, also inside a table."""
    if isinstance(value, Mapping):
        return {word: pairs(bounds) for word, bounds in value.items()}
    return tuple(value) if isinstance(value, list) else value


def control_kind(edit: str) -> Any:
    """The `edit` option from a case's words: "refine+reweight" is "refine"."""
    kinds = edit.split("+")
    return next((kind for kind in ("replace", "refine", "auto") if kind in kinds), "none")


def blend_options(parameters: Mapping[str, Any], start: float) -> dict[str, Any]:
    """Prompt-to-Prompt's options of a local blend; `start` where the case names none. Thresholds may be a pair."""
    blend = parameters.get("local_blend") or {}
    return {
        "blend_words": blend.get("words"),
        "blend_subtract_words": blend.get("subtract_words"),
        "blend_threshold": pairs(blend.get("threshold", 0.3)),
        "blend_start": blend.get("start", start),
    }


def control_outputs(case: Case, text: TextSide, prompts: Sequence[str], edit: str) -> dict[str, Tensor]:
    """Mapper, alphas, equalizer, schedule and blend words of the control, under every name that cases have for them."""
    (source, *targets), parameters, found = prompts, case.parameters, {}
    kind = control_kind(edit)
    if kind == "replace":
        mapper = torch.stack([align.replace_mapper(text, source, t, released=True) for t in targets])
        found |= {"mapper": mapper, "replace_mapper": mapper}
    elif kind == "refine":
        mappers, alphas = zip(*(align.refine_mapper(text, source, t, released=True) for t in targets), strict=True)
        found |= dict.fromkeys(("mapper", "refine_mapper"), torch.stack(mappers))
        found |= dict.fromkeys(("alphas", "refine_alphas"), torch.stack(alphas))
    if weights := parameters.get("equalizer"):
        found["equalizer"] = align.equalizer(text, targets, weights, released=True)
    found["cross_replace_alpha"] = align.replace_schedule(
        text, targets, parameters["num_steps"], pairs(parameters["cross_replace_steps"]), released=True
    )
    if words := (parameters.get("local_blend") or {}).get("words"):
        rows = [align.indicator(text, p, [w], released=True) for p, w in zip(prompts, words, strict=True)]
        found["blend_words"] = torch.stack(rows)
    return {name: stored_shape(case, name, tensor) for name, tensor in found.items()}


def step_outputs(case: Case, latents: Sequence[Tensor]) -> dict[str, Tensor]:
    """The latents of a run after each step, (branch, channels, height, width) each, under every name cases have.

    A case that stores fewer branches stores the last ones: the edits.
    """
    found, outputs = torch.stack(list(latents)), {}
    for name in BY_STEP:
        kept = found
        if name in case.tensors and case.tensors[name].numel() < found.numel():
            kept = found[:, -max(case.tensors[name].numel() // found[:, :1].numel(), 1) :]
        outputs[name] = stored_shape(case, name, kept)
    return outputs


def mask_outputs(case: Case, masks: Sequence[Tensor], num_steps: int) -> dict[str, Tensor]:
    """Masks of a local blend at map resolution; a step before the start, if stored, keeps nothing of the source."""
    if "blend_mask" not in case.outputs or not masks:
        return {}
    golden = case.tensors["blend_mask"]
    stride = masks[0].shape[-1] // golden.shape[-1]
    found = torch.stack([mask[:, 0, ::stride, ::stride] for mask in masks])  # (step, edit, height, width)
    if golden.shape[0] == num_steps:
        found = torch.cat([found.new_ones(num_steps - len(found), *found.shape[1:]), found])
    return {"blend_mask": stored_shape(case, "blend_mask", found.to(golden.dtype))}


@contextmanager
def recorded_masks() -> Iterator[list[Tensor]]:
    """The mask, (edit, image, height, width), of every step that blends inside the block."""
    masks: list[Tensor] = []
    blend = LocalBlend.__call__

    def listen(self: LocalBlend, latents: Tensor, step: Any) -> Tensor:
        blended = blend(self, latents, step)
        if self.mask is not None:
            masks.append(self.mask)
        return blended

    LocalBlend.__call__ = listen  # type: ignore[method-assign]
    try:
        yield masks
    finally:
        LocalBlend.__call__ = blend  # type: ignore[method-assign]


def stored_shape(case: Case, name: str, tensor: Tensor) -> Tensor:
    """The tensor in the shape that the case stores it in, where it has as many entries."""
    if name in case.tensors and case.tensors[name].numel() == tensor.numel():
        return tensor.reshape(case.tensors[name].shape)
    return tensor
