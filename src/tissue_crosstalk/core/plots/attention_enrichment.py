"""Is a pair of types attended to more than by chance: a dot per pair and head, for each way of shuffling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tissue_crosstalk.core.errors import ParameterError, listing
from tissue_crosstalk.core.plots._layout import check_colors
from tissue_crosstalk.core.plots.effect_style import (
    HEAD,
    Q_VALUE,
    RECEIVER,
    SENDER,
    DotPanel,
    RowName,
    at_least_one,
    draw_dot_panels,
    head_order,
    heads_of,
    one_row_each,
    probabilities,
    texts_of,
)
from tissue_crosstalk.core.plots.hub_style import check_threshold, require, sentence
from tissue_crosstalk.core.plots.style import figure_style, readable_on_white

SHUFFLED: Final = "shuffled"
LOG2: Final = "log2_enrichment"
HEADINGS: Final[Mapping[str, str]] = {"expression": "expression shuffled", "places": "places shuffled"}
LABEL: Final = "attention: log2 (observed / expected)"
LEAST_LIMIT: Final = 0.5


def plot_attention_enrichment(
    enrichment: pd.DataFrame, palette: Mapping[str, str], *, q_threshold: float = 0.05, most_pairs: int = 40
) -> Figure:
    """Draw which pairs of types are attended to more, or less, than where senders are shuffled.

    Parameters
    ----------
    enrichment
        A row per `receiver`, `sender`, `head` (−1 for all heads together) and `shuffled` ("expression" or "places"),
        with `log2_enrichment` (-inf where nothing was observed, nan where nothing was expected) and `q_value`, above 0.
    palette
        A colour for each cell type; rows are in its order, by receiver and then sender.
    q_threshold
        Dots with q below this have an outline.
    most_pairs
        Where there are more pairs, those are drawn that have the smallest q, and then the largest enrichment.

    Returns
    -------
    matplotlib.figure.Figure
        A panel per way of shuffling, a row per pair, a column per head. Colour is the log2 enrichment, area grows with
        −log10 q. A small cross stands where nothing was expected. Without a pair, a sentence.

    Raises
    ------
    ParameterError
        If a column is missing, a row comes twice, a q is not above 0, `shuffled` is unknown, a type has no colour, or a
        parameter is out of range.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame(
    ...     {"receiver": "B", "sender": "T", "head_idx": [-1, 0], "shuffled": "places", "log2_enrichment": [1.0, 2.0],
    ...      "q_value": 0.01}
    ... )
    >>> axes = plot_attention_enrichment(table, {"B": "red", "T": "blue"}).axes[0]
    >>> [label.get_text() for label in axes.get_xticklabels()]
    ['all', '0']
    """
    check_threshold(q_threshold)
    at_least_one(most_pairs=most_pairs)
    require("enrichment", enrichment, (RECEIVER, SENDER, HEAD, SHUFFLED, LOG2, Q_VALUE))
    head = heads_of("`head_idx` of `enrichment`", enrichment[HEAD])
    receiver, sender = texts_of(enrichment[RECEIVER]), texts_of(enrichment[SENDER])
    shuffled = texts_of(enrichment[SHUFFLED])
    unknown = sorted(set(shuffled.tolist()) - set(HEADINGS))
    if unknown:
        raise ParameterError(f"`shuffled` of `enrichment` must be {listing(list(HEADINGS))}. Got {listing(unknown)}.")
    one_row_each("enrichment", enrichment, (RECEIVER, SENDER, HEAD, SHUFFLED))
    check_colors([*receiver, *sender], palette)
    value = pd.to_numeric(enrichment[LOG2], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    q_value = probabilities("`q_value` of `enrichment`", enrichment[Q_VALUE])

    position = {name: index for index, name in enumerate(palette)}
    code = np.array([position[name] for name in receiver], dtype=np.int64) * len(position)
    code += np.array([position[name] for name in sender], dtype=np.int64)
    pairs, pair = np.unique(code, return_inverse=True)
    least_q, most_value = np.full(len(pairs), np.inf), np.zeros(len(pairs))
    np.fmin.at(least_q, pair, q_value)
    np.fmax.at(most_value, pair, np.abs(value))
    chosen = np.sort(np.lexsort([-most_value, least_q])[:most_pairs])
    place = np.full(len(pairs), -1, dtype=np.int64)
    place[chosen] = np.arange(len(chosen))
    row = place[pair]
    heads = head_order(head)
    column = np.searchsorted(np.array(heads, dtype=np.int64), head)
    names = list(palette)
    with figure_style():
        if not len(pairs):
            return sentence("No attention was compared with that to shuffled senders: there is no pair of types.")
        n_found = int((least_q < q_threshold).sum())
        caption = f"columns: heads; {n_found:,} of {len(pairs):,} pairs have q < {q_threshold:g} in some head"
        if len(chosen) < len(pairs):
            caption += f"; drawn: the {len(chosen):,} with the smallest q"
        panels = []
        for kind, heading in HEADINGS.items():
            own = np.flatnonzero((shuffled == kind) & (row >= 0))
            if (shuffled == kind).any():
                panels.append(
                    DotPanel(
                        heading, ["all" if one < 0 else str(one) for one in heads], row[own], column[own], value[own],
                        q_value[own],
                    )
                )  # fmt: skip
        rows = []
        for one in pairs[chosen].tolist():
            to, by = names[one // len(names)], names[one % len(names)]
            rows.append(RowName((by, readable_on_white(palette[by])), (to, readable_on_white(palette[to]))))
        return draw_dot_panels(
            panels, rows, title="Attention against that to shuffled senders", caption=caption, label=LABEL,
            least_limit=LEAST_LIMIT, q_threshold=q_threshold,
        )  # fmt: skip
