"""How well attention finds the interactions that were planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.dataset as pads

from tissue_crosstalk.core.simulation import Interaction
from tissue_crosstalk.core.stored import Cells, read_shards, stored_flavors


@dataclass(frozen=True)
class Recovery:
    """How well scores of edges rank the planted ones.

    Attributes
    ----------
    average_precision
        Area under the precision-recall curve; a random ranking has `base_rate`.
    base_rate
        Share of planted edges among all.
    """

    average_precision: float
    base_rate: float

    @property
    def lift(self) -> float:
        """Average precision over base rate."""
        return self.average_precision / self.base_rate if self.base_rate else float("nan")


def planted_edges(
    interactions: Sequence[Interaction],
    cell_types: Sequence[str],
    receiver_labels: npt.NDArray[np.integer],
    sender_labels: npt.NDArray[np.integer],
    distance: npt.NDArray[np.floating],
) -> npt.NDArray[np.bool_]:
    """Return which edges were planted: the sender's type within its length scale of its receiver, (cell, neighbor).

    Parameters
    ----------
    interactions
        The truth.
    cell_types
        Names of the labels.
    receiver_labels
        (cell,).
    sender_labels, distance
        (cell, neighbor); a padded slot has label −1.
    """
    number = {name: label for label, name in enumerate(cell_types)}
    planted = np.zeros(sender_labels.shape, dtype=bool)
    for interaction in interactions:
        if not {interaction.sender, interaction.receiver} <= number.keys():
            continue  # a type without any cell has no edges
        pair = (receiver_labels[:, None] == number[interaction.receiver]) & (
            sender_labels == number[interaction.sender]
        )
        planted |= pair & (distance <= interaction.length_scale)
    return planted


def rank_recovery(
    scores: npt.NDArray[np.floating], planted: npt.NDArray[np.bool_], present: npt.NDArray[np.bool_]
) -> Recovery:
    """Rank all edges by their score and measure how far up the planted ones come.

    Parameters
    ----------
    scores, planted, present
        (cell, neighbor); edges that are not `present` (padding) do not take part.
    """
    from sklearn.metrics import average_precision_score

    truth = planted[present]
    base_rate = float(truth.mean()) if truth.size else 0.0
    precision = float(average_precision_score(truth, scores[present])) if truth.any() else 0.0
    return Recovery(average_precision=precision, base_rate=base_rate)


def stored_recovery(
    interactions: Sequence[Interaction],
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    nn_dists: pads.Dataset,
    cells: pads.Dataset,
) -> dict[str, Recovery]:
    """Measure, per flavor, how stored attention (maximum over heads) ranks the planted edges.

    Parameters
    ----------
    interactions
        The truth.
    flavored_attention, nn_idxs, nn_dists, cells
        Folders that the earlier stages wrote.
    """
    known = Cells.read(cells)
    measured = {}
    for flavor in stored_flavors(flavored_attention):
        scores, planted, present = [], [], []
        for shard in read_shards(flavored_attention, nn_idxs, known, nn_dists=nn_dists, flavor=flavor):
            assert shard.nn_dist is not None
            receiver_labels, sender_labels = known.labels[shard.receivers], shard.sender_labels(known)
            scores.append(shard.attention.max(axis=0))
            planted.append(planted_edges(interactions, known.cell_types, receiver_labels, sender_labels, shard.nn_dist))
            present.append(shard.nn_idx >= 0)
        measured[flavor] = rank_recovery(np.concatenate(scores), np.concatenate(planted), np.concatenate(present))
    return measured
