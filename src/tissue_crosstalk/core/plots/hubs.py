"""Communication hubs: what they are made of, where in the tissue they lie, and how their number was chosen."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError, listing
from tissue_crosstalk.core.plots._layout import (
    POINTS_PER_INCH,
    Canvas,
    grid,
    key_columns,
    key_height,
    key_width,
    shorten,
    text_height,
    text_width,
    widest,
    wrap,
)
from tissue_crosstalk.core.plots.style import FONT_SIZE, distinct_colors, figure_style

MOST_SECTIONS: Final = 12
MOST_ANNOTATED: Final = 60
MOST_SINGLY_COLORED: Final = 100_000

# All in inches.
_MARGIN: Final = 0.1
_CELL_WIDTH: Final = 0.27
_CELL_HEIGHT: Final = 0.22
_KEY_GAP: Final = 0.18
_PANEL_GAP: Final = 0.14


def plot_hub_composition(hubs: pd.DataFrame, *, order: Sequence[str] | None = None) -> Figure:
    """Draw what each hub is made of: a heatmap of the mean share of strong neighbors.

    Parameters
    ----------
    hubs
        Indexed by obs name, one column per cell type with each cell's share of strong neighbors of that type, and
        `hub_cluster`. Cells without strong neighbors have a row of zeros, and count in the mean as such.
    order
        Cell types in the order of the columns to draw. None: as in `hubs`.

    Returns
    -------
    matplotlib.figure.Figure
        Rows are hubs, with their numbers of cells; columns are cell types. The shares are written into the squares
        where these are at most 60.

    Raises
    ------
    ParameterError
        If `hub_cluster` or a type in `order` is not a column, or `hubs` holds no cell or no type.

    Examples
    --------
    >>> import pandas as pd
    >>> hubs = pd.DataFrame({"B": [1.0, 0.0], "T": [0.0, 1.0], "hub_cluster": [0, 1]}, index=["a", "b"])
    >>> plot_hub_composition(hubs).axes[0].images[0].get_array().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if terms.HUB_CLUSTER not in hubs.columns:
        raise ParameterError(f"`hubs` must have the column {terms.HUB_CLUSTER!r}. Got {listing(list(hubs.columns))}.")
    cell_types = [column for column in hubs.columns if column != terms.HUB_CLUSTER] if order is None else list(order)
    missing = [name for name in cell_types if name not in hubs.columns]
    if missing:
        raise ParameterError(f"`order` must name columns of `hubs`. Missing: {listing(missing)}.")
    if hubs.empty or not cell_types:
        raise ParameterError(
            f"`hubs` must hold at least one cell and one cell type. Got {len(hubs)} cells and {len(cell_types)} types."
        )
    labels, inverse = np.unique(hubs[terms.HUB_CLUSTER].to_numpy(), return_inverse=True)
    sizes = np.bincount(inverse)  # (hub,)
    shares = hubs[cell_types].to_numpy(dtype=np.float64)  # (cell, type)
    mean = np.zeros((len(labels), len(cell_types)))
    np.add.at(mean, inverse, shares)
    mean /= sizes[:, None]
    with figure_style():
        return _draw_composition(mean, [f"hub {_whole(label)}" for label in labels], sizes, cell_types)


def plot_hub_map(
    coordinates: ArrayLike,
    hub_cluster: ArrayLike,
    section: ArrayLike | None = None,
    *,
    distance_unit: str = "",
    seed: int = 0,
    most_sections: int = MOST_SECTIONS,
) -> Figure:
    """Draw where in the tissue the cells of each hub lie.

    All panels have the same scale, of which a bar below the first is the measure. Cells are drawn in random order, so
    that no hub hides another; in an SVG they are one image, and all text is text.

    Parameters
    ----------
    coordinates
        Coordinates of shape (cell, 2) or (cell, 3), of which the first two are drawn.
    hub_cluster
        Hub of each cell, of shape (cell,).
    section
        Section of each cell, of shape (cell,): a panel each. None: all cells are of one section.
    distance_unit
        Unit of the coordinates, such as "µm"; empty if unknown.
    seed
        Seed of the order in which cells are drawn.
    most_sections
        Where there are more sections, only the largest are drawn, and the figure says so.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per section, in the order of their names.

    Raises
    ------
    ParameterError
        If shapes do not fit together, there is no cell, a coordinate is not finite, or `most_sections` is below 1.

    Examples
    --------
    >>> figure = plot_hub_map([[0.0, 0.0], [1.0, 2.0]], [0, 1], distance_unit="µm")
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['hub 0 (1 cell)', 'hub 1 (1 cell)']
    """
    points = np.asarray(coordinates, dtype=np.float64)
    hub = np.asarray(hub_cluster)
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ParameterError(f"`coordinates` must have the shape (cell, 2) or (cell, 3). Got {points.shape} instead.")
    points = points[:, :2]
    n_cells = len(points)
    where = np.zeros(n_cells, dtype=np.int64) if section is None else np.asarray(section).astype(str)
    for name, values in (("hub_cluster", hub), ("section", where)):
        if values.shape != (n_cells,):
            raise ParameterError(f"`{name}` must have the shape (cell,): expected ({n_cells},), got {values.shape}.")
    if n_cells == 0:
        raise ParameterError("`coordinates` must hold at least one cell. Got none.")
    if not np.isfinite(points).all():
        raise ParameterError("`coordinates` must be finite. Got nan or inf.")
    if most_sections < 1:
        raise ParameterError(f"`most_sections` must be at least 1. Got {most_sections!r} instead.")

    hubs, hub_code = np.unique(hub, return_inverse=True)
    sections, section_code, section_size = np.unique(where, return_inverse=True, return_counts=True)
    largest = np.argsort(-section_size, kind="stable")[:most_sections]
    drawn = sorted(largest.tolist(), key=lambda code: _natural(str(sections[code])))
    members = [np.flatnonzero(section_code == code) for code in drawn]
    generator = np.random.default_rng(seed)
    members = [generator.permutation(cells) for cells in members]
    with figure_style():
        counts = np.bincount(hub_code)
        labels = [f"hub {_whole(hubs[code])} ({_cells(int(counts[code]))})" for code in range(len(hubs))]
        titles = [] if section is None or len(sections) == 1 else [str(sections[code]) for code in drawn]
        note = ""
        if len(drawn) < len(sections):
            note = f"The {len(drawn)} largest of {len(sections)} sections; counts are of all cells."
        return _draw_map(
            [points[cells] for cells in members],
            [hub_code[cells] for cells in members],
            labels=labels,
            titles=titles,
            note=note,
            distance_unit=distance_unit,
        )


def plot_silhouette(silhouette: Mapping[int, float], chosen: int) -> Figure:
    """Draw the silhouette against the number of hubs, with the chosen number marked.

    Parameters
    ----------
    silhouette
        Mean silhouette for each number of hubs that was tried. Empty where the number was given.
    chosen
        The number of hubs that was chosen.

    Returns
    -------
    matplotlib.figure.Figure
        A line, or a sentence where nothing was tried.

    Raises
    ------
    ParameterError
        If `chosen` is not among the numbers that were tried.

    Examples
    --------
    >>> figure = plot_silhouette({2: 0.31, 3: 0.42, 4: 0.4}, chosen=3)
    >>> figure.axes[0].get_xlabel()
    'number of hubs'
    """
    if silhouette and chosen not in silhouette:
        raise ParameterError(
            f"`chosen` must be one of the numbers of hubs that were tried, {listing(sorted(silhouette), most=20)}. "
            f"Got {chosen!r} instead."
        )
    with figure_style():
        if not silhouette:
            text = f"The number of hubs was given ({chosen}): no silhouette was computed."
            canvas = Canvas.of_size(2 * _MARGIN + text_width(text), 2 * _MARGIN + text_height(text))
            canvas.text(_MARGIN, _MARGIN, text)
            return canvas.figure
        numbers = sorted(silhouette)
        values = [silhouette[number] for number in numbers]
        canvas = Canvas.of_size(3.2, 2.3)
        axes = canvas.axes(0.6, 0.35, 2.45, 1.5)
        axes.plot(numbers, values, color="#555555", marker="o", markersize=3.0, linewidth=1.0)
        axes.plot(
            [chosen], [silhouette[chosen]], color="#D55E00", marker="o", markersize=6.0, linestyle="none", zorder=4
        )
        axes.annotate(
            f"{chosen} hubs chosen",
            (chosen, silhouette[chosen]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center"
            if numbers[0] < chosen < numbers[-1] or len(numbers) == 1
            else ("left" if chosen == numbers[0] else "right"),
            va="bottom",
            color="#B34E00",
            annotation_clip=False,
        )
        axes.margins(x=0.06, y=0.12)
        axes.set_xlabel("number of hubs")
        axes.set_ylabel("mean silhouette")
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
        if len(numbers) <= 12:
            axes.set_xticks(numbers)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        return canvas.figure


def _whole(label: object) -> str:
    """Return a hub's label as text, 3.0 as 3."""
    return str(int(label)) if isinstance(label, float | np.floating) and float(label).is_integer() else str(label)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts "section 2" before "section 10"."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), "") if index % 2 else (1, 0, part.casefold()) for index, part in enumerate(parts)]


def _cells(count: int) -> str:
    """Return a number of cells with its unit."""
    return f"{count:,} cell" + ("" if count == 1 else "s")


def _draw_composition(
    mean: NDArray[np.float64], hub_names: Sequence[str], sizes: NDArray[Any], cell_types: Sequence[str]
) -> Figure:
    """Draw the heatmap of mean shares, of shape (hub, type)."""
    n_hubs, n_types = mean.shape
    names = [shorten(str(name)) for name in cell_types]
    rows = [f"{name} ({_cells(int(size))})" for name, size in zip(hub_names, sizes, strict=True)]
    annotated = mean.size <= MOST_ANNOTATED
    cell_width = 0.34 if annotated else _CELL_WIDTH
    slant = math.sqrt(0.5)  # names of types stand at 45 degrees above their column and lean to the right
    above = (max(text_width(name) for name in names) + FONT_SIZE / POINTS_PER_INCH) * slant + 0.08
    overhang = max(text_width(name) * slant - (n_types - 0.5 - index) * cell_width for index, name in enumerate(names))
    width, height = n_types * cell_width, n_hubs * _CELL_HEIGHT
    left = _MARGIN + widest(rows) + 0.1
    bar_label = "mean share of strong neighbors"
    bar_length = max(min(width, 2.4), text_width(bar_label))
    bar_top = _MARGIN + above + height + 0.22
    total_width = left + max(width + max(overhang, 0.0), bar_length) + _MARGIN + 0.05
    canvas = Canvas.of_size(total_width, bar_top + 0.09 + 0.4)

    axes = canvas.axes(left, _MARGIN + above, width, height)
    top = max(float(mean.max()), 1e-9)
    image = axes.imshow(mean, cmap="Blues", vmin=0.0, vmax=top, aspect="auto", interpolation="nearest")
    axes.set_yticks(np.arange(n_hubs), rows)
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(n_types), names, rotation=45, ha="left", va="bottom", rotation_mode="anchor")
    axes.tick_params(length=0, pad=3)
    axes.set_xticks(np.arange(1, n_types) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, n_hubs) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    if annotated:
        for (hub, cell_type), value in np.ndenumerate(mean):
            axes.text(
                cell_type,
                hub,
                f"{value:.2f}",
                ha="center",
                va="center",
                size=FONT_SIZE - 1,
                color="white" if value > 0.55 * top else "#1a1a1a",
            )
    bar = canvas.figure.colorbar(
        image,
        cax=canvas.axes(left, bar_top, bar_length, 0.09),
        orientation="horizontal",
        ticks=MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]),
    )
    bar.set_label(bar_label)
    bar.outline.set_visible(False)
    return canvas.figure


def _draw_map(
    points: Sequence[NDArray[np.float64]],
    codes: Sequence[NDArray[Any]],
    *,
    labels: Sequence[str],
    titles: Sequence[str],
    note: str,
    distance_unit: str,
) -> Figure:
    """Draw one panel per section: `points` (cell, 2) and hub `codes` (cell,) of each, `labels` of all hubs."""
    colors = distinct_colors(len(labels))
    low = np.array([cells.min(axis=0) for cells in points])  # (section, axis)
    high = np.array([cells.max(axis=0) for cells in points])
    extent = (high - low).max(axis=0)
    extent = np.maximum(extent, max(float(extent.max()), 1e-9) / 4)  # a tissue may be a single row of cells
    span = extent * 1.04
    n_rows, n_columns = grid(len(points), 1 if len(points) == 1 else (3 if len(points) <= 6 else 4))
    area = {1: 16.0, 2: 6.5, 3: 5.0}.get(n_columns, 3.2)  # square inches of a panel
    width = math.sqrt(area * span[0] / span[1])
    height = area / width
    title_height = 0.2 if titles else 0.0
    row_step = height + title_height + _PANEL_GAP
    panels_width = n_columns * width + (n_columns - 1) * _PANEL_GAP
    panels_height = n_rows * row_step - _PANEL_GAP
    below = 0.34

    columns = key_columns(len(labels), panels_height - title_height + below)
    total_width = _MARGIN + panels_width + _KEY_GAP + key_width(labels, columns) + _MARGIN
    note = wrap(note, total_width - 2 * _MARGIN, FONT_SIZE) if note else ""
    above = _MARGIN + (text_height(note, FONT_SIZE) + 0.06 if note else 0.0)
    overhang = max(key_height(len(labels), columns) - (panels_height - title_height + below), 0.0)
    canvas = Canvas.of_size(total_width, above + panels_height + below + overhang)
    if note:
        canvas.text(_MARGIN, _MARGIN, note)

    densest = max(len(cells) for cells in points)
    filled = 0.5 * width * height * POINTS_PER_INCH**2 * float(np.prod(extent / span))
    size = float(np.clip(filled / densest, 0.05, 24.0))  # square points; cells of the densest section fill half of it
    shades = to_rgba_array(colors)
    for index, (cells, code) in enumerate(zip(points, codes, strict=True)):
        row, column = divmod(index, n_columns)
        axes = canvas.axes(
            _MARGIN + column * (width + _PANEL_GAP), above + row * row_step + title_height, width, height
        )
        _scatter(axes, cells, code, shades, size)
        # Sections may lie anywhere in one system of coordinates: each is in the middle of its panel.
        middle = (low[index] + high[index]) / 2
        axes.set(
            xlim=(middle[0] - span[0] / 2, middle[0] + span[0] / 2),
            ylim=(middle[1] - span[1] / 2, middle[1] + span[1] / 2),
            xticks=[],
            yticks=[],
        )
        axes.set_aspect("equal", adjustable="box")
        axes.spines[:].set_visible(False)
        if titles:
            axes.set_title(_fitted(titles[index], width), y=1.0)
        if index + n_columns >= len(points) and column == 0:
            _draw_scale_bar(axes, float(span[0]), height, distance_unit)
    handles = [Line2D([], [], color=color, marker="o", markersize=4.5, linestyle="none") for color in colors]
    canvas.key(_MARGIN + panels_width + _KEY_GAP, above + title_height + 0.03, handles, labels, n_columns=columns)
    return canvas.figure


def _scatter(
    axes: Axes, cells: NDArray[np.float64], code: NDArray[Any], shades: NDArray[np.float64], size: float
) -> None:
    """Draw cells, of shape (cell, 2), in their order; many of them in blocks of one colour, six times as fast."""
    if len(cells) <= MOST_SINGLY_COLORED:
        axes.scatter(cells[:, 0], cells[:, 1], s=size, c=shades[code], linewidths=0, marker="o", rasterized=True)
        return
    for block in np.array_split(np.arange(len(cells)), 10):  # cells come in random order: no hub hides another
        for hub in range(len(shades)):
            own = block[code[block] == hub]
            axes.scatter(
                cells[own, 0], cells[own, 1], s=size, color=shades[hub], linewidths=0, marker="o", rasterized=True
            )


def _fitted(title: str, width: float) -> str:
    """Return a title cut to a width in inches."""
    length = 40
    while length > 6 and text_width(shorten(title, length)) > width:
        length -= 1
    return shorten(title, length)


def _draw_scale_bar(axes: Axes, span: float, height: float, distance_unit: str) -> None:
    """Draw a bar of a round length below a panel that is `span` units wide and `height` inches tall."""
    power = 10.0 ** math.floor(math.log10(span / 3))
    length = max(factor * power for factor in (1, 2, 5) if factor * power <= span / 3)
    share = length / span
    axes.plot(
        [0.0, share],
        [-0.06 / height] * 2,
        transform=axes.transAxes,
        color="#1a1a1a",
        linewidth=1.5,
        solid_capstyle="butt",
        clip_on=False,
        label="_scale",
    )
    axes.text(
        0.0,
        -0.1 / height,
        f"{length:g} {distance_unit}".strip(),
        transform=axes.transAxes,
        ha="left",
        va="top",
        parse_math=False,
    )
