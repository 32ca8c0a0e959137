"""Interpretation of a study's model, from the model input that is stored."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tissue_crosstalk.core.interpretation_settings import (
    DistanceSettings,
    EffectSettings,
    NullSettings,
    VarianceSettings,
)
from tissue_crosstalk.core.model_input import from_anndata

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from anndata import AnnData
    from matplotlib.figure import Figure

    from tissue_crosstalk.core.files import Workspace
    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.training_settings import TrainingSettings

logger = logging.getLogger(__name__)


def ablate_stored(model_input: AnnData, model: CrosstalkModel, *, by_head: bool) -> pd.DataFrame:
    """Return the published measures of every pair of types, see :meth:`~tissue_crosstalk.core.ablation.Ablation.table`.

    Parameters
    ----------
    model_input
        See :mod:`~tissue_crosstalk.core.model_input`.
    model
        The model.
    by_head
        Whether each head is wanted alone, besides all together.
    """
    from tissue_crosstalk.core.ablation import ablate

    return ablate(model.network, *from_anndata(model_input), by_head=by_head).table()


def measure_stored_effects(
    model_input: AnnData,
    model: CrosstalkModel,
    settings: EffectSettings,
    training: TrainingSettings,
    workspace: Workspace,
    *,
    seed: int,
    progress: bool = True,
) -> pd.DataFrame:
    """Test the effects of all senders, with models that are trained for it unless the study has them.

    Parameters
    ----------
    model_input
        See :mod:`~tissue_crosstalk.core.model_input`.
    model
        The model. Its network's sizes are those of the models of the folds; without folds it is the one that is tested.
    settings, training, seed
        Of the test, and of the trainings.
    workspace
        Folder of the study's model, see :func:`~tissue_crosstalk.core.cross_fitting.cross_fit`.
    progress
        Whether to show progress bars (only ever shown in a terminal).

    Returns
    -------
    pandas.DataFrame
        See :func:`~tissue_crosstalk.core.effects.measure_effects`, also for the errors.
    """
    from tissue_crosstalk.core.cross_fitting import cross_fit, cut_folds
    from tissue_crosstalk.core.effects import measure_effects

    tissue, neighbors = from_anndata(model_input)
    if not settings.n_folds:
        logger.warning(
            "effects are tested on cells that the model may have been trained on (ablation.n_folds=0): their p-values "
            "describe the model, and are too small where it learned noise"
        )
        return measure_effects([model], tissue, neighbors, None, settings)
    folds = cut_folds(
        tissue.coordinates,
        tissue.sections,
        n_folds=settings.n_folds,
        blocks_per_fold=settings.blocks_per_fold,
        seed=seed,
    )
    with workspace.alone():
        models = cross_fit(
            tissue,
            neighbors,
            folds,
            model.network.settings,
            training,
            seed=seed,
            workspace=workspace,
            progress=progress,
        )
    return measure_effects(models, tissue, neighbors, folds, settings)


def annotate_stored_pairs(
    model_input: AnnData, interactions: pd.DataFrame, ligand_receptor: str | None
) -> pd.DataFrame:
    """Tell which known pairs of ligand and receptor types express; without a table of them, of none.

    Parameters
    ----------
    model_input, interactions
        See :func:`~tissue_crosstalk.core.ligand_receptor.annotate_pairs`, also for what is returned.
    ligand_receptor
        Path of the csv file of pairs, see :func:`~tissue_crosstalk.core.ligand_receptor.read_pairs`.
    """
    from tissue_crosstalk.core.ligand_receptor import LIGAND, RECEPTOR, annotate_pairs, read_pairs

    nothing = pd.DataFrame({LIGAND: [], RECEPTOR: []}, dtype=str)
    pairs = nothing if ligand_receptor is None else read_pairs(ligand_receptor)
    return annotate_pairs(pairs, from_anndata(model_input)[0], interactions)


def measure_stored_distances(
    model_input: AnnData, model: CrosstalkModel, settings: DistanceSettings, *, max_senders: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure over what distance senders are heard.

    Parameters
    ----------
    model_input, model
        Tissue and model.
    settings
        Of the length scales.
    max_senders
        Cells of a pair of types in the first table at most; they are drawn where there are more.

    Returns
    -------
    length_scales, summary
        See :meth:`~tissue_crosstalk.core.length_scales.LengthScales.table`, before the correction (``supported`` is in
        the summary), and :attr:`~tissue_crosstalk.core.length_scales.LengthScales.summary`, of all senders.
    """
    from tissue_crosstalk.core.length_scales import length_scales

    tissue, neighbors = from_anndata(model_input)
    found = length_scales(model.network, tissue, neighbors, settings)
    group = found.receiver.astype(np.int64) * len(tissue.cell_types) + found.sender
    generator = np.random.default_rng(settings.random_state)
    # The same cells in whatever order: by a number that each pair of cells has, the smallest first.
    drawn = generator.permutation(found.n_pairs)
    order = np.lexsort((drawn, group))
    place = np.empty(found.n_pairs, dtype=np.int64)
    starts = np.searchsorted(group[order], group[order])
    place[order] = np.arange(found.n_pairs) - starts
    rows = np.flatnonzero(place < max_senders)
    return found.table(rows, corrected=False), found.summary


def compare_stored_attention(model_input: AnnData, model: CrosstalkModel, settings: NullSettings) -> pd.DataFrame:
    """Compare attention with that to shuffled senders.

    See :func:`~tissue_crosstalk.core.attention_null.attention_enrichment`.
    """
    from tissue_crosstalk.core.attention_null import attention_enrichment

    return attention_enrichment(model.network, *from_anndata(model_input), settings)


def summarize_stored_contributions(model_input: AnnData, model: CrosstalkModel) -> pd.DataFrame:
    """Return what the cells of each type contribute to genes.

    See :func:`~tissue_crosstalk.core.contributions.summarize_contributions`.
    """
    from tissue_crosstalk.core.contributions import summarize_contributions

    return summarize_contributions(model.network, from_anndata(model_input)[0])


def draw_stored_flow(
    attention_patterns: pads.Dataset, nn_idxs: pads.Dataset, cells: pads.Dataset, palette: dict[str, str], unit: str
) -> Figure:
    """Draw from where information flows in the tissue, see :mod:`~tissue_crosstalk.core.plots.information_flow`."""
    from tissue_crosstalk.core.information_flow import information_flow
    from tissue_crosstalk.core.plots.information_flow import plot_information_flow
    from tissue_crosstalk.core.stored import Cells

    flow = information_flow(attention_patterns, nn_idxs, cells)
    known = Cells.read(cells)
    return plot_information_flow(
        known.coordinates,
        flow.displacement,
        flow.attention,
        np.array(known.cell_types, dtype=object)[known.labels],
        palette,
        known.section_of_cells(),
        distance_unit=unit,
    )


def explain_stored_variance(
    model_input: AnnData, model: CrosstalkModel, settings: VarianceSettings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return explained variance by head, and by head and gene.

    See :class:`~tissue_crosstalk.core.explained_variance.ExplainedVariance`.
    """
    from tissue_crosstalk.core.explained_variance import explain_variance

    found = explain_variance(model.network, *from_anndata(model_input), settings)
    return found.table(), found.table_by_gene()
