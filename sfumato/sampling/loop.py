"""The sampling loop: every edit and every morph is this loop with other branches, controls and hooks.

A run has named branches (source and target, or the frames of a morph) and a batch of images. Rows of a network call are
(guidance, branch, image); what a control or a hook sees keeps these as separate axes. An unconditional row that
nothing needs is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import SamplingError, UsageError
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Neighbour, Step
from sfumato.sampling.ddim import DDIM
from sfumato.sampling.draws import Generators, draw_noise
from sfumato.sampling.feature_reuse import FeatureReuse
from sfumato.sampling.guidance import guidance_halves, guided_output
from sfumato.sampling.layout import Branch, Control, Layout, Replay
from sfumato.sampling.pin import PinSource
from sfumato.sampling.solvers import Interval, Solver
from sfumato.sampling.stepper import Stepper
from sfumato.watch import Watch

OnStep = Callable[[Tensor, Step], Tensor]
Guide = Callable[["Model", Tensor, Step, Condition, Tensor, "Layout"], Tensor | tuple[Tensor, Tensor]]


def sample(
    model: Model,
    noise: Tensor,
    branches: Mapping[str, Branch],
    *,
    num_inference_steps: int | None = None,
    timesteps: Sequence[float] | None = None,
    neighbour: Neighbour = "grid",
    start_index: int = 0,
    eta: float = 0.0,
    stepper: Stepper[Any] | None = None,
    generator: Generators = None,
    replay: Replay | None = None,
    controls: Sequence[Control] = (),
    before_step: Sequence[OnStep] = (),
    on_step: Sequence[OnStep] = (),
    guide: Guide | None = None,
    solver: Solver | None = None,
    cache_interval: int = 1,
    watch: Watch | None = None,
    differentiable: bool = False,
) -> Tensor:
    """Walks all branches from noise to clean latents together.

    Args:
        model: Any model.
        noise: What the run starts from, (image, channels, height, width) for all branches alike, or with a leading
            branch axis.
        branches: Name to Branch, in order.
        num_inference_steps, timesteps, neighbour: The grid, see `Schedule.steps`; default: the model's own step count.
        start_index: First step to execute, in [0, steps): latents given then belong to that step's level.
        eta: Stochasticity of DDIM, in [0, 1].
        stepper: What to step by; None: the replay's own, where it has one, else `DDIM(eta)`.
        generator: Draws the noise of stochastic steps, one draw a step, shared by all branches; one for each image.
        replay: Takes noise maps, null embeddings, a pinned source and the stepper from there instead.
        controls: Installed for the length of the run and called at every step.
        before_step, on_step: Called in turn with the latents, (branch, image, channels, height, width), before the
            network call of every step and after the step; what they return goes on.
        guide: Makes the guided network output in place of `guided_output`, with the same arguments but the step for t:
            other networks or adapters for the two halves, guidance by gradients. It may return the output and the
            latents that the step starts from.
        solver: On a rectified flow, makes the velocity of a step from guided network outputs at it and near it; None:
            the replay's own, where it has one, else the output itself.
        cache_interval: The deep stages of the network are computed at every so many steps, and at each at which a
            control acts; in between their features are used again. 1: at all steps.
        watch: Progress, previews, cancellation.
        differentiable: Keep the graph through the whole run.

    Returns:
        Latents after the last step, (branch, image, channels, height, width), float32 (float64 for float64 noise).

    Raises:
        UsageError: Arguments that do not fit one another.
        ModelError: The model has no features to use again.
        SamplingError: Latents became NaN or infinite; names the step and the likely cause.
        Cancelled: The watch asked to stop.
    """
    steps = model.schedule.steps(
        num_inference_steps if timesteps is not None or num_inference_steps else model.num_inference_steps,
        timesteps=timesteps,
        neighbour=neighbour,
        latent_size=(noise.shape[-2], noise.shape[-1]),
    )
    if not 0 <= start_index < len(steps):
        raise UsageError(f"start_index must be in [0, {len(steps) - 1}], got {start_index}")
    latents = _spread(noise, len(branches)).to(model.device)
    latents = latents if latents.dtype == torch.float64 else latents.float()
    layout = layout_of(model, branches, steps[start_index:], latents, guide, replay, controls)
    never, read = layout.single, any(control.reads_unconditional for control in controls)
    conditions = RunConditions(model, branches, layout, replay)
    stepper = _stepper(stepper, replay, eta)
    state = stepper.init(latents, steps[start_index])
    solver = _solver(model, solver, replay, guide)
    if replay is not None and replay.pinned:
        on_step = [PinSource(replay.latents_at, start_index, len(steps)).after, *on_step]
    watch = watch or Watch()

    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(differentiable))
        for control in controls:
            stack.enter_context(control.installed(model, layout))
        cache = stack.enter_context(model.cached_features()) if cache_interval > 1 else None
        reuse = FeatureReuse(cache, cache_interval, controls, layout)
        for step in watch.over(steps[start_index:]):
            for control in controls:
                control.at_step(step)
            for hook in before_step:
                latents = hook(latents, step)
            scales = torch.tensor([branch.scale(step) for branch in branches.values()]).to(latents)
            if guide is None and len(layout.guidance) == 2:
                layout.drop(unneeded(branches, step, never, read=read))
            condition = conditions.at(step)
            reuse.at_step(step)
            if guide is None:
                output = partial(_output, model, condition, scales, layout)
                model_output = (
                    output(latents, step.time) if solver is None else solver(output, latents, Interval.down(step))
                )
            else:
                made = guide(model, latents, step, condition, scales, layout)
                model_output, latents = made if isinstance(made, tuple) else (made, latents)
            prediction = model.schedule.split(model_output, latents, step.level)
            watch.show(step.index, prediction.x0)
            z = _draw(step, replay, generator, latents) if stepper.stochastic(step) else None
            latents, state = stepper.step(latents, prediction, step, state, z)
            for hook in on_step:
                latents = hook(latents, step)
            _check_finite(latents, step, model)
    return latents


def layout_of(
    model: Model,
    branches: Mapping[str, Branch],
    steps: Sequence[Step],
    latents: Tensor,
    guide: Guide | None,
    replay: Replay | None,
    controls: Sequence[Control],
) -> Layout:
    """The rows that a run needs: an unconditional one for each branch that is guided at some step, or looked at."""
    guided = {name for name, branch in branches.items() if any(branch.scale(step) != 1.0 for step in steps)}
    tuned = replay is not None and replay.null_embeds is not None
    size = (latents.shape[-2], latents.shape[-1])
    if not guided:
        return Layout(("cond",), tuple(branches), latents.shape[1], size)
    # a guide, and an embedding in the empty prompt's place, need both halves whatever the network takes
    halves = ("uncond", "cond") if guide is not None or tuned else guidance_halves(model, True)
    single = frozenset(branches) - guided
    if guide is not None or len(halves) == 1:  # a guide makes its own use of both halves
        single = frozenset()
    elif single and any(control.reads_unconditional for control in controls):
        empty = model.encode_prompt("")
        single = frozenset(
            name for name in single if not tuned and branches[name].condition.equals(branches[name].negative or empty)
        )
    return Layout(halves, tuple(branches), latents.shape[1], size, single)


def unneeded(
    branches: Mapping[str, Branch], step: Step, never: frozenset[str] = frozenset(), *, read: bool = False
) -> frozenset[str]:
    """Branches without an unconditional row at a step: those that are not guided at it.

    Args:
        branches, step: Of the run.
        never: Branches that have none at any step.
        read: Controls see such rows of other branches, so that all the others have one where one is guided.
    """
    off = frozenset(name for name, branch in branches.items() if branch.scale(step) == 1.0)
    return never if read and len(off) < len(branches) else off


class RunConditions:
    """The condition of each row of the layout at each step."""

    def __init__(self, model: Model, branches: Mapping[str, Branch], layout: Layout, replay: Replay | None) -> None:
        self._empty = model.encode_prompt("")
        given = [branch.condition for branch in branches.values()]
        negatives = [branch.negative or self._empty for branch in branches.values()]
        self._null_embeds = None if replay is None or "uncond" not in layout.guidance else replay.null_embeds
        tuned = 0 if self._null_embeds is None else self._null_embeds.shape[-2]  # of the prompts of the inversion
        tokens = max(tuned, *(condition.tokens for condition in [*given, *negatives]))
        rows = [row.padded(tokens, self._empty).expand(layout.images) for row in [*given, *negatives]]
        self._layout, self._cond = layout, Condition.cat(rows[: len(given)])
        self._negatives = dict(zip(branches, rows[len(given) :], strict=True))
        self._null_extras = {} if replay is None else replay.null_extras

    def at(self, step: Step) -> Condition:
        """Of the rows that the layout has just now."""
        guided = [self._negatives[name] for half, name in self._layout.cells if half == "uncond"]
        if not guided:
            return self._cond

        def each_branch(of_images: Tensor) -> Tensor:
            return torch.cat([of_images.to(self._cond.text)] * len(guided))

        extras = {name: each_branch(tensor) for name, tensor in self._null_extras.items()}
        uncond = Condition.cat(guided).with_extras(extras)
        if self._null_embeds is not None:
            embeds = each_branch(self._null_embeds[step.index])  # (row, tokens, dim)
            uncond = uncond.with_text(embeds).padded(self._cond.tokens, self._empty)
        return Condition.cat([uncond, self._cond])


def _spread(noise: Tensor, branches: int) -> Tensor:
    """Noise with a branch axis, (branch, image, channels, height, width)."""
    if noise.ndim == 4:
        return noise.expand(branches, *noise.shape)
    if noise.ndim != 5 or noise.shape[0] != branches:
        raise UsageError(
            f"noise must be (image, channels, height, width), or start with an axis of {branches} branches;"
            f" got {tuple(noise.shape)}"
        )
    return noise


def _stepper(asked: Stepper[Any] | None, replay: Replay | None, eta: float) -> Stepper[Any]:
    """The stepper of a run: the one asked for, the one that the replay needs, or DDIM."""
    needed = None if replay is None else replay.stepper
    if needed is not None and (asked is not None or eta > 0.0):
        raise UsageError("this inversion is replayed by its own stepper, without noise: give no stepper and no eta")
    return asked or needed or DDIM(eta)


def _solver(model: Model, asked: Solver | None, replay: Replay | None, guide: Guide | None) -> Solver | None:
    """The solver of a run: the one asked for, or the one that the replay needs."""
    solver = asked or (None if replay is None or guide is not None else replay.solver)
    if solver is not None and model.schedule.target != "flow":
        raise UsageError(f"solvers look between the levels of a rectified flow, and {model.name} is none")
    if solver is not None and guide is not None:
        raise UsageError("a solver and a guide both make the output of a step: give one of them")
    return solver


def _output(model: Model, condition: Condition, scales: Tensor, layout: Layout, latents: Tensor, time: float) -> Tensor:
    return guided_output(model, latents, time, condition, scales, layout)


def _draw(step: Step, replay: Replay | None, generator: Generators, latents: Tensor) -> Tensor:
    """What a stochastic step consumes, (image, channels, height, width), shared by the branches."""
    if replay is not None and replay.noise_maps is not None:
        return replay.noise_maps[step.index].to(latents)
    return draw_noise(latents.shape[1:], generator, latents)


def _check_finite(latents: Tensor, step: Step, model: Model) -> None:
    if not bool(torch.isfinite(latents).all()):
        cause = (
            "half precision overflowed: load the model with dtype='fp32' or 'bf16'"
            if model.dtype == torch.float16
            else "the guidance scale or an option of the edit is too strong: lower it"
        )
        raise SamplingError(
            f"latents became NaN or infinite at step {step.index + 1} of {step.num_steps} (t={step.time:g});"
            f" likely cause: {cause}"
        )
