"""Draws per image: a batch gives what single runs give, for every method and inversion that draws."""

from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato
from sfumato.edits.method import METHODS
from sfumato.edits.task import EditTask
from sfumato.edits.two_models import translate
from sfumato.errors import UsageError
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.draws import draw_noise, streams
from tests.served import DIFFUSION, on

SOURCE, TARGET, STEPS = "a photo of a cat", "a photo of a dog", 3
QUICK: dict[str, dict[str, Any]] = {
    "auto": {"tries": 2, "draws": 1},
    "cycle-diffusion": {"trials": 2, "eta": 1.0},  # a small eta amplifies rounding
    "diffedit": {"contrast_draws": 2},
    "egsde": {"experts": {"stay-near": 0.1}},
    "delta-denoising": {"iterations": 2},
    "langevin": {"energy": {"stay-near": -0.05}, "num_langevin_steps": 2, "start": "drawn"},
    "sdedit": {"repeats": 2},
}


@pytest.fixture(scope="module")
def clean() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def seeded() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (5, 6)]


def close(batch: Tensor, alone: list[Tensor], *, axis: int) -> None:
    """The batch's images are those of single runs, to 1e-5 of the largest value."""
    single = torch.cat(alone, dim=axis)
    assert float((batch - single).abs().max()) < 1e-5 * max(1.0, float(single.abs().max()))


def inverted(model: Any, name: str, latents: Tensor, generators: Any) -> Inversion:
    timesteps = tuple(model.schedule.timesteps(STEPS))
    if name in ("picture", "drawn"):
        noise, trajectory = draw_noise(latents.shape, generators, latents), latents[None]
        return Inversion(name, noise, timesteps, trajectory=trajectory if name == "picture" else None)
    entry = INVERSIONS[name]
    guidance = 3.0 if entry.source_guidance_scale is None else entry.source_guidance_scale
    task = InversionTask(
        model, latents, model.encode_prompt(SOURCE), None, guidance, num_inference_steps=STEPS, generator=generators
    )
    return entry.function(task)


@pytest.mark.parametrize(
    ("method", "start"),
    [
        (name, start)
        for name in on(DIFFUSION, METHODS)
        for start in (next(iter(METHODS[name].inversions), "picture"), "drawn")
    ],
)
def test_a_batch_of_edits_gives_what_single_runs_give(toy_model: Any, clean: Tensor, method: str, start: str) -> None:
    def run(latents: Tensor, generators: list[torch.Generator]) -> Any:
        source = inverted(toy_model, start, latents, generators)
        task = EditTask(toy_model, source, SOURCE, [TARGET], guidance_scale=3.0, generator=generators)
        return METHODS[method].function(task, **QUICK.get(method, {})).latents

    close(run(clean, seeded()), [run(clean[[k]], [seeded()[k]]) for k in range(2)], axis=1)


@pytest.mark.parametrize("name", ["dpm-encoder", "edit-friendly", "regularised-ddim"])
def test_a_batch_of_inversions_draws_as_single_runs_do(toy_model: Any, clean: Tensor, name: str) -> None:
    both = inverted(toy_model, name, clean, seeded())
    alone = [inverted(toy_model, name, clean[[k]], [seeded()[k]]) for k in range(2)]
    close(both.noise, [one.noise for one in alone], axis=0)
    assert not torch.allclose(both.noise[0] - clean[0], both.noise[1] - clean[1], atol=1e-2)


def test_the_targets_of_an_image_draw_as_each_would_alone(toy_model: Any, clean: Tensor) -> None:
    targets = [TARGET, SOURCE]

    def run(latents: Tensor, generators: list[torch.Generator], targets: list[str]) -> Any:
        source = inverted(toy_model, "picture", latents, generators)
        options: dict[str, Any] = {"energy": "stay-near", "num_langevin_steps": 2, "prompt": "target"}
        task = EditTask(toy_model, source, SOURCE, targets, generator=generators)
        return METHODS["langevin"].function(task, **options).latents

    both = run(clean, seeded(), targets)
    close(both, [run(clean[[k]], [seeded()[k]], targets) for k in range(2)], axis=1)
    close(both[1:], [run(clean, seeded(), [target])[1:] for target in targets], axis=0)


def test_a_batch_of_translations_gives_what_single_runs_give(toy_model: Any, clean: Tensor) -> None:
    def run(latents: Tensor, generators: list[torch.Generator]) -> Any:
        return translate(
            toy_model, toy_model, latents, num_inference_steps=STEPS, refine_strength=0.4, generator=generators
        ).latents

    close(run(clean, seeded()), [run(clean[[k]], [seeded()[k]]) for k in range(2)], axis=0)


def test_generated_images_are_those_of_the_following_seeds(toy_model: Any) -> None:
    quick: dict[str, Any] = {"num_inference_steps": 2, "size": (64, 64), "eta": 1.0}
    three = sfumato.generate(toy_model, "a cat", num_images=3, seed=7, **quick).images
    for k, image in enumerate(three):
        alone = torch.tensor(list(sfumato.generate(toy_model, "a cat", seed=7 + k, **quick).image.tobytes()))
        assert int((torch.tensor(list(image.tobytes())) - alone).abs().max()) <= 1
    assert sfumato.generate(toy_model, "a cat", num_images=2, seed=2**64 - 1, **quick).images[1]


def test_from_one_generator_the_first_image_draws_as_if_it_were_alone() -> None:
    like = torch.empty(0)
    generators = [torch.Generator().manual_seed(3) for _ in range(3)]
    for _ in range(2):  # also where it has drawn before
        alone, two, three = (
            draw_noise((2, images, 4, 8, 8), generator, like) for images, generator in enumerate(generators, start=1)
        )
        assert torch.equal(two[:, :1], alone)
        assert torch.equal(three[:, :2], two)
        assert len({float(image.sum()) for image in three.transpose(0, 1)}) == 3


def test_no_image_draws_what_another_one_drew_before() -> None:
    generator = torch.Generator().manual_seed(3)
    drawn = torch.cat([draw_noise((50, 1, 2, 2), generator, torch.empty(0)) for _ in range(20)])
    assert len({float(value) for value in drawn.flatten()}) == drawn.numel()


def test_there_must_be_a_generator_for_each_image() -> None:
    with pytest.raises(UsageError, match="one for each of 3 images, got 2"):
        streams(seeded(), 3)
