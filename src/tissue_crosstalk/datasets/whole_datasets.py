"""``ParquetDataset`` and ``JSONDataset``: those of kedro-datasets, with files that appear whole or not at all."""

from __future__ import annotations

import copy
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from kedro.io.core import DatasetError
from kedro_datasets.json import JSONDataset as PlainJSONDataset
from kedro_datasets.pandas import ParquetDataset as PlainParquetDataset

from tissue_crosstalk.core.files import whole_file

if TYPE_CHECKING:
    import pandas as pd


class ParquetDataset(PlainParquetDataset):  # type: ignore[misc]  # kedro-datasets has no types
    """A table, as kedro-datasets' ``pandas.ParquetDataset`` has it; a local file appears whole or not at all.

    Files have checksums, and where they do not match, the file is damaged and is not loaded.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        hubs:
          type: tissue_crosstalk.datasets.ParquetDataset
          filepath: data/07_model_output/embryo/hubs.parquet

    In Python:

    >>> import pandas as pd
    >>> from tissue_crosstalk.datasets import ParquetDataset
    >>> dataset = ParquetDataset(filepath=str(tmp_path / "numbers.parquet"))
    >>> dataset.save(pd.DataFrame({"number": [1, 2]}))
    >>> dataset.load()["number"].tolist()
    [1, 2]
    """

    DEFAULT_LOAD_ARGS: Final = {"page_checksum_verification": True}
    DEFAULT_SAVE_ARGS: Final = {"write_page_checksum": True}

    def load(self) -> pd.DataFrame:
        """Load the table.

        Raises
        ------
        DatasetError
            If there is none, or it cannot be read.
        """
        table: pd.DataFrame = _load(self, PlainParquetDataset.load, "parquet table")
        return table

    def save(self, data: pd.DataFrame) -> None:
        """Save the table."""
        _save(self, PlainParquetDataset.save, data)


class JSONDataset(PlainJSONDataset):  # type: ignore[misc]  # as above
    """A JSON file, as kedro-datasets' ``json.JSONDataset`` has it; a local file appears whole or not at all.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        hub_selection:
          type: tissue_crosstalk.datasets.JSONDataset
          filepath: data/07_model_output/embryo/hub_selection.json

    In Python:

    >>> from tissue_crosstalk.datasets import JSONDataset
    >>> dataset = JSONDataset(filepath=str(tmp_path / "numbers.json"))
    >>> dataset.save({"number": 1})
    >>> dataset.load()
    {'number': 1}
    """

    def load(self) -> Any:
        """Load the file.

        Raises
        ------
        DatasetError
            If there is none, or it cannot be read.
        """
        return _load(self, PlainJSONDataset.load, "JSON file")

    def save(self, data: Any) -> None:
        """Save the file."""
        _save(self, PlainJSONDataset.save, data)


def _load(dataset: Any, load: Any, what: str) -> Any:
    path = dataset._get_load_path()
    if not dataset._exists():
        raise DatasetError(f"there is no {what} {str(path)!r}; run the pipeline that writes it.")
    try:
        return load.__wrapped__(dataset)
    except Exception as error:  # whatever pyarrow, pandas or json say of a file that is none of theirs
        raise DatasetError(
            f"{str(path)!r} cannot be read as a {what}: {error}. It is damaged, or something else; run the pipeline "
            "that writes it again."
        ) from error


def _save(dataset: Any, save: Any, data: Any) -> None:
    if dataset._protocol != "file":
        save.__wrapped__(dataset, data)
        return
    with whole_file(Path(dataset._get_save_path())) as unfinished:
        beside = copy.copy(dataset)
        beside._filepath, beside._version = PurePosixPath(unfinished), None
        save.__wrapped__(beside, data)
    dataset._invalidate_cache()
