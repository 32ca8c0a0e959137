"""Neighbors against all pairs: labels, sections, radii, ties, padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import brute_force_neighbors, golden, made_tissue, random_tissue

from tissue_crosstalk.core.errors import NeighborError, ParameterError
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors, renumber
from tissue_crosstalk.core.tissue import PreparedTissue


def assert_same(found: Neighbors, expected: Neighbors) -> None:
    np.testing.assert_array_equal(found.idx, expected.idx)
    np.testing.assert_allclose(found.dist, expected.dist, rtol=1e-6)
    assert (found.idx.dtype, found.dist.dtype) == (np.int32, np.float32)


def shuffled(tissue: PreparedTissue, seed: int) -> tuple[PreparedTissue, np.ndarray]:
    """Return the same tissue with its rows in another order, and that order."""
    order = np.random.default_rng(seed).permutation(tissue.n_cells)
    return (
        replace(
            tissue,
            expression=tissue.expression[order],
            labels=tissue.labels[order],
            coordinates=tissue.coordinates[order],
            cell_names=tissue.cell_names[order],
            positions=tissue.positions[order],
            sections=tissue.sections[order],
            radii=None if tissue.radii is None else tissue.radii[order],
        ),
        order,
    )


def test_golden() -> None:
    known = golden()
    np.testing.assert_array_equal(known.tissue.positions[known.neighbors.idx][known.order], known.expected["nn_idx"])
    np.testing.assert_allclose(known.neighbors.dist[known.order], known.expected["nn_dist"], rtol=1e-5)


def test_by_hand() -> None:
    """On a line, A at 0 and 1, B at 2 and 4, C at 10: own type is no neighbor, nearest first."""
    tissue = made_tissue([[0, 0], [1, 0], [2, 0], [4, 0], [10, 0]], [0, 0, 1, 1, 2])
    found = find_neighbors(tissue, 3)
    assert found.idx.tolist() == [[2, 3, 4], [2, 3, 4], [1, 0, 4], [1, 0, 4], [3, 2, 1]]
    assert found.dist.tolist() == [[2, 4, 10], [1, 3, 9], [1, 2, 8], [3, 4, 6], [6, 8, 9]]
    assert found.labels(tissue.labels)[0].tolist() == [1, 1, 2]


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("n_sections", [0, 3])
@pytest.mark.parametrize("n_neighbors", [1, 7])
def test_equals_all_pairs(n_neighbors: int, n_sections: int, axes: int) -> None:
    tissue = random_tissue(n_neighbors, n_cells=90, n_sections=n_sections, axes=axes)
    assert_same(find_neighbors(tissue, n_neighbors), brute_force_neighbors(tissue, n_neighbors))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_equals_all_pairs_where_many_are_tied(data: st.DataObject) -> None:
    """Whole coordinates in a small square: ties and duplicates everywhere; rows, labels and sections as they come."""
    n_cells = data.draw(st.integers(2, 40))
    axes = data.draw(st.sampled_from([2, 3]))
    whole = st.integers(0, 4)
    tissue = made_tissue(
        data.draw(st.lists(st.tuples(*[whole] * axes), min_size=n_cells, max_size=n_cells)),
        data.draw(st.lists(st.integers(0, 3), min_size=n_cells, max_size=n_cells)),
        sections=data.draw(st.none() | st.lists(st.integers(0, 1), min_size=n_cells, max_size=n_cells)),
        radii=data.draw(st.none() | st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=n_cells, max_size=n_cells)),
        positions=data.draw(st.permutations(range(n_cells))),
    )
    n_neighbors = data.draw(st.integers(1, 8))
    assert_same(find_neighbors(tissue, n_neighbors, pad=True), brute_force_neighbors(tissue, n_neighbors))


def test_ties_are_broken_by_position_in_the_users_tissue() -> None:
    """Four B around an A, all at distance 1: the earliest of the user's tissue come first, wherever their rows are."""
    tissue = made_tissue([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]], [0, 1, 1, 1, 1], positions=[4, 2, 0, 3, 1])
    assert find_neighbors(tissue, 1).idx[0].tolist() == [2]
    assert find_neighbors(tissue, 3, pad=True).idx[0].tolist() == [2, 4, 1]


def test_a_tie_wider_than_the_first_query_is_resolved() -> None:
    """200 B at the very same place: the three first of the tissue are the neighbors of every A."""
    positions = np.random.default_rng(0).permutation(201)
    tissue = made_tissue([[5, 5]] + [[1, 1]] * 200, [0] + [1] * 200, positions=positions)
    found = find_neighbors(tissue, 3, pad=True)
    expected = 1 + np.argsort(positions[1:])[:3]
    assert found.idx[0].tolist() == expected.tolist()


def test_ties_resolved_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = np.stack(np.meshgrid(np.arange(12), np.arange(12)), axis=-1).reshape(-1, 2)
    tissue = made_tissue(grid, np.arange(144) % 2, positions=np.random.default_rng(1).permutation(144))
    expected = brute_force_neighbors(tissue, 6)
    assert_same(find_neighbors(tissue, 6), expected)
    monkeypatch.setattr("tissue_crosstalk.core.neighbors.TIED_ENTRIES_AT_ONCE", 10)
    assert_same(find_neighbors(tissue, 6), expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    """Cells keep their neighbors when the rows are shuffled, on a grid full of ties, too."""
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2)
    tissue = made_tissue(grid, np.arange(64) % 3, radii=np.linspace(0, 1, 64))
    straight = find_neighbors(tissue, 5)
    other, order = shuffled(tissue, seed)
    found = find_neighbors(other, 5)
    np.testing.assert_array_equal(order[found.idx], straight.idx[order])
    np.testing.assert_array_equal(found.dist, straight.dist[order])


def test_no_neighbor_is_in_another_section() -> None:
    """Though both sections share their coordinates."""
    tissue = random_tissue(2, n_cells=80, n_sections=2)
    places = np.tile(tissue.coordinates[:40], (2, 1))
    tissue = replace(tissue, coordinates=places, sections=np.repeat([0, 1], 40).astype(np.int32))
    found = find_neighbors(tissue, 6)
    assert (tissue.sections[found.idx] == tissue.sections[:, None]).all()
    assert (found.dist > 0).all()
    assert_same(found, brute_force_neighbors(tissue, 6))


def test_coordinates_far_from_the_origin() -> None:
    """Global micrometres: an offset takes no precision from the distances."""
    tissue = random_tissue(5)
    far = replace(tissue, coordinates=tissue.coordinates + 1e7)
    np.testing.assert_array_equal(find_neighbors(far, 6).idx, find_neighbors(tissue, 6).idx)
    np.testing.assert_allclose(find_neighbors(far, 6).dist, find_neighbors(tissue, 6).dist, rtol=1e-6)


def test_cells_at_the_same_place_are_at_distance_zero() -> None:
    tissue = made_tissue([[1, 1], [1, 1], [3, 1], [3, 1]], [0, 1, 0, 1])
    found = find_neighbors(tissue, 2)
    assert found.idx.tolist() == [[1, 3], [0, 2], [3, 1], [2, 0]]
    assert found.dist.tolist() == [[0, 2]] * 4


def test_radii_shorten_distances_but_leave_the_order() -> None:
    """A of radius 1 at 0; B at 3 (radius 0.5) and at 4 (radius 3.5): 1.5 and 0, in the order of the centres."""
    tissue = made_tissue([[0, 0], [3, 0], [4, 0]], [0, 1, 1], radii=[1, 0.5, 3.5])
    found = find_neighbors(tissue, 2, pad=True)
    assert found.idx[0].tolist() == [1, 2]
    assert found.dist[0].tolist() == [1.5, 0.0]
    assert found.dist[1].tolist() == [1.5, np.inf]


def test_radii_equal_all_pairs() -> None:
    tissue = random_tissue(6, n_cells=70, n_sections=2)
    tissue = replace(tissue, radii=np.random.default_rng(6).uniform(0, 5, 70))
    found = find_neighbors(tissue, 8)
    assert (found.dist == 0).any()
    assert_same(found, brute_force_neighbors(tissue, 8))


# --- Too few candidates


def test_padding_leaves_the_last_slots_empty() -> None:
    tissue = made_tissue([[0, 0], [1, 0], [2, 0]], [0, 0, 1])
    found = find_neighbors(tissue, 3, pad=True)
    assert found.idx.tolist() == [[2, -1, -1], [2, -1, -1], [1, 0, -1]]
    assert found.dist.tolist() == [[2, np.inf, np.inf], [1, np.inf, np.inf], [1, 2, np.inf]]
    assert found.labels(tissue.labels).tolist() == [[1, -1, -1], [1, -1, -1], [0, 0, -1]]


def test_padding_allows_a_section_of_one_type() -> None:
    tissue = made_tissue([[0, 0], [1, 0], [0, 0], [1, 0]], [0, 0, 0, 1], sections=[0, 0, 1, 1])
    found = find_neighbors(tissue, 2, pad=True)
    assert found.idx.tolist() == [[-1, -1], [-1, -1], [3, -1], [2, -1]]
    assert np.isinf(found.dist[:2]).all()


def test_padding_changes_nothing_where_there_are_enough() -> None:
    tissue = random_tissue(7)
    assert_same(find_neighbors(tissue, 9, pad=True), find_neighbors(tissue, 9))


def test_as_many_candidates_as_neighbors_are_enough() -> None:
    tissue = made_tissue([[0, 0], [3, 0], [1, 0], [2, 0]], [0, 0, 1, 1])
    assert find_neighbors(tissue, 2).idx.tolist() == [[2, 3], [3, 2], [0, 1], [1, 0]]


def test_too_few_candidates_names_the_type_and_the_counts() -> None:
    tissue = made_tissue([[cell, 0] for cell in range(7)], [0, 0, 0, 0, 1, 1, 2])
    with pytest.raises(NeighborError) as caught:
        find_neighbors(tissue, 4)
    assert str(caught.value) == (
        "every cell type needs at least n_neighbors = 4 cells of other types as candidates, but cell type 'A' "
        "(4 cells) has 3. Lower n_neighbors, drop these cells, or set pad_neighbors=true."
    )


def test_too_few_candidates_names_the_section() -> None:
    tissue = made_tissue([[cell, 0] for cell in range(8)], [0, 0, 1, 1, 0, 0, 0, 1], sections=[0] * 4 + [1] * 4)
    with pytest.raises(NeighborError) as caught:
        find_neighbors(tissue, 2)
    message = str(caught.value)
    assert "cell type 'A' in section 'section 1' (3 cells) has 1" in message
    assert "section 0" not in message


def test_too_few_candidates_in_many_places_are_counted() -> None:
    """The first eight are named."""
    n_sections = 10
    tissue = made_tissue([[0, 0]] * n_sections, [0] * n_sections, sections=range(n_sections))
    with pytest.raises(NeighborError, match=r"in section 'section 7' \(1 cells\) has 0; and 2 more\. Lower"):
        find_neighbors(tissue, 1)


@pytest.mark.parametrize("n_neighbors", [0, -1])
def test_fewer_than_one_neighbor_is_refused(n_neighbors: int) -> None:
    with pytest.raises(ParameterError, match=rf"^n_neighbors must be at least 1\. Got {n_neighbors} instead\.$"):
        find_neighbors(random_tissue(), n_neighbors)


@settings(deadline=None)
@given(st.data())
def test_rows_that_occur_are_numbered(data: st.DataObject) -> None:
    """As by sorting, whether slots are padded or all are, in either order of memory, with other rows and without."""
    shape = data.draw(st.tuples(st.integers(0, 4), st.integers(1, 4)))
    slots = st.lists(st.integers(-1, 30), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    nn_idx = np.array(data.draw(slots), dtype=np.int32).reshape(shape, order=data.draw(st.sampled_from("CF")))
    others = data.draw(st.none() | st.lists(st.integers(0, 40)).map(lambda rows: np.array(rows, dtype=np.int64)))
    rows, numbers = renumber(nn_idx, others)
    expected = np.unique(np.concatenate([nn_idx[nn_idx >= 0], [] if others is None else others]))
    np.testing.assert_array_equal(rows, expected)
    assert numbers.shape == shape
    assert numbers.dtype == np.int32
    np.testing.assert_array_equal(numbers < 0, nn_idx < 0)
    np.testing.assert_array_equal(rows[numbers[nn_idx >= 0]], nn_idx[nn_idx >= 0])
