"""Colours, file names, and files that are the same every time."""

from __future__ import annotations

import base64
import contextlib
import functools
import gc
import hashlib
import io
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.plots._drawing_processes import n_helpers
from tissue_crosstalk.core.plots.style import (
    cell_type_palette,
    distinct_colors,
    figure_style,
    quick_collection,
    readable_on_white,
    safe_file_name,
    save_figure,
    save_figures,
    unique_file_names,
)


def small_figure() -> Figure:
    """Return a figure with a clipped line, text and a rasterized scatter: all that gets an id in an SVG."""
    with figure_style():
        figure = Figure(figsize=(2.0, 1.5))
        axes = figure.add_axes((0.2, 0.2, 0.7, 0.7))
        axes.plot([0, 1], [0, 3])
        axes.set_ylim(0, 1)
        axes.scatter([0.2, 0.4], [0.3, 0.5], rasterized=True)
        axes.set_xlabel("distance (µm)")
        return figure


def slow_figure(record: Path, number: int, *, fails: bool = False) -> Figure:
    """Return a figure of its own, so slowly that other processes get their share; say which process drew it."""
    time.sleep(0.1)
    if fails:
        raise RuntimeError("cannot be drawn")
    figure = small_figure()
    figure.text(0.5, 0.9, f"figure {number}")
    (record / str(number)).write_text(str(os.getpid()))
    return figure


def seen_by(colors: tuple[str, ...], eyes: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return CIELAB of colours, through a matrix of colour-blindness in linear RGB (a second way than the code's)."""
    srgb = np.array([to_rgb(color) for color in colors])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if eyes is not None:
        linear = np.clip(linear @ eyes.T, 0, 1)
    xyz = linear @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    ratio = xyz / np.array([0.95047, 1.0, 1.08883])
    cubed = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    x, y, z = cubed.T
    return np.column_stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def nearest_pair(lab: NDArray[np.float64]) -> float:
    """Return the smallest difference (CIE76) between two colours."""
    difference = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return float(difference[~np.eye(len(lab), dtype=bool)].min())


class TestColors:
    def test_sixty_do_not_repeat(self) -> None:
        colors = distinct_colors(60)
        assert len(set(colors)) == 60
        assert nearest_pair(seen_by(colors, None)) > 7

    def test_more_types_keep_the_colors_of_fewer(self) -> None:
        assert distinct_colors(40)[:25] == distinct_colors(25)
        assert distinct_colors(25)[:5] == distinct_colors(5)

    @pytest.mark.parametrize(
        "eyes",
        [
            None,
            # Machado, Oliveira and Fernandes (2009), full severity: without red, green and blue receptors.
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
            [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        ],
    )
    def test_first_eight_survive_color_blindness(self, eyes: list[list[float]] | None) -> None:
        assert nearest_pair(seen_by(distinct_colors(8), None if eyes is None else np.array(eyes))) > 9

    def test_none_and_negative(self) -> None:
        assert distinct_colors(0) == ()
        with pytest.raises(ParameterError, match=r"`n_colors` must be at least 0\. Got -1"):
            distinct_colors(-1)

    def test_text_is_readable(self) -> None:
        def luminance(color: str) -> float:
            srgb = np.array(to_rgb(color))
            linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
            return float(linear @ [0.2126, 0.7152, 0.0722])

        for color in (*distinct_colors(60), "white"):
            assert 1.05 / (luminance(readable_on_white(color)) + 0.05) >= 3.9
        assert readable_on_white("#000000") == "#000000"


class TestPalette:
    def test_default(self) -> None:
        assert cell_type_palette(["B", "T"]) == dict(zip(["B", "T"], distinct_colors(2), strict=True))

    def test_stored_colors_are_used(self) -> None:
        stored = np.array(["#ff0000", "blue"], dtype=object)
        assert cell_type_palette(["B", "T"], uns_colors=stored) == {"B": "#ff0000", "T": "#0000ff"}

    @pytest.mark.parametrize("stored", [["red"], ["red", "blue", "green"], ["red", "no color"], ["red", None], []])
    def test_stored_colors_that_do_not_fit_are_not(self, stored: list[Any]) -> None:
        assert cell_type_palette(["B", "T"], uns_colors=stored) == cell_type_palette(["B", "T"])

    def test_palette_goes_before_stored_colors(self) -> None:
        assert cell_type_palette(["B"], palette=["green"], uns_colors=["red"]) == {"B": "#008000"}

    def test_colormap_that_is_a_list(self) -> None:
        assert cell_type_palette(["B", "T"], palette="tab10") == {"B": "#1f77b4", "T": "#ff7f0e"}

    def test_continuous_colormap(self) -> None:
        names = [str(number) for number in range(25)]
        colors = cell_type_palette(names, palette="turbo")
        assert len(set(colors.values())) == 25
        assert list(colors) == names

    def test_list_may_be_longer(self) -> None:
        assert cell_type_palette(["B"], palette=["k", "r"]) == {"B": "#000000"}

    def test_mapping_is_by_name(self) -> None:
        colors = cell_type_palette(["B", "T"], palette={"T": "k", "B": "r", "NK": "b"})
        assert colors == {"B": "#ff0000", "T": "#000000"}

    @pytest.mark.parametrize(
        ("palette", "message"),
        [
            ("viridsi", "Got 'viridsi' instead. Did you mean 'viridis'?"),
            ("tab10", "Got 'tab10', which has 10"),
            (["r", "g"], "a color for each of the 11 cell types. Got 2 colors."),
            ({str(number): "r" for number in range(9)}, "Missing: '9', '10'."),
            (["nonsense"] * 11, "Got 'nonsense' for cell type '0'."),
        ],
    )
    def test_refused(self, palette: str | list[str] | dict[str, str], message: str) -> None:
        with pytest.raises(ParameterError) as caught:
            cell_type_palette([str(number) for number in range(11)], palette=palette)
        assert message in str(caught.value)

    def test_misspelt_type(self) -> None:
        with pytest.raises(ParameterError, match=r"Missing: 'Macrophage'\. Did you mean 'macrophages'\?"):
            cell_type_palette(["Macrophage"], palette={"macrophages": "r"})


class TestFileNames:
    @pytest.mark.parametrize(
        ("label", "stem"),
        [
            ("L2/3 IT", "L2_3_IT"),
            ("Tumor, CD4+", "Tumor_CD4+"),
            ("..", "unnamed"),
            ("", "unnamed"),
            (" / ", "unnamed"),
            ("../../etc/passwd", "etc_passwd"),
            (".hidden", "hidden"),
            ("γδ T-Zelle", "γδ_T-Zelle"),
            ("C:\\a|b?<c>*\"d'", "C_a_b_c_d"),
            ("a\nb\0c", "a_b_c"),
            ("CON", "_CON"),
            ("nul.txt", "_nul.txt"),
            ("v1.5", "v1.5"),
            ("100%", "100"),
        ],
    )
    def test_by_hand(self, label: str, stem: str) -> None:
        assert safe_file_name(label) == stem

    def test_long_names_stay_apart(self) -> None:
        first, second = safe_file_name("é" * 300 + "1"), safe_file_name("é" * 300 + "2")
        assert first != second
        assert len(first.encode()) <= 100

    @given(st.text())
    def test_any_text(self, label: str) -> None:
        stem = safe_file_name(label)
        assert stem
        assert len(stem.encode("utf-8", "surrogatepass")) <= 100
        assert not set(stem) & set('/\\:*?"<>|\0\n\r\t ')
        assert stem.strip(".") == stem
        assert safe_file_name(label) == stem

    @given(
        st.lists(st.sampled_from(["a", "A", "a-2", "A-2", "a/2", "a 2", "a_2", "ß", "SS", "", ".", "unnamed", "a-3"]))
    )
    def test_no_two_alike(self, labels: list[str]) -> None:
        names = unique_file_names(labels)
        assert list(names) == list(dict.fromkeys(labels))
        assert len({name.casefold() for name in names.values()}) == len(names)

    def test_numbers_do_not_take_the_name_of_another(self) -> None:
        assert unique_file_names(["T", "t", "t-2"]) == {"T": "T", "t": "t-3", "t-2": "t-2"}


class TestSaving:
    @pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
    def test_same_bytes_twice(self, tmp_path: Path, suffix: str) -> None:
        figure = small_figure()
        first = save_figure(figure, tmp_path / f"first{suffix}").read_bytes()
        again = save_figure(figure, tmp_path / f"again{suffix}").read_bytes()
        anew = save_figure(small_figure(), str(tmp_path / f"anew{suffix}")).read_bytes()
        assert first == again == anew
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            f"{name}{suffix}" for name in ("first", "again", "anew")
        )

    @pytest.mark.parametrize("suffix", [".png", pytest.param(".svg", marks=pytest.mark.slow)])
    def test_same_bytes_in_another_process(self, tmp_path: Path, suffix: str) -> None:
        script = (
            "import sys; from test_plot_style import save_figure, small_figure; "
            "save_figure(small_figure(), sys.argv[1])"
        )
        target = tmp_path / f"there{suffix}"
        subprocess.run([sys.executable, "-c", script, str(target)], cwd=Path(__file__).parent, check=True, timeout=120)
        here = save_figure(small_figure(), tmp_path / f"here{suffix}").read_bytes()
        assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(here).digest()

    def test_text_of_an_svg_stays_text(self, tmp_path: Path) -> None:
        assert "distance (µm)</text>" in save_figure(small_figure(), tmp_path / "a.svg").read_text(encoding="utf-8")

    def test_svg_holds_the_glyphs_of_its_text(self, tmp_path: Path) -> None:
        figure = small_figure()
        figure.text(0.1, 0.9, "A & <Ω>", weight="bold")
        svg = save_figure(figure, tmp_path / "a.svg").read_text(encoding="utf-8")
        ElementTree.fromstring(svg)  # still well-formed
        faces = re.findall(r'@font-face\{font-family:"DejaVu Sans";font-weight:(\w+);src:url\(data:.*?,(.*?)\)\}', svg)
        glyphs = {
            weight: {chr(code) for code in TTFont(io.BytesIO(base64.b64decode(font))).getBestCmap()}
            for weight, font in faces
        }
        assert glyphs == {"normal": set("0.2468") | set("1.05 7") | set("distance (µm)"), "bold": set("A & <Ω>")}

    def test_svg_without_text_holds_no_font(self, tmp_path: Path) -> None:
        figure = Figure(figsize=(1.0, 1.0))
        assert "@font-face" not in save_figure(figure, tmp_path / "a.svg").read_text(encoding="utf-8")

    def test_several_at_once_equal_one_by_one(self, tmp_path: Path) -> None:
        save_figures({"a": small_figure(), "b": small_figure()}, tmp_path / "all", (".png", ".svg"))
        assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]
        for suffix in (".png", ".svg"):
            alone = save_figure(small_figure(), tmp_path / f"alone{suffix}").read_bytes()
            assert {(tmp_path / "all" / f"{name}{suffix}").read_bytes() for name in "ab"} == {alone}

    @pytest.mark.slow
    @pytest.mark.parametrize("cores", [1, 2, 3])
    def test_other_processes_write_the_same_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
    ) -> None:
        """Also with settings of matplotlib's that the program has changed, and figures that are there already."""
        monkeypatch.setattr("joblib.cpu_count", lambda: cores)
        with mpl.rc_context({"lines.dash_capstyle": "round", "xtick.direction": "in"}):
            plans = {f"{number}": functools.partial(slow_figure, tmp_path, number) for number in range(24)}
            figures = {stem: draw() for stem, draw in plans.items()}
            save_figures(plans | {"24": small_figure()}, tmp_path / "all", (".png", ".svg"))
            save_figures(figures | {"24": small_figure()}, tmp_path / "drawn", (".png", ".svg"))
        names = {path.name for path in (tmp_path / "drawn").iterdir()}
        assert len(names) == 50
        assert {path.name for path in (tmp_path / "all").iterdir()} == names
        for name in names:
            assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "drawn" / name).read_bytes()

    @pytest.mark.slow
    def test_other_processes_draw_their_share(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("joblib.cpu_count", lambda: 2)
        record = tmp_path / "processes"
        record.mkdir()
        plans = {f"{number}": functools.partial(slow_figure, record, number) for number in range(24)}
        save_figures(plans, tmp_path / "all")
        assert sorted(int(path.name) for path in record.iterdir()) == list(range(24))
        assert len({path.read_text() for path in record.iterdir()}) == 2

    @pytest.mark.slow
    def test_what_other_processes_cannot_draw_is_drawn_here(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a lambda, which no other process knows."""
        monkeypatch.setattr("joblib.cpu_count", lambda: 2)
        plans = {str(number): functools.partial(lambda own: slow_figure(tmp_path, own), number) for number in range(24)}
        save_figures(plans, tmp_path / "all")
        assert len(list((tmp_path / "all").iterdir())) == 24
        assert {(tmp_path / str(number)).read_text() for number in range(24)} == {str(os.getpid())}

    @pytest.mark.parametrize("how", ["dies at once", pytest.param("cannot be started", marks=pytest.mark.slow)])
    def test_without_the_other_processes_all_is_drawn_here(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        monkeypatch.setattr("joblib.cpu_count", lambda: 3)
        popen = subprocess.Popen

        def useless(command: list[str], **named: Any) -> subprocess.Popen[bytes]:
            if how == "cannot be started":
                raise OSError(12, "Cannot allocate memory")
            return popen([command[0], "-c", "raise SystemExit(1)"], **named)

        monkeypatch.setattr(subprocess, "Popen", useless)
        plans = {f"{number}": functools.partial(slow_figure, tmp_path, number) for number in range(24)}
        save_figures(plans, tmp_path / "all")
        assert len(list((tmp_path / "all").iterdir())) == 24
        assert {(tmp_path / str(number)).read_text() for number in range(24)} == {str(os.getpid())}

    @pytest.mark.slow
    @pytest.mark.parametrize("failing", [0, 12, 23])
    def test_no_process_is_left_where_drawing_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
    ) -> None:
        monkeypatch.setattr("joblib.cpu_count", lambda: 3)
        started: list[subprocess.Popen[bytes]] = []
        popen = subprocess.Popen

        def remembered(*given: Any, **named: Any) -> subprocess.Popen[bytes]:
            started.append(popen(*given, **named))
            return started[-1]

        monkeypatch.setattr(subprocess, "Popen", remembered)
        plans = {
            f"{number}": functools.partial(slow_figure, tmp_path, number, fails=number == failing)
            for number in range(24)
        }
        threads = threading.active_count()
        with pytest.raises(RuntimeError, match="cannot be drawn"):
            save_figures(plans, tmp_path / "all")
        assert len(started) == 2
        assert all(process.returncode is not None for process in started)
        assert threading.active_count() == threads

    @pytest.mark.parametrize(
        ("cores", "n_figures", "expected"), [(1, 99, 0), (2, 11, 0), (2, 12, 1), (8, 24, 2), (8, 999, 3)]
    )
    def test_processes_are_few(
        self, monkeypatch: pytest.MonkeyPatch, cores: int, n_figures: int, expected: int
    ) -> None:
        monkeypatch.setattr("joblib.cpu_count", lambda: cores)
        assert n_helpers(n_figures) == expected

    def test_what_draws_figures_is_called_as_they_are_saved(self, tmp_path: Path, thawed: None) -> None:
        alive: list[weakref.ref[Figure]] = []
        most = 0

        def drawn() -> Figure:
            nonlocal most
            gc.collect()
            most = max(most, sum(one() is not None for one in alive))
            figure = small_figure()
            alive.append(weakref.ref(figure))
            return figure

        save_figures(dict.fromkeys("abcde", drawn), tmp_path / "all")
        assert len(alive) == 5
        assert most <= 1  # the one before, at most
        alone = save_figure(small_figure(), tmp_path / "alone.png").read_bytes()
        assert {file.read_bytes() for file in (tmp_path / "all").iterdir()} == {alone}
        assert gc.get_freeze_count() == 0

    def test_what_a_program_has_frozen_stays_frozen(self, tmp_path: Path, thawed: None) -> None:
        with quick_collection():
            assert gc.get_freeze_count() > 0
            save_figures({"a": small_figure()}, tmp_path)
            assert gc.get_freeze_count() > 0
        assert gc.get_freeze_count() == 0

    def test_a_figure_that_cannot_be_written_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(Image.Image, "save", fail)
        for names in ("a", "abc"):
            with pytest.raises(OSError, match="disk full"):
                save_figures({name: small_figure() for name in names}, tmp_path / "all")
        assert list((tmp_path / "all").iterdir()) == []

    def test_png_has_200_dots_per_inch(self, tmp_path: Path) -> None:
        image = mpl.image.imread(save_figure(small_figure(), tmp_path / "a.png"))
        assert image.shape[:2] == (300, 400)

    def test_folders_are_made_and_files_replaced(self, tmp_path: Path) -> None:
        target = tmp_path / "some" / "folder" / "a.svg"
        save_figure(small_figure(), target)
        target.write_text("old")
        save_figure(small_figure(), target)
        assert target.read_text(encoding="utf-8").startswith("<?xml")

    def test_failure_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        target = tmp_path / "a.png"
        target.write_text("old")

        def fail(_: Image.Image, path: Path, **__: object) -> None:
            path.write_text("half")
            raise OSError("disk full")

        monkeypatch.setattr(Image.Image, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            save_figure(small_figure(), target)
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
        assert target.read_text() == "old"

    def test_figure_is_not_changed(self, tmp_path: Path) -> None:
        figure = small_figure()
        before = (figure.dpi, figure.get_size_inches().tolist(), type(figure.canvas))
        save_figure(figure, tmp_path / "a.png")
        assert (figure.dpi, figure.get_size_inches().tolist(), type(figure.canvas)) == before

    def test_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ParameterError, match=r"must end in \.png, \.svg or \.pdf\. Got 'a\.gif' instead"):
            save_figure(small_figure(), tmp_path / "a.gif")
        with pytest.raises(ParameterError, match=r"`dpi` must be positive\. Got 0"):
            save_figure(small_figure(), tmp_path / "a.png", dpi=0)


class TestStyle:
    def test_settings_are_restored(self) -> None:
        before = dict(mpl.rcParams)
        with contextlib.suppress(RuntimeError), figure_style():
            assert mpl.rcParams["svg.fonttype"] == "none"
            assert not mpl.rcParams["axes.spines.top"]
            raise RuntimeError  # settings come back after an error, too
        assert dict(mpl.rcParams) == before

    def test_threads_do_not_leave_settings_behind(self) -> None:
        before = dict(mpl.rcParams)
        inside = threading.Event()

        def first() -> None:
            with figure_style():
                inside.set()
                other.join(0.2)  # the other one must wait, or it would take our settings for the original ones

        def second() -> None:
            inside.wait()
            with figure_style():
                pass

        one, other = threading.Thread(target=first), threading.Thread(target=second)
        other.start()
        one.start()
        one.join()
        other.join()
        assert dict(mpl.rcParams) == before

    def test_pyplot_is_never_imported(self) -> None:
        script = (
            "import sys; from tissue_crosstalk.core.plots import attention_summary, hubs, style; "
            "sys.exit(int('matplotlib.pyplot' in sys.modules or 'seaborn' in sys.modules))"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
