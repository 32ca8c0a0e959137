"""From a model input and a model to the tables of attention, a shard at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tissue_crosstalk.core import tables, terms
from tissue_crosstalk.core.attention import extract_attention, shards
from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.model_input import from_anndata

if TYPE_CHECKING:
    from anndata import AnnData

    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.tissue import PreparedTissue

TABLES = (terms.ATTENTION_PATTERNS, terms.NN_IDXS, terms.NN_DISTS, terms.SENDER_NORMS, terms.CELLS)


def model_input_of(model_input: AnnData, model: CrosstalkModel) -> tuple[PreparedTissue, Neighbors]:
    """Return the tissue and the neighbors of a model input.

    Raises
    ------
    ResultError
        If it was prepared for another model.
    """
    tissue, neighbors = from_anndata(model_input)
    if tissue.genes != model.genes or tissue.cell_types != model.cell_types:
        raise ResultError(
            f"the model input was prepared for another model: it has {len(tissue.genes)} genes and "
            f"{len(tissue.cell_types)} cell types, the model {len(model.genes)} and {len(model.cell_types)}, or their "
            "names differ. Run the pipeline 'attention', which prepares the tissue for the model."
        )
    return tissue, neighbors


def extract_tables(
    model_input: AnnData, model: CrosstalkModel, *, cells_per_shard: int, progress: bool = True
) -> Iterator[tuple[tables.Shard, ...]]:
    """Yield the tables of every shard of a tissue, in the order of :data:`TABLES`.

    Parameters
    ----------
    model_input
        A prepared tissue with its neighbors (see :mod:`~tissue_crosstalk.core.model_input`).
    model
        The model.
    cells_per_shard
        Cells per shard at most; memory is bounded by a shard.
    progress
        Whether to show a progress bar (only ever shown in a terminal).

    Raises
    ------
    ResultError
        If the model input was prepared for another model.
    """
    from tqdm import tqdm

    tissue, neighbors = model_input_of(model_input, model)
    count = len(shards(tissue.n_cells, cells_per_shard))
    computed = extract_attention(model.network, tissue, neighbors, cells_per_shard=cells_per_shard)
    bar = tqdm(computed, total=count, desc="extracting attention", unit="shard", disable=None if progress else True)
    for index, shard in enumerate(bar):
        by_name = tables.shard_tables(shard, tissue, neighbors)
        yield tuple(tables.Shard(index, count, by_name[name], tables.shard_file(index)) for name in TABLES)
