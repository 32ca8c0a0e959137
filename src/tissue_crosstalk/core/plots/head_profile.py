"""What each head does: how evenly it attends, how much to no neighbor, and which pairs of types it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from tissue_crosstalk.core.errors import ParameterError, is_whole
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    check_colors,
    check_one_row_each,
    counts_of,
    key_columns,
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
    KEY_GAP,
    MARGIN,
    color_bar,
    color_bar_height,
    color_bar_width,
    dot_handle,
    require,
    sentence,
)
from tissue_crosstalk.core.plots.style import FONT_SIZE, figure_style, readable_on_white

LONGEST_NAME: Final = 28
"""Characters of a cell type in the name of a pair."""

EVENNESS: Final = "Evenness of attention: 1 where all slots get the same, 0 where one slot takes all"
DUMMY: Final = "Attention to no neighbor: share of the dummy slot"
ATTENTION: Final = "mean attention per edge"
OF_ALL_CELLS: Final = "mean over cells"
EDGES: Final = "edges"
PAIR: Final = "sender → receiver"

_FAINT: Final = "#f3f3f3"
_GRAY: Final = "#6a6a6a"
_ARROW: Final = "→"

# All in inches.
_LEFT: Final = 0.52
_STRIP: Final = 1.15
_HEAD_NUMBERS: Final = 0.2
_PAIR_ROW: Final = 0.16
_PAIR_GAP: Final = 0.1
_WORD_GAP: Final = 0.03
_AFTER_HEADING: Final = 0.04
_WIDEST_HEAD: Final = 0.8
_NARROWEST_HEAD: Final = 0.3
_WIDEST_STEP: Final = 0.09
"""Between the dots of two receiver types."""


@dataclass(frozen=True)
class _Pairs:
    """The rows of the heatmap: `mean` and `served` (is it among the most of its head) are of shape (pair, head)."""

    names: Sequence[tuple[str, str]]
    edges: Sequence[int]
    mean: NDArray[np.float64]
    served: NDArray[np.bool_]

    def edges_width(self) -> float:
        """Return how wide the column of edges is, in inches."""
        return max(map(text_width, [EDGES, *(f"{edges:,}" for edges in self.edges)]))

    def names_width(self) -> float:
        """Return how wide the column of names is, in inches."""
        widths = (text_width(shorten(one, LONGEST_NAME) + shorten(two, LONGEST_NAME)) for one, two in self.names)
        return max(max(widths, default=0.0) + text_width(_ARROW) + 2 * _WORD_GAP, text_width(PAIR))


def plot_head_profile(
    heads: pd.DataFrame, by_head: pd.DataFrame, palette: Mapping[str, str], *, most_pairs: int = 3
) -> Figure:
    """Draw what each head does: how evenly it attends, how much to no neighbor, and which pairs of types it serves.

    Parameters
    ----------
    heads
        A row per `head_idx` and `receiver` with the number of its `cells`, the mean `dummy_share` of attention, and
        the mean `evenness`: entropy of the attention over the slots, the dummy among them, as a share of the largest
        there can be. NaN where it is unknown.
    by_head
        A row per `head_idx`, `receiver` and `sender` with the `mean` attention per edge and the `count` of edges.
    palette
        A colour for each cell type; receivers are in its order.
    most_pairs
        How many pairs of each head are named: those of highest mean. Pairs without an edge are none.

    Returns
    -------
    matplotlib.figure.Figure
        Three panels with the same heads from left to right. Evenness and dummy share: a dot per receiver type, a bar
        at the mean over all cells. Below, a row for each pair that is among the `most_pairs` of a head, in the order
        of the heads that they are strongest in; a dot where it is among those of the head. Where there are no heads,
        a sentence.

    Raises
    ------
    ParameterError
        If a column is missing, a head or count is no whole number of at least 0, rows come twice, a type has no
        colour, or `most_pairs` is below 1.

    Examples
    --------
    >>> import pandas as pd
    >>> heads = pd.DataFrame(
    ...     {"head_idx": [0, 1], "receiver": "B", "cells": 9, "dummy_share": [0.1, 0.7], "evenness": [0.8, 0.4]}
    ... )
    >>> by_head = pd.DataFrame(
    ...     {"head_idx": [0, 1], "receiver": "B", "sender": "T", "mean": [0.2, 0.1], "count": 90}
    ... )
    >>> figure = plot_head_profile(heads, by_head, {"B": "red", "T": "blue"})
    >>> [axes.get_ylabel() for axes in figure.axes[:2]]
    ['evenness', 'dummy share']
    """
    require("heads", heads, ("head_idx", "receiver", "cells", "dummy_share", "evenness"))
    require("by_head", by_head, ("head_idx", "receiver", "sender", "mean", "count"))
    if not (is_whole(most_pairs) and most_pairs >= 1):
        raise ParameterError(f"`most_pairs` must be a whole number of at least 1. Got {most_pairs!r} instead.")
    heads, by_head = (
        table.assign(
            head_idx=counts_of(f"`head_idx` of `{name}`", table["head_idx"]),
            **{count: counts_of(f"`{count}` of `{name}`", table[count])},
        ).astype(dict.fromkeys(texts, str))
        for name, table, count, texts in (
            ("heads", heads, "cells", ["receiver"]),
            ("by_head", by_head, "count", ["receiver", "sender"]),
        )
    )
    check_one_row_each("heads", heads, ("head_idx", "receiver"))
    check_one_row_each("by_head", by_head, ("head_idx", "receiver", "sender"))
    check_colors([*heads["receiver"], *by_head["receiver"], *by_head["sender"]], palette)
    numbers = sorted({*heads["head_idx"].tolist(), *by_head["head_idx"].tolist()})
    with figure_style():
        if not numbers:
            return sentence("There is no head whose attention could be drawn.")
        return _draw(numbers, heads, _choose_pairs(by_head, numbers, list(palette), most_pairs), palette, most_pairs)


def _choose_pairs(by_head: pd.DataFrame, numbers: Sequence[int], names: Sequence[str], most_pairs: int) -> _Pairs:
    """Return the pairs that are among the strongest of a head, ordered by the head they are strongest in."""
    known = by_head[(by_head["count"] > 0) & by_head["mean"].notna()]
    mean = known.set_index(["sender", "receiver", "head_idx"])["mean"].unstack("head_idx")
    mean = mean.reindex(columns=list(numbers))
    # Pairs of equal means come in the order of the palette, whatever that of the table.
    order = sorted(mean.index, key=lambda pair: (names.index(pair[0]), names.index(pair[1])))
    values = mean.reindex(order).to_numpy(dtype=np.float64)  # (pair, head)
    ranked = np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=0, kind="stable")
    served = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(served, ranked[:most_pairs], values=True, axis=0)
    served &= np.isfinite(values)
    chosen = np.flatnonzero(served.any(axis=1))
    if len(chosen):
        strongest = np.nanargmax(values[chosen], axis=1)
        chosen = chosen[np.lexsort([-np.nanmax(values[chosen], axis=1), strongest])]
    edges = known.groupby(["sender", "receiver"])["count"].max()
    pairs = [(str(order[index][0]), str(order[index][1])) for index in chosen]
    return _Pairs(pairs, [int(edges[pair]) for pair in pairs], values[chosen], served[chosen])


def _draw(
    numbers: Sequence[int], heads: pd.DataFrame, pairs: _Pairs, palette: Mapping[str, str], most_pairs: int
) -> Figure:
    """Measure all parts, and draw them one below the other."""
    present = set(heads["receiver"])
    receivers = [name for name in palette if name in present]
    column = float(np.clip(3.6 / len(numbers), _NARROWEST_HEAD, _WIDEST_HEAD))
    width, pairs_height = len(numbers) * column, len(pairs.names) * _PAIR_ROW
    handles: list[Artist] = [
        Line2D([], [], color=DARK, linewidth=1.6),
        *(dot_handle(14.0, outlined=False, color=palette[name]) for name in receivers),
    ]
    labels = [OF_ALL_CELLS, *receivers]
    columns = key_columns(len(labels), 2 * _STRIP + 2 * _HEAD_NUMBERS + 0.3)
    right = _LEFT + width
    bar_length = color_bar_width(ATTENTION, width)
    total_width = MARGIN + max(
        right + KEY_GAP + key_width(labels, columns),
        right + 2 * _PAIR_GAP + pairs.edges_width() + pairs.names_width(),
        _LEFT + bar_length,
    )
    text_room = total_width - 2 * MARGIN
    evenness, dummy, served = (
        wrap(text, text_room, FONT_SIZE)
        for text in (
            EVENNESS,
            DUMMY,
            f"The {f'{most_pairs} pairs' if most_pairs > 1 else 'pair'} of highest mean attention of each head (dots)",
        )
    )
    evenness_top = MARGIN + text_height(evenness) + _AFTER_HEADING
    dummy_heading = evenness_top + _STRIP + _HEAD_NUMBERS + 0.08
    dummy_top = dummy_heading + text_height(dummy) + _AFTER_HEADING
    pairs_heading = dummy_top + _STRIP + _HEAD_NUMBERS + 0.1
    pairs_top = pairs_heading + text_height(served) + _AFTER_HEADING
    strips_bottom = max(pairs_heading, evenness_top + key_height(len(labels), columns))
    pairs_top += strips_bottom - pairs_heading  # a key that is taller than the strips
    bar_top = pairs_top + pairs_height + _HEAD_NUMBERS + 0.2
    bottom = bar_top + color_bar_height(ATTENTION) if pairs.names else strips_bottom + 0.1
    canvas = Canvas.of_size(total_width, bottom + MARGIN)

    first: Axes | None = None
    for heading, heading_top, top, values, name in (
        (evenness, MARGIN, evenness_top, "evenness", "evenness"),
        (dummy, dummy_heading, dummy_top, "dummy_share", "dummy share"),
    ):
        canvas.text(MARGIN, heading_top, heading)
        axes = canvas.axes(_LEFT, top, width, _STRIP, share_x=first)
        first = axes
        _draw_strip(axes, heads, values, numbers, {name: palette[name] for name in receivers}, column)
        axes.set_ylabel(name)
    canvas.key(right + KEY_GAP, evenness_top, handles, labels, n_columns=columns)
    if pairs.names:
        canvas.text(MARGIN, strips_bottom, served)
        axes = canvas.axes(_LEFT, pairs_top, width, pairs_height)
        _draw_pairs(axes, pairs, numbers)
        _name_pairs(axes, pairs, palette, width)
        color_bar(canvas, axes.images[0], ATTENTION, left=_LEFT, top=bar_top, width=bar_length)
    canvas.figure.axes[2 if pairs.names else 1].set_xlabel("head")
    return canvas.figure


def _draw_strip(
    axes: Axes, heads: pd.DataFrame, values: str, numbers: Sequence[int], palette: Mapping[str, str], column: float
) -> None:
    """Draw a dot per head and receiver type, each type at its own place beside the head, and a bar at the mean."""
    known = heads[heads[values].notna()]
    names = list(palette)
    step = min(_WIDEST_STEP, 0.84 * column / max(len(names), 1)) / column  # in heads
    head = np.array([numbers.index(number) for number in known["head_idx"]], dtype=np.float64)
    place = np.array([names.index(name) for name in known["receiver"]], dtype=np.float64)
    value, cells = known[values].to_numpy(dtype=np.float64), known["cells"].to_numpy(dtype=np.float64)
    for position in range(1, len(numbers), 2):
        axes.axvspan(position - 0.5, position + 0.5, color=_FAINT, linewidth=0, zorder=0, label="_band")
    axes.scatter(
        head + (place - (len(names) - 1) / 2) * step, value, s=11 if len(names) <= 10 else 7,
        c=[palette[name] for name in known["receiver"]], linewidths=0.4,
        edgecolors=[readable_on_white(palette[name]) for name in known["receiver"]], zorder=4, clip_on=False,
        label="_receivers",
    )  # fmt: skip
    for position in range(len(numbers)):
        own = head == position
        if cells[own].sum() > 0:
            mean = float(np.average(value[own], weights=cells[own]))
            axes.plot(
                [position - 0.42, position + 0.42], [mean, mean], color=DARK, linewidth=1.2, zorder=3, clip_on=False,
                solid_capstyle="butt", label="_mean",
            )  # fmt: skip
    axes.set(xlim=(-0.5, len(numbers) - 0.5), ylim=(0.0, 1.0))
    axes.set_xticks(np.arange(len(numbers)), [str(number) for number in numbers])
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_locator(FixedLocator([0.0, 0.25, 0.5, 0.75, 1.0]))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.5)


def _draw_pairs(axes: Axes, pairs: _Pairs, numbers: Sequence[int]) -> None:
    """Draw the heatmap of pairs and heads."""
    top = max(float(np.nanmax(pairs.mean)), 1e-9)
    axes.imshow(pairs.mean, cmap="Blues", vmin=0.0, vmax=top, aspect="auto", interpolation="nearest")
    row, column = np.nonzero(pairs.served)
    colors = np.where(pairs.mean[row, column] > 0.55 * top, "white", DARK)
    axes.scatter(column, row, s=5, c=colors.tolist(), linewidths=0, label="_served")
    axes.set_facecolor("#e6e6e6")  # where a head has no edge of the pair
    axes.set_xticks(np.arange(len(numbers)), [str(number) for number in numbers])
    axes.set_yticks([])
    part_squares(axes, len(pairs.names), len(numbers), linewidth=0.8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _name_pairs(axes: Axes, pairs: _Pairs, palette: Mapping[str, str], width: float) -> None:
    """Write edges, sender, arrow and receiver to the right of each row, types in their colours."""
    edges_end = _PAIR_GAP + pairs.edges_width()

    def write(left: float, row: int, text: str, color: str, align: Literal["left", "right"]) -> None:
        axes.text(
            1 + left / width, row, text, transform=axes.get_yaxis_transform(), color=color, va="center_baseline",
            ha=align, parse_math=False,
        )  # fmt: skip

    for row, ((sender, receiver), edges) in enumerate(zip(pairs.names, pairs.edges, strict=True)):
        left = edges_end + _PAIR_GAP
        write(edges_end, row, f"{edges:,}", _GRAY, "right")
        for text, color in (
            (shorten(sender, LONGEST_NAME), readable_on_white(palette[sender])),
            (_ARROW, _GRAY),
            (shorten(receiver, LONGEST_NAME), readable_on_white(palette[receiver])),
        ):
            write(left, row, text, color, "left")
            left += text_width(text) / 1.04 + _WORD_GAP  # without what is added for a name that stands alone
    axes.tick_params(axis="x", pad=3)
    for left, text, align in ((edges_end, EDGES, "right"), (edges_end + _PAIR_GAP, PAIR, "left")):
        axes.text(
            1 + left / width, -0.05 / (len(pairs.names) * _PAIR_ROW), text, transform=axes.transAxes, color=_GRAY,
            va="top", ha=align,
        )  # fmt: skip
