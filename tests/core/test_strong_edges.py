"""Thresholds and counts of strong edges: by hand, against numpy's quantile, whole and in shards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.strong_edges import StrengthShard, attention_thresholds, count_neighbors, receiver_groups


def thresholds_of(strength: object, groups: object, n_groups: int, quantile: float, *, n_shards: int = 1) -> np.ndarray:
    strength, groups = np.array(strength, dtype=np.float32), np.array(groups)
    shards = [
        StrengthShard(part, strength[part], np.zeros_like(strength[part], dtype=np.int32))
        for part in np.array_split(np.arange(len(strength)), n_shards)
    ]
    return attention_thresholds(shards, groups, n_groups, quantile)


# --- Thresholds


def test_thresholds_by_hand() -> None:
    """A: the median of .1 .2 .3 .4; B: all its attention is 0; C: no cell."""
    strength = [[0.1, 0.4, 0.0], [0.2, 0.3, 0.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(thresholds_of(strength, [0, 0, 1], 3, 0.5), [0.25, 0.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize(("quantile", "expected"), [(0.0, 0.1), (0.9, 0.37), (0.99, 0.397)])
def test_thresholds_are_interpolated_linearly(quantile: float, expected: float) -> None:
    found = thresholds_of([[0.4, 0.1, 0.0], [0.3, 0.2, 0.0]], [0, 0], 1, quantile)
    assert found[0] == pytest.approx(expected, rel=1e-6)


def test_zeros_take_no_part_in_the_threshold() -> None:
    one, other = (thresholds_of([values], [0], 1, 0.75)[0] for values in ([0.2, 0.6], [0.2, 0.6, 0.0, 0.0, 0.0]))
    assert one == other == pytest.approx(0.5)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.25, 1e-40, 3e38, 1.0])), min_size=1, max_size=60
    ),
    quantile=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 0.9, 1.0])),
    n_shards=st.integers(1, 4),
)
def test_thresholds_equal_those_of_numpy_to_the_bit(values: list[float], quantile: float, n_shards: int) -> None:
    strength = np.array(values, dtype=np.float32)[:, None]
    groups = np.arange(len(values)) % 2
    found = thresholds_of(strength, groups, 3, quantile, n_shards=n_shards)
    for group in range(3):
        own = strength[groups == group].astype(np.float64)
        own = own[own > 0]
        assert found[group] == (np.quantile(own, quantile) if len(own) else 0.0)


def test_thresholds_between_values_that_share_their_upper_bits() -> None:
    values = np.float32(0.5) + np.arange(500, dtype=np.float32) * np.float32(2**-24)
    found = thresholds_of(values[:, None], np.zeros(500, int), 1, 0.9)
    assert found[0] == np.quantile(values.astype(np.float64), 0.9)


def test_thresholds_of_many_groups_equal_those_of_numpy_to_the_bit() -> None:
    """More than are counted by many bits at once; some are empty, or have nothing positive."""
    generator = np.random.default_rng(3)
    strength = generator.exponential(0.1, (2000, 4)).astype(np.float32)
    strength[generator.random(strength.shape) < 0.2] = 0
    strength[:20, 0] = -1
    groups = generator.integers(0, 400, 2000)
    strength[groups == 7] = -0.0
    found = thresholds_of(strength, groups, 401, 0.9, n_shards=3)
    for group in range(401):
        own = strength[groups == group].astype(np.float64)
        assert found[group] == (np.quantile(own[own > 0], 0.9) if (own > 0).any() else 0.0)


# --- Groups of receivers


def test_groups_are_types() -> None:
    labels = np.array([2, 0, 1, 2], dtype=np.int16)
    groups = receiver_groups(labels, 3)
    assert groups.tolist() == [2, 0, 1, 2]
    assert groups.dtype == np.int64


def test_groups_are_types_within_sections() -> None:
    """The types of the first section, then those of the next; also types that no section has."""
    groups = receiver_groups(np.array([2, 0, 1, 2]), 4, np.array([0, 1, 0, 2]))
    assert groups.tolist() == [2, 4, 1, 10]


def test_groups_are_more_than_a_label_can_hold() -> None:
    """300 types in 300 sections: 90,000 groups, of labels with 16 bits."""
    groups = receiver_groups(np.array([299, 0], dtype=np.int16), 300, np.array([299, 299], dtype=np.int32))
    assert groups.tolist() == [89_999, 89_700]


# --- Counts


def shard_by_hand() -> StrengthShard:
    """Return three cells with up to four neighbors: cell 1 has two of them, cell 2 none."""
    return StrengthShard(
        receivers=np.array([0, 1, 2]),
        strength=np.array([[0.9, 0.8, 0.7, 0.1], [0.9, 0.2, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=np.float32),
        nn_idx=np.array([[1, 2, 1, 2], [0, 2, -1, -1], [-1, -1, -1, -1]], dtype=np.int32),
        nn_dist=np.array(
            [[1.0, 2.0, 3.0, 6.0], [4.0, 5.0, np.inf, np.inf], [np.inf] * 4],
            dtype=np.float32,
        ),
    )


def test_counts_by_hand() -> None:
    """Types of the cells are A, B, C; even slots are one half of a cell's neighbors, odd ones the other."""
    counts = count_neighbors([shard_by_hand()], np.array([0, 1, 2]), 3, np.array([0.5, 0.5, 0.0]))
    assert counts.receivers.tolist() == [0, 1, 2]
    assert counts.strong.tolist() == [[[0, 2, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert counts.at_hand.tolist() == [[[0, 2, 0], [0, 0, 2]], [[1, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]]
    np.testing.assert_allclose(counts.shares, [[0, 2 / 3, 1 / 3], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(counts.strongest, [0.9, 0.9, 0.0])
    np.testing.assert_array_equal(counts.nearest, np.array([1, 4, np.nan], dtype=np.float32))
    np.testing.assert_array_equal(counts.mean_distance, np.array([3, 4.5, np.nan], dtype=np.float32))


def test_distances_may_be_unknown() -> None:
    shard = shard_by_hand()
    counts = count_neighbors(
        [StrengthShard(shard.receivers, shard.strength, shard.nn_idx)], np.arange(3), 3, np.zeros(3)
    )
    assert np.isnan(counts.nearest).all()
    assert np.isnan(counts.mean_distance).all()


def test_strong_is_strictly_above_the_threshold() -> None:
    thresholds = np.array([0.9, 0.2, 0.0], dtype=np.float32).astype(np.float64)
    counts = count_neighbors([shard_by_hand()], np.arange(3), 3, thresholds)
    assert counts.strong.sum(axis=(1, 2)).tolist() == [0, 1, 0]


def test_padded_slots_are_never_strong() -> None:
    """Whatever they hold."""
    shard = shard_by_hand()
    full = StrengthShard(shard.receivers, np.ones_like(shard.strength), shard.nn_idx, shard.nn_dist)
    counts = count_neighbors([full], np.arange(3), 3, np.zeros(3))
    assert counts.strong.sum(axis=(1, 2)).tolist() == [4, 2, 0]
    assert (counts.strong == counts.at_hand).all()
    assert counts.strongest.tolist() == [1, 1, 0]


@pytest.mark.parametrize("counting", ["edges", "in_degree"])
def test_shards_make_no_difference(counting: str) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 40)
    nn_idx = generator.integers(-1, 40, (40, 7)).astype(np.int32)
    strength = np.where(nn_idx < 0, 0, generator.random((40, 7))).astype(np.float32)

    def counted(n_shards: int) -> dict[str, np.ndarray]:
        parts = np.array_split(np.arange(40), n_shards)
        shards = [StrengthShard(part, strength[part], nn_idx[part]) for part in parts]
        return vars(count_neighbors(shards, labels, 3, np.full(40, 0.4), counting))  # type: ignore[arg-type]

    whole, parted = counted(1), counted(5)
    for name in whole:
        np.testing.assert_array_equal(whole[name], parted[name])


def test_blocks_and_threads_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    whole = count_neighbors([shard_by_hand()], np.arange(3), 3, np.full(3, 0.5))
    monkeypatch.setattr("tissue_crosstalk.core.strong_edges._BLOCK", 1)
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    in_blocks = count_neighbors([shard_by_hand()], np.arange(3), 3, np.full(3, 0.5))
    for name, array in vars(whole).items():
        np.testing.assert_array_equal(array, vars(in_blocks)[name], err_msg=name)


def test_more_neighbors_than_a_byte_holds() -> None:
    shard = StrengthShard(np.array([0]), np.ones((1, 700), np.float32), np.zeros((1, 700), np.int32))
    counts = count_neighbors([shard], np.array([0]), 1, np.zeros(1))
    assert counts.strong.tolist() == [[[350], [350]]]


def test_no_attention_at_all_is_refused() -> None:
    with pytest.raises(ResultError, match=r"there is no attention of any cell to find hubs in\. Run the extraction"):
        count_neighbors([], np.arange(3), 3, np.zeros(3))
