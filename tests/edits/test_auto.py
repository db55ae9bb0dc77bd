"""The automatic choice: what it tries, how it chooses, and that its score tells a better edit."""

from typing import Any

import pytest
import torch

from sfumato.edits.auto import TRIES, auto, knee
from sfumato.edits.method import METHODS
from sfumato.errors import UsageError
from sfumato.inversions.result import Inversion
from tests.edits.tasks import edit_by


def start(model: Any) -> Inversion:
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return Inversion("drawn", noise, tuple(model.schedule.timesteps(3)))


def run(model: Any, **options: Any) -> Any:
    given = {"source_prompt": "a photo of a cat", "target_prompts": ["a photo of a dog"], "guidance_scale": 3.0}
    return edit_by(auto, model, start(model), generator=torch.Generator().manual_seed(1), **(given | options))


def test_the_chosen_candidate_is_the_knee(toy_model: Any) -> None:
    result = run(toy_model, tries=3)
    assert len(result.candidates) == 3
    index = knee([c.change for c in result.candidates], [c.agreement for c in result.candidates])
    assert torch.equal(result.latents[1], result.candidates[index].latents)
    for candidate in result.candidates:
        moved = (candidate.latents - result.latents[0]).norm() / result.latents[0].norm()
        assert candidate.change == pytest.approx(float(moved), rel=1e-3)


def test_two_are_tried_even_without_time(toy_model: Any) -> None:
    assert len(run(toy_model, seconds=0.0).candidates) == 2


def test_knee() -> None:
    # much change for little more agreement loses against most of the agreement for little change
    assert knee([0.1, 0.2, 1.0], [0.1, 0.8, 1.0]) == 1
    assert knee([0.1, 0.5], [-0.2, -0.1]) == 1  # nothing took: the one that took most
    assert knee([0.0, 0.0], [0.1, 0.2]) == 1


def test_every_try_names_a_method_and_its_options() -> None:
    for attempt in TRIES:
        assert METHODS[attempt.method].check_options(attempt.options) == dict(attempt.options)


def test_one_target_only(toy_model: Any) -> None:
    with pytest.raises(UsageError, match="one target prompt, got 2"):
        run(toy_model, target_prompts=["a cat", "a dog"])
