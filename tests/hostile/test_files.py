"""Every hostile file goes into the command that it belongs to: no traceback, no hang, no bomb, nothing left behind.

A slice of them runs with the other tests, all of them with `make fuzz`.
"""

import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sfumato.bench.benchmark import Configuration
from sfumato.bench.pie import PieBench
from sfumato.bench.rows import read_rows
from sfumato.errors import SfumatoError
from sfumato.images.video import save_frames
from tests.command import invoke
from tests.distillation.test_distilled import made
from tests.hostile import files
from tests.hostile.distilled import hostile_edits, hostile_movies
from tests.hostile.images import hostile_images, saved, subject
from tests.hostile.values import WHOLE, outcome

SECONDS, MEGABYTES = 20, 800
"""Most that one file may take; with the libraries and the model, which take 700 MB, that is 1.5 GB."""
PROMPTS = ("--source", "a cat", "--target", "a dog", "-o", "out.png")
SDEDIT = (*PROMPTS, "--method", "sdedit", "--steps", "1")
DRAW = ("--steps", "1", "-o", "out.png")
OUTPUTS = {"out.png", "out.gif"}


class TooLongError(BaseException):
    """The command took far too long."""


class Meter:
    """Seconds of the processor, and megabytes beyond what the process held before, since it was made."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self._begun, self._held = time.process_time(), self._peak()

    def complaint(self) -> str:
        """What is too much; "" for nothing."""
        seconds, megabytes = time.process_time() - self._begun, self._peak() - self._held
        return f"{seconds:.0f} s, {megabytes} MB" if seconds > SECONDS or megabytes > MEGABYTES else ""

    @staticmethod
    def _peak() -> int:
        if sys.platform == "linux":
            status = Path("/proc/self/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) // 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20


def complaint(folder: Path, *args: Any) -> str:
    """Runs `sfumato`; gives what was wrong with how it ended, "" for nothing."""

    def ring(*_: Any) -> None:
        raise TooLongError

    meter, before = Meter(), signal.signal(signal.SIGALRM, ring)
    signal.alarm(6 * SECONDS)  # of the clock, on a machine that others use too
    try:
        result = invoke(*args)
        said, code, error = result.output, result.exit_code, result.exception
    except TooLongError:
        return "hangs"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    left = {path.name for path in folder.iterdir()} - OUTPUTS
    for path in folder.iterdir():
        path.unlink()
    if code not in (0, 1, 2) or not (error is None or isinstance(error, SystemExit)):
        return f"exit code {code}, {error!r}"
    if "error: unexpected" in said or "Traceback" in said:
        return re.sub(r"\s+", " ", said)[-300:]
    if len(said) > 6_000:
        return f"{len(said)} characters of words"
    if left:
        return f"leaves {sorted(left)}"
    return meter.complaint()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty; the embedded model is loaded once, and no address is reached."""
    from sfumato.models import loading

    real, kept = loading.load_model, _MODELS

    def load(name: Any, **options: Any) -> Any:
        if name not in loading.BUNDLED or any(options.get(part) for part in ("lora", "loras", "embeddings", "vae")):
            return real(name, **options)
        if name not in kept:
            kept[name] = real(name, **options)
        return kept[name]

    def connect(*_: Any) -> None:
        raise AssertionError("a file decides what is contacted")

    monkeypatch.setattr(loading, "load_model", load)
    monkeypatch.setattr(socket.socket, "connect", connect)
    current = tmp_path / "current"
    current.mkdir()
    monkeypatch.chdir(current)
    return current


_MODELS: dict[Any, Any] = {}


def some(made: Iterator[Any], one_in: int) -> list[Any]:
    """All of them, or one in so many."""
    return list(made) if WHOLE else list(made)[one_in // 2 :: one_in]


def written(place: Path, made: Iterator[tuple[str, bytes]], one_in: int, ending: str = "") -> Iterator[Path]:
    """The files, one at a time."""
    place.mkdir(parents=True, exist_ok=True)
    for name, data in some(made, one_in):
        path = place / f"{name}{ending}"
        path.write_bytes(data)
        yield path
        path.unlink()


def check(found: dict[str, str]) -> None:
    wrong = [f"{name}: {words}" for name, words in found.items() if words]
    assert not wrong, "\n".join(wrong)
    assert found


def test_images(folder: Path, tmp_path: Path) -> None:
    found = {}
    for path in written(tmp_path / "images", hostile_images(), 20):
        found[f"edit {path.name}"] = complaint(folder, "edit", path, *SDEDIT)
        found[f"like {path.name}"] = complaint(folder, "edit", "--like", path, "-o", "out.png")
    check(found)


def test_special_files(folder: Path, tmp_path: Path) -> None:
    found, good = {}, tmp_path / "good.png"
    good.write_bytes(saved(subject(), "PNG"))
    for path in files.special_files(tmp_path / "special"):
        found[f"edit {path.name}"] = complaint(folder, "edit", path, *SDEDIT)
        found[f"like {path.name}"] = complaint(folder, "edit", "--like", path, "-o", "out.png")
        found[f"mask {path.name}"] = complaint(folder, "edit", good, *SDEDIT, "--mask", path)
        found[f"inverted {path.name}"] = complaint(folder, "edit", good, *SDEDIT, "--inverted", path)
        found[f"direction {path.name}"] = complaint(folder, "direction", "show", path)
    check(found)


def test_recipes(folder: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    good.write_bytes(saved(subject(), "PNG"))
    made = files.hostile_recipes(str(good))
    check(
        {
            path.name: complaint(folder, "edit", "--like", path, "-o", "out.png")
            for path in written(tmp_path / "recipes", made, 25)
        }
    )


def test_tensor_files(folder: Path, tmp_path: Path) -> None:
    found, good = {}, tmp_path / "good.png"
    good.write_bytes(saved(subject(), "PNG"))
    for path in written(tmp_path / "tensors", files.hostile_tensors(), 40, ".safetensors"):
        if not path.name.startswith("direction"):
            found[f"inverted {path.name}"] = complaint(folder, "edit", good, *PROMPTS, "--inverted", path)
        if not path.name.startswith("inversion"):
            way = ("--method", "pix2pix-zero", "--set", f"direction={path}", "--steps", "1")
            found[f"show {path.name}"] = complaint(folder, "direction", "show", path)
            found[f"direction {path.name}"] = complaint(folder, "edit", good, *PROMPTS, *way)
            found[f"model {path.name}"] = complaint(folder, "generate", "a cat", *DRAW, "--model", path)
            found[f"lora {path.name}"] = complaint(folder, "generate", "a cat", *DRAW, "--lora", path)
    check(found)


def test_distilled_edits(folder: Path, tmp_path: Path) -> None:
    found, good = {}, tmp_path / "good.png"
    good.write_bytes(saved(subject(), "PNG"))
    edits = hostile_edits(made(), tmp_path)
    for path in written(tmp_path / "edits", edits, 9, ".safetensors"):
        found[path.name] = complaint(folder, "apply", path, good, "-o", "out.png")
    for path in files.special_files(tmp_path / "special"):
        found[f"special {path.name}"] = complaint(folder, "apply", path, good, "-o", "out.png")
    check(found)


def test_movies(folder: Path, tmp_path: Path) -> None:
    found, edit = {}, made().save(tmp_path / "edit.safetensors")
    frames = [subject().convert("RGB").resize((32, 32)).rotate(9 * turn) for turn in range(12)]
    for ending in (".mp4", ".webm", ".gif"):
        movie = save_frames(iter(frames), tmp_path / f"good{ending}", size=(32, 32), fps=12.0)
        for path in written(tmp_path / "movies", hostile_movies(movie.read_bytes(), ending), 4):
            found[path.name] = complaint(folder, "apply", edit, path, "-o", "out.gif")
    check(found)


def test_rows(tmp_path: Path) -> None:
    found = {}
    for name, data in some(files.hostile_rows(), 5):
        (tmp_path / "rows.jsonl").write_bytes(data)
        kind, words = outcome(lambda: read_rows(tmp_path))
        found[name] = words if kind == "raw" else ""
    check(found)
    with pytest.raises(SfumatoError):
        read_rows(tmp_path / "nowhere")


def test_mappings(tmp_path: Path) -> None:
    files.image_folder(tmp_path / "annotation_images")
    (tmp_path.parent / "outside.png").write_bytes(saved(subject(), "PNG"))
    (tmp_path / "mapping_file.json").write_bytes(b"{}")
    found = {}
    for name, data in some(files.hostile_mappings(), 16):
        (tmp_path / "mapping_file.json").write_bytes(data)
        meter = Meter()
        kind, words = outcome(lambda: every_case(tmp_path))
        found[name] = words if kind == "raw" else meter.complaint()
        if name.startswith("try-") and name not in ("try-good", "try-mask-odd") and kind == "worked":
            assert any(word in name for word in ("mask", "prompt", "type")), f"{name} reads what is not the data's own"
    check(found)


def every_case(data: Path) -> None:
    """Reads and measures every case of PIE-Bench, without an edit and without judges."""
    bench = PieBench(data=data)
    bench.__dict__["_judges"] = dict.fromkeys(("clip", "dino", "lpips"))
    for case in bench.cases():
        bench.attempt(SimpleNamespace(sample_size=(64, 64)), case, Configuration("unedited"))  # type: ignore[arg-type]
