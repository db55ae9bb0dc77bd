"""Manifests: tables from outside, a row an edit or a morph, as CSV, JSON lines, YAML or Parquet.

A file that is no such table, or has a column that nothing knows, is refused as a whole, with its line. What a cell says
is not looked at here: the row becomes a request, which checks it (`sfumato.api.batch_items`).
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

from sfumato.api.request import PLACES, Request
from sfumato.api.requests import EditRequest, MorphRequest
from sfumato.checks import MAX_DEPTH
from sfumato.errors import ImageError, UsageError
from sfumato.images.reading import existing_file
from sfumato.json_input import MAX_BYTES, JsonError, check_values, read_json
from sfumato.registry import unknown

COMMANDS: Mapping[str, type[Request]] = {"edit": EditRequest, "morph": MorphRequest}
"""What a row may ask for; an edit where it says nothing."""
COLUMNS = (
    "command",
    "id",
    *dict.fromkeys(f.name for kind in COMMANDS.values() for f in fields(kind) if f.name not in PLACES),
)
PREFIXES = ("option.", "inversion_option.", "note:")
"""Before a name: an option of the method, one of the inversion, and what travels through to the result."""
ALIASES = {"init_img": "image", "target_prompts": "target_prompt"}
"""As other programs, and the JSON of requests, spell columns."""
STDIN = "-"

MAX_LINES = 1_000_000
MAX_YAML_BYTES = 10_000_000

_TEXTS = {"command", "id", "image", "source_prompt", "method", "inversion", "inverted", "negative_prompt", "fit"}
_TEXTS |= {"mask", "spacing", "distance"}
_SEVERAL = {"target_prompt", "prompts", "images", "mask_words"}


@dataclass(frozen=True)
class Line:
    """A row of a manifest.

    Attributes:
        number: Its line, or the number of its entry where the format knows no lines; from 1.
        values: By column, those of an option among them; what is empty is missing.
    """

    number: int
    values: Mapping[str, Any]


def is_manifest(path: Path) -> bool:
    """Whether a name is that of a manifest, by its ending."""
    return str(path) == STDIN or path.suffix.lower() in _READERS


def read_manifest(path: Path) -> list[Line]:
    """Reads a manifest, of the format that its name ends in; `-` is JSON lines from the standard input.

    Raises:
        UsageError: It is missing, empty, no such table, or has a column that is not known; names file and line.
    """
    try:
        if str(path) == STDIN:
            lines = list(_limited(path, _json_lines(path, sys.stdin.buffer)))
        else:
            with existing_file(path).open("rb") as file:
                lines = list(_limited(path, _READERS[path.suffix.lower()](path, file)))
    except ImageError as error:  # what is there is no file
        raise UsageError(f"no manifest: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if not lines:
        raise UsageError(f"{path} has no rows: there is nothing to do")
    return lines


def _limited(path: Path, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Line]:
    """The rows with their columns checked and spelt as ours, without what is empty."""
    known: dict[Any, str] = {}
    for number, row in rows:
        if number > MAX_LINES:
            raise UsageError(f"{path} has more than {MAX_LINES} rows: split it")
        values: dict[str, Any] = {}
        for given, value in row.items():
            name = known.get(given) or known.setdefault(given, _column(path, number, given))
            if name in values:
                raise UsageError(f"{path}, line {number}: column {name!r} is there twice: remove one")
            if value is not None and value != "":
                values[name] = value
        if values:
            yield Line(number, values)


def _column(path: Path, number: int, given: str) -> str:
    """A column's name as ours."""
    name = given.strip()
    name = ALIASES.get(name, name)
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix) and name != prefix), None)
    if prefix is None and name not in COLUMNS:
        more = f"; {', '.join(f'{prefix}NAME' for prefix in PREFIXES)}"
        raise UsageError(f"{path}, line {number}: {unknown('column', name, list(COLUMNS))}{more}")
    return name


def _csv(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        try:
            head = text.readline(MAX_BYTES)
            text.seek(0)
            table = csv.reader(text, delimiter=max(",;\t", key=head.count), strict=True)
            names = next(table, [])
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise UsageError(f"{path}, line 1: column {twice!r} is there twice: remove one")
            for cells in table:
                if len(cells) > len(names):
                    said = f"{len(cells)} cells, but {len(names)} columns"
                    raise UsageError(f"{path}, line {table.line_num}: {said}: put text with commas in quotes")
                yield table.line_num, {name: _cell(name, cell) for name, cell in zip(names, cells, strict=False)}
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8 ({error.reason}): save it as UTF-8") from error
        except csv.Error as error:
            raise UsageError(f"{path}, line {table.line_num}: no CSV ({error}): correct or remove it") from error


def _cell(column: str, text: str) -> Any:
    """What a cell of text says: text, JSON, or a list as JSON."""
    name = ALIASES.get(column.strip(), column.strip())
    plain = text.strip()
    if not plain or name in _TEXTS or name.startswith(PREFIXES) or (name in _SEVERAL and not plain.startswith("[")):
        return text if plain else ""
    if plain.lower() in ("true", "false"):
        return plain.lower() == "true"
    try:
        return read_json(plain)
    except JsonError:
        return text  # what checks the column says what it should be


def _json_lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    number = 0
    while line := file.readline(MAX_BYTES + 1):
        number += 1
        if not line.strip():
            continue
        try:
            value = read_json(line)
        except JsonError as error:
            raise UsageError(f"{path}, line {number}: {error}: correct or remove it") from error
        yield number, _table(path, number, value)


def _yaml(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        import yaml
    except ImportError as error:
        raise UsageError(f"{path}: YAML is read with PyYAML: pip install 'sfumato[batch]'") from error
    data = file.read(MAX_YAML_BYTES + 1)
    if len(data) > MAX_YAML_BYTES:
        raise UsageError(f"{path} has more than {MAX_YAML_BYTES} bytes: write so many rows as JSON lines")
    try:
        text, depth = data.decode("utf-8-sig"), 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise UsageError(f"{path}, line {event.start_mark.line + 1}: aliases are not read: write it out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise UsageError(f"{path}: lists and tables may lie at most {MAX_DEPTH} deep in one another")
        rows = yaml.safe_load(text)
    except UsageError:
        raise
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 ({error.reason}): save it as UTF-8") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a date that there is not is a ValueError
        raise UsageError(f"{path} is no YAML that we read ({' '.join(str(error).split())[:300]})") from error
    if rows is None:
        return
    if not isinstance(rows, list):
        raise UsageError(f"{path} must be a list of tables, one an image, got {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        yield number, _plain(path, number, row)


def _parquet(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(f"{path}: Parquet is read with pyarrow: pip install 'sfumato[batch]'") from error
    with _refusing(path, (arrow.ArrowException, OSError, ValueError)):
        table = parquet.ParquetFile(file)
        number = 0
        for batch in table.iter_batches(1_000):
            for row in batch.to_pylist():
                number += 1
                yield number, _plain(path, number, {key: value for key, value in row.items() if value is not None})


@contextmanager
def _refusing(path: Path, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except errors as error:
        raise UsageError(f"{path} is no Parquet file, or a damaged one ({str(error)[:300]})") from error


def _plain(path: Path, number: int, row: Any) -> Mapping[str, Any]:
    """A row in JSON's types, as it came from a format that knows others."""
    try:
        row = check_values(json.loads(json.dumps(row)))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}, row {number}: {error}: write it as text, or as JSON would") from error
    return _table(path, number, row)


def _table(path: Path, number: int, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{path}, line {number}: a row must be a table of columns, got {type(value).__name__}")
    return value


_READERS: Mapping[str, Callable[[Path, IO[bytes]], Iterator[tuple[int, Mapping[str, Any]]]]] = {
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".parquet": _parquet,
}
MANIFESTS = tuple(_READERS)
"""Endings of manifests."""
