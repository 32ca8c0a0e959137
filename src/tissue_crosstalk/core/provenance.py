"""What a result comes from: tissue and model by hash, parameters, versions of packages, the project's commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "tissue-crosstalk",
    "anndata",
    "kedro",
    "kedro-datasets",
    "kedro-mlflow",
    "matplotlib",
    "mlflow",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "torch",
)
"""Packages whose versions a report names."""

_SECONDS_FOR_GIT = 10


def git_commit(project: Path) -> str | None:
    """Return the commit of a project's files, with ``-dirty`` where some differ from it; None without git."""
    command = ["git", "-C", str(project), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_FOR_GIT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of :data:`PACKAGES`."""
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a folder, not installed
            versions[package] = "unknown"
    return versions
