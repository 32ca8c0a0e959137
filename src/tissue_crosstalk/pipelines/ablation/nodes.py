"""Nodes of the stage ``ablation``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import AblationParams, TrainingParams
from tissue_crosstalk.pipelines.metrics import Metric, metric_names, single

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

    from tissue_crosstalk.core.files import Workspace
    from tissue_crosstalk.core.model import CrosstalkModel
else:
    AnnData = CrosstalkModel = Figure = Workspace = Any
    pd = type("pd", (), {"DataFrame": Any})


def ablate(model_input: AnnData, model: CrosstalkModel, params: AblationParams) -> pd.DataFrame:
    """Predict receivers without each type of sender, and tell what changes: the published measures."""
    from tissue_crosstalk.core.stored_interpretation import ablate_stored

    return ablate_stored(model_input, model, by_head=params.by_head)


def measure_effects(
    model_input: AnnData,
    model: CrosstalkModel,
    params: AblationParams,
    training: TrainingParams,
    seed: int,
    workspace: Workspace,
) -> pd.DataFrame:
    """Test which genes each sender type changes in each receiver type, by models that never saw the cells."""
    from tissue_crosstalk.core.stored_interpretation import measure_stored_effects

    return measure_stored_effects(model_input, model, params, training, workspace, seed=seed)


def weigh(effects: pd.DataFrame, ablation: pd.DataFrame, params: AblationParams) -> pd.DataFrame:
    """Count the genes that each sender type changes in each receiver type."""
    from tissue_crosstalk.core.interactions import weigh_interactions

    return weigh_interactions(effects, ablation, max_q=params.max_q)


def annotate(model_input: AnnData, interactions: pd.DataFrame, params: AblationParams) -> pd.DataFrame:
    """Put known pairs of ligand and receptor beside the interactions, where the user has a table of them."""
    from tissue_crosstalk.core.stored_interpretation import annotate_stored_pairs

    return annotate_stored_pairs(model_input, interactions, params.ligand_receptor)


def measure_interactions(interactions: pd.DataFrame) -> dict[str, Metric]:
    """Return how many pairs and genes were found, and the genes of each pair with some."""
    from tissue_crosstalk.core.interactions import with_changed_genes

    found = with_changed_genes(interactions)
    names = metric_names(f"{row['sender']} to {row['receiver']}" for row in found.to_dict("records"))
    return single(
        {
            "pairs with changed genes": len(found),
            "genes raised": found["n_genes"].sum(),
            "genes lowered": found["n_genes_lowered"].sum(),
        }
        | {f"genes raised.{name}": n for name, n in zip(names.values(), found["n_genes"], strict=True)}
    )


def draw_volcanoes(
    effects: pd.DataFrame, colors: dict[str, str], params: AblationParams
) -> dict[str, Callable[[], Figure]]:
    """Draw which genes the senders of each receiver type change."""
    from tissue_crosstalk.core.interpretation_figures import plan_volcanoes

    return plan_volcanoes(effects, colors, q_threshold=params.max_q)


def draw_gene_dots(
    effects: pd.DataFrame, colors: dict[str, str], params: AblationParams
) -> dict[str, Callable[[], Figure]]:
    """Draw the genes of each receiver type that senders change most."""
    from tissue_crosstalk.core.interpretation_figures import plan_gene_dots

    return plan_gene_dots(effects, colors, q_threshold=params.max_q)


def draw_interactions(interactions: pd.DataFrame, colors: dict[str, str]) -> tuple[Figure, Figure, Figure]:
    """Draw who changes how many genes of whom: as a matrix, a network and a chord diagram."""
    from tissue_crosstalk.core.interpretation_figures import draw_interactions as draw

    return draw(interactions, colors)
