"""Files and folders that take their name only when they are complete, locks between processes, and the cache folder.

What is being written has a name of its own beside its target (`.sfumato-....part`) and is flushed to the disk before it
takes the target's name, so that a kill, a full disk or a power cut leaves the old content or the new one, and nothing
else. A part is locked while it is written. One that a killed process left is not, and the next one to write into that
folder removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sfumato import checks
from sfumato.errors import SfumatoError, UsageError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing swept
    fcntl = None  # type: ignore[assignment]

_PARTS = ".sfumato-*.part"
_SECONDS_BETWEEN_TRIES = 0.25
_PROBE = bytes(4096)  # an empty file can be made on a full disk
_swept: set[Path] = set()


def at_home(path: str | os.PathLike[str]) -> Path:
    """The path, `~` at its beginning being the home folder (of a user that is there).

    Raises:
        UsageError: It is no path.
    """
    found = Path(checks.path("path", path))
    try:
        return found.expanduser()
    except RuntimeError:
        return found


@contextmanager
def written_whole(path: str | os.PathLike[str], error: type[SfumatoError] = UsageError) -> Iterator[Path]:
    """A new empty file beside `path` to write into. It takes that name when the block ends well, and else goes.

    The file has the rights that the user's umask gives, whatever the block did to them. A link is written through.

    Args:
        path: Where to, in a folder that exists; what is there is replaced.
        error: What is raised.

    Raises:
        SfumatoError: Of that type: the block or the renaming failed with an `OSError` or a `ValueError`. A
            `SfumatoError` of the block passes as it is.
    """
    with _said(path, error):
        target = Path(path).resolve()
        with _part(target.parent) as part:
            rights = part.stat().st_mode
            yield part
            with contextlib.suppress(PermissionError):  # some file systems know no rights
                part.chmod(rights)
            _flush(part)
            part.replace(target)
            _flush(target.parent)


def write_whole(path: str | os.PathLike[str], data: bytes | str, error: type[SfumatoError] = UsageError) -> None:
    """Writes bytes, or text as UTF-8, whole or not at all; see `written_whole`."""
    with written_whole(path, error) as part:
        part.write_bytes(data if isinstance(data, bytes) else data.encode())


@contextmanager
def folder_written_whole(path: str | os.PathLike[str], error: type[SfumatoError] = UsageError) -> Iterator[Path]:
    """A new empty folder beside `path` to write files into. It takes that name when the block ends well, and else goes.

    A folder that is there is replaced. Both change places in one step where the system can do that; elsewhere the new
    files replace the old ones one by one, so that at no time a file is missing.

    Args:
        path: Where to; the folder around it exists.
        error: What is raised, as in `written_whole`.
    """
    with _said(path, error):
        target = Path(path).resolve()
        with _part(target.parent, is_folder=True) as part:
            yield part
            for inside in [*part.rglob("*"), part]:
                _flush(inside)
            if not target.exists():
                part.rename(target)
            elif not _exchange(part, target):
                _move_files(part, target)
            _flush(target.parent)


def check_folder(folder: Path) -> None:
    """Finds out whether files can be written into a folder that is there; nothing is left behind.

    Raises:
        OSError: They cannot, or the disk is full.
    """
    with _part(folder) as part:
        part.write_bytes(_PROBE)


@contextmanager
def locked(path: str | os.PathLike[str], waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Holds a lock that one process, and one thread of it, has at a time; the system frees it when the process ends.

    Args:
        path: Of the lock's file, in a folder that exists. The file holds the number of the process, and goes with the
            block. Only those who name the same file keep each other out.
        waiting: Called four times a second while somebody else has the lock; may raise to give up. None: do not wait.

    Raises:
        BlockingIOError: Somebody else has the lock, and `waiting` is None.
        OSError: The file cannot be made.
    """
    path = Path(path)
    while (handle := _taken(path)) is None:
        if waiting is None:
            raise BlockingIOError(f"{path} is locked by another process")
        waiting()
        time.sleep(_SECONDS_BETWEEN_TRIES)
    try:
        with contextlib.suppress(OSError):  # for people who look; a full disk does not matter
            os.truncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def cache_folder(name: str) -> Path:
    """Where a part of sfumato keeps what it can make again; it need not be there yet.

    `$SFUMATO_CACHE/NAME`, or `~/.cache/sfumato/NAME`; for a user without a home a private folder among the temporary
    ones.

    Raises:
        UsageError: That temporary folder is somebody else's.
    """
    root = os.environ.get("SFUMATO_CACHE")
    try:
        return (Path(root).expanduser() if root else Path.home() / ".cache" / "sfumato") / name
    except RuntimeError:  # neither $HOME nor an entry in the list of users
        return _private_folder() / name


def caches_without_home() -> None:
    """Where the user has no home, names a folder for the caches of other libraries, which would look for one in it.

    Raises:
        UsageError: As `cache_folder`.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ.setdefault("XDG_CACHE_HOME", str(_private_folder()))


def _private_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"sfumato-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise UsageError(f"{folder} belongs to another user: set SFUMATO_CACHE to a folder of your own")
    except OSError as error:
        raise UsageError(f"cannot use {folder} ({error.strerror or error}): set SFUMATO_CACHE to a folder") from error
    return folder


@contextmanager
def _said(path: str | os.PathLike[str], error: type[SfumatoError]) -> Iterator[None]:
    try:
        yield
    except SfumatoError:
        raise
    except (OSError, ValueError) as reason:
        raise error(f"cannot write {path}: {getattr(reason, 'strerror', None) or reason}") from reason


@contextmanager
def _part(folder: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """A new name in the folder, created and locked, and removed after the block."""
    _sweep(folder)
    part, handle = _made(folder, is_folder)
    try:
        yield part
    finally:
        _remove(part)
        if handle is not None:
            os.close(handle)


def _made(folder: Path, is_folder: bool) -> tuple[Path, int | None]:
    while True:
        part = folder / f".sfumato-{secrets.token_hex(6)}.part"
        if is_folder:
            part.mkdir()
        else:
            # not tempfile: its files are private (0600), and a result should have the rights that the umask gives
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        if fcntl is None:
            return part, None
        handle = os.open(part, os.O_RDONLY)
        _try_lock(handle)
        if os.fstat(handle).st_nlink:  # a sweep may have come between
            return part, handle
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Removes the parts that killed processes left, once a folder."""
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)


def sweep(folder: Path) -> None:
    """Removes the parts that killed processes left in a folder; those that are being written stay."""
    if fcntl is None:
        return
    for part in folder.glob(_PARTS):
        with contextlib.suppress(OSError):
            handle = os.open(part, os.O_RDONLY)
            try:
                if _try_lock(handle):
                    _remove(part)
            finally:
                os.close(handle)


def _remove(part: Path) -> None:
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)


def _taken(path: Path) -> int | None:
    """An open file that has the lock; None when somebody else has it."""
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        if fcntl is None:
            return handle
        if not _try_lock(handle, unsupported=True):
            os.close(handle)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # its last owner has removed it


def _try_lock(handle: int, *, unsupported: bool = False) -> bool:
    """Whether the lock is ours now; `unsupported`: what to say where the file system knows no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return unsupported
    return True


def _flush(path: Path) -> None:
    """Has a file, or the names in a folder, on the disk; folders cannot be flushed everywhere."""
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step (Linux); False where that cannot be done."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _move_files(source: Path, target: Path) -> None:
    names = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    for name in sorted(names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(target / name)
    for path in [*target.rglob("*")]:
        if path.is_file() and path.relative_to(target) not in names:
            path.unlink()
