"""The stage ``extraction``: what every cell attends to."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.extraction.nodes import extract, measure_attention, prepare_model_input


def create_pipeline(*, from_tissue: bool = False) -> Pipeline:
    """Model input and model in, tables of attention out.

    Parameters
    ----------
    from_tissue
        Prepare the model input from the tissue, for a model that was not trained in the same run.
    """
    prepare = Node(
        prepare_model_input,
        inputs=["tissue", "model", "params:tissue_reading", "model_input_workspace"],
        outputs="model_input",
        name="prepare_model_input",
    )
    nodes = [
        Node(
            extract,
            inputs=["model_input", "model", "attention_workspace", "params:extraction", "params:cluster"],
            outputs=["attention_patterns", "nn_idxs", "nn_dists", "sender_norms", "cells"],
            name="extract_attention",
        ),
        Node(
            measure_attention,
            inputs=["attention_patterns", "cells"],
            outputs="attention_metrics",
            name="measure_attention",
        ),
    ]
    return Pipeline(
        [prepare, *nodes] if from_tissue else nodes, namespace="extraction", prefix_datasets_with_namespace=False
    )
