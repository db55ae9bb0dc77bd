"""Public calls with odd arguments: they work, or raise one of our errors; nothing else comes out."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sfumato
from sfumato.conditions.directions import direction_between, make_direction
from sfumato.edits.method import METHODS
from sfumato.inversions.method import INVERSIONS
from tests.hostile.values import WHOLE, odd_value, outcome
from tests.served import DIFFUSION, on

CALLS = 2_000 if WHOLE else 100
PROMPTS = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}
QUICK = {"num_inference_steps": 2, "guidance_scale": 2.0}
EDIT = (
    "method", "inversion", "inversion_options", "inverted", "negative_prompt", "num_inference_steps", "guidance_scale",
    "guidance_interval", "cache_interval", "source_guidance_scale", "seed", "size", "fit", "background", "encode_steps",
    "mask", "mask_words", "mask_threshold", "mask_feather", "mask_invert", "mask_pixels", "alpha", "watch",
    "fast", "no_such_argument",
)  # fmt: skip
MORPH = (
    "prompts", "method", "num_frames", "one_pace", "spacing", "spacing_options", "distance", "negative_prompt", "seed",
    "num_inference_steps", "guidance_scale", "size", "fit", "background", "encode_steps", "store", "watch", "space",
)  # fmt: skip
SLIDER = ("image", "vary", "num_frames", "spacing", "spacing_options", "distance", *PROMPTS, *EDIT)
TRANSLATE = (
    "model_a", "model_b", "image", "method", "num_inference_steps", "guidance_scale", "source_guidance_scale",
    "strength", "eta", "refine_strength", "refine_repeats", "reconstruct_source", "seed", "size", "fit", "background",
    "watch", *PROMPTS,
)  # fmt: skip
GENERATE = (
    "prompt",
    "negative_prompt",
    "num_images",
    "num_inference_steps",
    "guidance_scale",
    "guidance_interval",
    "cache_interval",
    "sampler",
    "eta",
    "seed",
    "size",
    "watch",
)
INVERT = ("image", "prompt", "method", *EDIT[4:7], *EDIT[9:15], "watch")
LOAD = (
    "name",
    "device",
    "dtype",
    "revision",
    "variant",
    "lora",
    "embeddings",
    "vae",
    "loras",
    "compile",
    "channels_last",
    "offload",
)


def one_call(draw: random.Random, model: Any, image: Image.Image) -> tuple[str, Callable[[], Any]]:
    """A call and its name: some of the arguments are odd, the others such that the call would work."""
    verb = draw.choice(
        ["edit"] * 6 + ["morph", "generate", "invert", "invert", "slider", "translate", "load_model", "direction"]
    )
    positional: list[Any] = [model]
    function: Callable[..., Any] = getattr(sfumato, verb, direction_between)
    if verb == "edit":
        method = draw.choice([name for name in on(DIFFUSION, METHODS) if name != "auto"])
        given: dict[str, Any] = {"image": image, **PROMPTS, **QUICK, "method": method}
        names = ["model", *given, *EDIT, *METHODS[method].parameters]
        if draw.random() < 0.3:
            del given["image"]
    elif verb == "morph":
        positional += [image, image.rotate(90)]
        given = {
            **QUICK,
            "method": draw.choice(["crossfade", "slerp"]),
            "num_frames": 3,
            "encode_steps": 0,
            "store": False,
        }
        names = ["model", *MORPH]
        if draw.random() < 0.2:
            positional[draw.randrange(3)] = odd_value(draw)
    elif verb == "generate":
        given, names = {"prompt": "a cat", **QUICK}, ["model", *GENERATE]
    elif verb == "invert":
        method = draw.choice(list(INVERSIONS))
        given = {"image": image, **QUICK, "method": method}
        names = ["model", *INVERT, *INVERSIONS[method].parameters]
    elif verb == "slider":
        given = {"image": image, **PROMPTS, **QUICK, "num_frames": 3, "spacing": "even", "method": "sdedit"}
        names = ["model", *SLIDER]
    elif verb == "translate":
        positional += [model, image]
        given, names = {**PROMPTS, **QUICK}, list(TRANSLATE)
    elif verb == "load_model":
        positional, given, names = [], {"name": "./no-such-folder"}, list(LOAD)
    else:
        function = draw.choice([make_direction, direction_between])
        words: tuple[Any, Any] = ("cat", "dog") if function is make_direction else (["a cat"], ["a dog"])
        positional += words
        positional[draw.randrange(3)] = odd_value(draw)
        given, names = {}, ["write"] if function is make_direction else ["source", "target"]
    odd = {name: odd_value(draw) for name in draw.sample(names, k=min(len(names), draw.choice([1, 1, 2, 3])))}
    if "model" in odd:
        positional[:1] = [odd.pop("model")]
    return f"{verb} {sorted(odd)}", lambda: function(*positional, **(given | odd))


def test_calls_give_our_errors_alone(toy_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    draw, image = random.Random(2), Image.radial_gradient("L").resize((16, 16)).convert("RGB")
    found: dict[str, list[str]] = {"worked": [], "refused": [], "raw": []}
    for number in range(CALLS):
        name, call = one_call(draw, toy_model, image)
        kind, words = outcome(call)
        found[kind].append(f"{number}: {name}: {words}")
    assert not found["raw"], "\n".join(found["raw"])
    assert len(found["refused"]) > len(found["worked"]) > 0
