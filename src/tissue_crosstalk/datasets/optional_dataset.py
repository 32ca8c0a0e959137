"""``OptionalDataset`` loads another dataset where there is something to load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kedro.io.core import AbstractDataset, DatasetError, parse_dataset_definition

if TYPE_CHECKING:
    Base = AbstractDataset[Any, Any]
else:
    Base = AbstractDataset


class OptionalDataset(Base):
    """Loads what another dataset holds, and None where that does not exist. It is not saved.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        reported_training_history:
          type: tissue_crosstalk.datasets.OptionalDataset
          dataset:
            type: tissue_crosstalk.datasets.ParquetDataset
            filepath: data/06_models/embryo/training_history.parquet

    In Python:

    >>> from tissue_crosstalk.datasets import OptionalDataset
    >>> told = {"type": "tissue_crosstalk.datasets.JSONDataset", "filepath": str(tmp_path / "none.json")}
    >>> OptionalDataset(dataset=told).load() is None
    True
    """

    def __init__(self, *, dataset: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        """Create a dataset that may have nothing.

        Parameters
        ----------
        dataset
            Configuration of the other dataset.
        metadata
            Anything; Kedro-Viz reads its own part.
        """
        kind, arguments = parse_dataset_definition(dataset)
        self._dataset: AbstractDataset[Any, Any] = kind(**arguments)
        self.metadata = metadata

    def load(self) -> Any:
        """Return what there is, or None."""
        return self._dataset.load() if self._dataset.exists() else None

    def save(self, data: Any) -> None:  # noqa: ARG002 - it is never saved
        """Refuse: what is optional here is made elsewhere.

        Raises
        ------
        DatasetError
            Always.
        """
        raise DatasetError("an OptionalDataset is read alone. Save the dataset that it is of.")

    def _exists(self) -> bool:
        return self._dataset.exists()

    def _describe(self) -> dict[str, Any]:
        return {"dataset": self._dataset}
