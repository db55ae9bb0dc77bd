"""Adapters against diffusers' own pipelines on the same weights, and what the protocol promises."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.errors import ModelError, UsageError
from sfumato.models.attention import KernelCall
from sfumato.models.sdxl import StableDiffusionXL
from sfumato.models.stable_diffusion import StableDiffusion
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.toy import toy_sd_pipeline, toy_sdxl_pipeline

PROMPT, NEGATIVE = "a photo of a cat with a hat", "a house"


def noise_of(model: Any, size: tuple[int, int] = (128, 128)) -> Tensor:
    return torch.randn(1, *model.latent_shape(size), generator=torch.Generator().manual_seed(3))


def drawn_by_us(model: Any, noise: Tensor, prompt: str = PROMPT, negative: str = NEGATIVE) -> Tensor:
    condition = model.encode_prompt([prompt, negative])
    branch = Branch(condition[[0]], condition[[1]], 5.0)
    return sample(model, noise, {"sample": branch}, num_inference_steps=4, neighbour="stride")[0]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("size", [(128, 128), (64, 96), (72, 136)])  # the last halves to odd sides
def test_stable_diffusion_draws_what_diffusers_draws(prediction: str, size: tuple[int, int]) -> None:
    pipeline = toy_sd_pipeline(prediction_type=prediction)
    model = StableDiffusion.from_pipeline(pipeline, name="toy", revision="x")
    noise = noise_of(model, size)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPT, negative_prompt=NEGATIVE, latents=noise, num_inference_steps=4, guidance_scale=5.0,
        height=size[0], width=size[1], output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(drawn_by_us(model, noise), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("negative", [NEGATIVE, ""])
@pytest.mark.parametrize("size", [(128, 128), (64, 96)])
def test_sdxl_draws_what_diffusers_draws(size: tuple[int, int], negative: str) -> None:
    pipeline = toy_sdxl_pipeline()
    model = StableDiffusionXL.from_pipeline(pipeline, name="toy-xl", revision="x")
    noise = noise_of(model, size)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPT, negative_prompt=negative or None, latents=noise, num_inference_steps=4, guidance_scale=5.0,
        height=size[0], width=size[1], output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(drawn_by_us(model, noise, negative=negative), theirs, rtol=1e-4, atol=1e-4)


def test_images_encode_and_decode_as_diffusers_does(toy_model: Any) -> None:
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = toy_model.vae
    latents = toy_model.encode_image(pixels)
    torch.testing.assert_close(latents, vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor)
    torch.testing.assert_close(
        toy_model.decode_latents(latents), vae.decode(latents / vae.config.scaling_factor).sample
    )
    assert latents.shape == (2, *toy_model.latent_shape((64, 96)))


def test_prompts_of_any_length_are_encoded_in_full(toy_model: Any, toy_xl_model: Any) -> None:
    limit = toy_model.text.chunk
    long = " ".join(["cat"] * limit + ["dog"])
    for model in (toy_model, toy_xl_model):
        both = model.encode_prompt([long, "a cat"])
        length = model.encode_prompt("a cat").tokens
        assert both.tokens == 2 * length
        other = model.encode_prompt(long.replace("dog", "hat")).text
        assert not torch.equal(both.text[:1, length:], other[:, length:])  # the last word counts
        torch.testing.assert_close(both.text[:1, :length], other[:, :length])
        # a short prompt beside a long one, or with the empty prompt as its negative, is padded by empty chunks
        latents = sample(
            model,
            noise_of(model, (64, 64)),
            {
                "long": Branch(model.encode_prompt(long), guidance_scale=3.0),
                "short": Branch(model.encode_prompt("a cat")),
            },
            num_inference_steps=1,
        )
        assert bool(torch.isfinite(latents).all())


def test_words_stand_where_their_embeddings_do(toy_model: Any, toy_xl_model: Any) -> None:
    """A weight changes the embeddings of its word alone, in whichever chunk that stands."""
    before = " ".join(["cat"] * (toy_model.text.chunk + 3))
    for model in (toy_model, toy_xl_model):
        plain, strong = (model.encode_prompt(f"{before} {dog} hat").text for dog in ("dog", "(dog:1.5)"))
        changed = (strong - plain).abs().amax(dim=-1)[0] > 1e-6
        assert changed.nonzero().flatten().tolist() == list(dict(model.text.words(f"{before} dog hat"))["dog"])
        assert int(changed.nonzero()) == model.text.length + model.text.start + 3


def test_sizes_that_the_autoencoder_cannot_halve_are_refused(toy_model: Any) -> None:
    with pytest.raises(UsageError, match="multiples of 8, got 100x64"):
        toy_model.latent_shape((100, 64))


@pytest.mark.parametrize("name", ["toy_model", "toy_xl_model", "tiny_model"])
@pytest.mark.parametrize("size", [(16, 16), (9, 13)])
def test_sites_tell_the_grids_that_the_network_runs(name: str, size: tuple[int, int], request: Any) -> None:
    model = request.getfixturevalue(name)
    sites = model.sites(size)
    seen: list[str] = []

    class Look:
        def wants(self, site: Any) -> bool:
            return True

        def attend(self, call: KernelCall) -> Tensor:
            assert call.site.positions == call.query.shape[2], call.site
            assert (call.site.kind == "cross") == (call.key.shape[2] == 77)
            seen.append(call.site.name)
            probs = (call.query * call.scale @ call.key.transpose(-1, -2)).softmax(-1)
            if call.site.text_keys is not None:
                assert probs[..., call.site.text_keys].shape[-2:] == (call.site.positions, 77)
            return probs @ call.value

    latents = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))
    condition = model.encode_prompt("a cat")
    with torch.no_grad():
        plain = model.predict(latents, 500, condition)
        with model.kernel_hook(Look(), sites):
            hooked = model.predict(latents, 500, condition)
        assert torch.equal(model.predict(latents, 500, condition), plain)  # nothing leaks
    torch.testing.assert_close(hooked, plain, rtol=1e-4, atol=1e-5)
    assert seen == [site.name for site in sites]  # in execution order, each once
    assert [site.depth for site in sites] == [k / (len(sites) - 1) for k in range(len(sites))]


def test_unknown_attention_processors_are_refused_and_left_alone() -> None:
    model = StableDiffusion.from_pipeline(toy_sd_pipeline(), name="toy", revision="x")
    site = model.sites((16, 16))[0]

    class Custom:
        def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return hidden_states

    custom = Custom()
    layer = model.unet.get_submodule(site.name)
    layer.set_processor(custom)
    with pytest.raises(ModelError, match="Custom"), model.kernel_hook(None, [site]):  # type: ignore[arg-type]
        pass
    assert layer.processor is custom


def test_models_say_what_they_are(toy_model: Any) -> None:
    assert repr(toy_model) == "<StableDiffusion 'toy' on cpu, float32>"
    assert not any(parameter.requires_grad for parameter in toy_model.unet.parameters())
    assert not toy_model.unet.training
