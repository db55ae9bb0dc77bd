"""Forms of the web page made of odd values: they are read, or refused by one of our errors; so are uploads."""

import json
import random
from typing import Any

import pytest

from sfumato.apps.web.forms import Limits, read_form
from sfumato.apps.web.uploads import Upload
from sfumato.errors import ImageError
from sfumato.images import png_bytes
from sfumato.json_input import read_json
from tests.apps.web.test_server import EDIT, picture
from tests.hostile.files import hostile_recipes
from tests.hostile.images import hostile_images
from tests.hostile.test_requests import SAMPLES
from tests.hostile.values import WHOLE, odd_value, outcome

TRIES = 10_000 if WHOLE else 500
LIMITS = Limits()


def test_odd_forms_make_no_traceback(toy_model: Any) -> None:
    draw, found, raw = random.Random(2), {"worked": 0, "refused": 0, "raw": 0}, []
    upload = Upload.read(png_bytes(picture()), "cat.png", LIMITS.pixels)
    named = {"image": "x", "mask": "x", "images": ["x", "x"]}
    for number in range(TRIES):
        request = draw.choice([EDIT, *(values for _, values in SAMPLES)])
        request = {name: part for name, part in request.items() if name not in ("image", "images", "inverted", "mask")}
        form: dict[str, Any] = {"request": request, **{name: named[name] for name in draw.sample(list(named), k=2)}}
        if draw.random() < 0.7:
            name = draw.choice([*request, "mask", "options", "vary", "x"])
            form["request"] = {**request, name: odd_value(draw)}
        if draw.random() < 0.3:
            form[draw.choice(["image", "images", "mask", "model", "request", "x"])] = odd_value(draw)
        find = lambda name: upload if name == "x" else None  # noqa: E731
        try:
            given = read_json(json.dumps(form))  # as the server reads it: what is no JSON comes no further
        except (TypeError, ValueError, RecursionError):
            continue
        result, words = outcome(lambda given=given, find=find: read_form(given, toy_model, find, LIMITS))
        found[result] += 1
        if result == "raw":
            raw.append(f"{number}: {sorted(form)}: {words}")
    assert not raw, "\n".join(raw[:20])
    assert found["refused"] > 0
    assert found["worked"] > 0


def test_hostile_files_are_read_or_refused_as_uploads() -> None:
    raw = []
    for name, data in (*hostile_images(), *hostile_recipes("cat.png")):
        result, words = outcome(lambda data=data, name=name: Upload.read(data, name, LIMITS.pixels))
        if result == "raw":
            raw.append(f"{name}: {words}")
    assert not raw, "\n".join(raw)


def test_a_file_of_another_kind_is_no_upload() -> None:
    with pytest.raises(ImageError, match="this file is not an image"):
        Upload.read(b"hello there, this is text", "a.png", LIMITS.pixels)
