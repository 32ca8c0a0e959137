"""Cells in an order in which neighbors in the list are neighbors in the tissue.

Contiguous runs of that order are spatially compact, so a shard is a range of rows, and the rows of its neighbors
outside of it (its halo) are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tissue_crosstalk.core.errors import ParameterError

BITS = 16
"""Bits per axis of the Hilbert curve: places closer than 1/65,536 of the tissue's extent share a number."""


def hilbert_index(grid: npt.NDArray[np.uint64], bits: int = BITS) -> npt.NDArray[np.uint64]:
    """Return the place of grid points along the Hilbert curve.

    Parameters
    ----------
    grid
        Integer coordinates in [0, 2**bits), (cell, axis).
    bits
        Bits per axis.

    Notes
    -----
    Source: J. Skilling, "Programming the Hilbert curve", AIP Conference Proceedings 707 (2004), 381-387.
    """
    axes: list[npt.NDArray[np.uint64]] = [grid[:, axis].astype(np.uint64).copy() for axis in range(grid.shape[1])]
    one = np.uint64(1)
    bit = one << np.uint64(bits - 1)
    while bit > one:
        below = bit - one
        for axis in range(len(axes)):
            is_set = (axes[axis] & bit) != 0
            swapped = np.where(is_set, np.uint64(0), (axes[0] ^ axes[axis]) & below).astype(np.uint64)
            axes[0] ^= np.where(is_set, below, swapped)
            if axis:
                axes[axis] ^= swapped
        bit >>= one
    for position in range(1, len(axes)):
        axes[position] ^= axes[position - 1]
    flips = np.zeros_like(axes[0])
    bit = one << np.uint64(bits - 1)
    while bit > one:
        flips ^= np.where((axes[-1] & bit) != 0, bit - one, np.uint64(0))
        bit >>= one
    place = np.zeros_like(axes[0])
    for shift in range(bits - 1, -1, -1):
        for values in axes:
            place = (place << one) | (((values ^ flips) >> np.uint64(shift)) & one)
    return place


def spatial_order(coordinates: npt.NDArray[np.float64], sections: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """Return the cells ordered by section, then along a Hilbert curve, then by position.

    Parameters
    ----------
    coordinates
        (cell, axis).
    sections
        Section of each cell, (cell,).
    """
    low = coordinates.min(axis=0)
    extent = float((coordinates.max(axis=0) - low).max())
    if extent > 0:
        grid = ((coordinates - low) / extent * (2**BITS - 1)).astype(np.uint64)
    else:
        grid = np.zeros(coordinates.shape, dtype=np.uint64)
    return np.lexsort((hilbert_index(grid), sections))


def shard_bounds(n_cells: int, cells_per_shard: int) -> list[tuple[int, int]]:
    """Cut `n_cells` ordered cells in ``ceil(n_cells / cells_per_shard)`` ranges of nearly equal size."""
    n_shards = max(1, -(-n_cells // cells_per_shard))
    edges = [n_cells * shard // n_shards for shard in range(n_shards + 1)]
    return list(pairwise(edges))


def shards(n_cells: int, cells_per_shard: int) -> Sequence[tuple[int, int]]:
    """Return the ranges of receivers that make up the shards (see :func:`shard_bounds`).

    Raises
    ------
    ParameterError
        If `cells_per_shard` is below 1.
    """
    if cells_per_shard < 1:
        raise ParameterError(f"cells_per_shard must be at least 1. Got {cells_per_shard} instead.")
    return shard_bounds(n_cells, cells_per_shard)
