"""`sfumato translate`."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.apps.console import cost_fields, note, print_json, stdout, table, working
from sfumato.apps.loading import load, parts
from sfumato.apps.options import (
    AsJson,
    ClipSkip,
    Compile,
    Device,
    Dtype,
    Embedding,
    Fit,
    Lora,
    Offload,
    Size,
    Steps,
    Vae,
)
from sfumato.apps.outputs import choose_output, choose_outputs
from sfumato.apps.values import check_images, parse_size
from sfumato.errors import UsageError

if TYPE_CHECKING:
    from sfumato import TranslateResult


class Way(StrEnum):
    """The methods of `sfumato.api.translate` as typer wants them."""

    cycle_diffusion = "cycle-diffusion"
    ddib = "ddib"


def translate(
    images: Annotated[list[Path], typer.Argument(help="The image, or several.")],
    source_model: Annotated[
        str, typer.Option("--from", help="Source model: one of images like yours; named as in sfumato edit --model.")
    ],
    target_model: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Target model: one of images such as the result should be.",
            show_default="the source model, with two prompts",
        ),
    ] = None,
    source_revision: Annotated[
        str | None, typer.Option("--from-revision", help="Branch, tag or commit of --from, if it is a hub model.")
    ] = None,
    target_revision: Annotated[
        str | None, typer.Option("--to-revision", help="Branch, tag or commit of --to, if it is a hub model.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File of the result; for several images a folder that exists.",
            show_default="named after the image",
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option("--source", "-s", help="What the images show, for a model with text.", show_default="empty"),
    ] = "",
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", help="What the results should show, for a model with text.", show_default="empty"
        ),
    ] = "",
    negative: Annotated[
        str,
        typer.Option(
            help="Negative prompt: what the results should not show, for a model with text.", show_default="empty"
        ),
    ] = "",
    method: Annotated[
        Way,
        typer.Option(
            help="cycle-diffusion (both models use the same random draws) or ddib (deterministic).",
            case_sensitive=False,
        ),
    ] = Way.cycle_diffusion,
    steps: Steps = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="Share of the steps that are run, in [0, 1]; lower keeps more of the image.",
            show_default="0.85, ddib: 1",
        ),
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(
            help="Share of fresh noise at each step, above 0, at most 1; for cycle-diffusion.", show_default="0.1"
        ),
    ] = None,
    guidance: Annotated[float, typer.Option(help="Guidance scale of the target model, 1 (off) to 100.")] = 1.0,
    source_guidance: Annotated[float, typer.Option(help="Guidance scale of the source model, 1 (off) to 100.")] = 1.0,
    refine_strength: Annotated[
        float | None,
        typer.Option(
            help="Strength of an SDEdit with the target model afterwards, in [0, 1]; 0 is off.", show_default="0"
        ),
    ] = None,
    refine_repeats: Annotated[
        int | None, typer.Option(help="How often that SDEdit is repeated.", show_default="1")
    ] = None,
    reconstruction: Annotated[
        Path | None,
        typer.Option(
            help="Also write the source model's reconstruction; for a single image.", show_default="not written"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random draws; -1 picks a random one.")] = 0,
    size: Size = None,
    fit: Fit = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    clip_skip: ClipSkip = None,
    device: Device = None,
    dtype: Dtype = None,
    compile_: Compile = False,
    offload: Offload = None,
    as_json: AsJson = False,
) -> None:
    """Translate images from the domain of one model to that of another, each trained by itself.

    Example: sfumato translate cat.png --from ./cats-256 --to ./dogs-256 -o dog.png
    """
    check_images(*images)
    if target_model is None and source == target:
        raise UsageError("give --to, the other model; or --source and --target, two prompts of the same model")
    if reconstruction is not None and len(images) > 1:
        raise UsageError(f"--reconstruction is for a single image, got {len(images)}: leave it out")
    pixels = parse_size(size)
    paths = choose_outputs(output, [image.stem for image in images], "translated", inputs=images)
    back = None
    if reconstruction is not None:
        back = choose_output(reconstruction, "", ".png", inputs=images)

    with working("starting"):
        from sfumato.api.requests import TranslateRequest
        from sfumato.images import save_image

    requests = [
        TranslateRequest(
            image=image,
            method=method.value,
            source_prompt=source,
            target_prompt=target,
            negative_prompt=negative,
            num_inference_steps=steps,
            guidance_scale=guidance,
            source_guidance_scale=source_guidance,
            strength=strength,
            eta=eta,
            refine_strength=refine_strength,
            refine_repeats=refine_repeats,
            reconstruct_source=back is not None,
            seed=seed,
            size=pixels,
            fit=fit.value if fit is not None else None,
        )
        for image in images
    ]
    same = target_model in (None, source_model) and target_revision in (None, source_revision)
    added = parts(lora, embedding, vae, clip_skip)
    loading = partial(load, device=device, dtype=dtype, added=added, compile_=compile_, offload=offload)
    model_a = loading(source_model, revision=source_revision)
    model_b = model_a if same else loading(target_model or source_model, revision=target_revision)
    results = []
    for request, path in zip(requests, paths, strict=True):
        result = request.run(model_a, model_b)
        result.save(path)
        if back is not None:
            assert result.reconstruction is not None
            save_image(result.reconstruction, back, recipe=result.recipe)
        results.append(result)
    _report(results, paths, back, as_json)


def _report(results: list[TranslateResult], paths: list[Path], back: Path | None, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "command": "translate",
                "images": [str(path) for path in paths],
                "reconstruction": None if back is None else str(back),
                "pictures": [
                    {
                        "image": str(path),
                        "faithfulness_psnr": result.faithfulness_psnr,
                        "reconstruction_psnr": result.reconstruction_psnr,
                        "cost": cost_fields(result.cost),
                        "notes": list(result.notes),
                        "recipe": dict(result.recipe),
                    }
                    for path, result in zip(paths, results, strict=True)
                ],
            }
        )
        return
    for path, result in zip(paths, results, strict=True):
        rows = [("result", str(path)), ("kept of the source", f"PSNR {result.faithfulness_psnr:.2f} dB")]
        if back is not None and result.reconstruction_psnr is not None:
            rows.append(("source model gives back", f"{back}, PSNR {result.reconstruction_psnr:.2f} dB"))
        table([*rows, ("cost", str(result.cost))], to=stdout())
        for text in result.notes:
            note(text)
