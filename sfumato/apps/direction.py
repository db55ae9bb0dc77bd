"""`sfumato direction`: edit directions made, listed and shown; `sfumato edit --method pix2pix-zero` takes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.apps.console import command, note, print_json, stdout, table, working
from sfumato.apps.loading import load, parts
from sfumato.apps.options import AsJson, ClipSkip, Device, Dtype, Embedding, Lora, ModelName, Revision, Vae, Variant
from sfumato.apps.outputs import choose_output
from sfumato.errors import DirectionError, UsageError

if TYPE_CHECKING:
    from sfumato.conditions.directions import Direction

direction_app = typer.Typer(
    name="direction",
    help="Edit directions, such as cat -> dog: make one, list those of a folder, show one.",
    no_args_is_help=True,
)

Sentences = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Text file of sentences with the word, one a line; give both files or none.",
        show_default="built-in templates",
    ),
]


def make(
    source: Annotated[str, typer.Argument(help="What is to be replaced, such as 'cat'.")],
    target: Annotated[str, typer.Argument(help="What it is replaced with, such as 'dog'.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The .safetensors file to write.", show_default="named after the words"),
    ] = None,
    source_sentences: Sentences = None,
    target_sentences: Sentences = None,
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
    """Make a direction: the mean difference between the embeddings of sentences with SOURCE and with TARGET.

    Example: sfumato direction make cat dog -o cat2dog.safetensors
    """
    with working("starting"):
        from sfumato.conditions.directions import direction_between, make_direction
        from sfumato.conditions.sentences import read_sentences

    for word, name in ((source, "SOURCE"), (target, "TARGET")):
        if not word.strip():
            raise UsageError(f"{name} is empty: give a word, such as 'cat'")
    files = (source_sentences, target_sentences)
    if (source_sentences is None) != (target_sentences is None):
        raise UsageError("give both --source-sentences and --target-sentences, or neither, so that they are alike")
    banks = [read_sentences(file) for file in files if file is not None]
    path = choose_output(output, f"{source}-to-{target}", ".safetensors", inputs=files)
    loaded = load(
        model or "emoji",
        device,
        dtype,
        revision=revision,
        variant=variant,
        added=parts(lora, embedding, vae, clip_skip),
    )
    with working("encoding sentences"):
        if banks:
            made = direction_between(loaded, *banks, source=source, target=target)
        else:
            made = make_direction(loaded, source, target)
    made.save(path)
    if as_json:
        print_json({"command": "direction make", "direction": str(path), **_fields(made)})
        return
    count = f"{made.sentences[0]} and {made.sentences[1]} sentences"
    table([("result", str(path)), ("direction", f"{made.name}, from {count}"), ("use", _use(path))])


def list_(
    folder: Annotated[Path, typer.Argument(help="Folder to list; folders inside it are not searched.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """List the directions in a folder."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: name one that holds directions")
    with working("looking"):
        from sfumato.conditions.directions import Direction

        found: list[tuple[Path, Direction]] = []
        for path in sorted(folder.glob("*.safetensors")):
            if not Direction.is_one(path):
                continue
            try:
                found.append((path, Direction.load(path)))
            except DirectionError as error:
                note(str(error))
    if as_json:
        print_json({"directions": [{"direction": str(path), **_fields(way)} for path, way in found]})
        return
    if not found:
        note(f"no directions in {folder}; make one: sfumato direction make cat dog")
        return
    from rich.table import Table
    from rich.text import Text

    shown = Table("file", "direction", "sentences", "made with", "text encoder")
    for path, way in found:
        cells = (way.name, " / ".join(map(str, way.sentences)), way.model, way.fingerprint)
        shown.add_row(Text(str(path), "bold"), *(Text(cell) for cell in cells))
    stdout().print(shown)


def show(
    file: Annotated[Path, typer.Argument(help="The direction, a .safetensors file.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Also check whether this model can use it.", show_default="no check"),
    ] = None,
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
    """Show a direction: its two words, its length, and the text encoder that it was made with."""
    with working("reading"):
        from sfumato.conditions.directions import Direction

        way = Direction.load(file)
    fits: str | None = None
    if model is not None:
        loaded = load(
            model, device, dtype, revision=revision, variant=variant, added=parts(lora, embedding, vae, clip_skip)
        )
        try:
            way.check(loaded)
            fits = f"yes, {loaded.name}"
        except DirectionError as error:
            fits = f"no: {error}"
    if as_json:
        answer = {"direction": str(file), **_fields(way)}
        print_json(answer if fits is None else {**answer, "fits": fits.startswith("yes")})
        return
    tokens, width = way.embeds.shape[1:]
    rows = [
        ("direction", way.name),
        ("sentences", f"{way.sentences[0]} and {way.sentences[1]}"),
        ("size", f"{tokens} tokens x {width}{''.join(f', {name}' for name in way.shift.extras)}"),
        ("length", f"{float(way.embeds.norm()):.4g}"),
        ("made with", way.model),
        ("text encoder", way.fingerprint),
    ]
    table([*rows, *([] if fits is None else [("fits", fits)]), ("use", _use(file))])


def _fields(way: Direction) -> dict[str, Any]:
    return {
        "name": way.name,
        "source": way.source,
        "target": way.target,
        "sentences": list(way.sentences),
        "shape": list(way.embeds.shape),
        "length": float(way.embeds.norm()),
        "model": way.model,
        "text_fingerprint": way.fingerprint,
    }


def _use(path: Path) -> str:
    return f"sfumato edit IMAGE --source ... --target ... --method pix2pix-zero --set direction={path}"


for _name, _function in (("make", make), ("list", list_), ("show", show)):
    direction_app.command(_name)(command(_function))
