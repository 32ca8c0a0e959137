"""Attention against distance, from stored attention to figures: aggregated once per flavor, then drawn."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.dataset as pads

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.distance import DistanceBins
from tissue_crosstalk.core.errors import ParameterError, did_you_mean
from tissue_crosstalk.core.stored import Cells, read_shards, stored_flavors

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


def bin_stored_attention(
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    nn_dists: pads.Dataset,
    cells: pads.Dataset,
    *,
    max_distance: float,
    bin_size: float,
) -> dict[str, DistanceBins]:
    """Aggregate stored attention by distance, per flavor.

    Parameters
    ----------
    flavored_attention, nn_idxs, nn_dists, cells
        Folders that the earlier stages wrote.
    max_distance, bin_size
        Edges shorter than `max_distance` go in bins of `bin_size`, both in units of the coordinates.
    """
    known = Cells.read(cells)
    binned: dict[str, DistanceBins] = {}
    for flavor in stored_flavors(flavored_attention):
        for shard in read_shards(flavored_attention, nn_idxs, known, nn_dists=nn_dists, flavor=flavor):
            assert shard.nn_dist is not None
            if flavor not in binned:
                binned[flavor] = DistanceBins(known.cell_types, len(shard.attention), max_distance, bin_size)
            binned[flavor].add(
                shard.attention, shard.nn_dist, known.labels[shard.receivers], shard.sender_labels(known)
            )
    for bins in list(binned.values())[:1]:
        _warn_of_unit(bins)
    return binned


def _warn_of_unit(bins: DistanceBins) -> None:
    used = np.flatnonzero(bins.distance_histogram().groupby("distance_bin")["count"].sum().to_numpy())
    if len(used) < 2:
        logger.warning(
            "%s: max_distance %g and bin_size %g do not fit the unit of the coordinates. Set reporting.max_distance "
            "and reporting.bin_size.",
            "all edges shorter than max_distance fall in one bin"
            if len(used)
            else "no edge is shorter than max_distance",
            bins.max_distance,
            bins.bin_size,
        )


def binned_table(binned: Mapping[str, DistanceBins], min_bin_count: int) -> pd.DataFrame:
    """Return the bins of all flavors that hold at least `min_bin_count` edges, with a column ``flavor``."""
    tables = [bins.table(min_bin_count).assign(**{terms.FLAVOR: flavor}) for flavor, bins in binned.items()]
    table = pd.concat(tables, ignore_index=True)
    return table.astype(dict.fromkeys(("receiver", "sender", terms.FLAVOR), "category"))


def draw_summaries(
    binned: Mapping[str, DistanceBins],
    palette: Mapping[str, str],
    *,
    receivers: Sequence[str] | None = None,
    min_bin_count: int = 50,
    sel_head: int | None = None,
    plot_histogram: bool = False,
    suffixes: Sequence[str] = (".png",),
) -> dict[str, Figure]:
    """Draw attention against distance, one figure per flavor and receiver type.

    Parameters
    ----------
    binned
        Aggregated attention by flavor.
    palette
        Colour of each cell type.
    receivers
        Receiver types; None: all.
    min_bin_count
        A (bin, sender type) with fewer edges over all heads is left out.
    sel_head
        One head alone; None: all.
    plot_histogram
        Draw a histogram of edge distances below.
    suffixes
        File formats; the figure is the same.

    Returns
    -------
    dict
        Figures by file name, ``<flavor>_<receiver>[_head<h>]<suffix>``: flavors never overwrite each other.

    Raises
    ------
    ParameterError
        If a receiver type is unknown, or there is no such head.
    """
    from tissue_crosstalk.core.plots.attention_summary import plot_attention_summary
    from tissue_crosstalk.core.plots.style import unique_file_names

    figures: dict[str, Figure] = {}
    for flavor, bins in binned.items():
        wanted = _known_receivers(receivers, bins.cell_types)
        table, histogram = bins.table(min_bin_count), bins.distance_histogram()
        largest = bins.largest_attention(min_bin_count)
        stems = unique_file_names(bins.cell_types)
        head = "" if sel_head is None else f"_head{sel_head}"
        for receiver in wanted:
            figure = plot_attention_summary(
                table,
                receiver,
                palette=palette,
                n_heads=bins.n_heads,
                max_distance=bins.max_distance,
                bin_size=bins.bin_size,
                min_bin_count=min_bin_count,
                y_max=largest,
                flavor=flavor,
                sel_head=sel_head,
                histogram=histogram if plot_histogram else None,
            )
            figures |= {f"{flavor}_{stems[receiver]}{head}{suffix}": figure for suffix in suffixes}
    return figures


def _known_receivers(receivers: Sequence[str] | None, cell_types: Sequence[str]) -> Sequence[str]:
    for receiver in receivers or ():
        if receiver not in cell_types:
            raise ParameterError(
                f"there is no receiver type {receiver!r}.{did_you_mean(str(receiver), cell_types)} "
                f"The cell types are {', '.join(cell_types)}."
            )
    return cell_types if receivers is None else receivers


def tissue_palette(
    adata: AnnData,
    labels_key: str,
    cell_types: Sequence[str],
    palette: str | Sequence[str] | Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return one colour per cell type: `palette`, else the tissue's own colours, else distinct ones.

    Parameters
    ----------
    adata
        The tissue, which may have ``uns["<labels_key>_colors"]`` in the order of the categories of the labels.
    labels_key
        Column of ``obs`` with the cell types.
    cell_types
        The types to colour.
    palette
        Name of a colormap, colours in the order of `cell_types`, or colours by type.
    """
    from tissue_crosstalk.core.plots.style import cell_type_palette

    own: list[Any] | None = None
    colors = adata.uns.get(f"{labels_key}_colors")
    labels = adata.obs[labels_key]
    if colors is not None and isinstance(labels.dtype, pd.CategoricalDtype):
        by_type = dict(zip(map(str, labels.cat.categories), colors, strict=False))
        if by_type.keys() & set(cell_types):
            distinct = cell_type_palette(cell_types)  # for types of the model that this tissue lacks
            own = [str(by_type.get(name, distinct[name])) for name in cell_types]
    return cell_type_palette(cell_types, palette, own)
