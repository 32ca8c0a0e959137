"""Attention against shuffled senders: in loops, at random, and where something is planted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from naive import (
    TINY,
    made_tissue,
    naive_network,
    naive_query,
    naive_value,
    naive_weights,
    random_network,
    random_tissue,
    reordered,
)
from scipy import sparse

from tissue_crosstalk.core import attention_null as module
from tissue_crosstalk.core.attention_null import NullSettings, attention_enrichment
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.statistics import false_discovery_rate
from tissue_crosstalk.core.tissue import PreparedTissue

Case = tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]
SETTINGS = NullSettings(n_permutations=19, random_state=3)
COLUMNS = [
    *("receiver", "sender", "head_idx", "shuffled", "n_edges"),
    *("observed", "expected", "log2_enrichment", "p_value", "q_value"),
]


@pytest.fixture
def case() -> Case:
    """Return a tissue of two sections in which some slots are padded, and a network."""
    tissue = random_tissue(3, n_cells=30, n_sections=2)
    return random_network(6, 3), tissue, find_neighbors(tissue, 11, pad=True)


# --- In loops


def naive_means(case: Case, cells: np.ndarray, occupant: dict[int, int]) -> np.ndarray:
    """Return the mean attention per edge with other cells in the places of the neighbors, (shuffled, sender, head)."""
    network, tissue, neighbors = case
    nn_idx = np.vectorize(lambda row: occupant.get(row, row))(neighbors.idx[cells])
    patterns = naive_network(
        network, tissue.expression.toarray(), tissue.labels[cells], nn_idx, neighbors.dist[cells]
    ).patterns
    shape = 2, len(tissue.cell_types)
    total, count = np.zeros((*shape, patterns.shape[0])), np.zeros((*shape, 1))
    for cell in range(len(cells)):
        for slot, place in enumerate(neighbors.idx[cells[cell]]):
            if place >= 0:
                for kind, counted in enumerate((place, occupant.get(place, place))):
                    total[kind, tissue.labels[counted]] += patterns[:, cell, slot]
                    count[kind, tissue.labels[counted]] += 1
    with np.errstate(invalid="ignore"):
        return total / count


def naive_occupants(case: Case, label: int, n_permutations: int) -> list[dict[int, int]]:
    """Return who is in each place of a neighbor, as the same seed draws it."""
    _, tissue, neighbors = case
    generator = np.random.default_rng([SETTINGS.random_state, label, 1])
    slots = neighbors.idx[tissue.labels == label]
    places = set(slots[slots >= 0].tolist())
    permutations = []
    for _ in range(n_permutations):
        occupant = {}
        for section in np.unique(tissue.sections):
            pool = np.flatnonzero((tissue.labels != label) & (tissue.sections == section))
            pool = pool[np.argsort(tissue.positions[pool])]
            own = [row for row in pool if row in places]
            occupant |= dict(zip(own, pool[generator.choice(len(pool), len(own), replace=False)], strict=True))
        permutations.append(occupant)
    return permutations


def test_equals_the_formulas(case: Case) -> None:
    _, tissue, neighbors = case
    found = attention_enrichment(*case, replace(SETTINGS, n_permutations=9))
    assert list(found.columns) == COLUMNS
    rows = found.set_index(["receiver", "sender", "head_idx", "shuffled"])
    pairs = [(receiver, sender) for receiver in "ABC" for sender in "ABC" if receiver != sender]
    assert rows.index.tolist() == [
        (*pair, head, shuffled) for pair in pairs for head in range(2) for shuffled in ("expression", "places")
    ]
    for label in range(3):
        cells = np.flatnonzero(tissue.labels == label)
        observed = naive_means(case, cells, {})
        permuted = np.array([naive_means(case, cells, occupant) for occupant in naive_occupants(case, label, 9)])
        for kind, sender, head in np.ndindex(2, 3, 2):
            if sender == label:
                continue
            row = rows.loc[("ABC"[label], "ABC"[sender], head, ("expression", "places")[kind])]
            true, null = observed[kind, sender, head], permuted[:, kind, sender, head]
            assert row["n_edges"] == (neighbors.labels(tissue.labels)[cells] == sender).sum()
            assert row["observed"] == pytest.approx(true, rel=1e-4)
            assert row["expected"] == pytest.approx(null.mean(), rel=1e-4)
            assert row["log2_enrichment"] == pytest.approx(math.log2(true / null.mean()), abs=1e-3)
            assert row["p_value"] == pytest.approx((1 + (null >= true).sum()) / 10)
    assert found["p_value"].nunique() > 5
    for _, part in found.groupby("shuffled", observed=True):
        np.testing.assert_allclose(part["q_value"], false_discovery_rate(part["p_value"].to_numpy()))


def test_only_those_drawn_are_looked_at(case: Case) -> None:
    """The edges and the attention of as many receivers as are asked for, the same in any order of cells."""
    network, tissue, neighbors = case
    few = replace(SETTINGS, max_receivers=4)
    found = attention_enrichment(*case, few)
    present = {label: (neighbors.idx[tissue.labels == label] >= 0).sum(axis=1) for label in range(3)}
    for label, receiver in enumerate("ABC"):
        edges = found.query(f"receiver == '{receiver}' and head_idx == 0 and shuffled == 'places'")["n_edges"].sum()
        assert 0 < edges < present[label].sum()
        assert edges <= np.sort(present[label])[-4:].sum()
    moved = reordered(tissue, neighbors, np.random.default_rng(5).permutation(30))
    pd.testing.assert_frame_equal(attention_enrichment(network, *moved, few), found, rtol=1e-5, atol=1e-6)
    other = attention_enrichment(*case, replace(few, random_state=8))
    assert not np.allclose(other["observed"], found["observed"])
    everyone = attention_enrichment(*case, replace(SETTINGS, max_receivers=10))
    pd.testing.assert_frame_equal(everyone, attention_enrichment(*case, SETTINGS))


# --- Answers that are known


def test_where_all_are_alike_nothing_can_be_shuffled(case: Case) -> None:
    """Of the same expression, each permutation is as good as the truth."""
    network, tissue, neighbors = case
    alike = replace(tissue, expression=tissue.expression[np.zeros(30, dtype=int)])
    found = attention_enrichment(network, alike, neighbors, SETTINGS).query("shuffled == 'expression'")
    assert (found["p_value"] == 1).all()
    np.testing.assert_allclose(found["log2_enrichment"], 0, atol=1e-6)


def test_sections_are_shuffled_apart() -> None:
    """In each section all senders are alike: shuffled within it, nothing changes, though the sections differ."""
    tissue = random_tissue(6, n_cells=40, n_types=4, n_sections=2)
    expression = np.where(tissue.sections[:, None] == 0, [[0, 1, 2, 0, 0, 3]], [[4, 0, 0, 2, 1, 0]])
    tissue = replace(tissue, expression=sparse.csr_matrix(expression, dtype=np.float32))
    found = attention_enrichment(random_network(6, 4), tissue, find_neighbors(tissue, 5), SETTINGS)
    assert (found.query("shuffled == 'expression'")["p_value"] == 1).all()


def test_receivers_that_hear_nobody() -> None:
    """Cells of a section of their own have no edges, and change nothing; a type of such cells has no rows."""
    rng = np.random.default_rng(4)
    labels, sections = np.array([0, 1, 2] * 6 + [0] * 4 + [3] * 3), np.array([0] * 18 + [1] * 4 + [2] * 3)
    places, expression = rng.uniform(0, 20, (25, 2)), rng.poisson(2, (25, 6))
    network = random_network(6, 4)
    whole = made_tissue(places, labels, sections=sections, expression=expression)
    found = attention_enrichment(network, whole, find_neighbors(whole, 4, pad=True), SETTINGS)
    assert set(found["receiver"]) == set("ABC")
    first = replace(
        made_tissue(places[:18], labels[:18], sections=sections[:18], expression=expression[:18]),
        cell_types=whole.cell_types,
    )
    alone = attention_enrichment(network, first, find_neighbors(first, 4), SETTINGS)
    pd.testing.assert_frame_equal(found, alone, rtol=1e-5)
    nobody = attention_enrichment(network, whole, find_neighbors(whole, 4, pad=True), SETTINGS, receivers=["D"])
    assert (len(nobody), list(nobody.columns)) == (0, COLUMNS)


def test_types_without_cells_have_no_rows(case: Case) -> None:
    _, tissue, neighbors = case
    tissue = replace(tissue, cell_types=("A", "B", "C", "gone"))
    network = random_network(6, 4)
    found = attention_enrichment(network, tissue, neighbors, SETTINGS)
    assert set(found["receiver"]) == set(found["sender"]) == set("ABC")
    assert found["receiver"].cat.categories.tolist() == ["A", "B", "C", "gone"]
    assert len(attention_enrichment(network, tissue, neighbors, SETTINGS, receivers=["gone"])) == 0


def test_permutations_without_the_type_count_against_it() -> None:
    """One B among many C: where it is the only neighbor's place that is shuffled, mostly no neighbor is a B."""
    labels = [0, 1, *[2] * 30]
    places = [[0, 0], [1, 0], *[[100 + x, 0] for x in range(30)]]
    expression = np.random.default_rng(3).poisson(2, (32, 6))
    tissue = made_tissue(places, labels, expression=expression)
    neighbors = find_neighbors(tissue, 1)
    found = attention_enrichment(random_network(6, 3), tissue, neighbors, SETTINGS, receivers=["A"])
    assert found["sender"].tolist() == ["B"] * 4
    assert (found.query("shuffled == 'places'")["p_value"] == 1).all()


@pytest.mark.slow
def test_p_values_of_chance_are_those_of_chance() -> None:
    """Where expression has nothing to do with types and places, p is at most 0.05 in 5 % of the tissues.

    Pairs and heads of one tissue depend on each other, so that the error is that of a mean over tissues.
    """
    n_tissues, settings = 100, NullSettings(n_permutations=19)
    low = []
    for seed in range(n_tissues):
        rng = np.random.default_rng(seed)
        tissue = replace(random_tissue(seed, n_cells=36), labels=rng.permutation(np.arange(36) % 3).astype(np.int16))
        network = CrossAttentionNetwork(6, 3, TINY, seed=seed).eval().requires_grad_(False)
        found = attention_enrichment(network, tissue, find_neighbors(tissue, 5), replace(settings, random_state=seed))
        low.append([(found[found["shuffled"] == kind]["p_value"] <= 0.05).mean() for kind in ("expression", "places")])
    for share in np.array(low).T:
        assert abs(share.mean() - 0.05) < 3 * share.std() / math.sqrt(n_tissues)
        assert share.std() / math.sqrt(n_tissues) < 0.012


def base_scores(network: CrossAttentionNetwork, expression: np.ndarray, receiver: int, head: int) -> np.ndarray:
    """Return how well cells are heard at no distance, (cell,)."""
    weights, s = naive_weights(network), network.settings
    query = naive_query(weights, s, receiver)[head]
    return np.array([query @ naive_value(weights, s, row)[1][head] for row in expression.astype(float)])


def test_what_is_attended_to_for_its_expression_is_found() -> None:
    """Type B expresses what A hears best through head 1; nothing is special about places."""
    rng = np.random.default_rng(7)
    tissue = random_tissue(7, n_cells=120, n_types=4)
    expression = np.log1p(rng.poisson(2.0, (120, 6)))
    network = random_network(6, 4)
    order, is_b = np.argsort(-base_scores(network, expression, 0, 1)), tissue.labels == 1
    planted = np.empty_like(expression)
    planted[is_b], planted[~is_b] = expression[order[:30]], expression[rng.permutation(order[30:])]
    tissue = replace(tissue, expression=sparse.csr_matrix(planted, dtype=np.float32))
    settings = NullSettings(n_permutations=199)
    found = attention_enrichment(network, tissue, find_neighbors(tissue, 10), settings)
    first = found[found["shuffled"] == "expression"].sort_values(
        ["p_value", "log2_enrichment"], ascending=[True, False]
    )
    of_a = found.query("receiver == 'A' and head_idx == 1 and shuffled == 'expression'").set_index("sender")
    assert of_a.loc["B", "p_value"] == 1 / 200
    assert of_a.loc["B", "log2_enrichment"] > 0
    assert (of_a.loc[["C", "D"], "p_value"] > 0.2).all()
    assert of_a.loc["B", "q_value"] < 0.05
    assert first["p_value"].iloc[0] == 1 / 200


def test_what_is_attended_to_for_its_places_is_found() -> None:
    """Beside each A lies a B, other cells are far, and all express the same."""
    rng = np.random.default_rng(8)
    center = rng.uniform(0, 400, (40, 2))
    labels = np.array([0] * 40 + [1] * 40 + [2] * 80)
    places = np.concatenate([center, center + 0.5, rng.uniform(0, 400, (80, 2))])
    tissue = made_tissue(places, labels, expression=np.tile([0, 1, 2, 0, 0, 3], (160, 1)))
    settings = NullSettings(n_permutations=199)
    found = attention_enrichment(random_network(6, 3), tissue, find_neighbors(tissue, 6), settings, receivers=["A"])
    rows = found.set_index(["sender", "head_idx", "shuffled"])["p_value"]
    for head in range(2):
        assert rows[("B", head, "places")] == 1 / 200
        assert rows[("C", head, "places")] > 0.9
        assert rows[("B", head, "expression")] == 1


# --- In whatever order and parts


@pytest.mark.parametrize("cells_per_shard", [1, 11])
def test_sharded_equals_whole(case: Case, cells_per_shard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = attention_enrichment(*case, SETTINGS)
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", 1)  # a type of receiver at a time
    found = attention_enrichment(*case, SETTINGS, cells_per_shard=cells_per_shard)
    pd.testing.assert_frame_equal(found, whole, rtol=1e-5, atol=1e-6)


def test_another_order_of_cells(case: Case) -> None:
    network, tissue, neighbors = case
    moved = reordered(tissue, neighbors, np.random.default_rng(5).permutation(30))
    whole = attention_enrichment(*case, SETTINGS)
    pd.testing.assert_frame_equal(attention_enrichment(network, *moved, SETTINGS), whole, rtol=1e-5, atol=1e-6)


def test_receivers_do_not_matter_to_each_other(case: Case) -> None:
    whole, alone = attention_enrichment(*case, SETTINGS), attention_enrichment(*case, SETTINGS, receivers=["B"])
    expected = whole[whole["receiver"] == "B"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.drop(columns="q_value"), expected.drop(columns="q_value"), rtol=1e-5)


def test_each_pair_is_computed_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[np.ndarray] = []
    scores = module.pair_scores

    def watched(network: object, expression: object, pairs: np.ndarray, **options: int) -> np.ndarray:
        wanted.append(pairs)
        return scores(network, expression, pairs, **options)

    monkeypatch.setattr(module, "pair_scores", watched)
    attention_enrichment(*case, SETTINGS)
    (pairs,) = wanted
    assert np.array_equal(pairs, case[1].labels[:, None] != np.arange(3))


# --- Refused


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("n_permutations", 0, r"n_permutations must be 1 or more \(a whole number\). Got 0"),
        ("max_receivers", 0, "max_receivers must be 1 or more"),
        ("random_state", 2**32, r"random_state must be a whole number in \[0, 2\*\*32\)"),
    ],
)
def test_settings_out_of_range(name: str, value: object, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        NullSettings(**{name: value})  # type: ignore[arg-type]


def test_bad_arguments(case: Case) -> None:
    with pytest.raises(ParameterError, match="receivers names the cell type 'X'"):
        attention_enrichment(*case, receivers=["X"])
    with pytest.raises(ParameterError, match="cells_per_shard must be at least 1"):
        attention_enrichment(*case, cells_per_shard=0)
