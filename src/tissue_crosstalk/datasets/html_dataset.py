"""``HtmlDataset`` saves one page."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io.core import AbstractDataset, DatasetError

from tissue_crosstalk.core.files import whole_file

if TYPE_CHECKING:
    Base = AbstractDataset[str, str]
else:
    Base = AbstractDataset


class HtmlDataset(Base):
    """Saves a page as UTF-8; it appears whole or not at all.

    Examples
    --------
    In a catalog:

    .. code-block:: yaml

        report:
          type: tissue_crosstalk.datasets.HtmlDataset
          filepath: data/08_reporting/embryo/report.html

    In Python:

    >>> from tissue_crosstalk.datasets import HtmlDataset
    >>> dataset = HtmlDataset(filepath=str(tmp_path / "report.html"))
    >>> dataset.save("<!doctype html><title>µm</title>")
    >>> dataset.load()
    '<!doctype html><title>µm</title>'
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Create a dataset that points to a page.

        Parameters
        ----------
        filepath
            Path of the file.
        metadata
            Anything; Kedro-Viz reads its own part.
        """
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata

    def load(self) -> str:
        """Return the page.

        Raises
        ------
        DatasetError
            If there is none.
        """
        if not self._exists():
            raise DatasetError(f"there is no page {str(self._filepath)!r}; run the pipeline that writes it.")
        return Path(self._filepath).read_text(encoding="utf-8")

    def save(self, data: str) -> None:
        """Save the page."""
        with whole_file(self._filepath) as path:
            path.write_text(data, encoding="utf-8", newline="\n")

    def _exists(self) -> bool:
        return Path(self._filepath).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}
