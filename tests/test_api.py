"""AttentionModule, as a notebook uses it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from tissue_crosstalk import AttentionModule, load_model, train_model
from tissue_crosstalk.core.errors import CrosstalkError, NeighborError, ParameterError, ResultError, TissueError
from tissue_crosstalk.core.model import CrosstalkModel
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.training_settings import TrainingSettings

FLAVORS = ("vanilla", "value-weighted", "info-weighted", "gene-weighted")
TINY = NetworkSettings(
    n_heads=2,
    n_head_size=4,
    n_label_embed=4,
    n_query_embed_hidden=8,
    n_query_dim=4,
    n_nn_embed=8,
    n_nn_embed_hidden=8,
    n_kv_dim=8,
    n_pos_coef_mlp_hidden=8,
)


@pytest.fixture(scope="module")
def model(golden: Path) -> CrosstalkModel:
    return load_model(golden / "checkpoint")


@pytest.fixture(scope="module")
def adata(golden: Path) -> AnnData:
    return anndata.read_h5ad(golden / "tissue.h5ad")


@pytest.fixture(scope="module")
def module(model: CrosstalkModel, adata: AnnData) -> AttentionModule:
    return AttentionModule.compute(model, adata)


def slots(table: pd.DataFrame) -> np.ndarray:
    return table.filter(like="neighbor_").to_numpy()


@pytest.mark.parametrize("flavor", FLAVORS)
def test_attention_is_that_of_the_published_package(module: AttentionModule, golden: Path, flavor: str) -> None:
    expected = np.load(golden / "expected.npz")[flavor.replace("-", "_")]
    table = module.with_flavor(flavor).attention_patterns
    np.testing.assert_allclose(slots(table).reshape(expected.shape), expected, rtol=1e-5)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_computing_in_a_flavor_equals_changing_to_it(
    model: CrosstalkModel, adata: AnnData, module: AttentionModule, flavor: str
) -> None:
    computed = AttentionModule.compute(model, adata, flavor=flavor)
    assert computed.flavor == flavor
    pd.testing.assert_frame_equal(computed.attention_patterns, module.with_flavor(flavor).attention_patterns)


def test_tables_are_by_head_then_by_cell_and_name_the_neighbors(
    module: AttentionModule, adata: AnnData, golden: Path
) -> None:
    expected = np.load(golden / "expected.npz")
    table = module.attention_patterns
    assert list(table.columns) == [*[f"neighbor_{i}" for i in range(12)], "head_idx", "label", "cell_idx"]
    assert table["head_idx"].tolist() == np.repeat([0, 1, 2], 600).tolist()
    assert table["cell_idx"].tolist() == list(adata.obs_names) * 3
    assert table["label"].tolist() == adata.obs["cell_type"].tolist() * 3
    assert (module.nn_idxs.index == adata.obs_names).all()
    assert (module.nn_idxs.to_numpy() == adata.obs_names.to_numpy()[expected["nn_idx"]]).all()
    np.testing.assert_allclose(module.nn_dists, expected["nn_dist"], rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_indices_keep_their_order_for_any_batch_size(
    model: CrosstalkModel, adata: AnnData, module: AttentionModule, batch_size: int
) -> None:
    indices = [599, 3, 42, 4]
    some = AttentionModule.compute(model, adata, indices, batch_size)
    assert some.attention_patterns["cell_idx"].tolist() == [f"cell_{index}" for index in indices] * 3
    for flavor in FLAVORS:
        np.testing.assert_allclose(
            some.with_flavor(flavor).attention, module.with_flavor(flavor).attention[:, indices], rtol=1e-6
        )
    pd.testing.assert_frame_equal(some.nn_idxs, module.nn_idxs.iloc[indices])


def test_indices_can_be_a_mask(model: CrosstalkModel, adata: AnnData) -> None:
    some = AttentionModule.compute(model, adata, (adata.obs["cell_type"] == "T3").to_numpy())
    assert set(some.attention_patterns["label"]) == {"T3"}
    assert len(some.nn_idxs) == 108


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 600], r"indices must be in \[0, 600\). Got 0 to 600"),
        ([-1], r"indices must be in \[0, 600\)"),
        ([1, 1], "indices must be unique"),
        ([], "at least one"),
        (["cell_1"], r"get_indexer\(names\)"),
        (np.array([True]), r"as a mask must be of shape \(600,\)"),
    ],
)
def test_wrong_indices(model: CrosstalkModel, adata: AnnData, indices: list[int], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        AttentionModule.compute(model, adata, indices)


def test_errors_say_what_to_do(model: CrosstalkModel, adata: AnnData) -> None:
    with pytest.raises(TissueError, match="does not hold the tissue that it was trained on. Pass the tissue as adata="):
        AttentionModule.compute(model)
    with pytest.raises(ParameterError, match=r"unknown flavor 'gene_weighted'. Did you mean 'gene-weighted'\?"):
        AttentionModule.compute(model, adata, flavor="gene_weighted")
    with pytest.raises(ParameterError, match="batch_size must be at least 1"):
        AttentionModule.compute(model, adata, batch_size=0)
    with pytest.raises(TissueError, match="lacks 1 of the model's 40 genes: 'Gene7'"):
        AttentionModule.compute(model, adata[:, adata.var_names != "Gene7"])
    few = adata[np.union1d(np.arange(5), np.flatnonzero(adata.obs["cell_type"] == "T0")[:30])].copy()
    with pytest.raises(NeighborError, match="needs at least n_neighbors = 12"):
        AttentionModule.compute(model, few)


def test_input_is_not_changed(model: CrosstalkModel, adata: AnnData) -> None:
    before = adata.copy()
    AttentionModule.compute(model, adata).plot_attention_summary(show=False, max_distance=60)
    assert (adata.X != before.X).sum() == 0
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert adata.uns.keys() == before.uns.keys()
    assert adata.obsm.keys() == before.obsm.keys()


def test_genes_are_matched_by_name(model: CrosstalkModel, adata: AnnData, module: AttentionModule) -> None:
    shuffled = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    np.testing.assert_array_equal(AttentionModule.compute(model, shuffled).attention, module.attention)


def test_save_and_load(model: CrosstalkModel, adata: AnnData, tmp_path: Path) -> None:
    some = AttentionModule.compute(model, adata, [10, 2, 300], flavor="info-weighted")
    some.save(tmp_path / "attention")
    some.save(tmp_path / "attention")  # its own folder may be replaced
    loaded = AttentionModule.load(tmp_path / "attention")
    assert loaded.flavor == "info-weighted"
    pd.testing.assert_frame_equal(loaded.attention_patterns, some.attention_patterns)
    pd.testing.assert_frame_equal(loaded.nn_idxs, some.nn_idxs)
    pd.testing.assert_frame_equal(loaded.nn_dists, some.nn_dists)
    for flavor in FLAVORS:
        np.testing.assert_array_equal(loaded.with_flavor(flavor).attention, some.with_flavor(flavor).attention)


def test_csv_holds_the_wide_table(module: AttentionModule, tmp_path: Path) -> None:
    module.save(tmp_path / "wide.csv")
    table = pd.read_csv(tmp_path / "wide.csv")
    assert list(table.columns) == list(module.attention_patterns.columns)
    np.testing.assert_allclose(slots(table), slots(module.attention_patterns), rtol=1e-6)
    with pytest.raises(ResultError, match="holds the wide table alone"):
        AttentionModule.load(tmp_path / "wide.csv")


def test_save_overwrites_nothing_of_the_users(module: AttentionModule, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ResultError, match="is not a folder that AttentionModule.save wrote; it stays as it is"):
        module.save(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_load_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="Missing: attention_patterns, nn_idxs, nn_dists, sender_norms, cells"):
        AttentionModule.load(tmp_path)


def test_hubs_count_edges_or_as_the_released_package_does(module: AttentionModule, golden: Path) -> None:
    expected = np.load(golden / "expected.npz")
    released = module.compute_communication_hubs(counting="in_degree")
    np.testing.assert_allclose(released[list(expected["hub_types"])], expected["hub_in_degree_composition"], rtol=1e-5)
    hubs = module.compute_communication_hubs(n_clusters=5)
    assert hubs.index.tolist() == module.nn_idxs.index.tolist()
    assert list(hubs.columns) == ["T0", "T1", "T2", "T3", "hub_cluster"]
    assert hubs["hub_cluster"].value_counts().sort_index().drop(-1, errors="ignore").is_monotonic_decreasing
    assert ((hubs.drop(columns="hub_cluster").to_numpy() != released.drop(columns="hub_cluster")).any(axis=1)).any()


def test_isolated_cells_and_stability(module: AttentionModule) -> None:
    separate = module.compute_communication_hubs(n_clusters=4)
    isolated = (separate.drop(columns="hub_cluster") == 0).all(axis=1)
    assert ((separate["hub_cluster"] == -1) == isolated).all()
    assert isolated.any()
    clustered = module.compute_communication_hubs(n_clusters=4, isolated="cluster")
    assert sorted(clustered["hub_cluster"].unique()) == [0, 1, 2, 3]
    assert clustered.loc[isolated, "hub_cluster"].nunique() == 1
    found = module.find_communication_hubs(n_clusters=4, stability_resamples=2)
    assert (found.cluster == separate["hub_cluster"]).all()
    assert (found.stability["varied"] == "cells").sum() == 2
    assert np.isfinite(found.counts.mean_distance).all()


def test_summary_has_a_figure_per_receiver_and_saves_it(module: AttentionModule, tmp_path: Path) -> None:
    figures = module.with_flavor("value-weighted").plot_attention_summary(
        ["T1", "T0"],
        sel_head=1,
        plot_histogram=True,
        palette={"T0": "red", "T1": "green", "T2": "blue", "T3": "black"},
        max_distance=60,
        min_bin_count=20,
        show=False,
        save_png=True,
        save_svg=True,
        save_dir=tmp_path / "made" / "here",
    )
    assert list(figures) == ["T1", "T0"]
    assert {file.name for file in (tmp_path / "made" / "here").iterdir()} == {
        f"value-weighted_{receiver}_head1{suffix}" for receiver in ("T0", "T1") for suffix in (".png", ".svg")
    }
    assert list(module.plot_attention_summary("T2", show=False)) == ["T2"]
    with pytest.raises(ParameterError, match=r"there is no receiver type 't1'. Did you mean 'T1'\?"):
        module.plot_attention_summary("t1", show=False)
    with pytest.raises(ParameterError, match="sel_head"):
        module.plot_attention_summary(sel_head=3, show=False)


def test_colors_of_the_tissue_are_used(model: CrosstalkModel, adata: AnnData) -> None:
    colored = adata.copy()
    colored.uns["cell_type_colors"] = ["#111111", "#222222", "#333333", "#444444"]
    module = AttentionModule.compute(model, colored)
    [figure] = module.plot_attention_summary("T0", show=False, max_distance=60, min_bin_count=10).values()
    from matplotlib.colors import to_hex

    drawn = {to_hex(line.get_color()) for axes in figure.axes for line in axes.lines}
    assert {"#222222", "#333333", "#444444"} <= drawn


def test_model_trained_in_this_process_knows_its_tissue(awkward_tissue: Path) -> None:
    from tissue_crosstalk.core.model import TissueKeys

    adata = anndata.read_h5ad(awkward_tissue)
    keys = TissueKeys(labels_key="kind", coord_key="xy", section_key="slide")
    model = train_model(
        adata, keys, n_neighbors=6, network=TINY, settings=TrainingSettings(max_epochs=2), prog_bar=False
    )
    module = AttentionModule.compute(model)
    assert module.attention.shape == (2, 240, 6)
    again = AttentionModule.compute(dataclasses.replace(model, tissue=None), adata)
    np.testing.assert_array_equal(again.attention, module.attention)


def test_counts_are_normalised_once(awkward_tissue: Path) -> None:
    import scanpy as sc

    from tissue_crosstalk.core.model import TissueKeys

    adata = anndata.read_h5ad(awkward_tissue)
    keys = TissueKeys(labels_key="kind", coord_key="xy")
    model = train_model(adata, keys, n_neighbors=4, network=TINY, settings=TrainingSettings(max_epochs=1))
    logged = adata.copy()
    sc.pp.normalize_total(logged)
    sc.pp.log1p(logged)
    with pytest.raises(TissueError, match="it seems to be normalised already. Set log_normalised=true"):
        AttentionModule.compute(model, logged)
    taken_as_it_is = AttentionModule.compute(model, logged, log_normalised=True)
    np.testing.assert_allclose(taken_as_it_is.attention, AttentionModule.compute(model).attention, rtol=1e-4)


def test_every_error_is_of_one_family() -> None:
    assert all(issubclass(kind, CrosstalkError) for kind in (NeighborError, ParameterError, ResultError, TissueError))


def test_padding_is_possible_where_the_error_says_so(model: CrosstalkModel, adata: AnnData) -> None:
    few = adata[np.union1d(np.arange(8), np.flatnonzero(adata.obs["cell_type"] == "T0")[:30])].copy()
    padded = AttentionModule.compute(model, few, pad_neighbors=True)
    empty = padded.nn_idxs.isna().to_numpy()
    assert empty.any()
    for flavor in FLAVORS:
        assert (padded.with_flavor(flavor).attention[:, empty] == 0).all()
    some = AttentionModule.compute(model, few, [0], pad_neighbors=True, flavor="gene-weighted")
    assert np.isfinite(some.attention).all()


def test_pairs_equal_those_of_the_pipeline(demo: Path) -> None:
    module = AttentionModule.load(demo / "data/07_model_output/demo")
    stored = pd.read_parquet(demo / "data/08_reporting/demo/attention_by_pair.parquet")
    for flavor in ("vanilla", "gene-weighted"):
        expected = stored[stored["flavor"] == flavor].drop(columns="flavor").reset_index(drop=True)
        pairs = module.with_flavor(flavor).attention_by_pair()
        pd.testing.assert_frame_equal(pairs, expected.astype({"receiver": object, "sender": object}), rtol=1e-6)
    with pytest.raises(ParameterError, match="attention_quantile_threshold must be at least 0 and below 1"):
        module.attention_by_pair(1.0)


def test_pairs_are_drawn(module: AttentionModule) -> None:
    palette = {"T0": "red", "T1": "green", "T2": "blue", "T3": "black"}
    matrix = module.with_flavor("gene-weighted").plot_attention_matrix(palette=palette, show=False)
    assert "gene-weighted" in matrix.texts[0].get_text()
    network = module.plot_interaction_network(0.8, palette=palette, show=False)
    assert any("at least 40 %" in text.get_text() for text in network.texts)
    chosen = module.plot_interaction_network(threshold=0.25, show=False)
    assert any("at least 25 %" in text.get_text() for text in chosen.texts)


def test_one_cell_is_drawn(model: CrosstalkModel, adata: AnnData) -> None:
    """By name or by position in the tissue, with the attention of its own row."""
    from matplotlib.collections import LineCollection

    some = AttentionModule.compute(model, adata, [10, 2, 300], flavor="value-weighted")
    name = adata.obs_names[2]
    figure: Any = some.plot_attention_of_cell(name, sel_head=1, distance_unit="µm", show=False)
    (axes,) = figure.axes
    (lines,) = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
    starts, ends = np.asarray(lines.get_segments()).transpose(1, 0, 2)
    assert (starts == adata.obsm["spatial"][2]).all()
    table = some.attention_patterns
    row = slots(table[(table["cell_idx"] == name) & (table["head_idx"] == 1)])[0]
    order = np.argsort(-row, kind="stable")
    neighbors = adata.obs_names.get_indexer(some.nn_idxs.loc[name].to_numpy()[order])
    np.testing.assert_array_equal(ends, adata.obsm["spatial"][neighbors])
    widths = np.asarray(lines.get_linewidths())
    np.testing.assert_allclose(widths, np.maximum(widths[0] * row[order] / row.max(), widths.min()), rtol=1e-5)
    assert (
        f"Attention of {name}, which is {adata.obs['cell_type'].iloc[2]} (value-weighted)" in figure.texts[0].get_text()
    )
    by_position: Any = some.plot_attention_of_cell(2, show=False)
    assert len(by_position.axes) == len(table["head_idx"].unique())
    assert by_position.texts[0].get_text() == figure.texts[0].get_text()


@pytest.mark.parametrize(
    ("cell", "sel_head", "message"),
    [
        ("nobody", None, "there is no cell 'nobody' in this tissue. The first of its 600 cells is"),
        (3, None, "attention of cell 3 was not computed: it is none of the 2 receivers"),
        (-1, None, "attention of cell -1 was not computed"),
        (0.5, None, "cell must be the name of a cell, or its position"),
        (10, 99, "`sel_head` must be None or lie between 0 and"),
    ],
)
def test_wrong_cell(model: CrosstalkModel, adata: AnnData, cell: Any, sel_head: int | None, message: str) -> None:
    some = AttentionModule.compute(model, adata, [10, 2])
    with pytest.raises(ParameterError, match=message):
        some.plot_attention_of_cell(cell, sel_head, show=False)


def test_colors_are_used_also_where_the_tissue_lacks_a_type(model: CrosstalkModel, adata: AnnData) -> None:
    from tissue_crosstalk.core.summary import tissue_palette

    some = adata[adata.obs["cell_type"] != "T2"].copy()
    some.uns["cell_type_colors"] = ["#111111", "#222222", "#444444"]
    palette = tissue_palette(some, "cell_type", model.cell_types)
    assert {name: palette[name].lower() for name in ("T0", "T1", "T3")} == {
        "T0": "#111111",
        "T1": "#222222",
        "T3": "#444444",
    }
    assert len(set(palette.values())) == 4


def test_damaged_folder_is_named(module: AttentionModule, tmp_path: Path) -> None:
    module.save(tmp_path / "attention")
    file = tmp_path / "attention" / "nn_idxs" / "part-00000.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ResultError, match="does not hold whole parquet tables"):
        AttentionModule.load(tmp_path / "attention")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "must hold a JSON object. Got list instead"),
        ('{"colors": {}}', "'flavor' must be a text. Got nothing instead"),
        ('{"flavor": "vanilla", "colors": ["red"]}', "'colors' must be an object with a colour .* Got list instead"),
    ],
)
def test_a_description_of_another_kind_is_named(
    module: AttentionModule, tmp_path: Path, content: str, words: str
) -> None:
    module.save(tmp_path / "attention")
    (tmp_path / "attention" / "attention.json").write_text(content)
    with pytest.raises(ResultError, match=f"attention.json'.*{words}"):
        AttentionModule.load(tmp_path / "attention")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_clusters": 2.5}, "n_clusters must be at least 1"),
        ({"n_clusters": True}, "n_clusters must be at least 1"),
        ({"random_state": None}, "random_state must be a whole number"),
        ({"attention_quantile_threshold": "x"}, "attention_quantile_threshold must be at least 0"),
        ({"n_clusters": 10_000}, "there are only .* distinct compositions"),
    ],
)
def test_wrong_hub_parameters(module: AttentionModule, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        module.compute_communication_hubs(**given)
