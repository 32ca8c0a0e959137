"""Numbers as MLflow takes them: ``{name: {"value": …, "step": …}}``, or a list of these."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

Metric = dict[str, float] | list[dict[str, float]]

LONGEST_PART = 100
"""MLflow takes names of up to 250 characters, and ours have up to two parts that the user has named."""


def metric_name(*parts: str) -> str:
    """Join parts with dots; characters that MLflow refuses in names become ``_``, and what is too long is cut."""
    return ".".join(re.sub(r"[^\w\- ]", "_", part)[:LONGEST_PART] for part in parts)


def metric_names(labels: Iterable[str]) -> dict[str, str]:
    """Return a name for each label; of labels that differ in what MLflow refuses only, the later ones get a number."""
    names: dict[str, str] = {}
    for label in labels:
        plain = metric_name(label)
        taken = sum(metric_name(other) == plain for other in names)
        names[label] = f"{plain}-{taken + 1}" if taken else plain
    return names


def single(values: Mapping[str, float]) -> dict[str, Metric]:
    """Return numbers as metrics of one step; those that are not finite are left out."""
    return {name: {"value": float(value), "step": 0} for name, value in values.items() if math.isfinite(value)}


def history(values: Iterable[tuple[int, float]]) -> list[dict[str, float]]:
    """Return (step, value) pairs as one metric."""
    return [{"value": float(value), "step": int(step)} for step, value in values if math.isfinite(value)]
