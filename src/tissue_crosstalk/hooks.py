"""What happens around a run: parameters are checked before it, and what it came from is tracked with it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.files import digest
from tissue_crosstalk.datasets import AnnDataDataset, ModelDataset
from tissue_crosstalk.params import (
    DEMO,
    FlavoringParams,
    HubsParams,
    check_hub_flavor,
    check_run_time_parameters,
    check_seed,
    demo_study,
    flat_fields,
)
from tissue_crosstalk.provenance import git_commit, package_versions

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


class OutputLinks:
    """Takes away a link in the place of an output before that is saved: what it leads to is not ours to write.

    Our datasets replace what is in their place; Kedro's own open it and write it.
    """

    def __init__(self) -> None:
        self._catalog: DataCatalog | None = None

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Note where outputs go."""
        self._catalog = catalog

    @hook_impl
    def before_dataset_saved(self, dataset_name: str) -> None:
        """Take away the link, if there is one."""
        dataset = None if self._catalog is None else self._catalog.get(dataset_name)
        place = getattr(dataset, "_filepath", None)
        if place is not None and getattr(dataset, "_protocol", "file") == "file" and Path(place).is_symlink():
            Path(place).unlink()


RUN_RECORD = "run_record"
"""Dataset by which the report learns what only a hook knows."""

TISSUES = ("tissue", "simulated_tissue")
MODELS = ("model", "existing_model")


class RunRecord:
    """Knows what a run came from: study, files and their hashes, commit, versions, parameters, and what it warned of.

    MLflow gets study, files and commit as tags; the report gets all of it as the dataset ``run_record``.
    """

    def __init__(self) -> None:
        self._study = self._demo = ""
        self._context: KedroContext | None = None
        self._project = Path()
        self._files: dict[str, Path] = {}
        self._digests: dict[Path, str] = {}
        self._record: dict[str, Any] = {}
        self._warnings = _WarningList()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Note study and project."""
        given = (context._runtime_params or {}).get("study")
        self._study, self._demo = str(given or context.config_loader["globals"]["study"]), demo_study(given)
        self._context, self._project = context, Path(context.project_path)

    @hook_impl(trylast=True)  # after kedro-mlflow has opened the run
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Name and tag the run, and begin to listen to warnings."""
        is_demo = all((node.namespace or "").split(".")[0] == DEMO for node in pipeline.nodes)
        blocks = _parameters(pipeline, catalog)
        commit = git_commit(self._project)
        self._files, self._digests = _files(pipeline.datasets(), catalog), {}
        self._record = {
            "study": self._demo if is_demo else self._study,
            "parameters": dict(pair for name, block in blocks.items() for pair in flat_fields(block, name)),
            "commit": commit,
            "versions": package_versions(),
        }
        tags = {"study": self._record["study"]}
        # A sweep names its runs itself, and so may the configuration.
        if not (run_params.get("runtime_params") or {}).get("parent_run") and not self._has_run_name():
            names = [name for name in run_params.get("pipeline_names") or () if name not in (DEMO, "__default__")]
            tags["mlflow.runName"] = " ".join([self._record["study"], *names])
        _set_tags(tags | ({} if commit is None else {"git_commit": commit}))
        self._tag_files(_files(pipeline.inputs(), catalog))
        self._warnings.listen()

    @hook_impl
    def before_node_run(self, node: Node) -> dict[str, Any] | None:
        """Hand the record to the report."""
        names = [name for name in node.inputs if _without_namespace(name) == RUN_RECORD]
        if not names:
            return None
        files = {
            kind: {"name": path.name, "sha256": self._digest(path) or "unknown"}
            for kind, path in self._files.items()
            if path.exists()
        }
        record = {**self._record, "files": files, "warnings": tuple(self._warnings.messages)}
        return dict.fromkeys(names, record)

    @hook_impl(tryfirst=True)  # before kedro-mlflow closes the run
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Tag the run with the files that it wrote itself."""
        self._warnings.stop()
        self._tag_files(_files(pipeline.all_outputs(), catalog))

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Listen no more."""
        self._warnings.stop()

    def _has_run_name(self) -> bool:
        settings = getattr(self._context, "mlflow", None)  # where kedro-mlflow has put them
        return settings is not None and settings.tracking.run.name is not None

    def _tag_files(self, files: Mapping[str, Path]) -> None:
        if not _is_tracked():
            return
        for kind, path in files.items():
            if path.exists():
                known = self._digest(path)
                _set_tags({kind: self._shown(path)} | ({} if known is None else {f"{kind}_sha256": known}))

    def _digest(self, path: Path) -> str | None:
        """Return the hash of a file or folder, computed once per run: what the run reads it does not write.

        None where it cannot be read: the node that loads it says so, and an error here would leave MLflow's run open.
        """
        if path not in self._digests:
            try:
                self._digests[path] = digest(path)
            except OSError:
                return None
        return self._digests[path]

    def _shown(self, path: Path) -> str:
        """Return a path as seen from the project where it lies in it."""
        whole = path.resolve()
        is_inside = whole.is_relative_to(self._project.resolve())
        return (whole.relative_to(self._project.resolve()) if is_inside else whole).as_posix()


class _WarningList(logging.Handler):
    """Collects what the package warns of while it listens, each message once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def listen(self) -> None:
        """Begin, with an empty list."""
        self.stop()  # of a run that was interrupted
        self.messages = []
        for logger in _WARNING_LOGGERS:
            logging.getLogger(logger).addHandler(self)

    def stop(self) -> None:
        """End."""
        for logger in _WARNING_LOGGERS:
            logging.getLogger(logger).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        message = record.getMessage()
        if record.name == _PYTHON_WARNINGS:
            known = re.match(rf"{re.escape(str(_PACKAGE))}.*?:\d+: \w+: (.*)", message)
            if known is None:  # another package's
                return
            message = known[1]
        if message not in self.messages:
            self.messages.append(message)


_PACKAGE = Path(__file__).parent
_PYTHON_WARNINGS = "py.warnings"  # where Kedro has logging put those of the warnings module
_WARNING_LOGGERS = (__package__, _PYTHON_WARNINGS)


def _without_namespace(name: str) -> str:
    return name.rsplit(".", maxsplit=1)[-1]


def _files(names: Iterable[str], catalog: DataCatalog) -> dict[str, Path]:
    """Return where the tissue and the model lie, of those among some datasets."""
    files: dict[str, Path] = {}
    for name in sorted(names):
        for kind, datasets in (("tissue", TISSUES), ("model", MODELS)):
            dataset = catalog.get(name) if _without_namespace(name) in datasets else None
            # Else in memory, or elsewhere: the path of a remote file may be that of another one here.
            if isinstance(dataset, (AnnDataDataset, ModelDataset)) and dataset.is_local:
                files[kind] = Path(dataset.filepath)
    return files


def _is_tracked() -> bool:
    import mlflow

    return mlflow.active_run() is not None  # tracking may be off


def _set_tags(tags: Mapping[str, str]) -> None:
    import mlflow

    if _is_tracked():
        mlflow.set_tags(dict(tags))


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
