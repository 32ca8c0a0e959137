"""Do the statistics of interpretation hold? On tissues in which nothing was planted, and on others.

    python tests/benchmarks/calibration.py [--null 20] [--planted 5] [--jobs 2]

Tissues of the demo's size (3,000 cells, 120 genes, 6 types) and its network; every tissue takes six trainings. Without
an interaction, the share of tests with p < 0.05 is 5 % where they are calibrated, and of 20 tissues 19 have no pair
with q < 0.05. With three, said are average precision and ROC AUC of the planted genes among those of their pair, ranked
by the z-score of the calibrated test with the sign of the predicted change; the same by the published z; and the length
scale of the head that helps most to predict the pair, against the planted radius.
"""

from __future__ import annotations

import argparse
import logging
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch

from tissue_crosstalk.core.ablation import ALL_HEADS, ablate
from tissue_crosstalk.core.attention_null import attention_enrichment
from tissue_crosstalk.core.cross_fitting import cross_fit, cut_folds
from tissue_crosstalk.core.effects import measure_effects
from tissue_crosstalk.core.interpretation_settings import DistanceSettings, EffectSettings, NullSettings
from tissue_crosstalk.core.length_scales import length_scales
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.model_input import from_anndata, prepare_for_training
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.recovery import rank_recovery
from tissue_crosstalk.core.simulation import SimulationSettings, simulate_tissue
from tissue_crosstalk.core.training import train_model
from tissue_crosstalk.core.training_settings import TrainingSettings

NETWORK = NetworkSettings(
    n_heads=4, n_head_size=8, n_query_embed_hidden=64, n_query_dim=32, n_nn_embed=64, n_nn_embed_hidden=128,
    n_kv_dim=64, n_pos_coef_mlp_hidden=64,
)  # fmt: skip
TRAINING = TrainingSettings(max_epochs=60, patience=60, adam_eps=1e-8)


def say(text: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{text}\n")


def interpret(seed: int, n_interactions: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return what was measured of one simulated tissue, and of each of its planted interactions."""
    torch.set_num_threads(1)
    logging.getLogger("tissue_crosstalk").setLevel(logging.ERROR)
    adata, truth = simulate_tissue(SimulationSettings(n_interactions=n_interactions), seed=seed)
    tissue, neighbors = from_anndata(prepare_for_training(adata, TissueKeys(), log_normalised=False, n_neighbors=20))
    folds = cut_folds(tissue.coordinates, tissue.sections, n_folds=5, seed=seed)
    models = cross_fit(tissue, neighbors, folds, NETWORK, TRAINING, seed=seed, progress=False)
    effects = measure_effects(models, tissue, neighbors, folds, EffectSettings())
    model, _ = train_model(tissue, neighbors, NETWORK, TRAINING, seed=seed, progress=False)
    ablation = ablate(model.network, tissue, neighbors)
    table = ablation.table()
    whole = table[table["head_idx"] == ALL_HEADS]
    enrichment = attention_enrichment(model.network, tissue, neighbors, NullSettings(n_permutations=199))
    by_expression = enrichment[enrichment["shuffled"] == "expression"]
    p_values = effects["p_value"].dropna()
    measured = {
        "seed": seed,
        "tests": len(p_values),
        "p < 0.05": float((p_values < 0.05).mean()),
        "q < 0.05": int((effects["q_value"] < 0.05).sum()),
        "pairs": _pairs(effects[effects["q_value"] < 0.05]),
        "published p < 0.05": float((whole["p_value"] < 0.05).mean()),
        "published q < 0.05": int((whole["q_value"] < 0.05).sum()),
        "published pairs": _pairs(whole[(whole["q_value"] < 0.05) & (whole["diff"] > 0)]),
        "attention q < 0.05": int((by_expression["q_value"] < 0.05).sum()),
    }
    if not truth:
        return measured, []
    scales = length_scales(model.network, tissue, neighbors, DistanceSettings(n_resamples=99)).summary
    found = []
    for one in truth:
        receiver, sender = tissue.cell_types.index(one.receiver), tissue.cell_types.index(one.sender)
        of_pair = effects[(effects["receiver"] == one.receiver) & (effects["sender"] == one.sender)]
        planted = of_pair["gene"].isin(one.genes).to_numpy()
        score = (np.sign(of_pair["diff"]) * of_pair["z_score"]).fillna(-np.inf).to_numpy()
        mine = rank_recovery(np.maximum(score, -1e9), planted)
        published = rank_recovery(ablation.z_value[0, receiver, sender], planted)
        head = int(np.argmax(ablation.ablation[1:, receiver, sender].clip(0).sum(axis=1)))
        scale = scales[
            (scales["receiver"] == one.receiver) & (scales["sender"] == one.sender) & (scales["head_idx"] == head)
        ].iloc[0]
        significant = of_pair["q_value"].to_numpy() < 0.05
        found.append(
            {
                "seed": seed,
                "interaction": f"{one.sender} to {one.receiver}",
                "AP": mine.average_precision,
                "AUC": mine.roc_auc,
                "published AP": published.average_precision,
                "genes found": f"{int((significant & planted).sum())} of {int(planted.sum())}",
                "radius": one.length_scale,
                "length scale": float(scale["median"]),
                "interval": f"{scale['median_low']:.1f}-{scale['median_high']:.1f}",
                "ratio": float(scale["median"]) / one.length_scale,
                "supported": bool(scale["supported"]),
            }
        )
    return measured, found


def _pairs(rows: pd.DataFrame) -> int:
    return rows.groupby(["receiver", "sender"], observed=True).ngroups


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--null", type=int, default=20)
    parser.add_argument("--planted", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    pd.set_option("display.width", 200, "display.max_columns", 30, "display.precision", 3)
    with ProcessPoolExecutor(given.jobs) as processes:
        null = [processes.submit(interpret, seed, 0) for seed in range(given.null)]
        planted = [processes.submit(interpret, seed, 3) for seed in range(given.planted)]
        if null:
            table = pd.DataFrame([one.result()[0] for one in null])
            say(f"Nothing planted\n{table.to_string(index=False)}")
            n = table["tests"].sum()
            share = (table["p < 0.05"] * table["tests"]).sum() / n
            say(f"p < 0.05: {share:.2%} of {n:,} tests (5 % ± {1.96 * np.sqrt(0.05 * 0.95 / n):.2%})")
            say(f"tissues without a pair at q < 0.05: {(table['pairs'] == 0).sum()} of {len(table)}")
            say(f"published: {(table['published pairs'] == 0).sum()} of {len(table)}\n")
        if planted:
            results = [one.result() for one in planted]
            say(f"Planted\n{pd.DataFrame([one[0] for one in results]).to_string(index=False)}")
            say(pd.DataFrame([row for one in results for row in one[1]]).to_string(index=False))


if __name__ == "__main__":
    main()
