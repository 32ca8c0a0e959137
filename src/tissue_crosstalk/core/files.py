"""Files and folders that appear whole or not at all, and what tells them apart.

What is written goes to its very place: a link there is replaced, and what it leads to is neither written nor deleted.
Links above, such as a folder of all data that is on another disk, are followed.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tissue_crosstalk.core.errors import ResultError


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the place of `path` when the block succeeds.

    Parameters
    ----------
    path
        The file to write. Missing folders are made. What was there stays until the new file is complete.

    Yields
    ------
    pathlib.Path
        Where to write; it has the suffix of `path`.

    Raises
    ------
    OSError
        If there is a folder at `path`, or the file cannot be written.
    """
    target = Path(path)
    _refuse_another_kind(target, folder=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder: only a rename within one file system is atomic.
    unfinished = target.parent / f".{uuid.uuid4().hex}.unfinished{target.suffix}"
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty folder beside `path` to fill; it takes the place of `path` when the block succeeds.

    Raises
    ------
    OSError
        If there is a file at `path`, or the folder cannot be written.
    """
    target = Path(path)
    _refuse_another_kind(target, folder=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.parent / f".{target.name}.{uuid.uuid4().hex}.unfinished"
    unfinished.mkdir()
    try:
        yield unfinished
        swap_in(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def swap_in(finished: Path, target: Path) -> None:
    """Put a finished folder in the place of `target`, which may exist; a link is replaced, not followed."""
    _refuse_another_kind(target, folder=True)
    if os.path.lexists(target):
        old = target.parent / f".{target.name}.{uuid.uuid4().hex}.old"
        target.rename(old)
        try:
            finished.rename(target)
        except BaseException:
            old.rename(target)
            raise
        clear(old)
    else:
        finished.rename(target)


def clear(path: Path) -> None:
    """Delete what is at a path, if anything: of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def make_own_folder(path: Path) -> None:
    """Make a folder where there is none, for work in progress: a file or a link in its place is deleted.

    Nothing is written where a link leads.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
    path.mkdir(parents=True, exist_ok=True)


def _refuse_another_kind(target: Path, *, folder: bool) -> None:
    """Raise where a folder is in the place of a file, or a file in that of a folder: it is somebody's."""
    if target.is_symlink() or not target.exists() or target.is_dir() == folder:
        return
    if folder:
        raise NotADirectoryError(errno.ENOTDIR, "this is a file, where a folder is to go; move it away", str(target))
    raise IsADirectoryError(errno.EISDIR, "this is a folder, where a file is to go; move it away", str(target))


@dataclass(frozen=True)
class Workspace:
    """The folder of a stage's outputs, in which it may keep what it is working on.

    What is unfinished stays there when a run is interrupted, and the next run goes on from it.

    Attributes
    ----------
    folder
        Need not exist.
    """

    folder: Path

    def place(self, name: str) -> Path:
        """Return where the finished output of a name lies, if there is one."""
        return self.folder / name

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the folder, and be kept out by them; a run that is killed leaves nothing locked.

        Raises
        ------
        ResultError
            If another run is at work there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ResultError(
                    f"{self.folder}: another run is at work there. Wait until it ends, or give this one another study."
                ) from error
            except OSError:  # a file system without locks: nobody can be kept out
                pass
            yield
        finally:
            os.close(handle)

    def unfinished(self, name: str) -> Path:
        """Return where an output is kept until it is finished; it keeps its suffix."""
        path = Path(name)
        return self.folder / f".{path.stem}.unfinished{path.suffix}"


@dataclass(frozen=True)
class Finished:
    """A file or folder that is complete, and has yet to go to its place.

    Attributes
    ----------
    path
        Where it lies. That may be its place already: it was finished by an earlier run, and is still right.
    """

    path: Path

    def move_to(self, target: Path) -> None:
        """Put it in the place of `target`, which may exist."""
        if self.path.resolve() == target.resolve():
            return
        _refuse_another_kind(target, folder=self.path.is_dir())
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_dir():
            with _same_file_system(self.path, target) as path:
                swap_in(path, target)
        else:
            with _same_file_system(self.path, target) as path:
                path.replace(target)


@contextmanager
def _same_file_system(path: Path, target: Path) -> Iterator[Path]:
    """Give the path, moved beside `target` where it lies in another file system: only renames are atomic."""
    if path.stat().st_dev == target.parent.stat().st_dev:
        yield path
        return
    beside = target.parent / f".{uuid.uuid4().hex}.unfinished{target.suffix}"
    try:
        shutil.move(path, beside)
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        beside.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their names, as hexadecimal digits.

    A file that has not changed since (by size and time) is not read again.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if not path.is_dir():
        found = path.stat()
        return _digest_of_file(path.resolve(), found.st_size, found.st_mtime_ns, found.st_ino)
    whole = hashlib.sha256()
    for file_path in sorted(path.rglob("*")):
        if file_path.is_file():
            # The hash of each file has a fixed length, and no name holds a zero byte: no two folders read the same.
            whole.update(file_path.relative_to(path).as_posix().encode() + b"\0" + digest(file_path).encode())
    return whole.hexdigest()


@functools.lru_cache(maxsize=4096)
def _digest_of_file(path: Path, *state: int) -> str:  # noqa: ARG001 - the state tells files of one name apart
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
