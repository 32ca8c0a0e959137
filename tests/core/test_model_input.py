"""The model input: stored as AnnData and back, and prepared for a model the way its own tissue was."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from naive import TINY, counts_adata, golden, made_tissue, random_network, random_tissue
from scipy import sparse

from tissue_crosstalk.core.errors import NeighborError, ParameterError, TissueError
from tissue_crosstalk.core.model import CrosstalkModel, Preprocessing, TissueKeys
from tissue_crosstalk.core.model_input import from_anndata, prepare_for_model, prepare_for_training, to_anndata
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.tissue import PreparedTissue, prepare_tissue

KEYS = TissueKeys(section_key="section", radius_key="radius", layer="counts")


def assert_same(
    one: tuple[PreparedTissue, Neighbors], other: tuple[PreparedTissue, Neighbors], *, keys: bool = True
) -> None:
    """Compare every field, types included."""
    for field in fields(PreparedTissue):
        a, b = getattr(one[0], field.name), getattr(other[0], field.name)
        if field.name == "keys" and not keys:
            continue
        if field.name == "expression":
            assert isinstance(b, sparse.csr_matrix)
            assert a.dtype == b.dtype == np.float32
            assert (a != b).nnz == 0
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
            assert a.dtype == b.dtype, field.name
        else:
            assert a == b, field.name
    for name in ("idx", "dist"):
        a, b = getattr(one[1], name), getattr(other[1], name)
        np.testing.assert_array_equal(a, b, err_msg=name)
        assert a.dtype == b.dtype, name


def on_disk(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    adata.write_h5ad(folder / "model_input.h5ad")
    return ad.read_h5ad(folder / "model_input.h5ad")


def model_of(tissue: PreparedTissue, n_neighbors: int = 4, **changes: Any) -> CrosstalkModel:
    network = random_network(len(tissue.genes), len(tissue.cell_types), TINY)
    model = CrosstalkModel(network, tissue.genes, tissue.cell_types, tissue.keys, n_neighbors, tissue.preprocessing)
    return replace(model, **changes)


CASES: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 4),
    "sections": ({"n_sections": 2}, 5),
    "padded": ({"n_sections": 3}, 14),
    "three axes": ({"axes": 3}, 4),
}


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("radii", [False, True], ids=["centres", "radii"])
@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str, radii: bool, stored: bool, tmp_path: Path) -> None:
    given, n_neighbors = CASES[case]
    tissue = random_tissue(1, **given)
    if radii:
        generator = np.random.default_rng(1)
        tissue = replace(tissue, radii=generator.uniform(0, 2, 60), keys=replace(tissue.keys, radius_key="size"))
    neighbors = find_neighbors(tissue, n_neighbors, pad=True)
    assert (neighbors.idx < 0).any() == (case == "padded")
    adata = to_anndata(tissue, neighbors)
    assert_same((tissue, neighbors), from_anndata(on_disk(adata, tmp_path) if stored else adata))


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize(
    "preprocessing", [Preprocessing(True), Preprocessing(False, 1e4), Preprocessing(False, 57.5)], ids=str
)
def test_round_trip_of_the_preprocessing(preprocessing: Preprocessing, stored: bool, tmp_path: Path) -> None:
    tissue = replace(random_tissue(), preprocessing=preprocessing)
    adata = to_anndata(tissue, find_neighbors(tissue, 3))
    back, _ = from_anndata(on_disk(adata, tmp_path) if stored else adata)
    assert back.preprocessing == preprocessing
    assert isinstance(back.preprocessing.log_normalised, bool)


def test_round_trip_of_every_key(tmp_path: Path) -> None:
    keys = TissueKeys("kind", "X_xy", "slide/part", "size", "raw counts")
    tissue = replace(random_tissue(), keys=keys)
    back, _ = from_anndata(on_disk(to_anndata(tissue, find_neighbors(tissue, 3)), tmp_path))
    assert back.keys == keys


def test_round_trip_of_names_with_slashes(tmp_path: Path) -> None:
    """In cell types, genes, sections and cells; also types of the model that the tissue lacks."""
    tissue = random_tissue(2, n_sections=2)
    tissue = replace(
        tissue,
        cell_types=("NK/T", "b, naïve", "../up", "lacking"),
        genes=tuple(f"H2-A/{gene}" for gene in range(6)),
        section_names=("slide/1", "slide, 2"),
        cell_names=np.array([f"AAC/{cell}-1" for cell in range(60)], dtype=object),
    )
    neighbors = find_neighbors(tissue, 3)
    assert_same((tissue, neighbors), from_anndata(on_disk(to_anndata(tissue, neighbors), tmp_path)))


def test_one_section_is_still_a_section(tmp_path: Path) -> None:
    tissue = made_tissue([[0, 0], [1, 0]], [0, 1], sections=[0, 0], expression=np.ones((2, 2)))
    neighbors = find_neighbors(tissue, 1)
    assert_same((tissue, neighbors), from_anndata(on_disk(to_anndata(tissue, neighbors), tmp_path)))


def test_the_model_input_is_as_documented() -> None:
    tissue = replace(random_tissue(3, n_sections=2), radii=np.ones(60))
    neighbors = find_neighbors(tissue, 4)
    adata = to_anndata(tissue, neighbors)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert list(adata.obs.columns) == ["label", "position", "section", "radius"]
    assert set(adata.obsm) == {"spatial", "nn_idx", "nn_dist"}
    assert list(adata.uns) == ["tissue_crosstalk"]
    np.testing.assert_array_equal(adata.obsm["nn_idx"], neighbors.idx)
    assert adata.obs_names.tolist() == tissue.cell_names.tolist()


def test_an_anndata_of_another_kind_is_refused() -> None:
    with pytest.raises(TissueError) as caught:
        from_anndata(counts_adata())
    assert str(caught.value) == (
        "expected a model input that this project prepared (with uns['tissue_crosstalk']). Got another AnnData; run "
        "the pipeline from its start."
    )


# --- For training


def test_prepared_for_training_is_the_tissue_with_its_neighbors() -> None:
    adata = counts_adata()
    model_input = prepare_for_training(adata, KEYS, log_normalised=False, n_neighbors=5)
    tissue = prepare_tissue(adata, KEYS, log_normalised=False)
    assert_same((tissue, find_neighbors(tissue, 5)), from_anndata(model_input))
    assert tissue.preprocessing.target_sum == float(np.median(adata.X.sum(axis=1)))


def test_padding_for_training_has_to_be_asked_for() -> None:
    adata = counts_adata()
    with pytest.raises(NeighborError, match="Lower n_neighbors, drop these cells, or set pad_neighbors=true"):
        prepare_for_training(adata, KEYS, log_normalised=False, n_neighbors=25)
    padded = prepare_for_training(adata, KEYS, log_normalised=False, n_neighbors=25, pad_neighbors=True)
    assert (padded.obsm["nn_idx"] < 0).any()


def test_the_tissue_is_not_changed() -> None:
    adata = counts_adata()
    kept = adata.copy()
    model_input = prepare_for_training(adata, KEYS, log_normalised=False, n_neighbors=5)
    model_input.X.data[:] = -1
    model_input.obsm["spatial"][:] = -1
    np.testing.assert_array_equal(adata.X, kept.X)
    np.testing.assert_array_equal(adata.layers["counts"], kept.layers["counts"])
    np.testing.assert_array_equal(adata.obsm["spatial"], kept.obsm["spatial"])
    assert list(adata.obs.columns) == list(kept.obs.columns)
    assert dict(adata.uns) == dict(kept.uns)


# --- For a model


def test_a_models_own_tissue_is_prepared_as_in_training() -> None:
    adata = counts_adata()
    own = from_anndata(prepare_for_training(adata, KEYS, log_normalised=False, n_neighbors=4))
    assert_same(own, prepare_for_model(adata, model_of(own[0])))


def test_another_tissue_is_scaled_to_the_models_total() -> None:
    """Not to its own median: the same cell is the same expression in any tissue."""
    adata = counts_adata()
    own, _ = from_anndata(prepare_for_training(adata, KEYS, log_normalised=False, n_neighbors=4))
    part = adata[:12].copy()
    tissue, _ = prepare_for_model(part, model_of(own), n_neighbors=2)
    assert tissue.preprocessing == own.preprocessing
    own_rows = {name: row for row, name in enumerate(own.cell_names)}
    rows = [own_rows[name] for name in tissue.cell_names]
    np.testing.assert_array_equal(tissue.expression.toarray(), own.expression.toarray()[rows])


def test_genes_and_types_are_matched_by_name() -> None:
    adata = counts_adata()
    own = from_anndata(prepare_for_training(adata, KEYS, log_normalised=False, n_neighbors=4))
    shuffled = adata[:, ::-1].copy()
    shuffled.obs["cell_type"] = shuffled.obs["cell_type"].cat.reorder_categories(["C", "B", "A"])
    assert_same(own, prepare_for_model(shuffled, model_of(own[0])))


def test_keys_of_the_tissue_may_differ_from_the_models() -> None:
    adata = counts_adata()
    own = from_anndata(prepare_for_training(adata, KEYS, log_normalised=False, n_neighbors=4))
    adata.obs = adata.obs.rename(columns={"cell_type": "kind"})
    keys = KEYS.override(labels_key="kind", section_key=None)
    prepared = prepare_for_model(adata, model_of(own[0]), keys)
    assert prepared[0].keys == keys == replace(KEYS, labels_key="kind")
    assert_same(own, prepared, keys=False)
    with pytest.raises(TissueError, match="labels_key names the column 'cell_type'"):
        prepare_for_model(adata, model_of(own[0]))


@pytest.mark.parametrize("log_normalised", [False, True])
def test_a_model_of_log_normalised_expression_takes_it_as_it_is(log_normalised: bool) -> None:
    known = golden()
    tissue, _ = prepare_for_model(known.adata, known.model, log_normalised=log_normalised)
    np.testing.assert_array_equal(tissue.expression.toarray()[tissue.in_tissue_order()], known.adata.X)


def test_a_model_of_counts_takes_log_normalised_expression_when_told() -> None:
    """Otherwise it refuses: nothing is normalised twice."""
    adata = counts_adata()
    own = from_anndata(prepare_for_training(adata, TissueKeys(), log_normalised=False, n_neighbors=4))
    adata.X = own[0].expression.toarray()[own[0].in_tissue_order()]
    with pytest.raises(TissueError, match=r"it seems to be normalised already\. Set log_normalised=true"):
        prepare_for_model(adata, model_of(own[0]))
    tissue, neighbors = prepare_for_model(adata, model_of(own[0]), log_normalised=True)
    assert tissue.preprocessing == Preprocessing(log_normalised=True)
    assert_same(own, (replace(tissue, preprocessing=own[0].preprocessing), neighbors))


def test_as_many_neighbors_as_the_model_unless_told_otherwise() -> None:
    adata = counts_adata()
    model = model_of(prepare_tissue(adata, TissueKeys(), log_normalised=False), n_neighbors=3)
    assert prepare_for_model(adata, model)[1].idx.shape == (30, 3)
    assert prepare_for_model(adata, model, n_neighbors=7)[1].idx.shape == (30, 7)


@pytest.mark.parametrize("n_neighbors", [0, -2])
def test_too_few_neighbors_are_refused(n_neighbors: int) -> None:
    adata = counts_adata()
    model = model_of(prepare_tissue(adata, TissueKeys(), log_normalised=False))
    with pytest.raises(ParameterError, match=rf"^n_neighbors must be at least 1\. Got {n_neighbors} instead\.$"):
        prepare_for_model(adata, model, n_neighbors=n_neighbors)


def test_padding_for_a_model_has_to_be_asked_for() -> None:
    adata = counts_adata()
    model = model_of(prepare_tissue(adata, TissueKeys(), log_normalised=False), n_neighbors=25)
    with pytest.raises(NeighborError):
        prepare_for_model(adata, model)
    assert (prepare_for_model(adata, model, pad_neighbors=True)[1].idx < 0).any()
