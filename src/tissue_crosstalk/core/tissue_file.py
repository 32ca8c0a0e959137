"""A tissue (AnnData) whose matrices stay in its file, h5ad or zarr, to be read by rows; also a table of SpatialData.

Names, labels, coordinates and what else is small is in memory. ``X``, ``layers`` and ``obsp`` are on disk, dense or
sparse; ``raw`` is left there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from anndata import AnnData
from scipy import sparse

from tissue_crosstalk.core.errors import TissueError, listing
from tissue_crosstalk.core.file_parts import READ_AS_A_WHOLE, check_files, check_parts
from tissue_crosstalk.core.spatialdata_store import ATTRIBUTES, TABLES, choose_table, is_spatialdata, place_cells

if TYPE_CHECKING:
    import h5py

ON_DISK = ("layers", "obsp")
SPARSE = {"csr_matrix", "csc_matrix"}
GROUPS = {"dict", "raw"}
ZARR_FILES = {".zgroup", "zarr.json", ".zmetadata"}
LARGE = 2**20
"""Elements of an array of ``obsm`` above which it stays on disk."""

COPIED_AT_ONCE = 2**24
"""Elements of an array that are copied at once."""

LONGEST_GAP = 256
"""Rows that are read and dropped again sooner than a file is asked twice."""


class TissueFile(AnnData):  # type: ignore[misc]  # anndata has no types
    """An AnnData whose matrices stay in the file `source`.

    Attributes
    ----------
    source
        The h5ad file, or the folder of the zarr store, or of the table in a SpatialData store.
    store
        What was opened: `source`, or the SpatialData store.
    placed
        Keys of ``obsm`` that are not as in the file.
    """

    source: Path
    store: Path
    placed: frozenset[str] = frozenset()


def open_tissue(path: Path, table: str | None = None, coordinate_system: str | None = None) -> AnnData:
    """Open a tissue without reading its matrices.

    Parameters
    ----------
    path
        An h5ad file, or the folder of a zarr store, of an AnnData or of SpatialData.
    table, coordinate_system
        See :func:`~tissue_crosstalk.core.spatialdata_store.choose_table` and
        :func:`~tissue_crosstalk.core.spatialdata_store.place_cells`, also for the errors. Of SpatialData alone.

    Returns
    -------
    TissueFile
        Of a file of the time before AnnData 0.8, an AnnData in memory.

    Raises
    ------
    TissueError
        If it is not an AnnData, is damaged, or :func:`~tissue_crosstalk.core.file_parts.check_parts` refuses it.
    """
    with damage_named(path, "the root"):
        source = _table_folder(path, table, coordinate_system)
    group = _open(source)
    with damage_named(source, "the root"):
        tissue = _opened(group, source)
        if source != path:
            if "region_key" in group.attrs:  # as spatialdata has it when it reads the table
                said = {name: group.attrs.get(name) for name in ("region", "region_key", "instance_key")}
                tissue.uns.setdefault(ATTRIBUTES, said)
            tissue.store = path
            tissue.placed = frozenset(place_cells(tissue, path, coordinate_system))
        return tissue


def read_tissue(
    path: str | os.PathLike[str], *, table: str | None = None, coordinate_system: str | None = None
) -> AnnData:
    """Read a tissue, all of it, as the pipelines do: an h5ad file, or a zarr store of AnnData or SpatialData.

    Parameters
    ----------
    path, table, coordinate_system
        See :func:`open_tissue`, also for the errors.

    Returns
    -------
    AnnData
        Of SpatialData the table, with the places of its cells in ``obsm["spatial"]``.
    """
    import anndata

    opened = open_tissue(Path(path), table, coordinate_system)
    source = source_of(opened)
    if source is None:
        return opened
    with damage_named(source, "the root"):
        adata = anndata.read_zarr(source) if source.is_dir() else anndata.read_h5ad(source)
    if source != store_of(opened):
        adata.obs, adata.uns = opened.obs, opened.uns
        adata.obsm.update({key: opened.obsm[key] for key in opened.placed})
    return adata


def table_folder(path: Path, table: str | None) -> Path:
    """Return the folder of the table to read in a SpatialData store; of anything else `path` itself.

    Raises
    ------
    TissueError
        As :func:`~tissue_crosstalk.core.spatialdata_store.choose_table`.
    """
    return _table_folder(path, table, None)


def _table_folder(path: Path, table: str | None, coordinate_system: str | None) -> Path:
    if path.is_dir():
        import zarr

        _check_kind(path)
        check_files(path)  # before anything in it is opened
        root = zarr.open_group(str(path), mode="r", use_consolidated=False)
        if is_spatialdata(root):
            return path / TABLES / choose_table(root, path, table)
    for name, given in (("table", table), ("coordinate_system", coordinate_system)):
        if given is not None and path.exists():
            raise TissueError(
                f"{name}={given} is of SpatialData stores, but {str(path)!r} is none. Leave it out, or name a "
                "SpatialData store."
            )
    return path


def _opened(group: Any, path: Path) -> AnnData:
    import anndata

    if group.attrs.get("encoding-type") != "anndata":
        if path.is_dir() or "X" not in group or "obs" not in group:
            raise TissueError(
                f"{str(path)!r} is not an AnnData: it has {', '.join(map(repr, sorted(group))) or 'nothing'}. "
                f"{_remedy(path, group)}"
            )
        return anndata.read_h5ad(path)
    parts: dict[str, Any] = {}
    for name in READ_AS_A_WHOLE:
        if name in group and name != "obsm":
            with damage_named(path, name):
                parts[name] = _read(group[name])
    for name in ("obsm", *ON_DISK):
        if name in group:
            with damage_named(path, name):
                keys = list(group[name])
            parts[name] = {}
            for key in keys:
                with damage_named(path, f"{name}/{key}"):
                    parts[name][key] = (_lazy_if_large if name == "obsm" else _lazy)(group[name][key])
    with damage_named(path, "X"):
        x = _lazy(group["X"]) if "X" in group else None
    tissue = TissueFile(X=x, **parts)
    tissue.source = tissue.store = path
    return tissue


def _check_kind(path: Path) -> None:
    """Raise :class:`TissueError` unless it is an HDF5 file or a zarr store, whatever it holds."""
    if path.is_dir():
        found = sorted(entry.name for entry in path.iterdir())
        if not ZARR_FILES & set(found):
            raise TissueError(
                f"{str(path)!r} is a folder, but not a zarr store: it has {listing(found) or 'nothing'}. Name an h5ad "
                "file, or the folder that AnnData.write_zarr made."
            )
    elif path.is_file():
        import h5py

        with path.open("rb") as file:
            start = file.read(8)
        if not h5py.is_hdf5(path):
            came = f"begins with {start!r}" if start else "is empty"
            raise TissueError(
                f"{str(path)!r} is not an h5ad file, whatever its name: it {came}. Read it with what it is made for, "
                "such as scanpy.read_csv, and write it with AnnData.write_h5ad."
            )


def _remedy(path: Path, group: Any) -> str:
    """Return how to get at an AnnData in or from what is none."""
    if "mod" in group:
        return f"It is a MuData of {listing(sorted(group['mod']))}: write the one with the expression with write_h5ad."
    if "matrix" in group:
        return (
            "It is a 10x file: read it with scanpy.read_10x_h5, add cell types and coordinates, and write it with "
            "AnnData.write_h5ad."
        )
    return f"Write it with AnnData.write_{'zarr' if path.is_dir() else 'h5ad'}."


@contextmanager
def damage_named(path: Path, key: str) -> Iterator[None]:
    """Turn whatever h5py, zarr, anndata and scipy say of a damaged file into an error that names file and key.

    Raises
    ------
    TissueError
        If anything is raised within.
    """
    try:
        yield
    except TissueError:
        raise
    except Exception as error:  # they are of any kind: KeyError, OSError, AttributeError, zarr's and numcodecs' own
        said = next(iter(str(error).splitlines()), "")[:200]
        raise TissueError(
            f"{path}: {key!r} cannot be read ({type(error).__name__}: {said}). The tissue is damaged or "
            "incomplete, or was not written by AnnData. Copy it again, or write it again with AnnData.write_h5ad."
        ) from error


def source_of(adata: AnnData) -> Path | None:
    """Return the file that a tissue was opened from; None for one in memory."""
    return getattr(adata, "source", None)


def store_of(adata: AnnData) -> Path | None:
    """Return what a tissue was opened from, where it is a table the whole SpatialData store; None for one in memory."""
    return getattr(adata, "store", None)


@contextmanager
def open_group(path: Path) -> Iterator[Any]:
    """Give the root group of an h5ad file or a zarr store, to read."""
    group = _open(path)
    try:
        yield group
    finally:
        if hasattr(group, "close"):
            group.close()


def _open(path: Path) -> Any:
    """Open the root group, once it is known that its parts are its own."""
    if not path.is_dir() and not path.is_file():
        raise TissueError(f"{path} must be an h5ad file or the folder of a zarr store. Nothing of the kind is there.")
    _check_kind(path)
    with damage_named(path, "the root"):
        if path.is_dir():
            import zarr

            # What is said of all arrays in one place could differ from what each says.
            group = zarr.open_group(str(path), mode="r", use_consolidated=False)
        else:
            import h5py

            group = h5py.File(path, "r")
        check_parts(group, path)
        return group


def copy_element(old: Any, new: h5py.Group, name: str) -> None:
    """Copy an element of an AnnData on disk, of an h5ad file or a zarr store, to an h5ad file, a part at a time."""
    import h5py

    element = old[name]
    if isinstance(old, h5py.Group):
        old.copy(element, new, name)
    elif element.attrs.get("encoding-type") in SPARSE:
        group = new.create_group(name)
        group.attrs.update(
            {key: np.asarray(value) if key == "shape" else value for key, value in element.attrs.items()}
        )
        for part in ("data", "indices", "indptr"):
            _copy_array(element[part], group, part)
    elif element.attrs.get("encoding-type") == "array" and element.ndim and element.dtype.kind in "biuf":
        _copy_array(element, new, name)
        new[name].attrs.update(dict(element.attrs))
    elif element.attrs.get("encoding-type") in GROUPS:
        group = new.create_group(name)
        group.attrs.update(dict(element.attrs))
        for key in element:
            copy_element(element, group, key)
    else:  # small, such as the table of genes
        from anndata.io import write_elem

        write_elem(new, name, _read(element))


def _copy_array(old: Any, new: h5py.Group, name: str) -> None:
    array = new.create_dataset(name, old.shape, old.dtype)
    size = max(1, COPIED_AT_ONCE // max(1, int(np.prod(old.shape[1:]))))
    for start in range(0, old.shape[0], size):
        array[start : start + size] = old[start : start + size]


def _read(element: Any) -> Any:
    from anndata.io import read_elem

    return read_elem(element)


def _lazy(element: Any) -> Any:
    from anndata.io import sparse_dataset

    encoding = element.attrs.get("encoding-type")
    if encoding in SPARSE:
        return sparse_dataset(element)
    return element if encoding == "array" else _read(element)


def _lazy_if_large(element: Any) -> Any:
    is_array = element.attrs.get("encoding-type") == "array"
    if is_array and int(np.prod(element.shape)) > LARGE:
        return element
    values = _read(element)
    if getattr(values, "format", None) in ("csr", "csc"):
        values.check_format(full_check=True)  # scipy trusts them, and would crash
    return values


class RowReader:
    """Reads rows of a sparse or dense matrix, in memory or on disk, as CSR float32.

    Parameters
    ----------
    values
        (row, column): numpy, scipy sparse (CSR where it is large), or what :func:`open_tissue` left on disk.
    """

    def __init__(self, values: Any) -> None:
        self._values = values
        self.shape: tuple[int, int] = tuple(values.shape)
        # On disk, rows are ranges of two arrays, which one look at the starts of all rows tells.
        self._parts: tuple[Any, Any] | None = None
        if getattr(values, "format", None) == "csr" and not sparse.issparse(values):
            self._parts = values.group["data"], values.group["indices"]
            self._starts: npt.NDArray[np.int64] = values.group["indptr"][:].astype(np.int64)

    def __getitem__(self, rows: npt.NDArray[np.integer]) -> sparse.csr_matrix:
        """Return rows, given ascending, as CSR float32 (row, column)."""
        if self._parts is None:
            return sparse.csr_matrix(self._values[rows], dtype=np.float32)
        # Rows that lie close are read with what is between them.
        cuts = np.flatnonzero(np.diff(rows) > LONGEST_GAP) + 1
        parts = [self._range(part) for part in np.split(rows, cuts) if len(part)]
        empty = sparse.csr_matrix(np.zeros((0, self.shape[1]), dtype=np.float32))
        return sparse.csr_matrix(sparse.vstack([empty, *parts], format="csr"))

    def _range(self, rows: npt.NDArray[np.integer]) -> sparse.csr_matrix:
        assert self._parts is not None
        first, stop = int(rows[0]), int(rows[-1]) + 1
        starts = self._starts[first : stop + 1]
        data, indices = (part[int(starts[0]) : int(starts[-1])] for part in self._parts)
        if not is_consistent(starts, indices, self.shape[1]):
            raise TissueError("the file is damaged: its sparse matrix contradicts itself. Make it again.")
        whole = sparse.csr_matrix(
            (np.asarray(data, dtype=np.float32), indices, starts - starts[0]), shape=(stop - first, self.shape[1])
        )
        return whole if len(rows) == stop - first else whole[rows - first]


def is_consistent(starts: npt.NDArray[np.integer], indices: npt.NDArray[np.integer], size: int) -> bool:
    """Return whether the rows of a CSR matrix (the columns of a CSC one) follow each other, and stay within `size`."""
    is_ascending = bool((np.diff(starts) >= 0).all())
    return is_ascending and (not len(indices) or bool(indices.min() >= 0 and indices.max() < size))
