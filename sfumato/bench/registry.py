"""The benchmarks by name; adding one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from sfumato.bench.benchmark import Benchmark
from sfumato.errors import UsageError
from sfumato.options import Option
from sfumato.parameters import Parameter
from sfumato.registry import unknown


def _emoji_edit() -> type[Benchmark]:
    from sfumato.bench.emoji_edit import EmojiEdit

    return EmojiEdit


def _pie() -> type[Benchmark]:
    from sfumato.bench.pie import PieBench

    return PieBench


def _translation() -> type[Benchmark]:
    from sfumato.bench.translation import Translation

    return Translation


def _zero_shot() -> type[Benchmark]:
    from sfumato.bench.zero_shot import ZeroShot

    return ZeroShot


def _morphs() -> type[Benchmark]:
    from sfumato.bench.morphs import Morphs

    return Morphs


def _distill() -> type[Benchmark]:
    from sfumato.bench.distill import Distill

    return Distill


BENCHMARKS: dict[str, tuple[Callable[[], type[Benchmark]], str]] = {
    "emoji-edit": (
        _emoji_edit,
        "200 edits of emoji scenes, most with a known exact answer; any method, any inversion.",
    ),
    "pie": (_pie, "PIE-Bench, 700 images with masks, from --data; measured by --protocol pie-2023 or strict."),
    "translation": (_translation, "Unpaired translation between drawing styles, or between the folders of --data."),
    "zero-shot": (_zero_shot, "Edits with several seeds a case, the best kept by a judge; of emoji, or of --data."),
    "distill": (_distill, "Edits of scenes in one network call: three students, beside their teacher and the truth."),
    "morphs": (_morphs, "Morphs between 24 pairs of emoji, or those of --data; --inversions names spacings."),
}
"""Name to what loads its class, and what it is in one line."""


def make_benchmark(name: str, /, *, texts: dict[str, str] | None = None, **options: Any) -> Benchmark:
    """A benchmark by name.

    Args:
        name: A key of `BENCHMARKS`.
        texts: Options as the command line gives them, as text.
        options: Of the benchmark: `steps` and `seed` of all; `data`, a folder, of those that read one.

    Raises:
        UsageError: There is no such benchmark, it does not take such an option, or not such a value.
    """
    if name not in BENCHMARKS:
        raise UsageError(unknown("benchmark", name, BENCHMARKS))
    kind = BENCHMARKS[name][0]()
    known = benchmark_parameters(kind)
    given = options | (texts or {})
    if foreign := [option for option in given if option not in known]:
        raise UsageError(f"{name} does not take these options: {', '.join(foreign)}; it takes {', '.join(known)}")
    checked = {option: known[option].check(value) for option, value in options.items()}
    return kind(**checked | {option: known[option].parse(text) for option, text in (texts or {}).items()})


def benchmark_parameters(kind: type[Any]) -> dict[str, Parameter]:
    """The options of a benchmark: the fields of its class that it is made with."""
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for field in fields(kind):
        if field.init:
            hint = hints[field.name]
            bare, option = get_args(hint)[:2] if get_origin(hint) is Annotated else (hint, Option(""))
            found[field.name] = Parameter(field.name, bare, field.default, option.help, option.low, option.high)
    return found
