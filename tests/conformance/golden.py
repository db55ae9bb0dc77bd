"""Reads golden cases and compares results with them.

A case is a folder `SYSTEM/CASE/` with `case.json` (what was computed, from what, how close a result must come) and
`tensors.safetensors` (every input and output). Nothing here knows any single case.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

COMMITTED = Path(__file__).parent / "cases"

PREFIX = "relative_l2_"

Measure = Literal["relative-l2", "absolute", "exact"]


@dataclass(frozen=True)
class Tolerance:
    """How close one output must come.

    Attributes:
        measure: `relative-l2`: ‖out − golden‖ / ‖golden‖ over the whole output. `absolute`: the largest difference of
            an entry. `exact`: every entry equal. Integers are always compared exactly, whatever stands here.
        bound: Largest allowed value of the measure.
        minus_initial: The norm in the denominator is that of the golden output's change since it was initialised,
            because the change is what a method computes. The runner then returns the start too, as `initial_NAME`.
        stated: Whether the case gives this output a tolerance. An output without one need not be returned; where it is,
            it is held to the loosest bound of its case.
    """

    measure: Measure
    bound: float
    minus_initial: bool = False
    stated: bool = True


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when asked for and not kept."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._shapes:
            raise KeyError(f"no tensor {name!r} in {self._path}; it holds: {', '.join(sorted(self._shapes))}")
        tensor: Tensor = self._file.get_tensor(name)
        return tensor.clone()  # what is given is memory of the file, the same at the next look

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one, read without its numbers."""
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    @cached_property
    def _file(self) -> Any:
        return safe_open(self._path, framework="pt")  # mapped, not read: opening it for each tensor takes longer

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(self._file.get_slice(name).get_shape()) for name in sorted(self._file.keys())}


@dataclass(frozen=True)
class Case:
    """One golden case.

    Attributes:
        folder: Where it lies; a case may keep further files there, such as the weights of its own networks.
        description: All of `case.json`.
        tensors: Inputs, random draws and outputs by name, read from disk at each look.
    """

    folder: Path
    description: Mapping[str, Any]
    tensors: StoredTensors

    @classmethod
    def read(cls, path: Path) -> "Case":
        """Reads a `case.json`; raises ValueError naming the file when it is not one."""
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        missing = {"system", "case", "kind", "outputs", "tolerance"} - set(description)
        if missing:
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
        return cls(path.parent, description, StoredTensors(path.parent / "tensors.safetensors"))

    @property
    def system(self) -> str:
        return str(self.description["system"])

    @property
    def case(self) -> str:
        return str(self.description["case"])

    @property
    def kind(self) -> str:
        return str(self.description["kind"])

    @property
    def id(self) -> str:
        return f"{self.system}-{self.kind}-{self.case}"

    @property
    def size(self) -> int:
        """Bytes of its tensors: the larger, the longer a case takes, more or less."""
        return (self.folder / "tensors.safetensors").stat().st_size

    @property
    def model(self) -> str | None:
        """Folder of its model, beside the cases; None: it needs none, or brings its own."""
        stated = re.match(r"tiny-[\w.-]+", str(self.description.get("model", "tiny-sd")))
        return None if stated is None else stated[0]

    @property
    def prompts(self) -> Any:
        return self.description.get("prompts")

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.description.get("parameters", {})

    @property
    def num_steps(self) -> int:
        """Steps of its runs; 0 where it has no grid of timesteps."""
        if "timesteps" in self.tensors:
            return self.tensors.shape("timesteps")[0]
        return len(self.parameters.get("timesteps", ()))

    @cached_property
    def outputs(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the stored tensors of each listed output.

        Most outputs are one tensor. `NAME.*` is one output in many tensors, compared as if concatenated; `NAME_NN`
        stands for as many outputs as there are numbers, none included, and each is listed here by itself.
        """
        outputs: dict[str, tuple[str, ...]] = {}
        for listed in self.description["outputs"]:
            if listed in self.tensors:
                outputs[listed] = (listed,)
                continue
            pattern = re.escape(listed).replace(r"\*", ".+")
            pattern = re.sub(r"(?<=_)NN\b", r"\\d+", pattern)
            stored = tuple(name for name in self.tensors if re.fullmatch(pattern, name))
            if not stored and pattern == re.escape(listed):
                raise ValueError(f"{self.folder}: output {listed!r} has no tensor")
            outputs.update({listed: stored} if stored and "*" in listed else {name: (name,) for name in stored})
        return outputs

    def tolerance(self, output: str) -> Tolerance:
        """How close an output must come. The forms that cases use:

        - a number: relative L2, for every output;
        - `{"exact": ...}`: integers exactly, fractions to the absolute bound named in the text;
        - `{OUTPUT: number or "exact"}`;
        - `{"relative_l2_A": number}`, also `relative_l2_A_and_B` for two outputs, `relative_l2_of_A_minus_initial`, and
          a table of bounds by what was fed in instead of the number, of which the tightest holds. Bounds of outputs
          that the case does not list are passed over.

        Raises:
            KeyError: The case lists no such output.
            ValueError: The tolerance has a form that is not among these.
        """
        if output not in self.outputs:
            raise KeyError(f"{self.id} lists no output {output!r}; it lists: {', '.join(self.outputs)}")
        stated = self._stated_tolerances
        if output in stated:
            return stated[output]
        loosest = max((known.bound for known in stated.values() if known.measure == "relative-l2"), default=0.0)
        return Tolerance("relative-l2", loosest, stated=False)

    @cached_property
    def _stated_tolerances(self) -> Mapping[str, Tolerance]:
        form = self.description["tolerance"]
        if _is_number(form):
            return dict.fromkeys(self.outputs, Tolerance("relative-l2", float(form)))
        if not isinstance(form, Mapping):
            raise ValueError(f"{self.folder}: tolerance {form!r} is neither a number nor a table")

        tolerances: dict[str, Tolerance] = {}
        for key, value in form.items():
            minus_initial = key.endswith("_minus_initial")
            names = self._outputs_named_by(key)
            if key == "exact":
                tolerances = dict.fromkeys(self.outputs, Tolerance("absolute", _number_in(str(value)))) | tolerances
            elif names and value == "exact":
                tolerances |= dict.fromkeys(names, Tolerance("exact", 0.0))
            elif names and (bounds := list(_numbers(value))):
                tolerances |= dict.fromkeys(names, Tolerance("relative-l2", min(bounds), minus_initial))
            elif not isinstance(value, str) and not key.startswith(PREFIX):
                raise ValueError(f"{self.folder}: tolerance {key!r} names no output, or gives no bound: {value!r}")
        if not tolerances:
            raise ValueError(f"{self.folder}: tolerance {form!r} gives no output a bound")
        return tolerances

    def _outputs_named_by(self, key: str) -> list[str]:
        if key in self.outputs:
            return [key]
        if not key.startswith(PREFIX):
            return []
        name = key.removeprefix(PREFIX).removeprefix("of_").removesuffix("_minus_initial")
        return [listed for listed in {name, *name.split("_and_")} if listed in self.outputs]


@dataclass(frozen=True)
class Comparison:
    """One output against its golden value; `problem` says what is wrong, and is empty when nothing is."""

    output: str
    tolerance: Tolerance
    error: float | None = None
    problem: str = ""

    def __str__(self) -> str:
        error = "-" if self.error is None else f"{self.error:.2e}"
        verdict = self.problem or "ok"
        return f"{self.output}: {self.tolerance.measure} {error}, allowed {self.tolerance.bound:.0e}: {verdict}"


def cases_folder() -> Path:
    """The folder that SFUMATO_CONFORMANCE names; the committed cases when it is not set."""
    named = os.environ.get("SFUMATO_CONFORMANCE")
    return Path(named).expanduser().resolve() if named else COMMITTED


def discover(root: Path) -> list[Case]:
    """Every case below `root`, sorted; a folder without any is an error, so that no run passes by finding nothing."""
    cases = [Case.read(path) for path in sorted(root.rglob("case.json"))]
    if not cases:
        raise FileNotFoundError(f"no case.json below {root}")
    return cases


def least_of_each_kind(cases: Iterable[Case], cost: Callable[[Case], Any]) -> list[Case]:
    """One case of each kind, the one that costs least."""
    least: dict[tuple[str, str], Case] = {}
    for case in sorted(cases, key=cost):
        least.setdefault((case.system, case.kind), case)
    return list(least.values())


def compare(case: Case, results: Mapping[str, Any]) -> list[Comparison]:
    """Compares what a runner returned with every output that the case lists.

    A result may be a function without arguments that gives the tensor: it is called where the tensor is compared.
    """
    return [comparison for output in case.outputs if (comparison := compare_output(case, output, results)) is not None]


def compare_output(
    case: Case, output: str, results: Mapping[str, Any], *, at_least: int | None = None
) -> Comparison | None:
    """Compares one output; None where the runner does not return it and need not.

    Args:
        case: Where the golden values are.
        output: Name of the output.
        results: What the runner returned.
        at_least: The result of a run that stopped early may end early too, after this many entries of the first axis
            or more; it is compared with the same entries. None: it has all.
    """
    tolerance, stored = case.tolerance(output), case.outputs[output]
    missing = [name for name in stored if name not in results]
    if len(missing) == len(stored) and not tolerance.stated:
        return None
    if missing:
        return Comparison(output, tolerance, problem=f"the runner does not return {', '.join(missing[:3])}")

    differences, sizes = [], []
    for name in stored:
        golden, result = case.tensors[name], _computed(results, name)
        if at_least is not None and result.ndim and len(result) >= at_least:
            golden = golden[: len(result)]
        if result.shape != golden.shape:
            return Comparison(output, tolerance, problem=f"{name} is {tuple(result.shape)}, not {tuple(golden.shape)}")
        if not result.isfinite().all():
            return Comparison(output, tolerance, problem=f"{name} holds NaN or infinity")
        if not golden.is_floating_point():
            tolerance = Tolerance("exact", 0.0, stated=tolerance.stated)
        size = golden
        if tolerance.minus_initial:
            if f"initial_{name}" not in results:
                return Comparison(output, tolerance, problem=f"the runner does not return initial_{name}")
            size = golden.double() - _computed(results, f"initial_{name}").double()
        differences.append((result.double() - golden.double()).flatten())
        sizes.append(size.double().flatten())

    error = _error(torch.cat(differences), torch.cat(sizes), tolerance.measure)
    return Comparison(output, tolerance, error, "" if error <= tolerance.bound else "too far off")


def _computed(results: Mapping[str, Any], name: str) -> Tensor:
    result = results[name]
    return torch.as_tensor(result() if callable(result) else result).detach().cpu()


def _error(difference: Tensor, size: Tensor, measure: Measure) -> float:
    if measure == "relative-l2":
        # against zeros, or nothing at all, the difference itself
        return float(difference.norm() / (size.norm() if size.any() else 1.0))
    return float(difference.abs().max()) if difference.numel() else 0.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: object) -> Iterator[float]:
    if _is_number(value):
        yield float(value)  # type: ignore[arg-type]
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _numbers(entry)


def _number_in(text: str) -> float:
    found = re.search(r"\d+(\.\d+)?e-\d+|0?\.\d+", text)
    return float(found.group()) if found else 0.0
