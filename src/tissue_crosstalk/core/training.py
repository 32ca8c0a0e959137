"""Training of the cross-attention network on batches of spatial patches.

A batch made of patches has few distinct neighbors, and each is embedded once per batch, however many receivers see it.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from tissue_crosstalk.core.errors import ParameterError, TrainingError

if TYPE_CHECKING:
    import torch
    from scipy import sparse

    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.network import CrossAttentionNetwork
    from tissue_crosstalk.core.network_settings import NetworkSettings
    from tissue_crosstalk.core.tissue import PreparedTissue

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained (defaults: the published ones, but for patches and the distance scale).

    Parameters
    ----------
    max_epochs
        Epochs at most.
    batch_size
        Receivers per step.
    patch_size
        Receivers per spatial patch; a batch is made of several. 1: batches of random cells.
    learning_rate, adam_eps, weight_decay
        Of Adam.
    validation_fraction
        Share of the cells held out to decide when to stop.
    patience
        Epochs without a better validation before training stops; the best weights are kept.
    neighbor_dropout
        Probability that a neighbor is masked in a step.
    value_l1_penalty
        Weight of the L1 penalty on the values.
    attention_penalty_from, attention_penalty_to, attention_penalty_start, attention_penalty_end
        Weight of the entropy penalty: 0 before epoch ``start``, then linear from ``from`` to ``to`` until ``end``.
    auto_distance_scale
        Measure distances in units of the median distance to the nearest neighbor, whatever the unit of the
        coordinates, instead of the network setting ``distance_kernel_unit_scale``.

    Raises
    ------
    ParameterError
        If a value is out of range.
    """

    max_epochs: int = 200
    batch_size: int = 256
    patch_size: int = 64
    learning_rate: float = 1e-3
    adam_eps: float = 0.01
    weight_decay: float = 1e-6
    validation_fraction: float = 0.1
    patience: int = 20
    neighbor_dropout: float = 0.1
    value_l1_penalty: float = 1e-5
    attention_penalty_from: float = 1e-6
    attention_penalty_to: float = 1e-3
    attention_penalty_start: int = 10
    attention_penalty_end: int = 30
    auto_distance_scale: bool = True

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        def check(
            name: str, *, low: float, high: float = math.inf, open_low: bool = False, open_high: bool = False
        ) -> None:
            value = getattr(self, name)
            in_range = (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
            if not in_range:
                span = f"{'above' if open_low else 'at least'} {low:g}"
                span += f" and {'below' if open_high else 'at most'} {high:g}" if high < math.inf else ""
                raise ParameterError(f"{name} must be {span}. Got {value!r} instead.")

        for name in ("max_epochs", "batch_size", "patch_size", "patience"):
            check(name, low=1)
        for name in ("weight_decay", "value_l1_penalty", "attention_penalty_from", "attention_penalty_to"):
            check(name, low=0)
        check("learning_rate", low=0, open_low=True)
        check("adam_eps", low=0, open_low=True)
        check("validation_fraction", low=0, high=0.9, open_low=True)
        check("neighbor_dropout", low=0, high=1, open_high=True)
        check("attention_penalty_start", low=0)
        check("attention_penalty_end", low=self.attention_penalty_start)

    def attention_penalty(self, epoch: int) -> float:
        """Return the weight of the entropy penalty in an epoch (counted from 0)."""
        start, end = self.attention_penalty_start, self.attention_penalty_end
        if epoch < start:
            return 0.0
        done = 1.0 if epoch >= end else (epoch - start) / (end - start)
        return self.attention_penalty_from + done * (self.attention_penalty_to - self.attention_penalty_from)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Have torch add gradients in one order: with several threads it otherwise adds them as they come."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


@dataclass(frozen=True, eq=False)
class _Losses:
    """Terms of the loss, means over a batch's receivers."""

    reconstruction: torch.Tensor
    entropy: torch.Tensor
    value_l1: torch.Tensor


def train_model(
    tissue: PreparedTissue,
    neighbors: Neighbors,
    network_settings: NetworkSettings,
    settings: TrainingSettings,
    *,
    seed: int,
    progress: bool = True,
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

    Returns
    -------
    model
        With the weights of the epoch that had the best validation.
    history
        One row per epoch: ``epoch``, the mean terms of the training loss, ``validation_reconstruction``, and
        ``attention_penalty`` (the weight of the entropy in that epoch).

    Raises
    ------
    TrainingError
        If there are too few cells to hold any out, or the loss is not finite.

    Notes
    -----
    Loss: mean over the batch of ``sum_g (prediction - x)^2 / 2 + alpha * entropy(a) + lambda * |v|``, with the entropy
    over all neighbors and the dummy slot, averaged over heads, and ``|v|`` summed over heads and their dimensions,
    averaged over neighbors (Hong et al., 2025).
    """
    import torch
    from tqdm import tqdm

    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.network import CrossAttentionNetwork

    # One generator per task, so that a change in one does not shift the random numbers of another.
    split_rng, batch_rng, dropout_seed = np.random.SeedSequence(seed).spawn(3)
    training, validation = _split(tissue.n_cells, settings.validation_fraction, np.random.default_rng(split_rng))
    batches_rng = np.random.default_rng(batch_rng)
    dropout_rng = torch.Generator().manual_seed(int(dropout_seed.generate_state(1)[0]))

    if settings.auto_distance_scale:
        network_settings = replace(network_settings, distance_kernel_unit_scale=_distance_scale(neighbors))
    network = CrossAttentionNetwork(len(tissue.genes), len(tissue.cell_types), network_settings, seed=seed)
    network.ct_profiles.copy_(torch.from_numpy(_type_means(tissue, training)))
    optimizer = torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, eps=settings.adam_eps, weight_decay=settings.weight_decay
    )

    best, best_epoch, best_weights = math.inf, -1, copy.deepcopy(network.state_dict())
    history: list[dict[str, float]] = []
    bar = tqdm(range(settings.max_epochs), desc="training", unit="epoch", disable=None if progress else True)
    for epoch in bar:
        alpha = settings.attention_penalty(epoch)
        network.train()
        sums, n_seen = np.zeros(4), 0
        for batch in patch_batches(
            tissue.coordinates, tissue.sections, training, settings.batch_size, settings.patch_size, batches_rng
        ):
            losses = _losses(network, tissue, neighbors, batch, settings.neighbor_dropout, dropout_rng)
            loss = losses.reconstruction + alpha * losses.entropy + settings.value_l1_penalty * losses.value_l1
            optimizer.zero_grad(set_to_none=True)
            with _deterministic():
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            optimizer.step()
            terms = (loss, losses.reconstruction, losses.entropy, losses.value_l1)
            sums += len(batch) * np.array([float(term.detach()) for term in terms])
            n_seen += len(batch)
        means = sums / n_seen
        validated = _validate(network, tissue, neighbors, validation, settings.batch_size)
        if not (math.isfinite(means[0]) and math.isfinite(validated)):
            raise TrainingError(
                f"the loss is not finite in epoch {epoch} (training {means[0]:g}, validation {validated:g}). "
                f"Lower learning_rate (now {settings.learning_rate:g}) or look for extreme values in the expression."
            )
        history.append(
            {
                "epoch": epoch,
                "train_loss": means[0],
                "train_reconstruction": means[1],
                "train_entropy": means[2],
                "train_value_l1": means[3],
                "validation_reconstruction": validated,
                "attention_penalty": alpha,
            }
        )
        bar.set_postfix(train=f"{means[1]:.4g}", validation=f"{validated:.4g}")
        if validated < best:
            best, best_epoch, best_weights = validated, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    bar.close()
    logger.info("trained %d epochs; best validation %.5g in epoch %d", len(history), best, best_epoch)
    network.load_state_dict(best_weights)
    network.eval().requires_grad_(False)
    model = CrosstalkModel(
        network=network,
        genes=tissue.genes,
        cell_types=tissue.cell_types,
        keys=tissue.keys,
        n_neighbors=neighbors.idx.shape[1],
        preprocessing=tissue.preprocessing,
    )
    return model, pd.DataFrame(history).astype({"epoch": np.int32})


def _split(
    n_cells: int, validation_fraction: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    n_validation = max(1, round(n_cells * validation_fraction))
    if n_cells - n_validation < 1:
        raise TrainingError(f"training needs at least 2 cells, of which 1 is held out. Got {n_cells}.")
    shuffled = rng.permutation(n_cells)
    return np.sort(shuffled[n_validation:]), np.sort(shuffled[:n_validation])


def _distance_scale(neighbors: Neighbors) -> float:
    nearest = neighbors.dist[:, 0]
    nearest = nearest[np.isfinite(nearest) & (nearest > 0)]
    return float(np.median(nearest)) if len(nearest) else 1.0


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


def patch_batches(
    coordinates: npt.NDArray[np.float64],
    sections: npt.NDArray[np.int32],
    cells: npt.NDArray[np.intp],
    batch_size: int,
    patch_size: int,
    rng: np.random.Generator,
) -> Iterator[npt.NDArray[np.intp]]:
    """Yield batches of cells in which every cell occurs once, each made of spatially compact patches.

    Parameters
    ----------
    coordinates, sections
        Of all cells, (cell, axis) and (cell,). A patch holds cells of one section.
    cells
        Rows to draw from.
    batch_size, patch_size
        Cells per batch and per patch at most; with a patch size of 1 the batches are random cells.
    rng
        Draws a rotation and offsets, so that the patches of every call are cut differently.
    """
    if patch_size == 1:
        patches = [cells[rng.permutation(len(cells))]]
    else:
        patches = []
        for section in np.unique(sections[cells]):
            patches += _patches(coordinates, cells[sections[cells] == section], min(patch_size, batch_size), rng)
        patches = [patches[index] for index in rng.permutation(len(patches))]
    order = np.concatenate(patches)
    n_batches = -(-len(order) // batch_size)
    yield from np.array_split(order, n_batches)


def _patches(
    coordinates: npt.NDArray[np.float64], cells: npt.NDArray[np.intp], patch_size: int, rng: np.random.Generator
) -> list[npt.NDArray[np.intp]]:
    """Cut the cells of one section in strips of a rotated plane, and each strip in patches, at random offsets."""
    angle = rng.uniform(0, 2 * np.pi)
    plane = coordinates[cells, :2] @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    strip_size = max(patch_size, round(math.sqrt(len(cells) * patch_size)))
    patches = []
    for strip in _cut(np.argsort(plane[:, 0], kind="stable"), strip_size, rng):
        along = strip[np.argsort(plane[strip, 1], kind="stable")]
        patches += [cells[patch] for patch in _cut(along, patch_size, rng)]
    return patches


def _cut(order: npt.NDArray[np.intp], size: int, rng: np.random.Generator) -> list[npt.NDArray[np.intp]]:
    first = int(rng.integers(1, size + 1))
    return [part for part in np.split(order, range(first, len(order), size)) if len(part)]


def _losses(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    batch: npt.NDArray[np.intp],
    neighbor_dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> _Losses:
    import torch

    from tissue_crosstalk.core.network import Edges

    nn_idx = neighbors.idx[batch]
    used, local = np.unique(nn_idx, return_inverse=True)
    local = local.reshape(nn_idx.shape)
    if used[0] < 0:  # padded slots are not senders
        used, local = used[1:], local - 1
    if not len(used):
        used = batch[:1].astype(used.dtype)  # padded slots, too, need a row to point at
    edges = Edges.from_neighbors(local, neighbors.dist[batch], tissue.labels[batch])
    padded = edges.absent  # before dropout: the penalty is over all neighbors
    if neighbor_dropout > 0:
        dropped = torch.rand(nn_idx.shape, generator=generator) < neighbor_dropout
        edges = replace(edges, absent=dropped if edges.absent is None else edges.absent | dropped)
    edges = edges.to(network.device)
    target = _dense(tissue.expression, batch).to(network.device)
    senders = network.senders(_dense(tissue.expression, used).to(network.device))
    patterns = network.patterns(senders, edges)  # (cell, head, neighbor)
    prediction = network.predict(network.attend(senders.value, patterns, edges.sender), edges.receiver_label)

    dummy = 1.0 - patterns.sum(dim=2, keepdim=True)
    shares = torch.cat([patterns, dummy], dim=2).clamp_min(1e-12)  # the limit of a log a at 0 is 0
    entropy = -(shares * shares.log()).sum(dim=2).mean(dim=1)
    size = senders.value.abs().sum(dim=(1, 2))[edges.sender]  # (cell, neighbor)
    if padded is None:
        value_l1 = size.mean(dim=1)
    else:
        kept = (~padded).to(size.device)
        value_l1 = (size * kept).sum(dim=1) / kept.sum(dim=1).clamp_min(1)
    reconstruction = 0.5 * (prediction - target).square().sum(dim=1)
    return _Losses(reconstruction.mean(), entropy.mean(), value_l1.mean())


def _validate(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    cells: npt.NDArray[np.intp],
    batch_size: int,
) -> float:
    """Return the mean reconstruction term over held-out cells, nothing masked."""
    import torch

    network.eval()
    total = 0.0
    with torch.inference_mode():
        # Rows are in spatial order, so contiguous batches share neighbors.
        for batch in np.array_split(cells, -(-len(cells) // batch_size)):
            total += len(batch) * float(_losses(network, tissue, neighbors, batch).reconstruction)
    return total / len(cells)


def _dense(expression: sparse.csr_matrix, rows: Sequence[int] | npt.NDArray[np.integer]) -> torch.Tensor:
    import torch

    return torch.from_numpy(expression[rows].toarray())
