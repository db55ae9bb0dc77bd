"""Word and token alignment: closed cases by hand, and the authors' behaviour where an option asks for it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sfumato.conditions import align
from sfumato.errors import UsageError


@pytest.fixture
def text(tiny_model: Any) -> Any:
    return tiny_model.text


@pytest.mark.parametrize(
    ("prompt", "word", "positions"),
    [
        ("a cat on a mat", "cat", [2]),
        ("a cat on a mat", "a", [1, 4]),
        ("a  cat   on a mat", "mat", [5]),  # runs of spaces
        ("A Cat, on a mat!", "cat", [2]),  # punctuation is its own token and not the word's
        ("A Cat, on a mat!", "cat,", [2, 3]),
        ("a photo of a hippopotamus.", "hippopotamus", [5, 6, 7]),
        ("a cat face and a dog face", "dog face", [6, 7]),
        ("a cat face and a dog face", "face", [3, 7]),
        ("un château à la mer", "château", [2, 3]),
        ("the cat's hat", "cat's", [2, 3]),
        ('a "red" car', "red", [3]),
    ],
)
def test_words_are_found(text: Any, prompt: str, word: str, positions: list[int]) -> None:
    assert align.token_indices(text, prompt, word) == positions


@pytest.mark.parametrize("prompt", ["a cat on a mat", "Ünïcödé 猫 and 🐱 cats", "it's 12 o'clock, isn't it?", "a" * 60])
def test_every_token_belongs_to_exactly_one_word(text: Any, prompt: str) -> None:
    positions = [p for word in align.word_positions(text, prompt) for p in word]
    assert positions == list(range(1, len(text.ids(prompt)) + 1))


def test_a_missing_word_lists_the_prompts_words(text: Any) -> None:
    with pytest.raises(UsageError, match=r"'dog' is not in .*a, cat, on, a, mat"):
        align.token_indices(text, "a cat on a mat", "dog")
    assert align.token_indices(text, "a cat on a mat", "dog", released=True) == []  # theirs: silence


def test_equal_prompts_align_to_themselves(text: Any) -> None:
    prompt = "a photo of a hippopotamus on a wooden table"
    assert torch.equal(align.replace_mapper(text, prompt, prompt), torch.eye(77))
    mapper, aligned = align.refine_mapper(text, prompt, prompt)
    assert mapper.tolist() == list(range(77))
    assert bool(aligned.all())


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a photo of a cat on a table", "a photo of a hippopotamus on a table"),
        ("a photo of a hippopotamus on a table", "a photo of a cat on a table"),
        ("a cat and a lasagne near a tricycle", "a capybara and a dog near a bicycle"),
    ],
)
def test_swap_keeps_later_words_on_their_own_tokens(text: Any, source: str, target: str) -> None:
    """The authors' matrix reads a neighbour here: the reason for `released`."""
    mapper = align.replace_mapper(text, source, target)
    source_at, target_at = (align.word_positions(text, prompt) for prompt in (source, target))
    for a, b, s, t in zip(source.split(), target.split(), source_at, target_at, strict=True):
        block = mapper[s][:, t]
        assert float(block.sum()) == pytest.approx(len(s))
        if a == b:
            assert torch.equal(block, torch.eye(len(s)))
    ends = len(text.ids(source)) + 1, len(text.ids(target)) + 1
    assert mapper[ends] == 1.0
    assert torch.allclose(mapper.sum(dim=0)[ends[1] :], torch.ones(77 - ends[1]))  # padding reads padding
    same = torch.equal(mapper, align.replace_mapper(text, source, target, released=True))
    assert same == (ends[0] == ends[1])  # theirs slips by the difference in tokens


def test_refinement_marks_new_tokens(text: Any) -> None:
    mapper, aligned = align.refine_mapper(text, "a bowl of soup", "a bowl of pea soup with croutons")
    new = len(text.ids("with croutons"))
    assert mapper[:6].tolist() == [0, 1, 2, 3, -1, 4]
    assert mapper[6 : 6 + new].tolist() == [-1] * new
    assert mapper[6 + new] == 5  # the end token
    assert mapper[7 + new] == 6  # and what follows it: padding to padding
    assert aligned.tolist() == (mapper >= 0).float().tolist()


def test_swap_refuses_what_it_cannot_pair(text: Any) -> None:
    with pytest.raises(UsageError, match=r"equally many words, got 2 and 3.*'red' is added.*edit='refine'"):
        align.replace_mapper(text, "a cat", "a red cat")
    with pytest.raises(UsageError, match=r"'red' removed.*edit='refine'"):
        align.replace_mapper(text, "a red cat", "a cat")
    with pytest.raises(UsageError, match=r"equally many words, got 2 and 3.*edit='refine'"):
        align.replace_mapper(text, "a cat", "a red cat", released=True)


def test_schedule_rows(text: Any) -> None:
    rows = align.replace_schedule(text, ["a dog on a rug"], 50, {"default_": (0.2, 0.8), "dog": 0.4})
    assert rows.shape == (51, 1, 77)
    other, dog = rows[:, 0, 3], rows[:, 0, 2]
    assert other.nonzero().flatten().tolist() == list(range(10, 40))
    assert dog.nonzero().flatten().tolist() == list(range(20))
    assert float(align.replace_schedule(text, ["a dog"], 10, 1).min()) == 1.0  # a whole number is a number


def test_schedule_does_not_change_the_callers_table(text: Any) -> None:
    table = {"dog": 0.5}
    align.replace_schedule(text, ["a dog"], 10, table)
    assert table == {"dog": 0.5}


@pytest.mark.parametrize("bounds", [1.2, -0.1, (0.5, 0.2), (0.0, 1.5)])
def test_bounds_outside_the_run_are_refused(text: Any, bounds: Any) -> None:
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        align.replace_schedule(text, ["a dog"], 10, bounds)


def test_a_scheduled_or_weighted_word_must_be_in_a_target(text: Any) -> None:
    targets = ["a dog on a mat", "a lion on a rug"]
    for misspelt in (
        lambda: align.replace_schedule(text, targets, 10, {"tiger": 0.5}),
        lambda: align.equalizer(text, targets, {"tiger": 2.0}),
    ):
        with pytest.raises(UsageError, match="'tiger' is not in"):
            misspelt()
    assert align.equalizer(text, targets, {"rug": 2.0}).nonzero().shape[0] == 2 * 77
    assert align.equalizer(text, targets, {"rug": 2.0})[:, 5].tolist() == [1.0, 2.0]


def test_words_beyond_the_first_chunk_warn() -> None:
    text = SimpleNamespace(length=6, start=1, words=lambda prompt: [(w, (k,)) for k, w in enumerate(prompt.split(), 1)])
    with pytest.warns(UserWarning, match="'f' lies beyond the first 4 tokens"):
        row = align.indicator(text, "a b c d e f", ["f"])  # type: ignore[arg-type]
    assert float(row.sum()) == 0.0


def test_a_text_without_a_start_token_is_aligned_alike(text: Any) -> None:
    """As T5 has it: words stand from position 0 on, and all maps move by one."""

    class Shifted:
        """The same text, one position earlier."""

        length, start = 76, 0

        def words(self, prompt: str) -> list[tuple[str, tuple[int, ...]]]:
            return [(word, tuple(p - 1 for p in positions)) for word, positions in text.words(prompt)]

        def tokens(self, prompt: str) -> list[tuple[int, str]]:
            return text.tokens(prompt)  # type: ignore[no-any-return]

    moved, source, target = Shifted(), "a cat on a red sofa", "a lion on a red sofa"
    assert [p + 1 for p in align.token_indices(moved, source, "cat")] == align.token_indices(text, source, "cat")
    assert align.room(moved) == align.room(text)
    assert torch.equal(align.replace_mapper(moved, source, target), align.replace_mapper(text, source, target)[1:, 1:])
    for released in (False, True):
        mapper, known = align.refine_mapper(moved, source, "a red " + target[2:], released=released)
        theirs, known_too = align.refine_mapper(text, source, "a red " + target[2:], released=released)
        assert torch.equal(known, known_too[1:])
        assert torch.equal(torch.where(mapper < 0, mapper, mapper + 1), theirs[1:])
