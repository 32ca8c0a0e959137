"""``FiguresDataset`` saves several figures in one folder."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io.core import AbstractDataset, DatasetError

from tissue_crosstalk.core.files import whole_folder

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview
    from matplotlib.figure import Figure

    Drawable = Figure | Callable[[], Figure]
    Base = AbstractDataset[Mapping[str, Drawable], dict[str, bytes]]
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
        files = sorted(Path(self._filepath).glob("*.png"), key=lambda file: file.stem)
        return {file.stem: file.read_bytes() for file in files}

    def save(self, data: Mapping[str, Drawable]) -> None:
        """Save figures, or what draws them, by name; the folder appears whole or not at all."""
        from tissue_crosstalk.core.plots.style import save_figures

        with whole_folder(self._filepath) as folder:
            save_figures(data, folder, (".png", ".svg") if self._svg else (".png",))

    def preview(self) -> ImagePreview:
        """Return the PNGs of the folder, small and side by side."""
        from kedro_datasets._typing import ImagePreview

        figures = self.load()
        if not figures:
            raise DatasetError(f"the folder {str(self._filepath)!r} holds no figure.")
        return ImagePreview(base64.b64encode(_contact_sheet(list(figures.values()))).decode())

    def _exists(self) -> bool:
        return Path(self._filepath).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "svg": self._svg}


_SHEET_WIDTH = 1600  # pixels
_MOST_COLUMNS = 4
_GAP = 12


def _contact_sheet(figures: Sequence[bytes]) -> bytes:
    """Return figures as one PNG, in rows of as many as there are columns in a square, at most four."""
    from PIL import Image

    n_columns = min(math.ceil(math.sqrt(len(figures))), _MOST_COLUMNS)
    width = (_SHEET_WIDTH - (n_columns - 1) * _GAP) // n_columns
    images = [Image.open(io.BytesIO(figure)).convert("RGB") for figure in figures]
    small = [image.resize((width, max(round(image.height * width / image.width), 1))) for image in images]
    rows = [small[start : start + n_columns] for start in range(0, len(small), n_columns)]
    heights = [max(image.height for image in row) for row in rows]
    sheet = Image.new("RGB", (_SHEET_WIDTH, sum(heights) + (len(rows) - 1) * _GAP), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            sheet.paste(image, (column * (width + _GAP), top))
        top += height + _GAP
    file = io.BytesIO()
    sheet.save(file, format="png")
    return file.getvalue()
