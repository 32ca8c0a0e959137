"""What happens around a run: parameters are checked before it and tracked with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.params import (
    FlavoringParams,
    HubsParams,
    check_hub_flavor,
    check_run_time_parameters,
    check_seed,
    flat_fields,
)

PREFIX = "params:"
LONGEST_VALUE = 500
"""MLflow's oldest stores take no longer values of parameters."""


class ParameterChecks:
    """Refuses parameters that nothing would read, or that contradict each other, before anything else happens."""

    def __init__(self) -> None:
        self._existing_model: object = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check the names of the run-time parameters, and note whether there is an existing model."""
        given = context._runtime_params or {}
        check_run_time_parameters(given)
        self._existing_model = given.get("model") or context.config_loader["globals"].get("model")

    @hook_impl(tryfirst=True)  # before kedro-mlflow opens a run, which would stay open
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Check parameters against the pipeline and each other."""
        if self._existing_model is not None and "model" in pipeline.all_outputs():
            raise ParameterError(
                f"model={self._existing_model} names an existing model, but this pipeline trains one. "
                "Use --pipelines=attention to start from the model, or leave it out to train."
            )
        values = _parameters(pipeline, catalog)
        if "seed" in values:
            check_seed(values["seed"])
        flavoring, hubs = values.get("flavoring"), values.get("hubs")
        if isinstance(flavoring, FlavoringParams) and isinstance(hubs, HubsParams):
            check_hub_flavor(flavoring, hubs)


class ParameterTracking:
    """Logs the fields of the parameters to MLflow; kedro-mlflow logs a typed block as one text only."""

    @hook_impl(trylast=True)  # after kedro-mlflow has opened the run
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Log the parameters that the pipeline uses, and nest the run under the parent that it was given."""
        import mlflow

        if mlflow.active_run() is None:  # tracking is off
            return
        _log_parameters(_parameters(pipeline, catalog))
        given = run_params.get("runtime_params") or {}
        if given.get("parent_run"):
            mlflow.set_tags(_nesting(given))


def _parameters(pipeline: Pipeline, catalog: DataCatalog) -> dict[str, Any]:
    return {
        name.removeprefix(PREFIX): catalog.load(name) for name in sorted(pipeline.inputs()) if name.startswith(PREFIX)
    }


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
