"""Nodes of the stage ``distances``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import DistancesParams, ReportingParams
from tissue_crosstalk.pipelines.metrics import Metric, metric_names, single

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


def measure_length_scales(
    model_input: AnnData, model: CrosstalkModel, params: DistancesParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure over what distance senders are heard, with intervals."""
    from tissue_crosstalk.core.stored_interpretation import measure_stored_distances

    return measure_stored_distances(model_input, model, params, max_senders=params.max_senders)


def compare_with_chance(model_input: AnnData, model: CrosstalkModel, params: DistancesParams) -> pd.DataFrame:
    """Compare the attention of every pair of types with that to shuffled senders."""
    from tissue_crosstalk.core.interpretation_settings import NullSettings
    from tissue_crosstalk.core.stored_interpretation import compare_stored_attention

    settings = NullSettings(params.n_permutations, params.max_receivers, params.random_state)
    return compare_stored_attention(model_input, model, settings)


def measure_distances(length_scale_summary: pd.DataFrame, attention_enrichment: pd.DataFrame) -> dict[str, Metric]:
    """Return the largest supported length scale of each pair, and how many pairs and heads exceed chance."""
    supported = length_scale_summary[length_scale_summary["supported"] & (length_scale_summary["median"] > 0)]
    largest = supported.groupby(["sender", "receiver"], observed=True)["median"].max()
    names = metric_names(f"{sender} to {receiver}" for sender, receiver in largest.index)
    exceeds = attention_enrichment[attention_enrichment["q_value"] < 0.05]
    return single(
        {f"length scale.{name}": value for name, value in zip(names.values(), largest, strict=True)}
        | {
            f"pairs and heads above chance.{shuffled} shuffled": int((exceeds["shuffled"] == shuffled).sum())
            for shuffled in ("expression", "places")
        }
    )


def draw_length_scales(
    length_scales: pd.DataFrame, length_scale_summary: pd.DataFrame, colors: dict[str, str], reporting: ReportingParams
) -> dict[str, Callable[[], Figure]]:
    """Draw over what distance each receiver type attends to its senders."""
    from tissue_crosstalk.core.interpretation_figures import plan_length_scales

    return plan_length_scales(length_scales, length_scale_summary, colors, distance_unit=reporting.distance_unit)


def draw_enrichment(attention_enrichment: pd.DataFrame, colors: dict[str, str]) -> Figure:
    """Draw which pairs of types are attended to more than where senders are shuffled."""
    from tissue_crosstalk.core.plots.attention_enrichment import plot_attention_enrichment

    return plot_attention_enrichment(attention_enrichment, colors)


def draw_flow(
    attention_patterns: pads.Dataset,
    nn_idxs: pads.Dataset,
    cells: pads.Dataset,
    colors: dict[str, str],
    reporting: ReportingParams,
) -> Figure:
    """Draw from where information flows to receivers in the tissue."""
    from tissue_crosstalk.core.stored_interpretation import draw_stored_flow

    return draw_stored_flow(attention_patterns, nn_idxs, cells, colors, reporting.distance_unit)
