"""Moving pictures: what a player gets out of the files, and that a failure leaves nothing behind."""

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from sfumato.errors import ImageError, UsageError
from sfumato.images import Pace, check_movie_path, read_recipe, save_movie, video

RECIPE = {"command": "morph", "prompts": ["a; cat = \\ #1", "ünd\n"], "seed": 3}
COLOURS = [(200, 40, 30), (40, 180, 60), (30, 60, 200), (220, 200, 40), (120, 60, 140)]
EVEN = Pace(fps=10, hold=0)


def frames(size: tuple[int, int] = (64, 64), count: int = 5) -> list[Image.Image]:
    return [Image.new("RGB", size, COLOURS[k]) for k in range(count)]


def decoded(path: Path) -> list[np.ndarray[Any, Any]]:
    """All frames of a movie as ffmpeg shows them."""
    if path.suffix != ".mp4":
        with Image.open(path) as image:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-f", "image2pipe", "-c:v", "ppm", "-"]
    stream = io.BytesIO(subprocess.run(command, capture_output=True, check=True).stdout)
    shown = []
    while stream.tell() < len(stream.getbuffer()):
        _, size, _ = (stream.readline() for _ in range(3))
        width, height = map(int, size.split())
        shown.append(np.frombuffer(stream.read(width * height * 3), np.uint8).reshape(height, width, 3))
    return shown


def probe(path: Path) -> dict[str, Any]:
    """What ffprobe says of the picture stream."""
    program = shutil.which("ffprobe")
    if program is None:
        pytest.skip("there is no ffprobe")
    asked = ("-v", "error", "-count_frames", "-select_streams", "v:0", "-show_streams", "-show_format", "-of", "json")
    said = json.loads(subprocess.run([program, *asked, str(path)], capture_output=True, check=True).stdout)
    return {**said["format"], **said["streams"][0]}


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".mp4"])
def test_every_frame_is_there_in_its_colour(tmp_path: Path, suffix: str) -> None:
    path = save_movie(frames(), tmp_path / f"morph{suffix}", pace=EVEN, recipe=RECIPE)
    shown = decoded(path)
    assert len(shown) == 5
    for picture, colour in zip(shown, COLOURS, strict=True):
        assert picture.shape == (256, 256, 3)  # enlarged four times
        assert np.abs(picture.reshape(-1, 3).mean(0) - colour).max() < 6
    assert read_recipe(path) == RECIPE
    assert [other.name for other in tmp_path.iterdir()] == [path.name]


def test_ffprobe_agrees(tmp_path: Path) -> None:
    mp4 = probe(save_movie(frames((33, 31)), tmp_path / "morph.mp4", pace=EVEN, scale=1))
    assert (mp4["codec_name"], mp4["pix_fmt"], mp4["width"], mp4["height"]) == ("h264", "yuv420p", 34, 32)
    assert (mp4["nb_read_frames"], mp4["r_frame_rate"], mp4["color_space"]) == ("5", "10/1", "bt709")
    assert float(mp4["duration"]) == pytest.approx(0.5)
    gif = probe(save_movie(frames(), tmp_path / "morph.gif", pace=EVEN))
    assert (gif["codec_name"], gif["width"], gif["nb_read_frames"]) == ("gif", 256, "5")


def test_frames_in_a_folder_are_the_frames(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one) for one in noise]
    folder = save_movie(pictures, tmp_path / "frames", recipe=RECIPE)
    names = [f"frame-{k:03d}.png" for k in range(3)]
    assert sorted(path.name for path in folder.iterdir()) == names
    for name, one in zip(names, noise, strict=True):
        assert np.array_equal(np.asarray(Image.open(folder / name)), one)
    assert read_recipe(folder / names[2]) == {**RECIPE, "frame": 2}
    save_movie(pictures[:2], folder)  # a shorter morph leaves no frame of the longer one
    assert sorted(path.name for path in folder.iterdir()) == names[:2]
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]


def test_order_and_time() -> None:
    assert [k for k, _ in Pace(bounce=True).played(4, loops=True)] == [0, 1, 2, 3, 2, 1]
    assert [k for k, _ in Pace(bounce=True).played(4, loops=False)] == [0, 1, 2, 3, 2, 1, 0]
    assert Pace(fps=10, hold=1).played(3, loops=True) == [(0, 1.0), (1, 0.1), (2, 1.0)]
    assert Pace(fps=10, hold=0).played(2, loops=True) == [(0, 0.1), (1, 0.1)]


def test_delays_do_not_drift(tmp_path: Path) -> None:
    path = save_movie(frames() * 6, tmp_path / "morph.gif", pace=Pace(fps=12, hold=0))
    with Image.open(path) as image:
        delays = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert set(delays) == {80, 90}
    assert sum(delays) == 2500


def test_held_ends_of_an_mp4(tmp_path: Path) -> None:
    path = save_movie(frames(count=3), tmp_path / "morph.mp4", pace=Pace(fps=10, hold=0.5, bounce=True))
    assert len(decoded(path)) == 5 + 1 + 5 + 1 + 5


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("morph.avi", "must end in .gif, .mp4, .webp"),
        ("missing/morph.gif", "does not exist; make it first"),
        ("missing/frames", "does not exist; make it first"),
        ("full", r"it holds other files \(note.txt\)"),
        ("file", "it is a file"),
    ],
)
def test_paths_are_checked_before_the_work(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ImageError, match=says):
        check_movie_path(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


def test_values_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fps must be in \[0.1, 50\] for .gif, got 60"):
        save_movie(frames(), tmp_path / "a.gif", pace=Pace(fps=60))
    with pytest.raises(UsageError, match=r"hold must be in \[0, 60\] seconds, got -1"):
        save_movie(frames(), tmp_path / "a.mp4", pace=Pace(hold=-1))
    with pytest.raises(UsageError, match="scale must be in"):
        save_movie(frames(), tmp_path / "a.mp4", scale=0)
    with pytest.raises(ImageError, match="one size"):
        save_movie([*frames(), Image.new("RGB", (8, 8))], tmp_path / "a.mp4")
    with pytest.raises(UsageError, match="JSON"):
        save_movie(frames(), tmp_path / "a.gif", recipe={"model": object()})
    assert list(tmp_path.iterdir()) == []


class FullDisk(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", ["morph.gif", "morph.webp", "frames"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", lambda *_, **__: FullDisk())
    with pytest.raises(ImageError, match=r"cannot write .*No space left"):
        save_movie(frames(), tmp_path / name, recipe=RECIPE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_under_ffmpeg_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").symlink_to("/dev/full")
    make = video.subprocess.Popen
    monkeypatch.setattr(video.subprocess, "Popen", lambda c, **given: make([*c[:-1], f"file:{tmp_path}/disk"], **given))
    noise = np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)
    with pytest.raises(ImageError, match=r"cannot write .*morph\.mp4: ffmpeg failed: .*No space left"):
        save_movie([Image.fromarray(one) for one in noise], tmp_path / "morph.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


def test_a_stop_in_the_middle_ends_ffmpeg_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopping:
        shape = (64, 64, 3)

        def tobytes(self) -> bytes:
            raise KeyboardInterrupt

    started: list[Any] = []
    make = video.subprocess.Popen

    def start(*args: Any, **given: Any) -> Any:
        started.append(make(*args, **given))
        return started[0]

    monkeypatch.setattr(video, "_even", lambda _: Stopping())
    monkeypatch.setattr(video.subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        save_movie(frames(), tmp_path / "morph.mp4")
    assert started[0].poll() is not None
    assert list(tmp_path.iterdir()) == []


def test_without_ffmpeg_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(ImageError, match=r"pip install imageio-ffmpeg, or write \.gif"):
        check_movie_path(tmp_path / "morph.mp4")


def test_a_foreign_mp4_carries_no_recipe(tmp_path: Path) -> None:
    path = save_movie(frames(), tmp_path / "morph.mp4")
    with pytest.raises(ImageError, match="carries no recipe"):
        read_recipe(path)
    path.write_text("not a movie")
    with pytest.raises(ImageError, match="not a readable MP4"):
        read_recipe(path)
