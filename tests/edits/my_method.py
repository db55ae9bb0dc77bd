"""My method (Author et al., 2025), https://arxiv.org/abs/2501.00000.

Differs from the authors' code: what a reader who knows it should know.
"""

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.sampling.shares import Strength, first_step, strength_notes


@edit_method(
    "my-method",
    summary="What it does, in a sentence.",
    when="When to prefer it to the others.",
    cost="3 evaluations a step that is run (4 with a guided source, 2 at guidance 1), plus the inversion's.",
    inversions=("ddim", "direct"),
)
def my_method(task: EditTask, *, strength: Strength = 0.8) -> LatentEdit:
    """Denoises source and targets from the inversion's latents at one step.

    Raises:
        UsageError: strength is outside [0, 1], or 0.
    """
    start = first_step(strength, task.num_steps, at_least=1)
    source = task.with_latents
    latents = task.sample(source.latents_at(start), start_index=start, replay=source)
    return task.edited(latents, notes=strength_notes(strength, task.num_steps))
