"""IMPUS's perceptually uniform sampling on curves that the case states."""

from typing import Any

import torch
from torch import Tensor

from sfumato.morphs.spacings.base import SPACINGS
from tests.conformance.formula import curve
from tests.conformance.golden import Case
from tests.conformance.registry import runner
from tests.curves import CurveDistance, WeightFrames


@runner("impus", "perceptually-uniform")
def perceptually_uniform(case: Case, model: Any) -> dict[str, Tensor]:
    outputs = {}
    for name, stated in case.parameters["cases"].items():
        settings = {**case.parameters, **stated}
        spaced = SPACINGS["step"](
            WeightFrames(),
            CurveDistance(curve(stated["curve"], "alpha")),
            stated.get("frames", 2),
            delta=settings["delta"],
            tolerance=settings["tolerance"],
            resolution=settings["quit"],
        )
        outputs[f"alphas_{name}"] = torch.tensor(spaced.weights, dtype=torch.float64)
        outputs[f"evaluated_{name}"] = torch.tensor(spaced.looked, dtype=torch.float64)
    return outputs
