"""Length scales: golden, in loops, and intervals against every resample there is."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from naive import (
    GOLDEN,
    TINY,
    golden,
    made_tissue,
    naive_query,
    naive_value,
    naive_weights,
    random_network,
    random_tissue,
    reordered,
    res_mlp,
)

from tissue_crosstalk.core import length_scales as module
from tissue_crosstalk.core.attention import extract_attention
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.length_scales import DistanceSettings, bootstrap_intervals, counterfactual, length_scales
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.tissue import PreparedTissue

Case = tuple[CrossAttentionNetwork, PreparedTissue, Neighbors]
SETTINGS = DistanceSettings(tau=0.3, n_resamples=99)
NETWORK = replace(TINY, attention_dummy_score=2.5)  # a third of the senders never have attention tau
COLUMNS = ["receiver", "sender", "head_idx", "position", "base_score", "coefficient", "length_scale"]
SUMMARY = [
    *("receiver", "sender", "head_idx", "n_senders", "mean", "mean_low", "mean_high"),
    *("median", "median_low", "median_high", "share_within", "supported"),
]


@pytest.fixture
def case() -> Case:
    """Return a tissue of two sections in which some slots are padded, and a network."""
    tissue = random_tissue(3, n_cells=40, n_types=4, n_sections=2)
    return random_network(6, 4, NETWORK), tissue, find_neighbors(tissue, 16, pad=True)


# --- What the published package answers


def published() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "interpretation.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def compare_length_scales(known: np.ndarray, settings: DistanceSettings) -> None:
    """Raise AssertionError unless the length scales are those of the published package."""
    answers, tissue = published(), golden().tissue
    receiver = str(answers["receiver"])
    found = length_scales(golden().model.network, tissue, golden().neighbors, settings, receivers=[receiver])
    table = found.table().pivot(index="position", columns="head_idx", values="length_scale").sort_index()
    assert table.index.tolist() == answers["cf_neighbor"].tolist()
    # A difference of scores, times scale / c: its rounding is that of the scores.
    scale = golden().model.network.settings.distance_kernel_unit_scale
    rounding = 5e-6 * scale / answers["cf_position_coefficient"]
    assert (np.abs(table.to_numpy() - known) <= rounding + 1e-5 * known).all()
    assert np.array_equal(table.to_numpy() == 0, known == 0)


def test_golden_counterfactual() -> None:
    answers = published()
    found = counterfactual(golden().model.network, golden().tissue, golden().neighbors, str(answers["receiver"]))
    assert golden().tissue.positions[found.senders].tolist() == answers["cf_neighbor"].tolist()
    np.testing.assert_allclose(found.base_score, answers["cf_base_score"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.coefficient, answers["cf_position_coefficient"], rtol=1e-5)
    attention = found.attention([0, 5, 20])
    np.testing.assert_allclose(attention[:, 0], answers["cf_attention_head0_at_0_5_20"], rtol=1e-5)


def test_golden_length_scales() -> None:
    known = published()["length_scale_tau_0.1"]
    compare_length_scales(known, DistanceSettings(tau=0.1, sample_threshold=0, n_resamples=1))
    with pytest.raises(AssertionError):
        compare_length_scales(known, DistanceSettings(tau=0.1001, sample_threshold=0, n_resamples=1))


def test_golden_correction() -> None:
    known = published()["length_scale_tau_0.1_sample_0.3"]
    compare_length_scales(known, DistanceSettings(tau=0.1, sample_threshold=0.3, n_resamples=1))
    with pytest.raises(AssertionError):  # 19.4 % of the receivers have a T2 nearer than its median in head 0
        compare_length_scales(known, DistanceSettings(tau=0.1, sample_threshold=0.19, n_resamples=1))


# --- In loops


def naive_scores(case: Case, receiver: int, sender: int) -> tuple[np.ndarray, np.ndarray]:
    """Return base score and coefficient of one pair, both (head,)."""
    network, tissue, _ = case
    weights, s = naive_weights(network), network.settings
    embedding, key, _ = naive_value(weights, s, tissue.expression[sender].toarray()[0].astype(float))
    query = naive_query(weights, s, receiver)
    both = np.concatenate([embedding, weights["ct_embed.weight"][receiver]])
    raw = res_mlp(weights, "pos_coef_mlp", both, s.n_heads, final_norm=False) + s.pos_coef_offset
    return (query * key).sum(axis=1) / math.sqrt(s.n_head_size), np.log1p(np.exp(raw))


def naive_scale(base: float, coefficient: float, tau: float) -> float:
    reach = NETWORK.distance_kernel_unit_scale / coefficient
    return max(0.0, reach * (math.log((1 - tau) / tau) + base - NETWORK.attention_dummy_score))


def naive_table(case: Case, tau: float) -> pd.DataFrame:
    _, tissue, neighbors = case
    rows = []
    for receiver in range(len(tissue.cell_types)):
        senders = {
            int(sender)
            for cell in np.flatnonzero(tissue.labels == receiver)
            for sender in neighbors.idx[cell]
            if sender >= 0
        }
        for sender in sorted(senders, key=lambda row: (tissue.labels[row], tissue.positions[row])):
            base, coefficient = naive_scores(case, receiver, sender)
            pair = tissue.cell_types[receiver], tissue.cell_types[tissue.labels[sender]]
            rows += [
                (*pair, head, tissue.positions[sender], b, c, naive_scale(b, c, tau))
                for head, (b, c) in enumerate(zip(base, coefficient, strict=True))
            ]
    return pd.DataFrame(rows, columns=COLUMNS)


def assert_tables_equal(found: pd.DataFrame, expected: pd.DataFrame, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    assert list(found.columns) == list(expected.columns)
    assert len(found) == len(expected)
    for name in found:
        if found[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], expected[name], rtol=rtol, atol=atol, err_msg=name)
        else:
            assert found[name].tolist() == expected[name].tolist(), name


def test_equals_the_formulas(case: Case) -> None:
    found, expected = length_scales(*case, SETTINGS), naive_table(case, SETTINGS.tau)
    assert (case[2].idx < 0).any()
    assert 0.2 < (expected["length_scale"] == 0).mean() < 0.8
    assert_tables_equal(found.table(corrected=False), expected, atol=1e-4)
    assert found.table()["receiver"].cat.categories.tolist() == list("ABCD")
    assert found.table()["head_idx"].dtype == np.int16
    assert found.table()["position"].dtype == np.int64


def test_summary_in_loops(case: Case) -> None:
    _, tissue, neighbors = case
    found = length_scales(*case, replace(SETTINGS, sample_threshold=0.4))
    table = found.table(corrected=False)
    assert list(found.summary.columns) == SUMMARY
    groups = [(receiver, sender, head) for receiver in "ABCD" for sender in "ABCD" for head in range(2)]
    groups = [group for group in groups if group[0] != group[1]]
    assert list(found.summary[["receiver", "sender", "head_idx"]].itertuples(index=False, name=None)) == groups
    for row, (receiver, sender, head) in zip(found.summary.itertuples(), groups, strict=True):
        is_own = (table["receiver"] == receiver) & (table["sender"] == sender) & (table["head_idx"] == head)
        values = table["length_scale"][is_own]
        median = float(np.median(values))
        nearer = [
            any(
                slot >= 0 and tissue.cell_types[tissue.labels[slot]] == sender and distance < median
                for slot, distance in zip(neighbors.idx[cell], neighbors.dist[cell], strict=True)
            )
            for cell in np.flatnonzero(tissue.labels == tissue.cell_types.index(receiver))
        ]
        assert row.n_senders == len(values)
        assert row.median == pytest.approx(median, rel=1e-12)
        assert row.mean == pytest.approx(values.mean(), rel=1e-12)
        assert row.share_within == pytest.approx(np.mean(nearer), rel=1e-12)
        assert row.supported == (np.mean(nearer) >= 0.4)
        assert row.mean_low <= row.mean <= row.mean_high
        assert row.median_low <= row.median <= row.median_high
        corrected = found.table()["length_scale"][is_own]
        assert (corrected == (values if row.supported else 0)).all()
    assert 0.1 < found.summary["supported"].mean() < 0.9


def test_attention_at_the_length_scale_is_tau(case: Case) -> None:
    found = counterfactual(*case, "B")
    scales = found.length_scales(0.3)
    ever = scales > 0
    assert 0.1 < ever.mean() < 0.9
    for sender, head in np.argwhere(ever):
        assert found.attention([scales[sender, head]])[sender, head, 0] == pytest.approx(0.3, rel=1e-9)
    assert (found.attention([0.0])[~ever] <= 0.3).all()
    assert (np.diff(found.attention([0, 1, 5, 90]), axis=2) < 0).all()


def test_a_neighbor_alone_has_the_counterfactual_attention(case: Case) -> None:
    """The same as what the network gives to a receiver with one neighbor."""
    network, tissue, _ = case
    found = counterfactual(*case, "A")
    cell, sender = int(np.flatnonzero(tissue.labels == 0)[0]), int(found.senders[3])
    alone = Neighbors(np.full((40, 1), sender, np.int32), np.full((40, 1), 7.5, np.float32))
    (shard,) = extract_attention(network, tissue, alone, cells_per_shard=40, receivers=np.array([cell]))
    np.testing.assert_allclose(found.attention([7.5])[3, :, 0], shard.patterns[:, 0, 0], rtol=1e-5)


def test_padded_slots_and_sections_without_others_are_nobody() -> None:
    """Cell 0 hears cell 1 alone; those of a section of their own hear nobody, and count among the receivers."""
    tissue = made_tissue(
        [[0, 0], [1, 0], [0, 0], [1, 1]], [0, 1, 0, 0], sections=[0, 0, 1, 1], expression=np.eye(4, 6) * 3
    )
    case = random_network(6, 2), tissue, find_neighbors(tissue, 3, pad=True)
    found = length_scales(*case, replace(SETTINGS, tau=1e-6))
    assert found.n_pairs == 2
    assert found.position.tolist() == [1, 0]
    of_a = found.summary[found.summary["receiver"] == "A"]
    assert (of_a["median"] > 1).all()
    np.testing.assert_allclose(of_a["share_within"], 1 / 3)
    assert (of_a["mean_low"] == of_a["mean_high"]).all()  # of one sender


def test_types_without_cells_have_no_rows(case: Case) -> None:
    _, tissue, neighbors = case
    tissue = replace(tissue, cell_types=("A", "B", "C", "D", "gone"))
    network = random_network(6, 5)
    found = length_scales(network, tissue, neighbors, SETTINGS)
    assert set(found.table()["receiver"]) == set("ABCD")
    assert found.table()["sender"].cat.categories.tolist() == ["A", "B", "C", "D", "gone"]
    none = length_scales(network, tissue, neighbors, SETTINGS, receivers=["gone"])
    assert (len(none.table()), len(none.summary), none.n_pairs) == (0, 0, 0)
    assert counterfactual(network, tissue, neighbors, "gone").attention([1.0]).shape == (0, 2, 1)


def test_a_coefficient_of_zero_reaches_anywhere(case: Case) -> None:
    network, tissue, neighbors = case
    network = random_network(6, 4, replace(TINY, pos_coef_offset=-500.0, attention_dummy_score=-20.0))
    found = length_scales(network, tissue, neighbors, SETTINGS)
    assert (found.coefficient == 0).all()
    assert (found.length_scale > 1e30).all()
    assert np.isfinite(found.summary[["mean", "mean_low", "mean_high", "median_low"]]).all(axis=None)


# --- Once, in whatever order and parts


def test_each_pair_is_computed_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    network, tissue, neighbors = case
    computed: list[torch.Tensor] = []
    coefficients = CrossAttentionNetwork.distance_coefficients

    def watched(self: CrossAttentionNetwork, embedding: torch.Tensor, sender: torch.Tensor, *rest: object, **k: object):  # noqa: ANN202
        assert len(embedding) <= 7
        computed.append(sender)
        return coefficients(self, embedding, sender, *rest, **k)

    monkeypatch.setattr(CrossAttentionNetwork, "distance_coefficients", watched)
    found = length_scales(network, tissue, neighbors, SETTINGS, cells_per_shard=7)
    pairs = {(tissue.labels[cell], sender) for cell in range(40) for sender in neighbors.idx[cell] if sender >= 0}
    assert sum(map(len, computed)) == len(pairs) == found.n_pairs


@pytest.mark.parametrize("cells_per_shard", [1, 7])
def test_sharded_equals_whole(case: Case, cells_per_shard: int) -> None:
    whole = length_scales(*case, SETTINGS)
    found = length_scales(*case, SETTINGS, cells_per_shard=cells_per_shard)
    pd.testing.assert_frame_equal(found.table(), whole.table(), rtol=1e-5, atol=1e-4)
    pd.testing.assert_frame_equal(found.summary, whole.summary, rtol=1e-5, atol=1e-4)


def test_another_order_of_cells(case: Case) -> None:
    network, tissue, neighbors = case
    moved = reordered(tissue, neighbors, np.random.default_rng(5).permutation(40))
    found, expected = length_scales(network, *moved, SETTINGS), length_scales(*case, SETTINGS)
    assert_tables_equal(found.table(), expected.table())
    assert_tables_equal(found.summary, expected.summary)


def test_receivers_do_not_matter_to_each_other(case: Case) -> None:
    together = length_scales(*case, SETTINGS)
    alone = length_scales(*case, SETTINGS, receivers=["C", "A", "C"])
    for found, whole in ((alone.table(), together.table()), (alone.summary, together.summary)):
        expected = whole[whole["receiver"].isin(["A", "C"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-4)


def test_parts_make_the_table(case: Case) -> None:
    found = length_scales(*case, SETTINGS)
    parts = [found.table(slice(start, start + 11)) for start in range(0, found.n_pairs, 11)]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), found.table())


def test_the_same_to_the_bit_for_a_seed(case: Case) -> None:
    first, second = (length_scales(*case, SETTINGS).summary for _ in range(2))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    other = length_scales(*case, replace(SETTINGS, random_state=1)).summary
    assert (other["mean"] == first["mean"]).all()
    assert (other["mean_low"] != first["mean_low"]).any()


# --- The bootstrap


@pytest.mark.parametrize("n", [4, 5])
def test_resamples_are_distributed_as_all_resamples(n: int) -> None:
    """Limits of many resamples, at many levels, against those of each of the n**n there are."""
    values = np.array([0.0, 1.0, 3.5, 4.0, 9.0])[:n]
    resamples = values[np.array(list(itertools.product(range(n), repeat=n)))]
    columns = np.column_stack([values, 2 * values + 1])
    n_drawn = 40_000
    for confidence in (0.2, 0.5, 0.8, 0.9, 0.97):
        limits = bootstrap_intervals(columns, n_drawn, confidence, np.random.default_rng(n))
        for low, high, every in zip(
            limits[::2], limits[1::2], (resamples.mean(axis=1), np.median(resamples, axis=1)), strict=True
        ):
            for limit, level in ((low[0], (1 - confidence) / 2), (high[0], (1 + confidence) / 2)):
                error = 4 * math.sqrt(level * (1 - level) / n_drawn)
                assert np.mean(every < limit) <= level + error
                assert np.mean(every <= limit) >= level - error
            np.testing.assert_allclose([low[1], high[1]], [2 * low[0] + 1, 2 * high[0] + 1])


def test_few_resamples_at_once_are_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DRAWN_AT_ONCE", 50)
    values = np.random.default_rng(0).exponential(2.0, (60, 1))
    low, high, *_ = bootstrap_intervals(values, 2_000, 0.95, np.random.default_rng(1))
    half = 1.96 * values.std() / math.sqrt(60)
    np.testing.assert_allclose([low[0], high[0]], [values.mean() - half, values.mean() + half], atol=0.3 * half)


# --- Refused


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("tau", 0, "tau must be above 0 and below 1. Got 0 instead"),
        ("tau", math.nan, "tau must be above 0"),
        ("sample_threshold", 1.5, "sample_threshold must be from 0 to 1. Got 1.5"),
        ("sample_threshold", True, "sample_threshold must be from 0 to 1. Got True"),
        ("n_resamples", 0, r"n_resamples must be 1 or more \(a whole number\). Got 0"),
        ("n_resamples", 9.5, "n_resamples must be 1 or more"),
        ("confidence", 1, "confidence must be above 0 and below 1. Got 1 instead"),
        ("random_state", -1, r"random_state must be a whole number in \[0, 2\*\*32\). Got -1"),
    ],
)
def test_settings_out_of_range(name: str, value: object, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        DistanceSettings(**{name: value})  # type: ignore[arg-type]


def test_unknown_receivers(case: Case) -> None:
    with pytest.raises(ParameterError, match=r"receivers names the cell type 'b', .* Did you mean 'B'\? .* 'A', 'B'"):
        length_scales(*case, receivers=["A", "b"])
    with pytest.raises(ParameterError, match="receiver names the cell type 'E'"):
        counterfactual(*case, "E")


def test_bad_arguments(case: Case) -> None:
    with pytest.raises(ParameterError, match="cells_per_shard must be at least 1"):
        length_scales(*case, cells_per_shard=0)
    found = counterfactual(*case, "A")
    with pytest.raises(ParameterError, match="tau must be above 0 and below 1. Got 1.0 instead"):
        found.length_scales(1.0)
    for distances in ([-1.0], [math.nan], [[1.0]]):
        with pytest.raises(ParameterError, match="distances must be a list of numbers of at least 0"):
            found.attention(distances)
