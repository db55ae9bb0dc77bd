"""Flow pipelines whose weights diffusers casts, quantises or brings to the device: served as they are, or refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato
from sfumato.attention.values import ValueSharing
from sfumato.errors import ModelError, UsageError
from sfumato.models.loading import load_model
from tests.toy_flow import toy_flux_pipeline, toy_sd3_pipeline

MAKERS = {"sd3": toy_sd3_pipeline, "flux": toy_flux_pipeline}
CPU = torch.device("cpu")


def predicted(model: Any) -> Tensor:
    latents = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(latents, 600.0, model.encode_prompt("a photo of a cat"))  # type: ignore[no-any-return]


def grouped(pipeline: Any) -> None:
    for network in (pipeline.transformer, pipeline.vae):
        network.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


def by_blocks(pipeline: Any) -> None:
    pipeline.transformer.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type="block_level", num_blocks_per_group=1
    )


def whole_models(pipeline: Any) -> None:
    """What enable_model_cpu_offload does, which needs an accelerator."""
    from accelerate import cpu_offload_with_hook

    hook = None
    for network in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.transformer, pipeline.vae):
        _, hook = cpu_offload_with_hook(network, CPU, prev_module_hook=hook)


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("place", [grouped, by_blocks, whole_models])
def test_an_offloaded_flow_gives_what_the_plain_one_gives(family: str, place: Callable[[Any], None]) -> None:
    expected = predicted(load_model(MAKERS[family]()))
    pipeline = MAKERS[family]()
    place(pipeline)
    model = load_model(pipeline)
    assert model.device == CPU
    assert torch.equal(predicted(model), expected)
    sites = model.sites((4, 6))
    with model.kernel_hook(ValueSharing([site.name for site in sites]), sites):
        torch.testing.assert_close(predicted(model), expected)
    assert torch.equal(predicted(model), expected)
    pixels = torch.zeros(1, 3, 32, 48)
    assert model.decode_latents(model.encode_image(pixels)).shape == pixels.shape


@pytest.mark.parametrize("family", MAKERS)
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


@pytest.mark.parametrize("family", MAKERS)
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


def test_weights_that_are_away_between_calls_of_layers_are_refused() -> None:
    from accelerate import cpu_offload

    pipeline = toy_flux_pipeline()
    cpu_offload(pipeline.transformer, CPU)  # what enable_sequential_cpu_offload does
    with pytest.raises(ModelError, match=r"is offloaded \(transformer\).*enable_group_offload"):
        load_model(pipeline)
    pipeline.remove_all_hooks()
    assert predicted(load_model(pipeline)).isfinite().all()
