"""Rows of an expression matrix, in memory or on disk, in parts: the rows of one cell type, say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tissue_crosstalk.core.threads import in_order, threads

HELD_VALUES: Final = 150_000_000
"""Values other than 0 that are held of what is read from disk, at most; but no part is read in pieces.

They take 6 bytes each, of more than 65,535 genes 8: 0.9 GB.
"""

_READ_AT_ONCE: Final = 1_000_000  # values: few enough to be sorted into parts in the cache


class StoredRows(Protocol):
    """A sparse matrix on disk, (row, gene), as anndata opens it: contiguous rows of it are read quickly."""

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and genes."""
        ...

    @property
    def group(self) -> Any:
        """The group of the file: ``data`` and ``indices`` of the values, ``indptr`` says where rows begin."""
        ...


InMemory = sparse.csr_matrix | npt.NDArray[np.floating]
Expression = StoredRows | InMemory
ReadRows = Callable[[], "sparse.csr_matrix | npt.NDArray[np.float64]"]


def parts_of_rows(expression: Expression, parts: Sequence[npt.NDArray[np.integer]]) -> Iterator[list[ReadRows]]:
    """Make parts of the rows available, several at a time.

    Parameters
    ----------
    expression
        (row, gene). In memory, rows are copied when a part is asked for. On disk, all rows are read in their order, as
        often as it takes to hold no more than :data:`HELD_VALUES` at a time.
    parts
        Rows of each part, each (row,), in any order; no row is in two of them.

    Yields
    ------
    list
        For the next parts a function each, that returns the rows in the order asked for as a matrix (row, gene). What
        it needs is held as long as the function is.
    """
    if sparse.issparse(expression) or isinstance(expression, np.ndarray):
        yield [partial(_rows_in_memory, expression, rows) for rows in parts]
        return
    starts = np.asarray(expression.group["indptr"][:], dtype=np.int64)
    part_of_row = np.full(expression.shape[0], -1, dtype=np.int32)
    for number, rows in enumerate(parts):
        part_of_row[rows] = number
    n_values = np.bincount(part_of_row + 1, weights=np.diff(starts), minlength=len(parts) + 1)[1:]
    first = 0
    while first < len(parts):
        fitting = np.searchsorted(np.cumsum(n_values[first:]), HELD_VALUES, side="right")
        some = range(first, min(first + max(1, int(fitting)), len(parts)))
        yield _read(expression, starts, part_of_row, parts, some)
        first = some.stop


def _rows_in_memory(expression: InMemory, rows: npt.NDArray[np.integer]) -> sparse.csr_matrix:
    return sparse.csr_matrix(expression[rows])


@dataclass(eq=False)
class _Part:
    """Rows of a part in the order of the file, in pieces, each (value,), and how many values rows have, (row,)."""

    values: list[npt.NDArray[np.generic]] = field(default_factory=list)
    genes: list[npt.NDArray[np.integer]] = field(default_factory=list)
    lengths: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def add(self, matrix: sparse.csr_matrix, own: slice) -> None:
        """Take over rows of a matrix: its memory is held, but for the numbers of the genes, where they fit half."""
        stored = slice(matrix.indptr[own.start], matrix.indptr[own.stop])
        self.values.append(matrix.data[stored])
        few = matrix.shape[1] <= np.iinfo(np.uint16).max
        self.genes.append(matrix.indices[stored].astype(np.uint16 if few else np.int32))
        self.lengths.append(np.diff(matrix.indptr[own.start : own.stop + 1]).astype(np.int64))

    def rows(self, order: npt.NDArray[np.intp], n_genes: int) -> sparse.csr_matrix:
        """Return the rows in another order, (row, gene)."""
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(self.lengths))])
        genes = np.concatenate(self.genes).astype(np.int32)
        matrix = sparse.csr_matrix((np.concatenate(self.values), genes, indptr), shape=(len(order), n_genes))
        return matrix[order]


def _read(
    expression: StoredRows,
    starts: npt.NDArray[np.int64],
    part_of_row: npt.NDArray[np.int32],
    parts: Sequence[npt.NDArray[np.integer]],
    some: range,
) -> list[ReadRows]:
    """Read some of the parts, all rows once; values of row `r` begin at ``starts[r]``."""
    n_genes = expression.shape[1]
    values, genes = expression.group["data"], expression.group["indices"]

    def sort(rows: slice) -> tuple[sparse.csr_matrix, npt.NDArray[np.intp]]:
        """Return those of some rows that are wanted, part by part, and where each part begins, with the end."""
        part = part_of_row[rows]
        order = np.argsort(part, kind="stable")
        chosen = order[np.searchsorted(part[order], some.start) : np.searchsorted(part[order], some.stop)]
        # As anndata would read them, but that it looks up the versions of packages each time.
        stored = slice(int(starts[rows.start]), int(starts[rows.stop]))
        indptr = starts[rows.start : rows.stop + 1] - stored.start
        matrix = sparse.csr_matrix((values[stored], genes[stored], indptr), shape=(len(part), n_genes))
        return matrix[chosen], np.searchsorted(part[chosen], np.arange(some.start, some.stop + 1))

    read = [_Part() for _ in some]
    for matrix, bounds in in_order(sort, _rows_at_once(starts), threads()):
        for number, of_part in enumerate(read):
            of_part.add(matrix, slice(bounds[number], bounds[number + 1]))
    # Where each row asked for is among those of the part, which are in the order of the file.
    orders = [np.argsort(np.argsort(parts[number])) for number in some]
    return [partial(of_part.rows, order, n_genes) for of_part, order in zip(read, orders, strict=True)]


def _rows_at_once(starts: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Yield all rows, some at a time, where values of row `r` begin at ``starts[r]``."""
    n_rows, begin = len(starts) - 1, 0
    while begin < n_rows:
        enough = int(np.searchsorted(starts, starts[begin] + _READ_AT_ONCE, side="right")) - 1
        rows = slice(begin, min(max(enough, begin + 1), n_rows))
        yield rows
        begin = rows.stop
