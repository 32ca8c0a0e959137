"""Parameters are checked before anything else happens."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.hooks._pipelines import parameters_of
from tissue_crosstalk.params import (
    FlavoringParams,
    HubsParams,
    check_blocks,
    check_hub_flavor,
    check_places,
    check_run_time_parameters,
    check_seed,
)


class ParameterChecks:
    """Refuses parameters that nothing would read, or that contradict each other, before anything else happens."""

    def __init__(self) -> None:
        self._existing_model: object = None

    @hook_impl(tryfirst=True)  # before kedro-mlflow, which makes paths of them
    def after_context_created(self, context: KedroContext) -> None:
        """Check the run-time parameters and all blocks, and note whether there is an existing model."""
        given, known = context._runtime_params or {}, context.config_loader["globals"]
        check_run_time_parameters(given)
        check_places({**known, **given})
        with suppress(MissingConfigException):
            parameters = context.config_loader["parameters"]
            check_blocks(parameters, given)  # before Kedro, which shows pydantic's own words
            if "seed" in parameters:
                check_seed(parameters["seed"])
        self._existing_model = given.get("model") or known.get("model")

    @hook_impl(wrapper=True)  # before anything is written, and before kedro-mlflow opens a run, which would stay open
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> Generator[None, object, object]:
        """Check parameters against the pipeline and each other."""
        if self._existing_model is not None and "model" in pipeline.all_outputs():
            raise ParameterError(
                f"model={self._existing_model} names an existing model, but this pipeline trains one. "
                "Use --pipelines=attention to start from the model, or leave it out to train."
            )
        values = parameters_of(pipeline, catalog)
        flavoring, hubs = values.get("flavoring"), values.get("hubs")
        if isinstance(flavoring, FlavoringParams) and isinstance(hubs, HubsParams):
            check_hub_flavor(flavoring, hubs)
        return (yield)
