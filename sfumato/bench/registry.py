"""The benchmarks by name; adding one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sfumato.bench.benchmark import Benchmark
from sfumato.errors import UsageError
from sfumato.registry import unknown


def _emoji_edit(**options: Any) -> Benchmark:
    from sfumato.bench.emoji_edit import EmojiEdit

    return EmojiEdit(**options)


def _pie(**options: Any) -> Benchmark:
    from sfumato.bench.pie import PieBench

    return PieBench(**options)


def _translation(**options: Any) -> Benchmark:
    from sfumato.bench.translation import Translation

    return Translation(**options)


def _zero_shot(**options: Any) -> Benchmark:
    from sfumato.bench.zero_shot import ZeroShot

    return ZeroShot(**options)


def _morphs(**options: Any) -> Benchmark:
    from sfumato.bench.morphs import Morphs

    return Morphs(**options)


BENCHMARKS: dict[str, tuple[Callable[..., Benchmark], str]] = {
    "emoji-edit": (_emoji_edit, "200 edits of emoji with an exact answer: any method, any inversion."),
    "pie": (_pie, "PIE-Bench: 700 pictures with masks, from --data; --protocol pie-2023 or strict."),
    "translation": (_translation, "Unpaired translation between drawing styles, or between the folders of --data."),
    "zero-shot": (_zero_shot, "Editing with several trials a case, the judge's favourite kept; emoji, or --data."),
    "morphs": (_morphs, "Morphs between 24 pairs of emoji, or those of --data; --inversions names the spacings."),
}
"""Name to how it is made, and what it is in one line."""


def make_benchmark(name: str, **options: Any) -> Benchmark:
    """A benchmark by name.

    Args:
        name: A key of `BENCHMARKS`.
        options: Of the benchmark: `steps` and `seed` of all; `data`, a folder, of those that read one.

    Raises:
        UsageError: There is no such benchmark, or it does not take such an option.
    """
    if name not in BENCHMARKS:
        raise UsageError(unknown("benchmark", name, BENCHMARKS))
    try:
        return BENCHMARKS[name][0](**options)
    except TypeError as error:
        raise UsageError(f"{name} does not take these options ({error})") from error
