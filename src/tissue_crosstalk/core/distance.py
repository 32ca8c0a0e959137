"""Attention against distance, aggregated first and streamed: no table of edges exists at any time.

An edge is a (cell, neighbor) pair of real cells. :class:`DistanceBins` takes patterns chunk by chunk and keeps, per
(head, receiver type, sender type, distance bin), what a mean, a standard deviation and a maximum need. Its size
depends on the numbers of types, heads and bins, never on the number of cells.

Shapes inside the accumulator, with S the number of (receiver, sender, bin) triples:

====================  =============  ==================================================================
name                  shape          what
====================  =============  ==================================================================
``_count``            (S,)           edges, the same for every head
``_mean``             (head, S)      mean attention
``_spread``           (head, S)      sum of squared deviations from that mean
``_largest``          (S,)           largest single attention of any head, ``-inf`` where there is no edge
====================  =============  ==================================================================

Which triple an edge is of does not depend on head or flavor: :meth:`DistanceBins.group` sorts the edges of a chunk
once, and :meth:`DistanceBins.moments` sums up whatever attention there is on them. Both leave the bins as they are, so
that chunks can be worked on at the same time; :meth:`DistanceBins.absorb` takes them in, in an order of the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError, ResultError, is_number, listing

RECEIVER: Final = terms.RECEIVER
SENDER: Final = terms.SENDER
DISTANCE_BIN: Final = "distance_bin"
MEAN: Final = "mean"
SD: Final = "sd"
COUNT: Final = "count"
TABLE_COLUMNS: Final = (RECEIVER, terms.HEAD_IDX, SENDER, DISTANCE_BIN, MEAN, SD, COUNT)
HISTOGRAM_COLUMNS: Final = (RECEIVER, DISTANCE_BIN, COUNT)

# Three float64 per entry, and as much for each flavor: about 5 GB for four. Nobody can look at that many bins; a
# bin_size this small is a slip.
_MOST_ENTRIES: Final = 50_000_000


@dataclass(frozen=True, eq=False)
class EdgeGroups:
    """The edges of a chunk of cells, sorted by (receiver, sender, bin).

    Attributes
    ----------
    shape
        (cell, neighbor) of the chunk.
    layout
        Whether slots are counted by cell (``C``) or by neighbor (``F``): as the attention lies in memory.
    slots
        Number of the slot of each edge, (edge,); padded slots are left out.
    starts
        Where the edges of each group start, (group,).
    count
        Edges of each group, (group,).
    triples
        Which triple each group is, ascending, (group,).
    """

    shape: tuple[int, int]
    layout: Literal["C", "F"]
    slots: NDArray[np.intp]
    starts: NDArray[np.intp]
    count: NDArray[np.int64]
    triples: NDArray[np.intp]

    def sorted(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values (cell, neighbor) of the edges, (edge,)."""
        found: NDArray[Any] = values.ravel(order=self.layout).take(self.slots, mode="clip")  # all are within: quicker
        return found


@dataclass(frozen=True, eq=False)
class Moments:
    """What the attention on some edges comes to.

    Attributes
    ----------
    triples
        Which (receiver, sender, bin) there are, ascending, (group,).
    count
        Edges, (group,).
    mean, spread
        Mean, and sum of squared deviations from it, (head, group).
    largest
        Largest attention of any head, (group,).
    """

    triples: NDArray[np.intp]
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    largest: NDArray[np.float64]


def memory_layout(attention: NDArray[Any]) -> Literal["C", "F"]:
    """Return the layout of :class:`EdgeGroups` in which attention (head, cell, neighbor) is read without a detour."""
    return "F" if attention.strides[1] < attention.strides[2] else "C"


class DistanceBins:
    """Mean and spread of attention per (receiver type, head, sender type, distance bin), one chunk of cells at a time.

    An edge falls into bin ``floor(distance / bin_size)`` where ``0 <= distance < max_distance``; others count only in
    what is over all edges (:meth:`by_pair`, :meth:`elsewhere`).

    Parameters
    ----------
    cell_types
        Names in the order of the labels (label 0 is ``cell_types[0]``).
    n_heads
        Number of heads of the patterns.
    max_distance
        Edges this long or longer are left out, in units of the coordinates.
    bin_size
        Width of a bin, in units of the coordinates.

    Raises
    ------
    ParameterError
        If `cell_types` is empty or holds a name twice, if `n_heads` is below 1, if `max_distance` or `bin_size` is
        not a positive finite number, or if `bin_size` is so small that the bins would not fit into memory.

    Examples
    --------
    >>> import numpy as np
    >>> bins = DistanceBins(["B", "T"], n_heads=1, max_distance=10.0, bin_size=5.0)
    >>> patterns = np.array([[[0.2, 0.4], [0.3, 0.0]]], dtype=np.float32)  # (head, cell, neighbor)
    >>> distance = np.array([[1.0, 2.0], [6.0, np.inf]])  # (cell, neighbor)
    >>> bins.add(patterns, distance, np.array([0, 1]), np.array([[1, 1], [0, -1]]))
    >>> bins.table(min_bin_count=1).round(3).to_dict("records")[0]
    {'receiver': 'B', 'head_idx': 0, 'sender': 'T', 'distance_bin': 0.0, 'mean': 0.3, 'sd': 0.141, 'count': 2}
    """

    def __init__(
        self, cell_types: Sequence[str], n_heads: int, max_distance: float = 100.0, bin_size: float = 5.0
    ) -> None:
        names = tuple(str(name) for name in cell_types)
        if not names:
            raise ParameterError("`cell_types` must name at least one cell type. Got none.")
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ParameterError(f"`cell_types` must name each cell type once. Got more than once: {listing(twice)}.")
        if n_heads < 1:
            raise ParameterError(f"`n_heads` must be at least 1. Got {n_heads!r} instead.")
        _check_positive("max_distance", max_distance)
        _check_positive("bin_size", bin_size)
        # Division is monotone, so the longest distance that can be kept gives the last bin, rounding included.
        n_bins = math.floor(math.nextafter(max_distance, 0.0) / bin_size) + 1
        entries = n_heads * len(names) ** 2 * n_bins
        if entries > _MOST_ENTRIES:
            raise ParameterError(
                f"`bin_size` must leave a number of bins that fits into memory. Got {bin_size!r} with max_distance "
                f"{max_distance!r}: {n_bins} bins for {len(names)} cell types and {n_heads} heads. "
                "Choose a larger bin_size or a smaller max_distance."
            )
        self.cell_types = names
        self.n_heads = int(n_heads)
        self.max_distance = float(max_distance)
        self.bin_size = float(bin_size)
        # The last bin holds the edges that are in none, so that sums over bins are those of all edges.
        self._shape = (len(names), len(names), n_bins + 1)  # (receiver, sender, bin)
        size = math.prod(self._shape)
        self._count = np.zeros(size, dtype=np.int64)
        self._mean = np.zeros((self.n_heads, size))
        self._spread = np.zeros((self.n_heads, size))
        self._largest = np.full(size, -np.inf)

    @property
    def n_bins(self) -> int:
        """Number of distance bins below `max_distance`."""
        return self._shape[2] - 1

    @property
    def n_edges(self) -> int:
        """Number of edges in bins so far, each counted once, not once per head."""
        return int(self._count.reshape(self._shape)[:, :, :-1].sum())

    def add(self, patterns: ArrayLike, distance: ArrayLike, receiver_label: ArrayLike, sender_label: ArrayLike) -> None:
        """Take in the edges of a chunk of cells.

        Parameters
        ----------
        patterns
            Attention, of shape (head, cell, neighbor), of any flavor.
        distance
            Distance to each neighbor, of shape (cell, neighbor), in units of the coordinates; ``inf`` in padded slots.
        receiver_label
            Label of each cell, of shape (cell,).
        sender_label
            Label of each neighbor, of shape (cell, neighbor); -1 in padded slots, which are left out.

        Raises
        ------
        ParameterError
            If the shapes do not fit together, or a label is outside of ``cell_types``.
        ResultError
            If an edge has a distance that is not a number, or an attention that is not finite.
        """
        weight = np.asarray(patterns)
        self._check_patterns(weight, np.shape(distance))
        groups = self.group(distance, receiver_label, sender_label, layout=memory_layout(weight))
        self.absorb(self.moments(weight, groups))

    def group(
        self,
        distance: ArrayLike,
        receiver_label: ArrayLike,
        sender_label: ArrayLike,
        *,
        layout: Literal["C", "F"] = "C",
    ) -> EdgeGroups:
        """Sort the edges of a chunk of cells by (receiver, sender, bin), for the attention of all heads and flavors.

        Parameters
        ----------
        distance, receiver_label, sender_label
            As of :meth:`add`, also for the errors.
        layout
            See :class:`EdgeGroups`; :func:`memory_layout` returns that of attention.
        """
        length = np.asarray(distance, dtype=np.float64)  # or float32 would round the limits as well
        receiver = np.asarray(receiver_label)
        sender = np.asarray(sender_label)
        self._check_chunk(length, receiver, sender)
        n_cells, n_neighbors = length.shape
        slot_sender = sender.ravel(order=layout)
        edge_length = length.ravel(order=layout)
        is_near = (edge_length >= 0) & (edge_length < self.max_distance)
        slot_bin = np.full(edge_length.size, self.n_bins, dtype=np.int64)
        slot_bin[is_near] = np.floor(edge_length[is_near] / self.bin_size)
        of_cells = receiver.astype(np.int64)
        slot_receiver = np.repeat(of_cells, n_neighbors) if layout == "C" else np.tile(of_cells, n_neighbors)
        _, n_types, n_bins = self._shape
        triple = (slot_receiver * n_types + slot_sender) * n_bins + slot_bin

        kept = np.flatnonzero(slot_sender >= 0)
        is_full = kept.size == triple.size
        triple = triple if is_full else triple[kept]
        all_counts = np.bincount(triple, minlength=self._count.size)
        touched = np.flatnonzero(all_counts)  # only these entries change: few, where types and bins are many
        order = _stable_order(triple, self._count.size)
        count = all_counts[touched]
        return EdgeGroups(
            shape=(n_cells, n_neighbors),
            layout=layout,
            slots=order if is_full else kept[order],
            starts=np.cumsum(count) - count,
            count=count,
            triples=touched,
        )

    def moments(
        self, patterns: ArrayLike, groups: EdgeGroups, strongest: NDArray[np.floating] | None = None
    ) -> Moments:
        """Return what the attention on grouped edges comes to.

        Parameters
        ----------
        patterns
            Attention, of shape (head, cell, neighbor), of any flavor.
        groups
            Its edges.
        strongest
            The maximum over heads, of shape (cell, neighbor), where it is known.

        Raises
        ------
        ParameterError
            If the shapes do not fit together.
        ResultError
            If an attention is not finite.
        """
        weight = np.asarray(patterns)
        self._check_patterns(weight, groups.shape)
        mean = np.zeros((self.n_heads, groups.count.size))
        spread = np.zeros_like(mean)
        if groups.slots.size == 0:
            return Moments(groups.triples, groups.count, mean, spread, np.zeros(0))
        for head in range(self.n_heads):
            value = groups.sorted(weight[head]).astype(np.float64)
            mean[head] = np.add.reduceat(value, groups.starts) / groups.count
            if not np.isfinite(mean[head]).all():
                raise ResultError(
                    "`patterns` must be finite on every edge. Got nan or inf; compute the attention again."
                )
            # Two passes: deviations from the chunk's own mean lose no digits where sd << mean.
            value -= np.repeat(mean[head], groups.count)
            value *= value
            spread[head] = np.add.reduceat(value, groups.starts)
        of_any_head = groups.sorted(weight.max(axis=0) if strongest is None else strongest)
        largest = np.maximum.reduceat(of_any_head, groups.starts).astype(np.float64)
        return Moments(groups.triples, groups.count, mean, spread, largest)

    def absorb(self, moments: Moments) -> None:
        """Take in some moments, by the formula of Chan, Golub and LeVeque."""
        touched, count = moments.triples, moments.count
        before = self._count[touched]
        total = before + count
        shift = moments.mean - self._mean[:, touched]
        self._mean[:, touched] += shift * (count / total)
        self._spread[:, touched] += moments.spread + shift * shift * (before * (count / total))
        self._largest[touched] = np.maximum(self._largest[touched], moments.largest)
        self._count[touched] = total

    def merge(self, other: DistanceBins) -> None:
        """Take in what another accumulator has seen; `other` stays as it is.

        Parameters
        ----------
        other
            Bins of other cells, such as another worker's, with the same cell types, heads and bins.

        Raises
        ------
        ParameterError
            If the two differ in cell types, number of heads, `max_distance` or `bin_size`.
        """
        for name in ("cell_types", "n_heads", "max_distance", "bin_size"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ParameterError(f"`other` must have the same {name}. Expected {mine!r}, got {theirs!r} instead.")
        touched = np.flatnonzero(other._count)
        self.absorb(
            Moments(
                touched,
                other._count[touched],
                other._mean[:, touched],
                other._spread[:, touched],
                other._largest[touched],
            )
        )

    def table(self, min_bin_count: int = 50) -> pd.DataFrame:
        """Return the bins that hold enough edges.

        Parameters
        ----------
        min_bin_count
            A (receiver, sender, bin) with fewer edges than this, counted over all heads, is dropped.

        Returns
        -------
        pandas.DataFrame
            One row per (receiver, head, sender, bin), sorted in that order (types in the order of ``cell_types``):
            `receiver`, `head_idx`, `sender`, `distance_bin` (the left edge, in units of the coordinates), `mean`,
            `sd` (ddof 1; nan for a single edge) and `count` (edges of that head).

        Raises
        ------
        ParameterError
            If `min_bin_count` is negative.
        """
        kept = self._kept(min_bin_count)
        n_receivers, n_types, n_bins = self._shape
        full = (n_receivers, self.n_heads, n_types, n_bins)
        receiver, head, sender, position = np.nonzero(
            np.broadcast_to(kept.reshape(n_receivers, 1, n_types, n_bins), full)
        )
        triple = (receiver * n_types + sender) * n_bins + position
        count = self._count[triple]
        with np.errstate(invalid="ignore", divide="ignore"):
            sd = np.sqrt(self._spread[head, triple] / (count - 1))
        names = np.array(self.cell_types, dtype=object)
        return pd.DataFrame(
            {
                RECEIVER: names[receiver],
                terms.HEAD_IDX: head,
                SENDER: names[sender],
                DISTANCE_BIN: position * self.bin_size,
                MEAN: self._mean[head, triple],
                SD: sd,
                COUNT: count,
            },
            columns=list(TABLE_COLUMNS),
        )

    def largest_attention(self, min_bin_count: int = 50) -> float:
        """Return the largest single attention of the bins that :meth:`table` keeps, over all heads and receivers.

        Parameters
        ----------
        min_bin_count
            As in :meth:`table`.

        Returns
        -------
        float
            0.0 where no bin is kept.

        Raises
        ------
        ParameterError
            If `min_bin_count` is negative.
        """
        kept = self._kept(min_bin_count)
        return float(self._largest[kept].max()) if kept.any() else 0.0

    def distance_histogram(self) -> pd.DataFrame:
        """Return how many edges each receiver type has per distance bin.

        Each edge counts once, not once per head. Bins too small for :meth:`table` are in it, and so are empty ones.

        Returns
        -------
        pandas.DataFrame
            One row per (receiver, bin): `receiver`, `distance_bin` (left edge, in units of the coordinates), `count`.

        Examples
        --------
        Edges of a "B" cell to "T" cells at 1, 2 and 6, in bins of 5:

        >>> import numpy as np
        >>> bins = DistanceBins(["B", "T"], n_heads=1, max_distance=10.0, bin_size=5.0)
        >>> bins.add(np.full((1, 1, 3), 0.2), np.array([[1.0, 2.0, 6.0]]), np.array([0]), np.array([[1, 1, 1]]))
        >>> bins.distance_histogram()["count"].tolist()  # of "B" in two bins, and of "T"
        [2, 1, 0, 0]
        """
        per_receiver = self._count.reshape(self._shape)[:, :, :-1].sum(axis=1)  # (receiver, bin)
        n_receivers, n_bins = per_receiver.shape
        return pd.DataFrame(
            {
                RECEIVER: np.repeat(np.array(self.cell_types, dtype=object), n_bins),
                DISTANCE_BIN: np.tile(np.arange(n_bins) * self.bin_size, n_receivers),
                COUNT: per_receiver.reshape(-1),
            },
            columns=list(HISTOGRAM_COLUMNS),
        )

    def elsewhere(self) -> dict[str, int]:
        """Return how many edges of each receiver type are in no bin: those of `max_distance` or longer."""
        in_none = self._count.reshape(self._shape)[:, :, -1].sum(axis=1)  # (receiver,)
        return dict(zip(self.cell_types, in_none.tolist(), strict=True))

    def by_pair(self) -> pd.DataFrame:
        """Return the attention of each pair of types over all its edges, of whatever length.

        Returns
        -------
        pandas.DataFrame
            One row per (receiver, head, sender) with an edge, sorted in that order: `receiver`, `head_idx`, `sender`,
            `mean`, `sd` (ddof 1; nan for a single edge) and `count` (edges).
        """
        n_receivers, n_types, n_bins = self._shape
        full = (self.n_heads, n_receivers, n_types, n_bins)
        weight = self._count.reshape(self._shape).astype(np.float64)
        count = weight.sum(axis=2)  # (receiver, sender)
        binned = self._mean.reshape(full)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (binned * weight).sum(axis=3) / count  # (head, receiver, sender)
            apart = (binned - mean[..., None]) ** 2
            sd = np.sqrt((self._spread.reshape(full) + apart * weight).sum(axis=3) / (count - 1))
        receiver, head, sender = np.nonzero(np.broadcast_to((count > 0)[:, None], (n_receivers, self.n_heads, n_types)))
        names = np.array(self.cell_types, dtype=object)
        return pd.DataFrame(
            {
                RECEIVER: names[receiver],
                terms.HEAD_IDX: head,
                SENDER: names[sender],
                MEAN: mean[head, receiver, sender],
                SD: sd[head, receiver, sender],
                COUNT: count[receiver, sender].astype(np.int64),
            }
        )

    def _kept(self, min_bin_count: int) -> NDArray[np.bool_]:
        """Return which (receiver, sender, bin) triples are kept."""
        if min_bin_count < 0:
            raise ParameterError(f"`min_bin_count` must be at least 0. Got {min_bin_count!r} instead.")
        kept: NDArray[np.bool_] = (self._count > 0) & (self._count * self.n_heads >= min_bin_count)
        kept.reshape(self._shape)[:, :, -1] = False
        return kept

    def _check_patterns(self, weight: NDArray[Any], shape: tuple[int, ...]) -> None:
        """Raise unless attention has all heads on edges of a shape (cell, neighbor)."""
        wanted = (self.n_heads, *shape)
        if len(shape) == 2 and weight.shape != wanted:
            raise ParameterError(
                f"`patterns` must have the shape (head, cell, neighbor): expected {wanted}, got {weight.shape} instead."
            )

    def _check_chunk(self, length: NDArray[Any], receiver: NDArray[Any], sender: NDArray[Any]) -> None:
        """Raise unless the arrays of a chunk fit together."""
        if length.ndim != 2:
            raise ParameterError(f"`distance` must have the shape (cell, neighbor). Got {length.shape} instead.")
        n_cells, n_neighbors = length.shape
        expected = {
            "receiver_label": (receiver.shape, (n_cells,), "(cell,)"),
            "sender_label": (sender.shape, (n_cells, n_neighbors), "(cell, neighbor)"),
        }
        for name, (shape, wanted, axes) in expected.items():
            if shape != wanted:
                raise ParameterError(f"`{name}` must have the shape {axes}: expected {wanted}, got {shape} instead.")
        for name, labels, lowest in (("receiver_label", receiver, 0), ("sender_label", sender, terms.NO_NEIGHBOR)):
            if not np.issubdtype(labels.dtype, np.integer):
                raise ParameterError(f"`{name}` must hold integers. Got {labels.dtype} instead.")
            if labels.size and (labels.min() < lowest or labels.max() >= len(self.cell_types)):
                raise ParameterError(
                    f"`{name}` must lie between {lowest} and {len(self.cell_types) - 1} for {len(self.cell_types)} "
                    f"cell types. Got values from {labels.min()} to {labels.max()}."
                )
        if (np.isnan(length) & (sender >= 0)).any():
            raise ResultError("`distance` must be a number on every edge. Got nan; compute the neighbors again.")


def _stable_order(keys: NDArray[np.int64], n_keys: int) -> NDArray[np.intp]:
    """Return the order that sorts keys of at least 0 and below `n_keys`, the first of equal ones first.

    Numbers of 16 bits are sorted by counting, in a fraction of the time; larger keys digit by digit.
    """
    order = np.argsort((keys & 0xFFFF).astype(np.uint16), kind="stable")
    shift = 16
    while n_keys > 1 << shift:
        digit = ((keys >> shift) & 0xFFFF).astype(np.uint16)
        order = order[np.argsort(digit[order], kind="stable")]
        shift += 16
    return order


def _check_positive(name: str, value: float) -> None:
    """Raise unless a parameter is a positive finite number."""
    if not (is_number(value) and value > 0):
        raise ParameterError(f"`{name}` must be a positive number. Got {value!r} instead.")
