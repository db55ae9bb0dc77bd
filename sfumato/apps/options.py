"""Options that several commands take, and the reading of their values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from sfumato.apps.console import note, say, working
from sfumato.errors import UsageError
from sfumato.files import at_home

if TYPE_CHECKING:
    from sfumato.models.base import Model
    from sfumato.registry import Entry


Added: TypeAlias = "Mapping[str, Any]"
"""LoRAs, embeddings and a VAE, as `load_model` takes them."""


class Fitting(StrEnum):
    """The fits of `sfumato.images` as typer wants them."""

    crop = "crop"
    pad = "pad"
    resize = "resize"


ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Name (see: sfumato models), hub id, diffusers folder or .safetensors file of the model.",
        show_default="emoji",
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
Variant = Annotated[str | None, typer.Option(help="Variant of the weight files of a hub model, such as fp16.")]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE[:SCALE]",
        help="A LoRA (.safetensors) and its scale, such as style.safetensors:0.8; repeatable.",
        show_default="none",
    ),
]
Embedding = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="A textual inversion (.safetensors): a new word for prompts; repeatable."),
]
Vae = Annotated[
    str | None, typer.Option(metavar="PATH", help="Another autoencoder: a diffusers folder or a .safetensors file.")
]
ClipSkip = Annotated[
    int | None,
    typer.Option(
        min=0, help="Last layers of the text encoder to leave out; 1 is what A1111's web UI calls 2.", show_default="0"
    ),
]
Device = Annotated[
    str | None, typer.Option(help="Device: cuda, mps or cpu.", show_default="the first of these that is there")
]
Dtype = Annotated[
    str | None, typer.Option(help="Precision: fp16, bf16, fp32 or fp64.", show_default="fp32 on cpu, fp16 elsewhere")
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Denoising steps; more are slower and more exact.", show_default="the model's own choice"),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Guidance scale, 1 (off) to 100: how closely the result follows the prompt.",
        show_default="the model's own choice",
    ),
]
GuidanceInterval = Annotated[
    str | None,
    typer.Option(
        metavar="START,END",
        help="Shares of the steps, from the noisy end, with guidance, such as 0,0.7; without it a step costs less.",
        show_default="0,1",
    ),
]
CacheInterval = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Compute the deep stages of the network at every so many steps only, and use their features again between:"
        " faster, and a little different; 2 to 5 are usual.",
        show_default="1, off",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WxH", help="Width and height in pixels, such as 512x512.", show_default="the image's, or the model's"
    ),
]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast",
        help="Edit in one network call, with the model distilled from this one (emoji has one) or a few-step model.",
    ),
]
Fit = Annotated[
    Fitting | None,
    typer.Option(
        help="What to do with an image of a size that the model cannot use: crop its borders, pad it, or resize it"
        " (may distort).",
        show_default="not at all, an error",
        case_sensitive=False,
    ),
]
EncodeSteps = Annotated[
    int,
    typer.Option(
        min=0,
        help="Optimisation steps that bring the autoencoder's reconstruction closer to the image; 0 is off, 20 is"
        " usual.",
    ),
]
MethodSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="An option of the method; see: sfumato methods METHOD. Repeatable."
    ),
]
InversionSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set-inversion",
        metavar="NAME=VALUE",
        help="An option of the inversion; see: sfumato methods INVERSION. Repeatable.",
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(help="An image of the same size: white may change, black stays, grey is in between."),
]
MaskWords = Annotated[
    list[str] | None,
    typer.Option(help="Make the mask from the attention to these words of --source; repeatable."),
]
MaskThreshold = Annotated[
    float | None,
    typer.Option(
        help="Attention that counts as inside for --mask-words, as share of the largest; lower makes a larger mask.",
        show_default="0.4",
    ),
]
MaskFeather = Annotated[
    float | None, typer.Option(help="Width of a soft edge inside the mask, in pixels.", show_default="0")
]
MaskInvert = Annotated[
    bool | None,
    typer.Option("--mask-invert/--no-mask-invert", help="Swap inside and outside of the mask.", show_default="no"),
]
MaskPixels = Annotated[
    bool | None,
    typer.Option(
        "--mask-pixels/--no-mask-pixels",
        help="Paste the result into the image, so that no pixel outside the mask changes.",
        show_default="no",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, for programs.")]


def parts(lora: Sequence[Any] | None, embedding: Sequence[str] | None, vae: str | None, clip_skip: int | None) -> Added:
    """What is added to a model, as `load_model` takes it."""
    return {"lora": lora, "embeddings": embedding, "vae": vae, "clip_skip": clip_skip or 0}


def load(
    name: str,
    device: str | None,
    dtype: str | None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    added: Added | None = None,
) -> Model:
    """Loads a model with what is added to it under a spinner, and says what was decided and where it runs."""
    with working(f"loading {name}"):
        from sfumato.models.loading import load_model

        model = load_model(
            name, device=device, dtype=dtype, revision=revision, variant=variant,
            **(added or {}),
        )  # fmt: skip
    for text in model.notes:
        note(text)
    say(f"{model.name} on {model.device}, {str(model.dtype).removeprefix('torch.')}", "dim")
    return model


def given(**arguments: Any) -> dict[str, Any]:
    """The arguments that were given; the others are as they are by default, or as a recipe has them."""
    return {name: value for name, value in arguments.items() if value is not None}


def check_images(*paths: Path | None) -> None:
    """Finds a missing or damaged image before anything heavy is done.

    Raises:
        ImageError: One cannot be read.
    """
    from sfumato.images import load_image

    for path in paths:
        if path is not None:
            load_image(path)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Reads WIDTHxHEIGHT.

    Raises:
        UsageError: It is something else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*([1-9]\d{0,5})\s*[xX×,]\s*([1-9]\d{0,5})\s*", text)
    if found is None:
        raise UsageError(f"--size must be WIDTHxHEIGHT in pixels, such as 512x512, got {text!r}")
    return int(found[1]), int(found[2])


def parse_interval(text: str | None) -> tuple[float, float] | None:
    """Reads START,END of --guidance-interval.

    Raises:
        UsageError: It is something else.
    """
    if text is None:
        return None
    from sfumato import checks

    try:
        return checks.interval("--guidance-interval", [float(part) for part in text.split(",")])
    except ValueError:
        raise checks.refuse("--guidance-interval", "START,END, such as 0,0.7", text) from None


def parse_options(
    entry: Entry[Any], settings: Iterable[str] | None, weights: Iterable[str] | None = None, *, flag: str = "--set"
) -> dict[str, Any]:
    """Reads `--set name=value` and `--weight WORD=FACTOR` into options of a method or an inversion, checked.

    Raises:
        UsageError: An option is unknown (with the closest name), malformed, given twice, or out of range.
    """
    options: dict[str, Any] = {}
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise UsageError(f"{flag} takes name=value, got {setting!r}")
        name = entry.option(name)
        if name in options:
            raise UsageError(f"{flag} {name} is given twice")
        options[name] = entry.parameters[name].parse(text)
    factors: dict[str, float] = {}
    for weight in weights or ():
        word, equals, text = weight.rpartition("=")
        try:
            factors[word.strip()] = float(text)
        except ValueError:
            equals = ""
        if not equals or not word.strip():
            raise UsageError(f"--weight takes WORD=FACTOR, such as dog=1.5, got {weight!r}")
    if factors and "weights" not in entry.parameters:
        raise UsageError(f"--weight: the method {entry.name} has no word weights; use --method prompt-to-prompt")
    if factors:
        options["weights"] = {**(options.get("weights") or {}), **factors}
    return entry.check_options(options)


def parse_inversion_options(settings: Iterable[str] | None, name: str | None, method: str) -> dict[str, Any]:
    """Reads `--set-inversion name=value` into options of an inversion, by default the method's first choice, checked.

    Raises:
        UsageError: The method, the inversion or an option is unknown, or as in `parse_options`.
    """
    from sfumato.edits.method import METHODS
    from sfumato.inversions.method import INVERSIONS

    entry = METHODS[method]
    if name is None and not settings:
        return {}
    return parse_options(INVERSIONS[name or entry.default_inversion], settings, flag="--set-inversion")


def outputs(first: Path, count: int = 1) -> list[Path]:
    """The files that `count` images go to: NAME, NAME-2, NAME-3."""
    from sfumato.api.results import numbered_paths

    return numbered_paths(first, count)


def choose_output(
    asked: Path | None, stem: str, suffix: str, *, count: int = 1, inputs: Iterable[Path | None] = ()
) -> Path:
    """The output asked for, or a free name in the current folder; checked to be writable, and to be no input.

    Raises:
        UsageError: An input would be overwritten.
        ImageError: It cannot be written.
    """
    from sfumato.images import check_writable

    if asked is None:
        name = "-".join(re.findall(r"\w+", stem.lower()))[:60] or "sfumato"
        tries = (Path(f"{name}{'' if k == 1 else f'-v{k}'}{suffix}") for k in range(1, 10_000))
        asked = next(path for path in tries if not any(other.exists() for other in outputs(path, count)))
    asked = at_home(asked)
    for path in outputs(asked, count):
        check_writable(path, **({} if suffix == ".png" else {"extensions": [suffix]}))
        for given in inputs:
            if given is not None and path.exists() and given.exists() and path.samefile(given):
                raise UsageError(f"{path} is an input and would be overwritten; choose another name with -o")
    return asked


def choose_outputs(
    asked: Path | None, stems: Sequence[str], what: str, *, count: int = 1, inputs: Sequence[Path | None] = ()
) -> list[Path]:
    """A file for each input, named STEM-WHAT.png, in the folder asked for; for a single one, the name asked for.

    Args:
        asked: A file, or for several inputs a folder that exists; None: the current folder.
        stems: Names of the inputs without their endings.
        what: What is done to them.
        count: Images for each.
        inputs: Files that must not be overwritten.

    Raises:
        UsageError: Two results would have one name, an input would be overwritten, or a file is asked for, for several.
        ImageError: One cannot be written.
    """
    if asked is not None and len(stems) == 1 and (asked.suffix or not asked.is_dir()):  # NAME.png is meant as a file
        return [choose_output(asked, "", ".png", count=count, inputs=inputs)]
    if asked is not None and not asked.is_dir():
        raise UsageError(f"-o must be a folder that exists, for {len(stems)} images; got {asked}")
    doubled = {stem for stem in stems if stems.count(stem) > 1}
    if asked is not None and doubled:
        raise UsageError(f"two images are called {doubled.pop()}: their results would have one name in {asked}")
    paths: list[Path] = []
    for stem in stems:
        path = None if asked is None else asked / f"{stem}-{what}.png"
        path = choose_output(path, f"{stem}-{what}", ".png", count=count, inputs=inputs)
        if path in paths:
            raise UsageError(f"two images are called {stem}: name the results one by one with -o")
        paths.append(path)
    return paths
