"""Edit directions: what to add to the embedding of a prompt so that it says "dog" where it said "cat".

Source: Parmar et al., 2023, https://arxiv.org/abs/2302.03027, section 3.1: the mean text embedding of many sentences
with the target word, less that of many sentences with the source word, token position by token position, padding
included.

Differs from the authors' code: any source of sentences; blank lines are no sentences; saved as safetensors under the
fingerprint of the text encoder, and refused on another one; directions can be added, scaled and chained.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato import checks
from sfumato.conditions.align import room, words_end
from sfumato.conditions.sentences import Writer, template_sentences
from sfumato.errors import DirectionError, UsageError
from sfumato.json_input import check_fields
from sfumato.models.base import Condition, Model
from sfumato.tensorfile import Kind, is_kind, load_tensors, save_tensors

KIND = Kind("direction", "make one with `sfumato direction make` or Direction.save", "make it again", DirectionError)
_FIELDS: Mapping[str, checks.Check] = {
    **dict.fromkeys(("fingerprint", "source", "target", "name", "model"), checks.text),
    "sentences": partial(checks.listed, check=partial(checks.whole, low=0), fewest=2, most=2),
}
_BATCH = 32
MOST_SENTENCES = 100_000


@dataclass(frozen=True)
class Direction:
    """A difference of text embeddings, and whose embeddings they are.

    Attributes:
        shift: The difference of two conditions, one row of one chunk of text, float32.
        fingerprint: Of the text encoder, see `Model.text_fingerprint`.
        source, target: The words that it leads from and to; "" where arithmetic left no such words.
        name: In words, such as "cat -> dog".
        sentences: How many were averaged on either side; (0, 0) where arithmetic made it.
        model: Name of the model that it was made with.
    """

    shift: Condition
    fingerprint: str
    source: str
    target: str
    name: str
    sentences: tuple[int, int] = (0, 0)
    model: str = ""

    @property
    def embeds(self) -> Tensor:
        """The difference of what attention reads, (1, tokens of one chunk, dim)."""
        return self.shift.text

    def __str__(self) -> str:
        return f"direction {self.name} ({self.fingerprint})"

    def check(self, model: Model) -> None:
        """Refuses a model with another text encoder.

        Raises:
            DirectionError: Its fingerprint differs.
        """
        if self.fingerprint != model.text_fingerprint:
            raise DirectionError(
                f"the direction {self.name!r} belongs to the text encoder of {self.model or 'another model'}"
                f" ({self.fingerprint}), not to that of {model.name} ({model.text_fingerprint or 'none'}): make it"
                " again with this model"
            )

    def apply(self, condition: Condition, scale: float = 1.0) -> Condition:
        """Adds it to every row of a condition, to the first chunk of long prompts.

        Raises:
            DirectionError: The condition's embeddings have another shape.
        """
        (tokens, dim), (wanted, wanted_dim) = self.embeds.shape[1:], condition.text.shape[1:]
        extras, wanted_extras = _sizes(self.shift), _sizes(condition)
        if tokens > wanted or dim != wanted_dim or extras != wanted_extras:
            raise DirectionError(
                f"the direction {self.name!r} has {tokens} tokens of {dim} channels{extras}, the model's embeddings"
                f" {wanted} of {wanted_dim}{wanted_extras}: make it again with this model"
            )
        filled = F.pad(self.embeds, (0, 0, 0, wanted - tokens))
        return Condition.joined(
            [condition, self.shift.with_text(filled)], lambda pair: pair[0] + scale * pair[1].to(pair[0])
        )

    def __add__(self, other: Direction) -> Direction:
        """Both at once.

        Raises:
            DirectionError: They belong to different text encoders.
        """
        return self._with(other, 1.0, f"{self.name} + {other.name}")

    def __sub__(self, other: Direction) -> Direction:
        """This one without the other; raises as the sum does."""
        return self._with(other, -1.0, f"{self.name} - ({other.name})")

    def __mul__(self, factor: float) -> Direction:
        """The same, stronger, weaker or turned round."""
        factor = checks.number("factor", factor)
        return self._made(self.shift.each(lambda part: factor * part), name=f"{factor:g} ({self.name})")

    __rmul__ = __mul__

    def __neg__(self) -> Direction:
        """The way back."""
        back = f"{self.target} -> {self.source}" if self.source and self.target else f"-({self.name})"
        return self._made(self.shift.each(torch.neg), self.target, self.source, back)

    def then(self, other: Direction) -> Direction:
        """Chains cat -> dog and dog -> horse to cat -> horse.

        Raises:
            DirectionError: The other does not start where this one ends, or belongs to another text encoder.
        """
        if not self.target or self.target != other.source:
            raise DirectionError(
                f"{other.name!r} does not start where {self.name!r} ends: add them with + if you mean it"
            )
        whole = self + other
        return self._made(whole.shift, self.source, other.target, f"{self.source} -> {other.target}")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes one `.safetensors` file, whole or not at all.

        Raises:
            DirectionError: The folder does not exist or cannot be written, or the name ends otherwise.
        """
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "shift"}
        return save_tensors(path, {"embeds": self.embeds, **self.shift.extras}, plain, KIND)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Direction:
        """Reads what `save` wrote.

        Raises:
            DirectionError: The file is missing, damaged, or no direction.
        """
        tensors, values = load_tensors(path, KIND)
        what = f"the direction {path}"
        plain = check_fields(values, _FIELDS, what=what, remedy=KIND.again, error=DirectionError)
        embeds = tensors.pop("embeds", None)
        if embeds is None or embeds.ndim != 3:
            raise DirectionError(f"{what} is damaged (embeds is missing or no (1, tokens, dim)): {KIND.again}")
        for name, tensor in {"embeds": embeds, **tensors}.items():
            if tensor.ndim == 0 or len(tensor) != 1 or not tensor.is_floating_point():
                raise DirectionError(f"{what} is damaged ({name} is no row of numbers): {KIND.again}")
            if tensor.numel() == 0 or not bool(torch.isfinite(tensor).all()):
                raise DirectionError(f"{what} is damaged ({name} holds no finite numbers): {KIND.again}")
        return cls(Condition(embeds, tensors), **{**plain, "sentences": tuple(plain["sentences"])})

    @staticmethod
    def is_one(path: str | os.PathLike[str]) -> bool:
        """Whether a file says that it holds a direction, damaged or not."""
        return is_kind(path, KIND)

    def _with(self, other: Direction, factor: float, name: str) -> Direction:
        if self.fingerprint != other.fingerprint:
            raise DirectionError(f"{self.name!r} and {other.name!r} belong to different text encoders")
        shift = Condition.joined([self.shift, other.shift], lambda pair: pair[0] + factor * pair[1])
        return self._made(shift, name=name)

    def _made(self, shift: Condition, source: str = "", target: str = "", name: str = "") -> Direction:
        return Direction(shift, self.fingerprint, source, target, name, model=self.model)


def make_direction(model: Model, source: str, target: str, *, write: Writer | None = None) -> Direction:
    """Makes a direction between two words or phrases.

    Args:
        model: Whose text encoder is used.
        source, target: Such as "cat" and "dog".
        write: Writes the sentences for each; None: `template_sentences`.

    Raises:
        UsageError: A word is empty, or `write` is no function or does not return sentences.
    """
    for word, name in ((source, "source"), (target, "target")):
        checks.text(f"the {name} word of a direction", word, empty="give a word, such as 'cat'")
    if write is not None and (not callable(write) or isinstance(write, type)):
        raise checks.refuse("write", "a function from a word to sentences", write)
    written = [_written(write or template_sentences, word) for word in (source, target)]
    return direction_between(model, *written, source=source, target=target)


def _written(write: Writer, word: str) -> list[str]:
    sentences: object = write(word)
    if isinstance(sentences, str) or not isinstance(sentences, Iterable):
        raise checks.refuse(f"what write returns for {word!r}", "several sentences", sentences)
    return list(sentences)


def direction_between(
    model: Model,
    source_sentences: Sequence[str],
    target_sentences: Sequence[str],
    *,
    source: str = "",
    target: str = "",
) -> Direction:
    """Mean embedding of the target sentences less that of the source sentences.

    Args:
        model: Whose text encoder is used.
        source_sentences, target_sentences: At least one each; the banks may differ in size.
        source, target: What they are about, for the direction's name.

    Raises:
        UsageError: A bank is empty or holds a blank sentence.
    """
    checks.instance("model", model, Model, "a model from sfumato.load_model")  # type: ignore[type-abstract]
    for word, title in ((source, "source"), (target, "target")):
        checks.text(title, word)
    means = [mean_condition(model, sentences) for sentences in (source_sentences, target_sentences)]
    shift = Condition.joined(means, lambda pair: pair[1] - pair[0])
    counts = (len(source_sentences), len(target_sentences))
    name = f"{source or 'source'} -> {target or 'target'}"
    return Direction(shift, model.text_fingerprint, source, target, name, counts, model.name)


def mean_condition(model: Model, sentences: Sequence[str]) -> Condition:
    """Mean of the sentences' conditions, one row of one chunk of text, float32, on the CPU.

    A sentence longer than one chunk of the text encoder is cut there, with a warning.

    Raises:
        UsageError: There is no sentence, or a blank one.
    """
    sentences = checks.listed("the sentences of a direction", sentences, checks.text, most=MOST_SENTENCES)
    if not sentences or not all(sentence.strip() for sentence in sentences):
        raise UsageError(f"a bank needs sentences, none of them blank; got {len(sentences)}")
    text, count = model.text, len(sentences)
    if any(words_end(text, sentence) - text.start > room(text) for sentence in sentences):
        warnings.warn(f"sentences longer than {room(text)} tokens are cut there", stacklevel=2)
    sums = []
    for start in range(0, count, _BATCH):
        condition = model.encode_prompt(sentences[start : start + _BATCH])
        condition = condition.with_text(condition.text[:, : text.length])
        sums.append(condition.each(lambda tensor: tensor.double().sum(dim=0, keepdim=True).cpu()))
    return Condition.joined(sums, lambda parts: (torch.stack(parts).sum(dim=0) / count).float())


def _sizes(condition: Condition) -> str:
    """Sizes of what stands beside the text, in words."""
    sizes = {name: tuple(tensor.shape[1:]) for name, tensor in sorted(condition.extras.items())}
    return "".join(f" and {name} of {'x'.join(map(str, size))}" for name, size in sizes.items())
