"""Recovery of planted interactions: what was planted, and how well scores rank it."""

from __future__ import annotations

import itertools
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from naive import (
    made_tissue,
    naive_diff,
    random_model,
    random_tissue,
    stored_attention,
)
from sklearn.metrics import average_precision_score

from tissue_crosstalk.core.errors import ParameterError, ResultError
from tissue_crosstalk.core.flavors import FLAVORS
from tissue_crosstalk.core.model import CrosstalkModel
from tissue_crosstalk.core.model_input import to_anndata
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.recovery import (
    Ranking,
    interactions_by_name,
    measure_recovery,
    planted_edges,
    precision_recall_curve,
    rank_genes,
    rank_receivers,
    rank_recovery,
    stored_recovery,
    tabulate,
)
from tissue_crosstalk.core.simulation import Interaction
from tissue_crosstalk.core.tissue import PreparedTissue

TYPES = ("A", "B", "C")
A_TO_B = Interaction("A", "B", 5.0, ("g",))
C_TO_B = Interaction("C", "B", 2.0, ("g",))
NOBODY = Interaction("A", "gone", 5.0, ("g",))


def random_scores(seed: int, n: int = 60, *, ties: bool = False, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and which things were planted, at least one and not all."""
    generator = np.random.default_rng(seed)
    planted = generator.random(n) < share
    planted[:2] = True, False
    scores = generator.integers(0, 5, n).astype(float) if ties else generator.random(n)
    return scores + 0.3 * planted * generator.random(n) * (not ties), planted


# --- Which edges were planted


def test_planted_edges_by_hand() -> None:
    """A receiver B: A at 4 and 5 are planted, A at 6 is too far, C at 1 sends nothing; a receiver C: nothing is."""
    planted = planted_edges(
        [A_TO_B],
        TYPES,
        np.array([1, 2]),
        np.array([[0, 0, 0, 2], [0, 0, 1, 1]]),
        np.array([[4.0, 5.0, 6.0, 1.0], [1.0, 2.0, 3.0, 4.0]]),
    )
    assert planted.tolist() == [[True, True, False, False], [False, False, False, False]]


def test_planted_edges_of_several_interactions_are_all_planted() -> None:
    planted = planted_edges([A_TO_B, C_TO_B], TYPES, np.array([1]), np.array([[0, 2, 2]]), np.array([[5.0, 2.0, 3.0]]))
    assert planted.tolist() == [[True, True, False]]


def test_padded_slots_are_not_planted() -> None:
    planted = planted_edges([A_TO_B], TYPES, np.array([1]), np.array([[-1, 0]]), np.array([[np.inf, 1.0]]))
    assert planted.tolist() == [[False, True]]


def test_without_interactions_nothing_is_planted() -> None:
    assert not planted_edges([], TYPES, np.array([1]), np.array([[0]]), np.array([[1.0]])).any()


@pytest.mark.parametrize("absent", ["sender", "receiver"])
def test_a_type_that_the_tissue_lacks_plants_nothing(absent: str) -> None:
    """A small or filtered tissue may have lost a type of the truth."""
    interaction = Interaction(*(("gone", "B") if absent == "sender" else ("A", "gone")), 5.0, ("g",))
    planted = planted_edges([interaction, C_TO_B], TYPES, np.array([1]), np.array([[0, 2]]), np.ones((1, 2)))
    assert planted.tolist() == [[False, True]]


# --- Whom they affect


def test_affected_receivers_by_hand() -> None:
    """Of the four B, two have a sender within reach in their section; C sends to B, too, and A to C."""
    labels = np.array([0, 1, 1, 1, 1, 2, 0])
    coordinates = np.array([[0.0, 0], [5, 0], [6, 0], [0, 1], [20, 0], [21, 0], [22, 0]])
    sections = np.array([0, 0, 0, 1, 0, 0, 0])
    interactions = [A_TO_B, C_TO_B, Interaction("A", "C", 0.5, ("g",))]
    rankings = list(rank_receivers(interactions, TYPES, labels, coordinates, sections, np.arange(7.0)))
    assert [(ranking.what, ranking.name) for ranking in rankings] == [
        ("affected receivers", "all cells"),
        ("affected receivers of one type", "B"),
        ("affected receivers of one type", "C"),
    ]
    together, of_b, of_c = rankings
    assert np.flatnonzero(together.planted).tolist() == [1, 4]
    assert together.scores.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert of_b.scores.tolist() == [1, 2, 3, 4]
    assert of_b.planted.tolist() == [True, False, False, True]
    assert of_c.scores.tolist() == [5]
    assert of_c.planted.tolist() == [False]


def test_affected_receivers_need_not_have_the_sender_among_their_neighbors() -> None:
    """Eleven cells of C stand between: of one neighbor each, no edge is planted, and the receiver is affected."""
    tissue = made_tissue(
        np.column_stack([np.linspace(0, 1, 13), np.zeros(13)]),
        [1, *[2] * 11, 0],
        expression=np.random.default_rng(0).poisson(2, (13, 3)),
    )
    neighbors = find_neighbors(tissue, 1)
    table = measure_recovery(random_model(tissue, 1), tissue, neighbors, [A_TO_B]).set_index(["what", "name"])
    assert table.loc[("sender edges", "vanilla"), "base_rate"] == 0
    assert table.loc[("affected receivers", "all cells"), "base_rate"] == pytest.approx(1 / 13)


def test_without_any_receiver_nobody_is_ranked() -> None:
    rankings = list(rank_receivers([NOBODY], TYPES, np.array([0, 1]), np.zeros((2, 2)), np.zeros(2, int), np.ones(2)))
    assert [len(ranking.scores) for ranking in rankings] == [2, 0]
    assert not rankings[0].planted.any()


# --- Which genes they shift


@pytest.fixture
def case() -> tuple[CrosstalkModel, PreparedTissue, Neighbors]:
    """Return a model, a tissue of two sections in spatial order in which some slots are padded, and neighbors."""
    tissue = random_tissue(1, n_cells=36, n_sections=2)
    neighbors = find_neighbors(tissue, 13, pad=True)
    assert (neighbors.idx < 0).any()
    return random_model(tissue, 13), tissue, neighbors


INTERACTIONS = [
    Interaction("A", "B", 15.0, ("gene2", "gene5")),
    Interaction("C", "A", 9.0, ("gene0", "gene1", "gene4")),
]


def test_genes_are_ranked_by_the_size_of_the_effect(case: tuple[CrosstalkModel, PreparedTissue, Neighbors]) -> None:
    model, tissue, neighbors = case
    first, second = rank_genes(model, tissue, neighbors, interactions_by_name(INTERACTIONS))
    assert (first.what, first.name, second.name) == ("shifted genes", "A to B", "C to A")
    assert first.planted.tolist() == [False, False, True, False, False, True]
    assert second.planted.tolist() == [True, True, False, False, True, False]
    arguments = model.network, tissue.expression.toarray(), tissue.labels, neighbors.idx, neighbors.dist
    for ranking, (sender, receiver) in ((first, (0, 1)), (second, (2, 0))):
        diff = naive_diff(*arguments, sender, receiver)
        assert (diff < 0).any()
        np.testing.assert_allclose(ranking.scores, np.abs(diff), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lost", [0, 1])
def test_genes_of_an_interaction_that_lost_a_type_are_not_ranked(
    case: tuple[CrosstalkModel, PreparedTissue, Neighbors], lost: int
) -> None:
    """The model knows the type, and the tissue has no cell of it: there is no effect, not one of 0."""
    model, tissue, _ = case
    tissue = replace(tissue, labels=np.where(tissue.labels == lost, 2, tissue.labels).astype(np.int16))
    rankings = rank_genes(model, tissue, find_neighbors(tissue, 3, pad=True), interactions_by_name(INTERACTIONS[:1]))
    assert [len(ranking.scores) for ranking in rankings] == [0]


def test_a_gene_that_the_model_lacks_is_not_planted(case: tuple[CrosstalkModel, PreparedTissue, Neighbors]) -> None:
    interactions = interactions_by_name([replace(INTERACTIONS[0], genes=("gene5", "gene77"))])
    (ranking,) = rank_genes(*case, interactions)
    assert np.flatnonzero(ranking.planted).tolist() == [5]


def test_a_pair_comes_once() -> None:
    assert list(interactions_by_name([A_TO_B, C_TO_B])) == ["A to B", "C to B"]
    with pytest.raises(ParameterError, match=r"every sender and receiver once\. Got 'A to B' twice; make them one"):
        interactions_by_name([A_TO_B, C_TO_B, replace(A_TO_B, length_scale=7.0)])


# --- How well scores rank


def test_recovery_by_hand() -> None:
    """Ranks 1 and 3 of 4 are planted: precision 1 and 2/3 at a recall of half each; 3 of 4 pairs in order."""
    recovery = rank_recovery(np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False]))
    assert recovery.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert recovery.roc_auc == pytest.approx(3 / 4)
    assert recovery.base_rate == 0.5
    assert recovery.n == 4
    assert recovery.lift == pytest.approx(5 / 3)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_recovery_equals_the_definitions(seed: int, ties: bool) -> None:
    """Of tied scores, none comes before the other: precision and recall are taken after all of them."""
    scores, planted = random_scores(seed, ties=ties)
    recovery = rank_recovery(scores, planted)
    precision, recall_before = 0.0, 0.0
    for score in sorted(set(scores), reverse=True):
        recall = planted[scores >= score].sum() / planted.sum()
        precision += (recall - recall_before) * planted[scores >= score].mean()
        recall_before = recall
    assert recovery.average_precision == pytest.approx(precision)
    pairs = list(itertools.product(scores[planted], scores[~planted]))
    assert recovery.roc_auc == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    assert recovery.base_rate == planted.mean()


def test_a_random_ranking_has_the_base_rate() -> None:
    generator = np.random.default_rng(0)
    planted = generator.random(10_000) < 0.2
    recovery = rank_recovery(generator.random(10_000), planted)
    assert recovery.lift == pytest.approx(1, abs=0.1)
    assert recovery.roc_auc == pytest.approx(0.5, abs=0.02)


def test_equal_scores_are_a_random_ranking() -> None:
    recovery = rank_recovery(np.zeros(10), np.arange(10) < 3)
    assert (recovery.average_precision, recovery.roc_auc, recovery.lift) == (pytest.approx(0.3), 0.5, pytest.approx(1))


@pytest.mark.parametrize(("planted", "base_rate"), [([False, False], 0.0), ([True, True], 1.0), ([], math.nan)])
def test_what_cannot_be_measured_is_not_a_number(planted: list[bool], base_rate: float) -> None:
    """Nothing was planted, everything was, or there is nothing to rank: no ranking is better than another."""
    recovery = rank_recovery(np.arange(len(planted), dtype=float), np.array(planted, dtype=bool))
    assert math.isnan(recovery.average_precision)
    assert math.isnan(recovery.roc_auc)
    assert math.isnan(recovery.lift)
    assert recovery.base_rate == pytest.approx(base_rate, nan_ok=True)
    assert recovery.n == len(planted)


# --- Curves


def test_curve_by_hand() -> None:
    """Ranks 2 and 3 of 4 are planted: half of them are found with precision 1/2, all of them with 2/3."""
    recall, precision = precision_recall_curve(np.array([0.9, 0.8, 0.7, 0.1]), np.array([False, True, True, False]))
    assert recall.tolist() == [0.5, 1.0]
    assert precision.tolist() == [0.5, pytest.approx(2 / 3)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_area_below_the_curve_is_the_average_precision(seed: int, ties: bool) -> None:
    scores, planted = random_scores(seed, ties=ties)
    recall, precision = precision_recall_curve(scores, planted)
    assert (np.diff(recall) > 0).all()
    area = (np.diff(recall, prepend=0.0) * precision).sum()
    assert area == pytest.approx(rank_recovery(scores, planted).average_precision)


def test_long_curves_are_thinned() -> None:
    scores, planted = random_scores(0, 20_000)
    whole = precision_recall_curve(scores, planted, most_points=20_000)
    recall, precision = precision_recall_curve(scores, planted, most_points=50)
    assert len(whole[0]) == planted.sum()
    assert 40 <= len(recall) <= 50
    assert set(zip(recall, precision, strict=True)) <= set(zip(*whole, strict=True))
    assert (recall[0], recall[-1]) == (whole[0][0], 1.0)
    assert np.diff(recall).max() < 1.5 / 50
    area = (np.diff(recall, prepend=0.0) * precision).sum()
    assert area == pytest.approx(rank_recovery(scores, planted).average_precision, abs=0.02)
    assert len(precision_recall_curve(scores, planted)[0]) <= 200


@pytest.mark.parametrize("planted", [[False, False], [True, True], []])
def test_no_curve_where_there_is_nothing_to_measure(planted: list[bool]) -> None:
    recall, precision = precision_recall_curve(np.ones(len(planted)), np.array(planted, dtype=bool))
    assert recall.shape == precision.shape == (0,)


# --- Tables


def test_tables_by_hand() -> None:
    rankings = [
        Ranking("sender edges", "vanilla", np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])),
        Ranking("shifted genes", "A to B", np.empty(0), np.empty(0, dtype=bool)),
        Ranking("shifted genes", "C to B", np.array([1.0, 2.0]), np.array([False, True])),
    ]
    recovery, curves = tabulate(iter(rankings))
    assert list(recovery.columns) == ["what", "name", "average_precision", "roc_auc", "base_rate", "lift", "n"]
    assert recovery["what"].tolist() == ["sender edges", "shifted genes", "shifted genes"]
    assert recovery["name"].tolist() == ["vanilla", "A to B", "C to B"]
    numbers = recovery.iloc[:, 2:].to_numpy(dtype=float)
    np.testing.assert_allclose(
        numbers, [[5 / 6, 3 / 4, 0.5, 5 / 3, 4], [*[np.nan] * 4, 0], [1, 1, 0.5, 2, 2]], equal_nan=True
    )
    expected = pd.DataFrame(
        {
            "what": ["sender edges", "sender edges", "shifted genes"],
            "name": ["vanilla", "vanilla", "C to B"],
            "recall": [0.5, 1.0, 1.0],
            "precision": [1.0, 2 / 3, 1.0],
        }
    )
    pd.testing.assert_frame_equal(curves, expected, check_dtype=False, check_categorical=False)
    for table in (recovery, curves):
        assert object not in set(table.dtypes)
    assert recovery["n"].dtype == np.int64
    assert set(curves[["recall", "precision"]].dtypes) == {np.dtype(float)}


# --- The whole


def stored(
    folder: Path, case: tuple[CrosstalkModel, PreparedTissue, Neighbors], flavors: Sequence[str] = tuple(FLAVORS)
) -> list[Any]:
    """Return the arguments of `stored_recovery` after the truth: all folders in three shards, and what they are of."""
    model, tissue, neighbors = case
    kept = stored_attention(folder, tissue, neighbors, model, flavors=flavors)
    folders = [kept.attention_patterns, kept.flavored, kept.nn_idxs, kept.nn_dists, kept.cells]
    return [*folders, to_anndata(tissue, neighbors), model]


def test_measured_equals_the_parts(case: tuple[CrosstalkModel, PreparedTissue, Neighbors], tmp_path: Path) -> None:
    model, tissue, neighbors = case
    table = measure_recovery(model, tissue, neighbors, INTERACTIONS)
    assert list(zip(table["what"], table["name"], strict=True)) == [
        *[("sender edges", flavor) for flavor in ("vanilla", "value-weighted", "info-weighted", "gene-weighted")],
        ("affected receivers", "all cells"),
        ("affected receivers of one type", "B"),
        ("affected receivers of one type", "A"),
        ("shifted genes", "A to B"),
        ("shifted genes", "C to A"),
    ]
    by_name = table.set_index(["what", "name"])
    arrays = stored_attention(tmp_path, tissue, neighbors, model, flavors=list(FLAVORS)).arrays
    senders, present = neighbors.labels(tissue.labels), neighbors.idx >= 0
    planted = planted_edges(INTERACTIONS, tissue.cell_types, tissue.labels, senders, neighbors.dist)[present]
    assert 0 < planted.sum() < present.sum()
    for flavor in FLAVORS:
        row = by_name.loc[("sender edges", flavor)]
        scores = arrays[flavor].max(axis=0)[present]
        assert row["average_precision"] == pytest.approx(average_precision_score(planted, scores))
        assert row["base_rate"] == pytest.approx(planted.mean())
        assert row["n"] == present.sum()
    affected = np.zeros(tissue.n_cells, bool)
    for interaction in INTERACTIONS:
        for cell, other in itertools.product(range(tissue.n_cells), repeat=2):
            kinds = tissue.cell_types[tissue.labels[other]], tissue.cell_types[tissue.labels[cell]]
            away = np.linalg.norm(tissue.coordinates[cell] - tissue.coordinates[other])
            if kinds == (interaction.sender, interaction.receiver) and away <= interaction.length_scale:
                affected[cell] |= tissue.sections[cell] == tissue.sections[other]
    largest = arrays["vanilla"].max(axis=(0, 2))
    for name, cells in (("all cells", slice(None)), ("B", tissue.labels == 1), ("A", tissue.labels == 0)):
        row = by_name.xs(name, level="name").iloc[0]
        expected = rank_recovery(largest[cells], affected[cells])
        assert 0 < expected.base_rate < 1
        assert row[["average_precision", "roc_auc", "base_rate"]].tolist() == pytest.approx(
            [expected.average_precision, expected.roc_auc, expected.base_rate]
        )
        assert row["n"] == len(largest[cells])
    assert by_name.loc[("shifted genes", "C to A"), ["base_rate", "n"]].tolist() == [0.5, 6]
    for ranking in rank_genes(model, tissue, neighbors, interactions_by_name(INTERACTIONS)):
        assert by_name.loc[("shifted genes", ranking.name), "average_precision"] == pytest.approx(
            average_precision_score(ranking.planted, ranking.scores)
        )


def test_stored_equals_measured(case: tuple[CrosstalkModel, PreparedTissue, Neighbors], tmp_path: Path) -> None:
    """Whatever the shards, and though the folders are in another order than the tissue."""
    assert case[1].positions.tolist() != list(range(36))
    recovery, curves = stored_recovery(INTERACTIONS, *stored(tmp_path, case))
    pd.testing.assert_frame_equal(recovery, measure_recovery(*case, INTERACTIONS), rtol=1e-9)
    for row in recovery.to_dict("records"):
        points = curves[(curves["what"] == row["what"]) & (curves["name"] == row["name"])]
        area = (np.diff(points["recall"], prepend=0.0) * points["precision"]).sum()
        assert area == pytest.approx(row["average_precision"])  # few edges: no curve is thinned


def test_vanilla_edges_and_receivers_need_no_flavor(
    case: tuple[CrosstalkModel, PreparedTissue, Neighbors], tmp_path: Path
) -> None:
    recovery, _ = stored_recovery(INTERACTIONS, *stored(tmp_path, case, ["gene-weighted"]))
    whole = measure_recovery(*case, INTERACTIONS)
    kept = whole[~whole["name"].isin(["value-weighted", "info-weighted"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(recovery, kept, rtol=1e-9, check_categorical=False)


def test_without_interactions_nothing_is_measured(
    case: tuple[CrosstalkModel, PreparedTissue, Neighbors], tmp_path: Path
) -> None:
    recovery, curves = stored_recovery([], *stored(tmp_path, case))
    assert recovery["what"].tolist() == [*["sender edges"] * 4, "affected receivers"]
    assert recovery[["average_precision", "roc_auc", "lift"]].isna().all(axis=None)
    assert (recovery["base_rate"] == 0).all()
    assert (recovery["n"] > 0).all()
    assert curves.empty


def test_names_that_the_model_lacks_are_told(
    case: tuple[CrosstalkModel, PreparedTissue, Neighbors], caplog: pytest.LogCaptureFixture
) -> None:
    known, unknown = INTERACTIONS[0], Interaction("A", "c", 9.0, ("gene1", "gene-2"))
    with caplog.at_level(logging.WARNING):
        table = measure_recovery(*case, [known, unknown])
    types, genes = (record.getMessage() for record in caplog.records)
    assert (
        types
        == "the truth names a cell type that the model does not have: 'c'. Did you mean 'C'? It counts as not planted."
    )
    assert genes.startswith("the truth names a gene that the model does not have: 'gene-2'. Did you mean 'gene2'?")
    of_unknown = table[table["name"].isin(["c", "A to c"])]
    assert of_unknown["n"].tolist() == [0, 0]
    assert of_unknown[["average_precision", "roc_auc", "base_rate", "lift"]].isna().all(axis=None)
    caplog.clear()
    rest = measure_recovery(*case, [known])
    assert not caplog.records
    pd.testing.assert_frame_equal(table.drop(of_unknown.index).reset_index(drop=True), rest, check_categorical=False)


def test_results_of_different_runs_are_refused(
    case: tuple[CrosstalkModel, PreparedTissue, Neighbors], tmp_path: Path
) -> None:
    model, tissue, neighbors = case
    arguments = stored(tmp_path / "one", case)
    other_genes = replace(tissue, genes=tuple(f"other{gene}" for gene in range(6)))
    with pytest.raises(ResultError, match="the model input was prepared for another model: it has 6 genes"):
        stored_recovery(INTERACTIONS, *arguments[:5], to_anndata(other_genes, neighbors), model)
    renamed = replace(tissue, cell_names=np.array([f"x{name}" for name in tissue.cell_names], dtype=object))
    with pytest.raises(ResultError, match="the results are of another tissue"):
        stored_recovery(INTERACTIONS, *arguments[:5], to_anndata(renamed, neighbors), model)


def test_missing_shards_are_refused(case: tuple[CrosstalkModel, PreparedTissue, Neighbors], tmp_path: Path) -> None:
    """Of attention and neighbors alike, so that only the table of cells can tell."""
    stored(tmp_path / "whole", case)
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    for name in ("attention_patterns", "nn_idxs", "nn_dists"):
        (tmp_path / "part" / name / "part-00002.parquet").unlink()
    model, tissue, neighbors = case
    kept = replace(stored_attention(tmp_path / "again", tissue, neighbors, model), folder=tmp_path / "part")
    folders = [kept.attention_patterns, kept.flavored, kept.nn_idxs, kept.nn_dists, kept.cells]
    with pytest.raises(
        ResultError, match=r"attention_patterns holds 2\d cells and table 'cells' 36: .* different runs"
    ):
        stored_recovery(INTERACTIONS, *folders, to_anndata(tissue, neighbors), model)


def test_nothing_is_changed(case: tuple[CrosstalkModel, PreparedTissue, Neighbors]) -> None:
    _, tissue, neighbors = case
    kept = tissue.labels.copy(), neighbors.idx.copy(), neighbors.dist.copy(), list(INTERACTIONS)
    measure_recovery(*case, INTERACTIONS)
    assert (tissue.labels == kept[0]).all()
    assert (neighbors.idx == kept[1]).all()
    assert (neighbors.dist == kept[2]).all()
    assert kept[3] == INTERACTIONS
