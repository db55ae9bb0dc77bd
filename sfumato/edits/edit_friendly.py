"""Edit-friendly DDPM editing (Huberman-Spiegelglas et al., 2023), https://arxiv.org/abs/2304.06140.

The picture is encoded as noise maps whose levels were drawn independently; its less noisy part is then replayed under
the target prompt. The maps hold the picture's structure, so that strong guidance can be used. Alone, or with
Prompt-to-Prompt's attention control, as their experiments combine the two.

Differs from the authors' code (github.com/inbarhub/DDPM_inversion): the last step keeps its noise map, so that the
picture comes back exactly, and eta means DDIM's (`drop_last_map` and `released_eta` of the inversion give theirs);
several targets in one batch; any size. As there: the shares of the control are of all steps and are counted from the
first executed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from sfumato.attention.prompt_control import CrossReplaceSteps, SelfReplaceSize, SelfReplaceSteps
from sfumato.edits.noise_map_replay import (
    WITHOUT_NOISE_MAPS,
    AttentionControlKind,
    Control,
    DrawnEta,
    SkipSteps,
    Strength,
    replay_edit,
    start_notes,
    start_of,
    with_noise_maps,
)
from sfumato.edits.result import LatentEdit
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.registry import Option, method
from sfumato.sampling.draws import Generators
from sfumato.sampling.loop import OnStep
from sfumato.watch import Watch


@method(
    "edit-friendly",
    title="Edit-friendly DDPM editing",
    paper="Huberman-Spiegelglas et al., 2023, https://arxiv.org/abs/2304.06140",
    summary="Replays noise maps that hold the picture's structure, under the target prompt.",
    when="Quick edits of real pictures that must keep their structure; other seeds give other versions of the edit.",
    cost="2 evaluations a step that is run and target, plus the inversion's; 4 with attention control and one target.",
    inversions=("edit-friendly", "dpm-encoder"),
    refuses={
        **WITHOUT_NOISE_MAPS,
        "ddim": "it keeps no noise maps; at eta 0 no noise is left that could hold the picture",
    },
)
def edit_friendly(
    model: Model,
    source: Inversion,
    *,
    source_prompt: str,
    target_prompts: Sequence[str],
    negative_prompt: str = "",
    guidance_scale: float = 15.0,
    source_guidance_scale: float | None = None,
    generator: Generators = None,
    on_step: Sequence[OnStep] = (),
    watch: Watch | None = None,
    strength: Strength = 0.64,
    skip_steps: SkipSteps = None,
    attention_control: AttentionControlKind = "none",
    cross_replace_steps: CrossReplaceSteps = 0.6,
    self_replace_steps: SelfReplaceSteps = 0.2,
    self_replace_size: SelfReplaceSize = 16,
    eta: DrawnEta = 1.0,
    released: Annotated[bool, Option("align words as the authors' released code does, its bug included")] = False,
) -> LatentEdit:
    """Edits from an inversion with noise maps, latent to latent.

    Costs 2 network evaluations a target for each executed step (1 when nothing is guided), and 2 at the end for the
    source (1 when its inversion was not guided); with attention control 2 (1 + targets) for each executed step. A drawn
    picture costs 2 a step more.

    Args:
        model: Any model.
        source: An edit-friendly inversion; drawn noise in an `Inversion` for a picture that the model draws.
        source_prompt: What the picture shows.
        target_prompts: One or more edited prompts, done in one batch.
        negative_prompt: What guidance leads away from, in all branches.
        guidance_scale: Of the edited branches; the paper: 15, with attention control 9.
        source_guidance_scale: That of the inversion (the paper: 3.5); None: as it was.
        generator: Draws the noise maps of a drawn picture; not used otherwise.
        on_step: Called after every step.
        watch: Progress, previews, cancellation.
        strength, skip_steps, attention_control, cross_replace_steps, self_replace_steps, self_replace_size, eta,
            released: see their `Option`. The paper: strength 0.64 of 100 steps, or 0.6 to 1 as the edit asks; with
            attention control 0.88.

    Returns:
        Branches "source", "target" ("target-1", ... when several); how far they part at each step in `distances`.

    Raises:
        InversionError: The inversion has no noise maps for so many steps, or was made at another guidance or prompt.
        UsageError: An option is out of range; prompts do not fit one another.
        ModelError: The model has no attention layers that could be controlled.
    """
    start = start_of(source, strength, skip_steps)
    control = None
    if attention_control != "none":
        control = Control(attention_control, cross_replace_steps, self_replace_steps, self_replace_size, released)
    own = source.guidance_scale if source.noise_maps is not None else guidance_scale
    code = with_noise_maps(
        model, source, source_prompt=source_prompt, negative_prompt=negative_prompt,
        source_guidance_scale=own if source_guidance_scale is None else source_guidance_scale, eta=eta,
        generator=generator, watch=watch,
    )  # fmt: skip
    return replay_edit(
        model, code, source_prompt=source_prompt, target_prompts=target_prompts, negative_prompt=negative_prompt,
        guidance_scales=[guidance_scale] * len(target_prompts), start_index=start, control=control,
        notes=start_notes(source, strength, skip_steps), on_step=on_step, watch=watch,
    )  # fmt: skip
