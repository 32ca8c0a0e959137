"""The notebooks: stripped in git, without logic of their own, and executed on small data, figures and all.

They run in a checkout of their own, whose environment is Kedro's ``test``: what they do to the project's own data and
MLflow store, they do to these.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import anndata
import nbformat
import numpy as np
import psutil
import pytest
import yaml
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from sessions import PROJECT, run_project
from test_real_data import DATA

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
FIRST, REAL, COMPARING = "01_a_first_look", "02_a_real_tissue", "03_comparing_runs"
FIGURES = {
    FIRST: {
        "network", "attention-of-the-cell", "attention-by-distance", "attention-map", "hub-composition", "hub-map"
    },
    REAL: {
        "tissue", "attention-by-distance", "attention-of-a-cell", "matrix", "network", "hub-composition", "hub-map"
    },
    COMPARING: {"comparison", "attention-by-distance", "hub-compositions"},
}  # fmt: skip
"""Ids of the cells that show figures."""


def code_of(notebook: NotebookNode) -> str:
    """Return the Python of a notebook, without magics."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return "\n".join(re.sub(r"^%.*$", "", source, flags=re.MULTILINE).rstrip().rstrip(";") for source in cells)


# --- As they are in git


def test_they_are_the_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == [FIRST, REAL, COMPARING] == list(FIGURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_in_git(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    }
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cell.id)
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_logic_of_their_own(path: Path) -> None:
    tree = ast.parse(code_of(nbformat.read(path, as_version=4)))
    logic = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.If, ast.While, ast.Try)
    assert not [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, logic)]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_hook_strips_what_jupyter_adds(path: Path, tmp_path: Path) -> None:
    """To the byte: a notebook that was only executed is no change."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.language_info = {"name": "python", "version": "3.11.7", "file_extension": ".py"}
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.execution_count = number
        cell.metadata = {"execution": {"iopub.status.busy": "2026-01-01"}, "scrolled": True}
        cell.outputs = [nbformat.v4.new_output("stream", text="noise")]
    executed = tmp_path / path.name
    nbformat.write(notebook, executed)
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (entry,) = [hook["entry"] for hook in hooks if hook["id"] == "nbstripout"]
    command, *arguments = shlex.split(entry)
    assert command == ".venv/bin/nbstripout"
    subprocess.run([sys.executable, "-m", "nbstripout", *arguments, executed], check=True)
    assert executed.read_bytes() == path.read_bytes()


# --- Executed


class OwnKernel(AsyncKernelManager):
    """A kernel of this interpreter, whatever kernels are installed, which listens to a file instead of a port."""

    def __init__(self, connection_file: str) -> None:
        super().__init__(
            kernel_name="python3",
            transport="ipc",
            connection_file=connection_file,
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        )


def execute(notebook: NotebookNode, folder: Path, **variables: str) -> None:
    """Execute a notebook in a folder, with some environment variables, and leave no process behind."""
    before = set(psutil.Process().children(recursive=True))
    with tempfile.TemporaryDirectory() as private:  # a short path, as sockets need
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CROSSTALK_", "MLFLOW_"))},
            "IPYTHONDIR": private,
            "JUPYTER_RUNTIME_DIR": private,
            **variables,
        }
        kernel = OwnKernel(f"{private}/kernel.json")
        client = NotebookClient(
            notebook, km=kernel, timeout=300, startup_timeout=120, resources={"metadata": {"path": str(folder)}}
        )
        client.owns_km = True  # it ends the kernel
        # In a thread: this one may have an event loop that runs, which the tests in a browser leave.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(client.async_execute(env=environment))).result()
    assert set(psutil.Process().children(recursive=True)) <= before


def execute_file(name: str, folder: Path, **variables: str) -> NotebookNode:
    """Execute one of the notebooks and return it with its outputs."""
    notebook = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", as_version=4)
    execute(notebook, folder, **variables)
    return notebook


def pictures(notebook: NotebookNode) -> dict[str, list[Image.Image]]:
    """Return the pictures of each cell that shows some, by its id."""
    found: dict[str, list[Image.Image]] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            content = output.get("data", {}).get("image/png")
            if content is not None:
                found.setdefault(cell.id, []).append(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))
    return found


def printed(notebook: NotebookNode) -> str:
    """Return all that its cells printed."""
    return "".join(
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "stream"
    )


def assert_shows(notebook: NotebookNode, name: str) -> None:
    """Check that exactly the cells that should show figures do, none of them blank, and nothing warns."""
    shown = pictures(notebook)
    assert set(shown) == FIGURES[name]
    for cell, images in shown.items():
        for image in images:
            assert min(image.size) >= 150, cell
            pixels = np.asarray(image).reshape(-1, 3)
            inked = (pixels.min(axis=1) < 200).mean()
            assert 0.005 < inked < 0.9, f"{cell} is blank, or all ink: {inked:.4f}"
            colors = len(np.unique(pixels, axis=0))
            assert colors > 20, f"{cell} is blank: {colors} colors"
    assert "Warning" not in printed(notebook)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the project, with two runs of the demo in the root of the environment ``test``."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(PROJECT / "pyproject.toml", folder)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "local")
    for name in ("conf", "src", "notebooks"):
        shutil.copytree(PROJECT / name, folder / name, ignore=ignored)
    root = folder / ".test_run"
    run_project(root, "demo")
    run_project(root, "demo", study="6-neighbors", n_neighbors=6)
    return folder


@pytest.mark.slow
class TestExecuted:
    env: ClassVar[dict[str, str]] = {"KEDRO_ENV": "test", "DO_NOT_TRACK": "true"}

    def test_first_look(self, checkout: Path) -> None:
        notebook = execute_file(FIRST, checkout / "notebooks", **self.env)
        assert_shows(notebook, FIRST)
        (said,) = printed(notebook).splitlines()
        assert re.fullmatch(r"cell\d+, type \w, has \d+ cells of type \w among its neighbors", said)
        assert not (checkout / "mlflow.db").exists()

    def test_real_tissue(self, checkout: Path) -> None:
        """With the tissue of the demo, which is the default."""
        shutil.copytree(checkout / ".test_run/data/01_raw", checkout / "data/01_raw")
        notebook = execute_file(REAL, checkout / "notebooks", CROSSTALK_EPOCHS="2")
        assert_shows(notebook, REAL)

    def test_comparing_runs(self, checkout: Path) -> None:
        notebook = execute_file(COMPARING, checkout / "notebooks", **self.env)
        assert_shows(notebook, COMPARING)
        assert len(pictures(notebook)["hub-compositions"]) == 2
        (differing,) = [cell for cell in notebook.cells if cell.id == "parameters"]
        text = next(output.data["text/html"] for output in differing.outputs if output.output_type == "execute_result")
        names = ["demo.tissue_reading.n_neighbors", "study", "demo", "demo-6-neighbors"]
        assert re.findall(r"<th>([^<]+)</th>", text) == names
        assert re.findall(r"<td>([^<]+)</td>", text) == ["12", "6"]

    def test_figures_are_shown_without_pyplot(self, checkout: Path) -> None:
        """A notebook knows how to show a Figure only after "%matplotlib inline"."""
        study = checkout / ".test_run/data/07_model_output/demo"
        source = (
            "from tissue_crosstalk import AttentionModule\n"
            f"attention = AttentionModule.load({str(study)!r})\n"
            "attention.plot_attention_matrix()\n"
            "None"
        )
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, id="matrix")])
        execute(notebook, checkout)
        (output,) = notebook.cells[0].outputs
        (image,) = pictures(notebook)["matrix"]
        size = output.metadata["image/png"]
        assert image.size == pytest.approx((2 * size["width"], 2 * size["height"]), abs=2)

    @pytest.mark.real_data
    @pytest.mark.skipif(not DATA.is_dir(), reason=f"there are no real tissues in {DATA}; name them in CROSSTALK_DATA")
    def test_a_tissue_that_is_real(self, tmp_path: Path) -> None:
        whole = anndata.read_h5ad(DATA / "merfish_hypothalamus_3slices.h5ad")
        places = whole.obsm["spatial_original"]
        near = np.abs(places - np.median(places, axis=0)).max(axis=1) < 350
        crop: Any = whole[near].copy()
        assert 1000 < crop.n_obs < 6000
        assert crop.obs["section"].nunique() == 2
        crop.write_h5ad(tmp_path / "crop.h5ad")
        notebook = execute_file(
            REAL,
            tmp_path,
            CROSSTALK_TISSUE="crop.h5ad",
            CROSSTALK_COORD_KEY="spatial_original",
            CROSSTALK_SECTION_KEY="section",
            CROSSTALK_EPOCHS="2",
            CROSSTALK_MAX_DISTANCE="120",
        )
        assert_shows(notebook, REAL)
