"""Attention in parquet folders: back as it was written, and refused where folders do not belong together."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from naive import (
    Stored,
    random_model,
    random_network,
    random_tissue,
    stored_attention,
    user_tissue,
)

from tissue_crosstalk.core import tables
from tissue_crosstalk.core.errors import ParameterError, ResultError
from tissue_crosstalk.core.extraction import extract_tables
from tissue_crosstalk.core.files import Workspace
from tissue_crosstalk.core.flavoring import flavor_attention
from tissue_crosstalk.core.flavors import FLAVORS
from tissue_crosstalk.core.model_input import to_anndata
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.stored import (
    Cells,
    StoredStrength,
    attention_sizes,
    check_same_cells,
    check_same_tissue,
    read_norms,
    read_shards,
    stored_flavors,
    strongest_head,
)
from tissue_crosstalk.core.tissue import PreparedTissue

N_NEIGHBORS = 13


def made(seed: int = 1) -> tuple[PreparedTissue, Neighbors]:
    """Return a tissue of 36 cells in two sections, with awkward names and padded slots."""
    tissue = random_tissue(seed, n_cells=36, n_sections=2)
    tissue = replace(
        tissue,
        cell_types=("NK/T", "B, naive", "flavor=vanilla"),
        section_names=("slide/1", "slide 2"),
        cell_names=np.array([f"run{seed}/cell {position}" for position in tissue.positions], dtype=object),
    )
    return tissue, find_neighbors(tissue, N_NEIGHBORS, pad=True)


TISSUE, NEIGHBORS = made()
BACK = TISSUE.in_tissue_order()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Return one extraction with all flavors, in three shards. Not to be changed."""
    folder = tmp_path_factory.mktemp("kept")
    return stored_attention(folder, TISSUE, NEIGHBORS, random_model(TISSUE, N_NEIGHBORS), flavors=list(FLAVORS))


@pytest.fixture
def stored(kept: Stored, tmp_path: Path) -> Stored:
    """Return a copy of it to spoil."""
    shutil.copytree(kept.folder, tmp_path / "stored")
    return replace(kept, folder=tmp_path / "stored")


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Return the extraction of another tissue, in as many shards of as many cells."""
    tissue, neighbors = made(2)
    return stored_attention(tmp_path_factory.mktemp("other"), tissue, neighbors, random_model(tissue, N_NEIGHBORS))


def by_position(shards_of: list[tuple[np.ndarray, np.ndarray]], axis: int) -> np.ndarray:
    """Put shards of (receivers, array) together in the order of the tissue."""
    receivers = np.concatenate([receivers for receivers, _ in shards_of])
    assert np.sort(receivers).tolist() == list(range(36))
    return np.take(np.concatenate([array for _, array in shards_of], axis=axis), np.argsort(receivers), axis=axis)


# --- Round trips


def test_cells_come_back_in_the_order_of_the_tissue(kept: Stored) -> None:
    cells = Cells.read(kept.cells)
    assert cells.names.tolist() == TISSUE.cell_names[BACK].tolist()
    assert [cells.cell_types[label] for label in cells.labels] == [TISSUE.cell_types[k] for k in TISSUE.labels[BACK]]
    assert cells.cell_types == TISSUE.cell_types
    assert cells.section_names == TISSUE.section_names
    np.testing.assert_array_equal(cells.sections, TISSUE.sections[BACK])
    np.testing.assert_array_equal(cells.coordinates, TISSUE.coordinates[BACK])
    assert (cells.labels.dtype, cells.sections.dtype, cells.names.dtype) == (np.int16, np.int32, object)


def test_cells_survive_their_own_table(kept: Stored, tmp_path: Path) -> None:
    cells = Cells.read(kept.cells)
    pq.write_table(cells.table(), tmp_path / "cells.parquet")
    again = Cells.read(pads.dataset(str(tmp_path / "cells.parquet")))
    assert again.names.tolist() == cells.names.tolist()
    assert (again.cell_types, again.section_names) == (cells.cell_types, cells.section_names)
    for name in ("labels", "sections", "coordinates"):
        np.testing.assert_array_equal(getattr(again, name), getattr(cells, name))


def test_types_that_the_tissue_lacks_stay(tmp_path: Path) -> None:
    tissue = replace(TISSUE, cell_types=(*TISSUE.cell_types, "lacking"))
    stored = stored_attention(tmp_path, tissue, NEIGHBORS, random_model(tissue, N_NEIGHBORS))
    assert Cells.read(stored.cells).cell_types == tissue.cell_types


def test_three_axes_come_back(tmp_path: Path) -> None:
    tissue = random_tissue(3, axes=3)
    stored = stored_attention(tmp_path, tissue, find_neighbors(tissue, 3), random_model(tissue, 3))
    cells = Cells.read(stored.cells)
    np.testing.assert_array_equal(cells.coordinates, tissue.coordinates[tissue.in_tissue_order()])


def test_sections_of_cells(kept: Stored, tmp_path: Path) -> None:
    """By name; None where there is one section or none."""
    sections = Cells.read(kept.cells).section_of_cells()
    assert sections is not None
    assert sections.tolist() == [TISSUE.section_names[part] for part in TISSUE.sections[BACK]]
    tissue = random_tissue(4)
    plain = stored_attention(tmp_path, tissue, find_neighbors(tissue, 3), random_model(tissue, 3))
    assert Cells.read(plain.cells).section_of_cells() is None


def test_attention_and_neighbors_come_back(kept: Stored) -> None:
    cells = Cells.read(kept.cells)
    shards = list(read_shards(kept.attention_patterns, kept.nn_idxs, cells, nn_dists=kept.nn_dists))
    assert len(shards) == 3
    attention = by_position([(shard.receivers, shard.attention) for shard in shards], axis=1)
    np.testing.assert_array_equal(attention, kept.arrays["vanilla"][:, BACK])
    idx = by_position([(shard.receivers, shard.nn_idx) for shard in shards], axis=0)
    expected = np.where(NEIGHBORS.idx < 0, -1, TISSUE.positions[NEIGHBORS.idx])[BACK]
    np.testing.assert_array_equal(idx, expected)
    dist = by_position([(shard.receivers, shard.nn_dist) for shard in shards if shard.nn_dist is not None], axis=0)
    np.testing.assert_array_equal(dist, NEIGHBORS.dist[BACK])
    labels = by_position([(shard.receivers, shard.sender_labels(cells)) for shard in shards], axis=0)
    np.testing.assert_array_equal(labels, NEIGHBORS.labels(TISSUE.labels)[BACK])


def test_distances_are_read_when_asked_for(kept: Stored) -> None:
    shards = read_shards(kept.attention_patterns, kept.nn_idxs, Cells.read(kept.cells))
    assert all(shard.nn_dist is None for shard in shards)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_flavors_come_back(kept: Stored, flavor: str) -> None:
    shards = read_shards(kept.flavored, kept.nn_idxs, Cells.read(kept.cells), flavor=flavor)
    attention = by_position([(shard.receivers, shard.attention) for shard in shards], axis=1)
    np.testing.assert_allclose(attention, kept.arrays[flavor][:, BACK], rtol=1e-6)
    assert (attention[:, NEIGHBORS.idx[BACK] < 0] == 0).all()


def test_norms_come_back(kept: Stored) -> None:
    norms = read_norms(kept.sender_norms, Cells.read(kept.cells))
    present = NEIGHBORS.idx[BACK] >= 0
    idx = np.where(present, TISSUE.positions[NEIGHBORS.idx[BACK]], 0)
    for name, flavor in {"value_norm": "value-weighted", "gene_norm": "gene-weighted"}.items():
        product = kept.arrays["vanilla"][:, BACK] * norms[name][idx].transpose(2, 0, 1)
        np.testing.assert_allclose(product[:, present], kept.arrays[flavor][:, BACK][:, present], rtol=1e-6)


def test_shards_do_not_matter(kept: Stored, tmp_path: Path) -> None:
    whole = stored_attention(tmp_path, TISSUE, NEIGHBORS, random_model(TISSUE, N_NEIGHBORS), cells_per_shard=99)
    for one, other in zip(
        strongest_head(kept.flavored, kept.nn_idxs, Cells.read(kept.cells), "vanilla"),
        strongest_head(whole.flavored, whole.nn_idxs, Cells.read(whole.cells), "vanilla"),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_pandas_reads_the_folders(kept: Stored) -> None:
    """Without this project: numbers and categories, flavors as a column."""
    flavored = pd.read_parquet(kept.folder / "flavored")
    assert "object" not in set(flavored.dtypes.astype(str))
    assert flavored["flavor"].value_counts().to_dict() == dict.fromkeys(FLAVORS, 72)
    patterns = pd.read_parquet(kept.folder / "attention_patterns")
    assert "object" not in set(patterns.dtypes.astype(str))
    assert set(patterns["label"]) == set(TISSUE.cell_types)
    one = patterns[(patterns["cell_idx"] == TISSUE.cell_names[5]) & (patterns["head_idx"] == 1)]
    assert one[[f"neighbor_{slot}" for slot in range(N_NEIGHBORS)]].to_numpy().tolist() == [
        kept.arrays["vanilla"][1, 5].tolist()
    ]


def test_stored_flavors_are_those_there_are(kept: Stored, stored: Stored) -> None:
    assert stored_flavors(kept.flavored) == list(FLAVORS)
    shutil.rmtree(stored.folder / "flavored" / "flavor=vanilla")
    assert stored_flavors(stored.flavored) == ["value-weighted", "info-weighted", "gene-weighted"]


def test_sizes(kept: Stored) -> None:
    sizes = attention_sizes(kept.attention_patterns, kept.cells)
    assert sizes == {"cells": 36, "heads": 2, "neighbors": N_NEIGHBORS, "cell types": 3}


def test_the_strongest_head_is_the_maximum(kept: Stored) -> None:
    receivers, strength, nn_idx = strongest_head(kept.flavored, kept.nn_idxs, Cells.read(kept.cells), "info-weighted")
    assert receivers.tolist() == list(range(36))
    np.testing.assert_allclose(strength, kept.arrays["info-weighted"].max(axis=0)[BACK], rtol=1e-6)
    np.testing.assert_array_equal(nn_idx, np.where(NEIGHBORS.idx < 0, -1, TISSUE.positions[NEIGHBORS.idx])[BACK])


def test_strength_is_read_again_where_it_is_too_much_to_hold(kept: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = kept.flavored, kept.nn_idxs, Cells.read(kept.cells)
    held = StoredStrength(*arguments, nn_dists=kept.nn_dists, flavor="vanilla")
    passes = [list(held), list(held)]
    assert all(one is other for one, other in zip(*passes, strict=True))
    monkeypatch.setattr("tissue_crosstalk.core.stored.HELD_BYTES", 100)
    streamed = StoredStrength(*arguments, nn_dists=kept.nn_dists, flavor="vanilla")
    for again in (list(streamed), list(streamed)):
        for one, other in zip(passes[0], again, strict=True):
            assert one is not other
            for array, expected in zip(vars(other).values(), vars(one).values(), strict=True):
                np.testing.assert_array_equal(array, expected)
    strength = np.concatenate([shard.strength for shard in passes[0]])
    np.testing.assert_allclose(strength, kept.arrays["vanilla"].max(axis=0), rtol=1e-6)
    assert passes[0][0].nn_dist is not None


@pytest.mark.parametrize("files", ["alike", "one", "reversed"])
def test_receivers_are_found_whatever_the_files_of_cells(stored: Stored, files: str) -> None:
    """Where they are those of the shards, nothing is looked up; otherwise every cell is, by name."""
    folder = stored.folder / "cells"
    parts = [pq.read_table(file) for file in sorted(folder.iterdir())]
    if files != "alike":
        shutil.rmtree(folder)
        folder.mkdir()
        written = (
            [pa.concat_tables(parts)] if files == "one" else [part.take(np.arange(len(part))[::-1]) for part in parts]
        )
        for number, table in enumerate(written):
            pq.write_table(table, folder / f"part-{number:05d}.parquet")
    cells = Cells.read(pads.dataset(str(folder), format="parquet"))
    shards = list(read_shards(stored.attention_patterns, stored.nn_idxs, cells))
    by_name = {name: position for position, name in enumerate(cells.names)}
    for shard, part in zip(shards, parts, strict=True):
        assert shard.receivers.tolist() == [by_name[name] for name in part.column("cell_idx").to_pylist()]
        assert shard.receivers.dtype == np.int64
    assert ("_places" in vars(cells)) == (files != "alike")


def test_written_as_it_is_best_attention_comes_back_the_same(kept: Stored, stored: Stored) -> None:
    for file in stored.folder.rglob("*.parquet"):
        tables.write_table(pq.ParquetFile(file).read(), file)
    expected, again = (
        list(read_shards(of.flavored, of.nn_idxs, Cells.read(of.cells), nn_dists=of.nn_dists, flavor="gene-weighted"))
        for of in (kept, stored)
    )
    for one, other in zip(expected, again, strict=True):
        for array, wanted in zip(vars(other).values(), vars(one).values(), strict=True):
            np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_strength_is_the_maximum_over_heads(kept: Stored, flavor: str) -> None:
    stored = StoredStrength(kept.flavored, kept.nn_idxs, Cells.read(kept.cells), nn_dists=kept.nn_dists, flavor=flavor)
    shards = list(stored)
    assert len(shards) == 3
    strength = by_position([(shard.receivers, shard.strength) for shard in shards], axis=0)
    attention = kept.arrays[flavor][:, BACK]
    np.testing.assert_allclose(strength, np.maximum(attention[0], attention[1]), rtol=1e-6)  # of two heads
    assert strength.dtype == np.float32


@pytest.mark.parametrize("held_bytes", [2**30, 100])
def test_strength_is_at_hand_after_the_first_pass(
    kept: Stored, monkeypatch: pytest.MonkeyPatch, held_bytes: int
) -> None:
    """Where the maxima are too many, they are read again."""
    monkeypatch.setattr("tissue_crosstalk.core.stored.HELD_BYTES", held_bytes)
    stored = StoredStrength(
        kept.flavored, kept.nn_idxs, Cells.read(kept.cells), nn_dists=kept.nn_dists, flavor="gene-weighted"
    )
    seen, again = list(stored), list(stored)
    assert all(one is other for one, other in zip(seen, again, strict=True)) == (held_bytes > 100)
    for one, other in zip(seen, again, strict=True):
        for array, wanted in zip(vars(other).values(), vars(one).values(), strict=True):
            np.testing.assert_array_equal(array, wanted)


def test_a_pass_that_is_left_early_is_not_taken_for_the_whole(kept: Stored) -> None:
    arguments = kept.flavored, kept.nn_idxs, Cells.read(kept.cells)
    stored = StoredStrength(*arguments, nn_dists=kept.nn_dists, flavor="vanilla")
    next(iter(stored))
    assert sum(len(shard.receivers) for shard in stored) == 36


# --- Folders that do not belong together


def drop_shard(stored: Stored, name: str, number: int = 1) -> None:
    sorted((stored.folder / name).rglob("*.parquet"))[number].unlink()


def exchange(stored: Stored, other: Stored, name: str) -> None:
    shutil.rmtree(stored.folder / name)
    shutil.copytree(other.folder / name, stored.folder / name)


def read_all(stored: Stored) -> None:
    cells = Cells.read(stored.cells)
    list(read_shards(stored.attention_patterns, stored.nn_idxs, cells, nn_dists=stored.nn_dists))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("attention_patterns", "attention_patterns has 2 shards and nn_idxs has 3"),
        ("nn_idxs", "attention_patterns has 3 shards and nn_idxs has 2"),
    ],
)
def test_missing_shards_are_counted(stored: Stored, name: str, words: str) -> None:
    drop_shard(stored, name)
    with pytest.raises(ResultError) as caught:
        read_all(stored)
    assert str(caught.value).startswith(words)
    assert str(caught.value).endswith("Run the extraction again.")


def test_missing_shards_of_distances_are_named(stored: Stored) -> None:
    drop_shard(stored, "nn_dists")
    with pytest.raises(ResultError, match="nn_dists"):
        read_all(stored)


def test_missing_shards_of_a_flavor_are_named(stored: Stored) -> None:
    drop_shard(stored, "flavored/flavor=gene-weighted")
    with pytest.raises(ResultError, match=r"^attention of flavor 'gene-weighted' has 2 shards and nn_idxs has 3"):
        strongest_head(stored.flavored, stored.nn_idxs, Cells.read(stored.cells), "gene-weighted")


def test_a_flavor_that_is_not_there_is_named(kept: Stored, other_run: Stored) -> None:
    with pytest.raises(ResultError, match=r"^attention of flavor 'info-weighted' has 0 shards and nn_idxs has 3"):
        strongest_head(other_run.flavored, other_run.nn_idxs, Cells.read(other_run.cells), "info-weighted")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_missing_cells_are_refused(stored: Stored, number: int) -> None:
    drop_shard(stored, "cells", number)
    with pytest.raises(ResultError) as caught:
        read_all(stored)
    assert "table 'cells'" in str(caught.value)
    assert str(caught.value).lower().endswith("run the extraction again.")


def test_missing_sender_norms_are_refused(stored: Stored) -> None:
    """Rather than flavors in which some attention is not a number."""
    drop_shard(stored, "sender_norms")
    arguments = stored.attention_patterns, stored.nn_idxs, stored.sender_norms, stored.cells
    with pytest.raises(ResultError, match="sender_norms"):
        flavor_attention(*arguments, Workspace(stored.folder), ["value-weighted"])


@pytest.mark.parametrize("name", ["attention_patterns", "nn_idxs", "nn_dists"])
def test_a_folder_of_another_tissue_is_refused(stored: Stored, other_run: Stored, name: str) -> None:
    exchange(stored, other_run, name)
    with pytest.raises(
        ResultError, match=r"^shard 0 of the tables holds different cells: they are of different runs\.$"
    ):
        read_all(stored)


@pytest.mark.parametrize("name", ["attention_patterns", "nn_dists"])
def test_a_folder_of_another_model_is_refused(stored: Stored, tmp_path: Path, name: str) -> None:
    """The cells are the same, what is said of them is not."""
    model = random_model(TISSUE, N_NEIGHBORS)
    model.network.attention_layer.W_Q.mul_(2.0)
    other = stored_attention(tmp_path / "other", TISSUE, NEIGHBORS, model)
    exchange(stored, other, name)
    with pytest.raises(ResultError, match=r"^shard 0 of the tables was made from different tissues, models or param"):
        read_all(stored)


def test_cells_of_another_tissue_are_refused(stored: Stored, other_run: Stored) -> None:
    exchange(stored, other_run, "cells")
    with pytest.raises(ResultError) as caught:
        read_all(stored)
    assert str(caught.value) == (
        "the tables hold cells that table 'cells' does not know: they are of different runs. Run the extraction again."
    )


def test_norms_of_another_tissue_are_refused(stored: Stored, other_run: Stored) -> None:
    exchange(stored, other_run, "sender_norms")
    arguments = stored.attention_patterns, stored.nn_idxs, stored.sender_norms, stored.cells
    with pytest.raises(ResultError, match="they are of different runs"):
        flavor_attention(*arguments, Workspace(stored.folder), ["value-weighted"])


def test_shards_in_another_order_are_refused(stored: Stored) -> None:
    folder = stored.folder / "nn_idxs"
    (folder / "part-00000.parquet").rename(folder / "part-00009.parquet")
    with pytest.raises(ResultError, match="shard 0 of the tables holds different cells"):
        read_all(stored)


def test_a_repeated_position_is_refused(stored: Stored) -> None:
    file = stored.folder / "cells" / "part-00001.parquet"
    table = pq.read_table(file)
    positions = table.column("position").to_numpy().copy()
    positions[0] = positions[1]
    file.unlink()  # columns of the table may still be those in the file
    pq.write_table(table.set_column(0, table.schema.field(0), pa.array(positions)), file)
    with pytest.raises(ResultError) as caught:
        Cells.read(stored.cells)
    assert str(caught.value) == (
        "table 'cells' must hold every position from 0 to 35 once. Some are missing or repeated; run the "
        "extraction again."
    )


def test_unknown_flavors_are_refused_before_anything_is_read(kept: Stored) -> None:
    arguments = kept.attention_patterns, kept.nn_idxs, kept.sender_norms, kept.cells
    with pytest.raises(ParameterError, match=r"^unknown flavor 'gene-wieghted'\. Did you mean 'gene-weighted'\?"):
        flavor_attention(*arguments, Workspace(kept.folder), ["vanilla", "gene-wieghted"])


def test_the_cells_must_be_those_of_the_results(kept: Stored) -> None:
    cells, names = Cells.read(kept.cells), TISSUE.cell_names[BACK]
    check_same_cells(cells, names)
    check_same_cells(cells, list(names))
    for others in (names[:-1], names[::-1], [*names[:-1], "stranger"]):
        with pytest.raises(ResultError) as caught:
            check_same_cells(cells, others)
        assert str(caught.value).startswith(
            f"the results are of another tissue: they hold 36 cells, the tissue {len(others)}, or their names differ."
        )


def other_type(adata: ad.AnnData) -> None:
    first = adata.obs["cell_type"].cat.codes.iloc[0]
    adata.obs.iloc[0, 0] = adata.obs["cell_type"].cat.categories[(first + 1) % 3]


def type_renamed(adata: ad.AnnData) -> None:
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"NK/T": "NK"})


def moved(adata: ad.AnnData) -> None:
    adata.obsm["spatial"][3, 1] += 1e-6


def in_three_dimensions(adata: ad.AnnData) -> None:
    adata.obsm["spatial"] = np.column_stack([adata.obsm["spatial"], np.zeros(36)])


def sections_swapped(adata: ad.AnnData) -> None:
    adata.obs["section"] = adata.obs["section"].cat.rename_categories(["slide 2", "slide/1"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_type, "the cell types of 1 of 36 cells differ"),
        (type_renamed, "obs has cell types that the model does not know: 'NK'"),
        (moved, "the coordinates of 1 of 36 cells differ"),
        (in_three_dimensions, "the coordinates of all of 36 cells differ"),
        (sections_swapped, "the sections of 36 of 36 cells differ"),
        (lambda adata: adata.obs.pop("section"), "section_key names the column 'section', which is not in"),
    ],
)
def test_a_tissue_of_the_same_names_that_has_been_changed_is_refused(
    kept: Stored, change: Callable[[ad.AnnData], None], words: str
) -> None:
    cells, adata = Cells.read(kept.cells), user_tissue(TISSUE)
    check_same_tissue(cells, adata)
    adata.obs["leiden"] = "0"  # what the results do not depend on may change
    adata.var["highly_variable"] = True
    check_same_tissue(cells, adata)
    change(adata)
    with pytest.raises(
        ResultError, match=f"the results are of another tissue, or this one has been changed: .*{words}"
    ):
        check_same_tissue(cells, adata)


def test_a_model_input_for_another_model_is_refused(tmp_path: Path) -> None:
    model = random_model(TISSUE, N_NEIGHBORS)
    for change in (
        {"genes": model.genes[::-1]},
        {"cell_types": model.cell_types[::-1]},
        {"genes": (*model.genes, "more"), "network": random_network(7, 3)},
    ):
        with pytest.raises(
            ResultError, match="the model input was prepared for another model: it has 6 genes and 3 cell"
        ):
            extract_tables(
                to_anndata(TISSUE, NEIGHBORS),
                replace(model, **change),  # type: ignore[arg-type]
                Workspace(tmp_path),
                cells_per_shard=99,
                progress=False,
            )


def changed_column(name: str, values: pa.Array) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, values(len(table)))


@pytest.mark.parametrize(
    ("folder", "change", "words"),
    [
        ("cells", lambda table: table.drop_columns(["label"]), "must have the columns 'position', 'cell_idx', 'label'"),
        (
            "cells",
            changed_column("label", lambda n: pa.nulls(n, pa.dictionary(pa.int32(), pa.string()))),
            "column 'label' must hold texts as a dictionary, none missing",
        ),
        (
            "cells",
            changed_column("position", lambda n: pa.array(["x"] * n)),
            "column 'position' must hold whole numbers",
        ),
        (
            "nn_idxs",
            changed_column("neighbor_0", lambda n: pa.array([10**6] * n, pa.int32())),
            "must name cells of table 'cells'",
        ),
        (
            "nn_idxs",
            changed_column("neighbor_0", lambda n: pa.array([-2] * n, pa.int32())),
            "must name cells of table 'cells'",
        ),
        (
            "nn_idxs",
            changed_column("neighbor_0", lambda n: pa.array([0.5] * n, pa.float32())),
            "must have the columns 'neighbor_0'",
        ),
        (
            "attention_patterns",
            changed_column("head_idx", lambda n: pa.array([2**31 - 1] * n, pa.int32())),
            "must hold every head of the same cells",
        ),
        (
            "attention_patterns",
            lambda table: table.drop_columns(["neighbor_1"]),
            "column of type float for each neighbor",
        ),
    ],
)
def test_tables_that_are_damaged(
    folder: str, change: Callable[[pa.Table], pa.Table], words: str, tmp_path: Path
) -> None:
    write_small(tmp_path)
    file = tmp_path / folder / tables.shard_file(0)
    pq.write_table(change(pq.read_table(file, partitioning=None)), file)
    with pytest.raises(ResultError, match=re.escape(words)):
        read_small(tmp_path)


@pytest.mark.parametrize("folder", ["cells", "nn_idxs", "attention_patterns"])
def test_tables_that_were_cut(folder: str, tmp_path: Path) -> None:
    write_small(tmp_path)
    datasets = {name: pads.dataset(tmp_path / name, format="parquet") for name in SMALL_FOLDERS}
    file = tmp_path / folder / tables.shard_file(0)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ResultError, match=re.escape(str(file)) + " cannot be read"):
        list(read_shards(datasets["attention_patterns"], datasets["nn_idxs"], Cells.read(datasets["cells"])))


@pytest.mark.slow
def test_rows_that_a_file_cannot_hold(tmp_path: Path) -> None:
    write_small(tmp_path)
    file = tmp_path / "nn_idxs" / tables.shard_file(0)
    table = pa.table(
        {"cell_idx": pa.array(["x"] * 30_000_000).dictionary_encode(), "neighbor_0": np.zeros(30_000_000, np.int32)}
    )
    pq.write_table(table.append_column("neighbor_1", table.column("neighbor_0")), file, compression="zstd")
    with pytest.raises(ResultError, match="declares 30000000 rows of 3 columns, more than its [0-9]+ bytes can hold"):
        read_small(tmp_path)


SMALL_FOLDERS = ("cells", "nn_idxs", "attention_patterns")


def write_small(folder: Path) -> None:
    names = np.array(["a", "b", "c"], dtype=object)
    made = (
        tables.cells_table(
            np.arange(3), names, np.array([0, 1, 0]), ("A", "B"), np.zeros(3, int), (), np.zeros((3, 2))
        ),
        tables.neighbors_table(np.array([[1, -1], [0, 2], [1, -1]], np.int32), names),
        tables.patterns_table(np.zeros((2, 3, 2), np.float32), np.array([0, 1, 0]), ("A", "B"), names),
    )
    for name, table in zip(SMALL_FOLDERS, made, strict=True):
        (folder / name).mkdir()
        tables.write_table(table, folder / name / tables.shard_file(0))


def read_small(folder: Path) -> None:
    cells, nn_idxs, attention = (pads.dataset(folder / name, format="parquet") for name in SMALL_FOLDERS)
    list(read_shards(attention, nn_idxs, Cells.read(cells)))


def test_small_tables_are_whole(tmp_path: Path) -> None:
    write_small(tmp_path)
    read_small(tmp_path)
