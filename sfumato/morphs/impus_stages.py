"""The stages that prepare an IMPUS morph (`impus.py`): embeddings, rank, adapters and noise, each kept in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from sfumato.adaptation.fine_tune import fine_tune
from sfumato.adaptation.lora import Lora, adapted, clamped_rank
from sfumato.adaptation.textual_inversion import textual_inversion
from sfumato.adaptation.training import Draws
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.fixed_point import fixed_point_inversion
from sfumato.models.base import Condition
from sfumato.morphs.rppd import Clamped, PathDiversity, Rule, path_diversity
from sfumato.morphs.task import MorphTask

SOLVED = 1e-3  # relative residual of a step of the fixed-point inversion: 60 dB
FAR_FROM_NORMAL = 0.3


@dataclass(frozen=True)
class Settings:
    """What the settings of the paper and those for a processor differ in; the names are those of the options."""

    text_iterations: int
    text_draws: int
    text_learning_rate: float
    lora_iterations: int
    lora_learning_rate: float
    end_guidance_scale: float
    inversion: Literal["ddim", "fixed-point"]
    inversion_steps: int | None

    def but(self, **options: Any) -> Settings:
        """The same, but for the options that are not None."""
        return replace(self, **{name: value for name, value in options.items() if value is not None})


SETTINGS = {
    "paper": Settings(
        text_iterations=2500,
        text_draws=1,
        text_learning_rate=2e-3,
        lora_iterations=150,
        lora_learning_rate=1e-3,
        end_guidance_scale=1.5,
        inversion="ddim",
        inversion_steps=250,
    ),
    "quick": Settings(
        text_iterations=60,
        text_draws=2,
        text_learning_rate=1e-2,
        lora_iterations=30,
        lora_learning_rate=3e-4,
        end_guidance_scale=1.0,
        inversion="fixed-point",
        inversion_steps=None,
    ),
}


class Stages:
    """The stages of the preparation, each kept in the store by all that it depends on.

    Attributes:
        record, notes: What was found, for the recipe and for the user.
    """

    def __init__(self, task: MorphTask, chosen: Settings, draws: Sequence[Draws]) -> None:
        self.task, self.chosen, self.draws = task, chosen, draws
        self.record: dict[str, object] = {}
        self.notes: list[str] = []
        self._text: dict[str, Any] = {}

    def embeddings(self, prompts: Sequence[str], placeholder: str | None, learned: Tensor | None) -> Condition:
        """Two rows."""
        chosen, draws = self.chosen, self.draws[0]
        self._text = {
            "start": list(prompts),
            "placeholder": placeholder,
            "iterations": chosen.text_iterations,
            "learning_rate": chosen.text_learning_rate,
            "draws": [draws.seed, draws.count],
        }
        learned_text = textual_inversion(
            self.task.model, self.task.ends.latents, self.task.model.encode_prompt(prompts),
            iterations=chosen.text_iterations, learning_rate=chosen.text_learning_rate, draws=draws, learned=learned,
            slot=self.task.slot("embeddings", self._text), watch=self.task.watch.during("learning the embeddings"),
        )  # fmt: skip
        self.record["start_prompts"] = list(prompts)
        return learned_text.condition

    def inverted(self, text: Condition, lora: Lora | None) -> Tensor:
        """Noise of both images, (2, channels, height, width)."""
        steps = self.chosen.inversion_steps or self.task.num_inference_steps
        task = replace(self.task.inversion(), condition=text, num_inference_steps=steps)
        with adapted(self.task.model, lora):
            if self.chosen.inversion == "ddim":
                return ddim_inversion(task).noise
            return fixed_point_inversion(task, tolerance=SOLVED).noise

    def rank(self, text: Condition, rule: Rule) -> int:
        """By the rule, not yet clamped."""
        task, ends_scale = self.task, self.chosen.end_guidance_scale
        key = {
            "text": self._text,
            "negative": task.negative_prompt,
            "guidance": [task.guidance_scale, ends_scale],
            "steps": [task.num_inference_steps, self.chosen.inversion, self.chosen.inversion_steps],
            "distance": task.distance.name,
        }
        slot = task.slot("path-diversity", key)
        diversity = None if slot is None else PathDiversity.kept(slot)
        if diversity is None:
            diversity = path_diversity(
                task.model, self.inverted(text, None), text, Clamped(task.distance), negative=task.negative,
                guidance_scale=task.guidance_scale, end_guidance_scale=ends_scale,
                num_inference_steps=task.num_inference_steps, watch=task.watch,
            )  # fmt: skip
            if slot is not None:
                diversity.keep(slot)
        rank = diversity.rank(rule)
        self.record |= {"rppd": diversity.rppd(rule), "rank_rule": rule, "rank_asked": rank}
        return rank

    def clamped(self, rank: int) -> int:
        rank, note = clamped_rank(self.task.model, rank, chosen=True)
        self.notes += [note] if note else []
        self.record["rank"] = rank
        return rank

    def adapter(self, stage: str, condition: Condition, rank: int, iterations: int, *, draws: int) -> Lora | None:
        """One adapter for both images; None where none is asked for."""
        if rank == 0 or iterations == 0:
            return None
        drawn = self.draws[draws]
        key = {
            "told": self.task.negative_prompt if condition is self.task.negative else self._text,
            "rank": rank,
            "iterations": iterations,
            "learning_rate": self.chosen.lora_learning_rate,
            "draws": [drawn.seed, drawn.count],
        }
        tuned = fine_tune(
            self.task.model, self.task.ends.latents, condition,
            [Lora.fresh(self.task.model, rank, generator=torch.Generator().manual_seed(drawn.seed - 1))],
            iterations=iterations, learning_rate=self.chosen.lora_learning_rate, draws=drawn,
            slot=self.task.slot("adapter", key), watch=self.task.watch.during(stage),
        )  # fmt: skip
        return tuned.lora

    def notes_of(self, noise: Tensor) -> tuple[str, ...]:
        """All notes, and one where an inversion did not come to standard normal noise."""
        variances = noise.flatten(1).var(dim=1).tolist()
        self.record["variances"] = [round(variance, 4) for variance in variances]
        note = "the noise of an image has variance {} where 1 is normal, so frames may turn out {}"
        if low := [f"{variance:.2f}" for variance in variances if variance < 1.0 - FAR_FROM_NORMAL]:
            self.notes.append(note.format(", ".join(low), "soft: take inversion=fixed-point, or more steps"))
        if high := [f"{variance:.2f}" for variance in variances if variance > 1.0 + FAR_FROM_NORMAL]:
            self.notes.append(note.format(", ".join(high), "overdone: take fewer encode_steps"))
        return tuple(self.notes)
