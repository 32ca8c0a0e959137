"""Rank-sum tests, false discovery rates and ratios, as the tables of results have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse, stats

SMALLEST_P: Final = float(np.finfo(np.float64).tiny)
"""What a p-value is at least, where it comes from a formula."""

_SORTED_AT_ONCE: Final = 250_000  # values: what is made of them stays in the cache
Values = npt.NDArray[np.float64]


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
    transformed_inside, transformed_outside
        Means of the transformed values, (group, feature); (group, 0) where no transform is given.
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
    transformed_inside: npt.NDArray[np.float64]
    transformed_outside: npt.NDArray[np.float64]
    cells_inside: npt.NDArray[np.int64]
    cells_outside: npt.NDArray[np.int64]


def rank_sum_tests(
    values: sparse.csr_matrix | sparse.csc_matrix | npt.NDArray[np.floating],
    groups: npt.NDArray[np.integer],
    strata: npt.NDArray[np.integer],
    n_groups: int,
    transform: Callable[[Values], Values] | None = None,
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
    transform
        What means are wanted of besides; must be 0 of 0. None: of nothing.

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
    total, positive, transformed = (np.zeros((n_groups + 1, n_features)) for _ in range(3))
    sizes = np.zeros(n_groups + 1, dtype=np.int64)  # the last are those in no group
    group = np.where((groups >= 0) & (groups < n_groups), groups, n_groups).astype(np.uint32)
    for stratum in np.unique(strata):
        own = np.flatnonzero(strata == stratum)
        part = _by_feature(values if len(own) == len(strata) else values[own])
        size = np.bincount(group[own], minlength=n_groups + 1)
        sizes += size
        of_group, others = size[:-1, None], len(own) - size[:-1, None]
        step = max(1, _SORTED_AT_ONCE * n_features // max(part.nnz, 1))
        for start in range(0, n_features, step):
            some = slice(start, min(start + step, n_features))
            sums = _sum_ranks(part, some, group[own], n_groups + 1, transform)
            rank_sum = sums.ranks + sums.rank_of_zero * (size[:, None] - sums.nonzero)
            u[:, some] += rank_sum[:-1] - of_group * (of_group + 1) / 2
            spread = len(own) + 1 - sums.ties / max(len(own) * (len(own) - 1), 1)
            variance[:, some] += of_group * others / 12 * spread
            total[:, some] += sums.values
            positive[:, some] += sums.positive
            transformed[:, some] += sums.transformed
        expected += of_group * others / 2
        comparisons += of_group * others
    difference = u - expected
    # The continuity correction does not overshoot the expectation.
    corrected = np.sign(difference) * np.maximum(np.abs(difference) - 0.5, 0)
    z_score = np.divide(corrected, np.sqrt(np.maximum(variance, 0)), out=np.zeros_like(u), where=variance > 0)
    mean_inside, mean_outside = _means(total, sizes)
    positive_inside, positive_outside = _means(positive, sizes)
    transformed_inside, transformed_outside = _means(transformed[:, : n_features if transform else 0], sizes)
    tested = comparisons > 0
    return RankSums(
        roc_auc=np.divide(u, comparisons, out=np.full_like(u, np.nan), where=tested),
        z_score=np.where(tested, z_score, np.nan),
        p_value=np.where(tested, np.clip(2 * stats.norm.sf(np.abs(z_score)), SMALLEST_P, 1), np.nan),
        mean_inside=mean_inside,
        mean_outside=mean_outside,
        positive_inside=positive_inside,
        positive_outside=positive_outside,
        transformed_inside=transformed_inside,
        transformed_outside=transformed_outside,
        cells_inside=sizes[:-1],
        cells_outside=sizes.sum() - sizes[:-1],
    )


def _means(sums: Values, sizes: npt.NDArray[np.int64]) -> tuple[Values, Values]:
    """Return means inside and outside of each group from sums over all groups, the last of them no group."""
    inside, outside = sizes[:-1, None], (sizes.sum() - sizes[:-1])[:, None]
    return sums[:-1] / np.maximum(inside, 1), (sums.sum(axis=0) - sums[:-1]) / np.maximum(outside, 1)


def _by_feature(values: sparse.csr_matrix | sparse.csc_matrix | npt.NDArray[np.floating]) -> sparse.csc_matrix:
    """Return values (cell, feature) feature by feature, without stored zeros."""
    if isinstance(values, np.ndarray):
        by_feature = np.ascontiguousarray(values.T)
        starts = np.concatenate([[0], np.cumsum(np.count_nonzero(by_feature, axis=1))])
        cells = np.flatnonzero(by_feature)
        return sparse.csc_matrix((by_feature.reshape(-1)[cells], cells % len(values), starts), shape=values.shape)
    part = sparse.csc_matrix(values, copy=isinstance(values, sparse.csc_matrix))  # else it would be the caller's own
    part.sum_duplicates()
    part.eliminate_zeros()
    return part


@dataclass(frozen=True, eq=False)
class _StratumSums:
    """Sums over the values other than 0 of each group, (group, feature), and what zeros and ties do, (feature,)."""

    ranks: Values
    nonzero: Values
    values: Values
    positive: Values
    transformed: Values
    rank_of_zero: Values
    ties: Values


def _sum_ranks(
    part: sparse.csc_matrix,
    some: slice,
    group: npt.NDArray[np.uint32],
    n_groups: int,
    transform: Callable[[Values], Values] | None,
) -> _StratumSums:
    """Rank some features among all cells; `part` is (cell, feature) without stored zeros, `group` (cell,)."""
    bounds = part.indptr[some.start : some.stop + 1].astype(np.int64)
    stored = slice(bounds[0], bounds[-1])
    values, value_group = part.data[stored], group[part.indices[stored]]
    starts, n_nonzero = bounds[:-1] - bounds[0], np.diff(bounds)
    n_features, n_zeros = len(starts), (part.shape[0] - n_nonzero).astype(np.float64)
    first_place = np.repeat(np.arange(n_features) * n_groups, n_nonzero)  # of each value's feature, among the sums

    def by_group(place: npt.NDArray[np.integer], weights: npt.NDArray[np.floating | np.bool_] | None = None) -> Values:
        sums = np.bincount(place, weights=weights, minlength=n_groups * n_features)
        return np.ascontiguousarray(sums.reshape(n_features, n_groups).T, dtype=np.float64)

    place = first_place + value_group
    nonzero = by_group(place)
    is_positive = values > 0
    positive = nonzero if is_positive.all() else by_group(place, is_positive)
    ranks, ranked_group, ties = _rank(values, value_group, starts)
    return _StratumSums(
        # Zeros come after what is negative, before what is positive.
        ranks=by_group(first_place + ranked_group, ranks) - starts * nonzero + n_zeros * positive,
        nonzero=nonzero,
        values=by_group(place, values),
        positive=positive,
        transformed=np.zeros_like(nonzero)
        if transform is None
        else by_group(place, transform(values.astype(np.float64))),
        rank_of_zero=(nonzero - positive).sum(axis=0) + (n_zeros + 1) / 2,
        ties=ties + n_zeros**3 - n_zeros,
    )


def _rank(
    values: npt.NDArray[np.generic], group: npt.NDArray[np.uint32], starts: npt.NDArray[np.int64]
) -> tuple[Values, npt.NDArray[np.integer], Values]:
    """Return ranks in ascending order feature by feature, the group of each, both (value,), and ties, (feature,).

    Ranks go on from one feature to the next, which `starts`; ties are the sum of n³ − n over runs of n equal values.
    """
    if not len(values):
        return np.zeros(0), group, np.zeros(len(starts))
    codes = _codes(values)
    # A value and its group in one whole number: to sort numbers is much faster than to find an order and follow it.
    group_bits = int(group.max()).bit_length()
    lowest, highest = int(codes.min()), int(codes.max())
    key_type = np.uint32 if highest - lowest < 2 ** (32 - group_bits) else np.uint64
    # Modulo 2^32, in which codes differ by less.
    keys: npt.NDArray[np.uint32 | np.uint64] = codes.view(np.uint32) - np.uint32(lowest % 2**32)
    keys = keys.astype(key_type, copy=False)
    keys <<= key_type(group_bits)
    keys |= group
    for feature in np.split(keys, starts[1:]):
        feature.sort()
    value = keys >> key_type(group_bits)
    is_first = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(value[1:], value[:-1], out=is_first[1:])
    is_first[starts[starts < len(keys)]] = True
    first = np.flatnonzero(is_first)
    length = np.diff(first, append=len(keys))
    ranks = np.repeat(first + (length + 1) / 2, length)  # runs of the same value share the mean of their ranks
    tied = np.flatnonzero(length > 1)
    run_feature = np.searchsorted(starts, first[tied], side="right") - 1
    size = length[tied].astype(np.float64)
    ties = np.bincount(run_feature, weights=size * size * size - size, minlength=len(starts))
    keys &= key_type((1 << group_bits) - 1)
    return ranks, keys.astype(np.uint32, copy=False), ties.astype(np.float64)


def _codes(values: npt.NDArray[np.generic]) -> npt.NDArray[np.integer]:
    """Return whole numbers of 32 bits that are in the order of the values, and equal where these are, (value,)."""
    single = values.astype(np.float32, copy=False)
    if values.dtype != np.float32 and not (single == values).all():
        return np.asarray(pd.factorize(values, sort=True)[0], dtype=np.int32)
    bits = single.view(np.int32)
    is_negative = bits < 0
    if not is_negative.any():
        return bits
    return np.where(is_negative, bits ^ np.int32(2**31 - 1), bits)  # the bits of negative floats are in reverse order
