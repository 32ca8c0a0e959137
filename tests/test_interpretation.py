"""Interpretation as users run it: in a notebook, and as pipelines after the attention."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import mlflow
import numpy as np
import pandas as pd
import pytest

from sessions import run_project
from tissue_crosstalk import InterpretationModule, load_model
from tissue_crosstalk.core.ablation import SenderGroups, ablate
from tissue_crosstalk.core.attention import predict
from tissue_crosstalk.core.errors import ParameterError, TissueError
from tissue_crosstalk.core.interactions import with_changed_genes
from tissue_crosstalk.core.model_input import prepare_for_model
from tissue_crosstalk.core.training_settings import TrainingSettings


@pytest.fixture(scope="module")
def known(golden: Path) -> InterpretationModule:
    """The published package's model and tissue."""
    return InterpretationModule.compute(load_model(golden / "checkpoint"), ad.read_h5ad(golden / "tissue.h5ad"))


@pytest.fixture(scope="module")
def published(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "interpretation.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def test_published_answers_by_position(known: InterpretationModule, published: dict[str, np.ndarray]) -> None:
    table = known.ablation(receivers=[str(published["receiver"])])
    one = table[(table["head_idx"] == -1) & (table["sender"] == "T0")]
    np.testing.assert_allclose(one["diff"], published["ablation_all_diff"][0], rtol=1e-5, atol=3e-7)
    first = known.contributions(range(40))
    values = published["contributions_first40"]
    np.testing.assert_allclose(first.to_numpy().reshape(values.shape), values, rtol=1e-5, atol=1e-5)
    embeddings = published["nn_embed_first40"]
    np.testing.assert_allclose(known.neighbor_embeddings(np.arange(40)), embeddings, rtol=1e-5, atol=1e-5)
    found = known.counterfactual(str(published["receiver"]))
    assert found.senders.tolist() == published["cf_neighbor"].tolist()
    explained, by_gene = known.explained_variance()
    of_head = explained[explained["head_idx"] == 1].set_index("receiver")["explained"]
    types = published["explained_variance_types"].tolist()
    np.testing.assert_allclose(of_head[types], published["explained_variance"][1], rtol=1e-5, atol=1e-6)
    assert len(by_gene) == 4 * 4 * 40


def test_positions_are_those_of_the_tissue(known: InterpretationModule, golden: Path) -> None:
    adata = ad.read_h5ad(golden / "tissue.h5ad")
    tissue, neighbors = prepare_for_model(adata, known.model, known.model.keys)
    rows = tissue.in_tissue_order()[[7, 300, 2]]
    predicted = known.predictions([7, 300, 2])
    assert predicted.index.tolist() == adata.obs_names[[7, 300, 2]].tolist()
    np.testing.assert_array_equal(predicted, predict(known.model.network, tissue, neighbors, rows))
    means = known.model.network.ct_profiles.numpy()[tissue.labels[rows]]
    np.testing.assert_allclose(known.residuals([7, 300, 2]), predicted.to_numpy() - means, atol=1e-5)
    masked = known.ablation(sender_cells=[7, 300, 2], by_head=False)
    groups = SenderGroups.of_cells(tissue.n_cells, rows)
    expected = ablate(known.model.network, tissue, neighbors, groups=groups, by_head=False).table()
    assert len(masked) > 0
    pd.testing.assert_frame_equal(masked, expected)


def test_cells_that_are_not_there(known: InterpretationModule) -> None:
    with pytest.raises(ParameterError, match=r"cells must be positions from 0 to 599\. Got '-1', '600' instead"):
        known.predictions([1, -1, 600])
    with pytest.raises(ParameterError, match=r"cells must be positions of cells, a list of whole numbers"):
        known.residuals([1.5])
    with pytest.raises(ParameterError, match=r"rows from 0 to 599"):
        known.ablation(sender_cells=[600])
    with pytest.raises(TissueError, match="adata is needed"):
        InterpretationModule.compute(known.model)


def test_figures_of_a_notebook(known: InterpretationModule) -> None:
    effects = known.effects(n_folds=0)
    interactions = known.interactions(effects, known.ablation(by_head=False))
    figures = [
        known.plot_volcanoes(effects, "T1"),
        known.plot_gene_dots(effects, "T1"),
        *known.plot_interactions(interactions),
        known.plot_length_scales(known.length_scales(), "T1"),
        known.plot_contributions(known.contributions(), 0),
    ]
    assert all(figure.axes for figure in figures)


def test_ligands_and_receptors_in_a_notebook(known: InterpretationModule) -> None:
    interactions = known.interactions(known.effects(n_folds=0), known.ablation(by_head=False))
    genes = known.model.genes
    pairs = pd.DataFrame({"ligand": [genes[0], "unknown"], "receptor": [genes[1], genes[2]]})
    found = known.ligands_and_receptors(pairs, interactions)
    assert len(found) == len(with_changed_genes(interactions)) > 0
    assert set(found["ligand"]) == {genes[0]}


def test_cross_fitted_effects_in_a_notebook(known: InterpretationModule) -> None:
    found = known.effects(n_folds=2, settings=TrainingSettings(max_epochs=1), seed=3, prog_bar=False)
    assert found["held_out"].all()
    assert found["p_value"].between(0, 1).all()
    with pytest.raises(ParameterError, match="n_folds must be 0"):
        known.effects(n_folds=1)


def test_effects_within_blocks_in_a_notebook(known: InterpretationModule) -> None:
    """The size of the blocks arrives where the folds are cut."""
    once = TrainingSettings(max_epochs=1)
    tested = [
        known.effects(n_folds=2, permute_within="block", blocks_per_fold=number, settings=once, prog_bar=False)
        for number in (1, 8)
    ]
    assert not np.allclose(tested[0]["p_value"], tested[1]["p_value"], equal_nan=True)
    with pytest.raises(ParameterError, match="blocks_per_fold"):
        known.effects(blocks_per_fold=0)


@pytest.mark.slow
def test_pipelines_go_on_from_the_attention(demo: Path, tmp_path: Path) -> None:
    """Of a finished demo: tables, figures, metrics, chapters; a second run trains nothing and changes no table."""
    root = tmp_path / "root"
    shutil.copytree(demo, root)
    (root / "mlflow.db").unlink()  # its artifacts lie under the other root
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("ligand,receptor\n" + "".join(f"gene{one:02d},gene{one + 1:02d}\n" for one in range(38)))
    given = {
        "ablation": {"ligand_receptor": str(pairs), "n_folds": 2, "max_q": 0.9},
        "distances": {"n_permutations": 19},
    }
    run_project(root, "demo_interpretation", **given)
    outputs, reports = root / "data/07_model_output/demo", root / "data/08_reporting/demo"
    effects, interactions = (pd.read_parquet(outputs / f"{name}.parquet") for name in ("effects", "interactions"))
    assert effects["held_out"].all()
    assert effects.groupby(["receiver", "sender"], observed=True).ngroups >= 8  # the others have too few receivers
    found = interactions[interactions["n_genes"] + interactions["n_genes_lowered"] > 0]
    assert len(found)
    annotated = pd.read_parquet(outputs / "ligand_receptor.parquet")
    assert set(zip(annotated["receiver"], annotated["sender"], strict=True)) == set(
        zip(found["receiver"], found["sender"], strict=True)
    )
    said = effects.attrs["tissue_crosstalk"]
    assert said["parameters"]["ablation.n_folds"] == 2
    for name in ("ablation", "length_scales", "length_scale_summary", "attention_enrichment", "explained_variance",
                 "explained_variance_by_gene", "contributions"):  # fmt: skip
        assert len(pd.read_parquet(outputs / f"{name}.parquet")), name
    for name in ("interaction_weights", "gene_network", "chord_diagram", "attention_enrichment_dots",
                 "information_flow", "explained_variance_by_head"):  # fmt: skip
        assert (reports / f"{name}.png").stat().st_size > 5000, name
    for name, n_figures in (("volcanoes", 4), ("gene_dots", 4), ("length_scale_distributions", 4),
                            ("contribution_heatmaps", 2)):  # fmt: skip
        assert len(list((reports / name).glob("*.png"))) == n_figures, name
    page = (reports / "report.html").read_text()
    for title in ("Genes that senders change", "Distances, and attention against chance", "Explained variance",
                  "Contributions", "Communication hubs", "Training by epoch"):  # fmt: skip
        assert title in page
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    [experiment] = [one for one in client.search_experiments() if client.search_runs([one.experiment_id])]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["ablation.pairs with changed genes"] == len(found)
    assert any(name.startswith("variance.explained.") for name in run.data.metrics)
    assert json.loads((outputs / "hub_selection.json").read_text())["n_clusters"]

    trained = {path: path.stat().st_mtime_ns for path in (root / "data/06_models/demo/cross_fitted").rglob("*")}
    before = {path.name: pd.read_parquet(path) for path in outputs.glob("*.parquet")}
    run_project(root, "demo_interpretation", **given)
    assert trained == {path: path.stat().st_mtime_ns for path in (root / "data/06_models/demo/cross_fitted").rglob("*")}
    for name, table in before.items():
        pd.testing.assert_frame_equal(pd.read_parquet(outputs / name), table, check_exact=True)
