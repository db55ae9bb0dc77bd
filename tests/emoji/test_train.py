"""Training: the networks' shapes, latents encoded on demand, and the stages on a toy world of one square."""

from __future__ import annotations

import itertools
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from sfumato.emoji import networks, train
from sfumato.emoji.diffusion import LatentPool
from sfumato.emoji.networks import WIDTHS, Widths, build_autoencoder, build_unet
from sfumato.emoji.pool import Pool
from sfumato.emoji.training import loop
from sfumato.emoji.training.loop import Settings, Worker, train_loop
from sfumato.emoji.world import Concept, Scene

TOY = Widths((8, 16, 16), (16, 32, 32), 1, heads=2, text=32, text_layers=1)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks small enough to be trained by a test."""
    monkeypatch.setitem(networks.WIDTHS, 64, TOY)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training steps that last a hundredth of a minute each, however fast the machine is."""
    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 0.6 * next(ticks)))


@pytest.mark.parametrize("size", WIDTHS)
def test_the_unet_attends_at_16_and_at_8(size: int) -> None:
    with torch.device("meta"):
        unet = build_unet(size)
    names = [name for name in unet.attn_processors if "attn2" in name and not name.startswith("mid")]
    assert {name.split(".")[1] for name in names if name.startswith("down")} == {"0", "1"}
    levels = len(WIDTHS[size].unet)
    assert {name.split(".")[1] for name in names if name.startswith("up")} == {str(levels - 2), str(levels - 1)}


def test_latents_are_encoded_when_asked_for_and_kept(toy: None) -> None:
    torch.manual_seed(0)
    sprites = np.full((4, 64, 64, 4), 255, np.uint8)
    pool = Pool(sprites, [Scene("square", "noto") for _ in range(4)])
    latent_pool = LatentPool(pool, build_autoencoder(64).eval(), "cpu")
    latents, scenes = latent_pool.take([2, 0, 2], random.Random(0))
    assert latents.shape == (3, 4, 16, 16)
    assert latents[0].equal(latents[2])
    assert [scene is None for scene in latent_pool.scenes] == [False, True, False, True]
    again, same = latent_pool.take([2, 0, 2], random.Random(1))
    assert again.equal(latents)
    assert same == scenes
    latent_pool.refresh([2], random.Random(5))
    assert latent_pool.take([2], random.Random(0))[1] != scenes[:1]


def test_a_stopped_training_goes_on_where_it_was(clock: None, tmp_path: Path) -> None:
    def loss_of_batch(worker: Worker) -> torch.Tensor:
        pixels = torch.randn(worker.batch, 2, generator=worker.generator)
        return (worker.model(pixels) - pixels.sum(1, keepdim=True)).square().mean()

    def settings(minutes: float, workers: int = 2) -> Settings:
        return Settings(minutes, batch=8, learning_rate=0.02, ema_decay=0.9, folder=tmp_path, workers=workers)

    torch.manual_seed(0)
    threads = torch.get_num_threads()
    before = train_loop("toy", nn.Linear(2, 1), loss_of_batch, settings(2))
    after = train_loop("toy", nn.Linear(2, 1), loss_of_batch, settings(4))
    assert torch.get_num_threads() == threads  # more than one would slow down whatever comes next
    target = torch.ones(1, 2)
    assert isinstance(before, nn.Linear)
    assert isinstance(after, nn.Linear)
    assert (after.weight - target).norm() < (before.weight - target).norm() < 0.5
    lines = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [100, 200, 200, 300, 400, 400]
    assert [line["minutes"] for line in lines] == [1, 2, 2, 3, 4, 4]
    with pytest.raises(ValueError, match="--workers 2, got 1"):
        train_loop("toy", nn.Linear(2, 1), loss_of_batch, settings(5, workers=1))


def run(stage: str, folder: Path, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs `python -m sfumato.emoji.train` here, for some steps."""
    concepts = folder / "concepts.json"
    concepts.write_text(json.dumps({"concepts": [vars(Concept("square", "1F000", "symbols"))]}))
    command = [stage, "--concepts", str(concepts), "--folder", str(folder / "work"), "--out", str(folder / "model")]
    command += ["--minutes", "0.02", "--batch", "4", "--workers", "1", *arguments]
    monkeypatch.setattr(sys, "argv", ["train", *command])
    train._main()


def test_the_stages_write_a_model_that_loads(
    cache: Path, toy: None, clock: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("resvg_py")
    with pytest.raises(SystemExit, match="no finished autoencoder"):
        run("diffusion", tmp_path, monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=r"no tokenizer in .*: run the diffusion stage first"):
        run("clip", tmp_path, monkeypatch=monkeypatch)
    run("autoencoder", tmp_path, monkeypatch=monkeypatch)
    run("diffusion", tmp_path, monkeypatch=monkeypatch)
    run("clip", tmp_path, monkeypatch=monkeypatch)
    run("classifier", tmp_path, monkeypatch=monkeypatch)
    model = tmp_path / "model"
    assert {path.name for path in model.glob("*.safetensors")} == {"classifier.safetensors", "emoji-clip.safetensors"}
    assert (model / "concepts.json").is_file()
    first = AutoencoderKL.from_pretrained(model / "vae")
    run("autoencoder", tmp_path, "--start-from", str(model), "--restart", monkeypatch=monkeypatch)
    second = AutoencoderKL.from_pretrained(tmp_path / "work" / "autoencoder")
    far = torch.nn.utils.parameters_to_vector(build_autoencoder(64).parameters())
    near, start = (torch.nn.utils.parameters_to_vector(part.parameters()) for part in (second, first))
    assert (near - start).norm() < (far - start).norm() / 2


def test_a_folder_without_an_autoencoder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("autoencoder", tmp_path, "--start-from", str(tmp_path), monkeypatch=monkeypatch)
    assert "no folder 'vae' in it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("diffusion", tmp_path, "--start-from", str(tmp_path), monkeypatch=monkeypatch)
    assert "--start-from is for the stage autoencoder, got it for diffusion" in capsys.readouterr().err
