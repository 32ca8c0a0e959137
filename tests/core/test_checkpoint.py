"""Checkpoints: what loads, what is refused in which words, and that a file never runs anything."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import random
import re
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from checkpoint_cases import (
    GENES,
    GOLDEN,
    LABELS,
    SMALL,
    amici_contents,
    golden_entry,
    rezip,
    small_model,
    small_network,
    write_amici,
)
from safetensors.torch import load_file, save_file

from tissue_crosstalk.core import amici_checkpoint, checkpoint, pickle_records
from tissue_crosstalk.core.checkpoint import load_model, save_model
from tissue_crosstalk.core.errors import CheckpointError
from tissue_crosstalk.core.model import CrosstalkModel, Preprocessing, TissueKeys
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.network_settings import NetworkSettings


def golden_floats(storage: int) -> npt.NDArray[np.float32]:
    return np.frombuffer(golden_entry(f"data/{storage}"), dtype="<f4")


def bits(network: CrossAttentionNetwork) -> dict[str, list[int]]:
    return {name: tensor.view(torch.int32).flatten().tolist() for name, tensor in network.state_dict().items()}


def assert_equal_models(one: CrosstalkModel, other: CrosstalkModel) -> None:
    for name in ("genes", "cell_types", "keys", "n_neighbors", "preprocessing", "origin"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.network.settings == other.network.settings
    assert bits(one.network) == bits(other.network)


def refused(path: Path) -> str:
    """Return the message with which loading is refused; it must name the path."""
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    message = str(caught.value)
    assert str(path) in message
    return message


# --- amici-st


def test_load_golden() -> None:
    model = load_model(GOLDEN)
    assert model.network.settings == NetworkSettings(
        n_heads=3,
        n_head_size=8,
        n_label_embed=8,
        n_query_embed_hidden=32,
        n_query_dim=16,
        n_nn_embed=32,
        n_nn_embed_hidden=64,
        n_kv_dim=32,
        n_pos_coef_mlp_hidden=32,
        attention_dummy_score=2.0,
        pos_coef_offset=-1.0,
        distance_kernel_unit_scale=10.0,
    )
    assert model.genes == tuple(f"Gene{i}" for i in range(40))
    assert model.cell_types == ("T0", "T1", "T2", "T3")
    assert model.keys == TissueKeys(labels_key="cell_type", coord_key="spatial")
    assert model.n_neighbors == 12
    assert model.preprocessing == Preprocessing(log_normalised=True)
    assert model.origin == "amici-st"
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_load_golden_reads_the_archives_numbers() -> None:
    state = load_model(GOLDEN).network.state_dict()
    # The entries' numbers as the disassembled pickle shows them.
    np.testing.assert_array_equal(state["ct_profiles"], golden_floats(0).reshape(4, 40))
    np.testing.assert_array_equal(state["nn_embed.nn.0.weight"], golden_floats(14).reshape(64, 40))
    np.testing.assert_array_equal(state["linear_head.weight"], golden_floats(58).reshape(40, 24))


def test_loading_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    load_model(GOLDEN)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["", "model.pt"])
def test_amici_by_folder_or_file(name: str) -> None:
    assert load_model(str(GOLDEN / name)).n_neighbors == 12


def test_amici_by_file_of_another_name(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes((GOLDEN / "model.pt").read_bytes())
    assert load_model(tmp_path / "best.pt").n_neighbors == 12


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(SMALL, id="all projected"),
        pytest.param(replace(SMALL, n_heads=2, n_query_dim=2), id="query without projection"),
        pytest.param(replace(SMALL, n_nn_embed=5), id="neighbor embedding without projection"),
        pytest.param(replace(SMALL, n_nn_embed=16), id="key and value without projection"),
        pytest.param(replace(SMALL, n_heads=11), id="distance coefficient without projection and last norm"),
    ],
)
def test_amici_of_all_architectures(tmp_path: Path, settings: NetworkSettings) -> None:
    network = small_network(settings)
    constants = {name: getattr(settings, name) for name in ("attention_dummy_score", "pos_coef_offset")}
    contents = amici_contents(network, **constants, distance_kernel_unit_scale=4, n_heads=settings.n_heads, other=[1])
    model = load_model(write_amici(tmp_path, contents))
    assert model.network.settings == settings
    assert bits(model.network) == bits(network)
    assert (model.genes, model.cell_types) == (GENES, LABELS)
    assert model.keys == TissueKeys(labels_key="kind", coord_key="X_xy", radius_key="radius", layer="lognorm")


def test_amici_defaults_where_the_user_set_nothing(tmp_path: Path) -> None:
    settings = load_model(write_amici(tmp_path, amici_contents(small_network()))).network.settings
    constants = (settings.attention_dummy_score, settings.pos_coef_offset, settings.distance_kernel_unit_scale)
    assert constants == (3.0, -2.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_amici_of_other_float_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    network = small_network()
    contents = amici_contents(network)
    state = contents["model_state_dict"]
    contents["model_state_dict"] = OrderedDict((name, tensor.to(dtype)) for name, tensor in state.items())
    loaded = load_model(write_amici(tmp_path, contents)).network.state_dict()
    for name, tensor in network.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.to(dtype).float())


def test_amici_of_views(tmp_path: Path) -> None:
    network = small_network()
    contents = amici_contents(network)
    state = contents["model_state_dict"]
    state["ct_profiles"] = torch.cat([torch.zeros(1, 3), network.ct_profiles.T])[1:].T  # an offset, and strides
    state["linear_head.weight"] = torch.nn.Parameter(state["linear_head.weight"])
    assert bits(load_model(write_amici(tmp_path, contents)).network) == bits(network)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([3, 1, 2]), ("3", "1", "2")),
        (np.array(["x", "yy", "z"]), ("x", "yy", "z")),
        (np.array([0.5, 1.0, 2.0], dtype=np.float32), ("0.5", "1.0", "2.0")),
        (np.array([True, 7, np.float32(0.1)], dtype=object), ("True", "7", "0.1")),
        (np.array([np.str_("ä"), np.int64(2), "c"], dtype=object), ("ä", "2", "c")),
    ],
)
def test_amici_labels_become_text(tmp_path: Path, labels: npt.NDArray[Any], expected: tuple[str, ...]) -> None:
    contents = amici_contents(small_network(), n_heads=np.int64(2), pos_coef_offset=np.float32(0.5))
    fields = contents["attr_dict"]["registry_"]["field_registries"]
    fields["labels"]["state_registry"]["categorical_mapping"] = labels
    model = load_model(write_amici(tmp_path, contents))
    assert model.cell_types == expected
    assert model.network.settings.pos_coef_offset == 0.5


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_amici_of_all_pickle_protocols(tmp_path: Path, protocol: int) -> None:
    torch.save(amici_contents(small_network()), tmp_path / "model.pt", pickle_protocol=protocol)
    assert bits(load_model(tmp_path).network) == bits(small_network())


def test_amici_zipped_again(tmp_path: Path) -> None:
    model = load_model(rezip(GOLDEN, tmp_path, {}, zipfile.ZIP_DEFLATED))
    assert_equal_models(model, load_model(GOLDEN))


# --- our own folders


def test_save_and_load(tmp_path: Path) -> None:
    model = small_model()
    save_model(model, tmp_path / "deep" / "model")
    loaded = load_model(tmp_path / "deep" / "model")
    assert_equal_models(model, loaded)
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    assert sorted([entry.name for entry in (tmp_path / "deep").iterdir()]) == ["model"]


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_own_by_file(tmp_path: Path, name: str) -> None:
    save_model(small_model(), tmp_path / "m")
    assert_equal_models(load_model(tmp_path / "m" / name), small_model())


def test_amici_to_own(tmp_path: Path) -> None:
    model = load_model(GOLDEN)
    save_model(model, tmp_path / "m")
    assert_equal_models(load_model(tmp_path / "m"), model)


def test_negative_zero_and_subnormals_survive(tmp_path: Path) -> None:
    model = small_model()
    model.network.ct_profiles[0, :2] = torch.tensor([-0.0, 1e-45])
    save_model(model, tmp_path / "m")
    assert bits(load_model(tmp_path / "m").network) == bits(model.network)


def test_description_is_for_humans(tmp_path: Path) -> None:
    save_model(small_model(cell_types=("β", "T", "M")), tmp_path / "m")
    text = (tmp_path / "m" / "model.json").read_text(encoding="utf-8")
    described = json.loads(text)
    assert (described["format"], described["format_version"]) == ("tissue-crosstalk model", 1)
    assert described["genes"] == list(GENES)
    assert '\n  "n_neighbors": 4,\n' in text
    assert "β" in text


def test_weights_can_be_read_by_whoever_reads_the_description(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "m")
    modes = {(tmp_path / "m" / name).stat().st_mode for name in ("model.json", "model.safetensors")}
    assert len(modes) == 1


def test_a_loaded_model_does_not_depend_on_its_file(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "m")
    model = load_model(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert_equal_models(model, small_model())


# --- overwriting


def test_save_replaces_its_own_folder(tmp_path: Path) -> None:
    save_model(small_model(n_neighbors=4), tmp_path / "m")
    save_model(small_model(n_neighbors=5), tmp_path / "m")
    assert load_model(tmp_path / "m").n_neighbors == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_save_replaces_behind_a_link(tmp_path: Path) -> None:
    save_model(small_model(n_neighbors=4), tmp_path / "m")
    (tmp_path / "latest").symlink_to("m")
    save_model(small_model(n_neighbors=5), tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert load_model(tmp_path / "m").n_neighbors == 5


def test_save_fills_an_empty_folder(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path)
    assert_equal_models(load_model(tmp_path), small_model())


def a_file(place: Path) -> None:
    place.write_text("mine")


def a_folder_of_other_things(place: Path) -> None:
    place.mkdir()
    (place / "notes.txt").write_text("mine")


def a_model_with_notes(place: Path) -> None:
    save_model(small_model(), place)
    (place / "notes.txt").write_text("mine")


def an_amici_folder(place: Path) -> None:
    rezip(GOLDEN, place, {})


def files_of_the_same_names(place: Path) -> None:
    place.mkdir()
    (place / "model.json").write_text('{"format": "another"}')
    (place / "model.safetensors").write_text("mine")


@pytest.mark.parametrize(
    "occupy", [a_file, a_folder_of_other_things, a_model_with_notes, an_amici_folder, files_of_the_same_names]
)
def test_save_never_overwrites_anything_else(tmp_path: Path, occupy: Callable[[Path], None]) -> None:
    place = tmp_path / "taken"
    occupy(place)

    def everything() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    before = everything()
    with pytest.raises(CheckpointError, match=re.escape(str(place)) + ".*only a folder that save_model wrote.*instead"):
        save_model(small_model(), place)
    assert everything() == before


def test_save_that_fails_leaves_the_old_model(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "m")
    broken = small_model()
    broken.network.ct_profiles[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="finite"):
        save_model(broken, tmp_path / "m")
    assert_equal_models(load_model(tmp_path / "m"), small_model())
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_save_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_model(small_model(), tmp_path / "file" / "m")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"genes": GENES[:4]}, "'genes' must hold one name per column of tensor 'ct_profiles', 5 in all. Got 4"),
        ({"genes": ("A", "B", "C", "D", "A")}, "must differ from each other. Repeated: 'A'"),
        ({"cell_types": ("x", "x", "y")}, "must differ from each other. Repeated: 'x'"),
        ({"n_neighbors": 0}, "'n_neighbors' must be an integer from 1 to"),
        ({"n_neighbors": np.int64(3)}, "JSON cannot hold"),
        ({"preprocessing": Preprocessing(False, float("inf"))}, "JSON cannot hold"),
        ({"preprocessing": Preprocessing(False, -1.0)}, "'preprocessing/target_sum' must be a positive number"),
        ({"origin": "elsewhere"}, "'origin' must be 'tissue-crosstalk' or 'amici-st'. Got 'elsewhere'"),
        ({"network": small_network().double()}, "must be of dtype torch.float32. Got torch.float64"),
    ],
)
def test_save_refuses_what_would_not_load(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(words)):
        save_model(small_model(**changes), tmp_path / "m")
    assert [entry.name for entry in tmp_path.iterdir()] == []


def test_save_refuses_a_description_that_would_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MAX_DESCRIPTION_BYTES", 500)
    with pytest.raises(CheckpointError, match="at most 500 bytes. The names of 5 genes and 3 cell types take more"):
        save_model(small_model(), tmp_path / "m")
    assert not (tmp_path / "m").exists()


# --- nothing that a file names is run


class Runs:
    """Creates a marker when it is unpickled."""

    def __init__(self, function: Callable[..., Any], argument: str) -> None:
        self.function, self.argument = function, argument

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return self.function, (self.argument,)


def attacks(marker: Path) -> dict[str, Runs]:
    touch = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    return {
        "os.system": Runs(os.system, f"touch '{marker}'"),
        "eval": Runs(eval, touch),
        "exec": Runs(exec, touch),
    }


def place_beside(contents: dict[str, Any], attack: Runs) -> None:
    contents["extra"] = attack


def place_in_attributes(contents: dict[str, Any], attack: Runs) -> None:
    contents["attr_dict"]["history_"] = attack


def place_as_state_dict(contents: dict[str, Any], attack: Runs) -> None:
    contents["model_state_dict"] = attack


def place_as_tensor(contents: dict[str, Any], attack: Runs) -> None:
    contents["model_state_dict"]["attention_layer.W_Q"] = attack


def place_as_ignored_tensor(contents: dict[str, Any], attack: Runs) -> None:
    contents["model_state_dict"]["attention_layer.IGNORE"] = attack


def place_as_genes(contents: dict[str, Any], attack: Runs) -> None:
    contents["var_names"] = attack


def place_as_gene(contents: dict[str, Any], attack: Runs) -> None:
    contents["var_names"][2] = attack


def place_as_setting(contents: dict[str, Any], attack: Runs) -> None:
    contents["attr_dict"]["init_params_"]["kwargs"]["model_kwargs"]["pos_coef_offset"] = attack


@pytest.mark.parametrize("name", ["os.system", "eval", "exec"])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        (place_beside, None),
        (place_in_attributes, None),
        (place_as_ignored_tensor, None),
        (place_as_state_dict, "'model_state_dict' must be a dict"),
        (place_as_tensor, "'model_state_dict/attention_layer.W_Q' must be a tensor"),
        (place_as_genes, "'var_names' must be a list or an array with one axis"),
        (place_as_gene, "'var_names[2]' must be a text"),
        (place_as_setting, "model_kwargs/pos_coef_offset' must be a finite number"),
    ],
)
def test_nothing_is_run(tmp_path: Path, name: str, place: Callable[[dict[str, Any], Runs], None], words: str) -> None:
    marker = tmp_path / "marker"
    attack = attacks(marker)[name]
    contents = amici_contents(small_network())
    place(contents, attack)
    folder = write_amici(tmp_path / "m", contents)
    if words is None:
        assert bits(load_model(folder).network) == bits(small_network())
    else:
        message = refused(folder)
        assert words in message
        assert re.search(
            r"Got a call of '(posix\.system|(builtins|__builtin__)\.(eval|exec))', which is not run", message
        )
    assert not marker.exists()


def test_the_attack_is_real(tmp_path: Path) -> None:
    for attack in attacks(tmp_path / "marker").values():
        pickle.loads(pickle.dumps(attack))
        (tmp_path / "marker").unlink()


def test_a_top_level_attack_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save(attacks(marker)["eval"], tmp_path / "model.pt")
    assert "the whole must be a dict. Got a call of" in refused(tmp_path)
    assert not marker.exists()


def before_golden(payload: bytes) -> bytes:
    """Return the golden pickle with operations that push one value in front, which is dropped."""
    pickled = golden_entry("data.pkl")
    return pickled[:2] + payload + b"0" + pickled[2:]


def text_operation(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def operations(command: str) -> dict[str, bytes]:
    """Return pickle operations that run a command, each in another way."""
    argument = text_operation(command)
    return {
        "REDUCE": b"cos\nsystem\n(" + argument + b"tR",
        "INST": b"(" + argument + b"ios\nsystem\n",
        "OBJ": b"(cos\nsystem\n" + argument + b"o",
        "STACK_GLOBAL": text_operation("os") + text_operation("system") + b"\x93" + argument + b"\x85R",
        "NEWOBJ": b"csubprocess\nPopen\n" + argument + b"\x85\x81",
        "NEWOBJ_EX": b"csubprocess\nPopen\n(" + argument + b"t}\x92",
        "BUILD": b"cos\nsystem\n" + argument + b"b",
        "PERSID": b"Pos.system\n",
        "BINPERSID": b"cos\nsystem\n" + argument + b"\x86Q",
        "EXT": b"\x82\x01",
        "SETITEMS": b"ccollections\nUserDict\n)R(" + argument + argument + b"u",
        "APPENDS": b"ccollections\nUserList\n)R(" + argument + b"e",
        "ADDITEMS": b"\x8f(" + argument + b"\x90",
        "FROZENSET": b"(" + argument + b"\x91",
        "NEXT_BUFFER": b"\x97\x98",
    }


@pytest.mark.parametrize("name", operations(""))
def test_no_operation_runs_anything(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    payload = operations(f"touch '{marker}'")[name]
    model = load_model(rezip(GOLDEN, tmp_path / "m", {"data.pkl": before_golden(payload)}))
    assert model.genes == tuple(f"Gene{i}" for i in range(40))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["REDUCE", "INST", "OBJ", "STACK_GLOBAL"])
def test_those_operations_would_run(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    pickle.loads(b"\x80\x04" + operations(f"touch '{marker}'")[name] + b".")
    assert marker.exists()


def test_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crosstalk_marker.py").write_text("loaded = True")
    monkeypatch.syspath_prepend(tmp_path)
    payload = b"ccrosstalk_marker\nloaded\n"
    load_model(rezip(GOLDEN, tmp_path / "m", {"data.pkl": before_golden(payload)}))
    assert "crosstalk_marker" not in sys.modules
    pickle.loads(payload + b".")
    assert sys.modules.pop("crosstalk_marker").loaded


def test_all_operations_are_known() -> None:
    assert set(pickle_records._OPERATIONS) == {opcode.name for opcode in pickletools.opcodes}


# --- what exhausts memory or time


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"})" + b"2\x86" * 100 + b"Ns", id="a key of 2 ** 100 parts"),
        pytest.param(b"])" + b"2\x86" * 100 + b"a", id="a list of 2 ** 100 parts"),
        pytest.param(b"N" + b"\x85" * 50_000, id="deep tuples"),
        pytest.param(b"]" + b"2a" * 1000, id="a list within itself"),
        pytest.param(b"\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000, id="a huge integer"),
        pytest.param(b"(" * 20_000 + b"t" * 20_000, id="deep marks"),
    ],
)
def test_what_is_not_needed_costs_nothing(tmp_path: Path, payload: bytes) -> None:
    assert load_model(rezip(GOLDEN, tmp_path, {"data.pkl": before_golden(payload)})).n_neighbors == 12


def test_zip_bomb(tmp_path: Path) -> None:
    rezip(GOLDEN, tmp_path, {"data.pkl": bytes(65 * 2**20)}, zipfile.ZIP_DEFLATED)
    message = refused(tmp_path)
    assert "must not expand beyond 4 times its size of" in message
    assert "exhaust the memory" in message


def test_zip_bomb_that_declares_little(tmp_path: Path) -> None:
    rezip(GOLDEN, tmp_path, {"data.pkl": bytes(20 * 2**20)}, zipfile.ZIP_DEFLATED)
    content = (tmp_path / "model.pt").read_bytes()
    content = content.replace(struct.pack("<I", 20 * 2**20), struct.pack("<I", 32))
    (tmp_path / "model.pt").write_bytes(content)
    assert "entry 'data.pkl' cannot be read" in refused(tmp_path)


def test_compression_without_a_limit_is_refused(tmp_path: Path) -> None:
    assert "must be stored or deflated" in refused(rezip(GOLDEN, tmp_path, {}, zipfile.ZIP_BZIP2))


def test_a_huge_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amici_checkpoint, "MAX_PICKLE_BYTES", 1000)
    assert "entry 'data.pkl' must be at most 1000 bytes. Got 32037 bytes instead" in refused(GOLDEN)


def test_too_many_operations_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_records, "MAX_OPERATIONS", 1000)
    assert "more than 1000 operations" in refused(GOLDEN)


def with_golden_bytes(tmp_path: Path, old: bytes, new: bytes, count: int = 1) -> Path:
    """Return the golden checkpoint with bytes of its pickle replaced."""
    pickled = golden_entry("data.pkl")
    assert old in pickled
    return rezip(GOLDEN, tmp_path, {"data.pkl": pickled.replace(old, new, count)})


CT_PROFILES_SHAPE = b"QK\x00K\x04K\x28\x86"  # the first tensor: offset 0, shape (4, 40)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (b"QK\x00J\xff\xff\xff\x7fK\x28\x86", "whose shape fits its storage of 160 numbers"),
        (b"QK\x00K\x04J\xff\xff\xff\xff\x86", "whose shape fits its storage of 160 numbers"),
        (b"QK\x00K\x04\x8b" + struct.pack("<i", 200) + b"\x7f" * 200 + b"\x86", "whose shape fits its storage"),
        (b"Q\x89K\x04K\x28\x86", "whose shape fits its storage of 160 numbers"),
        (b"QK\x01K\x04K\x28\x86", "must lie within its storage of 160 numbers"),
        (b"QJ\xff\xff\xff\xffK\x04K\x28\x86", "must lie within its storage of 160 numbers"),
        (b"QK\x00K\x00K\x28\x86", "must lie within its storage of 160 numbers"),
        (b"QK\x00K\x04\x85", "whose shape fits its storage"),
        (
            b"QK\x00K\x04K\x27\x86",
            "'var_names' must hold one name per column of tensor 'ct_profiles', 39 in all. Got 40",
        ),
        (b"QK\x00K\x03K\x28\x86", "must hold one name per row of tensor 'ct_profiles', 3 in all. Got 4"),
    ],
)
def test_absurd_shapes(tmp_path: Path, new: bytes, words: str) -> None:
    assert words in refused(with_golden_bytes(tmp_path, CT_PROFILES_SHAPE, new))


def test_views_that_repeat_their_numbers_are_refused(tmp_path: Path) -> None:
    contents = amici_contents(small_network())
    contents["model_state_dict"]["nn_embed.nn.0.weight"] = torch.zeros(1).expand(9, 5)
    assert "whose shape fits its storage of 1 numbers" in refused(write_amici(tmp_path, contents))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bytes(636), "must be of 640 bytes. Got 636 bytes instead"),
        (bytes(6400), "must be of 640 bytes. Got 6400 bytes instead"),
        (None, "must be of 640 bytes. Got no such entry instead"),
    ],
)
def test_storages_must_be_of_the_declared_size(tmp_path: Path, content: bytes | None, words: str) -> None:
    message = refused(rezip(GOLDEN, tmp_path, {"data/0": content}))
    assert "the storage of tensor 'model_state_dict/ct_profiles', entry 'data/0'" in message
    assert words in message


# --- what is damaged or no checkpoint


def test_unknown_path(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "tumour")
    message = refused(tmp_path / "tumor")
    assert "Got a path where nothing exists instead. Did you mean 'tumour'?" in message
    assert "a folder with 'model.safetensors' and 'model.json' (tissue-crosstalk) or with 'model.pt'" in message


def test_folder_without_a_model(tmp_path: Path) -> None:
    assert "Got an empty folder instead" in refused(tmp_path)
    (tmp_path / "data.csv").write_text("")
    assert "Got 'data.csv' instead" in refused(tmp_path)
    assert "Got something else instead" in refused(tmp_path / "data.csv")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_half_a_model(tmp_path: Path, name: str) -> None:
    save_model(small_model(), tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    other = ({"model.json", "model.safetensors"} - {name}).pop()
    assert f"Got '{other}' instead" in refused(tmp_path / "m")
    with pytest.raises(CheckpointError, match=f"There is no '{name}'"):
        load_model(tmp_path / "m" / other)


def test_two_models_in_one_folder(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path)
    rezip(GOLDEN, tmp_path, {})
    assert "which is both. Pass the path of the file that you mean" in refused(tmp_path)
    assert load_model(tmp_path / "model.pt").n_neighbors == 12
    assert load_model(tmp_path / "model.json").n_neighbors == 4


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"hello"])
def test_not_a_zip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    message = refused(tmp_path)
    assert "must be a zip archive, as torch 1.6 or later writes it" in message
    assert f"starts with {content[:4]!r}" in message


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_archive(tmp_path: Path, share: float) -> None:
    content = (GOLDEN / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(content[: int(len(content) * share)])
    assert "truncated or damaged" in refused(tmp_path)


def test_damaged_numbers(tmp_path: Path) -> None:
    content = bytearray((GOLDEN / "model.pt").read_bytes())
    at = content.index(golden_entry("data/0"))
    content[at + 5] ^= 1
    (tmp_path / "model.pt").write_bytes(content)
    message = refused(tmp_path)
    assert "entry 'data/0' cannot be read" in message
    assert "CRC" in message


def test_truncated_pickle(tmp_path: Path) -> None:
    pickled = golden_entry("data.pkl")
    message = refused(rezip(GOLDEN, tmp_path, {"data.pkl": pickled[:-100]}))
    assert "entry 'data.pkl' cannot be read" in message


def test_archive_of_something_else(tmp_path: Path) -> None:
    assert "must hold one entry 'data.pkl'" in refused(rezip(GOLDEN, tmp_path, {"data.pkl": None}))


def test_other_byte_order(tmp_path: Path) -> None:
    assert "'byteorder' must be 'little'. Got 'big'" in refused(rezip(GOLDEN, tmp_path, {"byteorder": b"big"}))


def test_entries_that_are_there_twice(tmp_path: Path) -> None:
    rezip(GOLDEN, tmp_path, {})
    with zipfile.ZipFile(tmp_path / "model.pt", "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr("model/data/0", bytes(640))
    assert "Some are there twice" in refused(tmp_path)


def without(name: str) -> Callable[[OrderedDict[str, Any]], None]:
    return lambda state: state.__delitem__(name)


def having(name: str, value: Any) -> Callable[[OrderedDict[str, Any]], None]:
    return lambda state: state.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("linear_head.weight"), "Missing: 'linear_head.weight'."),
        (without("ct_profiles"), "tensor 'ct_profiles' is missing from 'model_state_dict'"),
        (without("attention_layer.W_Q"), "tensor 'attention_layer.W_Q' is missing from 'model_state_dict'"),
        (having("surplus.weight", torch.zeros(2)), "Unknown: 'surplus.weight'."),
        (
            having("nn_embed.nn.1.bias", torch.zeros(8)),
            "3 cell types and 2 heads. Of another shape: 'nn_embed.nn.1.bias' must be (9,), came (8,).",
        ),
        (having("linear_head.weight", torch.zeros(5, 6, 1)), "'linear_head.weight' must be (5, 6), came (5, 6, 1)."),
        (having("ct_profiles", torch.zeros(15)), "tensor 'ct_profiles' must have 2 axes. Got shape (15,)"),
        (
            having("ct_profiles", torch.zeros(3, 6)),
            "'var_names' must hold one name per column of tensor 'ct_profiles', 6",
        ),
        (having("ct_profiles", torch.zeros(4, 5)), "one name per row of tensor 'ct_profiles', 4 in all. Got 3"),
        (
            having("ct_profiles", torch.zeros(3, 5).int()),
            "must hold floating-point numbers (32, 64 or 16 bits). Got 'torch.Int",
        ),
        (having("ct_profiles", 3.5), "'model_state_dict/ct_profiles' must be a tensor. Got 3.5 instead"),
        (
            having("attention_layer.b_V", torch.full((2, 3), float("nan"))),
            "NaN or infinite ones in 'attention_layer.b_V'",
        ),
        (
            having("ct_embed.weight", torch.full((3, 4), 1e300, dtype=torch.float64)),
            "NaN or infinite ones in 'ct_embed.weight'",
        ),
    ],
)
def test_wrong_tensors(tmp_path: Path, change: Callable[[OrderedDict[str, Any]], None], words: str) -> None:
    contents = amici_contents(small_network())
    change(contents["model_state_dict"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = write_amici(tmp_path, contents)
    assert words in refused(folder)


SETUP = "attr_dict/registry_/setup_args"
LABELS_KEY = "attr_dict/registry_/field_registries/labels/state_registry/categorical_mapping"
KWARGS = "attr_dict/init_params_/kwargs/model_kwargs"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (f"{SETUP}/n_neighbors", 0, "must be an integer from 1 to 1000000. Got 0 instead"),
        (f"{SETUP}/n_neighbors", 2.0, "must be an integer from 1 to 1000000. Got 2.0 instead"),
        (f"{SETUP}/n_neighbors", True, "must be an integer from 1 to 1000000. Got True instead"),
        (f"{SETUP}/n_neighbors", 10**400, "Got an integer of 1329 bits instead"),
        (f"{SETUP}/labels_key", None, "must be a text. Got None instead"),
        (f"{SETUP}/layer", ["a"], "must be a text. Got a list of 1 instead"),
        (f"{SETUP}/labels_key", "\ud800", "must be a text without broken characters"),
        (SETUP, "x" * 500, f"must be a dict. Got '{'x' * 60}…' instead"),
        ("var_names", np.array(["A", "B", "A", "C", "B"], dtype=object), "Repeated: 'A', 'B'."),
        ("var_names", np.array([1, 2, 3, 4, 5]), "'var_names[0]' must be a text"),
        ("var_names", np.array([["A"]], dtype=object), "must be a list or an array with one axis. Got a numpy array"),
        ("var_names", np.zeros(5, dtype=complex), "of objects, texts or numbers. Got a numpy array"),
        (LABELS_KEY, np.array(["x", "y", "y"], dtype=object), "Repeated: 'y'."),
        (LABELS_KEY, np.array(["1", 1, "2"], dtype=object), "Repeated: '1'."),
        (LABELS_KEY, np.array(["1", 10**30, "2"], dtype=object), "categorical_mapping[1]' must be a text"),
        (
            LABELS_KEY,
            np.array(["x", "y"], dtype=object),
            "must hold one name per row of tensor 'ct_profiles', 3 in all. Got 2",
        ),
        (
            LABELS_KEY,
            pd.Index(["a", "b", "c"]),
            "Got a call of 'pandas.core.indexes.base._new_Index', which is not run",
        ),
        (f"{KWARGS}/n_kv_dim", 9, "n_kv_dim' must be 8, the length of axis 2 of tensor 'attention_layer.W_K'"),
        (f"{KWARGS}/n_heads", "2", "n_heads' must be a finite number. Got '2' instead"),
        (f"{KWARGS}/attention_dummy_score", float("nan"), "must be a finite number. Got nan instead"),
        (f"{KWARGS}/attention_dummy_score", 10**400, "must be a finite number. Got an integer of 1329 bits"),
        (f"{KWARGS}/distance_kernel_unit_scale", 0, "'distance_kernel_unit_scale' must be positive"),
    ],
)
def test_wrong_values(tmp_path: Path, key: str, value: Any, words: str) -> None:
    contents = amici_contents(small_network())
    *parents, last = key.split("/")
    holder: Any = contents
    for name in parents:
        holder = holder[name]
    holder[last] = value
    message = refused(write_amici(tmp_path, contents))
    assert last in message
    assert words in message


def test_missing_key(tmp_path: Path) -> None:
    contents = amici_contents(small_network())
    setup = contents["attr_dict"]["registry_"]["setup_args"]
    setup["label_key"] = setup.pop("labels_key")
    message = refused(write_amici(tmp_path, contents))
    assert f"'{SETUP}/labels_key' is missing; there is 'layer', 'coord_obsm_key'" in message
    assert "Did you mean 'label_key'?" in message


# --- our own folders, damaged


@pytest.fixture
def own(tmp_path: Path) -> Path:
    save_model(small_model(), tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format", "other", "'format' must be 'tissue-crosstalk model'. Got 'other' instead"),
        ("format_version", 2, "'format_version' must be 1. Got 2 instead: a newer tissue-crosstalk wrote this model"),
        ("format_version", "1", "'format_version' must be an integer"),
        ("genes", "ABCDE", "'genes' must be a list or an array with one axis. Got 'ABCDE' instead"),
        ("genes", ["A", "B", "C", "D", 5], "'genes[4]' must be a text. Got 5 instead"),
        ("genes", ["A", "B", "C", "D", "A"], "Repeated: 'A'."),
        ("genes", ["A"], "'genes' must hold one name per column of tensor 'ct_profiles', 5 in all. Got 1"),
        ("cell_types", ["x", "x", "y"], "Repeated: 'x'."),
        ("cell_types", ["x"], "'cell_types' must hold one name per row of tensor 'ct_profiles', 3 in all. Got 1"),
        ("n_neighbors", -1, "'n_neighbors' must be an integer from 1 to 1000000. Got -1"),
        ("origin", "elsewhere", "'origin' must be 'tissue-crosstalk' or 'amici-st'. Got 'elsewhere'"),
        ("network", [], "'network' must be a dict. Got a list of 0"),
        ("network/n_heads", 10**12, "'network/n_heads' must be an integer from 1 to 16777216. Got 1000000000000"),
        ("network/n_heads", 3, "the tensors must be those of a network of 5 genes, 3 cell types and 3 heads"),
        ("network/n_head_size", 2**24, "'attention_layer.b_Q' must be (2, 16777216), came (2, 3)"),
        ("network/pos_coef_offset", "x", "'network/pos_coef_offset' must be a finite number"),
        ("network/distance_kernel_unit_scale", -1, "'distance_kernel_unit_scale' must be positive"),
        ("network/n_head", 3, "Got 'n_head' too. Did you mean 'n_heads'?"),
        ("keys/labels_key", None, "'keys/labels_key' must be a text. Got None"),
        ("keys/layer", 1, "'keys/layer' must be a text. Got 1"),
        ("preprocessing/log_normalised", 1, "'preprocessing/log_normalised' must be true or false. Got 1"),
        ("preprocessing/target_sum", 0, "'preprocessing/target_sum' must be a positive number"),
        ("surplus", 1, "Got 'surplus' too."),
    ],
)
def test_wrong_description(own: Path, key: str, value: Any, words: str) -> None:
    described = json.loads((own / "model.json").read_text())
    *parents, last = key.split("/")
    holder = described
    for name in parents:
        holder = holder[name]
    holder[last] = value
    (own / "model.json").write_text(json.dumps(described))
    assert words in refused(own)


@pytest.mark.parametrize("key", ["format", "genes", "network", "keys", "preprocessing"])
def test_missing_description(own: Path, key: str) -> None:
    described = json.loads((own / "model.json").read_text())
    del described[key]
    (own / "model.json").write_text(json.dumps(described))
    assert f"'{key}' is missing; there is" in refused(own)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"format": NaN}',
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": 1, "format": 1}',
    ],
)
def test_description_is_not_json(own: Path, content: bytes) -> None:
    (own / "model.json").write_bytes(content)
    assert "the file must be JSON, as save_model writes it" in refused(own)


@pytest.mark.parametrize("content", [b"null", b"[]", b'"text"'])
def test_description_is_no_object(own: Path, content: bytes) -> None:
    (own / "model.json").write_bytes(content)
    assert "the whole must be a dict" in refused(own)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_truncated_weights(own: Path, length: int) -> None:
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    assert "the weights cannot be read: the file is truncated or damaged" in refused(own)


def dropped(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["linear_head.weight"]


def added(tensors: dict[str, torch.Tensor]) -> None:
    tensors["surplus"] = torch.zeros(1)


def reshaped(tensors: dict[str, torch.Tensor]) -> None:
    tensors["linear_head.weight"] = torch.zeros(6, 5)


def halved(tensors: dict[str, torch.Tensor]) -> None:
    tensors["linear_head.weight"] = tensors["linear_head.weight"].half()


def diverged(tensors: dict[str, torch.Tensor]) -> None:
    tensors["linear_head.weight"][2, 3] = float("-inf")


def profiles_dropped(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["ct_profiles"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dropped, "Missing: 'linear_head.weight'."),
        (added, "Unknown: 'surplus'."),
        (reshaped, "Of another shape: 'linear_head.weight' must be (5, 6), came (6, 5)."),
        (halved, "tensor 'linear_head.weight' must be of dtype 'F32'. Got 'F16' instead"),
        (diverged, "There are NaN or infinite ones in 'linear_head.weight': the training diverged"),
        (profiles_dropped, "tensor 'ct_profiles' must be there and have 2 axes. Got none instead"),
    ],
)
def test_wrong_weights(own: Path, change: Callable[[dict[str, torch.Tensor]], None], words: str) -> None:
    tensors = load_file(own / "model.safetensors")
    change(tensors)
    save_file(tensors, own / "model.safetensors")
    assert words in refused(own)


# --- any damage


def mutations(content: bytes, count: int, seed: int) -> Iterable[bytes]:
    """Yield `content` with some bytes flipped, removed, repeated or cut off."""
    rng = random.Random(seed)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 5, 20])):
            at = rng.randrange(len(changed))
            match rng.randrange(5):
                case 0:
                    changed[at] = rng.randrange(256)
                case 1:
                    changed[at] ^= 1 << rng.randrange(8)
                case 2:
                    del changed[at : at + rng.randrange(1, 40)]
                case 3:
                    changed[at:at] = changed[at : at + rng.randrange(1, 40)]
                case 4:
                    changed[at] = rng.choice(b".0(tRbsua2\x81\x85\x86\x93Qc}])l")
            if not changed:
                changed = bytearray(b"\x00")
        if rng.random() < 0.1:
            del changed[rng.randrange(len(changed)) :]
        yield bytes(changed)


def loads_or_is_refused(path: Path) -> bool:
    try:
        model = load_model(path)
    except CheckpointError as error:
        message = str(error)
    else:
        assert isinstance(model, CrosstalkModel)
        return True
    assert str(path) in message
    return False


def test_fuzz_pickle(tmp_path: Path) -> None:
    small = write_amici(tmp_path / "small", amici_contents(small_network(), n_heads=2, pos_coef_offset=-1.0))
    with zipfile.ZipFile(small / "model.pt") as archive:
        pickled = archive.read("model/data.pkl")
    file = rezip(small, tmp_path / "m", {"data.pkl": None}) / "model.pt"
    others = file.read_bytes()
    at_front = (mutated + pickled[1500:] for mutated in mutations(pickled[:1500], 150, 2))
    outcomes = []
    for mutated in [*mutations(pickled, 150, 1), *at_front]:
        file.write_bytes(others)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("model/data.pkl", mutated)
        outcomes.append(loads_or_is_refused(file))
    assert 10 < sum(outcomes) < 290  # the fuzz reaches both


def test_fuzz_archive(tmp_path: Path) -> None:
    content = (write_amici(tmp_path, amici_contents(small_network())) / "model.pt").read_bytes()
    directory = content.index(b"PK\x01\x02")
    for mutated in [
        *mutations(content, 60, 3),
        *(content[:directory] + m for m in mutations(content[directory:], 60, 4)),
    ]:
        (tmp_path / "model.pt").write_bytes(mutated)
        loads_or_is_refused(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_fuzz_own(own: Path, name: str) -> None:
    content = (own / name).read_bytes()
    for mutated in mutations(content, 100, 5):
        (own / name).write_bytes(mutated)
        loads_or_is_refused(own)
