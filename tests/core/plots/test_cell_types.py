"""The map of cell types: colours of cells, the key, and the panels of the other maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from figure_checks import assert_tidy, type_names
from matplotlib.colors import to_hex

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots.cell_types import plot_cell_types
from tissue_crosstalk.core.plots.hubs import plot_hub_map
from tissue_crosstalk.core.plots.style import cell_type_palette

PALETTE = {"T": "#ff0000", "absent": "#777777", "B": "#0000ff"}


def drawn(axes: Any) -> dict[tuple[float, float], str]:
    """Return the colour of each point."""
    found = {}
    for artist in axes.collections:
        offsets = np.asarray(artist.get_offsets())
        colors = np.broadcast_to(artist.get_facecolors(), (len(offsets), 4))
        found.update({(x, y): to_hex(color) for (x, y), color in zip(offsets.tolist(), colors, strict=True)})
    return found


def test_by_hand() -> None:
    figure: Any = plot_cell_types([[0, 0, 7], [1, 2, 7], [3, 1, 7]], ["B", "T", "B"], PALETTE, distance_unit="µm")
    (axes,) = figure.axes
    assert drawn(axes) == {(0.0, 0.0): "#0000ff", (1.0, 2.0): "#ff0000", (3.0, 1.0): "#0000ff"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["T (1)", "B (2)"]
    assert [to_hex(line.get_color()) for line in figure.legends[0].get_lines()] == ["#ff0000", "#0000ff"]
    assert axes.texts[-1].get_text() == "1 µm"
    assert_tidy(figure)


@pytest.mark.parametrize("n_types", [3, 25])
def test_panels_are_those_of_the_map_of_hubs(n_types: int) -> None:
    generator = np.random.default_rng(0)
    points, sections = generator.random((600, 2)) * 100, np.repeat(["s10", "s2", "s1"], 200)
    names = type_names(n_types)
    types = np.array(names, dtype=object)[generator.integers(0, n_types, 600)]
    figure: Any = plot_cell_types(points, types, cell_type_palette(names), sections)
    hubs = plot_hub_map(points, np.zeros(600, dtype=int), sections).axes
    assert [axes.get_title() for axes in figure.axes] == ["s1", "s2", "s10"]
    for one, other in zip(figure.axes, hubs, strict=True):
        assert (one.get_xlim(), one.get_ylim()) == (other.get_xlim(), other.get_ylim())
    assert_tidy(figure)


def test_refused() -> None:
    with pytest.raises(ParameterError, match=r"`cell_types` must have the shape .*expected \(2,\), got \(1,\)"):
        plot_cell_types(np.zeros((2, 2)), ["T"], PALETTE)
    with pytest.raises(ParameterError, match="`palette` must give each cell type a color. Missing: 'NK'"):
        plot_cell_types(np.zeros((1, 2)), ["NK"], PALETTE)
