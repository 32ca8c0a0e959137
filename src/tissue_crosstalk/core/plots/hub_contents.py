"""What is in communication hubs: the genes that mark their cells, and their shares of sections by condition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from tissue_crosstalk.core.errors import ParameterError, is_whole
from tissue_crosstalk.core.plots._layout import (
    Canvas,
    grid,
    key_width,
    shorten,
    text_height,
    text_width,
    widest,
    wrap,
)
from tissue_crosstalk.core.plots.hub_style import (
    DARK,
    MARGIN,
    check_threshold,
    dot_handle,
    hub_name,
    hub_numbers,
    hub_palette,
    in_order,
    require,
    sentence,
    slanted_height,
    slanted_overhang,
)
from tissue_crosstalk.core.plots.style import FONT_SIZE, figure_style, readable_on_white

# All in inches.
_HEADING: Final = 0.27
_GENE: Final = 0.145
_TALLEST: Final = 8.0


def plot_hub_markers(
    markers: pd.DataFrame, *, most_per_group: int = 3, q_threshold: float = 0.05, most_groups: int = 40
) -> Figure:
    """Draw the genes that best tell the cells of a type in a hub from the others of that type.

    Parameters
    ----------
    markers
        A row per `cell_type`, `hub` and `gene` with `roc_auc`, `log2_fold_change`, `expressing_inside` (the share of
        cells inside that express it) and `q_value`.
    most_per_group
        How many genes to draw per group of a cell type and a hub: those with the highest ROC AUC.
    q_threshold
        Only genes with q below this, and a ROC AUC above 0.5, are drawn.
    most_groups
        Where more groups have such genes, only those with the highest ROC AUC are drawn, and the figure says so.

    Returns
    -------
    matplotlib.figure.Figure
        A line per gene below the heading of its group, with a dot at its ROC AUC and the log2 fold change at its end;
        the diameter of the dot grows with the share that express it. A sentence where there is no such gene.

    Raises
    ------
    ParameterError
        If a column is missing, a hub is no number of a hub, `most_per_group` or `most_groups` is below 1, or
        `q_threshold` is not in (0, 1].

    Examples
    --------
    >>> import pandas as pd
    >>> markers = pd.DataFrame(
    ...     {"cell_type": "T", "hub": 0, "gene": ["Il2", "Actb"], "roc_auc": [0.9, 0.51],
    ...      "log2_fold_change": [2.0, 0.1], "expressing_inside": [0.7, 1.0], "q_value": [1e-5, 0.8]}
    ... )
    >>> axes = plot_hub_markers(markers).axes[0]
    >>> [label.get_text() for label in axes.get_yticklabels()], axes.collections[-1].get_offsets()[:, 0].tolist()
    (['Il2'], [0.9])
    """
    for name, value in (("most_per_group", most_per_group), ("most_groups", most_groups)):
        if not (is_whole(value) and value >= 1):
            raise ParameterError(f"`{name}` must be a whole number of at least 1. Got {value!r} instead.")
    check_threshold(q_threshold)
    require(
        "markers",
        markers,
        ("hub", "cell_type", "gene", "expressing_inside", "log2_fold_change", "roc_auc", "q_value"),
    )
    table = _plain("markers", markers, "cell_type")
    groups = _marker_groups(table, most_per_group, q_threshold)
    n_compared = table[["cell_type", "hub"]].drop_duplicates().shape[0]
    notes = []
    if len(groups) < n_compared:
        notes.append(
            f"{n_compared - len(groups)} of {n_compared} groups of a cell type and a hub have no gene with "
            f"q < {q_threshold:g} and a ROC AUC above 0.5."
        )
    if len(groups) > most_groups:
        notes.insert(0, f"The {most_groups} of {len(groups)} groups with the highest ROC AUC.")
        best = sorted(range(len(groups)), key=lambda index: (-groups[index].auc[0], index))[:most_groups]
        groups = [groups[index] for index in sorted(best)]
    with figure_style():
        if not groups:
            return sentence(
                "No marker genes: in no group of a cell type and a hub has a gene "
                f"q < {q_threshold:g} and a ROC AUC above 0.5."
            )
        return _draw_markers(groups, " ".join(notes))


def plot_hub_conditions(section_shares: pd.DataFrame, tests: pd.DataFrame) -> Figure:
    """Draw how large a share of its section each hub is, by condition: a panel per hub, a dot per section.

    Parameters
    ----------
    section_shares
        A row per `section` and `hub` with the section's `condition` and the `share` of its cells in the hub. Sections
        without a condition are not drawn.
    tests
        A row per `hub` and `condition` with `mean_share`, and `p_value` and `q_value` of the hub. Empty where
        conditions were not compared.

    Returns
    -------
    matplotlib.figure.Figure
        Conditions are in the order of `tests`; short bars are means. A sentence where `tests` is empty.

    Raises
    ------
    ParameterError
        If a column is missing, or a hub is no number of a hub.

    Examples
    --------
    >>> import pandas as pd
    >>> shares = pd.DataFrame({"section": ["a", "b"], "condition": ["old", "young"], "hub": 0, "share": [0.2, 0.3]})
    >>> tests = pd.DataFrame(
    ...     {"hub": 0, "condition": ["old", "young"], "mean_share": [0.2, 0.3], "p_value": 0.01, "q_value": 0.03}
    ... )
    >>> axes = plot_hub_conditions(shares, tests).axes[0]
    >>> axes.get_title(loc="left"), axes.texts[0].get_text()
    ('hub 0', 'q = 0.03')
    """
    require("section_shares", section_shares, ("section", "condition", "hub", "share"))
    require("tests", tests, ("hub", "condition", "mean_share", "p_value", "q_value"))
    if tests.empty:
        with figure_style():
            return sentence("The shares of hubs were not compared: this needs sections of at least two conditions.")
    shares = _plain("section_shares", section_shares.dropna(subset="condition"), "condition")
    tested = _plain("tests", tests, "condition")
    conditions = list(dict.fromkeys([*tested["condition"], *shares["condition"]]))
    hubs = in_order([*tested["hub"], *shares["hub"]])
    panels = [_shares_of_hub(hub, conditions, shares, tested) for hub in hubs]
    with figure_style():
        return _draw_conditions(panels, conditions)


def _plain(name: str, table: pd.DataFrame, names: str) -> pd.DataFrame:
    """Return a table with whole numbers for hubs, and text in the column `names`."""
    plain = table.assign(hub=hub_numbers(f"`hub` of `{name}`", table["hub"]))
    plain[names] = plain[names].astype(str)
    return plain


@dataclass(frozen=True)
class _MarkerGroup:
    """The marker genes of one cell type in one hub, best first: values are of shape (gene,)."""

    cell_type: str
    hub: int
    genes: Sequence[str]
    auc: NDArray[np.float64]
    fold_change: NDArray[np.float64]
    expressing: NDArray[np.float64]

    def heading(self) -> str:
        """Return what is written above its genes."""
        return f"{shorten(self.cell_type)} · {hub_name(self.hub)}"

    def height(self) -> float:
        """Return how tall it is drawn, in inches."""
        return _HEADING + len(self.genes) * _GENE


def _marker_groups(markers: pd.DataFrame, most_per_group: int, q_threshold: float) -> list[_MarkerGroup]:
    """Return the groups that have marker genes, by cell type in the order of the table, then by hub."""
    kept = markers[(markers["q_value"] < q_threshold) & (markers["roc_auc"] > 0.5)]
    kept = kept.sort_values(["roc_auc", "q_value", "gene"], ascending=[False, True, True], kind="stable")
    by_group = {
        (str(rows["cell_type"].iloc[0]), int(rows["hub"].iloc[0])): rows.head(most_per_group)
        for _, rows in kept.groupby(["cell_type", "hub"], sort=False)
    }
    types = list(dict.fromkeys(markers["cell_type"]))
    hubs = in_order(hub for _, hub in by_group)
    order = sorted(by_group, key=lambda group: (types.index(group[0]), hubs.index(group[1])))
    return [
        _MarkerGroup(
            cell_type=cell_type,
            hub=hub,
            genes=[shorten(str(gene), 20) for gene in by_group[cell_type, hub]["gene"]],
            auc=by_group[cell_type, hub]["roc_auc"].to_numpy(dtype=np.float64),
            fold_change=by_group[cell_type, hub]["log2_fold_change"].to_numpy(dtype=np.float64),
            expressing=by_group[cell_type, hub]["expressing_inside"].to_numpy(dtype=np.float64),
        )
        for cell_type, hub in order
    ]


def _in_columns(groups: Sequence[_MarkerGroup]) -> list[list[_MarkerGroup]]:
    """Return groups in columns that are about equally tall."""
    total = sum(group.height() for group in groups)
    n_columns = math.ceil(total / _TALLEST)
    columns: list[list[_MarkerGroup]] = [[] for _ in range(n_columns)]
    above = 0.0
    for group in groups:
        middle = above + group.height() / 2
        columns[min(int(middle / total * n_columns), n_columns - 1)].append(group)
        above += group.height()
    return [column for column in columns if column]


def _draw_markers(groups: Sequence[_MarkerGroup], note: str) -> Figure:
    """Draw groups in columns, with a note below."""
    columns = _in_columns(groups)
    palette = hub_palette(group.hub for group in groups)
    header = "log2 fold change"
    name_width = widest([gene for group in groups for gene in group.genes]) + 0.1
    width = 1.2
    right = max(text_width("+10.0") + 0.12, text_width(header) - width)
    heading = max(text_width(group.heading(), bold=True) for group in groups)
    column_width = max(name_width + width + right, heading)
    gap = 0.3
    key_text = "share of cells inside that express the gene"
    key_shares = (0.1, 0.5, 1.0)
    key_labels = [f"{100 * share:.0f}%" for share in key_shares]
    total_width = 2 * MARGIN + max(
        len(columns) * (column_width + gap) - gap, text_width(key_text), key_width(key_labels, len(key_labels))
    )
    note = wrap(note, total_width - 2 * MARGIN, FONT_SIZE) if note else ""
    top = MARGIN + text_height(header) / 2
    height = max(sum(group.height() for group in column) for column in columns) + 0.08
    key_top = top + height + 0.45
    bottom = key_top + 2 * text_height(key_text) + 0.06 + (text_height(note) + 0.08 if note else 0.0)
    canvas = Canvas.of_size(total_width, bottom + MARGIN, title="Marker genes of hubs")
    for index, column in enumerate(columns):
        left = MARGIN + index * (column_width + gap)
        own_height = sum(group.height() for group in column) + 0.08
        axes = canvas.axes(left + name_width, top, width, own_height)
        axes.set(xlim=(0.5, 1.0), ylim=(own_height, 0.0), xlabel="ROC AUC")
        axes.xaxis.set_major_locator(FixedLocator([0.5, 0.75, 1.0]))
        axes.spines["left"].set_visible(False)
        end = 1 + right / width
        axes.text(
            end, 0.06, header, transform=axes.get_yaxis_transform(), ha="right", va="bottom", color="#666666"
        )  # fmt: skip
        _draw_marker_column(axes, column, palette, name_width / width, end)
    canvas.text(MARGIN, key_top, key_text)
    handles = [
        dot_handle(float(size) ** 2, outlined=False, color="#777777") for size in _diameters(np.array(key_shares))
    ]
    canvas.key(MARGIN, key_top + text_height(key_text) + 0.02, handles, key_labels, n_columns=len(handles))
    if note:
        canvas.text(MARGIN, key_top + 2 * text_height(key_text) + 0.1, note)
    return canvas.figure


def _diameters(expressing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return diameters of dots, in points."""
    diameters: NDArray[np.float64] = 2.5 + 5.0 * np.clip(np.nan_to_num(expressing), 0.0, 1.0)
    return diameters


def _draw_marker_column(
    axes: Axes, groups: Sequence[_MarkerGroup], palette: Mapping[int, str], name_share: float, end: float
) -> None:
    """Draw groups below each other, y in inches; names begin `name_share` left of the axes, numbers end at `end`."""
    ticks: list[float] = []
    above = 0.0
    for group in groups:
        color = palette[group.hub]
        across = axes.get_yaxis_transform()
        axes.text(
            -name_share, above + _HEADING - 0.03, group.heading(), transform=across, ha="left", va="bottom",
            color=readable_on_white(color), weight="bold",
        )  # fmt: skip
        y = above + _HEADING + (np.arange(len(group.genes)) + 0.5) * _GENE
        segments = [[(0.5, height), (auc, height)] for height, auc in zip(y, group.auc, strict=True)]
        axes.add_collection(LineCollection(segments, colors=color, linewidths=0.8, zorder=2), autolim=False)
        axes.scatter(group.auc, y, s=_diameters(group.expressing) ** 2, color=color, linewidths=0, zorder=3,
                     clip_on=False)  # fmt: skip
        for height, change in zip(y, group.fold_change, strict=True):
            if not np.isnan(change):
                number = f"{round(change, 1) + 0.0:+.1f}".replace("-", "−")  # 0 is added: no minus before a zero
                axes.text(end, height, number, transform=across, ha="right", va="center")
        ticks.extend(y.tolist())
        above += group.height()
    axes.set_yticks(ticks, [gene for group in groups for gene in group.genes])
    axes.tick_params(axis="y", length=0, pad=4)


@dataclass(frozen=True)
class _ConditionPanel:
    """Shares of one hub by condition: an array of shape (section,) each, and the mean that was tested."""

    hub: int
    shares: Sequence[NDArray[np.float64]]
    means: Sequence[float]
    verdict: str

    def top(self) -> float:
        """Return the upper end of the shares to draw."""
        highest = max(
            (float(share) for shares in (*self.shares, self.means) for share in shares if share > 0), default=0
        )
        return 1.08 * highest if highest > 0 else 1.0


def _shares_of_hub(hub: int, conditions: Sequence[str], shares: pd.DataFrame, tests: pd.DataFrame) -> _ConditionPanel:
    own, tested = shares[shares["hub"] == hub], tests[tests["hub"] == hub]
    means = dict(zip(tested["condition"], tested["mean_share"].astype(float), strict=True))
    verdict = "not tested"
    for sign, column in (("p", "p_value"), ("q", "q_value")):
        if not tested.empty and np.isfinite(value := float(tested[column].iloc[0])):
            verdict = f"{sign} < 0.001" if value < 0.001 else f"{sign} = {value:.2g}"
    return _ConditionPanel(
        hub=hub,
        shares=[own.loc[own["condition"] == name, "share"].dropna().to_numpy(dtype=np.float64) for name in conditions],
        means=[means.get(name, math.nan) for name in conditions],
        verdict=verdict,
    )


def _draw_conditions(panels: Sequence[_ConditionPanel], conditions: Sequence[str]) -> Figure:
    """Draw a panel per hub in a grid, with names of conditions below the lowest panel of each column."""
    names = [shorten(name, 30) for name in conditions]
    longest = max(map(text_width, names))
    width = max(1.1, len(names) * (longest + 0.1 if longest < 0.5 else 0.36))
    upright = longest + 0.06 <= width / len(names)
    n_rows, n_columns = grid(len(panels), 5 if width < 1.4 else 4)
    label = "share of the section's cells"
    height = text_width(label) + 0.05 if n_rows == 1 else 1.0
    ticks = [_share_ticks(panel.top()) for panel in panels]
    tick_width = widest([f"{tick:g}" for values in ticks for tick in values])
    left = MARGIN + text_height(label) + 0.14 + tick_width
    gap = tick_width + 0.28
    title = 2 * text_height("q") + 0.02
    row_step = height + title + 0.16
    lean = 0.0 if upright else slanted_overhang(names, width / len(names))
    below = 0.25 if upright else slanted_height(names) + 0.02
    canvas = Canvas.of_size(
        left + n_columns * (width + gap) - gap + lean + MARGIN,
        MARGIN + n_rows * row_step - 0.16 + below + 0.02,
        title="Shares of hubs by condition",
    )
    palette = hub_palette(panel.hub for panel in panels)
    for index, panel in enumerate(panels):
        row, column = divmod(index, n_columns)
        axes = canvas.axes(left + column * (width + gap), MARGIN + title + row * row_step, width, height)
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(0.0, panel.top()))
        axes.set_yticks(ticks[index], [f"{tick:g}" for tick in ticks[index]])
        _draw_condition_dots(axes, panel, palette[panel.hub])
        axes.set_title(
            hub_name(panel.hub), loc="left", y=1 + (0.04 + text_height("q")) / height, pad=0,
            color=readable_on_white(palette[panel.hub]), weight="bold",
        )  # fmt: skip
        axes.text(0.0, 1 + 0.05 / height, panel.verdict, transform=axes.transAxes, ha="left", va="bottom")
        if index + n_columns < len(panels):
            axes.set_xticks(np.arange(len(names)), [""] * len(names))
        elif upright:
            axes.set_xticks(np.arange(len(names)), names)
        else:  # leaning to the right, names stay clear of a panel to the lower left
            axes.set_xticks(
                np.arange(len(names)), names, rotation=-45, ha="left", va="top", rotation_mode="anchor"
            )  # fmt: skip
    middle = MARGIN + title + ((n_rows - 1) * row_step + height) / 2
    canvas.figure.text(
        MARGIN / canvas.width, canvas.share_of_height(middle), label, rotation=90, ha="left", va="center",
        rotation_mode="default",
    )  # fmt: skip
    return canvas.figure


def _share_ticks(top: float) -> list[float]:
    """Return some round shares from 0 up to `top`."""
    ticks: Any = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0.0, top)
    return [float(f"{tick:.6g}") for tick in ticks if 0 <= tick <= top]


def _draw_condition_dots(axes: Axes, panel: _ConditionPanel, color: str) -> None:
    """Draw a dot per section, a little aside so that none hides another, and a bar at each mean."""
    for position, (shares, mean) in enumerate(zip(panel.shares, panel.means, strict=True)):
        # Multiples of the golden ratio fill the width evenly, however many sections there are.
        aside = 0.44 * ((np.arange(len(shares)) * 0.6180339887 + 0.5) % 1.0 - 0.5)
        axes.scatter(position + aside, shares, s=10, color=color, linewidths=0, zorder=3, clip_on=False)
        if np.isfinite(mean):
            axes.plot(
                [position - 0.3, position + 0.3], [mean, mean], color=DARK, linewidth=1.2, zorder=4, clip_on=False,
                solid_capstyle="butt", label="_mean",
            )  # fmt: skip
