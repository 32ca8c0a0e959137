"""The user's tissue with the results in it, for scanpy and squidpy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.dataset as pads
from scipy import sparse

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.hubs import ISOLATED, ISOLATED_NAME
from tissue_crosstalk.core.stored import Cells, check_same_tissue, strongest_head
from tissue_crosstalk.core.tissue_file import copy_element, open_group, source_of

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
) -> AnnData | AnnotatedFile:
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
        and ``uns["hub_selection"]``, JSON text of how the hubs were found: parameters, thresholds, centers. Of a tissue
        whose matrices are on disk, an :class:`AnnotatedFile`, which is written from there.

    Raises
    ------
    ResultError
        If the results are of another tissue.
    """
    known = Cells.read(cells)
    check_same_tissue(known, adata)
    obs = adata.obs.copy()
    added = _Additions(obs, {}, {terms.OBSP_ATTENTION: _attention(flavored_attention, nn_idxs, known, flavor)}, {})
    _add_hubs(added, hubs, selection)
    added.uns["attention_flavor"] = flavor
    source = source_of(adata)
    if source is not None:
        return AnnotatedFile(adata, source, added)
    annotated = adata.to_memory() if adata.isbacked else adata.copy()
    annotated.obs = added.obs
    for name in ("obsm", "obsp", "uns"):
        getattr(annotated, name).update(getattr(added, name))
    return annotated


@dataclass(frozen=True, eq=False)
class _Additions:
    """What a tissue gets: its ``obs`` anew, and entries of the other parts."""

    obs: pd.DataFrame
    obsm: dict[str, Any]
    obsp: dict[str, Any]
    uns: dict[str, Any]


def _attention(flavored_attention: pads.Dataset, nn_idxs: pads.Dataset, cells: Cells, flavor: str) -> sparse.csr_matrix:
    """Return the attention of each cell (row) to each (column), maximum over heads."""
    receivers, strength, nn_idx = strongest_head(flavored_attention, nn_idxs, cells, flavor)
    present = nn_idx >= 0
    n_cells = len(cells.names)
    counts = np.zeros(n_cells, dtype=np.int64)
    counts[receivers] = present.sum(axis=1)  # receivers are ascending: rows follow each other as they are
    starts = np.concatenate([[0], np.cumsum(counts)])
    if starts[-1] <= np.iinfo(np.int32).max:  # else scipy makes a wider copy of the columns
        starts = starts.astype(np.int32)
    edges = (strength.reshape(-1), nn_idx.reshape(-1)) if present.all() else (strength[present], nn_idx[present])
    matrix = sparse.csr_matrix((*edges, starts), shape=(n_cells, n_cells))
    matrix.sort_indices()
    return matrix


def _add_hubs(added: _Additions, hubs: pd.DataFrame, selection: Mapping[str, Any]) -> None:
    from tissue_crosstalk.core.plots.hub_style import ISOLATED_COLOR, hub_colors

    names = added.obs.index.astype(str)
    clusters = hubs[terms.HUB_CLUSTER].reindex(names)
    # Categories in the order of the numbers, not of their text: scanpy's legends and colours follow it.
    n_hubs = int(selection["n_clusters"])
    called = {hub: str(hub) for hub in range(n_hubs)}
    if (clusters == ISOLATED).any():
        called[ISOLATED] = ISOLATED_NAME
    added.obs[terms.HUB_CLUSTER] = pd.Categorical(clusters.map(called), categories=list(called.values()))
    if added.obs.index.name in added.obs.columns:  # such a table cannot be stored
        added.obs.index.name = None
    colors = [*hub_colors(n_hubs), ISOLATED_COLOR]
    added.uns[f"{terms.HUB_CLUSTER}_colors"] = np.array(colors[: len(called)], dtype=object)
    added.uns["hub_selection"] = json.dumps(selection)
    types = [column for column in hubs.columns if column != terms.HUB_CLUSTER]
    added.obsm[terms.OBSM_HUB_COMPOSITION] = hubs[types].reindex(names).to_numpy()
    added.uns[f"{terms.OBSM_HUB_COMPOSITION}_types"] = np.array(types, dtype=object)


@dataclass(frozen=True, eq=False)
class AnnotatedFile:
    """A tissue whose matrices are on disk, with results: written from there, without its matrices in memory.

    Attributes
    ----------
    tissue
        As :func:`~tissue_crosstalk.core.tissue_file.open_tissue` opened it.
    source
        Its file.
    added
        What it gets.
    """

    tissue: AnnData
    source: Path
    added: _Additions

    def write_h5ad(
        self, filename: Path, *, compression: str | None = None, compression_opts: int | None = None
    ) -> None:
        """Write the tissue, all that is in its file as it is there, with what it gets, compressed as asked for."""
        import h5py
        from anndata.io import write_elem

        added = self.added
        given = {"compression": compression, "compression_opts": compression_opts}
        kwargs = {name: value for name, value in given.items() if value is not None}
        with open_group(self.source) as old, h5py.File(filename, "w") as new:
            new.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            write_elem(new, "obs", added.obs, dataset_kwargs=kwargs)
            write_elem(new, "uns", {**self.tissue.uns, **added.uns}, dataset_kwargs=kwargs)
            for name in sorted(set(old) - {"obs", "uns", "obsm", "obsp"}):
                copy_element(old, new, name)
            for name in ("obsm", "obsp"):
                entries = dict(getattr(added, name))
                if name == "obsm":  # places that are not the file's
                    entries |= {key: self.tissue.obsm[key] for key in getattr(self.tissue, "placed", ())}
                write_elem(new, name, entries, dataset_kwargs=kwargs)
                for key in sorted(set(old.get(name, ())) - set(entries)):
                    copy_element(old[name], new[name], key)
