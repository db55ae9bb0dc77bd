"""Loading the model of a command, and what is added to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from sfumato.apps.console import note, say, working

if TYPE_CHECKING:
    from sfumato.models.base import Model

Added: TypeAlias = "Mapping[str, Any]"
"""LoRAs, embeddings and a VAE, as `load_model` takes them."""


def parts(lora: Sequence[Any] | None, embedding: Sequence[str] | None, vae: str | None, clip_skip: int | None) -> Added:
    """What is added to a model, as `load_model` takes it."""
    return {"lora": lora, "embeddings": embedding, "vae": vae, "clip_skip": clip_skip or 0}


def named(model: str | None, method: str | None, *, fast: bool, **where: str | None) -> tuple[str, str]:
    """The names of the model and of the method to take, either of which may be left out.

    Args:
        model, method: As the user named them.
        fast: Whether the edit is to be fast.
        where: The revision and the variant, as for `load_model`.

    Raises:
        ModelError: There is no such model.
    """
    from sfumato.api.fast import FEW_STEP_MODELS, METHOD
    from sfumato.edits.default_method import default_method

    name = model or "emoji"
    if fast:
        return FEW_STEP_MODELS.get(name, name), method or METHOD
    return name, method or default_method(name, **where)


def load(
    name: str,
    device: str | None,
    dtype: str | None,
    compile_: bool = False,
    offload: str | None = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    added: Added | None = None,
) -> Model:
    """Loads a model with what is added to it under a spinner, and says what was decided and where it runs."""
    with working(f"loading {name}"):
        from sfumato.models.loading import load_model

        model = load_model(
            name, device=device, dtype=dtype, revision=revision, variant=variant, compile=compile_,
            offload=offload, **(added or {}),
        )  # fmt: skip
    for text in model.notes:
        note(text)
    say(f"{model.name} on {model.device}, {str(model.dtype).removeprefix('torch.')}", "dim")
    return model
