"""Weights that stay in the processor's memory and are on the device only while they are needed.

Nothing changes the weights of a loaded model, so they are copied to the device, and the copies dropped again; nothing
is copied back. Autograd holds the copies that a graph was computed with until its backward pass is done. So methods
that differentiate through networks give what they give without offloading; they need the memory of all these weights.

On CUDA the weights wait in pinned memory, as far as there is any. Copies are made on the stream that computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sfumato.errors import ModelError

if TYPE_CHECKING:
    from sfumato.models.base import Model

_BLOCKS: Final = (
    "ResnetBlock2D",
    "BasicTransformerBlock",
    "JointTransformerBlock",
    "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
)
_ENTRIES: Final = ("forward", "encode", "decode")
"""Methods of a network that are called from outside of it."""
_BRING: Final = "_sfumato_bring"
"""Attribute of an offloaded network: what brings it to the device."""


def offload(model: Model, kind: str, device: torch.device) -> None:
    """Has the networks of a model, which lie on the processor, come to the device when they are called.

    Args:
        model: Changed for good; what it computes stays the same.
        kind: "model": a network comes when it is called, and goes when another one is called. "group": the blocks of
            the denoising network come one at a time, too, and only what is outside of them stays while it is called.
        device: Where the networks are to compute; `Model.device` from here on.

    Raises:
        ModelError: "group", and the denoising network has no blocks that are known.
    """
    denoiser, turn = model.networks[0], _Turn()
    for network in model.networks:
        assert isinstance(network, nn.Module)
        blocks = _blocks(network, model.name) if kind == "group" and network is denoiser else []
        within = {part for block in blocks for part in block.modules()}
        weights = Weights((part for part in network.modules() if part not in within), device)
        _offload_network(network, weights, turn)
        for block in blocks:
            _offload_block(block, Weights(block.modules(), device))
    model.device = torch.empty(0, device=device).device  # with its number


def take_offloaded(model: Model, device: torch.device) -> None:
    """Readies a model whose networks diffusers or accelerate bring to the device, and take away after their calls.

    They change the data of a parameter, not the parameter, which is all that autograd would hold.

    Args:
        model: Changed for good; its networks are not.
        device: Where they compute.
    """
    model.device, model.keeping_weights = device, partial(saved_tensors_hooks, _kept, _as_is)


def bring(network: Any) -> None:
    """Brings an offloaded network to the device, as a call of it would; does nothing with another one."""
    if (come := getattr(network, _BRING, None)) is not None:
        come()
    elif (hook := getattr(network, "_hf_hook", None)) is not None:  # of accelerate, as diffusers' own calls ask it
        hook.pre_forward(network)


def _kept(tensor: Tensor) -> Tensor:
    """The tensor with the data that it has now, whatever other data it is given."""
    alias = tensor.detach()
    if alias.is_cuda:  # it may come from a stream of copies, and is used on this one for longer than that one knows
        alias.record_stream(torch.cuda.current_stream(alias.device))
    return alias


def _as_is(tensor: Tensor) -> Tensor:
    return tensor


class Weights:
    """Parameters and buffers of some modules: on the processor, and on a device for a while.

    Args:
        modules: What they are read from, without the modules inside of each.
        device: Where they come to.
    """

    def __init__(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        self.device = device
        tensors = [
            (module, name, tensor)
            for module in modules
            for own in (module.named_parameters, module.named_buffers)
            for name, tensor in own(recurse=False, remove_duplicate=False)
        ]
        stored = {id(tensor): _like(tensor, _pinned(tensor.detach(), device)) for _, _, tensor in tensors}
        self._stored = [(module, name, stored[id(tensor)]) for module, name, tensor in tensors]
        self.go()

    def come(self) -> None:
        """Puts copies on the device in their places; what was one tensor in two places is one again."""
        pinned = self.device.type == "cuda"
        stored = {id(tensor): tensor for _, _, tensor in self._stored}
        copies = {
            key: _like(tensor, tensor.detach().to(self.device, non_blocking=pinned)) for key, tensor in stored.items()
        }
        for module, name, tensor in self._stored:
            setattr(module, name, copies[id(tensor)])

    def go(self) -> None:
        """Puts those on the processor in their places again."""
        for module, name, tensor in self._stored:
            setattr(module, name, tensor)


class _Turn:
    """Whose weights are on the device: those of one network at a time."""

    def __init__(self) -> None:
        self._on_device: Weights | None = None

    def give(self, weights: Weights) -> None:
        if self._on_device is weights:
            return
        if self._on_device is not None:
            self._on_device.go()
        self._on_device = None  # also if there is too little memory for the next
        weights.come()
        self._on_device = weights


def _offload_network(network: nn.Module, weights: Weights, turn: _Turn) -> None:
    def bring_it() -> None:
        turn.give(weights)

    def entry(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def called(*args: Any, **kwargs: Any) -> Any:
            bring_it()
            on = [_moved(value, weights.device) for value in args]
            return method(*on, **{name: _moved(value, weights.device) for name, value in kwargs.items()})

        return called

    setattr(network, _BRING, bring_it)
    for name in _ENTRIES:
        if hasattr(network, name):
            setattr(network, name, entry(getattr(network, name)))


def _offload_block(block: nn.Module, weights: Weights) -> None:
    forward = block.forward

    @wraps(forward)
    def called(*args: Any, **kwargs: Any) -> Any:
        weights.come()
        try:
            return forward(*args, **kwargs)
        finally:
            weights.go()

    block.forward = called


def _blocks(network: nn.Module, name: str) -> list[nn.Module]:
    blocks = [part for part in network.modules() if type(part).__name__ in _BLOCKS]
    if not blocks:
        raise ModelError(f"{name} has no blocks ({', '.join(_BLOCKS)}) to offload one by one: use offload='model'")
    return blocks


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    """The values as what the tensor is: a parameter, which is never trained, or a buffer."""
    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """The values where copies to CUDA are fastest; where they are, for another device or without memory to pin."""
    if device.type == "cuda":
        with suppress(RuntimeError):
            return tensor.pin_memory()
    return tensor
