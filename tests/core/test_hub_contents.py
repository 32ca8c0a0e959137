"""What is in a hub: shares, markers and contrasts by hand and in loops; conditions against all arrangements."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import sparse_dataset, write_elem
from hub_cases import TYPES, Case, hubs_by_hand, made_cells, random_case, with_strength
from scipy import sparse, stats

from tissue_crosstalk.core.errors import ParameterError, TissueError
from tissue_crosstalk.core.hub_contents import (
    compare_conditions,
    contrast_receivers,
    find_markers,
    section_conditions,
    share_by_section,
    share_hubs,
)
from tissue_crosstalk.core.hubs import ISOLATED, Hubs
from tissue_crosstalk.core.stored import Cells

GENES = tuple(f"g{number}" for number in range(6))


# --- Shares


def test_shares_by_hand() -> None:
    """Seven cells of two sections; section s1 has no cell of C, and nobody is in hub 2."""
    cells = made_cells([0, 0, 1, 2, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1])
    hubs = hubs_by_hand([0, 1, 0, ISOLATED, 0, 0, 1], centers=np.zeros((3, 3)))
    table = share_hubs(hubs, cells).set_index(["hub", "cell_type", "section"])
    assert len(table) == 4 * 5
    assert ("C", "s1") not in {key[1:] for key in table.index}
    assert table.loc[(0, "A", "s0")].tolist() == [1, 1 / 4, 1 / 2]
    assert table.loc[(0, "B", "s1")].tolist() == [1, 1 / 4, 1 / 2]
    assert table.loc[(0, "A", "s1")].tolist() == [1, 1 / 4, 1]
    assert table.loc[(1, "B", "s0")].tolist() == [0, 0, 0]
    assert table.loc[(1, "B", "s1")].tolist() == [1, 1 / 2, 1 / 2]
    assert table.loc[(ISOLATED, "C", "s0")].tolist() == [1, 1, 1]
    assert (table.loc[2] == 0).all(axis=None)


@pytest.mark.parametrize("isolated", ["separate", "cluster"])
def test_shares_sum_to_one(isolated: str) -> None:
    case = random_case(1)
    hubs = case.hubs(isolated=isolated)
    table = share_hubs(hubs, case.cells)
    numbers = [0, 1, 2] if isolated == "cluster" else [ISOLATED, 0, 1, 2]
    of_hub = table.groupby("hub")["share_of_hub"].sum()
    assert of_hub.index.tolist() == numbers
    np.testing.assert_allclose(of_hub, 1)
    of_type = table.groupby(["cell_type", "section"], observed=True)["share_of_type"].sum()
    assert len(of_type) == 3 * 2
    np.testing.assert_allclose(of_type, 1)
    assert table["cells"].sum() == 200


def test_shares_equal_loops() -> None:
    """Of some of the cells."""
    case = random_case(2).of_receivers(np.arange(0, 200, 3))
    hubs, receivers = case.hubs(), case.shard.receivers
    labels, sections = case.cells.labels[receivers], case.cells.sections[receivers]
    for row in share_hubs(hubs, case.cells).itertuples():
        of_type = (labels == TYPES.index(row.cell_type)) & (sections == int(row.section[1:]))
        of_hub = hubs.cluster == row.hub
        assert row.cells == (of_type & of_hub).sum()
        assert row.share_of_hub == row.cells / of_hub.sum()
        assert row.share_of_type == row.cells / of_type.sum()


def test_a_tissue_without_sections_has_one_without_a_name() -> None:
    cells = made_cells([0, 1, 1], section_names=("",))
    table = share_hubs(hubs_by_hand([0, 0, 1]), cells)
    assert table["section"].tolist() == [""] * 4
    assert table["cells"].tolist() == [1, 1, 0, 1]
    by_section = share_by_section(hubs_by_hand([0, 0, 1]), cells)
    assert by_section["share"].tolist() == [2 / 3, 1 / 3]
    assert by_section["condition"].isna().all()


def test_shares_by_section_by_hand() -> None:
    """A third section has no receiver; the second no condition."""
    cells = made_cells([0, 1, 2, 0, 1, 1], [0, 0, 0, 0, 1, 2])
    hubs = hubs_by_hand([0, 0, 1, ISOLATED, 1], receivers=[0, 1, 2, 3, 4])
    table = share_by_section(hubs, cells, {"s0": "old", "s2": "young"})
    assert table.columns.tolist() == ["section", "condition", "hub", "cells", "share"]
    assert table["section"].tolist() == ["s0"] * 3 + ["s1"] * 3
    assert table["hub"].tolist() == [ISOLATED, 0, 1] * 2
    assert table["cells"].tolist() == [1, 2, 1, 0, 0, 1]
    assert table["share"].tolist() == [1 / 4, 1 / 2, 1 / 4, 0, 0, 1]
    assert table["condition"].tolist() == ["old"] * 3 + [None] * 3


# --- Markers


def marker_case(seed: int, n_cells: int = 120) -> tuple[Hubs, Cells, np.ndarray]:
    """Return hubs (three, and no hub) that have nothing to do with types, sections or expression (cell, gene)."""
    generator = np.random.default_rng(seed)
    cells = made_cells(generator.integers(0, 3, n_cells), generator.integers(0, 2, n_cells))
    counts = generator.poisson(generator.uniform(0.2, 3, len(GENES)), (n_cells, len(GENES)))
    return hubs_by_hand(generator.integers(-1, 3, n_cells)), cells, np.log1p(counts * generator.uniform(0.5, 2))


def markers_of(hubs: Hubs, cells: Cells, expression: np.ndarray, **options: object) -> pd.DataFrame:
    matrix = sparse.csr_matrix(expression)
    return find_markers(hubs, cells, matrix, GENES[: expression.shape[1]], **{"min_cells": 2, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(2))
def test_markers_equal_loops(seed: int) -> None:
    """Means, shares and fold changes over all cells of a type; pairs of cells within sections."""
    hubs, cells, expression = marker_case(seed)
    table = markers_of(hubs, cells, expression)
    assert len(table) == 3 * 3 * len(GENES)
    for row in table.itertuples():
        gene = expression[:, GENES.index(row.gene)]
        of_type = cells.labels == TYPES.index(row.cell_type)
        inside, outside = of_type & (hubs.cluster == row.hub), of_type & (hubs.cluster != row.hub)
        assert (row.cells_inside, row.cells_outside) == (inside.sum(), outside.sum())
        assert row.mean_inside == pytest.approx(np.mean([gene[cell] for cell in np.flatnonzero(inside)]))
        assert row.mean_outside == pytest.approx(np.mean([gene[cell] for cell in np.flatnonzero(outside)]))
        assert row.expressing_inside == sum(gene[inside] > 0) / inside.sum()
        assert row.expressing_outside == sum(gene[outside] > 0) / outside.sum()
        linear = [np.mean([np.exp(value) - 1 for value in gene[cells_]]) + 1e-9 for cells_ in (inside, outside)]
        assert row.log2_fold_change == pytest.approx(np.log2(linear[0] / linear[1]), rel=1e-6, abs=1e-9)
        higher = [
            float(gene[one] > gene[other]) + float(gene[one] == gene[other]) / 2
            for one, other in itertools.product(np.flatnonzero(inside), np.flatnonzero(outside))
            if cells.sections[one] == cells.sections[other]
        ]
        assert row.roc_auc == pytest.approx(np.mean(higher))
    np.testing.assert_allclose(table["q_value"], stats.false_discovery_control(table["p_value"]), rtol=1e-12)


def test_markers_of_one_section_equal_scipy() -> None:
    hubs, cells, expression = marker_case(3)
    cells = made_cells(cells.labels)
    for row in markers_of(hubs, cells, expression).itertuples():
        gene, of_type = expression[:, GENES.index(row.gene)], cells.labels == TYPES.index(row.cell_type)
        inside = hubs.cluster == row.hub
        expected = stats.mannwhitneyu(gene[of_type & inside], gene[of_type & ~inside], method="asymptotic")
        assert row.p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_fold_change_by_hand() -> None:
    """Counts 3 and 1 against 1 and 0: means 2 and 0.5. Of a gene that is nowhere, 0; outside only, finite."""
    counts = np.array([[3.0, 0, 0], [1, 0, 0], [1, 0, 2], [0, 0, 2]])
    table = markers_of(hubs_by_hand([0, 0, ISOLATED, ISOLATED]), made_cells([0] * 4), np.log1p(counts), min_cells=1)
    np.testing.assert_allclose(table["log2_fold_change"], [2, 0, np.log2(1e-9 / 2)], rtol=1e-6)
    assert table["expressing_inside"].tolist() == [1, 0, 0]
    assert table["expressing_outside"].tolist() == [0.5, 0, 1]


def test_a_planted_gene_comes_first() -> None:
    """In hub 1 the cells of type A have more of g2."""
    hubs, cells, expression = marker_case(4, n_cells=300)
    planted = (hubs.cluster == 1) & (cells.labels == 0)
    expression[planted, 2] += 1.5
    table = markers_of(hubs, cells, expression)
    first = table.sort_values("p_value").iloc[0]
    assert (first["hub"], first["cell_type"], first["gene"]) == (1, "A", "g2")
    assert first["q_value"] < 1e-4
    assert first["log2_fold_change"] > 0.5
    assert first["roc_auc"] > 0.8
    others = table[(table["cell_type"] != "A") | (table["gene"] != "g2")]
    assert others["q_value"].min() > 0.05


def test_a_gene_of_a_section_is_no_marker() -> None:
    """Hub 0 is mostly in section 0, where the gene is higher in all cells: within sections nothing differs."""
    generator = np.random.default_rng(5)
    sections = np.repeat([0, 1], 150)
    cluster = np.where(generator.random(300) < np.where(sections == 0, 0.8, 0.2), 0, 1)
    expression = (generator.gamma(2, 0.2, 300) + 2 * (sections == 0))[:, None]
    hubs, labels = hubs_by_hand(cluster), np.zeros(300, dtype=int)
    within = markers_of(hubs, made_cells(labels, sections), expression)
    across = markers_of(hubs, made_cells(labels), expression)
    assert (within["p_value"] > 0.1).all()
    assert (within["roc_auc"] - 0.5).abs().max() < 0.1
    assert (across["p_value"] < 1e-10).all()


def test_rows_may_be_in_another_order() -> None:
    """Of a larger matrix, too."""
    hubs, cells, expression = marker_case(6)
    rows = np.random.default_rng(7).permutation(150)[:120]
    stored = np.full((150, len(GENES)), 9.0)
    stored[rows] = expression
    pd.testing.assert_frame_equal(
        markers_of(hubs, cells, expression), markers_of(hubs, cells, stored, rows=rows), check_exact=True
    )


def test_markers_of_some_receivers() -> None:
    """The other cells are neither inside nor outside: as if they did not exist."""
    hubs, cells, expression = marker_case(8)
    receivers = np.sort(np.random.default_rng(9).permutation(120)[:70])
    some = hubs_by_hand(hubs.cluster[receivers], receivers=receivers)
    alone = made_cells(cells.labels[receivers], cells.sections[receivers])
    known = markers_of(hubs_by_hand(hubs.cluster[receivers]), alone, expression[receivers])
    pd.testing.assert_frame_equal(markers_of(some, cells, expression), known, check_exact=True)
    rows = np.random.default_rng(10).permutation(120)
    stored = np.zeros_like(expression)
    stored[rows] = expression
    pd.testing.assert_frame_equal(markers_of(some, cells, stored, rows=rows), known, check_exact=True)


@pytest.mark.parametrize(
    ("min_cells", "kept"),
    [
        (1, [(0, "A"), (1, "A"), (2, "A"), (0, "B"), (1, "B")]),
        (2, [(0, "A"), (1, "A"), (0, "B"), (1, "B")]),
        (3, [(0, "A"), (1, "A")]),
        (4, [(0, "A")]),
        (6, []),
    ],
)
def test_small_groups_are_not_compared(min_cells: int, kept: list[tuple[int, str]]) -> None:
    """Of A, 5 cells are in hub 0, 3 in hub 1 and 1 in hub 2; of B, 2 in hub 0 and 3 in hub 1; C is all in hub 0."""
    labels = [0] * 9 + [1] * 5 + [2] * 9
    hubs = hubs_by_hand([0] * 5 + [1] * 3 + [2] + [0, 0, 1, 1, 1] + [0] * 9)
    expression = np.log1p(np.random.default_rng(11).poisson(1, (23, 2)))
    table = markers_of(hubs, made_cells(labels), expression, min_cells=min_cells)
    pairs = list(dict.fromkeys(zip(table["hub"].tolist(), table["cell_type"].tolist(), strict=True)))
    assert pairs == kept
    assert len(table) == 2 * len(kept)


@pytest.mark.parametrize("min_cells", [0, -1, 2.5, True])
def test_min_cells_is_a_whole_number(min_cells: object) -> None:
    hubs, cells, expression = marker_case(0)
    for call in (
        lambda: markers_of(hubs, cells, expression, min_cells=min_cells),
        lambda: contrast_receivers(hubs, cells, min_cells=min_cells),  # type: ignore[arg-type]
    ):
        with pytest.raises(ParameterError) as caught:
            call()
        assert str(caught.value) == f"min_cells must be 1 or more (a whole number). Got {min_cells!r} instead."


def test_expression_is_not_changed() -> None:
    hubs, cells, expression = marker_case(12)
    matrix = sparse.csr_matrix(expression)
    before = matrix.copy()
    find_markers(hubs, cells, matrix, GENES)
    np.testing.assert_array_equal(matrix.toarray(), before.toarray())
    assert len(matrix.data) == len(before.data)


def test_without_hubs_nothing_is_compared() -> None:
    case = random_case(13, n_cells=40)
    case = with_strength(case, np.zeros_like(case.shard.strength))
    hubs = case.hubs(n_clusters=None)
    assert len(markers_of(hubs, case.cells, np.ones((40, 2)))) == 0
    assert len(contrast_receivers(hubs, case.cells, min_cells=1)) == 0
    assert share_hubs(hubs, case.cells)["hub"].unique().tolist() == [ISOLATED]


@pytest.mark.parametrize("held", [1, 10**9])
def test_markers_of_expression_on_disk(tmp_path: Path, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A type at a time, or all types at once; rows in another order than the cells."""
    monkeypatch.setattr("tissue_crosstalk.core.expression_rows.HELD_VALUES", held)
    hubs, cells, expression = marker_case(15)
    rows = np.random.default_rng(16).permutation(120)
    stored = np.zeros_like(expression)
    stored[rows] = expression
    with h5py.File(tmp_path / "expression.h5", "w") as file:
        write_elem(file, "X", sparse.csr_matrix(stored))
        on_disk = find_markers(hubs, cells, sparse_dataset(file["X"]), GENES, rows=rows, min_cells=2)
    pd.testing.assert_frame_equal(on_disk, markers_of(hubs, cells, expression), check_exact=True)


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    hubs, cells, expression = marker_case(17)
    case = random_case(18)
    tables = []
    for count in (1, 2, 5):
        monkeypatch.setattr("joblib.cpu_count", lambda count=count: count)
        tables.append((markers_of(hubs, cells, expression), contrast_receivers(case.hubs(), case.cells)))
    for others in tables[1:]:
        for one, other in zip(tables[0], others, strict=True):
            pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.slow
def test_markers_equal_scanpy() -> None:
    """But for continuity, and for fold changes of cells that differ: scanpy's are of the means of the logarithms."""
    import anndata as ad
    import scanpy as sc

    hubs, _, expression = marker_case(14)
    hubs, cells = hubs_by_hand((hubs.cluster > 0).astype(int)), made_cells(np.zeros(120, dtype=int))
    expression[:, 0] = np.array([0.5, 1.5])[hubs.cluster]  # the same in all cells of a hub
    adata = ad.AnnData(sparse.csr_matrix(expression), obs={"hub": pd.Categorical(hubs.cluster.astype(str))})
    adata.var_names = list(GENES)
    adata.uns["log1p"] = {}
    sc.tl.rank_genes_groups(adata, "hub", method="wilcoxon", tie_correct=True, pts=True)
    table = markers_of(hubs, cells, expression).set_index(["hub", "gene"])
    for hub in range(2):
        theirs = sc.get.rank_genes_groups_df(adata, str(hub)).set_index("names").loc[list(GENES)]
        mine = table.loc[hub].loc[list(GENES)]
        np.testing.assert_allclose(mine["expressing_inside"], theirs["pct_nz_group"], rtol=1e-6)
        np.testing.assert_allclose(mine["expressing_outside"], theirs["pct_nz_reference"], rtol=1e-6)
        assert (mine["z_score"].abs() <= theirs["scores"].abs()).all()
        np.testing.assert_allclose(mine["z_score"], theirs["scores"], atol=0.02)
        changes = theirs["logfoldchanges"]
        assert mine["log2_fold_change"].iloc[0] == pytest.approx(changes.iloc[0], rel=1e-4)
        means = np.expm1(mine[["mean_inside", "mean_outside"]]) + 1e-9
        np.testing.assert_allclose(changes, np.log2(means["mean_inside"] / means["mean_outside"]), rtol=1e-4)


# --- What else sets receivers apart


def test_contrast_equals_loops() -> None:
    case = random_case(20, n_cells=150)
    hubs, shard, cells = case.hubs(), case.shard, case.cells
    values: dict[str, list[float]] = {}
    thresholds = [hubs.thresholds["all sections"][name] for name in TYPES]
    for cell, senders in enumerate(shard.nn_idx):
        present = senders >= 0
        of_type = [np.sum(cells.labels[senders[present]] == label) / present.sum() for label in range(3)]
        of_cell = {
            "strong neighbors": float((shard.strength[cell] > thresholds[cells.labels[cell]]).sum()),
            "neighbors at hand": float(present.sum()),
            "strongest attention": shard.strength[cell].max(),
            "distance to the nearest neighbor": shard.nn_dist[cell][present].min(),
            "mean distance to neighbors": shard.nn_dist[cell][present].mean(),
        } | {f"share of {name} at hand": share for name, share in zip(TYPES, of_type, strict=True)}
        for name, value in of_cell.items():
            values.setdefault(name, []).append(float(value))

    table = contrast_receivers(hubs, cells, min_cells=2)
    assert table["feature"].cat.categories.tolist() == list(values)
    assert "log2_fold_change" not in table.columns
    assert len(table) == 3 * 3 * 8
    matrix = np.stack(list(values.values()), axis=1)
    expected = find_markers(hubs, cells, sparse.csr_matrix(matrix), list(values), min_cells=2)
    for column in ("hub", "cells_inside", "cells_outside"):
        assert table[column].tolist() == expected[column].tolist()
    for column in ("mean_inside", "mean_outside", "roc_auc", "z_score", "q_value"):
        np.testing.assert_allclose(table[column], expected[column], rtol=1e-4, atol=1e-6, err_msg=column)


def test_contrast_without_distances() -> None:
    """And of a tissue whose types are not called A, B, C."""
    case = random_case(21)
    known = [name for name in contrast_receivers(case.hubs(), case.cells)["feature"].unique() if "distance" in name]
    assert known == ["distance to the nearest neighbor", "mean distance to neighbors"]
    case = Case(
        made_cells(case.cells.labels, cell_types=("T", "u v", "β")),
        type(case.shard)(case.shard.receivers, case.shard.strength, case.shard.nn_idx),
    )
    assert contrast_receivers(case.hubs(), case.cells)["feature"].unique().tolist() == [
        *("strong neighbors", "neighbors at hand", "strongest attention"),
        *("share of T at hand", "share of u v at hand", "share of β at hand"),
    ]


def test_cells_that_attend_more_strongly_are_seen() -> None:
    """Hub 0 is of the cells with the strongest attention: every pair is in order."""
    case = random_case(22)
    hubs = case.hubs()
    order = np.argsort(np.argsort(-hubs.counts.strongest))
    by_strength = hubs_by_hand(order // 100, hubs.counts.strong, hubs.counts.at_hand)
    vars(by_strength.counts)["strongest"] = hubs.counts.strongest
    table = contrast_receivers(by_strength, case.cells).set_index(["feature", "hub"]).sort_index()
    assert (table.loc[("strongest attention", 0), "roc_auc"] == 1).all()
    assert (table.loc[("strongest attention", 1), "roc_auc"] == 0).all()
    assert (table.loc[("strong neighbors", 0), "roc_auc"] > 0.55).all()


# --- Conditions of sections


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["old", "old", "young", "young", None], {"s0": "old", "s1": "young"}),
        ([None, np.nan, 1.0, 1.0, 2.5], {"s1": "1", "s2": "2.5"}),
        ([1, 1, 2, 2, 1], {"s0": "1", "s1": "2", "s2": "1"}),
        ([True, True, False, False, True], {"s0": "True", "s1": "False", "s2": "True"}),
        (pd.Categorical(["b", "b", "a", "a", None], categories=["a", "b", "c"]), {"s0": "b", "s1": "a"}),
        ([None, None, None, None, None], {}),
    ],
    ids=["text", "missing", "numbers", "truth values", "categorical", "nothing"],
)
@pytest.mark.parametrize("as_series", [False, True])
def test_conditions_of_sections(given: Sequence[object], expected: dict[str, str], as_series: bool) -> None:
    """In a column of obs, whose index are the names."""
    cells = made_cells([0] * 5, [0, 0, 1, 1, 2])
    column = pd.Series(given, index=[f"c{number}" for number in range(5)]) if as_series else given
    assert section_conditions(cells, column, "age") == expected


def test_a_section_has_one_condition() -> None:
    cells = made_cells([0] * 6, [0, 0, 1, 1, 2, 2], section_names=("left", "right", "third"))
    with pytest.raises(TissueError) as caught:
        section_conditions(cells, ["old", "old", "old", "young", None, "old"], "age")
    assert str(caught.value) == (
        "obs['age'] must be the same for all cells of a section, which is the unit of the test. It is not in 'right', "
        "'third', where some cells have another value or none. Name another column, or the section_key that it belongs "
        "to."
    )


# --- Comparison of conditions


def shares_table(shares: dict[int, list[float]], conditions: Sequence[str | None]) -> pd.DataFrame:
    """Return the table of some hubs' shares in each section, (section,)."""
    return pd.DataFrame(
        [
            {"section": f"s{section}", "condition": condition, "hub": hub, "cells": 1, "share": of_hub[section]}
            for section, condition in enumerate(conditions)
            for hub, of_hub in shares.items()
        ]
    )


def naive_p(shares: Sequence[float], conditions: Sequence[str]) -> float:
    """Return the share of all arrangements with as large a sum of squares between conditions."""

    def between(arranged: Sequence[str]) -> float:
        by_name: dict[str, list[float]] = {}
        for name, share in zip(arranged, shares, strict=True):
            by_name.setdefault(name, []).append(share)
        return sum(len(part) * (np.mean(part) - np.mean(shares)) ** 2 for part in by_name.values())

    arrangements = set(itertools.permutations(conditions))
    reached = between(conditions) - 1e-12
    return sum(between(arranged) >= reached for arranged in arrangements) / len(arrangements)


@pytest.mark.parametrize("conditions", ["aaabbb", "aabbbb", "aabbcc", "abcabc"])
def test_conditions_equal_all_arrangements(conditions: str) -> None:
    shares = {hub: np.random.default_rng(hub + 40).random(6).round(2).tolist() for hub in (ISOLATED, 0, 1)}
    table = compare_conditions(shares_table(shares, conditions))
    names = sorted(set(conditions))
    assert table.columns.tolist() == ["hub", "condition", "sections", "mean_share", "sd_share", "p_value", "q_value"]
    assert table["hub"].tolist() == np.repeat([ISOLATED, 0, 1], len(names)).tolist()
    assert table["condition"].tolist() == names * 3
    for row in table.itertuples():
        own = [share for share, name in zip(shares[row.hub], conditions, strict=True) if name == row.condition]
        assert row.sections == len(own)
        assert row.mean_share == pytest.approx(np.mean(own))
        assert row.sd_share == pytest.approx(np.std(own, ddof=1))
        assert row.p_value == pytest.approx(naive_p(shares[row.hub], conditions), rel=1e-12)
    by_hub = table.drop_duplicates("hub")
    np.testing.assert_allclose(by_hub["q_value"], stats.false_discovery_control(by_hub["p_value"]))
    assert by_hub["p_value"].nunique() > 1


def test_three_sections_against_three_reach_a_tenth() -> None:
    """However far apart; and there is no evidence in shares that are all the same."""
    table = compare_conditions(shares_table({0: [0.9, 0.91, 0.92, 0.1, 0.11, 0.12], 1: [0.3] * 6}, "aaabbb"))
    np.testing.assert_allclose(table["p_value"], [0.1, 0.1, 1, 1])
    np.testing.assert_allclose(table["q_value"], [0.2, 0.2, 1, 1])


def test_sections_without_a_condition_are_left_out() -> None:
    with_others = compare_conditions(
        shares_table({0: [0.9, 0.5, 0.8, 0.2, 0.3, 0.7]}, ["a", None, "a", "b", "b", None])
    )
    without = compare_conditions(shares_table({0: [0.9, 0.8, 0.2, 0.3]}, "aabb"))
    pd.testing.assert_frame_equal(with_others, without)
    assert without["p_value"].tolist() == pytest.approx([1 / 3, 1 / 3])


@pytest.mark.parametrize("conditions", [[None] * 4, ["a"] * 4, ["a", "a", None, None]])
def test_fewer_than_two_conditions_are_not_compared(conditions: list[str | None]) -> None:
    table = compare_conditions(shares_table({0: [0.1, 0.2, 0.3, 0.4]}, conditions))
    assert table.columns.tolist() == ["hub", "condition", "sections", "mean_share", "sd_share", "p_value", "q_value"]
    assert len(table) == 0


def test_a_condition_of_one_section() -> None:
    """Its share has no deviation; one of four reaches a quarter, and one against one nothing."""
    table = compare_conditions(shares_table({0: [0.9, 0.1, 0.2, 0.3], 1: [0.2, 0.1, 0.2, 0.3]}, "abbb"))
    assert table["sd_share"].isna().tolist() == [True, False, True, False]
    np.testing.assert_allclose(table["p_value"], [0.25, 0.25, 1, 1])
    assert compare_conditions(shares_table({0: [0.9, 0.1]}, "ab"))["p_value"].tolist() == [1, 1]


def test_many_sections_are_arranged_at_random() -> None:
    """Five against five, wide apart: 2 of 252 arrangements, within four standard errors of 99,999."""
    shares = [0.9, 0.91, 0.92, 0.93, 0.94, 0.1, 0.11, 0.12, 0.13, 0.14]
    exact = 2 / 252
    p_values = compare_conditions(shares_table({0: shares}, "aaaaabbbbb"))["p_value"]
    assert p_values[0] == pytest.approx(exact, abs=4 * np.sqrt(exact / 99_999))


def test_too_many_arrangements_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """59 at random: p is a multiple of 1/60, within four standard errors of the exact one."""
    conditions, n_hubs = "aabbcc", 8
    shares = {hub: np.random.default_rng(hub + 50).random(6).round(2).tolist() for hub in range(n_hubs)}
    exact = np.array([naive_p(of_hub, conditions) for of_hub in shares.values()])
    monkeypatch.setattr("tissue_crosstalk.core.hub_contents.MOST_ARRANGEMENTS", 59)
    one, same, other = (compare_conditions(shares_table(shares, conditions), random_state=s) for s in (1, 1, 2))
    p_values = one.drop_duplicates("hub")["p_value"].to_numpy()
    np.testing.assert_allclose(p_values * 60, np.round(p_values * 60), atol=1e-9)
    assert (np.abs(p_values - exact) <= 1 / 60 + 4 * np.sqrt(exact * (1 - exact) / 59)).all()
    pd.testing.assert_frame_equal(one, same, check_exact=True)
    assert (one["p_value"] != other["p_value"]).any()


def test_conditions_of_a_tissue() -> None:
    """From cells to p: hub 0 is most of the sections of one condition, and half of the others'."""
    sections = np.repeat(range(6), 20)
    share = np.array([0.9, 0.85, 0.95, 0.5, 0.55, 0.45])
    cluster = (np.tile(np.arange(20), 6) >= share[sections] * 20).astype(int)
    cells = made_cells(np.zeros(120, dtype=int), sections)
    conditions = section_conditions(cells, np.where(sections < 3, "ill", "well").tolist(), "state")
    table = compare_conditions(share_by_section(hubs_by_hand(cluster), cells, conditions))
    assert table["condition"].tolist() == ["ill", "well"] * 2
    np.testing.assert_allclose(table["mean_share"], [0.9, 0.5, 0.1, 0.5])
    np.testing.assert_allclose(table["sd_share"], 0.05)
    np.testing.assert_allclose(table["p_value"], 0.1)
