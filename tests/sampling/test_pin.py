"""A pinned source has its known latents before every call, or after every step; the other branches stay free."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.errors import InversionError
from sfumato.inversions.result import Inversion
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.sampling.pin import PinSource

TIMESTEPS = (751, 501, 251, 1)


def known() -> Inversion:
    trajectory = torch.randn(5, 2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    return Inversion("given", trajectory[-1], TIMESTEPS, trajectory=trajectory)


def test_the_source_is_set_before_each_call_and_after_each_step(toy_model: Any) -> None:
    source, seen = known(), []
    pin = PinSource(source.latents_at, 0, len(TIMESTEPS))

    def look(latents: Tensor, step: Any) -> Tensor:
        seen.append((latents, step))
        return latents

    condition = toy_model.encode_prompt(["a cat", "a dog"])
    branches = {name: Branch(condition[[k]]) for k, name in enumerate(("source", "target"))}
    before = sample(toy_model, source.noise, branches, timesteps=TIMESTEPS, before_step=[pin, look])
    assert [step.time for _, step in seen] == list(TIMESTEPS)
    assert all(torch.equal(latents[0], source.latents_at(step.index)) for latents, step in seen)
    assert not torch.equal(before[0], source.clean)  # the last step denoises

    seen.clear()
    after = sample(toy_model, source.noise, branches, timesteps=TIMESTEPS, on_step=[pin.after, look])
    assert all(torch.equal(latents[0], source.latents_at(step.index + 1)) for latents, step in seen)
    assert torch.equal(after[0], source.clean)
    free = sample(toy_model, source.noise, branches, timesteps=TIMESTEPS)
    assert torch.equal(after[1], free[1])


def test_missing_latents_are_found_before_the_run() -> None:
    with pytest.raises(InversionError, match="no latents before step 6 of 4"):
        PinSource(known().latents_at, 0, 5)
