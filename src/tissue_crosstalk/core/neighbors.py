"""The nearest cells of other types, per section (candidates are all cells of another label)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from tissue_crosstalk.core.errors import NeighborError, ParameterError, listing
from tissue_crosstalk.core.terms import NO_NEIGHBOR
from tissue_crosstalk.core.threads import ahead
from tissue_crosstalk.core.tissue import TissueCells

TIED_ENTRIES_AT_ONCE = 4_000_000
"""Distances held at once while ties are resolved."""

RECEIVERS_AT_ONCE = 100_000
"""Cells whose neighbors are searched at once."""

AHEAD_BYTES = 2**28
"""Of neighbors of sections that wait to be written."""


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Neighbors of each cell, nearest first.

    Attributes
    ----------
    idx
        Row of the neighbor, int32 (cell, neighbor); −1 in a padded slot.
    dist
        Distance in units of the coordinates, float32 (cell, neighbor); +inf in a padded slot.
    """

    idx: npt.NDArray[np.int32]
    dist: npt.NDArray[np.float32]

    def labels(self, labels: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        """Return the label in each slot, (cell, neighbor); −1 in a padded slot."""
        return np.where(self.idx < 0, np.int16(NO_NEIGHBOR), labels[self.idx])


def renumber(
    nn_idx: npt.NDArray[np.int32], others: npt.NDArray[np.integer] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return the rows that occur in some slots, which lie close together, and the slots with these numbered.

    Parameters
    ----------
    nn_idx
        Row in each slot, (cell, neighbor); −1 where padded.
    others
        Rows that are numbered as well, (row,).

    Returns
    -------
    rows
        Each row once, ascending, (sender,).
    numbers
        Which of `rows` is in each slot, (cell, neighbor); −1 where padded. It lies in memory as `nn_idx` does.

    Examples
    --------
    >>> renumber(np.array([[7, 5], [5, -1]], dtype=np.int32), np.array([6]))
    (array([5, 6, 7]), array([[ 2,  0],
           [ 0, -1]], dtype=int32))
    """
    given = np.zeros(0, dtype=np.int64) if others is None else others
    padded = nn_idx < 0
    has_padding = bool(padded.any())
    stop = 1 + max(int(nn_idx.max(initial=NO_NEIGHBOR)), int(given.max(initial=NO_NEIGHBOR)))
    first = min(int(nn_idx.min(where=~padded, initial=stop)), int(given.min(initial=stop)))
    # Tables over the range of rows that occur: to sort all edges takes longer. Padded slots have a place of their own.
    places = nn_idx - np.int32(first)
    if has_padding:
        places[padded] = stop - first
    occurs = np.zeros(stop - first + 1, dtype=bool)
    occurs[places.ravel(order="K")] = True
    occurs[given - first] = True
    rows = np.flatnonzero(occurs[:-1])
    number = np.full(len(occurs), NO_NEIGHBOR, dtype=np.int32)
    number[rows] = np.arange(len(rows), dtype=np.int32)
    return rows + first, number[places]


def find_neighbors(tissue: TissueCells, n_neighbors: int, *, pad: bool = False) -> Neighbors:
    """Find the nearest cells of another type in the same section.

    Parameters
    ----------
    tissue
        Cells with labels, coordinates, sections and, if set, radii.
    n_neighbors
        Neighbors per cell.
    pad
        Where a (section, type) has fewer candidates, leave slots empty instead of raising.

    Returns
    -------
    Neighbors
        Equally distant cells come in the order of the user's tissue. With radii the distance is
        ``max(0, centre distance - both radii)``; choice and order stay by centre distance.

    Raises
    ------
    ParameterError
        If `n_neighbors` is below 1.
    NeighborError
        If a (section, type) has fewer than `n_neighbors` candidates and `pad` is not set.

    Examples
    --------
    Four cells on a line; neighbors are of another type, nearest first:

    >>> import numpy as np
    >>> import pandas as pd
    >>> from anndata import AnnData
    >>> from tissue_crosstalk.core.model import TissueKeys
    >>> from tissue_crosstalk.core.tissue import prepare_tissue
    >>> obs = pd.DataFrame({"cell_type": ["T", "B", "T", "B"]}, index=["t0", "b1", "t3", "b7"])
    >>> places = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [7.0, 0.0]])
    >>> adata = AnnData(np.ones((4, 2), dtype=np.float32), obs=obs, obsm={"spatial": places})
    >>> tissue = prepare_tissue(adata, TissueKeys(), log_normalised=False)
    >>> found = find_neighbors(tissue, 2)
    >>> rows = tissue.in_tissue_order()  # cells are held in spatial order
    >>> tissue.cell_names[found.idx[rows]].tolist()
    [['b1', 'b7'], ['t0', 't3'], ['b1', 'b7'], ['t3', 't0']]
    >>> found.dist[rows].tolist()
    [[1.0, 7.0], [1.0, 2.0], [2.0, 4.0], [4.0, 7.0]]
    """
    idx = np.empty((tissue.n_cells, n_neighbors if n_neighbors > 0 else 0), dtype=np.int32)
    dist = np.empty(idx.shape, dtype=np.float32)
    with neighbors_by_section(tissue, n_neighbors, pad=pad) as by_section:
        for cells, found in by_section:
            idx[cells], dist[cells] = found.idx, found.dist
    return Neighbors(idx, dist)


@contextmanager
def neighbors_by_section(
    tissue: TissueCells, n_neighbors: int, *, pad: bool = False
) -> Iterator[Iterator[tuple[npt.NDArray[np.intp], Neighbors]]]:
    """Search the neighbors of each section from now on, beside what is done meanwhile.

    All sections are checked before the first is searched. Memory is that of the section that is taken, and of others up
    to :data:`AHEAD_BYTES`; a larger one is searched when it is asked for.

    Yields
    ------
    Iterator
        Of the rows of each section's cells and their neighbors, as :func:`find_neighbors` has them.
    """
    check_neighbors(tissue, n_neighbors, pad=pad)
    sizes = _sizes(tissue).sum(axis=1)

    def search(section: int) -> tuple[npt.NDArray[np.intp], Neighbors]:
        cells = np.flatnonzero(tissue.sections == section)
        return cells, _neighbors_within(tissue, cells, n_neighbors)

    with ahead(
        search,
        range(len(sizes)),
        bytes_of=lambda section: 8 * int(sizes[section]) * (n_neighbors + 1),
        most_bytes=AHEAD_BYTES,
    ) as found:
        yield found


def typical_distance(dist: npt.NDArray[np.float32]) -> float | None:
    """Return the median distance to the nearest neighbor, of those that are not at the very same place.

    Parameters
    ----------
    dist
        Distances, nearest first, (cell, neighbor).

    Returns
    -------
    float or None
        None where there is none.

    Examples
    --------
    The nearest are at 2, 4, 0 (at the very same place) and 8, of which the 0 does not count:

    >>> import numpy as np
    >>> typical_distance(np.array([[2.0, 9.0], [4.0, 9.0], [0.0, 9.0], [8.0, 9.0]], dtype=np.float32))
    4.0
    """
    nearest = dist[:, 0]
    nearest = nearest[np.isfinite(nearest) & (nearest > 0)]
    return float(np.median(nearest)) if len(nearest) else None


def check_neighbors(tissue: TissueCells, n_neighbors: int, *, pad: bool = False) -> None:
    """Raise as :func:`find_neighbors` does, without searching."""
    if n_neighbors < 1:
        raise ParameterError(f"n_neighbors must be at least 1. Got {n_neighbors} instead.")
    if not pad:
        _refuse_too_few(tissue, n_neighbors)


def check_any_neighbor(tissue: TissueCells) -> None:
    """Raise :class:`NeighborError` where no cell has any candidate, so that there is nothing to attend to."""
    sizes = _sizes(tissue)
    if (sizes.sum(axis=1) == sizes.max(axis=1)).all():
        present = [tissue.cell_types[label] for label in np.unique(tissue.labels)]
        each = f" in each of {len(tissue.section_names)} sections" if tissue.section_names else ""
        raise NeighborError(
            f"no cell has a neighbor: neighbors are of another cell type in the same section. Got one cell type{each} "
            f"({listing(present)}). Check labels_key and section_key."
        )


def _neighbors_within(tissue: TissueCells, cells: npt.NDArray[np.intp], n_neighbors: int) -> Neighbors:
    """Return the neighbors of a section's cells, whose rows are ascending."""
    idx = np.full((len(cells), n_neighbors), NO_NEIGHBOR, dtype=np.int32)
    dist = np.full((len(cells), n_neighbors), np.inf, dtype=np.float32)
    labels = tissue.labels[cells]
    present = np.unique(labels)
    # The next tree is built while this one is asked: building takes one thread, asking all of them.
    with ThreadPoolExecutor(1) as builder:
        following = [builder.submit(_tree, tissue, cells[labels != label]) for label in present[:1]]
        for number, label in enumerate(present):
            tree, ordered = following.pop().result()
            following += [
                builder.submit(_tree, tissue, cells[labels != later]) for later in present[number + 1 : number + 2]
            ]
            k = min(n_neighbors, len(ordered))
            if tree is None:
                continue
            receivers = np.flatnonzero(labels == label)  # within the section
            for start in range(0, len(receivers), RECEIVERS_AT_ONCE):
                rows = receivers[start : start + RECEIVERS_AT_ONCE]
                found_dist, found = _nearest(tree, tissue.coordinates[cells[rows]], k)
                nearest = ordered[found]
                if tissue.radii is not None:
                    found_dist = np.maximum(0.0, found_dist - (tissue.radii[cells[rows], None] + tissue.radii[nearest]))
                idx[rows, :k], dist[rows, :k] = nearest, found_dist
    return Neighbors(idx, dist)


def _tree(tissue: TissueCells, candidates: npt.NDArray[np.intp]) -> tuple[KDTree[None] | None, npt.NDArray[np.intp]]:
    # Candidates by position, so that of equally distant ones the smaller row is the earlier cell.
    ordered = candidates[np.argsort(tissue.positions[candidates])]
    if not len(ordered):
        return None, ordered
    return KDTree(tissue.coordinates[ordered], compact_nodes=False, balanced_tree=False), ordered


def _sizes(tissue: TissueCells) -> npt.NDArray[np.int64]:
    """Return the number of cells of each type in each section, (section, type)."""
    n_sections, n_types = max(1, len(tissue.section_names)), len(tissue.cell_types)
    group = tissue.sections.astype(np.int64) * n_types + tissue.labels
    return np.bincount(group, minlength=n_sections * n_types).reshape(n_sections, n_types)


def _refuse_too_few(tissue: TissueCells, n_neighbors: int) -> None:
    sizes = _sizes(tissue)
    candidates = sizes.sum(axis=1, keepdims=True) - sizes
    short = []
    for section, label in zip(*np.nonzero((sizes > 0) & (candidates < n_neighbors)), strict=True):
        name = f"cell type {tissue.cell_types[label]!r}"
        if tissue.section_names:
            name += f" in section {tissue.section_names[section]!r}"
        short.append(f"{name} ({sizes[section, label]} cells) has {candidates[section, label]}")
    if short:
        more = f"; and {len(short) - 8} more" if len(short) > 8 else ""
        raise NeighborError(
            f"every cell type needs at least n_neighbors = {n_neighbors} cells of other types as candidates, but "
            f"{'; '.join(short[:8])}{more}. Lower n_neighbors, drop these cells, or set pad_neighbors=true."
        )


def _nearest(
    tree: KDTree, points: npt.NDArray[np.float64], k: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Return distances and rows of the `k` nearest, (point, k), ties by row."""
    # One more than asked for shows whether the last place is tied.
    dist, found = _query(tree, points, min(k + 1, tree.n))
    tied = np.flatnonzero(dist[:, k - 1] == dist[:, k]) if tree.n > k else np.empty(0, dtype=np.intp)
    dist, found = dist[:, :k].copy(), found[:, :k].copy()
    n_asked = k + 1
    while len(tied):
        n_asked = min(2 * n_asked, tree.n)
        unresolved = []
        for part in np.array_split(tied, -(-len(tied) * n_asked // TIED_ENTRIES_AT_ONCE)):
            part_dist, part_found = _query(tree, points[part], n_asked)
            dist[part], found[part] = part_dist[:, :k], part_found[:, :k]
            if n_asked < tree.n:
                unresolved.append(part[part_dist[:, k - 1] == part_dist[:, -1]])
        tied = np.concatenate(unresolved) if unresolved else np.empty(0, dtype=np.intp)
    return dist, found


def _query(
    tree: KDTree, points: npt.NDArray[np.float64], k: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Return distances and rows, (point, k), ordered by distance, then row."""
    queried = tree.query(points, k=np.arange(1, k + 1), workers=-1)
    dist, found = np.asarray(queried[0], dtype=np.float64), np.asarray(queried[1], dtype=np.intp)
    tied = np.flatnonzero((dist[:, 1:] == dist[:, :-1]).any(axis=1))
    if len(tied):
        order = np.lexsort((found[tied], dist[tied]), axis=1)
        dist[tied] = np.take_along_axis(dist[tied], order, axis=1)
        found[tied] = np.take_along_axis(found[tied], order, axis=1)
    return dist, found
