"""What an edit is given, and what recipes share of it: branches, the latents of the source, the loop, the result.

A recipe is a function of a task and of its own options, see `sfumato.edits.method`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sfumato.conditions.mixing import PromptMix
from sfumato.edits.result import LatentCandidate, LatentEdit
from sfumato.inversions.result import Inversion
from sfumato.inversions.sampled_source import with_trajectory
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.sampling.branches import GuidedBranches
from sfumato.sampling.draws import Generators
from sfumato.sampling.layout import WHOLE_RUN, Branch, Control, Scale, limited
from sfumato.sampling.loop import Guide, OnStep, sample
from sfumato.sampling.solvers import Solver
from sfumato.sampling.stepper import Stepper
from sfumato.watch import Watch


@dataclass(frozen=True)
class EditTask:
    """All that an edit is given besides the options of its method.

    Attributes:
        model: Any model that can honour the edit.
        source: Noise and steps to start from: an inversion of the images; their own latents and a first noise
            (`Inversion("picture", noise, timesteps, trajectory=clean[None])`); or drawn noise (method "drawn").
        source_prompt: What the images show.
        target_prompts: What the results should show; one or more, in one batch.
        negative_prompt: Of all branches.
        guidance_scale: Of the edited branches, at least 1 (1 = off).
        source_guidance_scale: Of the source branch; None: see `source_scale`.
        generator: Draws whatever a recipe draws; one for each image, or see `Generators`.
        mask: Where the edit may change the images, (1, 1, height, width) of the latents or one for each edit and image,
            above 0.5; for recipes with a mask of their own, in its place. A hook holds all others to it.
        mix: What stands in the place of the target prompts where branches are made; None: the prompts themselves. Words
            are looked up in the prompts all the same.
        guidance_interval: Shares of the steps, (start, end), where the edited branches are guided; outside of it they
            are at guidance 1.
        cache_interval: Of the loop, see `sampling.loop.sample`.
        on_step: Called after every step of the edit, after the recipe's own hooks, with the latents of the branches
            that are run, (branch, image, channels, height, width); what they return goes on.
        watch: Progress, previews, cancellation.
    """

    model: Model
    source: Inversion
    source_prompt: str
    target_prompts: Sequence[str]
    negative_prompt: str = ""
    guidance_scale: float = 7.5
    source_guidance_scale: float | None = None
    generator: Generators = None
    mask: Tensor | None = None
    mix: PromptMix | None = None
    guidance_interval: tuple[float, float] = WHOLE_RUN
    cache_interval: int = 1
    on_step: Sequence[OnStep] = ()
    watch: Watch = field(default_factory=Watch)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run, however many of them an edit executes."""
        return len(self.source.timesteps)

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of the latents."""
        return self.source.noise.shape[-2], self.source.noise.shape[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the branches: "source", then "target", or "target-1", "target-2", ... where there are several."""
        count = len(self.target_prompts)
        return ("source", *(["target"] if count == 1 else [f"target-{k + 1}" for k in range(count)]))

    @property
    def source_scale(self) -> float:
        """Guidance scale of the source branch: that asked for; else that of the inversion, which reconstructs the
        images; of drawn noise that of the edited branches.
        """
        if self.source_guidance_scale is not None:
            return self.source_guidance_scale
        return self.guidance_scale if self.source.trajectory is None else self.source.guidance_scale

    def limited(self, guidance_scale: float) -> Scale:
        """A guidance scale of edited branches in the interval where they are guided."""
        return limited(guidance_scale, self.guidance_interval)

    @cached_property
    def condition(self) -> Condition:
        """The prompts: the source's row, one for each target, and that of the negative prompt."""
        encoded = self.model.encode_prompt([self.source_prompt, *self.target_prompts, self.negative_prompt])
        return Condition.cat([encoded[[0]], self._mixed(encoded[slice(1, -1)]), encoded[[-1]]])

    @property
    def branches(self) -> dict[str, Branch]:
        """All branches by name, the source first."""
        target: Scale = self.limited(self.guidance_scale)
        scales = [self.source_scale, *[target] * len(self.target_prompts)]
        rows = enumerate(zip(self.names, scales, strict=True))
        return {name: Branch(self.condition[[k]], self.condition[[-1]], scale) for k, (name, scale) in rows}

    @cached_property
    def targets(self) -> dict[str, Branch]:
        """The edited branches alone, of a run without a source branch; the source prompt has no part in them."""
        encoded = self.model.encode_prompt([*self.target_prompts, self.negative_prompt])
        condition, negative = self._mixed(encoded[slice(0, -1)]), encoded[[-1]]
        rows = enumerate(self.names[1:])
        return {name: Branch(condition[[k]], negative, self.limited(self.guidance_scale)) for k, name in rows}

    def _mixed(self, targets: Condition) -> Condition:
        """What the target branches see, for the rows of their prompts."""
        return targets if self.mix is None else self.mix.apply(targets, self.model.encode_prompt(""))

    @cached_property
    def source_branch(self) -> Branch:
        """The source branch of a run of its own; the target prompts have no part in it."""
        condition = self.model.encode_prompt([self.source_prompt, self.negative_prompt])
        return Branch(condition[[0]], condition[[1]], self.source_scale)

    @cached_property
    def with_latents(self) -> Inversion:
        """The source with the latents of its images, which are sampled at the first use where it is drawn noise.

        Costs nothing, or one network evaluation a step and image, two with guidance.
        """
        if self.source.trajectory is not None:
            return self.source
        return with_trajectory(self.model, self.source, self.source_branch, watch=self.watch)

    def sample(
        self,
        latents: Tensor | None = None,
        branches: Mapping[str, Branch] | None = None,
        *,
        start_index: int | None = None,
        timesteps: Sequence[float] | None = None,
        replay: Inversion | None = None,
        eta: float | None = None,
        stepper: Stepper[Any] | None = None,
        controls: Sequence[Control] = (),
        before_step: Sequence[OnStep] = (),
        on_step: Sequence[OnStep] = (),
        guide: Guide | None = None,
        solver: Solver | None = None,
    ) -> Tensor:
        """The sampling loop with the task's generator, hooks and watch; see `sampling.loop.sample`.

        Args:
            latents: What the run starts from; None: the noise of the source.
            branches: None: all branches of the task.
            start_index: First step to execute; None: the first step of the source.
            timesteps: None: the source's.
            replay: The inversion to take noise maps, null embeddings, pinned latents and the stepper from.
            eta: None: that of `replay`, without one 0.
            stepper: None: that of `replay`, without one DDIM.
            controls, before_step, guide, solver: See the loop.
            on_step: Called after every step before the task's hooks.

        Returns:
            Clean latents, (branch, image, channels, height, width).
        """
        return sample(
            self.model,
            self.source.noise if latents is None else latents,
            self.branches if branches is None else branches,
            timesteps=self.source.timesteps if timesteps is None else timesteps,
            start_index=self.source.start_index if start_index is None else start_index,
            eta=(0.0 if replay is None else replay.eta) if eta is None else eta,
            stepper=stepper,
            generator=self.generator,
            replay=replay,
            controls=controls,
            before_step=before_step,
            on_step=[*on_step, *self.on_step],
            guide=guide,
            solver=solver,
            cache_interval=self.cache_interval,
            watch=self.watch,
        )

    def steps_from(self, start_index: int) -> list[Step]:
        """The steps of a run from one on, noisiest first: for recipes that walk by themselves."""
        return self.model.schedule.steps(timesteps=self.source.timesteps, latent_size=self.latent_size)[start_index:]

    def guided(
        self, branches: Mapping[str, Branch], steps: Sequence[Step], *, classifier_free: bool = False
    ) -> GuidedBranches:
        """The guided prediction of branches at the images' latents; see `GuidedBranches`."""
        images = self.source.noise.shape[-4]
        return GuidedBranches(self.model, branches, images, steps, classifier_free=classifier_free)

    def after(self, latents: Tensor, step: Step) -> Tensor:
        """Latents of the branches that are run, as the task's hooks leave them after a step."""
        for hook in self.on_step:
            latents = hook(latents, step)
        return latents

    def edited(
        self,
        latents: Tensor,
        *,
        source: Tensor | None = None,
        maps: Tensor | None = None,
        mask: Tensor | None = None,
        distances: Tensor | None = None,
        candidates: Sequence[LatentCandidate] = (),
        notes: Sequence[str] = (),
    ) -> LatentEdit:
        """The result of a recipe.

        Args:
            latents: Clean, (branch, image, channels, height, width); or (image, channels, height, width), the same in
                every branch.
            source: What the source branch holds, (image, channels, height, width), where it was not run: the latents
                of the images themselves. Then `latents` are those of the edited branches.
            maps, mask, distances, candidates, notes: See `LatentEdit`.
        """
        if latents.ndim == 4:
            latents = latents.expand(len(self.names), *latents.shape)
        elif source is not None:
            latents = torch.cat([source.to(latents)[None], latents])
        return LatentEdit(latents, self.names, maps, mask, tuple(candidates), distances, tuple(notes))
