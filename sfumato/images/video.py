"""Moving images: WebP, MP4, WebM, MOV, GIF and APNG files, or a folder of PNGs; written whole or not at all.

The recipe is the EXIF user comment in WebP, a text chunk in APNG, and a comment in all others; `read_recipe` reads all
of them. WebP, GIF, APNG, WebM, MOV and PNGs keep alpha (GIF: a pixel is there or not).
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from sfumato import checks
from sfumato.errors import ImageError, UsageError
from sfumato.files import at_home, folder_written_whole, written_whole
from sfumato.images.alpha import flattened, with_alpha
from sfumato.images.ffmpeg import FFMPEG_MOVIES, ffmpeg, inbetween, write_frames, write_stream
from sfumato.images.pace import Pace, Shown
from sfumato.images.palette import in_palette, shared_palette
from sfumato.images.reading import MAX_PIXELS, by
from sfumato.images.writing import RECIPE_KEY, check_writable, exif_of, recipe_text, save_image

MOVIES = (".webp", ".mp4", ".webm", ".mov", ".gif", ".apng")
WATCHABLE = 256
"""Images whose shorter side is below this many pixels are enlarged in a movie, as far as they stay below `_WIDE`."""

_WIDE = 1920
_FRAME = "frame-{:03d}.png"
_LARGEST = {".webp": 16383, ".gif": 65535, ".apng": 65535, ".mp4": 16384, ".mov": 16384, ".webm": 16384}
_FINE = 48.0
"""Frames a second that a stream needs at least to show eased times."""
_MOST_INBETWEENS = 31


def check_movie_path(path: str | os.PathLike[str]) -> Path:
    """Finds out now, before the heavy work, whether `save_movie` can write there; nothing is left behind.

    A name without an extension, or an existing folder, means a folder of PNGs.

    Raises:
        ImageError: The extension is unknown; its folder does not exist or cannot be written; or
            `path` is a folder that holds something else than frames; or the format needs ffmpeg, and there is none.
        UsageError: `path` is no path.
    """
    path = at_home(path)
    if path.suffix and not path.is_dir():
        if path.suffix.lower() not in MOVIES:
            kinds = ", ".join(MOVIES)
            raise ImageError(f"cannot write {path}: the name must end in {kinds}, or in nothing for a folder of PNGs")
        if path.suffix.lower() in FFMPEG_MOVIES:
            ffmpeg()
        return check_writable(path, extensions=MOVIES)
    if path.exists():
        if not path.is_dir():
            raise ImageError(f"cannot write {path}: it is a file; choose another name, or one ending in .webp or .mp4")
        foreign = next((other.name for other in path.iterdir() if not other.match("frame-*.png")), None)
        if foreign is not None:
            raise ImageError(f"cannot write frames into {path}: it holds other files ({foreign}); name a new folder")
    check_writable(path.resolve().with_name("frame.png"))  # the folder around it
    return path


def save_movie(
    frames: Sequence[Image.Image],
    path: str | os.PathLike[str],
    *,
    pace: Pace | None = None,
    scale: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    stops: Sequence[int] | None = None,
    closed: bool | None = None,
    inbetweens: int = 0,
) -> Path:
    """Writes frames as .webp, .mp4, .webm, .mov, .gif or .apng, or as a folder of PNGs, by the name's ending.

    A folder of frames (frame-000.png ...) that is there already is replaced.

    Args:
        frames: At least one, all of one size. Alpha is kept where the format can; MP4 shows it on white.
        path: Where to.
        pace: How fast; a folder has none.
        scale: Whole factor to enlarge by, in [1, 64]; None: what makes small images watchable in a movie (see
            `WATCHABLE`), and 1 in a folder.
        recipe: What made them.
        stops: Which frames are images that stand still, ascending; None: the first and the last.
        closed: The last frame shows what the first one shows, and a movie leaves it out, so that it plays round and
            round without a stop that is twice as long; None: when both have the same pixels.
        inbetweens: Frames that ffmpeg draws between each two by the movement that it sees, in [0, 31]; the movie lasts
            as long as without them.

    Raises:
        ImageError: As `check_movie_path`; frames of several sizes; or the disk is full, or ffmpeg failed.
        UsageError: The pace, the scale or another value is out of range, the movie would be larger than its format
            allows, or the recipe is not JSON.
    """
    path = check_movie_path(path)
    if not frames or len({frame.size for frame in frames}) != 1:
        raise ImageError(f"a movie needs frames of one size, got {sorted({frame.size for frame in frames})}")
    suffix = "" if path.is_dir() else path.suffix.lower()
    size = _shown_size(frames[0].size, scale, suffix)
    checks.whole("inbetweens", inbetweens, low=0, high=_MOST_INBETWEENS)
    pace = (pace or Pace()).check(suffix)
    shown = [_shown(frame, size) for frame in _of_one_mode(frames, suffix)]
    if not suffix:
        return _save_folder(_with_inbetweens(shown, inbetweens), path, recipe)

    times = inbetweens + 1
    stops = sorted({0, len(frames) - 1} if stops is None else {*stops})
    pace = Pace(pace.fps * times, pace.hold, pace.bounce, pace.easing).check(suffix)
    if closed is None:
        closed = len(frames) > 2 and shown[0].tobytes() == shown[-1].tobytes()
    timeline = pace.played(
        (len(frames) - 1) * times + 1,
        loops=True,
        stops=[k * times for k in stops],
        closed=closed,
    )
    with written_whole(path, ImageError) as part:
        shown = _with_inbetweens(shown, inbetweens)
        if suffix in FFMPEG_MOVIES:
            _write_stream(shown, timeline, pace, suffix, part, recipe)
        else:
            _write_animation(shown, timeline, suffix, part, recipe)
    return path


def save_frames(
    frames: Iterable[Image.Image],
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int],
    fps: float,
    recipe: Mapping[str, Any] | None = None,
) -> Path:
    """Writes frames that come one by one, at a constant rate and as they are, as `save_movie` writes them all at once.

    .mp4, .mov, .webm and folders keep no more than one frame in memory; the other formats need them all.

    Args:
        frames: RGB, at least one.
        path: As of `save_movie`.
        size: (width, height) of the frames.
        fps: Frames a second.
        recipe: What made them.

    Raises:
        ImageError: As `check_movie_path`; or the disk is full, or ffmpeg failed.
        UsageError: The rate is out of range, or the movie would be larger than its format allows.
    """
    path = check_movie_path(path)
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix not in ("", *FFMPEG_MOVIES):
        return save_movie(list(frames), path, pace=Pace(fps, 0.0), scale=1, recipe=recipe, closed=False)
    _shown_size(size, 1, suffix)
    if not suffix:
        return _save_folder(frames, path, recipe)
    pace = Pace(fps, 0.0).check(suffix)
    comment = None if recipe is None else f"{RECIPE_KEY}:{recipe_text(recipe)}"
    with written_whole(path, ImageError) as part:
        write_frames(frames, size, Fraction(pace.fps).limit_denominator(1001), suffix, part, comment)
    return path


def _shown_size(size: tuple[int, int], scale: int | None, suffix: str) -> tuple[int, int]:
    if scale is not None:
        checks.whole("scale", scale, low=1, high=64)
    elif suffix:
        scale = max(1, min(-(-WATCHABLE // min(size)), _WIDE // max(size)))
    width, height = (side * (scale or 1) for side in size)
    largest = _LARGEST.get(suffix, MAX_PIXELS)
    if max(width, height) > largest or width * height > MAX_PIXELS:
        raise UsageError(
            f"frames of {by((width, height))} pixels are too large (at most {largest} a side, {MAX_PIXELS // 10**6}"
            f" megapixels): use a smaller scale than {scale or 1}, or smaller images"
        )
    return width, height


def _of_one_mode(frames: Sequence[Image.Image], suffix: str) -> list[Image.Image]:
    """All frames RGBA where one has alpha that the format keeps, else all RGB."""
    kept = [with_alpha(frame) for frame in frames]
    if all(frame.mode == "RGB" for frame in kept):
        return kept
    if suffix == ".mp4":
        warnings.warn("MP4 keeps no alpha: the frames are shown on white; .webm, .mov and .webp keep it", stacklevel=3)
        return [flattened(frame) for frame in kept]
    return [frame.convert("RGBA") for frame in kept]


def _shown(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    return frame if frame.size == size else frame.resize(size, Image.Resampling.LANCZOS)


def _with_inbetweens(frames: list[Image.Image], count: int) -> list[Image.Image]:
    return inbetween(frames, count) if count and len(frames) > 1 else frames


def _write_animation(
    shown: Sequence[Image.Image],
    timeline: Sequence[Shown],
    suffix: str,
    part: Path,
    recipe: Mapping[str, Any] | None,
) -> None:
    tick = 10 if suffix == ".gif" else 1  # milliseconds that the format counts in
    options: dict[str, Any] = {"save_all": True, "loop": 0, "duration": [*_whole(timeline, tick / 1000.0, tick)]}
    text = None if recipe is None else recipe_text(recipe)
    if suffix == ".gif":
        kind, (shown, more) = "GIF", _for_gif(shown)
        options |= more | ({} if text is None else {"comment": f"{RECIPE_KEY}:{text}".encode("ascii")})
    elif suffix == ".apng":
        kind = "PNG"
        if text is not None:
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_text(RECIPE_KEY, text)
    else:
        # no key frames: each one would be compressed anew, and what stands still would move
        kind = "WEBP"
        options |= {"quality": 90, "method": 4, "kmin": 0, "kmax": 0}
        if recipe is not None:
            # Pillow leaves the prefix, which belongs to JPEG, before the EXIF of an animation
            options["exif"] = exif_of(recipe).tobytes().removeprefix(b"Exif\0\0")
    first, *rest = (shown[k] for k, _ in timeline)
    with part.open("wb") as file:
        first.save(file, format=kind, append_images=rest, **options)


def _for_gif(frames: Sequence[Image.Image]) -> tuple[list[Image.Image], dict[str, Any]]:
    """Frames in one palette, and what a GIF file says of them."""
    palette = shared_palette([frame.convert("RGB") for frame in frames])
    shown = [in_palette(frame, palette) for frame in frames]
    # a pixel that is gone in the next frame shows only if each frame is wiped away before it
    return shown, {"transparency": 255, "disposal": 2} if frames[0].mode == "RGBA" else {}


def _write_stream(
    shown: Sequence[Image.Image],
    timeline: Sequence[Shown],
    pace: Pace,
    suffix: str,
    part: Path,
    recipe: Mapping[str, Any] | None,
) -> None:
    """The same frames at a constant rate: each is repeated for as long as it is shown."""
    rate = pace.fps * (math.ceil(_FINE / pace.fps) if pace.easing != "linear" else 1)
    order = [k for (k, _), ticks in zip(timeline, _whole(timeline, 1.0 / rate), strict=True) for _ in range(ticks)]
    comment = None if recipe is None else f"{RECIPE_KEY}:{recipe_text(recipe)}"
    write_stream(shown, order, Fraction(rate).limit_denominator(1001), suffix, part, comment)


def _whole(timeline: Sequence[Shown], tick: float, unit: int = 1) -> Iterator[int]:
    """Durations in whole ticks of so many seconds, times `unit`, rounded so that the ends of frames do not drift."""
    end = counted = 0.0
    for _, seconds in timeline:
        end += seconds / tick
        ticks = max(1, round(end - counted))
        counted += ticks
        yield ticks * unit


def _save_folder(frames: Iterable[Image.Image], folder: Path, recipe: Mapping[str, Any] | None) -> Path:
    """Writes PNGs into a folder that takes its name only when it is complete."""
    with folder_written_whole(folder, ImageError) as part:
        for k, frame in enumerate(frames):
            save_image(frame, part / _FRAME.format(k), recipe=None if recipe is None else {**recipe, "frame": k})
    return folder
