"""The last words of ``make run``."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from tissue_crosstalk.outputs import describe_outputs


def test_outputs_are_named_with_how_to_look_at_them(demo: Path) -> None:
    text = describe_outputs("demo", demo)
    assert "data/08_reporting/demo/" in text
    assert "attention_summaries/  (16 files)" in text
    assert "open data/08_reporting/demo/report.html" in text
    for command in ("make ui", "make viz", "AttentionModule.load('data/07_model_output/demo')"):
        assert command in text


def write_recovery(project: Path, rows: list[tuple[object, ...]]) -> None:
    columns = ["what", "name", "average_precision", "roc_auc", "base_rate", "lift", "n"]
    file = project / "data/08_reporting/embryo/recovery.parquet"
    file.parent.mkdir(parents=True)
    pd.DataFrame(rows, columns=columns).astype({"what": "category", "name": "category"}).to_parquet(file)


def recovery_lines(text: str) -> list[str]:
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("How much the model found"))
    return lines[start + 1 : lines.index("Look at it:")]


def test_what_was_found_by_hand(tmp_path: Path) -> None:
    write_recovery(
        tmp_path,
        [
            ("sender edges", "vanilla", 0.567, 0.9, 0.0183, 31.0, 60),
            ("sender edges", "gene-weighted", 0.5, 0.9, 0.0183, 27.0, 60),
            ("affected receivers", "all cells", 0.8, 0.897, 0.3, 2.7, 50),
            ("affected receivers of one type", "D", 0.8, 0.7, 0.3, 2.7, 20),
            ("affected receivers of one type", "E", math.nan, math.nan, 1.0, math.nan, 20),
            ("shifted genes", "A to D", 0.13, 0.5, 0.083, 1.5, 120),
            ("shifted genes", "B to E", 0.88, 0.9, 0.083, 10.5, 120),
        ],
    )
    assert recovery_lines(describe_outputs("embryo", tmp_path)) == [
        "  sender edges        vanilla attention 0.57, 31 times the base rate 0.018",
        "  affected receivers  ROC AUC 0.90 among all cells, 0.70 among D, undefined among E",
        "  shifted genes       A to D 0.13, B to E 0.88; base rate 0.08",
    ]


def test_nothing_planted(tmp_path: Path) -> None:
    nan = math.nan
    write_recovery(
        tmp_path,
        [
            ("sender edges", "vanilla", nan, nan, 0.0, nan, 60),
            ("affected receivers", "all cells", nan, nan, 0.0, nan, 50),
        ],
    )
    assert recovery_lines(describe_outputs("embryo", tmp_path)) == [
        "  sender edges        vanilla attention undefined, base rate 0.000",
        "  affected receivers  ROC AUC undefined among all cells",
    ]


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    write_recovery(tmp_path, [("sender edges", "vanilla", 0.5, 0.9, 0.0183, 27.0, 60)])
    file = tmp_path / "data/08_reporting/embryo/recovery.parquet"
    file.write_bytes(file.read_bytes()[:100])
    said = describe_outputs("embryo", tmp_path)
    assert f"  {file} cannot be read: " in said
    assert "It is damaged; run the pipeline that writes it again." in said


def test_a_demo_says_what_it_found(demo: Path) -> None:
    edges, receivers, genes = recovery_lines(describe_outputs("demo", demo))
    table = pd.read_parquet(demo / "data/08_reporting/demo/recovery.parquet").set_index("name")
    assert f"{table.loc['vanilla', 'average_precision']:.2f}" in edges
    assert f"{table.loc['all cells', 'roc_auc']:.2f} among all cells" in receivers
    assert f"type A to type C {table.loc['type A to type C', 'average_precision']:.2f}" in genes


def test_without_a_truth_nothing_is_said_of_it(tmp_path: Path) -> None:
    (tmp_path / "data/08_reporting/embryo").mkdir(parents=True)
    assert "How much the model found" not in describe_outputs("embryo", tmp_path)


def test_nothing_written(tmp_path: Path) -> None:
    assert describe_outputs("embryo", tmp_path).startswith("There are no outputs of study 'embryo'")
