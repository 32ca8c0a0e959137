"""Weights of interactions and known pairs of ligand and receptor, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from naive import made_tissue

from tissue_crosstalk.core.errors import TissueError
from tissue_crosstalk.core.interactions import count_pairs, regions_differ, weigh_interactions, with_changed_genes
from tissue_crosstalk.core.ligand_receptor import annotate_pairs, read_pairs
from tissue_crosstalk.datasets import ParquetDataset

TYPES = ["A", "B", "C"]


def named(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(
        receiver=pd.Categorical(table["receiver"], categories=TYPES),
        sender=pd.Categorical(table["sender"], categories=TYPES),
        gene=table["gene"].astype("category"),
    )


@pytest.fixture
def effects() -> pd.DataFrame:
    return named(
        pd.DataFrame(
            [
                ("B", "A", "g1", 0.3, 0.0001, 0.001, 4.0),
                ("B", "A", "g2", -0.2, 0.01, 0.04, 2.5),
                ("B", "A", "g3", 0.1, 0.00001, 0.0005, 5.0),
                ("B", "C", "g1", 0.2, 0.3, 0.5, 0.5),
                ("B", "C", "g2", 0.2, np.nan, np.nan, np.nan),
                ("B", "C", "g3", 0.2, 0.02, 0.06, 2.0),
            ],
            columns=["receiver", "sender", "gene", "diff", "p_value", "q_value", "z_score"],
        ).assign(n_receivers=50, n_hearing=30, held_out=True)
    )


@pytest.fixture
def ablation() -> pd.DataFrame:
    return named(
        pd.DataFrame(
            [
                ("B", "A", -1, "g1", 0.3, 0.04),
                ("B", "A", -1, "g2", -0.2, 0.001),
                ("B", "A", 0, "g3", 0.2, 0.001),  # of one head: not counted
                ("A", "C", -1, "g1", 0.3, 0.01),
                ("A", "C", -1, "g2", 0.3, 0.05),  # not below 0.05
            ],
            columns=["receiver", "sender", "head_idx", "gene", "diff", "q_value"],
        )
    )


def test_weights(effects: pd.DataFrame, ablation: pd.DataFrame) -> None:
    table = weigh_interactions(effects, ablation)
    assert table.drop(columns="smallest_q").to_numpy().tolist() == [
        ["A", "C", 0, 0, 0, 0, 1, ""],
        ["B", "A", 50, 30, 2, 1, 1, "g3, g1, g2"],
        ["B", "C", 50, 30, 0, 0, 0, ""],
    ]
    np.testing.assert_allclose(table["smallest_q"], [np.nan, 0.0005, 0.06])
    assert table["receiver"].cat.categories.tolist() == TYPES
    assert with_changed_genes(table)[["receiver", "sender"]].to_numpy().tolist() == [["B", "A"]]
    assert weigh_interactions(effects, ablation, max_q=0.1)["n_genes"].tolist() == [0, 2, 1]


def test_nothing_was_tested(effects: pd.DataFrame, ablation: pd.DataFrame) -> None:
    table = weigh_interactions(effects[:0], ablation[:0])
    assert len(table) == 0
    assert table["n_genes"].dtype == np.int64


def test_effects_of_no_pair_that_come_from_files(effects: pd.DataFrame, ablation: pd.DataFrame, tmp_path: Path) -> None:
    """As of a small tissue, where no type has receivers enough."""

    def from_file(table: pd.DataFrame) -> pd.DataFrame:
        dataset = ParquetDataset(filepath=str(tmp_path / "table.parquet"))
        dataset.save(table)
        return dataset.load()

    table = weigh_interactions(from_file(effects[:0]), ablation)
    assert table[["receiver", "sender"]].to_numpy().tolist() == [["A", "C"], ["B", "A"]]
    assert table["smallest_q"].isna().all()
    tissue = made_tissue(np.zeros((3, 2)), [0, 1, 2], expression=[[1, 0], [0, 1], [1, 1]])
    pairs = pd.DataFrame({"ligand": ["gene0"], "receptor": ["gene1"]})
    for interactions in (table, table[:0]):
        assert annotate_pairs(pairs, tissue, from_file(interactions)).empty


@pytest.mark.parametrize(("n_found", "warned"), [(3, False), (4, True), (6, True)])
def test_nearly_every_pair_is_warned_of(
    effects: pd.DataFrame, ablation: pd.DataFrame, caplog: pytest.LogCaptureFixture, n_found: int, warned: bool
) -> None:
    pairs = [(receiver, sender) for receiver in TYPES for sender in TYPES if receiver != sender]
    one_gene = pd.concat([effects[:1]] * len(pairs), ignore_index=True).assign(
        receiver=[receiver for receiver, _ in pairs],
        sender=[sender for _, sender in pairs],
        q_value=[0.01] * n_found + [0.5] * (len(pairs) - n_found),
    )
    table = weigh_interactions(named(one_gene), ablation)
    assert count_pairs(table) == (n_found, 6)
    assert regions_differ(table, one_gene) == warned
    assert ("ablation.permute_within=block" in caplog.text) == warned
    assert (f"{n_found} of 6 tested pairs" in caplog.text) == warned


def test_effects_of_the_model_at_hand_show_no_regions(
    effects: pd.DataFrame, ablation: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [(receiver, sender) for receiver in TYPES for sender in TYPES if receiver != sender]
    found = pd.concat([effects[:1]] * len(pairs), ignore_index=True).assign(
        receiver=[receiver for receiver, _ in pairs], sender=[sender for _, sender in pairs], held_out=False
    )
    table = weigh_interactions(named(found), ablation)
    assert count_pairs(table) == (6, 6)
    assert not regions_differ(table, found)
    assert not caplog.text


def test_few_pairs_are_not_warned_of(
    effects: pd.DataFrame, ablation: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    table = weigh_interactions(effects[:3], ablation)
    assert count_pairs(table) == (1, 1)
    assert not regions_differ(table, effects)
    assert not caplog.text


def test_pairs_that_types_express(effects: pd.DataFrame, ablation: pd.DataFrame) -> None:
    """Two cells per type; gene0 and gene1 are ligands, gene2 and gene3 receptors."""
    tissue = made_tissue(
        np.zeros((6, 2)), [0, 0, 1, 1, 2, 2],
        expression=[[4, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1], [2, 0, 0, 0], [0, 0, 6, 0]],
    )  # fmt: skip
    pairs = pd.DataFrame(
        {"ligand": ["gene1", "gene0", "gene0", "gene9"], "receptor": ["gene2", "gene2", "gene3", "gene2"]}
    )
    found = annotate_pairs(pairs, tissue, weigh_interactions(effects, ablation))
    assert found[["receiver", "sender", "ligand", "receptor"]].to_numpy().tolist() == [
        ["B", "A", "gene0", "gene2"],  # means 2 and 1
        ["B", "A", "gene0", "gene3"],  # 2 and 0.5
        ["B", "A", "gene1", "gene2"],  # 0.5 and 1
    ]
    assert found["score"].tolist() == pytest.approx([np.sqrt(2), 1.0, np.sqrt(0.5)])
    first = found.iloc[0]
    assert first[["ligand_mean", "ligand_share", "receptor_mean", "receptor_share"]].tolist() == [2.0, 0.5, 1.0, 0.5]
    assert first["ligand_specificity"] == pytest.approx(2 / 3)  # 2 in A, 1 in C
    assert first["receptor_specificity"] == pytest.approx(1 / 4)  # 1 in B, 3 in C


def test_no_pair_was_measured(effects: pd.DataFrame, ablation: pd.DataFrame) -> None:
    tissue = made_tissue(np.zeros((3, 2)), [0, 1, 2], expression=np.eye(3))
    pairs = pd.DataFrame({"ligand": ["GENE0"], "receptor": ["X"]})
    with pytest.raises(TissueError, match=r"of 1 pairs .* none has both genes among the 3 .*They differ in case"):
        annotate_pairs(pairs, tissue, weigh_interactions(effects, ablation))


def test_a_table_of_pairs_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("\ufeffsource,ligand, receptor\nx,NA,Cxcr4\ny, Cxcl12 ,Cxcr4\nz,Cxcl12,Cxcr4\n", encoding="utf-8")
    assert read_pairs(path).to_numpy().tolist() == [["NA", "Cxcr4"], ["Cxcl12", "Cxcr4"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "ligands,receptor\na,b\n",
            r"no column 'ligand'\. Did you mean 'ligands'\? The columns are 'ligands', 'receptor'",
        ),
        ("ligand,receptor\na,b\n,c\n", "line 3 lacks a ligand or a receptor"),
        ("", "cannot be read as a csv file: No columns to parse"),
        ('ligand,receptor\n"a,b\n', "cannot be read as a csv file|lacks a ligand"),
    ],
)
def test_tables_that_are_something_else(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TissueError, match=words) as caught:
        read_pairs(path)
    assert str(path) in str(caught.value)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(TissueError, match="there is no such table of ligands and receptors"):
        read_pairs(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(TissueError, match="cannot be read as a csv file"):
        read_pairs(tmp_path / "binary.csv")
    with pytest.raises(TissueError, match="cannot be read as a csv file"):
        read_pairs(tmp_path)
