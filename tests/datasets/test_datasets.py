"""Datasets: save and load, exists, missing files, and outputs that appear whole or not at all."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from anndata import AnnData
from kedro.io import DatasetError
from matplotlib.figure import Figure

from tissue_crosstalk.core.checkpoint import load_model
from tissue_crosstalk.core.tables import Shard
from tissue_crosstalk.datasets import AnnDataDataset, FiguresDataset, ModelDataset, ParquetShardsDataset


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
        with pytest.raises(DatasetError, match=r"a.h5ad' cannot be read as an AnnData file"):
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


def shard(index: int, count: int, value: int) -> Shard:
    return Shard(index, count, pa.table({"value": [value]}), f"kind={value % 2}/part-{index}.parquet")


class TestParquetShards:
    def test_save_and_load(self, tmp_path: Path) -> None:
        dataset = ParquetShardsDataset(filepath=str(tmp_path / "table"))
        for index in range(3):
            assert not dataset.exists()
            dataset.save(shard(index, 3, index))
        table = dataset.load().to_table()
        assert sorted(table.column("value").to_pylist()) == [0, 1, 2]
        assert sorted(table.column("kind").to_pylist()) == [0, 0, 1]
        assert [entry.name for entry in tmp_path.iterdir()] == ["table"]

    def test_the_old_table_stays_until_the_new_one_is_complete(self, tmp_path: Path) -> None:
        dataset = ParquetShardsDataset(filepath=str(tmp_path / "table"))
        dataset.save(shard(0, 1, 10))
        dataset.save(shard(0, 2, 20))
        assert dataset.load().to_table().column("value").to_pylist() == [10]
        dataset.save(shard(0, 2, 30))  # begun anew, as after an interruption
        dataset.save(shard(1, 2, 31))
        assert dataset.load().to_table().column("value").to_pylist() == [30, 31]

    def test_missing_shard(self, tmp_path: Path) -> None:
        dataset = ParquetShardsDataset(filepath=str(tmp_path / "table"))
        dataset.save(shard(0, 3, 0))
        with pytest.raises(DatasetError, match="should have 3 shards, but 2 were written"):
            dataset.save(shard(2, 3, 2))
        assert not dataset.exists()

    def test_load_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="there is no parquet folder .*table"):
            ParquetShardsDataset(filepath=str(tmp_path / "table")).load()

    def test_preview(self, tmp_path: Path) -> None:
        dataset = ParquetShardsDataset(filepath=str(tmp_path / "table"))
        dataset.save(shard(0, 1, 7))
        preview: Any = dataset.preview()
        assert preview["columns"] == ["value", "kind"]
        assert preview["data"] == [[7, 1]]


class TestFigures:
    def test_save_replaces_the_folder(self, tmp_path: Path) -> None:
        dataset = FiguresDataset(filepath=str(tmp_path / "figures"))
        dataset.save({"a.png": Figure(), "b.svg": Figure()})
        dataset.save({"c.png": Figure()})
        assert [file.name for file in (tmp_path / "figures").iterdir()] == ["c.png"]
        assert base64.b64decode(str(dataset.preview())).startswith(b"\x89PNG")
        assert dataset.exists()

    def test_failed_save_keeps_what_was_there(self, tmp_path: Path) -> None:
        dataset = FiguresDataset(filepath=str(tmp_path / "figures"))
        dataset.save({"a.png": Figure()})
        with pytest.raises(DatasetError):
            dataset.save({"b.png": Figure(), "c.bmp": Figure()})
        assert [file.name for file in (tmp_path / "figures").iterdir()] == ["a.png"]
        assert [entry.name for entry in tmp_path.iterdir()] == ["figures"]

    def test_load_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="figures can only be saved"):
            FiguresDataset(filepath=str(tmp_path / "figures")).load()
