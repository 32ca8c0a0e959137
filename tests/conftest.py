"""Fixtures that the tests share: real Kedro sessions and MLflow stores, in a folder of their own."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import settings
from scipy import sparse

from commands import Kedro
from sessions import LABELS, PROJECT, run_project

# An example that takes long on a busy machine is no failure; hypothesis's own profile of CI says the same.
settings.register_profile("crosstalk", settings.default, deadline=None)
settings.load_profile("crosstalk")


# Files that take longest, the longest first: a process that begins with one as the last keeps the others waiting.
LONGEST = (
    "test_bad_tissues.py",
    "test_end_to_end.py",
    "test_properties.py",
    "test_real_data.py",
    "test_interruptions.py",
    "test_kedro_viz.py",
    "test_large_tissues.py",
    "test_study_lock.py",
    "test_full_disk.py",
    "test_hostile_labels.py",
    "test_mlflow_ui.py",
    "test_resume.py",
    "test_results_belong_together.py",
    "test_cluster.py",
    "test_plot_style.py",
    "test_extraction.py",
    "test_checkpoints.py",
    "test_hostile_names.py",
    "test_stored_model_input.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; the others stay in their random order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish() -> None:
    """Have the garbage collector leave alone what was imported: it took an eighth of the time of all tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def thawed() -> Iterator[None]:
    """Nothing is hidden from the garbage collector, as where a program is no test."""
    gc.unfreeze()
    yield
    gc.collect()
    gc.freeze()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that one process of the tests has made for all of them; the others wait for it."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    root, done = folder / name, folder / f"{name}.made"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(root, ignore_errors=True)  # of a process that failed to make it
            make(root)
            done.touch()
    return root


@pytest.fixture(scope="session")
def golden() -> Path:
    return PROJECT / "tests" / "golden"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the demo pipeline, which no test may change: all processes of the tests share it."""
    return made_once(tmp_path_factory, "demo", lambda root: run_project(root, "demo"))


@pytest.fixture(scope="session")
def kedro(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kedro]:
    """Runs commands as ``kedro`` does, in processes of their own."""
    started = Kedro(tmp_path_factory.mktemp("commands"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def awkward_tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts of two overlapping sections, with labels that are no file names, under keys of their own."""
    rng = np.random.default_rng(7)
    n_cells = 240
    adata = AnnData(
        X=sparse.csr_matrix(rng.poisson(2.0, size=(n_cells, 15)).astype(np.float32)),
        obs=pd.DataFrame(
            {
                "kind": pd.Categorical(rng.choice(LABELS, size=n_cells), categories=[*LABELS, "unused"]),
                "slide": np.where(np.arange(n_cells) < 130, "one", "two"),
                "mouse": np.where(np.arange(n_cells) < 130, "old", "young"),
            },
            index=[f"cell {number}" for number in range(n_cells)],
        ),
        var=pd.DataFrame(index=[f"g{number}" for number in range(15)]),
        obsm={"xy": rng.uniform(0, 150, size=(n_cells, 2))},
    )
    path = tmp_path_factory.mktemp("tissue") / "awkward.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def awkward_keys(awkward_tissue: Path) -> dict[str, Any]:
    """Run-time parameters for :func:`awkward_tissue`."""
    return {
        "tissue": str(awkward_tissue),
        "labels_key": "kind",
        "coord_key": "xy",
        "section_key": "slide",
        "n_neighbors": 8,
        "study": "awkward",
    }
