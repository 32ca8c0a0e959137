"""Numbers as MLflow takes them: ``{name: {"value": …, "step": …}}``, or a list of these."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping

LONGEST_LABEL = 100
"""Characters of a label in a name: MLflow takes names of 250, and ours have up to two parts that the user has named."""

Metric = dict[str, float] | list[dict[str, float]]


def metric_name(*parts: str) -> str:
    """Join parts with dots; characters that MLflow refuses in names become ``_``."""
    return ".".join(re.sub(r"[^\w\- ]", "_", part) for part in parts)


def metric_names(labels: Iterable[str]) -> dict[str, str]:
    """Return a name for each label, no two alike.

    Of labels that differ in refused characters only, the later ones get a number; those that are too long are cut and
    get a digest.
    """
    plain = {label: _short(label) for label in labels}
    reserved, taken = set(plain.values()), set[str]()  # a number must not make the name of another label
    names: dict[str, str] = {}
    for label, wanted in plain.items():
        name, number = wanted, 1
        while name in taken or (number > 1 and name in reserved):
            number += 1
            name = f"{wanted}-{number}"
        taken.add(name)
        names[label] = name
    return names


def _short(label: str) -> str:
    name = metric_name(label) or "_"
    if len(name) <= LONGEST_LABEL:
        return name
    return f"{name[: LONGEST_LABEL - 9]}-{hashlib.sha256(label.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def single(values: Mapping[str, float]) -> dict[str, Metric]:
    """Return numbers as metrics of one step; those that are not finite are left out."""
    return {name: {"value": float(value), "step": 0} for name, value in values.items() if math.isfinite(value)}


def history(values: Iterable[tuple[int, float]]) -> list[dict[str, float]]:
    """Return (step, value) pairs as one metric."""
    return [{"value": float(value), "step": int(step)} for step, value in values if math.isfinite(value)]
