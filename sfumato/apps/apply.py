"""`sfumato apply`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.apps.console import FAILED, note, print_json, table, working
from sfumato.apps.loading import load
from sfumato.apps.options import AsJson, Revision
from sfumato.apps.outputs import choose_output
from sfumato.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfumato.distillation.applying import AppliedRow


def apply(
    edit: Annotated[Path, typer.Argument(metavar="EDIT", help="A file of `sfumato distill`.")],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|FOLDER|MOVIE...", help="What to edit: images, folders, or one movie.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o",
            help="An image for an image, a movie or a folder of frames for a movie, a folder for several images.",
            show_default="an image named after the source",
        ),
    ] = None,
    strength: Annotated[
        float, typer.Option(help="Share of the change, 0 to 2; 0 is the image itself, 1 the edit as it was learned.")
    ] = 1.0,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model of a one-step student.", show_default="the embedded or cached one"),
    ] = None,
    revision: Revision = None,
    device: Annotated[str | None, typer.Option(help="Device: cuda, mps or cpu.", show_default="cpu")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Apply a distilled edit to images or a movie; it takes one network call for each.

    Example: sfumato apply cat-to-dog.safetensors cat.png -o dog.png --strength 0.8
    """
    with working("starting"):
        from sfumato.distillation.applying import apply_to_files, apply_to_movie
        from sfumato.distillation.distilled import load_distilled
        from sfumato.images.movie_reading import MOVIE_ENDINGS, is_movie
        from sfumato.watch import progress_bar

    movies = [path for path in inputs if path.suffix.lower() in MOVIE_ENDINGS and is_movie(path)]
    if movies and len(inputs) > 1:
        raise UsageError(f"{movies[0]} is a movie: give it alone")
    files = [file for path in inputs for file in _images(path)]
    adapts = None if model is None else load(model, device, None, revision=revision)
    distilled = load_distilled(edit, model=adapts, device=device)
    with progress_bar() as watch:
        if movies:
            if output is None:
                raise UsageError("-o is missing: name the movie or the folder of frames, such as -o out.mp4")
            rows = [apply_to_movie(distilled, movies[0], output, strength=strength, watch=watch)]
        elif len(inputs) == 1 and files == inputs and not (output is not None and output.is_dir()):
            path = choose_output(output, f"{files[0].stem}-{edit.stem}", ".png", inputs=[*files, edit])
            result = distilled.apply(files[0], strength=strength)
            result.save(path)
            rows = [_row(files[0], path, result.notes)]
        else:
            if output is None:
                raise UsageError("-o is missing: name a folder for the results")
            rows = apply_to_files(distilled, files, output, strength=strength, watch=watch)
    _report(edit, rows, as_json)


def _row(source: Path, output: Path, notes: Sequence[str]) -> AppliedRow:
    from sfumato.distillation.applying import AppliedRow

    return AppliedRow(source, output, notes=tuple(notes))


def _images(path: Path) -> list[Path]:
    """The images of a folder, or the path itself."""
    if not path.is_dir():
        return [path]
    from sfumato.api.batch_inputs import IMAGES

    found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES and file.is_file())
    if not found:
        raise UsageError(f"there are no images in {path} ({', '.join(IMAGES)})")
    return found


def _report(edit: Path, rows: Sequence[AppliedRow], as_json: bool) -> None:
    failed = [row for row in rows if row.error]
    if as_json:
        shown = [
            {
                "source": str(row.source), "output": None if row.output is None else str(row.output),
                "error": row.error, "notes": list(row.notes),
            }
            for row in rows
        ]  # fmt: skip
        print_json({"command": "apply", "edit": str(edit), "results": shown})
    else:
        for row in rows:
            for text in row.notes:
                note(text if len(rows) == 1 else f"{row.source}: {text}")
        where = str(rows[0].output) if len(rows) == 1 else f"{len(rows) - len(failed)} images"
        table([("result", where)])
    for row in failed:
        note(row.error if str(row.source) in row.error else f"{row.source}: {row.error}")
    if failed:
        raise typer.Exit(FAILED)
