"""Edit-friendly DDPM editing (Huberman-Spiegelglas et al., 2023), https://arxiv.org/abs/2304.06140: replays noise maps.

The image is inverted to noise maps by drawing each noise level independently. All but the noisiest steps are then
replayed under the target prompt. The maps hold the image's structure, so strong guidance can be used; with
Prompt-to-Prompt's attention control too, as in the paper's experiments.

Differs from the authors' code (github.com/inbarhub/DDPM_inversion): the last step keeps its noise map, so that the
reconstruction is exact, and eta is that of DDIM (`drop_last_map` and `released_eta` of the inversion give theirs);
several targets in one batch; any size. As there, the shares of the attention control are of all steps and are counted
from the first executed one.
"""

from __future__ import annotations

from typing import Annotated

from sfumato.attention.prompt_control import CrossReplaceSteps, SelfReplaceSize, SelfReplaceSteps
from sfumato.edits.method import edit_method
from sfumato.edits.noise_map_replay import (
    WITHOUT_NOISE,
    WITHOUT_NOISE_MAPS,
    AttentionControlKind,
    DrawnEta,
    PromptToPromptOptions,
    SkipSteps,
    Strength,
    replay_edit,
    start_notes,
    start_of,
    with_noise_maps,
)
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.options import Option


@edit_method(
    "edit-friendly",
    summary="Replays noise maps that hold the image's structure, under the target prompt.",
    when="Fast edits of real images that must keep their structure; each seed gives another version of the edit.",
    cost="2 evaluations a step that is run and target, plus the inversion's; 4 with attention control and one target.",
    inversions=("edit-friendly", "dpm-encoder"),
    refuses={
        **WITHOUT_NOISE_MAPS,
        "ddim": WITHOUT_NOISE,
    },
)
def edit_friendly(
    task: EditTask,
    *,
    strength: Strength = 0.64,
    skip_steps: SkipSteps = None,
    attention_control: AttentionControlKind = "none",
    cross_replace_steps: CrossReplaceSteps = 0.6,
    self_replace_steps: SelfReplaceSteps = 0.2,
    self_replace_size: SelfReplaceSize = 16,
    eta: DrawnEta = 1.0,
    released: Annotated[
        bool, Option("attention control: align words exactly as the authors' code, with its bug")
    ] = False,
) -> LatentEdit:
    """Replays the noise maps of the inversion under the target prompts.

    Costs 2 network evaluations a target for each executed step (1 when nothing is guided), and 2 at the end for the
    source (1 when its inversion was not guided); with attention control the source takes part in each executed
    step, for as much. A generated image costs 2 a step more.

    Args:
        task: From an edit-friendly inversion, at the guidance that it was made at (the paper: 3.5); or from drawn
            noise, for which the generator draws noise maps. The paper: guidance 15, with attention control 9.
        strength, skip_steps, attention_control, cross_replace_steps, self_replace_steps, self_replace_size, eta,
            released: See their `Option`. The paper: strength 0.64 of 100 steps, or 0.6 to 1 as the edit asks; with
            attention control 0.88.

    Returns:
        With how far the branches part at each step in `distances`.

    Raises:
        InversionError: The inversion has no noise maps for so many steps, or was made at another guidance or prompt.
        UsageError: An option is out of range; prompts do not fit one another.
        ModelError: The model has no attention layers that could be controlled.
    """
    start = start_of(task, strength, skip_steps)
    control = PromptToPromptOptions(
        attention_control, cross_replace_steps, self_replace_steps, self_replace_size, released
    )
    notes = start_notes(task, strength, skip_steps)
    return replay_edit(with_noise_maps(task, eta=eta), start, control=control, notes=notes)
