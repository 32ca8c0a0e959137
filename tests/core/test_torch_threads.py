"""Blocks of rows side by side: every row, in one thread each, and the number of threads as it was."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from naive import random_network

from tissue_crosstalk.core.network import in_row_blocks
from tissue_crosstalk.core.threads import in_order
from tissue_crosstalk.core.torch_threads import each_block, in_one_thread, in_own_threads

CPU = torch.device("cpu")


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_functions_are_first_called_by_one_thread() -> None:
    """Of many threads that come first, about one in some hundred times one has digits of its own."""
    script = """
import torch
seen = []
def noted(name, function):
    return lambda values: seen.append((name, values.numel())) or function(values)
for name in ("log", "sqrt"):
    setattr(torch, name, noted(name, getattr(torch, name)))
import tissue_crosstalk.core.training, tissue_crosstalk.core.network
print(seen)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[('log', 1), ('sqrt', 1)]"


def test_blocks_side_by_side_equal_blocks_in_turn(three_threads: None) -> None:
    """To the bit, the last block shorter than the others."""
    network = random_network(8, 3)
    rows = torch.rand(4 * 64 + 7, 8)
    with torch.inference_mode():
        several = in_row_blocks(network.nn_embed, rows, size=64)
        torch.set_num_threads(1)
        one = in_row_blocks(network.nn_embed, rows, size=64)
    assert len(several) == len(rows)
    assert torch.equal(several, one)
    assert several.is_inference()


@pytest.mark.parametrize("inference", [False, True])
def test_each_block_is_of_one_thread_and_mode(three_threads: None, inference: bool) -> None:
    seen = []

    def look(block: slice) -> None:
        modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        seen.append((block.start, block.stop, threading.get_ident(), torch.get_num_threads(), *modes))

    with torch.inference_mode(inference), torch.no_grad():
        each_block(look, 10, 4, CPU)
    assert sorted(one[:2] for one in seen) == [(0, 4), (4, 8), (8, 10)]
    assert threading.get_ident() not in {one[2] for one in seen}
    assert {one[3:] for one in seen} == {(1, inference, False)}
    assert torch.get_num_threads() == 3
    number = []
    later = threading.Thread(target=lambda: number.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert number == [3]


def test_a_single_block_is_of_one_thread_too(three_threads: None) -> None:
    """A cell's result must not depend on how many others are computed with it."""
    seen: list[tuple[slice, int]] = []
    with torch.no_grad():
        each_block(lambda block: seen.append((block, torch.get_num_threads())), 3, 4, CPU)
        in_row_blocks(
            lambda rows: seen.append((slice(len(rows)), torch.get_num_threads())) or rows, torch.ones(9, 1), size=4
        )
    assert [block for block, _ in seen] == [slice(0, 3), *[slice(None, 4)] * 3]
    assert {number for _, number in seen} == {1}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("n_rows", [0, 1, 4, 5])
def test_rows_are_written_where_they_are_wanted(n_rows: int) -> None:
    rows, place = torch.arange(2.0 * n_rows).view(n_rows, 2), torch.full((n_rows + 1, 1), -1.0)
    found = in_row_blocks(lambda part: part.sum(dim=1, keepdim=True), rows, size=4, out=place[:n_rows])
    assert not n_rows or found.data_ptr() == place.data_ptr()
    assert place.squeeze(1).tolist() == [*rows.sum(dim=1).tolist(), -1.0]


def test_what_a_block_raises_is_raised(three_threads: None) -> None:
    def fail(block: slice) -> None:
        if block.start == 8:
            raise torch.OutOfMemoryError("no memory")

    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError, match="no memory"):
        each_block(fail, 100, 4, CPU)
    assert torch.get_num_threads() == 3


def test_blocks_with_gradients_are_done_in_turn(three_threads: None) -> None:
    """Where they are recorded: that is kept by each thread for itself."""
    weight = torch.ones(3, requires_grad=True)
    with torch.enable_grad():
        in_row_blocks(lambda rows: rows * weight, torch.ones(9, 3), size=2).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [9.0] * 3


def test_users_that_overlap_leave_the_number_of_threads_as_it_was(three_threads: None) -> None:
    """The second one begins while the first is at work, and ends after it."""
    numbers: dict[str, list[int]] = {}
    begun, ended = threading.Event(), threading.Event()

    def first() -> None:
        torch.set_num_threads(3)
        with torch.no_grad():
            each_block(lambda _: begun.wait(5), 9, 4, CPU)
        numbers["first"] = [torch.get_num_threads()]
        ended.set()

    def second() -> None:
        seen = []
        with torch.no_grad(), in_one_thread():
            begun.set()
            ended.wait(5)
            seen.append(torch.get_num_threads())
        blocks: list[int] = []
        with torch.no_grad():
            each_block(lambda _: blocks.append(threading.get_ident()), 9, 4, CPU)
        numbers["second"] = [*seen, torch.get_num_threads(), blocks.count(threading.get_ident())]

    users = [threading.Thread(target=first), threading.Thread(target=second)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    later = threading.Thread(target=lambda: numbers.update(later=[torch.get_num_threads()]))
    later.start()
    later.join()
    assert numbers == {"first": [3], "second": [1, 3, 0], "later": [3]}  # the second has other threads again


@pytest.mark.parametrize(("n_threads", "expected"), [(1, 6), (2, 3), (4, 1)])
def test_pieces_of_work_share_the_threads(three_threads: None, n_threads: int, expected: int) -> None:
    """Both those of an operation and those of blocks side by side."""
    torch.set_num_threads(6)

    def piece(_: int) -> tuple[int, int]:
        blocks: set[int] = set()
        meeting = threading.Barrier(expected, timeout=20)

        def block(_: slice) -> None:
            blocks.add(threading.get_ident())
            meeting.wait()

        with torch.no_grad(), in_own_threads():
            number = torch.get_num_threads()
            each_block(block, 12, 1, CPU)
        return number, len(blocks)

    assert list(in_order(piece, range(4), n_threads)) == [(expected, expected)] * 4
    assert torch.get_num_threads() == 6


def test_blocks_within_a_block_are_done_by_its_thread(three_threads: None) -> None:
    inner: list[tuple[int, int]] = []

    def outer(_: slice) -> None:
        own = threading.get_ident()
        each_block(lambda _: inner.append((own, threading.get_ident())), 9, 4, CPU)

    with torch.no_grad():
        each_block(outer, 9, 4, CPU)
    assert len(inner) == 9
    assert all(own == found for own, found in inner)
