"""The networks of the embedded model, in Stable Diffusion's layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from sfumato.emoji.scenes import SIZE

MAX_TOKENS = 40
LATENT_SIDE = 32
MAP_SIDE, SMALL_SIDE = MAP_SIDES = 16, 8
"""Sides of attention maps: of the finest ones, which edits use, and below."""


@dataclass(frozen=True)
class Widths:
    """Sizes of the networks.

    Attributes:
        autoencoder: Channels of each level; each level but the first halves the resolution.
        latent_channels: Channels of the latents.
        unet: Channels of each level, the finest (32x32) first; all but it have attention.
        unet_layers: Residual blocks of a level.
        heads: Attention heads of each transformer block.
        text: Width of the text encoder and of the cross-attention.
        text_layers: Layers of the text encoder.
    """

    autoencoder: tuple[int, ...] = (32, 64, 128)
    latent_channels: int = 4
    unet: tuple[int, ...] = (48, 96, 192)
    unet_layers: int = 1
    heads: int = 4
    text: int = 128
    text_layers: int = 2


SIZES: dict[str, Widths] = {
    "small": Widths(),
    "large": Widths(unet=(64, 128, 256)),
    "toy": Widths((8, 8, 8), 4, (16, 16, 16), 1, 2, 16, 1),
}
"""Name -> sizes: for two processor cores, for a GPU, for tests."""


def build_autoencoder(widths: Widths) -> AutoencoderKL:
    """Builds the autoencoder: pixels (batch, 3, 128, 128) in [-1, 1] to latents (batch, channels, 32, 32)."""
    levels = len(widths.autoencoder)
    return AutoencoderKL(
        sample_size=SIZE,
        block_out_channels=widths.autoencoder,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=widths.latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def build_unet(widths: Widths) -> UNet2DConditionModel:
    """Builds the velocity predictor, with self- and cross-attention at 16x16, 8x8 and in the middle."""
    deeper = len(widths.unet) - 1
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=widths.latent_channels,
        out_channels=widths.latent_channels,
        block_out_channels=widths.unet,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * deeper,
        up_block_types=("CrossAttnUpBlock2D",) * deeper + ("UpBlock2D",),
        layers_per_block=widths.unet_layers,
        cross_attention_dim=widths.text,
        attention_head_dim=widths.heads,  # diffusers' old name for the number of heads
        norm_num_groups=16,
    )


def build_text_encoder(widths: Widths, tokenizer: Any) -> CLIPTextModel:
    """Builds the text encoder: token ids (batch, 40) to embeddings (batch, 40, width)."""
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


def build_scheduler(prediction: str = "v_prediction") -> DDIMScheduler:
    """Stable Diffusion's noise schedule; the network predicts the velocity, or the noise ("epsilon")."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
