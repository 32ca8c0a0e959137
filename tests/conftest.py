"""Fixtures that the tests share: real Kedro sessions and MLflow stores, in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import settings
from scipy import sparse

from sessions import LABELS, PROJECT, run_project

# An example that takes long on a busy machine is no failure; hypothesis's own profile of CI says the same.
settings.register_profile("crosstalk", settings.default, deadline=None)
settings.load_profile("crosstalk")


@pytest.fixture(scope="session")
def golden() -> Path:
    return PROJECT / "tests" / "golden"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the demo pipeline, which no test may change."""
    root = tmp_path_factory.mktemp("demo")
    run_project(root, "demo")
    return root


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
