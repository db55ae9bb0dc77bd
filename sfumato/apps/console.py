"""What every command shares: where words go, how errors end a command, and quiet libraries.

Results go to stdout; progress, notes, warnings and errors to stderr, so that `--json` has stdout for itself.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import typer

from sfumato.apps.stopping import stoppable
from sfumato.errors import SfumatoError, UsageError
from sfumato.files import caches_without_home

if TYPE_CHECKING:
    from rich.console import Console

    from sfumato.api.cost import Cost

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

FAILED, WRONG_USAGE = 1, 2

_PACKAGE = str(Path(__file__).parents[1])
_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_said: set[str] = set()
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "unable to allocate")


def command(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Makes a function a command: our errors become one line and an exit code, our warnings short notes."""

    @functools.wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        if not debugging():
            for name, value in _QUIET.items():
                os.environ.setdefault(name, value)
        with stoppable() as stop:
            try:
                caches_without_home()
                with warnings_as_notes():
                    return function(*args, **kwargs)
            except (typer.Exit, BrokenPipeError):
                raise
            except KeyboardInterrupt:
                _end("stopped", stop.code)
            except UsageError as error:
                _end(str(error), WRONG_USAGE)
            except SfumatoError as error:
                _end(str(error), FAILED)
            except Exception as error:  # noqa: BLE001 - whatever it is, a user gets words and the way to more of them
                if stop.number is not None:  # libraries wrap what is raised while they are imported
                    _end("stopped", stop.code)
                _end(_unexpected(error), FAILED)

    return run


def debugging() -> bool:
    """Whether the user asked for tracebacks and the libraries' own messages, by SFUMATO_DEBUG=1."""
    return os.environ.get("SFUMATO_DEBUG", "") not in ("", "0")


def stdout() -> Console:
    """The console of results."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def stderr() -> Console:
    """The console of everything else."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str, style: str = "", *, label: str = "", to: Console | None = None) -> None:
    """Writes one line as it is: no markup is read from it, and it is not broken."""
    from rich.text import Text

    line = Text.assemble((f"{label}: ", f"bold {style}") if label else "", (plain(text), "" if label else style))
    (to or stderr()).print(line, soft_wrap=True)


def note(text: str) -> None:
    """Something the user should know, on stderr; said once a command."""
    if text not in _said:
        _said.add(text)
        say(text, "yellow", label="note")


def plain(text: str) -> str:
    """Text on one line, with control characters made visible: it may come from a file of somebody else."""
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)


def print_json(value: Any) -> None:
    """Writes one JSON object to stdout; infinity and what JSON does not know become null and text.

    Whatever stdout cannot say, such as a file name that is not UTF-8, is escaped as JSON does it.
    """
    text = json.dumps(_finite(value), default=str, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(_finite(value), default=str)
    typer.echo(text)


def cost_fields(cost: Cost) -> dict[str, float]:
    """A cost for `--json`."""
    return {"evaluations": cost.evaluations, "seconds": round(cost.seconds, 3), "peak_memory": cost.peak_memory}


def comes_back(reconstruction_psnr: float, ceiling_psnr: float) -> str:
    """The reconstruction PSNR, beside the best that the model's autoencoder allows."""
    if math.isinf(ceiling_psnr):
        return "exact (the source was generated, not inverted)"
    if math.isnan(ceiling_psnr):
        known = "not known" if math.isnan(reconstruction_psnr) else f"PSNR {reconstruction_psnr:.2f} dB"
        return f"{known} (the inversion does not hold its image)"
    return f"PSNR {reconstruction_psnr:.2f} dB (the autoencoder alone: {ceiling_psnr:.2f} dB)"


def table(rows: list[tuple[str, str]], *, to: Console | None = None) -> None:
    """Writes two columns, the first in bold."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(name, "bold"), Text(plain(value)))
    (to or stdout()).print(grid)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner while something takes its time, on terminals only."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    from rich.text import Text

    with console.status(Text(plain(what))):
        yield


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Shows our own warnings as notes, each once, and keeps those of other libraries away (unless debugging)."""
    _said.clear()

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        if debugging() or (category is UserWarning and filename.startswith(_PACKAGE)):
            note(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


def _unexpected(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _OUT_OF_MEMORY):
        return f"out of memory ({text}); use a smaller image (--size), fewer targets, or --dtype fp16"
    if isinstance(error, OSError) and error.strerror:
        return text
    return f"unexpected {text} (SFUMATO_DEBUG=1 shows where; please report it)"


def _end(message: str, code: int) -> NoReturn:
    if debugging():
        traceback.print_exc(file=sys.stderr)
    say(message, "red", label="error")
    raise typer.Exit(code)
