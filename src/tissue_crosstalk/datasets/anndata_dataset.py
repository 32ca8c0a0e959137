"""``AnnDataDataset`` loads and saves an AnnData object from and to an h5ad file, or a zarr store."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import fsspec
from kedro.io.core import AbstractVersionedDataset, DatasetError, Version, get_filepath_str, get_protocol_and_path

from tissue_crosstalk.core.files import whole_file


class H5adWriter(Protocol):
    """Writes an h5ad file, as an AnnData does, without being one."""

    def write_h5ad(self, filename: Path) -> None:
        """Write the file."""


if TYPE_CHECKING:
    from anndata import AnnData
    from kedro_datasets._typing import JSONPreview

    from tissue_crosstalk.core.files import Finished

    Base = AbstractVersionedDataset[AnnData | H5adWriter | Finished, AnnData]
else:
    Base = AbstractVersionedDataset


class AnnDataDataset(Base):
    """Loads and saves an AnnData object from and to an h5ad file, on any filesystem that fsspec knows.

    Loads zarr stores (folders), too, where they are local, and of SpatialData stores one table with the places of its
    cells.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        tissue:
          type: tissue_crosstalk.datasets.AnnDataDataset
          filepath: data/01_raw/tissue.h5ad
          lazy: true

    In Python:

    >>> from tissue_crosstalk.datasets import AnnDataDataset
    >>> dataset = AnnDataDataset(filepath=str(tmp_path / "tissue.h5ad"))
    >>> dataset.save(adata)
    >>> dataset.load().n_obs == adata.n_obs
    True
    """

    def __init__(
        self,
        *,
        filepath: str,
        lazy: bool = False,
        table: str | None = None,
        coordinate_system: str | None = None,
        load_args: dict[str, Any] | None = None,
        save_args: dict[str, Any] | None = None,
        version: Version | None = None,
        credentials: dict[str, Any] | None = None,
        fs_args: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Create a dataset that points to an h5ad file.

        Parameters
        ----------
        filepath
            Path of the file, with a protocol such as ``s3://`` where it is not local. The folder of a zarr store.
        lazy
            Leave ``X``, ``layers`` and ``obsp`` in the file, and ``raw`` out (local files only). What reads them reads
            rows.
        table
            Of a SpatialData store: name of the table; None: the only one.
        coordinate_system
            Of a SpatialData store: system in which its regions say where the cells are; None: the table's own
            ``obsm["spatial"]``, else ``global``.
        load_args
            Of :func:`anndata.read_h5ad`, where not lazy.
        save_args
            Of :meth:`anndata.AnnData.write_h5ad`.
        version
            Version to load and save.
        credentials, fs_args
            Of the filesystem.
        metadata
            Anything; Kedro-Viz reads its own part.
        """
        protocol, path = get_protocol_and_path(filepath, version)
        self._protocol = protocol
        self._fs = fsspec.filesystem(protocol, **(credentials or {}), **(fs_args or {}))
        self._lazy = lazy
        # A name can be a number, which the command line takes for one.
        self._table = None if table is None else str(table)
        self._coordinate_system = None if coordinate_system is None else str(coordinate_system)
        self._load_args = load_args or {}
        self._save_args = save_args or {}
        self.metadata = metadata
        super().__init__(
            filepath=PurePosixPath(path), version=version, exists_function=self._fs.exists, glob_function=self._fs.glob
        )

    def load(self) -> AnnData:
        """Load the AnnData object.

        Raises
        ------
        DatasetError
            If there is no such file, or it is neither an h5ad file nor a zarr store.
        """
        from tissue_crosstalk.core.errors import CrosstalkError
        from tissue_crosstalk.core.tissue_file import open_tissue

        path = get_filepath_str(self._get_load_path(), self._protocol)
        if not self._fs.exists(path):
            raise DatasetError(
                f"there is no file {path!r}. Expected an AnnData file (h5ad, or a zarr store); "
                "name yours with --params=tissue=<path>, or tissue in conf/<study>/globals.yml."
            )
        try:
            if self._protocol == "file" and self._lazy:
                return open_tissue(Path(path), self._table, self._coordinate_system)
            if self._protocol == "file":
                return self._read(Path(path), self._load_args)
            with tempfile.TemporaryDirectory() as folder:  # HDF5 needs a real file
                local = str(Path(folder) / "tissue.h5ad")
                self._fs.get(path, local)
                return self._read(Path(local), {**self._load_args, "backed": None})
        except CrosstalkError as error:  # which names the file, and what to do
            raise DatasetError(str(error)) from error
        except Exception as error:  # whatever h5py, zarr or pandas say of a file that is no AnnData
            raise DatasetError(
                f"{path!r} cannot be read as an AnnData file (h5ad, or a zarr store): {error}. Is it complete? Write "
                "it with AnnData.write_h5ad."
            ) from error

    def _read(self, path: Path, load_args: dict[str, Any]) -> AnnData:
        """Read all of a file, once it is known that its parts are its own."""
        import anndata

        from tissue_crosstalk.core.tissue_file import open_group, read_tissue

        if path.is_dir():
            return read_tissue(path, table=self._table, coordinate_system=self._coordinate_system)
        with open_group(path):
            pass
        return anndata.read_h5ad(path, **load_args)

    def save(self, data: AnnData | H5adWriter | Finished) -> None:
        """Save the AnnData object; the file appears whole or not at all. One that is finished goes to its place."""
        from tissue_crosstalk.core.files import Finished

        path = get_filepath_str(self._get_save_path(), self._protocol)
        if isinstance(data, Finished):
            if self._protocol != "file":
                raise DatasetError(
                    f"{path!r} must be a local file: it is written as it comes. Set root to a local folder."
                )
            data.move_to(Path(path))
        elif self._protocol == "file":
            with whole_file(path) as unfinished:
                data.write_h5ad(unfinished, **self._save_args)
        else:
            with tempfile.TemporaryDirectory() as folder:
                local = Path(folder) / "tissue.h5ad"
                data.write_h5ad(local, **self._save_args)
                self._fs.put(str(local), path)

    def preview(self) -> JSONPreview:
        """Return how many cells and genes the file holds, and the names of what else is in it.

        Nothing else is read: a preview must not wait for a million cells.

        Raises
        ------
        DatasetError
            If there is no such file, or it is not an h5ad file.
        """
        import h5py
        from kedro_datasets._typing import JSONPreview

        path = get_filepath_str(self._get_load_path(), self._protocol)
        try:
            if self._protocol == "file" and Path(path).is_dir():
                import zarr

                from tissue_crosstalk.core.tissue_file import table_folder

                description = _described(zarr.open_group(table_folder(Path(path), self._table), mode="r"))
            else:
                with self._fs.open(path, "rb") as raw, h5py.File(raw) as file:
                    description = _described(file)
        except (OSError, KeyError) as error:
            raise DatasetError(f"{path!r} cannot be read as an AnnData file (h5ad): {error}") from error
        return JSONPreview(json.dumps(description))

    @property
    def filepath(self) -> PurePosixPath:
        """Where it lies."""
        return self._filepath

    @property
    def is_local(self) -> bool:
        """Whether it lies in the local file system."""
        return bool(self._protocol == "file")

    def _exists(self) -> bool:
        try:
            path = get_filepath_str(self._get_load_path(), self._protocol)
        except DatasetError:
            return False
        return bool(self._fs.exists(path))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "protocol": self._protocol, "version": self._version}


def _described(group: Any) -> dict[str, Any]:
    """Return how many cells and genes an AnnData on disk holds, and the names of what else is in it."""
    description: dict[str, Any] = {
        name: int(group[part][group[part].attrs["_index"]].shape[0])
        for name, part in (("cells", "obs"), ("genes", "var"))
    }
    description |= {part: list(map(str, group[part].attrs["column-order"])) for part in ("obs", "var")}
    return description | {part: sorted(group[part]) for part in ("obsm", "obsp", "layers", "uns") if part in group}
