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
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

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


@dataclass(frozen=True, eq=False)
class Senders:
    """The cells that are neighbors of some receivers.

    Attributes
    ----------
    cells
        Positions, ascending, each once, (sender,).
    places
        Place of each neighbor in `cells`, by slot, then by cell, (neighbor * cell,); one past the end where padded.
    """

    cells: npt.NDArray[np.int64]
    places: npt.NDArray[np.intp]

    @classmethod
    def of(cls, nn_idx: npt.NDArray[np.integer], n_cells: int) -> Senders:
        """Return the senders of neighbors (cell, neighbor), −1 where padded, in a tissue of `n_cells`."""
        slots = nn_idx.ravel(order="F")
        occurs = np.zeros(n_cells + 1, dtype=bool)
        occurs[slots] = True  # a padded slot, −1, is the one past the last cell
        cells = np.flatnonzero(occurs[:-1])
        places = np.empty(n_cells + 1, dtype=np.intp)
        places[cells] = np.arange(len(cells))
        places[-1] = len(cells)
        return cls(cells, places[slots])

    def sums(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the sum of weights (cell, neighbor) of each sender, (sender,)."""
        n_sums = len(self.cells) + 1
        return _sums_by(self.places, weights.ravel(order="F"), n_sums)[:-1]


@dataclass(frozen=True, eq=False)
class ShardTotals:
    """What some receivers receive, and what is sent to them.

    Attributes
    ----------
    receivers, received
        Positions and sums, (receiver,).
    senders, sent
        Positions, each once, and sums, (sender,).
    """

    receivers: npt.NDArray[np.int64]
    received: npt.NDArray[np.float64]
    senders: npt.NDArray[np.int64]
    sent: npt.NDArray[np.float64]

    @classmethod
    def of(cls, attention: npt.NDArray[np.float32], receivers: npt.NDArray[np.int64], senders: Senders) -> ShardTotals:
        """Sum up attention (head, cell, neighbor), which is 0 where padded."""
        mean = attention.mean(axis=0, dtype=np.float64)  # (cell, neighbor)
        return cls(receivers, mean.sum(axis=1), senders.cells, senders.sums(mean))


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
        self.absorb(ShardTotals.of(attention, receivers, Senders.of(nn_idx, len(self.sent))))

    def absorb(self, totals: ShardTotals) -> None:
        """Take in the totals of some receivers."""
        self.received[totals.receivers] = totals.received
        self.sent[totals.senders] += totals.sent


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
        if not some.all():
            patterns, receiver_label, n_slots = patterns[:, some], receiver_label[some], n_slots[some]
        labels, most = receiver_label.astype(np.int64), np.log(n_slots)
        self._cells += np.bincount(labels, minlength=n_types)
        for head, pattern in enumerate(patterns):
            dummy = np.clip(1.0 - pattern.sum(axis=1, dtype=np.float64), 0.0, 1.0)
            entropy = _entropy_terms(pattern).sum(axis=1, dtype=np.float64) + _entropy_terms(dummy)
            for place, measure in enumerate((dummy, entropy, entropy / most)):
                self._sums[place, head] += np.bincount(labels, weights=measure, minlength=n_types)

    def merge(self, other: HeadProfile) -> None:
        """Take in what another profile of the same types and heads has seen."""
        self._cells += other._cells
        self._sums += other._sums

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
    terms_of: npt.NDArray[np.floating] = np.maximum(shares, np.finfo(shares.dtype).tiny)  # all are normal numbers then
    np.log(terms_of, out=terms_of)
    terms_of *= shares
    np.negative(terms_of, out=terms_of)
    return terms_of


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
    ranks: dict[str, _Ranks] = {}
    for pair in itertools.combinations(samples, 2):
        present = np.isfinite(samples[pair[0]].strength) & np.isfinite(samples[pair[1]].strength)
        for flavor in pair:
            # The edges are the same in every flavor, as a rule: each is ranked once, and not once per pair.
            if flavor not in ranks or not np.array_equal(ranks[flavor].present, present):
                ranks[flavor] = _Ranks.of(samples[flavor], present, labels, len(cell_types))
        of_types, of_all = ranks[pair[0]].agreement(ranks[pair[1]])
        found = [row for row in zip(cell_types, *of_types, strict=True) if row[2] and row[0] != ALL_TYPES]
        rows += [
            {terms.FLAVOR: pair[0], OTHER: pair[1], RECEIVER: name, SPEARMAN: float(correlation), EDGES: int(n_edges)}
            for name, correlation, n_edges in (*found, (ALL_TYPES, *of_all))
        ]
    return pd.DataFrame(rows, columns=[terms.FLAVOR, OTHER, RECEIVER, SPEARMAN, EDGES])


@dataclass(frozen=True, eq=False)
class _Ranks:
    """Ranks of the edges of a sample, ties at their mean rank, less the mean of all.

    Attributes
    ----------
    present
        Which edges are ranked, (cell, neighbor).
    types
        Label of the receiver of each, (edge,).
    n_types
        Number of labels.
    of_type, of_all
        Ranks among the edges of the same type, and among all, (edge,).
    """

    present: npt.NDArray[np.bool_]
    types: npt.NDArray[np.uint16]
    n_types: int
    of_type: npt.NDArray[np.float64]
    of_all: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, sample: EdgeSample, present: npt.NDArray[np.bool_], labels: npt.NDArray[np.integer], n_types: int
    ) -> _Ranks:
        """Rank the edges that are present, (cell, neighbor)."""
        values = sample.strength[present]
        types = np.repeat(labels[sample.cells].astype(np.uint16), present.sum(axis=1))
        order = np.argsort(values)
        of_all = _centered_ranks(values, order, np.zeros_like(types), 1)
        by_type = order[np.argsort(types[order], kind="stable")]
        return cls(present, types, n_types, _centered_ranks(values, by_type, types, n_types), of_all)

    def agreement(
        self, other: _Ranks
    ) -> tuple[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]], tuple[float, int]]:
        """Return correlations and numbers of edges: of each type, both (type,), and of all edges."""
        correlations = _correlations(self.of_type, other.of_type, self.types, self.n_types)
        of_all = _correlations(self.of_all, other.of_all, np.zeros_like(self.types), 1)
        return (correlations, np.bincount(self.types, minlength=self.n_types)), (float(of_all[0]), len(self.types))


def _centered_ranks(
    values: npt.NDArray[np.float32], order: npt.NDArray[np.intp], groups: npt.NDArray[np.uint16], n_groups: int
) -> npt.NDArray[np.float64]:
    """Return the ranks of values within their groups, less the group's mean rank; `order` sorts by group, value."""
    ranked, group = values[order], groups[order]
    is_first = np.ones(len(values), dtype=bool)
    is_first[1:] = (ranked[1:] != ranked[:-1]) | (group[1:] != group[:-1])
    starts = np.flatnonzero(is_first)  # of the values that are alike
    n_alike = np.diff(starts, append=len(values))
    sizes = np.bincount(groups, minlength=n_groups)
    middles = np.cumsum(sizes) - (sizes + 1) / 2  # of the group, where the first place of all is 0
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(starts + (n_alike - 1) / 2 - middles[group[starts]], n_alike)
    return ranks


def _correlations(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], groups: npt.NDArray[np.uint16], n_groups: int
) -> npt.NDArray[np.float64]:
    """Return the correlation of centered ranks in each group, (group,); nan where it is undefined."""
    own, others, both = (
        _sums_by(groups, products, n_groups) for products in (first * first, second * second, first * second)
    )
    spread = np.sqrt(own * others)
    is_defined = (np.bincount(groups, minlength=n_groups) >= _LEAST_RANKED) & (spread > 0)
    correlation = np.full(n_groups, np.nan)
    correlation[is_defined] = np.clip(both[is_defined] / spread[is_defined], -1.0, 1.0)
    return correlation


def _sums_by(
    groups: npt.NDArray[np.integer], values: npt.NDArray[np.float64], n_groups: int
) -> npt.NDArray[np.float64]:
    """Return the sum of values in each group, (group,)."""
    return np.bincount(groups, weights=values, minlength=n_groups).astype(np.float64, copy=False)


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
        is_strong = (shard.strength > thresholds[shard.receivers][:, None]) & (shard.nn_idx >= 0)
        slots = np.flatnonzero(is_strong)  # (edge,), by cell
        receiver = labels[shard.receivers].astype(np.int64)[slots // shard.nn_idx.shape[1]]
        counts += np.bincount(receiver * n_types + labels[shard.nn_idx.ravel()[slots]], minlength=len(counts))
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
