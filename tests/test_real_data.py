"""The main job on real tissues, which are not part of the project: ``CROSSTALK_DATA`` names their folder."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from sessions import PROJECT, run_project

DATA = Path(os.environ.get("CROSSTALK_DATA", PROJECT.parent / "shared" / "data"))
QUICK: dict[str, Any] = {
    "training": {"max_epochs": 1},
    "flavoring": {"flavors": "vanilla+gene-weighted"},
}

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"there are no real tissues in {DATA}; name them in CROSSTALK_DATA"),
]

TISSUES = {
    "seqfish": ("seqfish_embryo2_z2.h5ad", {"reporting": {"max_distance": 1.0, "bin_size": 0.05}}),
    "cosmx": ("cosmx_nsclc_crop.h5ad", {}),
    "merfish": ("merfish_hypothalamus_3slices.h5ad", {"section_key": "section", "coord_key": "spatial_original"}),
}


@pytest.mark.parametrize("study", TISSUES)
def test_main_job(tmp_path: Path, study: str) -> None:
    import mlflow

    file, params = TISSUES[study]
    run_project(tmp_path, tissue=str(DATA / file), study=study, **QUICK, **params)
    tissue = anndata.read_h5ad(DATA / file)
    output = tmp_path / "data/07_model_output" / study
    figures = list((tmp_path / "data/08_reporting" / study / "attention_summaries").iterdir())
    assert len(figures) == 2 * tissue.obs["cell_type"].nunique()

    table = pd.read_parquet(output / "attention_patterns")
    assert len(table) == 2 * tissue.n_obs
    attention = table.filter(like="neighbor_").to_numpy()
    assert (attention >= 0).all()
    assert (attention.sum(axis=1) < 1).all()
    hubs = pd.read_parquet(output / "hubs.parquet")
    assert (hubs.index == tissue.obs_names).all()

    nn_idxs = pd.read_parquet(output / "nn_idxs").set_index("cell_idx")
    receivers = tissue.obs.loc[nn_idxs.index]
    senders = nn_idxs.to_numpy()
    labels, sections = tissue.obs["cell_type"].to_numpy(), tissue.obs["section"].to_numpy()
    assert (labels[senders] != receivers["cell_type"].to_numpy()[:, None]).all()
    if study == "merfish":
        assert (sections[senders] == receivers["section"].to_numpy()[:, None]).all()
        # In these coordinates the sections overlap, so that without the key neighbors would cross.
        own = tissue.obsm["spatial_original"]
        boxes = [
            (own[sections == section].min(axis=0), own[sections == section].max(axis=0))
            for section in np.unique(sections)
        ]
        pairs = combinations(boxes, 2)
        assert any(
            (low < other_high).all() and (other_low < high).all() for (low, high), (other_low, other_high) in pairs
        )

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    assert mlflow.search_runs(experiment_names=["tissue-crosstalk"])["status"].tolist() == ["FINISHED"]
