"""Complete diffusers pipelines at toy width, with random weights, so that tests need no download.

Both share one small CLIP tokenizer: every byte is a token, and each word of `WORDS` is a single token. Any other word
falls apart into bytes, which is what tests of words with several tokens want. The networks have the block types, the
77 text positions and the 8 pixels per latent of their real relatives.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

WORDS = ("a", "cat", "dog", "face", "photo", "of", "the", "with", "red", "blue", "smiling", "house", "on", "and", "hat")
TEXT_POSITIONS = 77


def toy_tokenizer(*, pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """Builds a CLIP tokenizer whose vocabulary is all bytes, then `WORDS`, then the two special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # left to right: c a t</w>, ca t</w>, cat</w>
            if (pieces[0], pieces[1]) not in merges:
                merges.append((pieces[0], pieces[1]))
                tokens.append(pieces[0] + pieces[1])
            pieces[:2] = [pieces[0] + pieces[1]]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad_token, model_max_length=TEXT_POSITIONS)


def text_config(tokenizer: CLIPTokenizer, **changes: Any) -> Any:
    from transformers import CLIPTextConfig

    options: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": TEXT_POSITIONS,
        "projection_dim": 32,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextConfig(**(options | changes))


def _autoencoder(scaling_factor: float) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=128,
        scaling_factor=scaling_factor,
    )


def _scheduler(prediction_type: str) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def toy_sd_pipeline(*, prediction_type: str = "epsilon", seed: int = 0, **unet_changes: Any) -> Any:
    """Builds a `StableDiffusionPipeline` (1.x layout): 16x16 latents, attention at three resolutions, text width 32."""
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = toy_tokenizer()
        text_encoder = CLIPTextModel(text_config(tokenizer, hidden_act="quick_gelu")).eval()
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 16, 32),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=32,
            **unet_changes,
        ).eval()
        vae = _autoencoder(0.18215).eval()
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_scheduler(prediction_type),
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )


def toy_sdxl_pipeline(*, prediction_type: str = "epsilon", seed: int = 0) -> Any:
    """Builds a `StableDiffusionXLPipeline`: 16x16 latents, text widths 32 and 48, pooled width 40, six size conditions.

    As in the released SDXL, the second tokenizer pads with "!" and the second encoder has its own activation.
    """
    import torch
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = toy_tokenizer(), toy_tokenizer(pad_token="!")
        text_encoder = CLIPTextModel(text_config(tokenizer, hidden_act="quick_gelu")).eval()
        text_encoder_2 = CLIPTextModelWithProjection(
            text_config(tokenizer_2, hidden_act="gelu", hidden_size=48, intermediate_size=96, projection_dim=40)
        ).eval()
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            transformer_layers_per_block=(1, 1, 2),
            norm_num_groups=8,
            attention_head_dim=(2, 2, 4),
            use_linear_projection=True,
            cross_attention_dim=32 + 48,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=40 + 6 * 8,
        ).eval()
        vae = _autoencoder(0.13025).eval()
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=_scheduler(prediction_type),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def toy_sd_folder(path: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Saves `toy_sd_pipeline` as a diffusers folder (safetensors) at `path` and returns `path`."""
    toy_sd_pipeline(prediction_type=prediction_type, seed=seed).save_pretrained(path, safe_serialization=True)
    return path


def toy_sdxl_folder(path: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Saves `toy_sdxl_pipeline` as a diffusers folder (safetensors) at `path` and returns `path`."""
    toy_sdxl_pipeline(prediction_type=prediction_type, seed=seed).save_pretrained(path, safe_serialization=True)
    return path
