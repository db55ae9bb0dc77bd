"""Weights written in prompts join Prompt-to-Prompt's own: on attention, once, and relative to the source's."""

from typing import Any

import pytest
import torch

from sfumato.attention.cross import Reweight
from sfumato.attention.prompt_control import prompt_control
from sfumato.attention.word_weights import word_weights
from sfumato.conditions import align
from sfumato.edits.edit_friendly import edit_friendly
from sfumato.edits.prompt_to_prompt import prompt_to_prompt
from sfumato.inversions.result import Inversion
from tests.edits.tasks import edit_by

SOURCE, TARGET = "a photo of a cat on the house", "a photo of a dog on the house"


def start(model: Any, steps: int = 3) -> Inversion:
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    return Inversion("drawn", noise, tuple(model.schedule.timesteps(steps)))


def run(model: Any, source: str, target: str, **options: Any) -> Any:
    return edit_by(prompt_to_prompt, model, start(model), source_prompt=source, target_prompts=[target], **options)


def test_a_weight_in_the_target_is_a_weight_of_the_method(toy_model: Any) -> None:
    written = run(toy_model, SOURCE, TARGET.replace("dog", "(dog:1.6)"))
    option = run(toy_model, SOURCE, TARGET, weights={"dog": 1.6})
    both = run(toy_model, SOURCE, TARGET.replace("dog", "(dog:0.8)"), weights={"dog": 2.0})
    assert torch.allclose(written.latents, option.latents, atol=1e-5)
    assert torch.allclose(both.latents, option.latents, atol=1e-5)
    assert not torch.allclose(written.latents, run(toy_model, SOURCE, TARGET).latents, atol=1e-3)


def test_equal_weighted_prompts_change_nothing(toy_model: Any) -> None:
    for prompt in (SOURCE.replace("cat", "(cat:1.6)"), "[photo] of a (cat:0) (house:1.5)"):
        found = run(toy_model, prompt, prompt, cross_replace_steps=1.0, self_replace_steps=1.0)
        assert torch.allclose(found.latents[1], found.latents[0], atol=1e-4)  # of values up to 13


def test_without_injected_attention_weights_stay_in_the_text(toy_model: Any) -> None:
    target = TARGET.replace("dog", "(dog:1.6)")
    for options in ({"cross_replace_steps": 0.0}, {"edit": "none"}):
        built = prompt_control(toy_model, SOURCE, [target], num_inference_steps=3, latent_size=(16, 16), **options)
        assert built.prompts == (target,)
    built = prompt_control(toy_model, SOURCE, [target], num_inference_steps=3, latent_size=(16, 16))
    assert built.prompts == (TARGET,)


def test_factors_are_relative_to_the_sources_weights(toy_model: Any) -> None:
    tokenizer = toy_model.text
    found = word_weights(tokenizer, "a (cat:2) and a (red:0.5) mat", "a (dog:3) and a (red:0.5) (big:1.2) mat")
    at = {word: align.token_indices(tokenizer, found.prompt, word)[0] for word in ("dog", "red", "big")}
    assert found.factors[at["dog"]] == pytest.approx(1.5)  # takes the cat's place, and its weight in the text
    assert found.factors[at["red"]] == 1.0
    assert found.factors[at["big"]] == pytest.approx(1.2)
    assert found.prompt == "a (dog:2.000000) and a (red:0.500000) big mat"
    big = align.token_indices(tokenizer, found.prompt, "big")
    assert (found.factors != 1.0).nonzero().flatten().tolist() == [at["dog"], *big]


def test_a_weight_beyond_the_edited_maps_stays_in_the_text(toy_model: Any) -> None:
    words = " ".join(["cat"] * 80)
    found = word_weights(toy_model.text, f"{words} hat", f"{words} (hat:1.5)")
    assert bool((found.factors == 1.0).all())
    assert found.prompt == f"{words} (hat:1.500000)"


def test_escaped_brackets_are_words_of_the_prompt(tiny_model: Any) -> None:
    tokenizer = tiny_model.text
    assert align.token_indices(tokenizer, r"a (red:1.3) hat \(cat\)", "red") == [2]
    assert align.words_of(r"a (red:1.3) hat \(cat\)") == ["a", "red", "hat", "(cat)"]
    mapper = align.replace_mapper(tokenizer, "a (red:1.3) cat", "a red dog")
    assert torch.equal(mapper[:5, :5], torch.eye(5))


def test_other_methods_with_this_control_join_them_too(toy_model: Any) -> None:
    def edited(target: str) -> Any:
        return edit_by(
            edit_friendly, toy_model, start(toy_model), source_prompt=SOURCE, target_prompts=[target],
            guidance_scale=3.0, attention_control="replace", generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    plain, weighted = edited(TARGET), edited(TARGET.replace("dog", "(dog:1.9)"))
    assert torch.allclose(plain.latents[0], weighted.latents[0], atol=1e-5)
    assert not torch.allclose(plain.latents[1], weighted.latents[1], atol=1e-5)
    control = prompt_control(
        toy_model, SOURCE, [TARGET.replace("dog", "(dog:1.9)")], num_inference_steps=3, latent_size=(16, 16)
    ).control
    assert isinstance(control.edits[0].edit, Reweight)  # type: ignore[attr-defined]
