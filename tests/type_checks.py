"""What the type checker says of a piece of code."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def check_types(code: str, folder: Path) -> None:
    """Asserts that strict mypy finds a mistake in each line with the comment `# wrong`, and in no other."""
    pytest.importorskip("mypy")  # of the extra `dev`
    file = folder / "snippet.py"
    file.write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), "--no-error-summary", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    wrong = {number for number, line in enumerate(code.splitlines(), start=1) if "# wrong" in line}
    lines = done.stdout.splitlines()
    found = {int(line.split(":")[1]) for line in lines if line.startswith(str(file)) and ": error:" in line}
    assert wrong
    assert found == wrong, done.stdout + done.stderr
