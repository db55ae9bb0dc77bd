"""Dual diffusion implicit bridges (Su et al., 2022), https://arxiv.org/abs/2203.08382, between two prompts.

DDIM carries the picture to noise under the source prompt and back to a picture under the target prompt: two
probability-flow ODEs joined at their common end. Nothing is drawn, so going back with the prompts exchanged returns to
where one came from, up to the solver's error. The bridge between two models is `sfumato.edits.two_models.bridge`.

Differs from the paper: prompts stand for its two domains; guidance on the way back (the paper has none, use 1 for it);
`strength` turns back before pure noise is reached, which keeps more of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from sfumato.edits.branches import target_branches
from sfumato.edits.result import LatentEdit
from sfumato.inversions.result import Inversion
from sfumato.inversions.sampled_source import with_trajectory
from sfumato.models.base import Model
from sfumato.registry import Option, method
from sfumato.sampling.draws import Generators
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import OnStep, sample
from sfumato.sampling.shares import first_step, strength_notes
from sfumato.watch import Watch


@method(
    "ddib",
    title="Dual diffusion implicit bridge",
    paper="Su et al., 2022, https://arxiv.org/abs/2203.08382",
    summary="Carries the picture to noise under the source prompt, and back under the target prompt.",
    when="A deterministic baseline; between prompts of like pictures, or to change the style of the whole.",
    cost="3 evaluations a step with one target (4 with a guided source, 2 at guidance 1), plus the inversion's.",
    inversions=("direct", "ddim", "fixed-point", "bdia", "regularised-ddim", "negative-prompt", "null-text"),
    refuses={
        "dpm-encoder": "it holds draws of a stochastic sampler; the bridge is deterministic. See cycle-diffusion",
        "edit-friendly": "it holds draws of a stochastic sampler; the bridge is deterministic. See edit-friendly",
    },
)
def ddib(
    model: Model,
    source: Inversion,
    *,
    source_prompt: str,
    target_prompts: Sequence[str],
    negative_prompt: str = "",
    guidance_scale: float = 7.5,
    source_guidance_scale: float | None = None,
    generator: Generators = None,
    on_step: Sequence[OnStep] = (),
    watch: Watch | None = None,
    strength: Annotated[
        float,
        Option("how far towards noise to go, as share of the steps; less keeps more of the picture", low=0, high=1),
    ] = 1.0,
) -> LatentEdit:
    """Edits from an inversion, latent to latent.

    Costs for each step that is run, int(strength steps) of all, 2 network evaluations for each guided branch and 1 for
    each other.

    Args:
        model: Any model.
        source: An inversion with its trajectory, or drawn noise, whose picture is sampled first where strength is
            below 1.
        source_prompt: What the picture shows.
        target_prompts: One or more prompts, done in one batch.
        negative_prompt: What guidance leads away from, in all branches.
        guidance_scale: Of the edited branches.
        source_guidance_scale: Of the source branch; None: as the edited ones.
        generator: Not used: nothing is drawn.
        on_step: Called after every step.
        watch: Progress, previews, cancellation.
        strength: see its `Option`.

    Returns:
        Branches "source" and "target" ("target-1", ... when several).

    Raises:
        UsageError: strength is outside [0, 1].
        InversionError: strength is below 1 and the inversion is replayed as a whole only ("bdia").
    """
    steps = len(source.timesteps)
    start = first_step(strength, steps)
    targets = target_branches(model, target_prompts, negative_prompt, guidance_scale)
    scale = guidance_scale if source_guidance_scale is None else source_guidance_scale
    negative = next(iter(targets.values())).negative
    branches = {"source": Branch(model.encode_prompt(source_prompt), negative, scale), **targets}
    if start > 0:
        source = with_trajectory(model, source, branches["source"], watch=watch)
    if start == steps:
        clean = source.clean
        return LatentEdit(clean.expand(len(branches), *clean.shape), tuple(branches))
    latents = sample(
        model,
        source.noise if start == source.start_index else source.latents_at(source.timesteps[start]),
        branches,
        timesteps=source.timesteps,
        start_index=start,
        eta=source.eta,
        replay=source,
        on_step=on_step,
        watch=watch,
    )
    return LatentEdit(latents, tuple(branches), notes=strength_notes(strength, steps))
