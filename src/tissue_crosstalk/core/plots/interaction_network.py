"""Who strongly attends to whom: cell types on a circle, with arrows from senders to receivers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ArrowStyle, FancyArrowPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError, is_number
from tissue_crosstalk.core.plots._layout import (
    POINTS_PER_INCH,
    Canvas,
    check_flavor,
    shorten,
    spread_apart,
    text_height,
    text_width,
    wrap,
)
from tissue_crosstalk.core.plots.attention_matrix import type_positions
from tissue_crosstalk.core.plots.hub_style import MARGIN, sentence
from tissue_crosstalk.core.plots.style import FONT_SIZE, TITLE_SIZE, figure_style
from tissue_crosstalk.core.profiles import EDGES, RECEIVERS, STRONG_SHARE

WIDEST_ARROW: Final = 4.0  # points, of the largest share
LEAST_ARROW: Final = 0.4

_WHITE: Final = 0.3  # points, of the line around an arrow, half of which lies on it

_KEY_COLOR: Final = "#8a8a8a"
_LEADER_COLOR: Final = "#b0b0b0"

# All in inches.
_LEAST_NODE: Final = 0.04
_NODE: Final = 0.065
_MOST_NODE: Final = 0.1
_ARC: Final = 0.46
"""Between neighboring nodes, along the circle."""
_LEAST_CIRCLE: Final = 0.9
_RIM: Final = 0.025
"""Between a node and the ends of arrows."""
_NAME_STEP: Final = 0.14
_NAME_GAP: Final = 0.06
_KEY_ARROW: Final = 0.34
_KEY_STEP: Final = 0.24


def plot_interaction_network(
    pairs: pd.DataFrame,
    palette: Mapping[str, str],
    *,
    threshold: float,
    flavor: str = terms.VANILLA,
    min_edges: int = 0,
) -> Figure:
    """Draw cell types on a circle, with arrows to receiver types from the sender types they strongly attend to.

    Parameters
    ----------
    pairs
        A row per `receiver` and `sender` with at least one edge: `strong_share`, the share from 0 to 1 of edges that
        carry strong attention, and maybe `receivers`, the number of cells of the receiver type.
    palette
        A colour for each cell type. Its order is that of the types, clockwise from the top.
    threshold
        Pairs whose `strong_share` is at least this get an arrow. Above 0, at most 1.
    flavor
        Flavor of the attention.
    min_edges
        Pairs with fewer `edges` get no arrow, whatever their share: of two edges, both may be strong by chance.

    Returns
    -------
    matplotlib.figure.Figure
        Arrows have the colour of their sender, and a width proportional to `strong_share`; wider ones are drawn above
        narrower ones. Areas of dots are proportional to `receivers`, down to a least one. Where no pair reaches the
        threshold, a sentence says so below the title. Without a pair, a sentence alone.

    Raises
    ------
    ParameterError
        If a column is missing, a pair comes twice or is one type, a type has no colour, a value or `threshold` is out
        of range, or `flavor` is unknown.

    Examples
    --------
    >>> import pandas as pd
    >>> pairs = pd.DataFrame({"receiver": ["B", "T"], "sender": ["T", "B"], "strong_share": [0.5, 0.1]})
    >>> figure = plot_interaction_network(pairs, {"B": "red", "T": "blue"}, threshold=0.2)
    >>> figure.texts[1].get_text().endswith("1 of 2 pairs")
    True
    """
    check_flavor(flavor)
    if not (is_number(threshold) and 0 < threshold <= 1):
        raise ParameterError(f"`threshold` must be above 0 and at most 1. Got {threshold!r} instead.")
    counted = RECEIVERS in pairs.columns
    needed = (STRONG_SHARE, *([RECEIVERS] if counted else []), *([EDGES] if min_edges > 0 else []))
    types, receiver, sender = type_positions(pairs, palette, needed)
    with figure_style():
        if not types:
            return sentence("No attention between cell types: there is no edge.")
        share = pairs[STRONG_SHARE].to_numpy(dtype=np.float64)
        cells = np.zeros(len(types))
        if counted:
            np.maximum.at(cells, receiver, pairs[RECEIVERS].to_numpy(dtype=np.float64))
        enough = np.flatnonzero(pairs[EDGES].to_numpy() >= min_edges) if min_edges > 0 else np.arange(len(pairs))
        drawn = enough[share[enough] >= threshold]
        drawn = drawn[np.argsort(share[drawn], kind="stable")]  # wider ones above
        with_edges = f" with at least {min_edges:,} edges" if min_edges > 1 else ""
        if len(drawn):
            caption = (
                f"arrows from sender to receiver: pairs of which at least {_percent(threshold)} of the edges carry "
                f"strong attention; {len(drawn):,} of {len(enough):,} pairs{with_edges}"
            )
        elif not len(enough):
            caption = f"no arrows: there is no pair{with_edges}."
        else:
            most = int(enough[np.argmax(share[enough])])
            caption = (
                f"no arrows: there is no pair of which at least {_percent(threshold)} of the edges carry strong "
                f"attention. The largest share{' of those' + with_edges if with_edges else ''} is "
                f"{_percent(float(share[most]))}, of edges from {types[sender[most]]} to {types[receiver[most]]}."
            )
        return draw_network(
            {name: palette[name] for name in types},
            cells if cells.any() else None,
            sender[drawn],
            receiver[drawn],
            share[drawn],
            title=f"Strong attention between cell types ({flavor})",
            caption=caption,
            weights=ArrowWeights(threshold, _percent, " of edges"),
        )


def _percent(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.3g} %"


@dataclass(frozen=True)
class ArrowWeights:
    """What the widths of arrows mean.

    Attributes
    ----------
    least
        The smallest weight that has an arrow.
    written
        Returns a weight as text.
    unit
        What is written behind the last weight of the key.
    whole
        Weights are whole numbers.
    """

    least: float
    written: Callable[[float], str]
    unit: str
    whole: bool = False


def draw_network(
    palette: Mapping[str, str],
    cells: NDArray[np.float64] | None,
    sender: NDArray[np.int64],
    receiver: NDArray[np.int64],
    share: NDArray[np.float64],
    *,
    title: str,
    caption: str,
    weights: ArrowWeights,
) -> Figure:
    """Draw types on a circle, with an arrow for each of some pairs.

    Parameters
    ----------
    palette
        The types, clockwise from the top, with their colours.
    cells
        Numbers of cells, which the areas of dots are proportional to, of shape (type,). None: dots are alike.
    sender, receiver
        Positions of the types of each arrow, of shape (arrow,).
    share
        Weights, which widths are proportional to, of shape (arrow,), from the smallest to the largest.
    title, caption
        What is written above.
    weights
        What `share` is.

    Returns
    -------
    matplotlib.figure.Figure
        The network, with keys of widths and areas below.
    """
    names, colors = [shorten(name) for name in palette], list(palette.values())
    n_types = len(names)
    circle = max(_ARC * n_types / (2 * math.pi), _LEAST_CIRCLE)
    angle = math.pi / 2 - 2 * math.pi * np.arange(n_types) / n_types
    nodes = circle * np.column_stack([np.cos(angle), np.sin(angle)])  # (type, axis), in inches from the middle
    radius = np.full(n_types, _NODE) if cells is None else _radii(cells, float(cells.max()))
    outer = circle + float(radius.max()) + _NAME_GAP
    anchors, sides = name_places(nodes * (1 + (radius[:, None] + _NAME_GAP) / circle))
    arrows = _arrow_key(weights, share)
    dots = [] if cells is None else _cell_key(float(cells.max()))

    left, right = (
        max(
            [outer]
            + [
                side * x + text_width(name) * (0.5 if own == 0 else 1.0)
                for (x, _), own, name in zip(anchors, sides, names, strict=True)
                if own in (0, side)
            ]
        )
        for side in (-1, 1)
    )
    key_height = 0.2 if arrows or dots else 0.0
    texts = _key_texts(arrows, dots, weights)
    keys_width = _key_width(*texts)
    width = max(left + right, keys_width, 3.2) + 2 * MARGIN
    title, caption = wrap(title, width - 2 * MARGIN), wrap(caption, width - 2 * MARGIN, FONT_SIZE)
    caption_top = MARGIN + text_height(title, TITLE_SIZE) + 0.03
    top = caption_top + text_height(caption) + 0.04
    above, below = float(anchors[:, 1].max()) + _NAME_STEP, float(-anchors[:, 1].min()) + _NAME_STEP
    height = top + max(above, outer) + max(below, outer) + (0.1 + key_height if key_height else 0.0) + 0.05
    canvas = Canvas.of_size(width, height)
    canvas.text(MARGIN, MARGIN, title, size=TITLE_SIZE, bold=True)
    canvas.text(MARGIN, caption_top, caption)

    # One panel of the size of the figure, in inches: arrows end exactly where dots begin.
    axes = canvas.axes(0.0, 0.0, width, height)
    x_middle = MARGIN + left + (width - 2 * MARGIN - left - right) / 2
    y_middle = top + max(above, outer)
    axes.set(xlim=(-x_middle, width - x_middle), ylim=(y_middle - height, y_middle), xticks=[], yticks=[])
    axes.set_autoscale_on(False)
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)
    largest = float(share.max()) if len(share) else 1.0
    for start, end, value in zip(sender.tolist(), receiver.tolist(), share.tolist(), strict=True):
        curve = _curve(nodes[start], nodes[end], float(radius[start]) + _RIM, float(radius[end]) + _RIM)
        _draw_arrow(axes, curve, WIDEST_ARROW * value / largest, colors[start])
    axes.scatter(
        nodes[:, 0], nodes[:, 1], s=math.pi * (radius * POINTS_PER_INCH) ** 2 * 4 / math.pi, c=colors, linewidths=0,
        zorder=3, clip_on=False,
    )  # fmt: skip
    draw_names(axes, names, nodes * (1 + (radius[:, None] + 0.02) / circle), anchors, sides)
    if key_height:
        key_left = (width - keys_width) / 2 - x_middle
        _draw_keys(axes, key_left, y_middle - height + 0.05 + key_height / 2, arrows, dots, texts, largest, cells)
    return canvas.figure


def _radii(cells: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """Return radii in inches of dots whose areas are proportional to numbers of cells, down to a least radius."""
    radii: NDArray[np.float64] = np.maximum(_MOST_NODE * np.sqrt(cells / most), _LEAST_NODE)
    return radii


def name_places(wanted: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[int]]:
    """Return where names around a circle go, and to which side they run from there: -1 left, 0 both, 1 right.

    They stay outside of the circle, those of each half far enough apart; those at its top and bottom are centered.
    """
    anchors = wanted.copy()
    outer = np.hypot(*wanted.T)
    sides = [0 if abs(x) < 1e-6 else int(math.copysign(1, x)) for x in wanted[:, 0]]
    room = float(outer.max()) + _NAME_STEP * len(wanted)
    for side in (-1, 1):
        own = np.array([index for index, one in enumerate(sides) if one == side], dtype=np.int64)
        own = own[np.argsort(wanted[own, 1], kind="stable")]
        y = spread_apart(wanted[own, 1].tolist(), _NAME_STEP, -room, room)
        x = np.sqrt(np.maximum(outer[own] ** 2 - y**2, 0.0))
        # Beside the circle, and never nearer to its vertical axis than the dot.
        anchors[own, 0] = side * np.maximum(x, np.abs(wanted[own, 0]))
        anchors[own, 1] = y
    beside = [abs(y) for (_, y), side in zip(anchors, sides, strict=True) if side]
    for index in (index for index, side in enumerate(sides) if side == 0):
        farthest = max(abs(float(wanted[index, 1])) + 0.04, *(y + _NAME_STEP for y in beside), 0.0)
        anchors[index, 1] = math.copysign(farthest, wanted[index, 1])
    return anchors, sides


def _curve(start: NDArray[np.float64], end: NDArray[np.float64], at_start: float, at_end: float) -> NDArray[np.float64]:
    """Return the three control points of a parabola between the rims of two nodes, bent towards the middle.

    It passes the straight line between the nodes on its left side, so that the way back is another one.
    """
    middle, along = (start + end) / 2, end - start
    distance = float(np.hypot(*along))
    aside = np.array([-along[1], along[0]]) / distance
    inwards = min(0.45, 0.9 * distance / max(float(np.hypot(*middle)), 1e-9))  # a short way makes no long detour
    control = (1 - inwards) * middle + max(0.14 * distance, 0.11) * aside
    t = np.linspace(0.0, 1.0, 401)[:, None]
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
    first = int(np.argmax(np.hypot(*(points - start).T) >= at_start))
    last = len(t) - 1 - int(np.argmax(np.hypot(*(points - end).T)[::-1] >= at_end))
    a, b = float(t[first, 0]), float(t[last, 0])
    # The control point of a piece of a parabola is where the tangents at its ends meet (its blossom at a and b).
    between = (1 - a) * (1 - b) * start + (a * (1 - b) + b * (1 - a)) * control + a * b * end
    return np.stack([points[first], between, points[last]])


def _draw_arrow(axes: Axes, curve: NDArray[np.float64], width: float, color: str, *, label: str = "_arrow") -> None:
    """Draw an arrow along three control points, `width` points wide, with a thin white rim where it crosses others."""
    width = max(width, LEAST_ARROW)
    head = 1.5 * width + 2.8
    style = ArrowStyle.Simple(head_length=head, head_width=head + _WHITE, tail_width=width + _WHITE)
    axes.add_patch(
        FancyArrowPatch(
            path=Path(curve.tolist(), [Path.MOVETO, Path.CURVE3, Path.CURVE3]), arrowstyle=style, mutation_scale=1.0,
            facecolor=color, edgecolor="white", linewidth=_WHITE, zorder=2, clip_on=False, label=label,
        )
    )  # fmt: skip


def draw_names(
    axes: Axes, names: Sequence[str], rims: NDArray[np.float64], anchors: NDArray[np.float64], sides: Sequence[int]
) -> None:  # fmt: skip
    """Write names at their places, with a thin line to their dots where they had to move."""
    for name, rim, (x, y), side in zip(names, rims, anchors, sides, strict=True):
        if float(np.hypot(x - rim[0], y - rim[1])) > 2.2 * _NAME_GAP + _MOST_NODE:
            axes.plot(
                [rim[0], x - 0.02 * side], [rim[1], y], color=_LEADER_COLOR, linewidth=0.4, zorder=1, label="_leader"
            )  # fmt: skip
        vertical = "center" if side else ("bottom" if y > 0 else "top")
        axes.text(
            x, y - (0 if side else math.copysign(0.05, y)), name, va=vertical, parse_math=False,
            ha={-1: "right", 0: "center", 1: "left"}[side],
        )  # fmt: skip


def _arrow_key(weights: ArrowWeights, share: NDArray[np.float64]) -> list[float]:
    """Return a few weights of which to show the width."""
    if not len(share):
        return []
    largest = float(share.max())
    if largest <= weights.least:  # all arrows are as wide as each other
        return [weights.least]
    ticks = MaxNLocator(3, steps=[1, 2, 5, 10], integer=weights.whole).tick_values(weights.least, largest)
    least_step = (largest - weights.least) / 6
    return [weights.least, *(float(tick) for tick in ticks if weights.least + least_step < tick <= largest + 1e-9)]


def _cell_key(most: float) -> list[int]:
    """Return a few round numbers of cells of which to show the dot."""
    power = 10.0 ** math.floor(math.log10(most))
    largest = max(factor * power for factor in (1, 2, 5) if factor * power <= most)
    return sorted({max(round(largest / factor), 1) for factor in (1, 5)})


def _key_texts(arrows: Sequence[float], dots: Sequence[int], weights: ArrowWeights) -> tuple[list[str], list[str]]:
    """Return what to write beside arrows, and beside dots."""
    shares = [weights.written(value) for value in arrows]
    counts = [f"{count:,}" for count in dots]
    if shares:
        shares[-1] += weights.unit
    if counts:
        counts[-1] += " cells" if dots[-1] > 1 else " cell"
    return shares, counts


def _key_width(shares: Sequence[str], counts: Sequence[str]) -> float:
    """Return how wide the keys are, in inches."""
    return (
        sum(_KEY_ARROW + 0.06 + text_width(text) + _KEY_STEP for text in shares)
        + sum(2 * _MOST_NODE + 0.06 + text_width(text) + _KEY_STEP for text in counts)
        - _KEY_STEP
    )


def _draw_keys(
    axes: Axes,
    left: float,
    y: float,
    arrows: Sequence[float],
    dots: Sequence[int],
    texts: tuple[Sequence[str], Sequence[str]],
    largest: float,
    cells: NDArray[np.float64] | None,
) -> None:
    """Draw what widths of arrows and areas of dots mean, in one row."""
    shares, counts = texts
    for value, text in zip(arrows, shares, strict=True):
        curve = np.array([[left, y], [left + _KEY_ARROW / 2, y], [left + _KEY_ARROW, y]])
        _draw_arrow(axes, curve, WIDEST_ARROW * value / largest, _KEY_COLOR, label="_key")
        axes.text(left + _KEY_ARROW + 0.06, y, text, va="center", ha="left")
        left += _KEY_ARROW + 0.06 + text_width(text) + _KEY_STEP
    if cells is None:
        return
    radii = _radii(np.array(dots, dtype=np.float64), float(cells.max()))
    for radius, text in zip(radii.tolist(), counts, strict=True):
        axes.scatter(
            [left + _MOST_NODE], [y], s=(2 * radius * POINTS_PER_INCH) ** 2, c=_KEY_COLOR, linewidths=0, label="_key"
        )  # fmt: skip
        axes.text(left + 2 * _MOST_NODE + 0.06, y, text, va="center", ha="left")
        left += 2 * _MOST_NODE + 0.06 + text_width(text) + _KEY_STEP
