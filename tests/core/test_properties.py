"""What holds of any tissue: results are those of the plain formulas, and nothing depends on how they are computed.

Tissues are small and random, with rare types, sections of one type alone, cells at the same place, cells without any
expression, and more neighbors asked for than there are. What is checked is what the stages' own functions store.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.dataset as pads
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from naive import (
    TINY,
    Floats,
    Integers,
    Stored,
    brute_force_neighbors,
    made_tissue,
    naive_network,
    naive_norms,
    random_network,
)
from scipy.stats import spearmanr
from sklearn.metrics import silhouette_score

from tissue_crosstalk.core.clustering import cluster_rows
from tissue_crosstalk.core.errors import NeighborError
from tissue_crosstalk.core.extraction import TABLES, extract_tables
from tissue_crosstalk.core.files import Workspace
from tissue_crosstalk.core.flavoring import FLAVORED_ATTENTION, flavor_attention
from tissue_crosstalk.core.flavors import FLAVORS
from tissue_crosstalk.core.hubs import HubSettings, find_hubs
from tissue_crosstalk.core.model import CrosstalkModel, Preprocessing, TissueKeys
from tissue_crosstalk.core.model_input import store_for_model
from tissue_crosstalk.core.neighbors import find_neighbors
from tissue_crosstalk.core.shard_jobs import RunShards, ShardJob, run_here
from tissue_crosstalk.core.stored import Cells, read_shards
from tissue_crosstalk.core.stored_hubs import find_stored_hubs
from tissue_crosstalk.core.stored_profiles import AttentionProfiles, profile_stored_attention
from tissue_crosstalk.core.strong_edges import StrengthShard
from tissue_crosstalk.core.tissue_file import open_tissue

KEYS = TissueKeys(section_key="section")
N_GENES = 4
WEIGHTED = {"value-weighted": "value_norm", "info-weighted": "info_norm", "gene-weighted": "gene_norm"}
MAX_DISTANCE, BIN_SIZE, QUANTILE = 20.0, 5.0, 0.7
PROFILES = ("by_pair", "by_head", "by_cell", "head_profile", "flavor_agreement")


@dataclass(frozen=True, eq=False)
class Made:
    """A tissue in the order of its file, and what a model needs to know."""

    coordinates: Floats
    labels: Integers
    sections: Integers
    expression: Floats
    n_types: int
    n_neighbors: int
    n_heads: int
    seed: int

    @property
    def n_cells(self) -> int:
        return len(self.labels)

    @property
    def cell_types(self) -> tuple[str, ...]:
        return tuple("ABCDE"[: self.n_types])

    @property
    def section_names(self) -> tuple[str, ...]:
        return tuple(f"s{section}" for section in np.unique(self.sections))

    def model(self, order: Sequence[int] | None = None) -> CrosstalkModel:
        """Return a model of the types; with `order`, the same model with its types in another order."""
        network = random_network(N_GENES, self.n_types, replace(TINY, n_heads=self.n_heads), self.seed)
        types = self.cell_types
        if order is not None:
            with torch.no_grad():
                for name in ("ct_embed.weight", "ct_profiles"):
                    tensor = network.state_dict()[name]
                    tensor.copy_(tensor[list(order)].clone())
            types = tuple(types[label] for label in order)
        genes = tuple(f"gene{gene}" for gene in range(N_GENES))
        return CrosstalkModel(network, genes, types, KEYS, self.n_neighbors, Preprocessing(log_normalised=True))

    def adata(self, cells: Integers | None = None) -> ad.AnnData:
        """Return the file; with `cells`, of these in this order."""
        own = np.arange(self.n_cells) if cells is None else cells
        return ad.AnnData(
            X=self.expression[own].astype(np.float32),
            obs=pd.DataFrame(
                {
                    "cell_type": pd.Categorical([self.cell_types[label] for label in self.labels[own]]),
                    "section": pd.Categorical([f"s{section}" for section in self.sections[own]]),
                },
                index=[f"cell{cell:02d}" for cell in own],
            ),
            var=pd.DataFrame(index=[f"gene{gene}" for gene in range(N_GENES)]),
            obsm={"spatial": self.coordinates[own]},
        )


@st.composite
def made(draw: st.DrawFn, *, with_ties: bool = True) -> Made:
    """Draw a tissue: sizes one by one, numbers from a seed."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    n_cells = sum(sizes)
    seed = draw(st.integers(0, 2**20))
    n_sections = draw(st.integers(1, 3))
    generator = np.random.default_rng(seed)
    coordinates = generator.uniform(0, 30, (n_cells, draw(st.sampled_from([2, 2, 3]))))
    if with_ties and draw(st.booleans()):
        coordinates = np.round(coordinates / 10)  # on few places
    expression = generator.gamma(1.0, 1.0, (n_cells, N_GENES)) * (generator.random((n_cells, N_GENES)) < 0.6)
    expression[generator.random(n_cells) < draw(st.sampled_from([0.0, 0.2, 1.0]))] = 0  # cells without any
    expression[0, 0] = 0.5  # not of all
    labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    sections = generator.integers(0, n_sections, n_cells)
    assume(len({*zip(sections.tolist(), labels.tolist(), strict=True)}) > len({*sections.tolist()}))  # or it is refused
    return Made(
        coordinates,
        labels,
        sections,
        expression,
        len(sizes),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 4)),
        seed,
    )


# --- The stages' own functions


class Study(Stored):
    """Folders that are called as those of a study, by which a second run finds them."""

    @property
    def flavored(self) -> pads.Dataset:
        return self.open(FLAVORED_ATTENTION)


@contextmanager
def computed(
    case: Made,
    *,
    cells: Integers | None = None,
    model: CrosstalkModel | None = None,
    cells_per_shard: int = 7,
    runs: Sequence[RunShards] = (run_here,),
    file: Path | None = None,
) -> Iterator[Stored]:
    """Prepare a tissue, extract its attention and weigh it, as the stages do; the folders are there for a while.

    With several `runs`, one after the other; with `file`, the tissue is read from it.
    """
    model = model or case.model()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lie exactly where another cell does")
        warnings.filterwarnings("ignore", message="the nearest neighbor of a cell is")  # the model was not trained
        study = Workspace(Path(name))
        for run in runs:
            tissue = case.adata(cells) if file is None else open_tissue(file)
            prepared = store_for_model(tissue, model, study, pad_neighbors=True)
            prepared.move_to(study.place("model_input.h5ad"))
            folders = extract_tables(
                open_tissue(study.place("model_input.h5ad")),
                model,
                study,
                cells_per_shard=cells_per_shard,
                run=run,
                progress=False,
            )
            for table, folder in zip(TABLES, folders, strict=True):
                folder.move_to(study.place(table))
            stored = Study(study.folder, {})
            tables = stored.attention_patterns, stored.nn_idxs, stored.sender_norms, stored.cells
            flavor_attention(*tables, study, tuple(FLAVORS), run=run, progress=False).move_to(
                study.place(FLAVORED_ATTENTION)
            )
        yield stored


@dataclass(frozen=True, eq=False)
class Found:
    """What is stored of all cells, in the order of the file they came from."""

    cells: Cells
    attention: dict[str, npt.NDArray[np.float32]]
    """By flavor, (head, cell, neighbor)."""
    nn_idx: npt.NDArray[np.int32]
    nn_dist: npt.NDArray[np.float32]

    @classmethod
    def read(cls, stored: Stored) -> Found:
        cells = Cells.read(stored.cells)
        attention, nn_idx, nn_dist = {}, np.zeros(0), np.zeros(0)
        for flavor in FLAVORS:
            shards = list(read_shards(stored.flavored, stored.nn_idxs, cells, nn_dists=stored.nn_dists, flavor=flavor))
            back = np.argsort(np.concatenate([shard.receivers for shard in shards]))
            attention[flavor] = np.concatenate([shard.attention for shard in shards], axis=1)[:, back]
            nn_idx = np.concatenate([shard.nn_idx for shard in shards])[back]
            nn_dist = np.concatenate([shard.nn_dist for shard in shards])[back]
        return cls(cells, attention, nn_idx, nn_dist)

    def named(self) -> npt.NDArray[np.object_]:
        """Return the names of the neighbors, (cell, neighbor)."""
        return np.append(self.cells.names, "nobody")[self.nn_idx]

    def of(self, names: Sequence[str]) -> tuple[npt.NDArray[np.object_], Floats, dict[str, Floats]]:
        """Return names of and distances to neighbors, and attention, of cells given by name."""
        rows = pd.Index(self.cells.names).get_indexer(pd.Index(names))
        assert (rows >= 0).all()
        attention = {flavor: values[:, rows] for flavor, values in self.attention.items()}
        return self.named()[rows], self.nn_dist[rows], attention


def found(case: Made, **given: Any) -> Found:
    with computed(case, **given) as stored:
        return Found.read(stored)


def contents(stored: Stored) -> dict[str, bytes]:
    files = sorted(stored.folder.rglob("*.parquet"))
    return {file.relative_to(stored.folder).as_posix(): file.read_bytes() for file in files}


def assert_same(one: Found, other: Found, names: Sequence[str]) -> None:
    """Compare what is found of some cells; attention to 1e-6."""
    (named, dist, attention), (other_named, other_dist, other_attention) = one.of(names), other.of(names)
    np.testing.assert_array_equal(named, other_named)
    np.testing.assert_array_equal(dist, other_dist)
    for flavor in FLAVORS:
        np.testing.assert_allclose(attention[flavor], other_attention[flavor], rtol=1e-5, atol=1e-6, err_msg=flavor)


def profiles_of(stored: Stored, thresholds_per: Any = "all") -> AttentionProfiles:
    return profile_stored_attention(
        stored.attention_patterns,
        stored.flavored,
        stored.nn_idxs,
        stored.nn_dists,
        stored.cells,
        max_distance=MAX_DISTANCE,
        bin_size=BIN_SIZE,
        strong_quantile=QUANTILE,
        thresholds_per=thresholds_per,
    )


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Give torch, and what asks how many cores there are, so many threads."""
    before, variable = torch.get_num_threads(), os.environ.get("LOKY_MAX_CPU_COUNT")
    torch.set_num_threads(number)
    os.environ["LOKY_MAX_CPU_COUNT"] = str(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if variable is None:
            del os.environ["LOKY_MAX_CPU_COUNT"]
        else:
            os.environ["LOKY_MAX_CPU_COUNT"] = variable


# --- Neighbors, attention and flavors


def neighbors_are_those_of_all_pairs(case: Made) -> None:
    tissue = made_tissue(case.coordinates, case.labels, sections=case.sections)
    expected = brute_force_neighbors(tissue, case.n_neighbors)
    result = find_neighbors(tissue, case.n_neighbors, pad=True)
    np.testing.assert_array_equal(result.idx, expected.idx)
    np.testing.assert_allclose(result.dist, expected.dist, rtol=1e-6)
    if (expected.idx < 0).any():
        with pytest.raises(NeighborError, match="needs at least n_neighbors"):
            find_neighbors(tissue, case.n_neighbors)
    else:
        np.testing.assert_array_equal(find_neighbors(tissue, case.n_neighbors).idx, expected.idx)


def attention_is_that_of_the_formulas(case: Made, cells_per_shard: int) -> None:
    """Neighbors, patterns and all flavors, whatever the shards."""
    tissue = made_tissue(case.coordinates, case.labels, sections=case.sections)
    neighbors = brute_force_neighbors(tissue, case.n_neighbors)
    network = case.model().network
    expression = case.expression.astype(np.float32)
    expected = naive_network(network, expression, case.labels, neighbors.idx, neighbors.dist).patterns
    norms = naive_norms(network, expression)
    result = found(case, cells_per_shard=cells_per_shard)
    np.testing.assert_array_equal(result.nn_idx, neighbors.idx)
    np.testing.assert_allclose(result.nn_dist, neighbors.dist, rtol=1e-6)
    np.testing.assert_allclose(result.attention["vanilla"], expected, rtol=1e-4, atol=1e-5)
    assert (result.attention["vanilla"].sum(axis=2) < 1).all()
    for flavor, norm in WEIGHTED.items():
        weighted = expected * norms[norm].T[:, neighbors.idx]
        np.testing.assert_allclose(result.attention[flavor], weighted, rtol=1e-4, atol=1e-5, err_msg=flavor)
        assert (result.attention[flavor][:, neighbors.idx < 0] == 0).all()


def shards_do_not_matter(case: Made, cells_per_shard: int) -> None:
    whole = found(case, cells_per_shard=case.n_cells)
    assert_same(found(case, cells_per_shard=cells_per_shard), whole, whole.cells.names.tolist())


def threads_do_not_matter(case: Made) -> None:
    results = []
    for number in (1, 2):
        with threads(number):
            results.append(found(case))
    assert_same(*results, results[0].cells.names.tolist())


def a_rerun_and_the_order_of_shards_do_not_matter_to_the_bit(case: Made, seed: int) -> None:
    """Another run writes the same bytes, whatever order shards are done in; one in the same place does nothing."""

    def shuffled(job: ShardJob, numbers: Sequence[int]) -> Iterator[int]:
        return run_here(job, random.Random(seed).sample(list(numbers), len(numbers)))

    def nothing(job: ShardJob, numbers: Sequence[int]) -> Iterator[int]:
        assert not numbers
        return iter(())

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tissue.h5ad"
        case.adata().write_h5ad(file)
        with (
            computed(case, file=file) as one,
            computed(case, file=file, runs=(shuffled,)) as other,
            computed(case, file=file, runs=(run_here, nothing)) as again,
        ):
            expected = contents(one)
            assert len(expected) == (len(TABLES) + len(FLAVORS)) * -(-case.n_cells // 7)
            assert contents(other) == expected
            assert contents(again) == expected


def the_order_of_the_file_does_not_matter(case: Made, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(case.n_cells)
    one, other = found(case), found(case, cells=order)
    assert other.cells.names.tolist() == [f"cell{cell:02d}" for cell in order]
    assert_same(one, other, one.cells.names.tolist())


def sections_are_independent(case: Made) -> None:
    whole = found(case)
    for section in np.unique(case.sections):
        own = np.flatnonzero(case.sections == section)
        if len({*case.labels[own].tolist()}) < 2:  # alone, it would be refused
            continue
        alone = found(case, cells=own)
        assert_same(alone, whole, alone.cells.names.tolist())


def the_order_of_types_does_not_matter(case: Made, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(case.n_types).tolist()
    one, other = found(case), found(case, model=case.model(order))
    assert_same(one, other, one.cells.names.tolist())
    assert [other.cells.cell_types[label] for label in other.cells.labels] == [
        one.cells.cell_types[label] for label in one.cells.labels
    ]


# --- Hubs


def naive_thresholds(strength: Floats, groups: Sequence[Any]) -> dict[Any, float]:
    """Return the quantile of positive attention of each group of receivers; 0 where none is positive."""
    by_group: dict[Any, list[float]] = {group: [] for group in groups}
    for cell, group in enumerate(groups):
        by_group[group] += [float(value) for value in strength[cell] if value > 0]
    return {group: float(np.quantile(values, QUANTILE)) if values else 0.0 for group, values in by_group.items()}


def naive_composition(
    strength: Floats, nn_idx: Integers, labels: Integers, limits: Sequence[float], n_types: int
) -> Floats:
    shares = np.zeros((len(labels), n_types))
    for cell, slot in itertools.product(range(len(labels)), range(nn_idx.shape[1])):
        if nn_idx[cell, slot] >= 0 and strength[cell, slot] > limits[cell]:
            shares[cell, labels[nn_idx[cell, slot]]] += 1
    return np.array([row / row.sum() if row.sum() else row for row in shares])


def hubs_are_those_of_the_formulas(case: Made, per: str, flavor: str) -> None:
    """Thresholds, composition, and of the numbers of hubs the one with the highest silhouette."""
    given = HubSettings(QUANTILE, thresholds_per=per, stability_resamples=0)  # type: ignore[arg-type]
    with computed(case) as stored:
        result = Found.read(stored)
        cells = result.cells
        hubs = find_stored_hubs(stored.flavored, stored.nn_idxs, stored.nn_dists, cells, flavor, given)
    strength = result.attention[flavor].max(axis=0).astype(float)
    by_section = per == "section" and len(cells.section_names) > 1
    groups = [
        (cells.section_names[section] if by_section else "all sections", cells.cell_types[label])
        for section, label in zip(cells.sections, cells.labels, strict=True)
    ]
    thresholds = naive_thresholds(strength, groups)
    for (section, name), threshold in thresholds.items():
        assert hubs.thresholds[section][name] == pytest.approx(threshold, rel=1e-12)
    shares = naive_composition(
        strength, result.nn_idx, cells.labels, [thresholds[group] for group in groups], len(cells.cell_types)
    )
    np.testing.assert_allclose(hubs.composition, shares, rtol=1e-12, atol=1e-15)
    clustered = shares.sum(axis=1) > 0
    np.testing.assert_array_equal(hubs.cluster == -1, ~clustered)
    if clustered.any():
        check_choice(hubs.composition[clustered], hubs.cluster[clustered], hubs.centers, hubs.silhouette)


def check_choice(shares: Floats, cluster: Integers, centers: Floats, silhouette: Any) -> None:
    """Check which number was chosen, and that the silhouettes and centers are those of the clusters."""
    distinct = len(np.unique(shares, axis=0))
    numbers = [k for k in range(2, 13) if k <= distinct - 1]
    assert list(silhouette) == numbers
    sizes = np.bincount(cluster)
    assert (np.diff(sizes) <= 0).all()
    for hub, center in enumerate(centers):
        np.testing.assert_allclose(center, shares[cluster == hub].mean(axis=0), rtol=1e-9, atol=1e-12)
    if not numbers:
        assert set(cluster) == {0}
        return
    for k in numbers:
        of_k = cluster_rows(shares, k, 42)
        assert silhouette[k] == pytest.approx(silhouette_score(shares, of_k.cluster), rel=1e-6, abs=1e-9)
        if k == len(sizes):
            np.testing.assert_array_equal(of_k.cluster, cluster)
    best = max(silhouette.values())
    assert len(sizes) == min(k for k, value in silhouette.items() if value >= best - 1e-12)


@dataclass(frozen=True, eq=False)
class Weighed:
    """Attention of the cells of a tissue as the maximum over heads, of numbers that often come twice."""

    labels: Integers
    sections: Integers
    nn_idx: npt.NDArray[np.int32]
    strength: npt.NDArray[np.float32]
    n_types: int

    @classmethod
    def of(cls, seed: int, n_cells: int, n_types: int, n_neighbors: int, n_values: int) -> Weighed:
        generator = np.random.default_rng(seed)
        nn_idx = generator.integers(-1, n_cells, (n_cells, n_neighbors)).astype(np.int32)
        strength = generator.integers(0, n_values, nn_idx.shape).astype(np.float32) / np.float32(n_values)
        strength[nn_idx < 0] = 0
        labels, sections = generator.integers(0, n_types, n_cells), generator.integers(0, 2, n_cells)
        return cls(labels, sections, nn_idx, strength, n_types)

    def hubs(self, order: Integers | None = None, cells_per_shard: int = 10**6, **given: Any) -> Any:
        """Find the hubs; with `order`, of receivers that come in it."""
        own = np.arange(len(self.labels)) if order is None else order
        shards = [
            StrengthShard(part, self.strength[part], self.nn_idx[part])
            for part in np.split(own, range(cells_per_shard, len(own), cells_per_shard))
        ]
        found_hubs = find_hubs(
            shards,
            self.labels,
            tuple("ABCDE"[: self.n_types]),
            HubSettings(**{"attention_quantile_threshold": QUANTILE, "stability_resamples": 2} | given),
            sections=self.sections,
            section_names=("s0", "s1"),
        )
        back = np.argsort(own)
        return replace(
            found_hubs, counts=found_hubs.counts.ordered(back), cluster=found_hubs.cluster[back]
        )  # in the order of the tissue


weighed = st.builds(
    Weighed.of,
    seed=st.integers(0, 2**20),
    n_cells=st.integers(1, 60),
    n_types=st.integers(1, 4),
    n_neighbors=st.integers(1, 6),
    n_values=st.sampled_from([2, 5, 1000]),
)
hub_settings = st.fixed_dictionaries(
    {
        "thresholds_per": st.sampled_from(["all", "section"]),
        "counting": st.sampled_from(["edges", "in_degree"]),
        "isolated": st.sampled_from(["separate", "cluster"]),
        "choose_by": st.sampled_from(["silhouette", "stability"]),
    }
)


def assert_same_hubs(one: Any, other: Any) -> None:
    """Compare hubs to the bit."""
    np.testing.assert_array_equal(one.cluster, other.cluster)
    np.testing.assert_array_equal(one.composition, other.composition)
    np.testing.assert_array_equal(one.centers, other.centers)
    assert one.thresholds == other.thresholds
    assert one.silhouette == other.silhouette
    pd.testing.assert_frame_equal(one.stability, other.stability, check_exact=True)
    for name, values in vars(one.counts).items():
        np.testing.assert_array_equal(values, getattr(other.counts, name))


def hubs_do_not_depend_on_how_they_are_read(
    case: Weighed, given: dict[str, Any], seed: int, cells_per_shard: int
) -> None:
    """Order of shards and cells, size of shards, threads: all the same to the bit."""
    expected = case.hubs(**given)
    order = np.random.default_rng(seed).permutation(len(case.labels))
    for number in (1, 2):
        with threads(number):
            assert_same_hubs(case.hubs(order, cells_per_shard, **given), expected)


def hubs_do_not_depend_on_the_order_of_cells(case: Weighed, given: dict[str, Any], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(case.labels))
    place = np.append(np.argsort(order), -1).astype(np.int32)
    moved = Weighed(
        case.labels[order], case.sections[order], place[case.nn_idx[order]], case.strength[order], case.n_types
    )
    expected, result = case.hubs(**given), moved.hubs(**given)
    np.testing.assert_array_equal(result.cluster, expected.cluster[order])
    np.testing.assert_array_equal(result.composition, expected.composition[order])
    assert result.thresholds == expected.thresholds
    assert result.silhouette == expected.silhouette


def other_numbers_of_types_permute_hubs(case: Weighed, given: dict[str, Any], seed: int) -> None:
    """Thresholds and compositions; which clustering of them is found may depend on the order of the columns."""
    number = np.random.default_rng(seed).permutation(case.n_types)  # new number of each type
    moved = replace(case, labels=number[case.labels])
    given = given | {"n_clusters": 1}
    expected, result = case.hubs(**given), moved.hubs(**given)
    np.testing.assert_allclose(result.composition[:, number], expected.composition, rtol=1e-12)
    np.testing.assert_array_equal(result.cluster, expected.cluster)
    for section, of_types in expected.thresholds.items():
        for label, new in enumerate(number):
            assert result.thresholds[section]["ABCDE"[new]] == of_types["ABCDE"[label]]


# --- Profiles


def edges_of(result: Found, flavor: str) -> pd.DataFrame:
    """Return a row per head and edge."""
    cells = result.cells
    n_cells, n_neighbors = result.nn_idx.shape
    rows = [
        (head, cell, result.nn_idx[cell, slot], float(result.nn_dist[cell, slot]), attention, strongest)
        for cell, slot in itertools.product(range(n_cells), range(n_neighbors))
        if result.nn_idx[cell, slot] >= 0
        for strongest in [float(result.attention[flavor][:, cell, slot].max())]
        for head, attention in enumerate(map(float, result.attention[flavor][:, cell, slot]))
    ]
    columns = ["head_idx", "cell", "neighbor", "distance", "attention", "strongest"]
    edges = pd.DataFrame(rows, columns=columns).astype({"head_idx": int, "cell": int, "neighbor": int})
    names = np.array(cells.cell_types, dtype=object)
    edges["receiver"] = names[cells.labels[edges["cell"].to_numpy()]]
    edges["sender"] = names[cells.labels[edges["neighbor"].to_numpy()]]
    edges["section"] = cells.sections[edges["cell"].to_numpy()]
    return edges


def compare(table: pd.DataFrame, expected: pd.DataFrame, keys: list[str], what: str) -> None:
    """Compare columns of two tables, whatever the order of their rows."""
    plain = table[list(expected.columns)].astype({key: object for key in keys if table[key].dtype == "category"})
    pd.testing.assert_frame_equal(
        plain.sort_values(keys, ignore_index=True),
        expected.astype({key: plain[key].dtype for key in keys}).sort_values(keys, ignore_index=True),
        check_dtype=False,
        rtol=2e-5,
        atol=1e-7,
        obj=what,
    )


def profiles_are_those_of_an_edge_table(case: Made, per: str) -> None:
    """Pairs, heads, cells, bins and agreement of flavors, from a table of all edges."""
    with computed(case) as stored:
        result, profiles = Found.read(stored), profiles_of(stored, per)
    by_flavor = {flavor: edges_of(result, flavor) for flavor in FLAVORS}
    assume(len(by_flavor["vanilla"]) > 0)
    groups = ["receiver", "section"] if per == "section" else ["receiver"]
    for flavor, edges in by_flavor.items():
        by_head = edges.groupby(["receiver", "head_idx", "sender"])["attention"]
        expected = by_head.agg(["mean", "std", "size"]).reset_index().rename(columns={"std": "sd", "size": "count"})
        keys = ["receiver", "head_idx", "sender"]
        compare(profiles.by_head[profiles.by_head["flavor"] == flavor], expected, keys, f"{flavor} by head")

        once = edges[edges["head_idx"] == 0].copy()
        positive = once[once["strongest"] > 0]
        thresholds = positive.groupby(groups)["strongest"].quantile(QUANTILE).rename("threshold")
        once = once.merge(thresholds, how="left", left_on=groups, right_index=True).fillna({"threshold": 0.0})
        once["is_strong"] = once["strongest"] > once["threshold"]
        pairs = once.groupby(["receiver", "sender"]).agg(edges=("cell", "size"), strong_edges=("is_strong", "sum"))
        pairs["mean"] = edges.groupby(["receiver", "sender"])["attention"].mean()
        pairs["strong_share"] = pairs["strong_edges"] / pairs["edges"]
        pairs = pairs.reset_index()
        names = np.array(case.cell_types)[case.labels].tolist()
        pairs["receivers"] = [names.count(receiver) for receiver in pairs["receiver"]]
        by_pair = profiles.by_pair[profiles.by_pair["flavor"] == flavor]
        compare(by_pair, pairs, ["receiver", "sender"], f"{flavor} by pair")

        for what, end in (("received", "cell"), ("sent", "neighbor")):
            sums = np.zeros(case.n_cells)
            np.add.at(sums, edges[end], edges["attention"] / case.n_heads)
            np.testing.assert_allclose(profiles.by_cell[f"{what}_{flavor}"], sums, rtol=2e-5, atol=1e-7)

        near = edges[(edges["distance"] < MAX_DISTANCE)].copy()
        near["distance_bin"] = np.floor(near["distance"] / BIN_SIZE) * BIN_SIZE
        keys = ["receiver", "head_idx", "sender", "distance_bin"]
        bins = near.groupby(keys)["attention"].agg(["mean", "std", "size"]).reset_index()
        bins = bins.rename(columns={"std": "sd", "size": "count"})
        n_heads = case.n_heads
        compare(profiles.distance_bins[flavor].table(0), bins, keys, f"{flavor} bins")
        kept = bins[bins["count"] * n_heads >= 5]
        compare(profiles.distance_bins[flavor].table(5), kept, keys, f"{flavor} bins of 5 edges")
        elsewhere = edges[(edges["head_idx"] == 0) & (edges["distance"] >= MAX_DISTANCE)]["receiver"].tolist()
        assert profiles.distance_bins[flavor].elsewhere() == {name: elsewhere.count(name) for name in case.cell_types}

    check_heads(profiles.head_profile, by_flavor["vanilla"], case.n_heads)
    check_agreement(profiles.flavor_agreement, by_flavor)


def check_heads(table: pd.DataFrame, edges: pd.DataFrame, n_heads: int) -> None:
    """Compare share of the dummy slot, entropy and evenness with those of each cell."""
    cells = []
    for (receiver, head, _), shares in edges.groupby(["receiver", "head_idx", "cell"])["attention"]:
        dummy = 1 - shares.sum()
        entropy = -sum(share * math.log(share) for share in [*shares, dummy] if share > 0)
        cells.append((head, receiver, dummy, entropy, entropy / math.log(1 + len(shares))))
    columns = ["head_idx", "receiver", "dummy_share", "entropy", "evenness"]
    by_cell = pd.DataFrame(cells, columns=columns).groupby(["head_idx", "receiver"])
    expected = by_cell.mean()
    expected["cells"] = by_cell.size()
    compare(table, expected.reset_index(), ["head_idx", "receiver"], "heads")


def check_agreement(table: pd.DataFrame, by_flavor: dict[str, pd.DataFrame]) -> None:
    """Compare rank correlations with scipy's, where there are enough edges that differ."""
    for row in table.to_dict("records"):
        first, other = (
            edges[
                (edges["head_idx"] == 0) & ((edges["receiver"] == row["receiver"]) | (row["receiver"] == "all types"))
            ]
            for edges in (by_flavor[row["flavor"]], by_flavor[row["other"]])
        )
        assert row["edges"] == len(first)
        values = first["strongest"].to_numpy(), other["strongest"].to_numpy()
        if len(first) < 3 or any(len(set(value)) == 1 for value in values):
            assert math.isnan(row["spearman"])
        else:
            assert row["spearman"] == pytest.approx(spearmanr(*values).statistic, abs=1e-9)


def profiles_do_not_depend_on_threads_to_the_bit(case: Made) -> None:
    with computed(case, cells_per_shard=4) as stored:
        results = []
        for number in (1, 2):
            with threads(number):
                results.append(profiles_of(stored))
    one, other = results
    for name in PROFILES:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)
    for flavor, bins in one.distance_bins.items():
        pd.testing.assert_frame_equal(bins.table(0), other.distance_bins[flavor].table(0), check_exact=True)


# --- All of them


@dataclass(frozen=True)
class Property:
    """What holds, of what, and how many examples of it are looked at: always, and where there is time."""

    check: Callable[..., None]
    of: dict[str, st.SearchStrategy[Any]]
    n_examples: int
    n_slow: int


SEEDS = st.integers(0, 2**20)
SHARDS = st.integers(1, 40)
UNTIED = made(with_ties=False)
PROPERTIES = {
    one.check.__name__: one
    for one in (
        Property(neighbors_are_those_of_all_pairs, {"case": made()}, 40, 1000),
        Property(attention_is_that_of_the_formulas, {"case": made(), "cells_per_shard": SHARDS}, 8, 150),
        Property(shards_do_not_matter, {"case": made(), "cells_per_shard": SHARDS}, 5, 150),
        Property(threads_do_not_matter, {"case": made()}, 4, 100),
        Property(a_rerun_and_the_order_of_shards_do_not_matter_to_the_bit, {"case": made(), "seed": SEEDS}, 3, 60),
        Property(the_order_of_the_file_does_not_matter, {"case": UNTIED, "seed": SEEDS}, 4, 150),
        Property(sections_are_independent, {"case": made()}, 3, 100),
        Property(the_order_of_types_does_not_matter, {"case": made(), "seed": SEEDS}, 4, 150),
        Property(
            hubs_are_those_of_the_formulas,
            {"case": made(), "per": st.sampled_from(["all", "section"]), "flavor": st.sampled_from(list(FLAVORS))},
            3,
            60,
        ),
        Property(
            hubs_do_not_depend_on_how_they_are_read,
            {"case": weighed, "given": hub_settings, "seed": SEEDS, "cells_per_shard": SHARDS},
            3,
            40,
        ),
        Property(
            hubs_do_not_depend_on_the_order_of_cells, {"case": weighed, "given": hub_settings, "seed": SEEDS}, 3, 60
        ),
        Property(other_numbers_of_types_permute_hubs, {"case": weighed, "given": hub_settings, "seed": SEEDS}, 10, 200),
        Property(
            profiles_are_those_of_an_edge_table,
            {"case": made(), "per": st.sampled_from(["all", "section"])},
            3,
            100,
        ),
        Property(profiles_do_not_depend_on_threads_to_the_bit, {"case": made()}, 3, 60),
    )
}


def look_at(one: Property, n_examples: int, **given_settings: Any) -> None:
    """Check a property of so many examples, the same ones every time unless told otherwise."""
    # Examples are small as they are drawn: to look for smaller ones takes minutes where a whole study is one.
    wanted = {"derandomize": True, "database": None, "phases": [Phase.generate]} | given_settings

    @settings(max_examples=n_examples, deadline=None, suppress_health_check=list(HealthCheck), **wanted)
    @given(**one.of)
    @functools.wraps(one.check)
    def of_examples(**drawn: Any) -> None:
        one.check(**drawn)

    of_examples()


@pytest.mark.parametrize("name", PROPERTIES)
def test_property(name: str) -> None:
    look_at(PROPERTIES[name], max(PROPERTIES[name].n_examples // 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPERTIES)
def test_property_of_many(name: str) -> None:
    look_at(PROPERTIES[name], max(PROPERTIES[name].n_slow // 6, 10))
