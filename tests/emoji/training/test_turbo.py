"""Distilling the embedded model for four steps, on a toy world: trained, written, loaded, resumed."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sfumato
from sfumato.emoji import turbo_defaults
from sfumato.emoji.training import loop, turbo
from sfumato.emoji.training.export import export_pipeline
from sfumato.emoji.training.networks import (
    SIZES,
    build_autoencoder,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from sfumato.emoji.training.paths import LATEST, POINTS, PathPool, Teacher
from sfumato.emoji.training.tokenizer import build_tokenizer
from sfumato.watch import Watch
from tests.emoji.toy_world import toy_atlas, write_toy_atlas

QUIET = Watch(progress=lambda _: None)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of random weights."""
    folder, widths = tmp_path_factory.mktemp("toy"), SIZES["toy"]
    world = toy_atlas(folder).world
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = build_tokenizer(world.concepts, folder / "tokenizer")
        export_pipeline(
            folder / "weights", tokenizer=tokenizer, text_encoder=build_text_encoder(widths, tokenizer),
            unet=build_unet(widths), autoencoder=build_autoencoder(widths), scheduler=build_scheduler(),
        )  # fmt: skip
    return folder / "weights"


@pytest.fixture
def teacher(weights: Path, tmp_path: Path) -> Teacher:
    model: Any = sfumato.load_model(weights, device="cpu")
    return Teacher(model, toy_atlas(tmp_path))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training steps that last a hundredth of a minute each, however fast the machine is."""
    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 0.6 * next(ticks)))


def test_the_points_of_a_path_are_the_steps_of_the_student(teacher: Teacher, weights: Path) -> None:
    few = turbo.student_of(teacher.model, teacher.model.unet)
    assert teacher.times == [999, 874, 749, 624, 499, 374, 249, 124]
    assert few.schedule.timesteps(POINTS) == teacher.times
    assert few.schedule.timesteps(4) == teacher.times[::2]
    assert few.schedule.steps(4)[-1].level_prev.noise == 0.0


def test_a_path_is_a_guided_run_and_starts_at_noise_or_at_an_image(teacher: Teacher) -> None:
    draw, generator = random.Random(0), torch.Generator().manual_seed(0)
    before = teacher.model.evaluations
    paths = [path for _ in range(8) for path in teacher.paths(2, draw, generator)]
    assert {path.first == 0 for path in paths} == {True, False}
    assert max(path.first for path in paths) <= LATEST
    assert all(len(path.points) == POINTS - path.first for path in paths)
    assert teacher.model.evaluations - before == sum(2 * len(path.points) for path in paths)
    levels = {path.first: float(path.points[0].float().std()) for path in paths}
    assert levels[0] == pytest.approx(1.0, abs=0.1)


def test_a_batch_has_points_with_their_times_and_ends(teacher: Teacher) -> None:
    pool, draw = PathPool(teacher, size=4), random.Random(0)
    for _ in range(3):
        pool.renew(2, draw, torch.Generator().manual_seed(1))
    assert len(pool) == 4  # the oldest are gone
    noisy, times, clean, text = pool.take(6, draw)
    assert noisy.shape == clean.shape == (6, *teacher.model.latent_shape())
    assert text.shape == (6, 40, 16)
    assert set(times) <= set(teacher.times)


def test_one_command_distils_a_student_that_loads_and_draws(
    clock: None, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    command = [
        f"--teacher={weights}", f"--atlas={write_toy_atlas(tmp_path / 'toy.png')}", f"--folder={folder}",
        "--device=cpu", "--batch=4", "--workers=1", "--pool=8",
    ]  # fmt: skip
    turbo.main(["0.03", *command])
    monkeypatch.setattr(turbo_defaults, "WEIGHTS", weights)
    monkeypatch.setattr(turbo_defaults, "STUDENT", folder / "turbo")
    model = sfumato.load_model("emoji-turbo", device="cpu")
    assert (model.few_steps, model.num_inference_steps, model.guidance_scale, model.sampler) == (True, 4, 1.0, "lcm")
    drawn = sfumato.generate(model, "a disc", watch=QUIET)
    assert drawn.image.size == (128, 128)
    assert drawn.cost.evaluations == 4
    plain: Any = sfumato.load_model(weights, device="cpu")
    assert model.revision.startswith(plain.revision)
    assert model.revision != plain.revision
    steps = (folder / "turbo.jsonl").read_text()
    turbo.main(["0.06", *command])
    assert '"step": 6' in (folder / "turbo.jsonl").read_text().removeprefix(steps)
    retrained = sfumato.load_model("emoji-turbo", device="cpu")
    assert retrained.revision != model.revision


def test_training_brings_the_student_to_where_paths_end(teacher: Teacher, tmp_path: Path) -> None:
    pool, draw, student = PathPool(teacher, size=8), random.Random(0), teacher.model.unet
    pool.renew(8, draw, torch.Generator().manual_seed(1))

    def loss() -> torch.Tensor:
        noisy, times, clean, text = pool.take(16, random.Random(5))
        return turbo.endpoint_loss(turbo.predicted(student, teacher.schedule, noisy, times, text), clean)

    student.requires_grad_(True)
    optimizer, losses = torch.optim.AdamW(student.parameters(), lr=2e-3), []
    for _ in range(12):
        losses.append(loss())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < 0.9 * losses[0].item()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["0"], "the minutes must be above 0, got 0"),
        (["nan"], "the minutes must be above 0, got nan"),
        (["1", "--teacher", "nowhere"], "--teacher nowhere: no trained model in it"),
    ],
)
def test_bad_arguments_are_refused(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        turbo.main(words)
    assert complaint in " ".join(capsys.readouterr().err.split())
