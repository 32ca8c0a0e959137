"""SpatialData stores: which table is the tissue, and where its cells are.

A table is an AnnData zarr store of its own, in the folder ``tables/<name>``. Its cells are in its ``obsm["spatial"]``,
or are what a region (shapes or points of the store) holds under the names in the table's instance column. Images and
labels (masks) are never read. The library spatialdata is needed for regions alone, and imported only then.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import TissueError, did_you_mean, listing
from tissue_crosstalk.core.file_parts import check_parquet

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

ATTRIBUTES: Final = "spatialdata_attrs"  # of the store's root, and of a table's uns
TABLES: Final = "tables"
REGION_KINDS: Final = ("shapes", "points")
ARRAYS_VERSION: Final = "0.1"  # of shapes in zarr arrays
DEFAULT_SYSTEM: Final = "global"
RADIUS: Final = "radius"
UNIFORM: Final = 1e-6
"""By how much, relatively, a transformation may scale one direction more than another, for circles to stay circles."""


def is_spatialdata(group: Any) -> bool:
    """Return whether the root group of a zarr store is that of a SpatialData store."""
    return group.attrs.get("encoding-type") != "anndata" and (ATTRIBUTES in group.attrs or TABLES in group)


def choose_table(group: Any, path: Path, table: str | None) -> str:
    """Return the name of the table to read.

    Parameters
    ----------
    group
        The root group.
    path
        Where the store lies.
    table
        The name; None: the only one.

    Raises
    ------
    TissueError
        If there is no such table, or there are several and none is named.
    """
    tables = sorted(group[TABLES].group_keys()) if TABLES in group else []
    if not tables:
        raise TissueError(
            f"{str(path)!r} is a SpatialData store without a table: it has {listing(sorted(group)) or 'nothing'}. The "
            "expression of cells is in a table; write the store with one."
        )
    if table is None:
        if len(tables) > 1:
            raise TissueError(
                f"{str(path)!r} is a SpatialData store with {len(tables)} tables: {listing(tables, most=30)}. Name the "
                f"one with the cells: table={tables[0]}."
            )
        return str(tables[0])
    if table not in tables:
        raise TissueError(
            f"table={table} names no table of {str(path)!r}.{did_you_mean(table, tables)} Its tables are "
            f"{listing(tables, most=30)}."
        )
    return table


@dataclass(frozen=True, eq=False)
class _Annotated:
    """What a table says of the regions of its cells: the region and the instance of each, and their columns."""

    region_key: str
    instance_key: str
    regions: pd.Series[Any]
    instances: pd.Series[Any]

    @property
    def names(self) -> list[str]:
        return list(self.regions.unique())


def region_key_of(adata: AnnData) -> str | None:
    """Return the column of ``obs`` with the region of each cell, of a tissue that was a table of SpatialData.

    None where it was none, or annotates no region.
    """
    said = adata.uns.get(ATTRIBUTES)
    key = said.get("region_key") if isinstance(said, dict) else None
    return str(key) if key is not None and str(key) in adata.obs.columns else None


def default_section_key(adata: AnnData) -> str | None:
    """Return the column that tells regions apart, where a table annotates several: cells of two are no neighbors."""
    key = region_key_of(adata)
    if key is None or adata.obs[key].nunique() < 2:
        return None
    logger.info(
        "The table annotates %d regions (%s). Each is a section; section_key=none takes them for one.",
        adata.obs[key].nunique(),
        listing(sorted(adata.obs[key].dropna().unique(), key=str)),
    )
    return key


def place_cells(adata: AnnData, path: Path, coordinate_system: str | None) -> set[str]:
    """Give a table's cells their places, in ``obsm["spatial"]``, where it has none or a system is asked for.

    Parameters
    ----------
    adata
        The table, which is changed. Where its regions are circles, and remain so in the coordinate system,
        ``obs["radius"]`` has their radii, unless the table has such a column.
    path
        The store. Its files have been checked to be its own.
    coordinate_system
        Name of the coordinate system; None: what ``obsm["spatial"]`` says, else ``global``.

    Returns
    -------
    set of str
        Keys of ``obsm`` that are not as in the table's file.

    Raises
    ------
    TissueError
        If the regions do not tell where the cells are; spatialdata is not installed; there is no such system.
    """
    if coordinate_system is None and terms.SPATIAL in adata.obsm:
        return set()
    try:
        places, radii = _places(adata, path, DEFAULT_SYSTEM if coordinate_system is None else coordinate_system)
    except TissueError as error:
        others = [key for key, values in adata.obsm.items() if np.ndim(values) == 2 and values.shape[1] in (2, 3)]
        if coordinate_system is None and others:
            logger.warning("obsm[%r] cannot be had from the regions: %s", terms.SPATIAL, error)
            return set()  # coord_key may name another
        raise
    adata.obsm[terms.SPATIAL] = places
    if radii is not None and RADIUS not in adata.obs.columns:
        adata.obs[RADIUS] = radii
    return {terms.SPATIAL}


def _places(adata: AnnData, path: Path, system: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    """Return places (cell, axis) and radii (cell,) of a table's cells in a coordinate system."""
    annotated = _annotated(adata, path)
    kinds = {name: _kind(path, name) for name in annotated.names}
    library = _library()
    for kind in set(kinds.values()):
        _check_elements(path / kind, kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many packages, on what they will do some day
            store = library.read_zarr(path, selection=tuple(sorted(set(kinds.values()))))
    except Exception as error:  # of any kind: it is a file of another program
        said = next(iter(str(error).splitlines()), "")[:200]
        raise TissueError(
            f"{path}: its {' and '.join(sorted(set(kinds.values())))} cannot be read ({type(error).__name__}: {said}). "
            "The store is damaged or incomplete, or of a version that is not known. Copy or write it again."
        ) from error
    places: npt.NDArray[np.float64] | None = None
    radii = np.full(adata.n_obs, np.nan)
    for name, kind in kinds.items():
        element = getattr(store, kind)[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = _centroids(library, element, name, system, path)
        rows = np.flatnonzero((annotated.regions == name).to_numpy())
        found = _rows_of(annotated, rows, known.table.index, name, path)
        own = known.table.to_numpy(dtype=np.float64)[found]
        if places is None:
            places = np.full((adata.n_obs, own.shape[1]), np.nan)
        if places.shape[1] != own.shape[1]:
            raise TissueError(
                f"{path}: the regions {listing(list(kinds))} must have the same axes. Some have {places.shape[1]}, "
                f"others {own.shape[1]}; give obsm[{terms.SPATIAL!r}] to the table."
            )
        places[rows] = own
        if known.radii is not None:
            radii[rows] = known.radii[found]
    assert places is not None  # there is a region
    return places, None if np.isnan(radii).any() else radii


def _annotated(adata: AnnData, path: Path) -> _Annotated:
    said = adata.uns.get(ATTRIBUTES)
    keys = [said.get(name) for name in ("region_key", "instance_key")] if isinstance(said, dict) else [None, None]
    if None in keys:
        raise TissueError(
            f"{path}: the table must tell where its cells are. It has no obsm[{terms.SPATIAL!r}], or a coordinate "
            "system was asked for, and it annotates no region; give it either."
        )
    region_key, instance_key = map(str, keys)
    for key in (region_key, instance_key):
        if key not in adata.obs.columns:
            raise TissueError(
                f"{path}: the table names the column {key!r}, which is not in its obs. It is damaged; write the store "
                "again."
            )
    regions, instances = adata.obs[region_key], adata.obs[instance_key]
    if regions.isna().any():
        raise TissueError(
            f"{path}: column {region_key!r} of obs must name a region for every cell. {int(regions.isna().sum())} of "
            f"{len(regions)} cells have none, first {listing(list(adata.obs_names[regions.isna()]), most=3)}; drop "
            "these cells."
        )
    return _Annotated(region_key, instance_key, regions.astype(str), instances)


def _kind(path: Path, name: str) -> str:
    """Return in which folder of the store a region lies."""
    by_kind = {kind: _names_in(path / kind) for kind in (*REGION_KINDS, "labels")}
    for kind in REGION_KINDS:
        if name in by_kind[kind]:
            return kind
    if name in by_kind["labels"]:
        raise TissueError(
            f"{path}: the cells of region {name!r} are labels (a mask of pixels), which are not read. Give their "
            f"places to the table as obsm[{terms.SPATIAL!r}], or annotate shapes (spatialdata.to_circles)."
        )
    present = [known for kind in REGION_KINDS for known in by_kind[kind]]
    raise TissueError(
        f"{path}: the table annotates the region {name!r}, which the store does not have.{did_you_mean(name, present)} "
        f"Its shapes and points are {listing(present, most=30) or 'none'}. Write the store again with it, or give "
        f"obsm[{terms.SPATIAL!r}] to the table."
    )


def _names_in(folder: Path) -> list[str]:
    """Return the names of the elements in a folder; spatialdata takes those with a dot before for hidden."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _check_elements(folder: Path, kind: str) -> None:
    """Check what all elements of a kind declare: spatialdata reads all of them."""
    import zarr

    for name in _names_in(folder):
        attributes = zarr.open_group(str(folder / name), mode="r", use_consolidated=False).attrs
        table = folder / name / f"{kind}.parquet"
        said = attributes.get(ATTRIBUTES)
        if not table.exists() or not isinstance(said, dict) or said.get("version") == ARRAYS_VERSION:
            raise TissueError(
                f"{folder / name} must be {kind} in a parquet file. It is damaged, or of the first version of "
                "SpatialData, which is not read; read and write the store with a newer spatialdata."
            )
        check_parquet(table)


def _library() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations among the packages that it needs
            import spatialdata
    except ImportError as error:
        raise TissueError(
            "reading places of cells from the shapes or points of a SpatialData store needs spatialdata, which cannot "
            f'be imported ({error}). Install it: pip install "tissue-crosstalk[spatialdata]", or in a checkout '
            'pip install -e ".[spatialdata]". A table with obsm["spatial"] needs none.'
        ) from error
    return spatialdata


@dataclass(frozen=True, eq=False)
class _Centroids:
    """Centroids of a region by name of the cell, and their radii (cell,), where they are circles."""

    table: pd.DataFrame
    radii: npt.NDArray[np.float64] | None


def _centroids(library: Any, element: Any, name: str, system: str, path: Path) -> _Centroids:
    known = library.transformations.get_transformation(element, get_all=True)
    if system not in known:
        raise TissueError(
            f"{path}: the region {name!r} must have the coordinate system {system!r}.{did_you_mean(system, known)} It "
            f"has {listing(sorted(known), most=30)}; choose one with coordinate_system=<name>."
        )
    try:
        table = library.get_centroids(element, coordinate_system=system).compute()
    except Exception as error:  # such as a polygon without a corner, or an axis that the system does not have
        said = next(iter(str(error).splitlines()), "")[:200]
        raise TissueError(
            f"{path}: the places of the region {name!r} cannot be had in the coordinate system {system!r} "
            f"({type(error).__name__}: {said}). Write the store again, or give obsm[{terms.SPATIAL!r}] to the table."
        ) from error
    axes = [axis for axis in terms.COORDINATES if axis in table.columns]
    radii = None
    if RADIUS in getattr(element, "columns", ()) and hasattr(element, "geometry"):
        scale = _scale(known[system].to_affine_matrix(tuple(axes), tuple(axes)))
        radii = None if scale is None else element[RADIUS].to_numpy(dtype=np.float64) * scale
    return _Centroids(table[axes], radii)


def _scale(matrix: npt.NDArray[np.float64]) -> float | None:
    """Return by how much an affine transformation scales lengths; None if not all directions alike."""
    scales = np.linalg.svd(np.asarray(matrix)[:-1, :-1], compute_uv=False)
    is_uniform = math.isclose(float(scales[0]), float(scales[-1]), rel_tol=UNIFORM)
    return float(scales.mean()) if is_uniform else None


def _rows_of(
    annotated: _Annotated, rows: npt.NDArray[np.intp], index: pd.Index[Any], name: str, path: Path
) -> npt.NDArray[np.intp]:
    """Return in which row of a region each of some cells is."""
    wanted: pd.Index[Any] = pd.Index(annotated.instances.iloc[rows])
    if (wanted.dtype.kind in "iu") != (index.dtype.kind in "iu"):  # a number here, its text there
        wanted, index = wanted.astype(str), index.astype(str)
    for names, what in ((index, f"the region {name!r}"), (wanted, f"column {annotated.instance_key!r} of obs")):
        twice: Sequence[object] = list(names[names.duplicated()].unique())
        if twice:
            raise TissueError(
                f"{path}: {what} must name each cell of {name!r} once. Got {listing(twice, most=3)} more than once."
            )
    found = index.get_indexer(wanted)
    missing = wanted[found < 0]
    if len(missing):
        raise TissueError(
            f"{path}: the region {name!r} must have every cell that column {annotated.instance_key!r} of obs names in "
            f"it. {len(missing)} of {len(wanted)} are not there, first {listing(list(missing), most=3)}; drop these "
            "cells of the table, or write the store again."
        )
    return found
