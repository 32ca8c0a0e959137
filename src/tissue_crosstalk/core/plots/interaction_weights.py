"""How many genes of each receiver type each sender type changes: a matrix, and a network of arrows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tissue_crosstalk.core.errors import ParameterError, did_you_mean, listing
from tissue_crosstalk.core.plots.attention_matrix import BLUE, RED, MatrixPanel, draw_matrices, type_positions
from tissue_crosstalk.core.plots.effect_style import at_least_one
from tissue_crosstalk.core.plots.hub_style import sentence
from tissue_crosstalk.core.plots.interaction_network import ArrowWeights, draw_network
from tissue_crosstalk.core.plots.style import figure_style

N_GENES: Final = "n_genes"
N_GENES_LOWERED: Final = "n_genes_lowered"
N_GENES_PUBLISHED: Final = "n_genes_published"
GREEN: Final = (130.0, 165.0)
WEIGHTS: Final[Mapping[str, tuple[str, tuple[float, float]]]] = {
    N_GENES: ("genes raised by the sender", RED),
    N_GENES_LOWERED: ("genes lowered by the sender", BLUE),
    N_GENES_PUBLISHED: ("genes raised (published test)", GREEN),
}
"""Columns of `interactions` that can be drawn: what they count, and hues."""
MOST_PAIRS: Final = 150
"""Of more, none would be seen."""
TITLE: Final = "Interactions between cell types"
NOTHING: Final = "No interactions between cell types: no pair was tested."


def plot_interaction_weights(
    interactions: pd.DataFrame, palette: Mapping[str, str], *, weights: Sequence[str] = (N_GENES, N_GENES_LOWERED)
) -> Figure:
    """Draw how many genes of each receiver type each sender type changes: a heatmap per kind of number.

    Parameters
    ----------
    interactions
        A row per `receiver` and `sender` that was tested, with the numbers of genes named by `weights`.
    palette
        A colour for each cell type. Its order is that of rows and columns.
    weights
        What to draw, of "n_genes", "n_genes_lowered" and "n_genes_published".

    Returns
    -------
    matplotlib.figure.Figure
        Rows are senders, columns receivers, colours start at 0. Pairs that were not tested are grey with a stroke.
        Numbers are written into the squares of at most 8 types. Without a pair, a sentence.

    Raises
    ------
    ParameterError
        If a column is missing, a pair comes twice or is one type, a type has no colour, or a weight is unknown or no
        whole number of at least 0.

    Examples
    --------
    >>> import pandas as pd
    >>> pairs = pd.DataFrame({"receiver": ["B"], "sender": ["T"], "n_genes": [4], "n_genes_lowered": [0]})
    >>> figure = plot_interaction_weights(pairs, {"B": "red", "T": "blue"})
    >>> figure.axes[0].images[0].get_array().tolist()
    [[None, None], [4.0, None]]
    """
    if not weights:
        raise ParameterError(f"`weights` must name some of {listing(list(WEIGHTS))}. Got none.")
    for name in weights:
        check_weight(name)
    types, receiver, sender = type_positions(interactions, palette, tuple(weights))
    with figure_style():
        if not types:
            return sentence(NOTHING)
        panels = []
        for name in weights:
            matrix = np.full((len(types), len(types)), np.nan)
            matrix[sender, receiver] = counts(interactions, name)
            panels.append(MatrixPanel(matrix, *WEIGHTS[name], whole=True))
        return draw_matrices(
            panels, {name: palette[name] for name in types}, title=TITLE, key_label="not tested"
        )  # fmt: skip


def plot_gene_network(
    interactions: pd.DataFrame,
    palette: Mapping[str, str],
    *,
    weight: str = N_GENES,
    min_genes: int = 1,
    most_pairs: int = MOST_PAIRS,
) -> Figure:
    """Draw cell types on a circle, with arrows to receiver types from the sender types that change genes of theirs.

    Parameters
    ----------
    interactions
        A row per `receiver` and `sender` that was tested, with the number of genes named by `weight`, and maybe
        `n_receivers`, the number of cells of the receiver type.
    palette
        A colour for each cell type. Its order is that of the types, clockwise from the top.
    weight
        What widths of arrows are proportional to: "n_genes", "n_genes_lowered" or "n_genes_published".
    min_genes
        Pairs with fewer genes get no arrow. At least 1.
    most_pairs
        Where there are more such pairs, those with the most genes get an arrow, and the figure says so.

    Returns
    -------
    matplotlib.figure.Figure
        As of :func:`~tissue_crosstalk.core.plots.interaction_network.plot_interaction_network`. Where no pair has so
        many genes, a sentence says so below the title. Without a pair, a sentence alone.

    Raises
    ------
    ParameterError
        As of :func:`plot_interaction_weights`, or if `min_genes` or `most_pairs` is below 1.

    Examples
    --------
    >>> import pandas as pd
    >>> pairs = pd.DataFrame({"receiver": ["B", "T"], "sender": ["T", "B"], "n_genes": [4, 0]})
    >>> figure = plot_gene_network(pairs, {"B": "red", "T": "blue"})
    >>> figure.texts[1].get_text().endswith("1 of 2 pairs")
    True
    """
    check_weight(weight)
    at_least_one(min_genes=min_genes, most_pairs=most_pairs)
    counted = "n_receivers" in interactions.columns
    types, receiver, sender = type_positions(interactions, palette, (weight, *(["n_receivers"] if counted else [])))
    with figure_style():
        if not types:
            return sentence(NOTHING)
        genes = counts(interactions, weight)
        cells = np.zeros(len(types))
        if counted:
            np.maximum.at(cells, receiver, interactions["n_receivers"].to_numpy(dtype=np.float64))
        n_found = int((genes >= min_genes).sum())
        drawn = strongest(genes, min_genes, most_pairs)
        least = f"at least {min_genes:,} gene{'s' if min_genes > 1 else ''}"
        what = WEIGHTS[weight][0].removeprefix("genes ")
        if len(drawn):
            caption = f"arrows from sender to receiver: pairs with {least} {what}; {n_found:,} of {len(genes):,} pairs"
            if len(drawn) < n_found:
                caption += f"; drawn: the {len(drawn):,} with the most genes"
        else:
            caption = f"no arrows: there is no pair with {least} {what}."
        return draw_network(
            {name: palette[name] for name in types},
            cells if cells.any() else None,
            sender[drawn],
            receiver[drawn],
            genes[drawn],
            title=TITLE,
            caption=caption,
            weights=gene_weights(min_genes, genes[drawn]),
        )


def strongest(genes: NDArray[np.float64], min_genes: int, most_pairs: int) -> NDArray[np.int64]:
    """Return the pairs to draw of which numbers of genes, (pair,), are given: from the least to the most genes.

    >>> strongest(np.array([3.0, 0.0, 9.0, 5.0]), 1, 2).tolist()
    [3, 2]
    """
    found = np.flatnonzero(genes >= min_genes)
    order = np.argsort(-genes[found], kind="stable")[:most_pairs][::-1]
    chosen: NDArray[np.int64] = found[order].astype(np.int64)
    return chosen


def gene_weights(min_genes: int, genes: NDArray[np.float64]) -> ArrowWeights:
    """Return what the widths of arrows mean, where they are numbers of genes, (arrow,)."""
    unit = " gene" if len(genes) and genes.max() == 1 else " genes"
    return ArrowWeights(float(min_genes), lambda value: f"{value:,.0f}", unit, whole=True)


def check_weight(name: str) -> None:
    """Raise unless a weight can be drawn."""
    if name not in WEIGHTS:
        raise ParameterError(
            f"weights must be of {listing(list(WEIGHTS))}. Got {name!r} instead.{did_you_mean(str(name), WEIGHTS)}"
        )


def counts(interactions: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Return numbers of genes, (pair,); raise unless they are whole."""
    counts = interactions[name].to_numpy(dtype=np.float64)
    wrong = counts != np.round(counts)
    if wrong.any():
        first = interactions[name].tolist()[int(np.argmax(wrong))]
        raise ParameterError(f"`{name}` of `interactions` must hold whole numbers. Got {first!r} instead.")
    return counts
