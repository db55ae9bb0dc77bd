"""DiffEdit: identities, its mask, what stays bit-identical, costs, leaks, loud failures."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.edits.diffedit import EXTREME, contrast, diffedit
from sfumato.edits.result import LatentEdit
from sfumato.errors import InversionError, UsageError
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.schedules import add_noise
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.edits.tasks import edit_by

SOURCE, TARGET = "a photo of a cat", "a photo of a dog"


@pytest.fixture(params=["toy_model", "toy_velocity_model", "toy_xl_model"])
def model(request: Any) -> Any:
    return request.getfixturevalue(request.param)


def noise(images: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(images, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def inverted(model: Any, images: int = 1, steps: int = 5) -> Inversion:
    return ddim_inversion(
        InversionTask(model, 0.5 * noise(images), model.encode_prompt(SOURCE), num_inference_steps=steps)
    )


def run(model: Any, source: Inversion, *targets: str, **options: Any) -> LatentEdit:
    options = {"guidance_scale": 3.0, "contrast_draws": 2, "generator": torch.Generator().manual_seed(0)} | options
    return edit_by(diffedit, model, source, source_prompt=SOURCE, target_prompts=targets or (TARGET,), **options)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_equal_prompts_give_the_source_back(model: Any) -> None:
    source = inverted(model)
    result = run(model, source, SOURCE)
    assert result.mask is not None
    assert not result.mask.any()
    assert torch.equal(result.latents[1], source.clean)


def test_strength_0_gives_the_source_back(toy_model: Any) -> None:
    source = inverted(toy_model)
    result = run(toy_model, source, strength=0.0)
    assert result.mask is not None
    assert result.mask.any()
    assert torch.equal(result.latents, source.clean.expand(2, *source.clean.shape))


def test_outside_the_mask_nothing_changes_and_inside_it_does(model: Any) -> None:
    source = inverted(model)
    result = run(model, source)
    assert result.mask is not None
    inside = result.mask[0, 0]
    assert 0 < int(inside.sum()) < inside.numel()
    edit, clean = result.latents[1, 0], source.clean[0]
    assert torch.equal(edit[:, ~inside], clean[:, ~inside])
    assert far(edit[:, inside], clean[:, inside]) > 1e-3


def test_an_open_mask_is_plain_decoding(toy_model: Any) -> None:
    source = inverted(toy_model)
    result = run(toy_model, source, strength=0.6, mask=torch.ones(1, 1, 16, 16))
    branch = {"target": Branch(toy_model.encode_prompt(TARGET), guidance_scale=3.0)}
    start = source.latents_at(2)
    assert far(result.latents[1], sample(toy_model, start, branch, timesteps=source.timesteps, start_index=2)[0]) < 1e-5


def test_contrast_is_the_papers(toy_model: Any) -> None:
    clean, draws, t = 0.5 * noise(), noise(3, seed=5), 401
    condition = toy_model.encode_prompt([SOURCE, TARGET])
    level = toy_model.schedule.level(t)
    with torch.no_grad():
        differences = [
            toy_model.predict_noise(add_noise(clean, draw, level), t, condition[[1]])
            - toy_model.predict_noise(add_noise(clean, draw, level), t, condition[[0]])
            for draw in draws
        ]
    heat = torch.stack(differences).abs().mean(dim=(0, 2))[0]
    heat = heat.clamp(max=EXTREME * float(heat.mean()))
    heat = (heat - heat.min()) / (heat.max() - heat.min())
    found = contrast(toy_model, clean, condition, draws, t)
    assert found.shape == (1, 1, 16, 16)
    assert torch.allclose(found[0, 0], heat, atol=1e-3)


def test_drawn_pictures_are_drawn_first(toy_model: Any) -> None:
    start = Inversion("drawn", noise(), tuple(toy_model.schedule.timesteps(4)))
    before = toy_model.evaluations
    result = run(toy_model, start, strength=0.5, source_guidance_scale=2.0)
    assert toy_model.evaluations - before == 4 * 2 + 2 * 2 + 2 * 2  # drawing, mask, edit
    branch = {"source": Branch(toy_model.encode_prompt(SOURCE), guidance_scale=2.0)}
    drawn = sample(toy_model, start.noise, branch, timesteps=start.timesteps)
    assert torch.equal(result.latents[0], drawn[0])


@pytest.mark.parametrize(("guidance_scale", "rows"), [(3.0, 4), (1.0, 2)])
def test_costs_what_the_docstring_says(toy_model: Any, guidance_scale: float, rows: int) -> None:
    source, before = inverted(toy_model), toy_model.evaluations
    run(toy_model, source, TARGET, "a hat", guidance_scale=guidance_scale, strength=0.6)
    assert toy_model.evaluations - before == 2 * 3 + 3 * rows


def test_batches_equal_single_runs(toy_model: Any) -> None:
    source = inverted(toy_model, images=2)
    whole = run(toy_model, source, TARGET, "a hat")
    assert whole.branches == ("source", "target-1", "target-2")
    assert source.trajectory is not None
    for k in range(2):
        one = replace(source, noise=source.noise[k : k + 1], trajectory=source.trajectory[:, k : k + 1])
        for row, target in enumerate((TARGET, "a hat"), start=1):
            assert far(whole.latents[[0, row], k], run(toy_model, one, target).latents[:, 0]) < 1e-5


def test_hooks_see_the_source_and_the_edits(toy_model: Any) -> None:
    source, seen = inverted(toy_model), []

    def look(latents: Tensor, step: Any) -> Tensor:
        seen.append((latents[0], step))
        return latents

    run(toy_model, source, on_step=[look])
    assert all(torch.equal(latents, source.latents_at(step.index + 1)) for latents, step in seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": torch.ones(1, 1, 8, 8)}, r"mask must be \(edit, image, height, width\) = \(1, 1, 16, 16\)"),
        ({"noise": torch.ones(3, 4, 8, 8)}, r"noise must be \(draws, 4, 16, 16\)"),
        ({"strength": 1.5}, r"strength must be in \[0, 1\]"),
    ],
)
def test_mistakes_are_named_before_any_work(toy_model: Any, options: Any, message: str) -> None:
    source = inverted(toy_model)
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=message):
        run(toy_model, source, **options)
    assert toy_model.evaluations == before


def test_an_inversion_that_holds_too_few_levels_is_refused(toy_model: Any) -> None:
    source = inverted(toy_model)
    assert source.trajectory is not None
    late = replace(source, start_index=3, trajectory=source.trajectory[:3], noise=source.trajectory[2])
    with pytest.raises(InversionError, match="no latents before step"):
        run(toy_model, late, strength=0.8)
