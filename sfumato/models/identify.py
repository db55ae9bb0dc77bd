"""What a single safetensors file holds, by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from sfumato.errors import ModelError
from sfumato.models.files import Header

SUPPORTED: Final = (
    "supported are Stable Diffusion 1.x and 2.x, SD-Turbo, Stable Diffusion XL, SDXL-Turbo, latent consistency models"
    " of these, Stable Diffusion 3 and 3.5 and FLUX.1 as diffusers folders, and unconditional DDPMs on pixels"
)

NETWORK: Final = "model.diffusion_model."
"""Prefix of the denoising network in a checkpoint of the original code."""

_LYCORIS: Final = {
    "LoHa": r"\.hada_w\d_[ab]$",
    "LoKr": r"\.lokr_w\d",
    "OFT": r"\.oft_(blocks|diag|R)",
    "IA3": r"\.on_input$|\.ia3_",
    "full-difference LoRA": r"\.diff(_b)?$",
}
_LORA: Final = r"\.lora_(down|up|A|B|mid|embedding_[AB])\b|\.lora\.(down|up)\b|_lora\.(down|up)\b|^lora_(unet|te)"

# What it is -> a tensor name that only such files have; the first that is found counts.
_KINDS: Final[tuple[tuple[str, str], ...]] = (
    ("a ControlNet-LLLite", r"^lllite_"),
    ("a ControlNet", r"^control_model\.|^controlnet_(cond|down|mid|blocks)|^input_hint_block\.|zero_convs\.\d"),
    ("an IP-Adapter", r"^(image_proj|ip_adapter)\."),
    ("a T2I-Adapter", r"^(adapter\.)?body\.\d+\.(resnets|block\d|in_conv)"),
    ("a motion module (AnimateDiff)", r"motion_modules\."),
    ("a FLUX model", r"(^|\.)double_blocks\.\d|(^|\.)single_transformer_blocks\.\d"),
    ("a Stable Diffusion 3 model", r"(^|\.)joint_blocks\.\d|^transformer_blocks\.\d+\.attn\.add_[qkv]_proj"),
    ("a Stable Cascade model", r"(^|\.)clip_txt(_pooled)?_mapper\."),
    (
        "a network of another family (a transformer)",
        r"^(model\.diffusion_model\.|model\.)?((transformer_)?blocks|transformer_blocks|layers)\.\d|x_embedder",
    ),
    ("a UNet alone (of a diffusers folder)", r"^(unet\.)?down_blocks\.\d"),
    ("a UNet alone", r"^(input_blocks|middle_block)\.\d"),
    ("an autoencoder (VAE)", r"^(first_stage_model\.)?(encoder|decoder)\.(conv_in|conv_out|down|up|mid)"),
    ("a tiny autoencoder (TAESD)", r"^(taesd_)?(encoder|decoder)\.(layers\.)?\d|^\d+\.(conv\.\d+\.)?(weight|bias)$"),
    ("a T5 text encoder", r"(^|\.)encoder\.block\.\d+\.layer\."),
    ("a CLIP text encoder", r"(^|\.)text_model\.(encoder|embeddings)|^transformer\.resblocks\.|^token_embedding\."),
    ("a CLIP image encoder", r"(^|\.)(vision_model|visual)\."),
    ("an upscaler", r"^model\.\d+\.|^conv_first\.|\.rdb\d\.|^params(_ema)?\."),
)

_REMEDIES: Final = {
    "a ControlNet": "no method uses it",
    "an IP-Adapter": "no method uses it",
    "a FLUX model": "give its diffusers folder or hub id",
    "a Stable Diffusion 3 model": "give its diffusers folder or hub id",
    "an autoencoder (VAE)": "give the model that it belongs to",
    "a UNet alone (of a diffusers folder)": "give the folder that holds model_index.json",
}

_OTHER_INPUTS: Final = {
    5: "takes depth as well (depth-to-image)",
    7: "takes a small image as well (upscaling)",
    8: "takes an image as well (InstructPix2Pix)",
    9: "takes a mask and an image as well (inpainting)",
}


def refuse_foreign(header: Header) -> None:
    """Raises a `ModelError` for a file that is no complete checkpoint of a known family, and says what it is."""
    path, keys = header.path, header.shapes.keys()
    if is_lora(header):
        raise ModelError(
            f"{path} is a {lora_kind(header)}, not a model; load the model it was made for, with loras=[{str(path)!r}]"
        )
    if (own := header.metadata.get("format", "")).startswith("sfumato-"):
        raise ModelError(f"{path} is a sfumato {own.removeprefix('sfumato-').rpartition('-')[0]}, not a model")
    if any(key.startswith(f"{NETWORK}input_blocks.") for key in keys) and not _any(r"control_model\.", keys):
        refuse_inputs(header.shapes.get(f"{NETWORK}input_blocks.0.0.weight", ()), f"{path}", 4)
        return
    if is_embedding(header):
        raise ModelError(f"{path} is a textual inversion (an embedding), not a model; give the model it was made for")
    for kind, pattern in _KINDS:
        if _any(pattern, keys):
            raise ModelError(f"{path} is {kind}; {_REMEDIES.get(kind, 'give a whole model')}. {SUPPORTED}")
    raise ModelError(f"{path} is no complete checkpoint of a known family; give the whole model. {SUPPORTED}")


def refuse_inputs(first_layer: tuple[int, ...], name: str, channels: int) -> None:
    """Refuses a network whose first layer, (out, in, height, width), takes more than latents of `channels` channels.

    Raises:
        ModelError: Says what else it takes.
    """
    if len(first_layer) == 4 and first_layer[1] != channels:
        what = _OTHER_INPUTS.get(first_layer[1], "was made for other inputs")
        raise ModelError(
            f"the network of {name} takes {first_layer[1]} channels, not {channels}: it {what}; give the plain "
            "text-to-image model"
        )


def is_lora(header: Header) -> bool:
    """Whether the file holds changes to a model's weights, of any kind."""
    return _any(_LORA, header.shapes) or any(_any(pattern, header.shapes) for pattern in _LYCORIS.values())


def lora_kind(header: Header) -> str:
    """ "LoRA", or the kind of LyCORIS that such a file holds."""
    found = [name for name, pattern in _LYCORIS.items() if _any(pattern, header.shapes)]
    return f"LyCORIS {found[0]}" if found else "LoRA"


def is_embedding(header: Header) -> bool:
    """Whether the file is a textual inversion: vectors of a text encoder's width under a few names."""
    keys = header.shapes.keys()
    named = {"emb_params", "string_to_param", "clip_l", "clip_g"} & {key.partition(".")[0] for key in keys}
    few = len(keys) <= 2 and all(len(shape) in (1, 2) and "." not in key for key, shape in header.shapes.items())
    return bool(keys) and (bool(named) or few)


def _any(pattern: str, keys: Iterable[str]) -> bool:
    search: Callable[[str], object] = re.compile(pattern).search
    return any(search(key) for key in keys)
