"""The figures of which each flavor has one: who attends to whom, as matrix and as network, and where in the tissue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pandas as pd

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.flavors import FLAVORS
from tissue_crosstalk.core.profiles import RECEIVED, SENT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tissue_crosstalk.core.stored import Cells


def draw_matrices(by_pair: pd.DataFrame, palette: Mapping[str, str]) -> dict[str, Figure]:
    """Draw mean and strong attention of each pair of types.

    Parameters
    ----------
    by_pair
        See :attr:`~tissue_crosstalk.core.stored_profiles.AttentionProfiles.by_pair`.
    palette
        Colour of each cell type.

    Returns
    -------
    dict
        Figures by flavor.
    """
    from tissue_crosstalk.core.plots.attention_matrix import plot_attention_matrix

    return {flavor: plot_attention_matrix(pairs, palette, flavor=flavor) for flavor, pairs in _by_flavor(by_pair)}


def draw_networks(
    by_pair: pd.DataFrame, palette: Mapping[str, str], *, threshold: float, min_edges: int
) -> dict[str, Figure]:
    """Draw the pairs of types of whose edges at least a share is strong.

    Parameters
    ----------
    by_pair, palette
        As of :func:`draw_matrices`.
    threshold
        The share, above 0 and at most 1.
    min_edges
        Pairs with fewer edges get no arrow.

    Returns
    -------
    dict
        Figures by flavor.
    """
    from tissue_crosstalk.core.plots.interaction_network import plot_interaction_network

    return {
        flavor: plot_interaction_network(pairs, palette, threshold=threshold, flavor=flavor, min_edges=min_edges)
        for flavor, pairs in _by_flavor(by_pair)
    }


def draw_maps(by_cell: pd.DataFrame, cells: Cells, *, distance_unit: str = "") -> dict[str, Figure]:
    """Draw where in the tissue attention is received and sent.

    Parameters
    ----------
    by_cell
        See :attr:`~tissue_crosstalk.core.stored_profiles.AttentionProfiles.by_cell`.
    cells
        The cells of the tissue.
    distance_unit
        Unit of the coordinates, such as "µm"; empty if unknown.

    Returns
    -------
    dict
        Figures by flavor.

    Raises
    ------
    ResultError
        If the table is of other cells.
    """
    from tissue_crosstalk.core.plots.attention_map import plot_attention_maps

    if len(by_cell) != len(cells.names) or not (by_cell.index.to_numpy(dtype=object) == cells.names).all():
        raise ResultError("the table of attention by cell is of other cells. Run the stage 'reporting' again.")
    received_and_sent = {
        flavor: (by_cell[f"{RECEIVED}_{flavor}"].to_numpy(), by_cell[f"{SENT}_{flavor}"].to_numpy())
        for flavor in FLAVORS
        if f"{RECEIVED}_{flavor}" in by_cell.columns
    }
    return plot_attention_maps(
        cells.coordinates, received_and_sent, cells.section_of_cells(), distance_unit=distance_unit
    )


def _by_flavor(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rows of each flavor that has some, in the order of the flavors."""
    for flavor in FLAVORS:
        rows = table[table[terms.FLAVOR] == flavor]
        if len(rows):
            yield flavor, rows
