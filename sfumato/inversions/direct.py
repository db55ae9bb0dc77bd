"""Direct inversion (PnP Inversion; Ju et al., 2023), https://arxiv.org/abs/2310.01506: DDIM inversion, and a replay
whose source branch is set to its trajectory after every step, so that it cannot drift.

What the edited branches take from the source (attention maps, features, masks) then comes from the picture itself, and
nothing is optimised. The edited branches run free.

The guidance of the source branch is of no consequence: its prediction is replaced by the trajectory, and what others
take from it is computed before guidance is applied. It is 1 where none is asked for, which costs least.

Differs from the authors' code: they store, for each step, the difference between the trajectory and the guided step and
add it to the source branch (Alg. 1); the sum is the trajectory, so the replay sets it, and the extra pass is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from sfumato.inversions.ddim import Told, ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.models.base import Condition, Model
from sfumato.registry import inversion
from sfumato.sampling.draws import Generators
from sfumato.watch import Watch


@inversion(
    "direct",
    title="Direct inversion",
    paper="Ju et al., 2023, https://arxiv.org/abs/2310.01506",
    summary="Walks to noise as DDIM inversion does, and holds the source to that path while editing.",
    when="The default: the source cannot drift, and nothing is paid for it.",
    cost="1 evaluation a step.",
    source_guidance_scale=1.0,
)
def direct_inversion(
    model: Model,
    latents: Tensor,
    condition: Condition,
    *,
    negative: Condition | None = None,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 50,
    timesteps: Sequence[int] | None = None,
    generator: Generators = None,
    watch: Watch | None = None,
    told: Told = "to",
) -> Inversion:
    """Carries clean latents to noise; `sample(replay=...)` pins branch 0 to the latents on the way.

    Costs one network evaluation a step and image.

    Args:
        model: Any model.
        latents: Clean latents x_0, (image, channels, height, width).
        condition: The source prompt; one row, or one an image.
        negative: Not used: the path is walked without guidance.
        guidance_scale: That of the source branch in the replay; any comes back.
        num_inference_steps: Steps of the grid that sampling will use.
        timesteps: An explicit grid instead, noisiest first.
        generator: Not used: nothing is drawn.
        watch: Progress and cancellation.
        told: see its `Option`.

    Returns:
        Noise, trajectory x_0 ... x_T and the grid, with `pinned` set.
    """
    found: Inversion = ddim_inversion(
        model, latents, condition, num_inference_steps=num_inference_steps, timesteps=timesteps, watch=watch, told=told
    )
    return replace(found, method="direct", pinned=True, guidance_scale=guidance_scale)
