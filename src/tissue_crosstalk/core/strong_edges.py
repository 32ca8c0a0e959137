"""Which edges are strong, and how many each cell has to every type: thresholds and counts, streamed over shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from tissue_crosstalk.core.errors import ResultError

HALVES: Final = 2
"""A cell's neighbors in two halves, every other one by distance: what one half suggests can be tested on the other."""

_DIGITS: Final = (11, 11, 10)  # bits; together the 32 of a float
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

    Exact, in memory that does not grow with the cells (32 KiB per group): positive float32 sort as their bits do, so
    one pass over the shards counts values by their upper 11 bits, a second one those that share them with the quantile
    by the next 11, and a third one by the rest.

    Parameters
    ----------
    shards
        Attention; read three times.
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
    """
    prefix = np.zeros((n_groups, 2), dtype=np.int64)  # (group, side): upper bits of the values around the quantile
    place, ranks, n_values = np.zeros(n_groups), np.zeros((n_groups, 2), dtype=np.int64), np.zeros(n_groups)
    shift = 32
    for width in _DIGITS:
        shift -= width
        is_first = shift + width == 32  # no digit is known yet: both sides see all values
        counts = np.zeros((n_groups, 2, 1 << width), dtype=np.int64)
        for group, bits in _positive_bits(shards, groups):
            upper = bits >> shift
            for side in range(1 if is_first else 2):
                same = (upper >> width) == prefix[group, side]
                digit = upper[same] & ((1 << width) - 1)
                np.add.at(counts.reshape(-1), (group[same] * 2 + side) * (1 << width) + digit, 1)
        if is_first:
            counts[:, 1] = counts[:, 0]
            n_values = counts[:, 0].sum(axis=1)
            last = np.maximum(n_values - 1, 0)
            place = quantile * last  # of the quantile, between two ranks
            ranks = np.minimum(np.floor(place).astype(np.int64)[:, None] + np.arange(2), last[:, None])
        digits, ranks = _digits_at(counts, ranks)
        prefix = prefix << width | digits
    bits_at = prefix.astype(np.uint32)
    low, high = bits_at.view(np.float32).astype(np.float64).T
    # Interpolated as numpy does it, from the nearer side.
    share = place - np.floor(place)
    between = np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))
    return np.where(n_values > 0, between, 0.0)


def _positive_bits(
    shards: Iterable[StrengthShard], groups: npt.NDArray[np.integer]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield group and bits of every positive value, each (value,), a shard at a time."""
    for shard in shards:
        cell, slot = np.nonzero(shard.strength > 0)
        values = np.ascontiguousarray(shard.strength[cell, slot], dtype=np.float32)
        yield groups[shard.receivers][cell].astype(np.int64), values.view(np.uint32).astype(np.int64)


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
    """
    degrees = _in_degrees(shards, labels, n_types) if counting == "in_degree" else None
    parts = [_count(shard, labels, n_types, cell_thresholds, degrees) for shard in shards]
    if not parts:
        raise ResultError("there is no attention of any cell to find hubs in. Run the extraction again.")
    names = vars(parts[0])
    return NeighborCounts(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in names})


def _count(
    shard: StrengthShard,
    labels: npt.NDArray[np.integer],
    n_types: int,
    cell_thresholds: npt.NDArray[np.float64],
    degrees: npt.NDArray[np.int32] | None,
) -> NeighborCounts:
    n_cells, n_neighbors = shard.nn_idx.shape
    present = shard.nn_idx >= 0
    sender_labels = labels[shard.nn_idx].astype(np.int64)  # of padded slots: any
    half = np.arange(n_neighbors) % HALVES
    bins = (np.arange(n_cells)[:, None] * HALVES + half) * n_types + sender_labels  # (cell, neighbor)
    strong = (shard.strength > cell_thresholds[shard.receivers][:, None]) & present

    def by_half_and_type(chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
        counts = np.bincount(bins[chosen], minlength=n_cells * HALVES * n_types)
        return counts.reshape(n_cells, HALVES, n_types).astype(np.uint16)

    counted = by_half_and_type(strong)
    weighted = counted.sum(axis=1, dtype=np.float64)
    if degrees is not None:
        cell, slot = np.nonzero(strong)
        weights = degrees[labels[shard.receivers[cell]], shard.nn_idx[cell, slot]]
        flat = np.bincount(cell * n_types + sender_labels[cell, slot], weights=weights, minlength=n_cells * n_types)
        weighted = flat.astype(np.float64).reshape(n_cells, n_types)
    total = weighted.sum(axis=1, keepdims=True)
    nearest, mean_distance = _distances(shard, present)
    return NeighborCounts(
        receivers=shard.receivers,
        at_hand=by_half_and_type(present),
        strong=counted,
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
