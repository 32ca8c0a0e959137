"""Communication hubs: cells grouped by the types of the neighbors they attend to strongly."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.clustering import Clustering, check_choice, cluster_rows
from tissue_crosstalk.core.errors import ParameterError, ResultError, is_number, is_whole
from tissue_crosstalk.core.strong_edges import (
    NeighborCounts,
    StrengthShard,
    attention_thresholds,
    count_neighbors,
    receiver_groups,
)

logger = logging.getLogger(__name__)

ISOLATED: Final = -1
"""``hub_cluster`` of cells without any strong neighbor, where these are not clustered."""

ISOLATED_NAME: Final = "isolated"
"""What they are called where hubs have names."""

ALL_SECTIONS: Final = "all sections"
"""Name of the thresholds that hold in every section."""


@dataclass(frozen=True)
class HubSettings:
    """How hubs are found.

    Parameters
    ----------
    attention_quantile_threshold
        Per receiver type, attention above this quantile of its positive values is strong; in [0, 1).
    thresholds_per
        ``all``: one threshold per receiver type. ``section``: one per receiver type and section.
    n_clusters
        Number of hubs; None: one of 2 to 12, chosen.
    choose_by
        What chooses the number: ``silhouette``, the highest one; or ``stability``, the largest number whose hubs
        agree between resamples of the cells as well as any (within a standard error).
    stability_resamples
        Bootstrap resamples of the cells, on each of which hubs are found again, for every number; 0: none.
    random_state
        Seed of everything that is drawn.
    counting
        ``edges``: every strong edge counts once. ``in_degree``: as often as its sender occurs among all neighbors
        of that receiver type, as the released amici-st 0.1.0 counts.
    isolated
        Cells without a strong neighbor: ``separate`` keeps them out of the hubs, as ``hub_cluster`` −1; ``cluster``
        clusters their rows of zeros with the others, as the publication does.

    Raises
    ------
    ParameterError
        If a value is out of range.
    """

    attention_quantile_threshold: float = 0.9
    thresholds_per: Literal["all", "section"] = "all"
    n_clusters: int | None = None
    choose_by: Literal["silhouette", "stability"] = "silhouette"
    stability_resamples: int = 10
    random_state: int = 42
    counting: Literal["edges", "in_degree"] = "edges"
    isolated: Literal["separate", "cluster"] = "separate"

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
        if not (is_whole(self.stability_resamples) and self.stability_resamples >= 0):
            raise ParameterError(
                f"stability_resamples must be 0 or more (a whole number). Got {self.stability_resamples!r} instead."
            )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ParameterError(
                    f"{name} must be {known[0]!r} or {known[1]!r}. Got {getattr(self, name)!r} instead."
                )
        check_choice(self.choose_by, self.n_clusters, self.stability_resamples)


_CHOICES: Final[Mapping[str, tuple[str, str]]] = {
    "thresholds_per": ("all", "section"),
    "choose_by": ("silhouette", "stability"),
    "counting": ("edges", "in_degree"),
    "isolated": ("separate", "cluster"),
}


@dataclass(frozen=True, eq=False)
class Hubs:
    """Communication hubs of some receivers.

    Attributes
    ----------
    cell_types
        Names of the types.
    counts
        Neighbors of the receivers; says also which cells these are.
    cluster
        Hub of each cell, int32 (cell,); 0 is the largest hub, −1 (:data:`ISOLATED`) is none.
    centers
        Mean composition of each hub, float64 (hub, type).
    thresholds
        Attention above which an edge is strong, by section (or :data:`ALL_SECTIONS`) and receiver type.
    silhouette
        Mean silhouette by number of hubs tried.
    stability
        Columns ``n_hubs``, ``varied`` (``seed`` or ``cells``), ``replicate`` and ``adjusted_rand``
        (:func:`~tissue_crosstalk.core.clustering.cluster_rows`).
    chosen_by
        ``silhouette``, ``stability`` or ``given``.
    """

    cell_types: tuple[str, ...]
    counts: NeighborCounts
    cluster: npt.NDArray[np.int32]
    centers: npt.NDArray[np.float64]
    thresholds: Mapping[str, Mapping[str, float]]
    silhouette: Mapping[int, float]
    stability: pd.DataFrame
    chosen_by: str

    @property
    def composition(self) -> npt.NDArray[np.float64]:
        """Share of each type among a cell's strong neighbors, (cell, type); a row of zeros where there is none."""
        return self.counts.shares

    @property
    def n_hubs(self) -> int:
        """Number of hubs; cells outside are not one."""
        return len(self.centers)

    def table(self, cell_names: npt.NDArray[np.object_]) -> pd.DataFrame:
        """Return one row per cell, indexed by its name: a column per cell type, and ``hub_cluster``.

        Raises
        ------
        ResultError
            If a cell type is called as one of the other columns is.
        """
        taken = {terms.HUB_CLUSTER, terms.CELL_IDX} & set(self.cell_types)
        if taken:
            raise ResultError(f"cell types must not be called {' or '.join(sorted(taken))}, a column of the hub table.")
        index = pd.Index(cell_names, dtype=object, name=terms.CELL_IDX)
        table = pd.DataFrame(self.composition, columns=list(self.cell_types), index=index)
        table[terms.HUB_CLUSTER] = self.cluster
        return table

    def record(self) -> dict[str, Any]:
        """Return what was chosen and why, as JSON takes it."""
        return {
            "n_clusters": self.n_hubs,
            "chosen_by": self.chosen_by,
            "cells": len(self.cluster),
            "isolated_cells": int((self.cluster == ISOLATED).sum()),
            "thresholds": {section: dict(values) for section, values in self.thresholds.items()},
            "silhouette": {str(k): value for k, value in self.silhouette.items()},
            "centers": [dict(zip(self.cell_types, center, strict=True)) for center in self.centers.tolist()],
        }


def find_hubs(
    shards: Iterable[StrengthShard],
    labels: npt.NDArray[np.integer],
    cell_types: Sequence[str],
    settings: HubSettings,
    *,
    sections: npt.NDArray[np.integer] | None = None,
    section_names: Sequence[str] = (),
) -> Hubs:
    """Group cells by the types of the neighbors they attend to strongly.

    Parameters
    ----------
    shards
        Attention of the receivers; read three times, and once more for the counting ``in_degree``, and for more than
        128 thresholds.
    labels
        Label of each cell of the tissue, (cell,).
    cell_types
        Names of the labels.
    settings
        Thresholds, counting and clustering.
    sections
        Section of each cell of the tissue, (cell,); None: it has one.
    section_names
        Names of the sections.

    Returns
    -------
    Hubs
        Of the receivers, in the order in which they come; the same for a seed whatever that order.

    Raises
    ------
    ParameterError
        If more hubs are asked for than there are distinct compositions.
    ResultError
        If there is no receiver.

    Notes
    -----
    Hong et al. (2025): strong edges exceed their receiver type's quantile of positive attention; per cell, the types
    of its strong neighbors in shares; KMeans on the shares.

    Examples
    --------
    Four receivers of type "a"; the first two attend to "b" alone, the others to "c":

    >>> import numpy as np
    >>> from tissue_crosstalk.core.strong_edges import StrengthShard
    >>> strength = np.array([[0.9, 0.1], [0.8, 0.1], [0.1, 0.9], [0.1, 0.8]], dtype=np.float32)  # (cell, neighbor)
    >>> shard = StrengthShard(np.arange(4), strength, np.array([[4, 5]] * 4, dtype=np.int32))
    >>> settings = HubSettings(attention_quantile_threshold=0.5, n_clusters=2, stability_resamples=0)
    >>> hubs = find_hubs([shard], np.array([0, 0, 0, 0, 1, 2]), ["a", "b", "c"], settings)
    >>> hubs.composition.tolist()
    [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    >>> bool(hubs.cluster[0] == hubs.cluster[1] != hubs.cluster[2] == hubs.cluster[3])
    True
    """
    per_section = settings.thresholds_per == "section" and sections is not None and len(section_names) > 1
    n_types, names = len(cell_types), tuple(section_names) if per_section else (ALL_SECTIONS,)
    groups = receiver_groups(labels, n_types, sections if per_section else None)
    thresholds = attention_thresholds(shards, groups, n_types * len(names), settings.attention_quantile_threshold)
    counts = count_neighbors(shards, labels, n_types, thresholds[groups], settings.counting)

    is_clustered = counts.strong.sum(axis=(1, 2)) > 0 if settings.isolated == "separate" else counts.receivers >= 0
    cluster = np.full(len(is_clustered), ISOLATED, dtype=np.int32)
    clustering = _cluster(counts.shares[is_clustered], settings)
    cluster[is_clustered] = clustering.cluster
    return Hubs(
        cell_types=tuple(cell_types),
        counts=counts,
        cluster=cluster,
        centers=clustering.centers,
        thresholds={
            name: dict(zip(cell_types, row, strict=True))
            for name, row in zip(names, thresholds.reshape(-1, n_types).tolist(), strict=True)
        },
        silhouette=clustering.silhouette,
        stability=clustering.stability,
        chosen_by=clustering.chosen_by,
    )


def _cluster(shares: npt.NDArray[np.float64], settings: HubSettings) -> Clustering:
    if not len(shares):
        logger.warning("no cell has a strong neighbor: there are no hubs.")
        return Clustering.empty(shares.shape[1], settings.choose_by)
    return cluster_rows(
        shares,
        settings.n_clusters,
        settings.random_state,
        choose_by=settings.choose_by,
        n_resamples=settings.stability_resamples,
    )
