"""Rows taken from tables, and sums of them, with gradients that are added in one order.

Autograd's own gradients of indexing either add in the order in which threads come, or sort every head's edges anew.
Here the edges are sorted once, and the rows of each bag are summed in sequence, so that a gradient is the same to the
bit whatever the threads' timing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F


def gather_rows(table: Tensor, index: Tensor, order: Tensor | None = None) -> Tensor:
    """Return ``table[index]``, the shape of the index and (column,).

    Parameters
    ----------
    table
        (row, column), floating point.
    index
        Rows wanted, int64 of any shape.
    order
        Places of the flat index that sort it, for callers that know them.
    """
    if not table.requires_grad:
        return F.embedding(index, table)
    rows: Tensor = _GatherRows.apply(table, index, order)  # type: ignore[no-untyped-call]  # torch has no types here
    return rows


class PairSums:
    """Sums of a row of one table and a row of another, for pairs of rows that come in several parts.

    Parameters
    ----------
    first, second
        Tables, (row, column); the second one has few rows.
    """

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self._first, self._second = first, second
        # Bags of two: one pass over the pairs, where two gathers and an addition are three. The tables are joined once
        # for all parts: that is a copy of them.
        self._both = torch.cat([first.detach(), second.detach()])

    @classmethod
    def of_joined(cls, both: Tensor, n_first: int) -> PairSums:
        """Return the sums of the first rows of a table with the others, where no gradients are wanted."""
        sums = cls.__new__(cls)
        sums._first, sums._second, sums._both = both[:n_first], both[n_first:], both
        return sums

    def __call__(self, first_row: Tensor, second_row: Tensor) -> Tensor:
        """Return ``first[first_row] + second[second_row]``, (pair, column).

        Parameters
        ----------
        first_row, second_row
            Rows of each pair, int64 (pair,); `first_row` is ascending.
        """
        if not (self._first.requires_grad or self._second.requires_grad):
            return _sums_of_pairs(self._both, first_row, second_row + len(self._first))
        sums: Tensor = _PairSums.apply(self._first, self._second, self._both, first_row, second_row)  # type: ignore[no-untyped-call]  # torch has no types here
        return sums


def weighted_sums(value: Tensor, weight: Tensor, index: Tensor, order: Tensor | None = None) -> Tensor:
    """Return ``sum_j weight[c, h, j] * value[index[c, j], h]``, (cell, head, d).

    Nothing of size (cell, neighbor, head, d) is ever held.

    Parameters
    ----------
    value
        (sender, head, d).
    weight
        (cell, head, neighbor).
    index
        Row of `value` in each slot, int64 (cell, neighbor).
    order
        Places of the flat index that sort it, for callers that know them.
    """
    if value.requires_grad or weight.requires_grad:
        sums: Tensor = _WeightedSums.apply(value, weight, index, order)  # type: ignore[no-untyped-call]  # as above
        return sums
    return _weighted_sums(value, weight, index)


def gram(rows: Tensor) -> Tensor:
    """Return ``rows' rows``, (column, column), of (row, column)."""
    product: Tensor = _Gram.apply(rows)  # type: ignore[no-untyped-call]  # as above
    return product


def _weighted_sums(value: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    n_cells, n_heads, n_neighbors = weight.shape
    rows = index[:, None, :] * n_heads + torch.arange(n_heads, device=index.device)[:, None]
    bags = F.embedding_bag(
        rows.reshape(-1, n_neighbors),
        value.reshape(-1, value.shape[2]),
        per_sample_weights=weight.reshape(-1, n_neighbors),
        mode="sum",
    )
    return bags.view(n_cells, n_heads, -1)


def _bags(index: Tensor, order: Tensor | None, n_rows: int) -> tuple[Tensor, Tensor]:
    """Return the places of a flat index sorted by the row they name, and where each row's places start."""
    places = torch.argsort(index, stable=True) if order is None else order
    return places, torch.searchsorted(index[places], torch.arange(n_rows, device=index.device))


class _GatherRows(Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, order: Tensor | None) -> Tensor:
        ctx.save_for_backward(index, order)
        ctx.n_rows = table.shape[0]
        return F.embedding(index, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index, order = ctx.saved_tensors
        places, starts = _bags(index.reshape(-1), order, ctx.n_rows)
        return F.embedding_bag(places, grad.reshape(len(places), -1), starts, mode="sum"), None, None


def _sums_of_pairs(both: Tensor, first_row: Tensor, second_row: Tensor) -> Tensor:
    return F.embedding_bag(torch.stack([first_row, second_row], dim=1), both, mode="sum")


class _PairSums(Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, both: Tensor, first_row: Tensor, second_row: Tensor) -> Tensor:
        ctx.save_for_backward(first_row, second_row)
        ctx.n_rows = len(first), len(second)
        return _sums_of_pairs(both, first_row, second_row + len(first))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        first_row, second_row = ctx.saved_tensors
        n_first, n_second = ctx.n_rows
        in_order = torch.arange(len(first_row), device=first_row.device)
        places, starts = _bags(first_row, in_order, n_first)
        of_first = F.embedding_bag(places, grad, starts, mode="sum")
        return of_first, F.one_hot(second_row, n_second).to(grad.dtype).t() @ grad, None, None, None


class _WeightedSums(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor, index: Tensor, order: Tensor | None) -> Tensor:
        ctx.save_for_backward(value, weight, index, order)
        return _weighted_sums(value, weight, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        value, weight, index, order = ctx.saved_tensors
        n_cells, n_heads, n_neighbors = weight.shape
        n_senders, n_edges = value.shape[0], n_cells * n_neighbors
        grad = grad.contiguous()
        # Of a value: the bag of the edges at which its cell sends, a bag per head.
        places, starts = _bags(index.reshape(-1), order, n_senders)
        heads = torch.arange(n_heads, device=index.device)
        receiver = torch.div(places, n_neighbors, rounding_mode="floor")
        by_head = weight.permute(1, 0, 2).reshape(n_heads, n_edges)
        of_value = F.embedding_bag(
            (receiver * n_heads + heads[:, None]).reshape(-1),
            grad.view(n_cells * n_heads, -1),
            (starts + n_edges * heads[:, None]).reshape(-1),
            per_sample_weights=by_head[:, places].reshape(-1),
            mode="sum",
        ).view(n_heads, n_senders, -1)
        # Of a weight: its value times its receiver's gradient. All senders times all receivers, a head at a time, is
        # less work than gathering the values of the edges.
        of_weight = torch.stack(
            [(grad[:, head] @ value[:, head].t()).gather(1, index) for head in range(n_heads)], dim=1
        )
        return of_value.transpose(0, 1), of_weight, None, None


class _Gram(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows.t() @ rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        of_rows: Tensor = rows @ (grad + grad.t())  # one product, where autograd makes one for each factor
        return of_rows
