"""Arrays of attention as Arrow tables, and back.

=================== ================================================= =========================================
table               rows                                              columns
=================== ================================================= =========================================
attention_patterns  one per (head, cell), by head within a shard      ``neighbor_i`` float32, ``head_idx`` int16,
                                                                      ``label``, ``cell_idx`` dictionaries
nn_idxs             one per cell                                      ``neighbor_i`` int32: row of the neighbor in
                                                                      the tissue (``position`` of `cells`), −1
                                                                      where padded; ``cell_idx``
nn_dists            one per cell                                      ``neighbor_i`` float32, +inf where padded;
                                                                      ``cell_idx``
sender_norms        one per (head, cell)                              ``value_norm``, ``info_norm``, ``gene_norm``
                                                                      float32; ``head_idx``, ``cell_idx``
cells               one per cell                                      ``position`` int32, ``cell_idx``, ``label``,
                                                                      ``section``, ``x``, ``y`` (``z``)
=================== ================================================= =========================================

All tables of one attention hold the same cells in the same order, shard by shard. Strings are dictionaries: compact on
disk, categories in pandas, text in any other reader.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ResultError, listing

if TYPE_CHECKING:
    from tissue_crosstalk.core.attention import ShardAttention
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.tissue import TissueCells

METADATA_KEY: Final = b"tissue_crosstalk"
"""Under which the schema of a file says what it was made from (see :mod:`~tissue_crosstalk.core.shard_jobs`)."""

MADE_FROM: Final = "made_from"
"""Under which that says which tissue and model it was, with which parameters and versions."""

ATTENTION_COLUMNS: Final = (terms.HEAD_IDX, terms.CELL_IDX, *terms.neighbor_columns(1))
NEIGHBOR_COLUMNS: Final = (terms.CELL_IDX, *terms.neighbor_columns(1))
NORM_COLUMNS: Final = (terms.HEAD_IDX, terms.CELL_IDX, *terms.NORMS)
CELL_COLUMNS: Final = (terms.POSITION, terms.CELL_IDX, terms.LABEL, terms.SECTION, *terms.COORDINATES[:2])
"""Columns that a table must have, at least."""

MAX_EXPANSION: Final = 1000  # of a table in memory over its file: every row has a name or a number of its own
ALWAYS_ALLOWED_BYTES: Final = 2**28

_ENCODINGS: Final = MappingProxyType({pa.float32(): "BYTE_STREAM_SPLIT", pa.int32(): "DELTA_BINARY_PACKED"})


def shard_file(number: int) -> str:
    """Return the file name of a shard; names sort in the order of the shards."""
    return f"part-{number:05d}.parquet"


def _dictionary(codes: npt.NDArray[np.integer], names: Sequence[str] | npt.NDArray[np.object_]) -> pa.Array:
    values = pa.array(list(names), type=pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), values)


def _cell_names(names: npt.NDArray[np.object_], repeats: int = 1) -> pa.Array:
    return _dictionary(np.tile(np.arange(len(names), dtype=np.int32), repeats), names)


def _slots(values: npt.NDArray[np.generic]) -> dict[str, pa.Array]:
    columns = np.ascontiguousarray(values.T)
    return dict(zip(terms.neighbor_columns(len(columns)), map(pa.array, columns), strict=True))


def patterns_table(
    patterns: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    cell_types: Sequence[str],
    cell_names: npt.NDArray[np.object_],
) -> pa.Table:
    """Return attention (head, cell, neighbor) as one row per (head, cell)."""
    n_heads, n_cells, _ = patterns.shape
    others = {
        terms.HEAD_IDX: pa.array(np.repeat(np.arange(n_heads, dtype=np.int16), n_cells)),
        terms.LABEL: _dictionary(np.tile(labels, n_heads), cell_types),
        terms.CELL_IDX: _cell_names(cell_names, n_heads),
    }
    return with_slots(patterns, pa.table(others))


def with_slots(patterns: npt.NDArray[np.float32], others: pa.Table) -> pa.Table:
    """Return attention (head, cell, neighbor) with the other columns of its table, which has a row per (head, cell)."""
    columns = _slots(patterns.reshape(-1, patterns.shape[2]))
    return pa.table(columns | dict(zip(others.column_names, others.columns, strict=True)))


def neighbors_table(values: npt.NDArray[np.generic], cell_names: npt.NDArray[np.object_]) -> pa.Table:
    """Return neighbor rows or distances (cell, neighbor) as one row per cell."""
    return pa.table(_slots(values) | {terms.CELL_IDX: _cell_names(cell_names)})


def norms_table(norms: Mapping[str, npt.NDArray[np.float32]], cell_names: npt.NDArray[np.object_]) -> pa.Table:
    """Return norms (sender, head) as one row per (head, cell)."""
    n_cells, n_heads = norms[terms.VALUE_NORM].shape
    return pa.table(
        {name: pa.array(np.ascontiguousarray(norms[name].T).reshape(-1)) for name in terms.NORMS}
        | {
            terms.HEAD_IDX: pa.array(np.repeat(np.arange(n_heads, dtype=np.int16), n_cells)),
            terms.CELL_IDX: _cell_names(cell_names, n_heads),
        }
    )


def cells_table(
    positions: npt.NDArray[np.integer],
    cell_names: npt.NDArray[np.object_],
    labels: npt.NDArray[np.integer],
    cell_types: Sequence[str],
    sections: npt.NDArray[np.integer],
    section_names: Sequence[str],
    coordinates: npt.NDArray[np.float64],
) -> pa.Table:
    """Return position, name, type, section and coordinates of cells, each array (cell,) or (cell, axis)."""
    axes = {
        terms.COORDINATES[axis]: pa.array(np.ascontiguousarray(coordinates[:, axis]))
        for axis in range(coordinates.shape[1])
    }
    return pa.table(
        {
            terms.POSITION: pa.array(positions.astype(np.int32)),
            terms.CELL_IDX: _cell_names(cell_names),
            terms.LABEL: _dictionary(labels, cell_types),
            terms.SECTION: _dictionary(sections, section_names or ("",)),
        }
        | axes
    )


def shard_tables(shard: ShardAttention, cells: TissueCells, neighbors: Neighbors) -> dict[str, pa.Table]:
    """Return the tables of one shard, by name.

    Parameters
    ----------
    shard
        Attention of some receivers.
    cells
        All cells, in spatial order.
    neighbors
        Of the receivers.
    """
    rows = shard.receivers
    names = cells.cell_names[rows]
    return {
        terms.ATTENTION_PATTERNS: patterns_table(shard.patterns, cells.labels[rows], cells.cell_types, names),
        terms.NN_IDXS: neighbors_table(positions_of(neighbors.idx, cells.positions), names),
        terms.NN_DISTS: neighbors_table(neighbors.dist, names),
        terms.SENDER_NORMS: norms_table(shard.norms_of(rows), names),
        terms.CELLS: cells_table(
            cells.positions[rows],
            names,
            cells.labels[rows],
            cells.cell_types,
            cells.sections[rows],
            cells.section_names,
            cells.coordinates[rows],
        ),
    }


def write_table(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write a table so that neighbor columns and norms are small and quick to write and to read.

    Numbers are as good as random to a dictionary; but the upper bytes of floats are alike, and so are positions of
    neighbors, which two encodings of parquet's own make use of. Columns without a missing value are marked so, which
    spares a pass over them. Smallest and largest values are left out: every file has cells, heads and types of all
    kinds, and no reader could skip any by them. Every page has a checksum, so that :func:`read_table` notices where one
    has changed on the disk.

    Parameters
    ----------
    table
        Any table of this module, or another.
    path
        The file, which any parquet reader can read.
    """
    numbers = {field.name: _ENCODINGS[field.type] for field in table.schema if field.type in _ENCODINGS}
    others = [name for name in table.column_names if name not in numbers]
    fields = [
        field.with_nullable(column.null_count > 0) for field, column in zip(table.schema, table.columns, strict=True)
    ]
    pq.write_table(
        table.cast(pa.schema(fields, metadata=table.schema.metadata)),
        path,
        compression="lz4",
        use_dictionary=[name for name in others if not pa.types.is_floating(table.schema.field(name).type)],
        column_encoding=numbers,
        write_statistics=False,
        write_page_checksum=True,
    )


def open_folder(folder: str | os.PathLike[str]) -> pads.Dataset:
    """Open a folder of parquet files; what is read of it is compared with the checksums that were written.

    Files that have none, of earlier versions or of other programs, are read as they are.

    Parameters
    ----------
    folder
        The folder. Folders in it named ``<column>=<value>`` are partitions.
    """
    verified = pads.ParquetFragmentScanOptions(page_checksum_verification=True)
    format_ = pads.ParquetFileFormat(default_fragment_scan_options=verified)
    return pads.dataset(os.fspath(folder), format=format_, partitioning="hive")


def read_table(
    source: str | os.PathLike[str] | pa.NativeFile, name: str, needed: Sequence[str], *, but: Sequence[str] = ()
) -> pa.Table:
    """Read one file of a table of this module, but for some columns, each column in one piece: arrays are no copies.

    Its pages are compared with their checksums, where it has any: files of earlier versions have none.

    Parameters
    ----------
    source
        The file, or its path.
    name
        How to call it in an error.
    needed
        Columns that it must have.
    but
        Columns to leave out.

    Raises
    ------
    ResultError
        If it cannot be read, is damaged, lacks a column, has one of another type or with missing values, or declares
        more rows than its bytes can hold.
    """
    hint = "The table is damaged, or of another origin: run the stage again that writes it, into an empty folder."
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as parquet:
            known = parquet.schema_arrow.names
            size = source.size() if isinstance(source, pa.NativeFile) else Path(source).stat().st_size
            taken = 4 * parquet.metadata.num_rows * len(known)
            if taken > max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * size):
                raise ResultError(
                    f"{name} declares {parquet.metadata.num_rows} rows of {len(known)} columns, more than its {size} "
                    f"bytes can hold. {hint}"
                )
            table = parquet.read([column for column in known if column not in but])
            table.validate(full=True)
    except ResultError:
        raise
    except Exception as error:  # pyarrow's errors are of many kinds
        said = next(iter(str(error).splitlines()), "")[:200]
        if "page integrity" in said:
            raise ResultError(_damaged(name)) from error
        raise ResultError(f"{name} cannot be read ({type(error).__name__}: {said}). {hint}") from error
    missing = [column for column in needed if column not in known]
    if missing or len(set(known)) < len(known):
        raise ResultError(f"{name} must have the columns {listing(needed)} once each. It has {listing(known)}. {hint}")
    for column in table.schema:
        expected, is_right = _expected(column.name)
        n_missing = table.column(column.name).null_count
        if n_missing or not is_right(column.type):
            raise ResultError(
                f"{name}: column {column.name!r} must hold {expected}, none missing. Got {column.type}, {n_missing} "
                f"missing. {hint}"
            )
    return table


def _damaged(name: str) -> str:
    """Return what to say of a file whose values are not those that were written."""
    path = Path(name)
    # The vanilla flavor is a second name of the patterns' files, which is as damaged.
    others = (f"{terms.ATTENTION_PATTERNS}/{path.name}", f"*/{terms.FLAVOR}={terms.VANILLA}/{path.name}")
    found = {other for folder in path.parents[1:3] for pattern in others for other in folder.glob(pattern)}
    same = sorted(str(other) for other in found if other != path and path.exists() and other.samefile(path))
    return (
        f"{name} is damaged: its bytes are not those that were written (a checksum does not match). Delete "
        f"{' and '.join(['it', *same])}, and run the stage again that writes it, or the whole pipeline: this shard "
        "alone is made again. Where it happens again, have the disk and the memory of this machine checked."
    )


def _expected(column: str) -> tuple[str, Callable[[pa.DataType], bool]]:
    """Return what a column must hold, in words and as what tells its type."""
    types = pa.types
    if column in (terms.HEAD_IDX, terms.POSITION):
        return "whole numbers", types.is_signed_integer
    if column in terms.NORMS:
        return "numbers of type float", types.is_float32
    if column in terms.COORDINATES:
        return "numbers", types.is_floating
    if column in (terms.CELL_IDX, terms.LABEL, terms.SECTION):
        return "texts as a dictionary", lambda type_: types.is_dictionary(type_) and types.is_string(type_.value_type)
    if column.startswith(terms.NEIGHBOR_PREFIX):
        return "numbers of type float or int32", lambda type_: types.is_float32(type_) or types.is_int32(type_)
    return "values", lambda _: True


def positions_of(nn_idx: npt.NDArray[np.int32], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Return neighbor rows of the prepared tissue as rows of the user's tissue, (cell, neighbor); −1 stays −1."""
    return np.where(nn_idx < 0, np.int32(terms.NO_NEIGHBOR), positions[nn_idx].astype(np.int32))


def slots_array(table: pa.Table) -> npt.NDArray[Any]:
    """Return the ``neighbor_i`` columns of a table as an array, (row, neighbor).

    It is a view of an array (neighbor, row): columns lie in memory as they come, which takes a tenth of the time.
    """
    return np.stack(_slot_columns(table)).T


def n_neighbors(columns: Iterable[str]) -> int:
    """Return for how many neighbors a table has columns."""
    return sum(
        name.startswith(terms.NEIGHBOR_PREFIX) and name.removeprefix(terms.NEIGHBOR_PREFIX).isdigit()
        for name in columns
    )


def _slot_columns(table: pa.Table) -> list[npt.NDArray[Any]]:
    wanted = terms.neighbor_columns(n_neighbors(table.column_names))
    if len({table.schema.field(name).type for name in wanted if name in table.column_names}) != 1 or not set(
        wanted
    ) <= set(table.column_names):
        raise ResultError(
            f"a table of neighbors must have the columns {listing(wanted)}, of one type. It has "
            f"{listing(table.column_names)}; run the extraction again."
        )
    return [table.column(name).to_numpy() for name in wanted]


def n_heads(table: pa.Table) -> int:
    """Return the number of heads of one shard's table of attention.

    Raises
    ------
    ResultError
        If the rows are not by head, then by cell.
    """
    heads = table.column(terms.HEAD_IDX).to_numpy()
    count = int(heads.max()) + 1 if len(heads) and heads.max() < len(heads) else 0
    if count == 0 or len(heads) % count or not (heads == np.repeat(np.arange(count), len(heads) // count)).all():
        raise ResultError(
            f"a shard of attention must hold every head of the same cells, by {terms.HEAD_IDX}. Got rows in another "
            "order; run the extraction again."
        )
    return count


def patterns_array(table: pa.Table, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """Return the attention (head, cell, neighbor) of one shard's table (:func:`n_heads` says which errors).

    It is a view of an array (neighbor, head, cell), as :func:`slots_array` returns one of (neighbor, row). With `out`,
    what was returned for another table, its memory is used again where the shapes are the same.
    """
    count = n_heads(table)
    columns = _slot_columns(table)
    shape = (count, len(table) // count, len(columns))
    if out is not None and out.shape == shape:
        patterns = out
    else:
        patterns = np.empty((shape[2], *shape[:2]), dtype=np.float32).transpose(1, 2, 0)
    for slot, column in enumerate(columns):
        patterns[:, :, slot] = column.reshape(shape[:2])
    return patterns


def strongest_head(table: pa.Table) -> npt.NDArray[np.float32]:
    """Return the attention of one shard's table as the maximum over heads, (cell, neighbor)."""
    count = n_heads(table)
    return np.stack([slot.reshape(count, -1).max(axis=0) for slot in _slot_columns(table)], axis=1)


def norms_arrays(table: pa.Table) -> dict[str, npt.NDArray[np.float32]]:
    """Return the norms, each (sender, head), of one shard's table."""
    count = n_heads(table)
    return {name: table.column(name).to_numpy().reshape(count, -1).T for name in terms.NORMS}


def codes_and_names(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """Return a dictionary column as codes and their names, whatever dictionaries its chunks have."""
    whole = column.unify_dictionaries().combine_chunks()
    whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    return whole.indices.to_numpy().astype(np.int32), tuple(whole.dictionary.to_pylist())


def same_order(tables: Iterable[pa.Table]) -> bool:
    """Return whether tables of one row per cell hold the same cells in the same order."""
    names = [table.column(terms.CELL_IDX) for table in tables]
    return all(same_names(names[0], name) for name in names[1:])


def same_names(first: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    """Return whether two columns hold the same names in the same order, whatever dictionaries they have."""
    if len(first) != len(other):
        return False
    is_same: bool = first.cast(pa.string()).equals(other.cast(pa.string()))
    return is_same


def said_of(schema: pa.Schema) -> dict[str, Any]:
    """Return what a file says of itself (see :data:`METADATA_KEY`); nothing where it is of another origin."""
    try:
        said = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def run_of(schema: pa.Schema) -> str | None:
    """Return the fingerprint of the run that wrote a table; None for tables of another origin."""
    run = said_of(schema).get("run")
    return None if run is None else str(run)


def made_from(schema: pa.Schema) -> dict[str, Any]:
    """Return what a table was made from, as far as it says: hashes of tissue and model, keys, parameters, versions."""
    made = said_of(schema).get(MADE_FROM)
    return made if isinstance(made, dict) else {}
