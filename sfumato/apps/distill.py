"""`sfumato distill`."""

from __future__ import annotations

import itertools
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.apps.console import note, print_json, table, working
from sfumato.apps.loading import load, parts
from sfumato.apps.options import (
    AsJson,
    ClipSkip,
    Device,
    Dtype,
    Embedding,
    Fit,
    Guidance,
    InversionSettings,
    Lora,
    MethodSettings,
    ModelName,
    Revision,
    Size,
    Steps,
    Vae,
    Variant,
)
from sfumato.apps.outputs import choose_output
from sfumato.apps.values import parse_inversion_options, parse_options, parse_size
from sfumato.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from sfumato.api.distill import DistillResult


class StudentKinds(StrEnum):
    """The kinds of students as typer wants them."""

    small = "small"
    one_step = "one-step"


SHEET = "distill-sheet"
"""Marks the image of held-out pairs, which the next run may replace."""
WORK = ".distill"
"""Ending of the folder of pairs and checkpoints, beside the output."""


def distill(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE|FOLDER|MANIFEST]...",
            help="Images to learn from, or a manifest with image,source_prompt,target_prompt.",
            show_default="the model draws them",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The distilled edit, NAME.safetensors; a run that was stopped goes on."),
    ] = None,
    source: Annotated[str | None, typer.Option("--source", "-s", help="Source prompt: what the images show.")] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Target prompt: what the results should show.")
    ] = None,
    draw: Annotated[
        int, typer.Option(min=1, help="Images that the model draws of the source prompt where none are given.")
    ] = 400,
    method: Annotated[
        str | None,
        typer.Option(help="Method that makes the edits; see: sfumato methods.", show_default="what suits the model"),
    ] = None,
    inversion: Annotated[
        str | None, typer.Option(help="Inversion that it starts from.", show_default="the method's first choice")
    ] = None,
    settings: MethodSettings = None,
    inversion_settings: InversionSettings = None,
    negative: Annotated[str, typer.Option(help="Negative prompt: what the images should not show.")] = "",
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all draws; every image is edited with the same one.")] = 0,
    size: Size = None,
    fit: Fit = None,
    keep: Annotated[
        float | None,
        typer.Option(
            help="Share of the pairs to keep; those that follow the prompts worst are left out.",
            show_default="0.85 with emoji-clip, else 1",
        ),
    ] = None,
    agreement: Annotated[
        float | None,
        typer.Option(
            help="Smallest agreement of the changes of image and text, -1 to 1.", show_default="0.2 with a CLIP model"
        ),
    ] = None,
    least_change: Annotated[
        float, typer.Option(help="Smallest change of a pair, root mean square, as a share of the range of values.")
    ] = 0.02,
    least_psnr: Annotated[
        float, typer.Option(help="Smallest reconstruction PSNR of a pair's source by the teacher, dB.")
    ] = 20.0,
    unchanged: Annotated[
        float,
        typer.Option(
            help="Largest difference that is no change, of values in [-1, 1]: there, a pair has the source's pixels."
            " 0: pairs as the teacher made them."
        ),
    ] = 0.25,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Network that measures agreement: emoji-clip, or a CLIP model's folder or hub id.",
            show_default="the model's own, or none",
        ),
    ] = None,
    distance: Annotated[
        str | None,
        typer.Option(
            help="Perceptual distance to train by: emoji, lpips-alex, ...",
            show_default="the model's own, or lpips-alex",
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time for training; making the pairs comes on top.")] = 10.0,
    training_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of training, in place of --minutes.", show_default="by --minutes")
    ] = None,
    student: Annotated[
        StudentKinds,
        typer.Option(help="small: a network of its own. one-step: adapters on a model for few steps, for photographs."),
    ] = StudentKinds.small,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapters of a one-step student.")] = 8,
    width: Annotated[
        int, typer.Option(help="Channels of the student's first level, a multiple of 8; larger is slower.")
    ] = 32,
    features: Annotated[
        float, typer.Option(help="Weight of the perceptual distance in training: higher is sharper; 0 is off.")
    ] = 0.5,
    adversarial: Annotated[
        float, typer.Option(help="Weight of the patch discriminator: sharper results; 0 is off.")
    ] = 0.02,
    mirror: Annotated[
        bool,
        typer.Option("--mirror/--no-mirror", help="Also train on mirrored images; not for text, or left and right."),
    ] = True,
    hue: Annotated[
        float, typer.Option(help="Also train on images with hues turned by up to so many degrees; not for recolouring.")
    ] = 0.0,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that make pairs, each with the model.")] = 1,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder of pairs and checkpoints.", show_default="NAME.distill beside the output"),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Image of pairs that were held out.",
            show_default="NAME.png beside the output, where no other image is",
        ),
    ] = None,
    model: ModelName = None,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    variant: Variant = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    clip_skip: ClipSkip = None,
    as_json: AsJson = False,
) -> None:
    """Teach a small network an edit, so that it takes one network call. Apply it with: sfumato apply.

    Example: sfumato distill --source "a cat" --target "a dog" -o cat-to-dog.safetensors
    """
    if output is None:
        raise UsageError("-o is missing: name the distilled edit, such as -o cat-to-dog.safetensors")
    path = choose_output(output, "", ".safetensors", inputs=[Path(one) for one in inputs or ()])
    image = choose_output(sheet or _sheet(path), "", ".png", inputs=[Path(one) for one in inputs or ()])
    size_pixels = parse_size(size)
    with working("starting"):
        from sfumato.api.distill import distill as distilled
        from sfumato.apps.distill_watch import progress
        from sfumato.edits.default_method import default_method
        from sfumato.edits.method import METHODS
        from sfumato.images import save_image

    name = model or "emoji"
    method = method or default_method(name, revision=revision, variant=variant)
    options = parse_options(METHODS[method], settings)
    of_inversion = parse_inversion_options(inversion_settings, inversion, method)
    added = parts(lora, embedding, vae, clip_skip)
    loaded = load(name, device, dtype, revision=revision, variant=variant, added=added)
    loading = {"name": name, "device": device, "dtype": dtype, "revision": revision, "variant": variant, **added}
    with progress() as (watch, tell):
        result = distilled(
            loaded, inputs or None,
            source_prompt=source, target_prompt=target, draw=draw, method=method, inversion=inversion,
            inversion_options=of_inversion or None, num_inference_steps=steps, guidance_scale=guidance,
            negative_prompt=negative, seed=seed, size=size_pixels, fit=None if fit is None else fit.value, keep=keep,
            agreement=agreement, least_change=least_change, least_psnr=least_psnr, unchanged=unchanged,
            encoder=encoder, distance=distance,
            minutes=minutes, training_steps=training_steps, student=student.value, width=width, rank=rank,
            features=features, adversarial=adversarial, mirror=mirror, hue=hue,
            folder=work or path.with_suffix(WORK), loading=loading, workers=workers, watch=watch, tell=tell, **options,
        )  # fmt: skip
    result.distilled.save(path)
    save_image(_drawn(result), image, recipe={"command": SHEET})
    _report(result, path, image, as_json)


def _sheet(path: Path) -> Path:
    """NAME.png beside the output, or NAME-2.png and so on: an image that is there and no sheet is not replaced."""
    from sfumato.errors import ImageError
    from sfumato.images import read_recipe

    for number in itertools.count(1):
        image = path.with_name(f"{path.stem}{'' if number == 1 else f'-{number}'}.png")
        with suppress(ImageError):
            if not image.exists() or read_recipe(image).get("command") == SHEET:
                break
    return image


def _drawn(result: DistillResult) -> Image.Image:
    """The held-out pairs as a sheet."""
    from sfumato.apps.contact_sheet import Cell, Row, Words, draw_sheet

    card = result.distilled.card
    rows = [
        Row(
            f"held out {number}",
            [[Words(f"{card.source_prompt} → {card.target_prompt}")]],
            [Cell(one.source), Cell(one.teacher), Cell(one.student), Cell(one.gate)],
        )
        for number, one in enumerate(result.held_out, start=1)
    ]
    columns = ("source", f"teacher: {card.method}", "student", "gate: white is copied")
    return draw_sheet(rows, columns, heading=f"{card.model}, {card.pairs_kept} pairs, {card.steps} steps")


def _report(result: DistillResult, path: Path, sheet: Path, as_json: bool) -> None:
    card = result.distilled.card
    for text in result.notes:
        note(text)
    if as_json:
        print_json(
            {
                "command": "distill", "distilled": str(path), "sheet": str(sheet), "card": card.to_json(),
                "notes": list(result.notes),
            }
        )  # fmt: skip
        return
    figures = card.figures
    table(
        [
            ("distilled edit", f"{path} ({path.stat().st_size / 1e6:.1f} MB)"),
            ("held-out pairs", str(sheet)),
            ("pairs", f"{card.pairs_kept} of {card.pairs_made} kept, {card.held_out} of them held out"),
            ("training", f"{card.steps} steps, student to teacher {figures['held_out_psnr']:.1f} dB"),
            ("time", f"{figures['minutes']:.1f} minutes for pairs and training"),
            ("speed", f"{figures['milliseconds']:.1f} ms an image on one thread"),
        ]
    )
