"""``ParquetShardsDataset`` takes a parquet folder that was written shard by shard, and reads it lazily."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io.core import AbstractDataset, DatasetError

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from kedro_datasets._typing import TablePreview

    from tissue_crosstalk.core.files import Finished

    Base = AbstractDataset[Finished, pads.Dataset]
else:
    Base = AbstractDataset


class ParquetShardsDataset(Base):
    """Puts a finished folder of parquet files in its place, and loads it as a pyarrow dataset.

    Any parquet reader can read it. Its files say in their metadata what they were made from.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        attention_patterns:
          type: tissue_crosstalk.datasets.ParquetShardsDataset
          filepath: data/07_model_output/embryo/attention_patterns

    In Python:

    >>> import pyarrow as pa
    >>> import pyarrow.parquet as pq
    >>> from tissue_crosstalk.core.files import Finished
    >>> from tissue_crosstalk.datasets import ParquetShardsDataset
    >>> unfinished = tmp_path / ".numbers.unfinished"
    >>> unfinished.mkdir()
    >>> for index in range(2):
    ...     pq.write_table(pa.table({"number": [index]}), unfinished / f"part-{index}.parquet")
    >>> dataset = ParquetShardsDataset(filepath=str(tmp_path / "numbers"))
    >>> dataset.save(Finished(unfinished))
    >>> dataset.load().to_table().column("number").to_pylist()
    [0, 1]
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Create a dataset that points to a parquet folder.

        Parameters
        ----------
        filepath
            Path of the folder. Folders in it named ``<column>=<value>`` are partitions.
        metadata
            Anything; Kedro-Viz reads its own part.
        """
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata

    def load(self) -> pads.Dataset:
        """Open the folder; no row is read yet.

        Raises
        ------
        DatasetError
            If there is no such folder, or it does not hold parquet files.
        """
        import pyarrow as pa

        from tissue_crosstalk.core.tables import open_folder

        if not self._exists():
            raise DatasetError(f"there is no parquet folder {str(self._filepath)!r}; run the pipeline that writes it.")
        try:
            return open_folder(self._filepath)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                f"the parquet folder {str(self._filepath)!r} cannot be opened: {error}. A file in it is damaged, or "
                "none of this project; run the pipeline that writes it again."
            ) from error

    def save(self, data: Finished) -> None:
        """Put the folder in its place, in one step."""
        data.move_to(Path(self._filepath))

    def preview(self, nrows: int = 5) -> TablePreview:
        """Return the first rows."""
        from kedro_datasets._typing import TablePreview

        rows = self.load().head(nrows).to_pandas().astype(object)
        return TablePreview(
            {
                "index": list(range(len(rows))),
                "columns": [str(column) for column in rows.columns],
                "data": rows.map(lambda value: value if isinstance(value, (int, float)) else str(value))
                .to_numpy()
                .tolist(),
            }
        )

    def _exists(self) -> bool:
        return Path(self._filepath).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}
