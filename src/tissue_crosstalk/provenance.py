"""What a result comes from: hashes of files, versions of packages, the project's commit."""

from __future__ import annotations

import hashlib
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


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their names, as hexadecimal digits.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for file_path in sorted(path.rglob("*")):
        if file_path.is_file():
            # The hash of each file has a fixed length, and no name holds a zero byte: no two folders read the same.
            whole.update(file_path.relative_to(path).as_posix().encode() + b"\0" + digest(file_path).encode())
    return whole.hexdigest()


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
