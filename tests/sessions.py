"""Runs of the project in sessions of their own, for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
LABELS = ("L2/3 IT", "Tumor, CD4+", "T", "../up")


def run_project(root: Path, pipeline: str = "__default__", *, env: str = "test", **params: Any) -> None:
    """Run a pipeline in a session of its own, as ``kedro run --pipelines=… --params=…`` does."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(PROJECT)
    with KedroSession.create(PROJECT, env=env, runtime_params={"root": str(root), **params}) as session:
        session.run(pipeline_names=[pipeline])
