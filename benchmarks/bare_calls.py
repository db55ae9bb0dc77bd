"""The network calls of a method, written down, and made again with nothing around them.

For a method that differentiates through the network this is what its time is held against: other calls than its own
have other rows, or no backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from sfumato.models.base import Condition, Model


@dataclass(frozen=True)
class BareCall:
    """A call of the network, or of the decoder, that a method made.

    Attributes:
        shape: Of the latents.
        time: Timestep.
        condition: Of the rows; None: a call of the decoder.
        backward: Where a gradient on the latents came from: the output, or only what is inside the network; or none.
    """

    shape: torch.Size
    time: float = 0.0
    condition: Condition | None = None
    backward: Literal["output", "inside"] | None = None


@contextmanager
def noted(model: Model, calls: list[BareCall]) -> Iterator[None]:
    """Writes down the calls of the network and of the decoder inside the block."""
    predict, decode = model.predict, model.decode_latents

    def note(latents: Tensor, output: Tensor, time: float = 0.0, condition: Condition | None = None) -> Tensor:
        differentiated = torch.is_grad_enabled() and latents.requires_grad
        calls.append(BareCall(latents.shape, time, condition, "inside" if differentiated else None))
        if differentiated:
            output.register_hook(partial(passed, len(calls) - 1))
        return output

    def passed(index: int, _: Tensor) -> None:
        calls[index] = replace(calls[index], backward="output")

    model.predict = lambda x, t, condition: note(x, predict(x, t, condition), t, condition)  # type: ignore[method-assign]
    model.decode_latents = lambda x: note(x, decode(x))  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.predict, model.decode_latents


def make(model: Model, calls: Sequence[BareCall]) -> None:
    """The calls with nothing around them.

    A backward pass is that of the sum of the output. Where a method has a gradient of attention maps alone, it is that
    of the sum of the queries of all layers where the image looks at text: as deep into the network as the maps are.
    All activations are kept for it, as the methods do by default, and nothing is computed again.
    """
    for call in calls:
        latents = torch.zeros(call.shape).requires_grad_(call.backward is not None)
        queries: list[Tensor] = []
        with torch.set_grad_enabled(call.backward is not None), _queries(model, call, queries):
            if call.condition is None:
                output = model.decode_latents(latents)
            else:
                output = model.predict(latents, call.time, call.condition)
            if call.backward:
                depth = torch.stack([query.sum() for query in queries]).sum() if queries else output.sum()
                torch.autograd.grad(depth, latents)


@contextmanager
def _queries(model: Model, call: BareCall, found: list[Tensor]) -> Iterator[None]:
    """Collects the queries of layers where the image looks at text, where a call's gradient is from there."""
    if call.condition is None or call.backward != "inside":
        yield
        return

    def collect(name: str, given: Tensor, query: Tensor) -> Tensor:
        found.append(query)
        return query

    sites = model.sites((call.shape[-2], call.shape[-1]))
    with model.projection_hook([f"{site.name}.to_q" for site in sites if site.text_keys is not None], collect):
        yield
