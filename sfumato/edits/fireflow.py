"""FireFlow (Deng et al., 2024), https://arxiv.org/abs/2412.07517: RF-Edit on its own solver, in few steps.

The same edit as `sfumato.edits.rf_edit` with inversion fireflow, with the defaults of this paper's benchmark.

Differs from the authors' code: as RF-Edit here.
"""

from __future__ import annotations

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.rf_edit import REFUSED, SharedLayers, SharedSteps, rf_edit
from sfumato.edits.task import EditTask


@edit_method(
    "fireflow",
    summary="Samples the target prompt from the inversion, with attention values of the image in the first step.",
    when="A fast edit on FLUX: 8 to 15 steps do.",
    cost="1 evaluation a step, and 1 a step that shares values, plus the inversion's; more with guidance by rows.",
    inversions=("fireflow", "rf-solver", "ddim", "fixed-point"),
    needs=("flow", "joint-attention"),
    refuses=REFUSED,
)
def fireflow(
    task: EditTask, *, shared_steps: SharedSteps = 0.13, shared_layers: SharedLayers = (0.69, 1.0)
) -> LatentEdit:
    """Samples the targets from the inverted noise; see `rf_edit`."""
    return rf_edit(task, shared_steps=shared_steps, shared_layers=shared_layers)
