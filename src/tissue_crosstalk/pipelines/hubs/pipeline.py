"""The stage ``hubs``: cells grouped by whom they listen to, whether the groups are real, and what is in them."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.hubs.nodes import (
    compare_niches,
    contrast,
    count_cells,
    enrich,
    find,
    find_marker_genes,
    measure_hubs,
    tabulate,
)


def create_pipeline() -> Pipeline:
    """Flavored attention in, communication hubs and their statistics out."""
    return Pipeline(
        [
            Node(
                find,
                inputs=["flavored_attention", "nn_idxs", "nn_dists", "cells", "params:hubs", "params:flavoring"],
                outputs="found_hubs",
                name="find_hubs",
            ),
            Node(
                tabulate,
                inputs=["found_hubs", "cells", "params:hubs"],
                outputs=["hubs", "hub_selection", "hub_stability"],
                name="tabulate_hubs",
            ),
            Node(
                enrich,
                inputs=["found_hubs", "cells", "params:hubs"],
                outputs="hub_enrichment",
                name="test_hub_enrichment",
            ),
            Node(compare_niches, inputs=["found_hubs", "params:hubs"], outputs="hub_niches", name="compare_niches"),
            Node(
                count_cells,
                inputs=["found_hubs", "cells", "tissue", "params:hubs"],
                outputs=["hub_shares", "hub_shares_by_section", "hub_conditions"],
                name="count_cells_of_hubs",
            ),
            Node(
                find_marker_genes,
                inputs=["found_hubs", "cells", "model_input", "params:hubs"],
                outputs="hub_markers",
                name="find_hub_markers",
            ),
            Node(
                contrast,
                inputs=["found_hubs", "cells", "params:hubs"],
                outputs="hub_contrasts",
                name="contrast_receivers",
            ),
            Node(
                measure_hubs,
                inputs=["hub_selection", "hub_stability", "hub_niches"],
                outputs="hub_metrics",
                name="measure_hubs",
            ),
        ],
        namespace="hubs",
        prefix_datasets_with_namespace=False,
    )
