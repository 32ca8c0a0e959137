"""The recipes of CONTRIBUTING.md, applied as they stand to a copy of the project, and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from sessions import PROJECT, give_store

STEP = re.compile(
    r"^(?:A new file `(?P<new>[^`]+)`|In `(?P<file>[^`]+)`, "
    r"(?:(?P<where>below|above|instead of) the (?P<first>first )?line `(?P<line>[^`]+)`|at the end)):\n\n"
    r"```\w+\n(?P<code>.*?)```$",
    re.MULTILINE | re.DOTALL,
)
NEW_TESTS = ("tests/core/test_flavors.py", "tests/core/plots/test_cell_counts.py", "tests/core/test_reciprocity.py")


def apply(recipes: str, project: Path) -> int:
    """Do what recipes say, and return how many steps there were.

    A line is named by how it begins, and there is only one such line in the file unless the recipe says "first".
    """
    steps = list(STEP.finditer(recipes))
    for step in steps:
        code = step["code"]
        if step["new"]:
            file = project / step["new"]
            assert not file.exists(), f"{step['new']} is not new"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code, encoding="utf-8")
            continue
        file = project / step["file"]
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        if step["where"] is None:
            file.write_text("".join(lines) + code, encoding="utf-8")
            continue
        places = [number for number, line in enumerate(lines) if line.strip().startswith(step["line"])]
        assert places, f"no line {step['line']} in {step['file']}"
        assert step["first"] or len(places) == 1, f"line {step['line']} is in {step['file']} more than once"
        start = places[0] + (step["where"] == "below")
        lines[start : start + (step["where"] == "instead of")] = [code]
        file.write_text("".join(lines), encoding="utf-8")
    return len(steps)


def in_project(project: Path, *command: str) -> str:
    """Run a module of this Python in a project, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        # Not the store of another test: MLflow puts its address into the environment of its process.
        env={name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        | {"PYTHONPATH": str(project / "src"), "DO_NOT_TRACK": "true", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def recipes() -> str:
    return (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_block_of_a_recipe_says_where_it_goes() -> None:
    of_recipes = recipes().partition("\n## A flavor\n")[2]
    blocks = re.findall(r"^```\w+$", of_recipes, re.MULTILINE)
    assert len(list(STEP.finditer(of_recipes))) == len(blocks) > 10


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with all recipes applied."""
    copy = tmp_path_factory.mktemp("copy")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listed, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, files):
        if (PROJECT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, copy / name)
    assert apply(recipes(), copy) > 10
    return copy


@pytest.fixture(scope="module")
def ran(project: Path) -> Path:
    """The folder of a demo's run with what the recipes add."""
    root = project / ".test_run"
    give_store(root)
    in_project(project, "kedro", "run", "--env=test", "--pipelines=demo")
    return root


@pytest.mark.slow
def test_it_is_as_the_linter_wants_it(project: Path) -> None:
    in_project(project, "ruff", "check", ".")
    in_project(project, "ruff", "format", "--check", ".")


@pytest.mark.slow
def test_tests_of_the_recipes_pass(project: Path) -> None:
    said = in_project(project, "pytest", "-q", *NEW_TESTS, "tests/pipelines/test_registry.py")
    assert "failed" not in said


@pytest.mark.slow
def test_a_new_flavor_is_computed_and_drawn(ran: Path) -> None:
    flavored = pd.read_parquet(ran / "data/07_model_output/demo/flavored_attention/flavor=gene-relative")
    largest = flavored.filter(like="neighbor_").max(axis=1)
    assert len(largest) == 2 * 600
    assert (largest == 1).all()
    for folder in ("attention_matrices", "interaction_networks", "attention_maps"):
        assert (ran / "data/08_reporting/demo" / folder / "gene-relative.png").is_file()
    assert "gene-relative" in (ran / "data/08_reporting/demo/report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_new_plot_is_in_the_folder_and_in_the_run(ran: Path) -> None:
    assert (ran / "data/08_reporting/demo/cell_counts.png").read_bytes().startswith(b"\x89PNG")
    assert list(ran.glob("mlruns/**/attention/cell_counts.png"))


@pytest.mark.slow
def test_a_new_stage_is_known_and_has_run(project: Path, ran: Path) -> None:
    assert "reciprocity" in in_project(project, "kedro", "registry", "list").split()
    pairs = pd.read_parquet(ran / "data/08_reporting/demo/reciprocal_pairs.parquet")
    assert list(pairs.columns) == ["one", "other", "there", "back"]
    assert len(pairs)
    assert list(ran.glob("mlruns/**/attention/reciprocal_pairs.parquet"))
