"""Fixtures that the tests share: real Kedro sessions and MLflow stores, in a folder of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

PROJECT = Path(__file__).resolve().parents[1]
GOLDEN = PROJECT / "tests" / "golden"

Run = Callable[..., None]


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


def run_project(root: Path, pipeline: str = "__default__", *, env: str = "test", **params: Any) -> None:
    """Run a pipeline in a session of its own, as ``kedro run --pipelines=… --params=…`` does."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(PROJECT)
    with KedroSession.create(PROJECT, env=env, runtime_params={"root": str(root), **params}) as session:
        session.run(pipeline_names=[pipeline])


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the demo pipeline, which no test may change."""
    root = tmp_path_factory.mktemp("demo")
    run_project(root, "demo")
    return root


LABELS = ("L2/3 IT", "Tumor, CD4+", "T", "../up")


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
