"""Which edges are strong, and how many each cell has to every type: thresholds and counts, streamed over shards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from tissue_crosstalk.core.errors import ResultError

HALVES: Final = 2
"""A cell's neighbors in two halves, every other one by distance: what one half suggests can be tested on the other."""

_DIGITS: Final = ((16, 16), (11, 11, 10))  # bits; together the 32 of a float, the more at once the fewer groups
_COUNTS: Final = 2**24  # numbers to count in that are few enough for the larger digits
_BLOCK: Final = 2048  # cells at once: what is made of them stays in the cache
Counting = Literal["edges", "in_degree"]


@dataclass(frozen=True, eq=False)
class StrengthShard:
    """Attention of some receivers, maximum over heads.

    Attributes
    ----------
    receivers
        Positions in the tissue, int64 (cell,).
    strength
        float32 (cell, neighbor).
    nn_idx
        Positions of the neighbors, int32 (cell, neighbor), nearest first; −1 where padded.
    nn_dist
        Distances in units of the coordinates, float32 (cell, neighbor); None where unknown.
    """

    receivers: npt.NDArray[np.int64]
    strength: npt.NDArray[np.float32]
    nn_idx: npt.NDArray[np.int32]
    nn_dist: npt.NDArray[np.float32] | None = None

    def blocks(self, n_cells: int) -> Iterator[StrengthShard]:
        """Yield the receivers again, at most `n_cells` at a time."""
        for start in range(0, len(self.receivers), n_cells):
            own = slice(start, start + n_cells)
            dist = None if self.nn_dist is None else self.nn_dist[own]
            yield StrengthShard(self.receivers[own], self.strength[own], self.nn_idx[own], dist)

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays."""
        return sum(array.nbytes for array in vars(self).values() if array is not None)


@dataclass(frozen=True, eq=False)
class NeighborCounts:
    """How many neighbors of each type cells have.

    Attributes
    ----------
    receivers
        Positions of the cells, int64 (cell,).
    at_hand, strong
        Neighbors, and those among them that the cell attends to strongly, uint16 (cell, half, type).
    shares
        Share of each type among the strong neighbors, float64 (cell, type); zeros where there is none.
    strongest
        Largest attention to any neighbor, float32 (cell,).
    nearest, mean_distance
        Distance to the nearest neighbor and mean over all, float32 (cell,), in units of the coordinates; NaN where
        there is no neighbor or distances are unknown.
    """

    receivers: npt.NDArray[np.int64]
    at_hand: npt.NDArray[np.uint16]
    strong: npt.NDArray[np.uint16]
    shares: npt.NDArray[np.float64]
    strongest: npt.NDArray[np.float32]
    nearest: npt.NDArray[np.float32]
    mean_distance: npt.NDArray[np.float32]

    def ordered(self, order: npt.NDArray[np.intp]) -> NeighborCounts:
        """Return the counts with their cells in another order."""
        return NeighborCounts(**{name: array[order] for name, array in vars(self).items()})


def receiver_groups(
    labels: npt.NDArray[np.integer], n_types: int, sections: npt.NDArray[np.integer] | None = None
) -> npt.NDArray[np.int64]:
    """Return the group of each cell in which attention is compared: its type, or its type within its section.

    Parameters
    ----------
    labels
        Label of each cell of the tissue, (cell,).
    n_types
        Number of labels.
    sections
        Section of each cell, (cell,); None: sections share their thresholds.

    Returns
    -------
    numpy.ndarray
        int64 (cell,); the types of the first section come first.
    """
    groups = labels.astype(np.int64)
    return groups if sections is None else groups + n_types * sections.astype(np.int64)


def attention_thresholds(
    shards: Iterable[StrengthShard], groups: npt.NDArray[np.integer], n_groups: int, quantile: float
) -> npt.NDArray[np.float64]:
    """Return per group of receivers the quantile of its positive attention.

    Exact, in memory that does not grow with the cells (1 MiB per group, 32 KiB where there are more than 128): positive
    float32 sort as their bits do, so one pass over the shards counts values by their upper bits, and each next one
    those that share them with the quantile by the next bits.

    Parameters
    ----------
    shards
        Attention; read twice, where there are more than 128 groups three times.
    groups
        Group of each cell of the tissue, (cell,).
    n_groups
        Number of groups.
    quantile
        In [0, 1].

    Returns
    -------
    numpy.ndarray
        float64 (group,), the same as `numpy.quantile` with linear interpolation; 0 where nothing is positive.

    Examples
    --------
    The median of the positive attention of two receivers of type 0, and of one of type 1:

    >>> import numpy as np
    >>> strength = np.array([[0.5, 0.25], [0.75, 0.0], [1.0, 0.5]], dtype=np.float32)  # (cell, neighbor)
    >>> shard = StrengthShard(np.array([0, 1, 2]), strength, np.array([[2, 1], [2, 0], [0, 1]], dtype=np.int32))
    >>> attention_thresholds([shard], np.array([0, 0, 1]), n_groups=2, quantile=0.5).tolist()
    [0.5, 0.75]
    """
    prefix = np.zeros((n_groups, 2), dtype=np.int64)  # (group, side): upper bits of the values around the quantile
    place, ranks = np.zeros(n_groups), np.zeros((n_groups, 2), dtype=np.int64)
    n_values: npt.NDArray[np.integer] = np.zeros(n_groups, dtype=np.int64)
    shift = 32
    for width in _DIGITS[0] if n_groups * 2 ** _DIGITS[0][0] <= _COUNTS // 2 else _DIGITS[1]:
        shift -= width
        is_first = shift + width == 32
        if is_first:  # no digit is known yet: both sides see all values
            counts = np.repeat(_count_upper_digits(shards, groups, n_groups, width)[:, None], 2, axis=1)
            n_values = counts[:, 0].sum(axis=1)
            last = np.maximum(n_values - 1, 0)
            place = quantile * last  # of the quantile, between two ranks
            ranks = np.minimum(np.floor(place).astype(np.int64)[:, None] + np.arange(2), last[:, None])
        else:
            counts = _count_next_digits(shards, groups, prefix, shift, width)
        digits, ranks = _digits_at(counts, ranks)
        prefix = prefix << width | digits
    bits_at = prefix.astype(np.uint32)
    low, high = bits_at.view(np.float32).astype(np.float64).T
    # Interpolated as numpy does it, from the nearer side.
    share = place - np.floor(place)
    between = np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))
    return np.where(n_values > 0, between, 0.0)


def _positive_bits(shard: StrengthShard) -> npt.NDArray[np.uint32]:
    """Return the bits of the attention, (cell, neighbor); 0 where it is not positive."""
    strength = np.ascontiguousarray(shard.strength, dtype=np.float32)
    return np.where(strength > 0, strength.view(np.uint32), np.uint32(0))


def _count_upper_digits(
    shards: Iterable[StrengthShard], groups: npt.NDArray[np.integer], n_groups: int, width: int
) -> npt.NDArray[np.int64]:
    """Count positive values by their upper `width` bits, int64 (group, digit)."""
    counts = np.zeros(n_groups << width, dtype=np.int64)
    for shard in shards:
        bits = _positive_bits(shard)
        # Digits change fastest but for the groups: no digit of large values, no number to count it in.
        places = (bits >> np.uint32(32 - width)).astype(np.int64)
        places *= n_groups
        of_cell = groups[shard.receivers].astype(np.int64)
        places += of_cell[:, None]
        counted = np.bincount(places.reshape(-1))
        counts[: len(counted)] += counted
        # What is not positive has been counted as 0.
        nothing = bits.shape[1] - np.count_nonzero(bits, axis=1)
        counts[:n_groups] -= np.bincount(of_cell, weights=nothing, minlength=n_groups).astype(np.int64)
    return counts.reshape(-1, n_groups).T


def _count_next_digits(
    shards: Iterable[StrengthShard],
    groups: npt.NDArray[np.integer],
    prefix: npt.NDArray[np.int64],
    shift: int,
    width: int,
) -> npt.NDArray[np.int64]:
    """Count values by the `width` bits above the lowest `shift`, where all bits above these are those of `prefix`.

    `prefix` is (group, side), the result int64 (group, side, digit).
    """
    counts = np.zeros((*prefix.shape, 1 << width), dtype=np.int64)
    for shard in shards:
        bits = _positive_bits(shard)
        upper, of_cell = bits >> np.uint32(shift + width), groups[shard.receivers].astype(np.int64)
        for side in range(2):
            # Few values share them: only these are looked at one by one.
            wanted = prefix[of_cell, side].astype(np.uint32)
            same = np.flatnonzero((upper == wanted[:, None]) & (bits > 0))
            digit = (bits.reshape(-1)[same] >> np.uint32(shift)).astype(np.int64) & ((1 << width) - 1)
            place = ((of_cell[same // bits.shape[1]] * 2 + side) << width) + digit
            np.add.at(counts.reshape(-1), place, 1)
    return counts


def _digits_at(
    counts: npt.NDArray[np.int64], ranks: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the digit of the values at some ranks, and their rank among the values with that digit.

    `counts` is (group, side, digit), `ranks` and the results are (group, side).
    """
    ends = np.cumsum(counts, axis=2)
    digits = np.minimum((ends <= ranks[:, :, None]).sum(axis=2), counts.shape[2] - 1)
    before = np.take_along_axis(ends - counts, digits[:, :, None], axis=2)[:, :, 0]
    return digits, ranks - before


def count_neighbors(
    shards: Iterable[StrengthShard],
    labels: npt.NDArray[np.integer],
    n_types: int,
    cell_thresholds: npt.NDArray[np.float64],
    counting: Counting = "edges",
) -> NeighborCounts:
    """Count each cell's neighbors, and the strong ones among them, by type.

    Parameters
    ----------
    shards
        Attention; read once, for the counting ``in_degree`` twice.
    labels
        Label of each cell of the tissue, (cell,).
    n_types
        Number of labels.
    cell_thresholds
        Attention of each cell of the tissue above which its edges are strong (strictly), (cell,).
    counting
        ``edges``: in the shares, every strong edge counts once. ``in_degree``: as often as its sender occurs among
        all neighbors of that receiver type.

    Returns
    -------
    NeighborCounts
        Of all receivers, in the order in which they come.

    Raises
    ------
    ResultError
        If there is no receiver.

    Examples
    --------
    A receiver with three neighbors, of types 1, 1 and 2, of which the first and the last are attended to strongly:

    >>> import numpy as np
    >>> strength = np.array([[0.9, 0.2, 0.8]], dtype=np.float32)  # (cell, neighbor)
    >>> shard = StrengthShard(np.array([0]), strength, np.array([[1, 2, 3]], dtype=np.int32))
    >>> counts = count_neighbors([shard], np.array([0, 1, 1, 2]), 3, np.full(4, 0.5))
    >>> counts.at_hand.sum(axis=1).tolist(), counts.strong.sum(axis=1).tolist()  # (cell, type)
    ([[0, 2, 1]], [[0, 1, 1]])
    >>> counts.shares.tolist()
    [[0.0, 0.5, 0.5]]
    """
    import joblib

    degrees = _in_degrees(shards, labels, n_types) if counting == "in_degree" else None
    count = partial(_count, labels=labels, n_types=n_types, cell_thresholds=cell_thresholds, degrees=degrees)
    together: dict[str, npt.NDArray[Any]] = {}
    n_counted = 0
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        for part in (part for shard in shards for part in pool.map(count, shard.blocks(_BLOCK))):
            own = slice(n_counted, n_counted + len(part.receivers))
            for name, array in vars(part).items():
                # Memory for all cells, which is taken when it is written to: blocks are not held beside the whole.
                if name not in together:
                    together[name] = np.empty((len(labels), *array.shape[1:]), dtype=array.dtype)
                together[name][own] = array
            n_counted = own.stop
    if not together:
        raise ResultError("there is no attention of any cell to find hubs in. Run the extraction again.")
    return NeighborCounts(**{name: whole[:n_counted] for name, whole in together.items()})


def _count(
    shard: StrengthShard,
    labels: npt.NDArray[np.integer],
    n_types: int,
    cell_thresholds: npt.NDArray[np.float64],
    degrees: npt.NDArray[np.int32] | None,
) -> NeighborCounts:
    n_cells, n_neighbors = shard.nn_idx.shape
    present = shard.nn_idx >= 0
    sender_labels = np.where(present, labels[shard.nn_idx], n_types)  # padded slots are of a type of their own
    strong = shard.strength > cell_thresholds[shard.receivers][:, None]
    shape = (2, n_cells, HALVES, n_types + 1)
    # Where each slot is counted, (cell, neighbor): by whether it is strong, cell, half and type.
    places = np.arange(n_cells)[:, None] * HALVES + np.arange(n_neighbors) % HALVES + strong * (n_cells * HALVES)
    places *= n_types + 1
    places += sender_labels
    counted = np.bincount(places.reshape(-1), minlength=math.prod(shape)).astype(np.uint16).reshape(shape)
    weak_counts, strong_counts = counted[..., :n_types]
    weighted = strong_counts.sum(axis=1, dtype=np.float64)
    if degrees is not None:
        cell, slot = np.nonzero(strong & present)
        weights = degrees[labels[shard.receivers[cell]], shard.nn_idx[cell, slot]]
        flat = np.bincount(cell * n_types + sender_labels[cell, slot], weights=weights, minlength=n_cells * n_types)
        weighted = flat.astype(np.float64).reshape(n_cells, n_types)
    total = weighted.sum(axis=1, keepdims=True)
    nearest, mean_distance = _distances(shard, present)
    return NeighborCounts(
        receivers=shard.receivers,
        at_hand=weak_counts + strong_counts,
        strong=strong_counts,
        shares=np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0),
        strongest=np.where(present, shard.strength, 0).max(axis=1, initial=0).astype(np.float32),
        nearest=nearest,
        mean_distance=mean_distance,
    )


def _distances(
    shard: StrengthShard, present: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the distance to the nearest neighbor and the mean over all, each (cell,); NaN where there is none."""
    unknown = np.full(len(present), np.nan, dtype=np.float32)
    if shard.nn_dist is None:
        return unknown, unknown
    count = present.sum(axis=1)
    nearest = np.where(present, shard.nn_dist, np.inf).min(axis=1, initial=np.inf)
    total = np.where(present, shard.nn_dist, 0).sum(axis=1, dtype=np.float64)
    return (
        np.where(count > 0, nearest, np.nan).astype(np.float32),
        np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0).astype(np.float32),
    )


def _in_degrees(
    shards: Iterable[StrengthShard], labels: npt.NDArray[np.integer], n_types: int
) -> npt.NDArray[np.int32]:
    """Return how often each cell occurs among all neighbors of a receiver type, (type, cell)."""
    degrees = np.zeros((n_types, len(labels)), dtype=np.int32)
    for shard in shards:
        cell, slot = np.nonzero(shard.nn_idx >= 0)
        place = labels[shard.receivers[cell]].astype(np.int64) * len(labels) + shard.nn_idx[cell, slot]
        np.add.at(degrees.reshape(-1), place, 1)
    return degrees
