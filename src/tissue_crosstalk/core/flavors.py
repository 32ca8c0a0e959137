"""Four readings of the same attention: how much of it, and how much it carries.

A flavor multiplies the pattern a[head, cell, neighbor] by a norm of what the neighbor says, which depends on
(sender, head) alone: nothing but one multiplication happens per edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError, did_you_mean

if TYPE_CHECKING:
    import torch

    from tissue_crosstalk.core.network import CrossAttentionNetwork

Array = npt.NDArray[np.float32]
Weight = Callable[[Array, Mapping[str, Array], npt.NDArray[np.int32]], Array]


def vanilla(patterns: Array, norms: Mapping[str, Array], senders: npt.NDArray[np.int32]) -> Array:  # noqa: ARG001 - one signature
    """Return the patterns as they are: how much attention each neighbor gets, (head, cell, neighbor)."""
    return patterns


def value_weighted(patterns: Array, norms: Mapping[str, Array], senders: npt.NDArray[np.int32]) -> Array:
    """Return ``a * ||v||``: attention times the size of the neighbor's value vector, (head, cell, neighbor)."""
    return _weighted(patterns, norms[terms.VALUE_NORM], senders)


def info_weighted(patterns: Array, norms: Mapping[str, Array], senders: npt.NDArray[np.int32]) -> Array:
    """Return ``a * ||W_O v||``: attention times what the value adds to the cell's state, (head, cell, neighbor)."""
    return _weighted(patterns, norms[terms.INFO_NORM], senders)


def gene_weighted(patterns: Array, norms: Mapping[str, Array], senders: npt.NDArray[np.int32]) -> Array:
    """Return ``a * ||W_lin W_O v||``: attention times its effect on the genes, (head, cell, neighbor)."""
    return _weighted(patterns, norms[terms.GENE_NORM], senders)


FLAVORS: Mapping[str, Weight] = MappingProxyType(
    {
        terms.VANILLA: vanilla,
        terms.VALUE_WEIGHTED: value_weighted,
        terms.INFO_WEIGHTED: info_weighted,
        terms.GENE_WEIGHTED: gene_weighted,
    }
)


def weigh(patterns: Array, norms: Mapping[str, Array], senders: npt.NDArray[np.int32], flavor: str) -> Array:
    """Re-weight attention patterns in one flavor.

    Parameters
    ----------
    patterns
        (head, cell, neighbor).
    norms
        From :func:`sender_norms`, by name, each (sender, head).
    senders
        Row of the sender in `norms` in each slot, (cell, neighbor); −1 where padded (attention 0 there).
    flavor
        A name in :data:`FLAVORS`.

    Returns
    -------
    numpy.ndarray
        float32 (head, cell, neighbor).

    Raises
    ------
    ParameterError
        If there is no such flavor, or `norms` lack a sender.

    Examples
    --------
    One head, one receiver, two neighbors (rows 1 and 0 of the norms):

    >>> import numpy as np
    >>> patterns = np.array([[[0.5, 0.25]]], dtype=np.float32)  # (head, cell, neighbor)
    >>> norms = {"value_norm": np.array([[4.0], [2.0]], dtype=np.float32)}  # (sender, head)
    >>> weigh(patterns, norms, np.array([[1, 0]], dtype=np.int32), "value-weighted").tolist()
    [[[1.0, 1.0]]]
    """
    check_flavors([flavor])
    return FLAVORS[flavor](patterns, norms, senders)


def check_flavors(flavors: Iterable[str]) -> None:
    """Raise :class:`ParameterError` for a name that is no flavor, with a hint at the nearest."""
    for flavor in flavors:
        if flavor not in FLAVORS:
            raise ParameterError(
                f"unknown flavor {flavor!r}.{did_you_mean(str(flavor), FLAVORS)} The flavors are {', '.join(FLAVORS)}."
            )


def _weighted(patterns: Array, norm: Array, senders: npt.NDArray[np.int32]) -> Array:
    if senders.max(initial=-1) >= len(norm):
        raise ParameterError(
            f"`norms` must have a row for each sender. Got {len(norm)} rows and sender {senders.max()}."
        )
    out = np.empty_like(patterns)
    # All in the order of memory: what is stored has the cells of a slot side by side, not the slots of a cell.
    axes = (0, 1) if patterns.strides[2] <= patterns.strides[1] else (1, 0)
    rows = np.ascontiguousarray(senders.transpose(axes), dtype=np.intp)
    by_head, of_edge = np.ascontiguousarray(norm.T), np.empty(rows.shape, dtype=norm.dtype)
    for head in range(len(patterns)):
        np.take(by_head[head], rows, out=of_edge, mode="clip")
        np.multiply(patterns[head].transpose(axes), of_edge, out=out[head].transpose(axes))
    padded = senders < 0  # these read the first sender's norm, which may be unknown
    if padded.any():
        out[:, padded] = 0.0
    return out


def norm_factors(network: CrossAttentionNetwork) -> dict[str, torch.Tensor | None]:
    """Return what takes values to vectors of which :func:`sender_norms` are the lengths: the same for every sender.

    Parameters
    ----------
    network
        The network whose output projections apply.

    Returns
    -------
    dict
        By the names in :data:`terms.NORMS`: float32 (head, d, d), transposed, or None where it is the value itself.

    Notes
    -----
    With ``A = QR``, ``||A v|| = ||R v||``, and R is (d, d) at most: no gene appears per sender.
    """
    import torch

    from tissue_crosstalk.core.torch_threads import in_one_thread

    with torch.inference_mode(), in_one_thread():
        output = network.attention_layer.W_O.double().transpose(0, 1)  # (head, embed, d)
        genes = network.linear_head.weight.double() @ output  # (head, gene, d)

        def factor(matrix: torch.Tensor) -> torch.Tensor:
            triangle: torch.Tensor = torch.linalg.qr(matrix, mode="r").R
            return triangle.transpose(1, 2).to(network.linear_head.weight.dtype)

        return {terms.VALUE_NORM: None, terms.INFO_NORM: factor(output), terms.GENE_NORM: factor(genes)}


def sender_norms(
    network: CrossAttentionNetwork, value: torch.Tensor, factors: Mapping[str, torch.Tensor | None] | None = None
) -> dict[str, Array]:
    """Return ``||v||``, ``||W_O v||`` and ``||W_lin W_O v||`` per (sender, head).

    Parameters
    ----------
    network
        The network whose output projections apply.
    value
        v, (sender, head, d).
    factors
        From :func:`norm_factors`, for callers that come with several parts of the senders.

    Returns
    -------
    dict
        Keys of :data:`terms.NORMS`, float32 arrays (sender, head).
    """
    import torch

    from tissue_crosstalk.core.network import in_row_blocks

    def norm(factor: torch.Tensor | None) -> Array:
        def norms(rows: torch.Tensor) -> torch.Tensor:  # (sender, head, d) -> (sender, head)
            said = rows.transpose(0, 1)
            said = said if factor is None else torch.bmm(said, factor)
            by_sender: torch.Tensor = torch.linalg.vector_norm(said, dim=2).T
            return by_sender.contiguous()

        return in_row_blocks(norms, value, size=network.row_block).cpu().numpy()

    return {name: norm(factor) for name, factor in (factors or norm_factors(network)).items()}
