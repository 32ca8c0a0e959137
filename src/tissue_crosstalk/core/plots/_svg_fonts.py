"""The glyphs that an SVG needs, put into it: its text stays text, and looks the same where the font is missing."""

from __future__ import annotations

import base64
import functools
import html
import io
import re
from typing import Final

from matplotlib import get_data_path

FAMILY: Final = "DejaVu Sans"
_FILES: Final = {"normal": "DejaVuSans.ttf", "bold": "DejaVuSans-Bold.ttf"}
_TEXT: Final = re.compile(r"<text\b([^>]*)>(.*?)</text>", re.DOTALL)
_TAG: Final = re.compile(r"<[^>]*>")
_BOLD: Final = re.compile(r"font-weight:\s*(?:bold|[6-9]00)")
_STYLE_END: Final = "</style>"


def with_fonts(svg: str) -> str:
    """Return an SVG of matplotlib's with the glyphs of its text as embedded fonts.

    Parameters
    ----------
    svg
        Whose text is set in DejaVu Sans, as text.

    Returns
    -------
    str
        The same with an ``@font-face`` per weight in its style sheet; unchanged where there is no text.
    """
    characters: dict[str, set[str]] = {weight: set() for weight in _FILES}
    for attributes, content in _TEXT.findall(svg):
        weight = "bold" if _BOLD.search(attributes + content) else "normal"
        characters[weight] |= set(html.unescape(_TAG.sub("", content)))
    faces = "".join(
        f'@font-face{{font-family:"{FAMILY}";font-weight:{weight};'
        f"src:url(data:font/ttf;base64,{_subset(weight, ''.join(sorted(used)))})}}"
        for weight, used in characters.items()
        if used
    )
    return svg.replace(_STYLE_END, faces + _STYLE_END, 1)


@functools.lru_cache(maxsize=256)
def _subset(weight: str, characters: str) -> str:
    """Return the font of some characters alone, as base64; the same characters give the same text."""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    options = subset.Options(layout_features=["kern"], hinting=False, notdef_outline=True, recalc_timestamp=False)
    options.drop_tables += ["FFTM"]  # a date of the font's own, of which fontTools would warn each time
    font = TTFont(f"{get_data_path()}/fonts/ttf/{_FILES[weight]}", recalcTimestamp=False)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=characters)
    subsetter.subset(font)
    file = io.BytesIO()
    font.save(file)
    return base64.b64encode(file.getvalue()).decode()
