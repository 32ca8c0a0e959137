"""What happens around a run: parameters are checked before it and tracked with it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.params import FlavoringParams, HubsParams, check_hub_flavor, check_run_time_parameters

logger = logging.getLogger(__name__)

PREFIX = "params:"
LONGEST_VALUE = 500
"""MLflow's oldest stores take no longer values of parameters."""


class ProjectHooks:
    """Checks parameters before anything runs, and logs them flattened to MLflow."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Refuse run-time parameters that nothing would read."""
        check_run_time_parameters((context._runtime_params or {}).keys())

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Check parameters against each other, and log them."""
        given = run_params.get("runtime_params") or {}
        if given.get("model") is not None and "model" in pipeline.all_outputs():
            raise ParameterError(
                f"model={given['model']} names an existing model, but this pipeline trains one. "
                "Use --pipelines=attention to start from the model, or leave it out to train."
            )
        values = {
            name.removeprefix(PREFIX): catalog.load(name)
            for name in sorted(pipeline.inputs())
            if name.startswith(PREFIX)
        }
        if isinstance(values.get("flavoring"), FlavoringParams) and isinstance(values.get("hubs"), HubsParams):
            check_hub_flavor(values["flavoring"], values["hubs"])
        _log_parameters(values)


def _log_parameters(values: Mapping[str, Any]) -> None:
    import mlflow

    if mlflow.active_run() is None:  # tracking is off
        return
    flat = dict(_flatten(values))
    # Whole blocks are logged by kedro-mlflow under the block's name; these are their fields.
    mlflow.log_params({name: str(value)[:LONGEST_VALUE] for name, value in flat.items() if "." in name})


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value
