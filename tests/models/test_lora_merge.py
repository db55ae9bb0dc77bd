"""Every naming of LoRA files gives the weights W + scale (alpha / r) B A, in every layer that it names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sfumato.errors import ModelError
from sfumato.models.loading import load_model
from sfumato.models.lora_merge import merge_lora
from tests.toy import toy_sd_folder, toy_sd_pipeline, toy_sdxl_pipeline

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONV = "up_blocks.1.resnets.0.conv1"
TEXT = "encoder.layers.0.self_attn.q_proj"
RANK, ALPHA = 2, 6.0


def factors(weight: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A and B of a layer, as its kind has them."""
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(RANK, *weight.shape[1:], generator=generator)
    up = torch.randn(weight.shape[0], RANK, *[1] * (weight.ndim - 2), generator=generator)
    return down, up


def paths_of(network: Any, path: str) -> str:
    """The path in this version of transformers, with or without text_model."""
    names = dict(network.named_modules())
    return path if path in names else f"text_model.{path}"


def kohya(network: str, path: str) -> str:
    prefix = "lora_unet_" if network == "unet" else "lora_te_text_model_"
    return prefix + path.replace(".", "_")


def old_style(network: str, path: str) -> str:
    """diffusers before PEFT: the processors of attention held the factors."""
    return (
        f"unet.{path.replace('attn1.to_out.0', 'attn1.processor.to_out').replace('attn1.to_q', 'attn1.processor.to_q')}"
    )


NAMINGS: dict[str, tuple[Callable[[str, str], str], str, str]] = {
    "kohya": (kohya, ".lora_down.weight", ".lora_up.weight"),
    "diffusers": (
        lambda n, p: f"{n}.{p}" if n == "unet" else f"{n}.text_model.{p}",
        ".lora_A.weight",
        ".lora_B.weight",
    ),
    "diffusers text": (
        lambda n, p: f"{n}.{p}" if n == "unet" else f"{n}.text_model.{p}",
        ".lora_linear_layer.down.weight",
        ".lora_linear_layer.up.weight",
    ),
    "diffusers 0.20": (lambda n, p: f"{n}.{p}", ".lora.down.weight", ".lora.up.weight"),
    "peft": (lambda _, p: f"base_model.model.{p}", ".lora_A.weight", ".lora_B.weight"),
}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("scaled", [True, False])
def test_every_naming_gives_the_same_weights(naming: str, scaled: bool, tmp_path: Path) -> None:
    name, down_end, up_end = NAMINGS[naming]
    pipeline, plain = toy_sd_pipeline(), toy_sd_pipeline()
    layers = [("unet", QUERY), ("unet", OUT), ("unet", CONV), ("text_encoder", TEXT)]
    tensors = {}
    for seed, (network, path) in enumerate(layers):
        module = getattr(plain, network).get_submodule(paths_of(getattr(plain, network), path))
        down, up = factors(module.weight, seed)
        tensors |= {name(network, path) + down_end: down, name(network, path) + up_end: up}
        if scaled and naming != "peft":
            tensors[f"{name(network, path)}.alpha"] = torch.tensor(ALPHA)
    save_file(tensors, tmp_path / "lora.safetensors")
    config = {"r": RANK, "lora_alpha": ALPHA if scaled else RANK}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    merge_lora(pipeline, tmp_path / "lora.safetensors", 0.5)
    share = 0.5 * (ALPHA / RANK if scaled else 1.0)
    changed = 0
    for seed, (network, path) in enumerate(layers):
        before = getattr(plain, network).get_submodule(paths_of(getattr(plain, network), path)).weight
        after = getattr(pipeline, network).get_submodule(paths_of(getattr(pipeline, network), path)).weight
        down, up = factors(before, seed)
        change = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(before.shape)
        torch.testing.assert_close(after, before + share * change)
        changed += 1
    for network in ("unet", "text_encoder"):
        same = [
            torch.equal(a, b)
            for a, b in zip(getattr(plain, network).parameters(), getattr(pipeline, network).parameters(), strict=True)
        ]
        changed -= same.count(False)
    assert changed == 0  # and nothing else


def test_the_oldest_names_of_diffusers_are_read(tmp_path: Path) -> None:
    pipeline, plain = toy_sd_pipeline(), toy_sd_pipeline()
    tensors = {}
    for path in (QUERY, OUT):
        down, up = factors(plain.unet.get_submodule(path).weight, 0)
        tensors |= {
            f"{old_style('unet', path)}_lora.down.weight": down,
            f"{old_style('unet', path)}_lora.up.weight": up,
        }
    save_file(tensors, tmp_path / "lora.safetensors")
    merge_lora(pipeline, tmp_path / "lora.safetensors", 1.0)
    for path in (QUERY, OUT):
        down, up = factors(plain.unet.get_submodule(path).weight, 0)
        weight = plain.unet.get_submodule(path).weight
        torch.testing.assert_close(pipeline.unet.get_submodule(path).weight, weight + up @ down)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (
            "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        ),
        (
            "lora_unet_middle_block_1_transformer_blocks_1_ff_net_2",
            "mid_block.attentions.0.transformer_blocks.1.ff.net.2",
        ),
        ("lora_unet_output_blocks_1_1_proj_in", "up_blocks.0.attentions.1.proj_in"),
        ("lora_unet_output_blocks_4_0_in_layers_2", "up_blocks.2.resnets.0.conv1"),
        ("lora_unet_output_blocks_1_2_conv", "up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_input_blocks_2_0_op", "down_blocks.0.downsamplers.0.conv"),
    ],
)
def test_names_of_the_original_code_find_their_layers_in_sdxl(name: str, path: str, tmp_path: Path) -> None:
    pipeline, plain = toy_sdxl_pipeline(), toy_sdxl_pipeline()
    weight = plain.unet.get_submodule(path).weight
    down, up = factors(weight, 0)
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, tmp_path / "lora.safetensors")
    merge_lora(pipeline, tmp_path / "lora.safetensors", 1.0)
    change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    torch.testing.assert_close(pipeline.unet.get_submodule(path).weight, weight + change)


def test_both_text_encoders_of_sdxl_are_reached(tmp_path: Path) -> None:
    pipeline, plain = toy_sdxl_pipeline(), toy_sdxl_pipeline()
    tensors = {}
    for prefix, network in (("lora_te1_text_model_", "text_encoder"), ("lora_te2_text_model_", "text_encoder_2")):
        encoder = getattr(plain, network)
        down, up = factors(encoder.get_submodule(paths_of(encoder, TEXT)).weight, 0)
        stem = prefix + TEXT.replace(".", "_")
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    save_file(tensors, tmp_path / "lora.safetensors")
    merge_lora(pipeline, tmp_path / "lora.safetensors", 1.0)
    for network in ("text_encoder", "text_encoder_2"):
        path = paths_of(getattr(plain, network), TEXT)
        weights = [getattr(p, network).get_submodule(path).weight for p in (plain, pipeline)]
        assert not torch.equal(*weights)


def test_a_misfit_leaves_the_weights_alone(tmp_path: Path) -> None:
    pipeline, plain = toy_sd_pipeline(), toy_sd_pipeline()
    down, up = factors(plain.unet.get_submodule(QUERY).weight, 0)
    good = {f"unet.{QUERY}.lora_A.weight": down, f"unet.{QUERY}.lora_B.weight": up}
    gone = QUERY.replace("down_blocks.0", "down_blocks.9")
    for bad in (
        {f"unet.{gone}.lora_A.weight": down, f"unet.{gone}.lora_B.weight": up},
        {f"unet.{OUT}.lora_A.weight": down[:, :-1].contiguous(), f"unet.{OUT}.lora_B.weight": up},
        {f"unet.{OUT}.lora_A.weight": down},
        {f"unet.{OUT}.lora_A.weight": down, f"unet.{OUT}.lora_B.weight": torch.zeros(3)},
    ):
        save_file({key: value.clone() for key, value in (good | bad).items()}, tmp_path / "lora.safetensors")
        with pytest.raises(ModelError, match="does not fit this model"):
            merge_lora(pipeline, tmp_path / "lora.safetensors", 1.0)
        assert torch.equal(pipeline.unet.get_submodule(QUERY).weight, plain.unet.get_submodule(QUERY).weight)


def test_kinds_that_are_not_merged_are_named(tmp_path: Path) -> None:
    sd = toy_sd_folder(tmp_path / "model")
    down, up = factors(toy_sd_pipeline().unet.get_submodule(QUERY).weight, 0)
    tensors = {f"base_model.model.{QUERY}.lora_A.weight": down, f"base_model.model.{QUERY}.lora_B.weight": up}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"adapter_config\.json, which is not beside it"):
        load_model(sd, device="cpu", lora=tmp_path / "adapter_model.safetensors")
    dora = {f"unet.{QUERY}.lora_A.weight": down, f"unet.{QUERY}.lora_B.weight": up}
    save_file(dora | {f"unet.{QUERY}.lora_magnitude_vector": torch.ones(16)}, tmp_path / "dora.safetensors")
    with pytest.raises(ModelError, match="is a DoRA"):
        load_model(sd, device="cpu", lora=tmp_path / "dora.safetensors")


def test_diffusers_merges_the_same(tmp_path: Path) -> None:
    pipeline, theirs = toy_sd_pipeline(), toy_sd_pipeline()
    tensors = {}
    for seed, path in enumerate((QUERY, OUT, CONV)):
        down, up = factors(theirs.unet.get_submodule(path).weight, seed)
        tensors |= {f"{kohya('unet', path)}.lora_down.weight": down, f"{kohya('unet', path)}.lora_up.weight": up}
        tensors[f"{kohya('unet', path)}.alpha"] = torch.tensor(ALPHA)
    save_file(tensors, tmp_path / "lora.safetensors")
    merge_lora(pipeline, tmp_path / "lora.safetensors", 0.7)
    theirs.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    theirs.fuse_lora(lora_scale=0.7)
    theirs.unload_lora_weights()
    for ours, wanted in zip(pipeline.unet.parameters(), theirs.unet.parameters(), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
