"""LoRAs of flow models, in the formats of diffusers, peft and kohya: merged as diffusers applies them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sfumato.errors import ModelError
from sfumato.models.loading import load_model
from tests.toy_flow import toy_flux_pipeline, toy_sd3_pipeline

MAKERS = {"sd3": toy_sd3_pipeline, "flux": toy_flux_pipeline}
LAYERS = {
    "sd3": ["to_q", "add_k_proj", "attn.to_out.0", "ff.net.0.proj"],
    "flux": ["to_q", "add_k_proj", "attn.to_out.0", "proj_mlp", "norm.linear"],
}


def predicted(model: Any) -> Tensor:
    latents = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(latents, 600.0, model.encode_prompt("a photo of a cat"))  # type: ignore[no-any-return]


def trained(family: str) -> Any:
    """A pipeline with a peft adapter of random factors."""
    from peft import LoraConfig

    pipeline = MAKERS[family]()
    config = LoraConfig(r=2, lora_alpha=6, target_modules=LAYERS[family], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        pipeline.transformer.add_adapter(config)
    return pipeline


def saved(pipeline: Any, folder: Path) -> Path:
    from peft.utils import get_peft_model_state_dict

    network = pipeline.transformer
    pipeline.save_lora_weights(
        folder, get_peft_model_state_dict(network),
        transformer_lora_adapter_metadata=network.peft_config["default"].to_dict(),
    )  # fmt: skip
    return folder / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("family", MAKERS)
def test_a_lora_that_diffusers_saved_is_merged_as_it_is_applied(family: str, tmp_path: Path) -> None:
    adapted = trained(family)
    file = saved(adapted, tmp_path / "lora")
    MAKERS[family]().save_pretrained(tmp_path / "model")
    merged = load_model(tmp_path / "model", lora=file, device="cpu")
    expected = predicted(load_model(adapted))
    plain = predicted(load_model(MAKERS[family]()))
    torch.testing.assert_close(predicted(merged), expected, atol=1e-5, rtol=1e-4)
    assert float((expected - plain).abs().max()) > 1e-3
    assert f"+lora:{merged.parts['lora'][0]['sha256'][:16]}@1" in merged.revision

    half = load_model(tmp_path / "model", lora=(file, 0.5), device="cpu")
    loaded = MAKERS[family]()
    loaded.load_lora_weights(file.parent, weight_name=file.name)  # the file alone is too little for diffusers 0.39
    loaded.fuse_lora(lora_scale=0.5, components=["transformer"])
    torch.testing.assert_close(predicted(half), predicted(load_model(loaded)), atol=1e-5, rtol=1e-4)


def test_a_lora_of_flux_in_kohyas_names_is_converted(tmp_path: Path) -> None:
    generator, rank, width = torch.Generator().manual_seed(0), 2, 32
    down, up = torch.randn(rank, width, generator=generator), torch.randn(3 * width, rank, generator=generator)
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {
        f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(6.0)
    }  # fmt: skip
    save_file(tensors, tmp_path / "lora.safetensors")
    toy_flux_pipeline().save_pretrained(tmp_path / "model")
    merged = load_model(tmp_path / "model", lora=tmp_path / "lora.safetensors", device="cpu")
    plain = load_model(tmp_path / "model", device="cpu")
    for k, name in enumerate(("to_q", "to_k", "to_v")):
        layers = [m.transformer.transformer_blocks[0].attn.get_submodule(name) for m in (merged, plain)]  # type: ignore[attr-defined]
        change = 3.0 * up[k * width : (k + 1) * width] @ down
        torch.testing.assert_close(layers[0].weight, layers[1].weight + change, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", MAKERS)
def test_a_lora_of_another_family_is_refused(family: str, tmp_path: Path) -> None:
    other = "flux" if family == "sd3" else "sd3"
    file = saved(trained(other), tmp_path / "lora")
    MAKERS[family]().save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="does not fit this model; it was made for another family or size"):
        load_model(tmp_path / "model", lora=file, device="cpu")


def test_other_parts_are_refused(tmp_path: Path) -> None:
    toy_flux_pipeline().save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="takes LoRAs, but no embedding, other VAE or clip skip"):
        load_model(tmp_path / "model", clip_skip=1, device="cpu")
