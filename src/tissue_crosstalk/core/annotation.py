"""The user's tissue with the results in it, for scanpy and squidpy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.dataset as pads
from scipy import sparse

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.hubs import ISOLATED, ISOLATED_NAME
from tissue_crosstalk.core.stored import Cells, check_same_tissue, strongest_head

if TYPE_CHECKING:
    from anndata import AnnData


def annotate_tissue(
    adata: AnnData,
    hubs: pd.DataFrame,
    selection: Mapping[str, Any],
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    cells: pads.Dataset,
    flavor: str,
) -> AnnData:
    """Return a copy of the tissue with hubs and attention.

    Parameters
    ----------
    adata
        The tissue; it is not changed.
    hubs
        Table of :meth:`~tissue_crosstalk.core.hubs.Hubs.table`.
    selection
        How they were found (:meth:`~tissue_crosstalk.core.hubs.Hubs.record`, and parameters).
    flavored_attention, nn_idxs, cells
        Folders that the earlier stages wrote.
    flavor
        Which flavor the hubs are of, and the attention will be.

    Returns
    -------
    AnnData
        With ``obs["hub_cluster"]`` (categorical; ``isolated``: no strong neighbor, missing: not computed) and its
        ``uns["hub_cluster_colors"]``, ``obsm["hub_composition"]`` (cell, type), ``uns["hub_composition_types"]``,
        ``obsp["attention"]`` (CSR float32: row attends to column, maximum over heads), ``uns["attention_flavor"]``,
        and ``uns["hub_selection"]``, JSON text of how the hubs were found: parameters, thresholds, centers.

    Raises
    ------
    ResultError
        If the results are of another tissue.
    """
    known = Cells.read(cells)
    check_same_tissue(known, adata.obs_names.astype(str).to_numpy(dtype=object))
    from tissue_crosstalk.core.plots.hub_style import ISOLATED_COLOR, hub_colors

    receivers, strength, nn_idx = strongest_head(flavored_attention, nn_idxs, known, flavor)
    present = nn_idx >= 0
    rows = np.repeat(receivers, present.sum(axis=1))
    n_cells = len(known.names)

    annotated = adata.to_memory() if adata.isbacked else adata.copy()
    clusters = hubs[terms.HUB_CLUSTER].reindex(annotated.obs_names.astype(str))
    # Categories in the order of the numbers, not of their text: scanpy's legends and colours follow it.
    n_hubs = int(selection["n_clusters"])
    names = {hub: str(hub) for hub in range(n_hubs)}
    if (clusters == ISOLATED).any():
        names[ISOLATED] = ISOLATED_NAME
    annotated.obs[terms.HUB_CLUSTER] = pd.Categorical(clusters.map(names), categories=list(names.values()))
    colors = [*hub_colors(n_hubs), ISOLATED_COLOR]
    annotated.uns[f"{terms.HUB_CLUSTER}_colors"] = np.array(colors[: len(names)], dtype=object)
    annotated.uns["hub_selection"] = json.dumps(selection)
    if annotated.obs.index.name in annotated.obs.columns:  # such a table cannot be stored
        annotated.obs.index.name = None
    types = [column for column in hubs.columns if column != terms.HUB_CLUSTER]
    annotated.obsm[terms.OBSM_HUB_COMPOSITION] = hubs[types].reindex(annotated.obs_names.astype(str)).to_numpy()
    annotated.uns[f"{terms.OBSM_HUB_COMPOSITION}_types"] = np.array(types, dtype=object)
    annotated.obsp[terms.OBSP_ATTENTION] = sparse.csr_matrix(
        (strength[present], (rows, nn_idx[present])), shape=(n_cells, n_cells), dtype=np.float32
    )
    annotated.uns["attention_flavor"] = flavor
    return annotated
