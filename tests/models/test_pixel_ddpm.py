"""Pixel-space models against diffusers' own pipelines, the ways in, and what the protocol promises."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler
from torch import Tensor

import sfumato
from sfumato.errors import ModelError, UsageError
from sfumato.models.attention import KernelCall
from sfumato.models.pixel_ddpm import UnconditionalDDPM
from sfumato.sampling.ddim import DDIM
from sfumato.sampling.ddpm import DDPM
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.toy_unconditional import toy_ddpm, toy_ddpm_pipeline, toy_unet


def noise_of(seed: int = 3) -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("pipeline_class", "scheduler"), [(DDIMPipeline, DDIMScheduler), (DDPMPipeline, DDPMScheduler)]
)
@pytest.mark.parametrize("clip_sample", [True, False])
def test_it_draws_what_diffusers_draws(pipeline_class: Any, scheduler: Any, clip_sample: bool) -> None:
    pipeline = pipeline_class(unet=toy_unet(), scheduler=scheduler(clip_sample=clip_sample))
    pipeline.set_progress_bar_config(disable=True)

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (1, 2)]  # one an image

    theirs = pipeline(batch_size=2, num_inference_steps=5, generator=generators(), output_type="np").images
    model = UnconditionalDDPM.from_pipeline(pipeline, name="toy", revision="x")
    drawing = generators()
    noise = torch.cat([torch.randn(1, 3, 16, 16, generator=one) for one in drawing])  # x_T first, then one a step
    ours = sample(
        model, noise, {"sample": Branch(model.encode_prompt(""))}, num_inference_steps=5, generator=drawing,
        stepper=DDPM() if scheduler is DDPMScheduler else DDIM(),
    )[0]  # fmt: skip
    ours = (model.decode_latents(ours) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-4, atol=1e-4)


def test_a_learned_variance_is_split_off() -> None:
    model = toy_ddpm(out_channels=6)
    with torch.no_grad():
        expected = model.unet(noise_of(), 300).sample[:, :3]
        assert torch.equal(model.predict(noise_of(), 300, model.encode_prompt("")), expected)


def test_latents_are_the_pixels_and_prompts_mean_nothing() -> None:
    model = toy_ddpm()
    pixels = noise_of().clamp(-1, 1)
    assert torch.equal(model.decode_latents(model.encode_image(pixels)), pixels)
    assert model.latent_shape() == (3, 16, 16)
    assert model.guidance_scale == 1.0
    before = model.evaluations
    with torch.no_grad():
        one, other = (
            model.predict(noise_of(), 300, model.encode_prompt(prompts).expand(2)) for prompts in (["a cat"], "a dog")
        )
    assert torch.equal(one, other)
    assert model.evaluations - before == 4
    guided = Branch(model.encode_prompt("a cat"), model.encode_prompt("a dog"), 5.0)
    plain = Branch(model.encode_prompt(""))
    torch.testing.assert_close(*(sample(model, noise_of(), {"a": b}, num_inference_steps=3) for b in (guided, plain)))


def test_grey_pictures_come_back_in_three_channels() -> None:
    model = toy_ddpm(in_channels=1, out_channels=1)
    pixels = noise_of()
    latents = model.encode_image(pixels)
    assert latents.shape == (2, 1, 16, 16)
    torch.testing.assert_close(model.decode_latents(latents)[:, 2], pixels.mean(dim=1))


def test_sizes_that_the_network_cannot_halve_are_refused() -> None:
    model = toy_ddpm()
    assert model.size_multiple == 2
    assert model.latent_shape((8, 12)) == (3, 8, 12)
    with pytest.raises(UsageError, match="multiples of 2, got 8x9"):
        model.latent_shape((8, 9))
    with pytest.raises(UsageError, match="multiples of 2 for toy-0, got 9x8"):
        model.predict(torch.zeros(1, 3, 9, 8), 300, model.encode_prompt(""))


def test_its_self_attention_can_be_edited_and_is_left_as_found() -> None:
    class Shift:
        def wants(self, site: Any) -> bool:
            return True

        def attend(self, call: KernelCall) -> Tensor:
            output = torch.nn.functional.scaled_dot_product_attention(call.query, call.key, call.value)
            return output + shift

    model = toy_ddpm()
    sites = model.sites((16, 16))
    assert {site.kind for site in sites} == {"self"}
    assert {site.grid for site in sites if site.stage != "mid"} == {(16, 16)}
    condition = model.encode_prompt("")
    with torch.no_grad():
        before = model.predict(noise_of(), 300, condition)
        for shift in (0.0, 1.0):
            with model.kernel_hook(Shift(), sites):
                hooked = model.predict(noise_of(), 300, condition)
            assert torch.allclose(hooked, before, atol=1e-5) == (shift == 0.0)
        assert torch.equal(model.predict(noise_of(), 300, condition), before)


@pytest.mark.parametrize("pipeline_class", [DDPMPipeline, DDIMPipeline])
def test_folders_load(pipeline_class: Any, tmp_path: Path) -> None:
    unet = toy_unet()
    pipeline_class(unet=unet, scheduler=DDPMScheduler(clip_sample=True)).save_pretrained(tmp_path / "model")
    model = sfumato.load_model(tmp_path / "model", device="cpu")
    assert isinstance(model, UnconditionalDDPM)
    assert all(torch.equal(a, b) for a, b in zip(model.unet.parameters(), unet.parameters(), strict=True))
    assert model.schedule.clip_sample_range == 1.0
    assert sfumato.generate(model, "anything", num_inference_steps=2).image.size == (16, 16)


def test_a_folder_whose_network_lies_beside_its_index_loads(tmp_path: Path) -> None:
    """The layout of the first models on the hub."""
    toy_ddpm_pipeline().save_pretrained(tmp_path / "model")
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (tmp_path / "model").rglob("*.*"):
        shutil.copy(file, flat / file.name)
    model = sfumato.load_model(flat, device="cpu")
    assert torch.equal(model.unet.conv_in.weight, toy_unet().conv_in.weight)
    (flat / "diffusion_pytorch_model.safetensors").rename(flat / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match="only as a pickle"):
        sfumato.load_model(flat, device="cpu")


def test_a_ready_pipeline_loads_in_another_dtype() -> None:
    model = sfumato.load_model(toy_ddpm_pipeline(), dtype="fp64")
    assert model.dtype == torch.float64
    assert model.revision.startswith("sha256:")


@pytest.mark.parametrize(
    ("changes", "scheduler", "message"),
    [
        ({"num_class_embeds": 4}, None, "takes a class label"),
        ({"in_channels": 4, "out_channels": 4}, None, "maps 4 channels to 4"),
        ({}, DDPMScheduler(thresholding=True), "dynamic thresholding"),
    ],
)
def test_what_is_not_such_a_model_is_refused(changes: Any, scheduler: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        sfumato.load_model(toy_ddpm_pipeline(scheduler=scheduler, **changes), device="cpu")
