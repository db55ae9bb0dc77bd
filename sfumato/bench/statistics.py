"""Means of runs, and whether one run is better than another: a paired bootstrap over the cases that both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sfumato.bench.benchmark import Measure
from sfumato.bench.rows import by_configuration, figure

RESAMPLES = 10_000
CONFIDENCE = 0.95
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Summary:
    """One configuration's means.

    Attributes:
        configuration: Its name.
        means: By measure; None where no row has a figure.
        counts: Rows that have a figure, by measure.
        done, errors, skipped: Rows by how they ended.
    """

    configuration: str
    means: Mapping[str, float | None]
    counts: Mapping[str, int]
    done: int
    errors: int
    skipped: int


def summarise(rows: Rows, measures: Sequence[Measure]) -> list[Summary]:
    """Means of each configuration, the best by the first measure first; without a figure last."""
    found = []
    for name, own in by_configuration([dict(row) for row in rows]):
        figures = {measure.name: _figures(own, measure.name) for measure in measures}
        found.append(
            Summary(
                name,
                {key: float(np.mean(values)) if values else None for key, values in figures.items()},
                {key: len(values) for key, values in figures.items()},
                sum(row["status"] == "done" for row in own),
                sum(row["status"] == "error" for row in own),
                sum(row["status"] == "not applicable" for row in own),
            )
        )
    leading = measures[0]
    sign = -1.0 if leading.better == "higher" else 1.0

    def rank(summary: Summary) -> tuple[bool, float]:
        mean = summary.means[leading.name]
        return mean is None, 0.0 if mean is None else sign * mean

    return sorted(found, key=rank)


def shared_cases(rows: Rows) -> list[Mapping[str, Any]]:
    """Without the cases that some configuration cannot do: on these alone can means be held against one another."""
    left_out = {row["case"] for row in rows if row["status"] == "not applicable"}
    return [row for row in rows if row["case"] not in left_out]


def _figures(rows: Rows, name: str) -> list[float]:
    return [value for row in rows if (value := figure(row, name)) is not None]


@dataclass(frozen=True)
class Change:
    """A measure of one configuration in two runs, on the cases that both have.

    Attributes:
        configuration, measure: Which.
        old, new: Means.
        difference: new - old.
        low, high: Its bootstrap confidence interval.
        cases: How many cases.
        verdict: "better" or "worse" where the interval excludes 0 and the measure has a direction; else "same".
    """

    configuration: str
    measure: str
    old: float
    new: float
    difference: float
    low: float
    high: float
    cases: int
    verdict: Literal["better", "worse", "same"]


def compare(
    new: Rows, old: Rows, measures: Sequence[Measure], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Change]:
    """Compares two runs, configuration by configuration and measure by measure.

    The interval is the percentile bootstrap of the mean difference over cases, 95 %: cases are drawn with replacement,
    each with both of its figures (Efron & Tibshirani, 1993, chapter 13).

    Args:
        new, old: Rows of the two runs.
        measures: What is compared.
        resamples: Bootstrap draws.
        seed: Of the draws.
    """
    changes = []
    for name in dict.fromkeys(row["configuration"] for row in new):
        then = {row["case"]: row for row in old if row["configuration"] == name}
        pairs = [(row, then[row["case"]]) for row in new if row["configuration"] == name and row["case"] in then]
        for measure in measures:
            both = [(figure(a, measure.name), figure(b, measure.name)) for a, b in pairs]
            known = np.array([(a, b) for a, b in both if a is not None and b is not None], dtype=float)
            known = known[np.isfinite(known).all(axis=1)] if len(known) else known
            if len(known):
                changes.append(_change(name, measure, known, resamples, seed))
    return changes


def _change(name: str, measure: Measure, known: Any, resamples: int, seed: int) -> Change:
    differences = known[:, 0] - known[:, 1]
    draws = np.random.default_rng(seed).integers(len(differences), size=(resamples, len(differences)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(differences[draws].mean(axis=1), [tail, 100 - tail])
    verdict: Literal["better", "worse", "same"] = "same"
    if measure.better != "none" and (low > 0 or high < 0):
        verdict = "better" if (low > 0) == (measure.better == "higher") else "worse"
    new, old = known.mean(axis=0)
    return Change(
        name,
        measure.name,
        float(old),
        float(new),
        float(differences.mean()),
        float(low),
        float(high),
        len(known),
        verdict,
    )
