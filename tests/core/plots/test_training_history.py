"""How a training went: lines as in the history, the best epoch marked, and nothing overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from figure_checks import assert_tidy
from matplotlib.colors import to_hex

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots.training_history import EXPLAINED, LOSSES, plot_training_history

TITLE = "Training of the model"


def make_history(n_epochs: int, *, both: bool = False) -> pd.DataFrame:
    """Return losses that fall from a height and rise a little again, the penalties apart."""
    epoch = np.arange(n_epochs)
    fall = 100.0 * np.exp(-2.0 * epoch)
    history = pd.DataFrame(
        {
            "epoch": epoch.astype(np.int32),
            "train_loss": 13.0 + fall - 0.05 * epoch,
            "train_reconstruction": 12.0 + fall - 0.05 * epoch,
            "train_entropy": 2.0,
            "train_value_l1": 20.0,
            "validation_reconstruction": 12.5 + fall + 0.004 * (epoch - 20) ** 2,
            "validation_explained": 0.3 - fall / 50 - 0.001 * (epoch - 20) ** 2,
            "attention_penalty": 0.001,
            "learning_rate": 0.001,
        }
    )
    if both:
        history["validation_cells_reconstruction"] = history["validation_reconstruction"] - 0.5
        history["validation_cells_explained"] = history["validation_explained"] + 0.05
    return history


def lines(axes: Any) -> dict[str, Any]:
    """Return the named lines of a panel."""
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def best(axes: Any) -> list[float]:
    return [line.get_xdata()[0] for line in axes.lines if line.get_label() == "_best"]


def names(axes: Any) -> dict[str, str]:
    """Return what is written beside a panel, with its colours."""
    return {text.get_text(): to_hex(text.get_color()) for text in axes.texts}


def test_lines_are_the_columns() -> None:
    """Whatever the order of the rows is."""
    history = make_history(30, both=True)
    before = history.copy()
    figure: Any = plot_training_history(history.sample(frac=1.0, random_state=0))
    losses, explained = figure.axes
    for axes, columns in ((losses, LOSSES), (explained, EXPLAINED)):
        drawn = lines(axes)
        assert list(drawn) == [name for name, _, _ in columns.values()]
        for column, (name, color, style) in columns.items():
            np.testing.assert_array_equal(drawn[name].get_xdata(), history["epoch"])
            np.testing.assert_array_equal(drawn[name].get_ydata(), history[column])
            assert (drawn[name].get_color(), drawn[name].get_linestyle()) == (color, style)
        assert best(axes) == [20]
    assert set(names(losses)) == {name for name, _, _ in LOSSES.values()}
    assert set(names(explained)) == {name for name, _, _ in EXPLAINED.values()} | {"types' means"}
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss per cell", "explained variance"]
    assert figure.texts[-1].get_text() == "best epoch: 20"
    assert_tidy(figure)
    pd.testing.assert_frame_equal(history, before)


def test_first_epochs_are_cut_off() -> None:
    """All others are within the panel, and so is 0 of what is explained."""
    history = make_history(30)
    figure: Any = plot_training_history(history)
    assert [text.get_text() for text in figure.texts] == [
        TITLE,
        "cut off: epochs 0 to 1, up to 114", "cut off: epochs 0 to 1, down to −2.1", "best epoch: 20"
    ]  # fmt: skip
    losses, explained = figure.axes
    for axes, columns in ((losses, LOSSES), (explained, EXPLAINED)):
        low, high = axes.get_ylim()
        values = history[[column for column in columns if column in history]].to_numpy()
        assert ((values > low) & (values < high)).all(axis=1).tolist() == [False] * 2 + [True] * 28
    assert explained.get_ylim()[0] < 0 < explained.get_ylim()[1]
    assert_tidy(figure)


def test_late_ones_are_counted() -> None:
    history = make_history(30)
    history.loc[12, "train_loss"] = 1000.0
    assert "cut off: 3 of epochs 0 to 12, up to 1e+03" in [
        text.get_text() for text in plot_training_history(history).texts
    ]


def test_short_trainings_are_whole() -> None:
    figure: Any = plot_training_history(make_history(3))
    assert figure.axes[0].get_ylim()[1] > 113
    assert [text.get_text() for text in figure.texts] == [TITLE, "best epoch: 2"]
    assert_tidy(figure)


def test_one_epoch_is_dots() -> None:
    figure: Any = plot_training_history(make_history(1, both=True))
    for axes in figure.axes:
        assert {line.get_marker() for line in lines(axes).values()} == {"o"}
        assert best(axes) == [0]
    assert_tidy(figure)


def test_penalties_too_small_to_see_have_no_line() -> None:
    history = make_history(30)
    history["train_loss"] = history["train_reconstruction"] + 1e-4
    assert list(lines(plot_training_history(history).axes[0])) == ["training", "validation"]
    alone: Any = plot_training_history(history[["epoch", "train_loss"]])
    assert list(lines(alone.axes[0])) == ["training, with penalties"]


def test_columns_without_numbers_are_left_out() -> None:
    """Without a validation, no epoch is the best."""
    history = make_history(30).assign(validation_reconstruction=np.nan, validation_explained=np.nan)
    history.loc[29, "train_loss"] = np.nan
    figure: Any = plot_training_history(history)
    (axes,) = figure.axes
    assert list(lines(axes)) == ["training, with penalties", "training"]
    assert best(axes) == []
    assert [text.get_text() for text in figure.texts] == [TITLE, "cut off: epochs 0 to 1, up to 113"]
    assert_tidy(figure)


def test_nothing_to_draw() -> None:
    history = make_history(5)
    for table, said in (
        (history[:0], "No epoch was trained."),
        (history[["epoch", "learning_rate"]], "The history of the training holds no loss."),
    ):
        figure = plot_training_history(table)
        assert not figure.axes
        assert [text.get_text() for text in figure.texts] == [said]


def test_losses_that_stay() -> None:
    history = make_history(12).assign(**dict.fromkeys(("train_loss", "train_reconstruction"), 0.0))
    history["validation_reconstruction"] = 0.0
    history["validation_explained"] = 0.0
    figure = plot_training_history(history)
    assert best(figure.axes[0]) == [0]
    assert_tidy(figure)


def test_refused() -> None:
    with pytest.raises(ParameterError, match="`history` must have the columns 'epoch'. Missing: 'epoch'"):
        plot_training_history(make_history(3).drop(columns="epoch"))
