"""Prompt-to-Prompt's control of a run, made from the prompts."""

from typing import Any

import pytest

from sfumato.attention.prompt_control import prompt_control


def test_each_prompt_is_cut_into_words_once(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alignment, weights and notes all ask for the words: of long prompts, that took longer than a network call."""
    read, words = list[str](), tiny_model.text.words

    def noted(prompt: str) -> list[tuple[str, tuple[int, ...]]]:
        read.append(prompt)
        return words(prompt)

    monkeypatch.setattr(tiny_model.text, "words", noted)
    prompts = ["a cat on a mat", "a dog on a mat", "a cat on a red mat"]
    prompt_control(tiny_model, prompts[0], prompts[1:], num_inference_steps=2, latent_size=(8, 8), blend_words="mat")
    assert sorted(read) == sorted(prompts)
