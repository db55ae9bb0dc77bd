"""The networks of the embedded model, in Stable Diffusion's layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

MAX_TOKENS = 32


@dataclass(frozen=True)
class Widths:
    """Channel counts of one size of the model.

    Attributes:
        autoencoder: Channels of each level; each level but the first halves the resolution.
        unet: Channels of each level, the finest (16x16) first; the two finest and the middle have attention.
        unet_layers: Residual blocks of a level.
        heads: Attention heads of each transformer block.
        text: Width of the text encoder and of the cross-attention.
        text_layers: Layers of the text encoder.
    """

    autoencoder: tuple[int, ...]
    unet: tuple[int, ...]
    unet_layers: int
    heads: int = 4
    text: int = 128
    text_layers: int = 2


WIDTHS = {64: Widths((32, 64, 128), (64, 128, 256), 1), 128: Widths((32, 64, 96, 128), (160, 320, 384), 2, 8, 256)}
"""Resolution in pixels -> widths. Both have 16x16 latents."""


def build_autoencoder(size: int) -> AutoencoderKL:
    """Builds the autoencoder: pixels (batch, 3, size, size) in [-1, 1] to latents (batch, 4, 16, 16)."""
    channels = WIDTHS[size].autoencoder
    return AutoencoderKL(
        sample_size=size,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def build_unet(size: int) -> UNet2DConditionModel:
    """Builds the noise predictor on latents (batch, 4, 16, 16), with attention at 16x16, 8x8 and in the middle."""
    widths = WIDTHS[size]
    plain = len(widths.unet) - 2
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths.unet,
        down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",) * plain,
        up_block_types=("UpBlock2D",) * plain + ("CrossAttnUpBlock2D",) * 2,
        layers_per_block=widths.unet_layers,
        cross_attention_dim=widths.text,
        attention_head_dim=widths.heads,  # diffusers' old name for the number of heads
        norm_num_groups=16,
    )


def build_text_encoder(size: int, tokenizer: Any) -> CLIPTextModel:
    """Builds the text encoder: token ids (batch, 32) to embeddings (batch, 32, width)."""
    widths = WIDTHS[size]
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=widths.text,
            intermediate_size=4 * widths.text,
            num_hidden_layers=widths.text_layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=widths.text,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
