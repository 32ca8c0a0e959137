"""Kedro datasets for what the pipelines read and write."""

from tissue_crosstalk.datasets.anndata_dataset import AnnDataDataset
from tissue_crosstalk.datasets.figure_dataset import FigureDataset
from tissue_crosstalk.datasets.figures_dataset import FiguresDataset
from tissue_crosstalk.datasets.html_dataset import HtmlDataset
from tissue_crosstalk.datasets.model_dataset import ModelDataset
from tissue_crosstalk.datasets.optional_dataset import OptionalDataset
from tissue_crosstalk.datasets.parquet_shards_dataset import ParquetShardsDataset
from tissue_crosstalk.datasets.training_checkpoint_dataset import TrainingCheckpointDataset
from tissue_crosstalk.datasets.whole_datasets import JSONDataset, ParquetDataset
from tissue_crosstalk.datasets.workspace_dataset import WorkspaceDataset

__all__ = [
    "AnnDataDataset",
    "FigureDataset",
    "FiguresDataset",
    "HtmlDataset",
    "JSONDataset",
    "ModelDataset",
    "OptionalDataset",
    "ParquetDataset",
    "ParquetShardsDataset",
    "TrainingCheckpointDataset",
    "WorkspaceDataset",
]
