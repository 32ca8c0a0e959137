"""The network of strong attention: its arrows, their ends, widths and colours, and that no name overlaps another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from figure_checks import assert_tidy, type_names
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots.interaction_network import LEAST_ARROW, WIDEST_ARROW, plot_interaction_network
from tissue_crosstalk.core.plots.style import cell_type_palette, save_figure

PALETTE = {"T": "#ff0000", "NK": "#00ff00", "absent": "#777777", "B": "#0000ff"}


def by_hand() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "receiver": ["B", "T", "T", "NK"],
            "sender": ["T", "B", "NK", "T"],
            "strong_share": [0.6, 0.3, 0.2, 0.1999],
            "receivers": [100, 400, 400, 25],
        }
    )


def make_pairs(n_types: int) -> pd.DataFrame:
    """Return plausible pairs of all types, about a tenth of which are strong."""
    generator = np.random.default_rng(1)
    names = type_names(n_types)
    cells = dict(zip(names, generator.integers(20, 20_000, n_types).tolist(), strict=True))
    rows = [
        (receiver, sender, generator.uniform(0.25, 0.7) if generator.random() < 0.1 else 0.1, cells[receiver])
        for receiver in names
        for sender in names
        if receiver != sender
    ]
    return pd.DataFrame(rows, columns=["receiver", "sender", "strong_share", "receivers"])


def arrows(figure: Any, label: str = "_arrow") -> list[Any]:
    """Return arrows in the order in which they are drawn."""
    (axes,) = figure.axes
    found = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch) and patch.get_label() == label]
    assert len({patch.get_zorder() for patch in found}) <= 1
    return found


def width(arrow: Any) -> float:
    """Return the width of what is seen of a shaft, in points."""
    return float(arrow.get_arrowstyle().tail_width - arrow.get_linewidth())


def ends(arrow: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return where an arrow starts and ends, in inches, which are the units of the panel."""
    return arrow._path_original.vertices[0], arrow._path_original.vertices[-1]


def nodes(figure: Any) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return positions (type, axis) and radii (type,) in inches, and colours."""
    (dots,) = [artist for artist in figure.axes[0].collections if artist.get_label() != "_key"]
    n_types = len(dots.get_offsets())
    radii = np.broadcast_to(np.sqrt(dots.get_sizes()) / 2 / 72, n_types)
    return np.asarray(dots.get_offsets()), radii, [to_hex(color) for color in dots.get_facecolors()]


def caption(figure: Any) -> str:
    return str(figure.texts[1].get_text()).replace("\n", " ")


class TestNetwork:
    def test_by_hand(self) -> None:
        """The share that equals the threshold counts; weaker arrows come first."""
        pairs = by_hand()
        before = pairs.copy()
        figure: Any = plot_interaction_network(pairs, PALETTE, threshold=0.2, flavor="info-weighted")
        positions, radii, colors = nodes(figure)
        assert colors == ["#ff0000", "#00ff00", "#0000ff"]
        drawn = arrows(figure)
        assert [to_hex(arrow.get_facecolor()) for arrow in drawn] == ["#00ff00", "#0000ff", "#ff0000"]
        assert [width(arrow) for arrow in drawn] == pytest.approx([WIDEST_ARROW / 3, WIDEST_ARROW / 2, WIDEST_ARROW])
        for arrow, (sender, receiver) in zip(drawn, [(1, 0), (2, 0), (0, 2)], strict=True):
            start, end = ends(arrow)
            # They leave at the rim of the sender, and arrive at the rim of the receiver.
            assert 0 < np.hypot(*(start - positions[sender])) - radii[sender] < 0.05
            assert 0 < np.hypot(*(end - positions[receiver])) - radii[receiver] < 0.05
        assert figure.texts[0].get_text() == "Strong attention between cell types (info-weighted)"
        assert caption(figure) == (
            "arrows from sender to receiver: pairs of which at least 20 % of the edges carry strong attention; "
            "3 of 4 pairs"
        )
        assert_tidy(figure)
        pd.testing.assert_frame_equal(pairs, before)

    def test_pairs_with_few_edges_get_no_arrow(self) -> None:
        pairs = by_hand().assign(edges=[10, 9, 10, 10])
        share = pairs["strong_share"].tolist()
        figure: Any = plot_interaction_network(pairs, PALETTE, threshold=0.2, min_edges=10)
        expected = sum(value >= 0.2 for number, value in enumerate(share) if number != 1)
        assert len(arrows(figure)) == expected < sum(value >= 0.2 for value in share)
        assert caption(figure).endswith(f"{expected} of 3 pairs with at least 10 edges")
        assert len(nodes(figure)[0]) == 3
        none = plot_interaction_network(pairs, PALETTE, threshold=0.2, min_edges=11)
        assert not arrows(none)
        assert caption(none) == "no arrows: there is no pair with at least 11 edges."
        weak = plot_interaction_network(pairs, PALETTE, threshold=1.0, min_edges=10)
        largest = max(value for number, value in enumerate(share) if number != 1)
        assert f"The largest share of those with at least 10 edges is {100 * largest:.3g} %" in caption(weak)
        for each in (figure, none, weak):
            assert_tidy(each)

    def test_there_and_back_are_apart(self) -> None:
        drawn = arrows(plot_interaction_network(by_hand(), PALETTE, threshold=0.2))
        there, back = (arrow._path_original.vertices for arrow in drawn[1:])
        middles = [0.25 * path[0] + 0.5 * path[1] + 0.25 * path[2] for path in (there, back)]
        assert np.hypot(*(middles[0] - middles[1])) > 0.1

    def test_areas_grow_with_cells(self) -> None:
        _, radii, _ = nodes(plot_interaction_network(by_hand(), PALETTE, threshold=0.2))
        assert (radii[0] / radii[2]) ** 2 == pytest.approx(400 / 100)
        assert radii[1] < radii[2]
        figure = plot_interaction_network(by_hand().drop(columns="receivers"), PALETTE, threshold=0.2)
        _, radii, _ = nodes(figure)
        assert len(set(radii.tolist())) == 1
        assert not any("cells" in text.get_text() for text in figure.axes[0].texts)

    def test_keys(self) -> None:
        """Widths and areas of the keys mean what is written beside them."""
        figure = plot_interaction_network(by_hand(), PALETTE, threshold=0.2)
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert texts[3:] == ["20 %", "40 %", "60 % of edges", "40", "200 cells"]
        assert [width(arrow) for arrow in arrows(figure, "_key")] == pytest.approx(
            [WIDEST_ARROW / 3, WIDEST_ARROW / 1.5, WIDEST_ARROW]
        )
        small, large = [artist for artist in figure.axes[0].collections if artist.get_label() == "_key"]
        _, radii, _ = nodes(figure)
        assert large.get_sizes()[0] == pytest.approx((2 * 72 * radii[0]) ** 2 / 2)
        assert small.get_sizes()[0] < large.get_sizes()[0]

    def test_thin_arrows_are_seen(self) -> None:
        pairs = by_hand().assign(strong_share=[0.9, 0.001, 0.5, 0.5])
        assert width(arrows(plot_interaction_network(pairs, PALETTE, threshold=0.001))[0]) == pytest.approx(LEAST_ARROW)

    @pytest.mark.parametrize("n_types", [2, 3, 8, 25, 60])
    def test_nothing_overlaps(self, n_types: int) -> None:
        pairs = make_pairs(n_types)
        figure: Any = plot_interaction_network(pairs, cell_type_palette(type_names(n_types)), threshold=0.2)
        n_strong = int((pairs["strong_share"] >= 0.2).sum())
        assert len(arrows(figure)) == n_strong
        positions, radii, _ = nodes(figure)
        names = figure.axes[0].texts[:n_types]
        assert [name.get_text() for name in names] == type_names(n_types)
        # Each name is outside of the circle of dots, and nearest to its own dot.
        circle = np.hypot(*positions.T)
        anchors = np.array([name.get_position() for name in names])
        assert (np.hypot(*anchors.T) > circle + radii).all()
        distance = np.hypot(*(anchors[:, None] - positions[None]).transpose(2, 0, 1))
        assert n_types == 60 or (distance.argmin(axis=1) == np.arange(n_types)).all()
        # No arrow runs outside of the circle.
        for arrow in arrows(figure):
            path = arrow._path_original.vertices
            t = np.linspace(0, 1, 50)[:, None]
            curve = (1 - t) ** 2 * path[0] + 2 * t * (1 - t) * path[1] + t**2 * path[2]
            assert np.hypot(*curve.T).max() < circle[0] + 0.02
        assert_tidy(figure)

    @pytest.mark.parametrize("n_types", [3, 25])
    def test_no_pair_reaches_the_threshold(self, n_types: int) -> None:
        pairs = make_pairs(n_types).assign(strong_share=0.05)
        pairs.loc[1, "strong_share"] = 0.123
        figure = plot_interaction_network(pairs, cell_type_palette(type_names(n_types)), threshold=0.2)
        assert not arrows(figure)
        assert len(nodes(figure)[0]) == n_types
        assert caption(figure) == (
            "no arrows: there is no pair of which at least 20 % of the edges carry strong attention. "
            "The largest share is 12.3 %, of edges from Tumor, CD4+ $x$ to Forebrain/Midbrain/Hindbrain."
        )
        assert_tidy(figure)

    def test_no_pair(self) -> None:
        figure = plot_interaction_network(by_hand()[:0], PALETTE, threshold=0.2)
        assert not figure.axes
        assert figure.texts[0].get_text() == "No attention between cell types: there is no edge."

    def test_clean_vectors_the_same_every_time(self, tmp_path: Path) -> None:
        files = [
            save_figure(plot_interaction_network(by_hand(), PALETTE, threshold=0.2), tmp_path / name).read_text()
            for name in ("a.svg", "b.svg")
        ]
        assert files[0] == files[1]
        assert "<image" not in files[0]

    def test_refused(self) -> None:
        for threshold in (0.0, 1.1, np.nan, "0.2"):
            with pytest.raises(ParameterError, match="`threshold` must be above 0 and at most 1"):
                plot_interaction_network(by_hand(), PALETTE, threshold=threshold)
        with pytest.raises(ParameterError, match=r"`pairs` must have the columns .*Missing: 'strong_share'"):
            plot_interaction_network(by_hand().drop(columns="strong_share"), PALETTE, threshold=0.2)
        with pytest.raises(ParameterError, match="Missing: 'NK'"):
            plot_interaction_network(by_hand(), {"B": "red", "T": "blue"}, threshold=0.2)
        with pytest.raises(ParameterError, match="`receivers` of `pairs` must hold numbers that are finite"):
            plot_interaction_network(by_hand().assign(receivers=-1), PALETTE, threshold=0.2)
        with pytest.raises(ParameterError, match="`flavor` must be one of"):
            plot_interaction_network(by_hand(), PALETTE, threshold=0.2, flavor="strong")
