r"""RF-Inversion (Rout et al., 2024), https://arxiv.org/abs/2410.10792: an edit held to the image at first.

Sampling starts from the inversion of the same name. During the first steps the velocity is mixed with the one that
points straight to the image,

.. math:: v' = v + \eta \left(\frac{x - x_{image}}{\sigma} - v\right)

(Eq. 15, in velocities). eta 1 throughout gives the image itself.

Differs from the authors' code: none in the edit; for the inversion see `sfumato.inversions.rf_inversion`.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.options import Option
from sfumato.sampling.shares import window_notes
from sfumato.sampling.solvers import Interval, Velocity


@edit_method(
    "rf-inversion",
    summary="Samples the target prompt from the image's inversion, held to the image at first.",
    when="One slider, eta, between the image and the prompt; no source prompt is needed.",
    cost="1 evaluation a step (2 with classifier-free guidance), plus the inversion's.",
    inversions=("rf-inversion", "ddim", "fixed-point"),
    needs=("flow",),
    refuses={
        **dict.fromkeys(
            ("direct", "null-text", "negative-prompt", "bdia"),
            "its controller keeps the image by itself; use ddim",
        ),
        **dict.fromkeys(("edit-friendly", "dpm-encoder"), "it belongs to a stochastic sampler"),
        "regularised-ddim": "it needs a diffusion's noise levels",
    },
)
def rf_inversion(
    task: EditTask,
    *,
    eta: Annotated[float, Option("how far the velocity points to the image; higher keeps more", low=0, high=1)] = 0.9,
    window: Annotated[
        tuple[float, float],
        Option("shares of the run between which it does; a later end keeps more of the image", low=0, high=1),
    ] = (0.0, 0.25),
) -> LatentEdit:
    """Samples the targets from the inverted noise under control.

    Args:
        task: From an inversion with its trajectory, or from drawn noise, which is sampled first.
        eta, window: See their `Option`.
    """
    source = task.with_latents
    clean, count = source.clean.to(task.model.device), task.num_steps
    first, end = (int(share * count + 1e-6) for share in window)

    def controlled(velocity: Velocity, latents: Tensor, interval: Interval) -> Tensor:
        own = velocity(latents, interval.time)
        if not first <= interval.index < end:
            return own
        return own + eta * ((latents - clean) / interval.level - own)

    edited = task.sample(source.noise, task.targets, solver=controlled)
    return task.edited(edited, source=clean, notes=window_notes(count, window=window))
