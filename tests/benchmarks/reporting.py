"""How long figures take and how much memory: ``python tests/benchmarks/reporting.py --cells 10000 100000``.

Two questions. Attention against distance, from arrays to PNGs, for 20 types × 8 heads on 20,000 cells × 50 neighbors,
beside what pandas needs for the same means from a table of edges. And the profiles of stored attention (by distance,
pair, head and cell; one flavor, 15 types, 30 neighbors, 8 heads), by number of cells, each in a process of its own;
their floor is reading the shards.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from hub_attention import open_attention, write_attention

from tissue_crosstalk.core.distance import DistanceBins
from tissue_crosstalk.core.plots.style import cell_type_palette, save_figures
from tissue_crosstalk.core.stored_profiles import profile_stored_attention
from tissue_crosstalk.core.summary import plan_summaries

N_TYPES, N_HEADS, N_CELLS, N_NEIGHBORS = 20, 8, 20_000, 50
TYPES = [f"type {number}" for number in range(N_TYPES)]
MEBIBYTE = 2**20


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attention() -> tuple[
    npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]
]:
    """Return patterns (head, cell, neighbor), distances, labels of receivers and of senders."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, N_TYPES, N_CELLS)
    senders = (labels[:, None] + rng.integers(1, N_TYPES, (N_CELLS, N_NEIGHBORS))) % N_TYPES
    distance = np.sort(rng.uniform(0, 100, (N_CELLS, N_NEIGHBORS)), axis=1)
    weight = rng.random((N_HEADS, N_CELLS, N_NEIGHBORS), dtype=np.float32) * np.exp(-distance / 30).astype(np.float32)
    return weight / (weight.sum(axis=2, keepdims=True) + 3), distance, labels, senders


def summaries() -> dict[str, float]:
    """Draw all receivers; seconds by step, and the memory beyond that of the arrays and imports."""
    patterns, distance, labels, senders = attention()
    palette = cell_type_palette(TYPES)
    before = peak_bytes()
    times = [time.perf_counter()]
    bins = DistanceBins(TYPES, N_HEADS)
    bins.add(patterns, distance, labels, senders)
    times.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        save_figures(plan_summaries({"vanilla": bins}, palette, plot_histogram=True), folder)
    times.append(time.perf_counter())
    more = peak_bytes() - before
    aggregate, draw = np.diff(times).tolist()
    ours = {"s aggregate": aggregate, "s draw and save": draw, "s in all": times[-1] - times[0]}
    return ours | {"MiB more": more / MEBIBYTE} | from_edges(patterns, distance, labels, senders, bins)


def from_edges(
    patterns: npt.NDArray[np.float32],
    distance: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    senders: npt.NDArray[np.int64],
    bins: DistanceBins,
) -> dict[str, float]:
    """Aggregate by pandas from a table of edges, and say by how much the means differ."""
    start = time.perf_counter()
    edges = pd.DataFrame(
        {
            "receiver": np.tile(np.repeat(labels, N_NEIGHBORS), N_HEADS),
            "head_idx": np.repeat(np.arange(N_HEADS), senders.size),
            "sender": np.tile(senders.reshape(-1), N_HEADS),
            "bin": np.tile(np.floor(distance / bins.bin_size).reshape(-1), N_HEADS),
            "attention": patterns.reshape(-1).astype(np.float64),
        }
    )
    grouped = edges.groupby(["receiver", "head_idx", "sender", "bin"])["attention"].agg(["mean", "std", "count"])
    seconds = time.perf_counter() - start
    ours = bins.table(min_bin_count=0)
    difference = np.abs(ours["mean"].to_numpy() - grouped["mean"].to_numpy()).max()
    return {"s aggregate by pandas": seconds, "largest difference": float(difference)}


def profiles(folder: Path) -> dict[str, float]:
    """Profile stored attention; seconds, peak memory, and the seconds to read the shards alone."""
    stored = open_attention(folder)
    start = time.perf_counter()
    for name in ("flavored_attention", "nn_idxs", "nn_dists"):
        for fragment in stored[name].get_fragments():
            fragment.to_table()
    reading = time.perf_counter() - start
    start = time.perf_counter()
    profile_stored_attention(
        stored["flavored_attention"],
        stored["flavored_attention"],
        stored["nn_idxs"],
        stored["nn_dists"],
        stored["cells"],
        max_distance=100.0,
        bin_size=5.0,
        strong_quantile=0.9,
    )
    seconds = time.perf_counter() - start
    return {"s profile": seconds, "s read": reading, "times": seconds / reading, "GiB peak": peak_bytes() / 2**30}


def main() -> None:
    """Print the seconds of the figures, and a column of the profiles per size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--summaries", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder or given.summaries:
        sys.stdout.write(json.dumps(summaries() if given.summaries else profiles(Path(given.folder))))
        return
    for name, value in own_process("--summaries").items():
        sys.stdout.write(f"{name:24}{value:12,.3g}\n")
    columns = []
    with tempfile.TemporaryDirectory() as root:
        for n_cells in given.cells:
            folder = Path(root) / str(n_cells)
            write_attention(folder, n_cells)
            columns.append({"cells": n_cells} | own_process("--folder", str(folder)))
    for name in columns[0]:
        sys.stdout.write(f"{name:24}" + "".join(f"{column[name]:12,.3g}" for column in columns) + "\n")


def own_process(*arguments: str) -> dict[str, float]:
    """Return what this script answers in a process of its own: its peak of memory is nobody else's."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    main()
