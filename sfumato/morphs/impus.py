r"""IMPUS (Yang et al., 2024), https://arxiv.org/abs/2311.06792: morphs with a model adapted to both images.

Each image gets its own text embedding, learned from a prompt that both share. A low-rank adapter fits the model to
both; its rank follows from the distance of the images (`rppd.py`). The adapted model inverts the images. A frame at
weight w starts from noise on the great circle, has an embedding on the straight line, and is sampled with

.. math:: u + s(w)\,(c - u), \qquad s(w) = s_{max} - 2\,|w - 1/2|\,(s_{max} - s_{min}),

c from the model under the adapter, u from the model under a second, small adapter that was fitted to the empty prompt:
fitting c alone would shift it against u (the paper's unconditional bias correction).

Differs from the authors' code, with `settings="paper"` too: both embeddings are learned together from the same draws,
so that equal images get equal ones (theirs one after the other); latents are the posterior's mean, not a sample; one
model with two adapters, not two models; the guidance scale may be 1.

`settings="paper"` has the paper's numbers, for 16 steps and guidance scale 3. `settings="quick"`, the default, is for
small models without a GPU:

- Inversion: fixed-point, in as many steps as a frame has, and guidance scale 1 at the ends. The ends are reconstructed
  as well as the autoencoder allows, and the noise keeps nearly normal variance, unlike DDIM inversion in so few steps.
- Embeddings: fewer updates, of more draws, at a higher learning rate.
- Adapter: fewer updates at a lower learning rate. A model that is fitted more closely knows only the two images, and
  the morph jumps between them.

docs/morphs.md has measured results. The rank rule's constants belong to LPIPS; another distance may need another rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.adaptation.lora import Lora, RowAdapters, clamped_rank
from sfumato.adaptation.textual_inversion import common_prompt_of, positions
from sfumato.adaptation.training import Draws
from sfumato.conditions.mixing import mixed_condition
from sfumato.models.base import Condition, Model
from sfumato.morphs.impus_stages import SETTINGS, Stages
from sfumato.morphs.method import morph_method
from sfumato.morphs.path import MorphPath
from sfumato.morphs.rppd import Rule
from sfumato.morphs.slerp import slerp
from sfumato.morphs.task import MorphTask
from sfumato.options import Option
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.watch import Watch


@morph_method(
    "impus",
    summary="Learns an embedding for each image and adapts the model to both, then samples between them.",
    when="Every frame should look like a real image, and a minute of training is acceptable.",
    cost="About 330 evaluations with a backward pass and 530 without to prepare, then 2 a step and frame.",
    spacing="uniform",
    guidance_scale=3.0,
    num_inference_steps=16,
)
def impus(
    task: MorphTask,
    *,
    settings: Annotated[
        Literal["quick", "paper"],
        Option("defaults of options that are none below: quick (small models, no GPU), or paper"),
    ] = "quick",
    common_prompt: Annotated[
        str | None,
        Option("prompt that both embeddings start from; none: made from the two prompts, 'an image of a cat dog'"),
    ] = None,
    start: Annotated[
        Literal["common", "own"], Option("start of the embeddings: the common prompt, or each image's own prompt")
    ] = "common",
    placeholder: Annotated[
        str | None, Option("word of the common prompt whose embedding is learned; none: that of the whole prompt")
    ] = None,
    text_iterations: Annotated[
        int | None, Option("training steps of the embeddings, 0: none; none: quick 60, paper 2500", low=0)
    ] = None,
    text_draws: Annotated[
        int | None, Option("noise draws for each image at such a training step; none: quick 2, paper 1", low=1)
    ] = None,
    text_learning_rate: Annotated[
        float | None, Option("learning rate of the embeddings; none: quick 0.01, paper 0.002", low=0)
    ] = None,
    rank: Annotated[
        int | None,
        Option("rank of the adapter, 0: no adapter; none: the farther apart the images are, the higher", low=0),
    ] = None,
    rank_rule: Annotated[
        Rule, Option("rule for that rank: released (as the authors' code), or corrected (without its extra distance)")
    ] = "released",
    lora_iterations: Annotated[
        int | None, Option("training steps of the adapter, 0: none; none: quick 30, paper 150", low=0)
    ] = None,
    lora_learning_rate: Annotated[
        float | None, Option("learning rate of the adapters; none: quick 0.0003, paper 0.001", low=0)
    ] = None,
    unconditional: Annotated[
        Literal["adapted", "base", "shared"],
        Option(
            "model of the unconditional prediction: adapted (with its own adapter), base (without one), or shared (with"
            " the adapter of the conditional prediction)"
        ),
    ] = "adapted",
    uncond_rank: Annotated[int, Option("rank of the unconditional prediction's own adapter", low=1)] = 2,
    uncond_iterations: Annotated[int, Option("training steps of that adapter; 0: none", low=0)] = 15,
    end_guidance_scale: Annotated[
        float | None,
        Option(
            "guidance scale at the two images, from where it grows to that of the middle; none: quick 1, paper 1.5",
            low=1,
            high=100,
        ),
    ] = None,
    inversion: Annotated[
        Literal["ddim", "fixed-point"] | None,
        Option("inversion of the two images; none: quick fixed-point, paper ddim"),
    ] = None,
    inversion_steps: Annotated[
        int | None, Option("steps of the inversion; none: quick those of a frame, paper 250", low=1)
    ] = None,
) -> MorphPath:
    """Adapts the model to both images; what is drawn from it afterwards is the path.

    Costs 2 images x (text_iterations x text_draws + lora_iterations + uncond_iterations) network evaluations with a
    backward pass, none for what the store holds; for the rank 12 frames and an inversion; and an inversion.

    The task's guidance holds in the middle of the path (the paper's is 3), its distance is for the rank (LPIPS in the
    paper), its generator seeds draws and fresh adapters: three numbers whatever the options.

    Raises:
        UsageError: The common prompt lacks the placeholder, or no layer allows the rank.
        SamplingError: Training broke down.
        Cancelled: The watch asked to stop; a run with the same store goes on from there.
    """
    chosen = SETTINGS[settings].but(
        text_iterations=text_iterations, text_draws=text_draws, text_learning_rate=text_learning_rate,
        lora_iterations=lora_iterations, lora_learning_rate=lora_learning_rate, end_guidance_scale=end_guidance_scale,
        inversion=inversion, inversion_steps=inversion_steps,
    )  # fmt: skip
    prompt = common_prompt_of(*task.ends.prompts) if common_prompt is None else common_prompt
    learned = None if placeholder is None else positions(task.model, prompt, placeholder)
    for asked in (uncond_rank, rank or 0):
        clamped_rank(task.model, asked)
    for_text = Draws.by(task.generator, count=chosen.text_draws, shared=True)
    stages = Stages(task, chosen, [for_text, Draws.by(task.generator), Draws.by(task.generator)])

    # An embedding for each image, both from one prompt
    text = stages.embeddings([prompt] * 2 if start == "common" else list(task.ends.prompts), placeholder, learned)

    # The adapter's rank: by how far apart the images are on the model as it is
    if rank is None:
        rank = stages.rank(text, rank_rule)
    rank = stages.clamped(rank)

    # An adapter for both images under their embeddings, and one for the prediction without them
    cond = stages.adapter("adapting the model", text, rank, chosen.lora_iterations, draws=1)
    uncond = {"base": None, "shared": cond}.get(unconditional)
    if cond is not None and unconditional == "adapted":
        uncond = stages.adapter("adapting its other half", task.negative, uncond_rank, uncond_iterations, draws=2)

    # Noise of both images, by the adapted model
    noise = stages.inverted(text, cond)
    plan = Adapted(
        noise, text, task.negative, cond, uncond, task.guidance_scale, chosen.end_guidance_scale,
        task.num_inference_steps,
    )  # fmt: skip
    return MorphPath(
        lambda weights: plan.draw(task.model, weights, watch=task.frame_watch),
        notes=stages.notes_of(noise),
        record=stages.record,
    )


@dataclass(frozen=True)
class Adapted:
    """A model adapted to two images: what frames are drawn from.

    Attributes:
        noise: Inverted noise of the images, (2, channels, height, width).
        condition: Their embeddings, two rows.
        negative: The negative prompt, one row.
        cond, uncond: Adapters of the two halves of guidance; None: the model as it is.
        guidance_scale, end_guidance_scale: In the middle of the path, and at its ends.
        num_inference_steps: Of every frame.
    """

    noise: Tensor
    condition: Condition
    negative: Condition
    cond: Lora | None
    uncond: Lora | None
    guidance_scale: float
    end_guidance_scale: float
    num_inference_steps: int

    def draw(self, model: Model, weights: Sequence[float], *, watch: Watch | None = None) -> Tensor:
        """Frames at morph weights, clean latents (frame, channels, height, width)."""
        conditions = mixed_condition(self.condition, weights)
        branches = {
            f"frame-{k}": Branch(conditions[[k]], self.negative, self.guidance_at(weight))
            for k, weight in enumerate(weights)
        }
        noise = torch.stack([slerp(self.noise[:1], self.noise[1:], weight) for weight in weights])
        adapters = RowAdapters({"uncond": self.uncond, "cond": self.cond})
        return sample(
            model, noise, branches, num_inference_steps=self.num_inference_steps, controls=[adapters], watch=watch
        )[:, 0]

    def guidance_at(self, weight: float) -> float:
        """A tent: the middle's scale at 0.5, the ends' at 0 and 1."""
        return self.guidance_scale - 2.0 * abs(weight - 0.5) * (self.guidance_scale - self.end_guidance_scale)
