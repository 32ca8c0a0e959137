"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    """
    target = Path(path)
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
    """Give an empty folder beside `path` to fill; it takes the place of `path` when the block succeeds."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.parent / f".{target.name}.{uuid.uuid4().hex}.unfinished"
    unfinished.mkdir()
    try:
        yield unfinished
        swap_in(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def swap_in(finished: Path, target: Path) -> None:
    """Put a finished folder in the place of `target`, which may exist."""
    if target.exists():
        old = target.parent / f".{target.name}.{uuid.uuid4().hex}.old"
        target.rename(old)
        try:
            finished.rename(target)
        except BaseException:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        finished.rename(target)
