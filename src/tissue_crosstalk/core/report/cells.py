"""How the values of a table are shown, and what they are sorted by."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

MISSING: Final = "–"
_MOST_WHOLE: Final = 1e15  # above, not every whole number is a float


@dataclass(frozen=True)
class Cell:
    """One value of a table.

    Parameters
    ----------
    text
        What is shown.
    value
        The number in full, in the notation of JavaScript, by which rows are sorted; None for what is not a number.
    is_rounded
        Whether `text` may say less than `value`.
    is_missing
        Whether there is no value.
    """

    text: str
    value: str | None = None
    is_rounded: bool = False
    is_missing: bool = False


@dataclass(frozen=True)
class Column:
    """One column of a table, with its cells from top to bottom."""

    name: str
    is_number: bool
    cells: tuple[Cell, ...]


def columns_of(frame: pd.DataFrame) -> tuple[Column, ...]:
    """Return the columns of a frame as they are shown. The index is left out.

    Parameters
    ----------
    frame
        Any frame; columns may have the same name.

    Returns
    -------
    tuple of Column
        Columns of numbers have values to sort by. Truth values, categories and all else are text. A column of floats
        that are whole throughout is shown as whole numbers: these are counts, of which some are missing.

    Examples
    --------
    >>> [cell.text for cell in columns_of(pd.DataFrame({"n": [1.0, None, 1200.0]}))[0].cells]
    ['1', '–', '1,200']
    """
    return tuple(_column(str(name), frame.iloc[:, position]) for position, name in enumerate(frame.columns))


def format_integer(value: int) -> str:
    """Return a whole number with thousands separators.

    Examples
    --------
    >>> format_integer(-15848)
    '−15,848'
    """
    return f"{value:,}".replace("-", "−")


def format_float(value: float) -> str:
    """Return a number with three significant digits, or all those before the decimal point.

    Parameters
    ----------
    value
        Any number, infinite ones as well, but not nan.

    Returns
    -------
    str
        Scientific below 0.001 and above a million.

    Examples
    --------
    >>> [format_float(value) for value in (0.12345, 99.96, 15848.2, 0.000123, -2e9)]
    ['0.123', '100', '15,848', '1.23e−4', '−2.00e9']
    """
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")  # rounded first: 99.96 has three digits as 100, not as 100.0
    power = int(exponent)
    if power < -3 or abs(value) > 1e6:
        return f"{mantissa}e{power}".replace("-", "−")
    return f"{value:,.{max(2 - power, 0)}f}".replace("-", "−")


def _column(name: str, series: pd.Series) -> Column:
    """Return one column, by the type of its values rather than its dtype: columns of objects are common."""
    values = list(series.array)  # a series itself makes floats of float32
    missing = [bool(pd.api.types.is_scalar(value) and pd.isna(value)) for value in values]
    present = [value for value, absent in zip(values, missing, strict=True) if not absent]
    is_number = (
        not isinstance(series.dtype, pd.CategoricalDtype)
        and all(isinstance(value, numbers.Real) and not isinstance(value, bool) for value in present)
        and (bool(present) or pd.api.types.is_numeric_dtype(series.dtype))
    )
    whole = is_number and _are_whole(present)
    cells = tuple(
        Cell(MISSING, is_missing=True) if absent else (_number(value, whole=whole) if is_number else Cell(_text(value)))
        for value, absent in zip(values, missing, strict=True)
    )
    return Column(name, is_number, cells)


def _are_whole(values: Sequence[Any]) -> bool:
    """Return whether all values are whole numbers."""
    return all(
        isinstance(value, numbers.Integral)
        or (math.isfinite(value) and float(value).is_integer() and abs(value) <= _MOST_WHOLE)
        for value in values
    )


def _number(value: Any, *, whole: bool) -> Cell:
    """Return the cell of a number."""
    if whole or isinstance(value, numbers.Integral):
        return Cell(format_integer(int(value)), value=str(int(value)))
    # str of a float32 is short, where that of the same value as float is not: 0.1, not 0.10000000149011612.
    exact = str(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    return Cell(format_float(float(value)), value=exact, is_rounded=True)


def _text(value: object) -> str:
    """Return a value that is no number, as text."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return str(value)
