"""Hooks into a diffusers network, for the length of a block.

Attention: the layer's own processor runs, with its norms, projections and rotary embeddings; its one call of the fused
kernel goes to a hook. What keys and values are projected from, features and projections pass through a hook likewise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from sfumato.errors import ModelError
from sfumato.models.attention import AttentionSite, FeatureHook, KernelHook, ProjectionHook, SourceHook
from sfumato.models.interception import Intercepted

SEAT = "_sfumato_seat"
"""Attribute of an attention layer whose block may be compiled: its `Seat`."""

# Processors that call the fused kernel once, for all rows
_FUSED = {"AttnProcessor2_0", "JointAttnProcessor2_0", "FluxAttnProcessor", "FluxAttnProcessor2_0"}
# Those that compute the same by another kernel or by joined projections, so that the plain one can stand in
_SAME_AS_FUSED = {"AttnProcessor", "SlicedAttnProcessor", "XFormersAttnProcessor", "FusedAttnProcessor2_0"}


@contextmanager
def kernel_hooked(layers: Mapping[str, Any], hook: KernelHook, sites: Sequence[AttentionSite]) -> Iterator[None]:
    """Gives the kernel calls of the named layers to the hook; the layers are as found afterwards, whatever happened.

    Raises:
        ModelError: A layer does not call the fused kernel, and no processor that does computes the same.
    """
    chosen, by_name = {site.name: layers[site.name] for site in sites}, {site.name: site for site in sites}
    compiled = {name: getattr(layer, SEAT) for name, layer in chosen.items() if hasattr(layer, SEAT)}
    plain = {name: layer for name, layer in chosen.items() if name not in compiled}

    def through(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        return hooked(plain[name], forward, hook, by_name[name])

    with ExitStack() as stack:
        stack.enter_context(_fused(plain))
        stack.enter_context(forwards_replaced(plain, through))
        for name, seat in compiled.items():
            stack.enter_context(seat.taken(hook, by_name[name]))
        yield


@contextmanager
def forwards_replaced(
    modules: Mapping[str, Any], replace: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Runs modules by other functions inside the block; each has its own forward again after it, whatever happened.

    Args:
        modules: By name.
        replace: Makes what runs of a module's name and its forward.
    """
    own = {name: vars(module).get("forward") for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.forward = replace(name, module.forward)
        yield
    finally:
        for name, forward in own.items():
            if forward is None:
                vars(modules[name]).pop("forward", None)  # the class's own again
            else:
                modules[name].forward = forward


def hooked(layer: Any, forward: Callable[..., Tensor], hook: KernelHook, site: AttentionSite) -> Callable[..., Tensor]:
    """A layer's forward under interception where the hook wants it, and as it is elsewhere."""
    intercepted = Intercepted(hook, site)

    def hooked_forward(*args: Any, **kwargs: Any) -> Tensor:
        if not hook.wants(site):
            return forward(*args, **kwargs)
        intercepted.calls = 0
        with intercepted:
            output = forward(*args, **kwargs)
        if intercepted.calls != 1:
            raise ModelError(
                f"attention layer {site.name} called the fused kernel {intercepted.calls} times, not once"
                f" ({type(layer.processor).__name__}), so its attention cannot be edited; set torch's own kernel"
            )
        return output

    return hooked_forward


@contextmanager
def _fused(layers: Mapping[str, Any]) -> Iterator[None]:
    """All layers on the fused kernel inside the block, their own processors again after it.

    Raises:
        ModelError: That would change what a layer computes; the network is untouched.
    """
    stand_ins = {name: stand_in(name, layer) for name, layer in layers.items()}
    saved = {name: layers[name].processor for name, processor in stand_ins.items() if processor is not None}
    try:
        for name in saved:
            layers[name].processor = stand_ins[name]
        yield
    finally:
        for name, processor in saved.items():
            layers[name].processor = processor


def stand_in(name: str, layer: Any) -> Any:
    """What computes the same as a layer's processor by the fused kernel; None: the processor itself."""
    kind = type(layer.processor).__name__
    if kind in _FUSED:
        return None
    if kind not in _SAME_AS_FUSED or not math.isclose(layer.scale, (layer.inner_dim // layer.heads) ** -0.5):
        raise ModelError(
            f"attention layer {name} runs a {kind}, which cannot be edited; load the model without it"
            " (IP-Adapters and custom attention processors change what attention computes)"
        )
    from diffusers.models.attention_processor import AttnProcessor2_0

    return AttnProcessor2_0()


@contextmanager
def source_hooked(layers: Mapping[str, Any], hook: SourceHook, sites: Sequence[AttentionSite]) -> Iterator[None]:
    """Passes what keys and values are projected from through the hook; removes it also when the block raises."""
    chosen = {site.name: layers[site.name] for site in sites}
    with _fused(chosen):  # joined projections have no keys and values of their own
        changes = [(chosen[site.name], _once(hook, site)) for site in sites]
        handles = [
            projection.register_forward_pre_hook(change)
            for layer, change in changes
            for projection in (layer.to_k, layer.to_v)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _once(hook: SourceHook, site: AttentionSite) -> Callable[..., tuple[Tensor]]:
    """A hook for the keys' and the values' projection of a layer, which asks once for both."""
    waiting: list[tuple[Tensor, Tensor]] = []

    def change(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        if waiting and waiting[0][0] is inputs[0]:
            return (waiting.pop()[1],)
        waiting[:] = [(inputs[0], hook(site, inputs[0]))]
        return (waiting[0][1],)

    return change


@contextmanager
def feature_hooked(network: nn.Module, layer_names: Sequence[str], hook: FeatureHook) -> Iterator[None]:
    """Passes the outputs of the named layers through the hook; removes it afterwards, also when the block raises."""
    layers = dict(network.named_modules())
    missing = [name for name in layer_names if name not in layers]
    if missing:
        raise ModelError(f"the network has no layer {', '.join(missing)}, so its features cannot be edited")

    def through(name: str) -> Any:
        return lambda module, inputs, output: hook(name, output)

    handles = [layers[name].register_forward_hook(through(name)) for name in layer_names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def projections(layers: Mapping[str, nn.Module]) -> dict[str, nn.Linear]:
    """The linear layers of the attention layers: `<layer>.to_q`, `.to_k`, `.to_v`, `.to_out`."""
    found: dict[str, nn.Linear] = {}
    for name, layer in layers.items():
        for part in ("to_q", "to_k", "to_v"):
            found[f"{name}.{part}"] = getattr(layer, part)
        if getattr(layer, "to_out", None) is not None:  # some leave it to the block around them
            found[f"{name}.to_out"] = layer.get_submodule("to_out.0")  # type: ignore[assignment]
    return found


@contextmanager
def projection_hooked(layers: Mapping[str, nn.Module], names: Collection[str], hook: ProjectionHook) -> Iterator[None]:
    """Passes the outputs of the named projections through the hook; removes it also when the block raises."""
    known = projections(layers)
    missing = [name for name in names if name not in known]
    if missing:
        raise ModelError(f"the network has no projection {', '.join(missing[:3])}; was this adapter made for it?")

    def through(name: str) -> Any:
        return lambda module, inputs, output: hook(name, inputs[0], output)

    handles = [known[name].register_forward_hook(through(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
