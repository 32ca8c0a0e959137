"""The commands of README.md and docs/: found in their pages, and run in a copy of the project as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import yaml
from scipy import sparse

from sessions import PROJECT

PAGES = ("README.md", *sorted(path.relative_to(PROJECT).as_posix() for path in (PROJECT / "docs").rglob("*.md")))
COMMANDS = ("sh", "python")
OTHERS = ("yaml", "bibtex", "text", "json")
"""Languages of blocks in which nothing is a command."""

SECONDS = 300
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. Blocks that say the same are the same."""

    page: str = field(compare=False)
    language: str
    text: str


NOT_RUN: Mapping[tuple[str, str], str] = {
    ("README.md", "make run "): "CI runs these two as they are",
    ("docs/index.md", "make run "): "CI runs these two as they are",
    ("docs/machines.md", "tcp://host:8786"): "needs a scheduler elsewhere; tests/core/test_cluster.py has one at hand",
    ("docs/machines.md", "SLURMCluster"): "needs SLURM",
    ("docs/machines.md", "KubeCluster"): "needs Kubernetes",
}
"""Blocks that cannot be run here, by page and a text in them, and why."""

SERVER = ("docs/team.md", "mlflow server")
"""The block that stays open: it is started as it stands, and ended after the tests."""


def blocks_of(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = (PROJECT / page).read_text(encoding="utf-8")
    return [Block(page, language.strip(), body) for language, body in _FENCE.findall(text)]


def why_not(block: Block, known: Mapping[tuple[str, str], str]) -> str | None:
    """Return why a block is not run; None where it is."""
    return next((reason for (page, part), reason in known.items() if page == block.page and part in block.text), None)


def copy_project(folder: Path) -> Path:
    """Copy what git has, or would have, of the project; with the packages of this process, and settings of seconds."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((PROJECT / name).read_bytes())
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)  # for .gitignore
    # Everything of the environment but the mark that it is installed: make would install the copy into it.
    (folder / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != ".installed":
            (folder / ".venv" / entry.name).symlink_to(entry)
    (folder / ".venv" / ".installed").touch()
    _be_quick(folder / "conf")
    embryo().write_h5ad(folder / "embryo.h5ad")
    return folder


def _be_quick(conf: Path) -> None:
    """Lay conf/test over conf/base, so that commands run in seconds whatever environment they name."""
    for file in sorted((conf / "test").glob("parameters_*.yml")):
        _change(conf / "base" / file.name, yaml.safe_load(file.read_text(encoding="utf-8")))
    _change(conf / "paper/parameters_training.yml", {"training": {"max_epochs": 1}})
    _change(conf / "base/parameters_sweep.yml", {"sweep": {"grid": None}})
    _change(conf / "base/parameters_sweep.yml", {"sweep": {"grid": {"training.network.n_heads": [2]}}})


def _change(file: Path, values: Mapping[str, Any]) -> None:
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(_laid_over(settings, values)), encoding="utf-8")


def _laid_over(settings: Any, values: Any) -> Any:
    if not (isinstance(settings, dict) and isinstance(values, Mapping)):
        return values
    return settings | {name: _laid_over(settings.get(name), value) for name, value in values.items()}


def embryo() -> anndata.AnnData:
    """Return a small tissue in which neurons beside glia express one gene more."""
    rng = np.random.default_rng(3)
    n_cells, n_genes = 240, 20
    place = rng.uniform(0, 160, size=(n_cells, 2))
    kind = rng.choice(["glia", "neuron", "vessel"], size=n_cells, p=[0.3, 0.5, 0.2])
    mean = np.ones((n_cells, n_genes)) + 4 * (kind[:, None] == np.array(["glia", "neuron", "vessel"] * 7)[:n_genes])
    gaps = np.linalg.norm(place[:, None] - place[kind == "glia"], axis=2).min(axis=1)
    mean[(kind == "neuron") & (gaps < 10), 0] *= 4
    return anndata.AnnData(
        sparse.csr_matrix(rng.poisson(mean).astype(np.float32)),
        obs=pd.DataFrame({"cell_type": pd.Categorical(kind)}, index=[f"cell {number}" for number in range(n_cells)]),
        var=pd.DataFrame(index=[f"gene{number:02d}" for number in range(n_genes)]),
        obsm={"spatial": place},
    )


def environment(project: Path) -> dict[str, str]:
    """Return the variables for commands in a copy: its own code, no server of this machine's, no outer make."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "MAKE", "PYTEST_", "COV_", "COVERAGE_")) and name != "MFLAGS"
    }
    own = os.pathsep.join(filter(None, (str(project / "src"), os.environ.get("PYTHONPATH"))))
    return kept | {
        "PYTHONPATH": own,
        "DO_NOT_TRACK": "1",
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a server of two processes, not eleven
    }


def run(block: Block, project: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a block in a copy of the project, as it stands."""
    program = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
    return subprocess.run(
        [*program, block.text],
        cwd=project,
        env=environment(project) | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
