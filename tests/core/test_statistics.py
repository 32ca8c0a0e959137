"""Rank-sum tests, false discovery rates and ratios: by hand, by counting pairs, and against scipy and scanpy."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from tissue_crosstalk.core.statistics import (
    SMALLEST_P,
    categorical,
    false_discovery_rate,
    log2_ratio,
    rank_sum_tests,
)

FEATURES = ("continuous", "counts", "negative", "rarely expressed", "shifted")


def random_values(seed: int, n_cells: int) -> np.ndarray:
    """Return values (cell, feature) with and without ties, zeros and negative values."""
    generator = np.random.default_rng(seed)
    return np.column_stack(
        [
            generator.normal(size=n_cells),
            generator.poisson(0.8, n_cells),
            generator.integers(-2, 3, n_cells),
            np.where(generator.random(n_cells) < 0.1, generator.exponential(size=n_cells), 0),
            generator.poisson(1.0, n_cells) + (np.arange(n_cells) % 3 == 0),
        ]
    ).astype(float)


def naive_sums(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float, float]:
    """Return U by counting pairs, its expectation, and its variance with ties."""
    u = sum((one > other) + (one == other) / 2 for one, other in itertools.product(inside, outside))
    n, m = len(inside), len(outside)
    together = n + m
    ties = sum(int(t) ** 3 - int(t) for t in np.unique(np.concatenate([inside, outside]), return_counts=True)[1])
    spread = together + 1 - ties / (together * (together - 1)) if together > 1 else 0.0
    return float(u), n * m / 2, n * m / 12 * spread


def stored_as(values: np.ndarray, kind: str) -> np.ndarray | sparse.csr_matrix | sparse.csc_matrix:
    """Return the values dense or sparse; ``explicit zeros`` stores those of every other cell."""
    if kind == "dense":
        return values
    if kind == "csc":
        return sparse.csc_matrix(values)
    if kind == "csr":
        return sparse.csr_matrix(values)
    is_stored = (values != 0) | (np.arange(len(values)) % 2 == 0)[:, None]
    matrix = sparse.csr_matrix(is_stored.astype(float))
    matrix.data[:] = values[is_stored]
    return matrix


# --- Ratios, false discovery rates, columns


def test_log2_ratio_by_hand() -> None:
    observed, expected = np.array([8.0, 1.0, 0.0, 0.0, 3.0]), np.array([2.0, 4.0, 5.0, 0.0, 0.0])
    np.testing.assert_array_equal(log2_ratio(observed, expected), [2.0, -2.0, -np.inf, np.nan, np.nan])


def test_false_discovery_rate_by_hand() -> None:
    """Of three: 0.01 · 3/1, 0.03 · 3/2 which 0.04 · 3/3 lowers."""
    q_values = false_discovery_rate(np.array([0.01, np.nan, 0.04, 0.03]))
    np.testing.assert_allclose(q_values, [0.03, np.nan, 0.04, 0.04])


def test_false_discovery_rate_of_nothing() -> None:
    assert np.isnan(false_discovery_rate(np.full(3, np.nan))).all()
    assert false_discovery_rate(np.zeros(0)).shape == (0,)


def test_false_discovery_rate_equals_scipy() -> None:
    p_values = np.random.default_rng(0).random(50) ** 3
    np.testing.assert_array_equal(false_discovery_rate(p_values), stats.false_discovery_control(p_values))


def test_categorical_keeps_names_that_no_row_has() -> None:
    column = categorical(np.array([2, 0, 2]), ["x", "y", "z"])
    assert list(column) == ["z", "x", "z"]
    assert list(column.categories) == ["x", "y", "z"]
    assert column.categories.dtype == object
    assert isinstance(column, pd.Categorical)


# --- Rank sums in one stratum


@pytest.mark.parametrize("kind", ["dense", "csr", "csc", "explicit zeros"])
@pytest.mark.parametrize("seed", range(3))
def test_one_stratum_equals_scipy(seed: int, kind: str) -> None:
    values = random_values(seed, 60)
    groups = np.random.default_rng(seed + 100).integers(-1, 4, 60)  # -1 and 3 are in no group
    tests = rank_sum_tests(stored_as(values, kind), groups, np.zeros(60, dtype=int), 3)
    for group, feature in itertools.product(range(3), range(len(FEATURES))):
        inside, outside = values[groups == group, feature], values[groups != group, feature]
        expected = stats.mannwhitneyu(inside, outside, method="asymptotic", use_continuity=True)
        what = (group, FEATURES[feature])
        auc = expected.statistic / (len(inside) * len(outside))
        assert tests.roc_auc[group, feature] == pytest.approx(auc, rel=1e-12), what
        assert tests.p_value[group, feature] == pytest.approx(expected.pvalue, rel=1e-9), what
        assert tests.mean_inside[group, feature] == pytest.approx(inside.mean(), abs=1e-12), what
        assert tests.mean_outside[group, feature] == pytest.approx(outside.mean(), abs=1e-12), what
        assert tests.positive_inside[group, feature] == pytest.approx((inside > 0).mean()), what
        assert tests.positive_outside[group, feature] == pytest.approx((outside > 0).mean()), what
        assert (tests.cells_inside[group], tests.cells_outside[group]) == (len(inside), len(outside)), what


def test_by_hand() -> None:
    """{3, 0} against {1, 0, −1}: 3 + 0.5 + 0 + 1 = 4.5 of 6 pairs; one tie of two among 5 cells."""
    values = np.array([[3.0], [0.0], [1.0], [0.0], [-1.0]])
    tests = rank_sum_tests(values, np.array([0, 0, 1, 1, 1]), np.zeros(5, dtype=int), 2)
    np.testing.assert_allclose(tests.roc_auc, [[4.5 / 6], [1.5 / 6]])
    deviation = np.sqrt(6 / 12 * (6 - (2**3 - 2) / (5 * 4)))
    np.testing.assert_allclose(tests.z_score, [[(4.5 - 3 - 0.5) / deviation], [-(4.5 - 3 - 0.5) / deviation]])
    np.testing.assert_allclose(tests.positive_inside, [[1 / 2], [1 / 3]])


def test_single_precision_is_ranked_as_double() -> None:
    values = random_values(4, 50)
    groups, stratum = np.arange(50) % 3, np.zeros(50, dtype=int)
    one = rank_sum_tests(sparse.csr_matrix(values.astype(np.float32)), groups, stratum, 3)
    other = rank_sum_tests(values, groups, stratum, 3)
    np.testing.assert_array_equal(one.z_score, other.z_score)
    np.testing.assert_allclose(one.mean_inside, other.mean_inside, rtol=1e-5, atol=1e-6)


def test_a_constant_feature_differs_nowhere() -> None:
    values = np.column_stack([np.zeros(9), np.full(9, 3.0), np.full(9, -1.0)])
    tests = rank_sum_tests(values, np.arange(9) % 2, np.zeros(9, dtype=int), 2)
    np.testing.assert_array_equal(tests.p_value, np.ones((2, 3)))
    np.testing.assert_array_equal(tests.z_score, np.zeros((2, 3)))
    np.testing.assert_array_equal(tests.roc_auc, np.full((2, 3), 0.5))


def test_the_smallest_p_is_not_zero() -> None:
    """40 standard deviations off, where the formula rounds to 0."""
    values, groups = np.repeat([0.0, 1.0], 2000)[:, None], np.repeat([0, 1], 2000)
    tests = rank_sum_tests(values, groups, np.zeros(4000, dtype=int), 2)
    assert stats.norm.sf(tests.z_score[1, 0]) == 0
    np.testing.assert_array_equal(tests.p_value, np.full((2, 1), SMALLEST_P))
    np.testing.assert_array_equal(tests.roc_auc, [[0.0], [1.0]])
    assert SMALLEST_P > 0


def test_continuity_does_not_overshoot() -> None:
    """{1, 2} against {1, 2}: U is what is expected. {1} against {0, 1}: U is 1.5, a half off, and not more."""
    same = rank_sum_tests(np.array([[1.0], [2.0], [1.0], [2.0]]), np.array([0, 0, 1, 1]), np.zeros(4, dtype=int), 2)
    np.testing.assert_array_equal(same.z_score, [[0.0], [0.0]])
    near = rank_sum_tests(np.array([[1.0], [0.0], [1.0]]), np.array([0, 1, 1]), np.zeros(3, dtype=int), 2)
    np.testing.assert_array_equal(near.roc_auc, [[0.75], [0.25]])
    np.testing.assert_array_equal(near.p_value, [[1.0], [1.0]])


def test_an_empty_group_has_no_answer() -> None:
    """Nor has one that holds all cells: there is none outside."""
    values = random_values(5, 20)
    empty = rank_sum_tests(values, np.full(20, 1), np.zeros(20, dtype=int), 3)
    for name in ("roc_auc", "z_score", "p_value"):
        assert np.isnan(getattr(empty, name)).all(), name
    assert empty.cells_inside.tolist() == [0, 20, 0]
    assert empty.cells_outside.tolist() == [20, 0, 20]


def test_cells_of_no_group_are_outside_of_all() -> None:
    """As if they were a group of their own."""
    values = random_values(6, 60)
    groups, stratum = np.random.default_rng(7).integers(0, 3, 60), np.zeros(60, dtype=int)
    named = rank_sum_tests(values, groups, stratum, 3)
    for other in (-1, 2, 7):
        tests = rank_sum_tests(values, np.where(groups == 2, other, groups), stratum, 2)
        np.testing.assert_array_equal(tests.z_score, named.z_score[:2])
        np.testing.assert_array_equal(tests.mean_outside, named.mean_outside[:2])
        np.testing.assert_array_equal(tests.cells_outside, named.cells_outside[:2])


def test_no_group_at_all() -> None:
    tests = rank_sum_tests(random_values(0, 10), np.full(10, -1), np.zeros(10, dtype=int), 0)
    assert tests.p_value.shape == (0, len(FEATURES))


def test_features_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups, strata = random_values(9, 60), np.arange(60) % 4 - 1, np.arange(60) // 25
    whole = rank_sum_tests(values, groups, strata, 3)
    monkeypatch.setattr("tissue_crosstalk.core.statistics._SORTED_AT_ONCE", 60)
    in_blocks = rank_sum_tests(values, groups, strata, 3)
    for name in vars(whole):
        np.testing.assert_array_equal(getattr(whole, name), getattr(in_blocks, name), err_msg=name)


def test_features_are_ranked_apart() -> None:
    """The largest values of the first are the smallest of the second."""
    values, groups = np.array([[1.0, 3], [2, 4], [3, 3], [3, 5]]), np.array([0, 0, 1, 1])
    together = rank_sum_tests(values, groups, np.zeros(4, dtype=int), 2)
    for feature in range(2):
        alone = rank_sum_tests(values[:, [feature]], groups, np.zeros(4, dtype=int), 2)
        for name in ("roc_auc", "z_score", "mean_inside", "positive_outside"):
            np.testing.assert_array_equal(getattr(together, name)[:, [feature]], getattr(alone, name), err_msg=name)
    np.testing.assert_array_equal(together.roc_auc, [[0, 3 / 8], [1, 5 / 8]])


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("n_strata", [1, 2])
def test_nothing_given_is_changed(kind: type, n_strata: int) -> None:
    matrix = kind(stored_as(random_values(8, 30), "explicit zeros"))
    assert (matrix.data == 0).any()
    groups, strata = np.arange(30) % 4 - 1, np.arange(30) % n_strata
    before = matrix.copy(), groups.copy(), strata.copy()
    rank_sum_tests(matrix, groups, strata, 3)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(matrix, name), getattr(before[0], name))
    np.testing.assert_array_equal(groups, before[1])
    np.testing.assert_array_equal(strata, before[2])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("n_groups", [3, 40])
def test_values_of_any_size_and_sign(kind: type, n_groups: int) -> None:
    """Of all exponents of single precision, where value and group do not fit 32 bits; double where it takes more."""
    generator = np.random.default_rng(50)
    values = (generator.choice([-1, 1], 200) * 2.0 ** generator.uniform(-140, 125, 200)).astype(kind)[:, None]
    values[generator.random(200) < 0.3] = values[0]
    values[generator.random(200) < 0.2] = 0
    groups = generator.integers(0, n_groups, 200)
    tests = rank_sum_tests(values, groups, np.zeros(200, dtype=int), n_groups)
    for group in range(n_groups):
        column, own = values[:, 0].astype(np.float64), groups == group
        inside, outside = column[own], column[~own]
        expected = stats.mannwhitneyu(inside, outside, method="asymptotic")
        auc = expected.statistic / (len(inside) * len(outside))
        assert tests.roc_auc[group, 0] == pytest.approx(auc, rel=1e-12)
        assert tests.p_value[group, 0] == pytest.approx(expected.pvalue, rel=1e-9)


def test_values_that_differ_in_double_precision_only() -> None:
    values = 1 + np.arange(4)[:, None] * 1e-12
    tests = rank_sum_tests(values, np.array([1, 0, 1, 0]), np.zeros(4, dtype=int), 2)
    np.testing.assert_array_equal(tests.roc_auc, [[3 / 4], [1 / 4]])


@pytest.mark.parametrize("kind", ["dense", "csr", "explicit zeros"])
def test_means_of_transformed_values(kind: str) -> None:
    values, groups, strata = random_values(51, 60), np.arange(60) % 4 - 1, np.arange(60) // 25
    tests = rank_sum_tests(stored_as(values, kind), groups, strata, 3, np.expm1)
    for group in range(3):
        for found, own in ((tests.transformed_inside, groups == group), (tests.transformed_outside, groups != group)):
            np.testing.assert_allclose(found[group], np.expm1(values[own]).mean(axis=0), rtol=1e-12)
    assert rank_sum_tests(values, groups, strata, 3).transformed_inside.shape == (3, 0)


# --- Several strata


@pytest.mark.parametrize("kind", ["dense", "csr"])
@pytest.mark.parametrize("seed", range(2))
def test_strata_are_summed(seed: int, kind: str) -> None:
    """U, its expectation and its variance over strata, in one of which a group has no cell, in one all."""
    generator = np.random.default_rng(seed + 30)
    values, strata = random_values(seed + 10, 70), generator.choice([2, 5, 9, 11], 70)
    groups = generator.integers(-1, 2, 70)
    groups[strata == 9] = 0
    groups[strata == 11] = 1
    tests = rank_sum_tests(stored_as(values, kind), groups, strata, 2)
    for group, feature in itertools.product(range(2), range(len(FEATURES))):
        column, inside = values[:, feature], groups == group
        sums = np.sum(
            [naive_sums(column[(strata == s) & inside], column[(strata == s) & ~inside]) for s in np.unique(strata)],
            axis=0,
        )
        u, expected, variance = sums
        auc = u / (2 * expected)
        z_score = np.sign(u - expected) * max(abs(u - expected) - 0.5, 0) / np.sqrt(variance)
        what = (group, FEATURES[feature])
        assert tests.roc_auc[group, feature] == pytest.approx(auc, rel=1e-12), what
        assert tests.z_score[group, feature] == pytest.approx(z_score, rel=1e-9, abs=1e-12), what
        assert tests.p_value[group, feature] == pytest.approx(2 * stats.norm.sf(abs(z_score)), rel=1e-9), what
        assert tests.mean_inside[group, feature] == pytest.approx(column[inside].mean()), what
        assert tests.cells_inside[group] == inside.sum(), what


def test_pairs_are_within_strata_only() -> None:
    """Stratum 0: 5 > 4; stratum 1: 1 > 0, 1 < 2. Across them all would be different."""
    values = np.array([[5.0], [4.0], [1.0], [0.0], [2.0]])
    tests = rank_sum_tests(values, np.array([0, 1, 0, 1, 1]), np.array([0, 0, 1, 1, 1]), 2)
    np.testing.assert_allclose(tests.roc_auc, [[2 / 3], [1 / 3]])


def test_what_sets_strata_apart_makes_no_difference() -> None:
    values = random_values(20, 80)
    generator = np.random.default_rng(21)
    strata, groups = generator.integers(0, 3, 80), generator.integers(0, 2, 80)
    shifted = values + 1000 * strata[:, None]
    one, other = (rank_sum_tests(given, groups, strata, 2) for given in (values, shifted))
    np.testing.assert_allclose(one.z_score, other.z_score, rtol=1e-12)
    together = rank_sum_tests(shifted, groups, np.zeros(80, dtype=int), 2)
    assert np.abs(together.roc_auc - one.roc_auc).max() > 0.01


def test_a_group_alone_in_its_strata_has_no_answer() -> None:
    tests = rank_sum_tests(random_values(22, 20), np.repeat([0, 1], 10), np.repeat([0, 1], 10), 2)
    assert np.isnan(tests.p_value).all()
    assert np.isnan(tests.roc_auc).all()


def test_the_order_of_cells_does_not_matter() -> None:
    values, generator = random_values(23, 60), np.random.default_rng(24)
    groups, strata, order = generator.integers(-1, 3, 60), generator.integers(0, 2, 60), generator.permutation(60)
    one = rank_sum_tests(values, groups, strata, 3)
    other = rank_sum_tests(values[order], groups[order], strata[order], 3)
    for name in vars(one):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12, err_msg=name)


@pytest.mark.slow
def test_z_scores_equal_scanpy_but_for_continuity() -> None:
    """Scanpy does not take off the half; to import it takes seconds."""
    import anndata as ad
    import scanpy as sc

    values = random_values(40, 90)
    values[:, 2] += 2  # scanpy expects logarithms, none below 0
    values[:, 0] = np.maximum(values[:, 0], 0)
    groups = np.random.default_rng(41).integers(0, 3, 90)
    adata = ad.AnnData(sparse.csr_matrix(values))
    adata.var_names = list(FEATURES)
    adata.obs["group"] = pd.Categorical(groups.astype(str))
    sc.tl.rank_genes_groups(adata, "group", method="wilcoxon", tie_correct=True)
    tests = rank_sum_tests(adata.X, groups, np.zeros(90, dtype=int), 3)
    for group in range(3):
        table = sc.get.rank_genes_groups_df(adata, str(group)).set_index("names").loc[list(FEATURES)]
        for feature in range(len(FEATURES)):
            u, expected, variance = naive_sums(values[groups == group, feature], values[groups != group, feature])
            theirs = float(table["scores"].iloc[feature])
            assert theirs == pytest.approx((u - expected) / np.sqrt(variance), rel=1e-5)
            mine = np.sign(theirs) * max(abs(theirs) - 0.5 / np.sqrt(variance), 0)
            assert tests.z_score[group, feature] == pytest.approx(mine, rel=1e-5, abs=1e-7)
