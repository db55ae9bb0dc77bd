"""`sfumato demo`: edits bundled images with the embedded model, offline, and shows all of it on one sheet."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.apps.console import say, stdout, table, working
from sfumato.apps.loading import load
from sfumato.apps.options import Device, Steps
from sfumato.errors import ImageError, UsageError

if TYPE_CHECKING:
    from sfumato import EditResult
    from sfumato.apps.contact_sheet import Row
    from sfumato.models.base import Model

SHEET, IMAGES = "sheet.png", "images"
COLUMNS = ("source", "reconstruction", "result", "where the word looks")


@dataclass(frozen=True)
class DemoEdit:
    """One edit of a bundled image.

    Attributes:
        name: What kind of edit it is.
        file: Image among the examples; its caption is the source prompt.
        old, new: Words of the caption, and what stands in their place in the target prompt.
        word: Whose attention is shown: in the target, or in the source where only weights change.
        options: Of the method.
        method: Which one.
        said: Source prompt in place of the caption.
    """

    name: str
    file: str
    old: str
    new: str
    word: str
    options: Mapping[str, Any] = field(default_factory=dict)
    method: str = "prompt-to-prompt"
    said: str | None = None

    @property
    def slug(self) -> str:
        """For file names."""
        return f"{self.name.replace(' ', '-')}-{Path(self.file).stem}"

    def prompts(self, caption: str) -> tuple[str, str]:
        """Source and target prompt.

        Raises:
            ValueError: The caption lacks the words to change.
        """
        caption = self.said or caption
        if self.old not in caption:
            raise ValueError(f"{self.old!r} is not in the caption {caption!r} of {self.file}")
        return caption, caption.replace(self.old, self.new, 1)


UNTOLD = "an apple and a cat on a yellow background"
EDITS = (
    DemoEdit("swap one of two", "fox-and-pizza.png", "fox", "dog", "dog"),
    DemoEdit("recolour", "car-and-balloon.png", "blue car", "red car", "red"),
    DemoEdit("background", "panda-and-cupcake.png", "green background", "purple background", "purple"),
    DemoEdit("something else", "burger-and-doughnut.png", "doughnut", "strawberry", "strawberry"),
    DemoEdit("re-weight", "rabbit-and-tree.png", "some", "some", "some", {"weights": {"some": -2.0}}),
    DemoEdit("refine", "apple-and-cat.png", "an apple", "a green apple", "green", said=UNTOLD),
    DemoEdit("local edit", "lion-and-sunflower.png", "lion", "panda", "panda", {"blend_words": ["lion", "panda"]}),
)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images; created if needed.")] = Path(
        "outputs/demo"
    ),
    steps: Steps = None,
    model: Annotated[str, typer.Option("--model", "-m", help="The model to edit with.")] = "emoji",
    device: Device = None,
) -> None:
    """Edit bundled images, offline, and put everything on one contact sheet."""
    with _folder(output):
        run_all(output, model=model, steps=steps, device=device)


def run_all(folder: Path, *, model: str = "emoji", steps: int | None = None, device: str | None = None) -> Path:
    """Runs all edits of `EDITS`; writes each result, the sheet, and the bundled images.

    Returns:
        Path of the sheet.

    Raises:
        ModelError: The model is not there.
    """
    captions = bundled()
    loaded = load(model, device, None)
    rows, paths = [], []
    console = stdout()
    for number, edit in enumerate(EDITS, start=1):
        result = run_edit(loaded, edit, captions[edit.file], steps=steps)
        rows.append(row_of(edit, result))
        paths.append(result.save(folder / f"{number}-{edit.slug}.png"))
        back = f"reconstruction PSNR {result.reconstruction_psnr:.1f} dB, autoencoder {result.ceiling_psnr:.1f} dB"
        say(f"{number}/{len(EDITS)} {edit.name}: {paths[-1]} ({back}, {result.cost.seconds:.1f} s)", to=console)
    with working("drawing the sheet"):
        from sfumato.apps.contact_sheet import draw_sheet
        from sfumato.images import save_image

        heading = f"sfumato demo: edits by text with the model {loaded.name}"
        sheet = save_image(draw_sheet(rows, COLUMNS, heading=heading), folder / SHEET)
    images = folder.resolve() / IMAGES
    copy_examples(images)
    places = [("results", folder.resolve()), ("all on one sheet", sheet.resolve()), ("bundled images, to edit", images)]
    table([(what, str(place)) for what, place in places], to=console)
    return sheet


def copy_examples(folder: Path) -> None:
    """Copies the bundled images to where a user finds them."""
    from sfumato.emoji import EXAMPLES
    from sfumato.files import write_whole

    folder.mkdir(exist_ok=True)
    for file in bundled():
        write_whole(folder / file, (EXAMPLES / file).read_bytes(), ImageError)


def run_edit(model: Model, edit: DemoEdit, caption: str, *, steps: int | None = None) -> EditResult:
    """Runs one edit on its bundled image."""
    from sfumato.api.edit import edit as run
    from sfumato.emoji import EXAMPLES

    source, target = edit.prompts(caption)
    return run(
        model,
        EXAMPLES / edit.file,
        source_prompt=source,
        target_prompt=target,
        method=edit.method,
        num_inference_steps=steps,
        **edit.options,
    )


def row_of(edit: DemoEdit, result: EditResult) -> Row:
    """The row of one edit on the sheet."""
    from sfumato.apps.contact_sheet import Cell, Row, Words, changed_words, heat_overlay

    source, target = result.recipe["source_prompt"], result.recipe["target_prompts"][0]
    said = changed_words(target, source)
    for word, weight in edit.options.get("weights", {}).items():
        said = [Words(f"{w.text} (x {weight:g})", changed=True) if w.text == word else w for w in said]
    others = [
        f"{name} {', '.join(value) if isinstance(value, list) else value}"
        for name, value in edit.options.items()
        if name != "weights"
    ]
    technical = f"{edit.method}, guidance {result.recipe['guidance_scale']:g}, {len(result.inversion.timesteps)} steps"
    paragraphs = [changed_words(source, target), [Words("becomes"), *said], [Words("; ".join([technical, *others]))]]
    heat = result.attention_map(edit.word, target=None if edit.old == edit.new else 0)
    overlay = heat_overlay(result.image.resize((192, 192)), heat)
    cells = (
        Cell(result.source, "autoencoder alone:" + decibels(result.ceiling_psnr)),
        Cell(result.reconstruction, "PSNR:" + decibels(result.reconstruction_psnr)),
        Cell(result.image, f"{result.cost.seconds:.1f} s"),
        Cell(overlay, edit.word),
    )
    return Row(edit.name, paragraphs, cells)


def decibels(value: float) -> str:
    """A PSNR for a caption."""
    return " exact" if math.isinf(value) else f" {value:.1f} dB"


def bundled() -> dict[str, str]:
    """Captions of the bundled images by file name.

    Raises:
        UsageError: This installation lacks them.
    """
    from sfumato.emoji import EXAMPLES

    try:
        entries = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
        return {entry["file"]: entry["prompt"] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"the bundled images are not in {EXAMPLES} ({error}); install sfumato again") from error


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Makes the folder, checks that it can be written, and takes it away again if nothing came to be in it."""
    from sfumato.images import check_writable

    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError(f"cannot make the folder {folder}: {reason}; choose another with -o") from error
    check_writable(folder / SHEET)
    try:
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
