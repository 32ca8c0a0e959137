"""How a network is trained, apart from the training so that reading it does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, get_args

from tissue_crosstalk.core.batches import Split
from tissue_crosstalk.core.devices import AUTO, check_device_name
from tissue_crosstalk.core.errors import ParameterError, is_number, is_whole

BARELY: Final = 0.002
"""A model that predicts held-out cells better than their types' means by less than this share has learned nothing."""

LearningRateSchedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained (defaults: the published ones, but for patches, the split and the distance scale).

    Parameters
    ----------
    max_epochs
        Epochs at most.
    batch_size
        Receivers per step.
    patch_size
        Receivers per spatial patch; a batch is made of several. 1: batches of random cells.
    learning_rate, adam_eps, weight_decay
        Of Adam.
    learning_rate_schedule
        ``constant``, or ``linear`` or ``cosine``: down to ``learning_rate_end`` in the last of ``max_epochs``.
    learning_rate_end
        See there.
    learning_rate_warmup
        Epochs over which the learning rate first rises linearly to ``learning_rate``.
    validation_fraction
        Share of the cells held out to decide when to stop.
    validation_split
        ``blocks``: spatial blocks are held out. ``cells``: random cells, of which the training sees more than it
        should, since each cell's neighbors were trained with it among theirs. ``both``: half of each, and the blocks
        decide.
    validation_blocks
        Spatial blocks held out in all.
    patience
        Epochs without a better validation before training stops; the best weights are kept.
    neighbor_dropout
        Probability that a neighbor is masked in a step.
    value_l1_penalty
        Weight of the L1 penalty on the values.
    attention_penalty_from, attention_penalty_to, attention_penalty_start, attention_penalty_end
        Weight of the entropy penalty: 0 before epoch ``start``, then linear from ``from`` to ``to`` until ``end``.
    auto_distance_scale
        Measure distances in units of the median distance to the nearest neighbor, whatever the unit of the
        coordinates, instead of the network setting ``distance_kernel_unit_scale``.
    device
        ``auto`` (cuda where there is one, else mps, else cpu), ``cpu``, ``cuda``, ``cuda:<number>`` or ``mps``.
    mixed_precision
        Compute matrix products in bfloat16, the softmax and sums over edges in float32.

    Raises
    ------
    ParameterError
        If a value is out of range.
    """

    max_epochs: int = 200
    batch_size: int = 256
    patch_size: int = 128
    learning_rate: float = 1e-3
    learning_rate_schedule: LearningRateSchedule = "constant"
    learning_rate_end: float = 0.0
    learning_rate_warmup: int = 0
    adam_eps: float = 0.01
    weight_decay: float = 1e-6
    validation_fraction: float = 0.1
    validation_split: Split = "blocks"
    validation_blocks: int = 10
    patience: int = 20
    neighbor_dropout: float = 0.1
    value_l1_penalty: float = 1e-5
    attention_penalty_from: float = 1e-6
    attention_penalty_to: float = 1e-3
    attention_penalty_start: int = 10
    attention_penalty_end: int = 30
    auto_distance_scale: bool = True
    device: str = AUTO
    mixed_precision: bool = False

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        def check(
            name: str, *, low: float, high: float = math.inf, open_low: bool = False, open_high: bool = False
        ) -> None:
            value = getattr(self, name)
            if not is_number(value) or (isinstance(getattr(type(self), name), int) and not is_whole(value)):
                kind = "whole number" if isinstance(getattr(type(self), name), int) else "finite number"
                raise ParameterError(f"{name} must be a {kind}. Got {value!r} instead.")
            in_range = (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
            if not in_range:
                span = f"{'above' if open_low else 'at least'} {low:g}"
                span += f" and {'below' if open_high else 'at most'} {high:g}" if high < math.inf else ""
                raise ParameterError(f"{name} must be {span}. Got {value!r} instead.")

        for name in ("max_epochs", "batch_size", "patch_size", "validation_blocks", "patience"):
            check(name, low=1)
        for name in ("weight_decay", "value_l1_penalty", "attention_penalty_from", "attention_penalty_to"):
            check(name, low=0)
        check("learning_rate", low=0, open_low=True)
        check("learning_rate_end", low=0, high=self.learning_rate)
        check("learning_rate_warmup", low=0)
        check("adam_eps", low=0, open_low=True)
        check("validation_fraction", low=0, high=0.9, open_low=True)
        check("neighbor_dropout", low=0, high=1, open_high=True)
        check("attention_penalty_start", low=0)
        check("attention_penalty_end", low=self.attention_penalty_start)
        for name, kind in (("learning_rate_schedule", LearningRateSchedule), ("validation_split", Split)):
            if getattr(self, name) not in get_args(kind):
                raise ParameterError(
                    f"{name} must be one of {', '.join(get_args(kind))}. Got {getattr(self, name)!r} instead."
                )
        check_device_name(self.device)

    def attention_penalty(self, epoch: int) -> float:
        """Return the weight of the entropy penalty in an epoch (counted from 0)."""
        start, end = self.attention_penalty_start, self.attention_penalty_end
        if epoch < start:
            return 0.0
        done = 1.0 if epoch >= end else (epoch - start) / (end - start)
        return self.attention_penalty_from + done * (self.attention_penalty_to - self.attention_penalty_from)

    def learning_rate_in(self, epoch: int) -> float:
        """Return the learning rate in an epoch (counted from 0)."""
        warmup, last = self.learning_rate_warmup, self.max_epochs - 1
        if epoch < warmup:
            return self.learning_rate * (epoch + 1) / (warmup + 1)
        done = min(1.0, (epoch - warmup) / (last - warmup)) if last > warmup else 0.0
        left = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
        return self.learning_rate_end + left[self.learning_rate_schedule] * (
            self.learning_rate - self.learning_rate_end
        )
