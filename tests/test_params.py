"""Parameters: conf/base says what the core's defaults say, and errors name the field."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf
from pydantic import ValidationError

from sessions import PROJECT
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.params import (
    RUN_TIME_PARAMETERS,
    STAGE_PARAMS,
    FlavoringParams,
    HubsParams,
    ReportingParams,
    TissueParams,
    TrainingParams,
    check_blocks,
    check_places,
    check_run_time_parameters,
    demo_study,
    flat_fields,
    given_fields,
    network_threshold,
    study_name,
    user_study,
)
from tissue_crosstalk.pipelines.metrics import metric_names
from tissue_crosstalk.settings import CONFIG_LOADER_ARGS


@pytest.mark.parametrize("stage", [name for name in STAGE_PARAMS if name != "tissue_reading"])
def test_conf_spells_out_every_parameter_with_its_default(stage: str) -> None:
    written: Any = OmegaConf.to_container(OmegaConf.load(PROJECT / "conf" / "base" / f"parameters_{stage}.yml"))
    kind = STAGE_PARAMS[stage]
    assert kind(**written[stage]) == kind()
    assert set(written[stage]) == {field.name for field in dataclasses.fields(kind)}


def parameters(env: str, **given: Any) -> dict[str, Any]:
    """Return the parameters of an environment, as a session reads them."""
    loader = OmegaConfigLoader(str(PROJECT / "conf"), env=env, runtime_params=given, **CONFIG_LOADER_ARGS)
    return dict(loader["parameters"])


def test_paper_holds_the_published_settings() -> None:
    found = parameters("paper")
    training = TrainingParams(**found["training"])
    network = dataclasses.asdict(training.network)
    assert network == {
        "n_heads": 8, "n_head_size": 32, "n_label_embed": 32, "n_query_embed_hidden": 512, "n_query_dim": 128,
        "n_nn_embed": 256, "n_nn_embed_hidden": 512, "n_kv_dim": 256, "n_pos_coef_mlp_hidden": 512,
        "attention_dummy_score": 3.0, "pos_coef_offset": -2.0, "distance_kernel_unit_scale": 1.0,
    }  # fmt: skip
    published = {
        "max_epochs": 400, "learning_rate": 1e-3, "adam_eps": 0.01, "weight_decay": 1e-6, "validation_fraction": 0.1,
        "patience": 20, "neighbor_dropout": 0.1, "value_l1_penalty": 1e-5, "attention_penalty_from": 1e-6,
        "attention_penalty_to": 1e-3, "attention_penalty_start": 10, "attention_penalty_end": 30,
        "auto_distance_scale": False, "learning_rate_schedule": "constant", "learning_rate_warmup": 0,
        "validation_split": "cells", "mixed_precision": False,
    }  # fmt: skip
    assert {name: getattr(training, name) for name in published} == published
    assert 128 <= training.batch_size <= 512
    assert TissueParams(**found["tissue_reading"]).n_neighbors == 50
    assert TissueParams(**parameters("paper", n_neighbors=20)["tissue_reading"]).n_neighbors == 20


def test_paper_changes_nothing_but_training_and_neighbors() -> None:
    base, paper = parameters("base"), parameters("paper")
    assert {name for name in base if base[name] != paper[name]} == {"training", "tissue_reading"}
    assert {**paper["tissue_reading"], "n_neighbors": None} == base["tissue_reading"]


def test_an_environment_keeps_what_it_does_not_name() -> None:
    one = parameters("paper", hubs={"n_clusters": 3}, demo={"training": {"max_epochs": 9}}, training={"patience": 5})
    base, paper = parameters("base"), parameters("paper")
    assert one["hubs"] == {**base["hubs"], "n_clusters": 3}
    assert one["demo"] == {**base["demo"], "training": {**base["demo"]["training"], "max_epochs": 9}}
    assert one["training"] == {**paper["training"], "patience": 5}


def test_the_demo_of_the_test_environment_trains_as_its_training_does() -> None:
    found = parameters("test")
    assert TrainingParams(**found["demo"]["training"]) == TrainingParams(**found["training"])


def test_all_errors_of_a_block_come_together() -> None:
    with pytest.raises(ValidationError) as caught:
        TrainingParams(batch_size="x", patchsize=3, network={"n_head": 2})
    assert {error["loc"] for error in caught.value.errors()} == {("batch_size",), ("patchsize",), ("network", "n_head")}


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (TrainingParams, {"validation_fraction": 0}, "validation_fraction must be above 0 and at most 0.9. Got 0"),
        (TrainingParams, {"network": {"n_heads": 0}}, "'n_heads' must be a whole number from 1"),
        (HubsParams, {"attention_quantile_threshold": 1}, "at least 0 and below 1. Got 1"),
        (HubsParams, {"flavor": "value"}, "unknown flavor 'value'"),
        (HubsParams, {"counting": "out_degree"}, "'edges' or 'in_degree'"),
        (FlavoringParams, {"flavors": []}, "at least one of vanilla, value-weighted"),
        (FlavoringParams, {"flavors": ["vanilla", "vanilla"]}, "once each"),
        (ReportingParams, {"bin_size": 0}, "greater than 0"),
        (ReportingParams, {"network_threshold": 1.5}, "less than or equal to 1"),
        (ReportingParams, {"network_threshold": 0}, "greater than 0"),
        (ReportingParams, {"save_svg": True}, "save_svg"),
        (TissueParams, {"n_neighbors": 0}, "greater than or equal to 1"),
    ],
)
def test_errors_say_what_was_expected(kind: type, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind(**given)


KEY = re.compile(r"( *)([\w.]+): *([^#]*?) *(#.*)?")
DOCUMENTED = ["globals", "parameters", *(f"parameters_{stage}" for stage in STAGE_PARAMS if stage != "tissue_reading")]
RANGE = re.compile(r"at least|above|any number|\bfrom \d")


def documented_keys(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and comment of each key of a file in conf/base, but for what the demo has otherwise."""
    path: list[str] = []
    lines = (PROJECT / "conf" / "base" / f"{name}.yml").read_text().splitlines()
    for number, line in enumerate(lines):
        found = KEY.fullmatch(line)
        if found is None:
            continue
        indent, key, value, comment = found.groups()
        path = [*path[: len(indent) // 2], key]
        rest = itertools.takewhile(lambda later: re.match(r" +#", later), lines[number + 1 :])
        if value and path[0] != "demo":
            yield ".".join(path), value, " ".join([comment or "", *rest])


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_key_of_conf_says_what_it_does(name: str) -> None:
    keys = list(documented_keys(name))
    assert keys
    for key, value, comment in keys:
        assert len(comment.split()) > 2, f"{key} in {name}.yml needs a comment: what it does, unit and range"
        if name != "parameters_sweep" and re.fullmatch(r"-?\d[\d.e+-]*", value):
            assert RANGE.search(comment), f"the comment of {key} in {name}.yml must say its range"


def test_every_documented_key_is_a_parameter() -> None:
    flat = {name for block, kind in STAGE_PARAMS.items() if block != "sweep" for name, _ in flat_fields(kind(), block)}
    keys = {key for name in DOCUMENTED for key, _, _ in documented_keys(name)}
    of_blocks = {key for key in keys if key.partition(".")[0] in STAGE_PARAMS and not key.startswith("sweep.")}
    assert of_blocks == flat
    assert {key for key in keys if "." not in key} == {*RUN_TIME_PARAMETERS} - {"parent_run"}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"hubs": {"n_clusters": 0}}, "hubs.n_clusters=0: n_clusters must be at least 1 (a whole number), or null to "
         "choose it. Got 0 instead."),
        ({"hubs": {"n_clusters": "abc"}}, "hubs.n_clusters=abc: must be a valid integer, unable to parse string as an "
         "integer."),
        ({"hubs": {"n_cluster": 2}}, "hubs.n_cluster=2: there is no such parameter. Did you mean 'n_clusters'? hubs "),
        ({"training": {"network": {"n_heads": 0}}}, "training.network.n_heads=0: network setting 'n_heads' must be a "
         "whole number from 1 to 16777216. Got 0 instead."),
        ({"training": {"network": {"n_head": 3}}}, "training.network.n_head=3: there is no such parameter. Did you "
         "mean 'n_heads'? training.network has n_heads, "),
        ({"training": {"network": 3}}, "training.network=3: "),
        ({"training": {"validation_split": "x"}}, "training.validation_split=x: must be 'blocks', 'cells' or 'both'."),
        ({"training": {"attention_penalty_end": 2}}, "training.attention_penalty_end=2: attention_penalty_end must be "
         "at least 10. Got 2 instead."),
        ({"demo": {"training": {"max_epochs": 0}}}, "demo.training.max_epochs=0: max_epochs must be at least 1. Got 0 "
         "instead."),
        ({"n_neighbors": 0}, "n_neighbors=0: must be greater than or equal to 1."),
        ({"tissue_reading": {"n_neighbors": 0}}, "tissue_reading.n_neighbors=0: must be greater than or equal to 1."),
        ({"log_normalised": "perhaps"}, "log_normalised=perhaps: must be a valid boolean, unable to interpret input."),
        ({"reporting": {"bin_size": 0}}, "reporting.bin_size=0: must be greater than 0."),
        ({"reporting": 3}, "reporting=3: this is a block of parameters. Name one, such as reporting.max_distance."),
        ({"flavoring": {"flavors": "vanila"}}, "flavoring.flavors=vanila: unknown flavor 'vanila'. Did you mean "
         "'vanilla'? "),
        ({"simulation": {"n_genes": 0}}, "simulation.n_genes=0: n_genes must be at least 1. Got n_genes=0 "
         "instead."),
        ({"cluster": {"timeout": 0}}, "cluster.timeout=0: cluster.timeout must be positive. Got 0.0 instead."),
    ],
)  # fmt: skip
def test_errors_name_a_parameter_as_the_command_line_does(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ParameterError) as caught:
        check_blocks(parameters("base", **given), given)
    assert str(caught.value).startswith(line)
    assert str(caught.value).endswith(" Set it with --params=<name>=<value>, or in a file of conf.")


def test_the_parameters_of_all_environments_are_right() -> None:
    for env in ("base", "test", "paper", "dask"):
        check_blocks(parameters(env), {})


def test_errors_of_two_blocks_come_together() -> None:
    given = {"hubs": {"min_cells": 0}, "training": {"patience": "x", "batch_size": 1.5}}
    with pytest.raises(ParameterError) as caught:
        check_blocks(parameters("base", **given), given)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        "- training.batch_size=1.5",
        "- training.patience=x",
        "- hubs.min_cells=0",
    ]


def test_a_field_without_its_block() -> None:
    with pytest.raises(ParameterError, match="field of a block: --params=hubs.n_clusters=<value>"):
        check_run_time_parameters(["n_clusters"])
    with pytest.raises(ParameterError, match="--params=training.device or extraction.device=<value>"):
        check_run_time_parameters(["device"])


def test_names_from_the_command_line() -> None:
    assert FlavoringParams(flavors="vanilla+gene-weighted").flavors == ("vanilla", "gene-weighted")
    assert ReportingParams(receivers="L2/3 IT|CD4+ T").receivers == ("L2/3 IT", "CD4+ T")
    assert TissueParams(labels_key=3).labels_key == "3"


def test_run_time_parameters() -> None:
    check_run_time_parameters(["tissue", "study", "hubs", "demo", "save_svg", "reports"])
    with pytest.raises(ParameterError, match=r"'studdy'. Did you mean 'study'\?"):
        check_run_time_parameters(["studdy"])


@pytest.mark.parametrize(
    ("given", "quantile", "expected"),
    [
        (None, 0.9, 0.2),
        (None, 0.95, 0.1),
        (None, 0.5, 0.75),  # half-way from chance to all
        (None, 0.25, 0.875),
        (None, 0.0, 1.0),
        (None, 1 - 1e-12, 1e-9),
        (0.3, 0.9, 0.3),
        (1, 0.9, 1.0),
    ],
)
def test_arrows_are_drawn_from_twice_what_chance_gives(given: float | None, quantile: float, expected: float) -> None:
    reporting = ReportingParams(network_threshold=given)
    assert network_threshold(reporting, quantile) == expected


@pytest.mark.parametrize(
    ("given", "folder", "svg"),
    [
        ({}, "data/08_reporting", False),
        ({"root": "/somewhere"}, "/somewhere/data/08_reporting", False),
        ({"root": "/somewhere", "reports": "figures", "save_svg": True}, "/somewhere/figures", True),
        ({"root": "/somewhere", "reports": "/elsewhere"}, "/elsewhere", False),
    ],
)
def test_figures_go_where_they_are_wanted(given: dict[str, Any], folder: str, svg: bool) -> None:
    loader = OmegaConfigLoader(str(PROJECT / "conf"), env="base", runtime_params=given, **CONFIG_LOADER_ARGS)
    catalog = loader["catalog"]
    for prefix, study in (("", "tissue"), ("demo.", "demo")):
        for name, file in (("hub_map", "hub_map.png"), ("attention_maps", "attention_maps")):
            dataset = catalog[f"{prefix}{name}"]["dataset"]
            assert (dataset["filepath"], dataset["svg"]) == (f"{folder}/{study}/{file}", svg)
        assert catalog[f"{prefix}report"]["dataset"]["filepath"] == f"{folder}/{study}/report.html"


@pytest.mark.parametrize("name", ["embryo", "Embryo 2 z2", "2024", "é-1"])
def test_study_names(name: str) -> None:
    assert study_name(name) == name


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", ".hidden", "x" * 101, "a\nb"])
def test_study_names_never_lead_elsewhere(name: str) -> None:
    with pytest.raises(ParameterError, match="study must be a plain name"):
        study_name(name)


def test_the_demo_and_the_users_never_share_a_study() -> None:
    assert demo_study(None) == "demo"
    assert demo_study("embryo") == "demo-embryo"
    assert user_study("embryo") == "embryo"
    with pytest.raises(ParameterError, match="study must not be 'demo'"):
        user_study("demo")


def test_keys_of_the_model_can_be_overridden_and_unset() -> None:
    model = TissueKeys(labels_key="kind", section_key="slide", layer="counts")
    assert TissueParams().keys(model) == model
    assert TissueParams(section_key="none", layer="none", coord_key="xy").keys(model) == TissueKeys("kind", "xy")
    assert TissueParams().keys() == TissueKeys("cell_type", "spatial")


def test_metrics_of_similar_labels_stay_apart() -> None:
    assert metric_names(["T/NK", "T+NK", "B"]) == {"T/NK": "T_NK", "T+NK": "T_NK-2", "B": "B"}


def test_long_names_of_metrics_are_cut_as_mlflow_wants_them_and_stay_apart() -> None:
    names = metric_names([300 * "T" + end for end in ("a", "b", "c")])
    assert [len(name) for name in names.values()] == [100] * 3
    assert len({*names.values()}) == 3


@pytest.mark.parametrize("name", ["study", "tissue", "root", "reports"])
def test_a_place_without_a_value_is_refused(name: str) -> None:
    """As in --params=study=, whose outputs would go to a folder called None."""
    check_places({name: "x", "model": None})
    for value in (None, ""):
        with pytest.raises(ParameterError, match=f"{name} must have a value"):
            check_places({name: value})


def test_fields_that_run_time_parameters_set() -> None:
    """As the stages take them; of blocks that stages read alone, which are checked."""
    given = {
        "hubs": {"n_clusters": 3, "flavor": "gene-weighted"},
        "flavoring": {"flavors": "vanilla+gene-weighted"},
        "training": {"network": {"n_heads": 2}},
        "sweep": {"grid": 3},
        "demo": {"hubs": {"n_clusters": 4}},
        "n_neighbors": 5,
        "study": "x",
    }
    blocks = {name: value for name, value in given.items() if isinstance(value, dict)}
    found = given_fields(given, blocks)
    assert found.pop("training.network").n_heads == 2
    assert found == {
        "hubs.n_clusters": 3,
        "hubs.flavor": "gene-weighted",
        "flavoring.flavors": ("vanilla", "gene-weighted"),
    }
