"""torch.compile for a network whose attention is edited: the blocks that it repeats are compiled once for each size.

Of a block, all but the attention kernel is compiled; see `sfumato.models.interception`. So nothing is compiled anew
with another step, edit, method or image of one size. A block runs as it is where gradients are wanted, and while
something hooks into its layers: features, projections, what keys and values are projected from.
"""

from __future__ import annotations

import importlib.util
from inspect import signature
from types import MethodType
from typing import Any, Final

import torch
from torch import nn

from sfumato.errors import ModelError, UsageError
from sfumato.models.hooks import SEAT, hooked, stand_in
from sfumato.models.interception import ByOperator, Seat
from sfumato.models.sites import attention_layers

_BLOCKS: Final = (
    "BasicTransformerBlock",
    "JointTransformerBlock",
    "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
)
# Attributes of compiled blocks and of their attention layers
_COMPILED: Final = "_sfumato_compiled"
_OWN: Final = "_sfumato_forward"
_MOST: Final = 256
"""Sizes, times rows, that a kind of block is compiled for; torch stops at 8."""


def compile_blocks(
    network: nn.Module,
    name: str,
    *,
    device: torch.device | None = None,
    backend: Any = "inductor",
    fullgraph: bool = False,
) -> None:
    """Has the repeated blocks of a denoising network compiled, each when it is first called at a size.

    Args:
        network: Changed for good; what it computes stays the same up to rounding.
        name: Of the model, for messages.
        device: Where it computes; None: where it is.
        backend, fullgraph: Of torch.compile. `fullgraph` raises where a block cannot be compiled whole.

    Raises:
        ModelError: The network has no such blocks, or an attention processor of its own.
        UsageError: There is nothing to compile with.
    """
    blocks = [block for block in network.modules() if type(block).__name__ in _BLOCKS]
    if not blocks:
        raise ModelError(f"{name} has no repeated blocks ({', '.join(_BLOCKS)}) to compile: leave out compile")
    if backend == "inductor":
        check_compiler(device or next(network.parameters()).device)
    for layer_name, layer in attention_layers(network).items():
        if hasattr(layer, SEAT):
            continue
        layer.processor = stand_in(layer_name, layer) or layer.processor
        setattr(layer, SEAT, Seat())
        setattr(layer, _OWN, layer.forward)
        layer.forward = MethodType(_layer_forward, layer)
    compiled: dict[type, Any] = {}
    for block in blocks:
        kind = type(block)
        if hasattr(block, _COMPILED):  # a pipeline's network, compiled here before
            continue
        if kind not in compiled:
            compiled[kind] = torch.compile(
                kind.forward, backend=backend, fullgraph=fullgraph, dynamic=False, **_limits()
            )
        setattr(block, _COMPILED, compiled[kind])
        block.forward = MethodType(_block_forward, block)


def _limits() -> dict[str, Any]:
    """What lets torch.compile compile a block so often; in earlier versions of torch it holds for the whole process."""
    config = torch._dynamo.config
    most = max(_MOST, config.recompile_limit)
    if "recompile_limit" in signature(torch.compile).parameters:
        return {"recompile_limit": most}
    config.recompile_limit = most
    return {}


def check_compiler(device: torch.device) -> None:
    """Raises a `UsageError` where torch.compile lacks what it compiles with."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UsageError("compile needs the package triton on cuda: pip install triton, or leave out compile")
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise UsageError(
                "compile needs a C++ compiler (g++ or clang++): install one, or leave out compile"
            ) from error


def _block_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """A block's forward: compiled, where nothing needs it as it is."""
    if torch.is_grad_enabled() or any(part._forward_hooks or part._forward_pre_hooks for part in self.modules()):
        return type(self).forward(self, *args, **kwargs)
    return getattr(self, _COMPILED)(self, *args, **kwargs)


def _layer_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """An attention layer's forward, with the hooks of its seat."""
    seat, forward = getattr(self, SEAT), getattr(self, _OWN)
    if torch.compiler.is_compiling():
        with ByOperator(seat.number):
            return forward(*args, **kwargs)
    for hook, site in seat.hooks:
        forward = hooked(self, forward, hook, site)
    return forward(*args, **kwargs)
