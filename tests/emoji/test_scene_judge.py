"""How the judge of scenes names what it sees."""

from __future__ import annotations

from pathlib import Path

import torch

from sfumato.emoji.scene_judge import CELLS, SceneJudge, named_together
from tests.emoji.toy_world import toy_atlas

APPLE, HEART, NOTHING = 0, 1, 2


Cells = tuple[slice, slice, tuple[float, float, float]]


def logits(*cells: Cells) -> torch.Tensor:
    """Logits of a grid in which nothing is seen but in these rectangles, by shares of apple, heart and nothing."""
    shares = torch.tensor([1e-6, 1e-6, 1.0]).view(1, 3, 1, 1).repeat(1, 1, CELLS, CELLS)
    for rows, columns, named in cells:
        shares[0, :, rows, columns] = torch.tensor(named).view(3, 1, 1)
    return shares.log()


def test_doubtful_cells_are_named_by_the_whole_thing() -> None:
    """Half of an apple may look like a heart: it is no second thing."""
    left, right = (slice(4, 9), slice(4, 7)), (slice(4, 9), slice(7, 9))
    named = named_together(logits((*left, (0.9, 0.1, 1e-6)), (*right, (0.4, 0.6, 1e-6))))[0]
    assert named[APPLE].sum() > 24 > 1 > named[HEART].sum()  # 25 cells


def test_things_apart_keep_their_own_names() -> None:
    """The evidence of one thing does not reach another."""
    one, other = (slice(2, 6), slice(1, 5)), (slice(9, 13), slice(10, 15))
    named = named_together(logits((*one, (0.8, 0.2, 1e-6)), (*other, (0.2, 0.8, 1e-6))))[0]
    assert named[APPLE, 2:6, 1:5].min() > 0.9
    assert named[HEART, 9:13, 10:15].min() > 0.9


def test_where_nothing_is_nothing_is_named() -> None:
    """Next to a thing, too: evidence says which thing, never whether one is there."""
    named = named_together(logits((slice(4, 8), slice(4, 8), (0.9, 0.1, 1e-6))))[0]
    assert named[:, 8:].max() < 1e-3


def test_a_judge_that_sees_nothing_finds_no_thing(tmp_path: Path) -> None:
    judge = SceneJudge(toy_atlas(tmp_path).world).eval()
    with torch.no_grad():
        judge.cells.bias[-1] = 50.0
    (seen,) = judge.look(torch.zeros(1, 3, 128, 128))
    assert seen.things == ()
