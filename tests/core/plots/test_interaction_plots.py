"""Figures of pairs of types and of heads: matrix, network, chord diagram, length scales, variance, contributions."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from effect_tables import (
    make_contributions,
    make_effects,
    make_explained,
    make_interactions,
    make_length_scales,
)
from figure_checks import assert_tidy, type_names
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from tissue_crosstalk.core import interpretation_figures
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots.chord import _ends, plot_chord
from tissue_crosstalk.core.plots.contributions import plot_contributions
from tissue_crosstalk.core.plots.explained_variance import BELOW_COLOR, BEST, plot_explained_variance
from tissue_crosstalk.core.plots.interaction_network import WIDEST_ARROW
from tissue_crosstalk.core.plots.interaction_weights import plot_gene_network, plot_interaction_weights
from tissue_crosstalk.core.plots.length_scales import plot_length_scales
from tissue_crosstalk.core.plots.style import cell_type_palette, save_figure

PALETTE = {"T": "#ff0000", "NK": "#00ff00", "absent": "#777777", "B": "#0000ff"}


def pairs_by_hand() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "receiver": ["B", "T", "T", "NK"],
            "sender": ["T", "B", "NK", "T"],
            "n_receivers": [100, 400, 400, 25],
            "n_genes": [6, 3, 2, 0],
            "n_genes_lowered": [0, 1, 12, 0],
            "n_genes_published": [60, 50, 40, 30],
        }
    )


def caption(figure: Any, number: int = 1) -> str:
    return " ".join(figure.texts[number].get_text().split())


def labelled(axes: Any, label: str) -> Any:
    (found,) = [artist for artist in axes.collections if artist.get_label() == label]
    return found


def ticks(axes: Any, which: str) -> list[str]:
    return [label.get_text() for label in getattr(axes, f"get_{which}ticklabels")()]


class TestMatrix:
    def test_by_hand(self) -> None:
        figure: Any = plot_interaction_weights(pairs_by_hand(), PALETTE)
        raised, lowered = (axes.images[0].get_array().tolist() for axes in figure.axes[:2])
        assert raised == [[None, 0, 6], [2, None, None], [3, None, None]]
        assert lowered == [[None, 0, 0], [12, None, None], [1, None, None]]
        assert ticks(figure.axes[0], "x") == ticks(figure.axes[0], "y") == ["T", "NK", "B"]
        assert [text.get_text() for text in figure.axes[1].texts] == ["0", "0", "12", "1"]
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not tested"]
        # Numbers of genes are whole: so are the marks of their scales.
        for bar in figure.axes[2:]:
            low, high = bar.get_xlim()
            marks = [tick for tick in bar.get_xticks() if low <= tick <= high]
            assert marks == [round(tick) for tick in marks]
        assert_tidy(figure)

    def test_published_test_is_drawn_where_asked_for(self) -> None:
        figure = plot_interaction_weights(pairs_by_hand(), PALETTE, weights=["n_genes_published"])
        assert len(figure.axes) == 2
        assert np.nanmax(figure.axes[0].images[0].get_array().filled(np.nan)) == 60
        assert figure.axes[1].get_xlabel() == "genes raised (published test)"

    @pytest.mark.slow
    def test_nothing_overlaps(self) -> None:
        assert_tidy(plot_interaction_weights(make_interactions(type_names(25)), cell_type_palette(type_names(25))))

    def test_nothing_to_draw(self) -> None:
        for draw in (plot_interaction_weights, plot_gene_network, plot_chord):
            figure = draw(pairs_by_hand()[:0], PALETTE)
            assert figure.texts[0].get_text() == "No interactions between cell types: no pair was tested."
            assert not figure.axes

    def test_refused(self) -> None:
        with pytest.raises(ParameterError, match="weights must be of 'n_genes', .* Did you mean 'n_genes'"):
            plot_interaction_weights(pairs_by_hand(), PALETTE, weights=["n_gene"])
        with pytest.raises(ParameterError, match="`weights` must name some of"):
            plot_interaction_weights(pairs_by_hand(), PALETTE, weights=[])
        for draw in (plot_interaction_weights, plot_gene_network, plot_chord):
            with pytest.raises(ParameterError, match="`n_genes` of `interactions` must hold whole numbers. Got 0.5"):
                draw(pairs_by_hand().assign(n_genes=0.5), PALETTE)
            with pytest.raises(ParameterError, match="Missing: 'NK'"):
                draw(pairs_by_hand(), {"B": "red", "T": "blue"})
        for draw_pairs in (plot_gene_network, plot_chord):
            with pytest.raises(ParameterError, match="`min_genes` must be a whole number of at least 1"):
                draw_pairs(pairs_by_hand(), PALETTE, min_genes=0)


class TestNetwork:
    @staticmethod
    def arrows(figure: Any, label: str = "_arrow") -> list[Any]:
        found = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
        return [patch for patch in found if patch.get_label() == label]

    @staticmethod
    def width(arrow: Any) -> float:
        return float(arrow.get_arrowstyle().tail_width - arrow.get_linewidth())

    def test_by_hand(self) -> None:
        figure = plot_gene_network(pairs_by_hand(), PALETTE)
        drawn = self.arrows(figure)
        assert [to_hex(arrow.get_facecolor()) for arrow in drawn] == ["#00ff00", "#0000ff", "#ff0000"]
        assert [self.width(arrow) for arrow in drawn] == pytest.approx(
            [WIDEST_ARROW / 3, WIDEST_ARROW / 2, WIDEST_ARROW]
        )
        assert caption(figure) == (
            "arrows from sender to receiver: pairs with at least 1 gene raised by the sender; 3 of 4 pairs"
        )
        texts = [text.get_text() for text in figure.axes[0].texts][3:]
        assert texts[-3:] == ["6 genes", "40", "200 cells"]
        assert all(text.isdigit() for text in texts[:-3])
        key = self.arrows(figure, "_key")
        assert self.width(key[-1]) == pytest.approx(WIDEST_ARROW)
        assert_tidy(figure)

    def test_arrows_of_one_width_have_one_key(self) -> None:
        figure = plot_gene_network(pairs_by_hand().assign(n_genes=1), PALETTE)
        assert [text.get_text() for text in figure.axes[0].texts][3:] == ["1 gene", "40", "200 cells"]
        assert len(self.arrows(figure, "_key")) == 1

    def test_few_genes_are_no_arrow(self) -> None:
        figure = plot_gene_network(pairs_by_hand(), PALETTE, weight="n_genes_lowered", min_genes=2)
        assert len(self.arrows(figure)) == 1
        assert "at least 2 genes lowered by the sender" in caption(figure)
        none = plot_gene_network(pairs_by_hand(), PALETTE, min_genes=7)
        assert not self.arrows(none)
        two = plot_gene_network(pairs_by_hand(), PALETTE, most_pairs=2)
        assert [to_hex(arrow.get_facecolor()) for arrow in self.arrows(two)] == ["#0000ff", "#ff0000"]
        assert caption(two).endswith("3 of 4 pairs; drawn: the 2 with the most genes")
        assert caption(none) == "no arrows: there is no pair with at least 7 genes raised by the sender."
        assert_tidy(none)

    @pytest.mark.slow
    def test_nothing_overlaps(self) -> None:
        table = make_interactions(type_names(25))
        figure = plot_gene_network(table, cell_type_palette(type_names(25)))
        assert len(self.arrows(figure)) == (table["n_genes"] > 0).sum()
        assert_tidy(figure)


class TestChord:
    @staticmethod
    def arcs(figure: Any) -> list[Any]:
        """Return what is drawn of the ring, an arc per type."""
        return [patch for patch in figure.axes[0].patches if patch.get_facecolor()[3] > 0]

    def test_by_hand(self) -> None:
        settings = dict(mpl.rcParams)
        figure: Any = plot_chord(pairs_by_hand(), PALETTE)
        assert dict(mpl.rcParams) == settings
        ribbons, names = figure.axes
        assert [text.get_text() for text in names.texts] == ["T", "NK", "B"]
        arcs = self.arcs(figure)
        assert [to_hex(arc.get_facecolor()) for arc in arcs] == ["#ff0000", "#00ff00", "#0000ff"]
        # Ribbons from the narrowest to the widest, in the colors of senders.
        (patches,) = ribbons.collections
        assert [to_hex(color) for color in patches.get_facecolors()] == ["#00ff00", "#0000ff", "#ff0000"]
        spans = [float(np.ptp(arc.get_path().vertices[:, 0])) for arc in arcs]
        # T has 6 out, 3 and 2 in; NK 2 out; B 3 out and 6 in. There are 4 degrees between arcs.
        assert np.array(spans) == pytest.approx(np.radians(348) * np.array([11, 2, 9]) / 22)
        assert caption(figure) == (
            "ribbons from sender to receiver (arrowhead): genes raised by the sender; 3 of 4 pairs with at least 1 "
            "gene, 11 genes in all"
        )
        assert_tidy(figure)

    def test_ribbons_fill_the_arcs(self) -> None:
        """Each end has its own place, and those of a pair do not cross."""
        matrix = np.random.default_rng(0).integers(0, 9, (5, 5)).astype(float)
        np.fill_diagonal(matrix, 0)
        at_sender, at_receiver = _ends(matrix)
        for own in range(5):
            ends = [(at_sender[own, other], matrix[own, other]) for other in range(5) if matrix[own, other]]
            ends += [(at_receiver[other, own], matrix[other, own]) for other in range(5) if matrix[other, own]]
            place = 0.0
            for start, width in sorted(ends):
                assert start == place
                place += width
            assert place == matrix[own].sum() + matrix[:, own].sum()
            for other in range(5):
                if matrix[own, other] and matrix[other, own]:
                    assert at_sender[own, other] < at_receiver[other, own]

    def test_types_without_a_ribbon_are_left_out(self) -> None:
        figure = plot_chord(pairs_by_hand(), PALETTE, min_genes=3)
        assert [text.get_text() for text in figure.axes[1].texts] == ["T", "B"]
        assert caption(figure).endswith("; 1 type without a ribbon left out")
        one = plot_chord(pairs_by_hand(), PALETTE, most_pairs=1)
        assert len(one.axes[0].collections[0].get_paths()) == 1
        assert caption(one).endswith(
            "11 genes in all; drawn: the 1 with the most genes; 1 type without a ribbon left out"
        )
        one_gene = plot_chord(pairs_by_hand().assign(n_genes=[0, 0, 1, 0]), PALETTE)
        assert caption(one_gene).endswith(
            "1 of 4 pairs with at least 1 gene, 1 gene in all; 1 type without a ribbon left out"
        )
        none = plot_chord(pairs_by_hand(), PALETTE, min_genes=9)
        assert none.texts[0].get_text().replace("\n", " ") == (
            "No chord diagram: there is no pair with at least 9 genes raised by the sender."
        )

    @pytest.mark.parametrize("n_types", [2, 25])
    def test_nothing_overlaps(self, n_types: int) -> None:
        types = type_names(n_types)
        table = make_interactions(types).assign(n_genes=lambda table: table["n_genes"].clip(lower=int(n_types == 2)))
        figure = plot_chord(table, cell_type_palette(types))
        (patches,) = figure.axes[0].collections
        assert len(patches.get_paths()) == (table["n_genes"] > 0).sum() <= 150
        assert len(self.arcs(figure)) == n_types
        assert_tidy(figure)

    def test_clean_vectors_the_same_every_time(self, tmp_path: Path) -> None:
        files = [save_figure(plot_chord(pairs_by_hand(), PALETTE), tmp_path / name).read_text()
                 for name in ("a.svg", "b.svg")]  # fmt: skip
        assert files[0] == files[1]
        assert "<image" not in files[0]

    @pytest.mark.slow
    def test_the_library_is_loaded_where_it_is_needed_alone(self) -> None:
        script = (
            "import sys; from tissue_crosstalk.core import interpretation_figures; "
            "from tissue_crosstalk.core.plots import chord; "
            "sys.exit(int(bool({'pycirclize', 'matplotlib.pyplot'} & set(sys.modules))))"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


class TestLengthScales:
    @staticmethod
    def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
        scales = pd.DataFrame(
            {
                "receiver": "B",
                "sender": ["T"] * 5 + ["NK"] * 2 + ["T"],
                "head_idx": [0] * 7 + [1],
                "length_scale": [8.0, 10.0, 10.0, 12.0, 40.0, 0.0, 0.0, 20.0],
            }
        )
        summary = pd.DataFrame(
            {
                "receiver": "B", "sender": ["T", "NK", "T"], "head_idx": [0, 0, 1], "median": [10.0, 0.0, 20.0],
                "median_low": [8.0, 0.0, 18.0], "median_high": [12.0, 0.0, 50.0], "mean": [16.0, 0.0, 20.0],
                "mean_low": [9.0, 0.0, 19.0], "mean_high": [20.0, 0.0, 21.0], "supported": [True, False, True],
            }
        )  # fmt: skip
        return scales, summary

    def test_by_hand(self) -> None:
        figure: Any = plot_length_scales(*self.tables(), "B", PALETTE, distance_unit="µm")
        first, second = figure.axes
        assert ticks(first, "y") == ["T", "NK"]
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["head 0", "head 1"]
        assert np.asarray(labelled(first, "_point").get_offsets()).tolist() == [[10, 0]]
        assert np.asarray(labelled(first, "_unsupported point").get_offsets()).tolist() == [[0, 1]]
        assert labelled(first, "_interval").get_segments()[0].tolist() == [[8, 0], [12, 0]]
        faces = [to_hex(color) for color in labelled(first, "_shapes").get_facecolors()]
        assert faces[0] == "#ff8080"
        assert len({faces[1][i : i + 2] for i in (1, 3, 5)}) == 1  # grey
        assert first.get_xlim() == second.get_xlim() == (0, pytest.approx(1.03 * 50))
        assert first.get_xlabel() == "length scale (µm)"
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [
            "neighbors", "median, 95 % interval", "grey: too few receivers within reach"
        ]  # fmt: skip
        assert_tidy(figure)

    def test_shapes_are_the_distribution(self) -> None:
        scales, summary = self.tables()
        (axes, _) = plot_length_scales(scales, summary, "B", PALETTE).axes
        shape = labelled(axes, "_shapes").get_paths()[0].vertices
        half = shape[:, 1] - shape[:, 1].mean()
        assert np.abs(half).max() == pytest.approx(0.4)
        assert shape[np.argmax(half), 0] == pytest.approx(10, abs=1.2)  # where most are
        far = (shape[:, 0] > 18) & (shape[:, 0] < 36)
        assert np.allclose(half[far], 0)

    def test_means(self) -> None:
        axes = plot_length_scales(*self.tables(), "B", PALETTE, statistic="mean").axes[0]
        assert np.asarray(labelled(axes, "_point").get_offsets()).tolist() == [[16, 0]]
        assert labelled(axes, "_interval").get_segments()[0].tolist() == [[9, 0], [20, 0]]

    @pytest.mark.parametrize(("n_types", "n_heads"), [(2, 1), pytest.param(25, 5, marks=pytest.mark.slow)])
    def test_nothing_overlaps(self, n_types: int, n_heads: int) -> None:
        types = type_names(n_types)
        tables = make_length_scales(types, types[0], n_heads, 30)
        figure: Any = plot_length_scales(*tables, types[0], cell_type_palette(types), distance_unit="$µ$m")
        assert len(figure.axes) == n_heads
        assert_tidy(figure)

    def test_nothing_to_draw(self) -> None:
        figure = plot_length_scales(*self.tables(), "T", PALETTE)
        assert figure.texts[0].get_text() == "No length scales of T: it has no neighbors of another type."

    def test_refused(self) -> None:
        scales, summary = self.tables()
        for one, other, words in (
            (scales.assign(length_scale=-1.0), summary, "`length_scale` of `length_scales` must be at least 0. Got -1"),
            (scales, summary.assign(head_idx=0), "one row per sender, head_idx. Got several of 'T', 0"),
            (scales, summary.drop(columns="supported"), "Missing: 'supported'"),
            (scales, summary.assign(median=np.inf), "`median` of `summary` must hold finite numbers"),
        ):
            with pytest.raises(ParameterError, match=words):
                plot_length_scales(one, other, "B", PALETTE)
        with pytest.raises(ParameterError, match="`statistic` must be one of 'median', 'mean'"):
            plot_length_scales(scales, summary, "B", PALETTE, statistic="mode")  # type: ignore[arg-type]


class TestExplainedVariance:
    @staticmethod
    def table() -> pd.DataFrame:
        return pd.DataFrame(
            {
                "receiver": ["T", "T", "T", "B", "B"],
                "head_idx": [-1, 0, 1, -1, 1],
                "n_receivers": [1200, 1200, 1200, 30, 30],
                "explained": [0.12, 0.1, -0.004, 0.02, 0.0004],
                "p_value": [0.01, 0.01, 0.6, 0.05, 0.04],
                "best": [False, False, True, False, True],
            }
        )

    def test_by_hand(self) -> None:
        figure: Any = plot_explained_variance(self.table(), PALETTE)
        axes = figure.axes[0]
        assert axes.images[0].get_array().tolist() == [[12, 10, -0.4], [2, None, 0.04]]
        assert ticks(axes, "x") == ["all", "0", "1"]
        assert ticks(axes, "y") == ["T", "B"]
        texts = {(text.get_position(), text.get_text()): text.get_color() for text in axes.texts}
        assert [text for _, text in texts] == ["12.0", "10.0", "−0.4", "2.0", "0.0", "1,200", "30", "cells"]
        colors = list(texts.values())
        assert colors[2] == colors[3] == "#7a7a7a"  # p of 0.6 and of 0.05
        assert colors[4] == "#1a1a1a"
        frames = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_label() == "_best"]
        assert [(round(frame.get_x() + frame.get_width() / 2), round(frame.get_y() + 0.45)) for frame in frames] == [
            (2, 0), (2, 1)
        ]  # fmt: skip
        assert axes.images[0].get_clim() == (0, 12)
        assert to_hex(axes.images[0].to_rgba(-0.4)) == BELOW_COLOR
        key = [text.get_text() for text in figure.legends[0].get_texts()]
        assert key == [BEST, "below 0: worse than the mean", "unknown"]
        assert_tidy(figure)

    @pytest.mark.parametrize(("size", "written"), [(0.1, ["1.2", "0.0"]), (0.001, ["0.012", "0.000"])])
    def test_little_is_told_with_two_digits(self, size: float, written: list[str]) -> None:
        table = self.table().assign(explained=self.table()["explained"] * size)
        texts = [text.get_text() for text in plot_explained_variance(table, PALETTE).axes[0].texts]
        assert [texts[0], texts[2]] == written

    def test_nothing_overlaps(self) -> None:
        types = type_names(25)
        assert_tidy(plot_explained_variance(make_explained(types, 8), cell_type_palette(types)))
        assert_tidy(plot_explained_variance(make_explained(types[1:2], 1), cell_type_palette(types)))

    def test_nothing_to_draw(self) -> None:
        assert not plot_explained_variance(self.table()[:0], PALETTE).axes

    def test_refused(self) -> None:
        for wrong, words in (
            ({"explained": 1.5}, "must be at most 1. Got 1.5"),
            ({"p_value": 0.0}, "must hold numbers above 0"),
            ({"head_idx": -2}, "-1 for all heads together. Got -2"),
            ({"head_idx": 0}, "one row per receiver, head_idx. Got several of 'T', 0"),
            ({"n_receivers": 0.5}, "whole numbers of at least 0"),
        ):
            with pytest.raises(ParameterError, match=words):
                plot_explained_variance(self.table().assign(**wrong), PALETTE)


class TestContributions:
    def test_by_hand(self) -> None:
        """Gene `same` is large in both senders: it does not tell them apart."""
        table = pd.DataFrame(
            {
                "sender": ["T", "B"] * 3 + ["T"],
                "head_idx": [0] * 6 + [1],
                "gene": ["same", "same", "of B", "of B", "of T", "of T", "of T"],
                "mean": [5.0, 5.0, 0.0, -2.0, 3.0, 0.5, 7.0],
            }
        )
        figure: Any = plot_contributions(table, 0, PALETTE, most_genes=2)
        axes = figure.axes[0]
        assert ticks(axes, "x") == ["of T", "of B"]
        assert ticks(axes, "y") == ["T", "B"]
        assert axes.images[0].get_array().tolist() == [[3.0, 0.0], [0.5, -2.0]]
        low, high = axes.images[0].get_clim()
        assert low == -high
        assert caption(figure) == "2 of 3 genes, those in which senders differ most"
        (alone, _) = plot_contributions(table, 1, PALETTE).axes
        assert ticks(alone, "y") == ["T"]
        assert_tidy(figure)

    @pytest.mark.parametrize("n_types", [1, 25])
    def test_nothing_overlaps(self, n_types: int) -> None:
        types = type_names(n_types)
        assert_tidy(plot_contributions(make_contributions(types), 1, cell_type_palette(types)))

    def test_nothing_to_draw_and_refused(self) -> None:
        table = make_contributions(["B", "T"])
        assert not plot_contributions(table[:0], 0, PALETTE).axes
        for head, given, words in (
            (2, table, "`head` must be one of '0', '1'. Got 2"),
            (0, pd.concat([table, table]), "one row per sender, gene"),
            (0, table.assign(mean=np.inf), "`mean` of `contributions` must hold finite numbers"),
        ):
            with pytest.raises(ParameterError, match=words):
                plot_contributions(given, head, PALETTE)


class TestPlans:
    """Types whose names are no names of files, and alike but for what is none."""

    TYPES = ("../up", "$x$", "_x_", "B")
    STEMS = ("up", "x", "x-2", "B")

    def plans(self) -> dict[str, dict[str, Any]]:
        palette = cell_type_palette(self.TYPES)
        effects = make_effects(self.TYPES, 20)
        scales = [
            pd.concat(tables)
            for tables in zip(*(make_length_scales(self.TYPES, name, 1, 9) for name in self.TYPES), strict=True)
        ]
        return {
            "volcanoes": interpretation_figures.plan_volcanoes(effects, palette),
            "dots": interpretation_figures.plan_gene_dots(effects, palette),
            "lengths": interpretation_figures.plan_length_scales(scales[0], scales[1], palette),
            "contributions": interpretation_figures.plan_contributions(make_contributions(self.TYPES), palette),
        }

    def test_every_figure_has_a_file_name_of_its_own(self) -> None:
        plans = self.plans()
        names = list(plans["dots"])
        assert len(names) == len({name.casefold() for name in names}) == 4
        assert not any("/" in name or name.startswith(".") for plan in plans.values() for name in plan)
        assert list(plans["volcanoes"]) == list(plans["lengths"]) == names
        assert list(plans["contributions"]) == ["head0", "head1"]
        for plan in plans.values():
            draw = pickle.loads(pickle.dumps(next(iter(plan.values()))))  # other processes may draw it
            assert isinstance(draw(), Figure)
