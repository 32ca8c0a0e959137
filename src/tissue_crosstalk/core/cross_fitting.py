"""Models that are each trained without a part of the tissue, so that every cell is scored by one that never saw it."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.batches import spatial_patches
from tissue_crosstalk.core.devices import choose_device
from tissue_crosstalk.core.errors import CheckpointError, ParameterError
from tissue_crosstalk.core.neighbors import Neighbors

if TYPE_CHECKING:
    from tissue_crosstalk.core.files import Workspace
    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.network_settings import NetworkSettings
    from tissue_crosstalk.core.tissue import PreparedTissue
    from tissue_crosstalk.core.training_settings import TrainingSettings

logger = logging.getLogger(__name__)

CROSS_FITTED: Final = "cross_fitted"
"""Folder of the models, in that of a study's model."""


@dataclass(frozen=True, eq=False)
class Folds:
    """Spatial blocks of a tissue, and the folds that they make.

    Attributes
    ----------
    of_cell
        Fold of each cell, int64 (cell,).
    block
        Block of each cell, int64 (cell,); a block is of one section and fold.
    """

    of_cell: npt.NDArray[np.int64]
    block: npt.NDArray[np.int64]

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return int(self.of_cell.max()) + 1

    def others(self, tissue: PreparedTissue, neighbors: Neighbors, fold: int) -> tuple[PreparedTissue, Neighbors]:
        """Return the cells outside of a fold and their neighbors; the places of those in the fold are padded slots."""
        rows = np.flatnonzero(self.of_cell != fold)
        number = np.full(tissue.n_cells, terms.NO_NEIGHBOR, dtype=np.int32)
        number[rows] = np.arange(len(rows), dtype=np.int32)
        was = neighbors.idx[rows]
        idx = np.where(was < 0, np.int32(terms.NO_NEIGHBOR), number[was])
        cells = replace(
            tissue,
            labels=tissue.labels[rows],
            coordinates=tissue.coordinates[rows],
            cell_names=tissue.cell_names[rows],
            positions=tissue.positions[rows],
            sections=tissue.sections[rows],
            radii=None if tissue.radii is None else tissue.radii[rows],
            expression=tissue.expression[rows],
        )
        return cells, Neighbors(idx, np.where(idx < 0, np.float32(np.inf), neighbors.dist[rows]))


def cut_folds(
    coordinates: npt.NDArray[np.float64],
    sections: npt.NDArray[np.int32],
    *,
    n_folds: int,
    blocks_per_fold: int = 4,
    seed: int,
) -> Folds:
    """Cut a tissue in spatial blocks, and make folds of about the same number of cells of them.

    Parameters
    ----------
    coordinates, sections
        Of all cells, (cell, axis) and (cell,).
    n_folds
        Number of folds.
    blocks_per_fold
        Blocks of a fold, about: a block is of one section, and at its rim it is cut short.
    seed
        Of rotation, offsets and folds of the blocks.

    Raises
    ------
    ParameterError
        If there are fewer than two cells for each fold.
    """
    n_cells = len(coordinates)
    if n_cells < 2 * n_folds:
        raise ParameterError(
            f"n_folds must be at most half the number of cells, {n_cells}. Got {n_folds} instead; lower n_folds."
        )
    rng = np.random.default_rng(seed)
    size = max(1, n_cells // (n_folds * blocks_per_fold))
    blocks = spatial_patches(coordinates, sections, np.arange(n_cells), size, rng)
    order = rng.permutation(len(blocks)).tolist()
    of_cell, block = np.empty(n_cells, dtype=np.int64), np.empty(n_cells, dtype=np.int64)
    sizes = np.zeros(n_folds, dtype=np.int64)
    for number in sorted(order, key=lambda place: -len(blocks[place])):  # the largest first, to the smallest fold
        fold = int(np.argmin(sizes))
        sizes[fold] += len(blocks[number])
        of_cell[blocks[number]], block[blocks[number]] = fold, number
    return Folds(of_cell, block)


def cross_fit(
    tissue: PreparedTissue,
    neighbors: Neighbors,
    folds: Folds,
    network_settings: NetworkSettings,
    settings: TrainingSettings,
    *,
    seed: int,
    workspace: Workspace | None = None,
    progress: bool = True,
) -> list[CrosstalkModel]:
    """Train a model without each fold.

    Parameters
    ----------
    tissue, neighbors
        All cells, and their neighbors.
    folds
        The folds. What a cell of a fold expresses has no part in the training of its model, neither as a receiver's
        nor as a sender's.
    network_settings, settings, seed, progress
        See :func:`~tissue_crosstalk.core.training.train_model`, also for the errors.
    workspace
        Folder of the study's model. The models are kept in ``cross_fitted`` there, and one that was trained from the
        same cells, settings and seed is not trained again. None: nothing is kept.

    Returns
    -------
    list of CrosstalkModel
        The model of each fold.
    """
    from tissue_crosstalk.core.training import train_model
    from tissue_crosstalk.core.training_checkpoint import training_fingerprint

    models = []
    for fold in range(folds.n_folds):
        cells, of_cells = folds.others(tissue, neighbors, fold)
        described = {
            "training": training_fingerprint(cells, of_cells, network_settings, settings, seed),
            "settings": {**asdict(settings), "device": choose_device(settings.device).type},
        }
        made = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        place = None if workspace is None else workspace.place(CROSS_FITTED) / f"fold_{fold}"
        model = None if place is None else _found(place, made)
        if model is None:
            logger.info("training without fold %d of %d: %d cells", fold + 1, folds.n_folds, cells.n_cells)
            model, _ = train_model(cells, of_cells, network_settings, settings, seed=seed, progress=progress)
            if place is not None:
                _keep(model, place, made)
        else:
            logger.info("%s was trained from these very cells, with these settings, and is used again", place)
        models.append(model)
    return models


def _found(place: Path, made: str) -> CrosstalkModel | None:
    from tissue_crosstalk.core.checkpoint import load_model

    try:
        return load_model(place) if _record(place).read_text(encoding="utf-8") == made else None
    except (OSError, UnicodeDecodeError, CheckpointError):  # none, or damaged
        return None


def _keep(model: CrosstalkModel, place: Path, made: str) -> None:
    from tissue_crosstalk.core.checkpoint import save_model
    from tissue_crosstalk.core.files import clear, whole_file

    place.parent.mkdir(parents=True, exist_ok=True)
    _record(place).unlink(missing_ok=True)  # never beside a model that it is not of
    clear(place)  # another model, or what is left of one
    save_model(model, place)
    with whole_file(_record(place)) as path:
        path.write_text(made, encoding="utf-8")


def _record(place: Path) -> Path:
    return place.with_name(f"{place.name}_trained_from.txt")
