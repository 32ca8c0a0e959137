"""Which genes of a receiver each sender changes, at a glance: a dot per sender and gene."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tissue_crosstalk.core.plots._layout import check_colors, shorten
from tissue_crosstalk.core.plots.effect_style import (
    DIFF,
    GENE,
    Q_VALUE,
    RECEIVER,
    SENDER,
    DotPanel,
    RowName,
    at_least_one,
    draw_dot_panels,
    finite,
    is_name,
    one_row_each,
    probabilities,
    texts_of,
)
from tissue_crosstalk.core.plots.hub_style import check_threshold, require, sentence
from tissue_crosstalk.core.plots.style import figure_style, readable_on_white

LABEL: Final = "predicted change"


def plot_gene_dots(
    effects: pd.DataFrame,
    receiver: str,
    palette: Mapping[str, str],
    *,
    q_threshold: float = 0.05,
    most_genes: int = 40,
    most_per_sender: int = 8,
) -> Figure:
    """Draw the genes of one receiver type that senders change most: a row per sender, a column per gene.

    Parameters
    ----------
    effects
        A row per `receiver`, `sender` and `gene`: `diff`, the mean predicted change (positive where the sender raises
        the gene), and `q_value`, above 0.
    receiver
        The receiver type.
    palette
        A colour for each cell type; rows are in its order.
    q_threshold
        Genes with q below this for some sender are drawn. Dots with such a q have an outline.
    most_genes
        How many genes are drawn at most: in turn the best of each sender, the second best, and so on.
    most_per_sender
        How many genes are drawn at most for the sake of one sender.

    Returns
    -------
    matplotlib.figure.Figure
        Colour is the change, area grows with −log10 q. Genes stand in the order of the senders that change them most.
        A small cross stands where a gene was not tested. A sentence where no gene has q below the threshold.

    Raises
    ------
    ParameterError
        If a column is missing, a gene of a pair comes twice, a q is not above 0, a type has no colour, or a parameter
        is out of range.

    Examples
    --------
    >>> import pandas as pd
    >>> effects = pd.DataFrame(
    ...     {"receiver": "B", "sender": "T", "gene": ["Il2", "Actb"], "diff": [0.4, -0.01], "q_value": [0.001, 0.9]}
    ... )
    >>> axes = plot_gene_dots(effects, "B", {"B": "red", "T": "blue"}).axes[0]
    >>> [label.get_text() for label in axes.get_xticklabels()]
    ['Il2']
    """
    check_threshold(q_threshold)
    at_least_one(most_genes=most_genes, most_per_sender=most_per_sender)
    require("effects", effects, (RECEIVER, SENDER, GENE, DIFF, Q_VALUE))
    own = effects[is_name(effects[RECEIVER], receiver)]
    one_row_each("effects", own, (SENDER, GENE))
    sender, gene = texts_of(own[SENDER]), texts_of(own[GENE])
    check_colors([receiver, *sender], palette)
    diff, q_value = finite("`diff` of `effects`", own[DIFF]), probabilities("`q_value` of `effects`", own[Q_VALUE])
    present = set(sender.tolist())
    senders = [name for name in palette if name in present]
    row = pd.Index(senders).get_indexer(pd.Index(sender, dtype=object)).astype(np.int64)
    found = (q_value < q_threshold) & np.isfinite(diff)
    genes = choose_genes(
        row[found], gene[found], q_value[found], diff[found], most=most_genes, most_per_row=most_per_sender
    )  # fmt: skip
    n_found = len(set(gene[found].tolist()))
    with figure_style():
        if not senders:
            return sentence(f"No gene of {shorten(receiver)} was tested for an effect of another type.")
        if not genes:
            return sentence(
                f"No gene of {shorten(receiver)} has q < {q_threshold:g} for any of {len(senders):,} "
                f"sender{'s' if len(senders) > 1 else ''}."
            )
        column = pd.Index(genes).get_indexer(pd.Index(gene, dtype=object)).astype(np.int64)
        shown = column >= 0
        caption = f"{len(genes):,} of {n_found:,} genes with q < {q_threshold:g}" if n_found > len(genes) else (
            f"all {n_found:,} genes with q < {q_threshold:g}" if n_found > 1 else f"the gene with q < {q_threshold:g}"
        )  # fmt: skip
        panel = DotPanel("", genes, row[shown], column[shown], diff[shown], q_value[shown])
        return draw_dot_panels(
            [panel],
            [RowName((name, readable_on_white(palette[name]))) for name in senders],
            title=f"Genes of {shorten(receiver)} that senders change",
            caption=caption,
            label=LABEL,
            least_limit=1e-9,
            q_threshold=q_threshold,
        )


def choose_genes(
    row: NDArray[np.int64],
    gene: NDArray[np.object_],
    q_value: NDArray[np.float64],
    effect: NDArray[np.float64],
    *,
    most: int,
    most_per_row: int,
) -> list[str]:
    """Return genes to draw, those first that are strongest in the first row: all arrays are of shape (effect,).

    >>> from numpy import array
    >>> choose_genes(
    ...     array([1, 0, 1]), array(["a", "b", "c"]), array([0.01, 0.01, 0.01]), array([1.0, 2.0, -3.0]), most=2,
    ...     most_per_row=5,
    ... )
    ['b', 'c']
    """
    order = np.lexsort([-np.abs(effect), q_value])
    ranks = pd.Series(row[order]).groupby(row[order]).cumcount().to_numpy()
    wanted = order[ranks < most_per_row]
    turns = np.argsort(ranks[ranks < most_per_row], kind="stable")
    chosen = set(list(dict.fromkeys(gene[wanted[turns]].tolist()))[:most])
    # A gene stands with the row that it is most certain and then strongest in.
    home: dict[str, tuple[int, int]] = {}
    for place, index in enumerate(order.tolist()):
        if gene[index] in chosen:
            home.setdefault(str(gene[index]), (int(row[index]), place))
    return sorted(home, key=lambda name: home[name])
