"""The stage ``reporting``: figures, tables and an annotated tissue."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.reporting.nodes import (
    annotate,
    bin_attention,
    choose_colors,
    draw_hub_composition,
    draw_hub_conditions,
    draw_hub_enrichment,
    draw_hub_map,
    draw_hub_markers,
    draw_hub_sizes,
    draw_number_of_hubs,
    summarize_attention,
    tabulate_attention,
)


def create_pipeline() -> Pipeline:
    """Flavored attention and hubs in, figures, tables and an annotated tissue out."""
    return Pipeline(
        [
            Node(
                choose_colors,
                inputs=["tissue", "model", "params:tissue_reading", "params:reporting"],
                outputs="cell_type_colors",
                name="choose_colors",
            ),
            Node(
                bin_attention,
                inputs=["flavored_attention", "nn_idxs", "nn_dists", "cells", "params:reporting"],
                outputs="distance_bins",
                name="bin_attention_by_distance",
            ),
            Node(
                tabulate_attention,
                inputs=["distance_bins", "params:reporting"],
                outputs="attention_by_distance",
                name="tabulate_attention_by_distance",
            ),
            Node(
                summarize_attention,
                inputs=["distance_bins", "cell_type_colors", "params:reporting"],
                outputs="attention_summaries",
                name="draw_attention_summaries",
            ),
            Node(draw_hub_composition, inputs="hubs", outputs="hub_composition", name="draw_hub_composition"),
            Node(draw_hub_map, inputs=["hubs", "cells"], outputs="hub_map", name="draw_hub_map"),
            Node(
                draw_number_of_hubs,
                inputs=["hub_selection", "hub_stability"],
                outputs="number_of_hubs",
                name="draw_number_of_hubs",
            ),
            Node(draw_hub_sizes, inputs=["hub_shares", "cell_type_colors"], outputs="hub_sizes", name="draw_hub_sizes"),
            Node(
                draw_hub_enrichment,
                inputs="hub_enrichment",
                outputs=["hub_enrichment_dots", "hub_enrichment_at_hand"],
                name="draw_hub_enrichment",
            ),
            Node(draw_hub_markers, inputs="hub_markers", outputs="hub_marker_genes", name="draw_hub_markers"),
            Node(
                draw_hub_conditions,
                inputs=["hub_shares_by_section", "hub_conditions"],
                outputs="hub_condition_shares",
                name="draw_hub_conditions",
            ),
            Node(
                annotate,
                inputs=["tissue", "hubs", "hub_selection", "flavored_attention", "nn_idxs", "cells", "params:hubs"],
                outputs="annotated_tissue",
                name="annotate_tissue",
            ),
        ],
        namespace="reporting",
        prefix_datasets_with_namespace=False,
    )
