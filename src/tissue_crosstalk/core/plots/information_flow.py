"""Where in the tissue information flows: arrows from those who are attended to, over cells in their types' colours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.quiver import Quiver
from numpy.typing import ArrayLike, NDArray

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    check_colors,
    fit,
    grid,
    key_columns,
    key_height,
    key_width,
    shorten,
    text_height,
    text_width,
    wrap,
)
from tissue_crosstalk.core.plots._tissue_panels import (
    BELOW,
    MOST_SECTIONS,
    PANEL_GAP,
    TITLE_HEIGHT,
    Tissue,
    TissuePanels,
    draw_cells,
)
from tissue_crosstalk.core.plots.effect_style import ARROW, at_least_one
from tissue_crosstalk.core.plots.hub_style import DARK, KEY_GAP, MARGIN, sentence
from tissue_crosstalk.core.plots.style import FONT_SIZE, TITLE_SIZE, figure_style

LIGHTENED: Final = 0.6
"""How far the colours of cells are on the way to white, so that arrows are seen on them."""
PERCENTILE: Final = 95.0
"""Of the lengths of arrows: longer ones are drawn as long as this one."""

# All in inches.
_MOST_WIDTH: Final = 8.0
"""Of panels side by side."""
_BIN: Final = 0.19
"""Between arrows."""
_LONGEST: Final = 0.2
_SHORTEST: Final = 0.06
_SHAFT: Final = 0.012
_KEY_ROW: Final = 0.2


@dataclass(frozen=True)
class _Arrows:
    """Arrows of one section: where they are, (arrow, axis), and the mean way to them, (arrow, axis)."""

    places: NDArray[np.float64]
    ways: NDArray[np.float64]

    def lengths(self) -> NDArray[np.float64]:
        """Return the lengths of the ways, (arrow,)."""
        lengths: NDArray[np.float64] = np.hypot(*self.ways.T)
        return lengths


def plot_information_flow(
    coordinates: ArrayLike,
    displacement: ArrayLike,
    attention: ArrayLike,
    cell_type: ArrayLike,
    palette: Mapping[str, str],
    section: ArrayLike | None = None,
    *,
    receiver: str | None = None,
    sender: str | None = None,
    distance_unit: str = "",
    min_cells: int = 3,
    seed: int = 0,
    most_sections: int = MOST_SECTIONS,
) -> Figure:
    """Draw from where information flows to receivers: an arrow per square of a grid, over the cells of a tissue.

    Parameters
    ----------
    coordinates
        Coordinates of shape (cell, 2) or (cell, 3), of which the first two are drawn.
    displacement, attention
        See :class:`tissue_crosstalk.core.information_flow.InformationFlow`: of shapes (cell, axis) and (cell,), nan
        for cells that are no receivers.
    cell_type
        Type of each cell, of shape (cell,).
    palette
        A colour for each cell type.
    section
        Section of each cell, of shape (cell,): a panel each. None: all cells are of one section.
    receiver, sender
        The pair that `displacement` is of, for the title; None: all types.
    distance_unit
        Unit of the coordinates, such as "µm"; empty if unknown.
    min_cells
        Squares with fewer receivers get no arrow: the direction of few is chance.
    seed
        Seed of the order in which cells are drawn.
    most_sections
        Where there are more sections, only the largest are drawn, and the figure says so.

    Returns
    -------
    matplotlib.figure.Figure
        An arrow is amid the receivers of its square, and comes from the side of those whom they attend
        to. Its length is proportional to the attention-weighted mean way to these, which is short where they are on all
        sides. Lengths have one scale in all panels, of which a key is the measure, and end at the 95th percentile.
        Where no cell is a receiver, a sentence.

    Raises
    ------
    ParameterError
        If shapes do not fit together, there is no cell, a number is infinite, attention is negative, a type has no
        colour, or `min_cells` or `most_sections` is below 1.

    Examples
    --------
    >>> places = [[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]]
    >>> ways = [[1.0, 0.0], [1.0, 0.0], [float("nan")] * 2]
    >>> figure = plot_information_flow(
    ...     places, ways, [0.5, 0.5, float("nan")], ["B", "B", "T"], {"B": "red", "T": "blue"}, min_cells=1
    ... )
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['B', 'T']
    """
    at_least_one(min_cells=min_cells)
    total, way = np.asarray(attention, dtype=np.float64), np.asarray(displacement, dtype=np.float64)
    types = np.asarray(pd.Series(cell_type).astype(str), dtype=object)
    tissue = Tissue.of(
        coordinates, section, values={"attention": total, "cell_type": types}, seed=seed, most_sections=most_sections
    )  # fmt: skip
    if way.ndim != 2 or way.shape[1] not in (2, 3) or len(way) != len(total):
        raise ParameterError(
            f"`displacement` must have the shape (cell, axis): expected ({len(total)}, 2) or ({len(total)}, 3). "
            f"Got {way.shape}."
        )
    way = way[:, :2]
    if np.isinf(way).any():
        raise ParameterError("`displacement` must be finite, or nan. Got inf.")
    wrong = (total < 0) | np.isinf(total)
    if wrong.any():
        raise ParameterError(
            f"`attention` must hold numbers of at least 0, or nan. Got {float(total[np.argmax(wrong)])!r} instead."
        )
    which, names = pd.factorize(types)
    check_colors(names, palette)
    position = {name: index for index, name in enumerate(palette)}
    code = np.array([position[name] for name in names], dtype=np.int64)[which]
    pair = f"{shorten(sender or 'all types')} {ARROW} {shorten(receiver or 'all types')}"
    with figure_style():
        if not (total > 0).any():
            return sentence(f"No information flow to draw ({pair}): no cell attends to another.")
        return _draw(
            tissue, way, total, code, palette, title=f"Information flow: {pair}", distance_unit=distance_unit,
            min_cells=min_cells,
        )  # fmt: skip


def _bin(
    points: NDArray[np.float64],
    way: NDArray[np.float64],
    total: NDArray[np.float64],
    size: float,
    min_cells: int,
) -> _Arrows:
    """Return an arrow for each square of a grid, `size` wide, with enough receivers; arrays are of (cell, …)."""
    known = np.flatnonzero((total > 0) & ~np.isnan(way).any(axis=1))
    points, way, total = points[known], way[known], total[known]
    square = np.floor((points - points.min(axis=0, initial=np.inf)) / size).astype(np.int64)
    width = int(square[:, 0].max(initial=0)) + 1
    _, place, counts = np.unique(square[:, 1] * width + square[:, 0], return_inverse=True, return_counts=True)
    enough = counts >= min_cells

    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        summed = np.bincount(place, weights=values, minlength=len(counts))[enough]
        return np.asarray(summed, dtype=np.float64)

    places: NDArray[np.float64] = np.column_stack([sums(points[:, axis]) / counts[enough] for axis in (0, 1)])
    ways: NDArray[np.float64] = np.column_stack([sums(way[:, axis]) / sums(total) for axis in (0, 1)])
    return _Arrows(places, ways)


def _draw(
    tissue: Tissue,
    way: NDArray[np.float64],
    total: NDArray[np.float64],
    code: NDArray[np.int64],
    palette: Mapping[str, str],
    *,
    title: str,
    distance_unit: str,
    min_cells: int,
) -> Figure:
    """Draw one panel per section; `way` (cell, axis), `total` and `code` (cell,)."""
    n_panels = len(tissue.cells)
    panels = TissuePanels(tissue, 20.0 if n_panels == 1 else (9.0 if n_panels <= 4 else 5.0))
    fitting = int((_MOST_WIDTH + PANEL_GAP) / (panels.width + PANEL_GAP))
    n_rows, n_columns = grid(n_panels, min(max(fitting, 1), 4))
    title_height = TITLE_HEIGHT if tissue.names else 0.0
    row_step = panels.height + title_height + PANEL_GAP
    panels_width = n_columns * panels.width + (n_columns - 1) * PANEL_GAP
    panels_height = n_rows * row_step - PANEL_GAP
    per_inch = panels.span / panels.width  # units of the coordinates
    arrows = [
        _bin(points, way[own], total[own], _BIN * per_inch, min_cells)
        for own, points in zip(tissue.cells, tissue.points, strict=True)
    ]
    longest = max(_percentile(np.concatenate([one.lengths() for one in arrows])), 1e-12)

    drawn = np.unique(code[np.concatenate(tissue.cells)])
    names, colors = list(palette), list(palette.values())
    labels = [names[index] for index in drawn]
    columns = key_columns(len(labels), panels_height - title_height - _KEY_ROW)
    key_length = _round_down(longest)
    key_text = f"{key_length:g} {distance_unit}".strip()
    key_label = "mean way from senders"
    key_left = MARGIN + panels_width + KEY_GAP
    right = max(key_width(labels, columns), _LONGEST + 0.08 + text_width(key_text), text_width(key_label))
    total_width = key_left + right + MARGIN
    title = wrap(title, total_width - 2 * MARGIN)
    n_arrows = sum(len(one.places) for one in arrows)
    caption = (
        "arrows: from those who are attended to, to their receivers, in squares with at least "
        f"{min_cells:,} receiver{'s' if min_cells > 1 else ''}"
        if n_arrows
        else f"no arrows: there is no square of the grid with {min_cells:,} receivers"
    )
    note = tissue.note("the scale of arrows is of these")
    caption = wrap(caption + (f". {note}" if note else ""), total_width - 2 * MARGIN, FONT_SIZE)
    caption_top = MARGIN + text_height(title, TITLE_SIZE) + 0.03
    above = caption_top + text_height(caption) + 0.08
    legend_top = above + title_height + 2 * _KEY_ROW + 0.08
    bottom = max(above + panels_height + BELOW, legend_top + key_height(len(labels), columns) + MARGIN)
    canvas = Canvas.of_size(total_width, bottom)
    canvas.text(MARGIN, MARGIN, title, size=TITLE_SIZE, bold=True)
    canvas.text(MARGIN, caption_top, caption)

    shades = to_rgba_array(colors)
    shades[:, :3] += LIGHTENED * (1 - shades[:, :3])
    for index, (own, points) in enumerate(zip(tissue.cells, tissue.points, strict=True)):
        row, column = divmod(index, n_columns)
        axes = panels.axes(
            canvas, index, MARGIN + column * (panels.width + PANEL_GAP), above + row * row_step + title_height
        )
        draw_cells(axes, points, code[own], shades, panels.dot)
        _draw_arrows(axes, arrows[index], longest)
        if tissue.names:
            axes.set_title(fit(tissue.names[index], panels.width), y=1.0)
        if index + n_columns >= n_panels and column == 0:
            panels.scale_bar(axes, distance_unit)
    _draw_key(canvas, key_left, above + title_height, key_label, key_text, _LONGEST * key_length / longest)
    handles = [Line2D([], [], color=colors[one], marker="o", markersize=4.5, linestyle="none") for one in drawn]
    canvas.key(key_left, legend_top, handles, labels, n_columns=columns)
    return canvas.figure


def _percentile(lengths: NDArray[np.float64]) -> float:
    """Return the length of the longest arrows; 0 without any."""
    return float(np.percentile(lengths, PERCENTILE)) if lengths.size else 0.0


def _round_down(length: float) -> float:
    """Return a round length that is not longer."""
    power = 10.0 ** math.floor(math.log10(length))
    return float(f"{max(factor * power for factor in (1, 2, 5) if factor * power <= length * (1 + 1e-9)):.6g}")


def _draw_arrows(axes: Axes, arrows: _Arrows, longest: float) -> None:
    """Draw arrows, with a rim that is seen on dark cells; those too short to have a direction are dots."""
    lengths = arrows.lengths()
    inches = np.minimum(lengths / longest, 1.0) * _LONGEST
    directed = inches >= _SHORTEST
    vectors = -arrows.ways[directed] / lengths[directed, None] * inches[directed, None]  # towards the receivers
    for color, width, order in (("white", _SHAFT + 0.014, 3.0), (DARK, _SHAFT, 4.0)):
        _quiver(axes, arrows.places[directed], vectors, color, width, order)
    dots = arrows.places[~directed]
    axes.scatter(
        dots[:, 0], dots[:, 1], s=2.2, c=DARK, linewidths=0, zorder=4, label="_undirected", clip_on=False
    )  # fmt: skip


def _quiver(
    axes: Axes, places: NDArray[np.float64], vectors: NDArray[np.float64], color: str, width: float, order: float
) -> Quiver:  # fmt: skip
    """Draw arrows of vectors in inches, whose middles are at places."""
    rim = width - _SHAFT
    head = 0.075 + rim
    return axes.quiver(
        *places.T, *vectors.T, angles="uv", scale_units="inches", scale=1.0, units="inches", width=width, pivot="mid",
        headwidth=(0.058 + rim) / width, headlength=head / width, headaxislength=0.85 * head / width, minlength=0.0,
        minshaft=1.0, color=color, zorder=order, clip_on=False, label="_arrows" if color == DARK else "_rims",
    )  # fmt: skip


def _draw_key(canvas: Canvas, left: float, top: float, label: str, text: str, length: float) -> None:
    """Draw an arrow of a round length, with what it means."""
    canvas.text(left, top, label)
    axes = canvas.axes(left, top + 0.14, _LONGEST, 0.14)
    axes.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)
    _quiver(axes, np.array([[length / _LONGEST / 2, 0.5]]), np.array([[length, 0.0]]), DARK, _SHAFT, 4.0)
    canvas.text(left + _LONGEST + 0.08, top + 0.155, text)
