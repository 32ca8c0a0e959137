"""What the report of a study says: its results in, chapters out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.clustering import CANDIDATE_CLUSTERS
from tissue_crosstalk.core.flavors import FLAVORS
from tissue_crosstalk.core.plots.hub_style import hub_name
from tissue_crosstalk.core.plots.style import unique_file_names
from tissue_crosstalk.core.profiles import ALL_TYPES
from tissue_crosstalk.core.report.page import (
    Block,
    Chapter,
    Facts,
    FigureBlock,
    Gallery,
    Report,
    Table,
    Text,
    Warnings,
)
from tissue_crosstalk.core.stored import Cells
from tissue_crosstalk.core.training_settings import BARELY

if TYPE_CHECKING:
    import pyarrow.dataset as pads

    from tissue_crosstalk.core.model import CrosstalkModel

STRONGEST_PAIRS: Final = 5
MARKERS_PER_HUB: Final = 10
MOST_GALLERY_BYTES: Final = 12 * 2**20
"""Figures that are in the page beside those that every report has; others are left in their folders."""


@dataclass(frozen=True, eq=False)
class StudyResults:
    """What a report is made of. A figure is the bytes of a PNG; several are by name.

    Attributes
    ----------
    run_record
        What the run knows of itself: ``study``, ``parameters`` by name, ``files`` (``name`` and ``sha256`` of tissue
        and model), ``commit``, ``versions`` by package, ``warnings``. What is missing is left out of the report.
    min_edges
        Pairs of types with fewer edges are in the tables alone: of two edges, both may be strong by chance.
    model, cells, cell_type_colors
        The model, the table of cells, and the colours of their types.
    attention_by_pair, evenness_of_heads, agreement_of_flavors
        Tables of :class:`~tissue_crosstalk.core.stored_profiles.AttentionProfiles`.
    attention_summaries, attention_matrices, interaction_networks, attention_maps
        Figures by flavor, the first by flavor and receiver.
    profile_of_heads, flavors_compared, distances_of_neighbors
        Figures of attention and neighbors.
    hub_selection, hub_niches, hub_shares, hub_enrichment, hub_markers, hub_conditions
        Tables and records of the hubs.
    hub_composition, hub_map, hub_sizes, number_of_hubs, hub_enrichment_dots, hub_enrichment_at_hand,
    hub_marker_genes, hub_condition_shares
        Figures of the hubs.
    training_history, training_curves
        Losses by epoch, and their figure, where the study trained its model.
    recovery, precision_recall
        What was found of a known truth, and its figure, where there is one.
    interactions, effects, ligand_receptor, length_scale_summary, attention_enrichment, explained_variance
        Tables of the interpretation, where there is one.
    volcanoes, gene_dots, interaction_weights, gene_network, chord_diagram, length_scale_distributions,
    attention_enrichment_dots, information_flow, explained_variance_by_head, contribution_heatmaps
        Its figures.
    """

    run_record: Mapping[str, Any]
    min_edges: int
    model: CrosstalkModel
    cells: pads.Dataset
    cell_type_colors: Mapping[str, str]
    attention_by_pair: pd.DataFrame
    evenness_of_heads: pd.DataFrame
    agreement_of_flavors: pd.DataFrame
    attention_summaries: Mapping[str, bytes]
    attention_matrices: Mapping[str, bytes]
    interaction_networks: Mapping[str, bytes]
    attention_maps: Mapping[str, bytes]
    profile_of_heads: bytes
    flavors_compared: bytes
    distances_of_neighbors: bytes
    hub_selection: Mapping[str, Any]
    hub_niches: Mapping[str, Any]
    hub_shares: pd.DataFrame
    hub_enrichment: pd.DataFrame
    hub_markers: pd.DataFrame
    hub_conditions: pd.DataFrame
    hub_composition: bytes
    hub_map: bytes
    hub_sizes: bytes
    number_of_hubs: bytes
    hub_enrichment_dots: bytes
    hub_enrichment_at_hand: bytes
    hub_marker_genes: bytes
    hub_condition_shares: bytes
    training_history: pd.DataFrame | None = None
    training_curves: bytes | None = None
    recovery: pd.DataFrame | None = None
    precision_recall: bytes | None = None
    interactions: pd.DataFrame | None = None
    effects: pd.DataFrame | None = None
    ligand_receptor: pd.DataFrame | None = None
    volcanoes: Mapping[str, bytes] | None = None
    gene_dots: Mapping[str, bytes] | None = None
    interaction_weights: bytes | None = None
    gene_network: bytes | None = None
    chord_diagram: bytes | None = None
    length_scale_summary: pd.DataFrame | None = None
    length_scale_distributions: Mapping[str, bytes] | None = None
    attention_enrichment: pd.DataFrame | None = None
    attention_enrichment_dots: bytes | None = None
    information_flow: bytes | None = None
    explained_variance: pd.DataFrame | None = None
    explained_variance_by_head: bytes | None = None
    contribution_heatmaps: Mapping[str, bytes] | None = None

    @property
    def flavor(self) -> str:
        """The flavor of the hubs, in which the report tells most."""
        return str(self.hub_selection["parameters"]["flavor"])

    @property
    def flavors(self) -> list[str]:
        """All flavors, that of the hubs first."""
        present = set(self.attention_by_pair[terms.FLAVOR].astype(str))
        return [self.flavor] + [flavor for flavor in FLAVORS if flavor in present and flavor != self.flavor]


def study_report(results: StudyResults) -> Report:
    """Return the report of a study.

    Parameters
    ----------
    results
        Figures, tables and facts.

    Returns
    -------
    Report
        Chapters: summary, parameters, data, model, attention, hubs, what was found of a known truth (where there is
        one), four of the interpretation (likewise), warnings, versions. The same results give the same report.
    """
    cells = Cells.read(results.cells)
    study = str(results.run_record.get("study", ""))
    n_sections = len(cells.section_names)
    across = f" in {n_sections} sections" if n_sections > 1 else ""
    from tissue_crosstalk.core.report.interpretation import interpretation_chapters

    recovery = _recovery(results)
    return Report(
        title=f"Who talks to whom: {study}" if study else "Who talks to whom",
        subtitle=f"{len(cells.names):,} cells of {len(cells.cell_types)} types{across}",
        chapters=(
            Chapter("Summary", tuple(_summary(results, cells))),
            Chapter("Parameters", tuple(_parameters(results))),
            Chapter("Data", tuple(_data(results, cells))),
            Chapter("Model", tuple(_model(results))),
            Chapter("Attention", tuple(_attention(results, cells))),
            Chapter("Communication hubs", tuple(_hubs(results))),
            *([recovery] if recovery else []),
            *interpretation_chapters(results),
            Chapter("Warnings", (Warnings(tuple(map(str, results.run_record.get("warnings", ())))),)),
            Chapter("Versions", (Facts(_versions(results)),)),
        ),
    )


def _summary(results: StudyResults, cells: Cells) -> Iterator[Block]:
    pairs = _telling_pairs(results, results.flavor)
    strongest = pairs.nlargest(STRONGEST_PAIRS, "strong_share")
    named = [
        f"{row['sender']} to {row['receiver']} ({row['strong_share']:.0%})" for row in strongest.to_dict("records")
    ]
    quantile = results.hub_selection["parameters"]["attention_quantile_threshold"]
    in_its_section = " in its section" if results.hub_selection["parameters"]["thresholds_per"] == "section" else ""
    n_heads = results.model.network.settings.n_heads
    paragraphs = [
        f"Each of {len(cells.names):,} cells attends to its {_neighbors_per_cell(results, cells)} nearest neighbors of "
        f"other types with {n_heads} head{'' if n_heads == 1 else 's'}. Attention is strong where its maximum over "
        f"heads is above the {quantile:.4g} quantile of the positive attention of its receiver type{in_its_section}.",
    ]
    if named:
        paragraphs.append(
            f"In {results.flavor} attention, of the pairs of types with at least {results.min_edges:,} edges, these "
            f"have the largest share of strong ones, from sender to receiver: {'; '.join(named)}. If attention ignored "
            f"types, each pair would have about {100 * (1 - quantile):.3g}%."
        )
    paragraphs.append(_hubs_in_words(results))
    if results.training_history is not None:
        paragraphs.append(_training_in_words(results.training_history))
    yield Text(tuple(paragraphs))
    yield _network(results, results.flavor)
    yield _hub_map(results)


def _training_in_words(history: pd.DataFrame) -> str:
    """Return how much the model has learned: without it the rest says nothing."""
    explained = float(history["validation_explained"].iloc[int(history["validation_reconstruction"].argmin())])
    words = (
        f"On cells that were held out of its training, the model's error is {abs(explained):.1%} "
        f"{'more' if explained < 0 else 'less'} than that of the means of their types."
    )
    if explained < BARELY:
        words += " It has hardly learned anything from neighbors: its attention may say nothing."
    return words


def _hubs_in_words(results: StudyResults) -> str:
    selection, niches = results.hub_selection, results.hub_niches
    isolated = selection["isolated_cells"] / max(selection["cells"], 1)
    words = f"Cells fall in {selection['n_clusters']} communication hubs; "
    if selection["parameters"]["isolated"] == "cluster":
        words += "those without a strong neighbor are clustered with the others."
    else:
        words += f"{isolated:.1%} of the cells have no strong neighbor and are in none."
    likeness, at_random = niches.get("adjusted_rand"), niches.get("adjusted_rand_at_random")
    if likeness is not None and at_random is not None:
        words += (
            f" Hubs and niches (clusters of neighborhoods whatever the attention) agree by an adjusted Rand index of "
            f"{likeness:.2f} (1: they are the same, 0: as by chance); with random neighbors in place of those attended "
            f"to it would be {at_random:.2f}."
        )
    return words


def _number_of_hubs_in_words(selection: Mapping[str, Any]) -> str:
    words = "How many hubs: silhouette, and agreement between seeds and resamples."
    if selection["chosen_by"] != "given" and selection["n_clusters"] == max(CANDIDATE_CLUSTERS):
        words += " The largest number that was tried was chosen: look whether fewer hubs say as much (hubs.n_clusters)."
    return words


def _parameters(results: StudyResults) -> Iterator[Block]:
    parameters = results.run_record.get("parameters", {})
    if not parameters:
        yield Text(("The run did not record its parameters.",))
        return
    yield Text(("Of the run that wrote this report. conf/base/parameters_<stage>.yml says what each means.",))
    blocks: dict[str, dict[str, str]] = {}
    for name, value in parameters.items():
        block, field = _block_and_field(str(name))
        blocks.setdefault(block, {})[field] = _value(value)
    for block, fields in blocks.items():
        yield Facts(fields, title=block)


def _block_and_field(name: str) -> tuple[str, str]:
    """Return the block of a parameter, that of the demo with its prefix, and the rest of its name.

    >>> _block_and_field("training.network.n_heads"), _block_and_field("demo.training.patience")
    (('training', 'network.n_heads'), ('demo.training', 'patience'))
    >>> _block_and_field("seed")
    ('general', 'seed')
    """
    parts = name.split(".")
    n_block = 2 if parts[0] == "demo" and len(parts) > 2 else 1
    return (".".join(parts[:n_block]), ".".join(parts[n_block:])) if len(parts) > n_block else ("general", name)


def _data(results: StudyResults, cells: Cells) -> Iterator[Block]:
    counts = np.bincount(cells.labels, minlength=len(cells.cell_types))
    yield Facts(
        _file_facts(results, "tissue")
        | {
            "cells": f"{len(cells.names):,}",
            "cell types": str(len(cells.cell_types)),
            "sections": str(len(cells.section_names)),
            "genes of the model": f"{len(results.model.genes):,}",
            "neighbors per cell": _neighbors_per_cell(results, cells),
        }
    )
    yield Table(
        "Cells by type",
        pd.DataFrame({"cell type": cells.cell_types, "cells": counts, "share": counts / max(int(counts.sum()), 1)}),
    )
    if len(cells.section_names) > 1:
        sizes = np.bincount(cells.sections, minlength=len(cells.section_names))
        yield Table("Cells by section", pd.DataFrame({"section": cells.section_names, "cells": sizes}))
    yield FigureBlock(
        results.distances_of_neighbors,
        "Histograms of the distances from cells to their neighbors, a panel for each receiver type.",
        "How far away neighbors are, by receiver type.",
    )


def _model(results: StudyResults) -> Iterator[Block]:
    model = results.model
    yield Facts(
        _file_facts(results, "model")
        | {
            "trained by": model.origin,
            "genes": f"{len(model.genes):,}",
            "cell types": ", ".join(model.cell_types),
            "neighbors per cell in training": str(model.n_neighbors),
            "expression": "log-normalised as it came"
            if model.preprocessing.log_normalised
            else f"counts, log1p of counts scaled to {model.preprocessing.target_sum:g} per cell"
            if model.preprocessing.target_sum
            else "counts, log1p of counts scaled per cell",
        }
        | {f"network.{name}": _value(value) for name, value in asdict(model.network.settings).items()}
    )
    if results.training_curves is not None:
        yield FigureBlock(
            results.training_curves, "Losses of training and validation by epoch.", "The training, epoch by epoch."
        )
    if results.training_history is not None:
        yield Table("Training by epoch", results.training_history)


def _attention(results: StudyResults, cells: Cells) -> Iterator[Block]:
    yield Text(
        (
            "A receiver attends to senders, its neighbors. Value-, info- and gene-weighted attention multiplies "
            "vanilla attention by the size of what the sender says, before and after the output projection, and in "
            "terms of genes. Attention says what a model predicts expression from; by itself it proves no signalling.",
        )
    )
    yield _matrix(results, results.flavor)
    yield Table(
        "Attention by pair of types",
        _ordered_pairs(results),
        "mean: over edges and heads. strong_edges: maximum over heads above the threshold of the receiver.",
    )
    yield FigureBlock(
        results.profile_of_heads,
        "What each head does: evenness of its attention, share of the dummy slot, and the pairs of types it serves.",
        "What each head does (vanilla attention). Evenness is 0 where one neighbor has all attention, 1 where all have "
        "the same; the dummy slot takes what no neighbor gets.",
    )
    yield Table(
        "Heads by receiver type", results.evenness_of_heads, "dummy_share, entropy, evenness: means over cells."
    )
    yield FigureBlock(
        results.flavors_compared,
        f"Rank correlations between flavors. {_agreement_in_words(results)}",
        "How alike the flavors rank the edges (Spearman's correlation), over all receivers and by receiver type.",
    )
    yield _map(results, results.flavor)
    yield from _galleries(results, cells)


def _galleries(results: StudyResults, cells: Cells) -> Iterator[Block]:
    """Yield what there is more than once, the rest of it being left in folders where the page would grow too large."""
    first, *others = results.flavors
    galleries = [
        ("attention_summaries", _summaries(results, cells, first)),
        ("interaction_networks", Gallery("Networks in the other flavors", _of_each(_network, results, others))),
        ("attention_matrices", Gallery("Matrices in the other flavors", _of_each(_matrix, results, others))),
        *(("attention_summaries", _summaries(results, cells, flavor)) for flavor in others),
        ("attention_maps", Gallery("Maps in the other flavors", _of_each(_map, results, others))),
    ]
    n_bytes, left_out = 0, []
    for folder, gallery in galleries:
        size = sum(len(figure.png) for figure in gallery.figures)
        if size and n_bytes + size <= MOST_GALLERY_BYTES:
            n_bytes += size
            yield gallery
        elif size:
            left_out.append(f"{gallery.title} (folder {folder})")
    if left_out:
        yield Text((f"Too large for this page, and left in the study's folder: {'; '.join(left_out)}.",))


def _of_each(
    draw: Callable[[StudyResults, str], FigureBlock], results: StudyResults, flavors: Sequence[str]
) -> tuple[FigureBlock, ...]:
    return tuple(draw(results, flavor) for flavor in flavors)


def _summaries(results: StudyResults, cells: Cells, flavor: str) -> Gallery:
    """Return attention against distance in one flavor, a figure for each receiver type."""
    figures = []
    for receiver, stem in unique_file_names(cells.cell_types).items():
        name = f"{flavor}_{stem}"
        of_one_head = re.compile(rf"{re.escape(name)}_head\d+")
        found = (
            [name]
            if name in results.attention_summaries
            else filter(of_one_head.fullmatch, results.attention_summaries)
        )
        figures += [
            FigureBlock(
                results.attention_summaries[key],
                f"{flavor} attention of receivers of type {receiver} against distance, a panel for each head, a line "
                "for each sender type.",
                f"{receiver} as receiver: {flavor} attention against distance, mean and standard deviation.",
            )
            for key in found
        ]
    return Gallery(f"Attention against distance: {flavor}", tuple(figures))


def _hubs(results: StudyResults) -> Iterator[Block]:
    yield Text(
        (
            f"A hub is a group of cells that attend strongly ({results.flavor} attention) to neighbors of the same "
            f"types. {_hubs_in_words(results)}",
        )
    )
    yield FigureBlock(
        results.hub_composition,
        "Heatmap of hubs by cell types: mean share of each type among a cell's strong neighbors.",
        "Whom the cells of each hub listen to.",
    )
    yield FigureBlock(
        results.hub_sizes,
        "Bars of the number of cells in each hub, by type.",
        "How many cells of which types hubs have.",
    )
    yield FigureBlock(
        results.number_of_hubs,
        f"Silhouette and stability by number of hubs; {results.hub_selection['n_clusters']} were chosen "
        f"({results.hub_selection['chosen_by']}).",
        _number_of_hubs_in_words(results.hub_selection),
    )
    yield FigureBlock(
        results.hub_enrichment_dots,
        "Dots of hubs by sender types: enrichment of strong neighbors against permuted hub labels, and its q value.",
        "More than chance? Strong neighbors against permuted hub labels.",
    )
    yield FigureBlock(
        results.hub_enrichment_at_hand,
        "Dots of hubs by sender types: enrichment of strong neighbors against the neighbors at hand, and its q value.",
        "More than what is at hand? Strong neighbors against what the neighbors at hand would give.",
    )
    yield _table_of_hubs("Enrichment of senders in hubs", results.hub_enrichment)
    yield _table_of_hubs("Cells of hubs by type", results.hub_shares)
    yield FigureBlock(
        results.hub_marker_genes,
        "Genes that set the cells of a hub apart from other cells of their type.",
        "Marker genes of hubs within cell types.",
    )
    yield _table_of_hubs(
        "Marker genes",
        _first_markers(results.hub_markers),
        f"Of each hub the {MARKERS_PER_HUB} with the smallest p value. Cells are taken as independent, which "
        "neighbors are not quite: p values describe. All are in hub_markers.parquet.",
    )
    if len(results.hub_conditions):
        yield FigureBlock(
            results.hub_condition_shares,
            "Shares of hubs in the sections of each condition.",
            "Hubs in the conditions; sections are the unit of the test.",
        )
        yield _table_of_hubs("Hubs by condition", results.hub_conditions)


def _recovery(results: StudyResults) -> Chapter | None:
    if results.recovery is None or results.precision_recall is None:
        return None
    return Chapter(
        "What was found of the truth",
        (
            Text(("The tissue has a known truth. These rankings are compared with it.",)),
            FigureBlock(
                results.precision_recall,
                "Precision against recall of sender edges, affected receivers and shifted genes.",
                "How far up planted edges, receivers and genes come.",
            ),
            Table("Measures", results.recovery),
        ),
    )


def _versions(results: StudyResults) -> dict[str, str]:
    commit = results.run_record.get("commit")
    versions = results.run_record.get("versions", {})
    return ({"git commit": str(commit)} if commit else {}) | {str(name): str(value) for name, value in versions.items()}


def _network(results: StudyResults, flavor: str) -> FigureBlock:
    return FigureBlock(
        results.interaction_networks[flavor],
        f"Network of cell types: arrows from senders to receivers that attend to them strongly, {flavor} attention. "
        f"{_strongest_in_words(results, flavor)}",
        f"Who talks to whom: pairs of types with the largest shares of strong edges, {flavor} attention.",
    )


def _matrix(results: StudyResults, flavor: str) -> FigureBlock:
    return FigureBlock(
        results.attention_matrices[flavor],
        f"Matrices of senders by receivers in {flavor} attention: mean, and share of strong edges. "
        f"{_strongest_in_words(results, flavor)}",
        f"Who attends to whom: {flavor} attention, its mean and the share of edges on which it is strong.",
    )


def _map(results: StudyResults, flavor: str) -> FigureBlock:
    return FigureBlock(
        results.attention_maps[flavor],
        f"Two maps of the tissue: {flavor} attention that each cell receives, and that it sends.",
        f"Where in the tissue {flavor} attention is received and sent, mean over heads.",
    )


def _hub_map(results: StudyResults) -> FigureBlock:
    return FigureBlock(
        results.hub_map, "Map of the tissue, cells in the colours of their hubs.", "Where in the tissue the hubs lie."
    )


def _pairs_of(by_pair: pd.DataFrame, flavor: str) -> pd.DataFrame:
    return by_pair[by_pair[terms.FLAVOR] == flavor]


def _ordered_pairs(results: StudyResults) -> pd.DataFrame:
    """Return the pairs by flavor, those with the largest shares of strong edges first."""
    parts = [_pairs_of(results.attention_by_pair, flavor) for flavor in results.flavors]
    ordered = pd.concat([part.sort_values("strong_share", ascending=False, kind="stable") for part in parts])
    return ordered[[terms.FLAVOR, *(column for column in ordered.columns if column != terms.FLAVOR)]]


def _telling_pairs(results: StudyResults, flavor: str) -> pd.DataFrame:
    """Return the pairs with enough edges for their share of strong ones to mean something."""
    pairs = _pairs_of(results.attention_by_pair, flavor)
    return pairs[pairs["edges"] >= results.min_edges]


def _strongest_in_words(results: StudyResults, flavor: str) -> str:
    pairs = _telling_pairs(results, flavor)
    if pairs.empty:
        return "There is no pair with enough edges."
    row = pairs.loc[pairs["strong_share"].idxmax()]
    return f"The largest share is {row['strong_share']:.0%}, from {row['sender']} to {row['receiver']}."


def _agreement_in_words(results: StudyResults) -> str:
    table = results.agreement_of_flavors
    over_all = table[table["receiver"] == ALL_TYPES]
    return " ".join(
        f"{row['flavor']} and {row['other']}: {row['spearman']:.2f}." for row in over_all.to_dict("records")
    )


def _table_of_hubs(caption: str, table: pd.DataFrame, note: str = "") -> Table:
    """Return a table in which hubs are called as in the figures."""
    return Table(caption, table.assign(hub=[hub_name(int(hub)) for hub in table["hub"]]), note)


def _first_markers(markers: pd.DataFrame) -> pd.DataFrame:
    return markers.sort_values(["hub", "p_value"], kind="stable").groupby("hub", sort=False).head(MARKERS_PER_HUB)


def _neighbors_per_cell(results: StudyResults, cells: Cells) -> str:
    """Return the number, a mean where slots are padded."""
    return f"{_pairs_of(results.attention_by_pair, results.flavor)['edges'].sum() / len(cells.names):.4g}"


def _file_facts(results: StudyResults, kind: str) -> dict[str, str]:
    file = results.run_record.get("files", {}).get(kind)
    return {} if file is None else {"file": str(file["name"]), "SHA-256": str(file["sha256"])}


def _value(value: object) -> str:
    """Return a parameter as a person would write it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_value(item)}" for name, item in value.items()) or "none"
    return str(value) or "not set"
