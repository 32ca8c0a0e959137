"""The whole way from an h5ad file to the report, for tissues of growing size: time, memory, distance to the floor.

``python tests/benchmarks/million.py --cells 10000 100000 1000000``, on a quiet machine, with some 12 GB of disk. Tissue
and model are those of ``make_tissue.py``: 500 genes, 15 types, 30 neighbors, 8 heads of size 32, hidden layer 512. Each
size is a real run of the pipeline ``attention`` in a process of its own.

The floor of a stage is its arithmetic over the rate of a matrix product, plus the bytes of its results over the rate at
which this disk is written; both rates are measured in the same process. The arithmetic is that of the products of
the network, each quantity once, and of the silhouettes of hubs. Sorting, searching, counting and drawing have none.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from make_tissue import add_options, make_model, settings_of, write_tissue

PROJECT = Path(__file__).resolve().parents[2]
STUDY = "million"
STAGES = ("preparing", "extraction", "flavoring", "hubs", "reporting")
RESULTS = {
    "preparing": ("05_model_input",),
    "extraction": tuple(
        f"07_model_output/{STUDY}/{name}"
        for name in ("attention_patterns", "nn_idxs", "nn_dists", "sender_norms", "cells")
    ),
    "flavoring": (f"07_model_output/{STUDY}/flavored_attention",),
    "reporting": ("08_reporting",),
}


class Stopwatch:
    """Kedro hooks that add up the seconds of each stage, with loading and saving, and its peak of memory."""

    def __init__(self) -> None:
        from kedro.framework.hooks import hook_impl

        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.peak = dict.fromkeys(STAGES, 0.0)
        self.nodes: dict[str, float] = {}
        self._since = time.perf_counter()
        self._node = ""
        self._stage = "preparing"
        for name in ("before_pipeline_run", "before_node_run", "after_node_run", "after_dataset_saved"):
            setattr(type(self), name, hook_impl(getattr(type(self), f"_{name}")))

    def _before_pipeline_run(self) -> None:
        self._since = time.perf_counter()
        _forget_peak()

    def _before_node_run(self, node: Any) -> None:
        self._node = node.name
        self._stage = "preparing" if "prepare" in node.name else str(node.namespace)

    def _after_node_run(self) -> None:
        self._lap()

    def _after_dataset_saved(self) -> None:
        self._lap()

    def _lap(self) -> None:
        """Whatever happened since the last node was saved belongs to this one: its loading, running and saving."""
        now = time.perf_counter()
        self.seconds[self._stage] += now - self._since
        self.nodes[self._node] = self.nodes.get(self._node, 0.0) + now - self._since
        self._since = now
        self.peak[self._stage] = max(self.peak[self._stage], _peak())
        _forget_peak()


def _peak() -> float:
    """Return the most memory that this process had since the last time, GiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    return 0.0


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def write_rate(folder: Path, n_bytes: int = 2**30) -> float:
    """Return bytes per second that reach the disk of a folder."""
    block = np.random.default_rng(0).bytes(2**24)
    start = time.perf_counter()
    with (folder / "rate").open("wb") as file:
        for _ in range(n_bytes // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    (folder / "rate").unlink()
    return n_bytes / seconds


def size_of(path: Path) -> int:
    """Return the bytes of a folder; a file of two names counts once."""
    files = {file.stat().st_ino: file.stat().st_size for file in path.rglob("*") if file.is_file()}
    return sum(files.values())


def arithmetic(root: Path, model_folder: Path) -> dict[str, float]:
    """Return the operations of each stage's products, and how many pairs and distinct compositions there were."""
    import pandas as pd
    from extraction import operations

    from tissue_crosstalk import load_model
    from tissue_crosstalk.core import terms
    from tissue_crosstalk.core.clustering import CANDIDATE_CLUSTERS
    from tissue_crosstalk.core.model_input import ModelInput
    from tissue_crosstalk.core.tissue_file import open_tissue

    model = load_model(model_folder)
    stored = ModelInput(open_tissue(root / f"data/05_model_input/{STUDY}/model_input.h5ad"))
    labels, n_types = stored.cells.labels.astype(np.int64), len(stored.cells.cell_types)
    occurs = np.zeros(stored.cells.n_cells * n_types, dtype=bool)
    for start in range(0, stored.cells.n_cells, 50_000):
        nn_idx = stored.neighbors(start, start + 50_000).idx
        occurs[(nn_idx.astype(np.int64) * n_types + labels[start : start + 50_000, None]).reshape(-1)] = True
    n_pairs = int(occurs.sum())
    hubs = pd.read_parquet(root / f"data/07_model_output/{STUDY}/hubs.parquet")
    shares = hubs.loc[hubs[terms.HUB_CLUSTER] >= 0].drop(columns=terms.HUB_CLUSTER)
    n_rows = len(shares.drop_duplicates())
    n_columns = 1 + sum(k - 1 for k in CANDIDATE_CLUSTERS)
    return {
        "extraction": operations(model.network, stored.cells.n_cells, n_pairs),
        "hubs": float(n_rows) ** 2 * (n_types + 2 + 2 * n_columns),  # a distance is of two rows, and summed for each
        "pairs per cell": n_pairs / stored.cells.n_cells,
        "distinct compositions": float(n_rows),
    }


def measure(tissue: Path, model: Path, root: Path) -> dict[str, Any]:
    """Run the pipeline, and return what it took."""
    from extraction import product_rate
    from hubs import product_rate as float64_rate

    rates = [product_rate()]
    started = time.perf_counter()
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(PROJECT)
    given = {"root": str(root), "tissue": str(tissue), "model": str(model), "section_key": "section", "study": STUDY}
    watch = Stopwatch()
    with KedroSession.create(PROJECT, runtime_params=given) as session:
        session._hook_manager.register(watch)
        session.run(pipeline_names=["attention"])
    in_all = time.perf_counter() - started
    flavoring = {flavors: flavoring_alone(given, flavors) for flavors in ("vanilla", None)}
    rates.append(product_rate())
    # Other guests of the machine make the rate swing; that of the run is between those before and after it, or so.
    rate, disk, work = sum(rates) / 2, write_rate(root), arithmetic(root, model)
    written = {stage: sum(size_of(root / "data" / part) for part in RESULTS.get(stage, ())) for stage in STAGES}
    # Vanilla attention is a second name of the patterns' files: those bytes are the extraction's.
    written["flavoring"] -= written["extraction"] and size_of(
        root / f"data/07_model_output/{STUDY}/flavored_attention/flavor=vanilla"
    )
    rate_of = dict.fromkeys(STAGES, rate) | {"hubs": os.cpu_count() * float64_rate(15)}  # thread by thread
    floor = {stage: work.get(stage, 0.0) / rate_of[stage] + written[stage] / disk for stage in STAGES}
    own = sum(watch.seconds.values())
    result: dict[str, Any] = {
        "Gflop/s before": rates[0] / 1e9, "Gflop/s after": rates[1] / 1e9, "GB/s written": disk / 1e9,
        "Gflop/s of silhouettes": rate_of["hubs"] / 1e9,
        "pairs per cell": work["pairs per cell"],
        "distinct compositions": work["distinct compositions"],
    }  # fmt: skip
    for stage in STAGES:
        result |= {
            f"{stage}: s": watch.seconds[stage],
            f"{stage}: Gflop": work.get(stage, 0.0) / 1e9,
            f"{stage}: GB written": written[stage] / 1e9,
            f"{stage}: s floor": floor[stage],
            f"{stage}: times floor": watch.seconds[stage] / floor[stage] if floor[stage] > 0.05 else float("nan"),
            f"{stage}: GiB peak": watch.peak[stage],
        }
    extracted = watch.seconds["extraction"]
    return result | {
        "all stages: s": own,
        "all stages: s floor": sum(floor.values()),
        "all stages: times floor": own / sum(floor.values()),
        "all stages: GiB peak": max(watch.peak.values()),
        "largest child process: GiB peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
        "outside of the stages: s": in_all - own,
        "four flavors / vanilla alone": (extracted + flavoring[None]) / (extracted + flavoring["vanilla"]),
        "nodes": watch.nodes,
    }


def flavoring_alone(given: dict[str, str], flavors: str | None) -> float:
    """Return the seconds of the stage flavoring, of some flavors or all, from nothing."""
    import shutil

    from kedro.framework.session import KedroSession

    shutil.rmtree(Path(given["root"]) / f"data/07_model_output/{STUDY}/flavored_attention")
    params: dict[str, Any] = given | ({} if flavors is None else {"flavoring": {"flavors": flavors}})
    if flavors is not None:
        params["hubs"] = {"flavor": flavors}
    watch = Stopwatch()
    with KedroSession.create(PROJECT, runtime_params=params) as session:
        session._hook_manager.register(watch)
        session.run(pipeline_names=["flavoring"])
    return watch.seconds["flavoring"]


def main() -> None:
    """Print a column per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where to work; what is made there is kept")
    parser.add_argument("--nodes", action="store_true", help="also the seconds of each node")
    parser.add_argument("--measure", nargs=3, type=Path, help=argparse.SUPPRESS)
    add_options(parser)
    given = parser.parse_args()
    if given.measure:
        sys.stdout.write("\n" + json.dumps(measure(*given.measure)))
        return
    if given.folder:
        given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = given.folder or Path(temporary)
        model = folder / "model"
        make_model(model, settings_of(given), given.genes, given.types, given.neighbors, given.seed)
        columns = []
        for n_cells in given.cells:
            tissue = folder / f"tissue_{n_cells}.h5ad"
            if not tissue.exists():
                write_tissue(
                    tissue, n_cells=n_cells, n_genes=given.genes, n_types=given.types, n_sections=given.sections,
                    mean_counts=given.mean_counts, seed=given.seed,
                )  # fmt: skip
            root = Path(temporary) / str(n_cells)
            root.mkdir()
            command = [sys.executable, __file__, "--measure", str(tissue), str(model), str(root)]
            done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
            columns.append(json.loads(done.stdout.rsplit("\n", maxsplit=1)[-1]))
    sys.stdout.write(f"{'cells':34}" + "".join(f"{n_cells:14,}" for n_cells in given.cells) + "\n")
    for name in columns[0]:
        if name != "nodes":
            sys.stdout.write(f"{name:34}" + "".join(f"{column[name]:14,.2f}" for column in columns) + "\n")
    if given.nodes:
        for name in columns[-1]["nodes"]:
            times = "".join(f"{column['nodes'].get(name, 0.0):14,.2f}" for column in columns)
            sys.stdout.write(f"{name:50}{times}\n")


if __name__ == "__main__":
    main()
