"""A request as a command line and as Python, which make the same image: for people to copy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.api.request import Request

FLAGS: Mapping[str, str] = {
    "source_prompt": "--source",
    "target_prompt": "--target",
    "prompts": "--prompt",
    "negative_prompt": "--negative",
    "method": "--method",
    "fast": "--fast",
    "options": "--set",
    "inversion": "--inversion",
    "inversion_options": "--set-inversion",
    "num_frames": "--frames",
    "one_pace": "--one-pace",
    "spacing": "--spacing",
    "spacing_options": "--set-spacing",
    "distance": "--distance",
    "vary": "--vary",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "guidance_interval": "--guidance-interval",
    "cache_interval": "--cache-interval",
    "source_guidance_scale": "--source-guidance",
    "seed": "--seed",
    "size": "--size",
    "fit": "--fit",
    "encode_steps": "--encode-steps",
    "mask": "--mask",
    "mask_words": "--mask-words",
    "mask_threshold": "--mask-threshold",
    "mask_feather": "--mask-feather",
    "mask_invert": "--mask-invert",
    "mask_pixels": "--mask-pixels",
    "alpha": "--alpha",
}
"""The option of the command line for each argument."""
IMAGES = ("image", "images")


def as_command(request: Request, *, model: str, files: Mapping[str, Any], output: str) -> str:
    """The command that does the same.

    Args:
        request: Of an edit, a slider or a morph.
        model: What `--model` takes.
        files: Names of the files in the place of `image`, `images` and `mask`.
        output: Name of the result.
    """
    words = ["sfumato", request.command]
    for name, value in _said(request, files).items():
        if name in IMAGES:
            words += [value] if isinstance(value, str) else list(value)
        else:
            words += _option(name, value)
    return shlex.join([*words, *(["--model", model] if model != "emoji" else []), "-o", output])


def as_python(request: Request, *, model: str, files: Mapping[str, Any], output: str) -> str:
    """The Python that does the same; see `as_command`."""
    lines, named = ["model,"], dict(_said(request, files))
    for name in IMAGES:
        value = named.pop(name, ())
        lines += [f"{file!r}," for file in ([value] if isinstance(value, str) else value)]
    options = named.pop("options", {})
    if isinstance(named.get("target_prompt"), tuple) and len(named["target_prompt"]) == 1:
        named["target_prompt"] = named["target_prompt"][0]
    lines += [f"{name}={value!r}," for name, value in {**named, **options}.items()]
    arguments = "\n".join(f"    {line}" for line in lines)
    return (
        f"import sfumato\n\nmodel = sfumato.load_model({model!r})\n"
        f"result = sfumato.{request.command}(\n{arguments}\n)\nresult.save({output!r})\n"
    )


def _said(request: Request, files: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are not as they are by default, images first."""
    said: dict[str, Any] = {name: files[name] for name in IMAGES if files.get(name)}
    for argument in fields(request):
        value = files.get(argument.name) if argument.name == "mask" else getattr(request, argument.name)
        default = argument.default if argument.default_factory is MISSING else argument.default_factory()
        known = argument.name in FLAGS and value is not None and value != default
        if known and not (isinstance(value, Mapping | tuple) and not value):
            said[argument.name] = value
    return said


def _option(name: str, value: Any) -> list[str]:
    flag = FLAGS[name]
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag.removeprefix('--')}"]
    if name == "size":
        return [flag, "x".join(map(str, value))]
    if name == "guidance_interval":
        return [flag, ",".join(f"{share:g}" for share in value)]
    if name == "vary":
        return [word for key, ends in _ranges(value) for word in (flag, f"{key}={ends[0]:g}..{ends[1]:g}")]
    if isinstance(value, Mapping):
        return [word for key, part in value.items() for word in (flag, f"{key}={_text(part)}")]
    if isinstance(value, tuple | list):
        return [word for part in value for word in (flag, str(part))]
    return [flag, str(value)]


def _ranges(vary: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, ends in vary.items():
        inner = ends.items() if isinstance(ends, Mapping) else ()
        found += [(f"{key}.{word}", pair) for word, pair in inner] or [(key, ends)]
    return found


def _text(value: Any) -> str:
    """An option's value as `--set` reads it."""
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value, ensure_ascii=False)
