"""What a result was made from, as one hash: where it is the same, the result is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tissue_crosstalk import __version__
from tissue_crosstalk.core.files import digest


def fingerprint_of(what: str, described: Mapping[str, Any], *files: Path | None) -> str | None:
    """Return the hash of all that decides what a result comes to.

    Parameters
    ----------
    what
        Kind of result, and version of its format.
    described
        Parameters, as JSON takes them.
    files
        Files and folders that it is made from, by content; None for one that is in memory.

    Returns
    -------
    str
        Hexadecimal digits. None where something is in memory: nothing tells it apart.
    """
    if any(file is None for file in files):
        return None
    contents = [digest(file) for file in files if file is not None]
    text = json.dumps([what, __version__, dict(described), contents], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
