"""What model and tissue have in common: the prepared tissue with its neighbors, as one AnnData to be stored.

``X``: log-normalised expression, CSR float32; ``obs``: ``label``, ``position`` (row in the user's tissue), ``section``
and ``radius`` where there are any; ``obsm``: ``spatial``, ``nn_idx`` (rows of this object, −1 where padded) and
``nn_dist``; ``uns["tissue_crosstalk"]``: keys and preprocessing. Its cells are in spatial order.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import TissueError
from tissue_crosstalk.core.expression import Normalisation, RowShuffle, Summary
from tissue_crosstalk.core.files import Finished, Workspace, clear, digest_of_tissue, writing
from tissue_crosstalk.core.fingerprints import fingerprint_of
from tissue_crosstalk.core.model import CrosstalkModel, Preprocessing, TissueKeys
from tissue_crosstalk.core.neighbors import (
    Neighbors,
    check_any_neighbor,
    find_neighbors,
    neighbors_by_section,
    typical_distance,
)
from tissue_crosstalk.core.repeated_warnings import collected, tell
from tissue_crosstalk.core.tissue import PreparedTissue, TissueCells, prepare_cells, prepare_tissue
from tissue_crosstalk.core.tissue_file import RowReader, source_of, store_of

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)
_PACKAGE_LOGGER = logging.getLogger("tissue_crosstalk")

RADIUS = "radius"
FINGERPRINT: Final = "fingerprint"
TISSUE_SHA256: Final = "tissue_sha256"
"""Hash of the tissue's file, by which results can tell which tissue they are of."""
WARNED: Final = "warned"
"""What was warned of when it was prepared, a JSON list."""
MODEL_INPUT_FORMAT: Final = "model input 1"
MODEL_INPUT_FILE: Final = "model_input.h5ad"
LEAST_BUCKET: Final = 8_192
"""Cells of which the expression is sorted at once, at least: smaller buckets are too many files."""
OTHER_UNIT: Final = 4.0
"""How many times farther or nearer than a model's own a tissue's neighbors are, where its unit seems to be another.

A pixel of Xenium is a fifth of a micrometre, that of others less; cells of another tissue are seldom twice as far.
"""
UNSCALED: Final = 1.0
"""The scale of distances of a model that does not know those of its own tissue."""
SAMPLED_CELLS: Final = 10_000
SAMPLES: Final = 10
ANNDATA_PARTS: Final = ("obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns")


def prepare_for_training(
    adata: AnnData, keys: TissueKeys, *, log_normalised: bool, n_neighbors: int, pad_neighbors: bool = False
) -> AnnData:
    """Prepare a tissue to train a model on: all genes and cell types, counts scaled to the median total.

    Parameters
    ----------
    adata
        The tissue.
    keys
        Where it holds what.
    log_normalised, n_neighbors, pad_neighbors
        See :func:`~tissue_crosstalk.core.tissue.prepare_tissue` and
        :func:`~tissue_crosstalk.core.neighbors.find_neighbors`, also for the errors.

    Returns
    -------
    AnnData
        The model input, as the module says.
    """
    tissue = prepare_tissue(adata, keys, log_normalised=log_normalised)
    return to_anndata(tissue, find_and_judge_neighbors(tissue, n_neighbors, pad=pad_neighbors))


def prepare_for_model(
    adata: AnnData,
    model: CrosstalkModel,
    keys: TissueKeys | None = None,
    *,
    log_normalised: bool = False,
    n_neighbors: int | None = None,
    pad_neighbors: bool = False,
) -> tuple[PreparedTissue, Neighbors]:
    """Prepare a tissue the way a model's own was: its genes and cell types by name, its normalisation, its neighbors.

    Parameters
    ----------
    adata
        The tissue.
    model
        The model.
    keys
        Where the tissue holds what; None: the keys of the model.
    log_normalised
        The tissue is log-normalised already, whatever the model's own tissue was.
    n_neighbors
        Neighbors per cell; None: as many as the model was trained with.
    pad_neighbors
        See :func:`~tissue_crosstalk.core.neighbors.find_neighbors`, also for the errors.
    """
    tissue = prepare_tissue(adata, keys or model.keys, **_as_of(model, log_normalised=log_normalised))
    wanted = model.n_neighbors if n_neighbors is None else n_neighbors
    return tissue, find_and_judge_neighbors(tissue, wanted, pad=pad_neighbors, distance_scale=_scale_of(model))


def store_for_model(
    adata: AnnData,
    model: CrosstalkModel,
    workspace: Workspace,
    keys: TissueKeys | None = None,
    *,
    log_normalised: bool = False,
    n_neighbors: int | None = None,
    pad_neighbors: bool = False,
) -> Finished:
    """Do as :func:`prepare_for_model`, by rows and on disk (see :func:`store_model_input`)."""
    return store_model_input(
        adata,
        workspace,
        keys or model.keys,
        n_neighbors=model.n_neighbors if n_neighbors is None else n_neighbors,
        pad_neighbors=pad_neighbors,
        distance_scale=_scale_of(model),
        **_as_of(model, log_normalised=log_normalised),
    )


def find_and_judge_neighbors(
    tissue: TissueCells, n_neighbors: int, *, pad: bool = False, distance_scale: float | None = None
) -> Neighbors:
    """Find the neighbors of a tissue, and warn of distances that hardly can be.

    Parameters
    ----------
    tissue, n_neighbors, pad
        See :func:`~tissue_crosstalk.core.neighbors.find_neighbors`, also for the errors.
    distance_scale
        Median distance to the nearest neighbor that a model was trained with; None: unknown.

    Raises
    ------
    NeighborError
        Also where no cell has any neighbor, whatever `pad` says.
    """
    check_any_neighbor(tissue)
    found = find_neighbors(tissue, n_neighbors, pad=pad)
    _warn_of_distances(found.dist, tissue.keys, distance_scale)
    return found


def _scale_of(model: CrosstalkModel) -> float | None:
    """Return the median distance to the nearest neighbor in the tissue of a model, where it knows."""
    scale = float(model.network.settings.distance_kernel_unit_scale)
    return scale if model.origin == "tissue-crosstalk" and scale != UNSCALED else None


def _warn_of_distances(dist: npt.NDArray[np.float32], keys: TissueKeys, distance_scale: float | None) -> None:
    """Warn where distances, (cell, neighbor), seem to be in another unit than the radii, or than those of a model."""
    farthest = np.where(np.isfinite(dist), dist, -1.0).max(axis=1, initial=-1.0)
    touching = int((farthest == 0).sum())
    if keys.radius_key is not None and 2 * touching > (farthest >= 0).sum():
        warnings.warn(
            f"radii of column {keys.radius_key!r} of obs (radius_key) are so large that most cells overlap all their "
            f"neighbors (distance 0). Are they in the unit of obsm[{keys.coord_key!r}]?",
            stacklevel=3,
        )
    typical = typical_distance(dist)
    if distance_scale is None or typical is None:
        return
    if not 1 / OTHER_UNIT <= typical / distance_scale <= OTHER_UNIT:
        warnings.warn(
            f"the nearest neighbor of a cell is {typical:.3g} away (median), but the model was trained for "
            f"{distance_scale:.3g}. If obsm[{keys.coord_key!r}] (coord_key) is in another unit than that of the "
            "model's tissue, convert it; attention falls with the distance.",
            stacklevel=3,
        )


def _as_of(model: CrosstalkModel, *, log_normalised: bool) -> dict[str, Any]:
    """Return how a tissue is prepared the way a model's own was, unless it is log-normalised already."""
    return {
        "log_normalised": log_normalised or model.preprocessing.log_normalised,
        "target_sum": model.preprocessing.target_sum,
        "genes": model.genes,
        "cell_types": model.cell_types,
    }


def to_anndata(tissue: PreparedTissue, neighbors: Neighbors) -> AnnData:
    """Return the model input as an AnnData, to be stored (see :func:`from_anndata`)."""
    from anndata import AnnData

    parts = _parts(tissue)
    parts["obsm"] |= {terms.OBSM_NN_IDX: neighbors.idx, terms.OBSM_NN_DIST: neighbors.dist}
    return AnnData(X=tissue.expression, **parts)


def _parts(cells: TissueCells) -> dict[str, Any]:
    """Return all of a model input but its expression and neighbors, by the name of an AnnData's part."""
    obs = pd.DataFrame(
        {
            terms.LABEL: pd.Categorical.from_codes(
                cast("Sequence[int]", cells.labels), categories=pd.Index(cells.cell_types)
            ),
            terms.POSITION: cells.positions,
        },
        index=pd.Index(cells.cell_names, dtype=object),
    )
    if cells.section_names:
        obs[terms.SECTION] = pd.Categorical.from_codes(
            cast("Sequence[int]", cells.sections), categories=pd.Index(cells.section_names)
        )
    if cells.radii is not None:
        obs[RADIUS] = cells.radii
    record = {**asdict(cells.keys), **asdict(cells.preprocessing)}
    return {
        "obs": obs,
        "var": pd.DataFrame(index=pd.Index(cells.genes, dtype=object)),
        "obsm": {terms.SPATIAL: cells.coordinates},
        "uns": {terms.MODEL_INPUT_KEY: {name: value for name, value in record.items() if value is not None}},
    }


class ModelInput:
    """A model input, of which what is large is read by rows when it is on disk.

    Parameters
    ----------
    adata
        What :func:`to_anndata` returned or :func:`store_model_input` stored, in memory or opened by
        :func:`~tissue_crosstalk.core.tissue_file.open_tissue`.

    Attributes
    ----------
    cells
        Its cells, in spatial order.
    n_neighbors
        Neighbors per cell.
    tissue_sha256
        Hash of the file of the tissue; None where that was in memory.

    Raises
    ------
    TissueError
        If `adata` is something else.
    """

    def __init__(self, adata: AnnData) -> None:
        if terms.MODEL_INPUT_KEY not in adata.uns:
            raise TissueError(
                f"expected a model input that this project prepared (with uns[{terms.MODEL_INPUT_KEY!r}]). Got another "
                "AnnData; run the pipeline from its start."
            )
        self.cells = _cells(adata)
        sha256 = adata.uns[terms.MODEL_INPUT_KEY].get(TISSUE_SHA256)
        self.tissue_sha256 = None if sha256 is None else str(sha256)
        self._expression = RowReader(adata.X)
        self._idx, self._dist = adata.obsm[terms.OBSM_NN_IDX], adata.obsm[terms.OBSM_NN_DIST]
        self.n_neighbors = int(self._idx.shape[1])

    def expression(self, rows: npt.NDArray[np.integer]) -> sparse.csr_matrix:
        """Return the expression of some cells, whose rows are ascending, CSR float32 (cell, gene)."""
        return self._expression[rows]

    def neighbors(self, start: int, stop: int) -> Neighbors:
        """Return the neighbors of the cells from row `start` up to, but not with, row `stop`."""
        return Neighbors(
            np.asarray(self._idx[start:stop], dtype=np.int32), np.asarray(self._dist[start:stop], dtype=np.float32)
        )

    def in_memory(self) -> tuple[PreparedTissue, Neighbors]:
        """Read all of it."""
        rows = np.arange(self.cells.n_cells)
        return self.cells.with_expression(self.expression(rows)), self.neighbors(0, len(rows))


def read_by(adata: AnnData) -> dict[str, Any]:
    """Return the keys by which a model input was read from its tissue, and what else of that its cells do not say."""
    record = adata.uns[terms.MODEL_INPUT_KEY]
    return {
        **{field.name: record.get(field.name) for field in fields(TissueKeys)},
        "log_normalised": bool(record["log_normalised"]),
        "n_neighbors": int(adata.obsm[terms.OBSM_NN_IDX].shape[1]),
    }


def from_anndata(adata: AnnData) -> tuple[PreparedTissue, Neighbors]:
    """Return the prepared tissue and the neighbors that :func:`to_anndata` stored.

    Raises
    ------
    TissueError
        If `adata` is something else.
    """
    return ModelInput(adata).in_memory()


def _cells(adata: AnnData) -> TissueCells:
    record: dict[str, Any] = dict(adata.uns[terms.MODEL_INPUT_KEY])
    log_normalised, target_sum = bool(record.pop("log_normalised")), record.pop("target_sum", None)
    for name in (FINGERPRINT, TISSUE_SHA256, WARNED):
        record.pop(name, None)
    labels = adata.obs[terms.LABEL].cat
    sections = adata.obs[terms.SECTION].cat if terms.SECTION in adata.obs else None
    return TissueCells(
        genes=tuple(map(str, adata.var_names)),
        labels=labels.codes.to_numpy().astype(np.int16),
        cell_types=tuple(map(str, labels.categories)),
        coordinates=np.asarray(adata.obsm[terms.SPATIAL], dtype=np.float64),
        cell_names=np.asarray(adata.obs_names, dtype=object),
        positions=adata.obs[terms.POSITION].to_numpy(dtype=np.int64),
        sections=(
            np.zeros(adata.n_obs, dtype=np.int32) if sections is None else sections.codes.to_numpy().astype(np.int32)
        ),
        section_names=() if sections is None else tuple(map(str, sections.categories)),
        radii=adata.obs[RADIUS].to_numpy(dtype=np.float64) if RADIUS in adata.obs else None,
        keys=TissueKeys(**{name: str(value) for name, value in record.items()}),
        preprocessing=Preprocessing(log_normalised, None if target_sum is None else float(target_sum)),
    )


def store_model_input(
    adata: AnnData,
    workspace: Workspace,
    keys: TissueKeys,
    *,
    log_normalised: bool,
    n_neighbors: int,
    target_sum: float | None = None,
    genes: Sequence[str] | None = None,
    cell_types: Sequence[str] | None = None,
    pad_neighbors: bool = False,
    distance_scale: float | None = None,
) -> Finished:
    """Prepare a tissue and write the model input, h5ad, as it comes.

    Parameters
    ----------
    adata
        The tissue; opened by :func:`~tissue_crosstalk.core.tissue_file.open_tissue`, it is read by rows.
    workspace
        Folder of the model input. One that lies there and was prepared from the same tissue, in the same way, is
        taken as it is.
    keys, log_normalised, target_sum, genes, cell_types
        See :func:`~tissue_crosstalk.core.tissue.prepare_tissue`, also for the errors.
    n_neighbors, pad_neighbors, distance_scale
        See :func:`find_and_judge_neighbors`, also for the errors. Distances of some of the cells are judged.

    Raises
    ------
    ResultError
        If another run is at work in the folder.

    Notes
    -----
    In memory are names, places and types of all cells, the neighbors of one section or up to
    :data:`~tissue_crosstalk.core.neighbors.AHEAD_BYTES` of several, and
    :data:`~tissue_crosstalk.core.expression.ROWS_AT_ONCE` rows of expression; on disk, for a while, the expression once
    more.
    """
    described = {
        **asdict(keys),
        "log_normalised": log_normalised,
        "target_sum": target_sum,
        "genes": None if genes is None else list(genes),
        "cell_types": None if cell_types is None else list(cell_types),
        "n_neighbors": n_neighbors,
        "pad_neighbors": pad_neighbors,
        "cells": _digest_of_cells(adata, keys),
    }
    with workspace.alone():
        fingerprint = fingerprint_of(MODEL_INPUT_FORMAT, described, source_of(adata))
        place = workspace.place(MODEL_INPUT_FILE)
        if fingerprint is not None and _stored(place, FINGERPRINT) == fingerprint:
            tell(logger, _warned(place))
            logger.info("%s was prepared from this very tissue, and is used again.", place)
            _warn_of_distances(_some_distances(place), keys, distance_scale)
            return Finished(place)

        shuffled, unfinished = workspace.unfinished("shuffled_expression"), workspace.unfinished(MODEL_INPUT_FILE)
        for leftover in (shuffled, unfinished):  # or a link, which is not followed
            clear(leftover)
        with ExitStack() as stack:
            with collected(_PACKAGE_LOGGER) as warned:
                cells, expression = prepare_cells(adata, keys, genes=genes, cell_types=cell_types)
                check_any_neighbor(cells)
                # Checked at once, and searched while the expression is read, which needs one thread.
                neighbors = stack.enter_context(neighbors_by_section(cells, n_neighbors, pad=pad_neighbors))
                at_once = max(expression.rows_at_once, LEAST_BUCKET)
                shuffle = RowShuffle(shuffled, np.argsort(cells.positions), at_once)
                stack.callback(shuffle.close)
                summary = Summary()
                for start, rows in expression.blocks():
                    summary.add(expression, start, rows)
                    with writing(shuffled):
                        shuffle.add(start, rows)
                normalisation = summary.normalisation(
                    expression.where, log_normalised=log_normalised, target_sum=target_sum
                )
            cells = replace(cells, preprocessing=Preprocessing(log_normalised, normalisation.target_sum))
            store = store_of(adata)
            made = {
                FINGERPRINT: fingerprint,
                TISSUE_SHA256: None if store is None else digest_of_tissue(store),
                WARNED: json.dumps(warned),
            }
            with writing(place):
                _write(unfinished, cells, made, shuffle, normalisation, neighbors)
        _warn_of_distances(_some_distances(unfinished), keys, distance_scale)
        return Finished(unfinished)


def _warned(path: Path) -> list[str]:
    """Return what was warned of when a stored model input was prepared."""
    try:
        found = json.loads(_stored(path, WARNED) or "[]")
    except ValueError:  # damaged
        return []
    return [said for said in found if isinstance(said, str)] if isinstance(found, list) else []


def _some_distances(path: Path) -> npt.NDArray[np.float32]:
    """Return the distances of cells in several parts of a stored model input, (cell, neighbor)."""
    import h5py

    with h5py.File(path, "r") as file:
        stored = file["obsm"][terms.OBSM_NN_DIST]
        size = SAMPLED_CELLS // SAMPLES
        starts = np.unique(np.linspace(0, max(0, len(stored) - size), SAMPLES, dtype=np.int64))
        # Of few cells, the parts overlap: all cells, then.
        rows = [slice(None)] if len(stored) <= SAMPLED_CELLS else [slice(start, start + size) for start in starts]
        return np.concatenate([stored[part] for part in rows])


def _digest_of_cells(adata: AnnData, keys: TissueKeys) -> str | None:
    """Return the hash of what is held in memory of a tissue: it may have been changed since it was read."""
    columns = [key for key in (keys.labels_key, keys.section_key, keys.radius_key) if key in adata.obs.columns]
    if source_of(adata) is None or adata.obs.columns.duplicated().any() or keys.coord_key not in adata.obsm:
        return None  # nothing is used again, or the checks that follow say what is wrong
    whole = hashlib.sha256()
    for column in (adata.obs[name] for name in columns):
        plain = column.astype(str) if column.dtype == object else column  # values of several types cannot be hashed
        whole.update(pd.util.hash_pandas_object(plain, index=False).to_numpy().data)
    places: Any = adata.obsm[keys.coord_key]
    places = np.asarray(places.toarray() if hasattr(places, "toarray") else places)
    # Of values of several types, the bytes would say where in memory they are.
    whole.update(np.ascontiguousarray(places.astype(str) if places.dtype == object else places).tobytes())
    return whole.hexdigest()


def _write(
    path: Path,
    cells: TissueCells,
    made: Mapping[str, str | None],
    shuffle: RowShuffle,
    normalisation: Normalisation,
    neighbors: Iterator[tuple[npt.NDArray[np.intp], Neighbors]],
) -> None:
    """Write a model input as anndata would, but a part at a time, and uncompressed: shards read ranges of it."""
    import h5py
    from anndata.io import write_elem

    parts = _parts(cells)
    parts["uns"][terms.MODEL_INPUT_KEY] |= {name: value for name, value in made.items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name in ANNDATA_PARTS:
            write_elem(file, name, parts.get(name, {}))
        x = file.create_group("X")
        x.attrs.update(
            {
                "encoding-type": "csr_matrix",
                "encoding-version": "0.1.0",
                "shape": np.array([cells.n_cells, len(cells.genes)], dtype=np.int64),
            }
        )
        data = x.create_dataset("data", (shuffle.n_values,), np.float32)
        indices = x.create_dataset("indices", (shuffle.n_values,), np.int32)
        starts = np.zeros(cells.n_cells + 1, dtype=np.int64)
        n_rows = n_values = 0
        for was, rows in shuffle.blocks():
            normalised = normalisation.apply(rows, was)
            data[n_values : n_values + normalised.nnz] = normalised.data
            indices[n_values : n_values + normalised.nnz] = normalised.indices
            starts[n_rows + 1 : n_rows + 1 + len(was)] = n_values + normalised.indptr[1:]
            n_rows, n_values = n_rows + len(was), n_values + normalised.nnz
        is_short = n_values <= np.iinfo(np.int32).max
        x.create_dataset("indptr", data=starts.astype(np.int32) if is_short else starts)
        shape: tuple[int, int] | None = None
        for own, found in neighbors:
            if shape is None:
                shape = (cells.n_cells, found.idx.shape[1])
                for name, dtype in ((terms.OBSM_NN_IDX, np.int32), (terms.OBSM_NN_DIST, np.float32)):
                    array = file["obsm"].create_dataset(name, shape, dtype)
                    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            rows_of_section = slice(int(own[0]), int(own[-1]) + 1)  # sections follow each other
            file["obsm"][terms.OBSM_NN_IDX][rows_of_section] = found.idx
            file["obsm"][terms.OBSM_NN_DIST][rows_of_section] = found.dist


def _stored(path: Path, name: str) -> str | None:
    """Return an entry of the record of a stored model input; None where there is none that can be read."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return str(file["uns"][terms.MODEL_INPUT_KEY][name][()].decode())
    except (OSError, LookupError, AttributeError, TypeError, ValueError, RuntimeError):  # none, or damaged
        return None
