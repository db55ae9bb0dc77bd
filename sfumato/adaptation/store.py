"""Stores adaptations on disk: trained tensors by the content that they were trained on, finished or resumable.

A key tells apart whatever changes the result (images, prompts, model, options, draws), so a checkpoint is never used
for something that it was not made for, and the same request is never trained twice.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.errors import UsageError
from sfumato.files import check_folder, locked
from sfumato.tensorfile import Kind, load_tensors, save_tensors
from sfumato.watch import Watch

ADAPTATION = Kind(
    "adaptation", make="it is written by the first run", again="delete it, the next run makes it anew", error=UsageError
)


class Store:
    """A folder of adaptations, one `.safetensors` file a key.

    Args:
        folder: Made when something is first saved.

    Raises:
        UsageError: It starts with the home of an unknown user.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            self.folder = Path(folder).expanduser()
        except RuntimeError as error:
            raise UsageError(f"cannot keep adaptations in {folder} ({error}): name another folder") from error

    def check(self) -> None:
        """Finds out now, before the heavy work, whether files can be kept; nothing is left behind.

        Raises:
            UsageError: The folder cannot be made or written, or the disk is full.
        """
        try:
            there = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
            if not there.is_dir():
                raise NotADirectoryError(f"{there} is not a folder")
            check_folder(there)
        except OSError as error:
            raise UsageError(
                f"cannot keep adaptations in {self.folder} ({error.strerror or error}): name another folder"
            ) from error

    def load(self, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and fields kept under a key, or None; a damaged file counts as none, with a warning."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            return load_tensors(path, ADAPTATION)
        except UsageError as error:
            warnings.warn(f"{error}; training starts anew", stacklevel=2)
            return None

    def save(self, key: str, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> Path:
        """Keeps tensors and what JSON can say under a key, in place of what was there; whole or not at all.

        Raises:
            UsageError: The folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot keep adaptations in {self.folder} ({error.strerror or error}): name another folder"
            ) from error
        return save_tensors(self._path(key), tensors, fields, ADAPTATION)

    def slot(self, key: str) -> Slot:
        """The place of one key."""
        return Slot(self, key)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


@dataclass(frozen=True)
class Slot:
    """One adaptation's place in a store: what a training run resumes from and saves to."""

    store: Store
    key: str

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """See `Store.load`."""
        return self.store.load(self.key)

    def save(self, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> None:
        """See `Store.save`; where it fails the run goes on, with a warning: what was trained is still of use to it."""
        try:
            self.store.save(self.key, tensors, fields)
        except UsageError as error:
            warnings.warn(f"{error}; the run goes on, the next one trains anew", stacklevel=2)

    @contextmanager
    def locked(self, watch: Watch) -> Iterator[None]:
        """Has other runs that train the same wait inside the block's beginning: they find it done afterwards.

        Raises:
            Cancelled: The watch asked to stop while waiting.
        """
        warned = False

        def waiting() -> None:
            nonlocal warned
            if not warned:
                warnings.warn(f"another run trains the same in {self.store.folder}: waiting for it", stacklevel=1)
            warned = True
            watch.check()

        with ExitStack() as stack:
            try:
                self.store.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.store.folder / f".{self.key}.lock", waiting))
            except OSError:  # what cannot be written needs no lock
                pass
            yield
