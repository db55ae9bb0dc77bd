"""Whatever a person has on the disk is named for what it is, with a remedy."""

import json
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sfumato.errors import ModelError
from sfumato.models.loading import load_model
from tests.models.original_layout import original_checkpoint
from tests.toy import toy_sd_pipeline


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, torch.Tensor]:
    return original_checkpoint(toy_sd_pipeline())


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- files that are no safetensors -----------------------------------------------------------------------------------

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3438167540\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LFS, "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
        (b"<!DOCTYPE html>\n<html><body>Log in</body></html>", "is a web page (HTML), not the file itself"),
        (b"\n  <html lang=en>" + b" " * 999, "is a web page (HTML)"),
        (b'{"error": "Invalid credentials in Authorization header"}', "is an error message of a server"),
        (
            pickle.dumps({"weight": list(range(1000))}),
            "is a pickle under another name; opening one can run any program",
        ),
        (b"GGUF\x03\x00\x00\x00" + b"\x00" * 99, "is a GGUF file"),
        (b"", "is not a whole safetensors file"),
        (b"\x10", "is not a whole safetensors file"),
        (b"\xff" * 64, "is not a whole safetensors file"),
        (struct.pack("<Q", 1 << 40) + b"{}", "is not a whole safetensors file"),
        (struct.pack("<Q", 640) + b"{" * 640, "is not a whole safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "is not a whole safetensors file"),
        (struct.pack("<Q", 7) + b'{"a":3}', "is not a whole safetensors file"),
        (struct.pack("<Q", 44) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets', "is not a whole safetensors file"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:20],
)
def test_a_file_that_is_no_safetensors_file(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert says in refusal(path)


def test_a_zipped_pickle_under_another_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert "is a pickle under another name" in refusal(tmp_path / "model.safetensors")


def test_pointers_and_pages_in_a_folder_are_named_too(sd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sd, tmp_path / "copy"))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(LFS)
    assert "unet/diffusion_pytorch_model.safetensors is a Git LFS pointer" in refusal(folder)
    (folder / "unet" / "config.json").write_bytes(LFS)
    assert "unet/config.json is a Git LFS pointer" in refusal(folder)
    (folder / "model_index.json").write_text("<!doctype html><title>Not found</title>")
    assert "model_index.json is a web page" in refusal(folder)


# --- safetensors files that are no whole model -----------------------------------------------------------------------

NETWORK = "model.diffusion_model."


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("control_model.input_blocks.0.0.weight", "is a ControlNet;"),
        ("controlnet_cond_embedding.conv_in.weight", "is a ControlNet;"),
        ("lllite_unet_input_blocks_4_1.depth1.0.weight", "is a ControlNet-LLLite;"),
        ("image_proj.proj.weight ip_adapter.1.to_k_ip.weight", "is an IP-Adapter;"),
        ("body.0.resnets.0.block1.weight", "is a T2I-Adapter;"),
        ("down_blocks.0.motion_modules.0.norm.weight", "is a motion module"),
        ("first_stage_model.encoder.conv_in.weight", "is an autoencoder (VAE);"),
        ("encoder.conv_in.weight decoder.conv_in.weight decoder.up.0.block.0.norm1.weight", "is an autoencoder (VAE);"),
        ("encoder.layers.0.weight decoder.layers.1.weight decoder.layers.3.conv.0.weight", "is a tiny autoencoder"),
        ("emb_params", "is a textual inversion"),
        ("clip_l clip_g", "is a textual inversion"),
        ("<cat-toy>", "is a textual inversion"),
        ("double_blocks.0.img_attn.qkv.weight single_blocks.0.linear1.weight img_in.weight", "is a FLUX model;"),
        (f"{NETWORK}double_blocks.0.img_attn.qkv.weight vae.encoder.conv_in.weight x.y.z", "is a FLUX model;"),
        ("transformer_blocks.0.attn.to_q.weight single_transformer_blocks.0.attn.to_q.weight a.b", "is a FLUX model;"),
        (
            f"{NETWORK}joint_blocks.0.x_block.attn.qkv.weight first_stage_model.encoder.conv_in.weight a.b",
            "Diffusion 3",
        ),
        ("transformer_blocks.0.attn.add_k_proj.weight transformer_blocks.0.attn.to_q.weight a.b", "Diffusion 3"),
        ("blocks.0.self_attn.q.weight blocks.0.self_attn.k.weight head.head.weight", "is a network of another family"),
        (
            "down_blocks.0.resnets.0.conv1.weight conv_in.weight mid_block.a.b",
            "is a UNet alone (of a diffusers folder);",
        ),
        ("input_blocks.0.0.weight middle_block.0.weight out.0.weight", "is a UNet alone;"),
        ("text_model.encoder.layers.0.mlp.fc1.weight text_model.embeddings.x a.b", "is a CLIP text encoder;"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight shared.weight a.b", "is a T5 text encoder;"),
        ("vision_model.encoder.layers.0.mlp.fc1.weight a.b c.d", "is a CLIP image encoder;"),
        ("model.0.weight model.1.sub.0.RDB1.conv1.0.weight model.10.bias", "is an upscaler;"),
        (
            "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
            "is a LoRA, not a model; load the model",
        ),
        ("base_model.model.down_blocks.0.attentions.0.to_q.lora_A.weight", "is a LoRA, not a model"),
        ("lora_unet_x.hada_w1_a lora_unet_x.hada_w1_b lora_unet_x.alpha", "is a LyCORIS LoHa, not a model"),
        ("lora_unet_x.lokr_w1 lora_unet_x.lokr_w2", "is a LyCORIS LoKr, not a model"),
        (f"{NETWORK}input_blocks.0.0.weight conditioner.embedders.0.model.x.weight a.b", "lacks the text encoder"),
        ("something.else.weight another.thing.bias a.third.one", "is no complete checkpoint of a known family"),
    ],
)
def test_a_safetensors_file_is_named_for_what_it_holds(tmp_path: Path, keys: str, says: str) -> None:
    path = tmp_path / "file.safetensors"
    save_file({key: torch.zeros(2, 3) for key in keys.split()}, path)
    assert says in refusal(path)


@pytest.mark.parametrize(
    ("channels", "says"),
    [
        (9, "takes 9 channels, not 4: it takes a mask and an image as well (inpainting)"),
        (8, "takes 8 channels, not 4: it takes an image as well (InstructPix2Pix)"),
        (5, "takes 5 channels, not 4: it takes depth as well"),
        (7, "takes 7 channels, not 4: it takes a small image as well"),
        (6, "takes 6 channels, not 4: it was made for other inputs"),
    ],
)
def test_checkpoints_that_take_more_than_text_are_refused_before_their_configuration_is_asked_for(
    tmp_path: Path, checkpoint: dict[str, torch.Tensor], channels: int, says: str
) -> None:
    first = f"{NETWORK}input_blocks.0.0.weight"
    save_file(checkpoint | {first: torch.zeros(16, channels, 3, 3)}, tmp_path / "model.safetensors")
    message = refusal(tmp_path / "model.safetensors")
    assert says in message
    assert "give the plain text-to-image model" in message


def test_our_own_files_are_named(tmp_path: Path) -> None:
    metadata = {"format": "sfumato-inversion-1", "fields": json.dumps({})}
    save_file({"noise": torch.zeros(1, 4, 8, 8)}, tmp_path / "cat.safetensors", metadata=metadata)
    assert "is a sfumato inversion, not a model" in refusal(tmp_path / "cat.safetensors")


# --- checkpoints without an autoencoder ------------------------------------------------------------------------------


def test_a_checkpoint_without_autoencoder_takes_the_one_beside_it(
    sd: Path, tmp_path: Path, checkpoint: dict[str, torch.Tensor]
) -> None:
    kept = {key: value for key, value in checkpoint.items() if not key.startswith("first_stage_model.")}
    save_file(kept, tmp_path / "alone.safetensors")
    assert "alone.safetensors holds no autoencoder (VAE)" in refusal(tmp_path / "alone.safetensors")
    folder = Path(shutil.copytree(sd, tmp_path / "copy"))
    save_file(kept, folder / "model.safetensors")
    model = load_model(folder / "model.safetensors", device="cpu")
    expected = load_model(sd, device="cpu")
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    assert torch.equal(model.encode_image(pixels), expected.encode_image(pixels))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert "holds no autoencoder (VAE)" in refusal(folder / "model.safetensors")


def test_the_revision_of_a_checkpoint_knows_its_configuration(
    sd: Path, tmp_path: Path, checkpoint: dict[str, torch.Tensor]
) -> None:
    folder = Path(shutil.copytree(sd, tmp_path / "copy"))
    save_file(checkpoint, folder / "model.safetensors")
    before = load_model(folder / "model.safetensors", device="cpu").revision
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "v_prediction"}))
    assert load_model(folder / "model.safetensors", device="cpu").revision != before
