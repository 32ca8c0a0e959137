"""What a tissue's file may hold before any of it is read: only itself, in sizes that its own bytes account for.

A tissue can come from somebody else. HDF5 can name other files, whose content would then be read as the tissue's; zarr
can name codecs that run what they decode; and both can declare arrays that no memory holds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tissue_crosstalk.core.errors import TissueError

MAX_EXPANSION: Final = 20  # of what is read as a whole; annotations of cells repeat themselves
MAX_EXPANSION_ON_DISK: Final = 2000  # of what is read a part at a time; deflated zeros reach half of it
ALWAYS_ALLOWED_BYTES: Final = 256 * 2**20
ALWAYS_ALLOWED_CHUNKS: Final = 10_000  # each is looked for, also where it is not there
BYTES_OF_CHUNK: Final = 100  # that a further one takes on disk, at least

READ_AS_A_WHOLE: Final = ("obs", "var", "obsm", "varm", "uns")
STARTS: Final = "indptr"  # of the rows of any sparse matrix

# What turns bytes into numbers or texts. Another codec of numcodecs, pickle, runs what it reads.
CODECS: Final = frozenset(
    {
        *("blosc", "zstd", "lz4", "zlib", "gzip", "bz2", "lzma", "shuffle", "delta", "fixedscaleoffset", "quantize"),
        *("bitround", "packbits", "astype", "categorize", "vlen-utf8", "vlen-bytes", "vlen-array"),
        *("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"),
    }
)

_HINT: Final = "Write the tissue again with AnnData.write_h5ad or AnnData.write_zarr, from a source that you trust."


def check_parts(group: Any, path: Path) -> None:
    """Check what an open h5ad file or zarr store declares; none of its numbers are read.

    Parameters
    ----------
    group
        The root group.
    path
        Where it lies.

    Raises
    ------
    TissueError
        If a part of it lies in another file, is there under several names, would be decoded by a codec that can run
        code, or declares a size that the bytes on disk cannot account for.
    """
    import h5py

    if isinstance(group, h5py.Group):
        _check_sizes(_hdf5_parts(group, path), path, path.stat().st_size)
    else:
        _check_sizes(_zarr_parts(group, path), path, check_files(path))


def check_files(path: Path) -> int:
    """Check that all files of a zarr store are its own, and return their bytes.

    Raises
    ------
    TissueError
        If one of them is a link to another place, or neither a file nor a folder.
    """
    return sum(entry.stat().st_size for entry in _files(path, path.resolve()))


def check_parquet(path: Path) -> None:
    """Check what a parquet file, or a folder of them, declares; none of its values are read.

    Raises
    ------
    TissueError
        If it is damaged, has another file in it, or declares a size that the bytes on disk cannot account for.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_dir():
            continue
        if file.suffix != ".parquet":  # such as _metadata, which can name files elsewhere
            raise TissueError(
                f"{file} must be a parquet file, as all in {path}. It is another, and is not read. {_HINT}"
            )
        try:
            declared = pq.read_metadata(file)
        except (pa.ArrowException, OSError) as error:
            said = next(iter(str(error).splitlines()), "")[:200]
            raise TissueError(f"{file} cannot be read as a parquet file: {said} {_HINT}") from error
        on_disk = file.stat().st_size
        groups = sum(declared.row_group(group).total_byte_size for group in range(declared.num_row_groups))
        n_bytes = max(groups, 8 * declared.num_rows * declared.num_columns)  # equal values take next to no bytes
        if n_bytes > max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * on_disk):
            raise TissueError(
                f"{file} must be of a size that the file can hold. It declares {n_bytes} bytes, but {on_disk} bytes "
                f"are there: it is damaged, or made to exhaust the memory. {_HINT}"
            )


def _check_sizes(parts: Iterator[tuple[str, int, tuple[int, ...], tuple[int, ...]]], path: Path, on_disk: int) -> None:
    """Check the sizes of arrays, each with its name, the bytes of a number, its shape and that of a chunk."""
    whole = 0
    most, most_on_disk = (
        max(ALWAYS_ALLOWED_BYTES, times * on_disk) for times in (MAX_EXPANSION, MAX_EXPANSION_ON_DISK)
    )
    for name, itemsize, shape, chunks in parts:
        n_bytes, chunk = itemsize * math.prod(shape), itemsize * math.prod(chunks or (0,))
        n_chunks = math.prod(-(-length // max(own, 1)) for length, own in zip(shape, chunks, strict=False))
        if n_bytes > most_on_disk or chunk > most:
            raise TissueError(
                f"{path}: {name!r} must be of a size that the file can hold. It declares {n_bytes} bytes, {chunk} of "
                f"them at once, but {on_disk} bytes are there: it is damaged, or made to exhaust the memory. {_HINT}"
            )
        if name.split("/")[0] in READ_AS_A_WHOLE or name.endswith(f"/{STARTS}"):
            whole += n_bytes
            if n_chunks > ALWAYS_ALLOWED_CHUNKS + on_disk // BYTES_OF_CHUNK:
                raise TissueError(
                    f"{path}: {name!r} must be of chunks that the file can hold. It declares {n_chunks}, but {on_disk} "
                    f"bytes are there: it is damaged, or made to take for ever. {_HINT}"
                )
        if whole > most:
            raise TissueError(
                f"{path}: what is read as a whole, {name!r} among it, must be of a size that the file can hold. It "
                f"declares {whole} bytes, but {on_disk} bytes are there: it is damaged, or made to exhaust the memory. "
                f"{_HINT}"
            )


def _hdf5_parts(root: Any, path: Path) -> Iterator[tuple[str, int, tuple[int, ...], tuple[int, ...]]]:
    import h5py

    found: list[tuple[str, int, tuple[int, ...], tuple[int, ...]]] = []

    def leads_elsewhere(name: bytes, link: Any) -> bytes | None:
        return None if link.type == h5py.h5l.TYPE_HARD else name

    def look_at_object(name: str, part: Any) -> None:
        if h5py.h5o.get_info(part.id).rc > 1:  # parts within parts could repeat each other without end
            raise TissueError(f"{path}: {name!r} must be there once. It has several names in the file. {_HINT}")
        if isinstance(part, h5py.Dataset):
            made = part.id.get_create_plist()
            if made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL:
                raise TissueError(
                    f"{path}: the numbers of {name!r} must be in the file itself. They are said to be in other files, "
                    f"which are not read. {_HINT}"
                )
            shape = (0,) if part.shape is None else part.shape
            found.append((name, part.dtype.itemsize, shape, part.chunks or ()))

    elsewhere = root.id.links.visit(leads_elsewhere, info=True)  # until there is one
    if elsewhere is not None:
        raise TissueError(
            f"{path}: {elsewhere.decode(errors='replace')!r} must be in the file itself. It is a link to another "
            f"place, which is not followed: it could be a file of yours. {_HINT}"
        )
    root.visititems(look_at_object)
    return iter(found)


def _zarr_parts(root: Any, path: Path) -> Iterator[tuple[str, int, tuple[int, ...], tuple[int, ...]]]:
    import zarr

    for name, part in root.members(max_depth=None):
        if isinstance(part, zarr.Array):
            for codec in _codecs(part.metadata):
                if codec not in CODECS:
                    raise TissueError(
                        f"{path}: {name!r} must be coded by none but codecs that only decode. Got {codec!r}, which is "
                        f"not run. {_HINT}"
                    )
            yield name, part.dtype.itemsize, part.shape, part.chunks


def _codecs(metadata: Any) -> Iterator[str]:
    """Yield the names of an array's codecs that are not zarr's own."""
    if metadata.zarr_format == 2:
        yield from (codec.codec_id for codec in (*(metadata.filters or ()), metadata.compressor) if codec is not None)
        return
    for codec in metadata.codecs:  # those of version 3 are named in it, and none of zarr's own runs anything
        module = type(codec).__module__
        if not module.startswith("zarr."):
            yield str(codec.to_dict().get("name", module)).removeprefix("numcodecs.")


def _files(folder: Path, root: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the files of a store, which are all within it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            is_outside = entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root)
            if is_outside or not (entry.is_dir() or entry.is_file()):
                raise TissueError(
                    f"{entry.path} must be a file or a folder of the store {root}. It is a link to another place, or "
                    f"something else, and is not read: it could be a file of yours. {_HINT}"
                )
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path), root)
            elif entry.is_file():
                yield entry
