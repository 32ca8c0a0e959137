"""The cross-attention network: which neighbors a cell listens to, and what it hears.

Every heavy quantity is computed where it depends on the least (Hong et al., 2025, bioRxiv
10.1101/2025.09.22.677860):

===========================  =====================  ============================================
quantity                     axes                   depends on
===========================  =====================  ============================================
query ``q``                  (label, head, d)       the receiver's label
embedding ``m``              (sender, embed)        the sender
key ``k``, value ``v``       (sender, head, d)      the sender
distance coefficient ``c``   (pair, head)           (sender, receiver label)
base score ``q.k / sqrt(d)`` (pair, head)           (sender, receiver label)
score, pattern               (cell, neighbor, head) the edge: one multiply-add and a softmax
===========================  =====================  ============================================

The names of the parameters are those of the published checkpoint format, so that a state dict of either origin
loads into the same module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.ordered_gradients import PairSums, gather_rows, gram, weighted_sums
from tissue_crosstalk.core.torch_threads import each_block, in_one_thread

ROW_BLOCK = 1024
"""Rows per matrix product at inference.

A matrix product may round differently with the number of its rows. All blocks have this one shape (the last is
padded), so that a cell's result is the same in whichever shard or batch it is computed. (But for layers narrower than
:data:`NARROW`, on some processors, and by less than 1e-6.)
"""


NARROW = 16
"""Columns below which some libraries round a product's rows by their place in it: narrower ones are padded."""


LARGEST_BLOCK = 2**17

EDGES_PER_ROW = 32
"""Edges that are computed at once, for each row of a block: an edge is as many times smaller."""


def block_of_memory(memory: int, row_bytes: int) -> int:
    """Return how many rows fill an eighth of a device's memory, as a power of two that depends on its size alone.

    >>> block_of_memory(80 * 2**30, 24_000), block_of_memory(4 * 2**30, 24_000), block_of_memory(2**30, 10**6)
    (131072, 16384, 1024)
    """
    rows = max(memory // 8 // row_bytes, 1)
    return min(max(1 << (rows.bit_length() - 1), ROW_BLOCK), LARGEST_BLOCK)


class ResMLP(nn.Module):
    """Residual two-layer perceptron: ``relu(x + body(x))``, then a projection where ``n_out != n_in``.

    Parameters
    ----------
    n_in, n_hidden, n_out
        Sizes of input, hidden layer and output.
    final_norm
        Whether a layer norm follows the last linear layer.
    """

    def __init__(self, n_in: int, n_hidden: int, n_out: int, *, final_norm: bool = True) -> None:
        super().__init__()
        projects = n_out != n_in
        body: list[nn.Module] = [
            nn.Linear(n_in, n_hidden),
            nn.LayerNorm(n_hidden),
            nn.ReLU(inplace=True),
            nn.Linear(n_hidden, n_in),
        ]
        if final_norm or projects:
            body.append(nn.LayerNorm(n_in))
        self.nn = nn.Sequential(*body)
        projection: list[nn.Module] = []
        if projects:
            projection.append(nn.Linear(n_in, n_out))
            if final_norm:
                projection.append(nn.LayerNorm(n_out))
        self.project_nn: nn.Sequential | None = nn.Sequential(*projection) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (row, n_in) to (row, n_out)."""
        return self.after_first_linear(x, self.nn[0](x))

    def after_first_linear(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Finish from the first linear layer's output `hidden`, for callers that compute it in parts.

        Parameters
        ----------
        x
            Input, (row, n_in).
        hidden
            ``nn[0](x)``, (row, n_hidden).
        """
        out: Tensor = (x + self.nn[1:](hidden)).relu_()
        return out if self.project_nn is None else self.project_nn(out)

    def residual(self, x: Tensor) -> Tensor:
        """Return ``relu(x + body(x))``, (row, n_in)."""
        out: Tensor = (x + self.nn(x)).relu_()
        return out


class CrossAttention(nn.Module):
    """Projections of the attention: W_Q (d, head, query_dim), W_K and W_V (d, head, kv_dim), W_O (embed, head, d)."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        s = settings

        def uniform(shape: tuple[int, ...], fan: int) -> nn.Parameter:
            bound = 1.0 / math.sqrt(fan)
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        def weight(first: int, last: int) -> nn.Parameter:
            return uniform((first, s.n_heads, last), s.n_heads * last)

        def bias() -> nn.Parameter:
            return uniform((s.n_heads, s.n_head_size), s.n_head_size)

        self.W_Q, self.b_Q = weight(s.n_head_size, s.n_query_dim), bias()
        self.W_K, self.b_K = weight(s.n_head_size, s.n_kv_dim), bias()
        self.W_V, self.b_V = weight(s.n_head_size, s.n_kv_dim), bias()
        self.W_O = weight(s.n_embed, s.n_head_size)
        self.norm_o = nn.LayerNorm(s.n_embed)


@dataclass(frozen=True)
class Senders:
    """What the network knows of each cell as a sender, whoever receives.

    Attributes
    ----------
    embedding
        Neighbor embedding m, (sender, embed).
    key, value
        k and v, (sender, head, d).
    """

    embedding: Tensor
    key: Tensor
    value: Tensor


LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class KeyValueMap:
    """Takes the residual of ``kv_embed`` (row, embed) to keys and values (row, head * 2d).

    ``(residual @ product + offset) * scale + shift``, where ``scale`` is one over the root of the layer norm's
    variance. That is a quadratic form of the residual; a factor of it gives it with the fewest rounding errors, but
    does so without gradients.

    Attributes
    ----------
    product, offset
        Projections multiplied out, (embed, head * 2d) and (head * 2d,).
    shift
        Added last, (head * 2d,).
    factor
        The variance is the squared norm of ``residual @ factor[0] + factor[1]``, (embed, embed + 1) and (embed + 1,).
    form
        The variance is ``residual' form[0] residual + form[1] residual + form[2]``, (embed, embed), (embed,) and ().
        Where neither is given, there is no layer norm.
    """

    product: Tensor
    offset: Tensor
    shift: Tensor
    factor: tuple[Tensor, Tensor] | None = None
    form: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, residual: Tensor) -> Tensor:
        """Return keys and values of each head side by side."""
        both = torch.addmm(self.offset, residual, self.product)
        if self.factor is not None:
            weight, bias = self.factor
            with torch.autocast(residual.device.type, enabled=False):
                rows = residual.to(weight.dtype)
                variance = torch.addmm(bias, rows, weight).square().sum(dim=1, keepdim=True)
        elif self.form is not None:
            quadratic, linear, constant = self.form
            with torch.autocast(residual.device.type, enabled=False):  # a difference of large numbers
                rows = residual.to(quadratic.dtype)
                variance = (torch.addmm(linear, rows, quadratic) * rows).sum(dim=1, keepdim=True) + constant
            variance = variance.clamp_min(0)  # rounding may take that of an input that is all alike below zero
        else:
            return both + self.shift
        return self.shift + both * torch.rsqrt(variance + LAYER_NORM_EPS)


@dataclass(frozen=True)
class Edges:
    """Neighbor slots of some receivers, on rows of a :class:`Senders`.

    Attributes
    ----------
    sender
        Row of the sender in each slot, (cell, neighbor), int64; any row where `absent`.
    distance
        Distance in units of the coordinates, (cell, neighbor), float32; finite also where `absent`.
    receiver_label
        Label of each receiver, (cell,), int64.
    absent
        Slots that take no part (padding, dropout), (cell, neighbor), bool; None where all do.
    order
        Places of the flattened slots, sorted by sender and then by the receiver's label; None: not known. Gradients
        are faster with it (see :meth:`in_order`).
    """

    sender: Tensor
    distance: Tensor
    receiver_label: Tensor
    absent: Tensor | None = None
    order: Tensor | None = None

    @classmethod
    def from_neighbors(
        cls,
        nn_rows: npt.NDArray[np.integer],
        nn_dist: npt.NDArray[np.float32],
        receiver_label: npt.NDArray[np.integer],
    ) -> Edges:
        """Build edges from arrays in which a padded slot has row −1 and distance +inf."""
        padded = nn_rows < 0
        any_padded = bool(padded.any())
        return cls(
            sender=torch.from_numpy(np.where(padded, 0, nn_rows).astype(np.int64)),
            distance=torch.from_numpy(np.where(padded, 0.0, nn_dist).astype(np.float32)),
            receiver_label=torch.from_numpy(receiver_label.astype(np.int64)),
            absent=torch.from_numpy(padded) if any_padded else None,
        )

    def in_order(self) -> Edges:
        """Return the same edges (on the CPU) with their order."""
        label = self.receiver_label.numpy()
        n_labels = int(label.max(initial=0)) + 1
        pair = self.sender.numpy() * n_labels + label[:, None]
        # numpy sorts short integers in linear time.
        pair = pair.astype(np.min_scalar_type(int(pair.max(initial=0))))
        return replace(self, order=torch.from_numpy(np.argsort(pair, axis=None, kind="stable")))

    def to(self, device: torch.device) -> Edges:
        """Return the same edges on `device`."""
        return Edges(
            self.sender.to(device),
            self.distance.to(device),
            self.receiver_label.to(device),
            None if self.absent is None else self.absent.to(device),
            None if self.order is None else self.order.to(device),
        )


def in_row_blocks(
    function: Callable[..., Tensor], *rows: Tensor, size: int = ROW_BLOCK, out: Tensor | None = None
) -> Tensor:
    """Apply `function` to rows in blocks of one size, the last one padded with zeros.

    Parameters
    ----------
    function
        Maps rows (row, ...) to as many rows, each on its own.
    rows
        Tensors of equally many rows.
    size
        Rows in a block.
    out
        Where the result goes, as many rows; None: to memory of its own.
    """
    n_rows = rows[0].shape[0]

    def apply(block: slice) -> Tensor:
        part = [r[block] for r in rows]
        n_part = part[0].shape[0]
        if n_part < size:
            part = [F.pad(p, [0, 0] * (p.dim() - 1) + [0, size - n_part]) for p in part]
        return function(*part)[:n_part]

    if not n_rows:
        return function(*rows) if out is None else out
    made = [] if out is None else [out]

    def write(block: slice) -> None:
        part = apply(block)
        if not made:
            made.append(part.new_empty((n_rows, *part.shape[1:])))
        made[0][block] = part

    # The first one by itself, which shows how wide the result is.
    each_block(write, min(size, n_rows), size, rows[0].device)
    each_block(lambda block: write(slice(size + block.start, size + block.stop)), n_rows - size, size, rows[0].device)
    return made[0]


class CrossAttentionNetwork(nn.Module):
    """Predicts a cell's expression from its type and what its neighbors of other types express.

    Parameters
    ----------
    n_genes, n_labels
        Size of the expression vectors and number of cell types.
    settings
        Sizes and constants.
    seed
        Of the initial weights. The global random state is left as it was.
    """

    ct_profiles: Tensor

    def __init__(self, n_genes: int, n_labels: int, settings: NetworkSettings, *, seed: int = 0) -> None:
        super().__init__()
        self.n_genes, self.n_labels, self.settings = n_genes, n_labels, settings
        self._row_block: int | None = None
        s = settings
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every device, too
            self.register_buffer("ct_profiles", torch.zeros(n_labels, n_genes))
            self.ct_embed = nn.Embedding(n_labels, s.n_label_embed)
            self.query_embed = ResMLP(s.n_label_embed, s.n_query_embed_hidden, s.n_heads * s.n_query_dim)
            self.nn_embed = ResMLP(n_genes, s.n_nn_embed_hidden, s.n_nn_embed)
            self.kv_embed = ResMLP(s.n_nn_embed, s.n_kv_dim, s.n_heads * s.n_kv_dim)
            self.pos_coef_mlp = ResMLP(
                s.n_nn_embed + s.n_label_embed, s.n_pos_coef_mlp_hidden, s.n_heads, final_norm=False
            )
            self.attention_layer = CrossAttention(s)
            self.linear_head = nn.Linear(s.n_embed, n_genes, bias=False)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.ct_profiles.device

    @property
    def row_block(self) -> int:
        """Rows per block at inference: :data:`ROW_BLOCK`, on a GPU as many as its memory suggests."""
        if self._row_block is not None:
            return self._row_block
        if self.device.type != "cuda":
            return ROW_BLOCK
        return block_of_memory(torch.cuda.get_device_properties(self.device).total_memory, self._row_bytes())

    @row_block.setter
    def row_block(self, size: int) -> None:
        self._row_block = size

    def _row_bytes(self) -> int:
        """Return about how much memory the widest step needs for each of its rows."""
        s = self.settings
        sender = 4 * self.n_genes + 3 * s.n_nn_embed_hidden + 4 * s.n_nn_embed + 4 * s.n_embed
        pair = 3 * s.n_pos_coef_mlp_hidden + 5 * (s.n_nn_embed + s.n_label_embed)
        return 4 * max(sender, pair)

    def _rowwise(self, function: Callable[..., Tensor], *rows: Tensor, blocks: bool) -> Tensor:
        """Apply `function` to rows: all at once, or in padded blocks."""
        return in_row_blocks(function, *rows, size=self.row_block) if blocks else function(*rows)

    def queries(self) -> Tensor:
        """Return the query of each label, (label, head, d)."""
        inputs = self.query_embed(self.ct_embed.weight)
        inputs = inputs.view(self.n_labels, self.settings.n_heads, self.settings.n_query_dim)
        layer = self.attention_layer
        return torch.einsum("lhq,dhq->lhd", inputs, layer.W_Q) + layer.b_Q

    def key_value_map(self) -> KeyValueMap:
        """Return what takes the residual of ``kv_embed`` to keys and values; the same for every sender.

        The key/value input is linear in that residual up to the scale of its layer norm, and the keys and values are
        linear in the input. So the projections are multiplied out here, once, and the input, much the widest
        layer of the network, is never made. The layer norm's variance is a quadratic form of the residual.
        """
        # In full precision, whatever the rest is in: it is little work.
        with torch.autocast(self.device.type, enabled=False):
            return self._key_value_map()

    def _key_value_map(self) -> KeyValueMap:
        s, layer = self.settings, self.attention_layer
        weight = torch.cat([layer.W_K, layer.W_V])  # (2d, head, kv_dim)
        bias = torch.cat([layer.b_K, layer.b_V], dim=1)  # (head, 2d)
        project = self.kv_embed.project_nn
        if project is None:  # the input is the residual itself
            per_head: Tensor = torch.block_diag(*weight.unbind(1))  # type: ignore[no-untyped-call]  # no types in torch
            return KeyValueMap(per_head.t(), torch.zeros_like(bias).reshape(-1), bias.reshape(-1))
        linear, norm = project[0], project[1]
        assert isinstance(linear, nn.Linear)
        assert isinstance(norm, nn.LayerNorm)
        centred = linear.weight - linear.weight.mean(dim=0)  # (head kv_dim, embed)
        centred_bias = linear.bias - linear.bias.mean()
        by_head = weight.permute(1, 0, 2) * norm.weight.view(s.n_heads, 1, -1)  # (head, 2d, kv_dim)
        product = torch.bmm(by_head, centred.view(s.n_heads, s.n_kv_dim, -1))  # (head, 2d, embed)
        offset = torch.einsum("hdk,hk->hd", by_head, centred_bias.view(s.n_heads, -1))
        shift = torch.einsum("dhk,hk->hd", weight, norm.bias.view(s.n_heads, -1)) + bias
        width = len(centred)
        maps = product.flatten(0, 1).t(), offset.reshape(-1), shift.reshape(-1)
        if centred.requires_grad:
            form = (
                gram(centred) / width,
                2 * (centred_bias @ centred) / width,
                centred_bias.square().mean(),
            )
            return KeyValueMap(*maps, form=form)
        affine = torch.cat([centred, centred_bias[:, None]], dim=1).cpu().double() / math.sqrt(width)
        with in_one_thread():
            triangle = torch.linalg.qr(affine, mode="r").R.to(centred)
        return KeyValueMap(*maps, factor=(triangle[:, :-1].t().contiguous(), triangle[:, -1].contiguous()))

    def senders(self, expression: Tensor, *, blocks: bool = False, key_value_map: KeyValueMap | None = None) -> Senders:
        """Compute what depends on the sender alone, once per sender.

        Parameters
        ----------
        expression
            Log-normalised expression, (sender, gene).
        blocks
            Whether to compute in blocks of one shape (see :data:`ROW_BLOCK`).
        key_value_map
            From :meth:`key_value_map`, for callers that come with several parts of the senders.
        """
        s = self.settings
        to_key_value = key_value_map or self.key_value_map()
        embedding = self._rowwise(self.nn_embed, expression, blocks=blocks)
        both = self._rowwise(lambda rows: to_key_value(self.kv_embed.residual(rows)), embedding, blocks=blocks)
        both = both.view(-1, s.n_heads, 2 * s.n_head_size)
        return Senders(embedding, both[..., : s.n_head_size], both[..., s.n_head_size :])

    def distance_coefficients(
        self, embedding: Tensor, pair_sender: Tensor, pair_label: Tensor, *, blocks: bool
    ) -> Tensor:
        """Return the non-negative distance coefficient of (sender, receiver label) pairs, (pair, head).

        The first linear layer acts on [embedding ; label embedding]; its two parts are computed once per sender
        and once per label, and added per pair.
        """
        mlp, n_embed = self.pos_coef_mlp, self.settings.n_nn_embed
        first = mlp.nn[0]
        assert isinstance(first, nn.Linear)
        by_label = F.linear(self.ct_embed.weight, first.weight[:, n_embed:], first.bias)
        label = self.ct_embed.weight.to(embedding.dtype)

        def of_sender(rows: Tensor) -> Tensor:
            return F.linear(rows, first.weight[:, :n_embed])

        # [embedding ; label embedding] is the sum of both, each with zeros in the other's place.
        if torch.is_grad_enabled():
            padded_embedding = F.pad(embedding, (0, self.settings.n_label_embed))
            inputs = PairSums(padded_embedding, F.pad(label, (n_embed, 0)))
            hidden = PairSums(self._rowwise(of_sender, embedding, blocks=blocks), by_label)
        else:  # straight into the tables that would be joined of these
            n_senders = len(embedding)
            both = embedding.new_zeros(n_senders + self.n_labels, n_embed + self.settings.n_label_embed)
            both[:n_senders, :n_embed], both[n_senders:, n_embed:] = embedding, label
            inputs = PairSums.of_joined(both, n_senders)
            both = embedding.new_empty(n_senders + self.n_labels, first.out_features)
            if blocks:
                in_row_blocks(of_sender, embedding, size=self.row_block, out=both[:n_senders])
            else:
                both[:n_senders] = of_sender(embedding)
            both[n_senders:] = by_label
            hidden = PairSums.of_joined(both, n_senders)

        def coefficients(sender: Tensor, label: Tensor) -> Tensor:
            sender, label = sender.squeeze(1), label.squeeze(1)
            raw = mlp.after_first_linear(inputs(sender, label), hidden(sender, label))
            return F.softplus(raw + self.settings.pos_coef_offset)

        return self._rowwise(coefficients, pair_sender[:, None], pair_label[:, None], blocks=blocks)

    def base_scores(self, key: Tensor, *, blocks: bool) -> Tensor:
        """Return ``q.k / sqrt(d)`` of every sender with every receiver label, (sender, label, head)."""
        query = self.queries().permute(1, 2, 0) / math.sqrt(self.settings.n_head_size)  # (head, d, label)
        if blocks:
            query = F.pad(query, (0, max(0, NARROW - self.n_labels)))
        scores = self._rowwise(lambda rows: torch.bmm(rows.transpose(0, 1), query).permute(1, 2, 0), key, blocks=blocks)
        return scores[:, : self.n_labels]

    def patterns(self, senders: Senders, edges: Edges, *, blocks: bool = False) -> Tensor:
        """Return attention patterns without the dummy slot, (cell, head, neighbor).

        Parameters
        ----------
        senders
            From :meth:`senders`.
        edges
            Which sender is in which slot of which receiver.
        blocks
            Whether to compute in blocks of one shape (see :data:`ROW_BLOCK`).

        Notes
        -----
        ``a = softmax(q.k / sqrt(d) - c * distance / scale, dummy)``: the rows sum to 1 less the dummy's share.
        """
        n_senders = senders.key.shape[0]
        # Number the (sender, receiver label) pairs that occur. A table of flags is linear in edges; sorting is not.
        pair_of_edge = edges.sender * self.n_labels + edges.receiver_label[:, None]
        occurs = torch.zeros(n_senders * self.n_labels, dtype=torch.bool, device=pair_of_edge.device)
        occurs[pair_of_edge.reshape(-1)] = True
        pairs = occurs.nonzero().squeeze(1)  # by sender, then by label
        number = torch.zeros(len(occurs), dtype=torch.int64, device=pair_of_edge.device)
        number[pairs] = in_order = torch.arange(len(pairs), device=pair_of_edge.device)
        edge_pair = number[pair_of_edge]  # (cell, neighbor)
        reach = edges.distance / self.settings.distance_kernel_unit_scale
        by_pair = self.pair_scores(senders, pairs, in_order, blocks=blocks)
        if not blocks:
            score = self.edge_scores(by_pair, edge_pair, reach, edges.absent, edges.order)
            return _softmax_with_dummy(score, self.settings.attention_dummy_score).transpose(1, 2)
        # A few cells at a time, so that what is made of their edges stays in the cache; and by head, as it is stored.
        n_cells, n_neighbors = edge_pair.shape
        out = by_pair.new_empty((self.settings.n_heads, n_cells, n_neighbors))
        size = max(1, EDGES_PER_ROW * self.row_block // max(n_neighbors, 1))

        def write(own: slice) -> None:
            absent = None if edges.absent is None else edges.absent[own]
            of_edge = gather_rows(by_pair, edge_pair[own])
            out[:, own] = patterns_by_head(of_edge, reach[own], absent, self.settings.attention_dummy_score)

        each_block(write, n_cells, size, out.device)
        return out.transpose(0, 1)

    def pair_scores(self, senders: Senders, pairs: Tensor, in_order: Tensor | None = None, *, blocks: bool) -> Tensor:
        """Return base score and distance coefficient of (sender, receiver label) pairs side by side, (pair, 2 head).

        Parameters
        ----------
        senders
            From :meth:`senders`.
        pairs
            ``sender * n_labels + label`` of each pair, int64 (pair,), ascending.
        in_order
            0, 1, ..., where gradients are wanted.
        blocks
            Whether to compute in blocks of one shape (see :data:`ROW_BLOCK`).
        """
        pair_sender, pair_label = pairs // self.n_labels, pairs % self.n_labels
        coefficient = self.distance_coefficients(senders.embedding, pair_sender, pair_label, blocks=blocks)
        base = self.base_scores(senders.key, blocks=blocks).reshape(-1, self.settings.n_heads)
        return torch.cat([gather_rows(base, pairs, in_order), coefficient], dim=1)

    def edge_scores(
        self, by_pair: Tensor, edge_pair: Tensor, reach: Tensor, absent: Tensor | None, order: Tensor | None = None
    ) -> Tensor:
        """Return the scores of some cells' edges, (cell, neighbor, head), from what is known of pairs.

        Parameters
        ----------
        by_pair
            From :meth:`pair_scores`, (pair, 2 head).
        edge_pair
            Pair of each edge, int64 (cell, neighbor).
        reach
            Distance in units of the distance scale, (cell, neighbor).
        absent
            Slots that take no part, bool (cell, neighbor), and have the score −inf; None where all do.
        order
            Places of the flat `edge_pair` that sort it, where gradients are wanted.
        """
        n_heads = self.settings.n_heads
        of_edge = gather_rows(by_pair, edge_pair, order)  # (cell, neighbor, 2 head)
        score = of_edge[..., :n_heads] - of_edge[..., n_heads:] * reach[..., None]
        return score if absent is None else score.masked_fill(absent[..., None], -math.inf)

    def attend(self, value: Tensor, pattern: Tensor, sender: Tensor, order: Tensor | None = None) -> Tensor:
        """Return what each head hears, ``z = sum_j a * v``, (cell, head, d).

        Parameters
        ----------
        value
            (sender, head, d).
        pattern
            (cell, head, neighbor).
        sender
            Row of the sender in each slot, (cell, neighbor).
        order
            Of the edges, where gradients are wanted.
        """
        return weighted_sums(value, pattern, sender, order)

    def states(self, heard: Tensor, receiver_label: Tensor, *, blocks: bool = False) -> Tensor:
        """Return what the linear head reads, (cell, embed), from what the heads hear, (cell, head, d).

        Parameters
        ----------
        heard
            From :meth:`attend`.
        receiver_label
            Label of each receiver, (cell,).
        blocks
            Whether to compute in blocks of one shape (see :data:`ROW_BLOCK`).
        """
        layer = self.attention_layer
        query = self.queries().reshape(self.n_labels, -1)
        output = layer.W_O.reshape(layer.W_O.shape[0], -1).t()  # (head * d, embed)

        def normalised(rows: Tensor, labels: Tensor) -> Tensor:
            state: Tensor = layer.norm_o(rows @ output + gather_rows(query, labels.squeeze(1)))
            return state

        return self._rowwise(normalised, heard.flatten(1), receiver_label[:, None], blocks=blocks)

    def states_by_head(self, heard: Tensor, receiver_label: Tensor) -> Tensor:
        """Return what the linear head reads where one head alone is heard, (cell, head, embed).

        Parameters
        ----------
        heard
            From :meth:`attend`, (cell, head, d).
        receiver_label
            Label of each receiver, (cell,).
        """
        query = self.queries().reshape(self.n_labels, 1, -1)[receiver_label]
        states: Tensor = self.attention_layer.norm_o(self._outputs(heard) + query)
        return states

    def solo_states(self, value: Tensor, *, blocks: bool = False) -> Tensor:
        """Return what the linear head would read of one value at full attention, (sender, head, embed).

        Parameters
        ----------
        value
            (sender, head, d).
        blocks
            Whether to compute in blocks of one shape (see :data:`ROW_BLOCK`).
        """
        return self._rowwise(lambda rows: self.attention_layer.norm_o(self._outputs(rows)), value, blocks=blocks)

    def _outputs(self, heard: Tensor) -> Tensor:
        """Return ``W_O z`` of each head, (cell, head, embed), of (cell, head, d)."""
        return torch.bmm(heard.transpose(0, 1), self.attention_layer.W_O.permute(1, 2, 0)).transpose(0, 1)

    def predict(self, heard: Tensor, receiver_label: Tensor) -> Tensor:
        """Return the predicted expression, (cell, gene), from what the heads hear, (cell, head, d)."""
        difference: Tensor = self.linear_head(self.states(heard, receiver_label))
        return self.ct_profiles[receiver_label] + difference


def _softmax_with_dummy(score: Tensor, dummy_score: float) -> Tensor:
    """Softmax over the neighbors (cell, neighbor, head) and one more slot of `dummy_score`; the slot is dropped."""
    return torch.softmax(F.pad(score, (0, 0, 0, 1), value=dummy_score), dim=1)[:, :-1]


def patterns_by_head(of_edge: Tensor, reach: Tensor, absent: Tensor | None, dummy_score: float) -> Tensor:
    """Return the patterns of some cells without the dummy slot, (head, cell, neighbor).

    The same as a softmax of :meth:`CrossAttentionNetwork.edge_scores`, with fewer passes over the edges, and over the
    last axis, which takes half as long as over another.

    Parameters
    ----------
    of_edge
        Base score and distance coefficient of each edge's pair, (cell, neighbor, 2 head).
    reach
        Distance in units of the distance scale, (cell, neighbor).
    absent
        Slots that take no part, bool (cell, neighbor); None where all do.
    dummy_score
        Of the dummy slot.
    """
    n_cells, n_neighbors, width = of_edge.shape
    base, coefficient = torch.split(of_edge.permute(2, 0, 1), width // 2)
    score = torch.addcmul(base, coefficient, reach, value=-1)
    with_dummy = score.new_empty(width // 2, n_cells, n_neighbors + 1)
    with_dummy[..., :-1] = score if absent is None else score.masked_fill(absent, -math.inf)
    with_dummy[..., -1] = dummy_score
    return torch.softmax(with_dummy, dim=2)[..., :-1]
