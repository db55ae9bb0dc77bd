"""A distilled edit on many images: those of a folder, or the frames of a movie."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sfumato.distillation.distilled import Applied, Distilled, check_strength
from sfumato.errors import ImageError, SfumatoError, UsageError
from sfumato.files import at_home
from sfumato.images.movie_reading import open_movie
from sfumato.images.reading import existing_file
from sfumato.images.video import check_movie_path, save_frames
from sfumato.images.writing import check_writable
from sfumato.watch import Progress, Watch

AT_ONCE = 8
FRAME_NOTE = "{count} of {total} frames: {note}"


@dataclass(frozen=True)
class AppliedRow:
    """What became of one image of several.

    Attributes:
        source: Its file.
        output: Where the result lies; None where there is none.
        error: Why not; "" where there is one.
        notes: What the user should know.
    """

    source: Path
    output: Path | None
    error: str = ""
    notes: tuple[str, ...] = ()


def apply_to_files(
    distilled: Distilled,
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    strength: float = 1.0,
    watch: Watch | None = None,
) -> list[AppliedRow]:
    """Edits images, each to a PNG of its name; one that cannot be read costs only its own row.

    Args:
        distilled: The edit.
        sources: Files.
        out: Folder of the results, made where it is missing; a second image of one name gets a number.
        strength: As of `Distilled.apply`.
        watch: Progress and cancellation.

    Raises:
        UsageError: The strength is out of range, or a result would overwrite a source.
        ImageError: The folder cannot be written.
        Cancelled: The watch asked to stop; what is written stays.
    """
    check_strength(strength)
    folder = at_home(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"cannot write to {folder}: {error.strerror or error}") from error
    paths = _paths([Path(source) for source in sources], folder)
    check_writable(folder / "image.png")
    watch = (watch or Watch()).during("applying")
    rows = []
    for source, path in watch.over(paths):
        try:
            result = distilled.apply(source, strength=strength)
        except SfumatoError as error:
            rows.append(AppliedRow(source, None, str(error)))
            continue
        result.save(path)
        rows.append(AppliedRow(source, path, notes=result.notes))
    return rows


def apply_to_movie(
    distilled: Distilled,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    strength: float = 1.0,
    watch: Watch | None = None,
) -> AppliedRow:
    """Edits every frame of a movie by itself; sound is left out.

    Args:
        distilled: The edit.
        source: A movie, see `sfumato.images.movie_reading`.
        out: A movie, or a folder of PNGs, as `sfumato.images.save_movie` takes them; the speed stays.
        strength: As of `Distilled.apply`.
        watch: Progress and cancellation; the number of frames is not known before the end.

    Raises:
        UsageError: The strength is out of range, or the movie would overwrite its source.
        ImageError: The movie cannot be read or written.
        Cancelled: The watch asked to stop; nothing is written.
    """
    check_strength(strength)
    path, watch = check_movie_path(out), (watch or Watch()).during("applying")
    source = existing_file(source)
    if path.exists() and path.samefile(source):
        raise UsageError(f"{path} is the source and would be overwritten; choose another name")
    notes: dict[str, int] = {}
    done = 0

    def edited(frames: Iterator[Image.Image]) -> Iterator[Image.Image]:
        nonlocal done
        while batch := list(itertools.islice(frames, AT_ONCE)):
            watch.check(f", after {done} frames")
            for result in distilled.apply_each(batch, strength=strength):
                _count(notes, result)
                yield result.image
            done += len(batch)
            if watch.progress is not None:
                watch.progress(Progress("applying", done, done))

    with open_movie(source) as movie:
        first = next(movie.frames, None)
        if first is None:
            raise ImageError(f"{source} holds no frames")
        frames = itertools.chain([first], movie.frames)
        save_frames(edited(frames), path, size=movie.size, fps=movie.fps, recipe=distilled.recipe(strength))
    said = tuple(FRAME_NOTE.format(count=count, total=done, note=note) for note, count in notes.items())
    return AppliedRow(Path(source), path, notes=said)


def _count(notes: dict[str, int], result: Applied) -> None:
    for note in result.notes:
        notes[note] = notes.get(note, 0) + 1


def _paths(sources: Sequence[Path], folder: Path) -> list[tuple[Path, Path]]:
    """Each source and where its result goes.

    Raises:
        UsageError: A result would overwrite a source.
    """
    given = {_file(at_home(source)) for source in sources}
    taken: set[str] = set()
    found = []
    for source in sources:
        for number in itertools.count(1):
            name = f"{source.stem}.png" if number == 1 else f"{source.stem}-{number}.png"
            if name.lower() not in taken:
                break
        taken.add(name.lower())
        path = folder / name
        if path.exists() and _file(path) in given:
            raise UsageError(f"{path} is a source and would be overwritten; choose another folder with -o")
        found.append((source, path))
    return found


def _file(path: Path) -> tuple[int, int] | None:
    """Equal for names of one file; None: there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
