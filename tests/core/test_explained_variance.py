"""Explained variance: golden, in loops, and p-values against plain permutations of the predictions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from naive import (
    GOLDEN,
    golden,
    layer_norm,
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

from tissue_crosstalk.core import explained_variance as module
from tissue_crosstalk.core.attention import predict
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.explained_variance import VarianceSettings, explain_variance
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.tissue import PreparedTissue

Case = tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]
SETTINGS = VarianceSettings(n_permutations=99, random_state=1)
FEW = VarianceSettings(n_permutations=1)


@pytest.fixture
def case() -> Case:
    """Return a tissue of two sections in which some slots are padded, and a network."""
    tissue = random_tissue(3, n_cells=42, n_sections=2)
    return random_network(6, 3), tissue, find_neighbors(tissue, 16, pad=True)


# --- What the published package answers


def compare_with_golden(neighbors: Neighbors) -> None:
    """Raise AssertionError unless the shares are those of the published package."""
    known = golden()
    with np.load(GOLDEN / "interpretation.npz", allow_pickle=False) as stored:
        types, by_gene, together = (stored[f"explained_variance{name}"] for name in ("_types", "_gene", ""))
    found = explain_variance(known.model.network, known.tissue, neighbors, FEW)
    order = [known.tissue.cell_types.index(name) for name in types]
    np.testing.assert_allclose(found.by_gene[order, 1:].transpose(1, 0, 2), by_gene, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(found.explained[order, 1:].T, together, rtol=1e-5, atol=1e-6)
    assert np.array_equal(found.best[order], by_gene.max(axis=2).argmax(axis=0))
    assert by_gene.max() > 0.2


def test_golden() -> None:
    compare_with_golden(golden().neighbors)


def test_golden_fails_when_distances_are_shifted_by_a_slot() -> None:
    known = golden().neighbors
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare_with_golden(Neighbors(known.idx, np.roll(known.dist, 1, axis=1)))


# --- In loops


def naive_predictions(case: Case) -> np.ndarray:
    """Return what is predicted where all heads are heard, then each alone, (1 + head, cell, gene)."""
    network, tissue, neighbors = case
    weights, s, expression = naive_weights(network), network.settings, tissue.expression.toarray()
    naive = naive_network(network, expression, tissue.labels, neighbors.idx, neighbors.dist)
    out = np.empty((1 + s.n_heads, *expression.shape))
    out[0] = naive.prediction
    for cell, label in enumerate(tissue.labels):
        query = naive_query(weights, s, label).reshape(-1)
        for head in range(s.n_heads):
            heard = np.zeros(s.n_embed)
            for slot, sender in enumerate(neighbors.idx[cell]):
                if sender >= 0:
                    value = naive_value(weights, s, expression[sender].astype(float))[2]
                    said = weights["attention_layer.W_O"][:, head] @ value[head]
                    heard += naive.patterns[head, cell, slot] * said
            state = layer_norm(weights, "attention_layer.norm_o", heard + query)
            out[1 + head, cell] = weights["ct_profiles"][label] + weights["linear_head.weight"] @ state
    return out


def naive_p(prediction: np.ndarray, expressed: np.ndarray, permutations: list[np.ndarray]) -> float:
    error = ((prediction - expressed) ** 2).mean()
    permuted = [((prediction[permutation] - expressed) ** 2).mean() for permutation in permutations]
    return (1 + sum(other <= error * (1 + 1e-9) for other in permuted)) / (1 + len(permutations))


def drawn_permutations(tissue: PreparedTissue, label: int, group: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the receivers of a type, and the permutations of them that are drawn within groups."""
    generator = np.random.default_rng([SETTINGS.random_state, label])
    own = np.flatnonzero(tissue.labels == label)
    own = own[np.argsort(tissue.positions[own])]
    place = {cell: number for number, cell in enumerate(own)}
    permutations = [np.arange(len(own)) for _ in range(SETTINGS.n_permutations)]
    for cells in np.array_split(generator.permutation(own), -(-len(own) // group)):
        members = np.array([place[cell] for cell in cells])
        drawn = generator.permuted(np.tile(np.arange(len(cells)), (SETTINGS.n_permutations, 1)), axis=1)
        for permutation, of_group in zip(permutations, drawn, strict=True):
            permutation[members] = members[of_group]
    return own, permutations


@pytest.mark.parametrize("group", [1024, 5])
def test_equals_the_formulas(case: Case, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP", group)
    tissue = case[1]
    found, predictions = explain_variance(*case, SETTINGS), naive_predictions(case)
    expression = tissue.expression.toarray().astype(float)
    assert found.heads.tolist() == [-1, 0, 1]
    assert found.n_receivers.tolist() == [14, 14, 14]
    for label in range(3):
        own, permutations = drawn_permutations(tissue, label, group)
        spread = expression[own].var(axis=0, ddof=1)
        for choice in range(3):
            error = (predictions[choice, own] - expression[own]).var(axis=0, ddof=1)
            np.testing.assert_allclose(found.by_gene[label, choice], 1 - error / spread, rtol=1e-4, atol=1e-5)
            # The share that is left: predictions are of single precision, which says little of a difference near 0.
            assert 1 - found.explained[label, choice] == pytest.approx(error.sum() / spread.sum(), rel=1e-6)
            expected_p = naive_p(predictions[choice, own], expression[own], permutations)
            assert found.p_value[label, choice] == pytest.approx(expected_p, abs=1e-9)
        assert found.best[label] == found.by_gene[label, 1:].max(axis=1).argmax()
    assert len(np.unique(found.p_value)) > 4
    assert np.abs(found.by_gene).max() > 0.1


def test_few_lookups_at_once_are_the_same(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = explain_variance(*case, SETTINGS)
    monkeypatch.setattr(module, "_LOOKED_UP_AT_ONCE", 14 * 10)
    np.testing.assert_array_equal(explain_variance(*case, SETTINGS).p_value, whole.p_value)


def test_tables(case: Case) -> None:
    found = explain_variance(*case, SETTINGS, receivers=["C", "A"])
    table, by_gene = found.table(), found.table_by_gene()
    assert list(table.columns) == ["receiver", "head_idx", "n_receivers", "explained", "p_value", "best"]
    assert table["receiver"].tolist() == list("AAACCC")
    assert table["receiver"].cat.categories.tolist() == list("ABC")
    assert table["head_idx"].tolist() == [-1, 0, 1] * 2
    assert table["head_idx"].dtype == np.int16
    assert table["explained"].tolist() == found.explained.ravel().tolist()
    assert table[table["best"]].groupby("receiver", observed=True)["head_idx"].first().tolist() == found.best.tolist()
    assert table["best"].sum() == 2
    assert list(by_gene.columns) == ["receiver", "head_idx", "gene", "explained"]
    row = by_gene[(by_gene["receiver"] == "C") & (by_gene["head_idx"] == 1) & (by_gene["gene"] == "gene4")]
    assert row["explained"].tolist() == [found.by_gene[1, 2, 4]]
    assert len(by_gene) == 2 * 3 * 6


# --- Answers that are known


def test_receivers_that_are_as_predicted(case: Case) -> None:
    network, tissue, neighbors = case
    own = tissue.labels == 0
    expression = tissue.expression.toarray()
    expression[own] = predict(network, tissue, neighbors)[own]
    found = explain_variance(network, replace(tissue, expression=sparse.csr_matrix(expression)), neighbors, SETTINGS)
    np.testing.assert_allclose(found.explained[0, 0], 1, atol=1e-6)
    assert found.p_value[0, 0] == 1 / 100


def test_receivers_that_hear_nobody() -> None:
    """All are predicted alike: nothing is explained, and every permutation is as good."""
    tissue = random_tissue(5, n_cells=20, n_types=2)
    network = random_network(6, 2)
    nobody = Neighbors(np.full((20, 3), -1, np.int32), np.full((20, 3), np.inf, np.float32))
    found = explain_variance(network, tissue, nobody, SETTINGS)
    np.testing.assert_allclose(found.explained, 0, atol=1e-6)
    assert (found.p_value == 1).all()


def test_genes_that_do_not_vary_are_not_explained(case: Case) -> None:
    network, tissue, neighbors = case
    expression = tissue.expression.toarray()
    expression[:, 2] = np.float32(0.1)
    found = explain_variance(network, replace(tissue, expression=sparse.csr_matrix(expression)), neighbors, FEW)
    assert (found.by_gene[:, :, 2] == 0).all()
    assert (found.by_gene[:, :, 1] != 0).all()
    expression[:] = np.float32(0.1)
    flat = explain_variance(network, replace(tissue, expression=sparse.csr_matrix(expression)), neighbors, FEW)
    assert (flat.by_gene == 0).all()
    assert (flat.explained == 0).all()


def test_types_of_one_cell_and_of_none() -> None:
    tissue = made_tissue(
        np.random.default_rng(0).uniform(0, 9, (9, 2)),
        [0, 2, 2, 2, 2, 2, 2, 2, 2],
        expression=np.random.default_rng(1).poisson(2, (9, 6)),
    )
    found = explain_variance(random_network(6, 3), tissue, find_neighbors(tissue, 2, pad=True), SETTINGS)
    assert found.n_receivers.tolist() == [1, 0, 8]
    for values in (found.explained, found.p_value, found.by_gene.max(axis=2)):
        assert np.isnan(values[:2]).all()
        assert np.isfinite(values[2]).all()
    assert found.best[:2].tolist() == [-1, -1]
    assert not found.table().query("receiver != 'C'")["best"].any()


@pytest.mark.slow
def test_p_values_of_chance_are_those_of_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expression that has nothing to do with places: p is at most 0.05 in 5 % of the tissues."""
    monkeypatch.setattr(module, "GROUP", 7)
    n_tissues = 200
    low = np.zeros((n_tissues, 3))
    for seed in range(n_tissues):
        tissue = random_tissue(seed, n_cells=30, n_types=2)
        settings = VarianceSettings(n_permutations=19, random_state=seed)
        found = explain_variance(random_network(6, 2), tissue, find_neighbors(tissue, 4), settings, receivers=["A"])
        low[seed] = found.p_value[0] <= 0.05
    error = math.sqrt(0.05 * 0.95 / n_tissues)
    assert (np.abs(low.mean(axis=0) - 0.05) < 3.5 * error).all()


# --- In whatever order and parts


@pytest.mark.parametrize("cells_per_shard", [1, 11])
def test_sharded_equals_whole(case: Case, cells_per_shard: int) -> None:
    whole = explain_variance(*case, SETTINGS)
    found = explain_variance(*case, SETTINGS, cells_per_shard=cells_per_shard)
    np.testing.assert_allclose(found.by_gene, whole.by_gene, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.p_value, whole.p_value)


def test_another_order_of_cells(case: Case) -> None:
    network, tissue, neighbors = case
    moved = reordered(tissue, neighbors, np.random.default_rng(5).permutation(42))
    found, whole = explain_variance(network, *moved, SETTINGS), explain_variance(*case, SETTINGS)
    np.testing.assert_allclose(found.by_gene, whole.by_gene, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.p_value, whole.p_value)


def test_receivers_do_not_matter_to_each_other(case: Case) -> None:
    together, alone = explain_variance(*case, SETTINGS), explain_variance(*case, SETTINGS, receivers=["B"])
    assert alone.receivers.tolist() == [1]
    expected = together.table().query("receiver == 'B'").reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.table(), expected, rtol=1e-5, atol=1e-6)


# --- Refused


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("n_permutations", 0, r"n_permutations must be 1 or more \(a whole number\). Got 0"),
        ("n_permutations", True, "n_permutations must be 1 or more"),
        ("random_state", 0.5, "random_state must be a whole number in"),
    ],
)
def test_settings_out_of_range(name: str, value: object, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        VarianceSettings(**{name: value})  # type: ignore[arg-type]


def test_bad_arguments(case: Case) -> None:
    with pytest.raises(ParameterError, match="receivers names the cell type 'X'"):
        explain_variance(*case, receivers=["X"])
    with pytest.raises(ParameterError, match="cells_per_shard must be at least 1"):
        explain_variance(*case, cells_per_shard=0)
