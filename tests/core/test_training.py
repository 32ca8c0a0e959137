"""Training: the loss against plain loops, the schedule by hand, and the same numbers for the same seed."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import per_edge
import pytest
import torch
from naive import (
    TINY,
    made_tissue,
    naive_network,
    naive_weights,
    random_network,
    random_tissue,
)
from scipy import sparse
from threadpoolctl import threadpool_limits

from tissue_crosstalk.core import training
from tissue_crosstalk.core.attention import predict
from tissue_crosstalk.core.batches import HeldOut, hold_out, patch_batches
from tissue_crosstalk.core.devices import choose_device
from tissue_crosstalk.core.errors import ParameterError, TrainingError
from tissue_crosstalk.core.model import CrosstalkModel, TissueKeys
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.simulation import SimulationSettings, simulate_tissue
from tissue_crosstalk.core.tissue import PreparedTissue, prepare_tissue
from tissue_crosstalk.core.training import train_model
from tissue_crosstalk.core.training_settings import LearningRateSchedule, TrainingSettings

SHORT = TrainingSettings(max_epochs=3, batch_size=16, patch_size=4, attention_penalty_start=1, attention_penalty_end=2)


def tissue_with_neighbors(seed: int = 0, n_cells: int = 60) -> tuple[PreparedTissue, Neighbors]:
    tissue = random_tissue(seed, n_cells=n_cells)
    return tissue, find_neighbors(tissue, 4)


def trained(settings: TrainingSettings = SHORT, seed: int = 1) -> tuple[CrosstalkModel, pd.DataFrame]:
    return train_model(*tissue_with_neighbors(), TINY, settings, seed=seed, progress=False)


@cache
def trained_short() -> tuple[CrosstalkModel, pd.DataFrame]:
    return trained()


def held_out(tissue: PreparedTissue, settings: TrainingSettings, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which cells train_model trains on, and which it holds out, for a seed."""
    split = hold_out(
        tissue.coordinates,
        tissue.sections,
        fraction=settings.validation_fraction,
        split=settings.validation_split,
        n_blocks=settings.validation_blocks,
        rng=training._stream(seed, training._SPLIT),
    )
    return split.training, split.deciding


def trainer_of(
    tissue: PreparedTissue,
    neighbors: Neighbors,
    network: CrossAttentionNetwork,
    settings: TrainingSettings = SHORT,
) -> training.Trainer:
    """Return what trains the network on all cells."""
    rows = np.arange(tissue.n_cells)
    optimizer = torch.optim.Adam(network.parameters())
    return training.Trainer(tissue, neighbors, HeldOut(rows, rows, rows[:0]), settings, network, optimizer, seed=0)


# --- Settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_epochs": 0}, "max_epochs must be at least 1. Got 0 instead."),
        ({"batch_size": 0}, "batch_size must be at least 1. Got 0 instead."),
        ({"patch_size": -1}, "patch_size must be at least 1. Got -1 instead."),
        ({"patience": 0}, "patience must be at least 1. Got 0 instead."),
        ({"learning_rate": 0.0}, "learning_rate must be above 0. Got 0.0 instead."),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number. Got nan instead."),
        ({"max_epochs": "10"}, "max_epochs must be a whole number. Got '10' instead."),
        ({"batch_size": 2.5}, "batch_size must be a whole number. Got 2.5 instead."),
        ({"patience": None}, "patience must be a whole number. Got None instead."),
        ({"adam_eps": 0.0}, "adam_eps must be above 0. Got 0.0 instead."),
        ({"weight_decay": -1e-6}, "weight_decay must be at least 0. Got -1e-06 instead."),
        ({"value_l1_penalty": -1.0}, "value_l1_penalty must be at least 0. Got -1.0 instead."),
        ({"attention_penalty_from": -1.0}, "attention_penalty_from must be at least 0. Got -1.0 instead."),
        ({"attention_penalty_to": -1.0}, "attention_penalty_to must be at least 0. Got -1.0 instead."),
        ({"validation_fraction": 0.0}, "validation_fraction must be above 0 and at most 0.9. Got 0.0 instead."),
        ({"validation_fraction": 0.95}, "validation_fraction must be above 0 and at most 0.9. Got 0.95 instead."),
        ({"neighbor_dropout": 1.0}, "neighbor_dropout must be at least 0 and below 1. Got 1.0 instead."),
        ({"neighbor_dropout": -0.1}, "neighbor_dropout must be at least 0 and below 1. Got -0.1 instead."),
        ({"validation_blocks": 0}, "validation_blocks must be at least 1. Got 0 instead."),
        ({"learning_rate_warmup": -1}, "learning_rate_warmup must be at least 0. Got -1 instead."),
        ({"learning_rate_end": 0.5}, "learning_rate_end must be at least 0 and at most 0.001. Got 0.5 instead."),
        (
            {"learning_rate_schedule": "step"},
            "learning_rate_schedule must be one of constant, linear, cosine. Got 'step' instead.",
        ),
        ({"validation_split": "rows"}, "validation_split must be one of blocks, cells, both. Got 'rows' instead."),
        ({"device": "cuda:01"}, "device must be auto, cpu, cuda, cuda:<number> or mps. Got 'cuda:01' instead."),
        ({"device": "cuda:200"}, "device must be auto, cpu, cuda, cuda:<number> or mps. Got 'cuda:200' instead."),
        ({"device": "gpu"}, "device must be auto, cpu, cuda, cuda:<number> or mps. Got 'gpu' instead."),
        ({"attention_penalty_start": -1}, "attention_penalty_start must be at least 0. Got -1 instead."),
        (
            {"attention_penalty_start": 9, "attention_penalty_end": 8},
            "attention_penalty_end must be at least 9. Got 8 instead.",
        ),
    ],
)
def test_settings_say_what_is_wrong(given: dict[str, float], words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        TrainingSettings(**given)  # type: ignore[arg-type]
    assert str(caught.value) == words


def test_attention_penalty_by_hand() -> None:
    """0 before epoch 10, then linear from 1e-6 to 1e-3 until 30, then constant."""
    settings = TrainingSettings()
    for epoch, expected in {
        0: 0.0,
        9: 0.0,
        10: 1e-6,
        15: 1e-6 + 0.25 * 999e-6,
        20: 0.5005e-3,
        29: 1e-6 + 0.95 * 999e-6,
        30: 1e-3,
        1000: 1e-3,
    }.items():
        assert settings.attention_penalty(epoch) == pytest.approx(expected, rel=1e-12), epoch


def test_attention_penalty_without_a_ramp() -> None:
    settings = TrainingSettings(attention_penalty_start=5, attention_penalty_end=5, attention_penalty_to=0.5)
    assert [settings.attention_penalty(epoch) for epoch in (4, 5, 6)] == [0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [0.25, 0.5, 0.75, 1.0, 0.2 + 0.8 * (2 + 2**0.5) / 4, 0.6, 0.2 + 0.8 * (2 - 2**0.5) / 4, 0.2]),
    ],
)
def test_learning_rates_by_hand(schedule: LearningRateSchedule, expected: list[float]) -> None:
    """Three epochs up, and from the fourth down to the end in the last of eight."""
    settings = TrainingSettings(
        max_epochs=8,
        learning_rate=1.0,
        learning_rate_schedule=schedule,
        learning_rate_end=0.2,
        learning_rate_warmup=3,
    )
    assert [settings.learning_rate_in(epoch) for epoch in range(8)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("max_epochs", [1, 2])
def test_the_first_epoch_without_warmup_has_the_whole_learning_rate(
    schedule: LearningRateSchedule, max_epochs: int
) -> None:
    assert TrainingSettings(max_epochs=max_epochs, learning_rate_schedule=schedule).learning_rate_in(0) == 1e-3


def test_training_follows_the_learning_rate() -> None:
    """A rate that falls to 0 in the last epoch leaves the weights of the epoch before."""
    settings = replace(SHORT, max_epochs=2, learning_rate_schedule="linear", validation_split="both")
    _, history = trained(settings)
    assert history["learning_rate"].tolist() == [1e-3, 0.0]
    assert history["validation_reconstruction"][0] == history["validation_reconstruction"][1]
    _, constant = trained(replace(settings, learning_rate_schedule="constant"))
    assert constant["validation_reconstruction"][0] != constant["validation_reconstruction"][1]


# --- The loss


@pytest.mark.parametrize("patch_size", [1, 16])
def test_gradients_equal_those_of_a_per_edge_evaluation(patch_size: int) -> None:
    """Every parameter's, with neighbors dropped; differences are relative to the norm of a parameter's gradient."""
    adata, _ = simulate_tissue(SimulationSettings(n_cells=400, n_genes=30, n_cell_types=5, n_interactions=2), seed=0)
    tissue = prepare_tissue(adata, TissueKeys(), log_normalised=False)
    neighbors = find_neighbors(tissue, 12)
    network = CrossAttentionNetwork(30, 5, NetworkSettings(n_heads=3, n_kv_dim=32, distance_kernel_unit_scale=10.0))
    trainer = trainer_of(tissue, neighbors, network)
    generator = np.random.default_rng(1)
    batch = next(
        patch_batches(tissue.coordinates, tissue.sections, np.arange(400), 48, patch_size, np.random.default_rng(1))
    )
    dropped = generator.random((len(batch), 12)) < 0.1
    losses, oracle = trainer.losses(batch, dropped), per_edge.evaluate(network, tissue, neighbors, batch, dropped)
    for ours, theirs in (
        (losses.reconstruction, oracle.reconstruction),
        (losses.entropy, oracle.entropy),
        (losses.value_l1, oracle.value_l1),
    ):
        assert float(ours.detach()) == pytest.approx(float(theirs.detach().mean()), rel=1e-5)
    ours = torch.autograd.grad(losses.total(0.3, 0.02), list(network.parameters()))
    theirs = torch.autograd.grad(oracle.loss(0.3, 0.02), list(network.parameters()))
    for (name, _), one, other in zip(network.named_parameters(), ours, theirs, strict=True):
        assert float((one - other).norm()) <= 1e-5 * float(other.norm()), name


def test_only_the_rows_of_a_batch_are_made_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch's receivers and their neighbors, never the tissue."""
    rows = []
    dense = training._dense

    def recorded(expression: sparse.csr_matrix, wanted: np.ndarray) -> torch.Tensor:
        rows.append(len(wanted))
        return dense(expression, wanted)

    monkeypatch.setattr(training, "_dense", recorded)
    monkeypatch.setattr(training, "VALIDATION_CELLS", 8)
    monkeypatch.setattr(sparse.csr_matrix, "toarray", _small_only(sparse.csr_matrix.toarray, 8 * 5))
    tissue, neighbors = tissue_with_neighbors(n_cells=400)
    train_model(tissue, neighbors, TINY, replace(SHORT, max_epochs=1, batch_size=8), seed=1, progress=False)
    assert 8 < max(rows) <= 8 * 4


def _small_only(toarray: Any, most: int) -> Any:
    def checked(matrix: sparse.csr_matrix) -> np.ndarray:
        assert matrix.shape[0] <= most
        return np.asarray(toarray(matrix))

    return checked


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_loss_terms_equal_the_formulas(padded: bool, dropout: float) -> None:
    if padded:
        tissue = random_tissue(2, n_cells=24, n_sections=2)
        neighbors = find_neighbors(tissue, 9, pad=True)
        assert (neighbors.idx < 0).any()
    else:
        tissue, neighbors = tissue_with_neighbors(2, 24)
    network, batch = random_network(6, 3), np.array([20, 3, 4, 17, 11])
    masked = np.random.default_rng(7).random((5, neighbors.idx.shape[1])) < dropout
    with torch.inference_mode():
        losses = trainer_of(tissue, neighbors, network).losses(batch, masked)
    expression = tissue.expression.toarray()
    naive = naive_network(
        network, expression, tissue.labels[batch], neighbors.idx[batch], neighbors.dist[batch], masked
    )
    reconstruction = 0.5 * ((naive.prediction - expression[batch]) ** 2).sum(axis=1)
    assert float(losses.reconstruction) == pytest.approx(reconstruction.mean(), rel=1e-4)
    assert float(losses.entropy) == pytest.approx(naive.entropy.mean(), rel=1e-4)
    assert float(losses.value_l1) == pytest.approx(naive.value_l1.mean(), rel=1e-4)


def test_entropy_by_hand() -> None:
    """Weights of zero: all scores are 0, so K neighbors and a dummy of score 0 share alike: log(K + 1)."""
    tissue, neighbors = tissue_with_neighbors()
    network = random_network(6, 3, replace(TINY, attention_dummy_score=0.0, pos_coef_offset=-1e4))
    network.attention_layer.W_Q.zero_()
    network.attention_layer.b_Q.zero_()
    losses = trainer_of(tissue, neighbors, network).losses(np.arange(10))
    assert float(losses.entropy) == pytest.approx(np.log(5), rel=1e-6)


def test_a_masked_neighbor_leaves_no_gradient_that_is_not_finite() -> None:
    tissue = random_tissue(3, n_cells=24, n_sections=2)
    neighbors = find_neighbors(tissue, 9, pad=True)
    network = random_network(6, 3).requires_grad_(True)
    masked = np.random.default_rng(0).random((24, 9)) < 0.7
    trainer_of(tissue, neighbors, network).losses(np.arange(24), masked).total(1.0, 1.0).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_a_batch_without_any_neighbor_has_a_loss() -> None:
    """Such as one from a section of a single type, where padding is allowed: what the type alone says."""
    tissue = made_tissue(
        np.arange(16).reshape(8, 2),
        [0, 0, 0, 0, 0, 1, 0, 1],
        sections=[0] * 4 + [1] * 4,
        expression=np.random.default_rng(0).poisson(2, (8, 6)),
    )
    neighbors = find_neighbors(tissue, 2, pad=True)
    network, batch = random_network(6, 2), np.arange(4)
    losses = trainer_of(tissue, neighbors, network).losses(batch)
    expression = tissue.expression.toarray()
    naive = naive_network(network, expression, tissue.labels[batch], neighbors.idx[batch], neighbors.dist[batch])
    reconstruction = 0.5 * ((naive.prediction - expression[batch]) ** 2).sum(axis=1)
    assert float(losses.reconstruction) == pytest.approx(reconstruction.mean(), rel=1e-4)
    assert float(losses.entropy) == pytest.approx(0.0, abs=1e-9)
    assert float(losses.value_l1) == 0.0


# --- Training


def test_the_same_seed_gives_the_same_bits() -> None:
    (one, history), (other, again) = trained_short(), trained()
    weights, others = one.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    pd.testing.assert_frame_equal(history, again, check_exact=True)


def test_another_seed_gives_another_model() -> None:
    one, other = trained_short()[0].network, trained(seed=2)[0].network
    assert not torch.equal(one.attention_layer.W_V, other.attention_layer.W_V)


def test_the_global_random_state_is_left_alone() -> None:
    states = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002  # which is what this is about
    trained()
    assert torch.equal(torch.get_rng_state(), states[0])
    after = np.random.get_state()  # noqa: NPY002
    assert (after[1] == states[1][1]).all()
    assert after[2:] == states[1][2:]


def test_the_global_random_state_has_no_influence() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        model, _ = trained()
    assert torch.equal(model.network.attention_layer.W_V, trained_short()[0].network.attention_layer.W_V)


def test_the_model_knows_what_it_was_trained_on() -> None:
    tissue, _ = tissue_with_neighbors()
    model, _ = trained_short()
    assert (model.genes, model.cell_types, model.n_neighbors) == (tissue.genes, tissue.cell_types, 4)
    assert (model.keys, model.preprocessing, model.origin) == (tissue.keys, tissue.preprocessing, "tissue-crosstalk")
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_history_has_a_row_per_epoch() -> None:
    _, history = trained_short()
    assert list(history.columns) == [
        "epoch",
        "train_loss",
        "train_reconstruction",
        "train_entropy",
        "train_value_l1",
        "validation_reconstruction",
        "validation_explained",
        "attention_penalty",
        "learning_rate",
    ]
    assert history["epoch"].tolist() == [0, 1, 2]
    assert history["attention_penalty"].tolist() == [0.0, 1e-6, 1e-3]
    assert np.isfinite(history.to_numpy()).all()


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    settings = replace(SHORT, value_l1_penalty=0.3, attention_penalty_from=0.2, attention_penalty_to=0.7)
    _, history = trained(settings)
    expected = (
        history["train_reconstruction"]
        + history["attention_penalty"] * history["train_entropy"]
        + 0.3 * history["train_value_l1"]
    )
    np.testing.assert_allclose(history["train_loss"], expected, rtol=1e-5)
    assert history["attention_penalty"].tolist() == [0.0, 0.2, 0.7]


def test_the_first_epoch_by_the_formulas() -> None:
    """One batch of all training cells, nothing masked: what the initial weights are worth."""
    settings = replace(SHORT, batch_size=100, neighbor_dropout=0.0, max_epochs=1)
    model, history = trained(settings)
    tissue, neighbors = tissue_with_neighbors()
    cells, _ = held_out(tissue, settings, seed=1)
    network = CrossAttentionNetwork(6, 3, model.network.settings, seed=1)
    network.ct_profiles.copy_(model.network.ct_profiles)
    expression = tissue.expression.toarray()
    naive = naive_network(network, expression, tissue.labels[cells], neighbors.idx[cells], neighbors.dist[cells])
    reconstruction = 0.5 * ((naive.prediction - expression[cells]) ** 2).sum(axis=1)
    assert history["train_reconstruction"][0] == pytest.approx(reconstruction.mean(), rel=1e-4)
    assert history["train_entropy"][0] == pytest.approx(naive.entropy.mean(), rel=1e-4)
    assert history["train_value_l1"][0] == pytest.approx(naive.value_l1.mean(), rel=1e-4)


def test_terms_of_an_epoch_are_means_over_its_cells() -> None:
    """Of whatever batches: with weights that hardly move, small batches give the same as one."""
    settings = replace(SHORT, neighbor_dropout=0.0, max_epochs=1, learning_rate=1e-9)
    (_, one), (_, other) = trained(replace(settings, batch_size=100)), trained(replace(settings, batch_size=16))
    pd.testing.assert_frame_equal(one, other, rtol=1e-4)


def test_training_lowers_the_loss() -> None:
    _, history = trained(replace(SHORT, max_epochs=12, learning_rate=0.01))
    assert history["train_reconstruction"].iloc[-1] < 0.8 * history["train_reconstruction"].iloc[0]


def test_type_profiles_are_the_means_of_the_training_cells() -> None:
    tissue, _ = tissue_with_neighbors()
    training_cells, _ = held_out(tissue, SHORT, seed=1)
    expression, labels = tissue.expression.toarray()[training_cells], tissue.labels[training_cells]
    profiles = trained_short()[0].network.ct_profiles.numpy()
    for label in range(3):
        np.testing.assert_allclose(profiles[label], expression[labels == label].mean(axis=0), rtol=1e-5)


def test_a_type_of_which_all_cells_are_held_out_has_its_own_mean() -> None:
    tissue, _ = tissue_with_neighbors()
    _, validation = held_out(tissue, SHORT, seed=1)
    labels = tissue.labels.copy()
    labels[labels == 2] = 0
    labels[validation[:2]] = 2
    tissue = replace(tissue, labels=labels)
    model, _ = train_model(tissue, find_neighbors(tissue, 4), TINY, SHORT, seed=1, progress=False)
    expected = tissue.expression.toarray()[validation[:2]].mean(axis=0)
    np.testing.assert_allclose(model.network.ct_profiles[2].numpy(), expected, rtol=1e-5)


def test_a_type_without_any_cell_has_a_profile_of_zeros() -> None:
    """Such as one of a model's types that a tissue lacks."""
    tissue, neighbors = tissue_with_neighbors()
    tissue = replace(tissue, cell_types=("A", "B", "C", "none"))
    model, _ = train_model(tissue, neighbors, TINY, SHORT, seed=1, progress=False)
    assert (model.network.ct_profiles[3] == 0).all()


def test_the_best_weights_are_returned() -> None:
    """Those of the epoch with the lowest validation, which is not the last: it has to be computed anew."""
    settings = replace(SHORT, max_epochs=60, learning_rate=0.05, patience=5)
    model, history = trained(settings)
    tissue, neighbors = tissue_with_neighbors()
    _, validation = held_out(tissue, settings, seed=1)
    predicted = predict(model.network, tissue, neighbors, validation)
    recomputed = (0.5 * (predicted - tissue.expression.toarray()[validation]) ** 2).sum(axis=1).mean()
    scores = history["validation_reconstruction"]
    assert recomputed == pytest.approx(scores.min(), rel=1e-5)
    assert scores.iloc[-1] > 1.001 * scores.min()
    # Training went on for as many epochs as patience allows, and no longer.
    assert len(history) == int(scores.idxmin()) + 1 + settings.patience
    assert len(history) < settings.max_epochs


def test_distances_are_measured_in_units_of_the_tissues_spacing() -> None:
    """Whether coordinates are micrometres or pixels, the same model comes out; without, they have their own unit."""
    tissue, neighbors = tissue_with_neighbors()
    scaled = replace(tissue, coordinates=tissue.coordinates * 4)
    further = Neighbors(neighbors.idx, neighbors.dist * 4)
    one, _ = trained_short()
    other, _ = train_model(scaled, further, TINY, SHORT, seed=1, progress=False)
    scale = float(np.median(neighbors.dist[:, 0]))
    assert one.network.settings.distance_kernel_unit_scale == pytest.approx(scale)
    assert other.network.settings.distance_kernel_unit_scale == pytest.approx(4 * scale)
    for name, weight in naive_weights(one.network).items():
        np.testing.assert_allclose(naive_weights(other.network)[name], weight, rtol=1e-4, atol=1e-6, err_msg=name)
    fixed, _ = trained(replace(SHORT, auto_distance_scale=False))
    assert fixed.network.settings.distance_kernel_unit_scale == TINY.distance_kernel_unit_scale


def test_the_spacing_ignores_padding_and_cells_at_the_same_place() -> None:
    dist = np.array([[np.inf], [0.0], [3.0], [5.0]], dtype=np.float32)
    assert training._distance_scale(Neighbors(np.zeros((4, 1), np.int32), dist)) == 4.0
    assert training._distance_scale(Neighbors(np.zeros((2, 1), np.int32), dist[:2])) == 1.0


def test_training_with_padded_neighbors() -> None:
    tissue = random_tissue(5, n_cells=40, n_sections=2)
    neighbors = find_neighbors(tissue, 16, pad=True)
    assert (neighbors.idx < 0).any()
    model, history = train_model(tissue, neighbors, TINY, SHORT, seed=1, progress=False)
    assert np.isfinite(history.to_numpy()).all()
    assert model.n_neighbors == 16


def test_training_where_a_section_has_a_single_type() -> None:
    """Its cells have no neighbors at all, in batches of their own, too."""
    tissue = random_tissue(6, n_cells=48, n_sections=2)
    labels = np.where(tissue.sections == 0, np.int16(0), tissue.labels)
    tissue = replace(tissue, labels=labels)
    neighbors = find_neighbors(tissue, 3, pad=True)
    settings = replace(SHORT, batch_size=4, max_epochs=1)
    _, history = train_model(tissue, neighbors, TINY, settings, seed=1, progress=False)
    assert np.isfinite(history.to_numpy()).all()


def test_training_changes_no_argument() -> None:
    tissue, neighbors = tissue_with_neighbors()
    kept = tissue.expression.copy(), neighbors.idx.copy(), neighbors.dist.copy(), tissue.labels.copy()
    train_model(tissue, neighbors, TINY, replace(SHORT, max_epochs=1), seed=1, progress=False)
    assert (tissue.expression != kept[0]).nnz == 0
    assert all((a == b).all() for a, b in zip((neighbors.idx, neighbors.dist, tissue.labels), kept[1:], strict=True))


def test_both_kinds_of_held_out_cells_are_reported() -> None:
    settings = replace(SHORT, validation_split="both", validation_fraction=0.3)
    model, history = trained(settings)
    tissue, neighbors = tissue_with_neighbors()
    split = hold_out(
        tissue.coordinates,
        tissue.sections,
        fraction=0.3,
        split="both",
        n_blocks=10,
        rng=training._stream(1, training._SPLIT),
    )
    predicted = predict(model.network, tissue, neighbors, split.cells)
    expected = (0.5 * (predicted - tissue.expression.toarray()[split.cells]) ** 2).sum(axis=1).mean()
    best = int(history["validation_reconstruction"].idxmin())
    assert history["validation_cells_reconstruction"][best] == pytest.approx(expected, rel=1e-5)
    by_means = model.network.ct_profiles.numpy()[tissue.labels[split.cells]]
    means = (0.5 * (by_means - tissue.expression.toarray()[split.cells]) ** 2).sum(axis=1).mean()
    assert history["validation_cells_explained"][best] == pytest.approx(1 - expected / means, rel=1e-3)


def test_explained_is_the_gain_over_the_types_means() -> None:
    model, history = trained_short()
    tissue, _ = tissue_with_neighbors()
    _, validation = held_out(tissue, SHORT, seed=1)
    by_means = model.network.ct_profiles.numpy()[tissue.labels[validation]]
    means = (0.5 * (by_means - tissue.expression.toarray()[validation]) ** 2).sum(axis=1).mean()
    expected = 1 - history["validation_reconstruction"] / means
    np.testing.assert_allclose(history["validation_explained"], expected, rtol=1e-4)


def test_where_the_types_means_are_perfect_nothing_is_explained() -> None:
    tissue, neighbors = tissue_with_neighbors()
    values = np.array([[1.0], [2.0], [0.0]])[tissue.labels].repeat(6, axis=1).astype(np.float32)
    tissue = replace(tissue, expression=sparse.csr_matrix(values))
    _, history = train_model(tissue, neighbors, TINY, SHORT, seed=1, progress=False)
    assert (history["validation_explained"] == 0).all()


def test_a_model_that_learned_nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        trained(replace(SHORT, max_epochs=1))
    assert "barely better than their types' means" in caplog.text


def test_mixed_precision_is_close_to_float32() -> None:
    """bfloat16 has 8 bits: the loss of an epoch agrees to some tenths of a percent, and weights stay float32."""
    (_, exact), (model, mixed) = trained_short(), trained(replace(SHORT, mixed_precision=True))
    np.testing.assert_allclose(mixed["train_reconstruction"], exact["train_reconstruction"], rtol=0.01)
    assert not (mixed["train_reconstruction"] == exact["train_reconstruction"]).any()
    assert {weight.dtype for weight in model.network.state_dict().values()} == {torch.float32}


# --- Devices


def test_auto_is_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda cuda=cuda: int(cuda))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # so that the test's own environment is restored
        assert choose_device("auto").type == expected
        assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "cuda:3", "mps"])
def test_a_device_that_is_not_there_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        ParameterError, match=rf"^device is '{name}', but torch .* finds 0 {name[:4].strip(':')} devices"
    ):
        trained(replace(SHORT, device=name))


# --- Errors


def test_a_loss_that_grows_without_end_is_an_error() -> None:
    """Finite, but far above that of the untrained network."""
    with pytest.raises(TrainingError) as caught:
        trained(replace(SHORT, max_epochs=30, learning_rate=3.0, adam_eps=1e-8))
    message = str(caught.value)
    assert re.match(r"training has diverged in epoch \d+ \(reconstruction in training ", message)
    assert "Lower learning_rate (now 3)" in message


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(TrainingError) as caught:
        trained(replace(SHORT, learning_rate=1e30))
    message = str(caught.value)
    assert message.startswith("the loss is not finite in epoch 0 (reconstruction in training ")
    assert "Lower learning_rate (now 1e+30) or raise adam_eps (now 0.01), or look for extreme values in the" in message


def test_extreme_expression_is_an_error() -> None:
    tissue, neighbors = tissue_with_neighbors()
    values = tissue.expression.toarray()
    values[values > 0] = 1e30
    with pytest.raises(TrainingError, match="the loss is not finite in epoch 0"):
        train_model(
            replace(tissue, expression=sparse.csr_matrix(values)), neighbors, TINY, SHORT, seed=1, progress=False
        )


def test_a_single_cell_cannot_be_trained_on() -> None:
    tissue = made_tissue([[0, 0]], [0], expression=np.ones((1, 6)))
    neighbors = find_neighbors(tissue, 1, pad=True)
    with pytest.raises(TrainingError, match=r"^training needs at least 2 cells, of which 1 held out\. Got 1\.$"):
        train_model(tissue, neighbors, TINY, SHORT, seed=1, progress=False)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_with_several_threads() -> None:
    """Gradients of a sender that many receivers share are added up by all threads, and must be in one order."""
    adata, _ = simulate_tissue(SimulationSettings(n_cells=2000, n_genes=60), seed=0)
    tissue = prepare_tissue(adata, TissueKeys(), log_normalised=False)
    neighbors = find_neighbors(tissue, 20)
    # Wide enough that torch shares the work among its threads.
    settings = NetworkSettings(n_nn_embed=64, n_nn_embed_hidden=128, n_kv_dim=64, n_pos_coef_mlp_hidden=64)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threadpool_limits(2):
            first, second = (
                train_model(tissue, neighbors, settings, TrainingSettings(max_epochs=2), seed=1, progress=False)
                for _ in range(2)
            )
    finally:
        torch.set_num_threads(before)
    pd.testing.assert_frame_equal(first[1], second[1], check_exact=True)
    for name, weight in first[0].network.state_dict().items():
        assert torch.equal(weight, second[0].network.state_dict()[name]), name
    assert not torch.are_deterministic_algorithms_enabled()
