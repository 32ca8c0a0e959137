"""How much of the variance within a type of receiver the model explains, per head and gene, and is it chance.

====================  ===============  =======================================================
name                  shape            what
====================  ===============  =======================================================
heard                 (cell, head, d)  ``z = sum_j a v``
state                 (cell, embed)    what the linear head reads where one head, or all, is heard
cross                 (cell, cell)     state of one receiver times what another one expresses
====================  ===============  =======================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from tissue_crosstalk.core.attention import PREDICT_CELLS, hear
from tissue_crosstalk.core.interpretation_settings import VarianceSettings
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.spatial_order import shards
from tissue_crosstalk.core.statistics import categorical

if TYPE_CHECKING:
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.tissue import PreparedTissue

ALL_HEADS: Final = -1
"""Number of all heads together, among heads."""

GROUP: Final = 1_024
"""Receivers among which predictions are permuted, at most: all pairs of them are computed and then only looked up."""

_DEFAULT: Final = VarianceSettings()
_LOOKED_UP_AT_ONCE: Final = 2_000_000
_ROUNDING: Final = 1e-6

_Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ExplainedVariance:
    """Share of the variance of each receiver type that is explained.

    Attributes
    ----------
    cell_types, genes
        Names.
    receivers
        Labels of the receiver types, int16 (receiver,).
    heads
        −1 (all heads together), 0, 1, ..., int16 (head,).
    n_receivers
        int64 (receiver,).
    explained
        Of all genes together, float64 (receiver, head); 0 where nothing varies, NaN with fewer than two receivers.
    by_gene
        float64 (receiver, head, gene), likewise.
    p_value
        float64 (receiver, head), one-sided, never 0; NaN with fewer than two receivers.
    best
        Head with the largest value of any gene, int16 (receiver,); −1 where there is none.
    """

    cell_types: tuple[str, ...]
    genes: tuple[str, ...]
    receivers: npt.NDArray[np.int16]
    heads: npt.NDArray[np.int16]
    n_receivers: npt.NDArray[np.int64]
    explained: _Values
    by_gene: _Values
    p_value: _Values

    @property
    def best(self) -> npt.NDArray[np.int16]:
        """Head with the largest value of any gene, (receiver,); −1 with fewer than two receivers."""
        largest = self.by_gene[:, 1:].max(axis=2, initial=-np.inf)
        return np.where(self.n_receivers < 2, ALL_HEADS, largest.argmax(axis=1)).astype(np.int16)

    def table(self) -> pd.DataFrame:
        """Return one row per receiver type and head.

        Returns
        -------
        pandas.DataFrame
            ``receiver``, ``head_idx`` (−1: all heads), ``n_receivers``, ``explained``, ``p_value``, ``best``.
        """
        n_heads, n_types = len(self.heads), len(self.receivers)
        head = np.tile(self.heads, n_types)
        return pd.DataFrame(
            {
                "receiver": categorical(np.repeat(self.receivers, n_heads), self.cell_types),
                "head_idx": head,
                "n_receivers": np.repeat(self.n_receivers, n_heads),
                "explained": self.explained.reshape(-1),
                "p_value": self.p_value.reshape(-1),
                "best": (head == np.repeat(self.best, n_heads)) & (head != ALL_HEADS),
            }
        )

    def table_by_gene(self) -> pd.DataFrame:
        """Return one row per receiver type, head and gene.

        Returns
        -------
        pandas.DataFrame
            ``receiver``, ``head_idx`` (−1: all heads), ``gene``, ``explained``.
        """
        n_types, n_heads, n_genes = self.by_gene.shape
        return pd.DataFrame(
            {
                "receiver": categorical(np.repeat(self.receivers, n_heads * n_genes), self.cell_types),
                "head_idx": np.tile(np.repeat(self.heads, n_genes), n_types),
                "gene": categorical(np.tile(np.arange(n_genes, dtype=np.int32), n_types * n_heads), self.genes),
                "explained": self.by_gene.reshape(-1),
            }
        )


def explain_variance(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    settings: VarianceSettings = _DEFAULT,
    *,
    receivers: Sequence[str] | None = None,
    cells_per_shard: int = PREDICT_CELLS,
) -> ExplainedVariance:
    """Measure how much of the variance within each receiver type each head explains, and all heads together.

    Parameters
    ----------
    network
        The model's network.
    tissue, neighbors
        The cells in spatial order, and their neighbors.
    settings
        Of the permutations.
    receivers
        Types of receivers by name; None: all.
    cells_per_shard
        Receivers computed at once at most. Memory is bounded by a shard, but for what each receiver hears
        (float32, as many numbers as all heads are wide).

    Returns
    -------
    ExplainedVariance
        The same whatever the shards, for a seed also whatever the order of the cells and the types asked for, but for
        rounding.

    Raises
    ------
    ParameterError
        If there is no type of such a name, or `cells_per_shard` is below 1.

    Notes
    -----
    Per gene ``1 - var(P - x) / var(x)``, in all ``1 - sum var(P - x) / sum var(x)`` with P the prediction where the
    patterns of all other heads are 0 (Hong et al., 2025). p is the share of permutations of P over the receivers with
    a mean squared error not above the true one, ``(1 + count) / (1 + permutations)``. The error depends on the
    permutation only through ``sum_i P[perm(i)] . x[i]``, and so on products of states and of what receivers express:
    these are computed for all pairs within random groups of receivers, among which predictions are permuted (the
    groups are drawn once; a permutation test is exact within any).
    """
    labels = tissue.labels_of(receivers, "receivers")
    rows = np.flatnonzero(np.isin(tissue.labels, labels))
    s = network.settings
    heard = np.empty((len(rows), s.n_heads, s.n_head_size), dtype=np.float32)
    shape = len(labels), s.n_heads + 1
    by_gene, explained = np.full((*shape, network.n_genes), np.nan), np.full(shape, np.nan)
    p_value, n_receivers = np.full(shape, np.nan), np.zeros(len(labels), dtype=np.int64)
    with torch.inference_mode():
        key_value_map = network.key_value_map()
        for start, stop in shards(len(rows), cells_per_shard):
            if start < stop:
                of_shard, _ = hear(network, tissue, neighbors, rows[start:stop], key_value_map)
                heard[start:stop] = of_shard.cpu().numpy()
        for number, label in enumerate(labels):
            own = np.flatnonzero(tissue.labels[rows] == label)
            own = own[np.argsort(tissue.positions[rows[own]])]
            n_receivers[number] = len(own)
            if len(own) < 2:
                continue
            generator = np.random.default_rng([settings.random_state, label])
            sums = _Sums(network, label, settings.n_permutations)
            for group in np.array_split(generator.permutation(own), -(-len(own) // GROUP)):
                expression = torch.from_numpy(tissue.expression[rows[group]].toarray()).to(network.device)
                sums.add(torch.from_numpy(heard[group]).to(network.device), expression, generator)
            by_gene[number], explained[number] = sums.explained()
            p_value[number] = sums.p_value()
    heads = np.arange(ALL_HEADS, s.n_heads, dtype=np.int16)
    types = np.array(labels, dtype=np.int16)
    return ExplainedVariance(tissue.cell_types, tissue.genes, types, heads, n_receivers, explained, by_gene, p_value)


class _Sums:
    """Sums over the receivers of one type, group by group, in float64; heads are all together, then one by one."""

    def __init__(self, network: CrossAttentionNetwork, label: int, n_permutations: int) -> None:
        self._network, self._label = network, label
        n_choices, n_genes = network.settings.n_heads + 1, network.n_genes

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=network.device)

        self._n = 0
        self._expressed = zeros(2, n_genes)  # the sum, and that of squares
        self._error = zeros(2, n_choices, n_genes)
        self._true = zeros(n_choices)
        self._permuted = zeros(n_choices, n_permutations)
        self._state_squares, self._target_squares = zeros(n_choices), zeros()

    def add(self, heard: Tensor, expression: Tensor, generator: np.random.Generator) -> None:
        """Take in a group of receivers: what they hear, (cell, head, d), and express, (cell, gene)."""
        network = self._network
        label = torch.full((len(heard),), self._label, dtype=torch.int64, device=heard.device)
        together = network.states(heard, label)[:, None]
        states = torch.cat([together, network.states_by_head(heard, label)], dim=1).transpose(0, 1)
        difference = expression - network.ct_profiles[self._label]
        self._n += len(heard)
        _add_moments(self._expressed, difference)
        for choice, state in enumerate(states):
            _add_moments(self._error[:, choice], network.linear_head(state) - difference)
        # A constant less in either factor changes the sum of every permutation by as much, and leaves more digits.
        target = (expression @ network.linear_head.weight).double()  # (cell, embed)
        target -= target.mean(dim=0)
        self._target_squares += target.square().sum()
        centered = states.double()
        self._state_squares += centered.square().sum(dim=(1, 2))
        centered -= centered.mean(dim=1, keepdim=True)
        self._look_up(torch.bmm(centered.float(), target.float().t().expand(len(centered), -1, -1)), generator)

    def _look_up(self, cross: Tensor, generator: np.random.Generator) -> None:
        """Add what permutations give of a group, (head, cell, cell)."""
        size, (n_choices, n_permutations) = cross.shape[1], self._permuted.shape
        flat, place = cross.reshape(n_choices, -1), torch.arange(size, device=cross.device)
        self._true += flat[:, place * (size + 1)].sum(dim=1, dtype=torch.float64)
        step = max(1, _LOOKED_UP_AT_ONCE // size)
        for start in range(0, n_permutations, step):
            number = min(step, n_permutations - start)
            permutation = generator.permuted(np.tile(np.arange(size), (number, 1)), axis=1)
            looked_up = torch.from_numpy(permutation).to(cross.device) * size + place
            for choice in range(n_choices):
                values = torch.take(flat[choice], looked_up)
                self._permuted[choice, start : start + number] += values.sum(dim=1, dtype=torch.float64)

    def explained(self) -> tuple[_Values, _Values]:
        """Return the share of the variance that is explained, (head, gene), and of all genes together, (head,)."""
        expressed, error = self._variance(self._expressed), self._variance(self._error)
        with np.errstate(invalid="ignore", divide="ignore"):
            by_gene = np.where(expressed > 0, 1 - error / expressed, 0.0)
            together = np.where(expressed.sum() > 0, 1 - error.sum(axis=-1) / expressed.sum(), 0.0)
        return by_gene, together

    def _variance(self, sums: Tensor) -> _Values:
        total, squares = sums.cpu().numpy()
        variance: _Values = np.maximum(squares - total**2 / self._n, 0.0) / (self._n - 1)
        # What is constant has no variance, whatever the rounding of its sums.
        return np.where(variance > 1e-13 * squares / self._n, variance, 0.0)

    def p_value(self) -> _Values:
        """Return the share of permutations that are as good as the true order, or better, (head,)."""
        # A tie (states that are all alike, say) is none by its last digit only.
        mean_square = self._state_squares / (self._n * self._network.settings.n_embed)
        tie = _ROUNDING * torch.sqrt(mean_square * self._target_squares)
        as_good = self._permuted >= (self._true - tie)[:, None]
        count = as_good.sum(dim=1).cpu().numpy()
        p_value: _Values = (1 + count) / (1 + self._permuted.shape[1])
        return p_value


def _add_moments(sums: Tensor, values: Tensor) -> None:
    """Add the sum over rows, and that of squares, to (2, column)."""
    exact = values.double()
    sums[0] += exact.sum(dim=0)
    sums[1] += exact.square_().sum(dim=0)
