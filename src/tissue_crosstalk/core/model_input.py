"""What model and tissue have in common: the prepared tissue with its neighbors, as one AnnData to be stored.

``X``: log-normalised expression, CSR float32; ``obs``: ``label``, ``position`` (row in the user's tissue), ``section``
and ``radius`` where there are any; ``obsm``: ``spatial``, ``nn_idx`` (rows of this object, −1 where padded) and
``nn_dist``; ``uns["tissue_crosstalk"]``: keys and preprocessing. Its cells are in spatial order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from scipy import sparse

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import TissueError
from tissue_crosstalk.core.model import CrosstalkModel, Preprocessing, TissueKeys
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.tissue import PreparedTissue, prepare_tissue

if TYPE_CHECKING:
    from anndata import AnnData

RADIUS = "radius"


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
    return to_anndata(tissue, find_neighbors(tissue, n_neighbors, pad=pad_neighbors))


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
    as_it_is = log_normalised or model.preprocessing.log_normalised
    tissue = prepare_tissue(
        adata,
        keys or model.keys,
        log_normalised=as_it_is,
        target_sum=model.preprocessing.target_sum,
        genes=model.genes,
        cell_types=model.cell_types,
    )
    return tissue, find_neighbors(tissue, model.n_neighbors if n_neighbors is None else n_neighbors, pad=pad_neighbors)


def to_anndata(tissue: PreparedTissue, neighbors: Neighbors) -> AnnData:
    """Return the model input as an AnnData, to be stored (see :func:`from_anndata`)."""
    from anndata import AnnData

    obs = pd.DataFrame(
        {
            terms.LABEL: pd.Categorical.from_codes(
                cast("Sequence[int]", tissue.labels), categories=pd.Index(tissue.cell_types)
            ),
            terms.POSITION: tissue.positions,
        },
        index=pd.Index(tissue.cell_names, dtype=object),
    )
    if tissue.section_names:
        obs[terms.SECTION] = pd.Categorical.from_codes(
            cast("Sequence[int]", tissue.sections), categories=pd.Index(tissue.section_names)
        )
    if tissue.radii is not None:
        obs[RADIUS] = tissue.radii
    record = {**asdict(tissue.keys), **asdict(tissue.preprocessing)}
    return AnnData(
        X=tissue.expression,
        obs=obs,
        var=pd.DataFrame(index=pd.Index(tissue.genes, dtype=object)),
        obsm={
            terms.SPATIAL: tissue.coordinates,
            terms.OBSM_NN_IDX: neighbors.idx,
            terms.OBSM_NN_DIST: neighbors.dist,
        },
        uns={terms.MODEL_INPUT_KEY: {name: value for name, value in record.items() if value is not None}},
    )


def from_anndata(adata: AnnData) -> tuple[PreparedTissue, Neighbors]:
    """Return the prepared tissue and the neighbors that :func:`to_anndata` stored.

    Raises
    ------
    TissueError
        If `adata` is something else.
    """
    if terms.MODEL_INPUT_KEY not in adata.uns:
        raise TissueError(
            f"expected a model input that this project prepared (with uns[{terms.MODEL_INPUT_KEY!r}]). Got another "
            "AnnData; run the pipeline from its start."
        )
    record: dict[str, Any] = dict(adata.uns[terms.MODEL_INPUT_KEY])
    log_normalised, target_sum = bool(record.pop("log_normalised")), record.pop("target_sum", None)
    labels = adata.obs[terms.LABEL].cat
    sections = adata.obs[terms.SECTION].cat if terms.SECTION in adata.obs else None
    tissue = PreparedTissue(
        expression=sparse.csr_matrix(adata.X, dtype=np.float32),
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
    neighbors = Neighbors(
        np.asarray(adata.obsm[terms.OBSM_NN_IDX], dtype=np.int32),
        np.asarray(adata.obsm[terms.OBSM_NN_DIST], dtype=np.float32),
    )
    return tissue, neighbors
