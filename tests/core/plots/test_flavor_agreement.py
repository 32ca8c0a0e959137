"""How far flavors agree: numbers, rows and markers as in the table, and nothing overlaps."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from figure_checks import assert_tidy, type_names
from matplotlib.colors import to_hex

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.flavors import FLAVORS
from tissue_crosstalk.core.plots.flavor_agreement import ALL_TYPES, plot_flavor_agreement
from tissue_crosstalk.core.plots.style import cell_type_palette, readable_on_white

PALETTE = {"B": "#0072b2", "T": "#e69f00"}
COLUMNS = ["flavor", "other", "receiver", "spearman", "edges"]


def make_table(n_types: int, n_flavors: int) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        [
            (flavor, other, name, generator.random(), 12_345)
            for flavor, other in combinations(list(FLAVORS)[:n_flavors], 2)
            for name in [*type_names(n_types), ALL_TYPES]
        ],
        columns=COLUMNS,
    )


def by_hand() -> pd.DataFrame:
    """Return three flavors without the vanilla one; T is too rare for a correlation."""
    value, info, gene = list(FLAVORS)[1:4]
    return pd.DataFrame(
        [
            (value, info, "T", np.nan, 2), (value, gene, "T", np.nan, 2), (info, gene, "T", np.nan, 2),
            (value, info, "B", 0.8, 1000), (value, gene, "B", -0.25, 1000), (info, gene, "B", 0.1, 1000),
            (value, info, ALL_TYPES, 0.9, 1002), (value, gene, ALL_TYPES, -0.1, 1002),
            (info, gene, ALL_TYPES, np.nan, 1002),
        ],
        columns=COLUMNS,
    )  # fmt: skip


def texts(artists: Any) -> list[str]:
    return [artist.get_text() for artist in artists]


def test_by_hand() -> None:
    table = by_hand()
    before = table.copy()
    figure: Any = plot_flavor_agreement(table, PALETTE)
    matrix, by_type = figure.axes
    assert texts(matrix.texts) == ["1", "0.90", "1", "−0.10", "–", "1"]
    flavors = list(FLAVORS)[1:]
    assert texts(matrix.get_xticklabels()) == texts(matrix.get_yticklabels()) == flavors
    np.testing.assert_array_equal(
        matrix.images[0].get_array().filled(np.nan),
        [[1.0, np.nan, np.nan], [0.9, 1.0, np.nan], [-0.1, np.nan, 1.0]],
    )
    assert texts(by_type.get_yticklabels()) == [ALL_TYPES, "B", "T"]
    colors = [to_hex(label.get_color()) for label in by_type.get_yticklabels()[1:]]
    assert colors == [readable_on_white(PALETTE[name]) for name in ("B", "T")]
    assert sorted(texts(by_type.texts)) == ["1,000", "1,002", "2", "edges", "undefined"]
    info, gene = by_type.collections
    assert info.get_offsets()[:2, 0].tolist() == [0.9, 0.8]
    assert gene.get_offsets()[:2, 0].tolist() == [-0.1, -0.25]
    assert np.round(info.get_offsets()[:2, 1].tolist()).tolist() == [0, 1]
    assert by_type.get_xlim() == (-0.25, 1.0)
    assert [line.get_xdata()[0] for line in by_type.lines if line.get_label() == "_all"] == [0.9, -0.1]
    assert [line.get_label() for line in by_type.lines].count("_zero") == 1
    assert by_type.get_xlabel() == "rank correlation with value-weighted attention"
    (key,) = figure.legends
    assert texts(key.get_texts()) == flavors[1:]
    assert [to_hex(handle.get_color()) for handle in key.legend_handles] == [
        to_hex(dots.get_facecolors()[0]) for dots in (info, gene)
    ]
    assert_tidy(figure)
    pd.testing.assert_frame_equal(table, before)


def test_without_all_types_no_lines_go_down() -> None:
    table = by_hand()
    matrix, by_type = plot_flavor_agreement(table[table["receiver"] != ALL_TYPES], PALETTE).axes
    assert texts(matrix.texts) == ["1", "–", "1", "–", "–", "1"]
    assert texts(by_type.get_yticklabels()) == ["B", "T"]
    assert "_all" not in [line.get_label() for line in by_type.lines]


@pytest.mark.parametrize(("n_types", "n_flavors"), [(2, 2), (3, 4), (25, 4)])
def test_nothing_overlaps(n_types: int, n_flavors: int) -> None:
    """The rows compare with the first flavor alone, from 0 where nothing is below."""
    table = make_table(n_types, n_flavors)
    figure: Any = plot_flavor_agreement(table, cell_type_palette(type_names(n_types)))
    by_type = figure.axes[1]
    assert len(by_type.collections) == n_flavors - 1
    assert by_type.get_xlim() == (0.0, 1.0)
    assert texts(by_type.get_yticklabels()) == [ALL_TYPES, *type_names(n_types)]
    drawn = np.sort([dots.get_offsets()[:, 0] for dots in by_type.collections], axis=None)
    np.testing.assert_allclose(drawn, np.sort(table.loc[table["flavor"] == "vanilla", "spearman"]))
    assert_tidy(figure)


def test_a_single_flavor() -> None:
    figure = plot_flavor_agreement(by_hand()[:0], PALETTE)
    assert not figure.axes
    assert texts(figure.texts) == ["There is nothing to compare: attention has a single flavor."]


def test_refused() -> None:
    table = by_hand()
    with pytest.raises(ParameterError, match=r"`correlations` must have the columns .*Missing: 'edges'"):
        plot_flavor_agreement(table.drop(columns="edges"), PALETTE)
    with pytest.raises(
        ParameterError, match=r"`flavor` and `other` of `correlations` must be of .* Got 'sweet' instead"
    ):
        plot_flavor_agreement(table.assign(other="sweet"), PALETTE)
    for other in ("vanilla", "value-weighted"):
        with pytest.raises(ParameterError, match=f"`flavor` must come before .* Got 'value-weighted' and '{other}'"):
            plot_flavor_agreement(table[:1].assign(other=other), PALETTE)
    with pytest.raises(
        ParameterError, match="`correlations` must have one row per flavor, other, receiver. Got several"
    ):
        plot_flavor_agreement(pd.concat([table, table]), PALETTE)
    with pytest.raises(ParameterError, match="`spearman` of `correlations` must lie within -1 and 1. Got 1.5"):
        plot_flavor_agreement(table.assign(spearman=1.5), PALETTE)
    with pytest.raises(ParameterError, match="`edges` of `correlations` must hold whole numbers of at least 0. Got -3"):
        plot_flavor_agreement(table.assign(edges=-3), PALETTE)
    with pytest.raises(ParameterError, match="`palette` must give each cell type a color. Missing: 'T'"):
        plot_flavor_agreement(table, {"B": "red"})


def test_more_flavors_than_there_are_now_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    more = [*FLAVORS, "fifth", "sixth"]
    monkeypatch.setattr("tissue_crosstalk.core.plots.flavor_agreement.FLAVORS", dict.fromkeys(more))
    table = pd.DataFrame([(one, other, ALL_TYPES, 0.5, 10) for one, other in combinations(more, 2)], columns=COLUMNS)
    figure = plot_flavor_agreement(table, PALETTE)
    [legend] = figure.legends or [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    looks = {(line.get_marker(), to_hex(line.get_color())) for line in legend.get_lines()}
    assert [text.get_text() for text in legend.get_texts()] == more[1:]
    assert len(looks) == len(more) - 1
