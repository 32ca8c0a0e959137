"""Figures of recovery: which curves are where, at which height they are named, and that nothing overlaps."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots._layout import shorten
from tissue_crosstalk.core.plots.recovery import plot_precision_recall
from tissue_crosstalk.core.plots.style import PNG_DPI, cell_type_palette, figure_style
from tissue_crosstalk.core.recovery import Ranking, tabulate

FLAVORS = ("vanilla", "value-weighted", "info-weighted", "gene-weighted")
LONG = "Haematoendothelial progenitors, CD4+ $x$"


def made(
    n_interactions: int, *, undefined: int = 0, names: str = "type {}", power: float = 0.5, n_edges: int = 4000
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return recovery and curves of made-up rankings; of the first `undefined` interactions, nothing was planted."""
    generator = np.random.default_rng(0)

    def ranking(what: str, name: str, n: int, n_planted: int) -> Ranking:
        planted = generator.permutation(n) < n_planted
        return Ranking(what, name, generator.random(n) + power * planted, planted)

    rankings = [ranking("sender edges", flavor, n_edges, n_edges // 50) for flavor in FLAVORS]
    rankings.append(ranking("affected receivers", "all cells", 900, 200))
    for number in range(n_interactions):
        planted = 0 if number < undefined else 20 + number
        rankings.append(ranking("affected receivers of one type", names.format(number), 100, planted))
    for number in range(n_interactions):
        name = f"{names.format(f's{number}')} to {names.format(number)}"
        rankings.append(ranking("shifted genes", name, 120, 0 if number < undefined else 10))
    return tabulate(rankings)


def palette_of(recovery: pd.DataFrame) -> dict[str, str]:
    """Return a colour for each type that a truth names."""
    pairs = [name.split(" to ") for name in recovery.loc[recovery["what"] == "shifted genes", "name"].astype(str)]
    return cell_type_palette(list(dict.fromkeys(name for side in zip(*pairs, strict=True) for name in side)))


def plot(recovery: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    return plot_precision_recall(recovery, curves, palette_of(recovery))


def overlaps(first: Bbox, second: Bbox) -> bool:
    """Return whether two boxes share more than a pixel."""
    shared = Bbox.intersection(first, second)
    return shared is not None and shared.width > 1 and shared.height > 1


def assert_tidy(figure: Figure) -> None:
    """Check that text is within the figure, and that no two texts, and no text and another's panel, overlap."""
    figure.set_dpi(PNG_DPI)
    with figure_style():
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
    renderer = canvas.get_renderer()
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    for content, box in boxes:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, f"{content!r} is cut off"
        for axes in figure.axes:
            assert not overlaps(box, axes.get_window_extent(renderer)), f"{content!r} is on a panel"
    for (one, first), (other, second) in itertools.combinations(boxes, 2):
        assert not overlaps(first, second), f"{one!r} overlaps {other!r}"


def curves_of(axes: Axes) -> dict[str, Any]:
    """Return the curves by name."""
    return {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}


def base_lines(axes: Axes) -> list[Any]:
    return [line for line in axes.lines if line.get_label() == "_base"]


def labels(axes: Axes) -> dict[str, Any]:
    """Return the names beside a panel."""
    return {text.get_text(): text for text in axes.texts if text.get_text()}


def test_a_panel_for_each_question() -> None:
    recovery, curves = made(2)
    edges, receivers, genes = plot(recovery, curves).axes
    assert [axes.get_title(loc="left") for axes in (edges, receivers, genes)] == [
        "edges to planted senders",
        "receivers affected by a sender",
        "genes shifted by a sender",
    ]
    for axes in (edges, receivers, genes):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("recall", "precision")
        assert (axes.get_xlim(), axes.get_ylim()) == ((0.0, 1.0), (0.0, 1.0))
    named = [[name.rsplit("  ", 1)[0] for name in curves_of(axes)] for axes in (edges, receivers, genes)]
    assert named == [list(FLAVORS), ["all cells", "type 0", "type 1"], ["type s0 to type 0", "type s1 to type 1"]]


def test_curves_are_steps_that_begin_at_no_recall() -> None:
    recovery, curves = made(1)
    line = plot(recovery, curves).axes[2].lines[1]
    points = curves[curves["what"] == "shifted genes"]
    assert line.get_drawstyle() == "steps-pre"
    assert line.get_xdata().tolist() == [0.0, *points["recall"]]
    assert line.get_ydata().tolist() == [points["precision"].iloc[0], *points["precision"]]
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    value = recovery.set_index("what").loc["shifted genes", "average_precision"]
    assert (np.diff(x) * y[1:]).sum() == pytest.approx(value)
    assert str(line.get_label()) == f"type s0 to type 0  {value:.2f}"


def test_names_stand_at_the_height_of_the_average_precision() -> None:
    """Where there is room, and in the colour of their curve; the base rate beside its line."""
    recovery, curves = made(1, power=0.3)
    axes = plot(recovery, curves).axes[2]
    ((name, line),) = curves_of(axes).items()
    value = recovery.set_index("what").loc["shifted genes", "average_precision"]
    assert value > 0.25
    assert labels(axes)[name].get_position()[1] == pytest.approx(value)
    assert to_hex(labels(axes)[name].get_color()) == to_hex(line.get_color())
    assert labels(axes)["base rate 0.083"].get_position()[1] == pytest.approx(10 / 120, abs=0.02)


def test_base_rates() -> None:
    """One line where all rankings have the same, else one in the colour of each."""
    edges, receivers, genes = plot(*made(3)).axes
    for axes, rate in ((edges, 1 / 50), (genes, 10 / 120)):
        (line,) = base_lines(axes)
        assert line.get_ydata() == [pytest.approx(rate)] * 2
        assert line.get_linestyle() != "-"
        assert to_hex(line.get_color()) not in {to_hex(curve.get_color()) for curve in curves_of(axes).values()}
    lines = base_lines(receivers)
    assert [line.get_ydata()[0] for line in lines] == pytest.approx([200 / 900, 0.2, 0.21, 0.22])
    assert [line.get_color() for line in lines] == [curve.get_color() for curve in curves_of(receivers).values()]
    assert "base rates 0.2 to 0.22" in labels(receivers)


def test_colors_are_those_of_the_types() -> None:
    """Of receivers their own, of genes the sender's; all cells together have none of these."""
    recovery, curves = made(8)
    palette = palette_of(recovery)
    _, receivers, genes = plot_precision_recall(recovery, curves, palette).axes
    together, *types = [line.get_color() for line in curves_of(receivers).values()]
    assert types == [palette[f"type {number}"] for number in range(8)]
    assert together not in palette.values()
    assert [line.get_color() for line in curves_of(genes).values()] == [palette[f"type s{n}"] for n in range(8)]


def test_types_that_the_tissue_does_not_have_are_gray() -> None:
    recovery, curves = made(1)
    _, receivers, genes = plot_precision_recall(recovery, curves, {"type 0": "#ff0000"}).axes
    assert list(curves_of(receivers).values())[1].get_color() == "#ff0000"
    assert [line.get_color() for line in curves_of(genes).values()] == ["#8c8c8c"]


def test_names_are_cut_as_in_other_figures() -> None:
    name = "L2/3 intratelencephalic neurons that project far, {}"
    _, _, genes = plot(*made(1, names=name)).axes
    sender, receiver = (shorten(name.format(which)) for which in ("s0", "0"))
    assert len(sender) == len(receiver) == 40
    assert [label.rsplit("  ", 1)[0] for label in curves_of(genes)] == [f"{sender} to {receiver}"]


def test_what_is_undefined_is_said_and_not_drawn() -> None:
    figure = plot(*made(3, undefined=1))
    assert len(curves_of(figure.axes[1])) == 3
    assert len(curves_of(figure.axes[2])) == 2
    notes = {text.get_text().replace("\n", " ") for text in figure.texts}
    assert {"Not defined: type 0.", "Not defined: type s0 to type 0."} <= notes
    assert_tidy(figure)


def test_the_color_of_an_interaction_does_not_depend_on_the_others() -> None:
    whole, part = (plot(*made(3, undefined=undefined)).axes[2] for undefined in (0, 1))
    assert [line.get_color() for line in curves_of(part).values()] == [
        line.get_color() for line in list(curves_of(whole).values())[1:]
    ]


def test_nothing_planted() -> None:
    recovery, curves = tabulate(
        [
            *(Ranking("sender edges", flavor, np.arange(5.0), np.zeros(5, bool)) for flavor in FLAVORS),
            Ranking("affected receivers", "all cells", np.arange(5.0), np.zeros(5, bool)),
        ]
    )
    figure = plot(recovery, curves)
    assert not any(axes.lines for axes in figure.axes)
    notes = {text.get_text().replace("\n", " ") for text in figure.texts}
    assert {"Not defined: all cells.", "Nothing to rank: no interaction was planted."} <= notes
    assert_tidy(figure)


@pytest.mark.parametrize(
    ("n_interactions", "power"), [(0, 0.5), (1, 0.5), (3, 0.0), (25, 0.5), pytest.param(8, 2.0, marks=pytest.mark.slow)]
)
def test_nothing_overlaps(n_interactions: int, power: float) -> None:
    assert_tidy(plot(*made(n_interactions, power=power)))


@pytest.mark.parametrize("undefined", [4, 8])
def test_nothing_overlaps_where_names_are_long(undefined: int) -> None:
    assert_tidy(plot(*made(8, undefined=undefined, names=LONG + " {}")))


def test_arguments_stay_as_they_are() -> None:
    recovery, curves = made(2)
    before = recovery.copy(), curves.copy()
    plot(recovery, curves)
    pd.testing.assert_frame_equal(recovery, before[0])
    pd.testing.assert_frame_equal(curves, before[1])


def test_refused() -> None:
    recovery, curves = made(1)
    with pytest.raises(ParameterError, match=r"`recovery` must have the columns 'what', .*\. Missing: 'base_rate'\."):
        plot(recovery.drop(columns="base_rate"), curves)
    with pytest.raises(ParameterError, match=r"`curves` must have the columns .*\. Missing: 'recall'\."):
        plot(recovery, curves.drop(columns="recall"))
