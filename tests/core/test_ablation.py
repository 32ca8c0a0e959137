"""Effect of masked senders on predictions: the published package's answers, the formulas, and whatever the shards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from naive import GOLDEN, golden, made_tissue, naive_diff, naive_network, random_network, random_tissue

from tissue_crosstalk.core import ablation as ablation_module
from tissue_crosstalk.core.ablation import ablate_senders
from tissue_crosstalk.core.attention import predict
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.network import ROW_BLOCK, CrossAttentionNetwork
from tissue_crosstalk.core.tissue import PreparedTissue

PAIRS = [("A", "B"), ("C", "B"), ("B", "A"), ("C", "A"), ("A", "C"), ("B", "C")]


@pytest.fixture
def case() -> tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]:
    """Return a tissue of two sections in which some slots are padded, and a network."""
    tissue = random_tissue(3, n_cells=24, n_sections=2)
    return random_network(6, 3), tissue, find_neighbors(tissue, 9, pad=True)


def compare_with_golden(neighbors: Neighbors) -> None:
    """Raise AssertionError unless the effects are those of the published package."""
    known = golden()
    with np.load(GOLDEN / "interpretation.npz", allow_pickle=False) as stored:
        types, receiver = stored["types"].tolist(), str(stored["receiver"])
        genes, published = stored["genes"].tolist(), stored["ablation_all_diff"]
    assert tuple(genes) == known.tissue.genes
    found = ablate_senders(known.model.network, known.tissue, neighbors, [(sender, receiver) for sender in types])
    np.testing.assert_allclose(found.diff, published, rtol=1e-5, atol=1e-6)
    assert np.abs(published).max() > 0.4
    assert (found.n_receivers == np.count_nonzero(known.tissue.labels == types.index(receiver))).all()


def test_golden() -> None:
    compare_with_golden(golden().neighbors)


def test_golden_fails_when_distances_are_shifted_by_a_slot() -> None:
    known = golden().neighbors
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare_with_golden(Neighbors(known.idx, np.roll(known.dist, 1, axis=1)))


def test_equals_the_formulas(case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]) -> None:
    network, tissue, neighbors = case
    assert (neighbors.idx < 0).any()
    found = ablate_senders(network, tissue, neighbors, PAIRS)
    assert found.pairs == tuple(PAIRS)
    assert found.n_receivers.tolist() == [8] * 6
    for (sender, receiver), diff in zip(PAIRS, found.diff, strict=True):
        numbers = ("ABC".index(sender), "ABC".index(receiver))
        naive = naive_diff(network, tissue.expression.toarray(), tissue.labels, neighbors.idx, neighbors.dist, *numbers)
        assert np.abs(naive).max() > 0.05
        np.testing.assert_allclose(diff, naive, rtol=1e-4, atol=1e-6)


def test_masking_is_after_the_softmax(case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]) -> None:
    """Masked before, the others would get the attention of those that are gone."""
    network, tissue, neighbors = case
    arguments = network, tissue.expression.toarray(), tissue.labels, neighbors.idx, neighbors.dist
    masked = naive_network(*arguments, neighbors.labels(tissue.labels) == 0).prediction
    renormalised = (naive_network(*arguments).prediction - masked)[tissue.labels == 1].mean(axis=0)
    found = ablate_senders(network, tissue, neighbors, [("A", "B")]).diff[0]
    assert np.abs(found - renormalised).max() > 0.1 * np.abs(found).max()


def test_masking_the_only_type_of_neighbor_leaves_the_query_alone() -> None:
    """Of two types each hears the other alone: without it, it is predicted as a cell without neighbors is."""
    tissue = random_tissue(5, n_cells=20, n_types=2)
    network, neighbors = random_network(6, 2), find_neighbors(tissue, 4)
    nobody = Neighbors(np.full_like(neighbors.idx, -1), np.full_like(neighbors.dist, np.inf))
    change = predict(network, tissue, neighbors) - predict(network, tissue, nobody)
    found = ablate_senders(network, tissue, neighbors, [("B", "A"), ("A", "B")])
    for label in (0, 1):
        np.testing.assert_allclose(found.diff[label], change[tissue.labels == label].mean(axis=0), rtol=1e-4, atol=1e-6)


def test_a_type_that_nobody_hears_changes_nothing(
    case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors],
) -> None:
    """To the bit: no cell has a neighbor of its own type."""
    assert (ablate_senders(*case, [("A", "A")]).diff == 0).all()


def test_receivers_without_such_a_neighbor_count_in_the_mean() -> None:
    """Cell 0 hears the sender, cell 1 only hears C, and the cells of a section of their own hear nobody."""
    tissue = made_tissue(
        [[0, 0], [90, 0], [1, 0], [91, 0], [0, 0], [1, 1]],
        [0, 0, 1, 2, 0, 0],
        sections=[0, 0, 0, 0, 1, 1],
        expression=np.random.default_rng(2).poisson(2, (6, 6)),
    )
    network, neighbors = random_network(6, 3), find_neighbors(tissue, 1, pad=True)
    change = predict(network, tissue, neighbors) - predict(
        network, tissue, Neighbors(np.full((6, 1), -1, np.int32), np.full((6, 1), np.inf, np.float32))
    )
    found = ablate_senders(network, tissue, neighbors, [("B", "A"), ("C", "A")])
    assert found.n_receivers.tolist() == [4, 4]
    np.testing.assert_allclose(found.diff, change[:2] / 4, rtol=1e-4, atol=1e-6)
    only_lonely = replace(tissue, labels=np.array([1, 1, 1, 2, 0, 0], np.int16))
    lonely = ablate_senders(network, only_lonely, find_neighbors(only_lonely, 1, pad=True), [("B", "A")])
    assert (lonely.diff == 0).all()


def test_without_receivers_there_is_no_effect_to_measure(
    case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors],
) -> None:
    network, tissue, neighbors = case
    tissue = replace(tissue, cell_types=("A", "B", "C", "gone"))
    network = random_network(6, 4)
    found = ablate_senders(network, tissue, neighbors, [("A", "gone"), ("gone", "A"), ("A", "B")])
    assert found.n_receivers.tolist() == [0, 8, 8]
    assert np.isnan(found.diff[0]).all()
    assert (found.diff[1] == 0).all()
    assert (found.diff[2] != 0).all()


def test_no_pairs(case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]) -> None:
    found = ablate_senders(*case, [])
    assert found.diff.shape == (0, 6)
    assert found.n_receivers.shape == (0,)


def test_pairs_do_not_matter_to_each_other(case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]) -> None:
    together = ablate_senders(*case, PAIRS).diff
    for pair, diff in zip(PAIRS, together, strict=True):
        np.testing.assert_allclose(ablate_senders(*case, [pair]).diff[0], diff, rtol=1e-5, atol=1e-7)


def test_permuting_the_neighbors_changes_nothing(
    case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors],
) -> None:
    network, tissue, neighbors = case
    order = np.random.default_rng(0).permutation(neighbors.idx.shape[1])
    permuted = Neighbors(neighbors.idx[:, order], neighbors.dist[:, order])
    found = ablate_senders(network, tissue, permuted, PAIRS).diff
    np.testing.assert_allclose(found, ablate_senders(*case, PAIRS).diff, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_shards", [2, 3, 17])
def test_sharded_equals_whole(n_shards: int) -> None:
    """More cells than a row block, so that blocks lie otherwise in shards."""
    tissue = random_tissue(4, n_cells=ROW_BLOCK + 300, n_types=4, n_sections=2)
    case = random_network(6, 4), tissue, find_neighbors(tissue, 8)
    pairs = [("A", "B"), ("B", "A"), ("C", "D"), ("D", "C")]
    whole = ablate_senders(*case, pairs, cells_per_shard=tissue.n_cells).diff
    sharded = ablate_senders(*case, pairs, cells_per_shard=-(-tissue.n_cells // n_shards)).diff
    np.testing.assert_allclose(sharded, whole, rtol=1e-6, atol=1e-6)


def test_memory_is_that_of_a_shard(
    case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all shards together, each receiver is computed once, and no others are."""
    seen: list[np.ndarray] = []
    changes = ablation_module._changes

    def watched(*arguments: object) -> torch.Tensor:
        seen.append(arguments[3])
        return changes(*arguments)

    monkeypatch.setattr(ablation_module, "_changes", watched)
    ablate_senders(*case, [("A", "B"), ("C", "B"), ("B", "A")], cells_per_shard=5)
    assert max(map(len, seen)) <= 5
    tissue = case[1]
    assert np.concatenate(seen).tolist() == np.flatnonzero(tissue.labels != 2).tolist()


def test_nothing_is_changed(case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]) -> None:
    network, tissue, neighbors = case
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    kept = tissue.expression.copy(), neighbors.idx.copy(), neighbors.dist.copy()
    ablate_senders(network, tissue, neighbors, PAIRS)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    assert (tissue.expression != kept[0]).nnz == 0
    assert (neighbors.idx == kept[1]).all()
    assert (neighbors.dist == kept[2]).all()


@pytest.mark.parametrize("pair", [("a", "B"), ("B", "a")])
def test_unknown_types_are_refused(
    case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors], pair: tuple[str, str]
) -> None:
    with pytest.raises(ParameterError, match=r"no cell type 'a' to ablate\. Did you mean 'A'\? .* are 'A', 'B', 'C'\."):
        ablate_senders(*case, [pair])


def test_too_small_shards_are_refused(case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]) -> None:
    with pytest.raises(ParameterError, match="cells_per_shard must be at least 1"):
        ablate_senders(*case, PAIRS, cells_per_shard=0)
