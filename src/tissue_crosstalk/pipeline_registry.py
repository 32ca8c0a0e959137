"""The pipelines by name."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from tissue_crosstalk.params import DEMO
from tissue_crosstalk.pipelines import (
    ablation,
    contributions,
    distances,
    extraction,
    flavoring,
    hubs,
    recovery,
    reporting,
    simulation,
    training,
    variance,
)

DEMO_BLOCKS = ("params:tissue_reading", "params:training")
"""Parameters that a simulated tissue needs differently: in the demo they are ``demo.tissue_reading`` and so on."""


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline by name.

    ``__default__`` trains a model on the user's tissue and goes on to the report; ``attention`` starts from an
    existing model; ``demo`` simulates a tissue first, measures at the end what was found of what it planted, and keeps
    its files under the study ``demo``. ``interpretation`` goes on from the results of either of the former, and
    ``demo_interpretation`` from those of the demo: which genes senders change, over what distance, by how much more
    than chance. Each stage is there by its own name, too.
    """
    grouping = flavoring.create_pipeline() + hubs.create_pipeline()
    from_training = training.create_pipeline() + extraction.create_pipeline() + grouping
    whole = from_training + reporting.create_pipeline(trained=True)
    attention = _of_existing_model(
        extraction.create_pipeline(from_tissue=True) + grouping + reporting.create_pipeline()
    )
    of_simulated = Pipeline(
        from_training + reporting.create_pipeline(trained=True, recovered=True), inputs={"tissue": "simulated_tissue"}
    )
    demo = Pipeline(
        [
            simulation.create_pipeline(),
            of_simulated,
            recovery.create_pipeline(drawn_by="reporting"),
        ]
    )
    interpretation = (
        ablation.create_pipeline()
        + distances.create_pipeline()
        + variance.create_pipeline()
        + contributions.create_pipeline()
        + reporting.create_report_of_interpretation()
    )

    def of_demo(pipeline: Pipeline) -> Pipeline:
        shared = {name for name in pipeline.inputs() if name.startswith("params:")} - set(DEMO_BLOCKS)
        return Pipeline(pipeline, namespace=DEMO, parameters=shared)

    return {
        "__default__": whole,
        "attention": attention,
        DEMO: of_demo(demo),
        "interpretation": _of_existing_model(interpretation),
        f"{DEMO}_interpretation": of_demo(interpretation),
        "simulation": simulation.create_pipeline(),
        "training": training.create_pipeline(),
        "extraction": _of_existing_model(extraction.create_pipeline()),
        "flavoring": flavoring.create_pipeline(),
        "hubs": hubs.create_pipeline(),
        "reporting": _of_existing_model(reporting.create_pipeline()),
        "recovery": _of_existing_model(recovery.create_pipeline()),
        "ablation": _of_existing_model(ablation.create_pipeline()),
        "distances": _of_existing_model(distances.create_pipeline()),
        "variance": _of_existing_model(variance.create_pipeline()),
        "contributions": _of_existing_model(contributions.create_pipeline()),
    }


def _of_existing_model(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline with the model that the user names, else the one that the study trained."""
    return Pipeline(pipeline, inputs={"model": "existing_model"})
