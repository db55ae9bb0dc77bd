"""Texts between two prompts: what is mixed with what, with all that a model reads."""

from typing import Any

import torch

from sfumato.conditions.mixing import PromptMix, paired_tokens

CAT, DOG, RED = "a photo of a cat", "a photo of a dog", "a photo of a red cat"


def test_the_target_is_mixed_with_the_source(toy_model: Any) -> None:
    way, both, empty = PromptMix.between(toy_model, CAT, DOG), toy_model.encode_prompt([CAT, DOG]), ""
    for weight in (0.0, 0.25, 1.0):
        mixed = way.at(weight).apply(toy_model.encode_prompt([DOG, DOG]), toy_model.encode_prompt(empty))
        expected = (1.0 - weight) * both.text[0] + weight * both.text[1]
        assert torch.allclose(mixed.text, expected.expand(2, -1, -1), atol=1e-6)


def test_both_text_embeddings_of_sdxl_are_mixed(toy_xl_model: Any) -> None:
    both, empty = toy_xl_model.encode_prompt([CAT, DOG]), toy_xl_model.encode_prompt("")
    mixed = PromptMix.between(toy_xl_model, CAT, DOG).at(0.5).apply(toy_xl_model.encode_prompt(DOG), empty)
    assert torch.allclose(mixed.text[0], both.text.mean(0), atol=1e-6)
    assert mixed.extras.keys() == both.extras.keys() == {"pooled"}
    assert torch.allclose(mixed.extras["pooled"][0], both.extras["pooled"].mean(0), atol=1e-6)


def test_the_shorter_of_two_prompts_is_filled_up(toy_model: Any) -> None:
    long, empty = ", ".join(["a red cat on the house"] * 20), toy_model.encode_prompt("")
    for source, target in ((long, DOG), (DOG, long)):
        mixed = PromptMix.between(toy_model, source, target).at(0.5).apply(toy_model.encode_prompt(target), empty)
        assert mixed.tokens == toy_model.encode_prompt(long).tokens


def test_tokens_are_paired_with_their_own(toy_model: Any) -> None:
    tokenizer = toy_model.text
    assert paired_tokens(tokenizer, CAT, DOG, 77) == list(range(77))
    start = len(tokenizer.ids("a photo of a")) + 1
    new = len(tokenizer.ids(RED)) - len(tokenizer.ids(CAT))
    added = paired_tokens(tokenizer, CAT, RED, 77)
    assert added[:start] == list(range(start))
    assert added[start : start + new] == [76] * new  # the new word starts as padding
    assert added[start + new :] == list(range(start, 77 - new))
    removed = paired_tokens(tokenizer, RED, CAT, 77)
    assert removed[start:] == [*range(start + new, 77), *[76] * new]
