"""The stage ``variance``: how much of the variance within a type the neighbors explain."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.variance.nodes import draw_variance, explain, measure_variance


def create_pipeline() -> Pipeline:
    """Turn a prepared tissue and a model into explained variance by head and gene and its figure."""
    return Pipeline(
        [
            Node(
                explain,
                inputs=["model_input", "model", "params:variance"],
                outputs=["explained_variance", "explained_variance_by_gene"],
                name="explain_variance",
            ),
            Node(measure_variance, inputs="explained_variance", outputs="variance_metrics", name="measure_variance"),
            Node(
                draw_variance,
                inputs=["explained_variance", "cell_type_colors"],
                outputs="explained_variance_by_head",
                name="draw_explained_variance",
            ),
        ],
        namespace="variance",
        prefix_datasets_with_namespace=False,
    )
