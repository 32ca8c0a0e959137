"""Fuzz the readers of everything else that can come from elsewhere: tissues, tables of attention, training checkpoints.

``python tests/fuzz/files.py --inputs 1000 --seed 0`` writes a line of JSON with what came of it, by kind of file. Files
are read in other processes, since HDF5 and others are C libraries: one that ends by a signal is a finding, as is any
error that is not ours.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch
from checkpoint_cases import small_network
from checkpoints import broken_bytes, broken_json
from scipy import sparse

from tissue_crosstalk.core import stored, tables, terms
from tissue_crosstalk.core.errors import CrosstalkError
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.tissue import prepare_tissue
from tissue_crosstalk.core.tissue_file import open_tissue
from tissue_crosstalk.core.training_checkpoint import RECORD, TrainingCheckpoint, TrainingProgress

KEYS = TissueKeys(section_key="section", radius_key="radius")
HANGS_AFTER = 60  # seconds that one file may take until the process ends itself
CURRENT = "current"
FINGERPRINT = "of this training"


def small_tissue(form: Callable[[Any], Any] = np.asarray) -> ad.AnnData:
    rng = np.random.default_rng(0)
    return ad.AnnData(
        X=form(rng.poisson(2.0, (30, 6)).astype(np.float32)),
        obs=pd.DataFrame(
            {
                "cell_type": pd.Categorical(list("ABC") * 10),
                "section": pd.Categorical(["left", "right"] * 15),
                "radius": rng.uniform(1, 2, 30),
            },
            index=[f"cell{number}" for number in range(30)],
        ),
        var=pd.DataFrame(index=[f"gene{number}" for number in range(6)]),
        obsm={"spatial": rng.uniform(0, 100, (30, 2))},
        layers={"counts": sparse.csr_matrix(np.eye(30, 6))},
        uns={"note": "as it was", "numbers": np.arange(3)},
    )


FORMS: dict[str, Callable[[Any], Any]] = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "dense": np.asarray,
}


# --- seeds, by kind: a file or a folder


def h5ad_seeds(folder: Path) -> None:
    for name, form in FORMS.items():
        small_tissue(form).write_h5ad(folder / f"{name}.h5ad", compression="gzip" if name == "csr" else None)


def zarr_seeds(folder: Path) -> None:
    for name, form in FORMS.items():
        ad.settings.zarr_write_format = 2 if name == "csc" else 3
        small_tissue(form).write_zarr(folder / f"{name}.zarr")


def table_seeds(folder: Path) -> None:
    rng = np.random.default_rng(0)
    names, labels = np.array([f"cell{number}" for number in range(12)], dtype=object), np.arange(12) % 3
    made = {
        terms.ATTENTION_PATTERNS: tables.patterns_table(rng.random((2, 12, 4), np.float32), labels, "ABC", names),
        terms.NN_IDXS: tables.neighbors_table(rng.integers(-1, 12, (12, 4)).astype(np.int32), names),
        terms.NN_DISTS: tables.neighbors_table(rng.random((12, 4), np.float32), names),
        terms.SENDER_NORMS: tables.norms_table({n: rng.random((12, 2), np.float32) for n in terms.NORMS}, names),
        terms.CELLS: tables.cells_table(
            np.arange(12), names, labels, "ABC", np.zeros(12, int), (), rng.random((12, 2))
        ),
    }
    for name, table in made.items():
        (folder / "seed" / name).mkdir(parents=True)
        tables.write_table(table, folder / "seed" / name / tables.shard_file(0))


def training_seeds(folder: Path) -> None:
    net = small_network()
    optimizer = torch.optim.Adam(net.parameters())
    sum(value.sum() for value in net.parameters()).backward()
    optimizer.step()
    history = [dict.fromkeys(RECORD, 0.5) | {"epoch": epoch} for epoch in range(2)]
    best = {name: value.clone() for name, value in net.state_dict().items()}
    progress = TrainingProgress(history, best, {"untrained": 1.0, "type_means": 2.0})
    TrainingCheckpoint(folder / "last.safetensors").write(FINGERPRINT, net, optimizer, progress)


# --- what is done to them


def broken_file(rng: random.Random, path: Path) -> None:
    path.write_bytes(broken_bytes(rng, path.read_bytes()))


VALUES = (-1, 0, 1, 5, 127, 255, 10**6, 2**31 - 1, -(2**31), float("nan"), float("inf"), 0.5)


def broken_h5ad(rng: random.Random, path: Path) -> None:
    """Exchange, remove or resize parts of an h5ad file, or their attributes."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        for _ in range(rng.choice([1, 1, 2, 3])):
            name = rng.choice(names)
            if name not in file:
                continue
            part = file[name]
            attributes = dict(part.attrs)
            match rng.randrange(9):
                case 0:
                    del file[name]
                case 1:
                    del file[name]
                    if isinstance(part, h5py.Group):
                        file[name] = rng.choice([np.arange(3), 5, "text", np.zeros((30, 2))])
                    else:
                        file.create_group(name)
                    file[name].attrs.update(attributes)
                case 2 if attributes:
                    key = rng.choice(list(attributes))
                    part.attrs[key] = rng.choice(
                        [5, "dict", "csr_matrix", "array", "", b"\xff", np.array([3, 10**9]), "x"]
                    )
                case 3 if attributes:
                    del part.attrs[rng.choice(list(attributes))]
                case 4 | 5 if isinstance(part, h5py.Dataset) and part.dtype.kind in "iuf" and part.size:
                    values = part[()]
                    flat = np.ravel(values)
                    with np.errstate(all="ignore"):
                        flat[rng.randrange(flat.size)] = np.asarray(rng.choice(VALUES)).astype(flat.dtype)
                    part[...] = flat.reshape(np.shape(values))
                case 6 if isinstance(part, h5py.Dataset):
                    made = rng.choice([np.arange(7.0), np.arange(31), np.zeros((30, 30)), np.array([b"\xff"] * 30)])
                    del file[name]
                    file[name] = made
                    file[name].attrs.update(attributes)
                case 7:
                    link = rng.choice([h5py.SoftLink("/obs"), h5py.ExternalLink("other.h5", "/"), file["uns"]])
                    del file[name]
                    file[name] = link
                case 8 if isinstance(part, h5py.Dataset):
                    dtype = part.dtype
                    del file[name]
                    shape = rng.choice([(10**12,), (10**9, 10**5), (0,), (30, 0), ()])
                    file.create_dataset(name, shape, dtype, chunks=True if shape and 0 not in shape else None)
                    file[name].attrs.update(attributes)


def broken_zarr(rng: random.Random, path: Path) -> None:
    """Break metadata or chunks of a zarr store."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    described = [file for file in files if file.name in ("zarr.json", ".zarray", ".zattrs", ".zgroup")]
    for _ in range(rng.choice([1, 1, 2, 3])):
        file = rng.choice(described if rng.random() < 0.7 else files)
        if not file.is_file():
            continue
        match rng.randrange(8):
            case 0:
                file.unlink()
            case 1:
                file.unlink()
                file.symlink_to("/etc/hostname")
            case 2:
                file.unlink()
                file.mkdir()
            case _ if file in described:
                file.write_bytes(broken_json(rng, file.read_bytes()))
            case _:
                broken_file(rng, file)


def broken_table(rng: random.Random, path: Path) -> None:
    """Exchange columns of one of the tables, or rows, or break its file."""
    file = rng.choice(sorted(path.rglob("*.parquet")))
    if rng.random() < 0.5:
        broken_file(rng, file)
        return
    table = pq.read_table(file, partitioning=None)
    at = rng.randrange(table.num_columns)
    name, column = table.column_names[at], table.column(at)
    size = len(table)
    match rng.randrange(8):
        case 0:
            table = table.drop_columns([name])
        case 1:
            table = table.rename_columns({name: rng.choice(["x", "neighbor_1", "neighbor_9", "other", "head_idx"])})
        case 2:
            numbers = [rng.choice([-5, -1, 0, 1, 10**6, 2**31 - 1]) for _ in range(size)]
            kind = rng.choice([pa.int32(), pa.int64(), pa.float32(), pa.int32()])
            table = table.set_column(at, name, pa.array(numbers, pa.float64()).cast(kind, safe=False))
        case 3:
            table = table.set_column(at, name, pa.array([None] * size, column.type))
        case 4:
            table = table.set_column(at, name, pa.array(["text"] * size).dictionary_encode())
        case 5:
            table = table.slice(rng.randrange(size), rng.randrange(size))
        case 6:
            table = pa.concat_tables([table, table])
        case 7:
            made = rng.choice([pa.array([[1]] * size), pa.array([b"x"] * size), pa.array([True] * size)])
            table = table.set_column(at, name, made)
    try:
        pq.write_table(table, file)
    except (pa.ArrowException, ValueError):
        broken_file(rng, file)


def broken_training(rng: random.Random, path: Path) -> None:
    """Break the header of a training checkpoint, or any of its bytes."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if rng.random() < 0.3:
        broken_file(rng, path)
        return
    header = json.loads(content[8 : 8 + length])
    match rng.randrange(4):
        case 0:
            part = rng.choice(["history", "reference"])
            header["__metadata__"][part] = broken_json(rng, header["__metadata__"][part].encode()).decode(
                errors="replace"
            )
        case 1:
            header.pop(rng.choice(list(header)))
        case 2:
            name = rng.choice(list(header)[1:])
            header[rng.choice([name, "best.x", "optimizer.0.step", "network.y"])] = header.pop(name)
        case 3:
            entry = header[rng.choice(list(header)[1:])]
            kind = rng.choice(["I32", "F8_E4M3", "BOOL", "F16", "C64", "F4"])
            entry.update({"dtype": kind} if rng.random() < 0.5 else {"shape": [1, *entry.get("shape", [])]})
    packed = json.dumps(header).encode()
    path.write_bytes(len(packed).to_bytes(8, "little") + packed + content[8 + length :])


# --- how they are read


def use_tissue(path: Path) -> None:
    prepared = prepare_tissue(open_tissue(path), KEYS, log_normalised=False)
    assert np.isfinite(prepared.coordinates).all()
    assert np.isfinite(prepared.expression.data).all()
    assert prepared.labels.min() >= 0
    assert prepared.labels.max() < len(prepared.cell_types)
    prepared.expression.check_format(full_check=True)


def use_tables(path: Path) -> None:
    def folder(name: str) -> pads.Dataset:
        files = sorted(map(str, (path / name).glob("*.parquet")))
        return pads.FileSystemDataset.from_paths(
            files, schema=pa.schema([]), format=pads.ParquetFileFormat(), filesystem=pa.fs.LocalFileSystem()
        )

    cells = stored.Cells.read(folder(terms.CELLS))
    assert cells.labels.max(initial=-1) < len(cells.cell_types)
    attention, idx, dist = map(folder, (terms.ATTENTION_PATTERNS, terms.NN_IDXS, terms.NN_DISTS))
    for shard in stored.read_shards(attention, idx, cells, nn_dists=dist):
        assert shard.attention.shape[1:] == shard.nn_idx.shape
        assert shard.sender_labels(cells).max(initial=-1) < len(cells.cell_types)
    list(stored.StoredStrength(attention, idx, cells, nn_dists=dist))
    stored.read_norms(folder(terms.SENDER_NORMS), cells)


def use_training(path: Path) -> None:
    net = small_network()
    optimizer = torch.optim.Adam(net.parameters())
    TrainingCheckpoint(path).read(FINGERPRINT, net, optimizer, both=False)
    assert all(bool(torch.isfinite(value).all()) for value in net.state_dict().values())


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[random.Random, Path], None], Callable[[Path], None]]] = {
    "h5ad, parts": (h5ad_seeds, broken_h5ad, use_tissue),
    "h5ad, bytes": (h5ad_seeds, broken_file, use_tissue),
    "zarr": (zarr_seeds, broken_zarr, use_tissue),
    "tables": (table_seeds, broken_table, use_tables),
    "training": (training_seeds, broken_training, use_training),
}


def work(kind: str, folder: Path, seed: int, numbers: range) -> None:
    """Read inputs of a kind, and write a line for each."""
    _, break_it, use = KINDS[kind]
    seeds = sorted((folder / "seeds").iterdir())
    for number in numbers:
        rng = random.Random(f"{seed} {kind} {number}")
        source = rng.choice(seeds)
        path = folder / CURRENT / source.name
        shutil.rmtree(folder / CURRENT, ignore_errors=True)
        path.parent.mkdir()
        shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
        with contextlib.suppress(Exception):  # a file that is broken already may not be broken further
            break_it(rng, path)
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        start, wrong = time.perf_counter(), ""
        try:
            use(path)
            came = "loaded"
        except CrosstalkError as error:
            came = "refused"
            if len(str(error)) > 3000:
                wrong = f"a message of {len(str(error))} characters"
        except BaseException:
            came, wrong = "finding", traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        line = {"number": number, "came": came, "wrong": wrong, "seconds": time.perf_counter() - start}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def fuzz(kind: str, n_inputs: int, seed: int, keep: Path | None) -> dict[str, Any]:
    """Read inputs of a kind in other processes; one that dies is followed by another."""
    counts: Counter[str] = Counter()
    findings: Counter[str] = Counter()
    slowest, done = 0.0, 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "seeds").mkdir()
        KINDS[kind][0](folder / "seeds")
        while done < n_inputs:
            command = [sys.executable, __file__, "--work", kind, place, str(seed), str(done), str(n_inputs)]
            worker = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [json.loads(line) for line in worker.stdout.splitlines()]
            if worker.returncode:
                wrong = f"the process ended with {worker.returncode}: {worker.stderr[-1500:]}"
                lines.append({"number": done + len(lines), "came": "finding", "wrong": wrong, "seconds": 0.0})
            for line in lines:
                counts[line["came"]] += 1
                slowest = max(slowest, line["seconds"])
                if line["wrong"]:
                    findings[line["wrong"][-600:]] += 1
            done += len(lines)
            if worker.returncode and keep is not None and (folder / CURRENT).exists():
                shutil.copytree(folder / CURRENT, keep / f"{kind} {seed} {done - 1}", symlinks=True)
    return {**counts, "findings": findings, "slowest_seconds": round(slowest, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--keep", type=Path, help="folder for inputs on which the process died")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    torch.set_num_threads(1)
    if given.work:
        kind, folder, seed, start, stop = given.work
        faulthandler.enable()
        work(kind, Path(folder), int(seed), range(int(start), int(stop)))
        return
    outcomes = {kind: fuzz(kind, given.inputs, given.seed, given.keep) for kind in given.kinds}
    sys.stdout.write(json.dumps(outcomes) + "\n")
    sys.exit(any(outcome["findings"] for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
