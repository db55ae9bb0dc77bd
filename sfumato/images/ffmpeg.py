"""MP4, MOV and WebM files, and interpolated frames, by the ffmpeg of imageio-ffmpeg.

MP4, and MOV of opaque frames, is H.264 in yuv420p, which every player shows; MOV with alpha is ProRes 4444, WebM VP9.
Colours are those of BT.709, and every stream says so: unmarked ones are shown in other colours by some players.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sfumato.errors import ImageError

_H264 = ("-c:v", "libx264", "-crf", "16", "-preset", "medium")
_VP9 = ("-c:v", "libvpx-vp9", "-crf", "18", "-b:v", "0", "-deadline", "good", "-cpu-used", "3", "-row-mt", "1")
_PRORES = ("-c:v", "prores_ks", "-profile:v", "4444")
_CODECS = {
    # ending, alpha: (codec, pixel format)
    (".mp4", False): (_H264, "yuv420p"),
    (".mov", False): (_H264, "yuv420p"),
    (".mov", True): (_PRORES, "yuva444p10le"),
    (".webm", False): (_VP9, "yuv420p"),
    (".webm", True): (_VP9, "yuva420p"),
}
_MUXERS = {".mp4": "mp4", ".mov": "mov", ".webm": "webm"}
FFMPEG_MOVIES = tuple(_MUXERS)
_SMALLEST = 32
"""Sides that minterpolate, which looks at blocks, can work with."""


def write_stream(
    frames: Sequence[Image.Image], order: Iterable[int], rate: Fraction, suffix: str, part: Path, comment: str | None
) -> None:
    """Encodes frames into a file.

    Args:
        frames: Of one size and one mode, RGB or, where the format keeps alpha, RGBA. Where a side is odd, which yuv420p
            cannot be, the last row or column is repeated.
        order: Which frame is shown when, at a constant rate.
        rate: Frames a second.
        suffix: One of `FFMPEG_MOVIES`.
        part: The file.
        comment: Text that goes into the file.

    Raises:
        OSError: ffmpeg failed; the message says what it says.
        ImageError: There is no ffmpeg.
    """
    raw = [_even(np.asarray(frame)) for frame in frames]
    _encode((raw[k] for k in order), raw[0].shape[1::-1], frames[0].mode == "RGBA", rate, suffix, part, comment)


def write_frames(
    frames: Iterable[Image.Image], size: tuple[int, int], rate: Fraction, suffix: str, part: Path, comment: str | None
) -> None:
    """Encodes RGB frames one by one, as they come; arguments and errors as `write_stream`, `size` being theirs."""
    width, height = (side + side % 2 for side in size)
    raw = (_even(np.asarray(frame)) for frame in frames)
    _encode(raw, (width, height), False, rate, suffix, part, comment)


def _encode(
    raw: Iterable[npt.NDArray[np.uint8]], size: Sequence[int], alpha: bool, rate: Fraction, suffix: str, part: Path,
    comment: str | None,
) -> None:  # fmt: skip
    (width, height), (codec, pixels) = size, _CODECS[suffix, alpha]
    marks = "colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
    command = [
        ffmpeg(), "-hide_banner", "-loglevel", "error", "-y", *_raw_input(width, height, alpha, rate), "-an",
        "-vf", f"scale=out_color_matrix=bt709:out_range=tv,format={pixels},setparams={marks}", *codec,
        "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv",
        *(("-movflags", "+faststart+write_colr") if suffix != ".webm" else ()),
        *(("-metadata", f"comment={comment}") if comment is not None else ()),
        "-f", _MUXERS[suffix], f"file:{part}",
    ]  # fmt: skip
    _piped(command, raw)


def inbetween(frames: Sequence[Image.Image], count: int) -> list[Image.Image]:
    """Puts `count` frames between each two, by the movement that ffmpeg's minterpolate sees.

    The given frames stay as they are: they are every (count + 1)-th of the result. Alpha is mixed, not moved.

    Args:
        frames: Of one size and one mode, RGB or RGBA, at least 2.
        count: At least 1.

    Raises:
        OSError: ffmpeg failed.
        ImageError: There is no ffmpeg.
    """
    times, (width, height) = count + 1, frames[0].size
    more = ((0, max(0, _SMALLEST - height)), (0, max(0, _SMALLEST - width)), (0, 0))
    padded = [np.pad(np.asarray(frame.convert("RGB")), more, mode="edge") for frame in frames]
    tall, wide = padded[0].shape[:2]
    motion = f"minterpolate=fps={times}:mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1:scd=none"
    command = [
        ffmpeg(), "-hide_banner", "-loglevel", "error", *_raw_input(wide, tall, False, Fraction(1)),
        "-vf", motion, "-f", "rawvideo", "-pix_fmt", "rgb24", "-",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as drawn:
        # it looks two frames ahead and drops what it cannot see the end of
        _piped(command, [*padded, padded[-1], padded[-1]], drawn)
        drawn.seek(0)
        found = np.frombuffer(drawn.read(), np.uint8).reshape(-1, tall, wide, 3)[:, :height, :width]
    if len(found) < times * (len(frames) - 1):
        raise OSError(f"ffmpeg gave {len(found)} frames between {len(frames)}")
    result = []
    for k, (first, second) in enumerate(itertools.pairwise(frames)):
        result.append(first)
        for part in range(1, times):
            image = Image.fromarray(np.ascontiguousarray(found[k * times + part]))
            if first.mode == "RGBA":
                image.putalpha(Image.blend(first.getchannel("A"), second.getchannel("A"), part / times))
            result.append(image)
    return [*result, frames[-1]]


def stream_comment(path: Path) -> str | None:
    """The comment in an MP4, MOV or WebM file, or None.

    Raises:
        ImageError: There is no ffmpeg, or it cannot read the file.
    """
    kind = "matroska" if path.suffix.lower() == ".webm" else "mov"
    command = [
        ffmpeg(), "-hide_banner", "-loglevel", "error", "-protocol_whitelist", "file",
        "-f", kind, "-i", f"file:{path}", "-f", "ffmetadata",
    ]  # fmt: skip
    try:
        done = subprocess.run([*command, "-"], capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{path} cannot be read by ffmpeg ({error})") from error
    if done.returncode:
        name = path.suffix.lower().removeprefix(".").upper()
        raise ImageError(f"{path} is not a readable {name} file ({_complaint(done.stderr)})")
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition("=")
        if equals and name.lower() == "comment":
            return re.sub(r"\\(.)", r"\1", value)  # ffmpeg escapes = ; # and the backslash
    return None


def ffmpeg() -> str:
    """The program.

    Raises:
        ImageError: There is none.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise ImageError(
            f"this needs ffmpeg, which is not there ({error}): pip install imageio-ffmpeg, or write .webp or .gif"
        ) from error


def _raw_input(width: int, height: int, alpha: bool, rate: Fraction) -> list[str]:
    pixels = "rgba" if alpha else "rgb24"
    return ["-f", "rawvideo", "-pix_fmt", pixels, "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]


def _piped(command: Sequence[str], frames: Iterable[npt.NDArray[np.uint8]], output: Any = subprocess.DEVNULL) -> None:
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=complaints)
        assert process.stdin is not None
        try:
            for frame in frames:
                process.stdin.write(frame.tobytes())
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
    return np.pad(values, ((0, values.shape[0] % 2), (0, values.shape[1] % 2), (0, 0)), mode="edge")
