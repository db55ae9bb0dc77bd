"""Single layers of the network, called by themselves."""

from typing import Any

from torch import Tensor

from sfumato.models.base import Model


def attention_output(model: Model, layer_name: str, hidden: Tensor, text: Tensor | None = None) -> Tensor:
    """Output of an attention layer, residual not added, (rows, tokens, dim).

    Args:
        model: A Stable Diffusion.
        layer_name: Module path.
        hidden: What queries come from, already normalised, (rows, tokens, dim).
        text: What keys and values come from in cross-attention; None: the same.
    """
    network: Any = model.unet  # type: ignore[attr-defined]
    output: Tensor = network.get_submodule(layer_name)(hidden, encoder_hidden_states=text)
    return output
