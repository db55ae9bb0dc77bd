"""Cross-attention guidance: a gradient on the latents that draws attention maps towards those of the source branch.

Source: Parmar et al., 2023, https://arxiv.org/abs/2302.03027, section 3.3 (pix2pix-zero).

Only cross-attention maps are made; self-attention stays in the fused kernel, also in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.attention.cross import CrossAttentionMaps
from sfumato.attention.patch import AttentionControl
from sfumato.attention.record import Recorder, RecordMaps
from sfumato.models.attention import AttentionSite
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.sampling.guidance import combined
from sfumato.sampling.layout import Layout

Update = Literal["paper", "released"]


@dataclass(frozen=True)
class Pull:
    """What held the edit at one step.

    Attributes:
        step: The step.
        loss: Distance between the maps before the latents were moved, (branch, image).
        gradient: Of the loss, (guidance, branch, image, channels, height, width).
        maps: Of this step, both kinds: those of the source under `RecordKey(guidance, "source")` ("cond" only where the
            negative prompt is the source's), those of the edits under their branches.
    """

    step: Step
    loss: Tensor
    gradient: Tensor
    maps: Recorder


class CrossAttentionGuidance:
    r"""Moves what the network sees of the edited branches towards the source's attention maps.

    .. math:: x' = x - \lambda \nabla_x \sum_{layers} \operatorname{mean}_{row, head}
              \sum_{query, token} (M - M^{source})^2

    Each guidance row has its own gradient. Reference: Parmar et al., 2023, section 3.3; sum and mean as in their code,
    so that an amount means the same.

    A `Control` and the `guide` of one `sample` run whose first branch is the source.
    """

    reads_unconditional = True

    def __init__(
        self, amount: float, *, shared: bool, update: Update, observe: Callable[[Pull], None] | None = None
    ) -> None:
        """Takes lambda, and whether the source's two guidance rows are one because they see the same text."""
        self.amount, self.shared, self.update, self.observe = amount, shared, update, observe
        self._maps = Recorder()
        self._record = _SourceMaps(self._maps)
        self._match = _MatchMaps(self._maps, self._record, keep=observe is not None)
        self._seen = _MeanMaps(), _MeanMaps()  # of the source, of the edits
        self._controls: list[AttentionControl] = []

    @contextmanager
    def installed(self, model: Model, layout: Layout) -> Iterator[CrossAttentionGuidance]:
        """Hooks the cross-attention layers inside the block; self-attention is left alone."""
        rows = layout.guidance[-1:] if self.shared else layout.guidance
        parts = (
            replace(layout, branches=layout.branches[:1], guidance=rows),
            replace(layout, branches=layout.branches[1:]),
        )
        with ExitStack() as stack:
            self._controls = []
            for compared, seen, part in zip((self._record, self._match), self._seen, parts, strict=True):
                edits = [compared, seen] if self.amount > 0.0 else [seen]
                self._controls.append(stack.enter_context(AttentionControl(edits).installed(model, part)))
            try:
                yield self
            finally:
                self._forget()

    def _forget(self) -> None:
        self._maps.forget()
        self._record.whole.clear()

    def at_step(self, step: Step) -> None:
        for control in self._controls:
            control.at_step(step)

    def acts(self, step: Step) -> bool:
        return True

    @property
    def average(self) -> Tensor:
        """Mean conditional map so far, of what the step was made from, (branch, image, height, width, token)."""
        return torch.cat([seen.average for seen in self._seen])

    def __call__(
        self, model: Model, latents: Tensor, step: Step, condition: Condition, scales: Tensor, layout: Layout
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The guided outputs of all branches, and where the step starts from when that is not the latents."""
        index = torch.arange(len(condition)).view(layout.axes)  # (guidance, branch, image)
        source_rows, rows = index[-1:, :1] if self.shared else index[:, :1], index[:, 1:]

        def predict(x: Tensor, at: Tensor) -> Tensor:
            """Outputs of the rows `at`, (guidance, branch, image, ...), for latents of that shape."""
            output = model.predict(x.flatten(0, 2), step.time, condition[at.flatten().tolist()])
            return torch.unflatten(output, 0, at.shape)

        with self._record.switched_on(), self._seen[0].switched_on():
            source = predict(latents[:1].expand(len(source_rows), *latents[:1].shape), source_rows)
        moved = latents[1:].expand(len(rows), *latents[1:].shape)  # (guidance, branch, image, ...)
        if self.amount > 0.0:
            with torch.enable_grad(), self._match.switched_on():
                leaf = moved.detach().clone().requires_grad_()
                predict(leaf, rows)
                loss = self._match.loss
                (gradient,) = torch.autograd.grad(loss.sum(), leaf)
            moved = leaf.detach() - self.amount * gradient
            if self.observe is not None:
                self.observe(Pull(step, loss.detach(), gradient, self._maps))
            self._forget()
        with self._seen[1].switched_on():
            edited = predict(moved, rows)
        output = torch.cat([combined(source, scales[:1]), combined(edited, scales[1:])])
        if self.update == "paper":
            return output
        return output, torch.cat([latents[:1], moved[0]])


class _MeanMaps(CrossAttentionMaps):
    """Adds up maps while it is switched on."""

    def __init__(self) -> None:
        super().__init__()
        self.on = False

    @contextmanager
    def switched_on(self) -> Iterator[None]:
        """On inside the block, off after it."""
        self.on = True
        try:
            yield
        finally:
            self.on = False


class _SourceMaps(RecordMaps):
    """Records the source's maps.

    Attributes:
        whole: The same by layer, all rows together, (guidance, 1, image, heads, image position, token).
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder, on=False)
        self.whole: dict[str, Tensor] = {}

    def edit_maps(self, maps: Tensor, site: AttentionSite, step: Step) -> Tensor:
        self.whole[site.name] = maps.detach().float()
        return super().edit_maps(maps, site, step)


class _MatchMaps(RecordMaps):
    """Adds up how far the edits' maps are from the source's, (branch, image)."""

    def __init__(self, recorder: Recorder, source: _SourceMaps, *, keep: bool) -> None:
        super().__init__(recorder, on=False)
        self.source, self.keep = source, keep
        self.loss = torch.zeros(())

    @contextmanager
    def switched_on(self) -> Iterator[None]:
        self.loss = torch.zeros(())
        with super().switched_on():
            yield

    def edit_maps(self, maps: Tensor, site: AttentionSite, step: Step) -> Tensor:
        reference = self.source.whole[site.name].expand_as(maps)  # the one row of a source that has one, for both
        squares = F.mse_loss(maps.float(), reference, reduction="none")  # which keeps nothing more for the gradient
        self.loss = self.loss.to(maps.device) + squares.sum(dim=(-2, -1)).mean(dim=(0, 3))
        return super().edit_maps(maps, site, step) if self.keep else maps
