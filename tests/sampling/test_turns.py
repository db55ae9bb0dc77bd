"""Runs of several threads on one model: each waits for the others, and gives what it gives alone."""

import copy
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.api.common import check_inverted
from sfumato.errors import Cancelled
from sfumato.inversions.result import Inversion
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch

PROMPTS: dict[str, Any] = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}

pytestmark = pytest.mark.filterwarnings("ignore:the reconstruction differs from the image")  # random weights


@pytest.fixture(scope="module")
def image() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


def test_every_verb_gives_in_a_thread_beside_the_others_what_it_gives_alone(toy_model: Any, image: Image.Image) -> None:
    other = image.transpose(Image.Transpose.ROTATE_90)
    quick: dict[str, Any] = {"num_inference_steps": 3}
    runs = {
        "prompt-to-prompt": lambda: sfumato.edit(toy_model, image, **PROMPTS, **quick).image,
        "masactrl": lambda: sfumato.edit(toy_model, image, method="masactrl", **PROMPTS, **quick).image,
        "plug-and-play": lambda: sfumato.edit(toy_model, image, method="plug-and-play", **PROMPTS, **quick).image,
        "pix2pix-zero": lambda: sfumato.edit(toy_model, image, method="pix2pix-zero", **PROMPTS, **quick).image,
        "generate": lambda: sfumato.generate(toy_model, "a cat", size=(64, 64), **quick).image,
        "invert": lambda: sfumato.invert(toy_model, image, prompt="a cat", **quick).reconstruction,
        "morph": lambda: sfumato.morph(
            toy_model, image, other, method="attention-interpolation", spacing="even", num_frames=3, encode_steps=0,
            store=False, **quick,
        ).images[1],
        "slider": lambda: sfumato.slider(
            toy_model, image, num_frames=3, spacing="even", distance="pixel", **PROMPTS, **quick
        ).images[1],
        "translate": lambda: sfumato.translate(toy_model, toy_model, image, strength=1.0, **quick).image,
    }  # fmt: skip
    alone = {name: run().tobytes() for name, run in runs.items()}
    with ThreadPoolExecutor(len(runs)) as pool:
        started = {name: pool.submit(run) for name, run in runs.items()}
        together = {name: future.result().tobytes() for name, future in started.items()}
    assert {name for name in runs if together[name] != alone[name]} == set()


def test_an_inversion_is_not_checked_by_a_text_encoder_beside_a_run(toy_model: Any) -> None:
    """Of an offloaded model, that would take away the network which the run is in."""
    noise, null_embeds = torch.zeros(1, 4, 8, 8), toy_model.encode_prompt("").text[None]
    inverted, checked = Inversion("null-text", noise, (1,), null_embeds=null_embeds), Event()

    def check() -> None:
        check_inverted(toy_model, inverted, None, (1,))
        checked.set()

    with taking_turns(toy_model):
        beside = Thread(target=check)
        beside.start()
        assert not checked.wait(1.0)
    beside.join()
    assert checked.is_set()


def test_a_model_around_the_same_networks_waits_too(toy_model: Any) -> None:
    twin = copy.copy(toy_model)
    entered, left = Event(), Event()

    def second() -> None:
        with taking_turns(twin):
            entered.set()

    with taking_turns(toy_model):
        thread = Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
        with taking_turns(toy_model):  # a run inside a run goes on
            left.set()
    assert entered.wait(5)
    assert left.is_set()
    thread.join()


def test_a_run_that_waits_can_be_cancelled(toy_model: Any) -> None:
    seen: list[BaseException] = []

    def second() -> None:
        try:
            sfumato.generate(toy_model, "a cat", watch=Watch(cancelled=lambda: True))
        except Cancelled as error:
            seen.append(error)

    with taking_turns(toy_model):
        thread = Thread(target=second)
        thread.start()
        thread.join(5)
    assert "before the model was free" in str(seen[0])
