"""The list of runs: its address, and a server that ends with what started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import children, free_port, group_members
from sessions import PROJECT
from tissue_crosstalk.ui import check_port, main, run_list

SECONDS = 120


def store_of(root: Path) -> str:
    return f"sqlite:///{root}/mlflow.db"


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which someone else listens, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_run_list_is_that_of_the_experiment(demo: Path) -> None:
    address = run_list("http://127.0.0.1:5000", store_of(demo))
    assert address == "http://127.0.0.1:5000/#/experiments/1/runs"


def test_run_list_of_a_store_without_runs_is_the_list_of_experiments(tmp_path: Path) -> None:
    assert run_list("http://127.0.0.1:5000", store_of(tmp_path)) == "http://127.0.0.1:5000/#/experiments"


def test_experiment_is_named_in_the_project(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "conf/base").mkdir(parents=True)
    (tmp_path / "conf/base/mlflow.yml").write_text("tracking: {experiment: {name: another}}")
    assert run_list("http://127.0.0.1:5000", store_of(demo), tmp_path) == "http://127.0.0.1:5000/#/experiments"


@pytest.mark.parametrize("server", ["https://mlflow.example.org/team", "https://mlflow.example.org/team/"])
def test_run_list_of_a_server_in_a_folder(demo: Path, server: str) -> None:
    assert run_list(server, store_of(demo)) == "https://mlflow.example.org/team/#/experiments/1/runs"


def test_the_teams_server_is_shown_and_none_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, str]] = []

    def found(server: str, store: str) -> str:
        asked.append((server, store))
        return f"{server}/#/experiments/7/runs"

    monkeypatch.setattr("tissue_crosstalk.ui.tracking_uri", lambda root: "https://mlflow.example.org")
    monkeypatch.setattr("tissue_crosstalk.ui.run_list", found)
    monkeypatch.setattr("tissue_crosstalk.ui.serve", lambda store, port: pytest.fail("a server was started"))
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    main([])
    main(["--no-browser"])
    assert asked == [("https://mlflow.example.org", "https://mlflow.example.org")] * 2
    assert opened == ["https://mlflow.example.org/#/experiments/7/runs"]
    assert capsys.readouterr().out == "\nRuns: https://mlflow.example.org/#/experiments/7/runs\n" * 2


def test_a_taken_port_is_refused(taken_port: int) -> None:
    with pytest.raises(SystemExit, match=rf"Port {taken_port} cannot be had: .*in use. Name another one: --port\."):
        check_port(taken_port)


def start(store: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the program as ``make ui`` does, on a store."""
    return subprocess.Popen(
        [sys.executable, "-m", "tissue_crosstalk.ui", *arguments],
        cwd=PROJECT,
        env=os.environ | {"MLFLOW_TRACKING_URI": store} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_taken_port_is_said_in_one_line(tmp_path: Path, taken_port: int) -> None:
    program = start(store_of(tmp_path), "--port", str(taken_port), "--no-browser")
    said, _ = program.communicate(timeout=SECONDS)
    assert program.returncode == 1
    assert len(said.splitlines()) == 1
    assert f"Port {taken_port} cannot be had" in said
    assert "--port" in said


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda ending: ending.name)
def test_the_server_ends_with_the_program(demo: Path, ending: signal.Signals) -> None:
    port = free_port()
    proxy = "http://127.0.0.1:9"  # as in many a company; this machine's own ports are not asked through it
    program = start(store_of(demo), "--port", str(port), "--no-browser", http_proxy=proxy, no_proxy="")
    assert program.stdout is not None
    try:
        address = next(line for line in program.stdout if line.startswith("Runs: "))
        assert address == f"Runs: http://127.0.0.1:{port}/#/experiments/1/runs\n"
        [server] = children(program.pid)
        assert len(group_members(server)) > 1  # MLflow's own and its worker
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        program.send_signal(ending)
        program.communicate(timeout=SECONDS)
        assert program.returncode == 0
        assert group_members(server) == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    finally:
        program.terminate()
        program.communicate(timeout=SECONDS)
