"""Attention of a made-up tissue in parquet shards, of any size: what the stage ``hubs`` reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from tissue_crosstalk.core import tables, terms

CELL_TYPES = tuple(f"type {number}" for number in range(15))
FOLDERS = (terms.CELLS, terms.NN_IDXS, terms.NN_DISTS, "flavored_attention")


def write_attention(
    folder: Path,
    n_cells: int,
    *,
    n_neighbors: int = 30,
    n_heads: int = 8,
    cells_per_shard: int = 20_000,
    n_sections: int = 4,
    regions: bool = False,
    seed: int = 0,
) -> None:
    """Write the tables of one attention: neighbors nearby, of any type but the cell's own, with random attention.

    Attention that is random, to types that are everywhere, is the hardest case: it has the most distinct compositions.
    With `regions` each stretch of 5,000 cells is of a few types, as tissues are.
    """
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(CELL_TYPES), n_cells).astype(np.int16)
    if regions:
        for start in range(0, n_cells, 5000):
            mixture = generator.dirichlet(np.full(len(CELL_TYPES), 0.3))
            stretch = labels[start : start + 5000]
            stretch[:] = generator.choice(len(CELL_TYPES), len(stretch), p=mixture)
    sections = (np.arange(n_cells) * n_sections // n_cells).astype(np.int32)
    names = np.array([f"cell-{number}" for number in range(n_cells)], dtype=object)
    coordinates = generator.uniform(0, 10 * n_cells**0.5, (n_cells, 2))
    for name in FOLDERS:
        (folder / name / ("flavor=vanilla" if name == "flavored_attention" else "")).mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, n_cells, cells_per_shard)):
        own = slice(start, min(start + cells_per_shard, n_cells))
        size = own.stop - own.start
        reach = 500 if regions else 3000
        near = np.arange(own.start, own.stop)[:, None] + generator.integers(-reach, reach, (size, n_neighbors))
        nn_idx = (near % n_cells).astype(np.int32)
        for _ in range(8):  # the next cell in the list, until it is of another type
            nn_idx = np.where(labels[nn_idx] == labels[own, None], (nn_idx + 1) % n_cells, nn_idx).astype(np.int32)
        nn_dist = np.sort(generator.gamma(4, 8, (size, n_neighbors)), axis=1).astype(np.float32)
        patterns = generator.gamma(0.3, 0.05, (n_heads, size, n_neighbors)).astype(np.float32)
        file = tables.shard_file(number)
        written = {
            terms.NN_IDXS: tables.neighbors_table(nn_idx, names[own]),
            terms.NN_DISTS: tables.neighbors_table(nn_dist, names[own]),
            "flavored_attention/flavor=vanilla": tables.patterns_table(patterns, labels[own], CELL_TYPES, names[own]),
            terms.CELLS: tables.cells_table(
                np.arange(own.start, own.stop),
                names[own],
                labels[own],
                CELL_TYPES,
                sections[own],
                [f"section {section}" for section in range(n_sections)],
                coordinates[own],
            ),
        }
        for name, table in written.items():
            strings = [field.name for field in table.schema if str(field.type).startswith("dictionary")]
            pq.write_table(table, folder / name / file, use_dictionary=strings)


def open_attention(folder: Path) -> dict[str, pads.Dataset]:
    """Return the folders that :func:`write_attention` wrote, by name."""
    return {name: pads.dataset(str(folder / name), format="parquet", partitioning="hive") for name in FOLDERS}
