"""One run at a time in a study, and MLflow runs whose process was killed are ended by the next one."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.files import writing

logger = logging.getLogger(__name__)

RUNNING, KILLED = "RUNNING", "KILLED"
"""Statuses of MLflow's runs."""

INTERRUPTED_TAG = "interrupted"


@dataclass(frozen=True)
class _Holder:
    """The run that is, or was last, at work in a study.

    Attributes
    ----------
    process, host, since
        Who it is.
    run_id, tracking_uri
        Its MLflow run; empty where there is none yet, or none at all.
    """

    process: int
    host: str
    since: str
    run_id: str = ""
    tracking_uri: str = ""


class StudyLock:
    """Keeps other runs out of a study; a process that is killed leaves nothing locked.

    Parameters
    ----------
    folder
        Where there is a file for each study, which says who is at work in it. It is empty where a run has ended by
        itself; what a process leaves there that was killed tells the next one which MLflow run it has to end.
    study
        Name of the study.
    """

    def __init__(self, folder: Path, study: str) -> None:
        self._folder, self._study = folder, study
        self._handle: int | None = None
        self._holder = _Holder(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))

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
            handle, is_locked = _locked(self._path)
        if handle is None:
            raise ResultError(
                f"another run is at work in the study {self._study!r}{_described(_read_path(self._path))}. Wait until "
                "it ends, or give this one another study: --params=study=<name>."
            )
        self._handle = handle
        if is_locked:
            _end_killed(_read(handle), self._study)
        self._write()
        end_killed_runs(self._folder, but=self._path)

    def note(self, run_id: str, tracking_uri: str) -> None:
        """Note the MLflow run, for whoever comes if this process is killed."""
        known = asdict(self._holder) | {"run_id": run_id, "tracking_uri": tracking_uri}
        self._holder = _Holder(**known)
        self._write()

    def release(self) -> None:
        """Let others in."""
        if self._handle is not None:
            with suppress(OSError):
                os.ftruncate(self._handle, 0)
            os.close(self._handle)  # which unlocks it
            self._handle = None

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._study}.json"

    def _write(self) -> None:
        if self._handle is None:
            return
        text = json.dumps(asdict(self._holder)).encode()
        with writing(self._path):
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, text, 0)


def end_killed_runs(folder: Path, *, but: Path | None = None) -> None:
    """End the MLflow runs of processes that were killed, as their studies' files tell.

    Parameters
    ----------
    folder
        See :class:`StudyLock`.
    but
        A file of which this process itself holds the lock: to close it once more would unlock it.
    """
    for path in sorted(folder.glob("*.json")):
        if path == but or path.is_symlink() or not path.stat().st_size:
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


def _read(handle: int) -> _Holder | None:
    return _parsed(os.pread(handle, 2**16, 0))


def _read_path(path: Path) -> _Holder | None:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return None


def _parsed(text: bytes) -> _Holder | None:
    try:
        return _Holder(**json.loads(text))
    except (ValueError, TypeError):  # empty, cut short, or of another version
        return None


def _described(holder: _Holder | None) -> str:
    return "" if holder is None else f" (process {holder.process} on {holder.host}, since {holder.since})"


def _end_killed(holder: _Holder | None, study: str) -> None:
    """End the MLflow run of a process that was killed, unless it has ended."""
    if holder is None:
        return
    logger.warning(
        "the last run of the study %r%s did not come to its end. What it had finished is kept.",
        study,
        _described(holder),
    )
    if not holder.run_id:
        return
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        client = mlflow.MlflowClient(holder.tracking_uri or None)
        if client.get_run(holder.run_id).info.status == RUNNING:
            client.set_tag(holder.run_id, INTERRUPTED_TAG, "its process was killed; found by a later run")
            client.set_terminated(holder.run_id, KILLED)
    except MlflowException as error:  # the store is gone, or another one: no reason not to run
        logger.warning("its MLflow run %s cannot be ended: %s", holder.run_id, error)
