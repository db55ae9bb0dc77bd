"""An edit before the network runs: what was left open is decided, files are read, and all is checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sfumato.api.common import check_inverted, check_prompts, other_negative_note
from sfumato.api.fast import chosen as chosen_model
from sfumato.api.masks import Masking
from sfumato.api.origin import Origin, opened_inversion
from sfumato.api.requests import EditRequest
from sfumato.api.source_image import SourceImage, read_source
from sfumato.edits.method import METHODS, Method
from sfumato.errors import InversionError, UsageError
from sfumato.images import ImageSource, as_transparent
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.models.traits import check_cache, check_needs
from sfumato.sampling.shares import window_notes

if TYPE_CHECKING:
    from PIL import Image

STARTS = ("drawn", "picture")
"""Methods of an `Inversion` that is none: noise alone, or an image's latents and noise."""


@dataclass(frozen=True)
class EditPlan:
    """An edit with everything decided, read and checked.

    Attributes:
        model: To run it with.
        request: Nothing is left open in it: steps, guidance, options, what was read.
        inversion: To run, or that `inverted` is; "" where none is needed.
        inverted: That was given.
        image: The source image; None where the model draws it, or where `inverted` does not hold it.
        drawn: Whether the model draws the source.
        suits: Source guidance that the inversion is made for; None: any.
        timesteps: Of the run.
        chosen: The inversion that the user named.
        notes: What there is to say so far.
    """

    model: Model
    request: EditRequest
    inversion: str
    inverted: Inversion | None
    picture: SourceImage | None
    masking: Masking | None
    drawn: bool
    suits: float | None
    timesteps: tuple[float, ...]
    chosen: str | None
    notes: tuple[str, ...]

    @property
    def method(self) -> Method:
        return self.request.entry

    @property
    def shared_size(self) -> tuple[int, int] | None:
        """(width, height) of an image that can be edited in one batch with others of that size; else None.

        By itself is run: what starts from a given inversion or from none, what is masked, and what tries several edits.
        """
        alone = self.inverted is not None or self.masking is not None or self.request.method == "auto"
        return None if alone or self.picture is None else self.picture.fitted.image.size

    def transparent(self, image: Image.Image) -> Image.Image:
        """An edited image without padding, taken off the background where the source image is transparent."""
        if self.picture is None or self.picture.rgba is None:
            return image
        return as_transparent(image, self.picture.fitted.restore(self.picture.rgba), self.request.background)

    @property
    def source_notes(self) -> list[str]:
        """Notes where what was given of an inversion does not all serve the edit."""
        request, inverted, notes = self.request, self.inverted, []
        chosen = self.chosen or ("" if inverted is None or inverted.method in STARTS else inverted.method)
        if self.method.from_image and chosen:
            what = (
                f"inversion {chosen!r} is not run" if inverted is None else "only the latents of the inversion are used"
            )
            notes.append(f"{self.method.title} starts from the image itself: {what}")
        guided = (request.source_guidance_scale or 1.0) > 1.0
        if inverted is not None and guided and request.negative_prompt != inverted.negative_prompt:
            notes.append(other_negative_note(inverted.negative_prompt, request.negative_prompt or ""))
        return notes


def plan_edit(model: Model, request: EditRequest) -> EditPlan:
    """Decides, reads and checks all that can be before the network runs."""
    model, request = chosen_model(model, request)
    request = request.suited(model)
    method, inverted, chosen = request.entry, opened_inversion(request.inverted), request.inversion
    check_needs("method", method.name, METHODS, model)
    check_cache(model, request.cache_interval)
    inversion = _choose_inversion(method, request.inversion, inverted)
    if inversion and inverted is None:
        check_needs("inversion", inversion, INVERSIONS, model)
    inversion_options = INVERSIONS[inversion].check_options(request.inversion_options or {}) if inversion else {}
    negative_prompt = request.negative_prompt
    if negative_prompt is None:
        negative_prompt = "" if inverted is None else inverted.negative_prompt
    prompt_notes = check_prompts(
        source_prompt=request.source_prompt, target_prompt=request.targets, negative_prompt=negative_prompt
    )
    steps = request.num_inference_steps
    if steps is None:
        steps = model.num_inference_steps if inverted is None else len(inverted.timesteps)
    image = _image(request, inverted)
    if request.encode_steps and (inverted is not None or image is None):
        raise UsageError("encode_steps is for an image that is inverted here: give it to `invert`, or leave it out")
    picture = None
    if image is not None:
        picture = read_source(model, image, request.size, request.fit, request.background)
    timesteps = tuple(model.schedule.timesteps(steps, latent_size=_latent_size(model, request, inverted, picture)))
    if inverted is not None:
        check_inverted(model, inverted, picture, timesteps)
    masking = _masking(model, request, picture)
    drawn = image is None and (inverted is None or inverted.method == "drawn")
    guidance, source_guidance, suits = _guidance(model, request, "" if drawn else inversion, inverted)
    request = replace(
        request,
        image=None if picture is None else picture.origin,
        inversion=None if drawn else inversion,
        inversion_options=inversion_options,
        inverted=inverted,
        negative_prompt=negative_prompt,
        num_inference_steps=steps,
        guidance_scale=guidance,
        source_guidance_scale=source_guidance,
        mask=None if masking is None else masking.origin,
        options={**model.method_options.get(method.name, {}), **request.options},
    )
    notes = (
        *model.notes,
        *prompt_notes,
        *(() if picture is None else picture.notes),
        *(masking.notes if masking else ()),
        *window_notes(steps, guidance_interval=request.guidance_interval),
    )
    return EditPlan(model, request, inversion, inverted, picture, masking, drawn, suits, timesteps, chosen, notes)


def _latent_size(
    model: Model, request: EditRequest, inverted: Inversion | None, image: SourceImage | None
) -> tuple[int, int]:
    """(height, width) of the latents of a run."""
    if inverted is not None:
        return inverted.noise.shape[-2], inverted.noise.shape[-1]
    size = request.size if image is None else image.fitted.image.size
    return model.latent_shape(None if size is None else size[::-1])[1:]


def _image(request: EditRequest, inverted: Inversion | None) -> ImageSource | Origin | None:
    """The image to edit: the one that was given, else the one that the inversion holds."""
    no_file = isinstance(request.image, Origin) and request.image.path is None
    if inverted is not None and inverted.source_image is not None and (request.image is None or no_file):
        return inverted.source_image.numpy()
    return None if inverted is not None and no_file else request.image


def _masking(model: Model, request: EditRequest, image: SourceImage | None) -> Masking | None:
    masking = Masking.read(
        image, request.mask, request.mask_words, threshold=request.mask_threshold, feather=request.mask_feather,
        invert=request.mask_invert, pixels=request.mask_pixels,
    )  # fmt: skip
    if masking is not None:
        masking.check(model, request.source_prompt)
    return masking


def _guidance(
    model: Model, request: EditRequest, inversion: str, inverted: Inversion | None
) -> tuple[float, float, float | None]:
    """Guidance of the edited branches and of the source's, and what the inversion is made for; None: any."""
    inside = model.few_steps and not model.takes_guidance  # no other guidance suits such a network
    of_method = None if inside else request.entry.guidance_scale
    suited = model.method_guidance.get(request.entry.name, of_method or model.guidance_scale)
    guidance = suited if request.guidance_scale is None else request.guidance_scale
    suits = INVERSIONS[inversion].source_guidance_scale if inversion else None
    if inversion and inverted is not None:
        suits = inverted.guidance_scale
    given = request.source_guidance_scale
    return guidance, given if given is not None else guidance if suits is None else suits, suits


def _choose_inversion(method: Method, name: str | None, inverted: Inversion | None) -> str:
    """The inversion to use, "" for a method that starts from the image itself, and for a generated image.

    Raises:
        UsageError: There is no such inversion, or it does not serve the method (with the reason).
        InversionError: The method starts from the image itself, and the inversion given holds none.
    """
    made = None if inverted is None else inverted.method
    chosen = name or made or method.default_inversion
    if chosen in ("", *STARTS):
        if chosen == "picture" and not method.from_image:
            raise UsageError(
                f"{method.name} needs an inversion, and the one given holds only the image's latents: leave it out, or"
                f" give one of {', '.join(method.inversions)}"
            )
        return ""
    INVERSIONS[chosen]  # known, or an error
    if method.from_image:
        if inverted is not None and inverted.trajectory is None and inverted.source_image is None:
            raise InversionError(
                f"a {made} inversion without a trajectory holds no image for {method.name}: give the image, too"
            )
        return ""
    if chosen in method.inversions:
        return chosen
    takes = ", ".join(method.inversions)
    raise UsageError(
        f"{method.name} cannot start from inversion {chosen!r}: {method.why_not(chosen)}; it takes: {takes}"
    )
