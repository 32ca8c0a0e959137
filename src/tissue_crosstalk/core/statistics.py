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
        Means, and shares of cells above 0, (group, feature).
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
        part, inside = sparse.csc_matrix(values[own]), group[own]
        part.eliminate_zeros()
        size = np.bincount(inside, minlength=n_groups + 1)
        sizes += size
        n_cells, of_group = len(own), size[:-1]
        others = n_cells - of_group
        for feature in range(n_features):
            column = slice(part.indptr[feature], part.indptr[feature + 1])
            value, where = part.data[column].astype(np.float64), inside[part.indices[column]]
            ranks, rank_of_zero, ties = _ranks(value, n_cells)
            in_group = np.bincount(where, minlength=n_groups + 1)
            rank_sum = np.bincount(where, weights=ranks, minlength=n_groups + 1) + rank_of_zero * (size - in_group)
            u[:, feature] += rank_sum[:-1] - of_group * (of_group + 1) / 2
            expected[:, feature] += of_group * others / 2
            spread = n_cells + 1 - ties / max(n_cells * (n_cells - 1), 1)
            variance[:, feature] += of_group * others / 12 * spread
            comparisons[:, feature] += of_group * others
            total[:, feature] += np.bincount(where, weights=value, minlength=n_groups + 1)
            positive[:, feature] += np.bincount(where[value > 0], minlength=n_groups + 1)
    difference = u - expected
    # The continuity correction does not overshoot the expectation.
    corrected = np.sign(difference) * np.maximum(np.abs(difference) - 0.5, 0)
    z_score = np.divide(corrected, np.sqrt(variance), out=np.zeros_like(u), where=variance > 0)
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


def _ranks(values: npt.NDArray[np.float64], n_cells: int) -> tuple[npt.NDArray[np.float64], float, float]:
    """Return ranks among `n_cells` values of which all but `values` are 0, the rank of a 0, and the sum of t³ − t."""
    n_zeros = n_cells - len(values)
    negative = values < 0
    ranks = np.asarray(stats.rankdata(values)) + np.where(negative, 0, n_zeros)
    tied = np.unique(values, return_counts=True)[1].astype(np.float64)
    ties = float((tied**3 - tied).sum()) + float(n_zeros) ** 3 - n_zeros
    return ranks, float(negative.sum() + (n_zeros + 1) / 2), ties
