"""The public driver `edit`: reads a picture, inverts it, runs a method, hands back pictures with a bill."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import sfumato
from sfumato import checks
from sfumato.api.arguments import boundary
from sfumato.api.common import (
    LOW_PSNR,
    against_source,
    check_inverted,
    drawn_noise,
    inverted_picture,
    low_psnr_note,
    other_negative_note,
    told_of_prompts,
)
from sfumato.api.cost import measured
from sfumato.api.encoding import encoded
from sfumato.api.masks import Masking, MaskSource
from sfumato.api.results import EditCandidate, EditResult
from sfumato.api.source_image import read_picture
from sfumato.conditions.words import pieces_of
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import InversionError, UsageError
from sfumato.images import Fit, ImageSource, to_images
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.registry import INVERSIONS, METHODS, Method, recorded
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch, progress_bar

STARTS = ("drawn", "picture")
"""What an `Inversion` may hold that leads back to nothing: noise alone, or an image's latents and noise."""


@boundary(negative_prompt=checks.optional(checks.text))
def edit(
    model: Model,
    image: ImageSource | None = None,
    *,
    source_prompt: str,
    target_prompt: str | Sequence[str],
    method: str = "prompt-to-prompt",
    inversion: str | None = None,
    inversion_options: Mapping[str, Any] | None = None,
    inverted: Inversion | None = None,
    negative_prompt: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
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
    watch: Watch | None = None,
    **options: Any,
) -> EditResult:
    """Edits a picture by text; everything else stays.

    Args:
        model: From `load_model`.
        image: Path, bytes, PIL picture, array or tensor; None: edit the picture that the model draws of the source
            prompt.
        source_prompt: What the picture shows.
        target_prompt: What it shall show; several give several pictures in one batch.
        method: A name in `METHODS`.
        inversion: How to get back to noise, a name in `INVERSIONS`; None: the method's first choice.
        inversion_options: The inversion's own, see `INVERSIONS[inversion].parameters`.
        inverted: An inversion made before, of the same image, model and step count. It holds the image that it was made
            of, which is edited where `image` is None.
        negative_prompt: What guidance leads away from; None: the inversion's, where one is given, else nothing.
        num_inference_steps: None: the model's own choice (50).
        guidance_scale: Strength of the target prompt, at least 1 (1 = off); None: the model's own choice.
        source_guidance_scale: Guidance of the source branch; None: what the inversion of a real picture needs for it
            to come back (1 for most), or what `inverted` was made for; as `guidance_scale` for a drawn picture.
        seed: Of all draws; -1: a random one, which the recipe records.
        size: (width, height) in pixels; None: the picture's own.
        fit: What may be done when the picture does not fit the model: "crop", "pad" or "resize".
        background: Colour under transparent pixels.
        encode_steps: Steps that bring what the autoencoder gives back nearer to the picture before it is edited, see
            `sfumato.api.encoding`; 20 gain 2 to 4 dB with `emoji`. An inversion made before has its own.
        mask: Where the edit may change the image (white), an image of the same size; where it is black or transparent,
            the image stays, and grey keeps its share of it (docs/masks.md). It is fitted as the image is. A method with
            a mask of its own (`METHODS[method].takes_mask`) uses this one instead.
        mask_words: Such a mask made from where these words of the source prompt look.
        mask_threshold: Share of the words' largest attention that counts as inside, in (0, 1).
        mask_feather: Width in pixels of the mask's soft edge, which lies inside the mask.
        mask_invert: Everything but the mask, or but what the words mark, may change.
        mask_pixels: Paste the result into the source image, so that what lies outside the mask is bit-identical.
        watch: Progress, previews, cancellation; None: a progress bar when stderr is a terminal.
        options: The method's own, see `METHODS[method].parameters`; what is not given is what suits the model, see
            `Model.method_options`, else the method's default.

    Raises:
        UsageError: An argument is wrong (unknown name, out of range, prompts that do not fit the method).
        ImageError: The picture cannot be read or does not fit.
        InversionError: `inverted` belongs to another model or step count.
        ModelError: The model cannot honour the edit.
        SamplingError: The run broke down.
    """
    recipe_method = METHODS[method]
    options = {**model.method_options.get(method, {}), **recipe_method.check_options(options)}
    inversion_name = _choose_inversion(recipe_method, inversion, inverted)
    inversion_options = INVERSIONS[inversion_name].check_options(inversion_options or {}) if inversion_name else {}
    if negative_prompt is None:
        negative_prompt = "" if inverted is None else inverted.negative_prompt
    if image is None and inverted is not None and inverted.source_image is not None:
        image = inverted.source_image.numpy()
    targets = [target_prompt] if isinstance(target_prompt, str) else list(target_prompt)
    told = told_of_prompts(source_prompt=source_prompt, target_prompt=targets, negative_prompt=negative_prompt)
    steps = num_inference_steps
    if steps is None:
        steps = model.num_inference_steps if inverted is None else len(inverted.timesteps)
    timesteps = tuple(model.schedule.timesteps(steps))
    suited = model.method_guidance.get(method, model.guidance_scale)
    guidance = suited if guidance_scale is None else guidance_scale
    drawn = image is None and (inverted is None or inverted.method == "drawn")
    suits = INVERSIONS[inversion_name].source_guidance_scale if inversion_name and not drawn else None
    if inversion_name and not drawn and inverted is not None:
        suits = inverted.guidance_scale  # what it was made for
    source_guidance = (
        source_guidance_scale if source_guidance_scale is not None else guidance if suits is None else suits
    )
    if encode_steps and (inverted is not None or image is None):
        raise UsageError("encode_steps is for a picture that is inverted here: give it to `invert`, or leave it out")
    picture = read_picture(model, image, size, fit, background) if image is not None else None
    if inverted is not None:
        check_inverted(model, inverted, picture, timesteps)
    masking = Masking.read(
        picture, mask, mask_words, threshold=mask_threshold, feather=mask_feather, invert=mask_invert,
        pixels=mask_pixels,
    )  # fmt: skip
    if masking is not None:
        masking.check(model, source_prompt)

    recipe: dict[str, Any] = {
        "command": "edit",
        "sfumato": sfumato.__version__,
        **model.recipe,
        "method": method,
        "inversion": None if drawn else inversion_name,
        "inversion_options": inversion_options,
        "source_prompt": source_prompt,
        "target_prompts": targets,
        "negative_prompt": negative_prompt,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "source_guidance_scale": source_guidance,
        "seed": seed,
        "size": list(size) if size else None,
        "fit": fit,
        "background": list(background),
        "encode_steps": encode_steps,
        "options": recorded(options),
        "mask": None if masking is None else masking.recipe,
        "image": None if picture is None else picture.origin,
        "inverted": None if inverted is None else {"path": inverted.file, "sha256": inverted.fingerprint},
    }
    with progress_bar(watch=watch) as watching, taking_turns(model, watch=watching), measured(model) as cost:
        generator = torch.Generator().manual_seed(seed)
        clean, encoding = None, watching.during("encoding") if encode_steps else None
        if inverted is not None and inverted.trajectory is not None:
            clean = inverted.clean.to(model.device, torch.float32)
        elif picture is not None:
            clean = encoded(model, picture.pixels, encode_steps=encode_steps, watch=encoding)
        if inverted is not None and (inversion_name or inverted.method in STARTS):
            start = inverted
        elif clean is None:
            start = Inversion("drawn", drawn_noise(model, [generator], size), timesteps, prompt=source_prompt)
        elif not inversion_name or picture is None:
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            start = Inversion("picture", noise, timesteps, trajectory=clean[None], prompt=source_prompt)
        else:
            start = inverted_picture(
                model, clean, picture, inversion_name, source_prompt,
                negative_prompt=negative_prompt, seed=seed, guidance_scale=source_guidance, num_inference_steps=steps,
                generator=generator, watch=watching.during("inverting"), encode_steps=encode_steps,
                **inversion_options,
            )  # fmt: skip
        masked = None
        if masking is not None and clean is not None:
            masked = masking.for_run(model, clean, start, source_prompt, len(targets), generator)
        task = EditTask(
            model,
            start,
            source_prompt,
            targets,
            negative_prompt,
            guidance_scale=guidance,
            source_guidance_scale=source_guidance,
            generator=generator,
            mask=None if masked is None else masked.hook.inside,
            on_step=() if masked is None else (masked.hook,),
            watch=watching.during("editing"),
        )
        edited: LatentEdit = recipe_method.function(task, **options)
        with torch.no_grad():
            final, kept = edited.latents[:, 0], [candidate.latents for candidate in edited.candidates]
            if masked is not None:
                final = torch.cat([final[:1], masked.latents(final[1:])])
                kept = [masked.latents(latents) for latents in kept]
            decoded = to_images(model.decode_latents(final))
            tried = [to_images(model.decode_latents(latents))[0] for latents in kept]
            ceiling = None if clean is None else to_images(model.decode_latents(clean))[0]

    notes = [
        *model.notes,
        *told,
        *([] if picture is None else picture.notes),
        *([] if masking is None else masking.notes),
    ]
    notes += [*edited.notes, *_unused_inversion(recipe_method, inversion, inverted)]
    if inverted is not None and source_guidance > 1.0 and negative_prompt != inverted.negative_prompt:
        notes.append(other_negative_note(inverted.negative_prompt, negative_prompt))
    reconstruction = decoded[0]
    source, source_psnr, ceiling_psnr, measured_how = against_source(reconstruction, ceiling, picture, drawn=drawn)
    notes += measured_how
    if source_psnr < LOW_PSNR:
        notes.append(low_psnr_note(source_psnr, ceiling_psnr, source_guidance, suits))
        warnings.warn(notes[-1], stacklevel=3)  # past the boundary
    results = decoded[1:]
    if masked is not None:
        results, tried = masked.images(results, source), masked.images(tried, source)
    restore = (lambda shown: shown) if picture is None else picture.fitted.restore
    return EditResult(
        images=tuple(restore(shown) for shown in results),
        source=restore(source),
        reconstruction=restore(reconstruction),
        recipe=recipe,
        cost=cost,
        reconstruction_psnr=source_psnr,
        ceiling_psnr=ceiling_psnr,
        inversion=start,
        notes=tuple(notes),
        maps=None if edited.maps is None else edited.maps[:, 0].float().cpu(),
        tried=tuple(
            EditCandidate(candidate.method, candidate.options, candidate.agreement, candidate.change, restore(shown))
            for candidate, shown in zip(edited.candidates, tried, strict=True)
        ),
        distances=None if edited.distances is None else edited.distances[..., 0].float().cpu(),
        _pieces=()
        if edited.maps is None
        else tuple(tuple(pieces_of(model.tokenizer, prompt)) for prompt in (source_prompt, *targets)),
    )


def _choose_inversion(method: Method, name: str | None, inverted: Inversion | None) -> str:
    """The inversion to use, "" for a method that starts from the picture itself, and for a drawn picture.

    Raises:
        UsageError: There is no such inversion, or it does not serve the method (with the reason).
        InversionError: The method starts from the picture itself, and the inversion given holds none.
    """
    made = None if inverted is None else inverted.method
    chosen = name or made or method.default_inversion
    if chosen in ("", *STARTS):
        if chosen == "picture" and not method.from_picture:
            raise UsageError(
                f"{method.name} needs an inversion, and what is given holds the picture's latents alone, as methods"
                f" without one make it: leave it out, or give one of {', '.join(method.inversions)}"
            )
        return ""
    entry = INVERSIONS[chosen]
    if method.from_picture:
        if inverted is not None and inverted.trajectory is None and inverted.source_image is None:
            raise InversionError(
                f"a {made} inversion without a trajectory holds no picture for {method.name}: give it too"
            )
        return ""
    if chosen in method.inversions:
        return chosen
    reason = method.refuses.get(chosen, f"{entry.title} is not among those that it takes")
    takes = ", ".join(method.inversions)
    raise UsageError(f"{method.name} cannot start from inversion {chosen!r}: {reason}; it takes: {takes}")


def _unused_inversion(method: Method, name: str | None, inverted: Inversion | None) -> list[str]:
    """A note where a method that starts from the picture itself is given an inversion."""
    chosen = name or ("" if inverted is None or inverted.method in STARTS else inverted.method)
    if not method.from_picture or not chosen:
        return []
    what = f"inversion {chosen!r} is not run" if inverted is None else "only the latents of the inversion are used"
    return [f"{method.title} starts from the picture itself: {what}"]
