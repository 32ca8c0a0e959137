"""The expression of a tissue: read by rows, checked, normalised, and put in another order, never dense as a whole."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tissue_crosstalk.core.errors import TissueError, did_you_mean, listing
from tissue_crosstalk.core.tissue_file import is_consistent

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 50_000
"""Rows that are read and normalised at once, at most."""

DENSE_AT_ONCE = 2**25
"""Elements that are read at once where they are dense: with many genes, fewer rows."""

DENSER = 8
"""How many times as many rows are read at once where they are sparse."""


LARGEST_LOG = 30.0
"""The ``log1p`` of more counts (1e13) than a cell can have."""


def rows_at_once(n_genes: int, *, is_dense: bool) -> int:
    """Return how many rows of so many genes are read at once, at least one."""
    per_row = n_genes if is_dense else n_genes / DENSER
    return max(1, min(ROWS_AT_ONCE, int(DENSE_AT_ONCE / max(per_row, 1))))


@dataclass(frozen=True, eq=False)
class Expression:
    """Where a tissue holds the expression, and which of its genes are wanted.

    Attributes
    ----------
    values
        (cell, gene), dense or sparse, in memory or on disk.
    where
        What to call it in an error.
    columns
        Columns to take, in this order; None: all, as they are.
    cell_names, gene_names
        All of the tissue's.
    """

    values: Any
    where: str
    columns: npt.NDArray[np.intp] | None
    cell_names: npt.NDArray[np.object_]
    gene_names: npt.NDArray[np.object_]

    @classmethod
    def of(cls, adata: AnnData, layer: str | None, columns: npt.NDArray[np.intp] | None) -> Expression:
        """Find the expression of a tissue.

        Raises
        ------
        TissueError
            If there is none, or it holds no numbers.
        """
        if layer is not None and layer not in adata.layers:
            hint = did_you_mean(layer, adata.layers.keys())
            known = f"Its layers are {listing(list(adata.layers))}." if len(adata.layers) else "It has no layers."
            raise TissueError(f"layer names {layer!r}, which is not in the tissue's layers.{hint} {known}")
        values: Any = adata.X if layer is None else adata.layers[layer]
        if values is None:
            raise TissueError("the tissue has no X. Set layer to the layer that holds its expression.")
        where = "X" if layer is None else f"layers[{layer!r}]"
        if values.dtype.kind not in "biuf":  # complex numbers and durations would lose their meaning
            raise TissueError(f"{where} must hold numbers. Got values of type {values.dtype}.")
        return cls(
            values,
            where,
            columns,
            np.asarray(adata.obs_names.astype(str), dtype=object),
            np.asarray(adata.var_names.astype(str), dtype=object),
        )

    def blocks(self) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield the first row and the rows of one block after the other, CSR float32 that nobody else holds.

        Raises
        ------
        TissueError
            If a sparse matrix contradicts itself.
        """
        values = self.values
        if getattr(values, "format", None) == "csc":  # rows of a column-wise matrix cannot be read apart
            in_memory: Any = values if sparse.issparse(values) else self._read(values, slice(None))
            self._check(in_memory)
            values = in_memory.tocsr()
        if sparse.issparse(values):
            self._check(values)
        size = self.rows_at_once
        for start in range(0, values.shape[0], size):
            part = self._read(values, slice(start, start + size))
            if sparse.issparse(part) and not sparse.issparse(values):  # from disk
                self._check(part)
            with np.errstate(over="ignore"):  # what is too large is infinite then, and told of as that
                rows = sparse.csr_matrix(part, dtype=np.float32, copy=True)
            rows = rows if self.columns is None else rows[:, self.columns]
            rows.sum_duplicates()
            rows.eliminate_zeros()
            yield start, rows

    @property
    def rows_at_once(self) -> int:
        """Rows of a block: fewer where they are dense and many genes."""
        return rows_at_once(self.values.shape[1], is_dense=not hasattr(self.values, "format"))

    def _read(self, values: Any, rows: slice) -> Any:
        """Read rows of the matrix; all of them of one on disk that is stored by columns."""
        try:
            return values.to_memory() if rows == slice(None) else values[rows]
        except Exception as error:  # what scipy finds in a matrix that is cut short, and h5py and zarr in the file
            raise TissueError(f"{self.where} is damaged: {error}. Write the tissue again.") from error

    def _check(self, matrix: Any) -> None:
        """Raise unless the entries of a sparse matrix are within it: scipy trusts files in that, and would crash."""
        starts, indices = matrix.indptr, matrix.indices
        n_minor = matrix.shape[0 if matrix.format == "csc" else 1]
        is_whole = (
            starts.ndim == indices.ndim == matrix.data.ndim == 1
            and starts[0] == 0
            and starts[-1] <= len(indices) == len(matrix.data)
        )
        if not is_whole or not is_consistent(starts, indices, n_minor):
            raise TissueError(
                f"{self.where} is damaged: entries of its sparse matrix lie outside of it. Write the tissue again."
            )

    def place(self, row: int, column: int) -> str:
        """Return how to call one value."""
        gene = self.gene_names[column if self.columns is None else self.columns[column]]
        return f"gene {str(gene)!r} in cell {str(self.cell_names[row])!r}"


@dataclass
class Summary:
    """What must be known of all rows before the first of them is normalised.

    Attributes
    ----------
    is_whole, largest
        Whether all values are whole numbers, and the largest.
    n_bad, first_bad
        How many values are negative, NaN or infinite, and how to call the first of them.
    totals
        Sum of each row, float64, by block.
    """

    is_whole: bool = True
    largest: float = 0.0
    n_bad: int = 0
    first_bad: str = ""
    totals: list[npt.NDArray[np.float64]] = field(default_factory=list)

    def add(self, expression: Expression, start: int, rows: sparse.csr_matrix) -> None:
        """Take in a block of rows that begins at `start`."""
        values = rows.data
        bad = ~np.isfinite(values) | (values < 0)
        if bad.any():
            if not self.n_bad:
                first = int(np.flatnonzero(bad)[0])
                row = int(np.searchsorted(rows.indptr, first, side="right")) - 1
                self.first_bad = expression.place(start + row, int(rows.indices[first]))
            self.n_bad += int(bad.sum())
            return
        self.is_whole = self.is_whole and bool((values == np.rint(values)).all())
        self.largest = max(self.largest, float(values.max(initial=0.0)))
        self.totals.append(np.asarray(rows.sum(axis=1, dtype=np.float64)).ravel())

    def normalisation(self, where: str, *, log_normalised: bool, target_sum: float | None) -> Normalisation:
        """Return how rows are normalised.

        Parameters
        ----------
        where
            What to call the matrix.
        log_normalised
            It is log-normalised already, and used as it is.
        target_sum
            Total per cell; None: the median total of the cells that have any count.

        Raises
        ------
        TissueError
            If values cannot be, or counts are wanted and these are none.
        """
        if self.n_bad:
            raise TissueError(
                f"{where} must hold finite values of at least 0. {self.n_bad} values are negative, NaN or infinite, "
                f"first of {self.first_bad}. Give counts or log-normalised "
                "expression, not scaled values (layer chooses where it is)."
            )
        if log_normalised:
            if self.is_whole and self.largest > 0:  # of all log1p values of normalised counts, only 0 is whole
                warnings.warn(
                    f"{where} looks like counts (whole numbers up to {self.largest:g}), but is used as log-normalised "
                    "expression. If it holds counts, normalise and log1p them first, or set log_normalised=false where "
                    "a model is trained.",
                    stacklevel=3,
                )
            elif self.largest > LARGEST_LOG:
                warnings.warn(
                    f"{where} has values up to {self.largest:g}, more than a logarithm of counts can be, but is used "
                    "as log-normalised expression. If it is normalised alone, log1p it first.",
                    stacklevel=3,
                )
            return Normalisation(None, None)
        if not self.is_whole:
            raise TissueError(
                f"{where} must hold counts (whole numbers) to be normalised, but it has fractions (largest value "
                f"{self.largest:g}): it seems to be normalised already. Set log_normalised=true, or layer to the layer "
                "with the counts."
            )
        totals = np.concatenate(self.totals)
        counted = totals > 0
        if not counted.any():
            raise TissueError(f"{where} holds zeros only: no cell has a count.")
        if not counted.all():
            logger.warning("%d of %d cells have no count at all; they stay zero.", int((~counted).sum()), len(totals))
        if target_sum is None:
            target_sum = float(np.median(totals[counted]))
        return Normalisation(target_sum, np.divide(target_sum, totals, out=np.zeros_like(totals), where=counted))


@dataclass(frozen=True, eq=False)
class Normalisation:
    """How counts become the expression that the network sees.

    Attributes
    ----------
    target_sum
        Total to which cells are scaled; None: the expression is used as it is.
    factor
        Of each cell, float64 (cell,), in the order of the tissue; None as well.
    """

    target_sum: float | None
    factor: npt.NDArray[np.float64] | None

    def apply(self, rows: sparse.csr_matrix, cells: npt.NDArray[np.integer] | slice) -> sparse.csr_matrix:
        """Return rows scaled and ``log1p`` transformed; `cells` says which cells of the tissue they are."""
        if self.factor is None:
            return rows
        scaled = rows.data * np.repeat(self.factor[cells], np.diff(rows.indptr))
        return sparse.csr_matrix((np.log1p(scaled).astype(np.float32), rows.indices, rows.indptr), shape=rows.shape)


class RowShuffle:
    """Puts the rows of a matrix in another order on disk: each goes to the bucket of its new place, which is sorted.

    Memory is that of a bucket, and every row is written and read once.

    Parameters
    ----------
    folder
        For the buckets; it is emptied first, and deleted by :meth:`close`.
    places
        New place of each row, int64 (row,): a permutation.
    bucket_rows
        Rows in a bucket.
    """

    def __init__(self, folder: Path, places: npt.NDArray[np.int64], bucket_rows: int) -> None:
        self._folder, self._places, self._bucket_rows = folder, places, bucket_rows
        self._n_columns = 0
        self.n_values = 0
        self._segments: dict[int, list[tuple[int, int]]] = {}  # by bucket, (rows, values) of what was appended
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def add(self, start: int, rows: sparse.csr_matrix) -> None:
        """Take in a block of rows that begins at `start`, CSR float32."""
        self._n_columns = rows.shape[1]
        self.n_values += rows.nnz
        bucket = self._places[start : start + rows.shape[0]] // self._bucket_rows
        order = np.argsort(bucket, kind="stable")
        by_bucket = rows[order]
        numbers, first = np.unique(bucket[order], return_index=True)
        for number, begin, end in zip(numbers, first, [*first[1:], len(order)], strict=True):
            own = slice(by_bucket.indptr[begin], by_bucket.indptr[end])
            with (self._folder / str(number)).open("ab") as file:
                for array in (
                    (start + order[begin:end]).astype(np.int64),
                    np.diff(by_bucket.indptr[begin : end + 1]).astype(np.int32),
                    by_bucket.indices[own].astype(np.int32),
                    by_bucket.data[own],
                ):
                    array.tofile(file)
            self._segments.setdefault(int(number), []).append((int(end - begin), own.stop - own.start))

    def blocks(self) -> Iterator[tuple[npt.NDArray[np.int64], sparse.csr_matrix]]:
        """Yield rows in their new order, a bucket at a time, with the rows that they were."""
        for number in sorted(self._segments):
            rows, matrices = [], []
            with (self._folder / str(number)).open("rb") as file:
                for n_rows, n_values in self._segments[number]:
                    rows.append(np.fromfile(file, np.int64, n_rows))
                    starts = np.concatenate([[0], np.cumsum(np.fromfile(file, np.int32, n_rows), dtype=np.int64)])
                    indices = np.fromfile(file, np.int32, n_values)
                    values = np.fromfile(file, np.float32, n_values)
                    matrices.append(sparse.csr_matrix((values, indices, starts), shape=(n_rows, self._n_columns)))
            was = np.concatenate(rows)
            order = np.argsort(self._places[was])
            yield was[order], sparse.vstack(matrices, format="csr")[order]

    def close(self) -> None:
        """Delete the buckets."""
        shutil.rmtree(self._folder, ignore_errors=True)
