"""The reading and comparing of golden cases, on made-up ones."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conformance.golden import COMMITTED, Case, Tolerance, cases_folder, compare, discover, least_of_each_kind
from tests.conformance.test_conformance import chosen, parameters


def make_case(folder: Path, tensors: dict[str, Tensor], tolerance: Any, outputs: list[str] | None = None) -> Case:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "tensors.safetensors")
    description = {
        "system": folder.parent.name,
        "case": folder.name,
        "kind": "made-up",
        "outputs": dict.fromkeys(outputs if outputs is not None else tensors, "?"),
        "tolerance": tolerance,
    }
    (folder / "case.json").write_text(json.dumps(description))
    return Case.read(folder / "case.json")


def problems(case: Case, results: dict[str, Tensor]) -> dict[str, str]:
    return {comparison.output: comparison.problem for comparison in compare(case, results) if comparison.problem}


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in discover(COMMITTED)])
def test_a_committed_case_passes_on_its_own_outputs(case: Case) -> None:
    golden = {name: case.tensors[name] for stored in case.outputs.values() for name in stored}
    initial = {f"initial_{name}": torch.zeros_like(golden[name]) for name in golden}
    comparisons = compare(case, golden | initial)
    assert {comparison.output for comparison in comparisons} == set(case.outputs)
    assert [str(comparison) for comparison in comparisons if comparison.problem] == []
    assert any(comparison.tolerance.stated for comparison in comparisons)

    # an error of one per cent is outside every tolerance that stands in a case
    for output, stored in case.outputs.items():
        floats = {name: golden[name] * 1.01 for name in stored if golden[name].is_floating_point()}
        if any(value.any() for value in floats.values()):
            assert output in problems(case, golden | initial | floats)


def test_forms_of_tolerance(tmp_path: Path) -> None:
    tensors = {name: torch.ones(2) for name in ("a", "b", "c_d", "e", "f")} | {
        "count": torch.ones(2, dtype=torch.int32)
    }
    number = make_case(tmp_path / "s" / "number", tensors, 1e-3)
    assert number.tolerance("a") == number.tolerance("count") == Tolerance("relative-l2", 1e-3)

    table = make_case(
        tmp_path / "s" / "table",
        tensors,
        {
            "relative_l2_a_and_b": {"fed with its own": 1e-4, "fed with golden": {"a": 2e-3, "b": 2e-4}},
            "relative_l2_of_c_d_minus_initial": 5e-4,
            "e": 1e-2,
            "count": "exact",
            "why": "words that mention 1e-1",
        },
    )
    assert table.tolerance("a") == table.tolerance("b") == Tolerance("relative-l2", 1e-4)
    assert table.tolerance("c_d") == Tolerance("relative-l2", 5e-4, minus_initial=True)
    assert table.tolerance("e") == Tolerance("relative-l2", 1e-2)
    assert table.tolerance("count") == Tolerance("exact", 0.0)
    assert table.tolerance("f") == Tolerance("relative-l2", 1e-2, stated=False)
    with pytest.raises(KeyError, match="lists no output 'g'"):
        table.tolerance("g")

    exact = make_case(tmp_path / "s" / "exact", tensors, {"exact": "integers exactly; fractions to 1e-6"})
    assert exact.tolerance("a") == Tolerance("absolute", 1e-6)


@pytest.mark.parametrize("form", ["1e-4", {"relative_l2_z": 1e-4}, {"z": 1e-4}, {"why": "no bound"}, {"a": {"b": "c"}}])
def test_an_unknown_form_of_tolerance_is_an_error(tmp_path: Path, form: Any) -> None:
    case = make_case(tmp_path / "s" / "c", {"a": torch.ones(2)}, form)
    with pytest.raises(ValueError, match="tolerance"):
        case.tolerance("a")


def test_outputs_in_many_tensors(tmp_path: Path) -> None:
    tensors = {"grad.x": torch.ones(3), "grad.y": torch.ones(2), "map_00": torch.ones(2), "map_11": torch.ones(2)}
    case = make_case(tmp_path / "s" / "c", tensors, 1e-3, ["grad.*", "map_NN"])
    assert case.outputs == {"grad.*": ("grad.x", "grad.y"), "map_00": ("map_00",), "map_11": ("map_11",)}
    assert problems(case, tensors | {"map_11": torch.zeros(2)}) == {"map_11": "too far off"}

    # one concatenated vector of norm sqrt(5), not each tensor by itself
    slightly = tensors | {"grad.y": torch.tensor([1.0, 1.0 + 0.9e-3 * math.sqrt(5)])}
    assert problems(case, slightly) == {}
    assert problems(case, slightly | {"grad.y": torch.tensor([1.0, 1.0 + 1.1e-3 * math.sqrt(5)])}) == {
        "grad.*": "too far off"
    }
    with pytest.raises(ValueError, match="output 'missing' has no tensor"):
        _ = make_case(tmp_path / "s" / "d", tensors, 1e-3, ["missing"]).outputs


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    golden = {"a": torch.ones(2, 2), "count": torch.tensor([1, 2]), "free": torch.ones(2), "empty": torch.ones(0)}
    tolerance = {"a": 1e-3, "count": "exact", "empty": 1e-3}
    case = make_case(tmp_path / "s" / "c", golden, tolerance)

    assert problems(case, golden) == {}
    assert problems(case, {name: golden[name] for name in ("a", "count", "empty")}) == {}
    assert problems(case, golden | {"free": torch.ones(2) * 1.01}) == {"free": "too far off"}
    assert problems(case, golden | {"a": torch.ones(2, 2) * (1 + 5e-4)}) == {}
    assert problems(case, golden | {"a": torch.ones(4)}) == {"a": "a is (4,), not (2, 2)"}
    assert problems(case, golden | {"a": torch.full((2, 2), math.nan)}) == {"a": "a holds NaN or infinity"}
    assert problems(case, golden | {"count": torch.tensor([1, 3])}) == {"count": "too far off"}
    assert problems(case, golden | {"empty": torch.ones(1)}) == {"empty": "empty is (1,), not (0,)"}
    del golden["a"]
    assert problems(case, golden) == {"a": "the runner does not return a"}


def test_the_change_is_compared_where_the_case_says_so(tmp_path: Path) -> None:
    initial, golden = torch.full((4,), 100.0), torch.full((4,), 101.0)
    case = make_case(tmp_path / "s" / "c", {"embeds": golden}, {"relative_l2_of_embeds_minus_initial": 1e-2})
    near, far = golden + 0.5e-2, golden + 2e-2  # both within 1e-3 of the whole embedding
    assert problems(case, {"embeds": near, "initial_embeds": initial}) == {}
    assert problems(case, {"embeds": far, "initial_embeds": initial}) == {"embeds": "too far off"}
    assert problems(case, {"embeds": near}) == {"embeds": "the runner does not return initial_embeds"}


def test_a_tensor_changed_by_a_runner_is_read_as_it_is_stored(tmp_path: Path) -> None:
    case = make_case(tmp_path / "s" / "c", {"a": torch.ones(2, 3)}, 1e-3)
    assert case.tensors.shape("a") == (2, 3)
    case.tensors["a"].zero_()
    assert case.tensors["a"].sum() == 6
    with pytest.raises(KeyError, match=r"no tensor 'b' in .*; it holds: a"):
        case.tensors["b"]


def test_a_result_may_be_a_function(tmp_path: Path) -> None:
    golden = torch.ones(2)
    case = make_case(tmp_path / "s" / "c", {"a": golden}, 1e-3)
    assert problems(case, {"a": lambda: golden}) == {}
    assert problems(case, {"a": lambda: golden * 1.01}) == {"a": "too far off"}


def test_the_folder_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SFUMATO_CONFORMANCE", raising=False)
    assert cases_folder() == COMMITTED
    monkeypatch.setenv("SFUMATO_CONFORMANCE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no case\.json below"):
        discover(cases_folder())
    make_case(tmp_path / "some-system" / "some-case", {"a": torch.ones(1)}, 1e-3)
    assert [case.id for case in discover(cases_folder())] == ["some-system-made-up-some-case"]


def left_out() -> set[str]:
    """Names of the cases that `make test` leaves out."""
    return {str(parameter.id) for parameter in parameters() if parameter.marks}


def test_make_test_keeps_a_case_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SFUMATO_CONFORMANCE", raising=False)
    every, (whole, first_steps) = discover(COMMITTED), chosen()
    assert {case.id for case in every} - {case.id for case in whole} == left_out()
    kept = [*whole, *first_steps]
    assert sorted((case.system, case.kind) for case in kept) == sorted({(case.system, case.kind) for case in every})
    assert 0 < len(first_steps) < len(whole) < len(every)


def test_the_case_of_a_kind_that_costs_least_is_kept(tmp_path: Path) -> None:
    large = make_case(tmp_path / "s" / "a", {"a": torch.ones(9)}, 1e-3)
    small = make_case(tmp_path / "s" / "b", {"a": torch.ones(2)}, 1e-3)
    other = make_case(tmp_path / "t" / "c", {"a": torch.ones(99)}, 1e-3)
    assert least_of_each_kind([large, small, other], lambda case: case.size) == [small, other]


def test_of_a_named_folder_every_case_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        make_case(tmp_path / "s" / name, {"a": torch.ones(2)}, 1e-3)
    monkeypatch.setenv("SFUMATO_CONFORMANCE", str(tmp_path))
    assert len(parameters()) == 2
    assert left_out() == set()
    assert chosen()[1] == []


def test_a_damaged_case_is_named(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        Case.read(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="lacks case, kind, outputs, system, tolerance"):
        Case.read(path)


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ({}, "tiny-sd"),
        ({"model": "tiny-flux"}, "tiny-flux"),
        ({"model": "tiny-sd (tokenizer only)"}, "tiny-sd"),
        ({"model": None}, None),
        ({"model": "two networks in this folder"}, None),
    ],
)
def test_the_model_that_a_case_names(tmp_path: Path, stated: dict[str, Any], name: str | None) -> None:
    description = {"system": "s", "case": "c", "kind": "k", "outputs": {}, "tolerance": 0.1, **stated}
    (tmp_path / "case.json").write_text(json.dumps(description))
    assert Case.read(tmp_path / "case.json").model == name
