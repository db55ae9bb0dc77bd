"""Prompts as people write them: weights become weights, escapes letters, and all else is refused or noted."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.prompt_syntax import plain_text, read_prompt, write_prompt
from sfumato.models.text import ClipText

MODELS = ["toy_model", "toy_xl_model"]


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a (cat:1.3) on a mat", [("a ", 1.0), ("cat", 1.3), (" on a mat", 1.0)]),
        ("(cat)", [("cat", 1.1)]),
        ("((cat))", [("cat", 1.21)]),
        ("[cat]", [("cat", 1 / 1.1)]),
        ("[[cat]]", [("cat", 1 / 1.21)]),
        ("([cat])", [("cat", 1.0)]),
        ("(a (cat:1.5) here:0.8)", [("a ", 0.8), ("cat", 1.2), (" here", 0.8)]),
        ("(cat : .5 )", [("cat ", 0.5)]),
        ("(cat:-1)", [("cat", -1.0)]),
        ("(cat:0)", [("cat", 0.0)]),
        (r"a \(cat\) \[x\] \\", [(r"a (cat) [x] " + "\\", 1.0)]),
        (r"(\(cat\):1.2)", [("(cat)", 1.2)]),
        ("12:30 at C:\\temp", [("12:30 at C:\\temp", 1.0)]),
        ("", []),
        ("()", []),
        ("a cat :)", [("a cat :)", 1.0)]),
        ("(a cat", [("(a cat", 1.0)]),
        ("a (b] c)", [("a ", 1.0), ("b] c", 1.1)]),
        ("(猫:1.3)と犬", [("猫", 1.3), ("と犬", 1.0)]),
    ],
)
def test_weights_are_read(prompt: str, parts: list[tuple[str, float]]) -> None:
    found = read_prompt(prompt)
    assert [text for text, _ in found.parts] == [text for text, _ in parts]
    assert [weight for _, weight in found.parts] == pytest.approx([weight for _, weight in parts])
    again = read_prompt(write_prompt(found.parts))
    assert again.text == found.text
    assert [weight for _, weight in again.parts] == pytest.approx([weight for _, weight in parts], abs=1e-6)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a cat <lora:fluffy:0.8>", "--lora FILE"),
        ("a cat < LyCO : fluffy >", "--lora FILE"),
        ("<hypernet:x:1>", "hypernetworks are not supported"),
        ("a cat, embedding:easynegative", "--embedding FILE"),
        ("a cat BREAK a dog", "leave it out"),
        ("a cat AND a dog", "say all in one prompt"),
        ("a cat AND a dog:0.5", "say all in one prompt"),
        ("a [cat:dog:0.5]", "the same at every step"),
        ("a [cat:0.5]", "the same at every step"),
        ("a [cat::10]", "the same at every step"),
        ("a [cat|dog]", "alternates"),
        ("(cat:11)", r"\[-10, 10\], got 11"),
        ("(" * 30 + "cat" + ")" * 30, r"\[-10, 10\]"),
        ("(cat:" + "9" * 31 + ")", r"\[-10, 10\]"),
    ],
)
def test_what_a_prompt_cannot_say_is_refused_with_the_remedy(prompt: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_prompt(prompt)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("Paris (France)", "write"),
        ("a [cat]", "0.91"),
        ("(a cat", "without its partner"),
        ("a cat | a dog", "'|' is read as a character"),
        ("a {red|blue} cat", "no wildcards"),
        ("a __colour__ cat", "no wildcards"),
        ("a cat++ on a mat", r"(cat:1.1)"),
        ("a (cat)1.3", "(cat:1.3)"),
    ],
)
def test_what_may_be_meant_otherwise_is_noted(prompt: str, says: str) -> None:
    assert any(says in note for note in read_prompt(prompt).notes)


@pytest.mark.parametrize(
    "prompt",
    ["a cat and a break-dancer", "(cat:1.3)", r"Paris \(France\)", "12:30", "word embedding: a cat", "a (cat:1.2)."],
)
def test_plain_prompts_have_no_notes(prompt: str) -> None:
    assert read_prompt(prompt).notes == ()


def test_a_long_prompt_of_brackets_is_read_quickly() -> None:
    start = time.monotonic()
    for prompt in ("()" * 5000, "(" * 5000 + ")" * 5000, "[" * 10_000, "(a:1.0" * 1600):
        try:
            read_prompt(prompt)
        except UsageError:
            continue
    assert time.monotonic() - start < 2.0


@pytest.fixture(params=MODELS)
def model(request: Any) -> Any:
    return request.getfixturevalue(request.param)


def embedding(model: Any, prompt: str) -> Tensor:
    return model.encode_prompt(prompt).text[0]


def test_a_weight_moves_its_tokens_from_those_of_the_empty_prompt(model: Any) -> None:
    plain, nothing = embedding(model, "a cat on a mat"), embedding(model, "a (cat:0) on a mat")
    if not getattr(model, "zeroes_empty_negative", False):  # there "" itself is all zeros
        assert torch.allclose(nothing[2], embedding(model, "")[2], atol=1e-5)
    for weight in (0.5, 1.3, -1.0):
        found = embedding(model, f"a (cat:{weight}) on a mat")
        assert torch.allclose(found[2], nothing[2] + weight * (plain[2] - nothing[2]), atol=1e-5)
        others = [k for k in range(len(plain)) if k != 2]
        assert torch.equal(found[others], plain[others])


def test_brackets_escapes_and_weight_one(model: Any) -> None:
    assert torch.equal(embedding(model, "a (cat:1.0) on a mat"), embedding(model, "a cat on a mat"))
    assert torch.allclose(embedding(model, "a ((cat)) on"), embedding(model, "a (cat:1.21) on"), atol=1e-5)
    assert torch.allclose(embedding(model, "a [cat] on"), embedding(model, "a (cat:0.909091) on"), atol=1e-5)
    assert not torch.allclose(embedding(model, r"a \(cat\) on"), embedding(model, "a (cat) on"), atol=1e-3)


def test_prompts_of_a_batch_keep_their_own_weights(model: Any) -> None:
    prompts = ["a cat", "a (cat:1.5)", "(a:0.5) dog"]
    batch = model.encode_prompt(prompts).text
    for row, prompt in zip(batch, prompts, strict=True):
        assert torch.allclose(row, embedding(model, prompt), atol=1e-5)


def test_weights_reach_the_second_chunk(toy_model: Any) -> None:
    words = " ".join(["cat"] * 80)
    plain, found = embedding(toy_model, f"{words} dog"), embedding(toy_model, f"{words} (dog:1.5)")
    changed = (plain != found).any(dim=-1).nonzero().flatten().tolist()
    assert changed == [77 + 1 + 80 - 75]


def test_a_weight_inside_a_word_is_the_whole_words(tiny_model: Any) -> None:
    tokenizer: ClipText = tiny_model.text
    ids, weights = tokenizer.weighted_ids("an un(believ:1.5)able hat")
    assert ids == tokenizer.ids("an unbelievable hat")
    assert weights == [1.0, *[1.5] * (len(ids) - 2), 1.0]
    assert plain_text("un(believ:1.5)able") == "unbelievable"
