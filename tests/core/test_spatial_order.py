"""The order of cells along a space-filling curve, and the cutting of it in shards."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tissue_crosstalk.core.spatial_order import hilbert_index, shard_bounds, spatial_order


def grid_of(bits: int, axes: int) -> np.ndarray:
    return (
        np.stack(np.meshgrid(*[np.arange(2**bits)] * axes, indexing="ij"), axis=-1).reshape(-1, axes).astype(np.uint64)
    )


@pytest.mark.parametrize(("bits", "axes"), [(1, 2), (2, 2), (5, 2), (1, 3), (3, 3)])
def test_the_curve_visits_every_place_once_and_goes_from_place_to_place(bits: int, axes: int) -> None:
    grid = grid_of(bits, axes)
    place = hilbert_index(grid, bits)
    assert np.sort(place).tolist() == list(range(len(grid)))
    along = grid[np.argsort(place)].astype(int)
    assert (np.abs(np.diff(along, axis=0)).sum(axis=1) == 1).all()
    assert (along[0] == 0).all()


def test_the_curve_leaves_its_grid_as_it_was() -> None:
    grid = grid_of(3, 2)
    kept = grid.copy()
    hilbert_index(grid, 3)
    assert (grid == kept).all()


def test_the_smallest_curve_by_hand() -> None:
    """It goes around the square: up (or right) first, back on the other side."""
    place = hilbert_index(np.array([[0, 0], [0, 1], [1, 1], [1, 0]], dtype=np.uint64), 1)
    assert place.tolist() in ([0, 1, 2, 3], [0, 3, 2, 1])


def test_cells_near_in_the_order_are_near_in_the_tissue() -> None:
    generator = np.random.default_rng(0)
    coordinates = generator.uniform(0, 1000, (2000, 2))
    order = spatial_order(coordinates, np.zeros(2000, np.int32))
    step = np.linalg.norm(np.diff(coordinates[order], axis=0), axis=1).mean()
    assert step < 2 * 1000 / np.sqrt(2000)  # twice the spacing; a random order has about 520
    runs = coordinates[order].reshape(20, 100, 2)  # shards of 100 cells
    assert np.ptp(runs, axis=1).mean() < 500


def test_every_cell_occurs_once_and_sections_stay_together() -> None:
    generator = np.random.default_rng(1)
    sections = generator.integers(0, 4, 300).astype(np.int32)
    order = spatial_order(generator.normal(0, 5, (300, 3)), sections)
    assert np.sort(order).tolist() == list(range(300))
    assert (np.diff(sections[order]) >= 0).all()


def test_shift_and_scale_do_not_matter() -> None:
    coordinates = np.random.default_rng(2).uniform(0, 1, (500, 2))
    sections = np.zeros(500, np.int32)
    order = spatial_order(coordinates, sections)
    assert (spatial_order(coordinates * 4096 - 1024, sections) == order).all()


def test_cells_at_the_same_place_come_by_position() -> None:
    coordinates = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    order = spatial_order(coordinates, np.zeros(5, np.int32))
    assert order.tolist() == [1, 3, 0, 2, 4]


@pytest.mark.parametrize("coordinates", [np.full((4, 2), 7.0), np.full((1, 3), -2.0)])
def test_a_tissue_without_extent_keeps_its_order(coordinates: np.ndarray) -> None:
    n_cells = len(coordinates)
    assert spatial_order(coordinates, np.zeros(n_cells, np.int32)).tolist() == list(range(n_cells))


def test_a_tissue_on_a_line_follows_the_line() -> None:
    """With one axis alone there is one way along, up to the detours of the curve: every cell comes once."""
    coordinates = np.column_stack([np.arange(50.0), np.zeros(50)])
    order = spatial_order(coordinates, np.zeros(50, np.int32))
    assert order.tolist() == list(range(50))


@pytest.mark.parametrize(
    ("n_cells", "cells_per_shard", "bounds"),
    [
        (10, 3, [(0, 2), (2, 5), (5, 7), (7, 10)]),
        (10, 10, [(0, 10)]),
        (10, 99, [(0, 10)]),
        (4, 1, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        (0, 5, [(0, 0)]),
    ],
)
def test_shard_bounds_by_hand(n_cells: int, cells_per_shard: int, bounds: list[tuple[int, int]]) -> None:
    assert shard_bounds(n_cells, cells_per_shard) == bounds


@given(n_cells=st.integers(1, 10_000), cells_per_shard=st.integers(1, 10_000))
def test_shards_cover_all_cells_in_nearly_equal_parts(n_cells: int, cells_per_shard: int) -> None:
    bounds = shard_bounds(n_cells, cells_per_shard)
    sizes = [stop - start for start, stop in bounds]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == n_cells
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    assert max(sizes) <= cells_per_shard
    assert max(sizes) - min(sizes) <= 1
    assert len(bounds) == -(-n_cells // cells_per_shard)
