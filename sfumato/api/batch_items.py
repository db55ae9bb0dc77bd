"""Items of a batch: what each row of a manifest asks for, checked, and its key.

An item is one image: a row with three target prompts is three. Its key is made of all that its image depends on: the
content of the files that it names, all of its arguments, the model and the version. Equal keys are equal images.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import sfumato
from sfumato import checks
from sfumato.api.manifest import COMMANDS, Line
from sfumato.api.origin import Origin
from sfumato.api.recipe import FILES, NETWORKS
from sfumato.api.request import Request
from sfumato.edits.default_method import default_method
from sfumato.edits.method import METHODS
from sfumato.errors import ImageError, SfumatoError, UsageError
from sfumato.images.reading import existing_file
from sfumato.inversions.method import INVERSIONS
from sfumato.morphs.method import MORPHS
from sfumato.registry import unknown
from sfumato.run.rows import short

ALONE = ("auto", "langevin")
"""Methods that take one target, or whose targets see one another: each target is a run of its own."""
KEY_LENGTH = 20
_PLACES = ("image", "inverted", "mask")


@dataclass(frozen=True)
class Settings:
    """What all items of a batch share.

    Attributes:
        model: What the model is loaded with, in JSON's types; part of every key.
        folder: That paths in rows start from.
        outside: Whether rows may name files outside the folder, and networks.
        name: Template of the images' names, with its ending.
        movie: Ending of the movies of morphs.
    """

    model: Mapping[str, Any]
    folder: Path
    outside: bool = False
    name: str = "{stem}-{target}.png"
    movie: str = ".webp"

    @cached_property
    def root(self) -> str:
        """The folder, all links followed."""
        return os.path.realpath(self.folder)

    @cached_property
    def usual_method(self) -> str:
        """The method of edits that name none."""
        return default_method(
            self.model["name"], revision=self.model.get("revision"), variant=self.model.get("variant")
        )


@dataclass(frozen=True)
class Item:
    """One image to make.

    Attributes:
        index: Its row's number among all rows, from 1.
        line: Where its row stands in the manifest.
        id: Of the row; "" where it has none.
        command: "edit" or "morph".
        arguments: Of its request, in JSON's types, paths as they are opened.
        files: SHA-256 of each file that it names, by path.
        notes: What travels through to the result.
        key: What its image depends on, as 20 hexadecimal digits.
        name: Of its image, in the folder of images.
        error: Why it cannot be made; "" where it can, as far as is known.
    """

    index: int
    line: int
    id: str
    command: str
    arguments: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    name: str = ""
    error: str = ""

    @property
    def shared(self) -> str:
        """Equal for items that share an image, which are made by one worker."""
        image = self.arguments.get("image")
        return self.files.get(str(image), "") or self.key

    @property
    def alike(self) -> str:
        """Equal for items that are one run with several targets."""
        if self.command != "edit" or self.arguments.get("method") in ALONE:
            return self.key
        return json.dumps([{**self.arguments, "target_prompt": None}, dict(self.files)], sort_keys=True, default=str)


def items_of(lines: Sequence[Line], defaults: Mapping[str, Any], settings: Settings) -> list[Item]:
    """The items of all rows, each with its key and without a name yet; what is wrong with a row is its items' error."""
    hashes: dict[str, str] = {}

    def hashed(path: str) -> str:
        if path not in hashes:
            hashes[path] = file_hash(path)
        return hashes[path]

    return [
        item for index, line in enumerate(lines, start=1) for item in _items(index, line, defaults, settings, hashed)
    ]


def request_of(item: Item, place: Callable[[str], Any] = lambda path: path, **changes: Any) -> Request:
    """The request that makes an item.

    Args:
        item: Any.
        place: Gives what stands for an image or a mask at a path.
        changes: Arguments to put in.

    Raises:
        UsageError: The arguments do not fit.
    """
    kind = COMMANDS[item.command]
    arguments = {**item.arguments, **changes}
    known = {argument.name: argument for argument in fields(kind)}
    for name in arguments:
        if name not in known:
            raise UsageError(unknown("argument", name, list(known), of=f" of {item.command}"))
    for name in ("source_prompt", "target_prompt") if item.command == "edit" else ("images",):
        if name not in arguments:
            raise UsageError(f"{name} is missing: give the column, or the option that is for all rows")
    for name in _PLACES:
        if isinstance(path := arguments.get(name), str):
            found = place(path)
            arguments[name] = Origin(found) if name == "inverted" and isinstance(found, str) else found
    if "images" in arguments:
        arguments["images"] = [place(path) for path in arguments["images"]]
    return kind(**arguments)


def file_hash(path: str) -> str:
    """SHA-256 of a file.

    Raises:
        ImageError: It is no regular file, empty, or cannot be read.
    """
    try:
        with existing_file(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error


def _items(
    index: int, line: Line, defaults: Mapping[str, Any], settings: Settings, hashed: Callable[[str], str]
) -> list[Item]:
    """The items of one row: one for each target prompt."""
    values = dict(line.values)
    notes = {name.removeprefix("note:"): str(values.pop(name)) for name in list(values) if name.startswith("note:")}
    command, own_id = values.pop("command", "edit"), str(values.pop("id", ""))
    base = Item(
        index, line.number, short(own_id), "edit", values, notes={key: short(text) for key, text in notes.items()}
    )
    try:
        checks.choice("command", command, list(COMMANDS))
        base = replace(base, command=command, arguments=_arguments(command, values, defaults, settings))
        targets = base.arguments.get("target_prompt") if command == "edit" else None
        each = [base]
        if isinstance(targets, list | tuple) and targets:
            each = [replace(base, arguments={**base.arguments, "target_prompt": target}) for target in targets]
        return [_keyed(item, settings, hashed) for item in each]
    except SfumatoError as error:
        return [_failed(base, error)]


def _keyed(item: Item, settings: Settings, hashed: Callable[[str], str]) -> Item:
    """The item with its files and its key, or with what is wrong with it."""
    files: dict[str, str] = {}

    def place(path: str) -> Origin:
        files[path] = hashed(path)
        return Origin(None, files[path])

    try:
        if item.arguments.get("seed") == -1:
            raise UsageError("seed -1 is another one each time, so that a batch could not go on: give a number")
        request = request_of(item, place)
        for path in _option_files(item.arguments.get("options", {})):
            files[path] = hashed(path)
        content = [settings.model, sfumato.__version__.rsplit(".", 1)[0], request.to_json(), sorted(files.values())]
        text = json.dumps(content, sort_keys=True, default=str)
        return replace(item, files=files, key=hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH])
    except SfumatoError as error:
        return _failed(item, error)


def _failed(item: Item, error: SfumatoError) -> Item:
    """An item that cannot be made; its key is that of its row, so that it is known again."""
    text = json.dumps([item.command, item.arguments], sort_keys=True, default=str)
    key = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:KEY_LENGTH]
    return replace(item, key=key, error=short(f"{type(error).__name__}: {error}"))


def _arguments(
    command: str, values: Mapping[str, Any], defaults: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    """The arguments of a row on top of those of all, paths as they are opened.

    Options of all rows are for the method, or the inversion, of all rows.
    """
    fitting = {argument.name for argument in fields(COMMANDS[command])}
    found = {name: value for name, value in defaults.items() if name in fitting}
    for chooser, options in (("method", "options"), ("inversion", "inversion_options")):
        if values.get(chooser, found.get(chooser)) != found.get(chooser):
            found.pop(options, None)
    found |= {name: value for name, value in values.items() if "." not in name}
    if command == "edit" and "method" not in found:
        found["method"] = settings.usual_method
    if isinstance(size := found.get("size"), str):
        found["size"] = _size(size)
    for prefix, name in (("option.", "options"), ("inversion_option.", "inversion_options")):
        own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
        if own:
            found[name] = {**checks.table(name, found.get(name) or {}), **own}
    return _read(command, found, settings)


def _read(command: str, arguments: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The arguments with options read from text and paths as they are opened."""
    entries: dict[str, Any] = {}
    method = arguments.get("method")
    if method is not None and arguments.get("options"):
        entries["options"] = (METHODS if command == "edit" else MORPHS)[method]
    if arguments.get("inversion_options"):
        default = METHODS[method].default_inversion if command == "edit" and method else None
        if name := arguments.get("inversion") or default:
            entries["inversion_options"] = INVERSIONS[name]
    for name, entry in entries.items():
        given = checks.table(name, arguments[name])
        parsed = {
            key: entry.parameters[key].parse(value) if isinstance(value, str) and key in entry.parameters else value
            for key, value in given.items()
        }
        arguments[name] = entry.check_options(parsed)
    for name in _PLACES:
        if arguments.get(name) is not None:
            arguments[name] = _path(name, arguments[name], settings)
    if "images" in arguments:
        given = arguments["images"]
        arguments["images"] = [_path("images", one, settings) for one in checks.listed("images", given, checks.path)]
    options = arguments.get("options") or {}
    for name in FILES & options.keys():
        if options[name] is not None:
            arguments["options"] = {**options, name: _each_path(name, options[name], settings)}
    for name in NETWORKS:
        if options.get(name) not in (None, "emoji-clip") and not settings.outside:
            raise UsageError(f"{name} names a network, which a manifest may not by itself: give --allow-outside")
    return arguments


def _each_path(name: str, value: Any, settings: Settings) -> Any:
    if isinstance(value, list | tuple):
        return [_each_path(name, part, settings) for part in value]
    return _path(name, value, settings)


def _path(name: str, value: Any, settings: Settings) -> str:
    """A path of a row as it is opened.

    Raises:
        UsageError: It is none, or leaves the folder, which was not allowed.
    """
    path = settings.folder / checks.path(name, value)
    if not settings.outside and not Path(os.path.realpath(path)).is_relative_to(settings.root):
        raise UsageError(
            f"{name} {checks.shown(value)} lies outside {settings.folder}, which a manifest may not name by itself:"
            " give --allow-outside"
        )
    return str(path)


def _option_files(options: Mapping[str, Any]) -> list[str]:
    """Files that options name."""
    found = []
    for name in FILES & options.keys():
        value = options[name]
        found += [part for part in (value if isinstance(value, list | tuple) else [value]) if isinstance(part, str)]
    return found


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*([1-9]\d{0,5})\s*[xX×,]\s*([1-9]\d{0,5})\s*", text)
    if found is None:
        raise UsageError(f"size must be WIDTHxHEIGHT in pixels, such as 512x512, got {checks.shown(text)}")
    return int(found[1]), int(found[2])
