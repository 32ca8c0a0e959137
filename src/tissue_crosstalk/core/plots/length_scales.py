"""Over what distance each head attends to each sender: distributions of length scales, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from tissue_crosstalk.core.errors import ParameterError, did_you_mean, listing
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    check_colors,
    grid,
    key_height,
    key_width,
    shorten,
    text_height,
    text_width,
    widest,
    wrap,
)
from tissue_crosstalk.core.plots.effect_style import (
    GRAY,
    HEAD,
    NULL_COLOR,
    RECEIVER,
    SENDER,
    finite,
    head_name,
    head_order,
    heads_of,
    is_name,
    one_row_each,
    texts_of,
)
from tissue_crosstalk.core.plots.hub_style import DARK, MARGIN, require, sentence
from tissue_crosstalk.core.plots.style import TITLE_SIZE, figure_style, readable_on_white

LENGTH_SCALE: Final = "length_scale"
N_BINS: Final = 48
PERCENTILE: Final = 98.0
"""Of the length scales of a head and sender, up to which all such are drawn."""

# All in inches.
_WIDTH: Final = 1.55
_ROW: Final = 0.17
_TALL_ROW: Final = 0.26
_GAP: Final = 0.16
_HEADING: Final = 0.2
_BOTTOM: Final = 0.24


@dataclass(frozen=True)
class _Row:
    """Length scales of one head and sender: `density` is of shape (bin,), at most 1."""

    density: NDArray[np.float64]
    middle: float
    low: float
    high: float
    supported: bool


def plot_length_scales(
    length_scales: pd.DataFrame,
    summary: pd.DataFrame,
    receiver: str,
    palette: Mapping[str, str],
    *,
    statistic: Literal["median", "mean"] = "median",
    distance_unit: str = "",
) -> Figure:
    """Draw over what distance one receiver type attends to each sender type: a panel per head, a row per sender.

    Parameters
    ----------
    length_scales
        A row per `receiver`, `sender`, `head` and neighboring cell, with its `length_scale` in units of the
        coordinates, before those that are not supported are set to 0: as `summary` has them.
    summary
        A row per `receiver`, `sender` and `head`: `median`, `median_low` and `median_high` (or those of the mean), and
        `supported`, whether enough receivers have such a sender within reach.
    receiver
        The receiver type.
    palette
        A colour for each cell type; rows are in its order.
    statistic
        What the point and its interval are of.
    distance_unit
        Unit of the coordinates, such as "µm"; empty if unknown.

    Returns
    -------
    matplotlib.figure.Figure
        Shapes are histograms of the length scales, each of the same height; points are medians or means, with their
        intervals. Rows that are not supported are grey. The axis ends where nearly all length scales of supported rows
        do. Without a row, a sentence.

    Raises
    ------
    ParameterError
        If a column is missing, a row of the summary comes twice, a number is negative or infinite, a type has no
        colour, or `statistic` is unknown.

    Examples
    --------
    >>> import pandas as pd
    >>> scales = pd.DataFrame({"receiver": "B", "sender": "T", "head_idx": 0, "length_scale": [8.0, 10.0, 12.0]})
    >>> summary = pd.DataFrame(
    ...     {"receiver": ["B"], "sender": ["T"], "head_idx": [0], "median": [10.0], "median_low": [8.0],
    ...      "median_high": [12.0], "supported": [True]}
    ... )
    >>> axes = plot_length_scales(scales, summary, "B", {"B": "red", "T": "blue"}).axes[0]
    >>> axes.get_title(loc="left"), [label.get_text() for label in axes.get_yticklabels()]
    ('head 0', ['T'])
    """
    if statistic not in ("median", "mean"):
        raise ParameterError(
            f"`statistic` must be one of {listing(['median', 'mean'])}. Got {statistic!r} instead."
            + did_you_mean(str(statistic), ["median", "mean"])
        )
    ends = (statistic, f"{statistic}_low", f"{statistic}_high")
    require("length_scales", length_scales, (RECEIVER, SENDER, HEAD, LENGTH_SCALE))
    require("summary", summary, (RECEIVER, SENDER, HEAD, *ends, "supported"))
    own = length_scales[is_name(length_scales[RECEIVER], receiver)]
    of_rows = summary[is_name(summary[RECEIVER], receiver)]
    heads = heads_of("`head_idx` of `summary`", of_rows[HEAD])
    one_row_each("summary", of_rows, (SENDER, HEAD))
    check_colors([receiver, *texts_of(of_rows[SENDER]), *texts_of(own[SENDER])], palette)
    values = finite("`length_scale` of `length_scales`", own[LENGTH_SCALE])
    if (values < 0).any():
        raise ParameterError(
            f"`length_scale` of `length_scales` must be at least 0. Got {float(np.nanmin(values))!r} instead."
        )
    middles = [finite(f"`{name}` of `summary`", of_rows[name]) for name in ends]
    supported = of_rows["supported"].to_numpy(dtype=bool)
    groups = _grouped(values, texts_of(own[SENDER]), heads_of("`head_idx` of `length_scales`", own[HEAD]))
    keys = list(zip(texts_of(of_rows[SENDER]).tolist(), heads.tolist(), strict=True))
    reach = _reach(keys, groups, middles, supported)
    rows = {
        key: _Row(
            _density(groups.get(key, np.zeros(0)), reach), float(middle), float(low), float(high), bool(is_supported)
        )
        for key, middle, low, high, is_supported in zip(keys, *middles, supported.tolist(), strict=True)
    }
    present = {sender for sender, _ in keys}
    senders = [name for name in palette if name in present]
    with figure_style():
        if not senders:
            return sentence(f"No length scales of {shorten(receiver)}: it has no neighbors of another type.")
        return _draw(rows, receiver, senders, head_order(heads), palette, reach, statistic, distance_unit)


def _grouped(
    values: NDArray[np.float64], sender: NDArray[np.object_], head: NDArray[np.int64]
) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Return the values, (row,), of each sender and head that has some; there may be millions of rows."""
    code, senders = pd.factorize(sender)
    which, heads = pd.factorize(head)
    key = code * len(heads) + which
    order = np.argsort(key, kind="stable")
    keys, starts = np.unique(key[order], return_index=True)
    parts = np.split(values[order], starts[1:])
    return {
        (str(senders[one // len(heads)]), int(heads[one % len(heads)])): part
        for one, part in zip(keys.tolist(), parts, strict=False)  # no key, but one part, where there are no rows
    }


def _reach(
    keys: Sequence[tuple[str, int]],
    groups: Mapping[tuple[str, int], NDArray[np.float64]],
    middles: Sequence[NDArray[np.float64]],
    supported: NDArray[np.bool_],
) -> float:
    """Return the end of the axis: nearly all length scales of each row that is supported, and its interval."""
    use = supported if supported.any() else np.ones(len(keys), dtype=bool)
    ends = [0.0]
    for key, used, high in zip(keys, use.tolist(), middles[2].tolist(), strict=True):
        if not used:
            continue
        own = groups.get(key, np.zeros(0))
        own = own[~np.isnan(own)]
        ends += [float(np.percentile(own, PERCENTILE)) if own.size else 0.0, 0.0 if math.isnan(high) else high]
    return 1.03 * max(ends) or 1.0


def _density(values: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """Return a smooth histogram of those within reach, (bin,), the largest 1; all 0 where there is none."""
    counts = np.histogram(values[values <= reach], N_BINS, (0.0, reach))[0].astype(np.float64)
    padded = np.pad(counts, 2, mode="edge" if counts.size else "constant")
    smooth = np.convolve(padded, np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0, mode="valid")
    largest = float(smooth.max())
    density: NDArray[np.float64] = smooth / largest if largest > 0 else smooth
    return density


def _draw(
    rows: Mapping[tuple[str, int], _Row],
    receiver: str,
    senders: Sequence[str],
    heads: Sequence[int],
    palette: Mapping[str, str],
    reach: float,
    statistic: str,
    distance_unit: str,
) -> Figure:
    """Draw a panel per head, with names of senders beside the first of each row of panels."""
    n_rows, n_columns = grid(len(heads), 4)
    row = _TALL_ROW if len(senders) <= 6 else _ROW
    names = [shorten(name) for name in senders]
    left = MARGIN + widest(names) + 0.1
    height = len(senders) * row
    xlabel = f"length scale ({distance_unit})" if distance_unit else "length scale"
    width = max(_WIDTH, text_width(xlabel))
    any_greyed = any(not one.supported for one in rows.values())
    handles: list[Artist] = [
        Patch(color="#c8c8c8", linewidth=0),
        Line2D([], [], color=DARK, marker="o", markersize=3.0, linewidth=1.0),
        *([Patch(color=_light(NULL_COLOR), linewidth=0)] if any_greyed else []),
    ]
    labels = ["neighbors", f"{statistic}, 95 % interval", *(["not supported"] if any_greyed else [])]
    labels = [*labels[:2], "grey: too few receivers within reach"] if any_greyed else labels
    panels_right = left + n_columns * width + (n_columns - 1) * _GAP
    n_key = next((n for n in (len(labels), 2) if MARGIN + key_width(labels, n) <= max(panels_right, 3.0)), 1)
    total_width = max(panels_right + 0.15, MARGIN + key_width(labels, n_key) + MARGIN)
    title = wrap(f"Length scales of attention: {shorten(receiver)}", total_width - 2 * MARGIN)
    top = MARGIN + text_height(title, TITLE_SIZE) + 0.02
    row_step = _HEADING + height + _BOTTOM
    key_top = top + n_rows * row_step + 0.2
    canvas = Canvas.of_size(total_width, key_top + key_height(len(labels), n_key) + MARGIN)
    canvas.text(MARGIN, MARGIN, title, size=TITLE_SIZE, bold=True)
    for index, head in enumerate(heads):
        line, column = divmod(index, n_columns)
        axes = canvas.axes(left + column * (width + _GAP), top + _HEADING + line * row_step, width, height)
        axes.set(xlim=(0.0, reach), ylim=(len(senders) - 0.5, -0.5))
        axes.set_title(head_name(head), loc="left")
        axes.set_yticks(np.arange(len(senders)), names if column == 0 else [""] * len(senders))
        axes.tick_params(axis="y", length=0, pad=4)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # short: labels of panels side by side do not touch
        axes.grid(axis="x", color="#ececec", linewidth=0.5)
        axes.spines["left"].set_color("#b0b0b0")
        for label, name in zip(axes.get_yticklabels(), senders, strict=True):
            label.set_color(readable_on_white(palette[name]))
        _draw_rows(axes, [rows.get((name, head)) for name in senders], [palette[name] for name in senders])
        if index + n_columns >= len(heads):
            axes.set_xlabel(xlabel)
    canvas.key(MARGIN, key_top, handles, labels, n_columns=n_key)
    return canvas.figure


def _light(color: str) -> tuple[float, float, float]:
    """Return a colour halfway to white."""
    from matplotlib.colors import to_rgb

    red, green, blue = (0.5 + 0.5 * one for one in to_rgb(color))
    return red, green, blue


def _draw_rows(axes: Axes, rows: Sequence[_Row | None], colors: Sequence[str]) -> None:
    """Draw shapes, intervals and points."""
    low, high = axes.get_xlim()
    x = np.linspace(low, high, N_BINS + 1)
    x = np.concatenate([[low], (x[1:] + x[:-1]) / 2, [high]])
    shapes, faces = [], []
    for place, (row, color) in enumerate(zip(rows, colors, strict=True)):
        if row is None:
            continue
        half = 0.4 * np.concatenate([row.density[:1], row.density, row.density[-1:]])
        shapes.append(np.concatenate([np.column_stack([x, place - half]), np.column_stack([x, place + half])[::-1]]))
        faces.append(_light(color) if row.supported else _light(NULL_COLOR))
    axes.add_collection(
        PolyCollection(shapes, facecolors=faces, linewidths=0, zorder=2, label="_shapes"), autolim=False
    )
    for kind in (True, False):
        own = [(place, row) for place, row in enumerate(rows) if row is not None and row.supported is kind]
        places = [place for place, _ in own]
        dark = DARK if kind else GRAY
        axes.hlines(
            places, [row.low for _, row in own], [row.high for _, row in own], colors=dark,
            linewidths=1.2 if kind else 0.8, zorder=3, label="_interval" if kind else "_unsupported interval",
        )  # fmt: skip
        axes.scatter(
            [row.middle for _, row in own], places, s=9 if kind else 5, c=dark, linewidths=0, zorder=4, clip_on=True,
            label="_point" if kind else "_unsupported point",
        )  # fmt: skip
