"""One run of a study at a time, and none that stays open."""

from __future__ import annotations

import _thread
import atexit
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from tissue_crosstalk.core.files import restore_interrupted
from tissue_crosstalk.params import DEMO, demo_study
from tissue_crosstalk.study_lock import KILLED, LOCKS, PROCESS_TAG, RUNNING, Process, StudyLock

TERMINATED: Final = 128 + signal.SIGTERM
"""Exit code of a process that was asked to end, as shells have it."""

AGAIN_AFTER: Final = 5.0
"""Seconds after which SIGTERM is heard again, where the process has not ended."""


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
    os.environ[name] = json.dumps({**(known if isinstance(known, dict) else {}), **tags})
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _terminate(*_: object) -> None:
    """End the process by an exception, and again after a while: a destructor or a callback may have swallowed it."""
    _thread.start_new_thread(_terminate_again, ())  # takes none of the locks that the interrupted code may hold
    sys.exit(TERMINATED)


def _terminate_again() -> None:
    time.sleep(AGAIN_AFTER)
    if signal.getsignal(signal.SIGTERM) is _terminate:  # else the run has been left in the meantime
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)  # which wakes it, too


def _folders(names: Iterable[str], catalog: DataCatalog) -> set[Path]:
    """Return the folders in which some datasets lie, of those in the local file system."""
    folders = set()
    for name in names:
        dataset = catalog.get(name)
        path = getattr(dataset, "_filepath", None)
        if path is not None and getattr(dataset, "_protocol", "file") == "file":
            folders.add(Path(path).parent)
    return folders
