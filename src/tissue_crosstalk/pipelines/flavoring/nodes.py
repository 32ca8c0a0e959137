"""Nodes of the stage ``flavoring``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import FlavoringParams

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pyarrow.dataset as pads

    from tissue_crosstalk.core.tables import Shard
else:
    Shard = Any
    pads = type("pads", (), {"Dataset": Any})


def flavor(
    attention_patterns: pads.Dataset,
    nn_idxs: pads.Dataset,
    sender_norms: pads.Dataset,
    cells: pads.Dataset,
    params: FlavoringParams,
) -> Iterator[Shard]:
    """Re-weight the attention patterns in every flavor asked for, without running the model."""
    from tissue_crosstalk.core.flavoring import flavor_attention

    yield from flavor_attention(attention_patterns, nn_idxs, sender_norms, cells, params.flavors)
