"""Options declared once: types, ranges, text as the command line gives it, close names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from sfumato.errors import UsageError
from sfumato.parameters import Option, Parameter, parameters
from sfumato.registry import INVERSIONS, METHODS, recorded


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
