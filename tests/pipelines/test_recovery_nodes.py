"""Metrics of the stage recovery: which there are, under which names."""

from __future__ import annotations

import math

import pandas as pd

from tissue_crosstalk.pipelines.recovery.nodes import measure_recovery

MEASURES = ("average_precision", "roc_auc", "base_rate", "lift")


def table(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["what", "name", *MEASURES, "n"])
    return frame.astype({"what": "category", "name": "category"})


def test_every_measure_is_a_metric_under_its_ranking() -> None:
    metrics = measure_recovery(
        table(
            [("sender edges", "vanilla", 0.4, 0.8, 0.1, 4.0, 70), ("shifted genes", "A to B", 0.5, 0.9, 0.25, 2.0, 40)]
        )
    )
    assert metrics == {
        f"{ranking}.{measure}": {"value": value, "step": 0}
        for ranking, values in {
            "sender edges.vanilla": (0.4, 0.8, 0.1, 4.0),
            "shifted genes.A to B": (0.5, 0.9, 0.25, 2.0),
        }.items()
        for measure, value in zip(("average precision", "roc auc", "base rate", "lift"), values, strict=True)
    }


def test_what_is_undefined_is_no_metric() -> None:
    metrics = measure_recovery(table([("shifted genes", "A to B", math.nan, math.nan, 0.0, math.nan, 40)]))
    assert metrics == {"shifted genes.A to B.base rate": {"value": 0.0, "step": 0}}


def test_types_that_differ_in_refused_characters_stay_apart() -> None:
    rows = [("affected receivers of one type", name, 0.5, 0.5, 0.5, 1.0, 9) for name in ("T/NK", "T+NK")]
    metrics = measure_recovery(table(rows))
    names = {name.rsplit(".", 1)[0] for name in metrics}
    assert names == {"affected receivers of one type.T_NK", "affected receivers of one type.T_NK-2"}
    assert len(metrics) == 8
