"""What a run came from, and what it warned of."""

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

from tissue_crosstalk.core.files import digest_of_tissue
from tissue_crosstalk.core.provenance import git_commit, package_versions
from tissue_crosstalk.datasets import AnnDataDataset, ModelDataset
from tissue_crosstalk.hooks._pipelines import TISSUES, parameters_of, without_namespace
from tissue_crosstalk.params import DEMO, demo_study, flat_fields

RUN_RECORD = "run_record"
"""Dataset by which the report learns what only a hook knows."""
MODELS = ("model", "existing_model")
_FOLDERS_KNOWN_BY = (".zgroup", ".zmetadata", "zarr.json", "model.json", "model.pt")
"""Files of which a folder has one where it is a tissue or a model."""
_PACKAGE = Path(__file__).parents[1]
_PYTHON_WARNINGS = "py.warnings"  # where Kedro has logging put those of the warnings module
_WARNING_LOGGERS = (_PACKAGE.name, _PYTHON_WARNINGS)


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
        blocks = parameters_of(pipeline, catalog)
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
        names = [name for name in node.inputs if without_namespace(name) == RUN_RECORD]
        if not names:
            return None
        files = {
            kind: {"name": path.name, "sha256": self._digest(path) or "unknown"}
            for kind, path in self._files.items()
            if path.exists()
        }
        record = {**self._record, "files": files, "warnings": tuple(self._warnings.messages)}
        return dict.fromkeys(names, record)

    def known(self) -> Mapping[str, Any]:
        """Return study, parameters, commit and versions of the run."""
        return self._record

    def hashes(self) -> dict[str, str]:
        """Return the hashes of tissue and model, of those that are there."""
        found = {kind: self._digest(path) for kind, path in self._files.items() if path.exists()}
        return {kind: known for kind, known in found.items() if known is not None}

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
        None, too, of a folder that is neither a tissue nor a model: that may be a home with all that is in it.
        """
        if path.is_dir() and not any((path / name).exists() for name in _FOLDERS_KNOWN_BY):
            return None
        if path not in self._digests:
            try:
                self._digests[path] = digest_of_tissue(path)
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


def _files(names: Iterable[str], catalog: DataCatalog) -> dict[str, Path]:
    """Return where the tissue and the model lie, of those among some datasets."""
    files: dict[str, Path] = {}
    for name in sorted(names):
        for kind, datasets in (("tissue", TISSUES), ("model", MODELS)):
            dataset = catalog.get(name) if without_namespace(name) in datasets else None
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
