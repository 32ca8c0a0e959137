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

from collections.abc import Iterator, Sequence
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
    from tissue_crosstalk.core.cross_fitting import Folds
    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.network import KeyValueMap
    from tissue_crosstalk.core.tissue import PreparedTissue

Floats = npt.NDArray[np.float64]

VALUES_AT_ONCE: Final = 2_000_000
"""Effects of cells on genes that are held at once."""

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
    n_types, n_genes = len(tissue.cell_types), len(tissue.genes)
    sums = {pair: _TestSums(n_genes) for pair in _pairs(tissue, neighbors, settings.min_hearing)}
    for fold, model in enumerate(models):
        with torch.inference_mode():
            key_value_map = model.network.key_value_map()
        in_fold = np.ones(tissue.n_cells, dtype=bool) if folds is None else folds.of_cell == fold
        for label in range(n_types):
            senders = [sender for receiver, sender in sums if receiver == label]
            rows = np.flatnonzero(in_fold & (tissue.labels == label))
            if not senders or not len(rows):
                continue
            strata = tissue.sections[rows].astype(np.int64)
            if settings.permute_within == "block" and folds is not None:
                strata = folds.block[rows]
            rows, starts = _by_stratum(rows, strata)
            for sender, genes, effect, others in _effects(
                model, tissue, neighbors, rows, label, senders, key_value_map
            ):  # fmt: skip
                expression = np.asarray(tissue.expression[rows][:, genes].todense(), dtype=np.float64).T
                sums[label, sender].add(genes, effect, others, expression, starts, adjust=settings.adjust)
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


def _by_stratum(
    rows: npt.NDArray[np.intp], strata: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the rows stratum by stratum, and where each stratum starts."""
    order = np.argsort(strata, kind="stable")
    ordered = strata[order]
    return rows[order], np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])


def _effects(
    model: CrosstalkModel,
    tissue: PreparedTissue,
    neighbors: Neighbors,
    rows: npt.NDArray[np.intp],
    label: int,
    senders: Sequence[int],
    key_value_map: KeyValueMap,
) -> Iterator[tuple[int, slice, Floats, Floats]]:
    """Yield sender, genes, the effect of the sender, and the predicted change by all others, both (gene, cell)."""
    import torch

    from tissue_crosstalk.core.ablation import ALL_HEADS, HeadReader, SenderGroups, split_heard
    from tissue_crosstalk.core.attention import PREDICT_CELLS

    network = model.network
    groups = SenderGroups.of_types(tissue)
    with torch.inference_mode():
        ascending = np.sort(rows)
        parts = torch.cat(
            [
                split_heard(network, tissue, neighbors, ascending[start:stop], groups, key_value_map)[0]
                for start, stop in shards(len(rows), PREDICT_CELLS)
            ]
        )[torch.from_numpy(np.searchsorted(ascending, rows))]
        reader = HeadReader.of(network, ALL_HEADS)
        heard = reader.heard(parts.permute(2, 3, 1, 0).contiguous())  # (k, group + 1, cell)
        total, query = heard.sum(dim=1), network.queries()[label].reshape(-1)
        step = max(1, VALUES_AT_ONCE // max(len(rows), 1))
        for sender in senders:
            own = heard[:, sender]
            both = torch.stack([own, total - own], dim=1)
            for first in range(0, network.n_genes, step):
                genes = slice(first, min(first + step, network.n_genes))
                whole, effect = reader.of_genes(genes).effects(both, query)
                of_sender = effect[:, 0].double().cpu().numpy()
                yield sender, genes, of_sender, whole.double().cpu().numpy() - of_sender


@dataclass(eq=False)
class _TestSums:
    """Sums over the receivers of one pair of types, each (gene,) and added up over strata and folds."""

    n_genes: int
    n_cells: int = 0
    values: dict[str, Floats] = field(default_factory=dict)

    def add(
        self,
        genes: slice,
        effect: Floats,
        others: Floats,
        expression: Floats,
        starts: npt.NDArray[np.intp],
        *,
        adjust: bool,
    ) -> None:
        """Add the receivers of one fold, (gene, cell), stratum by stratum."""
        sizes = np.diff(starts, append=effect.shape[1])

        def centred(values: Floats) -> Floats:
            return values - np.repeat(np.add.reduceat(values, starts, axis=1) / sizes, sizes, axis=1)

        def of_strata(values: Floats) -> Floats:
            return np.add.reduceat(values, starts, axis=1)

        a, b = centred(effect), centred(expression)
        free = int((sizes - 1).sum())
        if adjust:
            c = centred(others)
            of_c = (c * c).sum(axis=1)
            varies = of_c > _ROUNDING * (others * others).sum(axis=1)
            unit = np.divide(1.0, of_c, out=np.zeros_like(of_c), where=varies)
            a = a - (unit * (a * c).sum(axis=1))[:, None] * c
            b = b - (unit * (b * c).sum(axis=1))[:, None] * c
        a2, b2 = a * a, b * b
        # A regression takes a degree of freedom.
        correction = free / (free - 1) if adjust and free > 1 else 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = np.where(sizes > 1, of_strata(a2) * of_strata(b2) / (sizes - 1), 0.0)
            third = np.where(
                sizes > 2, sizes * of_strata(a2 * a) * of_strata(b2 * b) / ((sizes - 1) * (sizes - 2)), 0.0
            )
        new = {
            "effect": effect.sum(axis=1),
            "effect_squared": (effect * effect).sum(axis=1),
            "ab": (a * b).sum(axis=1),
            "aa": a2.sum(axis=1),
            "bb": b2.sum(axis=1),
            "aabb": (a2 * b2).sum(axis=1),
            "aaab": (a2 * a * b).sum(axis=1),
            "aaaa": (a2 * a2).sum(axis=1),
            "variance": correction * variance.sum(axis=1),
            "third": third.sum(axis=1),
        }
        for name, value in new.items():
            self.values.setdefault(name, np.zeros(self.n_genes))[genes] += value
        if genes.start == 0:
            self.n_cells += effect.shape[1]

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
