"""What senders would contribute to a receiver's genes at full attention: a heatmap of senders and genes per head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tissue_crosstalk.core.errors import ParameterError, listing
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    check_colors,
    shorten,
    text_height,
    widest,
    wrap,
)
from tissue_crosstalk.core.plots.effect_style import (
    GENE,
    HEAD,
    LONGEST_GENE,
    SENDER,
    at_least_one,
    extended,
    finite,
    head_name,
    head_order,
    heads_of,
    limit_of,
    name_heatmap_rows,
    one_row_each,
    texts_of,
)
from tissue_crosstalk.core.plots.hub_style import (
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

MEAN: Final = "mean"
LABEL: Final = "mean contribution at full attention"
DIVERGING: Final = "RdBu_r"
UNKNOWN_COLOR: Final = "#d0d0d0"

# All in inches.
_CELL: Final = 0.165


def plot_contributions(
    contributions: pd.DataFrame, head: int, palette: Mapping[str, str], *, most_genes: int = 40
) -> Figure:
    """Draw what cells of each sender type contribute through one head to the genes in which senders differ most.

    Parameters
    ----------
    contributions
        A row per `sender`, `head` and `gene`, with the `mean` over the sender's cells.
    head
        The head.
    palette
        A colour for each cell type; rows are in its order.
    most_genes
        How many genes are drawn: those whose means differ most between senders, for what all contribute alike does not
        tell them apart. With one sender, those of the largest means.

    Returns
    -------
    matplotlib.figure.Figure
        Rows are senders, columns genes: those first that the first sender raises or lowers most against the others.
        Colours are cut at the 99th percentile of the sizes. Without a row, a sentence.

    Raises
    ------
    ParameterError
        If a column is missing, a row comes twice, a number is infinite, the head is unknown, a type has no colour, or
        `most_genes` is below 1.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame(
    ...     {"sender": ["B", "T"] * 2, "head_idx": 0, "gene": ["a", "a", "b", "b"], "mean": [0.5, 0.5, 0.1, -0.2]}
    ... )
    >>> axes = plot_contributions(table, 0, {"B": "red", "T": "blue"}, most_genes=1).axes[0]
    >>> [label.get_text() for label in axes.get_xticklabels()]
    ['b']
    """
    at_least_one(most_genes=most_genes)
    require("contributions", contributions, (SENDER, HEAD, GENE, MEAN))
    heads = heads_of("`head_idx` of `contributions`", contributions[HEAD])
    if len(contributions) and head not in heads:
        raise ParameterError(f"`head` must be one of {listing(head_order(heads))}. Got {head!r} instead.")
    own = contributions[heads == head]
    one_row_each("contributions", own, (SENDER, GENE))
    sender, gene = texts_of(own[SENDER]), texts_of(own[GENE])
    check_colors(sender, palette)
    mean = finite("`mean` of `contributions`", own[MEAN])
    present = set(sender.tolist())
    senders = [name for name in palette if name in present]
    with figure_style():
        if not senders:
            return sentence(f"No contributions through {head_name(head)}: there is no sender.")
        column, genes = pd.factorize(gene)
        matrix = np.full((len(senders), len(genes)), np.nan)
        matrix[pd.Index(senders).get_indexer(pd.Index(sender, dtype=object)), column] = mean
        chosen = _choose(matrix, most_genes)
        caption = f"{len(chosen):,} of {len(genes):,} genes, those in which senders differ most"
        if len(chosen) == len(genes):
            caption = f"all {len(genes):,} genes"
        elif len(senders) == 1:
            caption = f"{len(chosen):,} of {len(genes):,} genes, those of the largest contributions"
        names = [shorten(str(genes[index]), LONGEST_GENE) for index in chosen]
        return _draw(matrix[:, chosen], names, {name: palette[name] for name in senders}, head, caption)


def _choose(matrix: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Return the genes of a matrix (sender, gene) to draw, by the sender that stands out in them."""
    known = ~np.isnan(matrix)
    filled = np.where(known, matrix, 0.0)
    middle = filled.sum(axis=0) / np.maximum(known.sum(axis=0), 1) if len(matrix) > 1 else np.zeros(matrix.shape[1])
    apart = np.where(known, np.abs(filled - middle), -1.0)  # (sender, gene)
    spread = np.where(known, filled, -np.inf).max(axis=0) - np.where(known, filled, np.inf).min(axis=0)
    score = np.where(known.any(axis=0), spread if len(matrix) > 1 else apart[0], -1.0)
    chosen = np.argsort(-score, kind="stable")[:most]
    home = apart[:, chosen].argmax(axis=0)
    ordered: NDArray[np.int64] = chosen[np.lexsort([-apart[home, chosen], home])].astype(np.int64)
    return ordered


def _draw(matrix: NDArray[np.float64], genes: list[str], palette: Mapping[str, str], head: int, caption: str) -> Figure:
    """Draw a heatmap (sender, gene)."""
    names = [shorten(name) for name in palette]
    limit = limit_of(matrix, 1e-12)
    left = MARGIN + widest(names) + 0.1
    width, height = len(genes) * _CELL, len(names) * _CELL
    bar_length = color_bar_width(LABEL, width)
    total_width = max(left + width + slanted_overhang(genes, _CELL), left + bar_length, 2.6) + MARGIN
    title = wrap(f"Contributions of senders ({head_name(head)})", total_width - 2 * MARGIN)
    caption = wrap(caption, total_width - 2 * MARGIN, FONT_SIZE)
    caption_top = MARGIN + text_height(title, TITLE_SIZE) + 0.03
    top = caption_top + text_height(caption) + 0.04 + slanted_height(genes)
    bar_top = top + height + 0.12
    canvas = Canvas.of_size(total_width, bar_top + color_bar_height(LABEL) + MARGIN)
    canvas.text(MARGIN, MARGIN, title, size=TITLE_SIZE, bold=True)
    canvas.text(MARGIN, caption_top, caption)
    axes = canvas.axes(left, top, width, height)
    image = axes.imshow(
        np.ma.masked_invalid(matrix), cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )  # fmt: skip
    axes.set_facecolor(UNKNOWN_COLOR)
    name_columns(axes, genes)
    name_heatmap_rows(axes, palette, len(genes))
    known = matrix[~np.isnan(matrix)]
    color_bar(
        canvas, image, LABEL, left=left, top=bar_top, width=bar_length, extend=extended(known, -limit, limit)
    )  # fmt: skip
    return canvas.figure
