"""Search for the best of many edits of one image, ranked by an energy.

Source: Wu and De la Torre, 2022 (CycleDiffusion), https://arxiv.org/abs/2210.05559. Their results are the best of 15
draws x 6 numbers of skipped steps x 6 guidance scales for each image, by directional CLIP score.

Differs from the authors' code: candidates that share draws and skipped steps run in one batch; the source's latents are
encoded once for all trials; the encoder's guidance is the inversion's (1 in all their tables).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sfumato.edits.noise_map_replay import PromptToPromptOptions, replay_edit, start_of
from sfumato.edits.result import LatentCandidate, LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import UsageError
from sfumato.guidance.energies import Energy, evaluated
from sfumato.guidance.prompt_gain import PromptGain
from sfumato.inversions.noise_maps import NoiseCoupling, noise_map_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.shares import strength_notes


@torch.no_grad()
def search(
    task: EditTask,
    *,
    trials: int = 1,
    strengths: Sequence[float],
    guidance_scales: Sequence[float],
    energy: Energy | None = None,
    control: PromptToPromptOptions | None = None,
) -> LatentEdit:
    """Runs every combination of draws, strength and guidance scale and returns the one of least energy, image by image.

    Costs, for each trial, the inversion (none for the first) and 2 evaluations for each executed step and guidance
    scale (1 at scale 1) of every strength; then for each candidate the energy (16 evaluations without one).

    Args:
        task: From noise maps and a trajectory, with one target prompt. The noise maps are the first trial's; the
            generator draws further ones, and the noises of `PromptGain`.
        trials: How often the noise maps are drawn, at least 1.
        strengths: Shares of the steps to run, each in [0, 1].
        guidance_scales: Of the edited branch; those of one strength run in one batch.
        energy: Judges clean latents, (image, channels, height, width), the lower the better; None: `PromptGain`. One of
            images: `energies.OfImages`.
        control: Prompt-to-Prompt's, or None.

    Returns:
        Branches "source", "target", and all candidates nested in the order trial, strength, guidance scale (innermost);
        agreement is minus the energy, mean over images.

    Raises:
        UsageError: No combination is left, or the energy does not give one number an image.
    """
    if trials < 1 or not strengths or not guidance_scales:
        raise UsageError("a search needs at least one trial, one strength and one guidance scale")
    starts = [start_of(task, strength) for strength in strengths]
    score = energy or PromptGain(task.model, task.source_prompt, task.target_prompts[0], generator=task.generator)
    each_scale = replace(task, target_prompts=[task.target_prompts[0]] * len(guidance_scales))
    candidates, energies, origin = [], [], task.source.clean
    for trial in range(trials):
        code = task.source if trial == 0 else _drawn_again(task)
        run = replace(each_scale, source=code, watch=task.watch.during(f"trial {trial + 1} of {trials}"))
        for strength, start in zip(strengths, starts, strict=True):
            edited = replay_edit(run, start, guidance_scales=guidance_scales, control=control)
            origin = edited.latents[0]
            for scale, latents in zip(guidance_scales, edited.latents[1:], strict=True):
                energies.append(evaluated(score, latents))
                options = {"trial": trial, "strength": strength, "guidance_scale": scale}
                change = float((latents - origin).norm() / origin.norm())
                agreement = -float(energies[-1].mean())
                candidates.append(LatentCandidate("cycle-diffusion", options, agreement, change, latents))
    best = best_of(torch.stack(energies))
    chosen = torch.stack([candidates[k].latents[image] for image, k in enumerate(best.tolist())])
    notes = [note for strength in strengths for note in strength_notes(strength, task.num_steps)]
    return task.edited(chosen[None], source=origin, candidates=candidates, notes=notes)


def best_of(energies: Tensor) -> Tensor:
    """Index of the candidate of least energy for each image, (image,), from (candidate, image)."""
    return energies.argmin(dim=0)


def _drawn_again(task: EditTask) -> Inversion:
    """Other noise maps of the same images."""
    source, branch = task.source, task.source_branch
    inverting = InversionTask(
        task.model, source.clean, branch.condition, branch.negative, source.guidance_scale,
        timesteps=source.timesteps, generator=task.generator, watch=task.watch,
    )  # fmt: skip
    coupling: NoiseCoupling = "independent" if source.method == "edit-friendly" else "posterior"
    return noise_map_inversion(inverting, coupling=coupling, eta=source.eta, start_index=source.start_index)
