"""Names of Stable Diffusion 1.x weights as the original code (and so a single-file checkpoint) has them."""

import re
from typing import Any

from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_checkpoint(pipeline: Any) -> dict[str, Tensor]:
    """All weights of a `StableDiffusionPipeline`, under their original names."""
    unet, vae, text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
    layers, blocks = unet.config.layers_per_block, len(vae.config.block_out_channels)
    checkpoint = {f"model.diffusion_model.{_unet(key, layers)}": value for key, value in unet.state_dict().items()}
    for key, value in vae.state_dict().items():
        name, is_projection = _vae(key, blocks)
        checkpoint[f"first_stage_model.{name}"] = value[:, :, None, None] if is_projection else value
    for key, value in text_encoder.state_dict().items():
        checkpoint[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    return {key: value.clone().contiguous() for key, value in checkpoint.items()}


def _unet(key: str, layers: int) -> str:
    stem, kind = key.rsplit(".", 1)
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    place, part, rest = re.fullmatch(r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(\w+\.\d+)\.(.*)", key).groups()
    part_kind, part_index = part.split(".")
    position, block = int(part_index), int(place.rsplit(".", 1)[1]) if "." in place else 0
    if part_kind == "resnets":
        module, leaf = rest.rsplit(".", 1)
        rest = f"{_RESNET[module]}.{leaf}"
    slot = 1 if part_kind == "attentions" else 0
    if place == "mid_block":
        return f"middle_block.{1 if slot else 2 * position}.{rest}"
    if part_kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{kind}"
    if part_kind == "upsamplers":
        return f"output_blocks.{block * (layers + 1) + layers}.{1 if block == 0 else 2}.conv.{kind}"
    if place.startswith("down"):
        return f"input_blocks.{block * (layers + 1) + 1 + position}.{slot}.{rest}"
    return f"output_blocks.{block * (layers + 1) + position}.{slot}.{rest}"


def _vae(key: str, blocks: int) -> tuple[str, bool]:
    attention = re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.*)\.(\w+)", key)
    if attention:
        side, module, kind = attention.groups()
        return f"{side}.mid.attn_1.{_VAE_ATTENTION[module]}.{kind}", kind == "weight" and module != "group_norm"
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", key)
    key = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{blocks - 1 - int(found[1])}", key)
    key = re.sub(r"down_blocks\.(\d)", r"down.\1", key)
    key = key.replace("resnets.", "block.").replace("conv_shortcut", "nin_shortcut")
    key = key.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    return key.replace("conv_norm_out", "norm_out"), False
