"""How fast an epoch of training is: against a per-edge evaluation of the same formulas, and against the floor.

Run it on a quiet machine: ``python tests/benchmarks/training.py``. An epoch is all steps of the training cells and the
validation of those held out. Ours runs whole, several times. The per-edge evaluation draws batches of random cells, as
the published training does; it runs on a sample of its batches between our epochs, and is scaled up. Before that, the
two must agree in loss and gradients. The floor is the arithmetic of our matrix products over the rate of those alone,
measured in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
import torch
from per_edge import evaluate

from tissue_crosstalk.core.batches import hold_out, patch_batches
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.simulation import SimulationSettings, simulate_tissue
from tissue_crosstalk.core.tissue import PreparedTissue, prepare_tissue
from tissue_crosstalk.core.training import Trainer
from tissue_crosstalk.core.training_settings import TrainingSettings

ALPHA = 1e-3
PER_EDGE_BATCH = 128


def gradient_difference(trainer: Trainer, batch: np.ndarray) -> float:
    """Return the largest difference of a parameter's gradient from the per-edge one, relative to its norm."""
    shape = (len(batch), trainer.neighbors.idx.shape[1])
    dropped = np.random.default_rng(0).random(shape) < trainer.settings.neighbor_dropout
    gradients = []
    for loss in (
        trainer.losses(batch, dropped).total(ALPHA, trainer.settings.value_l1_penalty),
        evaluate(trainer.network, trainer.tissue, trainer.neighbors, batch, dropped).loss(
            ALPHA, trainer.settings.value_l1_penalty
        ),
    ):
        trainer.network.zero_grad()
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in trainer.network.parameters()])
    return max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(*gradients, strict=True))


def per_edge_epoch(trainer: Trainer, rng: np.random.Generator, n_steps: int) -> float:
    """Return the seconds of an epoch, from `n_steps` steps and one batch of the validation."""
    network, optimizer, settings = trainer.network, trainer.optimizer, trainer.settings
    n_training, n_held_out = len(trainer.held_out.training), len(trainer.held_out.deciding)
    network.train()
    start = time.perf_counter()
    for _ in range(n_steps):
        batch = rng.choice(trainer.held_out.training, PER_EDGE_BATCH, replace=False)
        dropped = rng.random((len(batch), trainer.neighbors.idx.shape[1])) < settings.neighbor_dropout
        loss = evaluate(network, trainer.tissue, trainer.neighbors, batch, dropped).loss(
            ALPHA, settings.value_l1_penalty
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    training = (time.perf_counter() - start) / (n_steps * PER_EDGE_BATCH) * n_training
    network.eval()
    start = time.perf_counter()
    with torch.inference_mode():
        evaluate(network, trainer.tissue, trainer.neighbors, trainer.held_out.deciding[:PER_EDGE_BATCH])
    return training + (time.perf_counter() - start) / PER_EDGE_BATCH * n_held_out


def product_rate(seconds: float = 1.0) -> float:
    """Return operations per second of a matrix product of a shape that training uses much."""
    a, b = torch.randn(4096, 512), torch.randn(512, 288)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        a @ b
        count += 1
    return 2.0 * 4096 * 512 * 288 * count / (time.perf_counter() - start)


def operations(network: CrossAttentionNetwork, n_cells: int, n_senders: int, n_pairs: int) -> float:
    """Return multiplications and additions of the matrix products of one step, forward and backward."""
    s = network.settings
    kv_width = s.n_heads * s.n_kv_dim
    input_layer = network.n_genes * s.n_nn_embed_hidden  # expression needs no gradient
    sender = (
        s.n_nn_embed_hidden * network.n_genes
        + network.n_genes * s.n_nn_embed
        + 2 * s.n_nn_embed * s.n_kv_dim
        + s.n_nn_embed * s.n_nn_embed  # variance of the key/value input
        + 2 * s.n_embed * s.n_nn_embed
        + s.n_nn_embed * s.n_pos_coef_mlp_hidden
        + network.n_labels * s.n_embed
    )
    pair_width = s.n_nn_embed + s.n_label_embed
    pair = s.n_pos_coef_mlp_hidden * pair_width + pair_width * s.n_heads
    once = kv_width * s.n_nn_embed**2 + 2 * s.n_embed * s.n_kv_dim * s.n_nn_embed  # key_value_map
    cell = s.n_embed**2 + s.n_embed * network.n_genes
    return 2.0 * (3 * (n_senders * sender + n_pairs * pair + once + n_cells * cell) + 2 * n_senders * input_layer)


def epoch_operations(trainer: Trainer) -> tuple[float, float, float]:
    """Return the operations of an epoch's steps, and the mean distinct senders and pairs of a batch."""
    settings, tissue, neighbors = trainer.settings, trainer.tissue, trainer.neighbors
    total, senders, pairs = 0.0, [], []
    for batch in patch_batches(
        tissue.coordinates,
        tissue.sections,
        trainer.held_out.training,
        settings.batch_size,
        settings.patch_size,
        np.random.default_rng(0),
    ):
        nn_idx = neighbors.idx[batch].astype(np.int64)
        senders.append(len(np.unique(nn_idx)))
        pairs.append(len(np.unique(nn_idx * len(tissue.cell_types) + tissue.labels[batch][:, None])))
        total += operations(trainer.network, len(batch), senders[-1], pairs[-1])
    return total, statistics.mean(senders), statistics.mean(pairs)


def made_trainer(
    tissue: PreparedTissue, neighbors: Neighbors, network_settings: NetworkSettings, settings: TrainingSettings
) -> Trainer:
    """Return what trains a fresh network."""
    network = CrossAttentionNetwork(len(tissue.genes), len(tissue.cell_types), network_settings)
    held_out = hold_out(
        tissue.coordinates,
        tissue.sections,
        fraction=settings.validation_fraction,
        split=settings.validation_split,
        n_blocks=settings.validation_blocks,
        rng=np.random.default_rng(0),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, eps=settings.adam_eps, fused=True)
    return Trainer(tissue, neighbors, held_out, settings, network, optimizer, seed=0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=300)
    parser.add_argument("--neighbors", type=int, default=50)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--types", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=TrainingSettings.batch_size)
    parser.add_argument("--patch-size", type=int, default=TrainingSettings.patch_size)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="per-edge steps per round")
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)

    adata, _ = simulate_tissue(
        SimulationSettings(n_cells=given.cells, n_genes=given.genes, n_cell_types=given.types), seed=0
    )
    tissue = prepare_tissue(adata, TissueKeys(), log_normalised=False)
    neighbors = find_neighbors(tissue, given.neighbors)
    settings = TrainingSettings(batch_size=given.batch_size, patch_size=given.patch_size, device="cpu")
    network_settings = NetworkSettings(n_heads=given.heads, distance_kernel_unit_scale=10.0)
    ours, theirs = (made_trainer(tissue, neighbors, network_settings, settings) for _ in range(2))
    difference = gradient_difference(ours, ours.held_out.training[:64])
    assert difference < 1e-5, f"gradients differ by {difference:g}"  # it is the oracle, too

    rng, reference = np.random.default_rng(0), ours.untrained()
    our_seconds, their_seconds, rates = [], [], []
    for epoch in range(given.rounds):
        rates.append(product_rate())
        start = time.perf_counter()
        ours.run_epoch(epoch, reference)
        our_seconds.append(time.perf_counter() - start)
        rates.append(product_rate())
        their_seconds.append(per_edge_epoch(theirs, rng, given.steps))
    work, senders, pairs = epoch_operations(ours)
    epoch, per_edge, rate = (statistics.median(values) for values in (our_seconds, their_seconds, rates))
    ratios = [b / a for a, b in zip(our_seconds, their_seconds, strict=True)]
    sys.stdout.write(
        f"{given.cells} cells x {given.genes} genes, {given.neighbors} neighbors, {given.heads} heads, "
        f"{given.types} types, {torch.get_num_threads()} threads\n"
        f"batches of {settings.batch_size} in patches of {settings.patch_size}: {senders:.0f} distinct neighbors and "
        f"{pairs:.0f} (neighbor, receiver type) pairs for {settings.batch_size * given.neighbors} edges\n"
        f"gradients             within {difference:.1e} of the per-edge ones (of each parameter's norm)\n"
        f"an epoch     {epoch:8.1f} s   ({', '.join(f'{s:.1f}' for s in our_seconds)})\n"
        f"per edge     {per_edge:8.1f} s   from {given.steps} batches of {PER_EDGE_BATCH} random cells a round: "
        f"{statistics.median(ratios):.1f} times as long ({', '.join(f'{r:.1f}' for r in ratios)})\n"
        f"floor        {work / rate:8.1f} s   {work / 1e9:.0f} Gflop at {rate / 1e9:.0f} Gflop/s: "
        f"an epoch takes {epoch / (work / rate):.1f} times the floor\n"
    )


if __name__ == "__main__":
    main()
