"""Errors that tell the user what was expected, what came and what to do."""

from __future__ import annotations

import difflib
import math
import numbers
import unicodedata
from collections.abc import Iterable, Sequence


class CrosstalkError(ValueError):
    """Base of every error that tissue-crosstalk raises on purpose."""

    def __str__(self) -> str:
        return printable(super().__str__())  # names of files and cells may hold what steers a terminal


class TissueError(CrosstalkError):
    """The tissue (AnnData) does not hold what the method needs."""


class NeighborError(CrosstalkError):
    """A cell type has too few candidates to be its neighbors."""


class CheckpointError(CrosstalkError):
    """A model on disk cannot be read, or is not a model."""


class ParameterError(CrosstalkError):
    """A parameter is out of range, unknown, or contradicts another."""


class TrainingError(CrosstalkError):
    """Training cannot start or has diverged."""


class ResultError(CrosstalkError):
    """Stored results are missing, incomplete or of another run."""


class OutputError(CrosstalkError, OSError):
    """A result cannot be written. What was there before is as it was."""


class ClusterError(CrosstalkError):
    """The Dask cluster cannot be reached, or cannot do the work."""


def printable(text: str) -> str:
    r"""Return text in which every character can be seen: controls and the like become their escapes.

    What steers terminals, turns the direction of writing or has no width is data when it comes in a name. Spaces, tabs
    and line feeds stay.

    >>> printable("T\x1b[31m B")
    'T\\x1b[31m B'
    """
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the known name nearest to `name`, or an empty string."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return f" Did you mean {by_folded[close[0]]!r}?" if close else ""


def listing(names: Sequence[object], most: int = 8) -> str:
    """Return names as ``'a', 'b', 'c' and 12 more``."""
    shown = ", ".join(repr(str(name)) for name in names[:most])
    hidden = len(names) - most
    return f"{shown} and {hidden} more" if hidden > 0 else shown


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number (a truth value is not)."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is a finite number (a truth value is not)."""
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)


def check_whole(name: str, value: object, *, least: int) -> None:
    """Raise :class:`ParameterError` unless a parameter is a whole number of at least `least`."""
    if not (is_whole(value) and value >= least):  # type: ignore[operator]  # a whole number can be compared
        raise ParameterError(f"{name} must be {least} or more (a whole number). Got {value!r} instead.")


def check_seed(name: str, value: object) -> None:
    """Raise :class:`ParameterError` unless a parameter is a whole number that numpy takes as a seed."""
    if not (is_whole(value) and 0 <= value < 2**32):  # type: ignore[operator]  # as above
        raise ParameterError(f"{name} must be a whole number in [0, 2**32). Got {value!r} instead.")


def check_between(name: str, value: object, low: float, high: float) -> None:
    """Raise :class:`ParameterError` unless a parameter is a number strictly between two others."""
    if not (is_number(value) and low < value < high):  # type: ignore[operator]  # a number can be compared
        raise ParameterError(f"{name} must be above {low:g} and below {high:g}. Got {value!r} instead.")
