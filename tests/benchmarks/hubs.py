"""How long hubs take, how much memory, and how that grows: ``python tests/benchmarks/hubs.py --cells 10000 100000``.

30 neighbors, 8 heads, 15 types, from parquet shards of 20,000 cells. Each size runs in a process of its own, after the
shards are written. The floor is the bytes of the shards over the rate at which they are read, and the arithmetic of
the silhouettes' distances over the rate of a matrix product in one thread for each core, both measured in the run. The
yardstick is the silhouette of all rows with scikit-learn, at the smallest size.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import h5py
import joblib
import numpy as np
from anndata.io import sparse_dataset, write_elem
from hub_attention import CELL_TYPES, open_attention, write_attention
from scipy import sparse

from tissue_crosstalk.core import clustering
from tissue_crosstalk.core.clustering import CANDIDATE_CLUSTERS, DistinctRows, cluster_rows
from tissue_crosstalk.core.hub_contents import contrast_receivers, find_markers, share_by_section
from tissue_crosstalk.core.hub_enrichment import compare_with_niches, enrich_hubs
from tissue_crosstalk.core.hubs import HubSettings
from tissue_crosstalk.core.stored import Cells, StoredStrength
from tissue_crosstalk.core.stored_hubs import find_stored_hubs
from tissue_crosstalk.core.strong_edges import attention_thresholds, count_neighbors
from tissue_crosstalk.core.threads import side_by_side

T = TypeVar("T")
N_GENES = 500


def product_rate(n_types: int) -> float:
    """Operations per second of the silhouette's product that gives distances, in one thread."""
    from threadpoolctl import threadpool_limits

    generator = np.random.default_rng(0)
    left, right = generator.random((256, n_types + 2)), generator.random((n_types + 2, 512))
    distance = np.empty((256, 512))
    with threadpool_limits(1):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < 1:
            np.matmul(left, right, out=distance)
            count += 1
        return 2 * 256 * 512 * (n_types + 2) * count / (time.perf_counter() - start)


def measure(folder: Path) -> dict[str, float]:
    """Run every step once, in order; seconds by step, and what else there is to say."""
    seconds: dict[str, float] = {}

    def timed(step: str, function: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = function()
        seconds[step] = time.perf_counter() - start
        return result

    threads = joblib.cpu_count()
    rate = threads * product_rate(len(CELL_TYPES))
    data = open_attention(folder)
    cells = timed("cells", lambda: Cells.read(data["cells"]))
    arguments = data["flavored_attention"], data["nn_idxs"]
    strength = StoredStrength(*arguments, cells, nn_dists=data["nn_dists"], flavor="vanilla")
    thresholds = timed("thresholds", lambda: attention_thresholds(strength, cells.labels, 15, 0.9))
    counts = timed("compositions", lambda: count_neighbors(strength, cells.labels, 15, thresholds[cells.labels]))
    shares = counts.shares[counts.strong.any(axis=(1, 2))]
    distinct = timed("distinct rows", lambda: DistinctRows.of(shares))
    timed("hubs", lambda: cluster_rows(shares, None, 42))
    wanted = sum(seconds.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    start = time.perf_counter()
    n_bytes = 0
    for name in ("flavored_attention", "nn_idxs", "nn_dists"):
        for file in data[name].get_fragments():
            n_bytes += Path(file.path).stat().st_size
            file.to_table()
    reading = time.perf_counter() - start
    n_rows = len(distinct.rows)
    operations = n_rows**2 * (len(CELL_TYPES) + 2)  # a distance is of two rows
    floor = reading + operations / rate
    other: dict[str, float] = {}
    seconds, kept = other, seconds
    hubs = timed(
        "all with 10 resamples", lambda: find_stored_hubs(*arguments, data["nn_dists"], cells, "vanilla", HubSettings())
    )
    timed("enrichment", lambda: enrich_hubs(hubs, cells.labels, cells.sections))
    timed("niches", lambda: compare_with_niches(hubs))
    genes = [f"gene {number}" for number in range(N_GENES)]
    expression = sparse.random(len(cells.names), N_GENES, density=0.1, format="csr", dtype=np.float32, random_state=0)
    timed("markers", lambda: find_markers(hubs, cells, expression, genes))
    with h5py.File(folder / "expression.h5", "w") as file:
        write_elem(file, "X", expression)
        timed("markers on disk", lambda: find_markers(hubs, cells, sparse_dataset(file["X"]), genes))
    timed("contrasts", lambda: contrast_receivers(hubs, cells))
    timed("sections", lambda: share_by_section(hubs, cells))
    return {
        "cells": len(cells.names), "distinct rows": n_rows, **{f"s {step}": value for step, value in kept.items()},
        "s in all": wanted, "GiB peak": peak, "GB read": n_bytes / 1e9, "Gflop silhouettes": operations / 1e9,
        "Gflop/s": rate / 1e9, "s floor": floor, "times floor": wanted / floor,
        **{f"s then: {step}": value for step, value in other.items()},
    }  # fmt: skip


def full_silhouettes(folder: Path) -> tuple[float, float]:
    """Return seconds of scikit-learn's silhouettes of all rows for all numbers, and of ours."""
    from sklearn.metrics import silhouette_score

    data = open_attention(folder)
    cells = Cells.read(data["cells"])
    strength = StoredStrength(data["flavored_attention"], data["nn_idxs"], cells, flavor="vanilla")
    thresholds = attention_thresholds(strength, cells.labels, 15, 0.9)
    counts = count_neighbors(strength, cells.labels, 15, thresholds[cells.labels])
    shares = counts.shares[counts.strong.any(axis=(1, 2))]
    tried = {k: cluster_rows(shares, k, 42).cluster for k in CANDIDATE_CLUSTERS}
    distinct = DistinctRows.of(shares)
    first = np.unique(distinct.of_cell, return_index=True)[1]
    start = time.perf_counter()
    with side_by_side() as each:
        clustering.silhouettes(distinct, {k: cluster[first] for k, cluster in tried.items()}, 42, each)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    for cluster in tried.values():
        silhouette_score(shares, cluster)
    return time.perf_counter() - start, ours


def main() -> None:
    """Print a column per size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--regions", action="store_true", help="a few types in each region, instead of all everywhere")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        sys.stdout.write(json.dumps(measure(Path(given.folder))))
        return
    columns = []
    with tempfile.TemporaryDirectory() as root:
        for n_cells in given.cells:
            folder = Path(root) / str(n_cells)
            write_attention(folder, n_cells, regions=given.regions)
            done = subprocess.run(
                [sys.executable, __file__, "--folder", str(folder)], check=True, capture_output=True, text=True
            )
            columns.append(json.loads(done.stdout))
        theirs, ours = full_silhouettes(Path(root) / str(min(given.cells)))
    for name in columns[0]:
        sys.stdout.write(f"{name:32}" + "".join(f"{column[name]:14,.2f}" for column in columns) + "\n")
    sys.stdout.write(
        f"silhouettes of {min(given.cells):,} cells: scikit-learn {theirs:.1f} s, ours {ours:.2f} s, "
        f"{theirs / ours:.0f} times faster\n"
    )


if __name__ == "__main__":
    main()
