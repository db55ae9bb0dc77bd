"""The training command on a toy world: all stages in one call, resumed, and refused in plain words."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import sfumato
from benchmarks import emoji_quality
from sfumato.emoji.render import render
from sfumato.emoji.scene_captions import caption_words
from sfumato.emoji.scene_judge import load_scene_judge
from sfumato.emoji.scenes import Background, Scene, Thing
from sfumato.emoji.training import diffusion, loop, train
from sfumato.emoji.training.tokenizer import Encoder, build_tokenizer
from tests.emoji.toy_world import toy_atlas, write_toy_atlas

BARS = (
    *("autoencoder_psnr", "pair_concepts", "concept_top1", "tint", "relation", "background_within", "heldout_pair"),
    *("heldout_tint", "style_top1", "attention_auc", "attention_auc_tint", "attention_auc_other", "reweight_rank"),
)
"""Keys of the figures that the model card's bars are held against."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training steps that last a hundredth of a minute each, however fast the machine is."""
    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 0.6 * next(ticks)))


def test_one_command_trains_a_model_that_loads_and_draws(
    clock: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusion, "sheet_prompts", lambda atlas: ["a disc", "a square"])  # else most of the time
    monkeypatch.setattr(diffusion, "SCENES_LOOKED_AT", 4)
    monkeypatch.setattr(diffusion, "SCENES_READ", 2)
    atlas, folder = write_toy_atlas(tmp_path / "toy.png"), tmp_path / "work"
    command = [
        f"--atlas={atlas}",
        f"--folder={folder}",
        "--size=toy",
        "--device=cpu",
        "--batch=8",
        "--workers=1",
        "--pool=12",
    ]
    train.main(["autoencoder=0.02", "diffusion=0.03", "judge=0.02", "clip=0.02", *command])
    weights = folder / "weights"
    model = sfumato.load_model(str(weights))
    assert sfumato.generate(model, "a disc", num_inference_steps=2).image.size == (128, 128)
    assert (weights / "samples.png").is_file()
    assert max(file.stat().st_size for file in weights.rglob("*")) < 15e6
    scene = Scene((Thing("disc"),), Background("blue"))
    seen = load_scene_judge(weights / "judge.safetensors").look(render([scene], toy_atlas(tmp_path))[0])
    assert seen[0].style in ("noto", "flat")
    measures = [str(weights), f"--atlas={atlas}", "--count=2", "--scenes=4", "--steps=2", "--reweight=1"]
    written = tmp_path / "quality.json"
    written.write_text(json.dumps({"model": model.revision, "redraw_ratio": 0.3}))
    figures = emoji_quality.main([*measures, f"--json={written}"])
    assert {*BARS} <= {*figures}
    assert figures["redraw_ratio"] == 0.3  # figures of a part that is not measured now are kept
    steps = (folder / "diffusion.jsonl").read_text()
    train.main(["diffusion=0.06", *command])
    resumed = (folder / "diffusion.jsonl").read_text().removeprefix(steps)
    assert '"step": 6' in resumed
    assert "auc_own" in resumed
    assert "begins_with_name" in resumed


def test_a_stage_that_needs_an_earlier_one_says_so(tmp_path: Path) -> None:
    atlas = write_toy_atlas(tmp_path / "toy.png")
    with pytest.raises(SystemExit, match=r"no finished autoencoder in .*: run that stage first, or give --start-from"):
        train.main(["diffusion=0.01", f"--atlas={atlas}", f"--folder={tmp_path}", "--size=toy", "--device=cpu"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["diffusion"], "'diffusion' names no minutes: write diffusion=5"),
        (["decoder=3"], "no stage 'decoder'; stages are autoencoder, diffusion, judge, clip"),
        (["judge=-1"], "the minutes of judge must be above 0, got -1"),
        (["judge=nan"], "the minutes of judge must be above 0, got nan"),
        (["judge=1", "--start-from", "nowhere"], "--start-from nowhere: no folder 'vae' in it"),
        (["judge=1", "--go-on-from", "nowhere"], "--go-on-from nowhere: no folder 'unet' in it"),
    ],
)
def test_bad_arguments_are_refused(
    words: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atlas = write_toy_atlas(tmp_path / "toy.png")
    with pytest.raises(SystemExit):
        train.main([*words, f"--atlas={atlas}", f"--folder={tmp_path}"])
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_captions_encode_as_the_tokenizer_does_and_words_are_found(tmp_path: Path) -> None:
    world = toy_atlas(tmp_path).world
    tokenizer = build_tokenizer(world.concepts, tmp_path / "tokenizer")
    scene = Scene((Thing("square", 0.3, 0.5, 0.3, tint="green"), Thing("disc", 0.7, 0.5, 0.3)), Background("blue"))
    words = caption_words(scene)
    ids, share = Encoder(tokenizer).encode([words, []], 3, ("name", "tint"))
    text = "a green square and a disc on a blue background"
    expected = tokenizer([text, ""], padding="max_length", max_length=40, return_tensors="pt").input_ids
    assert torch.equal(ids, expected)
    assert share[0, 0, 0].nonzero().flatten().tolist() == [3]
    assert share[0, 0, 1].nonzero().flatten().tolist() == [6]
    assert share[0, 1, 0].nonzero().flatten().tolist() == [2]
    assert share[0, :, 2].sum() == share[1].sum() == 0
