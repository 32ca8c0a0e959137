"""The site is built without a warning, needs nothing from elsewhere, and its picture is that of the pipelines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sessions import PROJECT

sys.path.insert(0, str(PROJECT / "docs/tools"))

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Loaded(HTMLParser):
    """Collects what a page loads, and its formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.formulas = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADING.get(tag, "")) or ""
        relation = dict(attrs).get("rel") or ""
        if address and relation not in ("canonical", "prev", "next"):
            self.addresses.append(address)
        self.formulas += tag == "math"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` builds it."""
    recipe = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert "mkdocs build --strict" in recipe
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    variables = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(PROJECT / "src")}
    built = subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr + built.stdout
    return folder


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 90
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert [address for address in loaded.addresses if "//" in address] == [], page
        for address in loaded.addresses:
            if page.name != "404.html":
                assert (page.parent / address.partition("?")[0].partition("#")[0]).exists(), (page, address)


@pytest.mark.slow
def test_formulas_are_mathml(site: Path) -> None:
    text = (site / "method.html").read_text(encoding="utf-8")
    loaded = Loaded()
    loaded.feed(text)
    assert loaded.formulas > 40
    assert "arithmatex" not in text
    assert not re.search(r"\\\w+", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))


@pytest.mark.slow
def test_every_public_module_has_a_page(site: Path) -> None:
    package = PROJECT / "src/tissue_crosstalk"
    for folder in ("core", "core/plots", "core/report", "datasets"):
        for path in (package / folder).glob("*.py"):
            if not path.name.startswith("_"):
                name = ".".join(path.relative_to(package).with_suffix("").parts)
                assert (site / f"api/{name}.html").is_file(), name
    assert "compute_communication_hubs" in (site / "api/index.html").read_text(encoding="utf-8")
    assert ":class:" not in (site / "api/core.hubs.html").read_text(encoding="utf-8")


def test_the_picture_of_the_stages_is_that_of_the_pipelines() -> None:
    import flow

    from tissue_crosstalk.pipeline_registry import register_pipelines

    pipelines = register_pipelines()
    assert {
        *flow.STAGES,
        "__default__",
        "attention",
        "demo",
        "interpretation",
        "demo_interpretation",
    } == pipelines.keys()
    drawn = flow.draw(flow.between(pipelines))
    assert drawn == flow.PICTURE.read_text(encoding="utf-8"), "run python docs/tools/flow.py"


def test_docstrings_become_markdown() -> None:
    from docstrings import markdown_of

    table = "==== ====\na    b\n==== ====\n1    2\n==== ===="
    assert markdown_of(f"See :func:`~a.b.c`.\n\n{table}") == f"See `c`.\n\n```text\n{table}\n```"
