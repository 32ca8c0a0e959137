"""The stage ``simulation``: a tissue in which it is known who talks to whom."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.simulation.nodes import evaluate_recovery, measure_recovery, simulate


def create_pipeline() -> Pipeline:
    """Parameters in, simulated tissue and its truth out."""
    return Pipeline(
        [
            Node(
                simulate,
                inputs=["params:simulation", "params:seed"],
                outputs=["simulated_tissue", "simulated_truth"],
                name="simulate_tissue",
            )
        ],
        namespace="simulation",
        prefix_datasets_with_namespace=False,
    )


def create_evaluation_pipeline() -> Pipeline:
    """Compare the attention of a simulated tissue with its truth."""
    return Pipeline(
        [
            Node(
                evaluate_recovery,
                inputs=["simulated_truth", "flavored_attention", "nn_idxs", "nn_dists", "cells"],
                outputs="recovery",
                name="evaluate_recovery",
            ),
            Node(measure_recovery, inputs="recovery", outputs="recovery_metrics", name="measure_recovery"),
        ],
        namespace="evaluation",
        prefix_datasets_with_namespace=False,
    )
