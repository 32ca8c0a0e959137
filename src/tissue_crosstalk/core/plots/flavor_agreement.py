"""How far the flavors of attention agree on which edges are strong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tissue_crosstalk.core.errors import ParameterError, listing
from tissue_crosstalk.core.flavors import FLAVORS
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    check_colors,
    check_one_row_each,
    counts_of,
    key_height,
    key_width,
    part_squares,
    shorten,
    text_height,
    text_width,
    widest,
)
from tissue_crosstalk.core.plots.hub_style import DARK, MARGIN, require, sentence, slanted_height
from tissue_crosstalk.core.plots.style import figure_style, readable_on_white
from tissue_crosstalk.core.profiles import ALL_TYPES

MATRIX_TITLE: Final = "Rank correlation over all edges"
UNDEFINED: Final = "undefined"

# Greys: the colours belong to the cell types, whose names stand beside.
_SHAPES: Final = "os^Dv<P>"
_SHADES: Final = ((DARK, DARK), ("#9a9a9a", "#6a6a6a"), ("white", DARK))
"""Fill and outline of markers. With the shapes, whose number has no factor of theirs, 24 are told apart."""

_GRAY: Final = "#6a6a6a"
_FAINT: Final = "#e6e6e6"
_BAND: Final = "#f3f3f3"

# All in inches.
_CELL: Final = 0.42
_ROW: Final = 0.2
_ASIDE: Final = 0.045
_WIDTH: Final = 2.3
_GAP: Final = 0.4
_BELOW: Final = 0.4
_PAD: Final = 0.1


def plot_flavor_agreement(correlations: pd.DataFrame, palette: Mapping[str, str]) -> Figure:
    """Draw how far the flavors of attention agree: rank correlations over edges, of all and of each receiver type.

    Parameters
    ----------
    correlations
        A row per `flavor`, `other` and `receiver` with the rank correlation `spearman` over so many `edges`; `other`
        comes after `flavor` in the order of the flavors, and `receiver` is a cell type or "all types". The
        correlation is NaN where it is undefined.
    palette
        A colour for each cell type; receivers are in its order.

    Returns
    -------
    matplotlib.figure.Figure
        On the left the correlation of each two flavors over all edges. On the right a row per receiver type, with the
        correlation of the first flavor with each other one, and the number of edges; dotted lines go down from the
        correlations over all edges in the first row. With a single flavor, a sentence.

    Raises
    ------
    ParameterError
        If a column is missing, a flavor is unknown or does not come before the other, rows come twice, a correlation
        is not within -1 and 1, edges are no counts, or a type has no colour.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame(
    ...     {"flavor": "vanilla", "other": "value-weighted", "receiver": ["all types", "B"], "spearman": [0.9, 0.8],
    ...      "edges": [70, 30]}
    ... )
    >>> _, by_type = plot_flavor_agreement(table, {"B": "red"}).axes
    >>> [label.get_text() for label in by_type.get_yticklabels()]
    ['all types', 'B']
    """
    require("correlations", correlations, ("flavor", "other", "receiver", "spearman", "edges"))
    table = correlations.astype({"flavor": str, "other": str, "receiver": str, "spearman": float})
    order = list(FLAVORS)
    unknown = sorted({*table["flavor"], *table["other"]} - set(order))
    if unknown:
        raise ParameterError(
            f"`flavor` and `other` of `correlations` must be of {listing(order)}. Got {listing(unknown)} instead."
        )
    for flavor, other in zip(table["flavor"], table["other"], strict=True):
        if order.index(flavor) >= order.index(other):
            raise ParameterError(
                f"`flavor` must come before `other` in the order {listing(order)}. "
                f"Got {flavor!r} and {other!r} instead."
            )
    check_one_row_each("correlations", table, ("flavor", "other", "receiver"))
    outside = table["spearman"].abs() > 1 + 1e-9
    if outside.any():
        raise ParameterError(
            f"`spearman` of `correlations` must lie within -1 and 1. Got {table.loc[outside, 'spearman'].iloc[0]}."
        )
    table["edges"] = counts_of("`edges` of `correlations`", table["edges"])
    check_colors(set(table["receiver"]) - {ALL_TYPES}, palette)
    present = {*table["flavor"], *table["other"]}
    flavors = [flavor for flavor in order if flavor in present]
    with figure_style():
        if not flavors:
            return sentence("There is nothing to compare: attention has a single flavor.")
        return _draw(table, flavors, palette)


def _draw(table: pd.DataFrame, flavors: Sequence[str], palette: Mapping[str, str]) -> Figure:
    """Draw the matrix of flavors beside the rows of receiver types."""
    first, others = flavors[0], flavors[1:]
    of_first = table[table["flavor"] == first]
    present = set(of_first["receiver"])
    receivers = [name for name in (ALL_TYPES, *palette) if name in present]
    by_type = of_first.set_index(["receiver", "other"])["spearman"].unstack("other")
    values = by_type.reindex(index=receivers, columns=list(others)).to_numpy(dtype=np.float64)  # (receiver, other)
    counts = of_first.groupby("receiver")["edges"].max()
    edges = [f"{int(counts[name]):,}" for name in receivers]
    names = [shorten(name) for name in receivers]

    side = len(flavors) * _CELL
    matrix_left = MARGIN + widest(flavors) + _PAD
    rows_left = max(matrix_left + side, MARGIN + text_width(MATRIX_TITLE)) + _GAP + widest(names) + _PAD
    rows_height = len(receivers) * _ROW
    top = MARGIN + max(text_height(MATRIX_TITLE), key_height(1, 1)) + 0.08
    edges_width = max(map(text_width, [*edges, "edges"]))
    right = rows_left + _WIDTH + _PAD + edges_width
    key_room = key_width(others, len(others))
    key_left = min(rows_left, max(right - key_room, matrix_left + side + _GAP))
    total_width = max(right, key_left + key_room) + MARGIN
    total_height = top + max(side + slanted_height(flavors), rows_height + _BELOW) + MARGIN
    canvas = Canvas.of_size(total_width, total_height)

    canvas.text(MARGIN, MARGIN, MATRIX_TITLE)
    _draw_matrix(canvas.axes(matrix_left, top, side, side), _matrix(table, flavors), flavors)
    axes = canvas.axes(rows_left, top, _WIDTH, rows_height)
    _draw_rows(axes, values, with_all=receivers[0] == ALL_TYPES)
    axes.set_xlabel(f"rank correlation with {first} attention")
    axes.set_yticks(np.arange(len(receivers)), names)
    axes.tick_params(axis="y", length=0, pad=4)
    for label, name in zip(axes.get_yticklabels(), receivers, strict=True):
        label.set_color(DARK if name == ALL_TYPES else readable_on_white(palette[name]))
    beside = 1 + (_PAD + edges_width) / _WIDTH
    for row, text in enumerate(edges):
        axes.text(
            beside, row, text, transform=axes.get_yaxis_transform(), color=_GRAY, va="center_baseline", ha="right"
        )  # fmt: skip
    axes.text(
        beside, -0.06 / rows_height, "edges", transform=axes.transAxes, color=_GRAY, va="top", ha="right"
    )  # fmt: skip
    handles = [
        Line2D([], [], marker=marker, color=fill, markeredgecolor=outline, markeredgewidth=0.7, markersize=4.0,
               linestyle="none")
        for marker, fill, outline in map(_mark, range(len(others)))
    ]  # fmt: skip
    canvas.key(key_left, MARGIN, handles, others, n_columns=len(others))
    return canvas.figure


def _mark(number: int) -> tuple[str, str, str]:
    """Return marker, fill and outline of a flavor that is compared with the first."""
    return _SHAPES[number % len(_SHAPES)], *_SHADES[number % len(_SHADES)]


def _matrix(table: pd.DataFrame, flavors: Sequence[str]) -> NDArray[np.float64]:
    """Return the correlations over all edges, (flavor, other), NaN where unknown, and 1 on the diagonal."""
    matrix = np.full((len(flavors), len(flavors)), np.nan)
    np.fill_diagonal(matrix, 1.0)
    for row in table[table["receiver"] == ALL_TYPES].to_dict("records"):
        one, other = flavors.index(row["flavor"]), flavors.index(row["other"])
        matrix[one, other] = matrix[other, one] = row["spearman"]
    return matrix


def _draw_matrix(axes: Axes, matrix: NDArray[np.float64], flavors: Sequence[str]) -> None:
    """Draw the lower triangle with its numbers, rows named on the left, columns below."""
    number = np.arange(len(flavors))
    hidden = number[:, None] < number[None, :]
    shown = np.ma.masked_array(matrix, hidden | np.isnan(matrix))
    # From -1 to 1, though most are above 0: a colour means the same in every figure.
    axes.imshow(shown, cmap="RdBu", vmin=-1.3, vmax=1.3, aspect="auto", interpolation="nearest")
    for row, column in np.argwhere(~hidden):
        value = matrix[row, column]
        text = "1" if row == column else ("–" if np.isnan(value) else f"{value:.2f}".replace("-", "−"))
        axes.text(column, row, text, ha="center", va="center", color="white" if abs(value) > 0.72 else DARK)
    axes.set_xticks(number, flavors, rotation=45, ha="right", va="top", rotation_mode="anchor")
    axes.set_yticks(number, flavors)
    part_squares(axes, len(number), len(number), linewidth=1.0)
    axes.tick_params(length=0, pad=4)
    axes.spines[:].set_visible(False)


def _draw_rows(axes: Axes, values: NDArray[np.float64], *, with_all: bool) -> None:
    """Draw correlations, (receiver, other): a row per receiver, a marker per flavor, each a little aside.

    With all receivers in the first row, lines go down from there.
    """
    n_rows, n_others = values.shape
    known = values[np.isfinite(values)]
    axes.set(xlim=(min(0.0, float(known.min(initial=0.0))), 1.0), ylim=(n_rows - 0.5, -0.5))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    for row in range(1, n_rows, 2):
        axes.axhspan(row - 0.5, row + 0.5, color=_BAND, linewidth=0, zorder=0, label="_band")
    axes.grid(axis="x", color=_FAINT, linewidth=0.5)
    if axes.get_xlim()[0] < 0:
        axes.axvline(0.0, color=_GRAY, linewidth=0.6, zorder=1, label="_zero")
    for other in range(n_others):
        marker, fill, outline = _mark(other)
        aside = (other - (n_others - 1) / 2) * min(_ASIDE / _ROW, 0.7 / n_others)
        if with_all:
            axes.plot(
                [values[0, other]] * 2, [aside, n_rows - 0.5], color=outline, linewidth=0.7, linestyle=(0, (1, 2)),
                zorder=2, label="_all",
            )  # fmt: skip
        axes.scatter(
            values[:, other], np.arange(n_rows) + aside, s=14, c=fill, edgecolors=outline, linewidths=0.7,
            marker=marker, zorder=3, clip_on=False, label=f"_{other}",
        )  # fmt: skip
    for row in np.flatnonzero(np.isnan(values).all(axis=1)).tolist():
        axes.text(
            0.5, row, UNDEFINED, transform=axes.get_yaxis_transform(), color=_GRAY, va="center_baseline", ha="center",
            bbox={"facecolor": _BAND if row % 2 else "white", "linewidth": 0, "pad": 1.0},
        )  # fmt: skip
