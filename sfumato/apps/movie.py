"""What `sfumato morph` and `sfumato slider` share: options of the movie, its files, the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.apps.console import cost_fields, note, print_json, table
from sfumato.apps.outputs import choose_output, free_name
from sfumato.errors import UsageError

if TYPE_CHECKING:
    from sfumato.api.results import MorphResult
    from sfumato.images import Pace


class Easing(StrEnum):
    """The easings of `sfumato.images` as typer wants them."""

    linear = "linear"
    smooth = "smooth"


Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The movie, NAME.webp, .mp4, .webm, .mov, .gif or .apng; or a folder, for one PNG a frame.",
        show_default="a WebP named after the images",
    ),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        help="How the places of the frames are chosen, such as even or uniform; see: sfumato methods.",
        show_default="the method's own",
    ),
]
SpacingSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set-spacing",
        metavar="NAME=VALUE",
        help="An option of the spacing; see: sfumato methods SPACING. Repeatable.",
    ),
]
DistanceName = Annotated[
    str | None,
    typer.Option(
        help="Distance that the spacing measures between frames: emoji, lpips-alex, dists, pixel, ...",
        show_default="the best for the model of those installed",
    ),
]
Fps = Annotated[float, typer.Option(help="Frames per second.")]
Hold = Annotated[
    list[float] | None,
    typer.Option(help="Seconds that each image stands still; repeated, one for each image.", show_default="0.5"),
]
Bounce = Annotated[bool, typer.Option("--bounce", help="Play forwards, then backwards.")]
Eased = Annotated[
    Easing,
    typer.Option("--easing", help="Speed between images: linear is constant, smooth starts and ends slowly."),
]
Inbetweens = Annotated[
    int,
    typer.Option(help="Frames that ffmpeg interpolates between each two by their motion, 0 to 31."),
]
Scale = Annotated[
    int | None,
    typer.Option(help="Whole factor by which the movie is enlarged.", show_default="1, more for small images"),
]
Strip = Annotated[
    Path | None,
    typer.Option(help="Also write all frames side by side, as an image.", show_default="not written"),
]
Plot = Annotated[
    Path | None,
    typer.Option(help="Also write a plot of the distances between frames.", show_default="not written"),
]


def choose_movie(asked: Path | None, stem: str, *, inputs: Iterable[Path | None] = ()) -> Path:
    """The movie or folder asked for, or a free name in the current folder; checked to be writable, and no input.

    Raises:
        UsageError: An input would be overwritten.
        ImageError: It cannot be written.
    """
    from sfumato.images import check_movie_path

    if asked is None:
        asked = free_name(stem, ".webp")
    check_movie_path(asked)
    for given in inputs:
        if given is not None and asked.exists() and given.exists() and asked.samefile(given):
            raise UsageError(f"{asked} is an input and would be overwritten; choose another name with -o")
    return asked


def check_extras(extras: Iterable[Path | None], inputs: Iterable[Path]) -> None:
    """Checks the images that go with a movie, as `choose_output` does."""
    for extra in extras:
        if extra is not None:
            choose_output(extra, "", ".png", inputs=inputs)


def check_distance(name: str | None) -> None:
    """Checks the name of a distance before a model is loaded.

    Raises:
        UsageError: It is unknown, with the closest one that is.
    """
    from sfumato.judges.distances import DISTANCES
    from sfumato.registry import unknown

    if name is not None and name not in DISTANCES:
        raise UsageError(unknown("distance", name, DISTANCES))


@dataclass(frozen=True)
class Playing:
    """How a movie is to be played, by the options of the command."""

    pace: Pace
    scale: int | None
    inbetweens: int


def check_playing(
    path: Path,
    fps: float,
    hold: Sequence[float] | None,
    bounce: bool,
    easing: Easing,
    inbetweens: int,
    scale: int | None,
    images: Sequence[Path] = (Path("first"), Path("last")),
) -> Playing:
    """How the movie is to be played, checked.

    Raises:
        UsageError: A value is out of range, or there are several holds, but not one for each image.
        ImageError: Frames in between are asked for, and there is no ffmpeg.
    """
    from sfumato import checks
    from sfumato.images import Pace
    from sfumato.images.ffmpeg import ffmpeg

    times: float | tuple[float, ...] = 0.5 if not hold else hold[0] if len(hold) == 1 else tuple(hold)
    pace = Pace(fps, times, bounce, easing.value)
    pace.check(path.suffix.lower())
    pace.played(len(images), loops=True, stops=range(len(images)), closed=images[0] == images[-1])
    if checks.whole("--inbetweens", inbetweens, low=0, high=31):
        ffmpeg()
        replace(pace, fps=fps * (inbetweens + 1)).check(path.suffix.lower())
    checks.optional(lambda name, value: checks.whole(name, value, low=1, high=64))("--scale", scale)
    return Playing(pace, scale, inbetweens)


def write(result: MorphResult, path: Path, playing: Playing, strip: Path | None, plot: Path | None) -> None:
    """Writes the movie and what goes with it."""
    from sfumato.images import save_image

    pace = playing.pace
    result.save(
        path,
        fps=pace.fps,
        hold=pace.hold,
        bounce=pace.bounce,
        easing=pace.easing,
        inbetweens=playing.inbetweens,
        scale=playing.scale,
    )
    if strip is not None:
        save_image(result.film_strip(), strip, recipe=result.recipe)
    if plot is not None:
        save_image(result.plot(), plot, recipe=result.recipe)


def report(result: MorphResult, path: Path, strip: Path | None, plot: Path | None, *, as_json: bool) -> None:
    """Prints what was made, how even it is, and the reconstruction PSNR."""
    command = result.recipe["command"]
    if as_json:
        fields: dict[str, Any] = {
            "command": command,
            "output": str(path),
            "strip": None if strip is None else str(strip),
            "plot": None if plot is None else str(plot),
            "frames": len(result.images),
            "weights": list(result.weights),
            "distances": list(result.distances),
            "even_distances": None if result.even_distances is None else list(result.even_distances),
            "endpoint_psnr": list(result.endpoint_psnr),
            "ceiling_psnr": list(result.ceiling_psnr),
            "cost": cost_fields(result.cost),
            "notes": list(result.notes),
            "recipe": dict(result.recipe),
        }
        print_json(fields)
        return
    from sfumato.morphs.spacings.base import spread_of

    before = "" if result.even_distances is None else f" ({spread_of(result.even_distances):.2f} at even weights)"
    pairs = zip(result.endpoint_psnr, result.ceiling_psnr, strict=True)
    ends = ", ".join(f"{got:.1f} dB ({best:.1f})" for got, best in pairs) + " (the autoencoder alone)"
    ends = ends if any(map(math.isfinite, result.ceiling_psnr)) else "exactly: nothing was encoded"
    rows = [("result", ", ".join(str(file) for file in (path, strip, plot) if file is not None))]
    rows.append(("frames", f"{len(result.images)}; largest step over mean {result.spread:.2f}{before}"))
    rows += [("reconstruction", ends), ("cost", str(result.cost))]
    table(rows)
    for text in result.notes:
        note(text)
