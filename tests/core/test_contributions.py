"""Contributions of senders: golden, in loops, summed up; and neighbor embeddings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from naive import (
    GOLDEN,
    golden,
    layer_norm,
    naive_value,
    naive_weights,
    random_network,
    random_tissue,
    reordered,
)

from tissue_crosstalk.core import contributions as module
from tissue_crosstalk.core.attention import predict, residuals
from tissue_crosstalk.core.contributions import contributions, neighbor_embeddings, summarize_contributions
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.neighbors import find_neighbors
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.tissue import PreparedTissue

Case = tuple[CrossAttentionNetwork, PreparedTissue]


@pytest.fixture
def case() -> Case:
    return random_network(6, 3), random_tissue(2, n_cells=31)


def naive_contributions(case: Case) -> np.ndarray:
    """Return (cell, head, gene), a head of a cell at a time."""
    network, tissue = case
    weights, s = naive_weights(network), network.settings
    out = np.empty((tissue.n_cells, s.n_heads, network.n_genes))
    for cell, expression in enumerate(tissue.expression.toarray().astype(float)):
        value = naive_value(weights, s, expression)[2]
        for head in range(s.n_heads):
            said = weights["attention_layer.W_O"][:, head] @ value[head]
            state = layer_norm(weights, "attention_layer.norm_o", said)
            out[cell, head] = weights["linear_head.weight"] @ state
    return out


def test_golden() -> None:
    known = golden()
    with np.load(GOLDEN / "interpretation.npz", allow_pickle=False) as stored:
        published, embedding = stored["contributions_first40"], stored["nn_embed_first40"]
    first = known.order[:40]
    found = contributions(known.model.network, known.tissue, first)
    np.testing.assert_allclose(found, published, rtol=1e-5, atol=1e-5 * np.abs(published).max())
    assert np.abs(published[0] - published[1]).max() > 0.01
    embedded = neighbor_embeddings(known.model.network, known.tissue, first)
    np.testing.assert_allclose(embedded, embedding, rtol=1e-5, atol=1e-5 * np.abs(embedding).max())


def test_equals_the_formulas(case: Case) -> None:
    found, expected = contributions(*case, np.arange(31)), naive_contributions(case)
    assert np.abs(expected).std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_any_cells_in_any_parts(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cells = contributions(*case, np.arange(31)), np.array([7, 3, 30, 3])
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 2)
    np.testing.assert_allclose(contributions(*case, cells, cells_per_shard=3), whole[cells], rtol=1e-5, atol=1e-6)
    embedded = neighbor_embeddings(*case)
    found = neighbor_embeddings(*case, cells, cells_per_shard=3)
    np.testing.assert_allclose(found, embedded[cells], rtol=1e-5, atol=1e-6)
    assert contributions(*case, np.array([], dtype=np.int64)).shape == (0, 2, 6)


def test_summary(case: Case) -> None:
    expected, labels = naive_contributions(case), case[1].labels
    found = summarize_contributions(*case)
    assert list(found.columns) == ["sender", "head_idx", "gene", "mean", "std", "n_senders"]
    rows = [(sender, head, f"gene{gene}") for sender in "ABC" for head in range(2) for gene in range(6)]
    assert list(found[["sender", "head_idx", "gene"]].itertuples(index=False, name=None)) == rows
    assert found["n_senders"].tolist() == np.repeat([11, 10, 10], 12).tolist()
    mean = np.concatenate([expected[labels == label].mean(axis=0).ravel() for label in range(3)])
    std = np.concatenate([expected[labels == label].std(axis=0, ddof=1).ravel() for label in range(3)])
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["std"], std, rtol=1e-4, atol=1e-5)
    assert found["head_idx"].dtype == np.int16
    assert found["gene"].cat.categories.tolist() == list(case[1].genes)
    assert found["sender"].cat.categories.tolist() == list("ABC")


def test_summary_in_shards_and_in_another_order(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    network, tissue = case
    whole = summarize_contributions(*case)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 3)
    pd.testing.assert_frame_equal(summarize_contributions(*case, cells_per_shard=4), whole, rtol=1e-5, atol=1e-6)
    order = np.random.default_rng(1).permutation(31)
    moved, _ = reordered(tissue, find_neighbors(tissue, 2), order)
    pd.testing.assert_frame_equal(summarize_contributions(network, moved), whole, rtol=1e-5, atol=1e-6)
    some = whole[whole["sender"].isin(["A", "C"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(summarize_contributions(*case, senders=["C", "A"]), some, rtol=1e-5, atol=1e-6)


def test_types_of_one_cell_and_of_none(case: Case) -> None:
    _, tissue = case
    labels = np.where(np.arange(31) == 4, 2, 0).astype(np.int16)
    found = summarize_contributions(random_network(6, 3), replace(tissue, labels=labels))
    of_none, of_one = found[found["sender"] == "B"], found[found["sender"] == "C"]
    assert of_none[["mean", "std"]].isna().all(axis=None)
    assert (of_none["n_senders"] == 0).all()
    assert (of_one["n_senders"] == 1).all()
    assert of_one["std"].isna().all()
    one = contributions(random_network(6, 3), tissue, np.array([4]))[0]
    np.testing.assert_allclose(of_one["mean"], one.ravel(), rtol=1e-6)


def test_cells_that_are_alike_have_no_deviation(case: Case) -> None:
    network, tissue = case
    alike = replace(tissue, expression=tissue.expression[np.zeros(31, dtype=int)])
    assert (summarize_contributions(network, alike)["std"] < 1e-6).all()


def test_residuals_are_what_differs_from_the_type(case: Case) -> None:
    network, tissue = case
    neighbors, rows = find_neighbors(tissue, 5), np.array([3, 17])
    found = residuals(network, tissue, neighbors, rows)
    expected = predict(network, tissue, neighbors, rows) - network.ct_profiles.numpy()[tissue.labels[rows]]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(found).max() > 0.1
    np.testing.assert_array_equal(residuals(network, tissue, neighbors)[rows].round(5), found.round(5))


def test_bad_arguments(case: Case) -> None:
    with pytest.raises(ParameterError, match=r"senders names the cell type 'c', .* Did you mean 'C'\?"):
        summarize_contributions(*case, senders=["c"])
    for call in (
        lambda: contributions(*case, np.arange(3), cells_per_shard=0),
        lambda: summarize_contributions(*case, cells_per_shard=0),
        lambda: neighbor_embeddings(*case, cells_per_shard=0),
    ):
        with pytest.raises(ParameterError, match="cells_per_shard must be at least 1"):
            call()
