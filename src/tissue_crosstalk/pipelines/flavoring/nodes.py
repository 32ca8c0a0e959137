"""Nodes of the stage ``flavoring``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import ClusterParams, FlavoringParams

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pyarrow.dataset as pads

    from tissue_crosstalk.core.files import Finished, Workspace
else:
    Finished = Workspace = Any
    pads = type("pads", (), {"Dataset": Any})


def flavor(
    attention_patterns: pads.Dataset,
    nn_idxs: pads.Dataset,
    sender_norms: pads.Dataset,
    cells: pads.Dataset,
    workspace: Workspace,
    params: FlavoringParams,
    cluster: ClusterParams,
) -> Finished:
    """Re-weight the attention patterns in every flavor asked for, without running the model, here or on a cluster."""
    from tissue_crosstalk.core.cluster import shard_runner
    from tissue_crosstalk.core.flavoring import flavor_attention

    with shard_runner(cluster) as run:
        return flavor_attention(attention_patterns, nn_idxs, sender_norms, cells, workspace, params.flavors, run=run)
