"""A real browser: none of its own requests, and every complaint of a page kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class WatchedPage:
    """A page with what went wrong on it, and what it asked for (data: apart)."""

    page: Page
    page_errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        message = f"No browser was found; looked for {', '.join(PROGRAMS)}."
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[WatchedPage]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    watched = WatchedPage(opened)
    opened.on("console", lambda said: watched.page_errors.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: watched.page_errors.append(str(error)))
    opened.on("request", lambda asked: None if asked.url.startswith("data:") else watched.requests.append(asked.url))
    yield watched
    context.close()
