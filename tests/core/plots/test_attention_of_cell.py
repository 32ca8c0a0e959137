"""One cell and its attention: lines, their widths and colours, who is drawn, and that nothing overlaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figure_checks import assert_tidy, type_names
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots.attention_of_cell import (
    FADED,
    LEAST_LINE,
    WIDEST_LINE,
    plot_attention_of_cell,
)
from tissue_crosstalk.core.plots.style import cell_type_palette, save_figure

PALETTE = {"T": "#ff0000", "absent": "#777777", "B": "#0000ff", "NK": "#00ff00"}
# The index cell is the third. It has neighbors at distances 5 and 10; within 12.5 of it, in x and y, lies one cell
# more, of its own type. The last two are too far away, and of another section.
XY = np.array([[10.0, 0.0], [3.0, 4.0], [0.0, 0.0], [-12.4, 12.4], [12.6, 0.0], [1.0, 1.0]])
TYPES = ["B", "NK", "T", "T", "B", "NK"]
SECTION = ["a", "a", "a", "a", "a", "b"]


def by_hand(attention: Any = ((0.4, 0.1, 0.0), (0.0, 0.8, 0.0)), **given: Any) -> Any:
    arguments: dict[str, Any] = {"neighbors": [0, 1, -1], "section": SECTION, "name": "cell 2", **given}
    coordinates = arguments.pop("coordinates", XY)
    types = arguments.pop("cell_types", TYPES)
    index_cell, neighbors = arguments.pop("index_cell", 2), arguments.pop("neighbors")
    return plot_attention_of_cell(
        coordinates, types, index_cell, neighbors, attention, arguments.pop("palette", PALETTE), **arguments
    )


def lines(axes: Any) -> LineCollection:
    (found,) = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
    return found


def dots(axes: Any) -> dict[str, dict[tuple[float, float], str]]:
    """Return the colours of the dots, by the label of their collection, ``others`` for those without one."""
    found: dict[str, dict[tuple[float, float], str]] = {}
    for artist in axes.collections:
        if not isinstance(artist, LineCollection):
            offsets = np.asarray(artist.get_offsets())
            colors = np.broadcast_to(artist.get_facecolors(), (len(offsets), 4))
            own = found.setdefault(artist.get_label() if artist.get_zorder() > 2 else "others", {})
            own.update({(x, y): to_hex(color) for (x, y), color in zip(offsets.tolist(), colors, strict=True)})
    return found


def pale(color: str) -> str:
    rgb = np.array([int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return to_hex(tuple(FADED * rgb + 1 - FADED))


def tissue(n_types: int, n_heads: int, n_neighbors: int = 30, corner: float = 100.0, **given: Any) -> Any:
    """Draw a cell near a corner, or in the middle, of a tissue of many types."""
    generator = np.random.default_rng(n_types)
    names = type_names(n_types)
    points = generator.uniform(0, 200, (1500, 2))
    types = np.array(names, dtype=object)[generator.integers(0, n_types, len(points))]
    index_cell = int(np.hypot(*(points - corner).T).argmin())
    distance = np.hypot(*(points - points[index_cell]).T)
    distance[types == types[index_cell]] = np.inf
    attention = generator.dirichlet(np.full(n_neighbors + 1, 0.12), n_heads)[:, 1:]
    return plot_attention_of_cell(
        points, types, index_cell, distance.argsort()[:n_neighbors], attention, cell_type_palette(names), **given
    )


class TestByHand:
    def test_lines(self) -> None:
        """To the neighbors, in the colours of their types, the widest first; one scale for both heads."""
        figure = by_hand()
        first, second = figure.axes
        assert [axes.get_title() for axes in figure.axes] == ["head 0: 0.5 in all", "head 1: 0.8 in all"]
        to_b, to_nk = [[0.0, 0.0], [10.0, 0.0]], [[0.0, 0.0], [3.0, 4.0]]
        for axes, ends, colors, widths in (
            (first, [to_b, to_nk], ["#0000ff", "#00ff00"], [0.5 * WIDEST_LINE, WIDEST_LINE / 8]),
            (second, [to_nk, to_b], ["#00ff00", "#0000ff"], [WIDEST_LINE, LEAST_LINE]),
        ):
            drawn = lines(axes)
            assert [segment.tolist() for segment in drawn.get_segments()] == ends
            assert [to_hex(color) for color in drawn.get_color()] == colors
            assert np.asarray(drawn.get_linewidths()) == pytest.approx(widths)

    def test_cells(self) -> None:
        """Neighbors in their colours, the others around paler, none that is farther away or of another section."""
        for axes in by_hand().axes:
            shown = dots(axes)
            assert shown["_index"] == {(0.0, 0.0): "#ff0000"}
            assert shown["_neighbors"] == {(10.0, 0.0): "#0000ff", (3.0, 4.0): "#00ff00"}
            assert set(shown["others"]) == {(0.0, 0.0), (10.0, 0.0), (3.0, 4.0), (-12.4, 12.4)}
            assert shown["others"][-12.4, 12.4] == pale("#ff0000")

    def test_texts(self) -> None:
        figure = by_hand(distance_unit="µm")
        assert [text.get_text().replace("\n", " ") for text in figure.texts] == [
            "Attention of cell 2, which is T (vanilla)",
            "lines to its 2 neighbors are as wide as its attention to them; what a head lacks to 1 in all goes to no "
            "neighbor",
        ]
        types, widths = figure.legends
        assert [text.get_text() for text in types.get_texts()] == ["T", "B", "NK"]  # those around, as in the palette
        assert [text.get_text() for text in widths.get_texts()] == ["0.2", "0.4", "0.6", "0.8 of attention"]
        assert [line.get_linewidth() for line in widths.get_lines()] == pytest.approx(
            [share * WIDEST_LINE for share in (0.25, 0.5, 0.75, 1.0)]
        )
        assert figure.axes[0].texts[-1].get_text() == "5 µm"
        assert not figure.axes[1].texts
        assert_tidy(figure)

    def test_heads_and_flavor_are_named(self) -> None:
        figure = by_hand([[0.4, 0.1, 7.0]], heads=[3], flavor="gene-weighted")
        assert figure.axes[0].get_title() == "head 3: 0.5 in all"  # an empty slot counts as nothing
        assert figure.texts[0].get_text() == "Attention of cell 2, which is T (gene-weighted)"
        assert figure.texts[1].get_text().endswith("as wide as its attention to them")

    def test_no_attention(self) -> None:
        figure = by_hand([[0.0, 0.0, 0.0]])
        assert list(lines(figure.axes[0]).get_linewidths()) == [LEAST_LINE, LEAST_LINE]
        assert len(figure.legends) == 1
        assert_tidy(figure)

    def test_one_neighbor_at_the_same_place_and_a_third_axis(self) -> None:
        figure = by_hand([[0.5]], coordinates=np.zeros((6, 3)), neighbors=[1], section=None)
        assert figure.texts[1].get_text().replace("\n", " ").startswith("the line to its only neighbor is as wide as")
        assert len(dots(figure.axes[0])["others"]) == 1
        assert_tidy(figure)


@pytest.mark.parametrize(("n_types", "n_heads"), [(3, 1), (3, 3), (25, 2), (25, 8), (25, 13)])
@pytest.mark.parametrize("corner", [0.0, 100.0])
def test_nothing_overlaps(n_types: int, n_heads: int, corner: float) -> None:
    figure = tissue(n_types, n_heads, corner=corner, name="a cell with a rather long name", distance_unit="µm")
    assert len(figure.axes) == n_heads
    assert figure.get_figwidth() < 14
    assert_tidy(figure)


def test_same_file_every_time(tmp_path: Path) -> None:
    first, second = (save_figure(by_hand(), tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinates": np.zeros((6, 4))}, r"`coordinates` must have the shape .* Got \(6, 4\)"),
        ({"coordinates": XY * np.nan}, "`coordinates` must be finite"),
        ({"cell_types": TYPES[:5]}, r"`cell_types` must have the shape .*expected \(6,\), got \(5,\)"),
        ({"section": SECTION[:5]}, r"`section` must have the shape .*expected \(6,\), got \(5,\)"),
        ({"attention": [0.4, 0.1, 0.0]}, r"`attention` must have the shape \(head, neighbor\).* Got \(3,\) and \(3,\)"),
        ({"neighbors": [0, 1]}, r"Got \(2, 3\) and \(2,\)"),
        ({"attention": [[np.nan, 0.1, 0.0]]}, "`attention` must hold numbers of at least 0. Got nan"),
        ({"attention": [[-0.1, 0.1, 0.0]]}, r"Got -0\.1 instead"),
        ({"heads": [1]}, "`heads` must number the 2 heads of `attention`. Got 1 numbers"),
        ({"index_cell": 6}, "`index_cell` must be one of the 6 cells, from 0. Got 6"),
        ({"index_cell": "cell 2"}, "Got 'cell 2' instead"),
        ({"neighbors": [-1, -1, -1]}, "must name at least one cell. All slots are empty"),
        ({"neighbors": [0, 6, -1]}, "must hold positions of the 6 cells.* Got 0 to 6"),
        ({"neighbors": [0, 2, -1]}, "must be other cells of the section of `index_cell`"),
        ({"neighbors": [0, 5, -1]}, "must be other cells of the section of `index_cell`"),
        ({"palette": {"T": "red", "B": "blue"}}, r"`palette` must give each cell type a color. Missing: 'NK'"),
        ({"flavor": "gene_weighted"}, "Did you mean 'gene-weighted'"),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        by_hand(**given)
