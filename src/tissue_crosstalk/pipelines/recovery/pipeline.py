"""The stage ``recovery``: how well the model finds what was planted in the tissue."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.recovery.nodes import draw_precision_recall, measure_recovery, recover

STAGE = "recovery"


def create_pipeline(*, drawn_by: str = STAGE) -> Pipeline:
    """Truth, attention and model in, measures and figure of what was found of the truth out.

    Parameters
    ----------
    drawn_by
        The stage that the figure belongs to: where ``reporting`` is in the same run, that one, which chooses the
        colours, and no stage of a run may wait for another one that waits for it.
    """
    measured = Pipeline(
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
        ],
        namespace=STAGE,
        prefix_datasets_with_namespace=False,
    )
    drawn = Pipeline(
        [
            Node(
                draw_precision_recall,
                inputs=["recovery", "precision_recall_curves", "cell_type_colors"],
                outputs="precision_recall",
                name="draw_precision_recall",
            )
        ],
        namespace=drawn_by,
        prefix_datasets_with_namespace=False,
    )
    return measured + drawn
