"""The stage ``recovery``: how well the model finds what was planted in the tissue."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.recovery.nodes import draw_precision_recall, measure_recovery, recover


def create_pipeline() -> Pipeline:
    """Truth, attention and model in, measures and figure of what was found of the truth out."""
    return Pipeline(
        [
            Node(
                recover,
                inputs=[
                    "simulated_truth",
                    "attention_patterns",
                    "flavored_attention",
                    "nn_idxs",
                    "nn_dists",
                    "cells",
                    "model_input",
                    "model",
                ],
                outputs=["recovery", "precision_recall_curves"],
                name="recover_planted_interactions",
            ),
            Node(measure_recovery, inputs="recovery", outputs="recovery_metrics", name="measure_recovery"),
            Node(
                draw_precision_recall,
                inputs=["recovery", "precision_recall_curves"],
                outputs="precision_recall",
                name="draw_precision_recall",
            ),
        ],
        namespace="recovery",
        prefix_datasets_with_namespace=False,
    )
