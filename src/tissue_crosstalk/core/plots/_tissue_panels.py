"""Cells where they lie in the tissue: a panel per section, all of one scale, with dots that fit their number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib import artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import PathCollection
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, IdentityTransform
from numpy.typing import ArrayLike, NDArray

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots._layout import POINTS_PER_INCH, Canvas
from tissue_crosstalk.core.plots.hub_style import DARK

MOST_SECTIONS: Final = 12
MOST_SINGLY_COLORED: Final = 100_000

# All in inches.
PANEL_GAP: Final = 0.14
TITLE_HEIGHT: Final = 0.2
BELOW: Final = 0.34
"""Room for the scale bar."""

_N_BLOCKS: Final = 10
_in_pixels: Any = artist.allow_rasterization  # it has no types
_CIRCLE: Final = MarkerStyle("o")
_DOT: Final = _CIRCLE.get_path().transformed(_CIRCLE.get_transform())


@dataclass(frozen=True)
class Tissue:
    """The sections to draw, in natural order of their names, and their cells, in random order.

    Attributes
    ----------
    cells
        For each section, where its cells are in the arrays given: an array of shape (cell of the section,).
    points
        For each section, coordinates of these cells: an array of shape (cell of the section, 2).
    names
        Names of the sections, or nothing where there is one only.
    n_sections
        How many sections there are, drawn or not.
    """

    cells: Sequence[NDArray[np.int64]]
    points: Sequence[NDArray[np.float64]]
    names: Sequence[str]
    n_sections: int

    @classmethod
    def of(
        cls,
        coordinates: ArrayLike,
        section: ArrayLike | None,
        *,
        values: Mapping[str, NDArray[np.generic]],
        seed: int,
        most_sections: int,
    ) -> Tissue:
        """Return the largest sections, with their cells in random order.

        Parameters
        ----------
        coordinates
            Coordinates of shape (cell, 2) or (cell, 3), of which the first two are drawn.
        section
            Section of each cell, of shape (cell,). None: all cells are of one section.
        values
            What else must have the shape (cell,), by the name of its parameter.
        seed
            Seed of the order of cells.
        most_sections
            How many sections to keep.

        Returns
        -------
        Tissue
            Sections and cells to draw.

        Raises
        ------
        ParameterError
            If shapes do not fit together, there is no cell, a coordinate is not finite, or `most_sections` is below 1.

        Examples
        --------
        >>> tissue = Tissue.of([[0.0, 0.0], [1.0, 2.0]], ["s10", "s2"], values={}, seed=0, most_sections=9)
        >>> tissue.names, [cells.tolist() for cells in tissue.cells]
        (['s2', 's10'], [[1], [0]])
        """
        points = np.asarray(coordinates, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] not in (2, 3):
            raise ParameterError(
                f"`coordinates` must have the shape (cell, 2) or (cell, 3). Got {points.shape} instead."
            )
        points = points[:, :2]
        n_cells = len(points)
        where = np.zeros(n_cells, dtype=np.int64) if section is None else np.asarray(section)
        check_lengths({**values, "section": where}, n_cells)
        if n_cells == 0:
            raise ParameterError("`coordinates` must hold at least one cell. Got none.")
        if not np.isfinite(points).all():
            raise ParameterError("`coordinates` must be finite. Got nan or inf.")
        if most_sections < 1:
            raise ParameterError(f"`most_sections` must be at least 1. Got {most_sections!r} instead.")

        sections, section_code = _names_and_codes(where)
        section_size = np.bincount(section_code, minlength=len(sections))
        largest = np.argsort(-section_size, kind="stable")[:most_sections]
        drawn = sorted(largest.tolist(), key=lambda code: _natural(str(sections[code])))
        generator = np.random.default_rng(seed)
        cells = [generator.permutation(np.flatnonzero(section_code == code)) for code in drawn]
        return cls(
            cells=cells,
            points=[points[own] for own in cells],
            names=[] if section is None or len(sections) == 1 else [str(sections[code]) for code in drawn],
            n_sections=len(sections),
        )

    def note(self, addition: str) -> str:
        """Return what to say of sections that are not drawn, with an addition; empty where all are."""
        if len(self.cells) == self.n_sections:
            return ""
        return f"The {len(self.cells)} largest of {self.n_sections} sections; {addition}."


def check_lengths(values: Mapping[str, NDArray[np.generic]], n_cells: int) -> None:
    """Raise unless arrays, by the names of their parameters, have a value for each cell."""
    for name, given in values.items():
        if given.shape != (n_cells,):
            raise ParameterError(f"`{name}` must have the shape (cell,): expected ({n_cells},), got {given.shape}.")


class TissuePanels:
    """How to draw the sections of a tissue: size and limits of panels, and size of dots.

    Parameters
    ----------
    tissue
        What to draw.
    area
        Area of a panel, in square inches.

    Attributes
    ----------
    width
        Width of a panel, in inches.
    height
        Height of a panel, in inches.
    dot
        Area of a dot, in square points, such that the cells of the densest section fill half of their panel.
    """

    def __init__(self, tissue: Tissue, area: float) -> None:
        low = np.array([[axis.min() for axis in cells.T] for cells in tissue.points])  # (section, axis)
        high = np.array([[axis.max() for axis in cells.T] for cells in tissue.points])
        extent = (high - low).max(axis=0)
        extent = np.maximum(extent, max(float(extent.max()), 1e-9) / 4)  # a tissue may be a single row of cells
        self._span = extent * 1.04
        # Sections may lie anywhere in one system of coordinates: each is in the middle of its panel.
        self._middle = (low + high) / 2
        self.width = math.sqrt(area * self._span[0] / self._span[1])
        self.height = area / self.width
        densest = max(len(cells) for cells in tissue.points)
        filled = 0.5 * self.width * self.height * POINTS_PER_INCH**2 * float(np.prod(extent / self._span))
        self.dot = float(np.clip(filled / densest, 0.05, 24.0))

    @property
    def span(self) -> float:
        """Return how wide a panel is, in units of the coordinates."""
        return float(self._span[0])

    def axes(self, canvas: Canvas, index: int, left: float, top: float) -> Axes:
        """Add the empty panel of a section, with its upper left corner at (left, top), in inches."""
        axes = canvas.axes(left, top, self.width, self.height)
        (x, y), (x_span, y_span) = self._middle[index], self._span
        axes.set(
            xlim=(x - x_span / 2, x + x_span / 2), ylim=(y - y_span / 2, y + y_span / 2), xticks=[], yticks=[]
        )  # fmt: skip
        axes.set_autoscale_on(False)
        axes.set_aspect("equal", adjustable="box")
        axes.spines[:].set_visible(False)
        return axes

    def scale_bar(self, axes: Axes, distance_unit: str) -> None:
        """Draw a bar of a round length below a panel."""
        span = float(self._span[0])
        power = 10.0 ** math.floor(math.log10(span / 3))
        length = max(factor * power for factor in (1, 2, 5) if factor * power <= span / 3)
        axes.plot(
            [0.0, length / span],
            [-0.06 / self.height] * 2,
            transform=axes.transAxes,
            color=DARK,
            linewidth=1.5,
            solid_capstyle="butt",
            clip_on=False,
            label="_scale",
        )
        axes.text(
            0.0,
            -0.1 / self.height,
            f"{length:g} {distance_unit}".strip(),
            transform=axes.transAxes,
            ha="left",
            va="top",
            parse_math=False,
        )


def draw_cells(
    axes: Axes,
    cells: NDArray[np.float64],
    code: NDArray[np.int64],
    shades: NDArray[np.float64],
    area: float,
    *,
    generator: np.random.Generator | None = None,
) -> None:
    """Draw cells in their order, as an image: those of code -1 first, many in blocks of one colour, which is faster.

    Parameters
    ----------
    axes
        Where to.
    cells
        Coordinates of shape (cell, 2), in random order.
    code
        Which of the shades each cell has, of shape (cell,); -1 for those that lie beneath all others.
    shades
        Colours of shape (code, rgba); the last is that of -1.
    area
        Area of a dot, in square points.
    generator
        Draws the order of colours in a block. None: ascending codes.
    """
    beneath, others = np.flatnonzero(code == -1), np.flatnonzero(code != -1)
    if len(others) <= MOST_SINGLY_COLORED:
        for own, color in ((beneath, shades[-1]), (others, shades[code[others]])):
            if len(own):
                axes.scatter(
                    cells[own, 0], cells[own, 1], s=area, color=color, linewidths=0, marker="o", rasterized=True
                )
        return
    if len(beneath):
        axes.add_collection(Dots(axes, cells[beneath], [len(beneath)], shades[-1:], area), autolim=False)
    runs: list[NDArray[np.intp]] = []
    drawn: list[int] = []
    for block in np.array_split(others, _N_BLOCKS):  # cells come in random order: no colour hides another
        order = np.argsort(code[block].astype(np.uint16), kind="stable")
        codes, starts = np.unique(code[block][order], return_index=True)
        by_code = dict(zip(codes.tolist(), np.split(block[order], starts[1:]), strict=True))
        drawn += (codes if generator is None else generator.permutation(codes)).tolist()
        runs += [by_code[one] for one in drawn[len(runs) :]]
    axes.add_collection(
        Dots(axes, cells[np.concatenate(runs)], [len(run) for run in runs], shades[drawn], area), autolim=False
    )


class Dots(PathCollection):
    """Dots of one size, many in a row of one colour, drawn as a scatter plot of each colour would be.

    A scatter plot looks at its limits, its colours and its path anew whenever it is drawn, which is most of the work
    where some hundred of them have a few hundred dots each.

    Parameters
    ----------
    axes
        Where they will be.
    cells
        Coordinates of shape (cell, 2).
    lengths
        How many cells in a row have the same colour, (run,).
    colors
        Colours of shape (run, rgba).
    area
        Area of a dot, in square points.
    """

    def __init__(
        self,
        axes: Axes,
        cells: NDArray[np.float64],
        lengths: Sequence[int],
        colors: NDArray[np.float64],
        area: float,
    ) -> None:
        super().__init__([_DOT], [area], offsets=cells, offset_transform=axes.transData, linewidths=0)
        self.lengths, self.colors = lengths, colors
        self.set_transform(IdentityTransform())
        self.set_rasterized(True)

    def get_facecolor(self) -> Any:
        """Return the colour of each dot, (cell, rgba)."""
        return np.repeat(self.colors, self.lengths, axis=0)

    def _draw(self, renderer: RendererBase) -> None:
        figure = self.get_figure(root=True)
        if figure is None or not self.get_visible():
            return
        context = renderer.new_gc()
        context.set_clip_rectangle(self.get_clip_box())  # a panel is a rectangle
        context.set_linewidth(0.0)
        shape = Affine2D().scale(math.sqrt(float(self.get_sizes()[0])) * figure.dpi / POINTS_PER_INCH)
        places = np.split(np.asarray(self.get_offsets()), np.cumsum(self.lengths)[:-1])
        for own, color in zip(places, self.colors, strict=True):
            context.set_foreground(tuple(color), True)  # an edge without a width is drawn all the same
            renderer.draw_markers(context, _DOT, shape, Path(own), self.get_offset_transform(), tuple(color))
        context.restore()
        self.stale = False

    draw = _in_pixels(_draw)


def _names_and_codes(values: NDArray[np.generic]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return the different values as text, sorted, and which of them each is: by hash, for there are few in many."""
    codes, different = pd.factorize(values, use_na_sentinel=False)
    names, code_of_name = np.unique(np.asarray(different).astype(str), return_inverse=True)
    return names, code_of_name[codes]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts "section 2" before "section 10"."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), "") if index % 2 else (1, 0, part.casefold()) for index, part in enumerate(parts)]
