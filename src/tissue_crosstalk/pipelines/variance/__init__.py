"""Stage ``variance``."""

from tissue_crosstalk.pipelines.variance.pipeline import create_pipeline

__all__ = ["create_pipeline"]
