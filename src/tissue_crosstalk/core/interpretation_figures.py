"""Figures of interpretation of which there is one per receiver type or head: what draws each, by file name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plan_volcanoes(
    effects: pd.DataFrame, palette: Mapping[str, str], *, q_threshold: float = 0.05, observed: bool = False
) -> dict[str, Callable[[], Figure]]:
    """Say how to draw which genes of each receiver type its senders change: a page per receiver type.

    Parameters
    ----------
    effects, palette, q_threshold, observed
        See :func:`~tissue_crosstalk.core.plots.volcano.plot_volcanoes`.

    Returns
    -------
    dict
        What draws each figure, by stem of a file name, in the order of `palette`.
    """
    from tissue_crosstalk.core.plots.volcano import plot_volcanoes

    return {
        stem: functools.partial(plot_volcanoes, own, name, palette, q_threshold=q_threshold, observed=observed)
        for stem, name, own in _by_receiver(effects, palette)
    }


def plan_gene_dots(
    effects: pd.DataFrame, palette: Mapping[str, str], *, q_threshold: float = 0.05, most_genes: int = 40
) -> dict[str, Callable[[], Figure]]:
    """Say how to draw the genes of each receiver type that senders change most: a figure per receiver type.

    Parameters
    ----------
    effects, palette, q_threshold, most_genes
        See :func:`~tissue_crosstalk.core.plots.gene_dots.plot_gene_dots`.

    Returns
    -------
    dict
        What draws each figure, by stem of a file name, in the order of `palette`.
    """
    from tissue_crosstalk.core.plots.gene_dots import plot_gene_dots

    return {
        stem: functools.partial(plot_gene_dots, own, name, palette, q_threshold=q_threshold, most_genes=most_genes)
        for stem, name, own in _by_receiver(effects, palette)
    }


def plan_length_scales(
    length_scales: pd.DataFrame,
    summary: pd.DataFrame,
    palette: Mapping[str, str],
    *,
    statistic: Literal["median", "mean"] = "median",
    distance_unit: str = "",
) -> dict[str, Callable[[], Figure]]:
    """Say how to draw over what distance each receiver type attends to its senders: a figure per receiver type.

    Parameters
    ----------
    length_scales, summary, palette, statistic, distance_unit
        See :func:`~tissue_crosstalk.core.plots.length_scales.plot_length_scales`.

    Returns
    -------
    dict
        What draws each figure, by stem of a file name, in the order of `palette`.
    """
    from tissue_crosstalk.core.plots.length_scales import plot_length_scales

    of_cells = {stem: own for stem, _, own in _by_receiver(length_scales, palette)}
    return {
        stem: functools.partial(
            plot_length_scales, of_cells.get(stem, length_scales.iloc[:0]), own, name, palette, statistic=statistic,
            distance_unit=distance_unit,
        )
        for stem, name, own in _by_receiver(summary, palette)
    }  # fmt: skip


def plan_contributions(
    contributions: pd.DataFrame, palette: Mapping[str, str], *, most_genes: int = 40
) -> dict[str, Callable[[], Figure]]:
    """Say how to draw what senders contribute through each head: a figure per head.

    Parameters
    ----------
    contributions, palette, most_genes
        See :func:`~tissue_crosstalk.core.plots.contributions.plot_contributions`.

    Returns
    -------
    dict
        What draws each figure, by stem of a file name, ``head<h>``; ``all_heads`` first where there is such a row.
    """
    from tissue_crosstalk.core.plots.contributions import plot_contributions
    from tissue_crosstalk.core.plots.effect_style import ALL_HEADS, HEAD

    return {
        "all_heads" if head == ALL_HEADS else f"head{head}": functools.partial(
            plot_contributions, own, head, palette, most_genes=most_genes
        )
        for head, own in (
            (int(one), contributions[contributions[HEAD] == one]) for one in sorted(set(contributions[HEAD]))
        )
    }


def draw_interactions(interactions: pd.DataFrame, palette: Mapping[str, str]) -> tuple[Figure, Figure, Figure]:
    """Draw who changes how many genes of whom.

    Parameters
    ----------
    interactions
        Table of :func:`~tissue_crosstalk.core.interactions.weigh_interactions`; pairs that were not tested are left
        out.
    palette
        Colour of each cell type.

    Returns
    -------
    matrix, network, chord diagram
    """
    from tissue_crosstalk.core.plots.chord import plot_chord
    from tissue_crosstalk.core.plots.interaction_weights import plot_gene_network, plot_interaction_weights

    tested = interactions[interactions["smallest_q"].notna()]
    return plot_interaction_weights(tested, palette), plot_gene_network(tested, palette), plot_chord(tested, palette)


def _by_receiver(table: pd.DataFrame, palette: Mapping[str, str]) -> list[tuple[str, str, pd.DataFrame]]:
    """Return stem of a file name, name and rows of each receiver type that has some, in the order of a palette.

    Where another process draws, it is handed the rows of one type alone.
    """
    from tissue_crosstalk.core.plots.effect_style import RECEIVER, is_name
    from tissue_crosstalk.core.plots.style import unique_file_names

    stems = unique_file_names(palette)
    own = {name: table[is_name(table[RECEIVER], name)] for name in palette}
    return [(stems[name], name, rows) for name, rows in own.items() if len(rows)]
