"""The stage ``hubs``: cells grouped by whom they listen to."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.hubs.nodes import find, measure_hubs


def create_pipeline() -> Pipeline:
    """Flavored attention in, communication hubs out."""
    return Pipeline(
        [
            Node(
                find,
                inputs=["flavored_attention", "nn_idxs", "cells", "params:hubs", "params:flavoring"],
                outputs=["hubs", "hub_selection"],
                name="find_hubs",
            ),
            Node(measure_hubs, inputs="hub_selection", outputs="hub_metrics", name="measure_hubs"),
        ],
        namespace="hubs",
        prefix_datasets_with_namespace=False,
    )
