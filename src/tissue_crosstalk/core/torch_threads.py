"""Blocks of rows side by side, each computed by one thread of torch's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch

from tissue_crosstalk.core.threads import in_order, share_of

for _function in (torch.log, torch.sqrt):
    # MKL chooses how to compute these at the first call in a process. Of several threads that come with that at once,
    # one may get other digits from the fifth on: the same training had another entropy in its first epoch.
    _function(torch.ones(1))


class _Usual:
    """How many threads torch has when nobody has asked for one: its number is one for the process.

    Whoever changes it enters and leaves, in whatever order; who enters while it is changed is told what it was before.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_users = 0
        self._number = 0

    def number(self) -> int:
        with self._lock:
            return self._number if self._n_users else torch.get_num_threads()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Set the number of this thread, and that of threads that start later, to the usual one in the end."""
        with self._lock:
            if not self._n_users:
                self._number = torch.get_num_threads()
            self._n_users += 1
            usual = self._number
        try:
            yield
        finally:
            with self._lock:
                self._n_users -= 1
                torch.set_num_threads(usual)


class _Self(threading.local):
    is_alone = False
    """Whether this thread computes without others."""


_usual, _self = _Usual(), _Self()


def each_block(function: Callable[[slice], None], n_rows: int, size: int, device: torch.device) -> None:
    """Call `function` with each block of rows: on a CPU side by side, each in one thread.

    An operation that is shared between threads waits for the slowest of them, so that another program on one core, or
    the writing of files, would stop all of them, many times per block. And it may round otherwise with other numbers of
    threads: a block is of one thread also where there is only one block.

    Parameters
    ----------
    function
        Writes what it makes of some rows where no other block does.
    n_rows, size
        How many rows there are, and how many a block has; the last one has fewer.
    device
        Where it computes.
    """
    blocks = [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]
    of_one_thread = device.type == "cpu" and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    n_threads = min(1 if _self.is_alone else share_of(_usual.number()), len(blocks))
    if n_threads < 2 or not of_one_thread:
        with in_one_thread() if of_one_thread else nullcontext():
            for block in blocks:
                function(block)
        return
    inference = torch.is_inference_mode_enabled()  # which each thread has for itself, as its number of threads

    def alone(block: slice) -> None:
        _self.is_alone = True
        _take_threads(1)
        with torch.inference_mode(inference), torch.no_grad():
            function(block)

    with _usual.restored():
        for _ in in_order(alone, blocks, n_threads):
            pass


@contextmanager
def in_one_thread() -> Iterator[None]:
    """Compute in the thread that asks for it: for what is small, others lose more time than they save."""
    if _self.is_alone:
        yield
        return
    with _usual.restored():
        _self.is_alone = True
        _take_threads(1)
        try:
            yield
        finally:
            _self.is_alone = False


@contextmanager
def in_own_threads() -> Iterator[None]:
    """Compute in no more threads than are for the one that asks for it, where others are at work side by side."""
    number = share_of(_usual.number())
    if number == 1:
        with in_one_thread():
            yield
        return
    with _usual.restored():
        _take_threads(number)
        yield


def _take_threads(number: int) -> None:
    torch.get_num_threads()  # the first time, a thread takes the number that others have set
    torch.set_num_threads(number)
