"""How much memory an epoch of training takes beyond the tissue: it is set by the batch, not by the cells.

``python tests/benchmarks/training_memory.py --cells 10000 100000 1000000``. The tissue is made of noise: sparse
expression and uniform places, as fast as they can be drawn. Each size runs in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import numpy as np
from scipy import sparse

from tissue_crosstalk.core.model import Preprocessing, TissueKeys
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.tissue import PreparedTissue
from tissue_crosstalk.core.training import train_model
from tissue_crosstalk.core.training_settings import TrainingSettings

N_GENES, N_TYPES, N_NEIGHBORS, N_EXPRESSED = 500, 15, 30, 50
SMALL = NetworkSettings(
    n_query_embed_hidden=64, n_query_dim=32, n_nn_embed=64, n_nn_embed_hidden=128, n_kv_dim=64, n_pos_coef_mlp_hidden=64
)


def noise(n_cells: int) -> PreparedTissue:
    """Return a tissue in which every cell expresses 50 of 500 genes, in the order of one coordinate."""
    rng = np.random.default_rng(0)
    coordinates = rng.uniform(0, 10 * np.sqrt(n_cells), (n_cells, 2))
    genes = (np.arange(N_EXPRESSED, dtype=np.int32) * 10 + rng.integers(0, 10, (n_cells, 1), dtype=np.int32)).ravel()
    expression = sparse.csr_matrix(
        (rng.exponential(1, len(genes)).astype(np.float32), genes, np.arange(n_cells + 1) * N_EXPRESSED),
        shape=(n_cells, N_GENES),
    )
    return PreparedTissue(
        expression=expression,
        genes=tuple(f"gene{gene}" for gene in range(N_GENES)),
        labels=rng.integers(0, N_TYPES, n_cells).astype(np.int16),
        cell_types=tuple(f"type{label}" for label in range(N_TYPES)),
        coordinates=coordinates[np.lexsort((coordinates[:, 1], coordinates[:, 0] // 200))],
        sections=np.zeros(n_cells, dtype=np.int32),
        section_names=("section",),
        radii=None,
        cell_names=np.array([str(cell) for cell in range(n_cells)], dtype=object),
        positions=np.arange(n_cells),
        keys=TissueKeys(),
        preprocessing=Preprocessing(log_normalised=True),
    )


def peak() -> float:
    """Return the most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(n_cells: int) -> None:
    """Train an epoch, and print."""
    tissue = noise(n_cells)
    start = time.perf_counter()
    neighbors: Neighbors = find_neighbors(tissue, N_NEIGHBORS)
    searched, before = time.perf_counter() - start, peak()
    start = time.perf_counter()
    train_model(tissue, neighbors, SMALL, TrainingSettings(max_epochs=1, batch_size=1024), seed=0, progress=False)
    sys.stdout.write(
        f"{n_cells:>9} cells: neighbors {searched:6.1f} s, an epoch {time.perf_counter() - start:7.1f} s; "
        f"tissue and neighbors {before:5.2f} GiB, {peak() - before:5.2f} GiB more in training "
        f"(dense expression alone: {n_cells * N_GENES * 4 / 2**30:.2f} GiB)\n"
    )
    sys.stdout.flush()


def main() -> None:
    """Measure each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    given = parser.parse_args()
    if len(given.cells) == 1:
        measure(given.cells[0])
    else:
        for n_cells in given.cells:
            subprocess.run([sys.executable, __file__, "--cells", str(n_cells)], check=True)


if __name__ == "__main__":
    main()
