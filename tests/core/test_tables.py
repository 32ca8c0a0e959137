"""Tables of attention: what they hold, of which types, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from naive import random_model, random_tissue

from tissue_crosstalk.core import tables, terms
from tissue_crosstalk.core.attention import ShardAttention, extract_attention
from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.extraction import TABLES
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.tissue import PreparedTissue

NAMES = np.array(["x/1", "y,2", "z"], dtype=object)
STRINGS = pa.dictionary(pa.int32(), pa.string())
N_NEIGHBORS = 13


@pytest.fixture
def case() -> tuple[ShardAttention, PreparedTissue, Neighbors]:
    """Return the second of three shards of a tissue with two sections and padded slots."""
    tissue = random_tissue(1, n_cells=36, n_sections=2)
    neighbors = find_neighbors(tissue, N_NEIGHBORS, pad=True)
    assert (neighbors.idx < 0).any()
    network = random_model(tissue, N_NEIGHBORS).network
    shards = list(extract_attention(network, tissue, neighbors, cells_per_shard=12))
    return shards[1], tissue, neighbors


def test_patterns_by_hand() -> None:
    """Rows by head, then by cell."""
    patterns = np.arange(12, dtype=np.float32).reshape(2, 3, 2) / 16
    table = tables.patterns_table(patterns, np.array([1, 0, 1]), ("NK/T", "B, naive"), NAMES)
    assert table.to_pydict() == {
        "neighbor_0": [0.0, 0.125, 0.25, 0.375, 0.5, 0.625],
        "neighbor_1": [0.0625, 0.1875, 0.3125, 0.4375, 0.5625, 0.6875],
        "head_idx": [0, 0, 0, 1, 1, 1],
        "label": ["B, naive", "NK/T", "B, naive"] * 2,
        "cell_idx": ["x/1", "y,2", "z"] * 2,
    }
    np.testing.assert_array_equal(tables.patterns_array(table), patterns)


def test_neighbors_by_hand() -> None:
    table = tables.neighbors_table(np.array([[4, 2], [0, -1], [1, 5]], dtype=np.int32), NAMES)
    assert table.to_pydict() == {"neighbor_0": [4, 0, 1], "neighbor_1": [2, -1, 5], "cell_idx": ["x/1", "y,2", "z"]}
    assert tables.slots_array(table).tolist() == [[4, 2], [0, -1], [1, 5]]


def test_norms_by_hand() -> None:
    """Rows by head, then by cell, of arrays (sender, head)."""
    norms = {name: np.array([[1, 2], [3, 4], [5, 6]], np.float32) * (n + 1) for n, name in enumerate(terms.NORMS)}
    table = tables.norms_table(norms, NAMES)
    assert table.to_pydict() == {
        "value_norm": [1, 3, 5, 2, 4, 6],
        "info_norm": [2, 6, 10, 4, 8, 12],
        "gene_norm": [3, 9, 15, 6, 12, 18],
        "head_idx": [0, 0, 0, 1, 1, 1],
        "cell_idx": ["x/1", "y,2", "z"] * 2,
    }
    back = tables.norms_arrays(table)
    assert all((back[name] == norms[name]).all() for name in terms.NORMS)


def tables_of(shard: ShardAttention, tissue: PreparedTissue, neighbors: Neighbors) -> dict[str, pa.Table]:
    of_receivers = Neighbors(neighbors.idx[shard.receivers], neighbors.dist[shard.receivers])
    return tables.shard_tables(shard, tissue, of_receivers)


@pytest.mark.parametrize("axes", [2, 3])
def test_cells_by_hand(axes: int) -> None:
    coordinates = np.arange(3.0 * axes).reshape(3, axes)
    table = tables.cells_table(
        np.array([7, 0, 3]), NAMES, np.array([1, 0, 1]), ("A", "B"), np.array([0, 1, 1]), ("left", "right"), coordinates
    )
    expected = {
        "position": [7, 0, 3],
        "cell_idx": ["x/1", "y,2", "z"],
        "label": ["B", "A", "B"],
        "section": ["left", "right", "right"],
    }
    expected |= {name: coordinates[:, axis].tolist() for axis, name in enumerate("xyz"[:axes])}
    assert table.to_pydict() == expected


def test_cells_without_sections_are_of_one_without_a_name() -> None:
    table = tables.cells_table(np.arange(3), NAMES, np.zeros(3, int), ("A",), np.zeros(3, int), (), np.zeros((3, 2)))
    assert table.column("section").to_pylist() == [""] * 3


def test_schemas(case: tuple[ShardAttention, PreparedTissue, Neighbors]) -> None:
    by_name = tables_of(*case)
    assert tuple(by_name) == TABLES
    slots = terms.neighbor_columns(N_NEIGHBORS)
    expected = {
        "attention_patterns": dict.fromkeys(slots, pa.float32())
        | {"head_idx": pa.int16(), "label": STRINGS, "cell_idx": STRINGS},
        "nn_idxs": dict.fromkeys(slots, pa.int32()) | {"cell_idx": STRINGS},
        "nn_dists": dict.fromkeys(slots, pa.float32()) | {"cell_idx": STRINGS},
        "sender_norms": dict.fromkeys(terms.NORMS, pa.float32()) | {"head_idx": pa.int16(), "cell_idx": STRINGS},
        "cells": {
            "position": pa.int32(),
            "cell_idx": STRINGS,
            "label": STRINGS,
            "section": STRINGS,
            "x": pa.float64(),
            "y": pa.float64(),
        },
    }
    for name, table in by_name.items():
        assert {field.name: field.type for field in table.schema} == expected[name], name
        assert sum(column.null_count for column in table.columns) == 0


def test_pandas_reads_numbers_and_categories(
    case: tuple[ShardAttention, PreparedTissue, Neighbors], tmp_path: Path
) -> None:
    """No column of Python objects, which would take many times the memory."""
    for name, table in tables_of(*case).items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
        frame = pd.read_parquet(tmp_path / f"{name}.parquet")
        for column, dtype in frame.dtypes.items():
            expected = "category" if column in ("cell_idx", "label", "section") else table.schema.field(column).type
            assert dtype == ("category" if expected == "category" else expected.to_pandas_dtype()), (name, column)


def test_written_tables_come_back(case: tuple[ShardAttention, PreparedTissue, Neighbors], tmp_path: Path) -> None:
    """To the bit, to pandas as before, and smaller than pyarrow's own choice."""
    for name, table in tables_of(*case).items():
        file, plain = tmp_path / f"{name}.parquet", tmp_path / f"plain_{name}.parquet"
        tables.write_table(table, file)
        pq.write_table(table, plain)
        back = pq.read_table(file)
        assert back.schema.names == table.schema.names
        assert back.schema.types == table.schema.types
        assert back.to_pydict() == table.to_pydict()
        assert file.stat().st_size < plain.stat().st_size
        pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_parquet(plain))


def test_no_changed_byte_of_the_values_goes_unnoticed(
    case: tuple[ShardAttention, PreparedTissue, Neighbors], tmp_path: Path
) -> None:
    """Dictionaries, too; what says nothing of the values may change."""
    for name, table in tables_of(*case).items():
        file = tmp_path / f"{name}.parquet"
        tables.write_table(table, file)
        content = file.read_bytes()
        values = range(4, len(content) - 8 - int.from_bytes(content[-8:-4], "little"))  # between magic bytes and footer
        for place in values[:: 1 + len(values) // 100]:
            file.write_bytes(content[:place] + bytes([content[place] ^ 0b100]) + content[place + 1 :])
            try:
                read = tables.read_table(file, str(file), ())
            except ResultError:
                continue
            assert read.to_pydict() == table.to_pydict(), (name, place)


def test_a_file_without_checksums_is_read(
    case: tuple[ShardAttention, PreparedTissue, Neighbors], tmp_path: Path
) -> None:
    """As earlier versions wrote them."""
    for name, table in tables_of(*case).items():
        folder = tmp_path / name
        folder.mkdir()
        pq.write_table(table, folder / "part-00000.parquet", write_page_checksum=False)
        assert tables.read_table(folder / "part-00000.parquet", name, ()).equals(table)
        assert tables.open_folder(folder).to_table().equals(table)


def test_missing_values_are_written(tmp_path: Path) -> None:
    table = pa.table(
        {
            "neighbor_0": pa.array([1.5, None, float("inf")], type=pa.float32()),
            "neighbor_1": pa.array([None, -1, 2**31 - 1], type=pa.int32()),
            "label": pa.array(["A", None, "A"]).dictionary_encode(),
            "x": pa.array([0.1, None, 0.3]),
        }
    )
    tables.write_table(table, tmp_path / "table.parquet")
    assert pq.read_table(tmp_path / "table.parquet").to_pydict() == table.to_pydict()


def test_a_table_without_rows_is_written(tmp_path: Path) -> None:
    table = tables.neighbors_table(np.zeros((0, 2), dtype=np.float32), NAMES[:0])
    tables.write_table(table, tmp_path / "table.parquet")
    assert pq.read_table(tmp_path / "table.parquet").to_pydict() == table.to_pydict()


def test_a_shards_tables_hold_its_arrays(case: tuple[ShardAttention, PreparedTissue, Neighbors]) -> None:
    shard, tissue, neighbors = case
    by_name, rows = tables_of(*case), shard.receivers
    np.testing.assert_array_equal(tables.patterns_array(by_name["attention_patterns"]), shard.patterns)
    np.testing.assert_array_equal(tables.slots_array(by_name["nn_dists"]), neighbors.dist[rows])
    positions = tables.slots_array(by_name["nn_idxs"])
    for cell in range(len(rows)):
        for slot in range(N_NEIGHBORS):
            row = neighbors.idx[rows[cell], slot]
            assert positions[cell, slot] == (-1 if row < 0 else tissue.positions[row])
    for name, norm in tables.norms_arrays(by_name["sender_norms"]).items():
        np.testing.assert_array_equal(norm, shard.norms[name][np.searchsorted(shard.senders, rows)])
    cells = by_name["cells"]
    assert cells.column("position").to_pylist() == tissue.positions[rows].tolist()
    assert cells.column("cell_idx").to_pylist() == tissue.cell_names[rows].tolist()
    assert cells.column("label").to_pylist() == [tissue.cell_types[label] for label in tissue.labels[rows]]
    assert cells.column("section").to_pylist() == [tissue.section_names[part] for part in tissue.sections[rows]]
    assert tables.same_order([by_name[name] for name in ("nn_idxs", "nn_dists", "cells")])


def test_cells_are_named_alike_in_all_tables(case: tuple[ShardAttention, PreparedTissue, Neighbors]) -> None:
    by_name = tables_of(*case)
    names = by_name["cells"].column("cell_idx").to_pylist()
    for name in ("attention_patterns", "sender_norms"):
        assert by_name[name].column("cell_idx").to_pylist() == names * 2


def test_positions_of_neighbors_by_hand() -> None:
    positions = tables.positions_of(np.array([[2, 0], [-1, 1]], np.int32), np.array([10, 20, 30]))
    assert positions.tolist() == [[30, 10], [-1, 20]]
    assert positions.dtype == np.int32


def test_slots_come_by_number_not_by_name() -> None:
    """neighbor_10 comes after neighbor_9, wherever the columns are; other columns of that name are no slots."""
    values = np.arange(24, dtype=np.int32).reshape(2, 12)
    table = tables.neighbors_table(values, NAMES[:2])
    table = table.select(sorted(table.column_names)).append_column("neighbor_type", pa.array([1, 2]))
    np.testing.assert_array_equal(tables.slots_array(table), values)


@pytest.mark.parametrize("heads", [[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1], [0, 0, 2, 2], []])
def test_rows_in_another_order_are_refused(heads: list[int]) -> None:
    patterns = np.zeros((1, len(heads), 2), dtype=np.float32)
    names = np.array([f"cell{row}" for row in range(len(heads))], dtype=object)
    table = tables.patterns_table(patterns, np.zeros(len(heads), int), ("A",), names)
    table = table.set_column(table.schema.get_field_index("head_idx"), "head_idx", pa.array(heads, type=pa.int16()))
    with pytest.raises(ResultError, match=r"must hold every head of the same cells, by head_idx\. Got rows in another"):
        tables.patterns_array(table)


def test_tables_of_other_cells_are_told_apart() -> None:
    def named(*names: str) -> pa.Table:
        return tables.neighbors_table(np.zeros((len(names), 1)), np.array(names, dtype=object))

    assert tables.same_order([named("a", "b"), named("a", "b")])
    assert not tables.same_order([named("a", "b"), named("b", "a")])
    assert not tables.same_order([named("a", "b"), named("a")])
    assert not tables.same_order([named("a", "b"), named("a", "b"), named("a", "c")])


def test_the_same_cells_under_different_dictionaries_are_the_same() -> None:
    one = tables.neighbors_table(np.zeros((2, 1)), np.array(["a", "b"], dtype=object))
    codes = pa.DictionaryArray.from_arrays(pa.array([2, 1], type=pa.int32()), pa.array(["c", "b", "a"]))
    assert tables.same_order([one, one.set_column(1, "cell_idx", codes)])


def test_codes_and_names_of_several_dictionaries() -> None:
    """Chunks of different files have dictionaries of their own."""
    chunks = [pa.array(["b", "a"]).dictionary_encode(), pa.array(["c", "b"]).dictionary_encode()]
    codes, names = tables.codes_and_names(pa.chunked_array(chunks))
    assert [names[code] for code in codes] == ["b", "a", "c", "b"]
    assert len(set(names)) == len(names) == 3
    assert codes.dtype == np.int32


def test_types_without_a_cell_keep_their_place() -> None:
    table = tables.patterns_table(np.zeros((1, 3, 1), np.float32), np.array([2, 2, 0]), ("A", "B", "C"), NAMES)
    codes, names = tables.codes_and_names(table.column("label"))
    assert names == ("A", "B", "C")
    assert codes.tolist() == [2, 2, 0]


def test_shard_files_sort_in_the_order_of_the_shards() -> None:
    names = [tables.shard_file(number) for number in (0, 2, 10, 99, 100, 12345)]
    assert names == sorted(names)
    assert names[0] == "part-00000.parquet"
