"""The same edits by diffusers' pipelines and by sfumato, on the same weights, latents and random numbers.

Used by `benchmarks.peers`. A pair has two sides; each loads its weights once and makes its clean latents, (1, channels,
height, width), as often as it is asked. Where the pipelines take options that do not change the result, they have those
that cost least. What a pipeline does around the method, such as decoding a reconstruction that nobody asked for, is
left out.
"""

from __future__ import annotations

import importlib.util
import inspect
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

import sfumato
from sfumato.edits.cycle_diffusion import cycle_diffusion
from sfumato.edits.diffedit import diffedit
from sfumato.edits.ledits_pp import ledits
from sfumato.edits.pix2pix_zero import pix2pix_zero
from sfumato.edits.prompt_to_prompt import prompt_to_prompt
from sfumato.edits.task import EditTask
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.noise_maps import dpm_encoder, edit_friendly_inversion
from sfumato.inversions.null_text import null_text_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample

SOURCE, TARGET, CONCEPT = "a cat on a mat", "a dog on a mat", "a dog"
GUIDANCE = 7.5
CYCLE_GUIDANCE, CONCEPT_GUIDANCE = 2.0, 5.0
STRENGTH, ETA = 0.8, 0.1
QUANTILE = 0.9
MASK_DRAWS = 10
CROSS_SHARE, SELF_SHARE = 0.8, 0.4
INNER_STEPS, EARLY_STOP = 3, 1e-6


@dataclass(frozen=True)
class Job:
    """What both sides do.

    Attributes:
        model: Folder of the weights.
        latents: Side of the latents.
        steps: Of the grid.
        community: Folder with diffusers' examples/community, for the pairs that need a file of it.
    """

    model: str
    latents: int
    steps: int
    community: Path | None = None

    @cached_property
    def clean(self) -> Tensor:
        """The latents of the image, (1, 4, latents, latents)."""
        return 0.5 * self.noise(1)

    def noise(self, seed: int = 2) -> Tensor:
        """A standard normal draw of that shape."""
        return torch.randn(1, 4, self.latents, self.latents, generator=draws(seed))


def draws(seed: int = 0) -> torch.Generator:
    """The random numbers of a run."""
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Side:
    """One of the two implementations.

    Attributes:
        load: Reads the weights; the result has the network as `unet`.
        run: Makes the clean latents of the edit.
    """

    load: Callable[[Job], Any]
    run: Callable[[Any, Job], Tensor]


@dataclass(frozen=True)
class Pair:
    """A method by both.

    Attributes:
        ours, theirs: The sides.
        pipeline: Name of their class.
        file: The file of examples/community that has it; none: diffusers itself.
    """

    ours: Side
    theirs: Side
    pipeline: str
    file: str | None = None


# Ours


def _model(job: Job) -> Any:
    return sfumato.load_model(job.model, device="cpu")


def _invert(model: Any, job: Job, prompt: str, guidance_scale: float = 1.0) -> InversionTask:
    return InversionTask(
        model, job.clean, model.encode_prompt(prompt), None, guidance_scale, job.steps, generator=draws()
    )


def _drawn(model: Any, job: Job) -> Inversion:
    timesteps = model.schedule.timesteps(job.steps, latent_size=(job.latents, job.latents))
    return Inversion("drawn", job.noise(), tuple(timesteps))


def _our_prompt_to_prompt(model: Any, job: Job) -> Tensor:
    task = EditTask(model, _drawn(model, job), SOURCE, [TARGET], guidance_scale=GUIDANCE)
    shares: dict[str, Any] = {"cross_replace_steps": CROSS_SHARE, "self_replace_steps": SELF_SHARE}
    return prompt_to_prompt(task, edit="replace", released=True, **shares).latents[1]


def _our_pix2pix_zero(model: Any, job: Job) -> Tensor:
    task = EditTask(model, _drawn(model, job), SOURCE, [TARGET], guidance_scale=GUIDANCE)
    return pix2pix_zero(task, attention_guidance=0.1, update="released").latents[1]


def _our_cycle_diffusion(model: Any, job: Job) -> Tensor:
    source = dpm_encoder(_invert(model, job, SOURCE), eta=ETA, strength=STRENGTH)
    task = EditTask(model, replace(source, prompt=SOURCE), SOURCE, [TARGET], guidance_scale=CYCLE_GUIDANCE)
    return cycle_diffusion(task, strength=STRENGTH).latents[1]


def _our_diffedit(model: Any, job: Job) -> Tensor:
    source = ddim_inversion(_invert(model, job, SOURCE))
    task = EditTask(model, source, SOURCE, [TARGET], guidance_scale=GUIDANCE, generator=draws())
    return diffedit(task, strength=STRENGTH, contrast_draws=MASK_DRAWS).latents[1]


def _our_ledits(model: Any, job: Job, masks: str = "noise") -> Tensor:
    generator = draws()
    noise = torch.stack([torch.randn(job.clean.shape, generator=generator) for _ in range(job.steps)])
    source = edit_friendly_inversion(_invert(model, job, ""), noise=noise.flip(0))  # they draw the last level first
    task = EditTask(model, source, "", [CONCEPT], guidance_scale=CONCEPT_GUIDANCE)
    options: dict[str, Any] = {"concepts": {CONCEPT: 1.0}, "masks": masks, "quantile": QUANTILE, "strength": 1.0}
    return ledits(task, **options).latents[1]


def _our_null_text(model: Any, job: Job) -> Tensor:
    task = _invert(model, job, SOURCE, GUIDANCE)
    source = null_text_inversion(task, inner_steps=INNER_STEPS, early_stop=EARLY_STOP)
    branch = Branch(model.encode_prompt(SOURCE), guidance_scale=GUIDANCE)
    return sample(model, source.noise, {"source": branch}, timesteps=source.timesteps, replay=source)[0]


# Theirs


class _WholeTimesteps(DDIMScheduler):
    """DDIM that takes the timestep as LEDITS++'s pipeline gives it, which is not a whole number's tensor."""

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        noisy: Tensor = super().add_noise(original_samples, noise, timesteps.long())
        return noisy


def _pipeline(name: str, file: str | None = None) -> Callable[[Job], Any]:
    """A function that builds the pipeline on the weights of a job."""

    def load(job: Job) -> Any:
        diffusers.utils.logging.set_verbosity_error()
        base = diffusers.StableDiffusionPipeline.from_pretrained(job.model, safety_checker=None)
        scheduler = _WholeTimesteps.from_config(base.scheduler.config)
        kind = getattr(diffusers, name) if file is None else _class_of(job, file, name)
        extras = {
            "inverse_scheduler": diffusers.DDIMInverseScheduler.from_config(scheduler.config),
            "caption_generator": None,
            "caption_processor": None,
            "requires_safety_checker": False,
        }
        known = inspect.signature(kind).parameters
        given = {**base.components, **extras, "scheduler": scheduler}
        pipe = kind(**{key: value for key, value in given.items() if key in known})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


def _class_of(job: Job, file: str, name: str) -> Any:
    """A class of a file of examples/community."""
    assert job.community is not None, "the pair needs the folder"
    spec = importlib.util.spec_from_file_location(f"community_{name}", job.community / file)
    assert spec is not None, file
    assert spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _their_prompt_to_prompt(pipe: Any, job: Job) -> Tensor:
    edit = {"edit_type": "replace", "n_cross_replace": CROSS_SHARE, "n_self_replace": SELF_SHARE}
    latents = job.noise().expand(2, -1, -1, -1).contiguous()
    images = pipe(
        [SOURCE, TARGET], num_inference_steps=job.steps, guidance_scale=GUIDANCE, latents=latents,
        output_type="latent", cross_attention_kwargs=edit,
    ).images  # fmt: skip
    return images[1:]


def _their_pix2pix_zero(pipe: Any, job: Job) -> Tensor:
    return pipe(
        SOURCE, source_embeds=pipe.get_embeds([SOURCE]), target_embeds=pipe.get_embeds([TARGET]), latents=job.noise(),
        num_inference_steps=job.steps, guidance_scale=GUIDANCE, cross_attention_guidance_amount=0.1,
        output_type="latent",
    ).images  # fmt: skip


def _their_cycle_diffusion(pipe: Any, job: Job) -> Tensor:
    return pipe(
        TARGET, source_prompt=SOURCE, image=job.clean, strength=STRENGTH, eta=ETA, num_inference_steps=job.steps,
        guidance_scale=CYCLE_GUIDANCE, source_guidance_scale=1.0, generator=draws(), output_type="latent",
    ).images  # fmt: skip


def _their_diffedit(pipe: Any, job: Job) -> Tensor:
    """With guided predictions for the mask: unguided ones, of which it would be the same, raise an error there."""
    mask = pipe.generate_mask(
        image=job.clean, source_prompt=SOURCE, target_prompt=TARGET, num_maps_per_mask=MASK_DRAWS,
        guidance_scale=GUIDANCE, num_inference_steps=job.steps, generator=draws(),
    )  # fmt: skip
    known = pipe.invert(
        SOURCE, image=job.clean, num_inference_steps=job.steps, inpaint_strength=STRENGTH, guidance_scale=1.0
    ).latents
    return pipe(
        TARGET, mask_image=mask, image_latents=known, num_inference_steps=job.steps, inpaint_strength=STRENGTH,
        guidance_scale=GUIDANCE, output_type="latent",
    ).images  # fmt: skip


def _their_ledits(pipe: Any, job: Job, attention: bool = False) -> Tensor:
    pipe.encode_image = lambda *_, **__: (job.clean, None)
    pipe.vae.decode = lambda latents, **_: (torch.zeros(1, 3, 8, 8),)  # of a reconstruction that is not used
    pipe.invert(None, source_prompt="", num_inversion_steps=job.steps, skip=0.0, generator=draws())
    return pipe(
        editing_prompt=[CONCEPT], edit_guidance_scale=CONCEPT_GUIDANCE, edit_warmup_steps=0, edit_threshold=QUANTILE,
        use_cross_attn_mask=attention, use_intersect_mask=attention, output_type="latent",
    ).images  # fmt: skip


def _their_null_text(pipe: Any, job: Job) -> Tensor:
    pipe.image2latent = lambda _: job.clean
    with tempfile.TemporaryDirectory() as folder:  # where it leaves the embeddings
        noise, embeds = pipe.invert(
            f"{folder}/image", SOURCE, INNER_STEPS, early_stop_epsilon=EARLY_STOP, num_inference_steps=job.steps
        )
    return pipe(
        SOURCE, embeds, noise, num_inference_steps=job.steps, guidance_scale=GUIDANCE, output_type="latent"
    ).images  # fmt: skip


def _pair(
    ours: Callable[[Any, Job], Tensor], theirs: Callable[[Any, Job], Tensor], name: str, file: str | None = None
) -> Pair:
    return Pair(Side(_model, ours), Side(_pipeline(name, file), theirs), name, file)


PAIRS = {
    "prompt-to-prompt": _pair(
        _our_prompt_to_prompt, _their_prompt_to_prompt, "Prompt2PromptPipeline", "pipeline_prompt2prompt.py"
    ),
    "pix2pix-zero": _pair(_our_pix2pix_zero, _their_pix2pix_zero, "StableDiffusionPix2PixZeroPipeline"),
    "cycle-diffusion": _pair(_our_cycle_diffusion, _their_cycle_diffusion, "CycleDiffusionPipeline"),
    "diffedit": _pair(_our_diffedit, _their_diffedit, "StableDiffusionDiffEditPipeline"),
    "ledits": _pair(_our_ledits, _their_ledits, "LEditsPPPipelineStableDiffusion"),
    "ledits-both-masks": _pair(
        partial(_our_ledits, masks="both"), partial(_their_ledits, attention=True), "LEditsPPPipelineStableDiffusion"
    ),
    "null-text": _pair(_our_null_text, _their_null_text, "NullTextPipeline", "pipeline_null_text_inversion.py"),
}


def network_of(weights: Any) -> nn.Module:
    """The denoising network of either side."""
    network: nn.Module = weights.unet
    return network
