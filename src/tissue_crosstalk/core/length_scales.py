"""Over what distance a sender is heard: the attention it would get alone, and the distance at which that fades.

====================  ===============  =====================================================================
name                  shape            what
====================  ===============  =====================================================================
pair                                   a sender and a type of receiver that has it among its neighbors
base score ``b``      (pair, head)     ``q.k / sqrt(d)``
coefficient ``c``     (pair, head)     distance coefficient, at least 0
length scale          (pair, head)     distance at which the sender alone has attention tau, in units of the coordinates
====================  ===============  =====================================================================

Nothing of this depends on where a receiver is: each pair is computed once, whoever hears it and however often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.attention import PREDICT_CELLS, pair_scores
from tissue_crosstalk.core.errors import ParameterError, check_between
from tissue_crosstalk.core.interpretation_settings import DistanceSettings
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.spatial_order import shards
from tissue_crosstalk.core.statistics import categorical
from tissue_crosstalk.core.threads import blas_in_one_thread

if TYPE_CHECKING:
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.tissue import PreparedTissue

_DEFAULT: Final = DistanceSettings()
_DRAWN_AT_ONCE: Final = 2_000_000
_SMALLEST_COEFFICIENT: Final = float(np.finfo(np.float32).tiny)

_Scores = npt.NDArray[np.float32]
_Scales = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """What decides the attention that receivers of one type pay to senders, each alone.

    Attributes
    ----------
    receiver
        Name of the receivers' type.
    senders
        Rows in the tissue of the cells that are among the neighbors of a receiver, int64 (sender,), in the order of
        the user's tissue.
    base_score, coefficient
        b and c, float32 (sender, head).
    dummy_score, unit_scale
        Score of the dummy slot, and the distance that counts as one.
    """

    receiver: str
    senders: npt.NDArray[np.int64]
    base_score: _Scores
    coefficient: _Scores
    dummy_score: float
    unit_scale: float

    def attention(self, distances: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the attention to each sender alone, (sender, head, distance).

        Parameters
        ----------
        distances
            In units of the coordinates, at least 0, (distance,).

        Raises
        ------
        ParameterError
            If a distance is negative or not a number, or `distances` has more than one axis.
        """
        away = np.asarray(distances, dtype=np.float64)
        if away.ndim != 1 or not (away >= 0).all():
            raise ParameterError(f"distances must be a list of numbers of at least 0. Got {distances!r} instead.")
        fading = self.coefficient[..., None].astype(np.float64) * (away / self.unit_scale)
        attention: npt.NDArray[np.float64] = expit(self.base_score[..., None] - fading - self.dummy_score)
        return attention

    def length_scales(self, tau: float = 0.5) -> _Scales:
        """Return the distance at which each sender alone has attention `tau`, (sender, head); 0 where it never has.

        Raises
        ------
        ParameterError
            If `tau` is not between 0 and 1.
        """
        check_between("tau", tau, 0, 1)
        return _length_scales(self.base_score, self.coefficient, tau, self.dummy_score, self.unit_scale)


@dataclass(frozen=True, eq=False)
class LengthScales:
    """Length scales of all pairs, by receiver, then sender type, then the order of the user's tissue.

    Attributes
    ----------
    cell_types
        Names of the types.
    receiver, sender
        Labels of each pair's receivers and sender, int16 (pair,).
    position
        Row of the sender in the user's tissue, int64 (pair,).
    base_score, coefficient
        b and c, float32 (pair, head).
    length_scale
        In units of the coordinates, float64 (pair, head), before the correction.
    supported
        Whether enough receivers have a sender nearer than the median, (receiver label, sender label, head).
    summary
        One row per receiver, sender type and head: ``receiver``, ``sender``, ``head_idx``, ``n_senders``, ``mean``,
        ``mean_low``, ``mean_high``, ``median``, ``median_low``, ``median_high`` (percentile bootstrap over the
        senders), ``share_within`` (of all receivers of the type: those with such a sender among their neighbors,
        nearer than the median), ``supported``. All before the correction, which `supported` tells of.
    """

    cell_types: tuple[str, ...]
    receiver: npt.NDArray[np.int16]
    sender: npt.NDArray[np.int16]
    position: npt.NDArray[np.int64]
    base_score: _Scores
    coefficient: _Scores
    length_scale: _Scales
    supported: npt.NDArray[np.bool_]
    summary: pd.DataFrame

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        return len(self.position)

    def table(self, part: slice | npt.NDArray[np.integer] = slice(None), *, corrected: bool = True) -> pd.DataFrame:
        """Return one row per pair and head.

        Parameters
        ----------
        part
            Pairs wanted, for callers that cannot hold the table of all: a slice, or their numbers.
        corrected
            Whether length scales that are not supported are 0, as published.

        Returns
        -------
        pandas.DataFrame
            ``receiver``, ``sender``, ``head_idx``, ``position``, ``base_score``, ``coefficient``, ``length_scale``.
        """
        receiver, sender = self.receiver[part], self.sender[part]
        n_heads = self.base_score.shape[1]
        scale = self.length_scale[part]
        if corrected:
            scale = np.where(self.supported[receiver, sender], scale, 0.0)
        return pd.DataFrame(
            {
                "receiver": categorical(np.repeat(receiver, n_heads), self.cell_types),
                "sender": categorical(np.repeat(sender, n_heads), self.cell_types),
                "head_idx": np.tile(np.arange(n_heads, dtype=np.int16), len(receiver)),
                terms.POSITION: np.repeat(self.position[part], n_heads),
                "base_score": self.base_score[part].reshape(-1),
                "coefficient": self.coefficient[part].reshape(-1),
                "length_scale": scale.reshape(-1),
            }
        )


def counterfactual(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    receiver: str,
    *,
    cells_per_shard: int = PREDICT_CELLS,
) -> Counterfactual:
    """Return what decides the attention of receivers of one type to each of their neighbors alone.

    Parameters
    ----------
    network
        The model's network.
    tissue, neighbors
        The cells in spatial order, and their neighbors.
    receiver
        Type of the receivers.
    cells_per_shard
        Senders computed at once at most; memory is bounded by a shard.

    Raises
    ------
    ParameterError
        If there is no such type, or `cells_per_shard` is below 1.

    Notes
    -----
    Alone at distance d, a sender has attention ``sigmoid(b - c * d / scale - dummy score)`` (Hong et al., 2025).
    """
    labels = tissue.labels_of([receiver], "receiver")
    pairs = _Pairs.of(network, tissue, neighbors, labels, cells_per_shard)
    settings, order = network.settings, np.argsort(tissue.positions[pairs.cell])
    return Counterfactual(
        receiver,
        pairs.cell[order],
        pairs.base_score[order],
        pairs.coefficient[order],
        settings.attention_dummy_score,
        settings.distance_kernel_unit_scale,
    )


def length_scales(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    settings: DistanceSettings = _DEFAULT,
    *,
    receivers: Sequence[str] | None = None,
    cells_per_shard: int = PREDICT_CELLS,
) -> LengthScales:
    """Measure over what distance each sender is heard, per type of receiver and head.

    Parameters
    ----------
    network
        The model's network.
    tissue, neighbors
        The cells in spatial order, and their neighbors.
    settings
        Threshold, correction and intervals.
    receivers
        Types of receivers by name; None: all.
    cells_per_shard
        Cells computed at once at most. Memory is bounded by a shard, but for what is returned.

    Returns
    -------
    LengthScales
        The same for a seed whatever the order of the cells, the shards and the receivers asked for, but for rounding.

    Raises
    ------
    ParameterError
        If there is no type of such a name, or `cells_per_shard` is below 1.

    Notes
    -----
    ``max(0, scale / c * (ln((1 - tau) / tau) + b - dummy score))``. Where fewer than `sample_threshold` of the
    receivers have a sender of the type, among their neighbors, strictly nearer than the median length scale of a head
    and sender type, these become 0 (Hong et al., 2025). A coefficient that rounds to 0 counts as the smallest normal
    float32.
    """
    labels = tissue.labels_of(receivers, "receivers")
    pairs = _Pairs.of(network, tissue, neighbors, labels, cells_per_shard)
    constants = network.settings.attention_dummy_score, network.settings.distance_kernel_unit_scale
    scale = _length_scales(pairs.base_score, pairs.coefficient, settings.tau, *constants)
    n_types, n_heads = len(tissue.cell_types), network.settings.n_heads
    group = pairs.receiver.astype(np.int64) * n_types + pairs.sender
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    summarised = []
    median = np.zeros((n_types, n_types, n_heads))
    with blas_in_one_thread():
        for start, stop in zip(starts, np.append(starts, len(group))[1:], strict=True):
            receiver, sender = int(pairs.receiver[start]), int(pairs.sender[start])
            generator = np.random.default_rng([settings.random_state, receiver, sender])
            own = scale[start:stop]
            median[receiver, sender] = np.median(own, axis=0)
            intervals = bootstrap_intervals(own, settings.n_resamples, settings.confidence, generator)
            summarised.append((receiver, sender, stop - start, own.mean(axis=0), *intervals))
    within = _shares_within(tissue, neighbors, labels, median, cells_per_shard)
    supported = within >= settings.sample_threshold
    return LengthScales(
        tissue.cell_types,
        pairs.receiver,
        pairs.sender,
        tissue.positions[pairs.cell],
        pairs.base_score,
        pairs.coefficient,
        scale,
        supported,
        _summary(tissue.cell_types, n_heads, summarised, median, within, supported),
    )


_Summarised = tuple[int, int, int, _Scales, _Scales, _Scales, _Scales, _Scales]


def _summary(
    cell_types: Sequence[str],
    n_heads: int,
    summarised: Sequence[_Summarised],
    median: _Scales,
    within: _Scales,
    supported: npt.NDArray[np.bool_],
) -> pd.DataFrame:
    """Return the table from (receiver, sender, senders, mean and the limits of mean and median), each (head,)."""
    pair = np.array([row[:2] for row in summarised], dtype=np.int16).reshape(-1, 2)
    n_senders = np.array([row[2] for row in summarised], dtype=np.int64)
    values = np.array([row[3:] for row in summarised], dtype=np.float64).reshape(-1, 5, n_heads)
    mean, mean_low, mean_high, median_low, median_high = values.transpose(1, 0, 2).reshape(5, -1)
    of_pairs = pair[:, 0], pair[:, 1]
    return pd.DataFrame(
        {
            "receiver": categorical(np.repeat(pair[:, 0], n_heads), cell_types),
            "sender": categorical(np.repeat(pair[:, 1], n_heads), cell_types),
            "head_idx": np.tile(np.arange(n_heads, dtype=np.int16), len(pair)),
            "n_senders": np.repeat(n_senders, n_heads),
            "mean": mean,
            "mean_low": mean_low,
            "mean_high": mean_high,
            "median": median[of_pairs].reshape(-1),
            "median_low": median_low,
            "median_high": median_high,
            "share_within": within[of_pairs].reshape(-1),
            "supported": supported[of_pairs].reshape(-1),
        }
    )


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs by receiver, then sender type, then the order of the user's tissue; labels, rows and (pair, head)."""

    receiver: npt.NDArray[np.int16]
    sender: npt.NDArray[np.int16]
    cell: npt.NDArray[np.int64]
    base_score: _Scores
    coefficient: _Scores

    @classmethod
    def of(
        cls,
        network: CrossAttentionNetwork,
        tissue: PreparedTissue,
        neighbors: Neighbors,
        labels: Sequence[int],
        cells_per_shard: int,
    ) -> _Pairs:
        """Compute the pairs of receivers with these labels."""
        occurs = np.zeros((tissue.n_cells, len(tissue.cell_types)), dtype=np.bool_)
        rows = np.flatnonzero(np.isin(tissue.labels, labels))
        for start, stop in shards(len(rows), cells_per_shard):
            nn_idx = neighbors.idx[rows[start:stop]]
            receiver = np.broadcast_to(tissue.labels[rows[start:stop], None], nn_idx.shape)
            present = nn_idx >= 0
            occurs[nn_idx[present], receiver[present]] = True
        scores = pair_scores(network, tissue.expression, occurs, cells_per_shard=cells_per_shard)
        cell, label = np.nonzero(occurs)
        order = np.lexsort((tissue.positions[cell], tissue.labels[cell], label))
        cell, scores = cell[order], scores[order]
        n_heads = network.settings.n_heads
        return cls(label[order].astype(np.int16), tissue.labels[cell], cell, scores[:, :n_heads], scores[:, n_heads:])


def _length_scales(base: _Scores, coefficient: _Scores, tau: float, dummy_score: float, unit_scale: float) -> _Scales:
    above = np.log((1 - tau) / tau) + base.astype(np.float64) - dummy_score
    fading = np.maximum(coefficient.astype(np.float64), _SMALLEST_COEFFICIENT)
    scales: _Scales = np.maximum(0.0, unit_scale / fading * above)
    return scales


def _shares_within(
    tissue: PreparedTissue, neighbors: Neighbors, labels: Sequence[int], median: _Scales, cells_per_shard: int
) -> _Scales:
    """Return the share of receivers with a sender nearer than the median, (receiver label, sender label, head)."""
    n_types = len(tissue.cell_types)
    within = np.zeros(median.shape)
    for label in labels:
        rows = np.flatnonzero(tissue.labels == label)
        for start, stop in shards(len(rows), cells_per_shard):
            nn_idx, nn_dist = neighbors.idx[rows[start:stop]], neighbors.dist[rows[start:stop]]
            sender = np.where(nn_idx < 0, np.int16(terms.NO_NEIGHBOR), tissue.labels[nn_idx])
            for other in range(n_types):
                # Distances less radii need not ascend.
                nearest = nn_dist.min(axis=1, where=sender == other, initial=np.inf).astype(np.float64)
                within[label, other] += (nearest[:, None] < median[label, other]).sum(axis=0)
        within[label] /= max(len(rows), 1)
    return within


def bootstrap_intervals(
    values: _Scales, n_resamples: int, confidence: float, generator: np.random.Generator
) -> tuple[_Scales, _Scales, _Scales, _Scales]:
    """Return percentile intervals of the mean and the median over rows, each (column,).

    Parameters
    ----------
    values
        Finite, (row, column); rows are resampled, and all columns with them.
    n_resamples
        Number of resamples.
    confidence
        Share of the resamples inside of an interval.
    generator
        Draws the resamples.

    Returns
    -------
    tuple
        Lower and upper limit of the mean, then of the median.

    Notes
    -----
    A resample of n values is ``ordered[floor(n * u)]`` of n uniform numbers, and order statistics of these follow beta
    distributions: so the median of a resample is drawn as what it is, without the resample.
    """
    n = len(values)
    limits = [(1 - confidence) / 2, (1 + confidence) / 2]
    means = np.empty((n_resamples, values.shape[1]))
    step = max(1, _DRAWN_AT_ONCE // n)
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        drawn = generator.integers(n, size=(size, n))
        drawn += np.arange(size)[:, None] * n
        counts = np.bincount(drawn.reshape(-1), minlength=size * n).reshape(size, n)
        means[start : start + size] = counts.astype(np.float64) @ values / n
    ordered, half = np.sort(values, axis=0), n // 2
    if n % 2:
        upper = lower = generator.beta(half + 1, half + 1, n_resamples)
    else:
        upper = generator.beta(half + 1, half, n_resamples)
        lower = upper * generator.random(n_resamples) ** (1 / half)  # the largest of `half` numbers below the upper
    places = [np.minimum((n * u).astype(np.int64), n - 1) for u in (lower, upper)]
    medians = (ordered[places[0]] + ordered[places[1]]) / 2
    mean_low, mean_high = np.quantile(means, limits, axis=0)
    median_low, median_high = np.quantile(medians, limits, axis=0)
    return mean_low, mean_high, median_low, median_high
