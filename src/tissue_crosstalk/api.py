"""For notebooks: compute attention, weigh it, find hubs and draw summaries, with the functions of the pipelines."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from tissue_crosstalk.core import tables, terms
from tissue_crosstalk.core.distance import DistanceBins
from tissue_crosstalk.core.errors import ParameterError, ResultError, TissueError, is_whole
from tissue_crosstalk.core.files import whole_file, whole_folder
from tissue_crosstalk.core.flavors import check_flavors, weigh
from tissue_crosstalk.core.hubs import Hubs, HubSettings, find_hubs
from tissue_crosstalk.core.model_input import find_and_judge_neighbors, prepare_for_model
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.profiles import pair_table, share_to_draw, strong_edges
from tissue_crosstalk.core.stored import Cells, read_norms, read_shards
from tissue_crosstalk.core.strong_edges import StrengthShard, attention_thresholds
from tissue_crosstalk.core.summary import plan_summaries, tissue_palette
from tissue_crosstalk.core.training_settings import TrainingSettings

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

    from tissue_crosstalk.core.model import CrosstalkModel, TissueKeys
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.tissue import PreparedTissue

DEFAULT_BATCH_SIZE = 20_000
DESCRIPTION_FILE = "attention.json"
SCREEN_DPI = 100
"""Dots per inch at which a notebook shows figures; their files have twice as many."""
FOLDERS = (terms.ATTENTION_PATTERNS, terms.NN_IDXS, terms.NN_DISTS, terms.SENDER_NORMS, terms.CELLS)


def train_model(
    adata: AnnData,
    keys: TissueKeys | None = None,
    *,
    n_neighbors: int = terms.DEFAULT_N_NEIGHBORS,
    log_normalised: bool = False,
    pad_neighbors: bool = False,
    network: NetworkSettings | None = None,
    settings: TrainingSettings | None = None,
    seed: int = 42,
    prog_bar: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> CrosstalkModel:
    """Train a model of a tissue, which remembers the tissue while this process lasts.

    Parameters
    ----------
    adata
        The tissue; it is not changed.
    keys
        Where it holds what; None: ``obs["cell_type"]``, ``obsm["spatial"]``, ``X``, one section. Of a table of
        SpatialData, each region is a section.
    n_neighbors
        Neighbors per cell.
    log_normalised
        ``X`` is log-normalised already; otherwise it holds counts.
    pad_neighbors
        Leave slots empty where a type has too few candidates; otherwise that is an error.
    network, settings
        Sizes of the network and how it is trained; None: the defaults.
    seed
        Of everything random.
    prog_bar
        Whether to show progress (in a terminal).
    checkpoint
        File (``.safetensors``) that keeps the last epoch: where training was interrupted, it goes on from there. A
        training that is finished deletes it.

    Raises
    ------
    CrosstalkError
        If the tissue does not hold what is needed, or training fails; the message says what to do.

    Examples
    --------
    A small network and two epochs, for the sake of the example; `adata` is a tissue:

    >>> from tissue_crosstalk import train_model
    >>> from tissue_crosstalk.core.network_settings import NetworkSettings
    >>> from tissue_crosstalk.core.training_settings import TrainingSettings
    >>> network = NetworkSettings(n_heads=2, n_head_size=4, n_query_embed_hidden=16, n_nn_embed_hidden=16)
    >>> model = train_model(adata, n_neighbors=10, network=network, settings=TrainingSettings(max_epochs=2))
    >>> model.cell_types
    ('type A', 'type B', 'type C')
    >>> model.n_neighbors
    10
    """
    from tissue_crosstalk.core import training
    from tissue_crosstalk.core.model import TissueKeys as Keys
    from tissue_crosstalk.core.spatialdata_store import default_section_key
    from tissue_crosstalk.core.tissue import check_is_tissue, prepare_tissue
    from tissue_crosstalk.core.training_checkpoint import TrainingCheckpoint

    check_is_tissue(adata)
    keys = keys or Keys(section_key=default_section_key(adata))
    tissue = prepare_tissue(adata, keys, log_normalised=log_normalised)
    kept = None if checkpoint is None else TrainingCheckpoint(Path(checkpoint))
    model, _ = training.train_model(
        tissue,
        find_and_judge_neighbors(tissue, n_neighbors, pad=pad_neighbors),
        network or NetworkSettings(),
        settings or TrainingSettings(),
        seed=seed,
        progress=prog_bar,
        checkpoint=kept,
    )
    if kept is not None:
        kept.clear()
    return dataclasses.replace(model, tissue=adata)


def tissue_of(model: CrosstalkModel, adata: AnnData | None) -> AnnData:
    """Return the tissue that is given, else the one that the model was trained on in this process.

    Raises
    ------
    TissueError
        If there is none, or it is no tissue.
    """
    from tissue_crosstalk.core.tissue import check_is_tissue

    adata = model.tissue if adata is None else adata
    if adata is None:
        raise TissueError(
            "adata is needed: the model was read from a file and does not hold the tissue that it was trained on. "
            "Pass the tissue as adata=..."
        )
    check_is_tissue(adata)
    return adata


def prepared(
    model: CrosstalkModel, adata: AnnData, *, log_normalised: bool, pad_neighbors: bool
) -> tuple[PreparedTissue, Neighbors]:
    """Return a tissue as a model sees it, with its neighbors; regions of SpatialData are sections if none are named."""
    from tissue_crosstalk.core.spatialdata_store import default_section_key

    keys = model.keys if model.keys.section_key else model.keys.override(section_key=default_section_key(adata))
    return prepare_for_model(adata, model, keys, log_normalised=log_normalised, pad_neighbors=pad_neighbors)


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionModule:
    """Attention of some cells of a tissue, in one flavor.

    Make one with :meth:`compute` or :meth:`load`.

    Attributes
    ----------
    flavor
        Which flavor :attr:`attention_patterns` is in.
    cells
        All cells of the tissue, in its order.
    receivers
        Positions in the tissue of the cells whose attention this is, (cell,), in the order asked for.

    Examples
    --------
    Of a model, from :func:`train_model` or :func:`load_model`, and a tissue of 200 cells:

    >>> from tissue_crosstalk import AttentionModule
    >>> attention = AttentionModule.compute(model, adata)
    >>> attention.attention_patterns.shape  # a row for each of two heads and 200 cells; ten neighbors and three more
    (400, 13)
    >>> hubs = attention.with_flavor("gene-weighted").compute_communication_hubs(n_clusters=2)
    >>> figure = attention.plot_attention_matrix()
    """

    flavor: str
    cells: Cells
    receivers: npt.NDArray[np.int64]
    _patterns: npt.NDArray[np.float32] = dataclasses.field(repr=False)  # vanilla, (head, cell, neighbor)
    _nn_idx: npt.NDArray[np.int32] = dataclasses.field(repr=False)  # positions, (cell, neighbor)
    _nn_dist: npt.NDArray[np.float32] = dataclasses.field(repr=False)  # (cell, neighbor)
    _norms: Mapping[str, npt.NDArray[np.float32]] = dataclasses.field(repr=False)  # each (position, head)
    _colors: Mapping[str, str] = dataclasses.field(repr=False)  # by cell type

    @classmethod
    def compute(
        cls,
        model: CrosstalkModel,
        adata: AnnData | None = None,
        indices: Sequence[int] | npt.NDArray[np.integer] | npt.NDArray[np.bool_] | None = None,
        batch_size: int | None = None,
        flavor: str = terms.VANILLA,
        prog_bar: bool = True,  # noqa: FBT001, FBT002 - the signature of the published package
        *,
        log_normalised: bool = False,
        pad_neighbors: bool = False,
    ) -> AttentionModule:
        """Compute the attention of cells.

        Parameters
        ----------
        model
            From :func:`load_model` or :func:`train_model`. Its keys and number of neighbors apply.
        adata
            The tissue; None: the one that the model was trained on in this process. It is not changed.
        indices
            Positions of the cells whose attention is wanted (or a mask of all cells); None: all.
        batch_size
            Cells computed at once; memory grows with it, results do not change.
        flavor
            ``vanilla``, ``value-weighted``, ``info-weighted`` or ``gene-weighted``.
        prog_bar
            Whether to show progress (in a terminal).
        log_normalised
            The expression of `adata` is log-normalised already, though the model was trained on counts. A model of
            amici-st takes the expression as it is in any case.
        pad_neighbors
            Leave slots empty where a type has too few candidates; otherwise that is an error.

        Raises
        ------
        CrosstalkError
            If there is no tissue, it does not fit the model, or a parameter is out of range.

        Examples
        --------
        Of a model and its tissue, all cells, and three of them:

        >>> attention = AttentionModule.compute(model, adata)
        >>> attention.attention.shape == (2, adata.n_obs, 10)  # (head, cell, neighbor)
        True
        >>> few = AttentionModule.compute(model, adata, indices=[7, 3, 5])
        >>> few.attention_patterns["cell_idx"].tolist()
        ['cell007', 'cell003', 'cell005', 'cell007', 'cell003', 'cell005']
        """
        from tqdm import tqdm

        from tissue_crosstalk.core.attention import extract_attention
        from tissue_crosstalk.core.spatial_order import shards

        check_flavors([flavor])
        adata = tissue_of(model, adata)
        batch_size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
        if not is_whole(batch_size) or batch_size < 1:
            raise ParameterError(
                f"batch_size must be at least 1 (a whole number), or None. Got {batch_size!r} instead."
            )
        receivers = _positions(indices, adata.n_obs)
        tissue, neighbors = prepared(model, adata, log_normalised=log_normalised, pad_neighbors=pad_neighbors)
        in_tissue_order = tissue.in_tissue_order()
        rows = in_tissue_order[receivers]  # of the receivers, in the order asked for
        by_place = np.argsort(rows)  # shards are compact in the spatial order
        n_heads, n_neighbors = model.network.settings.n_heads, neighbors.idx.shape[1]
        patterns = np.empty((n_heads, len(rows), n_neighbors), dtype=np.float32)
        norms = {name: np.full((tissue.n_cells, n_heads), np.nan, dtype=np.float32) for name in terms.NORMS}
        computed = extract_attention(
            model.network, tissue, neighbors, cells_per_shard=batch_size, receivers=rows[by_place]
        )
        n_done = 0
        for shard in tqdm(
            computed,
            total=len(shards(len(rows), batch_size)),
            desc="attention",
            unit="batch",
            disable=None if prog_bar else True,
        ):
            n_shard = len(shard.receivers)
            patterns[:, by_place[n_done : n_done + n_shard]] = shard.patterns
            for name, norm in shard.norms.items():
                norms[name][tissue.positions[shard.senders]] = norm
            n_done += n_shard
        return cls(
            flavor=flavor,
            cells=Cells(
                names=tissue.cell_names[in_tissue_order],
                labels=tissue.labels[in_tissue_order],
                cell_types=tissue.cell_types,
                sections=tissue.sections[in_tissue_order],
                section_names=tissue.section_names or ("",),
                coordinates=tissue.coordinates[in_tissue_order],
            ),
            receivers=receivers,
            _patterns=patterns,
            _nn_idx=tables.positions_of(neighbors.idx[rows], tissue.positions),
            _nn_dist=neighbors.dist[rows],
            _norms=norms,
            _colors=tissue_palette(adata, model.keys.labels_key, model.cell_types),
        )

    @cached_property
    def attention(self) -> npt.NDArray[np.float32]:
        """Attention in this flavor, float32 (head, cell, neighbor)."""
        return weigh(self._patterns, self._norms, self._nn_idx, self.flavor)

    @cached_property
    def attention_patterns(self) -> pd.DataFrame:
        """One row per (head, cell): ``neighbor_0`` …, ``head_idx``, ``label``, ``cell_idx`` (the obs name)."""
        table = tables.patterns_table(self.attention, self._labels, self.cells.cell_types, self._names)
        frame: pd.DataFrame = table.to_pandas()
        return frame

    @cached_property
    def nn_idxs(self) -> pd.DataFrame:
        """One row per cell, indexed by obs name: the obs name of the neighbor in each slot, missing where padded."""
        names = pd.CategoricalDtype(pd.Index(self.cells.names))
        columns = {
            column: pd.Categorical.from_codes(cast("Sequence[int]", self._nn_idx[:, slot]), dtype=names)
            for slot, column in enumerate(terms.neighbor_columns(self._nn_idx.shape[1]))
        }
        return pd.DataFrame(columns, index=self._index)

    @cached_property
    def nn_dists(self) -> pd.DataFrame:
        """One row per cell, indexed by obs name: distance in each slot, in units of the coordinates (+inf: padded)."""
        columns = terms.neighbor_columns(self._nn_dist.shape[1])
        return pd.DataFrame(self._nn_dist, index=self._index, columns=columns)

    def with_flavor(self, flavor: str) -> AttentionModule:
        """Return the same attention in another flavor; the model does not run again.

        Raises
        ------
        ParameterError
            If there is no such flavor.

        Examples
        --------
        >>> weighted = attention.with_flavor("gene-weighted")
        >>> weighted.flavor, attention.flavor
        ('gene-weighted', 'vanilla')
        """
        check_flavors([flavor])
        return dataclasses.replace(self, flavor=flavor)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the attention, whole or not at all.

        Parameters
        ----------
        path
            A folder of parquet tables, which :meth:`load` reads; or a file ``.csv``, which gets the wide table of
            :attr:`attention_patterns` alone.

        Raises
        ------
        ResultError
            If something else is there already.
        """
        target = Path(path)
        if target.suffix == ".csv":
            with whole_file(target) as file:
                self.attention_patterns.to_csv(file, index=False)
            return
        if target.exists() and not _is_saved_module(target):
            raise ResultError(
                f"{str(target)!r} exists and is not a folder that AttentionModule.save wrote; it stays as it is. "
                "Choose another path, or remove it."
            )
        contents = {
            terms.ATTENTION_PATTERNS: tables.patterns_table(
                self._patterns, self._labels, self.cells.cell_types, self._names
            ),
            terms.NN_IDXS: tables.neighbors_table(self._nn_idx, self._names),
            terms.NN_DISTS: tables.neighbors_table(self._nn_dist, self._names),
            terms.SENDER_NORMS: tables.norms_table(self._norms, self.cells.names),
            terms.CELLS: self.cells.table(),
        }
        with whole_folder(target) as folder:
            for name, table in contents.items():
                (folder / name).mkdir()
                tables.write_table(table, folder / name / tables.shard_file(0))
            description = {"flavor": self.flavor, "colors": dict(self._colors)}
            (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AttentionModule:
        """Load attention that :meth:`save` or the pipelines (``data/07_model_output/<study>``) wrote.

        Parameters
        ----------
        path
            The folder.

        Raises
        ------
        ResultError
            If it does not hold the tables of one attention.

        Examples
        --------
        >>> attention.save(tmp_path / "attention")
        >>> loaded = AttentionModule.load(tmp_path / "attention")
        >>> bool((loaded.attention == attention.attention).all())
        True
        """
        folder = Path(path)
        if folder.suffix == ".csv":
            raise ResultError(
                f"{str(folder)!r}: a csv holds the wide table alone, without neighbors. Read it with pandas.read_csv, "
                "and save to a folder to load it again."
            )
        missing = [name for name in FOLDERS if not (folder / name).is_dir()]
        if missing:
            raise ResultError(
                f"{str(folder)!r} must hold the folders {', '.join(FOLDERS)}. Missing: {', '.join(missing)}. "
                "Name the folder that AttentionModule.save wrote, or data/07_model_output/<study>."
            )
        try:
            stored = {name: tables.open_folder(folder / name) for name in FOLDERS}
            cells = Cells.read(stored[terms.CELLS])
            patterns, nn_idxs, nn_dists = (stored[name] for name in FOLDERS[:3])
            shards = list(read_shards(patterns, nn_idxs, cells, nn_dists=nn_dists))
            norms = read_norms(stored[terms.SENDER_NORMS], cells)
        except (pa.ArrowException, OSError, LookupError) as error:
            raise ResultError(
                f"{str(folder)!r} does not hold whole parquet tables: {error}. "
                "Save the attention, or run the pipeline, again."
            ) from error
        receivers = np.concatenate([shard.receivers for shard in shards])
        description = _description(folder)
        # The pipelines write cells in spatial order; a saved module keeps the order that was asked for.
        order = np.arange(len(receivers)) if description else np.argsort(receivers)
        colors = description.get("colors")
        if colors is None or not set(cells.cell_types) <= set(colors):
            from tissue_crosstalk.core.plots.style import cell_type_palette

            colors = cell_type_palette(cells.cell_types)
        flavor = description.get("flavor", terms.VANILLA)
        check_flavors([flavor])
        return cls(
            flavor=flavor,
            cells=cells,
            receivers=receivers[order],
            _patterns=np.concatenate([shard.attention for shard in shards], axis=1)[:, order],
            _nn_idx=np.concatenate([shard.nn_idx for shard in shards])[order],
            _nn_dist=np.concatenate([shard.nn_dist for shard in shards if shard.nn_dist is not None])[order],
            _norms=norms,
            _colors=colors,
        )

    def find_communication_hubs(
        self,
        attention_quantile_threshold: float = 0.9,
        n_clusters: int | None = None,
        random_state: int = 42,
        counting: Literal["edges", "in_degree"] = "edges",
        *,
        isolated: Literal["separate", "cluster"] = "separate",
        thresholds_per: Literal["all", "section"] = "all",
        choose_by: Literal["silhouette", "stability"] = "silhouette",
        stability_resamples: int = 0,
    ) -> Hubs:
        """Find hubs, with thresholds, silhouettes and stability (see :meth:`compute_communication_hubs`).

        The result is what the functions of :mod:`tissue_crosstalk.core.hub_enrichment` and
        :mod:`tissue_crosstalk.core.hub_contents` take, with :attr:`cells`.
        """
        settings = HubSettings(
            attention_quantile_threshold=attention_quantile_threshold,
            thresholds_per=thresholds_per,
            n_clusters=n_clusters,
            choose_by=choose_by,
            stability_resamples=stability_resamples,
            random_state=random_state,
            counting=counting,
            isolated=isolated,
        )
        return find_hubs(
            [StrengthShard(self.receivers, self.attention.max(axis=0), self._nn_idx, self._nn_dist)],
            self.cells.labels,
            self.cells.cell_types,
            settings,
            sections=self.cells.sections,
            section_names=self.cells.section_names,
        )

    def compute_communication_hubs(
        self,
        attention_quantile_threshold: float = 0.9,
        n_clusters: int | None = None,
        random_state: int = 42,
        counting: Literal["edges", "in_degree"] = "edges",
        *,
        isolated: Literal["separate", "cluster"] = "separate",
        thresholds_per: Literal["all", "section"] = "all",
    ) -> pd.DataFrame:
        """Group the cells by the types of the neighbors they attend to strongly.

        Parameters
        ----------
        attention_quantile_threshold
            Per receiver type, attention above this quantile of its positive values is strong.
        n_clusters
            Number of hubs; None: that of 2 to 12 with the highest silhouette.
        random_state
            Seed of KMeans.
        counting
            ``edges``, or ``in_degree`` as the released amici-st 0.1.0 counts.
        isolated
            Cells without a strong neighbor: ``separate`` gives them ``hub_cluster`` −1; ``cluster`` clusters them with
            the others, as the publication does.
        thresholds_per
            ``all``, or ``section`` for thresholds of each section's own.

        Returns
        -------
        pandas.DataFrame
            Indexed by obs name: one column per cell type (shares), and ``hub_cluster``, 0 being the largest hub.

        Raises
        ------
        ParameterError
            If a parameter is out of range, or more hubs are asked for than there are distinct compositions.

        Examples
        --------
        >>> hubs = attention.compute_communication_hubs(n_clusters=2)
        >>> list(hubs.columns)
        ['type A', 'type B', 'type C', 'hub_cluster']
        >>> sorted(hubs["hub_cluster"].unique().tolist())  # -1: no strong neighbor
        [-1, 0, 1]
        """
        hubs = self.find_communication_hubs(
            attention_quantile_threshold,
            n_clusters,
            random_state,
            counting,
            isolated=isolated,
            thresholds_per=thresholds_per,
        )
        return hubs.table(self._names)

    def plot_attention_summary(
        self,
        cell_type_sub: str | Sequence[str] | None = None,
        sel_head: int | None = None,
        plot_histogram: bool = False,  # noqa: FBT001, FBT002 - the signature of the published package
        palette: str | Sequence[str] | Mapping[str, str] | None = None,
        max_distance: float = 100,
        bin_size: float = 5,
        min_bin_count: int = 50,
        show: bool = True,  # noqa: FBT001, FBT002 - as above
        save_png: bool = False,  # noqa: FBT001, FBT002 - as above
        save_svg: bool = False,  # noqa: FBT001, FBT002 - as above
        save_dir: str | os.PathLike[str] = "./figures",
    ) -> dict[str, Figure]:
        """Draw attention against distance, one figure per receiver type.

        Parameters
        ----------
        cell_type_sub
            Receiver types; None: all that have cells here.
        sel_head
            One head alone; None: all.
        plot_histogram
            Draw a histogram of edge distances below.
        palette
            Name of a colormap, colours, or colours by type; None: the tissue's own where set.
        max_distance, bin_size
            Edges shorter than `max_distance` go in bins of `bin_size`, in units of the coordinates.
        min_bin_count
            A (bin, sender type) with fewer edges over all heads is left out.
        show
            Display the figures, in a notebook.
        save_png, save_svg
            Save them as ``<flavor>_<receiver>[_head<h>].png`` or ``.svg``.
        save_dir
            Folder to save in; it is made if missing.

        Returns
        -------
        dict
            Figures by receiver type.

        Raises
        ------
        ParameterError
            If a type is unknown, there is no such head, or a number is out of range.
        """
        bins = DistanceBins(self.cells.cell_types, len(self._patterns), max_distance, bin_size)
        bins.add(self.attention, self._nn_dist, self._labels, self._sender_labels)
        if cell_type_sub is None:
            present = np.unique(self._labels)
            receivers: list[str] = [self.cells.cell_types[label] for label in present]
        else:
            receivers = [cell_type_sub] if isinstance(cell_type_sub, str) else list(dict.fromkeys(cell_type_sub))
        plans = plan_summaries(
            {self.flavor: bins},
            self._palette(palette),
            receivers=receivers,
            min_bin_count=min_bin_count,
            sel_head=sel_head,
            plot_histogram=plot_histogram,
        )
        from tissue_crosstalk.core.plots.style import quick_collection, save_figures

        with quick_collection():
            figures = {stem: draw() for stem, draw in plans.items()}
        save_figures(figures, save_dir, [kind for kind, wanted in ((".png", save_png), (".svg", save_svg)) if wanted])
        if show:
            _display(figures.values())
        return dict(zip(receivers, figures.values(), strict=True))

    def attention_by_pair(self, attention_quantile_threshold: float = 0.9) -> pd.DataFrame:
        """Return mean and strong attention of each pair of cell types.

        Parameters
        ----------
        attention_quantile_threshold
            Per receiver type, attention above this quantile of its positive values is strong.

        Returns
        -------
        pandas.DataFrame
            See :func:`~tissue_crosstalk.core.profiles.pair_table`.

        Raises
        ------
        ParameterError
            If the quantile is not at least 0 and below 1.

        Examples
        --------
        >>> pairs = attention.attention_by_pair()
        >>> bool((pairs["strong_share"] <= 1).all())
        True
        """
        HubSettings(attention_quantile_threshold=attention_quantile_threshold)  # checks it
        n_types, labels = len(self.cells.cell_types), self.cells.labels
        shard = StrengthShard(self.receivers, self.attention.max(axis=0), self._nn_idx, self._nn_dist)
        thresholds = attention_thresholds([shard], labels, n_types, attention_quantile_threshold)
        bins = DistanceBins(self.cells.cell_types, len(self._patterns))
        bins.add(self.attention, self._nn_dist, self._labels, self._sender_labels)
        return pair_table(bins, strong_edges([shard], labels, n_types, thresholds[labels]), self._labels)

    def plot_attention_matrix(
        self,
        attention_quantile_threshold: float = 0.9,
        *,
        palette: str | Sequence[str] | Mapping[str, str] | None = None,
        show: bool = True,
    ) -> Figure:
        """Draw mean and strong attention of each pair of cell types (see :meth:`attention_by_pair`).

        Parameters
        ----------
        attention_quantile_threshold
            As of :meth:`attention_by_pair`.
        palette, show
            As of :meth:`plot_attention_summary`.
        """
        from tissue_crosstalk.core.plots.attention_matrix import plot_attention_matrix

        pairs = self.attention_by_pair(attention_quantile_threshold)
        return _shown(plot_attention_matrix(pairs, self._palette(palette), flavor=self.flavor), show=show)

    def plot_interaction_network(
        self,
        attention_quantile_threshold: float = 0.9,
        *,
        threshold: float | None = None,
        min_edges: int = 50,
        palette: str | Sequence[str] | Mapping[str, str] | None = None,
        show: bool = True,
    ) -> Figure:
        """Draw which cell types attend strongly to which (see :meth:`attention_by_pair`).

        Parameters
        ----------
        attention_quantile_threshold
            As of :meth:`attention_by_pair`.
        threshold
            Share of a pair's edges that must be strong for an arrow; None: twice what chance gives, which is one minus
            the quantile; of quantiles below 2/3, half-way from that to all.
        min_edges
            Pairs with fewer edges get no arrow.
        palette, show
            As of :meth:`plot_attention_summary`.
        """
        from tissue_crosstalk.core.plots.interaction_network import plot_interaction_network

        pairs = self.attention_by_pair(attention_quantile_threshold)
        least = share_to_draw(attention_quantile_threshold) if threshold is None else threshold
        figure = plot_interaction_network(
            pairs, self._palette(palette), threshold=least, flavor=self.flavor, min_edges=min_edges
        )
        return _shown(figure, show=show)

    def plot_attention_of_cell(
        self,
        cell: str | int,
        sel_head: int | None = None,
        *,
        distance_unit: str = "",
        palette: str | Sequence[str] | Mapping[str, str] | None = None,
        show: bool = True,
    ) -> Figure:
        """Draw one cell in the tissue, with lines to its neighbors that are as wide as its attention to them.

        Parameters
        ----------
        cell
            Name of the cell, or its position in the tissue.
        sel_head
            One head alone; None: a panel for each.
        distance_unit
            Unit of the coordinates, such as "µm"; empty if unknown.
        palette, show
            As of :meth:`plot_attention_summary`.

        Raises
        ------
        ParameterError
            If there is no such cell or head, or the cell's attention was not computed.
        """
        from tissue_crosstalk.core.plots.attention_of_cell import plot_attention_of_cell
        from tissue_crosstalk.core.plots.attention_summary import check_head

        check_head(len(self._patterns), sel_head)
        heads = list(range(len(self._patterns))) if sel_head is None else [sel_head]
        row = self._row(cell)
        position = int(self.receivers[row])
        figure = plot_attention_of_cell(
            self.cells.coordinates,
            np.array(self.cells.cell_types, dtype=object)[self.cells.labels],
            position,
            self._nn_idx[row],
            self.attention[heads, row],
            self._palette(palette),
            name=str(self.cells.names[position]),
            heads=heads,
            section=self.cells.sections,
            flavor=self.flavor,
            distance_unit=distance_unit,
        )
        return _shown(figure, show=show)

    def _row(self, cell: str | int) -> int:
        """Return the row of a receiver, given by name or by position in the tissue."""
        if isinstance(cell, str):
            found = np.flatnonzero(self.cells.names == cell)
            if not len(found):
                raise ParameterError(
                    f"there is no cell {cell!r} in this tissue. The first of its {len(self.cells.names)} cells is "
                    f"{self.cells.names[0]!r}."
                )
            position = int(found[0])
        elif is_whole(cell):
            position = int(cell)
        else:
            raise ParameterError(
                f"cell must be the name of a cell, or its position (an integer). Got {cell!r} instead."
            )
        rows = np.flatnonzero(self.receivers == position)
        if not len(rows):
            raise ParameterError(
                f"attention of cell {cell!r} was not computed: it is none of the {len(self.receivers)} receivers. "
                "Choose another cell, or compute the attention with it among indices."
            )
        return int(rows[0])

    def _palette(self, palette: str | Sequence[str] | Mapping[str, str] | None) -> Mapping[str, str]:
        from tissue_crosstalk.core.plots.style import cell_type_palette

        return self._colors if palette is None else cell_type_palette(self.cells.cell_types, palette)

    @property
    def _names(self) -> npt.NDArray[np.object_]:
        return self.cells.names[self.receivers]

    @property
    def _index(self) -> pd.Index[Any]:
        return pd.Index(self._names, dtype=object, name=terms.CELL_IDX)

    @property
    def _labels(self) -> npt.NDArray[np.int16]:
        return self.cells.labels[self.receivers]

    @property
    def _sender_labels(self) -> npt.NDArray[np.int16]:
        return np.where(self._nn_idx < 0, np.int16(terms.NO_NEIGHBOR), self.cells.labels[self._nn_idx])


def _positions(
    indices: Sequence[int] | npt.NDArray[np.integer] | npt.NDArray[np.bool_] | None, n_cells: int
) -> npt.NDArray[np.int64]:
    if indices is None:
        return np.arange(n_cells, dtype=np.int64)
    array = np.asarray(indices)
    if array.dtype == bool:
        if array.shape != (n_cells,):
            raise ParameterError(f"indices as a mask must be of shape ({n_cells},). Got {array.shape} instead.")
        array = np.flatnonzero(array)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or not len(array):
        raise ParameterError(
            f"indices must be positions of cells (integers), at least one. Got shape {array.shape} of {array.dtype}. "
            "For obs names use adata.obs_names.get_indexer(names)."
        )
    if array.min() < 0 or array.max() >= n_cells:
        raise ParameterError(f"indices must be in [0, {n_cells}). Got {array.min()} to {array.max()} instead.")
    if len(np.unique(array)) < len(array):
        raise ParameterError("indices must be unique. Got some cells more than once.")
    return array.astype(np.int64)


def _is_saved_module(folder: Path) -> bool:
    return folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {*FOLDERS, DESCRIPTION_FILE}


def _description(folder: Path) -> dict[str, Any]:
    file = folder / DESCRIPTION_FILE
    if not file.exists():
        return {}
    try:
        description = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{str(file)!r} cannot be read as JSON: {error}. Save the attention again.") from error
    if not isinstance(description, dict):
        raise ResultError(f"{str(file)!r} must hold a JSON object. Got {type(description).__name__} instead.")
    for key, kind, words in (("flavor", str, "a text"), ("colors", dict, "an object with a colour for each type")):
        if not isinstance(description.get(key), kind):
            found = type(description[key]).__name__ if key in description else "nothing"
            raise ResultError(f"{str(file)!r}: {key!r} must be {words}. Got {found} instead. Save the attention again.")
    return description


def _shown(figure: Figure, *, show: bool) -> Figure:
    if show:
        _display([figure])
    return figure


def _display(figures: Iterable[Figure]) -> None:
    """Show figures where there is a notebook; elsewhere they are returned only."""
    try:
        from IPython.core.getipython import get_ipython
        from IPython.display import display
    except ImportError:
        return
    if get_ipython() is None:  # type: ignore[no-untyped-call]  # IPython has no types
        return
    from tissue_crosstalk.core.plots.style import png_of

    for figure in figures:
        # As PNG: of a figure that pyplot did not make, a notebook shows the name alone before "%matplotlib inline".
        width, height = (round(float(length) * SCREEN_DPI) for length in figure.get_size_inches())
        display(  # type: ignore[no-untyped-call]  # IPython has no types
            {"image/png": png_of(figure), "text/plain": repr(figure)},
            raw=True,
            metadata={"image/png": {"width": width, "height": height}},
        )
