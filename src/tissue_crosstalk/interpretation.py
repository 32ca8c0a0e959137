"""For notebooks: what a model says of genes, distances and variance, with the functions of the pipelines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from tissue_crosstalk.api import prepared, tissue_of
from tissue_crosstalk.core.interpretation_settings import (
    DistanceSettings,
    EffectSettings,
    NullSettings,
    PermuteWithin,
    VarianceSettings,
)
from tissue_crosstalk.core.summary import tissue_palette
from tissue_crosstalk.core.training_settings import TrainingSettings

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

    from tissue_crosstalk.core.length_scales import Counterfactual, LengthScales
    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.tissue import PreparedTissue


@dataclasses.dataclass(frozen=True, eq=False)
class InterpretationModule:
    """A model and a tissue, ready to be interpreted.

    Make one with :meth:`compute`. Cells are told by their positions in the tissue, types by name.

    Attributes
    ----------
    model
        The model.

    Examples
    --------
    Of a model and its tissue; `n_folds=0` tests by the model at hand, which was trained on the cells:

    >>> from tissue_crosstalk import InterpretationModule
    >>> interpretation = InterpretationModule.compute(model, adata)
    >>> ablation = interpretation.ablation()
    >>> ablation.columns[:5].tolist()
    ['receiver', 'sender', 'head_idx', 'gene', 'ablation']
    >>> effects = interpretation.effects(n_folds=0)
    >>> interpretation.interactions(effects, ablation).columns[:5].tolist()
    ['receiver', 'sender', 'n_receivers', 'n_hearing', 'n_genes']
    >>> interpretation.predictions([3, 5]).shape == (2, adata.n_vars)
    True
    """

    model: CrosstalkModel
    _tissue: PreparedTissue = dataclasses.field(repr=False)
    _neighbors: Neighbors = dataclasses.field(repr=False)
    _colors: Mapping[str, str] = dataclasses.field(repr=False)  # by cell type

    @classmethod
    def compute(
        cls,
        model: CrosstalkModel,
        adata: AnnData | None = None,
        *,
        log_normalised: bool = False,
        pad_neighbors: bool = False,
    ) -> InterpretationModule:
        """Prepare a tissue for the interpretation of a model.

        Parameters
        ----------
        model, adata, log_normalised, pad_neighbors
            See :meth:`~tissue_crosstalk.api.AttentionModule.compute`, also for the errors.
        """
        adata = tissue_of(model, adata)
        tissue, neighbors = prepared(model, adata, log_normalised=log_normalised, pad_neighbors=pad_neighbors)
        return cls(model, tissue, neighbors, tissue_palette(adata, model.keys.labels_key, model.cell_types))

    def ablation(
        self,
        *,
        receivers: Sequence[str] | None = None,
        sender_cells: Sequence[int] | npt.NDArray[np.integer] | None = None,
        by_head: bool = True,
    ) -> pd.DataFrame:
        """Return the published measures of what changes without each type of sender, or without some cells.

        Parameters
        ----------
        receivers
            Receiver types; None: all.
        sender_cells
            Positions of cells that are masked together; None: every type by itself.
        by_head
            Whether each head is wanted alone, besides all together (``head_idx`` −1).

        Returns
        -------
        pandas.DataFrame
            See :meth:`~tissue_crosstalk.core.ablation.Ablation.table`.
        """
        from tissue_crosstalk.core.ablation import SenderGroups, ablate

        groups = None
        if sender_cells is not None:
            groups = SenderGroups.of_cells(self._tissue.n_cells, np.asarray(sender_cells), "cells")
            groups = SenderGroups(groups.names, groups.codes[self._tissue.positions])  # in the order of the rows
        return ablate(
            self.model.network, self._tissue, self._neighbors, groups=groups, receivers=receivers, by_head=by_head
        ).table()

    def effects(
        self,
        *,
        n_folds: int = 5,
        permute_within: PermuteWithin = "section",
        blocks_per_fold: int = 4,
        settings: TrainingSettings | None = None,
        seed: int = 42,
        prog_bar: bool = True,
    ) -> pd.DataFrame:
        """Test which genes every sender type changes in every receiver type, by models that never saw the cells.

        Parameters
        ----------
        n_folds
            Models to train, each without a part of the tissue; 0: test by this model, whatever it was trained on.
        permute_within
            ``section``, or ``block`` where expression varies over a section for other reasons.
        blocks_per_fold
            Spatial blocks of which a fold is made; more of them are smaller.
        settings, seed
            Of the trainings; None: the defaults.
        prog_bar
            Whether to show progress (in a terminal).

        Returns
        -------
        pandas.DataFrame
            See :func:`~tissue_crosstalk.core.effects.measure_effects`.
        """
        from tissue_crosstalk.core.cross_fitting import cross_fit, cut_folds
        from tissue_crosstalk.core.effects import measure_effects

        how = EffectSettings(n_folds=n_folds, permute_within=permute_within, blocks_per_fold=blocks_per_fold)
        tissue, neighbors = self._tissue, self._neighbors
        if not n_folds:
            return measure_effects([self.model], tissue, neighbors, None, how)
        folds = cut_folds(
            tissue.coordinates, tissue.sections, n_folds=n_folds, blocks_per_fold=blocks_per_fold, seed=seed
        )
        models = cross_fit(
            tissue,
            neighbors,
            folds,
            self.model.network.settings,
            settings or TrainingSettings(),
            seed=seed,
            progress=prog_bar,
        )
        return measure_effects(models, tissue, neighbors, folds, how)

    def interactions(self, effects: pd.DataFrame, ablation: pd.DataFrame, *, max_q: float = 0.05) -> pd.DataFrame:
        """Count the genes that each sender type changes in each receiver type.

        See :func:`~tissue_crosstalk.core.interactions.weigh_interactions`.
        """
        from tissue_crosstalk.core.interactions import weigh_interactions

        return weigh_interactions(effects, ablation, max_q=max_q)

    def ligands_and_receptors(self, pairs: pd.DataFrame, interactions: pd.DataFrame) -> pd.DataFrame:
        """Return the known pairs of ligand and receptor that the types of each interaction express.

        See :func:`~tissue_crosstalk.core.ligand_receptor.annotate_pairs`;
        :func:`~tissue_crosstalk.core.ligand_receptor.read_pairs` reads the table of pairs.
        """
        from tissue_crosstalk.core.ligand_receptor import annotate_pairs

        return annotate_pairs(pairs, self._tissue, interactions)

    def counterfactual(self, receiver: str) -> Counterfactual:
        """Return the attention that receivers of a type would pay to each sender alone, at any distance.

        See :func:`~tissue_crosstalk.core.length_scales.counterfactual`. Its ``senders`` are positions here.
        """
        from tissue_crosstalk.core.length_scales import counterfactual

        found = counterfactual(self.model.network, self._tissue, self._neighbors, receiver)
        return dataclasses.replace(found, senders=self._tissue.positions[found.senders])

    def length_scales(self, settings: DistanceSettings | None = None) -> LengthScales:
        """Measure over what distance senders are heard.

        See :func:`~tissue_crosstalk.core.length_scales.length_scales`.
        """
        from tissue_crosstalk.core.length_scales import length_scales

        return length_scales(self.model.network, self._tissue, self._neighbors, settings or DistanceSettings())

    def attention_enrichment(self, settings: NullSettings | None = None) -> pd.DataFrame:
        """Compare attention with that to shuffled senders.

        See :func:`~tissue_crosstalk.core.attention_null.attention_enrichment`.
        """
        from tissue_crosstalk.core.attention_null import attention_enrichment

        return attention_enrichment(self.model.network, self._tissue, self._neighbors, settings or NullSettings())

    def explained_variance(self, settings: VarianceSettings | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the variance explained by each head, and by each head and gene.

        See :class:`~tissue_crosstalk.core.explained_variance.ExplainedVariance`.
        """
        from tissue_crosstalk.core.explained_variance import explain_variance

        found = explain_variance(self.model.network, self._tissue, self._neighbors, settings or VarianceSettings())
        return found.table(), found.table_by_gene()

    def contributions(self, cells: Sequence[int] | npt.NDArray[np.integer] | None = None) -> pd.DataFrame:
        """Return what senders say to each gene through each head, at full attention.

        Parameters
        ----------
        cells
            Positions: a row for each (cell, head), a column for each gene. None: mean and standard deviation over the
            cells of each type, see :func:`~tissue_crosstalk.core.contributions.summarize_contributions`.
        """
        from tissue_crosstalk.core.contributions import contributions, summarize_contributions

        if cells is None:
            return summarize_contributions(self.model.network, self._tissue)
        rows = self._rows(cells)
        values = contributions(self.model.network, self._tissue, rows)  # (cell, head, gene)
        heads = range(values.shape[1])
        names = pd.Index(self._tissue.cell_names[rows])
        index = pd.MultiIndex.from_product([names, heads], names=["neighbor", "head_idx"])
        return pd.DataFrame(values.reshape(-1, values.shape[2]), index=index, columns=list(self._tissue.genes))

    def predictions(self, cells: Sequence[int] | npt.NDArray[np.integer] | None = None) -> pd.DataFrame:
        """Return the expression that the model predicts of cells (positions; None: all), a column for each gene."""
        from tissue_crosstalk.core.attention import predict

        rows = self._rows(cells)
        return self._by_gene(rows, predict(self.model.network, self._tissue, self._neighbors, rows))

    def residuals(self, cells: Sequence[int] | npt.NDArray[np.integer] | None = None) -> pd.DataFrame:
        """Return predictions of cells (positions; None: all) less the mean of their type, a column for each gene."""
        from tissue_crosstalk.core.attention import residuals

        rows = self._rows(cells)
        return self._by_gene(rows, residuals(self.model.network, self._tissue, self._neighbors, rows))

    def neighbor_embeddings(self, cells: Sequence[int] | npt.NDArray[np.integer] | None = None) -> pd.DataFrame:
        """Return the neighbor embedding of cells (positions; None: all), a row for each."""
        from tissue_crosstalk.core.contributions import neighbor_embeddings

        rows = self._rows(cells)
        values = neighbor_embeddings(self.model.network, self._tissue, rows)
        return pd.DataFrame(values, index=self._tissue.cell_names[rows])

    def plot_volcanoes(self, effects: pd.DataFrame, receiver: str) -> Figure:
        """Draw which genes of a receiver type its senders change."""
        from tissue_crosstalk.core.plots.volcano import plot_volcanoes

        return plot_volcanoes(effects, receiver, self._colors)

    def plot_gene_dots(self, effects: pd.DataFrame, receiver: str) -> Figure:
        """Draw the genes of a receiver type that senders change most."""
        from tissue_crosstalk.core.plots.gene_dots import plot_gene_dots

        return plot_gene_dots(effects, receiver, self._colors)

    def plot_interactions(self, interactions: pd.DataFrame) -> tuple[Figure, Figure, Figure]:
        """Draw who changes how many genes of whom: as a matrix, a network and a chord diagram."""
        from tissue_crosstalk.core.interpretation_figures import draw_interactions

        return draw_interactions(interactions, self._colors)

    def plot_length_scales(self, scales: LengthScales, receiver: str, *, distance_unit: str = "") -> Figure:
        """Draw over what distance a receiver type attends to its senders."""
        from tissue_crosstalk.core.plots.length_scales import plot_length_scales

        table = scales.table(np.flatnonzero(scales.receiver == scales.cell_types.index(receiver)), corrected=False)
        own = scales.summary[scales.summary["receiver"] == receiver]
        return plot_length_scales(table, own, receiver, self._colors, distance_unit=distance_unit)

    def plot_attention_enrichment(self, enrichment: pd.DataFrame) -> Figure:
        """Draw which pairs of types are attended to more than where senders are shuffled."""
        from tissue_crosstalk.core.plots.attention_enrichment import plot_attention_enrichment

        return plot_attention_enrichment(enrichment, self._colors)

    def plot_explained_variance(self, explained: pd.DataFrame) -> Figure:
        """Draw how much of the variance of each receiver type each head explains."""
        from tissue_crosstalk.core.plots.explained_variance import plot_explained_variance

        return plot_explained_variance(explained, self._colors)

    def plot_contributions(self, contributions: pd.DataFrame, head: int) -> Figure:
        """Draw what senders contribute to genes through a head."""
        from tissue_crosstalk.core.plots.contributions import plot_contributions

        return plot_contributions(contributions[contributions["head_idx"] == head], head, self._colors)

    @cached_property
    def _row_of_position(self) -> npt.NDArray[np.intp]:
        return self._tissue.in_tissue_order()

    def _rows(self, cells: Sequence[int] | npt.NDArray[np.integer] | None) -> npt.NDArray[np.intp]:
        from tissue_crosstalk.core.errors import ParameterError, listing

        if cells is None:
            return self._row_of_position
        positions = np.asarray(cells)
        n_cells = self._tissue.n_cells
        if positions.ndim != 1 or not np.issubdtype(positions.dtype, np.integer):
            raise ParameterError(f"cells must be positions of cells, a list of whole numbers. Got {cells!r} instead.")
        outside = (positions < 0) | (positions >= n_cells)
        if outside.any():
            raise ParameterError(
                f"cells must be positions from 0 to {n_cells - 1}. Got {listing(positions[outside].tolist())} instead."
            )
        rows: npt.NDArray[np.intp] = self._row_of_position[positions]
        return rows

    def _by_gene(self, rows: npt.NDArray[np.intp], values: npt.NDArray[np.float32]) -> pd.DataFrame:
        return pd.DataFrame(values, index=self._tissue.cell_names[rows], columns=list(self._tissue.genes))
