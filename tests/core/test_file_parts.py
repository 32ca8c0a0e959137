"""Tissues from elsewhere: what lies outside of the file, runs code or fits no memory is refused before it is read."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numcodecs
import numpy as np
import pytest
from naive import counts_adata
from scipy import sparse

from tissue_crosstalk.core import file_parts
from tissue_crosstalk.core.errors import TissueError
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.tissue import prepare_tissue
from tissue_crosstalk.core.tissue_file import open_tissue


def tissue_file(folder: Path) -> Path:
    adata = counts_adata(3, n_cells=40)
    adata.X = sparse.csr_matrix(adata.X)
    adata.obsm["sparse"] = sparse.csr_matrix(adata.obsm["spatial"])
    adata.write_h5ad(folder / "tissue.h5ad")
    return folder / "tissue.h5ad"


def tissue_store(folder: Path, version: int) -> Path:
    with ad.settings.override(zarr_write_format=version, auto_shard_zarr_v3=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is new in version 3
        counts_adata(3, n_cells=40).write_zarr(folder / "tissue.zarr")
    return folder / "tissue.zarr"


def refused(path: Path, **keys: str) -> str:
    """Return the message with which opening and reading is refused; it must name the path."""
    with pytest.raises(TissueError) as caught:
        prepare_tissue(open_tissue(path), TissueKeys(**keys), log_normalised=False)
    assert str(path) in str(caught.value)
    return str(caught.value)


def external_link(file: h5py.File, other: Path) -> None:
    with h5py.File(other, "w") as secret:
        secret["places"] = np.zeros((40, 2))
        secret["places"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    del file["obsm/spatial"]
    file["obsm/spatial"] = h5py.ExternalLink(str(other), "places")


def soft_link(file: h5py.File, other: Path) -> None:
    file["obsm"].move("spatial", "places")
    file["obsm/spatial"] = h5py.SoftLink("/obsm/places")


def second_name(file: h5py.File, other: Path) -> None:
    file["uns/again"] = file["uns"]  # parts within parts, without end


def external_numbers(file: h5py.File, other: Path) -> None:
    other.write_bytes(bytes(range(80)))
    del file["obsm/spatial"]
    made = file.create_dataset("obsm/spatial", (40, 2), "u1", external=[(str(other), 0, 80)])
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def virtual_numbers(file: h5py.File, other: Path) -> None:
    with h5py.File(other, "w") as secret:
        secret["places"] = np.zeros((40, 2))
    layout = h5py.VirtualLayout((40, 2), float)
    layout[...] = h5py.VirtualSource(str(other), "places", (40, 2))
    del file["obsm/spatial"]
    made = file["obsm"].create_virtual_dataset("spatial", layout)
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (external_link, "'obsm/spatial' must be in the file itself. It is a link to another place"),
        (soft_link, "'obsm/spatial' must be in the file itself. It is a link to another place"),
        (second_name, "'uns' must be there once. It has several names in the file"),
        (external_numbers, "the numbers of 'obsm/spatial' must be in the file itself"),
        (virtual_numbers, "the numbers of 'obsm/spatial' must be in the file itself"),
    ],
)
def test_what_lies_in_another_file_is_not_read(
    change: Callable[[h5py.File, Path], None], words: str, tmp_path: Path
) -> None:
    path = tissue_file(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file, tmp_path / "other")
    ad.read_h5ad(path) if change is not second_name else None  # anndata reads it
    assert words in refused(path)


@pytest.mark.parametrize("part", ["obs/radius", "X/indptr", "layers/counts"])
def test_sizes_that_the_file_cannot_hold(part: str, tmp_path: Path) -> None:
    path = tissue_file(tmp_path)
    with h5py.File(path, "r+") as file:
        attributes = dict(file[part].attrs)
        shape = (10**9, 10**5) if part == "layers/counts" else (10**11,)
        del file[part]
        file.create_dataset(part, shape, float, chunks=True, compression="gzip").attrs.update(attributes)
    message = refused(path)
    assert re.search(f"'{part}' must be of a size that the file can hold", message)
    assert "made to exhaust the memory" in message


def test_what_is_read_as_a_whole_is_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tissue_file(tmp_path)
    open_tissue(path)
    monkeypatch.setattr(file_parts, "ALWAYS_ALLOWED_BYTES", 100_000)
    monkeypatch.setattr(file_parts, "MAX_EXPANSION", 1)
    with h5py.File(path, "r+") as file:
        for number in range(100):  # each of them is allowed
            made = file.create_dataset(f"uns/zeros{number}", (5_000,), float, chunks=(5_000,), compression="gzip")
            made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    assert "what is read as a whole" in refused(path)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("obs/cell_type/codes", lambda part: part.__setitem__(3, 100), "'obs' cannot be read"),
        ("obs/cell_type", lambda part: part.pop("codes"), "'obs' cannot be read"),
        ("obs", lambda part: part.attrs.pop("column-order"), "'obs' cannot be read"),
        ("obsm/sparse/indices", lambda part: part.__setitem__(3, 10**9), "'obsm/sparse' cannot be read"),
        ("X", lambda part: part.attrs.__setitem__("encoding-type", "other"), "'X' cannot be read"),
    ],
)
def test_what_is_damaged_is_named(part: str, change: Callable[[Any], Any], words: str, tmp_path: Path) -> None:
    path = tissue_file(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file[part])
    message = refused(path, coord_key="sparse")
    assert words in message
    assert "Copy it again, or write it again with AnnData.write_h5ad." in message


def test_sparse_places_in_memory_do_not_crash() -> None:
    adata = counts_adata(3, n_cells=40)
    adata.obsm["sparse"] = sparse.csr_matrix(adata.obsm["spatial"])
    adata.obsm["sparse"].indices[3] = 10**9
    with pytest.raises(TissueError, match=r"obsm\['sparse'\] \(coord_key\) is damaged: .* Write the tissue again"):
        prepare_tissue(adata, TissueKeys(coord_key="sparse"), log_normalised=False)


def test_a_chunk_that_is_damaged(tmp_path: Path) -> None:
    path = tissue_file(tmp_path)
    with h5py.File(path, "r+") as file:
        values = file["X/data"][:]
        del file["X/data"]
        file.create_dataset("X/data", data=values, chunks=values.shape, compression="gzip")
        file["X/data"].id.write_direct_chunk((0,), b"no zlib")
    with pytest.raises(TissueError, match="X is damaged: .* Write the tissue again"):
        prepare_tissue(open_tissue(path), TissueKeys(), log_normalised=False)


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_file_that_was_cut(share: float, tmp_path: Path) -> None:
    path = tissue_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert ("is not an h5ad file, whatever its name: it is empty" if share == 0 else "cannot be read") in refused(path)


def test_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5ad")  # who opens it waits for ever
    assert "must be an h5ad file or the folder of a zarr store" in refused(tmp_path / "pipe.h5ad")
    assert "Nothing of the kind is there" in refused(tmp_path / "none.h5ad")


class Runs:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_codecs_that_run_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tissue_store(tmp_path, 2)
    names, marker = path / "obs" / "_index", tmp_path / "marker"
    described = json.loads((names / ".zarray").read_text())
    (names / ".zarray").write_text(json.dumps(described | {"compressor": {"id": "pickle"}}))
    for chunk in names.glob("0*"):
        chunk.write_bytes(pickle.dumps(Runs(marker)))
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)  # as numcodecs was once
    assert "'obs/_index' must be coded by none but codecs that only decode. Got 'pickle'" in refused(path)
    assert not marker.exists()
    numcodecs.get_codec({"id": "pickle"}).decode(pickle.dumps(Runs(marker)))
    assert marker.exists()


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_does_not_lead_out_of_itself(version: int, tmp_path: Path) -> None:
    path = tissue_store(tmp_path, version)
    chunk = next(file for file in (path / "obsm" / "spatial").rglob("*") if file.name.startswith("0"))
    chunk = next(file for file in (chunk, *chunk.rglob("*")) if file.is_file())
    (tmp_path / "other").write_bytes(chunk.read_bytes())
    open_tissue(path)
    chunk.unlink()
    chunk.symlink_to(tmp_path / "other")
    assert "must be a file or a folder of the store" in refused(path)


@pytest.mark.parametrize("version", [2, 3])
def test_sizes_that_a_store_cannot_hold(version: int, tmp_path: Path) -> None:
    path = tissue_store(tmp_path, version)
    file = path / "obs" / "radius" / (".zarray" if version == 2 else "zarr.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shape": [10**11]}))
    assert "'obs/radius' must be of a size that the file can hold" in refused(path)


def test_more_chunks_than_a_file_can_hold(tmp_path: Path) -> None:
    path = tissue_file(tmp_path)
    with h5py.File(path, "r+") as file:
        made = file.create_dataset("uns/zeros", (3_000_000,), "u1", chunks=(1,))
        made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    assert "'uns/zeros' must be of chunks that the file can hold. It declares 3000000" in refused(path)


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_that_is_linked_to_is_opened(version: int, tmp_path: Path) -> None:
    path = tissue_store(tmp_path, version)
    (tmp_path / "link.zarr").symlink_to(path)
    assert open_tissue(tmp_path / "link.zarr").n_obs == 40
