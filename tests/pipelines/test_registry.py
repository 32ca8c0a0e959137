"""The pipelines: what they need from outside, what they leave, and that nothing is left out of the catalog."""

from __future__ import annotations

import pkgutil
from typing import Any

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from sessions import PROJECT
from tissue_crosstalk import pipelines as stages
from tissue_crosstalk.pipeline_registry import register_pipelines
from tissue_crosstalk.pipelines.reporting.pipeline import REPORTED

WORKSPACES = ("model_input_workspace", "attention_workspace")
STAGES = [module.name for module in pkgutil.iter_modules(stages.__path__) if module.ispkg]


def datasets(names: set[str]) -> set[str]:
    return {name for name in names if not name.startswith("params:")}


@pytest.mark.parametrize(
    ("pipeline", "inputs"),
    [
        ("__default__", {"tissue", *WORKSPACES, "model_workspace", "training_checkpoint", "run_record"}),
        ("attention", {"tissue", *WORKSPACES, "existing_model", "run_record"}),
        ("demo", {f"demo.{name}" for name in (*WORKSPACES, "model_workspace", "training_checkpoint", "run_record")}),
        ("extraction", {"model_input", "attention_workspace", "existing_model"}),
        ("hubs", {"flavored_attention", "nn_idxs", "nn_dists", "cells", "model_input", "tissue"}),
        (
            "interpretation",
            {
                *("model_input", "existing_model", "model_workspace", "run_record", "cells", "nn_idxs"),
                *("attention_patterns", "cell_type_colors", *REPORTED, "reported_training_history"),
                "reported_training_curves",
            }
            - {"model"},
        ),
        ("variance", {"model_input", "existing_model", "cell_type_colors"}),
        (
            "recovery",
            {
                "simulated_truth",
                "attention_patterns",
                "flavored_attention",
                "nn_idxs",
                "nn_dists",
                "cells",
                "model_input",
                "existing_model",
                "cell_type_colors",
            },
        ),
    ],
)
def test_what_a_pipeline_needs(pipeline: str, inputs: set[str]) -> None:
    assert datasets(register_pipelines()[pipeline].inputs()) == inputs


def test_demo_keeps_to_its_own_datasets() -> None:
    names = datasets(register_pipelines()["demo"].datasets())
    assert all(name.startswith("demo.") for name in names)


def test_every_stage_is_a_namespace_and_every_node_says_what_it_does() -> None:
    pipelines = register_pipelines()
    assert {"simulation", "training", "recovery"} < set(STAGES) <= set(pipelines)
    for stage in STAGES:
        for node in pipelines[stage].nodes:
            assert node.namespace == stage
            assert node.func.__doc__


@pytest.mark.parametrize("pipeline", ["__default__", "attention", "demo"])
def test_recovery_is_measured_where_there_is_a_truth(pipeline: str) -> None:
    stages = {node.namespace for node in register_pipelines()[pipeline].nodes}
    assert ("demo.recovery" in stages) == (pipeline == "demo")
    assert not stages & {"recovery", "simulation"}


def test_attention_does_not_train() -> None:
    assert not any(node.namespace == "training" for node in register_pipelines()["attention"].nodes)


@pytest.mark.parametrize(
    ("pipeline", "prefix", "trained", "recovered"),
    [
        ("__default__", "", True, False),
        ("attention", "", False, False),
        ("reporting", "", False, False),
        ("demo", "demo.", True, True),
    ],
)
def test_a_report_is_of_what_there_is(pipeline: str, prefix: str, trained: bool, recovered: bool) -> None:
    [node] = [node for node in register_pipelines()[pipeline].nodes if "report" in node.name.split(".")[-1]]
    reported = {name.removeprefix(prefix) for name in node.inputs}
    assert node.outputs == [f"{prefix}report"]
    assert {"run_record", "cells", "attention_by_pair", "hub_map"} <= reported
    assert reported >= {"training_history", "training_curves"} if trained else not reported & {"training_curves"}
    assert reported >= {"recovery", "precision_recall"} if recovered else not reported & {"precision_recall"}


def test_every_dataset_but_one_is_in_the_catalog_with_a_layer(tmp_path: Any) -> None:
    bootstrap_project(PROJECT)
    names = set().union(*(datasets(pipeline.datasets()) for pipeline in register_pipelines().values()))
    with KedroSession.create(PROJECT, env="test", runtime_params={"root": str(tmp_path)}) as session:
        context = session.load_context()
        catalog, conf = context.catalog, context.config_loader["catalog"]
    missing = {name for name in names if name not in catalog}
    assert missing == {"distance_bins", "demo.distance_bins"}  # in memory, within the stage that makes it
    # What every stage uses has no layer: layers are drawn one after the other.
    shared = (*WORKSPACES, "model_workspace", "run_record", "training_checkpoint")
    without_layer = {f"{prefix}{name}" for prefix in ("", "demo.") for name in shared}
    assert without_layer < names
    for name in names - missing:
        assert ("kedro-viz" in conf[name].get("metadata", {})) == (name not in without_layer), name
