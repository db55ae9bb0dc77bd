"""The search of CycleDiffusion's paper: many candidates of one edit, ranked by an energy.

Source: Wu and De la Torre, 2022, https://arxiv.org/abs/2210.05559. Their results are the best of 15 draws x 6 numbers
of skipped steps x 6 guidance scales for each picture, by directional CLIP score: some 75,000 evaluations.

Differs from the authors' code: candidates that share draws and skipped steps run in one batch; the source's latents are
encoded once for all trials; the encoder's guidance is the inversion's (1 in all their tables).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.edit.energies import Energy, evaluated
from sfumato.edit.noise_map_edit import Control, replay_edit, start_of
from sfumato.edit.result import Candidate, Edited
from sfumato.errors import UsageError
from sfumato.inversion.noise_maps import noise_map_inversion
from sfumato.inversion.result import Inversion
from sfumato.metrics.text_agreement import directional_agreement
from sfumato.models.base import Condition, Model
from sfumato.samplers.draws import Generators, alike, draw_noise
from sfumato.samplers.loop import OnStep
from sfumato.samplers.shares import strength_notes
from sfumato.samplers.watch import Watch
from sfumato.schedules import add_noise

DRAWS = 8


@dataclass(frozen=True)
class DirectionalAgreement:
    """1 - directional agreement with a change of text, the energy that the paper ranks by.

    Attributes:
        encode_image: Picture side of a CLIP-like dual encoder: pixels (rows, 3, H, W) to (rows, dim).
        source_pixels: The original pictures, (image, 3, H, W).
        source_text_embeds, target_text_embeds: What its text side gives, (1, dim) or one an image.
    """

    encode_image: Callable[[Tensor], Tensor]
    source_pixels: Tensor
    source_text_embeds: Tensor
    target_text_embeds: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        source = self.encode_image(self.source_pixels.to(images))
        texts = self.target_text_embeds.to(source), self.source_text_embeds.to(source)
        return 1.0 - directional_agreement(self.encode_image(images), source, *texts)


class PromptGain:
    """How much better the source prompt explains latents than the target prompt: the model judges its own edit.

    Difference of the denoising errors under the two prompts, over the same noises at levels in the middle of the
    schedule. Costs 2 evaluations a draw and image. One target prompt for all images, or one an image. Where there is a
    single generator it draws the same noises for all images.

    Reference: the diffusion classifier, Li et al., 2023, https://arxiv.org/abs/2303.16203, Eq. 5.
    """

    def __init__(
        self,
        model: Model,
        source_prompt: str,
        target_prompt: str | Sequence[str],
        *,
        draws: int = DRAWS,
        generator: Generators = None,
    ) -> None:
        self.model, self.draws, self.generator = model, draws, generator
        targets = [target_prompt] if isinstance(target_prompt, str) else list(target_prompt)
        self.condition = model.encode_prompt([source_prompt, *targets])
        self.noise: Tensor | None = None
        total = model.schedule.num_train_timesteps
        self.timesteps = [int(total * (0.3 + 0.4 * k / max(draws - 1, 1))) for k in range(draws)]

    def __call__(self, images: Tensor) -> Tensor:
        if self.noise is None:  # the same for all candidates
            shape = alike((self.draws, *images.shape), self.generator)
            self.noise = draw_noise(shape, self.generator, images)
        gains = []
        for t, noise in zip(self.timesteps, self.noise, strict=True):
            noisy = add_noise(images, noise, self.model.schedule.alpha_bar(t))
            halves = self.condition[[0]], self.condition[slice(1, None)]
            rows = Condition.cat([half.expand(len(images)) for half in halves])
            predicted = self.model.predict_noise(noisy.repeat(2, 1, 1, 1), t, rows).unflatten(0, (2, len(images)))
            errors = (predicted - noise).square().flatten(2).mean(dim=2)
            gains.append(errors[1] - errors[0])
        return torch.stack(gains).mean(dim=0)


@torch.no_grad()
def search(
    model: Model,
    source: Inversion,
    *,
    source_prompt: str,
    target_prompt: str,
    negative_prompt: str = "",
    trials: int = 1,
    strengths: Sequence[float],
    guidance_scales: Sequence[float],
    energy: Energy | None = None,
    control: Control | None = None,
    generator: Generators = None,
    on_step: Sequence[OnStep] = (),
    watch: Watch | None = None,
) -> Edited:
    """Runs every combination of draws, strength and guidance scale and returns the one of least energy, image by image.

    Costs, for each trial, the inversion (none for the first) and 2 evaluations for each executed step and guidance
    scale of every strength; then for each candidate the energy (16 evaluations without one).

    Args:
        model: Any model.
        source: Noise maps and trajectory; the first trial's draws.
        source_prompt, target_prompt, negative_prompt: As in every recipe.
        trials: How often the noise maps are drawn, at least 1.
        strengths: Shares of the steps to run, each in [0, 1].
        guidance_scales: Of the edited branch; those of one strength run in one batch.
        energy: Judges clean latents, (image, channels, height, width), the lower the better; None: `PromptGain`. One of
            pictures: `energies.OfPictures`.
        control: Prompt-to-Prompt's, or None.
        generator: Draws further noise maps and the noises of `PromptGain`.
        on_step: Called after every step.
        watch: Progress, previews, cancellation.

    Returns:
        Branches "source", "target", and all candidates nested in the order trial, strength, guidance scale (innermost);
        agreement is minus the energy, mean over images.

    Raises:
        UsageError: No combination is left, or the energy does not give one number an image.
    """
    if trials < 1 or not strengths or not guidance_scales:
        raise UsageError("a search needs at least one trial, one strength and one guidance scale")
    watch, starts = watch or Watch(), [start_of(source, strength, None) for strength in strengths]
    score = energy or PromptGain(model, source_prompt, target_prompt, generator=generator)
    candidates, energies, origin = [], [], source.clean
    for trial in range(trials):
        during = watch.during(f"trial {trial + 1} of {trials}")
        code = source if trial == 0 else _drawn_again(model, source, source_prompt, negative_prompt, generator, watch)
        for strength, start in zip(strengths, starts, strict=True):
            edited = replay_edit(
                model, code, source_prompt=source_prompt, target_prompts=[target_prompt] * len(guidance_scales),
                negative_prompt=negative_prompt, guidance_scales=guidance_scales, start_index=start, control=control,
                on_step=on_step, watch=during,
            )  # fmt: skip
            origin = edited.latents[0]
            for scale, latents in zip(guidance_scales, edited.latents[1:], strict=True):
                energies.append(evaluated(score, latents))
                options = {"trial": trial, "strength": strength, "guidance_scale": scale}
                change = float((latents - origin).norm() / origin.norm())
                candidates.append(Candidate("cycle-diffusion", options, -float(energies[-1].mean()), change, latents))
    best = best_of(torch.stack(energies))
    chosen = torch.stack([candidates[k].latents[image] for image, k in enumerate(best.tolist())])
    notes = [note for strength in strengths for note in strength_notes(strength, len(source.timesteps))]
    latents = torch.stack([origin, chosen])
    return Edited(latents, ("source", "target"), candidates=tuple(candidates), notes=tuple(notes))


def best_of(energies: Tensor) -> Tensor:
    """Index of the candidate of least energy for each image, (image,), from (candidate, image)."""
    return energies.argmin(dim=0)


def _drawn_again(
    model: Model, source: Inversion, prompt: str, negative: str, generator: Generators, watch: Watch
) -> Inversion:
    """Other noise maps of the same picture."""
    condition = model.encode_prompt([prompt, negative])
    return noise_map_inversion(
        model, source.clean, condition[[0]], negative=condition[[1]], eta=source.eta,
        draws="independent" if source.method == "edit-friendly" else "posterior",
        guidance_scale=source.guidance_scale, timesteps=source.timesteps, start_index=source.start_index,
        generator=generator, watch=watch,
    )  # fmt: skip
