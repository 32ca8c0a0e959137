"""Recovery of planted interactions: which edges were planted, and how well scores rank them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from naive import (
    random_model,
    random_tissue,
    stored_attention,
)
from sklearn.metrics import average_precision_score

from tissue_crosstalk.core.neighbors import find_neighbors
from tissue_crosstalk.core.recovery import Recovery, planted_edges, rank_recovery, stored_recovery
from tissue_crosstalk.core.simulation import Interaction

TYPES = ("A", "B", "C")
A_TO_B = Interaction("A", "B", 5.0, ("g",))
C_TO_B = Interaction("C", "B", 2.0, ("g",))


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


def test_recovery_by_hand() -> None:
    """Ranks 1 and 3 of 4 are planted: precision 1 and 2/3 at a recall of half each."""
    scores = np.array([[0.9, 0.8], [0.7, 0.1]])
    planted = np.array([[True, False], [True, False]])
    recovery = rank_recovery(scores, planted, np.ones((2, 2), bool))
    assert recovery.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert recovery.base_rate == 0.5
    assert recovery.lift == pytest.approx(5 / 3)


def test_edges_that_are_not_present_take_no_part() -> None:
    scores = np.array([[0.9, 0.95, 0.1]])
    recovery = rank_recovery(scores, np.array([[True, False, False]]), np.array([[True, False, True]]))
    assert recovery == Recovery(average_precision=1.0, base_rate=0.5)


def test_a_random_ranking_has_the_base_rate() -> None:
    generator = np.random.default_rng(0)
    planted = generator.random((500, 20)) < 0.2
    recovery = rank_recovery(generator.random((500, 20)), planted, np.ones((500, 20), bool))
    assert recovery.base_rate == planted.mean()
    assert recovery.lift == pytest.approx(1, abs=0.1)


def test_nothing_planted_is_no_recovery() -> None:
    recovery = rank_recovery(np.ones((2, 2)), np.zeros((2, 2), bool), np.ones((2, 2), bool))
    assert (recovery.average_precision, recovery.base_rate) == (0.0, 0.0)
    assert math.isnan(recovery.lift)


def test_no_edge_at_all_is_no_recovery() -> None:
    recovery = rank_recovery(np.ones((2, 2)), np.ones((2, 2), bool), np.zeros((2, 2), bool))
    assert (recovery.average_precision, recovery.base_rate) == (0.0, 0.0)


def test_stored_recovery_equals_that_of_the_arrays(tmp_path: Path) -> None:
    """Per flavor, over all shards, with padded slots."""
    tissue = random_tissue(1, n_cells=36, n_sections=2)
    neighbors = find_neighbors(tissue, 13, pad=True)
    assert (neighbors.idx < 0).any()
    stored = stored_attention(
        tmp_path, tissue, neighbors, random_model(tissue, 13), flavors=["gene-weighted", "vanilla"]
    )
    interactions = [Interaction("A", "B", 15.0, ("g",)), Interaction("C", "A", 9.0, ("g",))]
    measured = stored_recovery(interactions, stored.flavored, stored.nn_idxs, stored.nn_dists, stored.cells)
    assert list(measured) == ["vanilla", "gene-weighted"]
    senders = neighbors.labels(tissue.labels)
    planted = planted_edges(interactions, tissue.cell_types, tissue.labels, senders, neighbors.dist)
    present = neighbors.idx >= 0
    assert 0 < planted.sum() < present.sum()
    for flavor, recovery in measured.items():
        scores = stored.arrays[flavor].max(axis=0)
        assert recovery.base_rate == pytest.approx(planted[present].mean())
        assert recovery.average_precision == pytest.approx(average_precision_score(planted[present], scores[present]))
