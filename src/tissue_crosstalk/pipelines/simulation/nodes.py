"""Nodes of the stage ``simulation``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import SimulationParams
from tissue_crosstalk.pipelines.metrics import Metric, metric_name, single

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from anndata import AnnData
else:
    AnnData = Any
    pads = type("pads", (), {"Dataset": Any})


def simulate(params: SimulationParams, seed: int) -> tuple[AnnData, dict[str, Any]]:
    """Simulate a tissue with planted interactions, and keep the truth beside it."""
    from tissue_crosstalk.core.simulation import simulate_tissue, truth_record

    tissue, interactions = simulate_tissue(params, seed=seed)
    return tissue, truth_record(interactions)


def evaluate_recovery(
    truth: dict[str, Any],
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    nn_dists: pads.Dataset,
    cells: pads.Dataset,
) -> dict[str, dict[str, float]]:
    """Measure how well attention ranks the planted edges, per flavor."""
    from tissue_crosstalk.core.recovery import stored_recovery
    from tissue_crosstalk.core.simulation import interactions_from_record

    measured = stored_recovery(interactions_from_record(truth), flavored_attention, nn_idxs, nn_dists, cells)
    return {flavor: asdict(recovery) for flavor, recovery in measured.items()}


def measure_recovery(recovery: dict[str, dict[str, float]]) -> dict[str, Metric]:
    """Return the recovery of planted edges as metrics."""
    return single(
        {
            metric_name(flavor, name.replace("_", " ")): value
            for flavor, measured in recovery.items()
            for name, value in measured.items()
        }
    )
