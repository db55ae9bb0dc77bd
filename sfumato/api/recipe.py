"""The recipe in an image: the request that made it, the model that it was run with, and limits to what it may ask for.

An image may come from anyone. Of a model, what its recipe names is neither opened nor fetched: it must be the embedded
one, or lie complete in the hub's cache. Of other files, only those are opened that lie in the current folder or beside
the image. And it asks for no more than an image may, or the user says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from sfumato import __version__, checks
from sfumato.api.origin import Origin
from sfumato.api.recipe_facts import fact_checks, needed_facts
from sfumato.api.request import Request
from sfumato.api.requests import (
    EditRequest,
    GenerateRequest,
    InvertRequest,
    MorphRequest,
    SliderRequest,
    TranslateRequest,
)
from sfumato.checks import leaves, shown
from sfumato.errors import ImageError, SfumatoError, UsageError
from sfumato.files import at_home
from sfumato.images import read_recipe
from sfumato.inversions.method import INVERSIONS
from sfumato.json_input import check_fields
from sfumato.models.base import Model
from sfumato.models.flow_reading import FLOW_MARK
from sfumato.models.loading import here
from sfumato.models.parts import content_hash
from sfumato.parameters import Parameter
from sfumato.registry import Entry

REQUESTS: Mapping[str, type[Request]] = {
    kind.command: kind
    for kind in (EditRequest, SliderRequest, MorphRequest, InvertRequest, GenerateRequest, TranslateRequest)
}
"""By the command that a recipe names."""

MOST_TEXT = 1_000
MOST: Mapping[str, tuple[int, str]] = {
    "num_inference_steps": (250, "--steps"),
    "encode_steps": (250, "--encode-steps"),
    "target_prompt": (16, "--target"),
    "source_prompt": (MOST_TEXT, "--source"),
    "negative_prompt": (MOST_TEXT, "--negative"),
}
"""What a recipe may ask for by itself (numbers, entries, characters), and the option that says it is wanted."""
NETWORKS = ("encoder",)
"""Options that name a network, which would be opened or fetched."""
FILES = {"direction"}
"""Options that name a file."""
MOST_PARTS = 64
"""Likewise of the parts of an option that is a list or a table."""
MOST_AREA = 4
"""Likewise how many times the pixels that the model was trained at, in --size."""

REMEDY = "give the options by hand"
_EARLIER_EDIT = {"alpha": False, "method": "prompt-to-prompt"}
EARLIER: Mapping[str, Mapping[str, Any]] = {"edit": _EARLIER_EDIT, "slider": _EARLIER_EDIT}
"""What recipes without an entry mean, which did not have it yet."""

Parts = Mapping[str, Any]
"""LoRAs, embeddings, a VAE and layers to skip, as `load_model` takes them."""


@dataclass(frozen=True)
class Recipe:
    """What made an image.

    Attributes:
        file: The image that carries it.
        request: What was asked for.
        facts: What it was run with: `sfumato`, `model`, `revision`, `lora`, `embeddings`, `vae`, as far as it is said.
        unknown: Names of what it says besides, and this version does not know.
    """

    file: Path
    request: Request
    facts: Mapping[str, Any]
    unknown: tuple[str, ...] = ()

    @classmethod
    def read(cls, file: Path) -> Recipe:
        """Reads the recipe in a file, of whatever command.

        Raises:
            ImageError: It carries none, or a damaged one.
            UsageError: It was made by a command that has no recipes.
        """
        return cls.of(read_recipe(file), file)

    @classmethod
    def of(cls, values: Mapping[str, Any], file: Path) -> Recipe:
        """The recipe that was read from a file; raises like `read`."""
        what = f"the recipe in {file}"
        kind = REQUESTS.get(str(values.get("command")))
        if kind is None:
            made_by = shown(values.get("command")).strip("'")
            raise UsageError(f"{file} was made by `sfumato {made_by}`, whose recipes this version does not know")
        known, asked = fact_checks(), kind.json_fields()
        said = {name: value for name, value in values.items() if name in known}
        facts = check_fields(
            said, known, optional=known.keys() - needed_facts(kind), what=what, remedy=REMEDY, error=ImageError
        )
        wanted = {**EARLIER.get(kind.command, {}), **{name: values[name] for name in asked if name in values}}
        request = kind.from_json(wanted, what=what, remedy=REMEDY, error=ImageError)
        if isinstance(request, EditRequest) and request.method is None:
            raise ImageError(f"{what} is damaged (it names no method): {REMEDY}")
        return cls(file, request, facts, tuple(name for name in values if name not in {*known, *asked}))

    def opened(self, request: EditRequest, given: Collection[str]) -> EditRequest:
        """The request with the files of the recipe as they lie here, as far as the user gave none.

        Args:
            request: That of the recipe, changed by the user.
            given: Arguments that the user gave, as for `check_bounds`.

        Raises:
            ImageError: A file is not there any more, lies elsewhere, or was none.
        """
        found: dict[str, Any] = {}
        held = request.inverted is not None  # the inversion may hold the image
        for name, what, remedy in (
            ("image", "image", "give it as IMAGE"),
            ("inverted", "inversion", "give it with --inverted (see Inversion.save)"),
            ("mask", "mask", "give it with --mask"),
        ):
            origin = getattr(request, name)
            if name in given or not isinstance(origin, Origin):
                continue
            if origin.path is None and name == "image" and held:
                found["image"] = None
            elif origin.path is None:
                error = UsageError if name == "mask" else ImageError
                raise error(f"{self.file}: the {what} that it was made with was not a file; {remedy}")
            else:
                found[name] = replace(origin, path=str(self._found(origin.path, what, remedy, Path.is_file)))
        options = dict(request.options)
        for name in FILES & options.keys():
            if "options" not in given and f"options.{name}" not in given:
                options[name] = self._option_files(name, options[name])
        return replace(request, **found, options=options)

    def _option_files(self, name: str, value: Any) -> Any:
        """The file that an option names, or one for each target, as they lie here."""
        if isinstance(value, list | tuple):
            return [self._option_files(name, part) for part in value]
        remedy = f"give it with --set {name}=..."
        return str(self._found(value, name, remedy, Path.is_file)) if isinstance(value, str) else value

    def _found(
        self,
        name: str,
        what: str,
        remedy: str,
        is_it: Callable[[Path], Any],
        error: type[SfumatoError] = ImageError,
    ) -> Path:
        """Where a file of the recipe lies: in the current folder, beside the image, or below one of them.

        Raises:
            SfumatoError: Of the type `error`: it is not there, or lies elsewhere, where nothing is looked at.
        """
        folders = [Path.cwd(), self.file.parent]
        near = [path for path in (Path(name), self.file.parent / name) if any(_is_below(path, f) for f in folders)]
        for path in near:
            with suppress(OSError):  # a name that is too long, say
                if is_it(path):
                    return path
        short = name[:300] if name.isprintable() else f"{name[:300]!r}"
        where = (
            f"is not at {short} any more"
            if near
            else f"is said to be at {short}, neither in the current folder nor beside the image, and what an image"
            " names elsewhere is not opened by itself"
        )
        raise error(f"the {what} that {self.file} was made with {where}; {remedy}")

    def check_bounds(self, request: EditRequest, given: Collection[str]) -> None:
        """Refuses what the recipe asks for beyond what an image that may come from anyone may ask for.

        Args:
            request: That of the recipe, changed by the user.
            given: Arguments that the user gave, options of the method and of the inversion among them as `options.NAME`
                and `inversion_options.NAME`.

        Raises:
            UsageError: It asks for more, or an option names a network.
        """
        for name, (most, option) in MOST.items():
            value = getattr(request, name)
            if name in given or value is None:
                continue
            amount = value if isinstance(value, int) else len(value)
            longest = 0 if isinstance(value, int | str) else max(map(len, value))
            if amount > most or longest > MOST_TEXT:
                called = request.json_names.get(name, name)
                self._too_much(f"{called} of {max(amount, longest)}", option)
        method = request.entry
        inversion = request.inversion or method.default_inversion
        self._check_options(method, "options", request.options, given, "--set")
        if inversion and request.inversion_options:
            self._check_options(
                INVERSIONS[inversion], "inversion_options", request.inversion_options, given, "--set-inversion"
            )

    def _check_options(
        self, entry: Entry[Any], name: str, options: Mapping[str, Any], given: Collection[str], flag: str
    ) -> None:
        for key, value in entry.check_options(options).items():
            if name in given or f"{name}.{key}" in given:
                continue
            if is_too_much(entry.parameters[key], value):
                self._too_much(f"{key}={shown(value)}", f"{flag} {key}=...")
            if key in NETWORKS and value not in (None, "emoji-clip"):
                raise UsageError(
                    f"{self.file} was made with {key} {shown(value)}; what an image names is not opened or fetched by"
                    f" itself: if you know it, name it with {flag} {key}=..."
                )

    def check_size(self, request: EditRequest, model: Model) -> None:
        """Refuses a size far above what the model was trained at.

        Raises:
            UsageError: It has more than four times the pixels.
        """
        (height, width), size = model.sample_size, request.size
        if size is not None and size[0] * size[1] > MOST_AREA * height * width:
            self._too_much(f"{size[0]}x{size[1]} pixels", "--size")

    def _too_much(self, what: str, option: str) -> NoReturn:
        raise UsageError(f"the recipe in {self.file} asks for {what}, more than an image may: give {option} yourself")

    @property
    def commit(self) -> str | None:
        """The hub commit of its model, if it came from the hub."""
        found = re.match(r"[0-9a-f]{40}(?=\+|\Z)", self.facts["revision"])
        return found[0] if found else None

    def model(self, given: str | None, revision: str | None, variant: str | None) -> tuple[str, str | None]:
        """Gives name and revision of the model to load: the one that the user named, else the recipe's.

        Raises:
            UsageError: It is neither embedded nor in the hub's cache, and the user did not name it.
        """
        name = self.facts["model"]
        if given is not None:
            return given, revision or (self.commit if given == name else None)
        found = here(name, revision=revision or self.commit, variant=variant)
        if found is None:
            said = name if len(name) <= 100 and name.isprintable() else f"{name[:100]!r}..."
            raise UsageError(
                f"{self.file} was made with the model {said}, which is not in the cache; what an image names is not "
                f"opened or fetched by itself: if you know it, name it with --model (such as --model {said})"
            )
        return name, found or revision

    def parts(
        self,
        lora: Sequence[str] | None,
        embedding: Sequence[str] | None,
        vae: str | None,
        clip_skip: int | None = None,
    ) -> Parts:
        """What is added to the model: of LoRAs, embeddings, VAE and clip skip what the user named ("none": nothing),
        else the recipe's.

        Raises:
            UsageError: A file of the recipe is not there any more, lies elsewhere, or its content has changed.
        """
        loras: Sequence[Any] | None = [] if lora == ["none"] else lora
        embeddings = [] if embedding == ["none"] else embedding
        if loras is None:
            loras = [(self._part(file, "--lora"), file["scale"]) for file in self.facts.get("lora", ())]
        if embeddings is None:
            embeddings = [str(self._part(file, "--embedding")) for file in self.facts.get("embeddings", ())]
        if vae is None and "vae" in self.facts:
            vae = str(self._part(self.facts["vae"], "--vae"))
        return {
            "lora": loras,
            "embeddings": embeddings,
            "vae": None if vae == "none" else vae,
            "clip_skip": self.facts.get("clip_skip", 0) if clip_skip is None else clip_skip,
        }

    def _part(self, file: dict[str, Any], flag: str) -> Path:
        """Where a file of the recipe lies, its content as it was then."""
        name = Path(file["path"]).name[:100]
        what, remedy = (
            f"file {name} (sha256 {file['sha256'][:12]})",
            f"give it with {flag}, or edit without it: {flag} none",
        )
        path = self._found(file["path"], what, remedy, content_hash, UsageError)
        if content_hash(path) != file["sha256"]:
            raise UsageError(f"{self.file} was made with the {what}, but the content of {path} has changed; {remedy}")
        return path

    def differences(self, model: Model) -> list[str]:
        """What differs from then, so that the image may differ, too."""
        notes = []
        revisions, same_name = (self.facts["revision"], model.revision), model.name == self.facts["model"]
        then, now = (revision.partition("+")[0] for revision in revisions)  # no parts
        if same_name and then != now:
            notes.append(f"the model {model.name} has changed since: {then} then, {now} now")
        was_flow, is_flow = (revision.endswith(FLOW_MARK) for revision in revisions)
        if same_name and was_flow and not is_flow:
            notes.append(f"the model {model.name} was read as a flow then, and is not now: the image differs")
        if self.facts["sfumato"] != __version__:
            notes.append(f"made with sfumato {self.facts['sfumato']}, this is {__version__}; the image may differ")
        return notes


def read_request(path: str | os.PathLike[str]) -> Request:
    """Reads from an image or a movie the request that made it; run it again with `.run(model)`.

    Images, masks and inversions are named in it by path and hash, and opened when it is run: look at what a stranger's
    request names.

    Raises:
        ImageError: The file cannot be read, or carries no recipe, or a damaged one.
        UsageError: It was made by a command whose recipes this version does not know.
    """
    checks.path("path", path)
    return Recipe.read(at_home(path)).request


def is_too_much(option: Parameter, value: Any) -> bool:
    """Whether the value of an option asks for more work than a stranger may: numbers, and parts of lists and tables."""
    most = max(100, 10 * option.default) if isinstance(option.default, int) else 100
    many = isinstance(value, list | tuple | dict) and len(value) > MOST_PARTS
    return many or any(isinstance(part, int) and part > most for part in leaves(value))


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a path is below a folder, all links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
