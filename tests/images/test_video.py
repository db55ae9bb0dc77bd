"""Moving images: what a player gets out of the files, and that a failure leaves nothing behind."""

import io
import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageSequence

from sfumato.errors import ImageError, UsageError
from sfumato.images import MOVIES, Pace, check_movie_path, ffmpeg, read_recipe, save_movie
from sfumato.images.palette import in_palette, shared_palette

RECIPE = {"command": "morph", "prompts": ["a; cat = \\ #1", "ünd\n"], "seed": 3}
COLOURS = [(200, 40, 30), (40, 180, 60), (30, 60, 200), (220, 200, 40), (120, 60, 140)]
EVEN = Pace(fps=10, hold=0)


def frames(size: tuple[int, int] = (64, 64), count: int = 5) -> list[Image.Image]:
    return [Image.new("RGB", size, COLOURS[k]) for k in range(count)]


def decoded(path: Path) -> list[np.ndarray[Any, Any]]:
    """All frames of a movie as ffmpeg shows them."""
    if path.suffix not in (".mp4", ".mov", ".webm"):
        with Image.open(path) as image:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-f", "image2pipe"]
    command += ["-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
    stream = io.BytesIO(subprocess.run(command, capture_output=True, check=True).stdout)
    shown = []
    while stream.tell() < len(stream.getbuffer()):
        _, size, _ = (stream.readline() for _ in range(3))
        width, height = map(int, size.split())
        shown.append(np.frombuffer(stream.read(width * height * 3), np.uint8).reshape(height, width, 3))
    return shown


def stream(path: Path) -> str:
    """What ffmpeg says of the stream in a file: "h264 ..., yuv420p(tv, bt709, progressive), 34x32, ... 10 fps, ..."."""
    said = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True, check=False)
    return next(line.partition("Video: ")[2] for line in said.stderr.splitlines() if "Video: " in line)


@pytest.mark.parametrize("suffix", MOVIES)
def test_every_frame_is_there_in_its_colour(tmp_path: Path, suffix: str) -> None:
    path = save_movie(frames(), tmp_path / f"morph{suffix}", pace=EVEN, recipe=RECIPE)
    shown = decoded(path)
    assert len(shown) == 5
    for picture, colour in zip(shown, COLOURS, strict=True):
        assert picture.shape == (256, 256, 3)  # enlarged four times
        assert np.abs(picture.reshape(-1, 3).mean(0) - colour).max() < 6
    assert read_recipe(path) == RECIPE
    assert [other.name for other in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("suffix", "alpha", "codec", "pixels"),
    [
        (".mp4", False, "h264", r"yuv420p\(tv, bt709, progressive\)"),
        (".mov", False, "h264", r"yuv420p\(tv, bt709, progressive\)"),
        (".mov", True, "prores (4444)", r"yuva444p12le\((tv, )?bt709, progressive\)"),  # ffmpeg 7 tells no range
        (".webm", False, "vp9", r"yuv420p\(tv, bt709, progressive\)"),
        (".webm", True, "vp9", r"yuv420p\(tv, bt709, progressive\)"),  # and alpha in a stream beside it
    ],
)
def test_streams_say_matrix_primaries_and_transfer(
    tmp_path: Path, suffix: str, alpha: bool, codec: str, pixels: str
) -> None:
    shown = [frame.convert("RGBA") for frame in frames((33, 31))]
    if alpha:
        shown[0].putalpha(128)
    path = save_movie([*shown], tmp_path / f"morph{suffix}", pace=EVEN, scale=1)
    said = stream(path)  # one name for three that agree; else it says bt709/unknown/unknown
    assert said.startswith(codec)
    assert re.search(f" {pixels}, 34x32", said)
    assert "10 fps" in said
    assert len(decoded(path)) == 5


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


def test_images_on_the_way_stand_still_too() -> None:
    pace = Pace(fps=10, hold=1)
    assert pace.played(5, loops=True, stops=[0, 2, 4]) == [(0, 1.0), (1, 0.1), (2, 1.0), (3, 0.1), (4, 1.0)]
    own = Pace(fps=10, hold=(1, 0, 3)).played(5, loops=True, stops=[0, 2, 4])
    assert [seconds for _, seconds in own] == [1.0, 0.1, 0.1, 0.1, 3.0]
    back = Pace(fps=10, hold=(1, 2, 3), bounce=True).played(5, loops=True, stops=[0, 2, 4])
    assert back == [(0, 1.0), (1, 0.1), (2, 2.0), (3, 0.1), (4, 3.0), (3, 0.1), (2, 2.0), (1, 0.1)]


@pytest.mark.parametrize("hold", [1, (1, 1), (1, 1, 9)])
def test_a_circle_closes_without_a_doubled_frame(hold: Any) -> None:
    round_trip = Pace(fps=10, hold=hold).played(5, loops=True, stops=[0, 2, 4], closed=True)
    assert round_trip == [(0, 1.0), (1, 0.1), (2, 1.0), (3, 0.1)]  # and then 0 again, for as long as 2


@pytest.mark.parametrize("suffix", MOVIES)
def test_a_circle_is_noticed_and_its_seam_is_no_longer_than_other_holds(tmp_path: Path, suffix: str) -> None:
    shown = frames()
    path = save_movie(
        [*shown, shown[0]], tmp_path / f"a{suffix}", pace=Pace(fps=10, hold=0.2), stops=[0, 3, 5], scale=1
    )
    if suffix in (".mp4", ".mov", ".webm"):
        assert len(decoded(path)) == 2 + 1 + 1 + 2 + 1
        return
    with Image.open(path) as image:
        assert [round(frame.info["duration"]) for frame in ImageSequence.Iterator(image) if frame.load()] == [
            200, 100, 100, 200, 100
        ]  # fmt: skip


def test_a_smooth_pace_lasts_as_long_and_is_slowest_beside_images() -> None:
    pace = Pace(fps=10, hold=0, easing="smooth")
    timeline = pace.played(11, loops=True, stops=[0, 5, 10])
    seconds = [value for _, value in timeline]
    assert sum(seconds) == pytest.approx(1.1)
    assert seconds == pytest.approx(seconds[::-1])
    assert seconds[0] > seconds[1] > seconds[2] < seconds[4] < seconds[5]
    assert Pace(fps=10, hold=2, easing="smooth").played(3, loops=True)[0] == (0, 2.0)
    times = np.cumsum(seconds[:6]) - np.array(seconds[:6]) / 2  # the middles of frames are where the curve is
    way = (times[1:5] - 0.05) / 0.5
    assert np.allclose(3 * way**2 - 2 * way**3, np.arange(1, 5) / 5, atol=0.02)


def test_a_smooth_stream_is_fine_enough_to_show_it(tmp_path: Path) -> None:
    path = save_movie(frames() * 2, tmp_path / "a.mp4", pace=Pace(fps=10, hold=0, easing="smooth"))
    assert "50 fps" in stream(path)
    assert len(decoded(path)) == 50


def test_held_ends_of_an_mp4(tmp_path: Path) -> None:
    path = save_movie(frames(count=3), tmp_path / "morph.mp4", pace=Pace(fps=10, hold=0.5, bounce=True))
    assert len(decoded(path)) == 5 + 1 + 5 + 1  # and then the first one again, once


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("morph.avi", "must end in .webp, .mp4, .webm, .mov, .gif, .apng"),
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
    with pytest.raises(UsageError, match=r"fps for .gif must be in \[0.1, 50\], got 60"):
        save_movie(frames(), tmp_path / "a.gif", pace=Pace(fps=60))
    with pytest.raises(UsageError, match=r"hold must be in \[0, 60\], got -1"):
        save_movie(frames(), tmp_path / "a.mp4", pace=Pace(hold=-1))
    with pytest.raises(UsageError, match="scale must be a whole number in"):
        save_movie(frames(), tmp_path / "a.mp4", scale=0)
    with pytest.raises(ImageError, match="one size"):
        save_movie([*frames(), Image.new("RGB", (8, 8))], tmp_path / "a.mp4")
    for wrong in ({"fps": float("nan")}, {"fps": "12"}, {"hold": [0.5, float("inf")]}, {"hold": "1"}, {"bounce": 1}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))}.* must be "):
            save_movie(frames(), tmp_path / "a.webp", pace=Pace(**wrong))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="easing must be one of linear, smooth, got 'bouncy'"):
        save_movie(frames(), tmp_path / "a.webp", pace=Pace(easing="bouncy"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one time for all or one for each of 2 images, got 3"):
        save_movie(frames(), tmp_path / "a.webp", pace=Pace(hold=(1, 2, 3)))
    with pytest.raises(UsageError, match=r"inbetweens must be a whole number .*, got 99"):
        save_movie(frames(), tmp_path / "a.webp", inbetweens=99)
    with pytest.raises(UsageError, match=r"19200x640 pixels are too large \(at most 16383 a side"):
        save_movie(frames((300, 10)), tmp_path / "a.webp", scale=64)
    with pytest.raises(UsageError, match="JSON"):
        save_movie(frames(), tmp_path / "a.gif", recipe={"model": object()})
    assert list(tmp_path.iterdir()) == []


class FullDisk(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", ["morph.gif", "morph.webp", "morph.apng", "frames"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", lambda *_, **__: FullDisk())
    with pytest.raises(ImageError, match=r"cannot write .*No space left"):
        save_movie(frames(), tmp_path / name, recipe=RECIPE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_under_ffmpeg_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").symlink_to("/dev/full")
    make = ffmpeg.subprocess.Popen
    monkeypatch.setattr(
        ffmpeg.subprocess, "Popen", lambda c, **given: make([*c[:-1], f"file:{tmp_path}/disk"], **given)
    )
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
    make = ffmpeg.subprocess.Popen

    def start(*args: Any, **given: Any) -> Any:
        started.append(make(*args, **given))
        return started[0]

    monkeypatch.setattr(ffmpeg, "_even", lambda _: Stopping())
    monkeypatch.setattr(ffmpeg.subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        save_movie(frames(), tmp_path / "morph.mp4")
    assert started[0].poll() is not None
    assert list(tmp_path.iterdir()) == []


def test_without_ffmpeg_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(ImageError, match=r"pip install imageio-ffmpeg, or write \.webp"):
        check_movie_path(tmp_path / "morph.mp4")


def test_a_foreign_mp4_carries_no_recipe(tmp_path: Path) -> None:
    path = save_movie(frames(), tmp_path / "morph.mp4")
    with pytest.raises(ImageError, match="carries no recipe"):
        read_recipe(path)
    path.write_text("not a movie")
    with pytest.raises(ImageError, match="not a readable MP4"):
        read_recipe(path)


# --- what frames look like -------------------------------------------------------------------------------------------


def smooth(count: int = 8, size: int = 128) -> list[Image.Image]:
    """Smooth colours that move on the left; the right half never changes."""
    y, x = np.mgrid[0:size, 0:size] / size
    found = []
    for k in range(count):
        t = np.where(x < 0.5, k / count, 0.0)
        values = [np.sin(6 * x + 2 * t + 2 * y), np.cos(5 * y - 2 * t + x), np.sin(4 * x * y + 3 * t)]
        found.append(Image.fromarray(np.rint(127.5 + 110 * np.stack(values, -1)).astype(np.uint8)))
    return found


@pytest.mark.parametrize(
    ("suffix", "least", "moves"),
    [
        (".webp", 40.0, 0),  # measured 43.6 dB
        (".apng", 99.0, 0),
        (".gif", 28.0, 0),  # 29.2 dB; with a palette a frame and no dithering it moved by 78 levels
        (".mp4", 38.0, 4),
        (".webm", 38.0, 4),
        (".mov", 38.0, 4),
    ],
)
def test_smooth_colours_stay_smooth_and_what_stands_still_stands_still(
    tmp_path: Path, suffix: str, least: float, moves: int
) -> None:
    wanted = smooth()
    shown = decoded(save_movie(wanted, tmp_path / f"a{suffix}", pace=EVEN, scale=1))
    errors = [np.square(np.asarray(a, float) - b).mean() for a, b in zip(wanted, shown, strict=True)]
    assert 10 * np.log10(255**2 / max(np.mean(errors), 1e-9)) > least
    still = [frame[:, 72:].astype(int) for frame in shown]
    assert max(np.abs(one - still[0]).max() for one in still) <= moves


def test_dithering_hides_the_bands_of_a_palette(tmp_path: Path) -> None:
    wanted = smooth()
    palette = shared_palette(wanted)
    assert palette.shape == (255, 3)

    def seen(frame: Image.Image) -> np.ndarray[Any, Any]:
        return np.asarray(frame.convert("RGB").filter(ImageFilter.GaussianBlur(1.2)), float)

    def error(dither: bool) -> float:
        shown = [in_palette(frame, palette, dither=dither) for frame in wanted]
        return float(np.mean([np.square(seen(a) - seen(b)).mean() for a, b in zip(wanted, shown, strict=True)]))

    assert error(dither=True) < 0.75 * error(dither=False)


def test_few_colours_stay_exact_in_a_gif(tmp_path: Path) -> None:
    shown = decoded(save_movie(frames(), tmp_path / "a.gif", pace=EVEN))
    assert [tuple(frame[5, 5]) for frame in shown] == COLOURS
    assert all(len(np.unique(frame.reshape(-1, 3), axis=0)) == 1 for frame in shown)


def ghosts(count: int = 4, size: int = 64) -> list[Image.Image]:
    """A disc that moves on a transparent ground, with a soft edge."""
    y, x = np.mgrid[0:size, 0:size]
    found = []
    for k in range(count):
        alpha = np.clip(20 - np.hypot(x - 20 - 8 * k, y - 32), 0, 4) / 4
        values = np.stack([np.full_like(alpha, 200), x * 3.0, np.full_like(alpha, 40), 255 * alpha], -1)
        found.append(Image.fromarray(np.rint(values).astype(np.uint8)))
    return found


def alphas(path: Path) -> list[np.ndarray[Any, Any]]:
    """The alpha of all frames, as levels."""
    if path.suffix in (".webm", ".mov"):
        decoder = ["-c:v", "libvpx-vp9"] if path.suffix == ".webm" else []  # ffmpeg's own decoder passes alpha over
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            *decoder,
            "-i",
            path,
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgba",
        ]
        raw = subprocess.run([*command, "-"], capture_output=True, check=True).stdout
        return list(np.frombuffer(raw, np.uint8).reshape(-1, 64, 64, 4)[..., 3].astype(int))
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGBA").getchannel("A"), int) for frame in ImageSequence.Iterator(image)]


@pytest.mark.parametrize(("suffix", "off"), [(".webp", 0), (".apng", 0), (".gif", 128), (".webm", 24), (".mov", 4)])
def test_alpha_comes_back(tmp_path: Path, suffix: str, off: int) -> None:
    path = save_movie(ghosts(), tmp_path / f"a{suffix}", pace=EVEN, scale=1, recipe=RECIPE)
    shown = alphas(path)
    assert len(shown) == 4
    for found, wanted in zip(shown, ghosts(), strict=True):
        assert np.abs(found - np.asarray(wanted.getchannel("A"), int)).max() <= off
    assert read_recipe(path) == RECIPE


def test_frames_in_a_folder_keep_alpha(tmp_path: Path) -> None:
    folder = save_movie(ghosts(), tmp_path / "frames")
    for k, wanted in enumerate(ghosts()):
        with Image.open(folder / f"frame-{k:03d}.png") as image:
            assert image.mode == "RGBA"
            assert image.tobytes() == wanted.tobytes()


def test_mp4_shows_alpha_on_white_and_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"MP4 keeps no alpha: .* on white; \.webm, \.mov and \.webp keep it"):
        path = save_movie(ghosts(), tmp_path / "a.mp4", pace=EVEN, scale=1)
    assert decoded(path)[0][0, 0].min() > 250


@pytest.mark.parametrize("size", [(3, 700), (700, 3), (1, 1), (5, 7)])
@pytest.mark.parametrize("suffix", MOVIES)
def test_odd_sizes(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    shown = decoded(save_movie(frames(size), tmp_path / f"a{suffix}", pace=EVEN))
    assert len(shown) == 5
    assert max(shown[0].shape) <= 1920
    assert np.abs(shown[4].reshape(-1, 3).mean(0) - COLOURS[4]).max() < 8


def test_inbetweens_follow_the_movement_and_keep_the_frames(tmp_path: Path) -> None:
    def ball(place: float) -> Image.Image:
        y, x = np.mgrid[0:64, 0:64]
        light = np.clip(12 - np.hypot(x - place, y - 32), 0, 1)[..., None] * [230.0, 200.0, 60.0]
        return Image.fromarray(np.rint(light).astype(np.uint8))

    given = [ball(16 + 8 * k) for k in range(4)]
    found = ffmpeg.inbetween(given, 1)
    assert len(found) == 7
    assert all(found[2 * k].tobytes() == frame.tobytes() for k, frame in enumerate(given))
    wanted, between = np.asarray(ball(28), float), np.asarray(found[3], float)
    mixed = (np.asarray(given[1], float) + np.asarray(given[2], float)) / 2
    assert np.square(between - wanted).mean() < 0.3 * np.square(mixed - wanted).mean()

    path = save_movie(given, tmp_path / "a.apng", pace=Pace(fps=10, hold=0), inbetweens=3, scale=1)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 13
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) == pytest.approx(325)
    assert len(ffmpeg.inbetween([image.resize((5, 7)) for image in ghosts()], 2)) == 10
