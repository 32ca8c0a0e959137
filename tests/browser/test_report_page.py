"""The report in a real browser: sorting, unfolding, printing, and what hostile names do (nothing)."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Locator, Page

from tissue_crosstalk.core.report import (
    Chapter,
    Facts,
    FigureBlock,
    Gallery,
    Report,
    Table,
    Text,
    Warnings,
    render_report,
)

if TYPE_CHECKING:
    from conftest import WatchedPage

pytestmark = pytest.mark.browser

HOSTILE = (
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 1">',
    "{{ 7*7 }}",
    "</style><svg onload=window.pwned=1>",
)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int) -> bytes:
    rows = zlib.compress((b"\0" + b"\xbb" * width) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    few = pd.DataFrame(
        {
            "cell type": ["type 10", "Type 2", None, "type 1", *HOSTILE],
            "cells": [1000, 90, 9, 10_000, 1, 2, 3, 4],
            "p_value": [1e-7, 0.5, np.nan, -0.2, 3e-5, np.nan, np.inf, 12.0],
        }
    )
    many = pd.DataFrame({"number": rng.permutation(240), "same": "x", "place": np.arange(240)})
    wide = pd.DataFrame({f"a_rather_long_name_of_column_{number}": rng.normal(size=3) for number in range(30)})
    figure = FigureBlock(_png(1600, 800), "a grey field", "What was found.")
    unbroken = "hubs.attention_quantile_threshold" + "x" * 80
    report = Report(
        "Who talks to whom",
        "a study",
        (
            Chapter(
                "Summary", (Text(("Some words.",) * 3), Warnings(("Beware.", *HOSTILE)), Facts({unbroken: "y" * 90}))
            ),
            Chapter(
                "Tables",
                (
                    Table("Few", few, "A note."),
                    Table("Many", many),
                    Table("Wide " * 20, wide),
                    Table("At 60", many[:60]),
                ),
            ),
            Chapter("Figures", (figure, Gallery(HOSTILE[0], (figure, FigureBlock(_png(4000, 300), "long", "Long."))))),
        ),
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(report), encoding="utf-8")
    return Path(path).as_uri()


@pytest.fixture
def report(page: WatchedPage, address: str) -> Iterator[Page]:
    page.page.goto(address)
    yield page.page
    assert page.page_errors == []
    assert page.requests == [address]


def column(report: Page, table: int, position: int) -> list[str]:
    return report.locator("table").nth(table).locator(f"tbody td:nth-child({position})").all_inner_texts()


def visible_rows(report: Page, table: int) -> int:
    rows = "rows => rows.filter(row => getComputedStyle(row).display !== 'none').length"
    return report.locator("table").nth(table).locator("tbody tr").evaluate_all(rows)


def heading(report: Page, table: int, name: str) -> Locator:
    return report.locator("table").nth(table).get_by_role("columnheader", name=name)


def test_the_page_asks_for_nothing_and_complains_of_nothing(report: Page) -> None:
    assert report.title() == "Who talks to whom"
    assert report.evaluate("document.images.length") == 3
    assert report.evaluate("Array.from(document.images).every(image => image.naturalWidth > 0)")
    figure = report.locator("img").first
    assert figure.get_attribute("width") == "1000"  # 1,600 pixels, 200 to the inch on paper
    assert 800 < figure.bounding_box()["width"] < 1000  # what the column has


def test_hostile_names_are_text(report: Page) -> None:
    assert report.evaluate("window.pwned") is None
    assert column(report, 0, 1)[4:] == list(HOSTILE)
    assert report.locator(".warnings li").all_inner_texts() == ["Beware.", *HOSTILE]
    assert report.locator("summary h3").text_content() == HOSTILE[0]


def test_the_policy_stops_what_is_injected(page: WatchedPage, address: str) -> None:
    page.page.goto(address)
    page.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.pwned = 1";
            document.body.append(script);
            const image = document.createElement("img");
            image.src = "https://example.invalid/x.png";
            document.body.append(image);
        }"""
    )
    page.page.wait_for_timeout(50)
    assert page.page.evaluate("window.pwned") is None
    assert len(page.page_errors) == 2
    assert all("Content Security Policy" in error for error in page.page_errors)


def test_numbers_are_sorted_as_numbers(report: Page) -> None:
    cells = heading(report, 0, "cells")
    assert cells.get_attribute("aria-sort") is None
    cells.get_by_role("button").click()
    assert cells.get_attribute("aria-sort") == "ascending"
    assert column(report, 0, 2) == ["1", "2", "3", "4", "9", "90", "1,000", "10,000"]
    p_value = heading(report, 0, "p_value")
    p_value.get_by_role("button").focus()
    report.keyboard.press("Enter")
    assert (p_value.get_attribute("aria-sort"), cells.get_attribute("aria-sort")) == ("ascending", None)
    assert column(report, 0, 3) == ["−0.200", "1.00e−7", "3.00e−5", "0.500", "12.0", "∞", "–", "–"]
    report.keyboard.press("Space")
    assert p_value.get_attribute("aria-sort") == "descending"
    assert column(report, 0, 3) == ["∞", "12.0", "0.500", "3.00e−5", "1.00e−7", "−0.200", "–", "–"]
    assert column(report, 0, 2)[-2:] == ["2", "9"]  # equals stay in the order that they had


def test_text_is_sorted_as_people_do(report: Page) -> None:
    button = heading(report, 0, "cell type").get_by_role("button")
    button.click()
    ascending = column(report, 0, 1)
    assert [name for name in ascending if "ype" in name] == ["type 1", "Type 2", "type 10"]
    assert ascending[-1] == "–"
    button.click()
    assert column(report, 0, 1) == [*ascending[-2::-1], "–"]


def test_long_tables_unfold_and_sort_all_rows(report: Page) -> None:
    assert (visible_rows(report, 0), visible_rows(report, 1)) == (8, 25)
    heading(report, 1, "number").get_by_role("button").click()
    assert column(report, 1, 1)[:25] == [str(number) for number in range(25)]
    assert visible_rows(report, 1) == 25
    heading(report, 1, "same").get_by_role("button").click()
    assert column(report, 1, 1)[:25] == [str(number) for number in range(25)]
    report.get_by_role("button", name="Show all 240 rows").click()
    assert visible_rows(report, 1) == 240
    report.get_by_role("button", name="Show the first 25 rows").click()
    assert visible_rows(report, 1) == 25


def test_only_what_scrolls_is_reached_with_the_keyboard(report: Page) -> None:
    reached = report.locator(".box").evaluate_all("boxes => boxes.map(box => box.tabIndex)")
    assert reached == [-1, -1, 0, -1]
    assert report.get_by_role("region", name="Table 3. Wide").count() == 1
    report.keyboard.press("Tab")
    assert report.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert report.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_print(report: Page) -> None:
    assert report.get_by_role("navigation").is_visible()
    assert not report.get_by_alt_text("long").is_visible()
    report.emulate_media(media="print")
    assert not report.get_by_role("navigation").is_visible()
    assert report.locator("details").get_attribute("open") is None  # shown by the style alone
    assert report.locator("details img").last.evaluate("image => image.checkVisibility() && image.offsetHeight") > 0
    assert not report.get_by_role("button", name="Show all 240 rows").is_visible()
    assert (visible_rows(report, 1), visible_rows(report, 3)) == (25, 60)
    assert report.get_by_text("Printed are the first 25 of 240 rows.").is_visible()
    pdf = report.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 1


def test_printing_opens_and_closes_galleries(report: Page) -> None:
    report.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert report.locator("details").get_attribute("open") is not None
    report.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert report.locator("details").get_attribute("open") is None


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(report: Page, width: int) -> None:
    report.set_viewport_size({"width": width, "height": 844})
    report.locator("summary").click()
    assert report.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert report.evaluate(
        "Array.from(document.images).every(image => image.getBoundingClientRect().right <= innerWidth)"
    )
    ratio = "image => image.getBoundingClientRect().width / image.getBoundingClientRect().height"
    assert report.get_by_alt_text("long").evaluate(ratio) == pytest.approx(4000 / 300, rel=0.02)


def test_without_script_everything_is_there(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(address)
    assert opened.locator("table").nth(1).locator("tbody tr").last.is_visible()
    assert opened.get_by_role("button").count() == 0
    context.close()


def test_text_stands_out_from_what_is_behind_it(report: Page) -> None:
    report.locator("summary").click()
    measured = report.evaluate(
        """() => {
            const parts = color => color.match(/[0-9.]+/g).map(Number);
            const light = color => {
                const [r, g, b] = parts(color).slice(0, 3).map(c => {
                    const part = c / 255;
                    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
                });
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const behind = element => {
                for (let at = element; at; at = at.parentElement) {
                    const color = getComputedStyle(at).backgroundColor;
                    if ((parts(color)[3] ?? 1) > 0) return color;
                }
                return "rgb(255, 255, 255)";
            };
            const names = ["h1", ".subtitle", "nav p", "nav a", "main p", "dt", "dd", ".warnings li", "caption > span",
                           "th button", "td", "[data-missing]", ".note", ".more button",
                            "figcaption", ".amount", ".skip"];
            return Object.fromEntries(names.map(name => {
                const element = document.querySelector(name);
                const pair = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
                return [name, (pair[0] + 0.05) / (pair[1] + 0.05)];
            }));
        }"""
    )
    assert {name: ratio for name, ratio in measured.items() if ratio < 4.5} == {}
