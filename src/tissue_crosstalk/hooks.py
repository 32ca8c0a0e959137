"""What happens around a run: parameters are checked before it, and what it came from is tracked with it."""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Node, Pipeline
from omegaconf.errors import OmegaConfBaseException

from tissue_crosstalk.core.errors import CrosstalkError, ParameterError
from tissue_crosstalk.core.files import digest_of_tissue, disk_advice, restore_interrupted
from tissue_crosstalk.core.provenance import git_commit, package_versions
from tissue_crosstalk.datasets import AnnDataDataset, ModelDataset
from tissue_crosstalk.params import (
    DEMO,
    FlavoringParams,
    HubsParams,
    check_blocks,
    check_hub_flavor,
    check_run_time_parameters,
    check_seed,
    demo_study,
    flat_fields,
)
from tissue_crosstalk.provenance import can_say, check_together, description, said_of, say
from tissue_crosstalk.study_lock import KILLED, LOCKS, PROCESS_TAG, RUNNING, Process, StudyLock
from tissue_crosstalk.tracking_store import make_store

logger = logging.getLogger(__name__)

PREFIX = "params:"
LONGEST_VALUE = 500
"""MLflow's oldest stores take no longer values of parameters."""


class ParameterChecks:
    """Refuses parameters that nothing would read, or that contradict each other, before anything else happens."""

    def __init__(self) -> None:
        self._existing_model: object = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check the run-time parameters and all blocks, and note whether there is an existing model."""
        given = context._runtime_params or {}
        check_run_time_parameters(given)
        with suppress(MissingConfigException):
            check_blocks(context.config_loader["parameters"], given)  # before Kedro, which shows pydantic's own words
        self._existing_model = given.get("model") or context.config_loader["globals"].get("model")

    @hook_impl(wrapper=True)  # before anything is written, and before kedro-mlflow opens a run, which would stay open
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> Generator[None, object, object]:
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
        return (yield)


TERMINATED: Final = 128 + signal.SIGTERM
"""Exit code of a process that was asked to end, as shells have it."""


class PlainErrors:
    """Shows what this project, or Kedro, refuses on purpose as one message, without a traceback of their insides.

    ``CROSSTALK_TRACEBACK=1`` shows the traceback, too.
    """

    @hook_impl(tryfirst=True)  # whatever the others refuse
    def after_context_created(self) -> None:
        """Show errors that end the process so."""
        if not isinstance(sys.excepthook, _PlainHook):
            sys.excepthook = _PlainHook(sys.excepthook)


class _PlainHook:
    """An excepthook that leaves all but expected errors to another one."""

    def __init__(self, other: Callable[..., object]) -> None:
        self._other = other

    def __call__(self, kind: type[BaseException], error: BaseException, traceback: object) -> None:
        from kedro.validation.exceptions import ParameterValidationError

        advice = None if isinstance(error, CrosstalkError) else disk_advice(error)
        is_expected = advice or issubclass(kind, CrosstalkError | DatasetError | ParameterValidationError)
        if is_expected and not os.environ.get("CROSSTALK_TRACEBACK"):
            sys.stderr.write(f"{kind.__name__}: {error}\n" + (f"{advice}\n" if advice else ""))
        else:
            self._other(kind, error, traceback)


class NewTrackingStore:
    """Makes MLflow's store before kedro-mlflow does: whole, or not at all."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Make it where it is a file that is not there."""
        try:
            uri = context.config_loader["mlflow"]["server"]["mlflow_tracking_uri"]
        except (MissingConfigException, KeyError, TypeError, OmegaConfBaseException):
            return  # kedro-mlflow says what is wrong, or has a default
        make_store(str(uri))


class OneRunPerStudy:
    """Refuses a second run of a study at a time, and leaves no MLflow run open, however a run ends.

    Of a run that is ended by Ctrl-C or SIGTERM, Kedro's hooks do not hear: it is ended when the process ends, or the
    next run begins. Of a process that is killed, the next run's :class:`~tissue_crosstalk.study_lock.StudyLock` hears.
    """

    def __init__(self) -> None:
        self._root = Path()
        self._study = self._demo = ""
        self._locks: list[StudyLock] = []
        self._former_handler: Any = None
        self._run_id: str | None = None

    @hook_impl(tryfirst=True)  # before kedro-mlflow, which would go on with a run that is open
    def after_context_created(self, context: KedroContext) -> None:
        """Note where the studies are, and end a run of this process that was interrupted."""
        if self._locks:
            self._end(KILLED)
        given, known = context._runtime_params or {}, context.config_loader["globals"]
        self._root = Path(context.project_path) / str(given.get("root") or known["root"])
        self._study, self._demo = str(given.get("study") or known["study"]), demo_study(given.get("study"))

    @hook_impl(wrapper=True)  # around kedro-mlflow, which opens its run
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> Generator[None, object, object]:
        """Keep other runs out of the study, and put in order what one that was killed has left."""
        import mlflow

        is_demo = {(node.namespace or "").split(".")[0] == DEMO for node in pipeline.nodes}
        try:
            process = Process.this(mlflow.get_tracking_uri())
            for study in sorted(self._demo if demo else self._study for demo in is_demo):
                lock = StudyLock(self._root / LOCKS, study, process)
                lock.acquire()
                self._locks.append(lock)
            for folder in sorted(_folders(pipeline.all_outputs(), catalog)):
                restore_interrupted(folder)
            with _tags_of_new_runs({PROCESS_TAG: process.tag}):
                result = yield
        except BaseException:
            self._end("FAILED")
            raise
        run = mlflow.active_run()
        self._run_id = None if run is None else run.info.run_id
        atexit.unregister(self._end)
        atexit.register(self._end, KILLED)  # before MLflow's own, which would call it FINISHED
        self._listen_to_terminate()
        return result

    @hook_impl(trylast=True)  # after kedro-mlflow has closed the run
    def after_pipeline_run(self) -> None:
        """Let others in."""
        self._leave()

    @hook_impl(trylast=True)
    def on_pipeline_error(self) -> None:
        """Let others in."""
        self._leave()

    def _end(self, status: str) -> None:
        """End a run that nobody else will end."""
        mlflow = sys.modules.get("mlflow")
        with suppress(Exception):  # the store may be what failed; the error that brought us here is the one to show
            while self._locks and mlflow is not None and mlflow.active_run() is not None:
                mlflow.end_run(status)
        self._leave()

    def _has_ended(self) -> bool:
        """Return whether MLflow knows that the run is over: on a full disk, that cannot be written either."""
        if self._run_id is None:
            return True
        import mlflow

        try:
            return bool(mlflow.MlflowClient().get_run(self._run_id).info.status != RUNNING)
        except Exception:  # the store is gone, or whatever its driver says
            return False
        finally:
            self._run_id = None

    def _leave(self) -> None:
        has_ended = self._has_ended()
        while self._locks:
            self._locks.pop().release(ended=has_ended)
        if self._former_handler is not None:
            signal.signal(signal.SIGTERM, self._former_handler)
            self._former_handler = None

    def _listen_to_terminate(self) -> None:
        """Have SIGTERM, which a cluster sends before it kills, end the process as Ctrl-C does."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._former_handler = signal.signal(signal.SIGTERM, _terminate)


@contextmanager
def _tags_of_new_runs(tags: Mapping[str, str]) -> Iterator[None]:
    """Have MLflow give tags to whatever run is opened in the block, in the moment in which it is opened."""
    from mlflow.environment_variables import MLFLOW_RUN_CONTEXT

    name = MLFLOW_RUN_CONTEXT.name
    before = os.environ.get(name)
    try:
        known = json.loads(before) if before else {}
    except ValueError:
        known = {}
    os.environ[name] = json.dumps({**known, **tags})
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _terminate(*_: object) -> None:
    sys.exit(TERMINATED)


def _folders(names: Iterable[str], catalog: DataCatalog) -> set[Path]:
    """Return the folders in which some datasets lie, of those in the local file system."""
    folders = set()
    for name in names:
        dataset = catalog.get(name)
        path = getattr(dataset, "_filepath", None)
        if path is not None and getattr(dataset, "_protocol", "file") == "file":
            folders.add(Path(path).parent)
    return folders


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
        """
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


class Provenance:
    """Writes into tables what they were made from, and refuses to work on what does not belong together.

    See :mod:`~tissue_crosstalk.provenance`. Parameters are those of a table's own stage, so that it is the same
    whether stages run together or one by one; what came before is known by what the attention says of itself.
    """

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._pipeline = Pipeline([])
        self._attention: Mapping[str, Any] = {}
        self._warned: set[str] = set()

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        """Begin anew."""
        self._pipeline, self._attention, self._warned = pipeline, {}, set()

    @hook_impl
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        """Refuse tables of different runs, and say where the tissue has changed since."""
        made = {name: said for name, value in inputs.items() if (said := said_of(value)).get("run")}
        check_together(made)
        self._attention = next((said for said in made.values() if "keys" in said), self._attention)
        if made and any(_without_namespace(name) in TISSUES for name in node.inputs):
            self._compare_tissue(self._attention.get("tissue_sha256"))

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Add to a table what it was made from."""
        if can_say(data, _without_namespace(dataset_name)):
            say(data, self._of(dataset_name))

    def _of(self, dataset: str) -> dict[str, Any]:
        (maker,) = self._pipeline.only_nodes_with_outputs(dataset).nodes
        upstream = self._pipeline.to_outputs(dataset).nodes
        stage = Pipeline([node for node in upstream if node.namespace == maker.namespace])
        blocks = tuple(f"{name.removeprefix(PREFIX)}." for name in stage.inputs() if name.startswith(PREFIX))
        known = self._record.known()
        own = {name: value for name, value in known["parameters"].items() if f"{name}.".startswith(blocks)}
        return description(known, own, self._attention, self._record.hashes())

    def _compare_tissue(self, sha256: str | None) -> None:
        now = self._record.hashes().get("tissue")
        if sha256 and now and sha256 != now and now not in self._warned:
            self._warned.add(now)
            logger.warning(
                "the file of the tissue has changed since its attention was extracted (SHA-256 %s, now %s). If its "
                "expression is not the same, run the extraction again.",
                sha256[:12],
                now[:12],
            )


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
