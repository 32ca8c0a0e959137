"""Rows put in another order on disk, against fancy indexing."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import counts_adata
from scipy import sparse

from tissue_crosstalk.core import expression
from tissue_crosstalk.core.errors import TissueError
from tissue_crosstalk.core.expression import Expression, RowShuffle, rows_at_once
from tissue_crosstalk.core.tissue_file import open_tissue


def shuffled(
    folder: Path, matrix: sparse.csr_matrix, order: np.ndarray, *, block: int, bucket: int
) -> tuple[list[int], np.ndarray, int]:
    """Return old rows in their new order, the matrix, and the largest block that came back."""
    shuffle = RowShuffle(folder, np.argsort(order), bucket)
    for start in range(0, matrix.shape[0], block):
        shuffle.add(start, matrix[start : start + block])
    assert shuffle.n_values == matrix.nnz
    blocks = list(shuffle.blocks())
    shuffle.close()
    assert not folder.exists()
    rows = [int(row) for was, _ in blocks for row in was]
    return rows, sparse.vstack([part for _, part in blocks]).toarray(), max(len(was) for was, _ in blocks)


@given(
    n_rows=st.integers(1, 40), block=st.integers(1, 45), bucket=st.integers(1, 45), seed=st.integers(0, 10_000),
    density=st.sampled_from([0.0, 0.2, 1.0]),
)  # fmt: skip
def test_rows_come_in_their_new_order(
    n_rows: int, block: int, bucket: int, seed: int, density: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    generator = np.random.default_rng(seed)
    matrix = sparse.random(n_rows, 4, density, format="csr", random_state=seed, dtype=np.float32)
    order = generator.permutation(n_rows)
    folder = tmp_path_factory.getbasetemp() / "shuffle"
    rows, found, largest = shuffled(folder, matrix, order, block=block, bucket=bucket)
    assert rows == order.tolist()
    np.testing.assert_array_equal(found, matrix.toarray()[order])
    assert largest <= bucket


def test_what_a_killed_run_left_is_not_read(tmp_path: Path) -> None:
    matrix = sparse.csr_matrix(np.eye(3, dtype=np.float32))
    RowShuffle(tmp_path / "buckets", np.arange(3), 2).add(0, matrix)  # never closed
    rows, found, _ = shuffled(tmp_path / "buckets", matrix, np.array([2, 0, 1]), block=2, bucket=2)
    assert rows == [2, 0, 1]
    np.testing.assert_array_equal(found, np.eye(3)[[2, 0, 1]])


def test_with_many_genes_fewer_rows_are_read_at_once() -> None:
    """Dense blocks of 128 MiB at most, and at least a row."""
    assert rows_at_once(500, is_dense=True) == 50_000
    assert rows_at_once(20_000, is_dense=True) == 2**25 // 20_000
    assert rows_at_once(20_000, is_dense=False) == 8 * 2**25 // 20_000
    assert rows_at_once(2**26, is_dense=True) == 1


@pytest.mark.parametrize("n_rows", [1, 7, 100])
def test_blocks_are_the_rows(n_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expression, "ROWS_AT_ONCE", n_rows)
    adata = counts_adata(1)
    found = Expression.of(adata, None, np.array([4, 1]))
    blocks = list(found.blocks())
    assert [start for start, _ in blocks] == list(range(0, 30, n_rows))
    np.testing.assert_array_equal(sparse.vstack([rows for _, rows in blocks]).toarray(), adata.X[:, [4, 1]])
    assert found.place(3, 0) == "gene 'gene4' in cell 'cell3'"


@pytest.mark.parametrize("columns", [None, [4, 1]], ids=["all genes", "some genes"])
@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize(("part", "place", "value"), [
    ("indices", 5, 10**8), ("indices", 5, -5), ("indices", 0, 30), ("indptr", 3, 1), ("indptr", -1, 10**6),
])  # fmt: skip
def test_a_sparse_matrix_that_contradicts_itself_is_refused(
    part: str, place: int, value: int, where: str, form: str, columns: list[int] | None, tmp_path: Path
) -> None:
    """Rather than read from somewhere in memory, or crash."""
    adata = counts_adata(1)
    adata.X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}[form](adata.X)
    adata.write_h5ad(tmp_path / "tissue.h5ad")
    if where == "memory":
        getattr(adata.X, part)[place] = value
    else:
        with h5py.File(tmp_path / "tissue.h5ad", "r+") as file:
            file[f"X/{part}"][place] = value
        adata = open_tissue(tmp_path / "tissue.h5ad")
    wanted = None if columns is None else np.array(columns)
    with pytest.raises(TissueError, match="X is damaged: .* Write the tissue again"):
        list(Expression.of(adata, None, wanted).blocks())
