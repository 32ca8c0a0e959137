"""From AnnData to the prepared tissue: what is refused in which words, and that nothing else depends on the form."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from naive import counts_adata
from scipy import sparse

from tissue_crosstalk.core.errors import TissueError
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.tissue import PreparedTissue, prepare_tissue

ALL_KEYS = TissueKeys(section_key="section", radius_key="radius", layer="counts")
PLAIN = TissueKeys()


def prepared(
    adata: ad.AnnData, keys: TissueKeys = PLAIN, *, log_normalised: bool = False, **given: Any
) -> PreparedTissue:
    return prepare_tissue(adata, keys, log_normalised=log_normalised, **given)


def dense(tissue: PreparedTissue) -> np.ndarray:
    """Return the expression in the order of the user's tissue."""
    return tissue.expression.toarray()[tissue.in_tissue_order()]


def labels_by_name(tissue: PreparedTissue) -> dict[str, str]:
    return {str(n): tissue.cell_types[k] for n, k in zip(tissue.cell_names, tissue.labels, strict=True)}


def assert_same_tissue(one: PreparedTissue, other: PreparedTissue) -> None:
    for name in ("genes", "cell_types", "section_names", "preprocessing"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("labels", "coordinates", "cell_names", "positions", "sections"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert (one.expression != other.expression).nnz == 0


def refused(adata: ad.AnnData, keys: TissueKeys = PLAIN, **given: Any) -> str:
    with pytest.raises(TissueError) as caught:
        prepared(adata, keys, **given)
    return str(caught.value)


def unchecked(adata: ad.AnnData, change: Callable[[ad.AnnData], None]) -> ad.AnnData:
    """Make a change of which anndata warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(adata)
    return adata


# --- What comes out


def test_prepared_tissue_holds_what_the_tissue_does() -> None:
    adata = counts_adata()
    tissue = prepared(adata, ALL_KEYS)
    back = tissue.in_tissue_order()
    assert tissue.n_cells == 30
    assert tissue.genes == tuple(adata.var_names)
    assert tissue.cell_types == ("A", "B", "C")
    assert tissue.section_names == ("left", "right")
    assert tissue.cell_names[back].tolist() == list(adata.obs_names)
    assert tissue.positions[back].tolist() == list(range(30))
    assert [tissue.cell_types[label] for label in tissue.labels[back]] == adata.obs["cell_type"].tolist()
    assert [tissue.section_names[section] for section in tissue.sections[back]] == adata.obs["section"].tolist()
    np.testing.assert_array_equal(tissue.coordinates[back], adata.obsm["spatial"])
    assert tissue.radii is not None
    np.testing.assert_array_equal(tissue.radii[back], adata.obs["radius"])
    assert tissue.keys == ALL_KEYS
    assert (tissue.labels.dtype, tissue.sections.dtype, tissue.positions.dtype) == (np.int16, np.int32, np.int64)
    assert (tissue.expression.dtype, tissue.coordinates.dtype) == (np.float32, np.float64)
    assert isinstance(tissue.expression, sparse.csr_matrix)


def test_cells_of_a_section_lie_together() -> None:
    assert (np.diff(prepared(counts_adata(), ALL_KEYS).sections) >= 0).all()


def test_without_sections_all_cells_are_of_one() -> None:
    tissue = prepared(counts_adata())
    assert tissue.section_names == ()
    assert (tissue.sections == 0).all()
    assert tissue.radii is None


# --- Keys


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"labels_key": "celltype"},
            "labels_key names the column 'celltype', which is not in the tissue's obs. Did you mean 'cell_type'? "
            "Its columns are 'cell_type', 'section', 'radius'.",
        ),
        (
            {"section_key": "Sections"},
            "section_key names the column 'Sections', which is not in the tissue's obs. Did you mean 'section'? "
            "Its columns are 'cell_type', 'section', 'radius'.",
        ),
        (
            {"radius_key": "radios"},
            "radius_key names the column 'radios', which is not in the tissue's obs. Did you mean 'radius'? "
            "Its columns are 'cell_type', 'section', 'radius'.",
        ),
        (
            {"coord_key": "spatal"},
            "coord_key names 'spatal', which is not in the tissue's obsm. Did you mean 'spatial'? "
            "Its keys are 'spatial'.",
        ),
        (
            {"layer": "count"},
            "layer names 'count', which is not in the tissue's layers. Did you mean 'counts'? Its layers are 'counts'.",
        ),
        (
            {"labels_key": "xyzzy"},
            "labels_key names the column 'xyzzy', which is not in the tissue's obs. "
            "Its columns are 'cell_type', 'section', 'radius'.",
        ),
    ],
)
def test_a_missing_key_is_named_with_the_nearest(keys: dict[str, str], words: str) -> None:
    assert refused(counts_adata(), TissueKeys(**keys)) == words


def test_the_layer_is_read_instead_of_x() -> None:
    adata = counts_adata()
    adata.layers["other"] = adata.X[:, ::-1].copy()
    expected = adata.copy()
    expected.X = adata.layers["other"]
    assert_same_tissue(prepared(adata, TissueKeys(layer="other")), replace(prepared(expected)))


def test_a_tissue_without_x_needs_a_layer() -> None:
    adata = counts_adata()
    adata.X = None
    assert refused(adata) == "the tissue has no X. Set layer to the layer that holds its expression."
    assert prepared(adata, TissueKeys(layer="counts")).n_cells == 30


@pytest.mark.parametrize("shape", [(0, 6), (30, 0)])
def test_an_empty_tissue_is_refused(shape: tuple[int, int]) -> None:
    empty = counts_adata()[: shape[0], : shape[1]].copy()
    assert refused(empty) == f"the tissue is empty: it has {shape[0]} cells and {shape[1]} genes."


# --- Names


def test_duplicate_cell_names_are_refused() -> None:
    names = [f"cell{max(cell, 2)}" for cell in range(30)]
    adata = unchecked(counts_adata(), lambda a: setattr(a, "obs_names", names))
    assert refused(adata) == (
        "obs_names (cell names) must be unique. Got 'cell2' more than once; call adata.obs_names_make_unique()."
    )


def test_duplicate_gene_names_are_refused() -> None:
    names = ["a", "b", "a", "b", "c", "d"]
    adata = unchecked(counts_adata(), lambda a: setattr(a, "var_names", names))
    assert refused(adata) == (
        "var_names (gene names) must be unique. Got 'a', 'b' more than once; call adata.var_names_make_unique()."
    )


def test_duplicate_gene_names_matter_only_where_the_model_uses_them() -> None:
    adata = unchecked(counts_adata(), lambda a: setattr(a, "var_names", ["a", "b", "a", "c", "d", "e"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepared(adata, genes=["d", "b"]).genes == ("d", "b")
    message = refused(adata, genes=["d", "a"])
    assert message.startswith("var_names (gene names) that the model uses must be unique. Got 'a' more than once")


def test_cell_names_may_be_numbers() -> None:
    adata = counts_adata()
    adata.obs.index = pd.RangeIndex(30)
    tissue = prepared(adata)
    assert tissue.cell_names[tissue.in_tissue_order()].tolist() == [str(cell) for cell in range(30)]


# --- Cell types


def test_cells_without_a_label_are_counted_and_named() -> None:
    adata = counts_adata()
    adata.obs.loc[["cell4", "cell7"], "cell_type"] = np.nan
    assert refused(adata) == (
        "column 'cell_type' of obs (labels_key) must have a value for every cell. 2 of 30 cells have none (NaN), first "
        "'cell4', 'cell7'; drop these cells or give them a value of their own."
    )


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_text_labels_may_lack_values_in_any_way(missing: Any) -> None:
    adata = counts_adata(kind=[missing, *["A", "B"] * 14, "A"])
    assert "1 of 30 cells have none (NaN), first 'cell0'" in refused(adata, TissueKeys(labels_key="kind"))


def test_cells_without_a_section_are_counted_and_named() -> None:
    adata = counts_adata()
    adata.obs.loc["cell9", "section"] = None
    message = refused(adata, TissueKeys(section_key="section"))
    assert "column 'section' of obs (section_key) must have a value for every cell. 1 of 30 cells" in message


def test_unused_categories_are_dropped() -> None:
    adata = counts_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories(["0 none", "Z"])
    assert prepared(adata).cell_types == ("A", "B", "C")


def test_the_order_of_categories_is_kept() -> None:
    adata = counts_adata()
    expected = labels_by_name(prepared(adata))
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.reorder_categories(["C", "A", "B"])
    tissue = prepared(adata)
    assert tissue.cell_types == ("C", "A", "B")
    assert labels_by_name(tissue) == expected


@pytest.mark.parametrize("dtype", [int, "category", np.uint8])
def test_labels_that_are_numbers_become_text(dtype: Any) -> None:
    adata = counts_adata(kind=[cell % 3 + 9 for cell in range(30)])
    adata.obs["kind"] = adata.obs["kind"].astype(dtype)
    tissue = prepared(adata, TissueKeys(labels_key="kind"))
    assert tissue.cell_types == ("9", "10", "11")
    assert labels_by_name(tissue)["cell4"] == "10"


def test_labels_that_read_the_same_as_text_are_refused() -> None:
    adata = counts_adata(kind=[[1, "1", "2"][cell % 3] for cell in range(30)])
    assert refused(adata, TissueKeys(labels_key="kind")) == (
        "column 'kind' of obs (labels_key) has different values that read the same as text, such as 1 and '1'; "
        "make the column text."
    )


def test_labels_may_hold_slashes_and_commas() -> None:
    names = ["NK/T, resting", "../B", 'x"=y']
    adata = counts_adata(kind=[names[cell % 3] for cell in range(30)])
    tissue = prepared(adata, TissueKeys(labels_key="kind"))
    assert tissue.cell_types == tuple(sorted(names))
    assert labels_by_name(tissue)["cell3"] == "NK/T, resting"


def test_cell_types_are_matched_with_the_model_by_name() -> None:
    adata = counts_adata()
    tissue = prepared(adata, cell_types=["macrophage", "C", "B", "A"])
    assert tissue.cell_types == ("macrophage", "C", "B", "A")
    assert labels_by_name(tissue) == labels_by_name(prepared(adata))


def test_cell_types_that_the_model_does_not_know_are_named() -> None:
    assert refused(counts_adata(), cell_types=["A", "b", "Q"]) == (
        "column 'cell_type' of obs has cell types that the model does not know: 'B', 'C'. Did you mean 'b'? "
        "The model knows 'A', 'b', 'Q'. Rename them, or drop these cells."
    )


# --- Coordinates


def test_coordinates_in_a_data_frame() -> None:
    adata = counts_adata()
    expected = prepared(adata)
    adata.obsm["spatial"] = pd.DataFrame(adata.obsm["spatial"], index=adata.obs_names, columns=["x", "y"])
    assert_same_tissue(prepared(adata), expected)


def test_coordinates_in_a_sparse_matrix() -> None:
    adata = counts_adata()
    expected = prepared(adata)
    adata.obsm["spatial"] = sparse.csr_matrix(adata.obsm["spatial"])
    assert_same_tissue(prepared(adata), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
def test_coordinates_of_any_number_type(dtype: type) -> None:
    adata = counts_adata()
    adata.obsm["spatial"] = (adata.obsm["spatial"] * 100).astype(dtype)
    tissue = prepared(adata)
    np.testing.assert_array_equal(tissue.coordinates[tissue.in_tissue_order()], adata.obsm["spatial"])
    assert tissue.coordinates.dtype == np.float64


def test_coordinates_may_have_three_axes() -> None:
    adata = counts_adata()
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(0, 9, (30, 3))
    assert prepared(adata).coordinates.shape == (30, 3)


@pytest.mark.parametrize("n_axes", [1, 4])
def test_coordinates_of_another_shape_are_refused(n_axes: int) -> None:
    adata = counts_adata()
    adata.obsm["spatial"] = np.zeros((30, n_axes))
    assert refused(adata) == (
        f"obsm['spatial'] (coord_key) must be of shape (cell, 2) or (cell, 3). Got (30, {n_axes}) instead."
    )


def test_coordinates_that_are_text_are_refused() -> None:
    adata = counts_adata()
    adata.obsm["spatial"] = np.full((30, 2), "here")
    assert refused(adata) == (
        "obsm['spatial'] (coord_key) must hold numbers. Got values of type <U4. Give it x and y (and z) of each cell "
        "alone."
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite_are_counted_and_named(bad: float) -> None:
    adata = counts_adata()
    adata.obsm["spatial"][[3, 8], [0, 1]] = bad
    assert refused(adata) == (
        "obsm['spatial'] (coord_key) must be finite. 2 of 30 cells have NaN or infinite coordinates, first 'cell3', "
        "'cell8'; drop these cells."
    )


def test_few_cells_at_the_same_place_are_no_matter() -> None:
    adata = counts_adata()
    adata.obsm["spatial"][:4] = 5.0  # 3 of 30 repeat another
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepared(adata).n_cells == 30


def test_many_cells_at_the_same_place_are_warned_of() -> None:
    adata = counts_adata()
    adata.obsm["spatial"][:5] = 5.0
    with pytest.warns(UserWarning, match=r"^4 of 30 cells lie exactly where another cell does .* set section_key\.$"):
        tissue = prepared(adata)
    assert tissue.n_cells == 30


def test_cells_at_the_same_place_in_different_sections_are_not_warned_of() -> None:
    """Sections may share their coordinates, once section_key tells them apart."""
    adata = counts_adata()
    adata.obsm["spatial"][1::2] = adata.obsm["spatial"][::2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepared(adata, TissueKeys(section_key="section")).n_cells == 30


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_radii_that_are_none_are_counted_and_named(bad: float) -> None:
    adata = counts_adata()
    adata.obs.loc[["cell2", "cell5"], "radius"] = bad
    assert refused(adata, TissueKeys(radius_key="radius")) == (
        "column 'radius' of obs (radius_key) must hold finite radii of at least 0. 2 of 30 cells do not have one, "
        "first 'cell2', 'cell5'."
    )


def test_radii_that_are_text_are_refused() -> None:
    message = refused(counts_adata(), TissueKeys(radius_key="cell_type"))
    assert "column 'cell_type' of obs (radius_key) must hold finite radii of at least 0. 30 of 30 cells" in message


# --- Genes


def test_genes_are_matched_by_name() -> None:
    """Whatever order the tissue has them in, and whatever else it has."""
    adata = counts_adata()
    wanted = ["gene4", "gene0", "gene2"]
    tissue = prepared(adata, log_normalised=False, target_sum=10.0, genes=wanted)
    chosen = adata[:, wanted].copy()
    assert tissue.genes == tuple(wanted)
    assert_same_tissue(prepared(adata[:, ::-1].copy(), target_sum=10.0, genes=wanted), tissue)
    assert_same_tissue(prepared(chosen, target_sum=10.0), tissue)


def test_genes_in_the_order_of_the_tissue_are_the_whole() -> None:
    adata = counts_adata()
    assert_same_tissue(prepared(adata, genes=list(adata.var_names)), prepared(adata))


def test_missing_genes_are_named() -> None:
    message = refused(counts_adata(), genes=["gene1", "CD4", "gene2", "CD8A"])
    assert message == (
        "the tissue lacks 2 of the model's 4 genes: 'CD4', 'CD8A'. Give a tissue measured with the same genes "
        "(var_names), or train a model on this one."
    )


def test_genes_that_differ_in_case_only_are_told() -> None:
    message = refused(counts_adata(), genes=["gene1", "GENE2", "Gene3"])
    assert "lacks 2 of the model's 3 genes: 'GENE2', 'Gene3'. They differ in upper and lower case only. Give" in message


def test_many_missing_genes_are_counted() -> None:
    message = refused(counts_adata(), genes=[f"other{gene}" for gene in range(25)])
    assert "lacks 25 of the model's 25 genes: 'other0', " in message
    assert "'other19' and 5 more." in message
    assert "case" not in message


# --- Expression


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr array": sparse.csr_array,
    "csc array": sparse.csc_array,
}


@pytest.mark.parametrize("genes", [None, ["gene3", "gene1"]])
@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_x_does_not_matter(form: str, genes: list[str] | None) -> None:
    adata = counts_adata()
    expected = prepared(adata, genes=genes)
    adata.X = FORMS[form](adata.X)
    assert_same_tissue(prepared(adata, genes=genes), expected)


@pytest.mark.parametrize("genes", [None, ["gene3", "gene1"]])
@pytest.mark.parametrize("form", ["dense", "csr", "csc"])
def test_x_may_stay_on_disk(form: str, genes: list[str] | None, tmp_path: Path) -> None:
    adata = counts_adata()
    expected = prepared(adata, genes=genes)
    adata.X = FORMS[form](adata.X)
    adata.write_h5ad(tmp_path / "tissue.h5ad")
    backed = ad.read_h5ad(tmp_path / "tissue.h5ad", backed="r")
    try:
        assert_same_tissue(prepared(backed, genes=genes), expected)
        assert backed.isbacked
    finally:
        backed.file.close()


@pytest.mark.parametrize("form", ["dense", "csr", "csc"])
def test_reading_in_parts_is_the_same(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = counts_adata()
    expected = prepared(adata)
    monkeypatch.setattr("tissue_crosstalk.core.expression.ROWS_AT_ONCE", 7)
    adata.X = FORMS[form](adata.X)
    assert_same_tissue(prepared(adata), expected)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.float64])
@pytest.mark.parametrize("form", ["dense", "csr"])
def test_counts_of_any_number_type(form: str, dtype: type) -> None:
    adata = counts_adata()
    expected = prepared(adata)
    adata.X = FORMS[form](adata.X.astype(dtype))
    assert_same_tissue(prepared(adata), expected)


def test_a_sparse_x_in_disorder_is_read_and_left_as_it_was() -> None:
    """Rows that are unsorted, with zeros that are stored, and one value in two parts."""
    adata = counts_adata()
    adata.X[3, 1:3] = [4, 0]
    expected = prepared(adata)
    data, indices, indptr = [], [], [0]
    for row in adata.X:
        columns = np.arange(6)[::-1]
        data += [*row[columns], 0.0]
        indices += [*columns, 2]
        indptr.append(len(data))
    place = indptr[3] + 4  # column 1 of cell 3: its 4 is 1 there and 3 at the end
    data[place], data[indptr[4] - 1], indices[indptr[4] - 1] = 1.0, 3.0, 1
    values = sparse.csr_matrix((np.array(data, np.float32), indices, indptr), shape=(30, 6))
    kept = values.data.copy(), values.indices.copy(), values.indptr.copy()
    adata.X = values
    assert_same_tissue(prepared(adata), expected)
    for now, before in zip((adata.X.data, adata.X.indices, adata.X.indptr), kept, strict=True):
        np.testing.assert_array_equal(now, before)


def test_a_view_is_read_as_its_copy() -> None:
    adata = counts_adata()
    view = adata[5:25, ::2]
    assert_same_tissue(prepared(view, ALL_KEYS), prepared(view.copy(), ALL_KEYS))
    assert view.is_view


def test_expression_that_is_no_number_is_refused() -> None:
    adata = counts_adata()
    adata.layers["words"] = np.full((30, 6), "three")
    message = refused(adata, TissueKeys(layer="words"))
    assert message == "layers['words'] must hold numbers. Got values of type <U5."


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["dense", "csr", "csc"])
@pytest.mark.parametrize("log_normalised", [False, True])
def test_values_that_cannot_be_are_named(form: str, bad: float, log_normalised: bool) -> None:
    adata = counts_adata()
    adata.X[4, 2] = adata.X[9, 1] = bad
    adata.X = FORMS[form](adata.X)
    assert refused(adata, log_normalised=log_normalised) == (
        "X must hold finite values of at least 0. 2 values are negative, NaN or infinite, first of gene 'gene2' in "
        "cell 'cell4'. Give counts or log-normalised expression, not scaled values (layer chooses where it is)."
    )


def test_values_that_cannot_be_are_named_by_the_models_genes() -> None:
    """Only those that the model uses count."""
    adata = counts_adata()
    adata.layers["counts"][4, 2] = adata.layers["counts"][2, 5] = np.nan
    message = refused(adata, TissueKeys(layer="counts"), genes=["gene4", "gene2", "gene1"])
    assert "layers['counts'] must hold finite values" in message
    assert "1 values are negative, NaN or infinite, first of gene 'gene2' in cell 'cell4'" in message


# --- Normalisation


def test_normalisation_by_hand() -> None:
    """Totals 4, 8 and 2: scaled to their median 4, then log1p."""
    adata = counts_adata(n_cells=3, n_genes=2)
    adata.X = np.array([[4, 0], [2, 6], [1, 1]], dtype=np.float32)
    tissue = prepared(adata)
    np.testing.assert_allclose(dense(tissue), np.log1p([[4, 0], [1, 3], [2, 2]]), rtol=1e-6)
    assert tissue.preprocessing.target_sum == 4.0
    assert not tissue.preprocessing.log_normalised


@pytest.mark.parametrize("target_sum", [None, 1e4])
def test_normalisation_equals_scanpy(target_sum: float | None) -> None:
    import scanpy as sc

    adata = counts_adata(1, n_cells=80, n_genes=20)
    adata.X[7] = 0
    tissue = prepared(adata, target_sum=target_sum)
    expected = adata.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the cell without counts
        sc.pp.normalize_total(expected, target_sum=target_sum)
    sc.pp.log1p(expected)
    np.testing.assert_allclose(dense(tissue), expected.X, rtol=1e-5)


def test_a_models_genes_are_normalised_among_themselves() -> None:
    """As in training, where the tissue had no other genes: their total is that of the model's genes."""
    adata = counts_adata()
    tissue = prepared(adata, target_sum=50.0, genes=["gene0", "gene1"])
    few = adata.X[:, :2]
    np.testing.assert_allclose(dense(tissue), np.log1p(few / few.sum(axis=1, keepdims=True) * 50), rtol=1e-5)


def test_log_normalised_expression_is_used_as_it_is() -> None:
    adata = counts_adata()
    adata.X = np.log1p(adata.X / 3)
    tissue = prepared(adata, log_normalised=True)
    assert (dense(tissue) == adata.X).all()
    assert tissue.preprocessing.log_normalised
    assert tissue.preprocessing.target_sum is None


def test_preparing_twice_gives_the_same() -> None:
    """Nothing that the first time did is there the second time."""
    adata = counts_adata()
    assert_same_tissue(prepared(adata), prepared(adata))


def test_normalisation_is_never_applied_to_its_own_result() -> None:
    adata = counts_adata()
    tissue = prepared(adata)
    adata.X = dense(tissue)
    assert refused(adata).startswith("X must hold counts (whole numbers) to be normalised, but it has fractions")
    again = prepared(adata, log_normalised=True)
    assert (dense(again) == dense(tissue)).all()


def test_fractions_given_as_counts_are_refused() -> None:
    adata = counts_adata()
    adata.layers["counts"][:] = np.log1p(adata.X)
    largest = f"{np.log1p(adata.X).max():g}"
    assert refused(adata, TissueKeys(layer="counts")) == (
        "layers['counts'] must hold counts (whole numbers) to be normalised, but it has fractions (largest "
        f"value {largest}): it seems to be normalised already. Set log_normalised=true, or layer to the layer "
        "with the counts."
    )


@pytest.mark.parametrize("largest", [57, 9])
def test_counts_given_as_log_normalised_are_warned_of(largest: int) -> None:
    adata = counts_adata()
    adata.X = np.minimum(adata.X, 5)
    adata.X[3, 3] = largest
    words = (
        rf"^X looks like counts \(whole numbers up to {largest}\), but is used as log-normalised expression\. .*"
        r"set log_normalised=false where a model is trained\.$"
    )
    with pytest.warns(UserWarning, match=words):
        tissue = prepared(adata, log_normalised=True)
    assert (dense(tissue) == adata.X).all()


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_zeros_or_fractions_are_no_reason_to_warn(scale: float) -> None:
    adata = counts_adata()
    adata.X = adata.X * np.float32(scale)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (dense(prepared(adata, log_normalised=True)) == adata.X).all()


def test_cells_without_a_count_stay_zero(caplog: pytest.LogCaptureFixture) -> None:
    """And take no part in the median."""
    adata = counts_adata(n_cells=5, n_genes=2)
    adata.X = np.array([[0, 0], [2, 0], [4, 4], [0, 0], [0, 0]], dtype=np.float32)
    with caplog.at_level(logging.WARNING):
        tissue = prepared(adata)
    assert tissue.preprocessing.target_sum == 5.0
    np.testing.assert_allclose(dense(tissue), np.log1p([[0, 0], [5, 0], [2.5, 2.5], [0, 0], [0, 0]]), rtol=1e-6)
    assert "3 of 5 cells have no count at all; they stay zero." in caplog.text


def test_a_tissue_of_zeros_is_refused() -> None:
    adata = counts_adata()
    adata.X[:] = 0
    assert refused(adata) == "X holds zeros only: no cell has a count."


# --- The input stays as it was


@pytest.mark.parametrize("log_normalised", [False, True])
@pytest.mark.parametrize("form", ["dense", "csr", "csc"])
@pytest.mark.parametrize("backed", [False, True])
def test_the_tissue_is_not_changed(form: str, log_normalised: bool, backed: bool, tmp_path: Path) -> None:
    adata = counts_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories(["unused"])
    values = np.log1p(adata.X) if log_normalised else adata.X
    adata.X = FORMS[form](values)
    adata.layers["counts"] = FORMS[form](values)
    kept = adata.copy()
    if backed:
        adata.write_h5ad(tmp_path / "tissue.h5ad")
        content = (tmp_path / "tissue.h5ad").read_bytes()
        adata = ad.read_h5ad(tmp_path / "tissue.h5ad", backed="r")
    for keys in (PLAIN, ALL_KEYS):
        tissue = prepared(adata, keys, log_normalised=log_normalised, genes=["gene2", "gene0"])
        tissue.expression.data[:] = -1  # what is returned is not the tissue's own, either
        tissue.coordinates[:] = -1
        whole = prepared(adata, keys, log_normalised=log_normalised)
        whole.expression.data[:] = -1
    if backed:
        adata.file.close()
        assert (tmp_path / "tissue.h5ad").read_bytes() == content
        adata = ad.read_h5ad(tmp_path / "tissue.h5ad")
    for one, other in ((adata.X, kept.X), (adata.layers["counts"], kept.layers["counts"])):
        assert type(one) is type(other)
        np.testing.assert_array_equal(sparse.csr_matrix(one).toarray(), sparse.csr_matrix(other).toarray())
    pd.testing.assert_frame_equal(adata.obs, kept.obs, check_categorical=True)
    pd.testing.assert_frame_equal(adata.var, kept.var)
    np.testing.assert_array_equal(adata.obsm["spatial"], kept.obsm["spatial"])
    assert dict(adata.uns) == dict(kept.uns)


def test_every_error_ends_in_a_sentence() -> None:
    """Messages are read by people: they end with a full stop and hold no double space."""
    adata = counts_adata()
    for keys in (TissueKeys(labels_key="x"), TissueKeys(coord_key="x"), TissueKeys(layer="x")):
        assert re.fullmatch(r"\S(?:(?!  ).)*\.", refused(adata, keys))


def test_cell_types_called_as_a_column_of_the_hub_table_are_refused_at_once() -> None:
    adata = counts_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).replace({adata.obs["cell_type"].iloc[0]: "hub_cluster"})
    assert "must not have cell types called 'hub_cluster'" in refused(adata)


def test_two_columns_of_one_name_are_named() -> None:
    adata = counts_adata()
    adata.obs = pd.concat([adata.obs, adata.obs[["cell_type"]]], axis=1)
    assert refused(adata).startswith("obs has 2 columns called 'cell_type' (labels_key)")


def test_a_path_is_no_tissue() -> None:
    with pytest.raises(TissueError, match="must be an AnnData object. Got str; read it with anndata.read_h5ad"):
        prepare_tissue("tissue.h5ad", TissueKeys(), log_normalised=False)  # type: ignore[arg-type]
