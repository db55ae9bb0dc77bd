"""LoRA files of every origin: merged as their makers meant, or refused for what they are."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfumato.errors import ModelError
from sfumato.models.loading import load_model
from tests.models.original_layout import original_checkpoint
from tests.toy import toy_sd_pipeline


def by_peft(folder: Path, part: str = "unet", **options: Any) -> Path:
    """What peft's own `save_pretrained` writes for one network."""
    from peft import LoraConfig, get_peft_model

    targets = {"unet": ["to_q"], "text_encoder": ["q_proj"]}[part]
    config = LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": targets, "init_lora_weights": False} | options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        get_peft_model(getattr(toy_sd_pipeline(), part), config).save_pretrained(folder)
    return folder / "adapter_model.safetensors"


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize(("options", "factor"), [({}, 3.0), ({"use_rslora": True}, 6 / 2**0.5)])
def test_a_lora_that_peft_saved_is_merged_with_its_scale(
    sd: Path, tmp_path: Path, part: str, options: dict[str, Any], factor: float
) -> None:
    file = by_peft(tmp_path / "lora", part, **options)
    factors = load_file(file)
    plain, merged = load_model(sd, device="cpu"), load_model(sd, device="cpu", loras=[(file, 0.5)])
    networks = [model.unet if part == "unet" else model.text_encoders[0] for model in (plain, merged)]
    before, after = (network.state_dict() for network in networks)
    changed = {
        key.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for key in factors if "lora_A" in key
    }
    assert len(changed) > 1
    for key, weight in before.items():
        name = next((name for name in changed if key.removesuffix(".weight").endswith(name)), None)
        if name is None:
            assert torch.equal(after[key], weight)
        else:
            low, up = (factors[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
            torch.testing.assert_close(after[key], weight + 0.5 * factor * up @ low, rtol=1e-4, atol=1e-5)


def test_the_scale_that_peft_stores_beside_a_lora_counts_as_content(sd: Path, tmp_path: Path) -> None:
    file = by_peft(tmp_path / "lora")
    before = load_model(sd, device="cpu", loras=[file]).revision
    config = file.with_name("adapter_config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 1}))
    assert load_model(sd, device="cpu", loras=[file]).revision != before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, r"its scale is in adapter_config\.json, which is not beside it"),
        ({"lora_alpha": "x"}, "lora_alpha must be a positive number, got 'x'"),
        ({"r": 0}, "r must be a positive number, got 0"),
        ({"rank_pattern": {"to_q": 4}}, "says rank_pattern, which is not supported"),
        ({"use_dora": True}, "says use_dora, which is not supported"),
    ],
)
def test_a_lora_of_peft_that_cannot_be_merged(sd: Path, tmp_path: Path, config: Any, message: str) -> None:
    file = by_peft(tmp_path / "lora")
    beside = file.with_name("adapter_config.json")
    if config is None:
        beside.unlink()
    else:
        beside.write_text(json.dumps(json.loads(beside.read_text()) | config))
    with pytest.raises(ModelError, match=message):
        load_model(sd, device="cpu", loras=[file])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("lora_unet_x.hada_w1_a lora_unet_x.hada_w1_b lora_unet_x.alpha", "is a LyCORIS LoHa, which is not supported"),
        ("lora_unet_x.lokr_w1 lora_unet_x.lokr_w2", "is a LyCORIS LoKr, which is not supported"),
        ("lora_unet_x.oft_blocks", "is a LyCORIS OFT, which is not supported"),
        ("lora_unet_x.on_input lora_unet_x.weight", "is a LyCORIS IA3, which is not supported"),
        ("lora_unet_x.diff lora_unet_y.lora_down.weight", "is a LyCORIS full-difference LoRA, which is not supported"),
        ("control_model.input_blocks.0.0.weight", "no LoRA: .* is a ControlNet"),
        ("emb_params", "no LoRA: .* is a textual inversion"),
        ("double_blocks.0.x.weight a.b c.d", "no LoRA: .* is a FLUX model"),
    ],
)
def test_what_is_no_plain_lora_is_named(sd: Path, tmp_path: Path, keys: str, message: str) -> None:
    file = tmp_path / "style.safetensors"
    save_file({key: torch.zeros(2, 3) for key in keys.split()}, file)
    with pytest.raises(ModelError, match=message):
        load_model(sd, device="cpu", loras=[file])


def test_a_checkpoint_without_autoencoder_takes_the_one_that_is_given(sd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sd, tmp_path / "copy"))
    shutil.rmtree(folder / "vae")
    (folder / "vae").mkdir()
    shutil.copy(sd / "vae" / "config.json", folder / "vae")
    checkpoint = original_checkpoint(toy_sd_pipeline())
    kept = {key: value for key, value in checkpoint.items() if not key.startswith("first_stage_model.")}
    save_file(kept, folder / "model.safetensors")
    model = load_model(folder / "model.safetensors", vae=sd / "vae", device="cpu")
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    assert torch.equal(model.encode_image(pixels), load_model(sd, device="cpu").encode_image(pixels))
