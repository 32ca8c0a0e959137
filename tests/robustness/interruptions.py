"""Kills real runs of the project with SIGKILL at random moments, and looks at what is left, and at what comes of it.

``python tests/robustness/interruptions.py --kills 50``, which takes some minutes per stage. Each trial begins with all
that comes before the stage and kills a run of the stage: nine of ten at a moment drawn evenly from the time in which it
is at work, the others in the seconds before. Then it asks:

- Is every file that is to be seen whole, and of its kind (a parquet file is read to its last row, a PNG decoded)?
- Does the same run, started again, end, with results equal to those of a run that nobody killed, byte for byte?
- Is nothing left that was unfinished, and does no run stay RUNNING in MLflow?

A run is a session of Kedro's in a process of its own, forked from one that has imported everything: what is killed is
the work, not the start.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sessions import import_what_runs_import, run_project

STAGES = ("training", "extraction", "flavoring", "hubs", "reporting")
STUDY = "killed"
# More shards than threads and more than one figure, so that there is something to be in the middle of.
PARAMS: dict[str, Any] = {
    "study": STUDY,
    "n_neighbors": 10,
    "extraction": {"cells_per_shard": 60},
    "training": {"max_epochs": 4},
    "reporting": {"min_bin_count": 5},
}


@dataclass
class Outcome:
    """What the trials of one stage came to.

    Attributes
    ----------
    stage
        Its name.
    seconds
        How long a run is at work that nobody kills.
    trials, killed
        How many there were, and in how many the run was still at work when it was killed.
    begun
        Trials in which the run had begun to write something.
    files
        Files that were looked at after the kills.
    wrong
        What was not as it should be.
    """

    stage: str
    seconds: float
    trials: int = 0
    killed: int = 0
    begun: int = 0
    files: int = 0
    wrong: list[str] = field(default_factory=list)


def make_tissue(path: Path, n_cells: int = 400) -> None:
    """Write a small simulated tissue."""
    from tissue_crosstalk.core.simulation import SimulationSettings, simulate_tissue

    settings = SimulationSettings(
        n_cells=n_cells, n_genes=30, n_cell_types=4, n_interactions=2, genes_per_interaction=4
    )
    simulate_tissue(settings, seed=0)[0].write_h5ad(path)


def start(root: Path, pipeline: str) -> int:
    """Begin a run in a process of its own, and return the process."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        log = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run_project(root, pipeline, tissue=str(root / "tissue.h5ad"), **PARAMS)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for_work(root: Path, process: int) -> float:
    """Wait until a run has noted itself as being at work, or has ended, and return the seconds that took."""
    began = time.perf_counter()
    note = root / "data" / ".runs" / f"{STUDY}.json"
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if note.exists() and f'"process": {process},' in note.read_text():
            break
        time.sleep(0.005)
    return time.perf_counter() - began


def run(root: Path, pipeline: str) -> tuple[float, float]:
    """Run to the end, and return the seconds before it was at work, and those it was."""
    began = time.perf_counter()
    process = start(root, pipeline)
    before = wait_for_work(root, process)
    _, status = os.waitpid(process, 0)
    if status:
        raise RuntimeError(f"{pipeline} ended with {status}:\n" + (root / "log").read_text()[-3000:])
    return before, time.perf_counter() - began - before


def results(root: Path) -> Iterator[Path]:
    """Yield every file below ``data`` that a user sees."""
    data = root / "data"
    for path in sorted(data.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(data).parts):
            yield path


def leftovers(root: Path) -> list[str]:
    """Return what is hidden in the folders of results, but for the record of the runs."""
    hidden = (path.relative_to(root) for path in (root / "data").rglob(".*"))
    return sorted(str(path) for path in hidden if path.parts[:2] != ("data", ".runs"))


def digests(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that a user sees."""
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in results(root)}


def check_whole(path: Path) -> None:
    """Raise unless a file is one of its kind, to its end."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.ParquetFile(path).read()
    elif path.suffix == ".h5ad":
        import anndata

        anndata.read_h5ad(path)
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".svg":
        from xml.etree import ElementTree

        ElementTree.parse(path)
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>")
    elif path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        load_file(path)
    elif path.suffix == ".csv":
        import pandas as pd

        pd.read_csv(path)
    else:
        raise ValueError("of no known kind")


def running(root: Path) -> list[str]:
    """Return the MLflow runs that are said to be running."""
    import sqlite3

    with sqlite3.connect(root / "mlflow.db") as store:
        (health,) = store.execute("pragma integrity_check").fetchone()
        assert health == "ok", health
        return [name for (name,) in store.execute("select run_uuid from runs where status = 'RUNNING'")]


def trial(before: Path, root: Path, stage: str, delay: float, expected: dict[str, str], outcome: Outcome) -> None:
    """Kill one run after some seconds of work, or before (less than 0), run it again, and note what is wrong."""
    shutil.copytree(before, root, symlinks=True)
    if delay < 0 and stage == STAGES[0]:
        (root / "mlflow.db").unlink()  # so that its making is interrupted, too
    at_first = digests(root)
    process = start(root, stage)
    if delay >= 0:
        wait_for_work(root, process)
    time.sleep(abs(delay))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    outcome.trials += 1
    outcome.killed += os.WIFSIGNALED(status)
    outcome.begun += digests(root) != at_first or bool(leftovers(root))
    where = f"{stage} killed after {delay:.3f} s: "
    for path in results(root):
        outcome.files += 1
        try:
            check_whole(path)
        except Exception as error:
            outcome.wrong.append(f"{where}{path.relative_to(root)} is not whole: {type(error).__name__}: {error}")
    try:
        run(root, stage)
    except RuntimeError as error:
        outcome.wrong.append(f"{where}the next run failed: {error}")
        return
    found = digests(root)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if different:
        outcome.wrong.append(f"{where}the next run ended with other results: {different}")
    if left := leftovers(root):
        outcome.wrong.append(f"{where}left behind after the next run: {left}")
    if still := running(root):
        outcome.wrong.append(f"{where}runs that are still RUNNING after the next run: {still}")


def interrupt(stages: tuple[str, ...], n_kills: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Kill runs of each stage, and yield what each stage came to."""
    from tissue_crosstalk.tracking_store import make_store

    import_what_runs_import()
    generator = np.random.default_rng(seed)
    whole = folder / "whole"
    whole.mkdir()
    make_tissue(whole / "tissue.h5ad")
    make_store(f"sqlite:///{whole}/mlflow.db")
    for stage in STAGES:
        before, root = folder / f"before-{stage}", folder / "trial"
        shutil.copytree(whole, before)
        waiting, working = run(whole, stage)
        if stage not in stages:
            continue
        expected = digests(whole)
        outcome = Outcome(stage, working)
        for number in range(n_kills):
            moment = generator.uniform()
            trial(before, root, stage, moment * working if number % 10 else -moment * waiting, expected, outcome)
            shutil.rmtree(root)
        yield outcome


def main() -> int:
    """Print a line per stage, and what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="per stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    given = parser.parse_args()
    n_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for outcome in interrupt(tuple(given.stages), given.kills, given.seed, Path(folder)):
            sys.stdout.write(
                f"{outcome.stage:12} {outcome.seconds:5.1f} s; {outcome.trials} trials, {outcome.killed} killed at "
                f"work, {outcome.begun} after they had begun to write; {outcome.files:,} files looked at; "
                f"{len(outcome.wrong)} wrong\n"
            )
            sys.stdout.writelines(f"  {line}\n" for line in outcome.wrong)
            sys.stdout.flush()
            n_wrong += len(outcome.wrong)
    return min(n_wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
