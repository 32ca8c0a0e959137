"""Attention against distance, from what was aggregated to figures, and the colours of all figures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from tissue_crosstalk.core.distance import RECEIVER, DistanceBins
from tissue_crosstalk.core.errors import ParameterError, did_you_mean, listing

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure


def plan_summaries(
    binned: Mapping[str, DistanceBins],
    palette: Mapping[str, str],
    *,
    receivers: Sequence[str] | None = None,
    min_bin_count: int = 50,
    sel_head: int | None = None,
    plot_histogram: bool = False,
    distance_unit: str = "",
) -> dict[str, Callable[[], Figure]]:
    """Say how to draw attention against distance, one figure per flavor and receiver type.

    A figure is some 13 MB as long as it lives: many are better drawn one by one, as they are saved.

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
    distance_unit
        Unit of the coordinates, such as "µm"; empty if unknown.

    Returns
    -------
    dict
        What draws each figure, by stem of a file name, ``<flavor>_<receiver>[_head<h>]``: flavors never overwrite each
        other.

    Raises
    ------
    ParameterError
        If a receiver type is unknown, or there is no such head.
    """
    from tissue_crosstalk.core.plots.attention_summary import check_head, plot_attention_summary
    from tissue_crosstalk.core.plots.style import unique_file_names

    plans: dict[str, Callable[[], Figure]] = {}
    for flavor, bins in binned.items():
        check_head(bins.n_heads, sel_head)
        wanted = _known_receivers(receivers, bins.cell_types)
        table = bins.table(min_bin_count)
        of_receiver = dict(list(table.groupby(RECEIVER, sort=False)))  # each figure gets what it draws
        draw = functools.partial(
            plot_attention_summary,
            palette=palette,
            n_heads=bins.n_heads,
            max_distance=bins.max_distance,
            bin_size=bins.bin_size,
            min_bin_count=min_bin_count,
            y_max=bins.largest_attention(min_bin_count),
            flavor=flavor,
            sel_head=sel_head,
            histogram=bins.distance_histogram() if plot_histogram else None,
            distance_unit=distance_unit,
        )
        stems = unique_file_names(bins.cell_types)
        head = "" if sel_head is None else f"_head{sel_head}"
        plans |= {
            f"{flavor}_{stems[name]}{head}": functools.partial(draw, of_receiver.get(name, table[:0]), receiver=name)
            for name in wanted
        }
    return plans


def check_what_to_draw(bins: DistanceBins, receivers: Sequence[str] | None, sel_head: int | None) -> None:
    """Raise :class:`ParameterError` unless there are these receiver types and this head; None stands for all."""
    from tissue_crosstalk.core.plots.attention_summary import check_head

    check_head(bins.n_heads, sel_head)
    _known_receivers(receivers, bins.cell_types)


def _known_receivers(receivers: Sequence[str] | None, cell_types: Sequence[str]) -> Sequence[str]:
    for receiver in receivers or ():
        if receiver not in cell_types:
            raise ParameterError(
                f"receivers: there is no receiver type {receiver!r}.{did_you_mean(str(receiver), cell_types)} "
                f"The cell types are {listing(cell_types, most=30)}."
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
        # Fewer colours than categories are of another time's categories: nothing says which is whose.
        has_all = len(colors) >= len(labels.cat.categories)
        by_type = dict(zip(map(str, labels.cat.categories), colors, strict=False)) if has_all else {}
        if by_type.keys() & set(cell_types):
            distinct = cell_type_palette(cell_types)  # for types of the model that this tissue lacks
            own = [str(by_type.get(name, distinct[name])) for name in cell_types]
    return cell_type_palette(cell_types, palette, own)
