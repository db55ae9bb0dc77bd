"""Options declared once: types, ranges, text as the command line gives it, close names."""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from sfumato.edits.method import METHODS
from sfumato.errors import UsageError
from sfumato.inversions.method import INVERSIONS
from sfumato.options import Option
from sfumato.parameters import Parameter, parameters
from sfumato.registry import Registry, recorded


def example(
    model: Any,
    *,
    plain: int = 0,
    kind: Annotated[Literal["one", "two"], Option("which")] = "one",
    share: Annotated[float | tuple[float, float], Option("how much", low=0, high=1)] = 0.5,
    table: Annotated[Mapping[str, float] | None, Option("per word", low=-2)] = None,
    count: Annotated[int, Option("how many", low=1)] = 3,
    flag: Annotated[bool, Option("whether")] = False,
    words: Annotated[str | Sequence[str] | None, Option("which words")] = None,
    file: Annotated[str | Path | Parameter | None, Option("which file")] = None,
) -> None: ...


OPTIONS = parameters(example)


def test_only_annotated_parameters_are_options() -> None:
    assert list(OPTIONS) == ["kind", "share", "table", "count", "flag", "words", "file"]
    assert OPTIONS["kind"].choices == ("one", "two")
    assert OPTIONS["share"].range == "[0, 1]"
    assert OPTIONS["table"].range == "[-2, inf)"
    assert OPTIONS["share"].type_name == "number or list of 2"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("kind", "two", "two"),
        ("share", "0.25", 0.25),
        ("share", "1", 1),
        ("share", "[0.1, 0.9]", [0.1, 0.9]),
        ("table", '{"dog": 1.5}', {"dog": 1.5}),
        ("table", "none", None),
        ("count", "7", 7),
        ("flag", "yes", True),
        ("flag", "false", False),
        ("words", "dog", "dog"),
        ("words", '["cat", "dog"]', ["cat", "dog"]),
        ("file", "way.safetensors", "way.safetensors"),
        ("file", "2024", "2024"),
        ("file", "none", None),
    ],
)
def test_text_is_read_by_type(name: str, text: str, value: object) -> None:
    assert OPTIONS[name].parse(text) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("kind", "three", "kind must be one of one, two, got 'three'"),
        ("share", "1.5", r"share must be in \[0, 1\], got 1.5"),
        ("share", "[0.5, 2]", r"share must be in \[0, 1\], got 2"),
        ("share", "[0.5]", "share must be"),
        ("share", "lots", "share must be number or list of 2, got 'lots'"),
        ("table", '{"dog": -3}', r"table must be in \[-2, inf\), got -3"),
        ("count", "0", r"count must be in \[1, inf\), got 0"),
        ("count", "2.5", "count must be whole number"),
        ("count", "true", "count must be whole number"),
        ("flag", "perhaps", "flag must be yes or no"),
    ],
)
def test_misfits_are_named(name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OPTIONS[name].parse(text)


def test_unknown_names_suggest_the_closest() -> None:
    with pytest.raises(UsageError, match="did you mean 'prompt-to-prompt'"):
        METHODS["prompt2prompt"]
    with pytest.raises(UsageError, match="did you mean 'cross_replace_steps'"):
        METHODS["prompt-to-prompt"].check_options({"cross_replace_step": 0.5})


def test_an_option_of_an_earlier_version_is_read_as_todays() -> None:
    assert INVERSIONS["ddim"].check_options({"told": "from"}) == {"conditioned_on": "current"}
    assert INVERSIONS["direct"].check_options({"told": "from", "conditioned_on": "next"}) == {"conditioned_on": "next"}
    assert METHODS["langevin"].check_options({"start": "picture"}) == {"start": "image"}
    with pytest.raises(UsageError, match="conditioned_on must be one of next, current, got 'never'"):
        INVERSIONS["ddim"].check_options({"told": "never"})


def test_every_method_explains_every_option() -> None:
    assert len(METHODS) > 0
    for method in METHODS.values():
        assert all([method.title, method.paper, method.summary, method.when, method.cost])
        assert all(name in INVERSIONS for name in [*method.inversions, *method.refuses])
        for parameter in method.parameters.values():
            assert isinstance(parameter, Parameter)
            assert len(parameter.help) > 10, (method.name, parameter.name)
            assert parameter.check(parameter.default) == parameter.default, (method.name, parameter.name)


def test_recipes_keep_what_json_knows() -> None:
    class Thing:
        def __str__(self) -> str:
            return "a thing"

    values = {"a": (1, 2.5, True), "b": None, "c": Path("x") / "y", "d": {"e": [Thing()]}}
    assert recorded(values) == {"a": [1, 2.5, True], "b": None, "c": str(Path("x") / "y"), "d": {"e": ["a thing"]}}


METHOD = """
from typing import Annotated
from sfumato.options import Option
from {package}.registry import REGISTRY, entry

def {name}(*, share: Annotated[float, Option("how much", low=0, high=1)] = 0.5) -> None: ...

REGISTRY.add(entry({name}))
{then}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of methods of its own, and a registry of them in its `registry` module."""
    folder = tmp_path / f"methods_{tmp_path.name.replace('-', '_')}"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "registry.py").write_text(
        "from sfumato.registry import Entry, Registry\n"
        "from sfumato.parameters import parameters\n"
        f"REGISTRY = Registry('method', {folder.name!r})\n"
        "def entry(function):\n"
        "    return Entry(function.__name__, function, '', '', '', '', '', parameters(function))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_a_failed_import_does_not_leave_a_registry_empty(package: Path) -> None:
    (package / "one.py").write_text(METHOD.format(package=package.name, name="one", then=""))
    broken = package / "two.py"
    broken.write_text(METHOD.format(package=package.name, name="two", then="import no_such_module_anywhere"))
    registry: Registry[Any] = importlib.import_module(f"{package.name}.registry").REGISTRY
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
            list(registry)
    broken.write_text(METHOD.format(package=package.name, name="two", then="# mended, and of another size"))
    importlib.invalidate_caches()
    assert list(registry) == ["one", "two"]


def test_threads_that_look_first_all_find_every_entry(package: Path) -> None:
    for k in range(4):
        then = "import time; time.sleep(0.05)"
        (package / f"m{k}.py").write_text(METHOD.format(package=package.name, name=f"m{k}", then=then))
    registry: Registry[Any] = importlib.import_module(f"{package.name}.registry").REGISTRY
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: list(registry), range(8)))
    assert found == [["m0", "m1", "m2", "m3"]] * 8


def test_two_methods_of_one_name_are_refused(package: Path) -> None:
    for name in ("one", "other"):
        (package / f"{name}.py").write_text(METHOD.format(package=package.name, name="same", then=""))
    registry: Registry[Any] = importlib.import_module(f"{package.name}.registry").REGISTRY
    with pytest.raises(ValueError, match="two entries are called 'same'"):
        list(registry)


HEADED = """{heading}
from {package}.registry import REGISTRY
from sfumato.registry import Entry

@REGISTRY.decorator("headed", Entry, summary="", when="", cost=""{texts})
def headed() -> None: ...
"""


def headed(package: Path, heading: str, texts: str = "") -> Any:
    """The entry of a method whose module begins so."""
    (package / "headed.py").write_text(HEADED.format(heading=heading, package=package.name, texts=texts))
    return importlib.import_module(f"{package.name}.registry").REGISTRY["headed"]


@pytest.mark.parametrize(
    ("heading", "texts", "title", "paper"),
    [
        ('"""A way (Doe, 2024), https://a.org/1.2: how it goes."""', "", "A way", "Doe, 2024, https://a.org/1.2"),
        (
            'r"""Doe\'s (Doe and Roe, 2024), https://a.org/1.2.\n"""',
            "",
            "Doe's",
            "Doe and Roe, 2024, https://a.org/1.2",
        ),
        ('"""A way (Doe, 2024), https://a.org/1.2."""', ", title='Another'", "Another", "Doe, 2024, https://a.org/1.2"),
        ('"""Of no paper."""', ", title='A way', paper='none'", "A way", "none"),
        ("", "", "headed", ""),  # as `python -OO` leaves all modules
    ],
)
def test_title_and_paper_are_the_modules_first_line(
    heading: str, texts: str, title: str, paper: str, package: Path
) -> None:
    entry = headed(package, heading, texts)
    assert (entry.title, entry.paper) == (title, paper)


def test_a_method_without_title_and_paper_says_what_to_write(package: Path) -> None:
    with pytest.raises(ValueError, match="headed: give title and paper, or begin the module with 'Title"):
        headed(package, '"""Of no paper."""', ", title='A way'")
