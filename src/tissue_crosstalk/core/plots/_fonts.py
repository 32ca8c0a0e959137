"""Other fonts for names of which matplotlib's own lacks characters, such as Japanese ones."""

from __future__ import annotations

import functools
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from tissue_crosstalk.core.errors import listing
from tissue_crosstalk.core.plots._svg_fonts import FAMILY
from tissue_crosstalk.core.repeated_warnings import warnings_of_this_thread

BOX: Final = "\u2014."
"""At least as wide as the box that is drawn in the place of a character that no font has."""
_GLYPH: Final = r"Glyph (\d+) .*missing from"
_told: set[str] = set()
_telling = threading.local()


def lacking(text: str) -> str:
    """Return the characters of a text that matplotlib's own font lacks, each once, in order."""
    if text.isascii():
        return ""
    own = _own_font()
    return "".join(sorted({one for one in text if one.isprintable() and not own.get_char_index(ord(one))}))


@functools.lru_cache(maxsize=1024)
def others_for(characters: str) -> tuple[tuple[str, ...], str]:
    """Return installed fonts that have some characters, as few as can be, and the characters that none has."""
    left, chosen = set(characters), []
    fonts = _installed() if characters else ()
    while left:
        covered = [(name, _covered(path, left)) for name, path in fonts]
        name, most = max(covered, key=lambda one: len(one[1]), default=("", set()))  # of as good ones, the first
        if not most:
            break
        chosen.append(name)
        left -= most
    return tuple(chosen), "".join(sorted(left))


def families(text: str) -> list[str]:
    """Return the families of fonts in which a text is to be set: matplotlib looks for each character in each."""
    return ["sans-serif", *others_for(lacking(text))[0]]


def as_wide(text: str) -> str:
    """Return a text that is as wide, of characters that can be drawn."""
    return "".join(BOX if one in others_for(lacking(text))[1] else one for one in text) if lacking(text) else text


@contextmanager
def missing_glyphs() -> Iterator[set[str]]:
    """Yield a set that is of the characters that were drawn as boxes when the block ends; matplotlib warns of each."""
    missing: set[str] = set()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", _GLYPH, UserWarning)
        with warnings_of_this_thread() as found:
            yield missing
    for one in found:
        known = re.match(_GLYPH, str(one.message))
        if known is None:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        else:
            missing.add(chr(int(known[1])))


def give_fonts(figure: Figure, missing: Iterable[str]) -> bool:
    """Have texts of a figure set in fonts that have some characters, and warn of what none has.

    Returns
    -------
    bool
        Whether there is such a font, and the figure is to be drawn again.
    """
    characters, has_some, boxes = set(missing), False, dict[str, str]()
    for text in figure.findobj(Text):
        content = text.get_text()
        own = "".join(sorted(characters & set(content)))
        if own:
            others, left = others_for(own)
            text.set_fontfamily(list(dict.fromkeys([*text.get_fontfamily(), *others])))
            has_some = has_some or bool(others)
            boxes |= {content: left} if left else {}
    _tell(boxes)
    return has_some


def be_silent() -> None:
    """Warn of nothing in this thread: another process does."""
    _telling.is_off = True


def _tell(boxes: dict[str, str]) -> None:
    """Warn of characters, by text, that no font has, of each once."""
    news = {text: left for text, left in boxes.items() if not set(left) <= _told}
    if not news or getattr(_telling, "is_off", False):
        return
    _told.update(*news.values())
    warnings.warn(
        f"no installed font has some characters of {listing(list(news), most=3)}, of which figures show boxes. Install "
        "one that has them, such as Noto Sans CJK (Debian and Ubuntu: apt install fonts-noto-cjk) for Chinese, "
        "Japanese and Korean, and draw the figures again.",
        stacklevel=1,
    )


@functools.lru_cache(maxsize=1)
def _own_font() -> FT2Font:
    return FT2Font(font_manager.findfont(FAMILY))


@functools.lru_cache(maxsize=1)
def _installed() -> tuple[tuple[str, str], ...]:
    """Return family and file of every installed font, one of each family, those that look most alike first."""
    manager = font_manager.fontManager
    known = {entry.fname for entry in manager.ttflist}
    for path in font_manager.findSystemFonts():  # matplotlib remembers those that were there when it was first used
        if path not in known:
            with suppress(Exception):  # none that it can use
                manager.addfont(path)
    entries = sorted(
        manager.ttflist,
        key=lambda entry: (
            not entry.name.startswith("Noto Sans"),
            "Sans" not in entry.name,
            entry.style != "normal",
            entry.weight != 400,
            entry.name,
            entry.fname,
        ),
    )
    by_family: dict[str, str] = {}
    for entry in entries:
        by_family.setdefault(entry.name, entry.fname)
    return tuple(by_family.items())


def _covered(path: str, characters: set[str]) -> set[str]:
    """Return those of some characters that a font has."""
    with suppress(Exception):  # whatever FreeType says of a file that is damaged, or gone
        font = FT2Font(path)
        return {one for one in characters if font.scalable and font.get_char_index(ord(one))}
    return set()
