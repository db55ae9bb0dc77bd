"""Words of two prompts are paired by what they are: swaps, phrases, moved words, tags, and scripts without spaces."""

import time
from typing import Any

import pytest
import torch

from sfumato.attention.cross import OneEach, Refine, Replace
from sfumato.attention.prompt_control import prompt_control
from sfumato.conditions import align
from sfumato.conditions.pairing import Pairing
from sfumato.conditions.words import occurrences, pieces_of


@pytest.fixture
def text(tiny_model: Any) -> Any:
    return tiny_model.text


def told(text: Any, source: str, target: str) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Swapped, added and removed, as text."""
    old, new = pieces_of(text, source), pieces_of(text, target)
    found: Pairing = align.pairing_of(text, source, target)
    swapped = [
        (" ".join(old[k].text for k in s), " ".join(new[k].text for k in t))
        for s, t in found.swapped
        if old[s[0]].key != new[t[0]].key
    ]
    return swapped, [new[k].text for k in found.added], [old[k].text for k in found.removed]


@pytest.mark.parametrize(
    ("source", "target", "swapped"),
    [
        ("a cat on a mat", "a dog on a rug", [("cat", "dog"), ("mat", "rug")]),
        ("cat", "dog", [("cat", "dog")]),
        ("大象", "小狗", [("大", "小"), ("象", "狗")]),
        ("a cat and a dog", "a dog and a cat", [("cat", "dog"), ("dog", "cat")]),
        ("a glass of water", "a glass of toxic glowing acid", [("water", "toxic glowing acid")]),
        ("water", "toxic glowing acid", [("water", "toxic glowing acid")]),
        ("a glass of toxic glowing acid on a table", "a glass of water on a table", [("toxic glowing acid", "water")]),
        ("a small brown dog in the snow", "a fox in the snow", [("small brown dog", "fox")]),
        ("A cat, on a mat.", "a dog, on a mat", [("cat", "dog")]),  # case and a full stop are no edit
        ("一只猫在沙发上", "一只狗在沙发上", [("猫", "狗")]),
        ("一只猫在沙发上", "一只老虎在沙发上", [("猫", "老 虎")]),
        ("猫がソファにいる", "犬がソファにいる", [("猫", "犬")]),
        ("แมวบนโซฟา", "แมวใต้โซฟา", None),
        ("cat, red sofa, night", "night, dog, red sofa", [("cat", "dog")]),  # the same tags in another order
        ("猫、夜、赤いソファ", "夜、犬、赤いソファ", [("猫", "犬")]),
    ],
)
def test_exchanged_words_are_a_swap(text: Any, source: str, target: str, swapped: Any) -> None:
    found, added, removed = told(text, source, target)
    assert (added, removed) == ([], [])
    assert swapped is None or found == swapped
    align.replace_mapper(text, source, target)


@pytest.mark.parametrize(
    ("source", "target", "added", "removed"),
    [
        ("a cat on a red sofa", "a red cat on a sofa", ["red"], ["red"]),  # what moved is new, all else stays
        ("a cat", "a cat with a hat", ["with", "a", "hat"], []),
        ("a red cat", "a cat", [], ["red"]),
        ("a photo of a cat", "a photo of a dog in the snow", ["dog", "in", "the", "snow"], ["cat"]),
        ("cat", "a dog on a sofa", ["a", "dog", "on", "a", "sofa"], ["cat"]),
        ("一只猫", "一只红色的猫", ["红", "色", "的"], []),
        ("red cat", "cat red", ["red"], ["red"]),
        ("cat, night", "night, cat, snow", ["snow"], []),
        ("one cat", "two dogs", ["two", "dogs"], ["one", "cat"]),
    ],
)
def test_added_removed_and_moved_words_are_no_swap(
    text: Any, source: str, target: str, added: list[str], removed: list[str]
) -> None:
    found = told(text, source, target)
    assert sorted(found[1]) == sorted(added)
    assert sorted(found[2]) == sorted(removed)


def test_moved_words_keep_all_others_on_their_own_tokens(text: Any) -> None:
    """The fault: by position red read cat, cat read on, on read a."""
    mapper, _ = align.refine_mapper(text, "a cat on a red sofa", "a red cat on a sofa")
    assert mapper[:8].tolist() == [0, 1, -1, 2, 3, 4, 6, 7]


def test_reordered_tags_are_aligned_with_themselves(text: Any) -> None:
    source, target = "red hair, cat, night", "night, red hair, cat"
    mapper, aligned = align.refine_mapper(text, source, target)
    ids = [[0, *text.ids(prompt), 1] for prompt in (source, target)]
    assert bool(aligned.all())
    assert [ids[0][k] for k in mapper[: len(ids[1])].tolist()] == ids[1]
    assert mapper[1] == 6  # night, from the end to the front


def test_a_phrase_takes_the_whole_of_its_words_attention(text: Any) -> None:
    source, target = "a glass of water on a table", "a glass of toxic glowing acid on a table"
    mapper = align.replace_mapper(text, source, target)
    phrase = [p for word in ("toxic", "glowing", "acid") for p in align.token_indices(text, target, word)]
    assert torch.allclose(mapper[4, phrase], torch.full((len(phrase),), 1.0 / len(phrase)))
    assert torch.allclose(mapper.sum(dim=1)[:9], torch.ones(9))  # nothing of the source's attention is lost
    assert float(mapper[5, phrase[-1] + 1]) == 1.0  # "on" reads "on"


def test_one_letter_scripts_are_found_and_cover_every_token(text: Any) -> None:
    for prompt in ("一只猫在沙发上", "猫がソファにいる。", "แมวบนโซฟา", "고양이가 소파 위에", "a 猫, and 🐱s!"):
        positions = [p for piece in pieces_of(text, prompt) for p in piece.positions]
        assert positions == list(range(1, len(text.ids(prompt)) + 1)), prompt
    assert align.token_indices(text, "一只猫在沙发上", "猫") == [5, 6, 7]
    assert align.token_indices(text, "一只猫在沙发上", "沙发")[0] == 10
    assert occurrences(pieces_of(text, "a cat, face"), "cat face") == [[2, 4]]


def test_each_target_has_its_own_kind_of_edit(tiny_model: Any) -> None:
    def edit_of(*targets: str) -> Any:
        built = prompt_control(
            tiny_model, "a glass of water", targets, num_inference_steps=4, latent_size=(16, 16), weights=None
        )
        return built.control.edits[0].edit  # type: ignore[attr-defined]

    swap, addition = "a glass of toxic glowing acid", "a glass of water on a table"
    assert isinstance(edit_of(swap), Replace)
    assert isinstance(edit_of(addition), Refine)
    both, maps = edit_of(swap, addition), torch.rand(3, 1, 2, 8, 77)
    assert isinstance(both, OneEach)
    for k, target in enumerate((swap, addition)):
        assert torch.equal(both(maps[:1], maps[1:])[[k]], edit_of(target)(maps[:1], maps[[k + 1]]))


def test_the_longest_prompts_are_paired_at_once(toy_model: Any) -> None:
    """Attention is edited in the first chunk alone, so that no more of a prompt is compared."""
    start = time.monotonic()
    for source, target in (("a b " * 2500, "b a " * 2500), ("猫犬" * 3000, "犬鳥" * 3000)):
        with pytest.warns(UserWarning, match="attention is edited for its first 75 only"):
            prompt_control(toy_model, source, [target], num_inference_steps=2, latent_size=(16, 16))
    assert time.monotonic() - start < 15.0  # whole prompts took minutes


def test_prompts_without_a_common_word_run_and_say_so(tiny_model: Any) -> None:
    def notes(source: str, target: str) -> tuple[str, ...]:
        return prompt_control(tiny_model, source, [target], num_inference_steps=4, latent_size=(16, 16)).notes

    (new,) = notes("cat", "the dog with blue hat")
    assert "no word in common" in new
    assert len(notes("red cat", "blue house")) == 1
    assert notes("cat", "dog") == ()
    assert notes("a cat", "a dog") == ()
