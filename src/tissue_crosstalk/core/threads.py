"""Pieces of work side by side, each done by one thread: results do not depend on how many threads there are."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

from tqdm import tqdm

_T = TypeVar("_T")
_R = TypeVar("_R")

MOST_THREADS: Final = 4
"""Each holds a part in memory, and numpy leaves little for more of them to do."""


class _Share(threading.local):
    of = 1
    """With how many threads, this one among them, the calling one shares the cores at hand."""


_share = _Share()


class Each(Protocol):
    """Runs a function on each of some pieces of work, and returns what it returns in their order."""

    def __call__(self, function: Callable[[_T], _R], tasks: Sequence[_T], what: str | None, /) -> list[_R]:
        """Run `function` on each of `tasks`; `what` they are, for the bar that shows how far it is; None: no bar."""
        ...


def one_by_one(function: Callable[[_T], _R], tasks: Sequence[_T], _what: str | None) -> list[_R]:
    """Run a function on pieces of work in the thread that calls it."""
    return [function(task) for task in tasks]


def progress(pieces: Iterable[_T], what: str, total: int) -> Iterable[_T]:
    """Show on a terminal how far it is while pieces of work are gone through."""
    return tqdm(pieces, desc=what, total=total, disable=None, leave=False)


@contextmanager
def side_by_side() -> Iterator[Each]:
    """Give a function that runs pieces of work in all threads there are, each piece in one.

    Libraries with threads of their own must be loaded before: only then can these be limited.
    """
    import joblib
    from threadpoolctl import threadpool_limits

    # The libraries' own threads would add up in an order of their own: results would differ in the last digit. OpenMP
    # keeps its limit per thread, BLAS has one for all.
    with (
        blas_in_one_thread(),
        ThreadPoolExecutor(joblib.cpu_count(), initializer=lambda: threadpool_limits(1, user_api="openmp")) as pool,
    ):

        def each(function: Callable[[_T], _R], tasks: Sequence[_T], what: str | None, /) -> list[_R]:
            return list(progress(pool.map(function, tasks), what, len(tasks)) if what else pool.map(function, tasks))

        yield each


@contextmanager
def blas_in_one_thread() -> Iterator[None]:
    """Let products of matrices be done by the thread that asks for them.

    Small ones gain nothing from more, and lose much where other programs keep these waiting.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def threads() -> int:
    """Return how many threads are worth while: one per core at hand, but a few at most."""
    import joblib

    return min(share_of(int(joblib.cpu_count())), MOST_THREADS)


def share_of(number: int) -> int:
    """Return how many of a number of threads are for the calling one: what is done side by side shares them."""
    return max(number // _share.of, 1)


def in_order(function: Callable[[_T], _R], parts: Iterable[_T], n_threads: int) -> Iterator[_R]:
    """Yield what a function returns for each part, in the order of the parts.

    Parts are taken as threads get free, so that no more than one result per thread, and one besides, is waiting.

    Parameters
    ----------
    function
        Must not change anything that another part needs.
    parts
        What to call it with.
    n_threads
        How many parts to work on at the same time. Results do not depend on it.

    Yields
    ------
    object
        Of each part. What a part raises is raised in its turn.

    Examples
    --------
    >>> list(in_order(lambda number: number**2, [3, 1, 2], n_threads=2))
    [9, 1, 4]
    """
    of = _share.of * n_threads

    def take_share() -> None:
        _share.of = of

    pool = ThreadPoolExecutor(n_threads, initializer=take_share)
    waiting: deque[Future[_R]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(function, part))
            if len(waiting) > n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # if a part raises, or nobody takes the rest, what is not begun is left
        pool.shutdown(cancel_futures=True)


@contextmanager
def ahead(
    function: Callable[[_T], _R], tasks: Iterable[_T], *, bytes_of: Callable[[_T], int], most_bytes: int
) -> Iterator[Iterator[_R]]:
    """Let a thread of its own do tasks in their order from now on, ahead of whoever takes the results.

    Parameters
    ----------
    function
        Must not change anything that is used meanwhile.
    tasks
        What to call it with, one after the other.
    bytes_of
        Memory that the result of a task needs.
    most_bytes
        Of all results that wait to be taken. A task whose result is larger by itself is done when it is asked for.

    Yields
    ------
    Iterator
        Of the results. What a task raises is raised in its turn; tasks that are not begun by the end are left.

    Examples
    --------
    >>> with ahead(lambda number: number**2, [3, 1, 2], bytes_of=lambda _: 8, most_bytes=16) as results:
    ...     list(results)
    [9, 1, 4]
    """
    waiting: deque[tuple[Future[_R], int]] = deque()
    left = deque(tasks)
    pool = ThreadPoolExecutor(1)

    def begin(most: int) -> None:
        while left and sum(held for _, held in waiting) + bytes_of(left[0]) <= most:
            task = left.popleft()
            waiting.append((pool.submit(function, task), bytes_of(task)))

    def results() -> Iterator[_R]:
        while waiting or left:
            if not waiting:
                begin(bytes_of(left[0]))
            result = [waiting[0][0].result()]
            waiting.popleft()
            begin(most_bytes)
            yield result.pop()  # and is not held here

    begin(most_bytes)
    try:
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)
