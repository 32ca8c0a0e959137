"""Stage ``distances``."""

from tissue_crosstalk.pipelines.distances.pipeline import create_pipeline

__all__ = ["create_pipeline"]
