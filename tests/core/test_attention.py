"""Attention and predictions of a tissue: the published package's answers, and whatever shards they are computed in."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from naive import (
    TINY,
    golden,
    made_tissue,
    naive_network,
    random_network,
    random_tissue,
)

from tissue_crosstalk.core import attention as attention_module
from tissue_crosstalk.core import network as network_module
from tissue_crosstalk.core.ablation import ablate
from tissue_crosstalk.core.attention import ShardAttention, compute_shard, extract_attention, pair_scores, predict
from tissue_crosstalk.core.contributions import summarize_contributions
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.explained_variance import explain_variance
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.network import ROW_BLOCK, CrossAttentionNetwork, KeyValueMap
from tissue_crosstalk.core.spatial_order import shards
from tissue_crosstalk.core.tissue import PreparedTissue


def patterns_of(parts: list[ShardAttention]) -> np.ndarray:
    return np.concatenate([part.patterns for part in parts], axis=1)


def whole(network: CrossAttentionNetwork, tissue: PreparedTissue, neighbors: Neighbors) -> ShardAttention:
    (shard,) = extract_attention(network, tissue, neighbors, cells_per_shard=tissue.n_cells)
    return shard


# --- Golden


def compare_with_golden(network: CrossAttentionNetwork, neighbors: Neighbors) -> None:
    """Raise AssertionError unless patterns and predictions are those of the published package."""
    known = golden()
    patterns = whole(network, known.tissue, neighbors).patterns[:, known.order]
    np.testing.assert_allclose(patterns, known.expected["vanilla"], rtol=1e-5)
    prediction = predict(network, known.tissue, neighbors)[known.order]
    np.testing.assert_allclose(prediction, known.expected["prediction"], rtol=1e-5, atol=1e-6)


def test_golden() -> None:
    compare_with_golden(golden().model.network, golden().neighbors)


def test_golden_fails_when_distances_are_shifted_by_a_slot() -> None:
    known = golden().neighbors
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare_with_golden(golden().model.network, Neighbors(known.idx, np.roll(known.dist, 1, axis=1)))


def test_golden_fails_when_neighbors_are_shifted_by_a_slot() -> None:
    known = golden().neighbors
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare_with_golden(golden().model.network, Neighbors(np.roll(known.idx, 1, axis=1), known.dist))


def test_golden_fails_without_the_dummy_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    with_dummy = network_module.patterns_by_head

    def plain_softmax(*given: Any) -> torch.Tensor:
        return with_dummy(*given[:-1], dummy_score=-math.inf)

    monkeypatch.setattr(network_module, "patterns_by_head", plain_softmax)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare_with_golden(golden().model.network, golden().neighbors)


@pytest.mark.parametrize(
    ("name", "value"),
    [("attention_dummy_score", 3.0), ("pos_coef_offset", -2.0), ("distance_kernel_unit_scale", 1.0)],
)
def test_golden_fails_with_a_constant_at_its_default(name: str, value: float) -> None:
    network = copy.deepcopy(golden().model.network)
    network.settings = replace(network.settings, **{name: value})
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare_with_golden(network, golden().neighbors)


def test_golden_fails_when_keys_and_values_are_swapped() -> None:
    network = copy.deepcopy(golden().model.network)
    layer = network.attention_layer
    layer.W_K, layer.W_V = layer.W_V, layer.W_K
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare_with_golden(network, golden().neighbors)


# --- Against the formulas


@pytest.fixture
def case() -> tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]:
    """Return a tissue of two sections in which some slots are padded, and a network."""
    tissue = random_tissue(3, n_cells=24, n_sections=2)
    return random_network(6, 3), tissue, find_neighbors(tissue, 9, pad=True)


def test_equals_the_formulas(case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]) -> None:
    network, tissue, neighbors = case
    assert (neighbors.idx < 0).any()
    naive = naive_network(network, tissue.expression.toarray(), tissue.labels, neighbors.idx, neighbors.dist)
    shard = whole(network, tissue, neighbors)
    np.testing.assert_allclose(shard.patterns, naive.patterns, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(predict(network, tissue, neighbors), naive.prediction, rtol=1e-4, atol=1e-5)
    assert shard.patterns.dtype == np.float32


def test_padded_slots_get_nothing(case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]) -> None:
    network, tissue, neighbors = case
    patterns = whole(network, tissue, neighbors).patterns
    assert (patterns[:, neighbors.idx < 0] == 0).all()
    assert (patterns[:, neighbors.idx >= 0] > 0).all()


def test_rows_sum_to_at_most_one(case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]) -> None:
    sums = whole(*case).patterns.sum(axis=2)
    assert (sums > 0).all()
    assert (sums <= 1).all()


def test_permuting_the_neighbors_permutes_the_patterns(
    case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors],
) -> None:
    network, tissue, neighbors = case
    order = np.random.default_rng(0).permutation(neighbors.idx.shape[1])
    permuted = whole(network, tissue, Neighbors(neighbors.idx[:, order], neighbors.dist[:, order])).patterns
    np.testing.assert_allclose(permuted, whole(network, tissue, neighbors).patterns[:, :, order], rtol=1e-6)


def lonely_tissue() -> tuple[PreparedTissue, Neighbors]:
    """Return 8 cells, of which the first 4 are a section of one type only."""
    generator = np.random.default_rng(1)
    tissue = made_tissue(
        generator.uniform(0, 9, (8, 2)),
        [0, 0, 0, 0, 0, 1, 0, 1],
        sections=[0] * 4 + [1] * 4,
        expression=generator.poisson(2, (8, 6)),
    )
    return tissue, find_neighbors(tissue, 2, pad=True)


def test_receivers_without_any_neighbor_get_zeros() -> None:
    network, (tissue, neighbors) = random_network(6, 2), lonely_tissue()
    patterns = whole(network, tissue, neighbors).patterns
    assert (patterns[:, :4] == 0).all()
    assert (patterns[:, 4:] > 0).all()


def test_a_shard_of_receivers_without_any_neighbor_gets_zeros() -> None:
    network, (tissue, neighbors) = random_network(6, 2), lonely_tissue()
    (shard,) = extract_attention(network, tissue, neighbors, cells_per_shard=9, receivers=np.arange(4))
    assert shard.patterns.shape == (TINY.n_heads, 4, 2)
    assert (shard.patterns == 0).all()


def test_prediction_of_receivers_without_any_neighbor() -> None:
    """Alone in the batch, they are predicted as in the company of others."""
    network, (tissue, neighbors) = random_network(6, 2), lonely_tissue()
    alone = predict(network, tissue, neighbors, np.arange(4))
    np.testing.assert_allclose(alone, predict(network, tissue, neighbors)[:4], rtol=1e-6, atol=1e-6)


# --- Shards


@dataclass(frozen=True)
class Large:
    """A tissue of more than one row block, and its attention and predictions computed at once."""

    network: CrossAttentionNetwork
    tissue: PreparedTissue
    neighbors: Neighbors
    attention: ShardAttention
    prediction: np.ndarray


@pytest.fixture(scope="module")
def large() -> Large:
    tissue = random_tissue(4, n_cells=ROW_BLOCK + 300, n_types=4, n_sections=2)
    case = random_network(6, 4), tissue, find_neighbors(tissue, 8)
    return Large(*case, whole(*case), predict(*case))


def assert_same_attention(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_shards", [1, 3, 17])
def test_sharded_equals_whole(large: Large, n_shards: int) -> None:
    """But for rounding, which some processors do by a row's place in the product."""
    n_cells = large.tissue.n_cells
    parts = list(
        extract_attention(large.network, large.tissue, large.neighbors, cells_per_shard=-(-n_cells // n_shards))
    )
    assert len(parts) == n_shards
    assert np.concatenate([part.receivers for part in parts]).tolist() == list(range(n_cells))
    assert_same_attention(patterns_of(parts), large.attention.patterns)
    for part in parts:
        assert (np.diff(part.senders) > 0).all()
        for name, norm in part.norms_of(part.receivers).items():
            np.testing.assert_allclose(norm, large.attention.norms[name][part.receivers], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("n_shards", [1, 3, 17])
def test_golden_sharded_equals_whole(n_shards: int) -> None:
    known = golden()
    parts = extract_attention(
        known.model.network, known.tissue, known.neighbors, cells_per_shard=-(-known.tissue.n_cells // n_shards)
    )
    reference = whole(known.model.network, known.tissue, known.neighbors)
    assert_same_attention(patterns_of(list(parts)), reference.patterns)


def test_a_subset_of_receivers_equals_its_part_of_the_whole(large: Large) -> None:
    receivers = np.sort(np.random.default_rng(5).permutation(large.tissue.n_cells)[:700])
    parts = list(
        extract_attention(large.network, large.tissue, large.neighbors, cells_per_shard=300, receivers=receivers)
    )
    assert [len(part.receivers) for part in parts] == [233, 233, 234]
    assert_same_attention(patterns_of(parts), large.attention.patterns[:, receivers])


def test_predictions_of_a_subset_equal_their_part_of_the_whole(large: Large) -> None:
    receivers = np.sort(np.random.default_rng(6).permutation(large.tissue.n_cells)[:700])
    predicted = predict(large.network, large.tissue, large.neighbors, receivers)
    np.testing.assert_allclose(predicted, large.prediction[receivers], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_shards", [1, 3, 17])
def test_predictions_in_shards_equal_the_whole(large: Large, n_shards: int) -> None:
    parts = np.array_split(np.arange(large.tissue.n_cells), n_shards)
    predicted = np.concatenate([predict(large.network, large.tissue, large.neighbors, part) for part in parts])
    np.testing.assert_allclose(predicted, large.prediction, rtol=1e-6, atol=1e-6)


def test_predictions_do_not_depend_on_how_many_cells_are_computed_at_once(
    large: Large, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tissue_crosstalk.core.attention.PREDICT_CELLS", 500)
    predicted = predict(large.network, large.tissue, large.neighbors)
    np.testing.assert_allclose(predicted, large.prediction, rtol=1e-6, atol=1e-6)


def test_a_shard_needs_nothing_but_its_own_rows() -> None:
    """Computed from the rows of its senders alone, renumbered, it is the same."""
    network, tissue = random_network(6, 3), random_tissue(7)
    neighbors = find_neighbors(tissue, 5)
    receivers = np.arange(10, 20)
    senders = np.unique(neighbors.idx[receivers])
    patterns, norms = compute_shard(
        network,
        tissue.expression[senders],
        np.searchsorted(senders, neighbors.idx[receivers]),
        neighbors.dist[receivers],
        tissue.labels[receivers],
    )
    reference = whole(network, tissue, neighbors)
    assert_same_attention(patterns, reference.patterns[:, receivers])
    for name, norm in norms.items():
        np.testing.assert_allclose(norm, reference.norms[name][senders], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("cells_per_shard", [0, -3])
def test_too_small_shards_are_refused(cells_per_shard: int) -> None:
    with pytest.raises(
        ParameterError, match=rf"^cells_per_shard must be at least 1\. Got {cells_per_shard} instead\.$"
    ):
        shards(10, cells_per_shard)


def test_extraction_changes_neither_network_nor_tissue() -> None:
    network, tissue = random_network(6, 3), random_tissue(8)
    neighbors = find_neighbors(tissue, 5)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    kept = tissue.expression.copy(), neighbors.idx.copy(), neighbors.dist.copy()
    whole(network, tissue, neighbors)
    predict(network, tissue, neighbors)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    assert (tissue.expression != kept[0]).nnz == 0
    assert (neighbors.idx == kept[1]).all()
    assert (neighbors.dist == kept[2]).all()


@pytest.mark.parametrize(
    "compute",
    [
        lambda one: predict(one.network, one.tissue, one.neighbors),
        lambda one: ablate(one.network, one.tissue, one.neighbors, cells_per_shard=100),
        lambda one: explain_variance(one.network, one.tissue, one.neighbors, cells_per_shard=100),
        lambda one: summarize_contributions(one.network, one.tissue, cells_per_shard=100),
        lambda one: pair_scores(
            one.network, one.tissue.expression, np.ones((one.tissue.n_cells, 4), dtype=bool), cells_per_shard=100
        ),
    ],
    ids=["predict", "ablate", "explain_variance", "summarize_contributions", "pair_scores"],
)
def test_keys_and_values_are_mapped_once(
    compute: Callable[[Large], object], large: Large, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map is of the weights alone: it is made once for all parts of the cells."""
    made, make = [], CrossAttentionNetwork.key_value_map

    def counted(network: CrossAttentionNetwork) -> KeyValueMap:
        made.append(network)
        return make(network)

    monkeypatch.setattr(CrossAttentionNetwork, "key_value_map", counted)
    monkeypatch.setattr(attention_module, "PREDICT_CELLS", 100)
    compute(large)
    assert made == [large.network]
