"""A model as its users know it: the network, and what it was trained on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from tissue_crosstalk.core import terms

if TYPE_CHECKING:
    from anndata import AnnData

    from tissue_crosstalk.core.network import CrossAttentionNetwork

Origin = Literal["tissue-crosstalk", "amici-st"]


@dataclass(frozen=True)
class TissueKeys:
    """Where a tissue (AnnData) holds what the method needs.

    Parameters
    ----------
    labels_key
        Column of ``obs`` with the cell types.
    coord_key
        Key of ``obsm`` with the coordinates.
    section_key
        Column of ``obs`` with the section of each cell; None: all cells are of one section.
    radius_key
        Column of ``obs`` with the cell radii, in units of the coordinates; None: distances are between centres.
    layer
        Layer with the expression; None: ``X``.
    """

    labels_key: str = terms.DEFAULT_LABELS_KEY
    coord_key: str = terms.SPATIAL
    section_key: str | None = None
    radius_key: str | None = None
    layer: str | None = None

    def override(self, **given: str | None) -> TissueKeys:
        """Return keys in which every value that is given (not None) replaces this one's."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Preprocessing:
    """How counts become the expression that the network sees.

    Parameters
    ----------
    log_normalised
        Whether tissues hold log-normalised expression already, which is used as it is.
    target_sum
        Otherwise each cell is scaled to this total before ``log1p``.
    """

    log_normalised: bool
    target_sum: float | None = None


@dataclass(frozen=True, eq=False)
class CrosstalkModel:
    """A cross-attention network with the names that give its numbers a meaning.

    Attributes
    ----------
    network
        The network, in evaluation mode.
    genes
        Names in the order of the network's genes. Tissues are matched to them by name.
    cell_types
        Names in the order of the network's labels.
    keys
        Keys of the tissue it was trained on.
    n_neighbors
        Neighbors per cell in training.
    preprocessing
        From counts to expression.
    origin
        Which program trained it.
    tissue
        The tissue it was trained on, when that happened in this process.
    """

    network: CrossAttentionNetwork
    genes: tuple[str, ...]
    cell_types: tuple[str, ...]
    keys: TissueKeys
    n_neighbors: int
    preprocessing: Preprocessing
    origin: Origin = "tissue-crosstalk"
    tissue: AnnData | None = field(default=None, repr=False)
