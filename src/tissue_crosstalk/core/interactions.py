"""Who changes whom: pairs of types by the number of genes that the sender changes in the receiver."""

from __future__ import annotations

import logging
from typing import Any, Final

import numpy as np
import pandas as pd

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.ablation import ALL_HEADS

PUBLISHED_MAX_Q: Final = 0.05
"""Of the published interaction weight."""

NAMED_GENES: Final = 10
"""Genes that are named for a pair, at most."""

MANY_PAIRS: Final = 6
"""Of so many tested pairs, more than half with changed genes are more than senders make: regions differ."""

_PAIR: Final = [terms.RECEIVER, terms.SENDER]

logger = logging.getLogger(__name__)


def weigh_interactions(effects: pd.DataFrame, ablation: pd.DataFrame, *, max_q: float = 0.05) -> pd.DataFrame:
    """Count the genes that each sender type changes in each receiver type.

    Parameters
    ----------
    effects
        Table of :func:`~tissue_crosstalk.core.effects.measure_effects`.
    ablation
        Table of :meth:`~tissue_crosstalk.core.ablation.Ablation.table`.
    max_q
        Largest q-value of a gene that counts.

    Returns
    -------
    pandas.DataFrame
        One row per pair in either table, by receiver and sender: ``receiver``, ``sender``, ``n_receivers``,
        ``n_hearing``; ``n_genes`` (raised: q at most `max_q`, ``diff`` > 0), ``n_genes_lowered`` and ``smallest_q`` by
        the calibrated test; ``n_genes_published`` (adjusted p below 0.05 and ``diff`` > 0, all heads together: the
        interaction weight of Hong et al., 2025); ``top_genes``, those that count, the smallest p first. A pair that was
        not tested has counts of 0 and NaN as ``smallest_q``.

    Notes
    -----
    Warns where :func:`regions_differ`.
    """
    changed = effects["q_value"] <= max_q
    tested = pd.DataFrame(
        {
            "n_receivers": _by_pair(effects, "n_receivers").first(),
            "n_hearing": _by_pair(effects, "n_hearing").first(),
            "n_genes": _count(effects, changed & (effects["diff"] > 0)),
            "n_genes_lowered": _count(effects, changed & (effects["diff"] < 0)),
            "smallest_q": _by_pair(effects, "q_value").min(),
            "top_genes": _top_genes(effects[changed]),
        }
    )
    whole = ablation[ablation[terms.HEAD_IDX] == ALL_HEADS]
    published = _count(whole, (whole["q_value"] < PUBLISHED_MAX_Q) & (whole["diff"] > 0))
    table = tested.join(published.rename("n_genes_published"), how="outer").reset_index()
    counts = ["n_receivers", "n_hearing", "n_genes", "n_genes_lowered", "n_genes_published"]
    table[counts] = table[counts].fillna(0).astype(np.int64)
    table["top_genes"] = table["top_genes"].fillna("")
    types = effects[terms.RECEIVER].cat.categories
    for column in _PAIR:
        table[column] = pd.Categorical(table[column].astype(object), categories=types)
    columns = [*_PAIR, *counts[:4], "n_genes_published", "smallest_q", "top_genes"]
    table = table[columns].sort_values(_PAIR, kind="stable", ignore_index=True)
    n_found, n_tested = count_pairs(table)
    if regions_differ(table, effects):
        logger.warning(
            "%d of %d tested pairs of types have changed genes, more than senders make: expression probably varies "
            "over the tissue for other reasons. Compare with permutations within small blocks "
            "(ablation.permute_within=block, ablation.blocks_per_fold=20 or more), and keep what stays",
            n_found, n_tested,
        )  # fmt: skip
    return table


def with_changed_genes(interactions: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs with genes that are raised or lowered by the calibrated test.

    Parameters
    ----------
    interactions
        Table of :func:`weigh_interactions`.
    """
    return interactions[interactions["n_genes"] + interactions["n_genes_lowered"] > 0]


def count_pairs(interactions: pd.DataFrame) -> tuple[int, int]:
    """Return how many pairs have changed genes by the calibrated test, and how many were tested.

    Parameters
    ----------
    interactions
        Table of :func:`weigh_interactions`.
    """
    return len(with_changed_genes(interactions)), int(interactions["smallest_q"].notna().sum())


def regions_differ(interactions: pd.DataFrame, effects: pd.DataFrame) -> bool:
    """Tell whether so many pairs have changed genes that these show regions of the tissue rather than senders.

    Receivers of one type are taken as alike within a section but for their neighbors. Where their expression follows
    regions, every type that keeps to one of these seems to change them. Of cells that the model was trained on, it
    shows nothing: p-values are too small there.

    Parameters
    ----------
    interactions
        Table of :func:`weigh_interactions`.
    effects
        Table of which that was made.
    """
    n_found, n_tested = count_pairs(interactions)
    return bool(effects["held_out"].all()) and n_tested >= MANY_PAIRS and 2 * n_found > n_tested


def _by_pair(table: pd.DataFrame, column: str) -> Any:
    return table.groupby([table[name].astype(object) for name in _PAIR])[column]


def _count(table: pd.DataFrame, which: Any) -> Any:
    return which.groupby([table[name].astype(object) for name in _PAIR]).sum()


def _top_genes(changed: pd.DataFrame) -> Any:
    first = changed.sort_values(["p_value", "z_score"], ascending=[True, False], kind="stable")
    return _by_pair(first.assign(gene=first[terms.GENE].astype(str)), "gene").agg(
        lambda genes: ", ".join(genes[:NAMED_GENES])
    )
