"""`sfumato invert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfumato.apps.console import comes_back, cost_fields, note, print_json, table, working
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
    Lora,
    ModelName,
    Offload,
    Revision,
    Size,
    Steps,
    Vae,
    Variant,
)
from sfumato.apps.outputs import choose_output
from sfumato.apps.values import check_images, parse_options, parse_size


def invert(
    image: Annotated[Path, typer.Argument(help="The image.")],
    source: Annotated[str, typer.Option("--source", "-s", help="Source prompt: what the image shows.")] = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The .safetensors file to write.", show_default="named after the image"),
    ] = None,
    reconstruction: Annotated[
        Path | None, typer.Option(help="Also write the reconstruction, as an image.", show_default="not written")
    ] = None,
    inversion: Annotated[str, typer.Option(help="Inversion to use; see: sfumato methods.")] = "direct",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An option of the inversion; see: sfumato methods INVERSION. Repeatable.",
        ),
    ] = None,
    model: ModelName = None,
    steps: Steps = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Guidance scale of the source branch, 1 (off) to 100, at which the image is to be reconstructed.",
            show_default="what the inversion is made for",
        ),
    ] = None,
    negative: Annotated[str, typer.Option(help="Negative prompt of the source branch.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the inversion's random draws; -1 picks a random one.")] = 0,
    size: Size = None,
    fit: Fit = None,
    encode_steps: EncodeSteps = 0,
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
    """Invert an image once, to edit it many times with `sfumato edit --inverted`.

    Example: sfumato invert cat.png --source "a cat" -o cat.safetensors
    """
    check_images(image)
    size_pixels = parse_size(size)
    path = choose_output(output, image.stem, ".safetensors", inputs=(image,))
    if reconstruction is not None:
        choose_output(reconstruction, "", ".png", inputs=(image,))

    with working("starting"):
        from sfumato.api.requests import InvertRequest
        from sfumato.images import save_image
        from sfumato.inversions.method import INVERSIONS

    request = InvertRequest(
        image=image,
        prompt=source,
        negative_prompt=negative,
        method=inversion,
        num_inference_steps=steps,
        guidance_scale=guidance,
        seed=seed,
        size=size_pixels,
        fit=fit.value if fit is not None else None,
        encode_steps=encode_steps,
        options=parse_options(INVERSIONS[inversion], settings),
    )
    added = parts(lora, embedding, vae, clip_skip)
    loaded = load(model or "emoji", device, dtype, compile_, offload, revision=revision, variant=variant, added=added)
    result = request.run(loaded)
    if reconstruction is not None:
        save_image(result.reconstruction, reconstruction, recipe=result.recipe)
    result.inversion.save(path)
    if as_json:
        print_json(
            {
                "command": "invert",
                "inversion": str(path),
                "reconstruction": None if reconstruction is None else str(reconstruction),
                "reconstruction_psnr": result.reconstruction_psnr,
                "ceiling_psnr": result.ceiling_psnr,
                "cost": cost_fields(result.cost),
                "notes": list(result.notes),
                "recipe": dict(result.recipe),
            }
        )
        return
    rows = [("result", str(path)), *([("image", str(reconstruction))] if reconstruction is not None else [])]
    rows += [("source", comes_back(result.reconstruction_psnr, result.ceiling_psnr)), ("cost", str(result.cost))]
    table(rows)
    for text in result.notes:
        note(text)
