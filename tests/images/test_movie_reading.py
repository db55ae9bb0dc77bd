"""Movies are read frame by frame as they were written; what is none is refused in words."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.errors import ImageError
from sfumato.images import Pace, save_movie
from sfumato.images.ffmpeg import ffmpeg
from sfumato.images.movie_reading import is_movie, open_movie
from sfumato.images.video import save_frames

ENDINGS = (".mp4", ".mov", ".webm", ".gif", ".webp", ".apng")


def frames(count: int = 12, size: tuple[int, int] = (48, 32)) -> list[Image.Image]:
    """A bright bar that walks over a dark ground."""
    found = []
    for number in range(count):
        values = np.full((size[1], size[0], 3), 40, np.uint8)
        values[:, 3 * number : 3 * number + 8] = (220, 180, 60)
        found.append(Image.fromarray(values))
    return found


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("size", [(48, 32), (47, 33)], ids=str)
def test_frames_are_read_in_number_order_and_speed(ending: str, size: tuple[int, int], tmp_path: Path) -> None:
    made = frames(size=size)
    path = save_frames(iter(made), tmp_path / f"bar{ending}", size=size, fps=10.0)
    assert is_movie(path)
    with open_movie(path) as movie:
        read = list(movie.frames)
    assert len(read) == len(made)
    assert movie.fps == pytest.approx(10.0, abs=0.1)
    for before, after in zip(made, read, strict=True):
        width, height = before.size
        near = np.asarray(after.crop((0, 0, width, height)), int) - np.asarray(before, int)
        assert np.abs(near).mean() < 8


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_frames_one_by_one_are_written_as_all_at_once(ending: str, tmp_path: Path) -> None:
    made = frames()
    one = save_frames(iter(made), tmp_path / f"one{ending}", size=(48, 32), fps=10.0)
    all_ = save_movie(made, tmp_path / f"all{ending}", pace=Pace(10.0, 0.0), scale=1, closed=False)
    with open_movie(one) as first, open_movie(all_) as second:
        pairs = list(zip(first.frames, second.frames, strict=True))
    assert len(pairs) == len(made)
    assert all(before.tobytes() == after.tobytes() for before, after in pairs)


def test_an_image_is_no_movie(tmp_path: Path) -> None:
    frames(1)[0].save(tmp_path / "still.webp")
    frames(1)[0].save(tmp_path / "still.png")
    assert not is_movie(tmp_path / "still.webp")
    assert not is_movie(tmp_path / "still.png")
    assert not is_movie(tmp_path / "none.gif")


@pytest.mark.parametrize("ending", ENDINGS)
def test_damaged_movies_are_refused_in_words(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"wrong{ending}"
    path.write_text("#EXTM3U\nhttp://127.0.0.1:9/x.ts\n")
    with pytest.raises(ImageError, match=r"wrong"), open_movie(path) as movie:
        list(movie.frames)
    with pytest.raises(ImageError, match="no file"), open_movie(tmp_path / f"none{ending}"):
        pass


def test_a_movie_that_was_cut_off_gives_what_is_whole_or_an_error(tmp_path: Path) -> None:
    for ending in ENDINGS:
        path = save_frames(iter(frames()), tmp_path / f"cut{ending}", size=(48, 32), fps=10.0)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        with suppress(ImageError), open_movie(path) as movie:
            assert len(list(movie.frames)) <= 12


@pytest.mark.parametrize(("codec", "pixels"), [("libx264", "yuv420p10le"), ("ffv1", "gray16le")])
def test_a_movie_of_more_than_8_bits_a_channel_is_read_as_its_frames(codec: str, pixels: str, tmp_path: Path) -> None:
    made = save_frames(iter(frames()), tmp_path / "bar.mp4", size=(48, 32), fps=10.0)
    deep = tmp_path / "deep.mkv"
    subprocess.run([ffmpeg(), "-loglevel", "error", "-i", made, "-c:v", codec, "-pix_fmt", pixels, deep], check=True)
    with open_movie(deep) as movie:
        read = list(movie.frames)
    assert len(read) == len(frames())
    for before, after in zip(frames(), read, strict=True):
        near = np.asarray(after.convert("L"), int) - np.asarray(before.convert("L"), int)
        assert np.abs(near).mean() < 8


def test_a_movie_that_was_cut_off_is_damaged_and_not_short(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    drawn = ["-f", "lavfi", "-i", "testsrc2=size=64x64:rate=12:duration=12", "-g", "6", "-bf", "0"]
    subprocess.run([ffmpeg(), "-loglevel", "error", *drawn, "-movflags", "+faststart", whole], check=True)
    cut.write_bytes(whole.read_bytes()[: int(0.6 * whole.stat().st_size)])
    with open_movie(whole) as movie:
        assert len(list(movie.frames)) == 144
    with open_movie(cut) as movie, pytest.raises(ImageError, match=r"damaged after frame \d+ of about 144"):
        list(movie.frames)
    with open_movie(cut) as movie:
        assert next(movie.frames).size == (64, 64)
