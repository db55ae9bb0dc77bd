"""DiffMorpher's rescheduled sampling, from distances that the case gives."""

from typing import Any

import torch
from torch import Tensor

from sfumato.morphs.spacings.base import even_weights
from sfumato.morphs.spacings.reschedule import reschedule
from tests.conformance.golden import Case
from tests.conformance.registry import runner


@runner("diffmorpher", "reschedule")
def rescheduled(case: Case, model: Any) -> dict[str, Tensor]:
    outputs = {}
    for name, sizes in case.parameters["lists"].items():
        measured = case.tensors[f"distances_{name}"].double().tolist()
        weights = reschedule(measured, even_weights(sizes["frames_measured"]), sizes["frames_wanted"])
        outputs[f"alphas_{name}"] = torch.tensor(weights, dtype=torch.float64)
    return outputs
