"""Threads: results in the order of the parts, errors in their turn, nothing left over."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tissue_crosstalk.core.threads import MOST_THREADS, ahead, in_order, share_of, threads


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_parts(n_threads: int) -> None:
    def slowly(number: int) -> int:
        time.sleep(0.02 if number % 2 == 0 else 0.0)  # every other part is overtaken
        return number**2

    assert list(in_order(slowly, range(9), n_threads)) == [number**2 for number in range(9)]
    assert list(in_order(slowly, [], n_threads)) == []


def test_parts_are_taken_as_they_are_needed() -> None:
    """No more than one per thread is ahead of the consumer, and one besides."""
    taken: list[int] = []

    def parts() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    results = in_order(lambda number: number, parts(), n_threads=2)
    assert next(results) == 0
    assert len(taken) <= 4
    del results
    assert len(taken) <= 4


def test_what_a_part_raises_is_raised_in_its_turn() -> None:
    def function(number: int) -> int:
        if number == 2:
            raise ValueError("number 2")
        return number

    before = threading.active_count()
    results = in_order(function, range(50), n_threads=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="number 2"):
        next(results)
    assert threading.active_count() == before


def test_what_is_not_begun_when_a_user_interrupts_is_left() -> None:
    """What is at work ends first."""
    begun: list[int] = []
    ended, may_end = [], threading.Event()

    def function(number: int) -> None:
        begun.append(number)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        may_end.wait(20)
        ended.append(number)

    def interrupt(*_: object) -> None:
        threading.Timer(0.3, may_end.set).start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(in_order(function, range(50), n_threads=1))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (begun, ended) == ([0], [0])


def test_threads_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 1), (2, 2), (256, MOST_THREADS)):
        monkeypatch.setattr("joblib.cpu_count", lambda cores=cores: cores)
        assert threads() == expected


@pytest.mark.parametrize(("n_threads", "expected"), [(1, 8), (2, 4), (3, 2), (9, 1)])
def test_what_is_done_side_by_side_shares_the_threads(n_threads: int, expected: int) -> None:
    """Also one level further down; who begins it has all of them again."""

    def within(_: int) -> tuple[int, list[int]]:
        return share_of(8), list(in_order(lambda _: share_of(8), range(2), 2))

    assert list(in_order(within, range(3), n_threads)) == [(expected, [max(expected // 2, 1)] * 2)] * 3
    assert share_of(8) == 8


def test_results_are_made_ahead_as_far_as_memory_goes() -> None:
    """Of 3, 2, 2, 9, 1, 1 bytes: never more than 5 wait, and the one that is larger is made when it is asked for."""
    begun: list[int] = []
    idle = threading.Semaphore(0)

    def function(size: int) -> int:
        begun.append(size)
        idle.release()
        return -size

    def wait_for(n_begun: int) -> None:
        while len(begun) < n_begun:
            assert idle.acquire(timeout=5)

    with ahead(function, [3, 2, 2, 9, 1, 1], bytes_of=int, most_bytes=5) as results:
        wait_for(2)
        time.sleep(0.05)
        assert begun == [3, 2]
        assert next(results) == -3
        wait_for(3)
        assert next(results) == -2
        time.sleep(0.05)
        assert begun == [3, 2, 2]
        assert next(results) == -2
        time.sleep(0.05)
        assert begun == [3, 2, 2]
        assert next(results) == -9
        wait_for(6)
        assert list(results) == [-1, -1]


def test_tasks_ahead_are_left_where_the_results_are_not_wanted() -> None:
    before, begun = threading.active_count(), []

    def function(number: int) -> int:
        begun.append(number)
        time.sleep(0.05)
        return number

    def interrupted() -> None:
        with ahead(function, range(100), bytes_of=lambda _: 1, most_bytes=100) as results:
            assert next(results) == 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) < 5
    assert threading.active_count() == before


def test_what_a_task_ahead_raises_is_raised_in_its_turn() -> None:
    with ahead(lambda number: 1 // number, [1, 0, 1], bytes_of=int, most_bytes=9) as results:
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)
