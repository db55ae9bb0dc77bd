"""Means, ranks, and when a difference is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sfumato.bench.benchmark import Measure
from sfumato.bench.statistics import Change, compare, shared_cases, summarise
from tests.bench.small import MEASURES


def rows(errors: list[float | None], configuration: str = "whole") -> list[dict[str, Any]]:
    return [
        {
            "case": f"{k}",
            "kind": "all",
            "configuration": configuration,
            "status": "done",
            "figures": {"error": error, "kept": None},
        }
        for k, error in enumerate(errors)
    ]


def test_means_leave_gaps_out_and_rank_by_the_first_measure() -> None:
    better, worse, empty = rows([1.0, None, 2.0], "a"), rows([3.0, 3.0, 3.0], "b"), rows([None] * 3, "c")
    first, second, third = summarise([*worse, *empty, *better], MEASURES)
    assert (first.configuration, first.means["error"], first.counts["error"]) == ("a", 1.5, 2)
    assert second.means["error"] == 3.0
    assert third.means["error"] is None


def test_finds_an_improvement_and_its_size() -> None:
    generator = np.random.default_rng(0)
    old = generator.normal(5.0, 1.0, 60)
    (change,) = compare(rows((old - 0.5 + generator.normal(0, 0.1, 60)).tolist()), rows(old.tolist()), MEASURES)
    assert change.verdict == "better"
    assert change.low < -0.5 < change.high < 0
    assert change.difference == pytest.approx(-0.5, abs=0.05)
    assert change.high - change.low == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(60), rel=0.2)


def test_noise_is_no_change() -> None:
    generator = np.random.default_rng(1)
    old, new = generator.normal(5.0, 1.0, (2, 60))
    (change,) = compare(rows(new.tolist()), rows(old.tolist()), MEASURES)
    assert change.verdict == "same"


def test_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        old = generator.normal(0.0, 1.0, 40)
        new = old + generator.normal(0.3, 1.0, 40)
        (change,) = compare(rows(new.tolist()), rows(old.tolist()), MEASURES, resamples=400)
        covered += change.low <= 0.3 <= change.high
    assert 0.88 <= covered / 200 <= 0.99


def test_compares_the_cases_that_both_have() -> None:
    (change,) = compare(rows([1.0, 2.0]), rows([1.0, 2.0, 30.0]), MEASURES)
    assert (change.cases, change.difference, change.verdict) == (2, 0.0, "same")
    assert compare(rows([1.0], "new"), rows([1.0], "old"), MEASURES) == []


def test_means_are_held_against_one_another_on_the_same_cases() -> None:
    both = [*rows([1.0, 9.0], "a"), *rows([2.0, None], "b")]
    both[-1]["status"] = "not applicable"
    assert [row["case"] for row in shared_cases(both)] == ["0", "0"]
    assert [one.means["error"] for one in summarise(shared_cases(both), MEASURES)] == [1.0, 2.0]


def no_difference(kind: str, generator: np.random.Generator, cases: int) -> tuple[list[float], list[float]]:
    """Two runs of the same thing."""
    match kind:
        case "normal":
            shared = generator.normal(5, 3, cases)
            return (shared + generator.normal(0, 1, (2, cases))).tolist()  # type: ignore[return-value]
        case "heavy tails":
            return generator.standard_t(2, (2, cases)).tolist()  # type: ignore[return-value]
        case "skewed":
            return np.exp(generator.normal(0, 1, (2, cases))).tolist()  # type: ignore[return-value]
        case _:
            return (generator.random((2, cases)) < 0.5).astype(float).tolist()  # type: ignore[return-value]


@pytest.mark.parametrize("cases", [10, 20, 40])
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "skewed", "yes or no"])
def test_five_in_a_hundred_verdicts_are_wrong_and_no_more(kind: str, cases: int) -> None:
    generator, runs = np.random.default_rng(cases), 800
    wrong = 0
    for _ in range(runs):
        old, new = no_difference(kind, generator, cases)
        (change,) = compare(rows(new), rows(old), MEASURES, resamples=1000)
        wrong += change.verdict in ("better", "worse")
    assert wrong / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


@pytest.mark.parametrize("cases", [1, 2, 3, 9])
def test_fewer_than_ten_cases_give_no_verdict(cases: int) -> None:
    old = [5.0] * cases
    for difference in (1e-6, 0.5, 100.0):
        (change,) = compare(rows([value - difference for value in old]), rows(old), MEASURES)
        assert (change.verdict, change.cases) == ("too few", cases)
    (ten,) = compare(rows([4.0] * 10), rows([5.0] * 10), MEASURES)
    assert ten.verdict == "better"


def test_differences_that_no_table_shows_are_none() -> None:
    def change(difference: float, better: str, digits: int) -> Change:
        old = np.linspace(1, 2, 40)
        measure = Measure("error", "error", better, "How wrong.", digits=digits)  # type: ignore[arg-type]
        (found,) = compare(rows((old + difference).tolist()), rows(old.tolist()), [measure])
        return found

    assert change(-1e-6, "lower", 2).verdict == "same"
    assert change(-1e-6, "lower", 2).high < 0  # however sure it is
    assert change(-0.004, "lower", 2).verdict == "same"
    assert change(-0.006, "lower", 2).verdict == "better"
    assert change(-0.004, "lower", 3).verdict == "better"
    assert change(-0.4, "higher", 0).verdict == "same"
    assert change(-0.6, "higher", 0).verdict == "worse"
    assert change(-0.6, "none", 0).verdict == "same"
