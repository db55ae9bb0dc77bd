"""`sfumato serve`: what it refuses to start with, and that it starts, stops and starts again."""

import contextlib
import http.client
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sfumato
from sfumato.apps.cli import app
from sfumato.apps.serve import _listen
from sfumato.images import png_bytes
from tests.apps.web.serving import serving
from tests.apps.web.test_server import EDIT, picture


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["serve", *arguments])
    assert done.exit_code == 2, done.output
    return done.stderr


def test_other_computers_need_a_token() -> None:
    for host in ("0.0.0.0", "192.0.2.1", "example.org", "::"):
        assert "give --token-file" in refused("--host", host)


@pytest.mark.parametrize("token", ["", "short", "with spaces in the middle of it", "ünïcödé-ünïcödé-ünïcödé"])
def test_a_token_that_is_easily_guessed_is_refused(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token, encoding="utf-8")
    assert "at least 16" in refused("--token-file", str(tmp_path / "token"))


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "cannot read --token-file" in refused("--token-file", str(tmp_path / "token"))


def test_a_port_in_use_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "choose another with --port" in refused("--port", str(taken.getsockname()[1]))


@pytest.mark.parametrize("size", ["20", "MB", "0MB", "-1MB", "20TB"])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    assert "--max-upload must be a size such as 20MB" in refused(f"--max-upload={size}")


@contextmanager
def started(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command in a process of its own, with the port that it printed."""
    command = [sys.executable, "-m", "sfumato", "serve", "--port", "0", "--model", str(folder), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r":(\d+)/", process.stdout.readline())
        assert found is not None, process.communicate()
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200


@pytest.mark.long
def test_it_stops_at_ctrl_c_and_its_port_is_free_again(toy: Path) -> None:
    with started(toy) as (process, port):
        assert healthy(port)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "Traceback" not in process.communicate()[1]
    with _listen("127.0.0.1", port):
        pass


def test_the_command_that_is_shown_makes_the_same_file(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(toy, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my cat.png").write_bytes(png_bytes(picture(size=(64, 64))))
    model: Any = sfumato.load_model("tiny", device="cpu")
    with serving(model) as client:
        upload = client.send((tmp_path / "my cat.png").read_bytes(), "my%20cat.png")
        mask = {"words": ["cat"], "threshold": 0.3, "pixels": True}
        request = {**EDIT, "method": "sdedit", "options": {"strength": 0.5}, "seed": 7, "guidance_scale": 2.5}
        request |= {"negative_prompt": "a 'hat'", "mask": mask}
        run = client.run(request, image=upload["id"])
        assert run["state"] == "done", run
        command = shlex.split(run["result"]["command"])
        assert command[:3] == ["sfumato", "edit", "my cat.png"]
        done = CliRunner().invoke(app, [*command[1:], "--device", "cpu"])
        assert done.exit_code == 0, done.output
        assert (tmp_path / "result.png").read_bytes() == client.file(run, "image-0.png").body
