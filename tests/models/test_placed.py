"""Pipelines whose weights diffusers casts, quantises or brings to the device: served as they are, or refused."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato
from sfumato.attention.values import ValueSharing
from sfumato.errors import ModelError, UsageError
from sfumato.models.loading import load_model
from sfumato.models.ready import networks
from tests.toy import toy_sd_pipeline, toy_sdxl_pipeline
from tests.toy_flow import toy_flux_pipeline, toy_sd3_pipeline

FLOWS = {"sd3": toy_sd3_pipeline, "flux": toy_flux_pipeline}
MAKERS = {"sd": toy_sd_pipeline, "sdxl": toy_sdxl_pipeline, **FLOWS}
CPU = torch.device("cpu")


def predicted(model: Any) -> Tensor:
    latents = torch.randn(1, model.latent_channels, 4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(latents, 600.0, model.encode_prompt("a photo of a cat"))  # type: ignore[no-any-return]


def denoiser(pipeline: Any) -> Any:
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


def grouped(pipeline: Any) -> None:
    for network in (denoiser(pipeline), pipeline.vae):
        network.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


def by_blocks(pipeline: Any) -> None:
    denoiser(pipeline).enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type="block_level", num_blocks_per_group=1
    )


def whole_models(pipeline: Any) -> None:
    """What enable_model_cpu_offload does, which needs an accelerator."""
    from accelerate import cpu_offload_with_hook

    hook = None
    for _, network in networks(pipeline):
        _, hook = cpu_offload_with_hook(network, CPU, prev_module_hook=hook)


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("place", [grouped, by_blocks, whole_models])
def test_an_offloaded_pipeline_gives_what_the_plain_one_gives(family: str, place: Callable[[Any], None]) -> None:
    expected = predicted(load_model(MAKERS[family]()))
    pipeline = MAKERS[family]()
    place(pipeline)
    model = load_model(pipeline)
    assert model.device == CPU
    assert torch.equal(predicted(model), expected)
    sites = model.sites((4, 8))
    with model.kernel_hook(ValueSharing([site.name for site in sites]), sites):
        torch.testing.assert_close(predicted(model), expected)
    assert torch.equal(predicted(model), expected)
    pixels = torch.zeros(1, 3, 32, 64)
    assert model.decode_latents(model.encode_image(pixels)).shape == pixels.shape


@pytest.mark.parametrize("family", FLOWS)
def test_layers_that_are_cast_as_they_run_are_served(family: str) -> None:
    pipeline = MAKERS[family]()
    exact = predicted(load_model(MAKERS[family]()))
    pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = {value.dtype for value in pipeline.transformer.parameters()}
    assert torch.float8_e4m3fn in stored
    model = load_model(pipeline)
    assert model.dtype == torch.float32
    rounded = predicted(model)
    assert 0.0 < float((rounded - exact).norm() / exact.norm()) < 0.3
    assert {value.dtype for value in pipeline.transformer.parameters()} == stored
    result = sfumato.edit(
        model, torch.zeros(3, 32, 48), source_prompt="a cat", target_prompt="a dog", num_inference_steps=2
    )
    assert result.recipe["method"] == "flowedit"


class Int8Linear(nn.Module):
    """As a quantiser puts in the place of linear layers: whole numbers, and a scale."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().max() / 127
        self.weight = nn.Parameter((linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.scale, self.bias = nn.Parameter(scale, requires_grad=False), linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x) * self.scale, self.bias)


def quantised(pipeline: Any) -> Any:
    for block in pipeline.transformer.transformer_blocks:
        for name in ("to_q", "to_k", "to_v"):
            setattr(block.attn, name, Int8Linear(getattr(block.attn, name)))
    return pipeline


@pytest.mark.parametrize("family", FLOWS)
def test_a_quantised_transformer_is_served_where_it_says_so(family: str) -> None:
    pipeline = quantised(MAKERS[family]())
    with pytest.raises(ModelError, match=r"is quantised \(transformer is torch\.int8\); load it in fp16"):
        load_model(pipeline)
    pipeline.transformer.is_quantized = True  # as diffusers' quantisers set it
    model, exact = load_model(pipeline), predicted(load_model(MAKERS[family]()))
    assert 0.0 < float((predicted(model) - exact).norm() / exact.norm()) < 0.1
    assert model.revision != load_model(MAKERS[family]()).revision
    with pytest.raises(UsageError, match="offloaded or quantised, so that it has its device and dtype: leave them out"):
        load_model(pipeline, dtype="bf16")


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_weights_that_are_away_between_calls_of_layers_are_refused(family: str) -> None:
    from accelerate import cpu_offload

    pipeline = MAKERS[family]()
    cpu_offload(denoiser(pipeline), CPU)  # what enable_sequential_cpu_offload does
    with pytest.raises(ModelError, match=r"is offloaded \((unet|transformer)\).*enable_group_offload"):
        load_model(pipeline)
    pipeline.remove_all_hooks()
    assert predicted(load_model(pipeline)).isfinite().all()


def taken_away(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group offloading whose weights are gone after each call, as on a GPU; on the processor diffusers leaves them."""
    from diffusers.hooks.group_offloading import ModuleGroup

    stored: dict[int, Tensor] = {}

    def parameters(group: Any) -> list[nn.Parameter]:
        return [*group.parameters, *(one for module in group.modules for one in module.parameters())]

    def come(group: Any) -> None:
        for one in parameters(group):
            one.data = stored[id(one)]

    def go(group: Any) -> None:
        for one in parameters(group):
            stored.setdefault(id(one), one.data)
            one.data = torch.zeros_like(one.data)

    monkeypatch.setattr(ModuleGroup, "onload_", come)
    monkeypatch.setattr(ModuleGroup, "offload_", go)
    grouped(pipeline)


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_gradients_pass_through_weights_that_were_taken_away(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def slope(model: Any) -> Tensor:
        latents = torch.ones(1, model.latent_channels, 4, 8, requires_grad=True)
        pixels = model.decode_latents(model.predict(latents, 500, model.encode_prompt("a cat")))
        pixels.square().sum().backward()
        assert latents.grad is not None
        return latents.grad

    expected, pipeline = slope(load_model(MAKERS[family]())), MAKERS[family]()
    taken_away(pipeline, monkeypatch)
    model = load_model(pipeline)
    assert not any(value.any() for value in model.networks[0].parameters())
    assert torch.equal(slope(model), expected)
    model.keeping_weights = nullcontext
    assert not torch.equal(slope(model), expected)


@pytest.mark.filterwarnings("ignore:the reconstruction differs from the image")  # random weights
def test_prompt_to_prompt_runs_on_offloaded_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = toy_sd_pipeline()
    taken_away(pipeline, monkeypatch)
    images = [
        sfumato.edit(
            load_model(one), torch.zeros(3, 64, 64), source_prompt="a cat", target_prompt="a dog",
            num_inference_steps=2,
        ).image.tobytes()
        for one in (toy_sd_pipeline(), pipeline)
    ]  # fmt: skip
    assert images[0] == images[1]


def test_a_part_that_stays_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = toy_sd_pipeline()
    pipeline.unet.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type="leaf_level")
    monkeypatch.setattr(type(pipeline), "_execution_device", torch.device("meta"))
    with pytest.raises(ModelError, match=r"computes on meta, but its vae stays on cpu: call pipeline.vae.to\('meta'\)"):
        load_model(pipeline)


def test_an_autoencoder_to_be_cast_is_refused_by_groups() -> None:
    pipeline = toy_sd_pipeline().to(torch.float16)
    pipeline.vae.register_to_config(force_upcast=True)
    grouped(pipeline)
    with pytest.raises(ModelError, match=r"overflows in fp16, and is offloaded by groups: call pipeline.vae.to"):
        load_model(pipeline)
