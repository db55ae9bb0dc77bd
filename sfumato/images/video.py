"""Moving pictures: GIF, WebP and MP4 files, or a folder of PNGs; written whole or not at all, with their recipe.

MP4 is H.264 in yuv420p, which every player shows; it is made by the ffmpeg that comes with imageio-ffmpeg. The recipe
is a comment in GIF and MP4, and the EXIF user comment in WebP; `read_recipe` reads all of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sfumato.errors import ImageError, UsageError
from sfumato.files import folder_written_whole, written_whole
from sfumato.images.writing import RECIPE_KEY, check_writable, exif_of, recipe_text, save_image

MOVIES = (".gif", ".mp4", ".webp")
WATCHABLE = 256
"""Pictures whose shorter side is below this many pixels are enlarged in a movie."""

_FRAME = "frame-{:03d}.png"
_FASTEST = {".gif": 50.0, ".webp": 1000.0, ".mp4": 240.0}  # GIF counts in hundredths; browsers slow a delay of one down


@dataclass(frozen=True)
class Pace:
    """How a sequence of frames is played.

    Attributes:
        fps: Frames a second.
        hold: Seconds that the first and the last picture stand still.
        bounce: Play it back to the start again.
    """

    fps: float = 12.0
    hold: float = 0.5
    bounce: bool = False

    def check(self, suffix: str = ".mp4") -> Pace:
        """Returns the pace when a movie of that kind can keep it.

        Raises:
            UsageError: fps or hold is out of range.
        """
        fastest = _FASTEST.get(suffix, max(_FASTEST.values()))
        if not 0.1 <= self.fps <= fastest:
            raise UsageError(f"fps must be in [0.1, {fastest:g}] for {suffix}, got {self.fps:g}")
        if not 0.0 <= self.hold <= 60.0:
            raise UsageError(f"hold must be in [0, 60] seconds, got {self.hold:g}")
        return self

    def played(self, count: int, *, loops: bool) -> list[tuple[int, float]]:
        """(frame, seconds) in the order shown; `loops`: after the last one the first follows by itself."""
        order = list(range(count))
        if self.bounce:
            order += order[-2:0:-1] if loops else order[-2::-1]
        rests = {0, count - 1}
        return [(k, max(self.hold, 1.0 / self.fps) if k in rests else 1.0 / self.fps) for k in order]


def check_movie_path(path: str | os.PathLike[str]) -> Path:
    """Finds out now, before the heavy work, whether `save_movie` can write there; nothing is left behind.

    A name without an extension, or an existing folder, means a folder of PNGs.

    Raises:
        ImageError: The extension is unknown; the folder that it shall be in does not exist or cannot be written; or
            `path` is a folder that holds something else than frames; or it is MP4, and there is no ffmpeg.
    """
    path = Path(path)
    if path.suffix and not path.is_dir():
        if path.suffix.lower() not in MOVIES:
            kinds = ", ".join(MOVIES)
            raise ImageError(f"cannot write {path}: the name must end in {kinds}, or in nothing for a folder of PNGs")
        if path.suffix.lower() == ".mp4":
            _ffmpeg()
        return check_writable(path, extensions=MOVIES)
    if path.exists():
        if not path.is_dir():
            raise ImageError(f"cannot write {path}: it is a file; choose another name, or one ending in .gif or .mp4")
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
) -> Path:
    """Writes frames as .gif, .mp4 or .webp, or as a folder of PNGs (frame-000.png ...), by the name's ending.

    A folder of frames that is there already is replaced.

    Args:
        frames: At least one, all of one size.
        path: Where to.
        pace: How fast; a folder has none.
        scale: Whole factor to enlarge by, at least 1; None: what makes small pictures watchable in a movie (see
            `WATCHABLE`), and 1 in a folder.
        recipe: What made them.

    Raises:
        ImageError: As `check_movie_path`; frames of several sizes; or the disk is full, or ffmpeg failed.
        UsageError: The pace or the scale is out of range, or the recipe is not JSON.
    """
    path = check_movie_path(path)
    if not frames or len({frame.size for frame in frames}) != 1:
        raise ImageError(f"a movie needs frames of one size, got {sorted({frame.size for frame in frames})}")
    suffix = "" if path.is_dir() else path.suffix.lower()
    if scale is not None and not 1 <= scale <= 64:
        raise UsageError(f"scale must be in [1, 64], got {scale}")
    if scale is None:
        scale = max(1, -(-WATCHABLE // min(frames[0].size))) if suffix else 1
    width, height = (side * scale for side in frames[0].size)
    shown = [frame.convert("RGB").resize((width, height), Image.Resampling.LANCZOS) for frame in frames]
    if not suffix:
        return _save_folder(shown, path, recipe)
    timeline = (pace or Pace()).check(suffix).played(len(frames), loops=suffix != ".mp4")
    if suffix == ".mp4":
        with written_whole(path, ImageError) as part:
            _write_mp4(shown, timeline, (pace or Pace()).fps, part, recipe)
        return path
    _save_animation(shown, timeline, path, recipe)
    return path


def _save_animation(
    shown: list[Image.Image], timeline: list[tuple[int, float]], path: Path, recipe: Mapping[str, Any] | None
) -> None:
    gif = path.suffix.lower() == ".gif"
    tick = 10 if gif else 1  # milliseconds that the format counts in
    options: dict[str, Any] = {"save_all": True, "loop": 0, "duration": list(_whole(timeline, tick))}
    if gif:
        shown = [frame.quantize(256, Image.Quantize.MEDIANCUT) for frame in shown]
        if recipe is not None:
            options["comment"] = f"{RECIPE_KEY}:{recipe_text(recipe)}".encode("ascii")
    else:
        options |= {"quality": 90, "method": 4}
        if recipe is not None:
            # Pillow leaves the prefix, which belongs to JPEG, before the EXIF of an animation
            options["exif"] = exif_of(recipe).tobytes().removeprefix(b"Exif\0\0")
    first, *rest = (shown[k] for k, _ in timeline)
    with written_whole(path, ImageError) as part, part.open("wb") as file:
        first.save(file, format="GIF" if gif else "WEBP", append_images=rest, **options)


def _whole(timeline: Sequence[tuple[int, float]], tick: int) -> Iterator[int]:
    """Durations in milliseconds, multiples of `tick`, rounded so that the ends of frames do not drift."""
    end = told = 0.0
    for _, seconds in timeline:
        end += seconds * 1000.0
        duration = max(1, round((end - told) / tick)) * tick
        told += duration
        yield duration


def _save_folder(frames: Sequence[Image.Image], folder: Path, recipe: Mapping[str, Any] | None) -> Path:
    """Writes PNGs into a folder that takes its name only when it is complete."""
    with folder_written_whole(folder, ImageError) as part:
        for k, frame in enumerate(frames):
            save_image(frame, part / _FRAME.format(k), recipe=None if recipe is None else {**recipe, "frame": k})
    return folder


def _write_mp4(
    shown: Sequence[Image.Image],
    timeline: Sequence[tuple[int, float]],
    fps: float,
    part: Path,
    recipe: Mapping[str, Any] | None,
) -> None:
    """Pipes raw frames through ffmpeg."""
    raw = [_even(np.asarray(frame)) for frame in shown]
    height, width = raw[0].shape[:2]
    rate = str(Fraction(fps).limit_denominator(1001))
    bt709 = "bt709"  # said and meant: unmarked files are shown in other colours by some players
    command = [
        _ffmpeg(), "-hide_banner", "-loglevel", "error", "-y",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-", "-an",
        "-vf", f"scale=out_color_matrix={bt709}:out_range=tv,format=yuv420p",
        "-c:v", "libx264", "-crf", "16", "-preset", "medium",
        "-colorspace", bt709, "-color_primaries", bt709, "-color_trc", bt709, "-movflags", "+faststart",
        *([] if recipe is None else ["-metadata", f"comment={RECIPE_KEY}:{recipe_text(recipe)}"]),
        "-f", "mp4", f"file:{part}",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints)
        assert process.stdin is not None
        try:
            for k, seconds in timeline:
                for _ in range(max(1, round(seconds * fps))):
                    process.stdin.write(raw[k].tobytes())
            process.stdin.flush()
        except BrokenPipeError:
            pass  # ffmpeg gave up, and says why
        except BaseException:
            process.kill()
            raise
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            failed = process.wait()
        if failed:
            complaints.seek(0)
            raise OSError(f"ffmpeg failed: {_complaint(complaints.read()) or f'exit code {failed}'}")


def _complaint(said: bytes) -> str:
    """The first thing that ffmpeg complains of: what follows from it comes after it."""
    first, *_ = [*said.decode("utf-8", "replace").strip().splitlines(), ""]
    return re.sub(r"^(\[[^\]]*\] )+", "", first)


def _even(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The picture with even sides, which yuv420p needs: the last row or column is repeated where one is odd."""
    return np.pad(values, ((0, values.shape[0] % 2), (0, values.shape[1] % 2), (0, 0)), mode="edge")


def mp4_comment(path: Path) -> str | None:
    """The comment in an MP4 file, or None.

    Raises:
        ImageError: There is no ffmpeg, or it cannot read the file.
    """
    command = [_ffmpeg(), "-hide_banner", "-loglevel", "error", "-f", "mp4", "-i", f"file:{path}", "-f", "ffmetadata"]
    done = subprocess.run([*command, "-"], capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=60)
    if done.returncode:
        raise ImageError(f"{path} is not a readable MP4 file ({_complaint(done.stderr)})")
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if line.startswith("comment="):
            return re.sub(r"\\(.)", r"\1", line.removeprefix("comment="))  # ffmpeg escapes = ; # and the backslash
    return None


def _ffmpeg() -> str:
    """The program that writes MP4.

    Raises:
        ImageError: There is none.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise ImageError(
            f"MP4 needs ffmpeg, which is not there ({error}): pip install imageio-ffmpeg, or write .gif or .webp"
        ) from error
