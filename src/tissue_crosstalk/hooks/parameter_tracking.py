"""Parameters are MLflow's, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from tissue_crosstalk.hooks._pipelines import parameters_of
from tissue_crosstalk.params import flat_fields

LONGEST_VALUE = 500
"""MLflow's oldest stores take no longer values of parameters."""


class ParameterTracking:
    """Logs the fields of the parameters to MLflow; kedro-mlflow logs a typed block as one text only."""

    @hook_impl(trylast=True)  # after kedro-mlflow has opened the run
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Log the parameters that the pipeline uses, and nest the run under the parent that it was given."""
        import mlflow

        if mlflow.active_run() is None:  # tracking is off
            return
        _log_parameters(parameters_of(pipeline, catalog))
        given = run_params.get("runtime_params") or {}
        if given.get("parent_run"):
            mlflow.set_tags(_nesting(given))


def _log_parameters(values: Mapping[str, Any]) -> None:
    import mlflow

    flat = dict(pair for name, value in values.items() for pair in flat_fields(value, name))
    # Whole blocks are logged by kedro-mlflow under the block's name; these are their fields.
    mlflow.log_params({name: str(value)[:LONGEST_VALUE] for name, value in flat.items() if "." in name})


def _nesting(given: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags by which MLflow nests a run; its siblings are of the same pipeline, so it is named by study."""
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

    tags = {MLFLOW_PARENT_RUN_ID: str(given["parent_run"])}
    return {**tags, MLFLOW_RUN_NAME: str(given["study"])} if given.get("study") else tags
