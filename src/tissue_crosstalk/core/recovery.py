"""How well a model finds the interactions that were planted: which edges carry them, whom they affect, what they shift.

Each question ranks things by a score, and asks how far up those come that were planted:

=================================  ==========================  ==============================================
what                               ranked                      score
=================================  ==========================  ==============================================
sender edges                       (cell, neighbor) pairs      attention, maximum over heads, in each flavor
affected receivers                 all cells                   a cell's largest vanilla attention
affected receivers of one type     cells of a receiver type    the same
shifted genes                      genes, per interaction      size of the mean effect of masking the senders
=================================  ==========================  ==============================================

Among all cells, the type alone tells much of who is affected; among the cells of one receiver type, only a sender
nearby does.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError, ResultError, did_you_mean, listing
from tissue_crosstalk.core.flavors import FLAVORS, weigh
from tissue_crosstalk.core.simulation import Interaction, affected_receivers
from tissue_crosstalk.core.stored import Cells, check_same_cells, read_shards, stored_flavors, strongest_head

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from anndata import AnnData

    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.tissue import PreparedTissue

logger = logging.getLogger(__name__)

EDGES: Final = "sender edges"
RECEIVERS: Final = "affected receivers"
RECEIVERS_OF_TYPE: Final = "affected receivers of one type"
GENES: Final = "shifted genes"
ALL_CELLS: Final = "all cells"

WHAT: Final = "what"
NAME: Final = "name"
AVERAGE_PRECISION: Final = "average_precision"
ROC_AUC: Final = "roc_auc"
BASE_RATE: Final = "base_rate"
LIFT: Final = "lift"
N: Final = "n"
MEASURES: Final = (AVERAGE_PRECISION, ROC_AUC, BASE_RATE, LIFT)
RECALL: Final = "recall"
PRECISION: Final = "precision"

MOST_POINTS: Final = 200
"""Points kept of a precision-recall curve: more than a figure can show."""


@dataclass(frozen=True)
class Recovery:
    """How well scores rank what was planted. NaN is what cannot be measured.

    Attributes
    ----------
    average_precision
        Precision at each planted thing in the ranking, on average: ``sum_k (R_k - R_(k-1)) P_k`` over recall R and
        precision P. A random ranking has `base_rate`.
    roc_auc
        Probability that a planted thing scores higher than another one, ties half. A random ranking has 0.5.
    base_rate
        Share of what was planted; NaN where there is nothing to rank.
    n
        How many things were ranked.

    Notes
    -----
    Where everything was planted, or nothing, no ranking is better than another: `average_precision` and `roc_auc` are
    NaN then.
    """

    average_precision: float
    roc_auc: float
    base_rate: float
    n: int

    @property
    def lift(self) -> float:
        """Average precision over base rate."""
        return self.average_precision / self.base_rate if self.base_rate else math.nan


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores of things, of which some were planted.

    Attributes
    ----------
    what, name
        The question, and of which flavor, cells or interaction.
    scores, planted
        (thing,).
    """

    what: str
    name: str
    scores: npt.NDArray[np.floating]
    planted: npt.NDArray[np.bool_]


def measure_recovery(
    model: CrosstalkModel, tissue: PreparedTissue, neighbors: Neighbors, interactions: Sequence[Interaction]
) -> pd.DataFrame:
    """Measure how well a model finds planted interactions, from the tissue it is given.

    Parameters
    ----------
    model
        The model.
    tissue, neighbors
        The cells, prepared for the model, and their neighbors.
    interactions
        The truth, lengths in units of the tissue's coordinates.

    Returns
    -------
    pandas.DataFrame
        One row per ranking: ``what``, ``name``, ``average_precision``, ``roc_auc``, ``base_rate``, ``lift`` and ``n``
        (see :class:`Recovery`).

    Raises
    ------
    ParameterError
        If a (sender, receiver) pair comes twice.
    """
    graph = _Graph(
        tissue.cell_types,
        tissue.labels,
        tissue.coordinates,
        tissue.sections,
        neighbors.labels(tissue.labels),
        neighbors.dist,
    )
    strengths = _strengths(model, tissue, neighbors)
    return tabulate(_rankings(model, tissue, neighbors, interactions, graph, strengths))[0]


def stored_recovery(
    interactions: Sequence[Interaction],
    attention_patterns: pads.Dataset,
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    nn_dists: pads.Dataset,
    cells: pads.Dataset,
    model_input: AnnData,
    model: CrosstalkModel,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure how well a model finds planted interactions, from what the earlier stages wrote.

    Parameters
    ----------
    interactions
        The truth, lengths in units of the tissue's coordinates.
    attention_patterns, flavored_attention, nn_idxs, nn_dists, cells
        Folders of attention.
    model_input, model
        What the attention was computed from.

    Returns
    -------
    recovery
        As :func:`measure_recovery` returns it.
    curves
        See :func:`tabulate`.

    Raises
    ------
    ResultError
        If the results are of different runs.
    ParameterError
        If a (sender, receiver) pair comes twice.
    """
    from tissue_crosstalk.core.extraction import model_input_of

    tissue, neighbors = model_input_of(model_input, model)
    known = Cells.read(cells)
    check_same_cells(known, tissue.cell_names[tissue.in_tissue_order()])
    graph, vanilla = _stored_graph(attention_patterns, nn_idxs, nn_dists, known)
    others = (
        (flavor, strongest_head(flavored_attention, nn_idxs, known, flavor)[1])
        for flavor in stored_flavors(flavored_attention)
        if flavor != terms.VANILLA
    )
    strengths = itertools.chain([(terms.VANILLA, vanilla)], others)
    return tabulate(_rankings(model, tissue, neighbors, interactions, graph, strengths))


@dataclass(frozen=True, eq=False)
class _Graph:
    """All cells of a tissue in one order, and their neighbors.

    Attributes
    ----------
    cell_types
        Names of the labels.
    labels, sections
        (cell,).
    coordinates
        (cell, axis).
    sender_labels, distance
        (cell, neighbor); a padded slot has label −1.
    """

    cell_types: tuple[str, ...]
    labels: npt.NDArray[np.integer]
    coordinates: npt.NDArray[np.float64]
    sections: npt.NDArray[np.integer]
    sender_labels: npt.NDArray[np.integer]
    distance: npt.NDArray[np.floating]


def _strengths(
    model: CrosstalkModel, tissue: PreparedTissue, neighbors: Neighbors
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield each flavor, vanilla first, and its attention as the maximum over heads, (cell, neighbor)."""
    from tissue_crosstalk.core.attention import PREDICT_CELLS, extract_attention

    strengths = {flavor: np.empty(neighbors.idx.shape, dtype=np.float32) for flavor in FLAVORS}
    for shard in extract_attention(model.network, tissue, neighbors, cells_per_shard=PREDICT_CELLS):
        nn_idx = neighbors.idx[shard.receivers]
        local = np.where(nn_idx < 0, terms.NO_NEIGHBOR, np.searchsorted(shard.senders, nn_idx)).astype(np.int32)
        for flavor, strength in strengths.items():
            strength[shard.receivers] = weigh(shard.patterns, shard.norms, local, flavor).max(axis=0)
    yield from strengths.items()


def _stored_graph(
    attention_patterns: pads.Dataset, nn_idxs: pads.Dataset, nn_dists: pads.Dataset, cells: Cells
) -> tuple[_Graph, npt.NDArray[np.float32]]:
    """Return the cells in the order of the tissue, and their attention as the maximum over heads, (cell, neighbor)."""
    receivers, strength, sender_labels, distance = [], [], [], []
    for shard in read_shards(attention_patterns, nn_idxs, cells, nn_dists=nn_dists):
        assert shard.nn_dist is not None
        receivers.append(shard.receivers)
        strength.append(shard.attention.max(axis=0))
        sender_labels.append(shard.sender_labels(cells))
        distance.append(shard.nn_dist)
    order = np.argsort(np.concatenate(receivers))
    if len(order) != len(cells.names):
        raise ResultError(
            f"{terms.ATTENTION_PATTERNS} holds {len(order)} cells and table {terms.CELLS!r} {len(cells.names)}: they "
            "are of different runs. Run the extraction again."
        )
    graph = _Graph(
        cells.cell_types,
        cells.labels,
        cells.coordinates,
        cells.sections,
        np.concatenate(sender_labels)[order],
        np.concatenate(distance)[order],
    )
    return graph, np.concatenate(strength)[order]


def _rankings(
    model: CrosstalkModel,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    interactions: Sequence[Interaction],
    graph: _Graph,
    strengths: Iterable[tuple[str, npt.NDArray[np.float32]]],
) -> Iterator[Ranking]:
    """Yield every ranking, `strengths` being the flavors, vanilla first, each (cell, neighbor)."""
    by_name = interactions_by_name(interactions)
    _warn_of_unknown(interactions, tissue.cell_types, tissue.genes)
    planted = planted_edges(interactions, graph.cell_types, graph.labels, graph.sender_labels, graph.distance)
    present = graph.sender_labels >= 0
    largest = np.empty(0, dtype=np.float32)
    for flavor, strength in strengths:
        yield Ranking(EDGES, flavor, strength[present], planted[present])
        if flavor == terms.VANILLA:
            largest = strength.max(axis=1)
    yield from rank_receivers(interactions, graph.cell_types, graph.labels, graph.coordinates, graph.sections, largest)
    yield from rank_genes(model, tissue, neighbors, by_name)


def interactions_by_name(interactions: Iterable[Interaction]) -> dict[str, Interaction]:
    """Return the interactions by the name they have in tables and figures, ``"<sender> to <receiver>"``.

    Raises
    ------
    ParameterError
        If a (sender, receiver) pair comes twice: masking the sender shows the effect of both at once.
    """
    by_name: dict[str, Interaction] = {}
    for interaction in interactions:
        name = f"{interaction.sender} to {interaction.receiver}"
        if name in by_name:
            raise ParameterError(
                f"the truth must name every sender and receiver once. Got {name!r} twice; make them one interaction "
                "with the genes of both."
            )
        by_name[name] = interaction
    return by_name


def _warn_of_unknown(interactions: Iterable[Interaction], cell_types: Sequence[str], genes: Sequence[str]) -> None:
    named = [name for interaction in interactions for name in (interaction.sender, interaction.receiver)]
    planted = [gene for interaction in interactions for gene in interaction.genes]
    for kind, names, known in (("cell type", named, cell_types), ("gene", planted, genes)):
        unknown = sorted(set(names) - set(known))
        if unknown:
            logger.warning(
                "the truth names a %s that the model does not have: %s.%s It counts as not planted.",
                kind,
                listing(unknown),
                did_you_mean(unknown[0], known),
            )


def planted_edges(
    interactions: Iterable[Interaction],
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


def rank_receivers(
    interactions: Sequence[Interaction],
    cell_types: Sequence[str],
    labels: npt.NDArray[np.integer],
    coordinates: npt.NDArray[np.float64],
    sections: npt.NDArray[np.integer],
    scores: npt.NDArray[np.floating],
) -> Iterator[Ranking]:
    """Rank the cells of a tissue by a score; those with a sender of an interaction within reach were planted.

    Parameters
    ----------
    interactions
        The truth.
    cell_types
        Names of the labels.
    labels, sections
        (cell,).
    coordinates
        In the unit of the interactions' length scales, (cell, axis).
    scores
        Such as each cell's largest attention, (cell,).

    Yields
    ------
    Ranking
        Of all cells, then of the cells of each receiver type.
    """
    named = np.array(cell_types)[labels]
    affected = np.zeros(len(labels), dtype=bool)
    for interaction in interactions:
        affected[affected_receivers(interaction, named, coordinates, sections)] = True
    yield Ranking(RECEIVERS, ALL_CELLS, scores, affected)
    for receiver in dict.fromkeys(interaction.receiver for interaction in interactions):
        cells = named == receiver
        yield Ranking(RECEIVERS_OF_TYPE, receiver, scores[cells], affected[cells])


def rank_genes(
    model: CrosstalkModel, tissue: PreparedTissue, neighbors: Neighbors, interactions: Mapping[str, Interaction]
) -> Iterator[Ranking]:
    """Rank the genes of each interaction by how much masking its senders changes what is predicted for its receivers.

    Parameters
    ----------
    model
        The model.
    tissue, neighbors
        The cells, prepared for the model, and their neighbors.
    interactions
        The truth, by name.

    Yields
    ------
    Ranking
        One per interaction; without any gene where the tissue lacks its senders or its receivers.
    """
    from tissue_crosstalk.core.ablation import ablate_senders

    present = {tissue.cell_types[label] for label in np.unique(tissue.labels)}
    pairs = {
        name: (interaction.sender, interaction.receiver)
        for name, interaction in interactions.items()
        if {interaction.sender, interaction.receiver} <= present
    }
    effects = ablate_senders(model.network, tissue, neighbors, list(pairs.values()))
    effect = dict(zip(pairs, np.abs(effects.diff), strict=True))
    for name, interaction in interactions.items():
        if name in effect:
            yield Ranking(GENES, name, effect[name], np.isin(tissue.genes, interaction.genes))
        else:
            yield Ranking(GENES, name, np.empty(0), np.empty(0, dtype=bool))


def rank_recovery(scores: npt.NDArray[np.floating], planted: npt.NDArray[np.bool_]) -> Recovery:
    """Measure how far up a ranking by scores, the highest first, the planted things come.

    Parameters
    ----------
    scores, planted
        (thing,).
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    n = len(planted)
    base_rate = float(planted.mean()) if n else math.nan
    if not 0 < base_rate < 1:
        return Recovery(math.nan, math.nan, base_rate, n)
    return Recovery(
        average_precision=float(average_precision_score(planted, scores)),
        roc_auc=float(roc_auc_score(planted, scores)),
        base_rate=base_rate,
        n=n,
    )


def precision_recall_curve(
    scores: npt.NDArray[np.floating], planted: npt.NDArray[np.bool_], most_points: int = MOST_POINTS
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return recall, ascending, and the precision down to the score that first reaches it, each (point,).

    Parameters
    ----------
    scores, planted
        (thing,).
    most_points
        Of more points, these many are kept at even steps of recall, the first and the last among them.

    Returns
    -------
    recall, precision
        Steps: a precision holds from the recall before it to its own, and the area below them all is the average
        precision. Empty where that is not defined (see :class:`Recovery`).
    """
    from sklearn.metrics import precision_recall_curve as all_points

    if not planted.any() or planted.all():
        return np.empty(0), np.empty(0)
    precision, recall, _ = all_points(planted, scores)
    precision, recall = precision[::-1], recall[::-1]  # from the highest score down; the first has recall 0
    found = np.flatnonzero(np.diff(recall) > 0) + 1
    if len(found) > most_points:
        wanted = np.linspace(recall[found[0]], 1.0, most_points)
        found = found[np.unique(np.searchsorted(recall[found], wanted))]
    return recall[found], precision[found]


def tabulate(rankings: Iterable[Ranking]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure rankings, one at a time.

    Returns
    -------
    recovery
        One row per ranking: ``what``, ``name``, and the fields of :class:`Recovery` with the lift.
    curves
        Precision-recall curves (see :func:`precision_recall_curve`): ``what``, ``name``, ``recall``, ``precision``.
    """
    rows: list[tuple[object, ...]] = []
    curves: list[pd.DataFrame] = []
    for ranking in rankings:
        measured = rank_recovery(ranking.scores, ranking.planted)
        rows.append((ranking.what, ranking.name, *(getattr(measured, measure) for measure in MEASURES), measured.n))
        recall, precision = precision_recall_curve(ranking.scores, ranking.planted)
        curves.append(pd.DataFrame({WHAT: ranking.what, NAME: ranking.name, RECALL: recall, PRECISION: precision}))
    recovery = pd.DataFrame(rows, columns=[WHAT, NAME, *MEASURES, N])
    return _categories(recovery), _categories(pd.concat(curves, ignore_index=True))


def _categories(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({WHAT: "category", NAME: "category"})
