"""Rank-sum tests, false discovery rates and ratios, as the tables of results have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse, stats

SMALLEST_P: Final = float(np.finfo(np.float64).tiny)
"""What a p-value is at least, where it comes from a formula."""

_SORTED_AT_ONCE: Final = 2_000_000  # values


def log2_ratio(observed: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return log2(observed / expected): −inf where nothing is observed, NaN where nothing is expected."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, np.log2(observed / expected), np.nan)


def false_discovery_rate(p_values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return Benjamini-Hochberg q-values, (test,); NaN stay NaN and count for nothing."""
    q_values = np.full(len(p_values), np.nan)
    tested = np.isfinite(p_values)
    if tested.any():
        q_values[tested] = stats.false_discovery_control(p_values[tested])
    return q_values


def categorical(codes: npt.NDArray[np.integer], names: Sequence[str]) -> pd.Categorical:
    """Return names by their codes, as a column of a table."""
    return pd.Categorical.from_codes(cast("Sequence[int]", codes), categories=pd.Index(names, dtype=object))


@dataclass(frozen=True, eq=False)
class RankSums:
    """Wilcoxon rank-sum tests of groups of cells against all other cells, stratum by stratum.

    Attributes
    ----------
    roc_auc
        Probability that a cell inside has a higher value than one outside of its stratum, ties counting half,
        (group, feature); NaN where there is nothing to compare.
    z_score, p_value
        Of the rank sum, (group, feature): normal approximation with ties and continuity, two-sided.
    mean_inside, mean_outside, positive_inside, positive_outside
        Means, and shares of cells above 0, over all strata, (group, feature); 0 where there is no cell.
    cells_inside, cells_outside
        Numbers of cells, (group,).
    """

    roc_auc: npt.NDArray[np.float64]
    z_score: npt.NDArray[np.float64]
    p_value: npt.NDArray[np.float64]
    mean_inside: npt.NDArray[np.float64]
    mean_outside: npt.NDArray[np.float64]
    positive_inside: npt.NDArray[np.float64]
    positive_outside: npt.NDArray[np.float64]
    cells_inside: npt.NDArray[np.int64]
    cells_outside: npt.NDArray[np.int64]


def rank_sum_tests(
    values: sparse.csr_matrix | npt.NDArray[np.floating],
    groups: npt.NDArray[np.integer],
    strata: npt.NDArray[np.integer],
    n_groups: int,
) -> RankSums:
    """Test each group of cells against all others by the ranks of every feature within strata.

    Parameters
    ----------
    values
        (cell, feature), sparse or dense, finite.
    groups
        Group of each cell, (cell,); others than 0 to `n_groups` − 1 are in none, and outside of all.
    strata
        Stratum of each cell, (cell,): cells are compared within a stratum only, so what sets strata apart (a section's
        staining, say) makes no difference.
    n_groups
        Number of groups.

    Returns
    -------
    RankSums
        Each feature is ranked once for all groups, and only its values other than 0 are sorted.

    Notes
    -----
    Sums over strata of U, of its expectation and of its variance: P. van Elteren, "On the combination of independent
    two sample tests of Wilcoxon", Bull. Int. Stat. Inst. 37 (1960), 351-361, with equal weights. One stratum: the
    test of `scipy.stats.mannwhitneyu`.
    """
    n_features = values.shape[1]
    u, expected, variance, comparisons = (np.zeros((n_groups, n_features)) for _ in range(4))
    total, positive = np.zeros((n_groups + 1, n_features)), np.zeros((n_groups + 1, n_features))
    sizes = np.zeros(n_groups + 1, dtype=np.int64)  # the last are those in no group
    group = np.where((groups >= 0) & (groups < n_groups), groups, n_groups).astype(np.int64)
    for stratum in np.unique(strata):
        own = np.flatnonzero(strata == stratum)
        part = sparse.csc_matrix(values[own])
        part.sum_duplicates()
        part.eliminate_zeros()
        size = np.bincount(group[own], minlength=n_groups + 1)
        sizes += size
        of_group, others = size[:-1, None], len(own) - size[:-1, None]
        step = max(1, _SORTED_AT_ONCE * n_features // max(part.nnz, 1))
        for start in range(0, n_features, step):
            some = slice(start, min(start + step, n_features))
            sums = _sum_ranks(part[:, some], group[own], n_groups + 1)
            rank_sum = sums.ranks + sums.rank_of_zero * (size[:, None] - sums.nonzero)
            u[:, some] += rank_sum[:-1] - of_group * (of_group + 1) / 2
            spread = len(own) + 1 - sums.ties / max(len(own) * (len(own) - 1), 1)
            variance[:, some] += of_group * others / 12 * spread
            total[:, some] += sums.values
            positive[:, some] += sums.positive
        expected += of_group * others / 2
        comparisons += of_group * others
    difference = u - expected
    # The continuity correction does not overshoot the expectation.
    corrected = np.sign(difference) * np.maximum(np.abs(difference) - 0.5, 0)
    z_score = np.divide(corrected, np.sqrt(np.maximum(variance, 0)), out=np.zeros_like(u), where=variance > 0)
    inside_size, outside_size = sizes[:-1, None], (sizes.sum() - sizes[:-1])[:, None]

    def inside_and_outside(sums: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return sums[:-1] / np.maximum(inside_size, 1), (sums.sum(axis=0) - sums[:-1]) / np.maximum(outside_size, 1)

    mean_inside, mean_outside = inside_and_outside(total)
    positive_inside, positive_outside = inside_and_outside(positive)
    tested = comparisons > 0
    return RankSums(
        roc_auc=np.divide(u, comparisons, out=np.full_like(u, np.nan), where=tested),
        z_score=np.where(tested, z_score, np.nan),
        p_value=np.where(tested, np.clip(2 * stats.norm.sf(np.abs(z_score)), SMALLEST_P, 1), np.nan),
        mean_inside=mean_inside,
        mean_outside=mean_outside,
        positive_inside=positive_inside,
        positive_outside=positive_outside,
        cells_inside=inside_size[:, 0],
        cells_outside=outside_size[:, 0],
    )


@dataclass(frozen=True, eq=False)
class _StratumSums:
    """Sums over the values other than 0 of each group, (group, feature), and what zeros and ties do, (feature,)."""

    ranks: npt.NDArray[np.float64]
    nonzero: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    positive: npt.NDArray[np.float64]
    rank_of_zero: npt.NDArray[np.float64]
    ties: npt.NDArray[np.float64]


def _sum_ranks(values: sparse.csc_matrix, group: npt.NDArray[np.int64], n_groups: int) -> _StratumSums:
    """Rank every feature among all cells; `values` is (cell, feature) without stored zeros, `group` (cell,)."""
    n_cells, n_features = values.shape
    n_nonzero = np.diff(values.indptr)
    feature = np.repeat(np.arange(n_features), n_nonzero)
    order = np.lexsort((values.data, feature))
    value, cell_group = values.data[order].astype(np.float64), group[values.indices[order]]
    n_zeros = (n_cells - n_nonzero).astype(np.float64)
    # Runs of the same value share the mean of their ranks.
    is_first = np.ones(len(value), dtype=np.bool_)
    is_first[1:] = (value[1:] != value[:-1]) | (feature[1:] != feature[:-1])
    first = np.flatnonzero(is_first)
    length = np.diff(first, append=len(value))
    run_rank = first - values.indptr[feature[first]] + (length + 1) / 2
    ranks = np.repeat(run_rank, length) + np.where(value > 0, n_zeros[feature], 0)
    n_negative = np.bincount(feature, weights=value < 0, minlength=n_features)
    ties = np.bincount(feature[first], weights=length.astype(np.float64) ** 3 - length, minlength=n_features)
    place = cell_group * n_features + feature

    def by_group(weights: npt.NDArray[np.generic] | None = None) -> npt.NDArray[np.float64]:
        sums = np.bincount(place, weights=weights, minlength=n_groups * n_features)
        return sums.astype(np.float64).reshape(n_groups, n_features)

    return _StratumSums(
        ranks=by_group(ranks),
        nonzero=by_group(),
        values=by_group(value),
        positive=by_group(value > 0),
        rank_of_zero=n_negative + (n_zeros + 1) / 2,
        ties=ties + n_zeros**3 - n_zeros,
    )
