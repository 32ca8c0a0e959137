"""Rows of an expression matrix in parts: on disk as in memory, however much is read and held at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from tissue_crosstalk.core import expression_rows
from tissue_crosstalk.core.expression_rows import StoredRows, parts_of_rows

OnDisk = Callable[[sparse.csr_matrix], StoredRows]


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[OnDisk]:
    """Return a function that writes a matrix as anndata does, and opens it without reading it."""
    with h5py.File(tmp_path / "expression.h5", "w") as file:

        def write(matrix: sparse.csr_matrix) -> StoredRows:
            write_elem(file, "X", matrix)
            return sparse_dataset(file["X"])  # type: ignore[no-any-return]

        yield write


def random_rows(n_rows: int = 50, n_genes: int = 7, seed: int = 0) -> sparse.csr_matrix:
    """Return a matrix (row, gene) with empty rows and a full one."""
    generator = np.random.default_rng(seed)
    values = generator.gamma(2, 1, (n_rows, n_genes)) * (generator.random((n_rows, n_genes)) < 0.3)
    values[[3, 4, n_rows - 1]] = 0
    values[10] = 1
    return sparse.csr_matrix(values.astype(np.float32))


def random_parts(n_rows: int = 50, seed: int = 0) -> list[np.ndarray]:
    """Return rows in any order in four parts, one of which is empty; some rows are in none."""
    order = np.random.default_rng(seed).permutation(n_rows)
    return [order[:20], order[20:21], order[:0], order[25:40]]


@pytest.mark.parametrize("held", [1, 45, 10**9], ids=["a part at a time", "some parts", "all parts"])
@pytest.mark.parametrize("at_once", [1, 20, 10**9], ids=["a row at a time", "some rows", "all rows"])
def test_rows_on_disk_equal_those_in_memory(
    on_disk: OnDisk, held: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expression_rows, "HELD_VALUES", held)
    monkeypatch.setattr(expression_rows, "_READ_AT_ONCE", at_once)
    matrix, parts = random_rows(), random_parts()
    read = [rows() for batch in parts_of_rows(on_disk(matrix), parts) for rows in batch]
    assert len(read) == len(parts)
    for rows, part in zip(read, parts, strict=True):
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows.toarray(), matrix.toarray()[part])  # type: ignore[union-attr]


def test_no_more_is_held_than_allowed(on_disk: OnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 3, 2, 2 and 9 values: 5 at most at a time, but the last is not read in pieces."""
    matrix = sparse.csr_matrix(np.ones((16, 1)))
    monkeypatch.setattr(expression_rows, "HELD_VALUES", 5)
    parts = np.split(np.arange(16), [3, 5, 7])
    assert [len(batch) for batch in parts_of_rows(on_disk(matrix), parts)] == [2, 1, 1]


def test_more_genes_than_half_a_number_counts(on_disk: OnDisk) -> None:
    matrix = sparse.csr_matrix(([1.0, 2, 3], ([0, 1, 1], [69_999, 0, 65_536])), shape=(2, 70_000))
    [[rows]] = parts_of_rows(on_disk(matrix), [np.array([1, 0])])
    assert (rows() != matrix[[1, 0]]).nnz == 0


def test_rows_in_memory_may_be_dense() -> None:
    matrix, parts = random_rows(), random_parts()
    [read] = parts_of_rows(matrix.toarray(), parts)
    for rows, part in zip(read, parts, strict=True):
        np.testing.assert_array_equal(rows().toarray(), matrix.toarray()[part])  # type: ignore[union-attr]
