"""Attention interpolation's choice of ratios, on curves that the case states."""

from typing import Any

import torch
from torch import Tensor

from sfumato.morphs.spacings.base import SPACINGS, even_weights
from sfumato.morphs.spacings.beta import Beta, explore
from sfumato.morphs.spacings.pair_distances import Ruler
from tests.conformance.formula import curve
from tests.conformance.golden import Case
from tests.conformance.registry import runner
from tests.curves import CurveDistance, WeightFrames


@runner("attention-interpolation", "beta-selection")
def beta_selection(case: Case, model: Any) -> dict[str, Tensor]:
    outputs = {}
    for name, table in case.parameters["tables"].items():
        law = Beta(table["alpha"], table["beta"])
        outputs[f"quantiles_{name}"] = doubles([law.quantile(share) for share in even_weights(table["size"])])
    for name, stated in case.parameters["explorations"].items():
        apart = CurveDistance(curve(stated["feature"], "t"), one_less_cosine)
        initial = (float(stated["initial_alpha"]), float(stated["initial_beta"]))
        found = explore(Ruler(WeightFrames(), apart), stated["exploration_size"], initial)
        chosen = SPACINGS["beta"](
            WeightFrames(), apart, stated["interpolation_size"], exploration=stated["exploration_size"], initial=initial
        )
        outputs[f"drawn_{name}"] = doubles(found.drawn)
        outputs[f"fits_{name}"] = doubles([(fit.alpha, fit.beta) for fit in found.fits]).reshape(-1, 2)
        outputs[f"positions_{name}"] = doubles(found.weights)
        outputs[f"distances_{name}"] = doubles(found.distances)
        outputs[f"selected_{name}"] = doubles(chosen.weights)
    return outputs


def one_less_cosine(first: Tensor, second: Tensor) -> Tensor:
    return 1.0 - torch.cosine_similarity(first, second, dim=-1)


def doubles(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
