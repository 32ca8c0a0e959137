"""Files and folders that appear whole or not at all, and what tells them apart.

What is written goes to its very place: a link there is replaced, and what it leads to is neither written nor deleted.
Links above, such as a folder of all data that is on another disk, are followed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import hashlib
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tissue_crosstalk.core.errors import CrosstalkError, OutputError, ResultError

_ID: Final = r"[0-9a-f]{32}"
# Where the new is written, and where the old is kept while the new takes its place.
_UNFINISHED_FILE: Final = re.compile(rf"\.{_ID}\.unfinished(\..+)?")
_UNFINISHED_FOLDER: Final = re.compile(rf"\.(?P<name>.+)\.{_ID}\.unfinished")
_OLD_FOLDER: Final = re.compile(rf"\.(?P<name>.+)\.{_ID}\.old")

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


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
    OutputError
        If there is a folder at `path`, no room, or no permission to write.
    """
    target = Path(path)
    _refuse_another_kind(target, folder=False)
    # In the same folder: only a rename within one file system is atomic.
    unfinished = target.parent / f".{uuid.uuid4().hex}.unfinished{target.suffix}"
    with writing(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty folder beside `path` to fill; it takes the place of `path` when the block succeeds.

    Raises
    ------
    OutputError
        If there is a file at `path`, no room, or no permission to write.
    """
    target = Path(path)
    _refuse_another_kind(target, folder=True)
    unfinished = target.parent / f".{target.name}.{uuid.uuid4().hex}.unfinished"
    with writing(target):
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            swap_in(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Name the target, and what to do, where writing fails for want of room or permission.

    Raises
    ------
    OutputError
        In the place of what the operating system, or a library on its behalf, says.
    """
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        said = disk_advice(error)
        if said is None:
            raise
        raise OutputError(f"{target} cannot be written: {said}") from error


def disk_advice(error: BaseException) -> str | None:
    """Return what is wrong with the disk, and what to do, where an error comes of want of room or of permission.

    Parameters
    ----------
    error
        The operating system's, or that of a library which wrote on our behalf.
    """
    number = _error_number(error)
    if number in _NO_ROOM:
        advice = "Make room on that disk"
    elif number in _FORBIDDEN:
        advice = "Give yourself permission to write there, or name another folder (root, reports)"
    else:
        return None
    return (
        f"{os.strerror(number)}. {advice}, and run it again: what is finished is kept, and what was there before is as "
        "it was."
    )


_SAID: Final = (
    (re.compile(r"\b(?:errno|os error)\b\D{0,3}(\d+)", re.IGNORECASE), None),
    (re.compile("database or disk is full"), errno.ENOSPC),
    (re.compile("attempt to write a readonly database"), errno.EROFS),
)


def _error_number(error: BaseException) -> int | None:
    """Return the number of the operating system's error; libraries that write by themselves put it in words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, CrosstalkError):
        return None
    for words, number in _SAID:
        found = words.search(str(error))
        if found is not None:
            return int(found[1]) if number is None else number
    return None if error.__cause__ is None else _error_number(error.__cause__)


def swap_in(finished: Path, target: Path) -> None:
    """Put a finished folder in the place of `target`, which may exist; a link is replaced, not followed."""
    _refuse_another_kind(target, folder=True)
    if not os.path.lexists(target):
        finished.rename(target)
        return
    if _exchange(finished, target):
        clear(finished)  # which is the old one now
        return
    old = target.parent / f".{target.name}.{uuid.uuid4().hex}.old"
    target.rename(old)  # a process that is killed after this leaves the old one to restore_interrupted
    try:
        finished.rename(target)
    except BaseException:
        old.rename(target)
        raise
    clear(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step, and return whether the system can do that."""
    rename = _renameat2()
    if rename is None:
        return False
    here, at_once = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), at_once) == 0)


@functools.cache
def _renameat2() -> Any:
    """Return the system's function that exchanges paths (Linux; not every file system has it); None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


def restore_interrupted(folder: Path) -> None:
    """Put in order what processes left that were killed while they wrote to a folder.

    What they had not finished is deleted, and a folder that was to be replaced, and is not, is put back. Nobody else
    may be at work there.

    Parameters
    ----------
    folder
        Where results lie; it need not exist. Folders in it are not entered.
    """
    if not folder.is_dir():
        return
    with writing(folder):
        for path in sorted(folder.iterdir()):
            old = _OLD_FOLDER.fullmatch(path.name)
            if old is not None and not os.path.lexists(folder / old["name"]):
                path.rename(folder / old["name"])
            elif old is not None or _UNFINISHED_FOLDER.fullmatch(path.name) or _UNFINISHED_FILE.fullmatch(path.name):
                clear(path)


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
    is_now, to_go = ("file", "folder") if folder else ("folder", "file")
    raise OutputError(f"{target} cannot be written: it is a {is_now}, where a {to_go} is to go. Move it away.")


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
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _same_file_system(self.path, target) as path:
                if path.is_dir():
                    swap_in(path, target)
                else:
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


NOT_READ: Final = ("images", "labels")


def digest_of_tissue(path: Path) -> str:
    """Return the hash of a tissue's file or folder (see :func:`digest`): of SpatialData all but images and labels."""
    if not (path / "tables").is_dir():  # an AnnData store has nothing of that name
        return digest(path)
    whole = hashlib.sha256()
    for part in sorted(path.iterdir()):
        if part.name not in NOT_READ:
            whole.update(part.name.encode() + b"\0" + digest(part).encode())
    return whole.hexdigest()


@functools.lru_cache(maxsize=4096)
def _digest_of_file(path: Path, *state: int) -> str:  # noqa: ARG001 - the state tells files of one name apart
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
