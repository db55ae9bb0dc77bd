"""The public verb `edit`: reads an image, inverts it, runs a method, returns images and their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, overload

from sfumato import checks
from sfumato.api.arguments import boundary
from sfumato.api.common import method_for
from sfumato.api.masks import MaskSource
from sfumato.api.requests import EditRequest
from sfumato.api.results import EditResult
from sfumato.api.several_edits import run_each, several
from sfumato.images import Fit, ImageSource
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.watch import Watch

Images: TypeAlias = "list[Any] | tuple[Any, ...]"
"""Several images, each an `ImageSource`."""


@overload
def edit(
    model: Model,
    image: ImageSource | None = None,
    *,
    source_prompt: str,
    target_prompt: str | Sequence[str],
    method: str | None = None,
    fast: bool = False,
    inversion: str | None = None,
    inversion_options: Mapping[str, Any] | None = None,
    inverted: Inversion | None = None,
    negative_prompt: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    cache_interval: int = 1,
    source_guidance_scale: float | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
    encode_steps: int = 0,
    mask: MaskSource | None = None,
    mask_words: str | Sequence[str] | None = None,
    mask_threshold: float = 0.4,
    mask_feather: float = 0.0,
    mask_invert: bool = False,
    mask_pixels: bool = False,
    alpha: bool = True,
    watch: Watch | None = None,
    **options: Any,
) -> EditResult: ...


@overload
def edit(
    model: Model, image: Images, *, source_prompt: str, target_prompt: str | Sequence[str], **arguments: Any
) -> tuple[EditResult, ...]: ...


@boundary
def edit(
    model: Model,
    image: ImageSource | Images | None = None,
    *,
    source_prompt: str,
    target_prompt: str | Sequence[str],
    method: str | None = None,
    fast: bool = False,
    inversion: str | None = None,
    inversion_options: Mapping[str, Any] | None = None,
    inverted: Inversion | None = None,
    negative_prompt: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    cache_interval: int = 1,
    source_guidance_scale: float | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
    encode_steps: int = 0,
    mask: MaskSource | None = None,
    mask_words: str | Sequence[str] | None = None,
    mask_threshold: float = 0.4,
    mask_feather: float = 0.0,
    mask_invert: bool = False,
    mask_pixels: bool = False,
    alpha: bool = True,
    watch: Watch | None = None,
    **options: Any,
) -> EditResult | tuple[EditResult, ...]:
    """Edits an image by text; everything else stays.

    Args:
        model: From `load_model`.
        image: Path, bytes, PIL image, array or tensor; None: edit the image that the model draws of the source
            prompt. A list or tuple of them gives a tuple of results: all arguments are for every image, and each
            further image has the next seed, so that its result is that of an edit of its own. Images of one size are
            edited in batches.
        source_prompt: What the image shows.
        target_prompt: What the result should show; several give one image each, in one batch.
        method: A name in `METHODS`; None: what suits the model, FlowEdit on flow models and Prompt-to-Prompt on
            others, see `sfumato.edits.default_method`.
        fast: Edit in one network call (4 evaluations a target): by the model that was distilled from this one for few
            steps, where it has one ("emoji-turbo" for "emoji"), and by ChordEdit without its cleanup. Give no method.
        inversion: A name in `INVERSIONS`; None: the method's first choice.
        inversion_options: The inversion's own, see `INVERSIONS[inversion].parameters`.
        inverted: An earlier inversion of the same image, with the same model and number of steps. It holds its image,
            which is edited where `image` is None.
        negative_prompt: What the result should not show; None: the inversion's, where one is given, else empty.
        num_inference_steps: None: the model's own choice (50).
        guidance_scale: How closely the result follows the target prompt, at least 1 (1 = off); None: the model's own.
        guidance_interval: Shares of the steps, (start, end) in [0, 1] from the noisy end, where the edit is guided; in
            the steps outside of it `guidance_scale` is 1, and each costs one evaluation less an image. Not for methods
            that have guidance of their own (`METHODS[method].guidance_interval`).
        cache_interval: The deep stages of the network are computed at every so many steps of the edit, and at each at
            which attention or features are read or exchanged; in between their features are used again: faster, and a
            little different. 1 = off, 2 to 5 are usual. Not for methods that read or change the network at every step
            (`METHODS[method].cache_interval`).
        source_guidance_scale: Guidance scale of the source branch; None: what the inversion needs for a good
            reconstruction (1 for most), or what `inverted` was made for; for a generated image `guidance_scale`.
        seed: Of all draws; -1: a random one, which the recipe records.
        size: (width, height) in pixels; None: the image's own.
        fit: What may be done when the image does not fit the model: "crop", "pad" or "resize".
        background: Colour under transparent pixels.
        encode_steps: Optimisation steps that bring the autoencoder's reconstruction closer to the image before it is
            edited, see `sfumato.api.encoding`; 0 = off, 20 is usual. Not with `inverted`, which has its own.
        mask: An image of the same size: white may change, black and transparent stay, grey is in between
            (docs/masks.md). It is fitted as the image is. A method with a mask of its own
            (`METHODS[method].takes_mask`) uses this one instead.
        mask_words: Words of the source prompt: a mask is made from the attention to them.
        mask_threshold: Attention that counts as inside, as share of the largest, in (0, 1).
        mask_feather: Width in pixels of the mask's soft edge, inside the mask.
        mask_invert: Swap inside and outside of the mask.
        mask_pixels: Paste the result into the source image, so that no pixel outside the mask changes.
        alpha: Keep the transparency of a transparent image: the model sees it on the background, which is removed from
            the results again.
        watch: Progress, previews, cancellation; None: a progress bar when stderr is a terminal.
        options: The method's own, see `METHODS[method].parameters`. Defaults: the model's (`Model.method_options`), or
            the method's.

    Raises:
        UsageError: An argument is wrong (unknown name, out of range, prompts that do not fit the method).
        ImageError: The image cannot be read or does not fit.
        InversionError: `inverted` belongs to another model or step count.
        ModelError: The model cannot honour the edit.
        SamplingError: The run broke down.
    """
    method = method if checks.flag("fast", fast) else method_for(model, method)
    request = EditRequest(
        image=None if isinstance(image, list | tuple) else image, source_prompt=source_prompt,
        target_prompt=target_prompt, method=method, fast=fast, inversion=inversion,
        inversion_options=inversion_options, inverted=inverted, negative_prompt=negative_prompt,
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, guidance_interval=guidance_interval,
        cache_interval=cache_interval, source_guidance_scale=source_guidance_scale, seed=seed, size=size, fit=fit,
        background=background, encode_steps=encode_steps, mask=mask, mask_words=mask_words,
        mask_threshold=mask_threshold, mask_feather=mask_feather, mask_invert=mask_invert, mask_pixels=mask_pixels,
        alpha=alpha, options=options,
    )  # fmt: skip
    if isinstance(image, list | tuple):
        found = dict(run_each(model, several(request, image), watch))
        return tuple(found[k] for k in range(len(image)))
    return request.run(model, watch=watch)
