"""How fast attention is extracted in all flavors: against a per-edge evaluation of the same formulas, and the floor.

Run it on a quiet machine: ``python tests/benchmarks/extraction.py --cells 20000``. The per-edge evaluation, the oracle
as well, runs on a sample of the receivers and is scaled up; of four flavors it is run four times, as who asks for one
after the other does. The floor is the arithmetic of the matrix products over the rate of the largest of them, measured
in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
import torch
from per_edge import flavored

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.attention import extract_attention
from tissue_crosstalk.core.flavors import FLAVORS, weigh
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.network import ROW_BLOCK, CrossAttentionNetwork
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.simulation import SimulationSettings, simulate_tissue
from tissue_crosstalk.core.tissue import PreparedTissue, prepare_tissue


def operations(network: CrossAttentionNetwork, n_cells: int, n_pairs: int) -> float:
    """Multiplications and additions of the matrix products, each quantity once."""
    s = network.settings

    def mlp(n_in: int, n_hidden: int, n_out: int) -> int:
        return 2 * n_in * n_hidden + (n_in * n_out if n_in != n_out else 0)

    sender = mlp(network.n_genes, s.n_nn_embed_hidden, s.n_nn_embed) + mlp(
        s.n_nn_embed, s.n_kv_dim, s.n_heads * s.n_kv_dim
    )
    sender += 2 * s.n_embed * s.n_kv_dim + s.n_nn_embed * s.n_pos_coef_mlp_hidden + 2 * s.n_embed * s.n_head_size
    pair = s.n_pos_coef_mlp_hidden * (s.n_nn_embed + s.n_label_embed) + (s.n_nn_embed + s.n_label_embed) * s.n_heads
    return 2.0 * (n_cells * sender + n_pairs * pair)


def extract_and_weigh(
    network: CrossAttentionNetwork, tissue: PreparedTissue, neighbors: Neighbors
) -> tuple[tuple[float, float], dict[str, np.ndarray]]:
    """Return the seconds until vanilla attention is there, and until all flavors are; and the flavors."""
    start = time.perf_counter()
    shards = list(extract_attention(network, tissue, neighbors, cells_per_shard=20_000))
    patterns = shards[0].patterns if len(shards) == 1 else np.concatenate([s.patterns for s in shards], axis=1)
    vanilla = time.perf_counter() - start
    norms = {name: np.empty((tissue.n_cells, len(patterns)), np.float32) for name in terms.NORMS}
    for shard in shards:
        for name, norm in shard.norms.items():
            norms[name][shard.senders] = norm
    flavors = {flavor: weigh(patterns, norms, neighbors.idx, flavor) for flavor in FLAVORS}
    return (vanilla, time.perf_counter() - start), flavors


def product_rate(seconds: float = 2.0) -> float:
    """Operations per second of a matrix product of the shape that the network uses most."""
    a, b = torch.randn(ROW_BLOCK, 512), torch.randn(512, 288)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        a @ b
        count += 1
    return 2.0 * ROW_BLOCK * 512 * 288 * count / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=300)
    parser.add_argument("--neighbors", type=int, default=50)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--types", type=int, default=10)
    parser.add_argument("--sample", type=int, default=512, help="receivers of the per-edge evaluation")
    given = parser.parse_args()

    adata, _ = simulate_tissue(
        SimulationSettings(n_cells=given.cells, n_genes=given.genes, n_cell_types=given.types), seed=0
    )
    tissue = prepare_tissue(adata, TissueKeys(), log_normalised=False)
    neighbors = find_neighbors(tissue, given.neighbors)
    settings = NetworkSettings(n_heads=given.heads, distance_kernel_unit_scale=10.0)
    network = CrossAttentionNetwork(given.genes, given.types, settings).eval().requires_grad_(False)

    # The first product starts threads, which is neither side's; the middle one of several runs is like the others.
    list(extract_attention(network, tissue, neighbors, cells_per_shard=512, receivers=np.arange(512)))
    took = [extract_and_weigh(network, tissue, neighbors) for _ in range(5)]
    vanilla, all_flavors = (statistics.median(times) for times in zip(*(times for times, _ in took), strict=True))
    ours = took[-1][1]

    receivers = np.sort(np.random.default_rng(0).choice(given.cells, min(given.sample, given.cells), replace=False))
    per_edge = {}
    for flavor in FLAVORS:
        start = time.perf_counter()
        oracle = flavored(network, tissue, neighbors, receivers, flavor)
        per_edge[flavor] = (time.perf_counter() - start) * given.cells / len(receivers)
        np.testing.assert_allclose(ours[flavor][:, receivers], oracle, rtol=1e-4)
    edges, all_edges = per_edge[terms.VANILLA], sum(per_edge.values())

    n_pairs = len(np.unique(neighbors.idx.astype(np.int64) * given.types + tissue.labels[:, None]))
    work, rate = operations(network, given.cells, n_pairs), product_rate()
    sys.stdout.write(
        f"{given.cells} cells x {given.genes} genes, {given.neighbors} neighbors, {given.heads} heads, "
        f"{n_pairs} (sender, receiver type) pairs\n"
        f"vanilla: ours        {vanilla:8.1f} s\n"
        f"         per edge    {edges:8.1f} s (from {len(receivers)} receivers): {edges / vanilla:.0f} times as long\n"
        f"all four: ours       {all_flavors:8.1f} s: {all_flavors / vanilla:.2f} times vanilla\n"
        f"         per edge    {all_edges:8.1f} s: {all_edges / all_flavors:.0f} times as long\n"
        f"floor of vanilla     {work / rate:8.1f} s ({work / 1e9:.0f} Gflop at {rate / 1e9:.0f} Gflop/s): "
        f"{vanilla / (work / rate):.1f} times the floor\n"
    )


if __name__ == "__main__":
    main()
