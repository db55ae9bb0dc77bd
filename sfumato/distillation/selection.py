"""Which pairs a student learns from: those in which the teacher did what was asked, changed enough, and not too much.

Nothing here knows the right answer: where a benchmark has one, it is for measuring alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.distillation.pairs import Pairs
from sfumato.errors import UsageError
from sfumato.judges.encoders import DualEncoder

_AT_ONCE = 32


@dataclass(frozen=True)
class Limits:
    """What a pair must be to be kept.

    Attributes:
        keep: Share of the pairs that is kept by agreement, in (0, 1]; the worst are left out.
        agreement: Least cosine between the change of the image and that of the text; None: no bound.
        least_change, most_change: Root mean squared difference of source and target, as share of the pixels' range.
        least_psnr: Of the source's reconstruction by the teacher, dB.
    """

    keep: float = 1.0
    agreement: float | None = None
    least_change: float = 0.02
    most_change: float = 0.6
    least_psnr: float = 20.0


@dataclass(frozen=True)
class Verdict:
    """What is known of a pair.

    Attributes:
        change: See `Limits`.
        agreement: Likewise; None where no encoder looked.
        psnr: Of the reconstruction, dB; None where it is not known.
        reason: Why it is left out; "" where it is kept.
    """

    change: float
    agreement: float | None = None
    psnr: float | None = None
    reason: str = ""


def judged(
    pairs: Pairs,
    prompts: Sequence[tuple[str, str]],
    psnrs: Sequence[float | None],
    limits: Limits,
    encoder: DualEncoder | None,
) -> list[Verdict]:
    """Looks at all pairs.

    Args:
        pairs: What the teacher made.
        prompts: Source and target prompt of each.
        psnrs: Of the reconstructions, dB.
        limits: What is kept.
        encoder: Of images and texts; None: agreement is not looked at.

    Raises:
        UsageError: The teacher changed nothing in any of them.
    """
    changes = [change_of(pairs, row) for row in range(len(pairs))]
    if pairs.names and max(changes) < limits.least_change:
        raise UsageError(
            f"the teacher changed nothing: of {len(pairs)} pairs the largest change is {max(changes):.4f}, below"
            f" {limits.least_change:g}; try the edit with `sfumato edit` first, with more guidance or another method;"
            " an edit that changes little needs a smaller least_change and unchanged"
        )
    agreements: list[float | None] = [None] * len(pairs)
    if encoder is not None:
        agreements = list(agreement_of(pairs, prompts, encoder).tolist())
    first = [
        Verdict(change, agreement, psnr, _reason(change, agreement, psnr, limits))
        for change, agreement, psnr in zip(changes, agreements, psnrs, strict=True)
    ]
    return _without_the_worst(first, limits.keep)


def change_of(pairs: Pairs, row: int) -> float:
    """How much the teacher changed, see `Limits`."""
    sources, targets = pairs.pixels([row])
    return float((targets - sources).square().mean().sqrt()) / 2.0


@torch.no_grad()
def agreement_of(pairs: Pairs, prompts: Sequence[tuple[str, str]], encoder: DualEncoder) -> Tensor:
    r"""Directional agreement of each pair, (pairs,), in [-1, 1].

    .. math:: \cos(E(y) - E(x), T(target) - T(source))

    Reference: Gal et al., 2022, https://arxiv.org/abs/2108.00946, as InstructPix2Pix selects its pairs.
    """
    found = []
    for start in range(0, len(pairs), _AT_ONCE):
        rows = list(range(start, min(start + _AT_ONCE, len(pairs))))
        before, after = (F.normalize(encoder.encode_image(pixels), dim=1) for pixels in pairs.pixels(rows))
        texts = [F.normalize(encoder.encode_text([prompts[row][side] for row in rows]), dim=1) for side in (0, 1)]
        found.append(F.cosine_similarity(after - before, texts[1] - texts[0], dim=1).cpu())
    return torch.cat(found)


def _reason(change: float, agreement: float | None, psnr: float | None, limits: Limits) -> str:
    if change < limits.least_change:
        return f"hardly changed ({change:.3f})"
    if change > limits.most_change:
        return f"changed too much ({change:.3f})"
    if psnr is not None and psnr < limits.least_psnr:
        return f"bad reconstruction ({psnr:.1f} dB)"
    if limits.agreement is not None and agreement is not None and agreement < limits.agreement:
        return f"another change than was asked for (agreement {agreement:.2f})"
    return ""


def _without_the_worst(verdicts: Sequence[Verdict], keep: float) -> list[Verdict]:
    """Leaves out those of least agreement, until a share of all is left."""
    ranked = sorted(
        (row for row, one in enumerate(verdicts) if not one.reason and one.agreement is not None),
        key=lambda row: (verdicts[row].agreement or 0.0, row),
    )
    worst = set(ranked[: max(0, len(ranked) - round(keep * len(verdicts)))])
    return [
        Verdict(one.change, one.agreement, one.psnr, f"among the worst (agreement {one.agreement:.2f})")
        if row in worst
        else one
        for row, one in enumerate(verdicts)
    ]
