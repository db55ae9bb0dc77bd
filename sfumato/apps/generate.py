"""`sfumato generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfumato.apps.console import cost_fields, print_json, table, working
from sfumato.apps.loading import load, parts
from sfumato.apps.options import (
    AsJson,
    CacheInterval,
    ClipSkip,
    Compile,
    Device,
    Dtype,
    Embedding,
    Guidance,
    GuidanceInterval,
    Lora,
    ModelName,
    Offload,
    Revision,
    Size,
    Steps,
    Vae,
    Variant,
)
from sfumato.apps.outputs import choose_output, outputs
from sfumato.apps.values import given, parse_interval, parse_size


def generate(
    prompt: Annotated[str, typer.Argument(help="What the image should show.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File of the image.", show_default="named after the prompt")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many images.")] = 1,
    model: ModelName = None,
    steps: Steps = None,
    guidance: Guidance = None,
    guidance_interval: GuidanceInterval = None,
    cache_interval: CacheInterval = None,
    negative: Annotated[str, typer.Option(help="Negative prompt: what the image should not show.")] = "",
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Sampling rule: ddim, ddpm, euler, euler-ancestral, dpm-solver++, lcm or tcd.",
            show_default="the model's own choice",
        ),
    ] = None,
    eta: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of fresh noise at each step: 0 is DDIM, 1 is DDPM.")
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(help="Seed of all random draws; further images take the next ones. -1 picks a random one.")
    ] = 0,
    size: Size = None,
    device: Device = None,
    dtype: Dtype = None,
    compile_: Compile = False,
    offload: Offload = None,
    revision: Revision = None,
    variant: Variant = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    clip_skip: ClipSkip = None,
    as_json: AsJson = False,
) -> None:
    """Generate images from text.

    Example: sfumato generate "a cat and a pizza on a blue background" -o cat.png
    """
    size_pixels, interval = parse_size(size), parse_interval(guidance_interval)
    path = choose_output(output, prompt, ".png", count=count)
    with working("starting"):
        from sfumato.api.requests import GenerateRequest

    request = GenerateRequest(
        prompt=prompt,
        negative_prompt=negative,
        num_images=count,
        num_inference_steps=steps,
        guidance_scale=guidance,
        sampler=sampler,
        eta=eta,
        seed=seed,
        size=size_pixels,
        **given(guidance_interval=interval, cache_interval=cache_interval),
    )
    added = parts(lora, embedding, vae, clip_skip)
    loaded = load(model or "emoji", device, dtype, compile_, offload, revision=revision, variant=variant, added=added)
    result = request.run(loaded)
    result.save(path)
    paths = [str(name) for name in outputs(path, count)]
    if as_json:
        fields = {"images": paths, "cost": cost_fields(result.cost), "recipe": dict(result.recipe)}
        fields["notes"] = list(result.notes)
        print_json({"command": "generate", **fields})
    else:
        table([("result", ", ".join(paths)), ("cost", str(result.cost))])
