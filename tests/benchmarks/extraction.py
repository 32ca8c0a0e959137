"""How fast attention is extracted: against a per-edge evaluation of the same formulas, and against the floor.

Run it on a quiet machine: ``python tests/benchmarks/extraction.py --cells 20000``. The per-edge evaluation, the oracle
as well, runs on a sample of the receivers and is scaled up. The floor is the arithmetic of the matrix products over
the rate of the largest of them, measured in the same run.
"""

from __future__ import annotations

import argparse
import math
import sys
import time

import numpy as np
import torch

from tissue_crosstalk.core.attention import extract_attention
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.network import ROW_BLOCK, CrossAttentionNetwork
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.simulation import SimulationSettings, simulate_tissue
from tissue_crosstalk.core.tissue import PreparedTissue, prepare_tissue


def per_edge(
    network: CrossAttentionNetwork, tissue: PreparedTissue, neighbors: Neighbors, receivers: np.ndarray
) -> np.ndarray:
    """Attention (head, cell, neighbor), with every quantity computed for every edge."""
    s, layer = network.settings, network.attention_layer
    out = []
    with torch.inference_mode():
        for part in np.array_split(receivers, max(1, len(receivers) // 128)):
            senders = neighbors.idx[part]  # (cell, neighbor)
            n_cells, n_neighbors = senders.shape
            labels = torch.from_numpy(np.repeat(tissue.labels[part].astype(np.int64), n_neighbors))
            x = torch.from_numpy(tissue.expression[senders.reshape(-1)].toarray())
            m = network.nn_embed(x)
            kv = network.kv_embed(m).view(-1, s.n_heads, s.n_kv_dim)
            k = torch.einsum("ehi,dhi->ehd", kv, layer.W_K) + layer.b_K
            label_embed = network.ct_embed(labels)
            q_in = network.query_embed(label_embed).view(-1, s.n_heads, s.n_query_dim)
            q = torch.einsum("ehi,dhi->ehd", q_in, layer.W_Q) + layer.b_Q
            raw = network.pos_coef_mlp(torch.cat([m, label_embed], dim=1))
            c = torch.nn.functional.softplus(raw + s.pos_coef_offset)
            distance = torch.from_numpy(neighbors.dist[part].reshape(-1, 1)) / s.distance_kernel_unit_scale
            score = (q * k).sum(dim=2) / math.sqrt(s.n_head_size) - c * distance
            score = score.view(n_cells, n_neighbors, s.n_heads)
            dummy = torch.full((n_cells, 1, s.n_heads), s.attention_dummy_score)
            out.append(torch.softmax(torch.cat([score, dummy], dim=1), dim=1)[:, :-1].permute(2, 0, 1).numpy())
    return np.concatenate(out, axis=1)


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

    start = time.perf_counter()
    shards = list(extract_attention(network, tissue, neighbors, cells_per_shard=20_000))
    ours = time.perf_counter() - start
    patterns = np.concatenate([shard.patterns for shard in shards], axis=1)

    receivers = np.sort(np.random.default_rng(0).choice(given.cells, min(given.sample, given.cells), replace=False))
    start = time.perf_counter()
    oracle = per_edge(network, tissue, neighbors, receivers)
    edges = (time.perf_counter() - start) * given.cells / len(receivers)
    np.testing.assert_allclose(patterns[:, receivers], oracle, rtol=1e-4)

    n_pairs = len(np.unique(neighbors.idx.astype(np.int64) * given.types + tissue.labels[:, None]))
    work, rate = operations(network, given.cells, n_pairs), product_rate()
    sys.stdout.write(
        f"{given.cells} cells x {given.genes} genes, {given.neighbors} neighbors, {given.heads} heads, "
        f"{n_pairs} (sender, receiver type) pairs\n"
        f"patterns and norms   {ours:8.1f} s\n"
        f"per edge, patterns   {edges:8.1f} s (from {len(receivers)} receivers): {edges / ours:.0f} times as long\n"
        f"floor                {work / rate:8.1f} s ({work / 1e9:.0f} Gflop at {rate / 1e9:.0f} Gflop/s): "
        f"{ours / (work / rate):.1f} times the floor\n"
    )


if __name__ == "__main__":
    main()
