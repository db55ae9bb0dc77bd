"""Hostile recipes, tensor files, rows, PIE mappings and special files."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save

from sfumato.tensorfile import content_hash
from tests.hostile.images import Files, deflated, png, saved, subject

DEEP = 20_000
NOT_FINITE = (float("nan"), float("inf"), -float("inf"))
TYPES: tuple[Any, ...] = (
    None,
    True,
    5,
    -1,
    0,
    2.5,
    10**12,
    10**30,
    10**400,
    *NOT_FINITE,
    "",
    "x",
    "\ud800",
    "a\0b",
    "\x1b[2J",
    [],
    [1],
    ["a"],
    {},
    {"a": []},
)


def carrier(text: str, key: str = "sfumato") -> bytes:
    """A PNG that carries a text as its recipe."""
    info = PngImagePlugin.PngInfo()
    info.add_text(key, text)
    return saved(subject(), "PNG", pnginfo=info)


def good_recipe(image: str) -> dict[str, Any]:
    """A recipe of two steps that works."""
    return {
        "command": "edit", "sfumato": "0.1.0", "model": "emoji", "revision": "", "method": "sdedit", "inversion": None,
        "inversion_options": {}, "source_prompt": "a cat", "target_prompts": ["a dog"], "negative_prompt": "",
        "num_inference_steps": 2, "guidance_scale": 2.0, "source_guidance_scale": 1.0, "seed": 0, "size": None,
        "fit": None,
        "background": [255, 255, 255], "encode_steps": 0, "options": {}, "mask": None, "image": {"path": image},
        "inverted": None,
    }  # fmt: skip


def hostile_recipes(image: str) -> Files:
    """PNGs with hostile recipes; every entry in every type, and what a stranger would try."""
    good = good_recipe(image)
    for name in good:
        for number, value in enumerate(TYPES):
            yield f"{name}-{number:02d}.png", carrier(json.dumps({**good, name: value}))
        yield f"{name}-lacks.png", carrier(json.dumps({key: value for key, value in good.items() if key != name}))
    drawn = {"image": None}
    tries: dict[str, dict[str, Any]] = {
        "paths": {"image": {"path": "/etc/passwd"}}, "device": {"image": {"path": "/dev/zero"}},
        "up": {"image": {"path": "../" * 40 + "etc/passwd"}},
        "long-path": {"image": {"path": "a" * 70_000}}, "sha": {"image": {"path": image, "sha256": 5}},
        "nested-path": {"image": {"path": [image]}},
        "size-far": {"size": [10**9, 10**9], "fit": "resize"}, "size-8000": {"size": [8_000, 8_000], **drawn},
        "size-far-drawn": {"size": [10**9, 8], **drawn},
        "size-three": {"size": [64, 64, 64]}, "size-nested": {"size": [[64], [64]]},
        "size-true": {"size": [True, True]}, "size-half": {"size": [64.5, 64.5]},
        "colour-far": {"background": [10**9, 0, 0]}, "colour-half": {"background": [0.5] * 3},
        "colour-nested": {"background": [[1], [2], [3]]},
        "method-long": {"method": "x" * 10**6},
        "auto-many": {"method": "auto", "options": {"tries": 11, "draws": 10**9}},
        "inversion": {"method": "prompt-to-prompt", "inversion": "nope"},
        "inner-steps": {
            "method": "prompt-to-prompt", "inversion": "null-text", "inversion_options": {"inner_steps": 10**9}
        },
        "options": {"options": {"no_such": 1}},
        "options-private": {"options": {"__class__": 1, "generator": 2, "model": 3, "watch": 4}},
        "options-nested": {"options": {"strength": {"a": {"b": []}}}}, "options-key": {"options": {"": 1}},
        "repeats": {"options": {"repeats": 10**9}},
        "encoder": {"method": "egsde", "options": {"encoder": "somebody/clip"}},
        "encoder-path": {"method": "langevin", "options": {"encoder": "/etc"}},
        "direction": {"method": "pix2pix-zero", "options": {"direction": "/etc/passwd"}},
        "targets": {"target_prompts": ["a dog"] * 1_000},
        "targets-mixed": {"target_prompts": ["a dog", 1, None]}, "target-half": {"target_prompts": ["\ud800"]},
        "prompt-long": {"source_prompt": "cat " * 200_000},
        "steps": {"num_inference_steps": 1_000}, "encode": {"encode_steps": 10**9},
        "guidance": {"guidance_scale": 1e308}, "seed-far": {"seed": 2**64},
        "mask-path": {"mask": {"path": "/etc/passwd"}},
        "mask-address": {"mask": {"path": "http://127.0.0.1:9/x.png"}}, "mask-words": {"mask": {"words": [3]}},
        "mask-nan": {"mask": {"words": ["cat"], "threshold": float("nan")}},
        "mask-feather": {"mask": {"words": ["cat"], "feather": 1e12}},
        "model-hub": {"model": "attacker/evil", "revision": "a" * 40}, "model-root": {"model": "/"},
        "model-up": {"model": "../../../etc"},
        "model-address": {"model": "http://127.0.0.1:9/x"}, "model-long": {"model": "m" * 70_000},
        "model-pickle": {"model": "x.ckpt"}, "model-device": {"model": "/dev/zero"},
        "inverted-path": {"inverted": {"path": "/dev/zero", "sha256": "x"}},
        "inverted-passwd": {"inverted": {"path": "/etc/passwd"}}, "inverted-list": {"inverted": {"path": []}},
        "lora": {"lora": [{"path": "/etc/passwd", "sha256": "x", "scale": 1e400}]},
        "vae": {"vae": {"path": "/dev/zero", "sha256": "x"}}, "loras": {"lora": 5},
        "another": {"command": "morph"}, "extra": {"output": "/nowhere/in.png", "device": "cuda"},
    }  # fmt: skip
    for name, change in tries.items():
        yield f"try-{name}.png", carrier(json.dumps({**good, **change}))
    texts = {
        "list-deep": "[" * DEEP + "]" * DEEP, "object-deep": '{"a":' * DEEP,
        "digits": '{"command": "edit", "seed": ' + "9" * 9_000 + "}", "cut": "{", "list": "[1]",
        "empty": "", "null": "null", "twice": json.dumps(good)[:-1] + ', "model": "/etc"}',
        "options-deep": json.dumps(good).replace('"options": {}', '"options": ' + '{"a":' * 500 + "1" + "}" * 500),
        "many": json.dumps({**good, **{f"k{number}": number for number in range(50_000)}}),
        "spaces": " " * 500_000 + json.dumps(good),
    }  # fmt: skip
    for name, text in texts.items():
        yield f"text-{name}.png", carrier(text)
    yield "other-key.png", carrier("{}", key="parameters")
    exif = Image.Exif()
    for name, comment in (
        ("cut", b"ASCII\0\0\0sfumato:{"),
        ("deep", b"ASCII\0\0\0sfumato:" + b"[" * 9_000),
        ("bytes", b"ASCII\0\0\0sfumato:\xff\xfe"),
    ):
        exif.get_ifd(0x8769)[0x9286] = comment
        yield f"exif-{name}.jpg", saved(subject(), "JPEG", exif=exif)
        yield f"exif-{name}.webp", saved(subject(), "WEBP", exif=exif)
        yield f"comment-{name}.gif", saved(subject(), "GIF", comment=comment[8:])
    yield "box.mp4", b"\0\0\0\x18ftypmp42" + b"\xfe" * 300
    yield "moov.mp4", b"\0\0\0\x10ftypmp42\0\0\0\0" + b"\xff\xff\xff\xffmoov"
    yield "sizes.mp4", b"\0\0\0\x10ftypmp42\0\0\0\0" + b"\0\0\0\0moov" * 1_000


def sealed(kind: str, tensors: dict[str, Any], fields: Any) -> bytes:
    """A tensor file whose content hash is right: whoever writes a file can write its hash."""
    text = fields if isinstance(fields, str) else json.dumps(fields)
    return save(tensors, {"format": f"sfumato-{kind}-1", "fields": text, "content": content_hash(tensors, text)})


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def hostile_tensors() -> Files:
    """Safetensors files that lie, and inversions and directions in every type."""
    one, four = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)

    def entry(**change: Any) -> dict[str, Any]:
        return {"x": {**one["x"], **change}}

    headers: dict[str, bytes] = {
        "empty": b"", "short": b"\1\2\3", "length-far": raw(one, four, 2**63), "length-past": raw(one, four, 10**6),
        "length-0": raw(b"", b"", 0), "deep": raw(b"[" * 90_000),
        "deep-object": raw(b'{"a":' * 40_000), "not-utf8": raw(b"\xff" * 64), "list": raw([1]),
        "spaces": raw(b" " * 2_000_000 + b"{}"), "hole": raw(entry(data_offsets=[4, 8]), bytes(8)),
        "reversed": raw(entry(data_offsets=[4, 0]), four), "negative": raw(entry(shape=[-1]), four),
        "overflow": raw(entry(shape=[2**62, 2**62]), four),
        "terabyte": raw(entry(shape=[2**38], data_offsets=[0, 2**40]), four), "dtype": raw(entry(dtype="F99"), four),
        "mismatch": raw(entry(dtype="F64"), four),
        "metadata-number": raw({**one, "__metadata__": {"format": 5}}, four),
        "metadata-list": raw({**one, "__metadata__": []}, four),
        "foreign": raw({**one, "__metadata__": {"format": "pt"}}, four),
        "plain": raw(one, four), "trailing": raw(one, bytes(12)),
        "twice": raw(b"{" + b",".join([json.dumps(one)[1:-1].encode()] * 2) + b"}", four),
        "many": raw({f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(50_000)}),
        "pickle": b"\x80\x04cposix\nsystem\n(S'touch RUN'\ntR.", "zip": b"PK\3\4" + bytes(90),
        "lora": save({"a.lora_A.weight": torch.zeros(1, 1), "a.lora_B.weight": torch.zeros(1, 1)}),
        "text": b"version https://git-lfs.github.com/spec/v1\nsize 9\n",
    }  # fmt: skip
    yield from headers.items()
    noise, path = torch.full((1, 4, 16, 16), 0.1), torch.full((3, 1, 4, 16, 16), 0.1)
    fields: dict[str, Any] = {
        "method": "ddim", "timesteps": [501, 1], "gamma": 0.0, "pinned": False, "eta": 0.0, "prompt": "a cat",
        "negative_prompt": "", "guidance_scale": 1.0,
        "seed": 0, "model": "", "picture": "", "key": "", "start_index": 0,
    }  # fmt: skip
    good = {"noise": noise, "trajectory": path}
    for name in fields:
        for number, value in enumerate(TYPES):
            yield f"inversion-{name}-{number:02d}", sealed("inversion", good, {**fields, name: value})
    more = {
        "good": (good, {}), "evil": (good, {"evil": 1}), "drawn": (good, {"method": "drawn"}),
        "picture": (good, {"method": "picture"}), "timesteps-rise": (good, {"timesteps": [1, 501]}),
        "timesteps-far": (good, {"timesteps": [10**9, 1]}),
        "timesteps-many": (good, {"timesteps": list(range(10**5))}), "start-far": (good, {"start_index": 99}),
        "null-text": (good, {"method": "null-text"}),
    }  # fmt: skip
    for name, (tensors, change) in more.items():
        yield f"inversion-{name}", sealed("inversion", tensors, {**fields, **change})
    wrong: dict[str, dict[str, Any]] = {
        "nan": {"noise": noise * float("nan")}, "endless": {"trajectory": path * float("inf")},
        "flat": {"noise": torch.zeros(4)}, "whole": {"noise": noise.long()}, "true": {"noise": noise.bool()},
        "half": {"noise": noise.bfloat16()}, "small": {"noise": noise[..., :4, :4].contiguous()},
        "channels": {"noise": torch.zeros(1, 9, 16, 16), "trajectory": torch.zeros(3, 1, 9, 16, 16)},
        "none": {"noise": noise[:0]},
        "two": {"noise": noise.repeat(2, 1, 1, 1), "trajectory": path.repeat(1, 2, 1, 1, 1)},
        "short": {"trajectory": path[:1]}, "extra": {"evil": noise.clone()},
        "maps": {"noise_maps": torch.zeros(1)}, "maps-few": {"noise_maps": path[:1].clone()},
        "embeds": {"null_embeds": torch.zeros(1)}, "embeds-narrow": {"null_embeds": torch.zeros(2, 1, 77, 8)},
        "embeds-odd": {"null_embeds": torch.zeros(2, 1, 5, 32)}, "pooled": {"null_pooled_embeds": torch.zeros(1, 8)},
        "correction": {"correction": noise.clone()}, "image": {"source_image": torch.zeros(9, 9, 3)},
        "image-thin": {"source_image": torch.zeros(0, 9, 3, dtype=torch.uint8)},
        "image-other": {"source_image": torch.zeros(9, 9, 3, dtype=torch.uint8)},
    }  # fmt: skip
    for name, change in wrong.items():
        yield f"inversion-{name}", sealed("inversion", good | change, fields)
    for name, text in {
        "list": "[1]",
        "cut": "{",
        "deep": "[" * DEEP,
        "null": "null",
        "digits": "9" * 9_000,
        "empty": "",
    }.items():
        yield f"inversion-fields-{name}", sealed("inversion", good, text)
    way = {
        "fingerprint": "x",
        "source": "cat",
        "target": "dog",
        "name": "cat -> dog",
        "sentences": [1, 1],
        "model": "emoji",
    }
    embeds = torch.full((1, 77, 8), 0.1)
    for name in way:
        for number, value in enumerate(TYPES):
            yield f"direction-{name}-{number:02d}", sealed("direction", {"embeds": embeds}, {**way, name: value})
    for name, tensors in {
        "good": {"embeds": embeds},
        "lacks": {"pooled": embeds},
        "flat": {"embeds": embeds[0]},
        "nan": {"embeds": embeds * float("nan")},
    }.items():
        yield f"direction-{name}", sealed("direction", tensors, way)


def hostile_rows() -> Files:
    """Contents of rows.jsonl in the folder of a benchmark's run."""
    row = {
        "case": "a",
        "kind": "k",
        "configuration": "c",
        "method": "m",
        "inversion": "",
        "status": "done",
        "figures": {},
    }
    good = json.dumps(row).encode()
    yield from {
        "good": good + b"\n", "cut": good[:-9], "cut-first": good[:-9] + b"\n" + good + b"\n", "empty": b"",
        "lines": b"\n" * 9, "not-utf8": b"\xff\xfe\n", "deep": b"[" * 90_000 + b"\n", "nul": b"\0" * 90 + b"\n",
        "digits": b'{"case": ' + b"9" * 9_000 + b"}\n", "mark": b"\xef\xbb\xbf" + good + b"\n",
        "script": good.replace(b'"k"', b'"</script><script>alert(1)</script>"') + b"\n",
    }.items()  # fmt: skip
    for number, value in enumerate((None, 5, "x", [], [1], {})):
        yield f"line-{number}", json.dumps(value).encode() + b"\n"
    for name in row:
        for number, value in enumerate(TYPES):
            yield f"{name}-{number:02d}", json.dumps({**row, name: value}).encode() + b"\n"
    for number, value in enumerate(TYPES):
        yield f"figure-{number:02d}", json.dumps({**row, "figures": {"psnr": value}}).encode() + b"\n"


def hostile_mappings() -> Files:
    """Contents of PIE-Bench's mapping_file.json."""
    entry = {
        "image_path": "a.png", "original_prompt": "a [cat]", "editing_prompt": "a [dog]", "editing_type_id": "1",
        "mask": [0, 100], "blended_word": "cat dog",
    }  # fmt: skip
    for number, value in enumerate(TYPES):
        yield f"whole-{number:02d}", json.dumps(value).encode()
        yield f"entry-{number:02d}", json.dumps({"0": value}).encode()
        for name in entry:
            yield f"{name}-{number:02d}", json.dumps({"0": {**entry, name: value}}).encode()
    tries: dict[str, dict[str, Any]] = {
        "good": {}, "up": {"image_path": "../../outside.png"}, "passwd": {"image_path": "/etc/passwd"},
        "device": {"image_path": "/dev/zero"}, "pipe": {"image_path": "pipe.png"},
        "eps": {"image_path": "eps.png"}, "bomb": {"image_path": "bomb.png"}, "link": {"image_path": "link.png"},
        "mask-odd": {"mask": [1]}, "mask-negative": {"mask": [-5, 3]}, "mask-far": {"mask": [0, 10**30]},
        "mask-half": {"mask": [0.5, 1.5]}, "mask-long": {"mask": [0, 1] * 150_000},
        "prompt-long": {"original_prompt": "cat " * 90_000}, "type-digits": {"editing_type_id": "²"},
    }  # fmt: skip
    for name, change in tries.items():
        yield f"try-{name}", json.dumps({"0": {**entry, **change}}).encode()
    for name, key in {
        "up": "../../../outside",
        "long": "k" * 5_000,
        "nul": "a\0b",
        "script": "</script><img src=x onerror=alert(1)>",
    }.items():
        yield f"key-{name}", json.dumps({key: entry}).encode()
    yield "not-utf8", b"\xff\xfe{}"
    yield "deep", b"[" * 90_000


def image_folder(folder: Path) -> None:
    """The annotation images beside a mapping: a good one, a script, a bomb, a pipe and a link out of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.png").write_bytes(saved(subject(), "PNG"))
    (folder / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    (folder / "bomb.png").write_bytes(png(12_900, 13_000, colour=0, data=deflated(12_901 * 13_000)))
    (folder / "link.png").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.png")


def special_files(folder: Path) -> Iterator[Path]:
    """What is no regular file: pipes, devices, links in circles, folders, a sparse file of 20 GB."""
    folder.mkdir(parents=True, exist_ok=True)
    links = {
        "circle-a": "circle-b.png", "circle-b": "circle-a.png", "dangling": "nowhere", "zeros": "/dev/zero",
        "random": "/dev/urandom", "memory": "/proc/self/mem",
        "terminal": "/dev/tty", "input": "/dev/stdin",
    }  # fmt: skip
    for name, to in links.items():
        path = folder / f"{name}.png"
        path.symlink_to(to)
        yield path
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    with (folder / "sparse.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(20 << 30)
    yield from (folder / "pipe.png", folder / "folder.png", folder / "sparse.png")
