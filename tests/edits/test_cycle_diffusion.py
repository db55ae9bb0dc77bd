"""CycleDiffusion's search over draws, strengths and scales. What it shares with edit-friendly: test_noise_map_edit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.edits.candidate_search import best_of
from sfumato.edits.cycle_diffusion import cycle_diffusion
from sfumato.edits.method import METHODS
from sfumato.edits.result import LatentEdit
from sfumato.errors import UsageError
from sfumato.guidance.prompt_gain import DirectionalAgreement, PromptGain
from sfumato.inversions.noise_maps import dpm_encoder
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from tests.edits.tasks import edit_by

SOURCE, TARGET = "a photo of a cat", "a photo of a dog"
STEPS = 2
SEARCH: dict[str, Any] = {"trials": 2, "try_strengths": [0.5, 1.0], "try_guidance_scales": [1.0, 3.0]}


def source(model: Any, images: int = 1) -> Inversion:
    noise = torch.randn(STEPS, images, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    clean = 0.5 * torch.randn(images, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    return dpm_encoder(InversionTask(model, clean, model.encode_prompt(SOURCE), num_inference_steps=STEPS), noise=noise)


def run(model: Any, inverted: Inversion, *targets: str, **options: Any) -> LatentEdit:
    generator = torch.Generator().manual_seed(0)
    targets = targets or (TARGET,)
    return edit_by(
        cycle_diffusion, model, inverted, source_prompt=SOURCE, target_prompts=targets, generator=generator, **options
    )


def test_candidates_are_all_combinations_scale_innermost(toy_model: Any) -> None:
    inverted = source(toy_model)
    found = run(toy_model, inverted, energy=lambda pixels: pixels.flatten(1).mean(dim=1), **SEARCH)
    assert [tuple(candidate.options.values()) for candidate in found.candidates] == [
        (trial, strength, scale) for trial in (0, 1) for strength in (0.5, 1.0) for scale in (1.0, 3.0)
    ]
    for candidate in found.candidates[:4]:  # the first trial is the given inversion's
        strength, scale = candidate.options["strength"], candidate.options["guidance_scale"]
        single = run(toy_model, inverted, strength=strength, guidance_scale=scale)
        assert torch.allclose(candidate.latents, single.latents[1], atol=1e-4)
    assert not torch.allclose(found.candidates[3].latents, found.candidates[7].latents, atol=1e-3)  # other draws


def test_each_image_gets_its_own_best_candidate(toy_model: Any) -> None:
    """An energy that likes the most changed image of one image and the least changed of the other."""
    inverted = source(toy_model, images=2)
    original = toy_model.decode_latents(inverted.clean)

    def energy(pixels: Tensor) -> Tensor:
        moved: Tensor = (pixels - original).flatten(1).norm(dim=1)
        return torch.stack([-moved[0], moved[1]])

    found = run(toy_model, inverted, energy=energy, **SEARCH)
    energies = torch.stack([energy(toy_model.decode_latents(candidate.latents)) for candidate in found.candidates])
    best = energies.argmin(dim=0).tolist()
    assert best[0] != best[1]
    for image, chosen in enumerate(best):
        assert torch.equal(found.latents[1, image], found.candidates[chosen].latents[image])
    assert found.candidates[best[0]].agreement == pytest.approx(-float(energies[best[0]].mean()), rel=1e-4)


def test_a_search_costs_what_the_docstring_says(toy_model: Any) -> None:
    inverted, before = source(toy_model), toy_model.evaluations
    run(toy_model, inverted, energy=lambda pixels: pixels.flatten(1).mean(dim=1), **SEARCH)
    executed, rows, ends = 1 + 2, 1 + 2, 2  # at guidance 1 a candidate has one row
    assert toy_model.evaluations - before == 2 * (executed * rows + ends) + STEPS
    before = toy_model.evaluations
    run(toy_model, inverted, try_guidance_scales=[1.0, 3.0], strength=0.5)
    assert toy_model.evaluations - before == 1 + 2 + 1 + 2 * 16  # the model judges: 16 a candidate


def test_the_models_own_judgement_is_of_the_prompts_and_image_by_image(toy_model: Any) -> None:
    latents = torch.randn(3, 4, 16, 16)
    with torch.no_grad():
        same = PromptGain(toy_model, SOURCE, SOURCE, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(same(latents), torch.zeros(3), atol=1e-6)
        gains = [
            PromptGain(toy_model, *prompts, generator=torch.Generator().manual_seed(0))
            for prompts in ((SOURCE, TARGET), (TARGET, SOURCE), (SOURCE, TARGET))
        ]
        whole = gains[0](latents)
        assert torch.allclose(whole, -gains[1](latents), atol=1e-6)
        assert torch.allclose(whole[[1]], gains[2](latents[[1]]), atol=1e-5)


def test_directional_agreement_as_an_energy() -> None:
    source_pixels, texts = torch.tensor([[[[1.0]], [[0.0]]]]), (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    energy = DirectionalAgreement(lambda pixels: pixels.flatten(1), source_pixels, *texts)
    pixels = torch.tensor([[[[0.0]], [[1.0]]], [[[1.0]], [[0.0]]], [[[0.0]], [[-1.0]]]])
    assert energy(pixels).tolist() == pytest.approx([0.0, 1.0, 1.0], abs=1e-6)
    assert int(best_of(energy(pixels)[:, None])[0]) == 0


def test_mistakes_are_named(toy_model: Any) -> None:
    inverted, before = source(toy_model), toy_model.evaluations
    with pytest.raises(UsageError, match="a search takes one target prompt, got 2"):
        run(toy_model, inverted, TARGET, SOURCE, trials=2)
    with pytest.raises(UsageError, match="at least one trial"):
        run(toy_model, inverted, try_strengths=[])
    assert toy_model.evaluations == before
    with pytest.raises(UsageError, match="one number an image"):
        run(toy_model, inverted, trials=2, energy=lambda pixels: pixels)


def test_it_is_listed_with_its_reasons() -> None:
    for name in ("cycle-diffusion", "edit-friendly"):
        assert set(METHODS[name].inversions) == {"dpm-encoder", "edit-friendly"}
        assert "noise maps" in METHODS[name].refuses["ddim"]
