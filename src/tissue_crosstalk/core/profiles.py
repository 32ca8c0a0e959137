"""What there is to say of attention beside its fall with distance, streamed over shards of cells.

=====================  ===============================================  =============================================
what                   of                                               in
=====================  ===============================================  =============================================
:class:`CellTotals`    one cell                                         attention received and sent, in any flavor
:class:`HeadProfile`   one head and receiver type                       evenness, share of the dummy slot
:class:`EdgeSample`    some edges, the same in every flavor             attention, to compare flavors by
:func:`strong_edges`   one pair of types                                edges, and strong ones among them
=====================  ===============================================  =============================================

None depends on how the cells are cut into shards, but for rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.distance import COUNT, MEAN, RECEIVER, SENDER, DistanceBins
from tissue_crosstalk.core.strong_edges import StrengthShard

CELLS: Final = "cells"
DUMMY_SHARE: Final = "dummy_share"
ENTROPY: Final = "entropy"
EVENNESS: Final = "evenness"
EDGES: Final = "edges"
RECEIVERS: Final = "receivers"
STRONG_EDGES: Final = "strong_edges"
STRONG_SHARE: Final = "strong_share"
OTHER: Final = "other"
SPEARMAN: Final = "spearman"
ALL_TYPES: Final = "all types"
"""What ``receiver`` is where the edges of all receivers are ranked together; a type of that name has no row."""

RECEIVED: Final = "received"
SENT: Final = "sent"

MOST_SAMPLED: Final = 1_000_000
"""Edges by which flavors are compared, where a tissue has more."""

_LEAST_RANKED: Final = 3


class CellTotals:
    """Attention that each cell receives and sends, mean over heads.

    A cell receives what it attends to: the sum over its neighbors, in the vanilla flavor one minus the share of the
    dummy slot. It sends what others attend to it: the sum over the cells whose neighbor it is.

    Parameters
    ----------
    n_cells
        Cells of the tissue.
    """

    def __init__(self, n_cells: int) -> None:
        self.received = np.full(n_cells, np.nan)
        self.sent = np.zeros(n_cells)

    def add(
        self, attention: npt.NDArray[np.float32], receivers: npt.NDArray[np.int64], nn_idx: npt.NDArray[np.int32]
    ) -> None:
        """Take in some receivers.

        Parameters
        ----------
        attention
            (head, cell, neighbor), 0 where padded.
        receivers
            Positions of the cells, (cell,).
        nn_idx
            Positions of the neighbors, (cell, neighbor); −1 where padded.
        """
        mean = attention.mean(axis=0, dtype=np.float64)  # (cell, neighbor)
        present = nn_idx >= 0
        self.received[receivers] = np.where(present, mean, 0.0).sum(axis=1)
        self.sent += np.bincount(nn_idx[present], weights=mean[present], minlength=len(self.sent))


class HeadProfile:
    """How evenly heads spread attention, and how much of it no neighbor gets, per head and receiver type.

    Parameters
    ----------
    cell_types
        Names of the labels.
    n_heads
        Number of heads.
    """

    def __init__(self, cell_types: Sequence[str], n_heads: int) -> None:
        self._cell_types = tuple(cell_types)
        self._n_heads = n_heads
        self._cells = np.zeros(len(cell_types), dtype=np.int64)
        self._sums = np.zeros((3, n_heads, len(cell_types)))  # (measure, head, type)

    def add(
        self,
        patterns: npt.NDArray[np.float32],
        receiver_label: npt.NDArray[np.integer],
        sender_label: npt.NDArray[np.integer],
    ) -> None:
        """Take in some receivers.

        Parameters
        ----------
        patterns
            Vanilla attention, (head, cell, neighbor); 0 where padded.
        receiver_label
            (cell,).
        sender_label
            (cell, neighbor); −1 where padded.
        """
        n_types = len(self._cell_types)
        n_slots = 1 + (sender_label >= 0).sum(axis=1)  # with the dummy's
        some = n_slots > 1  # a cell without neighbors says nothing of a head
        patterns, labels, n_slots = patterns[:, some], receiver_label[some].astype(np.int64), n_slots[some]
        self._cells += np.bincount(labels, minlength=n_types)
        for head, pattern in enumerate(patterns):
            dummy = np.clip(1.0 - pattern.sum(axis=1, dtype=np.float64), 0.0, 1.0)
            entropy = _entropy_terms(pattern).sum(axis=1, dtype=np.float64) + _entropy_terms(dummy)
            for place, measure in enumerate((dummy, entropy, entropy / np.log(n_slots))):
                self._sums[place, head] += np.bincount(labels, weights=measure, minlength=n_types)

    def table(self) -> pd.DataFrame:
        """Return one row per head and receiver type that has cells with neighbors; others are left out.

        Returns
        -------
        pandas.DataFrame
            ``head_idx``, ``receiver``, ``cells``, and means over cells: ``dummy_share`` of all attention; ``entropy``
            of the distribution over neighbors and dummy slot, in nats; ``evenness``, that over the largest possible
            (the logarithm of the number of slots; Pielou's index): 0 where one slot has all attention, 1 where all
            have the same.
        """
        present = np.flatnonzero(self._cells)
        means = self._sums[:, :, present] / self._cells[present]
        names = np.array(self._cell_types, dtype=object)[present]
        return pd.DataFrame(
            {
                terms.HEAD_IDX: np.repeat(np.arange(self._n_heads), len(present)),
                RECEIVER: np.tile(names, self._n_heads),
                CELLS: np.tile(self._cells[present], self._n_heads),
                DUMMY_SHARE: means[0].reshape(-1),
                ENTROPY: means[1].reshape(-1),
                EVENNESS: means[2].reshape(-1),
            }
        )


def _entropy_terms(shares: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return ``-p log p``, 0 where p is."""
    logs: npt.NDArray[np.floating] = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return -shares * logs


class EdgeSample:
    """Attention on edges of cells that lie evenly in the order of the tissue: the same edges in every flavor.

    Parameters
    ----------
    n_cells
        Cells of the tissue.
    n_neighbors
        Slots per cell.
    most
        Edges to keep at most, but those of one cell in any case; all where the tissue has no more.
    """

    def __init__(self, n_cells: int, n_neighbors: int, most: int = MOST_SAMPLED) -> None:
        most_cells = max(most // max(n_neighbors, 1), 1)
        chosen = np.arange(0, n_cells, max(-(-n_cells // most_cells), 1))
        self._rows = np.full(n_cells, -1, dtype=np.int64)
        self._rows[chosen] = np.arange(len(chosen))
        self.cells = chosen
        self.strength = np.full((len(chosen), n_neighbors), np.nan, dtype=np.float32)

    def add(self, shard: StrengthShard) -> None:
        """Take in the chosen cells of a shard."""
        rows = self._rows[shard.receivers]
        chosen = rows >= 0
        strength = np.where(shard.nn_idx[chosen] >= 0, shard.strength[chosen], np.float32(np.nan))
        self.strength[rows[chosen]] = strength


def compare_flavors(
    samples: Mapping[str, EdgeSample], labels: npt.NDArray[np.integer], cell_types: Sequence[str]
) -> pd.DataFrame:
    """Say how alike flavors rank the edges.

    Parameters
    ----------
    samples
        The same edges by flavor.
    labels
        Label of each cell of the tissue, (cell,).
    cell_types
        Names of the labels.

    Returns
    -------
    pandas.DataFrame
        One row per pair of flavors, for all receivers together (``receiver`` is ``all types``) and for each receiver
        type: ``flavor``, ``other``, ``receiver``, ``spearman`` (rank correlation over edges of the attention, maximum
        over heads, ties at their mean rank; nan where it is undefined: fewer than three edges, or all alike) and
        ``edges``.
    """
    rows: list[dict[str, object]] = []
    for first, second in itertools.combinations(samples, 2):
        mine, theirs = samples[first].strength, samples[second].strength
        present = np.isfinite(mine) & np.isfinite(theirs)
        by_type = {name: labels[samples[first].cells] == label for label, name in enumerate(cell_types)}
        groups = by_type | {ALL_TYPES: np.ones(len(mine), dtype=bool)}
        for name, members in groups.items():
            kept = present & members[:, None]
            n_edges = int(kept.sum())
            if n_edges or name == ALL_TYPES:
                correlation = _rank_correlation(mine[kept], theirs[kept])
                rows.append({terms.FLAVOR: first, OTHER: second, RECEIVER: name, SPEARMAN: correlation, EDGES: n_edges})
    return pd.DataFrame(rows, columns=[terms.FLAVOR, OTHER, RECEIVER, SPEARMAN, EDGES])


def _rank_correlation(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """Return Spearman's correlation, nan where it is undefined."""
    if len(first) < _LEAST_RANKED or first.min() == first.max() or second.min() == second.max():
        return float("nan")
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def strong_edges(
    shards: Iterable[StrengthShard],
    labels: npt.NDArray[np.integer],
    n_types: int,
    thresholds: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Count the edges of each pair of types whose attention is strong.

    Parameters
    ----------
    shards
        Attention, maximum over heads.
    labels
        Label of each cell of the tissue, (cell,).
    n_types
        Number of labels.
    thresholds
        Per cell of the tissue, above what its attention is strong, (cell,).

    Returns
    -------
    numpy.ndarray
        int64 (receiver, sender).
    """
    counts = np.zeros(n_types * n_types, dtype=np.int64)
    for shard in shards:
        cell, slot = np.nonzero((shard.strength > thresholds[shard.receivers][:, None]) & (shard.nn_idx >= 0))
        pair = labels[shard.receivers[cell]].astype(np.int64) * n_types + labels[shard.nn_idx[cell, slot]]
        counts += np.bincount(pair, minlength=len(counts))
    return counts.reshape(n_types, n_types)


def share_to_draw(quantile: float) -> float:
    """Return what share of strong edges is worth an arrow: twice that by chance, or half-way from it to all.

    Parameters
    ----------
    quantile
        Of the positive attention of a receiver type, above which attention is strong.
    """
    by_chance = 1 - quantile
    # Rounded: 0.2, not 0.19999999999999996. Never 0, which would be every pair.
    return max(round(min(2 * by_chance, (1 + by_chance) / 2), 9), 1e-9)


def pair_table(bins: DistanceBins, strong: npt.NDArray[np.int64], labels: npt.NDArray[np.integer]) -> pd.DataFrame:
    """Return the attention of each pair of types.

    Parameters
    ----------
    bins
        Attention of one flavor.
    strong
        Strong edges, (receiver, sender).
    labels
        Label of each receiver, (cell,).

    Returns
    -------
    pandas.DataFrame
        One row per (receiver, sender) with an edge: ``receiver``, ``sender``, ``receivers`` (cells of the receiver
        type), ``mean`` (attention, over edges and heads), ``edges``, ``strong_edges``, and their share in the edges,
        ``strong_share``. As a threshold is a quantile per receiver type, ``strong_share`` is the same for all senders
        where attention
        ignores their type, one minus the quantile where all attention is positive.
    """
    by_head = bins.by_pair()
    pairs = by_head.groupby([RECEIVER, SENDER], sort=False).agg(**{MEAN: (MEAN, "mean"), EDGES: (COUNT, "first")})
    pairs = pairs.reset_index()
    place = {name: label for label, name in enumerate(bins.cell_types)}
    receiver, sender = (pairs[column].map(place).to_numpy(dtype=np.int64) for column in (RECEIVER, SENDER))
    pairs[STRONG_EDGES] = strong[receiver, sender]
    pairs[STRONG_SHARE] = pairs[STRONG_EDGES] / pairs[EDGES]
    pairs[RECEIVERS] = np.bincount(labels, minlength=len(bins.cell_types))[receiver]
    return pairs[[RECEIVER, SENDER, RECEIVERS, MEAN, EDGES, STRONG_EDGES, STRONG_SHARE]]
