"""What the tests compare with: the method in plain loops and float64, and small made-up tissues.

The formulas call nothing of the code under test, but for the classes that hold arguments. The tissues and folders at
the end are made with it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.dataset as pads
import torch
from scipy import sparse

from tissue_crosstalk.core.attention import extract_attention
from tissue_crosstalk.core.checkpoint import load_model
from tissue_crosstalk.core.extraction import TABLES, extract_tables
from tissue_crosstalk.core.files import Workspace
from tissue_crosstalk.core.flavoring import flavor_attention
from tissue_crosstalk.core.flavors import weigh
from tissue_crosstalk.core.model import CrosstalkModel, Preprocessing, TissueKeys
from tissue_crosstalk.core.model_input import prepare_for_model, to_anndata
from tissue_crosstalk.core.neighbors import Neighbors
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.tissue import PreparedTissue

GOLDEN = Path(__file__).parents[1] / "golden"


Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]

TINY = NetworkSettings(
    n_heads=2,
    n_head_size=3,
    n_label_embed=4,
    n_query_embed_hidden=6,
    n_query_dim=5,
    n_nn_embed=7,
    n_nn_embed_hidden=9,
    n_kv_dim=6,
    n_pos_coef_mlp_hidden=10,
    attention_dummy_score=0.5,
    pos_coef_offset=-1.0,
    distance_kernel_unit_scale=4.0,
)


# --- The network, an edge at a time


@dataclass(frozen=True)
class Naive:
    """What the method says of some receivers, float64."""

    patterns: Floats
    """(head, cell, neighbor)"""
    dummy: Floats
    """Share of the dummy slot, (head, cell)."""
    prediction: Floats
    """(cell, gene)"""
    entropy: Floats
    """Over all slots, mean over heads, (cell,)."""
    value_l1: Floats
    """Sum over heads and their dimensions, mean over the neighbors that there are, (cell,)."""


def layer_norm(weights: Mapping[str, Floats], name: str, x: Floats) -> Floats:
    spread = np.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    return (x - x.mean()) / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(weights: Mapping[str, Floats], name: str, x: Floats) -> Floats:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def res_mlp(weights: Mapping[str, Floats], name: str, x: Floats, n_out: int, *, final_norm: bool = True) -> Floats:
    body = np.maximum(layer_norm(weights, f"{name}.nn.1", linear(weights, f"{name}.nn.0", x)), 0)
    body = linear(weights, f"{name}.nn.3", body)
    if final_norm or n_out != len(x):
        body = layer_norm(weights, f"{name}.nn.4", body)
    out = np.maximum(x + body, 0)
    if n_out != len(x):
        out = linear(weights, f"{name}.project_nn.0", out)
        if final_norm:
            out = layer_norm(weights, f"{name}.project_nn.1", out)
    return out


def naive_weights(network: CrossAttentionNetwork) -> dict[str, Floats]:
    return {name: tensor.detach().double().numpy() for name, tensor in network.state_dict().items()}


def naive_value(weights: Mapping[str, Floats], s: NetworkSettings, expression: Floats) -> tuple[Floats, Floats, Floats]:
    """Return embedding (embed,), keys and values (head, d) of one cell."""
    embedding = res_mlp(weights, "nn_embed", expression, s.n_nn_embed)
    inputs = res_mlp(weights, "kv_embed", embedding, s.n_heads * s.n_kv_dim).reshape(s.n_heads, s.n_kv_dim)
    key, value = np.empty((s.n_heads, s.n_head_size)), np.empty((s.n_heads, s.n_head_size))
    for head in range(s.n_heads):
        key[head] = weights["attention_layer.W_K"][:, head] @ inputs[head] + weights["attention_layer.b_K"][head]
        value[head] = weights["attention_layer.W_V"][:, head] @ inputs[head] + weights["attention_layer.b_V"][head]
    return embedding, key, value


def naive_query(weights: Mapping[str, Floats], s: NetworkSettings, label: int) -> Floats:
    """Return the query of one label, (head, d)."""
    inputs = res_mlp(weights, "query_embed", weights["ct_embed.weight"][label], s.n_heads * s.n_query_dim)
    inputs = inputs.reshape(s.n_heads, s.n_query_dim)
    return np.stack(
        [
            weights["attention_layer.W_Q"][:, head] @ inputs[head] + weights["attention_layer.b_Q"][head]
            for head in range(s.n_heads)
        ]
    )


def naive_network(
    network: CrossAttentionNetwork,
    expression: Floats,
    receiver_labels: Integers,
    nn_idx: Integers,
    nn_dist: Floats,
    masked: npt.NDArray[np.bool_] | None = None,
) -> Naive:
    """Compute everything anew for every edge.

    `expression` is that of the senders, `nn_idx` rows of it (−1 where padded); `masked` edges get no attention.
    """
    weights, s = naive_weights(network), network.settings
    n_cells, n_neighbors = nn_idx.shape
    patterns, dummy = np.zeros((s.n_heads, n_cells, n_neighbors)), np.zeros((s.n_heads, n_cells))
    entropy, value_l1 = np.zeros(n_cells), np.zeros(n_cells)
    prediction = np.zeros((n_cells, weights["linear_head.weight"].shape[0]))
    for cell in range(n_cells):
        label = int(receiver_labels[cell])
        query = naive_query(weights, s, label)
        score = np.full((s.n_heads, n_neighbors + 1), -np.inf)
        score[:, n_neighbors] = s.attention_dummy_score
        values = np.zeros((n_neighbors, s.n_heads, s.n_head_size))
        sizes = []
        for slot in range(n_neighbors):
            if nn_idx[cell, slot] < 0:
                continue
            embedding, key, values[slot] = naive_value(weights, s, np.asarray(expression[nn_idx[cell, slot]], float))
            sizes.append(np.abs(values[slot]).sum())
            if masked is not None and masked[cell, slot]:
                continue
            both = np.concatenate([embedding, weights["ct_embed.weight"][label]])
            raw = res_mlp(weights, "pos_coef_mlp", both, s.n_heads, final_norm=False) + s.pos_coef_offset
            reach = float(nn_dist[cell, slot]) / s.distance_kernel_unit_scale
            for head in range(s.n_heads):
                coefficient = math.log1p(math.exp(raw[head]))
                score[head, slot] = query[head] @ key[head] / math.sqrt(s.n_head_size) - coefficient * reach
        heard = np.zeros(s.n_embed)
        for head in range(s.n_heads):
            weight = np.exp(score[head] - score[head].max())
            share = weight / weight.sum()
            patterns[head, cell], dummy[head, cell] = share[:-1], share[-1]
            entropy[cell] += -sum(a * math.log(a) for a in share if a > 0) / s.n_heads
            for slot in range(n_neighbors):
                heard += share[slot] * (weights["attention_layer.W_O"][:, head] @ values[slot, head])
        value_l1[cell] = np.mean(sizes) if sizes else 0.0
        out = layer_norm(weights, "attention_layer.norm_o", heard + query.reshape(-1))
        prediction[cell] = weights["ct_profiles"][label] + weights["linear_head.weight"] @ out
    return Naive(patterns, dummy, prediction, entropy, value_l1)


def naive_diff(
    network: CrossAttentionNetwork,
    expression: Floats,
    labels: Integers,
    nn_idx: Integers,
    nn_dist: Floats,
    sender: int,
    receiver: int,
) -> Floats:
    """Return by how much neighbors of one label change what is predicted for receivers of another, mean, (gene,).

    The two predictions are made anew for every cell, the second without what those neighbors say.
    """
    weights, s = naive_weights(network), network.settings
    patterns = naive_network(network, expression, labels, nn_idx, nn_dist).patterns
    changes = []
    for cell in np.flatnonzero(labels == receiver):
        query = naive_query(weights, s, receiver).reshape(-1)
        predictions = []
        for silent in (-1, sender):
            heard = np.zeros(s.n_embed)
            for slot, row in enumerate(nn_idx[cell]):
                if row < 0 or labels[row] == silent:
                    continue
                value = naive_value(weights, s, np.asarray(expression[row], float))[2]
                for head in range(s.n_heads):
                    said = weights["attention_layer.W_O"][:, head] @ value[head]
                    heard += patterns[head, cell, slot] * said
            out = layer_norm(weights, "attention_layer.norm_o", heard + query)
            predictions.append(weights["ct_profiles"][receiver] + weights["linear_head.weight"] @ out)
        changes.append(predictions[0] - predictions[1])
    return np.mean(changes, axis=0)


def naive_norms(network: CrossAttentionNetwork, expression: Floats) -> dict[str, Floats]:
    """Return the norms of the flavors, each (sender, head), from the full matrices."""
    weights, s = naive_weights(network), network.settings
    norms = {name: np.zeros((len(expression), s.n_heads)) for name in ("value_norm", "info_norm", "gene_norm")}
    for sender, x in enumerate(expression):
        value = naive_value(weights, s, np.asarray(x, float))[2]
        for head in range(s.n_heads):
            said = weights["attention_layer.W_O"][:, head] @ value[head]
            norms["value_norm"][sender, head] = np.sqrt((value[head] ** 2).sum())
            norms["info_norm"][sender, head] = np.sqrt((said**2).sum())
            norms["gene_norm"][sender, head] = np.sqrt(((weights["linear_head.weight"] @ said) ** 2).sum())
    return norms


def random_network(
    n_genes: int, n_labels: int, settings: NetworkSettings = TINY, seed: int = 0
) -> CrossAttentionNetwork:
    """Return a network in which no weight is trivial: layer norms, biases and type profiles are random, too."""
    network = CrossAttentionNetwork(n_genes, n_labels, settings, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return network.requires_grad_(False).eval()


def random_model(
    tissue: PreparedTissue, n_neighbors: int, settings: NetworkSettings = TINY, **given: Any
) -> CrosstalkModel:
    network = random_network(len(tissue.genes), len(tissue.cell_types), settings)
    return CrosstalkModel(
        network, tissue.genes, tissue.cell_types, tissue.keys, n_neighbors, tissue.preprocessing, **given
    )


# --- Tissues


def made_tissue(
    coordinates: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    sections: npt.ArrayLike | None = None,
    radii: npt.ArrayLike | None = None,
    positions: npt.ArrayLike | None = None,
    expression: npt.ArrayLike | None = None,
) -> PreparedTissue:
    """Return a prepared tissue of which the rows are as given; cell names tell the position."""
    places, kinds = np.asarray(coordinates, dtype=np.float64), np.asarray(labels, dtype=np.int16)
    n_cells = len(places)
    where = np.arange(n_cells) if positions is None else np.asarray(positions, dtype=np.int64)
    parts = np.zeros(n_cells, np.int32) if sections is None else np.asarray(sections, dtype=np.int32)
    values = np.zeros((n_cells, 2)) if expression is None else np.asarray(expression)
    return PreparedTissue(
        expression=sparse.csr_matrix(values, dtype=np.float32),
        genes=tuple(f"gene{gene}" for gene in range(values.shape[1])),
        labels=kinds,
        cell_types=tuple("ABCDEFGH"[: int(kinds.max()) + 1]),
        coordinates=places,
        cell_names=np.array([f"cell{position}" for position in where], dtype=object),
        positions=where.astype(np.int64),
        sections=parts,
        section_names=() if sections is None else tuple(f"section {part}" for part in range(int(parts.max()) + 1)),
        radii=None if radii is None else np.asarray(radii, dtype=np.float64),
        keys=TissueKeys(section_key=None if sections is None else "section"),
        preprocessing=Preprocessing(log_normalised=True),
    )


def random_tissue(
    seed: int = 0, n_cells: int = 60, n_genes: int = 6, n_types: int = 3, *, n_sections: int = 0, axes: int = 2
) -> PreparedTissue:
    """Return a prepared tissue with every type in every section, rows in no spatial order."""
    generator = np.random.default_rng(seed)
    expression = np.log1p(generator.poisson(2.0, (n_cells, n_genes)))
    return made_tissue(
        generator.uniform(0, 40, (n_cells, axes)),
        np.arange(n_cells) % n_types,
        sections=np.arange(n_cells) // n_types % n_sections if n_sections else None,
        positions=generator.permutation(n_cells),
        expression=expression,
    )


def user_tissue(tissue: PreparedTissue) -> ad.AnnData:
    """Return what the user has of a prepared tissue, by its keys, in the user's order."""
    back = tissue.in_tissue_order()
    names = tissue.cell_names[back]
    labels = pd.Categorical.from_codes(tissue.labels[back], categories=list(tissue.cell_types))
    adata = ad.AnnData(
        X=tissue.expression[back],
        obs=pd.DataFrame({tissue.keys.labels_key: labels}, index=pd.Index(names, dtype=object)),
        var=pd.DataFrame(index=pd.Index(tissue.genes, dtype=object)),
        obsm={tissue.keys.coord_key: tissue.coordinates[back]},
    )
    if tissue.keys.section_key is not None:
        sections = pd.Categorical.from_codes(tissue.sections[back], categories=list(tissue.section_names))
        adata.obs[tissue.keys.section_key] = sections
    return adata


def counts_adata(seed: int = 0, n_cells: int = 30, n_genes: int = 6, **obs: Sequence[Any]) -> ad.AnnData:
    """Return an AnnData of counts (dense float32) with cell types A, B and C, a section and a radius."""
    generator = np.random.default_rng(seed)
    counts = generator.poisson(3.0, (n_cells, n_genes)).astype(np.float32)
    counts[:, 0] += 1  # no cell without a count
    adata = ad.AnnData(
        X=counts,
        obs=pd.DataFrame(
            {
                "cell_type": pd.Categorical(["ABC"[cell % 3] for cell in range(n_cells)]),
                "section": pd.Categorical(["left" if cell % 2 else "right" for cell in range(n_cells)]),
                "radius": generator.uniform(0.1, 0.5, n_cells),
                **obs,
            },
            index=[f"cell{cell}" for cell in range(n_cells)],
        ),
        var=pd.DataFrame(index=[f"gene{gene}" for gene in range(n_genes)]),
        obsm={"spatial": generator.uniform(0, 40, (n_cells, 2))},
        uns={"note": "as it was"},
    )
    adata.layers["counts"] = counts.copy()
    return adata


def reordered(
    tissue: PreparedTissue, neighbors: Neighbors, order: npt.NDArray[np.integer[Any]]
) -> tuple[PreparedTissue, Neighbors]:
    """Return the same tissue with its rows in another order, and its neighbors."""
    number = np.empty(len(order) + 1, dtype=np.int32)
    number[order], number[-1] = np.arange(len(order)), -1  # an empty slot is none in any order
    by_cell = ("labels", "coordinates", "cell_names", "positions", "sections", "expression")
    moved = replace(tissue, **{name: getattr(tissue, name)[order] for name in by_cell})
    return moved, Neighbors(number[neighbors.idx[order]], neighbors.dist[order])


def brute_force_neighbors(tissue: PreparedTissue, n_neighbors: int) -> Neighbors:
    """Return neighbors from all pairs: another type, the same section, by distance and then by position."""
    idx = np.full((tissue.n_cells, n_neighbors), -1, dtype=np.int32)
    dist = np.full((tissue.n_cells, n_neighbors), np.inf, dtype=np.float32)
    for cell in range(tissue.n_cells):
        found = []
        for other in range(tissue.n_cells):
            if tissue.labels[other] == tissue.labels[cell] or tissue.sections[other] != tissue.sections[cell]:
                continue
            away = math.sqrt(
                sum((a - b) ** 2 for a, b in zip(tissue.coordinates[cell], tissue.coordinates[other], strict=True))
            )
            found.append((away, int(tissue.positions[other]), other))
        for slot, (away, _, other) in enumerate(sorted(found)[:n_neighbors]):
            idx[cell, slot] = other
            radii = 0.0 if tissue.radii is None else tissue.radii[cell] + tissue.radii[other]
            dist[cell, slot] = max(0.0, away - radii)
    return Neighbors(idx, dist)


# --- What the published package answers


@dataclass(frozen=True)
class Golden:
    """The golden tissue, prepared for the golden model, and what the published package says of both."""

    model: CrosstalkModel
    adata: ad.AnnData
    tissue: PreparedTissue
    neighbors: Neighbors
    expected: Mapping[str, npt.NDArray[Any]]
    order: npt.NDArray[np.intp]
    """Rows of `tissue` in the order of `expected`."""


@functools.cache
def golden() -> Golden:
    model, adata = load_model(GOLDEN / "checkpoint"), ad.read_h5ad(GOLDEN / "tissue.h5ad")
    tissue, neighbors = prepare_for_model(adata, model)
    with np.load(GOLDEN / "expected.npz", allow_pickle=False) as stored:
        expected = {name: stored[name] for name in stored.files}
    return Golden(model, adata, tissue, neighbors, expected, tissue.in_tissue_order())


# --- Attention on disk


@dataclass(frozen=True)
class Stored:
    """The folders that one extraction and its flavoring write, and what they must hold in the order of the tissue."""

    folder: Path
    arrays: Mapping[str, Floats]
    """By flavor, (head, cell, neighbor) in the rows of the prepared tissue."""

    def open(self, name: str) -> pads.Dataset:
        return pads.dataset(str(self.folder / name), format="parquet", partitioning="hive")

    @property
    def attention_patterns(self) -> pads.Dataset:
        return self.open("attention_patterns")

    @property
    def nn_idxs(self) -> pads.Dataset:
        return self.open("nn_idxs")

    @property
    def nn_dists(self) -> pads.Dataset:
        return self.open("nn_dists")

    @property
    def sender_norms(self) -> pads.Dataset:
        return self.open("sender_norms")

    @property
    def cells(self) -> pads.Dataset:
        return self.open("cells")

    @property
    def flavored(self) -> pads.Dataset:
        return self.open("flavored")


def stored_attention(
    folder: Path,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    model: CrosstalkModel,
    *,
    cells_per_shard: int = 13,
    flavors: Sequence[str] = ("vanilla",),
) -> Stored:
    """Extract the attention of a tissue into folders, and its flavors beside it."""
    folders = extract_tables(
        to_anndata(tissue, neighbors), model, Workspace(folder), cells_per_shard=cells_per_shard, progress=False
    )
    for name, finished in zip(TABLES, folders, strict=True):
        finished.move_to(folder / name)
    (whole,) = extract_attention(model.network, tissue, neighbors, cells_per_shard=tissue.n_cells)
    arrays = {flavor: weigh(whole.patterns, whole.norms, neighbors.idx, flavor) for flavor in flavors}
    stored = Stored(folder, arrays)
    flavor_attention(
        stored.attention_patterns,
        stored.nn_idxs,
        stored.sender_norms,
        stored.cells,
        Workspace(folder),
        flavors,
        progress=False,
    ).move_to(folder / "flavored")
    return stored
