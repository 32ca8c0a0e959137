"""Figures of genes that senders change: volcanoes and dots, worked out by hand, and that nothing overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from effect_tables import make_effects, make_enrichment
from figure_checks import assert_tidy, type_names
from matplotlib.colors import to_hex

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots._layout import wrap
from tissue_crosstalk.core.plots.attention_enrichment import plot_attention_enrichment
from tissue_crosstalk.core.plots.effect_style import (
    LONGEST_GENE,
    LOWERED,
    RAISED,
    dot_areas,
    is_name,
    limit_of,
    place_labels,
    texts_of,
)
from tissue_crosstalk.core.plots.gene_dots import choose_genes, plot_gene_dots
from tissue_crosstalk.core.plots.style import FONT_SIZE, cell_type_palette
from tissue_crosstalk.core.plots.volcano import plot_volcano, plot_volcanoes

PALETTE = {"T": "#ff0000", "NK": "#00ff00", "B": "#0000ff"}


def by_hand() -> pd.DataFrame:
    """Return four genes of B that T changes or not, and one of NK."""
    return pd.DataFrame(
        {
            "receiver": "B",
            "sender": ["T", "T", "T", "T", "NK"],
            "gene": ["up", "down", "null", "nan", "up"],
            "diff": [0.4, -0.2, 0.1, 0.3, 0.01],
            "diff_low": [0.3, -0.3, -0.1, 0.1, -0.1],
            "diff_high": [0.5, -0.1, 0.3, 0.5, 0.1],
            "slope": [0.5, 1.0, 1.0, 1.0, 1.0],
            "q_value": [0.001, 0.01, 0.9, np.nan, 1.0],
        }
    )


def labelled(axes: Any, label: str) -> Any:
    """Return the one artist of a panel with a label."""
    (found,) = [artist for artist in axes.collections if artist.get_label() == label]
    return found


def offsets(axes: Any, label: str) -> list[list[float]]:
    return np.asarray(labelled(axes, label).get_offsets()).tolist()


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def heading(figure: Any) -> list[str]:
    return [" ".join(text.get_text().split()) for text in figure.texts[:2]]


class TestVolcano:
    def test_by_hand(self) -> None:
        effects = by_hand()
        before = effects.copy()
        figure: Any = plot_volcano(effects, "B", "T")
        (axes,) = figure.axes
        assert offsets(axes, "_raised") == [[0.4, pytest.approx(3.0)]]
        assert offsets(axes, "_lowered") == [[-0.2, pytest.approx(2.0)]]
        assert offsets(axes, "_null") == [[0.1, pytest.approx(-np.log10(0.9))]]
        for label, color in (("_raised", RAISED), ("_lowered", LOWERED)):
            assert to_hex(labelled(axes, label).get_facecolor()[0]) == color
        (threshold,) = [line for line in axes.lines if line.get_label() == "_threshold"]
        assert threshold.get_ydata()[0] == pytest.approx(-np.log10(0.05))
        assert {"q = 0.05", "up", "down"} == set(texts(axes))
        ends = [segment[:, 0].tolist() for segment in labelled(axes, "_interval").get_segments()]
        assert ends == [[0.3, 0.5], [-0.3, -0.1]]
        low, high = axes.get_xlim()
        assert low < -0.3
        assert high > 0.5
        assert heading(figure) == [
            "T → B", "3 genes of the receiver; with q < 0.05: 1 raised, 1 lowered by the sender"
        ]  # fmt: skip
        assert_tidy(figure)
        pd.testing.assert_frame_equal(effects, before)

    def test_smallest_q_do_not_flatten_the_others(self) -> None:
        effects = by_hand().assign(q_value=[1e-300, 1e-20, 0.9, np.nan, 1.0])
        figure: Any = plot_volcano(effects, "B", "T")
        (axes,) = figure.axes
        assert offsets(axes, "_raised") == []
        assert offsets(axes, "_raised beyond") == [[0.4, 20.0]]
        assert offsets(axes, "_lowered") == [[-0.2, pytest.approx(20.0)]]
        assert axes.get_ylim()[1] < 30
        assert heading(figure)[1].endswith("; triangles: q < 1e-20")
        assert_tidy(figure)
        assert plot_volcanoes(effects, "B", PALETTE).texts[1].get_text().endswith("triangles: q < 1e-20")

    def test_observed_is_the_slope_times_the_prediction(self) -> None:
        (axes,) = plot_volcano(by_hand(), "B", "T", observed=True).axes
        assert offsets(axes, "_raised") == [[0.2, pytest.approx(3.0)]]
        assert "slope" in axes.get_xlabel()

    def test_top_genes_are_named(self) -> None:
        effects = by_hand().assign(q_value=[0.01, 0.01, 0.04, np.nan, 1.0])
        (axes,) = plot_volcano(effects, "B", "T", most_names=1).axes
        assert texts(axes) == ["q = 0.05", "up"]  # of two with the same q the larger change

    def test_thousands_of_genes_are_an_image_in_an_svg(self) -> None:
        effects = make_effects(["B", "T"], n_genes=2500, receivers=["B"])
        (axes,) = plot_volcano(effects, "B", "T").axes
        assert labelled(axes, "_null").get_rasterized()
        assert not labelled(axes, "_raised").get_rasterized()

    @pytest.mark.parametrize("n_types", [3, pytest.param(25, marks=pytest.mark.slow)])
    def test_nothing_overlaps(self, n_types: int) -> None:
        types = type_names(n_types)
        effects = make_effects(types, n_genes=80, receivers=types[:1])
        strongest = effects[effects["q_value"] < 0.05].groupby("sender", observed=True).size().idxmax()
        figure = plot_volcano(effects, types[0], str(strongest))
        assert len(texts(figure.axes[0])) > 8
        assert_tidy(figure)
        page: Any = plot_volcanoes(effects, types[0], cell_type_palette(types))
        assert len(page.axes) == n_types - 1
        assert len({(axes.get_xlim(), axes.get_ylim()) for axes in page.axes}) == 1
        assert min(text.get_fontsize() for axes in page.axes for text in axes.texts) >= 6
        assert_tidy(page)

    def test_page_by_hand(self) -> None:
        figure: Any = plot_volcanoes(by_hand(), "B", PALETTE)
        assert [texts(axes)[:2] for axes in figure.axes] == [["T", "1 ↑  1 ↓"], ["NK", "0 ↑  0 ↓"]]
        assert set(texts(figure.axes[0])[2:]) == {"up", "down"}

    def test_nothing_to_draw(self) -> None:
        for figure, words in (
            (plot_volcano(by_hand(), "B", "B"), "No gene of B was tested for an effect of B."),
            (plot_volcanoes(by_hand()[:0], "B", PALETTE), "No gene of B was tested for an effect of another type."),
        ):
            assert not figure.axes
            assert figure.texts[0].get_text() == words

    def test_refused(self) -> None:
        with pytest.raises(ParameterError, match="`q_value` of `effects` must hold numbers above 0 .* Got 0.0"):
            plot_volcano(by_hand().assign(q_value=0.0), "B", "T")
        with pytest.raises(ParameterError, match="`receiver` must be a cell type of `effects`: 'B'. Got 'b'"):
            plot_volcano(by_hand(), "b", "T")
        with pytest.raises(ParameterError, match="one row per sender, gene. Got several of 'T', 'up'"):
            plot_volcano(pd.concat([by_hand(), by_hand()]), "B", "T")
        with pytest.raises(ParameterError, match="Missing: 'slope'"):
            plot_volcano(by_hand().drop(columns="slope"), "B", "T", observed=True)
        with pytest.raises(ParameterError, match="`diff` of `effects` must hold finite numbers"):
            plot_volcano(by_hand().assign(diff=np.inf), "B", "T")
        with pytest.raises(ParameterError, match="Missing: 'NK'"):
            plot_volcanoes(by_hand(), "B", {"B": "red", "T": "blue"})
        with pytest.raises(ParameterError, match="`most_names` must be a whole number of at least 1"):
            plot_volcanoes(by_hand(), "B", PALETTE, most_names=0)


class TestNames:
    def test_columns_of_text_and_categories_of_whatever_are_alike(self) -> None:
        for column in (["1", "a", "1"], [1, "a", 1]):
            for given in (pd.Series(column), pd.Series(column).astype("category")):
                assert is_name(given, "1").tolist() == [True, False, True]
                assert not is_name(given, "b").any()
                assert texts_of(given).tolist() == ["1", "a", "1"]


class TestLabels:
    def test_a_label_without_room_is_left_out(self) -> None:
        points = np.array([[0.5, 0.5], [0.5, 0.5]])
        assert [label.index for label in place_labels(points, ["a", "a" * 40], points, (1.0, 1.0))] == [0]

    def test_labels_cover_neither_dots_nor_each_other(self) -> None:
        generator = np.random.default_rng(0)
        dots = generator.uniform(0, 2, (40, 2))
        placed = place_labels(dots[:12], ["Gene12"] * 12, dots, (2.0, 2.0))
        assert len(placed) > 8
        for number, label in enumerate(placed):
            right, top = label.left + label.width, label.bottom + label.height
            assert label.left >= 0 and label.bottom >= 0 and right <= 2 and top <= 2  # noqa: PT018
            inside = (dots > [label.left, label.bottom]).all(axis=1) & (dots < [right, top]).all(axis=1)
            assert not inside.any()
            for other in placed[:number]:
                apart = label.left > other.left + other.width or other.left > right
                assert apart or label.bottom > other.bottom + other.height or other.bottom > top


class TestGeneDots:
    def test_by_hand(self) -> None:
        figure: Any = plot_gene_dots(by_hand(), "B", PALETTE)
        axes = figure.axes[0]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["up", "down"]
        assert texts(axes) == ["T", "NK"]
        assert offsets(axes, "_dots") == [[0, 0], [1, 0], [0, 1]]
        dots = labelled(axes, "_dots")
        assert dots.get_sizes().tolist() == pytest.approx([4 + 60, 4 + 40, 4])
        assert [width > 0 for width in dots.get_linewidths()] == [True, True, False]
        red, blue = dots.get_facecolors()[:2]
        assert red[0] > red[2]
        assert blue[2] > blue[0]
        assert offsets(axes, "_untested") == [[1, 1]]
        assert heading(figure) == ["Genes of B that senders change", "all 2 genes with q < 0.05"]
        assert_tidy(figure)

    def test_each_sender_has_its_turn(self) -> None:
        """The best of each row first, then the second best; genes stand with their row."""
        row = np.array([0, 0, 0, 1, 1])
        gene = np.array(["a", "b", "c", "d", "a"], dtype=object)
        q_value = np.array([0.001, 0.002, 0.003, 0.01, 0.02])
        given = {"q_value": q_value, "effect": np.ones(5), "most_per_row": 9}
        assert choose_genes(row, gene, most=2, **given) == ["a", "d"]
        assert choose_genes(row, gene, most=3, **given) == ["a", "b", "d"]
        assert choose_genes(row, gene, most=9, **given | {"most_per_row": 1}) == ["a", "d"]

    @pytest.mark.parametrize("n_types", [2, 25])
    def test_nothing_overlaps(self, n_types: int) -> None:
        types = type_names(n_types)
        effects = make_effects(types, n_genes=120, receivers=types[:1])
        effects["gene"] = effects["gene"].cat.rename_categories({"Il2": "$Il2$ " * 9})
        figure: Any = plot_gene_dots(effects, types[0], cell_type_palette(types))
        names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert 1 < len(names) <= 40
        assert max(map(len, names)) <= LONGEST_GENE
        assert len(texts(figure.axes[0])) == n_types - 1
        assert_tidy(figure)

    @pytest.mark.parametrize("size", [1e-7, 1e-4, 0.01, 1.0, 1e4, 1e8])
    def test_the_scale_is_read_whatever_the_size_of_changes(self, size: float) -> None:
        """No power of ten is written aside, where the label of the scale is."""
        figure: Any = plot_gene_dots(by_hand().assign(diff=by_hand()["diff"] * size), "B", PALETTE)
        assert_tidy(figure)
        bar = figure.axes[-1]
        assert not bar.xaxis.get_offset_text().get_text()
        written = [float(label.get_text().replace("−", "-")) for label in bar.get_xticklabels()]
        np.testing.assert_allclose(written, bar.get_xticks(), rtol=1e-6)

    def test_nothing_to_draw(self) -> None:
        none = plot_gene_dots(by_hand(), "B", PALETTE, q_threshold=1e-4)
        assert none.texts[0].get_text() == "No gene of B has q < 0.0001 for any of 2 senders."
        assert not none.axes
        assert plot_gene_dots(by_hand()[:0], "B", PALETTE).texts[0].get_text().startswith("No gene of B was tested")

    def test_refused(self) -> None:
        with pytest.raises(ParameterError, match="must hold numbers above 0"):
            plot_gene_dots(by_hand().assign(q_value=-0.1), "B", PALETTE)
        with pytest.raises(ParameterError, match="one row per sender, gene"):
            plot_gene_dots(pd.concat([by_hand(), by_hand()]), "B", PALETTE)
        with pytest.raises(ParameterError, match="Missing: 'B', 'NK'"):
            plot_gene_dots(by_hand(), "B", {"T": "red"})


class TestDots:
    def test_areas_by_hand(self) -> None:
        assert dot_areas(np.array([1.0, 0.1, 1e-4, 1e-9, np.nan])).tolist() == [4.0, 24.0, 84.0, 84.0, 4.0]

    def test_limits(self) -> None:
        assert limit_of(np.array([-3.0, np.nan, -np.inf]), 0.5) == 3.0
        assert limit_of(np.array([0.1]), 0.5) == 0.5
        assert limit_of(np.array([]), 0.5) == 0.5


def test_a_threshold_stays_on_one_line() -> None:
    wrapped = [wrap("raises or lowers with q < 0.05 of it", width, FONT_SIZE) for width in np.linspace(0.7, 2.5, 20)]
    assert any("with\n" in text for text in wrapped)
    assert all("q < 0.05" in text for text in wrapped)


class TestEnrichment:
    @staticmethod
    def table() -> pd.DataFrame:
        return pd.DataFrame(
            {
                "receiver": ["B", "B", "T", "B"],
                "sender": ["T", "T", "B", "T"],
                "head_idx": [-1, 1, -1, -1],
                "shuffled": ["places", "places", "places", "expression"],
                "log2_enrichment": [1.0, -np.inf, 0.2, np.nan],
                "q_value": [0.001, 0.01, 0.8, np.nan],
            }
        )

    def test_by_hand(self) -> None:
        figure: Any = plot_attention_enrichment(self.table(), PALETTE)
        expression, places = figure.axes[:2]
        assert [label.get_text() for label in places.get_xticklabels()] == ["all", "1"]
        # By receiver in the order of the palette: to T, then to B; each is written from right to left.
        assert texts(expression) == ["T", "→", "B", "B", "→", "T"]
        assert offsets(places, "_dots") == [[0, 1], [1, 1], [0, 0]]
        assert offsets(places, "_untested") == [[1, 0]]
        assert len(offsets(expression, "_untested")) == 4
        assert [width > 0 for width in labelled(places, "_dots").get_linewidths()] == [True, True, False]
        assert heading(figure)[1] == "columns: heads; 1 of 2 pairs have q < 0.05 in some head"
        assert [text.get_text() for text in figure.texts[2:4]] == ["expression shuffled", "places shuffled"]
        assert_tidy(figure)

    def test_numbers_of_heads_are_upright(self) -> None:
        figure: Any = plot_attention_enrichment(self.table().assign(head_idx=[0, 1, 0, 2]), PALETTE)
        for axes in figure.axes[:2]:
            assert {label.get_rotation() for label in axes.get_xticklabels()} == {0.0}
        assert_tidy(figure)

    def test_one_way_of_shuffling_is_one_panel(self) -> None:
        figure = plot_attention_enrichment(self.table()[:3], PALETTE)
        assert len(figure.axes) == 2  # and the scale of colours

    @pytest.mark.parametrize("n_types", [2, pytest.param(25, marks=pytest.mark.slow)])
    def test_nothing_overlaps(self, n_types: int) -> None:
        types = type_names(n_types)
        figure: Any = plot_attention_enrichment(make_enrichment(types, 3), cell_type_palette(types))
        n_rows = min(n_types * (n_types - 1), 40)
        assert len(texts(figure.axes[0])) == 3 * n_rows
        assert figure.axes[0].get_ylim() == (n_rows - 0.5, -0.5)
        assert_tidy(figure)

    def test_pairs_of_the_smallest_q_are_drawn(self) -> None:
        figure = plot_attention_enrichment(self.table(), PALETTE, most_pairs=1)
        assert texts(figure.axes[0]) == ["B", "→", "T"]
        assert heading(figure)[1].endswith("; drawn: the 1 with the smallest q")

    def test_nothing_to_draw(self) -> None:
        figure = plot_attention_enrichment(self.table()[:0], PALETTE)
        assert not figure.axes
        assert "there is no pair of types" in figure.texts[0].get_text()

    def test_refused(self) -> None:
        for wrong, words in (
            ({"head_idx": 0.5}, "`head_idx` of `enrichment` must hold whole numbers of at least 0, and -1"),
            ({"shuffled": "cells"}, "must be 'expression', 'places'. Got 'cells'"),
            ({"q_value": 0.0}, "must hold numbers above 0"),
            ({"head_idx": -1, "shuffled": "places"}, "one row per receiver, .*. Got several of 'B', 'T', -1, 'places'"),
        ):
            with pytest.raises(ParameterError, match=words):
                plot_attention_enrichment(self.table().assign(**wrong), PALETTE)
