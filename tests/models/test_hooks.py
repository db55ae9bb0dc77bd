"""The hook into attention's kernel: what it sees, what it leaves as it is, and what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.models import attention_processor as processors
from torch import Tensor

from sfumato.errors import ModelError
from sfumato.models.attention import AttentionSite, KernelCall
from sfumato.models.hooks import kernel_hooked
from sfumato.models.stable_diffusion import StableDiffusion
from tests.toy import toy_sd_pipeline


class Pass:
    """A hook that does nothing but look."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    def wants(self, site: AttentionSite) -> bool:
        return True

    def attend(self, call: KernelCall) -> Tensor:
        self.seen.append((call.site.name, tuple(call.query.shape)))
        return F.scaled_dot_product_attention(call.query, call.key, call.value, call.mask, scale=call.scale)


class Double(Pass):
    """A hook that changes what attention gives."""

    def attend(self, call: KernelCall) -> Tensor:
        return 2.0 * super().attend(call)


@pytest.fixture
def model() -> StableDiffusion:
    """One of our own, to be taken apart."""
    return StableDiffusion.from_pipeline(toy_sd_pipeline(), name="toy", revision="x")


def predicted(model: Any) -> Tensor:
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(latents, 500, model.encode_prompt(["a cat", "a dog"]))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["toy_model", "toy_xl_model"])
def test_a_hook_that_does_nothing_changes_nothing(name: str, request: Any) -> None:
    model, hook = request.getfixturevalue(name), Pass()
    plain, sites = predicted(model), model.sites((16, 16))
    with model.kernel_hook(hook, sites):
        assert torch.equal(predicted(model), plain)
    assert [name for name, _ in hook.seen] == [site.name for site in sites]
    assert [shape[::2] for _, shape in hook.seen] == [(2, site.positions) for site in sites]


def test_the_model_is_left_as_found_also_when_the_block_raises(model: StableDiffusion) -> None:
    plain, sites = predicted(model), model.sites((16, 16))
    inside = [vars(module).copy() for module in model.unet.modules()]

    def explode() -> None:
        with model.kernel_hook(Double(), sites):
            assert not torch.equal(predicted(model), plain)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        explode()
    assert [vars(module).keys() for module in model.unet.modules()] == [before.keys() for before in inside]
    assert torch.equal(predicted(model), plain)


def test_a_layers_own_forward_is_kept(model: StableDiffusion) -> None:
    """Such as the one that moves weights to the device and back."""
    site = model.sites((16, 16))[0]
    layer = model.unet.get_submodule(site.name)
    plain, calls, forward = predicted(model), [], layer.forward

    def moving(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(site.name)
        return forward(*args, **kwargs)  # type: ignore[no-any-return]

    layer.forward = moving
    with model.kernel_hook(Pass(), [site]):
        assert torch.equal(predicted(model), plain)
    assert calls == [site.name]
    assert layer.forward is moving


def test_hooks_of_two_runs_take_turns(model: StableDiffusion) -> None:
    """Two controls may hold the same layers, each for its own network calls."""
    plain, sites = predicted(model), model.sites((16, 16))
    first, second = Pass(), Double()
    with model.kernel_hook(first, sites), model.kernel_hook(second, sites):
        second.wants = lambda site: False  # type: ignore[method-assign]
        assert torch.equal(predicted(model), plain)
        assert len(first.seen) == len(sites)
        first.wants, second.wants = second.wants, first.wants  # type: ignore[method-assign]
        assert not torch.equal(predicted(model), plain)
    assert (len(first.seen), len(second.seen)) == (len(sites), len(sites))


@pytest.mark.parametrize(
    "other",
    [processors.AttnProcessor, lambda: processors.SlicedAttnProcessor(1), processors.FusedAttnProcessor2_0],
)
def test_another_kernel_stands_back_for_the_block(other: Callable[[], Any], model: StableDiffusion) -> None:
    plain, sites, hook = predicted(model), model.sites((16, 16)), Pass()
    layers = [model.unet.get_submodule(site.name) for site in sites]
    for layer in layers:
        layer.fuse_projections()
        layer.set_processor(other())
    before = [layer.processor for layer in layers]
    with model.kernel_hook(hook, sites):
        assert torch.equal(predicted(model), plain)
    assert len(hook.seen) == len(sites)
    assert all(layer.processor is processor for layer, processor in zip(layers, before, strict=True))


def test_a_kernel_of_another_scale_is_refused(model: StableDiffusion) -> None:
    """There the fused kernel would compute something else."""
    site = model.sites((16, 16))[0]
    layer = model.unet.get_submodule(site.name)
    layer.set_processor(processors.AttnProcessor())
    layer.scale = 1.0
    with pytest.raises(ModelError, match="AttnProcessor"), model.kernel_hook(Pass(), [site]):
        pass


@pytest.mark.parametrize(
    "processor",
    [processors.IPAdapterAttnProcessor2_0(16, 32), processors.PAGIdentitySelfAttnProcessor2_0()],
    ids=["image prompts", "perturbed attention"],
)
def test_what_computes_more_than_attention_is_refused(processor: Any, model: StableDiffusion) -> None:
    site = model.sites((16, 16))[1]
    layer = model.unet.get_submodule(site.name)
    layer.set_processor(processor)
    with pytest.raises(ModelError, match=type(processor).__name__), model.kernel_hook(Pass(), [site]):
        pass
    assert layer.processor is processor
    assert "forward" not in vars(layer)


def test_a_kernel_that_is_never_called_is_an_error_not_a_silent_no_op(model: StableDiffusion) -> None:
    class AttnProcessor2_0:
        def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return hidden_states

    site = model.sites((16, 16))[0]
    model.unet.get_submodule(site.name).set_processor(AttnProcessor2_0())
    with model.kernel_hook(Pass(), [site]), pytest.raises(ModelError, match=f"{site.name} called .* 0 times"):
        predicted(model)


def test_masks_reach_the_hook_as_additions(model: StableDiffusion) -> None:
    site = model.sites((16, 16))[0]
    query, masks = torch.randn(1, 2, 3, 4), []

    class Look(Pass):
        def attend(self, call: KernelCall) -> Tensor:
            masks.append(call.mask)
            return super().attend(call)

    class Layer(torch.nn.Module):
        processor = processors.AttnProcessor2_0()

        def forward(self, mask: Tensor | None) -> Tensor:
            return F.scaled_dot_product_attention(query, query, query, attn_mask=mask)

    layer, mask = Layer(), torch.tensor([True, False, True])[None, None, None].expand(1, 1, 3, 3)
    plain = layer(mask)
    with kernel_hooked({site.name: layer}, Look(), [site]):
        torch.testing.assert_close(layer(mask), plain)
        assert torch.equal(layer(None), layer(None))
    assert masks[0] is not None
    assert masks[0][0, 0, 0].tolist() == [0.0, -torch.inf, 0.0]
    assert masks[1] is None


def joint_network(family: str) -> tuple[Any, dict[str, Tensor]]:
    """A flow transformer at toy width with random weights, and inputs of two rows, 4 x 4 image and 5 text tokens."""
    torch.manual_seed(0)
    text, pooled, t = torch.randn(2, 5, 8), torch.randn(2, 6), torch.tensor([0.5, 0.5])
    if family == "sd3":
        network: Any = SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=8, caption_projection_dim=16, pooled_projection_dim=6, out_channels=4,
            qk_norm="rms_norm", dual_attention_layers=(0,),
        )  # fmt: skip
        inputs = {"hidden_states": torch.randn(2, 4, 8, 8), "timestep": 1000 * t}
        return network.eval(), inputs | {"encoder_hidden_states": text, "pooled_projections": pooled}
    network = FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=6, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    positions = torch.cartesian_prod(torch.tensor([0.0]), torch.arange(4.0), torch.arange(4.0))
    inputs = {"hidden_states": torch.randn(2, 16, 4), "timestep": t, "img_ids": positions, "txt_ids": torch.zeros(5, 3)}
    return network.eval(), inputs | {"encoder_hidden_states": text, "pooled_projections": pooled}


@pytest.mark.parametrize(("family", "tokens"), [("sd3", [21, 16, 21]), ("flux", [21, 21])])
def test_joint_attention_is_seen_whole(family: str, tokens: list[int]) -> None:
    """Norms, rotary embedding and the text's own projections are the layer's: the hook sees one sequence."""
    network, inputs = joint_network(family)
    layers = {
        name: module
        for name, module in network.named_modules()
        if hasattr(module, "processor") and hasattr(module, "to_q")
    }
    sites = [AttentionSite(name, "joint", 0.0, (4, 4), None, slice(16), slice(16), slice(16, None)) for name in layers]
    hook = Pass()
    with torch.no_grad():
        plain = network(**inputs, return_dict=False)[0]
        with kernel_hooked(layers, hook, sites):
            assert torch.equal(network(**inputs, return_dict=False)[0], plain)
        with kernel_hooked(layers, Double(), sites):
            assert not torch.equal(network(**inputs, return_dict=False)[0], plain)
        assert torch.equal(network(**inputs, return_dict=False)[0], plain)
    assert sorted(shape[2] for _, shape in hook.seen) == sorted(tokens)


def test_a_hooked_block_compiles_whole(model: StableDiffusion) -> None:
    """No graph break, with the hook and without, and each call sees what is installed."""
    block = model.unet.get_submodule("mid_block.attentions.0")
    sites = [site for site in model.sites((16, 16)) if site.stage == "mid"]
    features, text = torch.randn(2, 32, 4, 4), model.encode_prompt(["a cat", "a dog"]).text
    compiled = torch.compile(block, backend="eager", fullgraph=True)

    def call(network: Any) -> Tensor:
        with torch.no_grad():
            return network(features, text, return_dict=False)[0]  # type: ignore[no-any-return]

    plain = call(block)
    assert torch.equal(call(compiled), plain)
    with model.kernel_hook(Double(), sites):
        doubled = call(block)
        assert torch.equal(call(compiled), doubled)
    assert not torch.equal(doubled, plain)
    assert torch.equal(call(compiled), plain)
