"""`sfumato slider`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.apps import movie
from sfumato.apps.console import working
from sfumato.apps.loading import load, named, parts
from sfumato.apps.options import (
    AsJson,
    CacheInterval,
    ClipSkip,
    Compile,
    Device,
    Dtype,
    Embedding,
    EncodeSteps,
    Fast,
    Fit,
    Guidance,
    GuidanceInterval,
    InversionSettings,
    Lora,
    Mask,
    MaskFeather,
    MaskInvert,
    MaskPixels,
    MaskThreshold,
    MaskWords,
    MethodSettings,
    ModelName,
    Offload,
    Revision,
    Size,
    Steps,
    Vae,
    Variant,
)
from sfumato.apps.values import check_images, given, parse_interval, parse_inversion_options, parse_options, parse_size
from sfumato.errors import UsageError

if TYPE_CHECKING:
    from sfumato.api.vary import Vary

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def slider(
    image: Annotated[
        Path | None,
        typer.Argument(help="The image. Without one, the model draws an image of the source prompt."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", "-s", help="Source prompt: what the image shows.", show_default="empty")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", "-t", help="Target prompt: what the last frame should show.", show_default="the source prompt"
        ),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LOW..HIGH",
            help="The option of the method that changes from frame to frame, with its first and last value; for the"
            " weight of a word weights.WORD=LOW..HIGH. Repeatable.",
            show_default="none: from the source to the full edit",
        ),
    ] = None,
    output: movie.Output = None,
    method: Annotated[
        str | None, typer.Option(help="Editing method; see: sfumato methods.", show_default="what suits the model")
    ] = None,
    fast: Fast = False,
    inversion: Annotated[
        str | None,
        typer.Option(
            help="Inversion: how the image is turned into noise; see: sfumato methods.",
            show_default="the method's first choice",
        ),
    ] = None,
    frames: Annotated[int, typer.Option(help="Number of frames, the first and the last included; at least 3.")] = 8,
    spacing: movie.Spacing = None,
    distance: movie.DistanceName = None,
    settings: MethodSettings = None,
    spacing_settings: movie.SpacingSettings = None,
    model: ModelName = None,
    steps: Steps = None,
    guidance: Guidance = None,
    guidance_interval: GuidanceInterval = None,
    cache_interval: CacheInterval = None,
    negative: Annotated[str, typer.Option(help="Negative prompt: what the frames should not show.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of all random draws; -1 picks a random one.")] = 0,
    size: Size = None,
    fit: Fit = None,
    encode_steps: EncodeSteps = 0,
    inversion_settings: InversionSettings = None,
    source_guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale of the source branch.", show_default="as the inversion needs it, often 1"),
    ] = None,
    mask: Mask = None,
    mask_words: MaskWords = None,
    mask_threshold: MaskThreshold = None,
    mask_feather: MaskFeather = None,
    mask_invert: MaskInvert = None,
    mask_pixels: MaskPixels = None,
    alpha: Annotated[
        bool, typer.Option("--alpha/--no-alpha", help="Keep the transparency of a transparent image.")
    ] = True,
    fps: movie.Fps = 8.0,
    hold: movie.Hold = None,
    bounce: movie.Bounce = False,
    easing: movie.Eased = movie.Easing.linear,
    inbetweens: movie.Inbetweens = 0,
    scale: movie.Scale = None,
    strip: movie.Strip = None,
    plot: movie.Plot = None,
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
    """Show an edit as a sequence, from the source to the full edit, or along an option's range.

    Example: sfumato slider cat.png --source "a cat" --target "a dog" -o cat-to-dog.webp
    """
    if source is None:
        raise UsageError("--source is missing: say what the image shows, such as --source 'a cat'")
    check_images(image, mask)
    ranges = parse_ranges(vary or [])
    size_pixels, interval = parse_size(size), parse_interval(guidance_interval)
    path = movie.choose_movie(output, f"{image.stem if image is not None else source}-slider", inputs=(image, mask))
    movie.check_extras((strip, plot), [image] if image is not None else [])
    playing = movie.check_playing(path, fps, hold, bounce, easing, inbetweens, scale)

    with working("starting"):
        from sfumato.api.arguments import num_frames
        from sfumato.api.requests import SliderRequest
        from sfumato.edits.method import METHODS
        from sfumato.morphs.spacings.base import SPACINGS

    name, method = named(model, method, fast=fast, revision=revision, variant=variant)
    options = parse_options(METHODS[method], settings)
    movie.check_distance(distance)
    spacing_name = spacing or "uniform"
    spacing_options = parse_options(SPACINGS[spacing_name], spacing_settings, flag="--set-spacing")
    num_frames("--frames", frames)
    request = SliderRequest(
        image=image,
        source_prompt=source,
        target_prompt=() if target is None else target,
        method=method,
        fast=fast,
        vary=ranges or None,
        num_frames=frames,
        spacing=spacing_name,
        spacing_options=spacing_options,
        distance=distance,
        inversion=inversion,
        inversion_options=parse_inversion_options(inversion_settings or [], inversion, method),
        encode_steps=encode_steps,
        source_guidance_scale=source_guidance,
        negative_prompt=negative,
        num_inference_steps=steps,
        guidance_scale=guidance,
        seed=seed,
        size=size_pixels,
        fit=fit.value if fit is not None else None,
        alpha=alpha,
        options=options,
        **given(
            guidance_interval=interval,
            cache_interval=cache_interval,
            mask=mask,
            mask_words=mask_words or None,
            mask_threshold=mask_threshold,
            mask_feather=mask_feather,
            mask_invert=mask_invert,
            mask_pixels=mask_pixels,
        ),
    )
    added = parts(lora, embedding, vae, clip_skip)
    loaded = load(name, device, dtype, compile_, offload, revision=revision, variant=variant, added=added)
    result = request.run(loaded)
    movie.write(result, path, playing, strip, plot)
    movie.report(result, path, strip, plot, as_json=as_json)


def parse_ranges(given: list[str]) -> Vary:
    """Reads NAME=LOW..HIGH and NAME.WORD=LOW..HIGH.

    Raises:
        UsageError: It is something else, or something is given twice.
    """
    ranges: dict[str, Any] = {}
    for text in given:
        name, _, ends = text.partition("=")
        found = re.fullmatch(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*", ends)
        name, dot, word = (part.strip() for part in name.partition("."))
        if found is None or not name or (dot and not word):
            raise UsageError(f"--vary takes NAME=LOW..HIGH, such as weights.red=0..3, got {text!r}")
        name, pair = name.replace("-", "_"), (float(found[1]), float(found[2]))
        table = ranges.setdefault(name, {}) if dot else ranges
        if not isinstance(table, dict) or (word or name) in table:
            raise UsageError(f"--vary {name} is given twice")
        table[word or name] = pair
    return ranges
