"""Reads the frames of moving images one by one: MP4, MOV, WebM, MKV and AVI by ffmpeg; GIF, WebP and APNG by Pillow."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sfumato.errors import ImageError
from sfumato.images.alpha import flattened
from sfumato.images.ffmpeg import ffmpeg
from sfumato.images.reading import check_size, existing_file, guarded, open_image

_DEMUXERS = {".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".webm": "matroska", ".mkv": "matroska", ".avi": "avi"}
_ANIMATIONS = (".gif", ".webp", ".apng", ".png")
MOVIE_ENDINGS = (*_DEMUXERS, ".gif", ".webp", ".apng")
USUAL_FPS, LEAST_FPS, MOST_FPS = 12.0, 0.1, 240.0
_LEAST_THERE = 0.9
"""Share of the frames below which a movie that ffmpeg complained of was cut off."""


@dataclass(frozen=True)
class MovieFrames:
    """A movie while it is open.

    Attributes:
        frames: RGB images of one size, in order; to be read once.
        size: (width, height) in pixels.
        fps: Frames a second; of animations the mean.
    """

    frames: Iterator[Image.Image]
    size: tuple[int, int]
    fps: float


def is_movie(path: str | os.PathLike[str]) -> bool:
    """Whether a file is read as a movie: by its ending, and an animation must have more than one frame."""
    suffix = Path(path).suffix.lower()
    if suffix in _DEMUXERS:
        return True
    if suffix not in _ANIMATIONS or not Path(path).is_file():
        return False
    try:
        with Path(path).open("rb") as file, open_image(file, str(path)) as image, guarded(str(path), "damaged"):
            return int(getattr(image, "n_frames", 1)) > 1
    except (ImageError, OSError):
        return False


@contextmanager
def open_movie(path: str | os.PathLike[str]) -> Iterator[MovieFrames]:
    """Opens a movie; transparent frames are shown on white.

    Raises:
        ImageError: There is no such file, no ffmpeg, or no movie in it; or a frame is damaged.
    """
    file = existing_file(path)
    opened = _stream(file) if file.suffix.lower() in _DEMUXERS else _animation(file)
    with opened as movie:
        yield movie


@contextmanager
def _stream(path: Path) -> Iterator[MovieFrames]:
    # the container is that of the name, and nothing but this file is opened: a playlist could name others
    source = ["-protocol_whitelist", "file,pipe", "-f", _DEMUXERS[path.suffix.lower()], "-i", f"file:{path}"]
    fps, count = _told(source)
    command = [ffmpeg(), "-hide_banner", "-loglevel", "error", *source, "-map", "0:v:0", "-fps_mode", "passthrough"]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            # by itself ffmpeg writes frames of more than 8 bits a channel as PPM of two bytes
            [*command, "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints,
        )  # fmt: skip
        assert process.stdout is not None
        stream = process.stdout

        def whole(read: Iterator[Image.Image]) -> Iterator[Image.Image]:
            """The frames; where ffmpeg complained and some are missing at the end, that is an error."""
            number = 0
            for frame in read:
                number += 1
                yield frame
            stream.close()
            process.wait()
            if number and number < _LEAST_THERE * count and os.fstat(complaints.fileno()).st_size:
                raise ImageError(f"{path} is damaged after frame {number} of about {count}; make or download it again")

        try:
            frames = whole(_ppm(stream, path))
            first = next(frames, None)
            if first is None:
                raise ImageError(f"{path} is no movie that ffmpeg can read; make or download it again")
            yield MovieFrames(itertools.chain([first], frames), first.size, fps)
        finally:
            process.kill()
            stream.close()
            process.wait()


def _told(source: list[str]) -> tuple[float, int]:
    """Frames a second, and about how many there are (0: unknown), as ffmpeg says of its input."""
    told = subprocess.run(
        [ffmpeg(), "-hide_banner", *source], capture_output=True, stdin=subprocess.DEVNULL, check=False
    ).stderr.decode("utf-8", "replace")
    video = next((line for line in told.splitlines() if " Video: " in line), "")
    found = re.search(r", (\d+(?:\.\d+)?)(k?) fps", video)
    if found is None:
        return USUAL_FPS, 0
    fps = float(found[1]) * (1000.0 if found[2] else 1.0)
    length = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", told)
    seconds = 0.0 if length is None else 3600 * int(length[1]) + 60 * int(length[2]) + float(length[3])
    return min(MOST_FPS, max(LEAST_FPS, fps)), round(fps * seconds)


def _ppm(stream: Any, path: Path) -> Iterator[Image.Image]:
    """Images of a stream of binary PPM, to its end."""
    while stream.readline(16) == b"P6\n":
        width, height = (int(number) for number in stream.readline(64).split())
        check_size((width, height), str(path))
        stream.readline(16)
        data = stream.read(3 * width * height)
        if len(data) < 3 * width * height:
            return
        yield Image.frombytes("RGB", (width, height), data)


@contextmanager
def _animation(path: Path) -> Iterator[MovieFrames]:
    with path.open("rb") as file, open_image(file, str(path)) as image:
        with guarded(str(path), "damaged"):
            count = int(getattr(image, "n_frames", 1))
            seconds = 0.0
            for number in range(count):
                image.seek(number)
                image.load()  # WebP gives no duration before
                seconds += float(image.info.get("duration", 0)) / 1000.0

        def frames() -> Iterator[Image.Image]:
            for number in range(count):
                with guarded(str(path), f"damaged at frame {number + 1}"):
                    image.seek(number)
                    frame = flattened(image.copy())
                yield frame

        fps = count / seconds if seconds > 0 else USUAL_FPS
        yield MovieFrames(frames(), image.size, min(MOST_FPS, max(LEAST_FPS, fps)))
