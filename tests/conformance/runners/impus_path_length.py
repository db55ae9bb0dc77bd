"""IMPUS: its measure of smoothness, and the rule that chooses the adapter's rank."""

from math import exp, sin

import torch
from torch import Tensor

from sfumato.metrics.morph import lora_rank, perceptual_path_length
from sfumato.models.base import Model
from tests.conformance.golden import Case
from tests.conformance.registry import runner


@runner("impus", "path-length")
def path_length(case: Case, model: Model) -> dict[str, Tensor]:
    basis, alphas = case.tensors["basis"].double(), case.tensors["alphas"]
    low, high = case.parameters["discard_percentiles"]

    def morph(alpha: float) -> Tensor:
        picture = basis[0, 0] + alpha * basis[1, 0] + sin(3 * alpha) * basis[2, 0] + exp(5 * (alpha - 1)) * basis[0, 1]
        return torch.as_tensor(picture)

    found = perceptual_path_length(morph, mean_square, alphas, epsilon=case.parameters["epsilon"], discard=(low, high))
    return {"mean": torch.tensor(found.mean), "std": torch.tensor(found.std), "kept": found.kept}


@runner("impus", "rank-rule")
def rank_rule(case: Case, model: Model) -> dict[str, Tensor]:
    rows = zip(case.tensors["rppd"].float(), case.tensors["variance"].float(), strict=True)
    ranks = [lora_rank(as_written(rppd), (as_written(one), as_written(other))) for rppd, (one, other) in rows]
    return {"rank": torch.tensor(ranks).to(case.tensors["rank"].dtype)}


def mean_square(first: Tensor, second: Tensor) -> Tensor:
    """Stands for LPIPS in these cases."""
    return (first - second).square().mean(dim=(1, 2, 3))


def as_written(value: Tensor) -> float:
    """The shortest decimal that a stored float32 stands for: 0.9, not 0.8999999762, which falls on the other side."""
    return float(str(value.numpy()))


mean_square.name = "mean-square"  # type: ignore[attr-defined]
