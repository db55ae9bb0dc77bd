"""Energies by name, so that an option can name them on a command line.

What such an option takes:

- a name, `text-agreement`, at its own weight;
- a name and what it needs, `classifier:fox`;
- a table of names and weights, `{"text-agreement": 300, "stay-near": 0.01}`;
- an object, see `energies.Energy` and `energies.Expert`.

An energy may be of images or of clean latents; here each becomes one of clean latents, which decodes where needed. As
an expert (EGSDE) it is of the model's estimate of the clean latents at each step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.guidance.energies import (
    ClassLabel,
    CoarseDistance,
    Energy,
    Expert,
    FeatureSimilarity,
    LowPassDistance,
    OfImages,
    OnEstimate,
    Quadratic,
    TextAgreement,
)
from sfumato.judges.encoders import DualEncoder, dual_encoder
from sfumato.models.base import Condition, Model
from sfumato.models.prompt_syntax import plain_text
from sfumato.registry import unknown
from sfumato.sampling.draws import Generators

if TYPE_CHECKING:
    from sfumato.models.schedules import Step

Spec = str | Mapping[str, float] | Energy
ExpertSpec = str | Mapping[str, float] | Sequence[tuple[float, Expert]]
Use = Literal["guide", "rank", "expert"]


@dataclass(frozen=True)
class Rows:
    """What an energy may need to know of the rows that it judges.

    Attributes:
        model: Draws them.
        clean: Latents of the source's image, (row, channels, height, width).
        source_prompt: What that shows.
        target_prompts: What each row should show.
        encoder: Name of the dual encoder, see `dual_encoder`; None: the model's own.
        views: Random views an image for text agreement, see `TextAgreement`.
        generator: Draws the views, and the noises of prompt-gain.
    """

    model: Model
    clean: Tensor
    source_prompt: str
    target_prompts: Sequence[str]
    encoder: str | None = None
    views: int = 0
    generator: Generators = None

    @cached_property
    def dual_encoder(self) -> DualEncoder:
        """The dual encoder, loaded once."""
        return dual_encoder(self.model, self.encoder)

    @cached_property
    def decode(self) -> Callable[[Tensor], Tensor]:
        """Latents to pixels, (row, 3, H, W), once where several energies look at the same latents."""
        return _Decoder(self.model)

    @property
    def words(self) -> list[str]:
        """The target prompts without weights, as a judge of images reads them."""
        return [plain_text(prompt) for prompt in self.target_prompts]

    @cached_property
    def condition(self) -> Condition:
        """The target prompts, one row each."""
        return self.model.encode_prompt(list(self.target_prompts))


@dataclass(frozen=True)
class NamedEnergy:
    """An energy as `ENERGIES` knows it.

    Attributes:
        help: What it measures, in words that a user understands; the energy is low where that is small.
        make: From the rows and the text after the colon ("" without one) to an energy of clean latents; None: it is an
            expert only.
        weight: In Langevin guidance, where the user gives none.
        make_expert: From the same to an expert; None: `make`'s energy of the estimate.
        expert_weight: As an expert, where the user gives none.
        check: Refuses a text after the colon before anything heavy is done; None: there is none.
        uses: What it serves for.
    """

    help: str
    make: Callable[[Rows, str], Energy] | None
    weight: float = 1.0
    make_expert: Callable[[Rows, str], Expert] | None = None
    expert_weight: float = 1.0
    check: Callable[[str], object] | None = None
    uses: tuple[Use, ...] = ("guide", "rank", "expert")


def check_energy(use: Use) -> Callable[[object], None]:
    """A check of an option's value: an energy by name that serves this use, or an object with the right arguments.

    The returned function raises a `UsageError` that names the value, with the closest name that is known.
    """

    def check(value: object) -> None:
        if isinstance(value, str | Mapping):
            terms_of(value, use)
        elif isinstance(value, list | tuple):
            for _, expert in value:
                _check_call(expert, ("latents", "reference", "step"))
        elif value is not None:
            _check_call(value, ("images",))

    return check


def energies_of(spec: Spec, rows: Rows, use: Use = "guide") -> list[tuple[float, Energy]]:
    """(weight, energy) pairs, all of clean latents, (row, channels, height, width).

    Raises:
        UsageError: An unknown name, or an energy that needs an encoder where none is named.
        ModelError: The encoder cannot be loaded.
    """
    if not isinstance(spec, str | Mapping):
        return [(1.0, OfImages(spec, rows.decode))]
    made: list[tuple[float, Energy]] = []
    for weight, entry, text in terms_of(spec, use):
        assert entry.make is not None
        made.append((entry.weight if weight is None else weight, entry.make(rows, text)))
    return made


def experts_of(spec: ExpertSpec, rows: Rows) -> list[tuple[float, Expert]]:
    """(weight, expert) pairs for EGSDE; errors as `energies_of`."""
    if not isinstance(spec, str | Mapping):
        return list(spec)
    made: list[tuple[float, Expert]] = []
    for weight, entry, text in terms_of(spec, "expert"):
        if entry.make_expert is not None:
            expert = entry.make_expert(rows, text)
        else:
            assert entry.make is not None
            expert = OnEstimate(entry.make(rows, text), rows.model, rows.condition)
        made.append((entry.expert_weight if weight is None else weight, expert))
    return made


def terms_of(spec: str | Mapping[str, float], use: Use) -> list[tuple[float | None, NamedEnergy, str]]:
    """(weight or None, entry, text after the colon) of each name.

    Raises:
        UsageError: An unknown name, one that does not serve this use, a text that it does not take, or no name at all.
    """
    named = {spec: None} if isinstance(spec, str) else dict(spec)
    serving = {name: entry for name, entry in ENERGIES.items() if use in entry.uses}
    terms: list[tuple[float | None, NamedEnergy, str]] = []
    for written, weight in named.items():
        name, colon, text = (part.strip() for part in written.partition(":"))
        if name not in ENERGIES:
            raise UsageError(unknown("energy", name, list(serving)))
        if name not in serving:
            raise UsageError(f"energy {name} cannot be used here; use one of: {', '.join(serving)}")
        entry = ENERGIES[name]
        if entry.check is not None:
            entry.check(text)
        elif colon:
            raise UsageError(f"energy {name} takes nothing after its name, got {text!r}")
        terms.append((weight, entry, text))
    if not terms:
        raise UsageError(f"the table of energies is empty: known: {', '.join(serving)}")
    return terms


def names(use: Use) -> str:
    """The names that serve a use, for an option's help."""
    return ", ".join(f"{name} ({entry.help})" for name, entry in ENERGIES.items() if use in entry.uses)


def _text_agreement(rows: Rows, text: str) -> Energy:
    encoder = rows.dual_encoder
    embeds = encoder.encode_text([text] if text else rows.words)
    return OfImages(TextAgreement(encoder.encode_image, embeds, rows.views, rows.generator), rows.decode)


def _directional(rows: Rows, text: str) -> Energy:
    from sfumato.guidance.prompt_gain import DirectionalAgreement

    encoder = rows.dual_encoder
    with torch.no_grad():
        pixels = rows.decode(rows.clean)
    embeds = encoder.encode_text([plain_text(rows.source_prompt)]), encoder.encode_text(rows.words)
    return OfImages(DirectionalAgreement(encoder.encode_image, pixels, *embeds), rows.decode)


def _classifier(rows: Rows, text: str) -> Energy:
    from sfumato.emoji.judge import EmojiClassifier

    classifier = EmojiClassifier(text)
    return OfImages(ClassLabel(classifier, classifier.index), rows.decode)


def _prompt_gain(rows: Rows, text: str) -> Energy:
    from sfumato.guidance.prompt_gain import PromptGain

    return PromptGain(rows.model, rows.source_prompt, rows.target_prompts, generator=rows.generator)


def _domain(rows: Rows, text: str) -> Expert:
    from sfumato.emoji.judge import judge_features

    def features(latents: Tensor, step: Step) -> Tensor:
        return judge_features(rows.decode(OnEstimate.estimate(rows.model, rows.condition, latents, step)))

    return FeatureSimilarity(features)


def _check_text(text: str) -> None:
    pass


def _check_label(text: str) -> None:
    from sfumato.emoji.judge import labels

    if text not in labels():
        example = "say what the image should show, such as classifier:fox; " if not text else ""
        raise UsageError(f"energy classifier: {example}{unknown('label', text, labels())}")


def _check_cells(text: str) -> None:
    if text and not (text.isdecimal() and int(text) > 0):
        raise UsageError(f"energy low-pass takes a number of cells, at least 1, such as low-pass:8; got {text!r}")


def _cells(text: str) -> int:
    return int(text) if text else LowPassDistance().cells


ENERGIES: Final[Mapping[str, NamedEnergy]] = {
    "text-agreement": NamedEnergy(
        "how badly the image fits the target prompt, or another text: text-agreement:TEXT",
        _text_agreement, weight=300.0, expert_weight=300.0, check=_check_text,
    ),
    "directional-agreement": NamedEnergy(
        "how badly the change of the image fits the change of the prompts",
        _directional, uses=("rank",),
    ),
    "classifier": NamedEnergy(
        "how unlikely the embedded classifier finds a label, such as classifier:fox",
        _classifier, weight=30.0, expert_weight=10.0, check=_check_label,
    ),
    "stay-near": NamedEnergy(
        "half the squared distance from the source's latents",
        lambda rows, _: Quadratic(rows.clean),
    ),
    "low-pass": NamedEnergy(
        "as stay-near, after low-pass filtering; low-pass:8 for 8 cells a side",
        lambda rows, text: CoarseDistance(rows.clean, _cells(text)),
        make_expert=lambda rows, text: LowPassDistance(_cells(text)), check=_check_cells,
    ),
    "prompt-gain": NamedEnergy(
        "the model's denoising error under the target prompt, less that under the source prompt",
        _prompt_gain, uses=("rank",),
    ),
    "domain": NamedEnergy(
        "how similar the embedded classifier's features are to the source's",
        None, make_expert=_domain, expert_weight=200.0, uses=("expert",),
    ),
}  # fmt: skip
"""Every energy that has a name; the lower, the better. Default weights were chosen by eye on images of `emoji`."""


class _Decoder:
    """Decodes latents, and remembers the last ones."""

    def __init__(self, model: Model) -> None:
        self.model, self.last = model, (torch.empty(0), torch.empty(0))

    def __call__(self, latents: Tensor) -> Tensor:
        if self.last[0] is not latents:
            self.last = latents, self.model.decode_latents(latents)
        return self.last[1]


def _check_call(energy: object, given: tuple[str, ...]) -> None:
    name = getattr(energy, "__name__", type(energy).__name__)
    if not callable(energy):
        raise UsageError(f"energy {name} cannot be called: give a function or object that takes {', '.join(given)}")
    try:
        inspect.signature(energy).bind(*given)
    except TypeError as error:
        raise UsageError(f"energy {name} must take {', '.join(given)}, and nothing else is given: {error}") from None
    except ValueError:  # a builtin tells nothing of its arguments
        return
