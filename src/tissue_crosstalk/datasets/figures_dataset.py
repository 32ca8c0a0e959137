"""``FiguresDataset`` saves several figures in one folder."""

from __future__ import annotations

import base64
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io.core import AbstractDataset, DatasetError

from tissue_crosstalk.core.files import whole_folder

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview
    from matplotlib.figure import Figure

    Base = AbstractDataset[dict[str, Figure], dict[str, bytes]]
else:
    Base = AbstractDataset


class FiguresDataset(Base):
    """Saves figures by name in one folder, which is replaced as a whole; loads the bytes of the PNGs.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        attention_summaries:
          type: tissue_crosstalk.datasets.FiguresDataset
          filepath: data/08_reporting/embryo/attention_summaries
          svg: true

    In Python:

    >>> from matplotlib.figure import Figure
    >>> from tissue_crosstalk.datasets import FiguresDataset
    >>> dataset = FiguresDataset(filepath=str(tmp_path / "attention_summaries"))
    >>> dataset.save({"vanilla_B": Figure(figsize=(1, 1))})
    >>> list(dataset.load())
    ['vanilla_B']
    """

    def __init__(self, *, filepath: str, svg: bool = False, metadata: dict[str, Any] | None = None) -> None:
        """Create a dataset that points to a folder of figures.

        Parameters
        ----------
        filepath
            Path of the folder.
        svg
            Whether to save SVGs beside the PNGs.
        metadata
            Anything; Kedro-Viz reads its own part.
        """
        self._filepath = PurePosixPath(filepath)
        self._svg = svg
        self.metadata = metadata

    def load(self) -> dict[str, bytes]:
        """Return the PNGs by name, in the order of their names.

        Raises
        ------
        DatasetError
            If there is no such folder.
        """
        if not self._exists():
            raise DatasetError(f"there is no folder {str(self._filepath)!r}; run the pipeline that draws the figures.")
        return {file.stem: file.read_bytes() for file in sorted(Path(self._filepath).glob("*.png"))}

    def save(self, data: dict[str, Figure]) -> None:
        """Save the figures by name; the folder appears whole or not at all."""
        from tissue_crosstalk.core.plots.style import save_figures

        with whole_folder(self._filepath) as folder:
            save_figures(data, folder, (".png", ".svg") if self._svg else (".png",))

    def preview(self) -> ImagePreview:
        """Return the first PNG of the folder."""
        from kedro_datasets._typing import ImagePreview

        figures = self.load()
        if not figures:
            raise DatasetError(f"the folder {str(self._filepath)!r} holds no figure.")
        return ImagePreview(base64.b64encode(next(iter(figures.values()))).decode())

    def _exists(self) -> bool:
        return Path(self._filepath).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "svg": self._svg}
