"""What the type checker says of a piece of code."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def check_types(folder: Path, **codes: str) -> None:
    """Asserts that strict mypy finds a mistake in each line with the comment `# wrong`, and in no other.

    Args:
        folder: Where the files are written.
        codes: Contents of files by name; all are checked by one run, most of which is starting.
    """
    pytest.importorskip("mypy")  # of the extra `dev`
    files = {name: folder / f"{name}.py" for name in codes}
    for name, file in files.items():
        file.write_text(codes[name], encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), "--no-error-summary", *map(str, files.values())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    for name in files:  # a kept result of the same code names the folder that it was first written to
        wrong = {number for number, line in enumerate(codes[name].splitlines(), start=1) if "# wrong" in line}
        found = {int(line.split(":")[1]) for line in lines if f"/{name}.py:" in line and ": error:" in line}
        assert wrong
        assert found == wrong, done.stdout + done.stderr
