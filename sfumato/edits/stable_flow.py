"""Stable Flow (Avrahami et al., 2024), https://arxiv.org/abs/2411.14430: the source's image in the vital layers.

Source and target are sampled together, and in a few layers, the vital ones, the target reads keys and values of the
source's image tokens. Which layers are vital the authors found by leaving each out: in FLUX.1-dev 9 of 57 blocks.

Differs from the paper: the source is set to the latents of its inversion before each step, those of the step's own
level; latents are not scaled on the way; layers are given by where they stand in the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from sfumato.attention.image_tokens import SourceImageTokens
from sfumato.attention.patch import AttentionControl
from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import ModelError, UsageError
from sfumato.options import Option
from sfumato.sampling.pin import PinSource

VITAL = (0, 1, 17, 18, 25, 28, 53, 54, 56)
"""Of the 57 blocks of FLUX.1-dev."""
BLOCKS = 57


@edit_method(
    "stable-flow",
    summary="Samples source and target together, the target reading the source's image in the vital layers.",
    when="Something is added, exchanged or moves, and the rest of the scene should stay; needs no mask.",
    cost="2 evaluations a step with one target (3 or 4 with classifier-free guidance), plus the inversion's.",
    inversions=("direct", "ddim", "fixed-point", "null-text", "negative-prompt"),
    needs=("joint-attention",),
    refuses={
        **dict.fromkeys(("edit-friendly", "dpm-encoder"), "it belongs to a stochastic sampler"),
        "regularised-ddim": "it needs a diffusion's noise levels",
        "bdia": "its steps look back at latents that the source's own would replace",
    },
)
def stable_flow(
    task: EditTask,
    *,
    layers: Annotated[
        Sequence[int] | None,
        Option(
            "list of attention layers, from 0 in execution order, in which the target reads the source; none: those"
            " that stand where FLUX's vital ones do",
            low=0,
        ),
    ] = None,
    share: Annotated[
        float, Option("share of the steps, from the first, in which it does; lower changes more", low=0, high=1)
    ] = 1.0,
    pin_source: Annotated[
        bool, Option("set the source branch to the inversion's latents at every step, so that it does not drift")
    ] = True,
) -> LatentEdit:
    """Denoises source and targets together.

    Args:
        task: From an inversion, or drawn noise.
        layers, share, pin_source: See their `Option`.

    Raises:
        UsageError: A layer that the model does not have.
        ModelError: The model has no layers of image and text.
    """
    source, names = task.source, [site.name for site in task.model.sites(task.latent_size)]
    if not names:
        raise ModelError(f"{task.model.name} has no attention layers")
    chosen = vital(len(names)) if layers is None else list(layers)
    beyond = [layer for layer in chosen if layer >= len(names)]
    if beyond:
        raise UsageError(f"layer {beyond[0]} does not exist: there are {len(names)}, counted from 0")
    edit = SourceImageTokens([names[layer] for layer in chosen], range(int(share * task.num_steps + 1e-6)))
    pinned = pin_source and source.trajectory is not None
    latents = task.sample(
        replay=source,
        controls=[AttentionControl([edit])],
        before_step=[PinSource(source.latents_at, source.start_index, task.num_steps)] if pinned else [],
    )
    return task.edited(latents)


def vital(count: int) -> list[int]:
    """Of `count` layers, those that stand where the vital ones of FLUX.1-dev do."""
    return sorted({round(layer * (count - 1) / (BLOCKS - 1)) for layer in VITAL})
