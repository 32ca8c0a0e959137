"""Pieces of work side by side, each done by one thread: results do not depend on how many threads there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

from tqdm import tqdm

_T = TypeVar("_T")
_R = TypeVar("_R")


class Each(Protocol):
    """Runs a function on each of some pieces of work, and returns what it returns in their order."""

    def __call__(self, function: Callable[[_T], _R], tasks: Sequence[_T], what: str, /) -> list[_R]:
        """Run `function` on each of `tasks`; `what` they are, for the bar that shows how far it is."""
        ...


def one_by_one(function: Callable[[_T], _R], tasks: Sequence[_T], _what: str) -> list[_R]:
    """Run a function on pieces of work in the thread that calls it."""
    return [function(task) for task in tasks]


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

        def each(function: Callable[[_T], _R], tasks: Sequence[_T], what: str, /) -> list[_R]:
            return list(tqdm(pool.map(function, tasks), desc=what, total=len(tasks), disable=None, leave=False))

        yield each


@contextmanager
def blas_in_one_thread() -> Iterator[None]:
    """Let products of matrices be done by the thread that asks for them.

    Small ones gain nothing from more, and lose much where other programs keep these waiting.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield
