"""Nodes of the stage ``hubs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import FlavoringParams, HubsParams, check_hub_flavor
from tissue_crosstalk.pipelines.metrics import Metric, history, metric_names, single

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.dataset as pads
else:
    pads = type("pads", (), {"Dataset": Any})
    pd = type("pd", (), {"DataFrame": Any})


def find(
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    cells: pads.Dataset,
    params: HubsParams,
    flavoring: FlavoringParams,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Group cells by the types of the neighbors they attend to strongly."""
    from tissue_crosstalk.core.stored import find_stored_hubs

    check_hub_flavor(flavoring, params)
    return find_stored_hubs(flavored_attention, nn_idxs, cells, params.flavor, params)


def measure_hubs(hub_selection: dict[str, Any]) -> dict[str, Metric]:
    """Return chosen number of hubs, thresholds, and silhouette with the number of hubs as its step."""
    names = metric_names(hub_selection["thresholds"])
    thresholds = {f"threshold.{names[label]}": value for label, value in hub_selection["thresholds"].items()}
    metrics = single({"hubs": hub_selection["n_clusters"], **thresholds})
    silhouette = history((int(k), value) for k, value in hub_selection["silhouette"].items())
    return metrics | ({"silhouette by number of hubs": silhouette} if silhouette else {})
