"""Training of the cross-attention network on batches of spatial patches.

A batch made of patches has few distinct neighbors, and each is embedded once per batch, however many receivers see it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from tissue_crosstalk.core.batches import HeldOut, hold_out, patch_batches
from tissue_crosstalk.core.devices import choose_device
from tissue_crosstalk.core.errors import TrainingError
from tissue_crosstalk.core.neighbors import typical_distance
from tissue_crosstalk.core.training_settings import BARELY

if TYPE_CHECKING:
    import torch
    from scipy import sparse

    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.network import CrossAttentionNetwork
    from tissue_crosstalk.core.network_settings import NetworkSettings
    from tissue_crosstalk.core.tissue import PreparedTissue
    from tissue_crosstalk.core.training_checkpoint import TrainingCheckpoint
    from tissue_crosstalk.core.training_settings import TrainingSettings

logger = logging.getLogger(__name__)

VALIDATION_CELLS = 1024
"""Receivers that are validated at once."""

DIVERGED = 10.0
"""A loss this many times that of the untrained network, or of the types' means if that is larger, has diverged."""

NOTHING = 1e-12
"""A reconstruction term of rounding errors alone."""

# Random numbers are drawn from a stream per purpose and epoch: what one draws never shifts another's, and a training
# that is resumed draws what it would have drawn.
_SPLIT, _BATCHES, _DROPOUT = range(3)


def train_model(
    tissue: PreparedTissue,
    neighbors: Neighbors,
    network_settings: NetworkSettings,
    settings: TrainingSettings,
    *,
    seed: int,
    progress: bool = True,
    checkpoint: TrainingCheckpoint | None = None,
) -> tuple[CrosstalkModel, pd.DataFrame]:
    """Train a model of a tissue.

    Parameters
    ----------
    tissue, neighbors
        Cells with log-normalised expression, and their neighbors.
    network_settings
        Sizes and constants of the network.
    settings
        Loss, optimiser and schedule.
    seed
        Of initial weights, validation split, batches and neighbor dropout.
    progress
        Whether to show a progress bar (only ever shown in a terminal).
    checkpoint
        File that keeps the last epoch. Where it keeps one of this very training, training goes on from there, and
        ends as it would have without the interruption (on the same kind of device and number of threads). It is left
        there: who has the model safe clears it.

    Returns
    -------
    model
        With the weights of the epoch that had the best validation, on the CPU.
    history
        One row per epoch: ``epoch``, the mean terms of the training loss, ``validation_reconstruction`` of the cells
        that decide, ``validation_explained`` (1 less its ratio to that of the types' mean expression), with
        ``validation_split: both`` these of the random cells, too (``validation_cells_...``), and
        ``attention_penalty`` and ``learning_rate`` in that epoch.

    Raises
    ------
    TrainingError
        If there are too few cells to hold any out, the loss is not finite or has diverged, or an epoch cannot be kept.
    ParameterError
        If this machine has no such device.

    Notes
    -----
    Loss: mean over the batch of ``sum_g (prediction - x)^2 / 2 + alpha * entropy(a) + lambda * |v|``, with the entropy
    over all neighbors and the dummy slot, averaged over heads, and ``|v|`` summed over heads and their dimensions,
    averaged over neighbors (Hong et al., 2025).

    The same tissue, settings and seed give the same weights to the bit on the same device, number of threads and
    version of torch. Between these, sums are rounded differently, and training takes such differences further.
    """
    import torch
    from tqdm import tqdm

    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.network import CrossAttentionNetwork
    from tissue_crosstalk.core.training_checkpoint import TrainingProgress, training_fingerprint

    device = choose_device(settings.device)
    held_out = hold_out(
        tissue.coordinates,
        tissue.sections,
        fraction=settings.validation_fraction,
        split=settings.validation_split,
        n_blocks=settings.validation_blocks,
        rng=_stream(seed, _SPLIT),
    )
    if settings.auto_distance_scale:
        network_settings = replace(network_settings, distance_kernel_unit_scale=_distance_scale(neighbors))
    network = CrossAttentionNetwork(len(tissue.genes), len(tissue.cell_types), network_settings, seed=seed)
    network.ct_profiles.copy_(torch.from_numpy(_type_means(tissue, held_out.training)))
    network.to(device)
    optimizer = torch.optim.Adam(
        network.parameters(),
        lr=settings.learning_rate,
        eps=settings.adam_eps,
        weight_decay=settings.weight_decay,
        fused=True,  # one pass over the weights instead of a dozen
    )
    trainer = Trainer(tissue, neighbors, held_out, settings, network, optimizer, seed)
    made = "" if checkpoint is None else training_fingerprint(tissue, neighbors, network_settings, settings, seed)
    done = (
        None
        if checkpoint is None
        else checkpoint.read(made, network, optimizer, both=settings.validation_split == "both")
    )
    if done is None:
        done = TrainingProgress([], _copied_weights(network), trainer.untrained())
    bar = tqdm(total=settings.max_epochs, desc="training", unit="epoch", disable=None if progress else True)
    with bar:
        bar.update(len(done.history))
        while not _is_finished(done.history, settings):
            record = trainer.run_epoch(len(done.history), done.reference)
            done.history.append(record)
            if _best_epoch(done.history) == len(done.history) - 1:
                done = replace(done, best_weights=_copied_weights(network))
            if checkpoint is not None:
                checkpoint.write(made, network, optimizer, done)
            bar.update()
            bar.set_postfix(
                train=f"{record['train_reconstruction']:.4g}", validation=f"{record['validation_reconstruction']:.4g}"
            )
    _report(done.history)
    network.load_state_dict(done.best_weights)
    network.cpu().eval().requires_grad_(False)
    model = CrosstalkModel(
        network=network,
        genes=tissue.genes,
        cell_types=tissue.cell_types,
        keys=tissue.keys,
        n_neighbors=neighbors.idx.shape[1],
        preprocessing=tissue.preprocessing,
    )
    return model, pd.DataFrame(done.history).astype({"epoch": np.int32})


def _stream(seed: int, purpose: int, epoch: int = 0) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, epoch)))


def _best_epoch(history: list[dict[str, float]]) -> int:
    return int(np.argmin([record["validation_reconstruction"] for record in history]))


def _is_finished(history: list[dict[str, float]], settings: TrainingSettings) -> bool:
    if not history:
        return False
    return len(history) >= settings.max_epochs or len(history) - 1 - _best_epoch(history) >= settings.patience


def _copied_weights(network: CrossAttentionNetwork) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _report(history: list[dict[str, float]]) -> None:
    best = history[_best_epoch(history)]
    logger.info(
        "trained %d epochs; best validation %.5g in epoch %d, %.1f %% less than that of the types' means",
        len(history),
        best["validation_reconstruction"],
        best["epoch"],
        100 * best["validation_explained"],
    )
    if best["validation_explained"] < BARELY:
        logger.warning(
            "the model predicts held-out cells barely better than their types' means: its attention may say nothing. "
            "The neighbors may carry no information; or training stopped on a plateau: try more patience, "
            "a smaller adam_eps (1e-8), or another seed"
        )


@dataclass(frozen=True, eq=False)
class Losses:
    """Terms of the loss, means over a batch's receivers.

    Attributes
    ----------
    reconstruction
        Half the squared error, summed over genes.
    entropy
        Of the attention over all neighbors and the dummy slot, mean over heads.
    value_l1
        Absolute values summed over heads and their dimensions, mean over neighbors.
    """

    reconstruction: torch.Tensor
    entropy: torch.Tensor
    value_l1: torch.Tensor

    def total(self, attention_penalty: float, value_l1_penalty: float) -> torch.Tensor:
        """Return the loss."""
        return self.reconstruction + attention_penalty * self.entropy + value_l1_penalty * self.value_l1


@dataclass(frozen=True, eq=False)
class Trainer:
    """Epochs of one training.

    Attributes
    ----------
    tissue, neighbors
        Cells with log-normalised expression, and their neighbors.
    held_out
        Which cells are trained on.
    settings
        Loss and schedule.
    network, optimizer
        Changed by every epoch.
    seed
        Of batches and neighbor dropout.
    """

    tissue: PreparedTissue
    neighbors: Neighbors
    held_out: HeldOut
    settings: TrainingSettings
    network: CrossAttentionNetwork
    optimizer: torch.optim.Optimizer
    seed: int

    def untrained(self) -> dict[str, float]:
        """Return the validation of the untrained network, and that of the types' means alone, of either kind."""
        means = self.by_type_means(self.held_out.deciding)
        reference = {"untrained": self.validate(self.held_out.deciding), "type_means": means}
        if self.settings.validation_split == "both":
            reference["type_means_cells"] = self.by_type_means(self.held_out.cells)
        return reference

    def by_type_means(self, cells: npt.NDArray[np.intp]) -> float:
        """Return the mean reconstruction term over cells, each predicted by the mean of its type."""
        profiles, total = self.network.ct_profiles.cpu().numpy(), 0.0
        for rows in _parts(cells, VALIDATION_CELLS):
            difference = profiles[self.tissue.labels[rows]] - self.tissue.expression[rows].toarray()
            total += 0.5 * float(np.square(difference, dtype=np.float64).sum())
        return total / len(cells)

    def run_epoch(self, epoch: int, reference: Mapping[str, float]) -> dict[str, float]:
        """Train one epoch, and return its record in the history."""
        import torch

        settings, alpha = self.settings, self.settings.attention_penalty(epoch)
        learning_rate = settings.learning_rate_in(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        dropout_rng = _stream(self.seed, _DROPOUT, epoch)
        batches = patch_batches(
            self.tissue.coordinates,
            self.tissue.sections,
            self.held_out.training,
            settings.batch_size,
            settings.patch_size,
            _stream(self.seed, _BATCHES, epoch),
        )
        self.network.train()
        sums: list[torch.Tensor] = []
        with _reproducible(self.network.device):
            for batch in batches:
                dropped = dropout_rng.random((len(batch), self.neighbors.idx.shape[1]), dtype=np.float32)
                losses = self.losses(batch, dropped < settings.neighbor_dropout if settings.neighbor_dropout else None)
                loss = losses.total(alpha, settings.value_l1_penalty)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
                self.optimizer.step()
                terms = (loss, losses.reconstruction, losses.entropy, losses.value_l1)
                # Left on the device: reading a number there would wait for the step to end.
                sums.append(len(batch) * torch.stack([term.detach() for term in terms]))
        means = torch.stack(sums).cpu().double().sum(dim=0).numpy() / len(self.held_out.training)
        validated = self.validate(self.held_out.deciding)
        _check(epoch, float(means[1]), validated, reference, settings, finite=bool(np.isfinite(means).all()))
        record = {
            "epoch": epoch,
            "train_loss": float(means[0]),
            "train_reconstruction": float(means[1]),
            "train_entropy": float(means[2]),
            "train_value_l1": float(means[3]),
            "validation_reconstruction": validated,
            "validation_explained": _explained(validated, reference["type_means"]),
        }
        if settings.validation_split == "both":  # the blocks decide
            cells = self.validate(self.held_out.cells)
            record["validation_cells_reconstruction"] = cells
            record["validation_cells_explained"] = _explained(cells, reference["type_means_cells"])
        return {**record, "attention_penalty": alpha, "learning_rate": learning_rate}

    def validate(self, cells: npt.NDArray[np.intp]) -> float:
        """Return the mean reconstruction term over cells, nothing masked."""
        import torch

        self.network.eval()
        total = 0.0
        with torch.inference_mode():
            # Rows are in spatial order, so contiguous parts share neighbors.
            for rows in _parts(cells, VALIDATION_CELLS):
                total += float(self.forward(rows).reconstruction.cpu().double().sum())  # mps has no float64
        return total / len(cells)

    def losses(self, batch: npt.NDArray[np.intp], dropped: npt.NDArray[np.bool_] | None = None) -> Losses:
        """Return the terms of the loss with neighbors `dropped`, (cell, neighbor), masked."""
        import torch

        out = self.forward(batch, dropped)
        dummy = 1.0 - out.patterns.sum(dim=2, keepdim=True)
        shares = torch.cat([out.patterns, dummy], dim=2).clamp_min(1e-12)  # the limit of a log a at 0 is 0
        entropy = -(shares * shares.log()).sum(dim=2).mean(dim=1)
        # A mean over neighbors and then over receivers is a weighted sum over the distinct neighbors. Dropped ones
        # count: the penalty is over all that there are.
        value_l1 = out.value.abs().sum(dim=(1, 2)) @ out.weight.to(out.value.device)
        return Losses(out.reconstruction.mean(), entropy.mean(), value_l1)

    def forward(self, batch: npt.NDArray[np.intp], dropped: npt.NDArray[np.bool_] | None = None) -> _Forward:
        """Predict a batch of receivers; each of their neighbors is embedded once."""
        import torch

        from tissue_crosstalk.core.network import Edges

        network, tissue, device = self.network, self.tissue, self.network.device
        nn_idx = self.neighbors.idx[batch]
        used, local = np.unique(nn_idx, return_inverse=True)
        local = local.reshape(nn_idx.shape)
        if used[0] < 0:  # padded slots are not senders
            used, local = used[1:], local - 1
        if not len(used):
            used = batch[:1].astype(used.dtype)  # padded slots, too, need a row to point at
        present = local >= 0
        per_slot = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
        weight = np.bincount(local[present], weights=per_slot[present], minlength=len(used)) / len(batch)
        edges = Edges.from_neighbors(local, self.neighbors.dist[batch], tissue.labels[batch])
        if dropped is not None:
            masked = torch.from_numpy(dropped)
            edges = replace(edges, absent=masked if edges.absent is None else edges.absent | masked)
        if torch.is_grad_enabled():
            edges = edges.in_order()
        edges = edges.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.mixed_precision):
            senders = network.senders(_dense(tissue.expression, used).to(device))
            patterns = network.patterns(senders, edges)  # (cell, head, neighbor)
            heard = network.attend(senders.value, patterns, edges.sender, edges.order)
            prediction = network.predict(heard, edges.receiver_label)
        target = _dense(tissue.expression, batch).to(device)
        reconstruction = 0.5 * (prediction - target).square().sum(dim=1)
        return _Forward(patterns, reconstruction, senders.value, torch.from_numpy(weight.astype(np.float32)))


@dataclass(frozen=True, eq=False)
class _Forward:
    """What the network says of a batch."""

    patterns: torch.Tensor
    """(cell, head, neighbor)"""
    reconstruction: torch.Tensor
    """(cell,)"""
    value: torch.Tensor
    """(sender, head, d)"""
    weight: torch.Tensor
    """Of each sender in a mean over receivers of means over their neighbors, (sender,), on the CPU."""


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """Have other devices than the CPU add in one order; on the CPU, everything that is used here does."""
    import torch

    if device.type == "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _check(
    epoch: int,
    trained: float,
    validated: float,
    reference: Mapping[str, float],
    settings: TrainingSettings,
    *,
    finite: bool,
) -> None:
    """Raise :class:`TrainingError` where the loss is not finite or has diverged."""
    measured = f"reconstruction in training {trained:g}, in validation {validated:g}"
    advice = (
        f"Lower learning_rate (now {settings.learning_rate:g}) or raise adam_eps (now {settings.adam_eps:g}), or look "
        "for extreme values in the expression."
    )
    if not (finite and math.isfinite(validated)):
        raise TrainingError(f"the loss is not finite in epoch {epoch} ({measured}). {advice}")
    most = DIVERGED * max(reference.values())
    if max(trained, validated) > most > 0:
        raise TrainingError(
            f"training has diverged in epoch {epoch} ({measured}; before training {reference['untrained']:g}, "
            f"by the types' means alone {reference['type_means']:g}). {advice}"
        )


def _explained(reconstruction: float, by_type_means: float) -> float:
    # Where the types' means leave nothing to explain, nothing is explained.
    return 1.0 - reconstruction / by_type_means if by_type_means > NOTHING else 0.0


def _parts(rows: npt.NDArray[np.intp], size: int) -> list[npt.NDArray[np.intp]]:
    return np.array_split(rows, -(-len(rows) // size))


def _distance_scale(neighbors: Neighbors) -> float:
    return typical_distance(neighbors.dist) or 1.0


def _type_means(tissue: PreparedTissue, training: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """Return the mean expression of each type over the training cells, (label, gene)."""
    means = np.zeros((len(tissue.cell_types), len(tissue.genes)), dtype=np.float32)
    for label in range(len(tissue.cell_types)):
        cells = training[tissue.labels[training] == label]
        if not len(cells):  # a type of which every cell was held out: its own cells say more than zeros
            cells = np.flatnonzero(tissue.labels == label)
        if len(cells):
            means[label] = np.asarray(tissue.expression[cells].mean(axis=0, dtype=np.float64)).ravel()
    return means


def _dense(expression: sparse.csr_matrix, rows: npt.NDArray[np.integer]) -> torch.Tensor:
    import torch

    return torch.from_numpy(expression[rows].toarray())
