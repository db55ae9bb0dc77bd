r"""IMPUS (Yang et al., 2024), https://arxiv.org/abs/2311.06792: image morphing by a model adapted to both images.

Each image gets a text embedding of its own, learned from a prompt that both share; a low-rank adapter, as wide as the
images are far apart (`rppd.py`), fits the model to both; the images are carried to noise by the adapted model. A
frame at weight w starts from noise on the great circle, is told an embedding on the straight line, and is sampled with

.. math:: u + s(w)\,(c - u), \qquad s(w) = s_{max} - 2\,|w - 1/2|\,(s_{max} - s_{min}),

c from the model under the adapter, u from the model under a second, small adapter that was fitted to the empty prompt:
fitting c alone would shift it against u (the paper's unconditional bias correction).

`settings="paper"` is the paper's, with 16 steps and guidance 3. Differs from the authors' code also then: both
embeddings are learned in one go from the same draws, so that equal images get equal ones (theirs one after another);
latents are the posterior's mean, not a sample; one model with two adapters, not two models; guidance may be 1.

`settings="quick"`, the default, is for small models on a processor; larger models may want the paper's:

- Inversion: fixed-point, in as many steps as a frame has, and guidance 1 at the ends: the ends come back as well as the
  autoencoder allows, and the noise keeps nearly normal variance. DDIM inversion in so few steps does neither.
- Embeddings: fewer updates, of more draws, at a higher rate.
- Adapter: fewer updates at a lower rate. A model fitted harder knows the two images only and jumps between them.

`benchmarks/morphs.py` measures what that gives. The rank rule's constants belong to LPIPS; another distance may ask for
another rank.
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
    title="IMPUS",
    paper="Yang et al., 2024, https://arxiv.org/abs/2311.06792",
    summary="Learns an embedding for each image and adapts the model to both, then samples evenly between them.",
    when="Every frame shall look like an image of its own, the ends come back, and a minute of training is fine.",
    cost="About 330 evaluations with a backward pass and 530 without to prepare, then 2 a step and frame.",
    spacing="uniform",
    guidance_scale=3.0,
    num_inference_steps=16,
)
def impus(
    task: MorphTask,
    *,
    settings: Annotated[
        Literal["quick", "paper"], Option("the options below where they are none: for a processor, or the paper's")
    ] = "quick",
    common_prompt: Annotated[
        str | None, Option("what both embeddings start from; none: made of the two prompts, 'an image of a cat dog'")
    ] = None,
    start: Annotated[
        Literal["common", "own"], Option("whether they do, or start from the images' own prompts")
    ] = "common",
    placeholder: Annotated[
        str | None, Option("word of the common prompt whose embedding alone is learned; none: all of it is")
    ] = None,
    text_iterations: Annotated[int | None, Option("updates of the embeddings; 0: none", low=0)] = None,
    text_draws: Annotated[int | None, Option("noisy versions of each image at every one of them", low=1)] = None,
    text_learning_rate: Annotated[float | None, Option("of the embeddings", low=0)] = None,
    rank: Annotated[
        int | None,
        Option("of the adapter; 0: the model is not adapted; none: by how far apart the images are", low=0),
    ] = None,
    rank_rule: Annotated[
        Rule, Option("how it is found: as the authors' code does, or without the jump that this counts")
    ] = "released",
    lora_iterations: Annotated[int | None, Option("updates of the adapter; 0: none", low=0)] = None,
    lora_learning_rate: Annotated[float | None, Option("of the adapters", low=0)] = None,
    unconditional: Annotated[
        Literal["adapted", "base", "shared"],
        Option("what predicts without the prompt: an adapter of its own, the model as it is, or the one adapter"),
    ] = "adapted",
    uncond_rank: Annotated[int, Option("of the unconditional prediction's own adapter", low=1)] = 2,
    uncond_iterations: Annotated[int, Option("updates of it; 0: none", low=0)] = 15,
    end_guidance_scale: Annotated[
        float | None, Option("guidance at both ends, from where it grows to that of the middle", low=1, high=100)
    ] = None,
    inversion: Annotated[Literal["ddim", "fixed-point"] | None, Option("how the images are carried to noise")] = None,
    inversion_steps: Annotated[int | None, Option("steps of that; none: as many as a frame has", low=1)] = None,
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
        negative: What guidance leads away from, one row.
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
