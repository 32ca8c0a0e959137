"""Sizes and constants of the network, apart from it so that reading them does not import torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from tissue_crosstalk.core.errors import ParameterError

LARGEST_SIZE = 2**24
"""Of any layer: products of two sizes stay far from an overflow."""

LARGEST_CONSTANT = 1e38
"""The network computes in single precision, where larger numbers are infinite."""


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes and constants of a ``CrossAttentionNetwork`` (defaults: the published ones).

    Parameters
    ----------
    n_heads, n_head_size
        Attention heads, and the dimension of each one's queries, keys and values.
    n_label_embed, n_query_embed_hidden, n_query_dim
        Label embedding, hidden layer and width per head of the query input.
    n_nn_embed, n_nn_embed_hidden
        Neighbor embedding and its hidden layer.
    n_kv_dim
        Width per head of the key/value input, and its hidden layer.
    n_pos_coef_mlp_hidden
        Hidden layer of the distance coefficient.
    attention_dummy_score
        Score of the dummy slot, which takes the attention that no neighbor gets.
    pos_coef_offset
        Added to the distance coefficient before the softplus.
    distance_kernel_unit_scale
        Distance that counts as one, in units of the coordinates.

    Raises
    ------
    ParameterError
        If a size is below 1, a constant is not finite in single precision, or the unit scale is not positive.
    """

    n_heads: int = 4
    n_head_size: int = 16
    n_label_embed: int = 32
    n_query_embed_hidden: int = 512
    n_query_dim: int = 64
    n_nn_embed: int = 256
    n_nn_embed_hidden: int = 1024
    n_kv_dim: int = 256
    n_pos_coef_mlp_hidden: int = 512
    attention_dummy_score: float = 3.0
    pos_coef_offset: float = -2.0
    distance_kernel_unit_scale: float = 1.0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            is_size = name.startswith("n_")
            if is_size and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_SIZE):
                raise ParameterError(
                    f"network setting {name!r} must be a whole number from 1 to {LARGEST_SIZE}. Got {value!r} instead."
                )
            if not is_size and not abs(value) <= LARGEST_CONSTANT:  # nor where it is not a number
                raise ParameterError(
                    f"network setting {name!r} must be finite, at most {LARGEST_CONSTANT:g} in size. "
                    f"Got {value!r} instead."
                )
        if self.distance_kernel_unit_scale <= 0:
            raise ParameterError(
                "network setting 'distance_kernel_unit_scale' must be positive. "
                f"Got {self.distance_kernel_unit_scale!r} instead."
            )

    @property
    def n_embed(self) -> int:
        """Width of all heads together, ``n_heads * n_head_size``."""
        return self.n_heads * self.n_head_size
