"""Names that are hard to draw, in every figure and in the report: they are drawn literally, and steer nothing.

Cell types, genes, sections, conditions and units come from data. None of them is read as mathematics, markup or a
command, and none is hidden.
"""

from __future__ import annotations

import html
import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from effect_tables import (
    make_contributions,
    make_effects,
    make_enrichment,
    make_explained,
    make_interactions,
    make_length_scales,
)
from figure_checks import assert_tidy
from matplotlib.figure import Figure
from matplotlib.text import Text as DrawnText

from tissue_crosstalk.core.distance import DistanceBins
from tissue_crosstalk.core.flavors import FLAVORS
from tissue_crosstalk.core.plots.attention_enrichment import plot_attention_enrichment
from tissue_crosstalk.core.plots.attention_map import plot_attention_map
from tissue_crosstalk.core.plots.attention_matrix import plot_attention_matrix
from tissue_crosstalk.core.plots.attention_of_cell import plot_attention_of_cell
from tissue_crosstalk.core.plots.attention_summary import plot_attention_summary
from tissue_crosstalk.core.plots.cell_types import plot_cell_types
from tissue_crosstalk.core.plots.chord import plot_chord
from tissue_crosstalk.core.plots.contributions import plot_contributions
from tissue_crosstalk.core.plots.distance_histograms import plot_distance_histograms
from tissue_crosstalk.core.plots.explained_variance import plot_explained_variance
from tissue_crosstalk.core.plots.flavor_agreement import plot_flavor_agreement
from tissue_crosstalk.core.plots.gene_dots import plot_gene_dots
from tissue_crosstalk.core.plots.head_profile import plot_head_profile
from tissue_crosstalk.core.plots.hub_contents import plot_hub_conditions, plot_hub_markers
from tissue_crosstalk.core.plots.hub_statistics import plot_hub_enrichment, plot_hub_sizes
from tissue_crosstalk.core.plots.hubs import plot_hub_composition, plot_hub_map
from tissue_crosstalk.core.plots.information_flow import plot_information_flow
from tissue_crosstalk.core.plots.interaction_network import plot_interaction_network
from tissue_crosstalk.core.plots.interaction_weights import plot_gene_network, plot_interaction_weights
from tissue_crosstalk.core.plots.length_scales import plot_length_scales
from tissue_crosstalk.core.plots.recovery import plot_precision_recall
from tissue_crosstalk.core.plots.style import cell_type_palette, save_figure
from tissue_crosstalk.core.plots.volcano import plot_volcano, plot_volcanoes
from tissue_crosstalk.core.recovery import (
    AVERAGE_PRECISION,
    BASE_RATE,
    EDGES,
    GENES,
    NAME,
    PRECISION,
    RECALL,
    RECEIVERS,
    RECEIVERS_OF_TYPE,
    WHAT,
)
from tissue_crosstalk.core.report import (
    Chapter,
    Facts,
    FigureBlock,
    Gallery,
    Report,
    Table,
    Text,
    Warnings,
    render_report,
)

NAMES = {
    "$\\frac": "$\\frac",
    "a_$b$": "a_$b$",
    "$x^2$ T": "$x^2$ T",
    "_hidden": "_hidden",
    "_": "_",
    "__x": "__x",
    "<b>&amp;": "<b>&amp;",
    "</text><script>": "</text><script>",
    "]]>": "]]>",
    "[red]T[/]": "[red]T[/]",
    "[/]": "[/]",
    "%s {x} {0}": "%s {x} {0}",
    "\\n": "\\n",
    "two\nlines": "two lines",
    "a\ttab": "a tab",
    "\x1b[31mred\x1b[0m": "\\x1b[31mred\\x1b[0m",
    "bell\x07": "bell\\x07",
    "n\x00ul": "n\\x00ul",
    "\u202eright to left": "\\u202eright to left",
    "zero\u200bwidth": "zero\\u200bwidth",
    "lone \ud800": "lone \\ud800",
    "שלום": "שלום",
    "e\u0301": "e\u0301",
    "-": "-",
    "0": "0",
}
"""What is drawn for each name."""
LONG = ["Forebrain/Midbrain/Hindbrain of the " * 3, "Tumor, CD4+ $x$ " * 7]
TYPES = list(NAMES)  # 25
PALETTE = cell_type_palette(TYPES)
RNG = np.random.default_rng


def test_there_are_as_many_as_figures_have_to_take() -> None:
    assert len(TYPES) == 25


def bins(types: list[str]) -> DistanceBins:
    generator = RNG(0)
    made, n_cells = DistanceBins(types, 2, 20.0, 5.0), 40 * len(types)
    receiver = np.repeat(np.arange(len(types)), 40)
    sender = (receiver[:, None] + generator.integers(1, max(len(types), 2), (n_cells, 6))) % len(types)
    made.add(generator.random((2, n_cells, 6)) / 6, generator.uniform(0, 20, (n_cells, 6)), receiver, sender)
    return made


def pairs(types: list[str]) -> pd.DataFrame:
    rows = [pair for pair in itertools.product(types, types) if pair[0] != pair[1]]
    table = pd.DataFrame(rows, columns=["receiver", "sender"]).assign(edges=60, receivers=40)
    generator = RNG(1)
    return table.assign(mean=generator.random(len(rows)), strong_share=generator.random(len(rows)))


def conditions_of(names: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    shares = pd.DataFrame(
        {"section": f"s{number}", "condition": name, "hub": hub, "share": 0.1 * number}
        for hub in (0, 1) for name in names for number in range(3)
    )  # fmt: skip
    rows = [(hub, name, 0.2, 0.01, 0.02) for hub in (0, 1) for name in names]
    return shares, pd.DataFrame(rows, columns=["hub", "condition", "mean_share", "p_value", "q_value"])


def hub_table(types: list[str]) -> pd.DataFrame:
    shares = RNG(2).dirichlet(np.ones(len(types)), 60)
    return pd.DataFrame(shares, columns=types).assign(hub_cluster=np.arange(60) % 3)


def recovered(names: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    kinds = [(EDGES, names[:4]), (RECEIVERS, names[:1]), (RECEIVERS_OF_TYPE, names[:8]), (GENES, names)]
    rows = [(what, name, 0.3 + 0.02 * number, 0.1) for what, of in kinds for number, name in enumerate(of)]
    measures = pd.DataFrame(rows, columns=[WHAT, NAME, AVERAGE_PRECISION, BASE_RATE])
    measures.loc[len(measures) - 1, AVERAGE_PRECISION] = np.nan  # named in a note
    points = [(what, name, recall, 1 - recall / 2) for what, name, *_ in rows for recall in (0.1, 0.5, 1.0)]
    return measures, pd.DataFrame(points, columns=[WHAT, NAME, RECALL, PRECISION])


def by_head(types: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    heads = pd.DataFrame(
        {"head_idx": head, "receiver": name, "cells": 9, "dummy_share": 0.2, "evenness": 0.1 + 0.03 * number}
        for head in range(2) for number, name in enumerate(types)
    )  # fmt: skip
    own = pairs(types)
    served = pd.concat([own.assign(head_idx=head, mean=RNG(head).random(len(own)), count=60) for head in range(2)])
    return heads, served


def agreement(types: list[str]) -> pd.DataFrame:
    rows = [
        (one, other, receiver, 0.5, 100)
        for one, other in itertools.combinations(FLAVORS, 2)
        for receiver in [*types, "all types"]
    ]
    return pd.DataFrame(rows, columns=["flavor", "other", "receiver", "spearman", "edges"])


def in_sections(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates of some cells and their sections."""
    n_cells = 20 * len(names)
    return RNG(3).uniform(0, 50, (n_cells, 2)), np.repeat(np.array(names, dtype=object), 20)


def markers(types: list[str], genes: list[str]) -> pd.DataFrame:
    rows = [(name, hub, gene) for number, (name, gene) in enumerate(zip(types, genes, strict=True)) for hub in (0, 1)]
    table = pd.DataFrame(rows, columns=["cell_type", "hub", "gene"])
    return table.assign(roc_auc=0.8, log2_fold_change=1.5, expressing_inside=0.5, q_value=0.001)


def palette_of(types: list[str]) -> dict[str, str]:
    return cell_type_palette(types)


def summary(types: list[str], receiver: str) -> Figure:
    found = bins(types)
    return plot_attention_summary(
        found.table(1), receiver, palette=palette_of(types), n_heads=2, max_distance=20.0, bin_size=5.0,
        min_bin_count=1, y_max=0.3, histogram=found.distance_histogram(), distance_unit="$\\mu$m",
    )  # fmt: skip


def attention_map(names: list[str]) -> Figure:
    places, sections = in_sections(names)
    values = RNG(4).random(len(places))
    return plot_attention_map(places, values, values, sections, distance_unit="_$x$")


def attention_of_cell(types: list[str]) -> Figure:
    n_types = len(types)
    places = np.column_stack([np.arange(n_types) % 5, np.arange(n_types) // 5]).astype(float)
    return plot_attention_of_cell(
        places, np.array(types, dtype=object), 0, np.arange(1, n_types), np.full((2, n_types - 1), 0.01),
        palette_of(types), name=types[0], distance_unit="_$x$",
    )  # fmt: skip


def cell_types(types: list[str]) -> Figure:
    places = np.column_stack([np.arange(len(types)) % 5, np.arange(len(types)) // 5]).astype(float)
    return plot_cell_types(places, np.array(types, dtype=object), palette_of(types), distance_unit="$x$")


def hub_map(names: list[str]) -> Figure:
    places, sections = in_sections(names)
    return plot_hub_map(places, np.arange(len(places)) % 3, sections, distance_unit="_$x$")


def histograms(types: list[str]) -> Figure:
    found = bins(types)
    return plot_distance_histograms(
        found.distance_histogram(), palette_of(types), max_distance=20.0, bin_size=5.0, beyond=found.elsewhere(),
        distance_unit="$m$",
    )  # fmt: skip


def enrichment(types: list[str]) -> Figure:
    rows = [(hub, name, 1.0, 0.01) for hub in (0, 1) for name in types]
    return plot_hub_enrichment(pd.DataFrame(rows, columns=["hub", "sender", "log2_enrichment", "q_value"]))


def sizes(types: list[str]) -> Figure:
    rows = [(hub, name, 5) for hub in (0, 1) for name in types]
    return plot_hub_sizes(pd.DataFrame(rows, columns=["hub", "cell_type", "cells"]), palette_of(types))


def effects_of_first(types: list[str]) -> pd.DataFrame:
    """Return effects on the first type, each sender's on the gene of its own name."""
    table = make_effects(types, n_genes=len(types), receivers=types[:1])
    own = table["sender"].cat.codes.to_numpy() == table["gene"].cat.codes.to_numpy()
    genes = table["gene"].cat.rename_categories(dict(zip(table["gene"].cat.categories, types, strict=True)))
    return table.assign(gene=genes, q_value=np.where(own, 0.001, 0.9), diff=np.where(own, 0.2, 0.001))


def flow(types: list[str]) -> Figure:
    places, sections = in_sections(types[:5])
    ways = np.ones((len(places), 2))
    return plot_information_flow(
        places, ways, ways[:, 0], np.array(types, dtype=object)[np.arange(len(places)) % len(types)],
        palette_of(types), sections, receiver=types[0], sender=types[1], distance_unit="_$x$",
    )  # fmt: skip


FIGURES: dict[str, Callable[[list[str]], Figure]] = {
    "attention_enrichment": lambda types: plot_attention_enrichment(
        make_enrichment(types, 1), palette_of(types), most_pairs=200
    ),
    "attention_map": attention_map,
    "attention_matrix": lambda types: plot_attention_matrix(pairs(types), palette_of(types)),
    "attention_of_cell": attention_of_cell,
    "attention_summary": lambda types: summary(types, types[0]),
    "cell_types": cell_types,
    "chord": lambda types: plot_chord(make_interactions(types).assign(n_genes=1), palette_of(types)),
    "contributions": lambda types: plot_contributions(make_contributions(types, 1, 9), 0, palette_of(types)),
    "distance_histograms": histograms,
    "explained_variance": lambda types: plot_explained_variance(make_explained(types), palette_of(types)),
    "flavor_agreement": lambda types: plot_flavor_agreement(agreement(types), palette_of(types)),
    "gene_dots": lambda types: plot_gene_dots(effects_of_first(types), types[0], palette_of(types)),
    "gene_network": lambda types: plot_gene_network(make_interactions(types), palette_of(types)),
    "head_profile": lambda types: plot_head_profile(*by_head(types), palette_of(types), most_pairs=60),
    "hub_composition": lambda types: plot_hub_composition(hub_table(types)),
    "hub_conditions": lambda names: plot_hub_conditions(*conditions_of(names)),
    "hub_enrichment": enrichment,
    "hub_map": hub_map,
    "hub_markers": lambda names: plot_hub_markers(markers(names, names[::-1]), most_groups=60),
    "hub_sizes": sizes,
    "information_flow": flow,
    "interaction_network": lambda types: plot_interaction_network(pairs(types), palette_of(types), threshold=0.9),
    "interaction_weights": lambda types: plot_interaction_weights(make_interactions(types), palette_of(types)),
    "length_scales": lambda types: plot_length_scales(
        *make_length_scales(types, types[0], 1, 9), types[0], palette_of(types), distance_unit="$\\mu$m"
    ),
    "precision_recall": lambda names: plot_precision_recall(*recovered(names), palette_of(names)),
    "volcano": lambda types: plot_volcano(
        effects_of_first(types).assign(q_value=0.01, diff=np.tile(np.linspace(-9, 9, len(types)), len(types) - 1)),
        types[0],
        types[1],
        most_names=25,
    ),
    "volcanoes": lambda types: plot_volcanoes(effects_of_first(types), types[0], palette_of(types)),
}
SOME = ("attention_summary", "head_profile", "interaction_network", "volcano")
"""Figures that name those types alone of which they have something to say."""
MAPS = ("attention_map", "hub_map")
QUICK = ("attention_matrix", "attention_summary", "hub_composition", "hub_sizes", "interaction_network")


def drawn(figure: Figure) -> list[str]:
    """Return all texts of a figure, each on one line."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(DrawnText) if isinstance(text, DrawnText) and text.get_visible()]
    return [" ".join(text.get_text().split()) for text in texts if text.get_text()]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FIGURES]
)
def test_names_are_drawn_literally(name: str, tmp_path: Path) -> None:
    """Twenty-five at once: nothing warns or fails, nothing is hidden, and the SVG is one."""
    figures = [FIGURES[name](TYPES)]
    if name in MAPS:  # which show only so many sections
        figures += [FIGURES[name](TYPES[start : start + 5]) for start in range(0, len(TYPES), 5)]
    shown: set[str] = set()
    for figure in figures:
        texts = drawn(figure)
        own = {label for label in NAMES.values() if any(label in text for text in texts)}
        assert not any(text.get_parse_math() for text in figure.findobj(DrawnText) if "$" in text.get_text())
        assert not [text for text in texts if not text.isprintable()]
        save_figure(figure, tmp_path / "figure.png", dpi=50)
        svg = ET.parse(save_figure(figure, tmp_path / "figure.svg"))
        assert not {"script", "b"} & {element.tag.rpartition("}")[2] for element in svg.iter()}
        written = {" ".join("".join(element.itertext()).split()) for element in svg.iter()}
        assert all(any(label in text for text in written) for label in own)
        shown |= own
    missing = sorted(set(NAMES.values()) - shown)
    assert not missing or (name in SOME and len(shown) > 5), missing


@pytest.mark.parametrize("name", FIGURES)
def test_long_names_leave_room(name: str) -> None:
    figure = FIGURES[name]([*LONG, "B", "T"])
    assert max(map(len, drawn(figure))) < 200
    assert_tidy(figure)


@pytest.mark.parametrize("receiver", TYPES)
def test_titles_are_literal(receiver: str) -> None:
    """Of the receiver, also where it has nothing to draw."""
    for figure in (summary([receiver, "other"], receiver), summary(["other", "T", receiver], receiver)):
        assert f"Receiver: {NAMES[receiver]}" in drawn(figure)


# --- The report


def test_names_are_text_in_every_part_of_a_report(tmp_path: Path) -> None:
    picture = save_figure(summary(["A", "B"], "A"), tmp_path / "figure.png", dpi=50).read_bytes()
    names = [*NAMES, *LONG]
    visible = NAMES | dict(zip(LONG, LONG, strict=True))
    for name in names:
        figure = FigureBlock(picture, name, name)
        page = render_report(
            Report(
                name,
                name,
                (
                    Chapter(
                        name,
                        (
                            Text((name,)),
                            Facts({name: name}, title=name),
                            Facts({name: name}),
                            Table(name, pd.DataFrame({name: [name, name]}), note=name),
                            figure,
                            Gallery(name, (figure,)),
                            Warnings((name,)),
                        ),
                    ),
                ),
            )
        )
        assert not re.search(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]|[\u200b-\u200f\u202a-\u202e]", page)
        assert page.count("<script>") == 1
        assert "<b>" not in page
        body = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)
        words = " ".join(html.unescape(re.sub(r"<[^>]*>", "", body)).split())
        # Heading, contents and title, subtitle, chapter, text, facts twice over, table, figures, gallery, warning.
        assert words.count(" ".join(visible[name].split())) >= 18
        assert page.isascii() or "\ufffd" not in page
        page.encode()
