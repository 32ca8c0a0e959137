"""How every figure looks, which colour each cell type has, and how figures and their names get onto disk."""

from __future__ import annotations

import colorsys
import functools
import gc
import hashlib
import io
import itertools
import os
import re
import threading
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, is_color_like, to_hex, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from tissue_crosstalk.core.errors import ParameterError, did_you_mean, listing
from tissue_crosstalk.core.files import whole_file
from tissue_crosstalk.core.plots._drawing_processes import n_helpers, shared
from tissue_crosstalk.core.plots._fonts import give_fonts, missing_glyphs
from tissue_crosstalk.core.plots._svg_fonts import with_fonts

FONT_SIZE: Final = 7.0
TITLE_SIZE: Final = 8.5
PNG_DPI: Final = 200

STYLE: Final[Mapping[str, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#333333",
    "axes.facecolor": "white",
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.useoffset": False,
    "axes.grid": False,
    "axes.labelcolor": "#1a1a1a",
    "axes.labelpad": 3.0,
    "axes.labelsize": FONT_SIZE,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlepad": 3.0,
    "axes.titlesize": FONT_SIZE,
    "figure.dpi": 100.0,
    "figure.facecolor": "white",
    "font.family": ["sans-serif"],
    # DejaVu Sans comes with matplotlib, so a figure is the same everywhere; the others stand in where an SVG is opened.
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": FONT_SIZE,
    "legend.fontsize": FONT_SIZE,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "savefig.bbox": "standard",
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",
    "svg.hashsalt": "tissue-crosstalk",
    "text.color": "#1a1a1a",
    "text.parse_math": False,  # names of cell types may hold a dollar sign
    "xtick.color": "#333333",
    "xtick.labelsize": FONT_SIZE - 0.5,
    "xtick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.color": "#333333",
    "ytick.labelsize": FONT_SIZE - 0.5,
    "ytick.major.size": 2.5,
    "ytick.major.width": 0.6,
}

# Okabe and Ito's colours without black, with a dark brown-grey instead; the pale yellow comes last.
COLOR_BLIND_SAFE: Final = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#4B3B47",
    "#F0E442",
)

# What sets a figure apart from one made at another time or by another version, left out so that bytes are the same.
_METADATA: Final[Mapping[str, Mapping[str, None]]] = {
    "png": {},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

# Runs of one colour are what figures are made of: half the time of the usual search, for a tenth more bytes.
_PNG_COMPRESSION: Final[Mapping[str, int]] = {"compress_level": 1, "compress_type": zlib.Z_RLE}
_LONGEST_STEM: Final = 100  # bytes; file systems allow 255, and suffixes and temporary names are to be added
_WINDOWS_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
)
_style_lock = threading.RLock()

Drawn = TypeVar("Drawn")


@contextmanager
def figure_style() -> Iterator[None]:
    """Apply the house style inside a ``with`` block, and restore what was there before.

    Matplotlib's settings belong to the whole process: a lock keeps threads that draw at the same time apart.

    Examples
    --------
    >>> with figure_style():
    ...     figure = Figure(figsize=(2, 2))
    """
    settings: Any = dict(STYLE)  # recent stubs want every key as a literal
    with _style_lock, mpl.rc_context(settings):
        yield


@contextmanager
def quick_collection() -> Iterator[None]:
    """Have Python's garbage collector look at new objects alone inside a ``with`` block in which figures are made.

    A figure is thousands of objects in cycles, so it takes the collector to free one; but each time it would go through
    all that the program holds besides, up to half of the time for drawing.

    What is frozen already, by a program that does so itself or by such a block around this one, stays so.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def save_figure(figure: Figure, path: str | Path, *, dpi: int = PNG_DPI) -> Path:
    """Write a figure so that the file appears whole or not at all, and the same figure gives the same bytes.

    Parameters
    ----------
    figure
        What to write. It is not changed.
    path
        Where to. The suffix says how: ``.png``, ``.svg`` (text stays text, its font is embedded) or ``.pdf``. Missing
        folders are made.
    dpi
        Dots per inch of a PNG, and of rasterized parts of an SVG or PDF.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    ParameterError
        If the suffix is another one, or `dpi` is not positive.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> save_figure(Figure(figsize=(1, 1)), tmp_path / "attention.svg").name
    'attention.svg'
    """
    target = Path(path)
    _write(_rendered(figure, target, dpi), target)
    return target


def save_figures(
    figures: Mapping[str, Figure | Callable[[], Figure]],
    folder: str | os.PathLike[str],
    suffixes: Sequence[str] = (".png",),
) -> None:
    """Write several figures as :func:`save_figure` does; files are compressed while the next figure is drawn.

    Where there are many to be drawn, and more than one core, other processes draw some of them. Files are the same.

    Parameters
    ----------
    figures
        By stem of the file name: figures, or what draws them, of which one is held at a time.
    folder
        Where to.
    suffixes
        File formats; each figure is written in all of them.
    """
    to_draw = {stem: given for stem, given in figures.items() if callable(given)}
    drawn = {stem: given for stem, given in figures.items() if not callable(given)}
    helpers = n_helpers(len(to_draw))
    with quick_collection(), ExitStack() as stack:
        items: Iterable[tuple[str, Callable[[], Figure]]] = to_draw.items()
        if helpers:
            # Closed before anything is raised: other processes must not write any more then.
            items = stack.enter_context(closing(shared(to_draw, Path(folder), suffixes, helpers)))
        save_here(itertools.chain(drawn.items(), items), Path(folder), suffixes)


def save_here(
    figures: Iterable[tuple[str, Figure | Callable[[], Figure]]], folder: Path, suffixes: Sequence[str]
) -> None:
    """Write figures as :func:`save_figures` does, by this process alone."""
    with ThreadPoolExecutor(1) as others:
        writing: list[Future[None]] = []
        for stem, given in figures:
            figure = given() if callable(given) else given
            for suffix in suffixes:
                target = folder / f"{stem}{suffix}"
                content = _rendered(figure, target, PNG_DPI)
                while writing:  # one waits at most: a queue of pixels could grow long
                    writing.pop().result()  # raises what went wrong
                writing.append(others.submit(_write, content, target))
        for one in writing:
            one.result()


def _rendered(figure: Figure, target: Path, dpi: int) -> Image.Image | bytes:
    """Return the pixels of a figure for a PNG, else the file's content."""
    kind = target.suffix.lower().removeprefix(".")
    if kind not in _METADATA:
        raise ParameterError(f"`path` must end in .png, .svg or .pdf. Got {target.name!r} instead.")
    if dpi <= 0:
        raise ParameterError(f"`dpi` must be positive. Got {dpi!r} instead.")
    with figure_style():
        if kind == "png":
            return _pixels(figure, dpi)
        content = _with_all_glyphs(figure, lambda: _saved(figure, kind, dpi))
    return with_fonts(content.decode()).encode() if kind == "svg" else content


def _with_all_glyphs(figure: Figure, draw: Callable[[], Drawn]) -> Drawn:
    """Return what `draw` makes of a figure, anew in other fonts where the own one lacks characters."""
    with missing_glyphs() as missing:
        drawn = draw()
    if missing and give_fonts(figure, missing):
        with missing_glyphs():  # what no font has was told of
            drawn = draw()
    return drawn


def _saved(figure: Figure, kind: str, dpi: int) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=dpi, metadata=dict(_METADATA[kind]))
    return file.getvalue()


def _pixels(figure: Figure, dpi: int) -> Image.Image:
    """Return a figure as opaque pixels, which know their dots per inch."""
    return _with_all_glyphs(figure, lambda: _drawn(figure, dpi))


def _drawn(figure: Figure, dpi: int) -> Image.Image:
    canvas, own_dpi = figure.canvas, figure.dpi
    try:
        figure.dpi = dpi
        drawn: Any = FigureCanvasAgg(figure)  # its methods have no types
        drawn.draw()
        buffer = drawn.buffer_rgba()
        height, width, _ = buffer.shape
        pixels = Image.frombuffer("RGBA", (width, height), buffer, "raw", "RGBA", 0, 1).convert("RGB")
    finally:
        figure.dpi = own_dpi
        figure.set_canvas(canvas)
    pixels.info["dpi"] = (dpi, dpi)
    return pixels


def png_of(figure: Figure) -> bytes:
    """Return the content of the PNG file that :func:`save_figure` would write of a figure."""
    with figure_style():
        pixels = _pixels(figure, PNG_DPI)
    content = io.BytesIO()
    pixels.save(content, format="png", dpi=pixels.info["dpi"], **_PNG_COMPRESSION)
    return content.getvalue()


def _write(content: Image.Image | bytes, target: Path) -> None:
    """Write what :func:`_rendered` returned."""
    with whole_file(target) as unfinished:
        if isinstance(content, bytes):
            unfinished.write_bytes(content)
        else:
            content.save(unfinished, format="png", dpi=content.info["dpi"], **_PNG_COMPRESSION)


def cell_type_palette(
    cell_types: Sequence[str],
    palette: str | Sequence[str] | Mapping[str, str] | None = None,
    uns_colors: Iterable[object] | None = None,
) -> dict[str, str]:
    """Return one colour per cell type.

    Parameters
    ----------
    cell_types
        Names of all cell types. A type keeps its colour in every figure if all figures name the types in this order.
    palette
        The name of a matplotlib colormap, a list of colours in the order of `cell_types`, or a colour for each name.
        None: `uns_colors` where they fit, else colours that stay apart; the first eight for the colour-blind as well.
    uns_colors
        What ``adata.uns["<labels_key>_colors"]`` holds, in the order of `cell_types`. Ignored where `palette` is
        given, and where there is not exactly one valid colour per type.

    Returns
    -------
    dict of str to str
        ``{cell type: "#rrggbb"}``, in the order of `cell_types`.

    Raises
    ------
    ParameterError
        If the colormap is unknown or has too few colours, the list is too short, a type is missing from the mapping,
        or a colour is not one.

    Examples
    --------
    >>> cell_type_palette(["B", "T"])
    {'B': '#0072b2', 'T': '#e69f00'}
    >>> cell_type_palette(["B", "T"], palette={"B": "red", "T": "k"})
    {'B': '#ff0000', 'T': '#000000'}
    """
    names = [str(name) for name in cell_types]
    if palette is None:
        given = [] if uns_colors is None else list(uns_colors)
        if len(given) == len(names) and all(is_color_like(color) for color in given):
            chosen: Sequence[object] = given
        else:
            chosen = distinct_colors(len(names))
    elif isinstance(palette, str):
        chosen = _colormap_colors(palette, len(names))
    elif isinstance(palette, Mapping):
        missing = [name for name in names if name not in palette]
        if missing:
            raise ParameterError(
                f"`palette` must give each cell type a color. Missing: {listing(missing)}."
                + (did_you_mean(missing[0], [str(key) for key in palette]) if len(missing) == 1 else "")
            )
        chosen = [palette[name] for name in names]
    else:
        chosen = list(palette)
        if len(chosen) < len(names):
            raise ParameterError(
                f"`palette` must hold a color for each of the {len(names)} cell types. Got {len(chosen)} colors."
            )
    colors: dict[str, str] = {}
    for name, color in zip(names, chosen, strict=False):
        if not is_color_like(color):
            raise ParameterError(
                f"`palette` must hold colors, such as '#0072b2' or 'red'. Got {color!r} for cell type {name!r}."
            )
        colors[name] = to_hex(color)  # type: ignore[arg-type]  # is_color_like has looked
    return colors


@functools.lru_cache(maxsize=16)
def distinct_colors(n_colors: int) -> tuple[str, ...]:
    """Return colours that are easy to tell apart on white; the first n are the same whatever `n_colors` is.

    The first eight survive the common colour-blindnesses. Each further one is the colour farthest from all before it
    in OKLab, seen with normal and with red-green-blind eyes; none repeats below some thousand.

    Parameters
    ----------
    n_colors
        How many.

    Returns
    -------
    tuple of str
        ``"#rrggbb"``.

    Raises
    ------
    ParameterError
        If `n_colors` is negative.

    Examples
    --------
    >>> distinct_colors(2)
    ('#0072b2', '#e69f00')
    """
    if n_colors < 0:
        raise ParameterError(f"`n_colors` must be at least 0. Got {n_colors!r} instead.")
    chosen = [color.lower() for color in COLOR_BLIND_SAFE[:n_colors]]
    if n_colors <= len(COLOR_BLIND_SAFE):
        return tuple(chosen)
    levels = np.linspace(0.0, 1.0, 18)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)  # (color, rgb)
    seen = _as_seen(candidates)
    lightness = seen[:, 0]
    usable = (lightness > 0.36) & (lightness < 0.84)  # neither black nor lost on white
    candidates, seen = candidates[usable], seen[usable]
    nearest = np.full(len(candidates), np.inf)
    for color in COLOR_BLIND_SAFE:
        nearest = np.minimum(nearest, _distance_to(seen, _as_seen(np.array([to_rgb(color)]))[0]))
    while len(chosen) < n_colors:
        farthest = int(np.argmax(np.round(nearest, 9)))  # rounded: ties fall the same way on every machine
        chosen.append(to_hex(tuple(candidates[farthest])))
        nearest = np.minimum(nearest, _distance_to(seen, seen[farthest]))
    return tuple(chosen)


@functools.lru_cache(maxsize=1024)
def readable_on_white(color: str) -> str:
    """Return a colour, darkened where text in it would be hard to read on white.

    Parameters
    ----------
    color
        Any colour that matplotlib knows.

    Returns
    -------
    str
        ``"#rrggbb"`` with a contrast to white of at least 4:1.

    Examples
    --------
    >>> readable_on_white("#0072b2")
    '#0072b2'
    """
    red, green, blue = to_rgb(color)
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    while _contrast_to_white(red, green, blue) < 4.0:
        light *= 0.97
        red, green, blue = colorsys.hls_to_rgb(hue, light, saturation)
    return str(to_hex((red, green, blue)))


def safe_file_name(label: str) -> str:
    """Return a label as the stem of a file name that every file system takes.

    Letters and digits of any script, ``+``, ``-`` and ``.`` stay; every other run of characters becomes ``_``. Names
    that are too long are cut and get a digest of the label, so that they stay apart. Two labels may give the same
    stem (see :func:`unique_file_names`).

    Parameters
    ----------
    label
        Any text, such as the name of a cell type.

    Returns
    -------
    str
        Never empty, never with a leading or trailing dot, at most 100 bytes.

    Examples
    --------
    >>> safe_file_name("L2/3 IT"), safe_file_name("Tumor, CD4+"), safe_file_name("..")
    ('L2_3_IT', 'Tumor_CD4+', 'unnamed')
    """
    text = unicodedata.normalize("NFKC", str(label))
    kept = "".join(character if character.isalnum() or character in "+-." else "_" for character in text)
    stem = re.sub(r"_+", "_", kept).strip("._")
    if not stem:
        return "unnamed"
    if stem.split(".")[0].casefold() in _WINDOWS_DEVICES:
        stem = f"_{stem}"
    if len(stem.encode()) > _LONGEST_STEM:
        digest = hashlib.sha256(str(label).encode("utf-8", "surrogatepass")).hexdigest()[:8]
        short = stem.encode()[: _LONGEST_STEM - len(digest) - 1].decode(errors="ignore").rstrip("._")
        stem = f"{short}_{digest}"
    return stem


def unique_file_names(labels: Iterable[str]) -> dict[str, str]:
    """Return a file name stem for each label, no two alike, also where upper and lower case are the same.

    The first label of those that would share a stem keeps it; the others get ``-2``, ``-3``, ... in their order.

    Parameters
    ----------
    labels
        Labels; one that comes twice counts once.

    Returns
    -------
    dict of str to str
        ``{label: stem}``, in the order of `labels`.

    Examples
    --------
    >>> unique_file_names(["T/B", "T B", "t_b"])
    {'T/B': 'T_B', 'T B': 'T_B-2', 't_b': 't_b-3'}
    """
    plain = {label: safe_file_name(label) for label in labels}
    reserved = {stem.casefold() for stem in plain.values()}  # a number must not take the stem of a later label
    taken: set[str] = set()
    names: dict[str, str] = {}
    for label, stem in plain.items():
        name, number = stem, 1
        while name.casefold() in taken or (number > 1 and name.casefold() in reserved):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names[label] = name
    return names


def _colormap_colors(name: str, n_colors: int) -> list[object]:
    """Return the colours of a colormap: in turn where it is a list of a few, else spread evenly over it."""
    if name not in mpl.colormaps:
        raise ParameterError(
            f"`palette` must name a matplotlib colormap, such as 'tab20' or 'turbo'. Got {name!r} instead."
            + did_you_mean(name, list(mpl.colormaps))
        )
    colormap = mpl.colormaps[name]
    if not isinstance(colormap, ListedColormap) or colormap.N >= 128:
        return [colormap(position) for position in np.linspace(0.0, 1.0, n_colors)]
    if n_colors > colormap.N:
        raise ParameterError(
            f"`palette` must have a color for each of the {n_colors} cell types. Got {name!r}, which has {colormap.N}. "
            "Name a continuous colormap such as 'turbo', or leave the palette unset."
        )
    return [colormap(position) for position in range(n_colors)]


def _contrast_to_white(red: float, green: float, blue: float) -> float:
    """Return the contrast ratio to white as WCAG defines it, from 1 (white) to 21 (black)."""
    linear = _linear(np.array([red, green, blue]))
    return 1.05 / (float(linear @ np.array([0.2126, 0.7152, 0.0722])) + 0.05)


def _linear(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sRGB values without their gamma."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


# Viénot, Brettel and Mollon (1999): what linear RGB looks like to eyes without red or without green receptors.
_PROTANOPIA: Final = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])
_DEUTERANOPIA: Final = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])


def _oklab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return linear RGB, of shape (color, 3), as OKLab, in which distances are about as eyes see them."""
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    lab: NDArray[np.float64] = np.cbrt(np.clip(linear, 0.0, None) @ to_cones.T) @ to_lab.T
    return lab


def _as_seen(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return colours as OKLab by normal, red-blind and green-blind eyes, side by side: shape (color, 9)."""
    linear = _linear(srgb)
    return np.concatenate([_oklab(linear), _oklab(linear @ _PROTANOPIA.T), _oklab(linear @ _DEUTERANOPIA.T)], axis=1)


def _distance_to(seen: NDArray[np.float64], one: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far colours are from one colour: mostly by normal eyes, partly by colour-blind ones."""
    by_eyes = np.sqrt(((seen - one).reshape(-1, 3, 3) ** 2).sum(axis=2))  # (color, eyes)
    distance: NDArray[np.float64] = 0.8 * by_eyes[:, 0] + 0.2 * by_eyes[:, 1:].min(axis=1)
    return distance
