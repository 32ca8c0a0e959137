"""Make a tissue of any size, and a model of the published scale for it, to measure with.

``python tests/benchmarks/make_tissue.py tissue.h5ad --cells 1000000 --model model``

Counts of 500 genes (sparse), 15 types that keep to regions of the tissue, sections side by side. Written as it is
made, field of view by field of view, in no order of places: its expression is never held as a whole.
The model has the sizes given and random weights, sharpened so that attention differs between neighbors as that of a
trained model does: time and memory depend on its sizes alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
import zarr
from anndata.io import write_elem
from scipy import sparse

from tissue_crosstalk import save_model
from tissue_crosstalk.core.model import CrosstalkModel, Preprocessing, TissueKeys
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.network_settings import NetworkSettings

ROWS_AT_ONCE = 50_000
SPACING = 10.0
"""Micrometres between cells."""
WAVES = 8


def make_cells(n_cells: int, n_types: int, n_sections: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return place, type and section of each cell: types keep to smooth regions, some cells stray."""
    section = np.arange(n_cells) * n_sections // n_cells
    number = np.arange(n_cells) - np.searchsorted(section, section)
    side = int(np.ceil(np.sqrt(n_cells / n_sections)))
    places = np.column_stack([number % side, number // side]) * SPACING
    places += rng.normal(0, 0.3 * SPACING, places.shape)
    level = rng.gumbel(0, 0.8, (n_cells, n_types)).astype(np.float32)  # strays
    for _ in range(WAVES):  # a sum of plane waves is a smooth random field
        length = rng.uniform(200, 1200)
        direction = rng.normal(size=2)
        along = places @ (direction / np.linalg.norm(direction)) * (2 * np.pi / length)
        for label in range(n_types):
            level[:, label] += np.cos(along * rng.uniform(0.7, 1.4) + rng.uniform(0, 2 * np.pi)).astype(np.float32)
    return pd.DataFrame(
        {
            "x": places[:, 0],
            "y": places[:, 1],
            "cell_type": pd.Categorical.from_codes(level.argmax(axis=1), [f"type {t:02d}" for t in range(n_types)]),
            "section": pd.Categorical.from_codes(section, [f"section {s}" for s in range(n_sections)]),
        }
    )


def make_counts(
    labels: np.ndarray, profiles: np.ndarray, mean_counts: float, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Return counts (cell, gene): each cell draws its molecules from the profile of its type."""
    n_genes = profiles.shape[1]
    n_drawn = rng.poisson(mean_counts * rng.lognormal(0, 0.4, len(labels))).astype(np.int64) + 1
    row = np.repeat(np.arange(len(labels)), n_drawn)
    # One search for all types: cumulative profiles follow each other on one axis.
    steps = np.cumsum(profiles, axis=1) / profiles.sum(axis=1, keepdims=True)
    steps[:, -1] = 1.0
    axis = (steps + np.arange(len(profiles))[:, None]).reshape(-1)
    drawn = np.searchsorted(axis, rng.random(len(row)) * (1 - 1e-12) + labels[row], side="right")
    gene = np.minimum(drawn - labels[row] * n_genes, n_genes - 1)
    return sparse.csr_matrix((np.ones(len(row), dtype=np.float32), (row, gene)), shape=(len(labels), n_genes))


def write_tissue(
    path: Path, *, n_cells: int, n_genes: int, n_types: int, n_sections: int, mean_counts: float, seed: int
) -> None:
    """Write the tissue as h5ad or, by its suffix, zarr."""
    rng = np.random.default_rng(seed)
    cells = make_cells(n_cells, n_types, n_sections, rng)
    # Fields of view are images of some 500 cells, in any order: rows that lie together in the file do so in the tissue,
    # but the fields do not.
    field = (cells["y"] // 220).astype(int) * 100_000 + (cells["x"] // 220).astype(int)
    codes = pd.factorize(field.to_numpy() + cells["section"].cat.codes.to_numpy().astype(np.int64) * 10**11)[0]
    order = np.argsort(rng.permutation(codes.max() + 1)[codes], kind="stable")
    cells = cells.iloc[order].reset_index(drop=True)
    labels = cells["cell_type"].cat.codes.to_numpy().astype(np.int64)
    profiles = rng.gamma(0.4, 1.0, (n_types, n_genes)) + 0.3 * rng.gamma(0.4, 1.0, n_genes)

    whole = zarr.open_group(str(path), mode="w") if path.suffix == ".zarr" else h5py.File(path, "w")
    whole.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    names = pd.Index([f"cell-{number}" for number in range(n_cells)])
    write_elem(whole, "obs", cells[["cell_type", "section"]].set_index(names))
    write_elem(whole, "var", pd.DataFrame(index=[f"gene-{number}" for number in range(n_genes)]))
    write_elem(whole, "obsm", {"spatial": cells[["x", "y"]].to_numpy()})
    for empty in ("varm", "obsp", "varp", "layers", "uns"):
        write_elem(whole, empty, {})
    x = None
    for start in range(0, n_cells, ROWS_AT_ONCE):
        part = make_counts(labels[start : start + ROWS_AT_ONCE], profiles, mean_counts, rng)
        if x is None:
            from anndata.io import sparse_dataset

            write_elem(whole, "X", part)
            x = sparse_dataset(whole["X"])
        else:
            x.append(part)
    if isinstance(whole, h5py.File):
        whole.close()


def make_model(
    folder: Path, settings: NetworkSettings, n_genes: int, n_types: int, n_neighbors: int, seed: int
) -> None:
    """Save a model of these sizes."""
    network = CrossAttentionNetwork(n_genes, n_types, settings, seed=seed).eval().requires_grad_(False)
    with torch.no_grad():
        network.attention_layer.W_Q.mul_(12.0)
        network.ct_profiles.copy_(torch.rand(n_types, n_genes, generator=torch.Generator().manual_seed(seed)))
    save_model(
        CrosstalkModel(
            network=network,
            genes=tuple(f"gene-{number}" for number in range(n_genes)),
            cell_types=tuple(f"type {t:02d}" for t in range(n_types)),
            keys=TissueKeys(section_key="section"),
            n_neighbors=n_neighbors,
            preprocessing=Preprocessing(log_normalised=False, target_sum=150.0),
        ),
        folder,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the tissue and the model look like."""
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--types", type=int, default=15)
    parser.add_argument("--sections", type=int, default=2)
    parser.add_argument("--mean-counts", type=float, default=120.0, help="molecules per cell")
    parser.add_argument("--neighbors", type=int, default=30)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-size", type=int, default=32)
    parser.add_argument("--nn-embed-hidden", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)


def settings_of(given: argparse.Namespace) -> NetworkSettings:
    """Return the sizes of the model."""
    return NetworkSettings(
        n_heads=given.heads,
        n_head_size=given.head_size,
        n_nn_embed_hidden=given.nn_embed_hidden,
        distance_kernel_unit_scale=SPACING,
    )


def main() -> None:
    """Write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tissue", type=Path, help="file to write, .h5ad or .zarr")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--model", type=Path, help="folder to write a model to")
    add_options(parser)
    given = parser.parse_args()
    write_tissue(
        given.tissue,
        n_cells=given.cells,
        n_genes=given.genes,
        n_types=given.types,
        n_sections=given.sections,
        mean_counts=given.mean_counts,
        seed=given.seed,
    )
    if given.model:
        make_model(given.model, settings_of(given), given.genes, given.types, given.neighbors, given.seed)
    sys.stdout.write(f"{given.tissue}: {given.cells:,} cells x {given.genes} genes, {given.types} types\n")


if __name__ == "__main__":
    main()
