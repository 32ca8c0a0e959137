"""Figures of communication hubs: what they hold, in which colours, and that nothing overlaps."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots import hubs as hub_plots
from tissue_crosstalk.core.plots.hubs import plot_hub_composition, plot_hub_map, plot_silhouette
from tissue_crosstalk.core.plots.style import PNG_DPI, distinct_colors, figure_style, save_figure

LONG = ["Forebrain/Midbrain/Hindbrain", "Haematoendothelial progenitors", "Tumor, CD4+ $x$", "_odd", "L2/3 IT"]


def make_hubs(n_types: int, n_hubs: int, n_cells: int = 300) -> pd.DataFrame:
    """Return compositions that sum to 1, or to 0 for the last cell, and hubs that all occur."""
    generator = np.random.default_rng(0)
    names = (LONG + [f"type {number}" for number in range(n_types)])[:n_types]
    shares = generator.dirichlet(np.ones(n_types), n_cells)
    shares[-1] = 0.0
    hubs = pd.DataFrame(shares, columns=names, index=[f"cell {number}" for number in range(n_cells)])
    hubs["hub_cluster"] = np.arange(n_cells) % n_hubs
    return hubs


def overlaps(first: Bbox, second: Bbox) -> bool:
    """Return whether two boxes share more than a pixel."""
    shared = Bbox.intersection(first, second)
    return shared is not None and shared.width > 1 and shared.height > 1


def assert_tidy(figure: Figure, *, slanted: bool = False) -> None:
    """Check that text is within the figure, that no two texts overlap, and that no key covers a panel."""
    figure.set_dpi(PNG_DPI)
    with figure_style():
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
    renderer = canvas.get_renderer()
    hidden = set()  # labels of ticks that lie outside of the limits
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            if not low <= tick.get_loc() <= high:
                hidden |= {tick.label1, tick.label2}
    boxes = [
        (text.get_text(), text.get_window_extent(renderer), text.get_rotation())
        for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_text() and text.get_visible() and text not in hidden
    ]
    for content, box, _ in boxes:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, f"{content!r} is cut off"
    for (one, first, turned), (other, second, also_turned) in itertools.combinations(boxes, 2):
        if not (
            slanted and turned == also_turned == 45
        ):  # upright boxes around slanted names overlap, the names do not
            assert not overlaps(first, second), f"{one!r} overlaps {other!r}"
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y0 >= -1
        assert not any(overlaps(box, axes.get_window_extent(renderer)) for axes in figure.axes)


def labels(figure: Figure) -> list[str]:
    """Return the texts of the key."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def points(axes: Any) -> np.ndarray:
    """Return (x, y, red, green, blue, alpha) of every point, sorted."""
    rows = []
    for artist in axes.collections:
        offsets = np.asarray(artist.get_offsets())
        colors = np.broadcast_to(artist.get_facecolors(), (len(offsets), 4))
        rows.append(np.column_stack([offsets, colors]))
    together = np.concatenate(rows)
    return together[np.lexsort(together.T)]


class TestComposition:
    def test_means_by_hand(self) -> None:
        hubs = pd.DataFrame(
            {"B": [1.0, 0.5, 0.0, 0.0], "T": [0.0, 0.5, 1.0, 0.0], "hub_cluster": [0, 0, 10, 10]}, index=list("abcd")
        )
        axes, bar = plot_hub_composition(hubs).axes
        np.testing.assert_array_equal(axes.images[0].get_array(), [[0.75, 0.25], [0.0, 0.5]])
        assert [label.get_text() for label in axes.get_yticklabels()] == ["hub 0 (2 cells)", "hub 10 (2 cells)"]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["B", "T"]
        assert [text.get_text() for text in axes.texts if text.get_text()] == ["0.75", "0.25", "0.00", "0.50"]
        assert bar.get_xlabel() == "mean share of strong neighbors"
        assert axes.images[0].get_clim() == (0.0, 0.75)

    def test_equals_groupby(self) -> None:
        hubs = make_hubs(6, 5).sample(frac=1.0, random_state=0)
        expected = hubs.groupby("hub_cluster").mean()
        axes: Any = plot_hub_composition(hubs).axes[0]
        np.testing.assert_allclose(axes.images[0].get_array(), expected.to_numpy())

    def test_order_of_types(self) -> None:
        hubs = make_hubs(5, 2)
        axes: Any = plot_hub_composition(hubs, order=["L2/3 IT", "_odd"]).axes[0]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["L2/3 IT", "_odd"]
        expected = hubs.groupby("hub_cluster")[["L2/3 IT", "_odd"]].mean()
        np.testing.assert_allclose(axes.images[0].get_array(), expected.to_numpy())

    def test_only_few_squares_hold_numbers(self) -> None:
        assert len([text for text in plot_hub_composition(make_hubs(5, 12)).axes[0].texts if text.get_text()]) == 60
        assert not [text for text in plot_hub_composition(make_hubs(25, 12)).axes[0].texts if text.get_text()]

    @pytest.mark.parametrize(("n_types", "n_hubs"), [(1, 1), (3, 3), (5, 12), (25, 3), (25, 20)])
    def test_nothing_overlaps(self, n_types: int, n_hubs: int) -> None:
        assert_tidy(plot_hub_composition(make_hubs(n_types, n_hubs)), slanted=True)

    def test_long_name_in_the_last_column(self) -> None:
        hubs = make_hubs(5, 2)
        assert_tidy(plot_hub_composition(hubs[[*reversed(hubs.columns[:-1]), "hub_cluster"]]), slanted=True)

    def test_no_strong_neighbor_anywhere(self) -> None:
        hubs = make_hubs(3, 1)
        hubs.iloc[:, :3] = 0.0
        axes: Any = plot_hub_composition(hubs).axes[0]
        np.testing.assert_array_equal(axes.images[0].get_array(), np.zeros((1, 3)))

    def test_argument_stays_as_it_is(self) -> None:
        hubs = make_hubs(3, 2)
        before = hubs.copy()
        plot_hub_composition(hubs)
        pd.testing.assert_frame_equal(hubs, before)

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


class TestMap:
    def test_points_by_hand(self) -> None:
        """Three cells in two hubs; the third coordinate is not drawn."""
        figure = plot_hub_map([[0.0, 1.0, 9.0], [2.0, 3.0, 9.0], [4.0, 0.0, 9.0]], [1, 0, 1], distance_unit="µm")
        (axes,) = figure.axes
        first, second = distinct_colors(2)
        drawn = {(x, y): to_hex(color) for x, y, *color in points(axes).tolist()}
        assert drawn == {(0.0, 1.0): second, (2.0, 3.0): first, (4.0, 0.0): second}
        assert labels(figure) == ["hub 0 (1 cell)", "hub 1 (2 cells)"]
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
        figure = plot_hub_map(np.random.default_rng(0).random((len(section), 2)), np.zeros(len(section), int), section)
        assert [axes.get_title() for axes in figure.axes] == [f"s{number}" for number in range(3, 15)]
        text = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
        assert text == "The 12 largest of 15 sections; counts are of all cells."
        assert labels(figure) == [f"hub 0 ({len(section)} cells)"]
        assert_tidy(figure)

    def test_many_cells_are_smaller_and_drawn_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        generator = np.random.default_rng(0)
        xy, hub = generator.random((5000, 2)), generator.integers(0, 4, 5000)
        singly: Any = plot_hub_map(xy, hub).axes[0]
        monkeypatch.setattr(hub_plots, "MOST_SINGLY_COLORED", 100)
        blocks = plot_hub_map(xy, hub).axes[0]
        assert len(singly.collections) == 1 < len(blocks.collections)
        np.testing.assert_allclose(points(singly), points(blocks))
        monkeypatch.undo()
        few: Any = plot_hub_map(xy[:500], hub[:500]).axes[0]
        assert few.collections[0].get_sizes()[0] > singly.collections[0].get_sizes()[0]

    def test_every_hub_has_its_color(self) -> None:
        figure: Any = plot_hub_map(np.random.default_rng(0).random((60, 2)), np.arange(60) % 20)
        colors = {to_hex(handle.get_color()) for handle in figure.legends[0].legend_handles}
        assert len(colors) == 20
        assert {to_hex(color) for color in points(figure.axes[0])[:, 2:]} == colors

    @pytest.mark.parametrize(("n_sections", "n_hubs"), [(1, 2), (1, 40), (2, 3), (5, 12), (12, 20)])
    @pytest.mark.parametrize("shape", [(1.0, 1.0), (1.0, 30.0), (30.0, 1.0), (1.0, 0.0)])
    def test_nothing_overlaps(self, n_sections: int, n_hubs: int, shape: tuple[float, float]) -> None:
        xy = np.random.default_rng(0).random((400, 2)) * shape
        section = [f"section {number % n_sections} of a mouse with a rather long name" for number in range(400)]
        assert_tidy(plot_hub_map(xy, np.arange(400) % n_hubs, section, distance_unit="µm"))

    def test_cells_on_one_spot(self) -> None:
        assert_tidy(plot_hub_map([[3.0, 3.0], [3.0, 3.0]], [0, 0]))

    def test_same_file_every_time(self, tmp_path: Path) -> None:
        xy = np.random.default_rng(0).random((30, 2))
        first = save_figure(plot_hub_map(xy, np.arange(30) % 3), tmp_path / "a.svg").read_bytes()
        assert save_figure(plot_hub_map(xy, np.arange(30) % 3), tmp_path / "b.svg").read_bytes() == first
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
        with pytest.raises(ParameterError, match=r"`most_sections` must be at least 1\. Got 0"):
            plot_hub_map([[0.0, 0.0]], [0], most_sections=0)


class TestSilhouette:
    def test_line_and_mark(self) -> None:
        figure: Any = plot_silhouette({4: 0.2, 2: 0.3, 3: 0.5}, chosen=3)
        (axes,) = figure.axes
        line, mark = axes.lines
        assert line.get_xydata().tolist() == [[2, 0.3], [3, 0.5], [4, 0.2]]
        assert mark.get_xydata().tolist() == [[3, 0.5]]
        assert to_hex(mark.get_color()) != to_hex(line.get_color())
        assert [text.get_text() for text in axes.texts if text.get_text()] == ["3 hubs chosen"]
        assert axes.get_xlabel() == "number of hubs"
        assert axes.get_ylabel() == "mean silhouette"
        assert axes.get_xticks().tolist() == [2, 3, 4]

    @pytest.mark.parametrize("chosen", [2, 7, 12])
    @pytest.mark.parametrize("slope", [-0.05, 0.0, 0.05])
    def test_nothing_overlaps(self, chosen: int, slope: float) -> None:
        assert_tidy(plot_silhouette({number: 0.5 + slope * number for number in range(2, 13)}, chosen))

    def test_a_single_number(self) -> None:
        assert_tidy(plot_silhouette({2: 0.3}, 2))

    def test_number_that_was_given(self) -> None:
        figure = plot_silhouette({}, 5)
        assert not figure.axes
        assert figure.texts[0].get_text() == "The number of hubs was given (5): no silhouette was computed."
        assert_tidy(figure)

    def test_refused(self) -> None:
        with pytest.raises(ParameterError, match=r"that were tried, '2', '3'\. Got 5 instead"):
            plot_silhouette({2: 0.1, 3: 0.2}, chosen=5)
