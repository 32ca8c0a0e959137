"""Names of columns, keys, files and flavors, each written once.

Axes are named the same way everywhere: ``cell`` (a receiver, or "index cell"), ``head``, ``neighbor`` (a slot,
nearest first), ``sender`` (a cell at the key side), ``label`` (a cell type), ``gene``.
"""

from __future__ import annotations

from typing import Final

# Columns of the attention, neighbor and hub tables.
CELL_IDX: Final = "cell_idx"
HEAD_IDX: Final = "head_idx"
LABEL: Final = "label"
NEIGHBOR_PREFIX: Final = "neighbor_"
HUB_CLUSTER: Final = "hub_cluster"
FLAVOR: Final = "flavor"
POSITION: Final = "position"
SECTION: Final = "section"
COORDINATES: Final = ("x", "y", "z")

# Columns of the tables of interactions.
RECEIVER: Final = "receiver"
SENDER: Final = "sender"
GENE: Final = "gene"

# Columns of the table of sender norms (see flavors.py).
VALUE_NORM: Final = "value_norm"
INFO_NORM: Final = "info_norm"
GENE_NORM: Final = "gene_norm"
NORMS: Final = (VALUE_NORM, INFO_NORM, GENE_NORM)

# Flavors of attention.
VANILLA: Final = "vanilla"
VALUE_WEIGHTED: Final = "value-weighted"
INFO_WEIGHTED: Final = "info-weighted"
GENE_WEIGHTED: Final = "gene-weighted"

# The parquet folders that hold one computed attention, side by side.
ATTENTION_PATTERNS: Final = "attention_patterns"
NN_IDXS: Final = "nn_idxs"
NN_DISTS: Final = "nn_dists"
SENDER_NORMS: Final = "sender_norms"
CELLS: Final = "cells"

# Keys of AnnData objects that the pipelines write.
SPATIAL: Final = "spatial"
MODEL_INPUT_KEY: Final = "tissue_crosstalk"
PROVENANCE_KEY: Final = "tissue_crosstalk"
OBSM_NN_IDX: Final = "nn_idx"
OBSM_NN_DIST: Final = "nn_dist"
OBSM_HUB_COMPOSITION: Final = "hub_composition"
OBSP_ATTENTION: Final = "attention"

# Where no setting says otherwise.
DEFAULT_LABELS_KEY: Final = "cell_type"
DEFAULT_N_NEIGHBORS: Final = 30

# What a user calls a key that a tissue does not have, where the usual one has a value.
UNSET: Final = "none"

# A neighbor slot that holds no cell (padding).
NO_NEIGHBOR: Final = -1


def neighbor_columns(n_neighbors: int) -> list[str]:
    """Return ``["neighbor_0", ..., "neighbor_{n_neighbors - 1}"]``."""
    return [f"{NEIGHBOR_PREFIX}{slot}" for slot in range(n_neighbors)]
