"""Runs of the project in sessions of their own, for the tests."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
LABELS = ("L2/3 IT", "Tumor, CD4+", "T", "../up")


@functools.cache
def _empty_store() -> bytes:
    """Return an MLflow store without a run, which takes MLflow some seconds to make."""
    from tissue_crosstalk.tracking_store import make_store

    with tempfile.TemporaryDirectory() as folder:
        make_store(f"sqlite:///{folder}/mlflow.db")
        return Path(folder, "mlflow.db").read_bytes()


def give_store(root: Path) -> str:
    """Put an MLflow store in a folder, unless it has one, and return its address."""
    store = root / "mlflow.db"
    if not store.exists():
        root.mkdir(parents=True, exist_ok=True)
        store.write_bytes(_empty_store())
    return f"sqlite:///{store}"


def import_what_runs_import() -> None:
    """Import what most runs do, so that processes which are forked after it do not each take seconds for it."""
    import importlib

    for name in (
        "kedro.framework.cli.cli",
        "kedro_mlflow.framework.hooks",
        "IPython",  # as Kedro does
        "mlflow.store.tracking.sqlalchemy_store",
        "torch._dynamo",  # as optimizers do
        "sklearn.cluster",
        "matplotlib.pyplot",
        "tissue_crosstalk.api",
        "tissue_crosstalk.core.training",
        "tissue_crosstalk.core.plots.style",
        "tissue_crosstalk.datasets",
    ):
        importlib.import_module(name)


def run_project(root: Path, pipeline: str = "__default__", *, env: str = "test", **params: Any) -> None:
    """Run a pipeline in a session of its own, as ``kedro run --pipelines=… --params=…`` does."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(PROJECT)
    give_store(root)
    with KedroSession.create(PROJECT, env=env, runtime_params={"root": str(root), **params}) as session:
        session.run(pipeline_names=[pipeline])
