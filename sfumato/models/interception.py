"""Calls of the fused attention kernel on their way to hooks, also out of compiled code.

In compiled code the kernel is one operator that torch.compile does not look into. At each call it asks the layer's seat
which hooks are installed just now, so that the code is the same with hooks, without, and with others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sfumato.models.attention import AttentionSite, KernelCall, KernelHook

FUSED_KERNEL = F.scaled_dot_product_attention


class Intercepted(TorchFunctionMode):
    """Gives the calls of the fused kernel to a hook; everything else runs as it is."""

    def __init__(self, hook: KernelHook, site: AttentionSite) -> None:
        super().__init__()
        self.hook, self.site, self.calls = hook, site, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not FUSED_KERNEL:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return self.hook.attend(_kernel_call(self.site, *_arguments(*args, **(kwargs or {}))))


def _arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, float | None]:
    """Query, key, value, mask and scale of a call of the fused kernel, whichever way they were given."""
    assert (dropout_p, is_causal, enable_gqa) == (0.0, False, False), "no denoising network asks for these"
    return query, key, value, attn_mask, scale


def _kernel_call(
    site: AttentionSite, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
) -> KernelCall:
    """The arguments of the fused kernel as a hook sees them."""
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -math.inf)
    return KernelCall(site, query, key, value, mask, query.shape[-1] ** -0.5 if scale is None else scale)


class Seat:
    """Where hooks of one layer's kernel sit while they are installed.

    Attributes:
        hooks: With the site that each was installed for, the first installed first.
        number: A tensor, which compiled code takes as it takes any other: a number would be compiled into it.
    """

    def __init__(self) -> None:
        self.hooks: list[tuple[KernelHook, AttentionSite]] = []
        number = next(_numbers)
        self.number = torch.tensor(number)
        _seats[number] = self

    @contextmanager
    def taken(self, hook: KernelHook, site: AttentionSite) -> Iterator[None]:
        """Holds a hook inside the block, also when that raises."""
        entry = (hook, site)
        self.hooks.append(entry)
        try:
            yield
        finally:
            self.hooks[:] = [one for one in self.hooks if one is not entry]

    def __deepcopy__(self, memo: Any) -> Seat:
        return Seat()  # of the copied layer


_numbers = itertools.count()
_seats: WeakValueDictionary[int, Seat] = WeakValueDictionary()


class ByOperator(TorchFunctionMode):
    """Has the fused kernel of a layer called by `attend`, while torch.compile traces the layer."""

    def __init__(self, number: Tensor) -> None:
        super().__init__()
        self.number = number

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.unflatten:  # the method calls super(), which cannot be traced here; the function is the same
            func = torch.unflatten
        if func is not FUSED_KERNEL:
            return func(*args, **(kwargs or {}))
        return attend(*_arguments(*args, **(kwargs or {})), self.number)


def _attended(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, seat: Tensor
) -> Tensor:
    with ExitStack() as stack:
        for hook, site in reversed(_seats[int(seat)].hooks):  # what was installed first sees the kernel's call first
            if hook.wants(site):
                stack.enter_context(Intercepted(hook, site))
        output = FUSED_KERNEL(query, key, value, attn_mask=mask, scale=scale)
    # as the fused kernels lay it out, (rows, query tokens, heads, head_dim): compiled code counts on one layout
    return output.transpose(1, 2).contiguous().transpose(1, 2)


def _laid_out(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, seat: Tensor
) -> Tensor:
    """An output without values, of which torch.compile learns shape and layout."""
    rows, heads, tokens, _ = query.shape
    return query.new_empty((rows, tokens, heads, value.shape[-1])).transpose(1, 2)


attend = torch.library.custom_op("sfumato::attend", _attended, mutates_args=())
"""The fused kernel, or what the hooks of a seat make of it, (rows, heads, query tokens, head_dim)."""
attend.register_fake(_laid_out)
