"""A benchmark as the runner sees it: cases, and how one of them is run under one configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from math import isfinite, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

from sfumato.options import Option

if TYPE_CHECKING:
    from PIL import Image

    from sfumato.models.base import Model
    from sfumato.watch import Watch

Direction = Literal["higher", "lower", "none"]
Steps = Annotated[int | None, Option("denoising steps of every case; none: the model's own choice", low=1)]
Seed = Annotated[int, Option("seed of every case", low=0, high=2**63 - 1)]


@dataclass(frozen=True)
class Measure:
    """A column of figures.

    Attributes:
        name: Key in the rows.
        title: For people, with the unit.
        better: "higher" or "lower"; "none": neither.
        help: What it is, in one sentence.
        axis: What it speaks for in the trade-off: "edit" (did it take), "keep" (was the rest kept), or "".
        digits: Decimals shown.
    """

    name: str
    title: str
    better: Direction
    help: str
    axis: Literal["edit", "keep", ""] = ""
    digits: int = 2

    def shown(self, value: float | None) -> str:
        """A figure as every table shows it: halves go up, as they do in the report (ECMAScript's `toFixed`)."""
        return shown_number(value, self.digits)


def shown_number(value: float | None, digits: int) -> str:
    """A number with so many decimals, halves rounded up; "–" for none."""
    if value is None or isnan(value):
        return "–"
    if not isfinite(value):
        return "∞" if value > 0 else "-∞"
    text = str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
    return text.removeprefix("-") if not float(text) else text


@dataclass(frozen=True)
class Configuration:
    """What is compared: a method, perhaps with an inversion and options.

    Attributes:
        method: Its name, or one of a benchmark's own reference rows ("unedited", "autoencoder").
        inversion: Its name; "": the method's first choice, or none.
        options: Of the method.
    """

    method: str
    inversion: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As rows and reports call it: `prompt-to-prompt`, `prompt-to-prompt/direct`, `sdedit{strength=0.6}`."""
        options = ",".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.method}{f'/{self.inversion}' if self.inversion else ''}{f'{{{options}}}' if options else ''}"


@dataclass(frozen=True)
class Bar:
    """A bound that a benchmark holds a run to.

    Attributes:
        kind: Of the cases that it is about; "": all.
        title: What is measured, for people, with the unit.
        value: As measured; None where it was not, or not as the bound asks.
        bound: Its limit.
        better: "higher": at least the bound is asked for; "lower": at most.
        digits: Decimals shown.
    """

    kind: str
    title: str
    value: float | None
    bound: float
    better: Direction
    digits: int = 2

    @property
    def met(self) -> bool | None:
        """None where nothing was measured."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.better == "higher" else self.value <= self.bound


@dataclass(frozen=True)
class Case:
    """One image and what is to be done to it.

    Attributes:
        name: Unique in the benchmark, safe as a file name.
        kind: For the breakdown ("style", "background").
        data: Whatever the benchmark needs to try it.
        title: For people.
    """

    name: str
    kind: str
    data: Any
    title: str = ""


@dataclass(frozen=True)
class Outcome:
    """What trying a case gave.

    Attributes:
        figures: By measure; None where it could not be measured (a network that is not there, an empty background).
        images: By role ("source", "result", "truth"); shown in the report.
        notes: Warnings worth keeping.
    """

    figures: Mapping[str, float | int | None]
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class NotApplicable(Exception):
    """The configuration cannot do what the case asks; the row says why, and counts neither for nor against it."""


class Benchmark(Protocol):
    """A set of cases, and how one is tried.

    Attributes:
        name: As `sfumato bench` takes it.
        title, about: For people; `about` names protocol, sources and what the figures can and cannot say.
        measures: Columns, the leading one first.
        settings: What the rows depend on besides model and configuration; a run is not continued under others.
        notes: What the user should know before the run, such as networks that are not on this computer.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def about(self) -> str: ...

    @property
    def measures(self) -> Sequence[Measure]: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def notes(self) -> Sequence[str]: ...

    def cases(self) -> Sequence[Case]:
        """All cases, in a fixed order; cheap."""

    def configurations(self, methods: Sequence[str], inversions: Sequence[str]) -> Sequence[Configuration]:
        """What is compared when the user names methods and inversions (empty: the benchmark's own choice).

        Raises:
            UsageError: A name is unknown, or no method takes an inversion that was asked for.
        """

    def prepare(self, model: Model) -> None:
        """Loads the judges, once a process."""

    def attempt(self, model: Model, case: Case, configuration: Configuration) -> Outcome:
        """Tries a case.

        Raises:
            NotApplicable: The configuration cannot do this case.
            SfumatoError: It failed; costs this row alone.
        """

    def summarise(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Mapping[str, float | None]:
        """Figures that only many results together have (FID).

        Args:
            rows: Of one configuration.
            folder: Of the run, which the images' paths start from.
        """


@runtime_checkable
class MakesFirst(Protocol):
    """A benchmark that has to make something before its first case, such as networks to compare."""

    def make(
        self, model: Model, folder: Path, watch: Watch, *, workers: int = 1, loading: Mapping[str, Any] | None = None
    ) -> None:
        """Makes what is missing, once a run, from the main process; other processes get the benchmark afterwards.

        Args:
            model: The one that is measured.
            folder: Of the run.
            watch: Progress and cancellation.
            workers: Processes that may work for it.
            loading: What the model was loaded with, by the names of `load_model`; needed by several workers.
        """


@runtime_checkable
class HasBars(Protocol):
    """A benchmark that knows what is asked for."""

    def bars(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Sequence[Bar]:
        """What is asked for, and what the rows of a run say to it.

        Args:
            rows: Of all configurations.
            folder: Of the run.
        """
