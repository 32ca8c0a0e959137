"""Placing axes, text and keys in inches, with text measured first: nothing overlaps, and no solver has to run."""

from __future__ import annotations

import functools
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.textpath import TextToPath
from numpy.typing import NDArray

from tissue_crosstalk.core.errors import ParameterError, did_you_mean, listing, printable
from tissue_crosstalk.core.flavors import FLAVORS
from tissue_crosstalk.core.plots._fonts import as_wide, families
from tissue_crosstalk.core.plots.style import FONT_SIZE, TITLE_SIZE

POINTS_PER_INCH: Final = 72.0
LONGEST_LABEL: Final = 40  # characters
_MOST_TICKS_PER_INCH: Final = 2.2
_TITLE_MARGIN: Final = 0.1  # inches

_HANDLE_LENGTH: Final = 1.6  # in font sizes, like the next three
_HANDLE_PAD: Final = 0.5
_COLUMN_GAP: Final = 1.6
_ROW_GAP: Final = 0.42
_ROW_HEIGHT: Final = 1.2 + _ROW_GAP


@dataclass(frozen=True)
class Canvas:
    """A new figure whose parts are placed in inches from its upper left corner.

    Attributes
    ----------
    figure
        The figure.
    width
        Its width, in inches.
    height
        Its height, in inches.
    above
        Height of its title, below which all parts are placed, in inches.
    """

    figure: Figure
    width: float
    height: float
    above: float = 0.0

    @classmethod
    def of_size(cls, width: float, height: float, *, title: str = "") -> Canvas:
        """Return an empty canvas of a width and a height in inches, with a title above, if any."""
        if not title:
            return cls(Figure(figsize=(width, height)), width, height)
        lines = wrap(title, width - 2 * _TITLE_MARGIN)
        above = text_height(lines, TITLE_SIZE) + 0.06
        titled = cls(Figure(figsize=(width, height + above)), width, height + above)
        titled.text(_TITLE_MARGIN, _TITLE_MARGIN, lines, size=TITLE_SIZE, bold=True)
        return replace(titled, above=above)

    def share_of_height(self, top: float) -> float:
        """Return where a place `top` inches below the title lies in the figure, whose upper end is 1."""
        return 1 - (self.above + top) / self.height

    def axes(
        self, left: float, top: float, width: float, height: float, *, share_x: Axes | None = None,
        share_y: Axes | None = None,
    ) -> Axes:  # fmt: skip
        """Add axes whose upper left corner is at (left, top), all in inches."""
        box = (left / self.width, self.share_of_height(top + height), width / self.width, height / self.height)
        return self.figure.add_axes(box, sharex=share_x, sharey=share_y)

    def text(self, left: float, top: float, text: str, *, size: float = FONT_SIZE, bold: bool = False) -> None:
        """Write text whose upper left corner is at (left, top), in inches."""
        self.figure.text(
            left / self.width, self.share_of_height(top), text, size=size, weight="bold" if bold else "normal",
            va="top", ha="left", linespacing=1.15, parse_math=False,
        )  # fmt: skip

    def key(self, left: float, top: float, handles: Sequence[Artist], labels: Sequence[str], *, n_columns: int) -> None:
        """Add a legend whose upper left corner is at (left, top), in inches."""
        # A label with a leading underscore would be left out, and a dollar sign be read as mathematics: set it later.
        legend: Legend = self.figure.legend(
            list(handles),
            ["label"] * len(handles),
            loc="upper left",
            bbox_to_anchor=(left / self.width, self.share_of_height(top)),
            ncols=n_columns,
            borderaxespad=0.0,
            borderpad=0.0,
            handlelength=_HANDLE_LENGTH,
            handletextpad=_HANDLE_PAD,
            columnspacing=_COLUMN_GAP,
            labelspacing=_ROW_GAP,
            fontsize=FONT_SIZE,
        )
        for text, label in zip(legend.get_texts(), labels, strict=True):
            text.set_parse_math(False)
            text.set_text(shorten(label))


def _on_one_line(label: str) -> str:
    """Return a label on one line, every character of which can be drawn or is an escape."""
    return printable(" ".join(str(label).split()))


def shorten(label: str, most: int = LONGEST_LABEL) -> str:
    """Return a label on one line, with its middle left out where it has more than `most` characters."""
    line = _on_one_line(label)
    if len(line) <= most:
        return line
    head = most // 2
    tail = most - 1 - head
    return f"{line[:head].rstrip()}…{line[len(line) - tail :].lstrip()}"


@functools.lru_cache(maxsize=4096)
def text_width(text: str, size: float = FONT_SIZE, *, bold: bool = False) -> float:
    """Return how wide one line of text is, in inches."""
    font = FontProperties(family=families(text), size=size, weight="bold" if bold else "normal")
    width, _, _ = TextToPath().get_text_width_height_descent(as_wide(text), font, False)
    return 1.04 * width / POINTS_PER_INCH  # hinting makes the glyphs of a PNG a little wider


def widest(texts: Sequence[str], size: float = FONT_SIZE) -> float:
    """Return how wide the widest of some lines is, in inches; 0 without any."""
    return max((text_width(shorten(text), size) for text in texts), default=0.0)


def wrap(text: str, width: float, size: float = TITLE_SIZE) -> str:
    """Return text broken into lines that are no wider than `width` inches (in bold), words broken where need be."""
    text = printable(text).replace("\t", " ")  # no font has a tab
    text = re.sub(r" ([<≤≥]) ", "\u00a0\\1\u00a0", text)  # no line ends within q < 0.05
    characters = max(len(text), 1)
    lines = text.split("\n")
    while (too_wide := max(text_width(line, size, bold=True) for line in lines) / width) > 1 and characters > 8:
        characters = min(characters - 1, int(max(len(line) for line in lines) / too_wide))
        lines = textwrap.wrap(text, max(characters, 8))
    return "\n".join(lines).replace("\u00a0", " ")


def text_height(text: str, size: float = FONT_SIZE) -> float:
    """Return how tall some lines of text are, in inches."""
    return (text.count("\n") + 1) * 1.35 * size / POINTS_PER_INCH


def key_columns(n_entries: int, height: float) -> int:
    """Return how many columns a key of some entries needs to be at most `height` inches tall."""
    rows = max(int(height * POINTS_PER_INCH / (FONT_SIZE * _ROW_HEIGHT)), 1)
    return max(math.ceil(n_entries / rows), 1)


def key_width(labels: Sequence[str], n_columns: int) -> float:
    """Return how wide a key is, in inches."""
    columns = np.array_split(np.array(labels, dtype=object), n_columns)  # as a Legend fills them
    around = n_columns * (_HANDLE_LENGTH + _HANDLE_PAD) + (n_columns - 1) * _COLUMN_GAP
    return sum(widest(column.tolist()) for column in columns) + around * FONT_SIZE / POINTS_PER_INCH


def key_height(n_entries: int, n_columns: int) -> float:
    """Return how tall a key is, in inches."""
    return math.ceil(n_entries / n_columns) * _ROW_HEIGHT * FONT_SIZE / POINTS_PER_INCH


def spread_apart(wanted: Sequence[float], gap: float, low: float, high: float) -> NDArray[np.float64]:
    """Return ascending positions at least `gap` apart, in [low, high] where there is room, nearest to those wanted.

    Parameters
    ----------
    wanted
        Positions, ascending.
    gap
        Smallest distance between two neighbours.
    low
        Lower limit.
    high
        Upper limit; passed over if the positions do not fit.

    Returns
    -------
    numpy.ndarray
        Positions of shape (position,) that minimise the sum of squared moves.
    """
    n_positions = len(wanted)
    offsets = np.arange(n_positions) * gap
    # Without the gaps the task is isotonic regression: pool neighbours that are out of order.
    blocks: list[tuple[float, int]] = []
    for value in np.asarray(wanted, dtype=np.float64) - offsets:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] > mean:
            before, n_before = blocks.pop()
            mean = (before * n_before + mean * size) / (n_before + size)
            size += n_before
        blocks.append((mean, size))
    pooled = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks]) if blocks else np.zeros(0)
    room = max(high - (n_positions - 1) * gap, low)
    positions: NDArray[np.float64] = np.clip(pooled, low, room) + offsets
    return positions


def grid(n_panels: int, most_columns: int) -> tuple[int, int]:
    """Return the (rows, columns) of a grid with rows as even as can be."""
    rows = math.ceil(n_panels / most_columns)
    return rows, math.ceil(n_panels / rows)


def fit(label: str, width: float, size: float = FONT_SIZE) -> str:
    """Return a label on one line no wider than `width` inches, with its middle left out where it is too long."""
    line = _on_one_line(label)
    most = len(line)
    while text_width(shortened := shorten(line, most), size) > width and most > 2:
        most -= 1
    return shortened


def check_colors(names: Iterable[object], palette: Mapping[str, str]) -> None:
    """Raise unless each of some cell types has a colour."""
    colorless = sorted({str(name) for name in names} - set(palette))
    if colorless:
        raise ParameterError(f"`palette` must give each cell type a color. Missing: {listing(colorless)}.")


def check_flavor(flavor: str) -> None:
    """Raise unless a flavor of attention is known."""
    known = list(FLAVORS)
    if flavor not in known:
        raise ParameterError(
            f"`flavor` must be one of {listing(known)}. Got {flavor!r} instead.{did_you_mean(str(flavor), known)}"
        )


def check_one_row_each(name: str, table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise if two rows of a table are the same in some columns."""
    twice = table.duplicated(list(columns)).to_numpy()
    if twice.any():
        row = table.iloc[int(np.argmax(twice))]
        raise ParameterError(
            f"`{name}` must have one row per {', '.join(columns)}. "
            f"Got several of {listing([row[column] for column in columns])}."
        )


def counts_of(what: str, values: Iterable[object]) -> NDArray[np.int64]:
    """Return counts as whole numbers of at least 0; raise unless they are."""
    given = list(values)
    numbers = np.asarray(pd.to_numeric(pd.Series(given, dtype=object), errors="coerce"), dtype=np.float64)
    wrong = ~(np.isfinite(numbers) & (numbers >= 0) & (numbers == np.round(numbers)))
    if wrong.any():
        raise ParameterError(
            f"{what} must hold whole numbers of at least 0. Got {given[int(np.argmax(wrong))]!r} instead."
        )
    return numbers.astype(np.int64)


def distance_ticks(max_distance: float, bin_size: float, width: float) -> list[float]:
    """Return the edges of distance bins to be marked on an axis: a round number of bins apart, as many as fit.

    Parameters
    ----------
    max_distance
        Right end of the axis, which begins at 0.
    bin_size
        Width of a bin.
    width
        Width of the axis, in inches.
    """
    n_bins = math.floor(max_distance / bin_size + 1e-9)
    for step in (multiple * 10**power for power in range(20) for multiple in (1, 2, 4, 5)):
        if n_bins // step < max(width * _MOST_TICKS_PER_INCH, 2):
            ticks = [number * bin_size for number in range(0, n_bins + 1, step)]
            room = width * step * bin_size / max_distance
            if len(ticks) == 1 or max(text_width(f"{tick:g}") for tick in ticks) + 0.08 < room:
                return ticks
    return [0.0]


def part_squares(axes: Axes, n_rows: int, n_columns: int, linewidth: float) -> None:
    """Draw white lines between the squares of a heatmap, as one artist: a grid would need a tick for each."""
    left, right, top, bottom = -0.5, n_columns - 0.5, -0.5, n_rows - 0.5
    ends = [point for x in np.arange(1, n_columns) - 0.5 for point in ((x, top), (x, bottom))]
    ends += [point for y in np.arange(1, n_rows) - 0.5 for point in ((left, y), (right, y))]
    if ends:
        lines = Path(ends, [Path.MOVETO, Path.LINETO] * (len(ends) // 2))
        axes.add_artist(
            PathPatch(lines, facecolor="none", edgecolor="white", linewidth=linewidth, zorder=0.5, label="_between")
        )
