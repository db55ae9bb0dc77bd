"""A folder and a movie are edited as their images one by one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.distillation.applying import apply_to_files, apply_to_movie
from sfumato.distillation.distilled import Distilled
from sfumato.errors import Cancelled, ImageError, UsageError
from sfumato.images import read_recipe
from sfumato.images.movie_reading import open_movie
from sfumato.images.video import save_frames
from sfumato.watch import Progress, Watch
from tests.distillation.test_distilled import made, picture


@pytest.fixture(scope="module")
def distilled() -> Distilled:
    return made()


def near(one: Image.Image, other: Image.Image) -> bool:
    """Whether two images differ by rounding alone: convolutions of a batch may add in another order."""
    return one.size == other.size and np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def test_a_folder_is_edited_as_its_images(distilled: Distilled, tmp_path: Path) -> None:
    sources = []
    for number in range(20):
        sources.append(tmp_path / f"{number:02d}.png")
        picture(16 + number % 3, 16, number).save(sources[-1])
    rows = apply_to_files(distilled, sources, tmp_path / "out", strength=0.7)
    assert [row.source for row in rows] == sources
    for row in rows:
        assert row.output is not None
        with Image.open(row.output) as image:
            assert image.tobytes() == distilled.apply(row.source, strength=0.7).image.tobytes()
        assert read_recipe(row.output)["strength"] == 0.7


def test_a_second_run_into_a_full_folder_looks_at_each_file_a_few_times(
    distilled: Distilled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [tmp_path / f"{number:03d}.png" for number in range(120)]
    (tmp_path / "out").mkdir()
    for source in sources:
        source.touch()
        (tmp_path / "out" / source.name).touch()
    looks, stat = 0, Path.stat

    def counted(self: Path, **given: bool) -> os.stat_result:
        nonlocal looks
        looks += 1
        return stat(self, **given)

    monkeypatch.setattr(Path, "stat", counted)
    apply_to_files(distilled, sources, tmp_path / "out")  # all are empty
    assert looks < 12 * len(sources)


def test_a_damaged_image_costs_its_row_and_equal_names_are_told_apart(distilled: Distilled, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        picture().save(tmp_path / folder / "cat.png")
    (tmp_path / "a" / "wrong.png").write_bytes(b"no image")
    sources = [tmp_path / "a" / "cat.png", tmp_path / "a" / "wrong.png", tmp_path / "b" / "cat.png"]
    first, wrong, second = apply_to_files(distilled, sources, tmp_path / "out")
    assert (wrong.output, "not an image" in wrong.error) == (None, True)
    assert [row.output.name for row in (first, second) if row.output] == ["cat.png", "cat-2.png"]
    with pytest.raises(UsageError, match="is a source and would be overwritten"):
        apply_to_files(distilled, sources, tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="cannot write"):
        apply_to_files(distilled, sources, tmp_path / "file")


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_a_movie_of_48_frames_is_edited_as_its_frames(distilled: Distilled, ending: str, tmp_path: Path) -> None:
    frames = [picture(36, 34, number).resize((36, 34)) for number in range(48)]
    movie = save_frames(iter(frames), tmp_path / f"in{ending}", size=(36, 34), fps=12.0)
    row = apply_to_movie(distilled, movie, tmp_path / "out", strength=0.8)
    assert row.output == tmp_path / "out"
    with open_movie(movie) as opened:
        alone = [distilled.apply(frame, strength=0.8).image for frame in opened.frames]
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == len(alone) == 48
    for file, image in zip(files, alone, strict=True):
        with Image.open(file) as frame:
            assert near(frame, image)
    back = apply_to_movie(distilled, movie, tmp_path / f"out{ending}", strength=0.0)
    assert back.output is not None
    with open_movie(back.output) as opened:
        assert (opened.size, opened.fps) == ((36, 34), pytest.approx(12.0, abs=0.6))
        assert len(list(opened.frames)) == 48


def test_a_movie_is_not_written_over_itself_nor_half(distilled: Distilled, tmp_path: Path) -> None:
    movie = save_frames((picture(32, 32, n) for n in range(20)), tmp_path / "in.mp4", size=(32, 32), fps=12.0)
    with pytest.raises(UsageError, match="is the source"):
        apply_to_movie(distilled, movie, movie)
    for out in ("out.mp4", "in.mp4"):
        with pytest.raises(ImageError, match="no file"):
            apply_to_movie(distilled, tmp_path / "none.mp4", tmp_path / out)
    seen: list[Progress] = []
    watch = Watch(progress=seen.append, cancelled=lambda: bool(seen))
    with pytest.raises(Cancelled, match="after 8 frames"):
        apply_to_movie(distilled, movie, tmp_path / "out.mp4", watch=watch)
    assert not (tmp_path / "out.mp4").exists()
