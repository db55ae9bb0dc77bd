"""Means of runs, and whether one run is better than another on the cases that both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sfumato.bench.benchmark import Measure
from sfumato.bench.rows import by_configuration, figure

RESAMPLES = 10_000
CONFIDENCE = 0.95
LEAST_CASES = 10
"""Fewer cases give no verdict: a handful of differences has one sign by chance too often."""
Verdict = Literal["better", "worse", "same", "too few"]
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
        low, high: Its 95 % confidence interval.
        cases: How many cases.
        verdict: "better" or "worse" where the interval excludes 0, the difference is large enough to be seen at the
            digits that the measure is shown with, and the measure has a direction; "too few" below ten cases, unless
            the figures are equal in all of them; else "same".
    """

    configuration: str
    measure: str
    old: float
    new: float
    difference: float
    low: float
    high: float
    cases: int
    verdict: Verdict


def compare(
    new: Rows, old: Rows, measures: Sequence[Measure], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Change]:
    """Compares two runs, configuration by configuration and measure by measure.

    The interval holds the middle 95 % of the mean differences of random subsets of the cases, each case in or out by
    the toss of a coin. Where a difference is as likely upwards as downwards, as it is between runs that do not differ,
    such means fall on either side of the true one with exactly known chances, so a verdict is wrong in at most 5 % of
    comparisons of any number of cases. The percentile bootstrap, which it replaces, takes 12 % at ten cases.

    Reference: Hartigan, 1969, "Using subsample values as typical values", J. Am. Stat. Assoc. 64, theorem 1.

    Args:
        new, old: Rows of the two runs.
        measures: What is compared.
        resamples: Random subsets.
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
    low, high = _interval(differences, resamples, seed)
    new, old = known.mean(axis=0)
    return Change(
        name,
        measure.name,
        float(old),
        float(new),
        float(differences.mean()),
        low,
        high,
        len(known),
        _verdict(measure, differences, low, high),
    )


def _interval(differences: Any, resamples: int, seed: int) -> tuple[float, float]:
    chosen = np.random.default_rng(seed).random((resamples, len(differences))) < 0.5
    chosen = chosen[chosen.any(axis=1)]
    means = chosen @ differences / chosen.sum(axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    return float(np.percentile(means, tail, method="lower")), float(np.percentile(means, 100 - tail, method="higher"))


def _verdict(measure: Measure, differences: Any, low: float, high: float) -> Verdict:
    if not differences.any():
        return "same"
    if len(differences) < LEAST_CASES:
        return "too few"
    seen = abs(differences.mean()) >= 0.5 * 10.0**-measure.digits
    if measure.better == "none" or not seen or low <= 0 <= high:
        return "same"
    return "better" if (low > 0) == (measure.better == "higher") else "worse"
