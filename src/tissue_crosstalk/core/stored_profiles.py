"""Stored attention, read once per flavor: by distance, pair of types, head and cell, and flavors against each other."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.dataset as pads

from tissue_crosstalk.core import tables, terms
from tissue_crosstalk.core.distance import RECEIVER, SENDER, DistanceBins, Moments
from tissue_crosstalk.core.profiles import (
    OTHER,
    RECEIVED,
    SENT,
    CellTotals,
    EdgeSample,
    HeadProfile,
    Senders,
    ShardTotals,
    compare_flavors,
    pair_table,
    strong_edges,
)
from tissue_crosstalk.core.stored import (
    Cells,
    Held,
    ShardFiles,
    StoredStrength,
    files_of_shards,
    sender_labels,
    stored_flavors,
)
from tissue_crosstalk.core.strong_edges import StrengthShard, attention_thresholds, receiver_groups
from tissue_crosstalk.core.threads import in_order, threads

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class AttentionProfiles:
    """What stored attention comes to.

    Attributes
    ----------
    distance_bins
        By flavor, attention by receiver, head, sender and distance.
    by_pair
        Per flavor and pair of types (:func:`~tissue_crosstalk.core.profiles.pair_table`).
    by_head
        Per flavor, head and pair of types (:meth:`~tissue_crosstalk.core.distance.DistanceBins.by_pair`); the vanilla
        flavor is always there.
    by_cell
        Per cell, indexed by its name: ``received_<flavor>`` and ``sent_<flavor>``
        (:class:`~tissue_crosstalk.core.profiles.CellTotals`).
    head_profile
        Per head and receiver type (:meth:`~tissue_crosstalk.core.profiles.HeadProfile.table`), of vanilla attention.
    flavor_agreement
        Per pair of flavors (:func:`~tissue_crosstalk.core.profiles.compare_flavors`).
    """

    distance_bins: dict[str, DistanceBins]
    by_pair: pd.DataFrame
    by_head: pd.DataFrame
    by_cell: pd.DataFrame
    head_profile: pd.DataFrame
    flavor_agreement: pd.DataFrame


def profile_stored_attention(
    attention_patterns: pads.Dataset,
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    nn_dists: pads.Dataset,
    cells: pads.Dataset,
    *,
    max_distance: float,
    bin_size: float,
    strong_quantile: float,
    thresholds_per: Literal["all", "section"] = "all",
) -> AttentionProfiles:
    """Sum up stored attention, in one pass over each flavor.

    Parameters
    ----------
    attention_patterns, flavored_attention, nn_idxs, nn_dists, cells
        Folders that the earlier stages wrote.
    max_distance, bin_size
        Edges shorter than `max_distance` go in bins of `bin_size`, both in units of the coordinates.
    strong_quantile
        Per receiver type, attention (maximum over heads) above this quantile of its positive values is strong.
    thresholds_per
        ``all``, or ``section`` for thresholds of each section's own.

    Raises
    ------
    ResultError
        If the folders are not of one run.
    """
    known = Cells.read(cells)
    flavors = stored_flavors(flavored_attention)
    files = {flavor: files_of_shards(flavored_attention, nn_idxs, nn_dists, flavor) for flavor in flavors}
    if terms.VANILLA not in files:  # it was not asked for, but heads are described by it
        files = {terms.VANILLA: files_of_shards(attention_patterns, nn_idxs, nn_dists, None)} | files
    sums = _Sums(known, flavors, files, max_distance, bin_size)
    for shard in in_order(functools.partial(_profile_shard, known, sums.grouping), sums.shards(), threads()):
        sums.absorb(shard)

    groups = receiver_groups(
        known.labels, len(known.cell_types), known.sections if thresholds_per == "section" else None
    )

    def by_pair(flavor: str) -> pd.DataFrame:
        held = sums.strength(flavor)
        stored = StoredStrength(flavored_attention, nn_idxs, known, flavor=flavor) if held is None else held
        thresholds = attention_thresholds(stored, groups, int(groups.max()) + 1, strong_quantile)
        strong = strong_edges(stored, known.labels, len(known.cell_types), thresholds[groups])
        return pair_table(sums.bins[flavor], strong, known.labels)

    pairs = in_order(by_pair, flavors, threads() if sums.holds_strength else 1)
    for bins in list(sums.bins.values())[:1]:
        _warn_of_unit(bins)
    return AttentionProfiles(
        distance_bins={flavor: sums.bins[flavor] for flavor in flavors},
        by_pair=_of_flavors(dict(zip(flavors, pairs, strict=True))),
        by_head=_of_flavors({flavor: bins.by_pair() for flavor, bins in sums.bins.items()}),
        by_cell=sums.by_cell(),
        head_profile=_with_categories(sums.heads.table()),
        flavor_agreement=_with_categories(compare_flavors(sums.samples, known.labels, known.cell_types)),
    )


@dataclass(frozen=True, eq=False)
class _OfFlavor:
    """What one flavor of one shard comes to."""

    moments: Moments
    totals: ShardTotals
    strength: StrengthShard


@dataclass(frozen=True, eq=False)
class _ShardProfile:
    """What one shard comes to, by flavor, and its heads."""

    of_flavors: dict[str, _OfFlavor]
    heads: HeadProfile


class _Sums:
    """What all shards come to, taken in one after the other.

    Parameters
    ----------
    cells
        The cells of the tissue.
    flavors
        Those that totals and samples are wanted of.
    files
        By flavor, the files of the shards.
    max_distance, bin_size
        See :class:`~tissue_crosstalk.core.distance.DistanceBins`.
    """

    def __init__(
        self,
        cells: Cells,
        flavors: Sequence[str],
        files: Mapping[str, Sequence[ShardFiles]],
        max_distance: float,
        bin_size: float,
    ) -> None:
        self._cells, self._files = cells, files
        n_heads = next(iter(files.values()))[0].n_heads()
        self.bins = {flavor: DistanceBins(cells.cell_types, n_heads, max_distance, bin_size) for flavor in files}
        self.heads = HeadProfile(cells.cell_types, n_heads)
        self.samples: dict[str, EdgeSample] = {}
        self._totals = {flavor: CellTotals(len(cells.names)) for flavor in flavors}
        self._held: Held[dict[str, StrengthShard]] = Held()

    @property
    def grouping(self) -> DistanceBins:
        """Bins by which edges are grouped, the same for every flavor."""
        return next(iter(self.bins.values()))

    @property
    def holds_strength(self) -> bool:
        """Whether the maxima over heads are at hand."""
        return self._held.shards is not None

    def shards(self) -> Iterator[dict[str, ShardFiles]]:
        """Yield the files of each shard by flavor."""
        for files in zip(*self._files.values(), strict=True):
            yield dict(zip(self._files, files, strict=True))

    def absorb(self, shard: _ShardProfile) -> None:
        """Take in one shard."""
        self.heads.merge(shard.heads)
        for flavor, found in shard.of_flavors.items():
            self.bins[flavor].absorb(found.moments)
            if flavor in self._totals:
                self._totals[flavor].absorb(found.totals)
                if flavor not in self.samples:
                    self.samples[flavor] = EdgeSample(len(self._cells.names), found.strength.nn_idx.shape[1])
                self.samples[flavor].add(found.strength)
        kept = {flavor: found.strength for flavor, found in shard.of_flavors.items() if flavor in self._totals}
        neighbors = next(iter(shard.of_flavors.values())).strength  # the same arrays in every flavor
        self._held.add(kept, sum(one.strength.nbytes for one in kept.values()) + neighbors.nn_idx.nbytes)

    def strength(self, flavor: str) -> list[StrengthShard] | None:
        """Return the maxima over heads of one flavor, or None where they were too many to be held."""
        return None if self._held.shards is None else [shard[flavor] for shard in self._held.shards]

    def by_cell(self) -> pd.DataFrame:
        """Return attention received and sent, a row per cell."""
        totals = {
            f"{what}_{flavor}": getattr(of_flavor, what)
            for flavor, of_flavor in self._totals.items()
            for what in (RECEIVED, SENT)
        }
        names = pd.Index(self._cells.names, dtype=object, name=terms.CELL_IDX)
        return pd.DataFrame(totals, index=names, dtype=np.float32)


def _profile_shard(cells: Cells, bins: DistanceBins, files: Mapping[str, ShardFiles]) -> _ShardProfile:
    """Sum up one shard: neighbors are read and edges sorted once for all flavors; `bins` stay as they are."""
    neighbors = next(iter(files.values())).read_neighbors()
    nn_idx, nn_dist = neighbors.slots(cells)
    assert nn_dist is not None
    receivers = neighbors.receivers(cells)
    receiver_label = cells.labels[receivers]
    sender_label = sender_labels(nn_idx, cells)
    groups = bins.group(nn_dist, receiver_label, sender_label, layout="F")
    senders = Senders.of(nn_idx, len(cells.names))
    by_cell = np.ascontiguousarray(nn_idx)
    heads = HeadProfile(cells.cell_types, bins.n_heads)
    of_flavors = {}
    attention: npt.NDArray[np.float32] | None = None
    for flavor, of_flavor in files.items():
        # In the memory of the flavor before: to get fresh memory from the system takes longer than to fill it.
        attention = tables.patterns_array(neighbors.read_attention(of_flavor.attention), out=attention)
        strongest = attention.max(axis=0)
        of_flavors[flavor] = _OfFlavor(
            bins.moments(attention, groups, strongest),
            ShardTotals.of(attention, receivers, senders),
            StrengthShard(receivers, np.ascontiguousarray(strongest), by_cell),
        )
        if flavor == terms.VANILLA:
            heads.add(attention, receiver_label, sender_label)
    return _ShardProfile(of_flavors, heads)


def binned_table(binned: Mapping[str, DistanceBins], min_bin_count: int) -> pd.DataFrame:
    """Return the bins of all flavors that hold at least `min_bin_count` edges, with a column ``flavor``."""
    return _of_flavors({flavor: bins.table(min_bin_count) for flavor, bins in binned.items()})


def profile_metrics(head_profile: pd.DataFrame) -> Iterator[tuple[str, float]]:
    """Yield what runs are compared by: share of the dummy slot and evenness, over all cells, of all heads and each.

    Parameters
    ----------
    head_profile
        See :attr:`AttentionProfiles.head_profile`.

    Yields
    ------
    tuple
        Name and value.
    """
    for measure, name in (("dummy_share", "share of the dummy slot"), ("evenness", "evenness")):
        weighted = head_profile[measure] * head_profile["cells"]
        head = head_profile[terms.HEAD_IDX]
        by_head = weighted.groupby(head).sum() / head_profile["cells"].groupby(head).sum()
        yield name, float(by_head.mean())
        yield from ((f"{name}.head {number}", float(value)) for number, value in by_head.items())


def _of_flavors(by_flavor: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    labelled = [table.assign(**{terms.FLAVOR: flavor}) for flavor, table in by_flavor.items()]
    return _with_categories(pd.concat(labelled, ignore_index=True))


def _with_categories(table: pd.DataFrame) -> pd.DataFrame:
    names = [name for name in (RECEIVER, SENDER, terms.FLAVOR, OTHER) if name in table.columns]
    return table.astype(dict.fromkeys(names, "category"))


def _warn_of_unit(bins: DistanceBins) -> None:
    used = np.flatnonzero(bins.distance_histogram().groupby("distance_bin")["count"].sum().to_numpy())
    if len(used) < 2:
        logger.warning(
            "%s: max_distance %g and bin_size %g do not fit the unit of the coordinates. Set reporting.max_distance "
            "and reporting.bin_size.",
            "all edges shorter than max_distance fall in one bin"
            if len(used)
            else "no edge is shorter than max_distance",
            bins.max_distance,
            bins.bin_size,
        )
