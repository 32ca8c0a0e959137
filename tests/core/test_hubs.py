"""Hubs: thresholds, compositions and clusters by hand, against scikit-learn, and as the published package counts."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd
import pytest
from naive import (
    golden,
)

from tissue_crosstalk.core.clustering import cluster_rows
from tissue_crosstalk.core.errors import ParameterError, ResultError
from tissue_crosstalk.core.hubs import ALL_SECTIONS, ISOLATED, Hubs, HubSettings, find_hubs
from tissue_crosstalk.core.strong_edges import StrengthShard

TYPES = ("A", "B", "C")


Case = tuple[np.ndarray, np.ndarray, np.ndarray]


def random_case(seed: int, n_cells: int = 200, n_neighbors: int = 8) -> Case:
    """Return strength, nn_idx and labels, with some slots padded."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(TYPES), n_cells)
    nn_idx = generator.integers(0, n_cells, (n_cells, n_neighbors)).astype(np.int32)
    nn_idx[generator.random(nn_idx.shape) < 0.1] = -1
    strength = generator.exponential(0.1, nn_idx.shape).astype(np.float32)
    strength[nn_idx < 0] = 0
    return strength, nn_idx, labels


def hubs_of(
    case: Case,
    cell_types: tuple[str, ...] = TYPES,
    *,
    receivers: np.ndarray | None = None,
    n_shards: int = 1,
    sections: np.ndarray | None = None,
    section_names: tuple[str, ...] = (),
    **settings: object,
) -> Hubs:
    """Find hubs of all cells, or of some, whose attention is in shards."""
    strength, nn_idx, labels = case
    own = np.arange(len(labels)) if receivers is None else receivers
    shards = [StrengthShard(part, strength[part], nn_idx[part]) for part in np.array_split(own, n_shards)]
    return find_hubs(
        shards,
        labels,
        cell_types,
        HubSettings(**{"stability_resamples": 0} | settings),  # type: ignore[arg-type]
        sections=sections,
        section_names=section_names,
    )


def naive_compositions(case: Case, thresholds: np.ndarray, *, in_degree: bool) -> np.ndarray:
    strength, nn_idx, labels = case
    shares = np.zeros((len(labels), len(TYPES)))
    for cell in range(len(labels)):
        for slot in range(strength.shape[1]):
            if strength[cell, slot] > thresholds[labels[cell]]:
                weight = 1
                if in_degree:
                    weight = int((nn_idx[labels == labels[cell]] == nn_idx[cell, slot]).sum())
                shares[cell, labels[nn_idx[cell, slot]]] += weight
        if shares[cell].sum():
            shares[cell] /= shares[cell].sum()
    return shares


# --- Golden


def golden_case() -> Case:
    """Return strength, neighbors and labels in the order of the golden tissue."""
    known = golden()
    strength, nn_idx = known.expected["vanilla"].max(axis=0), known.expected["nn_idx"]
    labels = known.tissue.labels[known.order].astype(int)
    return strength, nn_idx, labels


def test_golden_in_degree() -> None:
    known = golden()
    hubs = hubs_of(golden_case(), tuple(known.model.cell_types), counting="in_degree", n_clusters=4)
    columns = [known.model.cell_types.index(name) for name in known.expected["hub_types"]]
    np.testing.assert_allclose(
        hubs.composition[:, columns], known.expected["hub_in_degree_composition"], rtol=1e-5, atol=1e-12
    )


def test_golden_counts_edges_unless_told_otherwise() -> None:
    """It differs from the released counting on 5 to 50 % of the cells, and is the documented one."""
    known, case = golden(), golden_case()
    hubs = hubs_of(case, tuple(known.model.cell_types), n_clusters=4)
    columns = [known.model.cell_types.index(name) for name in known.expected["hub_types"]]
    differs = np.abs(hubs.composition[:, columns] - known.expected["hub_in_degree_composition"]).max(axis=1) > 1e-6
    assert 0.05 < differs.mean() < 0.5
    strength, nn_idx, labels = case
    for cell in range(0, len(labels), 25):
        threshold = np.quantile(strength[labels == labels[cell]].astype(np.float64), 0.9)
        strong = labels[nn_idx[cell]][strength[cell] > threshold]
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
        ({"isolated": "drop"}, "isolated must be 'separate' or 'cluster'. Got 'drop' instead."),
        ({"thresholds_per": "slide"}, "thresholds_per must be 'all' or 'section'. Got 'slide' instead."),
        ({"choose_by": "gap"}, "choose_by must be 'silhouette' or 'stability'. Got 'gap' instead."),
        ({"stability_resamples": -1}, "stability_resamples must be 0 or more (a whole number). Got -1 instead."),
        (
            {"choose_by": "stability", "stability_resamples": 0},
            "choose_by is 'stability', which needs resamples of the cells. Set stability_resamples to 1 or more",
        ),
    ],
)
def test_settings_say_what_is_wrong(given: dict[str, object], words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        HubSettings(**given)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_default_settings() -> None:
    assert HubSettings() == HubSettings(0.9, "all", None, "silhouette", 10, 42, "edges", "separate")


# --- Compositions


def test_compositions_by_hand() -> None:
    """Strong above the median: of .9 .8 .7 | .2 .1: .9 (B) and .8 (C), of the second cell none."""
    strength = np.array([[0.9, 0.8, 0.7], [0.2, 0.1, 0.0], [0, 0, 0], [0, 0, 0]], dtype=np.float32)
    nn_idx = np.array([[2, 3, 2], [2, 3, -1], [-1, -1, -1], [-1, -1, -1]], dtype=np.int32)
    hubs = hubs_of((strength, nn_idx, np.array([0, 0, 1, 2])), attention_quantile_threshold=0.5, n_clusters=1)
    assert hubs.thresholds == {ALL_SECTIONS: {"A": pytest.approx(0.7), "B": 0.0, "C": 0.0}}
    assert hubs.composition.tolist() == [[0, 0.5, 0.5], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert hubs.cluster.tolist() == [0, -1, -1, -1]


def test_equal_attention_everywhere_is_never_strong() -> None:
    """It equals its quantile."""
    strength = np.full((4, 3), 0.25, dtype=np.float32)
    nn_idx = np.array([[1, 2, 3]] * 4, dtype=np.int32)
    hubs = hubs_of((strength, nn_idx, np.array([0, 0, 0, 0])))
    assert hubs.thresholds[ALL_SECTIONS] == {"A": 0.25, "B": 0.0, "C": 0.0}
    assert (hubs.composition == 0).all()


@pytest.mark.parametrize("counting", ["edges", "in_degree"])
def test_compositions_equal_a_loop(counting: str) -> None:
    case = random_case(2)
    hubs = hubs_of(case, n_clusters=3, counting=counting, attention_quantile_threshold=0.7)
    thresholds = np.array([hubs.thresholds[ALL_SECTIONS][name] for name in TYPES])
    naive = naive_compositions(case, thresholds, in_degree=counting == "in_degree")
    np.testing.assert_allclose(hubs.composition, naive, rtol=1e-12)


def test_in_degree_by_hand() -> None:
    """Cell 0 (A) attends to 3 (B) and 4 (C) strongly; 3 is the neighbor of three A, 4 of one: shares 3/4 and 1/4."""
    strength = np.zeros((6, 2), dtype=np.float32)
    strength[:3] = [[0.9, 0.8], [0.1, 0.1], [0.1, 0.0]]
    nn_idx = np.full((6, 2), -1, dtype=np.int32)
    nn_idx[:3] = [[3, 4], [3, 5], [3, -1]]
    case = strength, nn_idx, np.array([0, 0, 0, 1, 2, 1])
    both = {
        counting: hubs_of(case, counting=counting, attention_quantile_threshold=0.5, n_clusters=1).composition[0]
        for counting in ("edges", "in_degree")
    }
    np.testing.assert_allclose(both["in_degree"], [0, 0.75, 0.25])
    np.testing.assert_allclose(both["edges"], [0, 0.5, 0.5])


# --- Clusters


def test_isolated_cells_are_kept_out_of_the_hubs() -> None:
    strength, nn_idx, labels = random_case(1)
    strength[:5], nn_idx[:5] = 0, -1
    case = strength, nn_idx, labels
    separate, clustered = hubs_of(case, n_clusters=3), hubs_of(case, n_clusters=3, isolated="cluster")
    isolated = ~separate.counts.strong.any(axis=(1, 2))
    assert isolated[:5].all()
    assert (separate.cluster == ISOLATED).tolist() == isolated.tolist()
    assert set(separate.cluster[~isolated]) == {0, 1, 2}
    assert separate.n_hubs == 3
    assert (clustered.composition[isolated] == 0).all()
    assert set(clustered.cluster) == {0, 1, 2}
    assert len(set(clustered.cluster[isolated])) == 1
    # The others are clustered as if there were no isolated ones.
    assert (cluster_rows(separate.composition[~isolated], 3, 42).cluster == separate.cluster[~isolated]).all()


def test_no_strong_edge_at_all_is_no_hub(caplog: pytest.LogCaptureFixture) -> None:
    case = np.zeros((2, 2), dtype=np.float32), np.full((2, 2), -1, dtype=np.int32), np.array([0, 1])
    with caplog.at_level(logging.WARNING):
        hubs = hubs_of(case)
    assert "no cell has a strong neighbor: there are no hubs." in caplog.text
    assert hubs.composition.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert hubs.cluster.tolist() == [-1, -1]
    assert hubs.n_hubs == 0
    assert hubs.record()["isolated_cells"] == 2
    assert hubs_of(case, isolated="cluster").cluster.tolist() == [0, 0]


def test_only_the_cells_computed_are_clustered() -> None:
    """Thresholds, counts by in-degree and hubs are those of the receivers alone."""
    strength, nn_idx, labels = random_case(8)
    own = np.array([7, 3, 50, 120, 4, 90, 33, 61, 150, 199, 0, 1, 2, 5, 6])
    hubs = hubs_of((strength, nn_idx, labels), receivers=own, counting="in_degree", n_clusters=2)
    assert hubs.counts.receivers.tolist() == own.tolist()
    thresholds = np.zeros(3)
    for label in range(3):
        values = strength[own][labels[own] == label]
        thresholds[label] = np.quantile(values[values > 0].astype(np.float64), 0.9)
    assert list(hubs.thresholds[ALL_SECTIONS].values()) == thresholds.tolist()
    for row, cell in enumerate(own):
        alike = own[labels[own] == labels[cell]]
        weights = np.zeros(3)
        for slot in np.flatnonzero(strength[cell] > thresholds[labels[cell]]):
            weights[labels[nn_idx[cell, slot]]] += (nn_idx[alike] == nn_idx[cell, slot]).sum()
        np.testing.assert_allclose(hubs.composition[row], weights / max(weights.sum(), 1))


def test_thresholds_per_section() -> None:
    """Attention in the second section is ten times as high: one threshold for both leaves the first one nothing."""
    strength, nn_idx, labels = random_case(9)
    sections = np.repeat([0, 1], 100)
    scaled = strength * np.where(sections == 1, 10, 1)[:, None].astype(np.float32)
    names = ("slide 1", "slide 2")
    given = {"sections": sections, "section_names": names, "n_clusters": 3}
    hubs = hubs_of((scaled, nn_idx, labels), thresholds_per="section", **given)  # type: ignore[arg-type]
    assert list(hubs.thresholds) == list(names)
    for section, name in enumerate(names):
        for label, cell_type in enumerate(TYPES):
            values = scaled[(sections == section) & (labels == label)]
            assert hubs.thresholds[name][cell_type] == np.quantile(values[values > 0].astype(np.float64), 0.9)
    plain = hubs_of((strength, nn_idx, labels), thresholds_per="section", **given)  # type: ignore[arg-type]
    assert (hubs.composition == plain.composition).all()
    together = hubs_of((scaled, nn_idx, labels), **given)  # type: ignore[arg-type]
    assert list(together.thresholds) == [ALL_SECTIONS]
    assert (together.cluster == ISOLATED)[:100].mean() > 0.9 > (hubs.cluster == ISOLATED)[:100].mean()


def test_one_section_has_the_thresholds_of_all() -> None:
    hubs = hubs_of(random_case(9), sections=np.zeros(200, int), section_names=("",), thresholds_per="section")
    assert list(hubs.thresholds) == [ALL_SECTIONS]


def test_record_is_json_and_redoes_the_hubs() -> None:
    case = random_case(3)
    hubs = hubs_of(case, n_clusters=4)
    record = json.loads(json.dumps(hubs.record()))
    assert record["n_clusters"] == 4
    assert record["chosen_by"] == "given"
    assert record["cells"] == 200
    centers = np.array([[center[name] for name in TYPES] for center in record["centers"]])
    in_hub = hubs.cluster != ISOLATED
    nearest = ((hubs.composition[in_hub, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == hubs.cluster[in_hub]).all()
    assert record["thresholds"] == {ALL_SECTIONS: pytest.approx(hubs.thresholds[ALL_SECTIONS])}
    assert list(record["silhouette"]) == ["4"]


@pytest.mark.parametrize("counting", ["edges", "in_degree"])
def test_the_order_of_cells_and_shards_does_not_matter(counting: str) -> None:
    strength, nn_idx, labels = random_case(4)
    hubs = hubs_of((strength, nn_idx, labels), counting=counting)
    order = np.random.default_rng(4).permutation(len(labels))
    other = hubs_of((strength, nn_idx, labels), counting=counting, receivers=order, n_shards=7)
    assert (other.composition == hubs.composition[order]).all()
    assert (other.cluster == hubs.cluster[order]).all()
    assert other.thresholds == hubs.thresholds
    assert other.silhouette == hubs.silhouette


def test_the_order_of_neighbors_does_not_matter() -> None:
    strength, nn_idx, labels = random_case(5)
    order = np.random.default_rng(5).permutation(strength.shape[1])
    hubs = hubs_of((strength, nn_idx, labels))
    other = hubs_of((strength[:, order], nn_idx[:, order], labels))
    assert (other.composition == hubs.composition).all()
    assert (other.cluster == hubs.cluster).all()


def test_hubs_change_no_argument() -> None:
    case = random_case(6)
    kept = [array.copy() for array in case]
    hubs_of(case, counting="in_degree", n_clusters=3)
    assert all((one == other).all() for one, other in zip(case, kept, strict=True))


def test_scaling_attention_changes_no_hub() -> None:
    """Thresholds are quantiles: twice the attention everywhere is twice the threshold."""
    strength, *rest = random_case(7)
    one, other = (hubs_of((factor * strength, *rest), n_clusters=5) for factor in (1, 2))
    assert (one.composition == other.composition).all()
    assert (one.cluster == other.cluster).all()


# --- The table


def test_table_has_a_column_per_type_and_the_hub() -> None:
    """Cell 1 (B) attends strongly to 0 (A) and 2 (C), the others to nobody."""
    strength = np.array([[0, 0], [0.4, 0.6], [0, 0]], dtype=np.float32)
    nn_idx = np.array([[-1, -1], [0, 2], [-1, -1]], dtype=np.int32)
    hubs = hubs_of(
        (strength, nn_idx, np.array([0, 1, 2])), ("A, b", "B/T", "C"), attention_quantile_threshold=0.0, n_clusters=1
    )
    table = hubs.table(np.array(["x", "y", "z"], dtype=object))
    expected = pd.DataFrame(
        {
            "A, b": [0.0, 0.0, 0.0],
            "B/T": [0.0, 0.0, 0.0],
            "C": [0.0, 1.0, 0.0],  # 0.4 is the quantile itself
            "hub_cluster": np.array([-1, 0, -1], np.int32),
        },
        index=pd.Index(["x", "y", "z"], name="cell_idx"),
    )
    pd.testing.assert_frame_equal(table, expected)


@pytest.mark.parametrize("name", ["hub_cluster", "cell_idx"])
def test_cell_types_called_as_a_column_are_refused(name: str) -> None:
    hubs = hubs_of(random_case(0), ("A", name, "C"), n_clusters=2)
    with pytest.raises(ResultError, match=f"cell types must not be called {name}, a column of the hub table"):
        hubs.table(np.arange(200).astype(str).astype(object))
