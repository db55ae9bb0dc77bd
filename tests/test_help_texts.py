"""Help texts are what a stranger reads first: each option has one, in plain words and not too long."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import sfumato
from sfumato.apps.cli import app
from sfumato.bench.registry import BENCHMARKS, benchmark_parameters
from sfumato.edits.method import METHODS
from sfumato.inversions.method import INVERSIONS
from sfumato.morphs.method import MORPHS
from sfumato.morphs.spacings.base import SPACINGS

MANNERED = re.compile(
    r"\bshall\b|\bpictures?\b|\btold\b|whose eyes|in the eyes of|come[s]? back|leads? (away|back)|hands? back|"
    r"\bspare\b|\bmend|get back to noise|\bnobody\b|at hand",
    re.IGNORECASE,
)
PACKAGE = Path(sfumato.__file__).parent


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its name, those of groups too."""
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {below}", each) for below, each in command.commands.items())
        else:
            yield name, command


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_option_of_a_command_says_what_it_does(name: str, command: Any) -> None:
    assert command.help, name
    for parameter in command.params:
        text = parameter.help
        assert text, f"{name} {parameter.name} has no help"
        assert text.endswith("."), f"{name} {parameter.name}: {text}"
        assert len(text) <= 160, f"{name} {parameter.name}: {text}"
        assert MANNERED.search(text) is None, f"{name} {parameter.name}: {text}"


def options() -> Iterator[tuple[str, str]]:
    """The help of every option of a method, inversion, morph, spacing or benchmark, by its name."""
    for registry in (METHODS, INVERSIONS, MORPHS, SPACINGS):
        for entry in registry.values():
            yield from ((f"{entry.name}: {each.name}", each.help) for each in entry.parameters.values())
    for name, (load, _) in BENCHMARKS.items():
        helps = {each.name: each.help for each in benchmark_parameters(load()).values()}
        yield from ((f"{name}: {option}", text) for option, text in helps.items() if text)


def test_every_option_of_a_method_says_what_it_does() -> None:
    for name, text in options():
        assert len(text.split()) >= 3, f"{name}: {text}"
        assert not text.endswith("."), f"{name}: {text}"
        assert not re.match(r"of |the same", text), f"{name}: {text}"  # what of? a help is read by itself
        if "names and weights" not in text:  # these list the energies
            assert len(text) <= 220, f"{name}: {text}"
        assert MANNERED.search(text) is None, f"{name}: {text}"


def test_texts_of_entries_are_plain() -> None:
    for registry in (METHODS, INVERSIONS, MORPHS, SPACINGS):
        for entry in registry.values():
            refused = getattr(entry, "refuses", {}).values()
            for text in (entry.title, entry.summary, entry.when, entry.cost, *refused):
                assert MANNERED.search(text) is None, f"{entry.name}: {text}"


def test_a_module_says_first_what_it_is() -> None:
    """One line that a stranger reads alone, then a blank one."""
    for path in sorted(PACKAGE.rglob("*.py")):
        lines = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()
        assert lines, f"{path} has no docstring"
        assert lines[0].endswith((".", ":")), f"{path}: {lines[0]}"
        assert len(lines) == 1 or not lines[1], f"{path}: {lines[0]}"
        assert MANNERED.search(lines[0]) is None, f"{path}: {lines[0]}"


def test_texts_of_the_package_are_plain() -> None:
    """Docstrings and messages; what is quoted, a name in a file or in code, is left out."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "training" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 4:
                text = re.sub(r"`[^`]*`|\"[^\"]*\"", "", node.value)
                found = MANNERED.search(text)
                assert found is None, f"{path}:{node.lineno}: {found[0]}"
