"""Work that is done a shard at a time: what is done already is kept, what is missing is done, here or by a cluster.

A job computes the files of one shard from nothing but files, so that any process that sees the same folders can do it.
Every file says in its schema's metadata what it was made from (`fingerprint`) and which shard of how many it is. A file
that says what is wanted is never made again, whether an interrupted run left it or a finished one.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from tissue_crosstalk.core import tables
from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.files import Finished, Workspace, clear, make_own_folder, whole_file
from tissue_crosstalk.core.threads import in_order, threads


class ShardJob(Protocol):
    """Computes any of some shards, several at the same time; pickled where a cluster does it."""

    @property
    def store(self) -> ShardStore:
        """Where the files go."""

    def compute(self, number: int) -> Iterator[tuple[Path, pa.Table | Path]]:
        """Yield the files of a shard: where each goes, and its table, or an existing file that is the same."""


class RunShards(Protocol):
    """Does some shards of a job, in whatever order, and yields the number of each when its files are written."""

    def __call__(self, job: ShardJob, numbers: Sequence[int]) -> Iterator[int]:
        """Do the shards of these numbers."""


def compute_and_write(job: ShardJob, number: int) -> int:
    """Do one shard, and return its number."""
    for path, made in job.compute(number):
        write_shard(path, made)
    return number


def write_shard(path: Path, made: pa.Table | Path) -> None:
    """Write one file of a shard, whole or not at all.

    Raises
    ------
    ResultError
        If it cannot be written.
    """
    try:
        with whole_file(path) as unfinished:
            if isinstance(made, Path):
                link_or_copy(made, unfinished)
            else:
                tables.write_table(made, unfinished)
    except OSError as error:
        raise ResultError(
            f"{path}: this shard cannot be written: {error}. Make room or give the folder write permission; the shards "
            "that are finished are kept, and the next run goes on from them."
        ) from error


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file that exists appear under another name, too, without its bytes being written again where possible."""
    try:
        os.link(source.resolve(), target)  # of a link the file, or the link would get another name
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def run_here(job: ShardJob, numbers: Sequence[int]) -> Iterator[int]:
    """Do shards in this process, a few side by side: each by one thread, as long as there are enough of them."""
    return in_order(functools.partial(compute_and_write, job), numbers, max(1, min(threads(), len(numbers))))


@dataclass(frozen=True)
class ShardStore:
    """The parquet folders that a job fills, and which of their files are still right.

    Attributes
    ----------
    workspace
        Where the folders lie, those of an earlier run and those that are being filled.
    folders
        Their names.
    parts
        Folders within each, such as ``flavor=vanilla``; one empty name where there are none.
    fingerprint
        What the files are to be made from; None: nothing tells it apart, so that no file can be used again.
    n_shards
        Number of files in each folder or part.
    run
        The run of the extraction that all its tables share: readers compare it. None: the fingerprint is that.
    linked
        Parts whose files are those of the extraction itself.
    made_from
        What a reader is told of the files' origin (JSON), which does not decide whether they are right.
    """

    workspace: Workspace
    folders: tuple[str, ...]
    fingerprint: str | None
    n_shards: int
    parts: tuple[str, ...] = ("",)
    run: str | None = None
    linked: tuple[str, ...] = ()
    made_from: Mapping[str, Any] = field(default_factory=dict)

    def stamp(self, table: pa.Table, number: int) -> pa.Table:
        """Return the table with the metadata that its file will be known by."""
        said = self._identity(number) | {tables.MADE_FROM: dict(self.made_from)}
        return table.replace_schema_metadata({tables.METADATA_KEY: json.dumps(said).encode()})

    def path(self, folder: str, number: int, part: str = "") -> Path:
        """Return where a file is written."""
        return self.workspace.unfinished(folder) / part / tables.shard_file(number)

    def missing(self) -> dict[int, tuple[str, ...]]:
        """Return which shards are missing, and which parts of each; those of an earlier run are put to use.

        A shard of several folders is missing whole where one of its files is.
        """
        if self.is_complete():
            for folder in map(self.workspace.unfinished, self.folders):
                clear(folder)
            return {}
        missing: dict[int, tuple[str, ...]] = {}
        self._discard()
        for number in range(self.n_shards):
            parts = tuple(part for part in self.parts if not self._take_over(number, part))
            if parts:
                missing[number] = parts
        return missing

    def is_complete(self) -> bool:
        """Return whether the folders of an earlier run hold just what is wanted."""
        wanted = {Path(part) / tables.shard_file(number) for part in self.parts for number in range(self.n_shards)}
        for folder in map(self.workspace.place, self.folders):
            found = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
            if found != wanted:
                return False
            for file in wanted:
                if not self._is_right(folder / file, file.parent.as_posix().removeprefix(".")):
                    return False
        return True

    def finish(self) -> tuple[Finished, ...]:
        """Return the folders, in the order of :attr:`folders`.

        Raises
        ------
        ResultError
            If a file is missing, or of another run.
        """
        if self.is_complete():
            return tuple(Finished(self.workspace.place(folder)) for folder in self.folders)
        for folder in self.folders:
            for number in range(self.n_shards):
                for part in self.parts:
                    file = self.path(folder, number, part)
                    if not (file.exists() if self.fingerprint is None else self._is_right(file, part)):
                        raise ResultError(
                            f"{file} is not there, or of another run, though its shard was reported as done. Run it "
                            "again: what is right is kept."
                        )
            for leftover in self.workspace.unfinished(folder).rglob(".*"):  # of a process that was killed as it wrote
                leftover.unlink(missing_ok=True)
        return tuple(Finished(self.workspace.unfinished(folder)) for folder in self.folders)

    def _identity(self, number: int, part: str = "") -> dict[str, Any]:
        run = self.fingerprint if self.run is None else self.run
        fingerprint = run if part in self.linked else self.fingerprint
        return {"run": run, "fingerprint": fingerprint, "shard": [number, self.n_shards]}

    def _is_right(self, file: Path, part: str) -> bool:
        if self.fingerprint is None:
            return False
        number = int(file.stem.rsplit("-", maxsplit=1)[-1])
        try:
            said = tables.said_of(pq.read_schema(file))
        except (OSError, pa.ArrowException):  # cut short, or none of ours
            return False
        identity = self._identity(number, part)
        return {name: said.get(name) for name in identity} == identity

    def _discard(self) -> None:
        """Delete what another run left unfinished."""
        wanted = {tables.shard_file(number) for number in range(self.n_shards)}
        for folder in map(self.workspace.unfinished, self.folders):
            make_own_folder(folder)
            for part in self.parts:
                make_own_folder(folder / part)
            for file in [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]:
                part = file.parent.relative_to(folder).as_posix().removeprefix(".")
                is_ours = file.name in wanted and part in self.parts and not file.is_symlink()
                if not is_ours or not self._is_right(file, part):
                    file.unlink()
            for empty in [path for path in folder.iterdir() if path.is_dir() and path.name not in self.parts]:
                clear(empty)

    def _take_over(self, number: int, part: str) -> bool:
        """Return whether all files of a shard are there, after having linked those of a finished run."""
        for folder in self.folders:
            target = self.path(folder, number, part)
            finished = self.workspace.place(folder) / part / target.name
            if not target.exists() and finished.exists() and self._is_right(finished, part):
                link_or_copy(finished, target)
        return all(self.path(folder, number, part).exists() for folder in self.folders)


def run_missing(
    store: ShardStore, job: ShardJob, missing: Sequence[int], run: RunShards, *, description: str, progress: bool
) -> tuple[Finished, ...]:
    """Do the missing shards of a job, show how far it is, and return the finished folders."""
    from tqdm import tqdm

    bar = tqdm(
        run(job, missing),
        total=store.n_shards,
        initial=store.n_shards - len(missing),
        desc=description,
        unit="shard",
        disable=None if progress else True,
    )
    for _ in bar:
        pass
    return store.finish()
