"""Every golden case, against the authors' numbers. `SFUMATO_CONFORMANCE=FOLDER` runs other cases of the same kinds.

`make conformance` runs all of them. `make test` leaves out those marked `thorough`: committed cases for which there is
a smaller one of the same kind. Of a folder that you name, both run every case.
"""

from typing import Any

import pytest

from tests.conformance.golden import COMMITTED, Case, cases_folder, compare, discover, smallest_of_each_kind
from tests.conformance.registry import find_runner

# Systems whose methods are still to come. Every kind of any other system has a runner.
PLANNED = {
    "chord-edit",
    "delta-denoising",
    "dnaedit",
    "few-step-schedules",
    "fireflow",
    "flow-edit-epsilon",
    "flow-model",
    "flow-morph",
    "flow-sampling",
    "flowalign",
    "flowedit",
    "renoise",
    "rf-inversion",
    "rf-solver",
    "turbo-edit",
    "uniedit-flow",
    "virtual-inversion",
    "vital-layers",
}


def parameters() -> list[Any]:
    """All cases, those marked that `make test` leaves out."""
    cases = discover(cases_folder())
    kept = smallest_of_each_kind(cases) if cases_folder() == COMMITTED else cases
    return [pytest.param(case, id=case.id, marks=[] if case in kept else pytest.mark.thorough) for case in cases]


@pytest.mark.parametrize("case", parameters())
def test_case(case: Case, request: pytest.FixtureRequest) -> None:
    run = find_runner(case.system, case.kind)
    if run is None and case.system in PLANNED:
        pytest.skip("a method to come: no runner yet")  # the same words, so that the summary has one line for all
    assert run is not None, f"no runner for {case.system}, {case.kind}"

    model: Any = request.getfixturevalue("conformance_model")  # not before: a skipped case needs none
    comparisons = compare(case, run(case, model))

    print(*comparisons, sep="\n")
    wrong = [str(comparison) for comparison in comparisons if comparison.problem]
    assert not wrong, "\n".join([case.id, *wrong])
    assert comparisons, f"{case.id}: nothing was compared"
