"""Negative-prompt inversion: guidance cancels in the source, on every family, and leads away from it in the target."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.negative_prompt import negative_prompt_inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.inversions.test_deterministic import MODELS, SOURCE, clean
from tests.inverting import inverted


def replay(
    model: Any, found: Any, prompt: str, scale: float, negative: str | None = None, given: bool = True
) -> Tensor:
    branch = Branch(
        model.encode_prompt(prompt), None if negative is None else model.encode_prompt(negative), guidance_scale=scale
    )
    return sample(
        model, found.noise, {"x": branch}, timesteps=found.timesteps, replay=found if given else None
    )[0]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_any_guidance_replays_as_guidance_one(name: str, request: Any) -> None:
    """SDXL's pooled embedding is exchanged with the rest: without it the two would differ."""
    model = request.getfixturevalue(name)
    found = negative_prompt_inversion(
        InversionTask(model, clean(2), model.encode_prompt(SOURCE), num_inference_steps=4)
    )
    plain = ddim_inversion(InversionTask(model, clean(2), model.encode_prompt(SOURCE), num_inference_steps=4))
    assert torch.equal(found.noise, plain.noise)
    unguided = replay(model, plain, SOURCE, 1.0)
    torch.testing.assert_close(replay(model, found, SOURCE, 7.5), unguided, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(replay(model, plain, SOURCE, 7.5), unguided, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", MODELS)
def test_the_source_prompt_is_the_negative_prompt(name: str, request: Any) -> None:
    model = request.getfixturevalue(name)
    found = negative_prompt_inversion(InversionTask(model, clean(), model.encode_prompt(SOURCE), num_inference_steps=4))
    named = replay(model, found, "a dog", 3.0, negative=SOURCE, given=False)
    torch.testing.assert_close(replay(model, found, "a dog", 3.0), named)


def test_a_negative_prompt_of_the_user_is_not_swallowed(toy_model: Any, recwarn: Any) -> None:
    condition = toy_model.encode_prompt(SOURCE)
    options: dict[str, Any] = {"num_inference_steps": 2}
    inverted(negative_prompt_inversion, toy_model, clean(), condition, negative=toy_model.encode_prompt(""), **options)
    assert not [w for w in recwarn if "negative prompt is not used" in str(w.message)]
    with pytest.warns(UserWarning, match="negative prompt is not used.*'direct'"):
        inverted(
            negative_prompt_inversion, toy_model, clean(), condition, negative=toy_model.encode_prompt("red"), **options
        )
