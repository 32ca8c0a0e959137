"""What mkdocs does beside its own: formulas as MathML, a page per module, and the project's other texts as pages.

A browser draws MathML by itself: no script and no font has to come from anywhere.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = PROJECT / "src"
PACKAGE = "tissue_crosstalk"

TEXTS = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
"""Texts at the project's root that become pages."""

_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def modules() -> dict[str, list[str]]:
    """Return the documented modules by part of the package."""
    names = sorted(
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for folder in ("core", "core/plots", "core/report", "datasets")
        for path in (SOURCE / PACKAGE / folder).glob("*.py")
        if not path.name.startswith("_")
    )
    return {
        "core": [name for name in names if name.startswith(f"{PACKAGE}.core.") and name.count(".") == 2],
        "core.plots": [name for name in names if name.startswith(f"{PACKAGE}.core.plots.")],
        "core.report": [name for name in names if name.startswith(f"{PACKAGE}.core.report.")],
        "datasets": [name for name in names if name.startswith(f"{PACKAGE}.datasets.")],
        "params": [f"{PACKAGE}.params"],
    }


def page_of(module: str) -> str:
    """Return the page of a module.

    >>> page_of("tissue_crosstalk.core.hubs")
    'api/core.hubs.md'
    """
    return f"api/{module.removeprefix(f'{PACKAGE}.')}.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the modules behind that of the API, and the project's texts at the end."""
    api = [
        {part: page_of(names[0])} if names == [f"{PACKAGE}.{part}"] else {part: [page_of(name) for name in names]}
        for part, names in modules().items()
    ]
    assert config.nav is not None
    reference = config.nav[-1]["Reference"]
    reference[-1] = {"API": [reference[-1]["API"], *api]}
    config.nav.append({"The project": [name for name in TEXTS if (PROJECT / name).is_file()]})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages of the modules, and the project's texts."""
    for names in modules().values():
        for module in names:
            content = f"# `{module.removeprefix(f'{PACKAGE}.')}`\n\n::: {module}\n"
            files.append(File.generated(config, page_of(module), content=content))
    for name in TEXTS:
        if (PROJECT / name).is_file():
            content = (PROJECT / name).read_text(encoding="utf-8")
            files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between the project's files into links between pages; what is no page is named alone."""
    source = page.file.src_uri
    folder = PROJECT if source in TEXTS else PROJECT / "docs" / Path(source).parent

    def linked(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target:
            return match[0]
        path = Path(os.path.normpath(folder / target))
        page_path = _page_path(path)
        if page_path is not None and page_path in files.src_uris:
            return f"[{text}]({os.path.relpath(page_path, Path(source).parent)}{anchor})"
        if path.is_relative_to(PROJECT / "docs"):
            return match[0]  # a mistake, of which mkdocs will tell
        return text

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(linked, part) for part in parts)


def _page_path(path: Path) -> str | None:
    """Return a file's path among the pages."""
    if path.is_relative_to(PROJECT / "docs"):
        return path.relative_to(PROJECT / "docs").as_posix()
    return path.name if path.parent == PROJECT else None


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML."""
    content = _DISPLAY.sub(lambda match: convert(html.unescape(match[1]).strip(), display="block"), content)
    return _INLINE.sub(lambda match: convert(html.unescape(match[1]).strip()), content)
