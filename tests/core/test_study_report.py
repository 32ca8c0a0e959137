"""What the report of a study says, from small results made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from hub_cases import made_cells
from naive import random_model, random_tissue
from test_report import HOSTILE, Parsed, png

from tissue_crosstalk.core.report import (
    Block,
    Chapter,
    Facts,
    FigureBlock,
    Gallery,
    Report,
    StudyResults,
    Table,
    Text,
    Warnings,
    render_report,
    study_report,
)

A, B, C = "T cell", "B/NK", "macrophage"
TYPES = (A, B, C)
CHAPTERS = ["Summary", "Parameters", "Data", "Model", "Attention", "Communication hubs", "Warnings", "Versions"]
BlockKind = TypeVar("BlockKind", bound=Block)


def pairs(flavor: str, shares: dict[tuple[str, str], float]) -> pd.DataFrame:
    """Return the pairs of a flavor by (sender, receiver): 20 edges each."""
    return pd.DataFrame(
        {
            "receiver": [receiver for _, receiver in shares],
            "sender": [sender for sender, _ in shares],
            "receivers": 4,
            "mean": 0.125,
            "edges": 20,
            "strong_edges": [round(share * 20) for share in shares.values()],
            "strong_share": list(shares.values()),
            "flavor": flavor,
        }
    )


def by_pair(cell_types: tuple[str, ...] = TYPES) -> pd.DataFrame:
    a, b, c = cell_types
    vanilla = {(b, a): 0.1, (c, a): 0.45, (a, b): 0.2, (c, b): 0.0, (a, c): 0.3, (b, c): 0.15}
    both = [pairs("vanilla", vanilla), pairs("gene-weighted", {(b, a): 0.95, (a, b): 0.5})]
    return pd.concat(both, ignore_index=True).astype(dict.fromkeys(("receiver", "sender", "flavor"), "category"))


SIZES = {
    "profile_of_heads": 101, "flavors_compared": 102, "distances_of_neighbors": 103, "hub_composition": 104,
    "hub_map": 105, "hub_sizes": 106, "number_of_hubs": 107, "hub_enrichment_dots": 108, "hub_enrichment_at_hand": 109,
    "hub_marker_genes": 110, "hub_condition_shares": 111,
}  # fmt: skip
"""Width of each figure, by which it is known again."""


def results_of(folder: Path, cell_types: tuple[str, ...] = TYPES, *, n_sections: int = 1, **given: Any) -> StudyResults:
    """Return the results of 12 cells: 6, 4 and 2 of the types."""
    labels = np.repeat([0, 1, 2], [6, 4, 2])
    cells = made_cells(
        labels, np.arange(12) % n_sections, cell_types=cell_types, section_names=("left", "right")[:n_sections]
    )
    folder.mkdir(exist_ok=True, parents=True)
    pq.write_table(cells.table(), folder / "cells.parquet")
    hubs = {"hub": [0, 1, -1]}
    made: dict[str, Any] = {name: png(width) for name, width in SIZES.items()}
    made |= {
        "run_record": {"study": "embryo"},
        "model": replace(random_model(random_tissue(), 5), cell_types=cell_types),
        "cells": pads.dataset(str(folder / "cells.parquet")),
        "min_edges": 20,
        "cell_type_colors": dict.fromkeys(cell_types, "#123456"),
        "attention_by_pair": by_pair(cell_types),
        "evenness_of_heads": pd.DataFrame({"head_idx": [0], "receiver": [cell_types[0]], "evenness": [0.5]}),
        "agreement_of_flavors": pd.DataFrame(
            {
                "flavor": ["vanilla"] * 2,
                "other": ["gene-weighted"] * 2,
                "receiver": [cell_types[0], "all types"],
                "spearman": [0.75, 0.625],
                "edges": [40, 120],
            }
        ),
        "attention_summaries": {},
        "attention_matrices": {"vanilla": png(201), "gene-weighted": png(202)},
        "interaction_networks": {"vanilla": png(203), "gene-weighted": png(204)},
        "attention_maps": {"vanilla": png(205), "gene-weighted": png(206)},
        "hub_selection": {
            "n_clusters": 2,
            "chosen_by": "silhouette",
            "cells": 12,
            "isolated_cells": 3,
            "parameters": {
                "flavor": "vanilla",
                "attention_quantile_threshold": 0.9,
                "isolated": "separate",
                "thresholds_per": "all",
            },
        },
        "hub_niches": {"adjusted_rand": 0.625, "adjusted_rand_at_random": -0.0625},
        "hub_shares": pd.DataFrame(hubs).assign(cells=[5, 4, 3]),
        "hub_enrichment": pd.DataFrame(hubs).assign(sender=cell_types[0]),
        "hub_markers": pd.DataFrame({"hub": [], "gene": [], "p_value": []}),
        "hub_conditions": pd.DataFrame({"hub": [], "condition": []}),
    }
    return StudyResults(**made | given)


TRAINED: dict[str, Any] = {
    "training_history": pd.DataFrame(
        {
            "epoch": [0, 1, 2],
            "train_loss": [2.0, 1.0, 0.9],
            "validation_reconstruction": [3.0, 1.5, 1.6],
            "validation_explained": [-0.2, 0.05, 0.04],
        }
    ),
    "training_curves": png(301),
}
RECOVERED: dict[str, Any] = {
    "recovery": pd.DataFrame({"what": ["sender edges"], "lift": [1.5]}),
    "precision_recall": png(302),
}


@pytest.fixture
def results(tmp_path: Path) -> StudyResults:
    return results_of(tmp_path)


def titles(report: Report) -> list[str]:
    return [chapter.title for chapter in report.chapters]


def chapter(report: Report, title: str) -> Chapter:
    return next(chapter for chapter in report.chapters if chapter.title == title)


def blocks(report: Report, title: str, kind: type[BlockKind]) -> list[BlockKind]:
    return [block for block in chapter(report, title).blocks if isinstance(block, kind)]


def words(report: Report, title: str) -> str:
    return "\n".join(paragraph for text in blocks(report, title, Text) for paragraph in text.paragraphs)


def facts(report: Report, title: str) -> dict[str, str]:
    [first, *_] = blocks(report, title, Facts)
    return dict(first.items)


def figures(report: Report, title: str) -> list[bytes]:
    return [block.png for block in blocks(report, title, FigureBlock)]


# --- Chapters


def test_chapters_come_in_their_order(results: StudyResults) -> None:
    assert titles(study_report(results)) == CHAPTERS
    assert titles(study_report(replace(results, **TRAINED))) == CHAPTERS
    with_truth = [*CHAPTERS[:6], "What was found of the truth", *CHAPTERS[6:]]
    assert titles(study_report(replace(results, **RECOVERED))) == with_truth
    assert titles(study_report(replace(results, **TRAINED, **RECOVERED))) == with_truth


def test_the_title_names_study_and_tissue(tmp_path: Path) -> None:
    report = study_report(results_of(tmp_path))
    assert (report.title, report.subtitle) == ("Who talks to whom: embryo", "12 cells of 3 types")
    report = study_report(results_of(tmp_path, n_sections=2, run_record={}))
    assert (report.title, report.subtitle) == ("Who talks to whom", "12 cells of 3 types in 2 sections")


def test_training_is_told_of_where_it_took_place(results: StudyResults) -> None:
    report = study_report(replace(results, **TRAINED))
    assert figures(report, "Model") == [png(301)]
    assert [table.caption for table in blocks(report, "Model", Table)] == ["Training by epoch"]
    report = study_report(results)
    assert figures(report, "Model") == []
    assert blocks(report, "Model", Table) == []


def test_recovery_is_told_of_where_there_is_a_truth(results: StudyResults) -> None:
    report = study_report(replace(results, **RECOVERED))
    assert figures(report, "What was found of the truth") == [png(302)]
    [table] = blocks(report, "What was found of the truth", Table)
    pd.testing.assert_frame_equal(table.frame, RECOVERED["recovery"])


def test_conditions_are_told_of_where_there_are_some(results: StudyResults) -> None:
    without = study_report(results)
    hubs = [SIZES[name] for name in SIZES if "hub" in name and name not in ("hub_map", "hub_condition_shares")]
    assert sorted(figures(without, "Communication hubs")) == sorted(map(png, hubs))
    conditions = pd.DataFrame({"hub": [1], "condition": ["old"], "p_value": [0.5]})
    report = study_report(replace(results, hub_conditions=conditions))
    assert figures(report, "Communication hubs") == [*figures(without, "Communication hubs"), png(111)]
    table = blocks(report, "Communication hubs", Table)[-1]
    assert (table.caption, table.frame["hub"].tolist()) == ("Hubs by condition", ["hub 1"])


def test_every_figure_of_every_report_is_in_it_once_but_for_those_of_the_summary(results: StudyResults) -> None:
    report = study_report(results)
    shown = [figure for title in CHAPTERS for figure in figures(report, title)]
    expected = [png(SIZES[name]) for name in SIZES if name != "hub_condition_shares"]
    assert sorted(shown) == sorted([*expected, png(201), png(203), png(205)])
    assert figures(report, "Summary") == [png(203), png(105)]
    in_galleries = [gallery.figures for gallery in blocks(report, "Attention", Gallery)]
    assert [[figure.png for figure in those] for those in in_galleries] == [[png(204)], [png(202)], [png(206)]]


# --- What the run knows of itself


RECORD: dict[str, Any] = {
    "study": "embryo",
    "parameters": {
        "seed": 42,
        "hubs.n_clusters": None,
        "hubs.held_out": True,
        "training.network.n_heads": 4,
        "training.learning_rate": 0.001,
        "flavoring.flavors": ("vanilla", "gene-weighted"),
        "reporting.palette": {"T": "red", "B": "blue"},
        "reporting.distance_unit": "",
        "demo.training.patience": 60,
    },
    "files": {"tissue": {"name": "embryo.h5ad", "sha256": "a" * 64}, "model": {"name": "model", "sha256": "b" * 64}},
    "commit": "c" * 40,
    "versions": {"Python": "3.11.0", "numpy": "2.0"},
    "warnings": ("bins do not fit", "again"),
}


def test_parameters_are_told_by_block(results: StudyResults) -> None:
    report = study_report(replace(results, run_record=RECORD))
    assert {block.title: dict(block.items) for block in blocks(report, "Parameters", Facts)} == {
        "general": {"seed": "42"},
        "hubs": {"n_clusters": "not set", "held_out": "yes"},
        "training": {"network.n_heads": "4", "learning_rate": "0.001"},
        "flavoring": {"flavors": "vanilla, gene-weighted"},
        "reporting": {"palette": "T: red; B: blue", "distance_unit": "not set"},
        "demo.training": {"patience": "60"},
    }


def test_the_run_record_gets_into_the_report(results: StudyResults) -> None:
    report = study_report(replace(results, run_record=RECORD))
    for title, name, sha256 in (("Data", "embryo.h5ad", "a" * 64), ("Model", "model", "b" * 64)):
        known = facts(report, title)
        assert (known["file"], known["SHA-256"]) == (name, sha256)
    assert facts(report, "Versions") == {"git commit": "c" * 40, "Python": "3.11.0", "numpy": "2.0"}
    assert blocks(report, "Warnings", Warnings) == [Warnings(("bins do not fit", "again"))]


def test_what_the_run_does_not_know_is_left_out(results: StudyResults) -> None:
    report = study_report(replace(results, run_record={}))
    assert words(report, "Parameters") == "The run did not record its parameters."
    assert not {"file", "SHA-256"} & (facts(report, "Data").keys() | facts(report, "Model").keys())
    assert facts(report, "Versions") == {}
    assert blocks(report, "Warnings", Warnings) == [Warnings(())]


def test_cells_are_counted_by_type_and_section(tmp_path: Path) -> None:
    report = study_report(results_of(tmp_path, n_sections=2))
    known = facts(report, "Data")
    # 6 pairs of types with 20 edges each, of 12 cells.
    assert (known["cells"], known["cell types"], known["sections"], known["neighbors per cell"]) == (
        "12",
        "3",
        "2",
        "10",
    )
    by_type, by_section = blocks(report, "Data", Table)
    assert by_type.frame.to_numpy().tolist() == [[A, 6, 1 / 2], [B, 4, 1 / 3], [C, 2, 1 / 6]]
    assert by_section.frame.to_numpy().tolist() == [["left", 6], ["right", 6]]
    assert len(blocks(study_report(results_of(tmp_path)), "Data", Table)) == 1


# --- Words and numbers


def test_the_summary_names_the_strongest_pairs(results: StudyResults) -> None:
    """Five of six, from sender to receiver, in the flavor of the hubs."""
    summary = words(study_report(results), "Summary")
    assert (
        "In vanilla attention, of the pairs of types with at least 20 edges, these have the largest share of strong "
        "ones, from sender to receiver: "
        f"{C} to {A} (45%); {A} to {C} (30%); {A} to {B} (20%); {B} to {C} (15%); {B} to {A} (10%). "
        "If attention ignored types, each pair would have about 10%."
    ) in summary
    assert "Each of 12 cells attends to its 10 nearest neighbors of other types with 2 heads." in summary
    assert "Attention is strong where its maximum over heads is above the 0.9 quantile" in summary
    assert "Cells fall in 2 communication hubs; 25.0% of the cells have no strong neighbor and are in none." in summary
    assert "by an adjusted Rand index of 0.62 (1: they are the same, 0: as by chance);" in summary
    assert "in place of those attended to it would be -0.06." in summary


def test_pairs_with_few_edges_are_in_the_tables_alone(results: StudyResults) -> None:
    """The pair with the largest share has one edge less than it needs."""
    few = results.attention_by_pair.copy()
    few.loc[few["strong_share"].eq(0.45), "edges"] = 19
    report = study_report(replace(results, attention_by_pair=few))
    assert f"from sender to receiver: {A} to {C} (30%); {A} to {B} (20%)" in words(report, "Summary")
    [table] = [table for table in blocks(report, "Attention", Table) if table.caption == "Attention by pair of types"]
    assert 0.45 in table.frame["strong_share"].tolist()
    [network] = [figure for figure in blocks(report, "Summary", FigureBlock) if "Network" in figure.alt]
    assert f"The largest share is 30%, from {A} to {C}." in network.alt
    none = study_report(replace(results, min_edges=1000))
    assert "largest share" not in words(none, "Summary")


@pytest.mark.parametrize(
    ("explained", "said", "learned"),
    [(0.0514, "5.1% less than", True), (0.001, "0.1% less than", False), (-0.02, "2.0% more than", False)],
)
def test_the_summary_says_how_much_was_learned(
    results: StudyResults, explained: float, said: str, learned: bool
) -> None:
    """In the epoch of the best validation; also where the run that writes the report did not train."""
    history = TRAINED["training_history"].assign(validation_explained=[-0.2, explained, 0.9])
    summary = words(study_report(replace(results, training_history=history)), "Summary")
    assert said in summary
    assert ("hardly learned anything" in summary) != learned
    assert "held out of its training" not in words(study_report(results), "Summary")


def test_thresholds_of_sections_are_said_to_be_theirs(results: StudyResults) -> None:
    selection = dict(results.hub_selection)
    selection["parameters"] = {**selection["parameters"], "thresholds_per": "section"}
    summary = words(study_report(replace(results, hub_selection=selection)), "Summary")
    assert "of its receiver type in its section." in summary


@pytest.mark.parametrize(
    ("number", "chosen_by", "warned"), [(12, "silhouette", True), (12, "given", False), (11, "stability", False)]
)
def test_the_largest_number_of_hubs_is_warned_of(
    results: StudyResults, number: int, chosen_by: str, warned: bool
) -> None:
    selection = {**results.hub_selection, "n_clusters": number, "chosen_by": chosen_by}
    captions = [
        figure.caption
        for figure in blocks(study_report(replace(results, hub_selection=selection)), "Communication hubs", FigureBlock)
    ]
    assert any("The largest number that was tried was chosen" in caption for caption in captions) == warned


def test_the_flavor_of_the_hubs_comes_first(results: StudyResults) -> None:
    selection = dict(results.hub_selection)
    selection["parameters"] = {
        **selection["parameters"],
        "flavor": "gene-weighted",
        "attention_quantile_threshold": 0.8,
    }
    report = study_report(replace(results, hub_selection=selection))
    summary = words(report, "Summary")
    assert "In gene-weighted attention, of the pairs" in summary
    assert (
        f": {B} to {A} (95%); {A} to {B} (50%). If attention ignored types, each pair would have about 20%." in summary
    )
    assert figures(report, "Summary")[0] == png(204)
    assert figures(report, "Attention")[0] == png(202)
    [table] = [table for table in blocks(report, "Attention", Table) if table.caption == "Attention by pair of types"]
    assert table.frame[["flavor", "strong_share"]].to_numpy().tolist() == [
        ["gene-weighted", 0.95],
        ["gene-weighted", 0.5],
        *(["vanilla", share] for share in (0.45, 0.3, 0.2, 0.15, 0.1, 0.0)),
    ]


def test_figures_are_told_to_those_who_do_not_see_them(results: StudyResults) -> None:
    report = study_report(results)
    network, _ = blocks(report, "Summary", FigureBlock)
    assert network.alt.endswith(f"vanilla attention. The largest share is 45%, from {C} to {A}.")
    compared = next(block for block in blocks(report, "Attention", FigureBlock) if block.png == png(102))
    assert compared.alt == "Rank correlations between flavors. vanilla and gene-weighted: 0.62."
    networks = blocks(report, "Attention", Gallery)[0]
    assert networks.figures[0].alt.endswith(f"The largest share is 95%, from {B} to {A}.")


def test_niches_that_were_not_found_are_not_told_of(results: StudyResults) -> None:
    report = study_report(replace(results, hub_niches={"adjusted_rand": None, "adjusted_rand_at_random": None}))
    assert "Rand" not in words(report, "Summary") + words(report, "Communication hubs")


def test_nothing_is_said_of_isolated_cells_where_they_are_clustered_with_the_others(results: StudyResults) -> None:
    selection = {**results.hub_selection, "isolated_cells": 0}
    selection["parameters"] = {**selection["parameters"], "isolated": "cluster"}
    assert "0.0% of the cells have no strong neighbor" not in words(
        study_report(replace(results, hub_selection=selection)), "Summary"
    )


def test_a_quantile_above_99_percent_is_not_said_to_be_100(results: StudyResults) -> None:
    selection = dict(results.hub_selection)
    selection["parameters"] = {**selection["parameters"], "attention_quantile_threshold": 0.995}
    summary = words(study_report(replace(results, hub_selection=selection)), "Summary")
    assert "100% quantile" not in summary


def test_hubs_are_called_as_in_the_figures_and_the_best_markers_come_first(results: StudyResults) -> None:
    markers = pd.DataFrame(
        {"hub": [0] * 12 + [1] * 2, "gene": [f"g{n}" for n in range(14)], "p_value": [*np.linspace(0.9, 0.1, 12), 1, 0]}
    )
    report = study_report(replace(results, hub_markers=markers))
    tables = {table.caption: table.frame for table in blocks(report, "Communication hubs", Table)}
    assert tables["Cells of hubs by type"]["hub"].tolist() == ["hub 0", "hub 1", "isolated"]
    found = tables["Marker genes"]
    assert found["gene"].tolist() == [*(f"g{n}" for n in range(11, 1, -1)), "g13", "g12"]
    assert found["hub"].tolist() == ["hub 0"] * 10 + ["hub 1"] * 2


# --- Figures of which there are many


def summaries(flavor: str, *stems: str, first: int = 400) -> dict[str, bytes]:
    return {f"{flavor}_{stem}": png(first + number) for number, stem in enumerate(stems)}


def test_figures_of_receivers_are_found_by_their_file_names(results: StudyResults) -> None:
    drawn = summaries("vanilla", "T_cell", "B_NK", "macrophage") | summaries("gene-weighted", "B_NK", first=500)
    galleries = blocks(study_report(replace(results, attention_summaries=drawn)), "Attention", Gallery)
    found = {gallery.title: [figure.png for figure in gallery.figures] for gallery in galleries}
    assert list(found) == [
        "Attention against distance: vanilla",
        "Networks in the other flavors",
        "Matrices in the other flavors",
        "Attention against distance: gene-weighted",
        "Maps in the other flavors",
    ]
    assert found["Attention against distance: vanilla"] == [png(400), png(401), png(402)]
    assert found["Attention against distance: gene-weighted"] == [png(500)]
    assert [figure.caption.split(" as receiver")[0] for figure in galleries[0].figures] == list(TYPES)


def test_figures_of_one_head_alone_are_found(results: StudyResults) -> None:
    drawn = summaries("vanilla", "T_cell_head1", "macrophage_head1", "macrophage_headless")
    galleries = blocks(study_report(replace(results, attention_summaries=drawn)), "Attention", Gallery)
    assert galleries[0].title == "Attention against distance: vanilla"
    assert [figure.png for figure in galleries[0].figures] == [png(400), png(401)]


def test_galleries_that_would_make_the_page_too_large_are_named(
    results: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turn: what still fits is in the page, and what does not is left out as a whole."""
    drawn = summaries("vanilla", "T_cell", "B_NK")
    networks = {**results.interaction_networks, "gene-weighted": png(204) + bytes(1000)}
    results = replace(results, attention_summaries=drawn, interaction_networks=networks)
    others = sum(map(len, drawn.values())) + len(png(202)) + len(png(206))
    everything = ["Attention against distance: vanilla"] + [f"{what} in the other flavors" for what in (
        "Networks", "Matrices", "Maps"
    )]  # fmt: skip
    in_folders = ["attention_summaries", "interaction_networks", "attention_matrices", "attention_maps"]
    for limit, kept in ((others + len(png(204)) + 1000, [0, 1, 2, 3]), (others, [0, 2, 3]), (0, [])):
        monkeypatch.setattr("tissue_crosstalk.core.report.study.MOST_GALLERY_BYTES", limit)
        report = study_report(results)
        assert [gallery.title for gallery in blocks(report, "Attention", Gallery)] == [everything[n] for n in kept]
        named = [f"{everything[n]} (folder {in_folders[n]})" for n in range(4) if n not in kept]
        last = words(report, "Attention").split("\n")[-1]
        assert ("Too large for this page" in last) == bool(named)
        if named:
            assert last == f"Too large for this page, and left in the study's folder: {'; '.join(named)}."


# --- The page


def page_of_names(folder: Path, names: tuple[str, ...]) -> Parsed:
    """Return the page of results in which names come wherever data have a say."""
    everything = " ".join(names)
    record = {
        "study": everything,
        "parameters": {"seed": everything, f"hubs.{names[0]}": everything},
        "files": {"tissue": {"name": everything, "sha256": everything}},
        "commit": everything,
        "versions": {name: name for name in names},
        "warnings": names,
    }
    hubs = pd.DataFrame({"hub": [0], "condition": [everything], "gene": [everything], "p_value": [0.5]})
    made = results_of(
        folder,
        names[:3],
        run_record=record,
        hub_markers=hubs,
        hub_conditions=hubs,
        **TRAINED,
        recovery=pd.DataFrame({"what": [everything]}),
        precision_recall=png(302),
    )
    return Parsed(render_report(study_report(made)))


def test_names_and_warnings_are_never_markup(tmp_path: Path) -> None:
    harmless = tuple(chr(ord("a") + number) * len(name) for number, name in enumerate(HOSTILE))
    hostile, plain = (page_of_names(tmp_path / names[0][:1], names) for names in (HOSTILE, harmless))
    shapes = [[(tag, sorted(own)) for tag, own in page.tags if tag != "wbr"] for page in (hostile, plain)]
    assert shapes[0] == shapes[1]
    for name in HOSTILE:
        assert name in hostile.text("main"), name
    assert f"from {HOSTILE[2]} to {HOSTILE[0]}" in str([image["alt"] for image in hostile.all("img")])


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    given = {"run_record": RECORD, "attention_summaries": summaries("vanilla", "T_cell"), **TRAINED, **RECOVERED}
    one, other = (render_report(study_report(results_of(tmp_path / name, **given))) for name in ("one", "other"))
    assert one == other
    assert Parsed(one).text("h1") == "Who talks to whom: embryo"


# --- Interpretation


def interpreted(**given: Any) -> dict[str, Any]:
    """Return results of an interpretation: one of two pairs has a raised gene, and a lowered one."""
    pair = {"receiver": [TYPES[0], TYPES[1]], "sender": [TYPES[1], TYPES[0]]}
    effects = pd.DataFrame(
        {
            "receiver": [TYPES[0]] * 3 + [TYPES[1]],
            "sender": [TYPES[1]] * 3 + [TYPES[0]],
            "gene": ["g1", "g2", "g3", "g1"],
            "diff": [0.2, -0.1, 0.1, 0.3],
            "slope": 1.0, "slope_low": 0.5, "slope_high": 1.5, "correlation": 0.4,
            "z_score": [4.0, 5.0, 1.0, 0.1],
            "p_value": [0.001, 0.0001, 0.2, 0.5],
            "q_value": [0.01, 0.001, 0.4, 0.6],
            "held_out": True,
        }
    )  # fmt: skip
    interactions = pd.DataFrame(
        pair | {"n_genes": [1, 0], "n_genes_lowered": [1, 0], "smallest_q": [0.001, 0.6], "top_genes": ["g2, g1", ""]}
    )
    made = {
        "interactions": interactions,
        "effects": effects,
        "ligand_receptor": pd.DataFrame(
            {"receiver": [TYPES[0]] * 7, "sender": [TYPES[1]] * 7, "ligand": list("abcdefg"), "receptor": "r"}
        ),
        "volcanoes": {"one": png(401)},
        "gene_dots": {"one": png(402)},
        "interaction_weights": png(403),
        "gene_network": png(404),
        "chord_diagram": png(405),
        "length_scale_summary": pd.DataFrame(
            pair | {"head_idx": 0, "median": [20.0, 30.0], "supported": [True, False]}
        ),
        "length_scale_distributions": {"one": png(406)},
        "attention_enrichment": pd.DataFrame(pair | {"q_value": [0.5, 0.01], "log2_enrichment": [0.1, 0.2]}),
        "attention_enrichment_dots": png(407),
        "information_flow": png(408),
        "explained_variance": pd.DataFrame({"receiver": [TYPES[0]], "head_idx": [-1], "explained": [0.1]}),
        "explained_variance_by_head": png(409),
        "contribution_heatmaps": {"head0": png(410)},
    }
    return made | given


INTERPRETED = [
    "Genes that senders change",
    "Distances, and attention against chance",
    "Explained variance",
    "Contributions",
]


def test_interpretation_has_chapters_where_there_is_one(results: StudyResults) -> None:
    assert not set(INTERPRETED) & set(titles(study_report(results)))
    told = titles(study_report(replace(results, **interpreted())))
    first = told.index(INTERPRETED[0])
    assert told[first : first + 4] == INTERPRETED
    assert told[first + 4] == "Warnings"


def test_changed_genes_are_those_of_pairs_with_some(results: StudyResults) -> None:
    report = study_report(replace(results, **interpreted()))
    assert "Of 2 pairs of types that could be tested, 1 has genes" in words(report, INTERPRETED[0])
    assert "trained without these cells" in words(report, INTERPRETED[0])
    found, genes, pairs = blocks(report, INTERPRETED[0], Table)
    assert len(found.frame) == 1
    assert genes.frame["gene"].tolist() == ["g2", "g1", "g3"]  # by p, of that pair alone
    assert pairs.frame["ligand"].tolist() == list("abcde")
    assert figures(report, INTERPRETED[0]) == [png(403), png(404), png(405)]


def test_pairs_that_are_nearly_all_found_are_said_to_show_regions(results: StudyResults) -> None:
    def caution(n_found: int) -> str:
        interactions = pd.DataFrame(
            {
                "receiver": [TYPES[0]] * 6, "sender": [TYPES[1]] * 6, "n_genes": [1] * n_found + [0] * (6 - n_found),
                "n_genes_lowered": 0, "smallest_q": 0.01, "top_genes": "",
            }
        )  # fmt: skip
        return words(study_report(replace(results, **interpreted(interactions=interactions))), INTERPRETED[0])

    assert "ablation.permute_within=block" in caution(4)
    assert "ablation.permute_within=block" not in caution(3)


def test_effects_of_the_model_at_hand_are_said_to_be_that(results: StudyResults) -> None:
    given = interpreted()
    given["effects"] = given["effects"].assign(held_out=False)
    report = study_report(replace(results, **given))
    assert "p-values are too small" in words(report, INTERPRETED[0])


def test_unsupported_length_scales_are_left_out_of_the_page(results: StudyResults) -> None:
    report = study_report(replace(results, **interpreted()))
    scales, against_chance = blocks(report, INTERPRETED[1], Table)
    assert scales.frame["median"].tolist() == [20.0]
    assert against_chance.frame["q_value"].tolist() == [0.01, 0.5]


def test_large_galleries_are_left_in_their_folders(results: StudyResults) -> None:
    many = {f"one{number}": png(401) + b" " * 600_000 for number in range(8)}
    report = study_report(replace(results, **interpreted(gene_dots=many)))
    assert "left in the study's folder: Genes by receiver and sender (folder gene_dots)" in words(
        report, INTERPRETED[0]
    )
    assert [gallery.title for gallery in blocks(report, INTERPRETED[0], Gallery)] == ["Volcano plots by receiver"]
