"""For edits that run no source branch, since its latents are known from an inversion."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.inversions.result import Inversion
from sfumato.models.schedules import Step
from sfumato.sampling.loop import OnStep


def with_source(source: Inversion, hook: OnStep) -> OnStep:
    """A hook for a run without a source branch: it sees the source's known latents after the step as branch 0."""

    def called(latents: Tensor, step: Step) -> Tensor:
        known = source.latents_at(step.index + 1).to(latents)
        return hook(torch.cat([known[None], latents]), step)[1:]

    return called


def unused_embeddings(source: Inversion, title: str) -> tuple[str, ...]:
    """A note where a method reads no more than the latents of an inversion that also tuned embeddings."""
    if source.null_embeds is None:
        return ()
    note = (
        f"{title} uses only the latents of an inversion: the embeddings of a {source.method} inversion are not used,"
        " and inversion 'ddim' gives the same"
    )
    return (note,)
