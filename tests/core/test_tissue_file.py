"""Tissues whose matrices stay on disk: the same as in memory, read by rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import counts_adata
from scipy import sparse

from tissue_crosstalk.core import tissue_file
from tissue_crosstalk.core.errors import TissueError
from tissue_crosstalk.core.tissue_file import RowReader, TissueFile, copy_element, open_group, open_tissue, source_of

KINDS = ("h5ad", "zarr")
FORMS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}


def rich_adata() -> ad.AnnData:
    adata = counts_adata(3, n_cells=40)
    adata.X = sparse.csr_matrix(adata.X)
    adata.layers["csc"] = sparse.csc_matrix(adata.layers["counts"])
    adata.obsp["near"] = sparse.random(40, 40, 0.1, format="csr", random_state=0)
    adata.obsm["table"] = pd.DataFrame({"a": np.arange(40)}, index=adata.obs_names)
    adata.varm["load"] = np.arange(12.0).reshape(6, 2)
    adata.raw = adata.copy()
    return adata


def written(adata: ad.AnnData, folder: Path, kind: str) -> Path:
    path = folder / f"tissue.{kind}"
    adata.write_zarr(path) if kind == "zarr" else adata.write_h5ad(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_stay_on_disk_and_the_rest_is_the_same(kind: str, tmp_path: Path) -> None:
    adata = rich_adata()
    opened = open_tissue(written(adata, tmp_path, kind))
    assert isinstance(opened, TissueFile)
    assert source_of(opened) == tmp_path / f"tissue.{kind}"
    assert source_of(adata) is None
    for matrix in (opened.X, opened.layers["csc"], opened.layers["counts"], opened.obsp["near"]):
        assert not isinstance(matrix, np.ndarray)
        assert not sparse.issparse(matrix)
    pd.testing.assert_frame_equal(opened.obs, adata.obs)
    pd.testing.assert_frame_equal(opened.var, adata.var)
    pd.testing.assert_frame_equal(opened.obsm["table"], adata.obsm["table"])
    np.testing.assert_array_equal(opened.obsm["spatial"], adata.obsm["spatial"])
    np.testing.assert_array_equal(opened.varm["load"], adata.varm["load"])
    assert opened.uns["note"] == "as it was"
    np.testing.assert_array_equal(opened.X[5:9].toarray(), adata.X[5:9].toarray())


def test_large_arrays_of_obsm_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = counts_adata(0)
    adata.obsm["pca"] = np.arange(300.0).reshape(30, 10)
    monkeypatch.setattr(tissue_file, "LARGE", 100)
    opened = open_tissue(written(adata, tmp_path, "h5ad"))
    assert isinstance(opened.obsm["pca"], h5py.Dataset)
    np.testing.assert_array_equal(opened.obsm["pca"][3:5], adata.obsm["pca"][3:5])
    assert isinstance(opened.obsm["spatial"], np.ndarray)


def test_a_tissue_without_x(tmp_path: Path) -> None:
    adata = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]), layers={"counts": np.ones((2, 3))})
    opened = open_tissue(written(adata, tmp_path, "h5ad"))
    assert opened.X is None
    assert opened.layers["counts"].shape == (2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_anndata_is_named(kind: str, tmp_path: Path) -> None:
    import zarr

    path = tmp_path / f"other.{kind}"
    group: Any = zarr.open_group(str(path), mode="w") if kind == "zarr" else h5py.File(path, "w")
    group.create_group("counts")
    if kind == "h5ad":
        group.close()
    with pytest.raises(TissueError, match=r"other\.\w+' is not an AnnData: it has 'counts'\. Write it with AnnData"):
        open_tissue(path)


@pytest.mark.parametrize("gap", [0, 3, 1000])
@pytest.mark.parametrize("form", FORMS)
def test_rows_by_hand(form: str, gap: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies between them is read or not, they are the same, from memory and from disk."""
    monkeypatch.setattr(tissue_file, "LONGEST_GAP", gap)
    dense = np.random.default_rng(0).poisson(0.5, (50, 7)).astype(np.float64)
    adata = ad.AnnData(X=FORMS[form](dense))
    on_disk = RowReader(open_tissue(written(adata, tmp_path, "h5ad")).X)
    in_memory = RowReader(adata.X)
    assert on_disk.shape == in_memory.shape == (50, 7)
    for rows in ([], [0], [49], [3, 4, 5], [0, 9, 10, 13, 14, 30, 49], list(range(50))):
        for reader in (on_disk, in_memory):
            found = reader[np.array(rows, dtype=np.int64)]
            assert isinstance(found, sparse.csr_matrix)
            assert found.dtype == np.float32
            assert found.shape == (len(rows), 7)
            np.testing.assert_array_equal(found.toarray(), dense[rows])


@given(rows=st.sets(st.integers(0, 59), max_size=30), gap=st.integers(0, 20), seed=st.integers(0, 5))
def test_any_rows(rows: set[int], gap: int, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    matrix = sparse.random(60, 5, 0.3, format="csr", random_state=seed, dtype=np.float32)
    path = tmp_path_factory.getbasetemp() / f"any_rows_{seed}.h5ad"
    if not path.exists():
        ad.AnnData(X=matrix).write_h5ad(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tissue_file, "LONGEST_GAP", gap)
        wanted = np.array(sorted(rows), dtype=np.int64)
        np.testing.assert_array_equal(RowReader(open_tissue(path).X)[wanted].toarray(), matrix.toarray()[wanted])


@pytest.mark.parametrize("kind", KINDS)
def test_elements_are_copied_a_part_at_a_time(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tissue_file, "COPIED_AT_ONCE", 10)
    adata = rich_adata()
    with open_group(written(adata, tmp_path, kind)) as old, h5py.File(tmp_path / "new.h5ad", "w") as new:
        new.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name in sorted(set(old) - {"layers", "obsp"}):
            copy_element(old, new, name)
        for part in ("layers", "obsp"):
            group = new.create_group(part)
            group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
            for name in old[part]:
                copy_element(old[part], group, name)
    back = ad.read_h5ad(tmp_path / "new.h5ad")
    np.testing.assert_array_equal(back.X.toarray(), adata.X.toarray())
    np.testing.assert_array_equal(back.layers["csc"].toarray(), adata.layers["csc"].toarray())
    np.testing.assert_array_equal(back.layers["counts"], adata.layers["counts"])
    np.testing.assert_array_equal(back.obsp["near"].toarray(), adata.obsp["near"].toarray())
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    np.testing.assert_array_equal(back.raw.X.toarray(), adata.raw.X.toarray())
