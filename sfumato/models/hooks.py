"""Hooks into a diffusers network, for the length of a block.

Attention: projections stay the layer's, the middle goes to a hook. Features and projections: a layer's output passes
through a hook.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sfumato.errors import ModelError
from sfumato.models.base import AttentionCall, AttentionHook, AttentionSite, FeatureHook, ProjectionHook

# Processors whose arithmetic is the plain one written out below; anything else (IP-Adapter, custom) has more to it.
PLAIN = {"AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "FusedAttnProcessor2_0", "SlicedAttnProcessor"}


class HookedProcessor:
    """An attention processor that lets a hook compute softmax(q k) v where it wants to, and the original elsewhere."""

    def __init__(self, original: Any, hook: AttentionHook, site: AttentionSite) -> None:
        self.original, self.hook, self.site = original, hook, site

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if not self.hook.wants(self.site):
            output: Tensor = self.original(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **kwargs)
            return output

        residual, shape = hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # (rows, query, dim)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        keys_from = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        keys_from = self.hook.source(self.site, keys_from)
        if encoder_hidden_states is not None and attn.norm_cross:
            keys_from = attn.norm_encoder_hidden_states(keys_from)
        if attention_mask is not None:
            rows, keys = keys_from.shape[:2]
            attention_mask = attn.prepare_attention_mask(attention_mask, keys, rows)
            attention_mask = attention_mask.view(rows, attn.heads, -1, attention_mask.shape[-1])

        def heads(tensor: Any) -> Any:
            return tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (rows, heads, tokens, head_dim)

        query, key, value = heads(attn.to_q(hidden_states)), heads(attn.to_k(keys_from)), heads(attn.to_v(keys_from))
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        call = AttentionCall(self.site, query, key, value, attention_mask, query.shape[-1] ** -0.5)

        hidden_states = self.hook.attend(call).transpose(1, 2).flatten(2).to(query.dtype)
        hidden_states = attn.to_out[1](attn.to_out[0](hidden_states))
        if len(shape) == 4:
            hidden_states = hidden_states.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        result: Tensor = hidden_states / attn.rescale_output_factor
        return result


@contextmanager
def hooked(layers: Mapping[str, nn.Module], hook: AttentionHook, sites: Sequence[AttentionSite]) -> Iterator[None]:
    """Installs the hook on the named layers; restores every processor afterwards, also when the block raises."""
    chosen: dict[str, Any] = {site.layer_name: layers[site.layer_name] for site in sites}
    for name, layer in chosen.items():
        kind = type(layer.processor).__name__
        if kind not in PLAIN and not isinstance(layer.processor, HookedProcessor):
            raise ModelError(
                f"attention layer {name} runs a {kind}, which cannot be edited; load the model without it"
                " (IP-Adapters and custom attention processors change what attention computes)"
            )
    saved = {name: layer.processor for name, layer in chosen.items()}
    try:
        for site in sites:
            chosen[site.layer_name].processor = HookedProcessor(saved[site.layer_name], hook, site)
        yield
    finally:
        for name, processor in saved.items():
            chosen[name].processor = processor


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
