"""Attention against distance: one figure per receiver type, one panel per head, a colour per sender type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.distance import (
    COUNT,
    DISTANCE_BIN,
    HISTOGRAM_COLUMNS,
    MEAN,
    RECEIVER,
    SD,
    SENDER,
    TABLE_COLUMNS,
)
from tissue_crosstalk.core.errors import ParameterError, did_you_mean, listing
from tissue_crosstalk.core.plots._layout import (
    POINTS_PER_INCH,
    Canvas,
    check_colors,
    check_flavor,
    distance_ticks,
    grid,
    shorten,
    spread_apart,
    text_height,
    widest,
    wrap,
)
from tissue_crosstalk.core.plots.style import FONT_SIZE, TITLE_SIZE, figure_style, readable_on_white

MOST_COLUMNS: Final = 4
MOST_OPAQUE: Final = 8
MOST_TOGETHER: Final = 20
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "p")

# All in inches.
_LEFT: Final = 0.62
_RIGHT: Final = 0.12
_TOP: Final = 0.08
_BOTTOM: Final = 0.4
_PANEL_TITLE: Final = 0.2
_ROW_GAP: Final = 0.16
_COLUMN_GAP: Final = 0.16
_HISTOGRAM: Final = 0.45
_HISTOGRAM_GAP: Final = 0.1
_LEADER: Final = 0.26
_LABEL_STEP: Final = 0.12
_LABEL_DOT: Final = 0.18
_GROUP_GAP: Final = 0.12
_Y_LABEL: Final = 0.34
_X_LABEL: Final = 0.2
_HALF_LINE: Final = 0.5 * FONT_SIZE / POINTS_PER_INCH

_STEPS: Final = (1, 2, 2.5, 5, 10)


def plot_attention_summary(
    table: pd.DataFrame,
    receiver: str,
    *,
    palette: Mapping[str, str],
    n_heads: int,
    max_distance: float,
    bin_size: float,
    y_max: float | None = None,
    flavor: str = terms.VANILLA,
    sel_head: int | None = None,
    histogram: pd.DataFrame | None = None,
    distance_unit: str = "",
    min_bin_count: int = 50,
) -> Figure:
    """Draw how the attention of one receiver type falls with distance.

    Each panel is a head, each line a sender type: mean attention against the left edge of the distance bin, in a band
    of one standard deviation to either side. A line stops where a bin was dropped. Sender types are named at their
    lines, beside the last panel of the row. More than twenty are drawn in groups, each in panels of its own, those with
    the most attention in the first.

    Parameters
    ----------
    table
        What :meth:`tissue_crosstalk.core.distance.DistanceBins.table` returns. Other receivers' rows are ignored.
    receiver
        The receiver type.
    palette
        A colour for every cell type; its order is the order of the key.
    n_heads
        Number of heads of the patterns.
    max_distance
        Right end of the distance axis, in units of the coordinates.
    bin_size
        Width of a bin, in units of the coordinates.
    y_max
        Upper end of the attention axis for flavors other than vanilla: the largest attention kept over all receiver
        types. None: the top of the highest band drawn. Vanilla attention always has the axis from 0 to 1.
    flavor
        Flavor of the attention in `table`.
    sel_head
        Draw this head alone. None: all heads.
    histogram
        What :meth:`tissue_crosstalk.core.distance.DistanceBins.distance_histogram` returns, to be drawn below the
        first column (it is the same for all heads). None: no histogram.
    distance_unit
        Unit of the coordinates, such as "µm"; empty if unknown.
    min_bin_count
        What bins were dropped by, for the message where nothing is left.

    Returns
    -------
    matplotlib.figure.Figure
        Never empty: where no bin is left it says so.

    Raises
    ------
    ParameterError
        If `receiver` or a sender type has no colour, `sel_head` is not one of the heads, `flavor` is unknown, a column
        is missing, or a number is out of range.

    Examples
    --------
    >>> import pandas as pd
    >>> from tissue_crosstalk.core.plots.style import cell_type_palette
    >>> table = pd.DataFrame(
    ...     {"receiver": "B", "head_idx": 0, "sender": "T", "distance_bin": [0.0, 5.0], "mean": [0.5, 0.2],
    ...      "sd": 0.1, "count": 60}
    ... )
    >>> figure = plot_attention_summary(
    ...     table, "B", palette=cell_type_palette(["B", "T"]), n_heads=1, max_distance=20.0, bin_size=5.0
    ... )
    >>> len(figure.axes)
    1
    """
    _check_data(table, histogram, receiver, palette)
    _check_numbers(n_heads=n_heads, sel_head=sel_head, max_distance=max_distance, bin_size=bin_size, y_max=y_max)
    check_flavor(flavor)

    heads = list(range(n_heads)) if sel_head is None else [sel_head]
    rows = table[(table[RECEIVER] == receiver) & table[terms.HEAD_IDX].isin(heads)]
    distance_label = f"distance ({distance_unit})" if distance_unit else "distance"
    with figure_style():
        if rows.empty:
            unit = f" {distance_unit}" if distance_unit else ""
            return _draw_nothing(
                receiver,
                "Nothing to plot: no distance bin holds at least "
                f"{min_bin_count} edges nearer than {max_distance:g}{unit}.",
            )
        top = 1.0 if flavor == terms.VANILLA else y_max
        if top is None:
            top = float((rows[MEAN] + rows[SD].fillna(0.0)).max())
        if not top > 0:
            top = 1.0  # attention that is zero everywhere: a line at the bottom
        counts = None if histogram is None else histogram[histogram[RECEIVER] == receiver]
        styles = {name: (color, MARKERS[index // 8 % 8]) for index, (name, color) in enumerate(palette.items())}
        present = set(rows[SENDER].astype(str))
        senders = [name for name in palette if name in present]
        curves = _curves(rows, senders, bin_size)
        groups = _groups(curves, senders)
        panels = _arrange(receiver, heads, groups, with_histogram=counts is not None)
        ticks = _attention_ticks(top)
        for (head, group), panel in panels.axes.items():
            _draw_grid(panel, ticks, max_distance)
            _draw_head(
                panel, {name: curves[head][name] for name in groups[group] if name in curves.get(head, {})}, styles
            )
            if group == 0:
                panel.set_title(f"head {head}", y=1.0)  # with y given, no search for a free place: that takes long
            panel.set(xlim=(-0.02 * max_distance, max_distance), ylim=(0.0, top))
            # A tick costs as much time as a line: inner panels have the grid alone.
            panel.yaxis.set_major_locator(FixedLocator(ticks) if panel in panels.first_column else NullLocator())
            panel.xaxis.set_major_locator(NullLocator())
        for panel in panels.first_column:
            name = "attention" if flavor == terms.VANILLA else f"{flavor} attention"
            panel.set_ylabel(f"{name}\n(mean ± sd)" if flavor != terms.VANILLA else f"{name} (mean ± sd)")
            panel.yaxis.set_label_coords(-_Y_LABEL / panels.panel_width, 0.5)  # else it is placed by measuring all text
        along = FixedLocator(distance_ticks(max_distance, bin_size, panels.panel_width))
        for panel in panels.lowest:
            panel.xaxis.set_major_locator(along)
            panel.set_xlabel(distance_label)
            panel.xaxis.set_label_coords(0.5, -_X_LABEL / panels.panel_height)
        if panels.histogram is not None and counts is not None:
            _draw_histogram(panels.histogram, counts, bin_size)
            panels.histogram.set_xlim(-0.02 * max_distance, max_distance)
            panels.histogram.xaxis.set_major_locator(along)
            panels.histogram.set_xlabel(distance_label)
            panels.histogram.xaxis.set_label_coords(0.5, -_X_LABEL / _HISTOGRAM)
            panels.histogram.yaxis.set_label_coords(-_Y_LABEL / panels.panel_width, 0.5)
        for (head, group), panel in panels.labelled.items():
            _label_lines(panel, groups[group], curves.get(head, {}), styles, panels.panel_height, panels.panel_width)
        return panels.canvas.figure


class _Curve:
    """Mean and standard deviation of one line, a value per bin from its first to its last, nan where one is missing."""

    def __init__(
        self, position: NDArray[np.int64], mean: NDArray[np.float64], sd: NDArray[np.float64], bin_size: float
    ) -> None:
        first = int(position.min())
        n_bins = int(position.max()) - first + 1
        self.left_edge = np.arange(first, first + n_bins) * float(bin_size)
        self.mean = np.full(n_bins, np.nan)
        self.sd = np.full(n_bins, np.nan)
        self.mean[position - first] = mean
        self.sd[position - first] = sd

    def marked(self, every: int) -> list[int]:
        """Return which bins have a marker: every so many of those that are known, and those that stand alone."""
        known = np.flatnonzero(np.isfinite(self.mean))
        alone = [run.start for run in self.runs() if run.stop - run.start == 1]
        return sorted({*known[::every].tolist(), *alone})

    def runs(self) -> list[slice]:
        """Return the stretches without a missing bin."""
        known = np.concatenate([[False], np.isfinite(self.mean), [False]])
        edges = np.flatnonzero(known[1:] != known[:-1])
        return [slice(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


class _Panels:
    """The empty axes of a figure: one per head and group of senders, those that carry labels, the histogram's."""

    def __init__(self, canvas: Canvas, size: tuple[float, float]) -> None:
        self.canvas = canvas
        self.panel_width, self.panel_height = size
        self.axes: dict[tuple[int, int], Axes] = {}  # by (head, group)
        self.first_column: list[Axes] = []
        self.lowest: list[Axes] = []
        self.labelled: dict[tuple[int, int], Axes] = {}
        self.histogram: Axes | None = None


def _panel_size(n_heads: int, n_labels: int) -> tuple[float, float]:
    """Return width and height in inches of a panel beside which names have room."""
    width, height = (2.9, 2.1) if n_heads == 1 else (1.62, 1.35)
    return width, max(height, (n_labels - 1) * _LABEL_STEP + 2 * _HALF_LINE)


def _groups(curves: Mapping[int, Mapping[str, _Curve]], senders: Sequence[str]) -> list[list[str]]:
    """Return the senders in groups that can be told apart: one in their order, several by their highest mean."""
    n_groups = -(-len(senders) // MOST_TOGETHER)
    if n_groups == 1:
        return [list(senders)]
    highest = {
        name: max(float(np.nanmax(of_head[name].mean)) for of_head in curves.values() if name in of_head)
        for name in senders
    }
    ordered = sorted(senders, key=lambda name: -highest[name])
    sizes = [len(senders) // n_groups + (group < len(senders) % n_groups) for group in range(n_groups)]
    ends = np.cumsum(sizes).tolist()
    return [ordered[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _arrange(receiver: str, heads: Sequence[int], groups: Sequence[Sequence[str]], *, with_histogram: bool) -> _Panels:
    """Return empty panels in a figure that has room for their labels."""
    n_blocks, n_columns = grid(len(heads), MOST_COLUMNS)
    width, height = _panel_size(len(heads), max(map(len, groups)))
    block_step = _PANEL_TITLE + len(groups) * (height + _GROUP_GAP) - _GROUP_GAP + _ROW_GAP
    panels_width = n_columns * width + (n_columns - 1) * _COLUMN_GAP
    panels_height = n_blocks * block_step - _ROW_GAP
    below = _HISTOGRAM_GAP + _HISTOGRAM if with_histogram else 0.0
    total_width = _LEFT + panels_width + _LEADER + max(widest(group) for group in groups) + _RIGHT
    title = wrap(f"Receiver: {receiver}", total_width - 2 * _TOP)
    top = _TOP + text_height(title, TITLE_SIZE) + 0.05
    canvas = Canvas.of_size(total_width, top + panels_height + below + _BOTTOM)
    canvas.text(_TOP, _TOP, title, size=TITLE_SIZE, bold=True)

    panels = _Panels(canvas, (width, height))
    for index, head in enumerate(heads):
        block, column = divmod(index, n_columns)
        for group in range(len(groups)):
            panel = canvas.axes(
                _LEFT + column * (width + _COLUMN_GAP),
                top + block * block_step + _PANEL_TITLE + group * (height + _GROUP_GAP),
                width,
                height,
            )
            panels.axes[head, group] = panel
            if column == 0:
                panels.first_column.append(panel)
            if column == n_columns - 1 or head == heads[-1]:
                panels.labelled[head, group] = panel
        if index + n_columns >= len(heads):
            panels.lowest.append(panel)

    if with_histogram:
        panels.histogram = canvas.axes(_LEFT, top + panels_height + _HISTOGRAM_GAP, width, _HISTOGRAM)
        panels.lowest = [panel for panel in panels.lowest if panel is not panels.first_column[-1]]
    return panels


def _attention_ticks(top: float) -> list[float]:
    """Return round values from 0 to `top`."""
    values = MaxNLocator(5, steps=_STEPS, min_n_ticks=3).tick_values(0.0, top)
    return [float(value) for value in values if 0.0 <= value <= top * (1 + 1e-9)]


def _draw_grid(axes: Axes, ticks: Sequence[float], max_distance: float) -> None:
    """Draw faint lines at the ticks of the attention axis, as one artist."""
    x = np.tile([0.0, max_distance, np.nan], len(ticks) - 1)
    axes.add_artist(Line2D(x, np.repeat(ticks[1:], 3), color="#e8e8e8", linewidth=0.5, zorder=0, label="_grid"))


def _curves(rows: pd.DataFrame, senders: Sequence[str], bin_size: float) -> dict[int, dict[str, _Curve]]:
    """Return the lines of each head: ``{head: {sender: curve}}``, senders in the order given."""
    head = rows[terms.HEAD_IDX].to_numpy()
    sender = rows[SENDER].astype(str).to_numpy()
    position = np.rint(rows[DISTANCE_BIN].to_numpy(dtype=np.float64) / bin_size).astype(np.int64)
    mean = rows[MEAN].to_numpy(dtype=np.float64)
    sd = np.nan_to_num(rows[SD].to_numpy(dtype=np.float64))  # a single edge has no spread
    curves: dict[int, dict[str, _Curve]] = {}
    for number in np.unique(head).tolist():
        of_head = head == number
        curves[number] = {}
        for name in senders:
            own = of_head & (sender == name)
            if own.any():
                curves[number][name] = _Curve(position[own], mean[own], sd[own], bin_size)
    return curves


def _draw_head(axes: Axes, curves: Mapping[str, _Curve], styles: Mapping[str, tuple[str, str]]) -> None:
    """Draw bands below lines, for limits that are set already.

    One collection holds all bands, and lines are added as plain artists: a collection each, and limits that follow
    the data, would take most of the time.
    """
    polygons: list[NDArray[np.float64]] = []
    fills: list[tuple[float, float, float, float]] = []
    bars: list[NDArray[np.float64]] = []
    bar_colors: list[tuple[float, float, float, float]] = []
    alpha = 0.2 if len(curves) <= MOST_OPAQUE else 0.1
    every = 1 if len(curves) <= MOST_OPAQUE else 4  # a marker at every bin of many lines is in the way of others
    for name, curve in curves.items():
        color, marker = styles[name]
        low, high = curve.mean - curve.sd, curve.mean + curve.sd
        for run in curve.runs():
            x = curve.left_edge[run]
            if len(x) == 1:  # a band needs two points
                bars.append(np.array([[x[0], low[run][0]], [x[0], high[run][0]]]))
                bar_colors.append(to_rgba(color, 0.6))
                continue
            polygons.append(
                np.column_stack([np.concatenate([x, x[::-1]]), np.concatenate([low[run], high[run][::-1]])])
            )
            fills.append(to_rgba(color, alpha))
        axes.add_artist(
            Line2D(
                curve.left_edge,
                curve.mean,
                color=color,
                marker=marker,
                markevery=curve.marked(every),
                markersize=2.4,
                markeredgewidth=0.0,
                linewidth=1.0,
                label=name,
                zorder=3,
            )
        )
    axes.add_collection(PolyCollection(polygons, facecolors=fills, edgecolors="none", zorder=1), autolim=False)
    axes.add_collection(LineCollection(bars, colors=bar_colors, linewidths=0.8, zorder=2), autolim=False)


def _label_lines(
    axes: Axes,
    senders: Sequence[str],
    curves: Mapping[str, _Curve],
    styles: Mapping[str, tuple[str, str]],
    height: float,
    width: float,
) -> None:
    """Name each line to the right of the panel, at the height of its end where names leave room."""
    bottom, top = axes.get_ylim()
    left, right = axes.get_xlim()
    ends: list[tuple[float, float, str]] = []  # (height of the end, x of the end, sender)
    for name in senders:
        if name in curves:
            curve = curves[name]
            last = curve.runs()[-1].stop - 1
            ends.append((float(curve.mean[last]), float(curve.left_edge[last]), name))
        else:  # this head has no line of it, but other heads have
            ends.append((bottom, right, name))
    ends.sort()
    wanted = [(value - bottom) / (top - bottom) * height for value, _, _ in ends]
    placed = spread_apart(wanted, _LABEL_STEP, 0.0, height - _HALF_LINE)
    corner = 1 + 0.05 / width  # leaders run flat to the edge of the panel, then slant to the name
    leaders: list[list[tuple[float, float]]] = []
    dots: dict[str, list[tuple[float, float, str]]] = {marker: [] for _, marker in styles.values()}
    for (value, x, name), position in zip(ends, placed, strict=True):
        color, marker = styles[name]
        start, end = (value - bottom) / (top - bottom), (1 + _LABEL_DOT / width, position / height)
        leaders.append([((x - left) / (right - left), start), (corner, start), end])
        dots[marker].append((*end, color))
        axes.text(
            1 + _LEADER / width,
            position / height,
            shorten(name),
            transform=axes.transAxes,
            color=readable_on_white(color),
            va="center",
            ha="left",
            parse_math=False,
        )
    axes.add_artist(
        LineCollection(
            leaders,
            colors=[styles[name][0] for _, _, name in ends],
            linewidths=0.6,
            linestyles=[(0, (1.5, 1.5))],
            transform=axes.transAxes,
            clip_on=False,
            zorder=2,
            label="_leaders",
        )
    )
    for marker, places in dots.items():
        if places:
            x_of_dots, y_of_dots, shades = zip(*places, strict=True)
            axes.scatter(
                x_of_dots, y_of_dots, s=9.0, c=list(shades), marker=marker, linewidths=0.0, transform=axes.transAxes,
                clip_on=False, zorder=3, label="_dots",
            )  # fmt: skip


def _draw_histogram(axes: Axes, counts: pd.DataFrame, bin_size: float) -> None:
    """Draw how many edges each bin holds."""
    axes.bar(
        counts[DISTANCE_BIN].to_numpy(dtype=np.float64),
        counts[COUNT].to_numpy(dtype=np.float64),
        width=bin_size,
        align="edge",
        color="#9a9a9a",
        edgecolor="white",
        linewidth=0.3,
    )
    axes.set_ylabel("edges")
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=True, min_n_ticks=2))
    axes.set_ylim(0, max(float(counts[COUNT].max()) * 1.05, 1.0) if len(counts) else 1.0)


def _draw_nothing(receiver: str, message: str) -> Figure:
    """Return a figure that says why it is empty."""
    width = 3.6
    title = wrap(f"Receiver: {receiver}", width - 2 * _TOP)
    text = wrap(message, width - 2 * _TOP, FONT_SIZE)
    top = _TOP + text_height(title, TITLE_SIZE) + 0.06
    canvas = Canvas.of_size(width, top + text_height(text) + 2 * _TOP)
    canvas.text(_TOP, _TOP, title, size=TITLE_SIZE, bold=True)
    canvas.text(_TOP, top, text)
    return canvas.figure


def _check_data(table: pd.DataFrame, histogram: pd.DataFrame | None, receiver: str, palette: Mapping[str, str]) -> None:
    """Raise unless the tables have their columns, and every type to be drawn a colour."""
    for name, frame, columns in (("table", table, TABLE_COLUMNS), ("histogram", histogram, HISTOGRAM_COLUMNS)):
        missing = [] if frame is None else [column for column in columns if column not in frame.columns]
        if missing:
            raise ParameterError(f"`{name}` must have the columns {listing(columns)}. Missing: {listing(missing)}.")
    if receiver not in palette:
        raise ParameterError(
            f"`receiver` must be one of the cell types. Got {receiver!r} instead.{did_you_mean(receiver, palette)}"
        )
    check_colors(table.loc[table[RECEIVER] == receiver, SENDER], palette)


def check_head(n_heads: int, sel_head: int | None) -> None:
    """Raise :class:`~tissue_crosstalk.core.errors.ParameterError` unless there is such a head; None stands for all."""
    if sel_head is not None and not 0 <= sel_head < n_heads:
        raise ParameterError(f"`sel_head` must be None or lie between 0 and {n_heads - 1}. Got {sel_head!r} instead.")


def _check_numbers(
    *, n_heads: int, sel_head: int | None, max_distance: float, bin_size: float, y_max: float | None
) -> None:
    """Raise unless the numbers are in range."""
    if n_heads < 1:
        raise ParameterError(f"`n_heads` must be at least 1. Got {n_heads!r} instead.")
    check_head(n_heads, sel_head)
    for name, value in (("max_distance", max_distance), ("bin_size", bin_size)):
        if not (math.isfinite(value) and value > 0):
            raise ParameterError(f"`{name}` must be a positive number. Got {value!r} instead.")
    if y_max is not None and not (math.isfinite(y_max) and y_max >= 0):
        raise ParameterError(f"`y_max` must be a finite number of at least 0, or None. Got {y_max!r} instead.")
