"""Prompt-to-Prompt where image and text are one sequence: identities, what each control does, words, and leaks."""

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import sfumato
from sfumato.conditions import align
from sfumato.edits.prompt_to_prompt import prompt_to_prompt
from sfumato.edits.result import LatentEdit
from sfumato.edits.word_mask import heat_of_words
from sfumato.inversions.result import Inversion
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.edits.tasks import edit_by
from tests.toy_flow import short_flux, toy_sd3_pipeline

SOURCE, TARGET = "a photo of a cat on the house", "a photo of a dog on the house"
LONGER = "a photo of a red cat on the house"
SIZE = (8, 12)


@pytest.fixture(scope="module")
def flux() -> Any:
    return short_flux()


@pytest.fixture(scope="module")
def sd3() -> Any:
    return sfumato.load_model(toy_sd3_pipeline(newer=True))


@pytest.fixture(params=["flux", "sd3"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def start(model: Any, images: int = 1) -> Inversion:
    noise = torch.randn(images, model.latent_channels, *SIZE, generator=torch.Generator().manual_seed(1))
    return Inversion("drawn", noise, tuple(model.schedule.timesteps(4, latent_size=SIZE)))


def run(model: Any, target: str, *, images: int = 1, **options: Any) -> LatentEdit:
    options = {"guidance_scale": 3.0} | options
    return edit_by(
        prompt_to_prompt, model, start(model, images), source_prompt=SOURCE, target_prompts=[target], **options
    )


def free(model: Any, *prompts: str) -> Tensor:
    condition = model.encode_prompt(list(prompts))
    branches = {str(k): Branch(condition[[k]], guidance_scale=3.0) for k in range(len(prompts))}
    return sample(model, start(model).noise, branches, timesteps=start(model).timesteps)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("edit", ["replace", "refine"])
def test_equal_prompts_change_nothing(model: Any, edit: str) -> None:
    result = run(model, SOURCE, edit=edit, cross_replace_steps=1.0, self_replace_steps=1.0)
    assert far(result.latents[1], result.latents[0]) < 1e-5
    assert far(result.latents[0], free(model, SOURCE)[0]) < 1e-5


def test_control_off_is_plain_sampling_and_the_source_is_never_touched(model: Any) -> None:
    plain = free(model, SOURCE, TARGET)
    assert far(run(model, TARGET, cross_replace_steps=0.0, self_replace_steps=0.0).latents, plain) < 1e-5
    assert far(run(model, TARGET, weights={"dog": 2.0}).latents[0], plain[0]) < 1e-5
    assert far(free(model, SOURCE, TARGET), plain) == 0.0, "the model is left as found"


def test_each_control_moves_the_edit(model: Any) -> None:
    plain = free(model, SOURCE, TARGET)[1]
    for options in (
        {"cross_replace_steps": 1.0, "self_replace_steps": 0.0},
        {"cross_replace_steps": 0.0, "self_replace_steps": 1.0},
        {"cross_replace_steps": 1.0, "self_replace_steps": 0.0, "weights": {"dog": 0.0}},
    ):
        assert far(run(model, TARGET, **options).latents[1], plain) > 1e-5, options
    longer = run(model, LONGER, cross_replace_steps=1.0, self_replace_steps=0.0).latents[1]
    assert far(longer, free(model, SOURCE, LONGER)[1]) > 1e-5


def test_maps_of_swapped_words_are_the_sources_and_heat_maps_are_of_words(model: Any) -> None:
    held = run(model, TARGET, edit="replace", cross_replace_steps=1.0, self_replace_steps=0.0).maps
    own = run(model, TARGET, edit="replace", cross_replace_steps=0.0, self_replace_steps=0.0).maps
    assert held is not None
    assert own is not None
    assert held.shape == (2, 1, SIZE[0] // 2, SIZE[1] // 2, model.text.length)
    torch.testing.assert_close(held[1], held[0])
    assert not torch.allclose(own[1], own[0])
    heat = heat_of_words(model, start(model).noise, SOURCE, ["cat"], draws=1, generator=torch.Generator())
    assert heat.shape == (1, 1, *SIZE)
    assert float(heat.std()) > 0.0


def test_a_weight_scales_the_words_attention_in_every_encoder(model: Any) -> None:
    maps = {}
    for factor in (1.0, 2.0):
        maps[factor] = run(model, TARGET, weights={"dog": factor}, cross_replace_steps=1.0).maps
    (positions,) = [at for word, at in model.text.words(TARGET) if word == "dog"]
    assert len(positions) == (2 if model.text.length == 77 + 256 else 1)
    first = {factor: found[1, 0, ..., list(positions)] for factor, found in maps.items()}  # type: ignore[index]
    # of the mean over steps, which part only after the first
    assert float((first[2.0] / first[1.0]).mean()) == pytest.approx(2.0, rel=0.1)


def test_a_batch_of_images_equals_single_runs(model: Any) -> None:
    both = run(model, TARGET, images=2)
    alone = Inversion("drawn", start(model, 2).noise[1:], start(model).timesteps)
    one = edit_by(
        prompt_to_prompt, model, alone, source_prompt=SOURCE, target_prompts=[TARGET], guidance_scale=3.0
    )  # fmt: skip
    assert far(both.latents[:, 1], one.latents[:, 0]) < 1e-5


def test_tokens_are_aligned_in_each_encoder(sd3: Any, flux: Any) -> None:
    mapper = align.replace_mapper(sd3.text, SOURCE, TARGET)
    assert mapper.shape == (333, 333)
    assert torch.equal(mapper, torch.eye(333))  # a token for a token
    places, known = align.refine_mapper(sd3.text, "a cat on the house", "a red cat on the house")
    for first in (1, 77):  # CLIP's tokens stand behind a start token, T5's behind CLIP's
        assert (int(places[first + 2]), int(known[first + 1])) == (first + 1, 0)
    assert bool((places[:77] < 77).all())
    assert bool((places[77:][known[77:] > 0] >= 77).all())
    alone, _ = align.refine_mapper(flux.text, "a cat on the house", "a red cat on the house")
    assert torch.equal(torch.where(alone < 0, alone, alone + 77)[:256], places[77:][: len(alone)][:256])


def test_the_public_verb_edits_a_flow_and_shows_its_attention(model: Any) -> None:
    image = Image.new("RGB", (64, 48), (200, 30, 30))
    with pytest.warns(UserWarning, match="autoencoder only reaches"):
        result = sfumato.edit(
            model, image, source_prompt=SOURCE, target_prompt=TARGET, method="prompt-to-prompt", num_inference_steps=2,
            mask_words="cat",
        )  # fmt: skip
    assert result.attention_map("dog").shape == (3, 4)
