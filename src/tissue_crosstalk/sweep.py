"""A sweep: settings from a grid, what each came to, the choice by validation loss and the table of all.

The runs themselves are ordinary runs of the project, started one after the other by ``kedro sweep`` (see cli.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import ValidationError

from tissue_crosstalk.core.errors import ParameterError, did_you_mean, printable
from tissue_crosstalk.params import GridValue, TissueParams, TrainingParams, flat_fields, study_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Grid = Mapping[str, Sequence[GridValue]]
"""By name of a parameter, the values to try."""

FINISHED, FAILED = "FINISHED", "FAILED"
VALIDATION = "validation_reconstruction"
"""Column of the training history, and of the table, by which the choice is made."""

TISSUE_READING = ("n_neighbors", "radius_key")
"""Run-time parameters of the tissue that leave its cells, their order and their expression as they are."""

MAX_REASON = 300
"""Characters of an error that the table keeps."""


@dataclass(frozen=True)
class Setting:
    """One combination of the grid's values.

    Attributes
    ----------
    number
        Place in the grid's order, from 1.
    study
        Study that its run writes.
    values
        Value by name of the parameter.
    """

    number: int
    study: str
    values: Mapping[str, GridValue]

    def __str__(self) -> str:
        return ", ".join(f"{name}={shown(value)}" for name, value in self.values.items())


@dataclass(frozen=True)
class Outcome:
    """What the run of a setting came to.

    Attributes
    ----------
    setting
        The setting.
    seconds
        Duration of the run.
    run_id
        Its MLflow run; None where it failed before one was opened.
    validation
        Validation reconstruction by epoch.
    reason
        Why it failed; empty where it did not.
    """

    setting: Setting
    seconds: float
    run_id: str | None = None
    validation: Mapping[int, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the lowest validation, the first of equal ones; None where the run failed or has none."""
        finite = [epoch for epoch in sorted(self.validation) if math.isfinite(self.validation[epoch])]
        return None if self.reason or not finite else min(finite, key=self.validation.__getitem__)

    @property
    def best_validation(self) -> float | None:
        """The lowest validation; None where the run failed or has none."""
        return None if self.best_epoch is None else self.validation[self.best_epoch]

    @property
    def failure(self) -> str:
        """Why the setting cannot be chosen; empty where it can."""
        missing = "the run left no finite validation loss" if self.best_epoch is None else ""
        return self.reason or missing

    @property
    def status(self) -> str:
        """FINISHED or FAILED, as MLflow names them."""
        return FAILED if self.failure else FINISHED


def parse_grid(options: Iterable[str]) -> dict[str, tuple[GridValue, ...]]:
    """Return the grid that options such as ``training.network.n_heads=2,4,8`` spell.

    Raises
    ------
    ParameterError
        If an option is not ``NAME=VALUE,VALUE``, or two are of one name.
    """
    grid: dict[str, tuple[GridValue, ...]] = {}
    for option in options:
        name, is_given, values = option.partition("=")
        name = name.strip()
        if not name or not is_given:
            raise ParameterError(
                f"--grid must be NAME=VALUE,VALUE, such as training.network.n_heads=2,4,8. Got {option!r} instead."
            )
        if name in grid:
            raise ParameterError(f"--grid has {name!r} twice. Give all its values in one.")
        grid[name] = tuple(_value(name, text.strip()) for text in values.split(","))
    return grid


def _value(name: str, text: str) -> GridValue:
    """Read a value as ``kedro run --params`` does."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        value: Any = OmegaConf.from_dotlist([f"value={text}"]).value
    except (OmegaConfBaseException, YAMLError):
        value = None
    if not isinstance(value, GridValue):
        raise ParameterError(
            f"--grid {name} takes numbers, true, false or plain text, with commas between. Got {text!r} instead."
        )
    return value


def sweepable(block: str) -> tuple[str, ...]:
    """Return the names of parameters that a sweep can vary, for a pipeline that reads its training from `block`.

    Validation losses are comparable only where the same cells are held out and their expression is the same.
    """
    fields = (name for name, _ in flat_fields(TrainingParams(), block))
    return (*(name for name in fields if not name.startswith(f"{block}.validation")), *TISSUE_READING)


def check_grid(grid: Grid, block: str) -> None:
    """Check names and numbers of values of a grid.

    Parameters
    ----------
    grid
        The grid.
    block
        Where the pipeline reads its training from: ``training``, or ``demo.training``.

    Raises
    ------
    ParameterError
        If there is nothing to sweep, a name cannot be swept, or a value is there twice.
    """
    if not grid:
        raise ParameterError(
            "nothing to sweep: the grid is empty. Give --grid NAME=VALUE,VALUE, or fill conf/base/parameters_sweep.yml."
        )
    known = sweepable(block)
    for name, values in grid.items():
        if name not in known:
            raise ParameterError(
                f"the grid names {name!r}, which a sweep of this pipeline cannot vary.{did_you_mean(name, known)} "
                f"It takes fields of {block} ({block}.network.n_heads, …) but for those that choose the held-out "
                f"cells, and {', '.join(TISSUE_READING)}: anything else changes what the validation loss is measured "
                "on, or nothing about the model."
            )
        if not values or len({shown(value) for value in values}) < len(values):
            got = ", ".join(map(shown, values)) or "none"
            raise ParameterError(f"the grid must have one or more values of {name!r}, each once. Got {got}.")


def expand(grid: Grid, study: str) -> list[Setting]:
    """Return every combination of the grid's values, the last name varying fastest, each with a study of its own.

    Parameters
    ----------
    grid
        The grid.
    study
        Name of the sweep's own study, with which those of its settings begin.
    """
    combinations = list(itertools.product(*grid.values()))
    digits = len(str(len(combinations)))  # so that folders sort in the grid's order
    return [
        Setting(number, study_name(f"{study}-sweep-{number:0{digits}}"), dict(zip(grid, values, strict=True)))
        for number, values in enumerate(combinations, start=1)
    ]


def check_setting(setting: Setting, block: str, training: Mapping[str, Any]) -> None:
    """Check a setting's values, together with the parameters that are not swept.

    Parameters
    ----------
    setting
        The setting.
    block
        Where the pipeline reads its training from.
    training
        That block, as configured.

    Raises
    ------
    ParameterError
        With all errors of the setting.
    """
    fields = {name.removeprefix(f"{block}."): value for name, value in setting.values.items()}
    reading = {name: fields.pop(name) for name in TISSUE_READING if name in fields}
    errors: list[str] = []
    for kind, prefix, given in (
        (TissueParams, "", reading),
        (TrainingParams, f"{block}.", with_values(training, fields)),
    ):
        try:
            kind(**given)
        except ValidationError as error:
            for one in error.errors():
                place = prefix + ".".join(map(str, one["loc"]))
                errors.append(f"{place.rstrip('.')}: {one['msg'].removeprefix('Value error, ').rstrip('.')}")
    if errors:
        raise ParameterError(f"setting {setting.number} of the grid ({setting}) cannot be run. {'; '.join(errors)}.")


def with_values(parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested parameters with values given by dotted name; the argument stays as it is."""
    changed: dict[str, Any] = dict(parameters)
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if rest and not isinstance(changed.get(first) or {}, Mapping):
            raise ParameterError(
                f"{first!r} must be a block of parameters, because {name!r} is in it. Got {changed[first]!r} instead."
            )
        changed[first] = with_values(changed.get(first) or {}, {rest: value}) if rest else value
    return changed


def dotted(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters by dotted name, as on the command line."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        flat.update(dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def choose(outcomes: Iterable[Outcome]) -> Outcome | None:
    """Return the outcome with the lowest validation, the first of equal ones; None where every setting failed."""
    return next(iter(ranked(outcome for outcome in outcomes if not outcome.failure)), None)


def ranked(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes by validation, those that failed last, equal ones in the grid's order."""
    return sorted(
        outcomes, key=lambda outcome: math.inf if outcome.best_validation is None else outcome.best_validation
    )


def table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return a row per setting, the best first.

    Returns
    -------
    pandas.DataFrame
        ``chosen``, the swept parameters by their full names, ``validation_reconstruction`` (the lowest of all epochs),
        ``best_epoch``, ``epochs``, ``seconds``, ``study``, ``status``, ``reason`` and ``run_id``.
    """
    choice = choose(outcomes)
    rows = [
        {
            "chosen": outcome is choice,
            **outcome.setting.values,
            VALIDATION: outcome.best_validation,
            "best_epoch": outcome.best_epoch,
            "epochs": len(outcome.validation),
            "seconds": round(outcome.seconds, 1),
            "study": outcome.setting.study,
            "status": outcome.status,
            "reason": outcome.failure,
            "run_id": outcome.run_id or "",
        }
        for outcome in ranked(outcomes)
    ]
    return pd.DataFrame(rows).astype({VALIDATION: float, "best_epoch": "Int64", "epochs": "Int64"})


def shown(value: object) -> str:
    """Return a value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def terminal_table(outcomes: Sequence[Outcome], console: Console) -> Table:
    """Return the table for a terminal, without lines where the console is none."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    choice = choose(outcomes)
    swept = list(outcomes[0].setting.values)
    last = [name.rpartition(".")[2] for name in swept]
    headers = last if len(set(last)) == len(last) else swept
    shown_as = Table(box=box.SIMPLE if console.is_terminal else None, pad_edge=False)
    for header in ("", *headers, "validation", "epoch", "of", "seconds", "study", "run", "status"):
        is_text = header in {"", "study", "run", "status"}
        shown_as.add_column(header, justify="left" if is_text else "right", overflow="fold")
    for outcome in ranked(outcomes):
        validation, epoch = outcome.best_validation, outcome.best_epoch
        cells = (
            "*" if outcome is choice else "",
            *map(shown, outcome.setting.values.values()),
            "" if validation is None else f"{validation:.5g}",
            "" if epoch is None else str(epoch),
            str(len(outcome.validation)),
            f"{outcome.seconds:.0f}",
            outcome.setting.study,
            (outcome.run_id or "")[:8],
            outcome.status,
        )
        style = "bold green" if outcome is choice else "red" if outcome.failure else ""
        shown_as.add_row(*(Text(cell) for cell in cells), style=style)
    return shown_as


def one_line(error: BaseException) -> str:
    """Return an error as one line of a table."""
    text = printable(" ".join(f"{type(error).__name__}: {error}".split()))
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"
