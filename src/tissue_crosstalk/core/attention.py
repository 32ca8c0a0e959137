"""Attention patterns of a tissue, a spatially compact shard at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from tissue_crosstalk.core.devices import full_precision
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.flavors import norm_factors, sender_norms
from tissue_crosstalk.core.neighbors import Neighbors, renumber
from tissue_crosstalk.core.network import ROW_BLOCK, CrossAttentionNetwork, Edges, KeyValueMap, Senders
from tissue_crosstalk.core.spatial_order import shards
from tissue_crosstalk.core.torch_threads import each_block

if TYPE_CHECKING:
    from tissue_crosstalk.core.tissue import PreparedTissue

PREDICT_CELLS = 8_192
"""Cells whose predictions are computed at once."""


@dataclass(frozen=True, eq=False)
class ShardAttention:
    """Attention of the receivers of one shard.

    Attributes
    ----------
    receivers
        Rows of the receivers in the tissue, int64 (cell,).
    senders
        Rows in the tissue of the cells that `norms` describe, int64 (sender,), ascending: the receivers and all
        their neighbors.
    patterns
        float32 (head, cell, neighbor); a row sums to 1 less the dummy slot's share.
    norms
        By name (see :func:`flavors.sender_norms`), each float32 (sender, head).
    """

    receivers: npt.NDArray[np.int64]
    senders: npt.NDArray[np.int64]
    patterns: npt.NDArray[np.float32]
    norms: dict[str, npt.NDArray[np.float32]]

    def norms_of(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float32]]:
        """Return the norms of the given rows of the tissue, which must be among `senders`."""
        places = np.searchsorted(self.senders, rows)
        return {name: norm[places] for name, norm in self.norms.items()}


@dataclass(frozen=True)
class SenderMaps:
    """What takes senders to keys, values and norms: of the weights alone, made once for all shards.

    Attributes
    ----------
    key_value
        See :meth:`~tissue_crosstalk.core.network.CrossAttentionNetwork.key_value_map`.
    norm_factors
        See :func:`~tissue_crosstalk.core.flavors.norm_factors`.
    """

    key_value: KeyValueMap
    norm_factors: dict[str, Tensor | None]

    @classmethod
    def of(cls, network: CrossAttentionNetwork) -> SenderMaps:
        """Make those of a network, as its weights are now: in full precision, whatever the rest is in."""
        with torch.inference_mode(), full_precision():
            return cls(network.key_value_map(), norm_factors(network))


def compute_shard(
    network: CrossAttentionNetwork,
    expression: sparse.csr_matrix,
    nn_rows: npt.NDArray[np.integer],
    nn_dist: npt.NDArray[np.float32],
    receiver_labels: npt.NDArray[np.integer],
    maps: SenderMaps | None = None,
) -> tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[np.float32]]]:
    """Compute the attention of some receivers from their neighbors' rows alone.

    A pure function of its arguments, so that any process that has the rows can run it.

    Parameters
    ----------
    network
        The model's network.
    expression
        Log-normalised expression of every sender of the shard, CSR float32 (sender, gene).
    nn_rows
        Row in `expression` of each neighbor, (cell, neighbor); −1 in a padded slot.
    nn_dist
        Distance to each neighbor, (cell, neighbor), in units of the coordinates; +inf in a padded slot.
    receiver_labels
        Label of each receiver, (cell,).
    maps
        Of the network, for callers that come with several shards.

    Returns
    -------
    patterns
        float32 (head, cell, neighbor); 0 in a padded slot.
    norms
        By name (see :func:`flavors.sender_norms`), each float32 (sender, head).

    Raises
    ------
    ParameterError
        If a GPU lacks memory even for small blocks.
    """
    maps = maps or SenderMaps.of(network)
    while True:
        try:
            return _compute_shard(network, expression, nn_rows, nn_dist, receiver_labels, maps)
        except torch.OutOfMemoryError as error:  # of a GPU
            if network.row_block <= ROW_BLOCK:
                raise ParameterError(
                    f"{network.device} lacks memory for {len(nn_rows)} cells at once: {error}. Lower "
                    "extraction.cells_per_shard, or set extraction.device=cpu."
                ) from error
            network.row_block //= 2
        torch.cuda.empty_cache()  # without the error, whose traceback holds tensors


def _compute_shard(
    network: CrossAttentionNetwork,
    expression: sparse.csr_matrix,
    nn_rows: npt.NDArray[np.integer],
    nn_dist: npt.NDArray[np.float32],
    receiver_labels: npt.NDArray[np.integer],
    maps: SenderMaps,
) -> tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[np.float32]]]:
    with torch.inference_mode():
        senders = sender_rows(network, expression, maps.key_value)
        edges = Edges.from_neighbors(nn_rows, nn_dist, receiver_labels).to(network.device)
        patterns = network.patterns(senders, edges, blocks=True)  # (cell, head, neighbor)
        by_head = np.ascontiguousarray(patterns.transpose(0, 1).cpu().numpy())
        return by_head, sender_norms(network, senders.value, maps.norm_factors)


def sender_rows(network: CrossAttentionNetwork, expression: sparse.csr_matrix, key_value_map: KeyValueMap) -> Senders:
    """Return embedding, key and value of every row of `expression`, made dense a block at a time.

    The map is that of the network, made once by callers that come with many parts.
    """
    n_rows, s = expression.shape[0], network.settings
    embedding = torch.empty(n_rows, s.n_nn_embed, device=network.device)
    key, value = (torch.empty(n_rows, s.n_heads, s.n_head_size, device=network.device) for _ in range(2))

    def write(own: slice) -> None:
        block = torch.from_numpy(expression[own].toarray()).to(network.device)
        part = network.senders(block, blocks=True, key_value_map=key_value_map)
        embedding[own], key[own], value[own] = part.embedding, part.key, part.value

    each_block(write, n_rows, network.row_block, network.device)
    return Senders(embedding, key, value)


def extract_attention(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    *,
    cells_per_shard: int,
    receivers: npt.NDArray[np.integer] | None = None,
) -> Iterator[ShardAttention]:
    """Yield the attention of a tissue, shard by shard.

    Parameters
    ----------
    network
        The model's network.
    tissue, neighbors
        The cells in spatial order, and their neighbors.
    cells_per_shard
        Receivers per shard at most; memory is bounded by a shard.
    receivers
        Rows whose attention is wanted, ascending; None: all.

    Raises
    ------
    ParameterError
        If `cells_per_shard` is below 1.
    """
    rows = np.arange(tissue.n_cells) if receivers is None else np.asarray(receivers, dtype=np.int64)
    maps = SenderMaps.of(network)
    for start, stop in shards(len(rows), cells_per_shard):
        own = rows[start:stop]
        of_receivers = Neighbors(neighbors.idx[own], neighbors.dist[own])
        yield attention_of_rows(network, tissue.expression.__getitem__, of_receivers, tissue.labels, own, maps)


def attention_of_rows(
    network: CrossAttentionNetwork,
    expression: Callable[[npt.NDArray[np.int64]], sparse.csr_matrix],
    neighbors: Neighbors,
    labels: npt.NDArray[np.int16],
    receivers: npt.NDArray[np.int64],
    maps: SenderMaps | None = None,
) -> ShardAttention:
    """Compute the attention of some receivers, from their own and their neighbors' expression alone.

    Parameters
    ----------
    network
        The model's network.
    expression
        Returns the log-normalised expression of cells whose rows are given, ascending, CSR float32 (cell, gene).
    neighbors
        Of the receivers.
    labels
        Of all cells, (cell,).
    receivers
        Rows of the receivers, ascending, (cell,).
    maps
        Of the network, for callers that come with several shards.
    """
    senders, nn_rows = renumber(neighbors.idx, receivers)
    patterns, norms = compute_shard(network, expression(senders), nn_rows, neighbors.dist, labels[receivers], maps)
    return ShardAttention(receivers, senders, patterns, norms)


def predict(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    receivers: npt.NDArray[np.integer] | None = None,
) -> npt.NDArray[np.float32]:
    """Return the expression that the model predicts, (cell, gene).

    Parameters
    ----------
    network
        The model's network.
    tissue, neighbors
        The cells in spatial order, and their neighbors.
    receivers
        Rows of the cells wanted; None: all.

    Notes
    -----
    Per type the mean expression in training, plus what the heads hear (Hong et al., 2025).
    """
    return _predict(network, tissue, neighbors, receivers, network.predict)


def residuals(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    receivers: npt.NDArray[np.integer] | None = None,
) -> npt.NDArray[np.float32]:
    """Return by how much a prediction differs from the mean expression of the cell's type in training, (cell, gene).

    Parameters
    ----------
    network, tissue, neighbors, receivers
        As of :func:`predict`.
    """
    return _predict(
        network, tissue, neighbors, receivers, lambda heard, label: network.linear_head(network.states(heard, label))
    )


def _predict(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    receivers: npt.NDArray[np.integer] | None,
    from_heard: Callable[[Tensor, Tensor], Tensor],
) -> npt.NDArray[np.float32]:
    rows = np.arange(tissue.n_cells) if receivers is None else np.asarray(receivers)
    out = np.empty((len(rows), network.n_genes), dtype=np.float32)
    with torch.inference_mode():
        key_value_map = network.key_value_map()
        for start in range(0, len(rows), PREDICT_CELLS):
            part = rows[start : start + PREDICT_CELLS]
            heard, label = hear(network, tissue, neighbors, part, key_value_map)
            out[start : start + len(part)] = from_heard(heard, label).cpu().numpy()
    return out


def attend_to_neighbors(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    receivers: npt.NDArray[np.integer],
    key_value_map: KeyValueMap,
) -> tuple[Tensor, Edges, Tensor]:
    """Return what the neighbors of some receivers say, the edges to them, and the attention on these, on the device.

    Parameters
    ----------
    network
        The model's network, under ``torch.inference_mode``.
    tissue, neighbors
        The cells in spatial order, and their neighbors.
    receivers
        Rows of the cells wanted, all of which are computed at once; at least one.
    key_value_map
        Of the network, made once for all receivers.

    Returns
    -------
    value
        (sender, head, d).
    edges
        Their `sender` counts in `value`.
    patterns
        (cell, head, neighbor).
    """
    used, local = renumber(neighbors.idx[receivers])
    if not len(used):
        used = receivers[:1].astype(np.int64)  # padded slots, too, need a row to point at
    senders = sender_rows(network, tissue.expression[used], key_value_map)
    edges = Edges.from_neighbors(local, neighbors.dist[receivers], tissue.labels[receivers]).to(network.device)
    return senders.value, edges, network.patterns(senders, edges, blocks=True)


def hear(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    receivers: npt.NDArray[np.integer],
    key_value_map: KeyValueMap,
) -> tuple[Tensor, Tensor]:
    """Return what the heads of some receivers hear, (cell, head, d), and the label of each, (cell,), on the device.

    Parameters
    ----------
    network, tissue, neighbors, receivers, key_value_map
        As of :func:`attend_to_neighbors`.
    """
    value, edges, patterns = attend_to_neighbors(network, tissue, neighbors, receivers, key_value_map)
    return network.attend(value, patterns, edges.sender), edges.receiver_label


def pair_scores(
    network: CrossAttentionNetwork,
    expression: sparse.csr_matrix,
    wanted: npt.NDArray[np.bool_],
    *,
    cells_per_shard: int = PREDICT_CELLS,
) -> npt.NDArray[np.float32]:
    """Return base score and distance coefficient of (sender, receiver label) pairs side by side, (pair, 2 head).

    Parameters
    ----------
    network
        The model's network.
    expression
        Log-normalised expression, CSR float32 (sender, gene).
    wanted
        Pairs to compute, (sender, label); they come in the order of ``np.nonzero(wanted)``.
    cells_per_shard
        Senders computed at once at most.

    Raises
    ------
    ParameterError
        If `cells_per_shard` is below 1.
    """
    rows = np.flatnonzero(wanted.any(axis=1))
    out = np.empty((np.count_nonzero(wanted), 2 * network.settings.n_heads), dtype=np.float32)
    done = 0
    with torch.inference_mode():
        key_value_map = network.key_value_map()
        for start, stop in shards(len(rows), cells_per_shard):
            own = rows[start:stop]
            if not len(own):
                break  # no pair is wanted
            pairs = torch.from_numpy(np.flatnonzero(wanted[own])).to(network.device)
            scores = network.pair_scores(sender_rows(network, expression[own], key_value_map), pairs, blocks=True)
            out[done : done + len(pairs)] = scores.cpu().numpy()
            done += len(pairs)
    return out
