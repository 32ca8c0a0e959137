"""How far neighbors are: shares and medians as numpy has them, and nothing overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from figure_checks import LONG, assert_tidy, type_names
from matplotlib.colors import to_hex

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots._layout import fit, text_width
from tissue_crosstalk.core.plots.distance_histograms import plot_distance_histograms
from tissue_crosstalk.core.plots.style import cell_type_palette, readable_on_white

PALETTE = {"B": "#0072b2", "T": "#e69f00", "NK": "#009e73"}


def make_histogram(n_types: int, *, max_distance: float, bin_size: float) -> tuple[pd.DataFrame, dict[str, int], Any]:
    """Return the counts of random lengths, those beyond, and the lengths, (type, edge)."""
    lengths = np.random.default_rng(0).gamma(3.0, max_distance / 8, (n_types, 2000))
    edges = np.arange(0, max_distance + bin_size / 2, bin_size)
    tables = [
        pd.DataFrame({"receiver": name, "distance_bin": edges[:-1], "count": np.histogram(own, edges)[0]})
        for name, own in zip(type_names(n_types), lengths, strict=True)
    ]
    beyond = (lengths >= max_distance).sum(axis=1).tolist()
    return pd.concat(tables, ignore_index=True), dict(zip(type_names(n_types), beyond, strict=True)), lengths


def by_hand() -> pd.DataFrame:
    """Return three bins of which the last is cut short at 12, and a type without edges."""
    return pd.DataFrame(
        {"receiver": ["T"] * 3 + ["B"] * 3 + ["NK"] * 3, "distance_bin": [0.0, 5.0, 10.0] * 3,
         "count": [2, 6, 0, 0, 1, 3, 0, 0, 0]}
    )  # fmt: skip


def draw(histogram: pd.DataFrame, **changes: Any) -> Any:
    return plot_distance_histograms(histogram, PALETTE, **{"max_distance": 12.0, "bin_size": 5.0, **changes})


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def medians(axes: Any) -> list[float]:
    return [line.get_xdata()[0] for line in axes.lines if line.get_label() == "_median"]


def test_by_hand() -> None:
    """Panels are in the order of the palette; shares are of all edges, those beyond among them."""
    histogram = by_hand()
    before = histogram.copy()
    figure = draw(histogram.sample(frac=1.0, random_state=0), beyond={"T": 8, "B": 0}, distance_unit="µm")
    first, second = figure.axes
    assert texts(first) == ["B", "median 10.7 µm"]
    assert texts(second) == ["T", "median 10 µm", "50 % beyond"]
    assert [bar.get_height() for bar in first.patches] == [0.0, 0.25, 0.75]
    assert [bar.get_height() for bar in second.patches] == [0.125, 0.375, 0.0]
    assert [(bar.get_x(), bar.get_width()) for bar in first.patches] == [(0.0, 5.0), (5.0, 5.0), (10.0, 2.0)]
    assert medians(first) == pytest.approx([10.0 + 2.0 * (2 - 1) / 3])
    assert medians(second) == [10.0]
    for axes, name in zip(figure.axes, ("B", "T"), strict=True):
        assert {to_hex(bar.get_facecolor()) for bar in axes.patches} == {PALETTE[name]}
        assert to_hex(axes.texts[0].get_color()) == readable_on_white(PALETTE[name])
        assert axes.get_xlim() == (0.0, 12.0)
        assert axes.get_ylim() == pytest.approx((0.0, 0.75 * 1.05))
        assert axes.get_xticks().tolist() == [0.0, 5.0, 10.0]
        assert axes.get_xlabel() == "distance (µm)"
    assert [axes.get_ylabel() for axes in figure.axes] == ["share of edges", ""]
    assert_tidy(figure)
    pd.testing.assert_frame_equal(histogram, before)


def test_medians_are_those_of_the_lengths() -> None:
    """To within a bin, whether or not the lengths beyond are known one by one."""
    histogram, beyond, lengths = make_histogram(3, max_distance=40.0, bin_size=1.0)
    figure: Any = plot_distance_histograms(
        histogram, cell_type_palette(type_names(3)), max_distance=40.0, bin_size=1.0, beyond=beyond
    )
    for axes, own in zip(figure.axes, lengths, strict=True):
        assert medians(axes) == pytest.approx([np.median(own)], abs=1.0)
        assert f"{100 * (own >= 40).mean():.0f} % beyond" in texts(axes)


def test_median_beyond_and_edges_beyond_alone() -> None:
    figure = draw(by_hand(), beyond={"T": 9, "NK": 5, "B": 1000})
    assert [texts(axes) for axes in figure.axes] == [
        ["B", "> 99 % beyond"],
        ["T", "53 % beyond"],
        ["NK", "100 % beyond"],
    ]
    assert [medians(axes) for axes in figure.axes] == [[], [], []]
    assert draw(by_hand().assign(count=1000), beyond={"T": 1}).axes[1].texts[2].get_text() == "< 1 % beyond"
    assert texts(draw(by_hand()[:0], beyond={"NK": 5}).axes[0]) == ["NK", "100 % beyond"]


@pytest.mark.parametrize(
    ("n_types", "max_distance", "bin_size"), [(1, 1.25, 0.05), (3, 100.0, 5.0), (25, 12_000.0, 400.0), (7, 0.7, 0.1)]
)
def test_ticks_are_edges_of_bins_and_nothing_overlaps(n_types: int, max_distance: float, bin_size: float) -> None:
    histogram, beyond, _ = make_histogram(n_types, max_distance=max_distance, bin_size=bin_size)
    figure: Any = plot_distance_histograms(
        histogram,
        cell_type_palette(type_names(n_types)),
        max_distance=max_distance,
        bin_size=bin_size,
        beyond=beyond,
        distance_unit="µm",
    )
    assert len(figure.axes) == n_types
    ticks = figure.axes[0].get_xticks() / bin_size
    np.testing.assert_allclose(ticks, np.round(ticks))
    assert 2 <= len(ticks) <= 6
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert_tidy(figure)


def test_titles_fit_their_panels() -> None:
    for width in (0.5, 1.0):
        fitted = fit(LONG[0], width)
        assert "…" in fitted
        assert 0.8 * width < text_width(fitted) <= width
    assert fit(" L2/3\n IT", 1.0) == "L2/3 IT"


def test_one_bin_wider_than_all() -> None:
    axes = draw(by_hand()[:1], bin_size=50.0).axes[0]
    assert axes.get_xticks().tolist() == [0.0]
    assert medians(axes) == [6.0]


def test_no_edges() -> None:
    for empty in (by_hand()[:0], by_hand().assign(count=0)):
        figure = draw(empty, beyond={"B": 0})
        assert not figure.axes
        assert texts(figure) == ["There are no edges: no cell has a neighbor."]


def test_refused() -> None:
    histogram = by_hand()
    for name in ("max_distance", "bin_size"):
        for wrong in (0.0, float("nan"), "far"):
            with pytest.raises(ParameterError, match=f"`{name}` must be a positive number. Got"):
                draw(histogram, **{name: wrong})
    with pytest.raises(ParameterError, match=r"`histogram` must have the columns .*Missing: 'count'"):
        draw(histogram.drop(columns="count"))
    with pytest.raises(
        ParameterError, match="`histogram` must have one row per receiver, distance_bin. Got several of 'T'"
    ):
        draw(pd.concat([histogram, histogram[:1]]))
    with pytest.raises(ParameterError, match="`count` of `histogram` must hold whole numbers of at least 0. Got nan"):
        draw(histogram.assign(count=np.nan))
    with pytest.raises(ParameterError, match="`beyond` must hold whole numbers of at least 0. Got -1"):
        draw(histogram, beyond={"T": -1})
    for bins in ([-5.0], [2.5], [15.0], [np.nan]):
        with pytest.raises(
            ParameterError, match=f"`distance_bin` of `histogram` must hold multiples .*Got {bins[0]:g}"
        ):
            draw(histogram[:1].assign(distance_bin=bins))
    for changes in ({"histogram": histogram.assign(receiver=[f"x{row}" for row in range(9)])}, {"beyond": {"x0": 1}}):
        with pytest.raises(ParameterError, match="`palette` must give each cell type a color. Missing: 'x0'"):
            draw(**{"histogram": histogram, **changes})
