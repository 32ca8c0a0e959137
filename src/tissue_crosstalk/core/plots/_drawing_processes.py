"""Other processes that draw: a figure is all Python, of which one process runs one piece at a time.

A process is started with nothing but this module, so that it imports no program of the user's again; it gets what
draws figures, pickled, through its standard input, and writes their files. What it cannot draw for whatever reason is
drawn here: if something is wrong with a figure, that is where it is said. When its input ends it ends, also if this
process is killed.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import matplotlib as mpl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draws = Mapping[str, "Callable[[], Figure]"]

FIGURES_PER_PROCESS: Final = 12
"""To start a process takes as long as to draw some four figures."""

MOST_PROCESSES: Final = 4
"""With this one; each takes some 150 MB."""

_DONE: Final = b"1"
_FAILED: Final = b"0"
_OWN_SETTINGS: Final = frozenset({"backend", "backend_fallback", "interactive"})


def n_helpers(n_figures: int) -> int:
    """Return how many other processes are worth while for so many figures."""
    import joblib

    if not sys.executable:  # Python is part of another program
        return 0
    return max(min(int(joblib.cpu_count()), MOST_PROCESSES, n_figures // FIGURES_PER_PROCESS + 1) - 1, 0)


def shared(
    figures: Draws, folder: Path, suffixes: Sequence[str], helpers: int
) -> Generator[tuple[str, Callable[[], Figure]]]:
    """Yield figures that the caller is to draw, while other processes draw the rest.

    Parameters
    ----------
    figures
        What draws each, by stem of its file name.
    folder, suffixes
        Where other processes write, and in which formats.
    helpers
        How many other processes.

    Yields
    ------
    tuple
        Stem, and what draws the figure. After the last one, all figures of other processes are written. If the caller
        fails or leaves, other processes are ended.
    """
    waiting, undrawn = deque(figures.items()), deque[tuple[str, "Callable[[], Figure]"]]()
    with ThreadPoolExecutor(helpers) as threads, ExitStack() as stack:
        processes = []
        with suppress(OSError):  # no memory for another process: the figures are drawn here
            processes += [stack.enter_context(DrawingProcess(folder, suffixes)) for _ in range(helpers)]
        working = [threads.submit(process.work, waiting, undrawn) for process in processes]
        while waiting:
            yield waiting.popleft()
        for process in processes:
            process.stop_if_idle()
        for work in working:
            work.result()
    yield from undrawn


class DrawingProcess:
    """Another process that draws, inside a ``with`` block.

    Parameters
    ----------
    folder, suffixes
        Where it writes figures, and in which formats.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str]) -> None:
        self._where = str(folder), tuple(suffixes)
        self._is_busy = False

    def __enter__(self) -> DrawingProcess:
        paths = [str(path) if path else str(Path.cwd()) for path in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # it is idle, or its work is of no use any more
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was still to be sent to a process that is dead
                    stream.close()

    def work(self, waiting: deque[tuple[str, Any]], undrawn: deque[tuple[str, Any]]) -> None:
        """Have figures drawn as long as some wait; those that could not be are put among the undrawn."""
        is_able = self._ask({"settings": _settings()})
        self._is_busy = is_able
        while is_able:
            try:
                stem, draw = waiting.popleft()
            except IndexError:
                break
            is_able = self._ask({"figures": ((stem, draw), *self._where)})
            if not is_able:
                undrawn.append((stem, draw))
        self._is_busy = False

    def stop_if_idle(self) -> None:
        """End the process if it has not even started to draw: nobody waits for it."""
        if not self._is_busy:
            self._process.kill()

    def _ask(self, request: dict[str, Any]) -> bool:
        """Return whether a request was met."""
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None
        assert replies is not None
        try:
            content = pickle.dumps(request)
        except Exception:  # whatever a user's object raises
            return False
        try:
            requests.write(content)
            requests.flush()
            return replies.read(1) == _DONE
        except (OSError, ValueError):
            return False


def _settings() -> dict[str, Any]:
    """Return what the program has changed of matplotlib's settings: figures are to look the same."""
    return {
        name: value
        for name, value in mpl.rcParams.copy().items()
        if name not in _OWN_SETTINGS and value != mpl.rcParamsOrig[name]
    }


def serve() -> None:
    """Draw what standard input asks for, and answer on standard output, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the first process decides, which ends this one
    from tissue_crosstalk.core.plots._fonts import be_silent

    be_silent()  # the first process draws figures of the same types, and tells
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as replies:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what is printed must not be taken for an answer
        while _answer(sys.stdin.buffer, replies):
            pass


def _answer(requests: IO[bytes], replies: IO[bytes]) -> bool:
    """Meet one request; return False where there is none."""
    from tissue_crosstalk.core.plots.style import save_here

    try:
        request = pickle.load(requests)
        if "settings" in request:
            mpl.rcParams.update(request["settings"])
        else:
            [stem, draw], folder, suffixes = request["figures"]
            save_here([(stem, draw)], Path(folder), suffixes)
        reply = _DONE
    except EOFError:
        return False
    except Exception:  # the first process draws the figure itself, and says what is wrong
        reply = _FAILED
    replies.write(reply)
    replies.flush()
    # A figure is cycles of objects. What is left when they are gone stays, and need not be looked at again.
    request = draw = None
    gc.collect()
    gc.freeze()
    return True
