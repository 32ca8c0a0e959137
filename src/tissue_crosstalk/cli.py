"""Commands that the project adds to Kedro's own: ``kedro sweep``."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.cli.utils import _split_params, split_string

from tissue_crosstalk.core.errors import CrosstalkError, ParameterError, did_you_mean

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.pipeline import Pipeline
    from mlflow import MlflowClient

    from tissue_crosstalk.sweep import Grid, Outcome, Setting

logger = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as shells have it."""
WIDEST = 1000

# No function with a docstring makes this group: Kedro would add it to its own help text.
cli = click.Group(name="tissue-crosstalk")


@dataclass(frozen=True)
class _Sweep:
    """What is to be run, checked, and where it is tracked.

    Attributes
    ----------
    env, pipelines, params
        As given on the command line.
    study, folder, root
        The sweep's own study, the folder of its reports, and that of all results.
    settings
        What is tried, in the grid's order.
    is_demo, reports
        Whether the tissue is the demo's, and whether the pipelines go on to the report after training.
    client, experiment_id
        MLflow, as kedro-mlflow has set it up for these parameters.
    """

    env: str | None
    pipelines: Sequence[str]
    params: dict[str, Any]
    study: str
    folder: Path
    root: Path
    settings: Sequence[Setting]
    is_demo: bool
    reports: bool
    client: MlflowClient
    experiment_id: str


@cli.command()
@click.option("--env", "-e", default=None, help="Kedro configuration environment, as of kedro run.")
@click.option(
    "--pipelines",
    default="training",
    show_default=True,
    callback=split_string,
    help="Comma-separated names of pipelines that train a model.",
)
@click.option(
    "--grid",
    multiple=True,
    metavar="NAME=VALUE,VALUE",
    help="Values of a parameter, such as training.network.n_heads=2,4,8. Can be used multiple times. "
    "Without it, the grid of conf/base/parameters_sweep.yml but for what --params sets.",
)
@click.option(
    "--params",
    type=click.UNPROCESSED,
    default="",
    callback=_split_params,
    help="Run-time parameters of every run, as of kedro run: tissue=embryo.h5ad,study=embryo.",
)
def sweep(env: str | None, pipelines: list[str], grid: tuple[str, ...], params: dict[str, Any]) -> None:
    """Try every combination of some values of parameters, and choose by validation loss.

    Each combination is a run like that of `kedro run`, one after the other, with a study of its own (<study>-sweep-1,
    …) and an MLflow run under one parent run. All hold out the same cells, which depend on the seed and the tissue
    alone, so that their validation losses can be compared.

    The table is left in data/08_reporting/<study>/sweep.csv, and with the parent run.
    """
    from kedro.validation.exceptions import ParameterValidationError

    try:
        planned = _plan(env, pipelines, grid, params)
    except (CrosstalkError, ParameterValidationError) as error:
        raise click.ClickException(str(error)) from error
    settings = planned.settings
    click.echo(f"Sweep of study {planned.study!r}: {len(settings)} runs of --pipelines={','.join(pipelines)}, one for")
    for setting in settings:
        click.echo(f"  {setting.study}: {setting}")
    _run_all(planned)


def _plan(env: str | None, pipelines: Sequence[str], options: Sequence[str], params: dict[str, Any]) -> _Sweep:
    """Check everything that can be checked without a run."""
    import mlflow
    from kedro.framework.session import KedroSession

    from tissue_crosstalk.params import DEMO, demo_study, user_study
    from tissue_crosstalk.resolvers import PROJECT_PATH
    from tissue_crosstalk.sweep import check_grid, check_setting, expand

    session = KedroSession.create(PROJECT_PATH, env=env, runtime_params=params)
    with session:
        context = session.load_context()  # also has kedro-mlflow set up the store
    pipeline = _pipeline(pipelines)
    block = _training_block(pipeline, pipelines)
    is_demo = block.startswith(DEMO)
    grid = _grid(context, options, params, is_demo=is_demo)
    check_grid(grid, block)
    known = context.config_loader["globals"]
    model = params.get("model") or known.get("model")
    if model:
        raise ParameterError(f"model={model} names an existing model, but a sweep trains its own. Leave it out.")
    given = params.get("study")
    study = demo_study(given) if is_demo else user_study(known["study"] if given is None else given)
    settings = expand(grid, study)
    parameters = context.config_loader["parameters"]
    training = parameters[DEMO]["training"] if is_demo else parameters["training"]
    for setting in settings:
        check_setting(setting, block, training)
    store = context.mlflow.tracking  # type: ignore[attr-defined]  # set by kedro-mlflow
    experiment = mlflow.set_experiment(store.experiment.name)  # there by now, with its settings
    return _Sweep(
        env=env,
        pipelines=pipelines,
        params=params,
        study=study,
        folder=PROJECT_PATH
        / (params.get("root") or known["root"])
        / (params.get("reports") or known["reports"])
        / study,
        root=PROJECT_PATH / (params.get("root") or known["root"]),
        settings=settings,
        is_demo=is_demo,
        reports=any(node.namespace and "reporting" in node.namespace.split(".") for node in pipeline.nodes),
        client=mlflow.MlflowClient(),
        experiment_id=experiment.experiment_id,
    )


def _pipeline(names: Sequence[str]) -> Pipeline:
    from kedro.framework.project import pipelines
    from kedro.pipeline import Pipeline

    pipelines.set_requested(None)
    for name in names:
        if name not in pipelines:
            raise ParameterError(
                f"there is no pipeline {name!r}.{did_you_mean(name, pipelines)} Known are {', '.join(pipelines)}."
            )
    return sum((pipelines[name] for name in names), Pipeline([]))


def _training_block(pipeline: Pipeline, names: Sequence[str]) -> str:
    blocks = [block for block in ("training", "demo.training") if f"params:{block}" in pipeline.inputs()]
    if len(blocks) != 1:
        raise ParameterError(
            f"a sweep needs pipelines that train one model: training, __default__ or demo. --pipelines="
            f"{','.join(names)} trains {'none' if not blocks else 'those of the tissue and of the demo'}."
        )
    return blocks[0]


def _grid(context: KedroContext, options: Sequence[str], params: dict[str, Any], *, is_demo: bool) -> Grid:
    from pydantic import ValidationError

    from tissue_crosstalk.params import SweepParams
    from tissue_crosstalk.sweep import dotted, parse_grid

    fixed = dotted(params)
    if options:
        grid = parse_grid(options)
        both = [name for name in grid if name in fixed]
        if both:
            raise ParameterError(f"{both[0]!r} is in --grid and in --params: leave it out of one of them.")
        return grid
    parameters = context.config_loader["parameters"]
    try:
        configured = SweepParams(**(parameters["demo"] if is_demo else parameters)["sweep"]).grid
    except ValidationError as error:
        place = "demo.sweep" if is_demo else "sweep"
        wrong = "; ".join(f"{'.'.join(map(str, (place, *one['loc'])))}: {one['msg']}" for one in error.errors())
        raise ParameterError(f"parameters_sweep.yml must have lists of values by name under grid. {wrong}") from error
    # A value given on the command line stands: the user has decided on it.
    return {name: values for name, values in configured.items() if values is not None and name not in fixed}


def _run_all(planned: _Sweep) -> None:
    """Run the settings under a parent run, and report what was run, also when interrupted."""
    import mlflow
    from mlflow.tracking.context.registry import resolve_tags

    from tissue_crosstalk.study_lock import LOCKS, PROCESS_TAG, Process, StudyLock
    from tissue_crosstalk.sweep import FAILED, FINISHED, choose

    client = planned.client
    process = Process.this(mlflow.get_tracking_uri())
    lock = StudyLock(planned.root / LOCKS, f"{planned.study}-sweep", process)
    try:
        lock.acquire()
    except CrosstalkError as error:
        raise click.ClickException(str(error)) from error
    # Not an active run of this process: kedro-mlflow would log every setting to it instead of opening a run of its own.
    tags = resolve_tags({"sweep.study": planned.study, PROCESS_TAG: process.tag})
    parent = client.create_run(planned.experiment_id, run_name=f"sweep {planned.study}", tags=tags).info.run_id
    outcomes: list[Outcome] = []
    status = FAILED
    try:
        for name in planned.settings[0].values:
            tried = dict.fromkeys(str(setting.values[name]) for setting in planned.settings)
            client.log_param(parent, f"sweep.{name}", ", ".join(tried))
        for setting in planned.settings:
            click.secho(f"Setting {setting.number} of {len(planned.settings)}: {setting}", bold=True)
            outcomes.append(_run(planned, setting, parent))
        status = FINISHED if choose(outcomes) else FAILED
    except KeyboardInterrupt:
        status = "KILLED"
        while mlflow.active_run():  # Kedro's hooks do not hear of an interruption
            mlflow.end_run(status)
        click.echo(f"Interrupted after {len(outcomes)} of {len(planned.settings)} settings.", err=True)
    finally:
        try:
            if outcomes:
                _report(planned, outcomes, parent)
        finally:
            client.set_terminated(parent, status)
            lock.release()
    if status == FAILED:
        raise click.ClickException(
            f"none of the {len(outcomes)} settings trained a model. The first failed with {outcomes[0].failure}"
        )
    if status != FINISHED:
        click.get_current_context().exit(INTERRUPTED)


def _run(planned: _Sweep, setting: Setting, parent: str) -> Outcome:
    """Run one setting as ``kedro run`` would; an error is its outcome and stops no other."""
    import mlflow
    from kedro.framework.session import KedroSession
    from kedro.io import DatasetError
    from kedro.runner import SequentialRunner
    from kedro.validation.exceptions import ParameterValidationError

    from tissue_crosstalk.params import DEMO
    from tissue_crosstalk.resolvers import PROJECT_PATH
    from tissue_crosstalk.sweep import FAILED, Outcome, one_line, with_values

    # The demo puts its name before a study's by itself.
    study = setting.study.removeprefix(f"{DEMO}-") if planned.is_demo else setting.study
    given = with_values(planned.params, {**setting.values, "study": study, "parent_run": parent})
    reason = ""
    before = set(_children(planned, parent))
    started = time.perf_counter()
    try:
        session = KedroSession.create(PROJECT_PATH, env=planned.env, runtime_params=given)
        with session:
            session.run(pipeline_names=list(planned.pipelines), runner=SequentialRunner())  # as kedro run names it
    except Exception as error:
        reason = one_line(error)
        is_foreign = not isinstance(error, CrosstalkError | DatasetError | ParameterValidationError)
        logger.error("setting %d failed: %s", setting.number, reason, exc_info=is_foreign)
        while mlflow.active_run():  # one that a hook's error left open
            mlflow.end_run(FAILED)
    seconds = time.perf_counter() - started
    run_id = next((run_id for run_id in _children(planned, parent) if run_id not in before), None)
    outcome = Outcome(setting, seconds, run_id, _validation(planned.client, run_id), reason)
    if run_id and outcome.best_validation is not None:
        # MLflow shows the last epoch's value of a metric; this one is what settings are compared by.
        planned.client.log_metric(run_id, "sweep.best validation reconstruction", outcome.best_validation)
    return outcome


def _children(planned: _Sweep, parent: str) -> list[str]:
    runs = planned.client.search_runs([planned.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
    return [run.info.run_id for run in runs]


def _validation(client: MlflowClient, run_id: str | None) -> dict[int, float]:
    """Return the validation by epoch that a run logged. A file of the study could be of an earlier run."""
    from tissue_crosstalk.sweep import VALIDATION

    if run_id is None:
        return {}
    return {metric.step: metric.value for metric in client.get_metric_history(run_id, f"training.{VALIDATION}")}


def _report(planned: _Sweep, outcomes: Sequence[Outcome], parent: str) -> None:
    """Show the table, keep it in the study and with the parent run, and say how to go on."""
    from rich.console import Console

    from tissue_crosstalk.core.files import whole_file
    from tissue_crosstalk.sweep import choose, ranked, shown, table, terminal_table

    frame = table(outcomes)
    file = planned.folder / "sweep.csv"
    console = Console()
    if not console.is_terminal:  # a file has no width to fold columns to
        console.width = WIDEST
    console.print(terminal_table(outcomes, console))
    for outcome in ranked(outcomes):
        if outcome.failure:
            click.echo(f"{outcome.setting.study} failed: {outcome.failure}")
    try:
        with whole_file(file) as unfinished:
            frame.to_csv(unfinished, index=False)
    except OSError as error:
        raise click.ClickException(
            f"{file}: the table above cannot be written: {error}. Make room or give the folder write permission."
        ) from error
    click.echo(f"Table: {file}")

    client = planned.client
    client.log_artifact(parent, str(file))
    client.log_table(parent, frame, "sweep.json")
    client.log_metric(parent, "sweep.settings", len(outcomes))
    client.log_metric(parent, "sweep.failed", sum(bool(outcome.failure) for outcome in outcomes))
    choice = choose(outcomes)
    if choice is None or choice.best_validation is None:
        return
    client.log_metric(parent, "sweep.best validation reconstruction", choice.best_validation)
    for name, value in choice.setting.values.items():
        client.log_param(parent, f"best.{name}", shown(value))
    client.set_tag(parent, "best.run_id", choice.run_id)
    client.set_tag(parent, "best.study", choice.setting.study)
    click.echo(f"Chosen by validation loss: {choice.setting.study} ({choice.setting})")
    click.echo(_next_command(planned, choice))


def _next_command(planned: _Sweep, choice: Outcome) -> str:
    """Return how to go on with the chosen setting's model."""
    from tissue_crosstalk.params import STAGE_PARAMS
    from tissue_crosstalk.sweep import dotted, shown

    if planned.reports:
        return f"Its figures and tables: {planned.folder.parent / choice.setting.study}"
    # What the trained model does not know by itself. Parameters of the training would be read by nothing.
    given = {name: value for name, value in dotted(planned.params).items() if not name.startswith("training.")}
    swept = {name: value for name, value in choice.setting.values.items() if name.partition(".")[0] not in STAGE_PARAMS}
    words = {**given, **swept, "study": choice.setting.study}
    options = [] if planned.env is None else [f"--env={planned.env}"]
    params = ",".join(f"{name}={shown(value)}" for name, value in words.items())
    return "Go on with: " + shlex.join(["kedro", "run", *options, "--pipelines=attention", f"--params={params}"])
