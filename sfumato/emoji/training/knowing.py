"""What words must know of their scene: a second, cheap task of the text encoder in training.

A caption is read from left to right, so "fox" knows its tint, and "left of" knows that a fox is on the left, only if
the text encoder carries it there. The error of the velocity asks for this so faintly that relations were never learned.
A linear probe asks for it outright: from the embedding of a thing's name, and of the relation after it, it tells which
thing this is, its tint and its place. The probe is thrown away after the training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.emoji.scenes import TINTS, Scene, World
from sfumato.emoji.training.attention import ROLES

KNOWING = [ROLES.index("name"), ROLES.index("relation")]
PLACE_WEIGHT = 8.0
"""Weight of a squared distance, in shares of the canvas."""


class Probe(nn.Module):
    """Tells things from embeddings of words.

    Args:
        width: Channels of the text encoder.
        world: Its concepts are told apart.
    """

    def __init__(self, width: int, world: World) -> None:
        super().__init__()
        self._concepts = {concept.name: number for number, concept in enumerate(world.concepts)}
        self._tints = {tint: number for number, tint in enumerate((None, *TINTS))}
        self.head = nn.Linear(width, len(self._concepts) + len(self._tints) + 2)

    def loss(self, embeds: Tensor, share: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """How badly it tells the things of captions.

        Args:
            embeds: Of the captions, (batch, tokens, width).
            share: Which tokens are a thing's words, (batch, roles, things, tokens), see `Encoder.encode`.
            scenes: What the captions tell of.

        Returns:
            A scalar: cross-entropies of concept and tint and the weighted squared distance of the centre, in the mean
            over words; 0 where no word tells of a thing.
        """
        share = share[:, KNOWING]
        rows, roles, things = share.sum(-1).nonzero(as_tuple=True)
        if not len(rows):
            return embeds.sum() * 0
        words = torch.einsum("nt,ntw->nw", share[rows, roles, things], embeds[rows].float())
        sizes = [len(self._concepts), len(self._tints), 2]
        concept, tint, place = self.head(words).split(sizes, dim=1)
        told = [scenes[row].things[thing] for row, thing in zip(rows.tolist(), things.tolist(), strict=True)]
        concepts = torch.tensor([self._concepts[thing.concept] for thing in told], device=embeds.device)
        tints = torch.tensor([self._tints[thing.tint] for thing in told], device=embeds.device)
        places = torch.tensor([[thing.x - 0.5, thing.y - 0.5] for thing in told], device=embeds.device)
        far = (place - places).square().sum(1).mean()
        loss: Tensor = F.cross_entropy(concept, concepts) + F.cross_entropy(tint, tints) + PLACE_WEIGHT * far
        return loss
