"""Unpaired image-to-image translation with two models that were trained independently.

- `translate`: CycleDiffusion (Wu and De la Torre, 2022, https://arxiv.org/abs/2210.05559). The DPM-Encoder finds the
  noise maps with which the first model generates the image, and the second model samples with the same ones. SDEdit
  with the second model may refine the result.
- `bridge`: DDIB (Su et al., 2022, https://arxiv.org/abs/2203.08382). DDIM to noise with the first model, and back with
  the second.

The models may be unconditional models of pixels (prompts are then not used) or text-to-image models, such as a base
model and its fine-tune. Their latents must agree in shape. The more the two latent spaces differ, the closer to 1 the
strength must be: at 1 only noise passes from one model to the other.

Differs from CycleDiffusion's code: any grid starts at its own first timestep (theirs at `T_es - 1`, right for 1000
steps only). As there, the step from t = 0 to the image holds no noise in a schedule that ends at level 1, so even the
first model gives the image back only nearly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from sfumato.edits.sdedit import renoised
from sfumato.edits.task import EditTask
from sfumato.errors import ModelError, UsageError
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.noise_maps import noise_map_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Model
from sfumato.sampling.draws import Generators
from sfumato.sampling.shares import first_step, strength_notes
from sfumato.watch import Watch

SAME_LEVEL = 0.02


@dataclass(frozen=True)
class LatentTranslation:
    """A translation, and what it went through.

    Attributes:
        latents: Of the second model, (image, channels, height, width).
        unrefined: The same before refinement.
        inversion: The inversion of the image by the first model.
        notes: Where a strength is less than one step.
    """

    latents: Tensor
    unrefined: Tensor
    inversion: Inversion
    notes: tuple[str, ...] = ()


def translate(
    model_a: Model,
    model_b: Model,
    latents: Tensor,
    *,
    source_prompt: str = "",
    target_prompt: str = "",
    negative_prompt: str = "",
    source_guidance_scale: float = 1.0,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 100,
    strength: float = 0.85,
    eta: float = 0.1,
    refine_strength: float = 0.0,
    refine_eta: float = 1.0,
    refine_repeats: int = 1,
    noise: Tensor | None = None,
    refine_noise: Tensor | None = None,
    generator: Generators = None,
    watch: Watch | None = None,
) -> LatentTranslation:
    """CycleDiffusion: encodes with the first model, decodes with the second, refines with the second.

    Costs one evaluation of each model a step that is run (int(strength steps) of all), two where guided; and one of the
    second a step of each refinement (int(refine_strength steps)), two where guided.

    Args:
        model_a: The model that the image belongs to.
        model_b: The model whose domain the result should be of.
        latents: Of the first model, (image, channels, height, width).
        source_prompt, target_prompt, negative_prompt: For models of text.
        source_guidance_scale, guidance_scale: Of the first model and the second.
        num_inference_steps: Steps of the grid.
        strength: Share of them to run, in (0, 1]; less keeps more of the image. Authors: 0.85 on animal faces.
        eta: Stochasticity, in (0, 1].
        refine_strength: How far SDEdit goes afterwards, in [0, 1]; 0: not at all. Authors: 0.1 (cats) and 0.15 (wild).
        refine_eta, refine_repeats: See `sdedit`.
        noise: Draws of the encoder, see `noise_map_inversion`; None: drawn.
        refine_noise: Draws of the refinement, see `renoised`.
        generator: Draws what is not given.
        watch: Progress and cancellation.

    Raises:
        UsageError: An option out of range, latents of another shape, or noise levels of the models that do not agree at
            the step where the run starts.
        ModelError: The models' latents have different shapes.
    """
    start = first_step(strength, num_inference_steps, at_least=1)
    refine_start = first_step(refine_strength, num_inference_steps)
    check_pair(model_a, model_b, latents, num_inference_steps, start)
    grid, watch = _grid(model_b, latents, num_inference_steps), watch or Watch()
    condition = model_a.encode_prompt([source_prompt, negative_prompt])
    encoding = InversionTask(
        model_a, latents, condition[[0]], condition[[1]], source_guidance_scale, num_inference_steps,
        generator=generator, watch=watch,
    )  # fmt: skip
    inversion = noise_map_inversion(encoding, coupling="posterior", eta=eta, start_index=start, noise=noise)
    task = EditTask(
        model_b, replace(inversion, timesteps=grid), source_prompt, [target_prompt], negative_prompt, guidance_scale,
        generator=generator, watch=watch.during("translating"),
    )  # fmt: skip
    drawn = task.sample(branches=task.targets, replay=task.source)
    refined = drawn
    if refine_start < num_inference_steps:
        refined = renoised(
            replace(task, watch=watch.during("refining")), drawn, start_index=refine_start, eta=refine_eta,
            repeats=refine_repeats, noise=refine_noise,
        )  # fmt: skip
    notes = strength_notes(strength, num_inference_steps)
    notes += strength_notes(refine_strength, num_inference_steps, name="refine_strength")
    return LatentTranslation(refined[0], drawn[0], inversion, notes)


def bridge(
    model_a: Model,
    model_b: Model,
    latents: Tensor,
    *,
    source_prompt: str = "",
    target_prompt: str = "",
    negative_prompt: str = "",
    guidance_scale: float = 1.0,
    num_inference_steps: int = 100,
    strength: float = 1.0,
    watch: Watch | None = None,
) -> LatentTranslation:
    """DDIB: deterministic, so that the way back ends at the image, up to the solver's error.

    Costs one evaluation of each model a step that is run (two of the second where guided).

    Args:
        model_a, model_b, latents, source_prompt, target_prompt, negative_prompt, guidance_scale, num_inference_steps,
            strength, watch: See `translate`; here the whole way is the default, as in the paper.

    Raises:
        UsageError, ModelError: As `translate`.
    """
    start = first_step(strength, num_inference_steps, at_least=1)
    check_pair(model_a, model_b, latents, num_inference_steps, start)
    timesteps, grid = (_grid(model, latents, num_inference_steps)[start:] for model in (model_a, model_b))
    watch = watch or Watch()
    condition = model_a.encode_prompt(source_prompt)
    inversion = ddim_inversion(InversionTask(model_a, latents, condition, timesteps=timesteps, watch=watch))
    task = EditTask(
        model_b, replace(inversion, timesteps=grid), source_prompt, [target_prompt], negative_prompt, guidance_scale,
        watch=watch.during("translating"),
    )  # fmt: skip
    drawn = task.sample(branches=task.targets)
    return LatentTranslation(drawn[0], drawn[0], inversion, strength_notes(strength, num_inference_steps))


def reconstruct(
    model: Model,
    inversion: Inversion,
    *,
    prompt: str = "",
    negative_prompt: str = "",
    guidance_scale: float = 1.0,
    watch: Watch | None = None,
) -> Tensor:
    """The image as the first model gives it back, (image, channels, height, width); arguments as when encoding."""
    task = EditTask(model, inversion, prompt, [], negative_prompt, guidance_scale, watch=watch or Watch())
    return task.sample(replay=inversion)[0]


def _grid(model: Model, latents: Tensor, num_inference_steps: int) -> tuple[float, ...]:
    """The times of a whole run."""
    size = (latents.shape[-2], latents.shape[-1])
    return tuple(model.schedule.timesteps(num_inference_steps, latent_size=size))


def check_pair(model_a: Model, model_b: Model, latents: Tensor, num_inference_steps: int, start_index: int) -> None:
    """Refuses two models between which noise does not pass.

    Raises:
        ModelError: Their latents have different shapes.
        UsageError: The latents are not the first model's, or the run starts amid noise levels that differ. (At full
            strength each starts from what it takes for pure noise.)
    """
    if latents.ndim != 4 or latents.shape[1] != model_a.latent_channels:
        raise UsageError(
            f"latents must be (image, {model_a.latent_channels}, height, width) for {model_a.name}, got"
            f" {tuple(latents.shape)}"
        )
    shape_a = (model_a.latent_channels, model_a.vae_scale_factor)
    shape_b = (model_b.latent_channels, model_b.vae_scale_factor)
    if shape_a != shape_b:
        raise ModelError(
            f"{model_a.name} has latents of {shape_a[0]} channels at 1/{shape_a[1]} of the image's size,"
            f" {model_b.name} of {shape_b[0]} at 1/{shape_b[1]}: translate between models whose latents have one shape"
        )
    size = (latents.shape[-2], latents.shape[-1])
    level_a, level_b = (
        model.schedule.steps(num_inference_steps, latent_size=size)[start_index].level for model in (model_a, model_b)
    )
    if start_index > 0 and abs(level_a.signal - level_b.signal) > SAME_LEVEL:
        raise UsageError(
            f"at the first step {model_a.name} expects a signal of {level_a.signal:.3g} and {model_b.name} of"
            f" {level_b.signal:.3g}, so the noisy image of one is not one of the other: use strength 1, or models"
            " with the same noise schedule"
        )
