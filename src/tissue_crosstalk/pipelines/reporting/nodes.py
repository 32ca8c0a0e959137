"""Nodes of the stage ``reporting``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import HubsParams, ReportingParams, TissueParams

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.dataset as pads
    from anndata import AnnData
    from matplotlib.figure import Figure

    from tissue_crosstalk.core.distance import DistanceBins
    from tissue_crosstalk.core.model import CrosstalkModel
else:
    AnnData = CrosstalkModel = DistanceBins = Figure = Any
    pads = type("pads", (), {"Dataset": Any})
    pd = type("pd", (), {"DataFrame": Any})


def choose_colors(
    tissue: AnnData, model: CrosstalkModel, reading: TissueParams, params: ReportingParams
) -> dict[str, str]:
    """Give every cell type one colour for all figures."""
    from tissue_crosstalk.core.summary import tissue_palette

    return tissue_palette(tissue, reading.keys(model.keys).labels_key, model.cell_types, params.palette)


def bin_attention(
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    nn_dists: pads.Dataset,
    cells: pads.Dataset,
    params: ReportingParams,
) -> dict[str, DistanceBins]:
    """Aggregate attention by receiver, sender, head and distance."""
    from tissue_crosstalk.core.summary import bin_stored_attention

    return bin_stored_attention(
        flavored_attention, nn_idxs, nn_dists, cells, max_distance=params.max_distance, bin_size=params.bin_size
    )


def tabulate_attention(distance_bins: dict[str, DistanceBins], params: ReportingParams) -> pd.DataFrame:
    """Return the aggregated attention as a table."""
    from tissue_crosstalk.core.summary import binned_table

    return binned_table(distance_bins, params.min_bin_count)


def summarize_attention(
    distance_bins: dict[str, DistanceBins], colors: dict[str, str], params: ReportingParams
) -> dict[str, Figure]:
    """Draw attention against distance, one figure per receiver type and flavor."""
    from tissue_crosstalk.core.summary import draw_summaries

    return draw_summaries(
        distance_bins,
        colors,
        receivers=params.receivers,
        min_bin_count=params.min_bin_count,
        sel_head=params.sel_head,
        plot_histogram=params.plot_histogram,
        suffixes=(".png", ".svg") if params.save_svg else (".png",),
    )


def draw_hub_composition(hubs: pd.DataFrame) -> Figure:
    """Draw whom the cells of each hub listen to."""
    from tissue_crosstalk.core.plots.hubs import plot_hub_composition

    return plot_hub_composition(hubs)


def draw_hub_map(hubs: pd.DataFrame, cells: pads.Dataset) -> Figure:
    """Draw where in the tissue the hubs lie."""
    from tissue_crosstalk.core.plots.hubs import plot_hub_map
    from tissue_crosstalk.core.stored import Cells
    from tissue_crosstalk.core.stored_hubs import positions_of_hubs
    from tissue_crosstalk.core.terms import HUB_CLUSTER

    known = Cells.read(cells)
    positions, sections = positions_of_hubs(hubs, known), known.section_of_cells()
    return plot_hub_map(
        known.coordinates[positions],
        hubs[HUB_CLUSTER].to_numpy(),
        None if sections is None else sections[positions],
    )


def draw_number_of_hubs(hub_selection: dict[str, Any], hub_stability: pd.DataFrame) -> Figure:
    """Draw silhouette and stability against the number of hubs."""
    from tissue_crosstalk.core.plots.hub_statistics import plot_number_of_hubs

    silhouette = {int(k): float(value) for k, value in hub_selection["silhouette"].items()}
    return plot_number_of_hubs(
        silhouette, hub_stability, int(hub_selection["n_clusters"]), str(hub_selection["chosen_by"])
    )


def draw_hub_sizes(hub_shares: pd.DataFrame, colors: dict[str, str]) -> Figure:
    """Draw how many cells of which types the hubs have."""
    from tissue_crosstalk.core.plots.hub_statistics import plot_hub_sizes

    return plot_hub_sizes(hub_shares, colors)


def draw_hub_enrichment(hub_enrichment: pd.DataFrame) -> tuple[Figure, Figure]:
    """Draw which sender types the hubs attend to more than others do, and more than what is at hand suggests."""
    from tissue_crosstalk.core.plots.hub_statistics import plot_hub_enrichment

    return plot_hub_enrichment(hub_enrichment), plot_hub_enrichment(hub_enrichment, null="at_hand")


def draw_hub_markers(hub_markers: pd.DataFrame) -> Figure:
    """Draw the genes that set the cells of a hub apart."""
    from tissue_crosstalk.core.plots.hub_contents import plot_hub_markers

    return plot_hub_markers(hub_markers)


def draw_hub_conditions(hub_shares_by_section: pd.DataFrame, hub_conditions: pd.DataFrame) -> Figure:
    """Draw the shares of hubs in the sections of each condition."""
    from tissue_crosstalk.core.plots.hub_contents import plot_hub_conditions

    return plot_hub_conditions(hub_shares_by_section, hub_conditions)


def annotate(
    tissue: AnnData,
    hubs: pd.DataFrame,
    hub_selection: dict[str, Any],
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    cells: pads.Dataset,
    params: HubsParams,
) -> AnnData:
    """Put hubs and attention in a copy of the tissue, for scanpy and squidpy."""
    from tissue_crosstalk.core.annotation import annotate_tissue

    return annotate_tissue(tissue, hubs, hub_selection, flavored_attention, nn_idxs, cells, params.flavor)
