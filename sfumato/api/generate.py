"""The public verb `generate`: images from text."""

from __future__ import annotations

from dataclasses import replace

import torch

from sfumato.api.arguments import boundary
from sfumato.api.common import check_prompts, drawn_noise, seeded
from sfumato.api.cost import measured
from sfumato.api.request import recipe_of
from sfumato.api.requests import GenerateRequest
from sfumato.api.results import GenerateResult
from sfumato.images import to_images
from sfumato.models.base import Model
from sfumato.models.traits import check_cache
from sfumato.sampling.layout import Branch, limited
from sfumato.sampling.loop import sample
from sfumato.sampling.samplers import DEFAULT, stepper_of
from sfumato.sampling.shares import window_notes
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch, progress_bar


@boundary
def generate(
    model: Model,
    prompt: str,
    *,
    negative_prompt: str = "",
    num_images: int = 1,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    cache_interval: int = 1,
    sampler: str | None = None,
    eta: float = 0.0,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    watch: Watch | None = None,
) -> GenerateResult:
    """Generates images from text.

    Args:
        model: From `load_model`.
        prompt: What the image should show.
        negative_prompt: What the image should not show.
        num_images: How many, in one batch, at least 1.
        num_inference_steps, guidance_scale: None: the model's own choice.
        guidance_interval: Shares of the steps, (start, end) in [0, 1] from the noisy end, where the images are guided;
            each step outside of it costs one evaluation less an image.
        cache_interval: As for `edit`.
        sampler: Name of the sampling rule, one of `sfumato.sampling.samplers.SAMPLERS`; None: the model's own choice.
        eta: 0 = DDIM, 1 = DDPM, in [0, 1]; of the sampler ddim alone.
        seed: Of all draws of the first image; each further image has the next seed, so that it does not depend on the
            number of images. -1: a random one, which the recipe records.
        size: (width, height) in pixels; None: what the model was trained at.
        watch: Progress, previews, cancellation; None: a progress bar when stderr is a terminal.

    Raises:
        UsageError: An argument is out of range.
        SamplingError: The run broke down.
    """
    request = GenerateRequest(
        prompt=prompt,
        negative_prompt=negative_prompt,
        num_images=num_images,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        cache_interval=cache_interval,
        sampler=sampler,
        eta=eta,
        seed=seed,
        size=size,
    )
    return request.run(model, watch=watch)


def run(model: Model, request: GenerateRequest, watch: Watch | None = None) -> GenerateResult:
    """Runs a request, see `generate`."""
    prompt, negative_prompt = request.prompt, request.negative_prompt
    notes = [*model.notes, *check_prompts(prompt=prompt, negative_prompt=negative_prompt)]
    steps = model.num_inference_steps if request.num_inference_steps is None else request.num_inference_steps
    guidance = model.guidance_scale if request.guidance_scale is None else request.guidance_scale
    check_cache(model, request.cache_interval)
    scale = limited(guidance, request.guidance_interval)
    notes += window_notes(steps, guidance_interval=request.guidance_interval)
    sampler = request.sampler or (DEFAULT if request.eta else model.sampler)
    stepper = stepper_of(sampler, model.schedule, eta=request.eta)
    request = replace(request, num_inference_steps=steps, guidance_scale=guidance, sampler=sampler)
    generators = [seeded(request.seed, k) for k in range(request.num_images)]
    with progress_bar(watch=watch) as watching, taking_turns(model, watch=watching), measured(model) as cost:
        condition = model.encode_prompt([prompt, negative_prompt])
        latents = sample(
            model,
            drawn_noise(model, generators, request.size),
            {"sample": Branch(condition[[0]], condition[[1]], scale)},
            num_inference_steps=steps,
            stepper=stepper,
            generator=generators,
            cache_interval=request.cache_interval,
            watch=watching.during("drawing"),
        )
        with torch.no_grad():
            images = to_images(model.decode_latents(latents[0]))
    return GenerateResult(tuple(images), recipe_of(request, model), cost, tuple(notes))
