"""Which genes a sender type changes in a receiver type, tested on cells that the model was not trained on.

The published score of a gene (:class:`~tissue_crosstalk.core.ablation.Ablation`) compares what a model predicts with
the expression that it was trained to predict, and has no null that it is compared with: it calls genes significant
where nothing was planted. Here

1. the tissue is cut in folds of spatial blocks, and a model is trained without each fold (*cross-fitting*): its cells
   are neither receivers nor senders in that training;
2. in the fold, the *effect* of a sender type on a gene of a cell is the prediction less the prediction without its
   neighbors of that type;
3. effect and expression are compared over the receivers of a type within a section and fold, less what the other
   senders are predicted to do (a partial correlation), and
4. the null is that of permuting the expression among these receivers. It holds exactly where receivers of one type are
   alike but for what their neighbors do to them. Its mean, variance and skewness are known in closed form.

Where expression varies over a section for other reasons (regions, staining), receivers are not exchangeable within it,
and the effects of senders that lie in such a region may be found as well: permute within spatial blocks then
(``permute_within="block"``), which leaves interactions of short range.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.interpretation_settings import EffectSettings
from tissue_crosstalk.core.spatial_order import shards
from tissue_crosstalk.core.statistics import SMALLEST_P, categorical, false_discovery_rate

if TYPE_CHECKING:
    from tissue_crosstalk.core.ablation import HeadReader, Hearing
    from tissue_crosstalk.core.cross_fitting import Folds
    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.network import CrossAttentionNetwork, KeyValueMap
    from tissue_crosstalk.core.tissue import PreparedTissue

Floats = npt.NDArray[np.float64]

VALUES_AT_ONCE: Final = 131_072
"""Effects of one sender type on genes of cells that are worked on at once: 1 MiB, so that they stay in the cache."""

MOST_HELD: Final = 2**30
"""Bytes of what receivers hear that are held; where there are more, it is computed twice."""

MOST_SUMS: Final = 2**30
"""Bytes of the sums of pairs of types that are held at once; where there are more, some pairs come after the others."""

NORMAL_95: Final = 1.959963984540054
"""Standard errors to either side of a 95 % interval."""


def measure_effects(
    models: Sequence[CrosstalkModel],
    tissue: PreparedTissue,
    neighbors: Neighbors,
    folds: Folds | None,
    settings: EffectSettings | None = None,
) -> pd.DataFrame:
    """Test the effect of every sender type on every gene of every receiver type.

    Parameters
    ----------
    models
        The model that was trained without each fold; without folds, the one model.
    tissue, neighbors
        The cells in spatial order, and all their neighbors.
    folds
        The folds; None: all cells are scored by one model, whatever it was trained on.
    settings
        How; None: the defaults.

    Returns
    -------
    pandas.DataFrame
        One row per receiver type, sender type and gene: ``receiver``, ``sender``, ``gene``, ``n_receivers``,
        ``n_hearing`` (receivers with such a neighbor); ``diff``, the mean effect in units of the log-normalised
        expression, with ``diff_low`` and ``diff_high`` (95 %, over the receivers); ``slope``, observed change per
        change predicted, with ``slope_low`` and ``slope_high`` (95 %, by errors that may differ between cells);
        ``correlation`` (partial) of effect and expression; ``z_score``, ``p_value`` (one-sided: the change is as
        predicted), ``q_value`` (Benjamini-Hochberg over all rows), ``held_out``. What cannot be tested is NaN.

    Raises
    ------
    ParameterError
        If there is not a model for each fold.

    Notes
    -----
    For centred a and b of n receivers, ``sum a b`` over permutations of b has the variance ``A2 B2 / (n - 1)`` and the
    third moment ``n A3 B3 / ((n - 1) (n - 2))``, with the sums of powers A2 ... B3; those of sections and folds add up.
    The tail is that of the Pearson type III distribution of these moments, or the normal one where it is skewed to the
    other side. Partial: D. Freedman and D. Lane, J. Bus. Econ. Stat. 1 (1983), 292-298. Errors of the slope: H. White,
    Econometrica 48 (1980), 817-838.
    """
    import torch

    settings = settings or EffectSettings()
    n_models = folds.n_folds if folds is not None else 1
    if len(models) != n_models:
        raise ParameterError(f"a model is needed for each of {n_models} folds. Got {len(models)}.")
    n_genes = len(tissue.genes)
    sums = {pair: _TestSums(n_genes) for pair in _pairs(tissue, neighbors, settings.min_hearing)}
    for fold, model in enumerate(models):
        with torch.inference_mode():
            key_value_map = model.network.key_value_map()
        rows = np.arange(tissue.n_cells) if folds is None else np.flatnonzero(folds.of_cell == fold)
        strata = folds.block if settings.permute_within == "block" and folds is not None else tissue.sections
        names, stratum = np.unique(strata[rows], return_inverse=True)
        pairs = list(sums)
        for start, stop in shards(len(pairs), max(1, MOST_SUMS // _FoldSums.bytes_of(n_genes, len(names)))):
            of_pairs = {pair: _FoldSums(n_genes, len(names), adjust=settings.adjust) for pair in pairs[start:stop]}
            _take_in(model.network, tissue, neighbors, rows, stratum, of_pairs, key_value_map)
            for pair, of_pair in of_pairs.items():
                sums[pair].add(of_pair.values(), of_pair.n_cells)
    return _table(tissue, neighbors, sums, held_out=folds is not None)


def _pairs(tissue: PreparedTissue, neighbors: Neighbors, min_hearing: int) -> list[tuple[int, int]]:
    """Return (receiver, sender) labels of the pairs with enough receivers that have such a neighbor."""
    return [(int(r), int(s)) for r, s in np.argwhere(count_hearing(tissue, neighbors) >= min_hearing)]


def count_hearing(tissue: PreparedTissue, neighbors: Neighbors) -> npt.NDArray[np.int64]:
    """Return how many receivers of each type have a neighbor of each type, (receiver label, sender label)."""
    n_types = len(tissue.cell_types)
    hearing = np.zeros((n_types, n_types), dtype=np.int64)
    for start, stop in shards(tissue.n_cells, 100_000):
        idx = neighbors.idx[start:stop]
        cell, slot = np.nonzero(idx >= 0)
        has = np.zeros((stop - start, n_types), dtype=bool)
        has[cell, tissue.labels[idx[cell, slot]]] = True
        for sender in range(n_types):
            hearing[:, sender] += np.bincount(tissue.labels[start:stop][has[:, sender]], minlength=n_types)
    return hearing


@dataclass(frozen=True, eq=False)
class _Runs:
    """Cells of some strata, one stratum after the other.

    Attributes
    ----------
    strata
        Which strata, each once, (stratum,).
    starts, lengths
        Where the cells of each start, and how many there are, (stratum,).
    """

    strata: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    lengths: npt.NDArray[np.intp]

    @classmethod
    def of(cls, stratum: npt.NDArray[np.integer]) -> _Runs:
        """Return the runs of cells whose strata are given, ascending, (cell,)."""
        return cls(*np.unique(stratum, return_index=True, return_counts=True))

    def sums(self, values: Floats) -> Floats:
        """Return sums (gene, stratum) of values (gene, cell)."""
        return np.asarray(np.add.reduceat(values, self.starts, axis=1))

    def to_cells(self, of_strata: Floats) -> Floats:
        """Return for each cell what its stratum has, (gene, cell) or alike."""
        return of_strata if len(self.starts) == 1 else np.repeat(of_strata, self.lengths, axis=1)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """What some receivers of a type hear of each sender type, and what they express.

    Attributes
    ----------
    label
        Of the receivers.
    reader
        What takes it to genes.
    hearing
        By sender type.
    expression
        Of the receivers, float32 (gene, cell).
    runs
        Their strata.
    """

    label: int
    reader: HeadReader
    hearing: Hearing
    expression: npt.NDArray[np.float32]
    runs: _Runs

    def give(
        self,
        of_senders: Sequence[_FoldSums],
        take: Callable[[_FoldSums, slice, _Runs, Floats, Floats, Floats], None],
    ) -> None:
        """Have the sums of each sender `take` its effects, some genes at a time."""
        import torch

        from tissue_crosstalk.core.torch_threads import each_block

        def give_genes(genes: slice) -> None:
            whole, effect = self.reader.of_genes(genes).read(self.hearing)
            predicted, observed = whole.double().cpu().numpy(), self.expression[genes].astype(np.float64)
            for place, sums in enumerate(of_senders):
                of_sender = effect[:, place].double().cpu().numpy()
                take(sums, genes, self.runs, of_sender, predicted - of_sender, observed)

        n_genes, n_cells = self.expression.shape
        with torch.inference_mode():
            # Sums of different genes do not meet, so that blocks can be taken in side by side.
            each_block(give_genes, n_genes, max(1, VALUES_AT_ONCE // n_cells), self.hearing.total.device)


def _take_in(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    rows: npt.NDArray[np.intp],
    stratum: npt.NDArray[np.intp],
    of_pairs: Mapping[tuple[int, int], _FoldSums],
    key_value_map: KeyValueMap,
) -> None:
    """Have the sums of pairs of labels take in the receivers among some cells, whose strata are given, (cell,)."""
    n_types = len(tissue.cell_types)
    senders = [[sender for receiver, sender in of_pairs if receiver == label] for label in range(n_types)]
    is_wanted = np.array([len(of_label) > 0 for of_label in senders])[tissue.labels[rows]]
    rows, stratum = rows[is_wanted], stratum[is_wanted]
    for (receiver, _), of_pair in of_pairs.items():
        of_pair.count(stratum[tissue.labels[rows] == receiver])
    hear = functools.partial(_hear, network, tissue, neighbors, rows, stratum, senders, key_value_map)
    held = list(hear()) if _bytes_heard(network, len(rows), n_types) <= MOST_HELD else None
    # Twice, as deviations are from means that are known only after the first time.
    for take in (_FoldSums.take_first, _FoldSums.take_again):
        for chunk in hear() if held is None else held:
            chunk.give([of_pairs[chunk.label, sender] for sender in senders[chunk.label]], take)


def _hear(
    network: CrossAttentionNetwork,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    rows: npt.NDArray[np.intp],
    stratum: npt.NDArray[np.intp],
    senders: Sequence[Sequence[int]],
    key_value_map: KeyValueMap,
) -> Iterator[_Chunk]:
    """Yield what receivers hear of the senders of their type, `senders` by label, some cells at a time.

    Cells that lie together share neighbors: what these say is computed for receivers of all types at once.
    """
    import torch

    from tissue_crosstalk.core.ablation import ALL_HEADS, HeadReader, SenderGroups, cells_last, split_heard
    from tissue_crosstalk.core.attention import PREDICT_CELLS

    groups = SenderGroups.of_types(tissue)
    for start, stop in shards(len(rows), PREDICT_CELLS):
        own = rows[start:stop]
        labels, expression = tissue.labels[own], tissue.expression[own]
        with torch.inference_mode():
            reader, queries = HeadReader.of(network, ALL_HEADS), network.queries()
            parts, _ = split_heard(network, tissue, neighbors, own, groups, key_value_map)
        for label in np.unique(labels).tolist():
            if not senders[label]:
                continue
            cells = np.flatnonzero(labels == label)
            of_cells = stratum[start:stop][cells]
            order = np.argsort(of_cells, kind="stable")
            cells, of_cells = cells[order], of_cells[order]
            others = [group for group in range(len(groups.names) + 1) if group not in senders[label]]
            with torch.inference_mode():
                heard = reader.heard(cells_last(parts[torch.from_numpy(cells).to(parts.device)]))
                rest = heard[:, others].sum(dim=1, keepdim=True)
                hearing = reader.hear(torch.cat([heard[:, senders[label]], rest], dim=1), queries[label].reshape(-1))
            observed = np.ascontiguousarray(expression[cells].toarray().T)
            yield _Chunk(label, reader, hearing, observed, _Runs.of(of_cells))


def _bytes_heard(network: CrossAttentionNetwork, n_cells: int, n_types: int) -> int:
    """Return the memory of all of :func:`_hear`, at most."""
    s = network.settings
    return 4 * n_cells * (s.n_heads * s.n_head_size * n_types + s.n_embed + network.n_genes)


class _FoldSums:
    """Sums over the receivers of one pair of types in one fold, taken in twice.

    Parameters
    ----------
    n_genes, n_strata
        Number of genes, and of strata.
    adjust
        Whether effect and expression are compared less what is told by the effects of others.
    """

    def __init__(self, n_genes: int, n_strata: int, *, adjust: bool) -> None:
        self._adjust = adjust
        self._sizes = np.zeros(n_strata, dtype=np.int64)
        shape = (n_genes, n_strata)
        self._effect, self._others, self._expression = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        of_genes = ("effect_squared", "others_squared", "effect_others", "expression_others")
        self._first = {name: np.zeros(n_genes) for name in of_genes}
        self._again = {name: np.zeros(n_genes) for name in ("ab", "aa", "bb", "aabb", "aaab", "aaaa")}
        self._powers = {name: np.zeros(shape) for name in ("aa", "bb", "aaa", "bbb")}

    @staticmethod
    def bytes_of(n_genes: int, n_strata: int) -> int:
        """Return the memory of one."""
        return 8 * 7 * n_genes * max(n_strata, 1)

    @property
    def n_cells(self) -> int:
        """Number of receivers."""
        return int(self._sizes.sum())

    def count(self, stratum: npt.NDArray[np.intp]) -> None:
        """Take in the strata of all receivers, (cell,), before the receivers."""
        self._sizes += np.bincount(stratum, minlength=len(self._sizes))

    def take_first(self, genes: slice, runs: _Runs, effect: Floats, others: Floats, expression: Floats) -> None:
        """Take in some receivers, each (gene, cell), for means and for what is told by the others."""
        self._effect[genes, runs.strata] += runs.sums(effect)
        self._first["effect_squared"][genes] += _dot(effect, effect)
        self._expression[genes, runs.strata] += runs.sums(expression)
        if self._adjust:
            self._others[genes, runs.strata] += runs.sums(others)
            self._first["others_squared"][genes] += _dot(others, others)
            self._first["effect_others"][genes] += _dot(effect, others)
            self._first["expression_others"][genes] += _dot(expression, others)

    def take_again(self, genes: slice, runs: _Runs, effect: Floats, others: Floats, expression: Floats) -> None:
        """Take in the same receivers again, when all have been taken in first, for the moments."""
        sizes = self._sizes[runs.strata]

        def left(values: Floats, sums: Floats, product: Floats) -> Floats:
            """Return values less their stratum's mean, and less what is told by the others."""
            means = sums[genes, runs.strata] / sizes
            if not self._adjust:
                return values - runs.to_cells(means)
            slope = self._slope(genes, sums, product)
            deviations = values - slope * others
            deviations -= runs.to_cells(means - slope * self._others[genes, runs.strata] / sizes)
            return deviations

        a = left(effect, self._effect, self._first["effect_others"])
        b = left(expression, self._expression, self._first["expression_others"])
        ab, aa, bb = a * b, a * a, b * b
        of_a, of_b = runs.sums(aa), runs.sums(bb)
        for name, of_strata in (("aa", of_a), ("bb", of_b), ("aaa", runs.sums(aa * a)), ("bbb", runs.sums(bb * b))):
            self._powers[name][genes, runs.strata] += of_strata
        for name, of_genes in {
            "ab": ab.sum(axis=1),
            "aa": of_a.sum(axis=1),
            "bb": of_b.sum(axis=1),
            "aabb": _dot(ab, ab),
            "aaab": _dot(aa, ab),
            "aaaa": _dot(aa, aa),
        }.items():
            self._again[name][genes] += of_genes

    def _slope(self, genes: slice, sums: Floats, product: Floats) -> Floats:
        """Return the change of values per change by the others, (gene, 1), from sums and products with the others."""
        of_others, sizes = self._others[genes], np.maximum(self._sizes, 1)  # sums of an empty stratum are 0
        squared = self._first["others_squared"][genes]
        left = squared - (of_others**2 / sizes).sum(axis=1)
        common = product[genes] - (sums[genes] * of_others / sizes).sum(axis=1)
        varies = left > _ROUNDING * squared
        slope: Floats = np.divide(common, left, out=np.zeros_like(left), where=varies)
        return slope[:, None]

    def values(self) -> dict[str, Floats]:
        """Return the sums of :class:`_TestSums`, each (gene,)."""
        sizes, p = self._sizes, self._powers
        free = int(np.maximum(sizes - 1, 0).sum())
        # A regression takes a degree of freedom.
        correction = free / (free - 1) if self._adjust and free > 1 else 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = np.where(sizes > 1, p["aa"] * p["bb"] / (sizes - 1), 0.0)
            third = np.where(sizes > 2, sizes * p["aaa"] * p["bbb"] / ((sizes - 1) * (sizes - 2)), 0.0)
        return self._again | {
            "effect": self._effect.sum(axis=1),
            "effect_squared": self._first["effect_squared"],
            "variance": correction * variance.sum(axis=1),
            "third": third.sum(axis=1),
        }


def _dot(one: Floats, other: Floats) -> Floats:
    """Return the sum over cells of the product of two arrays (gene, cell), (gene,)."""
    return np.asarray(np.einsum("gc,gc->g", one, other))


@dataclass(eq=False)
class _TestSums:
    """Sums over the receivers of one pair of types, each (gene,) and added up over strata and folds."""

    n_genes: int
    n_cells: int = 0
    values: dict[str, Floats] = field(default_factory=dict)

    def add(self, values: Mapping[str, Floats], n_cells: int) -> None:
        """Add the sums of the receivers of one fold."""
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + value
        self.n_cells += n_cells

    def measure(self) -> dict[str, Floats]:
        """Return the columns of the table that hold numbers, each (gene,)."""
        v, n = self.values, self.n_cells
        if not n:
            return {name: np.full(self.n_genes, np.nan) for name in MEASURES}
        diff = v["effect"] / n
        spread = np.maximum(v["effect_squared"] / n - diff**2, 0)
        tested = (v["aa"] > _ROUNDING * v["effect_squared"]) & (v["aa"] > 0) & (v["bb"] > 0) & (v["variance"] > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = v["ab"] / v["aa"]
            error = np.sqrt(np.maximum(v["aabb"] - 2 * slope * v["aaab"] + slope**2 * v["aaaa"], 0)) / v["aa"]
            z_score = v["ab"] / np.sqrt(v["variance"])
            skewness = v["third"] / v["variance"] ** 1.5
            correlation = v["ab"] / np.sqrt(v["aa"] * v["bb"])
        width = NORMAL_95 * np.sqrt(spread / n)
        columns = {
            "slope": slope,
            "slope_low": slope - NORMAL_95 * error,
            "slope_high": slope + NORMAL_95 * error,
            "correlation": correlation,
            "z_score": z_score,
            "p_value": upper_tail(np.where(tested, z_score, 0.0), np.where(tested, skewness, 0.0)),
        }
        return {"diff": diff, "diff_low": diff - width, "diff_high": diff + width} | {
            name: np.where(tested, values, np.nan) for name, values in columns.items()
        }


def upper_tail(z_score: Floats, skewness: Floats) -> Floats:
    """Return the probability of at least `z_score`, never 0, under the Pearson type III distribution.

    Parameters
    ----------
    z_score
        In standard deviations from the mean, of any shape.
    skewness
        Of the distribution, alike. Where it is not positive, the tail is that of the normal distribution, which is no
        lighter.

    Examples
    --------
    >>> upper_tail(np.array([0.0, 3.0, 3.0]), np.array([0.0, 0.0, 1.0])).round(4).tolist()
    [0.5, 0.0013, 0.0103]
    """
    from scipy import special, stats

    skewed = skewness > 1e-4
    shape = 4 / np.where(skewed, skewness, 1.0) ** 2
    place = np.maximum(shape + z_score * np.sqrt(shape), 0)
    tail = np.where(skewed, special.gammaincc(shape, place), stats.norm.sf(z_score))
    return np.maximum(tail, SMALLEST_P)


def _table(
    tissue: PreparedTissue, neighbors: Neighbors, sums: dict[tuple[int, int], _TestSums], *, held_out: bool
) -> pd.DataFrame:
    n_genes = len(tissue.genes)
    pairs = np.array(list(sums), dtype=np.int64).reshape(-1, 2)
    receiver, sender = pairs[:, 0], pairs[:, 1]
    hearing = count_hearing(tissue, neighbors)
    n_receivers = np.bincount(tissue.labels, minlength=len(tissue.cell_types))
    measured = [of_pair.measure() for of_pair in sums.values()]
    columns = {name: np.concatenate([one[name] for one in measured]) if measured else np.empty(0) for name in MEASURES}
    table = pd.DataFrame(
        {
            terms.RECEIVER: categorical(np.repeat(receiver, n_genes), tissue.cell_types),
            terms.SENDER: categorical(np.repeat(sender, n_genes), tissue.cell_types),
            terms.GENE: categorical(np.tile(np.arange(n_genes), len(pairs)), tissue.genes),
            "n_receivers": np.repeat(n_receivers[receiver], n_genes),
            "n_hearing": np.repeat(hearing[receiver, sender], n_genes),
            **columns,
        }
    )
    table["q_value"] = false_discovery_rate(table["p_value"].to_numpy())
    table["held_out"] = held_out
    return table


MEASURES: Final = (
    "diff", "diff_low", "diff_high", "slope", "slope_low", "slope_high", "correlation", "z_score", "p_value",
)  # fmt: skip
_ROUNDING: Final = 1e-10
