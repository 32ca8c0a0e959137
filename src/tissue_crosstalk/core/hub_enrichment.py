"""Are hubs real: which sender types a hub attends to more than chance, and whether attention adds to neighborhoods."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from tissue_crosstalk.core.clustering import (
    adjusted_mutual_information,
    adjusted_rand_index,
    blocks_of_rows,
    kmeans_centers,
    nearest_center,
)
from tissue_crosstalk.core.errors import ParameterError, is_whole
from tissue_crosstalk.core.hubs import ISOLATED, Hubs
from tissue_crosstalk.core.statistics import SMALLEST_P, categorical, false_discovery_rate, log2_ratio
from tissue_crosstalk.core.strong_edges import NeighborCounts
from tissue_crosstalk.core.threads import blas_in_one_thread, in_order, threads

logger = logging.getLogger(__name__)

NORMAL_EDGES: Final = 5
"""Expected edges from which on a normal approximation is enough."""

NICHE_CELLS: Final = 50_000
"""Cells of which the niches are found, at most; the others go to the nearest."""

_CELLS_PER_ENTRY: Final = 8  # of a table, from which on it is quicker to draw the entries than to shuffle the cells
_HELD_AT_ONCE: Final = 2**16  # shuffled cells, or entries of tables: what is made of them stays in the cache
_PerHub = npt.NDArray[np.float64]  # (hub, type)
_Stratum = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]


def enrich_hubs(
    hubs: Hubs,
    labels: npt.NDArray[np.integer],
    sections: npt.NDArray[np.integer],
    *,
    n_permutations: int = 999,
    held_out: bool = True,
    random_state: int = 42,
) -> pd.DataFrame:
    """Compare the strong neighbors of each hub with two nulls, per sender type.

    Parameters
    ----------
    hubs
        The hubs.
    labels, sections
        Label and section of each cell of the tissue, (cell,).
    n_permutations
        Permutations of the hub labels.
    held_out
        Hubs are made of the strong neighbors that are to be tested: every hub would be enriched for what made it, in
        random attention too. So a cell's hub is taken from every other one of its neighbors (the nearest center), and
        only the rest is counted. False: everything is used for both, and the p-values are descriptive at best.
    random_state
        Seed of the permutations.

    Returns
    -------
    pandas.DataFrame
        One row per hub and sender type: ``hub``, ``sender``, ``cells`` (that could be used), ``strong_neighbors``
        (counted); then against permuted hub labels ``expected``, ``log2_enrichment``, ``p_value``, ``q_value``; and
        against the neighbors at hand ``expected_at_hand``, ``log2_at_hand``, ``p_at_hand``, ``q_at_hand``.
        Enrichments are log2(counted / expected): −inf where nothing is counted, NaN where nothing is expected.

    Raises
    ------
    ParameterError
        If there is to be no permutation.

    Notes
    -----
    Permutation: hub labels are permuted among the cells of one section and receiver type that have as many strong
    neighbors (the expectation is exact); two-sided p = (1 + permutations at least as far from the expectation) /
    (1 + permutations), never 0. At hand: a cell's strong edges fall on its neighbors at random, whatever their type:
    expectation and variance are hypergeometric, cells independent, and p two-sided from the normal approximation;
    where less than 5 edges are expected, the larger of it and a Poisson tail. Attention that falls with distance makes
    types that stand nearer enriched at hand: it is a property of the tissue, not of types. q: Benjamini-Hochberg over
    all pairs where something is expected; the others have no p.
    """
    if not (is_whole(n_permutations) and n_permutations >= 1):
        raise ParameterError(f"n_permutations must be 1 or more (a whole number). Got {n_permutations!r} instead.")
    counts, cluster = hubs.counts, hubs.cluster
    n_hubs, n_types = hubs.n_hubs, len(hubs.cell_types)
    with blas_in_one_thread():
        if held_out:
            cluster = _hubs_of_one_half(hubs)
            strong, at_hand = (counted[:, 1] for counted in (counts.strong, counts.at_hand))
        else:
            strong, at_hand = (counted.sum(axis=1, dtype=np.uint16) for counted in (counts.strong, counts.at_hand))
        used = cluster != ISOLATED
        cluster, strong, at_hand, receivers = cluster[used], strong[used], at_hand[used], counts.receivers[used]
        if n_hubs and not strong.any():
            logger.warning(
                "no strong neighbor is left to test the hubs on: more neighbors are needed, or held_out=false."
            )
        observed, expected_at_hand, variance = _sums_over_hubs(cluster, strong, at_hand, n_hubs)
        # Also by how many are counted: a hub whose cells attend strongly to everything is not one for each type.
        n_strong = strong.sum(axis=1, dtype=np.int64)
        strata = (sections[receivers].astype(np.int64) * n_types + labels[receivers]) * (
            n_strong.max(initial=0) + 1
        ) + n_strong
        expected, p_value = _permute(observed, _strata(cluster, strong, strata, n_hubs), n_permutations, random_state)
    deviation = np.sqrt(variance)
    z_score = np.divide(observed - expected_at_hand, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)
    p_at_hand = 2 * stats.norm.sf(np.abs(z_score))
    tails = stats.poisson.sf(observed - 1, expected_at_hand), stats.poisson.cdf(observed, expected_at_hand)
    of_poisson = np.minimum(2 * np.minimum(*tails), 1)  # too large rather than too small: its variance is larger
    p_at_hand = np.where(expected_at_hand < NORMAL_EDGES, np.maximum(p_at_hand, of_poisson), p_at_hand)
    p_at_hand = np.maximum(p_at_hand, SMALLEST_P)
    p_value, p_at_hand = np.where(expected > 0, p_value, np.nan), np.where(expected_at_hand > 0, p_at_hand, np.nan)
    hub, sender = np.divmod(np.arange(n_hubs * n_types), n_types)
    return pd.DataFrame(
        {
            "hub": hub.astype(np.int32),
            "sender": categorical(sender, hubs.cell_types),
            "cells": np.bincount(cluster, minlength=n_hubs)[hub],
            "strong_neighbors": observed.reshape(-1).astype(np.int64),
            "expected": expected.reshape(-1),
            "log2_enrichment": log2_ratio(observed, expected).reshape(-1),
            "p_value": p_value.reshape(-1),
            "q_value": false_discovery_rate(p_value.reshape(-1)),
            "expected_at_hand": expected_at_hand.reshape(-1),
            "log2_at_hand": log2_ratio(observed, expected_at_hand).reshape(-1),
            "p_at_hand": p_at_hand.reshape(-1),
            "q_at_hand": false_discovery_rate(p_at_hand.reshape(-1)),
        }
    )


def _hubs_of_one_half(hubs: Hubs) -> npt.NDArray[np.int32]:
    """Return the hub that one half of a cell's neighbors suggests, (cell,); −1 where none of these is strong."""
    cluster = np.full(len(hubs.cluster), ISOLATED, dtype=np.int32)
    for own in blocks_of_rows(len(cluster)):
        strong = hubs.counts.strong[own, 0].astype(np.float64)
        total = strong.sum(axis=1)
        known = (total > 0) & (hubs.cluster[own] != ISOLATED)
        if known.any():
            cluster[own][known] = nearest_center(strong[known] / total[known, None], hubs.centers)
    return cluster


def _sums_over_hubs(
    cluster: npt.NDArray[np.int32], strong: npt.NDArray[np.integer], at_hand: npt.NDArray[np.integer], n_hubs: int
) -> tuple[_PerHub, _PerHub, _PerHub]:
    """Return sums over each hub's cells, all (hub, type), of counts (cell, type).

    They are: the strong neighbors, and mean and variance of these if they fell on the neighbors at hand at random.
    """
    n_types = strong.shape[1]
    sums = np.zeros((n_hubs, 3 * n_types))
    for own in blocks_of_rows(len(cluster)):
        counted, available = strong[own].astype(np.float64), at_hand[own].astype(np.float64)
        drawn, total = counted.sum(axis=1, keepdims=True), available.sum(axis=1, keepdims=True)
        share = available / np.maximum(total, 1)
        left = (total - drawn) / np.maximum(total - 1, 1)
        mean = drawn * share
        members = (cluster[own] == np.arange(n_hubs)[:, None]).astype(np.float64)  # (hub, cell)
        sums += members @ np.hstack([counted, mean, mean * (1 - share) * left])
    observed, expected, variance = np.split(sums, 3, axis=1)
    return observed, expected, variance


def _permute(
    observed: _PerHub, strata: Iterable[_Stratum], n_permutations: int, random_state: int
) -> tuple[_PerHub, _PerHub]:
    """Return expectation and two-sided p of each hub's strong neighbors, both (hub, type)."""
    expected = np.zeros_like(observed)
    permuted = np.zeros((n_permutations, *observed.shape))

    def permute(task: tuple[int, _Stratum]) -> tuple[_PerHub, npt.NDArray[np.float64]]:
        """Return the strong neighbors of each hub in one stratum, expected and for each permutation."""
        number, (in_hubs, rows, alike) = task
        mean = np.outer(in_hubs, alike @ rows / alike.sum())
        if len(alike) == 1 or (in_hubs > 0).sum() == 1:  # every permutation is the same
            return mean, mean
        # A generator of its own: what is drawn does not depend on which thread takes which stratum, and when.
        return mean, _permute_stratum(
            in_hubs, rows, alike, n_permutations, np.random.Generator(np.random.SFC64([random_state, number]))
        )

    for mean, sums in in_order(permute, enumerate(strata), threads()):
        expected += mean
        permuted += sums
    far = np.abs(observed - expected) * (1 - 1e-12) - 1e-9  # not to count a tie out by its last digit
    return expected, (1 + (np.abs(permuted - expected) >= far).sum(axis=0)) / (1 + n_permutations)


def _permute_stratum(
    in_hubs: npt.NDArray[np.int64],
    rows: npt.NDArray[np.float64],
    alike: npt.NDArray[np.int64],
    n_permutations: int,
    generator: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Return the strong neighbors of each hub, (permutation, hub, type), if its cells are drawn at random.

    Cells with the same counts are the same to a permutation: what matters is how many of them each hub gets, a random
    table (hub, row) with given margins.
    """
    n_hubs, n_rows, n_cells = len(in_hubs), len(rows), int(alike.sum())
    permuted: npt.NDArray[np.float64] = np.empty((n_permutations, n_hubs, rows.shape[1]))
    is_large = n_cells > _CELLS_PER_ENTRY * n_hubs * n_rows
    table: npt.NDArray[np.int64 | np.float64]
    step = max(1, _HELD_AT_ONCE // (n_hubs * n_rows if is_large else max(n_cells, n_hubs * n_rows)))
    for start in range(0, n_permutations, step):
        part = permuted[start : start + step]
        if is_large:
            table = stats.random_table.rvs(in_hubs, alike, size=len(part), random_state=generator, method="patefield")
        else:
            table = _deal(in_hubs, alike, len(part), generator)
        part[:] = (table.reshape(-1, n_rows).astype(np.float64) @ rows).reshape(part.shape)
    return permuted


def _deal(
    in_hubs: npt.NDArray[np.int64], alike: npt.NDArray[np.int64], n_tables: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return how many cells with each row hubs get, (table, hub, row), if all cells are shuffled and dealt out.

    Cells are shuffled by sorting random numbers, with the cell's row in their last bits: of all ways to shuffle that
    numpy has the fastest by far, and one that lets other threads work. So many bits are left that two of the numbers
    are hardly ever the same.
    """
    n_hubs, n_rows, n_cells = len(in_hubs), len(alike), int(alike.sum())
    n_bits = np.uint64((n_rows - 1).bit_length())
    keys = generator.integers(2**64, size=(n_tables, n_cells), dtype=np.uint64)
    keys >>= n_bits
    keys <<= n_bits
    keys |= np.repeat(np.arange(n_rows, dtype=np.uint64), alike)
    keys.sort(axis=1)
    keys &= np.uint64(2**64 - 1) >> (np.uint64(64) - n_bits)
    # The first cells go to the first hub, and so on.
    places = np.arange(n_tables)[:, None] * (n_hubs * n_rows) + np.repeat(np.arange(n_hubs) * n_rows, in_hubs)
    np.add(places, keys, out=places, casting="unsafe")
    return np.bincount(places.reshape(-1), minlength=n_tables * n_hubs * n_rows)


def _strata(
    cluster: npt.NDArray[np.int32], strong: npt.NDArray[np.integer], strata: npt.NDArray[np.int64], n_hubs: int
) -> Iterator[_Stratum]:
    """Yield for each stratum its cells per hub (hub,), its distinct counts (row, type), and the cells with each."""
    order = np.argsort(strata, kind="stable")
    numbers = _row_numbers(strong)
    starts = np.flatnonzero(np.diff(strata[order], prepend=-1))
    for own in np.split(order, starts[1:]):
        if len(own):
            _, first, alike = np.unique(numbers[own], return_index=True, return_counts=True)
            in_hubs = np.bincount(cluster[own], minlength=n_hubs)
            yield in_hubs.astype(np.int64), strong[own[first]].astype(np.float64), alike.astype(np.int64)


def _row_numbers(values: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return whole numbers (row,) in the order of the rows of `values` (row, type), and equal where these are."""
    numbers, highest = np.zeros(len(values), dtype=np.int64), 0
    for column in values.T:
        base = int(column.max(initial=0)) + 1
        if (highest + 1) * base > 2**63 - 1:  # fewer numbers will do: there are no more than rows
            numbers = np.unique(numbers, return_inverse=True)[1].astype(np.int64)
            highest = len(values) - 1
        numbers *= base
        numbers += column
        highest = highest * base + base - 1
    return numbers


def compare_with_niches(hubs: Hubs, random_state: int = 42) -> dict[str, float | int | None]:
    """Say how alike hubs and niches are: whether attention adds anything to plain neighborhood composition.

    Parameters
    ----------
    hubs
        The hubs.
    random_state
        Seed of the niches, and of the neighbors that are drawn.

    Returns
    -------
    dict
        ``adjusted_rand`` and ``adjusted_mutual_info`` between the hubs and as many niches (clusters of the types of
        all neighbors, each counting once), over the ``cells`` in hubs; and, as ``adjusted_rand_at_random`` and
        ``adjusted_mutual_info_at_random``, what they would be if every cell attended strongly to as many of its
        neighbors, but to random ones (each cell going to the nearest hub): a few neighbors do not tell a niche.
        Attention adds something where hubs are less like niches than that. None where there are fewer than two hubs.
    """
    in_hub = hubs.cluster != ISOLATED
    names = ("adjusted_rand", "adjusted_mutual_info", "adjusted_rand_at_random", "adjusted_mutual_info_at_random")
    result: dict[str, float | int | None] = {"cells": int(in_hub.sum()), "n_clusters": hubs.n_hubs}
    if hubs.n_hubs < 2:
        return result | dict.fromkeys(names)
    # Random numbers are drawn by one thread, while others find the niches.
    with blas_in_one_thread(), ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(_hubs_at_random, hubs, random_state)
        niches = find_niches(hubs.counts, hubs.n_hubs, random_state)[in_hub]
        own, random = hubs.cluster[in_hub], drawing.result()[in_hub]
    scores = adjusted_rand_index, adjusted_mutual_information
    return result | dict(zip(names, (score(of, niches) for of in (own, random) for score in scores), strict=True))


def _hubs_at_random(hubs: Hubs, random_state: int) -> npt.NDArray[np.int32]:
    """Return the hub of each cell, (cell,), if its strong neighbors were drawn from those at hand."""
    generator = np.random.default_rng(random_state)
    at_hand = hubs.counts.at_hand.sum(axis=1, dtype=np.uint16)
    left, to_draw = at_hand.sum(axis=1, dtype=np.int64), hubs.counts.strong.sum(axis=(1, 2), dtype=np.int64)
    shares = np.zeros(at_hand.shape)
    total = np.maximum(to_draw, 1)
    for label in range(at_hand.shape[1]):
        of_type = at_hand[:, label].astype(np.int64)
        left -= of_type
        drawn = generator.hypergeometric(of_type, left, to_draw)
        shares[:, label] = drawn / total
        to_draw -= drawn
    return nearest_center(shares, hubs.centers)


def find_niches(counts: NeighborCounts, n_clusters: int, random_state: int = 42) -> npt.NDArray[np.int32]:
    """Cluster cells by the types of all their neighbors, whatever the attention.

    Parameters
    ----------
    counts
        Neighbors of the cells.
    n_clusters
        Number of niches; fewer where there are fewer distinct compositions.
    random_state
        Seed.

    Returns
    -------
    numpy.ndarray
        int32 (cell,), 0 is the largest among the cells that were clustered: at most 50,000, drawn at random.
    """
    shares = np.zeros((len(counts.receivers), counts.at_hand.shape[2]))
    for own in blocks_of_rows(len(shares)):
        at_hand = counts.at_hand[own].sum(axis=1, dtype=np.float64)
        shares[own] = at_hand / np.maximum(at_hand.sum(axis=1, keepdims=True), 1)
    sample = shares
    if len(shares) > NICHE_CELLS:
        drawn = np.random.default_rng(random_state).choice(len(shares), NICHE_CELLS, replace=False)
        sample = shares[np.argsort(counts.receivers)[np.sort(drawn)]]  # the same cells in whatever order they come
    return nearest_center(shares, kmeans_centers(sample, n_clusters, random_state))
