"""How models are interpreted, apart from the interpretation so that reading it imports neither torch nor scipy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from tissue_crosstalk.core.errors import ParameterError, check_between, check_seed, check_whole, is_number, is_whole

PermuteWithin = Literal["section", "block"]


@dataclass(frozen=True)
class EffectSettings:
    """How effects are tested.

    Parameters
    ----------
    n_folds
        Folds of the tissue, each scored by a model that was trained without it. 0: all cells are scored by the model
        at hand, which was trained on them, and the p-values are descriptive at best.
    blocks_per_fold
        Spatial blocks of which a fold is made, about.
    permute_within
        Expression is permuted among the receivers of one type, fold and ``section``, or even ``block`` of the fold.
    adjust
        Whether effects and expression are compared less what the other senders are predicted to do.
    min_hearing
        Receivers with a neighbor of the sender type that a pair must have to be tested.
    max_q
        Largest q-value of a gene that counts as changed.

    Raises
    ------
    ParameterError
        If a value is out of range.
    """

    n_folds: int = 5
    blocks_per_fold: int = 4
    permute_within: PermuteWithin = "section"
    adjust: bool = True
    min_hearing: int = 20
    max_q: float = 0.05

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not is_whole(self.n_folds) or self.n_folds == 1 or self.n_folds < 0:
            raise ParameterError(f"n_folds must be 0 (none) or at least 2. Got {self.n_folds!r} instead.")
        for name in ("blocks_per_fold", "min_hearing"):
            if not is_whole(getattr(self, name)) or getattr(self, name) < 1:
                raise ParameterError(f"{name} must be a whole number, at least 1. Got {getattr(self, name)!r} instead.")
        if not is_number(self.max_q) or not 0 < self.max_q < 1:
            raise ParameterError(f"max_q must be between 0 and 1. Got {self.max_q!r} instead.")
        if self.permute_within not in get_args(PermuteWithin):
            raise ParameterError(
                f"permute_within must be one of {', '.join(get_args(PermuteWithin))}. "
                f"Got {self.permute_within!r} instead."
            )


@dataclass(frozen=True)
class DistanceSettings:
    """How length scales are measured.

    Parameters
    ----------
    tau
        Attention at the length scale, between 0 and 1.
    sample_threshold
        Share of the receivers that must have a sender nearer than the median length scale, in [0, 1]; where fewer
        have, the model has hardly seen such a distance, and the length scales are not supported. 0: all are.
    n_resamples
        Bootstrap resamples of the senders.
    confidence
        Of the intervals, between 0 and 1.
    random_state
        Seed of the resamples.

    Raises
    ------
    ParameterError
        If a value is out of range.
    """

    tau: float = 0.5
    sample_threshold: float = 0.02
    n_resamples: int = 999
    confidence: float = 0.95
    random_state: int = 42

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_between("tau", self.tau, 0, 1)
        if not (is_number(self.sample_threshold) and 0 <= self.sample_threshold <= 1):
            raise ParameterError(f"sample_threshold must be from 0 to 1. Got {self.sample_threshold!r} instead.")
        check_whole("n_resamples", self.n_resamples, least=1)
        check_between("confidence", self.confidence, 0, 1)
        check_seed("random_state", self.random_state)


@dataclass(frozen=True)
class VarianceSettings:
    """How explained variance is tested.

    Parameters
    ----------
    n_permutations
        Permutations of the predictions over the receivers of a type.
    random_state
        Seed of the permutations.

    Raises
    ------
    ParameterError
        If a value is out of range.
    """

    n_permutations: int = 999
    random_state: int = 42

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_whole("n_permutations", self.n_permutations, least=1)
        check_seed("random_state", self.random_state)


@dataclass(frozen=True)
class NullSettings:
    """How attention is compared with chance.

    Parameters
    ----------
    n_permutations
        Permutations of the senders.
    max_receivers
        Receivers per type at most; they are drawn where there are more.
    random_state
        Seed of both.

    Raises
    ------
    ParameterError
        If a value is out of range.
    """

    n_permutations: int = 999
    max_receivers: int = 2_000
    random_state: int = 42

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_whole("n_permutations", self.n_permutations, least=1)
        check_whole("max_receivers", self.max_receivers, least=1)
        check_seed("random_state", self.random_state)
