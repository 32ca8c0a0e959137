"""The stage ``ablation``: which genes a sender type changes in a receiver type."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.ablation.nodes import (
    ablate,
    annotate,
    draw_gene_dots,
    draw_interactions,
    draw_volcanoes,
    measure_effects,
    measure_interactions,
    weigh,
)


def create_pipeline() -> Pipeline:
    """Turn a prepared tissue and a model into the changed genes of every pair of types and their figures."""
    return Pipeline(
        [
            Node(ablate, inputs=["model_input", "model", "params:ablation"], outputs="ablation", name="ablate_senders"),
            Node(
                measure_effects,
                inputs=[
                    "model_input",
                    "model",
                    "params:ablation",
                    "params:training",
                    "params:seed",
                    "model_workspace",
                ],
                outputs="effects",
                name="measure_effects",
            ),
            Node(
                weigh,
                inputs=["effects", "ablation", "params:ablation"],
                outputs="interactions",
                name="weigh_interactions",
            ),
            Node(
                annotate,
                inputs=["model_input", "interactions", "params:ablation"],
                outputs="ligand_receptor",
                name="annotate_ligands_and_receptors",
            ),
            Node(measure_interactions, inputs="interactions", outputs="ablation_metrics", name="measure_interactions"),
            Node(
                draw_volcanoes,
                inputs=["effects", "cell_type_colors", "params:ablation"],
                outputs="volcanoes",
                name="draw_volcanoes",
            ),
            Node(
                draw_gene_dots,
                inputs=["effects", "cell_type_colors", "params:ablation"],
                outputs="gene_dots",
                name="draw_gene_dots",
            ),
            Node(
                draw_interactions,
                inputs=["interactions", "cell_type_colors"],
                outputs=["interaction_weights", "gene_network", "chord_diagram"],
                name="draw_interactions",
            ),
        ],
        namespace="ablation",
        prefix_datasets_with_namespace=False,
    )
