"""The networks of a pipeline that is already loaded: which they are, their fingerprint, and whether they can be used.

Their weights must be plain floats, on one device or brought to it by diffusers, network by network or group by group.
Those of flow models, which are large, may also be quantised or cast, as long as layers can be called as they are. What
torch.compile made of a network is left aside, because it takes no part in what methods do inside a network.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from sfumato.errors import ModelError
from sfumato.models.embeddings import learned_words
from sfumato.models.identify import SUPPORTED, refuse_inputs
from sfumato.models.layout import classes_of, is_flow

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

NETWORKS: Final = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


def networks(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """Part and network of those that a pipeline has, without the wrapper of torch.compile."""
    for part in NETWORKS:
        network = getattr(pipeline, part, None)
        if network is not None:
            yield part, getattr(network, "_orig_mod", network)


def check_networks(pipeline: Any, family: str, name: str) -> None:
    """Refuses a pipeline whose networks cannot be used as they are.

    Raises:
        ModelError: A network is of another class, quantised or offloaded in a way that cannot be served; or the
            denoising network takes more than latents, timestep and text.
    """
    for part, network in networks(pipeline):
        classes = [base.__name__ for base in type(network).__mro__]
        if not set(classes) & set(classes_of(family, part)):
            raise ModelError(f"{name} has a {classes[0]} as {part}, which is not supported; {SUPPORTED}")
        if any(p.is_meta for p in network.parameters()):
            raise ModelError(
                f"{name} is offloaded ({part}): its weights are elsewhere between the calls of layers; use"
                " pipeline.enable_model_cpu_offload() or enable_group_offload(...), or call pipeline.remove_all_hooks()"
            )
        strange = next((p.dtype for p in network.parameters() if p.dtype not in _dtypes()), None)
        if strange is not None and not (is_flow(family) and is_quantised(network)):
            raise ModelError(f"{name} is quantised ({part} is {strange}); load it in fp16, bf16 or fp32")
    if family == "DDPMPipeline" or is_flow(family):  # a flow's adapter checks its own channels
        return
    config = dict(networks(pipeline))["unet"].config
    refuse_inputs((0, int(config.in_channels), 0, 0), name, int(pipeline.vae.config.latent_channels))
    more = {
        "a class label": config.get("class_embed_type") or config.get("num_class_embeds"),
        "an image prompt (an IP-Adapter; call pipeline.unload_ip_adapter())": config.get("encoder_hid_dim_type"),
    }
    size_conditions = "text_time" if family == "StableDiffusionXLPipeline" else None
    if config.get("addition_embed_type") != size_conditions:
        more[f"conditions of another family ({config.get('addition_embed_type')})"] = True
    for what, is_so in more.items():
        if is_so:
            raise ModelError(f"the network of {name} takes {what} as well; {SUPPORTED}")


def plain(pipeline: Any) -> Any:
    """The pipeline, or a stand-in that has its parts without what torch.compile did to them; weights are shared."""
    eager = {part: _eager(network) for part, network in networks(pipeline)}
    if all(network is getattr(pipeline, part) for part, network in eager.items()):
        return pipeline
    return SimpleNamespace(**{**pipeline.components, **eager, "config": pipeline.config})


def _eager(network: Module) -> Module:
    if all(getattr(module, "_compiled_call_impl", None) is None for module in network.modules()):
        return network
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})  # a copy of a module is not compiled


def fingerprint(pipeline: Any) -> str:
    """Names the content of a ready pipeline, of which no file may exist: shapes and a few values of every parameter."""
    digest = hashlib.sha256()
    for part, vectors in learned_words(pipeline):
        digest.update(f"{part}{vectors}".encode())
    for part, module in networks(pipeline):
        for key, value in module.state_dict().items():
            few = value.detach().flatten()[:: max(1, value.numel() // 4)][:4].double().tolist()
            digest.update(f"{part}.{key}{tuple(value.shape)}{few}".encode())
        for key, state in _adapters(module):
            digest.update(f"{part}.{key}{state}".encode())
    schedule = {key: value for key, value in pipeline.scheduler.config.items() if not key.startswith("_")}
    digest.update(repr(sorted(schedule.items())).encode())
    return f"sha256:{digest.hexdigest()[:16]}"


def _adapters(network: Module) -> Iterator[tuple[str, str]]:
    """Layers that peft put LoRAs into, and which of these act there, how strongly: it is in no weight."""
    for name, layer in network.named_modules():
        scales = getattr(layer, "scaling", None)
        if isinstance(scales, dict) and hasattr(layer, "active_adapters"):
            off, merged = getattr(layer, "disable_adapters", False), getattr(layer, "merged_adapters", [])
            yield name, repr((sorted(scales.items()), list(layer.active_adapters), off, merged))


def is_offloaded(network: Module) -> bool:
    """Whether weights are brought to the device by hooks of accelerate or diffusers."""
    return any(
        hasattr(module, "_hf_hook") or any("offload" in name for name in _hooks(module)) for module in network.modules()
    )


def is_grouped(network: Module) -> bool:
    """Whether hooks of diffusers bring its weights to the device group by group; they may keep copies of their own."""
    return any("group_offloading" in _hooks(module) for module in network.modules())


def execution_device(pipeline: Any, name: str) -> torch.device:
    """Where the networks of an offloaded pipeline compute.

    Raises:
        ModelError: One that is not offloaded lies elsewhere.
    """
    import torch

    device = torch.empty(0, device=pipeline._execution_device).device  # with its number
    for part, network in networks(pipeline):
        own = next(network.parameters()).device
        if own != device and not is_offloaded(network):
            raise ModelError(
                f"{name} is offloaded, and computes on {device}, but its {part} stays on {own}:"
                f" call pipeline.{part}.to({str(device)!r}), or offload it, too"
            )
    return device


def is_quantised(network: Module) -> bool:
    """Whether layers make floats of what they store, themselves: a quantiser of diffusers, or its layerwise casting."""
    by_quantiser = getattr(network, "is_quantized", False) or getattr(network, "hf_quantizer", None) is not None
    return by_quantiser or any("layerwise_casting" in _hooks(module) for module in network.modules())


def _hooks(module: Module) -> Collection[str]:
    """Names of the hooks of diffusers."""
    hooks: Collection[str] = getattr(getattr(module, "_diffusers_hook", None), "hooks", ())
    return hooks


def _dtypes() -> tuple[Any, ...]:
    import torch

    return torch.float32, torch.float16, torch.bfloat16, torch.float64
