"""The first steps of cases: which cases, where runs stop, what is compared."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.watch import Watch
from tests.conformance.first_steps import (
    compare_first_steps,
    cost,
    is_part,
    part_alone,
    steps_of_run,
    steps_to_run,
    stopped_early,
    takes_long,
)
from tests.conformance.golden import Case
from tests.conformance.test_golden import make_case


def case_of(folder: Path, side: int, steps: int = 8) -> Case:
    tensors = {
        "timesteps": torch.arange(steps),
        "latents_per_step": torch.ones(steps, 2, 4, side, side),
        "trajectory": torch.ones(steps + 1, 4, side, side),
        "final": torch.ones(2, 4, side, side),
    }
    return make_case(folder / "s" / f"{side}", tensors, 1e-3, [name for name in tensors if name != "timesteps"])


def problems(case: Case, results: dict[str, Any]) -> dict[str, str]:
    return {found.output: found.problem for found in compare_first_steps(case, results, 3)}


def test_cases_with_steps_at_large_latents_take_long(tmp_path: Path) -> None:
    assert takes_long(case_of(tmp_path, 64))
    assert takes_long(case_of(tmp_path, 32))
    assert not takes_long(case_of(tmp_path, 16))
    no_run = make_case(tmp_path / "s" / "one", {"noise": torch.ones(1, 4, 64, 64)}, 1e-3)
    assert not takes_long(no_run)


def test_a_control_that_starts_later_acts_once_and_steps_of_inner_steps_are_fewer(tmp_path: Path) -> None:
    case = case_of(tmp_path, 16)
    late = replace(case, description={**case.description, "parameters": {"start_step": 4}})
    assert (steps_to_run(case), steps_to_run(late)) == (2, 5)
    assert [steps_to_run(case_of(tmp_path, side)) for side in (32, 64)] == [2, 1]
    tuned = replace(case, description={**case.description, "parameters": {"num_inner_steps": 3}})
    assert steps_to_run(tuned) == 1


def test_of_long_cases_the_one_with_the_fewest_steps_to_run_costs_least(tmp_path: Path) -> None:
    short, long = case_of(tmp_path, 16), case_of(tmp_path, 64)
    late = replace(long, description={**long.description, "parameters": {"start_step": 4}})
    more = case_of(tmp_path / "more", 64, steps=9)
    assert cost(short) < cost(long) < cost(more) < cost(late)


def test_of_cases_that_tune_the_one_whose_first_steps_make_the_fewest_updates_costs_least(tmp_path: Path) -> None:
    def tuned(name: str, updates: list[int]) -> Case:
        tensors = {"timesteps": torch.arange(2), "latents": torch.ones(2, 4, 64, 64)}
        tensors["inner_iterations"] = torch.tensor(updates, dtype=torch.int32)
        return make_case(tmp_path / "s" / name, tensors, 1e-3, ["latents", "inner_iterations"])

    assert cost(tuned("stops-early", [1, 5])) < cost(tuned("does-not", [3, 3]))


def test_first_steps_are_compared_and_the_end_of_the_run_is_not(tmp_path: Path) -> None:
    case = case_of(tmp_path, 16)

    def never() -> Tensor:
        raise AssertionError("the end of a run that was stopped early is asked for")

    def results(steps: int, value: float = 1.0) -> dict[str, Any]:
        latents = torch.ones(steps, 2, 4, 16, 16)
        latents[steps - 1] = value
        return {"latents_per_step": latents, "trajectory": torch.ones(9, 4, 16, 16), "final": never}

    good = {"latents_per_step": "", "trajectory": ""}
    assert problems(case, results(3)) == problems(case, results(8)) == good
    assert problems(case, results(3, 1.01)) == good | {"latents_per_step": "too far off"}
    short = "latents_per_step is (2, 2, 4, 16, 16), not (8, 2, 4, 16, 16)"
    assert problems(case, results(2)) == good | {"latents_per_step": short}
    missing = {"trajectory": torch.ones(9, 4, 16, 16)}
    assert problems(case, missing) == good | {"latents_per_step": "the runner does not return latents_per_step"}


def test_some_runs_are_enough_inside_the_block_alone() -> None:
    with part_alone():
        assert is_part()
    assert not is_part()


def test_sampling_stops_early_and_inversions_only_where_asked() -> None:
    with stopped_early(3):
        assert list(Watch().over(range(8))) == [0, 1, 2]
        assert list(Watch().during("inverting").over(range(8))) == list(range(8))
        assert (steps_of_run(8), steps_of_run(2)) == (3, 2)
    with stopped_early(3, inversions=True):
        assert list(Watch().during("inverting").over(range(8))) == [0, 1, 2]
    assert list(Watch().over(range(8))) == list(range(8))
