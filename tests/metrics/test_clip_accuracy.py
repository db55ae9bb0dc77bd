"""CLIP accuracy and the scaled score, on vectors whose angles are known."""

import pytest
import torch

from sfumato.metrics import clip_accuracy, clip_score

TARGET, SOURCE = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])


def test_share_of_pictures_nearer_to_the_target() -> None:
    pictures = torch.tensor([[3.0, 1.0], [1.0, 3.0], [5.0, 0.1], [1.0, 1.0]])  # the last is a tie
    assert clip_accuracy(pictures, TARGET, SOURCE) == 0.5
    assert clip_accuracy(pictures, SOURCE, TARGET) == 0.25


def test_each_picture_may_have_its_texts() -> None:
    pictures = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.stack([TARGET, SOURCE])
    assert clip_accuracy(pictures, texts, texts.flip(0)) == 1.0


def test_score_is_a_hundred_times_the_cosine_and_never_negative() -> None:
    pictures = torch.tensor([[1.0, 1.0], [-1.0, 0.0]])
    assert clip_score(pictures, TARGET).tolist() == pytest.approx([100 * 0.5**0.5, 0.0])


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="count, dim"):
        clip_accuracy(torch.zeros(0, 2), TARGET, SOURCE)
    with pytest.raises(ValueError, match="one encoder"):
        clip_accuracy(torch.zeros(3, 4), TARGET, SOURCE)
