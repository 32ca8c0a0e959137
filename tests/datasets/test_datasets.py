"""Datasets: save and load, exists, missing files, and outputs that appear whole or not at all."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from anndata import AnnData
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import DatasetError
from matplotlib.figure import Figure
from PIL import Image
from scipy import sparse

from sessions import PROJECT
from tissue_crosstalk.core.checkpoint import load_model
from tissue_crosstalk.core.files import Finished
from tissue_crosstalk.core.tables import write_table
from tissue_crosstalk.datasets import (
    AnnDataDataset,
    FigureDataset,
    FiguresDataset,
    HtmlDataset,
    JSONDataset,
    ModelDataset,
    OptionalDataset,
    ParquetDataset,
    ParquetShardsDataset,
)


@pytest.fixture
def adata() -> AnnData:
    return AnnData(np.eye(3, dtype=np.float32), obs=pd.DataFrame({"a": ["x", "y", "x"]}, index=["1", "2", "3"]))


class TestAnnData:
    def test_save_and_load(self, tmp_path: Path, adata: AnnData) -> None:
        dataset = AnnDataDataset(filepath=str(tmp_path / "deep" / "a.h5ad"))
        assert not dataset.exists()
        dataset.save(adata)
        assert dataset.exists()
        np.testing.assert_array_equal(dataset.load().X, adata.X)
        assert [file.name for file in (tmp_path / "deep").iterdir()] == ["a.h5ad"]

    def test_load_backed(self, tmp_path: Path, adata: AnnData) -> None:
        AnnDataDataset(filepath=str(tmp_path / "a.h5ad")).save(adata)
        loaded = AnnDataDataset(filepath=str(tmp_path / "a.h5ad"), load_args={"backed": "r"}).load()
        assert loaded.isbacked
        loaded.file.close()

    def test_other_filesystem(self, adata: AnnData) -> None:
        dataset = AnnDataDataset(filepath="memory://folder/a.h5ad")
        dataset.save(adata)
        np.testing.assert_array_equal(dataset.load().X, adata.X)

    def test_load_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"there is no file .*missing.h5ad.*--params=tissue=<path>"):
            AnnDataDataset(filepath=str(tmp_path / "missing.h5ad")).load()

    @pytest.mark.parametrize("content", [b"", b"no hdf5", b"\x89HDF\r\n\x1a\n"])
    def test_load_broken_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.h5ad").write_bytes(content)
        with pytest.raises(
            DatasetError,
            match=r"a.h5ad('? is not an h5ad file|: 'the root' cannot be read).*write it.* with AnnData.write_h5ad",
        ):
            AnnDataDataset(filepath=str(tmp_path / "a.h5ad")).load()

    def test_failed_save_keeps_what_was_there(self, tmp_path: Path, adata: AnnData) -> None:
        dataset = AnnDataDataset(filepath=str(tmp_path / "a.h5ad"))
        dataset.save(adata)
        broken = adata.copy()
        broken.uns["not storable"] = object()
        with pytest.raises(DatasetError):
            dataset.save(broken)
        np.testing.assert_array_equal(dataset.load().X, adata.X)
        assert [file.name for file in tmp_path.iterdir()] == ["a.h5ad"]

    def test_preview_says_what_is_in_it(self, tmp_path: Path) -> None:
        AnnDataDataset(filepath=str(tmp_path / "a.h5ad")).save(with_everything())
        for dataset in (
            AnnDataDataset(filepath=str(tmp_path / "a.h5ad")),
            AnnDataDataset(filepath="memory://previews/a.h5ad"),
        ):
            dataset.save(with_everything())
            assert json.loads(str(dataset.preview())) == {
                "cells": 3,
                "genes": 2,
                "obs": ["a", "b"],
                "var": ["long name"],
                "obsm": ["spatial", "umap"],
                "obsp": ["distances"],
                "layers": ["counts"],
                "uns": ["a_colors", "note"],
            }
        (tmp_path / "a.h5ad").unlink()  # which Windows would refuse were it still open

    def test_preview_leaves_the_expression_on_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, expression in (("dense", np.ones((3, 2))), ("sparse", sparse.csr_matrix(np.ones((3, 2))))):
            adata = with_everything()
            adata.X = expression
            dataset = AnnDataDataset(filepath=str(tmp_path / f"{name}.h5ad"))
            dataset.save(adata)
            assert any(read.startswith("/X") for read in names_read(dataset.load, monkeypatch))
            assert not any(read.startswith("/X") for read in names_read(dataset.preview, monkeypatch))

    def test_preview_leaves_layers_on_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        dataset = AnnDataDataset(filepath=str(tmp_path / "a.h5ad"))
        dataset.save(with_everything())
        assert not any(name.startswith(("/layers/", "/obsp/")) for name in names_read(dataset.preview, monkeypatch))


def with_everything() -> AnnData:
    return AnnData(
        np.ones((3, 2), dtype=np.float32),
        obs=pd.DataFrame({"a": pd.Categorical(["x", "y", "x"]), "b": [1, 2, 3]}, index=["1", "2", "3"]),
        var=pd.DataFrame({"long name": ["p", "q"]}, index=["p1", "q1"]),
        obsm={"umap": np.zeros((3, 2)), "spatial": np.zeros((3, 2))},
        obsp={"distances": sparse.csr_matrix(np.eye(3))},
        layers={"counts": np.full((3, 2), 7)},
        uns={"note": "as it was", "a_colors": ["red", "blue"]},
    )


def names_read(reading: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the names of the arrays that something reads from a file."""
    names: set[str] = set()
    get = h5py.Dataset.__getitem__

    def noted(self: h5py.Dataset, *arguments: Any, **others: Any) -> Any:
        names.add(self.name)
        return get(self, *arguments, **others)

    read_direct = h5py.Dataset.read_direct

    def direct(self: h5py.Dataset, *arguments: Any, **others: Any) -> None:
        names.add(self.name)
        read_direct(self, *arguments, **others)

    with monkeypatch.context() as patched:
        patched.setattr(h5py.Dataset, "__getitem__", noted)
        patched.setattr(h5py.Dataset, "read_direct", direct)
        reading()
    return names


class TestModel:
    def test_save_and_load(self, tmp_path: Path, golden: Path) -> None:
        dataset = ModelDataset(filepath=str(tmp_path / "model"))
        assert not dataset.exists()
        dataset.save(load_model(golden / "checkpoint"))
        assert dataset.exists()
        assert dataset.load().cell_types == ("T0", "T1", "T2", "T3")
        assert '"n_heads": 3' in str(dataset.preview())

    def test_load_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="missing"):
            ModelDataset(filepath=str(tmp_path / "missing")).load()


def finished(folder: Path, *values: int) -> Finished:
    for index, value in enumerate(values):
        file = folder / f"kind={value % 2}" / f"part-{index}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"value": [value]}), file)
    return Finished(folder)


class TestParquetShards:
    def test_save_and_load(self, tmp_path: Path) -> None:
        dataset = ParquetShardsDataset(filepath=str(tmp_path / "table"))
        folder = finished(tmp_path / ".unfinished", 0, 1, 2)
        assert not dataset.exists()
        dataset.save(folder)
        table = dataset.load().to_table()
        assert sorted(table.column("value").to_pylist()) == [0, 1, 2]
        assert sorted(table.column("kind").to_pylist()) == [0, 0, 1]
        assert [entry.name for entry in tmp_path.iterdir()] == ["table"]

    def test_a_new_folder_takes_the_place_of_the_old_one_as_a_whole(self, tmp_path: Path) -> None:
        dataset = ParquetShardsDataset(filepath=str(tmp_path / "table"))
        dataset.save(finished(tmp_path / ".a", 10, 12, 14))
        dataset.save(finished(tmp_path / ".b", 20))
        assert dataset.load().to_table().column("value").to_pylist() == [20]
        assert [entry.name for entry in tmp_path.iterdir()] == ["table"]

    def test_a_folder_that_is_in_its_place_stays(self, tmp_path: Path) -> None:
        dataset = ParquetShardsDataset(filepath=str(tmp_path / "table"))
        dataset.save(finished(tmp_path / "table", 3))
        assert dataset.load().to_table().column("value").to_pylist() == [3]

    def test_load_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="there is no parquet folder .*table"):
            ParquetShardsDataset(filepath=str(tmp_path / "table")).load()

    def test_preview(self, tmp_path: Path) -> None:
        dataset = ParquetShardsDataset(filepath=str(tmp_path / "table"))
        dataset.save(finished(tmp_path / ".unfinished", 7))
        preview: Any = dataset.preview()
        assert preview["columns"] == ["value", "kind"]
        assert preview["data"] == [[7, 1]]

    def test_a_damaged_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "table").mkdir()
        (tmp_path / "table" / "part-00000.parquet").write_bytes(b"PAR1 cut")
        with pytest.raises(DatasetError, match=r"part-00000\.parquet.*; run the pipeline that writes it again"):
            ParquetShardsDataset(filepath=str(tmp_path / "table")).load()

    def test_a_changed_value_is_noticed(self, tmp_path: Path) -> None:
        (tmp_path / "table").mkdir()
        write_table(pa.table({"value": [1.5, 2.5]}), tmp_path / "table" / "part-00000.parquet")
        change_a_value(tmp_path / "table" / "part-00000.parquet")
        with pytest.raises(OSError, match="could not verify page integrity"):
            ParquetShardsDataset(filepath=str(tmp_path / "table")).load().to_table()


def change_a_value(file: Path) -> None:
    """Change a bit of the last of the numbers 1.5 and 2.5."""
    content = file.read_bytes()
    place = content.index(np.float64(2.5).tobytes()) + 6
    file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


class TestParquet:
    def test_a_changed_value_is_noticed(self, tmp_path: Path) -> None:
        dataset = ParquetDataset(filepath=str(tmp_path / "table.parquet"))
        dataset.save(pd.DataFrame({"value": [1.5, 2.5]}))
        assert dataset.load()["value"].tolist() == [1.5, 2.5]
        change_a_value(tmp_path / "table.parquet")
        with pytest.raises(DatasetError, match=r"table\.parquet.*page integrity.* damaged.*; run the pipeline"):
            dataset.load()

    def test_a_table_without_a_row_keeps_its_categories(self, tmp_path: Path) -> None:
        table = pd.DataFrame(
            {"type": pd.Categorical(["B"], ["A", "B"]), "way": pd.Categorical(["x"], ordered=True), "n": [1]}
        )
        table.attrs["made"] = "here"
        for rows in (table, table[:0]):
            dataset = ParquetDataset(filepath=str(tmp_path / "table.parquet"))
            dataset.save(rows)
            pd.testing.assert_frame_equal(dataset.load(), rows)
            assert dataset.load().attrs == {"made": "here"} == rows.attrs

    def test_tables_of_earlier_versions_are_loaded(self, tmp_path: Path) -> None:
        pd.DataFrame({"value": [1.5]}).to_parquet(tmp_path / "table.parquet", write_page_checksum=False)
        assert ParquetDataset(filepath=str(tmp_path / "table.parquet")).load()["value"].tolist() == [1.5]


def figure(words: str = "") -> Figure:
    drawn = Figure(figsize=(1, 1))
    drawn.text(0, 0.5, words)
    return drawn


PNG_START = b"\x89PNG\r\n\x1a\n"


class TestFigure:
    def test_save_and_load(self, tmp_path: Path) -> None:
        dataset = FigureDataset(filepath=str(tmp_path / "deep" / "a.b.png"))
        assert not dataset.exists()
        dataset.save(figure())
        assert dataset.exists()
        assert [file.name for file in (tmp_path / "deep").iterdir()] == ["a.b.png"]
        assert dataset.load() == (tmp_path / "deep" / "a.b.png").read_bytes()
        assert dataset.load().startswith(PNG_START)
        assert base64.b64decode(str(dataset.preview())) == dataset.load()

    def test_an_svg_stands_beside_it_if_wanted(self, tmp_path: Path) -> None:
        FigureDataset(filepath=str(tmp_path / "a.png"), svg=True).save(figure("who talks"))
        assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "a.svg"]
        assert "who talks" in (tmp_path / "a.svg").read_text(encoding="utf-8")
        assert (tmp_path / "a.png").read_bytes().startswith(PNG_START)

    def test_the_svg_of_an_earlier_run_does_not_stay(self, tmp_path: Path) -> None:
        FigureDataset(filepath=str(tmp_path / "a.png"), svg=True).save(figure("before"))
        (tmp_path / "another.svg").write_text("not ours")
        FigureDataset(filepath=str(tmp_path / "a.png")).save(figure("after"))
        assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "another.svg"]

    def test_the_same_figure_gives_the_same_bytes(self, tmp_path: Path) -> None:
        written = []
        for name in ("a", "b", "other"):
            FigureDataset(filepath=str(tmp_path / name / "a.png"), svg=True).save(
                figure("other" if name == "other" else "")
            )
            written.append([(tmp_path / name / f"a.{suffix}").read_bytes() for suffix in ("png", "svg")])
        assert written[0] == written[1]
        assert all(one != other for one, other in zip(written[0], written[2], strict=True))

    def test_load_missing_file(self, tmp_path: Path) -> None:
        dataset = FigureDataset(filepath=str(tmp_path / "missing.png"))
        for read in (dataset.load, dataset.preview):
            with pytest.raises(
                DatasetError, match=r"there is no figure .*missing.png'; run the pipeline that draws it"
            ):
                read()

    @pytest.mark.parametrize("name", ["a.svg", "a", "a.PNG", "png", "a.png.bmp"])
    def test_what_is_no_png_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(DatasetError, match=r"`filepath` of a figure must end in \.png\. Got "):
            FigureDataset(filepath=str(tmp_path / name))

    def test_failed_save_keeps_what_was_there(self, tmp_path: Path) -> None:
        dataset = FigureDataset(filepath=str(tmp_path / "a.png"))
        dataset.save(figure())
        before = dataset.load()
        with pytest.raises(DatasetError):
            dataset.save("no figure")  # type: ignore[arg-type]
        assert dataset.load() == before
        assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


class TestFigures:
    def test_save_and_load_by_name(self, tmp_path: Path) -> None:
        dataset = FiguresDataset(filepath=str(tmp_path / "figures"))
        assert not dataset.exists()
        figures = {name: figure(name) for name in ("vanilla_T", "L2.3 IT", "a.svg", "a.png", "B")}
        dataset.save(figures)
        assert dataset.exists()
        assert {file.name for file in (tmp_path / "figures").iterdir()} == {f"{name}.png" for name in figures}
        loaded = dataset.load()
        assert loaded.keys() == figures.keys()
        for name in figures:
            alone = FigureDataset(filepath=str(tmp_path / "alone.png"))
            alone.save(figure(name))
            assert loaded[name] == alone.load(), name

    def test_svgs_stand_beside_them_if_wanted(self, tmp_path: Path) -> None:
        dataset = FiguresDataset(filepath=str(tmp_path / "figures"), svg=True)
        dataset.save({"a": figure("who"), "b.c": figure("talks")})
        assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == [
            "a.png", "a.svg", "b.c.png", "b.c.svg"
        ]  # fmt: skip
        assert "talks" in (tmp_path / "figures" / "b.c.svg").read_text(encoding="utf-8")
        assert list(dataset.load()) == ["a", "b.c"]

    def test_save_replaces_the_folder(self, tmp_path: Path) -> None:
        FiguresDataset(filepath=str(tmp_path / "figures"), svg=True).save({"a": figure(), "b": figure()})
        dataset = FiguresDataset(filepath=str(tmp_path / "figures"))
        dataset.save({"c": figure(), "d": figure("d")})
        assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == ["c.png", "d.png"]
        assert dataset.load().keys() == {"c", "d"}

    @pytest.mark.parametrize(("n_figures", "n_columns"), [(1, 1), (2, 2), (5, 3), (17, 4)])
    def test_preview_shows_all_figures_side_by_side(self, tmp_path: Path, n_figures: int, n_columns: int) -> None:
        """Figures of one colour each, twice as wide as high but for the first, which is a square."""
        dataset = FiguresDataset(filepath=str(tmp_path / "figures"))
        colors = [(15 * number, 100, 0) for number in range(n_figures)]
        figures = {}
        for number, (red, green, blue) in enumerate(colors):
            color = (red / 255, green / 255, blue / 255)
            figures[f"{number:02d}"] = Figure(figsize=(1, 0.5 if number else 1), facecolor=color)
        dataset.save(figures)
        sheet = Image.open(io.BytesIO(base64.b64decode(str(dataset.preview())))).convert("RGB")
        width = 1600 / n_columns
        assert sheet.width == 1600
        tops, n_rows = [5.0], -(-n_figures // n_columns)
        for row in range(1, n_rows):  # the first row is as high as its highest
            tops.append(tops[-1] + (width if row == 1 else width / 2))
        assert sheet.height == pytest.approx(tops[-1] + (width if n_rows == 1 else width / 2), rel=0.05)
        for number, color in enumerate(colors):
            row, column = divmod(number, n_columns)
            seen = sheet.getpixel((round((column + 0.5) * width), round(tops[row] + width / 4)))
            assert seen == pytest.approx(color, abs=2), number

    def test_failed_save_keeps_what_was_there(self, tmp_path: Path) -> None:
        dataset = FiguresDataset(filepath=str(tmp_path / "figures"))
        dataset.save({"a": figure()})
        with pytest.raises(DatasetError):
            dataset.save({"b": figure(), "c": "no figure"})  # type: ignore[dict-item]
        assert [file.name for file in (tmp_path / "figures").iterdir()] == ["a.png"]
        assert [entry.name for entry in tmp_path.iterdir()] == ["figures"]

    def test_a_folder_without_figures(self, tmp_path: Path) -> None:
        dataset = FiguresDataset(filepath=str(tmp_path / "figures"))
        dataset.save({})
        assert dataset.load() == {}
        with pytest.raises(DatasetError, match=r"the folder .*figures' holds no figure\."):
            dataset.preview()

    def test_load_missing_folder(self, tmp_path: Path) -> None:
        dataset = FiguresDataset(filepath=str(tmp_path / "missing"))
        for read in (dataset.load, dataset.preview):
            with pytest.raises(DatasetError, match=r"there is no folder .*missing'; run the pipeline that draws"):
                read()

    def test_figures_come_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        dataset = FiguresDataset(filepath=str(tmp_path / "figures"))
        dataset.save({name: figure() for name in ("b", "B", "a", "a2")})
        assert list(dataset.load()) == ["B", "a", "a2", "b"]

    def test_similar_names_come_in_their_order(self, tmp_path: Path) -> None:
        dataset = FiguresDataset(filepath=str(tmp_path / "figures"))
        dataset.save({name: figure() for name in ("a", "a-2")})
        assert list(dataset.load()) == ["a", "a-2"]


class TestHtml:
    def test_save_and_load(self, tmp_path: Path) -> None:
        dataset = HtmlDataset(filepath=str(tmp_path / "deep" / "report.html"))
        assert not dataset.exists()
        dataset.save("<!doctype html>\n<title>5 µm – ∞</title>\n")
        assert dataset.exists()
        assert (tmp_path / "deep" / "report.html").read_bytes() == "<!doctype html>\n<title>5 µm – ∞</title>\n".encode()
        assert dataset.load() == "<!doctype html>\n<title>5 µm – ∞</title>\n"
        assert [file.name for file in (tmp_path / "deep").iterdir()] == ["report.html"]

    def test_load_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"there is no page .*report.html'; run the pipeline that writes it"):
            HtmlDataset(filepath=str(tmp_path / "report.html")).load()

    def test_failed_save_keeps_what_was_there(self, tmp_path: Path) -> None:
        dataset = HtmlDataset(filepath=str(tmp_path / "report.html"))
        dataset.save("before")
        with pytest.raises(DatasetError):
            dataset.save("\ud800")  # half a character
        assert dataset.load() == "before"
        assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


class TestJSON:
    HOLDS: ClassVar[dict[str, Any]] = {
        "n": "a number",
        "parameters": {"flavor": "a text"},
        "by": {"*": "a number or null"},
    }
    RIGHT: ClassVar[dict[str, Any]] = {
        "n": 2,
        "parameters": {"flavor": "vanilla", "more": []},
        "by": {"2": 0.5, "3": None},
    }

    def load(self, tmp_path: Path, content: object, holds: dict[str, Any] = HOLDS) -> Any:
        (tmp_path / "a.json").write_text(json.dumps(content))
        return JSONDataset(filepath=str(tmp_path / "a.json"), holds=holds).load()

    def test_what_it_must_hold(self, tmp_path: Path) -> None:
        assert self.load(tmp_path, self.RIGHT) == self.RIGHT

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ([1], "a.json' must be an object. Got a list instead. It is damaged, or something else; delete it and run"),
            ("n", 'a.json\' must be an object. Got "n" instead.'),
            (None, "a.json' must be an object. Got null instead."),
            ({}, "must have the keys 'n', 'parameters', 'by'. It lacks 'n', 'parameters', 'by'."),
            (RIGHT | {"n": [2]}, "the value of 'n' must be a number. Got a list instead."),
            (RIGHT | {"n": True}, "the value of 'n' must be a number. Got true instead."),
            (RIGHT | {"parameters": []}, "the value of 'parameters' must be an object. Got a list instead."),
            (RIGHT | {"parameters": {}}, "the value of 'parameters' must have the keys 'flavor'. It lacks 'flavor'."),
            (RIGHT | {"parameters": {"flavor": {}}}, "'parameters'.'flavor' must be a text. Got an object instead."),
            (RIGHT | {"by": {"2": "x"}}, "the value of 'by'.'2' must be a number or null. Got \"x\" instead."),
        ],
    )
    def test_something_else_is_refused(self, tmp_path: Path, content: object, words: str) -> None:
        with pytest.raises(DatasetError, match=re.escape(words)):
            self.load(tmp_path, content)

    def test_colours_of_names_that_it_does_not_have(self, tmp_path: Path) -> None:
        colours = self.load(tmp_path, {"B": "#0072b2"}, {"*": "a colour"})
        assert (colours["B"], colours.get("T")) == ("#0072b2", None)
        for kept in (colours, pickle.loads(pickle.dumps(colours))):
            with pytest.raises(
                DatasetError, match=r"a.json' must have an entry for 'T'. It has 'B'. .* run the pipeline"
            ):
                kept["T"]
        with pytest.raises(DatasetError, match="the value of 'B' must be a colour. Got \"blau\" instead"):
            self.load(tmp_path, {"B": "blau"}, {"*": "a colour"})

    @pytest.mark.parametrize("name", ["hub_selection", "hub_niches", "cell_type_colors"])
    @pytest.mark.parametrize("prefix", ["", "demo."])
    def test_files_of_studies_say_what_they_hold(self, name: str, prefix: str) -> None:
        bootstrap_project(PROJECT)
        with KedroSession.create(PROJECT, env="test") as session:
            told = session.load_context().config_loader["catalog"][prefix + name]
        assert told.get("dataset", told)["holds"]


class TestOptional:
    def test_load_what_is_there_or_none(self, tmp_path: Path) -> None:
        told = {"type": "tissue_crosstalk.datasets.JSONDataset", "filepath": str(tmp_path / "a.json")}
        dataset = OptionalDataset(dataset=told)
        assert not dataset.exists()
        assert dataset.load() is None
        (tmp_path / "a.json").write_text('{"a": 1}')
        assert dataset.exists()
        assert dataset.load() == {"a": 1}

    def test_it_is_not_saved(self, tmp_path: Path) -> None:
        told = {"type": "tissue_crosstalk.datasets.JSONDataset", "filepath": str(tmp_path / "a.json")}
        with pytest.raises(DatasetError, match="Save the dataset that it is of"):
            OptionalDataset(dataset=told).save({})
        assert not (tmp_path / "a.json").exists()

    def test_what_is_damaged_is_an_error(self, tmp_path: Path) -> None:
        told = {"type": "tissue_crosstalk.datasets.JSONDataset", "filepath": str(tmp_path / "a.json")}
        (tmp_path / "a.json").write_text("{")
        with pytest.raises(DatasetError, match=r"a\.json"):
            OptionalDataset(dataset=told).load()
