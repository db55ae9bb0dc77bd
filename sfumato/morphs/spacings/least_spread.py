"""Chooses, of frames that are drawn already, those with the most even distances between neighbours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def least_spread(distances: npt.ArrayLike, count: int) -> list[int]:
    r"""Chooses frames, the first and last among them, with the least spread of neighbouring distances.

    .. math:: \min_{0 = i_0 < \dots < i_{n-1} = m-1} \; \max_k d(i_k, i_{k+1}) - \min_k d(i_k, i_{k+1})

    Exact: for each distance taken as the smallest allowed, a dynamic programme finds the choice whose largest one is
    least. He et al., 2024, https://arxiv.org/abs/2403.17924, bisect the spread instead and may miss the best.

    Args:
        distances: Of every pair, (frame, frame); the part above the diagonal is read. Pairs that are infinitely far
            apart are not taken for neighbours.
        count: How many are chosen, at least 2.

    Returns:
        Their places, ascending.

    Raises:
        ValueError: The table is not square, or does not have so many frames that can be neighbours.
    """
    table = np.array(distances, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not 2 <= count <= len(table):
        raise ValueError(f"cannot choose {count} frames by a table of shape {table.shape}")
    table[np.tril_indices(len(table))] = np.inf
    lowest, best = _least_largest(table, count)
    if not np.isfinite(lowest):
        raise ValueError(f"no {count} of {len(table)} frames are all neighbours")
    least = np.inf
    for smallest in np.unique(table[np.isfinite(table)]):
        if lowest - smallest >= least:
            continue  # the largest is never below `lowest`
        largest, places = _least_largest(np.where(table >= smallest, table, np.inf), count)
        if not np.isfinite(largest):
            break  # fewer and fewer pairs are allowed
        if largest - smallest < least:
            least, best = largest - smallest, places
    return best


def _least_largest(table: npt.NDArray[np.float64], count: int) -> tuple[float, list[int]]:
    """The choice whose largest distance is least, and that distance; infinite where there is none."""
    largest = np.where(np.arange(len(table)) == 0, 0.0, np.inf)  # of the best way to each frame so far
    came_from = []
    for _ in range(count - 1):
        ways = np.maximum(largest[:, None], table)  # (before, frame)
        came_from.append(ways.argmin(axis=0))
        largest = ways.min(axis=0)
    places = [len(table) - 1]
    for before in reversed(came_from):
        places.append(int(before[places[-1]]))
    return float(largest[-1]), places[::-1]
