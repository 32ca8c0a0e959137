"""What is said of attention beside its fall with distance: by hand, and in plain loops over cells, heads and slots."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Floats, Integers
from scipy.stats import spearmanr

from tissue_crosstalk.core.distance import DistanceBins
from tissue_crosstalk.core.profiles import (
    CellTotals,
    EdgeSample,
    HeadProfile,
    Senders,
    compare_flavors,
    pair_table,
    strong_edges,
)
from tissue_crosstalk.core.strong_edges import StrengthShard

TYPES = ("A", "B", "C", "D")
"""The last one has no cell."""


@dataclass(frozen=True, eq=False)
class Made:
    """Attention of the cells of a tissue, of which the first has no neighbor, and the last type no cell."""

    labels: Integers
    attention: Floats
    """(head, cell, neighbor); what lacks to one is the dummy slot's."""
    nn_idx: Integers

    @property
    def sender_labels(self) -> Integers:
        return np.where(self.nn_idx < 0, -1, self.labels[self.nn_idx])

    def edges(self) -> list[tuple[int, int, int]]:
        """Return cell, slot and neighbor of every edge."""
        n_cells, n_neighbors = self.nn_idx.shape
        slots = [(cell, slot) for cell in range(n_cells) for slot in range(n_neighbors)]
        return [(cell, slot, int(self.nn_idx[cell, slot])) for cell, slot in slots if self.nn_idx[cell, slot] >= 0]

    def shards(self, order: Integers, n_shards: int) -> list[StrengthShard]:
        """Return the maximum over heads, cells in some order and cut into shards."""
        strength = self.attention.max(axis=0)
        return [StrengthShard(part, strength[part], self.nn_idx[part]) for part in np.array_split(order, n_shards)]

    def with_neighbors_permuted(self, seed: int) -> Made:
        """Return the same neighbors of every cell in another order."""
        order = np.argsort(np.random.default_rng(seed).random(self.nn_idx.shape), axis=1)
        attention = np.take_along_axis(self.attention, order[None], axis=2)
        return replace(self, attention=attention, nn_idx=np.take_along_axis(self.nn_idx, order, axis=1))


def made(seed: int = 0, n_cells: int = 30, n_neighbors: int = 5, n_heads: int = 3) -> Made:
    generator = np.random.default_rng(seed)
    nn_idx = generator.integers(0, n_cells, (n_cells, n_neighbors)).astype(np.int32)
    nn_idx[generator.random(nn_idx.shape) < 0.2] = -1
    nn_idx[0] = -1
    weights = generator.exponential(size=(n_heads, n_cells, n_neighbors + 1))
    weights[:, :, :-1] *= (nn_idx >= 0) & (generator.random(nn_idx.shape) < 0.9)  # now and then a neighbor gets nothing
    attention = (weights / weights.sum(axis=2, keepdims=True))[:, :, :-1].astype(np.float32)
    return Made(generator.integers(0, 3, n_cells), attention, nn_idx)


CUTS = {"seed": st.integers(0, 5), "order": st.permutations(range(30)), "n_shards": st.integers(1, 6)}


# --- What cells receive and send


def naive_totals(case: Made) -> tuple[Floats, Floats]:
    received, sent = np.zeros(len(case.labels)), np.zeros(len(case.labels))
    for cell, slot, neighbor in case.edges():
        for head in range(len(case.attention)):
            received[cell] += float(case.attention[head, cell, slot]) / len(case.attention)
            sent[neighbor] += float(case.attention[head, cell, slot]) / len(case.attention)
    return received, sent


def totals_of(case: Made, order: Integers, n_shards: int) -> CellTotals:
    totals = CellTotals(len(case.labels))
    for part in np.array_split(order, n_shards):
        totals.add(case.attention[:, part], part, case.nn_idx[part])
    return totals


def test_totals_by_hand() -> None:
    """Cell 0 attends to 1 and 2, cell 2 to 0 and nobody else; of cell 1 nothing is known."""
    totals = CellTotals(3)
    attention = np.array([[[0.5, 0.25], [0.75, 0.0]], [[0.25, 0.25], [0.25, 0.0]]], dtype=np.float32)
    totals.add(attention, np.array([0, 2]), np.array([[1, 2], [0, -1]], dtype=np.int32))
    np.testing.assert_array_equal(totals.received, [0.625, np.nan, 0.5])
    np.testing.assert_array_equal(totals.sent, [0.5, 0.375, 0.25])


@settings(max_examples=25, deadline=None)
@given(**CUTS)
def test_totals_are_those_of_all_edges_whatever_the_shards(seed: int, order: list[int], n_shards: int) -> None:
    case = made(seed)
    totals = totals_of(case.with_neighbors_permuted(seed), np.array(order), n_shards)
    received, sent = naive_totals(case)
    np.testing.assert_allclose(totals.received, received, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(totals.sent, sent, rtol=1e-6, atol=1e-12)
    assert totals.received[0] == 0  # it has no neighbor


def test_totals_do_not_depend_on_how_arrays_lie_in_memory() -> None:
    case = made(1)
    by_slot = np.ascontiguousarray(case.attention.transpose(2, 0, 1)).transpose(1, 2, 0)
    totals = CellTotals(30)
    totals.add(by_slot, np.arange(30), np.asfortranarray(case.nn_idx))
    received, sent = naive_totals(case)
    np.testing.assert_allclose(totals.received, received, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(totals.sent, sent, rtol=1e-6, atol=1e-12)


def test_senders_by_hand() -> None:
    """Cells 1 and 4 of six are neighbors; the sums are of each one's slots, of padded ones nobody's."""
    senders = Senders.of(np.array([[4, 1], [1, -1]], dtype=np.int32), 6)
    assert senders.cells.tolist() == [1, 4]
    assert senders.sums(np.array([[0.5, 0.25], [0.125, 9.0]])).tolist() == [0.375, 0.5]


# --- What heads do


HEAD_COLUMNS = ["head_idx", "receiver", "cells", "dummy_share", "entropy", "evenness"]


def naive_heads(case: Made) -> pd.DataFrame:
    rows = []
    for head in range(len(case.attention)):
        for label, name in enumerate(TYPES):
            measures = []
            for cell in np.flatnonzero(case.labels == label):
                there = [slot for slot in range(case.nn_idx.shape[1]) if case.nn_idx[cell, slot] >= 0]
                shares = [float(case.attention[head, cell, slot]) for slot in there]
                dummy = min(max(1 - sum(shares), 0.0), 1.0)
                entropy = -sum(share * math.log(share) for share in [*shares, dummy] if share > 0)
                if there:
                    measures.append((dummy, entropy, entropy / math.log(1 + len(there))))
            if measures:
                rows.append((head, name, len(measures), *np.mean(measures, axis=0)))
    return pd.DataFrame(rows, columns=HEAD_COLUMNS)


def test_heads_by_hand() -> None:
    """A: half and half, nothing for the dummy slot; and all for one. C: a third each; and a cell without neighbor."""
    profile = HeadProfile(("A", "B", "C"), 1)
    third = 1 / 3
    profile.add(
        np.array([[[0.5, 0.5], [0.0, 1.0], [third, third], [0.0, 0.0]]], dtype=np.float32),
        np.array([0, 0, 2, 2]),
        np.array([[1, 1], [2, 1], [0, 0], [-1, -1]]),
    )
    table = profile.table()
    assert list(table.columns) == HEAD_COLUMNS
    assert table[["head_idx", "receiver", "cells"]].to_numpy().tolist() == [[0, "A", 2], [0, "C", 1]]
    np.testing.assert_allclose(table["dummy_share"], [0.0, third], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(table["entropy"], [math.log(2) / 2, math.log(3)], rtol=1e-6)
    np.testing.assert_allclose(table["evenness"], [math.log(2) / math.log(3) / 2, 1.0], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(**CUTS)
def test_heads_are_those_of_all_cells_whatever_the_shards(seed: int, order: list[int], n_shards: int) -> None:
    case = made(seed)
    shuffled = case.with_neighbors_permuted(seed)
    profile = HeadProfile(TYPES, len(case.attention))
    for part in np.array_split(order, n_shards):
        profile.add(shuffled.attention[:, part], shuffled.labels[part], shuffled.sender_labels[part])
    table, expected = profile.table(), naive_heads(case)
    assert "D" not in set(table["receiver"])
    pd.testing.assert_frame_equal(table, expected, check_dtype=False, rtol=1e-5, atol=1e-6)
    assert table["evenness"].between(0, 1).all()


@pytest.mark.parametrize("n_shards", [2, 5])
def test_heads_of_shards_merged_are_those_of_the_whole(n_shards: int) -> None:
    case = made(3)
    merged = HeadProfile(TYPES, len(case.attention))
    for part in np.array_split(np.arange(30), n_shards):
        shard = HeadProfile(TYPES, len(case.attention))
        shard.add(case.attention[:, part], case.labels[part], case.sender_labels[part])
        merged.merge(shard)
    pd.testing.assert_frame_equal(merged.table(), naive_heads(case), check_dtype=False, rtol=1e-5, atol=1e-6)


def test_attention_that_is_nothing_adds_nothing_to_the_entropy() -> None:
    """0, and numbers so small that they are not normal: -p log p goes to 0 with p."""
    profile = HeadProfile(("A",), 1)
    attention = np.array([[[0.5, 0.0, 1e-45]]], dtype=np.float32)
    profile.add(attention, np.array([0]), np.zeros((1, 3), int))
    assert profile.table()["entropy"].item() == pytest.approx(math.log(2), rel=1e-6)


def test_attention_that_sums_to_more_than_one_by_rounding_leaves_nothing_for_the_dummy_slot() -> None:
    profile = HeadProfile(("A",), 1)
    profile.add(np.full((1, 1, 3), np.float32(1 / 3) * 1.000001, np.float32), np.array([0]), np.zeros((1, 3), int))
    assert profile.table()["dummy_share"].item() == 0
    assert profile.table()["entropy"].item() == pytest.approx(math.log(3), rel=1e-5)


# --- Edges to compare flavors by


def sample_of(case: Made, order: Integers, n_shards: int, most: int) -> EdgeSample:
    sample = EdgeSample(*case.nn_idx.shape, most)
    for shard in case.shards(order, n_shards):
        sample.add(shard)
    return sample


@pytest.mark.parametrize("n_shards", [1, 4])
def test_a_sample_holds_all_edges_where_there_are_few(n_shards: int) -> None:
    case = made()
    sample = sample_of(case, np.arange(30)[::-1], n_shards, most=150)
    assert sample.cells.tolist() == list(range(30))
    expected = np.full((30, 5), np.nan)
    for cell, slot, _ in case.edges():
        expected[cell, slot] = max(case.attention[:, cell, slot])
    np.testing.assert_array_equal(sample.strength, expected)


@pytest.mark.parametrize(("most", "step"), [(149, 2), (75, 2), (74, 3), (50, 3), (30, 5)])
def test_a_sample_lies_evenly_in_the_order_of_the_tissue(most: int, step: int) -> None:
    case = made()
    whole, sample = (sample_of(case, np.arange(30)[::-1], 4, limit) for limit in (150, most))
    assert sample.cells.tolist() == list(range(0, 30, step))
    np.testing.assert_array_equal(sample.strength, whole.strength[::step])


def sampled(*strengths: object) -> dict[str, EdgeSample]:
    """Return samples of the flavors f0, f1, ...: attention (cell, neighbor), nan where there is no edge."""
    samples = {}
    for number, given_strength in enumerate(strengths):
        strength = np.array(given_strength, dtype=np.float32)
        sample = EdgeSample(*strength.shape)
        nn_idx = np.where(np.isnan(strength), -1, 0).astype(np.int32)
        sample.add(StrengthShard(np.arange(len(strength)), np.nan_to_num(strength), nn_idx))
        samples[f"f{number}"] = sample
    return samples


def test_flavors_by_hand() -> None:
    """Ranks of A: 1 2 3 against 1 2 3, of B: 1 2 3 against 3 2 1; C has two edges, D none."""
    first = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, np.nan], [np.nan, np.nan, np.nan]]
    other = [[1, 5, 6], [9, 8, 7], [10, 11, np.nan], [np.nan, np.nan, np.nan]]
    table = compare_flavors(sampled(first, other), np.array([0, 1, 2, 3]), (*TYPES, "E"))
    assert list(table.columns) == ["flavor", "other", "receiver", "spearman", "edges"]
    assert table[["flavor", "other", "receiver", "edges"]].to_numpy().tolist() == [
        ["f0", "f1", "A", 3],
        ["f0", "f1", "B", 3],
        ["f0", "f1", "C", 2],
        ["f0", "f1", "all types", 8],
    ]
    # All: 1 2 3 4 5 6 7 8 against 1 2 3 6 5 4 7 8; the squares of the differences sum to 8.
    np.testing.assert_allclose(table["spearman"], [1, -1, np.nan, 1 - 6 * 8 / (8 * 63)], rtol=1e-12)


@pytest.mark.parametrize(
    "first",
    [
        [[0.3, 0.3, 0.3, 0.3]],  # all alike: no rank says anything
        [[0.3, 0.4, np.nan, np.nan]],  # two edges always agree or disagree
        [[np.nan, np.nan, np.nan, np.nan]],
    ],
)
def test_undefined_agreement_is_no_number(first: list[list[float]]) -> None:
    other = np.where(np.isnan(first), np.nan, [[0.1, 0.2, 0.3, 0.4]])
    for samples in (sampled(first, other), sampled(other, first)):
        table = compare_flavors(samples, np.array([0]), TYPES)
        assert table["spearman"].isna().all()
        assert table.iloc[-1][["receiver", "edges"]].tolist() == ["all types", np.isfinite(other).sum()]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), most=st.sampled_from([10_000, 60]))
def test_agreement_is_spearmans_correlation(seed: int, most: int) -> None:
    """With many ties, of samples smaller than the tissue, too."""
    case, generator = made(seed), np.random.default_rng(seed)
    others = [replace(case, attention=np.round(generator.random(case.attention.shape), 1)) for _ in range(2)]
    flavors = dict(zip(("x", "y", "z"), (case, *others), strict=True))
    samples = {name: sample_of(flavor, np.arange(30), 3, most) for name, flavor in flavors.items()}
    table = compare_flavors(samples, case.labels, TYPES)
    assert table[["flavor", "other"]].drop_duplicates().to_numpy().tolist() == [["x", "y"], ["x", "z"], ["y", "z"]]
    chosen = set(samples["x"].cells.tolist())
    for row in table.to_dict("records"):
        ends = {*TYPES} if row["receiver"] == "all types" else {row["receiver"]}
        kept = [(cell, slot) for cell, slot, _ in case.edges() if cell in chosen and TYPES[case.labels[cell]] in ends]
        pairs = [
            [max(flavors[row[end]].attention[:, cell, slot]) for cell, slot in kept] for end in ("flavor", "other")
        ]
        assert row["edges"] == len(kept)
        is_defined = len(kept) > 2 and all(len(set(strengths)) > 1 for strengths in pairs)
        expected = spearmanr(*pairs).statistic if is_defined else np.nan
        np.testing.assert_allclose(row["spearman"], expected, rtol=1e-9)
    assert "D" not in set(table["receiver"])


def test_a_flavor_alone_has_nothing_to_agree_with() -> None:
    table = compare_flavors(sampled([[0.1, 0.2, 0.3]]), np.array([0]), TYPES)
    assert table.empty
    assert list(table.columns) == ["flavor", "other", "receiver", "spearman", "edges"]


def test_a_sample_holds_no_more_edges_than_it_may() -> None:
    assert EdgeSample(10, 3, most=10).strength.size <= 10


# --- Strong edges, and the table of pairs


def naive_strong(case: Made, thresholds: Floats) -> Integers:
    counts = np.zeros((len(TYPES), len(TYPES)), dtype=int)
    for cell, slot, neighbor in case.edges():
        counts[case.labels[cell], case.labels[neighbor]] += max(case.attention[:, cell, slot]) > thresholds[cell]
    return counts


def test_strong_edges_by_hand() -> None:
    """Strictly above the cell's own threshold; what a padded slot holds does not count."""
    shard = StrengthShard(
        np.array([2, 0]),
        np.array([[0.5, 0.25, 0.9], [0.5, 0.25, 0.125]], dtype=np.float32),
        np.array([[0, 1, -1], [1, 2, 1]], dtype=np.int32),
    )
    counts = strong_edges([shard], np.array([0, 1, 1]), 2, np.array([0.25, 0.0, 0.125]))
    assert counts.tolist() == [[0, 1], [1, 1]]
    assert counts.dtype == np.int64


@settings(max_examples=25, deadline=None)
@given(**CUTS)
def test_strong_edges_are_those_of_all_cells_whatever_the_shards(seed: int, order: list[int], n_shards: int) -> None:
    case = made(seed)
    thresholds = np.random.default_rng(seed).uniform(0, 0.5, len(order))
    shards = case.with_neighbors_permuted(seed).shards(np.array(order), n_shards)
    counts = strong_edges(shards, case.labels, len(TYPES), thresholds)
    np.testing.assert_array_equal(counts, naive_strong(case, thresholds))


@pytest.mark.parametrize("seed", range(3))
def test_the_table_of_pairs_is_that_of_all_edges(seed: int) -> None:
    """Also of edges that are in no bin of distance."""
    case = made(seed, n_cells=12)  # so few that some pairs of types have no edge
    distance = np.random.default_rng(seed).uniform(0, 30, case.nn_idx.shape)
    bins = DistanceBins(TYPES, len(case.attention), max_distance=20.0, bin_size=5.0)
    bins.add(case.attention, distance, case.labels, case.sender_labels)
    strong = naive_strong(case, np.full(12, 0.2))
    table = pair_table(bins, strong, case.labels)
    rows = []
    for receiver in range(len(TYPES)):
        for sender in range(len(TYPES)):
            found = [
                case.attention[head, cell, slot].astype(float)
                for cell, slot, neighbor in case.edges()
                for head in range(3)
                if (case.labels[cell], case.labels[neighbor]) == (receiver, sender)
            ]
            if found:
                n_strong = strong[receiver, sender]
                ends = TYPES[receiver], TYPES[sender], sum(case.labels == receiver)
                rows.append((*ends, np.mean(found), len(found) // 3, n_strong, n_strong * 3 / len(found)))
    columns = ["receiver", "sender", "receivers", "mean", "edges", "strong_edges", "strong_share"]
    pd.testing.assert_frame_equal(table, pd.DataFrame(rows, columns=columns), check_dtype=False, rtol=1e-9)
