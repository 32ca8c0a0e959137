"""Which cells are held out, and in which batches the others are trained on.

Receivers that lie together share neighbors, and a neighbor is embedded once per batch: batches are made of patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tissue_crosstalk.core.errors import TrainingError

Split = Literal["blocks", "cells", "both"]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows of the tissue that are trained on, and those that are held out, each ascending.

    Attributes
    ----------
    training
        Rows to train on.
    blocks
        Rows held out in spatial blocks; empty where none are.
    cells
        Rows held out cell by cell; empty where none are.
    """

    training: Rows
    blocks: Rows
    cells: Rows

    @property
    def deciding(self) -> Rows:
        """The rows whose validation decides when to stop: the blocks, where there are any."""
        return self.blocks if len(self.blocks) else self.cells


def hold_out(
    coordinates: npt.NDArray[np.float64],
    sections: npt.NDArray[np.int32],
    *,
    fraction: float,
    split: Split,
    n_blocks: int,
    rng: np.random.Generator,
) -> HeldOut:
    """Choose the cells that are held out for validation.

    Parameters
    ----------
    coordinates, sections
        Of all cells, (cell, axis) and (cell,).
    fraction
        Share of the cells held out.
    split
        ``blocks``: spatial blocks; the larger a block is against the reach of the neighbors, the fewer of its cells'
        neighbors are neighbors of cells that are trained on. ``cells``: random cells, nearly all of whose neighbors
        are. ``both``: half of each.
    n_blocks
        Blocks in all; a block is of one section.
    rng
        Draws the blocks and cells.

    Raises
    ------
    TrainingError
        If there are too few cells to hold any out.
    """
    n_cells = len(coordinates)
    n_kinds = 2 if split == "both" else 1
    n_held_out = max(n_kinds, round(n_cells * fraction))
    if n_cells - n_held_out < 1:
        raise TrainingError(f"training needs at least {n_kinds + 1} cells, of which {n_kinds} held out. Got {n_cells}.")
    free = np.ones(n_cells, dtype=bool)
    blocks = cells = np.empty(0, dtype=np.intp)
    if split != "cells":
        blocks = _draw_blocks(coordinates, sections, n_held_out // n_kinds, n_blocks, rng)
        free[blocks] = False
    if split != "blocks":
        left = np.flatnonzero(free)
        cells = np.sort(rng.permutation(left)[: n_held_out - len(blocks)])
        free[cells] = False
    return HeldOut(training=np.flatnonzero(free), blocks=blocks, cells=cells)


def _draw_blocks(
    coordinates: npt.NDArray[np.float64],
    sections: npt.NDArray[np.int32],
    n_held_out: int,
    n_blocks: int,
    rng: np.random.Generator,
) -> Rows:
    size = max(1, -(-n_held_out // n_blocks))
    blocks = spatial_patches(coordinates, sections, np.arange(len(coordinates)), size, rng)
    # Cuts at the rim of a section leave slivers: they are all border, so whole blocks come first.
    drawn = [blocks[index] for index in rng.permutation(len(blocks))]
    drawn.sort(key=lambda block: len(block) < size)
    return np.sort(np.concatenate(drawn)[:n_held_out])


def patch_batches(
    coordinates: npt.NDArray[np.float64],
    sections: npt.NDArray[np.int32],
    cells: Rows,
    batch_size: int,
    patch_size: int,
    rng: np.random.Generator,
) -> Iterator[Rows]:
    """Yield batches of cells in which every cell occurs once, each made of spatially compact patches.

    Parameters
    ----------
    coordinates, sections
        Of all cells, (cell, axis) and (cell,). A patch holds cells of one section.
    cells
        Rows to draw from.
    batch_size, patch_size
        Cells per batch and per patch at most; with a patch size of 1 the batches are random cells.
    rng
        Draws a rotation and offsets, so that the patches of every call are cut differently.
    """
    if patch_size == 1:
        patches = [cells[rng.permutation(len(cells))]]
    else:
        patches = spatial_patches(coordinates, sections, cells, min(patch_size, batch_size), rng)
        patches = [patches[index] for index in rng.permutation(len(patches))]
    order = np.concatenate(patches)
    n_batches = -(-len(order) // batch_size)
    yield from np.array_split(order, n_batches)


def spatial_patches(
    coordinates: npt.NDArray[np.float64],
    sections: npt.NDArray[np.int32],
    cells: Rows,
    patch_size: int,
    rng: np.random.Generator,
) -> list[Rows]:
    """Cut the cells of every section in compact patches of at most `patch_size` cells, at a random rotation and offset.

    Parameters
    ----------
    coordinates, sections
        Of all cells, (cell, axis) and (cell,). Patches are cut in the plane of the first two axes.
    cells
        Rows to cut; each is in one patch.
    patch_size
        Cells per patch; fewer at the rims.
    rng
        Draws the rotation and the offsets.
    """
    patches = []
    for section in np.unique(sections[cells]):
        patches += _patches(coordinates, cells[sections[cells] == section], patch_size, rng)
    return patches


def _patches(
    coordinates: npt.NDArray[np.float64], cells: Rows, patch_size: int, rng: np.random.Generator
) -> list[Rows]:
    """Cut the cells of one section in strips of a rotated plane, and each strip in patches, at random offsets."""
    angle = rng.uniform(0, 2 * np.pi)
    plane = coordinates[cells, :2] @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    strip_size = max(patch_size, round(math.sqrt(len(cells) * patch_size)))
    patches = []
    for strip in _cut(np.argsort(plane[:, 0], kind="stable"), strip_size, rng):
        along = strip[np.argsort(plane[strip, 1], kind="stable")]
        patches += [cells[patch] for patch in _cut(along, patch_size, rng)]
    return patches


def _cut(order: Rows, size: int, rng: np.random.Generator) -> list[Rows]:
    first = int(rng.integers(1, size + 1))
    return [part for part in np.split(order, range(first, len(order), size)) if len(part)]
