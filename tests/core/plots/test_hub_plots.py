"""Figures of communication hubs: what they hold, in which colours, and that nothing overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from figure_checks import LONG, assert_tidy, type_names
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots import _tissue_panels
from tissue_crosstalk.core.plots import hubs as hub_plots
from tissue_crosstalk.core.plots.hub_style import ISOLATED_COLOR, hub_colors, hub_name, hub_palette
from tissue_crosstalk.core.plots.hubs import plot_hub_composition, plot_hub_map
from tissue_crosstalk.core.plots.style import distinct_colors, readable_on_white, save_figure


def sentence(figure: Figure) -> str:
    """Return what a figure without a panel says."""
    assert not figure.axes
    (text,) = figure.texts
    return text.get_text().replace("\n", " ")


def written(axes: Any) -> list[str]:
    """Return the texts in a panel."""
    return [text.get_text() for text in axes.texts if text.get_text()]


def labels(ticks: Sequence[Text]) -> list[str]:
    return [label.get_text() for label in ticks]


def dots(axes: Any) -> list[Any]:
    return [artist for artist in axes.collections if isinstance(artist, PathCollection)]


def offsets(artist: Any) -> Any:
    return np.asarray(artist.get_offsets())


def points(axes: Any) -> np.ndarray:
    """Return (x, y, red, green, blue, alpha) of every point, sorted."""
    rows = []
    for artist in axes.collections:
        offsets = np.asarray(artist.get_offsets())
        colors = np.broadcast_to(artist.get_facecolors(), (len(offsets), 4))
        rows.append(np.column_stack([offsets, colors]))
    together = np.concatenate(rows)
    return together[np.lexsort(together.T)]


def key(figure: Any) -> dict[str, str]:
    """Return the colours of the key by its texts."""
    (legend,) = figure.legends
    return dict(zip(labels(legend.get_texts()), [line.get_color() for line in legend.legend_handles], strict=True))


def make_hubs(n_types: int, n_hubs: int, n_cells: int = 300) -> pd.DataFrame:
    """Return compositions that sum to 1, or to 0 for the last cell, and hubs that all occur."""
    shares = np.random.default_rng(0).dirichlet(np.ones(n_types), n_cells)
    shares[-1] = 0.0
    hubs = pd.DataFrame(shares, columns=type_names(n_types), index=[f"cell {number}" for number in range(n_cells)])
    hubs["hub_cluster"] = np.arange(n_cells) % n_hubs
    return hubs


class TestNames:
    def test_colors(self) -> None:
        """Those of a hub do not depend on which others there are."""
        assert hub_colors(12) == list(distinct_colors(12))
        assert hub_colors(0) == []
        assert ISOLATED_COLOR.lower() not in hub_colors(30)
        assert list(hub_palette([4, -1, 2, 4]).items()) == [
            (2, hub_colors(12)[2]),
            (4, hub_colors(12)[4]),
            (-1, ISOLATED_COLOR),
        ]

    def test_names(self) -> None:
        assert [hub_name(hub) for hub in (0, 12, -1)] == ["hub 0", "hub 12", "isolated"]


class TestComposition:
    def test_means_by_hand(self) -> None:
        """Isolated cells count in the note only; a hub keeps its colour where others are missing."""
        hubs = pd.DataFrame(
            {"B": [1.0, 0.5, 0, 0, 0], "T": [0.0, 0.5, 1, 0, 0], "hub_cluster": [0, 0, 10, 10, -1]}, index=list("abcde")
        )
        before = hubs.copy()
        figure = plot_hub_composition(hubs)
        axes, bar = figure.axes
        np.testing.assert_array_equal(axes.images[0].get_array(), [[0.75, 0.25], [0.0, 0.5]])
        assert labels(axes.get_yticklabels()) == ["hub 0 (2 cells)", "hub 10 (2 cells)"]
        colors = [to_hex(label.get_color()) for label in axes.get_yticklabels()]
        assert colors == [readable_on_white(hub_colors(11)[hub]) for hub in (0, 10)]
        assert labels(axes.get_xticklabels()) == ["B", "T"]
        assert written(axes) == ["0.75", "0.25", "0.00", "0.50"]
        assert bar.get_xlabel() == "mean share of strong neighbors"
        assert axes.images[0].get_clim() == (0.0, 0.75)
        assert labels(figure.texts) == [
            "Strong neighbors of hubs by cell\ntype",
            "1 isolated cell (20.0%) has no strong neighbor.",
        ]
        assert_tidy(figure)
        pd.testing.assert_frame_equal(hubs, before)

    def test_equals_groupby_in_the_order_asked_for(self) -> None:
        hubs = make_hubs(6, 5).sample(frac=1.0, random_state=0)
        figure: Any = plot_hub_composition(hubs, order=["L2/3 IT", "_odd"])
        axes = figure.axes[0]
        assert labels(axes.get_xticklabels()) == ["L2/3 IT", "_odd"]
        expected = hubs.groupby("hub_cluster")[["L2/3 IT", "_odd"]].mean()
        np.testing.assert_allclose(axes.images[0].get_array(), expected.to_numpy())
        assert len(figure.texts) == 1  # the title: no cell is isolated

    def test_only_few_squares_hold_numbers(self) -> None:
        assert len(written(plot_hub_composition(make_hubs(5, 12)).axes[0])) == hub_plots.MOST_ANNOTATED == 60

    def test_nothing_overlaps(self) -> None:
        hubs = make_hubs(25, 12, n_cells=13_000)
        hubs.loc[::10, "hub_cluster"] = -1
        figure = plot_hub_composition(hubs, order=[*type_names(25)[1:], LONG[0]])  # a long name in the last column
        assert labels(figure.texts) == [
            "Strong neighbors of hubs by cell type",
            "1,300 isolated cells (10.0%) have no strong neighbor.",
        ]
        assert not written(figure.axes[0])
        assert_tidy(figure)

    def test_no_strong_neighbor_anywhere(self) -> None:
        """Of isolated cells the figure speaks; rows of zeros that were clustered are drawn."""
        hubs = make_hubs(3, 1)
        hubs.iloc[:, :3] = 0.0
        axes: Any = plot_hub_composition(hubs).axes[0]
        np.testing.assert_array_equal(axes.images[0].get_array(), np.zeros((1, 3)))
        figure = plot_hub_composition(hubs.assign(hub_cluster=-1))
        assert sentence(figure) == "There is no hub: no cell has a strong neighbor (300 cells)."

    def test_refused(self) -> None:
        hubs = make_hubs(3, 2)
        with pytest.raises(ParameterError, match="must have the column 'hub_cluster'"):
            plot_hub_composition(hubs.drop(columns="hub_cluster"))
        with pytest.raises(ParameterError, match=r"`order` must name columns of `hubs`\. Missing: 'NK'"):
            plot_hub_composition(hubs, order=["NK"])
        with pytest.raises(ParameterError, match="Got 0 cells and 3 types"):
            plot_hub_composition(hubs[:0])
        with pytest.raises(ParameterError, match="Got 300 cells and 0 types"):
            plot_hub_composition(hubs[["hub_cluster"]])
        with pytest.raises(ParameterError, match=r"`hub_cluster` of `hubs` must hold whole numbers .*Got -2"):
            plot_hub_composition(hubs.assign(hub_cluster=-2))


class TestMap:
    def test_points_by_hand(self) -> None:
        """Four cells, one of them isolated and no hub 0; the third coordinate is not drawn."""
        figure: Any = plot_hub_map(
            [[0.0, 1.0, 9.0], [2.0, 3.0, 9.0], [4.0, 0.0, 9.0], [1.0, 1.0, 9.0]], [2, 1, 2, -1], distance_unit="µm"
        )
        (axes,) = figure.axes
        _, second, third = hub_colors(3)
        drawn = {(x, y): to_hex(color) for x, y, *color in points(axes).tolist()}
        assert drawn == {
            (0.0, 1.0): third, (2.0, 3.0): second, (4.0, 0.0): third, (1.0, 1.0): ISOLATED_COLOR.lower()
        }  # fmt: skip
        assert key(figure) == {
            "hub 1 (1 cell)": second, "hub 2 (2 cells)": third, "isolated (1 cell)": ISOLATED_COLOR
        }  # fmt: skip
        assert list(key(figure))[-1] == "isolated (1 cell)"
        assert axes.get_aspect() == 1.0
        assert all(artist.get_rasterized() for artist in axes.collections)
        assert axes.texts[-1].get_text() == "1 µm"

    def test_no_panel_title_for_one_section(self) -> None:
        for section in (None, ["a", "a"]):
            (axes,) = plot_hub_map([[0, 0], [1, 1]], [0, 1], section).axes
            assert axes.get_title() == ""

    def test_a_panel_per_section_on_one_scale(self) -> None:
        generator = np.random.default_rng(0)
        xy = generator.random((40, 2)) * 100
        section = np.repeat(["s10", "s2"], 20)
        xy[:20] += 5000.0  # far away from the other in one system of coordinates
        xy[20:] *= 0.3
        figure = plot_hub_map(xy, np.arange(40) % 3, section)
        first, second = figure.axes
        assert [axes.get_title() for axes in figure.axes] == ["s2", "s10"]
        np.testing.assert_array_equal(np.sort(points(first)[:, 0]), np.sort(xy[20:, 0]))
        np.testing.assert_array_equal(np.sort(points(second)[:, 0]), np.sort(xy[:20, 0]))
        assert np.ptp(first.get_xlim()) == pytest.approx(np.ptp(second.get_xlim()))
        for axes in figure.axes:
            x, y = points(axes)[:, :2].T
            assert axes.get_xlim()[0] < x.min() < x.max() < axes.get_xlim()[1]
            assert axes.get_ylim()[0] < y.min() < y.max() < axes.get_ylim()[1]
        assert len([axes for axes in figure.axes if axes.texts]) == 1  # one scale bar for all

    def test_a_bar_of_the_length_it_names(self) -> None:
        figure = plot_hub_map([[0.0, 0.0], [1000.0, 700.0]], [0, 0])
        (axes,) = figure.axes
        (bar,) = axes.lines
        start, end = axes.transData.inverted().transform(bar.get_transform().transform(bar.get_xydata()))
        assert end[0] - start[0] == pytest.approx(float(axes.texts[-1].get_text()))
        assert axes.texts[-1].get_text() == "200"

    def test_only_the_largest_sections(self) -> None:
        section = np.repeat([f"s{number}" for number in range(15)], np.arange(5, 20))
        long = np.char.add(section, " of a mouse with a rather long name")
        xy, hub = np.random.default_rng(0).random((len(section), 2)), np.arange(len(section)) % 21 - 1
        figure = plot_hub_map(xy, hub, long, distance_unit="µm")
        titles = [axes.get_title().split()[0] for axes in figure.axes]
        assert titles == [f"s{number}" for number in range(3, 15)]
        assert labels(figure.texts) == ["Hubs in the tissue", "The 12 largest of 15 sections; counts are of all cells."]
        assert list(key(figure)) == [f"{hub_name(one)} ({(hub == one).sum()} cells)" for one in [*range(20), -1]]
        assert_tidy(figure)

    def test_many_cells_are_smaller_and_drawn_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Isolated cells are the first, and lie beneath all others."""
        generator = np.random.default_rng(0)
        xy, hub = generator.random((5000, 2)), generator.integers(-1, 4, 5000)
        singly: Any = plot_hub_map(xy, hub).axes[0]
        monkeypatch.setattr(_tissue_panels, "MOST_SINGLY_COLORED", 100)
        blocks: Any = plot_hub_map(xy, hub).axes[0]
        assert len(singly.collections) == len(blocks.collections) == 2
        assert len(blocks.collections[1].lengths) == 40
        np.testing.assert_allclose(points(singly), points(blocks))
        for axes in (singly, blocks):
            first = axes.collections[0]
            assert {to_hex(color) for color in first.get_facecolors()} == {ISOLATED_COLOR.lower()}
            np.testing.assert_array_equal(np.sort(offsets(first)[:, 0]), np.sort(xy[hub == -1, 0]))
            assert len({artist.get_zorder() for artist in axes.collections}) == 1
        monkeypatch.undo()
        few: Any = plot_hub_map(xy[:500], hub[:500]).axes[0]
        assert few.collections[0].get_sizes()[0] > singly.collections[0].get_sizes()[0]

    @pytest.mark.parametrize("shape", [(30.0, 1.0), (1.0, 0.0)])
    def test_nothing_overlaps_whatever_the_shape(self, shape: tuple[float, float]) -> None:
        xy = np.random.default_rng(0).random((400, 2)) * shape
        figure = plot_hub_map(xy, np.arange(400) % 41 - 1, distance_unit="µm")
        assert len(set(key(figure).values())) == 41
        assert_tidy(figure)

    def test_cells_on_one_spot(self) -> None:
        """All of them isolated."""
        figure = plot_hub_map([[3.0, 3.0], [3.0, 3.0]], [-1, -1])
        assert key(figure) == {"isolated (2 cells)": ISOLATED_COLOR}
        assert_tidy(figure)

    def test_same_file_every_time(self, tmp_path: Path) -> None:
        xy = np.random.default_rng(0).random((30, 2))
        hub = np.arange(30) % 4 - 1
        first = save_figure(plot_hub_map(xy, hub), tmp_path / "a.svg").read_bytes()
        assert save_figure(plot_hub_map(xy, hub), tmp_path / "b.svg").read_bytes() == first
        assert first.count(b"<image") == 1

    def test_refused(self) -> None:
        with pytest.raises(ParameterError, match=r"`coordinates` must have the shape .* Got \(2, 4\)"):
            plot_hub_map(np.zeros((2, 4)), [0, 1])
        with pytest.raises(ParameterError, match=r"`hub_cluster` .* expected \(2,\), got \(3,\)"):
            plot_hub_map(np.zeros((2, 2)), [0, 1, 2])
        with pytest.raises(ParameterError, match=r"`section` .* expected \(2,\), got \(1,\)"):
            plot_hub_map(np.zeros((2, 2)), [0, 1], ["a"])
        with pytest.raises(ParameterError, match=r"at least one cell\. Got none"):
            plot_hub_map(np.zeros((0, 2)), [])
        with pytest.raises(ParameterError, match="`coordinates` must be finite"):
            plot_hub_map([[0.0, np.nan]], [0])
        with pytest.raises(ParameterError, match=r"`hub_cluster` must hold whole numbers .*Got 0\.5"):
            plot_hub_map([[0.0, 0.0]], [0.5])
        with pytest.raises(ParameterError, match=r"`most_sections` must be at least 1\. Got 0"):
            plot_hub_map([[0.0, 0.0]], [0], most_sections=0)
