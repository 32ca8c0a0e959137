"""From the user's AnnData to what the method works on: checked, matched by name, normalised, in spatial order."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError, TissueError, did_you_mean, listing
from tissue_crosstalk.core.expression import Expression, Summary
from tissue_crosstalk.core.model import Preprocessing, TissueKeys
from tissue_crosstalk.core.spatial_order import spatial_order

if TYPE_CHECKING:
    from anndata import AnnData

RESERVED = frozenset({terms.HUB_CLUSTER, terms.CELL_IDX})

LARGEST_COORDINATE = 1e30
"""Coordinates beyond it are placeholders of missing ones: distances are float32."""

SOMETIMES_MISSING = frozenset({"nan", "none", "<na>", "na", "n/a", "null"})
"""What a missing value reads as, once a column has been made text."""

FEW_TYPES = 50
"""Cell types that a tissue may have, however few cells."""

CELLS_PER_TYPE = 20
"""With fewer cells per type on average, the column is hardly one of cell types."""

NUMBERS_OF_ANY_KIND = "biuf"
"""NumPy's kinds of types that are read as numbers: complex numbers, dates and durations would lose their meaning."""

X_AND_Y = (
    ("x", "y"),
    ("x_centroid", "y_centroid"),  # Xenium
    ("center_x", "center_y"),  # MERSCOPE
    ("centerx_global_px", "centery_global_px"),  # CosMx
    ("x_location", "y_location"),
)
"""Columns of ``obs`` in which instruments leave coordinates, in lower case."""


@dataclass(frozen=True, eq=False)
class TissueCells:
    """The cells of a tissue as the network sees them, but for their expression.

    Attributes
    ----------
    genes
        Gene names, (gene,).
    labels
        Index into `cell_types`, int16 (cell,).
    cell_types
        Names of the labels.
    coordinates
        float64 (cell, axis), 2 or 3 axes, in the tissue's own unit.
    cell_names
        ``obs_names``, (cell,).
    positions
        Row of each cell in the user's tissue, int64 (cell,).
    sections
        Index into `section_names`, int32 (cell,); all 0 without sections.
    section_names
        Names of the sections; empty when the tissue has no section key.
    radii
        Cell radii, float64 (cell,), or None.
    keys, preprocessing
        How all this was read.
    """

    genes: tuple[str, ...]
    labels: npt.NDArray[np.int16]
    cell_types: tuple[str, ...]
    coordinates: npt.NDArray[np.float64]
    cell_names: npt.NDArray[np.object_]
    positions: npt.NDArray[np.int64]
    sections: npt.NDArray[np.int32]
    section_names: tuple[str, ...]
    radii: npt.NDArray[np.float64] | None
    keys: TissueKeys
    preprocessing: Preprocessing

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.labels)

    def in_tissue_order(self) -> npt.NDArray[np.intp]:
        """Return the rows of this object in the order of the user's tissue."""
        return np.argsort(self.positions, kind="stable")

    def with_expression(self, expression: sparse.csr_matrix) -> PreparedTissue:
        """Return the cells with their log-normalised expression, CSR float32 (cell, gene)."""
        return PreparedTissue(**{name.name: getattr(self, name.name) for name in fields(self)}, expression=expression)

    def labels_of(self, names: Sequence[str] | None, parameter: str) -> list[int]:
        """Return the labels of cell types by name, ascending, each once; None: of all types.

        Raises
        ------
        ParameterError
            If there is no type of that name; `parameter` says who named it.
        """
        if names is None:
            return list(range(len(self.cell_types)))
        for name in names:
            if name not in self.cell_types:
                raise ParameterError(
                    f"{parameter} names the cell type {name!r}, which there is not."
                    f"{did_you_mean(str(name), self.cell_types)} "
                    f"The cell types are {listing(self.cell_types, most=30)}."
                )
        return sorted({self.cell_types.index(name) for name in names})


@dataclass(frozen=True, eq=False)
class PreparedTissue(TissueCells):
    """A tissue as the network sees it.

    Attributes
    ----------
    expression
        Log-normalised expression, CSR float32 (cell, gene).
    """

    expression: sparse.csr_matrix


def prepare_tissue(
    adata: AnnData,
    keys: TissueKeys,
    *,
    log_normalised: bool,
    target_sum: float | None = None,
    genes: Sequence[str] | None = None,
    cell_types: Sequence[str] | None = None,
) -> PreparedTissue:
    """Check a tissue, match its genes and cell types by name, normalise it, and put its cells in spatial order.

    Parameters
    ----------
    adata
        The tissue; in memory or backed. It is not changed.
    keys
        Where it holds what.
    log_normalised
        True: the expression is log-normalised already and used as it is. False: it holds counts, which are
        scaled to `target_sum` per cell and ``log1p`` transformed.
    target_sum
        Total per cell; None: the median total of the cells that have any count.
    genes
        Genes to use, in this order (a model's); None: all of the tissue's.
    cell_types
        Cell types in this order (a model's); None: those of the tissue.

    Returns
    -------
    PreparedTissue
        Cells ordered by section, then along a space-filling curve.

    Raises
    ------
    TissueError
        If a key is missing, names are duplicated, labels or coordinates are missing or not finite, a gene or cell
        type does not match, or the expression is not what `log_normalised` says.

    Notes
    -----
    Cells at the very same place are allowed: their distance is 0. Categories without a cell are dropped. Labels
    that are numbers become their text (``3`` is the type ``"3"``).
    """
    cells, found = prepare_cells(adata, keys, genes=genes, cell_types=cell_types)
    summary, blocks = Summary(), []
    for start, rows in found.blocks():
        summary.add(found, start, rows)
        blocks.append(rows)
    normalisation = summary.normalisation(found.where, log_normalised=log_normalised, target_sum=target_sum)
    expression = blocks[0] if len(blocks) == 1 else sparse.vstack(blocks, format="csr", dtype=np.float32)
    normalised = normalisation.apply(expression, slice(None))
    preprocessing = Preprocessing(log_normalised=log_normalised, target_sum=normalisation.target_sum)
    return replace(cells, preprocessing=preprocessing).with_expression(normalised[cells.positions])


def prepare_cells(
    adata: AnnData, keys: TissueKeys, *, genes: Sequence[str] | None = None, cell_types: Sequence[str] | None = None
) -> tuple[TissueCells, Expression]:
    """Check a tissue's cells, match them by name, and put them in spatial order; the expression is not read.

    Parameters
    ----------
    adata, keys, genes, cell_types
        As of :func:`prepare_tissue`, also for the errors.

    Returns
    -------
    cells
        In spatial order. Their preprocessing is yet to be found out.
    expression
        Where their expression is, in the order of the tissue.
    """
    check_is_tissue(adata)
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise TissueError(f"the tissue is empty: it has {adata.n_obs} cells and {adata.n_vars} genes.")
    cell_names = np.asarray(adata.obs_names.astype(str), dtype=object)
    _refuse_duplicates(cell_names, "obs_names (cell names)", "call adata.obs_names_make_unique()")

    labels, types, sections, section_names, coordinates = cell_columns(adata, keys, cell_types)
    radii = _radii(adata, keys.radius_key)
    columns, gene_names = _gene_columns(adata, genes)

    order = spatial_order(coordinates, sections)
    _warn_of_same_places(coordinates, sections)
    cells = TissueCells(
        genes=gene_names,
        labels=labels[order],
        cell_types=types,
        coordinates=coordinates[order],
        cell_names=cell_names[order],
        positions=order.astype(np.int64),
        sections=sections[order],
        section_names=section_names,
        radii=None if radii is None else radii[order],
        keys=keys,
        preprocessing=Preprocessing(log_normalised=True),
    )
    return cells, Expression.of(adata, keys.layer, columns)


class CellColumns(NamedTuple):
    """What a tissue says of its cells, in its order.

    Attributes
    ----------
    labels, cell_types
        Index into the types, int16 (cell,), and their names.
    sections, section_names
        Index into the names, int32 (cell,); no name where there is no section key.
    coordinates
        float64 (cell, axis).
    """

    labels: npt.NDArray[np.int16]
    cell_types: tuple[str, ...]
    sections: npt.NDArray[np.int32]
    section_names: tuple[str, ...]
    coordinates: npt.NDArray[np.float64]


def cell_columns(adata: AnnData, keys: TissueKeys, cell_types: Sequence[str] | None = None) -> CellColumns:
    """Return types, sections and places of a tissue's cells, checked.

    Parameters
    ----------
    adata, keys, cell_types
        As of :func:`prepare_tissue`, also for the errors.
    """
    return CellColumns(
        *_labels(adata, keys.labels_key, cell_types),
        *_sections(adata, keys.section_key),
        _coordinates(adata, keys.coord_key),
    )


def check_is_tissue(adata: object) -> None:
    """Raise :class:`TissueError` unless it is an AnnData object: a path, a MuData or a SpatialData object is none."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        raise TissueError(
            f"the tissue must be an AnnData object. Got {type(adata).__name__}; read it with anndata.read_h5ad, or "
            "take the table with the expression out of it."
        )


def _its(what: str, names: Sequence[object]) -> str:
    """Return a sentence that lists what there is."""
    return f"Its {what} are {listing(names)}." if names else f"It has no {what}."


def _refuse_duplicates(names: npt.NDArray[np.object_], what: str, remedy: str) -> None:
    duplicated = pd.Index(names)[pd.Index(names).duplicated()].unique()
    if len(duplicated):
        raise TissueError(f"{what} must be unique. Got {listing(list(duplicated))} more than once; {remedy}.")


def _obs_column(adata: AnnData, key: str, parameter: str) -> pd.Series[Any]:
    if key not in adata.obs.columns:
        hint = did_you_mean(key, map(str, adata.obs.columns))
        raise TissueError(
            f"{parameter} names the column {key!r}, which is not in the tissue's obs.{hint} "
            f"{_its('columns', list(adata.obs.columns))}"
        )
    n_columns = int((adata.obs.columns == key).sum())
    if n_columns > 1:
        raise TissueError(f"obs has {n_columns} columns called {key!r} ({parameter}); keep one of them.")
    column: pd.Series[Any] = adata.obs[key]
    return column


def _categories(adata: AnnData, key: str, parameter: str) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """Return the codes and the names of the categories in use of one column of ``obs``."""
    column = _obs_column(adata, key, parameter)
    _refuse_missing(adata, column.isna().to_numpy(), key, parameter, "NaN")
    try:
        values = column if isinstance(column.dtype, pd.CategoricalDtype) else column.astype("category")
    except TypeError:  # such as lists, which pandas cannot compare
        raise TissueError(
            f"column {key!r} of obs ({parameter}) must hold one value per cell, such as text. Got values of type "
            f"{type(column.iloc[0]).__name__}; make the column text."
        ) from None
    values = values.cat.remove_unused_categories()
    names = tuple(str(category) for category in values.cat.categories)
    codes = values.cat.codes.to_numpy().astype(np.int32)
    empty = [code for code, name in enumerate(names) if not name.strip()]
    _refuse_missing(adata, np.isin(codes, empty), key, parameter, "empty text")
    if len(set(names)) < len(names):
        raise TissueError(
            f"column {key!r} of obs ({parameter}) has different values that read the same as text, such as 1 and '1'; "
            "make the column text."
        )
    _warn_of_names(codes, names, key, parameter)
    return codes, names


def _refuse_missing(
    adata: AnnData, missing: npt.NDArray[np.bool_], key: str, parameter: str, what_they_have: str
) -> None:
    if missing.any():
        raise TissueError(
            f"column {key!r} of obs ({parameter}) must have a value for every cell. {int(missing.sum())} of "
            f"{len(missing)} cells have none ({what_they_have}), first "
            f"{listing(list(adata.obs_names[missing]), most=3)}; drop these cells or give them a value of their own."
        )


def _warn_of_names(codes: npt.NDArray[np.int32], names: tuple[str, ...], key: str, parameter: str) -> None:
    """Warn of values that hardly were meant as they are: missing ones that became text, and one in two spellings."""
    where = f"column {key!r} of obs ({parameter})"
    for code, name in enumerate(names):
        if name.strip().casefold() in SOMETIMES_MISSING:
            warnings.warn(
                f"{where} has the value {name!r} for {int((codes == code).sum())} of {len(codes)} cells, which reads "
                "like a missing one. It is taken like any other; if these cells have none, drop them.",
                stacklevel=5,
            )
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(" ".join(name.split()).casefold(), []).append(name)
    if alike := [spellings for spellings in folded.values() if len(spellings) > 1]:
        warnings.warn(
            f"{where} has values that differ in upper and lower case or in spaces only: "
            f"{'; '.join(listing(spellings) for spellings in alike[:4])}. They count as different ones, and cells of "
            "one are neighbors of the other; if they mean the same, make them one.",
            stacklevel=5,
        )


def _labels(
    adata: AnnData, key: str, cell_types: Sequence[str] | None
) -> tuple[npt.NDArray[np.int16], tuple[str, ...]]:
    codes, names = _categories(adata, key, "labels_key")
    if taken := sorted(RESERVED & set(names)):
        raise TissueError(
            f"column {key!r} of obs must not have cell types called {listing(taken)}: these are columns of the hub "
            "table. Rename them."
        )
    if cell_types is None:
        if FEW_TYPES < len(names) <= np.iinfo(np.int16).max and len(names) * CELLS_PER_TYPE > len(codes):
            warnings.warn(
                f"labels_key {key!r} has {len(names)} different values in {len(codes)} cells; is it a column of cell "
                "types?",
                stacklevel=4,
            )
        if len(names) > np.iinfo(np.int16).max:
            raise TissueError(f"labels_key {key!r} has {len(names)} different values; is it a column of cell types?")
        return codes.astype(np.int16), names
    unknown = sorted(set(names) - set(cell_types))
    if unknown:
        hint = did_you_mean(unknown[0], cell_types)
        raise TissueError(
            f"column {key!r} of obs has cell types that the model does not know: {listing(unknown)}.{hint} "
            f"The model knows {listing(list(cell_types), most=30)}. Rename them, or drop these cells."
        )
    number = {name: index for index, name in enumerate(cell_types)}
    return np.array([number[name] for name in names], dtype=np.int16)[codes], tuple(cell_types)


def _coordinates(adata: AnnData, key: str) -> npt.NDArray[np.float64]:
    if key not in adata.obsm:
        hint = did_you_mean(key, adata.obsm.keys())
        raise TissueError(
            f"coord_key names {key!r}, which is not in the tissue's obsm.{hint} "
            f"{_its('keys', list(adata.obsm))}{_coordinates_in_obs(adata, key)}"
        )
    values: Any = adata.obsm[key]
    if getattr(values, "format", None) in ("csr", "csc"):
        try:
            values.check_format(full_check=True)  # scipy trusts it otherwise, and would crash
        except ValueError as error:
            raise TissueError(f"obsm[{key!r}] (coord_key) is damaged: {error}. Write the tissue again.") from error
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)  # a DataFrame becomes an array, too
    if values.dtype == object:
        values = np.where(pd.isna(values), np.nan, values)  # None and pd.NA are not numbers to numpy
    try:
        # Text and objects may be numbers, such as those of a csv.
        if values.dtype.kind not in NUMBERS_OF_ANY_KIND + "OUST" or values.dtype.kind == "b":
            raise TypeError(values.dtype)
        coordinates = values.astype(np.float64)
    except (TypeError, ValueError):
        columns = adata.obsm[key].columns if isinstance(adata.obsm[key], pd.DataFrame) else ()
        among = f" in the columns {listing(list(columns))}" if len(columns) else ""
        raise TissueError(
            f"obsm[{key!r}] (coord_key) must hold numbers. Got values of type {values.dtype}{among}. Give it x and y "
            "(and z) of each cell alone."
        ) from None
    if coordinates.ndim != 2 or coordinates.shape[1] not in (2, 3):
        raise TissueError(
            f"obsm[{key!r}] (coord_key) must be of shape (cell, 2) or (cell, 3). Got {coordinates.shape} instead."
        )
    bad: npt.NDArray[np.bool_] = ~np.isfinite(coordinates).all(axis=1)
    if bad.any():
        raise TissueError(
            f"obsm[{key!r}] (coord_key) must be finite. {int(bad.sum())} of {len(bad)} cells have NaN or infinite "
            f"coordinates, first {listing(list(adata.obs_names[bad]), most=3)}; drop these cells."
        )
    far: npt.NDArray[np.bool_] = (np.abs(coordinates) > LARGEST_COORDINATE).any(axis=1)
    if far.any():
        raise TissueError(
            f"obsm[{key!r}] (coord_key) must hold places. {int(far.sum())} of {len(far)} cells have coordinates beyond "
            f"{LARGEST_COORDINATE:g}, first {listing(list(adata.obs_names[far]), most=3)}, which stand for missing "
            "ones; drop these cells."
        )
    checked: npt.NDArray[np.float64] = coordinates
    return checked


def _coordinates_in_obs(adata: AnnData, key: str) -> str:
    """Return what to do where columns of ``obs`` look like the coordinates, else an empty string."""
    by_folded = {str(column).casefold(): str(column) for column in adata.obs.columns}
    for x, y in X_AND_Y:
        if x in by_folded and y in by_folded:
            columns = [by_folded[x], by_folded[y]]
            return (
                f" If the columns {listing(columns)} of obs are the coordinates: "
                f"adata.obsm[{key!r}] = adata.obs[{columns!r}].to_numpy()"
            )
    return ""


def _warn_of_same_places(coordinates: npt.NDArray[np.float64], sections: npt.NDArray[np.int32]) -> None:
    """Warn where many cells lie exactly where another cell of their section does."""
    order = np.lexsort((*coordinates.T, sections))
    places = np.column_stack([sections, coordinates])[order]
    n_repeated = int((places[1:] == places[:-1]).all(axis=1).sum())
    if n_repeated > len(coordinates) // 10:
        warnings.warn(
            f"{n_repeated} of {len(coordinates)} cells lie exactly where another cell does (distance 0). If sections "
            "share coordinates, set section_key.",
            stacklevel=4,
        )


def _sections(adata: AnnData, key: str | None) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    if key is None:
        return np.zeros(adata.n_obs, dtype=np.int32), ()
    return _categories(adata, key, "section_key")


def _radii(adata: AnnData, key: str | None) -> npt.NDArray[np.float64] | None:
    if key is None:
        return None
    given = _obs_column(adata, key, "radius_key")
    column = np.full(len(given), np.nan)
    if given.dtype.kind not in "mMc":  # dates, durations and complex numbers would lose their meaning
        column = pd.to_numeric(given, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~(np.isfinite(column) & (column >= 0))
    if bad.any():
        raise TissueError(
            f"column {key!r} of obs (radius_key) must hold finite radii of at least 0. {int(bad.sum())} of {len(bad)} "
            f"cells do not have one, first {listing(list(adata.obs_names[bad]), most=3)}."
        )
    return column


def _gene_columns(adata: AnnData, genes: Sequence[str] | None) -> tuple[npt.NDArray[np.intp] | None, tuple[str, ...]]:
    """Return which columns to take (None: all, as they are) and their names."""
    present = adata.var_names.astype(str)
    if genes is None:
        _refuse_duplicates(
            np.asarray(present, dtype=object), "var_names (gene names)", "call adata.var_names_make_unique()"
        )
        return None, tuple(present)
    known = set(present)
    missing = [gene for gene in genes if gene not in known]
    if missing:
        folded = {name.casefold() for name in present}
        case = " They differ in upper and lower case only." if all(g.casefold() in folded for g in missing) else ""
        case = case or _genes_elsewhere(adata, missing)
        raise TissueError(
            f"the tissue lacks {len(missing)} of the model's {len(genes)} genes: {listing(missing, most=20)}.{case} "
            "Give a tissue measured with the same genes (var_names), or train a model on this one."
        )
    wanted = present[present.isin(genes)]
    _refuse_duplicates(
        np.asarray(wanted, dtype=object), "var_names (gene names) that the model uses", "keep one of each"
    )
    columns = present.get_indexer_for(list(genes))
    in_order = len(genes) == len(present) and bool((columns == np.arange(len(present))).all())
    return (None if in_order else columns), tuple(genes)


def _genes_elsewhere(adata: AnnData, genes: Sequence[str]) -> str:
    """Return what to do where the names of the genes are in a column of ``var``, else an empty string."""
    for column in adata.var.columns:
        if (adata.var.columns == column).sum() == 1 and set(genes) <= set(adata.var[column].astype(str)):
            return f" Column {str(column)!r} of var has them: set adata.var_names = adata.var[{str(column)!r}]."
    return ""
