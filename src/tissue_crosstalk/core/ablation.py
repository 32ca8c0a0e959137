"""What the model predicts for receivers when it hears nothing of one type of sender.

A receiver hears ``z = sum_j a v``, a sum over its neighbors. Setting the patterns of one sender type to 0 after the
softmax takes the part of that type from the sum and leaves the rest as it was, so that patterns and values are computed
once, and per sender type only what comes after the sum. Receivers without a neighbor of that type do not change.

====================  ==================  =================================================================
name                  shape               what
====================  ==================  =================================================================
pattern               (cell, head, nbr)   a, without the dummy slot; ``nbr`` is the axis neighbor
heard                 (cell, head, d)     z
state                 (cell, embed)       ``LayerNorm(sum_h W_O z + query)``, which the linear head reads
====================  ==================  =================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tissue_crosstalk.core.attention import PREDICT_CELLS, sender_rows
from tissue_crosstalk.core.errors import ParameterError, did_you_mean, listing
from tissue_crosstalk.core.network import CrossAttentionNetwork, Edges
from tissue_crosstalk.core.spatial_order import shards
from tissue_crosstalk.core.terms import NO_NEIGHBOR

if TYPE_CHECKING:
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.tissue import PreparedTissue


@dataclass(frozen=True, eq=False)
class Ablation:
    """Effect of sender types on what is predicted for receiver types.

    Attributes
    ----------
    pairs
        (sender type, receiver type) of each row.
    n_receivers
        Receivers of each pair, int64 (pair,).
    diff
        Mean over the receivers of the prediction less the prediction without the senders, float64 (pair, gene), in
        units of the log-normalised expression; positive where the senders raise the gene. NaN without receivers.
    """

    pairs: tuple[tuple[str, str], ...]
    n_receivers: npt.NDArray[np.int64]
    diff: npt.NDArray[np.float64]


def ablate_senders(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    pairs: Sequence[tuple[str, str]],
    *,
    cells_per_shard: int = PREDICT_CELLS,
) -> Ablation:
    """Measure what is predicted for receivers with and without their neighbors of one type.

    Parameters
    ----------
    network
        The model's network.
    tissue, neighbors
        The cells in spatial order, and their neighbors.
    pairs
        (sender type, receiver type) by name.
    cells_per_shard
        Receivers computed at once at most; memory is bounded by a shard.

    Returns
    -------
    Ablation
        The same whatever the shards, but for the rounding of a float64 sum.

    Raises
    ------
    ParameterError
        If a type is not one of the tissue's, or `cells_per_shard` is below 1.

    Notes
    -----
    The patterns of all neighbors of the sender type are set to 0 after the softmax, and nothing is renormalised (Hong
    et al., 2025). As the linear head has no part in the mean over receivers, it is applied to the mean change of
    their states: no array of cells and genes is ever made.
    """
    label_pairs = [(_label(tissue, sender), _label(tissue, receiver)) for sender, receiver in pairs]
    rows = np.flatnonzero(np.isin(tissue.labels, [receiver for _, receiver in label_pairs]))
    change = torch.zeros(len(pairs), network.settings.n_embed, dtype=torch.float64, device=network.device)
    n_receivers = np.array([np.count_nonzero(tissue.labels == receiver) for _, receiver in label_pairs], dtype=np.int64)
    with torch.inference_mode():
        for start, stop in shards(len(rows), cells_per_shard):
            change += _changes(network, tissue, neighbors, rows[start:stop], label_pairs)
        total = change @ network.linear_head.weight.double().T  # (pair, gene)
    with np.errstate(invalid="ignore"):
        diff = total.cpu().numpy() / n_receivers[:, None]
    return Ablation(tuple(pairs), n_receivers, diff)


def _label(tissue: PreparedTissue, name: str) -> int:
    if name not in tissue.cell_types:
        raise ParameterError(
            f"there is no cell type {name!r} to ablate.{did_you_mean(name, tissue.cell_types)} "
            f"The cell types are {listing(tissue.cell_types, most=30)}."
        )
    return tissue.cell_types.index(name)


def _changes(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    receivers: npt.NDArray[np.intp],
    label_pairs: Sequence[tuple[int, int]],
) -> Tensor:
    """Return by how much each pair's sender type changes the states of these receivers, summed, (pair, embed)."""
    change = torch.zeros(len(label_pairs), network.settings.n_embed, dtype=torch.float64, device=network.device)
    nn_idx = neighbors.idx[receivers]
    used = np.unique(nn_idx[nn_idx >= 0])
    if not len(used):
        return change  # nobody hears anything
    local = np.where(nn_idx < 0, -1, np.searchsorted(used, nn_idx))
    senders = sender_rows(network, tissue.expression[used])
    edges = Edges.from_neighbors(local, neighbors.dist[receivers], tissue.labels[receivers]).to(network.device)
    patterns = network.patterns(senders, edges, blocks=True)
    heard = network.attend(senders.value, patterns, edges.sender)
    states = network.states(heard, edges.receiver_label, blocks=True)
    nn_labels = np.where(nn_idx < 0, np.int16(NO_NEIGHBOR), tissue.labels[nn_idx])
    sender_labels = torch.from_numpy(nn_labels).to(network.device)
    for row, (sender, receiver) in enumerate(label_pairs):
        ablated = (sender_labels == sender) & (edges.receiver_label == receiver)[:, None]
        cells = ablated.any(dim=1).nonzero().squeeze(1)
        if not len(cells):
            continue
        part = patterns[cells] * ablated[cells][:, None, :]
        remaining = heard[cells] - network.attend(senders.value, part, edges.sender[cells])
        without = network.states(remaining, edges.receiver_label[cells], blocks=True)
        change[row] = (states[cells].double() - without.double()).sum(dim=0)
    return change
