"""Simulated tissues: what is planted is there, and nowhere else."""

from __future__ import annotations

import json
from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from tissue_crosstalk.core.errors import ParameterError, ResultError
from tissue_crosstalk.core.simulation import (
    CELL_SPACING,
    Interaction,
    SimulationSettings,
    affected_receivers,
    interactions_from_record,
    simulate_tissue,
    truth_record,
)

SETTINGS = SimulationSettings(n_cells=3000, n_genes=60, genes_per_interaction=8, n_sections=2)
SMALL = SimulationSettings(n_cells=150, n_genes=20, genes_per_interaction=5)


@cache
def simulated() -> tuple[ad.AnnData, list[Interaction]]:
    return simulate_tissue(SETTINGS, seed=4)


def parts_of(tissue: ad.AnnData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return cell types, coordinates and sections."""
    return (
        tissue.obs["cell_type"].to_numpy(dtype=str),
        tissue.obsm["spatial"],
        tissue.obs["section"].cat.codes.to_numpy(),
    )


def assert_same(one: ad.AnnData, other: ad.AnnData) -> None:
    assert (one.X != other.X).nnz == 0
    pd.testing.assert_frame_equal(one.obs, other.obs)
    pd.testing.assert_frame_equal(one.var, other.var)
    assert (one.obsm["spatial"] == other.obsm["spatial"]).all()


def test_the_same_seed_gives_the_same_bits() -> None:
    tissue, interactions = simulated()
    again, same = simulate_tissue(SETTINGS, seed=4)
    assert_same(tissue, again)
    assert interactions == same


def test_another_seed_gives_another_tissue() -> None:
    (one, truth), (other, other_truth) = simulate_tissue(SMALL, seed=0), simulate_tissue(SMALL, seed=1)
    assert (one.X != other.X).nnz > 0
    assert (one.obsm["spatial"] != other.obsm["spatial"]).all()
    assert truth != other_truth


def test_the_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002  # which is what this is about
    simulate_tissue(SMALL, seed=0)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_the_tissue_is_as_the_settings_say() -> None:
    tissue, interactions = simulated()
    assert tissue.shape == (3000, 60)
    assert isinstance(tissue.X, sparse.csr_matrix)
    assert tissue.X.dtype == np.float32
    assert (tissue.X.data == np.round(tissue.X.data)).all()
    assert (tissue.X.data > 0).all()
    assert tissue.X.sum(axis=1).min() > 0
    assert tissue.obs_names.is_unique
    assert list(tissue.obs["cell_type"].cat.categories) == [f"type {letter}" for letter in "ABCDEF"]
    assert tissue.obs["section"].value_counts().to_dict() == {"section 1": 1500, "section 2": 1500}
    assert tissue.obsm["spatial"].shape == (3000, 2)
    assert float(tissue.X.sum(axis=1).mean()) == pytest.approx(SETTINGS.mean_counts, rel=0.15)
    assert len(interactions) == 3


def test_interactions_are_as_the_settings_say() -> None:
    """Each sender type sends to one receiver type, which sends nothing itself."""
    tissue, interactions = simulated()
    assert [interaction.sender for interaction in interactions] == ["type A", "type B", "type C"]
    assert [interaction.receiver for interaction in interactions] == ["type D", "type E", "type F"]
    for interaction in interactions:
        assert SETTINGS.length_scale_min <= interaction.length_scale <= SETTINGS.length_scale_max
        assert len(set(interaction.genes)) == 8
        assert set(interaction.genes) <= set(tissue.var_names)


def test_more_interactions_than_receiver_types_share_them() -> None:
    settings = SimulationSettings(n_cells=60, n_genes=9, genes_per_interaction=2, n_cell_types=5, n_interactions=3)
    _, interactions = simulate_tissue(settings, seed=0)
    assert [interaction.receiver for interaction in interactions] == ["type D", "type E", "type D"]


def test_senders_are_in_their_region_alone() -> None:
    """The left part of each section; of all cells there, about the share asked for."""
    cell_types, coordinates, sections = parts_of(simulated()[0])
    is_sender = np.isin(cell_types, ["type A", "type B", "type C"])
    for section in (0, 1):
        here = sections == section
        edge = SETTINGS.sender_region * np.ceil(np.sqrt(here.sum())) * CELL_SPACING
        in_region = coordinates[:, 0] < edge
        assert not is_sender[here & ~in_region].any()
        assert (here & ~in_region).sum() > 400
        assert is_sender[here & in_region].mean() == pytest.approx(3 * SETTINGS.sender_share, abs=0.04)


def test_cells_keep_their_distance() -> None:
    """They lie on a jittered grid, of which no two share a place."""
    _, coordinates, sections = parts_of(simulated()[0])
    one = coordinates[sections == 0]
    apart = np.linalg.norm(one[:, None] - one[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() >= 0.1 * CELL_SPACING - 1e-9
    assert 0.4 * CELL_SPACING < np.median(apart.min(axis=1)) < CELL_SPACING


def test_planted_genes_are_raised_in_affected_receivers_alone() -> None:
    tissue, interactions = simulated()
    cell_types, coordinates, sections = parts_of(tissue)
    counts = tissue.X.toarray()
    for interaction in interactions:
        affected = affected_receivers(interaction, cell_types, coordinates, sections)
        others = np.setdiff1d(np.flatnonzero(cell_types == interaction.receiver), affected)
        assert min(len(affected), len(others)) > 50
        change = np.log2((counts[affected].mean(axis=0) + 1e-9) / (counts[others].mean(axis=0) + 1e-9))
        often = counts[others].mean(axis=0) > 1  # of rare genes a mean says little
        planted = tissue.var_names.isin(interaction.genes)
        assert (planted & often).sum() >= 3
        assert np.abs(change[planted & often] - SETTINGS.log2_fold_change).max() < 0.6
        assert np.abs(change[~planted & often]).max() < 0.6
        assert change[planted & often].min() > change[~planted & often].max()


def test_without_interactions_there_are_no_senders() -> None:
    settings = SimulationSettings(n_cells=40, n_genes=5, genes_per_interaction=1, n_cell_types=1, n_interactions=0)
    tissue, interactions = simulate_tissue(settings, seed=0)
    assert interactions == []
    assert set(tissue.obs["cell_type"]) == {"type A"}


def test_many_types_have_numbers() -> None:
    settings = SimulationSettings(n_cells=90, n_genes=5, genes_per_interaction=1, n_cell_types=30, n_interactions=0)
    tissue, _ = simulate_tissue(settings, seed=0)
    assert list(tissue.obs["cell_type"].cat.categories) == [f"type {number}" for number in range(30)]


def test_affected_receivers_by_hand() -> None:
    """Within 5: the receiver at 3 and the one at 5; not that at 6, nor those of another type or section."""
    interaction = Interaction("S", "R", 5.0, ("g",))
    coordinates = np.array([[0.0, 0], [3, 0], [0, 5], [6, 0], [1, 0], [2, 0]])
    cell_types = np.array(["S", "R", "R", "R", "Q", "R"])
    affected = affected_receivers(interaction, cell_types, coordinates, np.array([0, 0, 0, 0, 0, 1]))
    assert affected.tolist() == [1, 2]


@pytest.mark.parametrize("cell_types", [["R", "R"], ["S", "S"], ["Q", "Q"]])
def test_without_senders_or_receivers_nobody_is_affected(cell_types: list[str]) -> None:
    interaction = Interaction("S", "R", 5.0, ("g",))
    affected = affected_receivers(interaction, np.array(cell_types), np.zeros((2, 2)), np.zeros(2, int))
    assert affected.tolist() == []
    assert affected.dtype == np.intp


def test_the_truth_survives_json() -> None:
    _, interactions = simulated()
    record = json.loads(json.dumps(truth_record(interactions)))
    assert interactions_from_record(record) == interactions
    assert record["interactions"][0]["sender"] == "type A"


def test_no_truth_survives_json() -> None:
    assert interactions_from_record(json.loads(json.dumps(truth_record([])))) == []


INTERACTION = {"sender": "A", "receiver": "B", "length_scale": 20, "genes": ["g"]}


def test_a_truth_of_ones_own() -> None:
    assert interactions_from_record({"interactions": [INTERACTION], "source": "a paper"}) == [
        Interaction("A", "B", 20, ("g",))
    ]


@pytest.mark.parametrize("record", [[INTERACTION], {}, {"interactions": INTERACTION}, None])
def test_what_is_no_truth_is_refused(record: object) -> None:
    with pytest.raises(
        ResultError, match=r"^simulated_truth must be a JSON object .*\. Got .* instead; mend the file\.$"
    ):
        interactions_from_record(record)


@pytest.mark.parametrize(
    "given",
    [
        {"sender": 3},
        {"receiver": None},
        {"length_scale": "20"},
        {"length_scale": 0},
        {"length_scale": float("inf")},
        {"length_scale": True},
        {"genes": "g"},
        {"genes": [3]},
        {"effect": "up"},
    ],
)
def test_what_is_no_interaction_is_refused_by_its_number(given: dict[str, object]) -> None:
    with pytest.raises(ResultError) as caught:
        interactions_from_record({"interactions": [INTERACTION, {**INTERACTION, **given}]})
    assert str(caught.value).startswith("simulated_truth: interaction 1 must have sender and receiver")
    assert str({**INTERACTION, **given}) in str(caught.value)


@pytest.mark.parametrize("missing", INTERACTION)
def test_an_interaction_without_a_part_is_refused(missing: str) -> None:
    entry = {name: value for name, value in INTERACTION.items() if name != missing}
    with pytest.raises(ResultError, match="interaction 0 must have"):
        interactions_from_record({"interactions": [entry]})


def test_long_nonsense_is_cut() -> None:
    with pytest.raises(ResultError) as caught:
        interactions_from_record({"interactions": ["x" * 10_000]})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_cells": 0}, "n_cells must be at least 1"),
        ({"n_genes": 0}, "n_genes must be at least 1"),
        ({"n_sections": 0}, "n_sections must be at least 1"),
        ({"n_interactions": -1}, "n_interactions must be at least 0"),
        ({"n_cell_types": 4}, "n_cell_types must be at least n_interactions + 2 (senders, and two types for the rest)"),
        ({"n_cell_types": 0, "n_interactions": 0}, "n_cell_types must be at least"),
        ({"genes_per_interaction": 0}, "genes_per_interaction must be in [1, n_genes]"),
        ({"genes_per_interaction": 121}, "genes_per_interaction must be in [1, n_genes]"),
        ({"length_scale_min": 0.0}, "length_scale_min must be above 0 and at most length_scale_max"),
        ({"length_scale_min": 31.0}, "length_scale_min must be above 0 and at most length_scale_max"),
        ({"sender_region": 0.0}, "sender_region must be in (0, 1]"),
        ({"sender_region": 1.1}, "sender_region must be in (0, 1]"),
        ({"sender_share": 0.0}, "sender_share must be positive, and n_interactions times sender_share below 1"),
        ({"sender_share": 0.4}, "sender_share must be positive, and n_interactions times sender_share below 1"),
        ({"mean_counts": 0.0}, "mean_counts must be positive"),
    ],
)
def test_settings_say_what_is_wrong(given: dict[str, float], words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        SimulationSettings(**given)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(words)
    assert message.endswith(" instead.")
    ((name, value),) = list(given.items())[:1]
    assert f"{name}={value}" in message
