"""Nodes of the stage ``hubs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import FlavoringParams, HubsParams, check_hub_flavor
from tissue_crosstalk.pipelines.metrics import Metric, history, metric_names, single

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.dataset as pads
    from anndata import AnnData

    from tissue_crosstalk.core.hubs import Hubs
else:
    AnnData = Hubs = Any
    pads = type("pads", (), {"Dataset": Any})
    pd = type("pd", (), {"DataFrame": Any})


def find(
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    nn_dists: pads.Dataset,
    cells: pads.Dataset,
    params: HubsParams,
    flavoring: FlavoringParams,
) -> Hubs:
    """Group cells by the types of the neighbors they attend to strongly."""
    from tissue_crosstalk.core.stored import Cells
    from tissue_crosstalk.core.stored_hubs import find_stored_hubs

    check_hub_flavor(flavoring, params)
    return find_stored_hubs(flavored_attention, nn_idxs, nn_dists, Cells.read(cells), params.flavor, params)


def tabulate(
    found_hubs: Hubs, cells: pads.Dataset, params: HubsParams
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    """Return hub and composition of each cell, what was chosen and why, and how stable hubs are."""
    from dataclasses import asdict

    from tissue_crosstalk.core.stored import Cells

    names = Cells.read(cells).names[found_hubs.counts.receivers]
    return found_hubs.table(names), found_hubs.record() | {"parameters": asdict(params)}, found_hubs.stability


def enrich(found_hubs: Hubs, cells: pads.Dataset, params: HubsParams) -> pd.DataFrame:
    """Test which sender types each hub attends to more than chance."""
    from tissue_crosstalk.core.hub_enrichment import enrich_hubs
    from tissue_crosstalk.core.stored import Cells

    known = Cells.read(cells)
    return enrich_hubs(
        found_hubs,
        known.labels,
        known.sections,
        n_permutations=params.n_permutations,
        held_out=params.held_out,
        random_state=params.random_state,
    )


def compare_niches(found_hubs: Hubs, params: HubsParams) -> dict[str, float | int | None]:
    """Say whether attention adds anything to plain neighborhood composition."""
    from tissue_crosstalk.core.hub_enrichment import compare_with_niches

    return compare_with_niches(found_hubs, params.random_state)


def count_cells(
    found_hubs: Hubs, cells: pads.Dataset, tissue: AnnData, params: HubsParams
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Count the cells of hubs by type and section, and test whether conditions differ."""
    from tissue_crosstalk.core.hub_contents import compare_conditions, share_by_section, share_hubs
    from tissue_crosstalk.core.stored import Cells
    from tissue_crosstalk.core.stored_hubs import conditions_of_sections

    known = Cells.read(cells)
    by_section = share_by_section(found_hubs, known, conditions_of_sections(known, tissue, params.condition_key))
    return share_hubs(found_hubs, known), by_section, compare_conditions(by_section, random_state=params.random_state)


def find_marker_genes(found_hubs: Hubs, cells: pads.Dataset, model_input: AnnData, params: HubsParams) -> pd.DataFrame:
    """Find the genes that set the cells of a hub apart from the other cells of their type."""
    from tissue_crosstalk.core.stored import Cells
    from tissue_crosstalk.core.stored_hubs import find_stored_markers

    return find_stored_markers(found_hubs, Cells.read(cells), model_input, min_cells=params.min_cells)


def contrast(found_hubs: Hubs, cells: pads.Dataset, params: HubsParams) -> pd.DataFrame:
    """Compare attention and surroundings of receivers inside and outside of each hub."""
    from tissue_crosstalk.core.hub_contents import contrast_receivers
    from tissue_crosstalk.core.stored import Cells

    return contrast_receivers(found_hubs, Cells.read(cells), min_cells=params.min_cells)


def measure_hubs(
    hub_selection: dict[str, Any], hub_stability: pd.DataFrame, hub_niches: dict[str, Any]
) -> dict[str, Metric]:
    """Return number and thresholds, likeness to niches, and silhouette and stability with the number as their step."""
    from tissue_crosstalk.core.clustering import ADJUSTED_RAND, N_CLUSTERS, VARIED
    from tissue_crosstalk.core.hubs import ALL_SECTIONS

    n_cells = max(hub_selection["cells"], 1)
    likeness = {
        "adjusted Rand index with niches": hub_niches["adjusted_rand"],
        "adjusted Rand index with niches at random": hub_niches["adjusted_rand_at_random"],
        "adjusted mutual information with niches": hub_niches["adjusted_mutual_info"],
        "adjusted mutual information with niches at random": hub_niches["adjusted_mutual_info_at_random"],
    }
    thresholds = hub_selection["thresholds"].get(ALL_SECTIONS, {})  # those of sections are in the selection
    names = metric_names(thresholds)
    metrics = single(
        {
            "hubs": hub_selection["n_clusters"],
            "share of isolated cells": hub_selection["isolated_cells"] / n_cells,
        }
        | {name: value for name, value in likeness.items() if value is not None}
        | {f"threshold.{names[label]}": value for label, value in thresholds.items()}
    )
    by_number = {"silhouette": [(int(k), float(value)) for k, value in hub_selection["silhouette"].items()]}
    for varied, rows in hub_stability.groupby(VARIED):
        mean = rows.groupby(N_CLUSTERS)[ADJUSTED_RAND].mean()
        by_number[f"stability over {varied}"] = list(zip(mean.index.tolist(), mean.tolist(), strict=True))
    return metrics | {f"{name} by number of hubs": history(pairs) for name, pairs in by_number.items() if pairs}
