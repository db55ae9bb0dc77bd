"""Steppers: the loop knows none by name, passes their state on, and draws for them only where they ask."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.schedules import Prediction, Step
from sfumato.sampling.bdia import BDIA
from sfumato.sampling.ddim import DDIM
from sfumato.sampling.ddpm import DDPM
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.sampling.stepper import Stepper
from tests.gaussian import GaussianModel, cosine_schedule


def drawn() -> Tensor:
    return torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Counting:
    """DDIM that counts its steps in its state and adds noise at every other one."""

    seen: list[tuple[int, bool]]

    def init(self, latents: Tensor, first: Step) -> int:
        assert latents.shape == (1, 2, 1, 4, 4)
        return 100 + first.index

    def stochastic(self, step: Step) -> bool:
        return step.index % 2 == 1

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: int, z: Tensor | None
    ) -> tuple[Tensor, int]:
        self.seen.append((state, z is not None))
        return DDIM().step(latents, prediction, step, None, None)[0], state + 1


def run(stepper: Stepper[Any], **options: Any) -> Tensor:
    model = GaussianModel(cosine_schedule())
    return sample(
        model, drawn(), {"x": Branch(model.encode_prompt("x"))}, num_inference_steps=6, stepper=stepper, **options
    )


def test_state_is_passed_from_step_to_step_and_draws_are_made_where_asked() -> None:
    stepper = Counting([])
    generator = torch.Generator().manual_seed(3)
    latents = run(stepper, start_index=2, generator=generator)
    assert stepper.seen == [(102, False), (103, True), (104, False), (105, True)]
    torch.testing.assert_close(latents, run(DDIM(), start_index=2), rtol=0.0, atol=0.0)

    left = torch.Generator().manual_seed(3)
    run(Counting([]), generator=left)
    assert not torch.equal(generator.get_state(), left.get_state())  # two draws, then three


def test_one_stepper_serves_several_runs() -> None:
    stepper = BDIA(0.9, torch.zeros(2, 1, 4, 4, dtype=torch.float64))
    assert torch.equal(run(stepper), run(stepper))


@pytest.mark.parametrize("stepper", [DDIM(), BDIA(0.9, torch.zeros(1))])
def test_deterministic_steppers_draw_nothing(stepper: Stepper[Any]) -> None:
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    run(stepper, generator=generator)
    assert torch.equal(generator.get_state(), state)


def test_ddpm_is_ddim_at_eta_one() -> None:
    def seeded(stepper: Stepper[Any]) -> Tensor:
        return run(stepper, generator=torch.Generator().manual_seed(3))

    torch.testing.assert_close(seeded(DDPM()), seeded(DDIM(eta=1.0)), rtol=0.0, atol=1e-12)


def test_eta_is_refused_before_any_network_call() -> None:
    model = GaussianModel(cosine_schedule())
    with pytest.raises(UsageError, match=r"eta must be in \[0, 1\], got 1.5"):
        sample(model, drawn(), {"x": Branch(model.encode_prompt("x"))}, num_inference_steps=6, eta=1.5)
    assert model.evaluations == 0
