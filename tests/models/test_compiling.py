"""Compiled networks under edits of attention: equal results, whole blocks, and nothing compiled anew."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sfumato
from sfumato.errors import ModelError, UsageError
from sfumato.models.attention import AttentionSite, KernelCall
from sfumato.models.base import Model
from sfumato.models.compiling import compile_blocks
from sfumato.models.interception import FUSED_KERNEL
from tests.toy import toy_sd_pipeline
from tests.toy_flow import toy_flux_pipeline, toy_sd3_pipeline
from tests.toy_unconditional import toy_ddpm_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:the reconstruction differs from the image")  # random weights
SIZE = (16, 16)
GRIDS = 3
"""At which the toy network has blocks of attention."""


class Times:
    """A hook that multiplies what the kernel gives."""

    def __init__(self, factor: float, kind: str = "") -> None:
        self.factor, self.kind = factor, kind

    def wants(self, site: AttentionSite) -> bool:
        return not self.kind or site.kind == self.kind

    def attend(self, call: KernelCall) -> Tensor:
        return self.factor + FUSED_KERNEL(call.query, call.key, call.value, attn_mask=call.mask, scale=call.scale)


class Square(Times):
    def attend(self, call: KernelCall) -> Tensor:
        return super().attend(call) ** 2


def compiled(pipeline: Any) -> tuple[Model, list[Any]]:
    """A model whose blocks are compiled whole by a backend that lists the graphs and runs them as they are."""
    model, graphs = sfumato.load_model(pipeline, device="cpu"), []

    def listing(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compile_blocks(model.networks[0], "toy", backend=listing, fullgraph=True)  # type: ignore[arg-type]
    return model, graphs


@contextmanager
def nothing_compiled() -> Iterator[None]:
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


def test_nothing_is_compiled_anew_for_another_step_edit_method_or_image(toy_model: Any) -> None:
    """One graph for each grid and number of rows, and results are those of the plain network."""
    model, graphs = compiled(toy_sd_pipeline())
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)

    def same(image: Any, target: str, method: str, **options: Any) -> bool:
        results = [
            sfumato.edit(
                one, image, source_prompt="a cat", target_prompt=target, method=method, num_inference_steps=3, **options
            )
            for one in (model, toy_model)
        ]
        return results[0].image.tobytes() == results[1].image.tobytes()

    assert same(images[0], "a dog", "prompt-to-prompt")
    assert len(graphs) == 2 * GRIDS  # the inversion has one row, the edit three
    with nothing_compiled():
        assert same(images[0], "a dog", "prompt-to-prompt", self_replace_steps=0.8)
        assert same(images[1], "a red cat with a hat", "prompt-to-prompt")
        assert same(images[1], "a dog", "cycle-diffusion", attention_control="replace", guidance_scale=3.0)
    assert len(graphs) == 2 * GRIDS


def test_a_compiled_block_has_no_kernel_but_the_operator() -> None:
    model, graphs = compiled(toy_sd_pipeline())
    with torch.no_grad():
        model.predict(torch.zeros(1, 4, *SIZE), 500, model.encode_prompt("a cat"))
    targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert sum("sfumato.attend" in target for target in targets) == 2 * GRIDS
    assert not any("scaled_dot_product" in target for target in targets)


@pytest.mark.parametrize("family", [toy_sd_pipeline, toy_sd3_pipeline, toy_flux_pipeline])
def test_hooks_act_in_compiled_blocks_as_in_plain_ones(family: Callable[[], Any]) -> None:
    plain, (model, graphs) = sfumato.load_model(family(), device="cpu"), compiled(family())
    latents = torch.randn(2, model.latent_channels, *SIZE, generator=torch.Generator().manual_seed(0))
    sites = model.sites(SIZE)

    def output(one: Model, *hooks: Times) -> Tensor:
        def nested(left: tuple[Times, ...]) -> Tensor:
            if not left:
                return one.predict(latents, 500, one.encode_prompt(["a cat", "a dog"]))
            with one.kernel_hook(left[0], sites):
                return nested(left[1:])

        with torch.no_grad():
            return nested(hooks)

    before, made = output(model), len(graphs)
    assert torch.equal(before, output(plain))
    with nothing_compiled():
        for hooks in ([Times(2.0)], [Times(2.0, sites[-1].kind)], [Times(3.0), Square(1.0)], [Square(1.0), Times(3.0)]):
            assert torch.equal(output(model, *hooks), output(plain, *hooks))
            assert not torch.equal(output(model, *hooks), before)
        assert torch.equal(output(model), before)
    assert len(graphs) == made


@pytest.mark.skipif(
    "recompile_limit" not in signature(torch.compile).parameters, reason="this torch has one limit for all of a process"
)
def test_blocks_are_compiled_beyond_the_limit_that_other_code_keeps() -> None:
    with torch._dynamo.config.patch(recompile_limit=1):
        model, graphs = compiled(toy_sd_pipeline())
        with torch.no_grad():
            model.predict(torch.zeros(1, 4, *SIZE), 500, model.encode_prompt("a cat"))
        assert len(graphs) == GRIDS
        assert torch._dynamo.config.recompile_limit == 1


def test_hooks_leave_their_seats_when_the_block_raises() -> None:
    model, _ = compiled(toy_sd_pipeline())
    with pytest.raises(KeyError), model.kernel_hook(Times(2.0), model.sites(SIZE)):
        raise KeyError
    assert all(not layer._sfumato_seat.hooks for layer in model.unet.modules() if hasattr(layer, "_sfumato_seat"))  # type: ignore[attr-defined]


def test_a_block_runs_as_it_is_where_gradients_are_wanted(toy_model: Any) -> None:
    model, graphs = compiled(toy_sd_pipeline())
    condition = toy_model.encode_prompt("a cat")

    def slope(one: Any) -> Tensor:
        latents = torch.ones(1, 4, *SIZE, requires_grad=True)
        with one.kernel_hook(Times(2.0), one.sites(SIZE)):
            one.predict(latents, 500, condition).square().sum().backward()
        assert latents.grad is not None
        return latents.grad

    assert torch.equal(slope(model), slope(toy_model))
    assert graphs == []


def test_other_hooks_inside_a_block_are_seen(toy_model: Any) -> None:
    model, graphs = compiled(toy_sd_pipeline())
    condition, name = toy_model.encode_prompt("a cat"), "mid_block.attentions.0.transformer_blocks.0.attn2"

    def patches(one: Any) -> list[AbstractContextManager[None]]:
        site = next(site for site in one.sites(SIZE) if site.name == name)
        return [
            one.projection_hook([f"{name}.to_q"], lambda _, inputs, output: output + 1.0),
            one.source_hook(lambda _, states: states * 2.0, [site]),
            one.feature_hook([name], lambda _, output: output * 2.0),
        ]

    def output(one: Any, patch: AbstractContextManager[None]) -> Tensor:
        with torch.no_grad(), patch:
            return one.predict(torch.ones(1, 4, *SIZE), 500, condition)  # type: ignore[no-any-return]

    before = output(model, torch.no_grad())
    for one, other in zip(patches(model), patches(toy_model), strict=True):
        changed = output(model, one)
        assert torch.equal(changed, output(toy_model, other))
        assert not torch.equal(changed, before)
    assert torch.equal(output(model, torch.no_grad()), before)
    assert len(graphs) == GRIDS


def test_a_copy_of_a_compiled_network_has_seats_of_its_own() -> None:
    model, _ = compiled(toy_sd_pipeline())
    unet: Any = model.networks[0]
    copied = copy.deepcopy(unet)
    condition = model.encode_prompt("a cat").text

    def output(network: Any) -> Tensor:
        with torch.no_grad():
            return network(torch.ones(1, 4, *SIZE), 500, condition, return_dict=False)[0]  # type: ignore[no-any-return]

    before = output(unet)
    with model.kernel_hook(Times(2.0), model.sites(SIZE)):
        assert not torch.equal(output(unet), before)
        assert torch.equal(output(copied), before)


def test_load_model_compiles_and_orders_weights() -> None:
    pipeline = toy_sd_pipeline()
    model = sfumato.load_model(pipeline, compile=True, channels_last=True)
    blocks = [part for part in pipeline.unet.modules() if type(part).__name__ == "BasicTransformerBlock"]
    assert blocks
    assert all("_sfumato_compiled" in vars(block) for block in blocks)
    for network in (pipeline.unet, pipeline.vae):
        assert (
            network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
            if network is pipeline.unet
            else True
        )
    with torch.enable_grad():  # so that blocks run as they are
        latents = torch.ones(1, 4, *SIZE)
        expected = sfumato.load_model(toy_sd_pipeline()).predict(latents, 500, model.encode_prompt("a cat"))
        again = sfumato.load_model(pipeline, compile=True).predict(latents, 500, model.encode_prompt("a cat"))
    torch.testing.assert_close(again, expected)


def test_what_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"has no repeated blocks .* leave out compile"):
        sfumato.load_model(toy_ddpm_pipeline(), compile=True)
    with pytest.raises(UsageError, match="compile must be True or False, got 'yes'"):
        sfumato.load_model("emoji", compile="yes")  # type: ignore[arg-type]

    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(UsageError, match=r"compile needs a C\+\+ compiler .*: install one, or leave out compile"):
        sfumato.load_model(toy_sd_pipeline(), device="cpu", compile=True)
