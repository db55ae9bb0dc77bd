"""A benchmark of arithmetic, for tests of what serves all benchmarks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sfumato.bench.benchmark import Case, Configuration, Measure, NotApplicable, Outcome
from sfumato.errors import ImageError
from tests.gaussian import GaussianModel, cosine_schedule

MEASURES = (
    Measure("error", "error", "lower", "How wrong.", "edit"),
    Measure("kept", "kept, dB", "higher", "How much stayed.", "keep", 1),
)


@dataclass
class Small:
    """Case k has error k; "half" halves it. Case 3 is damaged, and "odd" does odd cases alone."""

    count: int = 8
    pause: float = 0.0
    attempts: str = ""
    name: str = "small"
    title: str = "A <small> benchmark"
    about: str = "Numbers & </script> `nothing` else."
    measures: tuple[Measure, ...] = MEASURES

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"count": self.count}

    def cases(self) -> Sequence[Case]:
        return [Case(f"{k:02d}", "odd" if k % 2 else "even", k, f"case <{k}>") for k in range(self.count)]

    def configurations(self, methods: Sequence[str], inversions: Sequence[str]) -> Sequence[Configuration]:
        return [Configuration(name) for name in methods or ("whole", "half")]

    def prepare(self, model: Any) -> None:
        pass

    def attempt(self, model: Any, case: Case, configuration: Configuration) -> Outcome:
        time.sleep(self.pause)
        if self.attempts:
            with Path(self.attempts).open("a") as file:
                file.write(f"{case.name} {configuration.name}\n")
        if case.data == 3:
            raise ImageError("image 3 is damaged")
        if configuration.method == "odd" and case.data % 2 == 0:
            raise NotApplicable("even")
        error = case.data * (0.5 if configuration.method == "half" else 1.0)
        pictures = {
            "source": Image.new("RGB", (8, 8), (10 * case.data, 0, 0)),
            "result": Image.new("RGB", (8, 8), (0, 10 * case.data, 0)),
            "truth": Image.new("RGB", (8, 8), (0, 0, 10 * case.data)),
        }
        return Outcome(
            {"error": error, "kept": float("inf") if error == 0 and configuration.method == "half" else 20.0 - error},
            pictures,
        )

    def summarise(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Mapping[str, float | None]:
        return {"cases done": float(sum(row["status"] == "done" for row in rows))}


class RevisedGaussian(GaussianModel):
    """A model of a revision that the test chooses."""

    def __init__(self, revision: str = "r1") -> None:
        super().__init__(cosine_schedule(64))
        self.revision = revision


def load() -> RevisedGaussian:
    return RevisedGaussian()
