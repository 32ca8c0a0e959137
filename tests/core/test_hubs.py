"""Hubs: thresholds, compositions and clusters by hand, against scikit-learn, and as the published package counts."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from naive import (
    golden,
)
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from tissue_crosstalk.core.errors import ParameterError, ResultError
from tissue_crosstalk.core.hubs import (
    CANDIDATE_CLUSTERS,
    Hubs,
    HubSettings,
    attention_thresholds,
    cluster_compositions,
    compositions,
    find_hubs,
)

TYPES = ("A", "B", "C")


def random_case(seed: int, n_cells: int = 200, n_neighbors: int = 8) -> tuple[np.ndarray, ...]:
    """Return strength, nn_idx, receiver labels and sender labels, with some slots padded."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(TYPES), n_cells)
    nn_idx = generator.integers(0, n_cells, (n_cells, n_neighbors)).astype(np.int32)
    nn_idx[generator.random(nn_idx.shape) < 0.1] = -1
    strength = generator.exponential(0.1, nn_idx.shape).astype(np.float32)
    strength[nn_idx < 0] = 0
    return strength, nn_idx, labels, np.where(nn_idx < 0, -1, labels[nn_idx])


def hubs_of(case: tuple[np.ndarray, ...], **settings: object) -> Hubs:
    return find_hubs(*case, TYPES, HubSettings(**settings))  # type: ignore[arg-type]


def naive_compositions(case: tuple[np.ndarray, ...], thresholds: np.ndarray, *, in_degree: bool) -> np.ndarray:
    strength, nn_idx, labels, sender_labels = case
    shares = np.zeros((len(labels), len(TYPES)))
    for cell in range(len(labels)):
        for slot in range(strength.shape[1]):
            if strength[cell, slot] > thresholds[labels[cell]]:
                weight = 1
                if in_degree:
                    weight = int((nn_idx[labels == labels[cell]] == nn_idx[cell, slot]).sum())
                shares[cell, sender_labels[cell, slot]] += weight
        if shares[cell].sum():
            shares[cell] /= shares[cell].sum()
    return shares


# --- Golden


def golden_case() -> tuple[np.ndarray, ...]:
    """Return strength, neighbors and labels in the order of the golden tissue."""
    known = golden()
    strength, nn_idx = known.expected["vanilla"].max(axis=0), known.expected["nn_idx"]
    labels = known.tissue.labels[known.order].astype(int)
    return strength, nn_idx, labels, labels[nn_idx]


def test_golden_in_degree() -> None:
    known = golden()
    hubs = find_hubs(*golden_case(), known.model.cell_types, HubSettings(counting="in_degree", n_clusters=4))
    columns = [known.model.cell_types.index(name) for name in known.expected["hub_types"]]
    np.testing.assert_allclose(
        hubs.composition[:, columns], known.expected["hub_in_degree_composition"], rtol=1e-5, atol=1e-12
    )


def test_golden_counts_edges_unless_told_otherwise() -> None:
    """It differs from the released counting on 5 to 50 % of the cells, and is the documented one."""
    known, case = golden(), golden_case()
    hubs = find_hubs(*case, known.model.cell_types, HubSettings(n_clusters=4))
    columns = [known.model.cell_types.index(name) for name in known.expected["hub_types"]]
    differs = np.abs(hubs.composition[:, columns] - known.expected["hub_in_degree_composition"]).max(axis=1) > 1e-6
    assert 0.05 < differs.mean() < 0.5
    strength, _, labels, sender_labels = case
    for cell in range(0, len(labels), 25):
        threshold = np.quantile(strength[labels == labels[cell]].astype(np.float64), 0.9)
        strong = sender_labels[cell][strength[cell] > threshold]
        counts = np.bincount(strong, minlength=4)
        np.testing.assert_allclose(hubs.composition[cell], counts / max(1, counts.sum()), rtol=1e-12)


# --- Settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"attention_quantile_threshold": 1.0}, "attention_quantile_threshold must be at least 0 and below 1. Got 1.0"),
        (
            {"attention_quantile_threshold": -0.1},
            "attention_quantile_threshold must be at least 0 and below 1. Got -0.1",
        ),
        (
            {"attention_quantile_threshold": float("nan")},
            "attention_quantile_threshold must be at least 0 and below 1.",
        ),
        ({"n_clusters": 0}, "n_clusters must be at least 1 (a whole number), or null to choose it. Got 0 instead."),
        ({"random_state": -1}, "random_state must be a whole number in [0, 2**32). Got -1 instead."),
        ({"random_state": 2**32}, "random_state must be a whole number in [0, 2**32). Got 4294967296 instead."),
        ({"counting": "edge"}, "counting must be 'edges' or 'in_degree'. Got 'edge' instead."),
    ],
)
def test_settings_say_what_is_wrong(given: dict[str, object], words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        HubSettings(**given)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_default_settings() -> None:
    assert HubSettings() == HubSettings(0.9, None, 42, "edges")


# --- Thresholds


def test_thresholds_by_hand() -> None:
    """A: the median of .1 .2 .3 .4; B: all its attention is 0; C: no cell."""
    strength = np.array([[0.1, 0.4, 0.0], [0.2, 0.3, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    thresholds = attention_thresholds(strength, np.array([0, 0, 1]), 3, 0.5)
    np.testing.assert_allclose(thresholds, [0.25, 0.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize(("quantile", "expected"), [(0.0, 0.1), (0.9, 0.37), (0.99, 0.397)])
def test_thresholds_are_interpolated_linearly(quantile: float, expected: float) -> None:
    strength = np.array([[0.4, 0.1, 0.0], [0.3, 0.2, 0.0]], dtype=np.float32)
    assert attention_thresholds(strength, np.zeros(2, int), 1, quantile)[0] == pytest.approx(expected, rel=1e-6)


def test_zeros_take_no_part_in_the_threshold() -> None:
    strength = np.array([[0.2, 0.6]], dtype=np.float32)
    padded = np.array([[0.2, 0.6, 0.0, 0.0, 0.0]], dtype=np.float32)
    one, other = (attention_thresholds(s, np.zeros(1, int), 1, 0.75) for s in (strength, padded))
    assert one == other == pytest.approx(0.5)


def test_each_receiver_type_has_its_own_threshold() -> None:
    strength = np.array([[0.1, 0.2], [1.0, 2.0]], dtype=np.float32)
    hubs = find_hubs(
        strength,
        np.array([[1, 1], [0, 0]]),
        np.array([0, 1]),
        np.array([[1, 1], [0, 0]]),
        TYPES,
        HubSettings(attention_quantile_threshold=0.5, n_clusters=1),
    )
    assert dict(hubs.thresholds) == pytest.approx({"A": 0.15, "B": 1.5, "C": 0.0})


# --- Compositions


def test_compositions_by_hand() -> None:
    """Three strong of types B, B, C; one of A; none."""
    strong = np.array([[True, True, True], [False, True, False], [False, False, False]])
    senders = np.array([[1, 2, 1], [1, 0, 2], [0, 1, 2]])
    shares = compositions(strong, np.ones((3, 3), int), senders, 3)
    np.testing.assert_allclose(shares, [[0, 2 / 3, 1 / 3], [1, 0, 0], [0, 0, 0]])


def test_weights_count_as_often_as_they_say() -> None:
    shares = compositions(np.array([[True, True]]), np.array([[3, 1]]), np.array([[0, 2]]), 3)
    np.testing.assert_allclose(shares, [[0.75, 0, 0.25]])


def test_strong_is_strictly_above_the_threshold() -> None:
    """Equal attention everywhere equals its quantile: no edge is strong."""
    strength = np.full((4, 3), 0.25, dtype=np.float32)
    senders = np.array([[0, 1, 2]] * 4)
    hubs = find_hubs(strength, senders, np.zeros(4, int), senders, TYPES, HubSettings(n_clusters=1))
    assert dict(hubs.thresholds) == {"A": 0.25, "B": 0.0, "C": 0.0}
    assert (hubs.composition == 0).all()


@pytest.mark.parametrize("counting", ["edges", "in_degree"])
def test_padded_slots_are_never_strong(counting: Literal["edges", "in_degree"]) -> None:
    """Though a receiver type without any attention has the threshold 0, and whatever such a slot holds."""
    strength = np.array([[0.5, 0.7, 0.9], [0.0, 0.0, 0.0]], dtype=np.float32)
    nn_idx = np.array([[1, 0, -1], [-1, -1, -1]])
    senders = np.array([[1, 0, -1], [-1, -1, -1]])
    settings = HubSettings(attention_quantile_threshold=0.0, n_clusters=1, counting=counting)
    hubs = find_hubs(strength, nn_idx, np.array([0, 1]), senders, TYPES, settings)
    assert hubs.composition.tolist() == [[1, 0, 0], [0, 0, 0]]


def test_no_strong_edge_at_all_is_one_hub() -> None:
    strength = np.zeros((2, 2), dtype=np.float32)
    padded = np.full((2, 2), -1)
    hubs = find_hubs(strength, padded, np.array([0, 1]), padded, TYPES, HubSettings())
    assert hubs.composition.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert hubs.cluster.tolist() == [0, 0]


def test_isolated_cells_are_all_zero_and_in_a_hub() -> None:
    strength, nn_idx, labels, senders = random_case(1)
    strength[:5], nn_idx[:5], senders[:5] = 0, -1, -1
    hubs = hubs_of((strength, nn_idx, labels, senders), n_clusters=3)
    assert (hubs.composition[:5] == 0).all()
    assert len(set(hubs.cluster[:5])) == 1
    sums = hubs.composition.sum(axis=1)
    assert (np.isclose(sums, 1) | (sums == 0)).all()


@pytest.mark.parametrize("counting", ["edges", "in_degree"])
def test_compositions_equal_a_loop(counting: str) -> None:
    case = random_case(2)
    hubs = hubs_of(case, n_clusters=3, counting=counting, attention_quantile_threshold=0.7)
    thresholds = np.array([hubs.thresholds[name] for name in TYPES])
    naive = naive_compositions(case, thresholds, in_degree=counting == "in_degree")
    np.testing.assert_allclose(hubs.composition, naive, rtol=1e-12)


def test_in_degree_by_hand() -> None:
    """Cell 0 (A) attends to 2 (B) and 3 (C) strongly; 2 is the neighbor of three A, 3 of one: shares 3/4 and 1/4."""
    strength = np.array([[0.9, 0.8], [0.1, 0.1], [0.1, 0.0], [0.1, 0.1]], dtype=np.float32)
    nn_idx = np.array([[2, 3], [2, 4], [2, -1], [0, 1]])
    labels = np.array([0, 0, 0, 2])
    senders = np.array([[1, 2], [1, 1], [1, -1], [0, 0]])
    settings = {"attention_quantile_threshold": 0.5, "n_clusters": 1}
    both = {
        counting: find_hubs(
            strength,
            nn_idx,
            labels,
            senders,
            TYPES,
            HubSettings(counting=counting, **settings),  # type: ignore[arg-type]
        ).composition[0]
        for counting in ("edges", "in_degree")
    }
    np.testing.assert_allclose(both["in_degree"], [0, 0.75, 0.25])
    np.testing.assert_allclose(both["edges"], [0, 0.5, 0.5])


# --- Clusters


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


def test_well_separated_rows_are_found_and_numbered_by_size() -> None:
    rows, corner = separated_rows()
    for n_clusters in (4, None):
        cluster, _ = cluster_compositions(rows, n_clusters, 42)
        assert (cluster == corner).all()
        assert cluster.dtype == np.int32


def test_clusters_equal_scikit_learn_on_all_rows() -> None:
    """Up to renaming: distinct rows with weights stand for the rows."""
    rows, _ = separated_rows()
    rows = np.repeat(rows, 3, axis=0)
    for n_clusters in (3, 4):
        cluster, _ = cluster_compositions(rows, n_clusters, 42)
        expected = KMeans(n_clusters, n_init=10, random_state=0).fit(rows).labels_
        assert adjusted_rand_score(expected, cluster) == 1.0


@pytest.mark.parametrize("seed", range(2))
def test_silhouettes_equal_scikit_learn_on_all_rows(seed: int) -> None:
    rows = shares_of(seed)
    _, silhouette = cluster_compositions(rows, None, 42)
    assert list(silhouette) == [k for k in CANDIDATE_CLUSTERS if k < len(np.unique(rows, axis=0))]
    for k in (2, 3, 7, 12):
        cluster, _ = cluster_compositions(rows, k, 42)
        assert silhouette[k] == pytest.approx(exact_silhouette(rows, cluster), abs=1e-9), k


def test_silhouettes_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(5).dirichlet([1, 1, 1], size=90)
    _, whole = cluster_compositions(rows, None, 42)
    monkeypatch.setattr("tissue_crosstalk.core.hubs.DISTANCES_AT_ONCE", 700)
    _, in_blocks = cluster_compositions(rows, None, 42)
    assert in_blocks == pytest.approx(whole, abs=1e-12)
    for k in (2, 12):
        cluster, _ = cluster_compositions(rows, k, 42)
        assert whole[k] == pytest.approx(exact_silhouette(rows, cluster), abs=1e-9)


def test_silhouette_by_hand() -> None:
    """On a line at 0, 1 (twice) and 4 (twice), for {0, 1, 1} and {4, 4}."""
    rows = np.array([[0.0], [1.0], [1.0], [4.0], [4.0]])
    _, silhouette = cluster_compositions(rows, None, 42)
    of_0, of_1, of_4 = (4 - 1) / 4, (3 - 0.5) / 3, 1.0
    assert silhouette == pytest.approx({2: (of_0 + 2 * of_1 + 2 * of_4) / 5})


def test_a_cluster_of_one_cell_has_silhouette_zero() -> None:
    """{0} and {5, 6}: 0 for the first, (5 − 1)/5 and (6 − 1)/6 for the others."""
    _, silhouette = cluster_compositions(np.array([[0.0], [5.0], [6.0]]), None, 42)
    assert silhouette[2] == pytest.approx((0 + 4 / 5 + 5 / 6) / 3)


def test_the_number_with_the_highest_silhouette_is_chosen() -> None:
    rows = shares_of(7)
    cluster, silhouette = cluster_compositions(rows, None, 42)
    assert len(silhouette) > 5
    best = max(silhouette.values())
    assert int(cluster.max()) + 1 == min(k for k, value in silhouette.items() if value == best)


def test_the_smallest_number_is_chosen_on_ties() -> None:
    """Four cells, each as far from every other: all silhouettes are 0."""
    cluster, silhouette = cluster_compositions(np.eye(4), None, 42)
    assert silhouette == {2: 0.0, 3: 0.0}
    assert set(cluster) == {0, 1}


@pytest.mark.parametrize(("n_distinct", "tried"), [(3, [2]), (5, [2, 3, 4]), (40, list(range(2, 13)))])
def test_numbers_tried_stop_below_the_distinct_rows(n_distinct: int, tried: list[int]) -> None:
    distinct = np.random.default_rng(3).dirichlet([1, 1, 1], size=n_distinct)
    _, silhouette = cluster_compositions(np.repeat(distinct, 4, axis=0), None, 42)
    assert list(silhouette) == tried


@pytest.mark.parametrize("n_distinct", [1, 2])
def test_too_few_distinct_rows_are_one_hub(n_distinct: int, caplog: pytest.LogCaptureFixture) -> None:
    rows = np.repeat(np.eye(3)[:n_distinct], 5, axis=0)
    with caplog.at_level(logging.WARNING):
        cluster, silhouette = cluster_compositions(rows, None, 42)
    assert (cluster == 0).all()
    assert silhouette == {}
    assert f"only {n_distinct} distinct compositions" in caplog.text


def test_as_many_hubs_as_distinct_rows() -> None:
    rows = np.repeat(np.eye(3), [2, 7, 4], axis=0)
    cluster, silhouette = cluster_compositions(rows, 3, 42)
    assert cluster.tolist() == [2] * 2 + [0] * 7 + [1] * 4
    assert silhouette == {}


def test_more_hubs_than_distinct_rows_are_refused_with_their_number() -> None:
    with pytest.raises(ParameterError) as caught:
        cluster_compositions(np.repeat(np.eye(3), 4, axis=0), 5, 42)
    assert str(caught.value) == (
        "n_clusters is 5, but there are only 3 distinct compositions of strong neighbors. Set n_clusters to 3 or less, "
        "or lower attention_quantile_threshold."
    )


def test_hubs_are_numbered_by_size_and_then_by_the_first_row() -> None:
    for seed in range(2):
        cluster, _ = cluster_compositions(shares_of(seed), 5, seed)
        sizes = np.bincount(cluster)
        assert len(sizes) == 5
        assert (np.diff(sizes) <= 0).all()


def test_equal_sizes_are_numbered_alike_whatever_the_seed() -> None:
    rows = np.repeat(np.eye(3), 5, axis=0)
    clusters = [cluster_compositions(rows, 3, seed)[0].tolist() for seed in range(3)]
    assert all(cluster == clusters[0] for cluster in clusters)


@pytest.mark.parametrize("counting", ["edges", "in_degree"])
@pytest.mark.parametrize("n_clusters", [None, 4])
def test_the_order_of_cells_does_not_matter(counting: str, n_clusters: int | None) -> None:
    strength, nn_idx, labels, senders = random_case(4)
    hubs = hubs_of((strength, nn_idx, labels, senders), counting=counting, n_clusters=n_clusters)
    order = np.random.default_rng(4).permutation(len(labels))
    place = np.argsort(order)
    moved = np.where(nn_idx < 0, -1, place[nn_idx])
    other = hubs_of(
        (strength[order], moved[order], labels[order], senders[order]), counting=counting, n_clusters=n_clusters
    )
    assert (other.composition == hubs.composition[order]).all()
    assert (other.cluster == hubs.cluster[order]).all()
    assert other.thresholds == hubs.thresholds
    assert other.silhouette == pytest.approx(hubs.silhouette, abs=1e-12)


def test_the_order_of_neighbors_does_not_matter() -> None:
    strength, nn_idx, labels, senders = random_case(5)
    order = np.random.default_rng(5).permutation(strength.shape[1])
    hubs = hubs_of((strength, nn_idx, labels, senders))
    other = hubs_of((strength[:, order], nn_idx[:, order], labels, senders[:, order]))
    assert (other.composition == hubs.composition).all()
    assert (other.cluster == hubs.cluster).all()


def test_hubs_change_no_argument() -> None:
    case = random_case(6)
    kept = [array.copy() for array in case]
    hubs_of(case, counting="in_degree")
    assert all((one == other).all() for one, other in zip(case, kept, strict=True))


def test_scaling_attention_changes_no_hub() -> None:
    """Thresholds are quantiles: twice the attention everywhere is twice the threshold."""
    strength, *rest = random_case(7)
    one, other = hubs_of((strength, *rest)), hubs_of((2 * strength, *rest))
    assert (one.composition == other.composition).all()
    assert (one.cluster == other.cluster).all()


# --- The table


def test_table_has_a_column_per_type_and_the_hub() -> None:
    hubs = Hubs(np.array([[0.5, 0.5, 0], [0, 0, 0]]), np.array([1, 0], np.int32), {}, {})
    table = hubs.table(np.array(["x", "y"], dtype=object), ("B/T", "A, b", "C"))
    expected = pd.DataFrame(
        {"B/T": [0.5, 0.0], "A, b": [0.5, 0.0], "C": [0.0, 0.0], "hub_cluster": np.array([1, 0], np.int32)},
        index=pd.Index(["x", "y"], name="cell_idx"),
    )
    pd.testing.assert_frame_equal(table, expected)
    assert hubs.n_clusters == 2


@pytest.mark.parametrize("name", ["hub_cluster", "cell_idx"])
def test_cell_types_called_as_a_column_are_refused(name: str) -> None:
    hubs = Hubs(np.zeros((1, 2)), np.zeros(1, np.int32), {}, {})
    with pytest.raises(ResultError, match=f"cell types must not be called {name}, a column of the hub table"):
        hubs.table(np.array(["x"], dtype=object), ("A", name))
