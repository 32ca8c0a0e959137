"""Figures of the statistics of hubs: what they hold, worked out by hand, and that nothing overlaps."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from test_hub_plots import assert_tidy, dots, labels, offsets, sentence, type_names, written

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots.hub_statistics import plot_hub_enrichment, plot_hub_sizes, plot_number_of_hubs
from tissue_crosstalk.core.plots.hub_style import ISOLATED_COLOR, hub_colors
from tissue_crosstalk.core.plots.style import cell_type_palette, readable_on_white

QUALITY = "How good and how stable hubs are"
NO_STABILITY = pd.DataFrame({"n_hubs": [], "varied": [], "replicate": [], "adjusted_rand": []})


class TestNumber:
    @staticmethod
    def stability(numbers: list[int]) -> pd.DataFrame:
        """Return three repeats of each kind; agreement is 1 - 0.1 k, and 0.1 k less with resampled cells, ± 0.02."""
        return pd.DataFrame(
            [
                (k, varied, replicate, 1 - (0.05 if varied == "seed" else 0.06) * k + (replicate - 1) * 0.02)
                for k in numbers
                for varied in ("cells", "seed")
                for replicate in range(3)
            ],
            columns=["n_hubs", "varied", "replicate", "adjusted_rand"],
        )

    def test_both_panels_by_hand(self) -> None:
        figure: Any = plot_number_of_hubs({4: 0.2, 2: 0.3, 3: 0.5}, self.stability([2, 3, 4]), 3, "stability")
        left, right = figure.axes
        lines = {line.get_label(): line for line in right.lines}
        mark, curve, chosen = left.lines
        assert curve.get_xydata().tolist() == [[2, 0.3], [3, 0.5], [4, 0.2]]
        assert chosen.get_xydata().tolist() == [[3, 0.5]]
        assert list(mark.get_xdata()) == list(lines["_chosen"].get_xdata()) == [3, 3]
        np.testing.assert_allclose(lines["seed"].get_xydata(), [[2, 0.9], [3, 0.85], [4, 0.8]])
        np.testing.assert_allclose(lines["cells"].get_xydata(), [[2, 0.88], [3, 0.82], [4, 0.76]])
        first, second = dots(right)
        np.testing.assert_allclose(
            np.sort(offsets(first)[:, 1]), np.sort([0.9, 0.85, 0.8] * 3 + np.repeat([-0.02, 0, 0.02], 3))
        )
        assert offsets(first)[:, 0].max() < 4 < offsets(second)[:, 0].max()
        bands = [artist for artist in right.collections if artist.get_label() == "_range"]
        np.testing.assert_allclose(bands[0].get_paths()[0].get_extents().extents, [2, 0.78, 4, 0.92])
        assert [text.get_text() for text in figure.texts] == [QUALITY, "3 hubs, chosen by stability"]
        assert sorted(written(right)) == ["other seeds", "resampled cells"]
        assert left.get_xlim() == right.get_xlim()
        assert left.get_xticks().tolist() == right.get_xticks().tolist() == [2, 3, 4]
        assert (left.get_ylabel(), right.get_ylabel()) == ("mean silhouette", "adjusted Rand index")
        assert left.get_xlabel() == right.get_xlabel() == "number of hubs"

    def test_nothing_overlaps(self) -> None:
        numbers = list(range(2, 13))
        assert_tidy(plot_number_of_hubs({k: 0.3 + 0.01 * k for k in numbers}, self.stability(numbers), 12, "given"))

    def test_no_stability(self) -> None:
        figure: Any = plot_number_of_hubs({2: 0.3, 3: 0.5}, NO_STABILITY, 2, "silhouette")
        (axes,) = figure.axes
        assert axes.get_ylabel() == "mean silhouette"
        assert figure.texts[1].get_text() == "2 hubs, chosen by silhouette"

    def test_a_single_number_is_points(self) -> None:
        figure: Any = plot_number_of_hubs({5: 0.4}, self.stability([5]), 5, "given")
        left, right = figure.axes
        points = [line for line in (*left.lines, *right.lines) if line.get_marker() != "None"]
        assert len(points) == 4
        assert {line.get_linestyle() for line in points} == {"None"}
        assert not [artist for artist in right.collections if artist.get_label() == "_range"]

    def test_only_stability(self) -> None:
        (axes,) = plot_number_of_hubs({}, self.stability([5]).query("varied == 'cells'"), 5, "given").axes
        assert axes.get_ylabel() == "adjusted Rand index"
        assert written(axes) == ["resampled cells"]
        np.testing.assert_allclose(offsets(dots(axes)[0])[:, 0], 5.0)

    def test_number_that_was_not_tried_is_not_marked(self) -> None:
        figure: Any = plot_number_of_hubs({2: 0.3, 3: 0.5}, NO_STABILITY, 1, "silhouette")
        (line,) = figure.axes[0].lines
        assert line.get_xydata().tolist() == [[2, 0.3], [3, 0.5]]
        assert figure.texts[1].get_text() == "1 hub, chosen by silhouette"

    def test_nothing_to_draw(self) -> None:
        nan = self.stability([2]).assign(adjusted_rand=np.nan)
        for stability in (NO_STABILITY, nan):
            text = sentence(plot_number_of_hubs({}, stability, 5, "given"))
            assert text == "5 hubs, given: no silhouette and no stability was computed."
        none = plot_number_of_hubs({}, NO_STABILITY, 0, "silhouette")
        assert sentence(none) == "There is no hub: no cell has a strong neighbor."

    def test_refused(self) -> None:
        with pytest.raises(ParameterError, match=r"`chosen_by` must be one of .*Got 'silouette'.*Did you mean 'silh"):
            plot_number_of_hubs({}, NO_STABILITY, 2, "silouette")
        with pytest.raises(ParameterError, match=r"`chosen` must be .* at least 0\. Got -1"):
            plot_number_of_hubs({}, NO_STABILITY, -1, "given")
        with pytest.raises(ParameterError, match=r"`stability` must have the columns .*Missing: 'varied'"):
            plot_number_of_hubs({}, NO_STABILITY.drop(columns="varied"), 2, "given")
        with pytest.raises(ParameterError, match=r"`varied` of `stability` must be 'seed', 'cells'\. Got 'genes'"):
            plot_number_of_hubs({}, self.stability([2]).assign(varied="genes"), 2, "given")


class TestEnrichment:
    @staticmethod
    def table(n_types: int, n_hubs: int) -> pd.DataFrame:
        """Return random enrichments of every type in every hub."""
        generator = np.random.default_rng(0)
        table = pd.DataFrame(
            list(itertools.product(range(n_hubs), type_names(n_types))),
            columns=["hub", "sender"],
        )
        table["log2_enrichment"] = generator.normal(0.0, 1.0, len(table))
        table["q_value"] = generator.random(len(table)) ** 4
        return table.assign(log2_at_hand=table["log2_enrichment"] / 2, q_at_hand=0.5)

    def test_dots_by_hand(self) -> None:
        table = pd.DataFrame(
            {
                "hub": [1, 1, 0, 0, -1],
                "sender": ["T", "B", "T", "B", "B"],
                "log2_enrichment": [9.0, -np.inf, 0.0, np.nan, 1.0],
                "q_value": [1e-9, 0.001, 1.0, np.nan, 0.1],
            }
        )
        figure: Any = plot_hub_enrichment(table)
        axes, bar = figure.axes
        assert labels(axes.get_yticklabels()) == ["hub 0", "hub 1", "isolated"]
        assert labels(axes.get_xticklabels()) == ["T", "B"]
        first, second = hub_colors(2)
        assert [to_hex(label.get_color()) for label in axes.get_yticklabels()] == [
            readable_on_white(color) for color in (first, second, ISOLATED_COLOR)
        ]
        assert axes.get_ylim() == (2.5, -0.5)  # hub 0 at the top
        drawn, crosses = dots(axes)
        assert offsets(drawn).tolist() == [[0, 1], [1, 1], [0, 0], [1, 2]]
        assert offsets(crosses).tolist() == [[1, 0]]
        np.testing.assert_allclose(drawn.get_sizes(), [130.0, 130.0, 10.0, 50.0])  # 10 + 40 min(-log10 q, 3)
        np.testing.assert_allclose(drawn.get_linewidths(), [0.9, 0.9, 0.0, 0.0])
        # The 99th percentile of 9, 0 and 1 is 8.84: the scale ends at 4.
        assert bar.get_xlim() == (-4.0, 4.0)
        red, blue, grey, pale = (np.asarray(color) for color in drawn.get_facecolors())
        assert red[0] > 0.6 > 0.2 > red[2]
        assert blue[2] > 0.6 > 0.3 > blue[0]
        assert np.ptp(grey[:3]) < 0.02
        assert red[2] < pale[2] < pale[0]
        assert labels(figure.legends[0].get_texts()) == [
            "q = 1", "q = 0.1", "q = 0.01", "q ≤ 0.001", "outline: q < 0.05", "none expected",
        ]  # fmt: skip
        assert bar.get_xlabel().replace("\n", " ") == (
            "strong neighbors: log2 (observed / expected) "
            "expected: hub labels permuted among cells of one section, receiver type and number of strong neighbors"
        )

    def test_limits_of_the_colors(self) -> None:
        small = self.table(1, 1).assign(log2_enrichment=0.2)
        assert plot_hub_enrichment(small).axes[1].get_xlim() == (-1.0, 1.0)
        table = self.table(3, 12)
        expected = np.percentile(np.abs(table["log2_enrichment"]), 99)
        assert 1 < expected < 4
        np.testing.assert_allclose(plot_hub_enrichment(table).axes[1].get_xlim(), [-expected, expected])

    def test_against_the_neighbors_at_hand(self) -> None:
        table = self.table(3, 2).drop(columns=["log2_enrichment", "q_value"])
        axes, bar = plot_hub_enrichment(table, null="at_hand", q_threshold=0.6).axes
        np.testing.assert_allclose(dots(axes)[0].get_sizes(), 10 + 40 * np.log10(2))
        np.testing.assert_allclose(dots(axes)[0].get_linewidths(), 0.9)
        assert bar.get_xlabel().endswith("expected: what neighbors of these\ntypes at hand would give")

    def test_nothing_overlaps(self) -> None:
        table = self.table(25, 12)
        before = table.copy()
        figure = plot_hub_enrichment(table)
        assert_tidy(figure)
        pd.testing.assert_frame_equal(table, before)
        assert labels(figure.axes[0].get_xticklabels()) == type_names(25)

    def test_no_hub(self) -> None:
        assert sentence(plot_hub_enrichment(self.table(3, 0))) == "No enrichment of senders: there is no hub."

    def test_refused(self) -> None:
        table = self.table(3, 2)
        with pytest.raises(ParameterError, match=r"`null` must be one of 'permutation', 'at_hand'\. Got 'at hand'"):
            plot_hub_enrichment(table, null="at hand")  # type: ignore[arg-type]
        with pytest.raises(ParameterError, match=r"`enrichment` must have the columns .*Missing: 'q_value'"):
            plot_hub_enrichment(table.drop(columns="q_value"))
        with pytest.raises(ParameterError, match=r"`q_threshold` must be above 0 and at most 1\. Got 0"):
            plot_hub_enrichment(table, q_threshold=0)
        with pytest.raises(ParameterError, match="one row per hub and sender. Got several of hub 0 and '_odd'"):
            plot_hub_enrichment(table.assign(hub=0, sender="_odd"))
        for wrong in (-2, 0.5, "x", None):
            with pytest.raises(ParameterError, match=rf"`hub` of `enrichment` must hold whole numbers .*Got {wrong!r}"):
                plot_hub_enrichment(table.assign(hub=pd.Series([wrong] * 6, dtype=object)))


class TestSizes:
    def test_bars_by_hand(self) -> None:
        """Two sections are added up; types are stacked in the order of the palette, without those of no cell."""
        shares = pd.DataFrame(
            {
                "hub": [-1, 1, 0, 0, 0],
                "cell_type": ["B", "T", "T", "B", "B"],
                "section": ["a", "a", "a", "a", "b"],
                "cells": [500, 1000, 1500, 400, 600],
            }
        )
        figure: Any = plot_hub_sizes(shares, {"T": "#ff0000", "NK": "#00ff00", "B": "#0000ff"})
        (axes,) = figure.axes
        assert labels(axes.get_yticklabels()) == ["hub 0", "hub 1", "isolated"]
        assert axes.get_ylim() == (2.5, -0.5)
        bars = {(round(bar.get_y() + bar.get_height() / 2), to_hex(bar.get_facecolor())): bar for bar in axes.patches}
        drawn = {place: (bar.get_x(), bar.get_width()) for place, bar in bars.items() if bar.get_width()}
        assert drawn == {
            (0, "#ff0000"): (0, 1500),
            (0, "#0000ff"): (1500, 1000),
            (1, "#ff0000"): (0, 1000),
            (2, "#0000ff"): (0, 500),
        }
        assert written(axes) == ["2,500 (62.5%)", "1,000 (25.0%)", "500 (12.5%)"]
        assert axes.get_xlim() == (0, 2500)
        assert labels(figure.legends[0].get_texts()) == ["T", "B"]

    def test_many_types_and_hubs(self) -> None:
        names = type_names(25)
        shares = pd.DataFrame(list(itertools.product(range(-1, 12), names)), columns=["hub", "cell_type"])
        figure = plot_hub_sizes(shares.assign(cells=np.arange(len(shares)) * 500), cell_type_palette(names))
        assert_tidy(figure)
        assert labels(figure.legends[0].get_texts()) == names

    def test_refused(self) -> None:
        shares = pd.DataFrame({"hub": [0], "cell_type": ["B"], "cells": [3]})
        with pytest.raises(ParameterError, match=r"`shares` must have the columns .*Missing: 'cells'"):
            plot_hub_sizes(shares.drop(columns="cells"), {"B": "red"})
        with pytest.raises(ParameterError, match=r"`palette` must give each cell type a color\. Missing: 'B'"):
            plot_hub_sizes(shares, {"T": "red"})
        with pytest.raises(ParameterError, match=r"`shares` must hold at least one row\. Got none"):
            plot_hub_sizes(shares[:0], {"B": "red"})
