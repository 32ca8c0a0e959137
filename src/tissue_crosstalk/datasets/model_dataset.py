"""``ModelDataset`` loads and saves a model folder."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io.core import AbstractDataset, DatasetError

if TYPE_CHECKING:
    from kedro_datasets._typing import JSONPreview

    from tissue_crosstalk.core.model import CrosstalkModel

    Base = AbstractDataset[CrosstalkModel, CrosstalkModel]
else:
    Base = AbstractDataset


class ModelDataset(Base):
    """Loads a model, ours or one of amici-st, and saves it as safetensors and JSON.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        model:
          type: tissue_crosstalk.datasets.ModelDataset
          filepath: data/06_models/embryo/model

    In Python:

    >>> from tissue_crosstalk.datasets import ModelDataset
    >>> dataset = ModelDataset(filepath=str(tmp_path / "model"))
    >>> dataset.save(model)
    >>> dataset.load().genes == model.genes
    True
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Create a dataset that points to a model folder.

        Parameters
        ----------
        filepath
            Path of the folder.
        metadata
            Anything; Kedro-Viz reads its own part.
        """
        self._filepath = PurePosixPath(str(filepath))  # which the command line may take for a number
        self.metadata = metadata

    def load(self) -> CrosstalkModel:
        """Load the model; nothing that the files name is executed."""
        from tissue_crosstalk.core.checkpoint import load_model

        return load_model(self._filepath)

    def save(self, data: CrosstalkModel) -> None:
        """Save the model; the folder appears whole or not at all. A link in its place is replaced."""
        from tissue_crosstalk.core.checkpoint import save_model

        place = Path(self._filepath)
        if place.is_symlink():  # what it leads to would be replaced
            place.unlink()
        save_model(data, place)

    def preview(self) -> JSONPreview:
        """Return the model's description without its gene names."""
        from kedro_datasets._typing import JSONPreview

        file = Path(self._filepath) / "model.json"
        description = json.loads(file.read_text())
        if not isinstance(description, dict):
            raise DatasetError(f"{str(file)!r} must hold a JSON object. Got {type(description).__name__} instead.")
        return JSONPreview(json.dumps({name: value for name, value in description.items() if name != "genes"}))

    @property
    def filepath(self) -> PurePosixPath:
        """Where it lies."""
        return self._filepath

    @property
    def is_local(self) -> bool:
        """Whether it lies in the local file system, as all models do."""
        return True

    def _exists(self) -> bool:
        return Path(self._filepath).exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}
