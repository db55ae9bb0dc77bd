"""Inversions as files: image, negative prompt and seed go with them, and edits from them are honest and repeatable."""

import json
import math
import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.errors import InversionError, SfumatoError
from sfumato.inversions.result import Inversion

SOURCE, TARGET = "a photo of a cat", "a photo of a dog"

pytestmark = pytest.mark.filterwarnings("ignore:the reconstruction differs from the image")  # random weights


@pytest.fixture(scope="module")
def image() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC)


def invert(model: Any, image: Any, **options: Any) -> sfumato.InvertResult:
    return sfumato.invert(model, image, **({"prompt": SOURCE, "num_inference_steps": 3} | options))


def edit(model: Any, image: Any, **options: Any) -> sfumato.EditResult:
    given = {"source_prompt": SOURCE, "target_prompt": TARGET, "num_inference_steps": 3, "guidance_scale": 3.0}
    return sfumato.edit(model, image, **(given | options))


def test_the_image_goes_with_it(toy_model: Any, image: Image.Image, tmp_path: Path) -> None:
    saved = Inversion.load(invert(toy_model, image).inversion.save(tmp_path / "cat.safetensors"))
    assert saved.source_image is not None
    assert np.array_equal(saved.source_image.numpy(), np.asarray(image))
    alone, beside = (edit(toy_model, given, inverted=saved) for given in (None, image))
    assert alone.image.tobytes() == beside.image.tobytes()
    assert alone.source.tobytes() == image.tobytes()
    assert (alone.reconstruction_psnr, alone.ceiling_psnr) == (beside.reconstruction_psnr, beside.ceiling_psnr)
    assert alone.recipe["inversion"] == "direct"
    assert alone.recipe["image"] == {"path": None, "sha256": saved.image_sha256}
    assert alone.recipe["inverted"] == {"path": str(tmp_path / "cat.safetensors"), "sha256": saved.fingerprint}
    masked = edit(toy_model, None, inverted=saved, mask=Image.new("L", image.size, 255))
    assert masked.image.size == image.size


def test_without_the_image_nothing_is_called_exact(toy_model: Any, image: Image.Image) -> None:
    whole = invert(toy_model, image, method="ddim").inversion  # under "direct" not a byte may differ
    result = edit(toy_model, None, inverted=replace(whole, source_image=None))
    assert math.isfinite(result.reconstruction_psnr)
    assert math.isnan(result.ceiling_psnr)
    assert any("does not hold its image" in note for note in result.notes)
    assert result.recipe["inverted"]["path"] is None
    bare = edit(
        toy_model, None, inverted=replace(whole, source_image=None, trajectory=None, pinned=False), method="ddib"
    )
    assert math.isnan(bare.reconstruction_psnr)
    assert any("not known" in note for note in bare.notes)


def test_negative_prompt_and_seed_go_with_it(toy_model: Any, image: Image.Image, tmp_path: Path) -> None:
    options = {"method": "edit-friendly", "guidance_scale": 3.5, "negative_prompt": "a red hat", "seed": 5}
    inverted = invert(toy_model, image, **options).inversion
    saved = Inversion.load(inverted.save(tmp_path / "cat.safetensors"))
    assert (saved.negative_prompt, saved.seed) == ("a red hat", 5)
    again = edit(toy_model, image, inverted=saved, method="edit-friendly")
    assert again.recipe["negative_prompt"] == "a red hat"
    best = again.ceiling_psnr
    assert again.reconstruction_psnr == pytest.approx(best, abs=0.2)  # exact by construction
    other = edit(toy_model, image, inverted=saved, method="edit-friendly", negative_prompt="a blue house")
    assert any("made with the negative prompt 'a red hat', not 'a blue house'" in note for note in other.notes)
    assert not any("use 1" in note for note in (*other.notes, *again.notes))  # it was made for 3.5


def test_keys_tell_draws_and_negative_prompts_apart(toy_model: Any, image: Image.Image) -> None:
    given: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"negative_prompt": "a hat"},
        {"prompt": "a hat"},
        {"encode_steps": 1},
    ]
    assert len({invert(toy_model, image, **options).inversion.key for options in given}) == len(given)


def test_a_result_is_pickled_without_the_model(toy_model: Any, image: Image.Image) -> None:
    result = edit(toy_model, image)
    data = pickle.dumps(result)
    assert len(data) < 1_000_000
    assert torch.equal(pickle.loads(data).attention_map("dog"), result.attention_map("dog"))


def rewritten(path: Path, change: Any) -> Path:
    """The file with other fields and a hash that fits them: whoever writes a file can write its hash."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    from sfumato.tensorfile import content_hash

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        fields = json.loads(file.metadata()["fields"])
    change(fields, tensors)
    text = json.dumps(fields)
    metadata = {"format": "sfumato-inversion-1", "fields": text, "content": content_hash(tensors, text)}
    save_file(tensors, path, metadata=metadata)
    return path


FIELDS: dict[str, Any] = {
    "method": 5,
    "timesteps": ["a"],
    "gamma": float("nan"),
    "pinned": "x",
    "eta": "x",
    "prompt": 5,
    "negative_prompt": [],
    "guidance_scale": None,
    "seed": "x",
    "model": 5,
    "picture": 5,
    "key": 5,
    "start_index": -3,
    "evil": 1,
}


@pytest.mark.parametrize("name", FIELDS)
def test_types_of_fields_are_checked(name: str, toy_model: Any, image: Image.Image, tmp_path: Path) -> None:
    path = invert(toy_model, image, num_inference_steps=1).inversion.save(tmp_path / "cat.safetensors")
    rewritten(path, lambda fields, tensors: fields.update({name: FIELDS[name]}))
    with pytest.raises(InversionError, match=f"{name}|not finite"):
        Inversion.load(path)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("noise", torch.zeros(4)),
        ("noise", torch.zeros(1, 4, 4, 4, dtype=torch.int64)),
        ("noise", torch.zeros(0, 4, 4, 4)),
        ("noise", torch.full((1, 4, 4, 4), float("nan"))),
        ("trajectory", torch.zeros(1, 1, 4, 4, 4)),
        ("trajectory", torch.full((4, 1, 4, 4, 4), float("inf"))),
        ("noise_maps", torch.zeros(1)),
        ("evil", torch.zeros(1)),
        ("null_embeds", torch.zeros(1)),
        ("source_image", torch.zeros(3, 3, 3)),
    ],
)
def test_tensors_are_checked(
    name: str, tensor: torch.Tensor, toy_model: Any, image: Image.Image, tmp_path: Path
) -> None:
    path = invert(toy_model, image).inversion.save(tmp_path / "cat.safetensors")
    rewritten(path, lambda fields, tensors: tensors.update({name: tensor}))
    with pytest.raises(InversionError, match=f"{name}"):
        Inversion.load(path)


def test_an_inversion_of_another_size_or_of_several_images_is_refused(toy_model: Any, image: Image.Image) -> None:
    inverted = replace(invert(toy_model, image).inversion, image_sha256="")
    with pytest.raises(InversionError, match="the image's latents"):
        edit(toy_model, image.resize((64, 32)), inverted=inverted)
    assert inverted.trajectory is not None
    two = replace(
        inverted, noise=inverted.noise.repeat(2, 1, 1, 1), trajectory=inverted.trajectory.repeat(1, 2, 1, 1, 1)
    )
    with pytest.raises(InversionError, match="of 2 images"):
        edit(toy_model, image, inverted=two)
    tuned = replace(inverted, null_embeds=torch.zeros(3, 1, 77, 8))
    with pytest.raises(InversionError, match="8 channels"):
        edit(toy_model, image, inverted=tuned)
    with pytest.raises(InversionError, match=r"pooled embedding has shape \(8,\), the model has none"):
        edit(toy_model, image, inverted=replace(inverted, null_extras={"pooled": torch.zeros(1, 8)}))


def test_huge_and_strange_files_are_refused_at_once(tmp_path: Path) -> None:
    huge = tmp_path / "huge.safetensors"
    header = json.dumps({"x": {"dtype": "F32", "shape": [5 * 2**28], "data_offsets": [0, 5 * 2**30]}}).encode()
    with huge.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 5 * 2**30)  # sparse
    with pytest.raises(InversionError, match="more than 1073 MB"):
        Inversion.load(huge)
    for name in ("a\0b", "a" * 5000, 5, tmp_path):
        with pytest.raises(SfumatoError, match=r"path must be a path|no inversion at"):
            Inversion.load(name)  # type: ignore[arg-type]
