"""What is learned: patches against random batches, blocks against random cells held out, seeds and sizes of the tissue.

``python tests/benchmarks/learning.py`` trains the demo's network on simulated tissues until its validation stops
improving, with either kind of batches on the same cells, and compares them in pairs. With ``--patch-sizes 128 --epochs
60 --patience 60`` and other ``--cells`` it tells what the demo finds in other tissues. The demo's own is seed 42.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.neighbors import find_neighbors
from tissue_crosstalk.core.recovery import measure_recovery
from tissue_crosstalk.core.simulation import SimulationSettings, simulate_tissue
from tissue_crosstalk.core.tissue import prepare_tissue
from tissue_crosstalk.core.training import train_model
from tissue_crosstalk.params import TrainingParams

PARAMETERS = Path(__file__).resolve().parents[2] / "conf" / "base" / "parameters_simulation.yml"
N_NEIGHBORS = 20  # of the demo
COLUMNS = {
    "best_epoch": "epoch",
    "blocks": "blocks",
    "cells": "cells",
    "explained": "explained",
    "edges": "edges AP",
    "lift": "x base",
    "receivers": "receivers AUC",
    "genes": "genes AP",
}


def demo_training() -> TrainingParams:
    """Return the training of the demo, of which the defaults are those of every training."""
    return TrainingParams(**yaml.safe_load(PARAMETERS.read_text())["demo"]["training"])


def measure(n_cells: int, seed: int, params: TrainingParams) -> dict[str, Any]:
    """Train on one simulated tissue, and say what was learned."""
    adata, interactions = simulate_tissue(SimulationSettings(n_cells=n_cells), seed=seed)
    tissue = prepare_tissue(adata, TissueKeys(), log_normalised=False)
    neighbors = find_neighbors(tissue, N_NEIGHBORS)
    model, history = train_model(tissue, neighbors, params.network, params, seed=seed)
    best = history.loc[history["validation_reconstruction"].idxmin()]
    kinds = dict.fromkeys(("blocks", "cells"), math.nan)
    deciding = "cells" if params.validation_split == "cells" else "blocks"
    kinds[deciding] = history["validation_reconstruction"].min()
    if params.validation_split == "both":
        kinds["cells"] = history["validation_cells_reconstruction"].min()
    recovery = measure_recovery(model, tissue, neighbors, interactions)
    of = recovery.set_index("what")
    edges = recovery[(recovery["what"] == "sender edges") & (recovery["name"] == "vanilla")].iloc[0]
    return {
        "tissue": n_cells,
        "seed": seed,
        "patch_size": params.patch_size,
        "best_epoch": int(best["epoch"]),
        **kinds,
        "explained": best["validation_explained"],
        "edges": edges["average_precision"],
        "lift": edges["lift"],
        "receivers": float(of.loc["affected receivers", "roc_auc"]),
        "genes": float(of.loc["shifted genes", "average_precision"].mean()),
    }


def compared(table: pd.DataFrame, one: int, other: int) -> list[str]:
    """Return what patches of `one` cells differ by from those of `other`, tissue by tissue, mean and standard error."""
    lines = []
    for column in ("blocks", "cells", "edges", "receivers", "genes"):
        by = table.pivot_table(index=["tissue", "seed"], columns="patch_size", values=column)
        differences = list(by[one] - by[other])
        error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
        lines.append(
            f"  {COLUMNS[column]:14} {statistics.mean(differences):+.4f} +- {error:.4f} "
            f"({', '.join(f'{difference:+.4f}' for difference in differences)})"
        )
    return lines


def main() -> None:
    """Train, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[3000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--patch-sizes", type=int, nargs="+", default=[TrainingParams.patch_size, 1])
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--patience", type=int, default=20)
    parser.add_argument("--split", default="both")
    given = parser.parse_args()
    params = replace(demo_training(), max_epochs=given.epochs, patience=given.patience, validation_split=given.split)
    rows = []
    for n_cells in given.cells:
        for seed in given.seeds:
            for patch_size in given.patch_sizes:
                rows.append(measure(n_cells, seed, replace(params, patch_size=patch_size)))
                sys.stdout.write(f"{pd.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1)}\n")
                sys.stdout.flush()
    table = pd.DataFrame(rows)
    sys.stdout.write(f"\n{table.rename(columns=COLUMNS).round(4).to_string(index=False)}\n")
    if len(given.patch_sizes) > 1:
        one, other = given.patch_sizes[:2]
        sys.stdout.write(f"patches of {one} less patches of {other} (blocks, cells: less is better):\n")
        sys.stdout.write("\n".join(compared(table, one, other)) + "\n")


if __name__ == "__main__":
    main()
