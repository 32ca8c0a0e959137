"""What MLflow's pages show of finished runs: the list, tags, parameters, figures, the report, two runs compared."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Locator, Page, expect

from servers import free_port, group_members
from sessions import run_project
from tissue_crosstalk.core.files import digest
from tissue_crosstalk.ui import run_list, serve, stop, wait_for

if TYPE_CHECKING:
    from mlflow.entities import Run

    from conftest import WatchedPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]

expect.set_options(timeout=30_000)  # MLflow's pages are heavy, and machines are busy

QUICK = {"n_clusters": 3, "stability_resamples": 0, "n_permutations": 9}
THRESHOLDS = (0.9, 0.7)


@dataclass(frozen=True)
class Served:
    """A server of MLflow with the runs that it shows."""

    address: str
    store: str
    demo: Run
    hubs: list[Run]

    def page_of(self, run: Run) -> str:
        return f"{self.address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


@pytest.fixture(scope="module")
def served(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo's run, and two of stage hubs that differ in one parameter, in a copy of the demo's store."""
    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("served")
    with closing(sqlite3.connect(demo / "mlflow.db")) as ours, closing(sqlite3.connect(root / "mlflow.db")) as copy:
        ours.backup(copy)
        copy.execute("UPDATE experiments SET artifact_location = ?", [(root / "mlruns").as_uri()])  # of later runs
        copy.commit()
    for folder in ("05_model_input", "07_model_output"):
        shutil.copytree(demo / "data" / folder / "demo", root / "data" / folder / "known")
    tissue = str(demo / "data/01_raw/demo/simulated_tissue.h5ad")
    for threshold in THRESHOLDS:
        hubs = {**QUICK, "attention_quantile_threshold": threshold}
        run_project(root, "hubs", study="known", tissue=tissue, hubs=hubs)
    store = f"sqlite:///{root}/mlflow.db"
    found = MlflowClient(tracking_uri=store).search_runs(["1"], order_by=["attributes.start_time ASC"])
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = serve(store, port)
    try:
        wait_for(address, process)
        yield Served(address, store, found[0], found[1:])
    finally:
        stop(process)
        assert group_members(process.pid) == []


def opened_artifact(page: Page, path: str) -> Locator:
    """Open a file in the tree of artifacts, folder by folder; return where it is shown."""
    page.get_by_role("tab", name="Artifacts").click()
    tree = page.get_by_role("main")
    for name in path.split("/"):
        tree.get_by_text(name, exact=True).first.click()
    expect(tree.get_by_text(path, exact=True).last).to_be_visible()
    return tree


def test_list_of_runs_leads_to_each(page: WatchedPage, served: Served) -> None:
    page.page.goto(run_list(served.address, served.store))
    expect(page.page.get_by_role("heading", name="Training runs")).to_be_visible()
    expect(page.page.get_by_text("3 matching runs")).to_be_visible()
    for run in served.hubs:
        expect(page.page.locator(f"a[href='#/experiments/1/runs/{run.info.run_id}']")).to_have_text(
            str(run.info.run_name)
        )
    name = str(served.demo.info.run_name)
    page.page.get_by_role("link", name=name, exact=True).click()
    expect(page.page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    expect(page.page.get_by_text(served.demo.info.run_id, exact=True).first).to_be_visible()


def test_run_shows_what_it_came_from(page: WatchedPage, served: Served, demo: Path) -> None:
    tissue = demo / "data/01_raw/demo/simulated_tissue.h5ad"
    model = demo / "data/06_models/demo/model"
    tags = {
        "study": "demo",
        "tissue": tissue.as_posix(),
        "tissue_sha256": hashlib.sha256(tissue.read_bytes()).hexdigest(),
        "model": model.as_posix(),
        "model_sha256": digest(model),
        "git_commit": served.demo.data.tags["git_commit"],
    }
    assert {name: served.demo.data.tags[name] for name in tags} == tags
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", tags["git_commit"])
    page.page.goto(served.page_of(served.demo))
    for name, value in tags.items():
        shown = page.page.get_by_role("status", name=name, exact=True)
        expect(shown).to_have_text(f"{name}: {value}")
        expect(shown).to_be_visible()


def test_run_shows_parameters_and_metrics(page: WatchedPage, served: Served) -> None:
    data = served.demo.data
    page.page.goto(served.page_of(served.demo))
    expect(page.page.get_by_role("heading", name=f"Parameters ({len(data.params)})")).to_be_visible()
    expect(page.page.get_by_role("heading", name=f"Metrics ({len(data.metrics)})")).to_be_visible()
    for kind, name, value in (
        ("parameters", "demo.training.network.n_heads", "2"),
        ("parameters", "hubs.attention_quantile_threshold", "0.9"),
        ("metrics", "attention.cells", "600"),
    ):
        page.page.get_by_placeholder(f"Search {kind}").fill(name)
        shown = page.page.get_by_role("row").filter(has=page.page.get_by_text(name, exact=True))
        expect(shown.get_by_role("cell")).to_have_text([name, value])


def test_artifacts_are_in_folders_with_names_to_read(page: WatchedPage, served: Served) -> None:
    page.page.goto(served.page_of(served.demo))
    page.page.get_by_role("tab", name="Artifacts").click()
    tree = page.page.get_by_role("main").get_by_role("listitem")
    expect(tree.filter(has_text="report.html")).to_be_visible()
    assert [text.split()[-1] for text in tree.all_inner_texts()] == [
        "attention", "hubs", "recovery", "training", "report.html",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("artifact", "file"),
    [
        ("attention/interaction_networks/vanilla.png", "interaction_networks/vanilla.png"),
        ("hubs/hub_map.png", "hub_map.png"),
    ],
)
def test_figures_are_shown(page: WatchedPage, served: Served, demo: Path, artifact: str, file: str) -> None:
    page.page.goto(served.page_of(served.demo))
    image = opened_artifact(page.page, artifact).get_by_alt_text(artifact)
    expect(image).to_have_js_property("complete", True)
    written = (demo / "data/08_reporting/demo" / file).read_bytes()
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [
        *struct.unpack(">II", written[16:24])
    ]


def test_report_is_shown_and_alive(page: WatchedPage, served: Served) -> None:
    page.page.goto(served.page_of(served.demo))
    report = opened_artifact(page.page, "report.html").frame_locator("iframe")
    expect(report.get_by_role("heading", level=1)).to_contain_text("Who talks to whom")
    images = report.locator("figure img")
    assert images.count() > 5
    expect(images.first).to_have_js_property("complete", True)
    assert images.first.evaluate("image => image.naturalWidth") > 0
    heading = report.get_by_role("columnheader").first
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "ascending")
    assert [error for error in page.page_errors if "Content Security Policy" in error] == []


def test_two_runs_are_compared(page: WatchedPage, served: Served) -> None:
    runs = json.dumps([run.info.run_id for run in served.hubs])
    page.page.goto(f'{served.address}/#/compare-runs?runs={runs}&experiments=["1"]')
    expect(page.page.get_by_role("heading", name="Comparing 2 Runs")).to_be_visible()
    name = "hubs.attention_quantile_threshold"
    page.page.get_by_role("switch", name="Parameters - Show diff only").click()
    parameters = page.page.get_by_role("row").filter(has=page.page.get_by_role("rowheader", name=re.compile("^hubs")))
    expect(parameters).to_have_count(2)  # the one that differs, and the block that it is of
    expect(parameters.last.get_by_role("rowheader")).to_have_text(name)
    expect(parameters.last.get_by_role("cell")).to_have_text([str(threshold) for threshold in THRESHOLDS])
    for metric in ("hubs.hubs", "hubs.share of isolated cells"):
        values = [run.data.metrics[metric] for run in served.hubs]
        assert compared_metric(page.page, metric) == pytest.approx(values, abs=5e-4)
    assert served.hubs[0].data.metrics[metric] > served.hubs[1].data.metrics[metric]


def compared_metric(page: Page, metric: str) -> list[float]:
    """Return what stands beside a metric's name; names and values are grids of their own."""
    name = page.get_by_role("link", name=metric, exact=True)
    name.scroll_into_view_if_needed()
    values = page.get_by_role("grid").last.locator("span").filter(has_text=re.compile(r"^-?[\d.]+$"))
    expect(values.first).to_be_visible()
    box = "element => { const box = element.getBoundingClientRect(); return [box.x, box.top, box.bottom]; }"
    _, top, bottom = name.evaluate(box)
    beside = [
        (left, float(value.inner_text()))
        for value in values.all()
        for left, start, end in [value.evaluate(box)]
        if top < (start + end) / 2 < bottom
    ]
    return [value for _, value in sorted(beside)]
