"""The stage ``contributions``: what senders say to genes through each head."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.contributions.nodes import draw_contributions, measure_contributions, summarize


def create_pipeline() -> Pipeline:
    """Turn a prepared tissue and a model into contributions by sender type, head and gene and their figures."""
    return Pipeline(
        [
            Node(summarize, inputs=["model_input", "model"], outputs="contributions", name="summarize_contributions"),
            Node(
                measure_contributions,
                inputs="contributions",
                outputs="contribution_metrics",
                name="measure_contributions",
            ),
            Node(
                draw_contributions,
                inputs=["contributions", "cell_type_colors", "params:contributions"],
                outputs="contribution_heatmaps",
                name="draw_contributions",
            ),
        ],
        namespace="contributions",
        prefix_datasets_with_namespace=False,
    )
