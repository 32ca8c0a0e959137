"""What the statistics say of communication hubs: their number, which senders they are enriched for, and their sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from tissue_crosstalk.core.errors import ParameterError, did_you_mean, is_whole, listing
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    check_colors,
    key_columns,
    key_height,
    key_width,
    shorten,
    spread_apart,
    text_height,
    text_width,
    widest,
)
from tissue_crosstalk.core.plots.hub_style import (
    DARK,
    KEY_GAP,
    MARGIN,
    ROW,
    check_threshold,
    color_bar,
    color_bar_height,
    color_bar_width,
    dot_handle,
    hub_name,
    hub_numbers,
    in_order,
    name_columns,
    name_hub_rows,
    require,
    sentence,
    slanted_height,
    slanted_overhang,
)
from tissue_crosstalk.core.plots.style import figure_style, readable_on_white

CHOSEN_BY: Final[Mapping[str, str]] = {
    "silhouette": "chosen by silhouette",
    "stability": "chosen by stability",
    "given": "given",
}
VARIED: Final[Mapping[str, tuple[str, str, str]]] = {
    "seed": ("other seeds", "#0072B2", "o"),
    "cells": ("resampled cells", "#009E73", "s"),
}
"""What was varied to see how stable hubs are: name, colour and marker of its line."""

NULLS: Final[Mapping[str, tuple[str, str, str]]] = {
    "permutation": (
        "log2_enrichment",
        "q_value",
        "hub labels permuted among cells\nof one section, receiver type\nand number of strong neighbors",
    ),
    "at_hand": ("log2_at_hand", "q_at_hand", "what neighbors of these\ntypes at hand would give"),
}
"""What enrichment is measured against: the columns of its log2 and of q, and what is expected, in words."""
_EXTENDED: Final[Mapping[tuple[bool, bool], Literal["neither", "min", "max", "both"]]] = {
    (False, False): "neither",
    (True, False): "min",
    (False, True): "max",
    (True, True): "both",
}
"""Pointed ends of a scale of colours, by whether values are below and above it."""
LEAST_LIMIT: Final = 1.0
MOST_LIMIT: Final = 4.0
MOST_LOG_Q: Final = 3.0

_CHOSEN_COLOR: Final = "#B34E00"
_FAINT: Final = "#e6e6e6"


def plot_number_of_hubs(
    silhouette: Mapping[int, float], stability: pd.DataFrame, chosen: int, chosen_by: str
) -> Figure:
    """Draw silhouette and stability against the number of hubs, with the chosen number marked.

    Parameters
    ----------
    silhouette
        Mean silhouette for each number of hubs that was tried. May be empty.
    stability
        A row per repeated clustering with `n_hubs`, `varied` ("seed" or "cells"), `replicate` and `adjusted_rand`,
        its agreement with the clustering that is repeated. May be empty.
    chosen
        The number of hubs; 0 if all cells are isolated. Not marked where it was not tried.
    chosen_by
        How it was chosen: "silhouette", "stability" or "given".

    Returns
    -------
    matplotlib.figure.Figure
        A panel for the silhouette and one for stability, as far as there is something to draw, else a sentence.
        Stability is drawn as mean, range and single repeats.

    Raises
    ------
    ParameterError
        If a column is missing, `varied` or `chosen_by` holds something else, or `chosen` is below 0.

    Examples
    --------
    >>> import pandas as pd
    >>> stability = pd.DataFrame(
    ...     {"n_hubs": [2, 3], "varied": "seed", "replicate": 0, "adjusted_rand": [1.0, 0.8]}
    ... )
    >>> figure = plot_number_of_hubs({2: 0.3, 3: 0.4}, stability, 3, "silhouette")
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['mean silhouette', 'adjusted Rand index']
    """
    if chosen_by not in CHOSEN_BY:
        raise ParameterError(
            f"`chosen_by` must be one of {listing(list(CHOSEN_BY))}. Got {chosen_by!r} instead."
            + did_you_mean(str(chosen_by), CHOSEN_BY)
        )
    if not (is_whole(chosen) and chosen >= 0):
        raise ParameterError(f"`chosen` must be a whole number of at least 0. Got {chosen!r} instead.")
    require("stability", stability, ("n_hubs", "varied", "replicate", "adjusted_rand"))
    unknown = sorted({str(name) for name in stability["varied"]} - set(VARIED))
    if unknown:
        raise ParameterError(
            f"`varied` of `stability` must be {listing(list(VARIED))}. Got {listing(unknown)} instead."
        )
    caption = f"{chosen} hub{'' if chosen == 1 else 's'}, {CHOSEN_BY[chosen_by]}"
    silhouette = {number: value for number, value in sorted(silhouette.items()) if math.isfinite(value)}
    stability = stability.dropna(subset="adjusted_rand")
    with figure_style():
        if chosen == 0:
            return sentence("There is no hub: no cell has a strong neighbor.")
        if not silhouette and stability.empty:
            return sentence(f"{caption}: no silhouette and no stability was computed.")
        return _draw_number(silhouette, stability, chosen, caption)


def plot_hub_enrichment(
    enrichment: pd.DataFrame,
    *,
    null: Literal["permutation", "at_hand"] = "permutation",
    q_threshold: float = 0.05,
) -> Figure:
    """Draw which sender types are more, or less, often strong neighbors in a hub than expected: a dot for each.

    Parameters
    ----------
    enrichment
        A row per `hub` and `sender` with `log2_enrichment` and `q_value`, or `log2_at_hand` and `q_at_hand`. The log2
        is -inf where nothing was observed, and nan where nothing was expected.
    null
        What the observed are compared with. "permutation": hub labels permuted among the cells of one section and
        receiver type. "at_hand": what neighbors of these types at hand would give.
    q_threshold
        Dots with q below this have an outline.

    Returns
    -------
    matplotlib.figure.Figure
        Rows are hubs, columns sender types in the order of their first row. Colour is the log2 enrichment, cut at the
        99th percentile of its sizes, which is taken to be from 1 to 4; the area of a dot grows with -log10 q up to 3.
        A small cross stands where nothing was expected. Where there is no hub, a sentence.

    Raises
    ------
    ParameterError
        If a column is missing, a hub is no number of a hub, a hub and sender come twice, `null` is unknown, or
        `q_threshold` is not in (0, 1].

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame(
    ...     {"hub": [0, 1], "sender": "B", "log2_enrichment": [1.5, -0.5], "q_value": [0.001, 0.4]}
    ... )
    >>> plot_hub_enrichment(table).axes[0].collections[0].get_offsets().tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    if null not in NULLS:
        raise ParameterError(
            f"`null` must be one of {listing(list(NULLS))}. Got {null!r} instead.{did_you_mean(str(null), NULLS)}"
        )
    check_threshold(q_threshold)
    log2, q_value, expected = NULLS[null]
    require("enrichment", enrichment, ("hub", "sender", log2, q_value))
    hub = hub_numbers("`hub` of `enrichment`", enrichment["hub"])
    sender = enrichment["sender"].astype(str).to_numpy()
    twice = pd.DataFrame({"hub": hub, "sender": sender}).duplicated().to_numpy()
    if twice.any():
        first = int(np.argmax(twice))
        raise ParameterError(
            "`enrichment` must have one row per hub and sender. "
            f"Got several of {hub_name(int(hub[first]))} and {sender[first]!r}."
        )
    with figure_style():
        if enrichment.empty:
            return sentence("No enrichment of senders: there is no hub.")
        rows, columns = in_order(hub), list(dict.fromkeys(sender))
        return _draw_enrichment(
            rows,
            columns,
            np.array([rows.index(number) for number in hub.tolist()]),
            np.array([columns.index(name) for name in sender]),
            enrichment[log2].to_numpy(dtype=np.float64),
            enrichment[q_value].to_numpy(dtype=np.float64),
            expected=expected,
            q_threshold=q_threshold,
        )


def plot_hub_sizes(shares: pd.DataFrame, palette: Mapping[str, str]) -> Figure:
    """Draw how many cells each hub has, and of which types: stacked bars.

    Parameters
    ----------
    shares
        Numbers of `cells` by `hub` and `cell_type`; rows of several sections are added up.
    palette
        A colour for each cell type. Types are stacked in its order.

    Returns
    -------
    matplotlib.figure.Figure
        A bar per hub, isolated cells last, with the number of its cells and their share of all cells at its end.

    Raises
    ------
    ParameterError
        If a column is missing, a hub is no number of a hub, a type has no colour, or there is no row.

    Examples
    --------
    >>> import pandas as pd
    >>> shares = pd.DataFrame({"hub": [0, 0, 1], "cell_type": ["B", "T", "T"], "cells": [5, 1, 4]})
    >>> [text.get_text() for text in plot_hub_sizes(shares, {"B": "red", "T": "blue"}).axes[0].texts]
    ['6 (60.0%)', '4 (40.0%)']
    """
    require("shares", shares, ("hub", "cell_type", "cells"))
    if shares.empty:
        raise ParameterError("`shares` must hold at least one row. Got none.")
    cell_type = shares["cell_type"].astype(str).to_numpy()
    check_colors(cell_type, palette)
    hub = hub_numbers("`hub` of `shares`", shares["hub"])
    hubs, names = in_order(hub), list(palette)
    counts = np.zeros((len(hubs), len(names)))
    np.add.at(
        counts,
        (
            np.array([hubs.index(number) for number in hub.tolist()]),
            np.array([names.index(name) for name in cell_type]),
        ),
        shares["cells"].to_numpy(dtype=np.float64),
    )
    present = np.flatnonzero(counts.sum(axis=0))
    with figure_style():
        return _draw_sizes(hubs, counts[:, present], {names[index]: palette[names[index]] for index in present})


def _draw_number(silhouette: Mapping[int, float], stability: pd.DataFrame, chosen: int, caption: str) -> Figure:
    """Draw one or two panels against the number of hubs."""
    left, width, height, gap = 0.65, 2.2, 1.5, 0.1
    kinds = [kind for kind in VARIED if (stability["varied"] == kind).any()]
    top = MARGIN + text_height(caption) + 0.05
    n_panels = bool(silhouette) + bool(kinds)
    beside = 0.22 + widest([VARIED[kind][0] for kind in kinds]) if kinds else 0.0
    total_width = max(
        n_panels * (left + width) + (n_panels - 1) * gap + beside + MARGIN, text_width(caption) + 2 * MARGIN
    )
    canvas = Canvas.of_size(total_width, top + height + 0.4, title="How good and how stable hubs are")
    numbers = sorted({*silhouette, *stability["n_hubs"].astype(int)})

    panels: list[Axes] = []
    marked: list[float] = []  # in inches, where the chosen number lies in the panels that have it
    for tried in ([silhouette] if silhouette else []) + ([set(stability["n_hubs"])] if kinds else []):
        start = left + len(panels) * (left + width + gap)
        axes = canvas.axes(start, top, width, height, share_x=panels[0] if panels else None)
        panels.append(axes)
        axes.set(xlim=(numbers[0] - 0.4, numbers[-1] + 0.4), xlabel="number of hubs")
        if chosen in tried:
            axes.axvline(chosen, color=_CHOSEN_COLOR, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1, label="_chosen")
            marked.append(start + (chosen - numbers[0] + 0.4) / (numbers[-1] - numbers[0] + 0.8) * width)
    panels[0].xaxis.set_major_locator(
        FixedLocator(numbers) if len(numbers) <= 12 else MaxNLocator(12, integer=True, min_n_ticks=1)
    )
    if silhouette:
        _draw_silhouette(panels[0], silhouette, chosen)
    if kinds:
        _draw_stability(panels[-1], stability, kinds, width, height)
    wanted = marked[0] - text_width(caption) / 2 if marked else left
    canvas.figure.text(
        max(min(wanted, total_width - MARGIN - text_width(caption)), MARGIN) / total_width,
        canvas.share_of_height(MARGIN),
        caption,
        color=_CHOSEN_COLOR,
        va="top",
        ha="left",
    )
    return canvas.figure


def _draw_silhouette(axes: Axes, silhouette: Mapping[int, float], chosen: int) -> None:
    line = "-" if len(silhouette) > 1 else "none"
    axes.plot(list(silhouette), list(silhouette.values()), color="#555555", marker="o", markersize=3.0, linestyle=line)
    if chosen in silhouette:
        axes.plot([chosen], [silhouette[chosen]], color="#D55E00", marker="o", markersize=6.0, linestyle="none")
    axes.margins(y=0.12)
    axes.set_ylabel("mean silhouette")
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _draw_stability(
    axes: Axes, stability: pd.DataFrame, kinds: Sequence[str], panel_width: float, panel_height: float
) -> None:
    """Draw mean, range and repeats of each kind, and name it at the right end of its line."""
    low, high = axes.get_xlim()
    ends: list[tuple[float, float, str]] = []  # (y, x, kind) of the last point of each line
    for kind in kinds:
        _, color, marker = VARIED[kind]
        rows = stability[stability["varied"] == kind].astype({"n_hubs": int, "adjusted_rand": float})
        by_number = rows.groupby("n_hubs")["adjusted_rand"].agg(["mean", "min", "max"])
        x = by_number.index.to_numpy(dtype=np.float64)
        mean = by_number["mean"].to_numpy()
        if len(x) > 1:
            axes.fill_between(
                x, by_number["min"], by_number["max"], color=color, alpha=0.15, linewidth=0, zorder=2, label="_range"
            )
        # Both kinds often agree to the last digit.
        aside = (0.0 if len(kinds) == 1 else (-0.05, 0.05)[kinds.index(kind)]) / panel_width * (high - low)
        axes.scatter(
            rows["n_hubs"].to_numpy() + aside, rows["adjusted_rand"], s=6, color=color,
            alpha=0.35, linewidths=0, marker=marker, zorder=3, clip_on=False, label="_repeats",
        )  # fmt: skip
        axes.plot(
            x, mean, color=color, marker=marker, markersize=3.0, linestyle="-" if len(x) > 1 else "none", zorder=4,
            clip_on=False, label=kind,
        )  # fmt: skip
        ends.append((float(mean[-1]), float(x[-1]), kind))
    bottom = min(float(stability["adjusted_rand"].min()) - 0.03, 0.0)
    axes.set(ylim=(bottom, 1.0), ylabel="adjusted Rand index")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    ends.sort()
    heights = [(y - bottom) / (1.0 - bottom) for y, _, _ in ends]
    placed = spread_apart([share * panel_height for share in heights], 0.135, 0.0, panel_height)
    for (_, x_end, kind), share, position in zip(ends, heights, placed, strict=True):
        name, color, _ = VARIED[kind]
        axes.plot(
            [(x_end - low) / (high - low), 1.0, 1 + 0.18 / panel_width],
            [share, share, position / panel_height],
            transform=axes.transAxes, color=color, linewidth=0.6, linestyle=(0, (1.5, 1.5)), clip_on=False, zorder=2,
            label="_leader",
        )  # fmt: skip
        axes.text(
            1 + 0.22 / panel_width, position / panel_height, name, transform=axes.transAxes,
            color=readable_on_white(color), va="center", ha="left",
        )  # fmt: skip


def _dot_areas(q_value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return areas of dots in square points, from 10 where q is 1, or unknown, to 130 where it is 0.001 or less."""
    known = np.where(np.isnan(q_value), 1.0, q_value)
    evidence = np.clip(-np.log10(np.maximum(known, 1e-300)), 0.0, MOST_LOG_Q)
    areas: NDArray[np.float64] = 10.0 + 40.0 * evidence
    return areas


def _limit(log2: NDArray[np.float64]) -> float:
    """Return the end of the colour scale."""
    sizes = np.abs(log2[np.isfinite(log2)])
    return float(np.clip(np.percentile(sizes, 99), LEAST_LIMIT, MOST_LIMIT)) if sizes.size else LEAST_LIMIT


def _draw_enrichment(
    hubs: Sequence[int],
    senders: Sequence[str],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    log2: NDArray[np.float64],
    q_value: NDArray[np.float64],
    *,
    expected: str,
    q_threshold: float,
) -> Figure:
    """Draw the dots: `row`, `column`, `log2` and `q_value` are of shape (dot,)."""
    names = [shorten(name) for name in senders]
    defined = ~np.isnan(log2)
    limit = _limit(log2)
    key_q = [1.0, 0.1, 0.01, 0.001]
    key_labels = [f"q = {value:g}" for value in key_q[:-1]] + [f"q ≤ {key_q[-1]:g}", f"outline: q < {q_threshold:g}"]
    handles = [
        dot_handle(float(area), outlined=value < q_threshold)
        for value, area in zip(key_q, _dot_areas(np.array(key_q)), strict=True)
    ] + [dot_handle(50.0, outlined=True, color="white")]
    if not defined.all():
        key_labels.append("none expected")
        handles.append(_cross_handle())

    width, height = len(senders) * ROW, len(hubs) * ROW
    rows = [hub_name(hub) for hub in hubs]
    left = MARGIN + widest(rows) + 0.1
    above = slanted_height(names)
    bar_label = f"strong neighbors: log2 (observed / expected)\nexpected: {expected}"
    bar_length = color_bar_width(bar_label, width)
    bar_top = MARGIN + above + height + 0.12
    key_left = left + max(width, bar_length) + KEY_GAP
    columns = key_columns(len(key_labels), height + 0.75)
    total_width = MARGIN + max(key_left + key_width(key_labels, columns), left + width + slanted_overhang(names, ROW))
    bottom = max(bar_top + color_bar_height(bar_label), MARGIN + above + key_height(len(handles), columns))
    canvas = Canvas.of_size(total_width, bottom + MARGIN, title="Strong neighbors of hubs against expectation")

    axes = canvas.axes(left, MARGIN + above, width, height)
    name_hub_rows(axes, hubs, rows)
    name_columns(axes, names)
    axes.grid(color=_FAINT, linewidth=0.5)
    axes.spines[:].set_visible(False)
    significant = (q_value < q_threshold)[defined]
    # A colormap that is grey, not white, in the middle: dots without an outline are seen there, too.
    scale = ScalarMappable(Normalize(-limit, limit), "coolwarm")
    axes.scatter(
        column[defined], row[defined], s=_dot_areas(q_value[defined]),
        c=scale.to_rgba(np.clip(log2[defined], -limit, limit)),
        edgecolors=DARK, linewidths=np.where(significant, 0.9, 0.0).tolist(), zorder=3, clip_on=False,
    )  # fmt: skip
    axes.scatter(column[~defined], row[~defined], s=9, c="#8a8a8a", marker="x", linewidths=0.7, zorder=3)
    beyond = (bool((log2 < -limit).any()), bool((log2 > limit).any()))
    color_bar(canvas, scale, bar_label, left=left, top=bar_top, width=bar_length, extend=_EXTENDED[beyond])
    canvas.key(key_left, MARGIN + above, handles, key_labels, n_columns=columns)
    return canvas.figure


def _cross_handle() -> Line2D:
    return Line2D([], [], color="#8a8a8a", marker="x", markersize=3.0, markeredgewidth=0.7, linestyle="none")


def _draw_sizes(hubs: Sequence[int], counts: NDArray[np.float64], palette: Mapping[str, str]) -> Figure:
    """Draw a bar per hub: `counts` of shape (hub, type), `palette` of these types."""
    names = list(palette)
    sizes = counts.sum(axis=1)  # (hub,)
    total = max(float(sizes.sum()), 1.0)
    ends = [f"{int(size):,} ({100 * size / total:.1f}%)" for size in sizes]
    width, height, below = 3.0, len(hubs) * ROW, 0.36
    rows = [hub_name(hub) for hub in hubs]
    left = MARGIN + widest(rows) + 0.1
    columns = key_columns(len(names), height + below)
    key_left = left + width + 0.05 + widest(ends) + KEY_GAP
    bottom = MARGIN + max(height + below, key_height(len(names), columns))
    canvas = Canvas.of_size(
        key_left + key_width(names, columns) + MARGIN, bottom, title="Cells of hubs by cell type"
    )  # fmt: skip
    axes = canvas.axes(left, MARGIN, width, height)
    start = np.zeros(len(hubs))
    for name, number in zip(names, counts.T, strict=True):
        axes.barh(
            np.arange(len(hubs)), number, left=start, height=0.72, color=palette[name], linewidth=0,
            label="_type",
        )  # fmt: skip
        start = start + number
    longest = max(float(sizes.max()), 1.0)
    axes.set(xlim=(0.0, longest), xlabel="cells")
    for row, (size, text) in enumerate(zip(sizes, ends, strict=True)):
        axes.text(float(size) + 0.05 / width * longest, row, text, va="center", ha="left")
    name_hub_rows(axes, hubs, rows)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    handles = [Line2D([], [], color=color, marker="s", markersize=5.0, linestyle="none") for color in palette.values()]
    canvas.key(key_left, MARGIN, handles, names, n_columns=columns)
    return canvas.figure
