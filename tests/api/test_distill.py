"""`sfumato.distill`: pairs of any method, made once whatever stops it; what cannot become a student is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.api.batch_work import Worker
from sfumato.distillation.training import Standing
from sfumato.errors import Cancelled, ImageError, UsageError
from sfumato.metrics.distance import PixelDistance
from sfumato.watch import Progress, Watch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TEXTS = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}
QUICK = {
    "method": "sdedit", "strength": 0.5, "num_inference_steps": 2, "guidance_scale": 3.0, "training_steps": 4,
    "minutes": None, "width": 8, "distance": PixelDistance(), "least_psnr": 0.0, "unchanged": 0.0,
}  # fmt: skip


def draw(path: Path, seed: int, side: int = 32) -> None:
    values = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 34 images."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(34):
        draw(folder / f"{seed:02d}.png", seed)
    return folder


def weights_of(result: sfumato.DistillResult) -> torch.Tensor:
    return torch.cat([value.flatten() for value in result.distilled.student.state_dict().values()])


@pytest.fixture(scope="module")
def whole(toy_model: Any, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """An undisturbed distillation and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return sfumato.distill(toy_model, images, **TEXTS, **QUICK, folder=folder), folder


def test_an_edit_is_distilled_and_its_card_says_how(whole: tuple[Any, Path], images: Path, tmp_path: Path) -> None:
    result, folder = whole
    card = result.distilled.card
    assert (card.source_prompt, card.target_prompt) == tuple(TEXTS.values())
    assert (card.model, card.method, card.options, card.size) == ("toy", "sdedit", {"strength": 0.5}, (32, 32))
    assert (card.pairs_made, card.pairs_kept, card.held_out, card.steps) == (34, 34, 3, 4)
    assert set(card.figures) == {"held_out_score", "held_out_psnr", "milliseconds", "minutes", "cores"}
    assert card.figures["minutes"] >= result.trained.seconds / 60 > 0
    assert card.figures["cores"] == torch.get_num_threads()
    assert any("no encoder" in note for note in result.notes)
    assert len(result.held_out) == 3
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 34
    assert all(row["psnr"] == verdict.psnr > 0 for row, verdict in zip(rows, result.verdicts, strict=True))
    assert all((folder / row["target"]).is_file() and row["kept"] for row in rows)
    again = sfumato.load_distilled(result.distilled.save(tmp_path / "edit.safetensors"))
    image = images / "00.png"
    assert again.apply(image).image.tobytes() == result.distilled.apply(image).image.tobytes()


def test_killed_while_pairs_are_made_and_while_it_trains_it_comes_to_the_same(
    toy_model: Any, images: Path, whole: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    calls, works = 0, Worker.__call__

    def dies(self: Worker, task: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (6, 20):
            raise Killed
        return works(self, task)

    def dies_training(standing: Standing) -> None:
        if standing.step == 2:
            raise Killed

    monkeypatch.setattr(Worker, "__call__", dies)
    given = {**TEXTS, **QUICK, "folder": tmp_path / "work"}
    for tell in (None, None, dies_training):
        with pytest.raises(Killed):
            sfumato.distill(toy_model, images, **given, tell=tell)
    assert calls == 34 + 2
    told: list[Standing] = []
    result = sfumato.distill(toy_model, images, **given, tell=told.append)
    assert calls == 34 + 2
    assert told[0].step == 3
    assert torch.equal(weights_of(result), weights_of(whole[0]))
    assert result.distilled.card.data == whole[0].distilled.card.data


def test_killed_after_an_image_and_before_its_row_it_chooses_the_same_pairs(
    toy_model: Any, images: Path, whole: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    calls, works = 0, Worker.__call__

    def dies(self: Worker, task: Any) -> Any:
        nonlocal calls
        calls += 1
        rows = works(self, task)
        if calls == 2:
            raise Killed
        return rows

    monkeypatch.setattr(Worker, "__call__", dies)
    with pytest.raises(Killed):
        sfumato.distill(toy_model, images, **TEXTS, **QUICK, folder=tmp_path)
    assert len(list((tmp_path / "pairs" / "images").glob("*.png"))) == 2
    result = sfumato.distill(toy_model, images, **TEXTS, **QUICK, folder=tmp_path)
    assert result.verdicts == whole[0].verdicts


def test_a_request_to_stop_ends_it_between_two_edits(toy_model: Any, images: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    watch = Watch(progress=seen.append, cancelled=lambda: bool(seen) and seen[-1].done >= 3)
    with pytest.raises(Cancelled, match="stopped while making pairs, after 3 of 34"):
        sfumato.distill(toy_model, images, **TEXTS, **QUICK, folder=tmp_path, watch=watch)
    assert len(list((tmp_path / "pairs" / "images").glob("*.png"))) == 3


def test_the_model_draws_its_own_sources_once(toy_model: Any, tmp_path: Path) -> None:
    given = {**TEXTS, **QUICK, "folder": tmp_path, "draw": 32, "size": (16, 16), "mirror": False}
    result = sfumato.distill(toy_model, **given)
    (drawn,) = tmp_path.glob("drawn-*")
    files = {path: path.stat().st_mtime_ns for path in sorted(drawn.iterdir())}
    assert len(files) == 32
    first = sfumato.generate(
        toy_model, TEXTS["source_prompt"], num_inference_steps=2, guidance_scale=3.0, size=(16, 16), seed=9
    )
    with Image.open(drawn / "00009.png") as image:
        assert np.abs(np.asarray(image, int) - np.asarray(first.images[0], int)).max() <= 1
    again = sfumato.distill(toy_model, **given)
    assert files == {path: path.stat().st_mtime_ns for path in sorted(drawn.iterdir())}
    assert torch.equal(weights_of(again), weights_of(result))


def test_too_few_images_to_draw_are_refused_before_one_is_drawn(toy_model: Any, tmp_path: Path) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match="give at least 1 more"):
        sfumato.distill(toy_model, **TEXTS, **QUICK, folder=tmp_path, draw=31)
    assert toy_model.evaluations == before


def test_images_that_the_model_draws_differ_by_the_alternatives_of_the_prompts(toy_model: Any, tmp_path: Path) -> None:
    texts = {"source_prompt": "a {red|blue} cat", "target_prompt": "a {red|blue} dog"}
    given = {**texts, **QUICK, "folder": tmp_path, "draw": 32, "size": (16, 16)}
    result = sfumato.distill(toy_model, **given)
    card = result.distilled.card
    assert (card.source_prompt, card.target_prompt) == ("a {red|blue} cat", "a {red|blue} dog")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    told = {(row["source_prompt"], row["target_prompt"]) for row in rows}
    assert told == {("a red cat", "a red dog"), ("a blue cat", "a blue dog")}
    for change, words in (
        ({"target_prompt": "a {red|green} dog"}, "in the target prompt alone"),
        ({"source_prompt": "a {red cat"}, "braces"),
        ({"source_prompt": "a {red} cat", "target_prompt": "a dog"}, "lists no alternatives"),
    ):
        with pytest.raises(UsageError, match=words):
            sfumato.distill(toy_model, **{**given, **change})


def test_a_manifest_gives_each_image_its_prompts(toy_model: Any, images: Path, tmp_path: Path) -> None:
    lines = [f"{seed:02d}.png,a cat {seed},a dog {seed},{seed}" for seed in range(32)]
    manifest = images / "edits.csv"
    manifest.write_text("\n".join(["image,source_prompt,target_prompt,seed", *lines]))
    result = sfumato.distill(toy_model, manifest, **QUICK, negative_prompt="blurry", folder=tmp_path)
    assert result.distilled.card.negative_prompt == "blurry"
    assert any("their own seed:" in note for note in result.notes)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert {row["target_prompt"] for row in rows} == {f"a dog {seed}" for seed in range(32)}


REFUSED = [
    ({"target_prompt": "a photo of a cat "}, "are the same"),
    ({"target_prompt": None}, "target_prompt is missing"),
    ({"source_prompt": "  "}, "source_prompt is empty"),
    ({"width": 12}, "multiple of 8"),
    ({"width": 10**6}, "width must be"),
    ({"minutes": 0.0}, "minutes must be"),
    ({"training_steps": None}, "give minutes or training_steps"),
    ({"student": "large"}, "student must be one of small, one-step"),
    ({"student": "one-step", "rank": 0}, "rank must be"),
    ({"minutes": float("nan")}, "minutes must be"),
    ({"keep": 0.0}, "keep must be"),
    ({"keep": 0.5}, "need an encoder"),
    ({"agreement": 2}, "agreement must be"),
    ({"adversarial": -1.0}, "adversarial must be"),
    ({"mirror": 1}, "mirror must be"),
    ({"hue": 200.0}, "hue must be"),
    ({"source_prompt": "a {red|blue} cat"}, "give no images"),
    ({"method": "sdeddit"}, "did you mean 'sdedit'"),
    ({"strenght": 0.5}, "strength"),
    ({"workers": 2}, "give loading"),
    ({"seed": 1.5}, "seed must be"),
    ({"distance": "far"}, "distance"),
    ({"nothing": 1}, "nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=lambda part: str(part)[:40])
def test_what_is_wrong_is_said_before_any_work(
    toy_model: Any, images: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=words):
        sfumato.distill(toy_model, images, **{**TEXTS, **QUICK, "folder": tmp_path, **change})
    assert toy_model.evaluations == before


def test_too_few_images_and_images_of_several_sizes_are_refused(toy_model: Any, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"2 different images.*needs 32 pairs: give at least 30 more"):
        sfumato.distill(toy_model, [images / "00.png", images / "01.png"], **TEXTS, **QUICK)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for seed in range(33):
        draw(mixed / f"{seed}.png", seed, 24 if seed % 2 else 32)
    with pytest.raises(UsageError, match=r"several sizes.*give --size 24x24 --fit crop"):
        sfumato.distill(toy_model, mixed, **TEXTS, **QUICK)
    (mixed / "0.png").write_bytes(b"\x89PNG no image")
    with pytest.raises(ImageError, match=r"0\.png"):
        sfumato.distill(toy_model, mixed, **TEXTS, **QUICK)
    with pytest.raises(UsageError, match="no images"):
        sfumato.distill(toy_model, tmp_path, **TEXTS, **QUICK)


def test_a_teacher_that_changes_nothing_is_refused(toy_model: Any, images: Path, whole: tuple[Any, Path]) -> None:
    _, folder = whole
    given = {**TEXTS, **QUICK, "folder": folder}  # its pairs are there
    with pytest.raises(UsageError, match="the teacher changed nothing"):
        sfumato.distill(toy_model, images, **given, least_change=0.99)
