"""The network against the method in plain loops: every size, every slot."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from naive import (
    TINY,
    Naive,
    naive_network,
    naive_weights,
    random_network,
    res_mlp,
)

from tissue_crosstalk.core import network as network_module
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.network import CrossAttentionNetwork, Edges, ResMLP
from tissue_crosstalk.core.network_settings import NetworkSettings

N_GENES, N_LABELS, N_SENDERS, N_CELLS, N_NEIGHBORS = 8, 3, 9, 7, 4

SIZES = {
    "all projections": TINY,
    "one head": replace(TINY, n_heads=1),
    "one dimension": replace(TINY, n_heads=3, n_head_size=1),
    "queries of the label embedding's size": replace(TINY, n_label_embed=10),
    "neighbor embedding of the genes' size": replace(TINY, n_nn_embed=N_GENES),
    "keys of the neighbor embedding's size": replace(TINY, n_nn_embed=12),
    "as many heads as inputs of the distance coefficient": replace(TINY, n_heads=7, n_nn_embed=4, n_label_embed=3),
    "nothing projects": replace(
        TINY, n_heads=11, n_nn_embed=N_GENES, n_label_embed=3, n_query_dim=1, n_kv_dim=2, n_head_size=2
    ),
    "a far reach and a high dummy": replace(
        TINY, attention_dummy_score=3.0, pos_coef_offset=-2.0, distance_kernel_unit_scale=30.0
    ),
    "a negative dummy": replace(TINY, attention_dummy_score=-4.0, pos_coef_offset=0.0, distance_kernel_unit_scale=0.5),
}


def edges_of(seed: int, *, padded: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return expression of senders, neighbor rows, distances and receiver labels, all float64 and int64."""
    generator = np.random.default_rng(seed)
    rows = np.stack([generator.permutation(N_SENDERS)[:N_NEIGHBORS] for _ in range(N_CELLS)])
    distance = np.sort(generator.uniform(0, 20, rows.shape), axis=1)
    if padded:
        rows[0, 3], rows[1, 1:], rows[2] = -1, -1, -1
        distance[rows < 0] = np.inf
    return generator.exponential(1.0, (N_SENDERS, N_GENES)), rows, distance, np.arange(N_CELLS) % N_LABELS


def computed(
    network: CrossAttentionNetwork, case: tuple[np.ndarray, ...], *, blocks: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return patterns (head, cell, neighbor) and predictions (cell, gene) of the network in float64."""
    expression, rows, distance, labels = case
    absent = rows < 0
    edges = Edges(
        torch.from_numpy(np.where(absent, 0, rows)),
        torch.from_numpy(np.where(absent, 0.0, distance)),
        torch.from_numpy(labels),
        torch.from_numpy(absent) if absent.any() else None,
    )
    senders = network.senders(torch.from_numpy(expression), blocks=blocks)
    patterns = network.patterns(senders, edges, blocks=blocks)
    prediction = network.predict(network.attend(senders.value, patterns, edges.sender), edges.receiver_label)
    return patterns.transpose(0, 1).numpy(), prediction.numpy()


def expected(network: CrossAttentionNetwork, case: tuple[np.ndarray, ...]) -> Naive:
    expression, rows, distance, labels = case
    return naive_network(network, expression, labels, rows, distance)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_equals_the_formulas(name: str, padded: bool) -> None:
    network = random_network(N_GENES, N_LABELS, SIZES[name], seed=len(name)).double()
    case = edges_of(len(name), padded=padded)
    naive = expected(network, case)
    patterns, prediction = computed(network, case, blocks=False)
    np.testing.assert_allclose(patterns, naive.patterns, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(1 - patterns.sum(axis=2), naive.dummy, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(prediction, naive.prediction, rtol=1e-10, atol=1e-12)


def test_blocks_change_nothing_but_the_rounding() -> None:
    network, case = random_network(N_GENES, N_LABELS).double(), edges_of(1, padded=True)
    for one, other in zip(computed(network, case, blocks=True), computed(network, case, blocks=False), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_float32_is_near_the_formulas() -> None:
    network = random_network(N_GENES, N_LABELS, seed=5)
    expression, rows, distance, labels = edges_of(5, padded=True)
    senders = network.senders(torch.from_numpy(expression.astype(np.float32)))
    edges = Edges.from_neighbors(rows, distance.astype(np.float32), labels)
    naive = naive_network(network, expression.astype(np.float32), labels, rows, distance.astype(np.float32))
    patterns = network.patterns(senders, edges)
    assert patterns.dtype == torch.float32
    np.testing.assert_allclose(patterns.transpose(0, 1).numpy(), naive.patterns, rtol=1e-4, atol=1e-7)


def test_the_naive_formula_sees_a_swap_in_the_distance_coefficient() -> None:
    """The order [embedding ; label embedding] matters: with the parts swapped, the comparison fails."""
    settings = replace(TINY, n_nn_embed=4, n_label_embed=4)
    network, case = random_network(N_GENES, N_LABELS, settings).double(), edges_of(2, padded=False)
    naive = expected(network, case)
    first = network.pos_coef_mlp.nn[0].weight
    first.copy_(torch.cat([first[:, 4:], first[:, :4]], dim=1))
    assert np.abs(computed(network, case, blocks=False)[0] - naive.patterns).max() > 1e-3


@pytest.mark.parametrize(("n_out", "final_norm"), [(5, True), (5, False), (3, True), (3, False)])
def test_residual_perceptron_by_the_formula(n_out: int, final_norm: bool) -> None:
    layer = ResMLP(5, 4, n_out, final_norm=final_norm).double()
    generator = torch.Generator().manual_seed(n_out)
    for parameter in layer.parameters():
        parameter.data.normal_(generator=generator)
    weights = {f"mlp.{name}": tensor.numpy() for name, tensor in layer.state_dict().items()}
    x = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    naive = np.stack([res_mlp(weights, "mlp", row, n_out, final_norm=final_norm) for row in x.numpy()])
    np.testing.assert_allclose(layer(x).detach().numpy(), naive, rtol=1e-10, atol=1e-12)


def test_residual_perceptron_has_no_last_norm_where_neither_a_norm_nor_a_projection_is_wanted() -> None:
    names = set(ResMLP(5, 4, 5, final_norm=False).state_dict())
    assert names == {f"nn.{layer}.{kind}" for layer in (0, 1, 3) for kind in ("weight", "bias")}


def test_distance_coefficient_is_never_negative() -> None:
    """However the weights are: attention never grows with distance, all else equal."""
    network = random_network(N_GENES, N_LABELS, replace(TINY, pos_coef_offset=-30.0)).double()
    expression, *_ = edges_of(3, padded=False)
    embedding = network.senders(torch.from_numpy(expression)).embedding
    pairs = torch.cartesian_prod(torch.arange(N_SENDERS), torch.arange(N_LABELS))
    coefficients = network.distance_coefficients(embedding, pairs[:, 0], pairs[:, 1], blocks=False)
    assert coefficients.shape == (N_SENDERS * N_LABELS, TINY.n_heads)
    assert (coefficients >= 0).all()


def test_attention_falls_with_distance() -> None:
    network, (expression, rows, distance, labels) = (
        random_network(N_GENES, N_LABELS).double(),
        edges_of(4, padded=False),
    )
    near, _ = computed(network, (expression, rows, distance, labels), blocks=False)
    distance[:, 2] += 5
    far, _ = computed(network, (expression, rows, distance, labels), blocks=False)
    assert (far[:, :, 2] < near[:, :, 2]).all()
    assert (np.delete(far, 2, axis=2) > np.delete(near, 2, axis=2)).all()


def test_rows_sum_to_less_than_one() -> None:
    network = random_network(N_GENES, N_LABELS, replace(TINY, attention_dummy_score=-2.0)).double()
    patterns, _ = computed(network, edges_of(6, padded=True), blocks=False)
    assert (patterns >= 0).all()
    assert (patterns.sum(axis=2) < 1).all()


def test_permuting_the_neighbors_permutes_the_patterns() -> None:
    network, (expression, rows, distance, labels) = random_network(N_GENES, N_LABELS).double(), edges_of(7, padded=True)
    order = np.array([2, 0, 3, 1])
    straight = computed(network, (expression, rows, distance, labels), blocks=False)
    permuted = computed(network, (expression, rows[:, order], distance[:, order], labels), blocks=False)
    np.testing.assert_allclose(permuted[0], straight[0][:, :, order], rtol=1e-12)
    np.testing.assert_allclose(permuted[1], straight[1], rtol=1e-12)


def test_padded_slots_get_nothing() -> None:
    network, case = random_network(N_GENES, N_LABELS).double(), edges_of(8, padded=True)
    patterns, _ = computed(network, case, blocks=False)
    padded = case[1] < 0
    assert (patterns[:, padded] == 0).all()
    assert (patterns[:, ~padded] > 0).all()


def test_a_receiver_without_neighbors_hears_nothing() -> None:
    """Its prediction is what its type says alone, finite."""
    network = random_network(N_GENES, N_LABELS).double()
    expression, rows, distance, labels = edges_of(9, padded=False)
    alone = np.full_like(rows, -1), np.full_like(distance, np.inf)
    patterns, prediction = computed(network, (expression, *alone, labels), blocks=False)
    assert (patterns == 0).all()
    naive = expected(network, (expression, *alone, labels))
    assert (naive.dummy == 1).all()
    np.testing.assert_allclose(prediction, naive.prediction, rtol=1e-10)


def test_attention_survives_extreme_scores() -> None:
    """Distances whose weight underflows, and scores whose exponential would overflow, stay finite."""
    network = random_network(N_GENES, N_LABELS, replace(TINY, attention_dummy_score=-500.0))
    network.attention_layer.W_K.mul_(500)
    expression, rows, distance, labels = edges_of(10, padded=False)
    distance[:, -1] = 1e30
    senders = network.senders(torch.from_numpy(expression.astype(np.float32)))
    patterns = network.patterns(senders, Edges.from_neighbors(rows, distance.astype(np.float32), labels)).numpy()
    assert np.isfinite(patterns).all()
    assert (patterns[:, :, -1] == 0).all()
    assert patterns.sum(axis=2).max() <= 1 + 1e-6


def test_edges_from_padded_neighbors() -> None:
    edges = Edges.from_neighbors(
        np.array([[3, -1], [0, 2]]), np.array([[1.5, np.inf], [0, 2]], np.float32), np.array([1, 0], np.int16)
    )
    assert edges.sender.tolist() == [[3, 0], [0, 2]]
    assert edges.distance.tolist() == [[1.5, 0.0], [0.0, 2.0]]
    assert edges.absent is not None
    assert edges.absent.tolist() == [[False, True], [False, False]]
    assert (edges.sender.dtype, edges.receiver_label.dtype) == (torch.int64, torch.int64)


def test_edges_without_padding_mask_nothing() -> None:
    edges = Edges.from_neighbors(np.array([[1]]), np.array([[2.0]], np.float32), np.array([0]))
    assert edges.absent is None


def test_softmax_with_dummy_by_hand() -> None:
    """Scores log 1, log 2 and log 3 against a dummy of log 4: shares 1/10, 2/10 and 3/10."""
    score = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64).log()[None]  # (cell, neighbor, head)
    share = network_module._softmax_with_dummy(score, np.log(4.0))
    np.testing.assert_allclose(share.numpy(), [[[0.1], [0.2], [0.3]]], rtol=1e-12)


def test_patterns_by_head_by_hand() -> None:
    """Two heads. Scores log 1 and log 2 less reach times coefficient, of head 1 with one slot absent; dummy log 4."""
    base, coefficient = torch.tensor([[1.0, 2.0], [2.0, 6.0]]).log(), torch.tensor([[0.0, 0.0], [0.0, np.log(3.0)]])
    of_edge = torch.stack([base.t(), coefficient.t()], dim=1).reshape(1, 2, 4)  # (cell, neighbor, 2 head)
    reach, absent = torch.tensor([[5.0, 1.0]]), torch.tensor([[True, False]])
    found = network_module.patterns_by_head(of_edge, reach, None, np.log(4.0))
    np.testing.assert_allclose(found.numpy(), [[[1 / 7, 2 / 7]], [[2 / 8, 2 / 8]]], rtol=1e-6)
    found = network_module.patterns_by_head(of_edge, reach, absent, np.log(4.0))
    np.testing.assert_allclose(found.numpy(), [[[0, 2 / 6]], [[0, 2 / 6]]], rtol=1e-6)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("gradients", [False, True])
def test_keys_and_values_equal_those_of_the_layers_one_by_one(name: str, gradients: bool) -> None:
    """Whether the layer norm's variance comes from its factor, or with gradients from its quadratic form."""
    network = random_network(N_GENES, N_LABELS, SIZES[name]).double().requires_grad_(gradients)
    s, layer = network.settings, network.attention_layer
    embedding = torch.from_numpy(np.random.default_rng(0).normal(size=(5, s.n_nn_embed)))
    inputs = network.kv_embed(embedding).view(5, s.n_heads, s.n_kv_dim)
    expected = torch.cat(
        [
            torch.einsum("shk,dhk->shd", inputs, layer.W_K) + layer.b_K,
            torch.einsum("shk,dhk->shd", inputs, layer.W_V) + layer.b_V,
        ],
        dim=2,
    )
    key_value_map = network.key_value_map()
    assert (key_value_map.form is not None) == (gradients and network.kv_embed.project_nn is not None)
    found = key_value_map(network.kv_embed.residual(embedding)).view(expected.shape)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_edges_in_order() -> None:
    """By sender, then by the receiver's label, then by place."""
    edges = Edges.from_neighbors(np.array([[2, 0], [0, 2], [2, 1]]), np.ones((3, 2), np.float32), np.array([1, 0, 0]))
    order = edges.in_order().order
    assert edges.order is None
    assert order is not None
    assert order.tolist() == [2, 1, 5, 3, 4, 0]


def test_initial_weights_are_uniform_within_their_bounds() -> None:
    settings = replace(TINY, n_heads=4, n_head_size=8, n_query_dim=16, n_kv_dim=9)
    layer = CrossAttentionNetwork(N_GENES, N_LABELS, settings, seed=1).attention_layer
    for name, bound in {
        "W_Q": 1 / np.sqrt(4 * 16),
        "W_K": 1 / np.sqrt(4 * 9),
        "W_V": 1 / np.sqrt(4 * 9),
        "W_O": 1 / np.sqrt(4 * 8),
        "b_Q": 1 / np.sqrt(8),
        "b_K": 1 / np.sqrt(8),
        "b_V": 1 / np.sqrt(8),
    }.items():
        values = getattr(layer, name).detach().numpy()
        assert bound * 0.85 < np.abs(values).max() <= bound, name
        assert abs(values.std() - bound / np.sqrt(3)) < 0.2 * bound, name
    assert layer.W_Q.shape == (8, 4, 16)
    assert layer.W_O.shape == (32, 4, 8)


def test_seed_decides_the_initial_weights() -> None:
    one, same, other = (naive_weights(CrossAttentionNetwork(N_GENES, N_LABELS, TINY, seed=s)) for s in (3, 3, 4))
    assert all((one[name] == same[name]).all() for name in one)
    assert (one["attention_layer.W_Q"] != other["attention_layer.W_Q"]).all()


def test_building_a_network_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    CrossAttentionNetwork(N_GENES, N_LABELS, TINY, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_heads": 0}, "'n_heads' must be a whole number from 1 to 16777216. Got 0 instead"),
        ({"n_kv_dim": 2**24 + 1}, "'n_kv_dim' must be a whole number from 1 to 16777216. Got 16777217 instead"),
        ({"n_head_size": 1.5}, "'n_head_size' must be a whole number from 1 to 16777216. Got 1.5 instead"),
        ({"n_nn_embed": True}, "'n_nn_embed' must be a whole number from 1 to 16777216. Got True instead"),
        (
            {"attention_dummy_score": float("inf")},
            "'attention_dummy_score' must be finite, at most 1e+38 in size. Got inf",
        ),
        ({"attention_dummy_score": -1e39}, "'attention_dummy_score' must be finite, at most 1e+38 in size. Got -1e+39"),
        ({"pos_coef_offset": float("nan")}, "'pos_coef_offset' must be finite, at most 1e+38 in size. Got nan instead"),
        ({"distance_kernel_unit_scale": 0.0}, "'distance_kernel_unit_scale' must be positive. Got 0.0 instead"),
        ({"distance_kernel_unit_scale": -1.0}, "'distance_kernel_unit_scale' must be positive. Got -1.0 instead"),
    ],
)
def test_settings_say_what_is_wrong(given: dict[str, float], words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        NetworkSettings(**given)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_defaults_are_the_published_ones() -> None:
    assert asdict(NetworkSettings()) == {
        "n_heads": 4,
        "n_head_size": 16,
        "n_label_embed": 32,
        "n_query_embed_hidden": 512,
        "n_query_dim": 64,
        "n_nn_embed": 256,
        "n_nn_embed_hidden": 1024,
        "n_kv_dim": 256,
        "n_pos_coef_mlp_hidden": 512,
        "attention_dummy_score": 3.0,
        "pos_coef_offset": -2.0,
        "distance_kernel_unit_scale": 1.0,
    }
    assert NetworkSettings().n_embed == 64
