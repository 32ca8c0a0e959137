"""The method evaluated straightforwardly, every quantity anew for every edge: yardstick of speed, and oracle.

The formulas are those of Hong et al., 2025. Only the network's weights and its perceptrons are used, none of the code
that shares work between edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.neighbors import Neighbors
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.tissue import PreparedTissue


@dataclass(frozen=True)
class PerEdge:
    """What the network says of some receivers."""

    patterns: torch.Tensor
    """(cell, head, neighbor)"""
    reconstruction: torch.Tensor
    """(cell,)"""
    entropy: torch.Tensor
    """Over all slots, mean over heads, (cell,)."""
    value_l1: torch.Tensor
    """Sum over heads and their dimensions, mean over neighbors, (cell,)."""
    value: torch.Tensor
    """(cell, neighbor, head, d)"""

    def loss(self, alpha: float, value_l1_penalty: float) -> torch.Tensor:
        """Return the training loss, a scalar."""
        return (self.reconstruction + alpha * self.entropy + value_l1_penalty * self.value_l1).mean()


def evaluate(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    receivers: np.ndarray,
    dropped: np.ndarray | None = None,
) -> PerEdge:
    """Evaluate receivers, with `dropped` neighbor slots (cell, neighbor) masked; no slot may be padding."""
    s, layer = network.settings, network.attention_layer
    senders = neighbors.idx[receivers]
    n_cells, n_neighbors = senders.shape
    receiver_labels = torch.from_numpy(tissue.labels[receivers].astype(np.int64))
    labels = receiver_labels.repeat_interleave(n_neighbors)

    m = network.nn_embed(torch.from_numpy(tissue.expression[senders.reshape(-1)].toarray()))
    kv = network.kv_embed(m).view(-1, s.n_heads, s.n_kv_dim)
    k = torch.einsum("ehi,dhi->ehd", kv, layer.W_K) + layer.b_K
    v = torch.einsum("ehi,dhi->ehd", kv, layer.W_V) + layer.b_V
    label_embed = network.ct_embed(labels)
    q_in = network.query_embed(label_embed).view(-1, s.n_heads, s.n_query_dim)
    q = torch.einsum("ehi,dhi->ehd", q_in, layer.W_Q) + layer.b_Q
    c = F.softplus(network.pos_coef_mlp(torch.cat([m, label_embed], dim=1)) + s.pos_coef_offset)
    distance = torch.from_numpy(neighbors.dist[receivers].reshape(-1, 1)) / s.distance_kernel_unit_scale
    score = ((q * k).sum(dim=2) / math.sqrt(s.n_head_size) - c * distance).view(n_cells, n_neighbors, s.n_heads)
    if dropped is not None:
        score = score.masked_fill(torch.from_numpy(dropped)[..., None], -math.inf)
    dummy = torch.full((n_cells, 1, s.n_heads), s.attention_dummy_score)
    shares = torch.softmax(torch.cat([score, dummy], dim=1), dim=1)
    patterns = shares[:, :-1]

    v = v.reshape(n_cells, n_neighbors, s.n_heads, s.n_head_size)
    heard = (patterns[..., None] * v).sum(dim=1)
    own_query = q.reshape(n_cells, n_neighbors, s.n_embed)[:, 0]
    out = layer.norm_o(torch.einsum("chd,ehd->ce", heard, layer.W_O) + own_query)
    prediction = network.ct_profiles[receiver_labels] + network.linear_head(out)
    target = torch.from_numpy(tissue.expression[receivers].toarray())
    return PerEdge(
        patterns=patterns.permute(0, 2, 1),
        reconstruction=0.5 * (prediction - target).square().sum(dim=1),
        entropy=-torch.special.xlogy(shares, shares.clamp_min(1e-12)).sum(dim=1).mean(dim=1),
        value_l1=v.abs().sum(dim=(2, 3)).mean(dim=1),
        value=v,
    )


def flavored(
    network: CrossAttentionNetwork, tissue: PreparedTissue, neighbors: Neighbors, receivers: np.ndarray, flavor: str
) -> np.ndarray:
    """Return the attention of some receivers in one flavor, (head, cell, neighbor), each norm anew for every edge."""
    layer = network.attention_layer
    out = []
    with torch.inference_mode():
        for part in np.array_split(receivers, max(1, len(receivers) // 64)):
            evaluated = evaluate(network, tissue, neighbors, part)
            value = evaluated.value  # (cell, neighbor, head, d)
            if flavor == terms.VANILLA:
                weight = torch.ones(value.shape[:3])
            elif flavor == terms.VALUE_WEIGHTED:
                weight = value.norm(dim=3)
            else:
                said = torch.einsum("cnhd,ehd->cnhe", value, layer.W_O)
                if flavor == terms.GENE_WEIGHTED:
                    said = said @ network.linear_head.weight.t()
                weight = said.norm(dim=3)
            out.append((evaluated.patterns * weight.permute(0, 2, 1)).permute(1, 0, 2).numpy())
    return np.concatenate(out, axis=1)
