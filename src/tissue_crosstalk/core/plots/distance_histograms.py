"""How far the neighbors of each receiver type are: a histogram of the lengths of its edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from tissue_crosstalk.core.distance import COUNT, DISTANCE_BIN, HISTOGRAM_COLUMNS, RECEIVER
from tissue_crosstalk.core.errors import ParameterError, is_number
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    check_colors,
    check_one_row_each,
    counts_of,
    distance_ticks,
    fit,
    grid,
    text_width,
)
from tissue_crosstalk.core.plots.hub_style import DARK, MARGIN, require, sentence
from tissue_crosstalk.core.plots.style import FONT_SIZE, figure_style, readable_on_white

MOST_COLUMNS: Final = 5
NOTE_SIZE: Final = FONT_SIZE - 0.5

_GRAY: Final = "#6a6a6a"

# All in inches.
_LEFT: Final = 0.55
_TITLE: Final = 0.3
"""Of the name of a type, and of what is noted below it."""
_BOTTOM: Final = 0.4
_ROW_GAP: Final = 0.1
_COLUMN_GAP: Final = 0.16


@dataclass(frozen=True)
class _Lengths:
    """Edges of one receiver type: `counts` in the bins that start at `left`, both (bin,), and those `beyond`."""

    left: NDArray[np.float64]
    right: NDArray[np.float64]
    counts: NDArray[np.int64]
    beyond: int

    @property
    def total(self) -> int:
        """Return the number of all edges."""
        return int(self.counts.sum()) + self.beyond

    def shares(self) -> NDArray[np.float64]:
        """Return which share of all edges each bin holds, (bin,)."""
        shares: NDArray[np.float64] = self.counts / self.total
        return shares

    def median(self) -> float | None:
        """Return the median length, edges spread evenly over their bin; None if it lies beyond all bins."""
        half = self.total / 2
        until = np.cumsum(self.counts)
        if not len(until) or until[-1] < half:
            return None
        place = int(np.searchsorted(until, half))
        before = until[place] - self.counts[place]
        inside = (half - before) / self.counts[place]
        return float(self.left[place] + inside * (self.right[place] - self.left[place]))


def plot_distance_histograms(
    histogram: pd.DataFrame,
    palette: Mapping[str, str],
    *,
    max_distance: float,
    bin_size: float,
    beyond: Mapping[str, int] | None = None,
    distance_unit: str = "",
) -> Figure:
    """Draw how far the neighbors of each receiver type are: a panel per type, with the median marked.

    Parameters
    ----------
    histogram
        A row per `receiver` and `distance_bin` (its left edge, in units of the coordinates) with the `count` of edges,
        as :meth:`tissue_crosstalk.core.distance.DistanceBins.distance_histogram` returns it.
    palette
        A colour for each cell type; panels are in its order.
    max_distance
        Right end of the distance axis, in units of the coordinates.
    bin_size
        Width of a bin, in units of the coordinates.
    beyond
        Edges of each receiver type that are `max_distance` long or longer. None: there are none, or nobody knows.
    distance_unit
        Unit of the coordinates, such as "µm"; empty if unknown.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each receiver type with edges: the share of its edges, those beyond among them, in each bin, all
        on the same axes. Above each the median, if it is not beyond, and the share of edges beyond. Without any edge,
        a sentence.

    Raises
    ------
    ParameterError
        If a column is missing, rows come twice, a bin is none of those below `max_distance`, counts are none, a type
        has no colour, or a length is not positive.

    Examples
    --------
    >>> import pandas as pd
    >>> histogram = pd.DataFrame({"receiver": "B", "distance_bin": [0.0, 5.0], "count": [1, 3]})
    >>> figure = plot_distance_histograms(
    ...     histogram, {"B": "red"}, max_distance=10.0, bin_size=5.0, beyond={"B": 4}, distance_unit="µm"
    ... )
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['B', 'median 10 µm', '50 % beyond']
    """
    for name, value in (("max_distance", max_distance), ("bin_size", bin_size)):
        if not (is_number(value) and value > 0):
            raise ParameterError(f"`{name}` must be a positive number. Got {value!r} instead.")
    require("histogram", histogram, HISTOGRAM_COLUMNS)
    check_one_row_each("histogram", histogram, (RECEIVER, DISTANCE_BIN))
    receiver = histogram[RECEIVER].astype(str).to_numpy()
    left = histogram[DISTANCE_BIN].to_numpy(dtype=np.float64)
    counts = counts_of("`count` of `histogram`", histogram[COUNT])
    far = {} if beyond is None else beyond
    further = dict(zip(far, counts_of("`beyond`", far.values()).tolist(), strict=True))
    check_colors([*receiver, *further], palette)
    place = np.rint(left / bin_size)
    wrong = ~((left >= 0) & (left < max_distance) & np.isclose(left, place * bin_size, rtol=1e-6, atol=1e-6 * bin_size))
    if wrong.any():
        raise ParameterError(
            f"`distance_bin` of `histogram` must hold multiples of `bin_size` ({bin_size:g}) from 0 to below "
            f"`max_distance` ({max_distance:g}). Got {left[int(np.argmax(wrong))]:g} instead."
        )
    lengths: dict[str, _Lengths] = {}
    for name in palette:
        own = np.flatnonzero(receiver == name)
        own = own[np.argsort(left[own])]
        edges = _Lengths(
            left[own], np.minimum(left[own] + bin_size, max_distance), counts[own], further.get(name, 0)
        )  # fmt: skip
        if edges.total:
            lengths[name] = edges
    with figure_style():
        if not lengths:
            return sentence("There are no edges: no cell has a neighbor.")
        return _draw(lengths, palette, float(max_distance), float(bin_size), distance_unit)


def _draw(
    lengths: Mapping[str, _Lengths],
    palette: Mapping[str, str],
    max_distance: float,
    bin_size: float,
    distance_unit: str,
) -> Figure:
    """Draw the panels, row by row."""
    n_rows, n_columns = grid(len(lengths), MOST_COLUMNS)
    notes = {name: (_median_note(edges, distance_unit), _beyond_note(edges)) for name, edges in lengths.items()}
    note_width = max(sum(text_width(text, NOTE_SIZE) for text in pair) for pair in notes.values()) + 0.1
    xlabel = f"distance ({distance_unit})" if distance_unit else "distance"
    width = max(2.2 if len(lengths) == 1 else 1.3, note_width, text_width(xlabel))
    height = 1.2 if len(lengths) == 1 else 0.8
    ticks = distance_ticks(max_distance, bin_size, width)
    gap = max(_COLUMN_GAP, max(text_width(f"{tick:g}") for tick in ticks) + 0.08)
    row_step = _TITLE + height + _ROW_GAP
    right = MARGIN + text_width(f"{ticks[-1]:g}") / 2
    canvas = Canvas.of_size(
        _LEFT + n_columns * width + (n_columns - 1) * gap + right, MARGIN + n_rows * row_step - _ROW_GAP + _BOTTOM,
        title="Distance to neighbors by receiver type",
    )  # fmt: skip
    top_share = max(max(float(edges.shares().max(initial=0.0)) for edges in lengths.values()) * 1.05, 1e-9)
    first: Axes | None = None
    for index, (name, edges) in enumerate(lengths.items()):
        row, column = divmod(index, n_columns)
        axes = canvas.axes(
            _LEFT + column * (width + gap), MARGIN + row * row_step + _TITLE, width, height,
            share_x=first, share_y=first,
        )  # fmt: skip
        lowest = index + n_columns >= len(lengths)
        axes.tick_params(labelleft=column == 0, labelbottom=lowest)
        _draw_panel(axes, edges, palette[name])
        color = readable_on_white(palette[name])
        axes.text(0, 1 + 0.16 / height, fit(name, width), transform=axes.transAxes, color=color, parse_math=False)
        for text, x, align in zip(notes[name], (0.0, 1.0), ("left", "right"), strict=True):
            if text:
                axes.text(
                    x, 1 + 0.04 / height, text, transform=axes.transAxes, color=_GRAY, size=NOTE_SIZE, ha=align
                )  # fmt: skip
        if lowest:
            axes.set_xlabel(xlabel)
        if column == 0:
            axes.set_ylabel("share of edges")
        first = first or axes
    if first is not None:
        first.set(xlim=(0.0, max_distance), ylim=(0.0, top_share))
        first.xaxis.set_major_locator(FixedLocator(ticks))
        first.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        first.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], min_n_ticks=3))
        first.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    return canvas.figure


def _draw_panel(axes: Axes, edges: _Lengths, color: str) -> None:
    """Draw the bars of one receiver type and the line of the median."""
    axes.bar(edges.left, edges.shares(), width=edges.right - edges.left, align="edge", color=color, linewidth=0)
    median = edges.median()
    if median is not None:
        axes.axvline(median, color="white", linewidth=1.7, zorder=3, label="_halo")  # seen on bars of any colour
        axes.axvline(median, color=DARK, linewidth=0.8, zorder=4, label="_median")


def _median_note(edges: _Lengths, distance_unit: str) -> str:
    """Return the median as text; empty if it lies beyond."""
    median = edges.median()
    return "" if median is None else f"median {median:.3g} {distance_unit}".rstrip()


def _beyond_note(edges: _Lengths) -> str:
    """Return which share of edges lies beyond, as text; empty if none does."""
    if not edges.beyond:
        return ""
    percent = 100 * edges.beyond / edges.total
    if percent < 1:
        return "< 1 % beyond"
    if 99 < percent < 100:
        return "> 99 % beyond"
    return f"{percent:.0f} % beyond"
