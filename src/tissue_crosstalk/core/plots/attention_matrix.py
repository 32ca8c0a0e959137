"""Who attends to whom: a matrix of cell types, of their mean attention and of how often it is strong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.distance import MEAN, RECEIVER, SENDER
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots._layout import (
    POINTS_PER_INCH,
    Canvas,
    check_colors,
    check_flavor,
    key_width,
    part_squares,
    shorten,
    text_height,
    text_width,
    widest,
    wrap,
)
from tissue_crosstalk.core.plots.hub_style import (
    DARK,
    KEY_GAP,
    MARGIN,
    color_bar,
    color_bar_height,
    color_bar_width,
    name_columns,
    require,
    sentence,
    slanted_height,
    slanted_overhang,
)
from tissue_crosstalk.core.plots.style import FONT_SIZE, TITLE_SIZE, figure_style
from tissue_crosstalk.core.profiles import STRONG_SHARE

MOST_ANNOTATED_TYPES: Final = 8
NO_EDGES_COLOR: Final = "#e4e4e4"
BLUE: Final = (225.0, 275.0)
RED: Final = (75.0, 15.0)
"""Hues of the light and the dark end of a colormap."""
PANELS: Final = ((MEAN, "mean attention", BLUE), (STRONG_SHARE, "share of edges with strong attention", RED))
"""Column, label and hues of each panel."""

# From OKLab to linear sRGB (Ottosson, 2020).
_LAB_TO_CONES: Final = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_CONES_TO_RGB: Final = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)

# All in inches.
_CELL: Final = 0.25
_SMALL_CELL: Final = 0.165
_SWATCH: Final = 0.085
_NAME_PAD: Final = 0.16
"""Between a name and its row or column: room for the swatch."""
_AXIS_TITLE: Final = 0.16
_GAP: Final = 0.3
_POWER: Final = 0.32
"""A power of ten below the right end of a scale of colours."""


def plot_attention_matrix(pairs: pd.DataFrame, palette: Mapping[str, str], *, flavor: str = terms.VANILLA) -> Figure:
    """Draw how much, and how often strongly, each receiver type attends to each sender type: two heatmaps.

    Parameters
    ----------
    pairs
        A row per `receiver` and `sender` with at least one edge: the `mean` attention over edges and heads, and
        `strong_share`, the share from 0 to 1 of edges that carry strong attention.
    palette
        A colour for each cell type. Its order is that of rows and columns.
    flavor
        Flavor of the attention.

    Returns
    -------
    matplotlib.figure.Figure
        Rows are senders, columns receivers, colours start at 0. Pairs without edges are grey with a stroke; a type
        never attends to itself. Values are written into the squares of at most 8 types. Without a pair, a sentence.

    Raises
    ------
    ParameterError
        If a column is missing, a pair comes twice or is one type, a type has no colour, a value is out of range, or
        `flavor` is unknown.

    Examples
    --------
    >>> import pandas as pd
    >>> pairs = pd.DataFrame({"receiver": ["B"], "sender": ["T"], "mean": [0.04], "strong_share": [0.5]})
    >>> figure = plot_attention_matrix(pairs, {"B": "red", "T": "blue"})
    >>> figure.axes[0].images[0].get_array().tolist()
    [[None, None], [0.04, None]]
    """
    check_flavor(flavor)
    types, receiver, sender = type_positions(pairs, palette, (MEAN, STRONG_SHARE))
    with figure_style():
        if not types:
            return sentence("No attention between cell types: there is no edge.")
        values = []
        for column, _, _ in PANELS:
            matrix = np.full((len(types), len(types)), np.nan)  # (sender, receiver)
            matrix[sender, receiver] = pairs[column].to_numpy(dtype=np.float64)
            values.append(matrix)
        return draw_matrices(
            [MatrixPanel(matrix, label, hues) for matrix, (_, label, hues) in zip(values, PANELS, strict=True)],
            {name: palette[name] for name in types},
            title=f"Attention between cell types ({flavor})",
            key_label="no edges",
        )


def type_positions(
    pairs: pd.DataFrame, palette: Mapping[str, str], columns: Sequence[str]
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Return the types that occur in a table of pairs, and which of them each row is about.

    Parameters
    ----------
    pairs
        A row per `receiver` and `sender`.
    palette
        A colour for each cell type. Its order is that of the types.
    columns
        What else `pairs` must hold: `strong_share` from 0 to 1, other columns finite numbers of at least 0.

    Returns
    -------
    types : list of str
        Types that occur, in the order of `palette`.
    receiver : numpy.ndarray
        Position of each row's receiver type in `types`, of shape (row,).
    sender : numpy.ndarray
        Position of each row's sender type in `types`, of shape (row,).

    Raises
    ------
    ParameterError
        If a column is missing, a pair comes twice or is one type, a type has no colour, or a value is out of range.

    Examples
    --------
    >>> import pandas as pd
    >>> pairs = pd.DataFrame({"receiver": ["B"], "sender": ["T"]})
    >>> types, receiver, sender = type_positions(pairs, {"T": "red", "NK": "lime", "B": "blue"}, [])
    >>> types, receiver.tolist(), sender.tolist()
    (['T', 'B'], [1], [0])
    """
    require("pairs", pairs, (RECEIVER, SENDER, *columns))
    names = pairs[[RECEIVER, SENDER]].astype(str).to_numpy(dtype=object)  # (row, end): a category has an order, too
    present = set(names.ravel().tolist())
    check_colors(present, palette)
    types = [name for name in palette if name in present]
    position = {name: index for index, name in enumerate(types)}
    codes = np.array([position[name] for name in names.ravel()], dtype=np.int64).reshape(-1, 2)
    for wrong, must in (
        (codes[:, 0] == codes[:, 1], "be of two cell types"),
        (pd.DataFrame(codes).duplicated().to_numpy(), "have one row per receiver and sender"),
    ):
        if wrong.any():
            one, other = names[int(np.argmax(wrong))]
            raise ParameterError(f"`pairs` must {must}. Got another with receiver {one!r} and sender {other!r}.")
    for column in columns:
        given = pd.to_numeric(pairs[column], errors="coerce").to_numpy(dtype=np.float64)
        most = 1.0 if column == STRONG_SHARE else np.finfo(np.float64).max
        wrong = ~((given >= 0) & (given <= most))  # nan is neither
        if wrong.any():
            kind = "from 0 to 1" if column == STRONG_SHARE else "that are finite and at least 0"
            first = pairs[column].tolist()[int(np.argmax(wrong))]
            raise ParameterError(f"`{column}` of `pairs` must hold numbers {kind}. Got {first!r} instead.")
    return types, codes[:, 0], codes[:, 1]


def sequential_colors(hues: tuple[float, float], *, lightest: float = 0.96, n_colors: int = 256) -> ListedColormap:
    """Return a colormap from light to dark, whose lightness falls in even steps as the eye sees it.

    Parameters
    ----------
    hues
        Hue of its light and of its dark end, in degrees of OKLab.
    lightest
        Lightness of its light end, in OKLab: 1 is white.
    n_colors
        Number of its steps.

    Returns
    -------
    matplotlib.colors.ListedColormap
        The colours.

    Examples
    --------
    >>> sequential_colors(BLUE, n_colors=32).N
    32
    """
    step = np.linspace(0.0, 1.0, n_colors)
    lightness = lightest + step * (0.3 - lightest)
    chroma = 0.135 * np.sin(np.pi * (0.97 - lightness) / 0.97) ** 0.8  # grey is at both ends of what a screen can show
    hue = np.radians(hues[0] + step * (hues[1] - hues[0]))
    lab = np.column_stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
    linear = np.clip((lab @ _LAB_TO_CONES.T) ** 3 @ _CONES_TO_RGB.T, 0.0, 1.0)
    return ListedColormap(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def bar_width(label: str, panel_width: float, largest: float) -> float:
    """Return how wide a scale of colours is, in inches, with room for a power of ten beside its label."""
    width = color_bar_width(label, panel_width)
    if 0.02 <= largest < 1e4:
        return width
    return max(width, max(map(text_width, label.split("\n"))) + 2 * _POWER)


def _largest(matrix: NDArray[np.float64]) -> float:
    """Return the end of the scale of colours: the largest value, or 1 where all are 0."""
    return float(np.nanmax(matrix)) or 1.0


def _written(matrix: NDArray[np.float64], *, whole: bool = False) -> dict[tuple[int, int], str]:
    """Return what to write into the squares of a matrix, with so many digits that the middle value has two."""
    if whole:
        return {
            (int(row), int(column)): f"{matrix[row, column]:,.0f}" for row, column in np.argwhere(~np.isnan(matrix))
        }
    positive = matrix[matrix > 0]  # nan is not
    middle = float(np.median(positive)) if positive.size else 0.1
    digits = min(max(1 - math.floor(math.log10(middle)), 0), 6)
    return {
        (int(row), int(column)): f"{matrix[row, column]:.{digits}f}" for row, column in np.argwhere(~np.isnan(matrix))
    }


@dataclass(frozen=True)
class MatrixPanel:
    """A heatmap of pairs of types.

    Attributes
    ----------
    values
        From 0, nan where there is nothing to say, of shape (sender, receiver).
    label
        What they are.
    hues
        Hues of the light and the dark end of its colormap.
    whole
        Values are whole numbers.
    """

    values: NDArray[np.float64]
    label: str
    hues: tuple[float, float]
    whole: bool = False

    def written(self) -> dict[tuple[int, int], str]:
        """Return what to write into its squares."""
        return _written(self.values, whole=self.whole)


def draw_matrices(panels: Sequence[MatrixPanel], palette: Mapping[str, str], *, title: str, key_label: str) -> Figure:
    """Draw heatmaps of pairs of types side by side.

    Parameters
    ----------
    panels
        The heatmaps.
    palette
        The types of rows and columns, with their colours.
    title
        What is written above.
    key_label
        What is said of squares without a value.

    Returns
    -------
    matplotlib.figure.Figure
        Rows are senders, columns receivers. Values are written into the squares of at most 8 types.
    """
    n_types = len(palette)
    names = [shorten(name) for name in palette]
    annotations = [panel.written() if n_types <= MOST_ANNOTATED_TYPES else {} for panel in panels]
    cell = _CELL if n_types <= 2 * MOST_ANNOTATED_TYPES else _SMALL_CELL
    for written in annotations:
        cell = max(cell, max((text_width(text, FONT_SIZE - 1) for text in written.values()), default=0.0) + 0.1)
    size = n_types * cell
    left = MARGIN + max(_AXIS_TITLE + widest(names) + _NAME_PAD, key_width([key_label], 1) + KEY_GAP)
    bar_lengths = [bar_width(panel.label, size, _largest(panel.values)) for panel in panels]
    starts = [left]
    for length in bar_lengths[:-1]:  # slanted names of one panel run beside those of the next
        starts.append(starts[-1] + max(size, length) + _GAP)
    right = starts[-1] + max(size + slanted_overhang(names, cell) + _NAME_PAD, bar_lengths[-1])
    total_width = max(right + MARGIN, 2.4)
    title = wrap(title, total_width - 2 * MARGIN)
    top = MARGIN + text_height(title, TITLE_SIZE) + 0.04 + 0.08 + slanted_height(names) + _NAME_PAD
    bar_top = top + size + 0.14
    canvas = Canvas.of_size(total_width, bar_top + max(color_bar_height(panel.label) for panel in panels) + 0.06)
    canvas.text(MARGIN, MARGIN, title, size=TITLE_SIZE, bold=True)
    images = []
    for index, (panel, written) in enumerate(zip(panels, annotations, strict=True)):
        axes = canvas.axes(starts[index], top, size, size)
        image = _draw_matrix(axes, panel.values, sequential_colors(panel.hues))
        _write(axes, image, panel.values, written)
        _name(axes, names, list(palette.values()), cell, rows=index == 0)
        images.append(image)
    for image, panel, start, length in zip(images, panels, starts, bar_lengths, strict=True):
        color_bar(canvas, image, panel.label, left=start, top=bar_top, width=length, whole=panel.whole)
    handle = Line2D([], [], color=NO_EDGES_COLOR, marker="s", markersize=6.0, linestyle="none")
    canvas.key(left - KEY_GAP - key_width([key_label], 1), bar_top, [handle], [key_label], n_columns=1)
    return canvas.figure


def _draw_matrix(axes: Axes, matrix: NDArray[np.float64], colors: Colormap) -> AxesImage:
    """Draw a heatmap from 0 to its largest value, with strokes where there is no value."""
    image = axes.imshow(
        np.ma.masked_invalid(matrix), cmap=colors, vmin=0.0, vmax=_largest(matrix), aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    axes.set_facecolor(NO_EDGES_COLOR)  # seen through the squares without a value
    rows, columns = np.nonzero(np.isnan(matrix))
    gap = np.full(len(rows), np.nan)  # breaks one line into strokes
    axes.plot(
        np.column_stack([columns - 0.5, columns + 0.5, gap]).ravel(),
        np.column_stack([rows + 0.5, rows - 0.5, gap]).ravel(),
        color="white",
        linewidth=0.8,
        label="_no edges",
    )
    part_squares(axes, len(matrix), len(matrix), linewidth=0.6)
    axes.spines[:].set_visible(False)
    return image


def _write(
    axes: Axes, image: AxesImage, matrix: NDArray[np.float64], written: Mapping[tuple[int, int], str]
) -> None:  # fmt: skip
    """Write values into their squares, in white where these are dark."""
    for (row, column), text in written.items():
        red, green, blue, _ = image.to_rgba(matrix[row, column])
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
        axes.text(
            column, row, text, ha="center", va="center", size=FONT_SIZE - 1, color="white" if dark else DARK
        )  # fmt: skip


def _name(axes: Axes, names: Sequence[str], colors: Sequence[str], cell: float, *, rows: bool) -> None:
    """Name the columns above, and rows on the left where asked for, with a square in the colour of each type."""
    name_columns(axes, names)
    numbers = np.arange(len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(numbers, names if rows else [""] * len(names))
    axes.tick_params(axis="both", length=0, pad=_NAME_PAD * POINTS_PER_INCH)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("receiver")
    if rows:
        axes.set_ylabel("sender")
    before = np.full(len(names), -0.5 - 0.085 / cell)
    for x, y in ((numbers, before), (before, numbers)):
        axes.scatter(
            x, y, s=(_SWATCH * POINTS_PER_INCH) ** 2, c=list(colors), marker="s", linewidths=0, clip_on=False
        )  # fmt: skip
