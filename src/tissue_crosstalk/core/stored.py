"""Attention as it lies in parquet folders: read a shard at a time, checked against each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
from pyarrow.fs import LocalFileSystem

from tissue_crosstalk.core import tables, terms
from tissue_crosstalk.core.errors import ResultError, TissueError, listing
from tissue_crosstalk.core.flavors import FLAVORS
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.strong_edges import StrengthShard
from tissue_crosstalk.core.tissue import cell_columns

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class CellsFile:
    """The cells of one file of the table of cells.

    Attributes
    ----------
    names
        ``cell_idx`` as it is stored, (cell,).
    positions
        Rows of the tissue, int64 (cell,).
    """

    names: pa.ChunkedArray
    positions: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a tissue, in its order.

    Attributes
    ----------
    names
        ``obs_names``, (cell,).
    labels
        Index into `cell_types`, int16 (cell,).
    cell_types
        Names of the labels.
    sections, section_names
        Index into the names, int32 (cell,); one section without a name where the tissue has no section key.
    coordinates
        float64 (cell, axis).
    files
        What each file of the table holds: a shard of the same cells needs no search for their positions.
    keys
        Where the tissue held types, sections and coordinates; None where the table does not say.
    """

    names: npt.NDArray[np.object_]
    labels: npt.NDArray[np.int16]
    cell_types: tuple[str, ...]
    sections: npt.NDArray[np.int32]
    section_names: tuple[str, ...]
    coordinates: npt.NDArray[np.float64]
    files: tuple[CellsFile, ...] = ()
    keys: TissueKeys | None = None

    @classmethod
    def read(cls, cells: pads.Dataset) -> Cells:
        """Read the table of cells.

        Raises
        ------
        ResultError
            If it does not hold every position of a tissue exactly once.
        """
        parts = [_read(file, tables.CELL_COLUMNS) for file in shard_files(cells)]
        try:
            table = pa.concat_tables(parts)
        except pa.ArrowInvalid as error:
            raise ResultError(
                f"the files of table {terms.CELLS!r} must have the same columns. They do not: run the extraction again."
            ) from error
        positions = table.column(terms.POSITION).to_numpy()
        order = _inverse(positions)
        labels, cell_types = tables.codes_and_names(table.column(terms.LABEL))
        sections, section_names = tables.codes_and_names(table.column(terms.SECTION))
        if len(cell_types) > np.iinfo(np.int16).max:
            raise ResultError(f"table {terms.CELLS!r} has {len(cell_types)} cell types. Run the extraction again.")
        axes = [axis for axis in terms.COORDINATES if axis in table.column_names]
        names = table.column(terms.CELL_IDX).cast(pa.string()).to_numpy(zero_copy_only=False)
        starts = np.cumsum([len(part) for part in parts])[:-1]
        return cls(
            names=names.astype(object, copy=False)[order],
            labels=labels.astype(np.int16)[order],
            cell_types=cell_types,
            sections=sections[order],
            section_names=section_names,
            coordinates=np.stack([table.column(axis).to_numpy()[order] for axis in axes], axis=1),
            files=tuple(
                CellsFile(part.column(terms.CELL_IDX), own.astype(np.int64))
                for part, own in zip(parts, np.split(positions, starts), strict=True)
            ),
            keys=_keys(table.schema),
        )

    def table(self) -> pa.Table:
        """Return the table that :meth:`read` reads."""
        return tables.cells_table(
            np.arange(len(self.names)),
            self.names,
            self.labels,
            self.cell_types,
            self.sections,
            self.section_names,
            self.coordinates,
        )

    def section_of_cells(self) -> npt.NDArray[np.object_] | None:
        """Return the name of each cell's section, (cell,); None for a tissue of one section."""
        if len(self.section_names) < 2:
            return None
        return np.array(self.section_names, dtype=object)[self.sections]

    def positions(self, names: pa.ChunkedArray, shard: int | None = None) -> npt.NDArray[np.int64]:
        """Return the positions of cells given by name.

        Parameters
        ----------
        names
            Names, (cell,).
        shard
            Number of the shard that they are of. Where the file of that number holds the same cells, their positions
            are known; otherwise, or for None, each is looked up.

        Raises
        ------
        ResultError
            If a name is unknown.
        """
        if shard is not None and shard < len(self.files) and tables.same_names(self.files[shard].names, names):
            return self.files[shard].positions
        if not self._places.is_unique:
            raise ResultError(f"table {terms.CELLS!r} must hold every cell's name once. Run the extraction again.")
        texts = names.cast(pa.string()).to_numpy(zero_copy_only=False)
        places = self._places.get_indexer(pd.Index(texts, dtype=object))
        if (places < 0).any():
            raise ResultError(
                f"the tables hold cells that table {terms.CELLS!r} does not know: they are of different runs. "
                "Run the extraction again."
            )
        return places.astype(np.int64)

    @cached_property
    def _places(self) -> pd.Index[str]:
        """The names with a hash table, made once for all shards."""
        return pd.Index(self.names, dtype=object)


def _keys(schema: pa.Schema) -> TissueKeys | None:
    """Return the keys that the table of cells says its tissue was read by."""
    try:
        return TissueKeys(**tables.made_from(schema)["keys"])
    except (KeyError, TypeError):
        return None


def _inverse(positions: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return which row holds each position, (position,); raise :class:`ResultError` unless each occurs once."""
    rows = np.full(len(positions), -1, dtype=np.int64)
    if len(positions) and positions.min() >= 0 and positions.max() < len(positions):
        rows[positions] = np.arange(len(positions))
    if (rows < 0).any():
        raise ResultError(
            f"table {terms.CELLS!r} must hold every {terms.POSITION} from 0 to {len(positions) - 1} once. "
            "Some are missing or repeated; run the extraction again."
        )
    return rows


@dataclass(frozen=True, eq=False)
class StoredShard:
    """One shard of attention.

    Arrays with an axis of neighbors are views whose first axis in memory is that one, as the columns of the tables are.

    Attributes
    ----------
    receivers
        Positions of the receivers, int64 (cell,).
    attention
        In whichever flavor was read, float32 (head, cell, neighbor).
    nn_idx
        Positions of the neighbors, int32 (cell, neighbor); −1 where padded.
    nn_dist
        Distances, float32 (cell, neighbor), +inf where padded; None where not asked for.
    """

    receivers: npt.NDArray[np.int64]
    attention: npt.NDArray[np.float32]
    nn_idx: npt.NDArray[np.int32]
    nn_dist: npt.NDArray[np.float32] | None

    def sender_labels(self, cells: Cells) -> npt.NDArray[np.int16]:
        """Return the label in each slot, (cell, neighbor); −1 where padded."""
        return sender_labels(self.nn_idx, cells)


def sender_labels(nn_idx: npt.NDArray[np.int32], cells: Cells) -> npt.NDArray[np.int16]:
    """Return the label of each neighbor, (cell, neighbor); −1 where padded."""
    # What is looked up for a padded slot, −1, is one past the last cell.
    return np.append(cells.labels, np.int16(terms.NO_NEIGHBOR))[nn_idx]


def read_shards(
    attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    cells: Cells,
    *,
    nn_dists: pads.Dataset | None = None,
    flavor: str | None = None,
) -> Iterator[StoredShard]:
    """Read attention a shard at a time.

    Parameters
    ----------
    attention
        Folder of ``attention_patterns``, or of flavored attention.
    nn_idxs, nn_dists
        Folders of the neighbors.
    cells
        All cells of the tissue.
    flavor
        Which flavor of a folder of flavored attention; None: the folder has no flavors.

    Raises
    ------
    ResultError
        If a folder lacks shards, or shards are of different cells.
    """
    for neighbors, attention_table in _tables_of_shards(attention, nn_idxs, nn_dists, flavor):
        yield neighbors.with_attention(attention_table, cells)


@dataclass(frozen=True)
class ShardFiles:
    """The files of one shard.

    Attributes
    ----------
    number
        Number of the shard.
    attention, nn_idx, nn_dist
        One file of each folder; `nn_dist` may be None.
    """

    number: int
    attention: pads.Fragment
    nn_idx: pads.Fragment
    nn_dist: pads.Fragment | None

    def n_heads(self) -> int:
        """Return the number of heads, at least 1, without reading a row."""
        return max(int(self.attention.count_rows()) // max(int(self.nn_idx.count_rows()), 1), 1)

    def read_neighbors(self) -> ShardNeighbors:
        """Read the neighbors; raise :class:`ResultError` if their tables are not of the same cells."""
        neighbors = ShardNeighbors(
            self.number,
            _read(self.nn_idx, tables.NEIGHBOR_COLUMNS),
            None if self.nn_dist is None else _read(self.nn_dist, tables.NEIGHBOR_COLUMNS),
        )
        neighbors.check(neighbors.nn_idx if neighbors.nn_dist is None else neighbors.nn_dist)
        return neighbors

    def read(self) -> tuple[ShardNeighbors, pa.Table]:
        """Read neighbors and attention; raise :class:`ResultError` if they are not of the same cells."""
        neighbors = self.read_neighbors()
        return neighbors, neighbors.read_attention(self.attention)


@dataclass(frozen=True, eq=False)
class ShardNeighbors:
    """The neighbors of the cells of one shard.

    Attributes
    ----------
    number
        Number of the shard.
    nn_idx, nn_dist
        See :mod:`tissue_crosstalk.core.tables`; `nn_dist` may be None.
    """

    number: int
    nn_idx: pa.Table
    nn_dist: pa.Table | None

    def receivers(self, cells: Cells) -> npt.NDArray[np.int64]:
        """Return the positions of the cells, (cell,)."""
        return cells.positions(self.nn_idx.column(terms.CELL_IDX), self.number)

    def slots(self, cells: Cells) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32] | None]:
        """Return positions of and distances to the neighbors, (cell, neighbor), as of :class:`StoredShard`.

        Raises
        ------
        ResultError
            If neighbors are cells that there are not, or the distances are not of as many.
        """
        nn_idx = tables.slots_array(self.nn_idx)
        nn_dist = None if self.nn_dist is None else tables.slots_array(self.nn_dist)
        is_within = nn_idx.dtype == np.int32 and (
            not nn_idx.size or (nn_idx.min() >= terms.NO_NEIGHBOR and nn_idx.max() < len(cells.names))
        )
        if not is_within or (nn_dist is not None and (nn_dist.shape != nn_idx.shape or nn_dist.dtype != np.float32)):
            raise ResultError(
                f"shard {self.number} of {terms.NN_IDXS!r} must name cells of table {terms.CELLS!r}, and "
                f"{terms.NN_DISTS!r} a distance to each. They do not: run the extraction again."
            )
        return nn_idx, nn_dist

    def with_attention(self, attention: pa.Table, cells: Cells) -> StoredShard:
        """Return the tables as arrays."""
        return StoredShard(self.receivers(cells), tables.patterns_array(attention), *self.slots(cells))

    def check(self, others: pa.Table) -> None:
        """Raise :class:`ResultError` unless a table of one row per cell is of the same cells."""
        if not tables.same_order([self.nn_idx, others]):
            raise ResultError(f"shard {self.number} of the tables holds different cells: they are of different runs.")
        if tables.run_of(self.nn_idx.schema) != tables.run_of(others.schema):
            raise ResultError(
                f"shard {self.number} of the tables was made from different tissues, models or parameters: they are of "
                "different runs. Run the extraction and the flavoring again."
            )

    def read_attention(self, file: pads.Fragment) -> pa.Table:
        """Read attention, but for its labels; raise :class:`ResultError` unless it is of the same cells."""
        table = _read(file, tables.ATTENTION_COLUMNS, but=(terms.LABEL,))
        self.check(table.slice(0, len(table) // tables.n_heads(table)))
        slots = [name for name in self.nn_idx.column_names if name.startswith(terms.NEIGHBOR_PREFIX)]
        wrong = [
            name for name in slots if name not in table.column_names or table.schema.field(name).type != pa.float32()
        ]
        if wrong or len(slots) != sum(name.startswith(terms.NEIGHBOR_PREFIX) for name in table.column_names):
            raise ResultError(
                f"shard {self.number} of attention must have a column of type float for each neighbor, "
                f"{listing(slots)}. It has {listing(table.column_names)}: run the extraction again."
            )
        return table


def files_of_shards(
    attention: pads.Dataset, nn_idxs: pads.Dataset, nn_dists: pads.Dataset | None, flavor: str | None
) -> list[ShardFiles]:
    """Return the files of every shard (see :func:`read_shards`)."""
    attention_files = shard_files(attention, flavor)
    idx_files = shard_files(nn_idxs)
    dist_files = shard_files(nn_dists) if nn_dists is not None else None
    counts = {len(attention_files), len(idx_files)} | ({len(dist_files)} if dist_files is not None else set())
    if len(counts) > 1 or 0 in counts:
        what = f"attention of flavor {flavor!r}" if flavor else terms.ATTENTION_PATTERNS
        raise ResultError(
            f"{what} has {len(attention_files)} shards and {terms.NN_IDXS} has {len(idx_files)}"
            + ("" if dist_files is None else f" and {terms.NN_DISTS} has {len(dist_files)}")
            + ": they must be of one run, and not empty. Run the extraction again."
        )
    by_shard = zip(attention_files, idx_files, dist_files or [None] * len(idx_files), strict=True)
    return [ShardFiles(number, *files) for number, files in enumerate(by_shard)]


def _tables_of_shards(
    attention: pads.Dataset, nn_idxs: pads.Dataset, nn_dists: pads.Dataset | None, flavor: str | None
) -> Iterator[tuple[ShardNeighbors, pa.Table]]:
    """Read a shard while the one before is worked on (see :func:`read_shards`)."""
    with ThreadPoolExecutor(1) as reader:
        waiting: Future[tuple[ShardNeighbors, pa.Table]] | None = None
        for files in files_of_shards(attention, nn_idxs, nn_dists, flavor):
            following = reader.submit(files.read)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


Kept = TypeVar("Kept")

HELD_BYTES: Final = 2**30
"""Memory for shards that are read more than once; a tissue that needs more is read from disk again."""


class StoredStrength:
    """Stored attention as the maximum over heads, a shard at a time, to be read as often as wanted.

    Parameters
    ----------
    attention, nn_idxs, cells, nn_dists, flavor
        See :func:`read_shards`, also for the errors.
    """

    def __init__(
        self,
        attention: pads.Dataset,
        nn_idxs: pads.Dataset,
        cells: Cells,
        *,
        nn_dists: pads.Dataset | None = None,
        flavor: str | None = None,
    ) -> None:
        self._datasets = (attention, nn_idxs, nn_dists, flavor)
        self._cells = cells
        self._held: list[StrengthShard] | None = None

    def __iter__(self) -> Iterator[StrengthShard]:
        """Read all shards."""
        if self._held is not None:
            yield from self._held
            return
        held: Held[StrengthShard] = Held()
        for neighbors, attention in _tables_of_shards(*self._datasets):
            nn_idx, nn_dist = neighbors.slots(self._cells)
            strength = StrengthShard(
                neighbors.receivers(self._cells),
                tables.strongest_head(attention),
                np.ascontiguousarray(nn_idx),
                None if nn_dist is None else np.ascontiguousarray(nn_dist),
            )
            held.add(strength, strength.n_bytes)
            yield strength
        self._held = held.shards


class Held(Generic[Kept]):
    """Shards kept for the next time, or none of them where they need too much memory."""

    def __init__(self) -> None:
        self.shards: list[Kept] | None = []
        self._size = 0

    def add(self, shard: Kept, n_bytes: int) -> None:
        """Keep a shard of so many bytes."""
        self._size += n_bytes
        if self.shards is not None and self._size <= HELD_BYTES:
            self.shards.append(shard)
        else:
            self.shards = None


def read_norms(sender_norms: pads.Dataset, cells: Cells) -> dict[str, npt.NDArray[np.float32]]:
    """Read the norms of all senders, each (position, head); NaN for cells that have none."""
    norms: dict[str, npt.NDArray[np.float32]] = {}
    for number, file in enumerate(shard_files(sender_norms)):
        table = _read(file, tables.NORM_COLUMNS)
        arrays = tables.norms_arrays(table)
        n_cells = len(arrays[terms.VALUE_NORM])
        positions = cells.positions(table.column(terms.CELL_IDX).slice(0, n_cells), number)
        for name, array in arrays.items():
            whole = norms.setdefault(name, np.full((len(cells.names), array.shape[1]), np.nan, dtype=np.float32))
            whole[positions] = array
    return norms


def strongest_head(
    attention: pads.Dataset, nn_idxs: pads.Dataset, cells: Cells, flavor: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Return receivers, their attention as the maximum over heads, and their neighbors.

    Returns
    -------
    receivers
        Positions, ascending, (cell,).
    strength
        float32 (cell, neighbor).
    nn_idx
        Positions of the neighbors, int32 (cell, neighbor).
    """
    n_cells = len(cells.names)
    is_known = np.zeros(n_cells, dtype=bool)
    strength, nn_idx = np.zeros((n_cells, 0), np.float32), np.zeros((n_cells, 0), np.int32)
    for neighbors, table in _tables_of_shards(attention, nn_idxs, None, flavor):
        rows, (own, _) = neighbors.receivers(cells), neighbors.slots(cells)
        if not is_known.any():
            strength = np.zeros((n_cells, own.shape[1]), np.float32)
            nn_idx = np.full(strength.shape, terms.NO_NEIGHBOR, np.int32)
        is_known[rows], strength[rows], nn_idx[rows] = True, tables.strongest_head(table), own
    receivers = np.flatnonzero(is_known)
    if len(receivers) < n_cells:
        strength, nn_idx = strength[receivers], nn_idx[receivers]
    return receivers, strength, nn_idx


def stored_flavors(attention: pads.Dataset) -> list[str]:
    """Return the flavors of a folder of flavored attention, in the order of :data:`flavors.FLAVORS`."""
    return [flavor for flavor in FLAVORS if shard_files(attention, flavor)]


def shard_files(dataset: pads.Dataset, flavor: str | None = None) -> list[pads.Fragment]:
    """Return the files of a folder of shards, those of one flavor where it is named, in order."""
    wanted = None if flavor is None else pads.field(terms.FLAVOR) == flavor
    return sorted(dataset.get_fragments(filter=wanted), key=lambda fragment: str(fragment.path))


def _read(file: pads.Fragment, needed: Sequence[str], *, but: Sequence[str] = ()) -> pa.Table:
    """Read one file (see :func:`tables.read_table`)."""
    is_local = isinstance(file.filesystem, LocalFileSystem)
    try:
        source = pa.memory_map(file.path) if is_local else file.filesystem.open_input_file(file.path)
    except OSError as error:  # an empty file, say
        raise ResultError(f"{file.path} cannot be read: {error}. Run the stage again that writes it.") from error
    with source:
        return tables.read_table(source, file.path, needed, but=but)


def check_same_tissue(cells: Cells, tissue: AnnData) -> None:
    """Raise :class:`ResultError` unless the tissue has exactly these cells, of the same types at the same places."""
    check_same_cells(cells, tissue.obs_names.astype(str).to_numpy(dtype=object))
    if cells.keys is None:
        return
    try:
        found = cell_columns(tissue, cells.keys, cells.cell_types)
    except TissueError as error:
        raise ResultError(f"the results are of another tissue, or this one has been changed: {error}") from error
    names = np.array(cells.section_names or ("",), dtype=object)
    for what, now, then in (
        ("cell types", found.labels, cells.labels),
        ("sections", np.array(found.section_names or ("",), dtype=object)[found.sections], names[cells.sections]),
        ("coordinates", found.coordinates, cells.coordinates),
    ):
        if now.shape != then.shape or (now != then).any():
            different = "all" if now.shape != then.shape else (now != then).reshape(len(now), -1).any(axis=1).sum()
            raise ResultError(
                f"the results are of another tissue, or this one has been changed: the {what} of {different} of "
                f"{len(now)} cells differ from those that the attention was extracted from. Run the extraction again "
                "with this tissue, or give the tissue that the results are of."
            )


def check_same_cells(cells: Cells, names: npt.NDArray[np.object_] | Sequence[str]) -> None:
    """Raise :class:`ResultError` unless the tissue has exactly these cells, in this order."""
    if len(names) != len(cells.names) or not (np.asarray(names, dtype=object) == cells.names).all():
        raise ResultError(
            f"the results are of another tissue: they hold {len(cells.names)} cells, the tissue {len(names)}, or their "
            "names differ. Run the extraction again with this tissue."
        )


def attention_sizes(attention_patterns: pads.Dataset, cells: pads.Dataset) -> dict[str, int]:
    """Return the numbers of cells, heads, neighbors and cell types of stored attention."""
    n_cells, n_rows = cells.count_rows(), attention_patterns.count_rows()
    first = _read(shard_files(cells)[0], tables.CELL_COLUMNS)
    return {
        "cells": n_cells,
        "heads": n_rows // n_cells,
        "neighbors": sum(name.startswith(terms.NEIGHBOR_PREFIX) for name in attention_patterns.schema.names),
        "cell types": len(tables.codes_and_names(first.column(terms.LABEL))[1]),
    }
