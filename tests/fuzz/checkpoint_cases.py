"""Small models of both formats, and what tests and fuzzer change in them."""

from __future__ import annotations

import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from tissue_crosstalk.core.model import CrosstalkModel, Preprocessing, TissueKeys
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.network_settings import NetworkSettings

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint"
GENES = ("A", "B", "C", "D", "E")
LABELS = ("b cell", "T", "macrophage")
SMALL = NetworkSettings(
    n_heads=2,
    n_head_size=3,
    n_label_embed=4,
    n_query_embed_hidden=6,
    n_query_dim=5,
    n_nn_embed=7,
    n_nn_embed_hidden=9,
    n_kv_dim=8,
    n_pos_coef_mlp_hidden=10,
    attention_dummy_score=2.5,
    pos_coef_offset=-1.5,
    distance_kernel_unit_scale=4.0,
)


def small_network(settings: NetworkSettings = SMALL) -> CrossAttentionNetwork:
    network = CrossAttentionNetwork(len(GENES), len(LABELS), settings, seed=3)
    network.ct_profiles.copy_(torch.arange(15.0).view(3, 5))
    return network


def small_model(**changes: Any) -> CrosstalkModel:
    network = small_network().requires_grad_(False).eval()
    keys = TissueKeys(labels_key="kind", section_key="slide", radius_key="radius")
    model = CrosstalkModel(network, GENES, LABELS, keys, 4, Preprocessing(log_normalised=False, target_sum=1e4))
    return replace(model, **changes)


def amici_contents(network: CrossAttentionNetwork, **model_kwargs: Any) -> dict[str, Any]:
    """Return what amici-st pickles for a network."""
    state = OrderedDict(network.state_dict())
    state["attention_layer.IGNORE"] = torch.tensor(float("-inf"))
    fields: defaultdict[str, Any] = defaultdict(dict)
    fields["labels"]["state_registry"] = {"categorical_mapping": np.array(LABELS, dtype=object)}
    setup = {
        "layer": "lognorm",
        "labels_key": "kind",
        "coord_obsm_key": "X_xy",
        "cell_radius_key": "radius",
        "n_neighbors": 4,
    }
    return {
        "model_state_dict": state,
        "var_names": np.array(GENES, dtype=object),
        "attr_dict": {
            "history_": {"loss": pd.DataFrame({"loss": [1.0, 0.5]})},
            "init_params_": {"kwargs": {"model_kwargs": model_kwargs}, "non_kwargs": {}},
            "registry_": {"setup_args": setup, "field_registries": fields},
            "train_indices_": np.arange(3),
        },
    }


def write_amici(folder: Path, contents: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(contents, folder / "model.pt")
    return folder


def rezip(
    source: Path,
    target: Path,
    changes: Mapping[str, bytes | None],
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write a ``model.pt`` in which entries (by name below the root) are replaced, added or (None) dropped."""
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(source / "model.pt") as old, zipfile.ZipFile(target / "model.pt", "w", compression) as new:
        names = [name.partition("/")[2] for name in old.namelist()]
        for name in dict.fromkeys([*names, *changes]):
            content = changes[name] if name in changes else old.read(f"model/{name}")
            if content is not None:
                new.writestr(f"model/{name}", content)
    return target


def golden_entry(name: str) -> bytes:
    with zipfile.ZipFile(GOLDEN / "model.pt") as archive:
        return archive.read(f"model/{name}")
