"""The last words of ``make run``."""

from __future__ import annotations

from pathlib import Path

from tissue_crosstalk.outputs import describe_outputs


def test_outputs_are_named_with_how_to_look_at_them(demo: Path) -> None:
    text = describe_outputs("demo", demo)
    assert "data/08_reporting/demo/" in text
    assert "attention_summaries/  (16 files)" in text
    assert "times the base rate" in text
    for command in ("make ui", "make viz", "AttentionModule.load('data/07_model_output/demo')"):
        assert command in text


def test_nothing_written(tmp_path: Path) -> None:
    assert describe_outputs("embryo", tmp_path).startswith("There are no outputs of study 'embryo'")
