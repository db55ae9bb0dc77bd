"""The files that a command writes to: named where the user names none, and checked before any work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sfumato.errors import UsageError
from sfumato.files import at_home


def outputs(first: Path, count: int = 1) -> list[Path]:
    """The files that `count` images go to: NAME, NAME-2, NAME-3."""
    from sfumato.api.results import numbered_paths

    return numbered_paths(first, count)


def free_name(stem: str, suffix: str, count: int = 1) -> Path:
    """A name in the current folder made of the words of `stem`, of which no output is there yet."""
    name = "-".join(re.findall(r"\w+", stem.lower()))[:60] or "sfumato"
    tries = (Path(f"{name}{'' if k == 1 else f'-v{k}'}{suffix}") for k in range(1, 10_000))
    return next(path for path in tries if not any(other.exists() for other in outputs(path, count)))


def choose_output(
    asked: Path | None, stem: str, suffix: str, *, count: int = 1, inputs: Iterable[Path | None] = ()
) -> Path:
    """The output asked for, or a free name in the current folder; checked to be writable, and to be no input.

    Raises:
        UsageError: An input would be overwritten.
        ImageError: It cannot be written.
    """
    from sfumato.images import check_writable

    if asked is None:
        asked = free_name(stem, suffix, count)
    asked = at_home(asked)
    for path in outputs(asked, count):
        check_writable(path, **({} if suffix == ".png" else {"extensions": [suffix]}))
        for given in inputs:
            if given is not None and path.exists() and given.exists() and path.samefile(given):
                raise UsageError(f"{path} is an input and would be overwritten; choose another name with -o")
    return asked


def choose_outputs(
    asked: Path | None, stems: Sequence[str], what: str, *, count: int = 1, inputs: Sequence[Path | None] = ()
) -> list[Path]:
    """A file for each input, named STEM-WHAT.png, in the folder asked for; for a single one, the name asked for.

    Args:
        asked: A file, or for several inputs a folder that exists; None: the current folder.
        stems: Names of the inputs without their endings.
        what: What is done to them.
        count: Images for each.
        inputs: Files that must not be overwritten.

    Raises:
        UsageError: Two results would have one name, an input would be overwritten, or a file is asked for, for several.
        ImageError: One cannot be written.
    """
    if asked is not None and len(stems) == 1 and (asked.suffix or not asked.is_dir()):  # NAME.png is meant as a file
        return [choose_output(asked, "", ".png", count=count, inputs=inputs)]
    if asked is not None and not asked.is_dir():
        raise UsageError(f"-o must be a folder that exists, for {len(stems)} images; got {asked}")
    doubled = {stem for stem in stems if stems.count(stem) > 1}
    if asked is not None and doubled:
        raise UsageError(f"two images are called {doubled.pop()}: their results would have one name in {asked}")
    paths: list[Path] = []
    for stem in stems:
        path = None if asked is None else asked / f"{stem}-{what}.png"
        path = choose_output(path, f"{stem}-{what}", ".png", count=count, inputs=inputs)
        if path in paths:
            raise UsageError(f"two images are called {stem}: name the results one by one with -o")
        paths.append(path)
    return paths
