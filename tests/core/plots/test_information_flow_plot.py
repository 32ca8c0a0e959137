"""Arrows of information flow: where they are, where they point, how long they are, and that nothing overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from figure_checks import assert_tidy, type_names
from matplotlib.colors import to_hex
from matplotlib.quiver import Quiver

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots.information_flow import _LONGEST, plot_information_flow
from tissue_crosstalk.core.plots.style import cell_type_palette

PALETTE = {"B": "#ff0000", "T": "#0000ff"}
NAN = float("nan")


def arrows(axes: Any) -> Any:
    """Return the arrows of a panel."""
    (found,) = [one for one in axes.collections if isinstance(one, Quiver) and one.get_label() == "_arrows"]
    return found


def undirected(axes: Any) -> list[list[float]]:
    (dots,) = [one for one in axes.collections if one.get_label() == "_undirected"]
    return np.asarray(dots.get_offsets()).tolist()


def corners(n_types: int = 2) -> dict[str, Any]:
    """Return three cells in each corner of a tissue, and one that is no receiver."""
    near = np.array([[0, 0], [1, 0], [0, 1]])
    at_corners = (np.array([[[0, 0]], [[100, 0]], [[0, 100]], [[100, 100]]]) + near).reshape(-1, 2)
    places = np.concatenate([at_corners, [[50, 50]]])
    total = np.array([0.5, 0.25, 0.25] * 4 + [NAN])
    # From the right, from above, from all sides, from the lower left.
    ways = np.repeat([[10, 0], [0, 5], [0, 0], [-6, -8], [NAN, NAN]], [3, 3, 3, 3, 1], axis=0) * total[:, None]
    return {
        "coordinates": places.astype(float),
        "displacement": ways,
        "attention": total,
        "cell_type": np.array(["B"] * 6 + ["T"] * 7),
    }


def test_by_hand() -> None:
    """Arrows point from senders to receivers; ways of 10 and 5 are as long as twice and once."""
    given = corners()
    figure: Any = plot_information_flow(**given, palette=PALETTE, distance_unit="µm")
    axes = figure.axes[0]
    drawn = arrows(axes)
    thirds = 1 / 3
    assert drawn.get_offsets().tolist() == [
        pytest.approx([thirds, thirds]), pytest.approx([100 + thirds, thirds]), pytest.approx([100 + thirds] * 2)
    ]  # fmt: skip
    vectors = np.column_stack([drawn.U, drawn.V])
    longest = _LONGEST
    np.testing.assert_allclose(
        vectors, [[-longest, 0], [0, -longest / 2], [0.6 * longest, 0.8 * longest]], rtol=1e-9, atol=1e-12
    )
    assert drawn.scale == 1.0
    assert drawn.scale_units == "inches"
    assert undirected(axes) == [pytest.approx([thirds, 100 + thirds])]
    key = arrows(figure.axes[1])
    assert key.U.tolist() == [pytest.approx(longest)]  # of 10
    texts = [" ".join(text.get_text().split()) for text in figure.texts]
    assert texts == [
        "Information flow: all types → all types",
        "arrows: from those who are attended to, to their receivers, in squares with at least 3 receivers",
        "mean way from senders",
        "10 µm",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["B", "T"]
    assert_tidy(figure)


def test_attention_weighs() -> None:
    """Of two cells in a square, that of nine times the attention counts nine times."""
    figure = plot_information_flow(
        [[0.0, 0.0], [0.1, 0.0], [50.0, 50.0]], [[0.9 * 4, 0.0], [0.0, 0.1 * 4], [NAN, NAN]], [0.9, 0.1, 0.0],
        ["B", "B", "T"], PALETTE, min_cells=2, receiver="B", sender="$T$",
    )  # fmt: skip
    drawn = arrows(figure.axes[0])
    assert float(drawn.V[0] / drawn.U[0]) == pytest.approx(1 / 9)
    assert figure.texts[0].get_text() == "Information flow: $T$ → B"


def test_squares_with_few_receivers_have_no_arrow() -> None:
    figure = plot_information_flow(**corners(), palette=PALETTE, min_cells=4)
    assert len(arrows(figure.axes[0]).get_offsets()) == 0
    assert " ".join(figure.texts[1].get_text().split()) == (
        "no arrows: there is no square of the grid with 4 receivers"
    )


def test_a_panel_per_section_with_one_scale() -> None:
    given = corners()
    section = np.where(np.arange(13) < 6, "s2", "s10")
    figure: Any = plot_information_flow(**given, palette=PALETTE, section=section)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["s2", "s10"]
    lengths = [np.hypot(arrows(axes).U, arrows(axes).V).max() for axes in figure.axes[:2]]
    assert lengths == pytest.approx([_LONGEST, _LONGEST])
    assert_tidy(figure)


def test_cells_have_light_colors_of_their_types() -> None:
    given = corners()
    figure: Any = plot_information_flow(**given, palette=PALETTE)
    (cells,) = [one for one in figure.axes[0].collections if len(one.get_offsets()) == 13]
    assert {to_hex(color) for color in cells.get_facecolors()} == {"#ff9999", "#9999ff"}


@pytest.mark.parametrize("n_types", [3, 25])
def test_nothing_overlaps(n_types: int) -> None:
    generator = np.random.default_rng(0)
    types = type_names(n_types)
    places = generator.uniform(0, 500, (900, 3))
    total = generator.random(900)
    figure: Any = plot_information_flow(
        places, generator.normal(3, 9, (900, 3)) * total[:, None], total, np.array(types)[np.arange(900) % n_types],
        cell_type_palette(types), np.array([f"_{name}" for name in types[:3]])[np.arange(900) % 3],
        receiver=types[0], sender=types[1], distance_unit="µm",
    )  # fmt: skip
    assert len(figure.axes) == 4
    assert len(figure.legends[0].get_texts()) == n_types
    assert_tidy(figure)


def test_many_cells_are_few_arrows() -> None:
    generator = np.random.default_rng(0)
    places = generator.uniform(0, 500, (120_000, 2))
    figure = plot_information_flow(
        places, generator.normal(3, 9, (120_000, 2)), np.ones(120_000), np.array(["B", "T"])[np.arange(120_000) % 2],
        PALETTE,
    )  # fmt: skip
    assert 200 < len(arrows(figure.axes[0]).get_offsets()) + len(undirected(figure.axes[0])) < 1000


def test_nothing_to_draw() -> None:
    given = corners() | {"attention": np.zeros(13)}
    figure = plot_information_flow(**given, palette=PALETTE, receiver="B")
    assert not figure.axes
    assert "(all types → B): no cell attends to another." in " ".join(figure.texts[0].get_text().split())


def test_refused() -> None:
    for wrong, words in (
        ({"displacement": np.zeros((13, 4))}, r"`displacement` must have the shape \(cell, axis\)"),
        ({"displacement": np.full((13, 2), np.inf)}, "`displacement` must be finite"),
        ({"attention": np.full(13, -1.0)}, "`attention` must hold numbers of at least 0, or nan. Got -1.0"),
        ({"attention": np.zeros(12)}, r"`attention` must have the shape \(cell,\)"),
        ({"cell_type": np.array(["X"] * 13)}, "Missing: 'X'"),
        ({"min_cells": 0}, "`min_cells` must be a whole number of at least 1"),
    ):
        with pytest.raises(ParameterError, match=words):
            plot_information_flow(**corners() | wrong, palette=PALETTE)
