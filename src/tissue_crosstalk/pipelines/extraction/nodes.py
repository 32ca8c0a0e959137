"""Nodes of the stage ``extraction``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import ExtractionParams, TissueParams
from tissue_crosstalk.pipelines.metrics import Metric, single

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from anndata import AnnData

    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.tables import Shard
else:
    AnnData = CrosstalkModel = Shard = Any
    pads = type("pads", (), {"Dataset": Any})


def prepare_model_input(tissue: AnnData, model: CrosstalkModel, reading: TissueParams) -> AnnData:
    """Prepare the tissue as the existing model's own was: genes and types by name, neighbors of every cell."""
    from tissue_crosstalk.core.model_input import prepare_for_model, to_anndata

    return to_anndata(
        *prepare_for_model(
            tissue,
            model,
            reading.keys(model.keys),
            log_normalised=reading.log_normalised,
            n_neighbors=reading.n_neighbors,
            pad_neighbors=reading.pad_neighbors,
        )
    )


def extract(model_input: AnnData, model: CrosstalkModel, params: ExtractionParams) -> Iterator[tuple[Shard, ...]]:
    """Compute attention patterns, neighbors and sender norms, a shard of cells at a time."""
    from tissue_crosstalk.core.extraction import extract_tables

    yield from extract_tables(model_input, model, cells_per_shard=params.cells_per_shard)


def measure_attention(attention_patterns: pads.Dataset, cells: pads.Dataset) -> dict[str, Metric]:
    """Count cells, heads, neighbors and cell types."""
    from tissue_crosstalk.core.stored import attention_sizes

    return single(attention_sizes(attention_patterns, cells))
