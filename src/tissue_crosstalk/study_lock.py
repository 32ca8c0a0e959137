"""One run at a time in a study, and MLflow runs whose process was killed are ended by the next one."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.files import writing

logger = logging.getLogger(__name__)

RUNNING, KILLED = "RUNNING", "KILLED"
"""Statuses of MLflow's runs."""

INTERRUPTED_TAG = "interrupted"
LOCKS: Final = Path("data", ".runs")
"""Folder below the root in which each study has a file that says who is at work in it."""

PROCESS_TAG = "process"
"""Tag of MLflow's runs by which one is found whose process was killed, at whatever moment."""


@dataclass(frozen=True)
class Process:
    """The process that is, or was last, at work in a study.

    Attributes
    ----------
    process, host, since
        Who it is.
    tracking_uri
        Where its MLflow run is, which has :data:`PROCESS_TAG`.
    token
        Tells it apart from all others.
    """

    process: int
    host: str
    since: str
    tracking_uri: str
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"

    @property
    def tag(self) -> str:
        """Value of :data:`PROCESS_TAG`."""
        return f"{self.process} on {self.host} ({self.token})"

    @classmethod
    def this(cls, tracking_uri: str) -> Process:
        """Return this process, which is another one to every run in it."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), now, tracking_uri, uuid.uuid4().hex)


# Files that this process has locked. It must not open them once more: to close them again would unlock them.
_held: dict[Path, Process] = {}


class StudyLock:
    """Keeps other runs out of a study; a process that is killed leaves nothing locked.

    Parameters
    ----------
    folder
        Where there is a file for each study, which says who is at work in it. It is empty where a run has ended by
        itself; what a process leaves there that was killed tells the next one which MLflow run it has to end.
    study
        Name of the study.
    process
        Who is at work, from :meth:`Process.this`.
    """

    def __init__(self, folder: Path, study: str, process: Process) -> None:
        self._folder, self._study, self._process = folder, study, process
        self._handle: int | None = None

    def acquire(self) -> None:
        """Keep others out, and end the MLflow runs of those that were killed, of any study.

        Raises
        ------
        ResultError
            If another run is at work in the study.
        OutputError
            If the folder cannot be written.
        """
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, is_locked = (None, False) if self._path in _held else _locked(self._path)
        if handle is None:
            other = _held.get(self._path) or _read_path(self._path)
            raise ResultError(
                f"another run is at work in the study {self._study!r}{'' if other is None else f' ({other})'}. Wait "
                "until it ends, or give this one another study: --params=study=<name>."
            )
        self._handle = handle
        _held[self._path] = self._process
        try:
            if is_locked:
                _end_killed(_read(handle), self._study)
            text = json.dumps(asdict(self._process)).encode()
            with writing(self._path):
                os.ftruncate(handle, 0)
                os.pwrite(handle, text, 0)
            end_killed_runs(self._folder)
        except BaseException:  # or this process, such as a notebook's, would keep itself out
            self.release()
            raise

    def release(self, *, ended: bool = True) -> None:
        """Let others in; unless the run has `ended` in MLflow, too, the next one is left to end it."""
        if self._handle is not None:
            with suppress(OSError):
                if ended:
                    os.ftruncate(self._handle, 0)
            os.close(self._handle)  # which unlocks it
            self._handle = None
            _held.pop(self._path, None)

    @property
    def _path(self) -> Path:
        return self._folder.resolve() / f"{self._study}.json"


def end_killed_runs(folder: Path) -> None:
    """End the MLflow runs of processes that were killed, as their studies' files tell.

    Parameters
    ----------
    folder
        See :class:`StudyLock`.
    """
    for path in sorted(folder.resolve().glob("*.json")):
        if path in _held or path.is_symlink() or not path.stat().st_size:
            continue
        try:
            handle, is_locked = _locked(path)
        except OSError:  # somebody else's
            continue
        if handle is not None:
            try:
                if is_locked:
                    _end_killed(_read(handle), path.stem)
                    os.ftruncate(handle, 0)
            finally:
                os.close(handle)


def _locked(path: Path) -> tuple[int | None, bool]:
    """Open a file and lock it, and return the handle, and whether it is locked; None where another process has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        # Of this process alone: a lock of the whole file would go on in a child that outlives it. Also over NFS.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(handle)
        return None, False
    except OSError:  # a file system without locks: nobody can be kept out, and nobody is known to be dead
        return handle, False
    return handle, True


def _read(handle: int) -> Process | None:
    return _parsed(os.pread(handle, 2**16, 0))


def _read_path(path: Path) -> Process | None:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return None


def _parsed(text: bytes) -> Process | None:
    try:
        return Process(**json.loads(text))
    except (ValueError, TypeError):  # empty, cut short, or of another version
        return None


def _end_killed(known: Process | None, study: str) -> None:
    """End the MLflow run of a process that was killed, unless it has ended."""
    if known is None:
        return
    logger.warning(
        "the last run of the study %r (%s) did not come to its end. What it had finished is kept.", study, known
    )
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        client = mlflow.MlflowClient(known.tracking_uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        for run in client.search_runs(experiments, f"tags.{PROCESS_TAG} = '{known.tag}'"):
            if run.info.status == RUNNING:
                client.set_tag(run.info.run_id, INTERRUPTED_TAG, "its process was killed; found by a later run")
                client.set_terminated(run.info.run_id, KILLED)
    except MlflowException as error:  # the store is gone, or another one: no reason not to run
        logger.warning("its MLflow run cannot be ended: %s", error)
