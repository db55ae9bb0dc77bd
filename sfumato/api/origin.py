"""Where an image, a mask or an inversion came from: a path, and a hash of what was read there.

This is how JSON keeps them, in recipes, manifests and forms. An `Origin` stands in the place of the file: what is read
from its path must be what the hash says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sfumato import checks
from sfumato.checks import Check, optional
from sfumato.errors import ImageError, InversionError, UsageError
from sfumato.images import load_image
from sfumato.inversions.result import Inversion

if TYPE_CHECKING:
    from PIL import Image

_FIELDS: Mapping[str, Check] = {
    "path": optional(checks.path),
    "sha256": optional(partial(checks.text, most=200)),
}


@dataclass(frozen=True)
class Origin:
    """A file by path and content.

    Attributes:
        path: Where it lay; None: it was no file.
        sha256: Of an image or a mask the SHA-256 of its pixels as they are read, of an inversion its fingerprint; None:
            whatever is there.
    """

    path: str | None = None
    sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """`{"path": ..., "sha256": ...}`."""
        return asdict(self)

    @classmethod
    def from_json(cls, name: str, value: Any) -> Origin:
        """Reads what `to_json` wrote; `name` is what messages call it.

        Raises:
            UsageError: It is something else.
        """
        given = checks.table(name, value)
        for key in given:
            if key not in _FIELDS:
                raise UsageError(f"{name} has path and sha256, got {checks.shown(key)}")
        found = {key: _FIELDS[key](f"{name}.{key}", part) for key, part in given.items()}
        path = found.get("path")
        return cls(None if path is None else os.fspath(path), found.get("sha256"))


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 of an image's pixels."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def path_of(source: Any) -> str | None:
    """The path of an image, a mask or an inversion, None where it is no file."""
    if isinstance(source, Origin | Inversion):
        return source.path if isinstance(source, Origin) else source.file
    return os.fspath(source) if isinstance(source, str | os.PathLike) else None


def file_of(source: Any, what: str) -> Any:
    """What is to be read: the path of an origin, anything else as it is.

    Raises:
        ImageError: The origin was no file.
    """
    if not isinstance(source, Origin):
        return source
    if source.path is None:
        raise ImageError(f"the {what} that was used then was not a file: give it")
    return source.path


def image_origin(image: Any, background: tuple[int, int, int]) -> Origin:
    """The origin of an image, which is read for it.

    Raises:
        ImageError: It cannot be read.
    """
    if isinstance(image, Origin):
        return image
    return Origin(path_of(image), pixel_hash(load_image(image, background=background).image))


def inversion_origin(inversion: Inversion | Origin) -> Origin:
    """The origin of an inversion."""
    return inversion if isinstance(inversion, Origin) else Origin(inversion.file, inversion.fingerprint)


def opened_inversion(inversion: Inversion | Origin | None) -> Inversion | None:
    """The inversion itself, read from its file where an origin stands for it.

    Raises:
        InversionError: It was no file, cannot be read, or is another one than then.
    """
    if not isinstance(inversion, Origin):
        return inversion
    if inversion.path is None:
        raise InversionError("the inversion that was used then was not a file (see Inversion.save): give it")
    found = Inversion.load(inversion.path)
    if inversion.sha256 not in (None, found.fingerprint):
        raise InversionError(
            f"{inversion.path} is not the inversion that was used then: its content has changed; to use it anyway, give"
            " it with --inverted (inverted= in Python)"
        )
    return found
