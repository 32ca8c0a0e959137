"""Ablation of all receivers, senders and heads in one pass, against one plain prediction and a pass per pair.

    python tests/benchmarks/ablation.py [--cells 20000] [--genes 300] [--neighbors 50] [--heads 8] [--types 10]

A pass per pair predicts each receiver type twice for every sender type and head; a few of these are timed, and the rest
reckoned. What both say is compared. The floor of the one pass is the plain prediction, plus the effects of all senders
and heads: d multiply-adds for each cell, sender, head and gene, and reading and writing them once. The test of effects
(`measure_effects`, one model) needs a prediction, the effects of all senders, and some thirty passes over them.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from scipy import sparse

from tissue_crosstalk.core.ablation import ablate
from tissue_crosstalk.core.attention import predict, sender_rows
from tissue_crosstalk.core.effects import measure_effects
from tissue_crosstalk.core.model import CrosstalkModel, Preprocessing, TissueKeys
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.network import CrossAttentionNetwork, Edges
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.spatial_order import hilbert_index
from tissue_crosstalk.core.tissue import PreparedTissue

DEFAULTS = {"cells": 20_000, "genes": 300, "neighbors": 50, "heads": 8, "types": 10, "runs": 3}


def say(text: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{text}\n")


def make_tissue(n_cells: int, n_genes: int, n_types: int) -> PreparedTissue:
    """Return random cells in spatial order."""
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 10 * np.sqrt(n_cells), (n_cells, 2))
    grid = (places / places.max() * 65_535).astype(np.uint64)
    places = places[np.argsort(hilbert_index(grid))]
    return PreparedTissue(
        expression=sparse.csr_matrix(np.log1p(rng.poisson(0.4, (n_cells, n_genes))).astype(np.float32)),
        genes=tuple(f"gene{gene}" for gene in range(n_genes)),
        labels=rng.integers(0, n_types, n_cells).astype(np.int16),
        cell_types=tuple(f"type {label}" for label in range(n_types)),
        coordinates=places,
        cell_names=np.array([f"cell{cell}" for cell in range(n_cells)], dtype=object),
        positions=np.arange(n_cells),
        sections=np.zeros(n_cells, dtype=np.int32),
        section_names=(),
        radii=None,
        keys=TissueKeys(),
        preprocessing=Preprocessing(log_normalised=True),
    )


def one_pair(
    network: CrossAttentionNetwork, tissue: PreparedTissue, neighbors: Neighbors, receiver: int, sender: int, head: int
) -> np.ndarray:
    """Predict twice: return the mean effect of a sender type through one head, (gene,)."""
    rows = np.flatnonzero(tissue.labels == receiver)
    nn_idx = neighbors.idx[rows]
    used = np.unique(nn_idx)
    local = np.searchsorted(used, nn_idx)
    with torch.inference_mode():
        senders = sender_rows(network, tissue.expression[used], network.key_value_map())
        edges = Edges.from_neighbors(local, neighbors.dist[rows], tissue.labels[rows])
        patterns = network.patterns(senders, edges, blocks=True)
        alone = torch.zeros_like(patterns)
        alone[:, head] = patterns[:, head]
        whole = network.predict(network.attend(senders.value, alone, edges.sender), edges.receiver_label)
        masked = alone * torch.from_numpy(tissue.labels[nn_idx] != sender)[:, None]
        without = network.predict(network.attend(senders.value, masked, edges.sender), edges.receiver_label)
        return (whole - without).double().mean(dim=0).numpy()


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    tissue = make_tissue(given.cells, given.genes, given.types)
    network = CrossAttentionNetwork(given.genes, given.types, NetworkSettings(n_heads=given.heads), seed=0)
    network.eval().requires_grad_(False)
    neighbors = find_neighbors(tissue, given.neighbors)
    plain, whole = [], []
    for _ in range(given.runs):
        start = time.perf_counter()
        predict(network, tissue, neighbors)
        plain.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = ablate(network, tissue, neighbors)
        whole.append(time.perf_counter() - start)
        say(f"plain prediction {plain[-1]:.2f} s, ablation {whole[-1]:.2f} s: {whole[-1] / plain[-1]:.2f} times")
    start = time.perf_counter()
    model = CrosstalkModel(network, tissue.genes, tissue.cell_types, tissue.keys, given.neighbors, tissue.preprocessing)
    measure_effects([model], tissue, neighbors, None)
    tested = time.perf_counter() - start
    say(f"test of effects {tested:.2f} s: {tested / min(plain):.2f} times the plain prediction")
    start = time.perf_counter()
    pairs = [(0, 1, 0), (1, 0, given.heads - 1), (given.types - 1, 2, 1)]
    for receiver, sender, head in pairs:
        naive = one_pair(network, tissue, neighbors, receiver, sender, head)
        np.testing.assert_allclose(found.diff[head + 1, receiver, sender], naive, rtol=1e-4, atol=1e-6)
    each = (time.perf_counter() - start) / len(pairs)
    n_passes = given.types * (given.types - 1) * given.heads
    times = n_passes * each / min(whole)
    say(f"a pass per pair and head: {each:.2f} s, {n_passes * each:.0f} s for all: {times:.0f} times the one pass")
    effects = given.cells * (given.types - 1) * (given.heads + 1) * given.genes
    # Through a head alone the rank is d, through all together it is theirs together.
    rank = 2 * given.heads * network.settings.n_head_size / (given.heads + 1)
    say(f"effects: {effects / 1e6:.0f} million, {2 * rank * effects / 1e9:.0f} GFlop, {8 * effects / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
