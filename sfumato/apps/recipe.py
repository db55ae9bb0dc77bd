"""Repeating an edit from the recipe in its picture: `sfumato edit --like out.png`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from sfumato import __version__
from sfumato.apps.console import note
from sfumato.errors import ImageError, UsageError

if TYPE_CHECKING:
    from sfumato.models.base import Model

_KINDS: dict[str, tuple[type, ...]] = {
    "sfumato": (str,),
    "model": (str,),
    "revision": (str,),
    "method": (str,),
    "inversion": (str, NoneType),
    "inversion_options": (dict,),
    "source_prompt": (str,),
    "target_prompts": (list,),
    "negative_prompt": (str,),
    "num_inference_steps": (int,),
    "guidance_scale": (int, float),
    "source_guidance_scale": (int, float),
    "seed": (int,),
    "size": (list, NoneType),
    "fit": (str, NoneType),
    "background": (list,),
    "options": (dict,),
    "image": (dict, NoneType),
}


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
            raise UsageError(f"{file} was made by `sfumato {values.get('command')}`; --like repeats edits only")
        for name, kinds in _KINDS.items():
            if name not in values or not isinstance(values[name], kinds):
                raise ImageError(f"the recipe in {file} is damaged ({name}); give the options by hand")
        mask = values.get("mask") or {}
        if mask and not mask.get("path") and not mask.get("words"):
            raise UsageError(f"{file} was edited under a mask that was not a file; give it with --mask")
        return cls(file, values)

    @property
    def commit(self) -> str | None:
        """The hub commit of its model, if it came from the hub."""
        revision = self.values["revision"]
        return revision if re.fullmatch(r"[0-9a-f]{40}", revision) else None

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
        if origin is None:
            return None
        if not origin.get("path"):
            raise ImageError(f"the picture that {self.file} was made from was not a file; give it as IMAGE")
        path = Path(origin["path"])
        found = next((p for p in (path, self.file.parent / path) if p.is_file()), None)
        if found is None:
            raise ImageError(f"the picture that {self.file} was made from is not at {path} any more; give it as IMAGE")
        return found

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
        if model.name == values["model"] and model.revision != values["revision"]:
            note(f"the model {model.name} has changed since: {values['revision']} then, {model.revision} now")
        if values["sfumato"] != __version__:
            note(f"made with sfumato {values['sfumato']}, this is {__version__}; the picture may differ")
