"""Images that clients sent: read once, kept in memory as they came, the oldest dropped when there are many."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato.api.origin import pixel_hash
from sfumato.api.recipe import Recipe
from sfumato.apps.web.public import file_label, public_recipe
from sfumato.errors import ImageError, SfumatoError
from sfumato.images import load_image, png_bytes, recipe_in

SHOWN_SIDE = 1024


@dataclass(frozen=True)
class Upload:
    """An image of a client.

    Attributes:
        id: Unguessable: who knows it may see and use the image.
        data: The file as it was sent.
        name: What the client called it, without folders.
        size: (width, height) in pixels, upright.
        sha256: Of its pixels, as recipes keep it.
        shown: A PNG of it for the page, at most 1024 pixels a side.
        notes: What was done to read it.
        recipe: The request that made it, in JSON, where it carries one.
    """

    id: str
    data: bytes = field(repr=False)
    name: str
    size: tuple[int, int]
    sha256: str
    shown: bytes = field(repr=False)
    notes: tuple[str, ...] = ()
    recipe: Mapping[str, Any] | None = None

    @property
    def held(self) -> int:
        """What it takes in memory."""
        return len(self.data) + len(self.shown)

    def to_json(self) -> dict[str, Any]:
        """What its client sees."""
        return {
            "id": self.id,
            "name": self.name,
            "size": list(self.size),
            "sha256": self.sha256,
            "notes": list(self.notes),
            "recipe": self.recipe,
        }

    @classmethod
    def read(cls, data: bytes, name: str, most_pixels: int) -> Upload:
        """Reads what a client sent.

        Raises:
            ImageError: It is no image that can be read, or a larger one.
        """
        try:
            loaded = load_image(data, most_pixels=most_pixels)
        except ImageError as error:
            raise ImageError(str(error).replace(f"the {len(data)} bytes given as an image", "this file")) from error
        small = (loaded.rgba or loaded.image).copy()
        small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        return cls(
            secrets.token_hex(16), data, file_label(name), loaded.image.size, pixel_hash(loaded.image),
            png_bytes(small), loaded.notes, _recipe(data, most_pixels),
        )  # fmt: skip


def _recipe(data: bytes, most_pixels: int) -> dict[str, Any] | None:
    """The request that made an image, checked; None where it carries none, or a damaged one."""
    with suppress(SfumatoError):
        recipe = Recipe.of(recipe_in(data, "the image", most_pixels), Path("image"))
        return public_recipe(recipe.request.to_json(), {})
    return None


class Uploads:
    """The images of all clients, up to so many bytes."""

    def __init__(self, most_bytes: int = 256 * 2**20) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, upload: Upload) -> Upload:
        """Keeps an image, and drops those that were longest unused."""
        with self._lock:
            self._kept[upload.id] = upload
            while len(self._kept) > 1 and sum(one.held for one in self._kept.values()) > self._most:
                self._kept.popitem(last=False)
        return upload

    def get(self, upload_id: str) -> Upload | None:
        """The image of that id; None where there is none any more."""
        with self._lock:
            if upload_id in self._kept:
                self._kept.move_to_end(upload_id)
            return self._kept.get(upload_id)
