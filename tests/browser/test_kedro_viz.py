"""What Kedro-Viz shows of the pipelines: stages, layers, previews of what a run wrote, the code of the nodes."""

from __future__ import annotations

import ast
import functools
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import yaml
from playwright.sync_api import Locator, Page, expect

from sessions import PROJECT

if TYPE_CHECKING:
    from conftest import WatchedPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]

expect.set_options(timeout=30_000)

LAYERS = ["raw", "model_input", "models", "model_output", "reporting"]
STAGES = {"training", "extraction", "flavoring", "hubs", "reporting"}
PREVIEWED = (
    "AnnDataDataset",
    "FigureDataset",
    "FiguresDataset",
    "JSONDataset",
    "ModelDataset",
    "ParquetDataset",
    "ParquetShardsDataset",
)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site that ``kedro viz build`` makes: it writes where it is run and takes no environment or parameters."""
    project = tmp_path_factory.mktemp("project")
    for folder in ("conf", "src"):
        shutil.copytree(
            PROJECT / folder, project / folder, ignore=shutil.ignore_patterns("local", "__pycache__", "*.egg-info")
        )
    (project / "conf/local").mkdir()
    shutil.copy(PROJECT / "pyproject.toml", project)
    settings = project / "conf/test/globals.yml"
    settings.write_text(yaml.safe_dump({**yaml.safe_load(settings.read_text()), "root": str(demo)}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    built = subprocess.run(
        [sys.executable, "-m", "kedro", "viz", "build", "--include-previews"],
        cwd=project,
        env=environment | {"KEDRO_ENV": "test", "DO_NOT_TRACK": "true"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "Success" in built.stdout, built.stdout + built.stderr  # it ends with 0 in any case
    return project / "build"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def viz(page: WatchedPage, address: str) -> Page:
    """A page that asks this machine alone (Kedro-Viz wants a font from elsewhere), and whose tour is closed."""
    page.page.route(lambda url: not url.startswith(address), lambda route: route.abort())
    page.page.add_locator_handler(page.page.locator(".feature-hints__close"), lambda close: close.click())
    return page.page


def nodes(site: Path, pipeline: str) -> list[dict[str, Any]]:
    return list(json.loads((site / "api/pipelines" / pipeline).read_text())["nodes"])


def layers(site: Path, pipeline: str) -> list[str]:
    return list(json.loads((site / "api/pipelines" / pipeline).read_text())["layers"])


def metadata(site: Path, node: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads((site / "api/nodes" / node["id"]).read_text()))


def id_of(site: Path, name: str) -> str:
    [found] = [str(node["id"]) for node in nodes(site, "demo") if node["name"] == name]
    return found


def drawn(viz: Page, kind: str) -> Locator:
    return viz.locator(f".pipeline-node--{kind}")


def test_layers_are_ordered_as_the_data_flows(site: Path) -> None:
    assert layers(site, "__default__") == LAYERS
    assert layers(site, "demo") == LAYERS
    of_existing_model = layers(site, "attention")
    assert sorted(of_existing_model) == sorted(LAYERS)
    assert [layer for layer in of_existing_model if layer != "models"] == [  # the model is an input beside the tissue
        layer for layer in LAYERS if layer != "models"
    ]
    assert of_existing_model.index("models") < of_existing_model.index("model_output")


def test_every_file_of_the_demo_has_a_preview(site: Path) -> None:
    found = {
        node["name"]: metadata(site, node)
        for node in nodes(site, "demo")
        if node["type"] == "data" and node["dataset_type"].rsplit(".")[-1].removeprefix("Mlflow") in PREVIEWED
    }
    assert len(found) > 40
    assert [name for name, about in found.items() if not about.get("preview")] == []
    kinds = {about["preview_type"] for about in found.values()}
    assert kinds == {"ImagePreview", "TablePreview", "JSONPreview"}
    tables = {name: about["preview"] for name, about in found.items() if about["preview_type"] == "TablePreview"}
    assert [name for name, table in tables.items() if not table["columns"]] == []
    # Its conditions cannot be compared: the tissue is one section.
    assert [name for name, table in tables.items() if not table["data"]] == ["demo.hub_conditions"]


def test_every_node_has_code_that_says_what_it_does(site: Path) -> None:
    tasks = [node for node in nodes(site, "demo") if node["type"] == "task"]
    codes = {node["name"]: metadata(site, node)["code"] for node in tasks}
    assert len(codes) > 30
    functions = {name: ast.parse(textwrap.dedent(code)).body[0] for name, code in codes.items()}
    assert [
        name
        for name, function in functions.items()
        if not isinstance(function, ast.FunctionDef) or not ast.get_docstring(function)
    ] == []


def test_stages_are_folded_and_unfold(viz: Page, address: str, site: Path) -> None:
    viz.goto(f"{address}/?pid=__default__")
    expect(drawn(viz, "modularPipeline")).to_have_count(len(STAGES))
    assert set(drawn(viz, "modularPipeline").all_text_contents()) == STAGES
    expect(drawn(viz, "task")).to_have_count(0)
    viz.locator(".pipeline-node--modularPipeline[data-id=hubs]").click()
    of_hubs = {
        str(node["name"])
        for node in nodes(site, "__default__")
        if node["type"] == "task" and node["modular_pipelines"] == ["hubs"]
    }
    expect(drawn(viz, "task")).to_have_count(len(of_hubs))
    assert set(drawn(viz, "task").all_text_contents()) == of_hubs
    assert "find_hubs" in of_hubs
    expect(drawn(viz, "modularPipeline")).to_have_count(len(STAGES) - 1)


def test_layers_are_drawn_from_top_to_bottom(viz: Page, address: str) -> None:
    viz.goto(f"{address}/?pid=__default__")
    names = viz.locator(".pipeline-layer-name")
    expect(names).to_have_count(len(LAYERS))
    viz.wait_for_function(  # they slide in
        """expected => {
            const top = element => element.getBoundingClientRect().top;
            const drawn = [...document.querySelectorAll(".pipeline-layer-name")];
            const tops = drawn.map(top);
            return new Set(tops).size === drawn.length
                && drawn.sort((a, b) => top(a) - top(b)).map(name => name.textContent).join() === expected;
        }""",
        arg=",".join(LAYERS),
    )
    expect(names.first).to_be_visible()


@pytest.mark.parametrize("name", ["interaction_networks", "hub_map"])
def test_figures_are_previewed(viz: Page, address: str, site: Path, name: str) -> None:
    viz.goto(f"{address}/?pid=demo&sid={id_of(site, f'demo.{name}')}")
    expect(viz.get_by_role("heading", name=f"demo.{name}")).to_be_visible()
    image = viz.get_by_alt_text("Preview visualization")
    expect(image).to_be_visible()
    expect(image).to_have_js_property("complete", True)
    assert image.evaluate("image => image.naturalWidth") > 300


def test_tables_are_previewed(viz: Page, address: str, site: Path, demo: Path) -> None:
    viz.goto(f"{address}/?pid=demo&sid={id_of(site, 'demo.attention_by_pair')}")
    written = pd.read_parquet(demo / "data/08_reporting/demo/attention_by_pair.parquet")
    expect(viz.get_by_role("columnheader")).to_have_text(list(written.columns))
    expect(viz.get_by_role("cell", name=written["sender"].iloc[0]).first).to_be_visible()
