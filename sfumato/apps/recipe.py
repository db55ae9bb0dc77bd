"""Repeating an edit from the recipe in its picture: `sfumato edit --like out.png`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato import __version__, checks
from sfumato.apps.console import note
from sfumato.checks import Check, leaves, optional, shown
from sfumato.errors import ImageError, UsageError
from sfumato.json_input import check_fields

if TYPE_CHECKING:
    from sfumato.apps.options import Added
    from sfumato.inversions.result import Inversion
    from sfumato.models.base import Model
    from sfumato.registry import Entry

_OLD = ("encode_steps", "mask", "inverted", "lora", "embeddings", "vae")  # which not all recipes have
MOST_TEXT = 1_000
_MOST: Mapping[str, tuple[int, str]] = {
    "num_inference_steps": (250, "--steps"),
    "encode_steps": (250, "--encode-steps"),
    "target_prompts": (16, "--target"),
    "source_prompt": (MOST_TEXT, "--source"),
    "negative_prompt": (MOST_TEXT, "--negative"),
}
"""What a recipe may ask for by itself (numbers, entries, characters), and the option that says it is wanted."""
_NETWORKS = ("encoder",)
"""Options that name a network, which would be opened or fetched."""
MOST_PARTS = 64
"""Likewise of the parts of an option that is a list or a table."""
MOST_AREA = 4
"""Likewise how many times the pixels that the model was trained at, in --size."""


@dataclass(frozen=True)
class Recipe:
    """What made a picture.

    Attributes:
        file: The picture that carries it.
        values: Its entries, their types checked.
    """

    file: Path
    values: dict[str, Any]

    @classmethod
    def of_edit(cls, file: Path) -> Recipe:
        """Reads the recipe of an edit.

        Raises:
            ImageError: The picture carries none, or a damaged one.
            UsageError: The picture was made by another command, or under a mask.
        """
        from sfumato.images import read_recipe

        values = read_recipe(file)
        if values.get("command") != "edit":
            made_by = shown(values.get("command")).strip("'")
            raise UsageError(f"{file} was made by `sfumato {made_by}`; --like repeats edits only")
        known = _checks()
        foreign = [name for name in values if name not in known]
        if foreign:
            note(f"the recipe in {file} says {', '.join(map(shown, foreign[:5]))}, which this version does not know")
        values = check_fields(
            {name: value for name, value in values.items() if name in known},
            known, optional=_OLD, what=f"the recipe in {file}", remedy="give the options by hand", error=ImageError,
        )  # fmt: skip
        mask = values.get("mask") or {}
        if mask and not mask.get("path") and not mask.get("words"):
            raise UsageError(f"{file} was edited under a mask that was not a file; give it with --mask")
        return cls(file, values)

    def take(self, name: str, given: Any = None) -> Any:
        """What the user gave, else what the recipe says, within what an image that may come from anyone may ask for.

        Raises:
            UsageError: It asks for more.
        """
        value = self.values.get(name)
        if given is not None or value is None or name not in _MOST:
            return value if given is None else given
        most, option = _MOST[name]
        amount = value if isinstance(value, int) else len(value)
        longest = max(map(len, value)) if isinstance(value, list) else 0
        if amount > most or longest > MOST_TEXT:
            raise self._too_much(f"{name} of {max(amount, longest)}", option)
        return value

    def options(self, entry: Entry, name: str, given: Mapping[str, Any], flag: str) -> dict[str, Any]:
        """The options of a method or inversion: the user's, and for the rest the recipe's, checked and bounded.

        Args:
            entry: The method or inversion.
            name: Where the recipe has them.
            given: The user's.
            flag: The command's option that gives them.

        Raises:
            UsageError: An option is unknown or out of range, asks for more than an image may, or names a network.
        """
        taken = {key: value for key, value in self.values[name].items() if key not in given}
        for key, value in entry.check_options(taken).items():
            default = entry.parameters[key].default
            most = max(100, 10 * default) if isinstance(default, int) else 100
            many = isinstance(value, list | tuple | dict) and len(value) > MOST_PARTS
            if many or any(isinstance(part, int) and part > most for part in leaves(value)):
                raise self._too_much(f"{key}={shown(value)}", f"{flag} {key}=...")
            if key in _NETWORKS and value not in (None, "emoji-clip"):
                raise UsageError(
                    f"{self.file} was made with {key} {shown(value)}; what an image names is not opened or fetched by"
                    f" itself: if you know it, name it with {flag} {key}=..."
                )
        return {**taken, **given}

    def _too_much(self, what: str, option: str) -> UsageError:
        return UsageError(f"the recipe in {self.file} asks for {what}, more than an image may: give {option} yourself")

    @property
    def commit(self) -> str | None:
        """The hub commit of its model, if it came from the hub."""
        revision = self.values["revision"]
        found = re.match(r"[0-9a-f]{40}(?=\+|\Z)", revision)
        return found[0] if found else None

    def model(self, given: str | None, revision: str | None, variant: str | None) -> tuple[str, str | None]:
        """Gives name and revision of the model to load: the one that the user named, else the recipe's.

        An image may come from anyone. What it names is neither opened nor fetched: it must be the embedded model, or
        lie complete in the hub's cache.

        Raises:
            UsageError: It is elsewhere, and the user did not name it.
        """
        from sfumato.models.loading import here

        name = self.values["model"]
        if given is not None:
            return given, revision or (self.commit if given == name else None)
        found = here(name, revision=revision or self.commit, variant=variant)
        if found is None:
            shown = name if len(name) <= 100 and name.isprintable() else f"{name[:100]!r}..."
            raise UsageError(
                f"{self.file} was made with the model {shown}, which is not in the cache; what an image names is not "
                f"opened or fetched by itself: if you know it, name it with --model (such as --model {shown})"
            )
        return name, found or revision

    def parts(self, lora: Sequence[str] | None, embedding: Sequence[str] | None, vae: str | None) -> Added:
        """What is added to the model: of LoRAs, embeddings and VAE what the user named ("none": nothing), else the
        recipe's files.

        Raises:
            UsageError: A file of the recipe is not there any more, or its content has changed.
        """
        loras: Sequence[Any] | None = [] if lora == ["none"] else lora
        embeddings = [] if embedding == ["none"] else embedding
        if loras is None:
            loras = [(self._found(file, "--lora"), file["scale"]) for file in self.values.get("lora", ())]
        if embeddings is None:
            embeddings = [str(self._found(file, "--embedding")) for file in self.values.get("embeddings", ())]
        if vae is None and "vae" in self.values:
            vae = str(self._found(self.values["vae"], "--vae"))
        return loras, embeddings, None if vae == "none" else vae

    def _found(self, file: dict[str, Any], flag: str) -> Path:
        """Where a file of the recipe lies, its content as it was then."""
        from sfumato.models.parts import content_hash

        given = Path(file["path"])
        what = f"{self.file} was made with {given.name[:100]} (sha256 {file['sha256'][:12]})"
        remedy = f"give it with {flag}, or edit without it: {flag} none"
        for path in (given, self.file.parent / given):
            found = content_hash(path)
            if found is not None and found != file["sha256"]:
                raise UsageError(f"{what}, but the content of {path} has changed ({found[:12]}); {remedy}")
            if found is not None:
                return path
        raise UsageError(f"{what}, which is not at {str(given)[:300]} any more; {remedy}")

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) that was asked for."""
        size = self.values["size"]
        return None if size is None else (size[0], size[1])

    def image(self) -> Path | None:
        """The picture that was edited; None for one that the model drew.

        Raises:
            ImageError: It is not there any more, or was not a file.
        """
        origin = self.values["image"]
        if origin is None or (self.values.get("inverted") and not origin.get("path")):
            return None  # the inversion holds it
        return self._there(origin.get("path"), "picture", "give it as IMAGE")

    def inversion(self) -> Path | None:
        """The file of the inversion that was given then; None where there was none.

        Raises:
            ImageError: It is not there any more, or was not a file.
        """
        origin = self.values.get("inverted")
        if origin is None:
            return None
        return self._there(origin.get("path"), "inversion", "give it with --inverted (see Inversion.save)")

    def check_inversion(self, inversion: Inversion) -> None:
        """Refuses an inversion that is not the one that was edited from.

        Raises:
            ImageError: Its content differs.
        """
        if inversion.fingerprint != self.values["inverted"].get("sha256"):
            raise ImageError(
                f"{inversion.file} is not the inversion that {self.file} was made from: its content has changed; to"
                " edit from it all the same, give it with --inverted"
            )

    def _there(self, name: str | None, what: str, remedy: str) -> Path:
        if not name:
            raise ImageError(f"the {what} that {self.file} was made from was not a file; {remedy}")
        path = Path(name)
        found = next((p for p in (path, self.file.parent / path) if p.is_file()), None)
        if found is None:
            raise ImageError(f"the {what} that {self.file} was made from is not at {path} any more; {remedy}")
        return found

    def check_size(self, model: Model) -> None:
        """Refuses a size far above what the model was trained at.

        Raises:
            UsageError: It has more than four times the pixels.
        """
        height, width = model.sample_size
        if self.size is not None and self.size[0] * self.size[1] > MOST_AREA * height * width:
            raise self._too_much(f"{self.size[0]}x{self.size[1]} pixels", "--size")

    def check_image(self, path: Path, model: Model) -> None:
        """Refuses a picture that is not the one that was edited.

        Raises:
            ImageError: Its pixels differ.
        """
        from sfumato.images import fit_image, load_image

        background = tuple(self.values["background"])
        fitted = fit_image(
            load_image(path, background=background).image,
            multiple=model.size_multiple, size=self.size, fit=self.values["fit"],
        )  # fmt: skip
        found, wanted = hashlib.sha256(fitted.image.tobytes()).hexdigest(), self.values["image"].get("sha256")
        if found != wanted:
            raise ImageError(
                f"{path} is not the picture that {self.file} was made from: its content has changed (sha256"
                f" {found[:12]}, then {str(wanted)[:12]}); to edit it all the same, give it as IMAGE"
            )

    def compare_mask(self, used: Mapping[str, Any] | None) -> None:
        """Says that the file of the mask holds another one now, from what the recipe of the new edit says of it."""
        then, now = self.values.get("mask") or {}, used or {}
        same_file = then.get("path") == now.get("path") and then.get("invert", False) == now.get("invert", False)
        if same_file and then.get("sha256") and then["sha256"] != now.get("sha256"):
            note(f"the mask {now['path']} has changed since, so that the image differs from then")

    def compare(self, model: Model) -> None:
        """Says what differs from then, so that the picture may differ too."""
        values = self.values
        then, now = (revision.partition("+")[0] for revision in (values["revision"], model.revision))  # without parts
        if model.name == values["model"] and then != now:
            note(f"the model {model.name} has changed since: {then} then, {now} now")
        if values["sfumato"] != __version__:
            note(f"made with sfumato {values['sfumato']}, this is {__version__}; the picture may differ")


def _checks() -> dict[str, Check]:
    """What a recipe says, and how it is checked: as the arguments of `sfumato.edit` are."""
    from sfumato.api.arguments import ARGUMENTS
    from sfumato.models.parts import MAX_PARTS

    word = partial(checks.text, most=4_096)
    file: dict[str, Check] = {"path": optional(checks.path), "sha256": optional(word)}
    mask: dict[str, Check] = {
        "sha256": optional(word),
        "path": optional(checks.path),
        "words": partial(checks.listed, check=checks.text),
        "threshold": ARGUMENTS["mask_threshold"],
        "feather": ARGUMENTS["mask_feather"],
        "invert": checks.flag,
        "pixels": checks.flag,
    }
    added: dict[str, Check] = {"path": checks.path, "sha256": word, "scale": checks.number, "token": word}
    same = (
        "method", "inversion", "source_prompt", "negative_prompt", "num_inference_steps", "seed", "size", "fit",
        "background", "encode_steps",
    )  # fmt: skip
    return {
        **{name: ARGUMENTS[name] for name in same},
        "command": word,
        "sfumato": word,
        "model": partial(word, empty="it names the model"),
        "revision": word,
        "target_prompts": partial(checks.listed, check=ARGUMENTS["source_prompt"], fewest=1),
        "guidance_scale": checks.guidance,
        "source_guidance_scale": checks.guidance,
        "inversion_options": checks.table,
        "options": checks.table,
        "mask": optional(partial(_part, known=mask)),
        "image": optional(partial(_part, known=file)),
        "inverted": optional(partial(_part, known=file)),
        "lora": partial(checks.listed, check=partial(_file, known=added), most=MAX_PARTS),
        "embeddings": partial(checks.listed, check=partial(_file, known=added), most=MAX_PARTS),
        "vae": partial(_file, known=added),
    }


def _part(name: str, value: Any, *, known: Mapping[str, Check]) -> dict[str, Any]:
    found = checks.table(name, value)
    return {key: known[key](f"{name}.{key}", part) if key in known else part for key, part in found.items()}


def _file(name: str, value: Any, *, known: Mapping[str, Check]) -> dict[str, Any]:
    """A file that was added to the model; a LoRA has a scale."""
    found = _part(name, value, known=known)
    lacking = [key for key in ("path", "sha256", *(["scale"] if name == "lora" else [])) if key not in found]
    if lacking:
        raise UsageError(f"{name} has no {lacking[0]}")
    return found
