"""What a sender says to each gene through each head, were it heard alone and with full attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from tissue_crosstalk.core.attention import PREDICT_CELLS, sender_rows
from tissue_crosstalk.core.network import CrossAttentionNetwork, KeyValueMap
from tissue_crosstalk.core.spatial_order import shards
from tissue_crosstalk.core.statistics import categorical

if TYPE_CHECKING:
    from tissue_crosstalk.core.tissue import PreparedTissue

_ROWS_AT_ONCE: Final = 1_024  # of which contributions to all genes are made

_Rows = npt.NDArray[np.integer]


def contributions(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    cells: _Rows,
    *,
    cells_per_shard: int = PREDICT_CELLS,
) -> npt.NDArray[np.float32]:
    """Return what cells contribute to each gene through each head at full attention, (cell, head, gene).

    Parameters
    ----------
    network
        The model's network.
    tissue
        The cells in spatial order.
    cells
        Rows of the cells wanted, (cell,).
    cells_per_shard
        Cells computed at once at most.

    Returns
    -------
    numpy.ndarray
        In units of the log-normalised expression. It depends on the cell alone, not on who hears it.

    Raises
    ------
    ParameterError
        If `cells_per_shard` is below 1.

    Notes
    -----
    ``linear_head(LayerNorm(W_O v))`` of each head (Hong et al., 2025).
    """
    rows = np.asarray(cells, dtype=np.int64)
    out = np.empty((len(rows), network.settings.n_heads, network.n_genes), dtype=np.float32)
    done = 0
    with torch.inference_mode():
        for states in _solo_states(network, tissue, rows, cells_per_shard, network.key_value_map()):
            out[done : done + len(states)] = network.linear_head(states).cpu().numpy()
            done += len(states)
    return out


def summarize_contributions(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    *,
    senders: Sequence[str] | None = None,
    cells_per_shard: int = PREDICT_CELLS,
) -> pd.DataFrame:
    """Return mean and standard deviation of the contributions over the cells of each type.

    Parameters
    ----------
    network
        The model's network.
    tissue
        The cells in spatial order.
    senders
        Types by name; None: all.
    cells_per_shard
        Cells computed at once at most; memory is bounded by a shard.

    Returns
    -------
    pandas.DataFrame
        One row per sender type, head and gene: ``sender``, ``head_idx``, ``gene``, ``mean``, ``std`` (ddof 1),
        ``n_senders``. NaN without cells, and the deviation of one.

    Raises
    ------
    ParameterError
        If there is no type of such a name, or `cells_per_shard` is below 1.
    """
    labels = tissue.labels_of(senders, "senders")
    n_heads, n_genes = network.settings.n_heads, network.n_genes
    shape = len(labels), n_heads, n_genes
    mean, std = np.full(shape, np.nan), np.full(shape, np.nan)
    n_senders = np.zeros(len(labels), dtype=np.int64)
    with torch.inference_mode():
        key_value_map = network.key_value_map()
        for number, label in enumerate(labels):
            rows = np.flatnonzero(tissue.labels == label)
            n_senders[number] = len(rows)
            if len(rows):
                mean[number], std[number] = _moments(network, tissue, rows, cells_per_shard, key_value_map)
    n_rows = n_heads * n_genes
    return pd.DataFrame(
        {
            "sender": categorical(np.repeat(np.array(labels, dtype=np.int16), n_rows), tissue.cell_types),
            "head_idx": np.tile(np.repeat(np.arange(n_heads, dtype=np.int16), n_genes), len(labels)),
            "gene": categorical(np.tile(np.arange(n_genes, dtype=np.int32), len(labels) * n_heads), tissue.genes),
            "mean": mean.reshape(-1),
            "std": std.reshape(-1),
            "n_senders": np.repeat(n_senders, n_rows),
        }
    )


def neighbor_embeddings(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    cells: _Rows | None = None,
    *,
    cells_per_shard: int = PREDICT_CELLS,
) -> npt.NDArray[np.float32]:
    """Return the neighbor embedding m of cells, (cell, embed).

    Parameters
    ----------
    network
        The model's network.
    tissue
        The cells in spatial order.
    cells
        Rows of the cells wanted; None: all.
    cells_per_shard
        Cells computed at once at most.

    Raises
    ------
    ParameterError
        If `cells_per_shard` is below 1.
    """
    rows = np.arange(tissue.n_cells) if cells is None else np.asarray(cells, dtype=np.int64)
    out = np.empty((len(rows), network.settings.n_nn_embed), dtype=np.float32)
    with torch.inference_mode():
        key_value_map = network.key_value_map()
        for start, stop in shards(len(rows), cells_per_shard):
            senders = sender_rows(network, tissue.expression[rows[start:stop]], key_value_map)
            out[start:stop] = senders.embedding.cpu().numpy()
    return out


def _solo_states(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    rows: npt.NDArray[np.int64],
    cells_per_shard: int,
    key_value_map: KeyValueMap,
) -> Iterator[torch.Tensor]:
    """Yield what the linear head reads of each cell alone, (cell, head, embed), some cells at a time."""
    for start, stop in shards(len(rows), cells_per_shard):
        value = sender_rows(network, tissue.expression[rows[start:stop]], key_value_map).value
        for first in range(0, len(value), _ROWS_AT_ONCE):
            yield network.solo_states(value[first : first + _ROWS_AT_ONCE], blocks=True)


def _moments(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    rows: npt.NDArray[np.int64],
    cells_per_shard: int,
    key_value_map: KeyValueMap,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation over some cells, (head, gene)."""
    shape = network.settings.n_heads, network.n_genes
    total, squares = (torch.zeros(shape, dtype=torch.float64, device=network.device) for _ in range(2))
    for states in _solo_states(network, tissue, rows, cells_per_shard, key_value_map):
        for head in range(shape[0]):  # one at a time: all genes of all heads are much
            said = network.linear_head(states[:, head]).double()
            total[head] += said.sum(dim=0)
            squares[head] += said.square_().sum(dim=0)
    n = len(rows)
    mean = (total / n).cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.maximum(squares.cpu().numpy() - n * mean**2, 0.0) / np.float64(n - 1)
    return mean, np.sqrt(variance)
