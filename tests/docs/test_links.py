"""What README.md and docs/ name is there: files, anchors, targets of make, parameters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from blocks import PAGES

from sessions import PROJECT
from tissue_crosstalk.params import STAGE_PARAMS, flat_fields

TEXTS = [*PAGES, "SECURITY.md", *(name for name in ("CONTRIBUTING.md",) if (PROJECT / name).exists())]
AWAITED = {
    "CONTRIBUTING.md",
    "notebooks/01_a_first_look.ipynb",
    "notebooks/02_a_real_tissue.ipynb",
    "notebooks/03_comparing_runs.ipynb",
}
"""Links that may lead nowhere for now: others write these."""

SUFFIXES = ("md", "parquet", "json", "html", "py", "yml", "csv")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PYTHON = re.compile(r"^```python.*?^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def prose(page: str) -> str:
    return CODE.sub("", (PROJECT / page).read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (PROJECT / page).parent / target if target else PROJECT / page
        name = path.resolve().relative_to(PROJECT).as_posix()
        assert path.exists() or name in AWAITED, f"{page}: {link}"
        if anchor:
            assert anchor in anchors(path), f"{page}: {link}"


@pytest.mark.parametrize("page", TEXTS)
def test_targets_of_make_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", (PROJECT / page).read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets | {"study"}


@pytest.mark.parametrize("page", TEXTS)
def test_parameters_exist(page: str) -> None:
    """What reads like a parameter outside of Python is one."""
    known = {name for stage, block in STAGE_PARAMS.items() for name, _ in flat_fields(block(), stage)}
    text = PYTHON.sub("", (PROJECT / page).read_text(encoding="utf-8"))
    for name in re.findall(rf"(?<![\w./])(?:demo\.)?((?:{'|'.join(STAGE_PARAMS)})(?:\.[a-z_0-9]+)+)", text):
        if name.rpartition(".")[2] not in SUFFIXES:
            assert any(field == name or field.startswith(f"{name}.") for field in known), f"{page}: {name}"


def test_every_page_is_in_the_sites_menu_and_linked_from_its_start() -> None:
    menu = (PROJECT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert page.removeprefix("docs/") in menu, page
