"""Every golden case, against the authors' numbers. `SFUMATO_CONFORMANCE=FOLDER` runs other cases of the same kinds.

`make conformance` runs all of them to their end. `make test` runs the quickest committed case of each kind: to its end,
or its first steps where a step takes seconds, or some of its runs (`first_steps.py`). Of a folder that you name, both
run every case to its end.
"""

from typing import Any

import pytest

from tests.conformance.first_steps import (
    compare_first_steps,
    cost,
    part_alone,
    steps_to_run,
    stopped_early,
    takes_long,
)
from tests.conformance.golden import (
    COMMITTED,
    Case,
    Comparison,
    cases_folder,
    compare,
    discover,
    least_of_each_kind,
)
from tests.conformance.registry import find_runner

# Systems whose methods are still to come. Every kind of any other system has a runner.
PLANNED: set[str] = set()


def chosen() -> tuple[list[Case], list[Case]]:
    """The cases that `make test` runs: to their end, and their first steps or some of their runs."""
    cases = discover(cases_folder())
    if cases_folder() != COMMITTED:
        return cases, []
    whole, shortened = [], []
    for case in least_of_each_kind(cases, cost):
        run = find_runner(case.system, case.kind)
        short = takes_long(case) or (run is not None and run.in_part)
        (shortened if short else whole).append(case)
    return whole, shortened


def parameters() -> list[Any]:
    """All cases, those marked that `make test` does not run to their end."""
    kept = {case.id for case in chosen()[0]}
    cases = discover(cases_folder())
    return [pytest.param(case, id=case.id, marks=[] if case.id in kept else pytest.mark.thorough) for case in cases]


@pytest.mark.parametrize("case", parameters())
def test_case(case: Case, request: pytest.FixtureRequest) -> None:
    run = find_runner(case.system, case.kind)
    if run is None and case.system in PLANNED:
        pytest.skip("a method to come: no runner yet")  # the same words, so that the summary has one line for all
    assert run is not None, f"no runner for {case.system}, {case.kind}"

    model: Any = request.getfixturevalue("conformance_model")(case.model)  # not before: a skipped case needs none
    judge(case, compare(case, run(case, model)))


@pytest.mark.first_steps
@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in chosen()[1]])
def test_first_steps(case: Case, conformance_model: Any) -> None:
    run = find_runner(case.system, case.kind)
    assert run is not None, f"no runner for {case.system}, {case.kind}"
    model, steps = conformance_model(case.model), steps_to_run(case)
    if takes_long(case):
        with stopped_early(steps, inversions=run.short_inversion):
            judge(case, compare_first_steps(case, run(case, model), steps))
    else:
        with part_alone():
            judge(case, compare(case, run(case, model)))


def judge(case: Case, comparisons: list[Comparison]) -> None:
    print(*comparisons, sep="\n")
    wrong = [str(comparison) for comparison in comparisons if comparison.problem]
    assert not wrong, "\n".join([case.id, *wrong])
    assert comparisons, f"{case.id}: nothing was compared"
