"""Every command of README.md and docs/ is run as it stands, and the page of tables is true."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import re
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import anndata
import pyarrow.parquet as pq
import pytest
from blocks import (
    COMMANDS,
    NOT_RUN,
    OTHERS,
    PAGES,
    SERVER,
    Block,
    blocks_of,
    copy_project,
    environment,
    run,
    why_not,
)

from servers import free_port
from sessions import PROJECT

WITH_COMMANDS = [page for page in PAGES if any(block.language in COMMANDS for block in blocks_of(page))]
TEAM_SERVER = "http://127.0.0.1:5050"


def test_every_block_is_run_or_listed() -> None:
    found = [block for page in PAGES for block in blocks_of(page)]
    assert {block.language for block in found} <= {*COMMANDS, *OTHERS}
    for page, part in [*NOT_RUN, SERVER, ("docs/results.md", "import squidpy"), ("docs/environments.md", "make study")]:
        matching = [block for block in found if block.page == page and part in block.text]
        assert len(matching) == 1, f"{part!r} is in {len(matching)} blocks of {page}: put the list right"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, in which the demo and the study of the first chapter were run and interpreted."""
    copy = copy_project(tmp_path_factory.mktemp("project"))
    check(Block("", "sh", ".venv/bin/kedro run --pipelines=demo"), copy)
    check(next(block for block in blocks_of("docs/tissue.md") if "study=embryo" in block.text), copy)
    check(next(block for block in blocks_of("docs/interpretation.md") if "demo_interp" in block.text), copy)
    return copy


@functools.cache  # what stands in several pages is run once
def check(block: Block, project: Path) -> None:
    """Run a block, and see that it ends well."""
    done = run(block, project)
    assert done.returncode == 0, f"{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def team_server(project: Path) -> Iterator[str]:
    """The server that the page starts, as it starts it."""
    page, part = SERVER
    command = next(block.text for block in blocks_of(page) if part in block.text)
    assert TEAM_SERVER.rpartition(":")[2] in command
    log = project / "team_server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["bash", "-euc", command],
            cwd=project,
            env=environment(project),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 120
        while not _answers(TEAM_SERVER):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.3)
        yield TEAM_SERVER
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _answers(server: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{server}/health", timeout=5):
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_of_a_page_run(page: str, project: Path, request: pytest.FixtureRequest) -> None:
    blocks = blocks_of(page)
    if page == SERVER[0]:
        request.getfixturevalue("team_server")
    left_out = {**NOT_RUN, SERVER: "it is running"}
    for block in blocks:
        if block.language in COMMANDS and why_not(block, left_out) is None:
            check(block, project)


@pytest.fixture
def guarded_server(team_server: str) -> Iterator[str]:
    """The team's server behind a gate that asks for a name and a password."""
    wanted = "Basic " + base64.b64encode(b"ada:s3cret").decode()

    class Gate(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, kind, answer = 401, "text/plain", b""
            if self.headers.get("Authorization") == wanted:
                passed = {"Content-Type": self.headers.get("Content-Type") or "application/json"}
                asked = urllib.request.Request(team_server + self.path, body or None, passed, method=self.command)
                try:
                    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked) as got:
                        status, kind, answer = got.status, got.headers["Content-Type"], got.read()
                except urllib.error.HTTPError as error:
                    status, kind, answer = error.code, error.headers["Content-Type"], error.read()
            self.send_response(status)
            self.send_header("Content-Type", kind or "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Gate) as gate:
        thread = threading.Thread(target=gate.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{gate.server_port}"
        gate.shutdown()
        thread.join()


@pytest.mark.slow
def test_credentials_of_conf_local_reach_the_teams_server(guarded_server: str, project: Path) -> None:
    """What docs/team.md says of credentials: read from conf/local, and not with another environment."""
    credentials = project / "conf/local/credentials.yml"
    credentials.write_text(
        "mlflow_credentials: {MLFLOW_TRACKING_USERNAME: ada, MLFLOW_TRACKING_PASSWORD: s3cret}", encoding="utf-8"
    )
    variables = {"MLFLOW_TRACKING_URI": guarded_server, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}

    def simulate(study: str, options: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        command = f".venv/bin/kedro run --pipelines=simulation --params=study={study} {options}"
        return run(Block("", "sh", command), project, **variables, **more)

    try:
        assert simulate("with-file").returncode == 0
        refused = simulate("refused", "--env=dask")
        assert refused.returncode != 0
        assert "401" in refused.stdout + refused.stderr
        own = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "s3cret"}
        assert simulate("with-variables", "--env=dask", **own).returncode == 0
    finally:
        credentials.unlink()
    with sqlite3.connect(project / "team_server/mlflow.db") as store:
        names = {name for (name,) in store.execute("SELECT name FROM runs")}
    store.close()
    assert {"with-file simulation", "with-variables simulation"} <= names
    assert "refused simulation" not in names


# The page of tables

HEADING = re.compile(r"^### (\S+)$", re.MULTILINE)
ROW = re.compile(r"^\| `([^`]+)` \|(.*)\|$", re.MULTILINE)
OF_THE_DEMO = {
    "neighbor_<i>": [f"neighbor_{slot}" for slot in range(12)],
    "<cell type>": [f"type {letter}" for letter in "ABCD"],
}
FLAVORS = ("vanilla", "value-weighted", "info-weighted", "gene-weighted")


def described() -> dict[str, dict[str, str]]:
    """Return what the page says: by table, its columns or keys, with the first of the other cells (the dtype)."""
    text = (PROJECT / "docs/tables.md").read_text(encoding="utf-8")
    parts = HEADING.split(text)[1:]
    return {
        name: {key: rest.split("|")[0].strip() for key, rest in ROW.findall(body)}
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def expand(columns: dict[str, str]) -> list[tuple[str, str]]:
    """Return the columns that a table of the demo must have."""
    listed = list(columns.items())
    if "received_<flavor>" in columns:
        both = [(name.replace("<flavor>", flavor), listed[0][1]) for flavor in FLAVORS for name, _ in listed[:2]]
        return both + listed[2:]
    return [(name, dtype) for column, dtype in listed for name in OF_THE_DEMO.get(column, [column])]


@pytest.mark.slow
def test_the_page_of_tables_is_that_of_a_run(project: Path) -> None:
    page = described()
    seen = set()
    for file in sorted((project / "data").glob("0[678]_*/demo/**/*.parquet")):
        folders = [parent.name for parent in file.parents if parent.name in page]
        name = folders[-1] if folders else file.name
        seen.add(name)
        schema = pq.read_schema(file)
        found = [(field.name, "dictionary" if "dictionary" in str(field.type) else str(field.type)) for field in schema]
        wanted = expand(page[name])
        assert [column for column, _ in found] == [column for column, _ in wanted], name
        for (column, dtype), (_, expected) in zip(found, wanted, strict=True):
            assert dtype in expected.split(" or "), f"{name}: {column} is {dtype}, and the page says {expected}"
    for file in sorted((project / "data").glob("0[78]_*/demo/*.json")):
        seen.add(file.name)
        assert list(json.loads(file.read_text())) == [name for name, _ in expand(page[file.name])], file.name
    model = json.loads((project / "data/06_models/demo/model/model.json").read_text())
    assert list(model) == list(page["model"])

    before = anndata.read_h5ad(project / "data/01_raw/demo/simulated_tissue.h5ad")
    annotated = anndata.read_h5ad(project / "data/08_reporting/demo/annotated_tissue.h5ad")
    assert entries(annotated).keys() - entries(before).keys() == page["annotated_tissue.h5ad"].keys()
    model_input = anndata.read_h5ad(project / "data/05_model_input/demo/model_input.h5ad")
    for tissue, name in ((annotated, "annotated_tissue.h5ad"), (model_input, "model_input.h5ad")):
        kinds = {key: entries(tissue)[key] for key in page[name]}
        assert kinds == page[name]
    assert entries(model_input).keys() == page["model_input.h5ad"].keys()
    seen |= {"model", "annotated_tissue.h5ad", "model_input.h5ad", "sweep.csv"}  # the last is of kedro sweep
    assert seen == page.keys()


def entries(tissue: anndata.AnnData) -> dict[str, str]:
    """Return the parts of a tissue and their dtypes, by the name that a user writes."""
    kinds = {"X": str(tissue.X.dtype)}
    for part in ("obs", "obsm", "obsp", "uns"):
        for key, value in getattr(tissue, part).items():
            kind = type(value).__name__ if part == "uns" else str(value.dtype)
            kinds[f'{part}["{key}"]'] = "array" if kind == "ndarray" else kind
    return kinds
