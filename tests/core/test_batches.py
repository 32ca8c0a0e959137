"""Batches of spatial patches, and the cells that are held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import random_tissue

from tissue_crosstalk.core.batches import HeldOut, Split, hold_out, patch_batches, spatial_patches
from tissue_crosstalk.core.errors import TrainingError
from tissue_crosstalk.core.neighbors import find_neighbors

# --- Patches


def batches_of(
    coordinates: np.ndarray, sections: np.ndarray, cells: np.ndarray, batch_size: int, patch_size: int, seed: int = 0
) -> list[np.ndarray]:
    return list(patch_batches(coordinates, sections, cells, batch_size, patch_size, np.random.default_rng(seed)))


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(("batch_size", "patch_size"), [(32, 8), (30, 7), (5, 8), (1000, 1000), (32, 1), (1, 1)])
def test_batches_hold_every_cell_once(batch_size: int, patch_size: int, axes: int) -> None:
    generator = np.random.default_rng(1)
    cells = np.sort(generator.permutation(300)[:200])
    sections = generator.integers(0, 3, 300).astype(np.int32)
    batches = batches_of(generator.uniform(0, 9, (300, axes)), sections, cells, batch_size, patch_size)
    assert np.sort(np.concatenate(batches)).tolist() == cells.tolist()
    assert len(batches) == -(-200 // batch_size)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_a_patch_holds_cells_of_one_section(seed: int) -> None:
    """Though sections overlap: in the order of a batch, the section changes at the ends of patches alone."""
    coordinates = np.random.default_rng(seed).uniform(0, 9, (400, 2))
    sections = (np.arange(400) % 2).astype(np.int32)
    (whole,) = batches_of(coordinates, sections, np.arange(400), 1000, 1000, seed)
    # A section of fewer cells than a patch is cut at two offsets at most: 4 patches, 8 of both.
    assert np.count_nonzero(np.diff(sections[whole])) <= 7
    (small,) = batches_of(coordinates, sections, np.arange(400), 1000, 20, seed)
    # 200 cells of a section in strips of 63: 5 strips at most, of 20 cells each and one cut more: 25 at most.
    assert np.count_nonzero(np.diff(sections[small])) <= 49  # 200 if they were mixed


def test_patches_are_compact() -> None:
    """Cells that follow each other are near; in a random order they are 520 apart."""
    coordinates = np.random.default_rng(2).uniform(0, 1000, (1000, 2))
    sections, cells = np.zeros(1000, np.int32), np.arange(1000)

    def step(patch_size: int) -> float:
        (order,) = batches_of(coordinates, sections, cells, 1000, patch_size)
        return float(np.median(np.linalg.norm(np.diff(coordinates[order], axis=0), axis=1)))

    assert step(50) < 150
    assert step(1) > 400


@pytest.mark.parametrize("patch_size", [1, 8])
def test_batches_differ_between_epochs_and_repeat_with_the_seed(patch_size: int) -> None:
    coordinates, sections = np.random.default_rng(3).uniform(0, 9, (100, 2)), np.zeros(100, np.int32)
    epochs = []
    for _ in range(2):
        generator = np.random.default_rng(9)
        epochs.append(
            [
                [
                    batch.tolist()
                    for batch in patch_batches(coordinates, sections, np.arange(100), 16, patch_size, generator)
                ]
                for _ in range(3)
            ]
        )
    assert epochs[0] == epochs[1]
    first, second, third = ({frozenset(batch) for batch in epoch} for epoch in epochs[0])
    assert not first & second
    assert not second & third


# --- Cells that are held out


def split_of(n_cells: int, split: Split, *, fraction: float = 0.1, n_blocks: int = 10, seed: int = 0) -> HeldOut:
    """Split a made-up tissue of two sections."""
    tissue = random_tissue(1, n_cells=n_cells, n_sections=2)
    return hold_out(
        tissue.coordinates,
        tissue.sections,
        fraction=fraction,
        split=split,
        n_blocks=n_blocks,
        rng=np.random.default_rng(seed),
    )


@settings(max_examples=60, deadline=None)
@given(
    n_cells=st.integers(4, 300),
    fraction=st.floats(0.001, 0.7),
    split=st.sampled_from(["blocks", "cells", "both"]),
    n_blocks=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_every_cell_is_trained_on_or_held_out(
    n_cells: int, fraction: float, split: Split, n_blocks: int, seed: int
) -> None:
    held_out = split_of(n_cells, split, fraction=fraction, n_blocks=n_blocks, seed=seed)
    parts = (held_out.training, held_out.blocks, held_out.cells)
    assert np.sort(np.concatenate(parts)).tolist() == list(range(n_cells))
    assert all((np.diff(part) > 0).all() for part in parts)
    n_kinds = 2 if split == "both" else 1
    n_held_out = max(n_kinds, round(n_cells * fraction))
    expected = {"blocks": (n_held_out, 0), "cells": (0, n_held_out)}
    expected["both"] = (n_held_out // 2, n_held_out - n_held_out // 2)
    assert (len(held_out.blocks), len(held_out.cells)) == expected[split]
    assert held_out.deciding is (held_out.cells if split == "cells" else held_out.blocks)


@pytest.mark.parametrize("split", ["blocks", "cells", "both"])
def test_the_split_repeats_with_the_seed(split: Split) -> None:
    one, again, other = (split_of(200, split, seed=seed) for seed in (1, 1, 2))
    assert one.training.tolist() == again.training.tolist()
    assert one.training.tolist() != other.training.tolist()


def test_blocks_share_fewer_neighbors_with_the_training_than_random_cells() -> None:
    """What a random cell's neighbors are, the training has seen; of a block only the rim has such neighbors."""
    tissue = random_tissue(3, n_cells=2000)
    neighbors = find_neighbors(tissue, 6)

    def seen(split: Split) -> float:
        held_out = hold_out(
            tissue.coordinates,
            tissue.sections,
            fraction=0.2,
            split=split,
            n_blocks=4,
            rng=np.random.default_rng(0),
        )
        return float(np.isin(neighbors.idx[held_out.deciding], held_out.training).mean())

    assert seen("cells") == pytest.approx(0.8, abs=0.05)  # as many as are trained on
    assert seen("blocks") < 0.3


def test_a_block_is_of_one_section_and_compact() -> None:
    """Two sections over each other, 500 cells each: a block of 50 fills a square of a tenth of the area."""
    generator = np.random.default_rng(5)
    coordinates, sections = generator.uniform(0, 1, (1000, 2)), (np.arange(1000) % 2).astype(np.int32)
    blocks = spatial_patches(coordinates, sections, np.arange(1000), 50, generator)
    assert np.sort(np.concatenate(blocks)).tolist() == list(range(1000))
    assert all(len(np.unique(sections[block])) == 1 for block in blocks)
    whole = [block for block in blocks if len(block) == 50]
    assert len(whole) >= 10
    spread = np.median([coordinates[block].std(axis=0).mean() for block in whole])
    assert spread == pytest.approx(np.sqrt(50 / 500 / 12), rel=0.3)  # of a square with a tenth of the area
    held_out = hold_out(coordinates, sections, fraction=0.2, split="blocks", n_blocks=4, rng=np.random.default_rng(5))
    # Each of 4 blocks lies apart, so that most held-out cells have a held-out cell of their section nearest.
    for section in (0, 1):
        own = held_out.blocks[sections[held_out.blocks] == section]
        if not len(own):
            continue
        rows = np.flatnonzero(sections == section)
        distance = np.linalg.norm(coordinates[own][:, None] - coordinates[rows][None], axis=2)
        nearest = rows[np.argsort(distance, axis=1)[:, 1]]
        assert np.isin(nearest, own).mean() > 0.7


@pytest.mark.parametrize(("split", "n_cells", "least"), [("blocks", 1, 2), ("cells", 1, 2), ("both", 2, 3)])
def test_too_few_cells_to_hold_any_out(split: Split, n_cells: int, least: int) -> None:
    with pytest.raises(TrainingError) as caught:
        hold_out(
            np.zeros((n_cells, 2)),
            np.zeros(n_cells, np.int32),
            fraction=0.1,
            split=split,
            n_blocks=10,
            rng=np.random.default_rng(0),
        )
    assert str(caught.value).startswith(f"training needs at least {least} cells, of which {least - 1} held out.")
