"""Flow pipelines at toy width with random weights, text encoders included; see `tests.toy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.toy import WORDS, text_config, toy_tokenizer

if TYPE_CHECKING:
    from transformers import T5Tokenizer

WIDTH = 96
"""Of the text embeddings that the networks take."""


def toy_t5_tokenizer() -> T5Tokenizer:
    """Builds a T5 tokenizer whose pieces are `WORDS`, single letters and punctuation."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -4.0)]
    pieces += [(f"\u2581{word}", -2.0) for word in WORDS if len(word) > 1 or word == "a"]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz.,'!?-()"]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def toy_sd3_pipeline(*, t5: bool = True, newer: bool = False, head_dim: int = 8) -> Any:
    """Builds a `StableDiffusion3Pipeline`; `newer`: SD3.5's norms and a second attention in its first block."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clips = [toy_tokenizer(), toy_tokenizer(pad_token="!")]
        encoders = [
            CLIPTextModelWithProjection(text_config(clips[0], hidden_act="quick_gelu")),
            CLIPTextModelWithProjection(
                text_config(clips[1], hidden_act="gelu", hidden_size=48, intermediate_size=96, projection_dim=40)
            ),
        ]
        transformer = SD3Transformer2DModel(
            sample_size=16, num_layers=2, attention_head_dim=head_dim, num_attention_heads=4, joint_attention_dim=WIDTH,
            caption_projection_dim=4 * head_dim, pooled_projection_dim=72, pos_embed_max_size=16,
            dual_attention_layers=(0,) if newer else (), qk_norm="rms_norm" if newer else None,
        )  # fmt: skip
        tokenizer_3, encoder_3 = _t5() if t5 else (None, None)
        vae = _autoencoder(1.5305, 0.0609)
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(), vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=encoders[0].eval(), tokenizer=clips[0], text_encoder_2=encoders[1].eval(), tokenizer_2=clips[1],
        text_encoder_3=encoder_3, tokenizer_3=tokenizer_3,  # type: ignore[arg-type]
    )  # fmt: skip


def toy_flux_pipeline(*, schnell: bool = False, head_dim: int = 8) -> Any:
    """Builds a `FluxPipeline`; `schnell`: one without an input for guidance, and levels that are not shifted."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = toy_tokenizer()
        encoder = CLIPTextModel(text_config(clip, hidden_act="quick_gelu")).eval()
        transformer = FluxTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=2, attention_head_dim=head_dim, num_attention_heads=4,
            joint_attention_dim=WIDTH, pooled_projection_dim=32, guidance_embeds=not schnell,
            axes_dims_rope=(head_dim // 4, head_dim // 4, head_dim // 2),
        )  # fmt: skip
        tokenizer_2, encoder_2 = _t5()
        vae = _autoencoder(0.3611, 0.1159)
    return FluxPipeline(
        transformer=transformer.eval(), vae=vae, text_encoder=encoder, tokenizer=clip, text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0 if schnell else 3.0, use_dynamic_shifting=not schnell),
    )  # fmt: skip


def short_flux() -> Any:
    """`toy_flux_pipeline`, loaded, with 64 positions of T5's text, not 512: most of what an evaluation takes."""
    import sfumato

    with patch("sfumato.models.flux._DEV_LENGTH", 64):
        return sfumato.load_model(toy_flux_pipeline())


def short_sd3() -> Any:
    """The newer `toy_sd3_pipeline`, loaded, with 64 positions of T5's text, not 256."""
    import sfumato

    with patch("sfumato.models.sd3.T5_LENGTH", 64):
        return sfumato.load_model(toy_sd3_pipeline(newer=True))


def _t5() -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel

    tokenizer = toy_t5_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=12, d_ff=64, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return tokenizer, T5EncoderModel(config).eval()


def _autoencoder(scaling_factor: float, shift_factor: float) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=16,
        sample_size=128,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
