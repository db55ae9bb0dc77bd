r"""LEDITS++ (Brack et al., 2023), https://arxiv.org/abs/2311.16711: adds and removes concepts inside implicit masks.

The source is replayed from its inversion, and each concept adds its own guidance to the prediction inside its mask,

.. math:: \epsilon = \epsilon_{source} + \sum_i M_i\, s_i\, (\epsilon_{c_i} - \epsilon_{\varnothing}),
          \qquad M_i = M_i^{attention} \cap M_i^{noise},

where M^attention is where the attention to the concept's words is high and M^noise where its guidance is strong, each
above a quantile of itself.

Differs from the paper: DDIM or its stochastic form instead of second-order DPM-Solver++; the base of the sum is the
guided prediction under the source prompt that the inversion was made with, so that without concepts the result is the
reconstruction; attention maps are those of all steps so far, at the resolution closest to 16x16. Where no concepts are
named, the target prompt is one, and replaces the source prompt inside its mask,

.. math:: \epsilon = (1 - M)\, \epsilon_{source}
          + M\, (\epsilon_{\varnothing} + s (\epsilon_c - \epsilon_{\varnothing})),

so that inside the mask it is the paper's prediction (guidance from the source to the target prompt on top of the source
oversaturates at a model's usual scale); M^noise is then where the predictions under the two prompts differ.

By default an attention mask counts only where it agrees with the guidance, see `masks`. In the embedded model it often
does not: attention to "yellow" of "a yellow background" is on the thing, not on the background. The default quantile
suits the 16x16 latents of that model, where things fill the image; the paper's are near 0.9, for small things in 64x64
latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.attention.cross import CrossAttentionMaps
from sfumato.attention.patch import AttentionControl
from sfumato.conditions import align
from sfumato.conditions.words import ReadOnce, pieces_of
from sfumato.edits.known_source import with_source
from sfumato.edits.method import edit_method
from sfumato.edits.noise_map_replay import fits_origin, reconstructed
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import UsageError
from sfumato.models.base import Condition, Model, TextSide
from sfumato.models.schedules import Step
from sfumato.options import Option
from sfumato.sampling.layout import Branch, Layout
from sfumato.sampling.rows import Row, Rows
from sfumato.sampling.shares import first_step, strength_notes


@dataclass(frozen=True)
class _Concept:
    """One term of the sum, by the names of its rows.

    Attributes:
        edit: Index of the edited branch.
        row: Name of the row whose condition is the concept.
        scale: Negative: away from the concept.
        replaces: Whether its guided prediction replaces the source's, rather than being added to it.
        looks: Rows and the tokens, (token,), whose attention makes the mask.
    """

    edit: int
    row: str
    scale: float
    replaces: bool
    looks: tuple[tuple[str, Tensor], ...]


@edit_method(
    "ledits",
    summary="Adds or removes concepts, each inside a mask that is found during the run.",
    when="Several small edits at once, each in its place, while the rest of the image must stay exactly as it is.",
    cost="4 evaluations a step that is run (5 with a guided source), plus the inversion's; from noise maps, with named"
    " concepts, 2 and one a concept (1 and one a concept where the source prompt is the negative prompt).",
    inversions=("edit-friendly", "dpm-encoder", "ddim", "fixed-point", "regularised-ddim"),
    refuses={
        "direct": "it corrects the source branch only, so the edited image would drift outside the masks too",
        "bdia": "it can only be replayed from the first step, and LEDITS++ skips the noisiest steps",
        "negative-prompt": "LEDITS++ needs the prediction under the empty prompt, and it uses the source prompt there",
        "null-text": "LEDITS++ needs the prediction under the empty prompt, and it uses tuned embeddings there",
    },
    guidance_interval=False,
    cache_interval=False,
)
def ledits(
    task: EditTask,
    *,
    concepts: Annotated[
        Mapping[str, float] | None,
        Option(
            "words to add (above 0) or to remove (below 0), each with a factor on the guidance scale; the target"
            " prompt is then not used; none: edit from the source prompt to the target prompt"
        ),
    ] = None,
    masks: Annotated[
        Literal["auto", "both", "attention", "noise", "none"],
        Option(
            "where an edit may act: attention (high attention to its words), noise (strong guidance), both (the"
            " paper's), none (everywhere), auto (both, but words with attention where guidance is weak are ignored)"
        ),
    ] = "auto",
    quantile: Annotated[
        float, Option("share of the image that each mask leaves out; raise it for small things", low=0, high=0.99)
    ] = 0.3,
    strength: Annotated[
        float,
        Option("share of the steps that are run; lower keeps more of the image, 0 returns it unchanged", low=0, high=1),
    ] = 0.9,
) -> LatentEdit:
    """Replays the source with the guidance of each concept added inside its mask.

    Costs, for each of the int(strength steps) steps that are run and each image, 1 + 2 targets network evaluations plus
    one a concept and target (without named concepts: one a target), and one more for a guided source; for a drawn
    source those of drawing it where strength is below 1. Where the source prompt is the negative prompt, each branch
    needs one evaluation less. Where no mask looks at the source, and its noise maps replay it exactly, it takes part in
    the last step alone.

    Args:
        task: From an inversion with its trajectory and, for the stochastic ones, noise maps; or from drawn noise. The
            model has cross-attention on text. With named concepts the target prompts only name the branches. Its
            guidance is that of every concept times its share; that of the source acts in all branches.
        concepts, masks, quantile, strength: See their `Option`.

    Returns:
        With the union of each edit's masks at the last step.

    Raises:
        UsageError: An option out of range, or an empty concept.
        InversionError: The inversion does not hold the timesteps that are run.
    """
    start = first_step(strength, task.num_steps)
    if concepts is not None and not all(concept.strip() for concept in concepts):
        raise UsageError("a concept is empty: name what to add or remove, such as {'a hat': 1}")
    source = task.source if start == 0 else task.with_latents
    if start == task.num_steps:
        return task.edited(source.clean)
    attentive = masks not in ("noise", "none")
    looks_at_source = attentive and concepts is None
    first = 0 if looks_at_source or source.noise_maps is None or not fits_origin(task) else 1
    rows, terms = _plan(task, concepts, first)
    guide = _ConceptGuidance(rows, terms, first, task.source_scale, masks, quantile)
    run = task if first == 0 else replace(task, on_step=[with_source(source, hook) for hook in task.on_step])
    latents = run.sample(
        source.noise if source.trajectory is None else source.latents_at(start),
        dict.fromkeys(task.names[first:], Branch(task.condition[[0]])),
        start_index=start,
        replay=source,
        controls=[rows.under(AttentionControl([guide.maps]))] if attentive else [],
        guide=guide,
    )
    end = reconstructed(task, task.source_branch) if first == 1 else None
    return task.edited(latents, source=end, mask=guide.mask, notes=strength_notes(strength, task.num_steps))


class _ConceptGuidance:
    """A `guide` of the loop: the guided source prediction, and the guidance of each concept inside its mask.

    Attributes:
        maps: Cross-attention so far, which makes the masks; filled where its control is installed.
    """

    def __init__(
        self, rows: Rows, terms: list[_Concept], first: int, source_scale: float, masks: str, quantile: float
    ) -> None:
        """Takes rows and terms of `_plan`, from the same first branch on."""
        self.rows, self.terms, self.first, self.source_scale = rows, terms, first, source_scale
        self.masks, self.quantile = masks, quantile
        self.maps = CrossAttentionMaps()
        self._union: dict[int, Tensor] = {}

    @property
    def mask(self) -> Tensor | None:
        """Union of each edit's masks at the last step, (edit, image, height, width); None without a concept."""
        return torch.stack([self._union[k] for k in sorted(self._union)]) > 0.5 if self._union else None

    def __call__(
        self, model: Model, latents: Tensor, step: Step, _: Condition, scales: Tensor, layout: Layout
    ) -> Tensor:
        names = [row.name for row in self.rows.rows]
        output = dict(zip(names, self.rows.predict(model, latents, step.time), strict=True))
        guided = {k: self._base(output, k) for k in range(self.first, self.first + len(latents))}
        self._union.clear()
        for term in self.terms:
            concept, negative = output[term.row], _negative(output, term.edit)
            guidance, contrast = term.scale * (concept - negative), negative
            if term.replaces:
                guidance, contrast = negative + guidance - guided[term.edit], output[f"base-{term.edit}"]
            strength = (concept - contrast).abs().sum(dim=1)
            mask = _mask(strength, term, self.rows, self.maps, self.masks, self.quantile)
            guided[term.edit] = guided[term.edit] + mask[:, None] * guidance
            self._union[term.edit] = torch.maximum(self._union.get(term.edit, mask), mask)
        return torch.stack(list(guided.values()))

    def _base(self, output: Mapping[str, Tensor], branch: int) -> Tensor:
        """The prediction under the source prompt, at the guidance scale of the source."""
        base = output[f"base-{branch}"]
        if self.source_scale == 1.0:
            return base
        negative = _negative(output, branch)
        return negative + self.source_scale * (base - negative)


def _negative(output: Mapping[str, Tensor], branch: int) -> Tensor:
    """The prediction under the negative prompt, which has no row of its own where that is the source prompt."""
    return output.get(f"negative-{branch}", output[f"base-{branch}"])


def _plan(task: EditTask, concepts: Mapping[str, float] | None, first: int) -> tuple[Rows, list[_Concept]]:
    """The rows of every network call, and the terms of the sum over them.

    `first` is the first branch that is run: 0, or 1 without the source.
    """
    text, scale = ReadOnce(task.model.text), task.guidance_scale
    source_prompt, condition = task.source_prompt, task.condition
    named: Mapping[str, Condition] = {}
    if concepts:
        encoded, empty = task.model.encode_prompt(list(concepts)), task.model.encode_prompt("")
        encoded, condition = Condition.equally_long([encoded, condition], empty)
        named = {concept: encoded[[row]] for row, concept in enumerate(concepts)}
    rows, terms = [], []
    one_text = condition[[0]].equals(condition[[-1]])
    for k in range(first, 1 + len(task.target_prompts)):
        rows.append(Row(f"base-{k}", k - first, condition[[0]]))
        if not one_text and (task.source_scale != 1.0 or k > 0):
            rows.append(Row(f"negative-{k}", k - first, condition[[-1]]))
    for k, target in enumerate(task.target_prompts, start=1):
        if concepts is None:
            rows.append(Row(f"target-{k}", k - first, condition[[k]]))
            looks = [(f"target-{k}", target, _new_words(text, target, source_prompt))]
            looks.append(("base-0", source_prompt, _new_words(text, source_prompt, target)))
            tokens = [(row, align.indicator(text, prompt, words)) for row, prompt, words in looks if words]
            looked_at = tuple((row, at) for row, at in tokens if bool(at.any()))  # else it would look everywhere
            if target != source_prompt:
                terms.append(_Concept(k, f"target-{k}", scale, True, looked_at))
            continue
        for number, (concept, share) in enumerate(concepts.items()):
            rows.append(Row(name := f"concept-{k}-{number}", k - first, named[concept]))
            words = align.indicator(text, concept, align.words_of(concept))
            terms.append(_Concept(k, name, scale * share, False, ((name, words),)))
    return Rows(rows), terms


def _new_words(text: TextSide, prompt: str, other: str) -> list[str]:
    """Words of a prompt that the other one lacks, without regard to case; in scripts without spaces letters."""
    known = {piece.key for piece in pieces_of(text, other)}
    return [piece.text for piece in pieces_of(text, prompt) if not piece.is_punctuation and piece.key not in known]


def _mask(strength: Tensor, term: _Concept, rows: Rows, maps: CrossAttentionMaps, kind: str, quantile: float) -> Tensor:
    """Where a term may act, 0 or 1, for the strength of its guidance; both (image, height, width)."""
    mask = torch.ones_like(strength)
    if kind in ("auto", "both", "attention") and term.looks:
        seen = [_above(_heat(maps, rows.index(row), words, strength), quantile) for row, words in term.looks]
        mask = torch.stack(seen).amax(dim=0)
        if kind == "auto":
            inside = (strength * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp(min=1)
            agrees = inside >= strength.mean(dim=(1, 2))
            mask = torch.where(agrees[:, None, None], mask, 1.0)
    if kind in ("auto", "both", "noise"):
        mask = mask * _above(strength, quantile)
    return mask


def _heat(maps: CrossAttentionMaps, row: int, words: Tensor, like: Tensor) -> Tensor:
    """Attention to the words so far, slightly smoothed, (image, height, width) at latent size."""
    total = maps.average[row]  # (image, height, width, token)
    heat = (total[..., : len(words)] @ words.to(total))[:, None]
    line = torch.tensor([0.1065, 0.787, 0.1065]).to(heat)  # a Gaussian of standard deviation 0.5
    heat = F.conv2d(F.pad(heat, (1, 1, 1, 1), mode="replicate"), (line[:, None] * line)[None, None])
    return F.interpolate(heat, size=like.shape[-2:], mode="bilinear")[:, 0].to(like)


def _above(values: Tensor, quantile: float) -> Tensor:
    """1 where a value reaches the quantile of its image, (image, height, width)."""
    bound = values.flatten(1).float().quantile(quantile, dim=1).to(values)
    return (values >= bound[:, None, None]).to(values)
