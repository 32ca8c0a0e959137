"""The annotated tissue: written from a tissue on disk, it is what it is in memory, and all of the old one is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from naive import Stored, random_model, stored_attention, user_tissue
from scipy import sparse
from test_stored import N_NEIGHBORS, NEIGHBORS, TISSUE

from tissue_crosstalk.core import tissue_file
from tissue_crosstalk.core.annotation import AnnotatedFile, annotate_tissue
from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.hubs import HubSettings
from tissue_crosstalk.core.stored import Cells
from tissue_crosstalk.core.stored_hubs import find_stored_hubs
from tissue_crosstalk.core.tissue_file import open_tissue

SELECTION = {"n_clusters": 3}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    model = random_model(TISSUE, N_NEIGHBORS)
    return stored_attention(tmp_path_factory.mktemp("kept"), TISSUE, NEIGHBORS, model, flavors=["vanilla"])


def tissue() -> ad.AnnData:
    generator = np.random.default_rng(0)
    own = user_tissue(TISSUE)
    adata = ad.AnnData(
        X=sparse.random(36, 5, 0.4, format="csr", random_state=0),
        obs=own.obs,
        obsm={"spatial": own.obsm["spatial"], "umap": generator.uniform(size=(36, 2))},
        obsp={"near": sparse.random(36, 36, 0.2, format="csr", random_state=1)},
        layers={"dense": generator.uniform(size=(36, 5))},
        uns={"note": "kept", "cell_type_colors": np.array(["red", "blue", "green"], dtype=object)},
    )
    adata.obs.index.name = "cell_type"
    adata.raw = adata.copy()
    return adata


def annotated(adata: ad.AnnData, kept: Stored) -> ad.AnnData | AnnotatedFile:
    cells = Cells.read(kept.cells)
    settings = HubSettings(0.7, n_clusters=3, stability_resamples=0)
    hubs = find_stored_hubs(kept.flavored, kept.nn_idxs, kept.nn_dists, cells, "vanilla", settings)
    return annotate_tissue(
        adata, hubs.table(cells.names), SELECTION, kept.flavored, kept.nn_idxs, kept.cells, "vanilla"
    )


def test_attention_by_hand(kept: Stored) -> None:
    found = annotated(tissue(), kept)
    assert isinstance(found, ad.AnnData)
    expected = np.zeros((36, 36), dtype=np.float32)
    strength = kept.arrays["vanilla"].max(axis=0)
    for row in range(36):
        for slot in range(N_NEIGHBORS):
            sender = NEIGHBORS.idx[row, slot]
            if sender >= 0:
                expected[TISSUE.positions[row], TISSUE.positions[sender]] = strength[row, slot]
    np.testing.assert_allclose(found.obsp["attention"].toarray(), expected, rtol=1e-6)
    assert found.obsp["attention"].has_sorted_indices


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_on_disk_as_in_memory(kind: str, kept: Stored, tmp_path: Path) -> None:
    path = tmp_path / f"tissue.{kind}"
    stored = tissue()
    stored.obs.index.name = None  # as the column of that name cannot be stored
    stored.write_zarr(path) if kind == "zarr" else stored.write_h5ad(path)
    expected = annotated(tissue(), kept)
    found = annotated(open_tissue(path), kept)
    assert isinstance(expected, ad.AnnData)
    assert isinstance(found, AnnotatedFile)
    found.write_h5ad(tmp_path / "annotated.h5ad")
    back = ad.read_h5ad(tmp_path / "annotated.h5ad")
    pd.testing.assert_frame_equal(back.obs, expected.obs)
    pd.testing.assert_frame_equal(back.var, expected.var)
    for part in ("obsm", "obsp", "layers"):
        assert set(getattr(back, part)) == set(getattr(expected, part))
        for name, values in getattr(expected, part).items():
            one, other = (v.toarray() if sparse.issparse(v) else v for v in (getattr(back, part)[name], values))
            np.testing.assert_array_equal(one, other, err_msg=name)
    assert set(back.uns) == set(expected.uns) == {
        "note", "cell_type_colors", "hub_cluster_colors", "hub_selection", "hub_composition_types", "attention_flavor"
    }  # fmt: skip
    np.testing.assert_array_equal(back.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(back.raw.X.toarray(), expected.raw.X.toarray())


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_matrices_are_not_read_whole(kind: str, kept: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"tissue.{kind}"
    stored = tissue()
    stored.obs.index.name = None
    stored.write_zarr(path) if kind == "zarr" else stored.write_h5ad(path)
    found = annotated(open_tissue(path), kept)
    assert isinstance(found, AnnotatedFile)
    read = tissue_file._read

    def small(element: Any) -> Any:
        assert element.name.rsplit("/", maxsplit=1)[-1] not in {"X", "layers", "dense", "raw", "obsp", "near"}
        return read(element)

    monkeypatch.setattr(tissue_file, "_read", small)
    found.write_h5ad(tmp_path / "annotated.h5ad", compression="gzip")
    with h5py.File(tmp_path / "annotated.h5ad") as file:
        assert file["obsp/attention/data"].compression == "gzip"


def test_annotated_again_old_results_are_replaced(kept: Stored, tmp_path: Path) -> None:
    old = tissue()
    old.obs.index.name = None
    old.obsp["attention"] = sparse.csr_matrix(np.ones((36, 36)))
    old.obs["hub_cluster"] = "of another time"
    old.write_h5ad(tmp_path / "tissue.h5ad")
    found = annotated(open_tissue(tmp_path / "tissue.h5ad"), kept)
    assert isinstance(found, AnnotatedFile)
    found.write_h5ad(tmp_path / "annotated.h5ad")
    back = ad.read_h5ad(tmp_path / "annotated.h5ad")
    assert back.obsp["attention"].nnz == (NEIGHBORS.idx >= 0).sum()
    assert set(back.obs["hub_cluster"].cat.categories) <= {"0", "1", "2", "isolated"}
    with h5py.File(tmp_path / "tissue.h5ad") as file:  # the user's own is as it was
        assert file["obsp/attention/data"].shape == (36 * 36,)


def test_another_tissue_is_refused(kept: Stored) -> None:
    with pytest.raises(ResultError, match="the results are of another tissue"):
        annotated(tissue()[::-1].copy(), kept)
