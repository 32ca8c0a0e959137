"""Stored attention, read once per flavor: by distance, pair of types, head and cell, and flavors against each other."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.dataset as pads

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.distance import RECEIVER, SENDER, DistanceBins
from tissue_crosstalk.core.profiles import (
    OTHER,
    RECEIVED,
    SENT,
    CellTotals,
    EdgeSample,
    HeadProfile,
    compare_flavors,
    pair_table,
    strong_edges,
)
from tissue_crosstalk.core.stored import Cells, StoredShard, StoredStrength, read_shards, stored_flavors
from tissue_crosstalk.core.strong_edges import attention_thresholds, receiver_groups

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
    groups = receiver_groups(
        known.labels, len(known.cell_types), known.sections if thresholds_per == "section" else None
    )
    flavors = stored_flavors(flavored_attention)
    bins: dict[str, DistanceBins] = {}
    totals: dict[str, npt.NDArray[np.float64]] = {}
    samples: dict[str, EdgeSample] = {}
    pairs: dict[str, pd.DataFrame] = {}
    heads: HeadProfile | None = None
    for flavor in flavors:
        stored = StoredStrength(flavored_attention, nn_idxs, known, nn_dists=nn_dists, flavor=flavor)
        received = CellTotals(len(known.names))
        for shard, strength in stored.with_heads():
            if flavor not in bins:
                bins[flavor] = DistanceBins(known.cell_types, len(shard.attention), max_distance, bin_size)
                samples[flavor] = EdgeSample(len(known.names), shard.nn_idx.shape[1])
            _add_to_bins(bins[flavor], shard, known)
            received.add(shard.attention, shard.receivers, shard.nn_idx)
            samples[flavor].add(strength)
            if flavor == terms.VANILLA:
                heads = _add_to_heads(heads, shard, known)
        totals |= {f"{RECEIVED}_{flavor}": received.received, f"{SENT}_{flavor}": received.sent}
        thresholds = attention_thresholds(stored, groups, int(groups.max()) + 1, strong_quantile)
        strong = strong_edges(stored, known.labels, len(known.cell_types), thresholds[groups])
        pairs[flavor] = pair_table(bins[flavor], strong, known.labels)
    by_head = {flavor: of_flavor.by_pair() for flavor, of_flavor in bins.items()}
    if heads is None:  # the vanilla flavor was not asked for, but heads are described by it
        vanilla: DistanceBins | None = None
        for shard in read_shards(attention_patterns, nn_idxs, known, nn_dists=nn_dists):
            heads = _add_to_heads(heads, shard, known)
            vanilla = vanilla or DistanceBins(known.cell_types, len(shard.attention), max_distance, bin_size)
            _add_to_bins(vanilla, shard, known)
        if vanilla is not None:
            by_head = {terms.VANILLA: vanilla.by_pair()} | by_head
    for of_flavor in list(bins.values())[:1]:
        _warn_of_unit(of_flavor)
    return AttentionProfiles(
        distance_bins=bins,
        by_pair=_of_flavors(pairs),
        by_head=_of_flavors(by_head),
        by_cell=pd.DataFrame(totals, index=pd.Index(known.names, dtype=object, name=terms.CELL_IDX), dtype=np.float32),
        head_profile=pd.DataFrame() if heads is None else _with_categories(heads.table()),
        flavor_agreement=_with_categories(compare_flavors(samples, known.labels, known.cell_types)),
    )


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


def _add_to_bins(bins: DistanceBins, shard: StoredShard, cells: Cells) -> None:
    assert shard.nn_dist is not None
    bins.add(shard.attention, shard.nn_dist, cells.labels[shard.receivers], shard.sender_labels(cells))


def _add_to_heads(heads: HeadProfile | None, shard: StoredShard, cells: Cells) -> HeadProfile:
    profile = heads or HeadProfile(cells.cell_types, len(shard.attention))
    profile.add(shard.attention, cells.labels[shard.receivers], shard.sender_labels(cells))
    return profile


def _of_flavors(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    labelled = [table.assign(**{terms.FLAVOR: flavor}) for flavor, table in tables.items()]
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
