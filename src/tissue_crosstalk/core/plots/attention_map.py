"""Where in the tissue attention is received and sent: cells in the colour of their sum of attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    check_flavor,
    fit,
    grid,
    key_width,
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
    check_lengths,
    draw_cells,
)
from tissue_crosstalk.core.plots.attention_matrix import BLUE, RED, bar_width, sequential_colors
from tissue_crosstalk.core.plots.hub_style import (
    KEY_GAP,
    MARGIN,
    color_bar,
    color_bar_height,
    sentence,
)
from tissue_crosstalk.core.plots.style import FONT_SIZE, TITLE_SIZE, figure_style
from tissue_crosstalk.core.profiles import RECEIVED, SENT

N_LEVELS: Final = 32
LIGHTEST: Final = 0.9
"""Lightness of cells without attention: they are to be seen on white."""
PERCENTILE: Final = 99.0
NOT_COMPUTED: Final = "not computed"
NOT_COMPUTED_COLOR: Final = "#cfcfcf"

LABELS: Final = {
    RECEIVED: "attention received\n(sum over neighbors, mean over heads)",
    SENT: "attention sent\n(sum over receivers, mean over heads)",
}
HUES: Final = {RECEIVED: BLUE, SENT: RED}

# All in inches.
_MOST_WIDTH: Final = 10.6
_PAIR_GAP: Final = 0.4
_INDENT: Final = 0.08
"""Of scales of colours, whose first number reaches beyond their left end."""


def plot_attention_map(
    coordinates: ArrayLike,
    received: ArrayLike,
    sent: ArrayLike,
    section: ArrayLike | None = None,
    *,
    flavor: str = terms.VANILLA,
    distance_unit: str = "",
    seed: int = 0,
    most_sections: int = MOST_SECTIONS,
) -> Figure:
    """Draw where in the tissue attention is received, and where it is sent.

    All panels have the same scale, of which a bar below the first of the lowest row is the measure. Cells are drawn in
    random order, so that neither high nor low attention hides the other, but those without a value beneath all others;
    in an SVG they are images, and all text is text.

    Parameters
    ----------
    coordinates
        Coordinates of shape (cell, 2) or (cell, 3), of which the first two are drawn.
    received
        Attention that each cell pays to its neighbors, summed over these, of shape (cell,); nan where not computed.
    sent
        Attention that other cells pay to each cell, summed over these, of shape (cell,); nan where not computed.
    section
        Section of each cell, of shape (cell,): two panels each. None: all cells are of one section.
    flavor
        Flavor of the attention.
    distance_unit
        Unit of the coordinates, such as "µm"; empty if unknown.
    seed
        Seed of the order in which cells are drawn.
    most_sections
        Where there are more sections, only the largest are drawn, and the figure says so.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels per section, received on the left and sent on the right; sections in the order of their names. Each
        quantity has one scale of 32 colours, from 0 to the 99th percentile of the cells that are drawn. Where there is
        no value at all, a sentence.

    Raises
    ------
    ParameterError
        If shapes do not fit together, there is no cell, a coordinate is not finite, attention is negative or infinite,
        `flavor` is unknown, or `most_sections` is below 1.

    Examples
    --------
    >>> figure = plot_attention_map([[0.0, 0.0], [1.0, 2.0]], [0.9, 0.8], [0.1, float("nan")], distance_unit="µm")
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['received', 'sent']
    """
    of_flavor = plot_attention_maps(
        coordinates,
        {flavor: (received, sent)},
        section,
        distance_unit=distance_unit,
        seed=seed,
        most_sections=most_sections,
    )
    return of_flavor[flavor]


def plot_attention_maps(
    coordinates: ArrayLike,
    received_and_sent: Mapping[str, tuple[ArrayLike, ArrayLike]],
    section: ArrayLike | None = None,
    *,
    distance_unit: str = "",
    seed: int = 0,
    most_sections: int = MOST_SECTIONS,
) -> dict[str, Figure]:
    """Draw a map of each of several flavors, of which the cells are put in order once.

    Parameters
    ----------
    coordinates, section, distance_unit, seed, most_sections
        As of :func:`plot_attention_map`, which says what is refused, too.
    received_and_sent
        Two arrays of shape (cell,) by flavor.

    Returns
    -------
    dict
        What :func:`plot_attention_map` returns, by flavor.
    """
    by_flavor = {
        flavor: {RECEIVED: np.asarray(received, dtype=np.float64), SENT: np.asarray(sent, dtype=np.float64)}
        for flavor, (received, sent) in received_and_sent.items()
    }
    for flavor in by_flavor:
        check_flavor(flavor)
    tissue = Tissue.of(coordinates, section, values={}, seed=seed, most_sections=most_sections)
    for values in by_flavor.values():
        _check(values, len(np.asarray(coordinates)))
    drawn = np.concatenate(tissue.cells)
    figures: dict[str, Figure] = {}
    with figure_style():
        for flavor, values in by_flavor.items():
            scales = {name: _Scale.of(given[drawn]) for name, given in values.items()}
            if all(np.isnan(given[drawn]).all() for given in values.values()):
                figures[flavor] = sentence("No attention to draw: it was not computed for any of these cells.")
            else:
                figures[flavor] = _draw(tissue, values, scales, flavor=flavor, distance_unit=distance_unit, seed=seed)
    return figures


def _check(values: Mapping[str, NDArray[np.float64]], n_cells: int) -> None:
    """Raise unless there is a value of each cell, at least 0 or nan."""
    check_lengths(values, n_cells)
    for name, given in values.items():
        wrong = (given < 0) | np.isinf(given)
        if wrong.any():
            raise ParameterError(
                f"`{name}` must hold numbers of at least 0, or nan. Got {float(given[np.argmax(wrong)])!r} instead."
            )


@dataclass(frozen=True)
class _Scale:
    """Colours of one quantity: `top` is where they end, `beyond` whether there are cells with more."""

    top: float
    beyond: bool

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> _Scale:
        """Return the scale for values of shape (cell,), which may be nan."""
        known = values[~np.isnan(values)]
        most = float(known.max()) if known.size else 0.0
        # Where hardly a cell has any attention, the percentile says nothing of those that have.
        top = (float(np.percentile(known, PERCENTILE)) if known.size else 0.0) or most or 1.0
        return cls(top, most > top)

    def level(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return which of the colours each value of shape (cell,) has; -1 for nan."""
        share = np.nan_to_num(values) / self.top
        level = np.minimum(share * N_LEVELS, N_LEVELS - 1).astype(np.int64)
        return np.where(np.isnan(values), -1, level)


def _arrange(tissue: Tissue) -> tuple[TissuePanels, int, int]:
    """Return how to draw sections, and the numbers of rows and of columns of their pairs of panels."""
    n_pairs = len(tissue.cells)
    for most in (1 if n_pairs == 1 else 2 if n_pairs <= 4 else 3, 2, 1):
        n_rows, n_columns = grid(n_pairs, most)
        panels = TissuePanels(tissue, 9.0 if n_pairs == 1 else {1: 5.0, 2: 4.0}.get(n_columns, 2.4))
        if n_columns == 1 or _pairs_width(panels, n_columns) <= _MOST_WIDTH:
            break
    return panels, n_rows, n_columns


def _pairs_width(panels: TissuePanels, n_columns: int) -> float:
    """Return how wide some pairs of panels are side by side, in inches."""
    return n_columns * (2 * panels.width + PANEL_GAP) + (n_columns - 1) * _PAIR_GAP


def _draw(
    tissue: Tissue,
    values: Mapping[str, NDArray[np.float64]],
    scales: Mapping[str, _Scale],
    *,
    flavor: str,
    distance_unit: str,
    seed: int,
) -> Figure:
    """Draw two panels per section; `values` are of shape (cell,)."""
    panels, n_rows, n_columns = _arrange(tissue)
    name_height = TITLE_HEIGHT if tissue.names else 0.0
    row_step = panels.height + name_height + PANEL_GAP
    pairs_height = n_rows * row_step - PANEL_GAP
    pairs_width = _pairs_width(panels, n_columns)

    drawn = np.concatenate(tissue.cells)
    partly = any(bool(np.isnan(given[drawn]).any()) for given in values.values())
    bar_widths = [bar_width(label, panels.width, scales[name].top) for name, label in LABELS.items()]
    first_bar = MARGIN + _INDENT
    second_bar = first_bar + max(bar_widths[0] + KEY_GAP, panels.width + PANEL_GAP)
    bars_right = second_bar + bar_widths[1]
    key_right = bars_right + KEY_GAP + key_width([NOT_COMPUTED], 1) if partly else bars_right
    title = f"Attention in the tissue ({flavor})"
    total_width = max(MARGIN + pairs_width, key_right, MARGIN + text_width(title)) + MARGIN
    title = wrap(title, total_width - 2 * MARGIN)
    note = tissue.note("color scales are of these")
    note = wrap(note, total_width - 2 * MARGIN, FONT_SIZE) if note else ""
    note_top = MARGIN + text_height(title, TITLE_SIZE) + 0.03
    top = note_top + (text_height(note) + 0.04 if note else 0.0) + TITLE_HEIGHT
    bars_top = top + pairs_height + BELOW + 0.06
    canvas = Canvas.of_size(total_width, bars_top + max(map(color_bar_height, LABELS.values())) + 0.05)
    canvas.text(MARGIN, MARGIN, title, size=TITLE_SIZE, bold=True)
    if note:
        canvas.text(MARGIN, note_top, note)

    generator = np.random.default_rng(seed)
    colors = {name: sequential_colors(HUES[name], lightest=LIGHTEST, n_colors=N_LEVELS) for name in values}
    shades = {
        name: np.vstack([of_levels(np.arange(N_LEVELS)), to_rgba(NOT_COMPUTED_COLOR)])
        for name, of_levels in colors.items()
    }  # (level, rgba) each, and of -1 the last
    for index, (own, points) in enumerate(zip(tissue.cells, tissue.points, strict=True)):
        row, column = divmod(index, n_columns)
        left = MARGIN + column * (2 * panels.width + PANEL_GAP + _PAIR_GAP)
        panel_top = top + row * row_step + name_height
        if tissue.names:
            canvas.text(left, panel_top - name_height + 0.03, fit(tissue.names[index], 2 * panels.width))
        for position, name in enumerate(values):
            axes = panels.axes(canvas, index, left + position * (panels.width + PANEL_GAP), panel_top)
            level = scales[name].level(values[name][own])
            draw_cells(axes, points, level, shades[name], panels.dot, generator=generator)
            if row == 0:
                axes.set_title(name, y=1.0 + name_height / panels.height)
            if index + n_columns >= len(tissue.cells) and column == 0 and position == 0:
                panels.scale_bar(axes, distance_unit)
    for name, left, width in zip(values, (first_bar, second_bar), bar_widths, strict=True):
        scale = ScalarMappable(Normalize(0.0, scales[name].top), colors[name])
        color_bar(
            canvas, scale, LABELS[name], left=left, top=bars_top, width=width,
            extend="max" if scales[name].beyond else "neither",
        )  # fmt: skip
    if partly:
        handle = Line2D([], [], color=NOT_COMPUTED_COLOR, marker="o", markersize=4.5, linestyle="none")
        canvas.key(bars_right + KEY_GAP, bars_top, [handle], [NOT_COMPUTED], n_columns=1)
    return canvas.figure
