"""Names that matplotlib's own font lacks characters of: in another font where one has them, else one warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from tissue_crosstalk.core.plots import _fonts
from tissue_crosstalk.core.plots._fonts import families, lacking, others_for
from tissue_crosstalk.core.plots._layout import text_width
from tissue_crosstalk.core.plots.style import png_of, save_figure

NAMES = ("T細胞", "B細胞", "상피", "Tumor, CD4+")
CACHES = (others_for, text_width)


def font_of(path: Path, family: str, characters: str) -> None:
    """Write a font in which characters are filled squares."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    glyphs = [".notdef", *(f"c{number}" for number in range(len(characters)))]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(glyphs)
    font.setupCharacterMap({ord(one): f"c{number}" for number, one in enumerate(characters)})
    font.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Fonts of a machine, by family: only these are there."""
    fonts: dict[str, str] = {}
    for family, characters in (("Squares Han", "細胞"), ("Squares Hangul", "상피")):
        path = tmp_path / f"{family}.ttf"
        font_of(path, family, characters)
        font_manager.fontManager.addfont(path)
        fonts[family] = str(path)
    monkeypatch.setattr(_fonts, "_installed", lambda: tuple(fonts.items()))
    monkeypatch.setattr(_fonts, "_told", set())
    for cache in CACHES:
        cache.cache_clear()
    yield fonts
    for cache in CACHES:
        cache.cache_clear()
    font_manager.fontManager.ttflist = [
        entry for entry in font_manager.fontManager.ttflist if not entry.name.startswith("Squares")
    ]
    font_manager._get_font.cache_clear()


def drawn(*names: str) -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.set_yticks(np.arange(len(names)), names)
    return figure


def test_what_the_own_font_lacks() -> None:
    assert [lacking(name) for name in ("Tumor, CD4+", "é µ Ω β", "T細胞細", "")] == ["", "", "細胞", ""]


def test_as_few_fonts_as_can_be(installed: dict[str, str]) -> None:
    assert others_for("細胞") == (("Squares Han",), "")
    assert others_for("細상피") == (("Squares Hangul", "Squares Han"), "")
    assert others_for("細日") == (("Squares Han",), "日")
    assert others_for("") == ((), "")
    assert families("B細胞") == ["sans-serif", "Squares Han"]
    assert families("B") == ["sans-serif"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_names_are_drawn_in_fonts_that_have_them(installed: dict[str, str], tmp_path: Path, suffix: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = save_figure(drawn(*NAMES), tmp_path / f"figure{suffix}")
        again = save_figure(drawn(*NAMES), tmp_path / f"again{suffix}")
    assert file.read_bytes() == again.read_bytes()
    if suffix == ".svg":
        assert "Squares Han" in file.read_text(encoding="utf-8")
        assert "T細胞" in file.read_text(encoding="utf-8")


def test_names_are_as_wide_as_they_are_drawn(installed: dict[str, str]) -> None:
    em = 7.0 / 72
    assert text_width("細胞細胞") == pytest.approx(4 * 1.04 * em, rel=0.02)
    installed.clear()
    for cache in CACHES:
        cache.cache_clear()
    assert text_width("細胞細胞") > 4 * 1.04 * em  # boxes are wider


def test_one_warning_where_no_font_has_them(installed: dict[str, str]) -> None:
    installed.clear()
    with pytest.warns(
        UserWarning, match="no installed font has some characters of 'T細胞', 'B細胞', '상피', of"
    ) as told:
        png_of(drawn(*NAMES))
    assert [str(one.message) for one in told if "Install one that has them, such as Noto Sans CJK" in str(one.message)]
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png_of(drawn(*NAMES))  # which was told of


def test_other_warnings_of_drawing_are_told() -> None:
    missing: set[str] = set()

    def draw() -> None:
        with _fonts.missing_glyphs() as found:
            warnings.warn("as ever", stacklevel=1)
            warnings.warn("Glyph 32048 (\\N{CJK}) missing from font(s) DejaVu Sans.", stacklevel=1)
        missing.update(found)

    with pytest.warns(UserWarning, match="as ever"):
        draw()
    assert missing == {chr(32048)}


def test_figures_of_other_names_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = png_of(drawn("Tumor, CD4+", "é"))
    monkeypatch.setattr(_fonts, "_installed", functools.partial(pytest.fail, "no font is to be looked for"))
    assert png_of(drawn("Tumor, CD4+", "é")) == expected
