"""Nodes of the stage ``recovery``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tissue_crosstalk.pipelines.metrics import Metric, metric_name, metric_names, single

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.dataset as pads
    from anndata import AnnData
    from matplotlib.figure import Figure

    from tissue_crosstalk.core.model import CrosstalkModel
else:
    AnnData = CrosstalkModel = Figure = Any
    pads = type("pads", (), {"Dataset": Any})
    pd = type("pd", (), {"DataFrame": Any})


def recover(
    truth: dict[str, Any],
    attention_patterns: pads.Dataset,
    flavored_attention: pads.Dataset,
    nn_idxs: pads.Dataset,
    nn_dists: pads.Dataset,
    cells: pads.Dataset,
    model_input: AnnData,
    model: CrosstalkModel,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rank edges, cells and genes, and measure how far up those come that were planted."""
    from tissue_crosstalk.core.recovery import stored_recovery
    from tissue_crosstalk.core.simulation import interactions_from_record

    return stored_recovery(
        interactions_from_record(truth),
        attention_patterns,
        flavored_attention,
        nn_idxs,
        nn_dists,
        cells,
        model_input,
        model,
    )


def measure_recovery(recovery: pd.DataFrame) -> dict[str, Metric]:
    """Return the measures of every ranking as metrics; those that are undefined are left out."""
    from tissue_crosstalk.core.recovery import MEASURES, NAME, WHAT

    metrics: dict[str, Metric] = {}
    for what, rows in recovery.groupby(WHAT, observed=True):
        names = metric_names(rows[NAME])
        for row in rows.to_dict("records"):
            name = f"{metric_name(str(what))}.{names[row[NAME]]}"
            metrics |= single(
                {f"{name}.{metric_name(measure.replace('_', ' '))}": row[measure] for measure in MEASURES}
            )
    return metrics


def draw_precision_recall(recovery: pd.DataFrame, curves: pd.DataFrame, colors: dict[str, str]) -> Figure:
    """Draw the precision-recall curves of edges, receivers and genes."""
    from tissue_crosstalk.core.plots.recovery import plot_precision_recall

    return plot_precision_recall(recovery, curves, colors)
