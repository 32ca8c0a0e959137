"""Results say what they were made from, and what does not go together is refused."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from kedro.io import DatasetError

from sessions import PROJECT, run_project
from tissue_crosstalk.core import tables, terms
from tissue_crosstalk.core.checkpoint import load_model, save_model
from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.files import digest
from tissue_crosstalk.core.provenance import git_commit, package_versions
from tissue_crosstalk.provenance import PROVENANCE, check_asked, check_model, check_reading, check_together, said_of

GIVEN = {"extraction": {"cells_per_shard": 250}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, awkward_keys: dict[str, Any]) -> Path:
    """A finished run of a study, which no test may change."""
    root = tmp_path_factory.mktemp("finished")
    run_project(root, **awkward_keys, reporting={"min_bin_count": 5}, **GIVEN)
    return root


def results(root: Path) -> dict[str, Any]:
    """Return what every table and record of a study says of its origin, by its name."""
    found = {}
    for path in sorted(root.glob("data/0*/awkward/*")):
        if path.suffix == ".parquet":
            found[path.stem] = pd.read_parquet(path).attrs[terms.PROVENANCE_KEY]
        elif path.name in ("hub_selection.json", "hub_niches.json"):
            found[path.stem] = json.loads(path.read_text())[PROVENANCE]
    return found


@pytest.mark.slow
def test_every_table_says_what_it_was_made_from(finished: Path, awkward_tissue: Path) -> None:
    tissue = hashlib.sha256(awkward_tissue.read_bytes()).hexdigest()
    model = digest(finished / "data/06_models/awkward/model")
    files = sorted((finished / "data/07_model_output/awkward").glob("*/**/*.parquet"))
    assert len(files) >= 9
    runs = set()
    for file in files:
        made = tables.made_from(pq.read_schema(file))
        assert (made["tissue_sha256"], made["model_sha256"]) == (tissue, model)
        assert made["parameters"]["cells_per_shard"] == 250
        assert made["keys"]["labels_key"] == "kind"
        assert made["versions"] == package_versions()
        runs.add(tables.run_of(pq.read_schema(file)))
    (run,) = runs
    found = results(finished)
    assert len(found) >= 16
    for name, said in found.items():
        assert said["tissue_sha256"] == tissue
        assert said["study"] == "awkward"
        assert said["commit"] == git_commit(PROJECT)
        assert said["versions"] == package_versions()
        if name != "training_history":
            assert (said["run"], said["model_sha256"]) == (run, model)
            assert said["attention"]["keys"]["coord_key"] == "xy"
    assert found["hubs"]["parameters"]["hubs.attention_quantile_threshold"] == 0.9
    assert found["attention_by_pair"]["parameters"]["reporting.min_bin_count"] == 5
    assert found["training_history"]["parameters"]["training.max_epochs"] == 3
    annotated = anndata.read_h5ad(next(finished.glob("data/08_reporting/awkward/*.h5ad")), backed="r")
    assert json.loads(annotated.uns["hub_selection"])[PROVENANCE]["run"] == run


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def report(root: Path, awkward_keys: dict[str, Any], **params: Any) -> None:
    run_project(root, "reporting", **{**awkward_keys, **params})


@pytest.mark.slow
def test_hubs_of_other_attention_are_refused(copy: Path, awkward_keys: dict[str, Any]) -> None:
    given = {**awkward_keys, "extraction": {"cells_per_shard": 100}}
    run_project(copy, "extraction", **given)
    run_project(copy, "flavoring", **given)
    with pytest.raises(ResultError, match=r"hub_selection.* of different runs .*: their hash of the attention differ"):
        report(copy, awkward_keys)
    run_project(copy, "hubs", **given)
    report(copy, awkward_keys)


@pytest.mark.slow
def test_hub_tables_of_different_parameters_are_refused(copy: Path, awkward_keys: dict[str, Any]) -> None:
    """As when the stage was run with others, and was interrupted between two of its tables."""
    hubs = copy / "data/07_model_output/awkward/hubs.parquet"
    before = hubs.read_bytes()
    run_project(copy, "hubs", **awkward_keys, hubs={"n_clusters": 3})
    hubs.write_bytes(before)
    with pytest.raises(ResultError, match=r"hubs.* their parameters of the hubs differ .*hubs\.n_clusters=3"):
        report(copy, awkward_keys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "07_model_output/awkward/hub_selection.json",
            "[]",
            "hub_selection.json' must be an object. Got a list instead",
        ),
        (
            "07_model_output/awkward/hub_niches.json",
            "{}",
            "hub_niches.json' must have the keys 'adjusted_rand', .* lacks",
        ),
    ],
)
def test_files_that_hold_something_else_are_named(
    copy: Path, awkward_keys: dict[str, Any], file: str, content: str, words: str
) -> None:
    (copy / "data" / file).write_text(content)
    with pytest.raises(DatasetError, match=words):
        report(copy, awkward_keys)


def label_changed(adata: anndata.AnnData) -> None:
    adata.obs["kind"] = adata.obs["kind"].to_numpy()[::-1]


def cells_dropped(adata: anndata.AnnData) -> None:
    adata._inplace_subset_obs(np.arange(200))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (label_changed, "the cell types of .* of 240 cells differ"),
        (cells_dropped, "they hold 240 cells, the tissue 200"),
    ],
)
@pytest.mark.slow
def test_results_beside_a_tissue_that_they_are_not_of_are_refused(
    copy: Path, awkward_keys: dict[str, Any], change: Callable[[anndata.AnnData], None], words: str
) -> None:
    adata = anndata.read_h5ad(awkward_keys["tissue"])
    change(adata)
    adata.write_h5ad(copy / "other.h5ad")
    with pytest.raises(ResultError, match=f"the results are of another tissue.*{words}"):
        report(copy, awkward_keys, tissue=str(copy / "other.h5ad"))


@pytest.mark.slow
def test_a_tissue_that_has_got_more_is_told_of(
    copy: Path, awkward_keys: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    adata = anndata.read_h5ad(awkward_keys["tissue"])
    adata.obs["leiden"] = "0"
    adata.write_h5ad(copy / "more.h5ad")
    with caplog.at_level(logging.WARNING):
        report(copy, awkward_keys, tissue=str(copy / "more.h5ad"))
    assert sum("the file of the tissue has changed since its attention" in line for line in caplog.messages) == 1


def made(run: str = "a", **parameters: Any) -> dict[str, Any]:
    return {"run": run, "parameters": parameters}


def test_what_goes_together() -> None:
    check_together({})
    check_together({"a": made(), "b": made(**{"reporting.bin_size": 1}), "c": made(**{"hubs.n_clusters": 3})})
    with pytest.raises(ResultError, match=r"a, b are of different runs .* hash of the attention differ \(x; y\)"):
        check_together({"a": made("x"), "b": made("y")})
    with pytest.raises(ResultError, match=r"\(demo\.hubs\.n_clusters=3; demo\.hubs\.n_clusters=4\)"):
        check_together({"a": made(**{"demo.hubs.n_clusters": 3}), "b": made(**{"demo.hubs.n_clusters": 4})})


READING = {
    "labels_key": "kind",
    "coord_key": "spatial",
    "section_key": None,
    "n_neighbors": 30,
    "log_normalised": False,
}


@pytest.mark.parametrize(
    "reading",
    [
        {},
        {"labels_key": None, "n_neighbors": None},
        {"labels_key": "kind", "n_neighbors": 30, "pad_neighbors": True},
        {"section_key": "none", "log_normalised": False},
    ],
)
def test_keys_of_the_attention_may_be_said_again(reading: dict[str, Any]) -> None:
    check_reading(READING, reading, "cells")
    check_reading({**READING, "log_normalised": True}, reading, "model_input")  # false: as the model has it


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        ({"labels_key": "other"}, "labels_key=other, but .* was extracted with labels_key=kind. Leave labels_key out"),
        ({"section_key": "slide"}, "section_key=slide, but .* was extracted with section_key=none."),
        (
            {"n_neighbors": 5},
            "n_neighbors=5, but the attention of this study was extracted with n_neighbors=30. Leave n_neighbors out "
            "to go on with what is there, or make it again with kedro run --pipelines=attention "
            "--params=n_neighbors=5, or take another study.",
        ),
        ({"log_normalised": True}, "log_normalised=true, but .* with log_normalised=false.*params=log_normalised=true"),
    ],
)
def test_other_keys_than_those_of_the_attention_are_refused(reading: dict[str, Any], words: str) -> None:
    """The stages after the extraction would take no notice of them."""
    with pytest.raises(ResultError, match=words):
        check_reading(READING, reading, "cells")


MADE = {"hubs.n_clusters": 3, "hubs.condition_key": None, "flavoring.flavors": ["vanilla", "gene-weighted"]}


@pytest.mark.parametrize(
    "asked", [{}, {"hubs.n_clusters": 3, "reporting.bin_size": 1}, {"flavoring.flavors": ("gene-weighted", "vanilla")}]
)
def test_parameters_of_results_may_be_said_again(asked: dict[str, Any]) -> None:
    check_asked(MADE, asked)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"hubs.n_clusters": 4},
            "hubs.n_clusters=4, but the hubs of this study were found with hubs.n_clusters=3. Leave .* or make it "
            "again with kedro run --pipelines=hubs --params=hubs.n_clusters=4, or",
        ),
        ({"hubs.condition_key": "mouse"}, "hubs.condition_key=mouse, but .* with hubs.condition_key=null"),
        (
            {"flavoring.flavors": ("vanilla",)},
            r"flavoring.flavors=vanilla, but the flavored attention .* with flavoring.flavors=vanilla\+gene-weighted",
        ),
    ],
)
def test_other_parameters_than_those_of_the_results_are_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ResultError, match=words):
        check_asked(MADE, asked)


def test_attention_of_another_model_is_refused(golden: Path, tmp_path: Path) -> None:
    model = load_model(golden / "checkpoint")
    save_model(model, tmp_path / "model")
    attention = {"model_sha256": digest(tmp_path / "model"), "versions": package_versions()}
    check_model(attention, model)
    check_model(attention, load_model(tmp_path / "model"))
    check_model({"model_sha256": None}, model)
    other = replace(model, n_neighbors=model.n_neighbors + 1)
    check_model({**attention, "versions": {"tissue-crosstalk": "another"}}, other)  # which may save it otherwise
    with pytest.raises(ResultError, match="extracted by another model .* --pipelines=attention"):
        check_model(attention, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"labels_key": "slide"}, "labels_key=slide, but the attention of this study"),
        ({"labels_key": "knid"}, "labels_key=knid, but the attention of this study"),
        ({"model": str(PROJECT / "tests/golden/checkpoint")}, "extracted by another model"),
    ],
)
def test_a_report_with_other_keys_or_another_model_is_refused(
    copy: Path, awkward_keys: dict[str, Any], given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ResultError, match=words):
        report(copy, {**awkward_keys, **given})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pipeline", "given", "words"),
    [
        ("extraction", {"n_neighbors": 5}, "n_neighbors=5, but the model input .* was prepared with n_neighbors=8"),
        ("flavoring", {"n_neighbors": 5}, "n_neighbors=5, but the attention .* was extracted with n_neighbors=8"),
        ("hubs", {"n_neighbors": 5}, "n_neighbors=5, but .*n_neighbors=8.*--pipelines=attention"),
        ("hubs", {"log_normalised": True}, "log_normalised=true, but the model input .*=false"),
        ("hubs", {"flavoring": {"flavors": "vanilla"}}, "flavoring.flavors=vanilla, but .*--pipelines=flavoring"),
        ("hubs", {"extraction": {"cells_per_shard": 7}}, "extraction.cells_per_shard=7, but .*cells_per_shard=250"),
        ("variance", {"n_neighbors": 5}, "n_neighbors=5, but the model input"),
        ("reporting", {"hubs": {"attention_quantile_threshold": 0.8}}, "threshold=0.8, but the hubs .*=0.9"),
        ("interpretation", {"hubs": {"random_state": 1}}, "hubs.random_state=1, but the hubs .*=42"),
    ],
)
def test_parameters_of_what_is_there_are_refused_before_the_first_node(
    copy: Path, awkward_keys: dict[str, Any], pipeline: str, given: dict[str, Any], words: str
) -> None:
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in copy.glob("data/0*/**/*") if path.is_file()}

    before = state()
    with pytest.raises(ResultError, match=words):
        run_project(copy, pipeline, **{**awkward_keys, **given})
    assert state() == before


@pytest.mark.slow
def test_the_demo_as_well(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "copy")
    with pytest.raises(ResultError, match="n_neighbors=5, but .* with n_neighbors=12.*--pipelines=demo --params"):
        run_project(tmp_path / "copy", "demo_interpretation", n_neighbors=5)
    with pytest.raises(ResultError, match="hubs.n_clusters=5, but the hubs .*--pipelines=demo --params=hubs"):
        run_project(tmp_path / "copy", "demo_interpretation", n_neighbors=12, hubs={"n_clusters": 5})


@pytest.mark.slow
def test_parameters_of_what_is_there_may_be_said_again(copy: Path, awkward_keys: dict[str, Any]) -> None:
    given = {
        **awkward_keys,
        **GIVEN,
        "flavoring": {"flavors": "gene-weighted+info-weighted+value-weighted+vanilla"},
        "reporting": {"bin_size": 7},
    }
    given["extraction"] = {**GIVEN["extraction"], "device": "cpu"}
    run_project(copy, "hubs", **given, hubs={"n_clusters": 3})
    run_project(copy, "reporting", **given, hubs={"n_clusters": 3})
    report(copy, awkward_keys)  # nothing is asked for


@pytest.mark.slow
def test_a_model_that_was_trained_again_is_refused_before_hours_are_spent(
    copy: Path, awkward_keys: dict[str, Any]
) -> None:
    results = copy / "data/07_model_output/awkward"
    before = sorted(results.iterdir())
    run_project(copy, "training", **awkward_keys, training={"max_epochs": 1})
    with pytest.raises(ResultError, match="extracted by another model"):
        run_project(copy, "interpretation", **awkward_keys)
    assert sorted(results.iterdir()) == before


@pytest.mark.parametrize("value", [None, 1, {}, {PROVENANCE: "x"}, pd.DataFrame(), pd.DataFrame().assign(a=[1])])
def test_what_says_nothing_belongs_to_anything(value: Any) -> None:
    assert said_of(value) == {"run": None, "tissue_sha256": None, "model_sha256": None}
