"""What the figures of hubs share: names, colours and order of hubs, checks of tables, and some parts of a figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator, ScalarFormatter
from numpy.typing import NDArray

from tissue_crosstalk.core.errors import ParameterError, is_number, listing
from tissue_crosstalk.core.hubs import ISOLATED
from tissue_crosstalk.core.plots._layout import POINTS_PER_INCH, Canvas, text_height, text_width, wrap
from tissue_crosstalk.core.plots.style import FONT_SIZE, distinct_colors, readable_on_white

ISOLATED_COLOR: Final = "#BDBDBD"
DARK: Final = "#1a1a1a"

# All in inches.
MARGIN: Final = 0.1
KEY_GAP: Final = 0.18
ROW: Final = 0.22
_LINE: Final = FONT_SIZE / POINTS_PER_INCH
_BAR: Final = 0.09
_WORD_GAP: Final = 0.03

_SLANT: Final = math.sqrt(0.5)  # names at 45 degrees


def hub_colors(n_hubs: int) -> list[str]:
    """Return a colour per hub, hub 0 first; the same in every figure of hubs.

    >>> hub_colors(2)
    ['#0072b2', '#e69f00']
    """
    return list(distinct_colors(n_hubs))


def hub_palette(hubs: Iterable[int]) -> dict[int, str]:
    """Return the colour of each of some hubs, in their order; a hub that is missing takes its colour with it.

    >>> hub_palette([-1, 1])
    {1: '#e69f00', -1: '#BDBDBD'}
    """
    ordered = in_order(hubs)
    colors = hub_colors(max(ordered, default=ISOLATED) + 1)
    return {hub: ISOLATED_COLOR if hub == ISOLATED else colors[hub] for hub in ordered}


def hub_name(hub: int) -> str:
    """Return what a hub is called in figures.

    >>> hub_name(3), hub_name(-1)
    ('hub 3', 'isolated')
    """
    return "isolated" if hub == ISOLATED else f"hub {hub}"


def in_order(hubs: Iterable[int]) -> list[int]:
    """Return the different hubs from the largest to the smallest, isolated cells last."""
    return sorted({int(hub) for hub in hubs}, key=lambda hub: (hub == ISOLATED, hub))


def hub_numbers(what: str, values: pd.Series) -> NDArray[np.int64]:
    """Return hubs as whole numbers; raise unless they are."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~(np.isfinite(numbers) & (numbers >= ISOLATED) & (numbers == np.round(numbers)))
    if wrong.any():
        raise ParameterError(
            f"{what} must hold whole numbers of at least 0, and {ISOLATED} for isolated cells. "
            f"Got {values.tolist()[int(np.argmax(wrong))]!r}."
        )
    return numbers.astype(np.int64)


def require(name: str, table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise unless a table has its columns."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ParameterError(f"`{name}` must have the columns {listing(columns)}. Missing: {listing(missing)}.")


def check_threshold(q_threshold: float) -> None:
    """Raise unless a threshold is in (0, 1]."""
    if not (is_number(q_threshold) and 0 < q_threshold <= 1):
        raise ParameterError(f"`q_threshold` must be above 0 and at most 1. Got {q_threshold!r} instead.")


def sentence(text: str) -> Figure:
    """Return a figure that says why it is empty."""
    width = min(text_width(text), 3.6)
    lines = wrap(text, width, FONT_SIZE) if width < text_width(text) else text
    canvas = Canvas.of_size(width + 2 * MARGIN, text_height(lines) + 2 * MARGIN)
    canvas.text(MARGIN, MARGIN, lines)
    return canvas.figure


def name_hub_rows(axes: Axes, hubs: Sequence[int], names: Sequence[str]) -> None:
    """Name the rows of a panel, the first at the top, each in the colour of its hub."""
    palette = hub_palette(hubs)
    axes.set_yticks(np.arange(len(hubs)), names)
    axes.set_ylim(len(hubs) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, pad=3)
    for label, hub in zip(axes.get_yticklabels(), hubs, strict=True):
        label.set_color(readable_on_white(palette[hub]))


def name_columns(axes: Axes, names: Sequence[str]) -> None:
    """Write names above the columns of a panel: at 45 degrees, leaning to the right, unless all are short."""
    axes.xaxis.tick_top()
    figure = axes.get_figure(root=True)
    assert figure is not None
    step = axes.get_position().width * figure.get_figwidth() / max(len(names), 1)
    upright = max(map(text_width, names), default=0.0) + _WORD_GAP <= step
    axes.set_xticks(
        np.arange(len(names)), names, rotation=0 if upright else 45, ha="center" if upright else "left", va="bottom",
        rotation_mode="anchor",
    )  # fmt: skip
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.tick_params(axis="x", length=0, pad=3)


def slanted_height(names: Sequence[str]) -> float:
    """Return how tall names at 45 degrees are, in inches."""
    return (max(map(text_width, names)) + _LINE) * _SLANT + 0.08


def slanted_overhang(names: Sequence[str], step: float) -> float:
    """Return how far names at 45 degrees reach beyond the last of columns `step` wide, in inches."""
    ends = (text_width(name) * _SLANT - (len(names) - 0.5 - index) * step for index, name in enumerate(names))
    return max(*ends, 0.0)


def color_bar(
    canvas: Canvas,
    colors: ScalarMappable,
    label: str,
    *,
    left: float,
    top: float,
    width: float,
    extend: Literal["neither", "min", "max", "both"] = "neither",
    whole: bool = False,
) -> None:
    """Draw a scale of colours, maybe of whole numbers, whose upper left corner is at (left, top), all in inches."""
    low, high = (float(end) for end in colors.get_clim() if end is not None)
    ticks, formatter = _numbers_of_bar(low, high, width, whole=whole)
    bar = canvas.figure.colorbar(
        colors,
        cax=canvas.axes(left, top, width, _BAR),
        orientation="horizontal",
        extend=extend,
        ticks=ticks,
        format=formatter,
    )
    bar.set_label(label)
    bar.outline.set_visible(False)


def _numbers_of_bar(low: float, high: float, width: float, *, whole: bool) -> tuple[list[float], Formatter]:
    """Return numbers to write below a scale `width` inches wide, as many as fit, and how to write them.

    No power of ten is written aside: that is where the label is.
    """
    formatter: Formatter
    if 1e-4 <= max(-low, high) < 1e6:
        formatter = ScalarFormatter()
        formatter.set_scientific(False)
    else:
        formatter = FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−"))
    rounding = 1e-9 * (high - low)
    ticks: list[float] = []
    for most in (4, 3, 2):
        found = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
        ticks = [float(tick) for tick in found if low - rounding <= tick <= high + rounding]
        if len(ticks) < 2:
            return ticks, formatter
        step = width * (ticks[1] - ticks[0]) / (high - low)
        if max(map(text_width, formatter.format_ticks(ticks))) + _WORD_GAP <= step:
            return ticks, formatter
    return [ticks[0], ticks[-1]], formatter


def color_bar_width(label: str, panel_width: float) -> float:
    """Return how wide a scale of colours below a panel is, in inches."""
    return max(min(panel_width, 2.4), *map(text_width, label.split("\n")))


def color_bar_height(label: str) -> float:
    """Return how tall a scale of colours is with its numbers and its label, in inches."""
    return _BAR + 0.28 + text_height(label)


def dot_handle(area: float, *, outlined: bool, color: str = "#c8c8c8") -> Line2D:
    """Return a dot of an area in square points, for a key."""
    return Line2D(
        [], [], color=color, marker="o", markersize=math.sqrt(area), linestyle="none",
        markeredgecolor=DARK, markeredgewidth=0.9 if outlined else 0.0,
    )  # fmt: skip
