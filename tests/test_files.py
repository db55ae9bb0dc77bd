"""Files that are whole or not there, folders that are never missing, locks, and the cache of a user without a home."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from sfumato import files
from sfumato.errors import ImageError, UsageError
from sfumato.files import cache_folder, check_folder, folder_written_whole, locked, write_whole, written_whole

needs_locks = pytest.mark.skipif(files.fcntl is None, reason="there are no locks here")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder has been swept yet."""
    monkeypatch.setattr(files, "_swept", set())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed(program: str, folder: Path) -> None:
    """Runs a program in a folder until it kills itself."""
    code = "import os, signal\nfrom pathlib import Path\nfrom sfumato.files import *\nfrom sfumato import files\n"
    done = subprocess.run([sys.executable, "-c", code + textwrap.dedent(program)], cwd=folder, check=False)
    assert done.returncode == -signal.SIGKILL


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def test_a_file_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    with written_whole(target) as part:
        part.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"

    def stopped() -> None:
        with written_whole(target) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert target.read_text() == "new"
    assert names(tmp_path) == ["result.txt"]


def test_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    flush, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (told.append("flush"), flush(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (told.append("rename"), rename(self, to))[1])
    write_whole(tmp_path / "result.txt", "new")
    assert told == ["flush", "rename", "flush"]  # the file, its name, the folder


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_have_the_rights_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with written_whole(tmp_path / "result") as part:
            part.write_text("new")
            part.chmod(0o600)  # as programs do that make a private file of their own
    finally:
        os.umask(before)
    assert (tmp_path / "result").stat().st_mode & 0o777 == 0o666 & ~umask


def test_errors_are_of_the_kind_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot write .*result: No space left on device"), \
         written_whole(tmp_path / "result", ImageError):  # fmt: skip
        raise OSError(28, "No space left on device")
    with pytest.raises(UsageError, match=r"cannot write .*gone"):
        write_whole(tmp_path / "gone" / "result", b"")
    assert names(tmp_path) == []


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for content in (["a", "b", "c"], ["b"]):
        with folder_written_whole(tmp_path / "frames") as part:
            for name in content:
                (part / name).write_text(f"{name} of {len(content)}")
        assert names(tmp_path / "frames") == content
    assert (tmp_path / "frames" / "b").read_text() == "b of 1"
    assert names(tmp_path) == ["frames"]


def test_where_folders_cannot_be_swapped_no_file_is_ever_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    test_a_folder_is_replaced_whole(tmp_path)
    seen: list[set[str]] = []
    rename = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (rename(self, to), seen.append({*names(tmp_path / "frames")}))
    )
    with folder_written_whole(tmp_path / "frames") as part:
        for name in "abc":
            (part / name).write_text(name)
    assert all("b" in found for found in seen)
    assert names(tmp_path / "frames") == ["a", "b", "c"]


@needs_locks
def test_a_kill_at_any_moment_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "old").touch()
    for where in ("before", "after"):
        killed(
            f"""
            swap = files._exchange
            def stop(*names):
                if {where == "after"}: swap(*names)
                {KILL}
            files._exchange = stop
            with folder_written_whole("frames") as part:
                (part / "new").touch()
            """,
            tmp_path,
        )
        assert names(tmp_path / "frames") == (["old"] if where == "before" else ["new"])
    check_folder(tmp_path)  # the next one to write here removes what is left
    assert names(tmp_path) == ["frames"]


@needs_locks
def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    killed(f"with written_whole('result') as part:\n    part.write_text('half')\n    {KILL}", tmp_path)
    (left,) = names(tmp_path)
    assert left.endswith(".part")
    with written_whole(tmp_path / "other") as part:
        assert names(tmp_path) == [part.name]
    assert names(tmp_path) == ["other"]


@needs_locks
def test_what_another_one_is_writing_stays(tmp_path: Path) -> None:
    with written_whole(tmp_path / "first") as part:
        part.write_text("first")
        files._swept.clear()
        write_whole(tmp_path / "second", "second")
    assert names(tmp_path) == ["first", "second"]


@needs_locks
def test_a_lock_is_one_processs_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(BlockingIOError), locked(path):
            pass
    assert names(tmp_path) == []
    killed(f"with locked('.lock'):\n    {KILL}", tmp_path)
    with locked(path):  # what is left of a killed process locks nothing
        pass
    assert names(tmp_path) == []


@needs_locks
def test_waiting_for_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SECONDS_BETWEEN_TRIES", 0.01)
    path, waits, order = tmp_path / ".lock", threading.Event(), []

    def second() -> None:
        with locked(path, waits.set):
            order.append("second")

    with locked(path):
        other = threading.Thread(target=second)
        other.start()
        assert waits.wait(10)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]

    def give_up() -> None:
        raise KeyboardInterrupt

    with locked(path), pytest.raises(KeyboardInterrupt), locked(path, give_up):
        pass


def test_the_cache_is_where_the_user_says_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path))
    assert cache_folder("morph") == tmp_path / "morph"
    monkeypatch.delenv("SFUMATO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # so that it is as before afterwards
    monkeypatch.delenv("XDG_CACHE_HOME")
    files.caches_without_home()
    assert "XDG_CACHE_HOME" not in os.environ
    assert cache_folder("morph") == tmp_path / ".cache" / "sfumato" / "morph"


@pytest.mark.skipif(os.name == "nt", reason="everybody has a home there")
def test_without_a_home_the_cache_is_a_private_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SFUMATO_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cache_folder("morph").parent
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # so that it is as before afterwards
    monkeypatch.delenv("XDG_CACHE_HOME")
    files.caches_without_home()  # of other libraries
    assert os.environ["XDG_CACHE_HOME"] == str(folder)
    folder.rmdir()
    folder.symlink_to(tmp_path)  # somebody else made it
    with pytest.raises(UsageError, match="belongs to another user: set SFUMATO_CACHE"):
        cache_folder("morph")
