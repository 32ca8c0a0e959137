"""The stage ``reporting``: figures, tables, an annotated tissue, and one page with it all."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from tissue_crosstalk.pipelines.reporting.nodes import (
    annotate,
    choose_colors,
    draw_distances,
    draw_flavors,
    draw_heads,
    draw_hub_composition,
    draw_hub_conditions,
    draw_hub_enrichment,
    draw_hub_map,
    draw_hub_markers,
    draw_hub_sizes,
    draw_maps,
    draw_matrices,
    draw_networks,
    draw_number_of_hubs,
    draw_training,
    measure_heads,
    profile_attention,
    summarize_attention,
    tabulate_attention,
    write_report,
)

REPORTED = (
    "run_record",
    "model",
    "cells",
    "cell_type_colors",
    "attention_by_pair",
    "evenness_of_heads",
    "agreement_of_flavors",
    "attention_summaries",
    "attention_matrices",
    "interaction_networks",
    "attention_maps",
    "profile_of_heads",
    "flavors_compared",
    "distances_of_neighbors",
    "hub_selection",
    "hub_niches",
    "hub_shares",
    "hub_enrichment",
    "hub_markers",
    "hub_conditions",
    "hub_composition",
    "hub_map",
    "hub_sizes",
    "number_of_hubs",
    "hub_enrichment_dots",
    "hub_enrichment_at_hand",
    "hub_marker_genes",
    "hub_condition_shares",
)
"""What every report is made of; the names are those of the fields of the core's ``StudyResults``."""

REPORTED_OF_TRAINING = ("training_history", "training_curves")
REPORTED_OF_RECOVERY = ("recovery", "precision_recall")
REPORTED_OF_INTERPRETATION = (
    "interactions",
    "effects",
    "ligand_receptor",
    "volcanoes",
    "gene_dots",
    "interaction_weights",
    "gene_network",
    "chord_diagram",
    "length_scale_summary",
    "length_scale_distributions",
    "attention_enrichment",
    "attention_enrichment_dots",
    "information_flow",
    "explained_variance",
    "explained_variance_by_head",
    "contribution_heatmaps",
)


def create_pipeline(*, trained: bool = False, recovered: bool = False) -> Pipeline:
    """Flavored attention and hubs in, figures, tables, an annotated tissue and a report out.

    Parameters
    ----------
    trained
        The model was trained by this study, and its training is reported.
    recovered
        The study has a known truth, and what was found of it is reported.
    """
    reported = REPORTED + REPORTED_OF_TRAINING * trained + REPORTED_OF_RECOVERY * recovered
    nodes = [
        *_attention_nodes(),
        *_hub_nodes(),
        Node(
            write_report,
            inputs={"params": "params:reporting"} | {name: name for name in reported},
            outputs="report",
            name="write_report",
        ),
    ]
    if trained:
        nodes.append(
            Node(draw_training, inputs="training_history", outputs="training_curves", name="draw_training_curves")
        )
    return Pipeline(nodes, namespace="reporting", prefix_datasets_with_namespace=False)


def create_report_of_interpretation() -> Pipeline:
    """All results of a study and its interpretation in, the report out, in the place of that without."""
    of_training = {name: f"reported_{name}" for name in REPORTED_OF_TRAINING}  # where there was one
    return Pipeline(
        [
            Node(
                write_report,
                inputs={"params": "params:reporting"}
                | {name: name for name in REPORTED + REPORTED_OF_INTERPRETATION}
                | of_training,
                outputs="report",
                name="write_report_of_interpretation",
            )
        ],
        namespace="reporting",
        prefix_datasets_with_namespace=False,
    )


def _attention_nodes() -> list[Node]:
    return [
        Node(
            choose_colors,
            inputs=["tissue", "model", "params:tissue_reading", "params:reporting"],
            outputs="cell_type_colors",
            name="choose_colors",
        ),
        Node(
            profile_attention,
            inputs=[
                "attention_patterns",
                "flavored_attention",
                "nn_idxs",
                "nn_dists",
                "cells",
                "hub_selection",
                "params:reporting",
            ],
            outputs=[
                "distance_bins",
                "attention_by_pair",
                "attention_by_head",
                "attention_by_cell",
                "evenness_of_heads",
                "agreement_of_flavors",
            ],
            name="profile_attention",
        ),
        Node(measure_heads, inputs="evenness_of_heads", outputs="head_metrics", name="measure_heads"),
        Node(
            tabulate_attention,
            inputs=["distance_bins", "params:reporting"],
            outputs="attention_by_distance",
            name="tabulate_attention_by_distance",
        ),
        Node(
            summarize_attention,
            inputs=["distance_bins", "cell_type_colors", "params:reporting"],
            outputs="attention_summaries",
            name="draw_attention_summaries",
        ),
        Node(
            draw_matrices,
            inputs=["attention_by_pair", "cell_type_colors"],
            outputs="attention_matrices",
            name="draw_attention_matrices",
        ),
        Node(
            draw_networks,
            inputs=["attention_by_pair", "cell_type_colors", "hub_selection", "params:reporting"],
            outputs="interaction_networks",
            name="draw_interaction_networks",
        ),
        Node(
            draw_maps,
            inputs=["attention_by_cell", "cells", "params:reporting"],
            outputs="attention_maps",
            name="draw_attention_maps",
        ),
        Node(
            draw_heads,
            inputs=["evenness_of_heads", "attention_by_head", "cell_type_colors"],
            outputs="profile_of_heads",
            name="draw_profile_of_heads",
        ),
        Node(
            draw_flavors,
            inputs=["agreement_of_flavors", "cell_type_colors"],
            outputs="flavors_compared",
            name="compare_flavors",
        ),
        Node(
            draw_distances,
            inputs=["distance_bins", "cell_type_colors", "params:reporting"],
            outputs="distances_of_neighbors",
            name="draw_distances_of_neighbors",
        ),
    ]


def _hub_nodes() -> list[Node]:
    return [
        Node(draw_hub_composition, inputs="hubs", outputs="hub_composition", name="draw_hub_composition"),
        Node(draw_hub_map, inputs=["hubs", "cells", "params:reporting"], outputs="hub_map", name="draw_hub_map"),
        Node(
            draw_number_of_hubs,
            inputs=["hub_selection", "hub_stability"],
            outputs="number_of_hubs",
            name="draw_number_of_hubs",
        ),
        Node(draw_hub_sizes, inputs=["hub_shares", "cell_type_colors"], outputs="hub_sizes", name="draw_hub_sizes"),
        Node(
            draw_hub_enrichment,
            inputs="hub_enrichment",
            outputs=["hub_enrichment_dots", "hub_enrichment_at_hand"],
            name="draw_hub_enrichment",
        ),
        Node(draw_hub_markers, inputs="hub_markers", outputs="hub_marker_genes", name="draw_hub_markers"),
        Node(
            draw_hub_conditions,
            inputs=["hub_shares_by_section", "hub_conditions"],
            outputs="hub_condition_shares",
            name="draw_hub_conditions",
        ),
        Node(
            annotate,
            inputs=["tissue", "hubs", "hub_selection", "flavored_attention", "nn_idxs", "cells", "params:hubs"],
            outputs="annotated_tissue",
            name="annotate_tissue",
        ),
    ]
