"""One run of a study at a time, and no MLflow run that stays RUNNING, however its process ended."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from commands import Begun, Kedro
from sessions import give_store, run_project
from tissue_crosstalk.core.errors import OutputError, ResultError
from tissue_crosstalk.hooks.one_run_per_study import TERMINATED
from tissue_crosstalk.study_lock import KILLED, LOCKS, PROCESS_TAG, Process, StudyLock, end_killed_runs
from tissue_crosstalk.tracking_store import make_store

HOLDS = """
import sys, time
from pathlib import Path
from tissue_crosstalk.study_lock import PROCESS_TAG, Process, StudyLock
folder, uri = Path(sys.argv[1]), sys.argv[2]
process = Process.this(uri)
lock = StudyLock(folder, "embryo", process)
lock.acquire()
import mlflow
run = mlflow.MlflowClient(uri).create_run("0", tags={PROCESS_TAG: process.tag})
print(run.info.run_id, flush=True)
time.sleep(600)
"""


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return give_store(tmp_path)


def held(folder: Path, uri: str) -> tuple[subprocess.Popen[str], str]:
    """Return a process that is at work in the study ``embryo``, and its MLflow run."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder), uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def status(uri: str, run_id: str) -> str:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as store:
        ((found,),) = store.execute("select status from runs where run_uuid = ?", (run_id,))
        return str(found)


def test_another_process_is_kept_out_until_it_ends(tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture) -> None:
    lock = StudyLock(tmp_path, "embryo", Process.this(uri))
    process, run_id = held(tmp_path, uri)
    try:
        with pytest.raises(
            ResultError, match=rf"another run is at work in the study 'embryo' \(process {process.pid} on \S+, since 20"
        ):
            lock.acquire()
        other = StudyLock(tmp_path, "another", Process.this(uri))
        other.acquire()
        assert status(uri, run_id) == "RUNNING"  # it is alive: a run of another study leaves it alone
        other.release()
    finally:
        process.kill()
        process.communicate()
    lock.acquire()
    assert f"the last run of the study 'embryo' (process {process.pid} on" in caplog.text
    assert status(uri, run_id) == KILLED
    lock.release()
    assert not (tmp_path / "embryo.json").read_text()


@pytest.mark.slow
def test_a_killed_run_of_any_study_is_ended(tmp_path: Path, uri: str) -> None:
    process, run_id = held(tmp_path, uri)
    process.kill()
    process.communicate()
    assert status(uri, run_id) == "RUNNING"
    end_killed_runs(tmp_path)
    assert status(uri, run_id) == KILLED


def test_the_same_process_is_kept_out_of_its_own_study(tmp_path: Path, uri: str) -> None:
    first, second = (StudyLock(tmp_path, "embryo", Process.this(uri)) for _ in range(2))
    first.acquire()
    with pytest.raises(ResultError, match=f"process {os.getpid()} on"):
        second.acquire()
    other = StudyLock(tmp_path, "demo", Process.this(uri))
    other.acquire()  # looks at all studies, and must not let go of the first
    other.release()
    assert held_by_others(tmp_path / "embryo.json")
    first.release()
    second.acquire()
    second.release()


def held_by_others(path: Path) -> bool:
    code = f"import fcntl, os; fcntl.lockf(os.open({str(path)!r}, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": 1}', "null"])
def test_a_damaged_note_is_no_reason_not_to_run(tmp_path: Path, uri: str, content: str) -> None:
    (tmp_path / "embryo.json").write_text(content)
    lock = StudyLock(tmp_path, "embryo", Process.this(uri))
    lock.acquire()
    lock.release()


def test_a_link_in_the_place_of_a_note_is_not_written_through(tmp_path: Path, uri: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "embryo.json").symlink_to(victim)
    with pytest.raises(OSError, match="embryo.json"):
        StudyLock(tmp_path, "embryo", Process.this(uri)).acquire()
    assert victim.read_text() == "mine"


def test_a_store_is_made_once_and_whole(tmp_path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    make_store(uri)
    run_id = mlflow.MlflowClient(uri).create_run("0").info.run_id
    make_store(uri)
    assert status(uri, run_id) == "RUNNING"  # the one that is there is left alone
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db"]
    make_store("http://nowhere.invalid")


@pytest.mark.parametrize("uri", ["sqlite:///:memory:", "sqlite:///other.db?timeout=30", "sqlite:///", "file:mlruns"])
def test_what_is_no_plain_file_of_a_store_is_left_to_mlflow(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_store(uri)
    assert not list(tmp_path.iterdir())


def test_a_store_of_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_store("sqlite:///deep/team.db")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["team.db"]


def test_a_lock_that_cannot_be_noted_is_let_go(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk, in a process that lives on."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OutputError, match="Make room on that disk"):
            StudyLock(tmp_path, "embryo", Process.this(uri)).acquire()
    lock = StudyLock(tmp_path, "embryo", Process.this(uri))
    lock.acquire()
    lock.release()


# --- Real runs


def command(root: Path, **params: Any) -> list[str]:
    given = ",".join(f"{name}={value}" for name, value in {"root": root, **params}.items())
    return ["run", "--pipelines=demo", "--env=test", f"--params={given}"]


def statuses(root: Path) -> list[str]:
    with sqlite3.connect(root / "mlflow.db") as store:
        return [found for (found,) in store.execute("select status from runs order by start_time")]


def begun(kedro: Kedro, root: Path, **params: Any) -> Begun:
    """Return a run that is at work."""
    run = kedro.begin(*command(root, **params))
    note = root / LOCKS / "demo.json"
    while not (note.exists() and note.read_text()):
        assert not run.ended()
        time.sleep(0.02)
    return run


@pytest.mark.slow
def test_a_second_run_is_refused_and_the_first_ends(kedro: Kedro, tmp_path: Path) -> None:
    first = begun(kedro, tmp_path)
    second = kedro.run(*command(tmp_path))
    assert second.returncode == 1
    last = second.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ResultError: another run is at work in the study 'demo' (process {first.pid} on")
    assert "Traceback" not in second.stderr
    assert first.wait().returncode == 0
    assert statuses(tmp_path) == ["FINISHED"]  # the second has opened none


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 1)])
def test_a_run_that_is_asked_to_end_says_so_in_mlflow(
    kedro: Kedro, tmp_path: Path, ending: signal.Signals, code: int
) -> None:
    run = begun(kedro, tmp_path)
    while not statuses(tmp_path):
        time.sleep(0.02)
    time.sleep(1.0)
    os.kill(run.pid, ending)
    assert run.wait().returncode == code
    assert statuses(tmp_path) == [KILLED]
    assert not (tmp_path / LOCKS / "demo.json").read_text()


SWALLOWS = """
import os, signal, time
from tissue_crosstalk.hooks import one_run_per_study

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)

one_run_per_study.AGAIN_AFTER = 0.5
signal.signal(signal.SIGTERM, one_run_per_study._terminate)
Swallows()  # what is raised in its end is told of, and lost
print("goes on", flush=True)
time.sleep(30)
"""


@pytest.mark.slow
def test_an_end_that_is_swallowed_comes_again() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWS], capture_output=True, text=True, timeout=25, check=False)
    assert "goes on" in done.stdout
    assert "SystemExit" in done.stderr
    assert done.returncode == TERMINATED


@pytest.mark.slow
def test_a_run_whose_process_is_killed_is_ended_by_the_next(kedro: Kedro, tmp_path: Path) -> None:
    run = begun(kedro, tmp_path)
    while not statuses(tmp_path):
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait().returncode == -signal.SIGKILL
    assert statuses(tmp_path) == ["RUNNING"]
    run_project(tmp_path, "simulation", study="elsewhere")
    assert statuses(tmp_path) == [KILLED, "FINISHED"]
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        tags = dict(store.execute("select key, value from tags where key in (?, 'interrupted')", (PROCESS_TAG,)))
    assert tags["interrupted"] == "its process was killed; found by a later run"


@pytest.mark.slow
def test_an_interruption_in_a_notebook_leaves_the_study_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the process lives on."""

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tissue_crosstalk.core.simulation.simulate_tissue", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_project(tmp_path, "simulation")
    run_project(tmp_path, "simulation")
    assert statuses(tmp_path) == [KILLED, "FINISHED"]
