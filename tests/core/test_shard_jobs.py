"""Shards that are done already are kept, those that are missing are done, and nothing is mixed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tissue_crosstalk.core import shard_jobs
from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.files import Finished, Workspace
from tissue_crosstalk.core.shard_jobs import (
    ShardJob,
    ShardStore,
    compute_and_write,
    run_here,
    run_missing,
    write_shard,
)
from tissue_crosstalk.core.tables import run_of
from tissue_crosstalk.core.threads import share_of

FOLDERS = ("left", "right")


@dataclass(frozen=True)
class Squares:
    """Writes the square of a shard's number to one folder, and the number to another."""

    store: ShardStore
    done: list[int] = field(default_factory=list)
    fails_at: int | None = None

    def compute(self, number: int) -> Iterator[tuple[Path, pa.Table | Path]]:
        if number == self.fails_at:
            raise RuntimeError("the power went off")
        self.done.append(number)
        for folder, value in zip(FOLDERS, (number**2, number), strict=True):
            table = self.store.stamp(pa.table({"value": [value]}), number)
            for part in self.store.parts:
                yield self.store.path(folder, number, part), table


def store_in(
    folder: Path, fingerprint: str | None = "f", n_shards: int = 4, parts: tuple[str, ...] = ("",)
) -> ShardStore:
    return ShardStore(Workspace(folder), FOLDERS, fingerprint, n_shards, parts)


def run(store: ShardStore, fails_at: int | None = None) -> tuple[list[int], tuple[Finished, ...]]:
    """Return which shards were done, and the finished folders, in their places."""
    job = Squares(store, fails_at=fails_at)
    folders = run_missing(store, job, list(store.missing()), run_here, description="", progress=False)
    for name, finished in zip(FOLDERS, folders, strict=True):
        finished.move_to(store.workspace.place(name))
    return sorted(job.done), folders


def versions(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Return what changes when files are written; the time at which one was read changes by itself."""
    found = {file: file.stat() for file in folder.rglob("*.parquet")}
    return {file: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for file, stat in found.items()}


def values(folder: Path, name: str = "left") -> list[int]:
    return [pq.read_table(file)["value"][0].as_py() for file in sorted((folder / name).rglob("*.parquet"))]


def test_all_shards_are_done_once(tmp_path: Path) -> None:
    done, _ = run(store_in(tmp_path))
    assert done == [0, 1, 2, 3]
    assert (values(tmp_path), values(tmp_path, "right")) == ([0, 1, 4, 9], [0, 1, 2, 3])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["left", "right"]


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    run(store_in(tmp_path))
    files = versions(tmp_path)
    done, folders = run(store_in(tmp_path))
    assert done == []
    assert [finished.path for finished in folders] == [tmp_path / "left", tmp_path / "right"]
    assert versions(tmp_path) == files


@pytest.mark.parametrize("fails_at", range(4))
def test_an_interrupted_run_goes_on(tmp_path: Path, fails_at: int) -> None:
    with pytest.raises(RuntimeError, match="the power went off"):
        run(store_in(tmp_path), fails_at)
    assert not (tmp_path / "left").exists()
    left = [number for number in range(4) if not store_in(tmp_path).path("right", number).exists()]
    assert [number for number in left if number <= fails_at] == [fails_at]  # others may have been begun beside it
    done, _ = run(store_in(tmp_path))
    assert done == left
    assert values(tmp_path) == [0, 1, 4, 9]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_lost_file_is_made_again_alone(tmp_path: Path, name: str) -> None:
    run(store_in(tmp_path))
    kept = (tmp_path / "left" / "part-00001.parquet").stat().st_ino
    (tmp_path / name / "part-00002.parquet").unlink()
    done, _ = run(store_in(tmp_path))
    assert done == [2]
    assert (values(tmp_path), values(tmp_path, "right")) == ([0, 1, 4, 9], [0, 1, 2, 3])
    assert (tmp_path / "left" / "part-00001.parquet").stat().st_ino == kept  # the same file, not a copy


@pytest.mark.parametrize("damage", ["cut short", "empty", "of another kind", "of another shard"])
def test_a_damaged_file_is_made_again_alone(tmp_path: Path, damage: str) -> None:
    run(store_in(tmp_path))
    file = tmp_path / "left" / "part-00003.parquet"
    content = file.read_bytes()
    file.unlink()
    if damage == "of another kind":
        pq.write_table(pa.table({"value": [7]}), file)
    elif damage == "of another shard":
        file.write_bytes((tmp_path / "left" / "part-00001.parquet").read_bytes())
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "cut short" else b"")
    done, _ = run(store_in(tmp_path))
    assert done == [3]
    assert values(tmp_path) == [0, 1, 4, 9]


@pytest.mark.parametrize(("fingerprint", "n_shards"), [("g", 4), ("f", 3), ("f", 5), (None, 4)])
def test_anything_else_is_done_anew(tmp_path: Path, fingerprint: str | None, n_shards: int) -> None:
    run(store_in(tmp_path))
    with pytest.raises(RuntimeError):
        run(store_in(tmp_path, "h"), fails_at=2)  # leaves files of yet another run behind
    done, _ = run(store_in(tmp_path, fingerprint, n_shards))
    assert done == [*range(n_shards)]
    assert values(tmp_path) == [number**2 for number in range(n_shards)]


def test_the_old_folder_stays_until_the_new_one_is_finished(tmp_path: Path) -> None:
    run(store_in(tmp_path))
    with pytest.raises(RuntimeError):
        run(store_in(tmp_path, "g", 6), fails_at=5)
    assert values(tmp_path) == [0, 1, 4, 9]


def test_parts_are_kept_and_dropped_one_by_one(tmp_path: Path) -> None:
    """As flavors are: one more is computed alone, one that is not wanted any more goes."""
    run(store_in(tmp_path, parts=("flavor=a", "flavor=b")))
    store = store_in(tmp_path, parts=("flavor=b", "flavor=c"))
    missing = store.missing()
    assert missing == dict.fromkeys(range(4), ("flavor=c",))
    for number in missing:
        for folder in FOLDERS:
            write_shard(store.path(folder, number, "flavor=c"), store.stamp(pa.table({"value": [-1]}), number))
    for name, finished in zip(FOLDERS, store.finish(), strict=True):
        finished.move_to(tmp_path / name)
    assert sorted(part.name for part in (tmp_path / "left").iterdir()) == ["flavor=b", "flavor=c"]
    assert values(tmp_path) == [0, 1, 4, 9, -1, -1, -1, -1]


def test_what_a_killed_process_was_writing_goes(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    with pytest.raises(RuntimeError):
        run(store, fails_at=3)
    (store.workspace.unfinished("left") / ".abc.unfinished.parquet").write_bytes(b"half")
    run(store)
    assert [file.name for file in sorted((tmp_path / "left").iterdir())] == [f"part-{n:05d}.parquet" for n in range(4)]


def test_a_file_that_is_there_already_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.parquet"
    pq.write_table(pa.table({"value": [5]}), source)
    write_shard(tmp_path / "a" / "linked.parquet", source)
    assert (tmp_path / "a" / "linked.parquet").stat().st_ino == source.stat().st_ino

    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(shard_jobs.os, "link", refuse)
    write_shard(tmp_path / "a" / "copied.parquet", source)
    assert (tmp_path / "a" / "copied.parquet").read_bytes() == source.read_bytes()
    assert (tmp_path / "a" / "copied.parquet").stat().st_ino != source.stat().st_ino


def test_numbers_come_when_their_files_are_there(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.missing()
    job: ShardJob = Squares(store)
    for number in run_here(job, [2, 0, 3]):
        assert all(store.path(folder, number).exists() for folder in FOLDERS)
    assert list(run_here(job, [])) == []
    assert compute_and_write(job, 1) == 1
    assert store.path("right", 1).exists()


@dataclass(frozen=True)
class Together(Squares):
    """Waits for another shard to be computed, too, and notes how many threads each may use."""

    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=20))
    shares: list[int] = field(default_factory=list)

    def compute(self, number: int) -> Iterator[tuple[Path, pa.Table | Path]]:
        self.meeting.wait()
        self.shares.append(share_of(6))
        yield from super().compute(number)


def test_shards_are_computed_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_jobs, "threads", lambda: 2)
    store = store_in(tmp_path)
    store.missing()
    job = Together(store)
    assert list(run_here(job, [0, 1, 2, 3])) == [0, 1, 2, 3]
    assert (sorted(job.done), job.shares) == ([0, 1, 2, 3], [3] * 4)
    assert share_of(6) == 6


def test_what_cannot_be_written_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    store = store_in(tmp_path)
    numbers: Sequence[int] = list(store.missing())
    with monkeypatch.context() as patch:
        patch.setattr(shard_jobs.tables, "write_table", full)
        words = r"left.unfinished/part-00000.parquet: this shard cannot be written: .*No space left.* Make room"
        with pytest.raises(ResultError, match=words):
            list(run_here(Squares(store), numbers))
    done, _ = run(store_in(tmp_path))
    assert done == [0, 1, 2, 3]


@pytest.mark.parametrize("left", ["nothing", "another run's"])
def test_a_shard_that_is_said_to_be_done_but_is_not_is_found(tmp_path: Path, left: str) -> None:
    """A worker may write where nobody looks, or too late."""
    store = store_in(tmp_path)

    def lies(job: ShardJob, numbers: Sequence[int]) -> Iterator[int]:
        yield from run_here(job, [number for number in numbers if number != 2])
        if left != "nothing":
            other = store_in(tmp_path, "another")
            write_shard(store.path("left", 2), other.stamp(pa.table({"value": [7]}), 2))
        yield 2

    with pytest.raises(ResultError, match=r"left.unfinished/part-00002.parquet is not there, or of another run"):
        run_missing(store, Squares(store), list(store.missing()), lies, description="", progress=False)
    assert not (tmp_path / "left").exists()
    done, _ = run(store_in(tmp_path))
    assert done == [2]


def test_one_run_at_a_time_is_at_work_in_a_folder(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "study")
    with workspace.alone():
        words = r"study: another run is at work there\. Wait until it ends"
        with pytest.raises(ResultError, match=words), Workspace(tmp_path / "study").alone():
            pass
        with Workspace(tmp_path / "other").alone():
            pass
    with workspace.alone():
        pass


def test_files_know_their_run(tmp_path: Path) -> None:
    run(store_in(tmp_path))
    assert run_of(pq.read_schema(tmp_path / "left" / "part-00000.parquet")) == "f"
    for metadata in (None, {b"tissue_crosstalk": b"no json"}, {b"tissue_crosstalk": b"[1]"}):
        assert run_of(pa.schema([], metadata=metadata)) is None
