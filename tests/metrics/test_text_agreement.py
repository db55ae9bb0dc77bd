"""Agreement of images with texts: closed forms on vectors whose angles are known."""

from math import cos, radians, sin

import pytest
import torch
from torch import Tensor

from sfumato.metrics import directional_agreement, text_agreement


def at(*degrees: float, length: float = 1.0) -> Tensor:
    return length * torch.tensor([[cos(radians(angle)), sin(radians(angle))] for angle in degrees])


def test_agreement_is_the_cosine_at_any_length() -> None:
    result = text_agreement(at(0, 60, 180, length=3.0), at(0, length=0.1))
    assert result.tolist() == pytest.approx([1.0, 0.5, -1.0], abs=1e-6)


def test_a_change_along_the_texts_counts_full_and_against_them_negative() -> None:
    texts = at(90), at(0)  # target, source
    source = at(10, length=2.0)
    assert float(directional_agreement(at(100, length=5.0), source, *texts)) == pytest.approx(
        cos(radians(10)), abs=1e-6
    )
    assert float(directional_agreement(at(-80), source, *texts)) == pytest.approx(sin(radians(-10)), abs=1e-6)
    assert float(directional_agreement(at(10), source, *texts)) == pytest.approx(0.0, abs=1e-6)


def test_the_changes_are_those_of_unit_features() -> None:
    """A longer feature of the same direction is no change."""
    texts, source = (at(90), at(0)), at(10)
    assert float(directional_agreement(at(40, length=9.0), source, *texts)) == pytest.approx(
        float(directional_agreement(at(40), source, *texts)), abs=1e-6
    )


def test_candidates_broadcast_over_pictures() -> None:
    candidates, source = torch.randn(5, 3, 8), torch.randn(3, 8)
    target, origin = torch.randn(3, 8), torch.randn(3, 8)
    whole = directional_agreement(candidates, source, target, origin)
    assert whole.shape == (5, 3)
    assert float(whole[4, 2]) == pytest.approx(
        float(directional_agreement(candidates[4, 2], source[2], target[2], origin[2])), abs=1e-6
    )


def test_features_of_two_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="one encoder, got 8 and 16"):
        text_agreement(torch.randn(1, 8), torch.randn(1, 16))
