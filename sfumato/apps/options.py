"""Options that several commands take."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Fitting(StrEnum):
    """The fits of `sfumato.images` as typer wants them."""

    crop = "crop"
    pad = "pad"
    resize = "resize"


class Offloading(StrEnum):
    """The kinds of `sfumato.models.speed.OFFLOADS` as typer wants them."""

    model = "model"
    group = "group"


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
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the network's blocks: faster on a GPU after the first calls at each size, which take long.",
    ),
]
Offload = Annotated[
    Offloading | None,
    typer.Option(
        help="For a GPU too small for the model: bring to it one network at a time (model), or also one block at a time"
        " (group): least memory, slower.",
        show_default="none",
    ),
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
