"""The sweep's settings, choice and table; runs of it are in test_cli.py."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from rich.console import Console

from tissue_crosstalk.core.errors import ParameterError, TrainingError
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.model_input import prepare_for_training
from tissue_crosstalk.sweep import (
    MAX_REASON,
    Outcome,
    Setting,
    check_grid,
    check_setting,
    choose,
    dotted,
    expand,
    one_line,
    parse_grid,
    ranked,
    shown,
    sweepable,
    table,
    terminal_table,
    with_values,
)


def outcome(number: int, *validation: float, reason: str = "") -> Outcome:
    setting = Setting(number, f"s-sweep-{number}", {"training.network.n_heads": number, "n_neighbors": 20})
    return Outcome(setting, 1.26, f"run{number}", dict(enumerate(validation)), reason)


def test_values_are_read_as_kedro_run_reads_them() -> None:
    grid = parse_grid(
        ["training.network.n_heads=2, 4", "training.learning_rate=1e-3,0.1", "radius_key=none,cell radius"]
    )
    assert grid == {
        "training.network.n_heads": (2, 4),
        "training.learning_rate": (1e-3, 0.1),
        "radius_key": ("none", "cell radius"),
    }
    assert parse_grid(["training.auto_distance_scale=true,false"]) == {"training.auto_distance_scale": (True, False)}
    assert type(parse_grid(["a=1"])["a"][0]) is int


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["n_neighbors"], "NAME=VALUE,VALUE.*Got 'n_neighbors' instead"),
        (["=2"], "NAME=VALUE,VALUE"),
        (["a=1", "a=2"], "has 'a' twice"),
        (["a=1,"], "numbers, true, false or plain text.*Got '' instead"),
        (["a=null"], "Got 'null' instead"),
        (["a={b: 1}"], "plain text.*Got '{b: 1}'"),
        (["a=b: c: d"], "Got 'b: c: d'"),
    ],
)
def test_grids_that_cannot_be_read(options: list[str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse_grid(options)


def test_what_can_be_swept_leaves_the_held_out_cells_as_they_are() -> None:
    names = sweepable("demo.training")
    assert {"demo.training.network.n_heads", "demo.training.attention_penalty_to", "n_neighbors"} <= set(names)
    assert not any("validation" in name for name in names)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "nothing to sweep"),
        ({"training.network.n_head": (2,)}, r"Did you mean 'training.network.n_heads'\?"),
        ({"demo.training.network.n_heads": (2,)}, r"Did you mean 'training.network.n_heads'\?"),
        ({"training.validation_fraction": (0.1,)}, "changes what the validation loss is measured on"),
        ({"seed": (1, 2)}, "the grid names 'seed', which a sweep of this pipeline cannot vary"),
        ({"n_neighbors": ()}, "one or more values of 'n_neighbors', each once. Got none"),
        ({"n_neighbors": (20, 20)}, "each once. Got 20, 20"),
    ],
)
def test_grids_that_are_refused(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        check_grid(grid, "training")


def test_every_combination_once_the_last_name_fastest() -> None:
    settings = expand({"a": (1, 2), "b": ("x", "y", "z")}, "embryo")
    assert [tuple(setting.values.values()) for setting in settings] == [
        (1, "x"), (1, "y"), (1, "z"), (2, "x"), (2, "y"), (2, "z"),
    ]  # fmt: skip
    assert [setting.study for setting in settings][:2] == ["embryo-sweep-1", "embryo-sweep-2"]
    assert str(settings[3]) == "a=2, b=x"


def test_studies_sort_in_the_order_of_the_grid() -> None:
    studies = [setting.study for setting in expand({"a": tuple(range(12))}, "embryo")]
    assert studies == sorted(studies)
    assert studies[0] == "embryo-sweep-01"


def test_settings_are_checked_together_with_what_is_not_swept() -> None:
    training = {"attention_penalty_start": 10, "network": {"n_heads": 4}}
    check_setting(Setting(1, "s", {"training.attention_penalty_end": 12, "n_neighbors": 3}), "training", training)
    with pytest.raises(ParameterError, match=r"setting 2 of the grid \(.*\) cannot be run.*at least 10. Got 5"):
        check_setting(Setting(2, "s", {"training.attention_penalty_end": 5}), "training", training)
    wrong = {"demo.training.network.n_heads": 0, "n_neighbors": 0, "demo.training.patience": "x"}
    with pytest.raises(ParameterError, match=r"n_neighbors: .*demo.training.*'n_heads' must be"):
        check_setting(Setting(1, "s", wrong), "demo.training", training)


def test_values_by_dotted_name_and_back() -> None:
    given = {"study": "s", "training": {"patience": 3, "network": {"n_heads": 4}}}
    changed = with_values(given, {"training.network.n_heads": 8, "demo.training.patience": 1, "n_neighbors": 5})
    assert changed == {
        "study": "s",
        "training": {"patience": 3, "network": {"n_heads": 8}},
        "demo": {"training": {"patience": 1}},
        "n_neighbors": 5,
    }
    assert given["training"]["network"] == {"n_heads": 4}
    assert with_values({}, dotted(changed)) == changed
    assert [shown(value) for value in (True, 1e-05, 3, "x")] == ["true", "1e-05", "3", "x"]


def test_the_lowest_validation_of_all_epochs_counts() -> None:
    result = outcome(1, 5.0, 3.0, 3.0, 4.0)
    assert (result.best_epoch, result.best_validation, result.status) == (1, 3.0, "FINISHED")


def test_the_choice_is_the_first_of_the_best() -> None:
    outcomes = [outcome(1, 3.0, 2.0), outcome(2, 1.5), outcome(3, 9.0, 1.5), outcome(4, 1.0, reason="TrainingError: x")]
    assert choose(outcomes) is outcomes[1]
    assert [result.setting.number for result in ranked(outcomes)] == [2, 3, 1, 4]


def test_settings_without_a_number_are_never_chosen() -> None:
    outcomes = [outcome(1, math.nan, math.inf), outcome(2), outcome(3, math.nan, 7.0)]
    assert choose(outcomes) is outcomes[2]
    assert outcomes[2].best_epoch == 1
    assert outcomes[0].status == outcomes[1].status == "FAILED"
    assert outcomes[0].failure == "the run left no finite validation loss"
    assert choose(outcomes[:2]) is None
    assert choose([]) is None


def test_table() -> None:
    frame = table([outcome(1, 3.0, 2.0), outcome(2, reason="TrainingError: x"), outcome(3, 1.5)])
    assert frame["chosen"].tolist() == [True, False, False]
    assert frame["training.network.n_heads"].tolist() == [3, 1, 2]
    assert frame["study"].tolist() == ["s-sweep-3", "s-sweep-1", "s-sweep-2"]
    assert frame["validation_reconstruction"].tolist()[:2] == [1.5, 2.0]
    assert frame["best_epoch"].tolist() == [0, 1, pd.NA]
    assert frame["epochs"].tolist() == [1, 2, 0]
    assert frame["seconds"].tolist() == [1.3] * 3
    assert frame["status"].tolist() == ["FINISHED", "FINISHED", "FAILED"]
    assert frame["reason"].tolist() == ["", "", "TrainingError: x"]
    assert frame["run_id"].tolist() == ["run3", "run1", "run2"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_terminal_table_is_plain_where_there_is_no_terminal(is_terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=200)
    console.print(terminal_table([outcome(1, 3.0), outcome(2, 1.5)], console))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("\x1b[" in text) == ("─" in text) == is_terminal
    if not is_terminal:
        header, first, _ = text.splitlines()
        assert header.split()[:3] == ["n_heads", "n_neighbors", "validation"]
        assert first.split() == ["*", "2", "20", "1.5", "0", "1", "1", "s-sweep-2", "run2", "FINISHED"]


def test_reasons_are_one_line() -> None:
    assert one_line(TrainingError("a\n  b")) == "TrainingError: a b"
    assert len(one_line(TrainingError("x" * 1000))) == MAX_REASON


def test_the_order_of_cells_and_so_the_held_out_ones_do_not_depend_on_what_is_swept() -> None:
    rng = np.random.default_rng(0)
    adata = AnnData(
        X=rng.poisson(2.0, size=(60, 4)).astype(np.float32),
        obs=pd.DataFrame(
            {"cell_type": list("ABC") * 20, "radius": rng.uniform(1, 2, 60)}, index=[f"c{i}" for i in range(60)]
        ),
        obsm={"spatial": rng.uniform(0, 50, size=(60, 2))},
    )
    keys = TissueKeys("cell_type", "spatial")
    few = prepare_for_training(adata, keys, log_normalised=False, n_neighbors=3)
    for other, n_neighbors in ((keys, 9), (TissueKeys("cell_type", "spatial", radius_key="radius"), 3)):
        same = prepare_for_training(adata, other, log_normalised=False, n_neighbors=n_neighbors)
        assert (same.obs_names == few.obs_names).all()
        assert (same.X != few.X).nnz == 0
