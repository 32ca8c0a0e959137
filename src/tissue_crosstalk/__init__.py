"""Who in a tissue is talking to whom: attention patterns, communication hubs and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tissue_crosstalk.api import AttentionModule, train_model
    from tissue_crosstalk.core.checkpoint import load_model, save_model
    from tissue_crosstalk.core.tissue_file import read_tissue
    from tissue_crosstalk.interpretation import InterpretationModule

__all__ = ["AttentionModule", "InterpretationModule", "load_model", "read_tissue", "save_model", "train_model"]

_HOMES = {
    "AttentionModule": "tissue_crosstalk.api",
    "InterpretationModule": "tissue_crosstalk.interpretation",
    "train_model": "tissue_crosstalk.api",
    "load_model": "tissue_crosstalk.core.checkpoint",
    "read_tissue": "tissue_crosstalk.core.tissue_file",
    "save_model": "tissue_crosstalk.core.checkpoint",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: torch is slow to import, and the command line seldom needs it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
