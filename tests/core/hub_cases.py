"""Little tissues with attention, for the tests of hubs; and hubs made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tissue_crosstalk.core.hubs import Hubs, HubSettings, find_hubs
from tissue_crosstalk.core.stored import Cells
from tissue_crosstalk.core.strong_edges import NeighborCounts, StrengthShard

TYPES = ("A", "B", "C")


@dataclass(frozen=True, eq=False)
class Case:
    """The cells of a tissue, and the attention of some or all of them."""

    cells: Cells
    shard: StrengthShard

    def hubs(self, **settings: object) -> Hubs:
        """Return the hubs, three of them and without resamples unless told otherwise."""
        given = {"n_clusters": 3, "stability_resamples": 0, "attention_quantile_threshold": 0.7} | settings
        return find_hubs(
            [self.shard],
            self.cells.labels,
            self.cells.cell_types,
            HubSettings(**given),  # type: ignore[arg-type]
            sections=self.cells.sections,
            section_names=self.cells.section_names,
        )

    def of_receivers(self, chosen: np.ndarray) -> Case:
        """Return the same tissue with the attention of some of the receivers, in the order given."""
        parts = {name: None if array is None else array[chosen] for name, array in vars(self.shard).items()}
        return replace(self, shard=StrengthShard(**parts))  # type: ignore[arg-type]

    def in_order(self, order: np.ndarray) -> Case:
        """Return the tissue with its cells in another order."""
        place = np.argsort(order).astype(np.int32)  # where each cell went
        nn_idx = np.where(self.shard.nn_idx < 0, -1, place[self.shard.nn_idx]).astype(np.int32)
        parts = {name: getattr(self.cells, name)[order] for name in ("names", "labels", "sections", "coordinates")}
        moved = replace(self.shard, receivers=place[self.shard.receivers].astype(np.int64), nn_idx=nn_idx)
        return Case(replace(self.cells, **parts), moved).of_receivers(np.argsort(moved.receivers))


def made_cells(
    labels: Sequence[int] | np.ndarray,
    sections: Sequence[int] | np.ndarray | None = None,
    *,
    cell_types: tuple[str, ...] = TYPES,
    section_names: tuple[str, ...] | None = None,
) -> Cells:
    """Return cells named c0, c1, ..., in sections s0, s1, ... unless told otherwise."""
    n_cells = len(labels)
    of_cell = np.zeros(n_cells, dtype=np.int32) if sections is None else np.asarray(sections, dtype=np.int32)
    return Cells(
        names=np.array([f"c{number}" for number in range(n_cells)], dtype=object),
        labels=np.asarray(labels, dtype=np.int16),
        cell_types=cell_types,
        sections=of_cell,
        section_names=section_names or tuple(f"s{number}" for number in range(int(of_cell.max()) + 1)),
        coordinates=np.zeros((n_cells, 2)),
    )


def random_case(
    seed: int, n_cells: int = 200, n_neighbors: int = 8, *, n_sections: int = 2, padded: float = 0.1
) -> Case:
    """Return random types, neighbors and attention: nothing has to do with anything else."""
    generator = np.random.default_rng(seed)
    cells = made_cells(generator.integers(0, len(TYPES), n_cells), generator.integers(0, n_sections, n_cells))
    nn_idx = generator.integers(0, n_cells, (n_cells, n_neighbors)).astype(np.int32)
    nn_idx[generator.random(nn_idx.shape) < padded] = -1
    strength = generator.exponential(0.1, nn_idx.shape).astype(np.float32)
    strength[nn_idx < 0] = 0
    nn_dist = np.where(nn_idx < 0, np.inf, np.sort(generator.random(nn_idx.shape), axis=1)).astype(np.float32)
    return Case(cells, StrengthShard(np.arange(n_cells), strength, nn_idx, nn_dist))


def with_strength(case: Case, strength: np.ndarray) -> Case:
    """Return the case with other attention; of padded slots it is 0."""
    given = np.where(case.shard.nn_idx < 0, 0, strength).astype(np.float32)
    return replace(case, shard=replace(case.shard, strength=given))


def hubs_by_hand(
    cluster: Sequence[int] | np.ndarray,
    strong: np.ndarray | None = None,
    at_hand: np.ndarray | None = None,
    *,
    centers: np.ndarray | None = None,
    receivers: Sequence[int] | np.ndarray | None = None,
    cell_types: tuple[str, ...] = TYPES,
) -> Hubs:
    """Return hubs of cells whose neighbors are given.

    `strong` and `at_hand` are (cell, half, type), or (cell, type) where all is in the second half; without any, every
    cell has one strong neighbor of the first type, and no other neighbor.
    """
    hub = np.asarray(cluster, dtype=np.int32)
    if strong is None:
        strong = np.eye(len(cell_types))[np.zeros(len(hub), dtype=int)]
    if strong.ndim == 2:
        strong = np.stack([np.zeros_like(strong), strong], axis=1)
    if at_hand is None:
        at_hand = strong
    if at_hand.ndim == 2:
        at_hand = np.stack([np.zeros_like(at_hand), at_hand], axis=1)
    known = np.zeros(len(hub), dtype=np.float32)
    total = strong.sum(axis=(1, 2))[:, None]
    counts = NeighborCounts(
        receivers=np.arange(len(hub)) if receivers is None else np.asarray(receivers),
        at_hand=at_hand.astype(np.uint16),
        strong=strong.astype(np.uint16),
        shares=strong.sum(axis=1) / np.maximum(total, 1),
        strongest=known,
        nearest=known,
        mean_distance=known,
    )
    return Hubs(
        cell_types=cell_types,
        counts=counts,
        cluster=hub,
        centers=np.zeros((int(hub.max()) + 1, len(cell_types))) if centers is None else centers,
        thresholds={},
        silhouette={},
        stability=None,  # type: ignore[arg-type]  # nothing here reads it
        chosen_by="given",
    )
