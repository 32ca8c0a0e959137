"""Where in the tissue the cells of each type lie."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from tissue_crosstalk.core.plots._layout import check_colors, shorten
from tissue_crosstalk.core.plots._tissue_map import draw_map
from tissue_crosstalk.core.plots._tissue_panels import MOST_SECTIONS, Tissue
from tissue_crosstalk.core.plots.style import figure_style

_LONGEST_NAME = 28  # characters, beside which the number of cells is to be seen


def plot_cell_types(
    coordinates: ArrayLike,
    cell_types: ArrayLike,
    palette: Mapping[str, str],
    section: ArrayLike | None = None,
    *,
    distance_unit: str = "",
    seed: int = 0,
    most_sections: int = MOST_SECTIONS,
) -> Figure:
    """Draw where in the tissue the cells of each type lie.

    All panels have the same scale, of which a bar below the first is the measure. Cells are drawn in random order, so
    that no type hides another; in an SVG they are one image, and all text is text.

    Parameters
    ----------
    coordinates
        Coordinates of shape (cell, 2) or (cell, 3), of which the first two are drawn.
    cell_types
        Cell type of each cell, of shape (cell,).
    palette
        A colour for each cell type. Its order is that of the key.
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
        One panel per section, in the order of their names, and a key of the types that have cells, with their numbers.

    Raises
    ------
    ParameterError
        If shapes do not fit together, there is no cell, a coordinate is not finite, a type has no colour, or
        `most_sections` is below 1.

    Examples
    --------
    >>> figure = plot_cell_types([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]], ["T", "B", "T"], {"B": "red", "T": "blue"})
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['B (1)', 'T (2)']
    """
    given = np.asarray(cell_types)
    tissue = Tissue.of(coordinates, section, values={"cell_types": given}, seed=seed, most_sections=most_sections)
    names, code, sizes = np.unique(given.astype(str), return_inverse=True, return_counts=True)
    check_colors(names.tolist(), palette)
    counts = dict(zip(names.tolist(), sizes.tolist(), strict=True))
    shades = to_rgba_array([palette[name] for name in names.tolist()])
    shown = [name for name in palette if name in counts]
    with figure_style():
        return draw_map(
            tissue,
            code.astype(np.int64),
            np.vstack([shades, shades[-1:]]),  # no cell is of code -1, whose shade is the last
            [f"{shorten(name, _LONGEST_NAME)} ({counts[name]:,})" for name in shown],
            [palette[name] for name in shown],
            title="Cell types in the tissue",
            distance_unit=distance_unit,
        )
