"""KMeans on distinct rows with weights, silhouettes and stability: by hand and against scikit-learn on all rows."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, silhouette_score

from tissue_crosstalk.core import clustering, threads
from tissue_crosstalk.core.clustering import (
    CANDIDATE_CLUSTERS,
    KMEANS_STARTS,
    DistinctRows,
    adjusted_mutual_information,
    adjusted_rand_index,
    cluster_rows,
    kmeans_centers,
    nearest_center,
    silhouettes,
)
from tissue_crosstalk.core.errors import ParameterError


def shares_of(seed: int, n_rows: int = 300) -> np.ndarray:
    """Return rows that are ratios of small counts, as compositions are, some of them zero."""
    counts = np.random.default_rng(seed).multinomial(3, [0.6, 0.25, 0.1, 0.05], size=n_rows).astype(float)
    counts[: n_rows // 10] = 0
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)


def exact_silhouette(rows: np.ndarray, cluster: np.ndarray) -> float:
    """Return scikit-learn's score from exact distances: its own leave 1e-8 between rows that are the same."""
    return float(silhouette_score(cdist(rows, rows), cluster, metric="precomputed"))


def separated_rows() -> tuple[np.ndarray, np.ndarray]:
    """Return 120 rows around four corners (0 among them), and which corner."""
    generator = np.random.default_rng(0)
    corner = np.repeat([0, 1, 2, 3], [60, 30, 20, 10])
    corners = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=float)
    order = generator.permutation(120)
    return (corners[corner] + generator.integers(0, 3, (120, 3)) * 0.02)[order], corner[order]


# --- Distinct rows


def test_distinct_rows_are_those_of_numpy() -> None:
    values = shares_of(0)
    rows, of_cell, counts = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    distinct = DistinctRows.of(values)
    np.testing.assert_array_equal(distinct.rows, rows)
    np.testing.assert_array_equal(distinct.counts, counts)
    np.testing.assert_array_equal(distinct.of_cell, of_cell.reshape(-1))


def test_no_rows_are_distinct_of_none() -> None:
    distinct = DistinctRows.of(np.zeros((0, 3)))
    assert [len(distinct.rows), len(distinct.counts), len(distinct.of_cell)] == [0, 0, 0]


# --- Clusters


def test_well_separated_rows_are_found_and_numbered_by_size() -> None:
    rows, corner = separated_rows()
    for n_clusters in (4, None):
        found = cluster_rows(rows, n_clusters, 42)
        assert (found.cluster == corner).all()
        assert found.cluster.dtype == np.int32
        assert found.chosen_by == ("given" if n_clusters else "silhouette")
        means = np.stack([rows[corner == number].mean(axis=0) for number in range(4)])
        np.testing.assert_allclose(found.centers, means, atol=1e-12)


def test_clusters_equal_scikit_learn_on_all_rows() -> None:
    """Up to renaming: distinct rows with weights stand for the rows."""
    rows, _ = separated_rows()
    rows = np.repeat(rows, 3, axis=0)
    for n_clusters in (3, 4):
        expected = KMeans(n_clusters, n_init=10, random_state=0).fit(rows).labels_
        assert adjusted_rand_score(expected, cluster_rows(rows, n_clusters, 42).cluster) == 1.0


def test_the_best_of_the_starts_counts() -> None:
    """It is at least as good as scikit-learn's best of as many on all rows, where equal rows may be split."""
    for seed in range(4):
        rows = shares_of(seed)
        found = cluster_rows(rows, 5, 42)
        inertia = ((rows - found.centers[found.cluster]) ** 2).sum()
        assert inertia <= KMeans(5, n_init=KMEANS_STARTS, random_state=1).fit(rows).inertia_ * (1 + 1e-9)


def test_few_rows_are_clustered_as_well_as_can_be() -> None:
    """The best of all partitions of eight rows in two."""
    generator = np.random.default_rng(0)
    for _ in range(5):
        rows, counts = (
            generator.integers(0, 3, (8, 2)) / 2.0 + np.arange(8)[:, None] * 1e-3,
            generator.integers(1, 9, 8),
        )
        values = np.repeat(rows, counts, axis=0)
        found = cluster_rows(values, 2, 42)

        def inertia(cluster: np.ndarray, values: np.ndarray = values) -> float:
            return sum(((values[cluster == c] - values[cluster == c].mean(axis=0)) ** 2).sum() for c in (0, 1))

        every = (np.arange(1, 128)[:, None] >> np.arange(8)) & 1
        best = min(inertia(np.repeat(cluster, counts)) for cluster in every)
        assert inertia(found.cluster) == pytest.approx(best, rel=1e-9)


def test_as_many_clusters_as_distinct_rows() -> None:
    found = cluster_rows(np.repeat(np.eye(3), [2, 7, 4], axis=0), 3, 42)
    assert found.cluster.tolist() == [2] * 2 + [0] * 7 + [1] * 4
    assert found.silhouette == {}  # it needs two rows in a cluster


def test_more_clusters_than_distinct_rows_are_refused_with_their_number() -> None:
    with pytest.raises(ParameterError) as caught:
        cluster_rows(np.repeat(np.eye(3), 4, axis=0), 5, 42)
    assert str(caught.value) == (
        "n_clusters is 5, but there are only 3 distinct compositions of strong neighbors. Set n_clusters to 3 or less, "
        "or lower attention_quantile_threshold."
    )


def test_clusters_are_numbered_by_size_and_then_by_the_first_row() -> None:
    for seed in range(2):
        sizes = np.bincount(cluster_rows(shares_of(seed), 5, seed).cluster)
        assert len(sizes) == 5
        assert (np.diff(sizes) <= 0).all()


def test_equal_sizes_are_numbered_alike_whatever_the_seed() -> None:
    rows = np.repeat(np.eye(3), 5, axis=0)
    clusters = [cluster_rows(rows, 3, seed).cluster.tolist() for seed in range(3)]
    assert all(cluster == clusters[0] for cluster in clusters)


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(4), size=700)  # more than one of scikit-learn's chunks
    found = []
    for count in (1, 3):
        monkeypatch.setattr("joblib.cpu_count", lambda count=count: count)
        found.append(cluster_rows(rows, 7, 7, n_resamples=1))
    one, other = found
    assert (one.cluster == other.cluster).all()
    assert one.silhouette == other.silhouette
    assert (one.centers == other.centers).all()
    pd.testing.assert_frame_equal(one.stability, other.stability, check_exact=True)


def test_the_order_of_cells_changes_nothing() -> None:
    rows = shares_of(2)
    order = np.random.default_rng(0).permutation(len(rows))
    one, other = (cluster_rows(values, 5, 42, n_resamples=1) for values in (rows, rows[order]))
    assert (one.cluster[order] == other.cluster).all()
    assert one.silhouette == other.silhouette
    pd.testing.assert_frame_equal(one.stability, other.stability, check_exact=True)


def test_centers_of_fewer_distinct_rows_than_wanted() -> None:
    centers = kmeans_centers(np.repeat(np.eye(3)[:2], [1, 4], axis=0), 5, 42)
    assert centers.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_nearest_center_is_the_first_on_ties() -> None:
    centers = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert nearest_center(np.array([[0.4, 0.0], [0.5, 0.0], [0.6, 0.0]]), centers).tolist() == [0, 0, 1]


# --- Silhouettes


@pytest.mark.parametrize("seed", range(2))
def test_silhouettes_equal_scikit_learn_on_all_rows(seed: int) -> None:
    rows = shares_of(seed)
    silhouette = cluster_rows(rows, None, 42).silhouette
    assert list(silhouette) == [k for k in CANDIDATE_CLUSTERS if k < len(np.unique(rows, axis=0))]
    for k in (2, 7, 12):
        given_number = cluster_rows(rows, k, 42)
        expected = exact_silhouette(rows, given_number.cluster)
        assert silhouette[k] == pytest.approx(expected, abs=1e-9), k
        assert given_number.silhouette == {k: pytest.approx(expected, abs=1e-9)}


def test_silhouettes_of_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "_TILE", 7)
    monkeypatch.setattr(clustering, "_BANDS", 5)
    rows = np.repeat(np.random.default_rng(5).dirichlet([1, 1, 1], size=90), 3, axis=0)
    found = cluster_rows(rows, None, 42)
    for k in (2, 12):
        assert found.silhouette[k] == pytest.approx(exact_silhouette(rows, cluster_rows(rows, k, 42).cluster), abs=1e-9)


def test_one_bar_for_each_kind_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    def bar(pieces: Iterable[object], *, desc: str, total: int, **_: object) -> list[object]:
        passed = list(pieces)
        shown.append((desc, len(passed) == total))
        return passed

    monkeypatch.setattr(threads, "tqdm", bar)
    monkeypatch.setattr(clustering, "_TILE", 7)
    rows = np.random.default_rng(5).dirichlet([1, 1, 1], size=90)
    cluster_rows(rows, None, 42, n_resamples=1)
    assert shown == [("KMeans", True), ("silhouettes", True), ("resamples", True)]


def test_silhouettes_of_rows_that_hardly_differ() -> None:
    """Differences of 1e-9: the squares of rows cancel each other, but distances are right."""
    generator = np.random.default_rng(1)
    rows = 0.5 + 1e-9 * generator.integers(0, 4, (40, 3)) + np.repeat([[0, 0, 0], [0, 0, 0.1]], 20, axis=0)
    distinct = DistinctRows.of(rows)
    cluster = (distinct.rows[:, 0] > 0.5 + 1.5e-9).astype(np.int32)
    if np.bincount(cluster, weights=distinct.counts)[0] < len(rows) / 2:
        cluster = 1 - cluster
    expected = exact_silhouette(rows, cluster[distinct.of_cell])
    assert silhouettes(distinct, {2: cluster})[2] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=4, max_size=40),
    seed=st.integers(0, 5),
)
def test_silhouettes_of_any_rows_and_clusters(counts: list[tuple[int, ...]], seed: int) -> None:
    values = np.array(counts, dtype=float)
    total = values.sum(axis=1, keepdims=True)
    values = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    distinct = DistinctRows.of(values)
    n_rows = len(distinct.rows)
    if n_rows < 3:
        return
    k = 2 + seed % (n_rows - 2)
    cluster = np.random.default_rng(seed).permutation(np.arange(n_rows) % k).astype(np.int32)
    expected = exact_silhouette(values, cluster[distinct.of_cell])
    assert silhouettes(distinct, {k: cluster})[k] == pytest.approx(expected, abs=1e-9)


def test_silhouette_by_hand() -> None:
    """On a line at 0, 1 (twice) and 4 (twice), for {0, 1, 1} and {4, 4}."""
    rows = np.array([[0.0], [1.0], [1.0], [4.0], [4.0]])
    of_0, of_1, of_4 = (4 - 1) / 4, (3 - 0.5) / 3, 1.0
    assert cluster_rows(rows, None, 42).silhouette == pytest.approx({2: (of_0 + 2 * of_1 + 2 * of_4) / 5})


def test_a_cluster_of_one_cell_has_silhouette_zero() -> None:
    """{0} and {5, 6}: 0 for the first, (5 − 1)/5 and (6 − 1)/6 for the others."""
    silhouette = cluster_rows(np.array([[0.0], [5.0], [6.0]]), None, 42).silhouette
    assert silhouette[2] == pytest.approx((0 + 4 / 5 + 5 / 6) / 3)


def test_too_many_distinct_rows_are_sampled(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    rows = np.repeat(np.random.default_rng(5).dirichlet([1, 1, 1], size=400), 2, axis=0)
    distinct = DistinctRows.of(rows)
    cluster = cluster_rows(rows, 3, 42).cluster[np.unique(distinct.of_cell, return_index=True)[1]]
    exact = silhouettes(distinct, {3: cluster})[3]
    monkeypatch.setattr(clustering, "SILHOUETTE_PAIRS", 400 * 150)
    with caplog.at_level(logging.WARNING):
        sampled = [silhouettes(distinct, {3: cluster}, seed)[3] for seed in (0, 0, 1)]
    assert (
        "400 distinct compositions: silhouettes are averaged over a sample of 150 cells, not over all 800."
        in caplog.text
    )
    assert sampled[0] == sampled[1] != sampled[2]
    assert sampled == pytest.approx([exact] * 3, abs=0.06)
    assert sampled[0] != exact


# --- Which number


def test_the_number_with_the_highest_silhouette_is_chosen() -> None:
    found = cluster_rows(shares_of(7), None, 42)
    assert len(found.silhouette) > 5
    best = max(found.silhouette.values())
    assert int(found.cluster.max()) + 1 == min(k for k, value in found.silhouette.items() if value == best)


def test_the_smallest_number_is_chosen_on_ties() -> None:
    """Four cells, each as far from every other: all silhouettes are 0."""
    found = cluster_rows(np.eye(4), None, 42)
    assert found.silhouette == pytest.approx({2: 0.0, 3: 0.0}, abs=1e-12)
    assert set(found.cluster) == {0, 1}


@pytest.mark.parametrize(("n_distinct", "tried"), [(3, [2]), (5, [2, 3, 4]), (40, list(range(2, 13)))])
def test_numbers_tried_stop_below_the_distinct_rows(n_distinct: int, tried: list[int]) -> None:
    distinct = np.random.default_rng(3).dirichlet([1, 1, 1], size=n_distinct)
    assert list(cluster_rows(np.repeat(distinct, 4, axis=0), None, 42).silhouette) == tried


@pytest.mark.parametrize("n_distinct", [1, 2])
def test_too_few_distinct_rows_are_one_cluster(n_distinct: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = cluster_rows(np.repeat(np.eye(3)[:n_distinct], 5, axis=0), None, 42, n_resamples=2)
    assert (found.cluster == 0).all()
    assert found.silhouette == {}
    assert f"only {n_distinct} distinct compositions" in caplog.text


# --- Stability


def test_adjusted_rand_index_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    for n_one, n_other in ((3, 4), (1, 3), (1, 1), (5, 2)):
        counts = generator.integers(1, 6, 30)
        one = generator.integers(0, n_one, 30).astype(np.int32)
        other = np.where(generator.random(30) < 0.5, one % n_other, generator.integers(0, n_other, 30)).astype(np.int32)
        expected = adjusted_rand_score(np.repeat(one, counts), np.repeat(other, counts))
        assert adjusted_rand_index(one, other, counts) == pytest.approx(expected, abs=1e-12)


def test_adjusted_mutual_information_equals_scikit_learn() -> None:
    """Of few cells and of many; of one cluster, and of the same clusters by other names."""
    generator = np.random.default_rng(1)
    for n_one, n_other, n_cells in ((3, 4, 30), (1, 3, 30), (1, 1, 30), (5, 2, 9), (6, 7, 20_000), (12, 1, 50)):
        one = generator.integers(0, n_one, n_cells).astype(np.int32)
        noise = generator.integers(0, n_other, n_cells)
        other = np.where(generator.random(n_cells) < 0.3, one % n_other, noise).astype(np.int32)
        expected = adjusted_mutual_info_score(one, other)
        assert adjusted_mutual_information(one, other) == pytest.approx(expected, abs=1e-10)
    assert adjusted_mutual_information(one, 11 - one) == pytest.approx(1)


def test_adjusted_mutual_information_of_a_name_that_no_cell_has() -> None:
    one, other = np.array([0, 0, 2, 2, 3], dtype=np.int32), np.array([1, 1, 1, 0, 0], dtype=np.int32)
    expected = adjusted_mutual_info_score(one, other)
    assert adjusted_mutual_information(one, other) == pytest.approx(expected, abs=1e-12)


def test_adjusted_rand_index_of_a_million_cells_does_not_overflow() -> None:
    one = np.array([0, 0, 1, 1], dtype=np.int32)
    counts = np.array([3, 1, 1, 3]) * 10**9
    assert adjusted_rand_index(one, one[[0, 2, 1, 3]], counts) == pytest.approx(0.25, abs=1e-6)


def test_stability_has_every_number_seed_and_resample() -> None:
    stability = cluster_rows(shares_of(0), None, 42, n_resamples=2).stability
    assert list(stability.columns) == ["n_hubs", "varied", "replicate", "adjusted_rand"]
    sizes = stability.groupby(["varied", "n_hubs"]).size()
    assert (sizes["cells"] == 2).all()
    assert (sizes["seed"] == KMEANS_STARTS - 1).all()
    assert list(sizes["cells"].index) == list(sizes["seed"].index) == list(range(2, 13))
    assert stability["adjusted_rand"].between(-1, 1).all()


def test_stable_clusters_are_stable_and_random_ones_are_not() -> None:
    rows, _ = separated_rows()
    stable = cluster_rows(np.repeat(rows, 5, axis=0), 4, 42, n_resamples=5).stability
    assert (stable.loc[stable["varied"] == "cells", "adjusted_rand"] == 1).all()
    noise = cluster_rows(np.random.default_rng(0).random((600, 8)), 6, 42, n_resamples=5).stability
    assert noise.loc[noise["varied"] == "cells", "adjusted_rand"].mean() < 0.7


def test_a_resample_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One resample: its clusters, the nearest of which every cell takes, against those of all cells."""
    monkeypatch.setattr(clustering, "HARTIGAN_ROWS", 0)
    rows = shares_of(4)
    found = cluster_rows(rows, 4, 42, n_resamples=1)
    distinct = DistinctRows.of(rows)
    seed = np.random.SeedSequence([42, 0]).generate_state(1)[0]
    drawn = np.random.default_rng(int(seed)).multinomial(len(rows), distinct.counts / len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit_seed = int(np.random.SeedSequence([42, 4, 1]).generate_state(1)[0])
        kmeans = KMeans(4, n_init=KMEANS_STARTS, random_state=fit_seed).fit(
            distinct.rows[drawn > 0], sample_weight=drawn[drawn > 0]
        )
    predicted = cdist(rows, kmeans.cluster_centers_).argmin(axis=1)
    value = found.stability.loc[found.stability["varied"] == "cells", "adjusted_rand"].item()
    assert value == pytest.approx(adjusted_rand_score(found.cluster, predicted), abs=1e-12)


def test_a_resample_has_a_bounded_number_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one cell only one row can be drawn: one cluster, which agrees with four by chance only."""
    monkeypatch.setattr(clustering, "RESAMPLED_CELLS", 1)
    rows, _ = separated_rows()
    stability = cluster_rows(rows, 4, 42, n_resamples=2).stability
    assert stability.loc[stability["varied"] == "cells", "adjusted_rand"].tolist() == [0, 0]


@pytest.mark.slow
def test_stability_chooses_the_largest_number_that_is_as_stable_as_any() -> None:
    """Four corners: 4 are found again always, 5 and more are not; 2 and 3 may be."""
    rows, corner = separated_rows()
    found = cluster_rows(np.repeat(rows, 3, axis=0), None, 42, choose_by="stability", n_resamples=2)
    assert found.chosen_by == "stability"
    assert (found.cluster == np.repeat(corner, 3)).all()


def test_stability_is_within_one_standard_error() -> None:
    table = pd.DataFrame(
        [(2, 0.9), (2, 1.0), (3, 0.88), (3, 0.94), (4, 0.85), (4, 0.93)], columns=["n_hubs", "adjusted_rand"]
    )
    # Mean and standard error of 2: 0.95 and 0.05. Those of 3 and 4 are 0.91 and 0.89.
    assert clustering._most_stable(table) == 3


def test_stability_cannot_choose_without_resamples() -> None:
    with pytest.raises(ParameterError, match=r"choose_by is 'stability', which needs resamples of the cells\. Set"):
        cluster_rows(np.eye(5), None, 42, choose_by="stability")
