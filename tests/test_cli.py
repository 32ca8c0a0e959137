"""``kedro sweep``: runs nested under one, the choice among them, and mistakes refused before any of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from kedro.framework.cli.cli import KedroCLI
from kedro.framework.startup import bootstrap_project

from sessions import PROJECT
from tissue_crosstalk import cli
from tissue_crosstalk.sweep import Outcome, Setting

LEARNS_OR_DIVERGES = ("--grid", "training.learning_rate=1e-3,1e30")


def sweep(root: Path, *options: str, **params: Any) -> Result:
    bootstrap_project(PROJECT)
    given = ",".join(f"{name}={value}" for name, value in {"root": root, **params}.items())
    return CliRunner().invoke(cli.cli, ["sweep", "--env=test", f"--params={given}", *options])


def table(root: Path, study: str) -> pd.DataFrame:
    return pd.read_csv(root / "data/08_reporting" / study / "sweep.csv")


def store(root: Path, study: str) -> tuple[Any, Any, list[Any]]:
    """Return a client, the run of a sweep, and the runs under it in the order of their start."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("tissue-crosstalk").experiment_id
    [parent] = client.search_runs([experiment], f"tags.sweep.study = '{study}'")
    children = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    return client, parent, list(client.search_runs([experiment], children, order_by=["attribute.start_time ASC"]))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sweeps of these tests, each with a study of its own: a new MLflow store takes seconds."""
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def swept(root: Path, awkward_keys: dict[str, Any]) -> Result:
    """A sweep of two settings, of which one diverges."""
    return sweep(root, *LEARNS_OR_DIVERGES, **awkward_keys)


@pytest.mark.slow
def test_runs_are_nested_under_one(root: Path, swept: Result) -> None:
    import mlflow

    _, parent, children = store(root, "awkward")
    assert parent.info.run_name == "sweep awkward"
    assert parent.info.status == "FINISHED"
    assert [child.info.status for child in children] == ["FINISHED", "FAILED"]
    assert [child.info.run_name for child in children] == ["awkward-sweep-1", "awkward-sweep-2"]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert [child.data.params["training.learning_rate"] for child in children] == ["0.001", "1e+30"]
    assert mlflow.active_run() is None


@pytest.mark.slow
def test_the_parent_has_the_choice_and_the_table(root: Path, swept: Result) -> None:
    client, parent, [best, _] = store(root, "awkward")
    history = [
        metric.value for metric in client.get_metric_history(best.info.run_id, "training.validation_reconstruction")
    ]
    assert parent.data.metrics["sweep.best validation reconstruction"] == min(history)
    assert best.data.metrics["sweep.best validation reconstruction"] == min(history)
    assert (parent.data.metrics["sweep.settings"], parent.data.metrics["sweep.failed"]) == (2, 1)
    assert parent.data.params == {
        "sweep.training.learning_rate": "0.001, 1e+30",
        "best.training.learning_rate": "0.001",
    }
    assert parent.data.tags["best.run_id"] == best.info.run_id
    assert parent.data.tags["best.study"] == "awkward-sweep-1"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"sweep.csv", "sweep.json"}


@pytest.mark.slow
def test_table_file(root: Path, swept: Result) -> None:
    frame = table(root, "awkward")
    _, _, children = store(root, "awkward")
    assert frame["chosen"].tolist() == [True, False]
    assert frame["training.learning_rate"].tolist() == [1e-3, 1e30]
    assert frame["epochs"].tolist() == [3, 0]
    assert frame["run_id"].tolist() == [child.info.run_id for child in children]
    assert frame["reason"][1].startswith("TrainingError: ")


@pytest.mark.slow
def test_each_setting_has_a_study_of_its_own(root: Path, swept: Result) -> None:
    data = root / "data"
    assert (data / "06_models/awkward-sweep-1/model").is_dir()
    assert not (data / "06_models/awkward-sweep-2/model").exists()
    assert not (data / "06_models/awkward").exists()


@pytest.mark.slow
def test_the_terminal_says_what_is_run_what_came_of_it_and_how_to_go_on(root: Path, swept: Result) -> None:
    assert swept.exit_code == 0
    lines = swept.output.splitlines()
    assert "Sweep of study 'awkward': 2 runs of --pipelines=training, one for" in lines
    assert any(line.startswith("*") and "awkward-sweep-1" in line for line in lines)
    assert any(line.startswith("awkward-sweep-2 failed: TrainingError") for line in lines)
    assert "Chosen by validation loss: awkward-sweep-1 (training.learning_rate=0.001)" in lines
    command = lines[-1]
    assert command.startswith(f"Go on with: kedro run --env=test --pipelines=attention --params=root={root},tissue=")
    assert "study=awkward-sweep-1" in command
    assert "learning_rate" not in command
    assert "non-sequential runners" not in swept.output  # Kedro-Viz's notice of what is not so


def fake(outcomes: list[dict[int, float] | BaseException]) -> Any:
    """Return what takes the place of a run: outcomes in order."""
    coming = iter(outcomes)

    def run(planned: Any, setting: Setting, parent: str) -> Outcome:
        came = next(coming)
        if isinstance(came, KeyboardInterrupt):
            import mlflow

            mlflow.start_run(experiment_id=planned.experiment_id, tags={"mlflow.parentRunId": parent})
            raise came
        return Outcome(setting, 1.0, None, *((came, "") if isinstance(came, dict) else ({}, str(came))))

    return run


@pytest.mark.slow
def test_an_interrupted_sweep_is_killed_and_keeps_what_it_has(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setattr(cli, "_run", fake([{0: 2.0}, KeyboardInterrupt()]))
    result = sweep(root, "--grid", "n_neighbors=10,20,30", study="interrupted")
    assert result.exit_code == cli.INTERRUPTED
    assert "Interrupted after 1 of 3 settings." in result.output
    assert len(table(root, "interrupted")) == 1
    _, parent, [child] = store(root, "interrupted")
    assert (parent.info.status, child.info.status) == ("KILLED", "KILLED")
    assert mlflow.active_run() is None


@pytest.mark.slow
def test_a_sweep_without_a_model_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_run", fake([ValueError("first"), ValueError("second")]))
    result = sweep(root, "--grid", "n_neighbors=10,20", study="modelless")
    assert result.exit_code == 1
    assert "Error: none of the 2 settings trained a model. The first failed with first" in result.output
    assert table(root, "modelless")["status"].tolist() == ["FAILED", "FAILED"]
    assert store(root, "modelless")[1].info.status == "FAILED"


@pytest.mark.parametrize(
    ("pipeline", "params", "study", "n_settings"),
    [
        ("training", {"study": "mine"}, "mine", 8),
        ("training", {"n_neighbors": 20}, "tissue", 4),
        ("demo", {}, "demo", 8),
        ("demo", {"study": "mine"}, "demo-mine", 8),
    ],
)
def test_the_grid_of_the_configuration_but_for_what_is_given(
    root: Path, monkeypatch: pytest.MonkeyPatch, pipeline: str, params: dict[str, Any], study: str, n_settings: int
) -> None:
    monkeypatch.setattr(cli, "_run", fake([{0: 2.0}] * n_settings))
    result = sweep(root, f"--pipelines={pipeline}", **params)
    assert result.exit_code == 0
    frame = table(root, study)
    assert frame["study"].tolist() == [f"{study}-sweep-{number}" for number in range(1, n_settings + 1)]
    assert f"{'demo.' if pipeline == 'demo' else ''}training.network.n_heads" in frame


@pytest.mark.parametrize(
    ("options", "params", "message"),
    [
        (["--grid", "training.network.n_head=2,4"], {}, "Did you mean 'training.network.n_heads'?"),
        (["--grid", "training.network.n_heads=0"], {}, "'n_heads' must be a whole number from 1"),
        (["--grid", "n_neighbors=5,10"], {"n_neighbors": 5}, "'n_neighbors' is in --grid and in --params"),
        (["--grid", "n_neighbors=5", "--pipelines=hubs"], {}, "--pipelines=hubs trains none"),
        (["--grid", "n_neighbors=5", "--pipelines=trainng"], {}, "Did you mean 'training'?"),
        ([], {"studdy": "x"}, "Did you mean 'study'?"),
        ([], {"model": "some/model"}, "a sweep trains its own"),
        ([], {"training.batch_size": "x"}, "training.batch_size=x: must be a valid integer"),
        ([], {"sweep.grid": 3}, "parameters_sweep.yml must have lists of values by name under grid. sweep.grid"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], params: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(cli, "_run_all", lambda planned: pytest.fail("the sweep was started"))
    result = sweep(root, *options, **params)
    assert result.exit_code == 1
    error = result.output.splitlines()[-1]
    assert error.startswith("Error: ")
    assert message in error


def test_kedro_finds_the_command_beside_its_own() -> None:
    kedro = KedroCLI(PROJECT)
    commands = kedro.list_commands(click.Context(kedro))
    assert {"sweep", "run", "catalog", "mlflow"} <= set(commands)
    assert kedro.get_command(click.Context(kedro), "run").callback.__module__ == "kedro.framework.cli.project"
