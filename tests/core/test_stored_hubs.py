"""Hubs of attention in parquet folders: those of the arrays, in the order of the tissue, refused of other cells."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from naive import Stored, random_model, stored_attention, user_tissue
from test_stored import BACK, N_NEIGHBORS, NEIGHBORS, TISSUE

from tissue_crosstalk.core.errors import ResultError, TissueError
from tissue_crosstalk.core.hub_contents import find_markers
from tissue_crosstalk.core.hubs import HubSettings, find_hubs
from tissue_crosstalk.core.model_input import to_anndata
from tissue_crosstalk.core.stored import Cells
from tissue_crosstalk.core.stored_hubs import (
    conditions_of_sections,
    find_stored_hubs,
    find_stored_markers,
    positions_of_hubs,
)
from tissue_crosstalk.core.strong_edges import StrengthShard

SETTINGS = HubSettings(0.7, n_clusters=3, stability_resamples=0)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Return one extraction with its vanilla flavor, in three shards. Not to be changed."""
    model = random_model(TISSUE, N_NEIGHBORS)
    return stored_attention(tmp_path_factory.mktemp("kept"), TISSUE, NEIGHBORS, model, flavors=["vanilla"])


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        HubSettings(0.7, counting="in_degree", n_clusters=2, stability_resamples=0),
        HubSettings(0.5, thresholds_per="section", n_clusters=2, stability_resamples=0),
    ],
    ids=["edges", "in_degree", "section"],
)
def test_stored_hubs_equal_those_of_the_arrays(kept: Stored, settings: HubSettings) -> None:
    cells = Cells.read(kept.cells)
    stored = find_stored_hubs(kept.flavored, kept.nn_idxs, kept.nn_dists, cells, "vanilla", settings)
    rows = np.arange(36)
    shard = StrengthShard(rows, kept.arrays["vanilla"].max(axis=0), NEIGHBORS.idx, NEIGHBORS.dist)
    sections = {"sections": TISSUE.sections, "section_names": TISSUE.section_names}
    hubs = find_hubs([shard], TISSUE.labels, TISSUE.cell_types, settings, **sections)  # type: ignore[arg-type]
    assert stored.counts.receivers.tolist() == list(range(36))
    expected = hubs.table(TISSUE.cell_names).iloc[BACK]
    pd.testing.assert_frame_equal(stored.table(cells.names), expected)
    assert stored.record() == hubs.record()
    for name in ("at_hand", "strong", "strongest", "nearest", "mean_distance"):
        np.testing.assert_allclose(getattr(stored.counts, name), getattr(hubs.counts, name)[BACK], rtol=1e-6)


def test_markers_are_of_the_prepared_tissue(kept: Stored) -> None:
    """Its rows are in another order than the cells of the tissue."""
    cells = Cells.read(kept.cells)
    hubs = find_stored_hubs(kept.flavored, kept.nn_idxs, kept.nn_dists, cells, "vanilla", SETTINGS)
    table = find_stored_markers(hubs, cells, to_anndata(TISSUE, NEIGHBORS), min_cells=1)
    expected = find_markers(hubs, cells, TISSUE.expression[BACK].tocsr(), TISSUE.genes, min_cells=1)
    pd.testing.assert_frame_equal(table, expected)
    assert len(table) > 0
    with pytest.raises(ResultError, match="the results are of another tissue"):
        find_stored_markers(hubs, cells, to_anndata(TISSUE, NEIGHBORS)[:30], min_cells=1)


def test_markers_of_a_tissue_on_disk(kept: Stored, tmp_path: Path) -> None:
    """Its expression is not read into memory as a whole."""
    cells = Cells.read(kept.cells)
    hubs = find_stored_hubs(kept.flavored, kept.nn_idxs, kept.nn_dists, cells, "vanilla", SETTINGS)
    adata = to_anndata(TISSUE, NEIGHBORS)
    expected = find_stored_markers(hubs, cells, adata, min_cells=1)
    with h5py.File(tmp_path / "expression.h5", "w") as file:
        write_elem(file, "X", adata.X)
        on_disk = AnnData(sparse_dataset(file["X"]), obs=adata.obs, var=adata.var)
        table = find_stored_markers(hubs, cells, on_disk, min_cells=1)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)


def test_conditions_of_the_sections(kept: Stored) -> None:
    cells = Cells.read(kept.cells)
    adata = user_tissue(TISSUE)
    adata.obs["mouse"] = np.array(["old", "young"])[cells.sections]
    assert conditions_of_sections(cells, adata, None) == {}
    assert conditions_of_sections(cells, adata, "mouse") == {"slide/1": "old", "slide 2": "young"}
    with pytest.raises(
        TissueError, match=r"obs has no column 'moose'\. Did you mean 'mouse'\? It has .*Set hubs\.condi"
    ):
        conditions_of_sections(cells, adata, "moose")
    with pytest.raises(ResultError, match="the results are of another tissue"):
        conditions_of_sections(cells, adata[::-1], "mouse")


def test_positions_of_hubs(kept: Stored) -> None:
    cells = Cells.read(kept.cells)
    hubs = pd.DataFrame({"hub_cluster": 0}, index=cells.names[[5, 2, 30]])
    assert positions_of_hubs(hubs, cells).tolist() == [5, 2, 30]
    for others in (hubs.rename(index={cells.names[2]: "stranger"}), hubs.iloc[:0]):
        with pytest.raises(
            ResultError, match=r"^the hubs are of other cells than the attention\. Run the stage 'hubs'"
        ):
            positions_of_hubs(others, cells)
