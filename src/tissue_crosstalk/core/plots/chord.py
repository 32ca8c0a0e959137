"""Which cell types change genes of which: a chord diagram, an arc per type and a ribbon per pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tissue_crosstalk.core.plots._layout import Canvas, shorten, text_height, text_width, wrap
from tissue_crosstalk.core.plots.attention_matrix import type_positions
from tissue_crosstalk.core.plots.effect_style import at_least_one
from tissue_crosstalk.core.plots.hub_style import MARGIN, sentence
from tissue_crosstalk.core.plots.interaction_network import draw_names, name_places
from tissue_crosstalk.core.plots.interaction_weights import (
    MOST_PAIRS,
    N_GENES,
    NOTHING,
    WEIGHTS,
    check_weight,
    counts,
    strongest,
)
from tissue_crosstalk.core.plots.style import FONT_SIZE, TITLE_SIZE, figure_style

TITLE: Final = "Genes changed between cell types"

# In hundredths of the radius of the ring.
_RING: Final = (94.0, 100.0)
_SENDER_END: Final = 92.5
_RECEIVER_END: Final = 91.0
_WHOLE: Final = 105.0
"""Where the library ends its panel."""

# All in inches.
_LEAST_RADIUS: Final = 1.25
_ARC: Final = 0.46
_NAME_GAP: Final = 0.07
_NAME_STEP: Final = 0.14


def plot_chord(
    interactions: pd.DataFrame,
    palette: Mapping[str, str],
    *,
    weight: str = N_GENES,
    min_genes: int = 1,
    most_pairs: int = MOST_PAIRS,
) -> Figure:
    """Draw how many genes of receiver types sender types change, as a chord diagram.

    Parameters
    ----------
    interactions
        A row per `receiver` and `sender` that was tested, with the number of genes named by `weight`.
    palette
        A colour for each cell type. Its order is that of the types, clockwise from the top.
    weight
        What widths of ribbons are proportional to: "n_genes", "n_genes_lowered" or "n_genes_published".
    min_genes
        Pairs with fewer genes get no ribbon. At least 1.
    most_pairs
        Where there are more such pairs, those with the most genes get a ribbon, and the figure says so.

    Returns
    -------
    matplotlib.figure.Figure
        An arc per type that has a ribbon, as long as its genes that others change and the genes of others that it
        changes. Ribbons have the colour of their sender, and an arrowhead at their receiver. Where no pair has so many
        genes, a sentence.

    Raises
    ------
    ParameterError
        If a column is missing, a pair comes twice or is one type, a type has no colour, `weight` is unknown or no whole
        number of at least 0, or `min_genes` or `most_pairs` is below 1.

    Examples
    --------
    >>> import pandas as pd
    >>> pairs = pd.DataFrame({"receiver": ["B", "T"], "sender": ["T", "B"], "n_genes": [4, 0]})
    >>> figure = plot_chord(pairs, {"B": "red", "T": "blue"})
    >>> [text.get_text() for text in figure.axes[1].texts]
    ['B', 'T']
    """
    check_weight(weight)
    at_least_one(min_genes=min_genes, most_pairs=most_pairs)
    types, receiver, sender = type_positions(interactions, palette, (weight,))
    genes = counts(interactions, weight)
    drawn = strongest(genes, min_genes, most_pairs)
    n_found = int((genes >= min_genes).sum())
    what = WEIGHTS[weight][0].removeprefix("genes ")
    least = f"at least {_genes(min_genes)}"
    with figure_style():
        if not types:
            return sentence(NOTHING)
        if not len(drawn):
            return sentence(f"No chord diagram: there is no pair with {least} {what}.")
        matrix = np.zeros((len(types), len(types)))  # (sender, receiver)
        matrix[sender[drawn], receiver[drawn]] = genes[drawn]
        kept = np.flatnonzero(matrix.sum(axis=0) + matrix.sum(axis=1))
        caption = (
            f"ribbons from sender to receiver (arrowhead): genes {what}; {n_found:,} of {len(genes):,} pairs with "
            f"{least}, {_genes(int(genes[genes >= min_genes].sum()))} in all"
        )
        if len(drawn) < n_found:
            caption += f"; drawn: the {len(drawn):,} with the most genes"
        if len(kept) < len(types):
            n_without = len(types) - len(kept)
            caption += f"; {n_without:,} type{'s' if n_without > 1 else ''} without a ribbon left out"
        return _draw(matrix[np.ix_(kept, kept)], {types[index]: palette[types[index]] for index in kept}, caption)


def _genes(count: int) -> str:
    """Return a number of genes with its unit."""
    return f"{count:,} gene" + ("" if count == 1 else "s")


def _draw(matrix: NDArray[np.float64], palette: Mapping[str, str], caption: str) -> Figure:
    """Draw ring, ribbons of a matrix (sender, receiver), and names around."""
    names, colors = [shorten(name) for name in palette], list(palette.values())
    n_types = len(names)
    radius = max(0.8 * _ARC * n_types / (2 * math.pi), _LEAST_RADIUS)
    space = min(4.0, 72.0 / n_types)  # degrees between arcs
    angle = _middles(matrix, space)
    rims = radius * np.column_stack([np.sin(angle), np.cos(angle)])  # (type, axis), in inches from the middle
    anchors, sides = name_places(rims * (1 + _NAME_GAP / radius))
    left, right = (
        max(
            [radius + _NAME_GAP]
            + [
                side * float(x) + text_width(name) * (0.5 if own == 0 else 1.0)
                for (x, _), own, name in zip(anchors, sides, names, strict=True)
                if own in (0, side)
            ]
        )
        for side in (-1, 1)
    )
    width = max(left + right, 3.2) + 2 * MARGIN
    title, caption = wrap(TITLE, width - 2 * MARGIN), wrap(caption, width - 2 * MARGIN, FONT_SIZE)
    caption_top = MARGIN + text_height(title, TITLE_SIZE) + 0.03
    top = caption_top + text_height(caption) + 0.06
    above = max(float(anchors[:, 1].max()) + _NAME_STEP, radius + 0.05)
    below = max(float(-anchors[:, 1].min()) + _NAME_STEP, radius + 0.05)
    height = top + above + below + MARGIN
    canvas = Canvas.of_size(width, height)
    canvas.text(MARGIN, MARGIN, title, size=TITLE_SIZE, bold=True)
    canvas.text(MARGIN, caption_top, caption)
    x_middle, y_middle = MARGIN + left + (width - 2 * MARGIN - left - right) / 2, top + above
    _draw_ribbons(canvas, matrix, colors, space, (x_middle, y_middle), radius)
    axes = canvas.axes(0.0, 0.0, width, height)  # one panel of the size of the figure, in inches
    axes.set(xlim=(-x_middle, width - x_middle), ylim=(y_middle - height, y_middle), xticks=[], yticks=[])
    axes.set_autoscale_on(False)
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)
    draw_names(axes, names, rims * (1 + 0.02 / radius), anchors, sides)
    return canvas.figure


def _middles(matrix: NDArray[np.float64], space: float) -> NDArray[np.float64]:
    """Return where the middle of each arc is, in radians clockwise from the top, (type,)."""
    lengths = matrix.sum(axis=0) + matrix.sum(axis=1)
    degrees = (360.0 - space * len(lengths)) * lengths / lengths.sum()
    starts = np.concatenate([[0.0], np.cumsum(degrees + space)[:-1]])
    middles: NDArray[np.float64] = np.radians(starts + degrees / 2)
    return middles


def _ends(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where ribbons of a matrix (sender, receiver) begin on the arcs of senders, and of receivers.

    On each arc they are in the order of the other types, backwards from the arc: ribbons of one arc do not cross, nor
    do those of a pair and of the way back.
    """
    n_types = len(matrix)
    at_sender, at_receiver = np.zeros_like(matrix), np.zeros_like(matrix)
    for own in range(n_types):
        place = 0.0
        for step in range(1, n_types):
            other = (own - step) % n_types
            # The way out comes first: on the other arc, which is looked at from its other end, it is the last.
            at_sender[own, other] = place
            at_receiver[other, own] = place + matrix[own, other]
            place += matrix[own, other] + matrix[other, own]
    return at_sender, at_receiver


def _draw_ribbons(
    canvas: Canvas,
    matrix: NDArray[np.float64],
    colors: list[str],
    space: float,
    middle: tuple[float, float],
    radius: float,
) -> None:
    """Draw arcs and ribbons; wide ribbons above narrow ones."""
    # Imported within the house style, whose end undoes what the library makes of matplotlib's settings.
    from pycirclize import Circos

    lengths = matrix.sum(axis=0) + matrix.sum(axis=1)
    # Names of types may be anything; the library is given numbers.
    circos: Any = Circos({str(index): length for index, length in enumerate(lengths.tolist())}, space=space)
    for sector, color in zip(circos.sectors, colors, strict=True):
        sector.add_track(_RING).axis(fc=color, lw=0)
    at_sender, at_receiver = _ends(matrix)
    pairs = np.argwhere(matrix > 0)
    for by, to in pairs[np.argsort(matrix[pairs[:, 0], pairs[:, 1]], kind="stable")].tolist():
        width = matrix[by, to]
        circos.link(
            (str(by), at_sender[by, to], at_sender[by, to] + width),
            (str(to), at_receiver[by, to], at_receiver[by, to] + width),
            _SENDER_END, _RECEIVER_END, color=colors[by], alpha=0.75, direction=1, arrow_length_ratio=0.06,
            allow_twist=False, ec="white", lw=0.3,
        )  # fmt: skip
    half = radius * _WHOLE / _RING[1]
    x, y = middle
    box = (
        (x - half) / canvas.width, 1 - (y + half) / canvas.height, 2 * half / canvas.width, 2 * half / canvas.height
    )  # fmt: skip
    circos.plotfig(ax=canvas.figure.add_axes(box, projection="polar"))
