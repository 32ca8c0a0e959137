"""What the model predicts for receivers when it hears nothing of some of the senders.

A receiver hears ``z = sum_j a v``, a sum over its neighbors. Setting the patterns of some senders to 0 after the
softmax takes their part from the sum and leaves the rest as it was. So patterns and values are computed once, the sum
is split by group of senders (their cell types, or lists of cells), and all groups and all heads come from those parts;
only what comes after the sum is computed per group and head. Receivers that hear nobody of a group do not change.

====================  ==========================  =========================================================
name                  shape                       what
====================  ==========================  =========================================================
parts                 (cell, group, head, d)      z, split by the sender's group; the last group is the rest
state                 (cell, embed)               ``LayerNorm(sum_h W_O z + query)``, which the linear head reads
effect                (gene, group, cell)         prediction less the prediction without the group
====================  ==========================  =========================================================

Without a group, the state is that of a sum which lacks ``W_O z_group``, of rank d per head. Its layer norm is a scale,
and so the effect on a gene is that of the scale on the whole sum, and a product with ``z_group``
(:meth:`HeadReader.effects`): the sums without the groups are never made. Nothing of the size of cells, neighbors and
genes is ever made, and of cells, groups and genes only for some cells at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.attention import PREDICT_CELLS, attend_to_neighbors
from tissue_crosstalk.core.errors import ParameterError, did_you_mean, listing
from tissue_crosstalk.core.network import LAYER_NORM_EPS, CrossAttentionNetwork, KeyValueMap
from tissue_crosstalk.core.spatial_order import shards
from tissue_crosstalk.core.statistics import SMALLEST_P, categorical, false_discovery_rate

if TYPE_CHECKING:
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.tissue import PreparedTissue

ALL_HEADS: Final = -1
"""Number that stands for all heads together, where heads are numbered."""

CELLS_AT_ONCE: Final = 256
"""Receivers whose effects on all genes are computed at once: few, so that they stay in the cache."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SenderGroups:
    """Groups of senders that are masked together.

    Attributes
    ----------
    names
        Of the groups.
    codes
        Group of each cell of the tissue, int (cell,); −1 of cells that are in none.
    """

    names: tuple[str, ...]
    codes: npt.NDArray[np.integer]

    @classmethod
    def of_types(cls, tissue: PreparedTissue) -> SenderGroups:
        """Return a group for each cell type."""
        return cls(tissue.cell_types, tissue.labels)

    @classmethod
    def of_cells(cls, n_cells: int, rows: npt.NDArray[np.integer], name: str = "cells") -> SenderGroups:
        """Return one group of the cells in the given rows of a tissue of `n_cells` cells.

        Raises
        ------
        ParameterError
            If a row is not one of the tissue's.
        """
        outside = (rows < 0) | (rows >= n_cells)
        if outside.any():
            raise ParameterError(
                f"cells to ablate must be rows from 0 to {n_cells - 1}. Got {listing(rows[outside].tolist())} instead."
            )
        codes = np.full(n_cells, -1, dtype=np.int16)
        codes[rows] = 0
        return cls((name,), codes)


@dataclass(frozen=True, eq=False)
class SenderEffects:
    """Effect of sender types on what is predicted for receiver types, by all heads together.

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
    diff: Floats


@dataclass(frozen=True, eq=False)
class Ablation:
    """Effects of every group of senders through every head on every gene of every receiver type.

    Attributes
    ----------
    receivers, groups, genes
        Names along the axes.
    heads
        Number of each head; :data:`ALL_HEADS` for all together.
    n_receivers
        Cells of each receiver type, int64 (receiver,).
    n_hearing
        Of these, cells with a neighbor of the group, int64 (receiver, group).
    ablation
        Mean over the receivers of ``(P_s - x)^2 - (P - x)^2``, of the prediction P, that without the group P_s, and the
        expression x, float64 (head, receiver, group, gene); positive where the senders help to predict the gene.
    diff
        Mean of ``P - P_s``, alike; positive where the senders raise the gene.
    z_value
        ``r sqrt(n - 2) / sqrt(1 - r^2)``, r the correlation of ``|P - P_s|`` with x over the n receivers, alike; 0
        where there is none.

    Notes
    -----
    Hong et al. (2025). All are NaN of types without cells. `z_value` compares the predicted change with the expression
    that the model was trained to predict, so it is no test that holds: see :mod:`~tissue_crosstalk.core.effects`.
    """

    receivers: tuple[str, ...]
    groups: tuple[str, ...]
    genes: tuple[str, ...]
    heads: tuple[int, ...]
    n_receivers: npt.NDArray[np.int64]
    n_hearing: npt.NDArray[np.int64]
    ablation: Floats
    diff: Floats
    z_value: Floats

    def p_values(self) -> Floats:
        """Return ``1 - Phi(z)``, never 0, (head, receiver, group, gene)."""
        from scipy.stats import norm

        return np.asarray(np.maximum(norm.sf(self.z_value), SMALLEST_P))

    def q_values(self) -> Floats:
        """Return Benjamini-Hochberg's over the genes of a head, receiver and group, (head, receiver, group, gene)."""
        p_values = self.p_values()
        rows = p_values.reshape(-1, len(self.genes))
        return np.stack([false_discovery_rate(row) for row in rows]).reshape(p_values.shape) if len(rows) else p_values

    def table(self) -> pd.DataFrame:
        """Return a row per receiver type, group that it hears, head and gene.

        Returns
        -------
        pandas.DataFrame
            ``receiver``, ``sender``, ``head_idx`` (−1: all together), ``gene``, ``ablation``, ``diff``, ``z_value``,
            ``p_value``, ``q_value``.
        """
        receiver, group = np.nonzero(self.n_hearing)
        n_pairs, n_heads, n_genes = len(receiver), len(self.heads), len(self.genes)

        def column(values: Floats) -> Floats:
            return values[:, receiver, group].transpose(1, 0, 2).reshape(-1)

        return pd.DataFrame(
            {
                terms.RECEIVER: categorical(np.repeat(receiver, n_heads * n_genes), self.receivers),
                terms.SENDER: categorical(np.repeat(group, n_heads * n_genes), self.groups),
                terms.HEAD_IDX: np.tile(np.repeat(np.array(self.heads, dtype=np.int16), n_genes), n_pairs),
                terms.GENE: categorical(np.tile(np.arange(n_genes), n_pairs * n_heads), self.genes),
                "ablation": column(self.ablation),
                "diff": column(self.diff),
                "z_value": column(self.z_value),
                "p_value": column(self.p_values()),
                "q_value": column(self.q_values()),
            }
        )


def ablate(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    *,
    groups: SenderGroups | None = None,
    receivers: Sequence[str] | None = None,
    by_head: bool = True,
    cells_per_shard: int = PREDICT_CELLS,
) -> Ablation:
    """Measure what senders do to every gene of the receivers, in one pass over the receivers.

    Parameters
    ----------
    network
        The model's network.
    tissue, neighbors
        The cells in spatial order, and their neighbors.
    groups
        Senders that are masked together; None: the cell types.
    receivers
        Names of the receiver types; None: all.
    by_head
        Whether each head is wanted alone, besides all together. With one head, the patterns of the others are 0 in both
        predictions.
    cells_per_shard
        Receivers whose attention is computed at once at most.

    Returns
    -------
    Ablation
        The same whatever the shards, but for rounding.

    Raises
    ------
    ParameterError
        If a type is not one of the tissue's, groups are of other cells, or `cells_per_shard` is below 1.

    Notes
    -----
    Embeddings, patterns, values and sums over neighbors are those of one prediction. Besides, there are
    ``cells * groups * heads * genes`` effects, of ``2 d`` multiply-adds each, and some sums of them.
    """
    groups = groups or SenderGroups.of_types(tissue)
    if len(groups.codes) != tissue.n_cells:
        raise ParameterError(
            f"groups of senders must have a code for each of the {tissue.n_cells} cells. Got {len(groups.codes)}."
        )
    names = tissue.cell_types if receivers is None else tuple(dict.fromkeys(receivers))
    labels = [_label(tissue, name) for name in names]
    heads = (ALL_HEADS, *range(network.settings.n_heads)) if by_head else (ALL_HEADS,)
    with torch.inference_mode():
        readers = {head: HeadReader.of(network, head) for head in heads}
        key_value_map = network.key_value_map()
    sums = [_EffectSums.empty(network, label, len(groups.names), readers) for label in labels]
    rows = np.flatnonzero(np.isin(tissue.labels, labels))
    with torch.inference_mode():
        for start, stop in shards(len(rows), cells_per_shard):
            own = rows[start:stop]
            parts, n_slots = split_heard(network, tissue, neighbors, own, groups, key_value_map)
            for of_label in sums:
                cells = np.flatnonzero(tissue.labels[own] == of_label.label)
                for first in range(0, len(cells), CELLS_AT_ONCE):
                    some = cells[first : first + CELLS_AT_ONCE]
                    expression = torch.from_numpy(tissue.expression[own[some]].toarray()).to(network.device)
                    of_label.add(network, parts[torch.from_numpy(some)], n_slots[some], expression)
    measured = [of_label.measure() for of_label in sums]

    def stacked(name: str) -> Floats:
        shape = (len(heads), 0, len(groups.names), network.n_genes)
        return np.stack([one[name] for one in measured], axis=1) if measured else np.zeros(shape)

    return Ablation(
        receivers=names,
        groups=groups.names,
        genes=tissue.genes,
        heads=heads,
        n_receivers=np.array([of_label.n_cells for of_label in sums], dtype=np.int64),
        n_hearing=np.array([of_label.n_hearing for of_label in sums], dtype=np.int64).reshape(len(sums), -1),
        ablation=stacked("ablation"),
        diff=stacked("diff"),
        z_value=stacked("z_value"),
    )


def ablate_senders(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    pairs: Sequence[tuple[str, str]],
    *,
    cells_per_shard: int = PREDICT_CELLS,
) -> SenderEffects:
    """Measure what is predicted for receivers with and without their neighbors of one type, on average alone.

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
    SenderEffects
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
        key_value_map = network.key_value_map()
        for start, stop in shards(len(rows), cells_per_shard):
            change += _changes(network, tissue, neighbors, rows[start:stop], label_pairs, key_value_map)
        total = change @ network.linear_head.weight.double().T  # (pair, gene)
    with np.errstate(invalid="ignore"):
        diff = total.cpu().numpy() / n_receivers[:, None]
    return SenderEffects(tuple(pairs), n_receivers, diff)


def split_heard(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    receivers: npt.NDArray[np.intp],
    groups: SenderGroups,
    key_value_map: KeyValueMap,
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Return what receivers hear, split by the groups of those who say it.

    Parameters
    ----------
    network
        The model's network, under ``torch.inference_mode``.
    tissue, neighbors
        The cells in spatial order, and their neighbors.
    receivers
        Rows of the receivers, ascending, (cell,).
    groups
        Groups of senders.
    key_value_map
        Of the network, made once for all receivers.

    Returns
    -------
    parts
        z by group, (cell, group + 1, head, d); the last group is of senders in none.
    n_slots
        Neighbors in each group, (cell, group + 1); the last has the padded slots, too.
    """
    s, n_groups = network.settings, len(groups.names)
    nn_idx = neighbors.idx[receivers]
    value, edges, patterns = attend_to_neighbors(network, tissue, neighbors, receivers, key_value_map)
    codes = np.where(nn_idx < 0, -1, groups.codes[nn_idx])
    codes = np.where(codes < 0, n_groups, codes).astype(np.min_scalar_type(n_groups))
    # Slots by group, so that the neighbors of a group are a run, and each run is a bag whose values are summed.
    order = np.argsort(codes, axis=1, kind="stable")
    n_cells, n_neighbors = codes.shape
    first = np.arange(n_cells, dtype=np.int64)[:, None] * (n_groups + 1)
    n_slots = np.bincount((first + codes).reshape(-1), minlength=n_cells * (n_groups + 1)).reshape(
        n_cells, n_groups + 1
    )
    by_group = torch.from_numpy(order).to(network.device)
    weight = patterns.gather(2, by_group[:, None, :].expand(-1, s.n_heads, -1))
    sender = edges.sender.gather(1, by_group)
    head = torch.arange(s.n_heads, device=network.device)
    value_row = sender[:, None, :] * s.n_heads + head[:, None]  # (cell, head, neighbor)
    starts = torch.from_numpy(np.cumsum(n_slots, axis=1) - n_slots).to(network.device)  # (cell, group + 1)
    of_row = (torch.arange(n_cells, device=network.device)[:, None] * s.n_heads + head) * n_neighbors
    bags = F.embedding_bag(
        value_row.reshape(-1),
        value.reshape(-1, s.n_head_size),
        (of_row[:, :, None] + starts[:, None, :]).reshape(-1),
        per_sample_weights=weight.reshape(-1),
        mode="sum",
    )
    parts = bags.view(n_cells, s.n_heads, n_groups + 1, s.n_head_size).transpose(1, 2)
    return parts, n_slots


def cells_last(parts: Tensor) -> Tensor:
    """Return what is heard, (cell, group, head, d), as (head, d, group, cell).

    A matrix is transposed block by block, and the rest is whole rows: twice as fast as all axes at once.
    """
    n_cells, *others = parts.shape
    return parts.flatten(1).t().contiguous().view(*others, n_cells).permute(1, 2, 0, 3).contiguous()


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
    key_value_map: KeyValueMap,
) -> Tensor:
    """Return by how much each pair's sender type changes the states of these receivers, summed, (pair, embed)."""
    change = torch.zeros(len(label_pairs), network.settings.n_embed, dtype=torch.float64, device=network.device)
    parts, n_slots = split_heard(network, tissue, neighbors, receivers, SenderGroups.of_types(tissue), key_value_map)
    labels = torch.from_numpy(tissue.labels[receivers].astype(np.int64)).to(network.device)
    heard = parts.sum(dim=1)
    states = network.states(heard, labels, blocks=True)
    for row, (sender, receiver) in enumerate(label_pairs):
        hears = (n_slots[:, sender] > 0) & (tissue.labels[receivers] == receiver)
        cells = torch.from_numpy(np.flatnonzero(hears)).to(network.device)
        if len(cells):
            without = network.states(heard[cells] - parts[cells, sender], labels[cells], blocks=True)
            change[row] = (states[cells].double() - without.double()).sum(dim=0)
    return change


@dataclass(frozen=True, eq=False)
class Hearing:
    """What some receivers of a type hear through a head.

    Attributes
    ----------
    total
        Centred sum of everything, (embed, cell).
    scale
        Of the layer norm, (cell,).
    scaled
        What each group says, times the scale without it, (k, group * cell).
    change
        Scale less that without each group, (group, cell).
    """

    total: Tensor
    scale: Tensor
    scaled: Tensor
    change: Tensor


@dataclass(frozen=True, eq=False)
class HeadReader:
    """What one head, or all together, do to the predicted expression.

    Attributes
    ----------
    head
        Number of the head, or :data:`ALL_HEADS`.
    output
        W_O of the head, (embed, k); k is d, or all heads' d side by side.
    centred
        That less its mean over embed, (embed, k): the layer norm takes the mean away.
    gram
        ``centred' centred``, (k, k).
    state_to_genes
        Takes a state before the scale and shift of its layer norm to genes, (gene, embed).
    heard_to_genes
        ``state_to_genes centred``, (gene, k).
    """

    head: int
    output: Tensor
    centred: Tensor
    gram: Tensor
    state_to_genes: Tensor
    heard_to_genes: Tensor

    @classmethod
    def of(cls, network: CrossAttentionNetwork, head: int) -> HeadReader:
        """Return the reader of a head; call it under ``torch.inference_mode``."""
        layer = network.attention_layer
        output = layer.W_O.reshape(len(layer.W_O), -1) if head == ALL_HEADS else layer.W_O[:, head]
        centred = output - output.mean(dim=0)
        to_genes = network.linear_head.weight * layer.norm_o.weight
        return cls(head, output, centred, centred.t() @ centred, to_genes, to_genes @ centred)

    def of_genes(self, genes: slice) -> HeadReader:
        """Return the reader of some genes alone."""
        return replace(self, state_to_genes=self.state_to_genes[genes], heard_to_genes=self.heard_to_genes[genes])

    def heard(self, parts: Tensor) -> Tensor:
        """Return what is heard through the head, (k, group, cell), of what all hear, (head, d, group, cell)."""
        return parts.flatten(0, 1) if self.head == ALL_HEADS else parts[self.head]

    def effects(self, heard: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions and the effect of each group on them; see :meth:`hear` and :meth:`read`."""
        return self.read(self.hear(heard, query))

    def hear(self, heard: Tensor, query: Tensor) -> Hearing:
        """Return what predictions and effects come from, whatever the gene.

        Parameters
        ----------
        heard
            By group, (k, group + 1, cell); the last group always stays.
        query
            Of the receivers' type, (embed,).

        Notes
        -----
        With t the centred sum of everything, and r = 1 / sqrt(mean(t^2) + eps), the state is ``r t``. Without a group
        that says y it is ``r' (t - y)``, where mean((t - y)^2) = mean(t^2) + (y'y - 2 t'y) / embed; so the change is
        ``(r - r') t + r' y``, and r - r' follows from the difference of the means without cancellation.
        """
        total = torch.addmm(query[:, None], self.output, heard.sum(dim=1))  # (embed, cell)
        total -= total.mean(dim=0)
        of_groups = heard[:, :-1]
        squared = (of_groups * (self.gram @ of_groups.reshape(len(heard), -1)).view(of_groups.shape)).sum(dim=0)
        along = ((self.centred.t() @ total)[:, None] * of_groups).sum(dim=0)  # (group, cell)
        less = (squared - 2 * along) / len(total)  # of the mean square without the group
        mean_square = total.square().mean(dim=0) + LAYER_NORM_EPS
        scale, scale_without = mean_square.rsqrt(), (mean_square + less).clamp_min(LAYER_NORM_EPS).rsqrt()
        return Hearing(
            total=total,
            scale=scale,
            scaled=(of_groups * scale_without).reshape(len(heard), -1),
            change=less * (scale * scale_without).square() / (scale + scale_without),
        )

    def read(self, hearing: Hearing) -> tuple[Tensor, Tensor]:
        """Return predictions and the effect of each group on them.

        Returns
        -------
        whole
            Prediction less the mean of the type and what the shift of the layer norm adds, (gene, cell).
        effect
            Prediction less the prediction without the group, (gene, group, cell).
        """
        genes = self.state_to_genes @ hearing.total  # (gene, cell)
        effect = (self.heard_to_genes @ hearing.scaled).view(len(genes), *hearing.change.shape)
        return genes * hearing.scale, effect.addcmul_(hearing.change, genes[:, None])


@dataclass(eq=False)
class _EffectSums:
    """Sums over the receivers of one type, from which all that is told of them comes.

    Sizes of effects are summed less a typical one, that of the first cells: their variance would be lost in rounding
    where all cells have nearly the same.
    """

    label: int
    readers: dict[int, HeadReader]
    n_hearing: npt.NDArray[np.int64]
    typical: Tensor
    """Size of an effect in the first cells, float32 (head, gene, group)."""
    of_effect: Floats
    """Sums of the effect, of ``(P_s - x)^2 - (P - x)^2``, and of ``|effect| - typical``, of its square and of its
    product with the expression less the type's mean in training, (5, head, gene, group)."""
    of_expression: Floats
    """Sums of the expression less the type's mean in training, and of its square, (2, gene)."""
    n_cells: int = 0

    @classmethod
    def empty(
        cls, network: CrossAttentionNetwork, label: int, n_groups: int, readers: dict[int, HeadReader]
    ) -> _EffectSums:
        shape = (len(readers), network.n_genes, n_groups)
        return cls(
            label=label,
            readers=readers,
            n_hearing=np.zeros(n_groups, dtype=np.int64),
            typical=torch.zeros(shape, device=network.device),
            of_effect=np.zeros((5, *shape)),
            of_expression=np.zeros((2, network.n_genes)),
        )

    def add(
        self, network: CrossAttentionNetwork, parts: Tensor, n_slots: npt.NDArray[np.int64], expression: Tensor
    ) -> None:
        """Add some receivers of the type: what they hear, (cell, group + 1, head, d), and express, (cell, gene)."""
        n_cells = len(parts)
        self.n_hearing += np.count_nonzero(n_slots[:, :-1], axis=0)
        x = (expression - network.ct_profiles[self.label]).t().contiguous()  # (gene, cell)
        self.of_expression += torch.stack([x, x.square()]).sum(dim=2).double().cpu().numpy()
        is_heard = n_slots[:, :-1].any(axis=0)  # the effect of others is 0
        present = np.flatnonzero(is_heard)
        wanted = torch.from_numpy(np.append(present, parts.shape[1] - 1)).to(parts.device)
        heard = cells_last(parts[:, wanted])
        query = network.queries()[self.label].reshape(-1)
        shift = network.linear_head.weight @ network.attention_layer.norm_o.bias
        for place, reader in enumerate(self.readers.values()):
            whole, effect = reader.effects(reader.heard(heard), query)
            residual = whole.add_(shift[:, None]).sub_(x)  # P - x
            # (P_s - x)^2 - (P - x)^2 = effect^2 - 2 effect (P - x)
            of_sign = effect.sum(dim=2)
            of_residual = (effect * residual[:, None]).sum(dim=2)
            squared = torch.linalg.vector_norm(effect, dim=2).square_()
            size = effect.abs_()
            if not self.n_cells:
                self.typical[place][:, wanted[:-1]] = size.mean(dim=2)
            size -= self.typical[place][:, wanted[:-1], None]
            sums = torch.stack(
                [
                    of_sign,
                    squared - 2 * of_residual,
                    size.sum(dim=2),
                    torch.linalg.vector_norm(size, dim=2).square_(),
                    size.mul_(x[:, None]).sum(dim=2),
                ]
            )
            self.of_effect[:, place][:, :, present] += sums.double().cpu().numpy()
        if not is_heard.all():
            typical = self.typical[:, :, torch.from_numpy(~is_heard)].double().cpu().numpy()
            of_x = x.sum(dim=1).double().cpu().numpy()[:, None]
            self.of_effect[2:][:, :, :, ~is_heard] += np.stack(
                [-n_cells * typical, n_cells * typical**2, -typical * of_x]
            )
        self.n_cells += n_cells

    def measure(self) -> dict[str, Floats]:
        """Return what :class:`Ablation` has of this receiver type, each (head, group, gene)."""
        n = self.n_cells
        if not n:
            nothing = np.full(self.typical.shape, np.nan).transpose(0, 2, 1)
            return {"ablation": nothing, "diff": nothing, "z_value": nothing}
        effect, error, size, squared, product = self.of_effect
        x, x_squared = self.of_expression[:, :, None]
        covariance = product - size * x / n
        variance, x_variance = squared - size**2 / n, x_squared - x**2 / n
        # What is left of rounding where every receiver has the same effect, or expresses the same.
        typical = self.typical.double().cpu().numpy()
        varies = (variance > _ROUNDING * (squared + n * typical**2)) & (x_variance > _ROUNDING * x_squared)
        both = np.sqrt(np.where(varies, variance * x_variance, 1.0))
        correlation = np.where(varies, np.clip(covariance / both, -1, 1), 0.0)
        # A perfect correlation (one receiver alone hears the group, and has the gene) leaves rounding, or nothing.
        left = np.maximum(1 - correlation**2, _LEAST_LEFT)
        z_value = correlation * np.sqrt(max(n - 2, 0) / left)
        of_groups = {"ablation": error / n, "diff": effect / n, "z_value": z_value}
        return {name: values.transpose(0, 2, 1) for name, values in of_groups.items()}


_ROUNDING: Final = 1e-12
_LEAST_LEFT: Final = 1e-6  # of the variance beside a correlation: sums in single precision tell no less
