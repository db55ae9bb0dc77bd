"""PIE-Bench's layout, masks and two protocols, on a small set of our own in the same layout."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.bench.benchmark import Case, Configuration
from sfumato.bench.pie import PieBench, decode_mask, load_source, plain, through_jpeg
from sfumato.bench.rows import read_rows
from sfumato.bench.runner import run
from sfumato.emoji import EXAMPLES
from sfumato.errors import ImageError, ModelError, UsageError
from sfumato.metrics.distance import PixelDistance
from tests.bench.emoji import load_emoji


def runs(mask: np.ndarray) -> list[int]:
    """The mask as the file writes it, by a loop."""
    found: list[int] = []
    flat = mask.reshape(-1).tolist()
    for place, value in enumerate(flat):
        if value and (place == 0 or not flat[place - 1]):
            found += [place, 0]
        if value:
            found[-1] += 1
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "pie"
    pictures = data / "annotation_images" / "1_change_object_80"
    pictures.mkdir(parents=True)
    for name in ("cat", "dog"):
        with Image.open(EXAMPLES / f"{name}.png") as image:
            image.convert("RGB").resize((512, 512)).save(pictures / f"{name}.jpg", quality=95)
    inside = np.zeros((512, 512), np.uint8)
    inside[100:400, 120:380] = 1
    entry = {
        "original_prompt": "a [cat] on a blue background",
        "editing_prompt": "a [dog] on a blue background",
        "editing_instruction": "Change the cat to a dog",
        "editing_type_id": "1",
        "blended_word": "cat dog",
        "mask": runs(inside),
        "image_path": "1_change_object_80/cat.jpg",
    }
    other = {"image_path": "1_change_object_80/dog.jpg", "editing_type_id": "9"}
    everything = {**entry, **other, "mask": [0, 512 * 512]}
    entries = {
        "000000000001": entry,
        "000000000002": everything,
        "000000000003": {**entry, "image_path": "1_change_object_80/none.jpg"},
        "000000000004": {**entry, "mask": [5]},
    }
    (data / "mapping_file.json").write_text(json.dumps(entries))
    return data


def test_masks_are_runs_over_rows() -> None:
    mask = decode_mask([513, 2, 512 * 511, 9999], forced_border=False)
    assert mask.sum() == 2 + 512
    assert mask[1, 1] == mask[1, 2] == 1
    assert mask[511].all()
    framed = decode_mask([513, 2])
    assert framed[0].all()
    assert framed[-1].all()
    assert framed[:, 0].all()
    assert framed[:, -1].all()
    assert framed.sum() == 4 * 511 + 2
    generator = np.random.default_rng(0)
    assert decode_mask([0, 10**300]).all()  # clipped at the end of the grid
    drawn = (generator.random((512, 512)) < 0.3).astype(np.uint8)
    assert (decode_mask(runs(drawn), forced_border=False) == drawn).all()


@pytest.mark.parametrize("damaged", [[1], [3, "a"], [-1, 4], [512 * 512, 1], None])
def test_damaged_masks_are_named(damaged: Any) -> None:
    with pytest.raises(ImageError, match="mask is damaged"):
        decode_mask(damaged)


def test_prompts_lose_their_brackets_and_pictures_their_margins(tmp_path: Path) -> None:
    assert plain("a [cat] on [the] mat") == "a cat on the mat"
    wide = Image.new("RGBA", (300, 100), (255, 0, 0, 255))
    wide.paste((0, 0, 255, 255), (100, 0, 200, 100))
    wide.save(tmp_path / "wide.png")
    loaded = load_source(tmp_path / "wide.png")
    assert loaded.size == (512, 512)
    assert np.asarray(loaded).reshape(-1, 3).min(axis=0).tolist() == [0, 0, 255]


def benchmark(folder: Path, protocol: str) -> PieBench:
    made = PieBench(data=folder, protocol=protocol, steps=2)
    distance = PixelDistance()
    made.__dict__["_judges"] = {"clip": None, "dino": None, "lpips": distance}
    return made


@pytest.mark.parametrize("protocol", ["pie-2023", "strict"])
def test_measures_by_its_protocol(folder: Path, tmp_path: Path, protocol: str) -> None:
    made = benchmark(folder, protocol)
    configurations = made.configurations(["unedited", "autoencoder", "sdedit"], [])
    rows = run(made, configurations, tmp_path / "run", load_emoji)
    by_name = {(row["case"][-1], row["configuration"]): row for row in rows}
    assert by_name["3", "sdedit"]["error"].startswith("ImageError: cannot read none.jpg")
    assert "mask is damaged" in by_name["4", "unedited"]["error"]

    whole = by_name["2", "sdedit"]["figures"]  # all may change: nothing to keep
    assert whole["mse"] is None
    assert whole["clip_whole"] is None  # no CLIP here: a gap
    assert made.summarise(list(rows), tmp_path)["images with background"] == 3.0

    figures = by_name["1", "autoencoder"]["figures"]
    source = load_source(folder / "annotation_images" / "1_change_object_80" / "cat.jpg")
    with Image.open(tmp_path / "run" / by_name["1", "autoencoder"]["pictures"]["result"]) as kept:
        result = kept.convert("RGB")
    background = 1 - decode_mask(made.cases()[0].data["mask"], forced_border=protocol == "pie-2023").astype(float)
    squares = np.square(np.asarray(source, float) / 255 - np.asarray(result, float) / 255).mean(axis=2) * background
    expected = squares.mean() if protocol == "pie-2023" else squares.sum() / background.sum()
    assert figures["mse"] == pytest.approx(1e4 * expected, rel=1e-4)
    assert figures["psnr"] == pytest.approx(-10 * np.log10(expected), rel=1e-4)
    unedited = by_name["1", "unedited"]["figures"]["mse"]
    assert (unedited > 0) is (protocol == "pie-2023")  # JPEG alone costs something


def test_says_which_rules_it_ran_under(folder: Path) -> None:
    made = benchmark(folder, "strict")
    assert made.settings["masks used for editing"] is False
    assert made.settings["judges"] == {"clip": "missing", "dino": "missing", "lpips": "pixel"}
    assert [case.kind for case in made.cases()] == ["1 change object", "9 change style"] + ["1 change object"] * 2


def test_reads_clip_agreement_whole_and_of_the_edited_part(folder: Path) -> None:
    class Judge:
        def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean(dim=(2, 3)) + 1

        def text_features(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0, 0.0]] if "dog" in texts[0] else [[0.0, 0.0, 1.0]])

    made = benchmark(folder, "strict")
    made.__dict__["_judges"] = {"clip": Judge(), "dino": None, "lpips": None}
    red_middle = Image.new("RGB", (512, 512), (0, 0, 255))
    red_middle.paste((255, 0, 0), (120, 100, 380, 400))
    mask = decode_mask(made.cases()[0].data["mask"], forced_border=False)
    figures = made._figures(red_middle, red_middle, mask, ("a cat", "a dog"))
    assert figures["clip_edited"] == pytest.approx(100, abs=1e-3)
    assert figures["clip_source"] is not None
    assert figures["clip_whole"] is not None
    assert figures["clip_source"] > figures["clip_whole"] > 0


def test_jpeg_is_the_one_that_was_published() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    assert through_jpeg(noise).size == (64, 64)
    assert (np.asarray(through_jpeg(noise)) != np.asarray(noise)).any()


def test_other_folders_and_protocols_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"mapping_file\.json"):
        PieBench(data=tmp_path)
    with pytest.raises(UsageError, match="protocol must be one of pie-2023, strict"):
        PieBench(data=folder, protocol="pie")


def with_entries(folder: Path, **changed: Any) -> Path:
    """The folder with entries that differ from the first, good one, in what is given; None: as it is given whole."""
    file = folder / "mapping_file.json"
    good = json.loads(file.read_text())["000000000001"]
    entries = {name: {**good, **change} if isinstance(change, dict) else change for name, change in changed.items()}
    file.write_text(json.dumps({"good": good, **entries}))
    return folder


def tried(folder: Path, out: Path) -> dict[str, dict[str, Any]]:
    """What the unedited images give, by entry; the run is read back from the disk too."""
    made = benchmark(folder, "strict")
    rows = run(made, [Configuration("unedited")], out, load_emoji)
    assert read_rows(out) == rows
    return {row["case"]: row for row in rows}


def test_one_bad_entry_costs_its_row_alone(folder: Path, tmp_path: Path) -> None:
    bad: dict[str, Any] = {
        "none": None, "number": 5, "list": ["a"], "text": "cat", "deep": [[[[[[1]]]]]],
        "path_number": {"image_path": 5}, "path_none": {"image_path": None}, "path_list": {"image_path": ["a.jpg"]},
        "path_empty": {"image_path": ""}, "path_null": {"image_path": "a\0b.jpg"},
        "path_long": {"image_path": "x" * 9999}, "path_half": {"image_path": "\ud800.jpg"},
        "path_folder": {"image_path": "1_change_object_80"},
        "prompt_number": {"original_prompt": 5}, "prompt_none": {"editing_prompt": None},
        "prompt_half": {"editing_prompt": "\udcff"}, "prompt_list": {"editing_prompt": ["a", "dog"]},
        "mask_text": {"mask": "x"}, "mask_none": {"mask": None}, "mask_object": {"mask": {"0": 1}},
        "mask_floats": {"mask": [1.5, 2.5]}, "mask_bools": {"mask": [True, True]}, "mask_far": {"mask": [10**9, 1]},
        "mask_negative": {"mask": [5, -5]}, "mask_nested": {"mask": [[1, 2]]}, "word_number": {"blended_word": 5},
        "nan": {"weight": float("nan")},
    }  # fmt: skip
    bad |= {
        "type_list": {"editing_type_id": [1], "mask": None},
        "type_far": {"editing_type_id": "99", "mask": None},
        "half_\ud800": {"mask": None},
    }
    rows = tried(with_entries(folder, **bad), tmp_path / "run")
    assert rows.keys() == {"good", "half_\\ud800"} | bad.keys() - {"half_\ud800"}
    good = rows.pop("good")
    assert good["status"] == "done"
    assert {row["status"] for row in rows.values()} == {"error"}
    assert all(row["error"].startswith("ImageError: ") and len(row["error"]) < 500 for row in rows.values())
    assert {rows[name]["kind"] for name in ("type_list", "type_far")} == {"unknown"}


@pytest.mark.parametrize(
    "text", ["[]", "[{}]", "{}", "5", "null", "", "[" * 200_000, '{"a": 1, "a": 2}', '{"a": ' + "9" * 5000, "\xff\xfe"]
)
def test_a_mapping_that_is_none_is_refused_in_one_line(folder: Path, text: str) -> None:
    (folder / "mapping_file.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"mapping_file\.json.*--data is the folder of PIE-Bench") as caught:
        PieBench(data=folder)
    assert len(str(caught.value)) < 600
    (folder / "mapping_file.json").unlink()
    os.mkfifo(folder / "mapping_file.json")
    with pytest.raises(UsageError, match="not a regular file"):
        PieBench(data=folder)


def test_images_stay_inside_the_folder_of_the_data(folder: Path, tmp_path: Path) -> None:
    images = folder / "annotation_images"
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64), (255, 0, 0)).save(secret)
    (images / "link.png").symlink_to(secret)
    (images / "linked").symlink_to(tmp_path)
    (images / "circle.png").symlink_to(images / "circle.png")
    (images / "inside.jpg").symlink_to(images / "1_change_object_80" / "dog.jpg")
    paths = ["../../secret.png", str(secret), "link.png", "linked/secret.png", "1_change_object_80/../../../secret.png"]
    bad = {f"bad{k}": {"image_path": path} for k, path in enumerate(paths)}
    odd = {"circle": {"image_path": "circle.png"}, "inside": {"image_path": "inside.jpg"}}
    rows = tried(with_entries(folder, **bad, **odd), tmp_path / "run")
    for name in bad:
        assert "leads outside" in rows[name]["error"]
    assert rows["circle"]["status"] == "error"
    assert rows["inside"]["status"] == "done"
    assert {path.name for path in (tmp_path / "run" / "pictures").iterdir()} == {"good", "inside"}


def test_images_are_read_by_the_one_reader(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = folder / "annotation_images"
    os.mkfifo(images / "pipe.png")
    (images / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n")
    Image.new("1", (13_000, 13_000)).save(images / "huge.png")
    (images / "cut.jpg").write_bytes((images / "1_change_object_80" / "dog.jpg").read_bytes()[:900])
    (images / "page.png").write_text("<html>")
    (images / "empty.png").write_bytes(b"")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *arguments, **options: pytest.fail("Ghostscript"))
    names = ["pipe.png", "script.png", "huge.png", "cut.jpg", "page.png", "empty.png"]
    started = time.monotonic()
    rows = tried(with_entries(folder, **{name: {"image_path": name} for name in names}), tmp_path / "run")
    assert time.monotonic() - started < 60
    assert {name: rows[name]["status"] for name in names} == dict.fromkeys(names, "error")
    assert "not a regular file" in rows["pipe.png"]["error"]
    assert "megapixels" in rows["huge.png"]["error"]
    assert rows["good"]["status"] == "done"


def test_judges_come_from_this_computer_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a judge was looked for in the network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for variable in ("SFUMATO_WEIGHTS", "SFUMATO_CACHE", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("sfumato.metrics.lpips.package_folder", lambda name: None)
    started = time.monotonic()
    made = PieBench(data=folder)
    (line,) = made.notes
    assert time.monotonic() - started < 20
    assert "\n" not in line
    assert line.startswith("clip, dino, lpips not on this computer, so their figures are missing: ")
    assert "hf download openai/clip-vit-large-patch14" in line
    assert "facebook/dino-vitb8" in line
    assert "lpips_squeeze.pth" in line
    assert made.settings["judges"] == dict.fromkeys(("clip", "dino", "lpips"), "missing")
    assert benchmark(folder, "strict").notes[0].startswith("clip, dino not on this computer")
    for named in ({"clip": str(tmp_path / "nowhere")}, {"dino": "some/model"}):  # what the user names is no gap
        with pytest.raises(ModelError, match="cannot load"):
            PieBench(data=folder, **named).prepare(None)  # type: ignore[arg-type]


def test_runs_on_other_data_are_told_apart(folder: Path, tmp_path: Path) -> None:
    before = benchmark(folder, "strict").settings
    assert before == benchmark(folder, "strict").settings
    with_entries(folder, other={}, third={}, fourth={})
    after = benchmark(folder, "strict").settings
    assert after["images"] == before["images"] == 4
    assert after["data"] != before["data"]


def test_a_case_without_an_entry_is_an_error_not_a_crash(folder: Path) -> None:
    with pytest.raises(ImageError, match="must be a table"):
        benchmark(folder, "strict").attempt(None, Case("x", "unknown", 5), Configuration("unedited"))  # type: ignore[arg-type]
