"""What each head does: means, dots and pairs as in the tables, and nothing overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from figure_checks import assert_tidy, type_names
from matplotlib.colors import to_hex

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots.head_profile import plot_head_profile
from tissue_crosstalk.core.plots.style import cell_type_palette, readable_on_white

PALETTE = {"B": "#0072b2", "T": "#e69f00", "NK": "#009e73"}


def make_tables(n_types: int, n_heads: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return random tables of all heads and types; pairs have different means."""
    generator, names = np.random.default_rng(0), type_names(n_types)
    heads = pd.DataFrame([(head, name) for head in range(n_heads) for name in names], columns=["head_idx", "receiver"])
    heads["cells"] = generator.integers(1, 5000, len(heads))
    heads["dummy_share"], heads["evenness"] = generator.random((2, len(heads)))
    by_head = pd.DataFrame(
        [(head, one, two) for head in range(n_heads) for one in names for two in names if one != two],
        columns=["head_idx", "receiver", "sender"],
    )
    by_head["mean"], by_head["count"] = generator.random(len(by_head)), 12_345
    return heads, by_head


def by_hand() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return three types and heads 0 and 4; nobody has counted the slots of T in head 4."""
    heads = pd.DataFrame(
        {
            "head_idx": [0, 0, 0, 4, 4, 4],
            "receiver": ["T", "B", "NK"] * 2,
            "cells": [10, 30, 60] * 2,
            "dummy_share": [0.1, 0.2, 0.3, 0.9, 0.8, 1.0],
            "entropy": 1.0,
            "evenness": [0.5, 0.6, 0.7, np.nan, 0.2, 0.4],
        }
    )
    by_head = pd.DataFrame(
        [
            (0, "B", "T", 0.30, 7), (0, "T", "B", 0.10, 8), (0, "NK", "B", 0.05, 9), (0, "B", "NK", 0.9, 0),
            (4, "B", "T", 0.02, 7), (4, "T", "B", 0.20, 8), (4, "NK", "B", 0.25, 1200), (4, "B", "NK", np.nan, 0),
        ],
        columns=["head_idx", "receiver", "sender", "mean", "count"],
    )  # fmt: skip
    return heads, by_head


def bars(axes: Any) -> list[float]:
    return [line.get_ydata()[0] for line in axes.lines if line.get_label() == "_mean"]


def rows(axes: Any) -> list[str]:
    """Return what stands beside the rows of the heatmap, top-down."""
    beside: dict[float, list[str]] = {}
    for text in axes.texts:
        beside.setdefault(text.get_position()[1], []).append(text.get_text())
    return [" ".join(beside[row]) for row in sorted(beside) if row >= 0]


def test_dots_and_means_by_hand() -> None:
    """Means are over cells, of those receivers that have a value."""
    figure: Any = plot_head_profile(*by_hand(), PALETTE)
    evenness, dummy = figure.axes[:2]
    assert bars(evenness) == pytest.approx(
        [np.average([0.5, 0.6, 0.7], weights=[10, 30, 60]), np.average([0.2, 0.4], weights=[30, 60])]
    )
    assert bars(dummy) == pytest.approx(
        [np.average(shares, weights=[10, 30, 60]) for shares in ([0.1, 0.2, 0.3], [0.9, 0.8, 1.0])]
    )
    (dots,) = evenness.collections
    drawn = sorted(
        (round(x), y, to_hex(color))
        for (x, y), color in zip(dots.get_offsets().tolist(), dots.get_facecolors(), strict=True)
    )
    assert drawn == [
        (0, 0.5, PALETTE["T"]), (0, 0.6, PALETTE["B"]), (0, 0.7, PALETTE["NK"]),
        (1, 0.2, PALETTE["B"]), (1, 0.4, PALETTE["NK"]),
    ]  # fmt: skip
    places = {to_hex(color): x for (x, _), color in zip(dots.get_offsets()[:3], dots.get_facecolors(), strict=False)}
    assert sorted(places, key=places.__getitem__) == list(PALETTE.values())
    for axes in (evenness, dummy):
        assert axes.get_ylim() == (0.0, 1.0)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "4"]
    (key,) = figure.legends
    assert [text.get_text() for text in key.get_texts()] == ["mean over cells", *PALETTE]
    assert_tidy(figure)


def test_pairs_by_hand() -> None:
    """In the order of the heads that they are strongest in; pairs without an edge are none."""
    heads, by_head = by_hand()
    before = by_head.copy()
    figure: Any = plot_head_profile(heads, by_head.sample(frac=1.0, random_state=0), PALETTE, most_pairs=1)
    axes = figure.axes[2]
    assert rows(axes) == ["7 T → B", "1,200 B → NK"]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.30, 0.02], [0.05, 0.25]])
    assert axes.images[0].get_clim() == (0.0, 0.30)
    assert axes.collections[0].get_offsets().tolist() == [[0.0, 0.0], [1.0, 1.0]]
    colors = {text.get_text(): to_hex(text.get_color()) for text in axes.texts}
    assert {name: colors[name] for name in PALETTE} == {
        name: readable_on_white(color) for name, color in PALETTE.items()
    }
    assert axes.get_xlabel() == "head"
    assert figure.texts[2].get_text().replace("\n", " ") == "The pair of highest mean attention of each head (dots)"
    assert_tidy(figure)
    pd.testing.assert_frame_equal(by_head, before)
    assert rows(plot_head_profile(heads, by_head, PALETTE, most_pairs=9).axes[2]) == [
        "7 T → B",
        "1,200 B → NK",
        "8 B → T",
    ]


@pytest.mark.parametrize(("n_types", "n_heads"), [(2, 1), (3, 2), (25, 16)])
def test_the_strongest_of_every_head_and_nothing_overlaps(n_types: int, n_heads: int) -> None:
    heads, by_head = make_tables(n_types, n_heads)
    figure: Any = plot_head_profile(heads, by_head, cell_type_palette(type_names(n_types)))
    axes = figure.axes[2]
    wide = by_head.pivot_table(index=["sender", "receiver"], columns="head_idx", values="mean")
    expected = {pair for head in range(n_heads) for pair in wide[head].nlargest(3).index}
    drawn = np.asarray(axes.images[0].get_array())
    assert len(rows(axes)) == len(drawn) == len(expected)
    np.testing.assert_allclose(np.sort(drawn, axis=None), np.sort(wide.loc[list(expected)].to_numpy(), axis=None))
    assert (np.diff(np.argmax(drawn, axis=1)) >= 0).all()
    assert_tidy(figure)


def test_heads_without_pairs_or_receivers() -> None:
    heads, by_head = by_hand()
    figure: Any = plot_head_profile(heads, by_head[:0], PALETTE)
    assert len(figure.axes) == 2
    assert figure.axes[1].get_xlabel() == "head"
    assert_tidy(figure)
    (text,) = plot_head_profile(heads[:0], by_head[:0], PALETTE).texts
    assert text.get_text() == "There is no head whose attention could be drawn."
    uncounted = plot_head_profile(heads.assign(cells=0), by_head, PALETTE)
    assert bars(uncounted.axes[0]) == []


def test_attention_of_zero_and_missing_pairs() -> None:
    """A head without an edge of a pair has a gap there."""
    heads, by_head = by_hand()
    axes: Any = plot_head_profile(heads, by_head[1:].assign(mean=0.0), PALETTE, most_pairs=9).axes[2]
    assert np.isnan(axes.images[0].get_array().filled(np.nan)).sum() == 1
    assert axes.images[0].get_clim()[1] > 0


def test_refused() -> None:
    heads, by_head = by_hand()
    with pytest.raises(ParameterError, match=r"`heads` must have the columns .*Missing: 'cells'"):
        plot_head_profile(heads.drop(columns="cells"), by_head, PALETTE)
    with pytest.raises(ParameterError, match=r"`by_head` must have the columns .*Missing: 'mean'"):
        plot_head_profile(heads, by_head.drop(columns="mean"), PALETTE)
    for wrong in (0, 1.5, True):
        with pytest.raises(ParameterError, match=f"`most_pairs` must be a whole number of at least 1. Got {wrong}"):
            plot_head_profile(heads, by_head, PALETTE, most_pairs=wrong)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="`head_idx` of `heads` must hold whole numbers of at least 0. Got -1"):
        plot_head_profile(heads.assign(head_idx=-1), by_head, PALETTE)
    with pytest.raises(ParameterError, match="`count` of `by_head` must hold whole numbers of at least 0. Got 0.5"):
        plot_head_profile(heads, by_head.assign(count=0.5), PALETTE)
    with pytest.raises(
        ParameterError, match="`heads` must have one row per head_idx, receiver. Got several of '0', 'T'"
    ):
        plot_head_profile(pd.concat([heads, heads[:1]]), by_head, PALETTE)
    with pytest.raises(ParameterError, match="`by_head` must have one row per head_idx, receiver, sender"):
        plot_head_profile(heads, pd.concat([by_head, by_head]), PALETTE)
    with pytest.raises(ParameterError, match="`palette` must give each cell type a color. Missing: 'NK', 'T'"):
        plot_head_profile(heads, by_head, {"B": "red"})
