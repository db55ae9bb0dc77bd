"""Prints the lowest versions that pyproject.toml admits, a line `name==version` each, as constraints for pip.

`make test-lowest` installs them. An extra that needs no more than it names is left out: `emoji`, `dev`.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = ("batch", "metrics", "serve", "test")


def lowest(text: str) -> Iterator[str]:
    """The constraints for the text of a `pyproject.toml`; a requirement without a lowest version is an error."""
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]:
        if requirement.startswith(project["name"]):
            continue
        found = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement)
        if found is None:
            raise ValueError(f"{requirement!r} is not of the form name>=version")
        yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    print(*lowest(PYPROJECT.read_text(encoding="utf-8")), sep="\n")
