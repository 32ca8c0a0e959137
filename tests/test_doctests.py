"""Examples in docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib
import logging
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import tissue_crosstalk
from tissue_crosstalk import AttentionModule, train_model
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.simulation import SimulationSettings, simulate_tissue
from tissue_crosstalk.core.training_settings import TrainingSettings

MODULES = sorted(module.name for module in pkgutil.walk_packages(tissue_crosstalk.__path__, "tissue_crosstalk."))
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples() -> dict[str, doctest.DocTest]:
    found: dict[str, doctest.DocTest] = {}
    for name in MODULES:
        source = importlib.util.find_spec(name).origin
        if ">>>" in Path(source).read_text(encoding="utf-8"):  # importing the others would take time for nothing
            tests = doctest.DocTestFinder().find(importlib.import_module(name))
            found |= {test.name.removeprefix("tissue_crosstalk."): test for test in tests if test.examples}
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """What examples use without making it: a tissue, a model of it, and its attention."""
    settings = SimulationSettings(n_cells=200, n_genes=20, n_cell_types=3, n_interactions=1)
    adata, _ = simulate_tissue(settings, seed=1)
    model = train_model(
        adata,
        n_neighbors=10,
        network=NetworkSettings(n_heads=2, n_head_size=4, n_query_embed_hidden=16, n_nn_embed_hidden=16),
        settings=TrainingSettings(max_epochs=2),
    )
    return {"adata": adata, "model": model, "attention": AttentionModule.compute(model, adata)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str, known: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = EXAMPLES[name]
    example.globs |= known | {"tmp_path": tmp_path}
    monkeypatch.chdir(tmp_path)  # a file that an example writes is nobody else's
    failures: list[str] = []
    logging.disable(logging.CRITICAL)  # a session of another test may have sent the log to standard output
    try:
        doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=failures.append)
    finally:
        logging.disable(logging.NOTSET)
    assert not failures, "".join(failures)


@pytest.mark.parametrize(
    "name",
    [
        "api.train_model",
        "api.AttentionModule",
        "core.checkpoint.load_model",
        "core.simulation.simulate_tissue",
        "core.neighbors.find_neighbors",
        "core.hubs.find_hubs",
        "datasets.model_dataset.ModelDataset",
    ],
)
def test_examples_are_found(name: str) -> None:
    assert name in EXAMPLES


def test_an_example_that_does_not_do_what_it_shows_fails() -> None:
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(wrong, out=lambda _: None).failed == 1
