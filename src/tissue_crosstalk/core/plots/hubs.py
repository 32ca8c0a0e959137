"""Communication hubs: what they are made of, and where in the tissue they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError, listing
from tissue_crosstalk.core.hubs import ISOLATED
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    part_squares,
    shorten,
    text_height,
    text_width,
    widest,
)
from tissue_crosstalk.core.plots._tissue_map import draw_map
from tissue_crosstalk.core.plots._tissue_panels import MOST_SECTIONS, Tissue
from tissue_crosstalk.core.plots.hub_style import (
    DARK,
    ISOLATED_COLOR,
    MARGIN,
    ROW,
    color_bar,
    color_bar_height,
    color_bar_width,
    hub_colors,
    hub_name,
    hub_numbers,
    hub_palette,
    name_columns,
    name_hub_rows,
    sentence,
    slanted_height,
    slanted_overhang,
)
from tissue_crosstalk.core.plots.style import FONT_SIZE, figure_style

MOST_ANNOTATED: Final = 60

_CELL_WIDTH: Final = 0.27  # inches


def plot_hub_composition(hubs: pd.DataFrame, *, order: Sequence[str] | None = None) -> Figure:
    """Draw what each hub is made of: a heatmap of the mean share of strong neighbors.

    Parameters
    ----------
    hubs
        Indexed by obs name, one column per cell type with each cell's share of strong neighbors of that type, and
        `hub_cluster`, which is -1 for isolated cells. Cells of a hub without strong neighbors have a row of zeros, and
        count in the mean as such.
    order
        Cell types in the order of the columns to draw. None: as in `hubs`.

    Returns
    -------
    matplotlib.figure.Figure
        Rows are hubs, with their numbers of cells; columns are cell types. The shares are written into the squares
        where these are at most 60. A note says how many cells are isolated. Where all are, a sentence.

    Raises
    ------
    ParameterError
        If `hub_cluster` or a type in `order` is not a column, a hub is no number of a hub, or `hubs` holds no cell or
        no type.

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
    hub = hub_numbers(f"`{terms.HUB_CLUSTER}` of `hubs`", hubs[terms.HUB_CLUSTER])
    in_hub = hub != ISOLATED
    n_isolated = int((~in_hub).sum())
    numbers, inverse, sizes = np.unique(hub[in_hub], return_inverse=True, return_counts=True)
    sums = [
        np.bincount(inverse, weights=hubs[name].to_numpy(dtype=np.float64)[in_hub], minlength=len(numbers))
        for name in cell_types
    ]
    mean = np.column_stack(sums) / sizes[:, None]
    with figure_style():
        if not len(numbers):
            return sentence(f"There is no hub: no cell has a strong neighbor ({_cells(n_isolated)}).")
        note = ""
        if n_isolated:
            cells, have = ("cell", "has") if n_isolated == 1 else ("cells", "have")
            share = 100 * n_isolated / len(hub)
            note = f"{n_isolated:,} isolated {cells} ({share:.1f}%) {have} no strong neighbor."
        return _draw_composition(mean, numbers.tolist(), sizes.tolist(), cell_types, note)


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
    that no hub hides another, but isolated cells beneath all others; in an SVG they are one image, and all text is
    text.

    Parameters
    ----------
    coordinates
        Coordinates of shape (cell, 2) or (cell, 3), of which the first two are drawn.
    hub_cluster
        Hub of each cell, of shape (cell,); -1 for isolated cells.
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
        If shapes do not fit together, there is no cell, a coordinate is not finite, a hub is no number of a hub, or
        `most_sections` is below 1.

    Examples
    --------
    >>> figure = plot_hub_map([[0.0, 0.0], [1.0, 2.0]], [-1, 0], distance_unit="µm")
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['hub 0 (1 cell)', 'isolated (1 cell)']
    """
    given = np.asarray(hub_cluster)
    tissue = Tissue.of(
        coordinates, section, values={"hub_cluster": given}, seed=seed, most_sections=most_sections
    )  # fmt: skip
    hub = hub_numbers("`hub_cluster`", pd.Series(given))
    with figure_style():
        return _draw_map(tissue, hub, distance_unit=distance_unit)


def _cells(count: int) -> str:
    """Return a number of cells with its unit."""
    return f"{count:,} cell" + ("" if count == 1 else "s")


def _name_and_size(hub: int, size: int) -> str:
    """Return what a hub is called, with its number of cells."""
    return f"{hub_name(hub)} ({_cells(size)})"


def _draw_composition(
    mean: NDArray[np.float64], hubs: Sequence[int], sizes: Sequence[int], cell_types: Sequence[str], note: str
) -> Figure:
    """Draw the heatmap of mean shares, of shape (hub, type), with a note below."""
    n_hubs, n_types = mean.shape
    names = [shorten(str(name)) for name in cell_types]
    rows = [_name_and_size(hub, size) for hub, size in zip(hubs, sizes, strict=True)]
    annotated = mean.size <= MOST_ANNOTATED
    cell_width = 0.34 if annotated else _CELL_WIDTH
    above = slanted_height(names)
    width, height = n_types * cell_width, n_hubs * ROW
    left = MARGIN + widest(rows) + 0.1
    bar_label = "mean share of strong neighbors"
    bar_length = color_bar_width(bar_label, width)
    bar_top = MARGIN + above + height + 0.22
    total_width = left + max(width + slanted_overhang(names, cell_width), bar_length) + MARGIN + 0.05
    note_top = bar_top + color_bar_height(bar_label) + 0.08
    canvas = Canvas.of_size(
        max(total_width, text_width(note) + 2 * MARGIN), note_top + (text_height(note) + MARGIN if note else 0.0),
        title="Strong neighbors of hubs by cell type",
    )  # fmt: skip

    axes = canvas.axes(left, MARGIN + above, width, height)
    top = max(float(mean.max()), 1e-9)
    image = axes.imshow(mean, cmap="Blues", vmin=0.0, vmax=top, aspect="auto", interpolation="nearest")
    name_hub_rows(axes, hubs, rows)
    name_columns(axes, names)
    part_squares(axes, n_hubs, n_types, linewidth=0.8)
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
                color="white" if value > 0.55 * top else DARK,
            )
    color_bar(canvas, image, bar_label, left=left, top=bar_top, width=bar_length)
    if note:
        canvas.text(MARGIN, note_top, note)
    return canvas.figure


def _draw_map(tissue: Tissue, hub: NDArray[np.int64], *, distance_unit: str) -> Figure:
    """Draw one panel per section; `hub` is of shape (cell,)."""
    numbers, counts = np.unique(hub, return_counts=True)
    sizes = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    palette = hub_palette(sizes)
    shades = to_rgba_array([*hub_colors(max(palette) + 1), ISOLATED_COLOR])  # the last is that of hub -1
    labels = [_name_and_size(one, sizes[one]) for one in palette]
    return draw_map(
        tissue, hub, shades, labels, list(palette.values()), title="Hubs in the tissue", distance_unit=distance_unit
    )
