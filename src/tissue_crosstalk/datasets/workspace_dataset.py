"""``WorkspaceDataset`` gives a stage the folder of its outputs, to go on from what an interrupted run left."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io.core import AbstractDataset, DatasetError

if TYPE_CHECKING:
    from tissue_crosstalk.core.files import Workspace

    Base = AbstractDataset[NoReturn, Workspace]
else:
    Base = AbstractDataset


class WorkspaceDataset(Base):
    """Gives a node the folder in which its outputs lie, or will.

    The node writes what is unfinished there, under hidden names, and returns it when it is finished
    (:class:`~tissue_crosstalk.core.files.Finished`): the output's own dataset puts it in its place.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        attention_workspace:
          type: tissue_crosstalk.datasets.WorkspaceDataset
          filepath: data/07_model_output/embryo

    In Python:

    >>> from tissue_crosstalk.datasets import WorkspaceDataset
    >>> WorkspaceDataset(filepath="data/07_model_output/embryo").load().place("cells").as_posix()
    'data/07_model_output/embryo/cells'
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Create a dataset that points to a folder, which need not exist.

        Parameters
        ----------
        filepath
            Path of the folder, on a file system that all who work there see.
        metadata
            Anything; Kedro-Viz reads its own part.
        """
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata

    def load(self) -> Workspace:
        """Return the folder."""
        from tissue_crosstalk.core.files import Workspace

        return Workspace(Path(self._filepath))

    def save(self, data: NoReturn) -> NoReturn:
        """Refuse: a node works in the folder itself."""
        raise DatasetError(
            "a workspace is what a node works in: make it an input of the node, not an output. "
            f"Got {type(data).__name__} to save."
        )

    def _exists(self) -> bool:
        return True  # the handle is always there, so that no runner misses an input

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}
