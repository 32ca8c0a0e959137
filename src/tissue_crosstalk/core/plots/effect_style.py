"""What the figures of interpretation share: columns, checks, dots of effect and evidence, and names beside points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError, is_whole
from tissue_crosstalk.core.plots._layout import (
    POINTS_PER_INCH,
    Canvas,
    key_height,
    key_width,
    part_squares,
    shorten,
    text_height,
    text_width,
    wrap,
)
from tissue_crosstalk.core.plots.hub_style import (
    DARK,
    MARGIN,
    color_bar,
    color_bar_height,
    color_bar_width,
    dot_handle,
    name_columns,
    slanted_height,
    slanted_overhang,
)
from tissue_crosstalk.core.plots.style import FONT_SIZE, TITLE_SIZE, readable_on_white

RECEIVER: Final = terms.RECEIVER
SENDER: Final = terms.SENDER
HEAD: Final = terms.HEAD_IDX
GENE: Final = terms.GENE
DIFF: Final = "diff"
P_VALUE: Final = "p_value"
Q_VALUE: Final = "q_value"

ALL_HEADS: Final = -1
ARROW: Final = "→"
SMALL: Final = FONT_SIZE - 1
"""The smallest text, in points."""
LONGEST_GENE: Final = 18
"""Characters of the name of a gene."""
LONGEST_END: Final = 28
"""Characters of a cell type in the name of a pair."""
MOST_LOG_Q: Final = 4.0
RAISED: Final = "#b2182b"
LOWERED: Final = "#2166ac"
GRAY: Final = "#6a6a6a"
NULL_COLOR: Final = "#bdbdbd"
DIVERGING: Final = "coolwarm"
"""It is grey, not white, in the middle: dots without an outline are seen there, too."""

_FAINT: Final = "#e6e6e6"
_EXTENDED: Final[dict[tuple[bool, bool], Literal["neither", "min", "max", "both"]]] = {
    (False, False): "neither",
    (True, False): "min",
    (False, True): "max",
    (True, True): "both",
}

# All in inches.
DOT_STEP: Final = 0.165
_PANEL_GAP: Final = 0.22
_NAME_PAD: Final = 0.08
_WORD_GAP: Final = 0.03
_LABEL_DISTANCES: Final = (0.05, 0.1, 0.16, 0.24, 0.34, 0.46, 0.6, 0.78)
_LABEL_ANGLES: Final = np.radians([0, 180, 30, 150, -30, 210, 60, 120, -60, 240, 90, 270])
_LABEL_PAD: Final = 0.012


def one_row_each(name: str, table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise if two rows of a table, which may have many, are the same in some columns."""
    twice = pd.DataFrame({column: _codes(table[column]) for column in columns}).duplicated().to_numpy()
    if twice.any():
        row = table.iloc[int(np.argmax(twice))]
        values = ", ".join(f"{row[column]:g}" if column == HEAD else repr(str(row[column])) for column in columns)
        raise ParameterError(f"`{name}` must have one row per {', '.join(columns)}. Got several of {values}.")


def _codes(column: pd.Series) -> NDArray[np.intp]:
    """Return a number for each value of a column, the same for the same value."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy().astype(np.intp)
    return pd.factorize(column, use_na_sentinel=False)[0]


def texts_of(column: pd.Series) -> NDArray[np.object_]:
    """Return a column of names, categories or not, as text, (row,)."""
    if isinstance(column.dtype, pd.CategoricalDtype):  # a category is made text once
        names = np.array([*map(str, column.cat.categories), "nan"], dtype=object)
        return names[column.cat.codes.to_numpy()]
    return column.astype(str).to_numpy(dtype=object)


def is_name(column: pd.Series, name: str) -> NDArray[np.bool_]:
    """Return which rows of a column of names, of which there may be millions, hold one name, (row,)."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        wanted = [code for code, category in enumerate(column.cat.categories) if str(category) == name]
        return np.isin(column.cat.codes.to_numpy(), wanted)
    return np.asarray(column.astype(str).to_numpy(dtype=object) == name, dtype=bool)


def finite(what: str, column: pd.Series) -> NDArray[np.float64]:
    """Return numbers, (row,), of which some may be nan; raise unless they are."""
    given = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = np.isinf(given) | (np.isnan(given) & column.notna().to_numpy())
    if wrong.any():
        raise ParameterError(
            f"{what} must hold finite numbers, or nan. Got {column.tolist()[int(np.argmax(wrong))]!r}."
        )
    return given


def probabilities(what: str, column: pd.Series) -> NDArray[np.float64]:
    """Return p or q values, (row,), above 0 and at most 1, of which some may be nan; raise unless they are."""
    given = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~((given > 0) & (given <= 1)) & column.notna().to_numpy()
    if wrong.any():
        raise ParameterError(
            f"{what} must hold numbers above 0 and at most 1, or nan. Got {column.tolist()[int(np.argmax(wrong))]!r}: "
            "a permutation p is (1 + count) / (1 + permutations)."
        )
    return given


def heads_of(what: str, column: pd.Series) -> NDArray[np.int64]:
    """Return numbers of heads, (row,), −1 for all heads together; raise unless they are."""
    given = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~((given >= ALL_HEADS) & (given == np.round(given)))
    if wrong.any():
        raise ParameterError(
            f"{what} must hold whole numbers of at least 0, and {ALL_HEADS} for all heads together. "
            f"Got {column.tolist()[int(np.argmax(wrong))]!r} instead."
        )
    return given.astype(np.int64)


def head_name(head: int) -> str:
    """Return what a head is called in figures.

    >>> head_name(3), head_name(-1)
    ('head 3', 'all heads')
    """
    return "all heads" if head == ALL_HEADS else f"head {head}"


def head_order(heads: Iterable[int]) -> list[int]:
    """Return the different heads, all heads together first."""
    return sorted({int(head) for head in heads})


def at_least_one(**numbers: int) -> None:
    """Raise unless some parameters are whole numbers of at least 1."""
    for name, value in numbers.items():
        if not (is_whole(value) and value >= 1):
            raise ParameterError(f"`{name}` must be a whole number of at least 1. Got {value!r} instead.")


def log_q(q_value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return −log10 of q values; nan stays nan."""
    found: NDArray[np.float64] = -np.log10(q_value) + 0.0  # no −0 where q is 1
    return found


def dot_areas(q_value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return areas of dots in square points, from 4 where q is 1, or unknown, to 84 where it is 0.0001 or less."""
    evidence = np.clip(log_q(np.where(np.isnan(q_value), 1.0, q_value)), 0.0, MOST_LOG_Q)
    areas: NDArray[np.float64] = 4.0 + 20.0 * evidence
    return areas


def limit_of(values: NDArray[np.float64], least: float) -> float:
    """Return the end of a scale of colours about 0: the 99th percentile of the sizes, and at least `least`."""
    sizes = np.abs(values[np.isfinite(values)])
    return max(float(np.percentile(sizes, 99)), least) if sizes.size else least


def extended(values: NDArray[np.float64], low: float, high: float) -> Literal["neither", "min", "max", "both"]:
    """Return which ends of a scale of colours are pointed: there are values beyond them."""
    return _EXTENDED[bool((values < low).any()), bool((values > high).any())]


@dataclass(frozen=True)
class DotPanel:
    """A panel of dots: `row`, `column`, `value` and `q_value` are of shape (dot,)."""

    heading: str
    columns: Sequence[str]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    value: NDArray[np.float64]
    q_value: NDArray[np.float64]


@dataclass(frozen=True)
class RowName:
    """The name of a row: one name, or a pair of them with an arrow between, each with its colour."""

    name: tuple[str, str]
    other: tuple[str, str] | None = None


def draw_dot_panels(
    panels: Sequence[DotPanel], rows: Sequence[RowName], *, title: str, caption: str, label: str, least_limit: float,
    q_threshold: float,
) -> Figure:  # fmt: skip
    """Draw panels side by side with the same rows: the colour of a dot is its value, its area grows with −log10 q."""
    values = np.concatenate([panel.value for panel in panels])
    q_values = np.concatenate([panel.q_value for panel in panels])
    # Most dots have no effect: they are not what the scale is for.
    certain = q_values < q_threshold
    limit = limit_of(values[certain] if certain.any() else values, least_limit)
    key_q = [1.0, 0.1, 0.01, 0.001, 0.0001]
    key_labels = [*(f"q = {value:g}" for value in key_q[:-1]), f"q ≤ {key_q[-1]:g}", f"outline: q < {q_threshold:g}"]
    handles: list[Artist] = [
        *(
            dot_handle(float(area), outlined=value < q_threshold)
            for value, area in zip(key_q, dot_areas(np.array(key_q)), strict=True)
        ),
        dot_handle(40.0, outlined=True, color="white"),
    ]

    names = [[shorten(name, LONGEST_GENE) for name in panel.columns] for panel in panels]
    widths = [max(len(own), 1) * DOT_STEP for own in names]
    left = MARGIN + _names_width(rows) + _NAME_PAD
    starts = [left]
    for width, panel in zip(widths[:-1], panels, strict=False):
        starts.append(starts[-1] + max(width, text_width(panel.heading)) + _PANEL_GAP)
    last = starts[-1] + max(
        widths[-1] + slanted_overhang(names[-1], DOT_STEP), text_width(panels[-1].heading)
    )  # fmt: skip
    bar_length = color_bar_width(label, starts[-1] + widths[-1] - left)
    n_columns = next((n for n in (6, 3, 2) if MARGIN + key_width(key_labels, n) <= max(last, 3.0)), 1)
    total_width = max(last, left + bar_length, MARGIN + key_width(key_labels, n_columns)) + MARGIN
    title, caption = wrap(title, total_width - 2 * MARGIN), wrap(caption, total_width - 2 * MARGIN, FONT_SIZE)
    caption_top = MARGIN + text_height(title, TITLE_SIZE) + 0.03
    headed = any(panel.heading for panel in panels)
    heading_top = caption_top + (text_height(caption) + 0.04 if caption else 0.0)
    top = heading_top + (0.16 if headed else 0.0) + max(map(slanted_height, names))
    height = len(rows) * DOT_STEP
    bar_top = top + height + 0.12
    key_top = bar_top + color_bar_height(label) + 0.1
    canvas = Canvas.of_size(total_width, key_top + key_height(len(handles), n_columns) + MARGIN)
    canvas.text(MARGIN, MARGIN, title, size=TITLE_SIZE, bold=True)
    if caption:
        canvas.text(MARGIN, caption_top, caption)
    scale = ScalarMappable(Normalize(-limit, limit), DIVERGING)
    for index, (panel, own, start, width) in enumerate(zip(panels, names, starts, widths, strict=True)):
        if panel.heading:
            canvas.text(start, heading_top, panel.heading)
        axes = canvas.axes(start, top, width, height)
        _draw_dots(axes, panel, own, scale, limit, n_rows=len(rows), q_threshold=q_threshold)
        if index == 0:
            _name_rows(axes, rows, width)
    color_bar(
        canvas, scale, label, left=left, top=bar_top, width=bar_length, extend=extended(values, -limit, limit)
    )  # fmt: skip
    canvas.key(MARGIN, key_top, handles, key_labels, n_columns=n_columns)
    return canvas.figure


def _draw_dots(
    axes: Axes, panel: DotPanel, names: Sequence[str], scale: ScalarMappable, limit: float, *, n_rows: int,
    q_threshold: float,
) -> None:  # fmt: skip
    name_columns(axes, names)
    axes.set_yticks(np.arange(n_rows), [""] * n_rows)
    axes.set_ylim(n_rows - 0.5, -0.5)
    axes.tick_params(axis="both", length=0)
    axes.grid(color=_FAINT, linewidth=0.5)
    axes.spines[:].set_visible(False)
    order = np.flatnonzero(~(np.isnan(panel.value) | np.isnan(panel.q_value)))
    outlined = panel.q_value[order] < q_threshold
    axes.scatter(
        panel.column[order], panel.row[order], s=dot_areas(panel.q_value[order]),
        c=scale.to_rgba(np.clip(panel.value[order], -limit, limit)), edgecolors=DARK,
        linewidths=np.where(outlined, 0.7, 0.0).tolist(), zorder=3, clip_on=False, label="_dots",
    )  # fmt: skip
    # Not the same as no effect: of what was not tested there is nothing to say.
    tested = np.zeros((n_rows, len(names)), dtype=bool)
    tested[panel.row[order], panel.column[order]] = True
    rows, columns = np.nonzero(~tested)
    axes.scatter(
        columns, rows, s=6, c="#a0a0a0", marker="x", linewidths=0.5, zorder=2, clip_on=False, label="_untested"
    )  # fmt: skip


def _names_width(rows: Sequence[RowName]) -> float:
    """Return how wide the names of rows are, in inches."""
    longest = LONGEST_END if any(row.other for row in rows) else 40
    first = max((text_width(shorten(row.name[0], longest)) for row in rows), default=0.0)
    second = max((text_width(shorten(row.other[0], longest)) for row in rows if row.other), default=0.0)
    return first + (second + text_width(ARROW) + 2 * _WORD_GAP if second else 0.0)


def _name_rows(axes: Axes, rows: Sequence[RowName], width: float) -> None:
    """Write names on the left of rows; of pairs, senders end and receivers begin at an arrow."""
    across = axes.get_yaxis_transform()
    second = max((text_width(shorten(row.other[0], LONGEST_END)) for row in rows if row.other), default=0.0)

    def write(end: float, row: int, text: str, color: str, align: Literal["left", "right"]) -> None:
        axes.text(
            -end / width, row, text, transform=across, color=color, va="center_baseline", ha=align, parse_math=False
        )  # fmt: skip

    for number, row in enumerate(rows):
        if row.other is None:
            write(_NAME_PAD, number, shorten(row.name[0]), row.name[1], "right")
            continue
        arrow = _NAME_PAD + second + _WORD_GAP
        write(_NAME_PAD + second, number, shorten(row.other[0], LONGEST_END), row.other[1], "left")
        write(arrow, number, ARROW, GRAY, "right")
        write(
            arrow + text_width(ARROW) + _WORD_GAP, number, shorten(row.name[0], LONGEST_END), row.name[1], "right"
        )  # fmt: skip


def name_heatmap_rows(axes: Axes, palette: Mapping[str, str], n_columns: int) -> None:
    """Name the rows of a heatmap in the colours of their types, and draw lines between its squares."""
    axes.set_yticks(np.arange(len(palette)), [shorten(name) for name in palette])
    for label, color in zip(axes.get_yticklabels(), palette.values(), strict=True):
        label.set_color(readable_on_white(color))
    part_squares(axes, len(palette), n_columns, linewidth=0.7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


@dataclass(frozen=True)
class PlacedLabel:
    """Where a label goes, in inches from the lower left corner of its panel; `index` says which of them it is."""

    index: int
    left: float
    bottom: float
    width: float
    height: float

    def nearest(self, point: NDArray[np.float64]) -> tuple[float, float]:
        """Return the place of its box that is nearest to a point."""
        return (
            float(np.clip(point[0], self.left, self.left + self.width)),
            float(np.clip(point[1], self.bottom, self.bottom + self.height)),
        )


def place_labels(
    points: NDArray[np.float64],
    texts: Sequence[str],
    obstacles: NDArray[np.float64],
    size: tuple[float, float],
    *,
    text_size: float = SMALL,
    radius: float = 0.03,
) -> list[PlacedLabel]:
    """Return places for labels beside their points, such that none covers another, or a dot, or a line to another.

    Parameters
    ----------
    points
        What the labels belong to, of shape (label, 2), in inches from the lower left corner; the most important first.
    texts
        Labels.
    obstacles
        Dots that are not to be covered, of shape (dot, 2), in inches.
    size
        Width and height of the panel, in inches.
    text_size
        In points.
    radius
        Of dots, in inches.

    Returns
    -------
    list of PlacedLabel
        Labels for which there is room.
    """
    placed: list[PlacedLabel] = []
    for index, (point, text) in enumerate(zip(points, texts, strict=True)):
        width, height = text_width(text, text_size), 1.1 * text_size / POINTS_PER_INCH
        found = _place(point, (width, height), placed, points, obstacles, size, radius)
        if found is not None:
            placed.append(PlacedLabel(index, *found, width, height))
    return placed


def _place(
    point: NDArray[np.float64],
    extent: tuple[float, float],
    placed: Sequence[PlacedLabel],
    points: NDArray[np.float64],
    obstacles: NDArray[np.float64],
    size: tuple[float, float],
    radius: float,
) -> tuple[float, float] | None:
    """Return the lower left corner of a label's box nearest to its point, or None where there is no room."""
    width, height = extent
    for distance in _LABEL_DISTANCES:
        for angle in _LABEL_ANGLES:
            x, y = point + (distance + radius) * np.array([math.cos(angle), math.sin(angle)])
            # The box grows away from the point: its anchor is the side or corner that looks at the point.
            left = x - width * (1 - math.cos(angle)) / 2
            bottom = y - height * (1 - math.sin(angle)) / 2
            box = PlacedLabel(-1, left, bottom, width, height)
            if left < 0 or bottom < 0.02 or left + width > size[0] or bottom + height > size[1]:
                continue
            if any(_boxes_meet(box, other) for other in placed) or _covers(box, obstacles, radius):
                continue
            line = _line(point, box)
            if any(_covers(other, line, 0.0) for other in placed):
                continue
            if any(_covers(box, _line(points[other.index], other), 0.0) for other in placed):
                continue
            return left, bottom
    return None


def _boxes_meet(one: PlacedLabel, other: PlacedLabel) -> bool:
    return (
        one.left < other.left + other.width + 2 * _LABEL_PAD
        and other.left < one.left + one.width + 2 * _LABEL_PAD
        and one.bottom < other.bottom + other.height + _LABEL_PAD
        and other.bottom < one.bottom + one.height + _LABEL_PAD
    )


def _covers(box: PlacedLabel, dots: NDArray[np.float64], radius: float) -> bool:
    """Return whether a box covers one of some dots, (dot, 2)."""
    x, y = dots.T
    inside = (x > box.left - radius) & (x < box.left + box.width + radius)
    inside &= (y > box.bottom - radius) & (y < box.bottom + box.height + radius)
    return bool(inside.any())


def _line(point: NDArray[np.float64], box: PlacedLabel) -> NDArray[np.float64]:
    """Return places along the line from a point to its label, (place, 2)."""
    share = np.linspace(0.0, 1.0, 12)[:, None]
    line: NDArray[np.float64] = (1 - share) * point + share * np.array(box.nearest(point))
    return line


def draw_labels(
    axes: Axes, placed: Sequence[PlacedLabel], points: NDArray[np.float64], texts: Sequence[str],
    size: tuple[float, float], *, text_size: float = SMALL,
) -> None:  # fmt: skip
    """Write labels where :func:`place_labels` put them, with a line to those that are not right beside their points."""
    width, height = size
    whole: Any = {"transform": axes.transAxes}
    for label in placed:
        x, y = points[label.index]
        near_x, near_y = label.nearest(points[label.index])
        if math.hypot(near_x - x, near_y - y) > 0.11:
            axes.plot(
                [x / width, near_x / width], [y / height, near_y / height], color="#8a8a8a", linewidth=0.4, zorder=2.5,
                label="_leader", clip_on=False, **whole,
            )  # fmt: skip
        axes.text(
            label.left / width, (label.bottom + label.height / 2) / height, texts[label.index], size=text_size,
            ha="left", va="center_baseline", parse_math=False, zorder=5, **whole,
        )  # fmt: skip
