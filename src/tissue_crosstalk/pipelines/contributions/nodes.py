"""Nodes of the stage ``contributions``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import ContributionsParams
from tissue_crosstalk.pipelines.metrics import Metric, metric_names, single

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

    from tissue_crosstalk.core.model import CrosstalkModel
else:
    AnnData = CrosstalkModel = Figure = Any
    pd = type("pd", (), {"DataFrame": Any})


def summarize(model_input: AnnData, model: CrosstalkModel) -> pd.DataFrame:
    """Sum up what the cells of each type say to each gene through each head."""
    from tissue_crosstalk.core.stored_interpretation import summarize_stored_contributions

    return summarize_stored_contributions(model_input, model)


def measure_contributions(contributions: pd.DataFrame) -> dict[str, Metric]:
    """Return the largest mean contribution of each sender type to any gene."""
    largest = contributions["mean"].abs().groupby(contributions["sender"], observed=True).max()
    names = metric_names(map(str, largest.index))
    return single({f"largest contribution.{name}": n for name, n in zip(names.values(), largest, strict=True)})


def draw_contributions(
    contributions: pd.DataFrame, colors: dict[str, str], params: ContributionsParams
) -> dict[str, Callable[[], Figure]]:
    """Draw what senders contribute to genes through each head."""
    from tissue_crosstalk.core.interpretation_figures import plan_contributions

    return plan_contributions(contributions, colors, most_genes=params.most_genes)
