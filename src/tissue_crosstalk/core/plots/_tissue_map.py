"""A map of the tissue: cells in the colours of groups that a key names, a panel per section."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from tissue_crosstalk.core.plots._layout import (
    Canvas,
    fit,
    grid,
    key_columns,
    key_height,
    key_width,
    text_height,
    wrap,
)
from tissue_crosstalk.core.plots._tissue_panels import (
    BELOW,
    PANEL_GAP,
    TITLE_HEIGHT,
    Tissue,
    TissuePanels,
    draw_cells,
)
from tissue_crosstalk.core.plots.hub_style import KEY_GAP, MARGIN
from tissue_crosstalk.core.plots.style import FONT_SIZE


def draw_map(
    tissue: Tissue,
    code: NDArray[np.int64],
    shades: NDArray[np.float64],
    labels: Sequence[str],
    colors: Sequence[str],
    *,
    title: str,
    distance_unit: str,
) -> Figure:
    """Draw one panel per section, and a key beside them.

    Parameters
    ----------
    tissue
        What to draw.
    code
        Which of the shades each cell has, of shape (cell,); -1 for those that lie beneath all others.
    shades
        Colours of shape (code, rgba); the last is that of -1.
    labels
        Entries of the key.
    colors
        Their colours.
    title
        What the map shows.
    distance_unit
        Unit of the coordinates; empty if unknown.
    """
    n_panels = len(tissue.cells)
    n_rows, n_columns = grid(n_panels, 1 if n_panels == 1 else (3 if n_panels <= 6 else 4))
    panels = TissuePanels(tissue, {1: 16.0, 2: 6.5, 3: 5.0}.get(n_columns, 3.2))
    title_height = TITLE_HEIGHT if tissue.names else 0.0
    row_step = panels.height + title_height + PANEL_GAP
    panels_width = n_columns * panels.width + (n_columns - 1) * PANEL_GAP
    panels_height = n_rows * row_step - PANEL_GAP

    columns = key_columns(len(labels), panels_height - title_height + BELOW)
    total_width = MARGIN + panels_width + KEY_GAP + key_width(labels, columns) + MARGIN
    note = tissue.note("counts are of all cells")
    note = wrap(note, total_width - 2 * MARGIN, FONT_SIZE) if note else ""
    above = MARGIN + (text_height(note, FONT_SIZE) + 0.06 if note else 0.0)
    overhang = max(key_height(len(labels), columns) - (panels_height - title_height + BELOW), 0.0)
    canvas = Canvas.of_size(total_width, above + panels_height + BELOW + overhang, title=title)
    if note:
        canvas.text(MARGIN, MARGIN, note)

    for index, (own, points) in enumerate(zip(tissue.cells, tissue.points, strict=True)):
        row, column = divmod(index, n_columns)
        axes = panels.axes(
            canvas, index, MARGIN + column * (panels.width + PANEL_GAP), above + row * row_step + title_height
        )
        draw_cells(axes, points, code[own], shades, panels.dot)
        if tissue.names:
            axes.set_title(fit(tissue.names[index], panels.width), y=1.0)
        if index + n_columns >= n_panels and column == 0:
            panels.scale_bar(axes, distance_unit)
    handles = [Line2D([], [], color=color, marker="o", markersize=4.5, linestyle="none") for color in colors]
    canvas.key(MARGIN + panels_width + KEY_GAP, above + title_height + 0.03, handles, labels, n_columns=columns)
    return canvas.figure
