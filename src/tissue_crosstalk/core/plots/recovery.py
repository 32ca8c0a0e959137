"""Precision-recall curves of what was planted: edges, receivers and genes, a panel each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from tissue_crosstalk.core.errors import ParameterError, listing
from tissue_crosstalk.core.plots._layout import (
    POINTS_PER_INCH,
    Canvas,
    shorten,
    spread_apart,
    text_height,
    text_width,
    wrap,
)
from tissue_crosstalk.core.plots.style import FONT_SIZE, TITLE_SIZE, distinct_colors, figure_style, readable_on_white
from tissue_crosstalk.core.recovery import (
    AVERAGE_PRECISION,
    BASE_RATE,
    EDGES,
    GENES,
    NAME,
    PRECISION,
    RECALL,
    RECEIVERS,
    RECEIVERS_OF_TYPE,
    WHAT,
)

PANELS: Final = (
    ("edges to planted senders", (EDGES,)),
    ("receivers affected by a sender", (RECEIVERS, RECEIVERS_OF_TYPE)),
    ("genes shifted by a sender", (GENES,)),
)
"""Title of each panel, and the rankings that it shows."""

TITLE: Final = "Recovery of what was planted"
EXPLANATION: Final = (
    "Beside each curve its average precision, the area below it. Dashed: base rate, the precision of a random ranking."
)

# All in inches.
_MARGIN: Final = 0.08
_LEFT: Final = 0.5
_WIDTH: Final = 1.9
_HEIGHT: Final = 1.7
_PANEL_TITLE: Final = 0.2
_BOTTOM: Final = 0.38
_LABEL_STEP: Final = 0.135
_LABEL: Final = 0.22
_GAP: Final = 0.3
"""Between the names of a panel and the axis labels of the next."""

_BASE_COLOR: Final = "#666666"
_ALL_COLOR: Final = "#1a1a1a"
_UNKNOWN_COLOR: Final = "#8c8c8c"
"""Of types that the truth names and the tissue does not have."""


@dataclass(frozen=True)
class _Curve:
    """One ranking, as it is drawn: `recall` and `precision`, (point,), are the upper right corners of its steps."""

    label: str
    color: str
    average_precision: float
    base_rate: float
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]


@dataclass(frozen=True)
class _Panel:
    """What one panel shows; `undefined` are the names of rankings without a curve."""

    title: str
    curves: Sequence[_Curve]
    undefined: Sequence[str]

    def note(self) -> str:
        """Return what is written below the panel; empty where every ranking has its curve."""
        if not self.curves and not self.undefined:
            return "Nothing to rank: no interaction was planted."
        return f"Not defined: {', '.join(self.undefined)}." if self.undefined else ""

    def base_rates(self) -> list[str]:
        """Return the different base rates as text, from low to high."""
        return list(dict.fromkeys(f"{rate:.2g}" for rate in sorted(curve.base_rate for curve in self.curves)))

    def labels(self) -> list[tuple[float, str, str]]:
        """Return height, text and colour of every name beside the panel, from low to high."""
        labels = [(curve.average_precision, curve.label, curve.color) for curve in self.curves]
        rates = self.base_rates()
        if rates:
            text = f"base rate {rates[0]}" if len(rates) == 1 else f"base rates {rates[0]} to {rates[-1]}"
            labels.append((float(np.mean([curve.base_rate for curve in self.curves])), text, _BASE_COLOR))
        return sorted(labels, key=lambda label: label[0])


def plot_precision_recall(recovery: pd.DataFrame, curves: pd.DataFrame, palette: Mapping[str, str]) -> Figure:
    """Draw precision against recall of edges per flavor, affected receivers, and genes per interaction.

    Curves are steps, the area below which is the average precision. Each is named to the right of its panel, at the
    height of its average precision; a dashed line is the base rate, which a random ranking would have.

    Parameters
    ----------
    recovery
        What :func:`tissue_crosstalk.core.recovery.tabulate` returns first.
    curves
        What it returns second.
    palette
        Colour of each cell type: receivers have that of their type, genes that of the sender.

    Returns
    -------
    matplotlib.figure.Figure
        Three panels side by side. Rankings without an average precision are named below their panel.

    Raises
    ------
    ParameterError
        If a column is missing.
    """
    for name, table, columns in (
        ("recovery", recovery, (WHAT, NAME, AVERAGE_PRECISION, BASE_RATE)),
        ("curves", curves, (WHAT, NAME, RECALL, PRECISION)),
    ):
        missing = [column for column in columns if column not in table.columns]
        if missing:
            raise ParameterError(f"`{name}` must have the columns {listing(columns)}. Missing: {listing(missing)}.")
    panels = [_panel(title, recovery[recovery[WHAT].isin(kinds)], curves, palette) for title, kinds in PANELS]
    with figure_style():
        return _draw(panels)


def _panel(title: str, recovery: pd.DataFrame, curves: pd.DataFrame, palette: Mapping[str, str]) -> _Panel:
    of_flavors = dict(zip(recovery[NAME], distinct_colors(len(recovery)), strict=True))
    drawn, undefined = [], []
    for row in recovery.to_dict("records"):
        name, color = shorten(str(row[NAME])), palette.get(row[NAME], _UNKNOWN_COLOR)
        if row[WHAT] == EDGES:
            color = of_flavors[row[NAME]]
        elif row[WHAT] == RECEIVERS:
            color = _ALL_COLOR
        elif row[WHAT] == GENES:
            name, color = _pair(str(row[NAME]), palette)
        if not np.isfinite(row[AVERAGE_PRECISION]):
            undefined.append(name)
            continue
        points = curves[(curves[WHAT] == row[WHAT]) & (curves[NAME] == row[NAME])]
        drawn.append(
            _Curve(
                label=f"{name}  {row[AVERAGE_PRECISION]:.2f}",
                color=color,
                average_precision=row[AVERAGE_PRECISION],
                base_rate=row[BASE_RATE],
                recall=points[RECALL].to_numpy(),
                precision=points[PRECISION].to_numpy(),
            )
        )
    return _Panel(title, drawn, undefined)


def _pair(name: str, palette: Mapping[str, str]) -> tuple[str, str]:
    """Return what an interaction, ``"<sender> to <receiver>"``, is called in a figure, and its sender's colour."""
    for sender, color in palette.items():
        receiver = name.removeprefix(f"{sender} to ")
        if receiver != name and receiver in palette:
            return f"{shorten(sender)} to {shorten(receiver)}", color
    return shorten(name), _UNKNOWN_COLOR


def _draw(panels: Sequence[_Panel]) -> Figure:
    names = [[text for _, text, _ in panel.labels()] for panel in panels]
    height = max(_HEIGHT, max(len(texts) for texts in names) * _LABEL_STEP)
    widths = [_LEFT + _WIDTH + _LABEL + max(map(text_width, texts), default=0.0) for texts in names]
    notes = [wrap(panel.note(), width - _LEFT, FONT_SIZE) for panel, width in zip(panels, widths, strict=True)]
    below = _BOTTOM + max((text_height(note) + _MARGIN for note in notes if note), default=0.0)
    total_width = sum(widths) + (len(panels) - 1) * _GAP + 2 * _MARGIN
    explained = wrap(EXPLANATION, total_width - 2 * _MARGIN, FONT_SIZE)
    top = _MARGIN + text_height(TITLE, TITLE_SIZE) + text_height(explained) + 2 * _MARGIN + _PANEL_TITLE
    canvas = Canvas.of_size(total_width, top + height + below)
    canvas.text(_MARGIN, _MARGIN, TITLE, size=TITLE_SIZE, bold=True)
    canvas.text(_MARGIN, _MARGIN + text_height(TITLE, TITLE_SIZE), explained)
    left = _MARGIN
    for panel, width, note in zip(panels, widths, notes, strict=True):
        axes = canvas.axes(left + _LEFT, top, _WIDTH, height)
        axes.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0), xlabel="recall", ylabel="precision")
        axes.set_title(panel.title, loc="left", y=1.0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator([0.0, 0.25, 0.5, 0.75, 1.0]))
        _draw_curves(axes, panel)
        _label_curves(axes, panel, height)
        if note:
            canvas.text(left + _LEFT, top + height + _BOTTOM, note)
        left += width + _GAP
    return canvas.figure


def _draw_curves(axes: Axes, panel: _Panel) -> None:
    one_base_rate = len(panel.base_rates()) == 1
    for number, curve in enumerate(panel.curves):
        if number == 0 or not one_base_rate:
            axes.axhline(
                curve.base_rate,
                color=_BASE_COLOR if one_base_rate else curve.color,
                linewidth=0.7,
                linestyle=(0, (4, 2)),
                zorder=2,
                label="_base",
            )
        axes.plot(
            np.concatenate([[0.0], curve.recall]),
            np.concatenate([curve.precision[:1], curve.precision]),
            color=curve.color,
            drawstyle="steps-pre",
            linewidth=1.0,
            zorder=3,
            clip_on=False,  # a precision of 1 lies on the edge
            label=curve.label,
        )


def _label_curves(axes: Axes, panel: _Panel, height: float) -> None:
    """Name each curve to the right of the panel, at the height of its average precision where names leave room."""
    labels = panel.labels()
    half = 0.5 * FONT_SIZE / POINTS_PER_INCH
    placed = spread_apart([value * height for value, _, _ in labels], _LABEL_STEP, 0.0, height - half)
    for (value, text, color), position in zip(labels, placed, strict=True):
        axes.plot(
            [1.0, 1 + 0.04 / _WIDTH, 1 + (_LABEL - 0.04) / _WIDTH],
            [value, value, position / height],
            transform=axes.transAxes,
            color=color,
            linewidth=0.7,
            clip_on=False,
            zorder=2,
            label="_leader",
        )
        axes.text(
            1 + _LABEL / _WIDTH,
            position / height,
            text,
            transform=axes.transAxes,
            color=readable_on_white(color),
            va="center",
            ha="left",
            parse_math=False,
        )
