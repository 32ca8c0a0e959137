"""``ParquetShardsDataset`` writes a parquet folder a shard at a time, and reads it lazily."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io.core import AbstractDataset, DatasetError

from tissue_crosstalk.core.files import swap_in, whole_file

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from kedro_datasets._typing import TablePreview

    from tissue_crosstalk.core.tables import Shard

    Base = AbstractDataset[Shard, pads.Dataset]
else:
    Base = AbstractDataset


class ParquetShardsDataset(Base):
    """Writes the shards that a generator node yields, one file each, and loads the folder as a pyarrow dataset.

    The folder takes its place when its last shard is written, so that there is never half a table. Any parquet
    reader can read it.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        attention_patterns:
          type: tissue_crosstalk.datasets.ParquetShardsDataset
          filepath: data/07_model_output/embryo/attention_patterns

    In Python:

    >>> import pyarrow as pa
    >>> from tissue_crosstalk.core.tables import Shard
    >>> from tissue_crosstalk.datasets import ParquetShardsDataset
    >>> dataset = ParquetShardsDataset(filepath=str(tmp_path / "numbers"))
    >>> for index in range(2):
    ...     dataset.save(Shard(index, 2, pa.table({"number": [index]}), f"part-{index}.parquet"))
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
            If there is no such folder.
        """
        import pyarrow.dataset as pads

        if not self._exists():
            raise DatasetError(f"there is no parquet folder {str(self._filepath)!r}; run the pipeline that writes it.")
        return pads.dataset(str(self._filepath), format="parquet", partitioning="hive")

    def save(self, data: Shard) -> None:
        """Write one shard; the last one completes the folder.

        Raises
        ------
        DatasetError
            If shards are missing before it.
        """
        import pyarrow.parquet as pq

        target = Path(self._filepath)
        unfinished = target.parent / f".{target.name}.unfinished"
        if data.index == 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        strings = [field.name for field in data.table.schema if str(field.type).startswith("dictionary")]
        with whole_file(unfinished / data.file) as path:
            # Dictionaries pay for the repeated strings only; attention is as good as random to them.
            pq.write_table(data.table, path, use_dictionary=strings)
        if data.index == data.count - 1:
            written = sum(1 for _ in unfinished.rglob("*.parquet"))
            if written != data.count:
                raise DatasetError(f"{str(target)!r} should have {data.count} shards, but {written} were written.")
            swap_in(unfinished, target)

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
