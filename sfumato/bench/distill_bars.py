"""What is asked for of a distilled edit, and what a run of the benchmark says to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.bench.benchmark import Bar
from sfumato.bench.rows import figure
from sfumato.distillation.distilled import load_card

LONG = 50
"""Steps of the edit that a student is held against."""
PAIRS, CORES = 400, 2
"""With as many pairs, and on so many cores at most, the minutes are asked for."""


def bars_of(kind: str, teacher: Mapping[str, Any], student: Mapping[str, Any], file: Path) -> list[Bar]:
    """What is asked for of one edit; rows by case."""
    shared = [case for case in student if case in teacher]

    def means(measure: str) -> tuple[float | None, float | None]:
        """Of the teacher and the student."""
        of_teacher, of_student = ([figure(rows[case], measure) for case in shared] for rows in (teacher, student))
        return _mean(of_teacher), _mean(of_student)

    (near, far), (there, seen) = means("target_distance"), means("edit_seen")
    further = None if near is None or far is None else far - near
    share = None if not there or seen is None else seen / there
    card = load_card(file) if file.is_file() else None
    own = {} if card is None else card.figures
    as_asked = card is not None and card.pairs_made >= PAIRS and 0 < own.get("cores", 0) <= CORES
    alone, faster = (
        _mean([figure(row, name) for row in student.values()]) for name in ("milliseconds", "times_faster")
    )
    return [
        Bar(
            kind, f"minutes for {PAIRS} pairs and training, on {CORES} cores",
            own.get("minutes") if as_asked else None, 25, "lower", 1,
        ),
        Bar(kind, "distance to the truth, beyond the teacher's", further, 0.03, "lower", 3),
        Bar(kind, "edit seen by the judge, as a share of the teacher's", share, 0.9, "higher"),
        Bar(kind, "ms an image, on one thread", alone, 10, "lower", 1),
        Bar(kind, f"times faster than an edit of {LONG} steps, on one thread", faster, 200, "higher", 0),
        Bar(kind, "MB of the file", file.stat().st_size / 1e6 if file.is_file() else None, 5, "lower", 1),
    ]  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    """Of the figures that are there; None: there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
