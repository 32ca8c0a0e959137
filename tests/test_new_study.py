"""``make study``: what is written for a tissue, and that it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

from sessions import PROJECT, give_store
from tissue_crosstalk.core.errors import CrosstalkError
from tissue_crosstalk.new_study import write_study

HOSTILE = 'cell type\nn_neighbors: 1 # "${globals:seed}"'


def tissue(path: Path, obs: dict[str, Any], obsm: dict[str, Any]) -> Path:
    n_cells = len(next(iter(obs.values())))
    ad.AnnData(
        np.ones((n_cells, 3), dtype=np.float32),
        obs=pd.DataFrame(obs).set_axis([f"c{number}" for number in range(n_cells)]),
        obsm={key: np.asarray(values, dtype=float) for key, values in obsm.items()},
    ).write_h5ad(path)
    return path


def plain(path: Path) -> Path:
    return tissue(path, {"cell_type": [*"ABAB"]}, {"spatial": np.ones((4, 2))})


def read(path: Path) -> dict[str, Any]:
    return dict(OmegaConf.to_container(OmegaConf.load(path), resolve=True))


def test_defaults_are_left_to_conf_base(tmp_path: Path) -> None:
    path, told = write_study("embryo", plain(tmp_path / "e.h5ad"), tmp_path)
    assert path == tmp_path / "conf" / "embryo" / "globals.yml"
    assert read(path) == {"study": "embryo", "tissue": "e.h5ad"}
    assert told.splitlines() == [
        f"{path} is written. The tissue has 4 cells and 3 genes.",
        "Look it through, and run",
        "  kedro run --env=embryo",
    ]
    assert [entry.name for entry in path.parent.iterdir()] == ["globals.yml"]


def test_what_the_tissue_calls_it(tmp_path: Path) -> None:
    obs = {"leiden": [*"0101"], "Cell-Type": [*"ABAB"], "slide": [*"xxyy"], "area": [1.0, 2, 3, 4], "name": [*"abcd"]}
    obsm = {"X_umap": np.ones((4, 2)), "xy_um": np.ones((4, 3)), "X_pca": np.ones((4, 3)), "wide": np.ones((4, 9))}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = tissue(elsewhere / "e.h5ad", obs, obsm)
    path, told = write_study("embryo", file, tmp_path / "project")
    assert read(path) == {"study": "embryo", "tissue": str(file), "labels_key": "Cell-Type", "coord_key": "xy_um"}
    assert (
        "labels_key (column of obs with the cell types) seems to be 'Cell-Type'. Others could be it, too: 'leiden', "
        "'slide'." in told
    )
    assert "If the tissue has several sections, set section_key there: 'slide'." in told
    # Each of the lines commented out is one, too.
    uncommented = [
        line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# ") and '"' in line
    ]
    assert yaml.safe_load("\n".join(uncommented)) == {"section_key": "slide", "radius_key": "none", "layer": "none"}


def test_what_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    file = tissue(tmp_path / "e.h5ad", {"one": [*"abab"], "two": [*"xyxy"]}, {"X_umap": np.ones((4, 2))})
    path, told = write_study("embryo", file, tmp_path)
    assert "labels_key" not in read(path)
    assert (
        "labels_key (column of obs with the cell types) cannot be told. It could be 'one', 'two': set it in that file "
        "before you run it." in told
    )
    assert (
        "coord_key (key of obsm with the coordinates) cannot be told. The tissue seems to have none: set it in that "
        "file before you run it." in told
    )


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" #c'
    folder.mkdir()
    file = tissue(folder / "e.h5ad", {HOSTILE: [*"abab"]}, {"spatial": np.ones((4, 2))})
    path, _ = write_study("2024", file, tmp_path)
    assert read(path) == {"study": "2024", "tissue": 'a "b" #c/e.h5ad', "labels_key": HOSTILE}


@pytest.mark.parametrize("name", ["base", "Local", "test", "paper", "dask", "demo", "demo-2", "../up", "a/b", "", "."])
def test_names_that_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CrosstalkError, match=r"must (not )?be"):
        write_study(name, plain(tmp_path / "e.h5ad"), tmp_path)
    assert not (tmp_path / "conf").exists()


def test_every_environment_of_the_project_is_taken() -> None:
    from tissue_crosstalk.new_study import TAKEN

    tracked = subprocess.run(
        ["git", "ls-files", "conf"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {Path(file).parts[1] for file in tracked} <= set(TAKEN)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "conf" / "embryo").mkdir(parents=True)
    (tmp_path / "conf" / "embryo" / "globals.yml").write_text("mine")
    with pytest.raises(CrosstalkError, match="is there already, and is left as it is. Choose another NAME, or edit"):
        write_study("embryo", plain(tmp_path / "e.h5ad"), tmp_path)
    assert (tmp_path / "conf" / "embryo" / "globals.yml").read_text() == "mine"


def test_a_tissue_that_is_none_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "e.h5ad").write_text("x")
    with pytest.raises(CrosstalkError, match="is not an h5ad file"):
        write_study("embryo", tmp_path / "e.h5ad", tmp_path)
    with pytest.raises(CrosstalkError, match="Nothing of the kind is there"):
        write_study("embryo", tmp_path / "none.h5ad", tmp_path)
    assert not (tmp_path / "conf").exists()


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # As if it were installed: nothing is to be installed by a test.
    command = ["make", "--no-print-directory", "-o", ".venv/.installed", *arguments]
    # Nor as a part of the make that runs the tests, which would hand on its options.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, env=environment)


def test_make_asks_for_what_is_missing() -> None:
    for arguments in ((), ("NAME=embryo",), ("TISSUE=a.h5ad",)):
        done = make("study", *arguments)
        assert done.returncode == 2
        assert done.stdout.startswith("Say make study NAME=embryo TISSUE=path/to/embryo.h5ad")


def test_make_lists_every_target() -> None:
    named = {
        line.partition(":")[0]
        for line in (PROJECT / "Makefile").read_text().splitlines()
        if line[:1].isalpha() and ":" in line and ":=" not in line and "?=" not in line
    }
    assert "study" in named
    assert {line.split()[1] for line in make().stdout.splitlines()} == named


@pytest.mark.slow
def test_what_is_written_runs(awkward_tissue: Path, tmp_path: Path) -> None:
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    file = awkward_tissue
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    path, told = write_study("embryo", file, tmp_path)
    assert read(path) == {"study": "embryo", "tissue": str(file), "labels_key": "kind", "coord_key": "xy"}
    assert told.endswith("kedro run --env=embryo")
    give_store(tmp_path)
    bootstrap_project(PROJECT)
    params = {
        "root": str(tmp_path),
        "n_neighbors": 8,
        "training": {"max_epochs": 1, "device": "cpu", "network": {"n_heads": 2}},
    }
    with KedroSession.create(
        PROJECT, env="embryo", conf_source=str(tmp_path / "conf"), runtime_params=params
    ) as session:
        session.run(pipeline_names=["training"])
    assert (tmp_path / "data" / "06_models" / "embryo" / "model" / "model.safetensors").exists()
