"""The stage ``training``: a cross-attention model of the tissue."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.training.nodes import measure_training, prepare_training_input, train


def create_pipeline() -> Pipeline:
    """Tissue in, model input and trained model out."""
    return Pipeline(
        [
            Node(
                prepare_training_input,
                inputs=["tissue", "params:tissue_reading", "model_input_workspace"],
                outputs="model_input",
                name="prepare_training_input",
            ),
            Node(
                train,
                inputs=["model_input", "params:training", "params:seed", "training_checkpoint", "model_workspace"],
                outputs=["model", "training_history"],
                confirms="training_checkpoint",  # which deletes it: what it made is saved
                name="train_model",
            ),
            Node(measure_training, inputs="training_history", outputs="training_metrics", name="measure_training"),
        ],
        namespace="training",
        prefix_datasets_with_namespace=False,
    )
