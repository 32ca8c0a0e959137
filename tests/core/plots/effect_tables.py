"""Made-up tables of interpretation, as real ones are: few strong genes and pairs, and many without an effect."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

GENES = ["Il2", "Cxcl12", "Vegfa", "Tgfb1", "Wnt5a", "Fgf8", "Shh", "Notch1", "Bmp4", "Pdgfb", "H2-Eb1", "mt-Nd4l"]


def gene_names(n_genes: int) -> list[str]:
    """Return names of genes, known ones first."""
    return (GENES + [f"Gene{number}" for number in range(n_genes)])[:n_genes]


def adjusted(p_value: np.ndarray) -> np.ndarray:
    """Return Benjamini and Hochberg's q."""
    order = np.argsort(p_value)
    scaled = p_value[order] * len(p_value) / np.arange(1, len(p_value) + 1)
    q_value = np.empty_like(p_value)
    q_value[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return np.minimum(q_value, 1.0)


def pairs_of(types: Sequence[str]) -> list[tuple[str, str]]:
    """Return all (receiver, sender)."""
    return [pair for pair in itertools.product(types, types) if pair[0] != pair[1]]


def categories(table: pd.DataFrame, types: Sequence[str]) -> pd.DataFrame:
    """Return a table with cell types, and genes, as categories."""
    for name in {"receiver", "sender"} & set(table.columns):
        table[name] = pd.Categorical(table[name], categories=list(types))
    if "gene" in table.columns:
        table["gene"] = table["gene"].astype("category")
    return table


def make_effects(types: Sequence[str], n_genes: int = 300, receivers: Sequence[str] | None = None) -> pd.DataFrame:
    """Return effects of all pairs of some receivers; a fifth of the senders change some genes."""
    generator = np.random.default_rng(1)
    parts = []
    for receiver, sender in pairs_of(types):
        if receivers is not None and receiver not in receivers:
            continue
        strength = np.abs(generator.normal(0, 0.004, n_genes))
        n_changed = int(generator.integers(3, 25)) if generator.random() < 0.25 or len(types) < 4 else 0
        changed = generator.choice(n_genes, min(n_changed, n_genes), replace=False)
        strength[changed] += generator.gamma(2.0, 0.06, len(changed))
        p_value = generator.random(n_genes)
        p_value[changed] = 10 ** -np.minimum(generator.gamma(3.0, 1.5, len(changed)), 5.0)
        diff = strength * np.where(generator.random(n_genes) < 0.7, 1, -1)
        half = 0.15 * strength + 0.003
        parts.append(
            pd.DataFrame(
                {
                    "receiver": receiver, "sender": sender, "gene": gene_names(n_genes), "n_receivers": 1200,
                    "n_hearing": 800, "diff": diff, "diff_low": diff - half, "diff_high": diff + half,
                    "slope": generator.normal(0.9, 0.2, n_genes), "p_value": p_value,
                }
            )
        )  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    return categories(table.assign(q_value=adjusted(table["p_value"].to_numpy()), held_out=True), types)


def make_interactions(types: Sequence[str]) -> pd.DataFrame:
    """Return weights of all pairs; a sixth of them have genes."""
    generator = np.random.default_rng(2)
    pairs = pairs_of(types)
    table = pd.DataFrame(pairs, columns=["receiver", "sender"])
    cells = dict(zip(types, generator.integers(40, 9000, len(types)).tolist(), strict=True))
    some = generator.random(len(pairs)) < (0.5 if len(types) < 5 else 0.16)
    raised = np.where(some, generator.geometric(0.06, len(pairs)), 0)
    table["n_receivers"] = [cells[receiver] for receiver, _ in pairs]
    table["n_hearing"] = (table["n_receivers"] * generator.random(len(pairs))).astype(int)
    table["n_genes_published"] = raised + generator.integers(20, 120, len(pairs))
    table["n_genes"] = raised
    table["n_genes_lowered"] = np.where(some, generator.geometric(0.15, len(pairs)), 0)
    return categories(table.assign(smallest_q=np.where(some, 0.002, 0.6), top_genes=""), types)


def make_enrichment(types: Sequence[str], n_heads: int = 4) -> pd.DataFrame:
    """Return the enrichment of attention of all pairs, heads and ways of shuffling."""
    generator = np.random.default_rng(3)
    rows = [
        (receiver, sender, head, shuffled)
        for receiver, sender in pairs_of(types)
        for head in range(-1, n_heads)
        for shuffled in ("expression", "places")
    ]
    table = pd.DataFrame(rows, columns=["receiver", "sender", "head_idx", "shuffled"])
    strong = generator.random(len(rows)) < 0.1
    table["log2_enrichment"] = np.where(
        strong, generator.normal(0.6, 1.2, len(rows)), generator.normal(0, 0.1, len(rows))
    )
    table["q_value"] = np.where(
        strong, 10 ** -generator.uniform(1.5, 4, len(rows)), generator.uniform(0.2, 1, len(rows))
    )
    return categories(table, types)


def make_length_scales(
    types: Sequence[str], receiver: str, n_heads: int = 4, n_cells: int = 120
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return length scales of one receiver type, and their summary; a third are not supported."""
    generator = np.random.default_rng(4)
    rows, summary = [], []
    for sender in types:
        if sender == receiver:
            continue
        for head in range(n_heads):
            supported = generator.random() < 0.65
            middle = generator.uniform(2, 60)
            values = middle * generator.lognormal(0, 0.35, n_cells) if supported else np.zeros(n_cells)
            if generator.random() < 0.2:
                values[: n_cells // 2] = 0.0
            rows.append(pd.DataFrame({"receiver": receiver, "sender": sender, "head_idx": head,
                                      "position": range(n_cells), "base_score": 1.0, "coefficient": 0.5,
                                      "length_scale": values}))  # fmt: skip
            half = 1.3 * values.std() / np.sqrt(n_cells)
            summary.append(
                {
                    "receiver": receiver, "sender": sender, "head_idx": head, "n_senders": n_cells,
                    "mean": values.mean(),
                    "mean_low": values.mean() - half, "mean_high": values.mean() + half, "median": np.median(values),
                    "median_low": max(np.median(values) - half, 0), "median_high": np.median(values) + half,
                    "share_within": 0.3 if supported else 0.01, "supported": supported,
                }
            )  # fmt: skip
    return categories(pd.concat(rows, ignore_index=True), types), categories(pd.DataFrame(summary), types)


def make_explained(types: Sequence[str], n_heads: int = 4) -> pd.DataFrame:
    """Return explained variance of all types and heads."""
    generator = np.random.default_rng(5)
    rows = []
    for receiver in types:
        explained = generator.gamma(1.2, 0.02, n_heads) - 0.008
        best = int(generator.integers(n_heads))
        for head in range(-1, n_heads):
            value = explained.max() * 1.4 if head < 0 else explained[head]
            rows.append(
                (receiver, head, int(generator.integers(30, 4000)), value, 0.001 if value > 0.01 else 0.3, head == best)
            )
    columns = ["receiver", "head_idx", "n_receivers", "explained", "p_value", "best"]
    return categories(pd.DataFrame(rows, columns=columns), types)


def make_contributions(types: Sequence[str], n_heads: int = 2, n_genes: int = 60) -> pd.DataFrame:
    """Return contributions of all senders through all heads."""
    generator = np.random.default_rng(6)
    parts = []
    for head in range(n_heads):
        common = generator.normal(0, 0.1, n_genes)
        for sender in types:
            own = np.where(generator.random(n_genes) < 0.06, generator.normal(0, 0.9, n_genes), 0)
            mean = common + own + generator.normal(0, 0.02, n_genes)
            parts.append(pd.DataFrame({"sender": sender, "head_idx": head, "gene": gene_names(n_genes), "mean": mean,
                                       "std": 0.1, "n_senders": 400}))  # fmt: skip
    return categories(pd.concat(parts, ignore_index=True), types)
