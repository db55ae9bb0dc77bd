"""Features of one branch used in others: a decoder layer's output exchanged on its way.

Source: Tumanyan et al., 2022, https://arxiv.org/abs/2211.12572, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from sfumato.errors import ModelError
from sfumato.models.attention import AttentionSite
from sfumato.models.base import Model
from sfumato.models.schedules import Step
from sfumato.sampling.layout import Layout


class InjectFeatures:
    """All branches use branch 0's output of the named layers, for steps start <= index < end; a `Control` of the loop.

    Each guidance half takes the features of its own source row.
    """

    reads_unconditional = True

    def __init__(self, layer_names: Sequence[str], start: int, end: int) -> None:
        """Takes module paths, see `decoder_layers`, and the half-open window of steps."""
        self.layer_names, self.start, self.end = tuple(layer_names), start, end
        self._step: Step | None = None

    @contextmanager
    def installed(self, model: Model, layout: Layout) -> Iterator[InjectFeatures]:
        """Hooks the layers inside the block; the model is left as found, also when the block raises.

        Raises:
            ModelError: The network has no such layer.
        """

        def inject(layer_name: str, features: Tensor) -> Tensor:
            assert self._step is not None, "at_step must be called before the network is"
            if not self.acts(self._step):
                return features
            view = layout.view(features)  # (guidance, branch, image, channels, height, width)
            return layout.rows(view[:, :1].expand_as(view))

        try:
            with model.feature_hook(self.layer_names, inject):
                yield self
        finally:
            self._step = None

    def at_step(self, step: Step) -> None:
        self._step = step

    def acts(self, step: Step) -> bool:
        return self.start <= step.index < self.end


def decoder_layers(model: Model, latent_size: tuple[int, int]) -> tuple[str, tuple[AttentionSite, ...]]:
    """The layer whose features Plug-and-Play injects, and the self-attention it injects into.

    The paper's layer 4 of 12 in Stable Diffusion 1.x and 2.x is the second residual block of the first decoder stage
    that has attention; its residual branch before the shortcut is taken, and self-attention from there to the
    decoder's end. Said so, the rule holds for other topologies too: stage 1 of Stable Diffusion 1.x, stage 0 of SDXL,
    both at a quarter of the latents' side.

    Returns:
        Module path of the feature layer, and attention sites in execution order.

    Raises:
        ModelError: The network has no decoder stage of that form.
    """
    blocks = [block for block in model.decoder_blocks() if block.attention]
    first_stage = [block for block in blocks if block.stage == blocks[0].stage]
    if len(first_stage) < 2:
        raise ModelError(
            f"{model.name!r} has no decoder stage of two or more residual blocks with self-attention, so there is no"
            " layer whose features could be injected"
        )
    chosen = {name for block in blocks[1:] for name in block.attention}
    return first_stage[1].residual, tuple(site for site in model.sites(latent_size) if site.name in chosen)
