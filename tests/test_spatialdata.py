"""Tables of SpatialData stores as tissues: the library itself writes them, and places are worked out by hand."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from kedro.io import DatasetError
from scipy import sparse

from sessions import run_project
from tissue_crosstalk import read_tissue
from tissue_crosstalk.core.files import Workspace, digest_of_tissue
from tissue_crosstalk.core.spatialdata_store import default_section_key
from tissue_crosstalk.core.tissue_file import open_tissue
from tissue_crosstalk.datasets import AnnDataDataset
from tissue_crosstalk.params import TissueParams
from tissue_crosstalk.pipelines.training.nodes import prepare_training_input

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what spatialdata imports
    sd = pytest.importorskip("spatialdata", reason="needs the extra spatialdata", exc_type=ImportError)
    import geopandas as gpd
    from shapely import Polygon
    from spatialdata.models import PointsModel, ShapesModel, TableModel
    from spatialdata.transformations import Affine, set_transformation

HOSTILE = "-1..µ"  # as bad as the library lets names be
# A quarter turn, twice as large, moved: (x, y) -> (10 - 2y, 20 + 2x).
TURN = [[0, -2, 10], [2, 0, 20], [0, 0, 1]]
STRETCH = [[3, 0, 0], [0, 1, 0], [0, 0, 1]]


def circles() -> Any:
    table = ShapesModel.parse(
        np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), geometry=0, radius=np.array([1.0, 2.0, 3.0]), index=[*"abc"]
    )
    for name, matrix in (("um", TURN), ("stretched", STRETCH)):
        set_transformation(table, Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y")), name)
    return table


def polygons() -> Any:
    corners = [[(0, 0), (2, 0), (2, 2), (0, 2)], [(4, 4), (6, 4), (6, 8), (4, 8)]]
    table = ShapesModel.parse(gpd.GeoDataFrame(geometry=[Polygon(ring) for ring in corners], index=["p", "q"]))
    set_transformation(table, Affine(TURN, input_axes=("x", "y"), output_axes=("x", "y")), "um")
    return table


def points() -> Any:
    return PointsModel.parse(pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]}, index=[7, 8]))


def table_of(cells: Mapping[str, list[Any]], **obsm: Any) -> ad.AnnData:
    """Return a table of cells, by region."""
    regions = [region for region, names in cells.items() for _ in names]
    adata = ad.AnnData(
        X=sparse.csr_matrix(np.arange(3 * len(regions), dtype=np.float32).reshape(-1, 3)),
        obs=pd.DataFrame(
            {"region": pd.Categorical(regions), "instance": [name for names in cells.values() for name in names]},
            index=[f"cell{number}" for number in range(len(regions))],
        ),
        obsm={key: np.asarray(values) for key, values in obsm.items()},
    )
    return TableModel.parse(adata, region=list(cells), region_key="region", instance_key="instance")


def write(path: Path, tables: Mapping[str, ad.AnnData], **elements: Any) -> Path:
    elements = elements or {"shapes": {"circles": circles(), HOSTILE: polygons()}, "points": {"dots": points()}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, and of regions that are missing on purpose
        sd.SpatialData(tables=dict(tables), **elements).write(path)
    return path


def refused(path: Path, **args: str) -> str:
    with pytest.raises(DatasetError) as caught:
        AnnDataDataset(filepath=str(path), lazy=True, **args).load()
    message = str(caught.value)
    assert message.endswith(".")
    return message.replace(str(path), "{path}")


def test_centers_and_radii_of_circles(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", {"table": table_of({"circles": ["c", "a", "b"]})})

    adata = open_tissue(path)
    np.testing.assert_allclose(adata.obsm["spatial"], [[0, 2], [0, 0], [1, 0]])
    np.testing.assert_allclose(adata.obs["radius"], [3, 1, 2])
    assert default_section_key(adata) is None

    turned = open_tissue(path, None, "um")
    np.testing.assert_allclose(turned.obsm["spatial"], [[6, 20], [10, 20], [10, 22]])
    np.testing.assert_allclose(turned.obs["radius"], [6, 2, 4])

    stretched = open_tissue(path, None, "stretched")
    np.testing.assert_allclose(stretched.obsm["spatial"], [[0, 2], [0, 0], [3, 0]])
    assert "radius" not in stretched.obs  # ellipses have none


def test_several_regions_are_sections(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "x.zarr", {"table": table_of({HOSTILE: ["q", "p"], "dots": ["8", "7"]})})
    adata = open_tissue(path)
    # Points are numbered in the store, and their numbers are text in the table.
    np.testing.assert_allclose(adata.obsm["spatial"], [[5, 6], [1, 1], [2, 4], [1, 3]])
    with caplog.at_level("INFO"):
        assert TissueParams().keys(section_key=default_section_key(adata)).section_key == "region"
    assert f"The table annotates 2 regions ({HOSTILE!r}, 'dots'). Each is a section" in caplog.text
    assert TissueParams(section_key="none").keys(section_key="region").section_key is None
    assert TissueParams(section_key="slide").keys(section_key="region").section_key == "slide"


def test_cells_of_two_regions_are_no_neighbors(tmp_path: Path) -> None:
    names = [f"i{number}" for number in range(8)]
    places = np.random.default_rng(0).uniform(size=(8, 2))
    rounds = {name: ShapesModel.parse(places, geometry=0, radius=np.ones(8), index=names) for name in ("one", "two")}
    table = table_of({"one": names, "two": names})
    table.obs["cell_type"] = pd.Categorical([*"AABBAABB"] * 2)
    path = write(tmp_path / "x.zarr", {"table": table}, shapes=rounds)
    reading = TissueParams(n_neighbors=3)
    prepared = prepare_training_input(open_tissue(path), reading, Workspace(tmp_path / "work")).path
    stored = ad.read_h5ad(prepared)
    assert stored.uns["tissue_crosstalk"]["section_key"] == "region"
    region = stored.obs["section"].to_numpy()
    assert (region[stored.obsm["nn_idx"]] == region[:, None]).all()
    assert stored.uns["tissue_crosstalk"]["tissue_sha256"] == digest_of_tissue(path)


def test_the_tables_own_places_come_first_and_need_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = [[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]]
    path = write(tmp_path / "x.zarr", {"table": table_of({"circles": [*"abc"]}, spatial=own)})
    monkeypatch.setitem(sys.modules, "spatialdata", None)  # as where it is not installed
    np.testing.assert_allclose(open_tissue(path).obsm["spatial"], own)
    assert (
        "needs spatialdata, which cannot be imported (import of spatialdata halted; None in sys.modules). Install it: "
        'pip install "tissue-crosstalk[spatialdata]", or in a checkout pip install -e ".[spatialdata]". A table with '
        'obsm["spatial"] needs none.'
    ) in refused(path, coordinate_system="um")
    monkeypatch.undo()
    np.testing.assert_allclose(open_tissue(path, None, "um").obsm["spatial"], [[10, 20], [10, 22], [6, 20]])


def test_the_table_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.zarr", {"cells": table_of({"circles": ["a"]}), "nuclei": table_of({"circles": ["b", "c"]})}
    )
    assert open_tissue(path, "nuclei").n_obs == 2
    assert read_tissue(path, table="nuclei").X.sum() == 15
    assert json.loads(AnnDataDataset(filepath=str(path), table="cells").preview())["cells"] == 1
    assert refused(path) == (
        "'{path}' is a SpatialData store with 2 tables: 'cells', 'nuclei'. Name the one with the cells: table=cells."
    )
    assert refused(path, table="nucleus") == (
        "table=nucleus names no table of '{path}'. Did you mean 'nuclei'? Its tables are 'cells', 'nuclei'."
    )
    assert "table=../tables/cells names no table of '{path}'." in refused(path, table="../tables/cells")


def test_in_memory_and_on_disk_are_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", {"table": table_of({"circles": ["c", "a", "b"]})})
    lazy, whole = open_tissue(path), read_tissue(str(path))
    assert type(whole) is ad.AnnData
    np.testing.assert_array_equal(whole.X.toarray(), np.arange(9).reshape(3, 3))
    np.testing.assert_array_equal(whole.obsm["spatial"], lazy.obsm["spatial"])
    pd.testing.assert_frame_equal(whole.obs, lazy.obs)
    assert AnnDataDataset(filepath=str(path)).load().obsm["spatial"].shape == (3, 2)


def test_images_and_labels_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", {"table": table_of({"circles": [*"abc"]})})
    before = digest_of_tissue(path)
    for kind in ("images", "labels"):
        (path / kind / "broken").mkdir(parents=True)
        (path / kind / "broken" / "zarr.json").write_text("no JSON")
    assert open_tissue(path).n_obs == 3
    assert digest_of_tissue(path) == before
    (path / "shapes" / "circles" / "zarr.json").write_text("{}")
    assert digest_of_tissue(path) != before


@pytest.mark.parametrize(
    ("cells", "args", "words"),
    [
        (
            {"circles": ["a", "z", "y"]},
            {},
            "{path}: the region 'circles' must have every cell that column 'instance' of obs names in it. 2 of 3 are "
            "not there, first 'z', 'y'; drop these cells of the table, or write the store again.",
        ),
        (
            {"circle": ["a"]},
            {},
            "{path}: the table annotates the region 'circle', which the store does not have. Did you mean 'circles'? "
            f"Its shapes and points are '{HOSTILE}', 'circles', 'dots'. Write the store again with it, or give "
            "obsm['spatial'] to the table.",
        ),
        (
            {"circles": ["a"]},
            {"coordinate_system": "µm"},
            "{path}: the region 'circles' must have the coordinate system 'µm'. It has 'global', 'stretched', 'um'; "
            "choose one with coordinate_system=<name>.",
        ),
        (
            {"circles": ["a"], "dots": [7]},
            {"coordinate_system": "um"},
            "{path}: the region 'dots' must have the coordinate system 'um'. It has 'global'; choose one with "
            "coordinate_system=<name>.",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(
    cells: dict[str, list[Any]], args: dict[str, str], words: str, tmp_path: Path
) -> None:
    table = table_of(cells)
    table.obs["instance"] = table.obs["instance"].astype(str)
    assert refused(write(tmp_path / "x.zarr", {"table": table}), **args) == words


def test_masks_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", {"table": table_of({"mask": [1, 2]})})
    (path / "labels" / "mask").mkdir(parents=True)
    assert refused(path) == (
        "{path}: the cells of region 'mask' are labels (a mask of pixels), which are not read. Give their places to "
        "the table as obsm['spatial'], or annotate shapes (spatialdata.to_circles)."
    )


def test_other_coordinates_are_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "x.zarr", {"table": table_of({"gone": [1, 2]}, pixels=[[0.0, 1], [2, 3]])})
    assert list(open_tissue(path).obsm) == ["pixels"]
    assert "obsm['spatial'] cannot be had from the regions" in caplog.text


def test_a_table_of_no_region(tmp_path: Path) -> None:
    table = ad.AnnData(np.ones((2, 2), dtype=np.float32))
    assert refused(write(tmp_path / "x.zarr", {"table": TableModel.parse(table)})) == (
        "{path}: the table must tell where its cells are. It has no obsm['spatial'], or a coordinate system was asked "
        "for, and it annotates no region; give it either."
    )


def test_what_is_no_spatialdata_has_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    ad.AnnData(np.ones((2, 2), dtype=np.float32)).write_zarr(path)
    assert open_tissue(path).n_obs == 2
    assert refused(path, table="a") == (
        "table=a is of SpatialData stores, but '{path}' is none. Leave it out, or name a SpatialData store."
    )


@pytest.mark.parametrize(
    "part", ["tables/table", "tables/table/obs", "shapes/circles", "shapes/circles/shapes.parquet"]
)
def test_links_to_other_places_are_not_followed(part: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", {"table": table_of({"circles": [*"abc"]})})
    (path / part).rename(tmp_path / "elsewhere")
    (path / part).symlink_to(tmp_path / "elsewhere")
    message = refused(path)
    assert message.startswith(f"{{path}}/{part} must be a file or a folder of the store {{path}}. It is a link to")


def test_a_table_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", {"table": table_of({"circles": [*"abc"]})})
    about = path / "tables" / "table" / "obsm" / "spatial"
    zarr.open_group(str(about.parent), mode="a").create_array(
        "spatial", shape=(2**40, 2), chunks=(2**20, 2), dtype="f8"
    )
    assert "'obsm/spatial' must be of a size that the file can hold." in refused(path)


def test_shapes_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = write(tmp_path / "x.zarr", {"table": table_of({"circles": [*"abc"]})})
    file = path / "shapes" / "circles" / "shapes.parquet"
    same = pa.table({"radius": pa.DictionaryArray.from_arrays(pa.array(np.zeros(40_000_000, np.int8)), [1.0])})
    pq.write_table(same, file)
    assert "{path}/shapes/circles/shapes.parquet must be of a size that the file can hold." in refused(path)


def test_a_list_of_files_in_points_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", {"table": table_of({"dots": [7, 8]})})
    (path / "points" / "dots" / "points.parquet" / "_metadata").write_bytes(b"PAR1")
    assert "_metadata must be a parquet file, as all in {path}/points/dots/points.parquet." in refused(path)


def test_the_first_version_of_shapes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", {"table": table_of({"circles": [*"abc"]})})
    zarr.open_group(str(path / "shapes" / "circles"), mode="a").attrs["spatialdata_attrs"] = {"version": "0.1"}
    assert refused(path) == (
        "{path}/shapes/circles must be shapes in a parquet file. It is damaged, or of the first version of "
        "SpatialData, which is not read; read and write the store with a newer spatialdata."
    )


@pytest.mark.slow
def test_a_whole_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    places, names = rng.uniform(0, 60, size=(2, 90, 2)), [f"i{number}" for number in range(90)]
    rounds = {}
    for name, own in zip(("left", "right"), places, strict=True):
        rounds[name] = ShapesModel.parse(own, geometry=0, radius=np.full(90, 0.5), index=names)
        set_transformation(rounds[name], Affine(TURN, input_axes=("x", "y"), output_axes=("x", "y")), "um")
    adata = table_of({"left": names, "right": names})
    adata.X = sparse.csr_matrix(rng.poisson(2.0, size=adata.shape).astype(np.float32))
    adata.obs["cell_type"] = pd.Categorical(rng.choice([*"ABC"], size=adata.n_obs))
    path = write(tmp_path / "x.zarr", {"other": table_of({"left": ["i0"]}), "cells": adata}, shapes=rounds)
    run_project(
        tmp_path,
        tissue=str(path),
        table="cells",
        coordinate_system="um",
        radius_key="radius",
        n_neighbors=6,
        study="xenium",
    )
    annotated = ad.read_h5ad(tmp_path / "data" / "08_reporting" / "xenium" / "annotated_tissue.h5ad")
    own = np.concatenate(places)
    np.testing.assert_allclose(annotated.obsm["spatial"], np.column_stack([10 - 2 * own[:, 1], 20 + 2 * own[:, 0]]))
    np.testing.assert_array_equal(annotated.X.toarray(), adata.X.toarray())
    assert annotated.obs["radius"].eq(1.0).all()
    assert "hub_cluster" in annotated.obs
    receivers, senders = annotated.obsp["attention"].nonzero()
    region = annotated.obs["region"].to_numpy()
    assert len(receivers)
    assert (region[receivers] == region[senders]).all()
