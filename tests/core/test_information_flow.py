"""From where cells are attended to: sums over stored shards against plain loops."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from naive import Stored, random_model, stored_attention
from test_stored import BACK, N_NEIGHBORS, NEIGHBORS, TISSUE

from tissue_crosstalk.core.errors import ParameterError, ResultError
from tissue_crosstalk.core.information_flow import InformationFlow, information_flow

PLACES = TISSUE.coordinates[BACK]
LABELS = TISSUE.labels[BACK]
NN_IDX = np.where(NEIGHBORS.idx < 0, -1, TISSUE.positions[NEIGHBORS.idx])[BACK]
FLAVORS = ["vanilla", "gene-weighted"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Return one extraction, in three shards. Not to be changed."""
    folder = tmp_path_factory.mktemp("kept")
    return stored_attention(folder, TISSUE, NEIGHBORS, random_model(TISSUE, N_NEIGHBORS), flavors=FLAVORS)


def naive_flow(attention: np.ndarray, receiver: int | None, sender: int | None) -> InformationFlow:
    n_heads, n_cells, n_slots = attention.shape
    way, total = np.full(PLACES.shape, np.nan), np.full(n_cells, np.nan)
    for cell in range(n_cells):
        if receiver is not None and LABELS[cell] != receiver:
            continue
        way[cell], total[cell] = 0.0, 0.0
        for slot in range(n_slots):
            neighbor = NN_IDX[cell, slot]
            if neighbor < 0 or (sender is not None and LABELS[neighbor] != sender):
                continue
            for head in range(n_heads):
                share = attention[head, cell, slot] / n_heads
                way[cell] += share * (PLACES[neighbor] - PLACES[cell])
                total[cell] += share
    return InformationFlow(way, total)


def assert_same(found: InformationFlow, expected: InformationFlow) -> None:
    np.testing.assert_allclose(found.displacement, expected.displacement, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.attention, expected.attention, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("flavor", [None, *FLAVORS])
def test_all_pairs_against_loops(kept: Stored, flavor: str | None) -> None:
    attention = kept.arrays[flavor or "vanilla"][:, BACK].astype(float)
    folder = kept.attention_patterns if flavor is None else kept.flavored
    found = information_flow(folder, kept.nn_idxs, kept.cells, flavor=flavor)
    assert_same(found, naive_flow(attention, None, None))
    assert np.isfinite(found.displacement).all()
    assert np.abs(found.displacement).max() > 0.1


def test_each_pair_against_loops(kept: Stored) -> None:
    attention = kept.arrays["vanilla"][:, BACK].astype(float)
    parts = []
    for receiver, sender in itertools.product([None, 0], [None, 1, 2]):
        found = information_flow(
            kept.attention_patterns, kept.nn_idxs, kept.cells,
            receiver=None if receiver is None else TISSUE.cell_types[receiver],
            sender=None if sender is None else TISSUE.cell_types[sender],
        )  # fmt: skip
        assert_same(found, naive_flow(attention, receiver, sender))
        assert np.array_equal(np.isnan(found.attention), np.full(len(LABELS), receiver == 0) & (LABELS != 0))
        if receiver == 0:
            parts.append(found)
    # Types 1 and 2 are all that neighbors of type 0 can be.
    np.testing.assert_allclose(
        parts[1].displacement + parts[2].displacement, parts[0].displacement, rtol=1e-9, atol=1e-12
    )


def test_shards_do_not_matter(kept: Stored, tmp_path: Path) -> None:
    model = random_model(TISSUE, N_NEIGHBORS)
    whole = stored_attention(tmp_path, TISSUE, NEIGHBORS, model, cells_per_shard=99)
    assert_same(
        information_flow(whole.attention_patterns, whole.nn_idxs, whole.cells),
        information_flow(kept.attention_patterns, kept.nn_idxs, kept.cells),
    )


@pytest.mark.parametrize("n_threads", [1, 3])
def test_threads_do_not_matter_to_the_last_bit(kept: Stored, monkeypatch: pytest.MonkeyPatch, n_threads: int) -> None:
    expected = information_flow(kept.attention_patterns, kept.nn_idxs, kept.cells)
    monkeypatch.setattr("tissue_crosstalk.core.information_flow.threads", lambda: n_threads)
    found = information_flow(kept.attention_patterns, kept.nn_idxs, kept.cells)
    assert np.array_equal(found.displacement, expected.displacement)
    assert np.array_equal(found.attention, expected.attention)


def test_refused(kept: Stored) -> None:
    for given, words in (
        ({"receiver": "a"}, "`receiver` must be a cell type of the tissue: 'NK/T', 'B, naive'"),
        ({"sender": "X"}, "`sender` must be a cell type"),
    ):
        with pytest.raises(ParameterError, match=words):
            information_flow(kept.attention_patterns, kept.nn_idxs, kept.cells, **given)
    with pytest.raises(ResultError, match="shards"):
        information_flow(kept.flavored, kept.nn_idxs, kept.cells, flavor="info-weighted")
