"""Nodes of the stage ``variance``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import VarianceParams
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


def explain(model_input: AnnData, model: CrosstalkModel, params: VarianceParams) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure how much of the variance within each type each head explains."""
    from tissue_crosstalk.core.stored_interpretation import explain_stored_variance

    return explain_stored_variance(model_input, model, params)


def measure_variance(explained_variance: pd.DataFrame) -> dict[str, Metric]:
    """Return the share that all heads together explain of each type."""
    whole = explained_variance[explained_variance["head_idx"] == -1]
    names = metric_names(map(str, whole["receiver"]))
    return single({f"explained.{name}": value for name, value in zip(names.values(), whole["explained"], strict=True)})


def draw_variance(explained_variance: pd.DataFrame, colors: dict[str, str]) -> Figure:
    """Draw how much of the variance of each receiver type each head explains."""
    from tissue_crosstalk.core.plots.explained_variance import plot_explained_variance

    return plot_explained_variance(explained_variance, colors)
