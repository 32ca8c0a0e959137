"""Opens MLflow's list of runs in a browser: ``python -m tissue_crosstalk.ui``."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import yaml

from tissue_crosstalk.resolvers import PROJECT_PATH, tracking_uri
from tissue_crosstalk.study_lock import LOCKS, end_killed_runs
from tissue_crosstalk.tracking_store import make_store

SECONDS_TO_START = 120.0
SECONDS_TO_STOP = 10.0
_TRY_EVERY = 0.3


def run_list(server: str, store: str, project: Path = PROJECT_PATH) -> str:
    """Return the address of the project's list of runs.

    Parameters
    ----------
    server
        Address of MLflow's server, such as ``http://127.0.0.1:5000``.
    store
        Address of the store, in which the experiment is looked up; what is not there yet has the list of experiments.
    project
        Folder of the project.
    """
    from mlflow import MlflowClient

    settings = yaml.safe_load((project / "conf/base/mlflow.yml").read_text(encoding="utf-8"))
    experiment = MlflowClient(tracking_uri=store).get_experiment_by_name(settings["tracking"]["experiment"]["name"])
    place = "experiments" if experiment is None else f"experiments/{experiment.experiment_id}/runs"
    return f"{server.rstrip('/')}/#/{place}"


def check_port(port: int) -> None:
    """See that a port on this machine can be had.

    Raises
    ------
    SystemExit
        If it cannot: another server there would answer in this one's place.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SystemExit(f"Port {port} cannot be had: {error.strerror}. Name another one: --port.") from error


def serve(store: str, port: int) -> subprocess.Popen[bytes]:
    """Start MLflow's server, in a process group of its own.

    Parameters
    ----------
    store
        Address of the store.
    port
        Port on this machine, to which it answers this machine alone.
    """
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    # One worker, and no server for jobs that nothing here uses: two processes in place of eleven.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return subprocess.Popen(
        [*command, "--workers", "1", "--backend-store-uri", store],
        env=os.environ | quiet,
        start_new_session=True,
    )


def wait_for(server: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers.

    Raises
    ------
    SystemExit
        If it ended instead, or does not answer in two minutes.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know this machine's ports
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit("MLflow's server ended; is the port taken? Name another one: --port.")
        try:
            with direct.open(f"{server}/health", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(_TRY_EVERY)
    raise SystemExit(f"MLflow's server did not answer at {server}.")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server with its workers, and wait until they have."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + SECONDS_TO_STOP
        try:
            os.killpg(process.pid, ending)
            while time.monotonic() < end:
                process.poll()  # what has ended is of the group until it is asked after
                os.killpg(process.pid, 0)
                time.sleep(0.1)
        except (ProcessLookupError, PermissionError):  # none is left; macOS says the latter
            return


def main(arguments: Sequence[str] | None = None) -> None:
    """Show the list of runs, and serve it until Ctrl-C where the store is this project's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.epilog = "The store is that of MLFLOW_TRACKING_URI, else mlflow.db in the project's folder."
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    given = parser.parse_args(arguments)
    store = tracking_uri(".")
    if store.startswith(("http://", "https://")):  # the team's server
        _show(run_list(store, store), open_browser=not given.no_browser)
        return
    server = f"http://127.0.0.1:{given.port}"
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # or the server would outlive this program
        if ending != signal.SIGHUP or signal.getsignal(ending) != signal.SIG_IGN:  # nohup has it ignored
            signal.signal(ending, lambda *_: sys.exit())
    check_port(given.port)
    make_store(store)
    end_killed_runs(PROJECT_PATH / LOCKS)
    process = serve(store, given.port)
    try:
        wait_for(server, process)
        _show(run_list(server, store), open_browser=not given.no_browser)
        # Not wait(): polars, which MLflow imports where it is there, has system calls go on after Ctrl-C.
        while process.poll() is None:
            time.sleep(_TRY_EVERY)
    finally:
        stop(process)


def _show(address: str, *, open_browser: bool) -> None:
    sys.stdout.write(f"\nRuns: {address}\n")
    sys.stdout.flush()
    if open_browser:
        webbrowser.open(address)  # says nothing where there is no browser


if __name__ == "__main__":
    main()
