"""PIE-Bench's layout, masks and two protocols, on a small set of our own in the same layout."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.bench.pie import PieBench, decode_mask, load_source, plain, through_jpeg
from sfumato.bench.runner import run
from sfumato.emoji import EXAMPLES
from sfumato.errors import ImageError, UsageError
from sfumato.metrics.distance import PixelDistance


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
    for name in ("cat-face", "fox"):
        with Image.open(EXAMPLES / f"{name}.png") as image:
            image.convert("RGB").resize((512, 512)).save(pictures / f"{name}.jpg", quality=95)
    inside = np.zeros((512, 512), np.uint8)
    inside[100:400, 120:380] = 1
    entry = {
        "original_prompt": "a [cat face] on a blue background",
        "editing_prompt": "a [dog face] on a blue background",
        "editing_instruction": "Change the cat to a dog",
        "editing_type_id": "1",
        "blended_word": "cat dog",
        "mask": runs(inside),
        "image_path": "1_change_object_80/cat-face.jpg",
    }
    fox = {"image_path": "1_change_object_80/fox.jpg", "editing_type_id": "9"}
    everything = {**entry, **fox, "mask": [0, 512 * 512]}
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
    rows = run(made, configurations, tmp_path / "run", partial(sfumato.load_model, "emoji"))
    by_name = {(row["case"][-1], row["configuration"]): row for row in rows}
    assert by_name["3", "sdedit"]["error"].startswith("ImageError: cannot read none.jpg")
    assert "mask is damaged" in by_name["4", "unedited"]["error"]

    whole = by_name["2", "sdedit"]["figures"]  # all may change: nothing to keep
    assert whole["mse"] is None
    assert whole["clip_whole"] is None  # no CLIP here: a gap
    assert made.summarise(list(rows), tmp_path)["pictures with background"] == 3.0

    figures = by_name["1", "autoencoder"]["figures"]
    source = load_source(folder / "annotation_images" / "1_change_object_80" / "cat-face.jpg")
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
