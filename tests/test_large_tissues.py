"""Real runs on a Dask cluster, of a zarr store, and of a tissue of which a file was lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anndata
import pandas as pd
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from sessions import PROJECT, run_project

SHARDS = {"cells_per_shard": 40}
CLUSTER = {"scheduler": "local", "n_workers": 2}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, awkward_keys: dict[str, Any]) -> Path:
    """A finished run in one process, with six shards."""
    root = tmp_path_factory.mktemp("here")
    run_project(root, **awkward_keys, extraction=SHARDS)
    return root


def tables(root: Path) -> dict[str, bytes]:
    folder = root / "data/07_model_output/awkward"
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("part-*.parquet"))}


def test_the_environment_dask_asks_for_a_cluster() -> None:
    bootstrap_project(PROJECT)
    for env, scheduler in (("dask", "local"), ("test", None)):
        with KedroSession.create(PROJECT, env=env) as session:
            parameters = session.load_context().config_loader["parameters"]
        assert parameters["cluster"]["scheduler"] == scheduler
        assert parameters["cluster"]["timeout"] == 60.0  # the rest is as in base


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_run_on_a_cluster_writes_the_same_tables(study: Path, tmp_path: Path, awkward_keys: dict[str, Any]) -> None:
    model = str(study / "data/06_models/awkward/model")
    run_project(tmp_path, "attention", **awkward_keys, model=model, extraction=SHARDS, cluster=CLUSTER)
    # Files differ in the hash of what they were made from: this model input was prepared for a model.
    assert tables(tmp_path).keys() == tables(study).keys()
    assert len(tables(study)) == 6 * (5 + 4)
    for name in ("attention_patterns", "nn_idxs", "nn_dists", "sender_norms", "cells", "flavored_attention"):
        pd.testing.assert_frame_equal(
            *(pd.read_parquet(root / f"data/07_model_output/awkward/{name}") for root in (study, tmp_path)),
            check_exact=True,
        )


@pytest.mark.slow
def test_a_lost_file_is_made_again_and_nothing_else(study: Path, tmp_path: Path, awkward_keys: dict[str, Any]) -> None:
    shutil.copytree(study, tmp_path / "study")
    before = tables(tmp_path / "study")
    lost = tmp_path / "study/data/07_model_output/awkward"
    (lost / "nn_dists/part-00003.parquet").unlink()
    (lost / "flavored_attention/flavor=gene-weighted/part-00001.parquet").unlink()
    kept = {file: file.stat().st_ino for file in lost.rglob("part-*.parquet")}
    run_project(tmp_path / "study", **awkward_keys, extraction=SHARDS)
    assert tables(tmp_path / "study") == before
    replaced = {file.name for file, inode in kept.items() if file.stat().st_ino != inode}
    assert replaced == {"part-00003.parquet"}  # the lost one's neighbors in the other tables
    hubs = [pd.read_parquet(root / "data/07_model_output/awkward/hubs.parquet") for root in (study, tmp_path / "study")]
    pd.testing.assert_frame_equal(*hubs, check_exact=True)


@pytest.mark.slow
def test_a_zarr_store_is_a_tissue_like_any(study: Path, tmp_path: Path, awkward_keys: dict[str, Any]) -> None:
    store = tmp_path / "tissue.zarr"
    anndata.read_h5ad(awkward_keys["tissue"]).write_zarr(store)
    run_project(tmp_path, **{**awkward_keys, "tissue": str(store)}, extraction=SHARDS)
    for table in ("07_model_output/awkward/hubs.parquet", "06_models/awkward/training_history.parquet"):
        pd.testing.assert_frame_equal(
            *(pd.read_parquet(root / "data" / table) for root in (study, tmp_path)), check_exact=True
        )
    annotated = anndata.read_h5ad(tmp_path / "data/08_reporting/awkward/annotated_tissue.h5ad")
    assert (annotated.X != anndata.read_h5ad(awkward_keys["tissue"]).X).nnz == 0


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_shards(study: Path, tmp_path: Path, awkward_keys: dict[str, Any]) -> None:
    """Killed with nothing to be done about it, in the middle of the extraction."""
    model = str(study / "data/06_models/awkward/model")
    given = {**awkward_keys, "model": model, "extraction": {"cells_per_shard": 2}}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_project(whole, "attention", **given)
    code = (
        f"import sys; sys.path.insert(0, {str(PROJECT / 'tests')!r}); from pathlib import Path; "
        f"from sessions import run_project; run_project(Path({str(killed)!r}), 'attention', **{given!r})"
    )
    unfinished = killed / "data/07_model_output/awkward/.cells.unfinished"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(list(unfinished.glob("part-*"))) < 20:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    kept = {file.name: file.stat().st_ino for file in unfinished.glob("part-*")}
    assert 20 <= len(kept) < 120
    assert not (killed / "data/07_model_output/awkward/cells").exists()
    run_project(killed, "attention", **given)
    assert tables(killed) == tables(whole)
    cells = killed / "data/07_model_output/awkward/cells"
    same = sum((cells / name).stat().st_ino == inode for name, inode in kept.items())
    assert same >= len(kept) - 1  # of the last one, another table may have been missing
    hubs = [pd.read_parquet(root / "data/07_model_output/awkward/hubs.parquet") for root in (whole, killed)]
    pd.testing.assert_frame_equal(*hubs, check_exact=True)
