"""What hooks ask of a pipeline."""

from __future__ import annotations

from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

PREFIX = "params:"
"""Of names of parameters, which Kedro has among the datasets."""

TISSUES = ("tissue", "simulated_tissue")


def without_namespace(name: str) -> str:
    """Return the name of a dataset as the pipeline's own stage has it."""
    return name.rsplit(".", maxsplit=1)[-1]


def parameters_of(pipeline: Pipeline, catalog: DataCatalog) -> dict[str, Any]:
    """Return the blocks of parameters that a pipeline uses, by name."""
    return {
        name.removeprefix(PREFIX): catalog.load(name) for name in sorted(pipeline.inputs()) if name.startswith(PREFIX)
    }
