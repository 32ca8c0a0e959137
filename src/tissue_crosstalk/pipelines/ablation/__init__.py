"""Stage ``ablation``."""

from tissue_crosstalk.pipelines.ablation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
