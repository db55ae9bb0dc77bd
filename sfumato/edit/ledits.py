r"""LEDITS++ (Brack et al., 2023), https://arxiv.org/abs/2311.16711: editing by concepts with implicit masks.

The source is replayed from its inversion, and each concept adds its own guidance to the prediction, where its mask
allows it,

.. math:: \epsilon = \epsilon_{source} + \sum_i M_i\, s_i\, (\epsilon_{c_i} - \epsilon_{\varnothing}),
          \qquad M_i = M_i^{attention} \cap M_i^{noise},

M^attention being where the concept's words look and M^noise where its guidance is strong, each the part above a
quantile of itself.

Differs from the paper: DDIM or its stochastic form instead of second-order DPM-Solver++; the base of the sum is the
guided prediction under the source prompt that the inversion was made with, so that without concepts the picture comes
back; without concepts being named, one is made of the two prompts, the step from source to target; attention maps are
those of all steps so far, at the resolution closest to 16x16. Our quantile, 0.3, suits the 16x16 latents of the
embedded model, where things fill the picture; the paper's lie near 0.9 for small things in 64x64 latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.attention import align
from sfumato.attention.cross import CrossAttentionMaps
from sfumato.attention.patch import AttentionControl
from sfumato.edit.result import Edited
from sfumato.errors import UsageError
from sfumato.inversion.drawn import with_trajectory
from sfumato.inversion.noise_maps import first_step
from sfumato.inversion.result import Inversion
from sfumato.models.base import Condition, Model, Tokenizer
from sfumato.registry import Option, method
from sfumato.samplers.loop import Branch, Layout, OnStep, sample
from sfumato.samplers.rows import Row, Rows
from sfumato.samplers.watch import Watch
from sfumato.schedules import Step


@dataclass(frozen=True)
class _Concept:
    """One term of the sum, by the names of its rows: scale (prediction of `row` - that of `contrast`).

    Attributes:
        edit: Index of the edited branch.
        row, contrast: Row names.
        scale: Negative: away from the concept.
        looks: Rows and the tokens, (token,), whose attention makes the mask.
    """

    edit: int
    row: str
    contrast: str
    scale: float
    looks: tuple[tuple[str, Tensor], ...]


@method(
    "ledits",
    title="LEDITS++",
    paper="Brack et al., 2023, https://arxiv.org/abs/2311.16711",
    summary="Adds or removes concepts, each inside a mask that the model finds by itself while it runs.",
    when="Several small edits at once, each where it belongs, on a picture that must come back exactly elsewhere.",
    cost="3 evaluations a step that is run (5 with a guided source), one more a named concept; plus the inversion's.",
    inversions=("edit-friendly", "dpm-encoder", "ddim", "fixed-point"),
    refuses={
        "direct": "it pins the source alone, so the edited picture would drift from it also where no mask allows it",
        "null-text": "concepts are added to the plain guided prediction, which tuned embeddings are not made for",
    },
)
def ledits(
    model: Model,
    source: Inversion,
    *,
    source_prompt: str,
    target_prompts: Sequence[str],
    negative_prompt: str = "",
    guidance_scale: float = 7.5,
    source_guidance_scale: float | None = None,
    generator: torch.Generator | None = None,
    on_step: Sequence[OnStep] = (),
    watch: Watch | None = None,
    concepts: Annotated[
        Mapping[str, float] | None,
        Option(
            "words to add (above 0) or to take away (below 0), each with its share of the guidance, instead of going"
            " from the source prompt to the target prompt"
        ),
    ] = None,
    masks: Annotated[
        Literal["both", "attention", "noise", "none"],
        Option("what limits an edit: where its words look, where its guidance is strong, both, or nothing"),
    ] = "both",
    quantile: Annotated[
        float, Option("share of the picture that each mask leaves alone: large for small things", low=0, high=0.99)
    ] = 0.3,
    strength: Annotated[
        float, Option("share of the steps that is run: small stays close to the picture, 0 is itself", low=0, high=1)
    ] = 0.9,
) -> Edited:
    """Edits from given noise, latent to latent.

    Costs, for each of the int(strength steps) steps that are run and each image, 1 + 2 targets network evaluations with
    an unguided source, 2 + 3 targets with a guided one. With named concepts 1 + 2 targets, plus one a concept and
    target, and one more for a guided source; for a drawn source those of drawing it where strength is below 1.

    Args:
        model: Any model with cross-attention on text.
        source: An inversion with its trajectory and, for the stochastic ones, noise maps; or drawn noise.
        source_prompt: What the picture shows.
        target_prompts: One or more edited prompts, done in one batch. With named concepts they only name the branches.
        negative_prompt: What the guidance of the source and of named concepts leads away from.
        guidance_scale: s, of every concept times its share.
        source_guidance_scale: Of the source prompt, in all branches; None: that of the inversion, or of a drawn source
            `guidance_scale`.
        generator: Not used: nothing is drawn but what the inversion holds.
        on_step: Called after every step.
        watch: Progress, previews, cancellation.
        concepts, masks, quantile, strength: see their `Option`.

    Returns:
        Branches "source", "target" ("target-1", ... when several), and the union of each edit's masks at the last step.

    Raises:
        UsageError: An option out of range, or an empty concept.
        InversionError: The inversion does not hold the timesteps that are run.
    """
    targets, steps = list(target_prompts), len(source.timesteps)
    start = first_step(strength, steps, at_least=0)
    names = ("source", *(["target"] if len(targets) == 1 else [f"target-{k + 1}" for k in range(len(targets))]))
    drawn = source.trajectory is None
    own = (
        (guidance_scale if drawn else source.guidance_scale) if source_guidance_scale is None else source_guidance_scale
    )
    if concepts is not None and not all(concept.strip() for concept in concepts):
        raise UsageError("a concept is empty: name what to add or to take away, e.g. {'a hat': 1}")

    texts = list(dict.fromkeys([source_prompt, negative_prompt, *targets, *(concepts or ())]))
    encoded = model.encode_prompt(texts)
    told = {text: encoded[[row]] for row, text in enumerate(texts)}
    rows, terms = _plan(model.tokenizer, told, source_prompt, negative_prompt, targets, concepts, own, guidance_scale)
    branch = Branch(told[source_prompt], told[negative_prompt], own)
    if drawn and start > 0:
        source = with_trajectory(model, source, branch, watch=watch)
    if start == steps:
        return Edited(source.clean.expand(len(names), *source.clean.shape), names)

    maps = CrossAttentionMaps().choose(model.attention_sites((source.noise.shape[-2], source.noise.shape[-1])))
    control = rows.under(AttentionControl([maps]))
    shown: dict[int, Tensor] = {}

    def guide(model: Model, latents: Tensor, step: Step, _: Condition, scales: Tensor, layout: Layout) -> Tensor:
        output = dict(zip([row.name for row in rows.rows], rows.predict(model, latents, step.t), strict=True))
        guided = []
        for k in range(len(names)):
            base = output[f"base-{k}"]
            if own != 1.0:
                base = output[f"negative-{k}"] + own * (base - output[f"negative-{k}"])
            guided.append(base)
        shown.clear()
        for term in terms:
            guidance = term.scale * (output[term.row] - output[term.contrast])
            mask = _mask(guidance, term, rows, maps, masks, quantile)
            guided[term.edit] = guided[term.edit] + mask[:, None] * guidance
            shown[term.edit] = torch.maximum(shown.get(term.edit, mask), mask)
        return torch.stack(guided)

    latents = sample(
        model,
        source.noise if source.trajectory is None else source.latents_at(source.timesteps[start]),
        {name: Branch(told[source_prompt]) for name in names},
        timesteps=source.timesteps,
        start_index=start,
        eta=source.eta,
        replay=source,
        controls=[] if masks in ("noise", "none") else [control],
        on_step=on_step,
        guide=guide,
        watch=watch,
    )
    return Edited(latents, names, mask=torch.stack([shown[k] for k in sorted(shown)]) > 0.5 if shown else None)


def _plan(
    tokenizer: Tokenizer,
    told: Mapping[str, Condition],
    source_prompt: str,
    negative_prompt: str,
    targets: Sequence[str],
    concepts: Mapping[str, float] | None,
    source_scale: float,
    scale: float,
) -> tuple[Rows, list[_Concept]]:
    """The rows of every network call, and the terms of the sum over them."""
    rows, terms = [], []
    for k in range(1 + len(targets)):
        rows.append(Row(f"base-{k}", k, told[source_prompt]))
        if source_scale != 1.0 or (concepts and k > 0):
            rows.append(Row(f"negative-{k}", k, told[negative_prompt]))
    for k, target in enumerate(targets, start=1):
        if concepts is None:
            rows.append(Row(f"target-{k}", k, told[target]))
            looks = [(f"target-{k}", target, _new_words(target, source_prompt))]
            looks.append(("base-0", source_prompt, _new_words(source_prompt, target)))
            tokens = tuple((row, align.indicator(tokenizer, text, words)) for row, text, words in looks if words)
            terms.append(_Concept(k, f"target-{k}", f"base-{k}", scale, tokens))
            continue
        for number, (concept, share) in enumerate(concepts.items()):
            rows.append(Row(name := f"concept-{k}-{number}", k, told[concept]))
            words = align.indicator(tokenizer, concept, concept.split())
            terms.append(_Concept(k, name, f"negative-{k}", scale * share, ((name, words),)))
    return Rows(rows), terms


def _new_words(prompt: str, other: str) -> list[str]:
    """Words of a prompt that the other one lacks, without regard to case."""
    known = {word.lower() for word in align.words_of(other)}
    return [word for word in align.words_of(prompt) if word.lower() not in known]


def _mask(guidance: Tensor, term: _Concept, rows: Rows, maps: CrossAttentionMaps, kind: str, quantile: float) -> Tensor:
    """Where a term may act, 0 or 1, (image, height, width), for its guidance (image, channels, height, width)."""
    mask = torch.ones_like(guidance[:, 0])
    if kind in ("both", "attention") and term.looks:
        seen = [_above(_heat(maps, rows.index(row), words, guidance), quantile) for row, words in term.looks]
        mask = mask * torch.stack(seen).amax(dim=0)
    if kind in ("both", "noise"):
        mask = mask * _above(guidance.abs().sum(dim=1), quantile)
    return mask


def _heat(maps: CrossAttentionMaps, row: int, words: Tensor, like: Tensor) -> Tensor:
    """Attention to the words so far, slightly smoothed, (image, height, width) at latent size."""
    total = maps.average[row]  # (image, height, width, token)
    heat = (total[..., : len(words)] @ words.to(total))[:, None]
    line = torch.tensor([0.1065, 0.787, 0.1065]).to(heat)  # a Gaussian of standard deviation 0.5
    heat = F.conv2d(F.pad(heat, (1, 1, 1, 1), mode="replicate"), (line[:, None] * line)[None, None])
    return F.interpolate(heat, size=like.shape[-2:], mode="bilinear")[:, 0].to(like)


def _above(values: Tensor, quantile: float) -> Tensor:
    """1 where a value reaches the quantile of its picture, (image, height, width)."""
    bound = values.flatten(1).float().quantile(quantile, dim=1).to(values)
    return (values >= bound[:, None, None]).to(values)
