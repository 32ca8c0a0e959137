"""Stage ``recovery``."""

from tissue_crosstalk.pipelines.recovery.pipeline import create_pipeline

__all__ = ["create_pipeline"]
