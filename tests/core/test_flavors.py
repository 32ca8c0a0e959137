"""Flavors of attention: by hand, by the full matrices, and as the published package has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from naive import (
    TINY,
    golden,
    naive_norms,
    random_network,
    random_tissue,
)

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.attention import extract_attention
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.flavors import FLAVORS, check_flavors, sender_norms, weigh
from tissue_crosstalk.core.neighbors import find_neighbors
from tissue_crosstalk.core.network_settings import NetworkSettings

NORM_OF_FLAVOR = {
    terms.VALUE_WEIGHTED: terms.VALUE_NORM,
    terms.INFO_WEIGHTED: terms.INFO_NORM,
    terms.GENE_WEIGHTED: terms.GENE_NORM,
}
PUBLISHED = (terms.VANILLA, *NORM_OF_FLAVOR)


@pytest.mark.parametrize("flavor", PUBLISHED)
def test_golden(flavor: str) -> None:
    known = golden()
    (shard,) = extract_attention(known.model.network, known.tissue, known.neighbors, cells_per_shard=1000)
    norms = shard.norms_of(np.arange(known.tissue.n_cells))
    weighed = weigh(shard.patterns, norms, known.neighbors.idx, flavor)[:, known.order]
    np.testing.assert_allclose(weighed, known.expected[flavor.replace("-", "_")], rtol=1e-5)
    assert weighed.dtype == np.float32


def test_published_flavors_come_first() -> None:
    assert list(FLAVORS)[:4] == ["vanilla", "value-weighted", "info-weighted", "gene-weighted"]


@pytest.mark.parametrize("flavor", NORM_OF_FLAVOR)
def test_weights_by_hand(flavor: str) -> None:
    """One head of two; a receiver with neighbors 2 and 0: each pattern times that neighbor's norm."""
    patterns = np.array([[[0.5, 0.25]], [[0.1, 0.2]]], dtype=np.float32)
    norms = {name: np.full((3, 2), np.nan, dtype=np.float32) for name in terms.NORMS}
    norms[NORM_OF_FLAVOR[flavor]] = np.array([[2, 10], [np.nan, np.nan], [4, 20]], dtype=np.float32)
    weighed = weigh(patterns, norms, np.array([[2, 0]], dtype=np.int32), flavor)
    np.testing.assert_allclose(weighed, [[[2.0, 0.5]], [[2.0, 2.0]]], rtol=1e-6)


def test_vanilla_is_the_pattern_itself() -> None:
    patterns = np.random.default_rng(0).random((2, 3, 4), dtype=np.float32)
    assert (weigh(patterns, {}, np.zeros((3, 4), np.int32), terms.VANILLA) == patterns).all()


@pytest.mark.parametrize("flavor", FLAVORS)
def test_padded_slots_stay_zero(flavor: str) -> None:
    tissue = random_tissue(1, n_cells=18, n_sections=2)
    neighbors = find_neighbors(tissue, 8, pad=True)
    padded = neighbors.idx < 0
    (shard,) = extract_attention(random_network(6, 3), tissue, neighbors, cells_per_shard=99)
    weighed = weigh(shard.patterns, shard.norms, neighbors.idx, flavor)
    assert padded.any()
    assert (weighed[:, padded] == 0).all()
    assert (weighed[:, ~padded] > 0).all()


@pytest.mark.parametrize("flavor", FLAVORS)
def test_permuting_the_neighbors_permutes_the_flavor(flavor: str) -> None:
    generator = np.random.default_rng(2)
    patterns, senders = generator.random((2, 5, 6), dtype=np.float32), generator.integers(0, 9, (5, 6)).astype(np.int32)
    norms = {name: generator.random((9, 2), dtype=np.float32) for name in terms.NORMS}
    order = generator.permutation(6)
    straight = weigh(patterns, norms, senders, flavor)
    assert (weigh(patterns[:, :, order], norms, senders[:, order], flavor) == straight[:, :, order]).all()


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_order_of_memory_does_not_matter(flavor: str, axes: tuple[int, int, int]) -> None:
    """Whichever axis varies slowest; what is stored comes by neighbor, head, cell."""
    generator = np.random.default_rng(3)
    patterns, senders = (
        generator.random((2, 5, 6), dtype=np.float32),
        generator.integers(-1, 9, (5, 6)).astype(np.int32),
    )
    norms = {name: generator.random((9, 2), dtype=np.float32) for name in terms.NORMS}
    stored = np.ascontiguousarray(patterns.transpose(axes)).transpose(np.argsort(axes))
    assert (weigh(stored, norms, np.asfortranarray(senders), flavor) == weigh(patterns, norms, senders, flavor)).all()


@pytest.mark.parametrize("flavor", NORM_OF_FLAVOR)
def test_a_sender_without_a_norm_is_refused(flavor: str) -> None:
    norms = {name: np.ones((3, 1), dtype=np.float32) for name in terms.NORMS}
    with pytest.raises(ParameterError, match=r"a row for each sender. Got 3 rows and sender 3"):
        weigh(np.ones((1, 1, 2), np.float32), norms, np.array([[0, 3]], np.int32), flavor)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_weighing_changes_no_argument(flavor: str) -> None:
    patterns = np.full((1, 2, 2), 0.25, dtype=np.float32)
    norms = {name: np.full((3, 1), 3.0, dtype=np.float32) for name in terms.NORMS}
    weigh(patterns, norms, np.array([[1, 2], [0, -1]], np.int32), flavor)
    assert (patterns == 0.25).all()
    assert all((norm == 3.0).all() for norm in norms.values())


@pytest.mark.parametrize(
    "settings",
    [
        TINY,
        replace(TINY, n_head_size=1),
        replace(TINY, n_heads=1, n_head_size=9),
        replace(TINY, n_heads=5, n_head_size=4),
    ],
    ids=["two heads", "one dimension", "more dimensions than genes", "five heads"],
)
def test_norms_equal_the_full_matrices(settings: NetworkSettings) -> None:
    n_genes = 5
    network = random_network(n_genes, 3, settings)
    expression = np.random.default_rng(3).exponential(1.0, (7, n_genes)).astype(np.float32)
    norms = sender_norms(network, network.senders(torch.from_numpy(expression)).value)
    assert list(norms) == list(terms.NORMS)
    for name, naive in naive_norms(network, expression).items():
        np.testing.assert_allclose(norms[name], naive, rtol=1e-4, err_msg=name)
        assert norms[name].dtype == np.float32
        assert norms[name].shape == (7, settings.n_heads)


def test_flavors_equal_attention_times_the_full_matrices() -> None:
    network, tissue = random_network(6, 3), random_tissue(4, n_cells=15)
    neighbors = find_neighbors(tissue, 4)
    (shard,) = extract_attention(network, tissue, neighbors, cells_per_shard=99)
    norms = naive_norms(network, tissue.expression.toarray())
    for flavor, name in NORM_OF_FLAVOR.items():
        weighed = weigh(shard.patterns, shard.norms, neighbors.idx, flavor)
        for head in range(TINY.n_heads):
            for cell in range(tissue.n_cells):
                for slot in range(4):
                    by_hand = shard.patterns[head, cell, slot] * norms[name][neighbors.idx[cell, slot], head]
                    assert weighed[head, cell, slot] == pytest.approx(by_hand, rel=1e-4)


def test_a_shard_gives_the_norms_of_the_rows_asked_for() -> None:
    tissue = random_tissue(5)
    neighbors = find_neighbors(tissue, 4)
    whole, *_ = extract_attention(random_network(6, 3), tissue, neighbors, cells_per_shard=99)
    *_, last = extract_attention(random_network(6, 3), tissue, neighbors, cells_per_shard=20)
    rows = last.senders[[4, 0, 2]]
    for name, norm in last.norms_of(rows).items():
        np.testing.assert_allclose(norm, whole.norms[name][rows], rtol=1e-6)


def test_an_unknown_flavor_is_named_with_the_nearest() -> None:
    with pytest.raises(ParameterError) as caught:
        weigh(np.zeros((1, 1, 1), np.float32), {}, np.zeros((1, 1), np.int32), "value_weighted")
    assert str(caught.value) == (
        f"unknown flavor 'value_weighted'. Did you mean 'value-weighted'? The flavors are {', '.join(FLAVORS)}."
    )


def test_all_flavors_are_checked() -> None:
    check_flavors(FLAVORS)
    with pytest.raises(ParameterError, match=r"^unknown flavor 'strawberry'\. The flavors are"):
        check_flavors(["vanilla", "strawberry"])
