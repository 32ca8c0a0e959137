"""The stage ``simulation``: a tissue in which it is known who talks to whom."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.simulation.nodes import simulate


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
