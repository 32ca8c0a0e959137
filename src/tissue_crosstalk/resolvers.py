"""Functions that the files in conf can call, as ``${name:argument}``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tissue_crosstalk.params import demo_study, user_study

PROJECT_PATH = Path(__file__).resolve().parents[2]

# Read once, when the project is loaded: mlflow itself sets this variable for whatever store a session opens, and the
# next session in the same process must not take that for the team's server.
TEAM_SERVER = os.environ.get("MLFLOW_TRACKING_URI")


def first_given(*values: Any) -> Any:
    """Return the first value that is not null."""
    return next((value for value in values if value is not None), None)


def folder_in(root: str, folder: str) -> str:
    """Return a folder's path: in `root`, unless it is absolute.

    >>> folder_in(".", "data/08_reporting"), folder_in(".", "/srv/reports")
    ('data/08_reporting', '/srv/reports')
    """
    return (Path(str(root)) / str(folder)).as_posix()  # a name may be a number to the command line


def tracking_uri(root: str) -> str:
    """Return MLflow's store: the team's server where ``MLFLOW_TRACKING_URI`` names one, else a file in the project.

    A relative sqlite path would follow the working directory, so this one is absolute.
    """
    return TEAM_SERVER or f"sqlite:///{(PROJECT_PATH / str(root)).resolve().as_posix()}/mlflow.db"


def artifact_location(root: str) -> str | None:
    """Return where a store in the project keeps its artifacts; a server knows its own place (null)."""
    return None if TEAM_SERVER else (PROJECT_PATH / str(root) / "mlruns").resolve().as_uri()


RESOLVERS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "first_given": first_given,
        "folder_in": folder_in,
        "user_study": user_study,
        "demo_study": demo_study,
        "tracking_uri": tracking_uri,
        "artifact_location": artifact_location,
    }
)
