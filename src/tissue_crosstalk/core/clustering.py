"""KMeans of composition rows, exact silhouettes and stability, from distinct rows with multiplicities.

Rows are ratios of small counts: many cells share few distinct ones, and weights stand for the cells. Every piece of
work is done by one thread, pieces side by side: results are the same to the bit whatever the number of threads.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.threads import Each, one_by_one, progress, side_by_side

logger = logging.getLogger(__name__)

CANDIDATE_CLUSTERS: Final = range(2, 13)
"""Numbers of clusters that are tried when none is given."""

KMEANS_STARTS: Final = 10
"""Starts of KMeans, each from a seed of its own, of which the best counts."""

HARTIGAN_ROWS: Final = 1_000
"""Distinct rows up to which every start of KMeans is improved by moving single rows."""

SILHOUETTE_PAIRS: Final = 10_000_000_000
"""Distances between distinct rows up to which a silhouette is exact; beyond, it is that of a sample of the cells."""

RESAMPLED_CELLS: Final = 50_000
"""Cells in a bootstrap resample, at most."""

N_CLUSTERS, VARIED, REPLICATE, ADJUSTED_RAND = "n_hubs", "varied", "replicate", "adjusted_rand"
SEED, CELLS = "seed", "cells"

_TILE: Final = 256  # rows; the distances between as many, 0.5 MiB, are held at once by each thread
_BANDS: Final = 32  # of rows, at most, each of whole tiles; no two threads work on the same one
_BLOCK: Final = 4096
_NEAR: Final = 1e-8  # squared; below, the shortcut for distances loses digits to cancellation
_TIE: Final = 1e-12
_GAIN: Final = 1e-12  # of the inertia per cell, below which a move is rounding
ChosenBy = Literal["silhouette", "stability", "given"]
Rows = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class DistinctRows:
    """Rows without their repetitions.

    Attributes
    ----------
    rows
        Ascending, float64 (row, type).
    counts
        How many cells have each, int64 (row,).
    of_cell
        Which row a cell has, intp (cell,).
    """

    rows: Rows
    counts: npt.NDArray[np.int64]
    of_cell: npt.NDArray[np.intp]

    @classmethod
    def of(cls, values: Rows) -> DistinctRows:
        """Find the distinct rows of `values`, (cell, type)."""
        if not len(values):
            return cls(values, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.intp))
        # As numpy.unique along an axis, ten times as fast: columns have few distinct values.
        group = pd.DataFrame(values).groupby(list(range(values.shape[1])), sort=False).ngroup().to_numpy()
        _, first = np.unique(group, return_index=True)
        rows = np.ascontiguousarray(values[first])
        order = np.lexsort(rows.T[::-1])
        of_cell = np.argsort(order)[group]
        return cls(rows[order], np.bincount(of_cell).astype(np.int64), of_cell)


@dataclass(frozen=True, eq=False)
class Clustering:
    """Cells in clusters.

    Attributes
    ----------
    cluster
        int32 (cell,), numbered by size, the largest first.
    centers
        Mean row of each cluster, float64 (cluster, type).
    silhouette
        Mean over cells, by number of clusters tried; for a given number, that one's where it is defined.
    stability
        Columns ``n_hubs``, ``varied`` (``seed`` or ``cells``), ``replicate`` and ``adjusted_rand``: how well other
        seeds, and other samples of the cells, agree with the clustering of each number tried.
    chosen_by
        What the number was chosen by.
    """

    cluster: Labels
    centers: Rows
    silhouette: Mapping[int, float]
    stability: pd.DataFrame
    chosen_by: ChosenBy

    @classmethod
    def empty(cls, n_types: int, chosen_by: ChosenBy) -> Clustering:
        """Return no clusters of no cells."""
        return cls(np.zeros(0, dtype=np.int32), np.zeros((0, n_types)), {}, _stability_table([]), chosen_by)


def cluster_rows(
    values: Rows,
    n_clusters: int | None,
    random_state: int,
    *,
    choose_by: Literal["silhouette", "stability"] = "silhouette",
    n_resamples: int = 0,
) -> Clustering:
    """Cluster rows with KMeans, and measure how good and how stable that is.

    Parameters
    ----------
    values
        float64 (cell, type), at least one.
    n_clusters
        Number of clusters; None: one of 2 to 12, but at most the number of distinct rows less one.
    random_state
        Seed.
    choose_by
        ``silhouette``: the number with the highest mean silhouette, the smallest on ties. ``stability``: the largest
        number whose mean agreement over resamples is within one standard error of the highest.
    n_resamples
        Bootstrap resamples of the cells, for the stability.

    Returns
    -------
    Clustering
        The same for a seed, whatever the order of the cells and the number of threads.

    Raises
    ------
    ParameterError
        If `n_clusters` exceeds the number of distinct rows, or stability shall choose without resamples.

    Notes
    -----
    KMeans starts ten times; where there are at most 1,000 distinct rows, every start is improved by moving single rows.
    Stability over seeds: the adjusted Rand index of each single start of KMeans with the best of them. Over cells:
    that of the clusters of a resample, to whose nearest center every cell goes, with those of all cells (a resample has
    as many cells as there are, at most 50,000, drawn with replacement). Sources: L. Hubert, P. Arabie, "Comparing
    partitions", J. Classif. 2 (1985), 193-218; C. Hennig, "Cluster-wise assessment of cluster stability", Comput.
    Stat. Data Anal. 52 (2007), 258-271.
    """
    check_choice(choose_by, n_clusters, n_resamples)
    distinct = DistinctRows.of(values)
    n_rows = len(distinct.rows)
    if n_clusters is not None and n_clusters > n_rows:
        raise ParameterError(
            f"n_clusters is {n_clusters}, but there are only {n_rows} distinct compositions of strong neighbors. "
            f"Set n_clusters to {n_rows} or less, or lower attention_quantile_threshold."
        )
    numbers = [n_clusters] if n_clusters else [k for k in CANDIDATE_CLUSTERS if k <= n_rows - 1]
    if not numbers:
        logger.warning("only %d distinct compositions of strong neighbors: all cells are one hub.", n_rows)
        numbers = [1]

    with side_by_side() as each:
        tried, over_seeds = _best_starts(distinct, numbers, random_state, each)
        silhouette = silhouettes(distinct, {k: tried[k] for k in numbers if 2 <= k <= n_rows - 1}, random_state, each)
        over_cells = _over_resamples(distinct, tried, random_state, n_resamples, each)
    stability = pd.concat([over_seeds, over_cells], ignore_index=True)
    if len(numbers) == 1:
        chosen = numbers[0]
    elif choose_by == "stability":
        chosen = _most_stable(over_cells)
    else:
        best = max(silhouette.values())
        chosen = min(k for k, value in silhouette.items() if value >= best - _TIE)
    labels = tried[chosen]
    return Clustering(
        cluster=labels[distinct.of_cell],
        centers=_means(distinct.rows, distinct.counts, labels),
        silhouette=silhouette,
        stability=stability,
        chosen_by=choose_by if n_clusters is None else "given",
    )


def check_choice(choose_by: str, n_clusters: int | None, n_resamples: int) -> None:
    """Raise :class:`ParameterError` if stability shall choose the number without resamples of the cells."""
    if choose_by == "stability" and n_clusters is None and n_resamples < 1:
        raise ParameterError(
            "choose_by is 'stability', which needs resamples of the cells. Set stability_resamples to 1 or more (10 is "
            f"a good number). Got {n_resamples!r} instead."
        )


def kmeans_centers(values: Rows, n_clusters: int, random_state: int) -> Rows:
    """Return the centers (cluster, type) that KMeans finds for `values` (cell, type), the largest cluster's first.

    There are fewer than `n_clusters` where `values` has fewer distinct rows.
    """
    distinct = DistinctRows.of(values)
    number = min(n_clusters, len(distinct.rows))
    with side_by_side() as each:
        best, _ = _best_starts(distinct, [number], random_state, each)
    return _means(distinct.rows, distinct.counts, best[number])


def _most_stable(over_cells: pd.DataFrame) -> int:
    """Return the largest number of clusters whose agreement is within one standard error of the highest."""
    by_number = over_cells.groupby(N_CLUSTERS)[ADJUSTED_RAND]
    mean, error = by_number.mean(), by_number.sem().fillna(0.0)
    best = mean.idxmax()
    return int(mean.index[mean >= mean[best] - error[best] - _TIE].max())


# --- KMeans


def _fit(
    rows: Rows, weights: npt.NDArray[np.int64], n_clusters: int, seed: int, n_starts: int
) -> tuple[Labels, Rows, float]:
    """Return labels (row,), centers (cluster, type) and inertia."""
    from sklearn.cluster import KMeans

    kmeans = KMeans(n_clusters=n_clusters, random_state=seed, n_init=n_starts).fit(rows, sample_weight=weights)
    labels = kmeans.labels_.astype(np.int32)
    if len(rows) > HARTIGAN_ROWS or len(np.unique(labels)) < n_clusters:
        return labels, kmeans.cluster_centers_, float(kmeans.inertia_)
    labels = _move_rows(rows, weights.astype(np.float64), labels)
    centers = _means(rows, weights, labels)
    return labels, centers, float((weights * ((rows - centers[labels]) ** 2).sum(axis=1)).sum())


def _move_rows(rows: Rows, weights: npt.NDArray[np.float64], labels: Labels) -> Labels:
    """Move rows to other clusters, the most profitable first, as long as that lowers the inertia.

    Rows on a grid are often as near to one center as to another. KMeans stops there, and heavy rows keep it from a
    better clustering that it finds where the same row comes many times and may be split.

    Source: J. A. Hartigan, M. A. Wong, "A k-means clustering algorithm", J. R. Stat. Soc. C 28 (1979), 100-108.
    """
    labels, here = labels.copy(), np.arange(len(rows))
    members = np.eye(int(labels.max()) + 1)[labels] * weights[:, None]  # (row, cluster)
    sizes, sums = members.sum(axis=0), members.T @ rows
    squares = (rows**2).sum(axis=1)[:, None]
    for _ in range(len(rows) * len(sizes)):  # far more than are ever needed
        centers = sums / sizes[:, None]
        distance = squares - 2 * rows @ centers.T + (centers**2).sum(axis=1)
        own = sizes[labels]
        leaving = np.divide(
            weights * own * distance[here, labels], own - weights, out=np.zeros_like(own), where=own > weights
        )
        joining = weights[:, None] * sizes / (sizes + weights[:, None]) * distance
        joining[here, labels] = np.inf
        gain = leaving[:, None] - joining
        row, to = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[row, to] <= _GAIN * weights.sum():
            break
        for cluster, sign in ((labels[row], -1), (to, 1)):
            sizes[cluster] += sign * weights[row]
            sums[cluster] += sign * weights[row] * rows[row]
        labels[row] = to
    return labels


def _best_starts(
    distinct: DistinctRows, numbers: Sequence[int], random_state: int, each: Each
) -> tuple[dict[int, Labels], pd.DataFrame]:
    """Return the best of some starts by number of clusters, labels numbered by size, and how the others agree."""
    tasks = [(k, seed) for k in numbers for seed in _seeds(KMEANS_STARTS, random_state, k)]
    fits = each(lambda task: _fit(distinct.rows, distinct.counts, *task, 1), tasks, "KMeans")
    best: dict[int, Labels] = {}
    agreement = []
    for place, k in enumerate(numbers):
        starts = fits[place * KMEANS_STARTS : (place + 1) * KMEANS_STARTS]
        chosen = min(range(KMEANS_STARTS), key=lambda start: starts[start][2])
        best[k] = _by_size(starts[chosen][0], distinct.counts)
        others = [labels for start, (labels, _, _) in enumerate(starts) if start != chosen]
        agreement += [
            (k, SEED, replicate, adjusted_rand_index(best[k], labels, distinct.counts))
            for replicate, labels in enumerate(others)
        ]
    return best, _stability_table(agreement)


def _over_resamples(
    distinct: DistinctRows, tried: Mapping[int, Labels], random_state: int, n_resamples: int, each: Each
) -> pd.DataFrame:
    """Return how clusters of resampled cells agree with those of all cells."""
    n_cells = int(distinct.counts.sum())
    generators = [np.random.default_rng(seed) for seed in _seeds(n_resamples, random_state, 0)]
    resamples = [g.multinomial(min(n_cells, RESAMPLED_CELLS), distinct.counts / n_cells) for g in generators]

    def agreement(task: tuple[int, int, int]) -> float:
        k, replicate, seed = task
        drawn = np.flatnonzero(resamples[replicate])
        rows, weights = distinct.rows[drawn], resamples[replicate][drawn]
        _, centers, _ = _fit(rows, weights, min(k, len(drawn)), seed, KMEANS_STARTS)
        return adjusted_rand_index(tried[k], nearest_center(distinct.rows, centers), distinct.counts)

    tasks = [
        (k, replicate, seed) for k in tried for replicate, seed in enumerate(_seeds(n_resamples, random_state, k, 1))
    ]
    values = each(agreement, tasks, "resamples")
    return _stability_table(
        [(k, CELLS, replicate, value) for (k, replicate, _), value in zip(tasks, values, strict=True)]
    )


def _stability_table(rows: Sequence[tuple[int, str, int, float]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=[N_CLUSTERS, VARIED, REPLICATE, ADJUSTED_RAND])
    return table.astype({N_CLUSTERS: np.int32, VARIED: object, REPLICATE: np.int32, ADJUSTED_RAND: np.float64})


def _seeds(count: int, *entropy: int) -> list[int]:
    """Return seeds, no two purposes (the entropy) the same."""
    return [int(seed) for seed in np.random.SeedSequence(entropy).generate_state(count)] if count else []


def nearest_center(rows: Rows, centers: Rows) -> Labels:
    """Return the nearest of `centers` (cluster, type) for each of `rows` (row, type), the first on ties."""
    nearest = np.empty(len(rows), dtype=np.int32)
    squares = (centers**2).sum(axis=1)
    for own in blocks_of_rows(len(rows)):
        squared = squares - 2 * rows[own] @ centers.T  # but for a constant of each row
        nearest[own] = squared.argmin(axis=1)
    return nearest


def blocks_of_rows(n_rows: int) -> Iterator[slice]:
    """Yield rows a block at a time, so that what is made of them stays in the cache."""
    for start in range(0, n_rows, _BLOCK):
        yield slice(start, min(start + _BLOCK, n_rows))


def _by_size(cluster: Labels, counts: npt.NDArray[np.int64]) -> Labels:
    """Renumber clusters by their number of cells, the largest first; of equals, the one with the first row."""
    names, first = np.unique(cluster, return_index=True)
    sizes = np.bincount(cluster, weights=counts)[names]
    rank = np.empty(int(names.max()) + 1, dtype=np.int32)
    rank[names[np.lexsort((first, -sizes))]] = np.arange(len(names))
    return rank[cluster]


def _means(rows: Rows, weights: npt.NDArray[np.int64], labels: Labels) -> Rows:
    """Return the weighted mean of each cluster's rows, (cluster, type)."""
    members = np.eye(int(labels.max()) + 1)[labels] * weights[:, None]  # (row, cluster)
    return np.asarray(members.T @ rows / members.sum(axis=0)[:, None])


def _contingency(one: Labels, other: Labels, counts: npt.NDArray[np.int64] | None) -> Rows:
    """Return how many cells are in each cluster of both, (cluster of one, cluster of the other)."""
    shape = int(one.max()) + 1, int(other.max()) + 1
    table = np.bincount(one.astype(np.int64) * shape[1] + other, weights=counts, minlength=shape[0] * shape[1])
    return table.astype(np.float64).reshape(shape)


def adjusted_mutual_information(one: Labels, other: Labels) -> float:
    """Return how much two clusterings say about each other: 1 if they are the same but for names, about 0 by chance.

    Parameters
    ----------
    one, other
        Cluster of each cell, (cell,).

    Notes
    -----
    Of the mean of both entropies. The expectation is over hypergeometric counts, as far as 12 standard deviations from
    their mean: there is nothing beyond. N. X. Vinh, J. Epps, J. Bailey, "Information theoretic measures for
    clusterings comparison", J. Mach. Learn. Res. 11 (2010), 2837-2854.
    """
    table = _contingency(one, other, None)
    of_one, of_other, n_cells = table.sum(axis=1), table.sum(axis=0), table.sum()

    def information_of(cells: Rows, by_chance: Rows) -> float:
        some = cells > 0
        return float((cells[some] * np.log(cells[some] / by_chance[some])).sum() / n_cells)

    entropies = [information_of(sizes, sizes * sizes / n_cells) for sizes in (of_one, of_other)]
    if min(entropies) <= 0:  # all cells in one cluster
        return float(max(entropies) <= 0)
    information = information_of(table, np.outer(of_one, of_other) / n_cells)
    expected = sum(
        _expected_information(int(first), int(second), int(n_cells)) for first in of_one for second in of_other
    )
    smallest = np.finfo(np.float64).eps  # where clusterings are the same up to rounding
    largest = np.mean(entropies) - expected
    return float((information - expected) / np.copysign(max(abs(largest), smallest), largest))


def _expected_information(one: int, other: int, n_cells: int) -> float:
    """Return what a pair of clusters adds to the mutual information if they have cells in common by chance."""
    if not one * other:
        return 0.0
    mean = one * other / n_cells
    reach = 12 * math.sqrt(mean * (1 - one / n_cells) * (1 - other / n_cells)) + 40
    lowest = max(0, one + other - n_cells, math.floor(mean - reach))
    common = np.arange(lowest, min(one, other, math.ceil(mean + reach)) + 1)
    # From the ratios of neighboring chances: scipy's own take a hundred times as long, of fewer than 104,729 cells.
    fewer = common[:-1].astype(np.float64)
    ratios = (one - fewer) * (other - fewer) / ((fewer + 1) * (n_cells - one - other + fewer + 1))
    logs = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    chance = np.exp(logs - logs.max())
    return float(chance @ special.xlogy(common, common / mean) / chance.sum() / n_cells)


def adjusted_rand_index(one: Labels, other: Labels, counts: npt.NDArray[np.int64] | None = None) -> float:
    """Return how well two clusterings agree: 1 if they are the same but for names, about 0 by chance.

    Parameters
    ----------
    one, other
        Cluster of each row, (row,).
    counts
        How many cells have each row, (row,); None: rows are cells.

    Notes
    -----
    L. Hubert, P. Arabie, "Comparing partitions", J. Classif. 2 (1985), 193-218.
    """
    table = _contingency(one, other, counts)

    def pairs(sizes: npt.NDArray[np.float64]) -> float:
        return float((sizes * (sizes - 1)).sum() / 2)

    together, of_one, of_other = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    everything = pairs(table.sum(keepdims=True))
    expected = of_one * of_other / everything if everything else 0.0
    largest = (of_one + of_other) / 2
    return 1.0 if largest == expected else (together - expected) / (largest - expected)


# --- Silhouettes


def silhouettes(
    distinct: DistinctRows, clusters: Mapping[int, Labels], random_state: int = 0, each: Each | None = None
) -> dict[int, float]:
    """Return the mean silhouette over all cells of several clusterings.

    Exact: equal to the score over all cells, from distances between distinct rows only, each computed once for both
    rows and all clusterings, in tiles of 0.5 MiB. Beyond 10^10 of them (100,000 distinct rows) the mean is over a
    sample of the cells, each still against all others.

    Parameters
    ----------
    distinct
        The rows.
    clusters
        Cluster of each row, (row,), numbered by size, by number of clusters; every cluster has a row.
    random_state
        Seed of the sample.
    each
        Runs pieces side by side; None: by one thread.

    Notes
    -----
    P. J. Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 20 (1987), 53-65.
    """
    from scipy.spatial.distance import cdist

    if not clusters:
        return {}
    rows, counts = distinct.rows, distinct.counts
    n_rows = len(rows)
    averaged = counts
    if n_rows**2 > SILHOUETTE_PAIRS:
        n_drawn = max(1, SILHOUETTE_PAIRS // n_rows)
        logger.warning(
            "%d distinct compositions: silhouettes are averaged over a sample of %d cells, not over all %d.",
            n_rows, n_drawn, int(counts.sum()),
        )  # fmt: skip
        averaged = np.random.default_rng(_seeds(1, random_state, 0, 2)).multinomial(n_drawn, counts / counts.sum())
    # Rows that are not in the sample come last: nothing is summed for them.
    order = _alike_together(clusters)
    order = order[np.argsort(averaged[order] == 0, kind="stable")]
    rows, counts, averaged = rows[order], counts[order], averaged[order]
    n_wanted = int(np.count_nonzero(averaged))
    labels_of = [labels[order] for labels in clusters.values()]
    sizes = [np.bincount(labels, weights=counts).astype(np.float64) for labels in labels_of]
    # (row, clusters of all clusterings): one product sums distances to all of them.
    members = np.hstack([np.eye(len(size))[labels] for size, labels in zip(sizes, labels_of, strict=True)])
    members *= counts[:, None]
    squares = (rows**2).sum(axis=1)
    left = np.column_stack([-2 * rows, squares, np.ones(n_rows)])
    right = np.ascontiguousarray(np.column_stack([rows, np.ones(n_rows), squares]).T)
    bands = [*_bands(0, n_wanted), *_bands(n_wanted, n_rows)]
    # Of rows that are alike most clusters have none or all, and no column needs to be summed twice.
    weights = {tile.start: _distinct_columns(members[tile]) for band in bands for tile in band}
    sums = np.zeros((members.shape[1], n_wanted))  # of distances, (cluster, row)

    def add(to: slice, of: slice, distance: Rows) -> None:
        """Add distances (row of `of`, row of `to`) to the sums of `to`."""
        columns, of_cluster = weights[of.start]
        sums[:, to] += np.take(columns @ distance, of_cluster, axis=0)

    def add_between(pair: tuple[list[slice], list[slice]]) -> None:
        """Add the distances between two bands to the sums of both, each computed once."""
        memory = np.empty(_TILE**2)
        for one, other in _pairs_of_tiles(*pair):
            shape = one.stop - one.start, other.stop - other.start
            distance = memory[: shape[0] * shape[1]].reshape(shape)
            np.matmul(left[one], right[:, other], out=distance)
            if distance.min() < _NEAR:
                cdist(rows[one], rows[other], out=distance)  # slower; the same rows are at exactly 0 then
            else:
                np.sqrt(distance, out=distance)
            add(one, other, distance.T)
            if other != one and other.start < n_wanted:
                add(other, one, distance)

    # One bar for all rounds, which take about as long as each other.
    for pairs in progress(_rounds(bands), "silhouettes", len(bands)):
        (each or one_by_one)(add_between, [pair for pair in pairs if pair[0][0].start < n_wanted], None)
    ends = np.cumsum([len(size) for size in sizes])[:-1]
    values = [
        _of_rows(known.T, labels[:n_wanted], size)
        for known, labels, size in zip(np.split(sums, ends), labels_of, sizes, strict=True)
    ]
    return {k: float(value @ averaged[:n_wanted] / averaged.sum()) for k, value in zip(clusters, values, strict=True)}


def _bands(start: int, stop: int) -> Iterator[list[slice]]:
    """Yield the tiles of each band of some rows; the bands depend on nothing but the rows."""
    n_tiles = -(-(stop - start) // _TILE)
    tiles = [slice(begin, min(begin + _TILE, stop)) for begin in range(start, stop, _TILE)]
    step = -(-n_tiles // _BANDS)
    for first in range(0, n_tiles, step or 1):
        yield tiles[first : first + step]


def _rounds(bands: Sequence[list[slice]]) -> Iterator[list[tuple[list[slice], list[slice]]]]:
    """Yield all pairs of bands, also of each with itself, in rounds in which no band is in two of them."""
    for number in range(len(bands)):
        partners = [(first, (number - first) % len(bands)) for first in range(len(bands))]
        yield [(bands[first], bands[other]) for first, other in partners if first <= other]


def _pairs_of_tiles(one: list[slice], other: list[slice]) -> Iterator[tuple[slice, slice]]:
    """Yield all pairs of tiles of two bands, those of the same band once."""
    return itertools.combinations_with_replacement(one, 2) if one is other else itertools.product(one, other)


def _alike_together(clusters: Mapping[int, Labels]) -> npt.NDArray[np.intp]:
    """Return an order of the rows, (row,), in which those of the same cluster in all clusterings are together.

    Large groups of such rows come first: there are whole tiles of them.
    """
    group = pd.DataFrame(dict(clusters)).groupby(list(clusters), sort=True).ngroup().to_numpy()
    size = np.bincount(group)[group]
    return np.lexsort((group, -np.where(size >= _TILE // 4, size, 0)))


def _distinct_columns(matrix: Rows) -> tuple[Rows, npt.NDArray[np.intp]]:
    """Return the columns of a matrix without repetitions, as rows, and which of them each column is, (column,)."""
    places: dict[bytes, int] = {}
    of_column = np.array([places.setdefault(column.tobytes(), len(places)) for column in matrix.T])
    first = np.unique(of_column, return_index=True)[1]
    return np.ascontiguousarray(matrix[:, first].T), of_column


def _of_rows(
    to_cluster: npt.NDArray[np.float64], own: Labels, sizes: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the silhouette of rows, (row,), from their summed distances to each cluster, (row, cluster)."""
    here = np.arange(len(own))
    within = to_cluster[here, own] / np.maximum(sizes[own] - 1, 1)
    mean = to_cluster / sizes
    mean[here, own] = np.inf
    nearest = mean.min(axis=1)
    largest = np.maximum(within, nearest)
    value: npt.NDArray[np.float64] = np.zeros_like(within)
    np.divide(nearest - within, largest, out=value, where=largest > 0)
    value[sizes[own] == 1] = 0.0  # a cluster of one cell has no silhouette
    return value
