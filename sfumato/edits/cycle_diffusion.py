"""CycleDiffusion (Wu and De la Torre, 2022), https://arxiv.org/abs/2210.05559: replays noise under another prompt.

A stochastic sampler maps a code, all of its random draws, to an image. The DPM-Encoder finds a code of the given image
under the source prompt; the same code under the target prompt gives the edit. Skipping steps at the noisy end, and a
small eta, keep the edit closer to the image.

Differs from the authors' code (github.com/ChenWu98/cycle-diffusion): the whole grid is encoded, so that one inversion
serves every strength (at the same noise level the draws have the same distribution); one code and one strength, where
the paper reports the best of 540 candidates (`trials`, `try_strengths`, `try_guidance_scales`); the last step is
encoded whatever the step count. Attention control is that of the author's public demo: shares of all steps, counted
from the first executed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from sfumato.attention.prompt_control import CrossReplaceSteps, SelfReplaceSize, SelfReplaceSteps
from sfumato.edits.candidate_search import search
from sfumato.edits.method import edit_method
from sfumato.edits.noise_map_replay import (
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
from sfumato.errors import UsageError
from sfumato.guidance.energies import WeightedSum
from sfumato.guidance.energies_by_name import Rows, Spec, check_energy, energies_of, names
from sfumato.judges.encoders import ENCODER_HELP
from sfumato.options import Option


@edit_method(
    "cycle-diffusion",
    summary="Finds the random draws that make the image, and uses the same draws under the target prompt.",
    when="Real images, and edits that keep pose and composition; the reconstruction is exact, nothing is optimised.",
    cost="2 evaluations a step that is run and target, plus the inversion's; 3 with attention control and one target;"
    " a search multiplies this by its candidates.",
    inversions=("dpm-encoder", "edit-friendly"),
    refuses={
        **WITHOUT_NOISE_MAPS,
        "ddim": "it has no noise maps: at eta 0 the code is the first noise alone, which holds too little",
    },
)
def cycle_diffusion(
    task: EditTask,
    *,
    strength: Strength = 0.8,
    skip_steps: SkipSteps = None,
    attention_control: AttentionControlKind = "none",
    cross_replace_steps: CrossReplaceSteps = 0.8,
    self_replace_steps: SelfReplaceSteps = 0.4,
    self_replace_size: SelfReplaceSize = 16,
    eta: DrawnEta = 0.1,
    trials: Annotated[
        int, Option("search: number of random codes of the image to try, of which the best is kept (paper: 15)", low=1)
    ] = 1,
    try_strengths: Annotated[
        Sequence[float] | None,
        Option("search: list of strengths to try (paper: 6); none: strength alone", low=0, high=1),
    ] = None,
    try_guidance_scales: Annotated[
        Sequence[float] | None,
        Option(
            "search: list of guidance scales to try (paper: 1, 1.5, 2, 3, 4, 5); none: the guidance scale of the run",
            low=1,
            high=100,
        ),
    ] = None,
    energy: Annotated[
        Spec | None,
        Option(
            f"search: what ranks the candidates, a name or a table of names and weights: {names('rank')}; none:"
            " prompt-gain (paper: directional-agreement)",
            check=check_energy("rank"),
        ),
    ] = None,
    encoder: Annotated[str | None, Option(ENCODER_HELP)] = None,
    released: Annotated[
        bool, Option("attention control: align words exactly as the code of the author's demo, with its bug")
    ] = False,
) -> LatentEdit:
    """Replays the code of the images under the target prompts.

    Costs 2 network evaluations a target for each executed step (1 when nothing is guided), and 1 at the end for the
    source (2 when its inversion was guided); with attention control the source takes part in each executed step, for as
    much. A generated image costs 2 a step more. A search: see `search`.

    Args:
        task: From a DPM-Encoder inversion, at the guidance that it was made at (the paper: 1); or from drawn noise, for
            which the generator draws noise maps, as it does for further trials. A search takes one target prompt. The
            paper: the best guidance of 1 to 5.
        energy: Ranks the candidates of a search: by name, or an object that judges images (`energies.Energy`).
        strength, skip_steps, attention_control, cross_replace_steps, self_replace_steps, self_replace_size, eta,
            trials, try_strengths, try_guidance_scales, encoder, released: See their `Option`. The paper: the best of
            strengths 0.5 to 0.85; the author's demo 0.7; diffusers 0.8, as here.

    Returns:
        With how far the branches part at each step in `distances` (the paper's section 2.3 bounds it); of a search,
        with all `candidates` instead.

    Raises:
        InversionError: The inversion has no noise maps for so many steps, or was made at another guidance or prompt.
        UsageError: An option is out of range; prompts do not fit one another; a search for several targets.
        ModelError: The model has no attention layers that could be controlled.
    """
    searching = trials > 1 or try_strengths is not None or try_guidance_scales is not None
    start = start_of(task, strength, skip_steps)
    if searching and len(task.target_prompts) != 1:
        raise UsageError(f"a search takes one target prompt, got {len(task.target_prompts)}: run it once for each")
    if energy is not None and not searching:
        raise UsageError(
            "energy ranks the candidates of a search: also give trials, try_strengths or try_guidance_scales"
        )
    control = PromptToPromptOptions(
        attention_control, cross_replace_steps, self_replace_steps, self_replace_size, released
    )
    notes = start_notes(task, strength, skip_steps)
    task = with_noise_maps(task, eta=eta)
    if not searching:
        return replay_edit(task, start, control=control, notes=notes)
    rank = None
    if energy is not None:
        clean, targets = task.source.clean, list(task.target_prompts)
        rows = Rows(task.model, clean, task.source_prompt, targets * len(clean), encoder, generator=task.generator)
        rank = WeightedSum(tuple(energies_of(energy, rows, "rank")))
    strengths = [(task.num_steps - start) / task.num_steps] if try_strengths is None else try_strengths
    scales = [task.guidance_scale] if try_guidance_scales is None else try_guidance_scales
    return search(task, trials=trials, strengths=strengths, guidance_scales=scales, energy=rank, control=control)
