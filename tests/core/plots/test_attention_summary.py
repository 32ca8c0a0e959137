"""Figures of attention against distance: what is drawn where, in which colour, and that nothing overlaps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots.attention_summary import plot_attention_summary
from tissue_crosstalk.core.plots.style import PNG_DPI, cell_type_palette, figure_style, readable_on_white

LONG = ["Forebrain/Midbrain/Hindbrain", "Haematoendothelial progenitors", "Tumor, CD4+ $x$", "_odd", "L2/3 IT"]


def many_types(n_types: int) -> list[str]:
    """Return names of cell types, the first of them long."""
    return (LONG + [f"type {number}" for number in range(n_types)])[:n_types]


def make_table(n_types: int, n_heads: int, bins: tuple[float, ...] = (0.0, 5.0, 10.0, 15.0)) -> pd.DataFrame:
    """Return a table in which type 0 is the receiver, and head and sender can be read off the mean."""
    names = many_types(n_types)
    rows = [
        (names[0], head, sender, left, 0.5 / (1 + index + head) - 0.01 * left / 5, 0.02, 60)
        for head, (index, sender), left in itertools.product(range(n_heads), enumerate(names[1:]), bins)
    ]
    return pd.DataFrame(rows, columns=["receiver", "head_idx", "sender", "distance_bin", "mean", "sd", "count"])


def make_histogram(n_types: int) -> pd.DataFrame:
    """Return a histogram of edge distances of two receivers."""
    first, second = many_types(n_types)[:2]
    left = [0.0, 5.0, 10.0, 15.0]
    return pd.DataFrame(
        {"receiver": [first] * 4 + [second] * 4, "distance_bin": left * 2, "count": [1, 2, 3, 4, 9, 9, 9, 9]}
    )


@pytest.fixture
def draw() -> Callable[..., Any]:
    """Return a function that draws type 0 of `make_table`."""

    def drawing(n_types: int = 3, n_heads: int = 2, table: pd.DataFrame | None = None, **options: object) -> Figure:
        names = many_types(n_types)
        settings: dict[str, Any] = {
            "palette": cell_type_palette(names),
            "n_heads": n_heads,
            "max_distance": 20.0,
            "bin_size": 5.0,
        }
        given = make_table(n_types, n_heads) if table is None else table
        return plot_attention_summary(given, names[0], **{**settings, **options})

    return drawing


def panels(figure: Figure) -> list[Any]:
    """Return the axes of the heads."""
    return [axes for axes in figure.axes if axes.get_title().startswith("head")]


def curves(axes: Axes) -> dict[str, Any]:
    """Return the lines of the sender types by name."""
    return {
        str(line.get_label()): line
        for line in axes.lines
        if not str(line.get_label()).startswith("_") or line.get_label() == "_odd"
    }


def only(axes: Any, kind: type) -> Any:
    """Return the one collection of a kind that a panel holds."""
    (found,) = (
        artist for artist in axes.collections if isinstance(artist, kind) and not artist.get_label().startswith("_l")
    )
    return found


def all_text(figure: Figure) -> list[str]:
    """Return every text of a figure that is not empty."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def overlaps(first: Bbox, second: Bbox) -> bool:
    """Return whether two boxes share more than a pixel."""
    shared = Bbox.intersection(first, second)
    return shared is not None and shared.width > 1 and shared.height > 1


def assert_tidy(figure: Figure) -> None:
    """Check that all text is within the figure, that no two texts overlap, and that no key covers a panel."""
    figure.set_dpi(PNG_DPI)
    with figure_style():
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
    renderer = canvas.get_renderer()
    hidden = set()  # labels of ticks that lie outside of the limits
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            if not low <= tick.get_loc() <= high:
                hidden |= {tick.label1, tick.label2}
    boxes = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_text() and text.get_visible() and text not in hidden
    ]
    for content, box in boxes:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, f"{content!r} is cut off"
    for (one, first), (other, second) in itertools.combinations(boxes, 2):
        assert not overlaps(first, second), f"{one!r} overlaps {other!r}"
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y0 >= -1
        for axes in figure.axes:
            assert not overlaps(box, axes.get_window_extent(renderer))


def test_lines_hold_the_table(draw: Callable[..., Any]) -> None:
    figure = draw(n_types=3, n_heads=2)
    table = make_table(3, 2)
    palette = cell_type_palette(many_types(3))
    assert [axes.get_title() for axes in figure.axes] == ["head 0", "head 1"]
    for head, axes in enumerate(figure.axes):
        lines = curves(axes)
        assert list(lines) == many_types(3)[1:]
        for sender, line in lines.items():
            rows = table[(table["head_idx"] == head) & (table["sender"] == sender)]
            np.testing.assert_array_equal(line.get_xdata(), [0.0, 5.0, 10.0, 15.0])
            np.testing.assert_array_equal(line.get_ydata(), rows["mean"])
            assert to_hex(line.get_color()) == palette[sender]
            assert line.get_marker() not in ("None", "", None)


def test_bands_are_one_standard_deviation(draw: Callable[..., Any]) -> None:
    table = make_table(3, 1)
    (axes,) = draw(n_types=3, n_heads=1, table=table).axes
    bands = only(axes, PolyCollection)
    for sender, path, color in zip(many_types(3)[1:], bands.get_paths(), bands.get_facecolors(), strict=True):
        rows = table[table["sender"] == sender]
        at_zero = path.vertices[path.vertices[:, 0] == 0.0, 1]
        first = rows.iloc[0]
        assert at_zero.min() == pytest.approx(first["mean"] - first["sd"])
        assert at_zero.max() == pytest.approx(first["mean"] + first["sd"])
        assert to_hex(color) == cell_type_palette(many_types(3))[sender]
        assert color[3] < 0.5


def test_a_dropped_bin_breaks_the_line(draw: Callable[..., Any]) -> None:
    """Bins 0, 5, 20 and 35 are there; 20 and 35 stand alone and keep their spread as a bar."""
    table = make_table(2, 1, bins=(0.0, 5.0, 20.0, 35.0))
    (axes,) = draw(n_types=2, n_heads=1, table=table, max_distance=50.0).axes
    (line,) = curves(axes).values()
    np.testing.assert_array_equal(line.get_xdata(), np.arange(0.0, 40.0, 5.0))
    missing = np.isnan(np.asarray(line.get_ydata(), dtype=float))
    assert missing.tolist() == [False, False, True, True, False, True, True, False]
    bands = only(axes, PolyCollection)
    bars = only(axes, LineCollection)
    assert len(bands.get_paths()) == 1
    assert [segment[0, 0] for segment in bars.get_segments()] == [20.0, 35.0]
    for segment, mean in zip(bars.get_segments(), table["mean"][2:], strict=True):
        assert segment[:, 1] == pytest.approx([mean - 0.02, mean + 0.02])


def test_bins_of_a_width_that_is_no_binary_number(draw: Callable[..., Any]) -> None:
    left = tuple(np.arange(7) * 0.1)
    (axes,) = draw(2, 1, table=make_table(2, 1, bins=left), max_distance=0.7, bin_size=0.1).axes
    (line,) = curves(axes).values()
    np.testing.assert_allclose(line.get_xdata(), left)
    assert not np.isnan(line.get_ydata()).any()


def test_a_single_edge_has_no_band(draw: Callable[..., Any]) -> None:
    table = make_table(2, 1).assign(sd=np.nan)
    (axes,) = draw(n_types=2, n_heads=1, table=table).axes
    bands = only(axes, PolyCollection)
    assert np.isfinite(bands.get_paths()[0].vertices).all()


@pytest.mark.parametrize(
    ("options", "top"),
    [
        ({}, 1.0),
        ({"y_max": 7.0}, 1.0),
        ({"flavor": "value-weighted", "y_max": 7.0}, 7.0),
        ({"flavor": "gene-weighted", "y_max": 0.0}, 1.0),
        ({"flavor": "info-weighted"}, 0.52),
    ],
)
def test_attention_axis(draw: Callable[..., Any], options: dict[str, Any], top: float) -> None:
    for axes in draw(**options).axes:
        assert axes.get_ylim() == pytest.approx((0.0, top))
        assert axes.get_xlim()[1] == 20.0
        assert -1.0 < axes.get_xlim()[0] <= 0.0


def test_axis_labels(draw: Callable[..., Any]) -> None:
    figure = draw(distance_unit="µm", flavor="value-weighted", y_max=2.0)
    assert {axes.get_xlabel() for axes in figure.axes} == {"distance (µm)"}
    assert figure.axes[0].get_ylabel() == "value-weighted attention\n(mean ± sd)"
    assert draw().axes[0].get_xlabel() == "distance"
    assert draw().axes[0].get_ylabel() == "attention (mean ± sd)"
    assert "Receiver: Forebrain/Midbrain/Hindbrain" in all_text(figure)


@pytest.mark.parametrize(("n_heads", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (5, 2, 3), (8, 2, 4), (9, 3, 3)])
def test_grid_of_heads(draw: Callable[..., Any], n_heads: int, rows: int, columns: int) -> None:
    figure = draw(n_heads=n_heads)
    places = [axes.get_position() for axes in panels(figure)]
    assert len(places) == n_heads
    assert len({round(place.x0, 6) for place in places}) == columns
    assert len({round(place.y0, 6) for place in places}) == rows


def test_one_head_alone(draw: Callable[..., Any]) -> None:
    (axes,) = draw(n_types=3, n_heads=4, sel_head=2).axes
    assert axes.get_title() == "head 2"
    expected = make_table(3, 4).query("head_idx == 2 and sender == 'Tumor, CD4+ $x$'")["mean"]
    np.testing.assert_array_equal(curves(axes)["Tumor, CD4+ $x$"].get_ydata(), expected)


def test_histogram_of_the_receiver(draw: Callable[..., Any]) -> None:
    figure = draw(n_heads=2, histogram=make_histogram(3), distance_unit="µm")
    *heads, below = figure.axes
    assert [patch.get_height() for patch in below.patches] == [1, 2, 3, 4]
    assert [patch.get_x() for patch in below.patches] == [0.0, 5.0, 10.0, 15.0]
    assert below.get_ylabel() == "edges"
    assert below.get_xlabel() == "distance (µm)"
    assert heads[0].get_xlabel() == ""
    assert below.get_xlim() == heads[0].get_xlim()
    assert below.get_position().y1 < heads[0].get_position().y0


@pytest.mark.parametrize("n_types", [2, 9, 21])
def test_senders_are_named_at_their_lines(draw: Callable[..., Any], n_types: int) -> None:
    figure = draw(n_types=n_types, n_heads=8)
    assert not figure.legends
    labelled = [panels(figure)[head] for head in (3, 7)]
    palette = cell_type_palette(many_types(n_types))
    for axes in labelled:
        names = [text for text in axes.texts if text.get_text()]
        assert [text.get_text() for text in names] == list(reversed(many_types(n_types)[1:]))
        assert [text.get_color() for text in names] == [readable_on_white(palette[text.get_text()]) for text in names]
        (leaders,) = [artist for artist in axes.collections if artist.get_label() == "_leaders"]
        ends = [
            (tuple(segment[-1]), to_hex(color))
            for segment, color in zip(leaders.get_segments(), leaders.get_colors(), strict=True)
        ]
        expected = [(text.get_position()[1], palette[text.get_text()]) for text in names]
        assert [(y, color) for (_, y), color in ends] == expected
        dots = [artist for artist in axes.collections if artist.get_label() == "_dots"]
        drawn = {
            (*place, to_hex(color))
            for artist in dots
            for place, color in zip(artist.get_offsets().tolist(), artist.get_facecolors(), strict=True)
        }
        assert drawn == {(*end, color) for end, color in ends}
    assert not any(axes.texts for axes in panels(figure) if axes not in labelled)


def test_many_senders_are_drawn_in_groups(draw: Callable[..., Any]) -> None:
    """Of 24 senders, the dozen with the most attention comes first."""
    table = make_table(25, 8)
    figure = draw(n_types=25, n_heads=8, table=table)
    assert not figure.legends
    assert len(figure.axes) == 2 * 8
    highest = table.groupby("sender")["mean"].max().sort_values(ascending=False, kind="stable")
    groups = [sorted(highest.index[:12]), sorted(highest.index[12:])]
    titled = panels(figure)
    assert [axes.get_title() for axes in titled] == [f"head {head}" for head in range(8)]
    for number, axes in enumerate(figure.axes):
        head, group = divmod(number, 2)
        assert sorted(curves(axes)) == groups[group]
        names = sorted(text.get_text() for text in axes.texts)
        assert names == (groups[group] if head in (3, 7) else [])
        (above,) = [other for other in titled if other.get_title() == f"head {head}"]
        assert axes.get_position().x0 == pytest.approx(above.get_position().x0)


def test_a_sender_without_a_line_in_the_labelled_head_is_named(draw: Callable[..., Any]) -> None:
    table = make_table(3, 2)
    figure = draw(n_heads=2, table=table[(table["head_idx"] == 0) | (table["sender"] == many_types(3)[1])])
    assert {text.get_text() for text in panels(figure)[1].texts} == set(many_types(3)[1:])


@pytest.mark.parametrize(
    ("max_distance", "bin_size", "expected"),
    [
        (20.0, 5.0, [0.0, 5.0, 10.0, 15.0, 20.0]),
        (100.0, 5.0, [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]),
        (100.0, 7.0, [0.0, 28.0, 56.0, 84.0]),
        (3.0, 5.0, [0.0]),
    ],
)
def test_ticks_stand_at_the_edges_of_bins(
    draw: Callable[..., Any], max_distance: float, bin_size: float, expected: list[float]
) -> None:
    table = make_table(3, 1, bins=(0.0,))
    figure = draw(n_heads=1, table=table, max_distance=max_distance, bin_size=bin_size)
    axes = figure.axes[0]
    assert axes.get_xticks().tolist() == expected
    assert axes.get_xlim()[1] == max_distance


@pytest.mark.parametrize(("flavor", "with_histogram"), [("vanilla", True), ("gene-weighted", False)])
@pytest.mark.parametrize(
    ("n_types", "n_heads"),
    [
        (2, 1),
        (9, 1),
        (25, 1),
        (25, 8),
        *(pytest.param(*size, marks=pytest.mark.slow) for size in ((5, 5), (9, 8), (60, 3))),
    ],
)
def test_nothing_overlaps(
    draw: Callable[..., Any], n_types: int, n_heads: int, flavor: str, with_histogram: bool
) -> None:
    table = make_table(n_types, n_heads)
    if flavor != "vanilla":
        table[["mean", "sd"]] *= 1e-4  # the axis gets a factor above it
    histogram = make_histogram(n_types) if with_histogram else None
    figure = draw(n_types, n_heads, table=table, flavor=flavor, histogram=histogram, distance_unit="µm")
    assert_tidy(figure)


def test_long_receiver_name() -> None:
    name = "A cell type whose name goes on and on, and " * 4 + "x" * 150
    table = make_table(2, 1).assign(receiver=name)
    palette = cell_type_palette([name, *many_types(2)])
    figure = plot_attention_summary(table, name, palette=palette, n_heads=1, max_distance=20.0, bin_size=5.0)
    assert_tidy(figure)
    empty = plot_attention_summary(table[:0], name, palette=palette, n_heads=1, max_distance=20.0, bin_size=5.0)
    assert_tidy(empty)


def test_nothing_to_plot_says_so(draw: Callable[..., Any]) -> None:
    table = make_table(3, 1)
    figure = draw(table=table[table["receiver"] == "nobody"], distance_unit="µm", max_distance=100.0)
    assert not figure.axes
    title, message = (text.replace("\n", " ") for text in all_text(figure))
    assert title == "Receiver: Forebrain/Midbrain/Hindbrain"
    assert message == "Nothing to plot: no distance bin holds at least 50 edges nearer than 100 µm."
    assert_tidy(figure)


def test_other_receivers_are_left_out(draw: Callable[..., Any]) -> None:
    table = make_table(3, 1)
    other = table.assign(receiver=many_types(3)[1], mean=0.9)
    alone, together = draw(n_heads=1, table=table), draw(n_heads=1, table=pd.concat([other, table]))
    for first, second in zip(curves(alone.axes[0]).values(), curves(together.axes[0]).values(), strict=True):
        np.testing.assert_array_equal(first.get_ydata(), second.get_ydata())


def test_types_may_be_categorical_and_rows_in_any_order(draw: Callable[..., Any]) -> None:
    table = make_table(3, 2)
    mixed = table.sample(frac=1.0, random_state=0).astype({"receiver": "category", "sender": "category"})
    for first, second in zip(draw(table=table).axes, draw(table=mixed).axes, strict=True):
        for sender, line in curves(first).items():
            np.testing.assert_array_equal(line.get_xydata(), curves(second)[sender].get_xydata())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sel_head": 2}, "`sel_head` must be None or lie between 0 and 1. Got 2 instead."),
        ({"sel_head": -1}, "`sel_head` must be None or lie between 0 and 1. Got -1 instead."),
        ({"flavor": "value_weighted"}, "Got 'value_weighted' instead. Did you mean 'value-weighted'?"),
        ({"max_distance": 0.0}, "`max_distance` must be a positive number. Got 0.0 instead."),
        ({"bin_size": float("inf")}, "`bin_size` must be a positive number. Got inf instead."),
        ({"y_max": -1.0}, "`y_max` must be a finite number of at least 0, or None. Got -1.0 instead."),
        ({"palette": {"Forebrain": "r"}}, "`receiver` must be one of the cell types."),
        ({"palette": {many_types(1)[0]: "r"}}, "Missing: 'Haematoendothelial progenitors', 'Tumor, CD4+ $x$'."),
        ({"table": make_table(3, 2).drop(columns="sd")}, "Missing: 'sd'."),
        ({"histogram": make_histogram(3).drop(columns="count")}, "Missing: 'count'."),
    ],
)
def test_refused(draw: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        draw(**options)
    assert message in str(caught.value)


def test_no_heads() -> None:
    with pytest.raises(ParameterError, match=r"`n_heads` must be at least 1\. Got 0"):
        plot_attention_summary(
            make_table(2, 1),
            LONG[0],
            palette=cell_type_palette(many_types(2)),
            n_heads=0,
            max_distance=1.0,
            bin_size=1.0,
        )
