"""`make test-lowest` installs exactly the lowest versions that pyproject.toml admits."""

import pytest

from tests.lowest import PYPROJECT, lowest


def test_every_requirement_has_a_lowest_version() -> None:
    constraints = dict(line.split("==") for line in lowest(PYPROJECT.read_text(encoding="utf-8")))
    assert {"torch", "diffusers", "transformers", "pillow", "typer", "pyarrow", "pytest"} <= set(constraints)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_the_lowest_versions_are_safe_ones() -> None:
    constraints = dict(line.split("==") for line in lowest(PYPROJECT.read_text(encoding="utf-8")))
    for name, safe in {"torch": "2.10", "diffusers": "0.38", "transformers": "5.3", "pillow": "13"}.items():
        assert numbers(constraints[name]) >= numbers(safe), name


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch>=2.10,<3"])
def test_another_form_is_refused(requirement: str) -> None:
    extras = "{ batch = [], metrics = [], serve = [], test = [] }"
    text = f"""
    project = {{ name = "x", dependencies = ["{requirement}"], optional-dependencies = {extras} }}
    """
    with pytest.raises(ValueError, match="is not of the form name>=version"):
        list(lowest(text))
