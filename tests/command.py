"""Runs `sfumato` inside the process of a test."""

import functools
from typing import Any
from unittest.mock import patch

from typer.main import get_command
from typer.testing import CliRunner

from sfumato.apps.cli import app

_command = functools.cache(get_command)


def invoke(*args: Any) -> Any:
    """What a command with these arguments writes and how it ends. Typer would build all commands anew for each call."""
    with patch("typer.testing._get_command", _command):
        return CliRunner().invoke(app, [str(arg) for arg in args])
