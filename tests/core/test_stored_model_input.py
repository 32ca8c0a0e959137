"""The model input as it is written from a tissue on disk: what is prepared in memory, to the bit."""

from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from naive import counts_adata
from scipy import sparse
from test_model_input import KEYS, assert_same, model_of

from tissue_crosstalk.core import expression, model_input
from tissue_crosstalk.core.errors import NeighborError, TissueError
from tissue_crosstalk.core.files import Finished, Workspace
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.model_input import (
    MODEL_INPUT_FILE,
    ModelInput,
    from_anndata,
    prepare_for_model,
    prepare_for_training,
    store_for_model,
    store_model_input,
)
from tissue_crosstalk.core.neighbors import typical_distance
from tissue_crosstalk.core.tissue_file import open_tissue

GIVEN: dict[str, Any] = {"log_normalised": False, "n_neighbors": 5}


def tissue_on_disk(folder: Path, kind: str = "h5ad", form: str = "csr", seed: int = 0) -> ad.AnnData:
    adata = counts_adata(seed)
    form_of = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[form]
    adata.X, adata.layers["counts"] = form_of(adata.X), form_of(adata.layers["counts"])
    path = folder / f"tissue.{kind}"
    adata.write_zarr(path) if kind == "zarr" else adata.write_h5ad(path)
    return open_tissue(path)


def version_of(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written; the time at which it was read changes by itself."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def stored(adata: ad.AnnData, folder: Path, keys: TissueKeys = KEYS, **given: Any) -> Path:
    workspace = Workspace(folder / "study")
    store_model_input(adata, workspace, keys, **{**GIVEN, **given}).move_to(workspace.place(MODEL_INPUT_FILE))
    assert [entry.name for entry in workspace.folder.iterdir()] == [MODEL_INPUT_FILE]
    return workspace.place(MODEL_INPUT_FILE)


@pytest.mark.parametrize("rows", [4, 1000], ids=["in blocks", "at once"])
@pytest.mark.parametrize("keys", [KEYS, TissueKeys()], ids=["sections, radii, layer", "plain"])
@pytest.mark.parametrize(("kind", "form"), [("h5ad", "csr"), ("h5ad", "csc"), ("h5ad", "dense"), ("zarr", "csr"),
                                            ("zarr", "dense")])  # fmt: skip
def test_the_same_as_in_memory(
    kind: str, form: str, keys: TissueKeys, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expression, "ROWS_AT_ONCE", rows)
    path = stored(tissue_on_disk(tmp_path, kind, form), tmp_path, keys)
    expected = from_anndata(prepare_for_training(counts_adata(0), keys, **GIVEN))
    assert_same(from_anndata(open_tissue(path)), expected)
    assert_same(from_anndata(ad.read_h5ad(path)), expected)  # any reader of h5ad can read it


def test_the_same_as_in_memory_for_a_model(tmp_path: Path) -> None:
    own, _ = from_anndata(prepare_for_training(counts_adata(1), TissueKeys(), log_normalised=False, n_neighbors=4))
    model = model_of(own, genes=own.genes[:4:-1] + own.genes[:3], cell_types=(*own.cell_types, "D"))
    workspace = Workspace(tmp_path / "study")
    finished = store_for_model(tissue_on_disk(tmp_path), model, workspace)
    assert_same(from_anndata(open_tissue(finished.path)), prepare_for_model(counts_adata(0), model))


def test_ranges_of_it_are_read(tmp_path: Path) -> None:
    path = stored(tissue_on_disk(tmp_path), tmp_path)
    opened, (tissue, neighbors) = ModelInput(open_tissue(path)), from_anndata(ad.read_h5ad(path))
    assert opened.n_neighbors == 5
    found = opened.neighbors(7, 12)
    np.testing.assert_array_equal(found.idx, neighbors.idx[7:12])
    np.testing.assert_array_equal(found.dist, neighbors.dist[7:12])
    rows = np.array([0, 3, 4, 29])
    np.testing.assert_array_equal(opened.expression(rows).toarray(), tissue.expression[rows].toarray())


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    adata = tissue_on_disk(tmp_path)
    assert stored(adata, tmp_path / "a").read_bytes() == stored(adata, tmp_path / "b").read_bytes()


def test_one_from_the_same_tissue_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tissue_on_disk(tmp_path), tmp_path)
    before = version_of(path)
    with monkeypatch.context() as patch:
        patch.setattr(model_input, "prepare_cells", lambda *_, **__: pytest.fail("it was prepared again"))
        again = store_model_input(open_tissue(tmp_path / "tissue.h5ad"), Workspace(path.parent), KEYS, **GIVEN)
    assert again == Finished(path)
    again.move_to(path)
    assert version_of(path) == before


@pytest.mark.parametrize("change", ["tissue", "parameter", "keys", "damage"])
def test_one_from_anything_else_is_made_anew(change: str, tmp_path: Path) -> None:
    path = stored(tissue_on_disk(tmp_path), tmp_path)
    keys, given = KEYS, dict(GIVEN)
    if change == "tissue":
        tissue_on_disk(tmp_path, seed=1)
    elif change == "parameter":
        given["n_neighbors"] = 4
    elif change == "keys":
        keys = TissueKeys()
    else:
        path.write_bytes(path.read_bytes()[:1000])
    again = store_model_input(open_tissue(tmp_path / "tissue.h5ad"), Workspace(path.parent), keys, **given)
    assert again.path != path
    in_memory = counts_adata(1 if change == "tissue" else 0)
    assert_same(from_anndata(open_tissue(again.path)), from_anndata(prepare_for_training(in_memory, keys, **given)))


@pytest.mark.parametrize("part", ["cell_type", "section", "radius", "spatial"])
def test_one_whose_cells_were_changed_in_memory_is_another(part: str, tmp_path: Path) -> None:
    path = stored(tissue_on_disk(tmp_path), tmp_path)
    adata = open_tissue(tmp_path / "tissue.h5ad")
    if part == "spatial":
        adata.obsm["spatial"] = adata.obsm["spatial"][::-1].copy()
    else:
        adata.obs[part] = adata.obs[part].to_numpy()[::-1]
    assert store_model_input(adata, Workspace(path.parent), KEYS, **GIVEN).path != path


def test_a_tissue_in_memory_is_stored_each_time(tmp_path: Path) -> None:
    """Nothing tells whether it is the same."""
    workspace = Workspace(tmp_path)
    for _ in range(2):
        finished = store_model_input(counts_adata(0), workspace, KEYS, **GIVEN)
        assert finished.path == workspace.unfinished(MODEL_INPUT_FILE)
        finished.move_to(workspace.place(MODEL_INPUT_FILE))


def test_nothing_is_left_of_a_tissue_that_is_refused(tmp_path: Path) -> None:
    adata = counts_adata(0)
    adata.X[3, 2] = -1
    with pytest.raises(TissueError, match="first of gene 'gene2' in cell 'cell3'"):
        store_model_input(adata, Workspace(tmp_path / "study"), TissueKeys(), **GIVEN)
    with pytest.raises(NeighborError, match="needs at least n_neighbors = 25"):
        store_model_input(counts_adata(0), Workspace(tmp_path / "study"), TissueKeys(), **{**GIVEN, "n_neighbors": 25})
    assert not list((tmp_path / "study").glob("**/*"))


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_nothing_of_all_cells_and_genes_is_ever_dense(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4,000 cells and 2,000 genes, 32 MB dense, far less is held at any time."""
    n_cells, n_genes = 4_000, 2_000
    counts = sparse.random(n_cells, n_genes, 0.005, format="csr", random_state=0, dtype=np.float32)
    counts.data = np.ceil(counts.data * 5)
    adata = ad.AnnData(X=counts.toarray() if form == "dense" else counts)
    adata.obs["cell_type"] = ["a", "b"] * (n_cells // 2)
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(0, 100, (n_cells, 2))
    adata.write_h5ad(tmp_path / "tissue.h5ad")
    del adata, counts
    monkeypatch.setattr(expression, "ROWS_AT_ONCE", 100)
    opened = open_tissue(tmp_path / "tissue.h5ad")
    tracemalloc.start()
    try:
        finished = store_model_input(opened, Workspace(tmp_path / "study"), TissueKeys(), **GIVEN)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6e6
    assert ModelInput(open_tissue(finished.path)).expression(np.arange(n_cells)).nnz == pytest.approx(40_000, rel=0.01)


@pytest.mark.parametrize("n_sampled", [1000, 10], ids=["all cells", "some cells"])
@pytest.mark.parametrize(
    ("factor", "is_warned"), [(1.0, False), (0.26, False), (3.9, False), (0.24, True), (4.1, True), (1e-3, True)]
)
def test_distances_unlike_those_of_the_model_are_warned_of(
    factor: float, is_warned: bool, n_sampled: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the model input is made or used again."""
    monkeypatch.setattr(model_input, "SAMPLED_CELLS", n_sampled)
    tissue = tissue_on_disk(tmp_path)
    workspace = Workspace(tmp_path / "study")
    store_model_input(tissue, workspace, KEYS, **GIVEN).move_to(workspace.place(MODEL_INPUT_FILE))
    _, neighbors = from_anndata(open_tissue(workspace.place(MODEL_INPUT_FILE)))
    parts = neighbors.dist if n_sampled == 1000 else model_input._some_distances(workspace.place(MODEL_INPUT_FILE))
    assert parts.shape == (30 if n_sampled == 1000 else 10, 5)
    assert {tuple(row) for row in parts} <= {tuple(row) for row in neighbors.dist}
    typical = typical_distance(parts)
    assert typical is not None
    for made in (store_model_input, prepare_again):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made(tissue, workspace, KEYS, **GIVEN, distance_scale=typical / factor)
        assert [str(warning.message).partition(" is ")[0] for warning in caught] == (
            ["the nearest neighbor of a cell"] if is_warned else []
        )


def prepare_again(tissue: ad.AnnData, workspace: Workspace, *given: Any, **settings: Any) -> None:
    workspace.place(MODEL_INPUT_FILE).unlink()
    store_model_input(tissue, workspace, *given, **settings)


@pytest.mark.parametrize(("radius", "is_warned"), [(0.5, False), (50.0, True)])
def test_radii_that_cover_all_neighbors_are_warned_of(radius: float, is_warned: bool, tmp_path: Path) -> None:
    tissue = tissue_on_disk(tmp_path)
    tissue.obs["radius"] = radius
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stored(tissue, tmp_path)
    words = "radii of column 'radius' of obs (radius_key) are so large that most cells overlap all their neighbors"
    assert [str(warning.message).startswith(words) for warning in caught] == [True] * is_warned
