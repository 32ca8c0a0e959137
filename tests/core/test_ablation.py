"""Effect of masked senders on predictions: the published package's answers, the formulas, and whatever the shards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from naive import (
    GOLDEN,
    golden,
    layer_norm,
    made_tissue,
    naive_diff,
    naive_network,
    naive_query,
    naive_value,
    naive_weights,
    random_network,
    random_tissue,
)

from tissue_crosstalk.core import ablation as ablation_module
from tissue_crosstalk.core.ablation import ALL_HEADS, SenderGroups, ablate, ablate_senders
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


# --- All senders, heads and genes in one pass


def naive_ablation(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    receiver: int,
    silent: np.ndarray,
    head: int = ALL_HEADS,
) -> dict[str, np.ndarray]:
    """Return the published measures, (gene,), from two predictions of every receiver; `silent` are the masked cells."""
    weights, s = naive_weights(network), network.settings
    expression = tissue.expression.toarray().astype(float)
    patterns = naive_network(network, expression, tissue.labels, neighbors.idx, neighbors.dist).patterns
    cells = np.flatnonzero(tissue.labels == receiver)
    predicted = np.zeros((2, len(cells), expression.shape[1]))
    for place, cell in enumerate(cells):
        query = naive_query(weights, s, receiver).reshape(-1)
        for masked in (0, 1):
            heard = np.zeros(s.n_embed)
            for slot, row in enumerate(neighbors.idx[cell]):
                if row < 0 or (masked and silent[row]):
                    continue
                value = naive_value(weights, s, expression[row])[2]
                for number in range(s.n_heads):
                    if head in (ALL_HEADS, number):
                        said = weights["attention_layer.W_O"][:, number] @ value[number]
                        heard += patterns[number, cell, slot] * said
            out = layer_norm(weights, "attention_layer.norm_o", heard + query)
            predicted[masked, place] = weights["ct_profiles"][receiver] + weights["linear_head.weight"] @ out
    x, (whole, without) = expression[cells], predicted
    z_value = np.zeros(x.shape[1])
    for gene in range(x.shape[1]):
        size = np.abs(whole - without)[:, gene]
        if size.std() > 1e-12 and x[:, gene].std() > 0:
            r = np.corrcoef(size, x[:, gene])[0, 1]
            z_value[gene] = r * np.sqrt(len(cells) - 2) / np.sqrt(1 - r**2)
    return {
        "ablation": ((without - x) ** 2 - (whole - x) ** 2).mean(axis=0),
        "diff": (whole - without).mean(axis=0),
        "z_value": z_value,
    }


def test_every_sender_and_head_equals_the_formulas(
    case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors],
) -> None:
    network, tissue, neighbors = case
    found = ablate(network, tissue, neighbors)
    assert found.heads == (ALL_HEADS, 0, 1)
    assert found.n_receivers.tolist() == [8, 8, 8]
    for receiver in range(3):
        cells = tissue.labels == receiver
        for sender in range(3):
            silent = tissue.labels == sender
            has = silent[neighbors.idx[cells]] & (neighbors.idx[cells] >= 0)
            assert found.n_hearing[receiver, sender] == np.count_nonzero(has.any(axis=1))
            for place, head in enumerate(found.heads):
                naive = naive_ablation(network, tissue, neighbors, receiver, silent, head)
                for name, values in naive.items():
                    np.testing.assert_allclose(
                        getattr(found, name)[place, receiver, sender], values, rtol=2e-4, atol=2e-5, err_msg=name
                    )
    assert np.abs(found.z_value).max() > 1


def test_published_answers_of_all_heads_and_of_one() -> None:
    """To 1e-5, or what is left of the published package's single precision where effects are small beside it."""
    known = golden()
    with np.load(GOLDEN / "interpretation.npz", allow_pickle=False) as stored:
        published = {name: stored[name] for name in stored.files}
    found = ablate(known.model.network, known.tissue, known.neighbors, receivers=[str(published["receiver"])])
    assert found.groups == tuple(published["types"].tolist())
    measures = {
        "ablation": found.ablation,
        "diff": found.diff,
        "z_value": found.z_value,
        "nl10_pval": -np.log10(np.maximum(found.p_values(), 1e-8)),
        "nl10_pval_adj": -np.log10(np.maximum(found.q_values(), 1e-8)),
    }
    for what, head in (("all", ALL_HEADS), ("head1", 1)):
        diff = np.abs(published[f"ablation_{what}_diff"])
        for name, values in measures.items():
            mine = values[found.heads.index(head), 0]
            other = published[f"ablation_{what}_{name}"]
            # What single precision leaves of a change of 1e-3 in a prediction of about 1: ours is nearer to float64.
            small = np.full_like(diff, 3e-7) if name in ("ablation", "diff") else np.where(diff > 2e-3, 3e-5, 5e-4)
            assert (np.abs(mine - other) <= 1e-5 * np.abs(other) + small).all(), f"{what} {name}"
            # 1e-5 of a prediction of about 1 is 1e-7 in single precision, and so is a correlation near 0.
            clear = (diff > 0.02) & ((np.abs(other) > 1) | (name in ("ablation", "diff")))
            assert clear.sum() >= 8
            np.testing.assert_allclose(mine[clear], other[clear], rtol=1e-5, atol=2e-6, err_msg=f"{what} {name}")


def test_a_list_of_cells_is_masked(case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]) -> None:
    network, tissue, neighbors = case
    rows = np.array([0, 5, 11, 17, 3])
    silent = np.isin(np.arange(tissue.n_cells), rows)
    found = ablate(network, tissue, neighbors, groups=SenderGroups.of_cells(tissue.n_cells, rows), by_head=False)
    assert found.diff.shape == (1, 3, 1, 6)
    for receiver in range(3):
        naive = naive_ablation(network, tissue, neighbors, receiver, silent)
        assert np.abs(naive["diff"]).max() > 1e-3
        for name, values in naive.items():
            np.testing.assert_allclose(getattr(found, name)[0, receiver, 0], values, rtol=2e-4, atol=2e-5)


def test_equal_effects_in_all_receivers_have_no_correlation() -> None:
    """Two receivers at the same distance of the same sender: what differs is rounding."""
    tissue = made_tissue(
        [[0, 0], [5, 0], [10, 0], [200, 0], [205, 0], [210, 0]],
        [0, 1, 0, 0, 1, 0],
        expression=[[1, 0], [3, 1], [0, 2], [4, 4], [3, 1], [2, 5]],
    )
    found = ablate(random_network(2, 2), tissue, find_neighbors(tissue, 1))
    assert (np.abs(found.diff[:, 0, 1]) > 1e-4).any()
    assert (found.z_value[:, 0, 1] == 0).all()
    assert (found.p_values()[:, 0, 1] == 0.5).all()


def test_a_perfect_correlation_is_no_missing_one() -> None:
    """One receiver alone hears C; it alone expresses the first genes, and all others alike the last ones."""
    receivers, senders = [[10 * place, 0] for place in range(5)], [[10 * place, 1 + place / 10] for place in range(5)]
    expression = np.random.default_rng(0).random((10, 6))
    expression[:5] = [0, 0, 0, 0, 1.1, 0.3]
    expression[2] = [1.3, 0.7, 2.1, 0.4, 0, 0]
    tissue = made_tissue(receivers + senders, [0, 0, 0, 0, 0, 1, 1, 2, 1, 1], expression=expression)
    found = ablate(random_network(6, 3), tissue, find_neighbors(tissue, 1))
    assert found.n_hearing[0].tolist() == [0, 4, 1]
    np.testing.assert_allclose(found.z_value[:, 0, 2], [[1000 * np.sqrt(3)] * 4 + [-1000 * np.sqrt(3)] * 2] * 3)
    assert (found.p_values()[:, 0, 2, :4] < 1e-300).all()
    assert (found.p_values()[:, 0, 2, 4:] == 1).all()


@pytest.mark.parametrize("n_shards", [3, 17])
def test_all_of_it_is_the_same_whatever_the_shards(n_shards: int) -> None:
    tissue = random_tissue(4, n_cells=ROW_BLOCK + 300, n_types=4, n_sections=2)
    case = random_network(6, 4), tissue, find_neighbors(tissue, 8)
    whole = ablate(*case, cells_per_shard=tissue.n_cells)
    sharded = ablate(*case, cells_per_shard=-(-tissue.n_cells // n_shards))
    assert (sharded.n_hearing == whole.n_hearing).all()
    for name in ("ablation", "diff", "z_value"):
        np.testing.assert_allclose(getattr(sharded, name), getattr(whole, name), rtol=1e-4, atol=2e-5)


def test_table_of_a_tissue_with_a_type_that_is_gone(
    case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors],
) -> None:
    _, tissue, neighbors = case
    tissue = replace(tissue, cell_types=("A", "B", "C", "gone"))
    found = ablate(random_network(6, 4), tissue, neighbors, receivers=["gone", "C"])
    assert np.isnan(found.diff[:, 0]).all()
    table = found.table()
    assert set(table["receiver"]) == {"C"}
    assert set(table["sender"]) == {"A", "B"}
    assert len(table) == 2 * 3 * 6
    row = table[(table["sender"] == "B") & (table["head_idx"] == 1) & (table["gene"] == "gene4")].iloc[0]
    assert row["diff"] == found.diff[2, 1, 1, 4]
    assert row["q_value"] >= row["p_value"] > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": SenderGroups(("x",), np.zeros(3, dtype=int))}, "a code for each of the 24 cells. Got 3"),
        ({"receivers": ["D"]}, "no cell type 'D' to ablate"),
        ({"cells_per_shard": 0}, "cells_per_shard must be at least 1"),
    ],
)
def test_arguments_that_contradict_the_tissue_are_refused(
    case: tuple[CrossAttentionNetwork, PreparedTissue, Neighbors], change: dict[str, object], words: str
) -> None:
    with pytest.raises(ParameterError, match=words):
        ablate(*case, **change)


def test_cells_that_are_not_there_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"rows from 0 to 4\. Got '-1', '9' instead"):
        SenderGroups.of_cells(5, np.array([1, -1, 9]))
