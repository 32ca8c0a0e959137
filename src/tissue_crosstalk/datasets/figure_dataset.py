"""``FigureDataset`` saves one figure."""

from __future__ import annotations

import base64
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io.core import AbstractDataset, DatasetError

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview
    from matplotlib.figure import Figure

    Base = AbstractDataset[Figure, bytes]
else:
    Base = AbstractDataset


class FigureDataset(Base):
    """Saves a figure as PNG, and as SVG beside it if wanted; loads the PNG's bytes.

    Each file appears whole or not at all, and the same figure gives the same bytes.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        hub_map:
          type: tissue_crosstalk.datasets.FigureDataset
          filepath: data/08_reporting/embryo/hub_map.png
          svg: true

    In Python:

    >>> from matplotlib.figure import Figure
    >>> from tissue_crosstalk.datasets import FigureDataset
    >>> dataset = FigureDataset(filepath=str(tmp_path / "hub_map.png"))
    >>> dataset.save(Figure(figsize=(1, 1)))
    >>> dataset.load()[1:4]
    b'PNG'
    """

    def __init__(self, *, filepath: str, svg: bool = False, metadata: dict[str, Any] | None = None) -> None:
        """Create a dataset that points to a figure.

        Parameters
        ----------
        filepath
            Path of the PNG.
        svg
            Whether to save an SVG, too.
        metadata
            Anything; Kedro-Viz reads its own part.

        Raises
        ------
        DatasetError
            If `filepath` does not end in ``.png``.
        """
        self._filepath = PurePosixPath(filepath)
        if self._filepath.suffix != ".png":
            raise DatasetError(f"`filepath` of a figure must end in .png. Got {filepath!r} instead.")
        self._svg = svg
        self.metadata = metadata

    def load(self) -> bytes:
        """Return the PNG.

        Raises
        ------
        DatasetError
            If there is none.
        """
        if not self._exists():
            raise DatasetError(f"there is no figure {str(self._filepath)!r}; run the pipeline that draws it.")
        return Path(self._filepath).read_bytes()

    def save(self, data: Figure) -> None:
        """Save the figure."""
        from tissue_crosstalk.core.plots.style import save_figure

        vector = Path(self._filepath.with_suffix(".svg"))
        vector.unlink(missing_ok=True)  # or that of an earlier run would stay beside the new PNG
        save_figure(data, Path(self._filepath))
        if self._svg:
            save_figure(data, vector)

    def preview(self) -> ImagePreview:
        """Return the PNG."""
        from kedro_datasets._typing import ImagePreview

        return ImagePreview(base64.b64encode(self.load()).decode())

    def _exists(self) -> bool:
        return Path(self._filepath).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "svg": self._svg}
