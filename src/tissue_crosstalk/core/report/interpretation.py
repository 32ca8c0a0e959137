"""Chapters of a study's report on the interpretation of its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import pandas as pd

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.interactions import count_pairs, regions_differ, with_changed_genes
from tissue_crosstalk.core.report.page import Block, Chapter, FigureBlock, Gallery, Table, Text

if TYPE_CHECKING:
    from tissue_crosstalk.core.report.study import StudyResults

MOST_GALLERY_BYTES: Final = 4 * 2**20
"""Of a gallery of these chapters; larger ones are left in their folders."""

GENES_PER_PAIR: Final = 10
PAIRS_OF_LIGANDS: Final = 5
_PAIR: Final = [terms.RECEIVER, terms.SENDER]


def interpretation_chapters(results: StudyResults) -> tuple[Chapter, ...]:
    """Return the chapters on changed genes, distances, variance and contributions, of which there are results."""
    chapters = {
        "Genes that senders change": _genes(results),
        "Distances, and attention against chance": _distances(results),
        "Explained variance": _variance(results),
        "Contributions": _contributions(results),
    }
    told = {title: tuple(blocks) for title, blocks in chapters.items()}
    return tuple(Chapter(title, blocks) for title, blocks in told.items() if blocks)


def _genes(results: StudyResults) -> Iterator[Block]:
    interactions, effects = results.interactions, results.effects
    if interactions is None or effects is None:
        return
    yield Text(_found_in_words(interactions, effects))
    for png, alt, caption in (
        (results.interaction_weights, "Matrix of senders by receivers", "Who changes how many genes of whom."),
        (results.gene_network, "Network of cell types, its arrows", "The same as a network."),
        (results.chord_diagram, "Chord diagram of cell types, its ribbons", "The same as a chord diagram."),
    ):
        if png is not None:
            yield FigureBlock(png, f"{alt}: numbers of changed genes.", caption)
    yield from _tables_of_genes(interactions, effects)
    if results.ligand_receptor is not None and len(results.ligand_receptor):
        yield Table(
            "Known pairs of ligand and receptor",
            results.ligand_receptor.groupby(_PAIR, observed=True, sort=False).head(PAIRS_OF_LIGANDS),
            f"Of each interaction the {PAIRS_OF_LIGANDS} that are expressed most, from your own table of pairs. That "
            "both are expressed does not show that they act.",
        )
    yield from _gallery(
        "Genes by receiver and sender", results.gene_dots, "gene_dots", "genes that senders change most"
    )
    yield from _gallery("Volcano plots by receiver", results.volcanoes, "volcanoes", "effects and their q values")


def _found_in_words(interactions: pd.DataFrame, effects: pd.DataFrame) -> tuple[str, str]:
    """Return how many pairs were found and how, and what that does not say."""
    n_found, n_tested = count_pairs(interactions)
    how = (
        "of models that were trained without these cells and their surroundings"
        if effects["held_out"].all()
        else "of the model that was trained on these cells, so that p-values are too small"
    )
    words = (
        f"Of {n_tested:,} pairs of types that could be tested, {n_found:,} {'has' if n_found == 1 else 'have'} genes "
        "that the sender changes in the receiver: cells in which the model predicts more change for their neighbors of "
        f"the sender type express the gene accordingly. The predictions are {how}. The expression is compared with "
        "itself permuted within section and receiver type, with one false discovery rate over all pairs and genes."
    )
    caution = (
        "This is association in space. Types that lie in the same regions as a true sender, or in regions that differ "
        "for another reason, can be found as well."
    )
    if regions_differ(interactions, effects):
        caution += (
            " Here more than half of the pairs are found, which senders alone hardly make: expression probably follows "
            "regions of the tissue. Compare with permutations within small blocks (ablation.permute_within=block, "
            "ablation.blocks_per_fold=20 or more)."
        )
    return words, caution


def _tables_of_genes(interactions: pd.DataFrame, effects: pd.DataFrame) -> Iterator[Table]:
    found = with_changed_genes(interactions)
    weights = found.sort_values(["n_genes", "smallest_q"], ascending=[False, True], kind="stable")
    yield Table(
        "Interactions",
        weights,
        "n_hearing: receivers with a neighbor of the sender type. n_genes: raised genes of the calibrated test. "
        "n_genes_published: by the published score, which is not "
        "calibrated. All pairs are in interactions.parquet.",
    )
    first = effects[effects["q_value"].notna()].sort_values(
        ["p_value", "z_score"], ascending=[True, False], kind="stable"
    )
    pairs = pd.MultiIndex.from_frame(found[_PAIR].astype(str))
    of_found = first[pd.MultiIndex.from_frame(first[_PAIR].astype(str)).isin(pairs)]
    columns = [*_PAIR, terms.GENE, "diff", "slope", "slope_low", "slope_high", "correlation", "p_value", "q_value"]
    yield Table(
        "Changed genes",
        of_found.groupby(_PAIR, observed=True, sort=False).head(GENES_PER_PAIR)[columns],
        f"Of each pair the {GENES_PER_PAIR} with the smallest p. diff: predicted change; slope: observed change per "
        "predicted change. All are in effects.parquet.",
    )


def _distances(results: StudyResults) -> Iterator[Block]:
    if results.length_scale_summary is None:
        return
    yield Text(
        (
            "A length scale is the distance at which a sender alone would get the attention tau. Where few receivers "
            "have a sender of the type that near, it is not supported. It is the model's: how far a head looks, "
            "whether or not the sender changes anything. Nor does attention above that to shuffled senders show that "
            "anything comes of it: heads tell types apart also where senders change nothing.",
        )
    )
    supported = results.length_scale_summary[results.length_scale_summary["supported"]]
    yield Table(
        "Supported length scales",
        supported[supported["median"] > 0].sort_values("median", ascending=False, kind="stable"),
        "Intervals: bootstrap over senders. All are in length_scale_summary.parquet.",
    )
    yield from _gallery(
        "Length scales by receiver", results.length_scale_distributions, "length_scale_distributions", "length scales"
    )
    if results.attention_enrichment_dots is not None:
        yield FigureBlock(
            results.attention_enrichment_dots,
            "Dots of pairs of types by heads: attention against that to shuffled senders.",
            "More than chance? Attention against that with the expression, or the places, of senders shuffled within "
            "the section.",
        )
    if results.attention_enrichment is not None:
        ordered = results.attention_enrichment.sort_values(
            ["q_value", "log2_enrichment"], ascending=[True, False], kind="stable"
        )
        yield Table("Attention against shuffled senders", ordered)
    if results.information_flow is not None:
        yield FigureBlock(
            results.information_flow,
            "Map of the tissue with arrows to receivers from where they attend to.",
            "From where information flows to receivers. At the rim of a section all neighbors lie further in, so that "
            "arrows point outward there.",
        )


def _variance(results: StudyResults) -> Iterator[Block]:
    if results.explained_variance is None or results.explained_variance_by_head is None:
        return
    yield Text(
        (
            "Of the variance within a receiver type, the share that the model explains through each head alone, and "
            "through all together. Cells that it was trained on are among them.",
        )
    )
    yield FigureBlock(
        results.explained_variance_by_head,
        "Heatmap of explained variance, receiver types by heads.",
        "How much of the variance within each type the heads explain. A frame is around the best head.",
    )
    yield Table(
        "Explained variance",
        results.explained_variance,
        "head_idx −1: all heads together. best: the head that explains some gene best. Below 0: worse than the mean.",
    )


def _contributions(results: StudyResults) -> Iterator[Block]:
    if results.contribution_heatmaps is None:
        return
    yield Text(("What a sender says to a gene through a head, were it heard alone and with full attention.",))
    yield from _gallery(
        "Contributions by head", results.contribution_heatmaps, "contribution_heatmaps", "contributions of senders"
    )


def _gallery(title: str, figures: Mapping[str, bytes] | None, folder: str, what: str) -> Iterator[Block]:
    if not figures:
        return
    if sum(map(len, figures.values())) > MOST_GALLERY_BYTES:
        yield Text((f"Too large for this page, and left in the study's folder: {title} (folder {folder}).",))
        return
    yield Gallery(
        title, tuple(FigureBlock(png, f"{name}: {what}.", f"{name}: {what}.") for name, png in figures.items())
    )
