"""Nodes of the stage ``simulation``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import SimulationParams

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    from anndata import AnnData
else:
    AnnData = Any


def simulate(params: SimulationParams, seed: int) -> tuple[AnnData, dict[str, Any]]:
    """Simulate a tissue with planted interactions, and keep the truth beside it."""
    from tissue_crosstalk.core.simulation import simulate_tissue, truth_record

    tissue, interactions = simulate_tissue(params, seed=seed)
    return tissue, truth_record(interactions)
