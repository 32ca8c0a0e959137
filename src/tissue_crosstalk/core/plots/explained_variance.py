"""How much of each receiver type's variance each head explains: a heatmap, with the best head marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from tissue_crosstalk.core.errors import ParameterError, is_number
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    check_colors,
    counts_of,
    key_height,
    key_width,
    shorten,
    text_height,
    text_width,
    widest,
    wrap,
)
from tissue_crosstalk.core.plots.attention_matrix import BLUE, sequential_colors
from tissue_crosstalk.core.plots.effect_style import (
    GRAY,
    HEAD,
    P_VALUE,
    RECEIVER,
    SMALL,
    finite,
    head_order,
    heads_of,
    name_heatmap_rows,
    one_row_each,
    probabilities,
    texts_of,
)
from tissue_crosstalk.core.plots.hub_style import (
    DARK,
    MARGIN,
    color_bar,
    color_bar_height,
    color_bar_width,
    require,
    sentence,
)
from tissue_crosstalk.core.plots.style import FONT_SIZE, TITLE_SIZE, figure_style

EXPLAINED: Final = "explained"
LABEL: Final = "explained variance (%)"
BEST: Final = "best head: explains some gene best"
BELOW_COLOR: Final = "#e0d3c8"
UNKNOWN_COLOR: Final = "#e4e4e4"

# All in inches.
_CELL: Final = 0.38
_ROW: Final = 0.19
_COLUMN_NAMES: Final = 0.18


def plot_explained_variance(
    explained: pd.DataFrame, palette: Mapping[str, str], *, p_threshold: float = 0.05
) -> Figure:
    """Draw how much of the variance of each receiver type's expression each head explains.

    Parameters
    ----------
    explained
        A row per `receiver` and `head` (−1 for all heads together): `explained`, at most 1 and below 0 where the head
        predicts worse than the mean, `p_value`, above 0, `n_receivers`, and `best`, whether the head is the best of the
        type.
    palette
        A colour for each cell type; rows are in its order.
    p_threshold
        Values with p of at least this are written in grey.

    Returns
    -------
    matplotlib.figure.Figure
        Rows are receiver types, with their numbers of cells on the right; columns are heads, all heads together first.
        Percentages are written into the squares; a frame is around the best head. Without a row, a sentence.

    Raises
    ------
    ParameterError
        If a column is missing, a receiver and head come twice, a value is out of range, or a type has no colour.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame(
    ...     {"receiver": "B", "head_idx": [-1, 0, 1], "n_receivers": 90, "explained": [0.07, 0.05, -0.01],
    ...      "p_value": [0.01, 0.01, 0.6], "best": [False, True, False]}
    ... )
    >>> axes = plot_explained_variance(table, {"B": "red"}).axes[0]
    >>> [text.get_text() for text in axes.texts]
    ['7.0', '5.0', '−1.0', '90', 'cells']
    """
    if not (is_number(p_threshold) and 0 < p_threshold <= 1):
        raise ParameterError(f"`p_threshold` must be above 0 and at most 1. Got {p_threshold!r} instead.")
    require("explained", explained, (RECEIVER, HEAD, EXPLAINED, P_VALUE, "n_receivers", "best"))
    head = heads_of("`head` of `explained`", explained[HEAD])
    one_row_each("explained", explained, (RECEIVER, HEAD))
    receiver = texts_of(explained[RECEIVER])
    check_colors(receiver, palette)
    value = finite("`explained` of `explained`", explained[EXPLAINED])
    if (value > 1).any():
        raise ParameterError(f"`explained` of `explained` must be at most 1. Got {float(np.nanmax(value))!r} instead.")
    p_value = probabilities("`p_value` of `explained`", explained[P_VALUE])
    n_receivers = counts_of("`n_receivers` of `explained`", explained["n_receivers"])
    present = set(receiver.tolist())
    receivers, heads = [name for name in palette if name in present], head_order(head)
    with figure_style():
        if not receivers:
            return sentence("No explained variance: there is no receiver type.")
        row = np.array([receivers.index(name) for name in receiver], dtype=np.int64)
        column = np.array([heads.index(one) for one in head.tolist()], dtype=np.int64)
        shape = len(receivers), len(heads)
        percent, sure, best = np.full(shape, np.nan), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        percent[row, column] = 100 * value
        sure[row, column] = p_value < p_threshold
        best[row, column] = explained["best"].to_numpy(dtype=bool)
        cells = np.zeros(len(receivers), dtype=np.int64)
        np.maximum.at(cells, row, n_receivers)
        return _draw(
            percent, sure, best, cells.tolist(), heads, {name: palette[name] for name in receivers}, p_threshold
        )  # fmt: skip


def _draw(
    percent: NDArray[np.float64],
    sure: NDArray[np.bool_],
    best: NDArray[np.bool_],
    cells: Sequence[int],
    heads: Sequence[int],
    palette: Mapping[str, str],
    p_threshold: float,
) -> Figure:
    """Draw the heatmap of percentages of shape (receiver, head)."""
    names = [shorten(name) for name in palette]
    columns = ["all" if head < 0 else str(head) for head in heads]
    counts = [f"{number:,}" for number in cells]
    top_value = float(np.nanmax(percent, initial=0.0)) or 1.0
    # Two digits of the largest: where the model explains little, not every number is 0.0.
    decimals = min(max(1 - math.floor(math.log10(top_value)), 1), 4)
    written = {
        (int(row), int(column)): f"{percent[row, column]:z.{decimals}f}".replace("-", "−")
        for row, column in np.argwhere(~np.isnan(percent))
    }
    cell = max(_CELL, max((text_width(text, SMALL) for text in written.values()), default=0.0) + 0.1)
    colors = sequential_colors(BLUE).with_extremes(under=BELOW_COLOR, bad=UNKNOWN_COLOR)
    handles: list[Artist] = [Rectangle((0, 0), 1, 1, facecolor="white", edgecolor=DARK, linewidth=1.1)]
    labels = [BEST]
    if (percent < 0).any():
        handles.append(_square(BELOW_COLOR))
        labels.append("below 0: worse than the mean")
    if np.isnan(percent).any():
        handles.append(_square(UNKNOWN_COLOR))
        labels.append("unknown")

    left = MARGIN + widest(names) + 0.1
    width, height = len(heads) * cell, len(names) * _ROW
    counts_width = max(map(text_width, [*counts, "cells"]))
    right = left + width + 0.1 + counts_width
    bar_length = color_bar_width(LABEL, width)
    total_width = max(right, left + bar_length, MARGIN + key_width(labels, 1), 2.6) + MARGIN
    title = wrap("Variance of expression that heads explain", total_width - 2 * MARGIN)
    caption = wrap(f"percent; grey numbers: p ≥ {p_threshold:g}", total_width - 2 * MARGIN, FONT_SIZE)
    caption_top = MARGIN + text_height(title, TITLE_SIZE) + 0.03
    top = caption_top + text_height(caption) + 0.06 + 2 * _COLUMN_NAMES
    bar_top = top + height + 0.12
    key_top = bar_top + color_bar_height(LABEL) + 0.08
    canvas = Canvas.of_size(total_width, key_top + key_height(len(labels), 1) + MARGIN)
    canvas.text(MARGIN, MARGIN, title, size=TITLE_SIZE, bold=True)
    canvas.text(MARGIN, caption_top, caption)
    axes = canvas.axes(left, top, width, height)
    image = axes.imshow(
        np.ma.masked_invalid(percent), cmap=colors, vmin=0.0, vmax=top_value, aspect="auto", interpolation="nearest"
    )  # fmt: skip
    _write(axes, image, percent, written, sure)
    for row, column in np.argwhere(best):
        axes.add_patch(
            Rectangle(
                (column - 0.47, row - 0.45), 0.94, 0.9, fill=False, edgecolor=DARK, linewidth=1.0, zorder=4,
                clip_on=False, label="_best",
            )
        )  # fmt: skip
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(len(columns)), columns)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("head")
    name_heatmap_rows(axes, palette, len(columns))
    if heads[0] < 0 and len(heads) > 1:
        axes.axvline(0.5, color="white", linewidth=3.0, zorder=2, label="_all")
    end = 1 + (0.1 + counts_width) / width
    across = axes.get_yaxis_transform()
    for row, text in enumerate(counts):
        axes.text(end, row, text, transform=across, color=GRAY, ha="right", va="center_baseline")
    axes.text(end, 1 + 0.05 / height, "cells", transform=axes.transAxes, color=GRAY, ha="right", va="bottom")
    color_bar(canvas, image, LABEL, left=left, top=bar_top, width=bar_length)
    canvas.key(MARGIN, key_top, handles, labels, n_columns=1)
    return canvas.figure


def _write(
    axes: Axes,
    image: AxesImage,
    percent: NDArray[np.float64],
    written: Mapping[tuple[int, int], str],
    sure: NDArray[np.bool_],
) -> None:
    """Write percentages into their squares, in white where these are dark, and fainter where they may be chance."""
    for (row, column), text in written.items():
        red, green, blue, _ = image.to_rgba(percent[row, column])
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
        color = ("white" if dark else DARK) if sure[row, column] else ("#cfcfcf" if dark else "#7a7a7a")
        axes.text(column, row, text, ha="center", va="center", size=SMALL, color=color)


def _square(color: str) -> Line2D:
    return Line2D([], [], color=color, marker="s", markersize=6.0, linestyle="none")
