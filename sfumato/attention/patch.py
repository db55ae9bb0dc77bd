"""Attention control: edits that see named rows at named sites, and cost nothing where they do not act.

An edit says which sites and which steps it wants. Every other attention call keeps the network's own fused kernel.
Only an edit that reads or writes the layout map (`needs_map`) pays for materialising it, and only for the guidance
rows it acts on. Where image and text are one sequence, the kernel does the rest of the map, which is never made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.attention.layout_maps import attended, layout_map, with_layout_map
from sfumato.errors import ModelError
from sfumato.models.attention import AttentionSite, KernelCall
from sfumato.models.base import Model
from sfumato.models.schedules import Step
from sfumato.sampling.layout import Layout

CONDITIONAL = ("cond",)
BOTH = ("uncond", "cond")

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The fused kernel: query, key, value to softmax(q k) v, all (guidance, branch, image, heads, tokens, head_dim)."""
MakeMap = Callable[[Tensor, Tensor], Tensor]
"""Query and key to the layout map softmax(q k), (guidance, branch, image, heads, image position, token)."""


class AttentionEdit:
    """One edit of attention; subclasses override what they need.

    Tensors passed to it have the axes (guidance, branch, image, heads, ...), guidance cut down to `guidance`. What an
    edit returns replaces what it was given; it must not write in place.

    Attributes:
        guidance: The guidance rows it acts on.
        needs_map: Whether it wants the layout map, of sites that look at text.
        sees_mean: Whether it changes no map, and the mean over heads will do for it.
        mixes_outputs: Whether `attention` takes over what attends to what.
        sets_source: Whether it exchanges what keys and values are projected from, and nothing else.
        observes: Whether it only looks, and may miss steps whose features are those of an earlier one.
        on: Whether it acts at all just now; may be switched between two network calls of a step.
    """

    guidance: tuple[str, ...] = CONDITIONAL
    needs_map = False
    sees_mean = False
    mixes_outputs = False
    sets_source = False
    observes = False
    on = True

    def begin(self, layout: Layout, sites: Sequence[AttentionSite]) -> None:
        """Called before the run, and before it is asked which of the model's sites it selects."""

    def selects(self, site: AttentionSite) -> bool:
        """Whether it acts at this site."""
        raise NotImplementedError

    def active(self, step: Step) -> bool:
        """Whether it acts at this step."""
        return True

    def at_step(self, step: Step) -> None:
        """Called before the network call of each step.

        What differs from step to step is looked up here: a compiled network is compiled anew for each other number that
        its edits read inside it, but not for other values of a tensor.
        """

    def edit_source(self, hidden_states: Tensor, site: AttentionSite, step: Step) -> Tensor:
        """What keys and values are projected from, (guidance, branch, image, tokens, dim); asked when `sets_source`."""
        return hidden_states

    def edit_qkv(
        self, query: Tensor, key: Tensor, value: Tensor, site: AttentionSite, step: Step
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key, value before attention, each (guidance, branch, image, heads, tokens, head_dim)."""
        return query, key, value

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, attend: Attend, site: AttentionSite, step: Step
    ) -> Tensor:
        """The attention output, shaped like the query; asked only when `mixes_outputs`.

        Takes what `edit_qkv` of all edits left, and the kernel, to be called as often as needed.
        """
        return attend(query, key, value)

    def score_bias(self, query: Tensor, key: Tensor, site: AttentionSite, step: Step) -> Tensor | None:
        """What is added to the scores before softmax, broadcastable to (guidance, branch, image, heads, query, key).

        Takes the guidance rows it acts on, after `edit_qkv`; None adds nothing. The kernel stays the fused one.
        """
        return None

    def edit_maps(self, maps: Tensor, site: AttentionSite, step: Step) -> Tensor:
        """Which image position looks at which token, (guidance, branch, image, heads, image position, token).

        Softmax is over all keys, so that rows sum to less than 1 where there are others than those of the text. Asked
        only when `needs_map`.
        """
        return maps

    def without_map(
        self, query: Tensor, key: Tensor, value: Tensor, attend: Attend, site: AttentionSite
    ) -> Tensor | None:
        """The attention output that its edited map would give, by the fused kernel alone; None: make the map.

        Asked only when `needs_map`, where the image looks at text alone, no other edit asks for the map, and no mask is
        on the scores. Takes the guidance rows it acts on; the kernel may be called with other numbers of branches.
        """
        return None

    def with_mean_map(
        self, query: Tensor, key: Tensor, value: Tensor, make: MakeMap, site: AttentionSite, step: Step
    ) -> tuple[Tensor, Tensor] | None:
        """The attention output that its edited map would give, and the mean of that map over heads, as one head.

        As `without_map`, where other edits only look at the mean. None: make the edited map of every head.
        """
        return None


class AttentionControl:
    """Installs attention edits for the length of a run; a `Control` of the sampling loop."""

    def __init__(self, edits: Sequence[AttentionEdit]) -> None:
        self.edits = tuple(edits)
        self._step: Step | None = None
        self._layout: Layout | None = None
        self._conditional: Layout | None = None
        self._at: dict[str, list[AttentionEdit]] = {}  # by site
        self._acting: dict[str, list[AttentionEdit]] = {}  # of these, at this step

    @property
    def reads_unconditional(self) -> bool:
        return any("uncond" in edit.guidance for edit in self.edits)

    @contextmanager
    def installed(self, model: Model, layout: Layout) -> Iterator[AttentionControl]:
        """Takes over the selected sites inside the block; the model is left as found, also when the block raises.

        Raises:
            ModelError: An edit finds no site to act on, so it would silently do nothing.
        """
        sites = model.sites(layout.latent_size)
        for edit in self.edits:
            edit.begin(layout, sites)
        selected = {site.name: [edit for edit in self.edits if edit.selects(site)] for site in sites}
        for edit in self.edits:
            if not any(edit in edits for edits in selected.values()):
                raise ModelError(
                    f"{type(edit).__name__} finds no attention layer to act on in {model.name!r} at latents of"
                    f" {layout.latent_size[0]}x{layout.latent_size[1]} ({len(sites)} layers looked at)"
                )
        self._layout, self._conditional, self._at = layout, layout.conditional, selected
        sources = [site for site in sites if any(edit.sets_source for edit in selected[site.name])]
        kernels = [site for site in sites if not all(edit.sets_source for edit in selected[site.name])]
        try:
            with ExitStack() as stack:
                stack.enter_context(model.kernel_hook(self, kernels))
                stack.enter_context(model.source_hook(self.source, sources))
                yield self
        finally:
            self._step, self._layout, self._conditional, self._at, self._acting = None, None, None, {}, {}

    def acts(self, step: Step) -> bool:
        return any(edit.active(step) and not edit.observes for edit in self.edits)

    def at_step(self, step: Step) -> None:
        self._step = step
        for edit in self.edits:
            edit.at_step(step)
        self._acting = {name: [edit for edit in edits if edit.active(step)] for name, edits in self._at.items()}

    def wants(self, site: AttentionSite) -> bool:
        return len(self._active(site)) > 0  # not `bool`, which torch 2.10 cannot compile

    def _active(self, site: AttentionSite, *, sets_source: bool = False) -> list[AttentionEdit]:
        assert self._step is not None, "at_step must be called before the network is"
        return [edit for edit in self._acting[site.name] if edit.on and edit.sets_source == sets_source]

    @property
    def _now(self) -> tuple[Step, Layout]:
        assert self._layout is not None, "the control must be installed"
        assert self._step is not None, "at_step must be called before the network is"
        return self._step, self._layout

    def source(self, site: AttentionSite, hidden_states: Tensor) -> Tensor:
        """What keys and values are projected from, after the edits that exchange it, (rows, tokens, dim)."""
        step, layout = self._now
        edits = self._active(site, sets_source=True)
        if not edits:
            return hidden_states
        split = layout.view(hidden_states)
        for edit in edits:
            rows = _rows(edit.guidance, layout.guidance)
            split = _put(split, rows, edit.edit_source(split[rows], site, step))
        return layout.rows(split)

    def attend(self, call: KernelCall) -> Tensor:
        _, layout = self._now
        edits = self._active(call.site)
        unseen = len(call.query) - len(layout.branches) * layout.images  # unconditional rows
        if unseen == 0 or any("uncond" in edit.guidance for edit in edits):
            return layout.rows(self._attended(call, edits, layout))
        rest, seen, of_seen = call.rows(slice(0, unseen)), call.rows(slice(unseen, None)), self._conditional
        assert of_seen is not None, "the control must be installed"
        plain = F.scaled_dot_product_attention(rest.query, rest.key, rest.value, attn_mask=rest.mask, scale=rest.scale)
        return torch.cat([plain, of_seen.rows(self._attended(seen, edits, of_seen))])

    def _attended(self, call: KernelCall, edits: Sequence[AttentionEdit], layout: Layout) -> Tensor:
        """The kernel's output, axes (guidance, branch, image, heads, ...)."""
        step, site = self._now[0], call.site
        query, key, value, mask = self._edited(call, edits, layout)
        mapped = [edit for edit in edits if edit.needs_map]
        mixing = [edit for edit in edits if edit.mixes_outputs]
        names = tuple(name for name in layout.guidance if any(name in edit.guidance for edit in mapped))
        mixed = tuple(name for name in layout.guidance if any(name in edit.guidance for edit in mixing))
        assert len(mixing) <= 1, "one edit at a time mixes attention outputs"
        assert not set(names) & set(mixed), "a row whose outputs are mixed has no softmax map to edit"

        parts = {}
        for of in (tuple(name for name in layout.guidance if name not in (*names, *mixed)), names, mixed):
            rows = _rows(of, layout.guidance)
            if rows.stop == rows.start:
                continue
            given, part_mask = _parts((query, key, value), rows), None if mask is None else mask[rows]
            if of == names:
                plain = part_mask is None and site.image_keys is None
                if plain and (output := _without_edited_maps(mapped, given, call, step)) is not None:
                    parts[rows.start] = output
                    continue
                before = maps = layout_map(*given[:2], part_mask, call.scale, site)
                for edit in mapped:
                    within = _rows(edit.guidance, names)
                    part = maps if within == slice(0, len(maps)) else maps[within]
                    edited = edit.edit_maps(part, site, step)
                    maps = maps if edited is part else _put(maps, within, edited)
                parts[rows.start] = with_layout_map(before, maps, given, part_mask, call.scale, site)
            elif of == mixed:
                attend = partial(attended, mask=part_mask, scale=call.scale)
                parts[rows.start] = mixing[0].attention(*given, attend, site, step)
            else:
                parts[rows.start] = attended(*given, part_mask, call.scale)
        return torch.cat([parts[start] for start in sorted(parts)]) if len(parts) > 1 else parts[0]

    def _edited(
        self, call: KernelCall, edits: Sequence[AttentionEdit], layout: Layout
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Query, key, value and the mask of the scores after the edits, axes (guidance, branch, image, heads, ...)."""
        step, _ = self._now
        query, key, value = (layout.view(tensor) for tensor in (call.query, call.key, call.value))
        mask = call.mask
        if mask is not None:
            mask = layout.view(mask.expand(len(call.query), *mask.shape[1:]))
        for edit in edits:
            if not _reaches_scores(edit):
                continue
            rows = _rows(edit.guidance, layout.guidance)
            given = _parts((query, key, value), rows)
            edited = edit.edit_qkv(*given, call.site, step)
            query, key, value = (
                whole if new is old else _put(whole, rows, new)
                for whole, old, new in zip((query, key, value), given, edited, strict=True)
            )
            added = edit.score_bias(*edited[:2], call.site, step)
            if added is not None:
                bias = query.new_zeros(*layout.axes, *added.shape[3:])
                bias = _put(bias, rows, added.expand(rows.stop - rows.start, *layout.axes[1:], *added.shape[3:]))
                mask = bias if mask is None else mask + bias
        return query, key, value, mask


def _without_edited_maps(
    mapped: Sequence[AttentionEdit], given: tuple[Tensor, Tensor, Tensor], call: KernelCall, step: Step
) -> Tensor | None:
    """The output of a layer that looks at text alone, where its edit can do without the edited map of every head."""
    first, others = mapped[0], mapped[1:]
    if not others:
        return first.without_map(*given, partial(attended, mask=None, scale=call.scale), call.site)
    if not all(edit.sees_mean and edit.guidance == first.guidance for edit in others):
        return None
    make = partial(layout_map, mask=None, scale=call.scale, site=call.site)
    made = first.with_mean_map(*given, make, call.site, step)
    if made is None:
        return None
    output, mean = made
    for edit in others:
        edit.edit_maps(mean, call.site, step)
    return output


def _reaches_scores(edit: AttentionEdit) -> bool:
    """Whether it acts before the softmax."""
    kind = type(edit)
    return kind.edit_qkv is not AttentionEdit.edit_qkv or kind.score_bias is not AttentionEdit.score_bias


def _rows(names: tuple[str, ...], axis: tuple[str, ...]) -> slice:
    """The slice of a guidance axis that holds these names, as far as it has them."""
    present = [axis.index(name) for name in names if name in axis]
    return slice(present[0], present[-1] + 1) if present else slice(0, 0)


def _parts(whole: tuple[Tensor, Tensor, Tensor], rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """These rows of three tensors; the tensors themselves where that is all."""
    query, key, value = whole
    if rows.start == 0 and rows.stop == len(query):
        return whole
    return query[rows], key[rows], value[rows]


def _put(whole: Tensor, rows: slice, part: Tensor) -> Tensor:
    """`whole` with these rows exchanged; no copy when all are."""
    if rows.start == 0 and rows.stop == len(whole):
        return part
    return torch.cat([whole[: rows.start], part, whole[rows.stop :]])
