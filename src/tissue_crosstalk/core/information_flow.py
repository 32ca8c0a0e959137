"""From where each cell is attended to: the attention-weighted way to its neighbors, streamed over stored shards."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.dataset as pads

from tissue_crosstalk.core.errors import ParameterError, did_you_mean, listing
from tissue_crosstalk.core.stored import Cells, ShardFiles, StoredShard, files_of_shards
from tissue_crosstalk.core.threads import in_order, threads


@dataclass(frozen=True, eq=False)
class InformationFlow:
    """From where receivers get information, in the order of the tissue.

    Attributes
    ----------
    displacement
        Sum over neighbors of the attention (mean over heads) times the way from the receiver to the neighbor, in units
        of the coordinates, float64 (cell, axis); nan for cells that are no receivers.
    attention
        Sum over neighbors of the attention (mean over heads), float64 (cell,); nan for cells that are no receivers.
        `displacement` divided by it is the mean way to those who are attended to.
    """

    displacement: npt.NDArray[np.float64]
    attention: npt.NDArray[np.float64]


def information_flow(
    attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    cells: pads.Dataset,
    *,
    flavor: str | None = None,
    receiver: str | None = None,
    sender: str | None = None,
) -> InformationFlow:
    """Sum up the ways from receivers to those they attend to, in one pass over stored attention.

    Parameters
    ----------
    attention
        Folder of ``attention_patterns``, or of flavored attention.
    nn_idxs, cells
        Folders that the same extraction wrote.
    flavor
        Which flavor of a folder of flavored attention; None: the folder has no flavors.
    receiver
        Only cells of this type are receivers. None: all are.
    sender
        Only neighbors of this type count. None: all do.

    Returns
    -------
    InformationFlow
        A cell without a neighbor that counts has 0.

    Raises
    ------
    ParameterError
        If `receiver` or `sender` is no cell type of the tissue.
    ResultError
        If the folders are not of one run.
    """
    known = Cells.read(cells)
    of_receivers = None if receiver is None else _label("receiver", receiver, known)
    of_senders = None if sender is None else _label("sender", sender, known)
    displacement = np.full(known.coordinates.shape, np.nan)
    total = np.full(len(known.names), np.nan)
    of_shard = functools.partial(_of_shard, known, of_receivers, of_senders)
    files = files_of_shards(attention, nn_idxs, None, flavor)
    for receivers, way, sums in in_order(of_shard, files, threads()):
        displacement[receivers], total[receivers] = way, sums
    return InformationFlow(displacement, total)


def _label(which: str, name: str, cells: Cells) -> int:
    """Return the label of a cell type; raise unless it is one."""
    if name not in cells.cell_types:
        raise ParameterError(
            f"`{which}` must be a cell type of the tissue: {listing(cells.cell_types)}. Got {name!r} instead."
            + did_you_mean(str(name), cells.cell_types)
        )
    return cells.cell_types.index(name)


def _of_shard(
    cells: Cells, receiver: int | None, sender: int | None, files: ShardFiles
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return positions of the receivers of a shard, (receiver,), and their sums: (receiver, axis) and (receiver,)."""
    neighbors, table = files.read()
    shard: StoredShard = neighbors.with_attention(table, cells)
    mean = shard.attention.mean(axis=0, dtype=np.float64)  # (cell, neighbor)
    is_edge = shard.nn_idx >= 0
    if sender is not None:
        is_edge &= shard.sender_labels(cells) == sender
    mean[~is_edge] = 0.0
    own = cells.coordinates[shard.receivers]
    way = np.empty(own.shape)
    for axis in range(own.shape[1]):  # never an array (cell, neighbor, axis)
        # A padded slot, −1, looks up some cell; its attention is 0. Differences first: coordinates may be far from 0.
        way[:, axis] = (mean * (cells.coordinates[shard.nn_idx, axis] - own[:, axis, None])).sum(axis=1)
    receivers, total = shard.receivers, mean.sum(axis=1)
    if receiver is not None:
        chosen = cells.labels[receivers] == receiver
        receivers, way, total = receivers[chosen], way[chosen], total[chosen]
    return receivers, way, total
