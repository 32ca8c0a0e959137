"""Communication hubs of stored attention: found, tested, and described."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.dataset as pads

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ResultError, TissueError, did_you_mean, listing
from tissue_crosstalk.core.hub_contents import find_markers, section_conditions
from tissue_crosstalk.core.hubs import Hubs, HubSettings, find_hubs
from tissue_crosstalk.core.stored import Cells, StoredStrength, check_same_cells, check_same_tissue

if TYPE_CHECKING:
    from anndata import AnnData


def find_stored_hubs(
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    nn_dists: pads.Dataset,
    cells: Cells,
    flavor: str,
    settings: HubSettings,
) -> Hubs:
    """Find the communication hubs of stored attention.

    Parameters
    ----------
    flavored_attention, nn_idxs, nn_dists
        Folders that the earlier stages wrote.
    cells
        The cells of the tissue.
    flavor
        Which flavor to use.
    settings
        Thresholds, counting and clustering.

    Returns
    -------
    Hubs
        Cells in the order of the tissue. See :func:`~tissue_crosstalk.core.hubs.find_hubs`, also for the errors.
    """
    hubs = find_hubs(
        StoredStrength(flavored_attention, nn_idxs, cells, nn_dists=nn_dists, flavor=flavor),
        cells.labels,
        cells.cell_types,
        settings,
        sections=cells.sections,
        section_names=cells.section_names,
    )
    order = np.argsort(hubs.counts.receivers)
    return replace(hubs, counts=hubs.counts.ordered(order), cluster=hubs.cluster[order])


def find_stored_markers(hubs: Hubs, cells: Cells, model_input: AnnData, *, min_cells: int = 10) -> pd.DataFrame:
    """Find the marker genes of hubs in the prepared tissue (:func:`~tissue_crosstalk.core.hub_contents.find_markers`).

    Raises
    ------
    ResultError
        If the prepared tissue is not that of the attention.
    """
    order = np.argsort(model_input.obs[terms.POSITION].to_numpy())
    check_same_cells(cells, model_input.obs_names.astype(str).to_numpy(dtype=object)[order])
    # Rows of the tissue to rows of the prepared one: only a type's rows are ever copied.
    return find_markers(
        hubs, cells, model_input.X, list(map(str, model_input.var_names)), rows=order, min_cells=min_cells
    )


def conditions_of_sections(cells: Cells, tissue: AnnData, condition_key: str | None) -> dict[str, str]:
    """Return the condition of each section; empty where no column is named.

    Parameters
    ----------
    cells
        The cells of the attention.
    tissue
        The tissue they are of.
    condition_key
        Column of ``obs``; None: there are no conditions.

    Raises
    ------
    TissueError
        If there is no such column, or a section has several conditions.
    ResultError
        If the tissue is another one.
    """
    if condition_key is None:
        return {}
    if condition_key not in tissue.obs.columns:
        raise TissueError(
            f"obs has no column {condition_key!r}.{did_you_mean(condition_key, map(str, tissue.obs.columns))} "
            f"It has {listing(list(tissue.obs.columns))}. Set hubs.condition_key."
        )
    check_same_tissue(cells, tissue)
    return section_conditions(cells, tissue.obs[condition_key], condition_key)


def positions_of_hubs(hubs: pd.DataFrame, cells: Cells) -> npt.NDArray[np.int64]:
    """Return the positions in the tissue of the cells of a hub table, (cell,).

    Raises
    ------
    ResultError
        If the hubs are of other cells.
    """
    positions = pd.Index(cells.names, dtype=object).get_indexer(hubs.index)
    if len(hubs) == 0 or (positions < 0).any():
        raise ResultError("the hubs are of other cells than the attention. Run the stage 'hubs' again.")
    return positions.astype(np.int64)
