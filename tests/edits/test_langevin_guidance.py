"""Langevin guidance as a method: its code is the image's, energies lead it, masks hold, options count."""

from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato
from sfumato.edits.langevin_guidance import langevin_edit
from sfumato.edits.result import LatentEdit
from sfumato.emoji import EXAMPLES
from sfumato.errors import UsageError
from sfumato.inversions.result import Inversion
from tests.edits.tasks import edit_by

SOURCE, TARGET = "a photo of a cat", "a photo of a dog"
STEPS = 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(model: Any, images: int = 1) -> Inversion:
    timesteps = tuple(model.schedule.timesteps(STEPS))
    clean = 0.5 * normal(images, 4, 16, 16, seed=1)
    return Inversion("picture", normal(images, 4, 16, 16), timesteps, trajectory=clean[None])


def run(model: Any, *targets: str, source: Inversion | None = None, **options: Any) -> LatentEdit:
    given: dict[str, Any] = {"energy": {"stay-near": -0.05}, "num_langevin_steps": 2, "keep": "last"}
    edited: LatentEdit = edit_by(
        langevin_edit, model, source or picture(model), source_prompt=SOURCE, target_prompts=targets or (TARGET,),
        generator=torch.Generator().manual_seed(0), **(given | options),
    )  # fmt: skip
    return edited


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("prompt", ["none", "source"])
def test_the_chain_starts_at_the_picture(prompt: Any, toy_model: Any) -> None:
    found = run(toy_model, prompt=prompt, num_langevin_steps=0)
    assert far(found.latents[1], picture(toy_model).clean) < 1e-4
    assert torch.equal(found.latents[0], picture(toy_model).clean)
    assert far(run(toy_model, prompt="target", num_langevin_steps=0).latents[1], picture(toy_model).clean) > 1e-3
    assert far(run(toy_model, start="drawn", num_langevin_steps=0).latents[1], picture(toy_model).clean) > 0.5


def test_energies_lead(toy_model: Any) -> None:
    """The same draws, led towards a corner of latent space or away from it."""

    def bright(pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(1, 2, 3))

    ends = [
        float(toy_model.decode_latents(run(toy_model, energy=energy, num_langevin_steps=2).latents[1]).mean())
        for energy in (lambda pixels: 3000 * bright(pixels), lambda pixels: -3000 * bright(pixels))
    ]
    assert ends[0] < ends[1] - 0.01


def test_the_best_of_the_chain_is_kept(toy_model: Any) -> None:
    found = run(toy_model, energy="stay-near", keep="best")  # the image itself, where the chain starts
    assert far(found.latents[1], picture(toy_model).clean) < 1e-4
    assert found.distances is not None
    assert found.distances.shape == (3, 1, 1)
    assert float(found.distances[0]) < 1e-2 < float(found.distances[1])


def test_several_targets_are_chains_of_their_own(toy_model: Any) -> None:
    found = run(toy_model, TARGET, "a red hat", prompt="target", num_langevin_steps=0)
    assert found.branches == ("source", "target-1", "target-2")
    for row, target in enumerate((TARGET, "a red hat")):
        alone = run(toy_model, target, prompt="target", num_langevin_steps=0)
        assert far(found.latents[row + 1], alone.latents[1]) < 1e-4
    several = run(toy_model, TARGET, SOURCE, source=picture(toy_model, images=2))
    assert several.latents.shape == (3, 2, 4, 16, 16)


def test_evaluations_are_as_told(toy_model: Any) -> None:
    before = toy_model.evaluations
    run(toy_model, TARGET, SOURCE, num_langevin_steps=2)
    assert toy_model.evaluations - before == STEPS + 2 * STEPS * (2 + 1)
    before = toy_model.evaluations
    run(toy_model, num_langevin_steps=1, code_steps=4, strength=0.5)
    assert toy_model.evaluations - before == 2 + 2 * 2


def test_saving_memory_changes_no_number(toy_model: Any) -> None:
    plain, saved = (run(toy_model, save_memory=flag, num_langevin_steps=1).latents for flag in (False, True))
    torch.testing.assert_close(saved, plain, rtol=1e-4, atol=1e-5)


def test_a_mask_holds_the_picture_outside(toy_model: Any) -> None:
    clean, seen = picture(toy_model).clean, []

    def keep_left(latents: Tensor, step: Any) -> Tensor:
        seen.append(latents.shape)
        if step.time_prev >= 0:
            return latents
        return torch.cat([clean[None, ..., :8].expand(*latents.shape[:-1], 8), latents[..., 8:]], dim=-1)

    found = run(toy_model, TARGET, SOURCE, on_step=[keep_left])
    assert set(seen) == {(2, 1, 4, 16, 16)}
    for row in (1, 2):
        assert torch.equal(found.latents[row, ..., :8], clean[..., :8])
        assert far(found.latents[row, ..., 8:], clean[..., 8:]) > 1e-2


def test_a_drawn_source_is_sampled_first(toy_model: Any) -> None:
    drawn = Inversion("drawn", normal(1, 4, 16, 16), tuple(toy_model.schedule.timesteps(STEPS)))
    found = run(toy_model, source=drawn, num_langevin_steps=0)
    assert far(found.latents[1], found.latents[0]) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size=0 moves nothing"),
        ({"eta": 0.0}, "eta=0 adds no noise"),
        ({"strength": 0.0}, "strength=0 leaves none of 3 steps"),
        ({"energy": "text-agreement"}, "toy has no encoder of its own"),
        ({"energy": lambda pixels: pixels}, "must give one number an image"),
    ],
)
def test_mistakes_are_named(options: Any, message: str, toy_model: Any) -> None:
    with pytest.raises(UsageError, match=message):
        run(toy_model, **options)


def test_text_agreement_rises_on_a_real_picture() -> None:
    from sfumato.emoji.judge import EmojiClip
    from sfumato.images import to_pixels

    model, clip = sfumato.load_model("emoji", device="cpu"), EmojiClip()
    target = "a lion and a cupcake on a green background"
    found = sfumato.edit(
        model, EXAMPLES / "panda-and-cupcake.png", source_prompt="a panda and a cupcake on a green background",
        target_prompt=target, method="langevin", num_langevin_steps=2, code_steps=5,
    )  # fmt: skip
    text = clip.encode_text([target])
    before, after = (float(clip.encode_image(to_pixels(image)) @ text.T) for image in (found.source, found.image))
    assert after > before + 0.03
    assert found.recipe["options"] == {"num_langevin_steps": 2, "code_steps": 5}
