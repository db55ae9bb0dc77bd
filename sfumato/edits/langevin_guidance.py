"""Langevin guidance as an edit (Wu and De la Torre, 2022), https://arxiv.org/abs/2210.05559: a judge leads the code.

The DPM-Encoder finds the code of Gaussian draws with which the model makes the picture. Langevin steps then move the
code to where a judge, such as a dual encoder, likes the picture better, and the Gaussian prior keeps it where the model
knows its way. The model need not know the edit, nor any text; the judge need not know noise.

Differs from the paper, whose models draw faces and start from fresh draws (`start` "drawn"): the picture's own code is
where the chain starts, so that something of the picture stays; 30 Langevin steps (paper: 200), enough for the embedded
model's pictures; the best code seen is kept (paper: where a metric is given).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.edits.branches import picture_of, target_branches, with_source
from sfumato.edits.result import LatentEdit
from sfumato.errors import UsageError
from sfumato.guidance.energies import WeightedSum
from sfumato.guidance.energies_by_name import Rows, Spec, check_energy, energies_of, names
from sfumato.guidance.langevin import code_decoder, code_of, langevin
from sfumato.inversions.noise_maps import noise_map_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.judges.encoders import ENCODER_HELP
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.registry import Option, method
from sfumato.sampling.draws import Generators, draw_noise, for_branches, streams
from sfumato.sampling.loop import OnStep
from sfumato.sampling.shares import first_step, strength_notes
from sfumato.watch import Watch

CODE_STEPS = 6


@method(
    "langevin",
    title="Langevin guidance",
    paper="Wu and De la Torre, 2022, https://arxiv.org/abs/2210.05559",
    summary="Moves the random draws behind the picture until a judge, such as text agreement, likes what they give.",
    when="A judge knows what the model's prompts cannot say, or the model knows no text. What the judge does not look"
    " at may change too.",
    cost="6 evaluations with a backward pass (each as dear as 3) a Langevin step, 30 such steps by default; and the"
    " judge's.",
    inversions=(),
)
def langevin_edit(
    model: Model,
    source: Inversion,
    *,
    source_prompt: str,
    target_prompts: Sequence[str],
    negative_prompt: str = "",
    guidance_scale: float = 5.0,
    source_guidance_scale: float | None = None,
    generator: Generators = None,
    on_step: Sequence[OnStep] = (),
    watch: Watch | None = None,
    energy: Annotated[
        Spec,
        Option(
            f"what judges the picture, a name or a table of names and weights: {names('guide')}",
            check=check_energy("guide"),
        ),
    ] = "text-agreement",
    encoder: Annotated[str | None, Option(ENCODER_HELP)] = None,
    prompt: Annotated[
        Literal["none", "source", "target"],
        Option("what the model is told while it draws: none (the judge edits alone), source, target (both edit)"),
    ] = "none",
    start: Annotated[
        Literal["picture", "drawn"],
        Option(
            "where the code starts: picture (its own code), drawn (fresh draws, so nothing of the picture stays; with"
            " prompt none the embedded model needs more than 40 Langevin steps)"
        ),
    ] = "picture",
    num_langevin_steps: Annotated[
        int, Option("how often the code is moved; 0 not at all (the paper: 200)", low=0)
    ] = 30,
    step_size: Annotated[float, Option("how far each time, above 0", low=0, high=1)] = 0.05,
    prior_weight: Annotated[
        float, Option("how strongly the code is held to be Gaussian; the paper: 1", low=0, high=100)
    ] = 1.0,
    code_steps: Annotated[
        int | None, Option(f"steps of the sampler; none: those of the run, at most {CODE_STEPS}", low=1)
    ] = None,
    strength: Annotated[
        float, Option("share of these steps whose draws may be moved; less keeps more of the picture", low=0, high=1)
    ] = 1.0,
    eta: Annotated[
        float, Option("how much of the code is in the steps' draws, above 0; the paper: 0.1", low=0, high=1)
    ] = 1.0,
    views: Annotated[
        int, Option("random views a picture for text agreement; more is steadier and slower (the paper: 50)", low=0)
    ] = 0,
    keep: Annotated[Literal["best", "last"], Option("which code of the chain counts")] = "best",
    save_memory: Annotated[bool, Option("compute again in the backward pass in place of keeping it")] = False,
) -> LatentEdit:
    """Edits from the picture itself, latent to latent.

    Costs, with n the executed steps, int(strength code_steps): n evaluations to encode the picture, and for each image
    and target n with a backward pass a Langevin step and n at the end; twice that where the model is guided (prompt
    "target"); the energies beside that.

    Args:
        model: Any model.
        source: The picture's latents: `Inversion("picture", noise, timesteps, trajectory=clean)`; or drawn noise, whose
            picture is sampled first, for as many evaluations as that takes.
        source_prompt: What the picture shows.
        target_prompts: What it shall show; several make several chains in one batch.
        negative_prompt: What guidance leads away from, with prompt "target".
        guidance_scale: Of the model with prompt "target"; else it draws unguided, as it encoded.
        source_guidance_scale: Of the picture that is drawn from noise; None: as `guidance_scale`.
        generator: Draws the code and the noise of the Langevin steps, the same for all targets of an image.
        on_step: Called after every step of the sampler, in every round, with the edited branches.
        watch: Progress and cancellation.
        energy, encoder, prompt, start, num_langevin_steps, step_size, prior_weight, code_steps, strength, eta, views,
            keep, save_memory: see their `Option`.

    Returns:
        Branches "source" (the picture's own latents) and "target" ("target-1", ... when several). `distances` says how
        far each picture of the chain was from the source.

    Raises:
        UsageError: An option out of range, or an energy that does not fit.
        ModelError: The encoder cannot be loaded.
    """
    if step_size == 0.0:
        raise UsageError("step_size=0 moves nothing: use 0.05, or num_langevin_steps=0 for the picture as it was")
    steps = min(len(source.timesteps), CODE_STEPS) if code_steps is None else code_steps
    first = first_step(strength, steps, at_least=1)
    scale = guidance_scale if source_guidance_scale is None else source_guidance_scale
    clean = picture_of(model, source, source_prompt, negative_prompt, scale, watch=watch).clean.to(model.device).float()
    count, images = len(target_prompts), len(clean)
    texts = [text for text in target_prompts for _ in range(images)]  # (target, image) on one axis
    generators = streams(generator, images)
    encoder_noise = draw_noise((steps - first, *clean.shape), generators, clean)
    drawn = draw_noise((steps - first + 1, *clean.shape), generators, clean) if start == "drawn" else None
    generators = for_branches(generators, count)
    rows = Rows(model, clean.repeat(count, 1, 1, 1), source_prompt, texts, encoder, views, generators)
    energies = energies_of(energy, rows)

    told = {"none": "", "source": source_prompt, "target": source_prompt}[prompt]
    task = InversionTask(model, clean, model.encode_prompt(told), num_inference_steps=steps, watch=watch or Watch())
    encoded = noise_map_inversion(task, coupling="posterior", eta=eta, start_index=first, noise=encoder_noise)
    code = code_of(encoded) if drawn is None else drawn
    branches = target_branches(model, target_prompts, negative_prompt, guidance_scale)
    condition, negative = model.encode_prompt(told), None
    if prompt == "target":
        condition = Condition.cat([branch.condition for branch in branches.values()]).repeat(images)
        negative = next(iter(branches.values())).negative
    decode = code_decoder(
        model, condition, eta=eta, guidance_scale=guidance_scale if prompt == "target" else 1.0, negative=negative,
        num_inference_steps=steps, start_index=first, pixels=False, checkpointed=save_memory,
        on_step=[_by_branch(hook, count) for hook in on_step],
    )  # fmt: skip
    distances: list[Tensor] = []

    def measured(code: Tensor) -> Tensor:
        latents = decode(code)
        distances.append((latents.detach() - rows.clean).flatten(1).norm(dim=1).unflatten(0, (count, images)))
        return latents

    found = langevin(
        code.repeat(1, count, 1, 1, 1), measured, energies, num_langevin_steps=num_langevin_steps,
        step_size=step_size, prior_weight=prior_weight, generator=generators, watch=watch,
        metric=WeightedSum(tuple(energies)) if keep == "best" else None,
    )  # fmt: skip
    edited = with_source(clean, found.images.unflatten(0, (count, images)), branches)
    notes = strength_notes(strength, steps)
    return LatentEdit(edited.latents, edited.branches, distances=torch.stack(distances), notes=notes)


def _by_branch(hook: OnStep, count: int) -> OnStep:
    """A hook of a run with one branch a target, where targets and images share the image axis."""

    def called(latents: Tensor, step: Step) -> Tensor:
        rows = latents[0]
        return hook(rows.unflatten(0, (count, len(rows) // count)), step).flatten(0, 1)[None]

    return called
