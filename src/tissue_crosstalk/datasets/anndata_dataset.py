"""``AnnDataDataset`` loads and saves an AnnData object from and to an h5ad file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import fsspec
from kedro.io.core import AbstractVersionedDataset, DatasetError, Version, get_filepath_str, get_protocol_and_path

from tissue_crosstalk.core.files import whole_file

if TYPE_CHECKING:
    from anndata import AnnData
    from kedro_datasets._typing import JSONPreview

    Base = AbstractVersionedDataset[AnnData, AnnData]
else:
    Base = AbstractVersionedDataset


class AnnDataDataset(Base):
    """Loads and saves an AnnData object from and to an h5ad file, on any filesystem that fsspec knows.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        tissue:
          type: tissue_crosstalk.datasets.AnnDataDataset
          filepath: data/01_raw/tissue.h5ad
          load_args:
            backed: r

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
            Path of the file, with a protocol such as ``s3://`` where it is not local.
        load_args
            Of :func:`anndata.read_h5ad`; ``backed: r`` leaves the expression on disk (local files only).
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
            If there is no such file, or it is not an h5ad file.
        """
        import anndata

        path = get_filepath_str(self._get_load_path(), self._protocol)
        if not self._fs.exists(path):
            raise DatasetError(
                f"there is no file {path!r}. Expected an AnnData file (h5ad); "
                "name yours with --params=tissue=<path>, or tissue in conf/<study>/globals.yml."
            )
        try:
            if self._protocol == "file":
                return anndata.read_h5ad(path, **self._load_args)
            with tempfile.TemporaryDirectory() as folder:  # HDF5 needs a real file
                local = str(Path(folder) / "tissue.h5ad")
                self._fs.get(path, local)
                return anndata.read_h5ad(local, **{**self._load_args, "backed": None})
        except Exception as error:  # whatever h5py, zarr or pandas say of a file that is no AnnData
            raise DatasetError(
                f"{path!r} cannot be read as an AnnData file (h5ad): {error}. Is it complete? Write it with "
                "AnnData.write_h5ad."
            ) from error

    def save(self, data: AnnData) -> None:
        """Save the AnnData object; the file appears whole or not at all."""
        path = get_filepath_str(self._get_save_path(), self._protocol)
        if self._protocol == "file":
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
            with self._fs.open(path, "rb") as raw, h5py.File(raw) as file:
                description: dict[str, Any] = {
                    name: len(file[part][file[part].attrs["_index"]])
                    for name, part in (("cells", "obs"), ("genes", "var"))
                }
                description |= {part: list(map(str, file[part].attrs["column-order"])) for part in ("obs", "var")}
                description |= {part: sorted(file[part]) for part in ("obsm", "obsp", "layers", "uns") if part in file}
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
