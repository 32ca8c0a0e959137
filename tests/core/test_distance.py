"""Attention against distance: by hand, against a table of edges, and against the published package."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tissue_crosstalk.core.distance import (
    HISTOGRAM_COLUMNS,
    TABLE_COLUMNS,
    DistanceBins,
    _stable_order,
    memory_layout,
)
from tissue_crosstalk.core.errors import ParameterError, ResultError

GOLDEN = Path(__file__).parents[1] / "golden"
KEYS = ["receiver", "head_idx", "sender", "distance_bin"]
TYPES = ["B", "T", "macrophage"]

Chunk = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


def random_chunk(seed: int, n_cells: int = 60, n_neighbors: int = 7, n_heads: int = 2) -> Chunk:
    """Return patterns (head, cell, neighbor), distances, receiver and sender labels, some slots padded."""
    generator = np.random.default_rng(seed)
    shape = (n_cells, n_neighbors)
    patterns = generator.random((n_heads, *shape), dtype=np.float32)
    distance = generator.uniform(-5.0, 70.0, shape)
    distance[generator.random(shape) < 0.1] = 15.0  # on the edge of a bin
    sender = generator.integers(0, len(TYPES), shape)
    padded = generator.random(shape) < 0.1
    distance[padded], sender[padded] = np.inf, -1
    return patterns, distance, generator.integers(0, len(TYPES), n_cells), sender


def naive_table(chunk: Chunk, max_distance: float, bin_size: float, min_bin_count: int) -> pd.DataFrame:
    """Return the same table from an explicit table of edges."""
    patterns, distance, receiver, sender = chunk
    n_heads, n_cells, n_neighbors = patterns.shape
    edges = pd.DataFrame(
        {
            "receiver": np.tile(np.repeat(receiver, n_neighbors), n_heads),
            "head_idx": np.repeat(np.arange(n_heads), n_cells * n_neighbors),
            "sender": np.tile(sender.ravel(), n_heads),
            "distance": np.tile(distance.ravel(), n_heads),
            "attention": patterns.ravel().astype(np.float64),
        }
    )
    edges = edges[(edges["distance"] >= 0) & (edges["distance"] < max_distance) & (edges["sender"] >= 0)]
    edges["distance_bin"] = np.floor(edges["distance"] / bin_size) * bin_size
    over_heads = edges.groupby(["receiver", "sender", "distance_bin"])["attention"].transform("size")
    edges = edges[over_heads >= min_bin_count]
    table = edges.groupby(KEYS)["attention"].agg(["mean", "std", "size"]).reset_index()
    for column in ("receiver", "sender"):
        table[column] = [TYPES[label] for label in table[column]]
    return table.rename(columns={"std": "sd", "size": "count"})


def assert_same(got: pd.DataFrame, expected: pd.DataFrame, rtol: float = 1e-9) -> None:
    """Compare two tables whatever the order of their rows."""
    pd.testing.assert_frame_equal(
        got.sort_values(KEYS, ignore_index=True)[list(TABLE_COLUMNS)],
        expected.sort_values(KEYS, ignore_index=True)[list(TABLE_COLUMNS)],
        check_dtype=False,
        rtol=rtol,
        atol=1e-12,
    )


def test_by_hand() -> None:
    """Two cells of B, three neighbors: T at 1, 4 and 6, macrophages at 0 and 9.99, one out of reach."""
    bins = DistanceBins(TYPES, n_heads=2, max_distance=10.0, bin_size=5.0)
    bins.add(
        np.array([[[0.1, 0.3, 0.5], [0.2, 0.4, 0.9]], [[0.0, 0.2, 0.1], [0.3, 0.6, 0.9]]], dtype=np.float32),
        np.array([[1.0, 4.0, 6.0], [0.0, 9.99, 10.0]]),
        np.array([0, 0]),
        np.array([[1, 1, 1], [2, 2, 2]]),
    )
    table = bins.table(min_bin_count=1)
    assert list(table.columns) == list(TABLE_COLUMNS)
    assert table[[*KEYS, "count"]].to_records(index=False).tolist() == [
        ("B", 0, "T", 0.0, 2),
        ("B", 0, "T", 5.0, 1),
        ("B", 0, "macrophage", 0.0, 1),
        ("B", 0, "macrophage", 5.0, 1),
        ("B", 1, "T", 0.0, 2),
        ("B", 1, "T", 5.0, 1),
        ("B", 1, "macrophage", 0.0, 1),
        ("B", 1, "macrophage", 5.0, 1),
    ]
    np.testing.assert_allclose(table["mean"], [0.2, 0.5, 0.2, 0.4, 0.1, 0.1, 0.3, 0.6], rtol=1e-6)
    spread = np.sqrt(0.02)  # of (0.1, 0.3) and of (0.0, 0.2), ddof 1
    np.testing.assert_allclose(table["sd"], [spread, *[np.nan] * 3, spread, *[np.nan] * 3], rtol=1e-6)
    assert bins.n_edges == 5


def test_small_bins_are_counted_over_all_heads() -> None:
    """Three edges under two heads are six: kept at 6, dropped at 7."""
    bins = DistanceBins(TYPES, n_heads=2)
    bins.add(np.full((2, 3, 1), 0.1, np.float32), np.ones((3, 1)), np.zeros(3, int), np.ones((3, 1), int))
    assert bins.table(6)["count"].tolist() == [3, 3]
    assert bins.table(7).empty
    assert list(bins.table(7).columns) == list(TABLE_COLUMNS)


def test_dropping_looks_at_each_receiver_alone() -> None:
    """A bin that is large for one receiver is still dropped for another."""
    bins = DistanceBins(TYPES, n_heads=1)
    receiver = np.array([0, 0, 0, 2])
    bins.add(np.full((1, 4, 1), 0.1, np.float32), np.ones((4, 1)), receiver, np.ones((4, 1), int))
    assert bins.table(3)["receiver"].tolist() == ["B"]


@pytest.mark.parametrize("min_bin_count", [0, 1, 12, 10_000])
@pytest.mark.parametrize(("max_distance", "bin_size"), [(60.0, 5.0), (50.0, 7.5), (33.0, 100.0), (0.7, 0.1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_a_table_of_edges(max_distance: float, bin_size: float, min_bin_count: int, dtype: type) -> None:
    patterns, distance, receiver, sender = random_chunk(3, n_cells=200)
    distance = (distance * max_distance / 60.0).astype(dtype)
    bins = DistanceBins(TYPES, 2, max_distance, bin_size)
    bins.add(patterns, distance, receiver, sender)
    chunk = (patterns, distance.astype(np.float64), receiver, sender)
    assert_same(bins.table(min_bin_count), naive_table(chunk, max_distance, bin_size, min_bin_count))


def test_equals_the_published_package() -> None:
    expected = pd.read_csv(GOLDEN / "binned_attention_60_5_20.csv").rename(
        columns={"cluster_i": "receiver", "head": "head_idx", "cluster_j": "sender"}
    )
    arrays = np.load(GOLDEN / "expected.npz", allow_pickle=False)
    labels = pd.Categorical(ad.read_h5ad(GOLDEN / "tissue.h5ad").obs["cell_type"].astype(str))
    code = labels.codes.astype(np.int64)
    bins = DistanceBins(list(labels.categories), 3, max_distance=60.0, bin_size=5.0)
    for cells in np.array_split(np.arange(len(code)), 7):
        bins.add(arrays["vanilla"][:, cells], arrays["nn_dist"][cells], code[cells], code[arrays["nn_idx"][cells]])
    got = bins.table(min_bin_count=20)
    assert len(got) == len(expected) == 267
    assert_same(got, expected, rtol=1e-5)


def test_chunks_give_the_whole() -> None:
    whole = DistanceBins(TYPES, 2)
    chunked = DistanceBins(TYPES, 2)
    patterns, distance, receiver, sender = random_chunk(5)
    whole.add(patterns, distance, receiver, sender)
    for cells in np.array_split(np.arange(len(receiver)), 9):
        chunked.add(patterns[:, cells], distance[cells], receiver[cells], sender[cells])
    assert_same(chunked.table(1), whole.table(1))
    assert chunked.largest_attention(1) == whole.largest_attention(1)


def test_shards_merged_give_the_whole() -> None:
    whole, merged = DistanceBins(TYPES, 2), DistanceBins(TYPES, 2)
    for seed in range(4):
        shard = DistanceBins(TYPES, 2)
        shard.add(*random_chunk(seed))
        whole.add(*random_chunk(seed))
        before = shard.table(1)
        merged.merge(pickle.loads(pickle.dumps(shard)))  # as it comes back from a worker
        merged.merge(DistanceBins(TYPES, 2))  # a worker without cells
        pd.testing.assert_frame_equal(shard.table(1), before)
    assert_same(merged.table(1), whole.table(1))
    assert merged.largest_attention(30) == whole.largest_attention(30)
    pd.testing.assert_frame_equal(merged.distance_histogram(), whole.distance_histogram())


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (DistanceBins(["B", "T", "NK"], 2), "cell_types"),
        (DistanceBins(TYPES, 3), "n_heads"),
        (DistanceBins(TYPES, 2, max_distance=99.0), "max_distance"),
        (DistanceBins(TYPES, 2, bin_size=4.0), "bin_size"),
    ],
)
def test_merge_refuses_other_bins(other: DistanceBins, name: str) -> None:
    with pytest.raises(ParameterError, match=rf"same {name}\. Expected .*, got "):
        DistanceBins(TYPES, 2).merge(other)


def test_spread_far_below_the_mean_is_exact() -> None:
    """Sums of squares would lose every digit here: the relative spread is 1e-6, over many chunks."""
    generator = np.random.default_rng(0)
    attention = (0.9 + 1e-6 * generator.standard_normal((1, 4000, 5))).astype(np.float32)
    bins = DistanceBins(["B", "T"], 1)
    for cells in np.array_split(np.arange(4000), 40):
        bins.add(
            attention[:, cells], np.ones((len(cells), 5)), np.zeros(len(cells), int), np.ones((len(cells), 5), int)
        )
    expected = attention.astype(np.float64).std(ddof=1)
    assert bins.table()["sd"].item() == pytest.approx(expected, rel=1e-9)


def test_constant_attention_has_no_spread() -> None:
    bins = DistanceBins(["B", "T"], 1)
    for _ in range(3):
        bins.add(np.full((1, 7, 3), 0.1, np.float32), np.ones((7, 3)), np.zeros(7, int), np.ones((7, 3), int))
    assert bins.table(1)["sd"].item() == pytest.approx(0.0, abs=1e-15)


def test_padded_slots_are_left_out() -> None:
    """Whatever a padded slot holds: only the one real edge is counted."""
    bins = DistanceBins(TYPES, 1)
    bins.add(
        np.array([[[0.5, 0.9, 0.8, np.nan]]], dtype=np.float32),
        np.array([[3.0, np.inf, 3.0, np.nan]]),
        np.array([0]),
        np.array([[1, -1, -1, -1]]),
    )
    table = bins.table(1)
    assert table["count"].tolist() == [1]
    assert bins.largest_attention(1) == 0.5


def test_limits_of_bins() -> None:
    """0 is in, `max_distance` is out, and a distance on an edge is in the bin that starts there."""
    distance = np.array([[0.0, -1e-9, 5.0, np.nextafter(5.0, 0.0), 12.0, np.nextafter(12.0, 0.0)]])
    bins = DistanceBins(["B", "T"], 1, max_distance=12.0, bin_size=5.0)
    bins.add(np.ones((1, 1, 6), np.float32), distance, np.array([0]), np.ones((1, 6), int))
    assert bins.n_bins == 3
    assert bins.table(1).set_index("distance_bin")["count"].to_dict() == {0.0: 2, 5.0: 1, 10.0: 1}


@pytest.mark.parametrize(("max_distance", "bin_size"), [(0.3, 0.1), (1.0, 0.1), (100.0, 3.3), (7.0, 0.7)])
def test_longest_distance_has_a_bin(max_distance: float, bin_size: float) -> None:
    """Rounding in the division must not put the last edge behind the last bin."""
    bins = DistanceBins(["B", "T"], 1, max_distance, bin_size)
    longest = np.array([[np.nextafter(max_distance, 0.0)]])
    bins.add(np.ones((1, 1, 1), np.float32), longest, np.array([0]), np.array([[1]]))
    assert bins.table(1)["count"].tolist() == [1]


def test_largest_attention_is_of_kept_bins_only() -> None:
    """The largest single attention, 0.9, is in a bin that is dropped; 0.95 is too far away."""
    bins = DistanceBins(TYPES, 1, max_distance=20.0)
    bins.add(
        np.array([[[0.2, 0.4, 0.9, 0.95]]], dtype=np.float32),
        np.array([[1.0, 2.0, 8.0, 30.0]]),
        np.array([0]),
        np.array([[1, 1, 1, 1]]),
    )
    assert bins.largest_attention(2) == pytest.approx(0.4, rel=1e-6)
    assert bins.largest_attention(1) == pytest.approx(0.9, rel=1e-6)
    assert bins.largest_attention(3) == 0.0


def test_histogram_counts_each_edge_once() -> None:
    chunk = random_chunk(8, n_heads=3)
    bins = DistanceBins(TYPES, 3, max_distance=60.0, bin_size=10.0)
    bins.add(*chunk)
    histogram = bins.distance_histogram()
    assert list(histogram.columns) == list(HISTOGRAM_COLUMNS)
    _, distance, receiver, sender = chunk
    for label, name in enumerate(TYPES):
        of_type = receiver[:, None] == label
        expected, _ = np.histogram(distance[of_type & (sender >= 0)], bins=np.arange(0.0, 70.0, 10.0))
        rows = histogram[histogram["receiver"] == name]
        assert rows["count"].tolist() == expected.tolist()
        assert rows["distance_bin"].tolist() == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]


# --- Over all edges, of whatever length


PAIR_COLUMNS = ["receiver", "head_idx", "sender", "mean", "sd", "count"]


def naive_pairs(chunks: list[Chunk]) -> pd.DataFrame:
    """Return mean, standard deviation and number of edges of each pair, by numpy."""
    rows = []
    for receiver, receiver_name in enumerate(TYPES):
        for head in range(2):
            for sender, sender_name in enumerate(TYPES):
                found = [
                    float(patterns[head, cell, slot])
                    for patterns, _, receivers, senders in chunks
                    for cell in np.flatnonzero(receivers == receiver)
                    for slot in np.flatnonzero(senders[cell] == sender)
                ]
                if found:
                    sd = np.std(found, ddof=1) if len(found) > 1 else np.nan
                    rows.append((receiver_name, head, sender_name, np.mean(found), sd, len(found)))
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


@pytest.mark.parametrize("max_distance", [60.0, 20.0, 1e-3, 1e6])
def test_pairs_are_of_all_edges(max_distance: float) -> None:
    """Edges that are in no bin, too: too long ones, and where all are."""
    chunks = [random_chunk(seed, n_cells=20) for seed in range(3)]
    bins = DistanceBins(TYPES, 2, max_distance, max_distance / 4)
    for chunk in chunks:
        bins.add(*chunk)
    pd.testing.assert_frame_equal(bins.by_pair(), naive_pairs(chunks), check_dtype=False, rtol=1e-12)


def test_pairs_without_edges_have_no_row_and_one_edge_no_spread() -> None:
    """By hand: B listens to T twice, near and far (mean 0.3, sd 0.2 / sqrt(2)), and to macrophages once."""
    bins = DistanceBins(TYPES, 1, max_distance=10.0)
    bins.add(
        np.array([[[0.2, 0.4, 0.7, 0.9]]]), np.array([[1.0, 10.0, 99.0, 2.0]]), np.array([0]), np.array([[1, 1, 2, -1]])
    )
    table = bins.by_pair()
    assert list(table.columns) == PAIR_COLUMNS
    assert table[["receiver", "head_idx", "sender", "count"]].to_numpy().tolist() == [
        ["B", 0, "T", 2],
        ["B", 0, "macrophage", 1],
    ]
    np.testing.assert_allclose(table["mean"], [0.3, 0.7], rtol=1e-12)
    np.testing.assert_allclose(table["sd"], [0.2 / np.sqrt(2), np.nan], rtol=1e-12)
    assert bins.n_edges == 1
    assert bins.elsewhere() == {"B": 2, "T": 0, "macrophage": 0}


def test_edges_elsewhere_are_those_that_the_histogram_lacks() -> None:
    """Of each receiver type, counted once and not once per head; padded slots are no edges."""
    _, distance, receiver, sender = chunk = random_chunk(2)
    bins = DistanceBins(TYPES, 2, max_distance=33.0)
    bins.add(*chunk)
    expected = dict.fromkeys(TYPES, 0)
    for cell, slot in np.argwhere(sender >= 0):
        expected[TYPES[receiver[cell]]] += not 0 <= distance[cell, slot] < 33.0
    assert bins.elsewhere() == expected
    assert min(expected.values()) > 0
    assert bins.n_edges + sum(expected.values()) == (sender >= 0).sum()


def test_edges_in_no_bin_are_in_no_table_and_no_maximum() -> None:
    bins = DistanceBins(TYPES, 1, max_distance=10.0)
    bins.add(np.array([[[0.1, 0.9]]]), np.array([[1.0, 10.0]]), np.array([0]), np.array([[1, 1]]))
    assert bins.table(0)[["distance_bin", "count"]].to_numpy().tolist() == [[0.0, 1]]
    assert bins.largest_attention(0) == pytest.approx(0.1)
    assert bins.distance_histogram()["count"].sum() == bins.n_edges == 1
    assert bins.n_bins == 2


@given(cut=st.lists(st.integers(0, 59), max_size=4), seed=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_pairs_of_shards_merged_are_those_of_the_whole(cut: list[int], seed: int) -> None:
    patterns, distance, receiver, sender = chunk = random_chunk(seed)
    merged = DistanceBins(TYPES, 2, max_distance=20.0)
    for cells in np.split(np.arange(60), sorted(cut)):
        shard = DistanceBins(TYPES, 2, max_distance=20.0)
        shard.add(patterns[:, cells], distance[cells], receiver[cells], sender[cells])
        merged.merge(shard)
    pd.testing.assert_frame_equal(merged.by_pair(), naive_pairs([chunk]), check_dtype=False, rtol=1e-11)
    beyond = (sender >= 0) & ~((distance >= 0) & (distance < 20.0))
    assert merged.elsewhere() == {name: beyond[receiver == label].sum() for label, name in enumerate(TYPES)}


@pytest.mark.parametrize("seed", range(3))
def test_how_arrays_lie_in_memory_does_not_matter(seed: int) -> None:
    """Attention as the columns of a table have it, (neighbor, head, cell): the same numbers but for rounding."""
    patterns, distance, receiver, sender = random_chunk(seed)
    plain, by_slot = DistanceBins(TYPES, 2, 40.0), DistanceBins(TYPES, 2, 40.0)
    plain.add(patterns, distance, receiver, sender)
    view = np.ascontiguousarray(patterns.transpose(2, 0, 1)).transpose(1, 2, 0)
    assert (memory_layout(patterns), memory_layout(view)) == ("C", "F")
    by_slot.add(view, np.asfortranarray(distance), receiver, np.asfortranarray(sender))
    assert_same(by_slot.table(1), plain.table(1), rtol=1e-12)
    assert by_slot.largest_attention(1) == plain.largest_attention(1)


@pytest.mark.parametrize("layout", ["C", "F"])
def test_groups_serve_every_flavor(layout: Literal["C", "F"]) -> None:
    """Edges are sorted once; the maximum over heads may be known already. Nothing changes until it is taken in."""
    patterns, distance, receiver, sender = random_chunk(4)
    bins = DistanceBins(TYPES, 2, 40.0)
    groups = bins.group(distance, receiver, sender, layout=layout)
    for flavor in (patterns, np.sqrt(patterns)):
        alone, together = DistanceBins(TYPES, 2, 40.0), DistanceBins(TYPES, 2, 40.0)
        alone.add(flavor, distance, receiver, sender)
        for moments in (bins.moments(flavor, groups), bins.moments(flavor, groups, flavor.max(axis=0))):
            assert (np.diff(moments.triples) > 0).all()
            together = DistanceBins(TYPES, 2, 40.0)
            together.absorb(moments)
            assert_same(together.table(1), alone.table(1), rtol=1e-12)
            assert together.largest_attention(1) == alone.largest_attention(1)
    assert bins.n_edges == 0


def test_groups_hold_each_edge_once_in_order() -> None:
    """By hand: B at 1 and T at 7 and 2 beside a padded slot; T's own neighbor beyond all bins."""
    bins = DistanceBins(TYPES, 1, max_distance=10.0, bin_size=5.0)
    distance = np.array([[7.0, 1.0], [2.0, np.inf], [99.0, 3.0]])
    sender = np.array([[1, 0], [1, -1], [1, 1]])
    groups = bins.group(distance, np.array([0, 0, 1]), sender)
    # (receiver, sender, bin) of three types and three bins, the last for those in none: 9 r + 3 s + b.
    assert groups.triples.tolist() == [0, 3, 4, 12, 14]
    assert groups.count.tolist() == [1, 1, 1, 1, 1]
    assert groups.slots.tolist() == [1, 2, 0, 5, 4]
    assert groups.sorted(distance).tolist() == [1.0, 2.0, 7.0, 3.0, 99.0]
    by_neighbor = bins.group(distance, np.array([0, 0, 1]), sender, layout="F")
    assert by_neighbor.sorted(distance).tolist() == [1.0, 2.0, 7.0, 3.0, 99.0]


def test_attention_of_another_shape_than_its_groups_is_refused() -> None:
    bins = DistanceBins(TYPES, 2)
    groups = bins.group(np.zeros((4, 5)), np.zeros(4, int), np.ones((4, 5), int))
    with pytest.raises(ParameterError, match=r"`patterns` must have .* expected \(2, 4, 5\), got \(2, 5, 4\)"):
        bins.moments(np.zeros((2, 5, 4)), groups)


@given(keys=st.lists(st.integers(0, 2**33 - 1), max_size=50), bits=st.sampled_from([3, 16, 17, 33]))
def test_keys_are_sorted_whatever_their_size(keys: list[int], bits: int) -> None:
    given_keys = np.array([key % 2**bits for key in keys], dtype=np.int64)
    expected = np.argsort(given_keys, kind="stable")
    assert _stable_order(given_keys, 2**bits).tolist() == expected.tolist()


def test_many_types_and_bins_equal_a_table_of_edges() -> None:
    """More triples than sixteen bits can count."""
    generator = np.random.default_rng(0)
    names = [f"type {number}" for number in range(60)]
    receiver, sender = generator.integers(0, 60, 50), generator.integers(0, 60, (50, 6))
    distance, attention = generator.uniform(0, 100, (50, 6)), generator.random((1, 50, 6))
    bins = DistanceBins(names, 1, 100.0, 1.0)
    bins.add(attention, distance, receiver, sender)
    table = bins.table(0)
    expected = sorted(
        (int(receiver[cell]), int(sender[cell, slot]), int(distance[cell, slot]), float(attention[0, cell, slot]))
        for cell in range(50)
        for slot in range(6)
    )
    assert len(table) == len(expected)
    assert table["receiver"].tolist() == [names[row[0]] for row in expected]
    assert table["sender"].tolist() == [names[row[1]] for row in expected]
    assert table["distance_bin"].tolist() == [row[2] for row in expected]
    assert table["mean"].tolist() == [row[3] for row in expected]


def test_nothing_added_is_an_empty_table() -> None:
    bins = DistanceBins(TYPES, 2)
    bins.add(np.zeros((2, 0, 5), np.float32), np.zeros((0, 5)), np.zeros(0, int), np.zeros((0, 5), int))
    assert bins.table(0).empty
    assert bins.largest_attention(0) == 0.0
    assert bins.distance_histogram()["count"].sum() == 0
    assert bins.by_pair().empty
    assert list(bins.by_pair().columns) == PAIR_COLUMNS
    assert bins.elsewhere() == dict.fromkeys(TYPES, 0)


def test_arguments_stay_as_they_are() -> None:
    chunk = random_chunk(1)
    copies = [array.copy() for array in chunk]
    DistanceBins(TYPES, 2).add(*chunk)
    for array, copy in zip(chunk, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell_types": []}, "`cell_types` must name at least one cell type. Got none."),
        ({"cell_types": ["B", "T", "B"]}, "`cell_types` must name each cell type once. Got more than once: 'B'."),
        ({"n_heads": 0}, "`n_heads` must be at least 1. Got 0 instead."),
        ({"max_distance": 0.0}, "`max_distance` must be a positive number. Got 0.0 instead."),
        ({"max_distance": float("inf")}, "`max_distance` must be a positive number. Got inf instead."),
        ({"bin_size": -1.0}, "`bin_size` must be a positive number. Got -1.0 instead."),
        ({"bin_size": float("nan")}, "`bin_size` must be a positive number. Got nan instead."),
        ({"bin_size": 1e-9}, "Choose a larger bin_size or a smaller max_distance."),
    ],
)
def test_parameters_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        DistanceBins(**{"cell_types": TYPES, "n_heads": 2, **arguments})
    assert message in str(caught.value)


def test_negative_min_bin_count() -> None:
    bins = DistanceBins(TYPES, 2)
    for method in (bins.table, bins.largest_attention):
        with pytest.raises(ParameterError, match=r"`min_bin_count` must be at least 0\. Got -1 instead\."):
            method(-1)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, np.zeros((3, 4, 5)), r"`patterns` .* expected \(2, 4, 5\), got \(3, 4, 5\)"),
        (1, np.zeros(4), r"`distance` must have the shape \(cell, neighbor\)\. Got \(4,\)"),
        (2, np.zeros(3, int), r"`receiver_label` .* expected \(4,\), got \(3,\)"),
        (3, np.zeros((4, 6), int), r"`sender_label` .* expected \(4, 5\), got \(4, 6\)"),
        (2, np.full(4, 3), r"`receiver_label` must lie between 0 and 2 .* Got values from 3 to 3"),
        (2, np.full(4, -1), r"`receiver_label` must lie between 0 and 2"),
        (3, np.full((4, 5), -2), r"`sender_label` must lie between -1 and 2"),
        (3, np.zeros((4, 5)), r"`sender_label` must hold integers\. Got float64"),
    ],
)
def test_chunks_that_do_not_fit(position: int, value: NDArray[Any], message: str) -> None:
    chunk = [np.zeros((2, 4, 5)), np.zeros((4, 5)), np.zeros(4, int), np.ones((4, 5), int)]
    chunk[position] = value
    with pytest.raises(ParameterError, match=message):
        DistanceBins(TYPES, 2).add(*chunk)


def test_numbers_that_are_none() -> None:
    """Not-a-number on a real edge means broken results; nothing of the chunk is taken in."""
    chunk = [np.zeros((2, 4, 5)), np.zeros((4, 5)), np.zeros(4, int), np.ones((4, 5), int)]
    bins = DistanceBins(TYPES, 2)
    for position, index in ((0, (1, 2, 3)), (1, (2, 3))):
        broken = [array.copy() for array in chunk]
        broken[position][index] = np.nan
        with pytest.raises(ResultError, match=r"Got nan"):
            bins.add(*broken)
    assert bins.n_edges == 0


def test_more_bins_than_memory_holds_are_refused_for_all_flavors_together() -> None:
    with pytest.raises(ParameterError, match="`bin_size` must leave a number of bins that fits into memory"):
        DistanceBins(["A", "B", "C"], n_heads=2, max_distance=100.0, bin_size=1e-5)
