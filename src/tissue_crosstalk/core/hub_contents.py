"""What is in a hub: cells by type, section and condition, marker genes, and how receivers inside differ from others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from tissue_crosstalk.core.errors import ParameterError, TissueError, is_whole, listing
from tissue_crosstalk.core.expression_rows import Expression, ReadRows, parts_of_rows
from tissue_crosstalk.core.hubs import Hubs
from tissue_crosstalk.core.statistics import RankSums, categorical, false_discovery_rate, rank_sum_tests
from tissue_crosstalk.core.stored import Cells
from tissue_crosstalk.core.threads import side_by_side

MOST_ARRANGEMENTS: Final = 99_999
"""Orders of the sections up to which all are tried (those of eight are); of more, as many at random."""

CELLS, SHARE = "cells", "share"

_FINITE: Final = 1e-9  # added to means, so that no ratio is infinite


def share_hubs(hubs: Hubs, cells: Cells) -> pd.DataFrame:
    """Count the cells of every hub by type and section.

    Returns
    -------
    pandas.DataFrame
        One row per hub (−1 for isolated cells, where there are any), cell type and section that has cells of the
        type: ``hub``, ``cell_type``, ``section``, ``cells``, ``share_of_hub`` (cells among those of the hub) and
        ``share_of_type`` (among those of the type in the section).
    """
    numbers = np.unique(np.concatenate([np.arange(hubs.n_hubs), hubs.cluster]))
    hub = np.searchsorted(numbers, hubs.cluster)
    section_names = cells.section_names or ("",)
    shape = (len(numbers), len(cells.cell_types), len(section_names))
    receivers = hubs.counts.receivers
    count = np.zeros(shape, dtype=np.int64)
    np.add.at(count, (hub, cells.labels[receivers], cells.sections[receivers]), 1)
    of_hub, of_type = count.sum(axis=(1, 2), keepdims=True), count.sum(axis=0, keepdims=True)
    kept = np.broadcast_to(of_type > 0, shape)
    which_hub, cell_type, section = np.nonzero(kept)
    return pd.DataFrame(
        {
            "hub": numbers[which_hub].astype(np.int32),
            "cell_type": categorical(cell_type, cells.cell_types),
            "section": categorical(section, section_names),
            CELLS: count[kept],
            "share_of_hub": (count / np.maximum(of_hub, 1))[kept],
            "share_of_type": (count / np.maximum(of_type, 1))[kept],
        }
    )


def find_markers(
    hubs: Hubs,
    cells: Cells,
    expression: Expression,
    genes: Sequence[str],
    *,
    rows: npt.NDArray[np.integer] | None = None,
    min_cells: int = 10,
) -> pd.DataFrame:
    """Find the genes that set the cells of a hub apart from the other cells of their type.

    Parameters
    ----------
    hubs, cells
        The hubs, and the cells of the tissue.
    expression
        Log-normalised, (row, gene); in memory, or on disk, from where contiguous rows are read.
    genes
        Their names.
    rows
        Row of each cell of the tissue, (cell,); None: cells are in the order of the rows.
    min_cells
        Fewer cells of a type inside or outside of a hub are not compared.

    Returns
    -------
    pandas.DataFrame
        One row per hub, cell type and gene: ``hub``, ``cell_type``, ``gene``, ``cells_inside``, ``cells_outside``,
        ``mean_inside``, ``mean_outside``, ``expressing_inside``, ``expressing_outside``, ``log2_fold_change`` (of the
        means before the logarithm; this and the means are over all sections), ``roc_auc``, ``z_score``, ``p_value``
        (Wilcoxon rank-sum test within sections), ``q_value`` (Benjamini-Hochberg over all rows). Isolated cells are
        outside. Cells that have none to be compared with in their section are not compared.

    Raises
    ------
    TissueError
        If the expression does not fit the cells or the genes.
    ParameterError
        If `min_cells` is below 1.

    Notes
    -----
    The tests take cells as independent, which neighbors in a tissue are not quite.

    Memory: of expression on disk, all values other than 0 of as many types as have 150 million of them, or of one type
    (:data:`~tissue_crosstalk.core.expression_rows.HELD_VALUES`); and in each thread those of one type, three times.
    """
    n_rows = expression.shape[0] if rows is None else len(rows)
    if n_rows != len(cells.names) or expression.shape[1] != len(genes) or len(set(genes)) < len(genes):
        raise TissueError(
            f"expression must have a row for each of the {len(cells.names)} cells of the tissue and a column for each "
            f"of the {len(genes)} genes, whose names are unique. Got {n_rows} rows, "
            f"{expression.shape[1]} columns and {len(set(genes))} different names. Take the tissue of the attention."
        )
    own_rows = hubs.counts.receivers if rows is None else rows[hubs.counts.receivers]

    def columns(tests: RankSums) -> dict[str, _PerHub]:
        means = tests.transformed_inside + _FINITE, tests.transformed_outside + _FINITE
        return {
            "expressing_inside": tests.positive_inside,
            "expressing_outside": tests.positive_outside,
            "log2_fold_change": np.log2(means[0] / means[1]),
        }

    def read(parts: Sequence[npt.NDArray[np.intp]]) -> Iterator[list[ReadRows]]:
        return parts_of_rows(expression, [own_rows[own] for own in parts])

    return _test_by_type(hubs, cells, read, "gene", genes, min_cells, columns, transform=np.expm1)


def contrast_receivers(hubs: Hubs, cells: Cells, *, min_cells: int = 10) -> pd.DataFrame:
    """Say what else sets receivers in a hub apart from the others of their type: attention and surroundings.

    Parameters
    ----------
    hubs, cells
        The hubs, and the cells of the tissue.
    min_cells
        Fewer cells of a type inside or outside of a hub are not compared.

    Returns
    -------
    pandas.DataFrame
        As :func:`find_markers`, with ``feature`` for the gene and without expression: ``strong neighbors``,
        ``neighbors at hand``, ``strongest attention``, ``distance to the nearest neighbor``, ``mean distance to
        neighbors`` (units of the coordinates, where known), and ``share of <type> at hand`` among all neighbors. The
        first and, in part, the others made the hub: read their p-values as descriptions. Cells without any neighbor
        are left out.
    """
    counts = hubs.counts
    n_at_hand = counts.at_hand.sum(axis=(1, 2), dtype=np.int64)
    compared = n_at_hand > 0
    names = ["strong neighbors", "neighbors at hand", "strongest attention"]
    distances = {
        "distance to the nearest neighbor": counts.nearest,
        "mean distance to neighbors": counts.mean_distance,
    }
    known = {name: values for name, values in distances.items() if np.isfinite(values[compared]).all()}
    names += [*known, *(f"share of {name} at hand" for name in cells.cell_types)]

    def features(own: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Return the features of some cells, (cell, feature)."""
        total = n_at_hand[own]
        strong = counts.strong[own].sum(axis=(1, 2), dtype=np.int64)
        shares = counts.at_hand[own].sum(axis=1, dtype=np.int64) / total[:, None]
        return np.column_stack(
            [strong, total, counts.strongest[own], *(values[own] for values in known.values()), shares]
        ).astype(np.float64)

    def read(parts: Sequence[npt.NDArray[np.intp]]) -> Iterator[list[ReadRows]]:
        yield [partial(features, own) for own in parts]

    return _test_by_type(hubs, cells, read, "feature", names, min_cells, lambda _: {}, compared=compared)


_PerHub = npt.NDArray[np.float64]  # (hub, feature)


def _test_by_type(
    hubs: Hubs,
    cells: Cells,
    read: Callable[[Sequence[npt.NDArray[np.intp]]], Iterable[Sequence[ReadRows]]],
    what: str,
    names: Sequence[str],
    min_cells: int,
    columns: Callable[[RankSums], dict[str, _PerHub]],
    *,
    compared: npt.NDArray[np.bool_] | None = None,
    transform: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] | None = None,
) -> pd.DataFrame:
    """Test the cells of each hub against the others of their type, types side by side.

    `read` makes values of lists of cells of `hubs` available some at a time, as functions that return those of a list,
    (cell, feature); `compared` says which cells count, (cell,).
    """
    if not (is_whole(min_cells) and min_cells >= 1):
        raise ParameterError(f"min_cells must be 1 or more (a whole number). Got {min_cells!r} instead.")
    receivers = hubs.counts.receivers
    labels, sections = cells.labels[receivers], cells.sections[receivers]
    types = np.unique(labels).tolist()
    cells_of = [
        np.flatnonzero((labels == label) if compared is None else (labels == label) & compared) for label in types
    ]

    def test(task: tuple[int, npt.NDArray[np.intp], ReadRows]) -> pd.DataFrame:
        label, own, values = task
        tests = rank_sum_tests(values(), hubs.cluster[own], sections[own], hubs.n_hubs, transform)
        enough = np.minimum(tests.cells_inside, tests.cells_outside) >= min_cells
        kept = np.flatnonzero(enough & np.isfinite(tests.p_value).all(axis=1))
        per_hub = {name: getattr(tests, name) for name in ("mean_inside", "mean_outside")}
        per_hub |= columns(tests)
        per_hub |= {name: getattr(tests, name) for name in ("roc_auc", "z_score", "p_value")}
        n_features = len(names)
        return pd.DataFrame(
            {
                "hub": np.repeat(kept, n_features).astype(np.int32),
                "cell_type": categorical(np.full(len(kept) * n_features, label), cells.cell_types),
                what: categorical(np.tile(np.arange(n_features), len(kept)), names),
                "cells_inside": np.repeat(tests.cells_inside[kept], n_features),
                "cells_outside": np.repeat(tests.cells_outside[kept], n_features),
            }
            | {name: array[kept].reshape(-1) for name, array in per_hub.items()}
        )

    tables: list[pd.DataFrame] = []
    with side_by_side() as each:
        for at_once in read(cells_of):
            some = slice(len(tables), len(tables) + len(at_once))
            tasks = list(zip(types[some], cells_of[some], at_once, strict=True))
            tables += each(test, tasks, f"{what}s of hubs")
    table = pd.concat(tables, ignore_index=True)
    table["q_value"] = false_discovery_rate(table["p_value"].to_numpy())
    return table


# --- Sections and conditions


def share_by_section(hubs: Hubs, cells: Cells, conditions: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the share of every hub in each section.

    Parameters
    ----------
    hubs, cells
        The hubs, and the cells of the tissue.
    conditions
        Condition of each section (:func:`section_conditions`); None: there are none.

    Returns
    -------
    pandas.DataFrame
        One row per section and hub (−1 for isolated cells, where there are any): ``section``, ``condition`` (missing
        where there is none), ``hub``, ``cells``, ``share`` (of the section's cells).
    """
    shares = share_hubs(hubs, cells).groupby(["section", "hub"], observed=True)[CELLS].sum().reset_index()
    shares[SHARE] = shares[CELLS] / shares.groupby("section", observed=True)[CELLS].transform("sum")
    section = shares["section"].astype(str)
    shares.insert(1, "condition", [(conditions or {}).get(name) for name in section])
    return shares


def section_conditions(cells: Cells, condition: Sequence[object] | pd.Series, condition_key: str) -> dict[str, str]:
    """Return the condition of each section; sections without one are left out.

    Parameters
    ----------
    cells
        The cells of the tissue.
    condition
        Condition of each cell, (cell,).
    condition_key
        What it is called, for the errors.

    Raises
    ------
    TissueError
        If a section has cells of two conditions, or some without one: the section is the unit of the test.
    """
    table = pd.DataFrame({"section": cells.sections, "condition": pd.Series(list(condition), dtype=object)})
    names = cells.section_names or ("",)
    # A column of whole numbers has become floats where a cell has none.
    text = [f"{value:g}" if isinstance(value, float) else str(value) for value in table["condition"]]
    table["condition"] = [
        None if missing else name for missing, name in zip(table["condition"].isna(), text, strict=True)
    ]
    pairs = table.drop_duplicates()
    mixed = pairs["section"][pairs["section"].duplicated()].unique()
    if len(mixed):
        raise TissueError(
            f"obs[{condition_key!r}] must be the same for all cells of a section, which is the unit of the test. "
            f"It is not in {listing([names[section] or 'the only section' for section in mixed])}, where some cells "
            "have another value or none. Name another column, or the section_key that it belongs to."
        )
    return {names[section]: name for section, name in pairs.itertuples(index=False) if name is not None}


def compare_conditions(shares: pd.DataFrame, *, random_state: int = 42) -> pd.DataFrame:
    """Test whether hubs have different shares in different conditions, with the section as the unit.

    Parameters
    ----------
    shares
        From :func:`share_by_section`.
    random_state
        Seed, where there are too many arrangements to try all.

    Returns
    -------
    pandas.DataFrame
        One row per hub and condition: ``hub``, ``condition``, ``sections``, ``mean_share``, ``sd_share`` (ddof 1), and
        ``p_value`` and ``q_value`` of the hub (the same in its rows); no row where there are fewer than two conditions.

    Notes
    -----
    Permutation of the sections over the conditions; what is compared is the sum of squares between them. For at most
    eight sections all orders are tried, else 99,999 random ones; p is never 0. With 3 sections against 3 it cannot be
    below 0.1, whatever the difference. q: Benjamini-Hochberg over hubs.
    """
    known = shares[shares["condition"].notna()]
    names = sorted(known["condition"].unique())
    columns = ["hub", "condition", "sections", "mean_share", "sd_share", "p_value", "q_value"]
    if len(names) < 2:
        empty = pd.DataFrame(columns=columns)
        return empty.astype({"hub": np.int32, "sections": np.int64} | dict.fromkeys(columns[3:], np.float64))
    p_values = {hub: _permute_sections(rows, names, random_state) for hub, rows in known.groupby("hub")}
    q_values = dict(zip(p_values, false_discovery_rate(np.array(list(p_values.values()))), strict=True))
    table = known.groupby(["hub", "condition"], as_index=False)[SHARE].agg(
        sections="size", mean_share="mean", sd_share="std"
    )
    table["p_value"], table["q_value"] = table["hub"].map(p_values), table["hub"].map(q_values)
    return pd.DataFrame(table, columns=columns)


def _permute_sections(rows: pd.DataFrame, names: Sequence[str], random_state: int) -> float:
    """Return the p of one hub's shares, a row per section."""
    members = (rows["condition"].to_numpy()[:, None] == np.array(names, dtype=object)).astype(np.float64)

    def between(shares: npt.NDArray[np.float64], axis: int = -1) -> npt.NDArray[np.float64]:
        """Return the sum of squares between conditions, but for what no permutation changes."""
        squares = (np.moveaxis(shares, axis, -1) @ members) ** 2 / members.sum(axis=0)
        return np.asarray(squares.sum(axis=-1))

    result = stats.permutation_test(
        (rows[SHARE].to_numpy(),),
        between,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=MOST_ARRANGEMENTS,
        batch=max(1, 2_000_000 // len(rows)),
        alternative="greater",
        rng=np.random.default_rng(random_state),
    )
    return float(result.pvalue)
