r"""Merges LoRA files into a pipeline's weights (Hu et al., 2021, https://arxiv.org/abs/2106.09685).

.. math:: W' = W + s\,\frac{\alpha}{r}\,B A

Every naming in use is read: kohya's (`lora_unet_down_blocks_0_...lora_down.weight`, in SDXL with the names of the
original code), diffusers' old and new ones, and PEFT's own (`base_model.model....lora_A.weight`). LoRAs of flow models
in the names of their original code (kohya's, XLabs') are converted as diffusers does. A tensor that has no place in the
model is an error: what fits in part only was made for another model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sfumato.errors import ModelError
from sfumato.models.files import Header, read_header
from sfumato.models.lora import PEFT, lora_files, peft_scale
from sfumato.models.silence import quiet

if TYPE_CHECKING:
    from torch import Tensor

_ROLES: Final = re.compile(
    r"(?P<stem>.+?)(?:\.lora_linear_layer|\.lora|_lora)?"
    r"(?:\.(?P<down>lora_down|lora_A|down)|\.(?P<up>lora_up|lora_B|up))(?:\.default)?\.weight"
    r"|(?P<scaled>.+?)(?:\.lora_linear_layer|\.lora|_lora)?\.alpha"
)
_UNSUPPORTED: Final = {
    "dora_scale": "a DoRA (weights in directions and lengths)",
    "lora_magnitude_vector": "a DoRA (weights in directions and lengths)",
    "lora_mid": "a LoRA of convolutions in three factors (CP decomposition)",
}
_KOHYA: Final = {
    "lora_unet_": "unet",
    "lora_transformer_": "transformer",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
_NETWORKS: Final = ("unet", "transformer", "text_encoder_3", "text_encoder_2", "text_encoder")


@dataclass
class _Factors:
    """Of one layer: A (`down`), B (`up`) and alpha; None where not yet read."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None


def merge_lora(pipeline: Any, file: Path, scale: float) -> None:
    """Adds `scale` times a LoRA to the weights of the pipeline.

    Raises:
        ModelError: It was made for another model, or is of a kind that cannot be merged.
    """
    import torch
    from safetensors.torch import load_file

    header = read_header(file)
    for mark, kind in _UNSUPPORTED.items():
        if any(mark in key for key in header.shapes):
            raise ModelError(f"{file} is {kind}, which is not supported; merge it with the tool that made it")
    layers, tensors = _Layers(pipeline), load_file(file)
    found, lost = _factors(tensors, layers)
    if lost and "transformer" in layers.modules:
        found, lost = _factors(_converted(pipeline, tensors), layers)
    misfit = f"LoRA {file} does not fit this model; it was made for another family or size"
    if lost or not found:
        raise ModelError(
            f"{misfit} ({len(lost)} of its {len(header.shapes)} tensors have no place, such as {lost[:1]})"
        )
    alphas = _Alphas(header)
    changes = []
    for (network, path), factors in found.items():
        weight = layers.modules[network][path].weight
        if factors.up is None or factors.down is None:
            raise ModelError(f"{misfit} (a factor of {path} is missing)")
        change = _product(factors.up, factors.down, tuple(weight.shape))
        if change is None:
            shapes = f"{tuple(factors.up.shape)} and {tuple(factors.down.shape)} for {tuple(weight.shape)}"
            raise ModelError(f"{misfit} ({path}: factors {shapes})")
        rank = factors.down.shape[0]
        changes.append((weight, change * (scale * alphas.share(network, path, factors.alpha, rank))))
    with torch.no_grad():  # only now, so that a misfit leaves the weights as they are
        for weight, change in changes:
            weight.copy_((weight.float() + change.to(weight.device)).to(weight.dtype))


def _factors(tensors: Mapping[str, Any], layers: _Layers) -> tuple[dict[tuple[str, str], _Factors], list[str]]:
    """The factors of each layer by network and path, and the names of the tensors that have no place."""
    found: dict[tuple[str, str], _Factors] = {}
    lost = []
    for key, tensor in tensors.items():
        role = _ROLES.fullmatch(key)
        place = None if role is None else layers.place(role["stem"] or role["scaled"])
        if role is None or place is None:
            lost.append(key)
            continue
        factors = found.setdefault(place, _Factors())
        if role["scaled"]:
            factors.alpha = float(tensor)
        elif role["down"]:
            factors.down = tensor.float()
        else:
            factors.up = tensor.float()
    return found, lost


def _converted(pipeline: Any, tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """The tensors of a flow model's LoRA by the names of diffusers; as they are where diffusers does not know them."""
    try:
        with quiet():
            converted, alphas = pipeline.lora_state_dict(dict(tensors), return_alphas=True)[:2]
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ):  # of what it cannot read
        return tensors
    return {**converted, **(alphas or {})}


def _product(up: Tensor, down: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """B A in the shape of a weight, linear or convolutional; None where they do not fit."""
    if up.ndim < 2 or down.ndim < 2 or up.shape[1] != down.shape[0] or any(side != 1 for side in up.shape[2:]):
        return None
    if up.shape[0] != shape[0] or down[0].numel() * up.shape[0] != _count(shape):
        return None
    if down.ndim == 4 and len(shape) == 4 and down.shape[1:] != shape[1:]:
        return None
    return (up.flatten(1) @ down.flatten(1)).reshape(shape)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


class _Layers:
    """The layers of a pipeline that have a weight, found by any name that a LoRA may give them."""

    def __init__(self, pipeline: Any) -> None:
        networks = {name: getattr(pipeline, name, None) for name in _NETWORKS}
        self.modules: dict[str, dict[str, Any]] = {
            name: {path: module for path, module in network.named_modules() if _has_weight(module)}
            for name, network in networks.items()
            if network is not None
        }
        self._kohya = {
            name: dict(_kohya_names(name, modules, networks[name])) for name, modules in self.modules.items()
        }

    def place(self, stem: str) -> tuple[str, str] | None:
        """Network and path of a layer."""
        for prefix, network in _KOHYA.items():
            if stem.startswith(prefix):
                path = self._kohya.get(network, {}).get(stem.removeprefix(prefix))
                return None if path is None else (network, path)
        stem = stem.removeprefix(PEFT)
        for network in self.modules:
            if stem.startswith(f"{network}."):
                return self._inside(network, stem.removeprefix(f"{network}."))
        for network in ("unet", "transformer", "text_encoder"):
            if network in self.modules and (found := self._inside(network, stem)) is not None:
                return found
        return None

    def _inside(self, network: str, path: str) -> tuple[str, str] | None:
        path = path.replace(".processor.", ".")
        plain = path.removeprefix("text_model.")
        for name in (path, f"{path}.0", plain, f"text_model.{plain}"):  # to_out is to_out.0
            if name in self.modules[network]:
                return network, name
        return None


def _has_weight(module: Any) -> bool:
    return type(module).__name__ in ("Linear", "Conv2d", "LoRACompatibleLinear", "LoRACompatibleConv")


def _kohya_names(network: str, modules: Mapping[str, Any], owner: Any) -> Iterator[tuple[str, str]]:
    """Names with underscores, whose last dots are ambiguous, to paths."""
    for path in modules:
        names = [path, f"text_model.{path.removeprefix('text_model.')}"]
        if network == "unet" and isinstance(owner.config.layers_per_block, int):
            names = [path, _original_name(path, owner.config.layers_per_block, modules)]
        for name in names:
            yield name.replace(".", "_"), path


def _original_name(path: str, layers: int, modules: Mapping[str, Any]) -> str:
    """A layer's name in the original code of Stable Diffusion (XL), as kohya's scripts have it for SDXL."""
    outer = {"conv_in": "input_blocks.0.0", "conv_out": "out.2"}
    outer |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    outer |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    found = re.fullmatch(
        r"(down|mid|up)_blocks?\.?(\d*)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", path
    )
    if found is None:
        return outer.get(path, path)
    place, block, kind, position, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    inner = {"conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3"}
    rest = {**inner, "conv_shortcut": "skip_connection"}.get(rest, rest) if kind == "resnets" else rest
    if place == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * position}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op"
    if kind == "upsamplers":
        attends = any(name.startswith(f"up_blocks.{block}.attentions.") for name in modules)
        return f"output_blocks.{block * (layers + 1) + layers}.{2 if attends else 1}.conv"
    number = block * (layers + 1) + position + (1 if place == "down" else 0)
    side = "input_blocks" if place == "down" else "output_blocks"
    return f"{side}.{number}.{1 if kind == 'attentions' else 0}.{rest}"


class _Alphas:
    """alpha / r of each layer, wherever the file or its neighbour says it."""

    def __init__(self, header: Header) -> None:
        self._peft = peft_scale(header.path) if len(lora_files(header.path)) > 1 else None
        self._config: dict[str, Any] = {}
        if said := header.metadata.get("lora_adapter_metadata"):
            try:
                self._config = dict(json.loads(said))
            except (ValueError, TypeError, RecursionError) as error:
                raise ModelError(f"the metadata of {header.path} are damaged; download it again") from error

    def share(self, network: str, path: str, alpha: float | None, rank: int) -> float:
        """alpha / r; 1 where nothing is said."""
        if self._peft is not None:
            return self._peft
        if alpha is None and f"{network}.lora_alpha" in self._config:
            alpha = self._config[f"{network}.lora_alpha"]
            patterns = self._config.get(f"{network}.alpha_pattern")
            for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
                if path == pattern or path.endswith(f".{pattern}"):
                    alpha = value
        if alpha is None:
            return 1.0
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < 1e6:
            raise ModelError(f"the alpha of a LoRA must be a number, got {alpha!r}")
        return alpha / (rank**0.5 if self._config.get(f"{network}.use_rslora") is True else rank)
