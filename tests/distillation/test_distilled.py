"""A distilled edit in a file is what it was in memory; strength 0 is the image; what does not fit is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from sfumato.distillation.distilled import Card, Distilled, Domain, domain_of, load_distilled, rounded
from sfumato.distillation.student import Arch, fresh
from sfumato.errors import ImageError, UsageError
from sfumato.tensorfile import content_hash
from tests.distillation.toy_pairs import SMALL, squares


def made(arch: Arch = SMALL) -> Distilled:
    student = fresh(arch, 0)
    with torch.no_grad():
        for parameter in student.parameters():  # so that it changes something everywhere
            parameter += 0.05
    rounded(student)
    pairs = squares(40)
    card = Card(
        "a red square", "a blue square", "toy", "r1", "ddib", pairs.size, 50, 40, 4, pairs.digest(), 30,
        options={"strength": 0.8}, figures={"held_out": 0.25}, notes=("ten pairs were left out",),
    )  # fmt: skip
    return Distilled(student, card, domain_of(student.eval(), pairs))


@pytest.fixture(scope="module")
def distilled() -> Distilled:
    return made()


def picture(width: int = 16, height: int = 16, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_a_file_gives_the_same_bit_for_bit(distilled: Distilled, tmp_path: Path) -> None:
    path = distilled.save(tmp_path / "edit.safetensors")
    again = load_distilled(path)
    assert again.card == replace(distilled.card, notes=list(distilled.card.notes))
    pixels, _ = squares(3).pixels(range(3))
    assert torch.equal(again(pixels), distilled(pixels))
    assert torch.equal(again.domain.mean, distilled.domain.mean)
    assert again.domain.limit == distilled.domain.limit
    with pytest.raises(UsageError, match=r"end in \.safetensors"):
        distilled.save(tmp_path / "edit.pt")


def test_a_student_of_the_usual_size_takes_less_than_5_megabytes(tmp_path: Path) -> None:
    assert made(Arch()).save(tmp_path / "edit.safetensors").stat().st_size < 5e6


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (5, 3), (40, 8)])
def test_strength_0_is_the_image_exactly_and_1_the_edit(distilled: Distilled, size: tuple[int, int]) -> None:
    image = picture(*size)
    none, half, whole = (distilled.apply(image, strength=strength).image for strength in (0.0, 0.5, 1.0))
    assert none.tobytes() == image.tobytes()
    assert whole.size == image.size
    assert whole.tobytes() != image.tobytes()
    middle = (np.asarray(none, float) + np.asarray(whole, float)) / 2
    assert np.abs(np.asarray(half, float) - middle).max() <= 1
    pixels = torch.rand(2, 3, 9, 7) * 2 - 1
    assert torch.equal(distilled(pixels, strength=0.0), pixels)
    assert torch.equal(distilled(pixels), distilled.student(pixels).pixels)


def test_alpha_stays(distilled: Distilled) -> None:
    image = picture()
    image.putalpha(Image.fromarray(np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))))
    result = distilled.apply(image)
    assert result.image.mode == "RGBA"
    assert result.image.getchannel("A").tobytes() == image.getchannel("A").tobytes()


def test_images_of_several_sizes_are_edited_as_each_by_itself(distilled: Distilled) -> None:
    images = [picture(16, 16, 1), picture(20, 12, 2), picture(16, 16, 3)]
    together = distilled.apply_each(images)
    for image, result in zip(images, together, strict=True):
        alone = distilled.apply(image)
        assert np.abs(np.asarray(alone.image, int) - np.asarray(result.image, int)).max() <= 1  # by rounding
        assert result.image.size == image.size


def test_a_result_carries_its_recipe(distilled: Distilled, tmp_path: Path) -> None:
    from sfumato.images import read_recipe

    recipe = read_recipe(distilled.apply(picture(), strength=0.5).save(tmp_path / "out.png"))
    assert (recipe["command"], recipe["strength"]) == ("apply", 0.5)
    assert recipe["distilled"]["target_prompt"] == "a blue square"


def test_images_unlike_the_training_ones_and_very_large_ones_are_noted(distilled: Distilled) -> None:
    known, _ = squares(40).pixels([7])
    assert distilled.apply(known).notes == ()
    assert "unlike" in distilled.apply(Image.new("RGB", (16, 16), (0, 255, 0))).notes[-1]
    (large,) = [note for note in distilled.apply(picture(64, 16)).notes if "64x16" in note]
    assert "learnt at 16x16" in large


@pytest.mark.parametrize("strength", [-0.1, 2.5, float("nan"), "much", True, None])
def test_a_strength_out_of_range_is_refused(distilled: Distilled, strength: Any) -> None:
    with pytest.raises(UsageError, match="strength must be"):
        distilled.apply(picture(), strength=strength)
    with pytest.raises(UsageError, match="strength must be"):
        distilled(torch.zeros(1, 3, 8, 8), strength=strength)


def test_pixels_of_another_kind_are_refused(distilled: Distilled) -> None:
    good = torch.zeros(1, 3, 8, 8)
    for pixels in (good[0], good[:, :1], good.byte(), good + 9, good * math.nan):
        with pytest.raises(UsageError, match="pixels must"):
            distilled(pixels)


def test_a_card_of_the_first_files_is_read(distilled: Distilled, tmp_path: Path) -> None:
    tensors, fields = contents(distilled.save(tmp_path / "edit.safetensors"))
    card = {
        name: value for name, value in fields["card"].items() if name not in ("negative_prompt", "inversion_options")
    }
    path = written(tmp_path / "first.safetensors", tensors, {**fields, "card": card})
    assert load_distilled(path).card == load_distilled(tmp_path / "edit.safetensors").card


def test_what_is_no_image_is_refused(distilled: Distilled, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no file"):
        distilled.apply(tmp_path / "none.png")


def contents(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    from sfumato.distillation.distilled import KIND
    from sfumato.tensorfile import load_tensors

    return load_tensors(path, KIND)


def written(path: Path, tensors: dict[str, torch.Tensor], fields: dict[str, Any], version: int = 1) -> Path:
    """A file whose content hash is right: whoever writes a file can write its hash."""
    text = json.dumps(fields)
    kind = f"sfumato-distilled-edit-{version}"
    path.write_bytes(save(tensors, {"format": kind, "fields": text, "content": content_hash(tensors, text)}))
    return path


HOSTILE_ARCHS = [
    {"width": 10**6}, {"width": 12}, {"levels": 9}, {"block": 3}, {"width": 8.0}, {"width": True}, {"name": "resnet"},
    {"width": None}, {"more": 1}, {"levels": 3},
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE_ARCHS, ids=str)
def test_another_architecture_than_that_of_its_tensors_is_refused(
    distilled: Distilled, tmp_path: Path, change: dict[str, Any]
) -> None:
    tensors, fields = contents(distilled.save(tmp_path / "edit.safetensors"))
    path = written(tmp_path / "wrong.safetensors", tensors, {**fields, "arch": {**fields["arch"], **change}})
    with pytest.raises(UsageError, match="does not fit this version"):
        load_distilled(path)


def test_damaged_foreign_and_newer_files_are_refused_in_words(distilled: Distilled, tmp_path: Path) -> None:
    good = distilled.save(tmp_path / "edit.safetensors")
    tensors, fields = contents(good)
    name = "student/stem.weight"
    cases = {
        "is damaged": {"card": {**fields["card"], "steps": "many"}},
        "steps is missing": {"card": {key: value for key, value in fields["card"].items() if key != "steps"}},
        "does not know": {"card": {**fields["card"], "colour": 3}},
        "limit must be": {"limit": -1.0},
    }
    for words, change in cases.items():
        with pytest.raises(UsageError, match=words):
            load_distilled(written(tmp_path / "wrong.safetensors", tensors, {**fields, **change}))
    for words, change in (
        ("its tensors", {name: torch.zeros(3)}),
        ("NaN", {name: tensors[name] * float("nan")}),
        ("domain/mean", {"domain/mean": None}),
    ):
        changed = {key: value for key, value in {**tensors, **change}.items() if value is not None}
        with pytest.raises(UsageError, match=words):
            load_distilled(written(tmp_path / "wrong.safetensors", changed, fields))
    with pytest.raises(UsageError, match="sfumato-distilled-edit-2"):
        load_distilled(written(tmp_path / "newer.safetensors", tensors, fields, version=2))
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "words.safetensors").write_text("no tensors")
    for file in ("cut", "words"):
        with pytest.raises(UsageError, match="damaged"):
            load_distilled(tmp_path / f"{file}.safetensors")
    with pytest.raises(UsageError, match="make one with `sfumato distill`"):
        load_distilled(tmp_path / "none.safetensors")


def test_nearly_all_training_images_are_inside_the_domain() -> None:
    features = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    domain = Domain.of(features)
    assert (domain.distances(features) > domain.limit).float().mean() <= 0.011
    assert domain.distances(features[:1] + 30.0) > domain.limit
