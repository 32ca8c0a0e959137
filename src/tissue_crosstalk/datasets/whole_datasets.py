"""``ParquetDataset`` and ``JSONDataset``: those of kedro-datasets, with files that appear whole or not at all."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from kedro.io.core import DatasetError
from kedro_datasets.json import JSONDataset as PlainJSONDataset
from kedro_datasets.pandas import ParquetDataset as PlainParquetDataset

from tissue_crosstalk.core.errors import listing
from tissue_crosstalk.core.files import whole_file

if TYPE_CHECKING:
    import pandas as pd


CATEGORIES: Final = "categories"
"""Under which the ``attrs`` of a table without a row, in its file, keep the categories of its columns."""


class ParquetDataset(PlainParquetDataset):  # type: ignore[misc]  # kedro-datasets has no types
    """A table, as kedro-datasets' ``pandas.ParquetDataset`` has it; a local file appears whole or not at all.

    Files have checksums, and where they do not match, the file is damaged and is not loaded. A table without a row
    keeps the categories of its columns.

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
        kept = table.attrs.pop(CATEGORIES, None)
        for column, categories in (kept if isinstance(kept, dict) else {}).items():
            if column in table.select_dtypes("category") and not len(table):
                table[column] = table[column].cat.set_categories(categories)
        return table

    def save(self, data: pd.DataFrame) -> None:
        """Save the table."""
        if not len(data):  # parquet has dictionaries of what is there
            types = {name: list(column.cat.categories) for name, column in data.select_dtypes("category").items()}
            data = data.copy()
            data.attrs[CATEGORIES] = {name: of for name, of in types.items() if all(isinstance(one, str) for one in of)}
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

    def __init__(self, *, holds: Mapping[str, Any] | None = None, **given: Any) -> None:
        """Create a dataset that points to a JSON file.

        Parameters
        ----------
        holds
            Keys that its object must have, with the kind of each one's value, one of :data:`KINDS`, or the keys in it
            again; the key ``*``: any. None: it may hold anything.
        given
            What kedro-datasets' takes.
        """
        super().__init__(**given)
        self._holds = holds

    def load(self) -> Any:
        """Load the file.

        Raises
        ------
        DatasetError
            If there is none, it cannot be read, or holds something else.
        """
        data, name = _load(self, PlainJSONDataset.load, "JSON file"), str(self._get_load_path())
        if self._holds is not None:
            _check(data, self._holds, name)
        return _Named(data, name) if self._holds is not None and ANY in self._holds else data

    def save(self, data: Any) -> None:
        """Save the file."""
        _save(self, PlainJSONDataset.save, data)


def _is_colour(value: object) -> bool:
    from matplotlib.colors import is_color_like

    return isinstance(value, str) and bool(is_color_like(value))


ANY: Final = "*"
KINDS: Final[Mapping[str, Callable[[Any], bool]]] = MappingProxyType(
    {
        "an object": lambda value: isinstance(value, dict),
        "a number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        "a number or null": lambda value: value is None or KINDS["a number"](value),
        "a text": lambda value: isinstance(value, str),
        "a colour": _is_colour,
    }
)
"""What a value of a JSON file can be asked to be."""
_AGAIN: Final = "It is damaged, or something else; delete it and run the pipeline that writes it again."


def _check(value: Any, holds: Mapping[str, Any] | str, name: str, *keys: str) -> None:
    """Raise :class:`DatasetError` unless a value of a JSON file is as it must be."""
    where = f"{name!r}: the value of {'.'.join(map(repr, keys))}" if keys else repr(name)
    kind = holds if isinstance(holds, str) else "an object"
    if not KINDS[kind](value):
        is_list = isinstance(value, list)
        shown = "a list" if is_list else "an object" if isinstance(value, dict) else json.dumps(value)[:100]
        raise DatasetError(f"{where} must be {kind}. Got {shown} instead. {_AGAIN}")
    if isinstance(holds, str):
        return
    missing = [key for key in holds if key != ANY and key not in value]
    if missing:
        raise DatasetError(f"{where} must have the keys {listing(list(holds))}. It lacks {listing(missing)}. {_AGAIN}")
    for key in value if ANY in holds else holds:
        _check(value[key], holds.get(key, holds.get(ANY)), name, *keys, key)


class _Named(dict[str, Any]):
    """What a file says of names that are not known beforehand, such as the colours of cell types."""

    def __init__(self, data: Mapping[str, Any], file: str) -> None:
        super().__init__(data)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise DatasetError(f"{self.file!r} must have an entry for {key!r}. It has {listing(list(self))}. {_AGAIN}")

    def __reduce__(self) -> tuple[type[_Named], tuple[dict[str, Any], str]]:
        return _Named, (dict(self), self.file)


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
