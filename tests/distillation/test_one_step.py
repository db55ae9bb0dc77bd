"""A student on a one-step network: begins as the model, leaves it as it was, and its file holds the adapters alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato
from sfumato.distillation import distilled as module
from sfumato.distillation.distilled import Card, Distilled, domain_of, load_distilled, rounded
from sfumato.distillation.losses import Weights
from sfumato.distillation.one_step import OneStepArch, OneStepStudent
from sfumato.distillation.training import Plan, train
from sfumato.errors import ModelError, UsageError
from sfumato.metrics.distance import PixelDistance
from tests.distillation.toy_pairs import squares
from tests.gaussian import GaussianModel, cosine_schedule

PLAN = Plan(steps=4, minutes=None, batch=2, rate=1e-3, average=2, weights=Weights(features=0.1))


def student(model: Any, **changes: Any) -> OneStepStudent:
    return OneStepStudent(model, "a photo of a dog", OneStepArch(**changes))


def network_of(model: Any) -> list[torch.Tensor]:
    return [value.clone() for part in (model.unet, model.vae) for value in part.state_dict().values()]


@pytest.mark.parametrize("fixture", ["toy_model", "toy_velocity_model", "toy_xl_model"])
@pytest.mark.parametrize("size", [(32, 32), (21, 30)], ids=str)
def test_it_begins_as_the_models_own_step(fixture: str, size: tuple[int, int], request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(fixture)
    made = student(model)
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        edited = made(pixels)
    assert edited.pixels.shape == pixels.shape
    assert edited.gate is None
    assert edited.features.shape == (2, 2 * model.latent_channels)
    if size == (32, 32):
        with torch.no_grad():
            latents = model.encode_image(pixels)
            condition = model.encode_prompt("a photo of a dog").expand(2)
            clean = model.schedule.split(model.predict(latents, 999, condition), latents, model.schedule.level(999)).x0
            own = model.decode_latents(clean)
        assert (edited.pixels - own).abs().max() < 0.02  # the skips begin at almost nothing
        assert not torch.equal(edited.pixels, own)


def test_the_model_is_left_as_it_was(toy_model: Any) -> None:
    before, pixels = network_of(toy_model), torch.zeros(1, 3, 32, 32)
    latents = toy_model.encode_image(pixels)
    made, pairs = student(toy_model), squares(12, side=32)
    first = [value.clone() for value in made.parameters()]
    done = train(made, *pairs.split(), PLAN, distance=PixelDistance())
    assert done.steps == 4
    assert any(not torch.equal(one, other) for one, other in zip(first, made.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(before, network_of(toy_model), strict=True))
    assert torch.equal(toy_model.encode_image(pixels), latents)
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in toy_model.vae.modules()]
    assert not any(hooks)
    with pytest.raises(RuntimeError):
        made(torch.zeros(1, 4, 32, 32))
    assert torch.equal(toy_model.encode_image(pixels), latents)


def test_every_adapter_and_skip_takes_part(toy_model: Any) -> None:
    made = student(toy_model)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "up" in name:
                parameter += 0.01
    edited = made(squares(2, side=64).pixels(range(2))[0])  # smaller ones have attention over one place
    edited.pixels.square().mean().backward()
    unmoved = [name for name, value in made.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    assert unmoved == []


def saved(model: Any, path: Path) -> tuple[Distilled, Path]:
    made, pairs = student(model), squares(12, side=32)
    train(made, *pairs.split(), PLAN)
    rounded(made)
    card = Card(
        "a photo of a cat", "a photo of a dog", model.name, model.revision, "ddib", pairs.size, 12, 12, 2,
        pairs.digest(), 4,
    )  # fmt: skip
    distilled = Distilled(made, card, domain_of(made, pairs))
    return distilled, distilled.save(path)


def test_a_file_holds_the_adapters_and_opens_no_model_by_itself(
    toy_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distilled, path = saved(toy_model, tmp_path / "edit.safetensors")
    again = load_distilled(path, model=toy_model)
    pixels, _ = squares(3, side=32).pixels(range(3))
    assert torch.equal(again(pixels), distilled(pixels))
    assert torch.equal(again(pixels, strength=0.0), pixels)
    with pytest.raises(UsageError, match="not opened by a file's word"):
        load_distilled(path)
    wanted = []
    monkeypatch.setattr(module, "here", lambda name: "r9")
    monkeypatch.setattr(module, "load_model", lambda name, **given: wanted.append((name, given)) or toy_model)
    assert torch.equal(load_distilled(path)(pixels), distilled(pixels))
    assert wanted == [("toy", {"revision": "r9", "device": None})]
    monkeypatch.setattr(distilled, "card", replace(distilled.card, revision="another"))
    other = distilled.save(tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="adapts revision another of toy"):
        load_distilled(other, model=toy_model)


def test_the_same_verb_distils_it(toy_model: Any, tmp_path: Path) -> None:
    from tests.api.test_distill import QUICK, TEXTS, draw

    for seed in range(33):
        draw(tmp_path / f"{seed:02d}.png", seed)
    given = {**TEXTS, **QUICK, "student": "one-step", "rank": 2, "training_steps": 2}
    result = sfumato.distill(toy_model, tmp_path, **given)
    assert result.distilled.student.arch == OneStepArch(rank=2)
    applied = result.distilled.apply(tmp_path / "00.png")
    assert applied.image.size == (32, 32)
    assert len(result.held_out) == 3


def test_read_back_it_has_the_prompt_that_it_was_trained_by(toy_model: Any, tmp_path: Path) -> None:
    from tests.api.test_distill import QUICK, draw

    lines = ["image,source_prompt,target_prompt"]
    for seed in range(32):
        draw(tmp_path / f"{seed:02d}.png", seed, 16)
        lines.append(f"{seed:02d}.png,a red cat,a red dog")
    (tmp_path / "edits.csv").write_text("\n".join(lines))
    given: dict[str, Any] = {**QUICK, "student": "one-step", "rank": 2, "training_steps": 1, "num_inference_steps": 1}
    result = sfumato.distill(toy_model, tmp_path / "edits.csv", source_prompt="a cat", target_prompt="a dog", **given)
    again = load_distilled(result.distilled.save(tmp_path / "edit.safetensors"), model=toy_model)
    image = tmp_path / "00.png"
    assert again.apply(image).image.tobytes() == result.distilled.apply(image).image.tobytes()


def test_of_a_prompt_with_alternatives_it_takes_one_of_each(toy_model: Any) -> None:
    pixels = squares(1, side=32).pixels([0])[0]
    arch = OneStepArch(rank=2)
    with torch.no_grad():
        made, red, blue = (
            OneStepStudent(toy_model, f"a photo of a {word} dog", arch)(pixels).pixels
            for word in ("{red|blue}", "red", "blue")
        )
    assert not torch.equal(red, blue)
    assert torch.equal(made, red) or torch.equal(made, blue)


@pytest.mark.parametrize("change", [{"rank": 0}, {"rank": 10**6}, {"autoencoder_rank": 0}, {"rank": 2.5}], ids=str)
def test_sizes_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="rank must be"):
        OneStepArch(**change)


def test_a_model_without_an_autoencoder_is_refused() -> None:
    with pytest.raises(ModelError, match="has no autoencoder"):
        OneStepStudent(GaussianModel(cosine_schedule(64)), "a dog", OneStepArch())
