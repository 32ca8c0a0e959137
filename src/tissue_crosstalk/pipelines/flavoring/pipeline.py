"""The stage ``flavoring``: attention weighted by what the neighbors say."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.flavoring.nodes import flavor


def create_pipeline() -> Pipeline:
    """Attention patterns in, attention in several flavors out."""
    return Pipeline(
        [
            Node(
                flavor,
                inputs=[
                    "attention_patterns",
                    "nn_idxs",
                    "sender_norms",
                    "cells",
                    "attention_workspace",
                    "params:flavoring",
                    "params:cluster",
                ],
                outputs="flavored_attention",
                name="flavor_attention",
            )
        ],
        namespace="flavoring",
        prefix_datasets_with_namespace=False,
    )
