"""The main job as a user runs it: a tissue in, an MLflow run and a study's files out."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from sessions import LABELS, PROJECT, run_project
from tissue_crosstalk import AttentionModule, load_model
from tissue_crosstalk.core.plots.hub_style import ISOLATED_COLOR, hub_colors

REPORTING = {
    "min_bin_count": 10,
    "palette": {label: f"#{number:02x}4080" for number, label in enumerate(LABELS)},
}
TWO_FLAVORS = {"flavors": ["vanilla", "gene-weighted"]}
HUBS = {"condition_key": "mouse", "thresholds_per": "section"}
FAST: dict[str, Any] = {"flavoring": {"flavors": ["vanilla"]}, "reporting": {"receivers": ["T"]}}


def mlflow_runs(root: Path) -> pd.DataFrame:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
    return mlflow.search_runs(experiment_names=["tissue-crosstalk"], order_by=["attribute.start_time ASC"])


def outputs(root: Path, study: str) -> Path:
    return root / "data" / "07_model_output" / study


def patterns(root: Path, study: str) -> pd.DataFrame:
    table = pd.read_parquet(outputs(root, study) / "attention_patterns")
    return table.astype({"cell_idx": str}).set_index(["head_idx", "cell_idx"]).sort_index()


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, awkward_keys: dict[str, Any]) -> Path:
    """A finished default run on a tissue with awkward labels and two sections."""
    root = tmp_path_factory.mktemp("study")
    run_project(root, **awkward_keys, hubs=HUBS, reporting=REPORTING, flavoring=TWO_FLAVORS)
    return root


@pytest.fixture(scope="module")
def every_figure(tmp_path_factory: pytest.TempPathFactory, awkward_keys: dict[str, Any]) -> Path:
    """The same with all flavors, and SVGs."""
    root = tmp_path_factory.mktemp("every_figure")
    run_project(root, **awkward_keys, hubs=HUBS, reporting=REPORTING, save_svg=True)
    return root


def test_demo_finds_what_was_planted_files_under_its_name(demo: Path) -> None:
    truth = json.loads((demo / "data/01_raw/demo/simulated_truth.json").read_text())
    assert len(truth["interactions"]) == 2
    assert {path.name for path in outputs(demo, "demo").iterdir()} == {
        "attention_patterns", "nn_idxs", "nn_dists", "sender_norms", "cells",
        "flavored_attention", "hubs.parquet", "hub_selection.json", "hub_stability.parquet", "hub_enrichment.parquet",
        "hub_niches.json", "hub_shares.parquet", "hub_shares_by_section.parquet", "hub_conditions.parquet",
        "hub_markers.parquet", "hub_contrasts.parquet",
    }  # fmt: skip
    assert not (demo / "data/07_model_output/tissue").exists()
    recovery = pd.read_parquet(demo / "data/08_reporting/demo/recovery.parquet")
    assert list(zip(recovery["what"], recovery["name"], strict=True)) == [
        *[("sender edges", flavor) for flavor in ("vanilla", "value-weighted", "info-weighted", "gene-weighted")],
        ("affected receivers", "all cells"),
        ("affected receivers of one type", "type C"),
        ("affected receivers of one type", "type D"),
        ("shifted genes", "type A to type C"),
        ("shifted genes", "type B to type D"),
    ]
    assert recovery["n"].tolist()[4:] == [600, *recovery["n"][5:7], 40, 40]
    assert (recovery["n"][:4] == 600 * 12).all()
    assert recovery["base_rate"].between(0, 1, inclusive="neither").all()
    assert recovery["base_rate"].tolist()[-2:] == [6 / 40, 6 / 40]
    assert (recovery["average_precision"] > 0).all()
    figure = demo / "data/08_reporting/demo/precision_recall.png"
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_demo_is_tracked_with_parameters_metrics_and_artifacts(demo: Path) -> None:
    import mlflow

    runs = mlflow_runs(demo)
    assert runs["status"].tolist() == ["FINISHED"]
    [run] = runs.to_dict("records")
    assert run["params.demo.training.network.n_heads"] == "2"
    assert run["params.hubs.attention_quantile_threshold"] == "0.9"
    assert run["metrics.attention.cells"] == 600
    assert run["metrics.attention.heads"] == 2
    assert run["metrics.hubs.threshold.type A"] > 0
    client = mlflow.MlflowClient()
    losses = client.get_metric_history(run["run_id"], "training.train_loss")
    assert [metric.step for metric in losses] == [0, 1, 2]
    for name in ("silhouette", "stability over cells", "stability over seed"):
        steps = client.get_metric_history(run["run_id"], f"hubs.{name} by number of hubs")
        assert [metric.step for metric in steps][:3] == [2, 3, 4]
    niches = json.loads((outputs(demo, "demo") / "hub_niches.json").read_text())
    assert run["metrics.hubs.adjusted Rand index with niches"] == pytest.approx(niches["adjusted_rand"])
    assert run["metrics.hubs.adjusted Rand index with niches at random"] == pytest.approx(
        niches["adjusted_rand_at_random"]
    )
    assert 0 <= run["metrics.hubs.share of isolated cells"] < 1
    artifacts = {
        file.path
        for folder in (None, "attention", "hubs", "recovery", "training")
        for file in client.list_artifacts(run["run_id"], folder)
    }
    assert {"report.html", "training/training_curves.png", "hubs/hub_map.png", "hubs/hubs.parquet"} <= artifacts
    by_flavor = ("attention_summaries", "interaction_networks", "attention_matrices", "attention_maps")
    figures = ("profile_of_heads.png", "flavors_compared.png", "distances_of_neighbors.png")
    tables = ("attention_by_pair", "attention_by_head", "evenness_of_heads", "agreement_of_flavors")
    assert {f"attention/{name}" for name in (*by_flavor, *figures)} <= artifacts
    assert {f"attention/{name}.parquet" for name in tables} <= artifacts
    assert {"hubs/hub_enrichment.parquet", "hubs/number_of_hubs.png", "hubs/hub_enrichment_dots.png"} <= artifacts
    assert {"recovery/recovery.parquet", "recovery/precision_recall.png"} <= artifacts
    heads = pd.read_parquet(demo / "data/08_reporting/demo/evenness_of_heads.parquet")
    for column, measure in (("dummy_share", "share of the dummy slot"), ("evenness", "evenness")):
        of_heads = [(heads[column] * heads["cells"])[heads["head_idx"] == head].sum() / 600 for head in (0, 1)]
        found = [run[f"metrics.attention.{measure}{suffix}"] for suffix in (".head 0", ".head 1", "")]
        assert found == pytest.approx([*of_heads, sum(of_heads) / 2], rel=1e-9)
    recovery = pd.read_parquet(demo / "data/08_reporting/demo/recovery.parquet")
    measures = ("average_precision", "roc_auc", "base_rate", "lift")
    assert {name: value for name, value in run.items() if name.startswith("metrics.recovery.")} == {
        f"metrics.recovery.{row['what']}.{row['name']}.{measure.replace('_', ' ')}": row[measure]
        for row in recovery.to_dict("records")
        for measure in measures
    }


@pytest.mark.slow
def test_recovery_of_a_study_whose_truth_is_at_hand(demo: Path, tmp_path: Path) -> None:
    """The truth of the demo as that of a user's study, whose model is named: the same measures."""
    for folder in ("01_raw", "05_model_input", "07_model_output"):
        shutil.copytree(demo / "data" / folder / "demo", tmp_path / "data" / folder / "known")
    (tmp_path / "data/08_reporting/known").mkdir(parents=True)
    shutil.copy(demo / "data/08_reporting/demo/cell_type_colors.json", tmp_path / "data/08_reporting/known")
    run_project(tmp_path, "recovery", study="known", model=str(demo / "data/06_models/demo/model"))
    written = tmp_path / "data/08_reporting/known"
    assert {file.name for file in written.iterdir()} == {
        "cell_type_colors.json", "recovery.parquet", "precision_recall_curves.parquet", "precision_recall.png",
    }  # fmt: skip
    for name in ("recovery.parquet", "precision_recall_curves.parquet"):
        tables = [pd.read_parquet(folder / name) for folder in (written, demo / "data/08_reporting/demo")]
        pd.testing.assert_frame_equal(*tables)
    assert "metrics.recovery.sender edges.vanilla.lift" in mlflow_runs(tmp_path)
    (tmp_path / "data/01_raw/known/simulated_truth.json").write_text('{"interactions": [{"sender": "type A"}]}')
    with pytest.raises(Exception, match="simulated_truth: interaction 0 must have sender and receiver"):
        run_project(tmp_path, "recovery", study="known", model=str(demo / "data/06_models/demo/model"))


def test_tables_have_the_documented_columns_and_no_objects(demo: Path) -> None:
    table = pd.read_parquet(outputs(demo, "demo") / "attention_patterns")
    assert list(table.columns) == [*[f"neighbor_{i}" for i in range(12)], "head_idx", "label", "cell_idx"]
    assert len(table) == 2 * 600
    for name in ("attention_patterns", "nn_idxs", "nn_dists", "sender_norms", "cells", "flavored_attention"):
        dtypes = pd.read_parquet(outputs(demo, "demo") / name).dtypes
        assert object not in set(dtypes), name
    schema = pq.read_schema(next((outputs(demo, "demo") / "nn_dists").glob("*.parquet")))
    assert str(schema.field("neighbor_0").type) == "float"


def test_study_has_figures_for_labels_that_are_no_file_names(study: Path) -> None:
    folder = study / "data/08_reporting/awkward/attention_summaries"
    names = {file.name for file in folder.iterdir()}
    assert len(names) == len(LABELS) * 2  # types, flavors
    assert all(name.endswith(".png") and "/" not in name for name in names)
    assert {"vanilla_L2_3_IT.png", "gene-weighted_L2_3_IT.png"} <= names


@pytest.mark.slow
def test_every_figure_is_there_in_both_formats_with_one_colour_per_type(every_figure: Path) -> None:
    folder = every_figure / "data/08_reporting/awkward"
    assert len(list((folder / "attention_summaries").iterdir())) == len(LABELS) * 4 * 2  # types, flavors, formats
    flavors = ("vanilla", "value-weighted", "info-weighted", "gene-weighted")
    for name in ("attention_matrices", "interaction_networks", "attention_maps"):
        assert {file.name for file in (folder / name).iterdir()} == {
            f"{flavor}{suffix}" for flavor in flavors for suffix in (".png", ".svg")
        }
    single = {
        "training_curves", "profile_of_heads", "flavors_compared", "distances_of_neighbors", "hub_composition",
        "hub_map", "hub_sizes", "number_of_hubs", "hub_enrichment_dots", "hub_enrichment_at_hand",
        "hub_marker_genes", "hub_condition_shares",
    }  # fmt: skip
    for suffix in ("png", "svg"):
        assert {file.stem for file in folder.glob(f"*.{suffix}")} == single
    colors = json.loads((folder / "cell_type_colors.json").read_text())
    assert colors == REPORTING["palette"]
    for name in (
        "hub_sizes",
        "profile_of_heads",
        "distances_of_neighbors",
        "attention_matrices/vanilla",
        "interaction_networks/gene-weighted",
        "attention_summaries/vanilla_T",
    ):
        drawn = (folder / f"{name}.svg").read_text()
        wanted = {label: color for label, color in colors.items() if label != "T" or "summaries" not in name}
        assert {label for label, color in wanted.items() if color in drawn} == wanted.keys(), name


def test_study_has_a_report(study: Path, demo: Path) -> None:
    chapters = ["Summary", "Parameters", "Data", "Model", "Attention", "Communication hubs"]
    for root, name, also in ((study, "awkward", []), (demo, "demo", ["What was found of the truth"])):
        page = (root / "data/08_reporting" / name / "report.html").read_text(encoding="utf-8")
        assert re.findall(r"<h2 [^>]*>(.*?)</h2>", page) == [*chapters, *also, "Warnings", "Versions"]
        assert f"<title>Who talks to whom: {name}</title>" in page
        assert 'alt="Losses of training and validation by epoch."' in page
    page = (study / "data/08_reporting/awkward/report.html").read_text(encoding="utf-8")
    assert "240 cells of 4 types in 2 sections" in page
    assert "../up" in page
    assert 'alt="Shares of hubs in the sections of each condition."' in page


def test_study_annotates_the_tissue(study: Path, awkward_tissue: Path) -> None:
    import scanpy as sc

    annotated = sc.read_h5ad(study / "data/08_reporting/awkward/annotated_tissue.h5ad")
    original = anndata.read_h5ad(awkward_tissue)
    assert (annotated.obs_names == original.obs_names).all()
    assert (annotated.X != original.X).nnz == 0
    hubs = pd.read_parquet(outputs(study, "awkward") / "hubs.parquet")
    assert (hubs.index == original.obs_names).all()
    cluster = annotated.obs["hub_cluster"]
    assert (cluster.astype(str).replace("isolated", "-1").astype(int) == hubs["hub_cluster"]).all()
    n_hubs = hubs["hub_cluster"].max() + 1
    assert cluster.cat.categories.tolist() == [*map(str, range(n_hubs)), "isolated"]
    assert annotated.uns["hub_cluster_colors"].tolist() == [*hub_colors(n_hubs), ISOLATED_COLOR]
    selection = json.loads((outputs(study, "awkward") / "hub_selection.json").read_text())
    assert json.loads(annotated.uns["hub_selection"]) == selection
    assert selection["parameters"]["attention_quantile_threshold"] == 0.9
    types = list(annotated.uns["hub_composition_types"])
    np.testing.assert_array_equal(annotated.obsm["hub_composition"], hubs[types].to_numpy())
    attention = annotated.obsp["attention"]
    strongest = patterns(study, "awkward").filter(like="neighbor_").groupby("cell_idx").max()
    cell = original.obs_names[3]
    np.testing.assert_allclose(np.sort(attention[3].data), np.sort(strongest.loc[cell]), rtol=1e-6)
    logged = sc.pp.log1p(annotated, copy=True)
    sc.tl.rank_genes_groups(logged, "kind", groups=["T"], method="t-test")  # scanpy works with it
    assert len(sc.get.rank_genes_groups_df(logged, "T")) == annotated.n_vars


def test_no_neighbor_is_of_another_section_or_of_the_same_type(study: Path) -> None:
    cells = pd.read_parquet(outputs(study, "awkward") / "cells").set_index("position").sort_index()
    table = pd.read_parquet(outputs(study, "awkward") / "nn_idxs").set_index("cell_idx")
    receivers = cells.reset_index().set_index("cell_idx").loc[table.index]
    for column in table.columns:
        senders = cells.loc[table[column]]
        assert (senders["section"].astype(str).to_numpy() == receivers["section"].astype(str).to_numpy()).all()
        assert (senders["label"].astype(str).to_numpy() != receivers["label"].astype(str).to_numpy()).all()


@pytest.mark.slow
def test_attention_from_the_saved_model_equals_that_of_the_run_that_trained_it(
    study: Path, awkward_keys: dict[str, Any]
) -> None:
    model = study / "data/06_models/awkward/model"
    given = {**awkward_keys, "study": "again", "labels_key": "kind"}
    for key in ("coord_key", "section_key", "n_neighbors"):  # the model knows them
        given.pop(key)
    run_project(study, "attention", model=str(model), **given, **FAST)
    pd.testing.assert_frame_equal(patterns(study, "again"), patterns(study, "awkward"))


@pytest.mark.slow
@pytest.mark.parametrize("cells_per_shard", [100, 14])
def test_shards_change_nothing(study: Path, awkward_keys: dict[str, Any], cells_per_shard: int) -> None:
    given = {**awkward_keys, "study": f"shards{cells_per_shard}", "model": str(study / "data/06_models/awkward/model")}
    run_project(study, "attention", **given, **FAST, hubs=HUBS, extraction={"cells_per_shard": cells_per_shard})
    n_files = len(list((outputs(study, given["study"]) / "attention_patterns").iterdir()))
    assert n_files == -(-240 // cells_per_shard)
    pd.testing.assert_frame_equal(
        patterns(study, given["study"]), patterns(study, "awkward"), rtol=1e-6, atol=0, check_categorical=False
    )
    hubs = [pd.read_parquet(outputs(study, name) / "hubs.parquet") for name in (given["study"], "awkward")]
    pd.testing.assert_frame_equal(*hubs, rtol=1e-6)


@pytest.mark.slow
def test_the_same_run_twice_is_equal_to_the_bit(
    every_figure: Path, tmp_path: Path, awkward_keys: dict[str, Any]
) -> None:
    run_project(tmp_path, **awkward_keys, hubs=HUBS, reporting=REPORTING, save_svg=True)
    for folder in ("06_models", "07_model_output", "08_reporting"):
        first, second = (digests(root / "data" / folder / "awkward") for root in (every_figure, tmp_path))
        differing = {name for name in first if first[name] != second.get(name)}
        assert first.keys() == second.keys()
        assert not differing


@pytest.fixture(scope="module")
def golden_reports(study: Path, golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the reports of a run with an amici-st checkpoint, outside of the folder of the other outputs."""
    reports = tmp_path_factory.mktemp("reports")
    run_project(
        study,
        "attention",
        model=str(golden / "checkpoint"),
        tissue=str(golden / "tissue.h5ad"),
        study="golden",
        reports=str(reports),
        extraction={"cells_per_shard": 200},
        hubs={"counting": "in_degree"},
        reporting={"max_distance": 60, "min_bin_count": 20, "receivers": ["T0"]},
    )
    return reports


@pytest.mark.slow
def test_reports_go_where_they_are_wanted(study: Path, golden_reports: Path) -> None:
    assert [entry.name for entry in golden_reports.iterdir()] == ["golden"]
    written = {entry.name for entry in (golden_reports / "golden").iterdir()}
    assert {"report.html", "hub_map.png", "attention_summaries", "attention_by_cell.parquet"} <= written
    assert not any(file.suffix == ".svg" for file in golden_reports.rglob("*"))  # these were not asked for
    assert not (study / "data/08_reporting/golden").exists()
    assert (outputs(study, "golden") / "hubs.parquet").is_file()


@pytest.mark.slow
def test_files_in_the_project_are_tracked_by_their_place_in_it(study: Path, golden_reports: Path) -> None:
    runs = mlflow_runs(study)
    [run] = runs[runs["tags.study"] == "golden"].to_dict("records")
    assert (run["tags.tissue"], run["tags.model"]) == ("tests/golden/tissue.h5ad", "tests/golden/checkpoint")


@pytest.mark.slow
def test_amici_checkpoint_through_the_pipelines_answers_as_the_published_package(
    study: Path, golden: Path, golden_reports: Path
) -> None:
    expected = np.load(golden / "expected.npz")
    cells = [f"cell_{number}" for number in range(600)]
    for flavor in ("vanilla", "value-weighted", "info-weighted", "gene-weighted"):
        table = pd.read_parquet(outputs(study, "golden") / "flavored_attention" / f"flavor={flavor}")
        table = table.astype({"cell_idx": str}).set_index(["head_idx", "cell_idx"]).filter(like="neighbor_")
        found = np.stack([table.loc[head].loc[cells].to_numpy() for head in range(3)])
        np.testing.assert_allclose(found, expected[flavor.replace("-", "_")], rtol=1e-5)
    hubs = pd.read_parquet(outputs(study, "golden") / "hubs.parquet")
    np.testing.assert_allclose(
        hubs[list(expected["hub_types"])], expected["hub_in_degree_composition"], rtol=1e-5, atol=0
    )
    binned = pd.read_parquet(golden_reports / "golden/attention_by_distance.parquet")
    binned = binned[binned["flavor"] == "vanilla"].astype({"receiver": str, "sender": str})
    published = pd.read_csv(golden / "binned_attention_60_5_20.csv")
    merged = published.merge(
        binned,
        left_on=["cluster_i", "head", "cluster_j", "distance_bin"],
        right_on=["receiver", "head_idx", "sender", "distance_bin"],
        how="outer",
        suffixes=("", "_ours"),
        validate="one_to_one",
    )
    assert len(merged) == len(published) == len(binned)
    for column in ("mean", "sd", "count"):
        np.testing.assert_allclose(merged[f"{column}_ours"], merged[column], rtol=1e-5)


def test_pipeline_outputs_open_in_a_notebook(study: Path) -> None:
    module = AttentionModule.load(outputs(study, "awkward"))
    model = load_model(study / "data/06_models/awkward/model")
    assert model.keys.labels_key == "kind"
    stored = patterns(study, "awkward")
    again = module.attention_patterns.astype({"cell_idx": str}).set_index(["head_idx", "cell_idx"]).sort_index()
    pd.testing.assert_frame_equal(again, stored, check_categorical=False)
    hubs = pd.read_parquet(outputs(study, "awkward") / "hubs.parquet")
    pd.testing.assert_frame_equal(module.compute_communication_hubs(thresholds_per="section"), hubs)


@pytest.mark.slow
def test_failed_run_is_failed_and_the_next_session_makes_its_own(
    tmp_path: Path, awkward_keys: dict[str, Any], study: Path
) -> None:
    import mlflow

    wrong = {**awkward_keys, "labels_key": "knid"}
    with pytest.raises(Exception, match=r"'knid'.*not in the tissue's obs. Did you mean 'kind'\?"):
        run_project(tmp_path, **wrong)
    assert mlflow.active_run() is None
    assert mlflow_runs(tmp_path)["status"].tolist() == ["FAILED"]
    shutil.copytree(study / "data/06_models", tmp_path / "data/06_models")
    run_project(tmp_path, "attention", **awkward_keys, **FAST)
    assert mlflow_runs(tmp_path)["status"].tolist() == ["FAILED", "FINISHED"]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which nothing is to be written but an empty MLflow store."""
    return tmp_path_factory.mktemp("untouched")


@pytest.mark.parametrize(
    ("pipeline", "params", "message"),
    [
        ("__default__", {"label_key": "x"}, r"unknown run-time parameter 'label_key'. Did you mean 'labels_key'\?"),
        ("__default__", {"model": "some/model"}, "this pipeline trains one. Use --pipelines=attention"),
        ("__default__", {"flavoring": {"flavors": "vanilla"}, "hubs": {"flavor": "gene-weighted"}}, "Add it there"),
        ("__default__", {"seed": "x"}, "seed must be a whole number"),
        ("__default__", {"hubs": {"flavor": "vanila"}}, "Did you mean 'vanilla'?"),
        ("__default__", {"training": {"epochs": 3}}, "epochs"),
        ("__default__", {"extraction": {"cells_per_shard": 0}}, "cells_per_shard"),
        ("__default__", {"study": "../elsewhere"}, "study must be a plain name"),
        ("demo", {"simulation": {"n_cell_types": 1}}, "n_cell_types must be at least"),
    ],
)
def test_wrong_parameters_are_refused_before_a_run_opens(
    untouched: Path, pipeline: str, params: dict[str, Any], message: str
) -> None:
    import mlflow

    with pytest.raises(Exception, match=message):
        run_project(untouched, pipeline, **params)
    assert mlflow.active_run() is None
    assert not (untouched / "data").exists()
    assert not (untouched / "mlflow.db").exists() or mlflow_runs(untouched).empty


def test_missing_tissue_is_named(study: Path) -> None:
    with pytest.raises(Exception, match=r"there is no file .*nowhere.h5ad.*--params=tissue=<path>"):
        run_project(study, tissue=str(study / "nowhere.h5ad"), study="nowhere")


@pytest.mark.slow
def test_a_study_can_have_an_environment_of_its_own(
    tmp_path: Path, awkward_keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    conf = tmp_path / "conf"
    shutil.copytree(PROJECT / "conf", conf)
    shutil.copytree(conf / "test", conf / "embryo")
    lines = [f"{key}: {json.dumps(value)}" for key, value in awkward_keys.items()]
    (conf / "embryo" / "globals.yml").write_text("\n".join([*lines, f"root: {json.dumps(str(tmp_path))}"]))
    bootstrap_project(PROJECT)
    with KedroSession.create(PROJECT, env="embryo", conf_source=str(conf), runtime_params=FAST) as session:
        session.run()
    assert (outputs(tmp_path, "awkward") / "hubs.parquet").is_file()
    assert mlflow_runs(tmp_path)["status"].tolist() == ["FINISHED"]


def test_hubs_are_compared_between_conditions_with_sections_as_the_unit(study: Path) -> None:
    shares = pd.read_parquet(outputs(study, "awkward") / "hub_shares_by_section.parquet")
    assert dict(zip(shares["section"].astype(str), shares["condition"], strict=True)) == {"one": "old", "two": "young"}
    hubs = pd.read_parquet(outputs(study, "awkward") / "hubs.parquet")
    first = shares[(shares["section"] == "one") & (shares["hub"] == 0)]
    assert first["share"].item() == (hubs["hub_cluster"].iloc[:130] == 0).mean()
    tests = pd.read_parquet(outputs(study, "awkward") / "hub_conditions.parquet")
    assert set(tests["condition"]) == {"old", "young"}
    assert (tests["p_value"] == 1).all()  # one section against one says nothing
    selection = json.loads((outputs(study, "awkward") / "hub_selection.json").read_text())
    assert list(selection["thresholds"]) == ["one", "two"]


@pytest.mark.slow
def test_stages_run_one_by_one(study: Path, awkward_tissue: Path) -> None:
    before = digests(outputs(study, "awkward"))
    given = {"study": "awkward", "tissue": str(awkward_tissue), "hubs": HUBS, "flavoring": TWO_FLAVORS}
    for stage in ("extraction", "flavoring", "hubs"):
        run_project(study, stage, **given)
    assert digests(outputs(study, "awkward")) == before


def test_hub_parameters_reach_the_core(study: Path) -> None:
    with pytest.raises(Exception, match="there are only .* distinct compositions"):
        run_project(study, "hubs", study="awkward", hubs={"n_clusters": 10_000})
