from __future__ import annotations

import base64
import hashlib
import itertools
import re
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots.style import PNG_DPI
from tissue_crosstalk.core.report import (
    Block,
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
from tissue_crosstalk.core.report import page as report_page
from tissue_crosstalk.core.report.cells import columns_of, format_float, format_integer

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}",
    "</style><b>",
    "' onclick='x",
    "a & b",
    "</title>",
)
VOID = frozenset({"meta", "link", "img", "wbr", "br"})


class Parsed(HTMLParser):
    """Start tags with attributes, the text within each kind of element, and whether everything is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.open), data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag: str) -> str:
        return "".join(text for within, text in self.texts if tag in within)


def png(width: int = 40, height: int = 20) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress((b"\0" + b"\xff" * width) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def page_of(*blocks: Block, title: str = "Results") -> str:
    return render_report(Report("A report", "of a study", (Chapter(title, blocks),)))


def full_report(names: tuple[str, ...] = HOSTILE) -> Report:
    everything = " ".join(names)
    figure = FigureBlock(png(), everything, everything)
    frame = pd.DataFrame({name: list(names) for name in names}).assign(category=pd.Categorical(names))
    blocks = (
        Text((everything,)),
        Facts({name: name for name in names}),
        Table(everything, frame, everything),
        figure,
        Gallery(everything, (figure, figure)),
        Warnings(names),
    )
    return Report(everything, everything, (Chapter(everything, blocks), Chapter(everything, blocks), Chapter("é", ())))


def cells(values: object, dtype: object = None) -> list[str]:
    return [cell.text for cell in columns_of(pd.DataFrame({"x": pd.Series(values, dtype=dtype)}))[0].cells]


def test_a_page_is_whole_and_the_same_every_time() -> None:
    html = render_report(full_report())
    assert html == render_report(full_report())
    assert html.startswith("<!DOCTYPE html>")
    parsed = Parsed(html)
    assert parsed.all("html") == [{"lang": "en"}]
    assert [len(parsed.all(tag)) for tag in ("header", "nav", "main", "h1", "title")] == [1, 1, 1, 1, 1]
    assert html.encode() == html.encode("utf-8", "strict")


def test_nothing_that_comes_with_the_data_is_markup() -> None:
    harmless = tuple(chr(ord("a") + number) * len(name) for number, name in enumerate(HOSTILE))
    hostile, plain = Parsed(render_report(full_report())), Parsed(render_report(full_report(harmless)))
    shapes = [[(tag, sorted(own)) for tag, own in page.tags if tag != "wbr"] for page in (hostile, plain)]
    assert shapes[0] == shapes[1]
    everything = " ".join(HOSTILE)
    assert hostile.text("h1") == hostile.text("title") == everything
    assert hostile.all("img")[0]["alt"] == everything
    for name in HOSTILE:
        for tag in ("p", "dt", "dd", "th", "td", "caption", "figcaption", "h3", "li"):
            assert name in hostile.text(tag), (name, tag)
    assert "49" not in hostile.text("main")


def test_a_name_that_cannot_be_encoded_does_not_stop_the_report() -> None:
    assert r"a\ud800b" in page_of(Text(("a\ud800b",)))


def test_nothing_is_fetched() -> None:
    html = render_report(full_report())
    parsed = Parsed(html)
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "style", *filter(_is_handler, attributes)):
            value = attributes.get(name)
            if value is not None:
                assert name in ("src", "href"), (tag, name)
                assert value.startswith("#" if tag == "a" else "data:"), (tag, value)
    for text in (parsed.text("style"), parsed.text("script")):
        assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttpRequest|eval\(|innerHTML", text)
    assert "//" not in parsed.text("style")
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"iframe", "object", "embed", "form", "base"})


def _is_handler(attribute: str) -> bool:
    return attribute.startswith("on")


def test_the_policy_lets_nothing_run_but_the_script_that_is_there() -> None:
    parsed = Parsed(render_report(full_report()))
    (policy,) = (own["content"] for own in parsed.all("meta") if own.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("script", "style"):
        assert parsed.all(tag) == [{}]
        digest = base64.b64encode(hashlib.sha256(parsed.text(tag).encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert set(rules) == {"default-src", "img-src", "script-src", "style-src", "base-uri", "form-action"}
    names = [tag for tag, _ in parsed.tags]
    assert names.index("meta") < names.index("script")  # a policy is for what follows it


def test_headings_and_anchors_are_in_order() -> None:
    parsed = Parsed(render_report(full_report()))
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [own["id"] for _, own in parsed.tags if "id" in own]
    assert len(set(ids)) == len(ids)
    assert {own["href"].removeprefix("#") for own in parsed.all("a")} <= set(ids)
    named = [own["aria-labelledby"] for _, own in parsed.tags if "aria-labelledby" in own]
    assert set(named) <= set(ids)
    assert len(parsed.all("a")) == 1 + 3  # the skip link, and a link to each chapter
    assert next(tag for tag, _ in parsed.tags[parsed.tags.index(("body", {})) + 1 :]) == "a"


def test_anchors_are_made_of_titles() -> None:
    chapters = tuple(Chapter(title, ()) for title in ("Hubs & niches", "hubs – niches", "µ", "µ", "chapter 2"))
    parsed = Parsed(render_report(Report("A", "", chapters)))
    assert [own["id"] for own in parsed.all("h2")] == [
        "chapter-hubs-niches",
        "chapter-hubs-niches-2",
        "chapter",
        "chapter-2",
        "chapter-chapter-2",
    ]


def test_figures_have_their_size_alternative_and_number() -> None:
    html = page_of(FigureBlock(png(800, 401), "a map", "The map."), Gallery("more", (FigureBlock(png(1, 1), "b", ""),)))
    first, second = Parsed(html).all("img")
    assert (first["width"], first["height"], first["alt"]) == ("500", "251", "a map")
    assert (second["width"], second["height"]) == ("1", "1")
    assert first["src"] == "data:image/png;base64," + base64.b64encode(png(800, 401)).decode()
    assert Parsed(html).text("figcaption").split() == ["Figure", "1.", "The", "map.Figure", "2."]
    assert report_page.FIGURE_DPI == PNG_DPI


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.5, "0.500"),
        (1.0, "1.00"),
        (99.96, "100"),
        (0.12345, "0.123"),
        (-12.345, "−12.3"),
        (1234.5678, "1,235"),
        (999_999.7, "1,000,000"),
        (1e6, "1,000,000"),
        (1_000_001.5, "1.00e6"),
        (0.001, "0.00100"),
        (0.00099996, "0.00100"),
        (0.000999, "9.99e−4"),
        (-1.5e-300, "−1.50e−300"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
    ],
)
def test_floats_have_three_digits(value: float, shown: str) -> None:
    assert format_float(value) == shown


def test_cells_by_type() -> None:
    assert format_integer(-1234567) == "−1,234,567"
    assert cells([1, 15848]) == ["1", "15,848"]
    assert cells([1, None, 2000], "Int64") == ["1", "–", "2,000"]
    assert cells([1.0, np.nan, 2000.0]) == ["1", "–", "2,000"]  # counts, of which one is missing
    assert cells([1.5, np.nan, 2000.0]) == ["1.50", "–", "2,000"]
    assert cells([1.0, np.inf]) == ["1.00", "∞"]
    assert cells([True, False]) == ["yes", "no"]
    assert cells([True, None], "boolean") == ["yes", "–"]
    assert cells(["B", None, ""]) == ["B", "–", ""]
    assert cells(pd.Categorical([10, 2])) == ["10", "2"]
    assert cells([pd.Timestamp("2024-01-02"), pd.NaT]) == ["2024-01-02 00:00:00", "–"]
    assert cells([["a", "b"], {}]) == ["['a', 'b']", "{}"]
    assert cells([3, "x"]) == ["3", "x"]


def test_what_is_a_column_of_numbers() -> None:
    frame = pd.DataFrame(
        {
            "int": [1],
            "nan": [np.nan],
            "object": pd.Series([2], dtype=object),
            "truth": [True],
            "category": pd.Categorical([1]),
            "none": [None],
            "text": ["1"],
        }
    )
    assert [column.name for column in columns_of(frame) if column.is_number] == ["int", "nan", "object"]


def test_columns_may_share_a_name() -> None:
    frame = pd.DataFrame([[1, "a"]], columns=["x", "x"])
    assert [column.cells[0].text for column in columns_of(frame)] == ["1", "a"]


def test_the_full_value_is_kept() -> None:
    frame = pd.DataFrame({"p": [1.23456789e-5, np.nan, -np.inf], "n": [12345, 6, 7], "t": ["a", "b", "c"]})
    frame["f"] = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    p, n, t, f = Parsed(page_of(Table("Values", frame))).all("td")[:4]
    assert p == {"class": "n", "data-value": "1.23456789e-05", "title": "1.23456789e-05"}
    assert n == {"class": "n", "data-value": "12345"}
    assert "data-value" not in t
    assert f["data-value"] == "0.1"
    missing, infinite = (Parsed(page_of(Table("Values", frame))).all("td")[4 * row] for row in (1, 2))
    assert missing == {"class": "n", "data-missing": None}
    assert infinite["data-value"] == "-Infinity"  # as JavaScript writes it


@pytest.mark.parametrize(
    ("n_rows", "kept", "button", "is_cut"),
    [
        (0, 0, None, False),
        (25, 25, None, False),
        (26, 26, "Show all 26 rows", False),
        (60, 60, "Show all 60 rows", False),
        (61, 61, "Show all 61 rows", True),
        (2000, 2000, "Show all 2,000 rows", True),
        (2001, 2000, "Show 2,000 of 2,001 rows", True),
    ],
)
def test_long_tables(n_rows: int, kept: int, button: str | None, is_cut: bool) -> None:
    html = page_of(Table("Rows", pd.DataFrame({"x": np.arange(n_rows)}), "A note."))
    parsed = Parsed(html)
    assert len(parsed.all("tr")) == kept + 1
    assert parsed.text("button") == (button or "")
    assert ("Printed are the first 25 of" in html) == is_cut
    assert (f"The 2,000 first of {n_rows:,} rows are in this page." in html) == (n_rows > 2000)
    assert ("No rows." in html) == (n_rows == 0)
    assert len(parsed.all("caption")) == 1
    assert parsed.all("th") == [{"scope": "col", "class": "n"}]


def test_the_style_folds_where_the_page_says() -> None:
    style = Parsed(page_of()).text("style")
    assert re.findall(r"nth-child\(n \+ (\d+)\)", style) == [str(report_page.ROWS_SHOWN + 1)] * 2


def test_names_break_at_dots_and_underscores() -> None:
    html = page_of(Facts({"hubs.attention_quantile": "0.9", "empty": ""}))
    assert "<dt>hubs.<wbr>attention_<wbr>quantile</dt><dd>0.9</dd>" in html
    assert "<dt>empty</dt><dd>–</dd>" in html


def test_no_warnings_are_said() -> None:
    assert "<p>None.</p>" in page_of(Warnings(()))
    assert "<p>None.</p>" not in page_of(Warnings(("Beware.",)))


def test_parts_that_are_not_there() -> None:
    html = render_report(Report("A report", "", (Chapter("Empty", (Gallery("none", ()), Text(()), Facts({}))),)))
    assert "subtitle" not in Parsed(html).text("body")
    assert "0 figures" in html


@pytest.mark.parametrize("what", [b"", b"GIF89a" + b"\0" * 40, png()[:20], png()[:8] + b"\0" * 40, "text", None])
def test_what_is_no_png_is_an_error(what: object) -> None:
    with pytest.raises(ParameterError, match=r"`png` must be the bytes of a PNG file\. Got .* instead\."):
        FigureBlock(what, "alt", "caption")


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_empty_texts_are_errors(empty: str) -> None:
    chapter = Chapter("One", ())
    for make, name in (
        (lambda: Report(empty, "", (chapter,)), "title"),
        (lambda: Chapter(empty, ()), "title"),
        (lambda: Gallery(empty, ()), "title"),
        (lambda: Table(empty, pd.DataFrame({"x": [1]})), "caption"),
        (lambda: FigureBlock(png(), empty, ""), "alt"),
    ):
        with pytest.raises(ParameterError, match=rf"`{name}` must be a text that is not empty\. Got .* instead\."):
            make()


def test_other_errors() -> None:
    with pytest.raises(ParameterError, match=r"`chapters` must hold at least one chapter\. Got none instead\."):
        Report("A", "", ())
    with pytest.raises(ParameterError, match=r"`frame` must be a DataFrame with at least one column\."):
        Table("A", pd.DataFrame(index=[1]))
    with pytest.raises(ParameterError, match=r"`blocks` must hold .* Got str instead\."):
        Chapter("A", ("text",))


def test_a_long_report_is_quickly_made() -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(100_000, 10)))
    assert len(page_of(Table("Many", frame))) < 3_000_000  # of which 2,000 rows are in the page
