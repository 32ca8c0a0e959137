"""Nodes of the stage ``extraction``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import ClusterParams, ExtractionParams, TissueParams
from tissue_crosstalk.pipelines.metrics import Metric, single

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from anndata import AnnData

    from tissue_crosstalk.core.files import Finished, Workspace
    from tissue_crosstalk.core.model import CrosstalkModel
else:
    AnnData = CrosstalkModel = Finished = Workspace = Any
    pads = type("pads", (), {"Dataset": Any})


def prepare_model_input(
    tissue: AnnData, model: CrosstalkModel, reading: TissueParams, workspace: Workspace
) -> Finished:
    """Prepare the tissue as the existing model's own was: genes and types by name, neighbors of every cell."""
    from tissue_crosstalk.core.model_input import store_for_model
    from tissue_crosstalk.core.spatialdata_store import default_section_key

    return store_for_model(
        tissue,
        model,
        workspace,
        reading.keys(model.keys, section_key=default_section_key(tissue)),
        log_normalised=reading.log_normalised,
        n_neighbors=reading.n_neighbors,
        pad_neighbors=reading.pad_neighbors,
    )


def extract(
    model_input: AnnData, model: CrosstalkModel, workspace: Workspace, params: ExtractionParams, cluster: ClusterParams
) -> tuple[Finished, ...]:
    """Compute attention patterns, neighbors and sender norms, a shard of cells at a time, here or on a cluster."""
    from tissue_crosstalk.core.cluster import shard_runner
    from tissue_crosstalk.core.extraction import extract_tables

    with shard_runner(cluster) as run:
        return extract_tables(
            model_input,
            model,
            workspace,
            cells_per_shard=params.cells_per_shard,
            device=params.device,
            allow_tf32=params.allow_tf32,
            run=run,
        )


def measure_attention(attention_patterns: pads.Dataset, cells: pads.Dataset) -> dict[str, Metric]:
    """Count cells, heads, neighbors and cell types."""
    from tissue_crosstalk.core.stored import attention_sizes

    return single(attention_sizes(attention_patterns, cells))
