"""One cell in the tissue, and how much it attends to each of its neighbors: a panel per head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError, is_whole
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    check_colors,
    check_flavor,
    grid,
    key_columns,
    key_height,
    key_width,
    shorten,
    text_height,
    wrap,
)
from tissue_crosstalk.core.plots._tissue_panels import BELOW, PANEL_GAP, TITLE_HEIGHT, Tissue, TissuePanels, draw_cells
from tissue_crosstalk.core.plots.hub_style import DARK, KEY_GAP, MARGIN
from tissue_crosstalk.core.plots.style import FONT_SIZE, TITLE_SIZE, figure_style

WIDEST_LINE: Final = 4.5  # points, of the largest attention
LEAST_LINE: Final = 0.35
MARGIN_AROUND: Final = 0.25
"""How far the panels reach beyond the farthest neighbor, as a share of its distance."""
FADED: Final = 0.3
"""How much of their colour cells have that are not neighbors; the rest is white."""

_LINE_COLOR: Final = "#8a8a8a"
_LEAST_DOT: Final = 4.0  # square points, of cells that are not neighbors
_MOST_DOT: Final = 14.0
_MOST_WIDTH: Final = 9.6  # inches, of all panels of a row


def plot_attention_of_cell(
    coordinates: ArrayLike,
    cell_types: ArrayLike,
    index_cell: int,
    neighbors: ArrayLike,
    attention: ArrayLike,
    palette: Mapping[str, str],
    *,
    name: str = "",
    heads: Sequence[int] | None = None,
    section: ArrayLike | None = None,
    flavor: str = terms.VANILLA,
    distance_unit: str = "",
) -> Figure:
    """Draw one cell with its surroundings, and lines to its neighbors that are as wide as its attention to them.

    Parameters
    ----------
    coordinates
        Coordinates of shape (cell, 2) or (cell, 3), of which the first two are drawn.
    cell_types
        Cell type of each cell, of shape (cell,).
    index_cell
        Which of the cells attends.
    neighbors
        Which of the cells are its neighbors, of shape (neighbor,); -1 where a slot is empty.
    attention
        Attention of the index cell to each neighbor, of shape (head, neighbor).
    palette
        A colour for each cell type. Its order is that of the key.
    name
        What the cell is called in the title. Empty: not at all.
    heads
        Number of each head, of shape (head,). None: 0, 1, ...
    section
        Section of each cell, of shape (cell,): only cells of the index cell's are drawn. None: all are of one section.
    flavor
        Flavor of the attention.
    distance_unit
        Unit of the coordinates, such as "µm"; empty if unknown.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per head, with the sum of its attention. Lines have the colour of the neighbor's type, and one scale
        of widths in all panels, proportional to attention down to a least width. The index cell has a dark rim;
        neighbors have the colours of their types, all other cells around them paler ones.

    Raises
    ------
    ParameterError
        If shapes do not fit together, there is no neighbor or head, a cell is none of those given or of another
        section, attention is negative or not finite, a coordinate is not finite, a type has no colour, or `flavor` is
        unknown.

    Examples
    --------
    >>> figure = plot_attention_of_cell(
    ...     [[0.0, 0.0], [3.0, 4.0], [0.0, 9.0]], ["T", "B", "B"], 0, [1, 2], [[0.75, 0.125]], {"T": "red", "B": "blue"}
    ... )
    >>> [axes.get_title() for axes in figure.axes]
    ['head 0: 0.88 in all']
    """
    check_flavor(flavor)
    points, types = np.asarray(coordinates, dtype=np.float64), np.asarray(cell_types)
    slots, values = np.asarray(neighbors), np.asarray(attention, dtype=np.float64)
    where = np.zeros(len(points), dtype=np.int64) if section is None else np.asarray(section)
    numbers = list(range(len(values))) if heads is None else [int(head) for head in heads]
    _check_cells(points, types, where)
    _check_attention(slots, values, numbers)
    used = slots[slots != terms.NO_NEIGHBOR]
    _check_places(len(points), index_cell, used, where)

    around = _around(points[:, :2], where, index_cell, used)
    check_colors(np.unique(types[around].astype(str)), palette)
    code_of = {cell_type: code for code, cell_type in enumerate(palette)}
    surroundings = _Surroundings(
        points=points[around, :2],
        codes=np.array([code_of[str(cell_type)] for cell_type in types[around]], dtype=np.int64),
        index_cell=int(np.searchsorted(around, index_cell)),
        neighbors=np.searchsorted(around, used).astype(np.int64),
    )
    title = f"Attention of {shorten(name) if name else 'a cell'}, which is {shorten(str(types[index_cell]))} ({flavor})"
    if len(used) == 1:
        caption = "the line to its only neighbor is as wide as its attention to it"
    else:
        caption = f"lines to its {len(used):,} neighbors are as wide as its attention to them"
    if flavor == terms.VANILLA:
        caption += "; what a head lacks to 1 in all goes to no neighbor"
    with figure_style():
        return _draw(
            surroundings,
            dict(zip(numbers, values[:, slots != terms.NO_NEIGHBOR], strict=True)),
            palette,
            title=title,
            caption=caption,
            distance_unit=distance_unit,
        )


@dataclass(frozen=True, eq=False)
class _Surroundings:
    """The cells to draw.

    Attributes
    ----------
    points
        Coordinates of shape (cell, 2).
    codes
        Which of the cell types each is, of shape (cell,).
    index_cell
        Which of them attends.
    neighbors
        Which of them are its neighbors, of shape (neighbor,).
    """

    points: NDArray[np.float64]
    codes: NDArray[np.int64]
    index_cell: int
    neighbors: NDArray[np.int64]


def _check_cells(points: NDArray[np.float64], types: NDArray[np.generic], where: NDArray[np.generic]) -> None:
    """Raise unless cells have coordinates, types and sections."""
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ParameterError(f"`coordinates` must have the shape (cell, 2) or (cell, 3). Got {points.shape} instead.")
    for what, given in (("cell_types", types), ("section", where)):
        if given.shape != points.shape[:1]:
            raise ParameterError(
                f"`{what}` must have the shape (cell,): expected {points.shape[:1]}, got {given.shape}."
            )
    if not np.isfinite(points).all():
        raise ParameterError("`coordinates` must be finite. Got nan or inf.")


def _check_attention(slots: NDArray[np.generic], values: NDArray[np.float64], heads: Sequence[int]) -> None:
    """Raise unless there is attention of each head to each neighbor."""
    if values.ndim != 2 or not values.size or slots.shape != values.shape[1:]:
        raise ParameterError(
            "`attention` must have the shape (head, neighbor), and `neighbors` the shape (neighbor,), at least one of "
            f"each. Got {values.shape} and {slots.shape} instead."
        )
    if len(heads) != len(values):
        raise ParameterError(f"`heads` must number the {len(values)} heads of `attention`. Got {len(heads)} numbers.")
    wrong = ~np.isfinite(values) | (values < 0)
    if wrong.any():
        raise ParameterError(f"`attention` must hold numbers of at least 0. Got {float(values[wrong][0])!r} instead.")


def _check_places(n_cells: int, index_cell: int, used: NDArray[Any], where: NDArray[np.generic]) -> None:
    """Raise unless the index cell and its neighbors are different cells of one section."""
    if not is_whole(index_cell) or not 0 <= index_cell < n_cells:
        raise ParameterError(f"`index_cell` must be one of the {n_cells} cells, from 0. Got {index_cell!r} instead.")
    if not len(used):
        raise ParameterError("`neighbors` must name at least one cell. All slots are empty.")
    if not np.issubdtype(used.dtype, np.integer) or not ((used >= 0) & (used < n_cells)).all():
        raise ParameterError(
            f"`neighbors` must hold positions of the {n_cells} cells, from 0, and {terms.NO_NEIGHBOR} where a slot is "
            f"empty. Got {used.min()} to {used.max()} of {used.dtype}."
        )
    if (used == index_cell).any() or (where[used] != where[index_cell]).any():
        raise ParameterError("`neighbors` must be other cells of the section of `index_cell`. Got itself, or others.")


def _around(
    points: NDArray[np.float64], where: NDArray[np.generic], index_cell: int, used: NDArray[np.generic]
) -> NDArray[np.int64]:
    """Return which cells lie in a square around the index cell that is a little wider than its neighbors reach."""
    away = np.abs(points - points[index_cell]).max(axis=1)
    reach = float(np.hypot(*(points[used] - points[index_cell]).T).max()) * (1 + MARGIN_AROUND)
    around: NDArray[np.int64] = np.flatnonzero((away <= reach) & (where == where[index_cell]))
    return around


def _arrange(tissue: Tissue, n_heads: int) -> tuple[TissuePanels, int, int]:
    """Return how to draw panels, and the numbers of their rows and columns."""
    for most in (4 if n_heads > 4 else 2, 2, 1):
        n_rows, n_columns = grid(n_heads, most)
        panels = TissuePanels(tissue, {1: 10.0, 2: 6.5}.get(n_columns, 4.4))
        if n_columns * panels.width <= _MOST_WIDTH:
            break
    return panels, n_rows, n_columns


def _draw(
    around: _Surroundings,
    attention: Mapping[int, NDArray[np.float64]],
    palette: Mapping[str, str],
    *,
    title: str,
    caption: str,
    distance_unit: str,
) -> Figure:
    """Draw one panel per head, whose `attention` is of shape (neighbor,), and what widths and colours mean."""
    tissue = Tissue.of(around.points, None, values={}, seed=0, most_sections=1)
    panels, n_rows, n_columns = _arrange(tissue, len(attention))
    row_step = TITLE_HEIGHT + panels.height + PANEL_GAP
    panels_width = n_columns * (panels.width + PANEL_GAP) - PANEL_GAP
    panels_height = n_rows * row_step - PANEL_GAP

    present = set(around.codes.tolist())
    types = [(name, color) for code, (name, color) in enumerate(palette.items()) if code in present]
    names = [shorten(name) for name, _ in types]
    n_key_columns = key_columns(len(names), panels_height - TITLE_HEIGHT)
    largest = max(float(values.max()) for values in attention.values())
    widths = _key_widths(largest)
    width_labels = [f"{value:g}" for value in widths[:-1]] + [f"{value:g} of attention" for value in widths[-1:]]
    widths_right = MARGIN + key_width(width_labels, len(widths)) if widths else 0.0
    key_left = MARGIN + panels_width + KEY_GAP
    total_width = max(key_left + key_width(names, n_key_columns), widths_right) + MARGIN
    title, caption = wrap(title, total_width - 2 * MARGIN), wrap(caption, total_width - 2 * MARGIN, FONT_SIZE)
    caption_top = MARGIN + text_height(title, TITLE_SIZE) + 0.03
    top = caption_top + text_height(caption) + 0.06
    beyond = max(key_height(len(names), n_key_columns) - (panels_height - TITLE_HEIGHT), 0.0)
    widths_top = top + panels_height + max(BELOW, beyond) + 0.02
    canvas = Canvas.of_size(total_width, widths_top + (text_height("0") + MARGIN if widths else 0.0))
    canvas.text(MARGIN, MARGIN, title, size=TITLE_SIZE, bold=True)
    canvas.text(MARGIN, caption_top, caption)

    shades = to_rgba_array(list(palette.values()))  # (type, rgba)
    for index, (head, values) in enumerate(attention.items()):
        row, column = divmod(index, n_columns)
        left, panel_top = MARGIN + column * (panels.width + PANEL_GAP), top + row * row_step + TITLE_HEIGHT
        axes = panels.axes(canvas, 0, left, panel_top)
        _draw_cells(axes, around, tissue.cells[0], shades, min(max(panels.dot, _LEAST_DOT), _MOST_DOT))
        _draw_lines(axes, around, values, _points_wide(values, largest), shades)
        axes.set_title(f"head {head}: {values.sum():.2g} in all")
        if row == n_rows - 1 and column == 0:
            panels.scale_bar(axes, distance_unit)
    dots = [Line2D([], [], color=color, marker="o", markersize=4.5, linestyle="none") for _, color in types]
    canvas.key(key_left, top + TITLE_HEIGHT + 0.03, dots, names, n_columns=n_key_columns)
    if widths:
        points_wide = _points_wide(np.array(widths), largest).tolist()
        lines = [Line2D([], [], color=_LINE_COLOR, linewidth=width) for width in points_wide]
        canvas.key(MARGIN, widths_top, lines, width_labels, n_columns=len(widths))
    return canvas.figure


def _points_wide(values: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Return how wide lines are, in points, (neighbor,)."""
    wide: NDArray[np.float64] = np.maximum(WIDEST_LINE * values / (largest or 1.0), LEAST_LINE)
    return wide


def _key_widths(largest: float) -> list[float]:
    """Return a few round values of attention of which to show the width of a line."""
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(0.0, largest) if largest > 0 else ()
    return [float(tick) for tick in ticks if 0 < tick <= largest]


def _draw_cells(
    axes: Axes, around: _Surroundings, order: NDArray[np.int64], shades: NDArray[np.float64], dot: float
) -> None:
    """Draw all cells in an order, paler, and above lines the neighbors and the index cell in the colours of types."""
    pale = FADED * shades + (1 - FADED)
    draw_cells(axes, around.points[order], around.codes[order], np.vstack([pale, pale[-1:]]), dot)
    center = np.array([around.index_cell])
    for cells, area, rim, width in ((center, 3.0 * dot, DARK, 1.0), (around.neighbors, 1.3 * dot, "white", 0.3)):
        axes.scatter(
            around.points[cells, 0], around.points[cells, 1], s=area, color=shades[around.codes[cells]],
            edgecolors=rim, linewidths=width, zorder=3, clip_on=False,
            label="_neighbors" if cells is around.neighbors else "_index",
        )  # fmt: skip


def _draw_lines(
    axes: Axes,
    around: _Surroundings,
    values: NDArray[np.float64],
    widths: NDArray[np.float64],
    shades: NDArray[np.float64],
) -> None:
    """Draw lines from the index cell to its neighbors, narrow ones above wide ones."""
    order = np.argsort(-values, kind="stable")
    ends = around.points[around.neighbors[order]]
    starts = np.broadcast_to(around.points[around.index_cell], ends.shape)
    axes.add_collection(
        LineCollection(
            np.stack([starts, ends], axis=1).tolist(),
            linewidths=widths[order].tolist(),
            colors=shades[around.codes[around.neighbors[order]]],
            zorder=2,
            label="_attention",
        ),
        autolim=False,
    )
