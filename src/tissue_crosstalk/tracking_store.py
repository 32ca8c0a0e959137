"""A new MLflow store in a file appears whole or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from tissue_crosstalk.core.files import writing

SQLITE = "sqlite:///"


def make_store(uri: str) -> None:
    """Make the database of an MLflow store in a file of SQLite, unless it is there.

    MLflow makes it table by table, in some hundred steps, in its place: a process that is killed meanwhile leaves one
    with which no later run can do anything.

    Parameters
    ----------
    uri
        MLflow's tracking URI; one of another kind is left alone.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    path = Path(uri.removeprefix(SQLITE)).absolute()
    # What follows a question mark is for the driver; a store in memory is no file.
    if not uri.startswith(SQLITE) or "?" in uri or path.name in ("", ":memory:") or path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    unfinished = path.parent / f".{uuid.uuid4().hex}.unfinished{path.suffix}"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            store: Any = SqlAlchemyStore(  # type: ignore[no-untyped-call]  # MLflow has no types there
                f"{SQLITE}{unfinished}", (path.parent / "mlruns").as_uri()
            )
            store.engine.dispose()
            with suppress(FileExistsError):  # another run has made one meanwhile
                _move(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def _move(finished: Path, target: Path) -> None:
    """Give a file another name; raise FileExistsError where somebody has it."""
    try:
        os.link(finished, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        finished.rename(target)
