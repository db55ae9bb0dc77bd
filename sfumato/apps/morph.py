"""`sfumato morph`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sfumato.apps import movie
from sfumato.apps.console import note, working
from sfumato.apps.loading import load, parts
from sfumato.apps.options import (
    AsJson,
    ClipSkip,
    Compile,
    Device,
    Dtype,
    Embedding,
    EncodeSteps,
    Fit,
    Guidance,
    Lora,
    MethodSettings,
    ModelName,
    Offload,
    Revision,
    Size,
    Steps,
    Vae,
    Variant,
)
from sfumato.apps.values import check_images, parse_options, parse_size
from sfumato.errors import Cancelled, UsageError


def morph(
    images: Annotated[list[Path], typer.Argument(help="Two images or more, in the order of the morph.")],
    output: movie.Output = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            "-p",
            help="What the images show: one prompt for all, or repeated, one for each.",
            show_default="empty",
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="Morphing method; see: sfumato methods.")] = "impus",
    frames: Annotated[int, typer.Option(help="Frames from each image to the next, both included; at least 3.")] = 16,
    one_pace: Annotated[
        bool,
        typer.Option("--one-pace", help="With three images or more: give more frames to pairs that are farther apart."),
    ] = False,
    spacing: movie.Spacing = None,
    distance: movie.DistanceName = None,
    settings: MethodSettings = None,
    spacing_settings: movie.SpacingSettings = None,
    model: ModelName = None,
    steps: Steps = None,
    guidance: Guidance = None,
    negative: Annotated[str, typer.Option(help="Negative prompt: what the frames should not show.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of all random draws; -1 picks a random one.")] = 0,
    size: Size = None,
    fit: Fit = None,
    encode_steps: EncodeSteps = 20,
    fps: movie.Fps = 12.0,
    hold: movie.Hold = None,
    bounce: movie.Bounce = False,
    alpha: Annotated[
        bool, typer.Option("--alpha/--no-alpha", help="Keep the transparency of transparent images.")
    ] = True,
    easing: movie.Eased = movie.Easing.linear,
    inbetweens: movie.Inbetweens = 0,
    scale: movie.Scale = None,
    strip: movie.Strip = None,
    plot: movie.Plot = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Folder for what a method trains, so that the same morph is not trained twice.",
            show_default="morph in ~/.cache/sfumato",
        ),
    ] = None,
    no_store: Annotated[bool, typer.Option("--no-store", help="Do not keep what a method trains.")] = False,
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
    """Morph one image into another, or along a path through several.

    Example: sfumato morph cat.png dog.png -p "a cat" -p "a dog" -o cat-to-dog.webp
    """
    if len(images) < 2:
        raise UsageError(f"a morph needs at least two images, got {len(images)}")
    if store is not None and no_store:
        raise UsageError("--store and --no-store contradict each other: give one of them")
    check_images(*images)
    size_pixels = parse_size(size)
    path = movie.choose_movie(output, f"{images[0].stem}-to-{images[-1].stem}", inputs=images)
    movie.check_extras((strip, plot), images)
    playing = movie.check_playing(path, fps, hold, bounce, easing, inbetweens, scale, images)

    with working("starting"):
        from sfumato.api.arguments import num_frames
        from sfumato.api.morph_plan import default_store
        from sfumato.api.requests import MorphRequest
        from sfumato.morphs.method import MORPHS
        from sfumato.morphs.spacings.base import SPACINGS

    entry = MORPHS[method]
    options = parse_options(entry, settings)
    movie.check_distance(distance)
    spacing_name = spacing or entry.spacing
    spacing_options = parse_options(SPACINGS[spacing_name], spacing_settings, flag="--set-spacing")
    num_frames("--frames", frames)
    kept: Path | Literal[False] | None = False if no_store else store
    request = MorphRequest(
        images=images,
        prompts=prompt or None,
        method=method,
        num_frames=frames,
        one_pace=one_pace,
        spacing=spacing_name,
        spacing_options=spacing_options,
        distance=distance,
        negative_prompt=negative,
        num_inference_steps=steps,
        guidance_scale=guidance,
        seed=seed,
        size=size_pixels,
        fit=fit.value if fit is not None else None,
        encode_steps=encode_steps,
        store=kept,
        alpha=alpha,
        options=options,
    )
    added = parts(lora, embedding, vae, clip_skip)
    loaded = load(model or "emoji", device, dtype, compile_, offload, revision=revision, variant=variant, added=added)
    try:
        result = request.run(loaded)
    except (KeyboardInterrupt, Cancelled):
        if kept is not False:
            note(f"what was trained so far is in {kept or default_store()}: the same command continues from there")
        raise
    movie.write(result, path, playing, strip, plot)
    movie.report(result, path, strip, plot, as_json=as_json)
