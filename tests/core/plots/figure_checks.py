"""What the tests of figures share: a check that nothing overlaps, and names of cell types that are hard to draw."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tissue_crosstalk.core.plots.style import figure_style

LONG = ["Forebrain/Midbrain/Hindbrain", "Haematoendothelial progenitors", "Tumor, CD4+ $x$", "_odd", "L2/3 IT"]


def type_names(n_types: int) -> list[str]:
    """Return names of cell types, long ones and odd ones first."""
    return (LONG + [f"type {number}" for number in range(n_types)])[:n_types]


def assert_tidy(figure: Figure) -> None:
    """Check that text is within the figure, that no two texts overlap, and that no key covers a panel."""
    figure.set_dpi(100)
    canvas: Any = FigureCanvasAgg(figure)
    with figure_style():
        figure.draw_without_rendering()
    renderer = canvas.get_renderer()
    hidden = set()  # labels of ticks that lie outside of the limits
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            if not low <= tick.get_loc() <= high:
                hidden |= {tick.label1, tick.label2}
    boxes = [
        (text.get_text(), text.get_window_extent(renderer), text.get_rotation())
        for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_text() and text.get_visible() and text not in hidden
    ]
    for content, box, _ in boxes:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, f"{content!r} is cut off"
    corners = np.array([box.extents for _, box, _ in boxes])  # (text, left bottom right top)
    shared = np.minimum(corners[:, None, 2:], corners[None, :, 2:]) - np.maximum(
        corners[:, None, :2], corners[None, :, :2]
    )
    for first, second in np.argwhere(np.triu((shared > 1).all(axis=2), k=1)):
        (one, _, turned), (other, _, also_turned) = boxes[first], boxes[second]
        # The boxes around slanted names overlap; the names do not.
        assert {turned, also_turned} in ({45}, {315}), f"{one!r} overlaps {other!r}"
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y0 >= -1
        assert not any(overlaps(box, axes.get_window_extent(renderer)) for axes in figure.axes)


def overlaps(first: Bbox, second: Bbox) -> bool:
    """Return whether two boxes share more than a pixel."""
    shared = Bbox.intersection(first, second)
    return shared is not None and shared.width > 1 and shared.height > 1
