"""Rows and sums of rows against plain loops, and their gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from tissue_crosstalk.core.ordered_gradients import PairSums, gather_rows, gram, weighted_sums

INDEX = torch.tensor([[2, 0, 2], [4, 2, 0]])  # rows 1 and 3 are nobody's
ORDER = torch.argsort(INDEX.reshape(-1), stable=True)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).requires_grad_()


@pytest.mark.parametrize("order", [None, ORDER])
def test_gathered_rows_and_their_gradient(order: torch.Tensor | None) -> None:
    table = random(5, 3)
    assert torch.equal(gather_rows(table, INDEX, order), table[INDEX])
    assert gradcheck(lambda t: gather_rows(t, INDEX, order), [table])
    gather_rows(table, INDEX, order).sum().backward()
    assert table.grad is not None
    assert table.grad[:, 0].tolist() == [2.0, 0.0, 3.0, 0.0, 1.0]


def test_rows_of_a_table_without_gradient() -> None:
    table = random(5, 3).detach()
    assert torch.equal(gather_rows(table, INDEX), table[INDEX])


def test_sums_of_pairs_and_their_gradient() -> None:
    first, second = random(4, 3), random(2, 3, seed=1)
    rows = torch.tensor([0, 0, 2, 3, 3]), torch.tensor([0, 1, 1, 0, 1])
    torch.testing.assert_close(PairSums(first, second)(*rows), first[rows[0]] + second[rows[1]])
    torch.testing.assert_close(PairSums(first.detach(), second.detach())(*rows), first[rows[0]] + second[rows[1]])
    assert gradcheck(lambda a, b: PairSums(a, b)(*rows), [first, second])


@pytest.mark.parametrize("order", [None, ORDER])
def test_weighted_sums_and_their_gradients(order: torch.Tensor | None) -> None:
    value, weight = random(5, 2, 4), random(2, 2, 3, seed=1)
    expected = torch.zeros(2, 2, 4, dtype=torch.float64)
    for cell in range(2):
        for head in range(2):
            for slot in range(3):
                expected[cell, head] += weight[cell, head, slot] * value[INDEX[cell, slot], head]
    torch.testing.assert_close(weighted_sums(value, weight, INDEX, order), expected)
    torch.testing.assert_close(weighted_sums(value.detach(), weight.detach(), INDEX), expected)
    assert gradcheck(lambda v, w: weighted_sums(v, w, INDEX, order), [value, weight])


def test_gram_and_its_gradient() -> None:
    rows = random(5, 3)
    torch.testing.assert_close(gram(rows), rows.t() @ rows)
    assert gradcheck(gram, [rows])
