"""Every golden case, against the authors' numbers. `SFUMATO_CONFORMANCE=FOLDER` runs other cases of the same kinds."""

from typing import Any

import pytest

from tests.conformance.golden import Case, cases_folder, compare, discover
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
    "flow-schedule",
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


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in discover(cases_folder())])
def test_case(case: Case, request: pytest.FixtureRequest) -> None:
    run = find_runner(case.system, case.kind)
    if run is None and case.system in PLANNED:
        pytest.skip(f"no runner yet: {case.system}")  # one line in the summary for each system
    assert run is not None, f"no runner for {case.system}, {case.kind}"

    model: Any = request.getfixturevalue("conformance_model")  # not before: a skipped case needs none
    comparisons = compare(case, run(case, model))

    print(*comparisons, sep="\n")
    wrong = [str(comparison) for comparison in comparisons if comparison.problem]
    assert not wrong, "\n".join([case.id, *wrong])
    assert comparisons, f"{case.id}: nothing was compared"
