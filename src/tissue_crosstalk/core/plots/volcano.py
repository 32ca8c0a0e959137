"""Which genes of a receiver a sender changes: predicted change against evidence, a dot per gene."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tissue_crosstalk.core.errors import ParameterError, did_you_mean, listing
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    check_colors,
    fit,
    grid,
    shorten,
    text_height,
    text_width,
    wrap,
)
from tissue_crosstalk.core.plots.effect_style import (
    ARROW,
    DIFF,
    GENE,
    GRAY,
    LONGEST_GENE,
    LOWERED,
    NULL_COLOR,
    Q_VALUE,
    RAISED,
    RECEIVER,
    SENDER,
    SMALL,
    at_least_one,
    draw_labels,
    finite,
    is_name,
    log_q,
    one_row_each,
    place_labels,
    probabilities,
    texts_of,
)
from tissue_crosstalk.core.plots.hub_style import DARK, MARGIN, check_threshold, require, sentence
from tissue_crosstalk.core.plots.style import FONT_SIZE, TITLE_SIZE, figure_style, readable_on_white

PREDICTED: Final = "predicted change of the expression"
OBSERVED: Final = "observed change of the expression (slope × predicted)"
EVIDENCE: Final = "−log10 q"
MOST_EVIDENCE: Final = 20.0
"""−log10 of the smallest q that is drawn where it is: q of thousands of cells may be 1e-300, and flatten all others."""
MOST_COLUMNS: Final = 5
MOST_VECTORS: Final = 2000
"""Dots of genes without an effect that are drawn as such in an SVG; more are an image."""

# All in inches.
_PANEL: Final = (3.1, 2.5)
_SMALL_PANEL: Final = (1.35, 1.15)
_LEFT: Final = 0.42
_BOTTOM: Final = 0.36


@dataclass(frozen=True)
class _Genes:
    """The genes of one pair that were tested: all of shape (gene,)."""

    names: NDArray[np.object_]
    change: NDArray[np.float64]
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None
    evidence: NDArray[np.float64]
    found: NDArray[np.bool_]

    @property
    def heights(self) -> NDArray[np.float64]:
        """Return where the genes are drawn, (gene,)."""
        return np.minimum(self.evidence, MOST_EVIDENCE)

    def beyond(self) -> NDArray[np.bool_]:
        """Return which genes are more certain than the axis shows, (gene,)."""
        return self.evidence > MOST_EVIDENCE

    def counts(self) -> tuple[int, int]:
        """Return how many genes are raised, and how many lowered."""
        return int((self.found & (self.change > 0)).sum()), int((self.found & (self.change < 0)).sum())

    def top(self, most: int) -> NDArray[np.int64]:
        """Return the genes to be named, the most certain and then the strongest first."""
        order = np.lexsort([-np.abs(self.change), -self.evidence])
        chosen: NDArray[np.int64] = order[self.found[order]][:most].astype(np.int64)
        return chosen


def plot_volcano(
    effects: pd.DataFrame,
    receiver: str,
    sender: str,
    *,
    observed: bool = False,
    q_threshold: float = 0.05,
    most_names: int = 15,
) -> Figure:
    """Draw which genes of one receiver type one sender type changes.

    Parameters
    ----------
    effects
        A row per `receiver`, `sender` and `gene`: `diff`, the mean predicted change (positive where the sender raises
        the gene), `q_value`, above 0; maybe `diff_low` and `diff_high`, its interval, and `slope`.
    receiver, sender
        The pair.
    observed
        Draw `slope` times `diff`, what was observed for what was predicted, instead of `diff`.
    q_threshold
        Genes with q below this are coloured, and the line is drawn at it.
    most_names
        How many genes are named: those with the smallest q, and then the largest change.

    Returns
    -------
    matplotlib.figure.Figure
        A dot per gene whose change and q are known; names beside their dots, as far as there is room. Intervals are
        those of named genes. Without a gene, a sentence.

    Raises
    ------
    ParameterError
        If a column is missing, the pair is unknown, a gene of it comes twice, a q is not above 0, or a parameter is out
        of range.

    Examples
    --------
    >>> import pandas as pd
    >>> effects = pd.DataFrame(
    ...     {"receiver": "B", "sender": "T", "gene": ["Il2", "Actb"], "diff": [0.4, -0.01], "q_value": [0.001, 0.9]}
    ... )
    >>> [text.get_text() for text in plot_volcano(effects, "B", "T").axes[0].texts]
    ['q = 0.05', 'Il2']
    """
    check_threshold(q_threshold)
    at_least_one(most_names=most_names)
    own = _of_receiver(effects, receiver, observed=observed)
    own = own[is_name(own[SENDER], sender)]
    title = f"{shorten(sender)} {ARROW} {shorten(receiver)}"
    with figure_style():
        if own.empty:
            return sentence(f"No gene of {shorten(receiver)} was tested for an effect of {shorten(sender)}.")
        genes = _genes(own, observed=observed, q_threshold=q_threshold)
        raised, lowered = genes.counts()
        label = OBSERVED if observed else PREDICTED
        (width, height), left = _PANEL, MARGIN + _LEFT
        total_width = left + width + 0.15
        title = wrap(title, total_width - 2 * MARGIN)
        caption = wrap(
            f"{len(genes.names):,} genes of the receiver; with q < {q_threshold:g}: {raised:,} raised, "
            f"{lowered:,} lowered by the sender{_note([genes])}",
            total_width - 2 * MARGIN,
            FONT_SIZE,
        )
        caption_top = MARGIN + text_height(title, TITLE_SIZE) + 0.03
        top = caption_top + text_height(caption) + 0.08
        canvas = Canvas.of_size(total_width, top + height + _BOTTOM + 0.03)
        canvas.text(MARGIN, MARGIN, title, size=TITLE_SIZE, bold=True)
        canvas.text(MARGIN, caption_top, caption)
        axes = canvas.axes(left, top, width, height)
        x_limits, y_limit = _limits([genes], q_threshold, named=most_names)
        axes.set(xlim=x_limits, ylim=(0.0, y_limit), xlabel=label, ylabel=EVIDENCE)
        axes.set_ylabel(EVIDENCE, labelpad=2)
        _draw_panel(axes, genes, _PANEL, q_threshold=q_threshold, most_names=most_names, area=11.0, alone=True)
        return canvas.figure


def plot_volcanoes(
    effects: pd.DataFrame,
    receiver: str,
    palette: Mapping[str, str],
    *,
    observed: bool = False,
    q_threshold: float = 0.05,
    most_names: int = 4,
) -> Figure:
    """Draw which genes of one receiver type each sender type changes: a panel per sender.

    Parameters
    ----------
    effects, observed, q_threshold
        See :func:`plot_volcano`.
    receiver
        The receiver type.
    palette
        A colour for each cell type; panels are in its order.
    most_names
        How many genes are named in each panel, as far as there is room.

    Returns
    -------
    matplotlib.figure.Figure
        Panels with the same axes; above each its sender and how many genes are raised and lowered. Without a gene, a
        sentence.

    Raises
    ------
    ParameterError
        As of :func:`plot_volcano`, or if a type has no colour.

    Examples
    --------
    >>> import pandas as pd
    >>> effects = pd.DataFrame(
    ...     {"receiver": "B", "sender": "T", "gene": ["Il2", "Actb"], "diff": [0.4, -0.01], "q_value": [0.001, 0.9]}
    ... )
    >>> [text.get_text() for text in plot_volcanoes(effects, "B", {"B": "red", "T": "blue"}).axes[0].texts]
    ['T', '1 ↑  0 ↓', 'Il2']
    """
    check_threshold(q_threshold)
    at_least_one(most_names=most_names)
    own = _of_receiver(effects, receiver, observed=observed)
    senders = texts_of(own[SENDER])
    check_colors([receiver, *senders], palette)
    with figure_style():
        if own.empty:
            return sentence(f"No gene of {shorten(receiver)} was tested for an effect of another type.")
        present = set(senders.tolist())
        panels = {
            name: _genes(own[senders == name], observed=observed, q_threshold=q_threshold)
            for name in palette
            if name in present
        }
        return _draw_page(
            panels, receiver, palette, observed=observed, q_threshold=q_threshold, most_names=most_names
        )  # fmt: skip


def _of_receiver(effects: pd.DataFrame, receiver: str, *, observed: bool) -> pd.DataFrame:
    """Return the rows of one receiver type."""
    require("effects", effects, (RECEIVER, SENDER, GENE, DIFF, Q_VALUE, *(["slope"] if observed else [])))
    column = effects[RECEIVER]
    is_category = isinstance(column.dtype, pd.CategoricalDtype)
    known = {str(name) for name in (column.cat.categories if is_category else column.unique())}
    if len(effects) and receiver not in known:
        raise ParameterError(
            f"`receiver` must be a cell type of `effects`: {listing(sorted(known))}. Got {receiver!r} instead."
            + did_you_mean(str(receiver), known)
        )
    own: pd.DataFrame = effects[is_name(column, receiver)]
    one_row_each("effects", own, (SENDER, GENE))
    return own


def _genes(own: pd.DataFrame, *, observed: bool, q_threshold: float) -> _Genes:
    """Return the genes of one pair whose change and q are known."""
    change, q_value = finite("`diff` of `effects`", own[DIFF]), probabilities("`q_value` of `effects`", own[Q_VALUE])
    low = high = None
    if observed:
        change = change * finite("`slope` of `effects`", own["slope"])
    elif {"diff_low", "diff_high"} <= set(own.columns):
        low, high = (finite(f"`{name}` of `effects`", own[name]) for name in ("diff_low", "diff_high"))
    known = ~(np.isnan(change) | np.isnan(q_value))
    return _Genes(
        names=texts_of(own[GENE])[known],
        change=change[known],
        low=None if low is None else low[known],
        high=None if high is None else high[known],
        evidence=log_q(q_value[known]),
        found=q_value[known] < q_threshold,
    )


def _note(panels: Sequence[_Genes]) -> str:
    """Return what to say of genes that are more certain than the axis shows; empty where none is."""
    return f"; triangles: q < 1e-{MOST_EVIDENCE:g}" if any(genes.beyond().any() for genes in panels) else ""


def _limits(panels: Sequence[_Genes], q_threshold: float, *, named: int) -> tuple[tuple[float, float], float]:
    """Return the ends of the axis of changes, on which 0 is, and of that of evidence, which begins at 0."""
    ends = [0.0]
    for genes in panels:
        ends += [float(genes.change.min(initial=0.0)), float(genes.change.max(initial=0.0))]
        if genes.low is not None and genes.high is not None:
            chosen = genes.top(named)
            ends += [
                float(np.nanmin(genes.low[chosen], initial=0.0)),
                float(np.nanmax(genes.high[chosen], initial=0.0)),
            ]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    evidence = max(float(genes.heights.max(initial=0.0)) for genes in panels)
    # Some room above: many genes may have the smallest q there can be, and names stand beside.
    return (low - 0.1 * span, high + 0.1 * span), 1.22 * max(evidence, -1.15 * math.log10(q_threshold), 0.5)


def _draw_panel(
    axes: Axes, genes: _Genes, size: tuple[float, float], *, q_threshold: float, most_names: int, area: float,
    alone: bool,
) -> None:  # fmt: skip
    """Draw the dots of one pair, the line of the threshold and names."""
    (x_low, x_high), (_, y_high) = axes.get_xlim(), axes.get_ylim()
    axes.axvline(0.0, color="#d0d0d0", linewidth=0.6, zorder=0.5, label="_zero")
    threshold = -math.log10(q_threshold)
    axes.axhline(threshold, color=GRAY, linewidth=0.6, linestyle=(0, (3, 2)), zorder=0.6, label="_threshold")
    null = ~genes.found
    axes.scatter(
        genes.change[null], genes.heights[null], s=0.5 * area, c=NULL_COLOR, linewidths=0, zorder=2, label="_null",
        rasterized=bool(null.sum() > MOST_VECTORS), clip_on=False,
    )  # fmt: skip
    for color, direction, name in ((RAISED, genes.change > 0, "_raised"), (LOWERED, genes.change < 0, "_lowered")):
        for own, marker, label in ((~genes.beyond(), "o", name), (genes.beyond(), "^", f"{name} beyond")):
            drawn = genes.found & direction & own
            axes.scatter(
                genes.change[drawn], genes.heights[drawn], s=area if marker == "o" else 1.4 * area, c=color,
                marker=marker, edgecolors="white", linewidths=0.25, zorder=3, label=label, clip_on=False,
            )  # fmt: skip
    chosen = genes.top(most_names)
    scale = np.array([size[0] / (x_high - x_low), size[1] / y_high])
    places = (np.column_stack([genes.change, genes.heights]) - np.array([x_low, 0.0])) * scale  # (gene, axis)
    across = np.arange(0.0, size[0], 0.05)  # names do not stand on the line of the threshold
    obstacles = np.vstack([places[genes.found], np.column_stack([across, np.full(len(across), threshold * scale[1])])])
    if alone:
        # Beside the ends of the line, where no gene is; to the right, changes are more often large.
        text = f"q = {q_threshold:g}"
        axes.text(
            1.0, threshold / y_high + 0.012, text, transform=axes.transAxes, size=SMALL, color=GRAY, ha="right",
            va="bottom",
        )  # fmt: skip
        if genes.low is not None and genes.high is not None:
            axes.hlines(
                genes.heights[chosen], genes.low[chosen], genes.high[chosen], colors="#8a8a8a", linewidths=0.5,
                zorder=1.5, label="_interval",
            )  # fmt: skip
            ends = np.linspace(genes.low[chosen], genes.high[chosen], 12).ravel()  # (place along the line, gene)
            lines = np.column_stack([ends, np.tile(genes.heights[chosen], 12)])
            obstacles = np.vstack([obstacles, (lines - np.array([x_low, 0.0])) * scale])
        line = np.linspace(size[0] - text_width(text, SMALL), size[0], 12)
        words = np.column_stack([line, np.full(12, (threshold / y_high + 0.012) * size[1] + 0.04)])
        obstacles = np.vstack([obstacles, words])
    texts = [shorten(str(genes.names[index]), LONGEST_GENE) for index in chosen]
    placed = place_labels(places[chosen], texts, obstacles, size)
    draw_labels(axes, placed, places[chosen], texts, size)


def _draw_page(
    panels: Mapping[str, _Genes], receiver: str, palette: Mapping[str, str], *, observed: bool, q_threshold: float,
    most_names: int,
) -> Figure:  # fmt: skip
    """Draw the panels of all senders, row by row."""
    n_rows, n_columns = grid(len(panels), MOST_COLUMNS)
    width, height = _SMALL_PANEL if len(panels) > 3 else (1.75, 1.5)
    label = OBSERVED if observed else PREDICTED
    head, row_gap, gap = 0.32, 0.12, 0.14
    left = MARGIN + _LEFT
    panels_width = n_columns * width + (n_columns - 1) * gap
    total_width = left + max(panels_width, text_width(label)) + 0.15
    title = wrap(f"Genes of {shorten(receiver)} that senders change", total_width - 2 * MARGIN)
    caption = wrap(
        f"above each: genes that the sender raises (↑) and lowers (↓) with q < {q_threshold:g}, above the dashed line"
        + _note(list(panels.values())),
        total_width - 2 * MARGIN,
        FONT_SIZE,
    )
    caption_top = MARGIN + text_height(title, TITLE_SIZE) + 0.03
    top = caption_top + text_height(caption) + 0.08
    row_step = head + height + row_gap
    canvas = Canvas.of_size(total_width, top + n_rows * row_step - row_gap + _BOTTOM + 0.03)
    canvas.text(MARGIN, MARGIN, title, size=TITLE_SIZE, bold=True)
    canvas.text(MARGIN, caption_top, caption)
    x_limits, y_limit = _limits(list(panels.values()), q_threshold, named=most_names)
    for index, (name, genes) in enumerate(panels.items()):
        row, column = divmod(index, n_columns)
        axes = canvas.axes(left + column * (width + gap), top + head + row * row_step, width, height)
        axes.set(xlim=x_limits, ylim=(0.0, y_limit))
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.tick_params(labelleft=column == 0, labelbottom=index + n_columns >= len(panels))
        raised, lowered = genes.counts()
        color = readable_on_white(palette[name])
        axes.text(
            0.0, 1 + 0.17 / height, fit(name, width), transform=axes.transAxes, color=color, parse_math=False
        )  # fmt: skip
        axes.text(
            0.0, 1 + 0.05 / height, f"{raised:,} ↑  {lowered:,} ↓", transform=axes.transAxes, size=SMALL,
            color=DARK if raised + lowered else GRAY,
        )  # fmt: skip
        _draw_panel(
            axes, genes, (width, height), q_threshold=q_threshold, most_names=most_names, area=7.0, alone=False
        )  # fmt: skip
        if column == 0:
            axes.set_ylabel(EVIDENCE, labelpad=2)
    below = top + n_rows * row_step - row_gap + 0.19
    middle = left + panels_width / 2
    canvas.text(max(middle - text_width(label) / 2, left), below, label)
    return canvas.figure
