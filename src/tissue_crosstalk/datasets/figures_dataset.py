"""``FiguresDataset`` saves several figures in one folder."""

from __future__ import annotations

import base64
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io.core import AbstractDataset, DatasetError

from tissue_crosstalk.core.files import whole_folder

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview
    from matplotlib.figure import Figure

    Base = AbstractDataset[dict[str, Figure], NoReturn]
else:
    Base = AbstractDataset


class FiguresDataset(Base):
    """Saves figures by file name (``.png`` or ``.svg``) in one folder, which is replaced as a whole.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        attention_summaries:
          type: tissue_crosstalk.datasets.FiguresDataset
          filepath: data/08_reporting/embryo/attention_summaries
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Create a dataset that points to a folder of figures.

        Parameters
        ----------
        filepath
            Path of the folder.
        metadata
            Anything; Kedro-Viz reads its own part.
        """
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata

    def load(self) -> NoReturn:
        """Refuse: figures cannot be read back."""
        raise DatasetError(f"figures can only be saved; open the files in {str(self._filepath)!r} instead.")

    def save(self, data: dict[str, Figure]) -> None:
        """Save the figures by file name; the folder appears whole or not at all."""
        from tissue_crosstalk.core.plots.style import save_figure

        with whole_folder(self._filepath) as folder:
            for name, figure in data.items():
                save_figure(figure, folder / name)

    def preview(self) -> ImagePreview:
        """Return the first PNG of the folder."""
        from kedro_datasets._typing import ImagePreview

        first = min(Path(self._filepath).glob("*.png"))
        return ImagePreview(base64.b64encode(first.read_bytes()).decode())

    def _exists(self) -> bool:
        return Path(self._filepath).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}
