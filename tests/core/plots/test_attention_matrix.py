"""The matrix of attention between cell types: what it holds, in which order and colours, and that nothing overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from figure_checks import LONG, assert_tidy, type_names
from matplotlib.colors import to_hex, to_rgb

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots.attention_matrix import (
    BLUE,
    NO_EDGES_COLOR,
    RED,
    plot_attention_matrix,
    sequential_colors,
)
from tissue_crosstalk.core.plots.style import cell_type_palette

PALETTE = {"T": "#ff0000", "NK": "#00ff00", "absent": "#777777", "B": "#0000ff"}


def make_pairs(n_types: int, density: float = 1.0) -> pd.DataFrame:
    """Return plausible pairs of different types in random order."""
    generator = np.random.default_rng(0)
    names = type_names(n_types)
    rows = [
        (receiver, sender, 0.03 * generator.lognormal(0, 0.4), generator.beta(2, 15), 100, 10)
        for receiver in names
        for sender in names
        if receiver != sender and generator.random() < density
    ]
    columns = ["receiver", "sender", "mean", "strong_share", "edges", "strong_edges"]
    return pd.DataFrame(rows, columns=columns).sample(frac=1.0, random_state=0)


def by_hand() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "receiver": ["B", "T", "T"],
            "sender": ["T", "B", "NK"],
            "mean": [0.04, 0.0, 0.02],
            "strong_share": [0.5, 0.0, 0.25],
        }
    )


def names(axes: Any, axis: str) -> list[str]:
    labels = axes.get_xticklabels() if axis == "x" else axes.get_yticklabels()
    return [label.get_text() for label in labels]


def values(axes: Any) -> np.ndarray:
    """Return the values of a heatmap; nan where it has none."""
    array = axes.images[0].get_array()
    return np.ma.filled(array.astype(np.float64), np.nan)


class TestMatrix:
    @pytest.mark.parametrize("categorical", [False, True])
    def test_by_hand(self, categorical: bool) -> None:
        """Senders are rows, receivers columns; a category that does not occur is no type."""
        pairs = by_hand()
        if categorical:
            pairs[["receiver", "sender"]] = pairs[["receiver", "sender"]].astype(
                pd.CategoricalDtype(["B", "other", "T", "NK"])
            )
        before = pairs.copy()
        figure: Any = plot_attention_matrix(pairs, PALETTE, flavor="value-weighted")
        mean, strong, *bars = figure.axes
        nan = np.nan
        np.testing.assert_array_equal(values(mean), [[nan, nan, 0.04], [0.02, nan, nan], [0.0, nan, nan]])
        np.testing.assert_array_equal(values(strong), [[nan, nan, 0.5], [0.25, nan, nan], [0.0, nan, nan]])
        for axes in (mean, strong):
            assert names(axes, "x") == ["T", "NK", "B"]
            assert axes.get_xlabel() == "receiver"
            assert axes.get_ylim() == (2.5, -0.5)  # the first sender is at the top
        assert names(mean, "y") == ["T", "NK", "B"]
        assert mean.get_ylabel() == "sender"
        assert set(names(strong, "y")) == {""}
        assert mean.images[0].get_clim() == (0.0, 0.04)
        assert strong.images[0].get_clim() == (0.0, 0.5)
        assert [bar.get_xlabel() for bar in bars] == ["mean attention", "share of edges with strong attention"]
        assert [text.get_text() for text in figure.texts] == ["Attention between cell types (value-weighted)"]
        assert_tidy(figure)
        pd.testing.assert_frame_equal(pairs, before)

    def test_swatches_beside_names(self) -> None:
        for axes in plot_attention_matrix(by_hand(), PALETTE).axes[:2]:
            above, beside = (np.asarray(artist.get_offsets()) for artist in axes.collections)
            np.testing.assert_array_equal(above[:, 0], [0, 1, 2])
            np.testing.assert_array_equal(beside[:, 1], [0, 1, 2])
            assert (above[:, 1] < -0.5).all()
            assert (beside[:, 0] < -0.5).all()
            for artist in axes.collections:
                assert [to_hex(color) for color in artist.get_facecolors()] == ["#ff0000", "#00ff00", "#0000ff"]

    def test_no_edges_differ_from_zero(self) -> None:
        """A pair without edges is transparent on grey and struck through; zero is the lightest colour."""
        axes: Any = plot_attention_matrix(by_hand(), PALETTE).axes[0]
        image = axes.images[0]
        shown = image.to_rgba(image.get_array())
        assert (shown[np.isnan(values(axes))][:, 3] == 0).all()
        assert to_hex(axes.get_facecolor()) == NO_EDGES_COLOR
        zero = image.to_rgba(0.0)
        assert np.ptp(zero[:3]) > 0.01
        assert to_hex(zero) != NO_EDGES_COLOR
        (strokes,) = axes.lines
        middles = strokes.get_xydata().reshape(-1, 3, 2)[:, :2].mean(axis=1)
        assert {(x, y) for x, y in middles.tolist()} == {(0, 0), (1, 0), (1, 1), (2, 1), (1, 2), (2, 2)}

    def test_values_in_squares(self) -> None:
        figure: Any = plot_attention_matrix(by_hand(), PALETTE)
        mean, strong = figure.axes[:2]
        assert {text.get_position(): text.get_text() for text in mean.texts} == {
            (2, 0): "0.040", (0, 1): "0.020", (0, 2): "0.000"
        }  # fmt: skip
        assert {text.get_text() for text in strong.texts} == {"0.50", "0.25", "0.00"}
        # White where the square is dark.
        assert {text.get_text(): to_hex(text.get_color()) == "#ffffff" for text in mean.texts} == {
            "0.040": True, "0.020": False, "0.000": False
        }  # fmt: skip

    @pytest.mark.parametrize(("scale", "text"), [(1e4, "400"), (1e-4, "0.000004"), (0.0, "0.00")])
    def test_digits(self, scale: float, text: str) -> None:
        pairs = by_hand().assign(mean=lambda table: table["mean"] * scale)
        figure = plot_attention_matrix(pairs, PALETTE)
        assert text in [written.get_text() for written in figure.axes[0].texts]
        assert_tidy(figure)

    @pytest.mark.parametrize("n_types", [3, 8, 9, 25])
    def test_nothing_overlaps(self, n_types: int) -> None:
        """With long and odd names, whichever is the last."""
        order = [*type_names(n_types)[1:], LONG[0]]
        figure: Any = plot_attention_matrix(make_pairs(n_types, 0.9), cell_type_palette(order))
        for axes in figure.axes[:2]:
            assert names(axes, "x") == order
            assert bool(axes.texts) == (n_types <= 8)
        assert_tidy(figure)

    def test_equals_the_table(self) -> None:
        pairs = make_pairs(25, 0.7)
        order = type_names(25)
        axes: Any = plot_attention_matrix(pairs, cell_type_palette(order)).axes[1]
        expected = pairs.pivot_table(index="sender", columns="receiver", values="strong_share").reindex(
            index=order, columns=order
        )
        np.testing.assert_array_equal(values(axes), expected.to_numpy())

    def test_no_pair(self) -> None:
        figure = plot_attention_matrix(by_hand()[:0], PALETTE)
        assert not figure.axes
        assert figure.texts[0].get_text() == "No attention between cell types: there is no edge."
        assert_tidy(figure)

    def test_refused(self) -> None:
        pairs = by_hand()
        with pytest.raises(ParameterError, match=r"`pairs` must have the columns .*Missing: 'mean'"):
            plot_attention_matrix(pairs.drop(columns="mean"), PALETTE)
        with pytest.raises(ParameterError, match=r"`palette` must give each cell type a color\. Missing: 'NK'"):
            plot_attention_matrix(pairs, {"B": "red", "T": "blue"})
        with pytest.raises(ParameterError, match=r"`flavor` must be one of .*Got 'vanila'.*vanilla"):
            plot_attention_matrix(pairs, PALETTE, flavor="vanila")
        with pytest.raises(ParameterError, match=r"one row per receiver and sender.*receiver 'B' and sender 'T'"):
            plot_attention_matrix(pd.concat([pairs, pairs[:1]]), PALETTE)
        with pytest.raises(ParameterError, match=r"of two cell types.*receiver 'B' and sender 'B'"):
            plot_attention_matrix(pairs.assign(sender=["B", "B", "NK"]), PALETTE)
        for column, wrong, kind in (
            ("mean", -0.1, "that are finite and at least 0"),
            ("mean", np.nan, "that are finite and at least 0"),
            ("mean", np.inf, "that are finite and at least 0"),
            ("strong_share", 1.1, "from 0 to 1"),
            ("strong_share", "x", "from 0 to 1"),
        ):
            with pytest.raises(ParameterError, match=rf"`{column}` of `pairs` must hold .* {kind}\. Got {wrong!r}"):
                plot_attention_matrix(pairs.assign(**{column: [0.1, wrong, 0.1]}), PALETTE)


class TestColors:
    @pytest.mark.parametrize("hues", [BLUE, RED])
    def test_from_light_to_dark(self, hues: tuple[float, float]) -> None:
        colors = np.array([to_rgb(color) for color in sequential_colors(hues, n_colors=32)(range(32))])
        luminance = colors @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(luminance) < 0).all()
        assert luminance[0] > 0.9
        assert luminance[-1] < 0.2
        steps = np.sqrt((np.diff(colors, axis=0) ** 2).sum(axis=1))
        assert steps.max() < 3 * steps.min()  # no jump, no plateau
