"""The stage ``distances``: over what distance senders are heard, and whether they are heard more than chance."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.distances.nodes import (
    compare_with_chance,
    draw_enrichment,
    draw_flow,
    draw_length_scales,
    measure_distances,
    measure_length_scales,
)


def create_pipeline() -> Pipeline:
    """Turn a prepared tissue and a model into length scales, attention against chance and their figures."""
    return Pipeline(
        [
            Node(
                measure_length_scales,
                inputs=["model_input", "model", "params:distances"],
                outputs=["length_scales", "length_scale_summary"],
                name="measure_length_scales",
            ),
            Node(
                compare_with_chance,
                inputs=["model_input", "model", "params:distances"],
                outputs="attention_enrichment",
                name="compare_attention_with_chance",
            ),
            Node(
                measure_distances,
                inputs=["length_scale_summary", "attention_enrichment"],
                outputs="distance_metrics",
                name="measure_distances",
            ),
            Node(
                draw_length_scales,
                inputs=["length_scales", "length_scale_summary", "cell_type_colors", "params:reporting"],
                outputs="length_scale_distributions",
                name="draw_length_scales",
            ),
            Node(
                draw_enrichment,
                inputs=["attention_enrichment", "cell_type_colors"],
                outputs="attention_enrichment_dots",
                name="draw_attention_enrichment",
            ),
            Node(
                draw_flow,
                inputs=["attention_patterns", "nn_idxs", "cells", "cell_type_colors", "params:reporting"],
                outputs="information_flow",
                name="draw_information_flow",
            ),
        ],
        namespace="distances",
        prefix_datasets_with_namespace=False,
    )
