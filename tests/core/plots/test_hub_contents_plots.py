"""Figures of what is in hubs: marker genes and conditions, worked out by hand, and that nothing overlaps."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from test_hub_plots import assert_tidy, dots, labels, offsets, sentence, type_names, written

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots.hub_contents import plot_hub_conditions, plot_hub_markers
from tissue_crosstalk.core.plots.hub_style import ISOLATED_COLOR, hub_colors, hub_name


class TestMarkers:
    @staticmethod
    def table(rows: list[tuple[str, int, str, float, float]]) -> pd.DataFrame:
        table = pd.DataFrame(rows, columns=["cell_type", "hub", "gene", "roc_auc", "q_value"])
        return table.assign(log2_fold_change=-0.01, expressing_inside=0.5)

    def test_best_genes_by_hand(self) -> None:
        table = self.table(
            [
                ("T", 1, "a", 0.7, 0.01),
                ("T", 1, "b", 0.9, 0.01),
                ("T", 1, "c", 0.8, 0.01),
                ("T", 1, "not significant", 0.99, 0.05),
                ("T", 0, "$d_1$", 0.6, 0.04),
                ("T", 0, "lower inside", 0.4, 0.001),
                ("B", -1, "e", 0.75, 1e-9),
                ("B", 0, "f", 0.5, 0.001),
            ]
        ).assign(log2_fold_change=[1.0, 2.26, -0.4, 1, -0.01, 1, np.nan, 1], expressing_inside=np.arange(8) / 7)
        figure: Any = plot_hub_markers(table, most_per_group=2)
        (axes,) = figure.axes
        assert labels(axes.get_yticklabels()) == ["$d_1$", "b", "c", "e"]
        assert not any(label.get_parse_math() for label in axes.get_yticklabels())
        assert written(axes) == [
            "log2 fold change", "T · hub 0", "+0.0", "T · hub 1", "+2.3", "−0.4", "B · isolated",
        ]  # fmt: skip
        first, second, third = dots(axes)
        assert offsets(first)[:, 0].tolist() == [0.6]
        assert offsets(second)[:, 0].tolist() == [0.9, 0.8]
        np.testing.assert_allclose(offsets(second)[:, 1], axes.get_yticks()[1:3])
        assert to_hex(first.get_facecolors()[0]) == hub_colors(2)[0]
        assert to_hex(second.get_facecolors()[0]) == hub_colors(2)[1]
        assert to_hex(third.get_facecolors()[0]) == ISOLATED_COLOR.lower()
        np.testing.assert_allclose(second.get_sizes(), (2.5 + 5 * np.array([1, 2]) / 7) ** 2)
        stems = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
        assert [np.asarray(path.vertices)[:, 0].tolist() for path in stems[1].get_paths()] == [[0.5, 0.9], [0.5, 0.8]]
        assert axes.get_xlim() == (0.5, 1.0)
        assert axes.get_xlabel() == "ROC AUC"
        note = figure.texts[-1].get_text().replace("\n", " ")
        assert note.startswith("1 of 4 groups of a cell type and a hub have no gene with q < 0.05")

    def test_the_best_groups(self) -> None:
        """Of the groups of 25 types and 12 hubs, the twenty with the highest ROC AUC, in the order of all groups."""
        generator = np.random.default_rng(0)
        groups = list(itertools.product(type_names(25), range(12)))
        auc = generator.uniform(0.6, 1.0, len(groups)).round(6)
        table = self.table(
            [(*group, f"ENSMUSG000000{number}", auc[number], 0.001) for number, group in enumerate(groups)]
            + [(*group, f"second {number}", 0.55, 0.001) for number, group in enumerate(groups)]
        )
        figure: Any = plot_hub_markers(table, most_groups=20)
        kept = np.sort(np.argsort(-auc)[:20])
        headings = [text for axes in figure.axes for text in written(axes) if "hub" in text]
        assert headings == [f"{groups[index][0]} · hub {groups[index][1]}" for index in kept]
        drawn = [offsets(artist)[:, 0].tolist() for axes in figure.axes for artist in dots(axes)]
        assert drawn == [[auc[index], 0.55] for index in kept]
        assert figure.texts[-1].get_text() == "The 20 of 300 groups with the highest ROC AUC."
        assert len(figure.axes) == 2
        assert_tidy(figure)

    def test_no_marker(self) -> None:
        table = self.table([("T", 0, "a", 0.9, 0.2), ("T", 1, "a", 0.2, 0.001)])
        for markers in (table, table[:0]):
            figure = plot_hub_markers(markers)
            assert sentence(figure) == (
                "No marker genes: in no group of a cell type and a hub has a gene q < 0.05 and a ROC AUC above 0.5."
            )
        assert_tidy(figure)

    def test_refused(self) -> None:
        table = self.table([("T", 0, "a", 0.9, 0.01)])
        with pytest.raises(ParameterError, match=r"`markers` must have the columns .*Missing: 'gene', 'roc_auc'"):
            plot_hub_markers(table.drop(columns=["gene", "roc_auc"]))
        with pytest.raises(ParameterError, match=r"`most_per_group` must be .* at least 1\. Got 0"):
            plot_hub_markers(table, most_per_group=0)
        with pytest.raises(ParameterError, match=r"`most_groups` must be .* at least 1\. Got 1\.5"):
            plot_hub_markers(table, most_groups=1.5)  # type: ignore[arg-type]
        with pytest.raises(ParameterError, match=r"`q_threshold` must be above 0 and at most 1\. Got 2"):
            plot_hub_markers(table, q_threshold=2)


class TestConditions:
    @staticmethod
    def tables(hubs: list[int], conditions: list[str], n_sections: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return shares of sections and the means of each condition, with q = 0.03 for every hub."""
        generator = np.random.default_rng(0)
        shares = pd.DataFrame(
            [
                (f"{condition} {section}", condition, hub, share)
                for condition in conditions
                for section in range(n_sections)
                for hub, share in zip(hubs, generator.dirichlet(np.ones(len(hubs) + 1)), strict=False)
            ],
            columns=["section", "condition", "hub", "share"],
        )
        tests = shares.groupby(["hub", "condition"], sort=False)["share"].mean().rename("mean_share").reset_index()
        return shares, tests.assign(p_value=0.01, q_value=0.03)

    def test_dots_and_means_by_hand(self) -> None:
        """A section without a condition is not drawn."""
        shares = pd.DataFrame(
            {
                "section": list("abcdabcd"),
                "condition": ["old", "old", "young", None] * 2,
                "hub": [1, 1, 1, 1, 0, 0, 0, 0],
                "share": [0.2, 0.4, 0.1, 0.9, 0.0, 0.0, 0.0, 0.0],
            }
        )
        tests = pd.DataFrame(
            {
                "hub": [0, 0, 1, 1],
                "condition": ["young", "old"] * 2,
                "mean_share": [0.0, 0.0, 0.1, 0.3],
                "p_value": [np.nan, np.nan, 0.02, 0.02],
                "q_value": [np.nan, np.nan, 0.0312, 0.0312],
            }
        )
        figure: Any = plot_hub_conditions(shares, tests)
        first, second = figure.axes
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["hub 0", "hub 1"]
        assert (written(first), written(second)) == (["not tested"], ["q = 0.031"])
        assert labels(second.get_xticklabels()) == ["young", "old"]
        young, old = dots(second)
        assert offsets(young).tolist() == [[0, 0.1]]
        assert offsets(old)[:, 1].tolist() == [0.2, 0.4]
        assert (np.abs(offsets(old)[:, 0] - 1) <= 0.22).all()
        assert to_hex(old.get_facecolors()[0]) == hub_colors(2)[1]
        means = [(np.mean(line.get_xdata()), line.get_ydata()[0]) for line in second.lines]
        np.testing.assert_allclose(means, [(0, 0.1), (1, 0.3)], atol=1e-12)
        assert second.get_ylim() == pytest.approx((0.0, 1.08 * 0.4))
        assert first.get_ylim() == (0.0, 1.0)  # no cell anywhere
        assert [text.get_text().replace("\n", " ") for text in figure.texts] == [
            "Shares of hubs by condition",
            "share of the section's cells",
        ]

    def test_small_q_and_only_p(self) -> None:
        shares, tests = self.tables([0, -1], ["a", "b"])
        tests.loc[tests["hub"] == 0, "q_value"] = 1e-5
        tests.loc[tests["hub"] == -1, "q_value"] = np.nan
        figure = plot_hub_conditions(shares, tests)
        assert [written(axes) for axes in figure.axes] == [["q < 0.001"], ["p = 0.01"]]
        assert figure.axes[1].get_title(loc="left") == "isolated"

    def test_many_hubs_and_long_names(self) -> None:
        names = ["control mice of 3 weeks", "treated_$once$", "treated twice, then left alone for long", "_x"]
        shares, tests = self.tables([*range(12), -1], names)
        figure = plot_hub_conditions(shares, tests)
        assert_tidy(figure)
        assert [axes.get_title(loc="left") for axes in figure.axes] == [hub_name(hub) for hub in [*range(12), -1]]
        named = [index for index, axes in enumerate(figure.axes) if any(labels(axes.get_xticklabels()))]
        assert named == [9, 10, 11, 12]  # rows of four: those without a panel below
        assert labels(figure.axes[-1].get_xticklabels())[1] == "treated_$once$"

    def test_one_hub(self) -> None:
        assert_tidy(plot_hub_conditions(*self.tables([0], ["a", "b"])))

    def test_not_compared(self) -> None:
        shares, tests = self.tables([0], ["a", "b"])
        text = sentence(plot_hub_conditions(shares.assign(condition=None), tests[:0]))
        assert text == "The shares of hubs were not compared: this needs sections of at least two conditions."

    def test_refused(self) -> None:
        shares, tests = self.tables([0], ["a", "b"])
        with pytest.raises(ParameterError, match=r"`section_shares` must have the columns .*Missing: 'share'"):
            plot_hub_conditions(shares.drop(columns="share"), tests)
        with pytest.raises(ParameterError, match=r"`tests` must have the columns .*Missing: 'q_value'"):
            plot_hub_conditions(shares, tests.drop(columns="q_value"))
        with pytest.raises(ParameterError, match=r"`hub` of `tests` must hold whole numbers .*Got -3"):
            plot_hub_conditions(shares, tests.assign(hub=-3))
