"""Several threads at work on independent parts, with results in the order of the parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")

MOST_THREADS: Final = 4
"""Each holds a part in memory, and numpy leaves little for more of them to do."""


def threads() -> int:
    """Return how many threads are worth while: one per core at hand, but a few at most."""
    import joblib

    return min(int(joblib.cpu_count()), MOST_THREADS)


def in_order(function: Callable[[Part], Result], parts: Iterable[Part], n_threads: int) -> Iterator[Result]:
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
    Result
        Of each part. What a part raises is raised in its turn.

    Examples
    --------
    >>> list(in_order(lambda number: number**2, [3, 1, 2], n_threads=2))
    [9, 1, 4]
    """
    with ThreadPoolExecutor(n_threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for part in parts:
            waiting.append(pool.submit(function, part))
            if len(waiting) > n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
