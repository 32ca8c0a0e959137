"""What Kedro and the checks refuse is one message, whoever refuses it, and before anything is written."""

from __future__ import annotations

import logging
import sqlite3
import sys
from pathlib import Path

import pytest

from commands import Kedro
from sessions import give_store
from tissue_crosstalk.hooks.plain_errors import PlainErrors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "params", "words"),
    [
        (["--env=nope"], "", "MissingConfigException: Given configuration path either does not exist"),
        (["--env=test", "--pipelines=nope"], "", "ValueError: Failed to find the pipeline named 'nope'."),
        (["--env=test", "--from-nodes=nope"], "", "ValueError: Pipeline does not contain nodes named ['nope']."),
        (["--env=test", "--tags=nope"], "", "ValueError: Pipeline contains no nodes after applying all"),
        (["--env=test"], ",study=", "ParameterError: study must have a value."),
        (["--env=test"], ",reports=", "ParameterError: reports must have a value."),
        (["--env=test", "--pipelines=hubs"], ",seed=x", "ParameterError: seed must be a whole number"),
    ],
)
def test_what_is_refused_is_one_line(
    arguments: list[str], params: str, words: str, kedro: Kedro, tmp_path: Path
) -> None:
    give_store(tmp_path)
    ended = kedro.run("run", *arguments, f"--params=root={tmp_path}{params}")
    assert ended.returncode == 1
    assert ended.stderr.startswith(words)
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists() or not any((tmp_path / "data").glob("0*"))


@pytest.mark.slow
def test_a_root_without_a_value_is_refused_before_mlflow_looks_for_it(kedro: Kedro) -> None:
    ended = kedro.run("run", "--env=test", "--params=root=")
    assert (ended.returncode, ended.stderr.startswith("ParameterError: root must have a value.")) == (1, True)


@pytest.mark.parametrize("wants_traceback", [False, True])
def test_mlflow_does_not_tell_of_a_full_disk_with_a_traceback(
    wants_traceback: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error itself ends the run, in one line. Other errors of the store are logged as ever."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    if wants_traceback:
        monkeypatch.setenv("CROSSTALK_TRACEBACK", "1")
    store = logging.getLogger("mlflow.store.db.utils")
    monkeypatch.setattr(store, "propagate", True)
    PlainErrors().after_context_created()
    for said in ("database or disk is full", "no such table: runs"):
        try:
            raise sqlite3.OperationalError(said)
        except sqlite3.OperationalError:
            with caplog.at_level(logging.ERROR, logger=store.name):
                store.exception(said)
    told = [record.message for record in caplog.records if record.name == store.name]
    assert told == ["database or disk is full", "no such table: runs"][not wants_traceback :]
