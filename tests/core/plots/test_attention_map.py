"""Maps of attention in the tissue: colours of cells, one scale per quantity, and that nothing overlaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figure_checks import assert_tidy
from matplotlib.colors import to_hex

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots import _tissue_panels
from tissue_crosstalk.core.plots.attention_map import (
    BLUE,
    LIGHTEST,
    N_LEVELS,
    NOT_COMPUTED_COLOR,
    RED,
    plot_attention_map,
)
from tissue_crosstalk.core.plots.attention_matrix import sequential_colors
from tissue_crosstalk.core.plots.hubs import plot_hub_map
from tissue_crosstalk.core.plots.style import save_figure

BLUES, REDS = (sequential_colors(hues, lightest=LIGHTEST, n_colors=N_LEVELS) for hues in (BLUE, RED))


def make_cells(n_cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coordinates (cell, 2), and what is received and sent (cell,)."""
    generator = np.random.default_rng(0)
    return generator.random((n_cells, 2)) * 100, generator.gamma(2.0, size=n_cells), generator.gamma(1.0, size=n_cells)


def drawn(axes: Any) -> dict[tuple[float, float], str]:
    """Return the colour of each point."""
    found = {}
    for artist in axes.collections:
        offsets = np.asarray(artist.get_offsets())
        colors = np.broadcast_to(artist.get_facecolors(), (len(offsets), 4))
        found.update({(x, y): to_hex(color) for (x, y), color in zip(offsets.tolist(), colors, strict=True)})
    return found


def bars(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_xlabel()]


class TestMap:
    def test_by_hand(self) -> None:
        """Colours run from 0 to the 99th percentile, above which all are the same; the third coordinate is ignored."""
        xy = np.column_stack([np.arange(101.0), np.arange(101.0) ** 2 % 17, np.full(101, 9.0)])
        received, sent = np.arange(101.0), np.full(101, 0.5)
        received[7], sent[100] = np.nan, np.nan
        figure: Any = plot_attention_map(xy, received, sent, flavor="gene-weighted", distance_unit="µm")
        left, right = figure.axes[:2]
        assert [axes.get_title() for axes in (left, right)] == ["received", "sent"]
        top = np.nanpercentile(received, 99)
        colors = [drawn(left)[x, y] for x, y in xy[:, :2].tolist()]
        for cell in (0, 1, 30, 60, 98):
            assert colors[cell] == to_hex(BLUES(int(received[cell] / top * N_LEVELS)))
        assert colors[99] == colors[100] == to_hex(BLUES(N_LEVELS - 1))
        assert colors[7] == NOT_COMPUTED_COLOR
        assert set(drawn(right).values()) == {to_hex(REDS(N_LEVELS - 1)), NOT_COMPUTED_COLOR}
        of_received, of_sent = bars(figure)
        assert of_received.get_xlim() == (0.0, pytest.approx(top))
        assert of_sent.get_xlim() == (0.0, 0.5)
        assert [bar.get_xlabel().split("\n")[0] for bar in (of_received, of_sent)] == [
            "attention received", "attention sent"
        ]  # fmt: skip
        # A pointed end where the scale is cut.
        assert [len(bar.patches) for bar in (of_received, of_sent)] == [1, 0]
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not computed"]
        assert [text.get_text() for text in figure.texts] == ["Attention in the tissue (gene-weighted)"]
        assert left.texts[-1].get_text() == "20 µm"
        assert not right.texts
        assert_tidy(figure)

    def test_cells_without_a_value_are_beneath(self) -> None:
        xy, received, sent = make_cells(50)
        received[10:20] = np.nan
        first = plot_attention_map(xy, received, sent).axes[0].collections[0]
        assert {to_hex(color) for color in first.get_facecolors()} == {NOT_COMPUTED_COLOR}
        assert len(np.asarray(first.get_offsets())) == 10
        assert not plot_attention_map(xy, sent, sent).legends

    def test_same_panels_as_the_map_of_hubs(self) -> None:
        xy, received, sent = make_cells(60)
        section = np.repeat(["s10", "s2"], 30)
        hubs = plot_hub_map(xy, np.zeros(60, dtype=int), section, distance_unit="µm").axes
        axes = plot_attention_map(xy, received, sent, section, distance_unit="µm").axes[:4]
        for one, other in zip((axes[0], axes[2]), hubs, strict=True):
            assert one.get_xlim() == pytest.approx(other.get_xlim())
            assert one.get_ylim() == pytest.approx(other.get_ylim())
            assert one.get_aspect() == other.get_aspect() == 1.0
            assert set(drawn(one)) == set(drawn(other))

    def test_two_panels_per_section_on_one_scale(self) -> None:
        xy, received, sent = make_cells(60)
        section = np.repeat(["s10", "s2"], 30)
        sent[30:] *= 100
        figure: Any = plot_attention_map(xy, received, sent, section)
        panels = figure.axes[:4]
        assert [text.get_text() for text in figure.texts[1:]] == ["s2", "s10"]
        assert [axes.get_title() for axes in panels] == ["received", "sent", "received", "sent"]
        for axes, expected in zip(panels, (xy[30:], xy[30:], xy[:30], xy[:30]), strict=True):
            assert set(drawn(axes)) == {(x, y) for x, y in expected.tolist()}
        assert bars(figure)[1].get_xlim()[1] == pytest.approx(np.percentile(sent, 99))
        assert set(drawn(panels[3]).values()) <= {to_hex(REDS(level)) for level in (0, 1)}
        assert len([axes for axes in panels if axes.texts]) == 1  # one scale bar for all
        assert_tidy(figure)

    @pytest.mark.parametrize("shape", [(1.0, 1.0), (4.0, 1.0), (0.0, 1.0)])
    def test_nothing_overlaps(self, shape: tuple[float, float]) -> None:
        xy, received, sent = make_cells(600)
        section = np.array([f"s{number % 15} of a mouse with a rather long name" for number in range(600)])
        received[::7] = np.nan
        figure: Any = plot_attention_map(xy * shape, received, sent, section, most_sections=7, distance_unit="µm")
        assert figure.texts[1].get_text() == "The 7 largest of 15 sections; color scales are of these."
        assert len(figure.texts) == 2 + 7
        assert figure.get_figwidth() < 11
        assert_tidy(figure)
        assert_tidy(plot_attention_map(xy * shape, received * 1e-5, sent * 1e5))  # with powers of ten below the scales

    def test_many_cells_are_drawn_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of the same colours, and not always the dark ones last."""
        xy, received, sent = make_cells(4000)
        singly: Any = plot_attention_map(xy, received, sent).axes[0]
        monkeypatch.setattr(_tissue_panels, "MOST_SINGLY_COLORED", 100)
        blocks: Any = plot_attention_map(xy, received, sent).axes[0]
        assert len(singly.collections) == len(blocks.collections) == 1
        [dots] = blocks.collections
        assert 100 < len(dots.lengths) <= 10 * N_LEVELS
        assert sum(dots.lengths) == 4000
        assert drawn(singly) == drawn(blocks)
        first = [to_hex(color) for color in dots.colors[:20]]
        levels = [[to_hex(BLUES(level)) for level in range(N_LEVELS)].index(color) for color in first]
        assert levels != sorted(levels)

    @pytest.mark.parametrize("suffix", [".png", ".svg"])
    def test_dots_in_blocks_are_those_of_scatter_plots(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str
    ) -> None:
        """To the last byte, also at the edge of a panel, and where some are beneath all others."""
        xy, received, sent = make_cells(3000)
        received[:200] = np.nan
        monkeypatch.setattr(_tissue_panels, "MOST_SINGLY_COLORED", 100)
        quick = plot_attention_map(xy, received, sent)
        plain: Any = plot_attention_map(xy, received, sent)
        for axes in plain.axes[:2]:
            for dots in list(axes.collections):
                dots.remove()
                runs = np.split(np.asarray(dots.get_offsets()), np.cumsum(dots.lengths)[:-1])
                for (x, y), color in zip((run.T for run in runs), dots.colors, strict=True):
                    axes.scatter(x, y, s=dots.get_sizes()[0], color=color, linewidths=0, marker="o", rasterized=True)
        files = [save_figure(figure, tmp_path / f"{name}{suffix}") for name, figure in
                 (("quick", quick), ("plain", plain))]  # fmt: skip
        assert files[0].read_bytes() == files[1].read_bytes()

    def test_random_order(self) -> None:
        xy, received, sent = make_cells(200)
        received.sort()
        order = [
            np.asarray(plot_attention_map(xy, received, sent, seed=seed).axes[0].collections[0].get_offsets())
            for seed in (0, 0, 1)
        ]
        np.testing.assert_array_equal(order[0], order[1])
        assert not np.array_equal(order[0], order[2])
        assert not np.array_equal(order[0], xy)

    def test_hardly_any_or_no_attention(self) -> None:
        xy = make_cells(300)[0]
        rare = np.zeros(300)
        rare[5] = 4.0
        figure = plot_attention_map(xy, rare, np.zeros(300))
        assert [bar.get_xlim()[1] for bar in bars(figure)] == [4.0, 1.0]
        assert set(drawn(figure.axes[1]).values()) == {to_hex(REDS(0))}
        figure = plot_attention_map(xy, np.full(300, np.nan), rare)
        assert set(drawn(figure.axes[0]).values()) == {NOT_COMPUTED_COLOR}
        assert_tidy(figure)
        figure = plot_attention_map(xy, np.full(300, np.nan), np.full(300, np.nan))
        assert not figure.axes
        assert "not computed for any" in figure.texts[0].get_text()

    def test_same_file_every_time(self, tmp_path: Path) -> None:
        xy, received, sent = make_cells(30)
        first = save_figure(plot_attention_map(xy, received, sent), tmp_path / "a.svg").read_bytes()
        assert save_figure(plot_attention_map(xy, received, sent), tmp_path / "b.svg").read_bytes() == first
        assert first.count(b"<use") < 200  # cells are pixels

    def test_refused(self) -> None:
        xy, received, sent = make_cells(3)
        with pytest.raises(ParameterError, match=r"`coordinates` must have the shape .* Got \(3, 4\)"):
            plot_attention_map(np.zeros((3, 4)), received, sent)
        for name, arguments in (
            ("received", (received[:2], sent)),
            ("sent", (received, sent[:2])),
            ("section", (received, sent, ["a", "b"])),
        ):
            with pytest.raises(ParameterError, match=rf"`{name}` must have the shape .*expected \(3,\), got \(2,\)"):
                plot_attention_map(xy, *arguments)
        with pytest.raises(ParameterError, match=r"at least one cell\. Got none"):
            plot_attention_map(np.zeros((0, 2)), [], [])
        with pytest.raises(ParameterError, match="`coordinates` must be finite"):
            plot_attention_map(xy * np.nan, received, sent)
        with pytest.raises(ParameterError, match=r"`received` must hold numbers of at least 0, or nan\. Got -1"):
            plot_attention_map(xy, [0.0, -1.0, 0.0], sent)
        with pytest.raises(ParameterError, match=r"`sent` must hold .* Got inf"):
            plot_attention_map(xy, received, [0.0, np.inf, 0.0])
        with pytest.raises(ParameterError, match="`flavor` must be one of"):
            plot_attention_map(xy, received, sent, flavor="x")
        with pytest.raises(ParameterError, match=r"`most_sections` must be at least 1\. Got 0"):
            plot_attention_map(xy, received, sent, most_sections=0)
