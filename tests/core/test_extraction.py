"""Attention written shard by shard: the same as computed at once, kept where nothing has changed, and resumed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import torch
from naive import Stored, random_model, random_tissue

from tissue_crosstalk.core import attention as attention_module
from tissue_crosstalk.core.attention import extract_attention
from tissue_crosstalk.core.devices import full_precision
from tissue_crosstalk.core.errors import ParameterError, ResultError
from tissue_crosstalk.core.extraction import TABLES, ExtractionJob, extract_tables
from tissue_crosstalk.core.files import Workspace
from tissue_crosstalk.core.flavoring import FLAVORED_ATTENTION, flavor_attention
from tissue_crosstalk.core.flavors import FLAVORS, weigh
from tissue_crosstalk.core.model import CrosstalkModel
from tissue_crosstalk.core.model_input import to_anndata
from tissue_crosstalk.core.neighbors import find_neighbors
from tissue_crosstalk.core.network import ROW_BLOCK, CrossAttentionNetwork
from tissue_crosstalk.core.shard_jobs import ShardJob, run_here
from tissue_crosstalk.core.stored import Cells, read_shards
from tissue_crosstalk.core.tables import ATTENTION_COLUMNS, read_table, shard_file
from tissue_crosstalk.core.tissue_file import open_tissue

TISSUE = random_tissue(3, n_cells=90, n_sections=2)
NEIGHBORS = find_neighbors(TISSUE, 7)
MODEL = random_model(TISSUE, 7)
N_SHARDS = 5


@pytest.fixture
def model_input(tmp_path: Path) -> ad.AnnData:
    """On disk, to be read by rows."""
    to_anndata(TISSUE, NEIGHBORS).write_h5ad(tmp_path / "model_input.h5ad")
    return open_tissue(tmp_path / "model_input.h5ad")


class Counting:
    """Does shards here, and notes which; stops where it is told to."""

    def __init__(self, stops_after: int | None = None) -> None:
        self.numbers: list[int] = []
        self.stops_after = stops_after

    def __call__(self, job: ShardJob, numbers: Sequence[int]) -> Iterator[int]:
        for number in run_here(job, numbers):
            self.numbers.append(number)
            if len(self.numbers) == self.stops_after:
                raise KeyboardInterrupt
            yield number


def extract(
    folder: Path, model_input: ad.AnnData, run: Counting | None = None, model: CrosstalkModel = MODEL, **given: Any
) -> list[int]:
    """Extract to a folder, and return which shards were computed."""
    run = run or Counting()
    given = {"cells_per_shard": 18} | given
    finished = extract_tables(model_input, model, Workspace(folder), run=run, progress=False, **given)
    for name, table in zip(TABLES, finished, strict=True):
        table.move_to(folder / name)
    return getattr(run, "numbers", [])


def flavor(folder: Path, flavors: Sequence[str] = tuple(FLAVORS), run: Counting | None = None) -> list[int]:
    run = run or Counting()
    tables = [pads.dataset(str(folder / name)) for name in ("attention_patterns", "nn_idxs", "sender_norms", "cells")]
    flavor_attention(*tables, Workspace(folder), flavors, run=run, progress=False).move_to(folder / FLAVORED_ATTENTION)
    return run.numbers


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*.parquet"))}


@pytest.mark.parametrize("cells_per_shard", [1, 7, 90])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_the_same_as_at_once(where: str, cells_per_shard: int, tmp_path: Path, model_input: ad.AnnData) -> None:
    given = model_input if where == "disk" else to_anndata(TISSUE, NEIGHBORS)
    extract(tmp_path / "study", given, cells_per_shard=cells_per_shard)
    flavor(tmp_path / "study")
    (whole,) = extract_attention(MODEL.network, TISSUE, NEIGHBORS, cells_per_shard=90)
    stored = Stored(tmp_path / "study", {})
    cells, back = Cells.read(stored.cells), np.argsort(TISSUE.positions)
    assert cells.names.tolist() == TISSUE.cell_names[back].tolist()
    assert len(pads.dataset(tmp_path / "study" / "cells").files) == -(-90 // cells_per_shard)
    flavored = pads.dataset(str(tmp_path / "study" / FLAVORED_ATTENTION), partitioning="hive")
    for name in FLAVORS:
        expected = weigh(whole.patterns, whole.norms, NEIGHBORS.idx, name)
        for shard in read_shards(flavored, stored.nn_idxs, cells, nn_dists=stored.nn_dists, flavor=name):
            rows = back[shard.receivers]
            np.testing.assert_allclose(shard.attention, expected[:, rows], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(shard.nn_idx, TISSUE.positions[NEIGHBORS.idx[rows]])
            np.testing.assert_array_equal(shard.nn_dist, NEIGHBORS.dist[rows])


def test_the_same_bytes_twice(tmp_path: Path, model_input: ad.AnnData) -> None:
    for name in "ab":
        extract(tmp_path / name, model_input)
        flavor(tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == N_SHARDS * (len(TABLES) + len(FLAVORS))


def test_padded_slots_have_no_attention_in_any_flavor(tmp_path: Path) -> None:
    neighbors = find_neighbors(TISSUE, 35, pad=True)
    assert (neighbors.idx < 0).any()
    extract(tmp_path, to_anndata(TISSUE, neighbors))
    flavor(tmp_path)
    stored = Stored(tmp_path, {})
    flavored = pads.dataset(str(tmp_path / FLAVORED_ATTENTION), partitioning="hive")
    for name in FLAVORS:
        for shard in read_shards(flavored, stored.nn_idxs, Cells.read(stored.cells), flavor=name):
            assert (shard.attention[:, shard.nn_idx < 0] == 0).all()
            assert (shard.attention[:, shard.nn_idx >= 0] > 0).all()


@pytest.mark.parametrize("stops_after", [1, 3, 4])
def test_an_interrupted_extraction_goes_on(stops_after: int, tmp_path: Path, model_input: ad.AnnData) -> None:
    extract(tmp_path / "whole", model_input)
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "study", model_input, Counting(stops_after))
    assert not list((tmp_path / "study").glob("[!.]*"))  # nothing in its place yet
    done = [file.stem for file in (tmp_path / "study").rglob("*.parquet") if TABLES[-1] in file.parts[-2]]
    assert len(done) >= stops_after  # those that others had begun are finished, too
    assert extract(tmp_path / "study", model_input) == [
        number for number in range(N_SHARDS) if Path(shard_file(number)).stem not in done
    ]
    assert contents(tmp_path / "study") == contents(tmp_path / "whole")
    assert sorted(entry.name for entry in (tmp_path / "study").iterdir()) == sorted(TABLES)


def test_what_has_not_changed_is_not_computed_again(tmp_path: Path, model_input: ad.AnnData) -> None:
    assert extract(tmp_path, model_input) == [*range(N_SHARDS)]
    assert extract(tmp_path, model_input) == []
    assert flavor(tmp_path) == [*range(N_SHARDS)]
    assert flavor(tmp_path) == []


@pytest.mark.parametrize("change", ["tissue", "model", "genes", "shards", "precision"])
def test_what_has_changed_is(change: str, tmp_path: Path, model_input: ad.AnnData) -> None:
    extract(tmp_path / "study", model_input)
    flavor(tmp_path / "study")
    model, given = MODEL, {}
    if change == "tissue":
        moved = replace(NEIGHBORS, dist=NEIGHBORS.dist + np.float32(1))
        to_anndata(TISSUE, moved).write_h5ad(tmp_path / "other.h5ad")
        model_input = open_tissue(tmp_path / "other.h5ad")
    elif change == "model":
        model = random_model(TISSUE, 7)
        with torch.no_grad():
            model.network.attention_layer.W_Q.mul_(1.01)
    elif change == "genes":  # the same numbers, called otherwise
        names = tuple(f"g{number}" for number in range(6))
        to_anndata(replace(TISSUE, genes=names), NEIGHBORS).write_h5ad(tmp_path / "other.h5ad")
        model_input, model = open_tissue(tmp_path / "other.h5ad"), replace(MODEL, genes=names)
    elif change == "shards":
        given = {"cells_per_shard": 17}
    else:
        given = {"allow_tf32": True}
    n_shards = 6 if change == "shards" else N_SHARDS
    assert extract(tmp_path / "study", model_input, model=model, **given) == [*range(n_shards)]
    assert flavor(tmp_path / "study") == [*range(n_shards)]


@pytest.mark.parametrize("name", ["attention_patterns", "cells"])
def test_a_lost_file_is_computed_again_alone(name: str, tmp_path: Path, model_input: ad.AnnData) -> None:
    extract(tmp_path, model_input)
    before = contents(tmp_path)
    (tmp_path / name / "part-00002.parquet").unlink()
    assert extract(tmp_path, model_input) == [2]
    assert contents(tmp_path) == before


def test_a_lost_flavor_is_weighed_again_alone(tmp_path: Path, model_input: ad.AnnData) -> None:
    extract(tmp_path, model_input)
    flavor(tmp_path, ["vanilla", "info-weighted"])
    before = contents(tmp_path)
    (tmp_path / FLAVORED_ATTENTION / "flavor=info-weighted" / "part-00004.parquet").unlink()
    assert flavor(tmp_path, ["vanilla", "info-weighted"]) == [4]
    assert contents(tmp_path) == before
    assert flavor(tmp_path, ["vanilla"]) == []
    assert not (tmp_path / FLAVORED_ATTENTION / "flavor=info-weighted").exists()


def flip_a_value(file: Path) -> None:
    """Change a bit of a number of the first column, as a bad disk does."""
    column = pq.read_metadata(file).row_group(0).column(0)
    content = bytearray(file.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["attention_patterns", "nn_idxs", "sender_norms", "cells"])
def test_a_flipped_byte_is_noticed_and_its_shard_alone_made_again(
    name: str, tmp_path: Path, model_input: ad.AnnData
) -> None:
    extract(tmp_path, model_input)
    before = contents(tmp_path)
    file = tmp_path / name / "part-00002.parquet"
    flip_a_value(file)
    assert extract(tmp_path, model_input) == []  # which says what it was made from, still
    with pytest.raises(ResultError) as refused:
        flavor(tmp_path, ["info-weighted"])
    assert str(refused.value) == (
        f"{file} is damaged: its bytes are not those that were written (a checksum does not match). Delete it, and "
        "run the stage again that writes it, or the whole pipeline: this shard alone is made again. Where it happens "
        "again, have the disk and the memory of this machine checked."
    )
    file.unlink()
    assert extract(tmp_path, model_input) == [2]
    flavor(tmp_path, ["info-weighted"])
    assert {path: content for path, content in contents(tmp_path).items() if "flavor=" not in path} == before


def test_both_names_of_a_damaged_file_are_to_be_deleted(tmp_path: Path, model_input: ad.AnnData) -> None:
    extract(tmp_path, model_input)
    flavor(tmp_path)
    before = contents(tmp_path)
    patterns = tmp_path / "attention_patterns" / "part-00001.parquet"
    vanilla = tmp_path / FLAVORED_ATTENTION / "flavor=vanilla" / "part-00001.parquet"
    flip_a_value(patterns)
    for file, other in ((patterns, vanilla), (vanilla, patterns)):
        with pytest.raises(
            ResultError, match=re.escape(f"{file} is damaged: ") + ".*" + re.escape(f"it and {other}, ")
        ):
            read_table(file, str(file), ATTENTION_COLUMNS)
    for file in (patterns, vanilla):
        file.unlink()
    assert (extract(tmp_path, model_input), flavor(tmp_path)) == ([1], [1])
    assert contents(tmp_path) == before


def test_vanilla_attention_is_not_written_twice(tmp_path: Path, model_input: ad.AnnData) -> None:
    extract(tmp_path, model_input)
    flavor(tmp_path)
    for number in range(N_SHARDS):
        file = f"part-{number:05d}.parquet"
        linked = tmp_path / FLAVORED_ATTENTION / "flavor=vanilla" / file
        assert linked.stat().st_ino == (tmp_path / "attention_patterns" / file).stat().st_ino


def test_a_device_that_others_have_is_not_asked_for_here(tmp_path: Path, model_input: ad.AnnData) -> None:
    """Shards go to where it is; on a machine without one, that is an error here."""

    def elsewhere(job: ShardJob, numbers: Sequence[int]) -> Iterator[int]:
        assert isinstance(job, ExtractionJob)
        assert job.device == "cuda:1"
        return run_here(replace(job, device="cpu"), numbers)

    extract(tmp_path / "there", model_input, elsewhere, device="cuda:1")  # type: ignore[arg-type]
    extract(tmp_path / "here", model_input, device="cpu")
    assert extract(tmp_path / "here", model_input, device="auto") == [] or torch.cuda.is_available()


def test_a_job_needs_files_alone(tmp_path: Path, model_input: ad.AnnData) -> None:
    """So that another process can do it: it survives a round trip as bytes."""
    import pickle

    jobs: list[ExtractionJob] = []

    def elsewhere(job: ShardJob, numbers: Sequence[int]) -> Iterator[int]:
        assert isinstance(job, ExtractionJob)
        text = pickle.dumps(job)
        assert len(text) < 2000  # names of files, nothing of what is in them
        jobs.append(pickle.loads(text))
        return run_here(jobs[0], numbers)

    finished = extract_tables(
        model_input, MODEL, Workspace(tmp_path), cells_per_shard=18, run=elsewhere, progress=False
    )
    assert len(jobs) == 1
    assert [pq.read_table(str(table.path)).num_rows for table in finished] == [180, 90, 90, 180, 90]


@pytest.mark.parametrize(
    ("given", "words"), [({"cells_per_shard": 0}, "cells_per_shard"), ({"device": "gpu"}, "device")]
)
def test_parameters_are_checked(given: dict[str, Any], words: str, tmp_path: Path, model_input: ad.AnnData) -> None:
    with pytest.raises(ParameterError, match=words):
        extract(tmp_path / "study", model_input, **given)
    assert not list((tmp_path / "study").rglob("*"))


# --- Devices


def test_blocks_do_not_matter() -> None:
    """A GPU has larger ones."""
    (expected,) = extract_attention(MODEL.network, TISSUE, NEIGHBORS, cells_per_shard=90)
    network = random_model(TISSUE, 7).network
    network.row_block = 4 * ROW_BLOCK
    (found,) = extract_attention(network, TISSUE, NEIGHBORS, cells_per_shard=90)
    np.testing.assert_allclose(found.patterns, expected.patterns, rtol=1e-5, atol=1e-6)


def test_blocks_are_halved_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_model(TISSUE, 7).network
    network.row_block = 8 * ROW_BLOCK
    rows, tried = attention_module.sender_rows, []

    def scarce(network: Any, *given: Any) -> Any:
        tried.append(network.row_block)
        if network.row_block > 2 * ROW_BLOCK:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows(network, *given)

    monkeypatch.setattr(attention_module, "sender_rows", scarce)
    (found,) = extract_attention(network, TISSUE, NEIGHBORS, cells_per_shard=90)
    assert tried == [8 * ROW_BLOCK, 4 * ROW_BLOCK, 2 * ROW_BLOCK]
    monkeypatch.undo()
    (expected,) = extract_attention(MODEL.network, TISSUE, NEIGHBORS, cells_per_shard=90)
    np.testing.assert_allclose(found.patterns, expected.patterns, rtol=1e-5, atol=1e-6)


def test_a_device_that_lacks_memory_for_anything_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(attention_module, "sender_rows", scarce)
    with pytest.raises(ParameterError, match=r"cpu lacks memory for 90 cells at once: .* Lower extraction.cells_per_"):
        list(extract_attention(random_model(TISSUE, 7).network, TISSUE, NEIGHBORS, cells_per_shard=90))


def test_maps_are_made_in_full_precision_whatever_the_process_is_set_to() -> None:
    network = CrossAttentionNetwork(64, 3, replace(MODEL.network.settings, n_nn_embed=64, n_kv_dim=64))
    expected = attention_module.SenderMaps.of(network)
    torch.set_float32_matmul_precision("medium")
    try:
        found = attention_module.SenderMaps.of(network)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(found.key_value.product, expected.key_value.product)


@pytest.mark.parametrize("allowed", [False, True])
def test_precision_is_full_unless_asked_otherwise(allowed: bool) -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with full_precision(allow_tf32=allowed):
            assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees_with_the_cpu(tmp_path: Path, model_input: ad.AnnData) -> None:
    for device in ("cpu", "cuda"):
        extract(tmp_path / device, model_input, device=device)
    stored = {device: Stored(tmp_path / device, {}) for device in ("cpu", "cuda")}
    cpu, cuda = (
        list(read_shards(found.attention_patterns, found.nn_idxs, Cells.read(found.cells))) for found in stored.values()
    )
    for one, other in zip(cpu, cuda, strict=True):
        np.testing.assert_allclose(one.attention, other.attention, rtol=1e-5, atol=1e-6)
