"""Ctrl-C, SIGTERM and a closed terminal end a command with one line and nothing left behind, whenever they come."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of Unix")

HEAD = """
import os, signal, sys, typer
from pathlib import Path
from sfumato.apps.console import command, print_json
from sfumato.files import folder_written_whole, write_whole, written_whole

def stop(number=None):
    os.kill(os.getpid(), number or int(sys.argv[1]))

def run(function):
    sys.argv[1:] = []
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command(function))
    app()
"""


def run(folder: Path, program: str, *args: Any, head: str = HEAD, **given: Any) -> subprocess.CompletedProcess[bytes]:
    code = head + textwrap.dedent(program)
    command = [sys.executable, "-c", code, *map(str, args)]
    given.setdefault("preexec_fn", heed_hangups)
    return subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=60, **given)


def heed_hangups() -> None:
    """As in a terminal, also where these tests run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_while_files_are_written_leaves_nothing(tmp_path: Path, number: int) -> None:
    done = run(
        tmp_path,
        """
        number = int(sys.argv[1])
        def work():
            with folder_written_whole("frames") as part, written_whole("result") as other:
                write_whole(part / "frame", b"frame")
                stop(number)
        run(work)
        """,
        int(number),
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, b"", b"error: stopped\n")
    assert list(tmp_path.iterdir()) == []


def test_impatience_does_not_keep_files_from_being_tidied_up(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        def work():
            with written_whole("result"):
                try:
                    stop(signal.SIGTERM)
                finally:
                    stop(signal.SIGTERM), stop(signal.SIGINT)
        run(work)
        """,
    )
    assert (done.returncode, done.stderr) == (143, b"error: stopped\n")
    assert list(tmp_path.iterdir()) == []


def test_a_stop_that_a_library_wraps_is_a_stop(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        def work():
            try:
                stop(signal.SIGINT)
            except KeyboardInterrupt as error:
                raise ImportError("cannot load library") from error
        run(work)
        """,
    )
    assert (done.returncode, done.stderr) == (130, b"error: stopped\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["typer", "sfumato.apps.morph"])
def test_a_stop_while_the_command_starts(tmp_path: Path, number: int, module: str) -> None:
    done = run(
        tmp_path,
        f"""
        import os, sys
        class Stopping:
            def find_spec(self, name, *_):
                if name == {module!r}:
                    os.kill(os.getpid(), {int(number)})
        sys.meta_path.insert(0, Stopping())
        from sfumato.__main__ import main
        main()
        """,
        head="",
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, b"", b"error: stopped\n")


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
        def work():
            stop(signal.SIGHUP)
            print("done")
        run(work)
        """,
    )
    assert (done.returncode, done.stdout) == (0, b"done\n")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_with_a_name_that_is_not_utf_8(tmp_path: Path, encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = run(tmp_path, "print_json({'output': os.fsdecode(b'caf\\xe9-\\xf0\\x9f\\x90\\x88.png')})", env=environment)
    assert done.returncode == 0, done.stderr
    assert os.fsencode(json.loads(done.stdout)["output"]) == b"caf\xe9-\xf0\x9f\x90\x88.png"
