"""Enrichment of hubs: counts and nulls against loops, and that random attention is called random."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pandas as pd
import pytest
from hub_cases import TYPES, Case, hubs_by_hand, made_cells, random_case, with_strength
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.hub_enrichment import (
    _permute_stratum,
    _row_numbers,
    compare_with_niches,
    enrich_hubs,
    find_niches,
)
from tissue_crosstalk.core.hubs import ISOLATED, Hubs
from tissue_crosstalk.core.strong_edges import StrengthShard

COLUMNS = [
    *("hub", "sender", "cells", "strong_neighbors", "expected", "log2_enrichment", "p_value", "q_value"),
    *("expected_at_hand", "log2_at_hand", "p_at_hand", "q_at_hand"),
]


def enriched(case: Case, hubs: Hubs, **options: object) -> pd.DataFrame:
    given = {"n_permutations": 99, "random_state": 1} | options
    return enrich_hubs(hubs, case.cells.labels, case.cells.sections, **given)  # type: ignore[arg-type]


def matrix(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as (hub, type)."""
    return table[column].to_numpy().reshape(-1, len(TYPES))


# --- In loops


def naive_counts(case: Case, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Return strong neighbors, and all, (cell, half, type)."""
    shard, labels = case.shard, case.cells.labels
    of_receiver = labels[shard.receivers]
    values = [shard.strength[of_receiver == label].astype(float) for label in range(len(TYPES))]
    thresholds = [np.quantile(of_type[of_type > 0], quantile) for of_type in values]
    strong, at_hand = (np.zeros((len(shard.receivers), 2, len(TYPES)), dtype=int) for _ in range(2))
    for cell, senders in enumerate(shard.nn_idx):
        for slot, sender in enumerate(senders):
            if sender >= 0:
                at_hand[cell, slot % 2, labels[sender]] += 1
                strong[cell, slot % 2, labels[sender]] += shard.strength[cell, slot] > thresholds[of_receiver[cell]]
    return strong, at_hand


def naive_hubs(hubs: Hubs, strong: np.ndarray, *, held_out: bool) -> np.ndarray:
    """Return the hub of each cell, the nearest center of its even slots if held out."""
    cluster = hubs.cluster.copy()
    for cell in range(len(cluster)):
        if held_out and cluster[cell] != ISOLATED:
            even = strong[cell, 0]
            cluster[cell] = ISOLATED
            if even.sum():
                cluster[cell] = np.argmin([((even / even.sum() - center) ** 2).sum() for center in hubs.centers])
    return cluster


Stratum = tuple[int, int, int]


def strata_of(case: Case, counted: np.ndarray) -> list[Stratum]:
    """Return section, type and number of strong neighbors of each receiver."""
    receivers = case.shard.receivers
    sections, labels = case.cells.sections[receivers], case.cells.labels[receivers]
    return list(zip(sections.tolist(), labels.tolist(), counted.sum(axis=1).tolist(), strict=True))


def naive_expectation(cluster: np.ndarray, counted: np.ndarray, strata: list[Stratum]) -> np.ndarray:
    """Return what each hub has on average over all permutations within strata, (hub, type)."""
    expected = np.zeros((int(cluster.max()) + 1, counted.shape[1]))
    for stratum in set(strata):
        own = [cell for cell, other in enumerate(strata) if other == stratum and cluster[cell] != ISOLATED]
        for cell in own:
            expected[cluster[cell]] += np.mean(counted[own], axis=0)
    return expected


def naive_sums(cluster: np.ndarray, counted: np.ndarray) -> np.ndarray:
    return np.array([counted[cluster == hub].sum(axis=0) for hub in range(int(cluster.max()) + 1)])


def naive_p(cluster: np.ndarray, counted: np.ndarray, strata: list[Stratum], seed: int, n: int) -> np.ndarray:
    """Return p of n permutations of the hub labels, a cell at a time, (hub, type)."""
    generator = np.random.default_rng(seed)
    expected = naive_expectation(cluster, counted, strata)
    distance = np.abs(naive_sums(cluster, counted) - expected)
    of_stratum = [
        [cell for cell, other in enumerate(strata) if other == stratum and cluster[cell] != ISOLATED]
        for stratum in sorted(set(strata))
    ]
    members = np.arange(int(cluster.max()) + 1)[:, None]
    far = np.zeros(distance.shape)
    permuted = cluster.copy()
    for _ in range(n):
        for own in of_stratum:
            permuted[own] = generator.permutation(cluster[own])
        far += np.abs((permuted == members).astype(float) @ counted - expected) >= distance - 1e-9
    return (1 + far) / (1 + n)


@pytest.fixture(params=[True, False], ids=["held out", "everything"])
def held_out(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def counted_of(strong: np.ndarray, held_out: bool) -> np.ndarray:
    """Return what is counted of strong neighbors, or of those at hand, (cell, type)."""
    return strong[:, 1] if held_out else strong.sum(axis=1)


@pytest.mark.parametrize("seed", range(2))
def test_counts_and_expectations_equal_loops(seed: int, held_out: bool) -> None:
    case = random_case(seed, n_cells=100)
    hubs = case.hubs()
    strong, at_hand = naive_counts(case, 0.7)
    cluster = naive_hubs(hubs, strong, held_out=held_out)
    counted, available = counted_of(strong, held_out), counted_of(at_hand, held_out)
    assert (cluster == ISOLATED).any()
    assert (not held_out) or (cluster != hubs.cluster).any()

    table = enriched(case, hubs, held_out=held_out)
    assert list(table.columns) == COLUMNS
    assert table["hub"].tolist() == np.repeat(range(3), 3).tolist()
    assert table["sender"].tolist() == list(TYPES) * 3
    sizes = [int((cluster == hub).sum()) for hub in range(3)]
    assert table["cells"].tolist() == np.repeat(sizes, 3).tolist()
    observed = naive_sums(cluster, counted)
    np.testing.assert_array_equal(matrix(table, "strong_neighbors"), observed)
    expected = naive_expectation(cluster, counted, strata_of(case, counted))
    np.testing.assert_allclose(matrix(table, "expected"), expected, rtol=1e-12)
    np.testing.assert_allclose(matrix(table, "log2_enrichment"), np.log2(observed / expected), rtol=1e-9)

    mean, variance = np.zeros((3, 3)), np.zeros((3, 3))
    for cell in np.flatnonzero(cluster != ISOLATED):
        if counted[cell].sum():
            of_cell = stats.multivariate_hypergeom(available[cell], counted[cell].sum())
            mean[cluster[cell]] += of_cell.mean()
            variance[cluster[cell]] += np.diag(of_cell.cov())
    np.testing.assert_allclose(matrix(table, "expected_at_hand"), mean, rtol=1e-12)
    np.testing.assert_allclose(matrix(table, "log2_at_hand"), np.log2(observed / mean), rtol=1e-9)
    p_at_hand = 2 * stats.norm.sf(np.abs(observed - mean) / np.sqrt(variance))
    for pair in np.argwhere(mean < 5):
        found, rate = observed[tuple(pair)], mean[tuple(pair)]
        of_poisson = 2 * min(stats.poisson.sf(found - 1, rate), stats.poisson.cdf(found, rate))
        p_at_hand[tuple(pair)] = max(p_at_hand[tuple(pair)], min(of_poisson, 1))
    np.testing.assert_allclose(matrix(table, "p_at_hand"), p_at_hand, rtol=1e-9)


def test_p_equals_permutations_of_cells(held_out: bool) -> None:
    """Within four standard errors of both; the seeds are fixed."""
    case, n = random_case(5, n_cells=200 if held_out else 90), 999
    hubs = case.hubs()
    strong, _ = naive_counts(case, 0.7)
    cluster = naive_hubs(hubs, strong, held_out=held_out)
    table = enriched(case, hubs, held_out=held_out, n_permutations=n)
    p_values = matrix(table, "p_value")
    naive = naive_p(cluster, counted_of(strong, held_out), strata_of(case, counted_of(strong, held_out)), 6, n)
    error = np.sqrt(2 * np.maximum(naive * (1 - naive), 1 / n) / n)
    assert (np.abs(p_values - naive) < 4 * error).all()
    assert p_values.min() < 0.5
    assert len(np.unique(p_values)) > 3


def test_p_equals_all_arrangements() -> None:
    """Seven cells, three in hub 0: of the 35 arrangements, p is the share of those as far from the mean."""
    labels, counted = np.zeros(7, dtype=int), np.array([[4, 0], [3, 1], [0, 4], [1, 3], [0, 4], [2, 2], [1, 3]])
    cluster = np.array([0, 0, 0, 1, 1, 1, 1])
    hubs = hubs_by_hand(cluster, counted, cell_types=("A", "B"))
    table = enrich_hubs(hubs, labels, labels, held_out=False, n_permutations=20_000, random_state=3)
    mean = counted.mean(axis=0)
    sums = np.array([counted[list(chosen)].sum(axis=0) for chosen in itertools.combinations(range(7), 3)])
    distance = np.abs(counted[:3].sum(axis=0) - 3 * mean)
    exact = (np.abs(sums - 3 * mean) >= distance - 1e-9).mean(axis=0)
    assert ((exact > 0.05) & (exact < 0.95)).all()
    np.testing.assert_allclose(matrix_of(table, "p_value", 2), [exact, exact], atol=4 * np.sqrt(0.25 / 20_000))
    np.testing.assert_allclose(matrix_of(table, "expected", 2), [3 * mean, 4 * mean])


def matrix_of(table: pd.DataFrame, column: str, n_types: int) -> np.ndarray:
    return table[column].to_numpy().reshape(-1, n_types)


def test_as_far_below_counts_as_above() -> None:
    """0.7 + 0.2 + 0.1 is 1 but for its last digit; 2 were counted: 0, 2 and 3 are as far."""
    share = np.array([0.7, 0.2, 0.1])
    has_one = (np.arange(10) >= 10 - 10 * share[:, None]).astype(int)  # (section, cell)
    cluster = np.ones((3, 10), dtype=int)
    cluster[0, 9] = cluster[1, 9] = cluster[2, 0] = 0
    counted = np.stack([has_one, 1 - has_one], axis=2).reshape(-1, 2)
    hubs = hubs_by_hand(cluster.reshape(-1), counted, cell_types=("A", "B"))
    sections = np.repeat(range(3), 10)
    table = enrich_hubs(hubs, np.zeros(30, dtype=int), sections, held_out=False, n_permutations=20_000)
    assert table["strong_neighbors"][0] == 2
    assert table["expected"][0] == pytest.approx(1)
    exact = sum(
        np.prod(np.where(found, share, 1 - share)) for found in itertools.product([0, 1], repeat=3) if sum(found) != 1
    )
    assert exact == pytest.approx(0.418)
    assert table["p_value"][0] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


# --- By hand


def test_enrichment_by_hand() -> None:
    """Three strata: cells 0 to 3 of section 0 (means 2 A, 2 B), cell 4 that has another number, and section 1."""
    strong = np.array([[4, 0, 0], [2, 2, 0], [2, 2, 0], [0, 4, 0], [1, 0, 0], [0, 5, 0], [5, 0, 0]])
    hubs = hubs_by_hand([0, 0, 1, 1, 0, 0, 0], strong, strong + 1)
    table = enrich_hubs(hubs, np.zeros(7, dtype=int), np.array([0, 0, 0, 0, 0, 1, 1]), held_out=False)
    np.testing.assert_array_equal(matrix(table, "strong_neighbors"), [[12, 7, 0], [2, 6, 0]])
    np.testing.assert_allclose(matrix(table, "expected"), [[4 + 1 + 5, 4 + 5, 0], [4, 4, 0]])
    np.testing.assert_allclose(
        matrix(table, "log2_enrichment"), [[np.log2(12 / 10), np.log2(7 / 9), np.nan], [-1, np.log2(1.5), np.nan]]
    )
    assert np.isnan(matrix(table, "p_value")[:, 2]).all()
    assert np.isnan(matrix(table, "q_value")[:, 2]).all()


def test_at_hand_by_hand() -> None:
    """Ten cells, two strong of two A and three B: 4/5 A are expected of each, with variance 2 · 2/5 · 3/5 · 3/4."""
    strong, zeros = np.tile([2, 0, 0], (10, 1)), np.zeros(10, dtype=int)
    table = enrich_hubs(hubs_by_hand(zeros, strong, np.tile([2, 3, 0], (10, 1))), zeros, zeros, held_out=False)
    np.testing.assert_allclose(table["expected_at_hand"], [8, 12, 0])
    np.testing.assert_allclose(table["log2_at_hand"], [np.log2(2.5), -np.inf, np.nan])
    p_value = 2 * stats.norm.sf(12 / np.sqrt(3.6))
    np.testing.assert_allclose(table["p_at_hand"], [p_value, p_value, np.nan])
    np.testing.assert_allclose(table["q_at_hand"], [p_value, p_value, np.nan])


def test_few_edges_at_hand_have_the_tails_of_poisson() -> None:
    """One such cell: a normal distribution would give 0.0455 for both."""
    hubs, zero = hubs_by_hand([0], np.array([[2, 0, 0]]), np.array([[2, 3, 0]])), np.zeros(1, dtype=int)
    table = enrich_hubs(hubs, zero, zero, held_out=False)
    two_or_more, none = 1 - 1.8 * np.exp(-0.8), np.exp(-1.2)
    np.testing.assert_allclose(table["p_at_hand"], [2 * two_or_more, 2 * none, np.nan])


def test_no_choice_is_no_evidence() -> None:
    """All neighbors are strong, or all are of one type: it could not be otherwise."""
    strong = np.array([[2, 3, 0], [0, 1, 0]])
    hubs = hubs_by_hand([0, 1], strong, np.array([[2, 3, 0], [0, 7, 0]]))
    table = enrich_hubs(hubs, np.zeros(2, dtype=int), np.zeros(2, dtype=int), held_out=False)
    np.testing.assert_array_equal(matrix(table, "expected_at_hand"), strong)
    assert table["p_at_hand"].dropna().tolist() == [1, 1, 1]


def test_held_out_by_hand() -> None:
    """The first half says in which hub a cell is; cell 2 has nothing strong in it, cell 3 is in no hub at all."""
    first = np.array([[2, 1, 0], [0, 3, 0], [0, 0, 0], [1, 0, 0]])
    second = np.array([[0, 4, 0], [4, 0, 0], [9, 9, 9], [8, 8, 8]])
    strong = np.stack([first, second], axis=1)
    hubs = hubs_by_hand([1, 1, 0, ISOLATED], strong, centers=np.array([[0.0, 1, 0], [1, 0, 0]]))
    table = enrich_hubs(hubs, np.zeros(4, dtype=int), np.zeros(4, dtype=int))
    np.testing.assert_array_equal(matrix(table, "strong_neighbors"), [[4, 0, 0], [0, 4, 0]])
    np.testing.assert_allclose(matrix(table, "expected"), [[2, 2, 0], [2, 2, 0]])
    assert matrix(table, "log2_enrichment")[0].tolist()[:2] == [1, -np.inf]
    assert table["cells"].tolist() == [1] * 6


def test_a_hub_without_cells_in_it_has_no_enrichment() -> None:
    hubs = hubs_by_hand([0, 0], np.array([[1, 2, 0], [2, 1, 0]]), centers=np.eye(3))
    table = enrich_hubs(hubs, np.zeros(2, dtype=int), np.zeros(2, dtype=int), held_out=False)
    empty = table[table["hub"] > 0]
    assert (empty[["cells", "strong_neighbors", "expected", "expected_at_hand"]] == 0).all(axis=None)
    assert empty[["log2_enrichment", "log2_at_hand"]].isna().all(axis=None)
    assert empty[["p_value", "q_value", "p_at_hand", "q_at_hand"]].isna().all(axis=None)


def test_without_hubs_the_table_is_empty(held_out: bool) -> None:
    case = random_case(1)
    case = with_strength(case, np.zeros_like(case.shard.strength))
    hubs = case.hubs(n_clusters=None)
    assert hubs.n_hubs == 0
    table = enriched(case, hubs, held_out=held_out)
    assert list(table.columns) == COLUMNS
    assert len(table) == 0


@given(st.lists(st.lists(st.integers(0, 2**16 - 1), min_size=9, max_size=9), min_size=1, max_size=12))
def test_numbers_of_rows_are_in_their_order(rows: list[list[int]]) -> None:
    """Nine columns of 16 bits are more than a number holds."""
    values = np.array(rows + rows[:1], dtype=np.uint16)
    _, expected = np.unique(values, axis=0, return_inverse=True)
    _, found = np.unique(_row_numbers(values), return_inverse=True)
    np.testing.assert_array_equal(found, expected.reshape(-1))


def test_blocks_of_cells_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(5)
    hubs = case.hubs()
    tables = [enriched(case, hubs)]
    monkeypatch.setattr("tissue_crosstalk.core.clustering._BLOCK", 7)
    tables.append(enriched(case, hubs))
    pd.testing.assert_frame_equal(*tables, rtol=1e-12)


# --- p and q


@pytest.mark.parametrize("n_permutations", [1, 19, 99])
def test_p_values_are_multiples_of_their_smallest(n_permutations: int, held_out: bool) -> None:
    case = random_case(2)
    p_values = enriched(case, case.hubs(), n_permutations=n_permutations, held_out=held_out)["p_value"]
    steps = p_values * (n_permutations + 1)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
    assert p_values.between(1 / (n_permutations + 1) - 1e-12, 1).all()
    assert held_out or p_values.min() == 1 / (n_permutations + 1)  # circular: as small as can be


def test_p_at_hand_is_never_zero() -> None:
    """5000 cells that attend to their one B among ten."""
    n_cells = 5000
    hubs = hubs_by_hand(np.zeros(n_cells, int), np.tile([0, 1, 0], (n_cells, 1)), np.tile([9, 1, 0], (n_cells, 1)))
    zeros = np.zeros(n_cells, dtype=int)
    table = enrich_hubs(hubs, zeros, zeros, held_out=False, n_permutations=1)
    assert (table["p_at_hand"].dropna() > 0).all()
    assert table["p_at_hand"][1] < 1e-300
    assert table["q_at_hand"][1] < 1e-300


@pytest.mark.parametrize(("p_column", "q_column"), [("p_value", "q_value"), ("p_at_hand", "q_at_hand")])
def test_q_values_are_over_all_pairs(p_column: str, q_column: str, held_out: bool) -> None:
    case = random_case(3)
    table = enriched(case, case.hubs(), held_out=held_out, n_permutations=999)
    np.testing.assert_allclose(table[q_column], stats.false_discovery_control(table[p_column]), rtol=1e-12)
    assert table[p_column].nunique() > 1


def test_a_seed_repeats_to_the_bit(held_out: bool) -> None:
    case = random_case(4)
    hubs = case.hubs()
    one, same, other = (enriched(case, hubs, held_out=held_out, random_state=seed) for seed in (7, 7, 8))
    pd.testing.assert_frame_equal(one, same, check_exact=True)
    assert (not held_out) or (one["p_value"] != other["p_value"]).any()
    fixed = [column for column in COLUMNS if column not in {"p_value", "q_value"}]
    pd.testing.assert_frame_equal(one[fixed], other[fixed], check_exact=True)


def test_neither_blocks_nor_threads_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(4, n_cells=90)
    hubs = case.hubs()
    whole = enriched(case, hubs, n_permutations=1999)
    assert whole["p_value"].max() > 0.5
    for name, value in (("core.hub_enrichment._HELD_AT_ONCE", 5000), ("core.threads.MOST_THREADS", 1)):
        monkeypatch.setattr(f"tissue_crosstalk.{name}", value)
        pd.testing.assert_frame_equal(whole, enriched(case, hubs, n_permutations=1999), check_exact=True)


@pytest.mark.parametrize("cells_per_entry", [0, np.inf], ids=["tables", "cells"])
@pytest.mark.parametrize("alike", [[40, 1, 9], [1, 2, 1, 1]], ids=["many cells", "few cells"])
def test_strata_are_permuted_uniformly(
    monkeypatch: pytest.MonkeyPatch, cells_per_entry: float, alike: list[int]
) -> None:
    """Cells of each row in each hub are hypergeometric, however they are drawn; a hub may have none."""
    monkeypatch.setattr("tissue_crosstalk.core.hub_enrichment._CELLS_PER_ENTRY", cells_per_entry)
    n_cells, n = sum(alike), 40_000
    in_hubs = np.array([n_cells - 2, 0, 2])
    tables = _permute_stratum(in_hubs, np.eye(len(alike)), np.array(alike), n, np.random.default_rng(3))
    assert (tables.sum(axis=2) == in_hubs).all()
    assert (tables.sum(axis=1) == alike).all()
    for row, count in enumerate(alike):
        found = np.bincount(tables[:, 2, row].astype(int), minlength=3) / n
        expected = stats.hypergeom(n_cells, count, 2).pmf(range(3))
        np.testing.assert_allclose(found, expected, atol=4.5 * np.sqrt(0.25 / n))


def test_the_order_of_cells_does_not_matter(held_out: bool) -> None:
    case = random_case(6)
    order = np.random.default_rng(7).permutation(200)
    shuffled, renumbered = case.of_receivers(order), case.in_order(order)
    assert (renumbered.shard.receivers == np.arange(200)).all()
    table = enriched(case, case.hubs(), held_out=held_out)
    for other in (shuffled, renumbered):
        pd.testing.assert_frame_equal(table, enriched(other, other.hubs(), held_out=held_out), rtol=1e-12)


def test_labels_and_sections_are_those_of_the_receivers() -> None:
    """Of every third cell there is attention: the others count as senders only."""
    case = random_case(8, n_cells=300).of_receivers(np.arange(0, 300, 3))
    hubs = case.hubs()
    strong, _ = naive_counts(case, 0.7)
    cluster = naive_hubs(hubs, strong, held_out=True)
    table = enriched(case, hubs)
    np.testing.assert_array_equal(matrix(table, "strong_neighbors"), naive_sums(cluster, strong[:, 1]))
    expected = naive_expectation(cluster, strong[:, 1], strata_of(case, strong[:, 1]))
    np.testing.assert_allclose(matrix(table, "expected"), expected, rtol=1e-12)


def test_hub_labels_stay_within_section_and_type() -> None:
    """Hub 0 is section 0: permutations change nothing, though it has twice as many A and half as many B."""
    strong = np.repeat([[4, 2, 0], [2, 4, 0]], 10, axis=0)
    sections = np.repeat([0, 1], 10)
    hubs, zeros = hubs_by_hand(sections, strong), np.zeros(20, dtype=int)
    for labels, of_cell in ((zeros, sections), (sections, zeros)):
        table = enrich_hubs(hubs, labels, of_cell, held_out=False)
        np.testing.assert_array_equal(matrix(table, "expected"), [[40, 20, 0], [20, 40, 0]])
        assert table["p_value"].dropna().tolist() == [1] * 4
    together = enrich_hubs(hubs, zeros, zeros, held_out=False)
    assert (matrix(together, "p_value")[:, :2] < 0.01).all()


@pytest.mark.parametrize("n_permutations", [0, -3, 9.5, True, "99"])
def test_permutations_are_a_whole_number(n_permutations: object) -> None:
    zeros = np.zeros(2, dtype=int)
    with pytest.raises(ParameterError) as caught:
        enrich_hubs(hubs_by_hand([0, 1]), zeros, zeros, n_permutations=n_permutations)  # type: ignore[arg-type]
    assert str(caught.value) == (f"n_permutations must be 1 or more (a whole number). Got {n_permutations!r} instead.")


# --- Are they right


N_TISSUES = 14


@functools.cache
def random_tissues(n_tissues: int = N_TISSUES, spread: float = 0.0) -> list[tuple[Case, Hubs]]:
    """Return tissues whose attention has nothing to do with types; some cells may attend more to everything."""
    cases = [random_case(seed, n_cells=200, n_neighbors=16) for seed in range(n_tissues)]
    factors = [np.random.default_rng([seed, 1]).lognormal(0, spread, (200, 1)) for seed in range(n_tissues)]
    cases = [with_strength(case, case.shard.strength * factor) for case, factor in zip(cases, factors, strict=True)]
    return [(case, case.hubs()) for case in cases]


def tables_of(tissues: list[tuple[Case, Hubs]], **options: object) -> pd.DataFrame:
    return pd.concat([enriched(*tissue, random_state=seed, **options) for seed, tissue in enumerate(tissues)])


@pytest.mark.parametrize("p_column", ["p_value", "p_at_hand"])
def test_random_attention_is_called_random(p_column: str) -> None:
    """Nine pairs each, of which the three of a hub (and of a type) depend on each other.

    They count as about half as many independent ones: the share of p ≤ 0.05 has a standard error of some 0.02.
    """
    p_values = tables_of(random_tissues())[p_column]
    assert len(p_values) == N_TISSUES * 9
    assert 0.01 < (p_values <= 0.05).mean() < 0.11
    assert 0.4 < p_values.mean() < 0.6


@pytest.mark.parametrize("p_column", ["p_value", "p_at_hand"])
def test_what_made_the_hubs_cannot_test_them(p_column: str) -> None:
    """The same tissues."""
    assert (tables_of(random_tissues(), held_out=False)[p_column] <= 0.05).mean() > 0.8


@pytest.mark.parametrize("p_column", ["p_value", "p_at_hand"])
def test_cells_that_attend_more_to_everything_make_no_hub_special(p_column: str) -> None:
    """Their hubs have more strong neighbors of every type: permuted among all cells, that would be enrichment."""
    p_values = tables_of(random_tissues(N_TISSUES, spread=1.0))[p_column]
    assert 0.005 < (p_values <= 0.05).mean() < 0.12
    assert 0.4 < p_values.mean() < 0.6


def planted_case(seed: int, n_cells: int = 240, n_neighbors: int = 16) -> Case:
    """Return a tissue of which each cell attends to four neighbors: those of the first half to B where it can."""
    case = random_case(seed, n_cells, n_neighbors)
    generator = np.random.default_rng([seed, 2])
    order = generator.random((n_cells, n_neighbors))
    is_b = case.cells.labels[case.shard.nn_idx] == 1
    order += ~is_b & (np.arange(n_cells) < n_cells // 2)[:, None]
    order[case.shard.nn_idx < 0] = 9
    attended = order.argsort(axis=1).argsort(axis=1) < 4
    return with_strength(case, np.where(attended, 1.0, 0.01) * generator.uniform(0.5, 1, order.shape))


@pytest.mark.parametrize("seed", range(2))
def test_planted_attention_is_found(seed: int) -> None:
    case = planted_case(seed)
    hubs = case.hubs(n_clusters=2)
    hub = int(np.argmax(hubs.centers[:, 1]))
    assert (hubs.cluster[:120] == hub).mean() > 0.75
    table = enriched(case, hubs, n_permutations=999).set_index(["hub", "sender"]).loc[(hub, "B")]
    assert table["q_value"] < 0.05
    assert table["q_at_hand"] < 0.05
    assert table["log2_enrichment"] > 0.3
    assert table["log2_at_hand"] > 0.3


def niche_case(seed: int, n_cells: int = 240, n_neighbors: int = 16) -> Case:
    """Return three niches with other types in each; attention is random."""
    generator = np.random.default_rng(seed)
    niche = np.arange(n_cells) * 3 // n_cells
    labels = np.where(generator.random(n_cells) < 0.85, niche, generator.integers(0, 3, n_cells))
    nn_idx = np.stack([generator.choice(np.flatnonzero(niche == own), n_neighbors) for own in niche])
    strength = generator.exponential(0.1, nn_idx.shape)
    shard = StrengthShard(np.arange(n_cells), strength.astype(np.float32), nn_idx.astype(np.int32))
    return Case(made_cells(labels), shard)


def test_only_at_hand_tells_attention_from_neighborhoods() -> None:
    """Niches make hubs: against permuted labels these are enriched, whatever the attention."""
    tables = []
    for seed in range(4):
        case = niche_case(seed)
        tables.append(enriched(case, case.hubs()))
    table = pd.concat(tables)
    assert (table["p_value"] <= 0.05).mean() > 0.6
    assert (table["p_at_hand"] <= 0.05).mean() < 0.15


# --- Niches


def test_niches_are_clusters_of_compositions() -> None:
    """Up to renaming those of KMeans, 0 the largest."""
    case = niche_case(0)
    hubs = case.hubs()
    niches = find_niches(hubs.counts, 3)
    shares = np.array([np.bincount(case.cells.labels[row], minlength=3) / len(row) for row in case.shard.nn_idx])
    assert adjusted_rand_score(KMeans(3, n_init=10, random_state=0).fit_predict(shares), niches) == 1
    assert adjusted_rand_score(np.arange(240) * 3 // 240, niches) == 1
    assert niches.dtype == np.int32
    uneven = case.of_receivers(np.concatenate([np.arange(10), np.arange(80, 240)]))
    niches = find_niches(uneven.hubs().counts, 3)
    assert np.bincount(niches).tolist() == [80, 80, 10]
    assert set(niches[:10]) == {2}


def test_niches_do_not_mind_attention() -> None:
    case = niche_case(1)
    other = with_strength(case, np.random.default_rng(2).random(case.shard.strength.shape))
    np.testing.assert_array_equal(find_niches(case.hubs().counts, 4), find_niches(other.hubs().counts, 4))


def test_niches_of_a_sample_of_the_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells have one; where niches are not clear, the sample's are others."""
    case = niche_case(3)
    hubs = case.hubs()
    of_all = find_niches(hubs.counts, 8, 5)
    monkeypatch.setattr("tissue_crosstalk.core.hub_enrichment.NICHE_CELLS", 60)
    niches = find_niches(hubs.counts, 3, 5)
    assert adjusted_rand_score(np.arange(240) * 3 // 240, niches) == 1
    np.testing.assert_array_equal(niches, find_niches(hubs.counts, 3, 5))
    assert adjusted_rand_score(of_all, find_niches(hubs.counts, 8, 5)) < 0.95


def test_there_are_no_more_niches_than_compositions() -> None:
    counts = hubs_by_hand([0, 0, 1], np.array([[1, 0, 0], [2, 0, 0], [1, 1, 0]])).counts
    assert find_niches(counts, 5).tolist() == [0, 0, 1]


def test_attention_to_everyone_adds_nothing_to_niches() -> None:
    """Strong are all edges but the weakest of each receiver type."""
    case = niche_case(2)
    likeness = compare_with_niches(case.hubs(attention_quantile_threshold=0.0))
    names = ("adjusted_rand", "adjusted_mutual_info", "adjusted_rand_at_random", "adjusted_mutual_info_at_random")
    assert likeness == {"cells": 240, "n_clusters": 3} | dict.fromkeys(names, 1.0)


def test_random_attention_is_as_unlike_niches_as_random_neighbors_are() -> None:
    """Few of a cell's neighbors do not tell its niche, though attention has nothing to do with types."""
    likeness = [compare_with_niches(niche_case(seed).hubs(attention_quantile_threshold=0.9)) for seed in range(6)]
    found, random = (np.mean([one[name] for one in likeness]) for name in ("adjusted_rand", "adjusted_rand_at_random"))
    assert found < 0.9
    assert found == pytest.approx(random, abs=0.1)


def test_attention_that_ignores_niches_is_unlike_them() -> None:
    """Every cell attends to one type, its own choice."""
    case = niche_case(4, n_neighbors=40)
    chosen = np.random.default_rng(5).integers(0, 3, (240, 1))
    strength = np.where(case.cells.labels[case.shard.nn_idx] == chosen, 1 + case.shard.strength, case.shard.strength)
    likeness = compare_with_niches(with_strength(case, strength).hubs())
    assert abs(likeness["adjusted_rand"]) < 0.05
    assert abs(likeness["adjusted_mutual_info"]) < 0.05
    assert likeness["adjusted_rand_at_random"] > 0.2


@pytest.mark.parametrize("isolated", ["separate", "cluster"])
def test_likeness_equals_scikit_learn(isolated: str) -> None:
    """Of the cells in hubs; the first five have no neighbor."""
    case = niche_case(6)
    case.shard.nn_idx[:5] = -1
    hubs = with_strength(case, case.shard.strength).hubs(isolated=isolated, attention_quantile_threshold=0.85)
    in_hub = np.flatnonzero(hubs.cluster != ISOLATED)
    assert (len(in_hub) == 240) == (isolated == "cluster")
    likeness = compare_with_niches(hubs, 9)
    niches = find_niches(hubs.counts, 3, 9)
    own = hubs.cluster[in_hub]
    assert likeness["cells"] == len(in_hub)
    assert likeness["n_clusters"] == 3
    assert likeness["adjusted_rand"] == pytest.approx(adjusted_rand_score(own, niches[in_hub]))
    assert likeness["adjusted_mutual_info"] == pytest.approx(adjusted_mutual_info_score(own, niches[in_hub]))
    assert 0.05 < likeness["adjusted_rand"] < 0.95


def test_cells_without_neighbors_have_a_niche() -> None:
    """That of the composition of zeros: of their own where there are enough niches."""
    case = niche_case(7)
    case.shard.nn_idx[:50] = -1
    niches = find_niches(with_strength(case, case.shard.strength).hubs().counts, 4)
    assert len(set(niches[:50])) == 1
    assert not set(niches[:50]) & set(niches[50:])


@pytest.mark.parametrize("n_hubs", [0, 1])
def test_fewer_than_two_hubs_are_like_nothing(n_hubs: int) -> None:
    case = random_case(9)
    if not n_hubs:
        case = with_strength(case, np.zeros_like(case.shard.strength))
    hubs = case.hubs(n_clusters=n_hubs or None)
    likeness = compare_with_niches(hubs)
    assert [likeness[name] for name in ("adjusted_rand", "adjusted_mutual_info", "adjusted_rand_at_random")] == [
        None
    ] * 3
    assert likeness["n_clusters"] == n_hubs
    assert likeness["cells"] == int((hubs.cluster != ISOLATED).sum())
