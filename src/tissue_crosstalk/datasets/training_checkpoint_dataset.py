"""``TrainingCheckpointDataset`` gives a training the file that keeps its last epoch."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io.core import AbstractDataset, DatasetError

if TYPE_CHECKING:
    from tissue_crosstalk.core.training_checkpoint import TrainingCheckpoint

    Base = AbstractDataset[NoReturn, TrainingCheckpoint]
else:
    Base = AbstractDataset


class TrainingCheckpointDataset(Base):
    """Gives a training the file that keeps its last epoch, and deletes it when the node's outputs are saved.

    The node writes to the file while it runs, so that a run that is killed goes on from there when it is started
    again. A node that names the dataset in ``confirms`` has it deleted after its own outputs are saved.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        training_checkpoint:
          type: tissue_crosstalk.datasets.TrainingCheckpointDataset
          filepath: data/06_models/embryo/training_checkpoint.safetensors

    In Python:

    >>> from tissue_crosstalk.datasets import TrainingCheckpointDataset
    >>> dataset = TrainingCheckpointDataset(filepath=str(tmp_path / "training_checkpoint.safetensors"))
    >>> dataset.load().path.name
    'training_checkpoint.safetensors'
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Create a dataset that points to a file, which need not exist.

        Parameters
        ----------
        filepath
            Path of the file, on a local filesystem.
        metadata
            Anything; Kedro-Viz reads its own part.
        """
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata

    def load(self) -> TrainingCheckpoint:
        """Return the handle through which a training reads and writes the file."""
        from tissue_crosstalk.core.training_checkpoint import TrainingCheckpoint

        return TrainingCheckpoint(Path(self._filepath))

    def save(self, data: NoReturn) -> NoReturn:
        """Refuse: training writes the file itself."""
        raise DatasetError(
            "a training checkpoint is written by the training itself: make it an input of the node, not an output. "
            f"Got {type(data).__name__} to save."
        )

    def confirm(self) -> None:
        """Delete the file: the training is finished, and what it made is saved."""
        self.load().clear()

    def _exists(self) -> bool:
        return True  # the handle is always there, so that no runner misses an input

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}
