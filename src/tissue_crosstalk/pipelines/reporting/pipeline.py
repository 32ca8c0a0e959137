"""The stage ``reporting``: figures, tables and an annotated tissue."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.reporting.nodes import (
    annotate,
    bin_attention,
    choose_colors,
    draw_hub_composition,
    draw_hub_map,
    draw_silhouette,
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
            Node(draw_silhouette, inputs="hub_selection", outputs="hub_silhouette", name="draw_hub_silhouette"),
            Node(
                annotate,
                inputs=["tissue", "hubs", "flavored_attention", "nn_idxs", "cells", "params:hubs"],
                outputs="annotated_tissue",
                name="annotate_tissue",
            ),
        ],
        namespace="reporting",
        prefix_datasets_with_namespace=False,
    )
