"""Langevin guidance (Wu and De la Torre, 2022), https://arxiv.org/abs/2210.05559: moves an image's code down an energy.

The DPM-Encoder finds the code, all of the random draws with which the model makes the image. Langevin steps then move
the code down the gradient of an energy of the image, such as a dual encoder's score, and a Gaussian prior keeps the
code likely under the model. The model needs no text and need not know the edit; the energy sees clean images only.

Differs from the paper, whose models generate faces and start from random codes (`start` "drawn"): the chain starts from
the image's own code, so that some of the image stays; fewer Langevin steps (paper: 200), enough for the embedded
model's images; the best code is returned (paper: where a metric is given).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import UsageError
from sfumato.guidance.energies_by_name import Rows, Spec, check_energy, energies_of, names
from sfumato.guidance.langevin import code_decoder, code_of, langevin
from sfumato.inversions.noise_maps import noise_map_inversion
from sfumato.inversions.task import InversionTask
from sfumato.judges.encoders import ENCODER_HELP
from sfumato.models.base import Condition
from sfumato.models.schedules import Step
from sfumato.options import Option
from sfumato.sampling.draws import draw_noise, for_branches, streams
from sfumato.sampling.loop import OnStep
from sfumato.sampling.shares import first_step, strength_notes

CODE_STEPS = 6


@edit_method(
    "langevin",
    summary="Moves the random draws of the image down the gradient of an energy, such as text agreement.",
    when="An energy knows what prompts cannot say, or the model has no text. What the energy does not see may change"
    " too.",
    cost="6 evaluations with a backward pass (each as long as 3) a Langevin step, 30 such steps by default; and the"
    " energy's.",
    inversions=(),
    guidance_interval=False,
    cache_interval=False,
)
def langevin_edit(
    task: EditTask,
    *,
    energy: Annotated[
        Spec,
        Option(
            f"what is minimised, a name or a table of names and weights: {names('guide')}",
            check=check_energy("guide"),
        ),
    ] = "text-agreement",
    encoder: Annotated[str | None, Option(ENCODER_HELP)] = None,
    prompt: Annotated[
        Literal["none", "source", "target"],
        Option("prompt of the model while it samples: none (the energy alone edits), source, or target (both edit)"),
    ] = "none",
    start: Annotated[
        Literal["image", "drawn"],
        Option(
            "first code of the chain: image (its own) or drawn (random, so that nothing of the image stays; needs more"
            " Langevin steps)",
            renamed_values={"picture": "image"},
        ),
    ] = "image",
    num_langevin_steps: Annotated[
        int, Option("Langevin steps; more edit further, 0 returns the reconstruction (paper: 200)", low=0)
    ] = 30,
    step_size: Annotated[
        float, Option("size of a Langevin step, above 0; higher is faster and less stable", low=0, high=1)
    ] = 0.05,
    prior_weight: Annotated[
        float, Option("weight of the Gaussian prior of the code; higher stays closer to likely images", low=0, high=100)
    ] = 1.0,
    code_steps: Annotated[
        int | None, Option(f"denoising steps of the sampler; none: those of the run, at most {CODE_STEPS}", low=1)
    ] = None,
    strength: Annotated[
        float, Option("share of these steps whose draws are moved; lower keeps more of the image", low=0, high=1)
    ] = 1.0,
    eta: Annotated[
        float,
        Option(
            "share of fresh noise at each step, above 0; lower puts less of the code there (paper: 0.1)", low=0, high=1
        ),
    ] = 1.0,
    views: Annotated[
        int,
        Option(
            "random views of the image for text-agreement; more are steadier and slower; 0: the image (paper: 50)",
            low=0,
        ),
    ] = 0,
    keep: Annotated[Literal["best", "last"], Option("code to return: the best of the chain, or the last")] = "best",
    save_memory: Annotated[
        bool, Option("use less memory and more time: recompute activations in the backward pass")
    ] = False,
) -> LatentEdit:
    """Moves the code of the images down the gradient of the energy.

    Costs, with n the executed steps, int(strength code_steps): n evaluations to encode the image, and for each image
    and target n with a backward pass a Langevin step and n at the end; twice that where the model is guided (prompt
    "target"); the energies beside that.

    Args:
        task: From latents of the images, or from drawn noise, which is sampled first. Several target prompts make
            several chains in one batch. Its guidance and negative prompt count with prompt "target" only; else the
            model draws unguided, as it encoded. The generator draws the code and the noise of the Langevin steps, the
            same for all targets of an image. Hooks are called after every step of the sampler, in every round.
        energy, encoder, prompt, start, num_langevin_steps, step_size, prior_weight, code_steps, strength, eta, views,
            keep, save_memory: See their `Option`.

    Returns:
        With how far each image of the chain was from the source in `distances`.

    Raises:
        UsageError: An option out of range, or an energy that does not fit.
        ModelError: The encoder cannot be loaded.
    """
    if step_size == 0.0:
        raise UsageError("step_size=0 moves nothing: use 0.05, or num_langevin_steps=0 for the image as it was")
    model, count = task.model, len(task.target_prompts)
    steps = min(task.num_steps, CODE_STEPS) if code_steps is None else code_steps
    first = first_step(strength, steps, at_least=1)
    clean = task.with_latents.clean.to(model.device).float()
    images = len(clean)
    generators = streams(task.generator, images)
    encoder_noise = draw_noise((steps - first, *clean.shape), generators, clean)
    drawn = draw_noise((steps - first + 1, *clean.shape), generators, clean) if start == "drawn" else None
    generators = for_branches(generators, count)
    texts = [text for text in task.target_prompts for _ in range(images)]  # (target, image) on one axis
    rows = Rows(model, clean.repeat(count, 1, 1, 1), task.source_prompt, texts, encoder, views, generators)
    energies = energies_of(energy, rows)

    # The code of the images, and what makes images of a code again
    source = model.encode_prompt("" if prompt == "none" else task.source_prompt)
    inverting = InversionTask(model, clean, source, num_inference_steps=steps, watch=task.watch)
    encoded = noise_map_inversion(inverting, coupling="posterior", eta=eta, start_index=first, noise=encoder_noise)
    code = code_of(encoded) if drawn is None else drawn
    condition, negative, scale = _guided_to(task, images) if prompt == "target" else (source, None, 1.0)
    decode = code_decoder(
        model, condition, eta=eta, guidance_scale=scale, negative=negative, num_inference_steps=steps,
        start_index=first, pixels=False, checkpointed=save_memory,
        on_step=[_by_branch(hook, count) for hook in task.on_step],
    )  # fmt: skip

    # One chain for each target and image
    distances: list[Tensor] = []

    def measured(code: Tensor) -> Tensor:
        latents = decode(code)
        distances.append((latents.detach() - rows.clean).flatten(1).norm(dim=1).unflatten(0, (count, images)))
        return latents

    chain = langevin(
        code.repeat(1, count, 1, 1, 1), measured, energies, num_langevin_steps=num_langevin_steps,
        step_size=step_size, prior_weight=prior_weight, generator=generators, watch=task.watch,
        metric="energies" if keep == "best" else None,
    )  # fmt: skip
    return task.edited(
        chain.images.unflatten(0, (count, images)), source=clean, distances=torch.stack(distances),
        notes=strength_notes(strength, steps),
    )  # fmt: skip


def _guided_to(task: EditTask, images: int) -> tuple[Condition, Condition | None, float]:
    """The target prompts, a row for each target and image, the negative prompt, and the guidance scale."""
    branches = list(task.targets.values())
    condition = Condition.cat([branch.condition for branch in branches]).repeat(images)
    return condition, branches[0].negative, task.guidance_scale


def _by_branch(hook: OnStep, count: int) -> OnStep:
    """A hook of a run with one branch a target, where targets and images share the image axis."""

    def called(latents: Tensor, step: Step) -> Tensor:
        rows = latents[0]
        return hook(rows.unflatten(0, (count, len(rows) // count)), step).flatten(0, 1)[None]

    return called
