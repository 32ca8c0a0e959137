"""The parts of a report, and how they become one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from itertools import count
from typing import Any, Final, TypeAlias

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tissue_crosstalk.core.errors import ParameterError, printable
from tissue_crosstalk.core.report.cells import Column, columns_of, format_integer

ROWS_SHOWN: Final = 25  # as in report.css
ROWS_PRINTED: Final = 60  # longer tables print as they are first shown
ROWS_IN_PAGE: Final = 2_000
_LONGEST_UNBROKEN: Final = 28  # characters of a cell

FIGURE_DPI: Final = 200
_CSS_PIXELS_PER_INCH: Final = 125  # 96 would be as on paper, whose small print is read from nearer than a screen
_PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_SIZE: Final = 33  # signature, and IHDR with its length, name, 13 bytes and checksum


@dataclass(frozen=True)
class Text:
    """Prose.

    Parameters
    ----------
    paragraphs
        Plain text; nothing in it is taken for markup.
    """

    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Names and values, such as the parameters of a run.

    Parameters
    ----------
    items
        Values by name, shown in this order. Long names with dots and underscores are broken there.
    title
        If not empty, they are folded away under it until they are asked for or printed.
    """

    items: Mapping[str, str]
    title: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """A table whose columns can be sorted.

    Parameters
    ----------
    caption
        What the table shows.
    frame
        Its rows and columns; the index is not shown. At most 2,000 rows get into the page.
    note
        What else is to be known, below the table.

    Raises
    ------
    ParameterError
        If `caption` is empty or `frame` has no column.
    """

    caption: str
    frame: pd.DataFrame
    note: str = ""

    def __post_init__(self) -> None:
        _require_text("caption", self.caption)
        if not isinstance(self.frame, pd.DataFrame) or not len(self.frame.columns):
            raise ParameterError(
                f"`frame` must be a DataFrame with at least one column. Got {type(self.frame).__name__} instead."
            )


@dataclass(frozen=True)
class FigureBlock:
    """A figure.

    Parameters
    ----------
    png
        The figure as PNG, drawn with 200 dots per inch.
    alt
        What is seen in it, for those who do not see it.
    caption
        What stands below it; may be empty.

    Raises
    ------
    ParameterError
        If `png` is no PNG or `alt` is empty.
    """

    png: bytes
    alt: str
    caption: str

    def __post_init__(self) -> None:
        _require_text("alt", self.alt)
        _png_size(self.png)


@dataclass(frozen=True)
class Gallery:
    """Many figures, folded away until they are asked for or printed.

    Parameters
    ----------
    title
        What the figures have in common.
    figures
        The figures in their order.

    Raises
    ------
    ParameterError
        If `title` is empty.
    """

    title: str
    figures: tuple[FigureBlock, ...]

    def __post_init__(self) -> None:
        _require_text("title", self.title)


@dataclass(frozen=True)
class Warnings:
    """What the reader should be wary of.

    Parameters
    ----------
    messages
        One or more sentences each. Without any, the page says "None."
    """

    messages: tuple[str, ...]


Block: TypeAlias = Text | Facts | Table | FigureBlock | Gallery | Warnings


@dataclass(frozen=True)
class Chapter:
    """A chapter, which the table of contents names.

    Parameters
    ----------
    title
        Its heading.
    blocks
        What it is made of.

    Raises
    ------
    ParameterError
        If `title` is empty, or a block is none of the parts of a report.
    """

    title: str
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        _require_text("title", self.title)
        for block in self.blocks:
            if not isinstance(block, Block):
                raise ParameterError(
                    "`blocks` must hold Text, Facts, Table, FigureBlock, Gallery or Warnings. "
                    f"Got {type(block).__name__} instead."
                )


@dataclass(frozen=True)
class Report:
    """A report.

    Parameters
    ----------
    title
        Heading and title of the page.
    subtitle
        One line below; may be empty.
    chapters
        At least one.

    Raises
    ------
    ParameterError
        If `title` is empty or there is no chapter.
    """

    title: str
    subtitle: str
    chapters: tuple[Chapter, ...]

    def __post_init__(self) -> None:
        _require_text("title", self.title)
        if not self.chapters:
            raise ParameterError("`chapters` must hold at least one chapter. Got none instead.")


def render_report(report: Report) -> str:
    """Return a report as one HTML page.

    Figures, style and script are in the page, and its content security policy lets it fetch nothing and run no other
    script. The same report gives the same page.

    Parameters
    ----------
    report
        What to show. Tables and figures are numbered in their order.

    Returns
    -------
    str
        The page, to be written as UTF-8.

    Examples
    --------
    >>> page = render_report(Report("Hubs", "", (Chapter("Results", (Text(("B < T",)),)),)))
    >>> "<p>B &lt; T</p>" in page
    True
    """
    style, script = _own_file("report.css"), _own_file("report.js")
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_fingerprint(style)}'",
            f"script-src '{_fingerprint(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    page = (
        _environment()
        .get_template("template.html.j2")
        .render(
            title=report.title,
            subtitle=report.subtitle,
            chapters=_chapters(report),
            policy=policy,
            style=Markup(style),
            script=Markup(script),
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a name could not be written


@cache
def _environment() -> Environment:
    """Return what reads the template; everything that is put into it is escaped."""
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _visible(value: object) -> object:
    """Return text with escapes for what cannot be seen: a name must not turn the direction of what is around it."""
    return printable(value) if type(value) is str else value  # not markup, which is ours


def _own_file(name: str) -> str:
    """Return the text of a file beside this one, with the line ends that a browser will see."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _fingerprint(text: str) -> str:
    """Return what a content security policy knows an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _breakable(text: str) -> Markup:
    """Return text, escaped, that may be broken after dots, underscores and slashes."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/])(?=\w)", printable(text)))


def _chapters(report: Report) -> list[dict[str, Any]]:
    """Return the chapters as the template takes them."""
    anchors: set[str] = set()
    tables, figures = count(1), count(1)
    return [
        {
            "anchor": _anchor(chapter.title, anchors),
            "title": chapter.title,
            "blocks": [_block(block, tables, figures) for block in chapter.blocks],
        }
        for chapter in report.chapters
    ]


def _anchor(title: str, taken: set[str]) -> str:
    """Return an anchor made of a title that none has yet, and take it."""
    words = re.sub(r"[^a-z0-9]+", "-", title.casefold()).strip("-")
    wanted = f"chapter-{words}" if words else "chapter"
    anchor = next(name for name in (wanted, *(f"{wanted}-{n}" for n in range(2, len(taken) + 3))) if name not in taken)
    taken.add(anchor)
    return anchor


def _block(block: Block, tables: count[int], figures: count[int]) -> dict[str, Any]:
    """Return a block as the template takes it, with its `kind`."""
    match block:
        case Table():
            return {"kind": "table", **_table(block, next(tables))}
        case FigureBlock():
            return {"kind": "figure", "figure": _figure(block, next(figures))}
        case Gallery():
            drawn = [_figure(figure, next(figures)) for figure in block.figures]
            return {"kind": "gallery", "title": block.title, "figures": drawn}
        case Text() | Facts() | Warnings():
            own = {field.name: getattr(block, field.name) for field in fields(block)}
            return {"kind": type(block).__name__.lower(), "values": own}


def _figure(figure: FigureBlock, number: int) -> dict[str, Any]:
    """Return a figure as the template takes it."""
    width, height = _png_size(figure.png)
    return {
        "number": number,
        "source": "data:image/png;base64," + base64.b64encode(figure.png).decode(),
        "alt": figure.alt,
        "caption": figure.caption,
        "width": max(round(width * _CSS_PIXELS_PER_INCH / FIGURE_DPI), 1),
        "height": max(round(height * _CSS_PIXELS_PER_INCH / FIGURE_DPI), 1),
    }


def _table(table: Table, number: int) -> dict[str, Any]:
    """Return a table as the template takes it."""
    total = len(table.frame)
    kept = min(total, ROWS_IN_PAGE)
    columns = columns_of(table.frame.iloc[:kept])
    cut = f"The {format_integer(kept)} first of {format_integer(total)} rows are in this page." if kept < total else ""
    every = f"Show all {format_integer(total)} rows"
    return {
        "number": number,
        "caption": table.caption,
        "note": table.note,
        "columns": columns,
        "classes": ["n" if column.is_number else ("short" if _is_short(column) else "") for column in columns],
        "rows": list(zip(*(column.cells for column in columns), strict=True)),
        "is_folded": kept > ROWS_SHOWN,
        "is_cut_in_print": kept > ROWS_PRINTED,
        "show_all": every if kept == total else f"Show {format_integer(kept)} of {format_integer(total)} rows",
        "show_few": f"Show the first {ROWS_SHOWN} rows",
        "cut": cut,
        "cut_in_print": f"Printed are the first {ROWS_SHOWN} of {format_integer(total)} rows.",
    }


def _is_short(column: Column) -> bool:
    """Return whether the texts of a column are better not broken: names are, sentences are not."""
    return all(len(cell.text) <= _LONGEST_UNBROKEN for cell in column.cells)


def _png_size(png: bytes) -> tuple[int, int]:
    """Return width and height of a PNG in its own pixels."""
    if not isinstance(png, bytes) or len(png) < _PNG_HEADER_SIZE or not png.startswith(_PNG_START):
        got = f"{len(png)} bytes that are not" if isinstance(png, bytes) else type(png).__name__
        raise ParameterError(f"`png` must be the bytes of a PNG file. Got {got} instead.")
    width, height = struct.unpack(">II", png[16:24])
    if png[12:16] != b"IHDR" or not width or not height:
        raise ParameterError("`png` must be the bytes of a PNG file. Got one without a size instead.")
    return width, height


def _require_text(name: str, text: str) -> None:
    """Raise an error if a text is empty."""
    if not isinstance(text, str) or not text.strip():
        raise ParameterError(f"`{name}` must be a text that is not empty. Got {text!r} instead.")
