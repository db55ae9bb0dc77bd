"""Pipelines that are already loaded, and folders of unusual parts: served where possible, else refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sfumato
from sfumato.errors import ModelError
from sfumato.models.loading import load_model
from tests.toy import toy_sd_pipeline, toy_sdxl_pipeline, toy_tokenizer


def tiny_autoencoder(seed: int = 0) -> Any:
    from diffusers import AutoencoderTiny

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        ).eval()


def drawn(model: Any) -> torch.Tensor:
    """A drawing by prompt-to-prompt, which reaches into the attention layers."""
    result = sfumato.edit(
        model, source_prompt="a photo of a cat", target_prompt="a photo of a dog", size=(64, 64), num_inference_steps=2
    )
    return torch.tensor([list(image.convert("RGB").tobytes()) for image in (result.image, result.reconstruction)])


# --- tiny autoencoders -----------------------------------------------------------------------------------------------


def test_a_tiny_autoencoder_encodes_and_decodes_as_diffusers_does(copy: Path) -> None:
    vae = tiny_autoencoder()
    shutil.rmtree(copy / "vae")
    vae.save_pretrained(copy / "vae")
    index = copy / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"vae": ["diffusers", "AutoencoderTiny"]}))
    pipeline = toy_sd_pipeline()
    pipeline.vae = vae
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for model in (load_model(copy, device="cpu"), load_model(pipeline)):
        latents = model.encode_image(pixels)
        with torch.no_grad():
            torch.testing.assert_close(latents, vae.encode(pixels).latents)
            torch.testing.assert_close(model.decode_latents(latents), vae.decode(latents).sample)


def test_an_asymmetric_autoencoder_is_served() -> None:
    from diffusers import AsymmetricAutoencoderKL

    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = AsymmetricAutoencoderKL(
        down_block_types=down, up_block_types=up, down_block_out_channels=(8, 8, 8, 8),
        up_block_out_channels=(8, 8, 8, 8), norm_num_groups=4, sample_size=64,
    ).eval()  # fmt: skip
    pipeline = toy_sd_pipeline()
    pipeline.vae = vae
    model = load_model(pipeline)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = model.encode_image(pixels)
    with torch.no_grad():
        torch.testing.assert_close(latents, vae.encode(pixels).latent_dist.mode() * 0.18215)
        torch.testing.assert_close(model.decode_latents(latents), vae.decode(latents / 0.18215).sample)


# --- pipelines of other classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Inpaint", "PAG", "Img2Img"])
def test_the_class_of_the_pipeline_does_not_matter(copy: Path, kind: str) -> None:
    import diffusers

    plain = toy_sd_pipeline()
    options = {"pag_applied_layers": ["mid"]} if kind == "PAG" else {}
    parts = plain.components | {"requires_safety_checker": False}
    ready = getattr(diffusers, f"StableDiffusion{kind}Pipeline")(**parts, **options)
    assert load_model(ready).unet is plain.unet
    index = copy / "model_index.json"
    content = json.loads(index.read_text()) | {"_class_name": f"StableDiffusion{kind}Pipeline"} | options
    index.write_text(json.dumps(content))
    model = load_model(copy, device="cpu")
    assert torch.equal(model.unet.conv_in.weight, plain.unet.conv_in.weight)


def test_an_sdxl_pipeline_with_perturbed_attention_is_served() -> None:
    from diffusers import StableDiffusionXLPAGPipeline

    parts = toy_sdxl_pipeline().components
    ready = StableDiffusionXLPAGPipeline(**parts, pag_applied_layers=["mid"], add_watermarker=False)
    assert type(load_model(ready)).__name__ == "StableDiffusionXL"


# --- networks that take more, or lie elsewhere -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"in_channels": 9}, r"takes 9 channels, not 4: it takes a mask and an image as well \(inpainting\)"),
        ({"in_channels": 8}, r"takes 8 channels, not 4: .*InstructPix2Pix"),
        ({"num_class_embeds": 10}, "takes a class label as well"),
        ({"class_embed_type": "timestep"}, "takes a class label as well"),
        ({"encoder_hid_dim_type": "ip_image_proj"}, "unload_ip_adapter"),
        ({"addition_embed_type": "text_time"}, "takes conditions of another family"),
    ],
)
def test_networks_that_take_more_than_text_are_refused(config: dict[str, Any], message: str) -> None:
    pipeline = toy_sd_pipeline()
    pipeline.unet.register_to_config(**config)
    with pytest.raises(ModelError, match=message):
        load_model(pipeline)


def test_a_class_conditioned_folder_is_refused(copy: Path) -> None:
    from diffusers import UNet2DConditionModel

    config = {key: value for key, value in toy_sd_pipeline().unet.config.items() if not key.startswith("_")}
    UNet2DConditionModel(**config | {"num_class_embeds": 3}).save_pretrained(copy / "unet")
    with pytest.raises(ModelError, match="takes a class label as well"):
        load_model(copy, device="cpu")
    path = copy / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_class_embeds": None}))
    with pytest.raises(ModelError, match=r"holds weights that its configuration has no use for: .*class_embedding"):
        load_model(copy, device="cpu")


def test_offloaded_pipelines_are_refused_and_served_after() -> None:
    from accelerate import cpu_offload

    pipeline = toy_sd_pipeline()
    cpu_offload(pipeline.unet, torch.device("cpu"))
    with pytest.raises(ModelError, match=r"is offloaded \(unet\).*pipeline\.remove_all_hooks\(\)"):
        load_model(pipeline)
    pipeline.remove_all_hooks()
    assert load_model(pipeline).unet is pipeline.unet


def test_quantised_pipelines_are_refused() -> None:
    pipeline = toy_sd_pipeline()
    pipeline.unet.to(torch.float8_e4m3fn)
    with pytest.raises(ModelError, match=r"is quantised \(unet is torch\.float8_e4m3fn\)"):
        load_model(pipeline)


def test_parts_of_other_classes_are_refused_by_name() -> None:
    pipeline = toy_sd_pipeline()
    pipeline.register_modules(text_encoder=nn.Linear(1, 1))
    with pytest.raises(ModelError, match="has a Linear as text_encoder, which is not supported"):
        load_model(pipeline)


@pytest.mark.parametrize("where", ["unet", "unet in place", "block in place", "vae"])
def test_compiled_networks_give_what_plain_ones_give(where: str) -> None:
    expected = drawn(load_model(toy_sd_pipeline()))
    pipeline = toy_sd_pipeline()
    if where == "unet":
        pipeline.unet = torch.compile(pipeline.unet)
    elif where == "unet in place":
        pipeline.unet.compile()
    elif where == "block in place":
        pipeline.unet.mid_block.compile()
    else:
        pipeline.vae = torch.compile(pipeline.vae)
    before = pipeline.unet, pipeline.vae
    model = load_model(pipeline)
    assert model.revision == load_model(toy_sd_pipeline()).revision
    assert model.unet.conv_in.weight is pipeline.unet.conv_in.weight
    assert torch.equal(drawn(model), expected)
    assert (pipeline.unet, pipeline.vae) == before


# --- tokenizers ------------------------------------------------------------------------------------------------------


def test_a_tokenizer_without_vocabulary_is_refused_in_a_ready_pipeline() -> None:
    from transformers import CLIPTokenizer

    special = ("<|startoftext|>", "<|endoftext|>")
    empty = {token: index for index, token in enumerate(special)}
    pipeline = toy_sd_pipeline()
    pipeline.tokenizer = CLIPTokenizer(vocab=empty, merges=[], model_max_length=77)
    with pytest.raises(ModelError, match="the tokenizer has no vocabulary"):
        load_model(pipeline)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    pipeline = toy_sd_pipeline()
    pipeline.tokenizer.add_tokens(["<mine>"])
    with pytest.raises(ModelError, match=r"knows \d+ tokens and its text encoder"):
        load_model(pipeline)


def test_a_tokenizer_without_a_length_takes_the_encoders() -> None:
    pipeline = toy_sd_pipeline()
    pipeline.tokenizer = toy_tokenizer()
    pipeline.tokenizer.model_max_length = 10**30
    assert load_model(pipeline).encode_prompt("a cat").text.shape == (1, 77, 32)
