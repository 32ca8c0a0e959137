"""A tissue in which it is known who talks to whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.spatial import KDTree

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ParameterError, ResultError, is_number

if TYPE_CHECKING:
    from anndata import AnnData

CELL_SPACING = 10.0
"""Typical distance between cells, in micrometres."""


@dataclass(frozen=True)
class SimulationSettings:
    """A tissue with planted interactions.

    Parameters
    ----------
    n_cells, n_genes, n_cell_types, n_sections
        Sizes. Sections share one range of coordinates, as slides do.
    n_interactions
        Planted (sender, receiver) pairs; each sender type sends to one receiver type.
    genes_per_interaction
        Genes raised in a receiver within reach of a sender.
    length_scale_min, length_scale_max
        Range of the interactions' reach, in micrometres.
    log2_fold_change
        By how much the genes are raised.
    sender_share
        Share of a sender type among the cells of the part of the tissue that has senders.
    sender_region
        Share of the tissue (its left part) that has senders. Receivers in the rest are unaffected.
    mean_counts
        Mean total count of a cell.

    Raises
    ------
    ParameterError
        If the sizes contradict each other.
    """

    n_cells: int = 3000
    n_genes: int = 120
    n_cell_types: int = 6
    n_sections: int = 1
    n_interactions: int = 3
    genes_per_interaction: int = 10
    length_scale_min: float = 20.0
    length_scale_max: float = 30.0
    log2_fold_change: float = 1.5
    sender_share: float = 0.06
    sender_region: float = 0.6
    mean_counts: float = 400.0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        def require(holds: object, expected: str) -> None:
            if not holds:
                got = ", ".join(f"{name}={value}" for name, value in asdict(self).items() if name in expected)
                raise ParameterError(f"{expected}. Got {got} instead.")

        for name in ("n_cells", "n_genes", "n_sections"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1")
        require(self.n_interactions >= 0, "n_interactions must be at least 0")
        require(
            self.n_cell_types >= self.n_interactions + 1 + (self.n_interactions > 0),
            "n_cell_types must be at least n_interactions + 2 (senders, and two types for the rest)",
        )
        require(0 < self.genes_per_interaction <= self.n_genes, "genes_per_interaction must be in [1, n_genes]")
        require(
            0 < self.length_scale_min <= self.length_scale_max,
            "length_scale_min must be above 0 and at most length_scale_max",
        )
        require(0 < self.sender_region <= 1, "sender_region must be in (0, 1]")
        require(
            self.sender_share > 0 and self.sender_share * self.n_interactions < 1,
            "sender_share must be positive, and n_interactions times sender_share below 1",
        )
        require(self.mean_counts > 0, "mean_counts must be positive")


@dataclass(frozen=True)
class Interaction:
    """A planted interaction: receivers within `length_scale` of a sender raise `genes`.

    The length is in the unit of the tissue's coordinates, micrometres in a simulated one.
    """

    sender: str
    receiver: str
    length_scale: float
    genes: tuple[str, ...]


def simulate_tissue(settings: SimulationSettings, *, seed: int) -> tuple[AnnData, list[Interaction]]:
    """Simulate a tissue with planted interactions.

    Parameters
    ----------
    settings
        Sizes and strengths.
    seed
        Of everything random.

    Returns
    -------
    tissue
        AnnData of counts (CSR float32) with ``obs["cell_type"]``, ``obs["section"]``, ``obsm["spatial"]`` in
        micrometres.
    interactions
        The truth.

    Examples
    --------
    >>> settings = SimulationSettings(n_cells=200, n_genes=20, n_cell_types=3, n_interactions=1)
    >>> tissue, (interaction,) = simulate_tissue(settings, seed=1)
    >>> tissue.shape
    (200, 20)
    >>> interaction.sender, len(interaction.genes), 20 <= interaction.length_scale <= 30
    ('type A', 10, True)
    """
    from anndata import AnnData

    s = settings
    place_rng, type_rng, truth_rng, count_rng = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)
    )
    width = len(str(s.n_cells - 1))
    types = [f"type {chr(ord('A') + t)}" if s.n_cell_types <= 26 else f"type {t}" for t in range(s.n_cell_types)]
    genes = [f"gene{g:0{len(str(s.n_genes - 1))}d}" for g in range(s.n_genes)]

    sections = np.sort(np.arange(s.n_cells) % s.n_sections)
    coordinates, in_region = _places(sections, s, place_rng)
    labels = _types(in_region, s, type_rng)
    interactions = _interactions(s, types, genes, truth_rng)
    rates = _rates(s, labels, count_rng)
    for interaction in interactions:
        affected = affected_receivers(interaction, np.array(types)[labels], coordinates, sections)
        raised = np.isin(genes, interaction.genes)
        rates[np.ix_(affected, raised)] *= 2.0**s.log2_fold_change
    counts = count_rng.poisson(rates).astype(np.float32)
    counts[counts.sum(axis=1) == 0, 0] = 1  # a cell without any count would have been filtered by anybody
    tissue = AnnData(
        X=sparse.csr_matrix(counts),
        obs=pd.DataFrame(
            {
                terms.DEFAULT_LABELS_KEY: pd.Categorical.from_codes(
                    cast("Sequence[int]", labels), categories=pd.Index(types)
                ),
                terms.SECTION: pd.Categorical([f"section {section + 1}" for section in sections]),
            },
            index=pd.Index([f"cell{cell:0{width}d}" for cell in range(s.n_cells)], dtype=object),
        ),
        var=pd.DataFrame(index=pd.Index(genes, dtype=object)),
        obsm={terms.SPATIAL: coordinates},
        uns={"units": "micrometre", "simulation": asdict(s) | {"seed": seed}},
    )
    return tissue, interactions


def affected_receivers(
    interaction: Interaction,
    cell_types: npt.NDArray[np.str_],
    coordinates: npt.NDArray[np.float64],
    sections: npt.NDArray[np.integer],
) -> npt.NDArray[np.intp]:
    """Return the rows of the receivers that have a sender within reach in their own section.

    Examples
    --------
    A sender (row 0), and receivers at distances of 3, 10 and 11:

    >>> import numpy as np
    >>> places = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 10.0], [11.0, 0.0]])
    >>> interaction = Interaction("B", "T", length_scale=10.0, genes=("IL7",))
    >>> affected_receivers(interaction, np.array(["B", "T", "T", "T"]), places, np.zeros(4, dtype=int)).tolist()
    [1, 2]
    """
    affected: list[npt.NDArray[np.intp]] = []
    for section in np.unique(sections):
        receivers = np.flatnonzero((sections == section) & (cell_types == interaction.receiver))
        senders = np.flatnonzero((sections == section) & (cell_types == interaction.sender))
        if len(receivers) and len(senders):
            nearest, _ = KDTree(coordinates[senders]).query(coordinates[receivers])
            affected.append(receivers[nearest <= interaction.length_scale])
    return np.concatenate(affected) if affected else np.empty(0, dtype=np.intp)


def _places(
    sections: npt.NDArray[np.intp], s: SimulationSettings, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return coordinates, (cell, 2), and whether a cell is in the part that has senders."""
    coordinates = np.empty((len(sections), 2))
    in_region = np.empty(len(sections), dtype=bool)
    for section in np.unique(sections):
        cells = np.flatnonzero(sections == section)
        # A jittered grid: cells take room, so they do not lie on top of each other.
        columns = int(np.ceil(np.sqrt(len(cells))))
        grid = np.stack(np.divmod(np.arange(len(cells)), columns)[::-1], axis=1).astype(float)
        coordinates[cells] = CELL_SPACING * (grid + 0.5 + rng.uniform(-0.45, 0.45, size=grid.shape))
        in_region[cells] = coordinates[cells, 0] < s.sender_region * columns * CELL_SPACING
    return coordinates, in_region


def _types(in_region: npt.NDArray[np.bool_], s: SimulationSettings, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Return labels: the first `n_interactions` types are senders, found in the region only."""
    n_others = s.n_cell_types - s.n_interactions
    labels = rng.integers(s.n_interactions, s.n_cell_types, size=len(in_region)) if n_others else np.zeros(0, dtype=int)
    draw = rng.uniform(size=len(in_region))
    sends = in_region & (draw < s.sender_share * s.n_interactions)
    labels[sends] = (draw[sends] / s.sender_share).astype(int)
    return labels


def _interactions(
    s: SimulationSettings, types: list[str], genes: list[str], rng: np.random.Generator
) -> list[Interaction]:
    others = types[s.n_interactions :]
    return [
        Interaction(
            sender=types[number],
            receiver=others[number % len(others)],
            length_scale=round(float(rng.uniform(s.length_scale_min, s.length_scale_max)), 1),
            genes=tuple(sorted(rng.choice(genes, size=s.genes_per_interaction, replace=False).tolist())),
        )
        for number in range(s.n_interactions)
    ]


def _rates(s: SimulationSettings, labels: npt.NDArray[np.intp], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return expected counts, (cell, gene): type profiles, times library size, times gamma noise per count."""
    base = rng.lognormal(0.0, 1.0, size=s.n_genes)
    profiles = base * rng.lognormal(0.0, 0.7, size=(s.n_cell_types, s.n_genes))
    profiles /= profiles.sum(axis=1, keepdims=True)
    library = s.mean_counts * rng.lognormal(-0.5 * 0.25**2, 0.25, size=len(labels))
    noise = rng.gamma(10.0, 1 / 10.0, size=(len(labels), s.n_genes))
    return np.asarray(profiles[labels] * library[:, None] * noise)


def truth_record(interactions: list[Interaction]) -> dict[str, Any]:
    """Return the interactions as plain data, for JSON."""
    return {"interactions": [{**asdict(i), "genes": list(i.genes)} for i in interactions]}


def interactions_from_record(record: object) -> list[Interaction]:
    """Return the interactions that :func:`truth_record` wrote, or somebody else in its way.

    Raises
    ------
    ResultError
        If the record is something else.
    """
    if not isinstance(record, dict) or not isinstance(record.get("interactions"), list):
        raise ResultError(
            'simulated_truth must be a JSON object {"interactions": [...]}. '
            f"Got {_shown(record)} instead; mend the file."
        )
    return [_interaction(number, entry) for number, entry in enumerate(record["interactions"])]


def _interaction(number: int, entry: Any) -> Interaction:
    expected: dict[str, type | tuple[type, ...]] = {
        "sender": str,
        "receiver": str,
        "length_scale": (int, float),
        "genes": list,
    }
    fits = (
        isinstance(entry, dict)
        and entry.keys() == expected.keys()
        and all(isinstance(entry[name], kind) for name, kind in expected.items())
        and is_number(entry["length_scale"])
        and entry["length_scale"] > 0
        and all(isinstance(gene, str) for gene in entry["genes"])
    )
    if not fits:
        raise ResultError(
            f"simulated_truth: interaction {number} must have sender and receiver (names of cell types), length_scale "
            f"(a positive number) and genes (a list of names). Got {_shown(entry)} instead; mend the file."
        )
    return Interaction(**{**entry, "genes": tuple(entry["genes"])})


def _shown(value: object, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"
