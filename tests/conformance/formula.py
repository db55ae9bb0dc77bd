"""Reads the formulas that cases state in words of mathematics: `[cos(g), 0.1 t] with g = 1.9 t - 0.5 t^2`."""

import math
import re
from collections.abc import Callable
from typing import Any

NAMES: dict[str, Any] = {
    "pi": math.pi,
    "e": math.e,
    **{name: getattr(math, name) for name in ("sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "atan", "floor")},
    "abs": abs,
    "min": min,
    "max": max,
    "ln": math.log,
}
WORDS = {"if", "else", "and", "or", "not"}
TOKEN = re.compile(r"\d+\.?\d*(?:e-?\d+)?|\.\d+|[A-Za-z_]\w*|<=|>=|==|!=|\*\*|\S")


def curve(text: str, variable: str) -> Callable[[float], list[float]]:
    """The function that a formula states: from a value of its variable to the numbers in its brackets.

    `^` is a power, and a product may go without a sign: `2 t^3`, `12 (t - 0.5)`.
    """
    main, _, where = text.partition(" with ")
    definitions = [part.split("=", 1) for part in re.split(r" and |;|, (?=\w+ = )", where) if part]
    compiled = [(name.strip(), compile(_python(body), text, "eval")) for name, body in definitions]
    whole = compile(_python(main), text, "eval")

    def at(value: float) -> list[float]:
        names = {**NAMES, "__builtins__": {}, variable: float(value)}
        for name, body in compiled:
            names[name] = eval(body, names)
        numbers = eval(whole, names)
        return [float(number) for number in (numbers if isinstance(numbers, list) else [numbers])]

    return at


def _python(text: str) -> str:
    found: list[str] = []
    for token in TOKEN.findall(text):
        starts = token == "(" or (re.match(r"[\w.]", token) and token not in WORDS)
        before = found[-1] if found else ""
        ends = before == ")" or (re.match(r"[\w.]", before) and before not in WORDS)
        called = token == "(" and callable(NAMES.get(before))
        if starts and ends and not called:
            found.append("*")
        found.append("**" if token == "^" else token)
    return " ".join(found)
