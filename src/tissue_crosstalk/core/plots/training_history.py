"""How a training went: losses and explained variance against the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tissue_crosstalk.core.plots._layout import Canvas, spread_apart, text_height, text_width, wrap
from tissue_crosstalk.core.plots.hub_style import MARGIN, require, sentence
from tissue_crosstalk.core.plots.style import FONT_SIZE, figure_style, readable_on_white

LOSS: Final = "train_loss"
RECONSTRUCTION: Final = "train_reconstruction"
BEST_BY: Final = "validation_reconstruction"
"""The column whose smallest value makes an epoch the best."""

LOSSES: Final[Mapping[str, tuple[str, str, str]]] = {
    LOSS: ("training, with penalties", "#9a9a9a", "--"),
    RECONSTRUCTION: ("training", "#4B3B47", "-"),
    BEST_BY: ("validation", "#0072B2", "-"),
    "validation_cells_reconstruction": ("validation, random cells", "#009E73", "-"),
}
EXPLAINED: Final[Mapping[str, tuple[str, str, str]]] = {
    "validation_explained": ("validation", "#0072B2", "-"),
    "validation_cells_explained": ("validation, random cells", "#009E73", "-"),
}
"""Name, colour and kind of the line of each column; those without a value are left out."""

NOT_CUT_BELOW: Final = 10
"""Epochs of a training whose first ones are drawn however far off they are."""

_BEST_COLOR: Final = "#B34E00"
_CUT: Final = 3.0
_SEEN: Final = 0.005
"""Share of the height of a panel that lines must be apart to be seen as two."""
_MEANS: Final = "types' means"

# All in inches.
_LEFT: Final = 0.62
_WIDTH: Final = 2.4
_HEIGHT: Final = 1.6
_BOTTOM: Final = 0.4
_GAP: Final = 0.15
_LABEL: Final = 0.22
_LABEL_STEP: Final = 0.135


@dataclass(frozen=True)
class _Panel:
    """What one panel shows: `values`, (epoch,), by column; epochs outside of `limits` are told of in `note`."""

    name: str
    lines: Mapping[str, tuple[str, str, str]]
    values: Mapping[str, NDArray[np.float64]]
    limits: tuple[float, float]
    note: str

    def beside(self) -> float:
        """Return how wide the names beside the panel are, in inches."""
        names = [self.lines[column][0] for column in self.values]
        return _LABEL + max(text_width(name) for name in [*names, *([_MEANS] if self.has_means else [])])

    @property
    def has_means(self) -> bool:
        """Return whether 0 is what the types' means explain."""
        return self.lines is EXPLAINED


def plot_training_history(history: pd.DataFrame) -> Figure:
    """Draw losses, and what the model explains of held-out cells, against the epoch, with the best epoch marked.

    Parameters
    ----------
    history
        What :func:`tissue_crosstalk.core.training.train_model` returns: a row per `epoch`, with the columns of
        :data:`LOSSES` and :data:`EXPLAINED` that there are. Columns without any number are left out.

    Returns
    -------
    matplotlib.figure.Figure
        A panel of losses and one of explained variance, as far as there is something to draw, else a sentence. Lines
        are named at their right ends. The best epoch has the smallest `validation_reconstruction`; without it, none
        is marked. First epochs that are far off are cut off, which is written above the panel. The loss with its
        penalties is left out where it could not be told from the reconstruction.

    Raises
    ------
    ParameterError
        If there is no column `epoch`.

    Examples
    --------
    >>> import pandas as pd
    >>> history = pd.DataFrame(
    ...     {"epoch": [0, 1, 2], "train_loss": [3.0, 2.0, 1.0], "validation_reconstruction": [3.0, 2.0, 2.5]}
    ... )
    >>> [text.get_text() for text in plot_training_history(history).texts]
    ['Training of the model', 'best epoch: 1']
    """
    require("history", history, ("epoch",))
    history = history.sort_values("epoch", kind="stable")
    epoch = history["epoch"].to_numpy(dtype=np.float64)
    panels = [
        _panel(name, lines, history, epoch)
        for name, lines in (("loss per cell", LOSSES), ("explained variance", EXPLAINED))
    ]
    drawn = [panel for panel in panels if panel is not None]
    with figure_style():
        if not len(epoch):
            return sentence("No epoch was trained.")
        if not drawn:
            return sentence("The history of the training holds no loss.")
        return _draw(drawn, epoch, _best_epoch(history, epoch))


def _best_epoch(history: pd.DataFrame, epoch: NDArray[np.float64]) -> float | None:
    """Return the epoch of the smallest validation, the first of several; None if there is no validation."""
    if BEST_BY not in history.columns or history[BEST_BY].isna().all():
        return None
    return float(epoch[int(np.nanargmin(history[BEST_BY].to_numpy(dtype=np.float64)))])


def _panel(
    name: str, lines: Mapping[str, tuple[str, str, str]], history: pd.DataFrame, epoch: NDArray[np.float64]
) -> _Panel | None:
    """Return what a panel shows; None where there is nothing."""
    values = {column: history[column].to_numpy(dtype=np.float64) for column in lines if column in history.columns}
    values = {
        column: np.where(np.isfinite(numbers), numbers, np.nan)
        for column, numbers in values.items()
        if np.isfinite(numbers).any()
    }
    if not values:
        return None
    every = np.stack(list(values.values()))  # (line, epoch)
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    is_loss, note = lines is LOSSES, ""
    if len(epoch) >= NOT_CUT_BELOW:
        # The first epochs are often so far off that nothing of the others would be seen.
        if is_loss:
            cut = low + _CUT * (float(np.nanpercentile(every, 80)) - low)
            if high > cut > low:
                note, high = _note("up", high, np.flatnonzero((every > cut).any(axis=0)), epoch), cut
        else:
            cut = high - _CUT * (high - float(np.nanpercentile(every, 20)))
            if low < cut < high:
                note, low = _note("down", low, np.flatnonzero((every < cut).any(axis=0)), epoch), cut
    if not is_loss:
        low, high = min(low, 0.0), max(high, 0.0)  # what the types' means explain
    loss, reconstruction = values.get(LOSS), values.get(RECONSTRUCTION)
    if loss is not None and reconstruction is not None:
        apart = np.abs(loss - reconstruction)
        if np.nan_to_num(apart, nan=np.inf).max() < _SEEN * (high - low):
            del values[LOSS]
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return _Panel(
        name,
        lines,
        values,
        (low - (0.0 if note and not is_loss else pad), high + (0.0 if note and is_loss else pad)),
        note,
    )


def _note(where: str, most: float, cut: NDArray[np.intp], epoch: NDArray[np.float64]) -> str:
    """Return what is said of the epochs that are cut."""
    first, last = f"{epoch[cut[0]]:g}", f"{epoch[cut[-1]]:g}"
    epochs = f"epoch {first}" if first == last else f"epochs {first} to {last}"
    if cut[-1] - cut[0] >= len(cut):
        epochs = f"{len(cut)} of {epochs}"
    return f"cut off: {epochs}, {where} to {most:.3g}".replace("-", "−")


def _draw(panels: Sequence[_Panel], epoch: NDArray[np.float64], best: float | None) -> Figure:
    """Draw one or two panels side by side."""
    n_epochs = len(epoch)
    caption = "" if best is None else f"best epoch: {best:g}"
    notes = [wrap(panel.note, _WIDTH, FONT_SIZE) if panel.note else "" for panel in panels]
    above = max((text_height(note) for note in notes if note), default=0.0)
    top = MARGIN + (text_height(caption) + 0.04 if caption else 0.0) + (above + 0.04 if above else 0.0)
    widths = [_LEFT + _WIDTH + panel.beside() for panel in panels]
    canvas = Canvas.of_size(
        sum(widths) + (len(panels) - 1) * _GAP + MARGIN, top + _HEIGHT + _BOTTOM, title="Training of the model"
    )
    left = 0.0
    first: Axes | None = None
    for panel, note, width in zip(panels, notes, widths, strict=True):
        axes = canvas.axes(left + _LEFT, top, _WIDTH, _HEIGHT, share_x=first)
        if first is None:
            margin = max(0.02 * float(epoch[-1] - epoch[0]), 0.4 if n_epochs < 20 else 0.0)
            axes.set_xlim(epoch[0] - margin, epoch[-1] + margin)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
            first = axes
        axes.set(ylim=panel.limits, xlabel="epoch", ylabel=panel.name)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=4))
        _draw_lines(axes, panel, epoch)
        if best is not None:
            axes.axvline(best, color=_BEST_COLOR, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1, label="_best")
        if note:
            canvas.text(left + _LEFT, top - above - 0.02, note)
        left += width + _GAP
    if caption and first is not None and best is not None:
        low, high = first.get_xlim()
        wanted = _LEFT + (best - low) / (high - low) * _WIDTH - text_width(caption) / 2
        room = canvas.width - MARGIN - text_width(caption)
        canvas.figure.text(
            max(min(wanted, room), MARGIN) / canvas.width, canvas.share_of_height(MARGIN), caption, color=_BEST_COLOR,
            va="top", ha="left",
        )  # fmt: skip
    return canvas.figure


def _draw_lines(axes: Axes, panel: _Panel, epoch: NDArray[np.float64]) -> None:
    """Draw the lines of a panel, and name each at its right end where names leave room."""
    (low, high), (left, right) = panel.limits, axes.get_xlim()
    ends: list[tuple[float, float, str, str]] = []  # (y, x, name, colour)
    for column, values in panel.values.items():
        name, color, line = panel.lines[column]
        known = np.flatnonzero(np.isfinite(values))
        single = len(known) == 1
        axes.plot(
            epoch, values, color=color, linestyle=line, linewidth=1.0, marker="o" if len(epoch) <= 20 or single else "",
            markersize=4.0 if single else 2.5, zorder=3, label=name,
        )  # fmt: skip
        ends.append((float(values[known[-1]]), float(epoch[known[-1]]), name, color))
    if panel.has_means:
        axes.axhline(0.0, color="#6a6a6a", linewidth=0.7, linestyle=(0, (4, 2)), zorder=1, label="_means")
        ends.append((0.0, right, _MEANS, "#6a6a6a"))
    ends.sort()
    shares = [min(max((y - low) / (high - low), 0.0), 1.0) for y, _, _, _ in ends]
    placed = spread_apart([share * _HEIGHT for share in shares], _LABEL_STEP, 0.0, _HEIGHT)
    for (_, x, name, color), share, position in zip(ends, shares, placed, strict=True):
        axes.plot(
            [(x - left) / (right - left), 1.0, 1 + (_LABEL - 0.04) / _WIDTH],
            [share, share, position / _HEIGHT],
            transform=axes.transAxes, color=color, linewidth=0.6, linestyle=(0, (1.5, 1.5)), clip_on=False, zorder=2,
            label="_leader",
        )  # fmt: skip
        axes.text(
            1 + _LABEL / _WIDTH, position / _HEIGHT, name, transform=axes.transAxes,
            color=readable_on_white(color), va="center", ha="left",
        )  # fmt: skip
