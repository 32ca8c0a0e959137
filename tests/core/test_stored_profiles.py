"""Profiles of attention in parquet folders: those of the arrays, in plain loops, however the folders are cut."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from naive import Floats, Stored, random_model, stored_attention
from scipy.stats import spearmanr
from test_stored import BACK, N_NEIGHBORS, NEIGHBORS, TISSUE

from tissue_crosstalk.core.distance import DistanceBins
from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.flavors import FLAVORS
from tissue_crosstalk.core.stored_profiles import (
    AttentionProfiles,
    binned_table,
    profile_metrics,
    profile_stored_attention,
)

# In the order of the tissue.
TYPES = TISSUE.cell_types
LABELS, SECTIONS = TISSUE.labels[BACK], TISSUE.sections[BACK]
NN_IDX = np.where(NEIGHBORS.idx < 0, -1, TISSUE.positions[NEIGHBORS.idx])[BACK]
NN_DIST = NEIGHBORS.dist[BACK]
N_HEADS = 2
QUANTILE = 0.83
MAX_DISTANCE = 20.0
TABLES = ("by_pair", "by_head", "by_cell", "head_profile", "flavor_agreement")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Return one extraction with all flavors, in three shards. Not to be changed."""
    folder = tmp_path_factory.mktemp("kept")
    return stored_attention(folder, TISSUE, NEIGHBORS, random_model(TISSUE, N_NEIGHBORS), flavors=list(FLAVORS))


def profiles_of(stored: Stored, **given: Any) -> AttentionProfiles:
    folders = stored.attention_patterns, stored.flavored, stored.nn_idxs, stored.nn_dists, stored.cells
    settings = {"max_distance": MAX_DISTANCE, "bin_size": 5.0, "strong_quantile": QUANTILE} | given
    return profile_stored_attention(*folders, **settings)


@pytest.fixture(scope="module")
def profiles(kept: Stored) -> AttentionProfiles:
    return profiles_of(kept)


def of_flavor(stored: Stored, flavor: str) -> Floats:
    """Return the attention in the order of the tissue, (head, cell, neighbor)."""
    return stored.arrays[flavor][:, BACK].astype(float)


def edges() -> Iterator[tuple[int, int, int]]:
    """Yield cell, slot and neighbor of every edge."""
    for cell, neighbors in enumerate(NN_IDX):
        for slot, neighbor in enumerate(neighbors):
            if neighbor >= 0:
                yield cell, slot, int(neighbor)


def naive_pairs(attention: Floats, group_of: Callable[[int], Any]) -> list[tuple[Any, ...]]:
    """Return the rows of a flavor, thresholds being those of groups of receivers."""
    by_group: dict[Any, list[float]] = {}
    for cell, slot, _ in edges():
        by_group.setdefault(group_of(cell), []).append(max(attention[:, cell, slot]))
    thresholds = {
        group: np.quantile([value for value in values if value > 0], QUANTILE) for group, values in by_group.items()
    }
    rows = []
    for receiver in range(len(TYPES)):
        for sender in range(len(TYPES)):
            found = [(c, s) for c, s, n in edges() if (LABELS[c], LABELS[n]) == (receiver, sender)]
            if found:
                strong = sum(max(attention[:, c, s]) > thresholds[group_of(c)] for c, s in found)
                mean = np.mean([attention[head, c, s] for c, s in found for head in range(N_HEADS)])
                n_receivers = sum(receiver == LABELS)
                ends = TYPES[receiver], TYPES[sender]
                rows.append((*ends, n_receivers, mean, len(found), strong, strong / len(found)))
    return rows


def naive_by_head(attention: Floats) -> list[tuple[Any, ...]]:
    rows = []
    for receiver in range(len(TYPES)):
        for head in range(N_HEADS):
            for sender in range(len(TYPES)):
                found = [attention[head, c, s] for c, s, n in edges() if (LABELS[c], LABELS[n]) == (receiver, sender)]
                if found:
                    ends = TYPES[receiver], head, TYPES[sender]
                    rows.append((*ends, np.mean(found), np.std(found, ddof=1), len(found)))
    return rows


def assert_rows(table: pd.DataFrame, expected: list[tuple[Any, ...]], rtol: float = 1e-5) -> None:
    assert len(table) == len(expected)
    for found, wanted in zip(table.itertuples(index=False), expected, strict=True):
        for one, other in zip(found, wanted, strict=True):
            assert one == (pytest.approx(other, rel=rtol) if isinstance(other, float) else other)


def assert_same(one: AttentionProfiles, other: AttentionProfiles) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-7)
    assert one.distance_bins.keys() == other.distance_bins.keys()
    for flavor, bins in one.distance_bins.items():
        pd.testing.assert_frame_equal(bins.table(1), other.distance_bins[flavor].table(1), rtol=1e-5, atol=1e-7)


# --- Against the arrays


def test_the_tissue_has_what_could_go_wrong() -> None:
    """Padded slots, sections, rows that are not in the order of the tissue, edges of all lengths."""
    assert (NN_IDX < 0).any()
    assert len(set(SECTIONS)) == 2
    assert (np.arange(36) != BACK).any()
    assert 0 < (NN_DIST[NN_IDX >= 0] >= MAX_DISTANCE).sum() < (NN_IDX >= 0).sum()


@pytest.mark.parametrize("thresholds_per", ["all", "section"])
def test_pairs_are_those_of_the_arrays(kept: Stored, thresholds_per: str) -> None:
    table = profiles_of(kept, thresholds_per=thresholds_per).by_pair
    columns = ["receiver", "sender", "receivers", "mean", "edges", "strong_edges", "strong_share", "flavor"]
    assert list(table.columns) == columns
    by_section = thresholds_per == "section"
    expected = [
        (*row, flavor)
        for flavor in FLAVORS
        for row in naive_pairs(
            of_flavor(kept, flavor), lambda cell: (LABELS[cell], SECTIONS[cell] if by_section else None)
        )
    ]
    assert_rows(table, expected)
    assert table["strong_edges"].sum() > 0


def test_thresholds_of_sections_are_others(kept: Stored, profiles: AttentionProfiles) -> None:
    by_section = profiles_of(kept, thresholds_per="section").by_pair
    assert by_section["strong_edges"].tolist() != profiles.by_pair["strong_edges"].tolist()
    pd.testing.assert_frame_equal(
        by_section.drop(columns=["strong_edges", "strong_share"]),
        profiles.by_pair.drop(columns=["strong_edges", "strong_share"]),
    )


def test_heads_and_pairs_are_those_of_the_arrays(kept: Stored, profiles: AttentionProfiles) -> None:
    columns = ["receiver", "head_idx", "sender", "mean", "sd", "count", "flavor"]
    assert list(profiles.by_head.columns) == columns
    expected = [(*row, flavor) for flavor in FLAVORS for row in naive_by_head(of_flavor(kept, flavor))]
    assert_rows(profiles.by_head, expected)


def test_cells_are_those_of_the_arrays(kept: Stored, profiles: AttentionProfiles) -> None:
    table = profiles.by_cell
    assert table.index.tolist() == TISSUE.cell_names[BACK].tolist()
    assert table.index.name == "cell_idx"
    assert set(table.dtypes) == {np.dtype(np.float32)}
    assert list(table.columns) == [f"{what}_{flavor}" for flavor in FLAVORS for what in ("received", "sent")]
    for flavor in FLAVORS:
        attention = of_flavor(kept, flavor)
        received, sent = np.zeros(36), np.zeros(36)
        for cell, slot, neighbor in edges():
            share = sum(attention[:, cell, slot]) / N_HEADS
            received[cell] += share
            sent[neighbor] += share
        np.testing.assert_allclose(table[f"received_{flavor}"], received, rtol=1e-5)
        np.testing.assert_allclose(table[f"sent_{flavor}"], sent, rtol=1e-5)


def naive_heads(attention: Floats) -> list[tuple[Any, ...]]:
    rows = []
    for head in range(N_HEADS):
        for label, name in enumerate(TYPES):
            measures = []
            for cell in np.flatnonzero(label == LABELS):
                shares = [attention[head, c, s] for c, s, _ in edges() if c == cell]
                dummy = 1 - sum(shares)
                entropy = -sum(share * math.log(share) for share in [*shares, dummy] if share > 0)
                measures.append((dummy, entropy, entropy / math.log(1 + len(shares))))
            rows.append((head, name, len(measures), *np.mean(measures, axis=0).tolist()))
    return rows


def test_heads_are_those_of_vanilla_attention(kept: Stored, profiles: AttentionProfiles) -> None:
    assert_rows(profiles.head_profile, naive_heads(of_flavor(kept, "vanilla")))


def test_agreement_is_that_of_the_arrays(kept: Stored, profiles: AttentionProfiles) -> None:
    table = profiles.flavor_agreement
    assert len(table) == 6 * (len(TYPES) + 1)  # pairs of four flavors
    for row in table.to_dict("records"):
        kept_edges = [(c, s) for c, s, _ in edges() if row["receiver"] in ("all types", TYPES[LABELS[c]])]
        ranked = [[max(kept.arrays[row[end]][:, BACK][:, c, s]) for c, s in kept_edges] for end in ("flavor", "other")]
        assert row["edges"] == len(kept_edges)
        assert row["spearman"] == pytest.approx(spearmanr(*ranked).statistic, abs=1e-4)


def test_bins_are_of_every_flavor(kept: Stored, profiles: AttentionProfiles) -> None:
    assert list(profiles.distance_bins) == list(FLAVORS)
    near = [(c, s) for c, s, _ in edges() if NN_DIST[c, s] < MAX_DISTANCE]
    for flavor, bins in profiles.distance_bins.items():
        assert bins.n_edges == len(near)
        table = bins.table(0)
        attention = of_flavor(kept, flavor)
        total = sum(attention[head, c, s] for c, s in near for head in range(N_HEADS))
        assert (table["mean"] * table["count"]).sum() == pytest.approx(total, rel=1e-5)
        far = {
            name: sum(LABELS[c] == label and NN_DIST[c, s] >= MAX_DISTANCE for c, s, _ in edges())
            for label, name in enumerate(TYPES)
        }
        assert bins.elsewhere() == far


def test_tables_hold_no_objects(profiles: AttentionProfiles) -> None:
    for name in TABLES:
        assert object not in set(getattr(profiles, name).dtypes), name


# --- However it is stored


def test_shards_do_not_matter(profiles: AttentionProfiles, tmp_path: Path) -> None:
    model = random_model(TISSUE, N_NEIGHBORS)
    whole = stored_attention(tmp_path, TISSUE, NEIGHBORS, model, cells_per_shard=99, flavors=list(FLAVORS))
    assert len(list((tmp_path / "nn_idxs").iterdir())) == 1
    assert_same(profiles_of(whole), profiles)


def test_more_than_can_be_held_does_not_matter(
    kept: Stored, profiles: AttentionProfiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tissue_crosstalk.core.stored.HELD_BYTES", 100)
    assert_same(profiles_of(kept), profiles)


@pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
def test_threads_do_not_matter_to_the_last_bit(
    kept: Stored, profiles: AttentionProfiles, monkeypatch: pytest.MonkeyPatch, n_threads: int
) -> None:
    monkeypatch.setattr("tissue_crosstalk.core.stored_profiles.threads", lambda: n_threads)
    again = profiles_of(kept)
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(profiles, name), check_exact=True)
    for flavor, bins in profiles.distance_bins.items():
        pd.testing.assert_frame_equal(again.distance_bins[flavor].table(0), bins.table(0), check_exact=True)
        assert again.distance_bins[flavor].largest_attention(0) == bins.largest_attention(0)


def test_shards_of_other_cells_are_refused(kept: Stored, tmp_path: Path) -> None:
    """Of one flavor, which is not the first to be read."""
    shutil.copytree(kept.folder, tmp_path / "stored")
    folder = tmp_path / "stored" / "flavored" / "flavor=info-weighted"
    (folder / "part-00000.parquet").rename(folder / "part-00009.parquet")
    with pytest.raises(ResultError, match="shard 0 of the tables holds different cells"):
        profiles_of(replace(kept, folder=tmp_path / "stored"))


def test_heads_are_described_by_vanilla_attention_also_where_it_is_not_among_the_flavors(
    kept: Stored, profiles: AttentionProfiles, tmp_path: Path
) -> None:
    shutil.copytree(kept.folder, tmp_path / "stored")
    for flavor in ("vanilla", "value-weighted"):
        shutil.rmtree(tmp_path / "stored" / "flavored" / f"flavor={flavor}")
    without = profiles_of(replace(kept, folder=tmp_path / "stored"))
    others = ["info-weighted", "gene-weighted"]
    assert list(without.distance_bins) == others
    assert list(without.by_cell.columns) == [f"{what}_{flavor}" for flavor in others for what in ("received", "sent")]
    assert without.by_pair["flavor"].drop_duplicates().tolist() == others
    assert without.by_head["flavor"].drop_duplicates().tolist() == ["vanilla", *others]
    pd.testing.assert_frame_equal(without.head_profile, profiles.head_profile)
    for name in ("by_pair", "by_head"):
        table = getattr(profiles, name).astype({"flavor": str})
        wanted = table[table["flavor"].isin(set(getattr(without, name)["flavor"]))]
        pd.testing.assert_frame_equal(
            getattr(without, name).astype({"flavor": str}), wanted.reset_index(drop=True), rtol=1e-12
        )
    agreement = without.flavor_agreement
    assert set(zip(agreement["flavor"], agreement["other"], strict=True)) == {tuple(others)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"bin_size": 1000.0},
            "all edges shorter than max_distance fall in one bin: max_distance 20 and bin_size 1000 ",
        ),
        ({"max_distance": 1e-6, "bin_size": 1e-7}, "no edge is shorter than max_distance: max_distance 1e-06 and "),
        ({}, None),
    ],
)
def test_bins_that_do_not_fit_the_unit_are_warned_of_once(
    kept: Stored, caplog: pytest.LogCaptureFixture, given: dict[str, float], words: str | None
) -> None:
    with caplog.at_level(logging.WARNING, "tissue_crosstalk"):
        profiles_of(kept, **given)
    messages = [record.getMessage() for record in caplog.records]
    if words is None:
        assert messages == []
    else:
        [message] = messages
        assert message.startswith(words)
        assert message.endswith("do not fit the unit of the coordinates. Set reporting.max_distance and "
                                "reporting.bin_size.")  # fmt: skip


# --- What is made of the profiles


def test_metrics_by_hand() -> None:
    """Head 0: (1 * 0.5 + 3 * 0.1) / 4 = 0.2, head 1: (1 * 0.1 + 3 * 0.7) / 4 = 0.55; all heads: 0.375."""
    table = pd.DataFrame(
        {
            "head_idx": [0, 0, 1, 1],
            "receiver": pd.Categorical(["A", "B", "A", "B"]),
            "cells": [1, 3, 1, 3],
            "dummy_share": [0.5, 0.1, 0.1, 0.7],
            "evenness": [1.0, 0.0, 0.25, 0.25],
        }
    )
    assert dict(profile_metrics(table)) == pytest.approx(
        {
            "share of the dummy slot": 0.375,
            "share of the dummy slot.head 0": 0.2,
            "share of the dummy slot.head 1": 0.55,
            "evenness": 0.25,
            "evenness.head 0": 0.25,
            "evenness.head 1": 0.25,
        }
    )


def test_the_table_of_bins_is_of_all_flavors() -> None:
    binned = {}
    for flavor, attention in (("vanilla", 0.25), ("gene-weighted", 2.0)):
        binned[flavor] = DistanceBins(["B", "T"], 1)
        binned[flavor].add(
            np.full((1, 2, 1), attention), np.array([[1.0], [7.0]]), np.zeros(2, int), np.ones((2, 1), int)
        )
    table = binned_table(binned, 1)
    assert table[["flavor", "receiver", "sender", "distance_bin", "mean", "count"]].to_numpy().tolist() == [
        [flavor, "B", "T", start, attention, 1]
        for flavor, attention in (("vanilla", 0.25), ("gene-weighted", 2.0))
        for start in (0.0, 5.0)
    ]
    assert binned_table(binned, 2).empty
