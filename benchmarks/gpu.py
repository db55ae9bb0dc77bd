"""Editing methods on a GPU beside bare network calls, on real architectures with random weights.

    python -m benchmarks.gpu [--minutes 9] [--models sd15,sdxl] [--methods a,b] [--batches 1,4,16] [--steps 10]
        [--dtype bf16] [--out docs]

For each model and batch: seconds of one row in a bare network call, eager and, on a GPU, compiled; then each method's
seconds, network evaluations, ratio to as many bare evaluations, and peak memory above the weights. Every image is one
of a batch of latents, edited from the method's first inversion, which is not counted. Each figure is the second of two
runs. Writes gpu.json after each figure, and ends when the minutes are used up; what is missing is named. `--models toy`
is for a processor. Random weights draw noise, but cost what trained ones cost.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import sfumato
from benchmarks.method_cost import bare_evaluation, run_method, start_of
from sfumato.edits.method import METHODS
from sfumato.emoji import WEIGHTS
from sfumato.files import write_whole
from sfumato.models.base import Model

TOKENS = 77
LEFT_OUT = ("auto", "langevin")
"""They run the other methods, or need a judge of images."""


@dataclass(frozen=True)
class Architecture:
    """A network to build with random weights.

    Attributes:
        unet: Its configuration.
        text_widths: Of its text encoders.
        latents: Side of the latents at the size that it was made for.
    """

    unet: dict[str, Any]
    text_widths: tuple[int, ...]
    latents: int

    @property
    def is_xl(self) -> bool:
        return len(self.text_widths) > 1


def _xl(channels: tuple[int, ...], depth: tuple[int, ...], heads: tuple[int, ...], text: int) -> dict[str, Any]:
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": depth,
        "attention_head_dim": heads,
        "cross_attention_dim": text,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 1280,
    }


ARCHITECTURES = {
    "sd15": Architecture({"cross_attention_dim": 768, "attention_head_dim": 8}, (768,), 64),
    "sdxl": Architecture(_xl((320, 640, 1280), (1, 2, 10), (5, 10, 20), 2048), (768, 1280), 128),
    "toy": Architecture(
        {
            "block_out_channels": (16, 32),
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 32,
            "attention_head_dim": 2,
            "norm_num_groups": 8,
        },
        (32,),
        16,
    ),
}


def build(name: str, device: str, dtype: torch.dtype) -> Model:
    """A model of an architecture, with random weights and a small autoencoder."""
    made = ARCHITECTURES[name]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        source = CLIPTokenizer.from_pretrained(str(WEIGHTS / "tokenizer"), model_max_length=TOKENS)
        source.save_pretrained(folder)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=made.latents, **made.unet)
        autoencoder = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4, layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        encoders = [_text_encoder(width, tokenizer, projects=n == 1) for n, width in enumerate(made.text_widths)]
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    parts: dict[str, Any] = {"vae": autoencoder, "unet": unet, "scheduler": scheduler, "tokenizer": tokenizer}
    parts["text_encoder"] = encoders[0]
    if made.is_xl:
        pipeline: Any = StableDiffusionXLPipeline(**parts, text_encoder_2=encoders[1], tokenizer_2=tokenizer)
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    return sfumato.load_model(pipeline.to(dtype=dtype), device=device)


def _text_encoder(width: int, tokenizer: Any, *, projects: bool) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=TOKENS, projection_dim=width,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projects else CLIPTextModel)(config)


class Bench:
    """Measures until the time is used up, and writes what it has after each figure.

    Args:
        arguments: See the module.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments, self._end = arguments, time.monotonic() + 60 * arguments.minutes
        self._cuda = arguments.device == "cuda"
        self.report: dict[str, Any] = {
            "device": torch.cuda.get_device_name() if self._cuda else platform.processor() or platform.machine(),
            "dtype": arguments.dtype,
            "steps": arguments.steps,
            "versions": {
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
                "sfumato": sfumato.__version__,
            },
            "models": {},
            "missing": [],
        }

    def clock(self) -> float:
        """Seconds, when all that was asked of the device is done."""
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def run(self) -> None:
        """Everything that was asked for, in order."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[self._arguments.dtype]
        for name in self._arguments.models.split(","):
            model = build(name, self._arguments.device, dtype)
            entry = self.report["models"][name] = {"latents": ARCHITECTURES[name].latents, "bare": {}, "methods": {}}
            self._write()
            for batch, method, measure in self._jobs(model, name):
                if time.monotonic() > self._end:
                    self.report["missing"].append(f"{name}, batch {batch}, {method}")
                    continue
                figures = measured_or_said(measure)
                group, _, kind = method.partition(" ")
                into = entry["bare"].setdefault(kind, {}) if kind else entry["methods"].setdefault(group, {})
                into[str(batch)] = figures
                print(name, batch, method, json.dumps(figures), flush=True)
                self._write()
            del model
            if self._cuda:
                torch.cuda.empty_cache()

    def _jobs(self, model: Model, name: str) -> Iterator[tuple[int, str, Callable[[], Any]]]:
        """Batch, what is measured, and how; the small batches first."""
        side, methods = ARCHITECTURES[name].latents, self._arguments.methods
        names = methods.split(",") if methods else [one for one in METHODS if one not in LEFT_OUT]
        for batch in (int(text) for text in self._arguments.batches.split(",")):
            generator = torch.Generator().manual_seed(0)
            clean = torch.randn(batch, model.latent_channels, side, side, generator=generator).to(model.device)
            yield batch, "bare eager", lambda clean=clean: self._bare(model, clean)
            for method in names:
                yield batch, method, lambda clean=clean, method=method: self._method(model, clean, method)
        if self._cuda:  # last: compiling takes long
            for batch in (int(text) for text in self._arguments.batches.split(",")):
                yield batch, "bare compiled", lambda batch=batch: self._compiled(model, batch, side)

    def _bare(self, model: Model, clean: torch.Tensor) -> float:
        rows = 4 * len(clean)
        bare_evaluation(model, clean, rows=rows, clock=self.clock)
        return round(bare_evaluation(model, clean, rows=rows, clock=self.clock), 6)

    def _compiled(self, model: Model, batch: int, side: int) -> float:
        model.unet.compile_repeated_blocks(fullgraph=False)  # type: ignore[attr-defined]
        return self._bare(model, torch.zeros(batch, model.latent_channels, side, side, device=model.device))

    def _method(self, model: Model, clean: torch.Tensor, name: str) -> dict[str, Any]:
        start = start_of(model, clean, name, self._arguments.steps)
        weights = torch.cuda.memory_allocated() if self._cuda else 0
        run_method(model, name, start, {}, clock=self.clock)
        seconds, cost = run_method(model, name, start, {}, clock=self.clock)
        bare = self._bare(model, clean) * cost.evaluations
        return {
            "seconds": round(seconds, 4),
            "evaluations": cost.evaluations,
            "ratio": round(seconds / bare, 3),
            "memory_gb": round((cost.peak_memory - weights) / 2**30, 3),
        }

    def _write(self) -> None:
        path = self._arguments.out / "gpu.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(self.report, indent=1) + "\n").encode())


def measured_or_said(measure: Callable[[], Any]) -> Any:
    """What is measured, or why it cannot be: too little memory, or a method that refuses."""
    try:
        return measure()
    except (torch.OutOfMemoryError, sfumato.SfumatoError) as error:
        torch.cuda.empty_cache()
        return str(error).splitlines()[0][:200]


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints, writes; returns the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--models", default="sd15,sdxl", help=f"of {', '.join(ARCHITECTURES)}")
    parser.add_argument("--methods", default="")
    parser.add_argument("--batches", default="1,4,16")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args(words)
    if unknown := set(arguments.models.split(",")) - set(ARCHITECTURES):
        parser.error(f"unknown model {', '.join(sorted(unknown))}; there are {', '.join(ARCHITECTURES)}")
    warnings.simplefilter("ignore")  # random weights bring nothing back
    bench = Bench(arguments)
    bench.run()
    return bench.report


if __name__ == "__main__":
    main()
