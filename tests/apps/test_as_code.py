"""A request as a command line and as Python."""

import shlex
from dataclasses import fields

import pytest
import typer.main

from sfumato.api.requests import EditRequest, MorphRequest, SliderRequest
from sfumato.apps.as_code import FLAGS, IMAGES, as_command, as_python
from sfumato.apps.cli import app

UNSAID = {"inverted", "background", "store"}
"""Arguments that the page does not set."""


@pytest.mark.parametrize("kind", [EditRequest, SliderRequest, MorphRequest])
def test_each_argument_is_an_option_of_its_command(kind: type[EditRequest | MorphRequest]) -> None:
    command = typer.main.get_command(app).commands[kind.command]  # type: ignore[attr-defined]
    known = {flag for parameter in command.params for flag in parameter.opts}
    for argument in fields(kind):
        if argument.name not in {*IMAGES, *UNSAID}:
            assert FLAGS[argument.name] in known, argument.name


def test_a_command_says_what_is_not_usual_and_quotes_it() -> None:
    request = EditRequest(
        source_prompt="a cat's face", target_prompt=["a dog", "a fox"], num_inference_steps=7, size=(64, 32),
        mask_words=["cat"], mask_pixels=True, alpha=False, options={"weights": {"dog": 2.0}},
    )  # fmt: skip
    text = as_command(request, model="emoji", files={"image": "my cat.png"}, output="result.png")
    assert shlex.split(text) == [
        "sfumato", "edit", "my cat.png", "--source", "a cat's face", "--target", "a dog", "--target", "a fox",
        "--steps", "7", "--size", "64x32", "--mask-words", "cat", "--mask-pixels", "--no-alpha",
        "--set", 'weights={"dog": 2.0}', "-o", "result.png",
    ]  # fmt: skip


def test_a_slider_says_its_ranges() -> None:
    vary = {"strength": (0.2, 0.9)}
    request = SliderRequest(source_prompt="a cat", method="sdedit", vary=vary, target_prompt="a dog")
    text = as_command(request, model="sd15", files={}, output="result.webp")
    assert "--vary strength=0.2..0.9 --model sd15 -o result.webp" in text


def test_python_is_what_a_person_would_write() -> None:
    request = EditRequest(source_prompt="a cat", target_prompt="a dog", method="sdedit", options={"strength": 0.5})
    assert as_python(request, model="emoji", files={"image": "cat.png"}, output="dog.png") == (
        "import sfumato\n\nmodel = sfumato.load_model('emoji')\nresult = sfumato.edit(\n    model,\n    'cat.png',\n"
        "    source_prompt='a cat',\n    target_prompt='a dog',\n    method='sdedit',\n    strength=0.5,\n)\n"
        "result.save('dog.png')\n"
    )
