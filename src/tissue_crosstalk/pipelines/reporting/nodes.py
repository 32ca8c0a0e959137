"""Nodes of the stage ``reporting``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import HubsParams, ReportingParams, TissueParams, network_threshold
from tissue_crosstalk.pipelines.metrics import Metric, single

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.dataset as pads
    from anndata import AnnData
    from matplotlib.figure import Figure

    from tissue_crosstalk.core.annotation import AnnotatedFile
    from tissue_crosstalk.core.distance import DistanceBins
    from tissue_crosstalk.core.model import CrosstalkModel
else:
    AnnData = AnnotatedFile = CrosstalkModel = DistanceBins = Figure = Any
    pads = type("pads", (), {"Dataset": Any})
    pd = type("pd", (), {"DataFrame": Any})


def choose_colors(
    tissue: AnnData, model: CrosstalkModel, reading: TissueParams, params: ReportingParams
) -> dict[str, str]:
    """Give every cell type one colour for all figures."""
    from tissue_crosstalk.core.summary import tissue_palette

    return tissue_palette(tissue, reading.keys(model.keys).labels_key, model.cell_types, params.palette)


def profile_attention(
    attention_patterns: pads.Dataset,
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    nn_dists: pads.Dataset,
    cells: pads.Dataset,
    hub_selection: dict[str, Any],
    params: ReportingParams,
) -> tuple[dict[str, DistanceBins], pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Sum up attention by distance, pair of types, head and cell, and compare flavors."""
    from tissue_crosstalk.core.stored_profiles import profile_stored_attention
    from tissue_crosstalk.core.summary import check_what_to_draw

    profiles = profile_stored_attention(
        attention_patterns,
        flavored_attention,
        nn_idxs,
        nn_dists,
        cells,
        max_distance=params.max_distance,
        bin_size=params.bin_size,
        strong_quantile=hub_selection["parameters"]["attention_quantile_threshold"],
        thresholds_per=hub_selection["parameters"]["thresholds_per"],
    )
    # What is drawn last is refused before the first of it is saved.
    check_what_to_draw(next(iter(profiles.distance_bins.values())), params.receivers, params.sel_head)
    return (
        profiles.distance_bins,
        profiles.by_pair,
        profiles.by_head,
        profiles.by_cell,
        profiles.head_profile,
        profiles.flavor_agreement,
    )


def measure_heads(evenness_of_heads: pd.DataFrame) -> dict[str, Metric]:
    """Return the share of the dummy slot and the evenness of attention, of all heads and of each."""
    from tissue_crosstalk.core.stored_profiles import profile_metrics

    return single(dict(profile_metrics(evenness_of_heads)))


def tabulate_attention(distance_bins: dict[str, DistanceBins], params: ReportingParams) -> pd.DataFrame:
    """Return the aggregated attention as a table."""
    from tissue_crosstalk.core.stored_profiles import binned_table

    return binned_table(distance_bins, params.min_bin_count)


def summarize_attention(
    distance_bins: dict[str, DistanceBins], colors: dict[str, str], params: ReportingParams
) -> dict[str, Callable[[], Figure]]:
    """Draw attention against distance, one figure per receiver type and flavor, each as it is saved."""
    from tissue_crosstalk.core.summary import plan_summaries

    return plan_summaries(
        distance_bins,
        colors,
        receivers=params.receivers,
        min_bin_count=params.min_bin_count,
        sel_head=params.sel_head,
        plot_histogram=params.plot_histogram,
        distance_unit=params.distance_unit,
    )


def draw_matrices(attention_by_pair: pd.DataFrame, colors: dict[str, str]) -> dict[str, Figure]:
    """Draw mean and strong attention of every pair of types, one figure per flavor."""
    from tissue_crosstalk.core import flavor_figures

    return flavor_figures.draw_matrices(attention_by_pair, colors)


def draw_networks(
    attention_by_pair: pd.DataFrame, colors: dict[str, str], hub_selection: dict[str, Any], params: ReportingParams
) -> dict[str, Figure]:
    """Draw which types attend strongly to which, one figure per flavor."""
    from tissue_crosstalk.core import flavor_figures

    threshold = network_threshold(params, hub_selection["parameters"]["attention_quantile_threshold"])
    return flavor_figures.draw_networks(attention_by_pair, colors, threshold=threshold, min_edges=params.min_bin_count)


def draw_maps(attention_by_cell: pd.DataFrame, cells: pads.Dataset, params: ReportingParams) -> dict[str, Figure]:
    """Draw where in the tissue attention is received and sent, one figure per flavor."""
    from tissue_crosstalk.core import flavor_figures
    from tissue_crosstalk.core.stored import Cells

    return flavor_figures.draw_maps(attention_by_cell, Cells.read(cells), distance_unit=params.distance_unit)


def draw_heads(evenness_of_heads: pd.DataFrame, attention_by_head: pd.DataFrame, colors: dict[str, str]) -> Figure:
    """Draw how evenly each head attends, how much it leaves to the dummy slot, and which pairs it serves."""
    from tissue_crosstalk.core.plots.head_profile import plot_head_profile
    from tissue_crosstalk.core.terms import FLAVOR, VANILLA

    vanilla = attention_by_head[attention_by_head[FLAVOR] == VANILLA]
    return plot_head_profile(evenness_of_heads, vanilla, colors)


def draw_flavors(agreement_of_flavors: pd.DataFrame, colors: dict[str, str]) -> Figure:
    """Draw how alike the flavors rank the edges."""
    from tissue_crosstalk.core.plots.flavor_agreement import plot_flavor_agreement

    return plot_flavor_agreement(agreement_of_flavors, colors)


def draw_distances(distance_bins: dict[str, DistanceBins], colors: dict[str, str], params: ReportingParams) -> Figure:
    """Draw how far away the neighbors of each receiver type are."""
    from tissue_crosstalk.core.plots.distance_histograms import plot_distance_histograms

    bins = next(iter(distance_bins.values()))  # every flavor is of the same edges
    return plot_distance_histograms(
        bins.distance_histogram(),
        colors,
        max_distance=bins.max_distance,
        bin_size=bins.bin_size,
        beyond=bins.elsewhere(),
        distance_unit=params.distance_unit,
    )


def draw_training(training_history: pd.DataFrame) -> Figure:
    """Draw the losses of the training by epoch."""
    from tissue_crosstalk.core.plots.training_history import plot_training_history

    return plot_training_history(training_history)


def draw_hub_composition(hubs: pd.DataFrame) -> Figure:
    """Draw whom the cells of each hub listen to."""
    from tissue_crosstalk.core.plots.hubs import plot_hub_composition

    return plot_hub_composition(hubs)


def draw_hub_map(hubs: pd.DataFrame, cells: pads.Dataset, params: ReportingParams) -> Figure:
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
        distance_unit=params.distance_unit,
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
) -> AnnData | AnnotatedFile:
    """Put hubs and attention in a copy of the tissue, for scanpy and squidpy."""
    from tissue_crosstalk.core.annotation import annotate_tissue

    return annotate_tissue(tissue, hubs, hub_selection, flavored_attention, nn_idxs, cells, params.flavor)


def write_report(params: ReportingParams, **results: Any) -> str:
    """Put figures, tables and facts of the study in one page."""
    from tissue_crosstalk.core.report import StudyResults, render_report, study_report

    return render_report(study_report(StudyResults(min_edges=params.min_bin_count, **results)))
