"""Communication hubs: cells grouped by the types of the neighbors they attend to strongly."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError, ResultError, is_number, is_whole

logger = logging.getLogger(__name__)

CANDIDATE_CLUSTERS = range(2, 13)
"""Numbers of hubs that are tried when none is given."""

KMEANS_STARTS = 10
"""Restarts of KMeans, of which the best counts."""

DISTANCES_AT_ONCE = 4_000_000
"""Pairwise distances held at once by the silhouette."""

Composition = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HubSettings:
    """How hubs are found.

    Parameters
    ----------
    attention_quantile_threshold
        Per receiver type, attention above this quantile of its positive values is strong; in [0, 1).
    n_clusters
        Number of hubs; None: the number from 2 to 12 with the highest silhouette.
    random_state
        Seed of KMeans.
    counting
        ``edges``: every strong edge counts once. ``in_degree``: as often as its sender occurs among all neighbors
        of that receiver type, as the released amici-st 0.1.0 counts.

    Raises
    ------
    ParameterError
        If a value is out of range.
    """

    attention_quantile_threshold: float = 0.9
    n_clusters: int | None = None
    random_state: int = 42
    counting: Literal["edges", "in_degree"] = "edges"

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not (is_number(self.attention_quantile_threshold) and 0 <= self.attention_quantile_threshold < 1):
            raise ParameterError(
                "attention_quantile_threshold must be at least 0 and below 1. "
                f"Got {self.attention_quantile_threshold!r} instead."
            )
        if self.n_clusters is not None and not (is_whole(self.n_clusters) and self.n_clusters >= 1):
            raise ParameterError(
                f"n_clusters must be at least 1 (a whole number), or null to choose it. "
                f"Got {self.n_clusters!r} instead."
            )
        if not (is_whole(self.random_state) and 0 <= self.random_state < 2**32):
            raise ParameterError(
                f"random_state must be a whole number in [0, 2**32). Got {self.random_state!r} instead."
            )
        if self.counting not in ("edges", "in_degree"):
            raise ParameterError(f"counting must be 'edges' or 'in_degree'. Got {self.counting!r} instead.")


@dataclass(frozen=True, eq=False)
class Hubs:
    """Communication hubs of some receivers.

    Attributes
    ----------
    composition
        Share of each type among a cell's strong neighbors, (cell, type); a row of zeros where there is none.
    cluster
        Hub of each cell, int32 (cell,); 0 is the largest hub.
    thresholds
        Attention above which an edge is strong, by receiver type.
    silhouette
        Mean silhouette by number of hubs; empty when the number was given.
    """

    composition: Composition
    cluster: npt.NDArray[np.int32]
    thresholds: Mapping[str, float]
    silhouette: Mapping[int, float]

    @property
    def n_clusters(self) -> int:
        """Number of hubs."""
        return int(self.cluster.max()) + 1

    def table(self, cell_names: npt.NDArray[np.object_], cell_types: Sequence[str]) -> pd.DataFrame:
        """Return one row per cell, indexed by its name: a column per cell type, and ``hub_cluster``.

        Raises
        ------
        ResultError
            If a cell type is called as one of the other columns is.
        """
        taken = {terms.HUB_CLUSTER, terms.CELL_IDX} & set(cell_types)
        if taken:
            raise ResultError(f"cell types must not be called {' or '.join(sorted(taken))}, a column of the hub table.")
        table = pd.DataFrame(
            self.composition, columns=list(cell_types), index=pd.Index(cell_names, dtype=object, name=terms.CELL_IDX)
        )
        table[terms.HUB_CLUSTER] = self.cluster
        return table


def find_hubs(
    strength: npt.NDArray[np.float32],
    nn_idx: npt.NDArray[np.integer],
    receiver_labels: npt.NDArray[np.integer],
    sender_labels: npt.NDArray[np.integer],
    cell_types: Sequence[str],
    settings: HubSettings,
) -> Hubs:
    """Group cells by the types of the neighbors they attend to strongly.

    Parameters
    ----------
    strength
        Attention, maximum over heads, (cell, neighbor).
    nn_idx
        Which cell a neighbor is, (cell, neighbor); −1 where padded.
    receiver_labels, sender_labels
        (cell,) and (cell, neighbor); −1 where padded.
    cell_types
        Names of the labels.
    settings
        Thresholds, counting and clustering.

    Returns
    -------
    Hubs
        The same for a seed whatever the order in which cells come.

    Raises
    ------
    ParameterError
        If more hubs are asked for than there are distinct compositions.

    Notes
    -----
    Hong et al. (2025): strong edges exceed their receiver type's quantile of positive attention; per cell, the types
    of its strong neighbors in shares; KMeans on the shares.
    """
    thresholds = attention_thresholds(strength, receiver_labels, len(cell_types), settings.attention_quantile_threshold)
    strong = (strength > thresholds[receiver_labels][:, None]) & (sender_labels >= 0)
    weights = (
        np.ones(strength.shape, dtype=np.int64)
        if settings.counting == "edges"
        else _in_degrees(nn_idx, receiver_labels, len(cell_types))
    )
    composition = compositions(strong, weights, sender_labels, len(cell_types))
    cluster, silhouette = cluster_compositions(composition, settings.n_clusters, settings.random_state)
    return Hubs(
        composition=composition,
        cluster=cluster,
        thresholds={name: float(thresholds[label]) for label, name in enumerate(cell_types)},
        silhouette=silhouette,
    )


def attention_thresholds(
    strength: npt.NDArray[np.float32], receiver_labels: npt.NDArray[np.integer], n_types: int, quantile: float
) -> npt.NDArray[np.float64]:
    """Return per receiver type the quantile of its positive attention, (type,); 0 where there is none."""
    thresholds = np.zeros(n_types)
    for label in range(n_types):
        values = strength[receiver_labels == label]
        values = values[values > 0]
        if len(values):
            thresholds[label] = np.quantile(values.astype(np.float64), quantile)
    return thresholds


def compositions(
    strong: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.integer],
    sender_labels: npt.NDArray[np.integer],
    n_types: int,
) -> Composition:
    """Return the shares of sender types among strong neighbors, (cell, type); zeros where none is strong."""
    cell, slot = np.nonzero(strong)
    bins = cell * n_types + sender_labels[cell, slot]
    counts = (
        np.bincount(bins, weights=weights[cell, slot], minlength=len(strong) * n_types)
        .astype(np.float64)
        .reshape(-1, n_types)
    )
    total = counts.sum(axis=1, keepdims=True)
    shares: Composition = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    return shares


def _in_degrees(
    nn_idx: npt.NDArray[np.integer], receiver_labels: npt.NDArray[np.integer], n_types: int
) -> npt.NDArray[np.int64]:
    """Return how often an edge's sender occurs among all neighbors of the receiver's type, (cell, neighbor)."""
    degrees = np.zeros(nn_idx.shape, dtype=np.int64)
    for label in range(n_types):
        cells = receiver_labels == label
        senders = nn_idx[cells]
        occurrences = np.bincount(senders[senders >= 0], minlength=1)
        degrees[cells] = np.where(senders < 0, 0, occurrences[senders])
    return degrees


def cluster_compositions(
    composition: Composition, n_clusters: int | None, random_state: int
) -> tuple[npt.NDArray[np.int32], dict[int, float]]:
    """Cluster composition rows with KMeans.

    Parameters
    ----------
    composition
        (cell, type).
    n_clusters
        Number of clusters; None: that of 2 to 12 with the highest silhouette (the smallest on ties), which is at
        most the number of distinct rows less one.
    random_state
        Seed.

    Returns
    -------
    cluster
        int32 (cell,), numbered by size, the largest first.
    silhouette
        By number of clusters tried.

    Raises
    ------
    ParameterError
        If `n_clusters` exceeds the number of distinct rows.
    """
    # Rows are ratios of small counts: many cells share few distinct ones, and weights stand for the cells.
    rows, inverse, counts = np.unique(composition, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    if n_clusters is not None:
        if n_clusters > len(rows):
            raise ParameterError(
                f"n_clusters is {n_clusters}, but there are only {len(rows)} distinct compositions of strong "
                f"neighbors. Set n_clusters to {len(rows)} or less, or lower attention_quantile_threshold."
            )
        return _by_size(_kmeans(rows, counts, n_clusters, random_state), counts)[inverse], {}
    tried = {k: _kmeans(rows, counts, k, random_state) for k in CANDIDATE_CLUSTERS if k <= len(rows) - 1}
    if not tried:
        logger.warning("only %d distinct compositions of strong neighbors: all cells are one hub.", len(rows))
        return np.zeros(len(composition), dtype=np.int32), {}
    silhouette = _silhouettes(rows, counts, tried)
    best = max(silhouette, key=lambda k: (silhouette[k], -k))
    return _by_size(tried[best], counts)[inverse], silhouette


def _kmeans(
    rows: Composition, counts: npt.NDArray[np.intp], n_clusters: int, random_state: int
) -> npt.NDArray[np.int32]:
    from sklearn.cluster import KMeans

    kmeans = KMeans(n_clusters=n_clusters, random_state=random_state, n_init=KMEANS_STARTS)
    return np.asarray(kmeans.fit(rows, sample_weight=counts).labels_, dtype=np.int32)


def _by_size(cluster: npt.NDArray[np.int32], counts: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
    """Renumber clusters by their number of cells, the largest first; of equals, the one with the first row."""
    names, first = np.unique(cluster, return_index=True)
    sizes = np.bincount(cluster, weights=counts)[names]
    rank = np.empty(int(names.max()) + 1, dtype=np.int32)
    rank[names[np.lexsort((first, -sizes))]] = np.arange(len(names))
    return rank[cluster]


def _silhouettes(
    rows: Composition, counts: npt.NDArray[np.intp], clusters: Mapping[int, npt.NDArray[np.int32]]
) -> dict[int, float]:
    """Return the mean silhouette over all cells of every clustering, from distinct rows with multiplicities.

    Distances are computed once for all clusterings, a block of rows at a time. Source: P. J. Rousseeuw,
    "Silhouettes", J. Comput. Appl. Math. 20 (1987), 53-65.
    """
    from scipy.spatial.distance import cdist

    members = {k: np.eye(k)[cluster] * counts[:, None] for k, cluster in clusters.items()}  # (row, cluster)
    totals = dict.fromkeys(clusters, 0.0)
    block = max(1, DISTANCES_AT_ONCE // len(rows))
    for start in range(0, len(rows), block):
        stop = min(start + block, len(rows))
        distance = cdist(rows[start:stop], rows)
        for k, cluster in clusters.items():
            own = cluster[start:stop]
            here = np.arange(stop - start)
            size = members[k].sum(axis=0)
            to_cluster = distance @ members[k]
            within = to_cluster[here, own] / np.maximum(size[own] - 1, 1)
            with np.errstate(divide="ignore", invalid="ignore"):
                mean = np.where(size > 0, to_cluster / size, np.inf)
            mean[here, own] = np.inf
            nearest = mean.min(axis=1)
            largest = np.maximum(within, nearest)
            value = np.divide(nearest - within, largest, out=np.zeros_like(within), where=largest > 0)
            value[size[own] == 1] = 0.0  # a cluster of one cell has no silhouette
            totals[k] += float(value @ counts[start:stop])
    n_cells = int(counts.sum())
    return {k: total / n_cells for k, total in totals.items()}
