"""`sfumato edit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.apps.console import note, working
from sfumato.apps.edit_report import report, save_tried
from sfumato.apps.loading import load, named, parts
from sfumato.apps.options import (
    AsJson,
    CacheInterval,
    ClipSkip,
    Compile,
    Device,
    Dtype,
    Embedding,
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
from sfumato.apps.outputs import choose_outputs, outputs
from sfumato.apps.values import check_images, given, parse_interval, parse_inversion_options, parse_options, parse_size
from sfumato.checks import shown
from sfumato.errors import UsageError

if TYPE_CHECKING:
    from sfumato import EditResult
    from sfumato.api.recipe import Recipe
    from sfumato.api.requests import EditRequest
    from sfumato.models.base import Model


def edit(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="The image, or several. Without one, the model draws an image of the source prompt and edits it."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", "-s", help="Source prompt: what the image shows.", show_default="empty")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Target prompt: what the result should show; repeated, one result each."),
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
    model: ModelName = None,
    steps: Steps = None,
    guidance: Guidance = None,
    guidance_interval: GuidanceInterval = None,
    cache_interval: CacheInterval = None,
    source_guidance: Annotated[
        float | None,
        typer.Option(
            help="Guidance scale of the source branch, that is of the reconstruction.",
            show_default="as the inversion needs it, often 1; for a generated image --guidance",
        ),
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="Negative prompt: what the result should not show.", show_default="empty")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of all random draws; -1 picks a random one.", show_default="0")
    ] = None,
    settings: MethodSettings = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD=FACTOR",
            help="Strength of a word of the target prompt: above 1 stronger, below 1 weaker, 0 absent. Repeatable; for"
            " prompt-to-prompt.",
        ),
    ] = None,
    size: Size = None,
    fit: Fit = None,
    encode_steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Optimisation steps that bring the autoencoder's reconstruction closer to the image; 20 is usual.",
            show_default="0, off",
        ),
    ] = None,
    inversion_settings: InversionSettings = None,
    inverted: Annotated[
        Path | None, typer.Option(help="A file of `sfumato invert`, so that the image is not inverted again.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="Repeat the edit that made this image; options given beside it replace its own.")
    ] = None,
    mask: Mask = None,
    mask_words: MaskWords = None,
    mask_threshold: MaskThreshold = None,
    mask_feather: MaskFeather = None,
    mask_invert: MaskInvert = None,
    mask_pixels: MaskPixels = None,
    alpha: Annotated[
        bool | None,
        typer.Option("--alpha/--no-alpha", help="Keep the transparency of a transparent image.", show_default="yes"),
    ] = None,
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
    """Edit an image by text; everything else stays. Several images are edited alike, each with the next seed.

    Example: sfumato edit cat.png --source "a cat" --target "a dog" -o dog.png
    """
    if like is None and not target:
        raise UsageError("--target is missing: say what the result should show, such as --target 'a dog'")
    images = images or []
    check_images(*images)
    if inverted is not None and len(images) > 1:
        raise UsageError(f"--inverted holds one image, got {len(images)} images: give one image with it, or none")
    asked = given(
        image=images[0] if images else None,
        source_prompt=source,
        target_prompt=target or None,
        method=method,
        fast=fast or None,
        inversion=inversion,
        negative_prompt=negative,
        num_inference_steps=steps,
        guidance_scale=guidance,
        guidance_interval=parse_interval(guidance_interval),
        cache_interval=cache_interval,
        source_guidance_scale=source_guidance,
        seed=seed,
        size=parse_size(size),
        fit=fit.value if fit is not None else None,
        encode_steps=encode_steps,
        mask=mask,
        mask_words=mask_words or None,
        mask_threshold=mask_threshold,
        mask_feather=mask_feather,
        mask_invert=mask_invert,
        mask_pixels=mask_pixels,
        alpha=alpha,
    )
    with working("starting"):
        from sfumato.api.recipe import Recipe
        from sfumato.api.several_edits import several
        from sfumato.inversions.result import Inversion

    if fast and like is not None:
        raise UsageError("--like repeats an edit by its own method and model: leave out --fast")
    recipe = Recipe.read(like) if like is not None else None
    asked |= given(inverted=None if inverted is None else Inversion.load(inverted))
    texts = _Settings(settings or [], weight or [], inversion_settings or [])
    if recipe is None:
        _say_source(asked)
        # before the model, which its default method may have to be asked for
        paths = _outputs(output, images, asked, len(target or ()))
        name, asked["method"] = named(model, method, fast=fast, revision=revision, variant=variant)
        request, added = _new(asked, texts), parts(lora, embedding, vae, clip_skip)
    else:
        request = _again(recipe, asked, texts)
        paths = _outputs(output, images, vars(request), len(request.targets), like)
        name, revision = recipe.model(model, revision, variant)
        added = recipe.parts(lora, embedding, vae, clip_skip)
    loaded = load(name, device, dtype, compile_, offload, revision=revision, variant=variant, added=added)
    if recipe is not None:
        for text in recipe.differences(loaded):
            note(text)
        if "size" not in asked:
            recipe.check_size(request, loaded)
    results = _run(loaded, several(request, images) if images else [request], paths)
    report(results, [outputs(path, len(request.targets)) for path in paths], as_json)


def _run(model: Model, requests: list[EditRequest], paths: list[Path]) -> list[EditResult]:
    """The results in the order of their files, each saved as soon as it is there."""
    from sfumato.api.several_edits import run_each

    results: dict[int, EditResult] = {}
    for k, result in run_each(model, requests):
        result.save(paths[k])
        save_tried(result, paths[k])
        results[k] = result
    return [results[k] for k in range(len(paths))]


@dataclass(frozen=True)
class _Settings:
    """Options of the method and of the inversion as the command was given them."""

    method: list[str]
    weights: list[str]
    inversion: list[str]

    def of_method(self, name: str) -> dict[str, Any]:
        from sfumato.edits.method import METHODS

        return parse_options(METHODS[name], self.method, self.weights)

    def of_inversion(self, name: str | None, method: str) -> dict[str, Any]:
        return parse_inversion_options(self.inversion, name, method)


def _say_source(asked: dict[str, Any]) -> None:
    """Adds the source prompt, of the inversion where none is given.

    Raises:
        UsageError: There is none, or no image.
    """
    start = asked.get("inverted")
    if start is not None and start.source_image is None and "image" not in asked:
        raise UsageError("--inverted needs IMAGE, the image that was inverted: this file does not hold it")
    source = asked.setdefault("source_prompt", None if start is None else start.prompt)
    if source is None:
        raise UsageError("--source is missing: say what the image shows, such as --source 'a cat'")


def _new(asked: dict[str, Any], texts: _Settings) -> EditRequest:
    """The request that the options make."""
    from sfumato.api.requests import EditRequest

    method = asked["method"]
    inversion_options = texts.of_inversion(asked.get("inversion"), method)
    return EditRequest(**asked, options=texts.of_method(method), inversion_options=inversion_options)


def _again(recipe: Recipe, asked: dict[str, Any], texts: _Settings) -> EditRequest:
    """The request of a recipe, with what was given in the place of what it says."""
    from sfumato.api.requests import EditRequest

    then = recipe.request
    if type(then) is not EditRequest:
        raise UsageError(f"{recipe.file} was made by `sfumato {then.command}`; --like repeats edits only")
    for name in recipe.unknown[:5]:
        note(f"the recipe in {recipe.file} says {shown(name)}, which this version does not know")
    method = asked.get("method", then.entry.name)
    options = texts.of_method(method)
    own = {*asked, *(f"options.{name}" for name in options)}
    if method == then.method:
        changes = {**asked, "options": {**then.options, **options}}
    else:
        changes, own = {**asked, "options": options}, {*own, "options"}
    inversion, chosen = _inversion_again(then, asked, texts, method)
    changes |= inversion
    own |= chosen
    if "image" in asked and then.image is None:  # drawn then: its guidance was that of a drawn source
        changes.setdefault("source_guidance_scale", None)
    if changes["inverted"] is not None or changes.get("image", then.image) is None:
        changes.setdefault("encode_steps", 0)
    if "mask" in asked or "mask_words" in asked:
        changes = {"mask": None, "mask_words": None, **changes}
    request = replace(then, **changes)
    recipe.check_bounds(request, own)
    return recipe.opened(request, own)


def _inversion_again(
    then: EditRequest, asked: dict[str, Any], texts: _Settings, method: str
) -> tuple[dict[str, Any], set[str]]:
    """The arguments of the inversion, and which of them the user gave, as `Recipe.check_bounds` takes them."""
    start = asked.get("inverted")
    if not texts.inversion and not {"image", "inverted", "inversion"} & asked.keys():
        start = then.inverted
    name = asked.get("inversion")
    same = start is None and method == then.method and name in (None, then.inversion)
    name = (then.inversion or None) if same else name
    options = texts.of_inversion(name, method)
    chosen = {f"inversion_options.{key}" for key in options}
    if same and name is not None:
        options = {**(then.inversion_options or {}), **options}
    return {"inverted": start, "inversion": name, "inversion_options": options}, chosen


def _outputs(
    output: Path | None, images: list[Path], said: Mapping[str, Any], count: int, like: Path | None = None
) -> list[Path]:
    """The files of the results, checked to be writable and none of the inputs; `said` are arguments of the edit."""
    from sfumato.api.origin import path_of

    image, *others = (path_of(said.get(name)) for name in ("image", "inverted", "mask"))
    stems = [path.stem for path in images] or [said["source_prompt"] if image is None else Path(image).stem]
    inputs = [*images, *(Path(path) for path in (image, *others, like) if path is not None)]
    return choose_outputs(output, stems, "edit", count=count, inputs=inputs)
