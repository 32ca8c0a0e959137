"""Tissues that people bring: each works, or is warned of, or is refused, in exactly these words.

What is run is what pipelines and notebooks run: the nodes that prepare a tissue, from its file, and the functions of
the package, in memory. The slow ones run it all, as a command does.
"""

from __future__ import annotations

import dataclasses
import gzip
import html
import logging
import pickle
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from kedro.io import DatasetError
from scipy import sparse
from threadpoolctl import threadpool_limits

from commands import Kedro, kedro_command
from sessions import give_store
from tissue_crosstalk import AttentionModule, train_model
from tissue_crosstalk.core.errors import CrosstalkError, NeighborError, TissueError
from tissue_crosstalk.core.files import Workspace
from tissue_crosstalk.core.flavors import FLAVORS
from tissue_crosstalk.core.model import CrosstalkModel
from tissue_crosstalk.core.model_input import from_anndata, prepare_for_model, prepare_for_training
from tissue_crosstalk.core.neighbors import Neighbors
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.tissue import PreparedTissue
from tissue_crosstalk.core.tissue_file import open_tissue
from tissue_crosstalk.core.training_settings import TrainingSettings
from tissue_crosstalk.datasets import AnnDataDataset
from tissue_crosstalk.params import TissueParams
from tissue_crosstalk.pipelines.extraction.nodes import prepare_model_input
from tissue_crosstalk.pipelines.training.nodes import prepare_training_input

N_CELLS, N_GENES, N_NEIGHBORS = 60, 8, 5
TINY = NetworkSettings(
    n_heads=2,
    n_head_size=4,
    n_label_embed=8,
    n_query_embed_hidden=16,
    n_query_dim=8,
    n_nn_embed=16,
    n_nn_embed_hidden=32,
    n_kv_dim=16,
    n_pos_coef_mlp_hidden=16,
)
SHORT = TrainingSettings(max_epochs=2, device="cpu")
PAD = {"pad_neighbors": True}
LOG = {"log_normalised": True}
SECTIONS = {"section_key": "section"}

Change = Callable[[ad.AnnData], Any]


def clean() -> ad.AnnData:
    """Return a tissue that nothing is wrong with: counts, three types, two sections side by side."""
    rng = np.random.default_rng(0)
    return ad.AnnData(
        X=sparse.csr_matrix(rng.poisson(2.0, size=(N_CELLS, N_GENES)).astype(np.float32)),
        obs=pd.DataFrame(
            {
                "cell_type": pd.Categorical(["ABC"[cell % 3] for cell in range(N_CELLS)]),
                "section": pd.Categorical(["left" if cell < N_CELLS // 2 else "right" for cell in range(N_CELLS)]),
            },
            index=[f"cell{cell}" for cell in range(N_CELLS)],
        ),
        var=pd.DataFrame(index=[f"gene{gene}" for gene in range(N_GENES)]),
        obsm={"spatial": rng.uniform(0, 100, size=(N_CELLS, 2))},
    )


# --- Outcomes


@dataclasses.dataclass(frozen=True)
class Works:
    """It is used, as its clean equivalent is.

    Attributes
    ----------
    like
        Makes the clean equivalent from :func:`clean`.
    renamed
        What cell types of the equivalent are called here.
    heard
        Warnings, all of them, in this order.
    """

    like: Change = lambda adata: adata
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    heard: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Refused:
    """It is an error, of this class and in these words."""

    words: str
    error: type[CrosstalkError] = TissueError


@dataclasses.dataclass(frozen=True)
class Case:
    """A tissue, what is done with it, and what comes of it.

    Attributes
    ----------
    name
        What is the matter with it.
    change
        Makes it from :func:`clean`, in place or as what is returned.
    outcome
        What comes of it.
    params
        Block ``tissue_reading``.
    for_model
        It is prepared for a model that was trained on the clean tissue, not to train one.
    kind
        File that it is written to; None: anndata does not write such a tissue.
    """

    name: str
    change: Change
    outcome: Works | Refused
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    for_model: bool = False
    kind: str | None = "h5ad"

    def made(self) -> ad.AnnData:
        return changed(self.change)

    def reading(self) -> TissueParams:
        return TissueParams(**{"n_neighbors": N_NEIGHBORS, **self.params})


def changed(change: Change) -> ad.AnnData:
    """Return a changed tissue, whatever anndata and pandas say of the change."""
    adata = clean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = change(adata)
    return result if isinstance(result, ad.AnnData) else adata


def opened(adata: ad.AnnData, kind: str, folder: Path) -> ad.AnnData:
    """Return a tissue as the catalog gives it to a node: from its file, which is read by rows."""
    path = folder / f"tissue.{kind}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(path) if kind == "zarr" else adata.write_h5ad(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(Observation|Variable) names are not unique|Transforming to str")
        return AnnDataDataset(filepath=str(path), lazy=True).load()


# --- Changes


def x(change: Callable[[np.ndarray], Any]) -> Change:
    """Change the expression, given dense."""
    return lambda adata: setattr(adata, "X", change(adata.X.toarray()))


def sparse_x(change: Callable[[sparse.csr_matrix], Any]) -> Change:
    return lambda adata: setattr(adata, "X", change(adata.X))


def places(change: Callable[[np.ndarray], Any]) -> Change:
    return lambda adata: adata.obsm.__setitem__("spatial", change(adata.obsm["spatial"]))


def column(name: str, values: Callable[[pd.DataFrame], Any]) -> Change:
    return lambda adata: setattr(adata, "obs", adata.obs.assign(**{name: values(adata.obs)}))


def types(change: Callable[[pd.Series], Any]) -> Change:
    """Change the cell types, given as text."""
    return column("cell_type", lambda obs: change(obs["cell_type"].astype(str)))


def renamed(**names: str) -> Change:
    return types(lambda kinds: kinds.replace(names).astype("category"))


def obs_names(names: Callable[[list[str]], Any]) -> Change:
    return lambda adata: setattr(adata.obs, "index", pd.Index(names(list(adata.obs_names))))


def var_names(names: Callable[[list[str]], Any]) -> Change:
    return lambda adata: setattr(adata.var, "index", pd.Index(names(list(adata.var_names))))


def both(*changes: Change) -> Change:
    def change(adata: ad.AnnData) -> ad.AnnData:
        for one in changes:
            result = one(adata)
            adata = result if isinstance(result, ad.AnnData) else adata
        return adata

    return change


def of_types(*kinds: str) -> Change:
    return lambda adata: adata[adata.obs["cell_type"].isin(kinds)].copy()


def with_entry(value: float, dtype: type = np.float32) -> Change:
    """Put a value in the place of one, that of gene2 in cell4."""

    def change(values: np.ndarray) -> np.ndarray:
        values = values.astype(dtype)
        values[4, 2] = value
        return values

    return x(change)


def in_disorder(values: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the same counts with unsorted rows, stored zeros, and each value in two entries."""
    data, indices, indptr = [], [], [0]
    for row in values.toarray():
        for gene in np.arange(N_GENES)[::-1]:
            data += [row[gene] - min(1, row[gene]), 0.0, min(1, row[gene])]
            indices += [gene] * 3
        indptr.append(len(data))
    return sparse.csr_matrix((np.array(data, np.float32), indices, indptr), shape=values.shape)


def with_extra_genes(adata: ad.AnnData) -> ad.AnnData:
    whole = sparse.hstack([np.full((N_CELLS, 2), 7.0, np.float32), adata.X], format="csr")
    names = pd.DataFrame(index=["before", "beside", *adata.var_names])
    return ad.AnnData(X=whole, obs=adata.obs, var=names, obsm=adata.obsm)


def nullable_places(*missing: int) -> Change:
    """Return what makes a table of pandas' own whole numbers of the coordinates, without the y of some cells."""

    def change(adata: ad.AnnData) -> None:
        table = pd.DataFrame(np.floor(adata.obsm["spatial"]), index=adata.obs_names, columns=["x", "y"]).astype("Int64")
        table.iloc[list(missing), 1] = pd.NA
        adata.obsm["spatial"] = table

    return change


def moved_to_obs(x_name: str, y_name: str) -> Change:
    def change(adata: ad.AnnData) -> None:
        at = adata.obsm.pop("spatial")
        adata.obs[x_name], adata.obs[y_name] = at[:, 0], at[:, 1]

    return change


def tiny_section(n_cells: int) -> Change:
    return column("section", lambda obs: pd.Categorical(["tiny"] * n_cells + ["big"] * (len(obs) - n_cells)))


def first(what: str, n: int) -> Change:
    """Make the first `n` cells another type."""
    return types(lambda kinds: pd.Categorical([what] * n + list(kinds)[n:]))


def one_type_on_the_left(adata: ad.AnnData) -> None:
    kinds = adata.obs["cell_type"].astype(str)
    adata.obs["cell_type"] = kinds.where(adata.obs["section"] == "right", "A")


# --- The table

NO_NEIGHBOR = "no cell has a neighbor: neighbors are of another cell type in the same section. Got one cell type"
CHECK_KEYS = "Check labels_key and section_key."
TOO_FEW = "every cell type needs at least n_neighbors = 5 cells of other types as candidates, but"
LOWER = "Lower n_neighbors, drop these cells, or set pad_neighbors=true."
NOT_FINITE = (
    "X must hold finite values of at least 0. {} values are negative, NaN or infinite, first of gene {!r} in cell "
    "{!r}. Give counts or log-normalised expression, not scaled values (layer chooses where it is)."
)
LIKE_COUNTS = (
    "X looks like counts (whole numbers up to 9), but is used as log-normalised expression. If it holds counts, "
    "normalise and log1p them first, or set log_normalised=false where a model is trained."
)
NORMALISED_ALREADY = (
    "X must hold counts (whole numbers) to be normalised, but it has fractions (largest value {}): it seems to be "
    "normalised already. Set log_normalised=true, or layer to the layer with the counts."
)
SHAPE = "obsm['spatial'] (coord_key) must be of shape (cell, 2) or (cell, 3). Got {} instead."
NO_NUMBERS = (
    "obsm['spatial'] (coord_key) must hold numbers. Got values of type {}. Give it x and y (and z) of each cell alone."
)
SAME_PLACES = (
    "{} of 60 cells lie exactly where another cell does (distance 0). If sections share coordinates, set section_key."
)
ANOTHER_UNIT = (
    "the nearest neighbor of a cell is {} away (median), but the model was trained for 10.2. If obsm['spatial'] "
    "(coord_key) is in another unit than that of the model's tissue, convert it; attention falls with the distance."
)
MISSING_VALUE = (
    "column {!r} of obs ({}) must have a value for every cell. {} of 60 cells have none ({}), first {}; drop these "
    "cells or give them a value of their own."
)
UNKNOWN_TYPES = (
    "column 'cell_type' of obs has cell types that the model does not know: {}.{} The model knows 'A', 'B', 'C'. "
    "Rename them, or drop these cells."
)
MISSING_GENES = (
    "the tissue lacks {} of the model's 8 genes: {}.{} Give a tissue measured with the same genes (var_names), or "
    "train a model on this one."
)
ALIKE = (
    "column 'cell_type' of obs (labels_key) has values that differ in upper and lower case or in spaces only: {}. They "
    "count as different ones, and cells of one are neighbors of the other; if they mean the same, make them one."
)
READS_MISSING = (
    "column 'cell_type' of obs (labels_key) has the value {!r} for 20 of 60 cells, which reads like a missing one. It "
    "is taken like any other; if these cells have none, drop them."
)
NO_COLUMN = "{} names the column {!r}, which is not in the tissue's obs.{} Its columns are 'cell_type', 'section'."
ALL_GENES = "'gene0', 'gene1', 'gene2', 'gene3', 'gene4', 'gene5', 'gene6', 'gene7'"
LONG = " ".join(["very long"] * 30)

EXPRESSION = [
    Case("nothing is wrong", lambda adata: None, Works()),
    Case("no cell", lambda adata: adata[:0].copy(), Refused("the tissue is empty: it has 0 cells and 8 genes.")),
    Case("no gene", lambda adata: adata[:, :0].copy(), Refused("the tissue is empty: it has 60 cells and 0 genes.")),
    Case("one cell", lambda adata: adata[:1].copy(), Refused(f"{NO_NEIGHBOR} ('A'). {CHECK_KEYS}", NeighborError)),
    Case(
        "one gene",
        lambda adata: adata[:, :1].copy(),
        Works(
            like=lambda adata: adata[:, ["gene0"]].copy(),
            heard=("11 of 60 cells have no count at all; they stay zero.",),
        ),
    ),
    Case("zeros as counts", x(np.zeros_like), Refused("X holds zeros only: no cell has a count.")),
    Case("zeros as logarithms", x(np.zeros_like), Works(like=x(np.zeros_like)), LOG),
    Case("one gene is the same in all cells", x(lambda values: np.c_[np.ones(N_CELLS), values[:, 1:]]), Works(
        like=sparse_x(lambda values: sparse.hstack([np.ones((N_CELLS, 1)), values[:, 1:]], format="csr"))
    )),
    Case("scaled values", x(lambda values: values - values.mean(axis=0)),
         Refused(NOT_FINITE.format(266, "gene1", "cell0"))),
    Case("a negative value", with_entry(-1), Refused(NOT_FINITE.format(1, "gene2", "cell4"))),
    Case("NaN", with_entry(np.nan), Refused(NOT_FINITE.format(1, "gene2", "cell4"))),
    Case("infinity", with_entry(np.inf), Refused(NOT_FINITE.format(1, "gene2", "cell4"))),
    Case("minus infinity", with_entry(-np.inf), Refused(NOT_FINITE.format(1, "gene2", "cell4")), LOG),
    Case("a value beyond float32", with_entry(1e39, np.float64), Refused(NOT_FINITE.format(1, "gene2", "cell4"))),
    Case("counts where logarithms are expected", lambda adata: None, Works(heard=(LIKE_COUNTS,)), LOG),
    Case("logarithms where counts are expected", x(np.log1p),
         Refused(NORMALISED_ALREADY.format("2.30259"))),
    Case("normalised counts without the logarithm", x(lambda values: values * 1234.5),
         Works(like=x(lambda values: values * 1234.5), heard=(
             "X has values up to 11110.5, more than a logarithm of counts can be, but is used as log-normalised "
             "expression. If it is normalised alone, log1p it first.",)), LOG),
    Case("int64 counts", x(lambda values: values.astype(np.int64)), Works()),
    Case("uint8 counts", x(lambda values: values.astype(np.uint8)), Works()),
    Case("float64 counts", x(lambda values: values.astype(np.float64)), Works()),
    Case("float16 counts", x(lambda values: values.astype(np.float16)), Works()),
    Case("truth values", x(lambda values: values > 0), Works(like=x(lambda values: (values > 0).astype(np.float32)))),
    Case("complex numbers", x(lambda values: values + 1j),
         Refused("X must hold numbers. Got values of type complex64.")),
    Case("objects", x(lambda values: values.astype(object)),
         Refused("X must hold numbers. Got values of type object."), kind=None),
    Case("one enormous count", with_entry(1e9), Works(like=with_entry(1e9))),
    Case("dense", x(lambda values: values), Works()),
    Case("dense by columns", x(np.asfortranarray), Works()),
    Case("stored by columns", sparse_x(lambda values: values.tocsc()), Works()),
    Case("made from triplets", sparse_x(lambda values: values.tocoo().tocsr()), Works()),
    Case("unsorted, stored zeros, values in parts", sparse_x(in_disorder), Works()),
    Case("a zarr store", lambda adata: None, Works(), kind="zarr"),
    Case("a dense zarr store", x(lambda values: values), Works(), kind="zarr"),
    Case("raw is there", lambda adata: setattr(adata, "raw", adata[:, :3].copy()), Works()),
    Case("X is a view of more cells", lambda adata: ad.concat([adata, adata], index_unique="-")[:N_CELLS], Works(
        like=obs_names(lambda names: [f"{name}-0" for name in names])
    )),
    Case("no X", lambda adata: setattr(adata, "X", None),
         Refused("the tissue has no X. Set layer to the layer that holds its expression.")),
    Case("no X, but a layer",
         both(lambda adata: adata.layers.__setitem__("counts", adata.X.copy()),
              lambda adata: setattr(adata, "X", None)),
         Works(), {"layer": "counts"}),
    Case("no layer at all", lambda adata: None,
         Refused("layer names 'counts', which is not in the tissue's layers. It has no layers."), {"layer": "counts"}),
    Case("layer misspelt", lambda adata: adata.layers.__setitem__("counts", adata.X.copy()),
         Refused("layer names 'Count', which is not in the tissue's layers. Did you mean 'counts'? Its layers are "
                 "'counts'."), {"layer": "Count"}),
]  # fmt: skip

COORDINATES = [
    Case("NaN coordinates", places(lambda at: np.where(np.arange(N_CELLS)[:, None] < 2, np.nan, at)), Refused(
        "obsm['spatial'] (coord_key) must be finite. 2 of 60 cells have NaN or infinite coordinates, first 'cell0', "
        "'cell1'; drop these cells.")),
    Case("all at one place", places(np.zeros_like), Works(like=places(np.zeros_like), heard=(SAME_PLACES.format(59),))),
    Case("two sections at the same places", places(lambda at: np.r_[at[:30], at[:30]]), Works(
        like=places(lambda at: np.r_[at[:30], at[:30]]), heard=(SAME_PLACES.format(30),))),
    Case("sections at the same places, told apart", places(lambda at: np.r_[at[:30], at[:30]]), Works(
        like=places(lambda at: np.r_[at[:30], at[:30]])), SECTIONS),
    Case("on one line", places(lambda at: np.c_[at[:, 0], np.zeros(N_CELLS)]), Works(
        like=places(lambda at: np.c_[at[:, 0], np.zeros(N_CELLS)]))),
    Case("three axes, one of them constant", places(lambda at: np.c_[at, np.full(N_CELLS, 3.0)]), Works(
        like=places(lambda at: np.c_[at, np.full(N_CELLS, 3.0)]))),
    Case("one axis", places(lambda at: at[:, :1]), Refused(SHAPE.format((60, 1)))),
    Case("a list of numbers", places(lambda at: at[:, 0]), Refused(SHAPE.format((60, 1)))),
    Case("three dimensions", places(lambda at: np.stack([at, at], axis=2)), Refused(SHAPE.format((60, 2, 2)))),
    Case("principal components", lambda adata: adata.obsm.__setitem__("X_pca", np.ones((N_CELLS, 30))),
         Refused(SHAPE.replace("spatial", "X_pca").format((60, 30))), {"coord_key": "X_pca"}),
    Case("integer coordinates", places(lambda at: (at * 10).astype(np.int32)), Works(
        like=places(lambda at: np.floor(at * 10)))),
    Case("unsigned coordinates", places(lambda at: (at * 10).astype(np.uint16)), Works(
        like=places(lambda at: np.floor(at * 10)))),
    Case("numbers as text", places(lambda at: at.astype(str)), Works()),
    Case("words as coordinates", places(lambda at: np.full((N_CELLS, 2), "here", dtype=object)),
         Refused(NO_NUMBERS.format("object"))),
    Case("objects that are numbers", places(lambda at: at.astype(object)), Works(), kind=None),
    Case("objects of which one is None", places(lambda at: np.r_[np.array([[None, 1.0]]), at[1:].astype(object)]),
         Refused("obsm['spatial'] (coord_key) must be finite. 1 of 60 cells have NaN or infinite coordinates, first "
                 "'cell0'; drop these cells."), kind=None),
    Case("complex coordinates", places(lambda at: at + 1j), Refused(NO_NUMBERS.format("complex128"))),
    Case("truth values as coordinates", places(lambda at: at > 50), Refused(NO_NUMBERS.format("bool"))),
    Case("dates as coordinates", places(lambda at: at.astype("datetime64[s]")),
         Refused(NO_NUMBERS.format("datetime64[s]")), kind=None),
    Case("a table of coordinates", lambda adata: adata.obsm.__setitem__(
        "spatial", pd.DataFrame(adata.obsm["spatial"], index=adata.obs_names, columns=["x", "y"])), Works()),
    Case("a table with names of cells among the coordinates", lambda adata: adata.obsm.__setitem__(
        "spatial", pd.DataFrame({"id": adata.obs_names, "x": 1.0, "y": 2.0}, index=adata.obs_names)),
        Refused(NO_NUMBERS.format("object in the columns 'id', 'x', 'y'"))),
    Case("nullable columns of coordinates", nullable_places(), Works(like=places(np.floor))),
    Case("NA in nullable columns of coordinates", nullable_places(3), Refused(
        "obsm['spatial'] (coord_key) must be finite. 1 of 60 cells have NaN or infinite coordinates, first 'cell3'; "
        "drop these cells.")),
    Case("placeholders of missing coordinates", places(lambda at: np.r_[at[:-1], [[-1.7e308, -1.7e308]]]), Refused(
        "obsm['spatial'] (coord_key) must hold places. 1 of 60 cells have coordinates beyond 1e+30, first 'cell59', "
        "which stand for missing ones; drop these cells.")),
    Case("no coordinates", lambda adata: adata.obsm.pop("spatial") is None,
         Refused("coord_key names 'spatial', which is not in the tissue's obsm. It has no keys.")),
    Case("coordinates in obs", moved_to_obs("x_centroid", "y_centroid"), Refused(
        "coord_key names 'spatial', which is not in the tissue's obsm. It has no keys. If the columns 'x_centroid', "
        "'y_centroid' of obs are the coordinates: "
        "adata.obsm['spatial'] = adata.obs[['x_centroid', 'y_centroid']].to_numpy()")),
    Case("coordinates under another key", lambda adata: adata.obsm.__setitem__("X_spatial", adata.obsm.pop("spatial")),
         Refused("coord_key names 'spatial', which is not in the tissue's obsm. Did you mean 'X_spatial'? Its keys are "
                 "'X_spatial'.")),
    Case("a thousandth of the model's unit", places(lambda at: at / 1000), Works(
        like=places(lambda at: at / 1000), heard=(ANOTHER_UNIT.format("0.0102"),)), for_model=True),
    Case("a thousand times the model's unit", places(lambda at: at * 1000), Works(
        like=places(lambda at: at * 1000), heard=(ANOTHER_UNIT.format("1.02e+04"),)), for_model=True),
    Case("pixels of a fifth of the model's unit", places(lambda at: at / 0.2125), Works(
        like=places(lambda at: at / 0.2125), heard=(ANOTHER_UNIT.format("48.2"),)), for_model=True),
    Case("twice as far apart as the model's tissue", places(lambda at: at * 2), Works(
        like=places(lambda at: at * 2)), for_model=True),
    Case("radii in another unit", column("radius", lambda obs: 4000.0), Works(
        like=column("radius", lambda obs: 4000.0),
        heard=("radii of column 'radius' of obs (radius_key) are so large that most cells overlap all their neighbors "
               "(distance 0). Are they in the unit of obsm['spatial']?",)), {"radius_key": "radius"}),
    Case("dates as radii", column("radius", lambda obs: pd.Timestamp("2020-01-01")), Refused(
        "column 'radius' of obs (radius_key) must hold finite radii of at least 0. 60 of 60 cells do not have one, "
        "first 'cell0', 'cell1', 'cell2' and 57 more."), {"radius_key": "radius"}, kind=None),
    Case("radii as text", column("radius", lambda obs: "1.5"), Works(like=column("radius", lambda obs: 1.5)),
         {"radius_key": "radius"}),
]  # fmt: skip

LABELS = [
    Case("one type", of_types("A"), Refused(f"{NO_NEIGHBOR} ('A'). {CHECK_KEYS}", NeighborError)),
    Case("one type, padded", of_types("A"), Refused(f"{NO_NEIGHBOR} ('A'). {CHECK_KEYS}", NeighborError), PAD),
    Case("each cell a section of its own", column("section", lambda obs: obs.index), Refused(
        f"{NO_NEIGHBOR} in each of 60 sections ('A', 'B', 'C'). {CHECK_KEYS}", NeighborError), {**SECTIONS, **PAD}),
    Case("two cells of a type", first("D", 2), Works(like=first("D", 2))),
    Case("one cell of a type", first("D", 1), Works(like=first("D", 1))),
    Case("more neighbors than cells", lambda adata: adata[:6].copy(), Refused(
        f"{TOO_FEW} cell type 'A' (2 cells) has 4; cell type 'B' (2 cells) has 4; cell type 'C' (2 cells) has 4. "
        f"{LOWER}", NeighborError)),
    Case("more neighbors than cells, padded", lambda adata: adata[:6].copy(), Works(
        like=lambda adata: adata[:6].copy()), PAD),
    Case("a section with fewer cells than neighbors", tiny_section(4), Refused(
        f"{TOO_FEW} cell type 'A' in section 'tiny' (2 cells) has 2; cell type 'B' in section 'tiny' (1 cells) has 3; "
        f"cell type 'C' in section 'tiny' (1 cells) has 3. {LOWER}", NeighborError), SECTIONS),
    Case("a section with fewer cells than neighbors, padded", tiny_section(4), Works(like=tiny_section(4)),
         {**SECTIONS, **PAD}),
    Case("a section of one cell", tiny_section(1), Refused(
        f"{TOO_FEW} cell type 'A' in section 'tiny' (1 cells) has 0. {LOWER}", NeighborError), SECTIONS),
    Case("a section of one cell, padded", tiny_section(1), Works(like=tiny_section(1)), {**SECTIONS, **PAD}),
    Case("a section of one type", one_type_on_the_left, Refused(
        f"{TOO_FEW} cell type 'A' in section 'left' (30 cells) has 0. {LOWER}", NeighborError), SECTIONS),
    Case("a section of one type, padded", one_type_on_the_left, Works(like=one_type_on_the_left), {**SECTIONS, **PAD}),
    Case("categories without a cell", column("cell_type", lambda obs: obs["cell_type"].cat.add_categories(["0", "Z"])),
         Works()),
    Case("categories renamed", column("cell_type", lambda obs: obs["cell_type"].cat.rename_categories(
        {"A": "T", "B": "NK", "C": "B"})), Works(renamed={"A": "T", "B": "NK", "C": "B"})),
    Case("categories with an order", column("cell_type", lambda obs: obs["cell_type"].cat.reorder_categories(
        ["C", "A", "B"], ordered=True)), Works()),
    Case("types as text", types(lambda kinds: kinds), Works()),
    Case("types as text of pandas", types(lambda kinds: kinds.astype("string")), Works()),
    Case("types as whole numbers", types(lambda kinds: kinds.map({"A": 1, "B": 2, "C": 10})), Works(
        renamed={"A": "1", "B": "2", "C": "10"})),
    Case("types as numbers", types(lambda kinds: kinds.map({"A": 1.0, "B": 2.5, "C": 10.0})), Works(
        renamed={"A": "1.0", "B": "2.5", "C": "10.0"})),
    Case("types as truth values", types(lambda kinds: kinds == "A"), Works(
        like=types(lambda kinds: kinds.replace({"C": "B"})), renamed={"A": "True", "B": "False"})),
    Case("types of mixed kinds", types(lambda kinds: kinds.map({"A": 1, "B": "b", "C": 2.5})), Works(
        renamed={"A": "1", "B": "b", "C": "2.5"}), kind=None),
    Case("types that read the same", types(lambda kinds: kinds.map({"A": 1, "B": "1", "C": "c"})), Refused(
        "column 'cell_type' of obs (labels_key) has different values that read the same as text, such as 1 and '1'; "
        "make the column text."), kind=None),
    Case("lists of types", types(lambda kinds: kinds.map(lambda kind: [kind])), Refused(
        "column 'cell_type' of obs (labels_key) must hold one value per cell, such as text. Got values of type list; "
        "make the column text."), kind=None),
    Case("cells without a type", types(lambda kinds: kinds.where(np.arange(N_CELLS) > 3)), Refused(
        MISSING_VALUE.format("cell_type", "labels_key", 4, "NaN", "'cell0', 'cell1', 'cell2' and 1 more"))),
    Case("types that are empty text", types(lambda kinds: kinds.where(np.arange(N_CELLS) > 1, "")), Refused(
        MISSING_VALUE.format("cell_type", "labels_key", 2, "empty text", "'cell0', 'cell1'"))),
    Case("types that are a space", types(lambda kinds: kinds.where(np.arange(N_CELLS) > 1, " ")), Refused(
        MISSING_VALUE.format("cell_type", "labels_key", 2, "empty text", "'cell0', 'cell1'"))),
    Case("missing types made text", renamed(B="nan"), Works(
        renamed={"B": "nan"}, heard=(READS_MISSING.format("nan"),))),
    Case("one type in two cases", renamed(A="T cell", B="t cell"), Works(
        renamed={"A": "T cell", "B": "t cell"}, heard=(ALIKE.format("'T cell', 't cell'"),))),
    Case("one type with a space behind", renamed(A="T", B="T "), Works(
        renamed={"A": "T", "B": "T "}, heard=(ALIKE.format("'T', 'T '"),))),
    Case("types in other scripts", renamed(A="神经元", B="Zellé 😀", C="\u202eabc"), Works(
        renamed={"A": "神经元", "B": "Zellé 😀", "C": "\u202eabc"})),
    Case("a very long type", renamed(A=LONG), Works(renamed={"A": LONG})),
    Case("a type with a line break", renamed(A="a\nb"), Works(renamed={"A": "a\nb"})),
    Case("a type that is HTML", renamed(A="<script>alert(1)</script>"), Works(
        renamed={"A": "<script>alert(1)</script>"})),
    Case("a type that is a path", renamed(A="../../L2/3 IT"), Works(renamed={"A": "../../L2/3 IT"})),
    Case("a type called as a column of the hub table", renamed(A="hub_cluster"), Refused(
        "column 'cell_type' of obs must not have cell types called 'hub_cluster': these are columns of the hub table. "
        "Rename them.")),
    Case("a column of measurements as types", column("total", lambda obs: np.arange(N_CELLS) + 0.5), Works(
        like=types(lambda kinds: [f"{cell}.5" for cell in range(N_CELLS)]),
        heard=("labels_key 'total' has 60 different values in 60 cells; is it a column of cell types?",)),
        {"labels_key": "total"}),
    Case("dates as types", column("cell_type", lambda obs: pd.to_datetime(
        obs["cell_type"].map({"A": "2020-01-01", "B": "2021-01-01", "C": "2022-01-01"}))), Works(
        renamed={"A": "2020-01-01 00:00:00", "B": "2021-01-01 00:00:00", "C": "2022-01-01 00:00:00"}), kind=None),
    Case("no column of types", lambda adata: setattr(adata, "obs", adata.obs[["section"]]), Refused(
        "labels_key names the column 'cell_type', which is not in the tissue's obs. Its columns are 'section'.")),
    Case("no column at all", lambda adata: setattr(adata, "obs", adata.obs[[]]), Refused(
        "labels_key names the column 'cell_type', which is not in the tissue's obs. It has no columns.")),
    Case("labels_key misspelt", lambda adata: None, Refused(
        NO_COLUMN.format("labels_key", "celltype", " Did you mean 'cell_type'?")), {"labels_key": "celltype"}),
    Case("section_key misspelt", lambda adata: None, Refused(
        NO_COLUMN.format("section_key", "Sections", " Did you mean 'section'?")), {"section_key": "Sections"}),
    Case("the index as labels_key", lambda adata: None, Refused(NO_COLUMN.format("labels_key", "index", "")),
         {"labels_key": "index"}),
    Case("cells without a section", column("section", lambda obs: obs["section"].where(np.arange(N_CELLS) > 0)),
         Refused(
        MISSING_VALUE.format("section", "section_key", 1, "NaN", "'cell0'")), SECTIONS),
    Case("sections as numbers", column("section", lambda obs: np.arange(N_CELLS) // 30), Works(), SECTIONS),
]  # fmt: skip

NAMES = [
    Case("index called as a column", lambda adata: setattr(adata.obs.index, "name", "cell_type"), Works(), kind=None),
    Case("names of cells are numbers", obs_names(lambda names: range(N_CELLS)), Works(
        like=obs_names(lambda names: [str(number) for number in range(N_CELLS)]))),
    Case("names of cells in other scripts", obs_names(lambda names: [f"细胞{name}\n<b>" for name in names]), Works(
        like=obs_names(lambda names: [f"细胞{name}\n<b>" for name in names]))),
    Case("one name of a cell is empty", obs_names(lambda names: ["", *names[1:]]), Works(
        like=obs_names(lambda names: ["", *names[1:]]))),
    Case("names of cells twice", obs_names(lambda names: [names[0], *names[:-1]]), Refused(
        "obs_names (cell names) must be unique. Got 'cell0' more than once; call adata.obs_names_make_unique().")),
    Case("no names of cells", obs_names(lambda names: [""] * N_CELLS), Refused(
        "obs_names (cell names) must be unique. Got '' more than once; call adata.obs_names_make_unique().")),
    Case("names of genes twice", var_names(lambda names: [names[1], *names[1:]]), Refused(
        "var_names (gene names) must be unique. Got 'gene1' more than once; call adata.var_names_make_unique().")),
    Case("names of genes are numbers", var_names(lambda names: range(N_GENES)), Works(
        like=var_names(lambda names: [str(number) for number in range(N_GENES)]))),
    Case("no names of genes", var_names(lambda names: [""] * N_GENES), Refused(
        "var_names (gene names) must be unique. Got '' more than once; call adata.var_names_make_unique().")),
]  # fmt: skip

FOR_A_MODEL = [
    dataclasses.replace(case, for_model=True)
    for case in (
        Case("nothing is wrong for the model", lambda adata: None, Works()),
        Case("genes in another order", lambda adata: adata[:, ::-1].copy(), Works()),
        Case("more genes than the model", with_extra_genes, Works()),
        Case("genes are missing", lambda adata: adata[:, 2:].copy(), Refused(
            MISSING_GENES.format(2, "'gene0', 'gene1'", ""))),
        Case("genes in upper case", var_names(lambda names: [name.upper() for name in names]), Refused(
            MISSING_GENES.format(8, ALL_GENES, " They differ in upper and lower case only."))),
        Case("other genes", var_names(lambda names: [f"ENSG{number}" for number in range(N_GENES)]), Refused(
            MISSING_GENES.format(8, ALL_GENES, ""))),
        Case("names of genes in a column", lambda adata: setattr(adata, "var", pd.DataFrame(
            {"symbol": list(adata.var_names)}, index=[f"ENSG{number}" for number in range(N_GENES)])), Refused(
            MISSING_GENES.format(
                8, ALL_GENES, " Column 'symbol' of var has them: set adata.var_names = adata.var['symbol']."))),
        Case("genes twice that the model does not use", both(
            with_extra_genes, var_names(lambda names: ["same", "same", *names[2:]])), Works()),
        Case("a gene twice that the model uses", both(
            with_extra_genes, var_names(lambda names: ["gene0", *names[1:]])), Refused(
            "var_names (gene names) that the model uses must be unique. Got 'gene0' more than once; keep one of "
            "each.")),
        Case("a type of the model is missing", of_types("A", "B"), Works(like=of_types("A", "B"))),
        Case("a type more than the model", first("D", 2), Refused(UNKNOWN_TYPES.format("'D'", ""))),
        Case("types renamed since", renamed(A="a", B="b", C="c"), Refused(
            UNKNOWN_TYPES.format("'a', 'b', 'c'", " Did you mean 'A'?"))),
        Case("types in another order", column("cell_type", lambda obs: obs["cell_type"].cat.reorder_categories(
            ["C", "B", "A"])), Works()),
        Case("one type of the model", of_types("A"), Refused(f"{NO_NEIGHBOR} ('A'). {CHECK_KEYS}", NeighborError)),
        Case("sections that the model did not have", lambda adata: None, Works(), SECTIONS),
        Case("fewer cells than neighbors of the model", lambda adata: adata[:6].copy(), Refused(
            f"{TOO_FEW} cell type 'A' (2 cells) has 4; cell type 'B' (2 cells) has 4; cell type 'C' (2 cells) has 4. "
            f"{LOWER}", NeighborError)),
        Case("logarithms for a model of counts", x(np.log1p), Refused(NORMALISED_ALREADY.format("2.30259"))),
        Case("logarithms for a model of counts, as told", x(np.log1p), Works(like=x(np.log1p)), LOG),
        Case("a cell without a count", x(lambda values: np.r_[np.zeros((1, N_GENES)), values[1:]]), Works(
            like=sparse_x(lambda values: sparse.vstack([np.zeros((1, N_GENES)), values[1:]], format="csr")),
            heard=("1 of 60 cells have no count at all; they stay zero.",))),
    )
]  # fmt: skip

CASES = [*EXPRESSION, *COORDINATES, *LABELS, *NAMES, *FOR_A_MODEL]


# --- Running them


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread: on tiny arrays, threads that wait for each other take several times as long."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def model() -> CrosstalkModel:
    """A model of the clean tissue, as read from a file: it does not remember the tissue."""
    trained = train_model(clean(), n_neighbors=N_NEIGHBORS, network=TINY, settings=SHORT, prog_bar=False)
    return dataclasses.replace(trained, tissue=None)


@dataclasses.dataclass
class Heard:
    """What a user hears of the package beside an error."""

    caught: list[warnings.WarningMessage]
    log: pytest.LogCaptureFixture

    @property
    def messages(self) -> list[str]:
        said = [str(warning.message) for warning in self.caught]
        return said + [record.getMessage() for record in self.log.records if record.levelno >= logging.WARNING]


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[Heard]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield Heard(caught, caplog)


def from_file(case: Case, adata: ad.AnnData, model: CrosstalkModel, folder: Path) -> ad.AnnData:
    """Do what the first node of a pipeline does, and return the model input that it left."""
    workspace = Workspace(folder / "study")
    if case.for_model:
        finished = prepare_model_input(adata, model, case.reading(), workspace)
    else:
        finished = prepare_training_input(adata, case.reading(), workspace)
    return open_tissue(finished.path)


def in_memory(
    case: Case, adata: ad.AnnData, model: CrosstalkModel, params: TissueParams
) -> tuple[PreparedTissue, Neighbors]:
    if case.for_model:
        return prepare_for_model(
            adata,
            model,
            params.keys(model.keys),
            log_normalised=params.log_normalised,
            pad_neighbors=params.pad_neighbors,
        )
    return from_anndata(
        prepare_for_training(
            adata,
            params.keys(),
            log_normalised=params.log_normalised,
            n_neighbors=N_NEIGHBORS,
            pad_neighbors=params.pad_neighbors,
        )
    )


def expected_of(case: Case, model: CrosstalkModel) -> tuple[PreparedTissue, Neighbors]:
    """Return the equivalent tissue, prepared in its plainest form."""
    assert isinstance(case.outcome, Works)
    params = dataclasses.replace(case.reading(), layer=None, labels_key=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return in_memory(case, changed(case.outcome.like), model, params)


def assert_as_expected(
    found: tuple[PreparedTissue, Neighbors], expected: tuple[PreparedTissue, Neighbors], names: Mapping[str, str]
) -> None:
    (tissue, neighbors), (plain, plain_neighbors) = found, expected
    assert tissue.genes == plain.genes
    assert (tissue.expression != plain.expression).nnz == 0
    for name in ("coordinates", "cell_names", "positions", "sections"):
        np.testing.assert_array_equal(getattr(tissue, name), getattr(plain, name), err_msg=name)
    np.testing.assert_array_equal(neighbors.idx, plain_neighbors.idx)
    np.testing.assert_array_equal(neighbors.dist, plain_neighbors.dist)
    assert [tissue.cell_types[label] for label in tissue.labels] == [
        names.get(plain.cell_types[label], plain.cell_types[label]) for label in plain.labels
    ]
    assert len(tissue.cell_types) == len(plain.cell_types)
    assert tissue.preprocessing == plain.preprocessing
    assert not (tissue.labels[neighbors.idx] == tissue.labels[:, None])[neighbors.idx >= 0].any()


def identifiers(cases: list[Case]) -> list[Any]:
    assert len({case.name for case in cases}) == len(cases)
    return [pytest.param(case, id=case.name) for case in cases]


def test_there_are_no_two_cases_of_one_name() -> None:
    assert len(identifiers(CASES)) >= 75


@pytest.mark.parametrize("case", identifiers([case for case in CASES if case.kind]))
def test_from_its_file(case: Case, model: CrosstalkModel, heard: Heard, tmp_path: Path) -> None:
    """As the pipelines do it."""
    assert case.kind is not None
    adata = opened(case.made(), case.kind, tmp_path)
    if isinstance(case.outcome, Refused):
        with pytest.raises(CrosstalkError) as caught:
            from_file(case, adata, model, tmp_path)
        assert (type(caught.value), str(caught.value)) == (case.outcome.error, case.outcome.words)
        assert heard.messages == []
        assert caught.value.__suppress_context__ or caught.value.__context__ is None  # no other's traceback is shown
    else:
        found = from_anndata(from_file(case, adata, model, tmp_path))
        assert heard.messages == list(case.outcome.heard)
        assert_as_expected(found, expected_of(case, model), case.outcome.renamed)


@pytest.mark.parametrize("case", identifiers([case for case in CASES if isinstance(case.outcome, Refused)]))
def test_refused_in_a_notebook(case: Case, model: CrosstalkModel, heard: Heard) -> None:
    """In the same words."""
    assert isinstance(case.outcome, Refused)
    adata, params = case.made(), case.reading()
    with pytest.raises(CrosstalkError) as caught:
        attention_of(adata, model, params) if case.for_model else trained_on(adata, params)
    assert (type(caught.value), str(caught.value)) == (case.outcome.error, case.outcome.words)
    assert heard.messages == []


@pytest.mark.parametrize("case", identifiers([case for case in CASES if isinstance(case.outcome, Works)]))
def test_used_in_memory(case: Case, model: CrosstalkModel, heard: Heard) -> None:
    """As what it is equivalent to, and for a model with the same attention."""
    assert isinstance(case.outcome, Works)
    adata, params = case.made(), case.reading()
    assert_as_expected(in_memory(case, adata, model, params), expected_of(case, model), case.outcome.renamed)
    assert heard.messages[: len(case.outcome.heard)] == list(case.outcome.heard)
    if case.for_model:
        ours, plain = (attention_of(one, model, params) for one in (adata, changed(case.outcome.like)))
        np.testing.assert_array_equal(ours.attention, plain.attention)
        pd.testing.assert_frame_equal(ours.nn_idxs, plain.nn_idxs)
        assert set(heard.messages) == set(case.outcome.heard)


TRAINABLE = [case for case in CASES if isinstance(case.outcome, Works) and not case.for_model]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:tissue_crosstalk")
@pytest.mark.parametrize("case", identifiers(TRAINABLE))
def test_used_from_training_to_hubs(case: Case) -> None:
    """Whatever is legal goes all the way: a model, attention in every flavor, and hubs."""
    adata, params = case.made(), case.reading()
    attention = AttentionModule.compute(trained_on(adata, params), prog_bar=False, pad_neighbors=params.pad_neighbors)
    is_padded = np.isinf(attention.nn_dists.to_numpy())
    for flavor in FLAVORS:
        weighed = attention.with_flavor(flavor).attention
        assert weighed.shape == (TINY.n_heads, adata.n_obs, N_NEIGHBORS)
        assert np.isfinite(weighed).all()
        assert (weighed >= 0).all()
        assert (weighed[:, is_padded] == 0).all()
    assert (attention.attention.sum(axis=2) < 1).all()
    hubs = attention.compute_communication_hubs()
    assert list(hubs.index) == [str(name) for name in adata.obs_names]
    shares = hubs.drop(columns="hub_cluster").sum(axis=1)
    np.testing.assert_allclose(shares, (hubs["hub_cluster"] >= 0).astype(float), atol=1e-6)


def attention_of(adata: ad.AnnData, model: CrosstalkModel, params: TissueParams) -> AttentionModule:
    return AttentionModule.compute(
        dataclasses.replace(model, keys=params.keys(model.keys)),
        adata,
        prog_bar=False,
        log_normalised=params.log_normalised,
        pad_neighbors=params.pad_neighbors,
    )


def trained_on(adata: ad.AnnData, params: TissueParams) -> CrosstalkModel:
    return train_model(
        adata,
        params.keys(),
        n_neighbors=N_NEIGHBORS,
        log_normalised=params.log_normalised,
        pad_neighbors=params.pad_neighbors,
        network=TINY,
        settings=SHORT,
        prog_bar=False,
    )


# --- Files


@dataclasses.dataclass(frozen=True)
class FileCase:
    """Something at the path of the tissue, and what is said of it; `{path}` is that path.

    Attributes
    ----------
    name
        Name of the file or folder.
    make
        Puts it there.
    words
        All or, where other programs have their say, the whole sentences of ours in the message.
    """

    name: str
    make: Callable[[Path], Any]
    words: tuple[str, ...]


def written(adata: ad.AnnData, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(path) if path.suffix == ".zarr" else adata.write_h5ad(path)


def cut_short(path: Path) -> None:
    written(clean(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def hdf5(*names: str, **attributes: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.attrs.update(attributes)
            for name in names:
                file.create_group(name)

    return make


def mudata(path: Path) -> None:
    hdf5("mod/rna", "mod/protein", "obs", "obsm", "var", **{"encoding-type": "MuData"})(path)


def spatialdata(path: Path) -> None:
    import zarr

    for name in ("points", "tables"):
        zarr.open_group(str(path), mode="a").create_group(name)


def with_short_obsm(path: Path) -> None:
    written(clean(), path)
    with h5py.File(path, "a") as file:
        kept = dict(file["obsm/spatial"].attrs)
        del file["obsm/spatial"]
        file["obsm/spatial"] = np.zeros((5, 2))
        file["obsm/spatial"].attrs.update(kept)


def folder_with(*names: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        for name in names:
            (path / name).write_text("")

    return make


NOT_H5AD = (
    "'{path}' is not an h5ad file, whatever its name: it %s. Read it with what it is made for, such as "
    "scanpy.read_csv, and write it with AnnData.write_h5ad."
)
NOT_ZARR = (
    "'{path}' is a folder, but not a zarr store: it has %s. Name an h5ad file, or the folder that AnnData.write_zarr "
    "made."
)
FILES = [
    FileCase(
        "missing.h5ad",
        lambda path: None,
        (
            "there is no file '{path}'. Expected an AnnData file (h5ad, or a zarr store); name yours with "
            "--params=tissue=<path>, or tissue in conf/<study>/globals.yml.",
        ),
    ),
    FileCase("table.csv", lambda path: path.write_text("cell,gene\n1,2\n"), (NOT_H5AD % "begins with b'cell,gen'",)),
    FileCase("text.h5ad", lambda path: path.write_text("hello there"), (NOT_H5AD % "begins with b'hello th'",)),
    FileCase("empty.h5ad", lambda path: path.write_text(""), (NOT_H5AD % "is empty",)),
    FileCase(
        "packed.h5ad.gz",
        lambda path: path.write_bytes(gzip.compress(b"x", mtime=0)),
        (NOT_H5AD % r"begins with b'\x1f\x8b\x08\x00\x00\x00\x00\x00'",),
    ),
    FileCase(
        "pickled.h5ad",
        lambda path: path.write_bytes(pickle.dumps({"X": 1}, protocol=4)),
        (NOT_H5AD % r"begins with b'\x80\x04\x95\n\x00\x00\x00\x00'",),
    ),
    FileCase(
        "cut.h5ad",
        cut_short,
        (
            "The tissue is damaged or incomplete, or was not written by AnnData. Copy it again, or write it again "
            "with AnnData.write_h5ad.",
        ),
    ),
    FileCase(
        "other.h5", hdf5("data"), ("'{path}' is not an AnnData: it has 'data'. Write it with AnnData.write_h5ad.",)
    ),
    FileCase("nothing.h5", hdf5(), ("'{path}' is not an AnnData: it has nothing. Write it with AnnData.write_h5ad.",)),
    FileCase(
        "filtered_feature_bc_matrix.h5",
        hdf5("matrix"),
        (
            "'{path}' is not an AnnData: it has 'matrix'. It is a 10x file: read it with "
            "scanpy.read_10x_h5, add cell types and coordinates, and write it with AnnData.write_h5ad.",
        ),
    ),
    FileCase(
        "both.h5mu",
        mudata,
        (
            "'{path}' is not an AnnData: it has 'mod', 'obs', 'obsm', 'var'. It is a MuData of 'protein', "
            "'rna': write the one with the expression with write_h5ad.",
        ),
    ),
    FileCase(
        "short.h5ad",
        with_short_obsm,
        (
            "spatial",
            "The tissue is damaged or incomplete, or was not written by AnnData. Copy it again, or write it again "
            "with AnnData.write_h5ad.",
        ),
    ),
    FileCase("folder", folder_with(), (NOT_ZARR % "nothing",)),
    FileCase("folder of files", folder_with("a.h5ad", "b.h5ad"), (NOT_ZARR % "'a.h5ad', 'b.h5ad'",)),
    FileCase(
        "xenium.zarr",
        spatialdata,
        (
            "'{path}' is a SpatialData store without a table: it has 'points', 'tables'. The expression of cells is in "
            "a table; write the store with one.",
        ),
    ),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in FILES])
def test_files_that_are_no_tissue(case: FileCase, tmp_path: Path) -> None:
    path = tmp_path / case.name
    case.make(path)
    with pytest.raises(DatasetError) as caught:
        AnnDataDataset(filepath=str(path), lazy=True).load()
    message = str(caught.value)
    for words in case.words:
        assert words.replace("{path}", str(path)) in message
    assert message.endswith(".")


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_a_file_of_the_first_years_of_anndata(model: CrosstalkModel, tmp_path: Path) -> None:
    """Tables as compound arrays, categories in uns, no word of versions."""
    adata, path = clean(), tmp_path / "old.h5ad"
    codes = adata.obs["cell_type"].cat.codes.to_numpy(np.int32)
    with h5py.File(path, "w") as file:
        file["X"] = adata.X.toarray()
        file["obs"] = np.rec.fromarrays([np.array(adata.obs_names, "S8"), codes], names=["index", "cell_type"])
        file["var"] = np.rec.fromarrays([np.array(adata.var_names, "S8")], names=["index"])
        at = np.zeros(N_CELLS, dtype=[("spatial", np.float64, (2,))])
        at["spatial"] = adata.obsm["spatial"]
        file["obsm"] = at
        file["uns/cell_type_categories"] = np.array(["A", "B", "C"], "S1")
    case = Case("old", lambda adata: None, Works())
    found = from_anndata(from_file(case, AnnDataDataset(filepath=str(path), lazy=True).load(), model, tmp_path))
    assert_as_expected(found, expected_of(case, model), {})


@pytest.mark.parametrize(
    ("given", "kind"),
    [("tissue.h5ad", "str"), (Path("tissue.h5ad"), "PosixPath"), (np.zeros((3, 2)), "ndarray"), ({"X": 1}, "dict")],
    ids=["text", "path", "array", "dict"],
)
def test_what_is_no_tissue_at_all(given: Any, kind: str, model: CrosstalkModel) -> None:
    words = (
        f"the tissue must be an AnnData object. Got {kind}; read it with anndata.read_h5ad, or take the table with the "
        "expression out of it."
    )
    for use in (lambda: AttentionModule.compute(model, given), lambda: train_model(given, prog_bar=False)):
        with pytest.raises(TissueError) as caught:
            use()
        assert str(caught.value) == words


# --- What a user sees of a command


@dataclasses.dataclass(frozen=True)
class Command:
    """A tissue, what is said of it on the command line, and the last words of ``kedro run``.

    Attributes
    ----------
    name
        What is the matter.
    change
        Makes the tissue.
    words
        The last that is written.
    params
        Run-time parameters.
    pipeline
        Which is run.
    """

    name: str
    change: Change
    words: str
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pipeline: str = "__default__"


def words_of(name: str) -> str:
    """Return the class and the words of the error of a case in the table."""
    (outcome,) = (case.outcome for case in CASES if case.name == name)
    assert isinstance(outcome, Refused)
    return f"{outcome.error.__name__}: {outcome.words}"


def change_of(name: str) -> Change:
    return next(case.change for case in CASES if case.name == name)


COMMANDS = [
    Command(name, change_of(name), words_of(name), params)
    for name, params in (
        ("no cell", {}),
        ("NaN", {}),
        ("logarithms where counts are expected", {}),
        ("words as coordinates", {}),
        ("coordinates in obs", {}),
        ("one type, padded", {"tissue_reading.pad_neighbors": "true"}),
        ("more neighbors than cells", {}),
        ("cells without a type", {}),
        ("labels_key misspelt", {"labels_key": "celltype"}),
        ("names of cells twice", {}),
        ("layer misspelt", {"layer": "Count"}),
    )
] + [
    Command(name, change_of(name), words_of(name), pipeline="attention")
    for name in ("names of genes in a column", "types renamed since")
]


@pytest.fixture(scope="module")
def saved_model(model: CrosstalkModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tissue_crosstalk import save_model

    folder = tmp_path_factory.mktemp("models") / "model"
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs: a new MLflow store takes seconds, and whichever run comes first would log its making."""
    root = tmp_path_factory.mktemp("runs")
    give_store(root)
    return root


def arguments(root: Path, pipeline: str, params: Mapping[str, Any]) -> list[str]:
    given = ",".join(f"{name}={value}" for name, value in {"root": root, **params}.items())
    return ["run", "--env=test", f"--pipelines={pipeline}", f"--params={given}"]


def last_words(ended: subprocess.CompletedProcess[str]) -> str:
    """Return what stands below the last traceback, which Kedro draws in a box."""
    return " ".join(ended.stderr.rpartition("╯")[2].split())


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in COMMANDS])
def test_the_last_words_of_a_command(
    case: Command, kedro: Kedro, root: Path, saved_model: Path, tmp_path: Path
) -> None:
    written(changed(case.change), tmp_path / "tissue.h5ad")
    params = {"tissue": tmp_path / "tissue.h5ad", "study": "refused", "n_neighbors": N_NEIGHBORS, **case.params}
    if case.pipeline == "attention":
        params["model"] = saved_model
    # One is run from the very start.
    ended = (kedro_command if case is COMMANDS[0] else kedro.run)(*arguments(root, case.pipeline, params))
    assert ended.returncode == 1
    assert last_words(ended) == case.words
    assert "above exception" not in ended.stderr  # one error, ours, and none that it came from
    assert case.words.partition(": ")[2] in " ".join(ended.stdout.split())  # in the log as well
    assert not (root / "data/05_model_input/refused/model_input.h5ad").exists()
    assert not (root / "data/06_models/refused").exists() or not any((root / "data/06_models/refused").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["missing.h5ad", "text.h5ad", "both.h5mu"])
def test_the_last_words_of_a_command_about_its_file(name: str, kedro: Kedro, root: Path, tmp_path: Path) -> None:
    (case,) = (case for case in FILES if case.name == name)
    path = tmp_path / name
    case.make(path)
    ended = kedro.run(*arguments(root, "__default__", {"tissue": path, "study": "unread"}))
    assert ended.returncode == 1
    last = last_words(ended)
    assert last.startswith("DatasetError: ")
    assert all(words.replace("{path}", str(path)) in last for words in case.words)


# --- What is legal, from the file to the report

SMALL = {"flavoring.flavors": "vanilla", "n_neighbors": N_NEIGHBORS}
PADDED = {"tissue_reading.pad_neighbors": "true"}
TOUCHING = "all edges shorter than max_distance fall in one bin"
BARELY = "the model predicts held-out cells barely better than their types' means"
WHOLE_RUNS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("two cells of a type", {}, ()),
    ("a section of one cell, padded", {**SECTIONS, **PADDED}, ()),
    ("more neighbors than cells, padded", PADDED, ()),
    ("zeros as logarithms", LOG, (BARELY,)),
    ("one gene", {}, ("11 of 60 cells have no count at all",)),
    ("all at one place", {}, (SAME_PLACES.format(59), TOUCHING)),
    ("a type that is HTML", {}, ()),
    ("counts where logarithms are expected", LOG, (LIKE_COUNTS,)),
    ("radii in another unit", {"radius_key": "radius"}, ("radii of column 'radius' of obs", TOUCHING)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "params", "heard"), WHOLE_RUNS, ids=[name for name, _, _ in WHOLE_RUNS])
def test_a_whole_run(
    name: str, params: dict[str, Any], heard: tuple[str, ...], kedro: Kedro, root: Path, tmp_path: Path
) -> None:
    """Its tables are those of all cells, its report names all types, and what is warned of stands in both."""
    adata = changed(change_of(name))
    written(adata, tmp_path / "tissue.h5ad")
    study = f"whole {[other for other, _, _ in WHOLE_RUNS].index(name)}"
    given = {"tissue": tmp_path / "tissue.h5ad", "study": study, **SMALL, **params}
    ended = kedro.run(*arguments(root, "__default__", given))
    # Nothing else is said but of MLflow's new store.
    errors = [line for line in ended.stderr.splitlines() if "mlflow.store.db" not in line]
    assert (ended.returncode, errors) == (0, [])

    outputs, reports = root / "data/07_model_output" / study, root / "data/08_reporting" / study
    patterns = pd.read_parquet(outputs / "attention_patterns")
    weights = patterns.filter(regex=r"^neighbor_\d+$").to_numpy()
    assert weights.shape == (2 * adata.n_obs, N_NEIGHBORS)
    assert np.isfinite(weights).all()
    assert ((weights >= 0) & (weights.sum(axis=1, keepdims=True) < 1)).all()
    distances = pd.read_parquet(outputs / "nn_dists").set_index("cell_idx").loc[patterns["cell_idx"]]
    assert (weights[np.isinf(distances.filter(regex=r"^neighbor_\d+$").to_numpy())] == 0).all()
    hubs = pd.read_parquet(outputs / "hubs.parquet")
    assert list(hubs.index) == list(adata.obs_names)
    assert set(hubs.columns) == {*adata.obs["cell_type"].astype(str), "hub_cluster"}
    annotated = ad.read_h5ad(reports / "annotated_tissue.h5ad")
    assert list(annotated.obs_names) == list(adata.obs_names)
    np.testing.assert_array_equal(annotated.obsm["spatial"], adata.obsm["spatial"])
    assert (annotated.obs["hub_cluster"] == "isolated").tolist() == (hubs["hub_cluster"] < 0).tolist()
    page = html.unescape((reports / "report.html").read_text())
    said = " ".join(ended.stdout.split())
    for words in heard:
        assert words in page
        assert words in said
    for kind in set(adata.obs["cell_type"].astype(str)):
        assert kind.strip() in page
    assert "<script>alert(1)" not in (reports / "report.html").read_text()


@pytest.mark.slow
def test_another_unit_than_the_models_is_told_in_the_report(
    kedro: Kedro, root: Path, saved_model: Path, tmp_path: Path
) -> None:
    """Also of a model input that is used again."""
    written(changed(change_of("a thousand times the model's unit")), tmp_path / "tissue.h5ad")
    given = {"tissue": tmp_path / "tissue.h5ad", "model": saved_model, "study": "unit", **SMALL}
    report = root / "data/08_reporting/unit/report.html"
    for _ in range(2):
        report.unlink(missing_ok=True)
        ended = kedro.run(*arguments(root, "attention", given))
        assert ended.returncode == 0
        page = html.unescape(report.read_text())
        for words in (ANOTHER_UNIT.format("1.02e+04"), "no edge is shorter than max_distance"):
            assert words in page
            assert words in " ".join(ended.stdout.split())
