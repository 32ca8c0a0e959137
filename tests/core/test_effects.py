"""The test of effects: by hand, against permutations, and calibrated where nothing is to be found."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from naive import TINY, random_model, random_network, random_tissue
from scipy import sparse, stats

from tissue_crosstalk.core.ablation import ALL_HEADS, ablate
from tissue_crosstalk.core.cross_fitting import Folds, cross_fit, cut_folds
from tissue_crosstalk.core.effects import (
    EffectSettings,
    _FoldSums,
    _Runs,
    _TestSums,
    count_hearing,
    measure_effects,
    upper_tail,
)
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.files import Workspace
from tissue_crosstalk.core.model import CrosstalkModel
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.spatial_order import shards
from tissue_crosstalk.core.statistics import false_discovery_rate
from tissue_crosstalk.core.tissue import PreparedTissue
from tissue_crosstalk.core.training_settings import TrainingSettings

Floats = np.ndarray


@pytest.fixture(scope="module")
def case() -> tuple[CrosstalkModel, PreparedTissue, Neighbors]:
    tissue = random_tissue(8, n_cells=90, n_sections=2)
    return random_model(tissue, 6), tissue, find_neighbors(tissue, 6)


def sums_of(effect: Floats, expression: Floats, starts: list[int], others: Floats | None = None) -> _TestSums:
    """Take in some cells at a time, across the bounds of strata."""
    n_genes, n_cells = effect.shape
    sizes = np.diff(starts, append=n_cells)
    stratum = np.repeat(np.arange(len(sizes)), sizes)
    of_fold = _FoldSums(n_genes, len(sizes) + 1, adjust=others is not None)  # the last stratum is empty
    of_fold.count(stratum)
    given = effect, np.zeros_like(effect) if others is None else others, expression
    for take in (of_fold.take_first, of_fold.take_again):
        for start, stop in shards(n_cells, 7):
            take(slice(0, n_genes), _Runs.of(stratum[start:stop]), *(values[:, start:stop] for values in given))
    sums = _TestSums(n_genes)
    sums.add(of_fold.values(), of_fold.n_cells)
    return sums


def test_moments_are_those_of_all_permutations() -> None:
    """Of two strata of 5 and 4 cells, all 5! 4! permutations."""
    rng = np.random.default_rng(1)
    effect, expression = rng.gamma(1, size=(1, 9)), rng.gamma(0.5, size=(1, 9))
    products = [
        effect[0] @ expression[0, [*first, *second]]
        for first in itertools.permutations(range(5))
        for second in itertools.permutations(range(5, 9))
    ]
    sums = sums_of(effect, expression, [0, 5])
    assert sums.values["variance"][0] == pytest.approx(np.var(products), rel=1e-10)
    assert sums.values["third"][0] == pytest.approx(((products - np.mean(products)) ** 3).mean(), rel=1e-9)
    z_score = (effect[0] @ expression[0] - np.mean(products)) / np.std(products)
    assert sums.measure()["z_score"][0] == pytest.approx(z_score, rel=1e-9)


@pytest.mark.parametrize("shape", [0.3, 1.0, 5.0])
def test_tail_is_that_of_drawn_permutations(shape: float) -> None:
    """Skewed as counts are; the share of permutations as far out agrees within its sampling error and a tenth."""
    rng = np.random.default_rng(3)
    effect, expression = rng.gamma(shape, size=(1, 120)), rng.gamma(shape, size=(1, 120))
    starts, n_drawn = [0, 50], 40_000
    a = effect[0] - np.repeat([effect[0, :50].mean(), effect[0, 50:].mean()], [50, 70])
    drawn = np.empty(n_drawn)
    for number in range(n_drawn):
        order = np.concatenate([rng.permutation(50), 50 + rng.permutation(70)])
        drawn[number] = a @ expression[0, order]
    sums = sums_of(effect, expression, starts)
    spread, skewness = np.sqrt(sums.values["variance"][0]), sums.values["third"][0] / sums.values["variance"][0] ** 1.5
    for level in (0.9, 0.95, 0.99, 0.999):
        place = np.quantile(drawn, level)
        z_score = (place - np.mean(drawn)) / spread
        p_value = upper_tail(np.array([z_score]), np.array([skewness]))[0]
        assert abs(p_value - (1 - level)) < 4 * np.sqrt(level * (1 - level) / n_drawn) + 0.12 * (1 - level)


def test_tails() -> None:
    """The gamma distribution of skewness 1 has shape 4; p is never 0, and no lighter than the normal tail."""
    z_score = np.array([-1.0, 0.5, 2.0, 40.0, 400.0])
    skewed = upper_tail(z_score, np.full(5, 1.0))
    np.testing.assert_allclose(skewed[:4], stats.gamma.sf(4 + 2 * z_score[:4], 4), rtol=1e-9)
    assert (upper_tail(z_score, np.full(5, -1.0)) == np.maximum(stats.norm.sf(z_score), np.finfo(float).tiny)).all()
    assert skewed[-1] > 0


def test_slope_and_correlation_less_what_others_do() -> None:
    """Against least squares on the same regressors."""
    rng = np.random.default_rng(5)
    others, effect = rng.normal(size=(2, 60))
    effect += 0.8 * others
    expression = 1.7 * effect + 0.6 * others + rng.normal(size=60)
    found = sums_of(effect[None], expression[None], [0], others[None]).measure()
    design = np.stack([effect, others, np.ones(60)], axis=1)
    fitted = np.linalg.lstsq(design, expression, rcond=None)[0]
    assert found["slope"][0] == pytest.approx(fitted[0], rel=1e-9)
    # White's covariance of the same fit.
    bread = np.linalg.inv(design.T @ design)
    covariance = bread @ (design.T * (expression - design @ fitted) ** 2) @ design @ bread
    width = 1.959963984540054 * np.sqrt(covariance[0, 0])
    assert found["slope_high"][0] - found["slope"][0] == pytest.approx(width, rel=1e-9)
    residuals = [values - np.polyval(np.polyfit(others, values, 1), others) for values in (effect, expression)]
    assert found["correlation"][0] == pytest.approx(np.corrcoef(*residuals)[0, 1], rel=1e-9)
    assert found["diff"][0] == pytest.approx(effect.mean())
    assert found["diff_high"][0] - effect.mean() == pytest.approx(1.959963984540054 * effect.std() / np.sqrt(60))


def test_p_values_are_uniform_where_there_is_nothing() -> None:
    """2,000 tests of skewed counts in three strata with the regressors of a model that found something in noise."""
    rng = np.random.default_rng(11)
    effect, others = rng.gamma(0.5, size=(2, 2000, 90))
    effect -= 0.4 * others
    expression = np.log1p(rng.poisson(0.3, size=(2000, 90))).astype(float)
    p_values = sums_of(effect, expression, [0, 30, 60], others).measure()["p_value"]
    for level in (0.01, 0.05, 0.5):
        share = np.mean(p_values[np.isfinite(p_values)] < level)
        assert abs(share - level) < 3.5 * np.sqrt(level * (1 - level) / 2000)
    assert (false_discovery_rate(p_values) < 0.05).sum() == 0


def test_effects_are_those_of_the_ablation(case: tuple[CrosstalkModel, PreparedTissue, Neighbors]) -> None:
    model, tissue, neighbors = case
    table = measure_effects([model], tissue, neighbors, None, EffectSettings(min_hearing=1))
    assert not table["held_out"].any()
    ablation = ablate(model.network, tissue, neighbors).table()
    ablation = ablation[ablation["head_idx"] == ALL_HEADS]
    both = table.merge(ablation, on=["receiver", "sender", "gene"], how="outer", suffixes=("", "_published"))
    assert len(both) == 6 * 6
    np.testing.assert_allclose(both["diff"], both["diff_published"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("adjust", [True, False])
def test_what_is_not_held_is_computed_twice(
    case: tuple[CrosstalkModel, PreparedTissue, Neighbors], monkeypatch: pytest.MonkeyPatch, adjust: bool
) -> None:
    """Some 7 receivers at a time, held or not: the same to the bit; and as of all at once, but for rounding."""
    model, tissue, neighbors = case
    settings = EffectSettings(min_hearing=1, adjust=adjust)
    at_once = measure_effects([model], tissue, neighbors, None, settings)
    monkeypatch.setattr("tissue_crosstalk.core.attention.PREDICT_CELLS", 7)
    held = measure_effects([model], tissue, neighbors, None, settings)
    monkeypatch.setattr("tissue_crosstalk.core.effects.MOST_HELD", 0)
    pd.testing.assert_frame_equal(measure_effects([model], tissue, neighbors, None, settings), held, check_exact=True)
    pd.testing.assert_frame_equal(held, at_once, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("tissue_crosstalk.core.effects.MOST_SUMS", 0)
    pair_by_pair = measure_effects([model], tissue, neighbors, None, settings)
    pd.testing.assert_frame_equal(pair_by_pair, at_once, rtol=1e-4, atol=1e-5)


def test_each_fold_is_scored_by_its_own_model(case: tuple[CrosstalkModel, PreparedTissue, Neighbors]) -> None:
    """Effects add up to those of each fold's receivers, by the model of the fold; the others hear nobody."""
    model, tissue, neighbors = case
    folds = cut_folds(tissue.coordinates, tissue.sections, n_folds=3, blocks_per_fold=2, seed=4)
    networks = [random_network(6, 3, seed=seed) for seed in range(3)]
    table = measure_effects(
        [replace(model, network=network) for network in networks],
        tissue, neighbors, folds, EffectSettings(min_hearing=1),
    )  # fmt: skip
    total = np.zeros((3, 3, 6))
    for fold, network in enumerate(networks):
        own = (folds.of_cell == fold)[:, None]
        of_fold = Neighbors(
            np.where(own, neighbors.idx, np.int32(-1)), np.where(own, neighbors.dist, np.float32(np.inf))
        )
        total += ablate(network, tissue, of_fold, by_head=False).diff[0]
    for (receiver, sender), rows in table.groupby(["receiver", "sender"], observed=True):
        expected = total["ABC".index(receiver), "ABC".index(sender)]
        np.testing.assert_allclose(rows["diff"], expected, rtol=1e-4, atol=1e-6)
        assert np.abs(expected).max() > 1e-3
    assert table["held_out"].all()
    assert table.groupby(["receiver", "sender"], observed=True).ngroups == 6


def test_expression_that_follows_the_effect_is_found(case: tuple[CrosstalkModel, PreparedTissue, Neighbors]) -> None:
    """Receivers of type B express what A is predicted to do to gene 2, and noise; nothing else is found."""
    model, tissue, neighbors = case
    tissue = random_tissue(8, n_cells=240, n_sections=2)
    neighbors = find_neighbors(tissue, 6)
    rng = np.random.default_rng(0)
    cells = np.flatnonzero(tissue.labels == 1)
    of_cell = np.array(
        [
            ablate(
                model.network, tissue,
                Neighbors(
                    np.where((np.arange(240) == cell)[:, None], neighbors.idx, np.int32(-1)),
                    np.where((np.arange(240) == cell)[:, None], neighbors.dist, np.float32(np.inf)),
                ),
                receivers=["B"], by_head=False,
            ).diff[0, 0, 0, 2] * len(cells)
            for cell in cells
        ]
    )  # fmt: skip
    expression = rng.normal(size=(240, 6)).astype(np.float32)
    expression[tissue.labels != 1] = tissue.expression.toarray()[tissue.labels != 1]  # what the senders say is the same
    expression[cells, 2] = of_cell / of_cell.std() * 3
    table = measure_effects([model], replace(tissue, expression=sparse.csr_matrix(expression)), neighbors, None)
    first = table.sort_values("p_value").iloc[0]
    assert (first["receiver"], first["sender"], first["gene"]) == ("B", "A", "gene2")
    assert first["slope_low"] > 0
    assert first["q_value"] < 1e-3


def test_pairs_that_few_hear_are_left_out(case: tuple[CrosstalkModel, PreparedTissue, Neighbors]) -> None:
    model, tissue, neighbors = case
    hearing = count_hearing(tissue, neighbors)
    for receiver in range(3):
        cells = tissue.labels == receiver
        for sender in range(3):
            has = (neighbors.labels(tissue.labels)[cells] == sender).any(axis=1)
            assert hearing[receiver, sender] == has.sum()
    table = measure_effects([model], tissue, neighbors, None, EffectSettings(min_hearing=int(hearing.max()) + 1))
    assert len(table) == 0
    assert table["receiver"].dtype == "category"


def test_folds_are_whole_blocks_of_like_size() -> None:
    tissue = random_tissue(2, n_cells=400, n_sections=2)
    folds = cut_folds(tissue.coordinates, tissue.sections, n_folds=4, blocks_per_fold=5, seed=0)
    sizes = np.bincount(folds.of_cell)
    assert len(sizes) == folds.n_folds == 4
    assert sizes.max() - sizes.min() <= 20  # a block
    for block in np.unique(folds.block):
        cells = folds.block == block
        assert len(np.unique(folds.of_cell[cells])) == len(np.unique(tissue.sections[cells])) == 1
    again = cut_folds(tissue.coordinates, tissue.sections, n_folds=4, blocks_per_fold=5, seed=0)
    assert (again.of_cell == folds.of_cell).all()
    other = cut_folds(tissue.coordinates, tissue.sections, n_folds=4, blocks_per_fold=5, seed=1)
    assert (other.of_cell != folds.of_cell).any()


def test_nothing_of_a_fold_is_left_for_its_training(case: tuple[CrosstalkModel, PreparedTissue, Neighbors]) -> None:
    _, tissue, neighbors = case
    folds = cut_folds(tissue.coordinates, tissue.sections, n_folds=3, seed=0)
    cells, of_cells = folds.others(tissue, neighbors, 1)
    rows = np.flatnonzero(folds.of_cell != 1)
    assert (cells.expression != tissue.expression[rows]).nnz == 0
    assert (cells.cell_names == tissue.cell_names[rows]).all()
    for row, cell in enumerate(rows):
        for slot, neighbor in enumerate(neighbors.idx[cell]):
            if folds.of_cell[neighbor] == 1:
                assert of_cells.idx[row, slot] == -1
                assert np.isinf(of_cells.dist[row, slot])
            else:
                assert rows[of_cells.idx[row, slot]] == neighbor
                assert of_cells.dist[row, slot] == neighbors.dist[cell, slot]


def test_models_that_were_trained_are_used_again(
    case: tuple[CrosstalkModel, PreparedTissue, Neighbors], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, tissue, neighbors = case
    folds = cut_folds(tissue.coordinates, tissue.sections, n_folds=2, seed=0)
    settings = TrainingSettings(max_epochs=1)
    given = folds, TINY, settings
    first = cross_fit(tissue, neighbors, *given, seed=1, workspace=Workspace(tmp_path))
    caplog.set_level("INFO")
    second = cross_fit(tissue, neighbors, *given, seed=1, workspace=Workspace(tmp_path))
    assert caplog.text.count("is used again") == 2
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(t, other.network.state_dict()[n]) for n, t in one.network.state_dict().items())
    caplog.clear()
    changed = tissue.expression.copy()
    changed[int(np.flatnonzero(folds.of_cell == 0)[0]), 0] += 1  # in the training without fold 1 alone
    cross_fit(replace(tissue, expression=changed), neighbors, *given, seed=1, workspace=Workspace(tmp_path))
    assert caplog.text.count("is used again") == 1
    assert caplog.text.count("training without fold 2 of 2") == 1
    caplog.clear()
    (tmp_path / "cross_fitted" / "fold_0" / "model.json").write_text("{")
    cross_fit(replace(tissue, expression=changed), neighbors, *given, seed=1, workspace=Workspace(tmp_path))
    assert caplog.text.count("training without fold 1 of 2") == 1


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("n_folds", 1, "n_folds must be 0 .none. or at least 2. Got 1"),
        ("n_folds", True, "n_folds must be"),
        ("blocks_per_fold", 0, "blocks_per_fold must be a whole number, at least 1. Got 0"),
        ("min_hearing", 1.5, "min_hearing must be a whole number"),
        ("max_q", 1.0, "max_q must be between 0 and 1. Got 1.0"),
        ("permute_within", "cell", "permute_within must be one of section, block. Got 'cell'"),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: object, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        EffectSettings(**{field: value})


def test_contradictions_are_refused(case: tuple[CrosstalkModel, PreparedTissue, Neighbors]) -> None:
    model, tissue, neighbors = case
    folds = Folds(np.arange(90) % 2, np.arange(90) % 2)
    with pytest.raises(ParameterError, match=r"a model is needed for each of 2 folds\. Got 1"):
        measure_effects([model], tissue, neighbors, folds)
    with pytest.raises(ParameterError, match=r"at most half the number of cells, 90\. Got 46"):
        cut_folds(tissue.coordinates, tissue.sections, n_folds=46, seed=0)
