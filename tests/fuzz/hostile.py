"""Models made to exhaust time or memory, or to confuse: each must be refused, or cost next to nothing."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from checkpoint_cases import GENES, LABELS, SMALL, small_model, small_network

from tissue_crosstalk.core.checkpoint import save_model
from tissue_crosstalk.core.network_settings import NetworkSettings

MOST_SECONDS = 2.0
MOST_BYTES = 500 * 2**20


# --- pickles, operation by operation


class Raw(bytes):
    """Operations that push one value."""


def ops(value: Any) -> bytes:
    """Return the operations that push a value."""
    match value:
        case Raw():
            return value
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"J" + struct.pack("<i", value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case list():
            return b"](" + b"".join(map(ops, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(ops, value)) + b"t"
        case dict():
            return b"}(" + b"".join(ops(part) for entry in value.items() for part in entry) + b"u"
    raise TypeError(type(value))


def tensor(key: str, shape: tuple[int, ...], *, size: int | None = None, kind: str = "Float") -> Raw:
    """Return the operations of a contiguous tensor."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    storage = b"(" + ops("storage") + f"ctorch\n{kind}Storage\n".encode() + ops(key) + ops("cpu")
    storage += ops(step if size is None else size) + b"tQ"
    view = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + ops(0) + ops(shape) + ops(tuple(reversed(strides)))
    return Raw(view + b"\x89NtR")


def array(values: bytes, count: int, code: str = "O8") -> Raw:
    """Return the operations of a numpy array with one axis, whose data are pushed by `values`."""
    dtype = b"cnumpy\ndtype\n(" + ops(code) + b"K\x00K\x01tR(K\x03" + ops("|" if code[0] in "OSb" else "<") + b"NNNtb"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + ops("b") + b"tR"
    return Raw(made + b"(K\x01" + ops((count,)) + dtype + b"\x89" + values + b"tb")


def latin(data: bytes) -> Raw:
    """Return the operations that push bytes as protocol 2 does."""
    return Raw(b"c_codecs\nencode\n" + ops(data.decode("latin-1")) + ops("latin1") + b"\x86R")


def many(payload: bytes, count: int) -> Raw:
    return Raw(payload * count)


def contents(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    genes: Any = None,
    labels: Any = None,
    tensors: Mapping[str, Raw] | None = None,
    first: bytes = b"",
) -> bytes:
    """Return the pickle of a model, of which something is exchanged; `first` pushes one value, which is dropped."""
    state = {name: tensor(name, shape) for name, shape in shapes.items()} | dict(tensors or {})
    setup = {"labels_key": "kind", "coord_obsm_key": "xy", "n_neighbors": 4, "cell_radius_key": None, "layer": None}
    registry = {
        "setup_args": setup,
        "field_registries": {
            "labels": {"state_registry": {"categorical_mapping": list(LABELS) if labels is None else labels}}
        },
    }
    root = {
        "model_state_dict": state,
        "var_names": list(GENES) if genes is None else genes,
        "attr_dict": {"init_params_": {"kwargs": {"model_kwargs": {}}}, "registry_": registry},
    }
    return b"\x80\x02" + (first + b"0" if first else b"") + ops(root) + b"."


def archived(
    folder: Path,
    pickled: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    settings: NetworkSettings = SMALL,
    compression: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """Write a ``model.pt`` of a pickle and raw tensors, those of a small network where none are given."""
    folder.mkdir(parents=True)
    weights = {name: value.numpy().tobytes() for name, value in small_network(settings).state_dict().items()}
    with zipfile.ZipFile(folder / "model.pt", "w", compression) as archive:
        archive.writestr("model/data.pkl", pickled)
        for key, content in {**weights, **(storages or {})}.items():
            archive.writestr(f"model/data/{key}", content)
    return folder


def shapes_of(settings: NetworkSettings = SMALL) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in small_network(settings).state_dict().items()}


def with_first(payload: Callable[[], bytes]) -> Callable[[Path], Path]:
    return lambda folder: archived(folder, contents(shapes_of(), first=payload()), compression=zipfile.ZIP_STORED)


def with_genes(genes: Callable[[], Any]) -> Callable[[Path], Path]:
    return lambda folder: archived(folder, contents(shapes_of(), genes=genes()))


def with_profiles(
    n_labels: int,
    n_genes: int,
    *,
    genes: Callable[[], Any] = lambda: ["A"],
    labels: Callable[[], Any] | None = None,
) -> Callable[[Path], Path]:
    """Profiles of so many labels and genes, half precision zeros: the archive stays small."""
    profiles = tensor("profiles", (n_labels, n_genes), kind="Half")

    def make(folder: Path) -> Path:
        pickled = contents(
            shapes_of(),
            genes=genes(),
            labels=list(LABELS) if labels is None else labels(),
            tensors={"ct_profiles": profiles},
        )
        return archived(folder, pickled, {"profiles": bytes(2 * n_labels * n_genes)})

    return make


def text(length: int) -> bytes:
    return b"X" + struct.pack("<I", length) + b"x" * length


# --- archives, byte by byte


def local(name: bytes, content: bytes, *, method: int = 0, size: int | None = None, crc: int | None = None) -> bytes:
    real = len(content) if size is None else size
    check = zlib.crc32(content) if crc is None else crc
    return struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, method, 0, 33, check, len(content), real, len(name), 0) + (
        name + content
    )


def central(name: bytes, packed: int, size: int, crc: int, offset: int, method: int = 0, extra: bytes = b"") -> bytes:
    return (
        struct.pack(
            "<4s6H3I5H2I",
            b"PK\x01\x02",
            20,
            20,
            0,
            method,
            0,
            33,
            crc,
            packed,
            size,
            len(name),
            len(extra),
            0,
            0,
            0,
            0,
            offset,
        )
        + name
        + extra
    )


def ending(count: int, size: int, offset: int) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, size, offset, 0)


def written(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.pt").write_bytes(content)
    return folder


def million_entries(folder: Path) -> Path:
    first = local(b"m/data.pkl", b".")
    directory = b"".join(central(b"m/%06d" % number, 0, 0, 0, 0) for number in range(1_000_000))
    return written(folder, first + directory + ending(0, len(directory), len(first)))


def long_names(folder: Path) -> Path:
    first = local(b"m/data.pkl", b".")
    directory = b"".join(central(b"%06d" % number + b"n" * 65_000, 0, 0, 0, 0) for number in range(1_500))
    return written(folder, first + directory + ending(0, len(directory), len(first)))


def quoted_overlap(folder: Path) -> Path:
    """Every entry is the start of a deflated stream that holds the headers of those after it, and the same bomb."""
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    kernel = bomb.compress(bytes(60 * 2**20)) + bomb.flush()
    crc = zlib.crc32(bytes(60 * 2**20))
    names = [b"m/data/%03d" % number for number in range(200)] + [b"m/data.pkl"]
    body, directory = b"", b""
    for name in names:
        directory += central(name, len(kernel), 60 * 2**20, crc, len(body), 8)
        body += local(name, kernel, method=8, size=60 * 2**20, crc=crc)
    return written(folder, body + directory + ending(len(names), len(directory), len(body)))


def same_bytes_twice(folder: Path) -> Path:
    """Two entries of the directory name one local header."""
    body = local(b"m/data.pkl", b"\x80\x02}.")
    crc = zlib.crc32(b"\x80\x02}.")
    directory = central(b"m/data.pkl", 4, 4, crc, 0) + central(b"m/byteorder", 4, 4, crc, 0)
    return written(folder, body + directory + ending(2, len(directory), len(body)))


def disagreeing_headers(folder: Path) -> Path:
    body = local(b"m/data.pkl", b"\x80\x02}.", size=2**31)
    directory = central(b"m/data.qkl"[:6] + b".pkl", 4, 4, zlib.crc32(b"\x80\x02}."), 0)
    return written(folder, body + directory + ending(1, len(directory), len(body)))


def zip64(size: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        body = local(b"m/data.pkl", b"\x80\x02}.")
        extra = struct.pack("<2H2Q", 1, 16, size, size)
        directory = central(b"m/data.pkl", 0xFFFFFFFF, 0xFFFFFFFF, zlib.crc32(b"\x80\x02}."), 0, 0, extra)
        end64 = struct.pack(
            "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(directory), len(body)
        ) + struct.pack("<4sLQL", b"PK\x06\x07", 0, len(body) + len(directory), 1)
        return written(
            folder,
            body + directory + end64 + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, 2**32 - 1, 2**32 - 1, 0),
        )

    return make


def directory_size_lies(folder: Path) -> Path:
    body = local(b"m/data.pkl", b"\x80\x02}.")
    return written(folder, body + ending(1, 0x7FFFFFFF, 0))


def shared_storage(folder: Path) -> Path:
    """A thousand tensors that are one number of one large storage each: reading them all takes a thousand times it."""
    views = {f"extra.{number}": tensor("large", (1,), size=15 * 2**20) for number in range(1000)}
    named = {name: tensor("large", shape, size=15 * 2**20) for name, shape in shapes_of().items()}
    return archived(folder, contents(shapes_of(), tensors=named | views), {"large": bytes(60 * 2**20)})


def storage_shared_by_the_network(folder: Path) -> Path:
    """All tensors of the network are in one large storage, which each of them would be cut out of."""
    named = {name: tensor("large", shape, size=15 * 2**20) for name, shape in shapes_of().items()}
    return archived(folder, contents(shapes_of(), tensors=named), {"large": bytes(60 * 2**20)})


def named_pipe(folder: Path) -> Path:
    folder.mkdir(parents=True)
    os.mkfifo(folder / "model.pt")
    return folder / "model.pt"


def a_device(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.pt").symlink_to("/dev/zero")
    return folder / "model.pt"


def link_to_another_file(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.pt").symlink_to("/etc/passwd")
    return folder


def link_to_itself(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.pt").symlink_to("model.pt")
    return folder / "model.pt"


def folder_in_place_of_the_file(folder: Path) -> Path:
    (folder / "model.pt").mkdir(parents=True)
    return folder


# --- our own format


def own(change: Callable[[bytes], bytes], name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        save_model(small_model(), folder)
        file = folder / name
        file.write_bytes(change(file.read_bytes()))
        return folder

    return make


def described(**changes: Any) -> Callable[[Path], Path]:
    return own(lambda old: json.dumps(json.loads(old) | changes).encode(), "model.json")


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
    def changed(old: bytes) -> bytes:
        (length,) = struct.unpack("<Q", old[:8])
        new = json.loads(old[8 : 8 + length])
        made = change(new) or new
        packed = made if isinstance(made, bytes) else json.dumps(made).encode()
        return struct.pack("<Q", len(packed)) + packed + old[8 + length :]

    return own(changed, "model.safetensors")


def overlapping(entries: dict[str, Any]) -> None:
    names = [name for name in entries if name != "__metadata__"]
    entries[names[1]]["data_offsets"] = entries[names[0]]["data_offsets"]


def absurd_shape(entries: dict[str, Any]) -> None:
    entries["ct_profiles"]["shape"] = [2**40, 2**40]


def offsets_beyond(entries: dict[str, Any]) -> None:
    entries["ct_profiles"]["data_offsets"] = [0, 2**63]


def twice(entries: dict[str, Any]) -> bytes:
    return (
        b'{"ct_profiles": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}, ' + json.dumps(entries).encode()[1:]
    )


def many_tensors(entries: dict[str, Any]) -> bytes:
    empty = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return b"{" + b",".join(b'"%07d":%s' % (number, empty) for number in range(1_500_000)) + b"}"


def much_metadata(entries: dict[str, Any]) -> bytes:
    texts = b",".join(b'"%07d":""' % number for number in range(7_000_000))
    return b'{"__metadata__":{' + texts + b"}," + json.dumps(entries).encode()[1:]


MANY = 480_000  # fewer operations than are read
HUGE = 2**24
LABELED = 5_000_000

HOSTILE: dict[str, Callable[[Path], Path]] = {
    # pickles
    "billion laughs": with_first(lambda: b"]" + b"2\x86" * 900_000),
    "deep tuples, as many as are read": with_first(lambda: b"N" + b"\x85" * MANY),
    "deep lists, as many as are read": with_first(lambda: b"]" * (MANY // 2) + b"a" * (MANY // 2 - 1)),
    "deep calls, as many as are read": with_first(lambda: b"cos\nsystem\n" + b")R" * (MANY // 2)),
    "dicts, as many as are read": with_first(lambda: b"](" + b"}" * MANY + b"e"),
    "filled dicts, as many as are read": with_first(lambda: b"](" + b"}X\x01\0\0\0aNs" * (MANY // 4) + b"e"),
    "marks, as many as are read": with_first(lambda: b"(" * MANY),
    "memos, as many as are read": with_first(lambda: b"N" + b"\x94" * MANY),
    "deep tuples": with_first(lambda: b"N" + b"\x85" * 3_900_000),
    "deep lists": with_first(lambda: b"]" * 1_900_000 + b"a" * 1_899_999),
    "deep calls": with_first(lambda: b"cos\nsystem\n" + b")R" * 1_900_000),
    "many marks": with_first(lambda: b"(" * 3_800_000 + b"N."),
    "many dicts": with_first(lambda: b"]" + b"(" + b"}" * 3_800_000 + b"e"),
    "many filled dicts": with_first(lambda: b"]" + b"(" + b"}X\x01\0\0\0aNs" * 900_000 + b"e"),
    "many memos": with_first(lambda: b"N" + b"\x94" * 3_800_000),
    "many texts": with_first(lambda: b"]" + b"(" + b"X\x02\0\0\0\xc4\x80" * 3_800_000 + b"e"),
    "operations without end": with_first(lambda: b"N0" * 50_000_000 + b"N"),
    "a wide text": with_first(lambda: b"X" + struct.pack("<I", 62 * 2**20) + "😀".encode() + b"x" * (62 * 2**20 - 4)),
    "a long name": with_first(lambda: b"c" + b"m" * (31 * 2**20) + b"\n" + b"n" * (31 * 2**20) + b"\n"),
    "a long line": with_first(lambda: b"V" + b"x" * (62 * 2**20) + b"\n"),
    "a long escape": with_first(lambda: b"S'" + b"\\x00" * (15 * 2**20) + b"'\n"),
    "a long integer": with_first(lambda: b"\x8b" + struct.pack("<i", 62 * 2**20) + b"\x7f" * (62 * 2**20)),
    "digits without end": with_first(lambda: b"I" + b"9" * (62 * 2**20) + b"\n"),
    "a float without end": with_first(lambda: b"F0." + b"4" * (62 * 2**20) + b"\n"),
    "100 MB of bytes": with_first(lambda: b"B" + struct.pack("<I", 100 * 2**20) + bytes(100 * 2**20)),
    "a pickle of zeros": lambda folder: archived(folder, bytes(62 * 2**20)),
    "a list within itself as genes": with_genes(lambda: Raw(b"]" + b"2a" * 1000)),
    "many genes of one letter": with_profiles(
        1, 1_900_000, genes=lambda: Raw(b"](" + b"X\x01\0\0\0x" * 1_900_000 + b"e")
    ),
    "many different genes": with_profiles(
        1, 240_000, genes=lambda: Raw(b"](" + b"".join(ops(f"{n:06d}") for n in range(240_000)) + b"e")
    ),
    "one long text as every gene": with_profiles(
        1, 240_000, genes=lambda: Raw(b"](" + text(2**24) + b"q\x00" + b"h\x00" * 239_999 + b"e")
    ),
    "one long numpy text as every gene": with_profiles(
        1,
        240_000,
        genes=lambda: Raw(
            b"](cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x08\0\0\0S9999999K\0K\1tR(K\3X\1\0\0\0|NNNtb"
            + latin(bytes(9_999_999))
            + b"tRq\x00"
            + b"h\x00" * 239_999
            + b"e"
        ),
    ),
    "an array of small numbers as labels": with_profiles(
        LABELED, 1, labels=lambda: array(latin(bytes(LABELED)), LABELED, "i1")
    ),
    "an array of small texts as labels": with_profiles(
        LABELED, 1, labels=lambda: array(latin(b"x" * LABELED), LABELED, "S1")
    ),
    "an array of objects as labels": with_profiles(
        240_000, 1, labels=lambda: array(b"](" + b"K\x01" * 240_000 + b"e", 240_000)
    ),
    "many labels": with_profiles(LABELED, 1, labels=lambda: list(LABELS)),
    "many tensors": lambda folder: archived(
        folder,
        contents(
            shapes_of(),
            tensors={"x": Raw(tensor("ct_profiles", (3, 5)) + b"q\x00")}
            | {f"x{number}": Raw(b"h\x00") for number in range(300_000)},
        ),
    ),
    "a tensor of a million axes": lambda folder: archived(
        folder, contents(shapes_of(), tensors={"ct_profiles": tensor("ct_profiles", (1,) * 300_000, size=15)})
    ),
    "one storage read a thousand times": shared_storage,
    "one storage read for every tensor": storage_shared_by_the_network,
    # archives
    "a million entries": million_entries,
    "entries with long names": long_names,
    "quoted overlapping entries": quoted_overlap,
    "two entries with the same bytes": same_bytes_twice,
    "headers that disagree": disagreeing_headers,
    "zip64 with honest sizes": zip64(4),
    "zip64 with absurd sizes": zip64(2**62),
    "a directory that is smaller than it says": directory_size_lies,
    "a named pipe": named_pipe,
    "a device": a_device,
    "a link to another file": link_to_another_file,
    "a link to itself": link_to_itself,
    "a folder in place of the file": folder_in_place_of_the_file,
    # our own format
    "JSON: many lists": own(lambda _: b"[" + b"[]," * (20 * 2**20) + b"[]]", "model.json"),
    "JSON: many dicts": own(lambda _: b"[" + b"{}," * (2_700_000) + b"{}]", "model.json"),
    "JSON: many texts": own(lambda _: b"[" + b'"\xc4\x80",' * (12 * 2**20) + b"1]", "model.json"),
    "JSON: deep": own(lambda _: b"[" * (60 * 2**20), "model.json"),
    "JSON: deep dicts": own(lambda _: b'{"a":' * (10 * 2**20), "model.json"),
    "JSON: a huge integer": own(lambda _: b"9" * (60 * 2**20), "model.json"),
    "JSON: a number beyond floats": own(lambda old: old.replace(b"-1.5", b"1e999"), "model.json"),
    "JSON: NaN": own(lambda old: old.replace(b"-1.5", b"NaN"), "model.json"),
    "JSON: a key twice": own(lambda old: old.replace(b'"format"', b'"n_neighbors": 3, "format"', 1), "model.json"),
    "JSON: a key of a part twice": own(lambda old: old.replace(b'"n_heads"', b'"n_heads": 2, "n_heads"'), "model.json"),
    "JSON: an absurd network": described(
        network={name: HUGE if name.startswith("n_") else 1.0 for name in asdict(SMALL)}
    ),
    "JSON: many genes": described(genes=[f"{number:05d}" for number in range(800_000)]),
    "JSON: a wide text": own(lambda _: b'"' + "😀".encode() + b"x" * (60 * 2**20) + b'"', "model.json"),
    "safetensors: an absurd header length": own(lambda old: struct.pack("<Q", 2**63) + old[8:], "model.safetensors"),
    "safetensors: a header longer than the file": own(
        lambda old: struct.pack("<Q", 2**20) + old[8:], "model.safetensors"
    ),
    "safetensors: overlapping tensors": header(overlapping),
    "safetensors: an absurd shape": header(absurd_shape),
    "safetensors: offsets beyond the file": header(offsets_beyond),
    "safetensors: a tensor twice": header(twice),
    "safetensors: many tensors": header(many_tensors),
    "safetensors: much metadata": header(much_metadata),
    "safetensors: deep": header(lambda _: b"[" * 90_000_000),
}


def measured(paths: list[Path]) -> list[dict[str, Any]]:
    """Load models one after the other in another process, and return what it says of each."""
    script = Path(__file__).with_name("measure.py")
    done = subprocess.run(
        [sys.executable, script, *map(str, paths)], capture_output=True, text=True, check=True, timeout=30
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
