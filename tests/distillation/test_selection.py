"""Pairs are kept by what the teacher did: enough, not too much, and what was asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfumato.distillation.pairs import Pairs, check_count, check_enough
from sfumato.distillation.selection import Limits, agreement_of, change_of, judged
from sfumato.errors import UsageError
from tests.distillation.toy_pairs import squares

TEXTS = ("red", "blue")


class ByColour:
    """An encoder whose space is the mean colour of an image."""

    name = "colour"

    def encode_image(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(2, 3))

    def encode_text(self, texts: list[str]) -> Tensor:
        known = {"red": (1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0), "white": (1.0, 1.0, 1.0)}
        return torch.tensor([known[text] for text in texts])


def spoilt() -> Pairs:
    """Six pairs: the first is unchanged, in the second another thing changed, the third is all noise."""
    pairs = squares(6)
    targets = pairs.targets.clone()
    targets[0] = pairs.sources[0]
    targets[1] = pairs.sources[1].flip(0)
    targets[1, 2] = 0
    targets[2] = torch.where(pairs.sources[2] < 128, 255, 0)
    return Pairs(pairs.names, pairs.sources, targets)


def test_what_is_wrong_with_a_pair_is_said() -> None:
    pairs = spoilt()
    psnrs = [None, None, None, 12.0, 30.0, float("inf")]
    limits = Limits(agreement=0.5, most_change=0.5)
    found = judged(pairs, [TEXTS] * 6, psnrs, limits, ByColour())
    reasons = [one.reason for one in found]
    assert reasons[0].startswith("hardly changed")
    assert reasons[1].startswith("another change")
    assert reasons[2].startswith("changed too much")
    assert reasons[3].startswith("bad reconstruction (12.0 dB)")
    assert reasons[4:] == ["", ""]
    assert found[4].agreement is not None
    assert found[4].agreement > 0.9


def test_the_share_that_is_kept_leaves_out_the_worst() -> None:
    pairs = squares(10)
    agreements = agreement_of(pairs, [TEXTS] * 10, ByColour())
    found = judged(pairs, [TEXTS] * 10, [None] * 10, Limits(keep=0.7), ByColour())
    out = {row for row, one in enumerate(found) if one.reason}
    assert out == set(agreements.argsort()[:3].tolist())
    assert not any(one.reason for one in judged(pairs, [TEXTS] * 10, [None] * 10, Limits(keep=0.7), None))


def test_a_teacher_that_changed_nothing_is_an_error() -> None:
    pairs = squares(6)
    still = Pairs(pairs.names, pairs.sources, pairs.sources)
    with pytest.raises(UsageError, match="the teacher changed nothing"):
        judged(still, [TEXTS] * 6, [None] * 6, Limits(), None)
    assert change_of(still, 0) == 0


def test_too_few_pairs_are_an_error_that_says_how_many_are_missing() -> None:
    check_count(32, [""] * 32)
    reasons = [""] * 20 + ["hardly changed (0.01)", "hardly changed (0.02)", "bad reconstruction (3.0 dB)"]
    said = "20 of 23 pairs can be used.* needs 32: give at least 12 more .* 2 hardly changed, 1 bad reconstruction"
    with pytest.raises(UsageError, match=said):
        check_count(20, reasons)


def test_too_few_images_for_what_is_kept_are_an_error_before_any_edit() -> None:
    check_enough(32, 1.0)
    check_enough(38, 0.85)
    for images, keep, words in ((30, 1.0, "30 different images to edit, and .* at least 2 more"), (34, 0.85, "4 more")):
        with pytest.raises(UsageError, match=words):
            check_enough(images, keep)


def test_held_out_pairs_follow_from_their_names() -> None:
    training, held_out = squares(40).split()
    assert (len(training), len(held_out)) == (36, 4)
    assert not set(training.names) & set(held_out.names)
    assert squares(40, seed=5).split()[1].names == held_out.names


def test_no_source_is_both_trained_on_and_held_out() -> None:
    pairs = squares(40)
    sources = pairs.sources[:20].repeat(2, 1, 1, 1)  # each with two results
    training, held_out = Pairs(pairs.names, sources, pairs.targets).split()
    assert (len(training), len(held_out)) == (36, 4)
    seen = {source.numpy().tobytes() for source in training.sources}
    assert not seen & {source.numpy().tobytes() for source in held_out.sources}
    one = Pairs(pairs.names, pairs.sources[:1].repeat(40, 1, 1, 1), pairs.targets)  # no way around it
    assert [len(part) for part in one.split()] == [36, 4]
