"""Is a type of sender attended to more than chance: attention where expression, or places, of senders are shuffled.

For receivers of one type, the neighbor slots keep their places and distances, and who sits in them is shuffled: within
each section, among all cells of other types. Looked at by the type of the *place* (the cell that was there), the
expression of the senders is shuffled; looked at by the type of the *occupant*, their places are. Both nulls come from
the same permutations.

====================  ======================  =================================================================
name                  shape                   what
====================  ======================  =================================================================
pool                                          cells of other types, by section, then the user's order
place                                         a cell of the pool that is a neighbor of a receiver
pattern               (cell, neighbor, head)  attention without the dummy slot
sums                  (sender, head)          of attention over all edges to a type of sender
====================  ======================  =================================================================

What a cell brings to any place, base score and distance coefficient, is computed once; a permutation is a gather and a
softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.nn import functional as F

from tissue_crosstalk.core.attention import PREDICT_CELLS, pair_scores
from tissue_crosstalk.core.interpretation_settings import NullSettings
from tissue_crosstalk.core.network import CrossAttentionNetwork, patterns_by_head
from tissue_crosstalk.core.statistics import categorical, false_discovery_rate, log2_ratio

if TYPE_CHECKING:
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.tissue import PreparedTissue

EXPRESSION: Final = "expression"
PLACES: Final = "places"
SHUFFLED: Final = (EXPRESSION, PLACES)
"""What is shuffled."""

_DEFAULT: Final = NullSettings()
_SCORES_AT_ONCE: Final = 2**28  # numbers: pairs of as many receiver types are computed together as these hold
_ROUNDING: Final = 1e-5  # of an attention: less is no difference, as between cells of the same expression

_Sums = npt.NDArray[np.float64]


def attention_enrichment(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    settings: NullSettings = _DEFAULT,
    *,
    receivers: Sequence[str] | None = None,
    cells_per_shard: int = PREDICT_CELLS,
) -> pd.DataFrame:
    """Compare the attention that each type of receiver pays to each type of sender with that to shuffled senders.

    Parameters
    ----------
    network
        The model's network.
    tissue, neighbors
        The cells in spatial order, and their neighbors.
    settings
        Permutations and receivers.
    receivers
        Types of receivers by name; None: all.
    cells_per_shard
        Senders computed at once at most. Memory is bounded by a shard, by what is known of all cells as senders for
        one type of receiver (twice as many numbers as there are heads), and by the edges of the receivers drawn.

    Returns
    -------
    pandas.DataFrame
        One row per receiver, sender (type among its neighbors), head and what is shuffled (``expression`` or
        ``places``): ``receiver``, ``sender``, ``head_idx``, ``shuffled``, ``n_edges``, ``observed`` (mean attention per
        edge), ``expected`` (its mean over permutations), ``log2_enrichment``, ``p_value`` (one-sided, never 0),
        ``q_value`` (Benjamini-Hochberg over all rows with the same thing shuffled). The same for a seed whatever the
        order of the cells and, but for `q_value`, the types asked for.

    Raises
    ------
    ParameterError
        If there is no type of such a name, or `cells_per_shard` is below 1.

    Notes
    -----
    p is ``(1 + number of permutations with at least the observed attention) / (1 + permutations)``, exact where the
    senders of a section could change places, or expression, with each other. Tissues are more orderly than that: an
    enrichment where expression is shuffled says that the type's expression is what is attended to, one where places
    are shuffled that its places are (distance alone will do), neither that anything comes of it. A permutation in
    which no neighbor is of a type counts as one with at least the observed attention.
    """
    labels = tissue.labels_of(receivers, "receivers")
    drawn = {label: _drawn(tissue, label, settings) for label in labels}
    per_type = max(1, tissue.n_cells * 2 * network.settings.n_heads)
    at_once = max(1, _SCORES_AT_ONCE // per_type)
    parts = []
    for start in range(0, len(labels), at_once):
        some = labels[start : start + at_once]
        pools = {label: _pool(tissue, label, drawn[label]) for label in some}
        wanted = np.zeros((tissue.n_cells, len(tissue.cell_types)), dtype=np.bool_)
        for label, pool in pools.items():
            wanted[pool, label] = True
        scores = pair_scores(network, tissue.expression, wanted, cells_per_shard=cells_per_shard)
        number = np.cumsum(wanted.reshape(-1)).reshape(wanted.shape) - 1  # of each pair
        for label, pool in pools.items():
            null = _Null(network, tissue, neighbors, drawn[label], pool, scores[number[pool, label]])
            generator = np.random.default_rng([settings.random_state, label, 1])
            parts.append(_compare(null, label, tissue.cell_types, settings.n_permutations, generator))
    return _finished(parts)


def _drawn(tissue: PreparedTissue, label: int, settings: NullSettings) -> npt.NDArray[np.int64]:
    """Return rows of the receivers of a type, in the order of the user's tissue, (cell,)."""
    rows = np.flatnonzero(tissue.labels == label)
    rows = rows[np.argsort(tissue.positions[rows])]
    if len(rows) <= settings.max_receivers:
        return rows
    generator = np.random.default_rng([settings.random_state, label, 0])
    return rows[np.sort(generator.choice(len(rows), settings.max_receivers, replace=False))]


def _pool(tissue: PreparedTissue, label: int, receivers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return rows of the cells of other types in the receivers' sections, by section and the user's order."""
    sections = np.unique(tissue.sections[receivers])
    rows = np.flatnonzero((tissue.labels != label) & np.isin(tissue.sections, sections))
    return rows[np.lexsort((tissue.positions[rows], tissue.sections[rows]))]


class _Null:
    """Attention of the receivers of one type with any cells of the pool in the places of their neighbors.

    Parameters
    ----------
    network, tissue, neighbors
        The model's network, and the tissue.
    receivers, pool
        Rows of the receivers and of the pool.
    scores
        Base score and distance coefficient of the cells of the pool, (pool, 2 head).
    """

    def __init__(
        self,
        network: CrossAttentionNetwork,
        tissue: PreparedTissue,
        neighbors: Neighbors,
        receivers: npt.NDArray[np.int64],
        pool: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32],
    ) -> None:
        self._network, device = network, network.device
        nn_idx, nn_dist = neighbors.idx[receivers], neighbors.dist[receivers]
        present = nn_idx >= 0
        number = np.full(tissue.n_cells, -1, dtype=np.int64)
        number[pool] = np.arange(len(pool))
        of_edge = number[nn_idx[present]]
        self.places, place, self._edges = np.unique(of_edge, return_inverse=True, return_counts=True)
        self.labels = tissue.labels[pool]
        self._section_of_pool, self._section = tissue.sections[pool], tissue.sections[pool[self.places]]

        # The last place is that of empty slots: nobody is there.
        slots = np.full(nn_idx.shape, len(self.places), dtype=np.int64)
        slots[present] = place
        self._slots = torch.from_numpy(slots).to(device)
        reach = np.where(present, nn_dist, 0.0).astype(np.float32) / network.settings.distance_kernel_unit_scale
        self._reach = torch.from_numpy(reach.astype(np.float32)).to(device)
        self._absent = None if present.all() else torch.from_numpy(~present).to(device)
        order = np.argsort(slots, axis=None, kind="stable")
        self._in_order = torch.from_numpy(order).to(device)
        self._starts = torch.from_numpy(np.append(0, np.cumsum(self._edges))).to(device)
        self._scores = torch.from_numpy(scores).to(device)
        self._n_types = len(tissue.cell_types)

    def occupants(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return who is in each place after a permutation within each section, (place,), in the pool."""
        # What a permutation of the whole section leaves in these places is a draw without replacement.
        occupant = np.empty(len(self.places), dtype=np.int64)
        for section in np.unique(self._section):
            first, last = np.searchsorted(self._section_of_pool, [section, section + 1])
            own = np.flatnonzero(self._section == section)
            occupant[own] = first + generator.choice(last - first, len(own), replace=False)
        return occupant

    def place_sums(self, occupant: npt.NDArray[np.int64]) -> _Sums:
        """Return the attention to each place with these occupants, summed over its edges, (place, head)."""
        network, rows = self._network, torch.from_numpy(occupant).to(self._scores.device)
        by_place = F.pad(F.embedding(rows, self._scores), (0, 0, 0, 1))
        of_edge = F.embedding(self._slots, by_place)
        patterns = patterns_by_head(of_edge, self._reach, self._absent, network.settings.attention_dummy_score)
        by_edge = patterns.permute(1, 2, 0).flatten(0, 1)  # (edge, head)
        sums = F.embedding_bag(self._in_order, by_edge, self._starts, mode="sum")
        return sums[:-1].double().cpu().numpy()

    def mean_by_type(self, sums: _Sums, labels: npt.NDArray[np.int16]) -> tuple[_Sums, npt.NDArray[np.int64]]:
        """Return the mean attention per edge, (sender, head), NaN without edges, and the edges, (sender,).

        Parameters
        ----------
        sums
            From :meth:`place_sums`.
        labels
            Type as which each place counts, (place,).
        """
        # Summed in the order of the places, whatever the threads.
        total = np.stack([np.bincount(labels, weights=of_head, minlength=self._n_types) for of_head in sums.T], axis=1)
        n_edges = np.bincount(labels, weights=self._edges, minlength=self._n_types).astype(np.int64)
        with np.errstate(invalid="ignore"):
            return total / n_edges[:, None], n_edges


def _compare(
    null: _Null, label: int, cell_types: Sequence[str], n_permutations: int, generator: np.random.Generator
) -> pd.DataFrame:
    """Return the rows of one receiver type, without q-values."""
    with torch.inference_mode():
        place_labels = null.labels[null.places]
        observed, n_edges = null.mean_by_type(null.place_sums(null.places), place_labels)
        least = observed * (1 - _ROUNDING)
        total, defined, as_high = (np.zeros((len(SHUFFLED), *observed.shape)) for _ in range(3))
        for _ in range(n_permutations if len(null.places) else 0):
            occupant = null.occupants(generator)
            sums = null.place_sums(occupant)
            for kind, labels in enumerate((place_labels, null.labels[occupant])):
                mean, _n_edges = null.mean_by_type(sums, labels)
                is_defined = np.isfinite(mean)
                total[kind] += np.where(is_defined, mean, 0.0)
                defined[kind] += is_defined
                as_high[kind] += ~(mean < least)  # also where there is none
    sender = np.flatnonzero(n_edges)
    n_heads = observed.shape[1]
    with np.errstate(invalid="ignore"):
        expected = (total / defined)[:, sender]
    found = np.broadcast_to(observed[sender], expected.shape)
    n_rows = len(sender) * n_heads
    return pd.DataFrame(
        {
            "receiver": categorical(np.full(len(SHUFFLED) * n_rows, label), cell_types),
            "sender": categorical(np.tile(np.repeat(sender, n_heads), len(SHUFFLED)), cell_types),
            "head_idx": np.tile(np.arange(n_heads, dtype=np.int16), len(SHUFFLED) * len(sender)),
            "shuffled": categorical(np.repeat(np.arange(len(SHUFFLED)), n_rows), SHUFFLED),
            "n_edges": np.tile(np.repeat(n_edges[sender], n_heads), len(SHUFFLED)),
            "observed": found.reshape(-1),
            "expected": expected.reshape(-1),
            "log2_enrichment": log2_ratio(found, expected).reshape(-1),
            "p_value": ((1 + as_high[:, sender]) / (1 + n_permutations)).reshape(-1),
        }
    )


def _finished(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return one table of all receiver types, with q-values."""
    table = pd.concat(parts, ignore_index=True)
    table["q_value"] = np.nan
    for kind in SHUFFLED:
        own = (table["shuffled"] == kind).to_numpy()
        table.loc[own, "q_value"] = false_discovery_rate(table.loc[own, "p_value"].to_numpy())
    order = np.lexsort(
        [table[name].to_numpy() if name == "head_idx" else table[name].cat.codes for name in _SORTED_BY[::-1]]
    )
    return table.iloc[order].reset_index(drop=True)


_SORTED_BY: Final = ("receiver", "sender", "head_idx", "shuffled")
