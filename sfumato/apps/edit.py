"""`sfumato edit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.apps.console import comes_back, cost_fields, note, print_json, stdout, table, working
from sfumato.apps.options import (
    AsJson,
    Device,
    Dtype,
    Embedding,
    Fit,
    Guidance,
    Lora,
    ModelName,
    Revision,
    Size,
    Steps,
    Vae,
    Variant,
    check_pictures,
    choose_output,
    load,
    outputs,
    parse_options,
    parse_size,
)
from sfumato.apps.recipe import Recipe
from sfumato.errors import UsageError

if TYPE_CHECKING:
    from sfumato import EditResult


def edit(
    image: Annotated[
        Path | None,
        typer.Argument(
            help="The picture. Without it, the picture that the model draws of the source prompt is edited."
        ),
    ] = None,
    source: Annotated[str | None, typer.Option("--source", "-s", help="What the picture shows.")] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="What it shall show; several make several pictures.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The result.", show_default="named after the picture")
    ] = None,
    method: Annotated[str | None, typer.Option(help="See: sfumato methods.", show_default="prompt-to-prompt")] = None,
    inversion: Annotated[
        str | None, typer.Option(help="How to get back to noise.", show_default="the method's first choice")
    ] = None,
    model: ModelName = None,
    steps: Steps = None,
    guidance: Guidance = None,
    source_guidance: Annotated[
        float | None,
        typer.Option(help="Guidance of the source's own branch.", show_default="1, as --guidance for a drawn picture"),
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What to lead away from.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all draws; -1: a random one.", show_default="0")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option of the method; see: sfumato methods NAME."),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD=FACTOR", help="How strongly a word shows: 1 as is, 2 strongly, 0 not at all."),
    ] = None,
    size: Size = None,
    fit: Fit = None,
    encode_steps: Annotated[
        int | None,
        typer.Option(
            min=0, help="Steps that bring what the autoencoder gives back nearer to the picture.", show_default="0"
        ),
    ] = None,
    inversion_settings: Annotated[
        list[str] | None,
        typer.Option("--set-inversion", metavar="NAME=VALUE", help="An option of the inversion, likewise."),
    ] = None,
    inverted: Annotated[
        Path | None, typer.Option(help="A .safetensors file of `sfumato invert`, to spare the inversion.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="Repeat the edit that made this picture; other options change it.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="An image of the same size: the edit may show where it is white; grey: in part."),
    ] = None,
    mask_words: Annotated[
        list[str] | None, typer.Option(help="Such a mask from where words of --source look; repeatable.")
    ] = None,
    mask_threshold: Annotated[
        float | None, typer.Option(help="Share of the words' attention that is inside.", show_default="0.4")
    ] = None,
    mask_feather: Annotated[
        float | None, typer.Option(help="Soft edge inside the mask, pixels.", show_default="0")
    ] = None,
    mask_invert: Annotated[
        bool | None,
        typer.Option("--mask-invert/--no-mask-invert", help="All but the mask, or but the words, may change."),
    ] = None,
    mask_pixels: Annotated[
        bool | None,
        typer.Option("--mask-pixels/--no-mask-pixels", help="Outside the mask the very pixels of the picture stay."),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    variant: Variant = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    as_json: AsJson = False,
) -> None:
    """Edit a picture by text; everything else stays.

    Example: sfumato edit cat.png --source "a cat face" --target "a dog face" -o dog.png
    """
    recipe = Recipe.of_edit(like) if like is not None else None
    known: dict[str, Any] = recipe.values if recipe is not None else {}
    given = image
    ask = recipe.take if recipe is not None else lambda name, value=None: value
    if recipe is not None and given is None:
        image = recipe.image()
    again = recipe is not None and given is None and inverted is None and inversion is None and not inversion_settings
    if recipe is not None and again:
        inverted = recipe.inversion()
    targets = ask("target_prompts", target or None) or []
    if not targets:
        raise UsageError("--target is missing: say what the picture shall show, e.g. --target 'a dog face'")
    check_pictures(image)
    size_pixels = parse_size(size) or (recipe.size if recipe is not None else None)
    stem = f"{image.stem if image is not None else source or known.get('source_prompt') or 'picture'}-edit"
    path = choose_output(output, stem, ".png", count=len(targets), inputs=(image, like, inverted))

    with working("starting"):
        from sfumato.api.arguments import check_arguments
        from sfumato.api.edit import edit as run
        from sfumato.inversions.result import Inversion
        from sfumato.registry import INVERSIONS, METHODS

    start = Inversion.load(inverted) if inverted is not None else None
    if recipe is not None and again and start is not None:
        recipe.check_inversion(start)
    if start is not None and image is None and start.source_image is None:
        raise UsageError("--inverted needs IMAGE, the picture that was inverted: this file does not hold it")
    source = ask("source_prompt", source)
    if source is None and start is not None:
        source = start.prompt
    if source is None:
        raise UsageError("--source is missing: say what the picture shows, e.g. --source 'a cat face'")
    method_name = method or known.get("method", "prompt-to-prompt")
    entry = METHODS[method_name]
    same_method = method_name == known.get("method")
    options = parse_options(entry, settings, weight)
    inversion_options: dict[str, Any] = {}
    inversion_then = None
    if recipe is not None and same_method:
        options = entry.check_options(recipe.options(entry, "options", options, "--set"))
        if start is None and inversion in (None, known["inversion"]):
            inversion = inversion_then = known["inversion"] or None
    if inversion_settings or inversion is not None:
        chosen = INVERSIONS[inversion or entry.default_inversion]
        inversion_options = parse_options(chosen, inversion_settings, flag="--set-inversion")
        if recipe is not None and inversion_then is not None:
            inversion_options = recipe.options(chosen, "inversion_options", inversion_options, "--set-inversion")
    if encode_steps is None:
        encode_steps = (ask("encode_steps") or 0) if start is None and image is not None else 0
    drawn_then = known.get("image") is None
    if source_guidance is None and not (drawn_then and image is not None):
        source_guidance = known.get("source_guidance_scale")

    arguments = check_arguments(
        "edit",
        source_prompt=source,
        target_prompt=targets,
        method=method_name,
        inversion=inversion,
        inversion_options=inversion_options,
        inverted=start,
        negative_prompt=ask("negative_prompt", negative),
        num_inference_steps=ask("num_inference_steps", steps),
        guidance_scale=guidance if guidance is not None else known.get("guidance_scale"),
        source_guidance_scale=source_guidance,
        seed=seed if seed is not None else known.get("seed", 0),
        size=size_pixels,
        fit=fit.value if fit is not None else known.get("fit"),
        encode_steps=encode_steps,
        background=tuple(known.get("background", (255, 255, 255))),
        **_masking(known.get("mask") or {}, mask, mask_words, mask_threshold, mask_feather, mask_invert, mask_pixels),
        **options,
    )
    name, revision = (model or "emoji", revision) if recipe is None else recipe.model(model, revision, variant)
    added = (lora, embedding, vae) if recipe is None else recipe.parts(lora, embedding, vae)
    loaded = load(name, device, dtype, revision=revision, variant=variant, added=added)
    if recipe is not None:
        recipe.compare(loaded)
        if size is None:
            recipe.check_size(loaded)
        if given is None and image is not None:
            recipe.check_image(image, loaded)
    result = run(loaded, image, **arguments)
    if recipe is not None:
        recipe.compare_mask(result.recipe["mask"])
    result.save(path)
    if result.tried:
        from sfumato.apps.tradeoff import tradeoff_sheet
        from sfumato.images import save_image

        sheet = save_image(tradeoff_sheet(result), path.with_name(f"{path.stem}-tried.png"))
        note(f"all {len(result.tried)} candidates and their trade-off: {sheet}")
    _report(result, outputs(path, len(targets)), as_json)


def _masking(
    known: dict[str, Any],
    mask: Path | None,
    words: list[str] | None,
    threshold: float | None,
    feather: float | None,
    invert: bool | None,
    pixels: bool | None,
) -> dict[str, Any]:
    """The mask arguments of `sfumato.edit`: what was given, else what the recipe says."""
    if mask is None and not words:
        mask, words = known.get("path"), known.get("words")
    return {
        "mask": mask,
        "mask_words": words or None,
        "mask_threshold": known.get("threshold", 0.4) if threshold is None else threshold,
        "mask_feather": known.get("feather", 0.0) if feather is None else feather,
        "mask_invert": known.get("invert", False) if invert is None else invert,
        "mask_pixels": known.get("pixels", False) if pixels is None else pixels,
    }


def _report(result: EditResult, paths: list[Path], as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "command": "edit",
                "images": [str(path) for path in paths],
                "reconstruction_psnr": result.reconstruction_psnr,
                "ceiling_psnr": result.ceiling_psnr,
                "distances": None if result.distances is None else result.distances.tolist(),
                "tried": [
                    {
                        "method": edit.method,
                        "options": dict(edit.options),
                        "agreement": edit.agreement,
                        "change": edit.change,
                    }
                    for edit in result.tried
                ],
                "cost": cost_fields(result.cost),
                "notes": list(result.notes),
                "recipe": dict(result.recipe),
            }
        )
        return
    rows = [("result", ", ".join(str(path) for path in paths))]
    rows += [("source", comes_back(result.reconstruction_psnr, result.ceiling_psnr))]
    if result.distances is not None:
        first, last = result.distances[0].tolist(), result.distances[-1].tolist()
        parted = ", ".join(f"{start:.2f} to {end:.2f}" for start, end in zip(first, last, strict=True))
        rows.append(("apart", f"{parted} (distance of the latents to the source's, first and last step)"))
    rows.append(("cost", str(result.cost)))
    table(rows, to=stdout())
    for text in result.notes:
        note(text)
